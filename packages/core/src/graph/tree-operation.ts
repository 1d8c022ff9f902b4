/**
 * What the events of a tree say, and the reducer. Moves follow Kleppmann, Mulligan, Gomes and Beresford, "A
 * highly- available move operation for replicated trees" (2022): operations are folded in one order, and one
 * that would make a cycle at its place changes nothing. It stays in the history, so it counts when that order
 * or an undo makes it possible.
 *
 * Invariants: no operation makes a cycle or takes a node away; deleting hangs it in the trash with all below
 * it.
 */

import type { GraphEvent } from "./event.js";
import { base36, isPosition } from "./tree-position.js";
import { isMap, isNodeId, ROOT, TRASH, type TreeState } from "./tree-state.js";

/** Plain data: see `GraphEvent`. */
export type Attributes = Readonly<Record<string, unknown>>;

export type TreeOperation =
  | {
      readonly op: "put";
      /** Absent: made from the id of the event. */
      readonly id?: string;
      readonly parent: string;
      readonly run: string;
      readonly at: number;
      readonly attributes: Attributes;
    }
  | {
      readonly op: "update";
      readonly id: string;
      readonly set?: Attributes;
      readonly unset?: readonly string[];
    }
  | {
      readonly op: "move";
      readonly id: string;
      readonly parent: string;
      readonly run: string;
      readonly at: number;
    }
  | { readonly op: "delete"; readonly id: string };

/** The id of a node that was put without one. */
export function madeId({
  replica,
  sequence,
}: {
  readonly replica: string;
  readonly sequence: number;
}): string {
  return `${replica}.${base36(sequence)}`;
}

/** Throws a `TypeError` for what is no operation. */
export function checkOperation(operation: TreeOperation): void {
  if (!isMap(operation)) throw new TypeError("not an operation on a tree");
  const { op, id, parent, run, at, attributes, set, unset } = operation as Record<string, unknown>;
  if (!isNodeId(id) && !(op === "put" && id === undefined)) throw new TypeError("not a node id");
  switch (op) {
    case "put":
      if (!isMap(attributes)) throw new TypeError("not attributes");
      checkPlace(parent, run, at);
      return;
    case "move":
      checkPlace(parent, run, at);
      return;
    case "update":
      if (set !== undefined && !isMap(set)) throw new TypeError("not attributes");
      if (unset === undefined) return;
      if (!Array.isArray(unset) || !unset.every((key) => typeof key === "string"))
        throw new TypeError("not keys");
      return;
    case "delete":
      return;
    default:
      throw new TypeError("not an operation on a tree");
  }
}

function checkPlace(parent: unknown, run: unknown, at: unknown): void {
  if (parent !== ROOT && !isNodeId(parent)) throw new TypeError("not a node id");
  if (!isPosition(run, at)) throw new TypeError("not a position");
}

/** The same state when the operation changes nothing. */
export function applyOperation(
  state: TreeState,
  operation: TreeOperation,
  event: Pick<GraphEvent, "replica" | "sequence">,
): TreeState {
  const id = operation.id ?? madeId(event);
  const node = state.get(id);
  switch (operation.op) {
    case "put": {
      if (!takes(state, operation.parent, node === undefined ? undefined : id)) return state;
      const fresh = node?.parent === TRASH ? abandonChildren(state, id) : state;
      return fresh.put(id, operation.parent, operation, operation.attributes);
    }
    case "update":
      return node === undefined ? state : state.update(node, updated(node.attributes, operation));
    case "move":
      if (node === undefined || !takes(state, operation.parent, id)) return state;
      return state.move(node, operation.parent, operation);
    case "delete":
      return node === undefined || node.parent === TRASH ? state : state.delete(node);
  }
}

/** True when the node may hang there: the place exists, and is not below the node. */
function takes(state: TreeState, parent: string, id: string | undefined): boolean {
  if (parent === ROOT) return true;
  return state.get(parent) !== undefined && (id === undefined || !state.hangsOn(id, parent));
}

/** A deleted id that is put again is a new node: what hung on the old one stays in the trash. */
function abandonChildren(state: TreeState, id: string): TreeState {
  let next = state;
  for (const child of [...state.children(id)]) next = next.delete(child);
  return next;
}

function updated(
  attributes: Attributes,
  { set, unset }: { set?: Attributes; unset?: readonly string[] },
): Attributes {
  const next: Record<string, unknown> = { ...attributes, ...set };
  for (const key of unset ?? []) delete next[key];
  return next;
}
