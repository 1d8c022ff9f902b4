/**
 * Captures what happens to a live Y.Doc, for `Model.track`.
 *
 * An event is the v1 update that Yjs emits for a transaction: of the application, of a provider, or of Yjs's
 * own cleanup after a provider's update. Transactions in which stored events are applied name who stored
 * them (`StoredOrigin`), and are left out there alone: another storage that keeps the same Y.Doc has to
 * store them. Yjs encodes an update only where somebody listens, so the tracker listens during the others
 * alone: a loaded document is not encoded again. An update that a provider applied too early emits nothing:
 * Yjs keeps it aside. It is captured from there (`pending.ts`), so that it is not lost when `apply`
 * completes it later; it may then be captured once more, which is harmless. When a listener of the
 * application throws at the end of a transaction, Yjs emits nothing for it nor for any later one; in the
 * microtask after it, or when `apply` is what ends, every tracker of the document captures what is new
 * since, and Yjs is freed.
 */

import { equalBytes, type Tracker } from "coppice";
import * as Y from "yjs";
import { type Kept, newlyPending } from "./pending.js";

/** The origin of the transactions in which stored events are applied: whose events they are. */
export class StoredOrigin {}

/** Of each tracker of a document: it captures what these transactions made. */
const rescues = new WeakMap<Y.Doc, Set<(unended: readonly Y.Transaction[]) => void>>();

/**
 * Frees Yjs, which waits for the end of these transactions for ever. Some of them may have ended: what they
 * made is captured once more.
 */
export function freeDoc(doc: Y.Doc): void {
  const unended = doc._transactionCleanups;
  doc._transactionCleanups = [];
  for (const rescue of rescues.get(doc) ?? []) rescue(unended);
}

export function trackDoc(doc: Y.Doc, own: StoredOrigin): Tracker<Y.Doc, Uint8Array> {
  let captured: Uint8Array[] = [];
  let pending = pendingOf(doc);
  const listeners: (() => void)[] = [];
  const capture = (event: Uint8Array) => {
    captured.push(event);
    for (const listener of listeners) listener();
  };
  const onUpdate = (update: Uint8Array, origin: unknown) => {
    if (origin !== own) capture(update);
  };
  const onTransaction = (transaction: Y.Transaction) => {
    // One that an observer of it began may have changed what waits: the end of the last one tells.
    if (transaction.origin === own && doc._transactionCleanups.at(-1) !== transaction) return;
    const before = pending;
    pending = pendingOf(doc).map((now, index) => (same(now, before[index]) ? before[index] : now));
    if (transaction.origin === own) return;
    for (const [index, now] of pending.entries()) {
      if (now === undefined || now === before[index]) continue;
      const event = newlyPending(now, before[index]);
      if (event !== undefined) capture(event);
    }
  };
  let watching = false;
  const onCleanup = (transaction: Y.Transaction) => {
    // Transactions end one after the other, each with its update before the next one begins to.
    if (transaction.origin === own) doc.off("update", onUpdate);
    else doc.on("update", onUpdate);
    if (watching) return;
    watching = true;
    queueMicrotask(() => {
      watching = false;
      if (isStuck(doc)) freeDoc(doc);
    });
  };
  const rescue = (unended: readonly Y.Transaction[]) => {
    const first = unended.find(({ origin }) => origin !== own);
    if (first !== undefined) capture(Y.encodeStateAsUpdate(doc, Y.encodeStateVector(first.beforeState)));
  };
  const others = rescues.get(doc);
  if (others === undefined) rescues.set(doc, new Set([rescue]));
  else others.add(rescue);
  doc.on("beforeObserverCalls", onCleanup);
  doc.on("afterTransactionCleanup", onTransaction);
  return {
    take: () => {
      const events = captured;
      captured = [];
      return events;
    },
    pending: () => captured.length > 0 || (watching && isStuck(doc)),
    onEvent: (listener) => void listeners.push(listener),
    stop: () => {
      // Inside a transaction, or by a listener of one: what that has made is told to nobody later.
      rescue(doc._transactionCleanups);
      rescues.get(doc)?.delete(rescue);
      doc.off("beforeObserverCalls", onCleanup);
      doc.off("update", onUpdate);
      doc.off("afterTransactionCleanup", onTransaction);
    },
  };
}

/**
 * A listener threw while Yjs ended a transaction: it would report no later one. Or, where a listener asks,
 * that end is under way.
 */
function isStuck(doc: Y.Doc): boolean {
  return doc._transaction === null && doc._transactionCleanups.length > 0;
}

/** Structs, and deletions. */
function pendingOf({ store }: Y.Doc): (Kept | undefined)[] {
  return [store.pendingStructs?.update, store.pendingDs ?? undefined].map((bytes) => bytes && { bytes });
}

function same(now: Kept | undefined, before: Kept | undefined): boolean {
  return now?.bytes === before?.bytes || (now !== undefined && equalBytes(now.bytes, before?.bytes));
}
