/**
 * `coppice compact`: snapshots documents and trims what the snapshots cover. Made for cron and timers.
 *
 * Two runs never overlap: LevelDB's lock lets one process in, the other ends with exit code 4 or waits
 * (`--wait`). Where a process that owns the store offers to work for others, it does so, one run at a time:
 * the second ends with exit code 6 or waits. Invariants: one document's failure stops no other and decides
 * the exit code; a stop (Ctrl-C, `--budget`) comes between two steps and leaves nothing half done.
 */

import type { Command } from "commander";
import {
  type CompactAllOptions,
  type CompactAllResult,
  type CompactResult,
  type HistoryPolicy,
  isCoppiceError,
} from "coppice";
import { CommandError, EXIT, type ExitCode, modelHint, worst } from "../errors.js";
import { failureOf, listed, tellFailures } from "../failures.js";
import {
  examples,
  modelsCommand,
  parseCount,
  parseDuration,
  parseHistory,
  parsePositive,
  type StoreOptions,
} from "../options.js";
import { byteSize, count, duration, plural, printable, withRoundedTime } from "../output.js";
import { Progress } from "../progress.js";
import { delay, type Runtime, unlessPipeClosed } from "../runtime.js";
import { type Store, withStore } from "../store.js";
import { noDocument } from "./document.js";

interface Options extends StoreOptions {
  readonly all?: true;
  readonly prefix?: string;
  readonly minEvents?: number;
  readonly idle?: number;
  readonly concurrency?: number;
  readonly budget?: number;
  readonly history?: HistoryPolicy;
  readonly force?: true;
  readonly dryRun?: true;
  readonly reclaim?: true;
}

const RETRY_MS = 200;
const ONLY_ALL = ["prefix", "minEvents", "idle", "concurrency", "budget"] as const;

export function compactCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return modelsCommand("compact", "snapshot documents and trim the events that the snapshots cover")
    .argument("[id...]", "the documents")
    .option("--all", "every document of the store that is due")
    .option("--prefix <text>", "with --all: only ids that begin with it")
    .option("--min-events <count>", "with --all: only with so many events since the snapshot", parseCount)
    .option("--idle <duration>", "with --all: only documents unchanged for so long", parseDuration)
    .option("--concurrency <count>", "with --all: documents at a time (default: 2)", parsePositive)
    .option("--budget <duration>", "with --all: begin no further document after so long", parseDuration)
    .option(
      "--history <policy>",
      "trimmed events: drop, archive, or keep:<events> (default: archive where there is one)",
      parseHistory,
    )
    .option("--force", "also when nothing is new")
    .option("--reclaim", "then rewrite the files without what was trimmed or deleted: the whole store")
    .option("--dry-run", "change nothing, say what would be done")
    .addHelpText(
      "after",
      examples(
        ["coppice compact notes", "one document"],
        ["coppice compact --all --min-events 100 --idle 10m --budget 50s --json", "for cron"],
        ["coppice compact --all --history archive", "past versions stay"],
        ["coppice compact --all --wait 30s", "wait while another run has the store"],
      ),
    )
    .action(async (ids: string[], options: Options) => done(await compact(runtime, ids, options)));
}

async function compact(runtime: Runtime, ids: readonly string[], options: Options): Promise<ExitCode> {
  if (ids.length > 0 === (options.all === true)) {
    throw new CommandError("USAGE", "compact wants either ids or --all", {
      hint: "coppice compact notes, or coppice compact --all",
    });
  }
  const misplaced = ONLY_ALL.find((name) => options[name] !== undefined);
  if (!options.all && misplaced !== undefined) {
    const flag = misplaced.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    throw new CommandError("USAGE", `--${flag} belongs to --all`, { hint: "coppice compact --help" });
  }
  return withStore(runtime, { ...options, ...(options.all ? {} : { ids }) }, (storage: Store) =>
    options.all ? compactAll(runtime, storage, options) : compactSome(runtime, storage, ids, options),
  );
}

async function compactSome(
  runtime: Runtime,
  storage: Store,
  ids: readonly string[],
  options: Options,
): Promise<ExitCode> {
  const { out, err, signal } = runtime;
  const results: CompactResult[] = [];
  for (const id of ids) {
    // Once is enough: it is about the whole store.
    const reclaim = options.reclaim === true && id === ids.at(-1);
    const result = await storage.compact(id, { ...work(options), reclaim, signal });
    if (result.outcome === "not-found" && ids.length === 1) throw noDocument(id);
    results.push(result);
    if (!options.json) await (exitOf(result) === EXIT.ok ? out : err).line(sentence(result, options));
  }
  if (options.json) await out.json({ ...runOf(options), documents: results.map(withRoundedTime) });
  return worst(results.map(exitOf));
}

async function compactAll(runtime: Runtime, storage: Store, options: Options): Promise<ExitCode> {
  const { out, err, signal } = runtime;
  const { prefix, minEvents, idle, concurrency, budget } = options;
  const range = prefix === undefined ? {} : { prefix };
  const total = err.terminal ? await countDocuments(storage, range, signal) : undefined;
  const progress = new Progress(err, options.dryRun ? "looking" : "compacting", total);
  const all: CompactAllOptions = {
    ...range,
    ...(minEvents === undefined ? {} : { minEvents }),
    ...(idle === undefined ? {} : { idleMs: idle }),
    ...(concurrency === undefined ? {} : { concurrency }),
    ...(budget === undefined ? {} : { budgetMs: budget }),
    ...work(options),
    reclaim: options.reclaim === true,
    signal,
    onProgress: ({ seen, failed }) => progress.update(seen, failed > 0 ? `${failed} failed` : ""),
  };
  const result = await compactAlone(runtime, storage, all, options).finally(() => progress.finish());
  await unlessPipeClosed(async () => {
    await (options.json ? out.json(summary(result, options)) : tell(runtime, result, options));
    signal.throwIfAborted();
  });
  return worst(
    result.failures.map(({ error }) =>
      isCoppiceError(error) && error.kind === "corrupt" ? EXIT.corrupt : EXIT.failed,
    ),
  );
}

/** Another run through the owner of the store ends with an exit code of its own, or is waited for. */
async function compactAlone(
  { signal }: Runtime,
  storage: Store,
  all: CompactAllOptions,
  { wait = 0 }: Options,
): Promise<CompactAllResult> {
  const started = performance.now();
  for (;;) {
    try {
      return await storage.compactAll(all);
    } catch (error) {
      if (!isCoppiceError(error, "BUSY") || error.details.compacting !== true) throw error;
      const left = wait - (performance.now() - started);
      if (left <= 0)
        throw new CommandError("RUNNING", "another compaction of this store is under way; nothing was done", {
          hint: "The other run does the work. --wait 30s waits for its end.",
        });
      await delay(Math.min(RETRY_MS, left), signal);
    }
  }
}

function work({ force, dryRun, history }: Options): Pick<CompactAllOptions, "force" | "dryRun" | "history"> {
  return {
    ...(history === undefined ? {} : { history }),
    ...(force ? { force } : {}),
    ...(dryRun ? { dryRun } : {}),
  };
}

async function countDocuments(
  storage: Store,
  range: { prefix?: string },
  signal: AbortSignal,
): Promise<number> {
  let total = 0;
  for await (const _ of storage.list(range)) {
    signal.throwIfAborted();
    total++;
  }
  return total;
}

function exitOf({ outcome }: CompactResult): ExitCode {
  if (outcome === "not-found") return EXIT.notFound;
  return outcome === "refused" || outcome === "lost-race" ? EXIT.failed : EXIT.ok;
}

function sentence(result: CompactResult, options: Options): string {
  const id = printable(result.id);
  switch (result.outcome) {
    case "compacted": {
      const trimmed = trimmedOf(result);
      if (options.dryRun) return `${id}: would snapshot at clock ${count(result.clock)} and trim ${trimmed}`;
      const held = result.held > 0 ? `, ${plural(result.held, "event")} held` : "";
      const snapshot = `snapshot at clock ${count(result.clock)} (${byteSize(result.snapshotBytes)})`;
      return `${id}: ${snapshot}, trimmed ${trimmed}${held}, in ${duration(result.durationMs)}`;
    }
    case "nothing-to-do":
      return `${id}: nothing to do`;
    case "not-found":
      return `${id}: there is no such document`;
    case "lost-race":
      return `${id}: other writers kept changing it; repeat`;
    case "refused":
      return `${id}: refused: ${printable(result.reason ?? "")}`;
  }
}

function trimmedOf(result: Pick<CompactResult, "eventsTrimmed" | "bytesTrimmed" | "eventsArchived">): string {
  const archived = result.eventsArchived > 0 ? " into the archive" : "";
  return `${plural(result.eventsTrimmed, "event")} (${byteSize(result.bytesTrimmed)})${archived}`;
}

/** Of runs that are appended to one log, `time` and `store` tell which it is. */
function runOf({ store, dryRun }: Options): object {
  return { time: new Date().toISOString(), store, dryRun: dryRun === true };
}

function summary(result: CompactAllResult, options: Options): object {
  return { ...runOf(options), ...withRoundedTime(result), failures: listed(result.failures.map(failureOf)) };
}

const STOPPED = {
  budget: "the time budget was used up; the next run goes on",
  signal: "it was interrupted; the next run goes on",
  poisoned: "a write failed; with more room on a full disk the next run goes on",
} as const;

async function tell({ out, err }: Runtime, result: CompactAllResult, options: Options): Promise<void> {
  const trimmed = trimmedOf(result);
  const verb = options.dryRun ? "would compact" : "compacted";
  const trim = options.dryRun ? "would trim" : "trimmed";
  // How many there are in all nobody has counted, when it was stopped.
  const first = result.stopped ? "the first " : "";
  const documents = `${count(result.compacted)} of ${first}${plural(result.seen, "document")}`;
  await out.line(`${verb} ${documents}, ${trim} ${trimmed}, in ${duration(result.durationMs)}`);
  await tellFailures(err, result.failures.map(failureOf), result.failed, "the store");
  const hints = result.failures.map(({ error }) =>
    isCoppiceError(error, "MODEL_UNKNOWN") ? modelHint(error.details.model) : undefined,
  );
  for (const hint of new Set(hints)) if (hint !== undefined) await err.line(hint);
  if (!result.stopped) return;
  await out.line(`stopped after ${plural(result.seen, "document")}: ${STOPPED[result.stopped]}`);
}
