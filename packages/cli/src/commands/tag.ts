/**
 * `coppice tag`, `tags` and `untag`: names for versions of a document. A tag keeps a snapshot of its own, so
 * its version can be loaded whatever is trimmed later.
 */

import type { Command } from "commander";
import type { Moment, Tag } from "coppice";
import { CommandError, EXIT, type ExitCode } from "../errors.js";
import {
  examples,
  isReadAsTag,
  modelsCommand,
  parseMoment,
  type StoreOptions,
  storeCommand,
} from "../options.js";
import { byteSize, count, printable, timestamp } from "../output.js";
import type { Runtime } from "../runtime.js";
import { withStorage } from "../store.js";
import { existing, notYet } from "./document.js";

interface TagOptions extends StoreOptions {
  readonly at?: Moment;
}

export function tagCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return modelsCommand("tag", "name a version of a document, and keep it")
    .argument("<id>", "the document")
    .argument("<name>", "the name; it must be free, and no clock or date for --at")
    .option("--at <moment>", "a clock, a date, or another tag (or tag:NAME); default: the head", parseMoment)
    .addHelpText(
      "after",
      examples(
        ["coppice tag notes v1", "the version of now"],
        ["coppice tag notes v0 --at 120", "the first 120 events"],
        ["coppice tag notes eve --at 2026-01-31T18:00:00Z", "as it was then"],
        ["coppice tag notes copy --at tag:v1", "what another tag stands for"],
      ),
    )
    .action(async (id: string, name: string, options: TagOptions) =>
      done(await tag(runtime, id, name, options)),
    );
}

export function tagsCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return storeCommand("tags", "list the tags of a document")
    .argument("<id>", "the document")
    .addHelpText(
      "after",
      examples(["coppice tags notes", "by clock"], ["coppice tags notes --json", "one on each line"]),
    )
    .action(async (id: string, options: StoreOptions) => done(await tags(runtime, id, options)));
}

export function untagCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return storeCommand("untag", "forget a tag, and remove what only it kept")
    .argument("<id>", "the document")
    .argument("<name>", "the tag")
    .addHelpText("after", examples(["coppice untag notes v1", "its events stay, if they are kept"]))
    .action(async (id: string, name: string, options: StoreOptions) =>
      done(await untag(runtime, id, name, options)),
    );
}

function tag(runtime: Runtime, id: string, name: string, { at, ...options }: TagOptions): Promise<ExitCode> {
  const { out } = runtime;
  if (!isReadAsTag(name)) {
    const message = `"${printable(name)}" is no name for a tag here: --at takes it for something else`;
    throw new CommandError("USAGE", message, {
      hint: "Choose another name, as in v4, which is no number, no date, and does not begin with tag:",
      details: { name },
    });
  }
  return withStorage(runtime, { ...options, ids: [id] }, async (storage) => {
    await existing(storage, id);
    const made = await storage.tag(id, name, at);
    if (made === undefined) throw notYet(id);
    if (options.json) await out.json({ id, ...made });
    else await out.line(`tagged ${printable(id)} at clock ${count(made.clock)} as ${printable(name)}`);
    return EXIT.ok;
  });
}

function tags(runtime: Runtime, id: string, options: StoreOptions): Promise<ExitCode> {
  const { out } = runtime;
  return withStorage(runtime, { ...options, onlyReads: true, restores: false }, async (storage) => {
    await existing(storage, id);
    const found = await storage.tags(id);
    if (options.json) {
      for (const each of found) await out.json(each);
    } else if (found.length > 0) {
      const columns = [
        { name: "name" },
        { name: "clock", align: "right" },
        { name: "bytes", align: "right" },
        { name: "tagged" },
      ] as const;
      await out.table(columns, found.map(cells));
    }
    return EXIT.ok;
  });
}

function cells({ name, clock, bytes, time }: Tag): string[] {
  return [printable(name), count(clock), byteSize(bytes), timestamp(time)];
}

function untag(runtime: Runtime, id: string, name: string, options: StoreOptions): Promise<ExitCode> {
  const { out } = runtime;
  return withStorage(runtime, { ...options, restores: false }, async (storage) => {
    await existing(storage, id);
    if (!(await storage.untag(id, name))) {
      throw new CommandError("NOT_FOUND", `"${printable(id)}" has no tag "${printable(name)}"`, {
        hint: "`coppice tags` lists those that there are.",
        details: { id, name },
      });
    }
    if (options.json) await out.json({ id, name, removed: true });
    else await out.line(`removed the tag ${printable(name)} of ${printable(id)}`);
    return EXIT.ok;
  });
}
