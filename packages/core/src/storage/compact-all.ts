/**
 * Compaction of many documents: streams over the ids, with bounded memory, concurrency and time. It is in no
 * hurry: while appends are on their way it rests after each document, several times as long as that document
 * took, so that those who type keep most of the time of processors and disk.
 *
 * Invariant: one document's failure is reported and stops no other, not even where the store is full: others
 * need less room, and each that is trimmed makes some. Only where a write has failed so that the backend
 * takes no more, the run ends, and tells what was done before. A stop (signal, budget) comes between
 * documents or between steps of one, and leaves nothing half done.
 */

import type { Env } from "../base/env.js";
import { type CoppiceError, isCoppiceError } from "../base/errors.js";
import type { CompactOptions, CompactResult } from "./compaction.js";
import type { DocumentInfo } from "./queries.js";
import { checkHistory, type HistoryPolicy } from "./trimming.js";

export interface CompactAllOptions {
  readonly prefix?: string;
  /** Only documents with at least so many events since their snapshot; default 1. */
  readonly minEvents?: number;
  /** Only documents that did not change for so long. */
  readonly idleMs?: number;
  /** Documents at a time; default 2. */
  readonly concurrency?: number;
  /** Begin no further document after so long. */
  readonly budgetMs?: number;
  readonly force?: boolean;
  readonly dryRun?: boolean;
  /** What becomes of what this call trims. Default: what `history` of `DocumentStorage.open` says. */
  readonly history?: HistoryPolicy;
  /**
   * At the end, once, rewrite the backend's files without what was trimmed, deleted or erased: see
   * `Backend.reclaim`. Not after the signal.
   */
  readonly reclaim?: boolean;
  readonly onProgress?: (progress: CompactProgress) => void;
  readonly signal?: AbortSignal;
}

export interface CompactProgress {
  /** Documents looked at so far. */
  readonly seen: number;
  readonly compacted: number;
  readonly failed: number;
  readonly bytesTrimmed: number;
  /** The document just finished, unless it was passed over. */
  readonly result: CompactResult | undefined;
}

export interface CompactAllResult {
  readonly seen: number;
  readonly compacted: number;
  readonly eventsTrimmed: number;
  readonly bytesTrimmed: number;
  /** Of the trimmed events, those that archives keep. */
  readonly eventsArchived: number;
  /** How many documents were refused or could not be compacted; the others were done all the same. */
  readonly failed: number;
  /** The first 1,000 of these. */
  readonly failures: readonly { readonly id: string; readonly error: CoppiceError | string }[];
  /**
   * Why it ended before the last document, if it did. `poisoned`: a write failed, and the backend takes no
   * more before it is reopened (`recover()`); what was done before stays.
   */
  readonly stopped: "budget" | "signal" | "poisoned" | undefined;
  readonly durationMs: number;
}

interface Source {
  list(prefix: string | undefined): AsyncIterable<string>;
  info(id: string): Promise<DocumentInfo | undefined>;
  compact(id: string, options: CompactOptions): Promise<CompactResult>;
  /** Somebody waits for an append. */
  busy(): boolean;
  /** The backend takes no more writes. */
  poisoned(): boolean;
}

const FAILURES_MAX = 1000;
/** Of the time that a document took. */
const REST_TIMES = 4;
const REST_MS_MAX = 1000;

export async function compactAll(
  env: Env,
  options: CompactAllOptions,
  source: Source,
): Promise<CompactAllResult> {
  checkHistory(options.history);
  const started = env.elapsed();
  const totals = { seen: 0, compacted: 0, eventsTrimmed: 0, bytesTrimmed: 0, eventsArchived: 0 };
  const failures: { id: string; error: CoppiceError | string }[] = [];
  let failed = 0;
  let stopped: CompactAllResult["stopped"];
  let fatal: { readonly error: unknown } | undefined;
  const fail = (id: string, error: CoppiceError | string) => {
    failed++;
    if (failures.length < FAILURES_MAX) failures.push({ id, error });
  };
  /** Whether it compacted the document. */
  const one = async (id: string): Promise<boolean> => {
    let result: CompactResult | undefined;
    try {
      if (await wanted(env, options, await source.info(id)))
        result = await source.compact(id, compactOptions(options));
    } catch (error) {
      if (options.signal?.aborted) return false;
      const isOver = isCoppiceError(error, "POISONED") && source.poisoned();
      if (!isCoppiceError(error) || (error.kind === "closed" && !isOver)) {
        fatal ??= { error };
        return false;
      }
      if (isOver) stopped = "poisoned";
      fail(id, error);
    }
    if (result?.outcome === "refused") fail(id, result.reason ?? "refused");
    if (result?.outcome === "compacted") totals.compacted++;
    totals.seen++;
    totals.eventsTrimmed += result?.eventsTrimmed ?? 0;
    totals.bytesTrimmed += result?.bytesTrimmed ?? 0;
    totals.eventsArchived += result?.eventsArchived ?? 0;
    options.onProgress?.({ ...totals, failed, result });
    return result?.outcome === "compacted";
  };
  const oneAndRest = async (id: string): Promise<void> => {
    const began = env.elapsed();
    if (!(await one(id)) || options.dryRun || !source.busy()) return;
    // A rest that the signal ends early is no failure: the loop below says that it was stopped.
    await env
      .delay(Math.min(REST_TIMES * (env.elapsed() - began), REST_MS_MAX), options.signal)
      .catch(() => undefined);
  };
  const running = new Set<Promise<void>>();
  for await (const id of source.list(options.prefix)) {
    if (options.signal?.aborted) stopped = "signal";
    else if (env.elapsed() - started > (options.budgetMs ?? Number.MAX_VALUE)) stopped = "budget";
    if (stopped !== undefined || fatal !== undefined) break;
    const task = oneAndRest(id).finally(() => running.delete(task));
    running.add(task);
    if (running.size >= (options.concurrency ?? 2)) await Promise.race(running);
  }
  await Promise.all(running);
  if (fatal !== undefined) throw (fatal as { readonly error: unknown }).error;
  if (options.signal?.aborted) stopped = "signal";
  return { ...totals, failed, failures, stopped, durationMs: env.elapsed() - started };
}

async function wanted(
  env: Env,
  options: CompactAllOptions,
  info: DocumentInfo | undefined,
): Promise<boolean> {
  if (info === undefined) return false;
  if (options.idleMs !== undefined && env.now() - info.changed < options.idleMs) return false;
  if (options.force) return true;
  return info.eventsSinceSnapshot >= (options.minEvents ?? 1) || info.oldestClock < (info.snapshotClock ?? 0);
}

function compactOptions({ force, dryRun, history, signal }: CompactAllOptions): CompactOptions {
  return {
    ...(history === undefined ? {} : { history }),
    ...(force === undefined ? {} : { force }),
    ...(dryRun === undefined ? {} : { dryRun }),
    ...(signal === undefined ? {} : { signal }),
  };
}
