// A failure at every operation of the backend: what was not written is refused, what may have been written is said to
// be unknown, and after `recover()` everything that somebody still holds can be stored exactly once.

import { type AppendResult, DocumentStorage, everyEvents, isCoppiceError } from "coppice";
import {
  type Fault,
  type Operation,
  type OperationKind,
  type SimulatedBackend,
  type SimulatedBackendOptions,
  type SimulatedEnv,
  seededRandom,
  simulatedBackend,
  simulatedEnv,
} from "coppice/testing";
import { describe, expect, test } from "vitest";
import { Ledger, type NameStorage } from "../support/oracle.js";
import { add, type NameSet, nameSet, naming } from "../support/oracle-model.js";

const WRITES: readonly OperationKind[] = ["commit", "sync", "reply"];
const FAULTS: readonly Fault[] = ["unavailable", "error", "unknown-lost", "unknown-applied"];

type Handle = Awaited<ReturnType<typeof openHandle>>;

function openHandle(storage: NameStorage) {
  return storage.open<NameSet>("b");
}

interface Rejection {
  readonly what: string;
  readonly code: string;
}

/** One process with its callers, who go on after each rejection. */
class Callers {
  readonly ledger: Ledger = new Ledger();
  readonly rejections: Rejection[] = [];
  /** Appends of unknown outcome, to be repeated under their ids. */
  readonly repeatable: { names: string[]; commitId: Uint8Array; again: () => Promise<AppendResult> }[] = [];
  readonly edits: string[] = [];
  handle: Handle | undefined;
  readonly storage: NameStorage;

  constructor(storage: NameStorage) {
    this.storage = storage;
  }

  async run(): Promise<void> {
    await Promise.all([this.append("a", "a1"), this.append("a", "a2", "a3"), this.appendOnce("a", "a4")]);
    await this.append("a", "!a");
    await this.try("open", async () => {
      this.handle = await this.ledger.create("b", () => openHandle(this.storage));
    });
    const saves = [this.edit("b1"), this.edit("b2")];
    await Promise.all([...saves, this.appendOnce("a", "a5", "a6"), this.append("a", "a7")]);
    await this.edit("b3");
    await this.try("snapshot", async () => this.handle?.snapshot());
    await this.try("compact a", () => this.storage.compact("a"));
    await Promise.all([this.append("a", "a8"), this.try("compact a", () => this.storage.compact("a"))]);
    await Promise.all([this.edit("b4"), this.appendOnce("a", "a9")]);
    await this.append("c", "c1");
    await this.remove("c");
    await this.try("flush", () => this.storage.flush());
  }

  append(id: string, ...names: string[]): Promise<unknown> {
    const events = names.map((name) => naming(name));
    return this.try(`append ${names}`, () =>
      this.ledger.submit(id, names, () => this.storage.append(id, events)),
    );
  }

  /** With a commit id of its own. */
  appendOnce(id: string, ...names: string[]): Promise<unknown> {
    const events = names.map((name) => naming(name));
    const commitId = this.storage.newCommitId();
    const again = () => this.storage.append(id, events, { commitId });
    this.repeatable.push({ names, commitId, again });
    return this.try(`append ${names}`, () => this.ledger.submit(id, names, again));
  }

  /** Changes the document, and saves; after a rejection the event stays with the handle. */
  edit(name: string): Promise<unknown> {
    const { handle } = this;
    if (handle === undefined) return Promise.resolve();
    handle.change(add(name));
    this.edits.push(name);
    this.ledger.expectPerhaps("b", [name]);
    return this.try(`save ${name}`, () => handle.save());
  }

  async remove(id: string): Promise<void> {
    for (let attempt = 0; attempt < 2; attempt++) {
      const alive = await this.try("info", async () => (await this.storage.info(id)) !== undefined);
      if (alive) await this.try("delete", () => this.ledger.remove(id, () => this.storage.delete(id)));
    }
  }

  /** A rejection must have a type, and a code that says what to do. */
  async try<T>(what: string, work: () => Promise<T>): Promise<T | undefined> {
    try {
      return await work();
    } catch (error) {
      if (!isCoppiceError(error)) throw error;
      this.rejections.push({ what, code: error.code });
      return undefined;
    }
  }

  /** After the failures have ended: recovers, and stores what is left. */
  async settle(): Promise<void> {
    await this.storage.recover();
    for (const { names, again } of this.repeatable) await this.ledger.submit("a", names, again);
    this.handle ??= await openHandle(this.storage);
    await this.handle.save();
    expect(this.handle.unsaved).toBe(false);
    await this.append("a", "a-after");
    const found = await this.ledger.verify(this.storage);
    const lost = [
      ...this.repeatable.flatMap(({ names }) => names).filter((name) => !found.get("a")?.names.has(name)),
      ...this.edits.filter((name) => !found.get("b")?.names.has(name)),
    ];
    expect(lost).toEqual([]);
    for (const { names, again } of this.repeatable) {
      if ((await again()).duplicate !== true) throw new Error(`${names} is stored again`);
    }
  }
}

function open(backend: SimulatedBackend, env: SimulatedEnv): Promise<NameStorage> {
  return DocumentStorage.open({ backend, models: [nameSet()], env, snapshotPolicy: everyEvents(6) });
}

interface Failing {
  readonly at: number;
  readonly fault: Fault;
  readonly sticky?: boolean;
}

/** Lets the operations fail, and holds the store to its promises at once and after `recover`. */
async function fail(options: SimulatedBackendOptions, failures: readonly Failing[]): Promise<Rejection[]> {
  let poisoned = false;
  let kinds: OperationKind | undefined;
  const backend: SimulatedBackend = simulatedBackend({
    ...options,
    onOperation: ({ index, kind }: Operation) => {
      if (kind === "commit" && poisoned) throw new Error("a commit after one that failed");
      if (failures.some(({ at }) => at === index)) kinds = kind;
      // A conflict does not poison, and a fault at `reply` finds the batch applied.
      if (options.poisonsItself && kinds !== undefined && WRITES.includes(kinds)) poisoned = true;
    },
  });
  const env = simulatedEnv(1, { autoAdvance: true });
  for (const { at, fault, sticky = false } of failures) backend.failAt(at, fault, { sticky });
  const callers = new Callers(await open(backend, env));
  await callers.run();
  backend.heal();
  poisoned = false;
  kinds = undefined;
  const commitId = callers.storage.newCommitId();
  if (callers.rejections.some(({ code }) => code === "POISONED")) {
    const late = callers.storage.append("late", [naming("late")], { commitId });
    await expect(late).rejects.toMatchObject({ code: "POISONED" });
  }
  await callers.settle();
  await callers.storage.close();
  const reopened = await open(backend, simulatedEnv(2, { autoAdvance: true }));
  await callers.ledger.verify(reopened);
  await reopened.close();
  return callers.rejections;
}

/** The kinds of all operations of the calm workload, by index. */
async function operationsOf(options: SimulatedBackendOptions): Promise<OperationKind[]> {
  const kinds: OperationKind[] = [];
  const backend = simulatedBackend({ ...options, onOperation: ({ kind }) => void kinds.push(kind) });
  const callers = new Callers(await open(backend, simulatedEnv(1, { autoAdvance: true })));
  await callers.run();
  expect(callers.rejections).toEqual([]);
  const count = kinds.length;
  await callers.settle();
  expect((await callers.storage.info("a"))?.oldestClock).toBeGreaterThan(0);
  await callers.storage.close();
  return kinds.slice(0, count);
}

describe.each([
  { poisonsItself: true, rule: "RC7" },
  { poisonsItself: false, rule: "RC8" },
])("a backend with poisonsItself: $poisonsItself", ({ poisonsItself, rule }) => {
  const options: SimulatedBackendOptions = { poisonsItself };

  test.each([
    { sticky: false, how: "one failure" },
    { sticky: true, how: "a failure that stays" },
  ])(
    `[${rule}] $how at any operation is reported, and recover() leads back to everything`,
    async ({ sticky }) => {
      const kinds = await operationsOf(options);
      let states = 0;
      let rejected = 0;
      for (let at = 1; at < kinds.length; at++) {
        for (const fault of WRITES.includes(kinds[at]!) ? FAULTS : FAULTS.slice(0, 2)) {
          const failures = [{ at, fault, sticky }];
          try {
            if ((await fail(options, failures)).length > 0) rejected++;
          } catch (error) {
            throw new Error(`${kinds[at]} ${JSON.stringify(failures)}`, { cause: error });
          }
          states++;
        }
      }
      expect(states).toBeGreaterThanOrEqual(300);
      expect(rejected).toBeGreaterThanOrEqual(states / 3);
    },
  );

  test(`[${rule}] two failures, the second while the first is dealt with, change nothing of that`, async () => {
    const kinds = await operationsOf(options);
    const random = seededRandom(8);
    for (let round = 0; round < 400; round++) {
      const at = 1 + random.int(kinds.length - 1);
      const failures: Failing[] = [
        { at, fault: random.pick(FAULTS) },
        { at: at + 1 + random.int(6), fault: random.pick(FAULTS), sticky: random.int(4) === 0 },
      ];
      try {
        await fail(options, failures);
      } catch (error) {
        throw new Error(`${kinds[at]} ${JSON.stringify(failures)}`, { cause: error });
      }
    }
  });
});

test("[RC9] a failed store, which may show what is not durable, confirms nothing until recover()", async () => {
  // Readers of this store see a batch as soon as it is written; the failed one is lost when the process ends.
  const backend = simulatedBackend({ sync: "never", durability: "power", poisonsItself: true });
  const storage = await open(backend, simulatedEnv(1, { autoAdvance: true }));
  const commitId = storage.newCommitId();
  const append = () => storage.append("a", [naming("x")], { commitId });
  backend.failNext("commit", "unknown-applied");
  await expect(append()).rejects.toMatchObject({ code: "OUTCOME_UNKNOWN" });
  expect(backend.keys().length).toBeGreaterThan(0);
  await expect(append()).rejects.toMatchObject({ code: "POISONED" });
  await expect(storage.delete("a")).rejects.toMatchObject({ code: "POISONED" });
  expect((await storage.recover()).settled).toMatchObject([{ id: "a", commitId, applied: true }]);
  expect(await append()).toMatchObject({ clock: 1, duplicate: true });
});

test("[RC10] a commit id older than the remembered ones stays unknown, and is not written again", async () => {
  const backend = simulatedBackend({});
  const env = simulatedEnv(1, { autoAdvance: true });
  const limits = { commitIdsMax: 2 };
  const openSmall = () => DocumentStorage.open({ backend, models: [nameSet()], env, limits });
  let storage = await openSmall();
  const ids: Uint8Array[] = [];
  const append = (number: number) => storage.append("a", [naming(`x${number}`)], { commitId: ids[number]! });
  const expectMemory = async () => {
    for (const number of [0, 1]) {
      await expect(append(number)).rejects.toMatchObject({ code: "OUTCOME_UNKNOWN" });
    }
    for (const number of [2, 3]) {
      expect(await append(number)).toMatchObject({ clock: number + 1, duplicate: true });
    }
    expect((await storage.info("a"))?.clock).toBe(4);
  };
  for (let number = 0; number < 4; number++) {
    env.advance(1);
    ids.push(storage.newCommitId());
    await append(number);
  }
  await expectMemory();
  await storage.compact("a");
  await expectMemory();
  await storage.close();
  storage = await openSmall();
  await expectMemory();
  await storage.close();
});

test.each(FAULTS)(
  "[RC11] a save that begins while recover() settles the last one stores once: %s",
  async (fault) => {
    for (let at = 0; at < 12; at++) {
      const backend = simulatedBackend({ poisonsItself: true });
      const storage = await open(backend, simulatedEnv(1, { autoAdvance: true }));
      const handle = await openHandle(storage);
      handle.change(add("b1"));
      backend.failNext("commit", fault);
      await expect(handle.save()).rejects.toThrow();
      handle.change(add("b2"));
      const recovering = storage.recover();
      for (let turn = 0; turn < at; turn++) await Promise.resolve();
      const saving = handle.save().catch((error: unknown) => expect(isCoppiceError(error)).toBe(true));
      await Promise.all([recovering, saving]);
      await handle.save();
      const loaded = await storage.load<NameSet>("b");
      expect([...loaded!.doc.names.keys()]).toEqual(["b1", "b2"]);
      expect(loaded?.clock).toBe(2);
      await storage.close();
    }
  },
);
