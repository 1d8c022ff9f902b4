import { type Batch, commitConflict, type Key, LIMITS, type Limits, systemEnv } from "coppice";
import { expect, test } from "vitest";
import { GroupCommit } from "../../src/contract/group-commit.js";

/** A commit that records what it was given, and answers when and how the test says. */
function harness(
  limits: Partial<Limits> = {},
  answer: (batch: Batch) => Promise<void> = async () => undefined,
) {
  const groups: Batch[] = [];
  let inFlight = 0;
  let inFlightMax = 0;
  const commit = async (batch: Batch) => {
    groups.push(batch);
    inFlightMax = Math.max(inFlightMax, ++inFlight);
    try {
      await new Promise((resolve) => setImmediate(resolve));
      await answer(batch);
    } finally {
      inFlight--;
    }
  };
  // Time stands still: how much goes down together must not depend on the machine.
  const group = new GroupCommit(commit, { ...systemEnv(), elapsed: () => 0 }, { ...LIMITS, ...limits });
  const submit = (batch: Batch) =>
    new Promise<void>((resolve, reject) => group.submit(batch, () => resolve(), reject));
  return { submit, idle: () => group.idle(), groups, inFlightMax: () => inFlightMax };
}

const put = (id: string, seq: number, length = 1): Batch => ({
  put: [{ key: ["events", id, seq], value: new Uint8Array(length) }],
});
const keysOf = (batch: Batch): Key[] => (batch.put ?? []).map(({ key }) => key);
/** The documents that it touches; more than once, where two of its members do. */
const touched = ({ put = [], expect = [] }: Batch): string[] => [...put, ...expect].map(({ key }) => key[1]);

test("[BK23] commits that come together go down together, one group in flight at a time", async () => {
  const { submit, groups, inFlightMax } = harness();
  await Promise.all(Array.from({ length: 100 }, (_, i) => submit(put(`doc${i}`, 0))));
  expect(groups).toHaveLength(1);
  await Promise.all(Array.from({ length: 300 }, (_, i) => submit(put(`doc${i % 100}`, i))));
  expect(groups).toHaveLength(4);
  expect(inFlightMax()).toBe(1);
});

test("[BK23] a group never holds two members of one document, and keeps their order", async () => {
  const { submit, groups } = harness();
  const settled: string[] = [];
  const submits = Array.from({ length: 60 }, (_, i) => {
    const id = `doc${i % 4}`;
    // Every third touches two documents, by three kinds of operation.
    const batch: Batch =
      i % 3 === 0
        ? { ...put(id, i), delete: [{ space: "events", id: `doc${(i + 1) % 4}`, from: 0, to: 0 }] }
        : put(id, i);
    return submit(batch).then(() => settled.push(`${id} ${i}`));
  });
  await Promise.all(submits);
  for (const batch of groups) {
    const ids = keysOf(batch).map((key) => key[1]);
    expect(new Set(ids).size).toBe(ids.length);
  }
  for (const id of ["doc0", "doc1", "doc2", "doc3"]) {
    const committed = groups.flatMap(keysOf).filter((key) => key[1] === id);
    const seqs = committed.map((key) => key[2]!);
    expect(seqs).toEqual([...seqs].sort((a, b) => a - b));
    expect(settled.filter((line) => line.startsWith(id))).toEqual(seqs.map((seq) => `${id} ${seq}`));
  }
  expect(groups.flatMap(keysOf)).toHaveLength(60);
});

test("[BK23] by whatever two members touch one document, they are not in one group; others are, with all they do", async () => {
  const key: Key = ["events", "shared", 7];
  const more: readonly Batch[] = [
    { put: [{ key, value: new Uint8Array(1) }] },
    { delete: [key] },
    { delete: [{ space: "events", id: "shared" }] },
    { expect: [{ key, value: undefined }] },
  ];
  const beside = (id: string, { put: others = [], ...rest }: Batch): Batch => ({
    put: [...put(id, 0).put!, ...others],
    ...rest,
  });
  for (const first of more) {
    for (const second of more) {
      const { submit, groups } = harness();
      await Promise.all([submit(beside("a", first)), submit(beside("b", second))]);
      expect(groups).toEqual([beside("a", first), beside("b", second)]);
    }
    const { submit, groups } = harness();
    await Promise.all([submit(beside("a", first)), submit(put("b", 0))]);
    const whole = { put: [], delete: [], expect: [], ...beside("a", first) };
    expect(groups).toEqual([{ ...whole, put: [...whole.put, ...put("b", 0).put!] }]);
  }
});

test("[BK23] a group keeps to its limits of bytes and operations, unless it has one member", async () => {
  const { submit, groups } = harness({ groupBytesMax: 100, groupOperationsMax: 4 });
  await Promise.all(Array.from({ length: 20 }, (_, i) => submit(put(`small${i}`, i))));
  for (const batch of groups) expect(keysOf(batch).length).toBeLessThanOrEqual(4);
  groups.length = 0;
  await Promise.all(Array.from({ length: 6 }, (_, i) => submit(put(`large${i}`, i, i === 3 ? 500 : 60))));
  expect(groups.map((batch) => keysOf(batch).length)).toEqual([1, 1, 1, 1, 1, 1]);
});

test("[BK23] a conflict fails only the member that expected in vain", async () => {
  const taken = new Set(["doc3", "doc5"]);
  const { submit } = harness({}, async (batch) => {
    const failing = (batch.expect ?? []).find(({ key }) => taken.has(key[1]));
    if (failing !== undefined) throw commitConflict(failing.key);
  });
  const outcomes = await Promise.allSettled(
    Array.from({ length: 8 }, (_, i) => {
      const key: Key = ["meta", `doc${i}`];
      return submit({ put: [{ key, value: new Uint8Array(1) }], expect: [{ key, value: undefined }] });
    }),
  );
  for (const [i, outcome] of outcomes.entries()) {
    if (i !== 3 && i !== 5) {
      expect(outcome.status).toBe("fulfilled");
      continue;
    }
    const details = { key: ["meta", `doc${i}`] };
    expect(outcome).toMatchObject({ status: "rejected", reason: { code: "COMMIT_CONFLICT", details } });
  }
});

test("[BK23] any other failure fails every member of the group, and later groups go on", async () => {
  const failure = new Error("disk full");
  let failing = true;
  const { submit, groups } = harness({}, async () => {
    if (failing) throw failure;
  });
  const outcomes = await Promise.allSettled(Array.from({ length: 5 }, (_, i) => submit(put(`doc${i}`, 0))));
  for (const outcome of outcomes) expect(outcome).toEqual({ status: "rejected", reason: failure });
  expect(groups).toHaveLength(1);
  failing = false;
  await submit(put("doc0", 1));
});

test("[BK23] idle resolves when nothing is queued or in flight", async () => {
  const { submit, idle, groups } = harness();
  await idle();
  let settledCount = 0;
  for (let i = 0; i < 10; i++) void submit(put("doc", i)).then(() => settledCount++);
  await idle();
  expect(settledCount).toBe(10);
  expect(groups).toHaveLength(10);
});

/** Writers who come back when they are told, with a backend that may be handed one group more; work takes time. */
async function handedOver(
  ahead: boolean,
  answer: (batch: Batch) => Promise<void> = async () => undefined,
  { writers = 48, rounds = 4, documentOf = (w: number, _n: number) => w % 40 } = {},
) {
  const groups: Batch[] = [];
  const underway: Batch[] = [];
  let together = 0;
  let last: Promise<unknown> = Promise.resolve();
  const commit = async (batch: Batch) => {
    groups.push(batch);
    underway.push(batch);
    together = Math.max(together, underway.length);
    expect(underway.length).toBeLessThanOrEqual(2);
    const ids = underway.flatMap(touched);
    expect(new Set(ids).size).toBe(ids.length);
    const turn = last.then(() => new Promise((resolve) => setImmediate(resolve))).then(() => answer(batch));
    last = turn.catch(() => undefined);
    try {
      await turn;
    } finally {
      underway.splice(underway.indexOf(batch), 1);
    }
  };
  let ticks = 0;
  const env = { ...systemEnv(), elapsed: () => (ticks += 0.02) };
  const group = new GroupCommit(commit, env, LIMITS, ahead);
  const told: string[] = [];
  /** Every fifth touches two documents. */
  const batchOf = (id: string, n: number): Batch => {
    const other = `doc${(n * 7 + 1) % 40}`;
    if (n % 5 !== 0 || other === id) return put(id, n);
    return { ...put(id, n), expect: [{ key: ["events", other, n], value: undefined }] };
  };
  const submit = (id: string, n: number) =>
    new Promise<void>((resolve, reject) => group.submit(batchOf(id, n), () => resolve(), reject)).then(
      () => told.push(`${id} ${n}`),
      (error: Error) => told.push(`${id} ${n} ${error.message}`),
    );
  // Eight documents have two writers, whose calls must never go beside each other.
  const writer = async (w: number) => {
    for (let n = w; n < rounds * writers; n += writers) await submit(`doc${documentOf(w, n)}`, n);
  };
  await Promise.all(Array.from({ length: writers }, (_, w) => writer(w)));
  await group.idle();
  return { groups, together, told };
}

test("[BK58] a backend that takes a group ahead gets one at most, of other documents, in each one's order", async () => {
  const { groups, together, told } = await handedOver(true);
  expect(together).toBe(2);
  expect(told).toHaveLength(4 * 48);
  for (let d = 0; d < 40; d++) {
    const seqs = groups.flatMap(keysOf).filter((key) => key[1] === `doc${d}`);
    const toldOf = told.filter((line) => line.startsWith(`doc${d} `));
    expect(toldOf).toEqual(seqs.map((key) => `doc${d} ${key[2]}`));
    const calls = d < 8 ? [d, d + 40] : [d];
    expect(seqs.map((key) => key[2])).toEqual([0, 48, 96, 144].flatMap((n) => calls.map((w) => n + w)));
  }
  expect((await handedOver(false)).together).toBe(1);
});

test("[BK58] and of none that the one under way touches, whoever wrote to it before", async () => {
  const documentOf = (w: number, n: number) => (w + 11 * Math.floor(n / 200)) % 160;
  const { told, together } = await handedOver(true, undefined, { writers: 200, rounds: 12, documentOf });
  expect(together).toBe(2);
  for (const line of told) expect(line).toMatch(/^doc\d+ \d+$/);
});

test("[BK58] a failure of the group under way, or of the one ahead, fails its members alone, and the rest goes on", async () => {
  for (const failing of [2, 3, 4]) {
    let number = 0;
    const { groups, told } = await handedOver(true, async () => {
      if (++number === failing) throw new Error("disk full");
    });
    const failed = told.filter((line) => line.endsWith("disk full"));
    expect(failed).toHaveLength(keysOf(groups[failing - 1]!).length);
    expect(told).toHaveLength(4 * 48);
  }
});

test("[BK55] those who try again at once until another commit is done do not keep it from being done", async () => {
  let isDone = false;
  let underway: Promise<unknown> = Promise.resolve();
  const commit = async (batch: Batch) => {
    const [inVain] = batch.expect ?? [];
    if (inVain !== undefined && !isDone) throw commitConflict(inVain.key);
    underway = underway.then(() => new Promise((resolve) => setImmediate(resolve)));
    await underway;
    isDone ||= keysOf(batch).some((key) => key[1] === "last");
  };
  let ticks = 0;
  const env = { ...systemEnv(), elapsed: () => (ticks += 0.01) };
  const group = new GroupCommit(commit, env, LIMITS, true);
  const submit = (batch: Batch) =>
    new Promise<void>((resolve, reject) => group.submit(batch, () => resolve(), reject));
  for (let n = 0; n < 2; n++)
    await Promise.all(Array.from({ length: 64 }, (_, i) => submit(put(`doc${i}`, n))));
  let tries = 0;
  const wait = async (id: string) => {
    const batch: Batch = { ...put(id, 0), expect: [{ key: ["meta", id], value: undefined }] };
    while (!isDone && tries++ < 50_000) {
      if (
        await submit(batch).then(
          () => true,
          () => false,
        )
      )
        return;
      // Some work before it tries again, so that the last of them comes late.
      for (let reaction = 0; reaction < 200; reaction++) await undefined;
    }
  };
  const last = submit(put("last", 0));
  await new Promise((resolve) => setImmediate(resolve));
  await Promise.all([last, ...Array.from({ length: 64 }, (_, i) => wait(`waiting${i}`))]);
  expect(tries).toBeLessThan(50_000);
});
