/**
 * Cases about commits: all or nothing, deletes before puts, compare-and-set, order, and races that exactly
 * one writer wins.
 */

import { isCoppiceError } from "../base/errors.js";
import type { Batch, Entry, Expectation, Key } from "../contract/backend.js";
import type { Guard } from "../contract/guard.js";
import { keyName } from "../contract/keys.js";
import { exclusive, sharing } from "./backend-cases-life.js";
import { NaiveStore } from "./backend-cases-naive.js";
import {
  assert,
  assertBytes,
  assertLines,
  assertRejects,
  assertTried,
  awaitedLater,
  type BackendCase,
  backendCase,
  bytes,
  pipelining,
  type Store,
} from "./cases.js";

const ONE: Key = ["meta", "doc"];
const ABSENT: Key = ["meta", "nobody"];

/** What the commits of the matrix do. */
const OPERATIONS: Readonly<Record<string, Batch>> = {
  puts: {
    put: [
      { key: ["events", "doc", 7], value: bytes("seven") },
      { key: ONE, value: bytes("two") },
    ],
  },
  deletes: { delete: [["events", "doc", 1], ["events", "doc", 99], ONE] },
  "range deletes": { delete: [{ space: "events", id: "doc", from: 1, to: 3 }] },
  mixed: {
    put: [
      { key: ["events", "doc", 2], value: bytes("again") },
      { key: ["events", "doc", 8], value: bytes("eight") },
    ],
    delete: [{ space: "events", id: "doc" }, ONE],
  },
  empty: {},
};

const EXPECTATIONS: readonly { title: string; expect: readonly Expectation[]; holds: boolean }[] = [
  { title: "no expectation", expect: [], holds: true },
  { title: "an exact expectation", expect: [{ key: ONE, value: bytes("one") }], holds: true },
  { title: "an expectation of absence", expect: [{ key: ABSENT, value: undefined }], holds: true },
  { title: "an expectation of another value", expect: [{ key: ONE, value: bytes("onE") }], holds: false },
  {
    title: "an expectation of the value's beginning",
    expect: [{ key: ONE, value: bytes("on") }],
    holds: false,
  },
  { title: "an expectation of an empty value", expect: [{ key: ABSENT, value: bytes("") }], holds: false },
  {
    title: "an expectation of absence of a present key",
    expect: [{ key: ONE, value: undefined }],
    holds: false,
  },
  {
    title: "an expectation of an absent key's value",
    expect: [{ key: ABSENT, value: bytes("one") }],
    holds: false,
  },
  {
    title: "a failing expectation after one that holds",
    expect: [
      { key: ONE, value: bytes("one") },
      { key: ["events", "doc", 1], value: bytes("wrong") },
    ],
    holds: false,
  },
];

export const commitCases: readonly BackendCase[] = [
  ...EXPECTATIONS.map(({ title, expect, holds }) =>
    backendCase(
      "BK10",
      holds
        ? `${title} that holds lets every kind of commit through`
        : `${title} that fails stops every kind of commit, and the conflict names the key`,
      (store) => matrix(store, expect, holds),
    ),
  ),
  backendCase("BK10", "an expectation sees what its own commit finds, not what it writes", async (store) => {
    await store.backend.commit({
      put: [{ key: ONE, value: bytes("one") }],
      delete: [ONE],
      expect: [{ key: ONE, value: undefined }],
    });
    await store.backend.commit({ delete: [ONE], expect: [{ key: ONE, value: bytes("one") }] });
    assertLines(await store.dump(), [], "after the delete");
  }),
  backendCase(
    "BK10",
    "a conflict within a group fails only the member that expected in vain",
    async (store) => {
      const ids = Array.from({ length: 20 }, (_, i) => `doc${i}`);
      await store.guard.commit({ put: [{ key: ["meta", "doc7"], value: bytes("taken") }] });
      const outcomes = await Promise.allSettled(
        ids.map((id) =>
          store.guard.commit({
            put: [{ key: ["meta", id], value: bytes("mine") }],
            expect: [{ key: ["meta", id], value: undefined }],
          }),
        ),
      );
      for (const [i, outcome] of outcomes.entries()) {
        const status = i === 7 ? "rejected" : "fulfilled";
        assert(outcome.status === status, `${ids[i]} was ${outcome.status}, and should be ${status}`);
      }
      assertBytes(await store.guard.get(["meta", "doc7"]), bytes("taken"), "the one that was taken");
    },
  ),
  backendCase("BK3", "a conflict on the last of many keys leaves a byte-identical store", async (store) => {
    const put = Array.from(
      { length: 50 },
      (_, i): Entry => ({ key: ["events", "doc", i], value: bytes(`${i}`) }),
    );
    await store.backend.commit({ put });
    const before = await store.dump();
    const last: Key = ["events", "doc", 49];
    const batch = {
      put: put.map(({ key }) => ({ key, value: bytes("overwritten") })),
      delete: [{ space: "events", id: "doc", from: 10, to: 30 }],
      expect: [
        ...put.slice(0, -1).map(({ key, value }) => ({ key, value })),
        { key: last, value: bytes("wrong") },
      ],
    };
    const error = await assertRejects("COMMIT_CONFLICT", "the commit", () => store.backend.commit(batch));
    assertNames(error.details.key, [last]);
    assertLines(await store.dump(), before, "after the conflict");
    await store.reopen();
    assertLines(await store.dump(), before, "after the conflict and reopening");
  }),
  backendCase("BK3", "a commit of many keys is there as a whole, also after reopening", async (store) => {
    const naive = new NaiveStore();
    const put = Array.from(
      { length: 2000 },
      (_, i): Entry => ({ key: ["events", `d${i % 7}`, i], value: bytes(`${i}`) }),
    );
    naive.commit({ put });
    await store.backend.commit({ put: store.random.shuffle(put) });
    assertLines(await store.dump(), naive.dump(), "after the commit");
    await store.reopen();
    assertLines(await store.dump(), naive.dump(), "after reopening");
  }),
  backendCase("BK9", "deletes come before puts, whatever their order in the batch", async (store) => {
    const key: Key = ["events", "doc", 5];
    await store.backend.commit({ put: [{ key, value: bytes("old") }] });
    await store.backend.commit({
      put: [{ key, value: bytes("new") }],
      delete: [{ space: "events", id: "doc" }],
    });
    assertBytes(await store.backend.get(key), bytes("new"), "a put inside a deleted range");
    await store.backend.commit({ put: [{ key, value: bytes("newer") }], delete: [key] });
    assertBytes(await store.backend.get(key), bytes("newer"), "a put of a deleted key");
  }),
  backendCase("BK9", "a deletion removes exactly its key or its half-open range", exactDeletions),
  backendCase(
    "BK11",
    "commits of one document take effect and resolve in the order they came",
    async (store) => {
      const settled: number[] = [];
      const submit = async (i: number) => {
        await store.guard.commit({
          put: [
            { key: ["events", "doc", i], value: bytes(`${i}`) },
            { key: ["meta", "doc"], value: bytes(`${i}`) },
          ],
          expect: [{ key: ["meta", "doc"], value: i === 0 ? undefined : bytes(`${i - 1}`) }],
        });
        settled.push(i);
      };
      const other = (i: number) =>
        store.guard.commit({ put: [{ key: ["events", `other${i % 5}`, i], value: bytes("x") }] });
      const all = Array.from({ length: 200 }, (_, i) => i);
      await Promise.all(all.flatMap((i) => [submit(i), other(i)]));
      assertLines(settled.map(String), all.map(String), "order of resolving");
      assertBytes(await store.guard.get(["meta", "doc"]), bytes("199"), "the last commit");
      assert((await store.dump()).length === 401, "a commit is missing");
    },
  ),
  backendCase(
    "BK12",
    "of concurrent writers with the same expectation exactly one wins each round",
    async (store) =>
      race(
        store,
        Array.from({ length: 8 }, () => store.guard),
      ),
    exclusive,
  ),
  backendCase(
    "BK12",
    "of concurrent writers through opens of their own exactly one wins each round",
    async (store) => {
      const guards: Guard[] = [store.guard];
      while (guards.length < 4) guards.push(await store.open());
      await race(store, guards);
    },
    sharing,
  ),
  backendCase(
    "BK57",
    "a commit that is called while one is under way does what it does after it",
    ahead,
    pipelining,
  ),
];

async function matrix(store: Store, expect: readonly Expectation[], holds: boolean): Promise<void> {
  const everything = [...["a", "events", "meta"].map((space) => ({ space, id: "doc" }))];
  for (const [kind, operation] of Object.entries(OPERATIONS)) {
    const naive = new NaiveStore();
    const first: Batch = {
      put: [
        { key: ONE, value: bytes("one") },
        ...[0, 1, 2, 3].map((seq) => ({ key: ["events", "doc", seq] as const, value: bytes(`${seq}`) })),
        { key: ["events", "docs", 1], value: bytes("neighbour") },
      ],
    };
    naive.commit(first);
    await store.backend.commit({ ...first, delete: everything });
    const batch = { ...operation, expect };
    const failing = naive.commit(batch);
    assert((failing.length === 0) === holds, "the case itself is wrong");
    if (holds) {
      await store.backend.commit(batch);
    } else {
      const error = await assertRejects("COMMIT_CONFLICT", kind, () => store.backend.commit(batch));
      assertNames(error.details.key, failing);
    }
    assertLines(await store.dump(), naive.dump(), `${kind}, afterwards`);
  }
}

function assertNames(key: unknown, failing: readonly Key[]): void {
  const named = Array.isArray(key) ? keyName(key as unknown as Key) : String(key);
  assert(
    failing.some((candidate) => keyName(candidate) === named),
    `the conflict names ${JSON.stringify(key)}, but ${JSON.stringify(failing)} failed`,
  );
}

async function exactDeletions(store: Store): Promise<void> {
  const naive = new NaiveStore();
  const fill: Entry[] = [];
  for (const space of ["events", "eventsx"]) {
    for (const id of ["AAAA", "AAAAA", "AAAAA\0", "AAAAAB"]) {
      fill.push({ key: [space, id], value: bytes("no seq") });
      for (const seq of [0, 1, 2, 3, 4, 5, Number.MAX_SAFE_INTEGER]) {
        fill.push({ key: [space, id, seq], value: bytes(`${seq}`) });
        fill.push({ key: [space, id, seq, 1], value: bytes("part") });
      }
    }
  }
  const range = { space: "events", id: "AAAAA" };
  const batches: Batch[] = [
    { delete: [["events", "AAAAA"]] },
    { delete: [["events", "AAAAA", 2]] },
    { delete: [["events", "AAAAA", 2, 1]] },
    { delete: [["events", "absent"], { space: "events", id: "absent" }] },
    { delete: [{ ...range, from: 2, to: 4 }] },
    { delete: [{ ...range, from: 3 }] },
    { delete: [{ ...range, from: 0 }] },
    { delete: [{ ...range, to: 2 }] },
    { delete: [{ ...range, to: 0 }] },
    {
      delete: [
        { ...range, from: 3, to: 3 },
        { ...range, from: 4, to: 2 },
      ],
    },
    { delete: [{ ...range, from: 1, to: Number.MAX_SAFE_INTEGER }] },
    {
      delete: [
        { ...range, from: 1, to: 3 },
        { ...range, from: 2, to: 5 },
      ],
    },
    { delete: [range] },
  ];
  for (const batch of batches) {
    naive.commit({ put: fill });
    await store.backend.commit({ put: fill });
    naive.commit(batch);
    await store.backend.commit(batch);
    assertLines(await store.dump(), naive.dump(), `after ${JSON.stringify(batch)}`);
  }
}

/** Two at a time on few documents, with expectations of what the one before may just have changed. */
async function ahead({ backend, random, dump }: Store): Promise<void> {
  const naive = new NaiveStore();
  let conflictCount = 0;
  const next = (): { batch: Batch; fails: boolean } => {
    const key: Key = ["meta", `doc${random.below(3)}`];
    const put: Entry[] = [{ key, value: bytes(`${random.below(4)}`) }];
    if (random.chance(0.5)) put.push({ key: ["events", key[1], random.below(5)], value: bytes("event") });
    const remove = random.chance(0.2) ? [{ space: "events", id: key[1], to: random.below(5) }] : [];
    const about: Key = random.chance(0.7) ? key : ["meta", `doc${random.below(3)}`];
    const value = random.chance(0.7) ? naive.get(about) : bytes(`${random.below(4)}`);
    const batch = { put, delete: remove, expect: [{ key: about, value }] };
    const fails = naive.commit(batch).length > 0;
    return { batch, fails };
  };
  const commit = async ({ batch, fails }: { batch: Batch; fails: boolean }): Promise<void> => {
    if (!fails) return backend.commit(batch);
    conflictCount++;
    await assertRejects("COMMIT_CONFLICT", "a commit that expects in vain", () => backend.commit(batch));
  };
  let before: Promise<void> = Promise.resolve();
  for (let i = 0; i < 300; i++) {
    const outcome = awaitedLater(commit(next()));
    await Promise.all([before, random.chance(0.1) ? outcome : undefined]);
    before = outcome;
  }
  await before;
  assertTried(conflictCount > 0, "no conflict was seen");
  assertLines(await dump(backend), naive.dump(), "after 300 commits");
}

/** Each writer adds 1 to what it read, if that is still there. Twenty rounds. */
async function race(store: Store, guards: readonly Guard[]): Promise<void> {
  let conflictCount = 0;
  for (let round = 0; round < 20; round++) {
    const before = await guards[0]!.get(ONE);
    const values = guards.map((_, writer) => bytes(`round ${round}, writer ${writer}`));
    const outcomes = await Promise.allSettled(
      guards.map((guard, writer) =>
        guard.commit({
          put: [
            { key: ONE, value: values[writer]! },
            { key: ["events", `writer${writer}`, round], value: bytes("won") },
          ],
          expect: [{ key: ONE, value: before }],
        }),
      ),
    );
    const winners = outcomes.flatMap((outcome, writer) => (outcome.status === "fulfilled" ? [writer] : []));
    assert(winners.length === 1, `round ${round} has ${winners.length} winners`);
    for (const outcome of outcomes) {
      if (outcome.status === "fulfilled") continue;
      const conflict = isCoppiceError(outcome.reason, "COMMIT_CONFLICT");
      assert(conflict, `a loser was told ${String(outcome.reason)}`);
      conflictCount++;
    }
    assertBytes(await guards[0]!.get(ONE), values[winners[0]!], `round ${round}, what the winner wrote`);
  }
  assertTried(conflictCount > 0, "no conflict was seen");
  const trace = (await store.dump()).filter((line) => line.includes("writer"));
  const wins = trace.filter((line) => line.startsWith('"events'));
  assert(wins.length === 20, `20 rounds left the traces of ${wins.length} commits`);
}
