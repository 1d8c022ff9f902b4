/**
 * What a peer lacks, from stored bytes. An answer is chunks in a row, for `Automerge.loadIncremental`.
 *
 * A peer that has every head of the snapshot has the whole of it, so the snapshot's bytes are not asked
 * for. A peer with none of what is stored gets the stored bytes themselves. Only a peer in between costs a
 * document.
 */

import * as Automerge from "@automerge/automerge";
import { concatBytes, type StoredState } from "coppice";
import { type ChangeNode, readChange } from "./changes.js";
import { decodeHeads } from "./heads.js";

interface Stored {
  readonly event: Uint8Array;
  readonly node: ChangeNode;
}

export function diffStored(stored: StoredState<Uint8Array>, peer: Uint8Array): Uint8Array | undefined {
  const heads = decodeHeads(peer);
  const { version, snapshot } = stored;
  const tail = soundOnes(stored.tail);
  const known = pastOf(heads, tail);
  const base = version === undefined ? [] : decodeHeads(version);
  const lacking = tail.filter(({ node }) => !known.has(node.hash)).map(({ event }) => event);
  if (base.every((head) => known.has(head))) return concatBytes(lacking);
  if (snapshot === undefined) return undefined;
  return diffFrom(snapshot, tail, heads);
}

function diffFrom(snapshot: Uint8Array, tail: readonly Stored[], peerHeads: readonly string[]): Uint8Array {
  const events = tail.map(({ event }) => event);
  if (peerHeads.length === 0) return concatBytes([snapshot, ...events]);
  let doc = Automerge.load<unknown>(snapshot);
  try {
    const known = peerHeads.filter(
      (head) => Automerge.hasHeads(doc, [head]) || tail.some(({ node }) => node.hash === head),
    );
    if (known.length === 0) return concatBytes([snapshot, ...events]);
    [doc] = Automerge.applyChanges(doc, events);
    const lacking = Automerge.getChangesSince(doc, known);
    const waiting = tail.filter(({ node }) => !Automerge.hasHeads(doc, [node.hash]));
    return concatBytes([...lacking, ...waiting.map(({ event }) => event)]);
  } finally {
    Automerge.free(doc);
  }
}

/** Peers are not troubled with events that `apply` refuses: everything after one would be lost on them. */
function soundOnes(events: readonly Uint8Array[]): Stored[] {
  const sound: Stored[] = [];
  for (const event of events) {
    try {
      sound.push({ event, node: readChange(event) });
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
    }
  }
  return sound;
}

/** The heads and what they build on, as far as the tail tells. */
function pastOf(heads: readonly string[], tail: readonly Stored[]): Set<string> {
  const parents = new Map(tail.map(({ node }) => [node.hash, node.deps]));
  const past = new Set(heads);
  for (const hash of past) for (const dep of parents.get(hash) ?? []) past.add(dep);
  return past;
}
