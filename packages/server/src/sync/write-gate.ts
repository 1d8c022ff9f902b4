/**
 * Whether the storage takes writes. After a failed write or sync (a full disk, say) it takes none until it
 * was reopened; meanwhile the server refuses edits and goes on to show and relay what it has.
 *
 * Invariants: a recovery is tried only when `mayRecover` allows it, because a reopening that fails takes the
 * reads away as well; one recovery runs at a time; the gate opens only after one that succeeded. A store that
 * is full lives, and is not reopened: the gate opens after a while, and the next write tells.
 */

import { type DocumentStorage, isCoppiceError } from "coppice";

export interface WriteGateOptions {
  readonly storage: Pick<DocumentStorage, "recover">;
  /** Asked before each try; default: always. For a full disk: is there space again? */
  readonly mayRecover?: (() => boolean | Promise<boolean>) | undefined;
  /** Called after each change, with why it is shut. */
  readonly onChange: (reason: string | undefined) => void;
}

const SHUTTING: ReadonlySet<string> = new Set(["OUTCOME_UNKNOWN", "POISONED", "UNAVAILABLE", "STORE_FULL"]);
const RETRY_MS = 250;
const RETRY_MS_MAX = 5_000;

export class WriteGate {
  readonly #options: WriteGateOptions;
  #reason: string | undefined;
  #recovering: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;
  /** Of the last wait, and when it ended. */
  #waitedMs = 0;
  #opened = 0;

  constructor(options: WriteGateOptions) {
    this.#options = options;
  }

  get open(): boolean {
    return this.#reason === undefined;
  }

  /** The error code for which it is shut. */
  get reason(): string | undefined {
    return this.#reason;
  }

  /** Tells of a failed write. Returns whether it is one of those after which nothing more is written. */
  report(error: unknown): boolean {
    if (!isCoppiceError(error)) return false;
    if (!SHUTTING.has(error.code)) return false;
    this.#shut(error.code);
    return true;
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#recovering;
  }

  #shut(reason: string): void {
    if (this.#reason !== undefined || this.#closed) return;
    this.#reason = reason;
    this.#options.onChange(reason);
    // One that is still full waits longer each time.
    const isStill = performance.now() - this.#opened < RETRY_MS;
    this.#retryAfter(isStill ? Math.min(2 * this.#waitedMs, RETRY_MS_MAX) : RETRY_MS);
  }

  #retryAfter(delayMs: number): void {
    if (this.#closed) return;
    this.#timer = setTimeout(() => {
      this.#recovering = this.#tryRecover(delayMs).finally(() => {
        this.#recovering = undefined;
      });
    }, delayMs);
    this.#timer.unref();
  }

  async #tryRecover(delayMs: number): Promise<void> {
    const next = Math.min(delayMs * 2, RETRY_MS_MAX);
    try {
      if ((await this.#options.mayRecover?.()) === false) {
        this.#retryAfter(next);
        return;
      }
      if (this.#reason !== "STORE_FULL") await this.#options.storage.recover();
    } catch (error) {
      // A closed storage never opens again; everything else may pass.
      if (!isCoppiceError(error, "CLOSED")) this.#retryAfter(next);
      return;
    }
    this.#reason = undefined;
    this.#waitedMs = delayMs;
    this.#opened = performance.now();
    this.#options.onChange(undefined);
  }
}
