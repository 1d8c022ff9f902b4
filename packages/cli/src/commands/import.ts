/**
 * `coppice import y-leveldb`: moves the documents of a y-leveldb directory into a store, each verified by
 * loading it again.
 *
 * Invariants: nothing is written to the source but by its opening; a stop comes between two documents, and
 * the next run goes on from there.
 */

import { readdir } from "node:fs/promises";
import { resolve } from "node:path";
import type { ImportedDocument, ImportReport } from "@coppice/yjs/y-leveldb";
import { Command } from "commander";
import { CommandError, EXIT, type ExitCode } from "../errors.js";
import { type Failure, listed, tellFailures } from "../failures.js";
import { examples, type StoreOptions, storeCommand } from "../options.js";
import { count, plural, printable } from "../output.js";
import { loadPackage } from "../packages.js";
import { Progress } from "../progress.js";
import { type Runtime, unlessPipeClosed } from "../runtime.js";
import { parseStore, withStorage } from "../store.js";
import { importDocumentCommand } from "./export.js";

export function importCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  const yLeveldb = storeCommand("y-leveldb", "the documents and metas of a directory of y-leveldb")
    .argument("<directory>", "what LeveldbPersistence was given; nobody may have it open")
    .addHelpText(
      "after",
      examples(
        ["coppice import y-leveldb ./old --store level:./data", "may be repeated: goes on where it ended"],
        ["coppice import y-leveldb ./old --json", "each document, then the sum, as JSON lines"],
      ),
    )
    .action(async (directory: string, options: StoreOptions) =>
      done(await importFrom(runtime, directory, options)),
    );
  return new Command("import")
    .description("move documents in: one from an export, or all of a y-leveldb directory")
    .addCommand(importDocumentCommand(runtime, done))
    .addCommand(yLeveldb)
    .on("command:*", ([word = "", source = word]: string[]) => {
      const from = printable(source);
      throw new CommandError("USAGE", `import does not know what ${printable(word)} is`, {
        hint: word.startsWith("automerge")
          ? "No command moves such data, a program does: see docs/coming-from-automerge-repo.md"
          : `coppice import document ${from}, or coppice import y-leveldb ${from}?`,
      });
    });
}

async function importFrom(runtime: Runtime, directory: string, options: StoreOptions): Promise<ExitCode> {
  const { out, err, signal } = runtime;
  const target = parseStore(options.store).location;
  if (target !== undefined && resolve(target) === resolve(directory)) {
    throw new CommandError("USAGE", "import y-leveldb wants two directories, and these are one", {
      hint: "Name another one for the documents: --store level:<directory>",
    });
  }
  const { holdsYLeveldb, importYLeveldb } = await loadPackage(
    "@coppice/yjs",
    () => import("@coppice/yjs/y-leveldb"),
  );
  await assertDatabase(directory);
  const source = await openSource(directory);
  const encoded: string[] = [];
  try {
    // Before there is a new store for it.
    if (!(await holdsYLeveldb(source))) throw nothingIn(directory);
    let created = false;
    const wanted = { ...options, create: true, tellsNew: true };
    const report = await withStorage(runtime, wanted, async (storage, { isNew }) => {
      created = isNew;
      const progress = new Progress(err, "importing");
      let seen = 0;
      const lines: Promise<void>[] = [];
      const onDocument = (document: ImportedDocument) => {
        progress.update(++seen);
        const decoded = document.outcome === "failed" ? undefined : decodedOf(document.id);
        if (decoded !== undefined) encoded.push(document.id);
        if (options.json) lines.push(out.json({ ...document, ...(decoded !== undefined && { decoded }) }));
      };
      try {
        const all = await importYLeveldb(source, storage, { onDocument, signal });
        // In here, so that a store which was made for it is told of.
        if (all.documents === 0) throw nothingIn(directory);
        return all;
      } finally {
        progress.finish();
        await Promise.all(lines);
      }
    });
    await unlessPipeClosed(() =>
      options.json
        ? out.json({ ...summary(report), percentEncoded: encoded.length, created })
        : tell(runtime, report),
    );
    if (!options.json) await tellEncoded(runtime, encoded);
    if (report.problems.some(({ outcome }) => outcome === "damaged")) return EXIT.corrupt;
    return report.problems.length > 0 ? EXIT.failed : EXIT.ok;
  } finally {
    await source.close();
  }
}

function nothingIn(directory: string): CommandError {
  return new CommandError("NOT_FOUND", `${printable(directory)} holds no documents of y-leveldb`, {
    hint: "Name the directory that LeveldbPersistence of y-leveldb was given.",
    details: { directory: resolve(directory) },
  });
}

async function tell({ out, err }: Runtime, report: ImportReport): Promise<void> {
  const { documents, imported, present, appended, problems } = report;
  const already = present === 0 ? "" : `, ${count(present)} were there already`;
  const moved = `${count(imported)} of ${plural(documents, "document")}`;
  await out.line(`imported ${moved} (${plural(appended, "update")})${already}`);
  await tellFailures(err, failuresOf(report), problems.length, '""');
  if (problems.some(({ code }) => code === "DELETED")) await err.line(DELETED);
}

function failuresOf({ problems }: ImportReport): readonly Failure[] {
  return problems.map(({ id, outcome, code = "", reason = "" }) => ({
    ...{ id, outcome, code },
    message: code === "DELETED" ? "it was deleted from this store" : reason,
  }));
}

/** As `compact` and `copy` count and list what failed. */
function summary(report: ImportReport): object {
  const { problems, ...counts } = report;
  return { ...counts, failed: problems.length, failures: listed(failuresOf(report)) };
}

const DELETED =
  "what was deleted is not begun anew here: import it into another store, `coppice export` it there, and\n" +
  "`coppice import document --recreate` it here";

/**
 * A server of y-websocket names documents by the URL as it comes, ours by what it stands for: that, where it
 * is another.
 */
function decodedOf(id: string): string | undefined {
  try {
    const decoded = decodeURIComponent(id);
    return decoded === id ? undefined : decoded;
  } catch {
    return undefined;
  }
}

async function tellEncoded({ err }: Runtime, [first, ...others]: readonly string[]): Promise<void> {
  if (first === undefined) return;
  const are = others.length === 0 ? "1 id is" : `${count(others.length + 1)} ids are`;
  await err.line(
    `note: ${are} percent-encoded, as ${printable(first)}; coppice serve looks for` +
      ` ${printable(decodeURIComponent(first))}: see docs/coming-from-y-leveldb.md`,
  );
}

async function assertDatabase(directory: string): Promise<void> {
  const names = await readdir(directory).catch((error: NodeJS.ErrnoException): string[] => {
    if (error.code === "ENOENT" || error.code === "ENOTDIR") return [];
    throw error;
  });
  if (names.includes("CURRENT")) return;
  throw new CommandError("NOT_FOUND", `there is no LevelDB database at ${printable(directory)}`, {
    hint: "Name the directory that y-leveldb was given; it has a file CURRENT.",
    details: { directory: resolve(directory) },
  });
}

async function openSource(directory: string) {
  const { ClassicLevel } = await loadPackage("classic-level", () => import("classic-level"));
  const source = new ClassicLevel<Uint8Array, Uint8Array>(directory, {
    createIfMissing: false,
    keyEncoding: "buffer",
    valueEncoding: "buffer",
  });
  try {
    await source.open();
  } catch (error) {
    const cause = (error as Error).cause as NodeJS.ErrnoException | undefined;
    if (cause?.code !== "LEVEL_LOCKED") throw error;
    throw new CommandError("LOCKED", `another process has ${printable(directory)} open`, {
      hint: "Stop the server that writes to it, then import.",
      details: { directory: resolve(directory) },
    });
  }
  return source;
}
