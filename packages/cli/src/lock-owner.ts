/**
 * Who has a store open, as far as the system tells: Linux lists advisory locks in /proc/locks, by device and
 * inode; that of a file log belongs to no process there, but to a descriptor, and what a process has open it
 * tells to its own user and root. Elsewhere nobody is named, unless an owner that works for others has said
 * its number. It only reads, and a wrong guess harms nothing.
 */

import { readdir, readFile, readlink, stat } from "node:fs/promises";
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
    const [, pid = "", inode] =
      /^\d+: (?:POSIX|OFDLCK) .* WRITE (-?\d+) [0-9a-f]+:[0-9a-f]+:(\d+) /.exec(line) ?? [];
    if (inode !== String(lock.ino)) continue;
    const owner = pid === "-1" ? await descriptorOwner(inode) : Number(pid);
    return owner === undefined ? undefined : lockOwnerOf(owner);
  }
  return undefined;
}

/** The process whose descriptor has the lock of that file. */
async function descriptorOwner(inode: string): Promise<number | undefined> {
  const isHolding = new RegExp(`^lock:.* OFDLCK .* WRITE -1 [0-9a-f]+:[0-9a-f]+:${inode} `, "m");
  for (const pid of await readdir("/proc")) {
    if (!/^\d+$/.test(pid)) continue;
    for (const descriptor of await readdir(`/proc/${pid}/fd`).catch(() => [])) {
      const path = await readlink(`/proc/${pid}/fd/${descriptor}`).catch(() => "");
      if (!path.endsWith("/LOCK")) continue;
      const info = await readFile(`/proc/${pid}/fdinfo/${descriptor}`, "utf8").catch(() => "");
      if (isHolding.test(info)) return Number(pid);
    }
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
