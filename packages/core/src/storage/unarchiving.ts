/**
 * A past version that lies in the archive, as a document of its own: the segments before the one in which it
 * lies stay archived, and the batches of that one, up to the clock, become a log again.
 *
 * There is no snapshot of such a version: a load replays it from the beginning, until a compaction has taken
 * one. Payloads, times, `info` and commit ids that callers chose stay; ids that storage had made, which an
 * archive leaves out, are made anew. A batch that is cut keeps no chosen id: see `image.ts`.
 *
 * Invariants: the log chains to the segment before it, and its totals go on from there. Commit ids that are
 * not known any more stay unknown, never "not written".
 */

import { Writer } from "../base/bytes.js";
import type { Entry } from "../contract/backend.js";
import { readSegment } from "./archive.js";
import { commitIdTime, newCommitId } from "./commit-id.js";
import { type Context, modelOf } from "./context.js";
import { seal } from "./envelope.js";
import { type ArchiveRef, eventsKey, type Meta } from "./meta.js";
import { decodeBatch, encodeEvents } from "./state.js";

/** What meta would say of a version in the archive; `undefined` unless all of it up to there is kept. */
export function archivedMeta(meta: Meta, at: number): { meta: Meta; segment: ArchiveRef } | undefined {
  const before = meta.archive.filter(({ clock }) => clock < at);
  const segment = before.pop();
  const first = before[0] ?? segment;
  const lost = [...before, segment].some((ref) => ref === undefined || ref.parts === 0);
  if (segment === undefined || first?.clock !== meta.base || lost) return undefined;
  const commits = meta.commits.filter(({ clock }) => clock <= segment.clock);
  const about = { snapshot: undefined, previous: undefined, archive: before, commits };
  return { meta: { ...meta, ...about, oldest: segment.clock }, segment };
}

/** The log of that version; returns the CRC of its last batch. Throws `Moved`, and `CORRUPT`. */
export async function* archivedLog(
  context: Context,
  id: string,
  { archive, commits, commitFloor, model: name }: Meta,
  segment: ArchiveRef,
  at: number,
): AsyncGenerator<Entry, number> {
  const before = archive.at(-1);
  let crc = before?.crc ?? 0;
  let logBytes = before?.logBytes ?? 0;
  let chosenTime = Math.max(commitFloor, ...commits.map((commit) => commitIdTime(commit.id)));
  for (const batch of await readSegment(context.guard, id, segment)) {
    if (batch.clock >= at) break;
    const key = eventsKey(id, batch.clock);
    const { header, time } = batch;
    const cut = batch.end > at;
    const chosen = header.chosen && !cut;
    let { payload } = batch;
    if (header.lost) payload = new Writer(4).uint32(crc).finish();
    else if (cut) {
      const model = modelOf(context, name, id);
      payload = encodeEvents(model, id, decodeBatch(model, id, batch).slice(0, at - batch.clock));
    }
    if (!header.lost) logBytes += payload.length;
    if (chosen) chosenTime = Math.max(chosenTime, commitIdTime(header.commitId));
    const commitId = header.chosen ? header.commitId : newCommitId(context.env);
    const count = Math.min(batch.end, at) - batch.clock;
    const sealed = seal(key, {
      count,
      logBytes,
      time,
      compressed: false,
      batch: { ...header, commitId, chosen, previousCrc: crc, chosenTime },
      payload,
    });
    yield { key, value: sealed.bytes };
    if (!header.lost) crc = sealed.crc;
  }
  return crc;
}
