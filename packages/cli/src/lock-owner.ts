/**
 * Who has a LevelDB directory open, as far as the system tells: Linux lists advisory locks in /proc/locks,
 * by device and inode. Elsewhere, and for a file log, whose lock belongs to no process there, nobody is
 * named, unless an owner that works for others has said its number. It only reads, and a wrong guess harms
 * nothing.
 */

import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";

const COMMAND_MAX = 120; // characters

export interface LockOwner {
  readonly pid: number;
  readonly command: string | undefined;
}

export async function lockOwner(location: string): Promise<LockOwner | undefined> {
  const locks = await readFile("/proc/locks", "utf8").catch(() => undefined);
  const lock = await stat(join(location, "LOCK")).catch(() => undefined);
  if (locks === undefined || lock === undefined) return undefined;
  for (const line of locks.split("\n")) {
    const [, pid, inode] = /^\d+: POSIX .* WRITE (\d+) [0-9a-f]+:[0-9a-f]+:(\d+) /.exec(line) ?? [];
    if (pid === undefined || inode !== String(lock.ino)) continue;
    return lockOwnerOf(Number(pid));
  }
  return undefined;
}

/** With the command line, where the system shows it. */
export async function lockOwnerOf(pid: number): Promise<LockOwner> {
  const command = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
  const words = command.split("\0").join(" ").trim();
  const shown = words.length > COMMAND_MAX ? `${words.slice(0, COMMAND_MAX - 1)}…` : words;
  return { pid, command: shown === "" ? undefined : shown };
}
