/**
 * Compression with what every browser and Node 20 bring: raw deflate (RFC 1951) through streams. Where Node's
 * own zlib is at hand, `inflate` uses it, because a load waits for it: two to three times as fast as a
 * stream.
 *
 * Invariant: `inflate` never yields more than the caller expects, so a damaged or hostile value cannot fill
 * the memory.
 */

/** Below this size compression costs more than it saves. */
export const COMPRESS_BYTES_MIN = 4096;

/** Raw deflate of the bytes. */
export function deflate(bytes: Uint8Array): Promise<Uint8Array> {
  return collect(pipe(bytes, new CompressionStream("deflate-raw")), Number.MAX_SAFE_INTEGER);
}

/**
 * The bytes that `deflate` took; throws a `TypeError` when they are damaged or not exactly `length` bytes.
 */
export async function inflate(bytes: Uint8Array, length: number): Promise<Uint8Array> {
  const out = await (inflateByNode(bytes, length) ??
    collect(pipe(bytes, new DecompressionStream("deflate-raw")), length));
  if (out.length !== length) throw new TypeError("compressed bytes have another length than recorded");
  return out;
}

interface NodeZlib {
  inflateRaw(
    bytes: Uint8Array,
    options: { chunkSize: number; maxOutputLength: number },
    done: (error: Error | null, out: Uint8Array) => void,
  ): void;
}

/** Without an import, so that core still loads in browsers; `undefined` there. */
function inflateByNode(bytes: Uint8Array, length: number): Promise<Uint8Array> | undefined {
  const { process } = globalThis as { process?: { getBuiltinModule?: (name: string) => unknown } };
  const zlib = process?.getBuiltinModule?.("node:zlib") as NodeZlib | undefined;
  if (zlib === undefined || length === 0) return undefined;
  return new Promise((resolve, reject) => {
    // Made in one piece, with room for one byte more, which tells that there is none.
    const options = { chunkSize: Math.max(64, length + 1), maxOutputLength: length };
    zlib.inflateRaw(bytes, options, (error, out) => {
      if (error === null) resolve(new Uint8Array(out.buffer, out.byteOffset, out.length));
      else reject(new TypeError("compressed bytes are damaged or longer than recorded", { cause: error }));
    });
  });
}

function pipe(
  bytes: Uint8Array,
  stream: CompressionStream | DecompressionStream,
): ReadableStream<Uint8Array> {
  return new Blob([bytes as BlobPart])
    .stream()
    .pipeThrough(stream as ReadableWritablePair<Uint8Array, BufferSource>);
}

async function collect(stream: ReadableStream<Uint8Array>, lengthMax: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  const reader = stream.getReader();
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    length += value.length;
    if (length > lengthMax) {
      await reader.cancel();
      throw new TypeError("compressed bytes are longer than recorded");
    }
    chunks.push(value);
  }
  if (chunks.length === 1) return chunks[0]!;
  const out = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    out.set(chunk, at);
    at += chunk.length;
  }
  return out;
}
