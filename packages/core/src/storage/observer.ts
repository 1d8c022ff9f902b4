/**
 * What a storage tells an observer, so that metrics and tracing attach without patching.
 *
 * Callbacks run synchronously after the fact and cannot change an outcome: an error thrown by one is raised
 * in a turn of its own, as an uncaught error. Durations are in ms, sizes in bytes.
 */

import type { Env } from "../base/env.js";
import type { CoppiceError } from "../base/errors.js";

export interface Observer {
  /**
   * Events of one document became durable. `queuedMs` is the whole wait of the oldest of them; 0, when the
   * observer had no `append` yet when that began.
   */
  append?(fact: { id: string; events: number; bytes: number; clock: number; queuedMs: number }): void;
  /** One commit of the backend, of one or many documents. */
  commit?(fact: { operations: number; bytes: number; durationMs: number; error: unknown }): void;
  load?(fact: { id: string; clock: number; events: number; snapshotBytes: number; durationMs: number }): void;
  snapshot?(fact: { id: string; clock: number; bytes: number; durationMs: number; error?: unknown }): void;
  /** Not of dry runs. `clock` is that of the newest snapshot when `outcome` is `compacted`. */
  compact?(fact: {
    id: string;
    outcome: string;
    clock: number;
    eventsTrimmed: number;
    bytesTrimmed: number;
    durationMs: number;
  }): void;
  /**
   * Another commit was faster, a writer's or a compaction's; `retried` when storage tries again by itself.
   */
  conflict?(fact: { id: string; retried: boolean }): void;
  /** A load, fold or receive left events aside. `reason` is present for refused ones. */
  held?(fact: { id: string; clock: number | undefined; reason?: string }): void;
  /** Stored bytes are damaged; reading went on with what is redundant, or failed. */
  damage?(fact: { id: string; error: CoppiceError; recovered: boolean }): void;
  /** A repair set damaged bytes aside. */
  quarantine?(fact: {
    id: string;
    key: readonly unknown[];
    quarantined: readonly unknown[];
    bytes: number;
  }): void;
}

/** Calls one callback of an observer; see above for what happens to its errors. */
export function report(env: Env, tell: () => void): void {
  try {
    tell();
  } catch (error) {
    env.turn(() => {
      throw error;
    });
  }
}
