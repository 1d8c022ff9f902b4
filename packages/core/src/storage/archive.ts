/**
 * The archive of a document: what compaction trims, kept in compressed segments beside the log, so that past
 * versions can still be loaded and read.
 *
 * | key                                      | value                                                 |
 * | ---------------------------------------- | ----------------------------------------------------- |
 * | `[archive, id, clock, stage · 2¹⁶ + part]` | a segment, as in `stages.ts`; it begins at `clock`      |
 *
 * Segments are made beside the log, read back and compared; then the flip of the compaction names them in
 * meta and moves `oldest` in the same commit. Small ones are merged with what is added, so that n events lie
 * in about log n segments and each byte is written about log n times (the logarithmic method of Bentley and
 * Saxe, "Decomposable searching problems", 1980); a full one is left alone.
 *
 * Invariants: the segments that meta names are contiguous, and the last one ends where the log begins. A
 * segment without parts is lost: a repair set its bytes aside; its clocks still count.
 */

import { equalBytes } from "../base/bytes.js";
import type { Entry, Key } from "../contract/backend.js";
import type { Guard } from "../contract/guard.js";
import { decodeSegment, encodeSegment, packedBytes } from "./archive-segment.js";
import type { Context } from "./context.js";
import { COMMIT_ID_BYTES, damaged } from "./envelope.js";
import { type ArchiveRef, eventsKey, Fields, type Meta, packRecord, unpackRecord } from "./meta.js";
import { type BatchRange, type StoredBatch, scanBatches } from "./reader.js";
import { Moved, readStage, StageSwept, type Stored, stageBytes, stageKey } from "./stages.js";

/** Below this size a segment is always merged with the next one. */
const MERGED_BYTES_MIN = 64 * 1024;

/** From this size on a segment is compressed, when that makes it smaller. */
const COMPRESS_BYTES_MIN = 256;

/** What the record of a segment says. */
export interface SegmentRecord extends Stored {
  readonly end: number;
  readonly firstTime: number;
  readonly lastTime: number;
  readonly logBytes: number;
  readonly crc: number;
}

/** The clock from which events can be read: that of the archive, or of the log where there is none. */
export function readableFrom({ archive, oldest }: Meta): number {
  return archive[0]?.clock ?? oldest;
}

/** Whether a replay from the start is the whole document: no event was dropped, nothing archived is lost. */
export function isWhole({ archive, oldest, base }: Meta): boolean {
  return (archive[0]?.clock ?? oldest) === base && archive.every(({ parts }) => parts > 0);
}

/** Throws `CORRUPT` for a payload that is no record of a segment. */
export function unpackSegmentRecord(key: Key, payload: Uint8Array): SegmentRecord {
  try {
    const fields = new Fields(unpackRecord(payload));
    return {
      end: fields.integer("end"),
      firstTime: fields.integer("firstTime"),
      lastTime: fields.integer("lastTime"),
      logBytes: fields.integer("logBytes"),
      crc: fields.integer("crc"),
      bytes: fields.integer("bytes"),
      parts: fields.integer("parts"),
      compressed: fields.flag("compressed"),
    };
  } catch (error) {
    throw damaged(key, "the record of the archive is malformed", error);
  }
}

/** The batches of a segment; throws `Moved` when a part is not there, and `CORRUPT`. */
export async function readSegment(guard: Guard, id: string, ref: ArchiveRef): Promise<StoredBatch[]> {
  if (ref.parts === 0) return [lostBatch(ref)];
  const { bytes } = await readStage(guard, "archive", id, ref, unpackSegmentRecord);
  const key = stageKey("archive", id, ref, 0);
  let batches: StoredBatch[];
  try {
    batches = decodeSegment(bytes, ref);
  } catch (error) {
    throw damaged(key, "the archived batches cannot be decoded", error);
  }
  if (batches.at(-1)?.end !== ref.end) throw damaged(key, "the archive holds another number of events");
  return batches;
}

/** The batches of a range, from the archive and then from the log; see `scanBatches`. */
export async function* scanLog(
  guard: Guard,
  id: string,
  meta: Meta,
  range: BatchRange,
): AsyncGenerator<StoredBatch> {
  const { from, to = Number.MAX_SAFE_INTEGER, signal } = range;
  if (from >= meta.oldest || meta.archive.length === 0) {
    yield* scanBatches(guard, id, range);
    return;
  }
  for (const ref of meta.archive) {
    if (ref.end <= from || ref.clock >= to) continue;
    signal?.throwIfAborted();
    for (const batch of await readSegment(guard, id, ref)) {
      if (batch.end > from && batch.clock < to) yield batch;
    }
  }
  if (to <= meta.oldest) return;
  yield* scanBatches(guard, id, { ...range, from: meta.oldest, previousCrc: meta.archive.at(-1)!.crc });
}

/** What a compaction that archives puts into meta, and what its flip expects to find. */
export interface Archived {
  readonly archive: readonly ArchiveRef[];
  readonly records: readonly Entry[];
}

/**
 * Stages the batches from `meta.oldest` up to `goal`, a batch end, together with small segments before them.
 * `bytes` is about what they hold. Nothing is visible yet. Throws `StageSwept` when meta has
 * changed, or a sweep took a stage.
 */
export async function archiveLog(
  context: Context,
  id: string,
  { meta, metaBytes }: { readonly meta: Meta; readonly metaBytes: Uint8Array },
  goal: number,
  bytes: number,
): Promise<Archived> {
  if (goal <= meta.oldest) return { archive: meta.archive, records: [] };
  const max = context.limits.archiveSegmentBytesMax;
  const kept = [...meta.archive];
  let merged = bytes;
  for (let last = kept.at(-1); last !== undefined && last.parts > 0; last = kept.at(-1)) {
    if (last.bytes > Math.max(merged, MERGED_BYTES_MIN) || last.bytes + merged > max) break;
    merged += last.bytes;
    kept.pop();
  }
  const records: Entry[] = [];
  let batches: StoredBatch[] = [];
  let size = 0;
  const cut = async () => {
    if (batches.length === 0) return;
    const staged = await stageSegment(context, id, batches, metaBytes);
    kept.push(staged.ref);
    records.push(staged.record);
    batches = [];
    size = 0;
  };
  const from = meta.archive[kept.length]?.clock ?? meta.oldest;
  let end = from;
  for await (const batch of scanLog(context.guard, id, meta, { from, to: goal })) {
    if (size + packedBytes(batch) > max) await cut();
    batches.push(batch);
    size += packedBytes(batch);
    end = batch.end;
  }
  // Another compaction may have trimmed the rest: a scan up to a clock does not notice.
  if (end !== goal) throw new Moved(eventsKey(id, end), "batches are missing from the log");
  await cut();
  return { archive: kept, records };
}

/** Writes a segment, reads it back and compares. */
async function stageSegment(
  context: Context,
  id: string,
  batches: readonly StoredBatch[],
  metaBytes: Uint8Array,
): Promise<{ readonly ref: ArchiveRef; readonly record: Entry }> {
  const [first, last] = [batches[0]!, batches.at(-1)!];
  const bytes = encodeSegment(batches);
  const facts = {
    end: last.end,
    firstTime: first.time,
    lastTime: last.time,
    logBytes: last.logBytes,
    crc: last.crc,
  };
  const staged = await stageBytes(context, {
    space: "archive",
    id,
    clock: first.clock,
    bytes,
    metaBytes,
    compressBytesMin: COMPRESS_BYTES_MIN,
    record: (stored) => packRecord({ ...facts, ...stored }),
  });
  const { storedBytes, record } = staged;
  const ref: ArchiveRef = { ...staged.ref, ...facts, bytes: bytes.length, storedBytes };
  const back = await readStage(context.guard, "archive", id, ref, unpackSegmentRecord).catch(
    (error: unknown) => {
      throw error instanceof Moved ? new StageSwept("a stage was swept") : error;
    },
  );
  if (!equalBytes(back.bytes, bytes)) {
    throw damaged(record.key, "the archive, read back, is not what was written; nothing was trimmed");
  }
  return { ref, record };
}

function lostBatch({ clock, end, firstTime, logBytes, crc }: ArchiveRef): StoredBatch {
  const commitId = new Uint8Array(COMMIT_ID_BYTES);
  const header = { commitId, previousCrc: 0, chosen: false, chosenTime: 0, info: undefined, lost: true };
  const payload = new Uint8Array(0);
  return { clock, end, time: firstTime, logBytes, crc, header, payload, storedBytes: 0 };
}
