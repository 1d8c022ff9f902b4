/**
 * What a peer lacks, from stored bytes.
 *
 * | answer | bytes                                                                    |
 * | ------ | ------------------------------------------------------------------------ |
 * | 0      | a batch of the events that the peer lacks                                |
 * | 1      | a snapshot: the peer lacks events that are not kept any more             |
 *
 * A peer that knows everything in the stored snapshot is answered from the events after it, and the
 * snapshot's bytes are not asked for.
 */

import { concatBytes } from "../base/bytes.js";
import type { StoredState } from "../contract/model.js";
import { encodeEvents } from "./codec.js";
import { type GraphEvent, soundEvent } from "./event.js";
import { decodeKnown, type Opened } from "./snapshot.js";

const EVENTS = Uint8Array.of(0);
const SNAPSHOT = Uint8Array.of(1);

export function diffStored(
  stored: StoredState<GraphEvent>,
  peer: Uint8Array,
  open: (snapshot: Uint8Array) => Opened<unknown>,
  fold: (snapshot: Uint8Array, events: readonly GraphEvent[]) => Uint8Array,
): Uint8Array | undefined {
  const known = decodeKnown(peer);
  const { peerVersion, snapshot, tail } = stored;
  if (peerVersion === undefined || covers(known, decodeKnown(peerVersion))) return answer(tail, known);
  if (snapshot === undefined) return undefined;
  const opened = open(snapshot);
  if (covers(known, opened.base.known)) return answer([...opened.open, ...tail], known);
  const past = opened.past?.read();
  if (past !== undefined && covers(known, past.base.known)) {
    return answer([...past.events, ...opened.open, ...tail], known);
  }
  return concatBytes([SNAPSHOT, fold(snapshot, tail)]);
}

/** What an answer holds. Throws a `TypeError` for bytes that are no answer. */
export function readAnswer(bytes: Uint8Array): {
  readonly kind: "events" | "snapshot";
  readonly body: Uint8Array;
} {
  const kind = bytes[0] === 0 ? "events" : bytes[0] === 1 ? "snapshot" : undefined;
  if (kind === undefined) throw new TypeError("not an answer of diff");
  return { kind, body: bytes.subarray(1) };
}

function covers(known: ReadonlyMap<string, number>, other: ReadonlyMap<string, number>): boolean {
  for (const [replica, next] of other) if ((known.get(replica) ?? 0) < next) return false;
  return true;
}

/** The log may hold what `apply` refuses; peers are not troubled with that. */
function answer(events: readonly GraphEvent[], known: ReadonlyMap<string, number>): Uint8Array {
  const lacking = events.filter((event) => {
    try {
      return soundEvent(event).sequence >= (known.get(event.replica) ?? 0);
    } catch {
      return false; // Not an event.
    }
  });
  return concatBytes([EVENTS, encodeEvents(lacking)]);
}
