/**
 * Loro's version vector as bytes, in one order: a version, and what a peer presents to ask for a `diff`.
 *
 * | part    | bytes                                                                        |
 * | ------- | ---------------------------------------------------------------------------- |
 * | count   | varint                                                                       |
 * | peer    | varint of 64 bits, ascending from pair to pair                               |
 * | counter | varint of twice the number of operations of that peer (zigzag, never negative) |
 *
 * These are bytes that `VersionVector.encode` could have written; it writes the peers in any order, and all
 * orders are read here. An operation is never taken back and its content is decided by peer and counter, so
 * equal vectors mean equal content, deletions included.
 */

import { Reader, Writer } from "coppice";
import type { LoroDoc, PeerID } from "loro-crdt";

/** For each peer, how many of its operations are known. */
export type Clocks = Map<PeerID, number>;

const COUNTER_MAX = 2 ** 31;

export function clocksOf(doc: LoroDoc): Clocks {
  const vector = doc.oplogVersion();
  try {
    return vector.toJSON();
  } finally {
    vector.free();
  }
}

export function encodeClocks(clocks: Clocks): Uint8Array {
  const pairs = [...clocks]
    .filter(([, count]) => count > 0)
    .map(([peer, count]) => ({ peer: BigInt(peer), count }));
  pairs.sort((a, b) => (a.peer < b.peer ? -1 : 1));
  const writer = new Writer(8 + pairs.length * 16).varint(pairs.length);
  for (const { peer, count } of pairs) writer.raw(varint64(peer)).varint(count * 2);
  return writer.finish();
}

/** Throws a `TypeError` or `RangeError` for bytes that are no version vector. */
export function decodeClocks(bytes: Uint8Array): Clocks {
  const reader = new Reader(bytes);
  const clocks: Clocks = new Map();
  for (let left = reader.varint(); left > 0; left--) {
    const peer = String(readVarint64(reader)) as PeerID;
    const doubled = reader.varint();
    if (doubled % 2 === 1 || doubled / 2 >= COUNTER_MAX || clocks.has(peer)) {
      throw new TypeError("not a version vector of Loro");
    }
    clocks.set(peer, doubled / 2);
  }
  if (reader.left > 0) throw new TypeError("bytes after the end of the version vector");
  return clocks;
}

/** True when `clocks` has everything that `other` has. */
export function covers(clocks: Clocks, other: ReadonlyMap<PeerID, number>): boolean {
  for (const [peer, count] of other) if ((clocks.get(peer) ?? 0) < count) return false;
  return true;
}

function varint64(value: bigint): Uint8Array {
  const bytes: number[] = [];
  let left = value;
  for (; left >= 0x80n; left >>= 7n) bytes.push(Number(left & 0x7fn) | 0x80);
  bytes.push(Number(left));
  return Uint8Array.from(bytes);
}

function readVarint64(reader: Reader): bigint {
  let value = 0n;
  for (let shift = 0n; shift < 70n; shift += 7n) {
    const byte = reader.byte();
    value |= BigInt(byte & 0x7f) << shift;
    if (byte >= 0x80) continue;
    if (value >= 2n ** 64n) break;
    return value;
  }
  throw new RangeError("a number of more than 64 bits");
}
