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
import { base36, comparePositions, isPosition, type Position } from "./tree-position.js";
import { ValueReader, ValueWriter } from "./values.js";

export const ROOT = "root";
/** What was deleted hangs here, so that nothing is lost while somebody may still move or restore it. */
export const TRASH = "";

/** The place of an id in a store: its node, and what hangs on it, in order. */
export interface Cell {
  readonly id: string;
  node: StoredNode | undefined;
  /** Places of nodes: a node that only gets other attributes stays where it is. */
  children: readonly Cell[];
}

export interface StoredNode extends Position {
  readonly id: string;
  readonly parent: string;
  readonly attributes: Readonly<Record<string, unknown>>;
  /** Its own place, and that of its parent. */
  readonly cell: Cell;
  readonly above: Cell;
}

interface Store {
  readonly cells: Map<string, Cell>;
}

const ID_LENGTH_MAX = 256;
const MADE_ID = /^([0-9a-v]{12})\.([0-9a-z]{1,10})$/;

export class TreeState {
  #store: Store | undefined;
  /** Without a store: this state is the newer one with this node in this place. */
  #cell: Cell | undefined;
  #node: StoredNode | undefined;
  #newer: TreeState | undefined;
  /** Nodes, those in the trash included. */
  readonly count: number;
  /** Nodes that hang directly in the trash: what was deleted, without what hung on it. */
  readonly deletedCount: number;

  private constructor(store: Store, count: number, deletedCount: number) {
    this.#store = store;
    this.count = count;
    this.deletedCount = deletedCount;
  }

  static empty(): TreeState {
    return new TreeState(emptyStore(), 0, 0);
  }

  get(id: string): StoredNode | undefined {
    return this.#hold().cells.get(id)?.node;
  }

  /** In order. */
  children(parent: string): StoredNode[] {
    return (
      this.#hold()
        .cells.get(parent)
        ?.children.map(({ node }) => node!) ?? []
    );
  }

  /** True when the node hangs on the root. */
  isLive(id: string): boolean {
    if (id === ROOT) return true;
    let node = this.get(id);
    while (node?.above.node !== undefined) node = node.above.node;
    return node?.parent === ROOT;
  }

  /** True when `id` is `below`, or hangs below it. */
  hangsOn(below: string, id: string): boolean {
    let cell = this.#hold().cells.get(id);
    while (cell !== undefined && cell.id !== below) cell = cell.node?.above;
    return cell !== undefined;
  }

  /** The state with a node of this id, instead of the one that it has. The parent must exist. */
  put(
    id: string,
    parent: string,
    position: Position,
    attributes: Readonly<Record<string, unknown>>,
  ): TreeState {
    const { cells } = this.#hold();
    const cell = cells.get(id) ?? { id, node: undefined, children: LEAF };
    if (cell.node === undefined) cells.set(id, cell);
    return this.#with(storedNode(cell, cells.get(parent)!, position, attributes));
  }

  /** The state with this node elsewhere. */
  move({ cell, attributes }: StoredNode, parent: string, position: Position): TreeState {
    return this.#with(storedNode(cell, this.#hold().cells.get(parent)!, position, attributes));
  }

  /** The state with this node in the trash. */
  delete(node: StoredNode): TreeState {
    return this.#with({ ...node, parent: TRASH, above: this.#hold().cells.get(TRASH)! });
  }

  /** The state with other attributes of this node. */
  update(node: StoredNode, attributes: Readonly<Record<string, unknown>>): TreeState {
    const { id, parent, run, at, cell, above } = node;
    return this.#with({ id, parent, run, at, attributes, cell, above });
  }

  /** The state without what is in the trash: a store of its own. */
  withoutTrash(): TreeState {
    const store = emptyStore();
    const top = this.#hold().cells.get(ROOT)!;
    const waiting: [from: readonly Cell[], into: Cell][] = [[top.children, store.cells.get(ROOT)!]];
    for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
      for (const { id, node, children } of next[0]) {
        const cell = hang(store, id, next[1], node!, node!.attributes);
        if (children.length > 0) waiting.push([children, cell]);
      }
    }
    return new TreeState(store, store.cells.size - 2, 0);
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
    const store = emptyStore();
    const cells = [store.cells.get(ROOT)!, store.cells.get(TRASH)!];
    for (let i = 0; i < count; i++) cells.push(readNode(values, store, cells));
    if (reader.left > 0) throw new TypeError("bytes follow the tree");
    return new TreeState(store, count, cells[1]!.children.length);
  }

  /** Must hold the store. */
  #with(node: StoredNode): TreeState {
    const store = this.#hold();
    const { cell } = node;
    const before = replace(cell, node);
    const deleted = (node.parent === TRASH ? 1 : 0) - (before?.parent === TRASH ? 1 : 0);
    const count = this.count + (before === undefined ? 1 : 0);
    const next = new TreeState(store, count, this.deletedCount + deleted);
    this.#leave(next, cell, before);
    return next;
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
      const cell = state.#cell!;
      const before = replace(cell, state.#node);
      state.#store = store;
      state.#newer = undefined;
      state.#node = undefined;
      holder.#leave(state, cell, before);
      holder = state;
    }
    return store;
  }

  #leave(newer: TreeState, cell: Cell, node: StoredNode | undefined): void {
    this.#store = undefined;
    this.#newer = newer;
    this.#cell = cell;
    this.#node = node;
  }
}

export function isNodeId(id: unknown): id is string {
  return typeof id === "string" && id !== TRASH && id !== ROOT && id.length <= ID_LENGTH_MAX;
}

export function isMap(value: unknown): value is Readonly<Record<string, unknown>> {
  return (
    typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array)
  );
}

function emptyStore(): Store {
  const cells = new Map<string, Cell>();
  for (const id of [ROOT, TRASH]) cells.set(id, { id, node: undefined, children: LEAF });
  return { cells };
}

function storedNode(
  cell: Cell,
  above: Cell,
  { run, at }: Position,
  attributes: Readonly<Record<string, unknown>>,
): StoredNode {
  return { id: cell.id, parent: above.id, run, at, attributes, cell, above };
}

/** Hangs a node that is new in the store behind its siblings. */
function hang(
  store: Store,
  id: string,
  above: Cell,
  position: Position,
  attributes: Readonly<Record<string, unknown>>,
): Cell {
  const cell: Cell = { id, node: undefined, children: LEAF };
  cell.node = storedNode(cell, above, position, attributes);
  insert(above, above.children.length, cell);
  store.cells.set(id, cell);
  return cell;
}

function readNode(values: ValueReader, store: Store, cells: readonly Cell[]): Cell {
  const made = values.read();
  const text = values.read();
  if (typeof text !== "string") throw new TypeError("not a node id");
  if (made !== null && !(Number.isSafeInteger(made) && (made as number) >= 0))
    throw new TypeError("not a node id");
  const id = made === null ? text : `${text}.${base36(made as number)}`;
  const above = cells[values.read() as number];
  const [run, at, attributes] = [values.read(), values.read(), values.read()];
  if (!isNodeId(id) || above === undefined) throw new TypeError("not a node");
  const last = above.children.at(-1)?.node;
  if (last?.run === run ? !Number.isSafeInteger(at) : !isPosition(run, at))
    throw new TypeError("not a position");
  if (!isMap(attributes)) throw new TypeError("not attributes");
  const { size } = store.cells;
  const cell = hang(store, id, above, { run: run as string, at: at as number }, attributes);
  if (store.cells.size === size) throw new TypeError("a node occurs twice");
  if (last !== undefined && compareNodes(last, cell.node!) >= 0)
    throw new TypeError("siblings are out of order");
  return cell;
}

/** Returns what was there. */
function replace(cell: Cell, node: StoredNode | undefined): StoredNode | undefined {
  const before = cell.node;
  if (before !== undefined && node !== undefined && before.above === node.above && samePlace(before, node)) {
    cell.node = node;
    return before;
  }
  if (before !== undefined)
    (before.above.children as Cell[]).splice(placeOf(before.above.children, before), 1);
  cell.node = node;
  if (node !== undefined) insert(node.above, placeOf(node.above.children, node), cell);
  return before;
}

/** What most nodes have for children; a list of their own only comes with the first. */
const LEAF: readonly Cell[] = [];

function insert(above: Cell, place: number, cell: Cell): void {
  const children = above.children as Cell[];
  if (children.length === 0) above.children = [cell];
  else if (place === children.length) children.push(cell);
  else children.splice(place, 0, cell);
}

function samePlace(a: Position, b: Position): boolean {
  return a.run === b.run && a.at === b.at;
}

/** Where the node stands, or would stand. */
function placeOf(siblings: readonly Cell[], node: StoredNode): number {
  let [low, high] = [0, siblings.length];
  if (high > 0 && compareNodes(siblings[high - 1]!.node!, node) < 0) return high;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compareNodes(siblings[middle]!.node!, node) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

function compareNodes(a: StoredNode, b: StoredNode): number {
  const byPosition = comparePositions(a, b);
  if (byPosition !== 0) return byPosition;
  return a.id === b.id ? 0 : a.id < b.id ? -1 : 1;
}
