/**
 * Moments: how a past version of a document is named, by a clock, by a tag or by a date, and the clock that
 * each of them stands for.
 *
 * Invariant: a date stands for the last batch that was stored at or before it. Times of a document's batches
 * never go back, so a binary search over the log finds it; nothing is guessed about batches that are gone.
 */

import { CoppiceError } from "../base/errors.js";
import { readableFrom, readSegment } from "./archive.js";
import type { Context } from "./context.js";
import { reachedClock } from "./head.js";
import { eventsKey, type Meta } from "./meta.js";
import { lastBatch, Moved, trimmed } from "./reader.js";
import { available, readTags } from "./tag-index.js";

/** A past version: a clock, the name of a tag, or a date. */
export type Moment = number | string | Date;

/** Throws `ARGUMENT_INVALID` for what can name no version. */
export function checkMoment(id: string, at: Moment): void {
  if (typeof at === "string") return;
  const time = at instanceof Date ? at.getTime() : at;
  if (at instanceof Date && Number.isFinite(time)) return;
  if (Number.isSafeInteger(time) && time >= 0) return;
  throw new CoppiceError(
    "ARGUMENT_INVALID",
    "at must be a clock (a safe integer from 0), the name of a tag, or a date",
    { details: { id, at } },
  );
}

/**
 * The clock of a moment; `undefined` for a date before the document was created. To be called inside
 * `withRestarts`. Throws `TAG_UNKNOWN`, `TRIMMED` for a date before what is kept, and `CORRUPT` for one after
 * the end of a log whose last batches are missing.
 */
export async function clockAt(
  context: Context,
  id: string,
  meta: Meta,
  at: Moment,
): Promise<number | undefined> {
  if (typeof at === "number") return at;
  if (typeof at === "string") {
    const { entries } = await readTags(context.guard, id);
    const tag = entries.find(({ name }) => name === at);
    if (tag !== undefined) return tag.clock;
    const details = { id, name: at, known: entries.slice(0, 16).map(({ name }) => name) };
    const message = "the document has no tag of that name; a date is a Date, a clock a number";
    throw new CoppiceError("TAG_UNKNOWN", message, { details });
  }
  const time = at.getTime();
  if (time < meta.created) return undefined;
  const reached = await reachedClock(context, id, meta);
  const found =
    (await lastBefore(context, id, { oldest: meta.oldest, time, reached })) ??
    (await archivedAt(context, id, meta, time));
  if (found !== undefined) return found;
  const { base } = meta;
  if (readableFrom(meta) === base) return base;
  const what = { date: at.toISOString(), ...(await available(context, id)) };
  throw trimmed(id, undefined, readableFrom(meta), what);
}

/**
 * The end of the last batch of the log with a time of at most `time`; about log₂ of the clock reads. A log
 * that ends before `reached` does not tell what its last version was.
 */
async function lastBefore(
  { guard }: Context,
  id: string,
  { oldest, time, reached }: { readonly oldest: number; readonly time: number; readonly reached: number },
): Promise<number | undefined> {
  let batch = await lastBatch(guard, id);
  if (batch === undefined || batch.clock < oldest) return undefined;
  if (batch.time <= time) {
    if (batch.end >= reached) return batch.end;
    throw new Moved(eventsKey(id, batch.end), "the last batches of the log are missing");
  }
  // Batches that begin at or above `high` are too new; the answer ends at or above `low`.
  let high = batch.clock;
  let low: number | undefined;
  while ((low ?? oldest) < high) {
    batch = await lastBatch(guard, id, Math.floor(((low ?? oldest) + high) / 2) + 1);
    if (batch === undefined || batch.clock < oldest) {
      throw new Moved(eventsKey(id, oldest), "the log was trimmed while it was searched");
    }
    if (batch.time <= time) low = batch.end;
    else high = batch.clock;
  }
  return low;
}

/** The end of the last archived batch with a time of at most `time`; reads one segment. */
async function archivedAt(
  { guard }: Context,
  id: string,
  { archive }: Meta,
  time: number,
): Promise<number | undefined> {
  const segment = archive.findLast(({ firstTime }) => firstTime <= time);
  if (segment === undefined || segment.lastTime <= time) return segment?.end;
  return (await readSegment(guard, id, segment)).findLast((batch) => batch.time <= time)?.end;
}
