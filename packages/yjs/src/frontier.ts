/**
 * Counts the frontier of a live Y.Doc.
 *
 * Yjs updates name no parents. What is known: a struct came after its left and right neighbours at insertion
 * and after its parent; after every earlier struct of its client; and a local edit came after all that the
 * document had integrated. A client is counted unless its newest clock is known in this way to be in the past
 * of another client's struct. So the count may be too high, never too low; deletions alone change nothing.
 *
 * Kept up to date at O(new) for each transaction. A document whose past was not watched (after `restore`) is
 * scanned once, at the first question; what its authors had seen without building on it is forgotten by then,
 * and so are the references of collected structs: both only raise the count, until the next local edit.
 */

import * as Y from "yjs";

interface Frontier {
  /** Clients to count; `undefined` until the first question or local edit. */
  heads: Set<number> | undefined;
}

const frontiers = new WeakMap<Y.Doc, Frontier>();

/** Starts to watch a document. Repeating it changes nothing. */
export function watchFrontier(doc: Y.Doc): Frontier {
  const known = frontiers.get(doc);
  if (known !== undefined) return known;
  const frontier: Frontier = { heads: undefined };
  frontiers.set(doc, frontier);
  doc.on("beforeObserverCalls", (transaction: Y.Transaction) => observe(frontier, transaction));
  return frontier;
}

export function frontierSize(doc: Y.Doc): number {
  const frontier = watchFrontier(doc);
  frontier.heads ??= scan(doc);
  return frontier.heads.size;
}

function observe(frontier: Frontier, transaction: Y.Transaction): void {
  if (frontier.heads === undefined && !transaction.local) return;
  const { beforeState, afterState, doc } = transaction;
  const grown: number[] = [];
  for (const [client, clock] of afterState) if (beforeState.get(client) !== clock) grown.push(client);
  if (grown.length === 0) return;
  if (transaction.local && grown.length === 1) {
    frontier.heads = new Set(grown);
    return;
  }
  if (frontier.heads === undefined) return;
  for (const client of grown) frontier.heads.add(client);
  for (const client of grown) {
    const structs = doc.store.clients.get(client)!;
    const from = Y.findIndexSS(structs, beforeState.get(client) ?? 0);
    cover(frontier.heads, structs, from, afterState);
  }
}

function scan(doc: Y.Doc): Set<number> {
  const heads = new Set(doc.store.clients.keys());
  // Only others can cover a client.
  if (heads.size < 2) return heads;
  const state = new Map<number, number>();
  for (const client of heads) state.set(client, Y.getState(doc.store, client));
  for (const structs of doc.store.clients.values()) cover(heads, structs, 0, state);
  return heads;
}

/** Takes away the heads on whose newest clock one of these structs, all of one client, builds. */
function cover(
  heads: Set<number>,
  structs: readonly (Y.Item | Y.GC)[],
  from: number,
  state: ReadonlyMap<number, number>,
): void {
  const own = structs[from]?.id.client;
  const coverBy = (id: Y.ID | null | undefined) => {
    if (id == null || id.client === own) return;
    if (id.clock + 1 === state.get(id.client)) heads.delete(id.client);
  };
  for (let i = from; i < structs.length; i++) {
    const struct = structs[i]!;
    if (!(struct instanceof Y.Item)) continue;
    coverBy(struct.origin);
    coverBy(struct.rightOrigin);
    if (struct.parent instanceof Y.AbstractType) coverBy(struct.parent._item?.id);
  }
}
