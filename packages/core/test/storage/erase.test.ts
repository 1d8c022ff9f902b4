import { DocumentStorage, type Key, memoryBackend, never, type StorageOptions } from "coppice";
import { type SimulatedBackend, simulatedBackend, simulatedEnv } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { type NameSet, nameSet, naming } from "../../../../test/support/oracle-model.js";

const models = [nameSet()] as const;
type Storage = DocumentStorage<typeof models>;
const open = (options: Partial<StorageOptions<typeof models>> = {}): Promise<Storage> =>
  DocumentStorage.open({ backend: memoryBackend(), models, snapshotPolicy: never, ...options });

const code = (expected: string) => expect.objectContaining({ code: expected });

async function clean(storage: Storage): Promise<void> {
  expect((await storage.check()).problems).toEqual([]);
  await storage.close();
}

async function write(storage: Storage, id: string): Promise<void> {
  await storage.append(id, [naming("a"), naming("late", ["never"])], { info: { user: "ada" } });
  await storage.append(id, [naming("b"), naming("!bad")], { commitId: storage.newCommitId() });
  await storage.compact(id);
  await storage.append(id, [naming("c")]);
  await storage.compact(id);
  await storage.append(id, [naming("d")]);
}

/** Every key and value of the store, and what a disk would still hold of others. */
function everything(backend: ReturnType<typeof simulatedBackend>): string {
  return [...backend.dump(), ...backend.residue()]
    .map(({ key, value }) => `${key.join("/")} ${Buffer.from(value).toString("latin1")}`)
    .join("\n");
}

describe("erase", () => {
  test("[MV10] nothing of an erased document is left: no key, no value, no file, not even its id", async () => {
    const backend = simulatedBackend();
    const env = simulatedEnv(1, { autoAdvance: true });
    const storage = await open({ backend, env });
    await write(storage, "secret id");
    await write(storage, "other");
    // Damage that a repair sets aside is evidence, and erased as well.
    backend.flip(["events", "secret id", 4], 30);
    await storage.check({ repair: true });
    expect(backend.keys().filter(([space]) => space === "quarantine")).toHaveLength(1);
    expect(await storage.erase("secret id", { reclaim: false })).toMatchObject({ existed: true });
    expect(backend.keys().some(([, id]) => id === "secret id")).toBe(false);
    expect(everything(backend)).toContain("secret id");
    const again = await storage.erase("secret id");
    expect(again).toEqual({ existed: false, keys: 0 });
    expect(everything(backend)).not.toContain("secret id");
    expect(everything(backend)).toContain("other");
    const handle = await storage.load<NameSet>("other");
    expect(handle?.doc.names.size).toBe(4);
    await clean(storage);
  });

  const isSpace = (space: string) => (key: Key) => key[0] === space && key[1] === "d";
  const last = (backend: SimulatedBackend, space: string) => backend.keys().filter(isSpace(space)).at(-1)!;
  const flipAll = (backend: SimulatedBackend, ...spaces: string[]) => {
    for (const key of backend.keys()) if (key[1] === "d" && spaces.includes(key[0])) backend.flip(key, 12);
  };
  const damages: Record<string, (backend: SimulatedBackend) => void> = {
    "the last batch": (backend) => backend.flip(last(backend, "events"), 12),
    "the last batch is gone": (backend) => backend.deleteRaw(last(backend, "events")),
    "all but meta": (backend) => flipAll(backend, "events", "snapshot", "tags"),
    meta: (backend) => flipAll(backend, "meta"),
    "meta is gone": (backend) => backend.deleteRaw(["meta", "d"]),
    everything: (backend) => flipAll(backend, "events", "snapshot", "tags", "tagged", "meta"),
  };
  for (const [what, damage] of Object.entries(damages)) {
    test(`[MV53] a document goes though it is damaged, and its clocks are not used again: ${what}`, async () => {
      for (const [how, isRepaired] of [
        ["delete", false],
        ["erase", false],
        ["delete", true],
        ["erase", true],
      ] as const) {
        const backend = simulatedBackend();
        const env = simulatedEnv(1, { autoAdvance: true });
        const first = await open({ backend, env });
        await write(first, "d");
        await first.tag("d", "kept");
        const { clock } = await first.append("d", [naming("e"), naming("f")]);
        await first.compact("d");
        await write(first, "other");
        await first.close();
        damage(backend);
        const storage = await open({ backend, env });
        if (isRepaired) await storage.check({ repair: true });
        await storage[how]("d");
        expect(await storage.load("d")).toBe(undefined);
        const left = backend.keys().filter(([space, id]) => id === "d" && space !== "quarantine");
        expect(left).toEqual(how === "delete" ? [["meta", "d"]] : []);
        if (how === "erase")
          expect(
            everything(backend)
              .split("\n")
              .some((line) => / d$|\/d[/ ]/.test(line)),
          ).toBe(false);
        const recreated = await storage.open<NameSet>("d", { recreate: true });
        expect(recreated.clock).toBeGreaterThanOrEqual(clock);
        recreated.change((set) => void set.made.push(naming("new")));
        await recreated.save();
        await recreated.close();
        expect([...(await storage.load<NameSet>("d"))!.doc.names.keys()]).toEqual(["new"]);
        expect((await storage.load<NameSet>("other"))?.doc.names.size).toBe(4);
        await clean(storage);
      }
    });
  }

  const nothingTells: Record<string, (backend: SimulatedBackend, storage: Storage) => Promise<void>> = {
    "a damaged tombstone": async (backend, storage) => {
      await storage.delete("d");
      flipAll(backend, "meta");
    },
    "a damaged beginning": async (backend, storage) => {
      await storage.delete("d");
      await storage.open("d", { recreate: true });
      flipAll(backend, "meta");
    },
    "a snapshot, and no batch": async (backend) => {
      for (const key of backend.keys()) if (key[0] === "events" && key[1] === "d") backend.deleteRaw(key);
    },
    "a snapshot, and neither batch nor meta": async (backend) => {
      for (const key of backend.keys())
        if (["events", "meta"].includes(key[0]) && key[1] === "d") backend.deleteRaw(key);
    },
    "the tombstone of an earlier life, in the place of meta": async (backend, storage) => {
      await storage.delete("d");
      const [before] = backend.dump().filter(({ key }) => key[0] === "meta" && key[1] === "d");
      await storage.open("d", { recreate: true });
      await storage.append("d", [naming("later")]);
      backend.putRaw(before!.key, before!.value);
    },
  };
  for (const [what, leave] of Object.entries(nothingTells)) {
    test(`[MV53] nor where nothing tells which these were: ${what}`, async () => {
      for (const how of ["delete", "erase"] as const) {
        const [backend, env] = [simulatedBackend(), simulatedEnv(1, { autoAdvance: true })];
        const [before, copy] = [await open({ backend, env }), await open({ env })];
        await write(before, "d");
        let { clock } = await before.append("d", [naming("e"), naming("f")]);
        await before.copyTo(copy);
        await leave(backend, before);
        for (const [space, id, seq] of backend.keys())
          if (space === "events" && id === "d") clock = Math.max(clock, seq! + 1);
        await before.close();
        const storage = await open({ backend, env, limits: { batchEventsMax: 1 } });
        const removed = await storage[how]("d");
        expect(typeof removed === "boolean" ? removed : removed.existed).toBe(true);
        expect(backend.keys().filter(([, id]) => id === "d")).toHaveLength(how === "delete" ? 1 : 0);
        expect(await storage.copyTo(copy)).toMatchObject({ failures: [] });
        expect(await copy.load("d")).toBe(undefined);
        expect((await storage.open("d", { recreate: true })).clock).toBeGreaterThanOrEqual(clock);
        await storage.append("d", [naming("new")]);
        expect(await storage.copyTo(copy)).toMatchObject({ copied: 1, failures: [] });
        expect([...(await copy.load<NameSet>("d"))!.doc.names.keys()]).toEqual(["new"]);
        for (const each of [storage, copy]) await clean(each);
      }
    });
  }

  /** Its clock lies before a snapshot of it. */
  async function fallen() {
    const backend = simulatedBackend();
    const first = await open({ backend });
    await write(first, "d");
    await first.close();
    const [at] = backend.keys().filter(isSpace("snapshot")).slice(-1);
    backend.flip(at!, 12);
    for (const key of [
      ["meta", "d"],
      ["events", "d", 4],
      ["events", "d", 5],
    ] as const)
      backend.deleteRaw(key);
    const storage = await open({ backend });
    expect((await storage.check({ repair: true })).clean).toBe(true);
    expect((await storage.info("d"))!.clock).toBeLessThan(at![2]!);
    const left = () => backend.keys().filter(([space, id]) => id === "d" && space !== "quarantine");
    return { backend, storage, left };
  }

  test("[MV53] nothing of it is left behind the clock to which a repair has let it fall", async () => {
    const { storage, left } = await fallen();
    expect(await storage.delete("d")).toBe(true);
    expect(left()).toEqual([["meta", "d"]]);
    await clean(storage);
  });

  test("[MV55] nor by a deletion that died, and was repeated", async () => {
    for (let died = true, operation = 0; died; operation++) {
      const { backend, storage, left } = await fallen();
      backend.crashAt(backend.operationCount + operation);
      died = await backend.untilCrash(() => storage.delete("d"));
      backend.heal();
      const again = died ? await open({ backend }) : storage;
      await again.delete("d");
      expect(left()).toEqual([["meta", "d"]]);
      await clean(again);
    }
  });

  test("[MV53] though appends that fail of the damage are before it", async () => {
    for (const how of ["delete", "erase"] as const) {
      const backend = simulatedBackend();
      const first = await open({ backend });
      await write(first, "d");
      await first.close();
      backend.flip(last(backend, "events"), 12);
      const storage = await open({ backend });
      const calls = [
        storage.append("d", [naming("x")]),
        storage[how]("d"),
        storage.append("d", [naming("y")]),
      ];
      const settled = await Promise.allSettled<unknown>(calls);
      const codes = settled.map((each) => (each.status === "rejected" ? each.reason.code : "done"));
      expect(codes).toEqual(["CORRUPT", "done", "DELETED"]);
      await clean(storage);
    }
  });

  test("[MV53] nor where the wall clock is behind the number of its events, and its meta is damaged", async () => {
    for (const how of ["delete", "erase"] as const) {
      const backend = simulatedBackend();
      const env = simulatedEnv(1, { autoAdvance: true });
      env.now = () => 1;
      const storage = await open({ backend, env });
      for (const name of "abcde") await storage.append("d", [naming(name)]);
      backend.flip(["meta", "d"], 20);
      await storage[how]("d");
      expect((await storage.open("d", { recreate: true })).clock).toBeGreaterThanOrEqual(5);
      await clean(storage);
    }
  });

  test("[MV11] an erased id is DELETED for every later use, and its clocks are not used again", async () => {
    const backend = simulatedBackend();
    const env = simulatedEnv(1, { autoAdvance: true });
    const storage = await open({ backend, env });
    const commitId = storage.newCommitId();
    await storage.append("d", [naming("x"), naming("y")], { commitId });
    await write(storage, "d");
    const handle = await storage.open<NameSet>("d");
    await storage.erase("d");
    for (const reopened of [storage, undefined]) {
      const now = reopened ?? (await open({ backend, env }));
      expect(await now.load("d")).toBe(undefined);
      expect(await now.info("d")).toBe(undefined);
      expect(await now.delete("d")).toBe(false);
      await expect(now.append("d", [naming("z")])).rejects.toEqual(code("DELETED"));
      await expect(now.open("d")).rejects.toEqual(code("DELETED"));
      if (reopened !== undefined) {
        handle.change((set) => void set.made.push(naming("stale")));
        await expect(handle.save()).rejects.toEqual(code("DELETED"));
        await handle.close({ discard: true });
        await now.close();
        continue;
      }
      const recreated = await now.open<NameSet>("d", { recreate: true });
      expect(recreated.clock).toBe(8);
      expect(recreated.doc.names.size).toBe(0);
      await expect(now.append("d", [naming("x"), naming("y")], { commitId })).rejects.toEqual(
        code("OUTCOME_UNKNOWN"),
      );
      expect(await now.append("d", [naming("z")])).toMatchObject({ clock: 9 });
      expect(backend.keys().filter(([space]) => space === "erased")).toEqual([]);
      await now.erase("d");
      await expect(now.append("d", [naming("z")])).rejects.toEqual(code("DELETED"));
      expect((await now.open("d", { recreate: true })).clock).toBe(9);
      await clean(now);
    }
  });

  test("[MV11] a deleted document can be erased, and one that never was leaves nothing", async () => {
    const backend = simulatedBackend();
    const storage = await open({ backend, env: simulatedEnv(1, { autoAdvance: true }) });
    await write(storage, "d");
    await storage.delete("d");
    expect(await storage.erase("d")).toMatchObject({ existed: false });
    await expect(storage.append("d", [naming("z")])).rejects.toEqual(code("DELETED"));
    expect(await storage.erase("nobody")).toEqual({ existed: false, keys: 0 });
    expect(backend.keys()).toHaveLength(1);
    expect(await storage.append("nobody", [naming("z")])).toMatchObject({ clock: 1 });
    await clean(storage);
  });

  test("[MV11] creations that race with erasing on a shared store never use a clock again", async () => {
    for (let round = 0; round < 20; round++) {
      const backend = simulatedBackend({ seed: round, exclusive: false });
      const env = (seed: number) => simulatedEnv(seed, { autoAdvance: true });
      const [one, two] = [await open({ backend, env: env(round) }), await open({ backend, env: env(99) })];
      await one.append("d", [naming("a"), naming("b"), naming("c")]);
      await two.info("d");
      const recreate = async () => {
        for (let turn = 0; turn < round; turn++) await new Promise((resolve) => setImmediate(resolve));
        await two.delete("d");
        await two.open("d", { recreate: true });
        return two.append("d", [naming("e")]);
      };
      const [, appended] = await Promise.allSettled([one.erase("d"), recreate()]);
      if (appended.status === "fulfilled") expect(appended.value.clock).toBeGreaterThan(3);
      else expect(["DELETED", "CORRUPT"]).toContain(appended.reason.code);
      if (appended.status === "rejected") expect(appended.reason.code).toBe("DELETED");
      await one.erase("d");
      expect((await one.open("d", { recreate: true })).clock).toBeGreaterThanOrEqual(3);
      expect((await one.check()).problems).toEqual([]);
      await one.close();
      await clean(two);
    }
  });

  test("[MV12] a damaged record of an erased id keeps the id from being used, and check reports it", async () => {
    const backend = simulatedBackend();
    const storage = await open({ backend, env: simulatedEnv(1, { autoAdvance: true }) });
    await write(storage, "d");
    await storage.erase("d");
    const [key] = backend.keys();
    backend.flip(key!, 12);
    await storage.recover();
    await expect(storage.append("d", [naming("z")])).rejects.toEqual(code("CORRUPT"));
    await expect(storage.open("d", { recreate: true })).rejects.toEqual(code("CORRUPT"));
    const report = await storage.check();
    expect(report.problems).toMatchObject([{ code: "meta-damaged", repaired: false }]);
    expect((await storage.check({ id: "d" })).clean).toBe(false);
    expect((await storage.check({ id: "e" })).clean).toBe(true);
    await storage.close();
  });

  test("[MV13] compact and compactAll reclaim what they trimmed, when they are told", async () => {
    const backend = simulatedBackend();
    const storage = await open({ backend, env: simulatedEnv(1, { autoAdvance: true }) });
    for (let n = 0; n < 20; n++) await storage.append("d", [naming(`n${n}`)]);
    await storage.compact("d");
    expect(backend.residue().length).toBeGreaterThan(0);
    await storage.compact("d", { dryRun: true, reclaim: true });
    expect(backend.residue().length).toBeGreaterThan(0);
    await storage.compact("d", { reclaim: true });
    expect(backend.residue()).toEqual([]);
    await storage.append("d", [naming("more")]);
    await storage.compactAll({ reclaim: true });
    expect(backend.residue()).toEqual([]);
    expect((await storage.load<NameSet>("d"))?.doc.names.size).toBe(21);
    backend.failNext("reclaim", "error");
    await expect(storage.compact("d", { reclaim: true })).rejects.toEqual(code("UNAVAILABLE"));
    await storage.compact("d", { reclaim: true });
    await clean(storage);
  });
});
