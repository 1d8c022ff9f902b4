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
    new Promise<void>((resolve, reject) => group.submit(batch, resolve, reject));
  return { submit, idle: () => group.idle(), groups, inFlightMax: () => inFlightMax };
}

const put = (id: string, seq: number, length = 1): Batch => ({
  put: [{ key: ["events", id, seq], value: new Uint8Array(length) }],
});
const keysOf = (batch: Batch): Key[] => (batch.put ?? []).map(({ key }) => key);

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
