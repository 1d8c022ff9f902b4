/**
 * The stored state of a document at a clock: the newest usable snapshot at or below it, the events that the
 * snapshot does not cover, and the events after it. Read for loads, folds, diffs and checks alike. With `at`
 * and `tags`, the snapshots of tags serve as well.
 *
 * Invariants: `events` and `clocks` run in parallel, held events first, each in clock order. A damaged or
 * unreadable snapshot is passed over only when what is older makes up for it; never an empty document
 * instead.
 */

import { equalBytes } from "../base/bytes.js";
import { CoppiceError, isCoppiceError, said } from "../base/errors.js";
import type { AnyModel } from "../contract/model.js";
import { ownBytes, soundEvents } from "../contract/model-results.js";
import { isBytes } from "../contract/shapes.js";
import { isWhole, readableFrom, scanLog } from "./archive.js";
import { type Context, modelOf, observe } from "./context.js";
import { damaged } from "./envelope.js";
import { afterHeadError, deletedError } from "./head.js";
import { eventsKey, heldKey, type Meta, metaKey, type SnapshotRecord, type SnapshotRef } from "./meta.js";
import {
  assertNotDeleted,
  Moved,
  readHeld,
  readSnapshot,
  readSnapshotRecord,
  type StoredBatch,
  trimmed,
} from "./reader.js";
import { available, intactTags, taggedClock } from "./tag-index.js";

export interface State {
  readonly meta: Meta;
  readonly metaBytes: Uint8Array;
  readonly model: AnyModel;
  readonly base: Base | undefined;
  /** `undefined` without a base, or when only the record was asked for. */
  readonly snapshot: Uint8Array | undefined;
  readonly events: unknown[];
  /** Clock before each event. */
  readonly clocks: number[];
  /** Clocks of events whose bytes a repair set aside. */
  readonly lost: number[];
  /** Clock of this state. */
  readonly end: number;
  /** The last batch read; `undefined` when there is none after the base. */
  readonly last: StoredBatch | undefined;
  /** Why a newer snapshot was passed over, when one was. */
  readonly failure: CoppiceError | undefined;
}

/** The snapshot that a state begins with. */
export interface Base {
  /** Of a tag's, `logBytes` and `crc` are not known: 0. */
  readonly ref: SnapshotRef;
  readonly space: "snapshot" | "tagged";
  readonly record: SnapshotRecord;
}

export interface StateOptions {
  /** Clock to stop at; default: the head. */
  readonly at?: number | undefined;
  /** Snapshots (by stage) that proved unusable. */
  readonly exclude?: ReadonlySet<number>;
  /** Read the snapshot's record, but not its bytes. */
  readonly recordOnly?: boolean;
  /** With `at`: a tag's snapshot may be the base. */
  readonly tags?: boolean;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Reads the state; to be called inside `withRestarts`. Throws `MODEL_UNKNOWN`, `TRIMMED`, `CORRUPT`,
 * `STATE_FORMAT_UNSUPPORTED`, and `ARGUMENT_INVALID` for a clock after the head.
 */
export async function readState(
  context: Context,
  id: string,
  meta: Meta,
  metaBytes: Uint8Array,
  options: StateOptions = {},
): Promise<State> {
  if (meta.deleted !== undefined) throw deletedError(id);
  const model = modelOf(context, meta.model, id);
  const reached = await taggedClock(context.guard, id);
  const { base, failure } = await readBase(context, id, meta, metaBytes, model, options);
  const events: unknown[] = [];
  const clocks: number[] = [];
  const lost: number[] = [];
  if (base !== undefined && base.record.held.length > 0) {
    await readHeldEvents(context, id, model, base.record, events, clocks);
  }
  const from = base?.ref.clock ?? meta.base;
  let end = from;
  let last: StoredBatch | undefined;
  const range = {
    from,
    // A tag may lie inside a batch, and does not say what the batch after it must name.
    ...(base?.space === "tagged" ? {} : { previousCrc: base?.ref.crc ?? 0 }),
    ...(options.at === undefined ? {} : { to: options.at }),
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  };
  for await (const batch of scanLog(context.guard, id, meta, range)) {
    const start = Math.max(batch.clock, from);
    const stop = Math.min(batch.end, options.at ?? batch.end);
    if (batch.header.lost) {
      for (let clock = start; clock < stop; clock++) lost.push(clock);
    } else {
      const decoded = decodeBatch(model, id, batch);
      for (let clock = start; clock < stop; clock++) {
        events.push(decoded[clock - batch.clock]);
        clocks.push(clock);
      }
    }
    end = stop;
    last = batch;
  }
  await assertNotDeleted(context.guard, id, meta, metaBytes);
  if (options.at !== undefined && end < options.at) {
    // Or a trim took what lay between: a scan up to a clock does not notice.
    if (!equalBytes(await context.guard.get(metaKey(id)), metaBytes)) {
      throw new Moved(eventsKey(id, end), "the log was trimmed while it was read");
    }
    if (end >= reached) throw afterHeadError(id, options.at, end);
  }
  if (end < Math.min(reached, options.at ?? reached))
    throw new Moved(eventsKey(id, end), "the last batches of the log are missing");
  return { meta, metaBytes, model, base, snapshot: base?.bytes, events, clocks, lost, end, last, failure };
}

/**
 * The events of a batch; throws `CORRUPT` when the payload is not what its header says, and a `TypeError` at
 * a codec that gives no events.
 */
export function decodeBatch(model: AnyModel, id: string, batch: StoredBatch): unknown[] {
  const key = eventsKey(id, batch.clock);
  let events: unknown[];
  try {
    events = model.codec.decode(batch.payload);
  } catch (error) {
    throw damaged(key, "the batch cannot be decoded", error);
  }
  soundEvents(model, events);
  if (events.length !== batch.end - batch.clock)
    throw damaged(key, "the batch holds another number of events");
  return events;
}

/** Of each codec so many batches are read back: a wrong one shows in the first, and reading costs as much. */
const READ_BACK_MAX = 16;
const readBack = new WeakMap<object, number>();

/**
 * The payload of a batch, to be used before the model is called again. Throws `EVENT_INVALID`, also for what
 * is no bytes, or is another number of events: written, it would be a batch that nothing can read.
 */
export function encodeEvents(model: AnyModel, id: string, events: readonly unknown[]): Uint8Array {
  const { codec, name } = model;
  let why: string;
  let cause: unknown;
  try {
    const payload: unknown = codec.encode(events);
    if (isBytes(payload)) {
      const times = readBack.get(codec) ?? 0;
      if (times === READ_BACK_MAX) return payload;
      const own = ownBytes(payload);
      // Of a copy: some decode where the bytes lie.
      const { length } = soundEvents(model, codec.decode(ownBytes(own)));
      readBack.set(codec, times + 1);
      if (length === events.length) return own;
      why = `: of ${events.length} it gives back ${length}`;
    } else why = ": what it made is no Uint8Array";
  } catch (error) {
    cause = error;
    why = said(error);
  }
  const message = `the ${name} model cannot encode the events${why}; nothing was written`;
  throw new CoppiceError("EVENT_INVALID", message, { cause, details: { id } });
}

/** Snapshots that may be the base, the best one first. */
export async function basesOf(
  context: Context,
  id: string,
  meta: Meta,
  { at, exclude, tags }: StateOptions,
): Promise<Pick<Base, "ref" | "space">[]> {
  const found: Pick<Base, "ref" | "space">[] = [];
  for (const ref of [meta.snapshot, meta.previous]) if (ref) found.push({ ref, space: "snapshot" });
  if (at !== undefined && tags) {
    for (const entry of await intactTags(context, id)) {
      const { name: _name, held: _held, ...stored } = entry;
      found.push({ ref: { ...stored, logBytes: 0, crc: 0 }, space: "tagged" });
    }
    found.sort((left, right) => right.ref.clock - left.ref.clock);
  }
  return found.filter(({ ref: { clock, stage } }) => {
    // The events from there up to `at` must be kept.
    const reaches = clock === at || clock >= readableFrom(meta);
    return reaches && clock <= (at ?? clock) && !exclude?.has(stage);
  });
}

async function readBase(
  context: Context,
  id: string,
  meta: Meta,
  metaBytes: Uint8Array,
  model: AnyModel,
  options: StateOptions,
): Promise<{
  readonly base: (Base & { readonly bytes: Uint8Array | undefined }) | undefined;
  readonly failure: CoppiceError | undefined;
}> {
  const { at, exclude, recordOnly } = options;
  // What is lost of the archive is no matter for past versions, which say so; it is for the newest one.
  const whole = at === undefined ? isWhole(meta) : readableFrom(meta) === meta.base;
  let failure: CoppiceError | undefined;
  const found = await basesOf(context, id, meta, options);
  for (const [index, { ref, space }] of found.entries()) {
    try {
      const { record, bytes } = recordOnly
        ? { record: await readSnapshotRecord(context.guard, id, ref, space), bytes: undefined }
        : await readSnapshot(context.guard, id, ref, space);
      if (record.model !== meta.model) throw damaged(metaKey(id), "the snapshot is of another model");
      if ((model.stateFormats ?? [model.stateFormat]).includes(record.stateFormat)) {
        return { base: { ref, space, record, bytes }, failure };
      }
      failure ??= new CoppiceError(
        "STATE_FORMAT_UNSUPPORTED",
        "the model does not read the stored snapshot",
        {
          details: { id, model: model.name, stateFormat: record.stateFormat },
        },
      );
    } catch (error) {
      if (!(error instanceof Moved) && !isCoppiceError(error, "CORRUPT")) throw error;
      // Missing because a compaction replaced it meanwhile? Then start over with the new meta.
      if (!equalBytes(await context.guard.get(metaKey(id)), metaBytes)) throw error;
      failure = error instanceof Moved ? damaged(error.key, error.message) : error;
      const recovered = whole || index < found.length - 1;
      observe(context, (observer) => observer.damage?.({ id, error: failure!, recovered }));
    }
  }
  if (whole && (at === undefined || at >= meta.base)) return { base: undefined, failure };
  if (failure !== undefined) throw failure;
  if (at !== undefined && (exclude === undefined || exclude.size === 0)) {
    throw trimmed(id, at, readableFrom(meta), await available(context, id));
  }
  throw damaged(metaKey(id), "no snapshot of the document is usable and its first events were trimmed");
}

async function readHeldEvents(
  context: Context,
  id: string,
  model: AnyModel,
  record: SnapshotRecord,
  events: unknown[],
  clocks: number[],
): Promise<void> {
  const stored = await readHeld(context.guard, id, record.held);
  for (const clock of record.held) {
    const payload = stored.get(clock);
    if (payload === undefined) throw new Moved(heldKey(id, clock), "a held event is missing");
    let decoded: unknown[];
    try {
      decoded = model.codec.decode(payload);
    } catch (error) {
      throw damaged(heldKey(id, clock), "the held event cannot be decoded", error);
    }
    soundEvents(model, decoded);
    if (decoded.length !== 1) throw damaged(heldKey(id, clock), "the held record holds not one event");
    events.push(decoded[0]);
    clocks.push(clock);
  }
}
