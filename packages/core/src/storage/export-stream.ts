/**
 * One document as a stream of bytes, and back.
 *
 * | bytes  | field                                                            |
 * | ------ | ---------------------------------------------------------------- |
 * | 8      | `coppice` and 00                                                 |
 * | 1      | version of this format: 1                                        |
 * | frames | a begin, records, and an end; after another begin only what follows it counts |
 *
 * | bytes | of a frame                                   |
 * | ----- | -------------------------------------------- |
 * | 1     | kind: 1 begin, 2 record, 3 end               |
 * | 4     | length of the body                           |
 * | n     | body                                         |
 * | 4     | CRC-32 over kind, length and body            |
 *
 * | kind   | body                                                                            |
 * | ------ | ------------------------------------------------------------------------------- |
 * | begin  | msgpack map: `id`; `clock`; `meta`, the stored value of meta                      |
 * | record | sized space; seq + 1 and part + 1 as varints, 0 where absent; the stored value    |
 * | end    | msgpack map: `records` since the last begin; `digest`, SHA-256 of all bytes before |
 *
 * Invariants: nothing is taken for a whole stream that was cut, continued, or changed in any byte; no length
 * is believed before it is known to be allowed. What the records mean is judged in `image-check.ts`.
 */

import { concatBytes, equalBytes, fromUtf8, Reader, utf8, Writer } from "../base/bytes.js";
import { crc32 } from "../base/checksum.js";
import { Sha256 } from "../base/digest.js";
import { CoppiceError, isCoppiceError } from "../base/errors.js";
import type { Limits } from "../base/limits.js";
import type { Key } from "../contract/backend.js";
import { checkId, checkSpace } from "../contract/keys.js";
import type { ImageBegin, ImagePart } from "./image.js";
import { Fields, packRecord, sealMeta, unpackRecord, unsealMeta } from "./meta.js";

const MAGIC = utf8("coppice\0");
export const EXPORT_VERSION = 1;
const BEGIN = 1;
const RECORD = 2;
const END = 3;
const HEAD_BYTES = 5;
const CRC_BYTES = 4;
const CHUNK_BYTES = 64 * 1024;

/** The stream of an image; nothing for an empty one. `time` is for meta. */
export async function* encodeExport(
  parts: AsyncIterable<ImagePart>,
  time: () => number,
): AsyncGenerator<Uint8Array> {
  const digest = new Sha256();
  let waiting: Uint8Array[] = [];
  let waitingBytes = 0;
  let records = 0;
  let begun = false;
  const put = (bytes: Uint8Array) => {
    digest.update(bytes);
    waiting.push(bytes);
    waitingBytes += bytes.length;
  };
  for await (const part of parts) {
    if (part.kind === "begin") {
      if (!begun) put(concatBytes([MAGIC, Uint8Array.of(EXPORT_VERSION)]));
      begun = true;
      const { id, clock, meta, metaBytes } = part;
      put(frame(BEGIN, packRecord({ id, clock, meta: metaBytes ?? sealMeta(id, meta, time()) })));
      records = 0;
    } else if (part.kind === "record") {
      put(frame(RECORD, packEntry(part.key, part.value)));
      records++;
    } else {
      const end = frame(END, packRecord({ records, digest: digest.finish() }));
      yield concatBytes([...waiting, end]);
      return;
    }
    if (waitingBytes < CHUNK_BYTES) continue;
    yield concatBytes(waiting);
    waiting = [];
    waitingBytes = 0;
  }
}

/**
 * The image of a stream, part by part as it comes; the end only when the whole stream is as it was written.
 * Throws `EXPORT_INVALID`; `FORMAT_UNSUPPORTED` for a stream of a newer version.
 */
export async function* decodeExport(
  stream: AsyncIterable<Uint8Array>,
  limits: Limits,
): AsyncGenerator<ImagePart> {
  const source = new Source(stream);
  try {
    const start = await source.start();
    if (!equalBytes(start.subarray(0, MAGIC.length), MAGIC))
      throw invalid("it does not begin like an export");
    if (start.at(-1) !== EXPORT_VERSION) {
      throw new CoppiceError(
        "FORMAT_UNSUPPORTED",
        "the export was written by a newer version of Coppice; upgrade",
        {
          details: { format: start.at(-1), supported: EXPORT_VERSION },
        },
      );
    }
    let opened: ImageBegin | undefined;
    let records = 0;
    for (;;) {
      const { kind, body } = await source.frame(limits);
      if (kind === BEGIN) {
        opened = opening(() => openBegin(body, limits));
        records = 0;
        yield opened;
      } else if (opened === undefined) {
        throw invalid("it does not begin with a document");
      } else if (kind === RECORD) {
        records++;
        const { id } = opened;
        yield { kind: "record", ...opening(() => openEntry(id, body)) };
      } else {
        assertEnd(body, records, source.digest());
        await source.assertEnded();
        const { meta, metaBytes, clock } = opened;
        yield { kind: "end", meta, metaBytes, clock, crc: 0 };
        return;
      }
    }
  } catch (error) {
    // A reader of fields throws these for bytes that are not what they should be.
    if (error instanceof RangeError || error instanceof TypeError) throw invalid(error.message, error);
    throw error;
  } finally {
    await source.close();
  }
}

/** Ids, spaces and meta of a stream are bytes of that stream, so what is wrong with them is wrong with it. */
function opening<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!isCoppiceError(error) || error.code === "FORMAT_UNSUPPORTED") throw error;
    throw invalid(error.message, error);
  }
}

/** The error for a stream that is no export, or not a whole one. */
export function invalid(what: string, cause?: unknown): CoppiceError {
  return new CoppiceError("EXPORT_INVALID", `the export cannot be used: ${what}; nothing was imported`, {
    cause,
  });
}

function frame(kind: number, body: Uint8Array): Uint8Array {
  const writer = new Writer(HEAD_BYTES + body.length + CRC_BYTES);
  writer.byte(kind).uint32(body.length).raw(body);
  return writer.uint32(crc32(writer.finish())).finish();
}

function packEntry([space, , seq, part]: Key, value: Uint8Array): Uint8Array {
  const writer = new Writer(64 + value.length).sized(utf8(space));
  for (const number of [seq, part]) writer.varint(number === undefined ? 0 : number + 1);
  return writer.raw(value).finish();
}

function openEntry(id: string, body: Uint8Array): { key: Key; value: Uint8Array } {
  const reader = new Reader(body);
  const space = fromUtf8(reader.sized());
  checkSpace(space);
  const [seq, part] = [reader.varint(), reader.varint()];
  const value = reader.raw(reader.left).slice();
  if (seq === 0) return { key: [space, id], value };
  return { key: part === 0 ? [space, id, seq - 1] : [space, id, seq - 1, part - 1], value };
}

function openBegin(body: Uint8Array, limits: Limits): ImageBegin {
  const fields = new Fields(unpackRecord(body));
  const id = fields.text("id");
  checkId(id, limits.idBytesMax);
  const metaBytes = fields.bytes("meta");
  return { kind: "begin", id, meta: unsealMeta(id, metaBytes), metaBytes, clock: fields.integer("clock") };
}

function assertEnd(body: Uint8Array, records: number, digest: Uint8Array): void {
  const fields = new Fields(unpackRecord(body));
  if (fields.integer("records") !== records) throw invalid("records are missing");
  if (!equalBytes(fields.bytes("digest"), digest)) throw invalid("its digest is wrong");
}

/** The bytes of the stream, in pieces of any size, with the digest of what was taken. */
class Source {
  readonly #stream: AsyncIterator<Uint8Array>;
  readonly #digest = new Sha256();
  #chunk: Uint8Array = new Uint8Array(0);
  #ended = false;

  constructor(stream: AsyncIterable<Uint8Array>) {
    this.#stream = stream[Symbol.asyncIterator]();
  }

  async start(): Promise<Uint8Array> {
    const bytes = await this.#take(MAGIC.length + 1);
    this.#digest.update(bytes);
    return bytes;
  }

  async frame(limits: Limits): Promise<{ kind: number; body: Uint8Array }> {
    const head = await this.#take(HEAD_BYTES);
    const [kind, length] = [head[0]!, new Reader(head, 1).uint32()];
    if (kind < BEGIN || kind > END) throw invalid("it has a frame of no known kind");
    if (length > limits.exportFrameBytesMax) throw invalid("a frame is over exportFrameBytesMax");
    const body = await this.#take(length);
    const tail = await this.#take(CRC_BYTES);
    if (crc32(body, crc32(head)) !== new Reader(tail).uint32())
      throw invalid("the checksum of a frame fails");
    if (kind !== END) this.#digest.update(head).update(body).update(tail);
    return { kind, body };
  }

  /** Of all bytes before the end. Ends the use of this source but for `assertEnded`. */
  digest(): Uint8Array {
    return this.#digest.finish();
  }

  async assertEnded(): Promise<void> {
    if (this.#chunk.length > 0 || (await this.#more())) throw invalid("it goes on after its end");
  }

  async close(): Promise<void> {
    if (!this.#ended) await this.#stream.return?.();
  }

  /** Exactly so many bytes. They are collected as they come: a length is no reason to reserve memory. */
  async #take(count: number): Promise<Uint8Array> {
    const pieces: Uint8Array[] = [];
    for (let left = count; left > 0; ) {
      if (this.#chunk.length === 0 && !(await this.#more())) throw invalid("it ends too early");
      const piece = this.#chunk.subarray(0, left);
      this.#chunk = this.#chunk.subarray(piece.length);
      pieces.push(piece);
      left -= piece.length;
    }
    return pieces.length === 1 ? pieces[0]! : concatBytes(pieces);
  }

  /** False at the end. Empty chunks are passed over. */
  async #more(): Promise<boolean> {
    for (;;) {
      const { done, value } = await this.#stream.next();
      if (done) {
        this.#ended = true;
        return false;
      }
      if (!(value instanceof Uint8Array)) throw new TypeError("a stream for import yields Uint8Arrays");
      if (value.length === 0) continue;
      this.#chunk = value;
      return true;
    }
  }
}
