// Interleavings that once lost, repeated or hid something, each directed step by step: two storages on one shared
// store, and a gate before each call of either to the backend.

import { ABSENT, type Backend, type Batch, DocumentStorage, never } from "coppice";
import { type SimulatedBackend, simulatedBackend, simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import { type NameStorage, nameOf } from "../support/oracle.js";
import { add, type NameSet, nameSet, naming } from "../support/oracle-model.js";

interface Call {
  readonly kind: "get" | "scan" | "commit";
  /** Spaces of the keys that are read, put or deleted. */
  readonly spaces: ReadonlySet<string>;
  readonly batch: Batch;
}

interface Stop {
  readonly matches: (call: Call) => boolean;
  readonly reached: () => void;
  readonly opened: Promise<void>;
}

/** Lets one storage's calls pass, except where a test stops it. */
class Gate {
  #stops: Stop[] = [];

  /** Stops the next call that matches: `reached` resolves when it comes, `open` lets it go on. */
  stop(matches: Stop["matches"]): { readonly reached: Promise<void>; open(): void } {
    let reach: () => void = () => undefined;
    let open: () => void = () => undefined;
    const reached = new Promise<void>((resolve) => {
      reach = resolve;
    });
    const opened = new Promise<void>((resolve) => {
      open = resolve;
    });
    this.#stops.push({ matches, reached: reach, opened });
    return { reached, open };
  }

  async pass(call: Call): Promise<void> {
    const at = this.#stops.findIndex(({ matches }) => matches(call));
    if (at < 0) return;
    const [stop] = this.#stops.splice(at, 1);
    stop!.reached();
    await stop!.opened;
  }
}

function gated(backend: Backend, gate: Gate): Backend {
  return {
    traits: backend.traits,
    async get(key) {
      await gate.pass({ kind: "get", spaces: new Set([key[0]]), batch: {} });
      return backend.get(key);
    },
    async *scan(range, options) {
      for await (const page of backend.scan(range, options)) {
        yield page;
        await gate.pass({ kind: "scan", spaces: new Set([range.space]), batch: {} });
      }
    },
    async commit(batch) {
      const put = (batch.put ?? []).map(({ key }) => key[0]);
      const deleted = (batch.delete ?? []).map((deletion) =>
        "space" in deletion ? deletion.space : deletion[0],
      );
      await gate.pass({ kind: "commit", spaces: new Set([...put, ...deleted]), batch });
      return backend.commit(batch);
    },
    reclaim: () => backend.reclaim(),
    close: () => backend.close(),
  };
}

const SMALL = { pageBytesMax: 1, sweepKeysMax: 2, snapshotPartBytesMax: 24, groupBytesMax: 1 };

async function open(simulated: SimulatedBackend, seed: number, limits: object = SMALL) {
  const gate = new Gate();
  const storage: NameStorage = await DocumentStorage.open({
    backend: { name: "gated", open: async (env) => gated(await simulated.open(env), gate) },
    models: [nameSet()],
    env: simulatedEnv(seed, { autoAdvance: true }),
    snapshotPolicy: never,
    limits,
  });
  return { storage, gate };
}

async function two(limits: object = SMALL) {
  const simulated = simulatedBackend({ exclusive: false });
  return { simulated, a: await open(simulated, 1, limits), b: await open(simulated, 2, limits) };
}

async function appendEach(storage: NameStorage, ...names: string[]): Promise<void> {
  for (const name of names) await storage.append("d", [naming(name)]);
}

async function logOf(storage: NameStorage): Promise<string[]> {
  const info = await storage.info("d");
  const names: string[] = [];
  for await (const { event } of storage.read("d", { from: info!.oldestClock })) names.push(nameOf(event));
  return names;
}

async function namesOf(storage: NameStorage): Promise<string[] | undefined> {
  const handle = await storage.load<NameSet>("d");
  return handle && [...handle.doc.names.keys()].sort();
}

const reading = (space: string) => (call: Call) => call.kind !== "commit" && call.spaces.has(space);
const committing = (space: string) => (call: Call) => call.kind === "commit" && call.spaces.has(space);

test.each([1, 2, 3])("[ST32] a load beside a deletion is whole or nothing, from page %i on", async (page) => {
  const { a, b } = await two();
  await appendEach(a.storage, "x", "y", "z");
  let pages = 0;
  const stop = a.gate.stop((call) => reading("events")(call) && ++pages === page);
  const loading = namesOf(a.storage);
  await stop.reached;
  await b.storage.delete("d");
  stop.open();
  expect(await loading).toBe(undefined);
});

test("[ST32] a read beside a deletion ends with DELETED, as a refresh does", async () => {
  const { a, b } = await two();
  await appendEach(a.storage, "x", "y", "z");
  const handle = await b.storage.open<NameSet>("d");
  await appendEach(a.storage, "late");
  const events = a.storage.read("d");
  expect(nameOf((await events.next()).value?.event)).toBe("x");
  const stop = b.gate.stop(reading("events"));
  const refreshing = handle.refresh();
  await stop.reached;
  await a.storage.delete("d");
  stop.open();
  await expect(refreshing).rejects.toMatchObject({ code: "DELETED" });
  const rest = async () => {
    for await (const event of events) expect(event).toBeDefined();
  };
  await expect(rest()).rejects.toMatchObject({ code: "DELETED" });
});

test("[ST33] a stage that another writer sweeps half written is never flipped to", async () => {
  const { a, b } = await two();
  await appendEach(a.storage, "x", "y", "z");
  const handle = await a.storage.open<NameSet>("d");
  const sweeping = a.gate.stop(reading("snapshot"));
  const snapshot = handle.snapshot();
  await sweeping.reached;
  // The flip of `a` is done and its sweep begins; now `b` stages an older snapshot beside the newest.
  let commits = 0;
  const staging = b.gate.stop((call) => committing("snapshot")(call) && ++commits === 2);
  const flipping = b.gate.stop(committing("meta"));
  const compaction = b.storage.compact("d");
  await staging.reached;
  const deleting = a.gate.stop(committing("snapshot"));
  sweeping.open();
  await deleting.reached;
  staging.open();
  await flipping.reached;
  deleting.open();
  await snapshot;
  flipping.open();
  expect(await compaction).toMatchObject({ outcome: "compacted" });
  for (const { storage } of [a, b]) {
    expect((await storage.check()).problems).toEqual([]);
    expect(await namesOf(storage)).toEqual(["x", "y", "z"]);
  }
});

test("[ST34] a lost reply is not taken for a lost write because the batch was trimmed meanwhile", async () => {
  const { simulated, a, b } = await two();
  await appendEach(a.storage, "x");
  const commitId = a.storage.newCommitId();
  const append = () => a.storage.append("d", [naming("once")], { commitId });
  simulated.failNext("reply", "unknown-applied");
  const settling = a.gate.stop(reading("events"));
  const unknown = append();
  await settling.reached;
  await appendEach(b.storage, "y", "z");
  await b.storage.compact("d");
  await appendEach(b.storage, "end");
  await b.storage.compact("d");
  expect((await b.storage.info("d"))?.oldestClock).toBeGreaterThan(1);
  settling.open();
  await expect(unknown).rejects.toMatchObject({ code: "OUTCOME_UNKNOWN" });
  expect((await a.storage.recover()).settled).toMatchObject([{ id: "d", commitId, applied: true }]);
  expect(await append()).toMatchObject({ clock: 2, duplicate: true });
  expect(await namesOf(b.storage)).toEqual(["end", "once", "x", "y", "z"]);
  expect((await b.storage.info("d"))?.clock).toBe(5);
});

test("[ST34] nor is that of a save, whose events are stored once", async () => {
  const { simulated, a, b } = await two();
  const handle = await a.storage.open<NameSet>("d");
  handle.change(add("once"));
  simulated.failNext("reply", "unknown-applied");
  const settling = a.gate.stop(reading("events"));
  const unknown = handle.save();
  await settling.reached;
  await appendEach(b.storage, "y", "z");
  await b.storage.compact("d");
  settling.open();
  await expect(unknown).rejects.toMatchObject({ code: "OUTCOME_UNKNOWN" });
  handle.change(add("more"));
  await handle.save();
  expect((await b.storage.info("d"))?.clock).toBe(4);
  expect(await namesOf(b.storage)).toEqual(["more", "once", "y", "z"]);
});

test.each(["delete", "erase"] as const)(
  "[ST34] of a commit in a document that was gone since, by %s, recover() says nothing",
  async (remove) => {
    const { simulated, a, b } = await two();
    await appendEach(a.storage, "x");
    simulated.failNext("reply", "unknown-applied");
    const settling = a.gate.stop(reading("events"));
    const unknown = a.storage.append("d", [naming("perhaps")]);
    await settling.reached;
    await b.storage[remove]("d");
    settling.open();
    await expect(unknown).rejects.toMatchObject({ code: "OUTCOME_UNKNOWN" });
    expect(await a.storage.recover()).toEqual({ settled: [] });
  },
);

test("[ST35] a storage that has not heard of others' changes does not answer from what it knew", async () => {
  const { a, b } = await two({});
  await appendEach(a.storage, "x");
  await appendEach(b.storage, "y");
  const { token } = (await a.storage.info("d"))!;
  expect(await a.storage.append("d", [naming("z")], { expected: token })).toMatchObject({ clock: 3 });
  await b.storage.delete("d");
  await expect(a.storage.append("d", [naming("no")], { expected: token })).rejects.toMatchObject({
    code: "DELETED",
  });
  await (await b.storage.open("d", { recreate: true })).close();
  expect(await a.storage.append("d", [naming("new")])).toMatchObject({ clock: 4 });
  await b.storage.delete("d");
  expect(await a.storage.delete("d")).toBe(false);
  await expect(a.storage.open("d")).rejects.toMatchObject({ code: "DELETED" });
  await (await a.storage.open("d", { recreate: true })).close();
  expect(await b.storage.delete("d")).toBe(true);
  await expect(b.storage.append("d", [naming("no")], { expected: ABSENT })).rejects.toMatchObject({
    code: "DELETED",
  });
});

test("[ST35] nor from what it read before it was asked", async () => {
  const { a, b } = await two({});
  const commitId = a.storage.newCommitId();
  await a.storage.append("d", [naming("x")], { commitId });
  const stop = a.gate.stop((call) => call.kind === "scan" && call.spaces.has("events"));
  const before = a.storage.append("d", [naming("x")], { commitId });
  await stop.reached;
  const { token } = await b.storage.append("d", [naming("y")]);
  const after = a.storage.append("d", [naming("z")], { expected: token });
  stop.open();
  expect(await before).toMatchObject({ clock: 1, duplicate: true });
  expect(await after).toMatchObject({ clock: 3 });
});

test("[MV11] the clocks of a document that was begun and erased meanwhile are not used again by a late creation", async () => {
  const { a, b } = await two({});
  const stop = a.gate.stop(committing("events"));
  const late = a.storage.append("d", [naming("late")]);
  await stop.reached;
  await appendEach(b.storage, "x", "y");
  await b.storage.erase("d");
  stop.open();
  await expect(late).rejects.toMatchObject({ code: "DELETED" });
  expect(await namesOf(a.storage)).toBe(undefined);
});

test("[ST36] an append with `expected` is compared with what is stored, not with what may still fail", async () => {
  const { simulated, a } = await two({});
  simulated.failNext("commit", "unavailable");
  const first = a.storage.append("d", [naming("fails")]);
  const second = a.storage.append("d", [naming("x")], { expected: ABSENT });
  await expect(first).rejects.toMatchObject({ code: "UNAVAILABLE" });
  await expect(second).rejects.toMatchObject({ code: "UNAVAILABLE" });
  expect(await a.storage.append("d", [naming("x")], { expected: ABSENT })).toMatchObject({ clock: 1 });
});

test("[ST37] an append that is repeated with its `expected` finds itself", async () => {
  const { a, b } = await two();
  await appendEach(a.storage, "x");
  const { token } = (await a.storage.info("d"))!;
  const commitId = a.storage.newCommitId();
  const append = (storage: NameStorage) => storage.append("d", [naming("y")], { expected: token, commitId });
  expect(await append(a.storage)).toMatchObject({ clock: 2, duplicate: false });
  for (const { storage } of [a, b]) {
    expect(await append(storage)).toMatchObject({ clock: 2, duplicate: true });
  }
  expect(await logOf(b.storage)).toEqual(["x", "y"]);
});

test("[ST38] a compaction that others overtake starts over, whatever it was about to read", async () => {
  for (const space of ["snapshot", "events", "meta"]) {
    for (const work of ["compact", "delete"] as const) {
      const { a, b } = await two();
      await appendEach(a.storage, "x", "y", "z");
      await a.storage.compact("d");
      await appendEach(a.storage, "end", "of it");
      let reads = 0;
      for (let at = 1; at <= 4; at++) {
        reads = 0;
        const stop = b.gate.stop((call) => reading(space)(call) && ++reads === at);
        const compaction = b.storage.compact("d", { force: true });
        const stopped = await Promise.race([stop.reached.then(() => true), compaction.then(() => false)]);
        if (!stopped) break;
        await appendEach(a.storage, `${work}${at}`).catch(() => undefined);
        await a.storage[work]("d");
        stop.open();
        const { outcome } = await compaction;
        if (work === "compact") expect(outcome).toBe("compacted");
        else expect(outcome).toBe("not-found");
        expect((await b.storage.check()).problems).toEqual([]);
        if (work === "delete") break;
      }
    }
  }
});
