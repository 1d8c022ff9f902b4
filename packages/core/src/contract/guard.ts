/**
 * The guard: wraps any backend once and gives it what every backend needs, so that backends stay small:
 * lifecycle, argument checks, limits, group commit, and poison.
 *
 * Invariants:
 * - after `close` every call rejects with `CLOSED`, after `retire` with `POISONED`, and the backend is called
 *   no more;
 * - a backend that `poisonsItself` gets no further commit after one that failed for any reason but a
 *   conflict or `STORE_FULL`: all waiting and later ones reject with `POISONED` until it is reopened, and one
 *   that it has already ends as it says. Reads go on: they only show what was committed;
 * - a commit that fails with an error the contract does not name counts as `OUTCOME_UNKNOWN`;
 * - reads that the backend answers without leaving the thread let the event loop turn now and then;
 * - what a backend returns is a plain `Uint8Array`. What is none, or no entry, page or backend, is a mistake
 *   of whoever wrote the backend: a `TypeError` that says what it must give, and never `UNAVAILABLE`, which
 *   would tell a caller to try again.
 */

import type { Env } from "../base/env.js";
import { CoppiceError, isCoppiceError } from "../base/errors.js";
import type { Limits } from "../base/limits.js";
import { Turns } from "../base/turns.js";
import type { Backend, Batch, Entry, Key, Range, ScanOptions, Traits } from "./backend.js";
import { GroupCommit } from "./group-commit.js";
import { checkId, checkKey, checkRange, isRangeDeletion, keyName } from "./keys.js";
import { assertBackend, pagesOf, plainPage, plainValue } from "./shapes.js";

/**
 * Told after each backend commit: how many operations and bytes went down together, and how long it took.
 */
export type CommitListener = (commit: {
  readonly operations: number;
  readonly bytes: number;
  readonly durationMs: number;
  readonly error: unknown;
}) => void;

const UNREADABLE = "the backend could not read";

export class Guard implements Backend {
  readonly traits: Traits;
  readonly #backend: Backend;
  readonly #env: Env;
  readonly #limits: Limits;
  readonly #group: GroupCommit;
  readonly #turns: Turns;
  readonly #onCommit: CommitListener | undefined;
  #closed: Promise<void> | undefined;
  /** Closed to be opened again, and why that has failed. */
  #retired: { readonly failure?: unknown } | undefined;
  #reclaiming: Promise<void> = Promise.resolve();
  #poison: CoppiceError | undefined;
  /** When the last commit was done. */
  #ended = 0;

  constructor(backend: Backend, env: Env, limits: Limits, onCommit?: CommitListener) {
    assertBackend(backend);
    this.traits = backend.traits;
    this.#backend = backend;
    this.#env = env;
    this.#limits = limits;
    this.#onCommit = onCommit;
    const ahead = backend.traits.pipelined === true;
    this.#turns = new Turns(env);
    this.#group = new GroupCommit((batch) => this.#commitNow(batch), env, limits, ahead);
  }

  /** The failure that stopped all writes, until the backend is reopened. */
  get poison(): CoppiceError | undefined {
    return this.#poison;
  }

  async get(key: Key): Promise<Uint8Array | undefined> {
    this.assertOpen();
    checkKey(key);
    const pause = this.#turns.pause();
    if (pause !== undefined) await this.#after(pause);
    return plainValue(await this.#translate(() => this.#backend.get(key), UNREADABLE));
  }

  async *scan(range: Range, options: ScanOptions = {}): AsyncGenerator<readonly Entry[]> {
    this.assertOpen();
    checkRange(range);
    const { limit, signal } = options;
    if (limit !== undefined && (!Number.isSafeInteger(limit) || limit < 0)) {
      throw new CoppiceError("ARGUMENT_INVALID", "limit must be a safe integer from 0", {
        details: { limit },
      });
    }
    signal?.throwIfAborted();
    if (limit === 0) return;
    const pages = pagesOf(this.#begin(range, { pageBytesMax: this.#limits.pageBytesMax, ...options }));
    try {
      for (;;) {
        const pause = this.#turns.pause();
        if (pause !== undefined) await this.#after(pause, signal);
        const page = await this.#translate(() => pages.next(), UNREADABLE, signal);
        signal?.throwIfAborted();
        if (page.done) return;
        yield plainPage(page.value);
        this.assertOpen();
      }
    } finally {
      await pages.return?.();
    }
  }

  commit(batch: Batch): Promise<void> {
    return new Promise((resolve, reject) => {
      try {
        this.assertOpen();
        checkKeys(batch);
      } catch (error) {
        reject(error);
        return;
      }
      this.submit(batch, () => resolve(), reject);
    });
  }

  /**
   * The same with calls back, see `GroupCommit.submit`, and `failed` perhaps before this returns. For keys
   * that are surely well-formed, and no key twice.
   */
  submit(batch: Batch, done: (now: number) => void, failed: (error: unknown) => void): void {
    try {
      this.assertOpen();
      this.#checkSizes(batch);
      if (this.#poison !== undefined) throw poisoned(this.#poison);
    } catch (error) {
      failed(error);
      return;
    }
    this.#group.submit(batch, done, failed);
  }

  watch(listener: () => void): () => void {
    this.assertOpen();
    return this.#backend.watch?.(listener) ?? (() => undefined);
  }

  /** One at a time: a call that begins while one runs may be about bytes that the other passes by. */
  reclaim(): Promise<void> {
    const run = async (): Promise<void> => {
      this.assertOpen();
      if (this.#poison !== undefined) throw poisoned(this.#poison);
      await this.#translate(() => this.#backend.reclaim(), "the backend could not reclaim deleted bytes");
    };
    const result = this.#reclaiming.then(run);
    this.#reclaiming = result.catch(() => undefined);
    return result;
  }

  /** Resolves when all submitted commits have settled. */
  idle(): Promise<void> {
    return this.#group.idle();
  }

  /** Waits for what is in flight, then closes the backend. Repeated calls get the first outcome. */
  close(): Promise<void> {
    this.#retired = undefined;
    return this.#shut();
  }

  /**
   * Closes the backend because it is to be opened again. Calls reject with `POISONED` then: `CLOSED` tells
   * whoever has something to store that it never will be.
   */
  retire(): Promise<void> {
    this.#retired ??= {};
    return this.#shut();
  }

  /** Says why the backend could not be opened again after `retire`: the cause of what calls reject with. */
  stranded(failure: unknown): void {
    this.#retired = { failure };
  }

  /** Throws what every call rejects with once the backend is closed. */
  assertOpen(): void {
    if (this.#closed === undefined) return;
    if (this.#retired === undefined) throw new CoppiceError("CLOSED", "the backend is closed");
    const { failure } = this.#retired;
    const message =
      failure === undefined
        ? "recover() closed the backend; nothing was done; call again when recover() has ended"
        : "the backend could not be reopened: nothing is read or written before recover() is called again";
    throw new CoppiceError("POISONED", message, { cause: failure ?? this.#poison });
  }

  #shut(): Promise<void> {
    this.#closed ??= Promise.all([this.#group.idle(), this.#reclaiming]).then(() => this.#backend.close());
    return this.#closed;
  }

  async #commitNow(batch: Batch): Promise<void> {
    if (this.#poison !== undefined) throw poisoned(this.#poison);
    const called = this.#env.elapsed();
    let failure: unknown;
    try {
      await this.#backend.commit(batch);
    } catch (error) {
      failure = isCoppiceError(error)
        ? error
        : new CoppiceError("OUTCOME_UNKNOWN", "a commit failed and may have been written; call recover()", {
            cause: error,
          });
      if (this.traits.poisonsItself && !leavesAlive(error)) {
        if (this.#poison === undefined) this.#poison = failure as CoppiceError;
        // Of two that were handed over either may fail first, and what is in doubt stays in doubt.
        else if (isCoppiceError(failure, "POISONED")) failure = poisoned(this.#poison);
      }
      throw failure;
    } finally {
      // One that was handed over early has waited for the one before, unless it failed before that was done.
      const started = Math.max(called, this.#ended);
      const ended = this.#env.elapsed();
      if (failure === undefined) this.#ended = ended;
      this.#onCommit?.({
        operations: (batch.put?.length ?? 0) + (batch.delete?.length ?? 0),
        bytes: (batch.put ?? []).reduce((sum, entry) => sum + entry.value.length, 0),
        durationMs: ended - started,
        error: failure,
      });
    }
  }

  /** A read goes on after a pause unless it was stopped, or the backend closed, meanwhile. */
  async #after(pause: Promise<void>, signal?: AbortSignal): Promise<void> {
    await pause;
    signal?.throwIfAborted();
    this.assertOpen();
  }

  #begin(range: Range, options: ScanOptions): AsyncIterable<readonly Entry[]> {
    try {
      return this.#backend.scan(range, options);
    } catch (error) {
      throw this.#named(error, UNREADABLE, options.signal);
    }
  }

  async #translate<T>(work: () => Promise<T>, failure: string, signal?: AbortSignal): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw this.#named(error, failure, signal);
    }
  }

  #named(error: unknown, failure: string, signal: AbortSignal | undefined): unknown {
    if (signal?.aborted) return signal.reason;
    // Closed under the read: the backend does not know whether for good.
    if (isCoppiceError(error, "CLOSED")) this.assertOpen();
    return isCoppiceError(error) ? error : new CoppiceError("UNAVAILABLE", failure, { cause: error });
  }

  #checkSizes({ put = [] }: Batch): void {
    const { valueBytesMax, commitBytesMax } = this.traits;
    let bytes = 0;
    for (const { value } of put) {
      if (!(value instanceof Uint8Array)) throw new TypeError("a value must be a Uint8Array");
      if (value.length > valueBytesMax) {
        throw new CoppiceError("BATCH_TOO_LARGE", "a value is larger than the backend takes", {
          details: { limit: "valueBytesMax", max: valueBytesMax, actual: value.length },
        });
      }
      bytes += value.length;
    }
    if (bytes > commitBytesMax) {
      throw new CoppiceError("BATCH_TOO_LARGE", "a commit is larger than the backend takes", {
        details: { limit: "commitBytesMax", max: commitBytesMax, actual: bytes },
      });
    }
  }
}

function checkKeys({ put = [], delete: remove = [], expect = [] }: Batch): void {
  const names = put.length > 1 ? new Set<string>() : undefined;
  for (const { key } of put) {
    checkKey(key);
    if (names === undefined) continue;
    const name = keyName(key);
    if (names.has(name)) {
      throw new CoppiceError("ARGUMENT_INVALID", "a commit puts one key twice", {
        details: { key: [...key] },
      });
    }
    names.add(name);
  }
  for (const deletion of remove) {
    if (isRangeDeletion(deletion)) {
      checkId(deletion.id);
      checkRange(deletion);
    } else {
      checkKey(deletion);
    }
  }
  for (const { key } of expect) checkKey(key);
}

/** What surely wrote nothing and damaged nothing: others may go on. */
function leavesAlive(error: unknown): boolean {
  return isCoppiceError(error, "COMMIT_CONFLICT") || isCoppiceError(error, "STORE_FULL");
}

function poisoned(cause: CoppiceError): CoppiceError {
  return new CoppiceError("POISONED", "an earlier write failed, nothing more is written until recover()", {
    cause,
  });
}
