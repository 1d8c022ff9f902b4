/**
 * Bytes: compare, join, UTF-8, varints. No opinions, no state.
 *
 * Invariants: nothing here keeps a reference to its input after it returns, except `Reader`, whose
 * `bytes` are views of the input. Varints are unsigned LEB128 of safe integers (at most 8 bytes).
 */

import { crc32 } from "./checksum.js";

const encoder = new TextEncoder();
// A leading U+FEFF is a character like any other: without `ignoreBOM` it would be dropped.
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Up to here a loop is faster than the encoder, which costs a call out of JavaScript. */
const LOOP_LENGTH_MAX = 64;

/** UTF-8 bytes of a string. Lone surrogates must have been refused before (they would become U+FFFD). */
export function utf8(text: string): Uint8Array {
  if (text.length > LOOP_LENGTH_MAX) return encoder.encode(text);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    if (unit >= 0x80) return encoder.encode(text);
    bytes[i] = unit;
  }
  return bytes;
}

/** The string of UTF-8 bytes; throws a `TypeError` for bytes that are not valid UTF-8. */
export function fromUtf8(bytes: Uint8Array): string {
  return decoder.decode(bytes);
}

/** True when the string holds a UTF-16 surrogate without its partner. */
export function hasLoneSurrogate(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    if (unit < 0xd800 || unit > 0xdfff) continue;
    const next = text.charCodeAt(i + 1);
    if (unit > 0xdbff || !(next >= 0xdc00 && next <= 0xdfff)) return true;
    i++;
  }
  return false;
}

/** Byte order: negative, zero or positive like a sort comparator. */
export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const shared = Math.min(a.length, b.length);
  for (let i = 0; i < shared; i++) {
    const difference = a[i]! - b[i]!;
    if (difference !== 0) return difference;
  }
  return a.length - b.length;
}

export function equalBytes(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return a.length === b.length && compareBytes(a, b) === 0;
}

export function concatBytes(parts: readonly Uint8Array[]): Uint8Array {
  let length = 0;
  for (const part of parts) length += part.length;
  const out = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** Two digits for each byte: formatting each anew costs five times as much. */
const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));

export function toHex(bytes: Uint8Array): string {
  let out = "";
  for (let i = 0; i < bytes.length; i++) out += HEX[bytes[i]!]!;
  return out;
}

/** The bytes of a hexadecimal string; throws a `TypeError` when it is not one. */
export function fromHex(text: string): Uint8Array {
  if (text.length % 2 !== 0 || !/^[0-9a-fA-F]*$/.test(text)) throw new TypeError("not a hexadecimal string");
  return Uint8Array.from({ length: text.length / 2 }, (_, i) =>
    Number.parseInt(text.slice(2 * i, 2 * i + 2), 16),
  );
}

/** Bytes that a varint of `value` takes. */
export function varintLength(value: number): number {
  let length = 1;
  while (value >= 0x80) {
    value = Math.floor(value / 0x80);
    length++;
  }
  return length;
}

/** Memory that many share for a moment, each byte of it once. */
let poolMemory = new ArrayBuffer(0);
let pool = new Uint8Array(poolMemory);
let poolUsed = 0;
const POOL_BYTES = 256 * 1024;
const POOLED_BYTES_MAX = 16 * 1024;

/** Where so many bytes of the pool begin. */
function takePooled(byteCount: number): number {
  if (poolUsed + byteCount > pool.length) {
    poolMemory = new ArrayBuffer(POOL_BYTES);
    pool = new Uint8Array(poolMemory);
    poolUsed = 0;
  }
  const start = poolUsed;
  poolUsed += byteCount;
  return start;
}

/**
 * A copy that is needed for a moment only: it shares its memory with others, so keeping a few bytes would
 * keep 256 KiB; in return it costs a third of memory of its own.
 */
export function pooledCopy(bytes: Uint8Array): Uint8Array {
  if (bytes.length > POOLED_BYTES_MAX) return new Uint8Array(bytes);
  const start = takePooled(bytes.length);
  pool.set(bytes, start);
  return new Uint8Array(poolMemory, start, bytes.length);
}

/** A growing byte buffer. `finish` returns a copy-free view of exactly what was written. */
export class Writer {
  #bytes: Uint8Array;
  #start = 0;
  #at = 0;
  #end: number;

  /**
   * `pooled`: what is written is needed for a moment only, as `pooledCopy` is.
   */
  constructor(bytesExpected = 256, pooled = false) {
    if (pooled && bytesExpected <= POOLED_BYTES_MAX) {
      this.#start = takePooled(bytesExpected);
      this.#bytes = pool;
      this.#at = this.#start;
      this.#end = this.#start + bytesExpected;
    } else {
      this.#bytes = new Uint8Array(bytesExpected);
      this.#end = bytesExpected;
    }
  }

  get length(): number {
    return this.#at - this.#start;
  }

  #reserve(count: number): void {
    if (this.#at + count <= this.#end) return;
    const { length } = this;
    const grown = new Uint8Array(Math.max((this.#end - this.#start) * 2, length + count));
    grown.set(this.#bytes.subarray(this.#start, this.#at));
    this.#bytes = grown;
    this.#start = 0;
    this.#at = length;
    this.#end = grown.length;
  }

  byte(value: number): this {
    this.#reserve(1);
    this.#bytes[this.#at++] = value;
    return this;
  }

  /** Little-endian, like everything fixed-width inside values (keys alone are big-endian). */
  uint32(value: number): this {
    this.#reserve(4);
    this.#bytes[this.#at++] = value & 0xff;
    this.#bytes[this.#at++] = (value >>> 8) & 0xff;
    this.#bytes[this.#at++] = (value >>> 16) & 0xff;
    this.#bytes[this.#at++] = value >>> 24;
    return this;
  }

  varint(value: number): this {
    if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`not a varint: ${value}`);
    this.#reserve(8);
    const bytes = this.#bytes;
    let at = this.#at;
    while (value > 0x7fff_ffff) {
      bytes[at++] = (value % 0x80) | 0x80;
      value = Math.floor(value / 0x80);
    }
    // From here on whole numbers of 31 bits, which cost less.
    let rest = value | 0;
    while (rest >= 0x80) {
      bytes[at++] = (rest & 0x7f) | 0x80;
      rest >>>= 7;
    }
    bytes[at++] = rest;
    this.#at = at;
    return this;
  }

  raw(bytes: Uint8Array): this {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#at);
    this.#at += bytes.length;
    return this;
  }

  /** Length as a varint, then the bytes. */
  sized(bytes: Uint8Array): this {
    return this.varint(bytes.length).raw(bytes);
  }

  /** Of what was written, continuing from that of what came before it. */
  checksum(previous: number): number {
    return crc32(this.#bytes, previous, this.#start, this.#at);
  }

  finish(): Uint8Array {
    // Costs half of what `subarray` does; most of what is pooled lies in the pool of now.
    if (this.#bytes === pool) return new Uint8Array(poolMemory, this.#start, this.#at - this.#start);
    return this.#bytes.subarray(this.#start, this.#at);
  }
}

/** Reads what `Writer` wrote. Every method throws a `RangeError` rather than read past the end. */
export class Reader {
  readonly #bytes: Uint8Array;
  #at: number;

  constructor(bytes: Uint8Array, at = 0) {
    this.#bytes = bytes;
    this.#at = at;
  }

  get at(): number {
    return this.#at;
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  byte(): number {
    const value = this.#bytes[this.#at];
    if (value === undefined) throw new RangeError("bytes end too early");
    this.#at++;
    return value;
  }

  uint32(): number {
    const bytes = this.raw(4);
    return (bytes[0]! | (bytes[1]! << 8) | (bytes[2]! << 16) | (bytes[3]! << 24)) >>> 0;
  }

  varint(): number {
    let value = 0;
    let scale = 1;
    for (let i = 0; i < 8; i++) {
      const byte = this.byte();
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        if (!Number.isSafeInteger(value)) break;
        return value;
      }
      scale *= 0x80;
    }
    throw new RangeError("varint is too large");
  }

  /** A view, not a copy. */
  raw(count: number): Uint8Array {
    if (count > this.left) throw new RangeError("bytes end too early");
    const bytes = this.#bytes.subarray(this.#at, this.#at + count);
    this.#at += count;
    return bytes;
  }

  sized(): Uint8Array {
    return this.raw(this.varint());
  }
}
