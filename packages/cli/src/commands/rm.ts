/**
 * `coppice rm`: removes documents and leaves tombstones, so that their clocks are never used again. What
 * `setMeta` of the y-leveldb drop-in keeps beside a document goes with it. On a terminal it asks; elsewhere
 * it wants `--yes`, because nothing that runs by itself should delete by a slip.
 */

import { createInterface } from "node:readline/promises";
import type { Command } from "commander";
import { type DocumentStorage, isCoppiceError, LIMITS } from "coppice";
import { CommandError, EXIT, type ExitCode } from "../errors.js";
import { examples, type StoreOptions, storeCommand } from "../options.js";
import { plural, printable } from "../output.js";
import { loadPackage } from "../packages.js";
import type { Runtime } from "../runtime.js";
import { withStorage } from "../store.js";
import { noDocument } from "./document.js";

const NAMED_MAX = 5;

interface Options extends StoreOptions {
  readonly yes?: true;
}

export function rmCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return storeCommand("rm", "remove documents")
    .argument("<id...>", "the documents")
    .option("-y, --yes", "do not ask; needed where there is no terminal")
    .addHelpText(
      "after",
      examples(["coppice rm notes", "asks first"], ["coppice rm a b c --yes", "three, without asking"]),
    )
    .action(async (ids: string[], options: Options) => done(await remove(runtime, ids, options)));
}

async function remove(runtime: Runtime, ids: readonly string[], options: Options): Promise<ExitCode> {
  const { out, signal } = runtime;
  assertMayAsk(runtime, options, "rm");
  return withStorage(runtime, { ...options, restores: false }, async (storage) => {
    const metaIdOf = await loadMetaIdOf();
    const exists = async (id?: string) => id !== undefined && (await isThere(storage, id));
    const found = await Promise.all(
      ids.map(async (id) => (await exists(id)) || (await exists(metaIdOf(id)))),
    );
    const missing = ids.filter((_, index) => !found[index]);
    if (missing[0] !== undefined) throw noDocument(missing[0]);
    if (!options.yes && !(await confirmed(runtime, `Remove ${named(ids)}?`))) {
      throw new CommandError("FAILED", "nothing was removed");
    }
    const [removed, metas]: [string[], string[]] = [[], []];
    try {
      for (const id of ids) {
        signal.throwIfAborted();
        // First: a run that ends in between leaves a document that this command finds again.
        const metaId = metaIdOf(id);
        const hadMetas = metaId !== undefined && (await storage.delete(metaId));
        if (hadMetas) metas.push(id);
        const existed = await storage.delete(id);
        if (existed) removed.push(id);
        if (!options.json) await out.line(`removed ${removalOf(id, existed, hadMetas)}`);
      }
    } finally {
      if (options.json) await out.json({ removed, metas });
    }
    return EXIT.ok;
  });
}

/** Also one that is damaged, or of which only a rest is left: it can be removed. */
async function isThere(storage: Pick<DocumentStorage, "info" | "check">, id: string): Promise<boolean> {
  try {
    return (await storage.info(id)) !== undefined || !(await storage.check({ id })).clean;
  } catch (error) {
    if (isCoppiceError(error, "CORRUPT")) return true;
    throw error;
  }
}

/** The id under which y-leveldb's metas of a document are kept; `undefined`: too long, so it has none. */
export async function loadMetaIdOf(): Promise<(id: string) => string | undefined> {
  const { metaId } = await loadPackage("@coppice/yjs", () => import("@coppice/yjs/y-leveldb"));
  return (id) => (Buffer.byteLength(metaId(id)) > LIMITS.idBytesMax ? undefined : metaId(id));
}

export function removalOf(id: string, existed: boolean, hadMetas: boolean): string {
  if (!hadMetas) return printable(id);
  return existed ? `${printable(id)} and its metas` : `the metas of ${printable(id)}`;
}

/** Throws where nobody can be asked and `--yes` was not said. */
export function assertMayAsk({ input, err }: Runtime, { yes, json }: Options, command: string): void {
  if (yes || (input.isTTY === true && err.terminal && !json)) return;
  const when = json ? "does not ask with --json" : "asks only on a terminal";
  throw new CommandError("USAGE", `${command} ${when}; nothing was removed`, {
    hint: "Say --yes to remove without being asked.",
  });
}

/** What somebody is asked about. */
export function named(ids: readonly string[]): string {
  const first = ids.slice(0, NAMED_MAX).map((id) => `"${printable(id)}"`);
  const more = ids.length - first.length;
  return `${first.join(", ")}${more > 0 ? `, and ${plural(more, "more document")}` : ""}`;
}

/** Asks on the terminal; anything but yes is no. */
export async function confirmed(runtime: Runtime, question: string): Promise<boolean> {
  const dialogue = createInterface({ input: runtime.input, output: process.stderr });
  try {
    // In raw mode the terminal hands Ctrl-C to readline, which passes it on to the process here.
    dialogue.on("SIGINT", () => process.kill(process.pid, "SIGINT"));
    const answer = await dialogue.question(`${question} [y/N] `, { signal: runtime.signal });
    return /^y(es)?$/i.test(answer.trim());
  } catch (error) {
    runtime.signal.throwIfAborted();
    throw error;
  } finally {
    dialogue.close();
  }
}
