/**
 * The image of a document: its records at one clock, as stored, one after the other. What a fork, an export
 * and a copy are made of.
 *
 * It reads beside writers. When what it reads is moved away under it, it begins anew: a second `begin` voids
 * everything before it. It keeps one page in memory, interprets no event, and changes nothing.
 *
 * Invariants: records come space by space in the order of `IMAGE_SPACES`, in each by key; a record whose
 * checksum fails, or a log with a gap, never becomes part of an image. Only what meta names is in it: no
 * garbage, no stages. Its clock is the head when it (last) began.
 */

import { equalBytes } from "../base/bytes.js";
import { CoppiceError, isCoppiceError } from "../base/errors.js";
import type { Entry, Key } from "../contract/backend.js";
import { type Context, modelOf } from "./context.js";
import { damaged, seal, unseal } from "./envelope.js";
import { deletedError } from "./head.js";
import { eventsKey, heldKey, type Meta, metaKey, unpackSnapshotRecord } from "./meta.js";
import { clockAt, type Moment } from "./moments.js";
import { lastBatch, Moved, openBatch, type StoredBatch, trimmed, withRestarts } from "./reader.js";
import { partOf, type StageRef, stageKey, stageOf } from "./stages.js";
import { decodeBatch } from "./state.js";
import { readTags, sealTags, type TagEntry, type Tags, tagsKey } from "./tag-index.js";

/**
 * The spaces of an image, in its order: what is read back after landing is compared in the same order. First
 * what a compaction beside the reader takes away first.
 */
export const IMAGE_SPACES: readonly string[] = ["snapshot", "tagged", "held", "tags", "archive", "events"];

export type ImagePart =
  | { readonly kind: "begin"; readonly id: string; readonly meta: Meta; readonly clock: number }
  | { readonly kind: "record"; readonly key: Key; readonly value: Uint8Array }
  /** What meta must say, and the CRC of the last batch (0: there is none). */
  | { readonly kind: "end"; readonly meta: Meta; readonly clock: number; readonly crc: number };

export interface ImageOptions {
  /** A past version; default: the head. */
  readonly at?: Moment | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What an image is read for: the document as meta and its tags told when it began. */
interface View {
  readonly id: string;
  readonly meta: Meta;
  readonly tags: Tags;
  readonly clock: number;
  readonly signal: AbortSignal | undefined;
}

/**
 * Nothing when there is no such document, or was not then. Throws `CORRUPT`, `FORMAT_UNSUPPORTED`, `DELETED`
 * when it goes away meanwhile; with `at` also `TRIMMED`, `TAG_UNKNOWN`, `ARGUMENT_INVALID` and
 * `MODEL_UNKNOWN`.
 */
export async function* readImage(
  context: Context,
  id: string,
  { at, signal }: ImageOptions = {},
): AsyncGenerator<ImagePart> {
  let incarnation: string | undefined;
  for (;;) {
    signal?.throwIfAborted();
    const found = await withRestarts(
      () => context.guard,
      id,
      (meta, metaBytes) => look(context, id, meta, metaBytes, at),
    );
    if (incarnation !== undefined && found?.meta.incarnation !== incarnation) throw deletedError(id);
    if (found === undefined) return;
    incarnation = found.meta.incarnation;
    const { clock, metaBytes } = found;
    const meta = at === undefined ? found.meta : metaAt(id, found.meta, clock);
    const view: View = { id, meta, tags: tagsAt(found.tags, clock), clock, signal };
    yield { kind: "begin", id, meta, clock };
    try {
      yield* stageParts(context, view);
      const crc = yield* eventParts(context, view);
      yield { kind: "end", meta, clock, crc };
      return;
    } catch (error) {
      if (!(error instanceof Moved) && !isCoppiceError(error, "CORRUPT")) throw error;
      const same =
        equalBytes(await context.guard.get(metaKey(id)), metaBytes) &&
        equalBytes(await context.guard.get(tagsKey(id)), found.tags.bytes);
      if (same) throw error instanceof Moved ? damaged(error.key, error.message) : error;
    }
  }
}

interface Found {
  readonly meta: Meta;
  readonly metaBytes: Uint8Array | undefined;
  readonly tags: Tags;
  readonly clock: number;
}

async function look(
  context: Context,
  id: string,
  meta: Meta | undefined,
  metaBytes: Uint8Array | undefined,
  at: Moment | undefined,
): Promise<Found | undefined> {
  if (meta === undefined || meta.deleted !== undefined) return undefined;
  const tags = await readTags(context.guard, id);
  const head = await headClock(context, id, meta);
  const clock = at === undefined ? head : await clockAt(context, id, meta, at);
  if (clock === undefined) return undefined;
  if (clock > head) {
    throw new CoppiceError("ARGUMENT_INVALID", "the clock lies after the head of the document", {
      details: { id, clock, head },
    });
  }
  return { meta, metaBytes, tags, clock };
}

async function headClock(context: Context, id: string, meta: Meta): Promise<number> {
  const last = await lastBatch(context.guard, id);
  const clock = last === undefined || last.clock < meta.oldest ? meta.oldest : last.end;
  if (clock < (meta.snapshot?.clock ?? 0)) {
    throw new Moved(eventsKey(id, clock), "the last batches of the log are missing");
  }
  return clock;
}

/**
 * What meta would say had nothing come after this clock. Throws `TRIMMED` when that cannot be told, and for
 * the clock before the oldest batch as well: a log that was trimmed needs a last batch.
 */
function metaAt(id: string, meta: Meta, at: number): Meta {
  const refs = [meta.snapshot, meta.previous].filter((ref) => ref !== undefined && ref.clock <= at);
  const whole = meta.oldest === meta.base;
  if (whole ? at < meta.base : at <= meta.oldest || refs.length === 0) throw trimmed(id, at, meta.oldest);
  const commits = meta.commits.filter(({ clock }) => clock <= at);
  return { ...meta, snapshot: refs[0], previous: refs[1], commits };
}

/** `bytes` is `undefined` where the index has to be written anew. */
function tagsAt({ entries, bytes }: Tags, at: number): Tags {
  const kept = entries.filter(({ clock }) => clock <= at);
  return { entries: kept, bytes: kept.length === entries.length ? bytes : undefined };
}

/** The snapshots that meta and the tags name, then the events that they leave held, and the index. */
async function* stageParts(context: Context, view: View): AsyncGenerator<ImagePart> {
  const { id, meta, tags } = view;
  const held = new Set<number>();
  for (const ref of [meta.previous, meta.snapshot]) {
    if (ref !== undefined)
      for (const clock of yield* oneStage(context, view, "snapshot", ref)) held.add(clock);
  }
  const tagged = [...tags.entries].sort((a, b) => a.clock - b.clock || a.stage - b.stage);
  for (const ref of tagged)
    for (const clock of yield* oneStage(context, view, "tagged", ref)) held.add(clock);
  yield* heldParts(
    context,
    view,
    [...held].sort((left, right) => left - right),
  );
  if (tags.bytes !== undefined) yield { kind: "record", key: tagsKey(id), value: tags.bytes };
  else if (tagged.length > 0)
    yield { kind: "record", key: tagsKey(id), value: sealTags(id, tagged, latest(tagged)) };
}

function latest(tags: readonly TagEntry[]): number {
  return Math.max(...tags.map(({ time }) => time));
}

async function* heldParts(
  context: Context,
  { id, signal }: View,
  clocks: readonly number[],
): AsyncGenerator<ImagePart> {
  if (clocks.length === 0) return;
  const wanted = new Set(clocks);
  const range = { space: "held", id, from: clocks[0]!, to: clocks.at(-1)! + 1 };
  for await (const page of context.guard.scan(range, signal === undefined ? {} : { signal })) {
    for (const { key, value } of page) {
      if (!wanted.delete(key[2]!)) continue;
      unseal(key, value);
      yield { kind: "record", key, value };
    }
  }
  for (const clock of wanted) throw new Moved(heldKey(id, clock), "a held event is missing");
}

/** The record and the parts of one snapshot. Returns the clocks of the events that it leaves held. */
async function* oneStage(
  context: Context,
  { id, signal }: View,
  space: "snapshot" | "tagged",
  ref: StageRef,
): AsyncGenerator<ImagePart, readonly number[]> {
  const range = { space, id, from: ref.clock, to: ref.clock + 1 };
  let parts = 0;
  let held: readonly number[] | undefined;
  for await (const page of context.guard.scan(range, signal === undefined ? {} : { signal })) {
    for (const { key, value } of page) {
      if (stageOf(key) !== ref.stage) continue;
      const { payload } = unseal(key, value);
      if (partOf(key) === 0) held = unpackSnapshotRecord(key, payload).held;
      else parts++;
      yield { kind: "record", key, value };
    }
  }
  if (held === undefined || parts !== ref.parts) {
    throw new Moved(stageKey(space, id, ref, 0), "a part of the snapshot is missing");
  }
  return held;
}

/** The batches from the oldest to the clock, chained; the last one cut where the clock lies inside it. */
async function* eventParts(context: Context, view: View): AsyncGenerator<ImagePart, number> {
  const { id, meta, clock, signal } = view;
  const chained = [meta.previous, meta.snapshot].find((ref) => ref?.clock === meta.oldest);
  let crc = meta.oldest === meta.base ? 0 : chained?.crc;
  let next = meta.oldest;
  const range = { space: "events", id, from: next, to: Math.max(next, clock) };
  for await (const page of context.guard.scan(range, signal === undefined ? {} : { signal })) {
    for (const { key, value } of page) {
      const batch = openBatch(key, value);
      const follows = crc === undefined || batch.header.previousCrc === crc;
      if (batch.clock !== next || !follows) {
        throw new Moved(eventsKey(id, next), "batches are missing from the log");
      }
      const kept = batch.end > clock ? cutBatch(context, view, batch) : { key, value };
      yield { kind: "record", ...kept };
      crc = kept.value === value ? batch.crc : openBatch(key, kept.value).crc;
      next = Math.min(batch.end, clock);
    }
  }
  if (next < clock) throw new Moved(eventsKey(id, next), "batches are missing from the log");
  return crc ?? 0;
}

/**
 * The beginning of a batch. It keeps its commit id, but nobody chose it any more: a repeated append must not
 * find in it events that were cut off.
 */
function cutBatch(context: Context, { id, meta, clock }: View, batch: StoredBatch): Entry {
  const key = eventsKey(id, batch.clock);
  const { header, time } = batch;
  const count = clock - batch.clock;
  if (header.lost) {
    const payload = new Uint8Array(4);
    new DataView(payload.buffer).setUint32(0, batch.crc, true);
    const envelope = { count, logBytes: batch.logBytes, time, compressed: false, batch: header, payload };
    return { key, value: seal(key, envelope).bytes };
  }
  const model = modelOf(context, meta.model, id);
  const payload = model.codec.encode(decodeBatch(model, id, batch).slice(0, count));
  const logBytes = batch.logBytes - batch.payload.length + payload.length;
  const cut = { ...header, chosen: false };
  return { key, value: seal(key, { count, logBytes, time, compressed: false, batch: cut, payload }).bytes };
}
