/**
 * Joins many Yjs updates into one by moving their bytes: no struct is decoded.
 *
 * Yjs pays for each update it applies or merges; joined, 260,000 keystrokes are one update. Runs of each
 * client are put in the order of their clocks, gaps become Skip structs, what is known or repeated is cut
 * off, deletions are sorted and united. Order and repetition of the input therefore do not matter.
 *
 * Invariant: applying what `join` returns equals applying all added updates, to a document with those clocks.
 */

import * as Y from "yjs";
import { findStruct, scanUpdate, type UpdateSink } from "./scanner.js";
import { type Block, type Run, writeUpdate } from "./writer.js";

export class Joiner implements UpdateSink {
  readonly #runs: Run[] = [];
  readonly #deletions: number[] = [];
  readonly #cut: ((client: number) => number) | undefined;
  #bytes: Uint8Array = new Uint8Array();

  /** `cut`: what `join` will be told as `known`. Long updates are then not read twice to find the place. */
  constructor(cut?: (client: number) => number) {
    this.#cut = cut;
  }

  /**
   * Validates an update and adds it. Throws a `TypeError` for a bad one, and then has added nothing of it.
   */
  add(update: Uint8Array): void {
    const [runCount, deletionCount] = [this.#runs.length, this.#deletions.length];
    this.#bytes = update;
    try {
      scanUpdate(update, this);
    } catch (error) {
      this.#runs.length = runCount;
      this.#deletions.length = deletionCount;
      throw error;
    }
  }

  run(client: number, clock: number, end: number, count: number, from: number, to: number): void {
    this.#runs.push({ client, clock, end, count, bytes: this.#bytes, from, to });
  }

  deletion(client: number, clock: number, end: number): void {
    this.#deletions.push(client, clock, end);
  }

  splitAt(client: number): number {
    return this.#cut?.(client) ?? 0;
  }

  /** True when some struct of `client` lies at or after `clock`. */
  reaches(client: number, clock: number): boolean {
    return this.#runs.some((run) => run.client === client && run.end > clock);
  }

  /** One update with everything from `known(client)` on; `undefined` when nothing is left. */
  join(known: (client: number) => number): Uint8Array | undefined {
    const blocks: Block[] = [];
    for (const [client, runs] of this.#unknownRuns(known)) {
      blocks.push({ client, runs: isAscending(runs) ? runs : disjoint(runs) });
    }
    const deletions = uniteDeletions(this.#deletions);
    return blocks.length === 0 && deletions.size === 0 ? undefined : writeUpdate(blocks, deletions);
  }

  #unknownRuns(known: (client: number) => number): Map<number, Run[]> {
    const byClient = new Map<number, Run[]>();
    let [runs, client, limit]: [Run[] | undefined, number, number] = [undefined, -1, 0];
    for (const run of this.#runs) {
      if (run.client !== client) {
        client = run.client;
        limit = known(client);
        runs = byClient.get(client);
      }
      if (run.end <= limit) continue;
      if (runs === undefined) {
        runs = [];
        byClient.set(client, runs);
      }
      if (run.clock < limit) runs.push(...cutRun(run, limit));
      else runs.push(run);
    }
    return byClient;
  }
}

/** Deletions, given as client, clock, end, by client: clocks in pairs, ascending and apart. */
export function uniteDeletions(flat: readonly number[]): Map<number, number[]> {
  const byClient = new Map<number, [number, number][]>();
  for (let i = 0; i < flat.length; i += 3) {
    const client = flat[i]!;
    const ranges = byClient.get(client);
    if (ranges === undefined) byClient.set(client, [[flat[i + 1]!, flat[i + 2]!]]);
    else ranges.push([flat[i + 1]!, flat[i + 2]!]);
  }
  const united = new Map<number, number[]>();
  for (const [client, ranges] of byClient) {
    ranges.sort((a, b) => a[0] - b[0]);
    const out: number[] = [];
    for (const [clock, end] of ranges) {
      if (out.length > 0 && clock <= out.at(-1)!) out[out.length - 1] = Math.max(out.at(-1)!, end);
      else out.push(clock, end);
    }
    united.set(client, out);
  }
  return united;
}

function isAscending(runs: readonly Run[]): boolean {
  for (let i = 1; i < runs.length; i++) if (runs[i]!.clock < runs[i - 1]!.end) return false;
  return true;
}

/**
 * The same clocks in ascending order, each once: of runs that begin together the longest, then what goes
 * beyond.
 */
function disjoint(runs: Run[]): Run[] {
  runs.sort((a, b) => a.clock - b.clock || b.end - a.end);
  const out: Run[] = [];
  let covered = 0;
  for (const run of runs) {
    if (run.end <= covered) continue;
    if (run.clock >= covered) out.push(run);
    else out.push(...cutRun(run, covered));
    covered = run.end;
  }
  return out;
}

/** The part of a run from `clock` on. Yjs itself cuts the one struct in the middle. */
function cutRun(run: Run, clock: number): Run[] {
  const struct = findStruct(run.bytes, run, clock);
  const parts: Run[] = [];
  if (struct.clock < clock) {
    const whole: Run = {
      ...run,
      clock: struct.clock,
      end: struct.end,
      count: 1,
      from: struct.at,
      to: struct.to,
    };
    const alone = writeUpdate([{ client: run.client, runs: [whole] }], new Map());
    const bytes = Y.diffUpdate(alone, Y.encodeStateVector(new Map([[run.client, clock]])));
    const sink: UpdateSink = {
      run: (client, from, end, count, at, to) =>
        void parts.push({ client, clock: from, end, count, bytes, from: at, to }),
      deletion: () => {},
    };
    scanUpdate(bytes, sink);
    if (struct.end < run.end) parts.push({ ...run, clock: struct.end, count: -1, from: struct.to });
  } else parts.push({ ...run, clock: struct.clock, count: -1, from: struct.at });
  return parts.map((part) => (part.count >= 0 ? part : { ...part, count: countStructs(part) }));
}

function countStructs(run: Run): number {
  let count = 0;
  let [at, clock] = [run.from, run.clock];
  while (clock < run.end) {
    const struct = findStruct(run.bytes, { client: run.client, clock, from: at }, clock);
    [at, clock] = [struct.to, struct.end];
    count++;
  }
  return count;
}
