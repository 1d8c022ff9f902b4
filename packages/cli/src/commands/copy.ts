/**
 * `coppice copy`: every document of a store to another one. Repeated, it writes only what is new, so that
 * it is a backup for cron; of a file log also beside the process that writes to it. With `--damaged` it saves
 * what can be read of a LevelDB store whose tables are damaged, in a child (`examination.ts`).
 *
 * Invariants: one document's failure stops no other and decides the exit code, but for a target that is full;
 * a stop (Ctrl-C) comes between two documents or steps of one, leaves each document of the target whole, and
 * the next run goes on.
 */

import { resolve } from "node:path";
import type { Command } from "commander";
import { type CopiedDocument, type CoppiceError, type CopyResult, isCoppiceError } from "coppice";
import { CommandError, EXIT, type ExitCode, worst } from "../errors.js";
import { examineFiles, type FileDamage, followParent, placed, runInChild } from "../examination.js";
import { type Failure, listed, tellFailures } from "../failures.js";
import {
  type CommonOptions,
  examples,
  modelsOption,
  parseDuration,
  parsePositive,
  plainCommand,
} from "../options.js";
import { byteSize, count, duration, plural, printable, withRoundedTime } from "../output.js";
import { Progress } from "../progress.js";
import { type Runtime, unlessPipeClosed } from "../runtime.js";
import { parseStore, withStorage } from "../store.js";

interface Options extends CommonOptions {
  readonly prefix?: string;
  readonly concurrency?: number;
  readonly existing?: true;
  readonly replace?: true;
  readonly damaged?: true;
  readonly wait?: number;
  readonly models?: string;
}

/** In the line of `--json`. */
const CHANGED_MAX = 10_000;
const CHILD = "copy-child";
const DAMAGED_NOTE =
  "the source is damaged, and the copy has what could be read. Of a document that failed more may be " +
  "saved: copy the source's directory, run `coppice check --repair` on that, and copy from it with --damaged";

export function copyCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return withOptions("copy", "copy all documents to another store, or what is new since the last copy")
    .addHelpText(
      "after",
      examples(
        ["coppice copy level:./data level:/backup/notes", "a backup; again: what is new"],
        ["coppice copy level:/backup/notes level:./data", "restore into an empty store"],
        ["coppice copy file:./log file:/backup/log", "a file log may be in use meanwhile"],
        ["coppice copy --damaged level:./data level:./saved", "what can be read; ends with 5"],
      ),
    )
    .action(async (from: string, to: string, options: Options) => {
      assertTwo(from, to, options);
      done(await (options.damaged ? inChild(runtime, from, to, options) : copy(runtime, from, to, options)));
    });
}

/** Not for people: what `copy --damaged` starts as its child. */
export function copyChildCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return withOptions(CHILD, "copy what can be read, in this process").action(
    async (from: string, to: string, options: Options) => {
      followParent();
      done(await copyDamaged(runtime, from, to, options));
    },
  );
}

function withOptions(name: string, summary: string): Command {
  return plainCommand(name, summary)
    .argument("<from>", "the store to copy, as in level:./data")
    .argument("<to>", "the store to copy to; made when it is missing")
    .option("--prefix <text>", "only ids that begin with it")
    .option("--concurrency <count>", "documents at a time (default: 4)", parsePositive)
    .option("--existing", "only to a store that is there: make none, where a disk is not mounted say")
    .option("--replace", "replace what the target has of its own")
    .option("--damaged", "of a level: store with damaged tables, copy what can be read")
    .option(
      "--wait <duration>",
      "while another process has a store open, wait for so long, as in 30s",
      parseDuration,
    )
    .addOption(modelsOption());
}

function assertTwo(from: string, to: string, { damaged }: Options): void {
  const [one, other] = [parseStore(from), parseStore(to)];
  if (one.location !== undefined && other.location !== undefined) {
    if (resolve(one.location) === resolve(other.location))
      throw new CommandError("USAGE", "copy wants two stores, and these are one", {
        hint: "Name another one for the copy: coppice copy level:./data level:/backup/notes",
      });
  }
  if (damaged && one.scheme !== "level")
    throw new CommandError("USAGE", "--damaged is for a level: store", {
      hint: "`coppice check --repair` mends what can be mended of a file log.",
    });
}

/** LevelDB may end the process over what it reads. */
function inChild(runtime: Runtime, from: string, to: string, options: Options): Promise<ExitCode> {
  const { prefix, concurrency, existing, replace, wait, json, models } = options;
  const flags = [
    ...(prefix === undefined ? [] : [`--prefix=${prefix}`]),
    ...(concurrency === undefined ? [] : [`--concurrency=${concurrency}`]),
    ...(wait === undefined ? [] : [`--wait=${wait}ms`]),
    ...(models === undefined ? [] : [`--models=${models}`]),
    ...(existing ? ["--existing"] : []),
    ...(replace ? ["--replace"] : []),
    ...(json ? ["--json"] : []),
  ];
  return runInChild(runtime, [CHILD, ...flags, "--", from, to], json === true);
}

async function copyDamaged(runtime: Runtime, from: string, to: string, options: Options): Promise<ExitCode> {
  const { err } = runtime;
  let opened = false;
  try {
    return await copy(runtime, from, to, options, { onOpen: () => (opened = true) });
  } catch (error) {
    const { location } = parseStore(from);
    if (opened || location === undefined || !isCoppiceError(error, "CORRUPT")) throw error;
    const files = await examineFiles(location);
    if (files.length === 0) throw error;
    if (!options.json)
      for (const file of files) await err.line(`${err.style("red", "damaged ")} ${placed(file)}`);
    await copy(runtime, from, to, options, { files });
    if (!options.json) await err.line(DAMAGED_NOTE);
    return EXIT.corrupt;
  }
}

const CHUNKS =
  "holds chunks of AutomergeRepoStorage, which were not copied: copy its directory while nobody has it open";

/** `onOpen`: the source can be opened. `files`: where its tables are known to be damaged. */
interface Source {
  readonly onOpen?: () => void;
  readonly files?: readonly FileDamage[];
}

function copy(
  runtime: Runtime,
  from: string,
  to: string,
  options: Options,
  { onOpen, files }: Source = {},
): Promise<ExitCode> {
  const { out, err, signal } = runtime;
  const { prefix, concurrency, existing = false, replace, wait, json, models } = options;
  const common = {
    ...(json ? { json } : {}),
    ...(wait === undefined ? {} : { wait }),
    ...(models === undefined ? {} : { models }),
  };
  const source = {
    ...common,
    store: from,
    onlyReads: true,
    isArgument: true,
    verifyTables: files === undefined,
  };
  return withStorage(runtime, source, (source, { holdsChunks }) => {
    onOpen?.();
    const wanted = { ...common, store: to, isArgument: true, create: !existing, tellsNew: true };
    return withStorage(runtime, wanted, async (target, { isNew }) => {
      const range = prefix === undefined ? {} : { prefix };
      let total: number | undefined;
      // Of a damaged store the list may end early.
      if (err.terminal && files === undefined) {
        total = 0;
        for await (const _ of source.list(range)) total++;
      }
      const progress = new Progress(err, "copying", total);
      const changed: CopiedDocument[] = [];
      const result = await source
        .copyTo(target, {
          ...range,
          ...(concurrency === undefined ? {} : { concurrency }),
          replace: replace === true,
          signal,
          onProgress: ({ seen, failed, document }) => {
            progress.update(seen, failed > 0 ? `${failed} failed` : "");
            if (document !== undefined && document.outcome !== "unchanged" && changed.length < CHANGED_MAX)
              changed.push(document);
          },
        })
        .finally(() => progress.finish());
      const chunks = await holdsChunks();
      await unlessPipeClosed(async () => {
        const more = { created: isNew, ...(files && { files }), ...(chunks && { chunks }) };
        const run = { time: new Date().toISOString(), from, to };
        if (json) await out.json({ ...run, ...summary(result, changed, chunks), ...more });
        else if (!chunks || result.seen > 0) await tell(runtime, result);
        signal.throwIfAborted();
      });
      if (!json && prefix !== undefined && result.seen + result.erased + result.failures.length === 0) {
        await err.line(`note: no id in ${printable(from)} begins with ${printable(prefix)}`);
      }
      if (chunks && !json) await err.line(`${err.style("red", "failed")} ${printable(from)} ${CHUNKS}`);
      return worst([
        ...result.failures.map(({ error }) => (error.kind === "corrupt" ? EXIT.corrupt : EXIT.failed)),
        ...(chunks ? [EXIT.failed] : []),
      ]);
    });
  });
}

/** The library names its options, this command has other names for them. */
function inWords({ code, message }: CoppiceError): string {
  if (code === "DELETED") return "the target has deleted it; `--replace` brings it back";
  return message.replaceAll("copy with `replace`", "copy with `--replace`");
}

function failuresOf({ failures }: CopyResult): Failure[] {
  return failures.map(({ id, error }) => ({ id, code: error.code, message: inWords(error) }));
}

/** Of an hourly backup nearly nothing has changed. */
function summary(result: CopyResult, changed: readonly CopiedDocument[], chunks: boolean): object {
  const left = chunks ? [{ id: "", code: "UNSUPPORTED", message: `the source ${CHUNKS}` }] : [];
  const failures = [...left, ...failuresOf(result)];
  const failed = result.failed + left.length;
  // As `ls` lists them; they came as they were done.
  const documents = [...changed].sort((a, b) => Buffer.compare(Buffer.from(a.id), Buffer.from(b.id)));
  return { ...withRoundedTime(result), documents, failed, failures: listed(failures) };
}

const FULL =
  "stopped: the target is full; of the rest only what was deleted or erased was carried over\n" +
  "Make room for it and repeat: the copy goes on.";

const POISONED =
  "stopped: a write to the target failed, and no more is written to it; what was copied before is stored\n" +
  "Put right what the system said, with more room on a full disk, and repeat: the copy goes on.";

async function tell({ out, err }: Runtime, result: CopyResult): Promise<void> {
  const { seen, copied, updated, unchanged, deleted, erased, bytes } = result;
  const gone = [
    ...(deleted === 0 ? [] : [plural(deleted, "deletion")]),
    ...(erased === 0 ? [] : [plural(erased, "erasure")]),
  ];
  const carried = gone.length === 0 ? "" : `, ${gone.join(" and ")} carried over`;
  const kept = `${count(updated)} updated, ${count(unchanged)} unchanged${carried}`;
  const cost = `${byteSize(bytes)} in ${duration(result.durationMs)}`;
  // Ids of deleted documents are among them, also where the target has the deletion already.
  const first = result.stopped === "signal" ? "the first " : "";
  await out.line(`${first}${plural(seen, "id")}: ${count(copied)} copied, ${kept}; ${cost}`);
  await tellFailures(err, failuresOf(result), result.failed, "the store");
  // The sum alone reads like that of a whole copy.
  if (first !== "")
    await out.line(`stopped after ${plural(seen, "id")}: it was interrupted; the next copy goes on`);
  if (result.stopped === "full") await err.line(FULL);
  if (result.stopped === "poisoned") await err.line(POISONED);
}
