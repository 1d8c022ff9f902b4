/**
 * Questions about the graph: which events happened before which, and what a version lacks of another.
 *
 * A version is given by its heads, and means these and everything before them. Only events after the base are
 * kept; the base itself counts as one point before them all. Each question costs one pass over the kept
 * events.
 */

import { CoppiceError } from "../base/errors.js";
import { type EventId, type GraphEvent, idKey } from "./event.js";
import { type Entry, type History, sameId } from "./history.js";

export type AnyHistory<Payload> = History<unknown, Payload>;

/**
 * For each kept event 1 when it is in the version. Throws `ARGUMENT_INVALID` and `TRIMMED` for unknown ids.
 */
export function reach<Payload>(history: AnyHistory<Payload>, version: readonly EventId[]): Uint8Array {
  history.unfold();
  const marks = new Uint8Array(history.order.length);
  for (const id of version) {
    const position = positionOf(history, id);
    if (position >= 0) marks[position] = 1;
  }
  for (let i = marks.length - 1; i >= 0; i--) {
    if (marks[i] === 0) continue;
    for (const parent of history.order[i]!.event.parents) {
      const index = history.find(parent)?.index;
      if (index !== undefined) marks[index - history.base.size] = 1;
    }
  }
  return marks;
}

/** Events that happened after this one. */
export function descendantsOf<Payload>(history: AnyHistory<Payload>, id: EventId): GraphEvent<Payload>[] {
  history.unfold();
  const from = positionOf(history, id);
  const marks = new Uint8Array(history.order.length);
  if (from >= 0) marks[from] = 1;
  else if (history.base.size > 0) return history.order.map(({ event }) => event);
  for (let i = from + 1; i < marks.length; i++) {
    for (const parent of history.order[i]!.event.parents) {
      const index = history.find(parent)?.index;
      if (index === undefined || marks[index - history.base.size] === 0) continue;
      marks[i] = 1;
      break;
    }
  }
  return pick(history, (i) => marks[i] === 1 && i !== from);
}

/** The heads of the greatest version that is part of both. */
export function mergeBaseOf<Payload>(
  history: AnyHistory<Payload>,
  a: readonly EventId[],
  b: readonly EventId[],
): EventId[] {
  const [left, right] = [reach(history, a), reach(history, b)];
  const common = left.map((mark, i) => mark & right[i]!);
  const heads = pick(history, headsOf(history, common));
  if (heads.length > 0) return heads.map(bare);
  const { head } = history.base;
  return head === undefined ? [] : [bare(head)];
}

/** Kept events for which `wanted` holds, in order. */
export function pick<Payload>(
  history: AnyHistory<Payload>,
  wanted: (position: number) => boolean,
): GraphEvent<Payload>[] {
  const events: GraphEvent<Payload>[] = [];
  history.order.forEach(({ event }, position) => {
    if (wanted(position)) events.push(event);
  });
  return events;
}

/** The state of a version: what anyone sees who has exactly these events. */
export function stateOf<State, Payload>(
  history: History<State, Payload>,
  version: readonly EventId[],
): State {
  const marks = reach(history as AnyHistory<Payload>, version);
  const count = marks.lastIndexOf(1) + 1;
  if (!history.hasCancels && marks.subarray(0, count).every((mark) => mark === 1)) {
    return history.stateAt(history.base.size + count);
  }
  const isIn = ({ replica, sequence }: EventId) => {
    const index = history.find({ replica, sequence })?.index;
    return index !== undefined && marks[index - history.base.size] === 1;
  };
  let { state } = history.base;
  history.order.forEach((entry, position) => {
    if (marks[position] === 0 || history.isCancelled(entry.event, isIn)) return;
    state = stepped(history, state, entry);
  });
  return state;
}

export function bare({ replica, sequence }: EventId): EventId {
  return { replica, sequence };
}

function stepped<State, Payload>(
  history: History<State, Payload>,
  state: State,
  entry: Entry<Payload>,
): State {
  if (entry.event.cancels !== undefined) return state;
  try {
    return history.reducer.apply(state, entry.payload, entry.event);
  } catch {
    return state; // As in the fold: it changes nothing.
  }
}

function headsOf(history: AnyHistory<unknown>, marks: Uint8Array): (position: number) => boolean {
  const covered = new Uint8Array(marks.length);
  history.order.forEach(({ event }, position) => {
    if (marks[position] === 0) return;
    for (const parent of event.parents) {
      const index = history.find(parent)?.index;
      if (index !== undefined) covered[index - history.base.size] = 1;
    }
  });
  return (position) => marks[position] === 1 && covered[position] === 0;
}

/** −1 for the head of the base. */
function positionOf<Payload>(history: AnyHistory<Payload>, id: EventId): number {
  const entry = history.find(id);
  if (entry !== undefined) return entry.index - history.base.size;
  if (sameId(history.base.head, id) !== undefined) return -1;
  if (id.sequence < history.next(id.replica)) {
    throw new CoppiceError("TRIMMED", "the event lies before the history that is kept", {
      details: { event: idKey(id) },
    });
  }
  throw new CoppiceError("ARGUMENT_INVALID", "the document has no such event", {
    details: { event: idKey(id) },
  });
}
