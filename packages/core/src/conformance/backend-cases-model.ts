/**
 * The model test: thousands of random operations on the backend and on its naive twin, which must agree after
 * each, with reopening in between. The seed and the number of the operation are in the message of a failure.
 */

import { isCoppiceError } from "../base/errors.js";
import type { Batch, Deletion, Entry, Expectation, Key, Range, ScanOptions } from "../contract/backend.js";
import { keyName } from "../contract/keys.js";
import { NaiveStore } from "./backend-cases-naive.js";
import {
  assert,
  assertBytes,
  assertLines,
  assertTried,
  type BackendCase,
  backendCase,
  CaseFailure,
  type Random,
  type Store,
  scanAll,
  show,
} from "./cases.js";

const OPERATION_COUNT = 2500;
const MODEL_SPACES = ["a", "aa", "events"];
const IDS = ["a", "a\0", "a\0b", "a\u0001", "aa", "ab", "b", "é", "\uFF5E", "😀", "😀😀"];
const PREFIXES = ["", "a", "a\0", "😀", "c"];

export const modelTestCases: readonly BackendCase[] = [
  backendCase(
    "BK19",
    `${OPERATION_COUNT} random operations do what they do to a sorted array`,
    async (store) => {
      const tally = { conflicts: 0, commits: 0, entries: 0, reopenings: 0 };
      const naive = new NaiveStore();
      for (let i = 0; i < OPERATION_COUNT; i++) {
        try {
          await step(store, naive, tally);
          if (i % 100 === 99) assertLines(await store.dump(), naive.dump(), "the whole store");
        } catch (error) {
          const { message } = error instanceof Error ? error : new Error(String(error));
          throw new CaseFailure(`seed ${store.random.seed}, operation ${i}: ${message}`, { cause: error });
        }
      }
      await store.reopen();
      assertLines(await store.dump(), naive.dump(), "the whole store, after reopening");
      const seen =
        tally.conflicts > 20 && tally.commits > 500 && tally.entries > 1000 && tally.reopenings > 5;
      assertTried(seen, `the random operations did too little: ${JSON.stringify(tally)}`);
    },
  ),
];

interface Tally {
  conflicts: number;
  commits: number;
  entries: number;
  reopenings: number;
}

async function step(store: Store, naive: NaiveStore, tally: Tally): Promise<void> {
  const { random } = store;
  const kind = random.below(100);
  if (kind < 50) {
    await commit(store, naive, randomBatch(random, naive), tally);
  } else if (kind < 70) {
    const key = randomKey(random);
    assertBytes(await store.guard.get(key), naive.get(key), `get ${JSON.stringify(key)}`);
  } else if (kind < 99) {
    const range = randomRange(random);
    const options = randomOptions(random);
    const found = await scanAll(store.guard, range, options);
    tally.entries += found.length;
    const what = `scan ${JSON.stringify(range)} ${JSON.stringify(options)}`;
    assertLines(found.map(show), naive.scan(range, options).map(show), what);
  } else {
    await store.reopen();
    tally.reopenings++;
  }
}

async function commit(store: Store, naive: NaiveStore, batch: Batch, tally: Tally): Promise<void> {
  const failing = naive.commit(batch).map(keyName);
  const [outcome] = await Promise.allSettled([store.guard.commit(batch)]);
  if (outcome.status === "fulfilled") {
    assert(failing.length === 0, `a commit went through though ${failing.join(", ")} was not as expected`);
    tally.commits++;
    return;
  }
  const error: unknown = outcome.reason;
  if (!isCoppiceError(error, "COMMIT_CONFLICT")) throw error;
  const named = keyName(error.details.key as Key);
  assert(failing.includes(named), `the conflict names ${named}, but [${failing.join(", ")}] failed`);
  tally.conflicts++;
}

function randomBatch(random: Random, naive: NaiveStore): Batch {
  const puts = new Map<string, Entry>();
  for (let i = random.below(6); i > 0; i--) {
    const key = randomKey(random);
    puts.set(keyName(key), { key, value: random.bytes(random.pick([0, 1, 5, 40, 300])) });
  }
  const deletions: Deletion[] = [];
  if (random.chance(0.3)) deletions.push(randomKey(random));
  if (random.chance(0.15)) {
    deletions.push({ space: random.pick(MODEL_SPACES), id: random.pick(IDS), ...randomBounds(random) });
  }
  const expectations: Expectation[] = [];
  for (let i = random.below(3); i > 0; i--) {
    const key = randomKey(random);
    const value = random.chance(0.9) ? naive.get(key) : random.pick([undefined, random.bytes(2)]);
    expectations.push({ key, value });
  }
  return { put: [...puts.values()], delete: deletions, expect: expectations };
}

function randomKey(random: Random): Key {
  const [space, id] = [random.pick(MODEL_SPACES), random.pick(IDS)];
  const kind = random.below(10);
  if (kind === 0) return [space, id];
  const seq = random.chance(0.05) ? Number.MAX_SAFE_INTEGER - random.below(2) : random.below(8);
  return kind < 8 ? [space, id, seq] : [space, id, seq, random.below(3)];
}

function randomRange(random: Random): Range {
  const space = random.pick(MODEL_SPACES);
  if (random.chance(0.5)) return { space, id: random.pick(IDS), ...randomBounds(random) };
  return {
    space,
    ...(random.chance(0.5) ? { idPrefix: random.pick(PREFIXES) } : {}),
    ...(random.chance(0.5) ? { after: random.pick(IDS) } : {}),
  };
}

function randomBounds(random: Random): { from?: number; to?: number } {
  return {
    ...(random.chance(0.6) ? { from: random.below(8) } : {}),
    ...(random.chance(0.6) ? { to: random.below(9) } : {}),
  };
}

function randomOptions(random: Random): ScanOptions {
  return {
    ...(random.chance(0.5) ? { reverse: random.chance(0.5) } : {}),
    ...(random.chance(0.4) ? { limit: random.below(12) } : {}),
    ...(random.chance(0.3) ? { values: random.chance(0.5) } : {}),
    ...(random.chance(0.5) ? { pageBytesMax: random.pick([1, 50, 500, 100_000]) } : {}),
  };
}
