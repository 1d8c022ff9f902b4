/**
 * What can be read of Automerge's bytes without Automerge: where a chunk begins and ends.
 *
 * | part     | bytes                                                            |
 * | -------- | ---------------------------------------------------------------- |
 * | magic    | 85 6F 4A 83                                                      |
 * | checksum | 4: the first bytes of SHA-256 over type, length and contents     |
 * | type     | 1: 0 document, 1 change, 2 compressed change                     |
 * | length   | LEB128                                                           |
 * | contents | as many bytes                                                    |
 *
 * An event is exactly one change chunk; the snapshot is exactly one document chunk. Automerge takes any
 * number of chunks in a row, and silently ignores everything from the first one on that it cannot read
 * (`loadIncremental`), so each event is measured here before it is joined with others.
 */

import { toHex } from "coppice";

const MAGIC = [0x85, 0x6f, 0x4a, 0x83] as const;
const CHECKSUM_AT = 4;
const TYPE_AT = 8;
const LENGTH_AT = 9;

export type ChunkType = "document" | "change";

export interface Chunk {
  readonly type: ChunkType;
  readonly bytes: Uint8Array;
}

/** What keeps these bytes from being exactly one chunk of that type; `undefined` when nothing does. */
export function chunkProblem(bytes: Uint8Array, type: ChunkType): string | undefined {
  try {
    const { end, type: found } = measure(bytes, 0);
    if (end !== bytes.length) return `${bytes.length - end} bytes after the end of the chunk`;
    return found === type ? undefined : `a ${found}, where a ${type} is wanted`;
  } catch (error) {
    return (error as Error).message;
  }
}

/** The chunks that lie in a row. Throws a `TypeError` when something between them is none. */
export function splitChunks(bytes: Uint8Array): Chunk[] {
  return [...eachChunk(bytes)];
}

/** One after the other, up to where it throws like `splitChunks`. */
export function* eachChunk(bytes: Uint8Array): Generator<Chunk> {
  for (let at = 0; at < bytes.length; ) {
    const { type, end } = measure(bytes, at);
    yield { type, bytes: bytes.subarray(at, end) };
    at = end;
  }
}

/** The first eight hexadecimal digits of the hash that the chunk should have. */
export function statedChecksum(chunk: Uint8Array): string {
  return toHex(chunk.subarray(CHECKSUM_AT, TYPE_AT));
}

function measure(bytes: Uint8Array, at: number): { readonly type: ChunkType; readonly end: number } {
  if (MAGIC.some((byte, index) => bytes[at + index] !== byte)) throw new TypeError("no Automerge chunk");
  const code = bytes[at + TYPE_AT];
  if (code === undefined || code > 2) throw new TypeError("a chunk of an unknown type");
  const type = code === 0 ? "document" : "change";
  let length = 0;
  let scale = 1;
  for (let next = at + LENGTH_AT; ; next++, scale *= 128) {
    const byte = bytes[next];
    if (byte === undefined) throw new TypeError("a chunk without an end");
    length += (byte & 0x7f) * scale;
    if (!Number.isSafeInteger(length)) throw new TypeError("a chunk with an impossible length");
    if (byte >= 0x80) continue;
    const end = next + 1 + length;
    if (end > bytes.length) throw new TypeError("a chunk that was cut short");
    return { type, end };
  }
}
