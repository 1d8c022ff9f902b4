/**
 * `coppice replay`: the main job of this project on real input, as proof and as measurement. See
 * `replay/replay.ts` for what it proves. Also declares the hidden command that its writing child runs.
 */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { CommandError, EXIT, type ExitCode } from "../errors.js";
import { type CommonOptions, examples, parseCount, parsePositive, plainCommand } from "../options.js";
import { count, duration, printable } from "../output.js";
import { WRITER_COMMAND } from "../replay/child.js";
import { IN_FLIGHT } from "../replay/messages.js";
import {
  DEFAULT_CONCURRENT,
  DEFAULT_SEQUENTIAL,
  findRecording,
  firstEdits,
  type Recording,
  readRecording,
} from "../replay/recording.js";
import { documentIdOf, type ReplayResult, replay } from "../replay/replay.js";
import { TYPIST_KEYSTROKES, typist } from "../replay/typist.js";
import { runWriter } from "../replay/writer.js";
import type { Runtime } from "../runtime.js";

interface Options extends CommonOptions {
  readonly store?: string;
  readonly concurrent?: true;
  readonly events?: number;
  readonly keep?: true;
  readonly seed: number;
}

const TYPIST = "typist";

export function replayCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return plainCommand(
    "replay",
    "type recorded editing histories durably into LevelDB, kill the writer, prove, measure",
  )
    .argument("[trace...]", `recordings, by name or .json.gz file; "${TYPIST}" for one that is made up`)
    .option("-s, --store <url>", "write into this store and leave it; default: a temporary one")
    .option("--concurrent", `${DEFAULT_CONCURRENT}: two people in one document, as two replicas that merge`)
    .option("--events <count>", "only the first edits of each recording", parsePositive)
    .option("--keep", "keep the temporary store and say where it is")
    .option("--seed <number>", "of the typist and of the Yjs client ids", parseCount, 1)
    .addHelpText(
      "after",
      `${examples(
        ["coppice replay", `${DEFAULT_SEQUENTIAL}, or the typist where there are no recordings`],
        ["coppice replay rustcode sveltecomponent", "two others"],
        ["coppice replay typist --events 5000 --seed 7", "no recording needed"],
      )}\n
Recordings are files, looked for in the directory that COPPICE_TRACES names; without it in ../shared/traces
beside a clone. The storage has the default settings: an acknowledged event survives power loss, snapshots
come by the default policy.`,
    )
    .action(async (names: string[], options: Options) => done(await run(runtime, names, options)));
}

/** Not for people: what the replay starts as its writing child. */
export function writerCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return new Command(WRITER_COMMAND).action(async () => done(await runWriter(runtime)));
}

async function run(runtime: Runtime, names: readonly string[], options: Options): Promise<ExitCode> {
  const { out, signal } = runtime;
  const chosen = await recordings(runtime, names, options);
  const home = options.store === undefined ? await mkdtemp(join(tmpdir(), "coppice-replay-")) : undefined;
  const results: ReplayResult[] = [];
  let keep = options.keep === true;
  try {
    for (const recording of chosen) {
      if (!options.json)
        await out.line(`${out.style("bold", recording.name)}: ${printable(recording.source)}`);
      const onProof = async (sentence: string) => {
        if (!options.json) await out.line(`  ${out.style("green", "ok")}  ${sentence}`);
      };
      const store = options.store ?? `level:${join(home ?? "", recording.name)}`;
      results.push(await replay(runtime, recording, { store, seed: options.seed, onProof }));
    }
  } catch (error) {
    // A store that fails a proof is evidence.
    keep ||= !signal.aborted;
    throw error;
  } finally {
    if (home !== undefined && !keep) await rm(home, { recursive: true, force: true });
    if (home !== undefined && keep) await runtime.err.line(`kept: ${printable(home)}`);
  }
  if (options.json) await out.json({ inFlight: IN_FLIGHT, durability: "power", replays: results });
  else await tell(runtime, results);
  return EXIT.ok;
}

async function recordings(
  runtime: Runtime,
  names: readonly string[],
  options: Options,
): Promise<Recording[]> {
  const found: Recording[] = [];
  const wanted = names.length > 0 ? names : [options.concurrent ? DEFAULT_CONCURRENT : DEFAULT_SEQUENTIAL];
  for (const name of new Set(wanted)) {
    const recording = await recordingOf(runtime, name, names.length === 0 && !options.concurrent, options);
    if (options.concurrent && !recording.concurrent) {
      throw new CommandError("USAGE", `${printable(name)} is not a concurrent recording`);
    }
    if (found.some((other) => documentIdOf(other) === documentIdOf(recording))) {
      throw new CommandError("USAGE", `two recordings have the name ${printable(recording.name)}`);
    }
    found.push(firstEdits(recording, options.events ?? Number.MAX_SAFE_INTEGER));
  }
  return found;
}

async function recordingOf(
  runtime: Runtime,
  name: string,
  orTypist: boolean,
  { events = TYPIST_KEYSTROKES, seed }: Options,
): Promise<Recording> {
  if (name === TYPIST) return typist(seed, events);
  const path = await findRecording(name, runtime.env, runtime.entry);
  if (path !== undefined) return readRecording(path);
  if (orTypist) return typist(seed, events);
  throw new CommandError("NOT_FOUND", `there is no recording ${printable(name)}`, {
    hint: `Set COPPICE_TRACES to the folder that holds it, or replay "${TYPIST}".`,
    details: { recording: name },
  });
}

type Figure = readonly [name: string, of: (result: ReplayResult) => string];

const FIGURES: readonly Figure[] = [
  ["events", ({ events }) => count(events)],
  ["durable events per second", (result) => count(result.durableEventsPerSecond)],
  ["append latency, p50", ({ appendMs }) => duration(appendMs.p50)],
  ["append latency, p99", ({ appendMs }) => duration(appendMs.p99)],
  ["bytes on disk per event, before compaction", ({ diskBytesPerEvent: disk }) => bytes(disk?.before)],
  ["bytes on disk per event, after compaction", ({ diskBytesPerEvent: disk }) => bytes(disk?.after)],
  ["bytes kept per event, before compaction", ({ keptBytesPerEvent: kept }) => bytes(kept.before)],
  ["bytes kept per event, after compaction", ({ keptBytesPerEvent: kept }) => bytes(kept.after)],
  ["cold load, before compaction", ({ coldLoadMs }) => duration(coldLoadMs.before)],
  ["cold load, after compaction", ({ coldLoadMs }) => duration(coldLoadMs.after)],
  ["acknowledged when the writer was killed", ({ kill }) => count(kill.acknowledged)],
  ["  of these there after reopening", ({ kill }) => count(kill.kept)],
  ["  unacknowledged, and there all the same", ({ kill }) => count(kill.survivedUnacknowledged)],
  ["whole run", ({ totalMs }) => duration(totalMs)],
];

function bytes(perEvent: number | undefined): string {
  return perEvent === undefined ? "-" : count(perEvent, 1);
}

async function tell({ out }: Runtime, results: readonly ReplayResult[]): Promise<void> {
  await out.line("");
  await out.table(
    [{ name: "" }, ...results.map(({ recording }) => ({ name: recording, align: "right" }) as const)],
    FIGURES.map(([name, of]) => [name, ...results.map(of)]),
  );
  await out.line(
    out.style(
      "dim",
      [
        "",
        `${IN_FLIGHT} appends in flight, default settings: durable means that it survives power loss.`,
        "Disk: files of the closed store; LevelDB frees what was trimmed when it next merges them. Kept:",
        "payloads of batches and snapshots; compaction leaves two snapshots and the events between.",
        "Cold load: median of 3, by a storage just opened.",
      ].join("\n"),
    ),
  );
}
