/**
 * Reading a document's log and snapshots, right beside writers that append, trim, delete and recreate.
 *
 * A page of a scan is consistent, two pages are not; so a reader may find a gap, a missing snapshot or a
 * batch of a later incarnation. It then reads meta again and starts over (`withRestarts`); what it found is
 * corruption only if meta has not changed. Reading changes nothing.
 *
 * Invariants: batches are yielded contiguously; each names the CRC of the one before (the first one after a
 * snapshot names the CRC that the snapshot recorded), so batches of two incarnations can never mix.
 */

import { equalBytes, Reader } from "../base/bytes.js";
import { CoppiceError, type ErrorDetails, isCoppiceError } from "../base/errors.js";
import type { Key } from "../contract/backend.js";
import type { Guard } from "../contract/guard.js";
import { type BatchHeader, damaged, unseal } from "./envelope.js";
import {
  eventsKey,
  identityOf,
  type Meta,
  metaKey,
  type SnapshotRecord,
  unpackSnapshotRecord,
  unsealMeta,
} from "./meta.js";
import { Moved, readStage, readStageRecord, type StageRef, type StageSpace, stageKey } from "./stages.js";

export { Moved } from "./stages.js";

export interface StoredBatch {
  /** Clock before its first event, and after its last. */
  readonly clock: number;
  readonly end: number;
  readonly time: number;
  readonly logBytes: number;
  /** What the batch after it names. */
  readonly crc: number;
  readonly header: BatchHeader;
  readonly payload: Uint8Array;
  /** Bytes as stored. */
  readonly storedBytes: number;
}

/**
 * Calls `read` with the document's meta (`undefined`: never created), again whenever meta changed under it.
 * Throws `CORRUPT` when what `read` found cannot be explained by a change.
 */
export async function withRestarts<T>(
  guard: () => Guard,
  id: string,
  read: (meta: Meta | undefined, raw: Uint8Array | undefined) => Promise<T>,
): Promise<T> {
  const key = metaKey(id);
  let raw = await guard().get(key);
  let isSame = false;
  for (;;) {
    try {
      if (raw === undefined) await assertNoEvents(guard(), id);
      return await read(raw && unsealMeta(id, raw), raw);
    } catch (error) {
      if (!(error instanceof Moved) && !isCoppiceError(error, "CORRUPT")) throw error;
      const again = await guard().get(key);
      // A trim and a copy together may have left meta as it was: only a second look is sure.
      if (isSame && equalBytes(raw, again))
        throw error instanceof Moved ? damaged(error.key, error.message) : error;
      isSame = equalBytes(raw, again);
      raw = again;
    }
  }
}

/** A document whose meta is gone must not pass for one that never was. */
async function assertNoEvents(guard: Guard, id: string): Promise<void> {
  for await (const page of guard.scan({ space: "events", id }, { limit: 1, values: false })) {
    if (page.length > 0) throw new Moved(metaKey(id), "the document has events but no meta");
  }
}

/**
 * Throws `Moved` when the document was deleted since its meta was read. Its batches vanish slice by slice
 * then, and what was read may have ended too early; a trim does no such thing, it never takes the last batch.
 */
export async function assertNotDeleted(
  guard: Guard,
  id: string,
  meta: Meta,
  metaBytes: Uint8Array | undefined,
): Promise<void> {
  const raw = await guard.get(metaKey(id));
  if (equalBytes(raw, metaBytes)) return;
  const now = raw && unsealMeta(id, raw);
  if (now !== undefined && now.deleted === undefined && identityOf(now) === identityOf(meta)) return;
  throw new Moved(metaKey(id), "the document was deleted or replaced while it was read");
}

/** Opens a stored batch; throws `CORRUPT` or `FORMAT_UNSUPPORTED`. */
export function openBatch(key: Key, value: Uint8Array): StoredBatch {
  const { count, logBytes, time, crc, batch, payload } = unseal(key, value);
  const clock = key[2]!;
  if (batch === undefined) throw damaged(key, "the value is not a batch");
  if (batch.lost && payload.length !== 4) throw damaged(key, "the lost batch is malformed");
  return {
    clock,
    end: clock + count,
    time,
    logBytes,
    crc: batch.lost ? new Reader(payload).uint32() : crc,
    header: batch,
    payload: batch.lost ? payload.subarray(0, 0) : payload,
    storedBytes: value.length,
  };
}

/** The last batch below `below` (default: of the whole log). */
export async function lastBatch(guard: Guard, id: string, below?: number): Promise<StoredBatch | undefined> {
  const range = { space: "events", id, ...(below === undefined ? {} : { to: below }) };
  for await (const [entry] of guard.scan(range, { reverse: true, limit: 1 })) {
    if (entry !== undefined) return openBatch(entry.key, entry.value);
  }
  return undefined;
}

export interface BatchRange {
  /** The first batch is the one that holds event `from + 1`. */
  readonly from: number;
  /** Batches that begin at or after `to` are left out. */
  readonly to?: number;
  /** Given when `from` is the end of a batch: the CRC of that batch, which the first one must name. */
  readonly previousCrc?: number;
  readonly signal?: AbortSignal;
}

/** The batches of a range, contiguous and chained; throws `Moved` for a gap. */
export async function* scanBatches(guard: Guard, id: string, range: BatchRange): AsyncGenerator<StoredBatch> {
  const { from, to, signal } = range;
  let next = from;
  let crc = range.previousCrc;
  const keys = { space: "events", id, from, ...(to === undefined ? {} : { to }) };
  for await (const page of guard.scan(keys, signal === undefined ? {} : { signal })) {
    for (const { key, value } of page) {
      const batch = openBatch(key, value);
      if (batch.clock !== next) {
        const aligned = next !== from || range.previousCrc !== undefined;
        const straddling = aligned ? undefined : await straddlingBatch(guard, id, from);
        if (straddling?.end !== batch.clock) {
          throw new Moved(eventsKey(id, next), "batches are missing from the log");
        }
        yield straddling;
        crc = straddling.crc;
      }
      if (crc !== undefined && batch.header.previousCrc !== crc) {
        throw new Moved(key, "the batch does not follow the one before it");
      }
      yield batch;
      next = batch.end;
      crc = batch.crc;
    }
  }
  if (next === from && range.previousCrc === undefined && from < (to ?? Number.MAX_SAFE_INTEGER)) {
    const straddling = await straddlingBatch(guard, id, from);
    if (straddling !== undefined) yield straddling;
  }
}

async function straddlingBatch(guard: Guard, id: string, clock: number): Promise<StoredBatch | undefined> {
  const batch = await lastBatch(guard, id, clock);
  return batch !== undefined && batch.end > clock ? batch : undefined;
}

/** The record of a snapshot, without its bytes; throws `Moved` when it is not there. */
export async function readSnapshotRecord(
  guard: Guard,
  id: string,
  ref: Omit<StageRef, "parts">,
  space: StageSpace = "snapshot",
): Promise<SnapshotRecord> {
  return unpackSnapshotRecord(stageKey(space, id, ref, 0), await readStageRecord(guard, space, id, ref));
}

/** A snapshot with its bytes as the model made them; throws `Moved` when a part is not there. */
export async function readSnapshot(
  guard: Guard,
  id: string,
  ref: StageRef,
  space: StageSpace = "snapshot",
): Promise<{ readonly record: SnapshotRecord; readonly bytes: Uint8Array }> {
  return readStage(guard, space, id, ref, unpackSnapshotRecord);
}

/**
 * The bytes of the held events at these clocks: clock → payload of one encoded event. Others may be garbage.
 */
export async function readHeld(
  guard: Guard,
  id: string,
  clocks: readonly number[],
): Promise<Map<number, Uint8Array>> {
  const held = new Map<number, Uint8Array>();
  const [first] = clocks;
  if (first === undefined) return held;
  const wanted = new Set(clocks);
  for await (const page of guard.scan({ space: "held", id, from: first, to: clocks.at(-1)! + 1 })) {
    for (const { key, value } of page) {
      if (wanted.has(key[2]!)) held.set(key[2]!, unseal(key, value).payload);
    }
  }
  return held;
}

/** The error for a moment that lies before what is kept; `more` says what there is instead. */
export function trimmed(
  id: string,
  clock: number | undefined,
  oldest: number,
  more: ErrorDetails = {},
): CoppiceError {
  return new CoppiceError("TRIMMED", "the events at that clock were trimmed by a compaction", {
    details: { id, ...(clock === undefined ? {} : { clock }), oldest, ...more },
  });
}
