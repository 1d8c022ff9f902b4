/**
 * What `coppice check` does before and around LevelDB: it looks at the files without LevelDB, and it does
 * all its work in a child, because LevelDB's native code may end the process that reads a damaged file. So
 * a check always ends with a report and an exit code.
 *
 * The child is the same command with the same streams, in a process group of its own, so that Ctrl-C
 * reaches it through its parent, once. When the parent dies, the child stops by itself.
 */

import { spawn } from "node:child_process";
import { decodeKey } from "coppice";
import { CommandError, EXIT, type ExitCode } from "./errors.js";
import { printable } from "./output.js";
import { loadPackage } from "./packages.js";
import type { Runtime } from "./runtime.js";

/** A place in a file, as it is shown. */
export interface FileDamage {
  readonly file: string;
  readonly offset: number;
  readonly what: string;
  /** The entries after the one key up to the other cannot be trusted; absent: not known which. */
  readonly keys?: { readonly after: unknown; readonly upTo: unknown };
}

/**
 * Damage in table files, beside which the rest can be read. Throws when logs or the MANIFEST are damaged:
 * opening the store would drop commits.
 */
export async function examineFiles(location: string): Promise<readonly FileDamage[]> {
  const { examineLevel } = await loadPackage("@coppice/level", () => import("@coppice/level"));
  const damage = (await examineLevel(location)).map(
    ({ file, offset, what, after, upTo }): FileDamage => ({
      file,
      offset,
      what,
      ...(upTo === undefined ? {} : { keys: { after: after && keyOf(after), upTo: keyOf(upTo) } }),
    }),
  );
  const worst = damage.find(({ file }) => !/\.(?:ldb|sst)$/.test(file));
  if (worst === undefined) return damage;
  throw new CommandError("CORRUPT", `the files of the store are damaged: ${placed(worst)}`, {
    hint: "Nothing was opened or changed. Keep a copy of the directory as it is; then restore a backup.",
    details: { files: damage },
  });
}

/** Tables shorten the keys of their index, so it may be no whole key. */
function keyOf(bytes: Uint8Array): unknown {
  try {
    return decodeKey(bytes);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    return Buffer.from(bytes).toString("latin1");
  }
}

export function placed({ file, offset, what, keys }: FileDamage): string {
  const shown = (key: unknown) => (key === undefined ? "the first" : printable(JSON.stringify(key)));
  const between = keys === undefined ? "" : `, keys after ${shown(keys.after)} up to ${shown(keys.upTo)}`;
  return `${file} at byte ${offset}: ${what}${between}`;
}

/**
 * Runs this command again as a child, and ends as it ends. `json`: nothing but JSON may reach the streams.
 */
export async function runInChild(
  runtime: Runtime,
  args: readonly string[],
  json: boolean,
): Promise<ExitCode> {
  const { signal, err } = runtime;
  signal.throwIfAborted();
  const child = spawn(process.execPath, [runtime.entry, ...args], {
    stdio: ["ignore", "inherit", json ? "pipe" : "inherit", "ipc"],
    env: { ...runtime.env, NODE_CHANNEL_FD: undefined },
    detached: true,
  });
  let said = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  const stop = () => child.kill("SIGINT");
  signal.addEventListener("abort", stop, { once: true });
  try {
    const ending = await new Promise<NodeJS.Signals | number | null>((resolve, reject) => {
      child.once("error", reject);
      child.once("close", (code, name) => resolve(name ?? code));
    });
    if (typeof ending === "number") {
      await err.write(said);
      return ending as ExitCode;
    }
    if (signal.aborted) return EXIT.interrupted;
    throw new CommandError(
      "CORRUPT",
      `LevelDB's own code ended the process that read the store (${ending})`,
      {
        hint: "Its files are damaged. Keep a copy of the directory as it is; then restore a backup.",
        details: { signal: ending, said: said.trim() },
      },
    );
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

/** For the child: stop, as for Ctrl-C, when the parent is gone; and let this process end by itself. */
export function followParent(): void {
  process.once("disconnect", () => process.kill(process.pid, "SIGINT"));
  process.channel?.unref();
}
