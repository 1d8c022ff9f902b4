/**
 * `coppice read`: the stored events of a document as JSON lines, on terminals too. Bytes are base64; events
 * of models that are not binary are JSON as they are.
 */

import type { Command } from "commander";
import { toHex } from "coppice";
import { CommandError, EXIT, type ExitCode } from "../errors.js";
import { examples, modelsCommand, parseCount, type StoreOptions } from "../options.js";
import { printable } from "../output.js";
import type { Runtime } from "../runtime.js";
import { withStorage } from "../store.js";
import { existing } from "./document.js";

interface Options extends StoreOptions {
  readonly from?: number;
  readonly to?: number;
}

export function readCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return modelsCommand("read", "print the stored events of a document as JSON lines")
    .argument("<id>", "the document")
    .option(
      "--from <clock>",
      "events from this clock on; default: from the first that can be read",
      parseCount,
    )
    .option("--to <clock>", "events before this clock", parseCount)
    .addHelpText(
      "after",
      `${examples(
        ["coppice read notes --from 100 --to 110", "events 101 to 110"],
        ["coppice read notes | wc -l", "how many are kept"],
      )}\n
Each line: {"clock":<clock before the event>,"time":<ms since 1970>,"commitId":<hexadecimal>,
"info":{…},"event":<base64>}. commitId is null for archived events whose writer chose none, info where the
writer gave none. event is null where its bytes were damaged and set aside by a repair.`,
    )
    .action(async (id: string, options: Options) => done(await read(runtime, id, options)));
}

function noEvents(why: string): CommandError {
  return new CommandError("USAGE", `there are no such events: ${why}`, {
    hint: "`coppice info` shows from which clock to which events are kept.",
  });
}

function read(runtime: Runtime, id: string, { from, to, ...options }: Options): Promise<ExitCode> {
  const { out, signal } = runtime;
  return withStorage(runtime, { ...options, onlyReads: true, ids: [id] }, async (storage) => {
    const info = await existing(storage, id);
    const first = info.archivedClock ?? info.oldestClock;
    if (from !== undefined && from > info.clock)
      throw noEvents(`"${printable(id)}" ends at clock ${info.clock}`);
    if (to !== undefined && to < (from ?? first))
      throw noEvents(`clock ${to} is before clock ${from ?? first}`);
    const range = { from: from ?? first, ...(to === undefined ? {} : { to }), signal };
    for await (const { clock, time, commitId, info: said, event } of storage.read(id, range)) {
      await out.json({ clock, time, commitId: commitId && toHex(commitId), info: said, event });
    }
    return EXIT.ok;
  });
}
