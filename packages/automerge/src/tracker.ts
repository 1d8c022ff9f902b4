/**
 * Captures what happens to an Automerge document, for `Model.track`.
 *
 * What is new is what the heads say: every change that came after those of the last look, made here, merged
 * in or received by Automerge's own sync. What `apply` brings is stepped over: it looks before and after.
 *
 * A document is immutable, but all its states share one handle of Automerge's; that handle names the
 * document here. Changes that Automerge keeps waiting in its queue are captured when they can be applied.
 */

import * as Automerge from "@automerge/automerge";
import type { Tracker } from "coppice";

type Doc = Automerge.Doc<unknown>;

interface Watch {
  /** Everything in the past of these was captured, or came by `apply`. */
  heads: readonly string[];
  captured: Uint8Array[];
}

const watches = new WeakMap<object, Set<Watch>>();

export function trackDoc(doc: Doc): Tracker<Doc, Uint8Array> {
  const watch: Watch = { heads: headsOf(doc), captured: [] };
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

/** To be called after events were applied: `next` may have another handle than `doc`. */
export function stepOver(doc: Doc, next: Doc): void {
  for (const watch of watches.get(Automerge.getBackend(doc)) ?? []) {
    attach(next, watch);
    watch.heads = headsOf(next);
  }
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
