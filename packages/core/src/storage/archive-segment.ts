/**
 * A segment of the archive: consecutive batches that left the log, packed into bytes that compress well.
 *
 * | bytes  | field                                                                        | for         |
 * | ------ | ---------------------------------------------------------------------------- | ----------- |
 * | varint | number of batches                                                            |             |
 * | varint | event count                                                                  | each batch  |
 * | varint | payload bytes                                                                | each batch  |
 * | varint | wall time: ms since the batch before (the first: since 1970)                 | each batch  |
 * | 1      | flags: 1 INFO, 2 CHOSEN, 4 LOST                                              | each batch  |
 * | 16     | commit id                                                                    | with CHOSEN |
 * | sized  | info                                                                         | with INFO   |
 * | n      | payload                                                                      | each batch  |
 *
 * Field by field, each for all batches, because equal fields side by side compress best. Commit ids that
 * storage made itself are left out: they are random, would be most of a segment, and nothing can be asked by
 * them once their batch is trimmed. Neither are the checksums of batches kept: a segment has its own.
 *
 * Invariants: decoding what was encoded gives the same batches; bytes that end early, or go on, throw.
 */

import { Reader, varintLength, Writer } from "../base/bytes.js";
import { COMMIT_ID_BYTES } from "./envelope.js";
import type { StoredBatch } from "./reader.js";

const INFO = 1;
const CHOSEN = 2;
const LOST = 4;
const KNOWN_FLAGS = INFO | CHOSEN | LOST;

/** Bytes that a batch adds to a segment, about. */
export function packedBytes({ payload, header, clock, end }: StoredBatch): number {
  const info = header.info === undefined ? 0 : header.info.length + varintLength(header.info.length);
  const id = header.chosen ? COMMIT_ID_BYTES : 0;
  return payload.length + varintLength(payload.length) + varintLength(end - clock) + 3 + info + id;
}

export function encodeSegment(batches: readonly StoredBatch[]): Uint8Array {
  const writer = new Writer(batches.reduce((sum, batch) => sum + packedBytes(batch), 16));
  writer.varint(batches.length);
  for (const { clock, end } of batches) writer.varint(end - clock);
  for (const { payload } of batches) writer.varint(payload.length);
  let before = 0;
  for (const { time } of batches) {
    // Times never go back; should one of them, a repair has reported it.
    writer.varint(Math.max(0, time - before));
    before = Math.max(before, time);
  }
  for (const { header } of batches) writer.byte(flagsOf(header));
  for (const { header } of batches) if (header.chosen) writer.raw(header.commitId);
  for (const { header } of batches) if (header.info !== undefined) writer.sized(header.info);
  for (const { payload } of batches) writer.raw(payload);
  return writer.finish();
}

/**
 * The batches of a segment that begins at `clock`. `logBytes` are those at its end; `crc` is known of the
 * last batch alone. Throws a `RangeError` for bytes that are no segment.
 */
export function decodeSegment(
  bytes: Uint8Array,
  { clock, logBytes, crc }: { clock: number; logBytes: number; crc: number },
): StoredBatch[] {
  const reader = new Reader(bytes);
  const count = reader.varint();
  if (count === 0 || count > reader.left) throw new RangeError("a segment without batches");
  const each = <T>(read: (index: number) => T): T[] =>
    Array.from({ length: count }, (_, index) => read(index));
  const counts = each(() => reader.varint());
  const sizes = each(() => reader.varint());
  const times = each(() => reader.varint());
  const flags = each(() => reader.byte());
  if (counts.includes(0)) throw new RangeError("a batch without events");
  if (flags.some((bits) => (bits & ~KNOWN_FLAGS) !== 0)) throw new RangeError("unknown flags");
  const ids = each((index) => (flags[index]! & CHOSEN ? reader.raw(COMMIT_ID_BYTES) : NO_ID));
  const infos = each((index) => (flags[index]! & INFO ? reader.sized() : undefined));
  let start = clock;
  let time = 0;
  let total = logBytes - sizes.reduce((sum, size) => sum + size, 0);
  const batches = each((index): StoredBatch => {
    const payload = reader.raw(sizes[index]!);
    const end = start + counts[index]!;
    time += times[index]!;
    total += payload.length;
    const chosen = (flags[index]! & CHOSEN) !== 0;
    const lost = (flags[index]! & LOST) !== 0;
    const header = { commitId: ids[index]!, previousCrc: 0, chosen, chosenTime: 0, info: infos[index], lost };
    const batch = { clock: start, end, time, logBytes: Math.max(0, total), crc: 0, header, payload };
    start = end;
    return { ...batch, ...(index === count - 1 ? { crc } : {}), storedBytes: 0 };
  });
  if (reader.left > 0) throw new RangeError("a segment goes on after its last batch");
  return batches;
}

/** Stands for the id that storage made and the archive left out. */
const NO_ID = new Uint8Array(COMMIT_ID_BYTES);

function flagsOf({ info, chosen, lost }: StoredBatch["header"]): number {
  return (info === undefined ? 0 : INFO) | (chosen ? CHOSEN : 0) | (lost ? LOST : 0);
}
