/**
 * All that the file log asks of a file system, and the only file that imports `node:fs`. One directory
 * holds a store; names below it are plain. A simulated disk (`testing/simulated-disk.ts`) offers the same,
 * so that every promise can be tested against crashes and failures at every operation.
 *
 * Nothing here retries, and nothing syncs unless told to.
 *
 * Invariants:
 * - a write may be short without an error (a full disk); the caller looks at the count;
 * - a name is durable only after `syncNames`, bytes only after `sync`;
 * - the lock is the kernel's (open file description), so it is free at once when its holder dies;
 * - no name is made, changed or removed in another directory than was opened, or beside another lock.
 */

import {
  closeSync,
  constants,
  fchownSync,
  fdatasync,
  fdatasyncSync,
  fstat,
  fstatSync,
  fsync,
  open,
  openSync,
  read,
  readSync,
  readv,
  statSync,
  write,
  writeSync,
} from "node:fs";
import { mkdir, readdir, realpath, rename, stat, unlink } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { setImmediate } from "node:timers/promises";
import { CoppiceError, isCoppiceError } from "coppice";

/** `"read"` and `"write"` need an existing file, `"create"` one that does not exist yet. */
export type OpenMode = "read" | "write" | "create";

export interface OpenFile {
  /** Bytes read: fewer than asked for only at the end of the file. */
  read(into: Uint8Array, at: number, length: number, position: number): Promise<number>;
  /**
   * Fills one piece of memory after the other, at most 1,024. Bytes read: fewer than asked for only at the
   * end of the file.
   */
  readEach(into: readonly Uint8Array[], position: number): Promise<number>;
  /** The same as `read` without leaving the thread: for few bytes that are surely in memory. */
  readNow(into: Uint8Array, at: number, length: number, position: number): number;
  /** Bytes written, perhaps fewer than asked for. */
  write(from: Uint8Array, at: number, length: number, position: number): number | Promise<number>;
  /**
   * Makes the bytes (and the size) durable. A failure is final: never repeat it. `blocking`: it may hold up
   * the thread until it is done.
   */
  sync(blocking?: boolean): Promise<void>;
  size(): Promise<number>;
  /** Closes at once; reads that are under way must have ended. */
  close(): void;
}

export interface StoreFiles {
  /** Names in the directory. */
  list(): Promise<string[]>;
  /** `LOCKED`: somebody else, who may not have the lock, writes to this file. */
  open(name: string, mode: OpenMode): Promise<OpenFile>;
  rename(from: string, to: string): Promise<void>;
  remove(name: string): Promise<void>;
  /** Makes the names in the directory durable. A failure is final. */
  syncNames(): Promise<void>;
  /** A token that changes when the file is replaced; `undefined` when there is no such file. */
  identityOf(name: string): string | undefined;
  /** Takes the lock for as long as the files are open; `false` when somebody else has it. */
  lock(name: string): Promise<boolean>;
  /**
   * Says for as long as the files are open, to whoever has or will have the lock, that they are being read.
   * `false` where it could not be said.
   */
  share(name: string): Promise<boolean>;
  /**
   * Whether what this file holds, once its name is gone, is nobody else's: no other name leads to it, and
   * nobody shares. To be asked by who has the lock.
   */
  isOwn(name: string): Promise<boolean>;
  /** Frees the lock and everything else, whatever happens. */
  close(): void;
}

/** Makes or finds the directory of a store. Rejects with the error of the file system. */
export type OpenFiles = (create: boolean) => Promise<StoreFiles>;

/** The file that is locked. */
export const LOCK = "LOCK";
/** Up to here a write into the page cache is faster than a trip to another thread. */
const WRITE_NOW_BYTES_MAX = 128 * 1024;
const SYNCED = Promise.resolve();
const SYNCS_NAMES = process.platform !== "win32";
/**
 * Where parts of a file can be locked: the first byte by who writes, the second by all who read. Elsewhere
 * the lock is on the whole file, and nobody can say that they read.
 */
const LOCKS_PARTS = process.platform === "linux";
const [WRITER, READERS] = [0, 1];
const SHARE_TRIES = 100;
/** Of a file that is replaced now and then: what is compared is as a rule the last one or the one before. */
const PINNED_MAX = 4;
/** No link is followed and no pipe waited for, that somebody has put in the place of a file. */
const FILE_ONLY = (constants.O_NOFOLLOW ?? 0) | (constants.O_NONBLOCK ?? 0);
const FLAGS: Readonly<Record<OpenMode, number>> = {
  read: constants.O_RDONLY | FILE_ONLY,
  write: constants.O_RDWR | FILE_ONLY,
  create: constants.O_RDWR | constants.O_CREAT | constants.O_EXCL | FILE_ONLY,
};

/**
 * The files of a directory on a real disk. `durable`: the names of directories that are made are synced.
 */
export function nodeFiles(location: string, durable: boolean): OpenFiles {
  return async (create) => {
    if (create) await makeDirectory(resolve(location), durable);
    const path = await realpath(resolve(location));
    const facts = await stat(path);
    if (!facts.isDirectory()) {
      throw Object.assign(new Error(`not a directory: ${location}`), { code: "ENOTDIR" });
    }
    const directory = SYNCS_NAMES ? await openDescriptor(path, constants.O_RDONLY) : undefined;
    return new NodeFiles(path, directory, process.getuid?.() === 0 && facts.uid !== 0 ? facts : undefined);
  };
}

interface Owner {
  readonly uid: number;
  readonly gid: number;
}

class NodeFiles implements StoreFiles {
  readonly #path: string;
  readonly #directory: number | undefined;
  readonly #owner: Owner | undefined;
  #lock: { readonly descriptor: number; readonly locks: Locks } | undefined;
  #share: number | undefined;
  /** Files whose identity was told, by it. */
  readonly #pinned = new Map<string, number>();

  /** `owner`: whose the files are to be, where they would be those of `root`. */
  constructor(path: string, directory: number | undefined, owner: Owner | undefined) {
    this.#path = path;
    this.#directory = directory;
    this.#owner = owner;
  }

  list(): Promise<string[]> {
    return readdir(this.#path);
  }

  async open(name: string, mode: OpenMode): Promise<OpenFile> {
    if (mode === "create") this.#assertInPlace();
    const path = join(this.#path, name);
    const descriptor = await openDescriptor(path, FLAGS[mode]);
    if (mode === "create") this.#giveToOwner(descriptor);
    if (mode !== "read" && !this.#claims(descriptor)) {
      closeSync(descriptor);
      const message = `somebody else writes to ${name}: the lock of an open store was removed or replaced`;
      throw new CoppiceError("LOCKED", message, { details: { location: this.#path, file: name } });
    }
    return new NodeFile(descriptor, path);
  }

  /**
   * Who has the lock locks what it writes as well, for as long as that is open: where the lock was removed,
   * the next one who opens the store gets another, and would write into the same segment.
   */
  #claims(descriptor: number): boolean {
    return !LOCKS_PARTS || (this.#lock?.locks.tryLock(descriptor, WRITER, 1) ?? true);
  }

  async rename(from: string, to: string): Promise<void> {
    this.#assertInPlace();
    await rename(join(this.#path, from), join(this.#path, to));
  }

  async remove(name: string): Promise<void> {
    this.#assertInPlace();
    await unlink(join(this.#path, name));
  }

  async syncNames(): Promise<void> {
    if (this.#directory !== undefined) await syncDirectory(this.#directory);
  }

  identityOf(name: string): string | undefined {
    const path = join(this.#path, name);
    const found = statSync(path, { throwIfNoEntry: false });
    if (found === undefined) return undefined;
    const identity = identityFrom(found);
    if (!SYNCS_NAMES || this.#pinned.has(identity)) return identity;
    return this.#pin(path) ?? identity;
  }

  /** Keeps the file open: else the one after the next may get its number, within one tick of the clock. */
  #pin(path: string): string | undefined {
    let descriptor: number;
    try {
      descriptor = openSync(path, FLAGS.read);
    } catch {
      // It was just replaced, or there are no more descriptors: the next look tells.
      return undefined;
    }
    const identity = identityFrom(fstatSync(descriptor));
    if (this.#pinned.has(identity)) {
      closeSync(descriptor);
      return identity;
    }
    this.#pinned.set(identity, descriptor);
    const [oldest] = this.#pinned;
    if (this.#pinned.size > PINNED_MAX && oldest !== undefined) {
      this.#pinned.delete(oldest[0]);
      closeSync(oldest[1]);
    }
    return identity;
  }

  async lock(name: string): Promise<boolean> {
    const locks = await loadLocks();
    const descriptor = await openDescriptor(
      join(this.#path, name),
      constants.O_RDWR | constants.O_CREAT | FILE_ONLY,
    );
    this.#giveToOwner(descriptor);
    if (LOCKS_PARTS ? locks.tryLock(descriptor, WRITER, 1) : locks.tryLock(descriptor)) {
      this.#lock = { descriptor, locks };
      return true;
    }
    closeSync(descriptor);
    return false;
  }

  async share(name: string): Promise<boolean> {
    if (!LOCKS_PARTS) return false;
    let descriptor: number | undefined;
    try {
      const { tryLock } = await loadLocks();
      descriptor = await openDescriptor(join(this.#path, name), FLAGS.read);
      for (let tries = 0; tries < SHARE_TRIES; tries++) {
        if (tryLock(descriptor, READERS, 1, { shared: true })) {
          this.#share = descriptor;
          return true;
        }
        // The writer asks, which takes a moment.
        await setImmediate();
      }
    } catch {
      // There was never a writer, or it is not ours to read, or this system has no locks.
    }
    if (descriptor !== undefined) closeSync(descriptor);
    return false;
  }

  async isOwn(name: string): Promise<boolean> {
    if (!LOCKS_PARTS || this.#lock === undefined) return false;
    if ((await stat(join(this.#path, name))).nlink !== 1) return false;
    const { descriptor, locks } = this.#lock;
    if (!locks.tryLock(descriptor, READERS, 1)) return false;
    locks.unlock(descriptor, READERS, 1);
    return true;
  }

  /**
   * A name leads to whatever lies at the path by now. Where that is another directory (this one was moved,
   * and a copy put in its place), or the lock another file, the store there is somebody else's to write.
   */
  #assertInPlace(): void {
    const isMoved = this.#directory !== undefined && !isAt(this.#directory, this.#path);
    const lock = this.#lock?.descriptor;
    if (!isMoved && (lock === undefined || isAt(lock, join(this.#path, LOCK)))) return;
    const what = isMoved ? `the directory ${this.#path} was` : `${join(this.#path, LOCK)} was removed, or`;
    const message = `${what} moved or replaced while the store was open: open it again`;
    throw Object.assign(new Error(message), { code: "ESTALE" });
  }

  /** The directory's owner could not open what `root` makes in it. */
  #giveToOwner(descriptor: number): void {
    if (this.#owner === undefined) return;
    try {
      fchownSync(descriptor, this.#owner.uid, this.#owner.gid);
    } catch {
      // Some file systems let nobody, and who made the file can still write to it.
    }
  }

  close(): void {
    for (const descriptor of [
      this.#lock?.descriptor,
      this.#share,
      this.#directory,
      ...this.#pinned.values(),
    ]) {
      if (descriptor !== undefined) closeSync(descriptor);
    }
  }
}

class NodeFile implements OpenFile {
  readonly #descriptor: number;
  readonly #path: string;

  constructor(descriptor: number, path: string) {
    this.#descriptor = descriptor;
    this.#path = path;
  }

  read(into: Uint8Array, at: number, length: number, position: number): Promise<number> {
    return new Promise((resolve, reject) => {
      read(this.#descriptor, into, at, length, position, (error, count) => {
        if (error) reject(this.#named(error));
        else resolve(count);
      });
    });
  }

  readEach(into: readonly Uint8Array[], position: number): Promise<number> {
    return new Promise((resolve, reject) => {
      readv(this.#descriptor, into, position, (error, count) => {
        if (error) reject(this.#named(error));
        else resolve(count);
      });
    });
  }

  readNow(into: Uint8Array, at: number, length: number, position: number): number {
    return readSync(this.#descriptor, into, at, length, position);
  }

  write(from: Uint8Array, at: number, length: number, position: number): number | Promise<number> {
    if (length <= WRITE_NOW_BYTES_MAX) return writeSync(this.#descriptor, from, at, length, position);
    return new Promise((resolve, reject) => {
      write(this.#descriptor, from, at, length, position, (error, count) => {
        if (error) reject(error);
        else resolve(count);
      });
    });
  }

  sync(blocking = false): Promise<void> {
    if (!blocking) return syncDescriptor(this.#descriptor);
    try {
      fdatasyncSync(this.#descriptor);
      return SYNCED;
    } catch (error) {
      return Promise.reject(error);
    }
  }

  size(): Promise<number> {
    return new Promise((resolve, reject) => {
      fstat(this.#descriptor, (error, stats) => {
        if (error) reject(error);
        else resolve(stats.size);
      });
    });
  }

  close(): void {
    closeSync(this.#descriptor);
  }

  /** The system does not say which file could not be read, of thousands perhaps. */
  #named(error: NodeJS.ErrnoException): NodeJS.ErrnoException {
    return Object.assign(error, { message: `${error.message} '${this.#path}'`, path: this.#path });
  }
}

/**
 * Writes all of it, or rejects (throws, where it did not leave the thread): a short count is followed by the
 * rest, no progress is an error. `undefined`: it is done.
 */
export function writeFully(
  file: OpenFile,
  bytes: Uint8Array,
  length: number,
  position: number,
): Promise<void> | undefined {
  if (length === 0) return undefined;
  const written = file.write(bytes, 0, length, position);
  return written === length ? undefined : writeOn(file, bytes, length, position, written);
}

async function writeOn(
  file: OpenFile,
  bytes: Uint8Array,
  length: number,
  position: number,
  first: number | Promise<number>,
): Promise<void> {
  let written = first;
  for (let done = 0; ; ) {
    const count = typeof written === "number" ? written : await written;
    if (count <= 0) throw Object.assign(new Error("a write made no progress"), { code: "ENOSPC" });
    done += count;
    if (done >= length) return;
    written = file.write(bytes, done, length - done, position + done);
  }
}

/** Whether it says that there is no room. */
export function isFull(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "ENOSPC" || code === "EDQUOT" || code === "EFBIG";
}

/** What a call rejects with: an error of ours as it is, and `UNAVAILABLE` for one of the file system. */
export function refused(location: string, error: unknown): CoppiceError {
  return isCoppiceError(error) ? error : unavailable(location, error);
}

export function unavailable(location: string, cause: unknown): CoppiceError {
  return new CoppiceError("UNAVAILABLE", "the file system refused what the file log needs", {
    cause,
    details: { location },
  });
}

/** All bytes from the position on, up to `length`; fewer only at the end of the file. */
export async function readFully(file: OpenFile, length: number, position: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  let done = 0;
  while (done < length) {
    const count = await file.read(bytes, done, length - done, position + done);
    if (count === 0) break;
    done += count;
  }
  return done === length ? bytes : bytes.subarray(0, done);
}

function identityFrom({ ino, mtimeMs }: { readonly ino: number; readonly mtimeMs: number }): string {
  return `${ino}:${mtimeMs}`;
}

function isAt(descriptor: number, path: string): boolean {
  const there = statSync(path, { throwIfNoEntry: false });
  const { dev, ino } = fstatSync(descriptor);
  return there !== undefined && there.dev === dev && there.ino === ino;
}

type Locks = typeof import("fs-native-extensions");

/** The one native part. It is loaded when a store is opened. */
async function loadLocks(): Promise<Locks> {
  try {
    return (await import("fs-native-extensions")).default;
  } catch (error) {
    throw new CoppiceError(
      "UNAVAILABLE",
      "the package fs-native-extensions, which locks files, does not load",
      {
        cause: error,
      },
    );
  }
}

function openDescriptor(path: string, flags: number): Promise<number> {
  return new Promise((resolve, reject) => {
    open(path, flags, 0o600, (error, descriptor) => {
      if (error) reject(error);
      else resolve(descriptor);
    });
  });
}

function syncDescriptor(descriptor: number): Promise<void> {
  return new Promise((resolve, reject) => {
    fdatasync(descriptor, (error) => {
      if (error) reject(error);
      else resolve();
    });
  });
}

function syncDirectory(descriptor: number): Promise<void> {
  return new Promise((resolve, reject) => {
    fsync(descriptor, (error) => {
      if (error) reject(error);
      else resolve();
    });
  });
}

/** Creates what is missing of the path. `durable`: the names of what was made survive a loss of power. */
async function makeDirectory(path: string, durable: boolean): Promise<void> {
  const first = await mkdir(path, { recursive: true, mode: 0o700 });
  if (!durable || !SYNCS_NAMES) return;
  // The direct parent always: an earlier process may have died between making and syncing.
  const top = first === undefined ? dirname(path) : dirname(resolve(first));
  for (let parent = dirname(path); ; parent = dirname(parent)) {
    await syncParent(parent, first !== undefined);
    if (parent === top || parent === dirname(parent)) return;
  }
}

/** A parent that was there before and that we may not read is taken as durable; one we wrote to is not. */
async function syncParent(path: string, required: boolean): Promise<void> {
  let descriptor: number;
  try {
    descriptor = await openDescriptor(path, constants.O_RDONLY);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (!required && (code === "EACCES" || code === "EPERM")) return;
    throw error;
  }
  try {
    await syncDirectory(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
