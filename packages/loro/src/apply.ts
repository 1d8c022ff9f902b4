/**
 * Applies stored events to a LoroDoc: all in one import, and one by one only when something is wrong.
 *
 * - Loro imports a batch as a whole or not at all. When it refuses, each event is imported by itself, and
 *   those that fail are refused.
 * - On an event that is sound in itself and impossible in this document (by a faulty or hostile client)
 *   Loro may panic, and the document is lost. One that was only just restored or made is then built anew;
 *   for any other, `apply` throws, and it has to be loaded again: storage has its events.
 * - Whether an event is held is asked only when Loro has kept something aside.
 */

import type { Applied, Refusal } from "coppice";
import { decodeImportBlobMeta, type ImportStatus, LoroDoc } from "loro-crdt";
import { moveWatches, stepOver, unwatched } from "./tracker.js";
import { checkEvent, importAll, isSuspect, Panic } from "./update.js";
import { clocksOf, covers, encodeClocks } from "./version.js";

/** What documents were made from, until something happens to them; `undefined`: from nothing. */
const origins = new WeakMap<LoroDoc, Uint8Array | undefined>();

/** Remembers the bytes, for the case that the first events after them break the document. */
export function rememberOrigin(doc: LoroDoc, snapshot: Uint8Array | undefined): void {
  origins.set(doc, snapshot);
}

export function forgetOrigin(doc: LoroDoc): void {
  origins.delete(doc);
}

export function applyEvents(doc: LoroDoc, events: readonly Uint8Array[]): Applied<LoroDoc> {
  const refused: Refusal[] = [];
  events.forEach((event, index) => {
    if (!isSuspect(event)) return;
    try {
      checkEvent(event);
    } catch (error) {
      refused.push({ index, reason: (error as Error).message });
    }
  });
  return unwatched(doc, () => {
    const next = applySome(doc, events, refused);
    forgetOrigin(doc);
    forgetOrigin(next.doc);
    refused.sort((a, b) => a.index - b.index);
    const held = next.waits ? heldOf(next.doc, events, refused) : [];
    return { doc: next.doc, applied: events.length - held.length - refused.length, held, refused };
  });
}

interface Outcome {
  readonly doc: LoroDoc;
  /** Some may have to wait for others. */
  readonly waits: boolean;
}

function applySome(doc: LoroDoc, events: readonly Uint8Array[], refused: Refusal[]): Outcome {
  const bad = new Set(refused.map(({ index }) => index));
  const good = events.filter((_, index) => !bad.has(index));
  if (good.length === 0) return { doc, waits: false };
  const before = encodeClocks(clocksOf(doc));
  let status: ImportStatus;
  try {
    status = importAll(doc, good);
  } catch (error) {
    const base = error instanceof Panic ? rebuild(doc, before, [], error) : doc;
    return applyEach(base, events, bad, refused);
  }
  stepOver(doc, status);
  return { doc, waits: status.pending !== null };
}

function applyEach(
  doc: LoroDoc,
  events: readonly Uint8Array[],
  bad: ReadonlySet<number>,
  refused: Refusal[],
): Outcome {
  let next = doc;
  const imported: Uint8Array[] = [];
  const before = encodeClocks(clocksOf(doc));
  for (const [index, event] of events.entries()) {
    if (bad.has(index)) continue;
    try {
      stepOver(next, importAll(next, [event]));
      imported.push(event);
    } catch (error) {
      refused.push({ index, reason: (error as Error).message });
      if (error instanceof Panic) next = rebuild(next, before, imported, error);
    }
  }
  return { doc: next, waits: true };
}

/** The document as it was, and the events that it took since. Throws when nobody remembers what it was. */
function rebuild(lost: LoroDoc, version: Uint8Array, events: readonly Uint8Array[], panic: Panic): LoroDoc {
  if (!origins.has(lost)) {
    throw new TypeError("Loro failed on an event, and the document is lost; close it and load it again", {
      cause: panic,
    });
  }
  const origin = origins.get(lost);
  const next = new LoroDoc();
  if (origin !== undefined) importAll(next, [origin]);
  if (encodeClocks(clocksOf(next)).join() !== version.join()) {
    throw new TypeError("Loro failed on an event, and the document is lost; close it and load it again", {
      cause: panic,
    });
  }
  rememberOrigin(next, origin);
  moveWatches(lost, next);
  if (events.length > 0) stepOver(next, importAll(next, events));
  return next;
}

/** Events of which some operation lies beyond what the document has. */
function heldOf(doc: LoroDoc, events: readonly Uint8Array[], refused: readonly Refusal[]): number[] {
  const bad = new Set(refused.map(({ index }) => index));
  const clocks = clocksOf(doc);
  const held: number[] = [];
  for (const [index, event] of events.entries()) {
    if (bad.has(index)) continue;
    const end = decodeImportBlobMeta(event, false).partialEndVersionVector;
    if (!covers(clocks, end.toJSON())) held.push(index);
    end.free();
  }
  return held;
}
