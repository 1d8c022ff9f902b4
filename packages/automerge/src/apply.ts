/**
 * Applies stored events to an Automerge document: all at once, and one by one only when something is wrong.
 *
 * - The quick way hands Automerge all events joined. It stops silently at the first one it cannot read, so
 *   it counts only when the document grew by exactly as many changes as there were events.
 * - The thorough way reads each event, refuses the unsound ones, and applies the others together.
 * - When Automerge fails on those (a change that is sound in itself and impossible in this document, by a
 *   faulty or hostile client), it may leave parts behind or panic. Then the document is built anew from
 *   what it was, and the events are applied each after what it builds on, so that exactly the bad ones are
 *   refused.
 */

import * as Automerge from "@automerge/automerge";
import { type Applied, concatBytes, type Refusal } from "coppice";
import { type ChangeNode, readChange, reasonOf } from "./changes.js";
import { chunkProblem } from "./chunk.js";
import { captureNow, hasQueue, headsOf, sameHeads, stepOver } from "./tracker.js";

type Doc = Automerge.Doc<unknown>;

/** The snapshots that documents were restored from, until something happens to them. */
const origins = new WeakMap<object, Uint8Array>();

/** Remembers the bytes, for the case that the first events after them break the document. */
export function rememberOrigin(doc: Doc, snapshot: Uint8Array): void {
  origins.set(Automerge.getBackend(doc), snapshot);
}

export function forgetOrigin(doc: Doc): void {
  origins.delete(Automerge.getBackend(doc));
}

export function applyEvents(doc: Doc, events: readonly Uint8Array[]): Applied<Doc> {
  captureNow(doc);
  const queued = hasQueue(doc);
  const applied = applyQuickly(doc, events, queued);
  stepOver(doc, events, applied, queued);
  forgetOrigin(doc);
  forgetOrigin(applied.doc);
  return applied;
}

/** `queued`: changes wait already, and would be counted when they come in. */
function applyQuickly(doc: Doc, events: readonly Uint8Array[], queued: boolean): Applied<Doc> {
  const heads = headsOf(doc);
  if (queued || events.some((event) => chunkProblem(event, "change") !== undefined)) {
    return applyThoroughly(doc, events, heads);
  }
  const before = Automerge.stats(doc).numChanges;
  let next: Doc;
  try {
    next = Automerge.loadIncremental(doc, concatBytes(events));
  } catch {
    // The thorough way finds out which one it was.
    return applyThoroughly(rebuild(doc, heads), events, heads);
  }
  if (Automerge.stats(next).numChanges - before !== events.length)
    return applyThoroughly(next, events, heads);
  return { doc: next, applied: events.length, held: [], refused: [] };
}

interface Sound {
  readonly index: number;
  readonly event: Uint8Array;
  readonly node: ChangeNode;
}

/** `heads`: what the document had before any of the events, some of which may be in it by now. */
function applyThoroughly(doc: Doc, events: readonly Uint8Array[], heads: readonly string[]): Applied<Doc> {
  const refused: Refusal[] = [];
  const sound: Sound[] = [];
  events.forEach((event, index) => {
    try {
      sound.push({ index, event, node: readChange(event) });
    } catch (error) {
      refused.push({ index, reason: reasonOf(error) });
    }
  });
  let next = doc;
  try {
    [next] = Automerge.applyChanges(
      doc,
      sound.map(({ event }) => event),
    );
  } catch {
    const base = rebuild(doc, heads);
    next = applyEach(base, Automerge.save(base), sound, refused);
  }
  const bad = new Set(refused.map(({ index }) => index));
  const held = sound
    .filter(({ index, node }) => !bad.has(index) && !Automerge.hasHeads(next, [node.hash]))
    .map(({ index }) => index);
  refused.sort((a, b) => a.index - b.index);
  return { doc: next, applied: events.length - held.length - refused.length, held, refused };
}

/**
 * Each event after what it builds on; events for which something is missing are left out. `saved` is the
 * document as it is given.
 */
function applyEach(doc: Doc, saved: Uint8Array, events: readonly Sound[], refused: Refusal[]): Doc {
  let next = doc;
  const taken: Uint8Array[] = [];
  let waiting = [...events];
  for (let before = -1; before !== waiting.length; ) {
    before = waiting.length;
    const left: Sound[] = [];
    for (const one of waiting) {
      const { index, event, node } = one;
      if (!Automerge.hasHeads(next, [...node.deps])) {
        left.push(one);
        continue;
      }
      try {
        [next] = Automerge.applyChanges(next, [event]);
        taken.push(event);
      } catch (error) {
        refused.push({ index, reason: `Automerge cannot apply it: ${reasonOf(error)}` });
        next = Automerge.load(saved);
        for (const each of taken) [next] = Automerge.applyChanges(next, [each]);
      }
    }
    waiting = left;
  }
  return next;
}

/** A document as `doc` was when it had these heads. Throws when nothing can be got out of it any more. */
function rebuild(doc: Doc, heads: readonly string[]): Doc {
  const origin = origins.get(Automerge.getBackend(doc));
  if (origin !== undefined) {
    const restored = Automerge.load<unknown>(origin);
    if (sameHeads(headsOf(restored), heads)) {
      rememberOrigin(restored, origin);
      return restored;
    }
    Automerge.free(restored);
  }
  const changes = new Map<string, { node: ChangeNode; change: Uint8Array }>();
  for (const change of Automerge.getAllChanges(doc)) {
    const node = readChange(change);
    changes.set(node.hash, { node, change });
  }
  const wanted = new Set(heads);
  for (const hash of wanted) for (const dep of changes.get(hash)?.node.deps ?? []) wanted.add(dep);
  const kept = [...changes.values()].filter(({ node }) => wanted.has(node.hash)).map(({ change }) => change);
  const [next] = Automerge.applyChanges<unknown>(Automerge.init(), kept);
  if (sameHeads(headsOf(next), heads)) return next;
  throw new TypeError("Automerge failed and left a document that cannot be read; close it and load it again");
}
