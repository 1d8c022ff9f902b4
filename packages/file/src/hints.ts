/**
 * Hint files: what the records of a sealed segment say, without their values, so that opening a store does
 * not read it all. Never needed: a hint that is missing, torn, damaged or of another segment is passed
 * over.
 *
 * | size   | file                                                                     |
 * | ------ | ------------------------------------------------------------------------ |
 * | 8      | `copphnt1`                                                                |
 * | 8      | segment number                                                            |
 * | 4      | salt of the segment                                                       |
 * | 8      | where its frames end                                                      |
 * | n      | records in their order                                                    |
 * | 4      | CRC-32 of all before                                                      |
 *
 * | size   | record                                                                   |
 * | ------ | ------------------------------------------------------------------------ |
 * | 1      | type, as in a frame                                                       |
 * | 2      | bytes of the key                                                          |
 * | 4      | bytes of the value                                                        |
 * | 4      | position in the segment                                                   |
 * | n      | key                                                                       |
 * | 16     | of a deleted range: its bounds, as in a frame                             |
 */

import { crc32, type Env } from "coppice";
import { readFully, type StoreFiles, writeFully } from "./files.js";
import { DELETE_RANGE, getUint64, PUT, RANGE_BYTES, setUint64, unfilled, viewOf } from "./frame.js";
import { keyBytes, putKey } from "./key-names.js";
import { hintName, type Segment } from "./segment.js";

const MAGIC = "copphnt1";
const HEADER_BYTES = 28;
const RECORD_BYTES = 11;
/** Replayed in one turn of the event loop: some milliseconds. */
const STEP_BYTES = 256 * 1024;

export class HintWriter {
  #bytes: Uint8Array = unfilled(16 * 1024);
  #view: DataView = viewOf(this.#bytes);
  #at = HEADER_BYTES;

  add(
    type: number,
    key: Uint8Array,
    valueBytes: number,
    position: number,
    bounds?: { readonly from: number; readonly to: number },
  ): void {
    const at = this.#begin(type, key.length, valueBytes, position);
    this.#bytes.set(key, at);
    if (bounds === undefined) return;
    this.#view.setFloat64(this.#at, bounds.from, true);
    this.#view.setFloat64(this.#at + 8, bounds.to, true);
    this.#at += RANGE_BYTES;
  }

  /** The same for a value that was put, whose key is encoded where it lies. */
  addPut(space: string, name: string, seq: number, part: number, valueBytes: number, position: number): void {
    const at = this.#begin(PUT, keyBytes(space, name, seq, part), valueBytes, position);
    putKey(this.#bytes, at, space, name, seq, part);
  }

  /** Where the key belongs. */
  #begin(type: number, keyLength: number, valueBytes: number, position: number): number {
    const at = this.#at;
    const end = at + RECORD_BYTES + keyLength;
    if (end + RANGE_BYTES + 4 > this.#bytes.length) {
      const grown = unfilled(Math.max(end + RANGE_BYTES + 4, 2 * this.#bytes.length));
      grown.set(this.#bytes.subarray(0, at));
      this.#bytes = grown;
      this.#view = viewOf(grown);
    }
    this.#bytes[at] = type;
    this.#view.setUint16(at + 1, keyLength, true);
    this.#view.setUint32(at + 3, valueBytes, true);
    this.#view.setUint32(at + 7, position, true);
    this.#at = end;
    return at + RECORD_BYTES;
  }

  /** The whole file. Nothing may be added afterwards. */
  finish({ number, salt, end }: Segment): Uint8Array {
    const bytes = this.#bytes;
    const view = this.#view;
    for (let i = 0; i < MAGIC.length; i++) bytes[i] = MAGIC.charCodeAt(i);
    setUint64(view, 8, number);
    view.setUint32(16, salt, true);
    setUint64(view, 20, end);
    view.setUint32(this.#at, crc32(bytes, 0, 0, this.#at), true);
    return bytes.subarray(0, this.#at + 4);
  }
}

/** Not durable on purpose: what a crash leaves of it either passes its checksum or is not used. */
export async function writeHint(files: StoreFiles, segment: Segment, hint: HintWriter): Promise<void> {
  const bytes = hint.finish(segment);
  const file = await files.open(hintName(segment.number), "create");
  try {
    await writeFully(file, bytes, bytes.length, 0);
  } finally {
    file.close();
  }
}

/** The hint of this segment, when there is a good one. */
export async function readHint(files: StoreFiles, segment: Segment): Promise<Buffer | undefined> {
  let bytes: Uint8Array;
  try {
    const file = await files.open(hintName(segment.number), "read");
    try {
      bytes = await readFully(file, await file.size(), 0);
    } finally {
      file.close();
    }
  } catch {
    return undefined;
  }
  if (bytes.length < HEADER_BYTES + 4) return undefined;
  const view = viewOf(bytes);
  const end = bytes.length - 4;
  const whole =
    crc32(bytes, 0, 0, end) === view.getUint32(end, true) &&
    getUint64(view, 8) === segment.number &&
    view.getUint32(16, true) === segment.salt &&
    getUint64(view, 20) === segment.end;
  const hint = Buffer.from(bytes.buffer, bytes.byteOffset, end);
  return whole && endsWithRecord(hint) ? hint : undefined;
}

/** Whether the records follow one another up to the end, as `visitHint` takes for granted. */
function endsWithRecord(hint: Buffer): boolean {
  let at = HEADER_BYTES;
  while (at + RECORD_BYTES <= hint.length) {
    const type = hint[at]!;
    const keyBytes = hint[at + 1]! + 256 * hint[at + 2]!;
    if (type < PUT || type > DELETE_RANGE) return false;
    at += RECORD_BYTES + keyBytes + (type === DELETE_RANGE ? RANGE_BYTES : 0);
  }
  return at === hint.length;
}

/** Told of each record; of a deleted range with its bounds. */
export type RecordVisitor = (
  type: number,
  bytes: Buffer,
  keyStart: number,
  keyEnd: number,
  valueBytes: number,
  position: number,
  from: number,
  to: number,
) => void;

/** Visits the records from there on, in so many bytes; returns where to go on, or the end. */
export function visitHint(
  hint: Buffer,
  visit: RecordVisitor,
  from: number = HEADER_BYTES,
  bytesMax: number = hint.length,
): number {
  const last = Math.min(hint.length, from + bytesMax);
  let at = from;
  while (at < last) {
    const type = hint[at]!;
    const keyStart = at + RECORD_BYTES;
    const keyEnd = keyStart + hint.readUInt16LE(at + 1);
    const valueBytes = hint.readUInt32LE(at + 3);
    const position = hint.readUInt32LE(at + 7);
    at = keyEnd;
    if (type === DELETE_RANGE) {
      visit(
        type,
        hint,
        keyStart,
        keyEnd,
        valueBytes,
        position,
        hint.readDoubleLE(at),
        hint.readDoubleLE(at + 8),
      );
      at += RANGE_BYTES;
    } else {
      visit(type, hint, keyStart, keyEnd, valueBytes, position, 0, 0);
    }
  }
  return at;
}

/** Visits all records, and lets the event loop turn between its steps. */
export async function replayHint(hint: Buffer, visit: RecordVisitor, env: Env): Promise<void> {
  let at = visitHint(hint, visit, HEADER_BYTES, STEP_BYTES);
  while (at < hint.length) {
    await new Promise<void>((resolve) => env.turn(resolve));
    at = visitHint(hint, visit, at, STEP_BYTES);
  }
}
