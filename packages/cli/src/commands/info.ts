/**
 * `coppice info`: clocks, counts, bytes and times of one document. It reads two or three small values and no
 * event, however large the document is.
 */

import type { Command } from "commander";
import { EXIT, type ExitCode } from "../errors.js";
import { examples, type StoreOptions, storeCommand } from "../options.js";
import { byteSize, count, printable, timestamp } from "../output.js";
import type { Runtime } from "../runtime.js";
import { withStore } from "../store.js";
import { existing } from "./document.js";

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
    const info = await existing(storage, id);
    if (options.json) {
      await out.json(info);
      return EXIT.ok;
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
      ["log", byteSize(info.logBytes)],
      ["archive", archive],
      ["snapshot", snapshot],
      ["to replay", `${count(info.eventsSinceSnapshot)} events, ${byteSize(info.bytesSinceSnapshot)}`],
      ["created", timestamp(info.created)],
      ["changed", timestamp(info.changed)],
    ]);
    return EXIT.ok;
  });
}
