/**
 * The store behind a simulated backend: its handles, and what each call on them does, operation by operation.
 *
 * The controls that a test uses, and the promises about them, are in `simulated-backend.ts`.
 *
 * Invariants:
 * - what an operation does is synchronous and comes right after its crash point, so that no crash of another
 *   call can come between the decision and the effect;
 * - commits are checked and made durable one at a time, as behind a row lock, so nobody conflicts with what
 *   is not durable yet; replies may overtake each other.
 */

import type { Env } from "../base/env.js";
import { CoppiceError } from "../base/errors.js";
import { Lanes } from "../base/lane.js";
import type { Backend, Batch, Entry, Key, Range, ScanOptions, Traits } from "../contract/backend.js";
import { boundsBeyond, boundsOf, copyBatch, SimulatedDisk, type SortedEntries } from "./simulated-disk.js";
import { type SeededRandom, seededRandom } from "./simulated-env.js";
import {
  assertApplies,
  assertReads,
  assertReplies,
  type CrashOptions,
  type Fault,
  type Operation,
  Plans,
} from "./simulated-operations.js";

/** When a commit becomes durable: see `SimulatedBackendOptions.sync`. */
export type Sync = "each" | "never" | { readonly every: number };

/** The options that reach down to operations: see `SimulatedBackendOptions`. */
export interface StoreOptions {
  readonly seed?: number;
  readonly sync?: Sync;
  readonly onOperation?: (operation: Operation) => void;
  readonly faults?: (operation: Operation) => Fault | undefined;
  readonly schedule?: (label: string) => Promise<unknown>;
}

interface Handle {
  readonly number: number;
  readonly env: Env;
  readonly listeners: Set<() => void>;
  open: boolean;
  dead: boolean;
  /** Has written a batch that becomes durable before it is acknowledged. */
  writing: boolean;
}

export class SimulatedStore {
  readonly disk: SimulatedDisk = new SimulatedDisk();
  readonly plans: Plans = new Plans();
  operationCount = 0;
  crashCount = 0;
  commitCount = 0;
  bytesCommitted = 0;
  readonly #options: StoreOptions;
  readonly #sync: Sync;
  readonly #traits: Traits;
  readonly #random: SeededRandom;
  readonly #handles = new Set<Handle>();
  #lanes = new Lanes();
  #deaths: (() => void)[] = [];
  #handleCount = 0;

  constructor(options: StoreOptions, traits: Traits) {
    this.#options = options;
    this.#sync = options.sync ?? "each";
    this.#traits = traits;
    this.#random = seededRandom(options.seed);
  }

  /** What readers see. */
  get visible(): SortedEntries {
    return this.#sync === "each" ? this.disk.durable : this.disk.written;
  }

  open(env: Env): Promise<Backend> {
    const handle: Handle = {
      number: this.#handleCount++,
      env,
      listeners: new Set(),
      open: false,
      dead: false,
      writing: false,
    };
    this.#handles.add(handle);
    const opening = this.#at(handle, { kind: "open" }, (fault) => {
      try {
        assertReads(fault);
        this.#assertUnlocked();
      } catch (error) {
        this.#handles.delete(handle);
        throw error;
      }
      handle.open = true;
      return this.#backend(handle);
    });
    return answer(handle, opening);
  }

  crash({ keep = "none", random = this.#random }: CrashOptions): { kept: number; lost: number } {
    this.crashCount++;
    this.#lanes = new Lanes();
    for (const handle of this.#handles) this.#die(handle);
    const counts = this.disk.crash(keep, random);
    this.#tellDeath();
    return counts;
  }

  kill(handleNumber: number): void {
    const handle = [...this.#handles].find(({ number }) => number === handleNumber);
    if (handle === undefined) throw new RangeError(`handle ${handleNumber} is not open`);
    if (handle.writing) this.disk.sync();
    this.#die(handle);
    this.#tellDeath();
  }

  /** Calls back once, at the next crash or kill. */
  onDeath(callback: () => void): void {
    this.#deaths.push(callback);
  }

  #die(handle: Handle): void {
    handle.open = false;
    handle.dead = true;
    handle.listeners.clear();
    this.#handles.delete(handle);
  }

  #tellDeath(): void {
    for (const callback of this.#deaths.splice(0)) callback();
  }

  #assertUnlocked(): void {
    if (!this.#traits.exclusive || ![...this.#handles].some(({ open }) => open)) return;
    throw new CoppiceError("LOCKED", "the simulated store is open already");
  }

  #backend(handle: Handle): Backend {
    const call = async <T>(work: () => Promise<T>): Promise<T> => {
      if (handle.open) return answer(handle, work());
      throw new CoppiceError(
        "CLOSED",
        handle.dead ? "the simulated process is dead" : "the handle is closed",
      );
    };
    const watch = (listener: () => void) => {
      const own = () => listener();
      handle.listeners.add(own);
      return () => void handle.listeners.delete(own);
    };
    return {
      traits: this.#traits,
      get: (key) => call(() => this.#get(handle, key)),
      scan: (range, options) => this.#scan(call, handle, range, options),
      commit: (batch) => call(() => this.#commit(handle, copyBatch(batch))),
      reclaim: () => call(() => this.#reclaim(handle)),
      ...(this.#traits.exclusive ? {} : { watch }),
      close: () => (handle.open ? call(() => this.#close(handle)) : Promise.resolve()),
    };
  }

  #get(handle: Handle, key: Key): Promise<Uint8Array | undefined> {
    return this.#at(handle, { kind: "get", key }, (fault) => {
      assertReads(fault);
      return this.visible.get(key)?.slice();
    });
  }

  async *#scan(
    call: <T>(work: () => Promise<T>) => Promise<T>,
    handle: Handle,
    range: Range,
    options: ScanOptions = {},
  ): AsyncGenerator<readonly Entry[]> {
    let bounds = boundsOf(range);
    let left = options.limit ?? Infinity;
    while (left > 0) {
      options.signal?.throwIfAborted();
      const { page, more } = await call(() =>
        this.#at(handle, { kind: "scan", range }, (fault) => {
          assertReads(fault);
          return this.visible.page(bounds, { ...options, limit: left });
        }),
      );
      const last = page.at(-1);
      if (last === undefined) return;
      left -= page.length;
      bounds = boundsBeyond(bounds, last.key, options.reverse);
      yield page;
      if (!more) return;
    }
  }

  async #commit(handle: Handle, batch: Batch): Promise<void> {
    const fault = await this.#lanes.run("commit", () => this.#apply(handle, batch));
    await this.#at(handle, { kind: "reply", batch }, (late) => assertReplies(fault ?? late));
  }

  async #apply(handle: Handle, batch: Batch): Promise<Fault | undefined> {
    const sync = this.#sync;
    const fault = await this.#at(handle, { kind: "commit", batch }, (planned) => {
      assertApplies(planned);
      this.disk.write(batch);
      handle.writing = sync === "each";
      this.commitCount++;
      for (const { value } of batch.put ?? []) this.bytesCommitted += value.length;
      if (sync !== "each") this.#notify();
      return planned;
    });
    if (sync === "never" || (sync !== "each" && this.disk.unsyncedCount < sync.every)) return fault;
    const late = await this.#at(handle, { kind: "sync", batch }, (planned) => {
      handle.writing = false;
      try {
        assertApplies(planned);
      } catch (error) {
        this.disk.withdraw(batch);
        throw error;
      }
      this.disk.sync();
      if (sync === "each") this.#notify();
      return planned;
    });
    return fault ?? late;
  }

  #reclaim(handle: Handle): Promise<void> {
    return this.#at(handle, { kind: "reclaim" }, (fault) => {
      assertReads(fault);
      this.disk.reclaim();
    });
  }

  #close(handle: Handle): Promise<void> {
    return this.#at(handle, { kind: "close" }, (fault) => {
      handle.open = false;
      handle.listeners.clear();
      this.#handles.delete(handle);
      assertReads(fault);
    });
  }

  #notify(): void {
    for (const { env, listeners } of this.#handles) {
      for (const listener of listeners) env.turn(() => listeners.has(listener) && listener());
    }
  }

  /** One operation: its turn, its number, what the test planned for it, and then its effect. */
  async #at<T>(
    handle: Handle,
    what: Omit<Operation, "index" | "handle">,
    effect: (fault: Fault | undefined) => T,
  ): Promise<T> {
    assertAlive(handle);
    await this.#options.schedule?.(`${what.kind} of handle ${handle.number}`);
    assertAlive(handle);
    const operation: Operation = Object.assign(what, {
      index: this.operationCount++,
      handle: handle.number,
    });
    this.#options.onOperation?.(operation);
    const act = this.plans.take(operation) ?? this.#options.faults?.(operation);
    if (typeof act === "object") this.crash(act);
    assertAlive(handle);
    return effect(act as Fault | undefined);
  }
}

/** For an operation of a process that is dead: `answer` never passes it on. */
function assertAlive(handle: Handle): void {
  if (handle.dead) throw new Error("the simulated process is dead");
}

/** The outcome of a call, which never settles when its process died meanwhile. */
function answer<T>(handle: Handle, outcome: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    outcome.then(
      (value) => handle.dead || resolve(value),
      (error) => handle.dead || reject(error),
    );
  });
}
