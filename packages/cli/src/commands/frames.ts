/**
 * `coppice frames`: the commits of a file log as they lie in its files, oldest first, with the keys that
 * each puts and deletes. It takes no lock, so it works beside the process that has the store open; it shows
 * no values.
 */

import type { FrameRecord, ListedFrame } from "@coppice/file";
import type { Command } from "commander";
import { isCoppiceError } from "coppice";
import { CommandError, EXIT, type ExitCode } from "../errors.js";
import { examples, type StoreOptions, storeCommand } from "../options.js";
import { count, plural, printable } from "../output.js";
import type { Runtime } from "../runtime.js";
import { assertStore, loadFileLog, parseStore } from "../store.js";

export function framesCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return storeCommand("frames", "list the commits in the files of a file log")
    .addHelpText(
      "after",
      examples(
        ["coppice frames -s file:./data", "oldest first"],
        ["coppice frames -s file:./data --json | grep damaged", "what is no whole commit"],
      ),
    )
    .action(async (options: StoreOptions) => done(await list(runtime, options)));
}

async function list({ out, signal }: Runtime, options: StoreOptions): Promise<ExitCode> {
  const address = parseStore(options.store);
  if (address.scheme !== "file") {
    throw new CommandError("USAGE", `${printable(options.store)} is no file log`, {
      hint: "Only file:<directory> has frames; `coppice history` lists the batches of a document anywhere.",
    });
  }
  const { listFrames } = await loadFileLog();
  let damaged = 0;
  try {
    for await (const frame of listFrames(address.location)) {
      signal.throwIfAborted();
      if (frame.state === "damaged") damaged++;
      await (options.json ? out.json(frame) : out.write(shown(frame)));
    }
  } catch (error) {
    // There is none, or one of the other kind: that is said as everywhere.
    if (isCoppiceError(error, "UNAVAILABLE")) await assertStore(address, options.store);
    throw error;
  }
  return damaged > 0 ? EXIT.corrupt : EXIT.ok;
}

function shown({ file, position, bytes, sequence, state, records }: ListedFrame): string {
  const name = sequence === undefined ? state : `commit ${count(sequence)}`;
  const facts = `${file} at ${count(position)}, ${count(bytes)} bytes, ${plural(records.length, "record")}`;
  return `${name}: ${facts}\n${records.map((record) => `  ${line(record)}\n`).join("")}`;
}

function line({ kind, key, valueBytes, from, to }: FrameRecord): string {
  const [space, id, ...numbers] = key;
  const name = [space, printable(id), ...numbers].join(" ");
  if (kind === "put") return `put    ${name}: ${count(valueBytes ?? 0)} bytes`;
  if (kind === "delete") return `delete ${name}`;
  const start = from === undefined || from < 0 ? "" : ` from ${from}`;
  const end = to === undefined || to === Number.POSITIVE_INFINITY ? "" : ` to before ${to}`;
  return `delete ${name}${start === "" && end === "" ? ", all of it" : `${start}${end}`}`;
}
