/**
 * A backend in memory whose disk, crashes and failures a test controls: for storages and layers that must
 * survive what real backends do to them.
 *
 * It does not simulate files: batches are atomic here, as the contract says. Backends that write files need a
 * simulated file system of their own.
 *
 * | operation kind | the point just before                                                      |
 * | -------------- | -------------------------------------------------------------------------- |
 * | `open`         | the store is opened and, when exclusive, locked                            |
 * | `get`, `scan`  | the value, or one page, is read                                            |
 * | `commit`       | the batch is checked and written: a crash here leaves nothing of it        |
 * | `sync`         | the written batch becomes durable: a crash here keeps it or loses it       |
 * | `reply`        | the caller is told: a crash here keeps the effect and loses the reply      |
 * | `reclaim`      | what was deleted or overwritten leaves the disk                            |
 * | `close`        | the lock is released                                                       |
 *
 * Invariants:
 * - each operation has an index, from 0, in the order in which operations happen; the same calls with the
 *   same seed have the same indexes, crashes and survivors;
 * - with `sync: "each"` readers see only what is durable, and at most one batch is written but not durable;
 * - a dead process hears nothing: calls in flight at a crash never settle, later calls reject with `CLOSED`.
 */

import type { Env } from "../base/env.js";
import { LIMITS } from "../base/limits.js";
import type { Backend, BackendFactory, Durability, Entry, Key } from "../contract/backend.js";
import type { CrashOptions, Fault, Operation, OperationKind } from "./simulated-operations.js";
import { SimulatedStore, type Sync } from "./simulated-store.js";

export interface SimulatedBackendOptions {
  /** For all that is left to chance. Default 1. */
  readonly seed?: number;
  /**
   * When a commit becomes durable. `"each"` (default): before it resolves. `"never"`: only by `sync()`.
   * `{ every: n }`: with each n-th commit, all so far. Except for `"each"`, commits resolve when visible.
   */
  readonly sync?: Sync;
  /** The trait. Default: `power` for `sync: "each"`, else `process`. Another simulates a disk that lies. */
  readonly durability?: Durability;
  /**
   * The trait. `true` (default): a second `open` rejects with `LOCKED`. `false`: handles share the state, and
   * have `watch`.
   */
  readonly exclusive?: boolean;
  /** The trait. The guard acts on it, the simulated backend itself goes on. Default: as `exclusive`. */
  readonly poisonsItself?: boolean;
  /** The traits, in bytes. Default: twice and eight times what storage puts into one batch. */
  readonly valueBytesMax?: number;
  readonly commitBytesMax?: number;
  /** Told of each operation just before its effect. May call `crash`, `kill`, `failAt` and the others. */
  readonly onOperation?: (operation: Operation) => void;
  /** Asked for each operation that no `failAt` or `failNext` fails. */
  readonly faults?: (operation: Operation) => Fault | undefined;
  /**
   * Decides when each operation happens, by its label ("commit of handle 0"). Default: at once, as a promise
   * reaction. For fast-check: `(label) => scheduler.schedule(Promise.resolve(), label)`.
   */
  readonly schedule?: (label: string) => Promise<unknown>;
}

/** A store with seeded chance; see `SimulatedBackend` for what it can be made to do. */
export function simulatedBackend(options: SimulatedBackendOptions = {}): SimulatedBackend {
  return new SimulatedBackend(options);
}

/** A `BackendFactory` with controls. The state outlives handles, crashes and reopening. */
export class SimulatedBackend implements BackendFactory {
  readonly name = "simulated";
  readonly #store: SimulatedStore;

  constructor(options: SimulatedBackendOptions = {}) {
    const { sync = "each", exclusive = true } = options;
    if (typeof sync === "object" && !(Number.isSafeInteger(sync.every) && sync.every > 0)) {
      throw new RangeError(`sync.every must be an integer from 1, not ${sync.every}`);
    }
    this.#store = new SimulatedStore(options, {
      durability: options.durability ?? (sync === "each" ? "power" : "process"),
      exclusive,
      poisonsItself: options.poisonsItself ?? exclusive,
      valueBytesMax: options.valueBytesMax ?? LIMITS.batchBytesMax * 2,
      commitBytesMax: options.commitBytesMax ?? LIMITS.batchBytesMax * 8,
    });
  }

  /** Operations so far: the index of the next one. Run once to learn the count, then crash at each index. */
  get operationCount(): number {
    return this.#store.operationCount;
  }

  /** Batches that were written, those included that a fault or a crash took back later. */
  get commitCount(): number {
    return this.#store.commitCount;
  }

  /** Bytes of values that were written with them; keys and deletions count nothing. */
  get bytesCommitted(): number {
    return this.#store.bytesCommitted;
  }

  /** Batches that a crash may take. */
  get unsyncedCount(): number {
    return this.#store.disk.unsyncedCount;
  }

  get crashCount(): number {
    return this.#store.crashCount;
  }

  /** One process opens the store. Rejects with `LOCKED` while another has it open, when it is exclusive. */
  open(env: Env): Promise<Backend> {
    return this.#store.open(env);
  }

  /**
   * The power goes, or, with `keep: "all"`, just every process. Of the unsynced batches `keep` keeps none,
   * all, the first few (`prefix`), or any (`subset`: the disk wrote them in another order); with
   * `sync: "each"` there is at most one, in flight. What is left is durable, locks are free, and `open`
   * serves it. Calls in flight never settle; later calls of old handles reject with `CLOSED`, but `close`
   * resolves. Returns how many unsynced batches were kept and lost.
   */
  crash(how: CrashOptions = {}): { readonly kept: number; readonly lost: number } {
    return this.#store.crash(how);
  }

  /**
   * One process dies and the others, and the store, live on. What it has written is completed, like by a
   * server that outlives its client. A `RangeError` when there is no such handle open.
   */
  kill(handleNumber: number): void {
    this.#store.kill(handleNumber);
  }

  /**
   * Runs `work` until it ends, or until the next `crash` or `kill`, when its calls no longer settle. Resolves
   * with `true` when that came first; else with `false`, or rejects as `work` does.
   */
  async untilCrash(work: () => Promise<unknown>): Promise<boolean> {
    let died = false;
    const death = new Promise<void>((resolve) => {
      this.#store.onDeath(() => {
        died = true;
        resolve();
      });
    });
    try {
      await Promise.race([death, work()]);
    } catch (error) {
      if (!died) throw error;
    }
    return died;
  }

  /** Crashes at exactly this operation, instead of its effect. */
  crashAt(index: number, how: CrashOptions = {}): void {
    this.#store.plans.add({ index, act: how, sticky: false });
  }

  /** Crashes at the next operation of this kind, instead of its effect. */
  crashNext(kind: OperationKind, how: CrashOptions = {}): void {
    this.#store.plans.add({ kind, act: how, sticky: false });
  }

  /** Makes this operation fail; with `sticky` also all later ones of its kind, until `heal`. */
  failAt(index: number, fault: Fault, { sticky = false }: { readonly sticky?: boolean } = {}): void {
    this.#store.plans.add({ index, act: fault, sticky });
  }

  /** Makes the next operation of this kind fail; with `sticky` all of them, until `heal`. */
  failNext(kind: OperationKind, fault: Fault, { sticky = false }: { readonly sticky?: boolean } = {}): void {
    this.#store.plans.add({ kind, act: fault, sticky });
  }

  /** Forgets every crash and fault that is still planned. Does not touch the `faults` option. */
  heal(): void {
    this.#store.plans.clear();
  }

  /** Makes all that is written durable, as an operating system does from time to time. */
  sync(): void {
    this.#store.disk.sync();
  }

  /** Copies of all entries in key order: what readers see, or what is surely left after a crash. */
  dump(state: "visible" | "durable" = "visible"): Entry[] {
    return (state === "durable" ? this.#store.disk.durable : this.#store.visible).dump();
  }

  /** The keys of `dump`. */
  keys(state: "visible" | "durable" = "visible"): Key[] {
    return this.dump(state).map(({ key }) => key);
  }

  /** Copies of what was deleted or overwritten since the last `reclaim`, in the order in which it went. */
  residue(): Entry[] {
    return this.#store.disk.residue.map(({ key, value }) => ({ key, value: value.slice() }));
  }

  /**
   * Puts back a `dump`, in place of all there is. Like all damage below it works behind the back of open
   * handles, and throws an `Error` while batches are unsynced, which would undo it.
   */
  restore(entries: readonly Entry[]): void {
    this.#store.disk.restore(entries);
  }

  /** Flips the bits of `mask` in one byte. A `RangeError` when key, byte or bits do not exist. */
  flip(key: Key, byteIndex: number, mask = 1): void {
    const value = this.#durableValue(key);
    const byte = value[byteIndex];
    if (byte === undefined) throw new RangeError(`the value has no byte ${byteIndex}`);
    if ((mask & 0xff) === 0) throw new RangeError("the mask flips nothing");
    value[byteIndex] = byte ^ mask;
    this.#store.disk.damage(key, value);
  }

  /** Cuts a value to its first `length` bytes. A `RangeError` when there is no key or nothing to cut. */
  truncate(key: Key, length: number): void {
    const value = this.#durableValue(key);
    if (!(length >= 0 && length < value.length)) throw new RangeError(`nothing to cut at ${length}`);
    this.#store.disk.damage(key, value.slice(0, length));
  }

  /** Exchanges two values: reads of the wrong block. A `RangeError` when either key is absent. */
  swapValues(a: Key, b: Key): void {
    const [first, second] = [this.#durableValue(a), this.#durableValue(b)];
    this.#store.disk.damage(a, second);
    this.#store.disk.damage(b, first);
  }

  /** Puts a value that no commit wrote. */
  putRaw(key: Key, value: Uint8Array): void {
    this.#store.disk.damage(key, value.slice());
  }

  /** Loses a key. A `RangeError` when it is absent. */
  deleteRaw(key: Key): void {
    this.#durableValue(key);
    this.#store.disk.damage(key, undefined);
  }

  #durableValue(key: Key): Uint8Array {
    this.#store.disk.assertSynced();
    const value = this.#store.disk.durable.get(key);
    if (value === undefined) throw new RangeError(`there is no key ${key.join("/")}`);
    return value.slice();
  }
}
