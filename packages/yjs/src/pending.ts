/**
 * What an update has that is not known: of what Yjs keeps aside, since it came before what it builds on, what
 * was not kept before; of what came before a document was loaded, what is not stored.
 *
 * Yjs joins all that waits into one update. If that were captured as it is, each keystroke after one that was
 * lost would store all those since then again.
 *
 * Invariants: together with what is known, the answer has everything that the update has.
 * Structs stay whole, so it may repeat the edges of what was there.
 */

import * as Y from "yjs";
import { uniteDeletions } from "./join.js";
import { findStruct, scanUpdate } from "./scanner.js";
import { type Block, type Run, writeUpdate } from "./writer.js";

/** By client, each ascending and not overlapping. */
interface Parts {
  readonly runs: ReadonlyMap<number, readonly Run[]>;
  /** Clocks in pairs. */
  readonly deletions: ReadonlyMap<number, readonly number[]>;
}

/** Where a struct begins. */
type Start = Pick<Run, "client" | "clock" | "from">;

/** What Yjs keeps aside at a time: an update of format 2, as `pendingStructs` and `pendingDs` hold it. */
export interface Kept {
  readonly bytes: Uint8Array;
  /** Once it was asked for. */
  parts?: Parts;
}

/**
 * One update of format 1; `undefined`: nothing came to what was there. Costs one pass over what is there now.
 */
export function newlyPending(now: Kept, before: Kept | undefined): Uint8Array | undefined {
  if (before === undefined) return Y.convertUpdateFormatV2ToV1(now.bytes);
  try {
    return difference(now, before);
  } catch {
    // What the scanner refuses is for the save to refuse: a listener that throws would stop Yjs.
    return Y.convertUpdateFormatV2ToV1(now.bytes);
  }
}

/**
 * Of each update of format 1 what a stored one lacks; `undefined`: nothing. Costs one pass over all of them.
 */
export function unstored(
  updates: readonly Uint8Array[],
  stored: Uint8Array,
): readonly (Uint8Array | undefined)[] {
  let known: Parts;
  try {
    known = partsOf(stored);
  } catch {
    // Then all of it is stored again, which Yjs applies once: a load must not fail of it.
    return updates;
  }
  return updates.map((update) => {
    try {
      return lacking(partsAfter(update, known), known);
    } catch {
      // For the save to refuse, as above.
      return update;
    }
  });
}

function difference(now: Kept, before: Kept): Uint8Array | undefined {
  before.parts ??= partsOf(Y.convertUpdateFormatV2ToV1(before.bytes));
  now.parts = partsAfter(Y.convertUpdateFormatV2ToV1(now.bytes), before.parts);
  return lacking(now.parts, before.parts);
}

/** Mostly a client goes on after what there was of it: then what is new begins there. */
function partsAfter(update: Uint8Array, known: Parts): Parts {
  return partsOf(update, (client) => known.runs.get(client)?.at(-1)?.end ?? 0);
}

function lacking(now: Parts, known: Parts): Uint8Array | undefined {
  const blocks: Block[] = [];
  for (const [client, runs] of now.runs) {
    const left = unknownRuns(runs, known.runs.get(client) ?? []);
    if (left.length > 0) blocks.push({ client, runs: left });
  }
  const deletions = new Map<number, number[]>();
  for (const [client, ranges] of now.deletions) {
    const left = without(ranges, known.deletions.get(client) ?? []).flat();
    if (left.length > 0) deletions.set(client, left);
  }
  return blocks.length === 0 && deletions.size === 0 ? undefined : writeUpdate(blocks, deletions);
}

function partsOf(bytes: Uint8Array, splitAt: (client: number) => number = () => 0): Parts {
  const byClient = new Map<number, Run[]>();
  const deletions: number[] = [];
  scanUpdate(bytes, {
    run: (client, clock, end, count, from, to) => {
      const runs = byClient.get(client) ?? [];
      byClient.set(client, runs);
      runs.push({ client, clock, end, count, bytes, from, to });
    },
    deletion: (client, clock, end) => {
      deletions.push(client, clock, end);
    },
    splitAt,
  });
  return { runs: byClient, deletions: uniteDeletions(deletions) };
}

/** Of runs of one client, the structs that hold a clock which others do not. */
function unknownRuns(runs: readonly Run[], others: readonly Run[]): Run[] {
  const left: Run[] = [];
  let at = 0;
  let end = 0;
  for (const [from, to] of without(runs.flatMap(rangeOf), others.flatMap(rangeOf))) {
    while (runs[at]!.end <= from) at++;
    if (to <= end) continue;
    const run = runs[at]!;
    const before = left.at(-1);
    // A run may have many parts, with others between them: it is read once.
    const start = before === undefined || before.clock < run.clock ? run : behind(before);
    const part = partOf(run, start, Math.max(from, end), to);
    left.push(part);
    end = part.end;
  }
  return left;
}

function behind({ client, end, to }: Run): Start {
  return { client, clock: end, from: to };
}

function rangeOf({ clock, end }: Run): [number, number] {
  return [clock, end];
}

/** What is left of ranges without others; all are clocks in pairs, ascending and not overlapping. */
function without(ranges: readonly number[], others: readonly number[]): [from: number, to: number][] {
  const left: [number, number][] = [];
  let at = 0;
  for (let i = 0; i < ranges.length; i += 2) {
    let from = ranges[i]!;
    const to = ranges[i + 1]!;
    while (at < others.length && others[at + 1]! <= from) at += 2;
    for (let next = at; from < to; next += 2) {
      const until = Math.min(to, others[next] ?? to);
      if (until > from) left.push([from, until]);
      from = Math.max(from, others[next + 1] ?? to);
    }
  }
  return left;
}

/** The structs of a run that hold the clocks [from, to), sought from a struct on that is not behind them. */
function partOf({ bytes, client }: Run, start: Start, from: number, to: number): Run {
  const first = findStruct(bytes, start, from);
  let last = first;
  let count = 1;
  for (; last.end < to; count++)
    last = findStruct(bytes, { client, clock: last.end, from: last.to }, last.end);
  return { client, clock: first.clock, end: last.end, count, bytes, from: first.at, to: last.to };
}
