/**
 * Questions about stored documents: list, info, events, history.
 *
 * Invariants: reading changes nothing, holds one page at a time, and goes on beside writers; a reader that a
 * trim overtakes ends with `TRIMMED`, it never skips.
 */

import { equalBytes } from "../base/bytes.js";
import { CoppiceError, isCoppiceError } from "../base/errors.js";
import type { Backend } from "../contract/backend.js";
import { checkRange } from "../contract/keys.js";
import type { AnyModel, EventLinks } from "../contract/model.js";
import { readableFrom, scanLog } from "./archive.js";
import { type Context, modelOf } from "./context.js";
import { afterHeadError, deletedError, displacedError, type Head, readHead, tokenOf } from "./head.js";
import { identityOf, type Meta, metaKey, unpackRecord, unsealMeta } from "./meta.js";
import { Moved, type StoredBatch, trimmed, withRestarts } from "./reader.js";
import { decodeBatch } from "./state.js";
import { intactTags, type TagEntry, tagOf } from "./tag-index.js";
import { type DocumentUsage, readUsage } from "./usage.js";

/**
 * What is stored, key by key: for what examines a store, or lets others read it. As `Backend` says; no value
 * is examined.
 */
export type StoredKeys = Pick<Backend, "get" | "scan">;

export interface ListOptions {
  readonly prefix?: string;
  /** Ids greater than this one. */
  readonly after?: string;
  readonly limit?: number;
}

export interface DocumentInfo {
  readonly id: string;
  readonly model: string;
  /** Events in all, and those that a load replays. */
  readonly clock: number;
  readonly eventsSinceSnapshot: number;
  /** Payload bytes of all events ever, and of those a load replays. */
  readonly logBytes: number;
  readonly bytesSinceSnapshot: number;
  /** Clock, stored bytes and time of the newest snapshot. */
  readonly snapshotClock: number | undefined;
  readonly snapshotBytes: number;
  readonly snapshotTime: number | undefined;
  /** Clock of the oldest event that is kept in the log. */
  readonly oldestClock: number;
  /** Clock of the oldest event in the archive; `undefined` when there is none. Its bytes as stored. */
  readonly archivedClock: number | undefined;
  readonly archiveBytes: number;
  /** Wall times in ms since 1970. */
  readonly created: number;
  readonly changed: number;
  /** For the `expected` of an append. */
  readonly token: string;
  /** What it takes in the store, where that was asked for. */
  readonly usage?: DocumentUsage;
}

export interface InfoOptions {
  /** Also tell what the document takes in the store: three to five reads more. Default `false`. */
  readonly usage?: boolean;
}

export interface StoredEvent {
  /** Clock before the event: event number − 1. */
  readonly clock: number;
  /** `undefined` when its bytes were damaged and set aside by a repair. */
  readonly event: unknown;
  /** Wall time in ms since 1970. */
  readonly time: number;
  /** `undefined` in the archive, unless the writer chose it. */
  readonly commitId: Uint8Array | undefined;
  /** What the writer said of the batch that the event belongs to. */
  readonly info: Info | undefined;
  /** With `links`, where the model can tell it of this event. */
  readonly links?: EventLinks;
}

/** Who and from where, as it was given to `append` or `save`. */
export type Info = Readonly<Record<string, unknown>>;

/** Events with `from ≤ clock before the event < to`. */
export interface EventRange {
  readonly from?: number;
  readonly to?: number;
  /** Also tell the place of each event among the others: see `Model.links`. */
  readonly links?: boolean;
  readonly signal?: AbortSignal;
}

/** What a reader remembers of the document from one read to the next. */
export interface Seen {
  /** Set by the first read that finds the document; another one later is `DELETED`. */
  identity: string | undefined;
}

export type HistoryEntry =
  | {
      readonly kind: "batch";
      /** Clock before its first event, and after its last. */
      readonly clock: number;
      readonly end: number;
      readonly bytes: number;
      readonly time: number;
      /** `undefined` in the archive, unless the writer chose it. */
      readonly commitId: Uint8Array | undefined;
      readonly info: Info | undefined;
    }
  | { readonly kind: "snapshot"; readonly clock: number; readonly bytes: number; readonly time: number }
  | {
      readonly kind: "tag";
      readonly name: string;
      readonly clock: number;
      readonly bytes: number;
      readonly time: number;
    }
  | {
      /** A part of the archive: the batches that follow, up to `end`, are stored in it. */
      readonly kind: "archive";
      readonly clock: number;
      readonly end: number;
      /** As stored. */
      readonly bytes: number;
      /** Of its last batch. */
      readonly time: number;
    };

export async function* listDocuments(context: Context, options: ListOptions): AsyncGenerator<string> {
  const { prefix, after, limit = Number.MAX_SAFE_INTEGER } = options;
  const range = {
    space: "meta",
    ...(prefix === undefined ? {} : { idPrefix: prefix }),
    ...(after === undefined ? {} : { after }),
  };
  checkRange(range);
  let left = limit;
  if (left <= 0) return;
  for await (const page of context.guard.scan(range)) {
    for (const { key, value } of page) {
      if (isTombstone(key[1], value)) continue;
      yield key[1];
      if (--left === 0) return;
    }
  }
}

/** A damaged meta is listed: `load` and `check` say what is wrong with it. */
function isTombstone(id: string, value: Uint8Array): boolean {
  try {
    return unsealMeta(id, value).deleted !== undefined;
  } catch (error) {
    if (isCoppiceError(error)) return false;
    throw error;
  }
}

export function documentInfo(id: string, head: Head): DocumentInfo | undefined {
  const { meta } = head;
  if (meta === undefined || meta.deleted !== undefined) return undefined;
  const { snapshot } = meta;
  return {
    id,
    model: meta.model,
    clock: head.clock,
    eventsSinceSnapshot: head.clock - (snapshot?.clock ?? meta.base),
    logBytes: head.logBytes,
    bytesSinceSnapshot: head.logBytes - (snapshot?.logBytes ?? 0),
    snapshotClock: snapshot?.clock,
    snapshotBytes: snapshot?.storedBytes ?? 0,
    snapshotTime: snapshot?.time,
    oldestClock: meta.oldest,
    archivedClock: meta.archive[0]?.clock,
    archiveBytes: meta.archive.reduce((sum, { storedBytes }) => sum + storedBytes, 0),
    created: meta.created,
    changed: Math.max(head.time, meta.created),
    token: tokenOf(meta, head.clock, head.crc),
  };
}

/** See `DocumentStorage.info`. */
export async function askInfo(
  context: Context,
  id: string,
  head: Head,
  options: InfoOptions,
): Promise<DocumentInfo | undefined> {
  const info = documentInfo(id, head);
  if (info === undefined || options.usage !== true) return info;
  const usage = await readUsage(context, id, head);
  return usage && { ...info, usage };
}

/** See `DocumentStorage.read`. */
export async function* readEvents(
  context: Context,
  id: string,
  range: EventRange,
): AsyncGenerator<StoredEvent> {
  const { meta } = await metaOf(context, id);
  if (meta?.deleted === undefined) yield* readOn(context, id, range, { identity: undefined });
}

/**
 * The stored events of a range, in order. Nothing for a document that was never created; throws `DELETED` for
 * one that is deleted, or is not the one that was seen before, and `ARGUMENT_INVALID` when the first read
 * that finds the document is to begin after its head: what had that clock is lost, or stored elsewhere.
 */
export async function* readOn(
  context: Context,
  id: string,
  range: EventRange,
  seen: Seen,
): AsyncGenerator<StoredEvent> {
  const { from, to = Number.MAX_SAFE_INTEGER, signal } = range;
  for (const [name, value] of Object.entries({ from: from ?? 0, to })) {
    if (!Number.isSafeInteger(value) || value < 0) {
      throw new CoppiceError("ARGUMENT_INVALID", `${name} must be a clock: a safe integer from 0`, {
        details: { id },
      });
    }
  }
  const isFirst = seen.identity === undefined;
  let next = from;
  for (;;) {
    signal?.throwIfAborted();
    const { meta, metaBytes } = await metaOf(context, id);
    assertSame(id, meta, seen.identity);
    if (meta === undefined) return;
    if (meta.deleted !== undefined) throw deletedError(id);
    seen.identity = identityOf(meta);
    next ??= meta.base;
    if (next >= to) return;
    if (next < readableFrom(meta)) throw trimmed(id, next, readableFrom(meta));
    try {
      for await (const event of eventsFrom(context, id, meta, { ...range, from: next, to })) {
        yield event;
        next = event.clock + 1;
      }
      if (isFirst && from !== undefined && next === from) await assertReached(context, id, from);
      // A trim or a deletion may have taken the rest: a scan that finds no more does not notice.
      if (next < to && !equalBytes(await context.guard.get(metaKey(id)), metaBytes)) continue;
      // Nor one that the last batches are missing.
      if (isFirst && range.to === undefined) await readHead(context, id);
      return;
    } catch (error) {
      if (!(error instanceof Moved) && !isCoppiceError(error, "CORRUPT")) throw error;
      await explain(context, id, meta, error);
    }
  }
}

/** Nobody can have seen a clock after the head, unless what was there is lost. */
async function assertReached(context: Context, id: string, clock: number): Promise<void> {
  const head = await readHead(context, id);
  if (clock > head.clock) throw afterHeadError(id, clock, head.clock);
}

/** Throws `DELETED` when it is not the document that was seen before. */
function assertSame(id: string, meta: Meta | undefined, seen: string | undefined): void {
  if (seen === undefined) return;
  if (meta === undefined || meta.deleted !== undefined) throw deletedError(id);
  if (identityOf(meta) !== seen) throw displacedError(id);
}

function metaOf(
  { guard }: Context,
  id: string,
): Promise<{ readonly meta: Meta | undefined; readonly metaBytes: Uint8Array | undefined }> {
  return withRestarts(
    () => guard,
    id,
    async (meta, metaBytes) => ({ meta, metaBytes }),
  );
}

/** Rethrows as corruption unless meta has changed since. */
async function explain(context: Context, id: string, meta: Meta, error: unknown): Promise<void> {
  const before = fingerprint(meta);
  await withRestarts(
    () => context.guard,
    id,
    async (now) => {
      if (now !== undefined && fingerprint(now) === before) throw error;
    },
  );
}

/** What of meta explains that something is not where it was. */
function fingerprint(meta: Meta): string {
  const { oldest, snapshot, previous, archive, deleted } = meta;
  return JSON.stringify([identityOf(meta), oldest, snapshot, previous, archive, deleted]);
}

async function* eventsFrom(
  context: Context,
  id: string,
  meta: Meta,
  { from, to, links, signal }: EventRange & { readonly from: number; readonly to: number },
): AsyncGenerator<StoredEvent> {
  const model = modelOf(context, meta.model, id);
  const start = {
    from,
    to,
    ...(from === meta.base ? { previousCrc: 0 } : {}),
    ...(signal ? { signal } : {}),
  };
  for await (const batch of scanLog(context.guard, id, meta, start)) {
    const events = batch.header.lost ? [] : decodeBatch(model, id, batch);
    const about = { time: batch.time, commitId: commitIdOf(meta, batch), info: infoOf(batch) };
    for (let clock = Math.max(batch.clock, from); clock < Math.min(batch.end, to); clock++) {
      const event = events[clock - batch.clock];
      yield { clock, event, ...about, ...(links && event !== undefined ? linksOf(model, event) : {}) };
    }
  }
}

/** Stored bytes that the model refuses have no place. */
function linksOf(model: AnyModel, event: unknown): Pick<StoredEvent, "links"> {
  try {
    const links = model.links?.(event);
    return links === undefined ? {} : { links };
  } catch {
    return {};
  }
}

/** See `DocumentStorage.history`. */
export async function* history(context: Context, id: string): AsyncGenerator<HistoryEntry> {
  let next: number | undefined;
  let identity: string | undefined;
  const shown = new Set<string>();
  for (;;) {
    const { meta } = await metaOf(context, id);
    assertSame(id, meta, identity);
    if (meta === undefined || meta.deleted !== undefined) return;
    identity = identityOf(meta);
    const oldest = readableFrom(meta);
    next ??= oldest;
    if (next < oldest) throw trimmed(id, next, oldest);
    try {
      const marks = [...marksOf(meta), ...(await intactTags(context, id)).map(markOfTag)];
      for await (const entry of historyFrom(context, id, meta, next, marks)) {
        if (entry.kind === "batch") next = entry.end;
        else {
          // A second start shows nothing again that was shown by the first.
          const name = `${entry.kind} ${entry.clock} ${entry.kind === "tag" ? entry.name : ""}`;
          if (shown.has(name) || (entry.kind === "archive" && entry.clock < next)) continue;
          shown.add(name);
        }
        yield entry;
      }
      return;
    } catch (error) {
      if (!(error instanceof Moved) && !isCoppiceError(error, "CORRUPT")) throw error;
      await explain(context, id, meta, error);
    }
  }
}

/** What stands between two batches. */
type Mark = Exclude<HistoryEntry, { readonly kind: "batch" }>;

function marksOf({ archive, previous, snapshot }: Meta): Mark[] {
  const marks: Mark[] = archive.map(({ clock, end, storedBytes, lastTime }) => ({
    kind: "archive",
    clock,
    end,
    bytes: storedBytes,
    time: lastTime,
  }));
  for (const ref of [previous, snapshot]) {
    if (ref !== undefined) {
      marks.push({ kind: "snapshot", clock: ref.clock, bytes: ref.storedBytes, time: ref.time });
    }
  }
  return marks;
}

function markOfTag(entry: TagEntry): Mark {
  return { kind: "tag", ...tagOf(entry) };
}

async function* historyFrom(
  context: Context,
  id: string,
  meta: Meta,
  from: number,
  marks: readonly Mark[],
): AsyncGenerator<HistoryEntry> {
  const waiting = [...marks].sort((left, right) => left.clock - right.clock);
  function* due(clock: number): Generator<HistoryEntry> {
    while (waiting.length > 0 && waiting[0]!.clock <= clock) yield waiting.shift()!;
  }
  for await (const batch of scanLog(context.guard, id, meta, { from })) {
    yield* due(batch.clock);
    yield {
      kind: "batch",
      clock: batch.clock,
      end: batch.end,
      bytes: batch.payload.length,
      time: batch.time,
      commitId: commitIdOf(meta, batch),
      info: infoOf(batch),
    };
  }
  yield* due(Number.MAX_SAFE_INTEGER);
}

/** The archive leaves out the ids that storage made. */
function commitIdOf({ oldest }: Meta, { clock, header }: StoredBatch): Uint8Array | undefined {
  return clock >= oldest || header.chosen ? header.commitId : undefined;
}

function infoOf({ header: { info } }: StoredBatch): Info | undefined {
  return info === undefined ? undefined : (unpackRecord(info) as Info);
}
