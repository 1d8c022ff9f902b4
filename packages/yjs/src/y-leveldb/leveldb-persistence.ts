/**
 * `LeveldbPersistence` of y-leveldb, kept by a Coppice storage: code written for y-leveldb changes an import.
 *
 * What differs is meant to: a call that fails rejects instead of resolving with `null`; documents do not wait
 * for each other; `flushDocument` is a compaction, safe at every step; a second process is told `LOCKED`.
 * Databases that y-leveldb wrote are not opened: `importYLeveldb` moves them over.
 *
 * Invariants: calls about one document take effect in the order of the calls; what resolved is durable, to
 * what the storage's durability names.
 */

import { type AnyLevel, type LevelOptions, levelBackend } from "@coppice/level";
import {
  type BackendFactory,
  CoppiceError,
  checkOptions,
  checkStorage,
  DocumentStorage,
  isCoppiceError,
  type OptionKinds,
} from "coppice";
import { encodeAny } from "lib0/buffer";
import * as Y from "yjs";
import { loadInto, MODEL, NOTHING_KNOWN, storedUpdate } from "../dropins/loading.js";
import { yjs } from "../index.js";
import { holdsYLeveldb, type YLeveldbSource } from "./import.js";
import { encodeStateVectorRecord } from "./keys.js";
import { type LevelEntry, type LevelView, levelView, updateKey } from "./level-view.js";
import { assertNotMetaId, changeMetas, deleteMetas, isMetaId, readMetas } from "./metas.js";
import { CallOrder } from "./order.js";

export interface LeveldbPersistenceOptions {
  /** Another class of abstract-level 3, such as memory-level's or browser-level's. */
  readonly Level?: new (
    location: string,
    options: object,
  ) => AnyLevel;
  /** For LevelDB: `cacheSize`, `writeBufferSize`, `maxFileSize`, `compression`, `createIfMissing`. */
  readonly levelOptions?: Readonly<Record<string, unknown>>;
  /**
   * Told of each call that fails. With it, a promise that nobody looks at may reject without ending the
   * process; without it, Node ends the process, because something was not stored.
   */
  readonly onError?: (error: unknown) => void;
  /**
   * `false`: a name that was cleared, or whose document was deleted or erased, takes nothing more: updates,
   * and metas where there were some, are `DELETED`. Default: what is stored begins a new document.
   */
  readonly recreate?: boolean;
}

const OPTIONS: OptionKinds<LeveldbPersistenceOptions> = {
  Level: "any",
  levelOptions: "any",
  onError: "function",
  recreate: "flag",
};

/** Names of classic-level's options that `levelBackend` has under others. */
const TUNING: Readonly<Record<string, keyof LevelOptions>> = {
  cacheSize: "cacheBytes",
  writeBufferSize: "writeBufferBytes",
  maxFileSize: "tableBytesMax",
};
const EMPTY_UPDATE: readonly number[] = [0, 0];

export class LeveldbPersistence {
  readonly #opened: Promise<DocumentStorage>;
  readonly #release: () => Promise<void>;
  readonly #shared: boolean;
  readonly #order: CallOrder;
  readonly #onError: ((error: unknown) => void) | undefined;
  readonly #recreate: boolean;

  /**
   * Opens a LevelDB directory, created when missing; calls made before it is open wait. When it cannot be
   * opened each of them rejects: with `LOCKED` when another process has it, with `UNAVAILABLE` when it is one
   * that y-leveldb wrote. Or takes an open storage, on any backend, that has the model `yjs()`; it stays the
   * caller's to close.
   */
  constructor(location: string | DocumentStorage, options: LeveldbPersistenceOptions = {}) {
    checkOptions("LeveldbPersistence", options, OPTIONS);
    this.#onError = options.onError;
    this.#recreate = options.recreate !== false;
    this.#shared = typeof location !== "string";
    if (typeof location === "string") {
      const { backend, level } = backendOf(location, options);
      this.#opened = openOwn(backend, level);
      this.#release = async () => {
        try {
          await (await this.#opened).close();
        } finally {
          await level?.close();
        }
      };
    } else {
      checkStorage("LeveldbPersistence, unless given a directory,", location, MODEL);
      this.#opened = Promise.resolve(location);
      this.#release = () => location.flush();
    }
    this.#opened.catch((error: unknown) => this.#onError?.(error));
    this.#order = new CallOrder(this.#opened);
  }

  /** The storage below, once it is open: for `compactAll`, `check`, `recover` and all else. */
  get storage(): Promise<DocumentStorage> {
    return this.#opened;
  }

  /**
   * Stores an update. Resolves, with its clock (from 0), when it is durable. Rejects like `storage.append`.
   */
  storeUpdate(docName: string, update: Uint8Array): Promise<number> {
    return this.#called(
      this.#order.together(docName, async () => {
        assertNotMetaId(docName);
        return (await append(await this.#opened, docName, update, this.#recreate)) - 1;
      }),
    );
  }

  /** The document as a new Y.Doc, empty when nothing is stored. Writes nothing. */
  getYDoc(docName: string): Promise<Y.Doc> {
    return this.#read(docName, async (storage) => {
      const doc = new Y.Doc();
      await loadInto(storage, docName, doc);
      return doc;
    });
  }

  /** The state vector of what is stored. Writes nothing and builds no document. */
  getStateVector(docName: string): Promise<Uint8Array> {
    return this.#read(docName, async (storage) => stateVectorOf(await storedUpdate(storage, docName)));
  }

  /** What a peer with this state vector lacks, as an update. Builds no document. */
  getDiff(docName: string, stateVector: Uint8Array): Promise<Uint8Array> {
    return this.#read(docName, async (storage) => {
      return (await storedUpdate(storage, docName, stateVector)) ?? Uint8Array.from(EMPTY_UPDATE);
    });
  }

  /**
   * Compacts: a verified snapshot, then what it covers is trimmed. Rejects with `CORRUPT` when the snapshot
   * does not prove right and with `BUSY` when others keep changing the document; then nothing was trimmed.
   */
  flushDocument(docName: string): Promise<void> {
    return this.#read(docName, async (storage) => {
      const { outcome, reason = "others kept changing the document" } = await storage.compact(docName);
      if (outcome === "refused") throw new CoppiceError("CORRUPT", reason, { details: { id: docName } });
      if (outcome === "lost-race") throw new CoppiceError("BUSY", reason, { details: { id: docName } });
    });
  }

  /**
   * Deletes the document and its metas. What is stored under the name later is a new document, or `DELETED`
   * with `recreate: false`.
   */
  clearDocument(docName: string): Promise<void> {
    return this.#called(this.#order.alone(docName, async () => clear(await this.#opened, docName)));
  }

  /** Keeps a value beside the document: whatever lib0 encodes. Durable when it resolves. */
  setMeta(docName: string, metaKey: string, value: unknown): Promise<void> {
    return this.#changeMetas(docName, (map) => void map.set(metaKey, value));
  }

  delMeta(docName: string, metaKey: string): Promise<void> {
    return this.#changeMetas(docName, (map) => map.delete(metaKey));
  }

  async getMeta(docName: string, metaKey: string): Promise<unknown> {
    return (await this.getMetas(docName)).get(metaKey);
  }

  getMetas(docName: string): Promise<Map<string, unknown>> {
    return this.#read(docName, (storage) => readMetas(storage, docName));
  }

  /** The names of all documents, in the order of their UTF-8 bytes. */
  getAllDocNames(): Promise<string[]> {
    return this.#called(this.#order.afterAll(() => this.#names()));
  }

  /** Name, state vector and clock of each document. Reads all documents, one at a time. */
  getAllDocStateVectors(): Promise<{ name: string; sv: Uint8Array; clock: number }[]> {
    return this.#called(
      this.#order.afterAll(async () => {
        const storage = await this.#opened;
        const found: { name: string; sv: Uint8Array; clock: number }[] = [];
        for (const name of await this.#names()) {
          const info = await storage.info(name);
          if (info === undefined) continue;
          found.push({ name, sv: stateVectorOf(await storedUpdate(storage, name)), clock: info.clock - 1 });
        }
        return found;
      }),
    );
  }

  /** Deletes all documents and metas. Clocks of a name go on where they ended. */
  clearAll(): Promise<void> {
    return this.#called(this.#order.afterAll(() => this.#clearAll()));
  }

  /** Resolves when all calls before it have ended and the store is closed. A storage handed in stays open. */
  destroy(): Promise<void> {
    return this.#called(this.#order.afterAll(this.#release));
  }

  /**
   * Runs a function with a view of the store in y-leveldb's own keys, after all calls before it. For looking:
   * see `LevelView`. Other calls are not held up meanwhile.
   */
  _transact<T>(run: (view: LevelView) => Promise<T>): Promise<T> {
    const view = levelView({
      names: () => this.#names(),
      document: (name) => this.#entries(name),
      clear: () => this.#clearAll(),
    });
    return this.#called(this.#order.afterAll(() => run(view)));
  }

  #read<T>(docName: string, task: (storage: DocumentStorage) => Promise<T>): Promise<T> {
    return this.#called(this.#order.after(docName, async () => task(await this.#opened)));
  }

  #changeMetas(docName: string, change: (map: Y.Map<unknown>) => void): Promise<void> {
    return this.#called(
      this.#order.alone(docName, async () =>
        changeMetas(await this.#opened, docName, this.#recreate, change),
      ),
    );
  }

  async #names(): Promise<string[]> {
    const storage = await this.#opened;
    const names: string[] = [];
    for await (const id of storage.list()) {
      if (isMetaId(id)) continue;
      if (this.#shared && (await storage.info(id))?.model !== MODEL) continue;
      names.push(id);
    }
    return names;
  }

  async #clearAll(): Promise<void> {
    const storage = await this.#opened;
    for await (const id of storage.list()) if (isMetaId(id)) await storage.delete(id);
    for (const name of await this.#names()) await storage.delete(name);
  }

  /** One update for everything up to the newest snapshot, then the events after it. */
  async #entries(name: string): Promise<LevelEntry[]> {
    const storage = await this.#opened;
    const entries: LevelEntry[] = [];
    for (const [key, value] of await readMetas(storage, name)) {
      entries.push({
        key: ["v1", name, "meta", key],
        value: encodeAny(value as Parameters<typeof encodeAny>[0]),
      });
    }
    const info = await storage.info(name);
    if (info === undefined) return entries;
    const { clock, snapshotClock = info.oldestClock } = info;
    const whole = await storedUpdate(storage, name);
    entries.push({ key: ["v1_sv", name], value: encodeStateVectorRecord(clock - 1, stateVectorOf(whole)) });
    if (info.snapshotClock !== undefined && snapshotClock > 0) {
      const handle = await storage.load<Y.Doc>(name, { at: snapshotClock });
      if (handle !== undefined) {
        entries.push({ key: updateKey(name, snapshotClock - 1), value: Y.encodeStateAsUpdate(handle.doc) });
        await handle.close();
      }
    }
    for await (const { clock: at, event } of storage.read(name, { from: snapshotClock })) {
      if (event instanceof Uint8Array) entries.push({ key: updateKey(name, at), value: event });
    }
    return entries;
  }

  /** A rejection that `onError` was told of needs no handler of its own. */
  #called<T>(result: Promise<T>): Promise<T> {
    const { onError } = { onError: this.#onError };
    if (onError !== undefined) result.catch(onError);
    return result;
  }
}

async function append(
  storage: DocumentStorage,
  id: string,
  update: Uint8Array,
  recreate: boolean,
): Promise<number> {
  try {
    return (await storage.append(id, [update], { model: MODEL })).clock;
  } catch (error) {
    if (!recreate || !isCoppiceError(error, "DELETED")) throw error;
    const handle = await storage.open(id, { model: MODEL, recreate: true });
    await handle.close();
    return (await storage.append(id, [update], { model: MODEL })).clock;
  }
}

async function clear(storage: DocumentStorage, name: string): Promise<void> {
  await deleteMetas(storage, name);
  await storage.delete(name);
}

function stateVectorOf(update: Uint8Array | undefined): Uint8Array {
  return update === undefined ? NOTHING_KNOWN.slice() : Y.encodeStateVectorFromUpdate(update);
}

function backendOf(location: string, { Level, levelOptions = {} }: LeveldbPersistenceOptions) {
  if (Level !== undefined) {
    const level = new Level(location, { ...levelOptions, keyEncoding: "view", valueEncoding: "view" });
    return { backend: levelBackend(level), level };
  }
  const options = Object.entries(levelOptions).map(([name, value]) => [TUNING[name] ?? name, value] as const);
  return { backend: levelBackend(location, Object.fromEntries(options)) };
}

async function isEmpty(storage: DocumentStorage): Promise<boolean> {
  for await (const _ of storage.list()) return false;
  return true;
}

/** An instance may hold data of others, but not those of y-leveldb alone: they would seem to be lost. */
async function openOwn(backend: BackendFactory, level: AnyLevel | undefined): Promise<DocumentStorage> {
  let storage: DocumentStorage | undefined;
  try {
    storage = await DocumentStorage.open({ backend, models: [yjs()] });
    if (
      level === undefined ||
      !(await isEmpty(storage)) ||
      !(await holdsYLeveldb(level as unknown as YLeveldbSource))
    )
      return storage;
    throw new CoppiceError(
      "UNAVAILABLE",
      "y-leveldb wrote this database: move it to another one with `coppice import y-leveldb`",
      { details: { foreign: true } },
    );
  } catch (error) {
    await storage?.close().catch(() => undefined);
    await level?.close();
    throw error;
  }
}
