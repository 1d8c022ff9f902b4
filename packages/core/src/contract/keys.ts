/**
 * Keys ↔ bytes, order preserving, and the checks every key passes. Shared by all byte-ordered backends.
 *
 * | part  | bytes                                                            |
 * | ----- | ---------------------------------------------------------------- |
 * | space | 1–16 of `a`–`z`, then 00                                         |
 * | id    | UTF-8, each 00 written as 00 FF, then 00 00                      |
 * | seq   | absent, or 8 bytes big-endian                                    |
 * | part  | absent, or 8 bytes big-endian                                    |
 *
 * Invariant: `compareBytes(encodeKey(a), encodeKey(b))` has the sign of `compareKeys(a, b)`. It holds because
 * UTF-8 never contains FF, so an id that continues (byte ≥ 01, or 00 FF) sorts after one that ends (00 00).
 * Ids are used as they are: no normalisation, `..` and separators mean nothing here.
 */

import { compareBytes, fromUtf8, hasLoneSurrogate, utf8 } from "../base/bytes.js";
import { crc32 } from "../base/checksum.js";
import { CoppiceError } from "../base/errors.js";
import { LIMITS } from "../base/limits.js";
import type { Deletion, Key, Range } from "./backend.js";

const SPACE = /^[a-z]{1,16}$/;
const NUMBER_BYTES = 8;
/** Up to here a loop is faster than the encoder, which costs a call out of JavaScript. */
const PLAIN_LENGTH_MAX = 128;
/** Room for a plain key, whose bytes are needed only to be summed up. */
const scratch = new Uint8Array(16 + 1 + PLAIN_LENGTH_MAX + 2 + NUMBER_BYTES);
/** What passed last: a commit names one document several times. */
let checkedId: string | undefined;
const CHECKED_SPACES_MAX = 64;
const checkedSpaces = new Set<string>();

/** Throws `ID_INVALID` for an id that is no string, is empty, too long, or holds a lone surrogate. */
export function checkId(id: string, idBytesMax: number = LIMITS.idBytesMax): void {
  if (typeof id !== "string") {
    throw new CoppiceError("ID_INVALID", "a document id must be a string", {
      details: { actual: typeof id },
    });
  }
  if (id === "") throw new CoppiceError("ID_INVALID", "a document id must not be empty");
  if (hasLoneSurrogate(id)) {
    throw new CoppiceError("ID_INVALID", "a document id must be well-formed Unicode", { details: { id } });
  }
  const bytes = id.length * 3 > idBytesMax ? utf8(id).length : id.length;
  if (bytes > idBytesMax) {
    throw new CoppiceError("ID_INVALID", "the document id is too long", {
      details: { limit: "idBytesMax", max: idBytesMax, actual: bytes },
    });
  }
}

function checkNumber(name: string, value: number | undefined): void {
  if (value !== undefined && (!Number.isSafeInteger(value) || value < 0)) {
    throw new CoppiceError("ARGUMENT_INVALID", `a key's ${name} must be a safe integer from 0`, {
      details: { [name]: value },
    });
  }
}

export function checkSpace(space: string): void {
  if (!SPACE.test(space)) throw new CoppiceError("ARGUMENT_INVALID", "not a space", { details: { space } });
}

export function checkKey(key: Key): void {
  const [space, id, seq, part] = key;
  if (!checkedSpaces.has(space)) {
    checkSpace(space);
    if (checkedSpaces.size < CHECKED_SPACES_MAX) checkedSpaces.add(space);
  }
  if (id !== checkedId) {
    checkId(id);
    checkedId = id;
  }
  checkNumber("seq", seq);
  checkNumber("part", part);
  if (seq === undefined && part !== undefined) {
    throw new CoppiceError("ARGUMENT_INVALID", "a key with a part needs a seq", {
      details: { key: [...key] },
    });
  }
}

export function checkRange(range: Range): void {
  checkSpace(range.space);
  if ("id" in range) {
    checkId(range.id);
    checkNumber("from", range.from);
    checkNumber("to", range.to);
  } else {
    for (const [name, text] of [
      ["idPrefix", range.idPrefix],
      ["after", range.after],
    ] as const) {
      if (text !== undefined && (typeof text !== "string" || hasLoneSurrogate(text))) {
        throw new CoppiceError("ARGUMENT_INVALID", `${name} must be a well-formed string`);
      }
    }
  }
}

/** True for `{ space, id, from?, to? }`, false for a key. */
export function isRangeDeletion(deletion: Deletion): deletion is Exclude<Deletion, Key> {
  return !Array.isArray(deletion);
}

export function compareKeys(a: Key, b: Key): number {
  if (a[0] !== b[0]) return a[0] < b[0] ? -1 : 1;
  const byId = a[1] === b[1] ? 0 : compareBytes(utf8(a[1]), utf8(b[1]));
  if (byId !== 0) return byId;
  const bySeq = (a[2] ?? -1) - (b[2] ?? -1);
  return bySeq !== 0 ? bySeq : (a[3] ?? -1) - (b[3] ?? -1);
}

/** A string that is equal for equal keys: for maps in memory. */
export function keyName(key: Key): string {
  return `${key[0]}/${key[2] ?? ""}/${key[3] ?? ""}/${key[1]}`;
}

export function encodeKey(key: Key): Uint8Array {
  const [space, id, seq, part] = key;
  const numbers = seq === undefined ? 0 : part === undefined ? 1 : 2;
  const bytes = encodeId(space, id, 2 + numbers * NUMBER_BYTES);
  const end = bytes.length - numbers * NUMBER_BYTES;
  if (seq !== undefined) putNumber(bytes, end, seq);
  if (part !== undefined) putNumber(bytes, end + NUMBER_BYTES, part);
  return bytes;
}

/** The checksum of an encoded key. */
export function crc32OfKey(key: Key): number {
  const [space, id, seq, part] = key;
  const start = space.length + 1;
  if (part !== undefined || id.length > PLAIN_LENGTH_MAX || !putPlainId(scratch, space, id))
    return crc32(encodeKey(key));
  let end = start + id.length;
  scratch[end++] = 0;
  scratch[end++] = 0;
  if (seq !== undefined) {
    putNumber(scratch, end, seq);
    end += NUMBER_BYTES;
  }
  return crc32(scratch, 0, 0, end);
}

/** The same for a key with this seq, from that of the key without. */
export function crc32OfSeq(keyCrc: number, seq: number): number {
  putNumber(scratch, 0, seq);
  return crc32(scratch, keyCrc, 0, NUMBER_BYTES);
}

/** Throws a `TypeError` for bytes that `encodeKey` never makes. */
export function decodeKey(bytes: Uint8Array): Key {
  const spaceEnd = bytes.indexOf(0);
  if (spaceEnd < 1) throw new TypeError("not a key: no space");
  const space = fromUtf8(bytes.subarray(0, spaceEnd));
  if (!SPACE.test(space)) throw new TypeError("not a key: no space");
  const id: number[] = [];
  let at = spaceEnd + 1;
  for (;;) {
    const byte = bytes[at];
    if (byte === undefined) throw new TypeError("not a key: the id does not end");
    at++;
    if (byte !== 0) {
      id.push(byte);
      continue;
    }
    const next = bytes[at];
    at++;
    if (next === 0) break;
    if (next !== 0xff) throw new TypeError("not a key: bad escape in the id");
    id.push(0);
  }
  const text = fromUtf8(Uint8Array.from(id));
  const left = bytes.length - at;
  if (text === "" || (left !== 0 && left !== NUMBER_BYTES && left !== 2 * NUMBER_BYTES)) {
    throw new TypeError("not a key: wrong length");
  }
  if (left === 0) return [space, text];
  const seq = takeNumber(bytes, at);
  return left === NUMBER_BYTES
    ? [space, text, seq]
    : [space, text, seq, takeNumber(bytes, at + NUMBER_BYTES)];
}

/** The byte range `[start, end)` that holds exactly the keys of a range. */
export function encodeRange(range: Range): { readonly start: Uint8Array; readonly end: Uint8Array } {
  if ("id" in range) {
    const start = encodeId(range.space, range.id, 2 + (range.from === undefined ? 0 : NUMBER_BYTES));
    if (range.from !== undefined) putNumber(start, start.length - NUMBER_BYTES, range.from);
    const end = encodeId(range.space, range.id, 2 + (range.to === undefined ? 0 : NUMBER_BYTES));
    if (range.to !== undefined) putNumber(end, end.length - NUMBER_BYTES, range.to);
    else end[end.length - 1] = 1;
    return { start, end };
  }
  const prefix = range.idPrefix ?? "";
  const end = encodeId(range.space, prefix, 1);
  end[end.length - 1] = 0xff;
  const all = encodeId(range.space, prefix, 0);
  if (range.after === undefined) return { start: all, end };
  const after = encodeId(range.space, range.after, 2);
  after[after.length - 1] = 1;
  return { start: compareBytes(after, all) > 0 ? after : all, end };
}

/** space 00 id, followed by `tail` zero bytes. */
function encodeId(space: string, id: string, tail: number): Uint8Array {
  return encodePlainId(space, id, tail) ?? encodeAnyId(space, utf8(id), tail);
}

/** Of short ids of ASCII characters, which nearly all are; `undefined` for others. */
function encodePlainId(space: string, id: string, tail: number): Uint8Array | undefined {
  if (id.length > PLAIN_LENGTH_MAX) return undefined;
  const bytes = new Uint8Array(space.length + 1 + id.length + tail);
  return putPlainId(bytes, space, id) ? bytes : undefined;
}

/** space 00 id; false when the id is not plain. */
function putPlainId(bytes: Uint8Array, space: string, id: string): boolean {
  for (let i = 0; i < space.length; i++) bytes[i] = space.charCodeAt(i);
  const start = space.length + 1;
  bytes[space.length] = 0;
  for (let i = 0; i < id.length; i++) {
    const unit = id.charCodeAt(i);
    if (unit === 0 || unit >= 0x80) return false;
    bytes[start + i] = unit;
  }
  return true;
}

function encodeAnyId(space: string, text: Uint8Array, tail: number): Uint8Array {
  let zeros = 0;
  for (const byte of text) if (byte === 0) zeros++;
  const bytes = new Uint8Array(space.length + 1 + text.length + zeros + tail);
  for (let i = 0; i < space.length; i++) bytes[i] = space.charCodeAt(i);
  let at = space.length + 1;
  for (const byte of text) {
    bytes[at++] = byte;
    if (byte === 0) bytes[at++] = 0xff;
  }
  return bytes;
}

function putNumber(bytes: Uint8Array, at: number, value: number): void {
  let high = Math.floor(value / 0x1_0000_0000);
  let low = value >>> 0;
  for (let i = 3; i >= 0; i--) {
    bytes[at + i] = high & 0xff;
    bytes[at + 4 + i] = low & 0xff;
    high >>>= 8;
    low >>>= 8;
  }
}

function takeNumber(bytes: Uint8Array, at: number): number {
  let value = 0;
  for (let i = 0; i < NUMBER_BYTES; i++) value = value * 256 + bytes[at + i]!;
  if (!Number.isSafeInteger(value)) throw new TypeError("not a key: number too large");
  return value;
}
