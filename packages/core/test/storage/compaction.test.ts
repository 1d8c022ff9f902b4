import {
  anyOf,
  type CompactOptions,
  type CompactResult,
  DocumentStorage,
  everyEvents,
  memoryBackend,
  never,
  onFrontierCollapse,
  type SnapshotStats,
  type StorageOptions,
  systemEnv,
  whenTailOutweighs,
} from "coppice";
import { simulatedBackend, simulatedEnv } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { add, type NameSet, nameSet, naming } from "../../../../test/support/oracle-model.js";

const models = [nameSet()] as const;
type Storage = DocumentStorage<typeof models>;
const open = (options: Partial<StorageOptions<typeof models>> = {}): Promise<Storage> =>
  DocumentStorage.open({ backend: memoryBackend(), models, snapshotPolicy: never, ...options });

const names = async (storage: Storage, id = "d") =>
  [...((await storage.load(id))?.doc.names.keys() ?? [])].sort();

async function fill(storage: Storage, count: number, prefix = "n", id = "d"): Promise<void> {
  for (let index = 0; index < count; index++) await storage.append(id, [naming(`${prefix}${index}`)]);
}

async function clean(storage: Storage): Promise<void> {
  expect((await storage.check()).problems).toEqual([]);
  await storage.close();
}

describe("compaction", () => {
  test("[ST10] compact keeps two snapshots and the events from the older on, and trims the rest", async () => {
    const storage = await open();
    await fill(storage, 20);
    const before = await names(storage);
    expect(await storage.compact("d")).toMatchObject({
      outcome: "compacted",
      clock: 20,
      eventsTrimmed: 19,
      held: 0,
    });
    expect(await storage.info("d")).toMatchObject({
      clock: 20,
      oldestClock: 19,
      snapshotClock: 20,
      eventsSinceSnapshot: 0,
    });
    expect(await names(storage)).toEqual(before);
    expect((await storage.compact("d")).outcome).toBe("nothing-to-do");
    await fill(storage, 5, "m");
    expect(await storage.compact("d")).toMatchObject({ outcome: "compacted", clock: 25, eventsTrimmed: 1 });
    expect(await storage.info("d")).toMatchObject({ clock: 25, oldestClock: 20, snapshotClock: 25 });
    expect(await names(storage)).toHaveLength(25);
    await clean(storage);
  });

  test("[ST10] what was trimmed is counted in events and bytes, as a dry run foretells, which changes nothing", async () => {
    const backend = simulatedBackend();
    const storage = await open({ backend });
    await fill(storage, 20);
    const dump = JSON.stringify(backend.dump());
    const foretold = await storage.compact("d", { dryRun: true });
    expect(JSON.stringify(backend.dump())).toBe(dump);
    const done = await storage.compact("d");
    expect([done.eventsTrimmed, done.bytesTrimmed]).toEqual([foretold.eventsTrimmed, foretold.bytesTrimmed]);
    expect(done.bytesTrimmed).toBeGreaterThan(19 * naming("n1").length);
    await clean(storage);
  });

  test("[ST10] where no older snapshot can be made any more, there is nothing to do", async () => {
    const storage = await open();
    await fill(storage, 5);
    await storage.compact("d");
    for (const prefix of ["m", "o"]) {
      await fill(storage, 5, prefix);
      const handle = (await storage.load("d"))!;
      await handle.snapshot();
      await handle.close();
    }
    // At the clock of the older snapshot: below it the log has events, and nothing to fold them onto.
    await storage.fork("d", "f", { at: 10 });
    expect(await storage.info("f")).toMatchObject({ clock: 10, snapshotClock: 10, oldestClock: 4 });
    expect(await storage.compact("f")).toMatchObject({ outcome: "nothing-to-do", clock: 10 });
    expect(await storage.compactAll({ prefix: "f" })).toMatchObject({ seen: 1, compacted: 0 });
    await fill(storage, 1, "p", "f");
    expect(await storage.compact("f")).toMatchObject({ outcome: "compacted", eventsTrimmed: 6 });
    expect(await names(storage, "f")).toHaveLength(11);
    await clean(storage);
  });

  test("[ST10] compacting what does not exist, or holds nothing, says so", async () => {
    const storage = await open();
    expect((await storage.compact("nobody")).outcome).toBe("not-found");
    await storage.open("empty");
    expect((await storage.compact("empty")).outcome).toBe("nothing-to-do");
    await fill(storage, 1, "n", "single");
    expect(await storage.compact("single")).toMatchObject({ outcome: "compacted", eventsTrimmed: 0 });
    expect(await names(storage, "single")).toEqual(["n0"]);
    await clean(storage);
  });

  test("[ST11] a snapshot that does not restore to what was folded is refused, and nothing is trimmed", async () => {
    const honest = nameSet();
    let lie = true;
    const liar = {
      ...honest,
      fold: (snapshot: Uint8Array | undefined, events: readonly Uint8Array[]) => {
        const folded = honest.fold(snapshot, events);
        return lie ? { ...folded, snapshot: honest.snapshot(honest.create()) } : folded;
      },
    };
    const storage = await DocumentStorage.open({
      backend: memoryBackend(),
      models: [liar],
      snapshotPolicy: never,
    });
    await fill(storage as Storage, 8);
    const result: CompactResult = await storage.compact("d");
    expect(result.outcome).toBe("refused");
    expect(result.reason).toContain("does not restore");
    expect(await storage.info("d")).toMatchObject({ oldestClock: 0, snapshotClock: undefined });
    expect(await names(storage as Storage)).toHaveLength(8);
    lie = false;
    expect((await storage.compact("d")).outcome).toBe("compacted");
    expect(await names(storage as Storage)).toHaveLength(8);
    await clean(storage as Storage);
  });

  test("[ST12] appends and loads go on while a compaction folds", async () => {
    let release = () => {};
    const folding = new Promise<void>((resolve) => {
      release = resolve;
    });
    const model = nameSet();
    const storage = await open({
      folder: {
        fold: async (_, snapshot, events) => {
          await folding;
          return model.fold(snapshot, events as Uint8Array[]);
        },
        versionOf: async (_, snapshot) => model.version(model.restore(snapshot)),
        close: async () => undefined,
      },
    });
    await fill(storage, 10);
    const compacting = storage.compact("d");
    await fill(storage, 5, "during");
    expect(await names(storage)).toHaveLength(15);
    release();
    expect(await compacting).toMatchObject({ outcome: "compacted" });
    expect(await names(storage)).toHaveLength(15);
    await clean(storage);
  });

  test("[ST13] events that are held are carried over a trim, offered again, and counted", async () => {
    const storage = await open();
    await storage.append("d", [naming("a"), naming("late child", ["parent"]), naming("!poison")]);
    await fill(storage, 10);
    expect((await storage.compact("d")).held).toBe(2);
    expect((await storage.info("d"))?.oldestClock).toBeGreaterThan(3);
    const loaded = await storage.load("d");
    expect(loaded?.held.map(({ clock, reason }) => [clock, reason !== undefined])).toEqual([
      [1, false],
      [2, true],
    ]);
    await storage.append("d", [naming("parent")]);
    expect(await names(storage)).toContain("late child");
    await fill(storage, 3, "more");
    expect((await storage.compact("d")).held).toBe(1);
    await fill(storage, 3, "again");
    expect((await storage.compact("d")).held).toBe(1);
    expect((await storage.load("d"))?.held.map(({ clock }) => clock)).toEqual([2]);
    expect(await names(storage)).toContain("late child");
    await clean(storage);
  });

  test("[ST79] a compaction tells each step as it begins, and a stop at any of them leaves the old state or the new", async () => {
    const told: string[] = [];
    const observer = { compact: ({ outcome }: { outcome: string }) => told.push(outcome) };
    const storage = await open({ observer });
    await fill(storage, 20);
    const steps: string[] = [];
    await storage.compact("d", { dryRun: true, onProgress: ({ phase }) => steps.push(phase) });
    // A dry run is no compaction: metrics would count what it did not trim.
    expect([steps.splice(0), told]).toEqual([["reading"], []]);
    const onProgress: CompactOptions["onProgress"] = ({ phase, events }) => steps.push(`${phase} ${events}`);
    await storage.compact("d", { onProgress });
    const once = ["folding", "staging", "verifying"];
    expect(steps[0]).toBe("reading 0");
    expect(steps.slice(1).map((step) => step.split(" ")[0])).toEqual([...once, ...once, "trimming"]);
    expect(steps.at(-1)).toBe("trimming 20");
    for (const stopAt of ["reading", "folding", "staging", "verifying", "trimming"]) {
      await fill(storage, 3, stopAt);
      const before = await storage.info("d");
      const stop = new AbortController();
      const stopping = storage.compact("d", {
        onProgress: ({ phase }) => phase === stopAt && stop.abort(new Error(`stopped at ${phase}`)),
        signal: stop.signal,
      });
      await expect(stopping).rejects.toThrow(`stopped at ${stopAt}`);
      expect(await storage.info("d")).toMatchObject({ snapshotClock: before?.snapshotClock });
      const thrown = storage.compact("d", {
        onProgress: ({ phase }) => {
          if (phase === stopAt) throw new Error("nobody listens");
        },
      });
      await expect(thrown).rejects.toThrow("nobody listens");
      expect((await storage.info("d"))?.oldestClock).toBe(before?.oldestClock);
    }
    expect(await names(storage)).toHaveLength(35);
    expect(await storage.compact("d")).toMatchObject({ outcome: "compacted", clock: 35 });
    expect(told).toEqual(["compacted", "compacted"]);
    await clean(storage);
  });

  test("[ST14] compactAll streams over documents, honours thresholds, and reports failures without stopping", async () => {
    const env = simulatedEnv(3);
    const storage = await open({ env });
    for (let index = 0; index < 8; index++) await fill(storage, index + 1, "n", `doc${index}`);
    await fill(storage, 4, "n", "other");
    const progress: number[] = [];
    const result = await storage.compactAll({
      prefix: "doc",
      minEvents: 4,
      onProgress: ({ seen }) => progress.push(seen),
    });
    expect(result).toMatchObject({ seen: 8, compacted: 5, failures: [], stopped: undefined });
    expect(progress).toHaveLength(8);
    expect((await storage.info("other"))?.snapshotClock).toBeUndefined();
    await fill(storage, 4, "m", "doc0");
    env.advance(1000);
    await fill(storage, 4, "m", "doc1");
    expect(await storage.compactAll({ idleMs: 500, minEvents: 4 })).toMatchObject({ compacted: 2 });
    expect((await storage.info("doc1"))?.snapshotClock).toBeUndefined();
    const stop = new AbortController();
    stop.abort();
    expect(await storage.compactAll({ signal: stop.signal })).toMatchObject({ seen: 0, stopped: "signal" });
    expect(await storage.compactAll({ budgetMs: -1 })).toMatchObject({ seen: 0, stopped: "budget" });
    await clean(storage);
  });

  test("[ST14] compactAll rests after each document while appends are on their way, and only then", async () => {
    const rests: number[] = [];
    const real = systemEnv();
    const delay: typeof real.delay = (ms, signal) => {
      rests.push(ms);
      return real.delay(ms, signal);
    };
    const env = { ...real, delay };
    const backend = simulatedBackend();
    const storage = await open({ env, backend });
    const stop = new AbortController();
    for (let index = 0; index < 4; index++) await fill(storage, 5, "n", `doc${index}`);
    expect(await storage.compactAll({ prefix: "doc" })).toMatchObject({ compacted: 4 });
    expect(rests).toEqual([]);
    const typing = Array.from({ length: 8 }, async (_, typist) => {
      for (let n = 0; !stop.signal.aborted; n++) await fill(storage, 1, `typed${typist}.${n}`, "typed");
    });
    const result = await storage.compactAll({ prefix: "doc", force: true });
    const aborted = new AbortController();
    const stopped = storage.compactAll({ prefix: "doc", force: true, signal: aborted.signal });
    aborted.abort();
    expect(await stopped).toMatchObject({ stopped: "signal", failures: [] });
    stop.abort();
    await Promise.all(typing);
    expect(result).toMatchObject({ compacted: 4, failures: [] });
    expect(rests.length).toBeGreaterThan(0);
    expect(rests.length).toBeLessThanOrEqual(8);
    await clean(storage);
  });

  test("[ST15] a damaged newest snapshot is passed over for the older one and its events, and compaction refuses", async () => {
    const backend = simulatedBackend();
    const told: boolean[] = [];
    const storage = await open({ backend, observer: { damage: ({ recovered }) => told.push(recovered) } });
    await fill(storage, 10);
    await storage.compact("d");
    const expected = await names(storage);
    for (const { key } of backend.dump()) if (key[0] === "snapshot" && key[2] === 10) backend.flip(key, 30);
    expect(await names(storage)).toEqual(expected);
    expect(told).toContain(true);
    await fill(storage, 1, "more");
    expect(await storage.compact("d")).toMatchObject({ outcome: "refused" });
    expect((await storage.check()).problems.map(({ code }) => code)).toContain("snapshot-damaged");
    await storage.check({ repair: true });
    expect((await storage.compact("d")).outcome).toBe("compacted");
    expect(await names(storage)).toHaveLength(11);
    await clean(storage);
  });

  test("[ST15] when no snapshot is usable and events were trimmed, a load is CORRUPT, never an empty document", async () => {
    const backend = simulatedBackend();
    const storage = await open({ backend });
    await fill(storage, 10);
    await storage.compact("d");
    for (const { key } of backend.dump()) if (key[0] === "snapshot") backend.flip(key, 30);
    await expect(storage.load("d")).rejects.toMatchObject({ code: "CORRUPT", kind: "corrupt" });
    await storage.close();
  });

  test("[ST16] a snapshot of a state format that the model no longer reads is passed over while its events are kept", async () => {
    const backend = memoryBackend();
    let storage = await open({ backend });
    await fill(storage, 6);
    const handle = await storage.load("d");
    await handle?.snapshot();
    await storage.close();
    const newer = [{ ...nameSet(), stateFormat: 2 }] as const;
    storage = await DocumentStorage.open({ backend, models: newer, snapshotPolicy: never });
    expect(await names(storage)).toHaveLength(6);
    await storage.close();
    storage = await open({ backend });
    await storage.compact("d");
    await storage.close();
    storage = await DocumentStorage.open({ backend, models: newer, snapshotPolicy: never });
    await expect(storage.load("d")).rejects.toMatchObject({ code: "STATE_FORMAT_UNSUPPORTED" });
    await storage.close();
    const reads = [{ ...nameSet(), stateFormat: 2, stateFormats: [1, 2] }] as const;
    storage = await DocumentStorage.open({ backend, models: reads, snapshotPolicy: never });
    expect(await names(storage)).toHaveLength(6);
    await clean(storage);
  });

  test("[ST16] a snapshot over the limit is refused with its size, and the log stays", async () => {
    const storage = await open({ limits: { snapshotBytesMax: 100 } });
    await fill(storage, 30);
    await expect(storage.compact("d")).rejects.toMatchObject({ code: "SNAPSHOT_TOO_LARGE" });
    expect(await names(storage)).toHaveLength(30);
    await clean(storage);
  });

  test("[ST16] a large snapshot is cut into parts, and compressed when that makes it smaller", async () => {
    const backend = simulatedBackend();
    const storage = await open({ backend, limits: { snapshotPartBytesMax: 512 } });
    await fill(storage, 600);
    await storage.compact("d");
    const parts = backend.dump().filter(({ key }) => key[0] === "snapshot").length;
    expect(parts).toBeGreaterThan(4);
    const info = await storage.info("d");
    const loaded = await storage.load("d");
    // The record holds version and peer version, which this model writes as the whole set.
    expect(info!.snapshotBytes).toBeLessThan(3 * nameSet().snapshot(loaded!.doc).length);
    expect(await names(storage)).toHaveLength(600);
    await clean(storage);
  });
});

describe("snapshot policies", () => {
  test("[ST17] bytes written per event stay flat as a single writer's document grows", async () => {
    let bytes = 0;
    const storage = await DocumentStorage.open({
      backend: memoryBackend(),
      models,
      observer: {
        commit: (commit) => {
          bytes += commit.bytes;
        },
      },
    });
    const handle = await storage.open("d");
    const perEvent: number[] = [];
    for (let thousand = 0; thousand < 10; thousand++) {
      const before = bytes;
      for (let index = 0; index < 1000; index++) {
        handle.change(add(`name ${thousand} ${index}`));
        await handle.save();
      }
      await storage.flush();
      perEvent.push((bytes - before) / 1000);
    }
    const [least, most] = [Math.min(...perEvent), Math.max(...perEvent)];
    expect(perEvent.at(-1)).toBeLessThan(2.5 * perEvent[0]!);
    expect(most).toBeLessThan(400);
    expect(least).toBeGreaterThan(50);
    expect((await storage.info("d"))?.snapshotClock).toBeGreaterThan(0);
    await clean(storage);
  });

  test("[ST78] a document of a model without a frontier never collapses, and is snapshotted by its events alone", async () => {
    const { frontierSize: _none, ...model } = nameSet();
    const asked: SnapshotStats[] = [];
    const taken: number[] = [];
    const policy = anyOf(onFrontierCollapse(), everyEvents(4));
    const storage = await DocumentStorage.open({
      backend: memoryBackend(),
      models: [model],
      snapshotPolicy: (stats) => {
        asked.push(stats);
        return policy(stats);
      },
      observer: { snapshot: ({ clock }) => taken.push(clock) },
    });
    const handle = await storage.open("d");
    handle.change(add("root"));
    handle.receive([naming("left", ["root"]), naming("right", ["root"])]);
    await handle.save();
    handle.change(add("merge", ["left", "right"]));
    expect(await handle.shouldSnapshot()).toBe(false);
    await handle.save();
    await storage.flush();
    expect(taken).toEqual([4]);
    handle.change(add("after", ["merge"]));
    await handle.save();
    expect(await handle.shouldSnapshot()).toBe(false);
    expect(asked.length).toBeGreaterThan(2);
    for (const stats of asked) {
      expect(stats).not.toHaveProperty("collapsed");
      expect(stats).not.toHaveProperty("frontierSize");
    }
    await handle.close();
    await storage.compact("d");
    expect((await storage.load<NameSet>("d"))!.doc.names.size).toBe(5);
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });

  test("[ST18] a collapse of the frontier snapshots once, at the edge", async () => {
    const taken: number[] = [];
    const storage = await open({
      snapshotPolicy: onFrontierCollapse({ minEvents: 2 }),
      observer: { snapshot: ({ clock }) => taken.push(clock) },
    });
    const handle = await storage.open("d");
    handle.change(add("root"));
    await handle.save();
    expect(await handle.shouldSnapshot()).toBe(false);
    handle.receive([naming("left", ["root"]), naming("right", ["root"])]);
    await handle.save();
    expect(await handle.shouldSnapshot()).toBe(false);
    handle.change(add("merge", ["left", "right"]));
    await handle.save();
    await storage.flush();
    expect(taken).toEqual([4]);
    handle.change(add("after", ["merge"]));
    await handle.save();
    handle.change(add("later", ["after"]));
    await handle.save();
    await storage.flush();
    expect(taken).toEqual([4]);
    expect(handle.eventsSinceSnapshot).toBe(2);
    await clean(storage);
  });

  test("[ST19] a crossed threshold snapshots a document that is only appended to, and trims nothing", async () => {
    const storage = await open({ snapshotPolicy: anyOf(everyEvents(25)) });
    await fill(storage, 30);
    await storage.flush();
    expect(await storage.info("d")).toMatchObject({ snapshotClock: 30, oldestClock: 0 });
    await clean(storage);
  });

  test("[ST19] whenTailOutweighs compares the tail with the snapshot", () => {
    const stats = { eventsSinceSnapshot: 1, msSinceSnapshot: 0, snapshotBytes: 100 };
    expect(whenTailOutweighs(0.5)({ ...stats, bytesSinceSnapshot: 49 })).toBe(false);
    expect(whenTailOutweighs(0.5)({ ...stats, bytesSinceSnapshot: 50 })).toBe(true);
  });

  test("[ST19] a background snapshot that fails is reported and harms nothing", async () => {
    const backend = simulatedBackend({ poisonsItself: false });
    const errors: unknown[] = [];
    const storage = await open({
      backend,
      snapshotPolicy: everyEvents(10),
      observer: { snapshot: ({ error }) => error && errors.push(error) },
    });
    await fill(storage, 9);
    await storage.flush();
    let commits = 0;
    const failing = storage.append("d", [naming("tenth")]);
    await failing;
    backend.failNext("commit", "unavailable");
    await storage.flush();
    commits = backend.commitCount;
    expect(errors).toHaveLength(1);
    expect(commits).toBeGreaterThan(0);
    backend.heal();
    await fill(storage, 1, "more");
    await storage.flush();
    expect((await storage.info("d"))?.snapshotClock).toBe(11);
    expect(await names(storage)).toHaveLength(11);
    await clean(storage);
  });
});
