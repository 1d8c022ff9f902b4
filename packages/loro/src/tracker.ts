/**
 * Captures what happens to a live LoroDoc, for `Model.track`.
 *
 * What is new is what the version vector says: everything beyond what was seen at the last look, made here
 * or imported by a provider, as one exported update. What `apply` imports is stepped over by the ranges
 * that Loro reports, so that an edit which a listener makes meanwhile is still new.
 *
 * An update that a provider imported too early is no part of the document, and Loro's snapshots drop it
 * without a word. It is captured from where Loro keeps it; it may be captured once more later, which is
 * harmless.
 *
 * A document that began with a shallow snapshot which somebody imported has no operations to be stored for
 * what it shows: then `take` throws, each time.
 */

import { CoppiceError, equalBytes, type Tracker } from "coppice";
import { type ImportStatus, type LoroDoc, VersionVector } from "loro-crdt";
import { type Clocks, clocksOf, covers } from "./version.js";

interface Watch {
  seen: Clocks;
  /** What Loro kept aside at the last look. */
  pending: Uint8Array | undefined;
  captured: Uint8Array[];
  applying: boolean;
  readonly listeners: (() => void)[];
}

const watches = new WeakMap<LoroDoc, Set<Watch>>();

export function trackDoc(doc: LoroDoc): Tracker<LoroDoc, Uint8Array> {
  const watch: Watch = {
    seen: clocksOf(doc),
    pending: doc.exportPendingUpdates(),
    captured: [],
    applying: false,
    listeners: [],
  };
  const known = watches.get(doc);
  if (known === undefined) watches.set(doc, new Set([watch]));
  else known.add(watch);
  const tell = () => {
    if (!watch.applying) for (const listener of watch.listeners) listener();
  };
  const stops = [doc.subscribeLocalUpdates(tell), doc.subscribe(tell)];
  return {
    take: (current) => {
      look(current, watch);
      const events = watch.captured;
      watch.captured = [];
      return events;
    },
    pending: (current) =>
      watch.captured.length > 0 ||
      current.getPendingTxnLength() > 0 ||
      !covers(watch.seen, clocksOf(current)) ||
      isNew(current.exportPendingUpdates(), watch),
    onEvent: (listener) => void watch.listeners.push(listener),
    stop: () => {
      for (const stop of stops) stop();
      watches.get(doc)?.delete(watch);
    },
  };
}

/** Runs `apply`, whose imports are not captured. What was new before is. */
export function unwatched<T>(doc: LoroDoc, apply: () => T): T {
  const all = [...(watches.get(doc) ?? [])];
  for (const watch of all) {
    look(doc, watch);
    watch.applying = true;
  }
  try {
    return apply();
  } finally {
    for (const watch of all) watch.applying = false;
  }
}

/** To be called for each import inside of `unwatched`. */
export function stepOver(doc: LoroDoc, { success }: ImportStatus): void {
  for (const watch of watches.get(doc) ?? []) {
    for (const [peer, { end }] of success) {
      if ((watch.seen.get(peer) ?? 0) < end) watch.seen.set(peer, end);
    }
    watch.pending = doc.exportPendingUpdates();
  }
}

function look(doc: LoroDoc, watch: Watch): void {
  doc.commit();
  const clocks = clocksOf(doc);
  if (!covers(watch.seen, clocks)) {
    assertWhole(doc, watch);
    const from = new VersionVector(watch.seen);
    watch.captured.push(doc.export({ mode: "update", from }));
    from.free();
    watch.seen = clocks;
  }
  const pending = doc.exportPendingUpdates();
  if (pending !== undefined && isNew(pending, watch)) watch.captured.push(pending);
  watch.pending = pending;
}

/** Loro exports what it has, without a word of what lies before. */
function assertWhole(doc: LoroDoc, { seen }: Watch): void {
  if (!doc.isShallow()) return;
  const root = doc.shallowSinceVV();
  const isWhole = covers(seen, root.toJSON());
  root.free();
  if (isWhole) return;
  throw new CoppiceError(
    "EVENT_INVALID",
    "a shallow snapshot was imported into the document, and lacks the operations that would have to be " +
      "stored; import a whole snapshot, or discard the document",
  );
}

function isNew(pending: Uint8Array | undefined, watch: Watch): boolean {
  return pending !== undefined && !equalBytes(pending, watch.pending);
}
