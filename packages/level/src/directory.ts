/**
 * The directory of a store: creating it durably, naming it uniquely, and syncing it. The only file here that
 * needs Node; it is imported when a database lives in a directory.
 *
 * A file's name is durable only after its directory was synced. LevelDB syncs its directory when it writes a
 * MANIFEST, but never after it created a log or renamed CURRENT, so a power loss may take away the
 * newest log with everything that was synced into it. `DirectorySync` closes that gap.
 *
 * Windows cannot open a directory for syncing; NTFS journals names by itself. There the syncs do nothing.
 */

import { constants } from "node:fs";
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
import { findDamage } from "./log-scan.js";

const SYNCS = process.platform !== "win32";

export interface Directory {
  /** Absolute, without symbolic links: LevelDB opens files by name for as long as it lives. */
  readonly path: string;
  /** Device and inode. */
  readonly identity: string;
  readonly holdsStore: boolean;
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
  const holdsStore = await access(`${path}/CURRENT`, constants.F_OK).then(
    () => true,
    () => false,
  );
  return { path, identity: `${dev}:${ino}`, holdsStore };
}

/**
 * Where a log of the store is damaged before its end. Costs one read of the logs: usually at most twice the
 * write buffer, about 10 ms. A log that vanishes meanwhile belongs to another owner, whom opening will meet.
 */
export async function findDamagedLog(path: string): Promise<{ file: string; offset: number } | undefined> {
  for (const file of (await readdir(path)).filter((name) => /^\d+\.log$/.test(name)).sort()) {
    const log = await readFile(join(path, file)).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOENT") throw error;
      return new Uint8Array(0);
    });
    const offset = findDamage(log);
    if (offset !== undefined) return { file, offset };
  }
  return undefined;
}

/** Removes the notes in words that LevelDB keeps of its last run but one. */
export function removeOldNotes(path: string): Promise<void> {
  return rm(join(path, "LOG.old"), { force: true });
}

/** Holds the directory open, so that a sync is one system call. */
export class DirectorySync {
  readonly #handle: FileHandle | undefined;

  private constructor(handle: FileHandle | undefined) {
    this.#handle = handle;
  }

  static async open(path: string): Promise<DirectorySync> {
    return new DirectorySync(SYNCS ? await open(path, constants.O_RDONLY) : undefined);
  }

  /** Resolves when all names in the directory are durable. A failure is final: never repeat it. */
  async sync(): Promise<void> {
    await this.#handle?.sync();
  }

  async close(): Promise<void> {
    await this.#handle?.close();
  }
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
