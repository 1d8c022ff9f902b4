/**
 * The state of a tree: nodes by id, and the children of each in order. A state never changes; the next one is
 * made by `with`, at the cost of one node.
 *
 * All states that come from one another share one store, which holds the newest that was asked; the others
 * remember how they differ from their neighbour (Baker, "Shallow binding makes functional arrays fast",
 * 1991). Asking an older state turns the store back step by step, so going on where one is costs nothing
 * extra.
 *
 * | bytes    | for each node, parents before children, siblings in order                        |
 * | -------- | -------------------------------------------------------------------------------- |
 * | head     | value: count of nodes                                                            |
 * | id       | values: sequence and replica of a made id; or null and the id                    |
 * | parent   | value: 0 root, 1 trash, else 2 + the number of the node it hangs on              |
 * | position | values: run, at                                                                  |
 * | content  | value: the attributes                                                            |
 *
 * Invariants: every node hangs, through existing nodes, on the root or in the trash; there is no cycle.
 */

import { Reader } from "../base/bytes.js";
import { isPosition, type Position, positionKey } from "./tree-position.js";
import { ValueReader, ValueWriter } from "./values.js";

export const ROOT = "root";
/** What was deleted hangs here, so that nothing is lost while somebody may still move or restore it. */
export const TRASH = "";

export interface StoredNode extends Position {
  readonly id: string;
  readonly parent: string;
  readonly key: string;
  readonly attributes: Readonly<Record<string, unknown>>;
}

interface Store {
  readonly nodes: Map<string, StoredNode>;
  readonly children: Map<string, StoredNode[]>;
}

const NONE: readonly StoredNode[] = [];
const ID_LENGTH_MAX = 256;
const MADE_ID = /^([0-9a-v]{12})\.([0-9a-z]{1,10})$/;

export class TreeState {
  #store: Store | undefined;
  /** Without a store: this state is the newer one with this node in place of its own. */
  #id = "";
  #node: StoredNode | undefined;
  #newer: TreeState | undefined;

  private constructor(store: Store) {
    this.#store = store;
  }

  static empty(): TreeState {
    return new TreeState({ nodes: new Map(), children: new Map() });
  }

  get(id: string): StoredNode | undefined {
    return this.#hold().nodes.get(id);
  }

  /** In order. Valid until another state is asked. */
  children(parent: string): readonly StoredNode[] {
    return this.#hold().children.get(parent) ?? NONE;
  }

  /** Nodes, those in the trash included. */
  get count(): number {
    return this.#hold().nodes.size;
  }

  /** True when the node hangs on the root. */
  isLive(id: string): boolean {
    const { nodes } = this.#hold();
    let at = id;
    while (at !== ROOT) {
      const node = nodes.get(at);
      if (node === undefined) return false;
      at = node.parent;
    }
    return true;
  }

  /** True when `id` is `below`, or hangs below it. */
  hangsOn(below: string, id: string): boolean {
    const { nodes } = this.#hold();
    for (let at: string | undefined = id; at !== undefined; at = nodes.get(at)?.parent)
      if (at === below) return true;
    return false;
  }

  /** The state with this node instead of the one of its id. */
  with(node: StoredNode): TreeState {
    const store = this.#hold();
    const next = new TreeState(store);
    this.#leave(next, node.id, replace(store, node.id, node));
    return next;
  }

  /**
   * The state without what is in the trash: a store of its own. The same state when there is nothing in it.
   */
  withoutTrash(): TreeState {
    if (this.children(TRASH).length === 0) return this;
    const store: Store = { nodes: new Map(), children: new Map() };
    const waiting = [ROOT];
    for (let parent = waiting.pop(); parent !== undefined; parent = waiting.pop()) {
      const nodes = this.children(parent);
      if (nodes.length === 0) continue;
      store.children.set(parent, [...nodes]);
      for (const node of nodes) {
        store.nodes.set(node.id, node);
        waiting.push(node.id);
      }
    }
    return new TreeState(store);
  }

  encode(): Uint8Array {
    const writer = new ValueWriter().write(this.count);
    const numbers = new Map([
      [ROOT, 0],
      [TRASH, 1],
    ]);
    const waiting = [...this.children(TRASH)].reverse().concat([...this.children(ROOT)].reverse());
    for (let node = waiting.pop(); node !== undefined; node = waiting.pop()) {
      const [, replica, sequence] = MADE_ID.exec(node.id) ?? [];
      const made = sequence === undefined ? undefined : Number.parseInt(sequence, 36);
      if (made?.toString(36) === sequence && replica !== undefined) writer.write(made).write(replica);
      else writer.write(null).write(node.id);
      writer.write(numbers.get(node.parent)!).write(node.run).write(node.at).write(node.attributes);
      numbers.set(node.id, numbers.size);
      const children = this.children(node.id);
      for (let i = children.length - 1; i >= 0; i--) waiting.push(children[i]!);
    }
    return writer.finish();
  }

  /** Throws a `TypeError` or `RangeError` for bytes that are no tree. */
  static decode(bytes: Uint8Array): TreeState {
    const reader = new Reader(bytes);
    const values = new ValueReader(reader);
    const count = values.read();
    if (typeof count !== "number" || !(count >= 0 && count <= reader.left))
      throw new RangeError("more nodes than bytes");
    const store: Store = { nodes: new Map(), children: new Map() };
    const ids = [ROOT, TRASH];
    for (let i = 0; i < count; i++) {
      const node = readNode(values, ids);
      const siblings = store.children.get(node.parent);
      if (siblings === undefined) store.children.set(node.parent, [node]);
      else {
        if (compareNodes(siblings.at(-1)!, node) >= 0) throw new TypeError("siblings are out of order");
        siblings.push(node);
      }
      if (store.nodes.has(node.id)) throw new TypeError("a node occurs twice");
      store.nodes.set(node.id, node);
      ids.push(node.id);
    }
    if (reader.left > 0) throw new TypeError("bytes follow the tree");
    return new TreeState(store);
  }

  /** Turns the store to this state. */
  #hold(): Store {
    if (this.#store !== undefined) return this.#store;
    const path: TreeState[] = [];
    let holder: TreeState = this;
    while (holder.#store === undefined) {
      path.push(holder);
      holder = holder.#newer!;
    }
    const store = holder.#store;
    for (let state = path.pop(); state !== undefined; state = path.pop()) {
      const id = state.#id;
      const before = replace(store, id, state.#node);
      state.#store = store;
      state.#newer = undefined;
      state.#node = undefined;
      holder.#leave(state, id, before);
      holder = state;
    }
    return store;
  }

  #leave(newer: TreeState, id: string, node: StoredNode | undefined): void {
    this.#store = undefined;
    this.#newer = newer;
    this.#id = id;
    this.#node = node;
  }
}

export function isNodeId(id: unknown): id is string {
  return typeof id === "string" && id !== TRASH && id !== ROOT && id.length <= ID_LENGTH_MAX;
}

export function storedNode(
  id: string,
  parent: string,
  position: Position,
  attributes: Readonly<Record<string, unknown>>,
): StoredNode {
  return { id, parent, run: position.run, at: position.at, key: positionKey(position), attributes };
}

function readNode(values: ValueReader, ids: readonly string[]): StoredNode {
  const made = values.read();
  const text = values.read();
  if (typeof text !== "string") throw new TypeError("not a node id");
  const id = made === null ? text : `${text}.${(made as number).toString(36)}`;
  const parent = ids[values.read() as number];
  const [run, at, attributes] = [values.read(), values.read(), values.read()];
  if (!isNodeId(id) || parent === undefined) throw new TypeError("not a node");
  if (!isPosition(run, at)) throw new TypeError("not a position");
  if (!isMap(attributes)) throw new TypeError("not attributes");
  return storedNode(id, parent, { run: run as string, at: at as number }, attributes);
}

export function isMap(value: unknown): value is Readonly<Record<string, unknown>> {
  return (
    typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array)
  );
}

/** Returns what was there. */
function replace(store: Store, id: string, node: StoredNode | undefined): StoredNode | undefined {
  const before = store.nodes.get(id);
  if (
    before !== undefined &&
    node !== undefined &&
    before.parent === node.parent &&
    before.key === node.key
  ) {
    const siblings = store.children.get(node.parent)!;
    siblings[placeOf(siblings, before)] = node;
    store.nodes.set(id, node);
    return before;
  }
  if (before !== undefined) {
    const siblings = store.children.get(before.parent)!;
    if (siblings.length === 1) store.children.delete(before.parent);
    else siblings.splice(placeOf(siblings, before), 1);
  }
  if (node === undefined) store.nodes.delete(id);
  else {
    store.nodes.set(id, node);
    const siblings = store.children.get(node.parent);
    if (siblings === undefined) store.children.set(node.parent, [node]);
    else siblings.splice(placeOf(siblings, node), 0, node);
  }
  return before;
}

/** Where the node stands, or would stand. */
function placeOf(siblings: readonly StoredNode[], node: StoredNode): number {
  let [low, high] = [0, siblings.length];
  if (high > 0 && compareNodes(siblings[high - 1]!, node) < 0) return high;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compareNodes(siblings[middle]!, node) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

function compareNodes(a: StoredNode, b: StoredNode): number {
  if (a.key !== b.key) return a.key < b.key ? -1 : 1;
  return a.id === b.id ? 0 : a.id < b.id ? -1 : 1;
}
