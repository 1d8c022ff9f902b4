/**
 * Writing snapshots: stage → flip → sweep.
 *
 * Staged parts lie under keys that meta does not name, so nobody sees them. The flip is the one commit that
 * matters: it changes meta, expecting the meta it was planned on and the staged record to be there. After it,
 * what meta no longer names is garbage, swept in bounded slices that anybody may repeat.
 *
 * Invariants: a record (part 0) is written before or with its parts, and a sweep, which expects the meta that
 * made its keys garbage, deletes it before or with them; so a flip either finds its stage whole, or fails.
 * Two writers that stage at one clock never share keys: the stage number is random.
 */

import { COMPRESS_BYTES_MIN } from "../base/compression.js";
import { isCoppiceError } from "../base/errors.js";
import type { Batch, Entry, Key } from "../contract/backend.js";
import type { AnyModel } from "../contract/model.js";
import { ownBytes, soundBytes } from "../contract/model-results.js";
import type { Context } from "./context.js";
import { copiedKey } from "./copy-mark.js";
import { sealRecord } from "./envelope.js";
import { heldKey, type Meta, metaKey, packSnapshotRecord, type SnapshotRef, sealMeta } from "./meta.js";
import { readSnapshotRecord } from "./reader.js";
import { type StageRef, type StageSpace, stageBytes, stageOf, tooLarge } from "./stages.js";
import { readTags, type TagEntry, type Tags, tagsKey, unsealTags } from "./tag-index.js";

/** What a snapshot is made of. */
export interface SnapshotSource {
  readonly model: AnyModel;
  readonly clock: number;
  readonly logBytes: number;
  /** CRC of the last batch covered. */
  readonly crc: number;
  readonly bytes: Uint8Array;
  readonly version: Uint8Array;
  readonly peerVersion: Uint8Array;
  /** Events below `clock` that it does not cover, by clock, each encoded by the model's codec. */
  readonly held: ReadonlyMap<number, Uint8Array>;
  /** Events below `clock` whose bytes a repair set aside. Ascending. */
  readonly lost: readonly number[];
}

/** What a model gives of a live document for a snapshot of it. */
export function bytesOf(
  model: AnyModel,
  doc: unknown,
): Pick<SnapshotSource, "bytes" | "version" | "peerVersion"> {
  return {
    bytes: ownBytes(model.snapshot(doc)),
    version: ownBytes(model.version(doc)),
    peerVersion: ownBytes(model.peerVersion(doc)),
  };
}

export interface Staged {
  readonly ref: SnapshotRef;
  readonly record: Entry;
  readonly held: readonly Entry[];
}

/**
 * Writes the parts and the record under a new stage; with `tag`, as the snapshot of that tag. Throws
 * `SNAPSHOT_TOO_LARGE`, a `TypeError` where the model gave no bytes, and `StageSwept` when meta is not
 * `metaBytes` any more; nothing is visible yet.
 */
export async function stageSnapshot(
  context: Context,
  id: string,
  source: SnapshotSource,
  metaBytes: Uint8Array,
  tag?: string,
): Promise<Staged> {
  const { limits } = context;
  soundBytes(source.model, "snapshot", source.bytes);
  soundBytes(source.model, "version", source.version);
  soundBytes(source.model, "peerVersion", source.peerVersion);
  if (source.bytes.length > limits.snapshotBytesMax) {
    throw tooLarge(id, "snapshotBytesMax", limits.snapshotBytesMax, source.bytes.length);
  }
  if (source.held.size > limits.heldEventsMax) {
    throw tooLarge(id, "heldEventsMax", limits.heldEventsMax, source.held.size);
  }
  const staged = await stageBytes(context, {
    space: tag === undefined ? "snapshot" : "tagged",
    id,
    clock: source.clock,
    bytes: source.bytes,
    metaBytes,
    compressBytesMin: COMPRESS_BYTES_MIN,
    record: (stored) =>
      packSnapshotRecord({
        model: source.model.name,
        stateFormat: source.model.stateFormat,
        version: source.version,
        peerVersion: source.peerVersion,
        held: [...source.held.keys()].sort((left, right) => left - right),
        lost: source.lost,
        ...stored,
        ...(tag === undefined ? {} : { tag }),
      }),
  });
  const { time, storedBytes, record } = staged;
  const ref: SnapshotRef = {
    ...staged.ref,
    bytes: source.bytes.length,
    storedBytes,
    time,
    logBytes: source.logBytes,
    crc: source.crc,
  };
  const held = [...source.held].map(([clock, payload]) => {
    const at = heldKey(id, clock);
    return { key: at, value: sealRecord(at, time, payload) };
  });
  return { ref, record, held };
}

/**
 * Makes `meta` the document's meta. Returns its bytes, or `undefined` when another writer was faster (nothing
 * was changed).
 */
export async function flip(
  context: Context,
  id: string,
  metaBytes: Uint8Array,
  meta: Meta,
  staged: readonly Pick<Staged, "record" | "held">[],
): Promise<Uint8Array | undefined> {
  const value = sealMeta(id, meta, context.env.now());
  const held = new Map(staged.flatMap((snapshot) => snapshot.held).map((entry) => [entry.key[2]!, entry]));
  const batch: Batch = {
    put: [{ key: metaKey(id), value }, ...held.values()],
    expect: [
      { key: metaKey(id), value: metaBytes },
      ...staged.map(({ record }) => ({ key: record.key, value: record.value })),
    ],
  };
  try {
    await context.guard.commit(batch);
    return value;
  } catch (error) {
    if (isCoppiceError(error, "COMMIT_CONFLICT")) return undefined;
    throw error;
  }
}

/**
 * Deletes what `meta` made garbage, in slices. Stops, without error, when meta has changed, or a copy has
 * written something: whoever did sweeps. Returns how many keys it deleted.
 */
export async function sweep(
  context: Context,
  id: string,
  meta: Meta,
  metaBytes: Uint8Array,
): Promise<number> {
  const marked = { key: copiedKey(id), value: await context.guard.get(copiedKey(id)) };
  const { ranges, tagsBytes } = await findGarbage(context, id, meta);
  // Whoever adds a tag meanwhile may need what is garbage without it. And a copy stages under the keys of its
  // source, which one before it may have used: what was garbage may be its stage by now.
  const expect = [{ key: metaKey(id), value: metaBytes }, { key: tagsKey(id), value: tagsBytes }, marked];
  let swept = 0;
  const remove = async (keys: Key[]): Promise<boolean> => {
    if (keys.length === 0) return true;
    try {
      await context.guard.commit({ delete: keys, expect });
      swept += keys.length;
      return true;
    } catch (error) {
      if (isCoppiceError(error, "COMMIT_CONFLICT")) return false;
      throw error;
    }
  };
  for (const { garbage, ...range } of ranges) {
    let slice: Key[] = [];
    for await (const page of context.guard.scan({ ...range, id }, { values: false })) {
      for (const { key } of page) if (garbage(key)) slice.push(key);
      while (slice.length >= context.limits.sweepKeysMax) {
        if (!(await remove(slice.splice(0, context.limits.sweepKeysMax)))) return swept;
      }
    }
    if (!(await remove(slice))) return swept;
    slice = [];
  }
  return swept;
}

/** Where garbage may lie, and which of the keys there are. */
export interface GarbageRange {
  readonly space: string;
  readonly to?: number;
  readonly garbage: (key: Key) => boolean;
}

/** What meta and the index of the tags make garbage, and the index that was read. */
export async function findGarbage(
  context: Context,
  id: string,
  meta: Meta,
): Promise<{ readonly ranges: readonly GarbageRange[]; readonly tagsBytes: Uint8Array | undefined }> {
  const gone = meta.deleted !== undefined;
  const refs = [meta.snapshot, meta.previous].filter((ref) => ref !== undefined);
  const tags = await intactTags(context, id, meta);
  const kept = (named: readonly StageRef[]) => {
    const names = new Set(named.map(({ clock, stage }) => `${clock}.${stage}`));
    return (key: Key) => gone || !names.has(`${key[2]}.${stageOf(key)}`);
  };
  const below = (gone ? meta.deleted!.clock : (meta.snapshot?.clock ?? meta.base)) + 1;
  const ranges: GarbageRange[] = [
    { space: "events", to: gone ? meta.deleted!.clock : meta.oldest, garbage: () => true },
    { space: "snapshot", to: below, garbage: kept(refs) },
    { space: "archive", garbage: kept(meta.archive) },
  ];
  // Which ones a damaged index names cannot be told: then all are kept.
  if (tags.entries === undefined && !gone) return { ranges, tagsBytes: tags.bytes };
  const named = gone ? [] : tags.entries!;
  ranges.push({ space: "tagged", garbage: kept(named) });
  ranges.push({ space: "held", garbage: await heldGarbage(context, id, gone ? [] : refs, named, below) });
  if (gone) ranges.push({ space: "tags", garbage: () => true });
  return { ranges, tagsBytes: tags.bytes };
}

/** No entries when the index is damaged, or gone: stages of this incarnation never lie there without one. */
async function intactTags(
  context: Context,
  id: string,
  meta: Meta,
): Promise<{ readonly entries: readonly TagEntry[] | undefined; readonly bytes: Uint8Array | undefined }> {
  const bytes = await context.guard.get(tagsKey(id));
  if (bytes === undefined) {
    const orphaned = meta.deleted === undefined && (await hasTaggedStages(context, id, meta));
    return { entries: orphaned ? undefined : [], bytes };
  }
  try {
    return { entries: unsealTags(id, bytes), bytes };
  } catch (error) {
    if (isCoppiceError(error)) return { entries: undefined, bytes };
    throw error;
  }
}

/** Whether a tag of this incarnation was ever staged; an earlier one ended at or below `base`. */
export async function hasTaggedStages(context: Context, id: string, { base }: Meta): Promise<boolean> {
  const range = { space: "tagged", id, from: base + 1 };
  for await (const page of context.guard.scan(range, { limit: 1, values: false })) return page.length > 0;
  return false;
}

/**
 * The tags of a document that has this meta. `undefined`: their index has vanished, or this is not its meta
 * any more. Throws what `readTags` does.
 */
export async function presentTags(context: Context, id: string, meta: Meta): Promise<Tags | undefined> {
  // Somebody may make the first tag between the two looks at index and stages.
  for (let look = 0; look < 2; look++) {
    const tags = await readTags(context.guard, id);
    if (tags.bytes !== undefined || !(await hasTaggedStages(context, id, meta))) return tags;
  }
  return undefined;
}

/** Held records are kept while a snapshot needs them. */
async function heldGarbage(
  context: Context,
  id: string,
  refs: readonly StageRef[],
  tags: readonly TagEntry[],
  below: number,
): Promise<(key: Key) => boolean> {
  const needed = new Set<number>();
  const need = async (ref: StageRef, space: StageSpace) => {
    for (const clock of (await readSnapshotRecord(context.guard, id, ref, space)).held) needed.add(clock);
  };
  try {
    for (const ref of refs) await need(ref, "snapshot");
    for (const tag of tags) if (tag.held > 0) await need(tag, "tagged");
  } catch {
    // Which ones a damaged or vanished snapshot needs cannot be told: keep them all.
    return () => false;
  }
  return (key) => key[2]! < below && !needed.has(key[2]!);
}
