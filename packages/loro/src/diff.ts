/**
 * What a peer lacks, from stored bytes. An answer is one update or snapshot, for `LoroDoc.import`.
 *
 * Updates of Loro cannot be joined without a document. But a peer that has the snapshot, and lacks none of
 * the later events, or one, is answered with an empty update or with that event; and a peer that has
 * nothing, with the snapshot, when there is nothing after it.
 */

import type { StoredState } from "coppice";
import { LoroDoc, VersionVector } from "loro-crdt";
import { applyEvents } from "./apply.js";
import { checkEvent, importAll, readMeta } from "./update.js";
import { type Clocks, covers, decodeClocks } from "./version.js";

export function diffStored(stored: StoredState<Uint8Array>, peer: Uint8Array): Uint8Array | undefined {
  const clocks = decodeClocks(peer);
  const { version, snapshot, tail } = stored;
  const complete = version === undefined || covers(clocks, decodeClocks(version));
  if (complete) {
    const lacking = tail.filter((event) => isSound(event) && !covers(clocks, endOf(event)));
    if (lacking.length === 0) return new LoroDoc().export({ mode: "update" });
    if (lacking.length === 1) return lacking[0]!;
  }
  if (version !== undefined && snapshot === undefined) return undefined;
  if (clocks.size === 0 && tail.length === 0 && snapshot !== undefined) return snapshot;
  return diffFrom(snapshot, tail, clocks);
}

function diffFrom(snapshot: Uint8Array | undefined, tail: readonly Uint8Array[], peer: Clocks): Uint8Array {
  const base = new LoroDoc();
  if (snapshot !== undefined) importAll(base, [snapshot]);
  const { doc } = applyEvents(base, tail);
  try {
    const root = doc.shallowSinceVV().toJSON();
    if (peer.size === 0) return doc.export({ mode: "snapshot" });
    if (!covers(peer, root)) {
      throw new TypeError(
        "the peer lacks history that the shallow snapshot has forgotten; it must load anew",
      );
    }
    return doc.export({ mode: "update", from: new VersionVector(peer) });
  } finally {
    doc.free();
  }
}

function isSound(event: Uint8Array): boolean {
  try {
    checkEvent(event);
    return true;
  } catch {
    return false; // The log may hold events that `apply` refuses; peers are not troubled with them.
  }
}

function endOf(event: Uint8Array): Clocks {
  return readMeta(event).partialEndVersionVector.toJSON();
}
