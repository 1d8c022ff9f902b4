/**
 * Questions about a Yjs update that are asked before it is applied: does the document have all of it, and
 * does it build on something that the document lacks? Both cost as much as the update and what waits, plus,
 * for deletions, one walk over the document; bytes that are no update are not known, and wait for nothing.
 * And what a peer is answered.
 */

import * as Y from "yjs";

interface Range {
  clock: number;
  len: number;
}

/** True for the update that says nothing: no structs, no deletions. */
export function isEmptyUpdate(update: Uint8Array): boolean {
  return update.length === 2 && update[0] === 0 && update[1] === 0;
}

/**
 * What a peer lacks that has this state vector. Yjs would add what waits here: a peer cannot use it either,
 * and would bring it back as news. Throws for bytes that are no state vector.
 */
export function lackedBy(doc: Y.Doc, stateVector?: Uint8Array): Uint8Array {
  const { pendingStructs, pendingDs } = doc.store;
  doc.store.pendingStructs = null;
  doc.store.pendingDs = null;
  try {
    return Y.encodeStateAsUpdate(doc, stateVector);
  } finally {
    doc.store.pendingStructs = pendingStructs;
    doc.store.pendingDs = pendingDs;
  }
}

/** True when applying the update would change nothing: the document has all of it, or it waits there. */
export function isKnown(doc: Y.Doc, update: Uint8Array): boolean {
  const decoded = decode(update);
  if (decoded === undefined) return false;
  const waiting = waitingIn(doc);
  for (const struct of decoded.structs) {
    const { client, clock } = struct.id;
    const [from, end] = [Math.max(clock, Y.getState(doc.store, client)), clock + struct.length];
    if (from < end && !(struct instanceof Y.Skip) && !covers(waiting.get(client) ?? [], from, end))
      return false;
  }
  if (decoded.ds.clients.size === 0) return true;
  const { pendingDs } = doc.store;
  const here = Y.createDeleteSetFromStructStore(doc.store);
  const deleted = pendingDs === null ? here : Y.mergeDeleteSets([here, Y.decodeUpdateV2(pendingDs).ds]);
  for (const [client, ranges] of decoded.ds.clients) {
    const known = deleted.clients.get(client) ?? [];
    if (ranges.some((range) => !covers(known, range.clock, range.clock + range.len))) return false;
  }
  return true;
}

/** True when the update, or a part of it, could not be applied before others come. */
export function leavesGap(doc: Y.Doc, update: Uint8Array): boolean {
  const decoded = decode(update);
  // It never can: who applies it says so.
  if (decoded === undefined) return false;
  const reached = new Map<number, number>();
  const stateOf = (client: number) => reached.get(client) ?? Y.getState(doc.store, client);
  for (const struct of decoded.structs) {
    const { client, clock } = struct.id;
    // It says what is left out.
    if (struct instanceof Y.Skip) continue;
    if (clock > stateOf(client)) return true;
    reached.set(client, Math.max(stateOf(client), clock + struct.length));
  }
  for (const struct of decoded.structs) {
    if (!(struct instanceof Y.Item)) continue;
    for (const id of [struct.origin, struct.rightOrigin, struct.parent])
      if (id instanceof Y.ID && id.clock >= stateOf(id.client)) return true;
  }
  for (const [client, ranges] of decoded.ds.clients)
    if (ranges.some((range) => range.clock + range.len > stateOf(client))) return true;
  return false;
}

/** Clocks of structs that wait for others: of each client in order and disjoint. */
function waitingIn({ store }: Y.Doc): Map<number, Range[]> {
  const waiting = new Map<number, Range[]>();
  if (store.pendingStructs === null) return waiting;
  for (const struct of Y.decodeUpdateV2(store.pendingStructs.update).structs) {
    if (struct instanceof Y.Skip) continue;
    const { client, clock } = struct.id;
    const ranges = waiting.get(client) ?? [];
    waiting.set(client, ranges);
    const last = ranges.at(-1);
    if (last !== undefined && last.clock + last.len === clock) last.len += struct.length;
    else ranges.push({ clock, len: struct.length });
  }
  return waiting;
}

function decode(update: Uint8Array): ReturnType<typeof Y.decodeUpdate> | undefined {
  try {
    return Y.decodeUpdate(update);
  } catch {
    return undefined;
  }
}

/** Ranges are in order and disjoint. */
function covers(ranges: readonly Readonly<Range>[], from: number, to: number): boolean {
  let low = 0;
  let high = ranges.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    const { clock, len } = ranges[middle]!;
    if (from < clock) high = middle - 1;
    else if (from >= clock + len) low = middle + 1;
    else return to <= clock + len;
  }
  return false;
}
