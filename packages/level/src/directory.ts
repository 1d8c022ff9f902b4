/**
 * The directory of a store: creating it durably, naming it uniquely, and syncing it. The only file here
 * that needs Node; it is imported when a database lives in a directory.
 *
 * A file's name is durable only after its directory was synced. LevelDB syncs its directory when it writes
 * a MANIFEST, but never after it created a log or renamed CURRENT, so a power loss may take away the newest
 * log with everything that was synced into it. `DirectorySync` closes that gap.
 *
 * Windows cannot open a directory for syncing; NTFS journals names by itself. There the syncs do nothing.
 */

import { constants, fstatSync, readSync } from "node:fs";
import {
  access,
  type FileHandle,
  mkdir,
  open,
  readdir,
  readFile,
  realpath,
  rm,
  stat,
} from "node:fs/promises";
import { dirname, join, resolve } from "node:path";

const SYNCS = process.platform !== "win32";
/** The sync of the directory is what flushes the drive's cache there. */
const LOG_SYNC_STOPS_AT_CACHE = process.platform === "darwin";
const LOG = /^\d+\.log$/;
const LOG_TRIES = 3;
const ONE_BYTE = new Uint8Array(1);

export interface Directory {
  /** Absolute, without symbolic links: LevelDB opens files by name for as long as it lives. */
  readonly path: string;
  /** Device and inode. */
  readonly identity: string;
  readonly holdsStore: boolean;
  /** A store of `@coppice/file`, which LevelDB would not notice. */
  readonly holdsFileLog: boolean;
}

/** Creates what is missing of the directory and its parents. `durable`: their names survive power loss. */
export async function createDirectory(location: string, durable: boolean): Promise<Directory> {
  const target = resolve(location);
  const first = await mkdir(target, { recursive: true });
  if (durable) {
    // The direct parent always: an earlier process may have died between creating and syncing.
    const top = first === undefined ? dirname(target) : dirname(resolve(first));
    for (let path = dirname(target); ; path = dirname(path)) {
      await syncNames(path, first !== undefined);
      if (path === top || path === dirname(path)) break;
    }
  }
  return findDirectory(location);
}

/** Rejects with the `ENOENT` of the file system when there is none. */
export async function findDirectory(location: string): Promise<Directory> {
  const path = await realpath(resolve(location));
  const { dev, ino } = await stat(path, { bigint: true });
  const has = (name: string) =>
    access(join(path, name), constants.F_OK).then(
      () => true,
      () => false,
    );
  const [holdsStore, holdsFileLog] = await Promise.all([has("CURRENT"), has("MANIFEST")]);
  return { path, identity: `${dev}:${ino}`, holdsStore, holdsFileLog };
}

/**
 * Whether somebody surely holds LevelDB's lock, this process too. Linux alone tells, and not of every file
 * system; `false` says nothing. Costs the reading of one small file of the kernel, where opening the
 * database to learn it would come after reading all tables.
 */
export async function isSurelyLocked(path: string): Promise<boolean> {
  try {
    const { dev, ino } = await stat(join(path, "LOCK"), { bigint: true });
    const place = `${deviceName(dev)}:${ino}`;
    const locks = await readFile("/proc/locks", "utf8");
    // "1: POSIX  ADVISORY  WRITE 1234 fe:00:5678 0 EOF"; with "->" somebody only waits for it.
    return locks.split("\n").some((line) => !line.includes("->") && line.split(/\s+/)[5] === place);
  } catch {
    return false;
  }
}

/** As the kernel writes it: major and minor number, in hexadecimal. */
function deviceName(dev: bigint): string {
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & 0xffff_f000n);
  const minor = (dev & 0xffn) | ((dev >> 12n) & 0xffff_ff00n);
  return [major, minor].map((number) => number.toString(16).padStart(2, "0")).join(":");
}

/** Removes the notes in words that LevelDB keeps of its last run but one. */
export function removeOldNotes(path: string): Promise<void> {
  return rm(join(path, "LOG.old"), { force: true });
}

/**
 * Holds the directory open, so that a sync is one system call, and knows which log has a durable name.
 *
 * `owned`: nobody but the backend writes into the log. Then a log that has a durable name and grew with a
 * commit is the one that the commit went to: LevelDB appends to one log until it starts another, and never
 * goes back. Looking at its size takes 2 µs, syncing the directory 60 µs and a turn through the thread pool.
 *
 * Its last byte is read as well. When ext4 shuts down, after a failed journal or on command, a sync that was
 * under way may end as if it had succeeded; a read that begins afterwards does not.
 */
export class DirectorySync {
  readonly #path: string;
  readonly #handle: FileHandle | undefined;
  readonly #owned: boolean;
  #log: FileHandle | undefined;
  #logBytes = 0;

  private constructor(path: string, handle: FileHandle | undefined, owned: boolean) {
    this.#path = path;
    this.#handle = handle;
    this.#owned = owned;
  }

  static async open(path: string, owned = false): Promise<DirectorySync> {
    const handle = SYNCS ? await open(path, constants.O_RDONLY) : undefined;
    return new DirectorySync(path, handle, owned && !LOG_SYNC_STOPS_AT_CACHE);
  }

  /** Resolves when all names in the directory are durable. A failure is final: never repeat it. */
  async sync(): Promise<void> {
    if (this.#handle === undefined) return;
    const before = this.#log;
    this.#log = undefined;
    await before?.close();
    // Opened before the sync, so that its name is among those that the sync made durable.
    const log = this.#owned ? await openNewestLog(this.#path) : undefined;
    try {
      await this.#handle.sync();
      this.#logBytes = log === undefined ? 0 : fstatSync(log.fd).size;
      this.#log = log;
    } finally {
      if (this.#log === undefined) await log?.close();
    }
  }

  /**
   * After a commit: resolves when the name of the log that holds it is durable; `undefined` when it was
   * already. Throws when the file system has gone down meanwhile: the commit may not be durable.
   */
  syncAfterCommit(): Promise<void> | undefined {
    if (this.#log === undefined) return this.sync();
    const { size } = fstatSync(this.#log.fd);
    if (size <= this.#logBytes || readSync(this.#log.fd, ONE_BYTE, 0, 1, size - 1) < 1) return this.sync();
    this.#logBytes = size;
    return undefined;
  }

  async close(): Promise<void> {
    try {
      await this.#log?.close();
    } finally {
      await this.#handle?.close();
    }
  }
}

/**
 * LevelDB numbers its files upwards and writes into the log with the highest number. It may begin another and
 * remove this one meanwhile; `undefined` when it was faster each time: then the next commit syncs again.
 */
async function openNewestLog(directory: string): Promise<FileHandle | undefined> {
  for (let tries = 0; tries < LOG_TRIES; tries++) {
    const logs = (await readdir(directory)).filter((name) => LOG.test(name));
    const newest = logs.sort((a, b) => Number.parseInt(a, 10) - Number.parseInt(b, 10)).at(-1);
    if (newest === undefined) return undefined;
    try {
      return await open(join(directory, newest), constants.O_RDONLY);
    } catch (error) {
      const { code = "" } = error as NodeJS.ErrnoException;
      // Without a number for another file, each commit syncs the directory.
      if (code === "EMFILE" || code === "ENFILE") return undefined;
      if (code !== "ENOENT") throw error;
    }
  }
  return undefined;
}

/** A parent that existed before and that we may not read is taken as durable; one we wrote to is not. */
async function syncNames(path: string, required: boolean): Promise<void> {
  let directory: DirectorySync;
  try {
    directory = await DirectorySync.open(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (!required && (code === "EACCES" || code === "EPERM")) return;
    throw error;
  }
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
