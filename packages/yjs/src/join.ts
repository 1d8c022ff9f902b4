/**
 * Joins many Yjs updates into one by moving their bytes: no struct is decoded.
 *
 * Yjs pays for each update it applies or merges; joined, 260,000 keystrokes are one update. Runs of each
 * client are put in the order of their clocks, gaps become Skip structs, repeated runs are dropped, deletions
 * are sorted and united. Order and repetition of the input therefore do not matter.
 *
 * Runs that overlap partly cannot share one update: they go to a further one, to be applied after it.
 * Invariant: what `join` returns, applied in order, equals applying all added updates.
 */

import * as Y from "yjs";
import { findStruct, scanUpdate, type UpdateSink } from "./scanner.js";
import { type Block, type Run, writeUpdate } from "./writer.js";

export class Joiner implements UpdateSink {
  readonly #runs: Run[] = [];
  readonly #deletions: number[] = [];
  #bytes: Uint8Array = new Uint8Array();

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

  /** True when some struct of `client` lies at or after `clock`. */
  reaches(client: number, clock: number): boolean {
    return this.#runs.some((run) => run.client === client && run.end > clock);
  }

  /**
   * Updates to apply in order, usually one, none when nothing is left. Runs before `known(client)` are left
   * out; with `cut` also the known beginning of a run that reaches beyond.
   */
  join(known: (client: number) => number, cut = false): Uint8Array[] {
    const updates: Uint8Array[] = [];
    let rest = this.#unknownRuns(known, cut);
    const deletions = uniteDeletions(this.#deletions);
    do {
      const blocks: Block[] = [];
      const later = new Map<number, Run[]>();
      for (const [client, runs] of rest) {
        const [now, overlapping] = disjoint(runs);
        if (now.length > 0) blocks.push({ client, runs: now });
        if (overlapping.length > 0) later.set(client, overlapping);
      }
      rest = later;
      const last = rest.size === 0;
      if (blocks.length > 0 || deletions.size > 0) {
        updates.push(writeUpdate(blocks, last ? deletions : new Map()));
      }
    } while (rest.size > 0);
    return updates;
  }

  /** Runs by client in ascending order of their clocks; of those that begin together the longest first. */
  #unknownRuns(known: (client: number) => number, cut: boolean): Map<number, Run[]> {
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
      if (cut && run.clock < limit) runs.push(...cutRun(run, limit));
      else runs.push(run);
    }
    for (const list of byClient.values()) {
      if (!isAscending(list)) list.sort((a, b) => a.clock - b.clock || b.end - a.end);
    }
    return byClient;
  }
}

/** Deletions, given as client, clock, end, by client: clocks in pairs, ascending and apart. */
function uniteDeletions(flat: readonly number[]): Map<number, number[]> {
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

/** Splits ascending runs into ones that do not overlap, and the others that still hold something else. */
function disjoint(runs: Run[]): [now: Run[], later: Run[]] {
  if (isAscending(runs)) return [runs, []];
  const now: Run[] = [];
  const later: Run[] = [];
  let covered = -1;
  for (const run of runs) {
    if (run.clock >= covered) {
      now.push(run);
      covered = run.end;
    } else if (run.end > covered) later.push(run);
  }
  return [now, later];
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
