/**
 * Meta made again from the records of a document: its batches and its snapshots, staged ones included.
 *
 * What the records do not tell is chosen on the safe side: a new incarnation, so that old tokens and handles
 * are refused; a floor at the newest commit id that a caller chose, so that older ones are unknown and never
 * "not written". That a document had been deleted cannot be told, if its records were not swept yet.
 *
 * Invariant: the result names the start of the log or an intact snapshot; otherwise there is none. Nothing is
 * written here.
 */

import { toHex } from "../base/bytes.js";
import { isCoppiceError } from "../base/errors.js";
import type { Key } from "../contract/backend.js";
import type { AnyModel } from "../contract/model.js";
import { rebuildArchive } from "./check-archive.js";
import type { Examination } from "./check-document.js";
import { type FoundBatch, findBatches } from "./check-log.js";
import { readsState, stageKeys } from "./check-snapshots.js";
import type { Context } from "./context.js";
import { unseal } from "./envelope.js";
import { type Folder, restoresTo } from "./folding.js";
import { type Meta, type SnapshotRef, unsealNameless } from "./meta.js";
import { Moved, openBatch, readSnapshot, readSnapshotRecord } from "./reader.js";
import { hasRecords, partOf, type StageSpace, stageOf } from "./stages.js";
import { decodeBatch } from "./state.js";

interface Candidate {
  readonly ref: SnapshotRef;
  readonly model: AnyModel;
}

export interface Rebuilt {
  readonly meta: Meta;
  /** Damaged values of newer snapshots, which were perhaps the document's. */
  readonly damaged: readonly Key[];
}

/**
 * The tombstone for a document of which there is only meta that names no model: it never had an event, so
 * nothing is lost with it, and its clock is kept. `undefined`: there is more, or it is damaged further.
 */
export async function buryNameless(context: Context, examination: Examination): Promise<Meta | undefined> {
  const { id, meta, metaBytes } = examination;
  if (meta !== undefined || metaBytes === undefined) return undefined;
  const known = unsealNameless(id, metaBytes, context.defaultModel.name);
  if (known === undefined || known.incoming !== undefined || known.snapshot !== undefined) return undefined;
  const { base, oldest } = known;
  // It says itself whether there should be more than there is.
  if (oldest !== base || (await hasRecords(context, id))) return undefined;
  return { ...known, deleted: known.deleted ?? { clock: base, time: context.env.now() } };
}

/** `undefined` when nothing tells where a load could start. */
export async function rebuildMeta(
  context: Context,
  folder: Folder,
  examination: Examination,
  signal: AbortSignal | undefined,
): Promise<Rebuilt | undefined> {
  const { id, meta: known } = examination;
  let found = await findBatches(context, id, known?.base ?? 0, undefined, 0, signal);
  if (found.some((one) => one.newer)) return undefined;
  const first = known === undefined ? firstOfDocument(found) : found[0]?.clock === known.base ? 0 : -1;
  const whole = first >= 0;
  if (whole) found = found.slice(first);
  const start = found[0]?.clock ?? 0;
  const candidates: Candidate[] = [];
  const damaged: Key[] = [];
  for (const at of await stages(context, id)) {
    const useful = whole ? at.clock > start : at.clock > (known?.base ?? 0);
    const wanted = candidates[0]?.model.name ?? known?.model;
    if (!useful || candidates.length === 2 || at.clock === candidates[0]?.ref.clock) continue;
    // An older one only if every event after it is kept.
    if (!whole && candidates.length === 1 && (found.length === 0 || at.clock < start)) continue;
    const candidate = await openCandidate(context, folder, id, at, found, wanted);
    if (candidate === "newer") return undefined;
    if (candidate !== undefined) candidates.push(candidate);
    else if (candidates.length === 0) damaged.push(...(await stageKeys(context, id, at, true)));
  }
  const [newest, older] = candidates;
  if (newest === undefined && !whole) return undefined;
  const model = newest?.model ?? context.models.get(known?.model ?? "") ?? modelOfEvents(context, id, found);
  if (model === undefined) return undefined;
  const intact = found.flatMap(({ batch }) => (batch === undefined ? [] : [batch]));
  const oldest = whole ? start : Math.min(start, newest!.ref.clock);
  const headless = found.length === 0;
  // Without any batch there must be room for a lost one, which then tells the head.
  const logStart = headless ? newest!.ref.clock - 1 : oldest;
  const base = whole ? start : (known?.base ?? 0);
  const meta: Meta = {
    model: model.name,
    created: known?.created ?? intact[0]?.time ?? newest?.ref.time ?? context.env.now(),
    incarnation: known?.incarnation ?? toHex(context.env.random(8)),
    base,
    oldest: logStart,
    snapshot: newest?.ref,
    previous: older?.ref,
    archive: (await rebuildArchive(context, id, logStart, edgeAt(found, logStart))).filter(
      ({ clock }) => clock >= base,
    ),
    commits: known?.commits ?? [],
    commitFloor: intact.reduce(
      (floor, { header }) => Math.max(floor, header.chosenTime),
      known?.commitFloor ?? 0,
    ),
    erased: known?.erased,
    deleted: undefined,
  };
  return { meta, damaged };
}

/**
 * Index of the batch that a document (its last incarnation) began with; -1 when it is not there or not to be
 * told.
 */
function firstOfDocument(found: readonly FoundBatch[]): number {
  const index = found.findLastIndex(({ batch }) => {
    if (batch === undefined || batch.header.lost) return false;
    return batch.header.previousCrc === 0 && batch.logBytes === batch.payload.length;
  });
  return index < 0 && found[0]?.clock === 0 ? 0 : index;
}

/** All stages that have keys, newest clock first. */
export async function stages(
  context: Context,
  id: string,
  space: StageSpace = "snapshot",
): Promise<{ clock: number; stage: number }[]> {
  const byName = new Map<string, { clock: number; stage: number }>();
  for await (const page of context.guard.scan({ space, id }, { values: false })) {
    for (const { key } of page) {
      const at = { clock: key[2]!, stage: stageOf(key) };
      byName.set(`${at.clock}.${at.stage}`, at);
    }
  }
  return [...byName.values()].sort((left, right) => right.clock - left.clock);
}

/** A reference to the snapshot, if it is intact and its model restores it. */
async function openCandidate(
  context: Context,
  folder: Folder,
  id: string,
  at: { clock: number; stage: number },
  found: readonly FoundBatch[],
  modelName: string | undefined,
): Promise<Candidate | "newer" | undefined> {
  try {
    const partial = { ...at, parts: 0, bytes: 0, storedBytes: 0, time: 0, ...edgeAt(found, at.clock) };
    const { parts, bytes: length } = await readSnapshotRecord(context.guard, id, partial);
    const sizes = await stageSizes(context, id, at);
    const ref: SnapshotRef = { ...partial, parts, bytes: length, ...sizes };
    const { record, bytes } = await readSnapshot(context.guard, id, ref);
    const model = context.models.get(record.model);
    if (model === undefined || (modelName !== undefined && modelName !== record.model)) return undefined;
    if (!readsState(model, record) || !(await restoresTo(folder, model, bytes, record.version)))
      return undefined;
    return { ref, model };
  } catch (error) {
    if (error instanceof Moved || isCoppiceError(error, "CORRUPT")) return undefined;
    if (isCoppiceError(error, "FORMAT_UNSUPPORTED")) return "newer";
    throw error;
  }
}

/** Bytes of the record and the parts as stored, and when they were. Throws `CORRUPT`. */
export async function stageSizes(
  context: Context,
  id: string,
  at: { clock: number; stage: number },
  space: StageSpace = "snapshot",
): Promise<{ storedBytes: number; time: number }> {
  let storedBytes = 0;
  let time = 0;
  const range = { space, id, from: at.clock, to: at.clock + 1 };
  for await (const page of context.guard.scan(range)) {
    for (const { key, value } of page) {
      if (stageOf(key) !== at.stage) continue;
      const envelope = unseal(key, value);
      if (partOf(key) === 0) time = envelope.time;
      storedBytes += envelope.payload.length;
    }
  }
  return { storedBytes, time };
}

/**
 * Chain and total at a clock, from the batch that ends or begins there. The repair of the log corrects the
 * rest.
 */
function edgeAt(found: readonly FoundBatch[], clock: number): { crc: number; logBytes: number } {
  for (const { batch } of found) {
    if (batch?.end === clock) return { crc: batch.crc, logBytes: batch.logBytes };
    if (batch?.clock === clock) {
      return { crc: batch.header.previousCrc, logBytes: batch.logBytes - batch.payload.length };
    }
  }
  return { crc: 0, logBytes: 0 };
}

/**
 * The one registered model whose events the intact batches are. Of several that decode them `check` tells;
 * when more than one takes them all, or none, it is not to be told.
 */
function modelOfEvents(context: Context, id: string, found: readonly FoundBatch[]): AnyModel | undefined {
  const intact = found.filter(({ batch }) => batch !== undefined && !batch.header.lost);
  if (intact.length === 0) return undefined;
  const batches = intact.map(({ key, value }) => openBatch(key, value));
  const takes = (model: AnyModel, checked: boolean) =>
    batches.every((batch) => {
      try {
        const events = decodeBatch(model, id, batch);
        if (checked) model.check?.(events);
        return true;
      } catch {
        // Whatever the reason: to this model these bytes are no events.
        return false;
      }
    });
  const decoding = [...context.models.values()].filter((model) => takes(model, false));
  const [model, ...others] = decoding.length < 2 ? decoding : decoding.filter((one) => takes(one, true));
  return others.length === 0 ? model : undefined;
}
