/**
 * Where the history of a document may be cut, so that the rest still merges with itself.
 *
 * A shallow snapshot forgets the operations before its root. An operation that builds on a forgotten one
 * can never be imported again, so the root must be a critical version of the kept history: each operation
 * lies either in its past or builds on it (Loro learnt this in its issue 1095). Which operations offline
 * replicas still have cannot be known here; the caller keeps some history for them.
 */

import type { Change, LoroDoc, OpId } from "loro-crdt";

/** Changes in an order in which each comes after what it builds on, as Loro's logical time says. */
function ordered(doc: LoroDoc): Change[] {
  const changes = [...doc.getAllChanges().values()].flat();
  return changes.sort((a, b) => a.lamport - b.lamport || (a.peer < b.peer ? -1 : 1));
}

/**
 * The newest critical version of one operation, with at least `opsMin` operations after it; `undefined`
 * when the history has none. Costs the number of changes.
 */
export function criticalVersion(doc: LoroDoc, opsMin: number): OpId | undefined {
  const changes = ordered(doc);
  const positions = positionsOf(changes);
  const parents = changes.map((change) => parentsOf(change, changes, positions));
  const collapsed = collapsedPlaces(parents);
  let after = 0;
  // Each later change builds on something at this place or after it, so all of them build on what ends
  // there.
  let reached = changes.length;
  for (let place = changes.length - 1; place >= 0; place--) {
    const change = changes[place]!;
    if (after >= opsMin && reached >= place && collapsed[place]) return lastOf(change);
    after += change.length;
    reached = Math.min(reached, Math.max(...parents[place]!));
  }
  return undefined;
}

/** For each change, whether all changes before it lie in its past. */
function collapsedPlaces(parents: readonly (readonly number[])[]): boolean[] {
  const heads = new Set<number>();
  return parents.map((places, place) => {
    for (const parent of places) heads.delete(parent);
    heads.add(place);
    return heads.size === 1;
  });
}

/** The places of the changes that it builds on; `[-1]` for none. */
function parentsOf(change: Change, changes: readonly Change[], positions: Positions): number[] {
  const parents: OpId[] = [...change.deps];
  if (change.counter > 0) parents.push({ peer: change.peer, counter: change.counter - 1 });
  return parents.length === 0 ? [-1] : parents.map((id) => placeOf(id, changes, positions));
}

type Positions = ReadonlyMap<string, readonly number[]>;

function positionsOf(changes: readonly Change[]): Positions {
  const positions = new Map<string, number[]>();
  for (const [place, { peer }] of changes.entries()) {
    const known = positions.get(peer);
    if (known === undefined) positions.set(peer, [place]);
    else known.push(place);
  }
  return positions;
}

/**
 * The place of the change that ends with the operation; half a place less when the change goes on after it.
 */
function placeOf(id: OpId, changes: readonly Change[], positions: Positions): number {
  for (const place of positions.get(id.peer) ?? []) {
    const { counter, length } = changes[place]!;
    if (id.counter < counter || id.counter >= counter + length) continue;
    return id.counter === counter + length - 1 ? place : place - 0.5;
  }
  // Before the root of a document that is shallow already.
  return -1;
}

function lastOf(change: Change): OpId {
  return { peer: change.peer, counter: change.counter + change.length - 1 };
}
