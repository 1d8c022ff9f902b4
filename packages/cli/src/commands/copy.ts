/**
 * `coppice copy`: every document of a store to another one. Repeated, it writes only what is new, so that
 * it is a backup for cron; of a file log also beside the process that writes to it.
 *
 * Invariants: one document's failure stops no other and decides the exit code; a stop (Ctrl-C) comes
 * between two documents or steps of one, leaves each document of the target whole, and the next run goes
 * on.
 */

import { resolve } from "node:path";
import type { Command } from "commander";
import type { CopyResult } from "coppice";
import { CommandError, EXIT, type ExitCode, worst } from "../errors.js";
import { type CommonOptions, examples, parseDuration, parsePositive, plainCommand } from "../options.js";
import { byteSize, count, duration, plural, printable } from "../output.js";
import { Progress } from "../progress.js";
import { type Runtime, unlessPipeClosed } from "../runtime.js";
import { parseStore, withStorage } from "../store.js";

interface Options extends CommonOptions {
  readonly prefix?: string;
  readonly concurrency?: number;
  readonly replace?: true;
  readonly wait?: number;
}

export function copyCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return plainCommand("copy", "copy all documents to another store, or what is new since the last copy")
    .argument("<from>", "the store to copy, as in level:./data")
    .argument("<to>", "the store to copy to; made when it is missing")
    .option("--prefix <text>", "only ids that begin with it")
    .option("--concurrency <count>", "documents at a time (default: 4)", parsePositive)
    .option("--replace", "replace what the target has of its own")
    .option("--wait <duration>", "while another process has a store open, wait for so long", parseDuration)
    .addHelpText(
      "after",
      examples(
        ["coppice copy level:./data level:/backup/notes", "a backup; again: what is new"],
        ["coppice copy level:/backup/notes level:./data", "restore into an empty store"],
        ["coppice copy file:./log file:/backup/log", "a file log may be in use meanwhile"],
      ),
    )
    .action(async (from: string, to: string, options: Options) =>
      done(await copy(runtime, from, to, options)),
    );
}

function copy(runtime: Runtime, from: string, to: string, options: Options): Promise<ExitCode> {
  const { out, err, signal } = runtime;
  const { prefix, concurrency, replace, wait, json } = options;
  const [one, other] = [parseStore(from).location, parseStore(to).location];
  if (one !== undefined && other !== undefined && resolve(one) === resolve(other))
    throw new CommandError("USAGE", "copy wants two stores, and these are one");
  const common = { ...(json ? { json } : {}), ...(wait === undefined ? {} : { wait }) };
  return withStorage(runtime, { ...common, store: from, onlyReads: true, isArgument: true }, (source) =>
    withStorage(runtime, { ...common, store: to, create: true }, async (target) => {
      const range = prefix === undefined ? {} : { prefix };
      let total: number | undefined;
      if (err.terminal) {
        total = 0;
        for await (const _ of source.list(range)) total++;
      }
      const progress = new Progress(err, "copying", total);
      const result = await source
        .copyTo(target, {
          ...range,
          ...(concurrency === undefined ? {} : { concurrency }),
          replace: replace === true,
          signal,
          onProgress: ({ seen, failed }) => progress.update(seen, failed > 0 ? `${failed} failed` : ""),
        })
        .finally(() => progress.finish());
      await unlessPipeClosed(async () => {
        await (json ? out.json(summary(result)) : tell(runtime, result));
        signal.throwIfAborted();
      });
      return worst(
        result.failures.map(({ error }) => (error.kind === "corrupt" ? EXIT.corrupt : EXIT.failed)),
      );
    }),
  );
}

function summary(result: CopyResult): object {
  const failures = result.failures.map(({ id, error: { code, message } }) => ({ id, code, message }));
  return { ...result, failures };
}

async function tell({ out }: Runtime, result: CopyResult): Promise<void> {
  const { seen, copied, updated, unchanged, deleted, erased, bytes } = result;
  const removed = deleted + erased === 0 ? "" : `, ${count(deleted + erased)} removed`;
  const kept = `${count(updated)} updated, ${count(unchanged)} unchanged${removed}`;
  const cost = `${byteSize(bytes)} in ${duration(result.durationMs)}`;
  await out.line(`${plural(seen, "document")}: ${count(copied)} copied, ${kept}; ${cost}`);
  for (const { id, error } of result.failures) {
    await out.line(`${out.style("red", "failed")} ${printable(id)}: ${printable(error.message)}`);
  }
}
