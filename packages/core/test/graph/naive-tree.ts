/**
 * A twin of `tree()` that shares no code with it: it sorts all events, leaves out what is undone, and does
 * what is left to a plain map. Only how two positions compare is the same: as texts.
 */

import type { GraphEvent, TreeOperation } from "coppice";

export interface PlainNode {
  readonly id: string;
  readonly attributes: Record<string, unknown>;
  readonly children: readonly PlainNode[];
}

interface Hanging {
  parent: string;
  run: string;
  at: number;
  attributes: Record<string, unknown>;
}

export function naiveTree(events: readonly GraphEvent<TreeOperation>[]): PlainNode[] {
  const sorted = [...events].sort(
    (a, b) => a.lamport - b.lamport || (a.replica < b.replica ? -1 : 1) || a.sequence - b.sequence,
  );
  const nodes = new Map<string, Hanging>();
  for (const event of sorted) {
    if (event.cancels === undefined && !isUndone(event, sorted)) step(nodes, event.payload, event);
  }
  return below(nodes, "root");
}

function isUndone({ replica, sequence }: GraphEvent, sorted: readonly GraphEvent[]): boolean {
  const about = sorted.filter(
    ({ cancels }) => cancels?.replica === replica && cancels.from <= sequence && sequence < cancels.to,
  );
  return about.at(-1)?.cancels?.undone === true;
}

function step(nodes: Map<string, Hanging>, operation: TreeOperation, event: GraphEvent): void {
  const id = operation.id ?? `${event.replica}.${event.sequence.toString(36)}`;
  const node = nodes.get(id);
  if (operation.op === "put" || operation.op === "move") {
    const { parent, run, at } = operation;
    if (parent !== "root" && !nodes.has(parent)) return;
    for (let up: string | undefined = parent; up !== undefined; up = nodes.get(up)?.parent)
      if (up === id) return;
    if (operation.op === "put") nodes.set(id, { parent, run, at, attributes: { ...operation.attributes } });
    else if (node !== undefined) Object.assign(node, { parent, run, at });
  } else if (node !== undefined && operation.op === "delete") node.parent = "trash";
  else if (node !== undefined && operation.op === "update") {
    node.attributes = { ...node.attributes, ...operation.set };
    for (const key of operation.unset ?? []) delete node.attributes[key];
  }
}

function below(nodes: ReadonlyMap<string, Hanging>, parent: string): PlainNode[] {
  return [...nodes]
    .filter(([, node]) => node.parent === parent)
    .sort(([a, x], [b, y]) => (keyOf(x) === keyOf(y) ? (a < b ? -1 : 1) : keyOf(x) < keyOf(y) ? -1 : 1))
    .map(([id, { attributes }]) => ({ id, attributes, children: below(nodes, id) }));
}

/** Numbers are written so that texts sort as they do: sign and length first. */
function keyOf({ run, at }: Hanging): string {
  const digits = (at < 0 ? -1 - at : at).toString(36);
  const complement = (length: number) => (36 ** length + at).toString(36).padStart(length, "0");
  const head = at < 0 ? 91 - digits.length : 96 + digits.length;
  return run + String.fromCharCode(head) + (at < 0 ? complement(digits.length) : digits);
}
