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

import { COMPRESS_BYTES_MIN, deflate } from "../base/compression.js";
import { CoppiceError, isCoppiceError } from "../base/errors.js";
import type { Batch, Entry, Key } from "../contract/backend.js";
import type { AnyModel } from "../contract/model.js";
import type { Context } from "./context.js";
import { sealRecord } from "./envelope.js";
import {
  heldKey,
  type Meta,
  metaKey,
  PARTS_MAX,
  packSnapshotRecord,
  type SnapshotRef,
  sealMeta,
  snapshotKey,
  stageOf,
} from "./meta.js";
import { readSnapshotRecord } from "./reader.js";

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

export interface Staged {
  readonly ref: SnapshotRef;
  readonly record: Entry;
  readonly held: readonly Entry[];
}

/** Writes the parts and the record under a new stage. Throws `SNAPSHOT_TOO_LARGE`; nothing is visible yet. */
export async function stageSnapshot(context: Context, id: string, source: SnapshotSource): Promise<Staged> {
  const { limits, env } = context;
  if (source.bytes.length > limits.snapshotBytesMax) {
    throw tooLarge(id, "snapshotBytesMax", limits.snapshotBytesMax, source.bytes.length);
  }
  if (source.held.size > limits.heldEventsMax) {
    throw tooLarge(id, "heldEventsMax", limits.heldEventsMax, source.held.size);
  }
  const compressed = source.bytes.length >= COMPRESS_BYTES_MIN ? await deflate(source.bytes) : undefined;
  const smaller =
    compressed !== undefined && compressed.length < source.bytes.length ? compressed : undefined;
  const stored = smaller ?? source.bytes;
  const parts = Math.ceil(stored.length / limits.snapshotPartBytesMax);
  if (parts > PARTS_MAX)
    throw tooLarge(id, "snapshotPartBytesMax", limits.snapshotPartBytesMax, stored.length);
  const record = packSnapshotRecord({
    model: source.model.name,
    stateFormat: source.model.stateFormat,
    version: source.version,
    peerVersion: source.peerVersion,
    held: [...source.held.keys()].sort((left, right) => left - right),
    lost: source.lost,
    bytes: source.bytes.length,
    parts,
    compressed: smaller !== undefined,
  });
  const [a, b, c, d] = env.random(4) as unknown as [number, number, number, number];
  const time = env.now();
  const ref: SnapshotRef = {
    clock: source.clock,
    stage: (a * 2 ** 23 + b * 2 ** 15 + c * 2 ** 7 + (d >> 1)) >>> 0,
    parts,
    bytes: source.bytes.length,
    storedBytes: stored.length + record.length,
    time,
    logBytes: source.logBytes,
    crc: source.crc,
  };
  // A sweep may come upon a stage that is half written: it takes the record, and the flip will miss it.
  const recordKey = snapshotKey(id, ref, 0);
  const entry = { key: recordKey, value: sealRecord(recordKey, time, record) };
  const put: Entry[] = [entry];
  let putBytes = entry.value.length;
  for (let part = 1; part <= parts; part++) {
    const key = snapshotKey(id, ref, part);
    const start = (part - 1) * limits.snapshotPartBytesMax;
    const piece = stored.subarray(start, start + limits.snapshotPartBytesMax);
    if (putBytes + piece.length > limits.groupBytesMax) {
      await context.guard.commit({ put: put.splice(0) });
      putBytes = 0;
    }
    put.push({ key, value: sealRecord(key, time, piece, smaller !== undefined) });
    putBytes += piece.length;
  }
  await context.guard.commit({ put });
  const held = [...source.held].map(([clock, payload]) => {
    const at = heldKey(id, clock);
    return { key: at, value: sealRecord(at, time, payload) };
  });
  return { ref, record: entry, held };
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
  staged: readonly Staged[],
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
 * Deletes what `meta` made garbage, in slices. Stops, without error, when meta has changed: whoever changed
 * it sweeps. Returns how many keys it deleted.
 */
export async function sweep(
  context: Context,
  id: string,
  meta: Meta,
  metaBytes: Uint8Array,
): Promise<number> {
  const expect = [{ key: metaKey(id), value: metaBytes }];
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
  for (const { space, to, garbage } of await garbageRanges(context, id, meta)) {
    let slice: Key[] = [];
    for await (const page of context.guard.scan({ space, id, to }, { values: false })) {
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

/** Where garbage may lie, as `meta` tells, and which of the keys there are. */
export async function garbageRanges(
  context: Context,
  id: string,
  meta: Meta,
): Promise<{ readonly space: string; readonly to: number; readonly garbage: (key: Key) => boolean }[]> {
  const gone = meta.deleted !== undefined;
  const kept = new Set([meta.snapshot, meta.previous].map((ref) => ref && `${ref.clock}.${ref.stage}`));
  const below = (gone ? meta.deleted!.clock : (meta.snapshot?.clock ?? meta.base)) + 1;
  return [
    { space: "events", to: gone ? meta.deleted!.clock : meta.oldest, garbage: () => true },
    { space: "snapshot", to: below, garbage: (key) => gone || !kept.has(`${key[2]}.${stageOf(key)}`) },
    { space: "held", to: below, garbage: await heldGarbage(context, id, meta) },
  ];
}

/** Held records are kept while the newest or the previous snapshot needs them. */
async function heldGarbage(context: Context, id: string, meta: Meta): Promise<(key: Key) => boolean> {
  const needed = new Set<number>();
  if (meta.deleted === undefined) {
    for (const ref of [meta.snapshot, meta.previous]) {
      if (ref === undefined) continue;
      try {
        for (const clock of (await readSnapshotRecord(context.guard, id, ref)).held) needed.add(clock);
      } catch {
        // Which ones a damaged or vanished snapshot needs cannot be told: keep them all.
        return () => false;
      }
    }
  }
  return (key) => !needed.has(key[2]!);
}

function tooLarge(id: string, limit: string, max: number, actual: number): CoppiceError {
  return new CoppiceError("SNAPSHOT_TOO_LARGE", "no snapshot is taken and nothing is trimmed", {
    details: { id, limit, max, actual },
  });
}
