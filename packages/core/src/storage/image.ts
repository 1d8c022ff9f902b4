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
import type { Entry } from "../contract/backend.js";
import { isWhole } from "./archive.js";
import { type Context, modelOf } from "./context.js";
import { damaged, seal, unseal } from "./envelope.js";
import { afterHeadError, deletedError } from "./head.js";
import { assertKeepsWhatLoads } from "./image-loss.js";
import {
  type ArchiveRef,
  eventsKey,
  heldKey,
  identityOf,
  type Meta,
  metaKey,
  unpackSnapshotRecord,
} from "./meta.js";
import { clockAt, type Moment } from "./moments.js";
import { lastBatch, Moved, openBatch, type StoredBatch, withRestarts } from "./reader.js";
import { presentTags } from "./snapshots.js";
import { partOf, type StageRef, type StageSpace, stageKey, stageOf } from "./stages.js";
import { decodeBatch, encodeEvents } from "./state.js";
import { furthest, NO_INDEX, sealTags, type TagEntry, type Tags, tagsKey } from "./tag-index.js";
import { archivedLog, archivedMeta } from "./unarchiving.js";

/**
 * The spaces of an image, in its order: what is read back after landing is compared in the same order. What
 * names others comes before them, and what a compaction beside the reader takes away before what it keeps.
 */
export const IMAGE_SPACES: readonly string[] = ["tags", "snapshot", "tagged", "held", "archive", "events"];

export type ImagePart = ImageBegin | ImageRecord | ImageEnd;

export interface ImageBegin {
  readonly kind: "begin";
  readonly id: string;
  readonly meta: Meta;
  /** Meta as it is stored; `undefined` where it has to be sealed anew. */
  readonly metaBytes: Uint8Array | undefined;
  readonly clock: number;
}

export interface ImageRecord extends Entry {
  readonly kind: "record";
}

/** Says again what meta must be: where records were sealed anew, it is known only now. */
export interface ImageEnd extends Omit<ImageBegin, "kind" | "id"> {
  readonly kind: "end";
  /** CRC of the last batch; 0: there is none. */
  readonly crc: number;
}

export interface ImageOptions {
  /** A past version; default: the head. */
  readonly at?: Moment | undefined;
  /**
   * Leave out the batches before this clock; the first one after it must name this CRC. When the log was
   * trimmed beyond it there is no image.
   */
  readonly since?: { readonly clock: number; readonly crc: number } | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What an image is read for: the document as meta and its tags told when it began. */
interface View {
  readonly id: string;
  readonly meta: Meta;
  readonly tags: Tags;
  readonly clock: number;
  /** Of the archive, when the clock lies in it: its batches are the log. */
  readonly segment: ArchiveRef | undefined;
  readonly since: ImageOptions["since"];
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
  { at, since, signal }: ImageOptions = {},
): AsyncGenerator<ImagePart> {
  let identity: string | undefined;
  for (;;) {
    signal?.throwIfAborted();
    const found = await withRestarts(
      () => context.guard,
      id,
      (meta, metaBytes) => look(context, id, meta, metaBytes, at),
    );
    if (identity !== undefined && (found === undefined || identityOf(found.meta) !== identity))
      throw deletedError(id);
    if (found === undefined) return;
    identity = identityOf(found.meta);
    const { clock } = found;
    if (since !== undefined && (since.clock < found.meta.oldest || since.clock > clock)) return;
    const { meta, segment } = at === undefined ? found : metaAt(id, found.meta, clock, found.head);
    const metaBytes = at === undefined ? found.metaBytes : undefined;
    const view: View = { id, meta, tags: tagsAt(found.tags, clock), clock, segment, since, signal };
    yield { kind: "begin", id, meta, metaBytes, clock };
    try {
      yield* stageParts(context, view);
      const crc = yield* eventParts(context, view);
      yield { kind: "end", meta, metaBytes, clock, crc };
      return;
    } catch (error) {
      if (!(error instanceof Moved) && !isCoppiceError(error, "CORRUPT")) throw error;
      const same =
        equalBytes(await context.guard.get(metaKey(id)), found.metaBytes) &&
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
  readonly head: number;
  readonly segment?: undefined;
}

async function look(
  context: Context,
  id: string,
  meta: Meta | undefined,
  metaBytes: Uint8Array | undefined,
  at: Moment | undefined,
): Promise<Found | undefined> {
  if (meta === undefined || meta.deleted !== undefined) return undefined;
  const tags = await presentTags(context, id, meta);
  if (tags === undefined) throw new Moved(tagsKey(id), NO_INDEX);
  const head = await headClock(context, id, meta, tags);
  const clock = at === undefined ? head : await clockAt(context, id, meta, at);
  if (clock === undefined) return undefined;
  if (clock > head) {
    throw afterHeadError(id, clock, head);
  }
  if (at !== undefined && metaBytes !== undefined) {
    await assertKeepsWhatLoads(context, id, { meta, metaBytes }, metaAt(id, meta, clock, head).meta, clock);
  }
  return { meta, metaBytes, tags, clock, head };
}

/** The tags were read before: see `taggedClock`. */
async function headClock(context: Context, id: string, meta: Meta, { entries }: Tags): Promise<number> {
  const last = await lastBatch(context.guard, id);
  const clock = last === undefined || last.clock < meta.oldest ? meta.oldest : last.end;
  if (clock < Math.max(meta.snapshot?.clock ?? 0, furthest(entries))) {
    throw new Moved(eventsKey(id, clock), "the last batches of the log are missing");
  }
  return clock;
}

/**
 * What meta would say had nothing come after this clock, and the segment of the archive in which it lies.
 * Throws `TRIMMED` when that cannot be told, and for the clock before the oldest batch as well, unless it is
 * archived: a log that was trimmed needs a last batch.
 */
function metaAt(
  id: string,
  meta: Meta,
  at: number,
  head: number,
): { meta: Meta; segment: ArchiveRef | undefined } {
  const { base, oldest } = meta;
  if (at > base && at <= oldest) {
    const archived = archivedMeta(meta, at);
    if (archived === undefined) throw notTaken(id, meta, at, head);
    return archived;
  }
  const refs = [meta.snapshot, meta.previous].filter((ref) => ref !== undefined && ref.clock <= at);
  const commits = meta.commits.filter(({ clock }) => clock <= at);
  if (at === base && (oldest === base || isWhole(meta))) {
    const none = { snapshot: undefined, previous: undefined, archive: [], commits };
    return { meta: { ...meta, ...none, oldest: base }, segment: undefined };
  }
  if (at < base || (oldest > base && refs.length === 0 && !isWhole(meta))) {
    throw notTaken(id, meta, at, head);
  }
  return { meta: { ...meta, snapshot: refs[0], previous: refs[1], commits }, segment: undefined };
}

/** For a version that a load may well show: what is taken along goes up to the clock without a gap. */
function notTaken(id: string, meta: Meta, clock: number, head: number): CoppiceError {
  const { base, snapshot, previous, oldest } = meta;
  const first = Math.max(oldest + 1, (previous ?? snapshot)?.clock ?? Number.POSITIVE_INFINITY);
  const from = oldest === base || isWhole(meta) ? base : first;
  const other = from > head ? "only the newest version can be" : `clocks from ${from} to ${head} can be`;
  const why = "a fork or an export takes the events up to its clock along, and these were trimmed";
  return new CoppiceError("TRIMMED", `${why}; ${other}`, {
    details: { id, clock, oldest, ...(from > head ? {} : { from, to: head }) },
  });
}

/** `bytes` is `undefined` where the index has to be written anew. */
function tagsAt({ entries, bytes }: Tags, at: number): Tags {
  const kept = entries.filter(({ clock }) => clock <= at);
  return { entries: kept, bytes: kept.length === entries.length ? bytes : undefined };
}

/**
 * The index of the tags, the snapshots that meta and it name, the events that these leave held, and the
 * archive.
 */
async function* stageParts(context: Context, view: View): AsyncGenerator<ImagePart> {
  const { id, meta, tags } = view;
  const tagged = [...tags.entries].sort((a, b) => a.clock - b.clock || a.stage - b.stage);
  if (tags.bytes !== undefined) yield { kind: "record", key: tagsKey(id), value: tags.bytes };
  else if (tagged.length > 0)
    yield { kind: "record", key: tagsKey(id), value: sealTags(id, tagged, latest(tagged)) };
  const held = new Set<number>();
  for (const ref of [meta.previous, meta.snapshot]) {
    if (ref !== undefined)
      for (const clock of yield* oneStage(context, view, "snapshot", ref)) held.add(clock);
  }
  for (const ref of tagged)
    for (const clock of yield* oneStage(context, view, "tagged", ref)) held.add(clock);
  yield* heldParts(
    context,
    view,
    [...held].sort((left, right) => left - right),
  );
  for (const ref of meta.archive) if (ref.parts > 0) yield* oneStage(context, view, "archive", ref);
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

/** The record and the parts of one stage. Returns the clocks of the events that a snapshot leaves held. */
async function* oneStage(
  context: Context,
  { id, signal }: View,
  space: StageSpace,
  ref: StageRef,
): AsyncGenerator<ImagePart, readonly number[]> {
  const range = { space, id, from: ref.clock, to: ref.clock + 1 };
  let parts = 0;
  let held: readonly number[] | undefined;
  for await (const page of context.guard.scan(range, signal === undefined ? {} : { signal })) {
    for (const { key, value } of page) {
      if (stageOf(key) !== ref.stage) continue;
      const { payload } = unseal(key, value);
      if (partOf(key) === 0) held = space === "archive" ? [] : unpackSnapshotRecord(key, payload).held;
      else parts++;
      yield { kind: "record", key, value };
    }
  }
  if (held === undefined || parts !== ref.parts) {
    throw new Moved(stageKey(space, id, ref, 0), "a part of it is missing");
  }
  return held;
}

/** The batches from the oldest to the clock, chained; the last one cut where the clock lies inside it. */
async function* eventParts(context: Context, view: View): AsyncGenerator<ImagePart, number> {
  const { id, meta, clock, segment, since, signal } = view;
  if (segment !== undefined) {
    const log = archivedLog(context, id, meta, segment, clock);
    for (let next = await log.next(); ; next = await log.next()) {
      if (next.done) return next.value;
      yield { kind: "record", ...next.value };
    }
  }
  const chained = [meta.previous, meta.snapshot].find((ref) => ref?.clock === meta.oldest);
  let crc = since?.crc ?? (meta.oldest === meta.base ? 0 : (meta.archive.at(-1)?.crc ?? chained?.crc));
  let next = since?.clock ?? meta.oldest;
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
  const payload = encodeEvents(model, id, decodeBatch(model, id, batch).slice(0, count));
  const logBytes = batch.logBytes - batch.payload.length + payload.length;
  const cut = { ...header, chosen: false };
  return { key, value: seal(key, { count, logBytes, time, compressed: false, batch: cut, payload }).bytes };
}
