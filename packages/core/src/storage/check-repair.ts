/**
 * Repair of one document, in steps: meta, log, snapshots, held events. After each step the document is
 * examined again, and the next step is planned on what is there then.
 *
 * Invariants:
 * - every commit expects the meta it was planned on, and writes meta where it is known, so that readers and
 *   writers beside it start over; a step that loses that race is planned again;
 * - a damaged value is put under `[quarantine, id, n]`, as a map of `key`, `value`, `why` and `time`, in the
 *   commit that replaces or deletes it;
 * - a crash after any commit leaves a document that the next repair finishes, with nothing set aside twice;
 * - when nothing is left that a load could start from, nothing is touched: never an empty document instead.
 */

import { toHex } from "../base/bytes.js";
import { isCoppiceError } from "../base/errors.js";
import type { Entry, Expectation, Key } from "../contract/backend.js";
import { lostSegment } from "./check-archive.js";
import { type Examination, settledExamination, usable } from "./check-document.js";
import { buryNameless, rebuildMeta } from "./check-rebuild.js";
import type { FoundHeld, FoundSnapshot } from "./check-snapshots.js";
import { rebuildTags } from "./check-tags.js";
import { type Context, observe } from "./context.js";
import { sealRecord } from "./envelope.js";
import type { Folder } from "./folding.js";
import {
  eventsKey,
  type Meta,
  metaKey,
  packRecord,
  packSnapshotRecord,
  type SnapshotRecord,
  sealMeta,
} from "./meta.js";
import { stageKey } from "./stages.js";
import { encodeEvents } from "./state.js";
import { sealTags, tagsKey } from "./tag-index.js";

const STEPS_MAX = 32;

/** What one commit of a repair does besides writing meta. */
interface Change {
  readonly put?: readonly Entry[];
  readonly delete?: readonly Key[];
  readonly expect?: readonly Expectation[];
  readonly aside?: readonly Aside[];
}

/** A value to set aside. */
interface Aside {
  readonly key: Key;
  readonly value: Uint8Array;
  readonly why: string;
}

/** Repairs what can be repaired, and returns the last look at the document. `note` is told of each look. */
export async function repairDocument(
  context: Context,
  folder: Folder,
  first: Examination,
  signal: AbortSignal | undefined,
  note: (examination: Examination) => void,
): Promise<Examination> {
  let examination = first;
  for (let step = 0; step < STEPS_MAX && examination.findings.length > 0; step++) {
    signal?.throwIfAborted();
    try {
      if (!(await repairOnce(new Repair(context, examination), folder, signal))) break;
    } catch (error) {
      // Somebody else changed what the step was planned on: look again, plan again.
      if (!isCoppiceError(error, "COMMIT_CONFLICT")) throw error;
    }
    examination = await settledExamination(context, folder, first.id, signal);
    note(examination);
  }
  return examination;
}

/** Makes the first step that there is to make; false when there is none. */
async function repairOnce(repair: Repair, folder: Folder, signal: AbortSignal | undefined): Promise<boolean> {
  const { examination } = repair;
  if (examination.frozen) return false;
  if (!examination.based) return repairMeta(repair, folder, signal);
  const { edits, refs, edge } = examination;
  if (edits.length > 0 || refs.size > 0 || edge !== undefined) return repairLog(repair);
  if (examination.snapshots.some(({ state }) => state === "bad")) return dropSnapshots(repair);
  if (examination.archive.some(({ finding }) => finding !== undefined)) return loseSegments(repair);
  if (examination.tags.finding !== undefined) return repairIndex(repair, folder);
  if (examination.tags.snapshots.some(({ state }) => state === "bad")) return dropTags(repair);
  if (examination.held.some(({ intact }) => !intact)) return repairHeld(repair);
  return false;
}

/** Meta is damaged, missing, or names nothing to start from: made again from what is there. */
async function repairMeta(repair: Repair, folder: Folder, signal: AbortSignal | undefined): Promise<boolean> {
  const { examination, context } = repair;
  const rebuilt = await rebuildMeta(context, folder, examination, signal);
  const meta = rebuilt?.meta ?? (await buryNameless(context, examination));
  if (meta === undefined) return false;
  const aside: Aside[] = [];
  if (examination.meta === undefined && examination.metaBytes !== undefined) {
    aside.push({
      key: metaKey(examination.id),
      value: examination.metaBytes,
      why: "the meta record is damaged",
    });
  }
  for (const key of rebuilt?.damaged ?? []) await repair.setAside(key, "a damaged part of a snapshot");
  for (const { damaged } of examination.snapshots) {
    for (const key of damaged) await repair.setAside(key, "a damaged part of a snapshot");
  }
  await repair.commit(meta, { aside });
  return true;
}

async function repairLog(repair: Repair): Promise<boolean> {
  const { examination, context } = repair;
  const { id, edits, refs, edge, guessedEnd } = examination;
  // Clocks after a guessed head may have been handed out before: a new incarnation tells old tokens and
  // handles.
  const isGuessed = guessedEnd !== undefined;
  const meta = isGuessed ? { ...repair.meta, incarnation: newIncarnation(repair) } : repair.meta;
  // Others may know where it ends, and have gone on from there.
  const isTouched = edits.some(({ key }) => key[2] === guessedEnd);
  const behind = isGuessed && !isTouched ? [{ key: eventsKey(id, guessedEnd), value: undefined }] : [];
  const bytesOf = (edit: (typeof edits)[number]) => (edit.found?.length ?? 0) + (edit.put?.length ?? 0);
  for (const slice of slices(edits, bytesOf, context.limits.groupBytesMax)) {
    await repair.commit(meta, {
      put: slice.flatMap(({ key, put }) => (put === undefined ? [] : [{ key, value: put }])),
      delete: slice.flatMap(({ key, put }) => (put === undefined ? [key] : [])),
      expect: [...slice.map(({ key, found }) => ({ key, value: found })), ...behind],
      aside: slice.flatMap(({ key, found, aside }) =>
        found === undefined || aside === undefined ? [] : [{ key, value: found, why: aside }],
      ),
    });
  }
  const corrected = (ref: Meta["snapshot"]) => ref && (refs.get(ref) ?? ref);
  if (refs.size > 0 || edge !== undefined) {
    const { snapshot, previous, archive } = examination.meta!;
    const last = archive.at(-1);
    const linked =
      edge === undefined || last === undefined ? archive : [...archive.slice(0, -1), { ...last, crc: edge }];
    const snapshots = { snapshot: corrected(snapshot), previous: corrected(previous) };
    await repair.commit({ ...meta, ...snapshots, archive: linked }, {});
  }
  return true;
}

/** Meta forgets snapshots that are bad; what is left, or the whole log, makes up for them. */
async function dropSnapshots(repair: Repair): Promise<boolean> {
  const { snapshots } = repair.examination;
  for (const { damaged, finding } of snapshots.filter(({ state }) => state === "bad")) {
    for (const key of damaged) await repair.setAside(key, finding?.message ?? "a part of a damaged snapshot");
  }
  const [newest, older] = snapshots.filter(({ state }) => state !== "bad").map(({ ref }) => ref);
  await repair.commit({ ...repair.meta, snapshot: newest, previous: older }, {});
  return true;
}

/** Damaged segments of the archive become lost ones. */
async function loseSegments(repair: Repair): Promise<boolean> {
  const { archive } = repair.examination;
  const bad = archive.filter(({ finding }) => finding !== undefined);
  for (const { damaged, finding } of bad) {
    for (const key of damaged) await repair.setAside(key, finding!.message);
  }
  const refs = archive.map(({ ref, finding }) => (finding === undefined ? ref : lostSegment(ref)));
  await repair.commit({ ...repair.meta, archive: refs }, {});
  return true;
}

/** The index of the tags is damaged or gone: made again from the snapshots, each of which names its tag. */
async function repairIndex(repair: Repair, folder: Folder): Promise<boolean> {
  const { examination, context } = repair;
  const { id, model, tags } = examination;
  if (model === undefined) return false;
  const { entries, damaged } = await rebuildTags(context, folder, id, repair.meta, model);
  for (const each of damaged) await repair.setAside(each, "a damaged part of the snapshot of a tag");
  const key = tagsKey(id);
  await repair.commit(repair.meta, {
    put: [{ key, value: sealTags(id, entries, context.env.now()) }],
    expect: [{ key, value: tags.bytes }],
    aside: tags.bytes === undefined ? [] : [{ key, value: tags.bytes, why: "the index of the tags" }],
  });
  return true;
}

/** The index forgets tags whose snapshots are bad. */
async function dropTags(repair: Repair): Promise<boolean> {
  const { examination, context } = repair;
  const { id, tags } = examination;
  const bad = new Set<number>();
  for (const { state, ref, damaged, finding } of tags.snapshots) {
    if (state !== "bad") continue;
    bad.add(ref.stage);
    for (const key of damaged) await repair.setAside(key, finding?.message ?? "a part of a damaged tag");
  }
  const key = tagsKey(id);
  const left = tags.entries.filter(({ stage }) => !bad.has(stage));
  await repair.commit(repair.meta, {
    put: [{ key, value: sealTags(id, left, context.env.now()) }],
    expect: [{ key, value: tags.bytes }],
  });
  return true;
}

/**
 * Held events are put again from the log; those that are nowhere move from `held` to `lost` in the snapshots.
 */
async function repairHeld(repair: Repair): Promise<boolean> {
  const { examination, context } = repair;
  const bad = examination.held.filter(({ intact }) => !intact);
  const records = new Map<FoundSnapshot, SnapshotRecord>();
  const { snapshots, tags } = examination;
  for (const snapshot of [...snapshots, ...tags.snapshots].filter(usable)) {
    records.set(snapshot, snapshot.record!);
  }
  const bytesOf = (one: FoundHeld) => (one.value?.length ?? 0) + 1024;
  for (const slice of slices(bad, bytesOf, context.limits.groupBytesMax)) {
    const gone = new Set(slice.filter(({ inLog }) => inLog === undefined).map(({ clock }) => clock));
    const put: Entry[] = [];
    const time = context.env.now();
    for (const { key, inLog } of slice) {
      if (inLog === undefined) continue;
      const payload = encodeEvents(examination.model!, examination.id, [inLog.event]);
      put.push({ key, value: sealRecord(key, time, payload) });
    }
    for (const [snapshot, record] of records) {
      const moved = withoutHeld(record, gone);
      if (moved === record) continue;
      records.set(snapshot, moved);
      const key = stageKey(snapshot.space, examination.id, snapshot.ref, 0);
      put.push({ key, value: sealRecord(key, snapshot.ref.time, packSnapshotRecord(moved)) });
    }
    await repair.commit(repair.meta, {
      put,
      delete: slice
        .filter(({ value, inLog }) => value !== undefined && inLog === undefined)
        .map(({ key }) => key),
      expect: slice.map(({ key, value }) => ({ key, value })),
      aside: slice.flatMap(({ key, value, finding }) =>
        value === undefined ? [] : [{ key, value, why: finding?.message ?? "a damaged held event" }],
      ),
    });
  }
  return true;
}

function withoutHeld(record: SnapshotRecord, gone: ReadonlySet<number>): SnapshotRecord {
  const moved = record.held.filter((clock) => gone.has(clock));
  if (moved.length === 0) return record;
  return {
    ...record,
    held: record.held.filter((clock) => !gone.has(clock)),
    lost: [...record.lost, ...moved].sort((left, right) => left - right),
  };
}

/** The commits of one step. */
class Repair {
  readonly context: Context;
  readonly examination: Examination;
  #meta: Meta | undefined;
  #metaBytes: Uint8Array | undefined;

  constructor(context: Context, examination: Examination) {
    this.context = context;
    this.examination = examination;
    this.#meta = examination.meta;
    this.#metaBytes = examination.metaBytes;
  }

  /** As of the last commit. */
  get meta(): Meta {
    return this.#meta!;
  }

  /** Copies a stored value to the quarantine and deletes it, if it is still there. */
  async setAside(key: Key, why: string): Promise<void> {
    const value = await this.context.guard.get(key);
    if (value === undefined) return;
    await this.commit(this.#meta, {
      delete: [key],
      expect: [{ key, value }],
      aside: [{ key, value, why }],
    });
  }

  /**
   * Without a meta the stored one stays. Rejects with `COMMIT_CONFLICT` when meta, or what the change
   * expects, is not as it was.
   */
  async commit(meta: Meta | undefined, change: Change): Promise<void> {
    const { guard, env } = this.context;
    const { id } = this.examination;
    const time = env.now();
    // What was expected of the log as it was must not meet it as it will be.
    const changed = meta && { ...meta, repaired: toHex(env.random(4)) };
    const metaBytes = changed === undefined ? this.#metaBytes : sealMeta(id, changed, time);
    const aside = change.aside ?? [];
    const next = aside.length === 0 ? 0 : await this.#nextQuarantined();
    const quarantined = aside.map(({ key, value, why }, index) => {
      const at: Key = ["quarantine", id, next + index];
      const payload = packRecord({ key: key.filter((part) => part !== undefined), value, why, time });
      return { key: at, value: sealRecord(at, time, payload) };
    });
    await guard.commit({
      put: [
        ...(changed === undefined ? [] : [{ key: metaKey(id), value: metaBytes! }]),
        ...quarantined,
        ...(change.put ?? []),
      ],
      delete: change.delete ?? [],
      expect: [
        { key: metaKey(id), value: this.#metaBytes },
        ...quarantined.map(({ key }) => ({ key, value: undefined })),
        ...(change.expect ?? []),
      ],
    });
    this.#meta = changed;
    this.#metaBytes = metaBytes;
    for (const [index, { key, value }] of aside.entries()) {
      const at = quarantined[index]!.key;
      observe(this.context, (observer) =>
        observer.quarantine?.({ id, key: [...key], quarantined: [...at], bytes: value.length }),
      );
    }
  }

  async #nextQuarantined(): Promise<number> {
    const range = { space: "quarantine", id: this.examination.id };
    const options = { reverse: true, limit: 1, values: false };
    for await (const [entry] of this.context.guard.scan(range, options)) return (entry?.key[2] ?? -1) + 1;
    return 0;
  }
}

function newIncarnation({ context }: Repair): string {
  return toHex(context.env.random(8));
}

/** The items in runs of about `bytesMax`, each with one item at least. */
function* slices<T>(items: readonly T[], bytesOf: (item: T) => number, bytesMax: number): Generator<T[]> {
  let slice: T[] = [];
  let bytes = 0;
  for (const item of items) {
    const size = bytesOf(item);
    if (slice.length > 0 && bytes + size > bytesMax) {
      yield slice;
      slice = [];
      bytes = 0;
    }
    slice.push(item);
    bytes += size;
  }
  if (slice.length > 0) yield slice;
}
