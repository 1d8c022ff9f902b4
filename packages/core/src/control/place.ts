/**
 * Where the control socket is, and how another process finds it.
 *
 * | what            | where                                                                   | mode |
 * | --------------- | ----------------------------------------------------------------------- | ---- |
 * | address, token  | `coppice-control.json` in the directory of the store                    | 0600 |
 * | socket          | `<hash of the directory>.sock` in the runtime directory                 | 0600 |
 * | runtime directory | `$XDG_RUNTIME_DIR/coppice`, else `coppice-<user>` in the temporary one | 0700 |
 * | on Windows      | the named pipe `\\.\pipe\coppice-<hash>-<chance>`                         |      |
 *
 * The socket is not in the directory of the store because the path of one may have about 100 bytes at most.
 *
 * Invariants: only the process that holds the store's lock writes or removes these files, and so none of them
 * says who owns the store; a runtime directory that belongs to another user is never used.
 */

import { createHash, randomBytes } from "node:crypto";
import { chmod, lstat, mkdir, readFile, realpath, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CoppiceError } from "../base/errors.js";

export interface ControlPlace {
  /** Path of the socket, or name of the pipe. */
  readonly address: string;
  readonly token: string;
  readonly pid: number;
}

export const CONTROL_FILE = "coppice-control.json";
const SOCKET_PATH_BYTES_MAX = 100;
const FILE_BYTES_MAX = 4096;

/** Throws a `TypeError` for what names no directory. */
export function checkDirectory(call: string, directory: unknown): void {
  if (typeof directory === "string" && directory !== "") return;
  throw new TypeError(`${call} wants the directory of the store, as in "./data"`);
}

/**
 * A new address and token for the store in this directory. Rejects with `UNAVAILABLE` when there is no place,
 * or no such directory.
 */
export async function choosePlace(directory: string): Promise<ControlPlace> {
  const token = randomBytes(32).toString("base64url");
  const digest = createHash("sha256")
    .update(await pathOf(directory))
    .digest("hex")
    .slice(0, 16);
  const { pid } = process;
  if (process.platform === "win32") {
    const chance = randomBytes(8).toString("hex");
    return { address: `\\\\.\\pipe\\coppice-${digest}-${chance}`, token, pid };
  }
  for (const folder of runtimeDirectories()) {
    const address = join(folder, `${digest}.sock`);
    if (Buffer.byteLength(address) <= SOCKET_PATH_BYTES_MAX && (await isOurs(folder)))
      return { address, token, pid };
  }
  throw new CoppiceError("UNAVAILABLE", "there is no directory for the control socket; set XDG_RUNTIME_DIR");
}

async function pathOf(directory: string): Promise<string> {
  try {
    return await realpath(directory);
  } catch (cause) {
    const message = "the directory of the store, where its control is offered, cannot be found";
    throw new CoppiceError("UNAVAILABLE", message, { cause, details: { location: directory } });
  }
}

/** Replaces what an earlier owner left. */
export async function writePlace(directory: string, place: ControlPlace): Promise<void> {
  const file = join(directory, CONTROL_FILE);
  const draft = `${file}.new`;
  await rm(draft, { force: true });
  await writeFile(draft, `${JSON.stringify({ version: 1, ...place })}\n`, { flag: "wx", mode: 0o600 });
  await rename(draft, file);
}

/** `undefined` when there is none that can be read. */
export async function readPlace(directory: string): Promise<ControlPlace | undefined> {
  try {
    const text = await readFile(join(directory, CONTROL_FILE), "utf8");
    const { version, address, token, pid } = JSON.parse(text.slice(0, FILE_BYTES_MAX)) as Record<
      string,
      unknown
    >;
    if (version !== 1 || typeof address !== "string" || typeof token !== "string") return undefined;
    return { address, token, pid: Number(pid) };
  } catch {
    return undefined;
  }
}

export async function removePlace(directory: string, { token }: ControlPlace): Promise<void> {
  const present = await readPlace(directory);
  if (present?.token === token) await rm(join(directory, CONTROL_FILE), { force: true });
}

function runtimeDirectories(): string[] {
  const { XDG_RUNTIME_DIR } = process.env;
  const user = `coppice-${process.getuid?.() ?? "user"}`;
  const given =
    XDG_RUNTIME_DIR === undefined || XDG_RUNTIME_DIR === "" ? [] : [join(XDG_RUNTIME_DIR, "coppice")];
  return [...given, join(tmpdir(), user), join("/tmp", user)];
}

/** Creates it when it is missing. Nobody else may own it, nor be able to change it. */
async function isOurs(folder: string): Promise<boolean> {
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const facts = await lstat(folder);
    if (!facts.isDirectory() || facts.uid !== process.getuid?.()) return false;
    if ((facts.mode & 0o077) !== 0) await chmod(folder, 0o700);
    return true;
  } catch {
    return false;
  }
}
