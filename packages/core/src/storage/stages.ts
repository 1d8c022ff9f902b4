/**
 * Stages: bytes of any length under keys that nothing names yet; a later commit names them or they are
 * garbage. Snapshots, the snapshots of tags, and archived batches are written and read in this one way.
 *
 * | key                                  | value                                                          |
 * | ------------------------------------ | -------------------------------------------------------------- |
 * | `[space, id, clock, stage · 2¹⁶]`      | the record: a msgpack map that says what the bytes are         |
 * | `[space, id, clock, stage · 2¹⁶ + n]`  | part n, from 1: the bytes, deflated as a whole when smaller    |
 *
 * Invariants: every commit expects the meta that the stage was planned on, so nothing is staged behind a
 * deletion; the record is written before or with its parts, and a sweep deletes it before or with them; so
 * a commit that expects the record either finds its stage whole, or fails. Two writers that stage at one
 * clock never share keys: the stage number is random.
 */

import { concatBytes } from "../base/bytes.js";
import { deflate, inflate } from "../base/compression.js";
import { CoppiceError, isCoppiceError } from "../base/errors.js";
import type { Entry, Key } from "../contract/backend.js";
import type { Guard } from "../contract/guard.js";
import type { Context } from "./context.js";
import { damaged, sealRecord, unseal } from "./envelope.js";
import { metaKey } from "./meta.js";

const STAGE_UNIT = 2 ** 16;
const PARTS_MAX = STAGE_UNIT - 1;

/** Where the stages of snapshots, of tags and of the archive lie. */
export type StageSpace = "snapshot" | "tagged" | "archive";

/** The spaces, besides meta and the quarantine, in which a document has keys. */
export const SPACES: readonly string[] = ["events", "snapshot", "held", "tags", "tagged", "archive"];

/** Whether anything is stored under the id besides meta and what was set aside; or so, behind this clock. */
export async function hasRecords(context: Context, id: string, behind?: number): Promise<boolean> {
  for (const space of SPACES) {
    // A batch has the clock before its first event.
    const after = space === "events" ? 0 : 1;
    const range = behind === undefined ? { space, id } : { space, id, from: behind + after };
    for await (const page of context.guard.scan(range, { limit: 1, values: false })) {
      if (page.length > 0) return true;
    }
  }
  return false;
}

export interface StageRef {
  readonly clock: number;
  readonly stage: number;
  /** Stored parts, without the record itself. */
  readonly parts: number;
}

export const stageKey = (space: StageSpace, id: string, at: Omit<StageRef, "parts">, part: number): Key => [
  space,
  id,
  at.clock,
  at.stage * STAGE_UNIT + part,
];
export const stageOf = (key: Key): number => Math.floor((key[3] ?? 0) / STAGE_UNIT);
export const partOf = (key: Key): number => (key[3] ?? 0) % STAGE_UNIT;

/** Stored keys do not fit together: either meta has changed meanwhile, or something is damaged. */
export class Moved extends Error {
  readonly key: Key;

  constructor(key: Key, message: string) {
    super(message);
    this.key = key;
  }
}

/** Another writer changed meta meanwhile, or took our stage for one that was left behind and swept it. */
export class StageSwept extends Error {}

/** How the bytes were stored: every record says so. */
export interface Stored {
  readonly bytes: number;
  readonly parts: number;
  readonly compressed: boolean;
}

export interface StagedBytes {
  readonly ref: StageRef;
  /** As stored, with the record. */
  readonly storedBytes: number;
  readonly time: number;
  /** What the commit that names the stage expects to find. */
  readonly record: Entry;
}

/** What is to be staged, and the record that goes with it. */
export interface StageSource {
  readonly space: StageSpace;
  readonly id: string;
  readonly clock: number;
  readonly bytes: Uint8Array;
  /** The meta of the document that this is staged for. */
  readonly metaBytes: Uint8Array;
  /** From this size on compression is tried. */
  readonly compressBytesMin: number;
  record(stored: Stored): Uint8Array;
}

/** Writes the record and the parts. Throws `SNAPSHOT_TOO_LARGE` and `StageSwept`; nothing is visible yet. */
export async function stageBytes(context: Context, source: StageSource): Promise<StagedBytes> {
  const { limits, env } = context;
  const { space, id, bytes, clock } = source;
  const deflated = bytes.length >= source.compressBytesMin ? await deflate(bytes) : undefined;
  const compressed = deflated !== undefined && deflated.length < bytes.length;
  const stored = compressed ? deflated : bytes;
  const parts = Math.ceil(stored.length / limits.snapshotPartBytesMax);
  if (parts > PARTS_MAX)
    throw tooLarge(id, "snapshotPartBytesMax", limits.snapshotPartBytesMax, stored.length);
  const payload = source.record({ bytes: bytes.length, parts, compressed });
  const [a, b, c, d] = env.random(4) as unknown as [number, number, number, number];
  const ref: StageRef = { clock, stage: (a * 2 ** 23 + b * 2 ** 15 + c * 2 ** 7 + (d >> 1)) >>> 0, parts };
  const time = env.now();
  // A sweep may come upon a stage that is half written: it takes the record, and the naming commit will miss
  // it.
  const recordKey = stageKey(space, id, ref, 0);
  const record = { key: recordKey, value: sealRecord(recordKey, time, payload) };
  const write = (entries: Entry[]) => commitStaged(context.guard, source, entries);
  const put: Entry[] = [record];
  let putBytes = record.value.length;
  for (let part = 1; part <= parts; part++) {
    const key = stageKey(space, id, ref, part);
    const start = (part - 1) * limits.snapshotPartBytesMax;
    const piece = stored.subarray(start, start + limits.snapshotPartBytesMax);
    if (putBytes + piece.length > limits.groupBytesMax) {
      await write(put.splice(0));
      putBytes = 0;
    }
    put.push({ key, value: sealRecord(key, time, piece, compressed) });
    putBytes += piece.length;
  }
  await write(put);
  return { ref, storedBytes: stored.length + payload.length, time, record };
}

async function commitStaged(guard: Guard, { id, metaBytes }: StageSource, put: Entry[]): Promise<void> {
  try {
    await guard.commit({ put, expect: [{ key: metaKey(id), value: metaBytes }] });
  } catch (error) {
    if (isCoppiceError(error, "COMMIT_CONFLICT")) throw new StageSwept("meta has changed");
    throw error;
  }
}

/** The payload of a stage's record; throws `Moved` when it is not there. */
export async function readStageRecord(
  guard: Guard,
  space: StageSpace,
  id: string,
  ref: Omit<StageRef, "parts">,
): Promise<Uint8Array> {
  const key = stageKey(space, id, ref, 0);
  const value = await guard.get(key);
  if (value === undefined) throw new Moved(key, "the record of a stage is missing");
  return unseal(key, value).payload;
}

/**
 * The record, as `open` reads it, and the bytes as they were staged. Throws `Moved` when a part is not there,
 * and `CORRUPT`.
 */
export async function readStage<R extends Stored>(
  guard: Guard,
  space: StageSpace,
  id: string,
  ref: StageRef,
  open: (key: Key, payload: Uint8Array) => R,
): Promise<{ readonly record: R; readonly bytes: Uint8Array }> {
  let record: R | undefined;
  const parts: Uint8Array[] = [];
  for await (const page of guard.scan({ space, id, from: ref.clock, to: ref.clock + 1 })) {
    for (const { key, value } of page) {
      if (stageOf(key) !== ref.stage) continue;
      const { payload } = unseal(key, value);
      if (partOf(key) === 0) record = open(key, payload);
      else parts.push(payload);
    }
  }
  const key = stageKey(space, id, ref, 0);
  if (record === undefined || parts.length !== record.parts || record.parts !== ref.parts) {
    throw new Moved(key, `a part of the ${NAMES[space]} is missing`);
  }
  const stored = parts.length === 1 ? parts[0]! : concatBytes(parts);
  if (!record.compressed) {
    if (stored.length !== record.bytes) {
      throw damaged(key, `the ${NAMES[space]} has another length than recorded`);
    }
    return { record, bytes: stored };
  }
  try {
    return { record, bytes: await inflate(stored, record.bytes) };
  } catch (error) {
    throw damaged(key, `the ${NAMES[space]} cannot be decompressed`, error);
  }
}

const NAMES: Readonly<Record<StageSpace, string>> = {
  snapshot: "snapshot",
  tagged: "snapshot of the tag",
  archive: "archived part of the log",
};

export function tooLarge(id: string, limit: string, max: number, actual: number): CoppiceError {
  return new CoppiceError("SNAPSHOT_TOO_LARGE", "no snapshot is taken and nothing is trimmed", {
    details: { id, limit, max, actual },
  });
}
