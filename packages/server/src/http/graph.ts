/**
 * The event graph of a document as rows of a drawing: of the graph that the document keeps, or made of what
 * its newest stored events say of their places (`Model.links`).
 *
 * Invariants: at most `graphEventsMax` events are looked at, and about `GRAPH_BYTES_MAX` of them; of the
 * chains the newest are answered, with the number of the others.
 */

import {
  type CausalEvent,
  causalGraph,
  type DocumentInfo,
  type DrawnEvent,
  type GraphDocument,
  type GraphEvent,
  type GraphRow,
  type LinkedEvent,
  layOutGraph,
} from "coppice";
import type { GraphAnswer, GraphRowAnswer } from "./answers.js";
import type { Site } from "./requests.js";

const GRAPH_BYTES_MAX = 64 * 1024 * 1024;

/** Of a document that keeps its graph. */
export function keptGraph(id: string, doc: GraphDocument<unknown, unknown>, limit: number): GraphAnswer {
  const events = doc.events();
  const rows = layOutGraph(events, doc.criticalVersions());
  return {
    id,
    events: events.length,
    numbers: "replica",
    complete: true,
    unplaced: 0,
    from: doc.keptFrom.size,
    ...shown(rows, limit, (made: readonly GraphEvent[]) => ({
      attached: 0,
      undos: made.filter(({ cancels }) => cancels !== undefined).length,
    })),
  };
}

/** `undefined` when the stored events say nothing of their places. */
export async function linkedGraph(
  { storage, limits }: Site,
  info: DocumentInfo,
  limit: number,
  signal: AbortSignal,
): Promise<GraphAnswer | undefined> {
  const { id, clock, logBytes } = info;
  const fitting = Math.floor((GRAPH_BYTES_MAX * clock) / Math.max(1, logBytes));
  const wanted = Math.max(1, Math.min(limits.graphEventsMax, fitting));
  const from = Math.max(info.archivedClock ?? info.oldestClock, clock - wanted);
  const linked: LinkedEvent[] = [];
  for await (const stored of storage.read(id, { from, to: clock, links: true, signal })) {
    if (stored.links !== undefined) linked.push({ ...stored, links: stored.links });
    // Events that are no bytes are those of documents that keep their graph.
    else if (stored.event !== undefined && !(stored.event instanceof Uint8Array)) return undefined;
  }
  if (linked.length === 0) return undefined;
  const { events, critical, unplaced } = causalGraph(linked);
  return {
    id,
    events: linked.length,
    numbers: "document",
    complete: linked.every(({ links }) => links.complete),
    unplaced,
    from,
    ...shown(layOutGraph(events, critical), limit, (made: readonly CausalEvent[]) => ({
      attached: made.reduce((sum, { attached }) => sum + attached, 0),
      undos: 0,
    })),
  };
}

/** Parents that were left out are negative. */
function shown<Event extends DrawnEvent & { readonly time: number }>(
  rows: readonly GraphRow<Event>[],
  limit: number,
  countsOf: (events: readonly Event[]) => Pick<GraphRowAnswer, "attached" | "undos">,
): Pick<GraphAnswer, "omitted" | "rows"> {
  const omitted = Math.max(0, rows.length - limit);
  const place = new Map(rows.map(({ piece }, index) => [piece, index - omitted]));
  const answered = rows.slice(omitted).map(({ piece, lane }): GraphRowAnswer => {
    const [first, last] = [piece.events[0]!, piece.events.at(-1)!];
    return {
      lane,
      parents: piece.parents.map((parent) => place.get(parent)!),
      replica: first.replica,
      first: first.sequence,
      last: last.sequence,
      events: piece.events.length,
      critical: piece.critical,
      endsCritical: piece.last,
      cut: piece.cut,
      time: last.time,
      ...countsOf(piece.events),
    };
  });
  return { omitted, rows: answered };
}
