/**
 * Heads as bytes: a version, and what a peer presents to ask for a `diff`.
 *
 * | part  | bytes                                                     |
 * | ----- | --------------------------------------------------------- |
 * | count | varint                                                    |
 * | heads | 32 each: hashes of changes, in ascending order, no repeat |
 *
 * A hash covers the change and all it builds on, so equal heads mean equal content.
 */

import { fromHex, Reader, toHex, Writer } from "coppice";

const HASH_BYTES = 32;

/**
 * The peer version that `storage.diff` of a document of this model takes:
 * `encodeHeads(Automerge.getHeads(doc))`. A peer may add older heads that the store is known to have;
 * hashes that the store lacks are ignored. Throws a `TypeError` for what is no hash.
 */
export function encodeHeads(heads: readonly string[]): Uint8Array {
  const sorted = [...new Set(heads)].sort();
  const writer = new Writer(8 + sorted.length * HASH_BYTES).varint(sorted.length);
  for (const head of sorted) {
    if (!/^[0-9a-f]{64}$/.test(head)) throw new TypeError(`not the hash of a change: ${head}`);
    writer.raw(fromHex(head));
  }
  return writer.finish();
}

/** The heads that `encodeHeads` wrote. Throws a `TypeError` or `RangeError` for other bytes. */
export function decodeHeads(bytes: Uint8Array): string[] {
  const reader = new Reader(bytes);
  const count = reader.varint();
  if (count * HASH_BYTES !== reader.left) throw new TypeError("these are no heads");
  const heads: string[] = [];
  for (let i = 0; i < count; i++) heads.push(toHex(reader.raw(HASH_BYTES)));
  if (heads.some((head, index) => index > 0 && head <= heads[index - 1]!)) {
    throw new TypeError("these heads are not in order");
  }
  return heads;
}
