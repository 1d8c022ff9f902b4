/**
 * An event graph made of what the bytes of events say of their places (`Model.links`), for documents of
 * models that keep no graph of their own.
 *
 * Events that make nothing, like deletions of Yjs, cannot be referred to, so nobody knows what came after
 * them: they are counted with the newest event that they came after, and are no part of the order. The same
 * holds for events that were stored before.
 *
 * Invariants: each event comes after its parents, and no parent is an ancestor of another; an event is an
 * ancestor only if the links say so. Where links are not complete, more may have come before than is drawn.
 */

import type { EventLinks } from "../contract/model.js";
import type { EventId } from "./event.js";

/** A stored event and its links. */
export interface LinkedEvent {
  /** Clock before the event. */
  readonly clock: number;
  readonly time: number;
  readonly links: EventLinks;
}

/** An event of the drawing. Its `sequence` is its number in the document, from 1: the clock after it. */
export interface CausalEvent extends EventId {
  readonly parents: readonly EventId[];
  readonly time: number;
  /** Events that make nothing and are counted with this one. */
  readonly attached: number;
}

export interface CausalGraph {
  /** Each after its parents. A parent that was not given is of no replica. */
  readonly events: readonly CausalEvent[];
  /** Events at which every one up to it happened before every one after it, the oldest first. */
  readonly critical: readonly EventId[];
  /** Events that make nothing, and came after nothing that was given. */
  readonly unplaced: number;
}

interface Node extends LinkedEvent {
  /** Makers of points that it also brings. */
  readonly known: Set<Node>;
  attached: number;
  /** Place in the order; -1 until it has one. */
  place: number;
}

const NOBODY: EventId = { replica: "", sequence: 0 };

/** The graph of these events, in the order of the log. O(n²/32) words of memory and steps for n of them. */
export function causalGraph(stored: readonly LinkedEvent[]): CausalGraph {
  const makers = new Makers();
  const nodes: Node[] = [];
  const makingNothing: LinkedEvent[] = [];
  for (const event of stored) {
    const node: Node = { ...event, known: new Set(), attached: 0, place: -1 };
    if (makers.add(node)) nodes.push(node);
    else makingNothing.push(event);
  }
  const before = new Map(nodes.map((node) => [node, makers.before(node)]));
  const order = ordered(nodes, before);
  order.forEach((node, place) => {
    node.place = place;
  });
  let unplaced = 0;
  for (const event of makingNothing) {
    const newest = newestOf(makers.before({ ...event, known: makers.makersOf(event) }).nodes);
    if (newest === undefined) unplaced++;
    else newest.attached++;
  }
  const parents = directParents(order, before);
  const events = order.map(({ links, clock, time, attached }, place) => {
    const known = [...parents[place]!].reverse().map((parent) => idOf(order[parent]!));
    const isCut = known.length === 0 && before.get(order[place]!)!.isCut;
    return {
      replica: links.replica,
      sequence: clock + 1,
      parents: isCut ? [NOBODY] : known,
      time,
      attached,
    };
  });
  return { events, critical: criticalPlaces(parents).map((place) => idOf(order[place]!)), unplaced };
}

function idOf({ links: { replica }, clock }: LinkedEvent): EventId {
  return { replica, sequence: clock + 1 };
}

/** What comes before an event: those that are here, and whether some are not. */
interface Before {
  readonly nodes: ReadonlySet<Node>;
  readonly isCut: boolean;
}

interface Interval {
  readonly from: number;
  readonly to: number;
  readonly node: Node;
}

/** Who made each point; of several, the first in the log. */
class Makers {
  /** By name, ascending and apart. */
  readonly #intervals = new Map<string, Interval[]>();

  /** Whether the event makes a point that nobody made before it in the log. */
  add(node: Node): boolean {
    let isNew = false;
    for (const { name, from, to } of node.links.makes) {
      const intervals = this.#intervals.get(name) ?? [];
      this.#intervals.set(name, intervals);
      let at = firstAfter(intervals, from);
      let next = from;
      while (next < to) {
        const interval = intervals[at];
        if (interval !== undefined && interval.from <= next) {
          if (interval.node !== node) node.known.add(interval.node);
          next = interval.to;
        } else {
          const end = Math.min(to, interval?.from ?? to);
          intervals.splice(at, 0, { from: next, to: end, node });
          isNew = true;
          next = end;
        }
        at++;
      }
    }
    return isNew;
  }

  makersOf({ links }: LinkedEvent): Set<Node> {
    const found = new Set<Node>();
    for (const { name, from, to } of links.makes) {
      const intervals = this.#intervals.get(name) ?? [];
      for (let at = firstAfter(intervals, from); at < intervals.length && intervals[at]!.from < to; at++)
        found.add(intervals[at]!.node);
    }
    return found;
  }

  before(node: Pick<Node, "links" | "known">): Before {
    const nodes = new Set(node.known);
    let isCut = false;
    const look = (name: string, point: number) => {
      const intervals = this.#intervals.get(name) ?? [];
      const interval = intervals[firstAfter(intervals, point)];
      if (interval === undefined || interval.from > point) isCut = true;
      else if (interval.node !== node) nodes.add(interval.node);
    };
    for (const { name, from } of node.links.makes) if (from > 0) look(name, from - 1);
    for (const { name, at } of node.links.after) look(name, at);
    return { nodes, isCut };
  }
}

/** The first interval that ends after the point. */
function firstAfter(intervals: readonly Interval[], point: number): number {
  let [low, high] = [0, intervals.length];
  if (high === 0 || intervals[high - 1]!.to <= point) return high;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (intervals[middle]!.to <= point) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * Each after those before it, else as in the log: an event that waited for others comes after them. What goes
 * round in a circle, which no honest author makes, stays as it is in the log.
 */
function ordered(nodes: readonly Node[], before: ReadonlyMap<Node, Before>): Node[] {
  const order: Node[] = [];
  const missing = new Map<Node, number>();
  const waiting = new Map<Node, Node[]>();
  const placed = new Set<Node>();
  const put = (first: Node) => {
    for (const ready = [first]; ready.length > 0; ) {
      const node = ready.shift()!;
      placed.add(node);
      order.push(node);
      for (const after of waiting.get(node) ?? []) {
        const left = missing.get(after)! - 1;
        missing.set(after, left);
        if (left === 0) ready.push(after);
      }
    }
  };
  for (const node of nodes) {
    const open = [...before.get(node)!.nodes].filter((parent) => !placed.has(parent));
    if (open.length === 0) put(node);
    else {
      missing.set(node, open.length);
      for (const parent of open) {
        const list = waiting.get(parent);
        if (list === undefined) waiting.set(parent, [node]);
        else list.push(node);
      }
    }
  }
  for (const node of nodes) if (!placed.has(node)) order.push(node);
  return order;
}

function newestOf(nodes: ReadonlySet<Node>): Node | undefined {
  let newest: Node | undefined;
  for (const node of nodes) if (newest === undefined || node.place > newest.place) newest = node;
  return newest;
}

/** For each place those of its parents, the newest first; what an other parent came after is left out. */
function directParents(order: readonly Node[], before: ReadonlyMap<Node, Before>): number[][] {
  const words = (order.length + 31) >>> 5;
  const ancestors: Uint32Array[] = [];
  return order.map((node, place) => {
    const own = new Uint32Array(words);
    const direct: number[] = [];
    const places = [...before.get(node)!.nodes].map((parent) => parent.place).filter((at) => at < place);
    for (const parent of places.sort((left, right) => right - left)) {
      if ((own[parent >>> 5]! >>> (parent & 31)) & 1) continue;
      direct.push(parent);
      const theirs = ancestors[parent]!;
      for (let word = 0; word < words; word++) own[word]! |= theirs[word]!;
      own[parent >>> 5]! |= 1 << (parent & 31);
    }
    ancestors.push(own);
    return direct;
  });
}

/**
 * A place is critical when everything up to it has one head, which is there, and everything after it builds
 * on something there or later.
 */
function criticalPlaces(parents: readonly (readonly number[])[]): number[] {
  const reached = new Array<number>(parents.length + 1).fill(Number.POSITIVE_INFINITY);
  for (let place = parents.length - 1; place >= 0; place--)
    reached[place] = Math.min(reached[place + 1]!, parents[place]![0] ?? -1);
  const heads = new Set<number>();
  const found: number[] = [];
  parents.forEach((places, place) => {
    for (const parent of places) heads.delete(parent);
    heads.add(place);
    if (heads.size === 1 && reached[place + 1]! >= place) found.push(place);
  });
  return found;
}
