/**
 * `coppice export`, and `coppice import document`: one document as a file that checks itself. `-` is the
 * standard output or input.
 *
 * Invariant: an export that fails leaves no file that could be taken for a whole one: it is written beside
 * its name and named at the end. A file that exists is overwritten only with `--force`, and then at once; a
 * symbolic link stays and is written through; what is no file, a device say, is never replaced by one.
 */

import { once } from "node:events";
import { createReadStream, createWriteStream, existsSync, type Stats } from "node:fs";
import { link, readlink, realpath, rename, rm, stat } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import type { Command } from "commander";
import { DocumentStorage, type Moment, memoryBackend } from "coppice";
import { CommandError, EXIT, type ExitCode } from "../errors.js";
import { AT_WITH_EVENTS, examples, modelsCommand, parseMoment, type StoreOptions } from "../options.js";
import { byteSize, count, printable } from "../output.js";
import { loadModels } from "../packages.js";
import type { Runtime } from "../runtime.js";
import { isAbsent, withStorage } from "../store.js";
import { existing, notYet } from "./document.js";

/** Larger files are tried only where they go: the trial is in memory. */
const TRIAL_BYTES_MAX = 64 * 1024 * 1024;

interface ExportOptions extends StoreOptions {
  readonly force?: true;
  readonly at?: Moment;
}

interface ImportOptions extends StoreOptions {
  readonly id?: string;
  readonly recreate?: true;
}

export function exportCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return modelsCommand("export", "write one document, with its history, to a file that checks itself")
    .argument("<id>", "the document")
    .argument("[file]", "where to; - is the standard output", "-")
    .option("--at <moment>", AT_WITH_EVENTS, parseMoment)
    .option("--force", "overwrite the file if it exists")
    .addHelpText(
      "after",
      examples(
        ["coppice export notes notes.coppice", "into a file"],
        ["coppice export notes | ssh other coppice import document", "to another machine"],
      ),
    )
    .action(async (id: string, file: string, options: ExportOptions) =>
      done(await exportOne(runtime, id, file, options)),
    );
}

export function importDocumentCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return modelsCommand("document", "one document, from a file that `coppice export` wrote")
    .argument("[file]", "where from; - is the standard input", "-")
    .option("--id <id>", "import under this id; default: the id of the export")
    .option("--recreate", "take an id that was deleted before")
    .addHelpText("after", examples(["coppice import document notes.coppice", "may be repeated"]))
    .action(async (file: string, options: ImportOptions) => done(await importOne(runtime, file, options)));
}

async function exportOne(
  runtime: Runtime,
  id: string,
  file: string,
  options: ExportOptions,
): Promise<ExitCode> {
  const { err, signal } = runtime;
  const at = options.at === undefined ? {} : { at: options.at };
  const force = options.force === true;
  if (file === "")
    throw new CommandError("USAGE", "export wants a file, and its name is empty", {
      hint: "As in `coppice export notes notes.coppice`; - is the standard output.",
    });
  const place = file === "-" ? file : await placeOf(file, force);
  if (file === "-" && runtime.out.terminal)
    throw new CommandError("USAGE", "an export is binary: name a file, or redirect", {
      hint: "As in `coppice export notes notes.coppice`, or with | or > behind it.",
    });
  return withStorage(runtime, { ...options, onlyReads: true, ids: [id] }, async (storage) => {
    await existing(storage, id);
    const stream = notEmpty(id, storage.export(id, { ...at, signal }));
    const bytes =
      file === "-" ? await toOutput(runtime, stream) : await toFile({ file, place }, stream, force);
    if (file !== "-" && !options.json) await err.line(`exported ${printable(id)} (${byteSize(bytes)})`);
    if (file !== "-" && options.json) await runtime.out.json({ id, file, bytes });
    return EXIT.ok;
  });
}

/** The library's stream of no document is empty, and an empty file would be taken for an export. */
async function* notEmpty(id: string, stream: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let isEmpty = true;
  for await (const chunk of stream) {
    isEmpty = false;
    yield chunk;
  }
  if (isEmpty) throw notYet(id);
}

async function toOutput({ signal }: Runtime, stream: AsyncIterable<Uint8Array>): Promise<number> {
  let bytes = 0;
  for await (const chunk of stream) {
    bytes += chunk.length;
    if (!process.stdout.write(chunk)) await once(process.stdout, "drain", { signal });
  }
  return bytes;
}

/** Where the name leads. Throws for what is there and is not to be replaced, or never can be. */
async function placeOf(file: string, force: boolean): Promise<string> {
  // What else is wrong with the name is told when it is written.
  const there = await stat(file).catch(() => undefined);
  if (there === undefined) return whereLinkLeads(file);
  if (!there.isFile()) throw noFileError(file, there);
  if (!force) throw existsError(file);
  return realpath(file);
}

/** Of a name of nothing, or of a link to nothing yet. */
async function whereLinkLeads(file: string): Promise<string> {
  const to = await readlink(file).catch(() => undefined);
  return to === undefined ? file : whereLinkLeads(resolve(await realpath(dirname(file)), to));
}

async function toFile(
  { file, place }: { readonly file: string; readonly place: string },
  stream: AsyncIterable<Uint8Array>,
  force: boolean,
): Promise<number> {
  // Of this process alone: two exports to one name never write into each other's.
  const part = `${place}.${process.pid}.part`;
  const target = createWriteStream(part, { flush: true });
  let bytes = 0;
  try {
    await once(target, "open");
    for await (const chunk of stream) {
      bytes += chunk.length;
      if (!target.write(chunk)) await once(target, "drain");
    }
    target.end();
    await once(target, "close");
    if (force) await rename(part, place);
    else await nameNew(part, place);
    return bytes;
  } catch (error) {
    target.destroy();
    await rm(part, { force: true });
    throw named(error, part, file);
  }
}

/** What the system says of the part is said of the file, whose name the user knows. */
function named(error: unknown, part: string, file: string): unknown {
  if (!(error instanceof Error) || (error as NodeJS.ErrnoException).path !== part) return error;
  return Object.assign(error, { message: error.message.replaceAll(part, file), path: file });
}

/** Gives the whole file its name, unless somebody has made one of that name meanwhile. */
async function nameNew(part: string, file: string): Promise<void> {
  try {
    await link(part, file);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EEXIST" || existsSync(file)) throw existsError(file);
    // There are file systems without links.
    await rename(part, file);
    return;
  }
  await rm(part, { force: true });
}

/** Of a name that only `--force` overwrites. */
export function existsError(file: string): CommandError {
  return new CommandError("EXISTS", `there is a file ${printable(file)} already; nothing was written`, {
    hint: "Choose another name, or use --force.",
    details: { file },
  });
}

/** `--force` does not help there: a file in its place is not what anybody wants. */
function noFileError(file: string, there: Stats): CommandError {
  const shown = printable(file);
  const [what, hint] = there.isDirectory()
    ? ["a directory", `Name a file in it, as in ${printable(resolve(file, "notes.coppice"))}.`]
    : there.isSocket()
      ? ["a socket", "Name a file; - is the standard output."]
      : [there.isFIFO() ? "a pipe" : "a device", `Use - and redirect: coppice export <id> - > ${shown}`];
  return new CommandError("EXISTS", `${shown} is ${what}, and no file; nothing was written`, {
    hint,
    details: { file },
  });
}

async function importOne(runtime: Runtime, file: string, options: ImportOptions): Promise<ExitCode> {
  const { out, signal, input } = runtime;
  const { id, recreate = false } = options;
  if (file === "-" && input.isTTY) {
    throw new CommandError("USAGE", "import document wants a file, or bytes on the standard input", {
      hint: "As in `coppice import document notes.coppice`.",
    });
  }
  if (file !== "-") await assertFile(file);
  if (file !== "-" && (await isAbsent(options.store))) await tryImport(file, options, signal);
  const wanted = { ...options, create: true, tellsNew: true };
  return withStorage(runtime, wanted, async (storage, { isNew }) => {
    const stream = file === "-" ? input : createReadStream(file);
    const result = await storage.import(stream, { ...(id === undefined ? {} : { id }), recreate, signal });
    if (options.json) await out.json({ ...result, created: isNew });
    else await out.line(`${result.outcome} ${printable(result.id)} at clock ${count(result.clock)}`);
    return EXIT.ok;
  });
}

/** What this user may not see is told as the system tells it. */
async function assertFile(file: string): Promise<void> {
  const there = await stat(file).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT" && error.code !== "ENOTDIR") throw error;
    throw new CommandError("NOT_FOUND", `there is no file ${printable(file)}`, {
      hint: "`coppice export <id> <file>` writes one.",
      details: { file },
    });
  });
  if (there.isDirectory())
    throw new CommandError(
      "FAILED",
      `${printable(file)} is a directory, and no export; nothing was imported`,
      {
        hint: "Name a file that `coppice export` wrote; `coppice copy` takes a whole store.",
        details: { system: "EISDIR", file },
      },
    );
}

/** Throws for what cannot be imported, before there is a new store for it. */
async function tryImport(file: string, { models }: ImportOptions, signal: AbortSignal): Promise<void> {
  if ((await stat(file)).size > TRIAL_BYTES_MAX) return;
  const wanted = { backend: memoryBackend(), models: await loadModels(models) };
  const storage = await DocumentStorage.open(wanted);
  try {
    await storage.import(createReadStream(file), { signal });
  } finally {
    await storage.close({ discard: true });
  }
}
