/**
 * The archive of one document under check: whether each segment that meta names is whole; and the list of
 * segments made again from their records, when meta is lost.
 *
 * A segment that is damaged becomes a lost one: its bytes are set aside, its clocks still count, and events
 * in it are shown as lost. The document itself is not touched: snapshots cover what was archived. Nothing is
 * written here.
 */

import { isCoppiceError } from "../base/errors.js";
import type { Key } from "../contract/backend.js";
import type { AnyModel } from "../contract/model.js";
import { readSegment, type SegmentRecord, unpackSegmentRecord } from "./archive.js";
import type { Finding } from "./check-log.js";
import { stageSizes, stages } from "./check-rebuild.js";
import { stageKeys } from "./check-snapshots.js";
import type { Context } from "./context.js";
import type { ArchiveRef, Meta } from "./meta.js";
import { Moved, readStageRecord, stageKey } from "./stages.js";
import { decodeBatch } from "./state.js";

export interface FoundSegment {
  readonly ref: ArchiveRef;
  /** What is wrong with it. */
  readonly finding: Finding | undefined;
  /** Values to set aside before meta calls the segment lost. */
  readonly damaged: readonly Key[];
  readonly newer: boolean;
}

/** Looks at every segment that meta names. Without a model, events are not decoded. */
export async function findArchive(
  context: Context,
  id: string,
  { archive }: Meta,
  model: AnyModel | undefined,
  signal: AbortSignal | undefined,
): Promise<FoundSegment[]> {
  const found: FoundSegment[] = [];
  for (const ref of archive) {
    signal?.throwIfAborted();
    found.push(await findSegment(context, id, ref, model));
  }
  return found;
}

/** What the segment is when its bytes are set aside. */
export function lostSegment(ref: ArchiveRef): ArchiveRef {
  return { ...ref, stage: 0, parts: 0, bytes: 0, storedBytes: 0 };
}

async function findSegment(
  context: Context,
  id: string,
  ref: ArchiveRef,
  model: AnyModel | undefined,
): Promise<FoundSegment> {
  const about = { ref, damaged: [], newer: false };
  const key = stageKey("archive", id, ref, 0);
  const where = `the archived events from clock ${ref.clock} to clock ${ref.end}`;
  try {
    for (const batch of await readSegment(context.guard, id, ref)) {
      if (model !== undefined && !batch.header.lost) decodeBatch(model, id, batch);
    }
    return { ...about, finding: undefined };
  } catch (error) {
    if (isCoppiceError(error, "FORMAT_UNSUPPORTED")) {
      const finding: Finding = { code: "format-unsupported", key, message: `${where} are of a newer format` };
      return { ...about, newer: true, finding };
    }
    if (!(error instanceof Moved) && !isCoppiceError(error, "CORRUPT")) throw error;
    const finding: Finding = { code: "archive-damaged", key, message: `${where}: ${error.message}` };
    const failing = await stageKeys(context, id, ref, true, "archive");
    const all = failing.length > 0 || error instanceof Moved;
    return {
      ...about,
      finding,
      damaged: all ? failing : await stageKeys(context, id, ref, false, "archive"),
    };
  }
}

/**
 * The segments that end at `oldest`, and those before them: of several that overlap the longest, and a lost
 * one where there is a gap, as far back as a record tells that there was something.
 */
export async function rebuildArchive(context: Context, id: string, oldest: number): Promise<ArchiveRef[]> {
  const known: ArchiveRef[] = [];
  for (const at of await stages(context, id, "archive")) {
    const ref = await refAt(context, id, at);
    if (ref !== undefined && ref.clock < ref.end && ref.end <= oldest) known.push(ref);
  }
  const archive: ArchiveRef[] = [];
  for (let end = oldest; ; end = archive[0]!.clock) {
    const [next] = known
      .filter((ref) => ref.end <= end)
      .sort((left, right) => right.end - left.end || left.clock - right.clock);
    if (next === undefined) return archive;
    if (next.end < end)
      archive.unshift(lostSegment({ ...next, clock: next.end, end, firstTime: next.lastTime }));
    archive.unshift(next);
  }
}

async function refAt(
  context: Context,
  id: string,
  at: { clock: number; stage: number },
): Promise<ArchiveRef | undefined> {
  try {
    const payload = await readStageRecord(context.guard, "archive", id, at);
    const record: SegmentRecord = unpackSegmentRecord(stageKey("archive", id, at, 0), payload);
    const { storedBytes } = await stageSizes(context, id, at, "archive").catch(() => ({ storedBytes: 0 }));
    const { compressed: _compressed, ...facts } = record;
    return { ...at, ...facts, storedBytes };
  } catch (error) {
    if (error instanceof Moved || isCoppiceError(error, "CORRUPT")) return undefined;
    throw error;
  }
}
