/**
 * How a document grew: its history in so few points that it can be drawn, and the marks on it.
 *
 * One pass over what is kept. Memory does not grow with the history: whenever there are twice as many
 * points as wanted, every other one is left out.
 *
 * Invariant: points ascend in time, clock and bytes; the first is the state that the kept history begins
 * with, the last is the head.
 *
 * Storage remembers no compaction but by the cut and the snapshots of the last one; those that this server
 * has seen since it started are marked as well.
 */

import type { DocumentInfo } from "coppice";
import type { Mark, Point, TimelineAnswer } from "./answers.js";
import type { Site } from "./requests.js";

export async function timelineOf(
  { storage, changes }: Pick<Site, "storage" | "changes">,
  info: DocumentInfo,
  pointsWanted: number,
  signal: AbortSignal,
): Promise<TimelineAnswer> {
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
  return {
    id: info.id,
    points: points.map(([time, clock, bytes]) => [time, clock, before + bytes]),
    marks: [...marks, ...changes.compactionsOf(info.id)],
    kept,
    compactionsSince: changes.since ?? null,
  };
}
