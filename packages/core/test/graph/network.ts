/**
 * Replicas that edit at once and exchange events in any order, some of them twice: for tests of convergence.
 *
 * Invariant: everything follows from the seed.
 */

import type { GraphDocument, GraphEvent, GraphModel } from "coppice";
import { seededRandom } from "coppice/testing";

/** Schedules of each property; more with COPPICE_SCHEDULES. */
export const SCHEDULES: number = Number(process.env.COPPICE_SCHEDULES ?? 150);

/** For the tests that run them. */
export const LONG: { readonly timeout: number } = { timeout: Math.max(60_000, SCHEDULES * 500) };

export interface Chance {
  /** An integer from 0, under `end`. */
  below(end: number): number;
  chance(share: number): boolean;
  pick<T>(items: readonly T[]): T;
  shuffle<T>(items: readonly T[]): T[];
}

export function chanceOf(seed: number): Chance {
  const { int, next, pick, shuffle } = seededRandom(seed);
  return { below: int, chance: (share) => next() < share, pick, shuffle };
}

export interface Peer<Doc, Payload> {
  readonly doc: Doc;
  /** Events that are on their way to this peer. */
  inbox: GraphEvent<Payload>[];
  /** Offered and held. */
  held: GraphEvent<Payload>[];
}

export interface Ran<Doc, Payload> {
  readonly peers: readonly Peer<Doc, Payload>[];
  /** All events, each after what it builds on. */
  readonly events: readonly GraphEvent<Payload>[];
}

/** Lets 3 to 5 peers edit and exchange, and in the end delivers everything to everyone. */
export function runNetwork<State, Payload, Doc extends GraphDocument<State, Payload>>(
  model: GraphModel<State, Payload, Doc>,
  chance: Chance,
  edit: (doc: Doc, chance: Chance) => void,
  steps = 30,
): Ran<Doc, Payload> {
  const peers: Peer<Doc, Payload>[] = Array.from({ length: 3 + chance.below(3) }, () => ({
    doc: model.create(),
    inbox: [],
    held: [],
  }));
  const trackers = peers.map(({ doc }) => model.track(doc));
  const events: GraphEvent<Payload>[] = [];
  for (let step = 0; step < steps; step++) {
    const at = chance.below(peers.length);
    edit(peers[at]!.doc, chance);
    for (const event of trackers[at]!.take(peers[at]!.doc)) {
      events.push(event);
      for (const peer of peers) {
        if (peer === peers[at]) continue;
        peer.inbox.push(event);
        if (chance.chance(0.1)) peer.inbox.push(event);
      }
    }
    if (chance.chance(0.5)) deliver(model, chance.pick(peers), chance, 1 + chance.below(6));
  }
  for (const peer of peers) while (peer.inbox.length > 0) deliver(model, peer, chance, 1 + chance.below(9));
  return { peers, events };
}

function deliver<State, Payload, Doc extends GraphDocument<State, Payload>>(
  model: GraphModel<State, Payload, Doc>,
  peer: Peer<Doc, Payload>,
  chance: Chance,
  count: number,
): void {
  peer.inbox = chance.shuffle(peer.inbox);
  const offered = [...peer.held, ...peer.inbox.splice(0, count)];
  const { held, refused } = model.apply(peer.doc, offered);
  if (refused.length > 0) throw new Error(`refused: ${refused[0]!.reason}`);
  peer.held = held.map((index) => offered[index]!);
}
