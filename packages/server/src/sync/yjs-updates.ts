/**
 * Questions about a Yjs update that are asked before it is applied: does the document have all of it, and
 * does it build on something that the document lacks? Both cost as much as the update, plus, for deletions,
 * one walk over the document; bytes that are no update are neither known nor complete.
 */

import * as Y from "yjs";

/** True for the update that says nothing: no structs, no deletions. */
export function isEmptyUpdate(update: Uint8Array): boolean {
  return update.length === 2 && update[0] === 0 && update[1] === 0;
}

/** True when applying the update would change nothing. */
export function isKnown(doc: Y.Doc, update: Uint8Array): boolean {
  const decoded = decode(update);
  if (decoded === undefined) return false;
  for (const { id, length } of decoded.structs)
    if (Y.getState(doc.store, id.client) < id.clock + length) return false;
  if (decoded.ds.clients.size === 0) return true;
  const deleted = Y.createDeleteSetFromStructStore(doc.store);
  for (const [client, ranges] of decoded.ds.clients) {
    const known = deleted.clients.get(client) ?? [];
    if (ranges.some((range) => !covers(known, range.clock, range.clock + range.len))) return false;
  }
  return true;
}

/** True when the update, or a part of it, could not be applied now. */
export function leavesGap(doc: Y.Doc, update: Uint8Array): boolean {
  const decoded = decode(update);
  if (decoded === undefined) return true;
  const reached = new Map<number, number>();
  const stateOf = (client: number) => reached.get(client) ?? Y.getState(doc.store, client);
  for (const struct of decoded.structs) {
    const { client, clock } = struct.id;
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

function decode(update: Uint8Array): ReturnType<typeof Y.decodeUpdate> | undefined {
  try {
    return Y.decodeUpdate(update);
  } catch {
    return undefined;
  }
}

/** Ranges are in order and disjoint. */
function covers(
  ranges: readonly { readonly clock: number; readonly len: number }[],
  from: number,
  to: number,
): boolean {
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
