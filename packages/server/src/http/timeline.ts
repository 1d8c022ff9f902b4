/**
 * How a document grew: its history in so few points that it can be drawn, and the marks on it.
 *
 * One pass over what is kept. Memory does not grow with the history: whenever there are twice as many
 * points as wanted, every other one is left out.
 *
 * Invariant: points ascend in time, clock and bytes; the first is the state that the kept history begins
 * with, the last is the head.
 */

import type { DocumentInfo, DocumentStorage } from "coppice";

export interface Timeline {
  /** Wall time in ms, clock, and payload bytes of all events up to it. */
  readonly points: readonly Point[];
  readonly marks: readonly Mark[];
  /** What is kept now. */
  readonly kept: { readonly batches: number; readonly events: number; readonly bytes: number };
}

type Point = readonly [time: number, clock: number, bytes: number];

interface Mark {
  readonly kind: "snapshot" | "tag";
  readonly name?: string;
  readonly clock: number;
  /** When it was made, and its bytes as stored. */
  readonly time: number;
  readonly bytes: number;
}

export async function timelineOf(
  storage: DocumentStorage,
  info: DocumentInfo,
  pointsWanted: number,
  signal: AbortSignal,
): Promise<Timeline> {
  let points: Point[] = [];
  let stride = 1;
  const marks: Mark[] = [];
  const kept = { batches: 0, events: 0, bytes: 0 };
  let last: Point | undefined;
  for await (const entry of storage.history(info.id)) {
    // Nobody waits for it any more.
    if (signal.aborted) break;
    if (entry.kind === "archive") continue;
    if (entry.kind !== "batch") {
      marks.push(entry);
      continue;
    }
    if (kept.batches === 0) points.push([entry.time, entry.clock, 0]);
    kept.batches++;
    kept.events += entry.end - entry.clock;
    kept.bytes += entry.bytes;
    last = [entry.time, entry.end, kept.bytes];
    if (kept.batches % stride === 0) points.push(last);
    if (points.length <= 2 * pointsWanted) continue;
    points = points.filter((_, index) => index % 2 === 0);
    stride *= 2;
  }
  if (last !== undefined && points.at(-1) !== last) points.push(last);
  // Appends that came while the history was read are in both or in neither.
  const before = Math.max(0, info.logBytes - kept.bytes);
  return { points: points.map(([time, clock, bytes]) => [time, clock, before + bytes]), marks, kept };
}
