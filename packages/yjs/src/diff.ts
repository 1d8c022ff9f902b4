/**
 * What a peer lacks, from stored bytes: no document is built.
 *
 * A stored `version` is the deletions and then the state vector of the snapshot (`Y.encodeSnapshot`). A peer
 * that has all structs of the snapshot needs only those deletions and the events after it, so the snapshot's
 * bytes are not asked for; with no events after it, the deletions are the answer as they are stored.
 * Otherwise its structs are cut at the peer's clocks.
 */

import type { StoredState } from "coppice";
import { Joiner } from "./join.js";
import { scanStateVector } from "./scanner.js";

/** An update without structs and deletions. */
const NOTHING: Uint8Array = Uint8Array.of(0, 0);

export function diffStored(stored: StoredState<Uint8Array>, peer: Uint8Array): Uint8Array | undefined {
  const clocks = scanStateVector(peer);
  const known = (client: number) => clocks.get(client) ?? 0;
  const { version, peerVersion, snapshot, tail } = stored;
  // A peer that has nothing, such as a server's empty document, gets the snapshot as it is.
  if (snapshot !== undefined && tail.length === 0 && clocks.size === 0) return snapshot;
  const joiner = new Joiner(known);
  if (snapshot !== undefined) joiner.add(snapshot);
  else if (version !== undefined && peerVersion !== undefined) {
    for (const [client, clock] of scanStateVector(peerVersion)) if (known(client) < clock) return undefined;
    const deletions = deletionsOf(version, peerVersion);
    if (tail.length === 0) return deletions;
    joiner.add(deletions);
  }
  for (const event of tail) addUnlessRefused(joiner, event);
  return joiner.join(known) ?? NOTHING.slice();
}

/** The log may hold events that `apply` refuses; peers are not troubled with them. */
function addUnlessRefused(joiner: Joiner, event: Uint8Array): void {
  try {
    joiner.add(event);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
  }
}

/** The deletions of a version as an update without structs. */
function deletionsOf(version: Uint8Array, peerVersion: Uint8Array): Uint8Array {
  const update = new Uint8Array(1 + version.length - peerVersion.length);
  update.set(version.subarray(0, version.length - peerVersion.length), 1);
  return update;
}
