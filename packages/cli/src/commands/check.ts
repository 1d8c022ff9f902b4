/**
 * `coppice check`: verifies every invariant of one document or of all of them, and changes nothing unless
 * told to repair. A repair sets damaged bytes aside under a name of their own; it deletes nothing.
 *
 * Invariant: Ctrl-C comes between two documents of a repair, so that each is repaired whole or not at all.
 */

import type { FileLogReport } from "@coppice/file";
import type { Command } from "commander";
import { type CheckProblem, type CheckReport, isCoppiceError } from "coppice";
import { EXIT, type ExitCode } from "../errors.js";
import { examples, type StoreOptions, storeCommand } from "../options.js";
import { count, type Output, plural, printable } from "../output.js";
import { Progress } from "../progress.js";
import type { Runtime } from "../runtime.js";
import { loadFileLog, parseStore, waiting, withStorage } from "../store.js";
import { existing } from "./document.js";

const MENDS = "`coppice check --repair` mends what it can";

interface Options extends StoreOptions {
  readonly repair?: true;
}

export function checkCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return storeCommand("check", "verify one document, or the whole store")
    .argument("[id]", "the document; default: all of them")
    .option("--repair", "mend what can be mended; damaged bytes are set aside, never deleted")
    .addHelpText(
      "after",
      `${examples(["coppice check", "the whole store"], ["coppice check notes --repair", "one document"])}\n
Ends with 1 when problems are left, with 0 when there are none or --repair mended all of them.`,
    )
    .action(async (id: string | undefined, options: Options) => done(await check(runtime, id, options)));
}

/** The files of a file log come first: while one is damaged the storage above cannot open. */
async function check(runtime: Runtime, id: string | undefined, options: Options): Promise<ExitCode> {
  const files = await checkFiles(runtime, options);
  if (files !== undefined && files.damage.length > 0 && !files.repaired) {
    if (options.json) await runtime.out.json({ clean: false, files });
    return EXIT.failed;
  }
  return checkDocuments(runtime, id, options, files);
}

/** `undefined` for stores of other kinds, and where there is none. */
async function checkFiles(runtime: Runtime, options: Options): Promise<FileLogReport | undefined> {
  const address = parseStore(options.store);
  if (address.scheme !== "file") return undefined;
  const { checkFileLog } = await loadFileLog();
  const repair = options.repair === true;
  const work = () => checkFileLog(address.location, { repair });
  const report = await waiting(runtime, address, options, work).catch((error: unknown) => {
    // No store: opening it says so, and what to do.
    if (isCoppiceError(error, "UNAVAILABLE")) return undefined;
    throw error;
  });
  if (report === undefined || options.json || report.damage.length === 0) return report;
  const { out } = runtime;
  for (const { file, position, bytes, message, quarantine } of report.damage) {
    const mark = report.repaired ? out.style("yellow", "repaired") : out.style("red", "problem ");
    const where = `${file}, ${count(bytes)} bytes at ${count(position)}`;
    const kept = quarantine === undefined ? "" : `; the damaged file is kept as ${quarantine}`;
    await out.line(`${mark} ${where}: ${message}${kept}`);
  }
  if (report.documents.length > 0) {
    await out.line(`documents beside it: ${report.documents.slice(0, 20).map(printable).join(", ")}`);
  }
  const found = `${plural(report.frames, "commit")} and ${plural(report.records, "record")} are whole`;
  await out.line(report.repaired ? `the files are written anew: ${found}` : `${found}; ${MENDS}`);
  return report;
}

function checkDocuments(
  runtime: Runtime,
  id: string | undefined,
  options: Options,
  files: FileLogReport | undefined,
): Promise<ExitCode> {
  return withStorage(runtime, options, async (storage) => {
    const { out, err, signal } = runtime;
    const repair = options.repair === true;
    const progress = new Progress(err, repair ? "repairing" : "checking");
    const onProgress = (done: number) => progress.update(done, "documents");
    const work = storage.check({ ...(id === undefined ? {} : { id }), repair, signal, onProgress });
    const report = await work.finally(() => progress.finish());
    if (id !== undefined && report.documents === 0 && report.problems.length === 0)
      await existing(storage, id);
    await (options.json
      ? out.json(files === undefined ? report : { ...report, files })
      : tell(out, report, repair));
    return report.clean ? EXIT.ok : EXIT.failed;
  });
}

async function tell(out: Output, report: CheckReport, repair: boolean): Promise<void> {
  const { problems, documents, events, quarantined, garbageKeys } = report;
  for (const problem of problems) await out.line(sentence(out, problem));
  const left = problems.filter(({ repaired }) => !repaired).length;
  const mark = report.clean ? out.style("green", "ok") : out.style("red", `${plural(left, "problem")}:`);
  const facts = [plural(documents, "document"), plural(events, "event")];
  if (problems.length > left) facts.push(`${count(problems.length - left)} repaired`);
  if (quarantined > 0) facts.push(`${plural(quarantined, "damaged value")} set aside`);
  if (garbageKeys > 0 && !repair) facts.push(`${plural(garbageKeys, "key")} to sweep`);
  await out.line(`${mark} ${facts.join(", ")}`);
  if (left > 0 && !repair) await out.line(MENDS);
}

function sentence(out: Output, { id, code, message, repaired, lostEvents = 0 }: CheckProblem): string {
  const mark = repaired ? out.style("yellow", "repaired") : out.style("red", "problem ");
  const lost = lostEvents > 0 ? ` (${plural(lostEvents, "event")} cannot be brought back)` : "";
  return `${mark} ${printable(id)}: ${code}: ${printable(message)}${lost}`;
}
