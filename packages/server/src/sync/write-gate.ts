/**
 * Whether the storage takes writes. After a failed write or sync (a full disk, say) it takes none until it
 * was reopened; meanwhile the server refuses edits and goes on to show and relay what it has.
 *
 * An outage is told once when it begins and once when it is over, however often the gate opens and shuts
 * meanwhile: over it is when a write has succeeded, or when none has failed for a while.
 *
 * Invariants: a recovery is tried only when `mayRecover` allows it, because a reopening that fails takes the
 * reads away as well; one recovery runs at a time; the gate opens only after one that succeeded. A store that
 * is full lives, and is not reopened: the gate opens after a while, and the next write tells.
 */

import { type CoppiceError, type DocumentStorage, isCoppiceError } from "coppice";

export interface WriteGateOptions {
  readonly storage: Pick<DocumentStorage, "recover">;
  /** Asked before each try; default: always. For a full disk: is there space again? */
  readonly mayRecover?: (() => boolean | Promise<boolean>) | undefined;
  /** Called after each change. */
  readonly onChange: () => void;
  /** Told with the failure when an outage begins, and with nothing when it is over. */
  readonly onOutage: (failure: CoppiceError | undefined) => void;
}

const SHUTTING: ReadonlySet<string> = new Set(["OUTCOME_UNKNOWN", "POISONED", "UNAVAILABLE", "STORE_FULL"]);
const RETRY_MS = 250;
const RETRY_MS_MAX = 5_000;

export class WriteGate {
  readonly #options: WriteGateOptions;
  #failure: CoppiceError | undefined;
  #isOutage = false;
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
    return this.#failure === undefined;
  }

  /** The error code for which it is shut. */
  get reason(): string | undefined {
    return this.#failure?.code;
  }

  /** The failure for which it is shut. */
  get failure(): CoppiceError | undefined {
    return this.#failure;
  }

  /** Tells of a failed write. Returns whether it is one of those after which nothing more is written. */
  report(error: unknown): boolean {
    if (!isCoppiceError(error)) return false;
    if (!SHUTTING.has(error.code)) return false;
    this.#shut(error);
    return true;
  }

  /** Tells of a write that succeeded. */
  succeeded(): void {
    if (this.open) this.#endOutage();
  }

  /** Called every second or so: where nobody writes, no write can tell that an outage is over. */
  look(now: number): void {
    if (this.open && now - this.#opened > RETRY_MS_MAX) this.#endOutage();
  }

  /** Tries to open it at once, for who cannot wait. */
  async retry(): Promise<void> {
    await this.#recovering;
    if (this.open || this.#closed) return;
    clearTimeout(this.#timer);
    await this.#recover(RETRY_MS);
  }

  /** From here on no recovery begins; what fails then shuts it for good. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#recovering;
  }

  #shut(failure: CoppiceError): void {
    if (this.#failure !== undefined) return;
    this.#failure = failure;
    this.#options.onChange();
    if (!this.#isOutage) this.#options.onOutage(failure);
    this.#isOutage = true;
    // One that is still full waits longer each time.
    const isStill = performance.now() - this.#opened < RETRY_MS;
    this.#retryAfter(isStill ? Math.min(2 * this.#waitedMs, RETRY_MS_MAX) : RETRY_MS);
  }

  #retryAfter(delayMs: number): void {
    if (this.#closed) return;
    this.#timer = setTimeout(() => void this.#recover(delayMs), delayMs);
    this.#timer.unref();
  }

  #recover(delayMs: number): Promise<void> {
    this.#recovering = this.#tryRecover(delayMs).finally(() => {
      this.#recovering = undefined;
    });
    return this.#recovering;
  }

  #endOutage(): void {
    if (!this.#isOutage) return;
    this.#isOutage = false;
    this.#options.onOutage(undefined);
  }

  async #tryRecover(delayMs: number): Promise<void> {
    const next = Math.min(delayMs * 2, RETRY_MS_MAX);
    try {
      if ((await this.#options.mayRecover?.()) === false) {
        this.#retryAfter(next);
        return;
      }
      if (this.reason !== "STORE_FULL") await this.#options.storage.recover();
    } catch (error) {
      // A closed storage never opens again; everything else may pass.
      if (!isCoppiceError(error, "CLOSED")) this.#retryAfter(next);
      return;
    }
    this.#failure = undefined;
    this.#waitedMs = delayMs;
    this.#opened = performance.now();
    this.#options.onChange();
  }
}
