import { DocumentStorage, type Key, memoryBackend, never, type StorageOptions } from "coppice";
import { type SimulatedBackend, seededRandom, simulatedBackend, simulatedEnv } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { nameOf } from "../../../../test/support/oracle.js";
import { type NameSet, nameSet, naming } from "../../../../test/support/oracle-model.js";

const models = [nameSet()] as const;
type Storage = DocumentStorage<typeof models>;
type Options = Partial<StorageOptions<typeof models>>;
const open = (options: Options = {}): Promise<Storage> =>
  DocumentStorage.open({ backend: memoryBackend(), models, snapshotPolicy: never, ...options });

async function fill(storage: Storage, count: number, prefix = "n"): Promise<void> {
  for (let index = 0; index < count; index++) await storage.append("d", [naming(`${prefix}${index}`)]);
}

async function fillAndSnapshot(storage: Storage, count: number, prefix: string): Promise<void> {
  await fill(storage, count, prefix);
  const handle = (await storage.load("d"))!;
  await handle.snapshot();
  await handle.close();
}

/** The first clock from which on all versions can be loaded. */
async function firstClock(storage: Storage): Promise<number> {
  for (let first = (await storage.info("d"))!.clock; ; first--) {
    const handle = first < 0 ? undefined : await storage.load("d", { at: first }).catch(() => undefined);
    if (handle === undefined) return first + 1;
    await handle.close();
  }
}

async function clean(storage: Storage): Promise<void> {
  const { problems, garbageKeys } = await storage.check();
  expect({ problems, garbageKeys }).toEqual({ problems: [], garbageKeys: 0 });
  await storage.close();
}

const keysIn = (backend: SimulatedBackend, space: string): Key[] =>
  backend
    .dump()
    .map(({ key }) => key)
    .filter((key) => key[0] === space);

async function namesAt(storage: Storage, at?: number | Date): Promise<string[]> {
  const handle = await storage.load<NameSet>("d", at === undefined ? {} : { at });
  return [...handle!.doc.names.keys(), ...handle!.held.map(({ event }) => nameOf(event))].sort();
}

describe("a storage with an archive", () => {
  test("[HI40] what a compaction trims can still be read, loaded at any clock, and found by date", async () => {
    const env = simulatedEnv(1);
    const storage = await open({ history: "archive", env });
    const names: string[] = [];
    const dates: Date[] = [];
    const commitId = storage.newCommitId();
    const write = async (...batch: string[]) => {
      env.advance(1000);
      const events = batch.map((name, index) => naming(name, index === 0 ? [] : ["never"]));
      const own = names.length === 0 ? { commitId, info: { who: "ada", n: 1 } } : {};
      await storage.append("d", events, own);
      for (const name of batch) {
        names.push(name);
        dates.push(new Date(env.now()));
      }
    };
    await write("a", "b");
    const before: unknown[] = [];
    for (let round = 0; round < 6; round++) {
      await write(`x${round}`);
      await write(`y${round}`, `z${round}`, `!${round}`);
      if (round === 0) for await (const entry of storage.read("d")) before.push({ ...entry, commitId: 0 });
      const result = await storage.compact("d");
      expect(result).toMatchObject({ outcome: "compacted", clock: names.length });
    }
    const info = (await storage.info("d"))!;
    expect(info).toMatchObject({ archivedClock: 0 });
    expect(info.oldestClock).toBeGreaterThan(15);
    expect(info.archiveBytes).toBeGreaterThan(0);
    const read: string[] = [];
    const first: unknown[] = [];
    for await (const entry of storage.read("d")) {
      read.push(nameOf(entry.event));
      if (first.length < before.length) first.push({ ...entry, commitId: 0 });
      if (entry.clock < 2) expect(entry.commitId).toEqual(commitId);
      else if (entry.clock < info.oldestClock) expect(entry.commitId).toBe(undefined);
    }
    expect(read).toEqual(names);
    expect(first).toEqual(before);
    for (let at = 0; at <= names.length; at++) {
      expect(await namesAt(storage, at)).toEqual(names.slice(0, at).sort());
    }
    for (const date of dates) {
      const expected = names.filter((_, index) => dates[index]! <= date).sort();
      expect(await namesAt(storage, new Date(date.getTime() + 999))).toEqual(expected);
    }
    for (const [from, to] of [
      [0, 1],
      [1, 3],
      [5, 11],
      [info.oldestClock - 2, info.oldestClock + 2],
    ] as const) {
      const part: string[] = [];
      for await (const { event } of storage.read("d", { from, to })) part.push(nameOf(event));
      expect(part).toEqual(names.slice(from, to));
    }
    await clean(storage);
  });

  test("[HI41] the history shows batches with info from the archive on, tags and segments beside them", async () => {
    const storage = await open({ history: "archive" });
    await storage.append("d", [naming("a"), naming("b")], { info: { who: "ada" } });
    await storage.tag("d", "one", 1);
    await fill(storage, 3);
    await storage.compact("d");
    const entries = [];
    for await (const entry of storage.history("d")) entries.push(entry);
    expect(entries.map(({ kind, clock }) => `${kind} ${clock}`)).toEqual([
      "archive 0",
      "batch 0",
      "tag 1",
      "batch 2",
      "batch 3",
      "snapshot 4",
      "batch 4",
      "snapshot 5",
    ]);
    expect(entries[0]).toMatchObject({ end: 4 });
    expect(entries[1]).toMatchObject({ info: { who: "ada" }, end: 2, commitId: undefined });
    expect(entries[2]).toMatchObject({ name: "one" });
    await clean(storage);
  });

  test("[HI42] segments are few and contiguous, small ones are merged, and a full one is left alone", async () => {
    const backend = simulatedBackend();
    const storage = await open({
      backend,
      history: "archive",
      limits: { archiveSegmentBytesMax: 3000, snapshotPartBytesMax: 500 },
    });
    let stages = new Set<number>();
    let kept = 0;
    for (let round = 0; round < 60; round++) {
      await fill(storage, 5, `round${round}-`);
      await storage.compact("d");
      const now = new Set(keysIn(backend, "archive").map((key) => Math.floor(key[3]! / 2 ** 16)));
      if ([...stages].some((stage) => now.has(stage))) kept++;
      stages = now;
    }
    expect(stages.size).toBeGreaterThan(1);
    expect(stages.size).toBeLessThan(12);
    expect(kept).toBeGreaterThan(30);
    expect(await namesAt(storage, 150)).toHaveLength(150);
    await clean(storage);
  });

  test("[HI43] one compaction may have a policy of its own, and says so when it is none", async () => {
    const storage = await open({ history: "drop" });
    for (const name of ["a", "b", "c"]) await storage.append("d", [naming(name)]);
    expect(await storage.compact("d", { history: "archive" })).toMatchObject({ eventsArchived: 2 });
    expect((await storage.load<NameSet>("d", { at: 1 }))?.doc.names.size).toBe(1);
    await storage.append("d", [naming("e")]);
    const kept = await storage.compactAll({ history: "archive", force: true });
    expect(kept).toMatchObject({ compacted: 1, eventsArchived: 1 });
    for (const wrong of ["some", { keepEvents: -1 }]) {
      const history = wrong as "drop";
      await expect(storage.compact("d", { history })).rejects.toMatchObject({ code: "ARGUMENT_INVALID" });
      await expect(storage.compactAll({ history })).rejects.toMatchObject({ code: "ARGUMENT_INVALID" });
    }
    await storage.append("d", [naming("f")]);
    await storage.compact("d");
    expect((await storage.info("d"))?.archivedClock).toBe(undefined);
    await clean(storage);
  });

  test("[HI43] drop, said in so many words, drops the archive; saying nothing goes on with it", async () => {
    const backend = simulatedBackend();
    const run = async (history: Options["history"], prefix: string) => {
      const storage = await open({ backend, ...(history === undefined ? {} : { history }) });
      await fill(storage, 4, prefix);
      const result = await storage.compact("d");
      const info = (await storage.info("d"))!;
      await clean(storage);
      return { result, info };
    };
    expect((await run(undefined, "a")).info.archivedClock).toBe(undefined);
    expect((await run("archive", "b")).info).toMatchObject({ archivedClock: 3, oldestClock: 4 });
    const silent = await run(undefined, "c");
    expect(silent.info).toMatchObject({ archivedClock: 3, oldestClock: 8 });
    expect(silent.result).toMatchObject({ eventsTrimmed: 4, eventsArchived: 4 });
    const dropped = await run("drop", "d");
    expect(dropped.info).toMatchObject({ archivedClock: undefined, oldestClock: 12, archiveBytes: 0 });
    expect(dropped.result).toMatchObject({ eventsTrimmed: 4, eventsArchived: 0 });
    expect(keysIn(backend, "archive")).toEqual([]);
    const storage = await open({ backend, history: "archive" });
    await storage.compact("d", { force: true });
    expect((await storage.compact("d", { dryRun: true })).outcome).toBe("nothing-to-do");
    await clean(storage);
    const drop = await open({ backend, history: "drop" });
    expect((await drop.compact("d")).outcome).toBe("nothing-to-do");
    await clean(drop);
  });

  test("[HI43] an archive that is to go goes also when nothing is new", async () => {
    const backend = simulatedBackend();
    const keeps = await open({ backend, history: "archive" });
    await fill(keeps, 4);
    await keeps.compact("d");
    await clean(keeps);
    const drops = await open({ backend, history: "drop" });
    expect((await drops.compact("d", { dryRun: true })).outcome).toBe("compacted");
    expect(keysIn(backend, "archive")).not.toEqual([]);
    expect((await drops.compact("d")).outcome).toBe("compacted");
    expect(keysIn(backend, "archive")).toEqual([]);
    await expect(drops.load("d", { at: 1 })).rejects.toMatchObject({ code: "TRIMMED" });
    await clean(drops);
  });

  test("[HI44] with both snapshots damaged a load replays the archive", async () => {
    const backend = simulatedBackend();
    const storage = await open({ backend, history: "archive" });
    await fill(storage, 6);
    await storage.compact("d");
    await fill(storage, 2, "m");
    const names = await namesAt(storage);
    for (const key of keysIn(backend, "snapshot")) backend.flip(key, 30);
    expect(await namesAt(storage)).toEqual(names);
    const report = await storage.check({ repair: true });
    expect(report.clean).toBe(true);
    expect(await namesAt(storage)).toEqual(names);
    await storage.compact("d");
    expect(await namesAt(storage)).toEqual(names);
    expect(await namesAt(storage, 3)).toEqual(["n0", "n1", "n2"]);
    await clean(storage);
  });

  test("[HI44] a part of the archive that is lost makes up for no snapshot: the load is CORRUPT, not incomplete", async () => {
    const backend = simulatedBackend();
    const storage = await open({ backend, history: "archive", limits: { archiveSegmentBytesMax: 60 } });
    await fill(storage, 9);
    await storage.compact("d");
    backend.flip(keysIn(backend, "archive")[0]!, 40);
    await storage.check({ repair: true });
    const dump = backend.dump();
    const names = await namesAt(storage);
    for (const key of keysIn(backend, "snapshot")) backend.flip(key, 30);
    await expect(storage.load("d")).rejects.toMatchObject({ code: "CORRUPT" });
    expect((await storage.check({ repair: true })).clean).toBe(false);
    await expect(storage.load("d")).rejects.toMatchObject({ code: "CORRUPT" });
    backend.restore(dump);
    expect(await namesAt(storage)).toEqual(names);
    await clean(storage);
  });

  test("[HI45] a deleted document has no archive, and its next life begins with none", async () => {
    const backend = simulatedBackend();
    const storage = await open({ backend, history: "archive" });
    await fill(storage, 6);
    await storage.compact("d");
    expect(keysIn(backend, "archive")).not.toEqual([]);
    await storage.delete("d");
    expect(keysIn(backend, "archive")).toEqual([]);
    await storage.open("d", { recreate: true });
    await fill(storage, 6, "m");
    await storage.compact("d");
    expect(await storage.info("d")).toMatchObject({ archivedClock: 6, oldestClock: 11 });
    expect(await namesAt(storage, 8)).toEqual(["m0", "m1"]);
    await clean(storage);
  });
});

test("[HI53] a fork has the archive of its original, also under an id that was used before", async () => {
  const backend = simulatedBackend();
  const storage = await open({ backend, history: "archive", limits: { archiveSegmentBytesMax: 150 } });
  await fill(storage, 12);
  await storage.tag("d", "five", 5);
  await storage.compact("d");
  await fill(storage, 3, "m");
  await storage.append("used", [naming("x"), naming("y")]);
  await storage.delete("used");
  for (const [id, shift] of [
    ["fresh", 0],
    ["used", 2],
  ] as const) {
    const fork = await storage.fork("d", id, { recreate: true });
    expect(fork).toMatchObject({ clock: 15 + shift });
    const names: string[] = [];
    for await (const { event, clock } of storage.read(id)) {
      expect(clock).toBe(names.length + shift);
      names.push(nameOf(event));
    }
    expect(names).toEqual(
      Array.from({ length: 15 }, (_, index) => (index < 12 ? `n${index}` : `m${index - 12}`)),
    );
    const past = await storage.load<NameSet>(id, { at: 7 + shift });
    expect(past!.doc.names.size).toBe(7);
    expect((await storage.load<NameSet>(id, { at: "five" }))!.clock).toBe(5 + shift);
    await storage.append(id, [naming("after"), naming("that")]);
    await storage.append(id, [naming("end")]);
    await storage.compact(id);
    expect(await storage.info(id)).toMatchObject({ archivedClock: shift });
    expect(await storage.fork("d", `past ${id}`, { at: 3 })).toMatchObject({ clock: 3 });
  }
  await storage.erase("fresh");
  expect(backend.keys().filter(([, id]) => id === "fresh")).toEqual([]);
  await clean(storage);
});

describe("a storage that keeps events", () => {
  test("[HI46] at least the last n events stay, can be loaded at each clock, and at most about twice as many", async () => {
    for (let seed = 0; seed < 20; seed++) {
      const random = seededRandom(seed);
      const keepEvents = 1 + random.int(20);
      const storage = await open({ history: { keepEvents } });
      const names: string[] = [];
      for (let round = 0; round < 25; round++) {
        for (let left = 1 + random.int(4); left > 0; left--) {
          const batch = Array.from({ length: 1 + random.int(4) }, (_, index) => `n${names.length + index}`);
          await storage.append(
            "d",
            batch.map((name) => naming(name)),
          );
          names.push(...batch);
        }
        const what = random.int(4);
        if (what === 0) continue;
        if (what === 1) {
          const handle = (await storage.load("d"))!;
          await handle.snapshot();
          await handle.close();
          continue;
        }
        await storage.compact("d", { force: random.int(3) === 0 });
        const { oldestClock, clock } = (await storage.info("d"))!;
        expect(clock - oldestClock).toBeGreaterThanOrEqual(Math.min(keepEvents, clock));
        expect(clock - oldestClock).toBeLessThanOrEqual(2 * keepEvents + 4);
        for (const at of [oldestClock, Math.max(oldestClock, clock - keepEvents), clock]) {
          expect(await namesAt(storage, at)).toEqual(names.slice(0, at).sort());
        }
      }
      await clean(storage);
    }
  });

  test("[HI46] what an earlier policy trimmed does not hinder it", async () => {
    const backend = simulatedBackend();
    const drops = await open({ backend, history: "drop" });
    await fill(drops, 10);
    await drops.compact("d");
    await fill(drops, 5, "m");
    const handle = (await drops.load("d"))!;
    await handle.snapshot();
    await handle.close();
    await clean(drops);
    const keeps = await open({ backend, history: { keepEvents: 8 } });
    await fill(keeps, 4, "o");
    await keeps.compact("d");
    expect(await keeps.info("d")).toMatchObject({ oldestClock: 10, clock: 19 });
    await fill(keeps, 10, "p");
    await keeps.compact("d");
    const { oldestClock } = (await keeps.info("d"))!;
    expect(oldestClock).toBeGreaterThan(10);
    expect(oldestClock).toBeLessThanOrEqual(21);
    expect(await namesAt(keeps, oldestClock)).toHaveLength(oldestClock);
    await clean(keeps);
  });

  test("[HI46] versions that can be loaded stay when the policy comes later, or is to keep more", async () => {
    for (const before of ["drop", { keepEvents: 3 }, "archive"] as const) {
      for (const snapshots of [false, true]) {
        const backend = simulatedBackend();
        const storage = await open({ backend, history: before });
        await fill(storage, 20, "a");
        await storage.compact("d");
        const { oldestClock } = (await storage.info("d"))!;
        expect(oldestClock).toBeGreaterThan(15);
        if (snapshots) for (const prefix of ["b", "c"]) await fillAndSnapshot(storage, 5, prefix);
        const first = await firstClock(storage);
        await clean(storage);
        const keeps = await open({ backend, history: { keepEvents: 30 } });
        for (let round = 0; round < 8; round++) {
          if (snapshots && round % 2 === 0) await fillAndSnapshot(keeps, 6, `r${round}.`);
          else {
            await fill(keeps, 6, `r${round}.`);
            await keeps.compact("d");
          }
          const { clock } = (await keeps.info("d"))!;
          const kept = Math.min(30, clock - first);
          expect(clock - (await firstClock(keeps))).toBeGreaterThanOrEqual(kept);
          for (const at of [clock - kept, clock - 1]) expect(await namesAt(keeps, at)).toHaveLength(at);
        }
        expect(await keeps.info("d")).toMatchObject({ archivedClock: undefined });
        await clean(keeps);
      }
    }
  });

  test("[HI46] an archive that has some of the last n events stays until the log has them all", async () => {
    const backend = simulatedBackend();
    const archives = await open({ backend, history: "archive" });
    await fill(archives, 20);
    await archives.compact("d");
    await clean(archives);
    const keeps = await open({ backend, history: { keepEvents: 8 } });
    expect((await keeps.compact("d")).outcome).toBe("nothing-to-do");
    await fill(keeps, 6, "m");
    await keeps.compact("d");
    expect(await keeps.info("d")).toMatchObject({ archivedClock: 0, oldestClock: 19, clock: 26 });
    await fill(keeps, 1, "o");
    await fillAndSnapshot(keeps, 3, "p");
    await keeps.compact("d");
    expect(await keeps.info("d")).toMatchObject({ archivedClock: undefined, oldestClock: 19, clock: 30 });
    for (let at = 19; at <= 30; at++) expect(await namesAt(keeps, at)).toHaveLength(at);
    expect(keysIn(backend, "archive")).toEqual([]);
    await clean(keeps);
  });

  test("[HI46] an archive stays while versions to be kept are replayed from a tag in it", async () => {
    const backend = simulatedBackend();
    const drops = await open({ backend, history: "drop" });
    await fill(drops, 10);
    await drops.compact("d");
    await fill(drops, 3, "m");
    await drops.tag("d", "t", 11);
    await clean(drops);
    const archives = await open({ backend, history: "archive" });
    await fillAndSnapshot(archives, 1, "x");
    await fill(archives, 6, "o");
    await archives.compact("d");
    for (const prefix of ["p", "q"]) await fillAndSnapshot(archives, 10, prefix);
    const { oldestClock: oldest, clock } = (await archives.info("d"))!;
    expect(await firstClock(archives)).toBe(11);
    await clean(archives);
    const keeps = await open({ backend, history: { keepEvents: clock - oldest - 1 } });
    expect((await keeps.compact("d")).outcome).toBe("nothing-to-do");
    for (let at = oldest; at <= clock; at++) expect(await namesAt(keeps, at)).toHaveLength(at);
    await fill(keeps, 20, "r");
    await keeps.compact("d");
    expect(await keeps.info("d")).toMatchObject({ archivedClock: undefined, oldestClock: clock - 10 });
    for (let at = clock - 10; at <= clock + 20; at++) expect(await namesAt(keeps, at)).toHaveLength(at);
    await clean(keeps);
  });

  test("[HI47] what is no policy of history is refused when the storage is opened", async () => {
    const wrong = ["keep", { keepEvents: -1 }, { keepEvents: 0.5 }, {}, 7] as unknown as "drop"[];
    for (const history of wrong) {
      await expect(open({ history })).rejects.toMatchObject({ code: "ARGUMENT_INVALID" });
    }
    await (await open({ history: { keepEvents: 0 } })).close();
  });
});
