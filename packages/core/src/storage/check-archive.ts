/**
 * The archive of one document under check: whether each segment that meta names is whole, and what its events
 * fold to; and the list of segments made again from their records, when meta is lost.
 *
 * A segment that is damaged becomes a lost one: its bytes are set aside, its clocks still count, and events
 * in it are shown as lost. The document itself is not touched: snapshots cover what was archived. Nothing is
 * written here.
 */

import { isCoppiceError } from "../base/errors.js";
import type { Key } from "../contract/backend.js";
import type { AnyModel } from "../contract/model.js";
import { readSegment, type SegmentRecord, unpackSegmentRecord } from "./archive.js";
import { type ClockedEvent, type FoldBase, foldOnto, startOf } from "./check-fold.js";
import type { Finding } from "./check-log.js";
import { stageSizes, stages } from "./check-rebuild.js";
import { stageKeys } from "./check-snapshots.js";
import type { Context } from "./context.js";
import type { Folder } from "./folding.js";
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

export interface FoundArchive {
  readonly segments: readonly FoundSegment[];
  /** What all of it folds to; `undefined` when it does not begin with the document, or cannot be folded. */
  readonly folded: FoldBase | undefined;
}

/** Looks at every segment that meta names. Without a model, events are neither decoded nor folded. */
export async function findArchive(
  context: Context,
  folder: Folder,
  id: string,
  { archive, base }: Meta,
  model: AnyModel | undefined,
  signal: AbortSignal | undefined,
): Promise<FoundArchive> {
  const segments: FoundSegment[] = [];
  let folded = archive[0]?.clock === base && model !== undefined ? startOf(base) : undefined;
  for (const ref of archive) {
    signal?.throwIfAborted();
    const { segment, events, lost } = await findSegment(context, id, ref, model);
    segments.push(segment);
    if (segment.finding !== undefined) folded = undefined;
    folded &&= await foldOnto(folder, model!, folded, events, lost, ref.end);
  }
  return { segments, folded };
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
): Promise<{ segment: FoundSegment; events: ClockedEvent[]; lost: number[] }> {
  const about = { ref, damaged: [], newer: false };
  const events: ClockedEvent[] = [];
  const lost: number[] = [];
  const key = stageKey("archive", id, ref, 0);
  const where = `the archived events from clock ${ref.clock} to clock ${ref.end}`;
  try {
    for (const batch of await readSegment(context.guard, id, ref)) {
      const decoded = model === undefined || batch.header.lost ? undefined : decodeBatch(model, id, batch);
      for (let clock = batch.clock; clock < batch.end; clock++) {
        if (decoded === undefined) lost.push(clock);
        else events.push({ clock, event: decoded[clock - batch.clock] });
      }
    }
    return { segment: { ...about, finding: undefined }, events, lost };
  } catch (error) {
    if (isCoppiceError(error, "FORMAT_UNSUPPORTED")) {
      const finding: Finding = { code: "format-unsupported", key, message: `${where} are of a newer format` };
      return { segment: { ...about, newer: true, finding }, events, lost };
    }
    if (!(error instanceof Moved) && !isCoppiceError(error, "CORRUPT")) throw error;
    const finding: Finding = { code: "archive-damaged", key, message: `${where}: ${error.message}` };
    const failing = await stageKeys(context, id, ref, true, "archive");
    const all = failing.length > 0 || error instanceof Moved;
    const broken = all ? failing : await stageKeys(context, id, ref, false, "archive");
    return { segment: { ...about, finding, damaged: broken }, events, lost };
  }
}

/**
 * The segments that end at `oldest`, and those before them: of several that overlap the longest, and a lost
 * one where there is a gap, as far back as a record tells that there was something. `edge` is what the log
 * names before its first batch.
 */
export async function rebuildArchive(
  context: Context,
  id: string,
  oldest: number,
  edge: { readonly crc: number; readonly logBytes: number },
): Promise<ArchiveRef[]> {
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
    if (next.end < end) {
      const last = end === oldest ? edge : {};
      archive.unshift(lostSegment({ ...next, clock: next.end, end, firstTime: next.lastTime, ...last }));
    }
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
