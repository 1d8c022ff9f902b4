/**
 * Where each piece of an event graph stands in a drawing: rows from the oldest down, lanes side by side.
 *
 * A piece is a chain of events of one replica with nothing between them: each but the first has the one
 * before as its only parent, and each but the last has the next as its only child. Pieces keep the drawing
 * short.
 *
 * Invariants: a piece comes after those it builds on; two pieces that are open at once have different lanes.
 */

import type { EventId, GraphEvent } from "./event.js";

/** What a drawing needs of an event. */
export interface DrawnEvent extends EventId {
  readonly parents: readonly EventId[];
}

/** A chain of events of one replica with nothing between them. */
export interface GraphPiece<Event extends DrawnEvent = GraphEvent> {
  readonly events: readonly Event[];
  /** How many of them end a critical version; `last`: whether the last one does. */
  readonly critical: number;
  readonly last: boolean;
  readonly parents: readonly GraphPiece<Event>[];
  /** Some parents lie before the history that is kept. */
  readonly cut: boolean;
}

/** A piece and where it stands. */
export interface GraphRow<Event extends DrawnEvent = GraphEvent> {
  readonly piece: GraphPiece<Event>;
  readonly lane: number;
  /** Lanes that are open just before and just after this row. */
  readonly before: readonly boolean[];
  readonly after: readonly boolean[];
  /** Lanes of the parents that lie in other lanes. */
  readonly from: readonly number[];
}

/**
 * The rows of a drawing. `events` in the order of the fold, as `events()` gives them, and `critical` as
 * `criticalVersions()` does; or both as `causalGraph` does. O(events × lanes).
 */
export function layOutGraph<Event extends DrawnEvent = GraphEvent>(
  events: readonly Event[],
  critical: readonly EventId[],
): GraphRow<Event>[] {
  return layOut(piecesOf(events, critical));
}

const keyOf = ({ replica, sequence }: EventId): string => `${replica}.${sequence}`;

function piecesOf<Event extends DrawnEvent>(
  events: readonly Event[],
  critical: readonly EventId[],
): GraphPiece<Event>[] {
  const children = new Map<string, number>();
  for (const { parents } of events) {
    for (const parent of parents) children.set(keyOf(parent), (children.get(keyOf(parent)) ?? 0) + 1);
  }
  const ends = new Set(critical.map(keyOf));
  const pieces: (GraphPiece<Event> & { events: Event[]; critical: number; last: boolean })[] = [];
  const owner = new Map<string, (typeof pieces)[number]>();
  for (const event of events) {
    const [parent, ...others] = event.parents;
    const before = parent === undefined ? undefined : owner.get(keyOf(parent));
    const isEnd = ends.has(keyOf(event));
    const goesOn =
      others.length === 0 && parent?.replica === event.replica && children.get(keyOf(parent)) === 1;
    if (before !== undefined && goesOn) {
      before.events.push(event);
      before.critical += isEnd ? 1 : 0;
      before.last = isEnd;
      owner.set(keyOf(event), before);
      continue;
    }
    const parents = event.parents.map((id) => owner.get(keyOf(id)));
    const known = [...new Set(parents.filter((piece) => piece !== undefined))];
    const cut = known.length === 0 && event.parents.length > 0;
    const piece = { events: [event], critical: isEnd ? 1 : 0, last: isEnd, parents: known, cut };
    pieces.push(piece);
    owner.set(keyOf(event), piece);
  }
  return pieces;
}

function layOut<Event extends DrawnEvent>(pieces: readonly GraphPiece<Event>[]): GraphRow<Event>[] {
  const open = new Map<GraphPiece<Event>, number>();
  for (const { parents } of pieces)
    for (const parent of parents) open.set(parent, (open.get(parent) ?? 0) + 1);
  const lanes: (GraphPiece<Event> | undefined)[] = [];
  return pieces.map((piece) => {
    const before = lanes.map((tip) => tip !== undefined);
    const at = piece.parents.map((parent) => lanes.indexOf(parent));
    for (const parent of piece.parents) open.set(parent, open.get(parent)! - 1);
    const inherited = at.find((_, index) => open.get(piece.parents[index]!) === 0);
    const free = lanes.indexOf(undefined);
    const lane = inherited ?? (free < 0 ? lanes.length : free);
    piece.parents.forEach((parent, index) => {
      if (open.get(parent) === 0) lanes[at[index]!] = undefined;
    });
    lanes[lane] = open.has(piece) ? piece : undefined;
    const after = lanes.map((tip) => tip !== undefined);
    while (lanes.length > 0 && lanes.at(-1) === undefined) lanes.pop();
    return { piece, lane, before, after, from: at.filter((from) => from !== lane) };
  });
}
