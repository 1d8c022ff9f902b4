/**
 * Applies stored events to a Y.Doc: all of them joined, in one transaction, with one notification.
 *
 * - What Yjs can be made to trip over is refused beforehand (`scanner.ts`). Should Yjs still throw (two
 *   different structs with one id, by a faulty or hostile client), the events are applied one by one in the
 *   same transaction and those that throw are refused; parts of them may stay in the document.
 * - Yjs's cleanup of superfluous formatting marks after remote edits is switched off for these transactions:
 *   it makes deletions of its own, so the document would depend on how its events were sliced, and loading it
 *   would make events. Peers that edit do their own cleanup, and what they delete arrives as an event.
 * - Exceptions of the application's observers go to `onThrown`, or else pass through; the events are applied
 *   by then.
 */

import type { Applied, Refusal } from "coppice";
import * as Y from "yjs";
import { Joiner } from "./join.js";
import { scanUpdate, type UpdateSink } from "./scanner.js";
import { freeDoc, StoredOrigin } from "./tracker.js";

/** Of events that nobody tracks. */
const NOBODY = new StoredOrigin();

/** `origin`: that of the tracker that is to leave the events out. */
export function applyEvents(
  doc: Y.Doc,
  events: readonly Uint8Array[],
  origin: StoredOrigin = NOBODY,
  onThrown?: (error: unknown) => void,
): Applied<Y.Doc> {
  if (doc._transaction !== null) throw new TypeError("events cannot be applied inside a transaction");
  const refused: Refusal[] = [];
  const joiner = new Joiner();
  for (let index = 0; index < events.length; index++) {
    try {
      joiner.add(events[index]!);
    } catch (error) {
      refused.push({ index, reason: reasonOf(error) });
    }
  }
  avoidClient(doc, joiner);
  const update = joiner.join((client) => Y.getState(doc.store, client));
  if (update !== undefined) {
    let done = false;
    try {
      remotely(doc, origin, () => {
        if (!applyJoined(doc, update)) {
          const bad = new Set(refused.map((refusal) => refusal.index));
          for (const refusal of applyEach(doc, events, bad)) refused.push(refusal);
        }
        done = true;
      });
    } catch (error) {
      if (!done || onThrown === undefined) throw error;
      onThrown(error);
    }
  }
  refused.sort((a, b) => a.index - b.index);
  retryOnProgress(doc);
  const held = heldOf(doc, events, refused);
  return { doc, applied: events.length - held.length - refused.length, held, refused };
}

/**
 * Yjs retries what is pending when a client passes the clock it noted, which may be later than the one that
 * is needed: behind a gap it notes the end of the gap. Noting the present clocks makes it retry in time.
 */
function retryOnProgress(doc: Y.Doc): void {
  const missing = doc.store.pendingStructs?.missing;
  if (missing === undefined) return;
  for (const [client, clock] of missing) missing.set(client, Math.min(clock, Y.getState(doc.store, client)));
}

/**
 * Applies one update whose bytes were validated, as `applyEvents` would, to a document of any origin. `false`
 * when Yjs throws on it; parts of it may be in the document then.
 */
export function applyValidated(
  doc: Y.Doc,
  update: Uint8Array,
  origin: StoredOrigin = NOBODY,
  onThrown?: (error: unknown) => void,
): boolean {
  if (doc._transaction !== null) throw new TypeError("events cannot be applied inside a transaction");
  let done: boolean | undefined;
  try {
    remotely(doc, origin, () => {
      done = applyJoined(doc, update);
    });
  } catch (error) {
    if (done === undefined || onThrown === undefined) throw error;
    onThrown(error);
  }
  retryOnProgress(doc);
  return done === true;
}

/** Builds the document that one validated update describes completely. Throws otherwise. */
export function applySnapshot(doc: Y.Doc, snapshot: Uint8Array): void {
  scanUpdate(snapshot);
  remotely(doc, NOBODY, () => Y.applyUpdate(doc, snapshot));
  if (doc.store.pendingStructs !== null || doc.store.pendingDs !== null) {
    throw new TypeError("not a Yjs snapshot: it builds on structs that it lacks");
  }
  while (doc.store.clients.has(doc.clientID)) doc.clientID = new Y.Doc().clientID;
}

/** Documents after whose stored events Yjs cleans nothing up. */
const uncleaned = new WeakSet<Y.Doc>();

/** One transaction that the tracker of that origin leaves out and after which Yjs cleans nothing up. */
function remotely(doc: Y.Doc, origin: StoredOrigin, fn: () => void): void {
  if (!uncleaned.has(doc)) {
    uncleaned.add(doc);
    // Not only for this call: inside an observer, Yjs ends the transaction later.
    doc.on("afterTransaction", (transaction: Y.Transaction) => {
      if (transaction.origin instanceof StoredOrigin) transaction._needFormattingCleanup = false;
    });
  }
  const outermost = doc._transactionCleanups.length === 0;
  try {
    Y.transact(doc, fn, origin, false);
  } finally {
    // A listener that throws at the very end would leave Yjs waiting: what an observer edited meanwhile, and
    // every later edit, would never be captured.
    if (outermost) freeDoc(doc);
  }
}

/**
 * A new client id before somebody else's structs under the present one arrive (Yjs would print a warning).
 */
function avoidClient(doc: Y.Doc, joiner: Joiner): void {
  while (joiner.reaches(doc.clientID, Y.getState(doc.store, doc.clientID)))
    doc.clientID = new Y.Doc().clientID;
}

function applyJoined(doc: Y.Doc, update: Uint8Array): boolean {
  const { pendingStructs, pendingDs } = doc.store;
  const before = pendingStructs && { ...pendingStructs };
  try {
    Y.applyUpdate(doc, update);
    return true;
  } catch {
    // What was pending may be what throws: it is offered once more, alone, and else left to storage.
    doc.store.pendingStructs = null;
    doc.store.pendingDs = null;
    for (const pending of [before?.update, pendingDs]) {
      if (pending != null) attempt(() => Y.applyUpdateV2(doc, pending));
    }
    return false;
  }
}

function applyEach(doc: Y.Doc, events: readonly Uint8Array[], bad: ReadonlySet<number>): Refusal[] {
  const refused: Refusal[] = [];
  for (let index = 0; index < events.length; index++) {
    if (bad.has(index)) continue;
    const joiner = new Joiner();
    joiner.add(events[index]!);
    const error = attempt(() => {
      const update = joiner.join((client) => Y.getState(doc.store, client));
      if (update !== undefined) Y.applyUpdate(doc, update);
    });
    if (error !== undefined) refused.push({ index, reason: `Yjs cannot integrate it: ${reasonOf(error)}` });
  }
  return refused;
}

function attempt(fn: () => void): unknown {
  try {
    fn();
    return undefined;
  } catch (error) {
    return error ?? new Error("unknown");
  }
}

/**
 * Events of which some struct or deletion lies beyond what the document has. Costs nothing when none can be.
 */
function heldOf(doc: Y.Doc, events: readonly Uint8Array[], refused: readonly Refusal[]): number[] {
  if (doc.store.pendingStructs === null && doc.store.pendingDs === null) return [];
  const held: number[] = [];
  const bad = new Set(refused.map((refusal) => refusal.index));
  let beyond = false;
  const sink: UpdateSink = {
    run: (client, _clock, end) => {
      beyond ||= end > Y.getState(doc.store, client);
    },
    deletion: (client, _clock, end) => {
      beyond ||= end > Y.getState(doc.store, client);
    },
  };
  for (let index = 0; index < events.length; index++) {
    if (bad.has(index)) continue;
    beyond = false;
    scanUpdate(events[index]!, sink);
    if (beyond) held.push(index);
  }
  return held;
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
