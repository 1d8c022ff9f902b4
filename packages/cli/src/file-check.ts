/**
 * What `coppice check` does first on a file log: it reads every byte of the files, and with `--repair`
 * writes the store anew from what is whole. While a file is damaged, the storage above cannot open.
 *
 * Invariant: without damage, and without `--repair`, nothing is changed.
 */

import type { FileLogDamage, FileLogReport } from "@coppice/file";
import { isCoppiceError } from "coppice";
import type { StoreOptions } from "./options.js";
import { count, plural, printable } from "./output.js";
import { type Runtime, unlessPipeClosed } from "./runtime.js";
import { isUnwritable, loadFileLog, parseStore, waiting } from "./store.js";

const DOCUMENTS_SHOWN_MAX = 20;
const MANIFEST = "MANIFEST";

/** Commits may be lost with it; a MANIFEST is made again from the segments. */
export function isOfLog({ file }: FileLogDamage): boolean {
  return file !== MANIFEST;
}

const UNLOCKED =
  "and its lock cannot be taken: its documents are checked, but not what is dead in its files, and nobody " +
  "may write to it meanwhile";

/**
 * `undefined` for stores of other kinds, and where there is none: opening it says what to do. And where this
 * user may not write: the documents can be checked without the lock that this takes.
 */
export async function checkFiles(
  runtime: Runtime,
  options: StoreOptions,
  repair: boolean,
): Promise<FileLogReport | undefined> {
  const address = parseStore(options.store);
  if (address.scheme !== "file") return undefined;
  const { checkFileLog } = await loadFileLog();
  const work = () => checkFileLog(address.location, { repair });
  const report = await waiting(runtime, address, options, work).catch(async (error: unknown) => {
    // What the file system refused of one that is there has a location.
    if (isCoppiceError(error, "UNAVAILABLE") && error.details.location === undefined) return undefined;
    if (repair || !isUnwritable(error)) throw error;
    if (!options.json)
      await runtime.err.line(`note: ${printable(options.store)} cannot be written, ${UNLOCKED}`);
    return undefined;
  });
  if (report !== undefined && report.damage.length > 0 && !options.json) {
    await unlessPipeClosed(() => tell(runtime, report));
  }
  return report;
}

/** The files hold a hash of the id of an erased document, and ids may look so, too. */
function named(id: string): string {
  return /^[0-9a-f]{64}$/.test(id) ? `${id} (an erased document, or an id that is a hash)` : printable(id);
}

async function tell({ out }: Runtime, report: FileLogReport): Promise<void> {
  for (const { file, position, bytes, message, quarantine } of report.damage) {
    const isGone = bytes === 0 && file !== MANIFEST;
    const mended = isGone ? out.style("red", "lost    ") : out.style("yellow", "repaired");
    const mark = report.repaired ? mended : out.style("red", "damaged ");
    const where = `${file}, ${count(bytes)} bytes at ${count(position)}`;
    const kept = quarantine === undefined ? "" : `; the damaged file is kept as ${quarantine}`;
    await out.line(`${mark} ${where}: ${message}${kept}`);
  }
  if (report.documents.length > 0) {
    const shown = report.documents.slice(0, DOCUMENTS_SHOWN_MAX).map(named).join(", ");
    const left = report.documents.length - DOCUMENTS_SHOWN_MAX;
    const more = left > 0 ? `, and ${count(left)} more that \`--json\` names` : "";
    await out.line(`documents in the damaged files: ${shown}${more}`);
  }
  const found = `${plural(report.frames, "commit")} and ${plural(report.records, "record")} are whole`;
  const then = "`coppice check --repair` writes the files anew from them";
  await out.line(report.repaired ? `the files are written anew: ${found}` : `${found}; ${then}`);
  if (!report.repaired || !report.damage.some(isOfLog)) return;
  await out.line("a document of which no whole record is left is named nowhere, and one that lost its last");
  await out.line("events ends earlier, where no check notices it: compare with a backup");
}
