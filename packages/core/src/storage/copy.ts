/**
 * A whole store to another one, while both are in use: this is backup.
 *
 * Documents are copied one by one (`mirror.ts`), each as it is at the moment when its turn comes; nothing is
 * atomic across documents. A second run writes only what is new. Erasures are carried as well, and what
 * damage had set aside (`carrying.ts`).
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
import { Carrying, type CarryReport, idsOf } from "./carrying.js";
import type { Context } from "./context.js";
import type { Removal } from "./deletion.js";
import { readPlace } from "./landing.js";
import { type Ends, type Mirrored, mirrorDocument } from "./mirror.js";
import { reclaimIfDue } from "./reclaim-due.js";

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
  const carrying = new Carrying(source, target, at, options, run);
  for (const carry of [() => carrying.erasures(), () => carrying.quarantine()]) {
    if (run.isOver || options.signal?.aborted) break;
    await run.told(carry, TOLD);
  }
  // Also where there is no room: it may make some.
  if (!run.isBroken && !options.signal?.aborted)
    await run.told(() => reclaimIfDue(target, run.lacksRoom), [...TOLD, "UNAVAILABLE"]);
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

class Run implements CarryReport {
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
  /** Something that removes found no room in it, and is perhaps half done. */
  lacksRoom = false;
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
      this.fail(id, error, !(await this.isRemoved(id)));
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

  /** `isBrought`: it was a document that was to come, which leaves nothing to reclaim later. */
  fail(id: string, error: unknown, isBrought = false): void {
    if (this.isWriteFailure(error)) this.isPoisoned = true;
    else if (!isCoppiceError(error) || error.kind === "closed" || error.kind === "unknown") {
      this.fatal ??= { error };
      return;
    }
    this.lacksRoom ||= !isBrought && isCoppiceError(error, "STORE_FULL");
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

  erased(): void {
    this.totals.erased++;
    this.#refused = 0;
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
