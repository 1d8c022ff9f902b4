/**
 * `coppice erase`: removes documents so that no key and no file of the store holds a byte of them. Like
 * `rm`, it takes metas along, asks on a terminal and wants `--yes` elsewhere.
 *
 * The files are rewritten once, after the last document.
 */

import type { Command } from "commander";
import { CommandError, EXIT, type ExitCode } from "../errors.js";
import { examples, type StoreOptions, storeCommand } from "../options.js";
import { printable } from "../output.js";
import type { Runtime } from "../runtime.js";
import { withStorage } from "../store.js";
import { assertMayAsk, confirmed, loadMetaIdOf, named, removalOf } from "./rm.js";

interface Options extends StoreOptions {
  readonly yes?: true;
  readonly reclaim: boolean;
}

export function eraseCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return storeCommand("erase", "remove documents, and every trace of them from the files of the store")
    .argument("<id...>", "the documents; deleted ones too")
    .option("-y, --yes", "do not ask; needed where there is no terminal")
    .option("--no-reclaim", "leave the bytes in the files until `compact --reclaim`")
    .addHelpText(
      "after",
      examples(["coppice erase notes", "asks first"], ["coppice erase a b c --yes", "three, without asking"]),
    )
    .action(async (ids: string[], options: Options) => done(await erase(runtime, ids, options)));
}

async function erase(runtime: Runtime, ids: readonly string[], options: Options): Promise<ExitCode> {
  const { out, err, signal } = runtime;
  assertMayAsk(runtime, options, "erase");
  return withStorage(runtime, { ...options, restores: false }, async (storage) => {
    if (!options.yes && !(await confirmed(runtime, `Erase ${named(ids)}, without a way back?`))) {
      throw new CommandError("FAILED", "nothing was erased");
    }
    const metaIdOf = await loadMetaIdOf();
    const erased: { id: string; existed: boolean; keys: number; metaKeys: number }[] = [];
    for (const id of ids) {
      signal.throwIfAborted();
      const metaId = metaIdOf(id);
      const metas = metaId === undefined ? { keys: 0 } : await storage.erase(metaId, { reclaim: false });
      const result = await storage.erase(id, { reclaim: options.reclaim && id === ids.at(-1) });
      erased.push({ id, ...result, metaKeys: metas.keys });
      const isAny = result.existed || result.keys > 0;
      if (options.json) continue;
      if (isAny || metas.keys > 0) await out.line(`erased ${removalOf(id, isAny, metas.keys > 0)}`);
      else await err.line(`${printable(id)}: there was nothing of it`);
    }
    if (options.json) await out.json({ erased });
    // Nothing of it is what was wanted, and not what somebody expects who has misspelt it.
    const isAll = erased.every(({ existed, keys, metaKeys }) => existed || keys + metaKeys > 0);
    return isAll ? EXIT.ok : EXIT.notFound;
  });
}
