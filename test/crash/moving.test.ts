// A crash at every operation of a fork, a deletion and an erasure, and then a second one while the next process
// repeats the call: what is being moved is there as a whole or not at all, and repeating finishes what was begun.

import { DocumentStorage, never } from "coppice";
import { type SimulatedBackend, simulatedBackend, simulatedEnv } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { type NameStorage, writeHistory } from "../support/oracle.js";
import { type NameSet, nameSet, naming } from "../support/oracle-model.js";

let processes = 0;

function open(backend: SimulatedBackend, groupBytesMax: number): Promise<NameStorage> {
  return DocumentStorage.open({
    backend,
    models: [nameSet()],
    env: simulatedEnv(++processes, { autoAdvance: true }),
    snapshotPolicy: never,
    // Small, so that what is moved needs several commits.
    limits: { groupBytesMax, sweepKeysMax: 3 },
  });
}

/** What the document holds now, and at its tag. */
async function names(storage: NameStorage, id: string): Promise<string[] | undefined> {
  const handle = await storage.load<NameSet>(id);
  if (handle === undefined) return undefined;
  const [tag] = await storage.tags(id);
  const past = tag && (await storage.load<NameSet>(id, { at: tag.name }));
  const held = handle.held.map(() => "held");
  return [...handle.doc.names.keys(), ...held, "|", ...(past?.doc.names.keys() ?? [])];
}

const WHOLE = ["a", "b", "c", "d", "e", "held", "held", "|", "a", "b"];

interface Move {
  readonly name: string;
  /** What the call is made on, besides `d`. */
  prepare?(storage: NameStorage): Promise<void>;
  run(storage: NameStorage): Promise<unknown>;
  /** After a crash and before the call is repeated: throws when what is there may not be there. */
  between(storage: NameStorage): Promise<void>;
  /** After the call was repeated. */
  after(storage: NameStorage, backend: SimulatedBackend): Promise<void>;
}

const exists = async (call: () => Promise<unknown>): Promise<void> => {
  await call().catch((error: { code?: string }) => {
    if (error.code !== "EXISTS") throw error;
  });
};

function fork(groupBytesMax: string, prepare?: Move["prepare"], options = {}): Move {
  return {
    name: `fork ${groupBytesMax}`,
    ...(prepare === undefined ? {} : { prepare }),
    run: (storage) => exists(() => storage.fork("d", "copy", options)),
    async between(storage) {
      expect([undefined, WHOLE]).toContainEqual(await names(storage, "copy"));
      expect(await names(storage, "d")).toEqual(WHOLE);
    },
    async after(storage) {
      expect(await names(storage, "copy")).toEqual(WHOLE);
    },
  };
}

const removal = (name: "delete" | "erase"): Move => ({
  name,
  prepare: (storage) => writeHistory(storage, "gone"),
  run: (storage) => storage[name]("gone"),
  async between(storage) {
    expect([undefined, WHOLE]).toContainEqual(await names(storage, "gone"));
    expect(await names(storage, "d")).toEqual(WHOLE);
  },
  async after(storage, backend) {
    const keys = backend.keys().filter(([, id]) => id === "gone");
    expect(keys).toEqual(name === "delete" ? [["meta", "gone"]] : []);
    const bytes = [...backend.dump(), ...backend.residue()].filter(({ key }) => key[1] === "gone");
    if (name === "erase") expect(bytes).toEqual([]);
    await expect(storage.append("gone", [naming("x")])).rejects.toMatchObject({ code: "DELETED" });
    expect((await storage.open("gone", { recreate: true })).clock).toBe(7);
  },
});

/** The bytes of a stream of `d`, and stores that hold it as `copy`: now, and at an earlier state. */
async function origins(): Promise<{ stream: Uint8Array; now: NameStorage; early: NameStorage }> {
  const [now, early] = await Promise.all([open(simulatedBackend(), 1e6), open(simulatedBackend(), 1e6)]);
  await now.append("copy", [naming("a"), naming("late", ["never"])]);
  await now.append("copy", [naming("b"), naming("!bad")]);
  await now.compact("copy");
  await now.tag("copy", "half");
  await now.append("old", [naming("x")]);
  await now.copyTo(early);
  await now.append("copy", [naming("c")]);
  await now.compact("copy");
  await now.append("copy", [naming("d"), naming("e")]);
  await now.delete("old");
  const chunks: Uint8Array[] = [];
  for await (const chunk of now.export("copy")) chunks.push(chunk);
  return { stream: Buffer.concat(chunks), now, early };
}

const made = origins();

async function* pieces(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += 100) yield bytes.subarray(at, at + 100);
}

const EARLY = ["a", "b", "held", "held", "|", "a", "b"];

function copy(name: string, early: boolean): Move {
  return {
    name,
    prepare: async (storage) => void (early && (await (await made).early.copyTo(storage))),
    run: async (storage) => {
      const result = await (await made).now.copyTo(storage);
      expect(result.failures).toEqual([]);
      for (const { id, clock, outcome } of result.documents) {
        if (id === "copy" && outcome !== "unchanged") expect(clock).toBe(7);
      }
    },
    async between(storage) {
      const found = await names(storage, "copy");
      const partial = found !== undefined && early && [5, 7].includes((await storage.info("copy"))!.clock);
      if (!partial) expect([early ? EARLY : undefined, WHOLE]).toContainEqual(found);
      expect(await names(storage, "d")).toEqual(WHOLE);
    },
    async after(storage) {
      expect(await names(storage, "copy")).toEqual(WHOLE);
      expect((await storage.info("copy"))?.token).toBe((await (await made).now.info("copy"))?.token);
      await expect(storage.append("old", [naming("x")])).rejects.toMatchObject({ code: "DELETED" });
    },
  };
}

const moves: readonly Move[] = [
  {
    ...fork("import"),
    name: "import",
    run: async (storage) => storage.import(pieces((await made).stream)),
  },
  copy("copy to an empty store", false),
  copy("copy to an earlier state", true),
  fork("in one commit"),
  fork("in several commits"),
  fork(
    "to a deleted id",
    async (storage) => {
      await storage.append("copy", [naming("old")]);
      await storage.delete("copy");
    },
    { recreate: true },
  ),
  removal("delete"),
  removal("erase"),
];

async function verify(storage: NameStorage): Promise<void> {
  const report = await storage.check();
  expect(report.problems).toEqual([]);
  const alive: string[] = [];
  for await (const id of storage.list()) alive.push(id);
  expect(report.documents).toBe(alive.length);
  for (const id of alive) expect(await names(storage, id)).toBeDefined();
}

/** Runs to the crash, to a second one, and then to the end. Returns the operations of a calm run. */
async function crash(move: Move, at: number, keep: "none" | "all", second?: number): Promise<boolean> {
  const size = move.name === "fork in one commit" ? 1e6 : 120;
  const backend = simulatedBackend({ seed: at });
  const before = await open(backend, 1e6);
  await writeHistory(before, "d");
  await move.prepare?.(before);
  await before.close();
  backend.crashAt(backend.operationCount + at, { keep });
  const crashed = await backend.untilCrash(async () => {
    const storage = await open(backend, size);
    await move.run(storage);
    await storage.close();
  });
  backend.heal();
  if (second !== undefined) {
    backend.crashAt(backend.operationCount + second, { keep });
    await backend.untilCrash(async () => {
      const storage = await open(backend, size);
      await move.run(storage);
      await storage.close();
    });
    backend.heal();
  }
  const storage = await open(backend, size);
  await verify(storage);
  await move.between(storage);
  await move.run(storage);
  await move.after(storage, backend);
  await verify(storage);
  expect((await storage.check()).garbageKeys).toBe(0);
  await storage.close();
  return crashed;
}

describe("moving and removing", () => {
  test("[MV8] a crash of the source at any operation of a copy leaves the target whole, and repeating ends it", async () => {
    for (let at = 0; ; at++) {
      const source = simulatedBackend({ seed: at });
      const before = await open(source, 1e6);
      for (const id of ["d", "e"]) await writeHistory(before, id);
      await before.close();
      const disk = simulatedBackend();
      const first = await open(disk, 120);
      source.crashAt(source.operationCount + at);
      const crashed = await source.untilCrash(async () => {
        const from = await open(source, 120);
        await from.copyTo(first, { concurrency: 1 });
        await from.close();
      });
      source.heal();
      // One process had both open.
      disk.crash({ keep: "all" });
      const target = await open(disk, 120);
      await verify(target);
      for (const id of ["d", "e"]) expect([undefined, WHOLE]).toContainEqual(await names(target, id));
      const from = await open(source, 120);
      expect((await from.copyTo(target)).failures).toEqual([]);
      for (const id of ["d", "e"]) expect(await names(target, id)).toEqual(WHOLE);
      await verify(target);
      expect((await target.check()).garbageKeys).toBe(0);
      await from.close();
      await target.close();
      if (!crashed) break;
      expect(at).toBeLessThan(500);
    }
  });

  for (const move of moves) {
    test(`[MV7] a crash at any operation: ${move.name} is done whole or not at all, and repeating ends it`, async () => {
      let states = 0;
      for (let at = 0; ; at++) {
        const crashed = await crash(move, at, "none");
        await crash(move, at, "all");
        await crash(move, at, at % 2 === 0 ? "all" : "none", (at * 7) % 23);
        states += 3;
        if (!crashed) break;
      }
      expect(states).toBeGreaterThan(60);
    });
  }
});
