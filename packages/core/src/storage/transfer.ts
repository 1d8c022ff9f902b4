/**
 * Export and import: one document as a stream, and a document out of a stream.
 *
 * Invariants: an import is all or nothing; nothing of it is visible before the end of the stream was read and
 * everything in it was judged; a document that exists is never overwritten. Importing the same stream again
 * does nothing. Nor does it bring tags to a document that is there: that they are not is said.
 */

import { toHex } from "../base/bytes.js";
import { CoppiceError } from "../base/errors.js";
import type { Context } from "./context.js";
import type { DocumentLog } from "./document-log.js";
import { decodeExport, encodeExport, invalid } from "./export-stream.js";
import { readHead } from "./head.js";
import { type ImagePart, readImage } from "./image.js";
import { checkedImage } from "./image-check.js";
import { assertVacant, existsError, land, type Place, readPlace } from "./landing.js";
import type { Moment } from "./moments.js";
import { rekeyed } from "./rekeying.js";
import { nameAtClock, readTags, type TagEntry, unsealTags } from "./tag-index.js";

export interface ExportOptions {
  /** A past version, by clock, tag or date, with which the export ends. Default: all that is stored now. */
  readonly at?: Moment;
  readonly signal?: AbortSignal;
}

export interface ImportOptions {
  /** The id to import under; default: the id of the export. */
  readonly id?: string;
  /** Take an id that was deleted or erased before. Clocks go on where that document ended. */
  readonly recreate?: boolean;
  readonly signal?: AbortSignal;
}

export interface ImportResult {
  readonly id: string;
  readonly clock: number;
  /** `unchanged`: the document was there already, exactly like this. */
  readonly outcome: "imported" | "unchanged";
  /** Bytes of the stored values of the document. */
  readonly bytes: number;
}

/** So many tags are named at most. */
const NAMED_MAX = 16;

/** See `DocumentStorage.export`. */
export function exportDocument(
  context: Context,
  id: string,
  options: ExportOptions,
): AsyncGenerator<Uint8Array> {
  return encodeExport(readImage(context, id, options), () => context.env.now());
}

/** See `DocumentStorage.import`. */
export async function importDocument(
  context: Context,
  logOf: (id: string) => DocumentLog,
  stream: AsyncIterable<Uint8Array>,
  { id, recreate = false, signal }: ImportOptions,
): Promise<ImportResult> {
  assertStream(stream);
  const parts = checkedImage(decodeExport(abortable(stream, signal), context.limits));
  const first = await parts.next();
  if (first.done || first.value.kind !== "begin") throw invalid("there is no document in it");
  try {
    const target = id ?? first.value.id;
    const place = await readPlace(context, target);
    const { meta } = place;
    const live = meta !== undefined && meta.deleted === undefined;
    const clockFloor = live ? meta.base : place.clock;
    // Under its own id and clocks, and where the id was never used, it is the same document; else a new one.
    const unused = live
      ? clockFloor <= first.value.meta.base
      : meta === undefined && place.erased === undefined;
    const whole = again(first.value, parts);
    const identity = { id: target, incarnation: toHex(context.env.random(8)), clockFloor };
    const image = unused && target === first.value.id ? whole : rekeyed(whole, identity);
    if (live) return await compare(context, place, image);
    assertVacant(place, recreate);
    const landed = (await land(context, logOf(target), place, image))!;
    return { id: target, clock: landed.clock, outcome: "imported", bytes: landed.bytes };
  } finally {
    await parts.return(undefined);
  }
}

/** A path and an array of bytes can be iterated as well, and would be taken for damaged exports. */
function assertStream(stream: unknown): void {
  const chunks = stream as Partial<AsyncIterable<unknown> & Iterable<unknown>> | null | undefined;
  const isStream = (chunks?.[Symbol.asyncIterator] ?? chunks?.[Symbol.iterator]) !== undefined;
  if (isStream && typeof stream !== "string" && !ArrayBuffer.isView(stream)) return;
  const instead = ArrayBuffer.isView(stream) ? "; put one array of bytes into a list: import([bytes])" : "";
  throw new TypeError(`import wants a stream of bytes, like createReadStream(path)${instead}`);
}

/** Reads the image to its end; `EXISTS` unless the stored document is what it would bring. */
async function compare(
  context: Context,
  { id, meta }: Place,
  image: AsyncIterable<ImagePart>,
): Promise<ImportResult> {
  let bytes = 0;
  let tags: readonly TagEntry[] = [];
  for await (const part of image) {
    if (part.kind === "record") {
      bytes += part.value.length;
      if (part.key[0] === "tags") tags = unsealTags(part.key[1], part.value);
    }
    if (part.kind !== "end") continue;
    const head = await readHead(context, id);
    const same = head.clock === part.clock && head.crc === part.crc && meta?.created === part.meta.created;
    // A repair may have lost events that the chain does not miss.
    const lost = meta?.repaired !== undefined && meta.repaired !== part.meta.repaired;
    if (!same || lost) break;
    assertSameTags(id, (await readTags(context.guard, id)).entries, tags);
    return { id, clock: head.clock, outcome: "unchanged", bytes };
  }
  throw existsError(id);
}

/** By name and clock: what a tag says. */
function assertSameTags(id: string, stored: readonly TagEntry[], brought: readonly TagEntry[]): void {
  const without = (tags: readonly TagEntry[], others: readonly TagEntry[]): string[] => {
    const known = new Set(others.map(nameAtClock));
    return tags.map(nameAtClock).filter((tag) => !known.has(tag));
  };
  const [missing, additional] = [without(brought, stored), without(stored, brought)];
  if (missing.length === 0 && additional.length === 0) return;
  throw new CoppiceError(
    "EXISTS",
    "the document is there already, but with other tags than what is imported; nothing was written: tag " +
      "the missing ones and untag the additional ones here, or import it under another id",
    { details: { id, missing: missing.slice(0, NAMED_MAX), additional: additional.slice(0, NAMED_MAX) } },
  );
}

async function* again(first: ImagePart, rest: AsyncIterable<ImagePart>): AsyncGenerator<ImagePart> {
  yield first;
  yield* rest;
}

/** Ends with the reason of the signal as soon as it aborts, also while the stream gives nothing. */
async function* abortable(
  stream: AsyncIterable<Uint8Array>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array> {
  if (signal === undefined) {
    yield* stream;
    return;
  }
  const chunks: Partial<AsyncIterable<Uint8Array> & Iterable<Uint8Array>> = stream;
  // A list of chunks is as good as without a signal.
  const iterator = chunks[Symbol.asyncIterator]?.() ?? chunks[Symbol.iterator]!();
  let isOpen = true;
  const next = async () => {
    let ended = true;
    try {
      const result = await iterator.next();
      ended = result.done === true;
      return result;
    } finally {
      isOpen = !ended;
    }
  };
  try {
    for (;;) {
      signal.throwIfAborted();
      const { done, value } = await unlessAborted(signal, next());
      if (done) return;
      yield value;
    }
  } finally {
    // A generator returns only after what it waits for: once aborted, nobody waits for that with it.
    const closing = isOpen ? unlessAborted(signal, closed(iterator)) : undefined;
    await closing?.catch((error: unknown) => {
      if (!signal.aborted) throw error;
    });
  }
}

async function closed(iterator: AsyncIterator<Uint8Array> | Iterator<Uint8Array>): Promise<void> {
  await iterator.return?.();
}

/** Settles as the promise does, or rejects with the reason of the signal if it aborts before. */
function unlessAborted<T>(signal: AbortSignal, promise: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    else signal.addEventListener("abort", abort, { once: true });
    const settled = () => signal.removeEventListener("abort", abort);
    promise.then(resolve, reject).then(settled, settled);
  });
}
