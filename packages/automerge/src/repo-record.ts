/**
 * One value of automerge-repo as values of a backend, under `[chunks, id, part]`.
 *
 * | part      | bytes                                                                          |
 * | --------- | ------------------------------------------------------------------------------ |
 * | format    | 1                                                                              |
 * | opening   | varint: which opening of the store saved it                                    |
 * | order     | varint: which save of that opening                                             |
 * | partCount | varint                                                                         |
 * | payload   | at most 1 MiB of the value                                                     |
 * | checksum  | 4, little-endian: CRC-32 over the encoded key and all before                   |
 *
 * Opening and order are the same in all parts of a value, so parts of two saves are never joined. They also
 * keep the values in the order in which they were saved, which automerge-repo's own tests ask for.
 */

import { CoppiceError, concatBytes, crc32, type Entry, encodeKey, type Key, Reader, Writer } from "coppice";

export const SPACE = "chunks";
const FORMAT = 1;
const PART_BYTES_MAX = 1024 * 1024;
const CHECKSUM_BYTES = 4;

/** Which save: by the opening of the store first, then by the order within it. */
export interface Stamp {
  readonly opening: number;
  readonly order: number;
}

export interface StoredValue extends Stamp {
  readonly data: Uint8Array;
}

export function encodeValue(id: string, { opening, order }: Stamp, data: Uint8Array): Entry[] {
  const partCount = Math.max(1, Math.ceil(data.length / PART_BYTES_MAX));
  const entries: Entry[] = [];
  for (let part = 0; part < partCount; part++) {
    const payload = data.subarray(part * PART_BYTES_MAX, (part + 1) * PART_BYTES_MAX);
    const key: Key = [SPACE, id, part];
    const writer = new Writer(payload.length + 40)
      .byte(FORMAT)
      .varint(opening)
      .varint(order)
      .varint(partCount);
    const body = writer.raw(payload).finish();
    entries.push({ key, value: writer.uint32(crc32(concatBytes([encodeKey(key), body]))).finish() });
  }
  return entries;
}

/**
 * The value of which these are the stored parts, in order; `undefined` when they are not of one save, which
 * a reader may see beside a writer. Throws `CORRUPT` for a part whose checksum fails.
 */
export function decodeValue(entries: readonly Entry[]): StoredValue | undefined {
  const parts = entries.map(decodePart);
  const first = parts[0];
  if (first === undefined || first.partCount !== parts.length) return undefined;
  const whole = parts.every(
    ({ opening, order }, part) =>
      opening === first.opening && order === first.order && entries[part]!.key[2] === part,
  );
  if (!whole) return undefined;
  const { opening, order } = first;
  return { opening, order, data: concatBytes(parts.map(({ payload }) => payload)) };
}

function decodePart({ key, value }: Entry): Stamp & { partCount: number; payload: Uint8Array } {
  const end = value.length - CHECKSUM_BYTES;
  const body = value.subarray(0, Math.max(0, end));
  if (end < 4 || new Reader(value, end).uint32() !== crc32(concatBytes([encodeKey(key), body]))) {
    throw damaged(key, "a stored value of automerge-repo fails its checksum");
  }
  const reader = new Reader(body);
  if (reader.byte() !== FORMAT) {
    throw new CoppiceError("FORMAT_UNSUPPORTED", "a value of automerge-repo has a newer format", {
      details: { key: [...key] },
    });
  }
  try {
    const [opening, order, partCount] = [reader.varint(), reader.varint(), reader.varint()];
    return { opening, order, partCount, payload: reader.raw(reader.left) };
  } catch (error) {
    throw damaged(key, "a stored value of automerge-repo is malformed", error);
  }
}

export function damaged(key: Key, message: string, cause?: unknown): CoppiceError {
  return new CoppiceError("CORRUPT", message, { cause, details: { key: [...key] } });
}
