/**
 * Whether a snapshot is what the events fold to: the events from the start of the document, in the archive or
 * in the log, or the previous snapshot and those after it, folded again and compared by version.
 *
 * An archive is folded segment by segment, each onto the snapshot of those before it: memory holds one of
 * them. A snapshot may cover events whose bytes were lost later; then nothing is left to compare it with, and
 * that is no problem. Nothing is written here.
 */

import { equalBytes } from "../base/bytes.js";
import type { AnyModel, Folded } from "../contract/model.js";
import { soundFolded } from "../contract/model-results.js";
import type { Link } from "./check-log.js";
import type { FoundHeld, FoundSnapshot } from "./check-snapshots.js";
import { type Folder, ThreadDied } from "./folding.js";

export type Verdict = "equal" | "differs" | "incomparable";

/** What a fold starts from. */
export interface FoldBase {
  readonly clock: number;
  /** `undefined`: nothing, the start of the document. */
  readonly bytes: Uint8Array | undefined;
  /** Events up to the clock that the bytes do not hold. */
  readonly held: readonly ClockedEvent[];
  /** Clocks of events up to there that are lost. */
  readonly lost: readonly number[];
}

export interface ClockedEvent {
  readonly clock: number;
  readonly event: unknown;
}

export function startOf(clock: number): FoldBase {
  return { clock, bytes: undefined, held: [], lost: [] };
}

/** `undefined` when an event that the snapshot leaves held is not at hand. */
export function baseOf(
  { ref, bytes, record }: FoundSnapshot,
  held: readonly FoundHeld[],
): FoldBase | undefined {
  const found: ClockedEvent[] = [];
  for (const clock of record?.held ?? []) {
    const one = held.find((candidate) => candidate.clock === clock);
    if (!one?.intact) return undefined;
    found.push({ clock, event: one.event });
  }
  return { clock: ref.clock, bytes, held: found, lost: record?.lost ?? [] };
}

/** Folds events onto a base, up to the clock `end`; `undefined` when they cannot be folded. */
export async function foldOnto(
  folder: Folder,
  model: AnyModel,
  base: FoldBase,
  events: readonly ClockedEvent[],
  lost: readonly number[],
  end: number,
): Promise<FoldBase | undefined> {
  const all = [...base.held, ...events];
  const given = all.map(({ event }) => event);
  let folded: Folded;
  try {
    folded = await folder.fold(model, base.bytes, given);
  } catch (error) {
    if (error instanceof ThreadDied) throw error;
    return undefined;
  }
  const { snapshot, held, refused } = soundFolded(model, folded, all.length);
  const left = [...held, ...refused.map(({ index }) => index)].map((index) => all[index]!);
  return { clock: end, bytes: snapshot, held: left, lost: [...base.lost, ...lost] };
}

/** Folds from the base up to the snapshot's clock, and compares. */
export async function compareFold(
  folder: Folder,
  model: AnyModel,
  base: FoldBase,
  target: FoundSnapshot,
  links: readonly Link[],
): Promise<Verdict> {
  const record = target.record!;
  const input = foldInput(base, target.ref.clock, links);
  if (input === undefined || input.lost.some((clock) => !record.lost.includes(clock))) return "incomparable";
  let folded: Folded;
  try {
    folded = await folder.fold(model, base.bytes, input.events);
  } catch (error) {
    if (error instanceof ThreadDied) throw error;
    // The base restores (or is empty), so it is the events that cannot lead to the snapshot.
    return "differs";
  }
  soundFolded(model, folded, input.events.length);
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
function foldInput(base: FoldBase, to: number, links: readonly Link[]): FoldInput | undefined {
  const events = base.held.map(({ event }) => event);
  const clocks = base.held.map(({ clock }) => clock);
  const lost = [...base.lost];
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
