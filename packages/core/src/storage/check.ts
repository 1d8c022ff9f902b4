/**
 * `check`: verifies that what is stored of each document is what storage promises, and repairs what can be
 * repaired.
 *
 * This file walks over the documents; `check-document` verifies one, `check-repair` repairs one. Without
 * `repair` nothing is changed. It runs beside writers: what looks wrong is looked at again when meta has
 * changed meanwhile.
 *
 * Invariant: memory is bounded by one document and the list of problems.
 */

import { isCoppiceError } from "../base/errors.js";
import type { Key } from "../contract/backend.js";
import { compareKeys, keyName } from "../contract/keys.js";
import { type Examination, type Finding, settledExamination } from "./check-document.js";
import { repairDocument } from "./check-repair.js";
import { examineUnreadable, type Gap, type Scan, scanAround } from "./check-unreadable.js";
import type { Context } from "./context.js";
import { abandon } from "./deletion.js";
import { type Folder, ThreadDied } from "./folding.js";
import { metaKey } from "./meta.js";
import { sweep } from "./snapshots.js";
import { SPACES } from "./stages.js";
import { ERASED_SPACE, erasedKey, unsealErased } from "./tombstone.js";

export interface CheckOptions {
  /** Only this document; default: all. */
  readonly id?: string;
  /** Repair what can be repaired, and sweep the garbage of documents that have no problem left. */
  readonly repair?: boolean;
  /** Stops between two documents, or while one is read; then `check` rejects with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Called after each document, with the number of documents done. */
  readonly onProgress?: (done: number) => void;
}

/**
 * What is wrong. Stable between majors.
 *
 * | code                       | means                                                                  |
 * | -------------------------- | ---------------------------------------------------------------------- |
 * | `meta-damaged`             | the meta record cannot be read                                         |
 * | `meta-missing`             | there are records, and no meta record                                  |
 * | `batch-damaged`            | a batch fails its checksum, or holds other than its header says        |
 * | `batch-stray`              | a batch lies outside the log: after a deletion, or far beyond the head |
 * | `log-gap`                  | batches are missing before the last one                                |
 * | `tail-missing`             | batches are missing that a snapshot covers, at the end                 |
 * | `log-overlap`              | two intact batches claim one clock; never repaired                     |
 * | `chain-broken`             | a batch, a snapshot or the archive names another batch beside it       |
 * | `totals-wrong`             | the running total of log bytes is not that of the batches              |
 * | `time-went-back`           | a batch is older than the one before it                                |
 * | `snapshot-missing`         | a snapshot that is needed, or a part of it, is not there               |
 * | `snapshot-damaged`         | it fails a checksum, or restores to another version than it records    |
 * | `snapshot-differs`         | it is intact, and not what the events fold to                          |
 * | `held-missing`             | the bytes of a held event are not there                                |
 * | `held-damaged`             | the bytes of a held event fail their checksum, or are no event         |
 * | `archive-damaged`          | archived events are damaged, or a part of them is not there            |
 * | `tags-damaged`             | the index of the tags cannot be read, or is not there                  |
 * | `tag-damaged`              | the snapshot of a tag is damaged, or a part of it is not there         |
 * | `format-unsupported`       | written by a newer Coppice; never repaired                             |
 * | `unreadable`               | the backend cannot read a part of it, or the thread that restores it   |
 * |                            | dies; never repaired                                                   |
 * | `model-unknown`            | the model was not given to `open`; never repaired                      |
 * | `state-format-unsupported` | the model reads no snapshot that is needed; never repaired             |
 */
export type CheckCode =
  | "meta-damaged"
  | "meta-missing"
  | "batch-damaged"
  | "batch-stray"
  | "log-gap"
  | "tail-missing"
  | "log-overlap"
  | "chain-broken"
  | "totals-wrong"
  | "time-went-back"
  | "snapshot-missing"
  | "snapshot-damaged"
  | "snapshot-differs"
  | "held-missing"
  | "held-damaged"
  | "archive-damaged"
  | "tags-damaged"
  | "tag-damaged"
  | "format-unsupported"
  | "unreadable"
  | "model-unknown"
  | "state-format-unsupported";

export interface CheckProblem {
  /** Empty when it is not known whose it is. */
  readonly id: string;
  readonly code: CheckCode;
  /** What is wrong and where. */
  readonly message: string;
  readonly key?: Key;
  readonly repaired: boolean;
  /**
   * Events whose bytes are damaged or missing, and that no intact snapshot covers. A repair cannot bring
   * them back.
   */
  readonly lostEvents?: number;
}

export interface CheckReport {
  /** Documents that were looked at. Tombstones are verified as well, and not counted. */
  readonly documents: number;
  /** Events that their logs retain. */
  readonly events: number;
  readonly problems: readonly CheckProblem[];
  /**
   * Documents that lack events which damage took, now or earlier, and no snapshot has: what builds on these
   * is held, and not shown. The first 1,000.
   */
  readonly lost: readonly { readonly id: string; readonly events: number }[];
  /**
   * Keys that a sweep would remove, which is no problem; with `repair` those of documents without problems
   * are gone. What a fork, an import or a copy has staged so far counts among them, and a repair ends it.
   */
  readonly garbageKeys: number;
  /** Damaged values that repairs have set aside, now or earlier. */
  readonly quarantined: number;
  /** No problem is left. */
  readonly clean: boolean;
}

interface Tally {
  documents: number;
  events: number;
  garbageKeys: number;
  readonly problems: CheckProblem[];
  readonly lost: { readonly id: string; readonly events: number }[];
}

const LOST_MAX = 1000;

/**
 * Checks one document or all. Rejects with the signal's reason, and with what the backend throws; then some
 * documents may be repaired and others not, each of them whole.
 */
export async function checkStorage(
  context: Context,
  folder: Folder,
  options: CheckOptions,
): Promise<CheckReport> {
  const tally: Tally = { documents: 0, events: 0, garbageKeys: 0, problems: [], lost: [] };
  let done = 0;
  const onGap = ({ after, before, cause }: Gap) => {
    const [from, to] = [after, before].map((key) => key && JSON.stringify(key.slice(0, 2)));
    const where = `from ${from ?? "the first"} to ${to ?? "the last"}`;
    const message = `documents ${where} cannot be listed: ${cause.message}`;
    tally.problems.push({ id: "", code: "unreadable", message, repaired: false });
  };
  const ids = options.id === undefined ? documentIds(context, options.signal, onGap) : [options.id];
  for await (const id of ids) {
    options.signal?.throwIfAborted();
    try {
      await checkDocument(context, folder, id, options, tally);
    } catch (error) {
      // One document that is too large for the thread keeps none of the others from being checked.
      const isUnverified = error instanceof ThreadDied;
      if (!isUnverified && !isCoppiceError(error, "CORRUPT")) throw error;
      const { finding, events } = isUnverified
        ? unverified(error)
        : await examineUnreadable(context, id, error, options.signal);
      tally.problems.push({ id, ...finding, repaired: false });
      tally.documents++;
      tally.events += events;
    }
    options.onProgress?.(++done);
  }
  await checkErased(context, options, tally);
  const quarantined = await quarantineCount(context, options);
  return { ...tally, quarantined, clean: tally.problems.every((problem) => problem.repaired) };
}

async function checkDocument(
  context: Context,
  folder: Folder,
  id: string,
  { repair, signal }: CheckOptions,
  tally: Tally,
): Promise<void> {
  const found = new Map<string, Finding>();
  const note = (examination: Examination) => {
    for (const finding of examination.findings) {
      const name = nameOf(finding);
      if (!found.has(name)) found.set(name, finding);
    }
  };
  let examination = await settledExamination(context, folder, id, signal);
  note(examination);
  if (repair && found.size > 0) {
    examination = await repairDocument(context, folder, examination, signal, note);
  }
  const left = new Set(examination.findings.map(nameOf));
  for (const [name, finding] of found) tally.problems.push({ id, ...finding, repaired: !left.has(name) });
  tally.garbageKeys += examination.garbageKeys;
  const { meta, metaBytes } = examination;
  if (repair && left.size === 0 && examination.garbageKeys > 0 && meta !== undefined) {
    if (meta.incoming === undefined) await sweep(context, id, meta, metaBytes!);
    else await abandon(context, id, meta, metaBytes!);
  }
  if (meta?.deleted !== undefined || (meta === undefined && found.size === 0)) return;
  tally.documents++;
  tally.events += examination.events;
  const { lost: events } = examination;
  if (events > 0 && tally.lost.length < LOST_MAX) tally.lost.push({ id, events });
}

/** Of such a document nothing is known to be damaged, and its events were not counted. */
function unverified({ message }: ThreadDied): { readonly finding: Finding; readonly events: number } {
  const what = `it could not be verified, and nothing of it is known to be damaged: ${message}`;
  return { finding: { code: "unreadable", message: what }, events: 0 };
}

/** A damaged record of an erased id keeps that id from being used; nothing can make it again. */
async function checkErased(context: Context, { id, signal }: CheckOptions, tally: Tally): Promise<void> {
  const range = id === undefined ? { space: ERASED_SPACE } : { space: ERASED_SPACE, id: erasedKey(id)[1] };
  const scan: Scan = (options) => context.guard.scan(range, options);
  const onGap = ({ cause }: Gap) => {
    const message = `records of erased ids, if there are any, cannot be read: ${cause.message}`;
    tally.problems.push({ id: id ?? "", code: "unreadable", message, repaired: false });
  };
  for await (const page of scanAround(scan, signal === undefined ? {} : { signal }, onGap)) {
    for (const { key, value } of page) {
      try {
        unsealErased(key, value);
      } catch (error) {
        if (!isCoppiceError(error)) throw error;
        const newer = error.code === "FORMAT_UNSUPPORTED";
        const message = `the record of an erased id cannot be read: ${error.message}`;
        const code = newer ? "format-unsupported" : "meta-damaged";
        tally.problems.push({ id: id ?? key[1], code, key, message, repaired: false });
      }
    }
  }
}

function nameOf({ code, key }: Finding): string {
  return `${code} ${key === undefined ? "" : keyName(key)}`;
}

/** Keys whose ids are looked at together; then come those behind the last id, which may have more. */
const LOOK_KEYS = 256;

/** Ids that have meta, then those that have only events, snapshots or held events. */
async function* documentIds(
  context: Context,
  signal: AbortSignal | undefined,
  onGap: (gap: Gap) => void,
): AsyncGenerator<string> {
  const options = signal === undefined ? { values: false } : { values: false, signal };
  const { guard } = context;
  const gaps: Gap[] = [];
  const listed = scanAround(
    (scanOptions) => guard.scan({ space: "meta" }, scanOptions),
    options,
    (gap) => {
      gaps.push(gap);
      onGap(gap);
    },
  );
  for await (const page of listed) for (const { key } of page) yield key[1];
  const orphans = new Set<string>();
  for (const space of SPACES) {
    let after: string | undefined;
    let keys = LOOK_KEYS;
    for (;;) {
      const range = after === undefined ? { space } : { space, after };
      const found = new Set<string>();
      try {
        for await (const page of guard.scan(range, { ...options, limit: keys }))
          for (const { key } of page) found.add(key[1]);
      } catch (error) {
        if (!isCoppiceError(error, "CORRUPT")) throw error;
        // A page that cannot be read hides what it has before the damage.
        if (keys > 1) {
          keys = 1;
          continue;
        }
        onGap({ after: after === undefined ? undefined : [space, after], before: undefined, cause: error });
        break;
      }
      if (found.size === 0) break;
      const ids = [...found];
      after = ids.at(-1);
      const known = await Promise.all(ids.map((id) => orphans.has(id) || wasListed(context, id, gaps)));
      for (const id of ids.filter((_, index) => !known[index])) {
        orphans.add(id);
        yield id;
      }
    }
  }
}

/** It has meta, and not where the list of metas could not be read. */
async function wasListed({ guard }: Context, id: string, gaps: readonly Gap[]): Promise<boolean> {
  const key = metaKey(id);
  const unread = gaps.some(
    ({ after, before }) =>
      (after === undefined || compareKeys(key, after) > 0) &&
      (before === undefined || compareKeys(key, before) < 0),
  );
  if (unread) return false;
  try {
    return (await guard.get(key)) !== undefined;
  } catch (error) {
    if (!isCoppiceError(error, "CORRUPT")) throw error;
    return false;
  }
}

async function quarantineCount(context: Context, { id, signal }: CheckOptions): Promise<number> {
  const range = id === undefined ? { space: "quarantine" } : { space: "quarantine", id };
  let count = 0;
  const options = signal === undefined ? { values: false } : { values: false, signal };
  // Damage in the backend's files has been told already, where it hit documents.
  const pages = scanAround(
    (given) => context.guard.scan(range, given),
    options,
    () => undefined,
  );
  for await (const page of pages) count += page.length;
  return count;
}
