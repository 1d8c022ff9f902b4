/**
 * One replay from beginning to end: type a recording through Yjs, write it durably from a child process, kill
 * that child half-way, prove that nothing acknowledged is lost, finish, compare with the recording, compact,
 * measure.
 *
 * Every step is a proof that can fail: it compares what the store gives back with what was sent (`Updates`),
 * or with the recording's own text. Invariant: a failed proof ends the run with an error; no figure is
 * printed for it.
 */

import { equalBytes } from "coppice";
import { CommandError } from "../errors.js";
import { count, plural } from "../output.js";
import { Progress } from "../progress.js";
import type { Runtime } from "../runtime.js";
import { parseStore, withStorage } from "../store.js";
import { type Written, write } from "./child.js";
import { coldLoad, directoryBytes, joined, keptBytes, type LoadedDoc, percentile } from "./measures.js";
import type { Recording } from "./recording.js";
import { TEXT_NAME, type Typed, typeRecording } from "./typing.js";

export interface ReplayOptions {
  readonly store: string;
  readonly seed: number;
  /** Told after each step that was proved. */
  readonly onProof: (sentence: string) => Promise<void>;
}

export interface ReplayResult {
  readonly recording: string;
  readonly source: string;
  readonly store: string;
  readonly id: string;
  readonly events: number;
  readonly eventBytes: number;
  readonly durableEventsPerSecond: number;
  readonly appendMs: { readonly p50: number; readonly p99: number };
  /** Files of the closed store; `null` where the store held other documents before. */
  readonly diskBytesPerEvent: { readonly before: number; readonly after: number } | null;
  /** Payloads of the batches and snapshots that are kept, for each event ever written. */
  readonly keptBytesPerEvent: { readonly before: number; readonly after: number };
  readonly coldLoadMs: { readonly before: number; readonly after: number };
  readonly kill: {
    readonly acknowledged: number;
    /** Acknowledged events that were there after reopening: all of them, or the replay fails. */
    readonly kept: number;
    /** Events that were not acknowledged when the writer died, and were there all the same. */
    readonly survivedUnacknowledged: number;
  };
  readonly typingMs: number;
  readonly totalMs: number;
}

/** What the steps share. */
interface Run {
  readonly runtime: Runtime;
  readonly options: ReplayOptions;
  readonly recording: Recording;
  readonly store: { readonly store: string; readonly json: true };
  readonly location: string;
  readonly id: string;
}

export function documentIdOf(recording: Recording): string {
  return `replay/${recording.name}`;
}

export async function replay(
  runtime: Runtime,
  recording: Recording,
  options: ReplayOptions,
): Promise<ReplayResult> {
  const started = performance.now();
  const address = parseStore(options.store);
  if (address.scheme !== "level") {
    throw new CommandError("USAGE", "a replay needs a store that outlives its process: level:<directory>");
  }
  const store = { store: options.store, json: true } as const;
  const run: Run = {
    runtime,
    options,
    recording,
    store,
    location: address.location,
    id: documentIdOf(recording),
  };
  const shared = (await directoryBytes(run.location)) > 0;
  await assertUnused(run);
  const typed = await type(run);
  const typingMs = performance.now() - started;
  const total = typed.updates.count;
  const bytesPerEvent = async () => ({
    disk: (await directoryBytes(run.location)) / total,
    kept: (await keptBytes(runtime, store, run.id)) / total,
  });

  const first = await writePart(run, typed, 0, Math.floor(total / 2));
  const kept = await proveKept(run, typed, first.acknowledged);
  const rest = kept < total ? await writePart(run, typed, kept) : undefined;
  const before = await bytesPerEvent();
  const loadBefore = await proveText(run, typed, "the document");
  await proveMiddle(run, typed);
  await compact(run);
  const after = await bytesPerEvent();
  const loadAfter = await proveText(run, typed, "the compacted document");
  await proveSound(run);

  const latencies = joined([...first.latencies, ...(rest?.latencies ?? [])]);
  return {
    recording: recording.name,
    source: recording.source,
    store: options.store,
    id: run.id,
    events: total,
    eventBytes: typed.updates.byteCount,
    durableEventsPerSecond: (latencies.length * 1000) / (first.elapsedMs + (rest?.elapsedMs ?? 0)),
    appendMs: { p50: percentile(latencies, 0.5), p99: percentile(latencies, 0.99) },
    diskBytesPerEvent: shared ? null : { before: before.disk, after: after.disk },
    keptBytesPerEvent: { before: before.kept, after: after.kept },
    coldLoadMs: { before: loadBefore, after: loadAfter },
    kill: {
      acknowledged: first.acknowledged,
      kept: Math.min(kept, first.acknowledged),
      survivedUnacknowledged: Math.max(0, kept - first.acknowledged),
    },
    typingMs,
    totalMs: performance.now() - started,
  };
}

async function assertUnused({ runtime, store, id }: Run): Promise<void> {
  const used = await withStorage(runtime, { ...store, create: true }, (storage) => storage.info(id));
  if (used === undefined) return;
  throw new CommandError("FAILED", `the store has a document "${id}" already`, {
    hint: `Use another store, or remove it: coppice rm "${id}" --store ${store.store}`,
    details: { id, store: store.store },
  });
}

async function type({ runtime, recording, options }: Run): Promise<Typed> {
  const progress = new Progress(runtime.err, `typing ${recording.name}`, recording.edits.length);
  const { signal } = runtime;
  const onProgress = (edits: number) => progress.update(edits);
  const typed = await typeRecording(recording, { seed: options.seed, signal, onProgress }).finally(() =>
    progress.finish(),
  );
  if (typed.updates.count === 0) throw new CommandError("FAILED", `${recording.name} has no edits to write`);
  await options.onProof(`typed ${count(typed.updates.count)} keystrokes through Yjs, an event for each`);
  return typed;
}

/** Writes from a clock on, in a child of its own; with `killAt` that child does not live to the end. */
async function writePart(run: Run, { updates }: Typed, from: number, killAt?: number): Promise<Written> {
  const { runtime, store, id, options } = run;
  const progress = new Progress(
    runtime.err,
    killAt === undefined ? "writing the rest" : "writing",
    updates.count,
  );
  const written = await write(
    runtime,
    { store: store.store, id, from, updates: updates.pack(from), linger: killAt !== undefined },
    {
      ...(killAt === undefined ? {} : { killAt }),
      onProgress: (clock) => progress.update(clock, "durable"),
    },
  ).finally(() => progress.finish());
  if (killAt === undefined && written.acknowledged !== updates.count) {
    throw failed(`the writer ended at clock ${written.acknowledged} of ${updates.count}`);
  }
  await options.onProof(
    killAt === undefined
      ? `wrote the rest, up to clock ${count(written.acknowledged)}`
      : `killed the writing process (SIGKILL) when ${count(written.acknowledged)} were acknowledged`,
  );
  return written;
}

/** Compares the log with what was sent, byte by byte. Returns the clock at which it ends. */
async function proveKept(run: Run, { updates }: Typed, acknowledged: number): Promise<number> {
  const { runtime, store, id, options } = run;
  const clock = await withStorage(runtime, store, async (storage) => {
    let next = 0;
    for await (const { clock: at, event } of storage.read(id, { from: 0, signal: runtime.signal })) {
      if (at !== next || next >= updates.count || !equalBytes(event as Uint8Array, updates.at(next))) {
        throw failed(`event ${next + 1} of the log is not the one that was sent`);
      }
      next++;
    }
    return next;
  });
  if (clock < acknowledged)
    throw failed(`${acknowledged - clock} acknowledged events are gone after the kill`);
  const there = `all ${count(acknowledged)} acknowledged are there, byte for byte`;
  await options.onProof(`reopened: ${there}, and ${count(clock - acknowledged)} more that were on their way`);
  return clock;
}

async function proveText(run: Run, { endText }: Typed, what: string): Promise<number> {
  const { ms, text } = await coldLoad(run.runtime, run.store, run.id);
  if (text !== endText) throw failed(`${what} does not have the text of the recording`);
  const whole = run.recording.end === undefined ? "the edits so far" : "the recording";
  await run.options.onProof(`${what} has the text of ${whole}: ${count([...text].length)} characters`);
  return ms;
}

async function proveMiddle({ runtime, store, id, options }: Run, typed: Typed): Promise<void> {
  const { middle, middleText } = typed;
  const text = await withStorage(runtime, store, async (storage) => {
    const handle = await storage.load<LoadedDoc>(id, { at: middle });
    const found = handle?.doc.getText(TEXT_NAME).toString();
    await handle?.close();
    return found;
  });
  if (text !== middleText) throw failed(`at clock ${middle} the document does not have the text it had then`);
  await options.onProof(`loaded at clock ${count(middle)}, it has the text of that moment`);
}

async function compact({ runtime, store, id, options }: Run): Promise<void> {
  const { signal } = runtime;
  const result = await withStorage(runtime, store, (storage) => storage.compact(id, { signal }));
  if (result.outcome !== "compacted") throw failed(`compaction: ${result.reason ?? result.outcome}`);
  await options.onProof(
    `compacted: ${plural(result.eventsTrimmed, "event")} trimmed behind a verified snapshot`,
  );
}

async function proveSound({ runtime, store, id, options }: Run): Promise<void> {
  const report = await withStorage(runtime, store, (storage) => storage.check({ id }));
  const [problem] = report.problems;
  if (problem !== undefined) throw failed(`check: ${problem.message}`);
  await options.onProof("check finds no problems");
}

function failed(message: string): CommandError {
  return new CommandError("FAILED", `the replay failed: ${message}`, {
    hint: "This should not happen: please report it, with the recording and the seed.",
  });
}
