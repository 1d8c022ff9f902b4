/**
 * Snapshots that a policy asked for: they run when their documents pause, one after the other.
 *
 * A fold competes with appends for processors and disk. It is in no hurry: until it is done a load replays
 * some more events. So a due snapshot waits until its document had no append for `PAUSE_MS`, and at most
 * `WAIT_MS_MAX`, lest a document that never rests gather events without end. `flush` and `close` wait for
 * neither.
 *
 * Invariants: a document is due once, however often it is asked for; one fold of this kind runs at a time, so
 * that a thousand documents that fall due together are not in memory together; a failure is the caller's to
 * report, and stops nothing.
 */

import type { Env } from "../base/env.js";

const PAUSE_MS = 50;
const WAIT_MS_MAX = 2000;

/** What is watched for a pause. */
interface Watched {
  readonly id: string;
  readonly pumping: boolean;
  readonly seen: number;
}

interface Due {
  readonly log: Watched;
  readonly run: () => Promise<unknown>;
  readonly since: number;
  seen: number;
}

export class BackgroundSnapshots {
  readonly #env: Env;
  readonly #due = new Map<string, Due>();
  #working: Promise<void> | undefined;
  #pause = new AbortController();

  constructor(env: Env) {
    this.#env = env;
  }

  /** `run` must not reject. */
  add(log: Watched, run: () => Promise<unknown>): void {
    if (this.#due.has(log.id)) return;
    this.#due.set(log.id, { log, run, since: this.#env.elapsed(), seen: log.seen });
    this.#working ??= this.#work();
  }

  /** Runs at once what is due, and resolves when nothing is due any more. */
  async idle(): Promise<void> {
    while (this.#working !== undefined) {
      this.#pause.abort();
      await this.#working;
    }
  }

  async #work(): Promise<void> {
    while (this.#due.size > 0) {
      const hurried = await this.#wait();
      for (const due of [...this.#due.values()]) {
        if (!hurried && !this.#rests(due)) continue;
        await due.run();
        this.#due.delete(due.log.id);
      }
    }
    this.#working = undefined;
  }

  /** True when nobody wants to wait. */
  async #wait(): Promise<boolean> {
    this.#pause = new AbortController();
    const { signal } = this.#pause;
    return this.#env.delay(PAUSE_MS, signal).then(
      () => signal.aborted,
      () => true,
    );
  }

  #rests(due: Due): boolean {
    const { log, since, seen } = due;
    due.seen = log.seen;
    if (this.#env.elapsed() - since >= WAIT_MS_MAX) return true;
    return !log.pumping && log.seen === seen;
  }
}
