/**
 * How far a compaction trims, and which older snapshot it leaves beside the newest one: by the policy of
 * history that the storage was opened with.
 *
 * | policy           | older snapshot                              | what is trimmed     |
 * | ---------------- | ------------------------------------------- | ------------------- |
 * | `"drop"`         | the one there was, or before the last batch | is deleted          |
 * | `"archive"`      | the same                                    | goes to the archive |
 * | `{ keepEvents }` | at least so many events before the head     | is deleted          |
 *
 * Invariants: the log is trimmed at the clock of the older snapshot alone, so every version from there on can
 * be loaded. With `keepEvents` a new older snapshot is made when more than twice as many events are kept: one
 * more fold for each `keepEvents` events.
 */

import { CoppiceError, isCoppiceError } from "../base/errors.js";
import type { Guard } from "../contract/guard.js";
import { isWhole } from "./archive.js";
import type { Context } from "./context.js";
import type { Meta, SnapshotRef } from "./meta.js";
import { lastBatch } from "./reader.js";
import type { State } from "./state.js";

/** What becomes of events that a snapshot covers. */
export type HistoryPolicy = "drop" | "archive" | { readonly keepEvents: number };

/** Throws `ARGUMENT_INVALID` for what is no policy. */
export function checkHistory(history: HistoryPolicy | undefined): void {
  if (history === undefined || history === "drop" || history === "archive") return;
  const { keepEvents } = Object(history) as { keepEvents?: unknown };
  if (Number.isSafeInteger(keepEvents) && (keepEvents as number) >= 0) return;
  const what = 'history must be "drop", "archive", or { keepEvents } with a whole number from 0';
  throw new CoppiceError("ARGUMENT_INVALID", what);
}

/** Whether what is trimmed of this document goes to the archive. */
export function archives({ history }: Context, { archive }: Meta): boolean {
  return history === "archive" || (history === undefined && archive.length > 0);
}

/**
 * Whether the archive of this document is to go: somebody said so, it never goes by default; and it has none
 * of the events that are to be kept, and no version of them stands on it. `clock`: that of the head.
 */
export function dropsArchive(context: Context, meta: Meta, clock: number): boolean {
  const { history } = context;
  const { archive, oldest, previous } = meta;
  if (archive.length === 0 || history === undefined || history === "archive") return false;
  const keep = keptEvents(context);
  if (keep === undefined) return true;
  // The first versions of the log may be replayed from tags in one that does not go back to the beginning.
  const isBare = !isWhole(meta) && (previous === undefined || previous.clock > oldest);
  return clock - oldest >= keep && !isBare;
}

/** `undefined`: up to the older snapshot, whatever it leaves. */
function keptEvents({ history }: Context): number | undefined {
  return typeof history === "object" ? history.keepEvents : undefined;
}

/** Told from meta and the clock alone: a compaction would find nothing to trim. */
export function isTrimmed(context: Context, meta: Meta, clock: number): boolean {
  if (dropsArchive(context, meta, clock)) return false;
  const keep = keptEvents(context);
  const byPrevious = meta.previous !== undefined && meta.previous.clock <= meta.oldest;
  if (keep === undefined) return byPrevious;
  return clock - meta.oldest <= keep || (byPrevious && clock - meta.oldest <= 2 * keep);
}

/** The older snapshot when a snapshot at `clock` is taken and nothing is trimmed. */
export function olderAtSnapshot(context: Context, meta: Meta, clock: number): SnapshotRef | undefined {
  const { previous, oldest, base } = meta;
  // The versions that are kept begin with it.
  if (keptEvents(context) !== undefined && oldest > base && previous !== undefined) return previous;
  return below(meta.snapshot, clock);
}

export interface TrimPlan {
  /** The older snapshot, when it exists already. */
  readonly older: SnapshotRef | undefined;
  /** Where it is to be made, when it does not. */
  readonly makeAt: number | undefined;
  /** Clock up to which the log is trimmed. */
  readonly goal: number;
}

/**
 * Plans the trim of a document whose whole log is `state`. `newest`: the snapshot of all of it exists.
 * `last`: the clock before the last batch, which stays.
 */
export async function planTrim(
  context: Context,
  guard: Guard,
  id: string,
  state: State,
  newest: boolean,
  last: number,
): Promise<TrimPlan> {
  const { meta, end } = state;
  const base = state.base?.space === "snapshot" ? state.base.ref : undefined;
  const older = below(newest ? meta.previous : base, end);
  const keep = keptEvents(context);
  if (keep === undefined) {
    if (older !== undefined) return { older, makeAt: undefined, goal: older.clock };
    return { older, makeAt: last > meta.base ? last : undefined, goal: last };
  }
  const limit = Math.min(end - keep, last);
  const [best] = [meta.previous, base, meta.snapshot]
    .filter((ref) => ref !== undefined && ref.clock <= limit && ref.clock >= meta.oldest)
    .sort((left, right) => right!.clock - left!.clock);
  const left = end - (best?.clock ?? meta.oldest);
  if (left > 2 * keep) {
    const start = (await lastBatch(guard, id, limit + 1))?.clock ?? meta.oldest;
    const known = [best?.clock, meta.oldest, meta.base].map((clock) => clock ?? 0);
    if (start > Math.max(...known)) return { older: undefined, makeAt: start, goal: start };
  }
  if (best !== undefined) return { older: best, makeAt: undefined, goal: best.clock };
  // Nothing is trimmed, and what could be loaded still can: by the snapshot with which the log begins, or,
  // when the archive from which that was replayed goes, by one that is made there.
  const first = below(meta.previous, end) ?? older;
  const bare = dropsArchive(context, meta, end) && isWhole(meta) && first?.clock !== meta.oldest;
  return { older: first, makeAt: bare ? meta.oldest : undefined, goal: meta.oldest };
}

/** The plan when no older snapshot can be made, because an earlier policy trimmed too much. */
export function withoutMaking(error: unknown, { meta, end }: State): TrimPlan {
  if (!isCoppiceError(error, "TRIMMED")) throw error;
  const older = below(meta.previous, end) ?? below(meta.snapshot, end);
  return { older, makeAt: undefined, goal: meta.oldest };
}

function below(ref: SnapshotRef | undefined, clock: number): SnapshotRef | undefined {
  return ref !== undefined && ref.clock < clock ? ref : undefined;
}
