/**
 * `coppice fork`: a document of its own from another, at its head or at a past version.
 *
 * A moment is a clock, a date or a tag; which of them is told from how it looks. It changes nothing of the
 * original.
 */

import type { Command } from "commander";
import type { Moment } from "coppice";
import { EXIT, type ExitCode } from "../errors.js";
import { AT_WITH_EVENTS, examples, modelsCommand, parseMoment, type StoreOptions } from "../options.js";
import { byteSize, count, printable } from "../output.js";
import type { Runtime } from "../runtime.js";
import { withStorage } from "../store.js";
import { existing, notYet } from "./document.js";

interface Options extends StoreOptions {
  readonly at?: Moment;
  readonly recreate?: true;
}

export function forkCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return modelsCommand("fork", "make a document out of another, with its history")
    .argument("<id>", "the document")
    .argument("<new-id>", "the id of the fork")
    .option("--at <moment>", AT_WITH_EVENTS, parseMoment)
    .option("--recreate", "take an id that was deleted before")
    .addHelpText(
      "after",
      examples(
        ["coppice fork notes draft", "as it is"],
        ["coppice fork notes old --at 100", "its first 100 events"],
      ),
    )
    .action(async (id: string, newId: string, options: Options) =>
      done(await fork(runtime, id, newId, options)),
    );
}

function fork(runtime: Runtime, id: string, newId: string, options: Options): Promise<ExitCode> {
  const { out, signal } = runtime;
  const { at, recreate = false } = options;
  return withStorage(runtime, { ...options, ids: [id] }, async (storage) => {
    await existing(storage, id);
    const moment = at === undefined ? {} : { at };
    const result = await storage.fork(id, newId, { ...moment, recreate, signal });
    if (result === undefined) throw notYet(id);
    if (options.json) await out.json(result);
    else
      await out.line(
        `forked ${printable(newId)} at clock ${count(result.clock)} (${byteSize(result.bytes)})`,
      );
    return EXIT.ok;
  });
}
