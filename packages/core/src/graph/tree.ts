/**
 * `tree()`: ordered trees that many edit at once, on the event graph.
 *
 * Invariants: there is never a cycle and nothing is lost: what was deleted lies in the trash until every
 * later event has seen the deletion. Two runs of insertions at one place do not mix. What a call refuses it
 * has not done.
 */

import { type Env, systemEnv } from "../base/env.js";
import { CoppiceError } from "../base/errors.js";
import { checkOptions, type OptionKinds } from "../base/options.js";
import { GraphDocument } from "./document.js";
import type { EventId } from "./event.js";
import { type GraphModel, makeModel, windowOf } from "./model.js";
import {
  type Attributes,
  applyOperation,
  checkOperation,
  madeId,
  type TreeOperation,
} from "./tree-operation.js";
import { type Position, positionBetween } from "./tree-position.js";
import { isNodeId, ROOT, type StoredNode, TreeState } from "./tree-state.js";

/**
 * Deleted nodes that are worth the replay that dropping them costs: so many, and one in so many of all. Fewer
 * wait for so many moves of the base.
 */
const DELETED_MIN = 512;
const DELETED_SHARE = 3;
const BASES_MAX = 8;

export interface TreeNode {
  readonly id: string;
  /** `"root"` for a node at the top. */
  readonly parent: string;
  readonly attributes: Attributes;
}

/** A node and all below it as plain data. */
export interface TreeData {
  /** Absent: made when it is put. */
  readonly id?: string;
  /** Absent: none. */
  readonly attributes?: Attributes;
  readonly children?: readonly TreeData[];
}

/**
 * Where a node is put or moved: at `index` of the parent's children, beside one of them, or (default) at
 * their end.
 */
export interface Placement {
  /** Default: the root; with `before` or `after`, their parent. */
  readonly parent?: string;
  readonly index?: number;
  readonly before?: string;
  readonly after?: string;
}

/** A tree to look at: the present one, or that of a version. */
export class TreeView {
  readonly #state: () => TreeState;

  /** @internal */
  constructor(state: () => TreeState) {
    this.#state = state;
  }

  /** The node; `undefined` when there is none, or it is deleted. O(depth). */
  get(id: string): TreeNode | undefined {
    const state = this.#state();
    return state.isLive(id) ? nodeOf(state.get(id)) : undefined;
  }

  has(id: string): boolean {
    return this.get(id) !== undefined;
  }

  /** The nodes directly below, in order; of the root by default. Empty for one that does not exist. */
  children(parent: string = ROOT): TreeNode[] {
    const state = this.#state();
    return state.isLive(parent) ? state.children(parent).map((node) => nodeOf(node)!) : [];
  }

  /** The nodes above it, the top one first. Empty for one that does not exist. */
  path(id: string): TreeNode[] {
    const path: TreeNode[] = [];
    let node = this.get(id);
    while (node !== undefined && node.parent !== ROOT) {
      node = nodeOf(this.#state().get(node.parent));
      if (node !== undefined) path.unshift(node);
    }
    return path;
  }

  /** All nodes, each before its children, for which `wanted` holds. */
  find(wanted: (node: TreeNode) => boolean = () => true): TreeNode[] {
    const state = this.#state();
    const found: TreeNode[] = [];
    const waiting = [...state.children(ROOT)].reverse();
    for (let node = waiting.pop(); node !== undefined; node = waiting.pop()) {
      const view = nodeOf(node)!;
      if (wanted(view)) found.push(view);
      const children = state.children(node.id);
      for (let i = children.length - 1; i >= 0; i--) waiting.push(children[i]!);
    }
    return found;
  }

  /** Everything below as plain data; `fromData` of it makes the same tree again. */
  toData(parent: string = ROOT): TreeData[] {
    const top: TreeData[] = [];
    const waiting: { readonly id: string; readonly into: TreeData[] }[] = [{ id: parent, into: top }];
    for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
      for (const { id, attributes } of this.children(next.id)) {
        const children: TreeData[] = [];
        next.into.push({ id, attributes, children });
        waiting.push({ id, into: children });
      }
    }
    return top;
  }
}

/** A live tree. Its edits are events; see `GraphDocument` for `change`, `undo`, `redo` and the history. */
export class TreeDocument extends GraphDocument<TreeState, TreeOperation> {
  readonly #view = new TreeView(() => this.state);

  /** See `TreeView`. */
  get(id: string): TreeNode | undefined {
    return this.#view.get(id);
  }

  has(id: string): boolean {
    return this.#view.has(id);
  }

  children(parent?: string): TreeNode[] {
    return this.#view.children(parent);
  }

  path(id: string): TreeNode[] {
    return this.#view.path(id);
  }

  find(wanted?: (node: TreeNode) => boolean): TreeNode[] {
    return this.#view.find(wanted);
  }

  toData(parent?: string): TreeData[] {
    return this.#view.toData(parent);
  }

  /** The tree at a version. Throws as `stateAt` does. */
  at(version: readonly EventId[]): TreeView {
    const state = this.stateAt(version);
    return new TreeView(() => state);
  }

  /**
   * Adds a node, and returns its id. Throws `ARGUMENT_INVALID` for an id that is taken or was deleted lately,
   * for a place that does not exist, and for attributes that are not plain data.
   */
  put({
    id,
    attributes = {},
    ...placement
  }: Placement & { id?: string; attributes?: Attributes } = {}): string {
    if (id !== undefined && !isNodeId(id))
      throw invalid("not a node id: a text of 1 to 256 characters but root", { id });
    if (id !== undefined && this.state.get(id) !== undefined) throw invalid("the id is taken", { id });
    const { parent, position } = this.#place(placement, undefined);
    const event = this.#do({
      op: "put",
      ...(id === undefined ? {} : { id }),
      parent,
      run: position.run,
      at: position.at,
      attributes: { ...attributes },
    });
    return id ?? madeId(event);
  }

  /**
   * Sets attributes; those that are `undefined` are removed. Of concurrent updates the later in order wins,
   * each.
   */
  update(id: string, attributes: Attributes): void {
    this.#require(id);
    const unset = Object.keys(attributes).filter((key) => attributes[key] === undefined);
    const set = Object.fromEntries(Object.entries(attributes).filter(([, value]) => value !== undefined));
    this.#do({ op: "update", id, set, ...(unset.length === 0 ? {} : { unset }) });
  }

  /**
   * Hangs a node, with all below it, elsewhere. Throws `ARGUMENT_INVALID` for a place below the node itself.
   */
  move(id: string, placement: Placement): void {
    this.#require(id);
    const { parent, position } = this.#place(placement, id);
    this.#do({ op: "move", id, parent, run: position.run, at: position.at });
  }

  /** Deletes a node with all below it. Somebody who moves a part of it elsewhere at once keeps that part. */
  delete(id: string): void {
    this.#require(id);
    this.#do({ op: "delete", id });
  }

  /** Adds nodes with all below them, one after the other, as one step; returns the ids at the top. */
  fromData(data: readonly TreeData[], placement: Placement = {}): string[] {
    return this.change(() => {
      let place: Placement = placement;
      return data.map(({ id, attributes = {}, children = [] }) => {
        const made = this.put({ ...place, ...(id === undefined ? {} : { id }), attributes });
        place = { after: made };
        this.fromData(children, { parent: made });
        return made;
      });
    });
  }

  #do(operation: TreeOperation): EventId {
    try {
      return this.emit(operation);
    } catch (error) {
      if (error instanceof TypeError) throw invalid(error.message, { op: operation.op }, error);
      throw error;
    }
  }

  #require(id: string): StoredNode {
    const node = this.state.isLive(id) ? this.state.get(id) : undefined;
    if (node === undefined) throw invalid("there is no such node", { id });
    return node;
  }

  #place(placement: Placement, moved: string | undefined): { parent: string; position: Position } {
    const { before, after, index } = placement;
    const beside = before ?? after;
    const parent = beside === undefined ? (placement.parent ?? ROOT) : this.#require(beside).parent;
    if (placement.parent !== undefined && placement.parent !== parent) {
      throw invalid("the sibling has another parent", { id: beside, parent: placement.parent });
    }
    if (parent !== ROOT) this.#require(parent);
    if (moved !== undefined && this.state.hangsOn(moved, parent)) {
      throw invalid("a node cannot be moved below itself", { id: moved, parent });
    }
    const siblings = this.state.children(parent);
    if (moved === undefined && beside === undefined && (index === undefined || index >= siblings.length)) {
      return { parent, position: positionBetween(siblings.at(-1), undefined, this.replica) };
    }
    const others = siblings.filter(({ id }) => id !== moved);
    let at = Math.min(index ?? others.length, others.length);
    if (beside !== undefined)
      at = others.findIndex(({ id }) => id === beside) + (before === undefined ? 1 : 0);
    if (!Number.isSafeInteger(at) || at < 0)
      throw invalid("not a place among the siblings", { index, id: beside });
    return { parent, position: positionBetween(others[at - 1], others[at], this.replica) };
  }
}

export interface TreeOptions {
  /** See `GraphOptions`. */
  readonly window?: number;
  readonly env?: Pick<Env, "now" | "random">;
}

/** The model that `tree()` makes. */
export type TreeModel = GraphModel<TreeState, TreeOperation, TreeDocument>;

const OPTIONS: OptionKinds<TreeOptions> = { window: "number", env: "any" };

/** Keeps ordered trees. Throws a `TypeError` for a window that cannot be. */
export function tree(options: TreeOptions = {}): TreeModel {
  checkOptions("tree", options, OPTIONS);
  return makeModel<TreeState, TreeOperation, TreeDocument>({
    name: "tree",
    reducer: {
      initial: () => TreeState.empty(),
      apply: applyOperation,
      check: checkOperation,
      settle: (state, count) => (isFull(state, count) ? state.withoutTrash() : state),
      version: 1,
    },
    states: { encode: (state) => state.encode(), decode: (bytes) => TreeState.decode(bytes) },
    stateFormats: [1],
    window: windowOf(options.window),
    env: options.env ?? systemEnv(),
    make: (history, tools) => new TreeDocument(history, tools),
  });
}

/** A function of the state and the number of events: every replica drops the same nodes at the same place. */
function isFull({ deletedCount, count: nodeCount }: TreeState, count: number): boolean {
  if (deletedCount >= DELETED_MIN && deletedCount * DELETED_SHARE >= nodeCount) return true;
  return deletedCount > 0 && count % BASES_MAX === 0;
}

function nodeOf(node: StoredNode | undefined): TreeNode | undefined {
  return node && { id: node.id, parent: node.parent, attributes: node.attributes };
}

function invalid(message: string, details: Record<string, unknown>, cause?: unknown): CoppiceError {
  return new CoppiceError(
    "ARGUMENT_INVALID",
    message,
    cause === undefined ? { details } : { details, cause },
  );
}
