/**
 * The envelope: what storage puts around every payload it hands to a backend.
 *
 * | bytes  | field                                                                      | when         |
 * | ------ | -------------------------------------------------------------------------- | ------------ |
 * | 1      | format version, now 1                                                      | always       |
 * | 1      | flags                                                                      | always       |
 * | varint | event count                                                                | always       |
 * | varint | log bytes: payload bytes of this and all earlier batches of the document   | always       |
 * | varint | wall time, ms since 1970; never less than in the batch before              | always       |
 * | 16     | commit id                                                                  | BATCH        |
 * | 4      | CRC of the batch before (0 for the first)                                  | BATCH        |
 * | varint | time of the newest commit id that a caller chose, in this or earlier batches | CHOSEN_IDS |
 * | sized  | info                                                                       | INFO         |
 * | n      | payload                                                                    | always       |
 * | 4      | CRC-32 over the encoded key and all bytes before this field                | always       |
 *
 * Integers of fixed width are little-endian; varints are unsigned LEB128.
 *
 * Invariants: a value whose CRC fails is never decoded. The CRC covers the key, so a value that is read back
 * under another key fails as well. Every later format keeps the version in the first byte and the CRC in the
 * last four, so that "newer format" and "damaged" can be told apart.
 */

import { Reader, Writer } from "../base/bytes.js";
import { crc32 } from "../base/checksum.js";
import { CoppiceError } from "../base/errors.js";
import type { Key } from "../contract/backend.js";
import { Framed } from "../contract/codec.js";
import { crc32OfKey } from "../contract/keys.js";

export const FORMAT_VERSION = 1;
export const COMMIT_ID_BYTES = 16;

const COMPRESSED = 1;
const BATCH = 2;
const INFO = 4;
const CHOSEN_IDS = 8;
const CHOSEN = 16;
const LOST = 32;
const KNOWN_FLAGS = COMPRESSED | BATCH | INFO | CHOSEN_IDS | CHOSEN | LOST;
const SMALLEST = 1 + 1 + 1 + 1 + 1 + 4;

/** What a batch carries besides its payload. */
export interface BatchHeader {
  readonly commitId: Uint8Array;
  /** CRC of the batch before, 0 for the first batch of a document. */
  readonly previousCrc: number;
  /** The caller chose the commit id, so an append may be repeated under it. */
  readonly chosen: boolean;
  /** Time (ms) of the newest chosen commit id so far; 0 when there is none. */
  readonly chosenTime: number;
  readonly info: Uint8Array | undefined;
  /**
   * The events are gone: a repair set their bytes aside. They still count. The payload is the CRC (4 bytes)
   * of the batch that this one stands for, as the batch after it names it; so the chain goes on.
   */
  readonly lost: boolean;
}

export interface Envelope {
  readonly count: number;
  readonly logBytes: number;
  readonly time: number;
  readonly compressed: boolean;
  readonly batch: BatchHeader | undefined;
  readonly payload: Uint8Array;
}

export interface Sealed {
  readonly bytes: Uint8Array;
  readonly crc: number;
}

/** The stored value for an envelope under a key. `keyCrc`: for who knows it already. */
export function seal(
  key: Key,
  envelope: Omit<Envelope, "payload"> & { readonly payload: Uint8Array | Framed },
  keyCrc: number = crc32OfKey(key),
): Sealed {
  const { batch, payload } = envelope;
  // Batches are many, and handed to the backend at once; records may be kept.
  const pooled = batch !== undefined;
  const writer = new Writer(64 + (batch?.info?.length ?? 0) + payload.length, pooled);
  writer.byte(FORMAT_VERSION).byte(flagsOf(envelope));
  writer.varint(envelope.count).varint(envelope.logBytes).varint(envelope.time);
  if (batch !== undefined) {
    writer.raw(batch.commitId).uint32(batch.previousCrc);
    if (batch.chosenTime > 0) writer.varint(batch.chosenTime);
    if (batch.info !== undefined) writer.sized(batch.info);
  }
  if (payload instanceof Framed) payload.writeTo(writer);
  else writer.raw(payload);
  const crc = writer.checksum(keyCrc);
  return { bytes: writer.uint32(crc).finish(), crc };
}

/** An envelope around a payload that is no batch of events. */
export function sealRecord(key: Key, time: number, payload: Uint8Array, compressed = false): Uint8Array {
  return seal(key, { count: 0, logBytes: 0, time, compressed, batch: undefined, payload }).bytes;
}

/**
 * Opens a stored value. `payload` is a view. Throws `CORRUPT` for bytes that are damaged, torn, or stored
 * under another key, and `FORMAT_UNSUPPORTED` for an intact value of a newer format.
 */
export function unseal(key: Key, value: Uint8Array): Envelope & { readonly crc: number } {
  if (value.length < SMALLEST) throw damaged(key, "the value is too short");
  const end = value.length - 4;
  const crc = new Reader(value, end).uint32();
  if (crc32(value, crc32OfKey(key), 0, end) !== crc) throw damaged(key, "the checksum fails");
  if (value[0] !== FORMAT_VERSION) {
    throw new CoppiceError(
      "FORMAT_UNSUPPORTED",
      "the value was written by a newer version of Coppice; upgrade",
      {
        details: { key: [...key], format: value[0], supported: FORMAT_VERSION },
      },
    );
  }
  try {
    return { ...read(value.subarray(0, end)), crc };
  } catch (error) {
    throw damaged(key, "the envelope is malformed", error);
  }
}

/**
 * The event count that a damaged batch claims; `undefined` when it does not even look like a batch. Not to be
 * trusted: only a repair asks, for a last batch whose end nothing else tells.
 */
export function claimedCount(value: Uint8Array, countMax: number): number | undefined {
  try {
    const reader = new Reader(value);
    if (reader.byte() !== FORMAT_VERSION || (reader.byte() & BATCH) === 0) return undefined;
    const count = reader.varint();
    return count > 0 && count <= countMax ? count : undefined;
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

/** The error for a value that cannot be what was written. */
export function damaged(key: Key, what: string, cause?: unknown): CoppiceError {
  return new CoppiceError("CORRUPT", what, { cause, details: { id: key[1], key: [...key] } });
}

function flagsOf({ compressed, batch }: Pick<Envelope, "compressed" | "batch">): number {
  let flags = compressed ? COMPRESSED : 0;
  if (batch === undefined) return flags;
  flags |= BATCH;
  if (batch.info !== undefined) flags |= INFO;
  if (batch.chosenTime > 0) flags |= CHOSEN_IDS;
  if (batch.chosen) flags |= CHOSEN;
  if (batch.lost) flags |= LOST;
  return flags;
}

function read(bytes: Uint8Array): Envelope {
  const reader = new Reader(bytes, 1);
  const flags = reader.byte();
  if ((flags & ~KNOWN_FLAGS) !== 0) throw new RangeError("unknown flags");
  const count = reader.varint();
  const logBytes = reader.varint();
  const time = reader.varint();
  let batch: BatchHeader | undefined;
  if (flags & BATCH) {
    if (count === 0) throw new RangeError("a batch without events");
    batch = {
      commitId: reader.raw(COMMIT_ID_BYTES),
      previousCrc: reader.uint32(),
      chosenTime: flags & CHOSEN_IDS ? reader.varint() : 0,
      info: flags & INFO ? reader.sized() : undefined,
      chosen: (flags & CHOSEN) !== 0,
      lost: (flags & LOST) !== 0,
    };
  }
  const payload = reader.raw(reader.left);
  return { count, logBytes, time, compressed: (flags & COMPRESSED) !== 0, batch, payload };
}
