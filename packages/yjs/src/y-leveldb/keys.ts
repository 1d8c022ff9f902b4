/**
 * The keys and values of y-leveldb's own databases: to read them when data moves over, and to order what the
 * level-shaped view shows.
 *
 * | key                             | value                                                       |
 * | ------------------------------- | ----------------------------------------------------------- |
 * | `["v1", name, "update", clock]` | a Yjs update                                                |
 * | `["v1", name, "meta", key]`     | a value in lib0's "any" encoding                            |
 * | `["v1_sv", name]`               | clock: varint, length: varint, state vector                 |
 *
 * A key is its parts, one after the other: text as 0, length: varint, UTF-8; a number as 1 and four bytes,
 * big end first. It reads nothing else and writes nothing to such a database.
 */

import { Reader, Writer } from "coppice";

export type LevelKey = readonly (string | number)[];

const TEXT = 0;
const NUMBER = 1;
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const encoder = new TextEncoder();

export function encodeLevelKey(key: LevelKey): Uint8Array {
  const writer = new Writer();
  for (const part of key) {
    if (typeof part === "string") writer.byte(TEXT).sized(encoder.encode(part));
    else {
      writer.byte(NUMBER);
      for (const shift of [24, 16, 8, 0]) writer.byte((part >>> shift) & 255);
    }
  }
  return writer.finish();
}

/** Throws for bytes that are no such key. */
export function decodeLevelKey(bytes: Uint8Array): LevelKey {
  const reader = new Reader(bytes);
  const key: (string | number)[] = [];
  while (reader.left > 0) {
    const kind = reader.byte();
    if (kind === TEXT) key.push(decoder.decode(reader.sized()));
    else if (kind === NUMBER) key.push(reader.raw(4).reduce((number, byte) => number * 256 + byte, 0));
    else throw new TypeError(`a key of y-leveldb has no part of kind ${kind}`);
  }
  return key;
}

/** The value under `["v1_sv", name]`. */
export function encodeStateVectorRecord(clock: number, stateVector: Uint8Array): Uint8Array {
  return new Writer().varint(clock).sized(stateVector).finish();
}
