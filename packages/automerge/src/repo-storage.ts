/**
 * AutomergeRepoStorage: storage for automerge-repo over any backend of Coppice, as its own adapters are: a
 * store of values under keys that are lists. It knows nothing of documents and trusts no checksum but its
 * own; for one log per document, with snapshots and `check`, see `repo-documents.ts`.
 *
 * Invariants:
 * - what resolved is durable as the backend says (loss of power, for LevelDB);
 * - a call sees the writes that were called before it about the same first element of a key, awaited or not;
 *   a removal takes nothing that was saved after it was called;
 * - a value is replaced as a whole or not at all, and so are all values of a `saveBatch`;
 * - prefixes match by element; values come in the order in which they were saved last;
 * - after a failed write the backend is opened anew before the next call, because nobody knows what its
 *   files hold; saving again is harmless.
 */

import {
  type BackendFactory,
  CoppiceError,
  checkOptions,
  type Deletion,
  type Entry,
  type Env,
  Guard,
  isCoppiceError,
  LIMITS,
  type OptionKinds,
  Reader,
  systemEnv,
  Writer,
} from "coppice";
import { decodeRepoKey, encodeRepoKey, encodeWholeKey, type RepoChunk, type RepoKey } from "./repo-keys.js";
import { damaged, decodeValue, encodeValue, SPACE, type Stamp, type StoredValue } from "./repo-record.js";

const OPENINGS = ["openings", "repo"] as const;
/** Reads of a value whose parts are being replaced meanwhile, before it counts as damaged. */
const READS_MAX = 16;

export interface AutomergeRepoStorageOptions {
  readonly env?: Env;
}

const OPTIONS: OptionKinds<AutomergeRepoStorageOptions> = { env: "any" };

/** A `StorageAdapterInterface` of automerge-repo. */
export class AutomergeRepoStorage {
  readonly #factory: BackendFactory;
  readonly #env: Env;
  #guard: Guard;
  #opening: number;
  #order = 0;
  readonly #writing = new Writes();
  /** Those that later ones wait for: removals of ranges, and what waits for one itself. */
  readonly #barriers = new Writes();
  /** Calls that have not ended; `close` waits for them. */
  readonly #running = new Set<Promise<unknown>>();
  #reopening: Promise<Guard> | undefined;
  #closing: Promise<void> | undefined;

  /**
   * Opens the backend. Rejects with `LOCKED` when another process has it open, and with what else opening
   * rejects with. Writes one small record.
   */
  static async open(
    backend: BackendFactory,
    options: AutomergeRepoStorageOptions = {},
  ): Promise<AutomergeRepoStorage> {
    checkOptions("AutomergeRepoStorage.open", options, OPTIONS);
    // A storage can be opened as well, but that opens a document.
    if (typeof backend?.open !== "function" || "append" in backend) {
      throw new TypeError("AutomergeRepoStorage.open wants a backend, like levelBackend(path)");
    }
    const { env = systemEnv() } = options;
    const { guard, opening } = await openGuard(backend, env);
    return new AutomergeRepoStorage(backend, env, guard, opening);
  }

  private constructor(factory: BackendFactory, env: Env, guard: Guard, opening: number) {
    // Without types anybody may call it.
    if (guard === undefined) throw new TypeError("open one with await AutomergeRepoStorage.open(backend)");
    this.#factory = factory;
    this.#env = env;
    this.#guard = guard;
    this.#opening = opening;
  }

  /** The value, a plain `Uint8Array`; `undefined` for a key without one. Rejects with `CORRUPT`. */
  async load(key: RepoKey): Promise<Uint8Array | undefined> {
    const id = encodeWholeKey(key);
    return this.#run(async () => {
      await this.#written(key[0]);
      return (await this.#reading((guard) => this.#read(guard, id)))?.data;
    });
  }

  /**
   * Stores the value, in place of an earlier one. Durable when it resolves. Rejects with `ID_INVALID` (a
   * key of more than 512 bytes, written with a separator after each element), `BATCH_TOO_LARGE` or
   * `UNAVAILABLE`: nothing was written; with `OUTCOME_UNKNOWN` it may have been: save again.
   */
  save(key: RepoKey, data: Uint8Array): Promise<void> {
    return this.saveBatch([[key, data]]);
  }

  /** `save` for several values: all of them or none. Of two with one key the later one counts. */
  async saveBatch(entries: readonly (readonly [RepoKey, Uint8Array])[]): Promise<void> {
    const firsts = entries.map(([key]) => key[0]!);
    const values = new Map<string, { data: Uint8Array; order: number }>();
    for (const [key, data] of entries) {
      if (!(data instanceof Uint8Array)) throw new TypeError("a value must be a Uint8Array");
      values.set(encodeWholeKey(key), { data: data.slice(), order: this.#order++ });
    }
    await this.#write(firsts, async () => {
      const guard = await this.#usable();
      const put: Entry[] = [];
      for (const [id, { data, order }] of values) {
        put.push(...encodeValue(id, { opening: this.#opening, order }, data));
      }
      await guard.commit({ put, delete: deletions([...values.keys()]) });
    });
  }

  /** Removes the value. Durable when it resolves, also when there was none. */
  async remove(key: RepoKey): Promise<void> {
    const id = encodeWholeKey(key);
    await this.#write([key[0]!], async () => (await this.#usable()).commit({ delete: deletions([id]) }));
  }

  /** All values whose keys begin with these elements, in the order in which they were saved last. */
  async loadRange(keyPrefix: RepoKey): Promise<RepoChunk[]> {
    const idPrefix = encodeRepoKey(keyPrefix);
    return this.#run(async () => {
      await this.#written(keyPrefix[0]);
      const found = await this.#reading((guard) => this.#readRange(guard, idPrefix));
      found.sort((a, b) => compareStamps(a.value, b.value));
      return found.map(({ id, value }) => ({ key: decodeRepoKey(id), data: value.data }));
    });
  }

  /** Removes all values whose keys begin with these elements, in slices: a crash may leave some. */
  async removeRange(keyPrefix: RepoKey): Promise<void> {
    const idPrefix = encodeRepoKey(keyPrefix);
    const firsts = [keyPrefix[0]];
    const earlier = this.#writing.about(firsts);
    const task = async (): Promise<void> => {
      await Promise.allSettled(earlier);
      const guard = await this.#usable();
      const ids = new Set<string>();
      for await (const page of guard.scan({ space: SPACE, idPrefix }, { values: false })) {
        for (const { key } of page) ids.add(key[1]);
      }
      const all = [...ids];
      for (let from = 0; from < all.length; from += LIMITS.sweepKeysMax) {
        await guard.commit({ delete: deletions(all.slice(from, from + LIMITS.sweepKeysMax)) });
      }
    };
    await this.#write(firsts, task, true);
  }

  /** Waits for what is in flight and releases the backend; later calls reject with `CLOSED`. */
  close(): Promise<void> {
    this.#closing ??= (async () => {
      await Promise.allSettled(this.#running);
      await this.#reopening?.catch(() => undefined);
      await this.#guard.close();
    })();
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Until the writes that were called so far about this first element, or about any, have ended. */
  async #written(first: string | undefined): Promise<void> {
    await Promise.allSettled(this.#writing.about([first]));
  }

  async #write(firsts: Firsts, task: () => Promise<void>, removesRange = false): Promise<void> {
    const before = this.#barriers.about(firsts);
    const waits = before.length > 0;
    const write = this.#run(waits ? () => Promise.allSettled(before).then(task) : task);
    const kinds = waits || removesRange ? [this.#writing, this.#barriers] : [this.#writing];
    for (const kind of kinds) kind.add(firsts, write);
    try {
      await write;
    } finally {
      for (const kind of kinds) kind.remove(firsts, write);
    }
  }

  async #run<T>(task: () => Promise<T>): Promise<T> {
    if (this.#closing !== undefined)
      throw new CoppiceError("CLOSED", "the storage of automerge-repo is closed");
    const result = task();
    this.#running.add(result);
    try {
      return await result;
    } finally {
      this.#running.delete(result);
    }
  }

  async #usable(): Promise<Guard> {
    if (this.#guard.poison === undefined) return this.#guard;
    this.#reopening ??= this.#reopen().finally(() => {
      this.#reopening = undefined;
    });
    return this.#reopening;
  }

  async #reopen(): Promise<Guard> {
    // Whatever closing a failed backend reports, the reopened one decides what is true.
    await this.#guard.retire().catch(() => undefined);
    const { guard, opening } = await openGuard(this.#factory, this.#env);
    this.#guard = guard;
    this.#opening = opening;
    return guard;
  }

  /** Reads again where the backend was closed under it, to be opened anew after somebody's failed write. */
  async #reading<T>(read: (guard: Guard) => Promise<T>): Promise<T> {
    for (;;) {
      const guard = await this.#usable();
      try {
        return await read(guard);
      } catch (error) {
        if (guard.poison === undefined || !isCoppiceError(error, "POISONED")) throw error;
      }
    }
  }

  async #readRange(guard: Guard, idPrefix: string): Promise<{ id: string; value: StoredValue }[]> {
    const found: { id: string; value: StoredValue }[] = [];
    for await (const [id, entries] of byId(guard, idPrefix)) {
      const value = decodeValue(entries) ?? (await this.#read(guard, id));
      if (value !== undefined) found.push({ id, value });
    }
    return found;
  }

  /** Reads again while the parts are of two saves: somebody is saving. */
  async #read(guard: Guard, id: string): Promise<StoredValue | undefined> {
    for (let reads = 0; reads < READS_MAX; reads++) {
      const entries: Entry[] = [];
      for await (const page of guard.scan({ space: SPACE, id })) entries.push(...page);
      if (entries.length === 0) return undefined;
      const value = decodeValue(entries);
      if (value !== undefined) return value;
    }
    throw damaged([SPACE, id], "a stored value of automerge-repo lacks parts");
  }
}

/** First elements of keys; `undefined`: any. */
type Firsts = readonly (string | undefined)[];

/** Writes on their way, by the first elements of their keys. */
class Writes {
  readonly #byFirst = new Map<string | undefined, Set<Promise<void>>>();

  add(firsts: Firsts, write: Promise<void>): void {
    for (const first of firsts) {
      const writes = this.#byFirst.get(first) ?? new Set();
      this.#byFirst.set(first, writes.add(write));
    }
  }

  remove(firsts: Firsts, write: Promise<void>): void {
    for (const first of firsts) {
      const writes = this.#byFirst.get(first);
      writes?.delete(write);
      if (writes?.size === 0) this.#byFirst.delete(first);
    }
  }

  about(firsts: Firsts): Promise<void>[] {
    if (this.#byFirst.size === 0) return [];
    const met = firsts.includes(undefined) ? [...this.#byFirst.keys()] : [...firsts, undefined];
    return met.flatMap((first) => [...(this.#byFirst.get(first) ?? [])]);
  }
}

/** The entries of each id, across pages. */
async function* byId(guard: Guard, idPrefix: string): AsyncGenerator<[id: string, entries: Entry[]]> {
  let id: string | undefined;
  let entries: Entry[] = [];
  for await (const page of guard.scan({ space: SPACE, idPrefix })) {
    for (const entry of page) {
      if (entry.key[1] !== id) {
        if (id !== undefined) yield [id, entries];
        [id, entries] = [entry.key[1], []];
      }
      entries.push(entry);
    }
  }
  if (id !== undefined) yield [id, entries];
}

function deletions(ids: readonly string[]): Deletion[] {
  return ids.map((id) => ({ space: SPACE, id }));
}

function compareStamps(a: Stamp, b: Stamp): number {
  return a.opening - b.opening || a.order - b.order;
}

/** Counts the openings of the store, so that what is saved after a restart comes after what was before. */
async function openGuard(factory: BackendFactory, env: Env): Promise<{ guard: Guard; opening: number }> {
  const guard = new Guard(await factory.open(env), env, LIMITS);
  try {
    const stored = await guard.get(OPENINGS);
    const opening = (stored === undefined ? 0 : new Reader(stored).varint()) + 1;
    await guard.commit({ put: [{ key: OPENINGS, value: new Writer(8).varint(opening).finish() }] });
    return { guard, opening };
  } catch (error) {
    await guard.close().catch(() => undefined);
    throw error;
  }
}
