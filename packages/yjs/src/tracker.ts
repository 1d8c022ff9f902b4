/**
 * Captures what happens to a live Y.Doc, for `Model.track`.
 *
 * An event is the v1 update that Yjs emits for a transaction: of the application, of a provider, or of Yjs's
 * own cleanup after a provider's update. Transactions of `apply` are marked with `APPLY_ORIGIN` and left out.
 * Yjs encodes an update only where somebody listens, so the tracker listens during the others alone: a loaded
 * document is not encoded again. An update that a provider applied too early emits nothing: Yjs keeps it
 * aside. It is captured from there, so that it is not lost when `apply` completes it later; it may then be
 * captured once more, which is harmless. When a listener of the application throws at the end of a
 * transaction, Yjs emits nothing for it nor for any later one; in the microtask after it the tracker captures
 * what is new since, and frees Yjs.
 */

import { equalBytes, type Tracker } from "coppice";
import * as Y from "yjs";

/** The origin of the transactions in which stored events are applied. */
export const APPLY_ORIGIN: unique symbol = Symbol("coppice apply");

export function trackDoc(doc: Y.Doc): Tracker<Y.Doc, Uint8Array> {
  let captured: Uint8Array[] = [];
  let [pendingStructs, pendingDeletions] = pendingOf(doc);
  const listeners: (() => void)[] = [];
  const capture = (event: Uint8Array) => {
    captured.push(event);
    for (const listener of listeners) listener();
  };
  const onUpdate = (update: Uint8Array, origin: unknown) => {
    if (origin !== APPLY_ORIGIN) capture(update);
  };
  const onTransaction = (transaction: Y.Transaction) => {
    const [structs, deletions] = pendingOf(doc);
    if (structs === pendingStructs && deletions === pendingDeletions) return;
    const changed = [
      structs !== undefined && !equalBytes(structs, pendingStructs) ? structs : undefined,
      deletions !== undefined && !equalBytes(deletions, pendingDeletions) ? deletions : undefined,
    ];
    [pendingStructs, pendingDeletions] = [structs, deletions];
    if (transaction.origin === APPLY_ORIGIN) return;
    for (const update of changed) if (update !== undefined) capture(Y.convertUpdateFormatV2ToV1(update));
  };
  let watching = false;
  const onCleanup = (transaction: Y.Transaction) => {
    // Transactions end one after the other, each with its update before the next one begins to.
    if (transaction.origin === APPLY_ORIGIN) doc.off("update", onUpdate);
    else doc.on("update", onUpdate);
    if (watching) return;
    watching = true;
    const before = transaction.beforeState;
    queueMicrotask(() => {
      watching = false;
      if (!isStuck(doc)) return;
      doc._transactionCleanups = [];
      capture(Y.encodeStateAsUpdate(doc, Y.encodeStateVector(before)));
    });
  };
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

function pendingOf(doc: Y.Doc): [structs: Uint8Array | undefined, deletions: Uint8Array | undefined] {
  return [doc.store.pendingStructs?.update, doc.store.pendingDs ?? undefined];
}
