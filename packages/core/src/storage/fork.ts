/**
 * Forking: a document of its own that begins as a copy of another at a clock, with its history up to there.
 *
 * The fork has the events, times, commit ids, `info`, snapshots, tags and held events of the original up to
 * the clock, under the same clocks. It knows nothing of the original afterwards, nor the original of it.
 *
 * Invariants: the fork appears as a whole or not at all (`landing.ts`); of two forks to one id one wins.
 */

import { toHex } from "../base/bytes.js";
import type { Context } from "./context.js";
import type { DocumentLog } from "./document-log.js";
import { readImage } from "./image.js";
import { assertVacant, land, readPlace } from "./landing.js";
import { checkMoment, type Moment } from "./moments.js";
import { rekeyed } from "./rekeying.js";

export interface ForkOptions {
  /** A past version, by clock, tag or date, with which the fork begins. Default: all that is stored now. */
  readonly at?: Moment;
  /** Take an id that was deleted or erased before. Then the fork's clocks go on where that one ended. */
  readonly recreate?: boolean;
  readonly signal?: AbortSignal;
}

export interface ForkResult {
  readonly id: string;
  /** The fork's clock: that of the original, unless the id was used before. */
  readonly clock: number;
  /** Bytes of the stored values that were copied. */
  readonly bytes: number;
}

/** See `DocumentStorage.fork`. */
export function forkDocument(
  context: Context,
  id: string,
  log: DocumentLog,
  options: ForkOptions,
): Promise<ForkResult | undefined> {
  return log.hold(() => forkTo(context, id, log, options));
}

async function forkTo(
  context: Context,
  id: string,
  log: DocumentLog,
  { at, recreate = false, signal }: ForkOptions,
): Promise<ForkResult | undefined> {
  if (at !== undefined) checkMoment(id, at);
  const place = await readPlace(context, log.id);
  assertVacant(place, recreate);
  const incarnation = toHex(context.env.random(8));
  const identity = { id: log.id, incarnation, clockFloor: place.clock };
  const landed = await land(context, log, place, rekeyed(readImage(context, id, { at, signal }), identity));
  return landed && { id: log.id, clock: landed.clock, bytes: landed.bytes };
}
