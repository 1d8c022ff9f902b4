/**
 * `coppice check`: verifies every invariant of one document or of all of them, and changes nothing unless
 * told to repair. A repair sets damaged bytes aside under a name of their own; it deletes nothing.
 *
 * On LevelDB it runs in a child (`examination.ts`). Where opening refuses the files, it names what is wrong
 * with them, and goes on around what cannot be read.
 *
 * Invariant: Ctrl-C comes between two documents of a repair, so that each is repaired whole or not at all.
 */

import type { FileLogReport } from "@coppice/file";
import type { Command } from "commander";
import { type CheckProblem, type CheckReport, type CoppiceError, isCoppiceError } from "coppice";
import { findOwner } from "coppice/control";
import { CommandError, EXIT, type ExitCode, modelHint } from "../errors.js";
import { examineFiles, type FileDamage, followParent, placed, runInChild } from "../examination.js";
import { checkFiles, isOfLog } from "../file-check.js";
import { examples, modelsCommand, type StoreOptions } from "../options.js";
import { count, type Output, plural, printable } from "../output.js";
import { Progress } from "../progress.js";
import { type Runtime, unlessPipeClosed } from "../runtime.js";
import { assertStore, noteOwner, parseStore, refuseOtherScheme, type Store, withStorage } from "../store.js";
import { existing } from "./document.js";

const CHILD = "check-child";
/** Of documents whose model is not there, so many are asked for it. */
const ASKED_MAX = 100;

interface Options extends StoreOptions {
  readonly repair?: true;
}

const BEYOND_REPAIR_HINT =
  "of what is still damaged nothing is left to load: bring it back from a backup (`coppice copy <backup> " +
  "<store> --prefix <id> --replace`), or remove it (`coppice rm`, `coppice erase`)";
/** A repair leaves a document alone where one of these is found in it, whatever else is damaged. */
const UNTOUCHED = /^(?:model-unknown|(?:state-)?format-unsupported|log-overlap|unreadable)$/;
/** LevelDB's tables hold many documents each, and nothing here can write one anew. */
const FILES_HINT =
  "damaged files of LevelDB are not repaired: keep a copy of the directory, and restore a backup; " +
  "or save what can be read with `coppice copy --damaged <store> <new store>`";

const CHUNKS =
  "holds chunks of AutomergeRepoStorage, which are not checked; `coppice dump` verifies their checksums";

export function checkCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return modelsCommand("check", "verify one document, or the whole store")
    .argument("[id]", "the document; default: all of them")
    .option("--repair", "mend what can be mended; damaged bytes are set aside, never deleted")
    .addHelpText(
      "after",
      `${examples(["coppice check", "the whole store"], ["coppice check notes --repair", "one document"])}\n
Ends with 0 when there are no problems, or --repair mended all of them and nothing was lost;
with 1 when problems are left, or --repair could not bring everything back;
and with 5 when files of the store itself are damaged.`,
    )
    .action(async (id: string | undefined, options: Options) => done(await check(runtime, id, options)));
}

/** Not for people: what `check` starts as its child. */
export function checkChildCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return modelsCommand(CHILD, "verify, in this process")
    .argument("[id]")
    .option("--repair")
    .action(async (id: string | undefined, options: Options) => {
      followParent();
      done(await checkHere(runtime, id, options));
    });
}

/** The owner of an open store checks it itself: its files change while they are looked at from outside. */
async function check(runtime: Runtime, id: string | undefined, options: Options): Promise<ExitCode> {
  const address = parseStore(options.store);
  if (address.scheme === "memory") return checkHere(runtime, id, options);
  if (address.scheme === "level") await assertStore(address, options.store);
  else await refuseOtherScheme(address);
  const owner = await findOwner(address.location);
  if (owner !== undefined) {
    await noteOwner(runtime, options, owner);
    return report(runtime, id, options, owner, { files: [] });
  }
  if (address.scheme === "file") return checkFileLog(runtime, id, options);
  const flags = [...(options.json ? ["--json"] : []), ...(options.repair ? ["--repair"] : [])];
  const wait = options.wait === undefined ? [] : ["--wait", `${options.wait}ms`];
  const ids = id === undefined ? [] : ["--", id];
  const models = options.models === undefined ? [] : [`--models=${options.models}`];
  const args = [CHILD, "--store", options.store, ...flags, ...wait, ...models, ...ids];
  return runInChild(runtime, args, options.json === true);
}

/** No native code reads its files, so no child is needed. */
async function checkFileLog(runtime: Runtime, id: string | undefined, options: Options): Promise<ExitCode> {
  const files = await checkFiles(runtime, options, options.repair === true);
  if (files === undefined || files.damage.length === 0 || files.repaired) {
    return checkHere(runtime, id, options, files);
  }
  const none = { documents: 0, events: 0, problems: [], lost: [], quarantined: 0, garbageKeys: 0 };
  const found = { ...runOf(options), ...none, clean: false, fileLog: files };
  if (options.json) await unlessPipeClosed(() => runtime.out.json(found));
  return EXIT.corrupt;
}

async function checkHere(
  runtime: Runtime,
  id: string | undefined,
  options: Options,
  fileLog?: FileLogReport,
): Promise<ExitCode> {
  const { scheme, location } = parseStore(options.store);
  // A file log that cannot be written, a backup say, is checked as it can be read.
  const onlyReads = scheme === "file" && options.repair !== true;
  let opened = false;
  try {
    return await withStorage(runtime, { ...options, onlyReads }, async (storage, { holdsChunks }) => {
      opened = true;
      const chunks = await tellChunks(runtime, options, holdsChunks);
      return report(runtime, id, options, storage, { files: [], fileLog, chunks });
    });
  } catch (error) {
    if (opened || scheme !== "level" || !isCoppiceError(error, "CORRUPT")) throw error;
    // Opening has looked at all files and refused them: says what is damaged, and checks the rest.
    const files = await examineFiles(location);
    if (files.length === 0) throw error;
    return withStorage(runtime, { ...options, verifyTables: false }, async (storage, { holdsChunks }) => {
      const chunks = await tellChunks(runtime, options, holdsChunks);
      return report(runtime, id, options, storage, { files, fileLog, chunks });
    });
  }
}

/** What is said of a store beside what a check of its documents finds. */
interface Beside {
  readonly files: readonly FileDamage[];
  readonly fileLog?: FileLogReport | undefined;
  /** There are chunks of AutomergeRepoStorage. */
  readonly chunks?: boolean;
}

/** Nobody is to take "0 documents, ok" for a check of them. */
async function tellChunks(
  { err }: Runtime,
  { store, json }: Options,
  holdsChunks: () => Promise<boolean>,
): Promise<boolean> {
  const chunks = await holdsChunks();
  if (chunks && !json) await err.line(`note: ${printable(store)} ${CHUNKS}`);
  return chunks;
}

async function report(
  runtime: Runtime,
  id: string | undefined,
  options: Options,
  storage: Store,
  { files, fileLog, chunks }: Beside,
): Promise<ExitCode> {
  const { out, err, signal } = runtime;
  const repair = options.repair === true;
  if (!options.json) {
    for (const file of files) await out.line(`${out.style("red", "damaged ")} ${placed(file)}`);
  }
  const progress = new Progress(err, repair ? "repairing" : "checking");
  const onProgress = (done: number) => progress.update(done, "documents");
  const work = storage.check({ ...(id === undefined ? {} : { id }), repair, signal, onProgress });
  const found = await work
    .finally(() => progress.finish())
    .catch((error: unknown) => {
      throw files.length > 0 && isCoppiceError(error, "CORRUPT") ? unreadable(error, files) : error;
    });
  if (id !== undefined && found.documents === 0 && found.problems.length === 0) await existing(storage, id);
  const beside = { ...(fileLog && { fileLog }), ...(chunks && { chunks }) };
  const damaged = files.length > 0 && { files, clean: false };
  const all = { ...runOf(options), ...found, ...beside, ...damaged };
  const unread = await unreadOf(storage, found);
  await unlessPipeClosed(() => (options.json ? out.json(all) : tell(out, all, files, repair, unread)));
  if (files.length > 0) return EXIT.corrupt;
  return found.clean && lossOf(found, fileLog) === undefined ? EXIT.ok : EXIT.failed;
}

/** Of runs whose lines are kept in one file. */
function runOf({ store }: Options): object {
  return { time: new Date().toISOString(), store };
}

/** Events that no repair can bring back. */
function lostOf({ problems }: CheckReport): number {
  return problems.reduce((sum, { lostEvents = 0 }) => sum + lostEvents, 0);
}

/** What a repair has not brought back; of damaged files nobody knows whose events were in them. */
function lossOf(report: CheckReport, fileLog: FileLogReport | undefined): string | undefined {
  if (lostOf(report) > 0) return "sound again, with losses:";
  return fileLog?.damage.some(isOfLog) ? "sound again, perhaps with losses:" : undefined;
}

/** What is known of the files is told, whatever else fails. */
function unreadable(error: CoppiceError, files: readonly FileDamage[]): CommandError {
  return new CommandError("CORRUPT", error.message, {
    hint: "Keep a copy of the directory as it is; then restore a backup, or try `coppice copy --damaged`.",
    details: { ...error.details, files },
  });
}

/** Documents whose model is not installed: no repair helps them. The models are those of the first ones. */
async function unreadOf(
  storage: Store,
  { problems }: CheckReport,
): Promise<{ readonly count: number; readonly models: ReadonlySet<string> }> {
  const unread = problems.filter(({ code }) => code === "model-unknown");
  const models = new Set<string>();
  for (const { id } of unread.slice(0, ASKED_MAX)) {
    // Where damage hides which one, the rest is told all the same.
    const info = await storage.info(id).catch(unlessCorrupt);
    if (info !== undefined) models.add(info.model);
  }
  return { count: unread.length, models };
}

function unlessCorrupt(error: unknown): undefined {
  if (!isCoppiceError(error, "CORRUPT")) throw error;
}

async function tell(
  out: Output,
  report: CheckReport & { readonly fileLog?: FileLogReport },
  files: readonly FileDamage[],
  repair: boolean,
  unread: { readonly count: number; readonly models: ReadonlySet<string> },
): Promise<void> {
  const { problems, documents, events, quarantined, garbageKeys } = report;
  for (const problem of problems) await out.line(sentence(out, problem));
  // An owner of an earlier version does not say.
  for (const { id, events } of report.lost ?? []) {
    const mark = out.style("yellow", "lost    ");
    await out.line(`${mark} ${printable(id)}: ${plural(events, "event")}; what builds on that is not shown`);
  }
  const left = problems.filter(({ repaired }) => !repaired).length;
  const lost = lostOf(report);
  const loss = lossOf(report, report.fileLog);
  const mended = loss === undefined ? out.style("green", "ok") : out.style("yellow", loss);
  const mark = report.clean ? mended : out.style("red", `${plural(left + files.length, "problem")}:`);
  const facts = [plural(documents, "document"), plural(events, "event")];
  if (problems.length > left) facts.push(`${count(problems.length - left)} repaired`);
  if (lost > 0) facts.push(`${plural(lost, "event")} lost`);
  if (quarantined > 0) facts.push(`${plural(quarantined, "damaged value")} set aside`);
  if (garbageKeys > 0 && !repair) facts.push(`${plural(garbageKeys, "key")} to sweep`);
  await out.line(`${mark} ${facts.join(", ")}`);
  for (const hint of new Set([...unread.models].map(modelHint))) await out.line(hint);
  if (left > unread.count && !repair) await out.line("`coppice check --repair` mends what it can");
  if (repair && problems.some((problem) => isBeyondRepair(problem, problems)))
    await out.line(BEYOND_REPAIR_HINT);
  if (lost > 0 && repair) await out.line("what is lost is in tagged versions at most: compare with a backup");
  if (files.length > 0) await out.line(FILES_HINT);
}

/** Of a document of which nothing is left to start from. */
function isBeyondRepair(
  { id, code, key, repaired }: CheckProblem,
  problems: readonly CheckProblem[],
): boolean {
  // Nor can anybody remove the record of an erased id.
  if (repaired || key?.[0] === "erased" || !/^(?:snapshot|meta)-(?:damaged|missing)$/.test(code))
    return false;
  return !problems.some((other) => other.id === id && UNTOUCHED.test(other.code));
}

function sentence(out: Output, { id, code, message, repaired, lostEvents = 0 }: CheckProblem): string {
  const mark = repaired ? out.style("yellow", "repaired") : out.style("red", "problem ");
  const lost = lostEvents > 0 ? ` (${plural(lostEvents, "event")} cannot be brought back)` : "";
  return `${mark} ${id === "" ? "the store" : printable(id)}: ${code}: ${printable(message)}${lost}`;
}
