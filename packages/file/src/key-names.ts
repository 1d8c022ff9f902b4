/**
 * Names: ids as strings whose native order is the order of keys, and encoded keys taken apart without the
 * cost of a general decoder.
 *
 * A name is the id's UTF-8 bytes, escaped as in the key codec of core, one character a byte. For an id of
 * plain ASCII that is the id itself, and nothing is made.
 */

import { decodeKey, encodeKey } from "coppice";

/** The name of an id; ids were checked before. */
export function nameOf(id: string): string {
  for (let i = 0; i < id.length; i++) {
    const unit = id.charCodeAt(i);
    if (unit === 0 || unit > 0x7f) return escapedName(id);
  }
  return id;
}

/** Names of exactly the ids that start with this prefix start with the result. */
export function prefixNameOf(idPrefix: string): string {
  return idPrefix === "" ? "" : nameOf(idPrefix);
}

function escapedName(id: string): string {
  const encoded = encodeKey(["a", id]);
  return latin1(
    Buffer.from(encoded.buffer, encoded.byteOffset + 2, encoded.length - 4),
    0,
    encoded.length - 4,
  );
}

export interface KeyParts {
  space: string;
  name: string;
  /** -1: none. */
  seq: number;
  part: number;
}

const spaces = new Map<string, string>();

/**
 * Takes an encoded key apart, into `into`. Keys in frames passed their checksum, so they are well-formed.
 */
export function partsOf(bytes: Buffer, start: number, end: number, into: KeyParts): KeyParts {
  const spaceEnd = bytes.indexOf(0, start);
  const space = latin1(bytes, start, spaceEnd);
  into.space = spaces.get(space) ?? intern(space);
  let at = spaceEnd + 1;
  while (at < end && !(bytes[at] === 0 && bytes[at + 1] !== 0xff)) at += bytes[at] === 0 ? 2 : 1;
  into.name = latin1(bytes, spaceEnd + 1, at);
  at += 2;
  into.seq = at < end ? bytes.readUInt32BE(at) * 0x1_0000_0000 + bytes.readUInt32BE(at + 4) : -1;
  at += 8;
  into.part = at < end ? bytes.readUInt32BE(at) * 0x1_0000_0000 + bytes.readUInt32BE(at + 4) : -1;
  return into;
}

const SPACE_BYTES_MAX = 16;

/** Whether these bytes have the form of an encoded key. */
export function isKey(bytes: Buffer, start: number, end: number): boolean {
  let at = start;
  // No further: of a long text each byte would look at all letters behind it.
  const spaceEnd = Math.min(end, start + SPACE_BYTES_MAX);
  while (at < spaceEnd && isLetter(bytes[at]!)) at++;
  if (at === start || bytes[at] !== 0) return false;
  at++;
  while (at < end && !(bytes[at] === 0 && bytes[at + 1] !== 0xff)) at += bytes[at] === 0 ? 2 : 1;
  const numbers = end - at - 2;
  return bytes[at + 1] === 0 && (numbers === 0 || numbers === 8 || numbers === 16);
}

function isLetter(byte: number): boolean {
  return byte >= 0x61 && byte <= 0x7a;
}

/** The id of a name. */
export function idOf(name: string): string {
  for (let i = 0; i < name.length; i++) {
    const unit = name.charCodeAt(i);
    if (unit === 0 || unit > 0x7f) return decodeKey(Buffer.from(`a\0${name}\0\0`, "latin1"))[1];
  }
  return name;
}

/** Bytes of the encoded key. */
export function keyBytes(space: string, name: string, seq: number, part: number): number {
  return space.length + 1 + name.length + 2 + (seq < 0 ? 0 : part < 0 ? 8 : 16);
}

/** Encodes the key at `at`, as `encodeKey` of core does. */
export function putKey(
  bytes: Uint8Array,
  at: number,
  space: string,
  name: string,
  seq: number,
  part: number,
): void {
  for (let i = 0; i < space.length; i++) bytes[at++] = space.charCodeAt(i);
  bytes[at++] = 0;
  for (let i = 0; i < name.length; i++) bytes[at++] = name.charCodeAt(i);
  bytes[at++] = 0;
  bytes[at++] = 0;
  if (seq < 0) return;
  putNumber(bytes, at, seq);
  if (part >= 0) putNumber(bytes, at + 8, part);
}

function putNumber(bytes: Uint8Array, at: number, value: number): void {
  putUint32(bytes, at, Math.floor(value / 0x1_0000_0000));
  putUint32(bytes, at + 4, value >>> 0);
}

function putUint32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}

/** Without the arguments that `toString` looks at first. The declarations of Node leave the method out. */
function latin1(bytes: Buffer, start: number, end: number): string {
  return (bytes as Buffer & { latin1Slice(start: number, end: number): string }).latin1Slice(start, end);
}

/** There are few spaces; one string for all their keys. */
function intern(space: string): string {
  if (spaces.size < 1000) spaces.set(space, space);
  return space;
}
