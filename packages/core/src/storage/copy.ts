/**
 * A whole store to another one, while both are in use: this is backup.
 *
 * Documents are copied one by one (`mirror.ts`), each as it is at the moment when its turn comes; nothing is
 * atomic across documents. A second run writes only what is new. Erasures are carried as well, and what
 * damage had set aside.
 *
 * Invariants: the failure of one document is reported and stops no other, and so is a part of the source that
 * its backend cannot read: what lies around it is copied. Only a target that is full is given up: smaller
 * documents may still fit, so not at the first that does not, and what removes is carried over all the same;
 * and one whose backend takes no more writes, since one has failed.
 * A stop, or a crash, leaves each document of the target whole, and the next run goes on. What the target has
 * and the source never had stays.
 */

import { type CoppiceError, type ErrorCode, isCoppiceError } from "../base/errors.js";
import { checkStorage } from "../base/options.js";
import type { Batch, Entry, Key, ScanOptions } from "../contract/backend.js";
import { type Gap, scanAround } from "./check-unreadable.js";
import type { Context } from "./context.js";
import { EVERY_SPACE, eraseDocument, type Removal, wipe } from "./deletion.js";
import { unseal } from "./envelope.js";
import { type Head, readHead } from "./head.js";
import { readPlace } from "./landing.js";
import { Fields, type Meta, metaKey, unpackRecord } from "./meta.js";
import { assertAsLeft, type Ends, type Mirrored, mirrorDocument } from "./mirror.js";
import { reclaimDueEntry, reclaimIfDue } from "./reclaim-due.js";
import { tagsKey } from "./tag-index.js";
import { ERASED_SPACE, erasedKey, readErased, unsealErased } from "./tombstone.js";

export interface CopyOptions {
  /** Only documents whose ids begin with it. */
  readonly prefix?: string;
  /** Documents at a time; default 4. */
  readonly concurrency?: number;
  /**
   * Where the target's document is no earlier state of the source's, replace it: its handles end with
   * `DELETED`. Default: report it in `failures`, with the code `EXISTS` or `DELETED`, and leave it.
   */
  readonly replace?: boolean;
  readonly onProgress?: (progress: CopyProgress) => void;
  readonly signal?: AbortSignal;
}

/** What became of one document. */
export interface CopiedDocument extends Mirrored {
  readonly id: string;
}

export interface CopyProgress {
  /** Documents, and tombstones of deleted ones, that were dealt with so far. */
  readonly seen: number;
  readonly failed: number;
  readonly bytes: number;
  /** The document just finished, unless it failed. */
  readonly document: CopiedDocument | undefined;
}

export interface CopyResult {
  readonly seen: number;
  readonly copied: number;
  readonly updated: number;
  readonly unchanged: number;
  /** Deletions, and erasures, that were carried over. */
  readonly deleted: number;
  readonly erased: number;
  /** Stored values that were written now, and their bytes. */
  readonly records: number;
  readonly bytes: number;
  /** Each document with the clock at which it was copied: the first 10,000, as they were finished. */
  readonly documents: readonly CopiedDocument[];
  /** How many failures there were. */
  readonly failed: number;
  /**
   * The first 1,000. The id is empty where it is about no one document: the backend could not read which
   * there are, or the target had no room for an erasure, or could not reclaim what was erased.
   */
  readonly failures: readonly { readonly id: string; readonly error: CoppiceError }[];
  /**
   * Why it ended before the last document, if it did. `full`: the target had no room (`STORE_FULL`) for 16
   * documents in a row; of those after them only deletions and erasures were carried over. `poisoned`: a
   * write to the target failed, and it takes no more before it is reopened (`recover()`); what was copied
   * before stays, and the next copy goes on.
   */
  readonly stopped: "signal" | "full" | "poisoned" | undefined;
  readonly durationMs: number;
}

/** For what `copyTo` cannot copy to. */
export function noTarget(target: unknown, isStorage: boolean): TypeError {
  if (isStorage) return new TypeError("copyTo wants another storage: the target is the source itself");
  checkStorage("copyTo", target);
  return new TypeError("copyTo wants a storage of this copy of the package: the target is of another copy");
}

const DOCUMENTS_MAX = 10_000;
const FAILURES_MAX = 1000;
/** After so many in a row that found no room, another one is not expected to. */
const REFUSED_MAX = 16;

/** What ends no copy, though it is about no one document. */
const TOLD: readonly ErrorCode[] = ["CORRUPT", "STORE_FULL"];

/** The copies to a target that wait or run: one at a time, in the order they came. */
interface Queue {
  count: number;
  /** Settles when all that came so far have ended; one that waits no longer lets nobody past. */
  tail: Promise<unknown>;
}

const queues = new WeakMap<Context, Queue>();

/** See `DocumentStorage.copyTo`. Rejects with the reason of the signal when it aborts before its turn. */
export function copyStore(
  source: Context,
  target: Context,
  at: (id: string) => Removal,
  options: CopyOptions,
): Promise<CopyResult> {
  const queue = queues.get(target) ?? { count: 0, tail: Promise.resolve() };
  queues.set(target, queue);
  // Side by side one could carry an erasure to what the other has just brought.
  const before = queue.count === 0 ? undefined : queue.tail;
  const copy = async () => {
    queue.count++;
    try {
      if (before !== undefined) await turn(before, options.signal);
      return await copyOnce(source, target, at, options);
    } finally {
      queue.count--;
    }
  };
  const run = copy();
  queue.tail = Promise.allSettled([before, run]).then(() => undefined);
  return run;
}

/** Resolves after `before`; rejects with the reason of the signal as soon as it aborts. */
function turn(before: Promise<unknown>, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal?.reason);
    if (signal?.aborted) abort();
    signal?.addEventListener("abort", abort, { once: true });
    void before.then(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    });
  });
}

async function copyOnce(
  source: Context,
  target: Context,
  at: (id: string) => Removal,
  options: CopyOptions,
): Promise<CopyResult> {
  const started = source.env.elapsed();
  const run = new Run(source, target, at, options);
  const running = new Set<Promise<void>>();
  for await (const id of idsOf(source, options.prefix, ({ cause }) => run.fail("", cause))) {
    if (options.signal?.aborted || run.isOver) break;
    if (run.isFull && !(await run.isRemoved(id))) continue;
    const task = run.one(id).finally(() => running.delete(task));
    running.add(task);
    if (running.size >= (options.concurrency ?? 4)) await Promise.race(running);
  }
  await Promise.all(running);
  for (const carry of [() => run.carryErasures(), () => run.carryQuarantine()]) {
    if (run.isOver || options.signal?.aborted) break;
    await run.told(carry, TOLD);
  }
  // Also where there is no room: it may make some.
  if (!run.isBroken && !options.signal?.aborted)
    await run.told(() => reclaimIfDue(target), [...TOLD, "UNAVAILABLE"]);
  if (run.fatal !== undefined) throw run.fatal.error;
  return {
    ...run.totals,
    documents: run.documents,
    failed: run.failed,
    failures: run.failures,
    stopped: options.signal?.aborted ? "signal" : run.stopped,
    durationMs: source.env.elapsed() - started,
  };
}

class Run {
  readonly totals = {
    seen: 0,
    copied: 0,
    updated: 0,
    unchanged: 0,
    deleted: 0,
    erased: 0,
    records: 0,
    bytes: 0,
  };
  readonly documents: CopiedDocument[] = [];
  readonly failures: { id: string; error: CoppiceError }[] = [];
  /** What ends the run: a closed storage, or no error of ours. */
  fatal: { readonly error: unknown } | undefined;
  failed = 0;
  /** The target has no room for documents; it may have some for removals, which are small and make more. */
  isFull = false;
  /** The target takes no more writes. */
  isPoisoned = false;
  readonly #source: Context;
  readonly #target: Context;
  /** Where a document of the target is worked on. */
  readonly #at: (id: string) => Removal;
  readonly #options: CopyOptions;
  /** How many in a row found no room in the target. */
  #refused = 0;
  #isSpent = false;

  constructor(source: Context, target: Context, at: (id: string) => Removal, options: CopyOptions) {
    this.#source = source;
    this.#target = target;
    this.#at = at;
    this.#options = options;
  }

  /** There is nothing more to try. */
  get isOver(): boolean {
    return this.isBroken || this.#isSpent;
  }

  /** Nothing more can be written. */
  get isBroken(): boolean {
    return this.fatal !== undefined || this.isPoisoned;
  }

  get stopped(): "poisoned" | "full" | undefined {
    if (this.isPoisoned) return "poisoned";
    return this.isFull ? "full" : undefined;
  }

  /** What cannot be read is for the copy itself to tell. */
  async isRemoved(id: string): Promise<boolean> {
    const place = await readPlace(this.#source, id).catch(() => undefined);
    return place === undefined || place.meta?.deleted !== undefined;
  }

  async one(id: string): Promise<void> {
    const { replace = false, signal } = this.#options;
    let document: CopiedDocument | undefined;
    try {
      const { log, lane, handles } = this.#at(id);
      const ends: Ends = { source: this.#source, target: this.#target, log, handles, replace, signal };
      const mirrored = await lane(() => mirrorDocument(ends));
      if (mirrored === undefined) return;
      document = { id, ...mirrored };
    } catch (error) {
      if (signal?.aborted) return;
      this.fail(id, error);
      if (this.fatal !== undefined) return;
    }
    this.totals.seen++;
    if (document !== undefined) this.#count(document);
    const { seen, bytes } = this.totals;
    try {
      this.#options.onProgress?.({ seen, failed: this.failed, bytes, document });
    } catch (error) {
      // Not before those that are under way have ended.
      this.fatal ??= { error };
    }
  }

  /**
   * What was erased at the source is erased in the target. An erased record tells no id, so the target's ids
   * are asked for theirs.
   */
  async carryErasures(): Promise<void> {
    const [source, target] = [this.#source, this.#target];
    if ((await firstKey(source, ERASED_SPACE)) === undefined) return;
    const heard = new Map<string, number>();
    for await (const id of idsOf(target, this.#options.prefix)) {
      if (this.#options.signal?.aborted) return;
      try {
        const clock = await this.#carryErasure(id);
        if (clock !== undefined) heard.set(erasedKey(id)[1], clock);
      } catch (error) {
        this.fail(id, error);
        if (this.isOver) return;
        // What stays is not erased: beside it the record would say that it had been.
        heard.set(erasedKey(id)[1], Number.POSITIVE_INFINITY);
      }
    }
    // Of which ids the others are nobody can tell, so a copy of some documents does not take them.
    const all = this.#options.prefix === undefined;
    for await (const page of all ? source.guard.scan({ space: ERASED_SPACE }) : []) {
      for (const { key, value } of page) {
        const { clock } = unsealErased(key, value);
        if ((heard.get(key[1]) ?? -1) < clock) await this.#carryRecord(key, clock, value);
      }
    }
  }

  /** Given where no record is needed: the clock up to which the target's own meta tells of it. */
  async #carryErasure(id: string): Promise<number | undefined> {
    const { meta, erased } = await readPlace(this.#source, id);
    if (erased === undefined || (meta !== undefined && meta.incoming?.fresh !== true)) return undefined;
    const { meta: present, metaBytes, clock } = await readHead(this.#target, id);
    // It was erased here as well before it began anew: another record would have all files rewritten again.
    const heard = Math.min(present?.erased ?? -1, present?.base ?? -1);
    if (heard >= erased.clock) {
      await this.#forgetSetAside(id, erased.clock, metaBytes);
      return heard;
    }
    // What began, or was deleted, after it is of a later life: it stays, and what it came after goes.
    if (clock > erased.clock && (present?.deleted !== undefined || present!.base >= erased.clock)) {
      // An erasure that ended early, of more than the source had, looks like a deletion of the target's own.
      if (present?.deleted !== undefined && present.incoming === undefined)
        await wipe(this.#target, id, EVERY_SPACE, metaBytes);
      else await this.#forgetSetAside(id, erased.clock, metaBytes);
      const gone = present?.deleted === undefined ? [] : [{ space: "quarantine", id }];
      const expect = [{ key: metaKey(id), value: metaBytes }];
      await this.#carryRecord(erasedKey(id), erased.clock, erased.bytes, { delete: gone, expect });
      return undefined;
    }
    const removal = this.#at(id);
    const { replace = false, signal } = this.#options;
    const { log, handles } = removal;
    const ends: Ends = { source: this.#source, target: this.#target, log, handles, replace, signal };
    const assertMay = async (head: Head, found: Meta) => {
      if (replace) return [];
      const { index } = await assertAsLeft(ends, found, head, erased.clock);
      return [{ key: tagsKey(id), value: index }];
    };
    await eraseDocument(removal, assertMay, () => [reclaimDueEntry(this.#target)]);
    this.totals.erased++;
    this.#refused = 0;
    return undefined;
  }

  /** What damage had set aside of the erased document goes, where the target has begun it anew. */
  async #forgetSetAside(id: string, clock: number, metaBytes: Uint8Array | undefined): Promise<void> {
    const target = this.#target;
    const gone: Key[] = [];
    for await (const page of target.guard.scan({ space: "quarantine", id }))
      for (const { key, value } of page) if ((setAsideAt(key, value) ?? clock) < clock) gone.push(key);
    if (gone.length === 0) return;
    const due = reclaimDueEntry(target);
    await putOnce(target, due, await target.guard.get(due.key), {
      delete: gone,
      expect: [{ key: metaKey(id), value: metaBytes }],
    });
  }

  /**
   * Puts the record of an erasure that the target has not heard of. Its files may hold what was erased:
   * staged by a copy that was interrupted, or brought by one and deleted here since.
   */
  async #carryRecord(key: Key, clock: number, value: Uint8Array, more: Batch = {}): Promise<void> {
    const target = this.#target;
    const known = await readErased(target.guard, key);
    if (known !== undefined && known.clock >= clock) return;
    await putOnce(target, { key, value }, known?.bytes, { ...more, put: [reclaimDueEntry(target)] });
  }

  async carryQuarantine(): Promise<void> {
    const [source, target] = [this.#source, this.#target];
    const { prefix } = this.#options;
    const range = prefix === undefined ? { space: "quarantine" } : { space: "quarantine", idPrefix: prefix };
    for await (const page of source.guard.scan(range)) {
      for (const entry of page) {
        try {
          if ((await target.guard.get(entry.key)) === undefined) await this.#carrySetAside(entry);
        } catch (error) {
          if (!isCoppiceError(error, "CORRUPT")) throw error;
          this.fail(entry.key[1], error);
        }
      }
    }
  }

  async #carrySetAside(entry: Entry): Promise<void> {
    const { id, meta, metaBytes, ...to } = await readPlace(this.#target, entry.key[1]);
    const erased = to.erased ?? (await readErased(this.#target.guard, erasedKey(id)));
    // What was deleted or erased in the target, or is about to be, does not come back.
    if (meta?.deleted !== undefined || (meta === undefined && erased !== undefined)) return;
    if (erased !== undefined) {
      // A copy has put it there. Where both documents began later this was not erased with the old one.
      const { meta: from } = await readPlace(this.#source, id);
      const isLater = (of: Meta | undefined) => of?.deleted === undefined && (of?.base ?? -1) >= erased.clock;
      if (!isLater(meta) || !isLater(from)) return;
    }
    const expect = [
      { key: metaKey(id), value: metaBytes },
      { key: erasedKey(id), value: erased?.bytes },
    ];
    await putOnce(this.#target, entry, undefined, { expect });
  }

  /** Does it; what it rejects with is among the failures, if it is one of these or a failed write. */
  async told(task: () => Promise<void>, codes: readonly ErrorCode[]): Promise<void> {
    try {
      await task();
    } catch (error) {
      if (!codes.some((code) => isCoppiceError(error, code)) && !this.isWriteFailure(error)) throw error;
      this.fail("", error);
    }
  }

  /** One of the target, of which nothing more is written before it is reopened. */
  isWriteFailure(error: unknown): error is CoppiceError {
    const isLast = isCoppiceError(error, "OUTCOME_UNKNOWN") || isCoppiceError(error, "POISONED");
    return isLast && this.#target.guard.poison !== undefined;
  }

  fail(id: string, error: unknown): void {
    if (this.isWriteFailure(error)) this.isPoisoned = true;
    else if (!isCoppiceError(error) || error.kind === "closed" || error.kind === "unknown") {
      this.fatal ??= { error };
      return;
    }
    // Its copy has failed already, by the same damage.
    if (id !== "" && this.failures.some((failure) => failure.id === id)) return;
    this.failed++;
    if (isCoppiceError(error, "STORE_FULL") && ++this.#refused === REFUSED_MAX) {
      this.#isSpent = this.isFull;
      this.isFull = true;
      this.#refused = 0;
    }
    if (this.failures.length < FAILURES_MAX) this.failures.push({ id, error });
  }

  #count(document: CopiedDocument): void {
    const { outcome, records, bytes } = document;
    this.totals[outcome]++;
    if (records > 0) this.#refused = 0;
    this.totals.records += records;
    this.totals.bytes += bytes;
    if (this.documents.length < DOCUMENTS_MAX) this.documents.push(document);
  }
}

/** Puts it unless somebody was faster: then it is theirs to say what lies there. */
async function putOnce(
  { guard }: Context,
  entry: Entry,
  before: Uint8Array | undefined,
  more: Batch,
): Promise<void> {
  const { put = [], expect = [] } = more;
  try {
    const expected = [{ key: entry.key, value: before }, ...expect];
    await guard.commit({ ...more, put: [entry, ...put], expect: expected });
  } catch (error) {
    if (!isCoppiceError(error, "COMMIT_CONFLICT")) throw error;
  }
}

/** The clock in the key under which it had lain; `undefined`: there was none, or nothing tells. */
function setAsideAt(key: Key, value: Uint8Array): number | undefined {
  try {
    const [, , clock] = new Fields(unpackRecord(unseal(key, value).payload)).list("key");
    return typeof clock === "number" ? clock : undefined;
  } catch (error) {
    if (!isCoppiceError(error) && !(error instanceof TypeError)) throw error;
    return undefined;
  }
}

/** With `onGap` what cannot be read is passed over. */
async function* idsOf(
  { guard }: Context,
  prefix: string | undefined,
  onGap?: (gap: Gap) => void,
): AsyncGenerator<string> {
  const range = prefix === undefined ? { space: "meta" } : { space: "meta", idPrefix: prefix };
  const scan = (options: ScanOptions) => guard.scan(range, options);
  const pages = onGap === undefined ? scan({ values: false }) : scanAround(scan, { values: false }, onGap);
  for await (const page of pages) for (const { key } of page) yield key[1];
}

async function firstKey({ guard }: Context, space: string): Promise<Key | undefined> {
  for await (const [entry] of guard.scan({ space }, { limit: 1, values: false })) return entry?.key;
  return undefined;
}
