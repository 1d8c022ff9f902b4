/**
 * Snapshots and compaction of one document: fold → stage → verify → flip → sweep, beside appends and loads.
 *
 * A snapshot alone trims nothing. Compaction leaves two verified snapshots (the newest, and one before the
 * last batch or where `trimming.ts` says) and the events from the older one on; that redundancy is what a
 * load falls back to when the newest snapshot is damaged. It trims only at batch ends and never the last
 * batch; the archive, where there is one, gets what is trimmed in the commit that trims it.
 *
 * Invariants: nothing is trimmed that a snapshot does not cover which was read back from the backend,
 * restored, and found to have the version that the fold promised. Held events of a snapshot are put in the
 * commit that flips to it. A crash at any step leaves the old state or the new one; whatever else lies around
 * is swept by the next run.
 */

import { equalBytes } from "../base/bytes.js";
import { isCoppiceError } from "../base/errors.js";
import { archiveLog } from "./archive.js";
import { CommitIds } from "./commit-id.js";
import { type Context, observe } from "./context.js";
import type { DocumentLog } from "./document-log.js";
import { damaged } from "./envelope.js";
import { type Folder, foldState, restoresTo } from "./folding.js";
import { deletedError } from "./head.js";
import { eventsKey, type Meta, metaKey, type SnapshotRecord, type SnapshotRef } from "./meta.js";
import { lastBatch, Moved, openBatch, readSnapshot, withRestarts } from "./reader.js";
import { flip, type SnapshotSource, type Staged, stageSnapshot, sweep } from "./snapshots.js";
import { StageSwept } from "./stages.js";
import { readState, type State } from "./state.js";
import {
  archives,
  checkHistory,
  dropsArchive,
  type HistoryPolicy,
  isTrimmed,
  olderAtSnapshot,
  planTrim,
  withoutMaking,
} from "./trimming.js";

export interface CompactOptions {
  /** Fold again even when a snapshot covers every event. */
  readonly force?: boolean;
  /** Change nothing; report what would be done. */
  readonly dryRun?: boolean;
  /** What becomes of what this call trims. Default: what `history` of `DocumentStorage.open` says. */
  readonly history?: HistoryPolicy;
  /** Afterwards also rewrite the backend's files without what was trimmed: see `Backend.reclaim`. */
  readonly reclaim?: boolean;
  /** Told of each step as it begins, again from the first one after a lost race. One that throws stops it. */
  readonly onProgress?: (step: CompactStep) => void;
  /** Stops between two steps; what was done stays done. */
  readonly signal?: AbortSignal;
}

/** A step of the compaction of one document. */
export interface CompactStep {
  /**
   * `reading` the snapshot and the events after it; `folding` these into a new one; `staging` it where nobody
   * sees it; `verifying` what was staged; `trimming`: the commit that makes it true, archive and sweep.
   */
  readonly phase: "reading" | "folding" | "staging" | "verifying" | "trimming";
  /** Events after the snapshot; 0 while these are not read. */
  readonly events: number;
}

export interface CompactResult {
  readonly id: string;
  /**
   * `compacted`; `nothing-to-do`; `not-found`; `lost-race`: other writers kept changing meta, try again;
   * `refused`: a snapshot did not survive verification, nothing was trimmed.
   */
  readonly outcome: "compacted" | "nothing-to-do" | "not-found" | "lost-race" | "refused";
  readonly reason?: string;
  /** Clock of the newest snapshot, when `compacted`; otherwise it may be 0. */
  readonly clock: number;
  /** Bytes of the newest snapshot as stored; likewise. */
  readonly snapshotBytes: number;
  /** Events and payload bytes that left the log now. */
  readonly eventsTrimmed: number;
  readonly bytesTrimmed: number;
  /** Those of them that the archive keeps. */
  readonly eventsArchived: number;
  /** Events that the newest snapshot leaves held or refused; their bytes are kept. */
  readonly held: number;
  readonly durationMs: number;
}

const RACES_MAX = 8;

/** Where compaction works: one document of one open storage. */
export interface Site {
  readonly context: Context;
  readonly folder: Folder;
  readonly log: DocumentLog;
}

/** A snapshot of a live document that equals the stored log, or `undefined`. */
export type LiveSource = (meta: Meta) => Promise<SnapshotSource | undefined>;

/**
 * Takes a snapshot of the whole log, and trims nothing. Returns its clock; `undefined` when there is nothing
 * new.
 */
export async function snapshotDocument(site: Site, live?: LiveSource): Promise<number | undefined> {
  const { context, log } = site;
  for (let race = 0; race < RACES_MAX; race++) {
    const started = context.env.elapsed();
    const { meta, metaBytes, clock } = await log.head();
    if (meta === undefined || meta.deleted !== undefined || metaBytes === undefined) return undefined;
    if (clock === (meta.snapshot?.clock ?? meta.base)) return undefined;
    const source = (await live?.(meta)) ?? (await foldWhole(site));
    if (source === undefined || source.clock <= (meta.snapshot?.clock ?? meta.base)) return undefined;
    const staged = await stageSnapshot(context, log.id, source, metaBytes).catch((error: unknown) => {
      if (!(error instanceof StageSwept)) throw error;
    });
    if (staged === undefined) {
      log.forget();
      continue;
    }
    const flipped: Meta = {
      ...meta,
      snapshot: staged.ref,
      previous: olderAtSnapshot(context, meta, source.clock),
    };
    const flippedBytes = await flip(context, log.id, metaBytes, flipped, [staged]).finally(() =>
      log.forget(),
    );
    if (flippedBytes === undefined) continue;
    await sweep(context, log.id, flipped, flippedBytes);
    const durationMs = context.env.elapsed() - started;
    observe(context, (observer) =>
      observer.snapshot?.({ id: log.id, clock: source.clock, bytes: staged.ref.storedBytes, durationMs }),
    );
    return source.clock;
  }
  return undefined;
}

async function foldWhole(site: Site): Promise<SnapshotSource | undefined> {
  const state = await readWhole(site);
  if (state === undefined) return undefined;
  if (isCoppiceError(state.failure, "CORRUPT")) throw state.failure;
  return foldState(site.context, site.folder, site.log.id, state);
}

/** Compacts one document. Rejects with the signal's reason when aborted, and with what the backend throws. */
export async function compactDocument(given: Site, options: CompactOptions = {}): Promise<CompactResult> {
  const { history } = options;
  checkHistory(history);
  // A context that follows the storage's own in all but the policy, also over a recovery.
  const own = (): Context => Object.assign(Object.create(given.context) as Context, { history });
  const site = history === undefined ? given : { ...given, context: own() };
  const { context, log } = site;
  const started = context.env.elapsed();
  const done = (result: Partial<CompactResult> & Pick<CompactResult, "outcome">): CompactResult => {
    const whole = {
      clock: 0,
      snapshotBytes: 0,
      eventsTrimmed: 0,
      bytesTrimmed: 0,
      eventsArchived: 0,
      held: 0,
      ...result,
      id: log.id,
      durationMs: context.env.elapsed() - started,
    };
    if (!options.dryRun) observe(context, (observer) => observer.compact?.(whole));
    return whole;
  };
  for (let race = 0; race < RACES_MAX; race++) {
    options.signal?.throwIfAborted();
    options.onProgress?.({ phase: "reading", events: 0 });
    const compact = options.force ? undefined : await compactSnapshot(site);
    if (compact !== undefined) {
      return done({ outcome: "nothing-to-do", clock: compact.clock, snapshotBytes: compact.storedBytes });
    }
    const state = await readWhole(site, options.signal);
    if (state === undefined) return done({ outcome: "not-found" });
    const result = await compactOnce(site, state, options).catch((error: unknown) =>
      explainByRace(site, state, error),
    );
    if (result !== undefined) return done(result);
  }
  return done({ outcome: "lost-race" });
}

/** Returns when other writers explain what was missing; else throws it. */
async function explainByRace({ context, log }: Site, state: State, error: unknown): Promise<undefined> {
  if (error instanceof StageSwept) return;
  const gone = (["CORRUPT", "TRIMMED", "DELETED"] as const).some((code) => isCoppiceError(error, code));
  if (!gone && !(error instanceof Moved)) throw error;
  if (!equalBytes(await context.guard.get(metaKey(log.id)), state.metaBytes)) return;
  throw error instanceof Moved ? damaged(error.key, error.message) : error;
}

/** The newest snapshot when nothing is new and nothing is left to trim, told from the head alone. */
async function compactSnapshot({ context, log }: Site): Promise<SnapshotRef | undefined> {
  const { meta, clock } = await log.head();
  if (meta?.snapshot?.clock !== clock || !isTrimmed(context, meta, clock)) return undefined;
  return meta.snapshot;
}

/** `undefined`: another writer changed meta meanwhile. */
async function compactOnce(
  site: Site,
  state: State,
  options: CompactOptions,
): Promise<(Partial<CompactResult> & Pick<CompactResult, "outcome">) | undefined> {
  const { context, log } = site;
  const { meta } = state;
  if (isCoppiceError(state.failure, "CORRUPT")) {
    return { outcome: "refused", reason: `${state.failure.message}: repair it before compacting` };
  }
  // Below the state's end: what was appended since is not in it.
  const last = state.last ?? (await lastBatch(context.guard, log.id, state.end));
  if (last === undefined || last.clock < meta.base) {
    if (state.end === meta.base) return { outcome: "nothing-to-do" };
    throw new Moved(eventsKey(log.id, state.end), "the last batch of the log is missing");
  }
  const covered = meta.snapshot?.clock === state.end && state.base?.ref.stage === meta.snapshot.stage;
  let plan = await planTrim(context, context.guard, log.id, state, covered, last.clock);
  const now = { clock: state.end, snapshotBytes: meta.snapshot?.storedBytes ?? 0 };
  const needed = !covered || options.force === true || dropsArchive(context, meta, state.end);
  const isIdle = () => !needed && plan.goal <= meta.oldest && plan.makeAt === undefined;
  if (isIdle()) return { outcome: "nothing-to-do", ...now };
  if (options.dryRun) return { outcome: "compacted", ...now, ...(await trimmedBy(site, meta, plan.goal)) };
  // The older snapshot: the one that exists, or one made now.
  let rest = state;
  const stages: Staged[] = [];
  if (plan.makeAt !== undefined) {
    const earlier = await stateAt(site, plan.makeAt).catch((error: unknown) => {
      plan = withoutMaking(error, state);
    });
    if (earlier === undefined && isIdle()) return { outcome: "nothing-to-do", ...now };
    const made = earlier && (await stageVerified(site, earlier, state.metaBytes, options));
    if (earlier !== undefined && made === undefined) return refused(earlier.end);
    if (made !== undefined) {
      stages.push(made.staged);
      plan = { ...plan, older: made.staged.ref };
      if (state.base === undefined) rest = stateAfter(made.source, made.staged, state);
    }
  }
  const previous = plan.older;
  if (stages.length === 0 && previous !== undefined && !(await intact(site, meta, previous))) {
    return refused(previous.clock);
  }
  options.signal?.throwIfAborted();
  let snapshot = meta.snapshot;
  let held = state.base?.record.held.length ?? 0;
  if (!covered || options.force) {
    const made = await stageVerified(site, rest, state.metaBytes, options);
    if (made === undefined) return refused(state.end);
    stages.push(made.staged);
    snapshot = made.staged.ref;
    held = made.staged.held.length;
  } else if (!(await intact(site, meta, snapshot!))) {
    return refused(state.end);
  }
  options.signal?.throwIfAborted();
  options.onProgress?.({ phase: "trimming", events: state.events.length });
  const oldest = Math.max(meta.oldest, plan.goal);
  const freed = await trimmedBy(site, meta, oldest);
  const { archive, records } = archives(context, meta)
    ? await archiveLog(context, log.id, state, oldest, freed.bytesTrimmed)
    : {
        archive: dropsArchive(context, { ...meta, previous, oldest }, state.end) ? [] : meta.archive,
        records: [],
      };
  options.signal?.throwIfAborted();
  const commits = await commitsAt(site, meta, oldest);
  const flipped: Meta = { ...meta, snapshot, previous, oldest, archive, ...commits };
  const named = [...stages, ...records.map((record) => ({ record, held: [] }))];
  const metaBytes = await flip(context, log.id, state.metaBytes, flipped, named).finally(() => log.forget());
  if (metaBytes === undefined) return undefined;
  await sweep(context, log.id, flipped, metaBytes);
  return {
    outcome: "compacted",
    clock: state.end,
    snapshotBytes: snapshot?.storedBytes ?? 0,
    held,
    ...freed,
  };
}

function refused(clock: number): Pick<CompactResult, "outcome"> & { reason: string } {
  return {
    outcome: "refused",
    reason: `the snapshot at clock ${clock}, read back, does not restore to the version that was folded`,
  };
}

/** The whole state; falls back to older snapshots when the newest does not restore. */
async function readWhole(site: Site, signal?: AbortSignal): Promise<State | undefined> {
  return withRestarts(
    () => site.context.guard,
    site.log.id,
    async (meta, metaBytes) => {
      if (meta === undefined || meta.deleted !== undefined) return undefined;
      return readState(site.context, site.log.id, meta, metaBytes!, { signal });
    },
  );
}

/** The state at an earlier batch end; throws `CORRUPT` when it is damaged, `DELETED` when it is gone. */
function stateAt(site: Site, clock: number): Promise<State> {
  return withRestarts(
    () => site.context.guard,
    site.log.id,
    async (meta, metaBytes) => {
      if (meta === undefined || meta.deleted !== undefined) throw deletedError(site.log.id);
      return readState(site.context, site.log.id, meta, metaBytes!, { at: clock });
    },
  );
}

/** What is left to fold of `whole` once `source` covers its beginning. */
function stateAfter(source: SnapshotSource, staged: Staged, whole: State): State {
  const { model } = whole;
  const heldClocks = [...source.held.keys()].sort((left, right) => left - right);
  const rest = whole.clocks.map((clock, index) => ({ clock, event: whole.events[index] }));
  const tail = rest.filter(({ clock }) => clock >= source.clock);
  const record: SnapshotRecord = {
    model: model.name,
    stateFormat: model.stateFormat,
    version: source.version,
    peerVersion: source.peerVersion,
    held: heldClocks,
    lost: source.lost,
    bytes: source.bytes.length,
    parts: staged.ref.parts,
    compressed: false,
  };
  return {
    ...whole,
    base: { ref: staged.ref, space: "snapshot", record },
    snapshot: source.bytes,
    events: [
      ...heldClocks.map((clock) => model.codec.decode(source.held.get(clock)!)[0]),
      ...tail.map((t) => t.event),
    ],
    clocks: [...heldClocks, ...tail.map(({ clock }) => clock)],
    lost: whole.lost.filter((clock) => clock >= source.clock),
  };
}

/** Folds and stages; then reads the stage back and compares. `undefined`: it did not survive. */
async function stageVerified(
  site: Site,
  state: State,
  metaBytes: Uint8Array,
  { onProgress, signal }: CompactOptions,
): Promise<{ source: SnapshotSource; staged: Staged } | undefined> {
  const { context, folder, log } = site;
  const begin = (phase: CompactStep["phase"]) => {
    signal?.throwIfAborted();
    onProgress?.({ phase, events: state.events.length });
  };
  begin("folding");
  const source = await foldState(context, folder, log.id, state);
  begin("staging");
  const staged = await stageSnapshot(context, log.id, source, metaBytes);
  begin("verifying");
  const { bytes } = await readSnapshot(context.guard, log.id, staged.ref).catch((error: unknown) => {
    throw error instanceof Moved ? new StageSwept("a stage was swept") : error;
  });
  return (await restoresTo(folder, state.model, bytes, source.version)) ? { source, staged } : undefined;
}

/** Verifies a snapshot of an earlier run in the same way. */
async function intact(site: Site, meta: Meta, ref: SnapshotRef): Promise<boolean> {
  const { context, folder, log } = site;
  const model = context.models.get(meta.model);
  if (model === undefined) return false;
  const { record, bytes } = await readSnapshot(context.guard, log.id, ref);
  return restoresTo(folder, model, bytes, record.version);
}

async function trimmedBy(
  { context, log }: Site,
  meta: Meta,
  oldest: number,
): Promise<{ eventsTrimmed: number; bytesTrimmed: number; eventsArchived: number }> {
  if (oldest <= meta.oldest) return { eventsTrimmed: 0, bytesTrimmed: 0, eventsArchived: 0 };
  const before = meta.oldest > meta.base ? await lastTrimmedBytes(context, log.id, meta) : 0;
  const end = await lastBatch(context.guard, log.id, oldest);
  const eventsTrimmed = oldest - meta.oldest;
  const eventsArchived = archives(context, meta) ? eventsTrimmed : 0;
  return { eventsTrimmed, bytesTrimmed: (end?.logBytes ?? before) - before, eventsArchived };
}

/** Log bytes up to `oldest`: totals of its first batch without that batch's own payload. */
async function lastTrimmedBytes(context: Context, id: string, meta: Meta): Promise<number> {
  for await (const [entry] of context.guard.scan({ space: "events", id, from: meta.oldest }, { limit: 1 })) {
    if (entry === undefined) continue;
    const batch = openBatch(entry.key, entry.value);
    return batch.logBytes - batch.payload.length;
  }
  return 0;
}

/** The remembered commit ids once everything below `oldest` is trimmed. */
async function commitsAt(
  { context, log }: Site,
  meta: Meta,
  oldest: number,
): Promise<Pick<Meta, "commits" | "commitFloor">> {
  const max = context.limits.commitIdsMax;
  const newestFirst = [];
  const range = { space: "events", id: log.id, from: meta.oldest, to: oldest };
  if (oldest <= meta.oldest) return { commits: meta.commits, commitFloor: meta.commitFloor };
  for await (const page of context.guard.scan(range, { reverse: true, limit: max + 1 })) {
    for (const { key, value } of page) newestFirst.push(openBatch(key, value));
  }
  const forgotten = newestFirst[max]?.header.chosenTime ?? meta.commitFloor;
  const ids = new CommitIds(max, Math.max(forgotten, meta.commitFloor));
  if (newestFirst.length <= max) for (const commit of meta.commits) ids.add(commit.id, commit.clock);
  for (const batch of newestFirst.slice(0, max).reverse()) {
    if (batch.header.chosen) ids.add(batch.header.commitId, batch.end);
  }
  return { commits: ids.entries(), commitFloor: ids.floor };
}
