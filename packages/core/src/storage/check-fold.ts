/**
 * Whether a snapshot is what the events fold to: the events from the start of the log, or the previous
 * snapshot and those after it, folded again and compared by version.
 *
 * A snapshot may cover events whose bytes were lost later; then nothing is left to compare it with, and that
 * is no problem. Nothing is written here.
 */

import { equalBytes } from "../base/bytes.js";
import type { AnyModel, Folded } from "../contract/model.js";
import type { Link } from "./check-log.js";
import type { FoundHeld, FoundSnapshot } from "./check-snapshots.js";
import type { Folder } from "./folding.js";

export type Verdict = "equal" | "differs" | "incomparable";

/** What a fold starts from: an intact snapshot, or the start of the log (`undefined`). */
export interface FoldBase {
  readonly clock: number;
  readonly snapshot: FoundSnapshot | undefined;
}

/** Folds from the base up to the snapshot's clock, and compares. */
export async function compareFold(
  folder: Folder,
  model: AnyModel,
  base: FoldBase,
  target: FoundSnapshot,
  links: readonly Link[],
  held: readonly FoundHeld[],
): Promise<Verdict> {
  const record = target.record!;
  const input = foldInput(base, target.ref.clock, links, held);
  if (input === undefined || input.lost.some((clock) => !record.lost.includes(clock))) return "incomparable";
  let folded: Folded;
  try {
    folded = await folder.fold(model, base.snapshot?.bytes, input.events);
  } catch {
    // The base restores (or is empty), so it is the events that cannot lead to the snapshot.
    return "differs";
  }
  if (!equalBytes(folded.version, record.version)) return "differs";
  const left = [...folded.held, ...folded.refused.map(({ index }) => index)].map(
    (index) => input.clocks[index]!,
  );
  return sameNumbers([...left, ...input.lost], [...record.held, ...record.lost]) ? "equal" : "differs";
}

interface FoldInput {
  readonly events: readonly unknown[];
  readonly clocks: readonly number[];
  readonly lost: readonly number[];
}

/** `undefined` when something between the base and the clock is not at hand. */
function foldInput(
  base: FoldBase,
  to: number,
  links: readonly Link[],
  held: readonly FoundHeld[],
): FoldInput | undefined {
  const events: unknown[] = [];
  const clocks: number[] = [];
  const lost = [...(base.snapshot?.record?.lost ?? [])];
  for (const clock of base.snapshot?.record?.held ?? []) {
    const one = held.find((candidate) => candidate.clock === clock);
    if (!one?.intact) return undefined;
    events.push(one.event);
    clocks.push(clock);
  }
  let next = base.clock;
  for (const link of links) {
    if (link.clock < base.clock || link.clock >= to) continue;
    if (link.clock !== next) return undefined;
    next = link.end;
    for (let clock = link.clock; clock < link.end; clock++) {
      if (link.lost) {
        lost.push(clock);
        continue;
      }
      if (link.events === undefined) return undefined;
      events.push(link.events[clock - link.clock]);
      clocks.push(clock);
    }
  }
  return next === to ? { events, clocks, lost } : undefined;
}

function sameNumbers(left: readonly number[], right: readonly number[]): boolean {
  const sorted = [...right].sort((a, b) => a - b);
  return (
    left.length === right.length &&
    [...left].sort((a, b) => a - b).every((clock, index) => clock === sorted[index])
  );
}
