/**
 * `coppice erase`: removes documents so that no key and no file of the store holds a byte of them. Like
 * `rm`, it takes metas along, asks on a terminal and wants `--yes` elsewhere.
 *
 * The files are rewritten once, after the last document. Invariants: ids that can be none are refused before
 * anything is erased; a run that ends early says what it has erased, and whether files still hold it.
 */

import type { Command } from "commander";
import { checkId, type DocumentStorage, type EraseResult } from "coppice";
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

interface Erased extends EraseResult {
  readonly id: string;
  readonly hadMetas: boolean;
  /** What surely is erased: the metas, where it ended before the document was. */
  readonly erasedId: string;
}

async function erase(runtime: Runtime, ids: readonly string[], options: Options): Promise<ExitCode> {
  assertMayAsk(runtime, options, "erase");
  for (const id of ids) checkId(id);
  return withStorage(runtime, { ...options, restores: false }, async (storage) => {
    if (!options.yes && !(await confirmed(runtime, `Erase ${named(ids)}, without a way back?`))) {
      throw new CommandError("FAILED", "nothing was erased");
    }
    const erased: Erased[] = [];
    let isReclaimed = false;
    try {
      await eraseEach(runtime, storage, ids, erased).catch(async (error: unknown) => {
        // An interrupted run is to end soon, and the whole store is read and written there.
        if (!runtime.signal.aborted) isReclaimed = await reclaim(storage, erased, options).catch(() => false);
        throw error;
      });
      isReclaimed = await reclaim(storage, erased, options);
    } finally {
      await tell(runtime, erased, isReclaimed, options);
    }
    // Nothing of it is what was wanted, and not what somebody expects who has misspelt it.
    return erased.every(hadAny) ? EXIT.ok : EXIT.notFound;
  });
}

async function eraseEach(
  { signal }: Runtime,
  storage: DocumentStorage,
  ids: readonly string[],
  erased: Erased[],
): Promise<void> {
  const metaIdOf = await loadMetaIdOf();
  for (const id of ids) {
    signal.throwIfAborted();
    const metaId = metaIdOf(id);
    const metas = metaId === undefined ? undefined : await storage.erase(metaId, { reclaim: false });
    const hadMetas = metas !== undefined && metas.keys > 0;
    const index = erased.length;
    // Before the document, which may fail: they are gone all the same.
    if (hadMetas) erased.push({ id, existed: false, keys: 0, hadMetas, erasedId: metaId! });
    const result = await storage.erase(id, { reclaim: false });
    erased[index] = { id, ...result, hadMetas, erasedId: id };
  }
}

/** Whether no file holds what was erased: of a document that is erased, to erase it again does that alone. */
async function reclaim(
  storage: DocumentStorage,
  [first]: readonly Erased[],
  options: Options,
): Promise<boolean> {
  if (first === undefined || !options.reclaim) return false;
  await storage.erase(first.erasedId);
  return true;
}

function hadOwn({ existed, keys }: Erased): boolean {
  return existed || keys > 0;
}

function hadAny(each: Erased): boolean {
  return hadOwn(each) || each.hadMetas;
}

async function tell(
  { out, err }: Runtime,
  erased: readonly Erased[],
  isReclaimed: boolean,
  options: Options,
): Promise<void> {
  if (options.json) {
    const metas = erased.filter(({ hadMetas }) => hadMetas).map(({ id }) => id);
    const documents = erased.map(({ id, existed, keys }) => ({ id, existed, keys }));
    return out.json({ erased: documents, metas, reclaimed: isReclaimed });
  }
  // It may have been erased before, by a run that did not come to the files.
  const inFiles = isReclaimed
    ? "if files still held some, they do no more"
    : "files may still hold some until `coppice compact --all --reclaim`";
  for (const each of erased) {
    if (hadAny(each)) await out.line(`erased ${removalOf(each.id, hadOwn(each), each.hadMetas)}`);
    else await err.line(`${printable(each.id)}: there was nothing of it; ${inFiles}`);
  }
  if (isReclaimed || !options.reclaim || erased.length === 0) return;
  await err.line("note: the files still hold what was erased, until you repeat this command,");
  await err.line("or run `coppice compact --all --reclaim`");
}
