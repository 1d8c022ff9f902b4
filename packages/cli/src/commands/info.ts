/**
 * `coppice info`: clocks, counts, bytes and times of one document. It reads a few small values and no event
 * but what is held, however large the document is.
 */

import type { Command } from "commander";
import type { DocumentInfo, DocumentUsage } from "coppice";
import { EXIT, type ExitCode } from "../errors.js";
import { examples, type StoreOptions, storeCommand } from "../options.js";
import { byteSize, count, plural, printable, timestamp } from "../output.js";
import type { Runtime } from "../runtime.js";
import { withStore } from "../store.js";
import { factsOf, noDocument } from "./document.js";

export function infoCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return storeCommand("info", "show what is known of a document")
    .argument("<id>", "the document")
    .addHelpText(
      "after",
      examples(["coppice info notes", "one document"], ["coppice info notes --json", "as JSON"]),
    )
    .action(async (id: string, options: StoreOptions) => done(await show(runtime, id, options)));
}

function show(runtime: Runtime, id: string, options: StoreOptions): Promise<ExitCode> {
  const { out } = runtime;
  return withStore(runtime, { ...options, onlyReads: true, restores: false }, async (storage) => {
    const info = await factsOf(storage, id);
    if (info === undefined) throw noDocument(id);
    const { usage } = info;
    const code = usage === undefined ? EXIT.corrupt : EXIT.ok;
    if (options.json) {
      await out.json(info);
      return code;
    }
    const { snapshotClock, snapshotBytes, snapshotTime } = info;
    const snapshot =
      snapshotClock === undefined
        ? "none"
        : `at clock ${count(snapshotClock)}, ${byteSize(snapshotBytes)}, ${timestamp(snapshotTime)}`;
    const archive =
      info.archivedClock === undefined
        ? "none"
        : `from clock ${count(info.archivedClock)} on, ${byteSize(info.archiveBytes)}`;
    await out.pairs([
      ["id", printable(info.id)],
      ["model", info.model],
      ["clock", `${count(info.clock)} (events are kept from clock ${count(info.oldestClock)} on)`],
      ["log", usage === undefined ? UNKNOWN : logLine(info, usage)],
      ["archive", archive],
      ["snapshot", snapshot],
      ...(usage === undefined ? [] : besides(info, usage)),
      ["to replay", `${plural(info.eventsSinceSnapshot, "event")}, ${byteSize(info.bytesSinceSnapshot)}`],
      ["created", timestamp(info.created)],
      ["changed", timestamp(info.changed)],
      ["stored", usage === undefined ? UNKNOWN : byteSize(usage.storedBytes)],
    ]);
    return code;
  });
}

const UNKNOWN = "damaged; run coppice check";

/** As it is now, and how much was ever written to it. */
function logLine({ logBytes }: DocumentInfo, { retainedBytes }: DocumentUsage): string {
  if (retainedBytes === logBytes) return byteSize(logBytes);
  return `${byteSize(retainedBytes)} kept, of ${byteSize(logBytes)} ever written`;
}

/** What few documents have. */
function besides({ snapshotBytes }: DocumentInfo, usage: DocumentUsage): [string, string][] {
  const rows: [string, string][] = [];
  const before = usage.snapshotBytes - snapshotBytes;
  if (before > 0) rows.push(["before it", byteSize(before)]);
  if (usage.tags > 0) rows.push(["tags", `${count(usage.tags)}, ${byteSize(usage.tagBytes)}`]);
  if (usage.heldBytes > 0)
    rows.push(["held", `${plural(usage.heldEvents, "event")} not shown, ${byteSize(usage.heldBytes)}`]);
  return rows;
}
