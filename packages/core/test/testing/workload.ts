/** What the tests of the simulated backend share: keys, values, and a workload whose batches show when they were torn. */

import type { Backend, Batch, Entry, Key } from "coppice";
import type { SimulatedBackend } from "coppice/testing";

export const key = (id: string, seq = 0): Key => ["events", id, seq];
export const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values);
export const put = (id: string, ...values: number[]): Batch => ({
  put: [{ key: key(id), value: bytes(...values) }],
});

/** Batch n puts `left n` and `right n` and deletes `left n-2`; so each state tells which batches it holds. */
export function pair(n: number): Batch {
  return {
    put: [
      { key: key("left", n), value: bytes(n) },
      { key: key("right", n), value: bytes(n) },
    ],
    delete: n >= 2 ? [key("left", n - 2)] : [],
  };
}

/** The numbers of the batches that the entries hold. Throws when one is there in part. */
export function pairs(entries: readonly Entry[]): number[] {
  const seqs = (id: string) => entries.filter(({ key }) => key[1] === id).map(({ key }) => key[2]!);
  const right = seqs("right");
  const left = right.filter((n) => !right.includes(n + 2));
  if (JSON.stringify(seqs("left")) !== JSON.stringify(left)) {
    throw new Error(`a batch is torn: left ${seqs("left")}, right ${right}`);
  }
  return right;
}

/** Ids and values, for short expectations. */
export function contents(entries: readonly Entry[]): Record<string, number[]> {
  return Object.fromEntries(entries.map(({ key, value }) => [key[1], [...value]]));
}

export async function entriesOf(backend: Backend): Promise<Entry[]> {
  const entries: Entry[] = [];
  for await (const page of backend.scan({ space: "events" })) entries.push(...page);
  return entries;
}

/** "pending" when the promise has not settled after everything that is due has run. */
export async function outcome(promise: Promise<unknown>): Promise<string> {
  const settled = promise.then(
    () => "resolved",
    (error: { code?: string; message: string }) => error.code ?? error.message,
  );
  const later = new Promise<string>((resolve) => setImmediate(() => setImmediate(() => resolve("pending"))));
  return Promise.race([settled, later]);
}

/** Commits `pair` 0 to count-1, and tells which were acknowledged. */
export async function commitPairs(
  backend: Backend,
  count: number,
  acknowledged: number[] = [],
): Promise<number[]> {
  for (let n = 0; n < count; n++) {
    await backend.commit(pair(n));
    acknowledged.push(n);
  }
  return acknowledged;
}

export function upTo(count: number): number[] {
  return Array.from({ length: count }, (_, n) => n);
}

/** What the store holds for the next process. */
export function survivors(simulated: SimulatedBackend): number[] {
  return pairs(simulated.dump("durable"));
}
