/**
 * The contract between storage and whatever keeps its bytes. Types and promises; hardly any code.
 *
 * A backend is a plain object made by a factory. It keeps bytes under ordered keys and commits batches
 * atomically. It knows nothing of documents, events or snapshots. `guard` wraps every backend once and checks
 * arguments, limits and lifecycle, so a backend receives exactly what is written here and nothing else.
 *
 * Rules (`BK` in docs/spec.md):
 * - keys are ordered by space, then by the UTF-8 bytes of the id, then by seq, then by part;
 * - `commit` is all or nothing, and durable to `traits.durability` when it resolves;
 * - a page of `scan` is one consistent view; two pages are not;
 * - bytes that are returned belong to the caller, bytes that were passed are not kept by reference.
 */

import type { Env } from "../base/env.js";

/** `[space, id]`, `[space, id, seq]` or `[space, id, seq, part]`; seq and part are safe integers ≥ 0. */
export type Key = readonly [space: string, id: string, seq?: number, part?: number];

export interface Entry {
  readonly key: Key;
  /** Empty when the scan was told `values: false`. */
  readonly value: Uint8Array;
}

/**
 * Either the keys of a whole space, those whose id starts with `idPrefix` and is greater than `after`; or
 * the keys of one id with `from ≤ seq < to`. A key without a seq lies before all seqs, and is in the range
 * only when `from` is absent.
 */
export type Range =
  | { readonly space: string; readonly idPrefix?: string; readonly after?: string }
  | { readonly space: string; readonly id: string; readonly from?: number; readonly to?: number };

export interface ScanOptions {
  /** From the last key to the first. */
  readonly reverse?: boolean;
  /** Entries in all, not per page. */
  readonly limit?: number;
  /** `false`: keys only; values come back empty. */
  readonly values?: boolean;
  /** About how many bytes a page may hold; a page holds at least one entry. */
  readonly pageBytesMax?: number;
  readonly signal?: AbortSignal;
}

/**
 * What one commit does. Deletes are applied before puts. No key is put twice. `expect` is compare-and-set:
 * each key must have exactly this value, or be absent (`undefined`), as seen by the commit itself.
 */
export interface Batch {
  readonly put?: readonly Entry[];
  readonly delete?: readonly Deletion[];
  readonly expect?: readonly Expectation[];
}

/** One key, or all keys of an id (in one space) with `from ≤ seq < to`. */
export type Deletion =
  | Key
  | { readonly space: string; readonly id: string; readonly from?: number; readonly to?: number };

export interface Expectation {
  readonly key: Key;
  readonly value: Uint8Array | undefined;
}

/** What an acknowledged commit survives: the death of the process, or a loss of power as well. */
export type Durability = "none" | "process" | "power";

/** Declared, not probed; the conformance kit tests each in both directions. */
export interface Traits {
  /** What an acknowledged commit survives. */
  readonly durability: Durability;
  /**
   * `true`: while it is open nobody else can write (a lock holds them off). `false`: others may, and
   * only `expect` protects a writer.
   */
  readonly exclusive: boolean;
  /**
   * `true`: after a failed write the state of its files is not known, so the guard refuses further writes
   * until it is reopened. `false`: the backend itself can go on (memory, a database server).
   */
  readonly poisonsItself: boolean;
  /** Bytes of one value, and of all values of one commit, that are surely accepted. */
  readonly valueBytesMax: number;
  readonly commitBytesMax: number;
  /**
   * `true`: `commit` may be called while one commit is under way. What it needs is prepared meanwhile; it is
   * written when that one is durable, as if it were called then, and not at all when that one ended in doubt.
   * Absent: one after the other.
   */
  readonly pipelined?: boolean;
}

export interface Backend {
  readonly traits: Traits;

  /**
   * The value, or `undefined` when the key is absent. Reads show only what is durable to `traits.durability`,
   * also after a commit that failed: what a commit has not made durable yet is not there.
   */
  get(key: Key): Promise<Uint8Array | undefined>;

  /** Pages of entries in key order. Ending the iteration early releases what it holds. */
  scan(range: Range, options?: ScanOptions): AsyncIterable<readonly Entry[]>;

  /**
   * Applies the batch: all of it or nothing; durable to `traits.durability` when it resolves.
   *
   * Rejects with `COMMIT_CONFLICT` (an expectation failed; `details.key` is that key; nothing was written),
   * `UNAVAILABLE` (surely nothing was written), or `OUTCOME_UNKNOWN` (perhaps it was written). Any other
   * rejection counts as `OUTCOME_UNKNOWN`.
   */
  commit(batch: Batch): Promise<void>;

  /**
   * Rewrites what it keeps until none of its files holds a key or value that was deleted or overwritten
   * before the call. What can be read does not change, and reads, scans and commits beside it go on (they may
   * have to wait). Costs up to the whole store, read and written. A backend without files has nothing to do.
   *
   * Rejects with `UNAVAILABLE` when that failed: deleted bytes may be left, and nothing else has changed.
   */
  reclaim(): Promise<void>;

  /** Shared backends: a hint that something changed. May be lost, merged or repeated. */
  watch?(listener: () => void): () => void;

  /** Releases everything, the lock included, even when it rejects. */
  close(): Promise<void>;
}

/** `levelBackend("./data")` is one. Opening again after `close` continues with what was durable. */
export interface BackendFactory {
  readonly name: string;
  /** Rejects with `LOCKED` when another process, or another storage of this one, has it open. */
  open(env: Env): Promise<Backend>;
}
