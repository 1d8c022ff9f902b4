/**
 * Examination of one document: everything that is stored under its id, against what storage promises.
 *
 * It reads and judges; `check-repair` acts on what it found. Memory: the log and the snapshots of one
 * document.
 */

import { equalBytes } from "../base/bytes.js";
import { isCoppiceError } from "../base/errors.js";
import type { AnyModel } from "../contract/model.js";
import { isWhole } from "./archive.js";
import { type FoundSegment, findArchive } from "./check-archive.js";
import { baseOf, compareFold, type FoldBase, startOf } from "./check-fold.js";
import {
  type Finding,
  type FoundBatch,
  findBatches,
  type Link,
  type LogEdit,
  type LogReport,
  type LogStart,
  walkLog,
} from "./check-log.js";
import { type FoundHeld, type FoundSnapshot, findHeld, findSnapshot } from "./check-snapshots.js";
import { type FoundTags, findTags, NO_TAGS } from "./check-tags.js";
import type { Context } from "./context.js";
import type { Folder } from "./folding.js";
import { eventsKey, type Meta, metaKey, type SnapshotRef, snapshotKey, unsealMeta } from "./meta.js";
import { findGarbage } from "./snapshots.js";
import { hasRecords, SPACES, stageKey } from "./stages.js";
import { furthest, tagsKey } from "./tag-index.js";

export type { Finding } from "./check-log.js";

/** What one look at a document found, and what a repair goes by. */
export interface Examination {
  readonly id: string;
  /** `undefined` when it is absent or damaged. */
  readonly meta: Meta | undefined;
  readonly metaBytes: Uint8Array | undefined;
  readonly model: AnyModel | undefined;
  readonly findings: readonly Finding[];
  readonly edits: readonly LogEdit[];
  /** What meta must say of its snapshots once the edits are made. */
  readonly refs: ReadonlyMap<SnapshotRef, SnapshotRef>;
  /** What meta must say of the CRC at the end of the archive; `undefined`: it does. */
  readonly edge: number | undefined;
  readonly guessedEnd: number | undefined;
  readonly snapshots: readonly FoundSnapshot[];
  readonly held: readonly FoundHeld[];
  readonly tags: FoundTags;
  readonly archive: readonly FoundSegment[];
  /** A load has something to start from: the whole log, or a snapshot that the model restores. */
  readonly based: boolean;
  /** A repair must not touch it: something was written by a newer version, or cannot be judged. */
  readonly frozen: boolean;
  readonly garbageKeys: number;
  /** Events that the log retains. */
  readonly events: number;
  /** Of all events, those that damage took, and that no snapshot has. */
  readonly lost: number;
}

const LOOKS_MAX = 5;

/** Examines a document; again, a few times, when something is wrong and it changed while it was read. */
export async function settledExamination(
  context: Context,
  folder: Folder,
  id: string,
  signal: AbortSignal | undefined,
): Promise<Examination> {
  for (let look = 1; ; look++) {
    const examination = await examine(context, folder, id, signal);
    if (examination.findings.length === 0 || look === LOOKS_MAX) return examination;
    if (!(await hasChanged(context, examination))) return examination;
  }
}

/** Its meta, or which tags there are: an append alone takes nothing away. */
async function hasChanged({ guard }: Context, { id, meta, metaBytes, tags }: Examination): Promise<boolean> {
  if (!equalBytes(await guard.get(metaKey(id)), metaBytes)) return true;
  return meta !== undefined && !equalBytes(await guard.get(tagsKey(id)), tags.bytes);
}

async function examine(
  context: Context,
  folder: Folder,
  id: string,
  signal: AbortSignal | undefined,
): Promise<Examination> {
  const metaBytes = await context.guard.get(metaKey(id));
  const findings: Finding[] = [];
  let meta: Meta | undefined;
  let frozen = false;
  if (metaBytes !== undefined) {
    try {
      meta = unsealMeta(id, metaBytes);
    } catch (error) {
      frozen = isCoppiceError(error, "FORMAT_UNSUPPORTED");
      if (!isCoppiceError(error) || (!frozen && error.code !== "CORRUPT")) throw error;
      findings.push({
        code: frozen ? "format-unsupported" : "meta-damaged",
        key: metaKey(id),
        message: `the meta record cannot be read: ${error.message}`,
      });
    }
  } else if (await hasRecords(context, id)) {
    findings.push({
      code: "meta-missing",
      key: metaKey(id),
      message: "the document has records but no meta",
    });
  }
  const nothing: Examination = {
    id,
    meta,
    metaBytes,
    model: undefined,
    findings,
    edits: [],
    refs: new Map(),
    edge: undefined,
    guessedEnd: undefined,
    snapshots: [],
    held: [],
    tags: NO_TAGS,
    archive: [],
    based: false,
    frozen,
    garbageKeys: 0,
    events: 0,
    lost: 0,
  };
  if (meta === undefined) return nothing;
  if (meta.incoming !== undefined) {
    return { ...nothing, based: true, garbageKeys: await countStaged(context, id) };
  }
  const garbageKeys = await countGarbage(context, id, meta);
  if (meta.deleted !== undefined) {
    return { ...nothing, ...(await examineTombstone(context, id, meta.deleted.clock)), garbageKeys };
  }
  return { ...(await examineLive(context, folder, nothing, meta, signal)), garbageKeys };
}

async function countGarbage(context: Context, id: string, meta: Meta): Promise<number> {
  let count = 0;
  for (const { garbage, ...range } of (await findGarbage(context, id, meta)).ranges) {
    for await (const page of context.guard.scan({ ...range, id }, { values: false })) {
      for (const { key } of page) if (garbage(key)) count++;
    }
  }
  return count;
}

/** What a fork, an import or a copy has staged so far, with its claim. */
async function countStaged(context: Context, id: string): Promise<number> {
  let count = 1;
  for (const space of SPACES) {
    for await (const page of context.guard.scan({ space, id }, { values: false })) count += page.length;
  }
  return count;
}

/** Nothing lies after a deletion. */
async function examineTombstone(
  context: Context,
  id: string,
  clock: number,
): Promise<Pick<Examination, "findings" | "edits" | "based" | "frozen">> {
  const found = await findBatches(context, id, clock, undefined, 0, undefined);
  const findings = found.map(({ key, clock: at }): Finding => {
    const message = `a batch lies at clock ${at} of a document that was deleted at clock ${clock}`;
    return { code: "batch-stray", key, message };
  });
  const edits = found.map(
    ({ key, value, why }): LogEdit => ({ key, found: value, put: undefined, aside: why ?? "stray" }),
  );
  // An intact one may be what a lost meta record created: nothing tells, so it stays.
  const frozen = found.some((one) => one.batch !== undefined || one.newer);
  return { findings, edits, based: true, frozen };
}

async function examineLive(
  context: Context,
  folder: Folder,
  nothing: Examination,
  meta: Meta,
  signal: AbortSignal | undefined,
): Promise<Examination> {
  const { id } = nothing;
  const model = context.models.get(meta.model);
  const findings: Finding[] = [];
  if (model === undefined) {
    const message = `the document is of the model ${meta.model}, which is not registered`;
    findings.push({ code: "model-unknown", key: metaKey(id), message });
  }
  const snapshots: FoundSnapshot[] = [];
  for (const name of ["snapshot", "previous"] as const) {
    const ref = meta[name];
    if (ref !== undefined) snapshots.push(await findSnapshot(context, folder, id, meta, name, ref, model));
  }
  const eventsBelow = meta.snapshot?.clock ?? 0;
  // Before the batches: a tag that is added meanwhile may lie beyond those.
  const tags = await findTags(context, folder, id, meta, model);
  const found = await findBatches(context, id, meta.oldest, model, eventsBelow, signal);
  const log = examineLog(context, id, meta, found, snapshots, furthest(tags.entries));
  const newer = found.filter((one) => one.newer);
  if (newer.length === 0) for (const finding of log.findings) findings.push(finding);
  const { segments: archive, folded } = await findArchive(context, folder, id, meta, model, signal);
  const held = await findHeld(context, id, snapshots, tags.snapshots, found, model);
  const start = meta.oldest === meta.base ? startOf(meta.base) : folded;
  if (model !== undefined) await judgeFolds(folder, model, id, start, snapshots, log.links, held);
  // A replay of the archive makes up for snapshots as long as none of it is damaged.
  const whole = isWhole(meta) && archive.every(({ finding }) => finding === undefined);
  const based = (whole || snapshots.some(usable)) && !log.headless;
  if (!based && snapshots.some(({ state }) => state === "unread") && model !== undefined) {
    const message = `the model ${model.name} does not read the state format of the stored snapshot`;
    findings.push({ code: "state-format-unsupported", key: metaKey(id), message });
  } else if (!based && snapshots.length === 0) {
    const message = "meta names no snapshot, and the first events of the document were trimmed";
    findings.push({ code: "snapshot-missing", key: metaKey(id), message });
  }
  for (const { finding } of [...snapshots, ...archive, tags, ...tags.snapshots, ...held])
    if (finding !== undefined) findings.push(finding);
  for (const { key, clock } of newer) {
    const message = `the batch at clock ${clock} is of a newer format`;
    findings.push({ code: "format-unsupported", key, message });
  }
  const frozen =
    model === undefined ||
    log.ambiguous ||
    [...snapshots, ...archive, tags, ...tags.snapshots, ...held].some((one) => one.newer) ||
    newer.length > 0;
  const events = log.links.reduce((sum, link) => sum + (link.end - link.clock), 0);
  // Nothing is left that a load could start from: then what was trimmed is nowhere.
  const isGone = !based && !frozen && snapshots.every(({ state }) => state === "bad");
  const trimmed = isGone ? trimmedOf(meta) : 0;
  const at = findings.findIndex(({ code }) => code.startsWith("snapshot-"));
  if (trimmed > 0 && at >= 0) findings[at] = { ...findings[at]!, lostEvents: trimmed };
  const lost = lostIn(log.links, snapshots.find(usable)) + trimmed;
  const { edits, refs, edge, guessedEnd } = log;
  const plan = { edits, refs, edge, guessedEnd };
  return {
    ...nothing,
    ...plan,
    model,
    findings,
    snapshots,
    held,
    tags,
    archive,
    based,
    frozen,
    events,
    lost,
  };
}

/** What the snapshot lacks, and what is lost behind it. */
function lostIn(links: readonly Link[], snapshot: FoundSnapshot | undefined): number {
  const from = snapshot?.ref.clock ?? 0;
  const behind = links.filter(({ lost }) => lost).map(({ clock, end }) => end - Math.max(clock, from));
  return behind.reduce((sum, events) => sum + Math.max(0, events), snapshot?.record?.lost.length ?? 0);
}

/** Events that are in no batch. */
function trimmedOf({ base, oldest, archive }: Meta): number {
  return archive.reduce((left, { clock, end, parts }) => left - (parts > 0 ? end - clock : 0), oldest - base);
}

/** A load may start there. */
export function usable({ state }: FoundSnapshot): boolean {
  return state === "intact" || state === "doubtful";
}

/** The walk over the log, and what of it concerns the snapshots that end on it. */
function examineLog(
  context: Context,
  id: string,
  meta: Meta,
  found: readonly FoundBatch[],
  snapshots: readonly FoundSnapshot[],
  tagged: number,
): LogReport & { refs: Map<SnapshotRef, SnapshotRef>; edge: number | undefined; headless: boolean } {
  const newest = snapshots.find(({ state }) => state === "intact")?.ref.clock;
  const start = logStart(meta);
  const report = walkLog({
    id,
    found: found.filter((one) => !one.newer),
    start,
    refs: snapshots.map(({ ref }) => ref),
    tagged,
    covered: newest ?? meta.base,
    strayEventsMin: context.limits.batchEventsMax,
  });
  const findings = [...report.findings];
  const refs = new Map<SnapshotRef, SnapshotRef>();
  const last = meta.archive.at(-1);
  const edge =
    start.crc !== undefined && last !== undefined && last.crc !== start.crc ? start.crc : undefined;
  if (edge !== undefined) {
    const message = `the archive ends at clock ${meta.oldest} with another batch than the log goes on from`;
    findings.push({ code: "chain-broken", key: stageKey("archive", id, last!, 0), message });
  }
  for (const snapshot of snapshots) {
    const { ref } = snapshot;
    const inside = report.links.some((link) => link.clock < ref.clock && ref.clock < link.end);
    if (inside && snapshot.state !== "bad") {
      const message = `the snapshot at clock ${ref.clock} ends inside a batch`;
      snapshot.state = "bad";
      snapshot.finding = { code: "chain-broken", key: snapshotKey(id, ref, 0), message };
    }
    const link = report.links.find(({ end }) => end === ref.clock);
    if (link === undefined || (link.crc === ref.crc && link.logBytes === ref.logBytes)) continue;
    refs.set(ref, { ...ref, crc: link.crc, logBytes: link.logBytes });
    const edited = report.edits.some(({ key }) => key[2] === link.clock);
    if (edited) continue;
    const code = link.crc === ref.crc ? "totals-wrong" : "chain-broken";
    const message = `meta names another batch or another total before the snapshot at clock ${ref.clock}`;
    findings.push({ code, key: snapshotKey(id, ref, 0), message });
  }
  // Meta promises a log whose batches are all gone, and no clock is left where a lost one could stand.
  const headless = report.links.length === 0 && meta.oldest > meta.base;
  if (headless) {
    const message = `all batches from clock ${meta.oldest} on are missing`;
    findings.push({ code: "tail-missing", key: eventsKey(id, meta.oldest), message });
  }
  return { ...report, findings, refs, edge, headless };
}

function logStart(meta: Meta): LogStart {
  if (meta.oldest === meta.base) return { clock: meta.oldest, crc: 0, logBytes: 0 };
  const ref = [meta.previous, meta.snapshot, meta.archive.at(-1)].find(
    (one) => one !== undefined && ("end" in one ? one.end : one.clock) === meta.oldest,
  );
  return { clock: meta.oldest, crc: ref?.crc, logBytes: ref?.logBytes };
}

/** Marks intact snapshots that are not what the events fold to. */
async function judgeFolds(
  folder: Folder,
  model: AnyModel,
  id: string,
  start: FoldBase | undefined,
  snapshots: readonly FoundSnapshot[],
  links: readonly Link[],
  held: readonly FoundHeld[],
): Promise<void> {
  const whole = start !== undefined && start.bytes === undefined;
  const intact = snapshots.filter(({ state }) => state === "intact");
  for (const target of intact) {
    const fromStart = start ? await compareFold(folder, model, start, target, links) : "incomparable";
    if (fromStart === "differs" && whole) differs(id, target, "bad", "the events");
    // Which of the two is right, nothing tells.
    else if (fromStart === "differs") differs(id, target, "doubtful", "the archive and the events after it");
    const older = intact.find(({ name, ref }) => name === "previous" && ref.clock < target.ref.clock);
    if (fromStart !== "incomparable" || older === undefined || older.state !== "intact") continue;
    const base = baseOf(older, held);
    if (base !== undefined && (await compareFold(folder, model, base, target, links)) === "differs") {
      differs(id, target, "doubtful", "the previous snapshot and the events after it");
    }
  }
}

function differs(id: string, target: FoundSnapshot, state: "bad" | "doubtful", from: string): void {
  const { ref, record } = target;
  target.state = state;
  if (state === "bad") {
    target.damaged = Array.from({ length: record!.parts + 1 }, (_, part) => snapshotKey(id, ref, part));
  }
  const message = `the snapshot at clock ${ref.clock} is not what ${from} fold to`;
  target.finding = { code: "snapshot-differs", key: snapshotKey(id, ref, 0), message };
}
