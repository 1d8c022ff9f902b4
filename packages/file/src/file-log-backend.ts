/**
 * The file log backend: keys and values in numbered, append-only segments of a directory, written by one
 * process.
 *
 * This file has the options, the lifecycle and the lock; `log-writer.ts` writes, `store-reader.ts` reads,
 * `recovery.ts` opens, `merger.ts` takes back space. Grouping commits and checking arguments is the guard's
 * work.
 *
 * Invariants:
 * - one commit runs at a time, so that what `expect` sees is what the frame meets; the next is at most
 *   prepared meanwhile, when it expects nothing of what that one changes;
 * - a failed write or sync is the end of this open: every later commit is refused, and nothing is retried;
 * - whatever fails, `close` frees the lock.
 */

import {
  type Backend,
  type BackendFactory,
  type Batch,
  CoppiceError,
  checkOptions,
  commitConflict,
  type Env,
  isCoppiceError,
  type OptionKinds,
  type Traits,
} from "coppice";
import { LOCK, nodeFiles, type OpenFiles, refused, type StoreFiles, unavailable } from "./files.js";
import { Follower } from "./follower.js";
import { type Frame, LogWriter, poisoned, type WriterLimits } from "./log-writer.js";
import { MANIFEST } from "./manifest.js";
import { Merger } from "./merger.js";
import { lostManifest, type Recovered, recover } from "./recovery.js";
import { holdsLog, segmentBytesMaxOf, wholeNumber } from "./segment.js";
import { type FileLogStats, statsOf } from "./stats.js";
import { StoreReader, scanPages } from "./store-reader.js";

export interface FileLogOptions {
  /**
   * What an acknowledged commit survives. `"power"` (default): loss of power; each commit is synced.
   * `"process"`: the death of the process; a loss of power may take the newest commits, and never leaves a
   * hole.
   */
  readonly durability?: "power" | "process";
  /**
   * `true`: a commit holds up the thread until it is synced, which saves the trip to another thread and
   * back. For a process that does nothing else meanwhile, like an import; a server would not answer for as
   * long as the disk takes. Default `false`.
   */
  readonly blocking?: boolean;
  /** `false`: opening rejects with `UNAVAILABLE` when the directory holds no store. Default `true`. */
  readonly createIfMissing?: boolean;
  /**
   * Bytes of a segment file, from 64 KiB to 1 GiB. Default 32 MiB; young stores begin with smaller ones.
   */
  readonly segmentBytesMax?: number;
  /**
   * Segment files. A commit with puts that would need one more rejects with `STORE_FULL`. Default 4,096.
   */
  readonly segmentsMax?: number;
  /** Bytes of all segment files. A commit with puts that would need more rejects with `STORE_FULL`. */
  readonly storeBytesMax?: number;
  /** Bytes that one read asks of the disk, when single values are not larger. Default 256 KiB. */
  readonly readBytesMax?: number;
  /**
   * When so large a part of the store is dead, segments of which it is are merged in the background; before
   * that, and until the store is half way to its limits, those of which half of the rest is dead too.
   * Default 0.5; `1`: only when `merge` is called, which takes all of which so large a part is.
   */
  readonly mergeDeadRatioMin?: number;
  /**
   * Keeps no writer out and writes nothing; sees what the writer, in this or another process, has committed.
   * Commits reject with `READ_ONLY`. Default `false`.
   */
  readonly readOnly?: boolean;
  /** For tests: other files than those of the disk. */
  readonly files?: OpenFiles;
}

const MIB = 1024 * 1024;
const VALUE_BYTES_MAX = 64 * MIB;
const COMMIT_BYTES_MAX = 256 * MIB;
/** What `fileLogBackend` returns: a factory that can also be asked about the store it has open. */
export interface FileLogFactory extends BackendFactory {
  /** `undefined` while it is not open. */
  stats(): FileLogStats | undefined;
  /**
   * Takes back what is dead. `force`: in all segments, the one that is written to included, however little;
   * when it resolves no file of the store holds bytes that were deleted before the call. Rejects with
   * `CLOSED` while the store is not open, `STORE_FULL` when the disk has no room for the copy, `CORRUPT`
   * when a segment is damaged. Commits and reads go on meanwhile.
   */
  merge(options?: {
    readonly force?: boolean;
    readonly signal?: AbortSignal;
  }): Promise<{ freedBytes: number }>;
}

/**
 * A backend on append-only files in a directory, which is created when missing. `open` rejects with
 * `LOCKED` when this or another process has it open for writing, with `CORRUPT` when something is missing
 * or wrong before the last good commit (nothing is changed then), with `FORMAT_UNSUPPORTED` when a newer
 * version wrote it, with `UNAVAILABLE` when the file system refuses. A commit costs one write and one sync;
 * all keys are kept in memory.
 */
export function fileLogBackend(directory: string, options: FileLogOptions = {}): FileLogFactory {
  const settings = checked(directory, options);
  // A factory outlives what it opened, whose index is large.
  let last: WeakRef<FileLog | Follower> | undefined;
  const current = () => {
    const opened = last?.deref();
    return opened?.isOpen ? opened : undefined;
  };
  return {
    name: "file",
    async open(env) {
      const opened = settings.readOnly ? await follow(settings, env) : await FileLog.open(settings, env);
      last = new WeakRef(opened);
      return opened;
    },
    stats: () => current()?.stats(),
    async merge(how = {}) {
      const opened = current();
      if (opened === undefined) throw new CoppiceError("CLOSED", "the file log is not open");
      return opened.merge(how);
    },
  };
}

interface Settings {
  readonly directory: string;
  readonly create: boolean;
  readonly readOnly: boolean;
  readonly syncs: boolean;
  readonly limits: WriterLimits;
  readonly readBytesMax: number;
  readonly deadRatioMin: number;
  readonly files: OpenFiles;
}

const OPTIONS: OptionKinds<FileLogOptions> = {
  durability: "text",
  blocking: "flag",
  createIfMissing: "flag",
  segmentBytesMax: "number",
  segmentsMax: "number",
  storeBytesMax: "number",
  readBytesMax: "number",
  mergeDeadRatioMin: "number",
  readOnly: "flag",
  files: "function",
};

function checked(directory: string, options: FileLogOptions): Settings {
  checkOptions("fileLogBackend", options, OPTIONS);
  if (typeof directory !== "string" || directory === "")
    throw new TypeError("the directory must not be empty");
  if (/^(?:level|file):/.test(directory))
    throw new TypeError("the directory is a path, as in ./data; file:… is how the command names a store");
  const { durability = "power", mergeDeadRatioMin = 0.5 } = options;
  if (durability !== "power" && durability !== "process") {
    throw new TypeError('durability must be "power" or "process"');
  }
  if (options.blocking !== undefined && typeof options.blocking !== "boolean") {
    throw new TypeError("blocking must be true or false");
  }
  if (!(mergeDeadRatioMin > 0 && mergeDeadRatioMin <= 1)) {
    throw new RangeError("mergeDeadRatioMin must be above 0, and at most 1");
  }
  const syncs = durability === "power";
  return {
    directory,
    create: (options.createIfMissing ?? true) && options.readOnly !== true,
    readOnly: options.readOnly === true,
    syncs,
    limits: {
      segmentBytesMax: segmentBytesMaxOf(options),
      segmentsMax: wholeNumber("segmentsMax", options.segmentsMax ?? 4096, 2, 1_000_000),
      storeBytesMax: wholeNumber(
        "storeBytesMax",
        options.storeBytesMax ?? Number.MAX_SAFE_INTEGER,
        128 * 1024,
      ),
      blocking: options.blocking === true,
    },
    readBytesMax: wholeNumber("readBytesMax", options.readBytesMax ?? MIB / 4, 4096, 1024 * MIB),
    deadRatioMin: mergeDeadRatioMin,
    files: options.files ?? nodeFiles(directory, syncs),
  };
}

/** Of every open; durability and exclusiveness are its own. */
const TRAITS = {
  poisonsItself: true,
  valueBytesMax: VALUE_BYTES_MAX,
  commitBytesMax: COMMIT_BYTES_MAX,
} as const;

async function follow(settings: Settings, env: Env): Promise<Follower> {
  const files = await openFiles(settings);
  try {
    await assertThere(files, settings.directory);
    const traits = { ...TRAITS, exclusive: false, poisonsItself: false };
    return await Follower.open(traits, files, env, settings.readBytesMax);
  } catch (error) {
    files.close();
    throw refused(settings.directory, error);
  }
}

class FileLog implements Backend {
  readonly traits: Traits;
  readonly #directory: string;
  readonly #files: StoreFiles;
  readonly #found: Recovered;
  readonly #writer: LogWriter;
  readonly #reader: StoreReader;
  readonly #merger: Merger;
  #last: Promise<unknown> = Promise.resolve();
  #unfinished = 0;
  #closed: Promise<void> | undefined;

  private constructor(settings: Settings, env: Env, files: StoreFiles, found: Recovered) {
    this.traits = {
      ...TRAITS,
      durability: settings.syncs ? "power" : "process",
      exclusive: true,
      pipelined: settings.syncs,
    };
    this.#directory = settings.directory;
    this.#files = files;
    this.#found = found;
    this.#writer = new LogWriter(files, found.state, env, settings.limits);
    this.#reader = new StoreReader(found.state, settings.readBytesMax);
    this.#merger = new Merger(files, found.state, this.#writer, env, settings, (task) => this.#inTurn(task));
    this.#writer.onRotation = () => this.#merger.wake({ hasRoom: true });
  }

  static async open(settings: Settings, env: Env): Promise<FileLog> {
    const { directory, create, syncs } = settings;
    const files = await openFiles(settings);
    try {
      if (!create) await assertThere(files, directory);
      if (!(await files.lock(LOCK))) throw locked(directory);
      const found = await recover(files, { create, syncs, env });
      const log = new FileLog(settings, env, files, found);
      log.#merger.wake();
      return log;
    } catch (error) {
      files.close();
      throw refused(directory, error);
    }
  }

  get isOpen(): boolean {
    return this.#closed === undefined;
  }

  async get(key: Parameters<Backend["get"]>[0]): Promise<Uint8Array | undefined> {
    this.#assertOpen();
    return this.#reader.get(key);
  }

  scan(...[range, options]: Parameters<Backend["scan"]>): ReturnType<Backend["scan"]> {
    const reader = () => {
      this.#assertOpen();
      return this.#reader;
    };
    return scanPages(reader, range, options);
  }

  async commit(batch: Batch): Promise<void> {
    this.#assertOpen();
    const frame = this.#unfinished === 1 && this.#writer.follows(batch) ? this.#prepare(batch) : undefined;
    await this.#inTurn(() => this.#commitNow(batch, frame));
  }

  stats(): FileLogStats {
    const { state, tornBytes, segmentsScanned } = this.#found;
    const merger = this.#merger;
    return statsOf(state, {
      openedReadOnly: false,
      spareBytes: this.#writer.spares.bytes,
      mergeableBytes: merger.mergeableBytes(),
      merges: merger.merges,
      mergedBytesWritten: merger.bytesWritten,
      tornBytes,
      segmentsScanned,
      mergeFailure: merger.failure,
      failure: this.#writer.failure,
    });
  }

  merge(how: { readonly force?: boolean; readonly signal?: AbortSignal }): Promise<{ freedBytes: number }> {
    return this.#merger.run(how);
  }

  async reclaim(): Promise<void> {
    this.#assertOpen();
    try {
      await this.merge({ force: true });
    } catch (error) {
      if (isCoppiceError(error, "CLOSED")) throw error;
      throw new CoppiceError("UNAVAILABLE", "the segments could not be rewritten", { cause: error });
    }
  }

  close(): Promise<void> {
    this.#closed ??= this.#closeNow();
    return this.#closed;
  }

  /** A number of a closed file may be that of another file by now, so nothing may reach one. */
  #assertOpen(): void {
    if (this.#closed !== undefined) throw new CoppiceError("CLOSED", "the file log is closed");
  }

  /** After everything that was called before. */
  #inTurn<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#unfinished === 0 ? task() : this.#last.then(task);
    this.#unfinished++;
    const done = () => {
      this.#unfinished--;
    };
    this.#last = result.then(done, done);
    return result;
  }

  /** While the only commit before it is being synced. */
  #prepare(batch: Batch): Frame | undefined {
    this.#assertExpected(batch);
    return this.#writer.prepare(batch);
  }

  #assertExpected({ expect = [] }: Batch): void {
    for (const { key, value } of expect) {
      if (!this.#reader.holds(key, value)) throw commitConflict(key);
    }
  }

  async #commitNow(batch: Batch, frame: Frame | undefined): Promise<void> {
    if (frame !== undefined) {
      // Whatever has failed meanwhile: one that is on its way is no less written.
      await this.#writer.finish(frame);
    } else {
      const { failure } = this.#writer;
      if (failure !== undefined) throw poisoned(failure);
      this.#assertExpected(batch);
      await this.#writer.write(batch);
    }
    this.#reader.noteWritten(batch.put ?? []);
    if ((batch.delete?.length ?? 0) > 0) this.#merger.wake();
  }

  async #closeNow(): Promise<void> {
    this.#writer.beginClosing();
    try {
      await this.#merger.stop();
      await this.#last;
      await this.#writer.close();
    } catch (error) {
      throw unavailable(this.#directory, error);
    } finally {
      await this.#found.state.retire();
      this.#files.close();
    }
  }
}

async function openFiles({ directory, create, files }: Settings): Promise<StoreFiles> {
  try {
    return await files(create);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw code === "ENOENT" ? absent(directory, error) : refused(directory, error);
  }
}

/** Segments without a manifest are a damaged store, and not none. */
async function assertThere(files: StoreFiles, directory: string): Promise<void> {
  const names = await files.list();
  // A list may lack a name that a writer is just putting another file under.
  if (names.includes(MANIFEST) || files.identityOf(MANIFEST) !== undefined) return;
  throw holdsLog(names) ? lostManifest() : absent(directory);
}

function absent(directory: string, cause?: unknown): CoppiceError {
  const details = { location: directory };
  return new CoppiceError("UNAVAILABLE", "there is no store in this directory", { cause, details });
}

function locked(directory: string): CoppiceError {
  return new CoppiceError(
    "LOCKED",
    "the file log has one writer at a time, and somebody has it open: close that storage or process, or " +
      "open it with readOnly",
    { details: { location: directory } },
  );
}
