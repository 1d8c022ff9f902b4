/**
 * AutomergeRepoDocuments: automerge-repo over DocumentStorage, one log of changes for each document.
 *
 * | automerge-repo                          | here                                                         |
 * | --------------------------------------- | ------------------------------------------------------------ |
 * | save `[document, "incremental", hash]`  | append its changes                                           |
 * | save `[document, "snapshot", hash]`     | append what the log lacks; compact when it is worth it        |
 * | load what is under `[document, …]`      | one chunk: the stored snapshot and the changes after it      |
 * | remove a chunk                          | nothing: compaction trims what a verified snapshot covers    |
 * | remove all chunks of a document         | delete the document                                          |
 * | any other key                           | the storage that was given for the others                    |
 *
 * Invariants: a save resolves when its changes are in the log; nothing is trimmed because automerge-repo
 * asks to remove something; a crash between its steps leaves a log that has every change that was
 * acknowledged.
 */

import { checkOptions, checkStorage, type DocumentStorage, type OptionKinds } from "coppice";
import { encodeHeads } from "./heads.js";
import type { AutomergeModel } from "./model.js";
import type { RepoChunk, RepoKey } from "./repo-keys.js";
import { changesIn, RepoLog } from "./repo-log.js";

/** The name of the one chunk of a document. */
const LOG = "log";
/** A tail below this weighs less than a compaction. */
const COMPACT_BYTES_MIN = 16 * 1024;

/** What `AutomergeRepoStorage` is, and every other storage adapter of automerge-repo. */
export interface RepoStorage {
  load(key: RepoKey): Promise<Uint8Array | undefined>;
  save(key: RepoKey, data: Uint8Array): Promise<void>;
  remove(key: RepoKey): Promise<void>;
  loadRange(keyPrefix: RepoKey): Promise<RepoChunk[]>;
  removeRange(keyPrefix: RepoKey): Promise<void>;
  close?(): void | Promise<void>;
}

export interface AutomergeRepoDocumentsOptions {
  /**
   * Put before the document id of automerge-repo, to make the id of the document here. Default: nothing.
   */
  readonly idPrefix?: string;
  /**
   * `false`: whoever still has a document that was deleted or erased does not bring it back: `save` rejects
   * with `DELETED`, and nothing of it is stored. Default: it is begun anew, as automerge-repo expects.
   */
  readonly recreate?: boolean;
}

const OPTIONS: OptionKinds<AutomergeRepoDocumentsOptions> = { idPrefix: "text", recreate: "flag" };

/** A `StorageAdapterInterface` of automerge-repo. */
export class AutomergeRepoDocuments {
  readonly #storage: DocumentStorage<readonly AutomergeModel[]>;
  readonly #log: RepoLog;
  readonly #others: RepoStorage;
  readonly #idPrefix: string;
  readonly #saving = new Map<string, Promise<void>>();
  /** Documents whose last save failed, perhaps when its changes were stored: the next one repeats them. */
  readonly #doubtful = new Set<string>();
  /** Loads, and saves with the compaction after them, that have not ended; `close` waits for them. */
  readonly #running = new Set<Promise<unknown>>();

  /**
   * Keeps documents in `storage`, which must know the model `automerge()`, and everything else that
   * automerge-repo stores (its own id, sync states) in `others`. Closes neither of them but by `close`.
   */
  constructor(
    storage: DocumentStorage<readonly AutomergeModel[]>,
    others: RepoStorage,
    options: AutomergeRepoDocumentsOptions = {},
  ) {
    checkOptions("AutomergeRepoDocuments", options, OPTIONS);
    checkStorage("AutomergeRepoDocuments", storage, "automerge");
    if (typeof others?.loadRange !== "function") {
      throw new TypeError(
        "AutomergeRepoDocuments wants a place for all else: await AutomergeRepoStorage.open(backend)",
      );
    }
    this.#storage = storage;
    this.#log = new RepoLog(storage, options.recreate !== false);
    this.#others = others;
    this.#idPrefix = options.idPrefix ?? "";
  }

  async load(key: RepoKey): Promise<Uint8Array | undefined> {
    if (!isChunkKey(key)) return this.#others.load(key);
    return isLogKey(key) ? this.#chunk(key[0]!) : undefined;
  }

  /**
   * Durable when it resolves. Rejects with `EVENT_INVALID` for bytes that are no changes, and like
   * `DocumentStorage.append`; also like `compact`, and then the changes are stored all the same. A deleted
   * document is begun anew, or `DELETED` with `recreate: false`.
   */
  async save(key: RepoKey, data: Uint8Array): Promise<void> {
    if (!isChunkKey(key)) return this.#others.save(key, data);
    const id = this.#idOf(key);
    if (key[1] === "incremental") {
      const changes = changesIn(id, data);
      // automerge-repo reckons what is new from the last save that ended well: beside another, and after one
      // that failed, it repeats changes.
      const repeats = this.#saving.has(id) || this.#doubtful.has(id);
      return this.#noted(
        id,
        this.#inTurn(id, () => this.#log.appendChanges(id, changes, repeats)),
      );
    }
    return this.#noted(id, this.#untilEnded(this.#saveWhole(id, data)));
  }

  async remove(key: RepoKey): Promise<void> {
    if (!isChunkKey(key)) await this.#others.remove(key);
  }

  async loadRange(keyPrefix: RepoKey): Promise<RepoChunk[]> {
    const [document, type, name] = keyPrefix;
    if (document === undefined) throw new TypeError("one document at a time: the prefix must not be empty");
    const inLog = (type === undefined || type === "snapshot") && (name === undefined || name === LOG);
    // Both at once: a close meanwhile waits for what has begun.
    const [others, data] = await Promise.all([
      type === undefined || !isChunkType(type) ? this.#others.loadRange(keyPrefix) : [],
      inLog ? this.#chunk(document) : undefined,
    ]);
    return data === undefined ? others : [{ key: [document, "snapshot", LOG], data }, ...others];
  }

  /** Deletes the document when the prefix covers its log. */
  async removeRange(keyPrefix: RepoKey): Promise<void> {
    const [document, type] = keyPrefix;
    if (document === undefined) throw new TypeError("one document at a time: the prefix must not be empty");
    const removals: Promise<void>[] = [];
    if (keyPrefix.length < 3 && (type === undefined || type === "snapshot")) {
      const id = this.#idOf(keyPrefix);
      // After the saves that came before it: they would begin the document anew.
      const removal = this.#inTurn(id, async () => {
        this.#log.forget(id);
        this.#doubtful.delete(id);
        await this.#storage.delete(id);
      });
      removals.push(removal);
    }
    if (type === undefined || !isChunkType(type)) removals.push(this.#others.removeRange(keyPrefix));
    await Promise.all(removals);
  }

  /** Waits for what is in flight and closes both storages. */
  async close(): Promise<void> {
    try {
      await Promise.allSettled([...this.#saving.values(), ...this.#running]);
      await this.#storage.close();
    } finally {
      await this.#others.close?.();
    }
  }

  async #saveWhole(id: string, data: Uint8Array): Promise<void> {
    await this.#inTurn(id, () => this.#log.appendDocument(id, data));
    const info = await this.#storage.info(id);
    if (info === undefined) return;
    const { bytesSinceSnapshot, snapshotBytes = 0 } = info;
    if (bytesSinceSnapshot >= Math.max(COMPACT_BYTES_MIN, snapshotBytes)) await this.#storage.compact(id);
  }

  /** Saves of one document one after the other: what the log lacks must not be appended by two of them. */
  #inTurn(id: string, task: () => Promise<void>): Promise<void> {
    const before = this.#saving.get(id) ?? Promise.resolve();
    const result = before.then(task, task);
    this.#saving.set(id, result);
    const done = () => {
      if (this.#saving.get(id) === result) this.#saving.delete(id);
    };
    result.then(done, done);
    return result;
  }

  async #noted(id: string, save: Promise<void>): Promise<void> {
    try {
      await save;
      this.#doubtful.delete(id);
    } catch (error) {
      this.#doubtful.add(id);
      throw error;
    }
  }

  #untilEnded<T>(call: Promise<T>): Promise<T> {
    this.#running.add(call);
    return call.finally(() => this.#running.delete(call));
  }

  #idOf([document]: RepoKey): string {
    return this.#idPrefix + document;
  }

  /** Snapshot and later changes as they are stored; no document is built. */
  async #chunk(document: string): Promise<Uint8Array | undefined> {
    const id = this.#idPrefix + document;
    // What was saved before is seen, whether the save was awaited or not.
    const saved = this.#saving.get(id)?.catch(() => undefined);
    const diff = () => this.#storage.diff(id, encodeHeads([]));
    const loading = saved === undefined ? diff() : saved.then(diff);
    const data = await this.#untilEnded(loading);
    return data === undefined || data.length === 0 ? undefined : data;
  }
}

function isChunkType(type: string): boolean {
  return type === "snapshot" || type === "incremental";
}

function isChunkKey(key: RepoKey): boolean {
  return key.length === 3 && isChunkType(key[1]!);
}

function isLogKey([, type, name]: RepoKey): boolean {
  return type === "snapshot" && name === LOG;
}
