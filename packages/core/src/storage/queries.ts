/**
 * Questions about stored documents: list, info, events, history.
 *
 * Invariants: reading changes nothing, holds one page at a time, and goes on beside writers; a reader that a
 * trim overtakes ends with `TRIMMED`, it never skips.
 */

import { CoppiceError, isCoppiceError } from "../base/errors.js";
import { checkRange } from "../contract/keys.js";
import { type Context, modelOf } from "./context.js";
import { deletedError, type Head, tokenOf } from "./head.js";
import { type Meta, unpackRecord, unsealMeta } from "./meta.js";
import { assertNotDeleted, Moved, type StoredBatch, scanBatches, trimmed, withRestarts } from "./reader.js";
import { decodeBatch } from "./state.js";

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
  /** Clock of the oldest event that is kept. */
  readonly oldestClock: number;
  /** Wall times in ms since 1970. */
  readonly created: number;
  readonly changed: number;
  /** For the `expected` of an append. */
  readonly token: string;
}

export interface StoredEvent {
  /** Clock before the event: event number − 1. */
  readonly clock: number;
  /** `undefined` when its bytes were damaged and set aside by a repair. */
  readonly event: unknown;
  /** Wall time in ms since 1970. */
  readonly time: number;
  readonly commitId: Uint8Array;
  /** What the writer said of the batch that the event belongs to. */
  readonly info: Info | undefined;
}

/** Who and from where, as it was given to `append` or `save`. */
export type Info = Readonly<Record<string, unknown>>;

/** Events with `from ≤ clock before the event < to`. */
export interface EventRange {
  readonly from?: number;
  readonly to?: number;
  readonly signal?: AbortSignal;
}

/** What a reader remembers of the document from one read to the next. */
export interface Seen {
  /** Set by the first read that finds the document; another one later is `DELETED`. */
  incarnation: string | undefined;
}

export type HistoryEntry =
  | {
      readonly kind: "batch";
      /** Clock before its first event, and after its last. */
      readonly clock: number;
      readonly end: number;
      readonly bytes: number;
      readonly time: number;
      readonly commitId: Uint8Array;
      readonly info: Info | undefined;
    }
  | { readonly kind: "snapshot"; readonly clock: number; readonly bytes: number; readonly time: number };

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

export function documentInfo(_context: Context, id: string, head: Head): DocumentInfo | undefined {
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
    created: meta.created,
    changed: Math.max(head.time, meta.created),
    token: tokenOf(meta, head.clock),
  };
}

/** See `DocumentStorage.read`. */
export async function* readEvents(
  context: Context,
  id: string,
  range: EventRange,
): AsyncGenerator<StoredEvent> {
  const { meta } = await metaOf(context, id);
  if (meta?.deleted === undefined) yield* readOn(context, id, range, { incarnation: undefined });
}

/**
 * The stored events of a range, in order. Nothing for a document that was never created; throws `DELETED` for
 * one that is deleted, or is not the one that was seen before.
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
  let next = from;
  for (;;) {
    signal?.throwIfAborted();
    const { meta, metaBytes } = await metaOf(context, id);
    const other = seen.incarnation !== undefined && meta?.incarnation !== seen.incarnation;
    if (meta?.deleted !== undefined || other) throw deletedError(id);
    if (meta === undefined) return;
    seen.incarnation = meta.incarnation;
    next ??= meta.base;
    if (next >= to) return;
    if (next < meta.oldest && next < to) throw trimmed(id, next, meta.oldest);
    try {
      for await (const event of eventsFrom(context, id, meta, next, to, signal)) {
        yield event;
        next = event.clock + 1;
      }
      if (next < to) await assertNotDeleted(context.guard, id, meta, metaBytes);
      return;
    } catch (error) {
      if (!(error instanceof Moved) && !isCoppiceError(error, "CORRUPT")) throw error;
      await explain(context, id, meta, error);
    }
  }
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
  const before = JSON.stringify([meta.incarnation, meta.oldest, meta.snapshot, meta.deleted]);
  await withRestarts(
    () => context.guard,
    id,
    async (now) => {
      const after = now && JSON.stringify([now.incarnation, now.oldest, now.snapshot, now.deleted]);
      if (after === before) throw error;
    },
  );
}

async function* eventsFrom(
  context: Context,
  id: string,
  meta: Meta,
  from: number,
  to: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<StoredEvent> {
  const model = modelOf(context, meta.model, id);
  const start = {
    from,
    to,
    ...(from === meta.base ? { previousCrc: 0 } : {}),
    ...(signal ? { signal } : {}),
  };
  for await (const batch of scanBatches(context.guard, id, start)) {
    const events = batch.header.lost ? [] : decodeBatch(model, id, batch);
    const { commitId } = batch.header;
    const about = { time: batch.time, commitId, info: infoOf(batch) };
    for (let clock = Math.max(batch.clock, from); clock < Math.min(batch.end, to); clock++) {
      yield { clock, event: events[clock - batch.clock], ...about };
    }
  }
}

export async function* history(context: Context, id: string): AsyncGenerator<HistoryEntry> {
  let next: number | undefined;
  let incarnation: string | undefined;
  let shown = -1;
  for (;;) {
    const meta = await withRestarts(
      () => context.guard,
      id,
      async (found) => found,
    );
    if (incarnation !== undefined && meta?.incarnation !== incarnation) throw deletedError(id);
    if (meta === undefined || meta.deleted !== undefined) return;
    incarnation = meta.incarnation;
    next ??= meta.oldest;
    if (next < meta.oldest) throw trimmed(id, next, meta.oldest);
    try {
      for await (const entry of historyFrom(context, id, meta, next)) {
        // A second start shows no snapshot again that was shown by the first.
        if (entry.kind === "snapshot" && entry.clock <= shown) continue;
        yield entry;
        if (entry.kind === "batch") next = entry.end;
        else shown = entry.clock;
      }
      return;
    } catch (error) {
      if (!(error instanceof Moved) && !isCoppiceError(error, "CORRUPT")) throw error;
      await explain(context, id, meta, error);
    }
  }
}

async function* historyFrom(
  context: Context,
  id: string,
  meta: Meta,
  from: number,
): AsyncGenerator<HistoryEntry> {
  const snapshots = [meta.previous, meta.snapshot].filter((ref) => ref !== undefined);
  function* due(clock: number): Generator<HistoryEntry> {
    while (snapshots.length > 0 && snapshots[0]!.clock <= clock) {
      const ref = snapshots.shift()!;
      yield { kind: "snapshot", clock: ref.clock, bytes: ref.storedBytes, time: ref.time };
    }
  }
  for await (const batch of scanBatches(context.guard, id, { from })) {
    yield* due(batch.clock);
    const { commitId } = batch.header;
    yield {
      kind: "batch",
      clock: batch.clock,
      end: batch.end,
      bytes: batch.payload.length,
      time: batch.time,
      commitId,
      info: infoOf(batch),
    };
  }
  yield* due(Number.MAX_SAFE_INTEGER);
}

function infoOf({ header: { info } }: StoredBatch): Info | undefined {
  return info === undefined ? undefined : (unpackRecord(info) as Info);
}
