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
import { type Context, snapshotFailed } from "./context.js";
import { type Head, statsOf } from "./head.js";
import type { SnapshotPolicy } from "./policy.js";

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
  /** Resolves when it has run. */
  readonly done: Promise<void>;
  readonly settle: () => void;
  seen: number;
  /** Somebody waits for it: it needs no pause. */
  hurried: boolean;
}

/** A policy that throws is a snapshot that failed: it harms none of those whose events were stored. */
export function isDue(context: Context, policy: SnapshotPolicy, id: string, head: Head): boolean {
  if (head.meta === undefined) return false;
  try {
    return policy(statsOf(head, head.time));
  } catch (error) {
    snapshotFailed(context, { id, error });
    return false;
  }
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
    let settle = () => {};
    const done = new Promise<void>((resolve) => {
      settle = resolve;
    });
    const since = this.#env.elapsed();
    this.#due.set(log.id, { log, run, since, done, settle, seen: log.seen, hurried: false });
    this.#working ??= this.#work();
  }

  /** Runs at once what is due now, and resolves when that is done; what falls due meanwhile waits as ever. */
  async idle(): Promise<void> {
    if (this.#due.size === 0) return;
    for (const due of this.#due.values()) due.hurried = true;
    this.#pause.abort();
    await Promise.all([...this.#due.values()].map(({ done }) => done));
  }

  async #work(): Promise<void> {
    while (this.#due.size > 0) {
      await this.#wait();
      for (const due of [...this.#due.values()]) {
        if (!due.hurried && !this.#rests(due)) continue;
        try {
          await due.run();
        } finally {
          this.#due.delete(due.log.id);
          due.settle();
        }
      }
    }
    this.#working = undefined;
  }

  /** For a while, or until somebody is in a hurry. */
  async #wait(): Promise<void> {
    if ([...this.#due.values()].some(({ hurried }) => hurried)) return;
    this.#pause = new AbortController();
    await this.#env.delay(PAUSE_MS, this.#pause.signal).catch(() => undefined);
  }

  #rests(due: Due): boolean {
    const { log, since, seen } = due;
    due.seen = log.seen;
    if (this.#env.elapsed() - since >= WAIT_MS_MAX) return true;
    return !log.pumping && log.seen === seen;
  }
}
