/**
 * A frame: the bytes of one commit in a segment, and the records in it. Knows no files.
 *
 * | offset | size | frame, 8-byte aligned; numbers little-endian                                |
 * | ------ | ---- | --------------------------------------------------------------------------- |
 * | 0      | 4    | magic `c7 f1 a5 3e`                                                          |
 * | 4      | 4    | bytes of all records                                                         |
 * | 8      | 8    | commit number, one more than in the frame before                             |
 * | 16     | 4    | count of records                                                             |
 * | 20     | 4    | header CRC of the frame before: the chain                                    |
 * | 24     | 4    | CRC over the 12-byte headers of all records, one after the other             |
 * | 28     | 4    | header CRC over the 28 bytes before, seeded with the salt and the position    |
 * | 32     | n    | records                                                                      |
 * |        | 0–7  | padding, bytes `5a`                                                          |
 * |        | 4    | trailer `9d e3 b1 6f`                                                        |
 *
 * | offset | size | record                                                                       |
 * | ------ | ---- | --------------------------------------------------------------------------- |
 * | 0      | 4    | CRC over the rest of the record, seeded with the salt and its position        |
 * | 4      | 1    | type: 1 put, 2 delete a key, 3 delete a range of one id                       |
 * | 5      | 1    | mask: each byte of the value is stored XOR this                               |
 * | 6      | 2    | bytes of the key                                                             |
 * | 8      | 4    | bytes of the value; of a range: 16, `from` (-1: all) and `to` as float64      |
 * | 12     | n    | key, then value                                                              |
 *
 * Invariants: no sector of a frame (512 bytes, and its parts at either end) is all zeros, so a sector of
 * zeros was never written; the mask sees to it. A record or header that lies elsewhere than where it was
 * written fails.
 */

import { crc32 } from "coppice";
import { keyBytes, putKey } from "./key-names.js";

export const SECTOR_BYTES = 512;
export const FRAME_HEADER_BYTES = 32;
export const RECORD_HEADER_BYTES = 12;
export const RANGE_BYTES = 16;

export const PUT = 1;
export const DELETE_KEY = 2;
export const DELETE_RANGE = 3;

const MAGIC = [0xc7, 0xf1, 0xa5, 0x3e] as const;
const TRAILER = [0x9d, 0xe3, 0xb1, 0x6f] as const;
const PADDING = 0x5a;
/** Zero bytes that may end a key: its terminator, seq and part. */
const KEY_ZEROS_MAX = 18;
/** A larger frame's memory is given back before the next. */
const KEPT_BYTES_MAX = 8 * 1024 * 1024;

/** Binds a checksum to the segment and to the place in it. */
export function seedOf(salt: number, position: number): number {
  return (salt + position) >>> 0;
}

/** Bytes of a frame with so many bytes of records. */
export function frameBytes(payloadBytes: number): number {
  return Math.ceil((FRAME_HEADER_BYTES + payloadBytes + TRAILER.length) / 8) * 8;
}

export interface FrameHeader {
  /** Of the whole frame. */
  readonly length: number;
  readonly payloadBytes: number;
  readonly sequence: number;
  readonly count: number;
  readonly previous: number;
  readonly check: number;
  readonly chain: number;
}

/**
 * What a record says, as places in the bytes it was read from. `position`: of the record in its segment.
 */
export interface RecordView {
  readonly type: number;
  readonly position: number;
  readonly keyStart: number;
  readonly valueStart: number;
  readonly end: number;
  readonly mask: number;
}

/** Builds one frame after another in memory that it keeps. */
export class FrameWriter {
  #bytes: Uint8Array;
  #view: DataView;
  #at = 0;
  #position = 0;
  #salt = 0;
  #count = 0;
  #check = 0;

  constructor(bytesExpected: number = 64 * 1024) {
    this.#bytes = unfilled(bytesExpected);
    this.#view = viewOf(this.#bytes);
  }

  /** Starts a frame that will lie at `position` of its segment. */
  begin(position: number, salt: number): void {
    if (this.#bytes.length > KEPT_BYTES_MAX) this.#resize(KEPT_BYTES_MAX, 0);
    this.#at = FRAME_HEADER_BYTES;
    this.#position = position;
    this.#salt = salt;
    this.#count = 0;
    this.#check = 0;
  }

  get count(): number {
    return this.#count;
  }

  /** Bytes of the frame if it were finished now. */
  get length(): number {
    return frameBytes(this.#at - FRAME_HEADER_BYTES);
  }

  /** Adds a record, and returns its position in the segment. */
  add(type: number, key: Uint8Array, value: Uint8Array): number {
    const start = this.#open(key.length, value.length);
    this.#bytes.set(key, start);
    this.#bytes.set(value, start + key.length);
    return this.#close(type, key.length, value.length);
  }

  /** The same for a value that is put, whose key is encoded where it lies. */
  addPut(space: string, name: string, seq: number, part: number, value: Uint8Array): number {
    const length = keyBytes(space, name, seq, part);
    const start = this.#open(length, value.length);
    putKey(this.#bytes, start, space, name, seq, part);
    this.#bytes.set(value, start + length);
    return this.#close(PUT, length, value.length);
  }

  /** The same for a record that was read, and whose value was unmasked. */
  addCopy(from: Uint8Array, { type, keyStart, valueStart, end }: RecordView): number {
    const start = this.#open(valueStart - keyStart, end - valueStart);
    this.#bytes.set(new Uint8Array(from.buffer, from.byteOffset + keyStart, end - keyStart), start);
    return this.#close(type, valueStart - keyStart, end - valueStart);
  }

  /** Where the key of the next record goes, and its value behind it. */
  #open(keyLength: number, valueLength: number): number {
    const start = this.#at + RECORD_HEADER_BYTES;
    this.#reserve(start + keyLength + valueLength + 16);
    return start;
  }

  /** The record whose key and value are there. */
  #close(type: number, keyLength: number, valueLength: number): number {
    const start = this.#at;
    const valueStart = start + RECORD_HEADER_BYTES + keyLength;
    const end = valueStart + valueLength;
    const bytes = this.#bytes;
    const view = this.#view;
    const position = this.#position + start;
    const mask = maskFor(bytes, valueStart, end, this.#position + valueStart);
    if (mask !== 0) unmask(bytes, valueStart, end, mask);
    bytes[start + 4] = type;
    bytes[start + 5] = mask;
    view.setUint16(start + 6, keyLength, true);
    view.setUint32(start + 8, valueLength, true);
    view.setUint32(start, crc32(bytes, seedOf(this.#salt, position), start + 4, end), true);
    this.#check = crc32(bytes, this.#check, start, start + RECORD_HEADER_BYTES);
    this.#count++;
    this.#at = end;
    return position;
  }

  /** Deletes of a range: `from` undefined takes the key without a seq too. */
  addRange(key: Uint8Array, from: number | undefined, to: number | undefined): number {
    const value = new Uint8Array(RANGE_BYTES);
    const view = viewOf(value);
    view.setFloat64(0, from ?? -1, true);
    view.setFloat64(8, to ?? Number.POSITIVE_INFINITY, true);
    return this.add(DELETE_RANGE, key, value);
  }

  /** The frame, in memory that the next `begin` takes again. */
  finish(sequence: number, previous: number): { bytes: Uint8Array; length: number; chain: number } {
    const [bytes, view, payloadBytes] = [this.#bytes, this.#view, this.#at - FRAME_HEADER_BYTES];
    const length = frameBytes(payloadBytes);
    bytes.set(MAGIC, 0);
    view.setUint32(4, payloadBytes, true);
    setUint64(view, 8, sequence);
    view.setUint32(16, this.#count, true);
    view.setUint32(20, previous, true);
    view.setUint32(24, this.#check, true);
    const chain = crc32(bytes, seedOf(this.#salt, this.#position), 0, 28);
    view.setUint32(28, chain, true);
    bytes.fill(PADDING, this.#at, length - TRAILER.length);
    bytes.set(TRAILER, length - TRAILER.length);
    return { bytes, length, chain };
  }

  #reserve(byteCount: number): void {
    if (byteCount <= this.#bytes.length) return;
    this.#resize(Math.max(byteCount, 2 * this.#bytes.length), this.#at);
  }

  #resize(byteCount: number, keep: number): void {
    const resized = unfilled(byteCount);
    resized.set(this.#bytes.subarray(0, keep));
    this.#bytes = resized;
    this.#view = viewOf(resized);
  }
}

/**
 * The header at `at`, when it is one that was written at this position; nothing is said of what follows it.
 */
export function readHeader(
  bytes: Uint8Array,
  at: number,
  position: number,
  salt: number,
): FrameHeader | undefined {
  if (at + FRAME_HEADER_BYTES > bytes.length) return undefined;
  for (let i = 0; i < MAGIC.length; i++) if (bytes[at + i] !== MAGIC[i]) return undefined;
  const view = viewOf(bytes);
  const chain = view.getUint32(at + 28, true);
  if (crc32(bytes, seedOf(salt, position), at, at + 28) !== chain) return undefined;
  const payloadBytes = view.getUint32(at + 4, true);
  return {
    length: frameBytes(payloadBytes),
    payloadBytes,
    sequence: getUint64(view, at + 8),
    count: view.getUint32(at + 16, true),
    previous: view.getUint32(at + 20, true),
    check: view.getUint32(at + 24, true),
    chain,
  };
}

/** The records of a frame, when every byte that matters is as it was written. */
export function readRecords(
  bytes: Uint8Array,
  at: number,
  position: number,
  salt: number,
  header: FrameHeader,
): RecordView[] | undefined {
  if (at + header.length > bytes.length || !endsWhole(bytes, at + header.length)) return undefined;
  const records: RecordView[] = [];
  const end = at + FRAME_HEADER_BYTES + header.payloadBytes;
  let check = 0;
  for (let start = at + FRAME_HEADER_BYTES; start < end; ) {
    const record = readRecord(bytes, start, position + start - at, salt);
    if (record === undefined || record.end > end) return undefined;
    check = crc32(bytes, check, start, start + RECORD_HEADER_BYTES);
    records.push(record);
    start = record.end;
  }
  return records.length === header.count && check === header.check ? records : undefined;
}

/** The record at `at`, when it is one that was written at this position of this segment. */
export function readRecord(
  bytes: Uint8Array,
  at: number,
  position: number,
  salt: number,
): RecordView | undefined {
  if (at + RECORD_HEADER_BYTES > bytes.length) return undefined;
  const keyStart = at + RECORD_HEADER_BYTES;
  const valueStart = keyStart + bytes[at + 6]! + 256 * bytes[at + 7]!;
  const end = valueStart + uint32At(bytes, at + 8);
  const type = bytes[at + 4]!;
  if (end > bytes.length || type < PUT || type > DELETE_RANGE) return undefined;
  if (type === DELETE_RANGE && end - valueStart !== RANGE_BYTES) return undefined;
  if (crc32(bytes, seedOf(salt, position), at + 4, end) !== uint32At(bytes, at)) return undefined;
  return { type, position, keyStart, valueStart, end, mask: bytes[at + 5]! };
}

/**
 * The value of the record at `at`, where it lies, when it is a put of these lengths that was written at this
 * position of this segment; else `undefined`.
 */
export function putValue(
  bytes: Uint8Array,
  at: number,
  position: number,
  salt: number,
  keyLength: number,
  valueBytes: number,
): Uint8Array | undefined {
  const start = at + RECORD_HEADER_BYTES + keyLength;
  if (
    start + valueBytes > bytes.length ||
    bytes[at + 4] !== PUT ||
    bytes[at + 6]! + 256 * bytes[at + 7]! !== keyLength ||
    uint32At(bytes, at + 8) !== valueBytes
  )
    return undefined;
  // One view for the checksum and the caller; views cost as much as checking a few hundred bytes.
  const value = new Uint8Array(bytes.buffer, bytes.byteOffset + start, valueBytes);
  const before = crc32(bytes, seedOf(salt, position), at + 4, start);
  if (crc32(value, before) !== uint32At(bytes, at)) return undefined;
  const mask = bytes[at + 5]!;
  if (mask !== 0) unmask(value, 0, valueBytes, mask);
  return value;
}

/** The value of a record, in memory of its own. */
export function copyValue(bytes: Uint8Array, { valueStart, end, mask }: RecordView): Uint8Array {
  const value = new Uint8Array(bytes.subarray(valueStart, end));
  if (mask !== 0) unmask(value, 0, value.length, mask);
  return value;
}

/** The bounds of a deleted range. */
export function rangeOf(bytes: Uint8Array, record: RecordView): { from: number; to: number } {
  const value = copyValue(bytes, record);
  const view = viewOf(value);
  return { from: view.getFloat64(0, true), to: view.getFloat64(8, true) };
}

export function endsWhole(bytes: Uint8Array, end: number): boolean {
  return TRAILER.every((byte, i) => bytes[end - TRAILER.length + i] === byte);
}

/** Whether the frame breaks off before its last byte: zeros take the place of the trailer's end. */
export function endsEarly(bytes: Uint8Array, end: number): boolean {
  const start = end - TRAILER.length;
  let i = 0;
  while (i < TRAILER.length && bytes[start + i] === TRAILER[i]) i++;
  return i < TRAILER.length && isZero(bytes, start + i, end);
}

export function isZero(bytes: Uint8Array, start: number, end: number): boolean {
  let at = start;
  // What lies ready for later commits is long: block by block it costs a tenth.
  for (; end - at >= ZEROS.length; at += ZEROS.length) if (!isZeroBlock(bytes, at)) return false;
  for (; at < end; at++) if (bytes[at] !== 0) return false;
  return true;
}

const ZEROS = new Uint8Array(4096);
/** Of what `isZeroBlock` looks at. */
export const ZERO_BLOCK_BYTES: number = ZEROS.length;

/** Whether so many bytes from `start` on, which there must be, are zeros. */
export function isZeroBlock(bytes: Uint8Array, start: number): boolean {
  return bytes[start] === 0 && Buffer.compare(bytes.subarray(start, start + ZEROS.length), ZEROS) === 0;
}

/**
 * Memory of its own that is about to be written over; filling it with zeros first would cost as much as
 * reading.
 */
export function unfilled(length: number): Uint8Array {
  return new Uint8Array(Buffer.allocUnsafeSlow(length).buffer);
}

/** Without a view: one for each record would cost more than the record. */
function uint32At(bytes: Uint8Array, at: number): number {
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

export function setUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value >>> 0, true);
  view.setUint32(at + 4, Math.floor(value / 0x1_0000_0000), true);
}

export function getUint64(view: DataView, at: number): number {
  return view.getUint32(at + 4, true) * 0x1_0000_0000 + view.getUint32(at, true);
}

/** What is masked once is stored; what is masked twice is the value. */
export function unmask(bytes: Uint8Array, start: number, end: number, mask: number): void {
  for (let i = start; i < end; i++) bytes[i]! ^= mask;
}

/**
 * 0, unless stored as it is the value would leave a sector of zeros; then a byte that leaves none. (A value
 * that holds a sector of every byte, above 127 KiB, is stored as it is: its sector of zeros could be taken
 * for one that a crash did not write.)
 */
function maskFor(bytes: Uint8Array, start: number, end: number, position: number): number {
  if (end - start < SECTOR_BYTES - KEY_ZEROS_MAX - 4) return 0;
  if (!leavesUniformSector(bytes, start, end, position, 0)) return 0;
  for (let mask = 1; mask < 256; mask++)
    if (!leavesUniformSector(bytes, start, end, position, mask)) return mask;
  return 0;
}

/**
 * Whether a sector may hold nothing of the value `bytes[start, end)` but this byte, and nothing else that is
 * surely not zero. `position`: of the value in the segment.
 */
function leavesUniformSector(
  bytes: Uint8Array,
  start: number,
  end: number,
  position: number,
  byte: number,
): boolean {
  const first = start + Math.ceil((position - KEY_ZEROS_MAX) / SECTOR_BYTES) * SECTOR_BYTES - position;
  for (let sector = first; sector + SECTOR_BYTES <= end + 4; sector += SECTOR_BYTES) {
    const [from, to] = [Math.max(start, sector), Math.min(end, sector + SECTOR_BYTES)];
    if (bytes[from] !== byte || bytes[to - 1] !== byte) continue;
    let at = from;
    while (at < to && bytes[at] === byte) at++;
    if (at === to) return true;
  }
  return false;
}
