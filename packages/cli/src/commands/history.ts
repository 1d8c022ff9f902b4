/**
 * `coppice history`: the batches, snapshots and tags of a document, those of its archive first, with times
 * and what writers said of them.
 */

import type { Command } from "commander";
import { type HistoryEntry, toHex } from "coppice";
import { EXIT, type ExitCode } from "../errors.js";
import { examples, type StoreOptions, storeCommand } from "../options.js";
import { byteSize, count, moment, printable, Table, toJson } from "../output.js";
import type { Runtime } from "../runtime.js";
import { withStorage } from "../store.js";
import { existing } from "./document.js";

const PORTION = 500;

export function historyCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return storeCommand("history", "list the batches, snapshots and tags of a document")
    .argument("<id>", "the document")
    .addHelpText(
      "after",
      examples(
        ["coppice history notes", "oldest first, with times as --at takes them"],
        ["coppice history notes --json | tail -1", "the newest"],
      ),
    )
    .action(async (id: string, options: StoreOptions) => done(await show(runtime, id, options)));
}

function show(runtime: Runtime, id: string, options: StoreOptions): Promise<ExitCode> {
  const { out, signal } = runtime;
  const table = new Table([
    { name: "what" },
    { name: "clock", align: "right" },
    { name: "to", align: "right" },
    { name: "events", align: "right" },
    { name: "bytes", align: "right" },
    { name: "time" },
    { name: "commit" },
    { name: "info, tag" },
  ]);
  return withStorage(runtime, { ...options, onlyReads: true, restores: false }, async (storage) => {
    await existing(storage, id);
    let portion: string[][] = [];
    let headed = false;
    const flush = async () => {
      const header = headed ? "" : table.header((text) => out.style("dim", text), portion);
      if (portion.length > 0) await out.write(header + table.rows(portion));
      headed ||= portion.length > 0;
      portion = [];
    };
    for await (const entry of storage.history(id)) {
      signal.throwIfAborted();
      if (options.json) await out.json(record(entry));
      else portion.push(cells(entry));
      if (portion.length === PORTION) await flush();
    }
    await flush();
    return EXIT.ok;
  });
}

function record(entry: HistoryEntry): object {
  if (entry.kind !== "batch") return entry;
  return { ...entry, commitId: entry.commitId && toHex(entry.commitId) };
}

function cells(entry: HistoryEntry): string[] {
  const { kind, clock, bytes, time } = entry;
  const range = "end" in entry ? [count(entry.end), count(entry.end - clock)] : ["", ""];
  const said = { batch: "", snapshot: "", archive: "", tag: "" };
  if (entry.kind === "batch" && entry.info !== undefined) said.batch = printable(toJson(entry.info));
  if (entry.kind === "tag") said.tag = printable(entry.name);
  const commit = entry.kind === "batch" && entry.commitId !== undefined ? toHex(entry.commitId) : "";
  return [kind, count(clock), ...range, byteSize(bytes), moment(time), commit, said[kind]];
}
