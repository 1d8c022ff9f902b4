/**
 * The LevelDB backend: keys and values as they are in a classic-level database, or in any other
 * abstract-level instance.
 *
 * In a directory each commit also has its number (`ledger.ts`). It does not group commits, check arguments
 * or poison itself; `Guard` in core does that for every backend. It trusts no checksum of LevelDB's;
 * storage checks its own.
 *
 * Invariants:
 * - one commit runs at a time, so that what `expect` reads is what the batch meets;
 * - a commit is exactly one LevelDB batch, written with one sync (`power`); the directory is synced after it
 *   when the batch went into a log whose name was not durable yet;
 * - a sync that failed is never repeated;
 * - bytes handed out belong to the caller, bytes taken in are copied before `commit` resolves.
 */

import type { AbstractIterator, AbstractLevel } from "abstract-level";
import {
  type Backend,
  type BackendFactory,
  type Batch,
  CoppiceError,
  checkOptions,
  commitConflict,
  compareBytes,
  decodeKey,
  type Entry,
  encodeKey,
  encodeRange,
  equalBytes,
  isCoppiceError,
  isRangeDeletion,
  type Key,
  type OptionKinds,
  type Range,
  type ScanOptions,
  type Traits,
} from "coppice";
import { type Database, type Opened, openDirectory, openInstance } from "./database.js";
import { readFailure } from "./failures.js";
import { Gate } from "./gate.js";
import type { WrittenOperation } from "./ledger.js";
import { rewriteTables } from "./reclaim.js";

const BYTES = { keyEncoding: "view", valueEncoding: "view" } as const;
/** Entries asked for at once: more save no time, and fewer keep the event loop free. */
const PAGE_ENTRIES_MAX = 1000;
/** Entries of the first page where the engine does not bound a page by its bytes. */
const PAGE_ENTRIES_FIRST = 16;
const PAGE_BYTES = 1024 * 1024;
const WRITE_BUFFER_BYTES = 16 * 1024 * 1024;
const OPTIONS: OptionKinds<LevelOptions> = {
  durability: "text",
  createIfMissing: "flag",
  verifyTables: "flag",
  anchor: "text",
  cacheBytes: "number",
  writeBufferBytes: "number",
  tableBytesMax: "number",
  compression: "flag",
};
/** Expectations read without leaving the thread (1–2 µs each): more would hold up everything else. */
const SYNC_READS_MAX = 256;
const VALUE_BYTES_MAX = 64 * 1024 * 1024;
const COMMIT_BYTES_MAX = 256 * 1024 * 1024;

/** A database of abstract-level 3: classic-level, memory-level, browser-level, a sublevel of one … */
export type AnyLevel = Pick<
  AbstractLevel<unknown, unknown, unknown>,
  "status" | "supports" | "open" | "close"
>;

export interface InstanceOptions {
  /**
   * What an acknowledged commit survives. `"power"` (default): loss of power; each commit syncs LevelDB's
   * log, and the directory when that log is a new one. `"process"`: the death of the process; nothing is
   * synced, a power loss may take the newest commits and leave holes.
   */
  readonly durability?: "power" | "process";
}

export interface LevelOptions extends InstanceOptions {
  /** `false`: opening rejects with `UNAVAILABLE` when the directory holds no store. Default `true`. */
  readonly createIfMissing?: boolean;
  /**
   * Read all tables when opening, and reject with `CORRUPT` when a checksum fails (LevelDB itself does not
   * look). About 2 s a GiB. `false`: only the logs are read, and what is readable beside damage is served.
   * Only with durability `"power"`. Default `true`.
   */
  readonly verifyTables?: boolean;
  /**
   * Path of a file, better on another disk, that is told the number of each commit: with it the loss of
   * even the last commit, or of the whole store, is `CORRUPT` at the next open. Made when it is missing.
   * One more sync a commit. Default: none.
   */
  readonly anchor?: string;
  /** Bytes of uncompressed blocks kept in memory. Default 8 MiB. */
  readonly cacheBytes?: number;
  /**
   * Bytes gathered in memory, and in the log, before a table file is written; up to twice. An opening after a
   * crash reads the log. Default 16 MiB: with LevelDB's own 4 MiB a writer loses 6 % to more, smaller tables.
   */
  readonly writeBufferBytes?: number;
  /** Bytes at which a table file ends. Default 2 MiB; more when single values are larger. */
  readonly tableBytesMax?: number;
  /** Compress table files with Snappy. Default `true`. */
  readonly compression?: boolean;
}

/**
 * A backend on LevelDB. With a location: a directory of its own, created when missing. `open` rejects with
 * `LOCKED` when this or another process has the directory open, with `CORRUPT` when LevelDB refuses it, its
 * CURRENT is lost or damaged or, with durability `"power"`, other files are or commits are missing (LevelDB
 * itself would not tell), with `UNAVAILABLE` when the file system refuses, or when the directory holds a
 * database of others (one of y-leveldb, say) and nothing of ours. One process owns the directory until
 * `close`.
 *
 * With an instance: any abstract-level database or sublevel, whatever its encodings (bytes are asked for
 * with each call). `traits.durability` says what it can hold: classic-level `"power"` unless asked
 * otherwise, another persistent one `"process"`, memory-level `"none"`; asking for anything else rejects
 * with `TRAIT_MISSING`. The caller answers for it that nobody else writes to the spaces it holds. An
 * instance that is open (or opening) when first opened here stays open at `close`, except after a failed
 * write: then it is closed, and opened again by the next `open`. One that was closed is opened and closed
 * here. The log of an instance is not checked for damage.
 *
 * On Windows directories cannot be synced; NTFS journals file names itself. On macOS LevelDB's own sync
 * stops at the drive's cache, and the sync of the directory after it flushes that cache.
 */
export function levelBackend(location: string, options?: LevelOptions): BackendFactory;
export function levelBackend(database: AnyLevel, options?: InstanceOptions): BackendFactory;
export function levelBackend(target: string | AnyLevel, options: LevelOptions = {}): BackendFactory {
  const { durability, createIfMissing = true, verifyTables = true, anchor, ...tuning } = options;
  checkOptions("levelBackend", options, OPTIONS);
  if (durability !== undefined && durability !== "power" && durability !== "process") {
    throw new TypeError('durability must be "power" or "process"');
  }
  if (typeof target === "string") {
    if (target === "") throw new TypeError("the location must not be empty");
    if (/^(?:level|file):/.test(target))
      throw new TypeError("the location is a path, as in ./data; level:… is how the command names a store");
    if (anchor !== undefined && (typeof anchor !== "string" || anchor === "")) {
      throw new TypeError("anchor must be the path of a file");
    }
    if (anchor !== undefined && durability === "process") {
      throw new TypeError(
        'an anchor is durable before commits of durability "process" are, and would refute them',
      );
    }
    const directory = {
      durability: durability ?? "power",
      createIfMissing,
      verifyTables,
      anchor,
      tuning: classicOptions(tuning),
    };
    return {
      name: "level",
      open: async () => makeBackend(await openDirectory(target, directory)),
    } satisfies BackendFactory;
  }
  if (typeof target !== "object" || target === null || typeof target.supports !== "object") {
    throw new TypeError("levelBackend needs a location or an abstract-level database");
  }
  const database = target as unknown as Database;
  const lent = new WeakSet<Database>();
  return {
    name: "level",
    open: async () => makeBackend(await openInstance(database, durability, lent)),
  } satisfies BackendFactory;
}

function classicOptions(
  tuning: Pick<LevelOptions, "cacheBytes" | "writeBufferBytes" | "tableBytesMax" | "compression">,
): Record<string, unknown> {
  const given = {
    cacheSize: tuning.cacheBytes,
    writeBufferSize: tuning.writeBufferBytes ?? WRITE_BUFFER_BYTES,
    maxFileSize: tuning.tableBytesMax,
    compression: tuning.compression,
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
}

function makeBackend(opened: Opened): Backend {
  const { db, durability, native } = opened;
  const traits: Traits = {
    durability,
    exclusive: true,
    poisonsItself: durability !== "none",
    valueBytesMax: VALUE_BYTES_MAX,
    commitBytesMax: COMMIT_BYTES_MAX,
  };
  let failed = false;
  /** Marks of `rewriteTables` go into the log as well: that it grew says nothing then. */
  let rewriting = false;
  let last: Promise<unknown> = Promise.resolve();
  const gate = new Gate();
  /** Runs after the commits before it and before those after it. */
  const inTurn = <T>(task: () => Promise<T>): Promise<T> => {
    const result = last.then(task);
    last = result.catch(() => undefined);
    return result;
  };

  const commitNow = async (batch: Batch): Promise<void> => {
    const operations = await beforeWrite(async () => {
      await checkExpectations(db, batch.expect ?? []);
      return plan(db, batch, native);
    });
    if (operations.length === 0) return;
    if (opened.ledger !== undefined) operations.push(opened.ledger.number(operations));
    try {
      await write(db, operations, durability === "power");
      await (rewriting ? opened.directory?.sync() : opened.directory?.syncAfterCommit());
      await opened.ledger?.settle();
    } catch (error) {
      failed = true;
      throw new CoppiceError("OUTCOME_UNKNOWN", "a write or sync failed, and may have been written", {
        cause: error,
      });
    }
  };

  return {
    traits,

    async get(key) {
      try {
        const value = await gate.pass(() => db.get(encodeKey(key), BYTES));
        return value === undefined ? undefined : owned(value, native);
      } catch (error) {
        throw readFailure(error);
      }
    },

    scan: (range, options) => scan(db, gate, range, options ?? {}, native),

    commit: (batch) => inTurn(() => commitNow(batch)),

    async reclaim() {
      try {
        rewriting = true;
        if (opened.root !== undefined) await rewriteTables(db, opened.root, durability === "power");
        const { reopen } = opened;
        if (reopen !== undefined) await inTurn(() => gate.shut(() => reopen.call(opened)));
        rewriting = false;
      } catch (error) {
        failed = true;
        throw new CoppiceError("UNAVAILABLE", "the files could not be rewritten", { cause: error });
      }
    },

    async close() {
      await last;
      await opened.close(failed);
    },
  };
}

/** Runs what surely precedes the write: a failure is a conflict, or `UNAVAILABLE`. */
async function beforeWrite<T>(task: () => Promise<T>): Promise<T> {
  try {
    return await task();
  } catch (error) {
    if (isCoppiceError(error, "COMMIT_CONFLICT")) throw error;
    throw new CoppiceError("UNAVAILABLE", "the commit failed before anything was written", { cause: error });
  }
}

async function checkExpectations(
  db: Database,
  expectations: readonly NonNullable<Batch["expect"]>[number][],
): Promise<void> {
  const keys = expectations.map(({ key }) => encodeKey(key));
  const found =
    db.supports.getSync && keys.length <= SYNC_READS_MAX
      ? keys.map((key) => db.getSync(key, BYTES))
      : await db.getMany(keys, BYTES);
  expectations.forEach(({ key, value }, index) => {
    if (!equalBytes(found[index], value)) throw commitConflict(key);
  });
}

type Operation = WrittenOperation;

/** Deletes first: of two operations on one key the later wins. */
async function plan(db: Database, batch: Batch, native: boolean): Promise<Operation[]> {
  const operations: Operation[] = [];
  for (const deletion of batch.delete ?? []) {
    if (!isRangeDeletion(deletion)) {
      operations.push({ type: "del", key: encodeKey(deletion) });
      continue;
    }
    for await (const keys of keyPages(db, deletion)) {
      for (const key of keys) operations.push({ type: "del", key });
    }
  }
  for (const { key, value } of batch.put ?? []) {
    operations.push({ type: "put", key: encodeKey(key), value: native ? value : new Uint8Array(value) });
  }
  return operations;
}

async function* keyPages(db: Database, range: Range): AsyncGenerator<Uint8Array[]> {
  const { start, end } = encodeRange(range);
  if (compareBytes(start, end) >= 0) return;
  const iterator = db.keys({ ...BYTES, gte: start, lt: end });
  try {
    for (;;) {
      const keys = await iterator.nextv(PAGE_ENTRIES_MAX);
      if (keys.length === 0) return;
      yield keys;
    }
  } finally {
    await iterator.close();
  }
}

function write(db: Database, operations: Operation[], sync: boolean): Promise<void> {
  const options: { readonly sync: boolean } & typeof BYTES = { ...BYTES, sync };
  return db.batch(operations, options);
}

async function* scan(
  db: Database,
  gate: Gate,
  range: Range,
  { reverse = false, limit = Number.POSITIVE_INFINITY, values = true, pageBytesMax, signal }: ScanOptions,
  native: boolean,
): AsyncGenerator<readonly Entry[]> {
  signal?.throwIfAborted();
  const { start, end } = encodeRange(range);
  if (limit <= 0 || compareBytes(start, end) >= 0) return;
  const bytesMax = pageBytesMax ?? PAGE_BYTES;
  const pages = new Pages(db, gate, { start, end, reverse, values, bytesMax, signal });
  let left = limit;
  let count = native ? PAGE_ENTRIES_MAX : PAGE_ENTRIES_FIRST;
  try {
    try {
      while (left > 0) {
        const found = await pages.next(Math.min(count, left));
        signal?.throwIfAborted();
        if (found.length === 0) return;
        left -= found.length;
        const { pages: full, bytes } = cut(found, bytesMax, native);
        yield* full;
        if (!native) count = pageEntries((bytesMax * found.length) / bytes);
        signal?.throwIfAborted();
      }
    } finally {
      await pages.close();
    }
  } catch (error) {
    signal?.throwIfAborted();
    throw isCoppiceError(error) ? error : readFailure(error);
  }
}

interface PageBounds {
  readonly start: Uint8Array;
  readonly end: Uint8Array;
  readonly reverse: boolean;
  readonly values: boolean;
  readonly bytesMax: number;
  readonly signal: AbortSignal | undefined;
}

/** The entries of a range. After the database was opened anew it goes on behind the last entry it gave. */
class Pages {
  readonly #db: Database;
  readonly #gate: Gate;
  readonly #bounds: PageBounds;
  #iterator: AbstractIterator<unknown, Uint8Array, Uint8Array> | undefined;
  #generation = -1;
  #last: Uint8Array | undefined;

  constructor(db: Database, gate: Gate, bounds: PageBounds) {
    this.#db = db;
    this.#gate = gate;
    this.#bounds = bounds;
  }

  next(count: number): Promise<[Uint8Array, Uint8Array | undefined][]> {
    return this.#gate.pass(async () => {
      if (this.#iterator === undefined || this.#generation !== this.#gate.generation) this.#begin();
      const found = await this.#iterator!.nextv(count);
      this.#last = found.at(-1)?.[0] ?? this.#last;
      return found;
    });
  }

  async close(): Promise<void> {
    await this.#iterator?.close();
  }

  #begin(): void {
    const { start, end, reverse, values, bytesMax, signal } = this.#bounds;
    const low = this.#last === undefined || reverse ? { gte: start } : { gt: this.#last };
    const high = this.#last !== undefined && reverse ? { lt: this.#last } : { lt: end };
    const options = { ...BYTES, ...low, ...high, reverse, values, highWaterMarkBytes: bytesMax };
    this.#iterator = this.#db.iterator(signal === undefined ? options : { ...options, signal });
    this.#generation = this.#gate.generation;
  }
}

function pageEntries(wanted: number): number {
  return Math.max(1, Math.min(PAGE_ENTRIES_MAX, Math.floor(wanted)));
}

/** A page ends with the entry that fills it; LevelDB itself has ended it there. */
function cut(
  found: readonly [Uint8Array, Uint8Array | undefined][],
  bytesMax: number,
  native: boolean,
): { pages: Entry[][]; bytes: number } {
  const pages: Entry[][] = [];
  let page: Entry[] = [];
  let bytes = 0;
  let pageBytes = 0;
  for (const [key, value] of found) {
    if (page.length === 0) pages.push(page);
    page.push({
      key: readKey(key),
      value: value === undefined ? new Uint8Array(0) : owned(value, native),
    });
    const size = key.length + (value?.length ?? 0);
    bytes += size;
    pageBytes += size;
    if (!native && pageBytes >= bytesMax) {
      page = [];
      pageBytes = 0;
    }
  }
  return { pages, bytes };
}

function readKey(bytes: Uint8Array): Key {
  try {
    return decodeKey(bytes);
  } catch (error) {
    throw new CoppiceError("CORRUPT", "the database holds a key that no backend writes", { cause: error });
  }
}

/** A plain `Uint8Array` over memory that nobody else has. */
function owned(value: Uint8Array, native: boolean): Uint8Array {
  const alone = native && value.byteLength === value.buffer.byteLength;
  return alone ? new Uint8Array(value.buffer as ArrayBuffer) : new Uint8Array(value);
}
