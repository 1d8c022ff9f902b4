/**
 * Captures what happens to an Automerge document, for `Model.track`.
 *
 * What is new is what the heads say: every change that came after those of the last look, made here, merged
 * in or received by Automerge's own sync. What `apply` brings is stepped over: it looks before and after.
 *
 * A document is immutable, but all its states share one handle of Automerge's; that handle names the
 * document here. Changes that Automerge keeps waiting in its queue are captured when they can be applied:
 * also when `apply` brings what they waited for, unless it had brought them too.
 */

import * as Automerge from "@automerge/automerge";
import type { Applied, Tracker } from "coppice";
import { readChange } from "./changes.js";
import { splitChunks } from "./chunk.js";

type Doc = Automerge.Doc<unknown>;

interface Watch {
  /** Everything in the past of these was captured, or came by `apply`. */
  heads: readonly string[];
  captured: Uint8Array[];
  /** Hashes of changes that waited in the queue when tracking began, or that `apply` put there. */
  readonly known: Set<string>;
}

const watches = new WeakMap<object, Set<Watch>>();

export function trackDoc(doc: Doc): Tracker<Doc, Uint8Array> {
  const watch: Watch = { heads: headsOf(doc), captured: [], known: new Set(queueOf(doc)) };
  attach(doc, watch);
  let handle = Automerge.getBackend(doc);
  // `Automerge.clone` in a `change` gives the document another handle.
  const follow = (current: Doc) => {
    if (Automerge.getBackend(current) === handle) return;
    handle = Automerge.getBackend(current);
    attach(current, watch);
  };
  return {
    take: (current) => {
      follow(current);
      look(current, watch);
      const events = watch.captured;
      watch.captured = [];
      return events;
    },
    pending: (current) => watch.captured.length > 0 || !sameHeads(headsOf(current), watch.heads),
    stop: () => void watches.get(handle)?.delete(watch),
  };
}

/** To be called before events are applied: what is new by then was made here. */
export function captureNow(doc: Doc): void {
  for (const watch of watches.get(Automerge.getBackend(doc)) ?? []) look(doc, watch);
}

/**
 * To be called after events were applied, which may have given the document another handle. `queued`: there
 * were changes in the queue before, which may have come out.
 */
export function stepOver(
  doc: Doc,
  events: readonly Uint8Array[],
  { doc: next, held, refused }: Applied<Doc>,
  queued: boolean,
): void {
  const watching = watches.get(Automerge.getBackend(doc));
  if (watching === undefined || watching.size === 0) return;
  const bad = new Set(refused.map(({ index }) => index));
  const brought = new Set<string>();
  for (const [index, event] of queued ? events.entries() : []) {
    if (!bad.has(index)) brought.add(readChange(event).hash);
  }
  const heads = headsOf(next);
  for (const watch of watching) {
    attach(next, watch);
    for (const change of queued ? Automerge.getChangesSince(next, [...watch.heads]) : []) {
      const { hash } = readChange(change);
      if (!watch.known.delete(hash) && !brought.has(hash)) watch.captured.push(change);
    }
    for (const index of held) watch.known.add(readChange(events[index]!).hash);
    watch.heads = heads;
  }
}

/** Whether changes wait for others in Automerge's queue. */
export function hasQueue(doc: Doc): boolean {
  return Automerge.getMissingDeps(doc, []).length > 0;
}

/** Their hashes. Automerge tells them only by saving them behind the document. */
function queueOf(doc: Doc): string[] {
  if (!hasQueue(doc)) return [];
  return splitChunks(Automerge.save(doc)).flatMap(({ type, bytes }) =>
    type === "change" ? [readChange(bytes).hash] : [],
  );
}

/** The newest heads, also when `doc` is an outdated state of the document. In ascending order. */
export function headsOf(doc: Doc): string[] {
  return Automerge.getBackend(doc).getHeads().sort();
}

export function sameHeads(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((head, index) => head === b[index]);
}

function look(doc: Doc, watch: Watch): void {
  const heads = headsOf(doc);
  if (sameHeads(heads, watch.heads)) return;
  for (const change of Automerge.getChangesSince(doc, [...watch.heads])) watch.captured.push(change);
  watch.heads = heads;
}

function attach(doc: Doc, watch: Watch): void {
  const handle = Automerge.getBackend(doc);
  const known = watches.get(handle);
  if (known === undefined) watches.set(handle, new Set([watch]));
  else known.add(watch);
}
