/** What `check` finds, code by code, and what a repair makes of it. */

import { type Key, toHex } from "coppice";
import { type SimulatedBackend, seededRandom } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { seal, unseal } from "../../src/storage/envelope.js";
import { eventsKey, heldKey, metaKey, snapshotKey, unpackRecord } from "../../src/storage/meta.js";
import {
  changeMeta,
  check,
  codes,
  META,
  metaOf,
  named,
  newer,
  repair,
  repairsTo,
  rerecord,
  seen,
  stays,
} from "./check-tools.js";
import {
  build,
  contentsOf,
  EARLY,
  event,
  growSet,
  ID,
  keysIn,
  type Shape,
  using,
  valueAt,
} from "./check-workload.js";

const COVERED = EARLY.flat().length;

describe("a sound storage", () => {
  test.each<Shape>(["log", "snapshot", "compacted", "covered"])(
    "[CK2] a document of the shape %s is clean, and looking at it changes nothing",
    async (shape) => {
      const backend = await build(shape);
      const before = contentsOf(backend);
      const trimmed = shape === "log" || shape === "snapshot" ? 0 : COVERED - 1;
      const counts = { documents: 1, lost: [], garbageKeys: 0, quarantined: 0, clean: true };
      expect(await check(backend)).toEqual({ ...counts, problems: [], events: COVERED + 4 - trimmed });
      expect(contentsOf(backend)).toEqual(before);
      expect((await repair(backend)).problems).toEqual([]);
      expect(contentsOf(backend)).toEqual(before);
    },
  );

  test("[CK2] empty, deleted and recreated documents are clean, and an id that was never used is no document", async () => {
    const backend = await build("covered");
    await using(backend, async (storage) => {
      await storage.open("empty");
      await storage.append("gone", [event("a")]);
      await storage.delete("gone");
      await storage.append("again", [event("a"), event("b")]);
      await storage.compact("again");
      await storage.delete("again");
      await storage.open("again", { recreate: true });
      await storage.append("again", [event("a")]);
      expect(await storage.check()).toMatchObject({ documents: 3, problems: [], garbageKeys: 0 });
      const counts = { documents: 0, events: 0, garbageKeys: 0, quarantined: 0, clean: true };
      const nothing = { ...counts, problems: [], lost: [] };
      expect(await storage.check({ id: "never" })).toEqual(nothing);
      expect(await storage.check({ id: "gone" })).toEqual(nothing);
      expect(await storage.check({ id: "again" })).toEqual({ ...nothing, documents: 1, events: 1 });
    });
  });

  test("[CK2] large, compressed snapshots in many parts are clean", async () => {
    const backend = await build("log");
    await using(backend, async (storage) => {
      const { bytes } = seededRandom(7);
      const text = toHex(bytes(6000));
      await storage.append(ID, [event("large", [], text)]);
      await storage.append(ID, [event("more", [], text)]);
      await storage.compact(ID);
    });
    const { parts, bytes } = metaOf(backend).snapshot!;
    expect(parts * 24).toBeLessThan(bytes * 0.7);
    expect((await check(backend)).problems).toEqual([]);
    const before = await seen(backend);
    backend.flip(named(backend, "snapshot", 3), 30);
    await repairsTo(backend, "snapshot-damaged");
    expect(await seen(backend)).toEqual(before);
  });

  test("[CK3] documents are walked one by one, orphans last; a signal stops between two", async () => {
    const backend = await build("covered");
    const controller = new AbortController();
    await using(backend, async (storage) => {
      for (const id of ["a", "b", "z"]) await storage.append(id, [event("a")]);
      await storage.compact("b");
    });
    backend.deleteRaw(metaKey("a"));
    backend.deleteRaw(metaKey("b"));
    const done: number[] = [];
    await using(backend, async (storage) => {
      const report = await storage.check({ onProgress: (count) => done.push(count) });
      expect(report.problems.map(({ id, code }) => `${id} ${code}`)).toEqual([
        "a meta-missing",
        "b meta-missing",
      ]);
      expect(report.documents).toBe(4);
      expect(done).toEqual([1, 2, 3, 4]);
      const stop = (count: number) => count === 2 && controller.abort(new Error("enough"));
      const stopped = storage.check({ repair: true, onProgress: stop, signal: controller.signal });
      await expect(stopped).rejects.toThrow("enough");
      expect((await storage.check({ id: "a" })).problems).toHaveLength(1);
    });
  });

  test("[CK3] orphans are found among many documents, and behind one with many keys", async () => {
    const backend = await build("covered");
    const ids = Array.from({ length: 600 }, (_, index) => `n${String(index).padStart(3, "0")}`);
    const lost = ids.filter((_, index) => index % 50 === 7);
    await using(backend, async (storage) => {
      for (let index = 0; index < 300; index++) await storage.append("m", [event("a")]);
      for (const id of ids) await storage.append(id, [event("a")]);
    });
    for (const id of lost) backend.deleteRaw(metaKey(id));
    await using(backend, async (storage) => {
      const { problems, documents } = await storage.check();
      expect(problems.map(({ id, code }) => `${id} ${code}`)).toEqual(lost.map((id) => `${id} meta-missing`));
      expect(documents).toBe(602);
    });
  });
});

describe("snapshots", () => {
  test("[CK8] a damaged or missing newest snapshot gives way to the previous one", async () => {
    for (const make of [
      (backend: SimulatedBackend) => backend.flip(named(backend, "snapshot"), 12),
      (backend: SimulatedBackend) => backend.flip(named(backend, "snapshot", 2), 12),
    ]) {
      const backend = await build("covered");
      const before = await seen(backend);
      make(backend);
      await repairsTo(backend, "snapshot-damaged");
      expect(await seen(backend)).toEqual(before);
    }
    for (const part of [0, 1]) {
      const backend = await build("covered");
      const before = await seen(backend);
      backend.deleteRaw(named(backend, "snapshot", part));
      await repairsTo(backend, "snapshot-missing");
      expect(await seen(backend)).toEqual(before);
      expect(metaOf(backend).snapshot!.clock).toBe(COVERED);
      expect(metaOf(backend).previous).toBe(undefined);
    }
  });

  test("[CK8] a damaged previous snapshot is forgotten", async () => {
    const backend = await build("covered");
    const before = await seen(backend);
    backend.truncate(named(backend, "previous", 1), 9);
    await repairsTo(backend, "snapshot-damaged");
    expect(await seen(backend)).toEqual(before);
    expect(metaOf(backend).previous).toBe(undefined);
  });

  test("[CK8] with the whole log, both snapshots may go", async () => {
    const backend = await build("snapshot");
    const before = await seen(backend);
    for (const name of ["snapshot", "previous"] as const) backend.flip(named(backend, name), 12);
    const report = await repair(backend);
    expect(codes(report)).toEqual(["snapshot-damaged", "snapshot-damaged"]);
    expect(report.clean).toBe(true);
    expect((await check(backend)).problems).toEqual([]);
    expect(await seen(backend)).toEqual(before);
    expect(metaOf(backend)).toMatchObject({ snapshot: undefined, previous: undefined });
  });

  test("[CK8] without either snapshot a trimmed document stays as it is, and is never shown empty", async () => {
    const backend = await build("covered");
    for (const name of ["snapshot", "previous"] as const) backend.flip(named(backend, name), 12);
    await stays(backend, "snapshot-damaged", "snapshot-damaged");
    await expect(seen(backend)).rejects.toMatchObject({ code: "CORRUPT" });
  });

  test("[CK8] what a sweep has left makes up for both snapshots", async () => {
    const backend = await build("log");
    const whole = backend.dump().filter(({ key }) => key[0] === "events");
    const before = await seen(backend);
    await using(backend, (storage) => storage.compact(ID));
    for (const { key, value } of whole) if (key[2]! < metaOf(backend).oldest) backend.putRaw(key, value);
    expect(await check(backend)).toMatchObject({ clean: true, garbageKeys: 6 });
    for (const name of ["snapshot", "previous"] as const) backend.flip(named(backend, name), 12);
    expect((await repair(backend)).clean).toBe(true);
    expect((await check(backend)).problems).toEqual([]);
    expect(await seen(backend)).toEqual(before);
  });

  test("[CK9] a snapshot that does not restore to the version it records is damaged, whatever its checksums", async () => {
    const backend = await build("covered");
    const before = await seen(backend);
    const { parts } = metaOf(backend).snapshot!;
    rerecord(backend, "snapshot", (record) => ({ ...record, version: Uint8Array.of(1) }));
    await repairsTo(backend, "snapshot-damaged");
    expect(await seen(backend)).toEqual(before);
    expect(keysIn(backend, "quarantine")).toHaveLength(parts + 1);
  });

  test("[CK9] a snapshot that is not what the events fold to is forgotten when the log is whole", async () => {
    const backend = await build("snapshot");
    const before = (await seen(backend))!;
    rerecord(backend, "snapshot", (record) => ({ ...record, held: record.held.slice(0, 1) }));
    await repairsTo(backend, "snapshot-differs");
    expect(await seen(backend)).toEqual(before);
  });

  test("[CK9] a snapshot with other content than the events fold to is found by its version", async () => {
    const backend = await build("snapshot");
    const honest = growSet();
    const fold: typeof honest.fold = (snapshot, events) => ({
      ...honest.fold(snapshot, events),
      version: Uint8Array.of(1),
    });
    const report = await using(backend, (storage) => storage.check(), { models: [growSet({ fold })] });
    expect(codes(report)).toEqual(["snapshot-differs", "snapshot-differs"]);
  });

  test("[CK9] when two snapshots contradict each other and the log was trimmed, nothing tells which is right", async () => {
    const backend = await build("covered");
    rerecord(backend, "snapshot", (record) => ({ ...record, held: record.held.slice(0, 2) }));
    await stays(backend, "snapshot-differs");
  });

  test("[CK9] a snapshot that ends inside a batch is forgotten", async () => {
    const backend = await build("snapshot");
    const before = await seen(backend);
    const from = metaOf(backend).snapshot!;
    const to = { ...from, clock: 7 };
    for (let part = 0; part <= from.parts; part++) {
      const [source, target] = [snapshotKey(ID, from, part), snapshotKey(ID, to, part)];
      backend.putRaw(target, seal(target, unseal(source, valueAt(backend, source))).bytes);
      backend.deleteRaw(source);
    }
    changeMeta(backend, (meta) => ({ ...meta, snapshot: to }));
    await repairsTo(backend, "chain-broken");
    expect(await seen(backend)).toEqual(before);
  });
});

describe("held events", () => {
  test("[CK10] a held event that the log still has is put again from there", async () => {
    const backend = await build("snapshot");
    const before = await seen(backend);
    const value = valueAt(backend, heldKey(ID, 2));
    backend.flip(heldKey(ID, 2), 10);
    await repairsTo(backend, "held-damaged");
    backend.deleteRaw(heldKey(ID, 2));
    await repairsTo(backend, "held-missing");
    expect(unseal(heldKey(ID, 2), valueAt(backend, heldKey(ID, 2))).payload).toEqual(
      unseal(heldKey(ID, 2), value).payload,
    );
    expect(await seen(backend)).toEqual(before);
  });

  test("[CK10] a held event that is nowhere is lost: the snapshots say so, and a load names it", async () => {
    for (const make of [
      (backend: SimulatedBackend) => backend.flip(heldKey(ID, 2), 10),
      (backend: SimulatedBackend) => backend.deleteRaw(heldKey(ID, 2)),
    ]) {
      const backend = await build("covered");
      const before = (await seen(backend))!;
      make(backend);
      await expect(seen(backend)).rejects.toMatchObject({ code: "CORRUPT" });
      const code = keysIn(backend, "held").length === 2 ? "held-missing" : "held-damaged";
      await repairsTo(backend, code, 1);
      const after = (await seen(backend))!;
      expect(after.items).toEqual(before.items);
      expect(after.held[0]).toMatch(/^2 its stored bytes were damaged/);
      expect(after.held.slice(1)).toEqual(before.held.slice(1));
    }
  });

  test("[CK10] a damaged held record that no snapshot needs is garbage: it hinders nobody, and is swept", async () => {
    const backend = await build("covered");
    const before = await seen(backend);
    backend.putRaw(heldKey(ID, 1), Uint8Array.of(1));
    expect(await seen(backend)).toEqual(before);
    expect(await check(backend)).toMatchObject({ clean: true, problems: [], garbageKeys: 1 });
    expect(await repair(backend)).toMatchObject({ clean: true, garbageKeys: 1 });
    expect(keysIn(backend, "held").map((key) => key[2])).toEqual([2, 4, 8]);
  });
});

describe("meta", () => {
  test.each<Shape>(["log", "snapshot", "compacted", "covered"])(
    "[CK11] damaged or missing meta of a document of the shape %s is made again from its records",
    async (shape) => {
      for (const damaged of [true, false]) {
        const backend = await build(shape);
        const [before, meta] = [await seen(backend), metaOf(backend)];
        if (damaged) backend.flip(META, 20);
        else backend.deleteRaw(META);
        await repairsTo(backend, damaged ? "meta-damaged" : "meta-missing");
        expect(await seen(backend)).toEqual(before);
        const made = metaOf(backend);
        const { commitFloor, incarnation, repaired } = made;
        const changed = { commits: [], commitFloor, incarnation, repaired };
        expect(made).toEqual({ ...meta, ...changed, created: made.created });
        expect(incarnation).not.toBe(meta.incarnation);
        expect(repaired).toMatch(/^[0-9a-f]{8}$/);
        expect(keysIn(backend, "quarantine")).toHaveLength(damaged ? 1 : 0);
      }
    },
  );

  test("[CK11] commit ids from before stay unknown, never not written", async () => {
    const backend = await build("log");
    await using(backend, async (storage) => {
      const commitId = storage.newCommitId();
      await storage.append(ID, [event("once")], { commitId });
      await storage.append(ID, [event("later")], { commitId: storage.newCommitId() });
      await storage.compact(ID);
      backend.flip(META, 20);
      await storage.check({ repair: true });
      const again = storage.append(ID, [event("once")], { commitId });
      await expect(again).rejects.toMatchObject({ code: "OUTCOME_UNKNOWN" });
      const { duplicate } = await storage.append(ID, [event("new")], { commitId: storage.newCommitId() });
      expect(duplicate).toBe(false);
    });
  });

  test("[CK11] with damaged meta and a damaged newest snapshot the previous one is found", async () => {
    const backend = await build("covered");
    const before = await seen(backend);
    backend.flip(named(backend, "snapshot", 1), 8);
    backend.flip(META, 20);
    await repairsTo(backend, "meta-damaged");
    expect(await seen(backend)).toEqual(before);
  });

  test("[CK11] a snapshot alone is enough", async () => {
    const backend = await build("covered");
    const before = await seen(backend);
    for (const key of keysIn(backend, "events")) backend.deleteRaw(key);
    backend.flip(META, 20);
    await using(backend, (storage) => storage.check({ repair: true }));
    expect((await check(backend)).problems).toEqual([]);
    expect(await seen(backend)).toEqual(before);
    expect(metaOf(backend).oldest).toBe(metaOf(backend).snapshot!.clock - 1);
  });

  test("[CK11] a recreated document is made again without the events of the deleted one", async () => {
    const backend = await build("log");
    const garbage = backend.dump().filter(({ key }) => key[0] === "events");
    await using(backend, async (storage) => {
      await storage.delete(ID);
      await storage.open(ID, { recreate: true });
      await storage.append(ID, [event("fresh")]);
      await storage.append(ID, [event("air", ["fresh"])]);
    });
    const [before, meta] = [await seen(backend), metaOf(backend)];
    for (const { key, value } of garbage) backend.putRaw(key, value);
    backend.flip(META, 20);
    await repairsTo(backend, "meta-damaged");
    expect(await seen(backend)).toEqual(before);
    expect(metaOf(backend).base).toBe(meta.base);
  });

  test("[CK12] damaged meta stays when nothing tells where the document begins, or that there ever was one", async () => {
    const trimmed = await build("covered");
    for (const name of ["snapshot", "previous"] as const) trimmed.flip(named(trimmed, name), 12);
    trimmed.flip(META, 20);
    await stays(trimmed, "meta-damaged");
    const deleted = await build("log");
    await using(deleted, (storage) => storage.delete(ID));
    deleted.flip(META, 20);
    await stays(deleted, "meta-damaged");
    const held = await build("covered");
    for (const key of held.keys()) if (key[0] !== "held") held.deleteRaw(key);
    await stays(held, "meta-missing");
  });

  test("[CK12] without a snapshot only the one registered model can be the document's", async () => {
    const backend = await build("log");
    backend.flip(META, 20);
    const models = [growSet(), growSet({ name: "other" })] as const;
    const report = await using(backend, (storage) => storage.check({ repair: true }), { models });
    expect(codes(report)).toEqual(["meta-damaged"]);
    expect(report.clean).toBe(false);
  });
});

describe("what a repair does not touch", () => {
  test("[CK13] a value of a newer format freezes its document, whatever else is damaged", async () => {
    const keys = (backend: SimulatedBackend): Key[] => [
      META,
      eventsKey(ID, COVERED + 2),
      named(backend, "snapshot"),
      heldKey(ID, 2),
    ];
    for (let index = 0; index < 4; index++) {
      const backend = await build("covered");
      const key = keys(backend)[index]!;
      const other = named(backend, "previous", 1);
      backend.putRaw(key, newer(key, valueAt(backend, key)));
      await stays(backend, "format-unsupported");
      backend.flip(other, 9);
      expect((await repair(backend)).clean).toBe(false);
      expect(keysIn(backend, "quarantine")).toEqual([]);
    }
  });

  test("[CK13] meta is not made again beside a snapshot of a newer format", async () => {
    const backend = await build("covered");
    const key = named(backend, "snapshot");
    backend.putRaw(key, newer(key, valueAt(backend, key)));
    backend.flip(META, 20);
    await stays(backend, "meta-damaged");
  });

  test("[CK13] a document whose model was not given stays as it is", async () => {
    const backend = await build("covered");
    backend.flip(named(backend, "previous", 1), 9);
    const before = contentsOf(backend);
    const models = [growSet({ name: "other" })] as const;
    const report = await using(backend, (storage) => storage.check({ repair: true }), { models });
    expect(codes(report).sort()).toEqual(["model-unknown", "snapshot-damaged"]);
    expect(report.problems.some((problem) => problem.repaired)).toBe(false);
    expect(contentsOf(backend)).toEqual(before);
  });

  test("[CK13] a state format that the model does not read is a problem only where nothing makes up for it", async () => {
    const models = [growSet({ stateFormat: 2 })] as const;
    const run = (backend: SimulatedBackend) =>
      using(backend, (storage) => storage.check({ repair: true }), { models });
    const trimmed = await build("covered");
    const before = contentsOf(trimmed);
    expect(codes(await run(trimmed))).toEqual(["state-format-unsupported"]);
    expect(contentsOf(trimmed)).toEqual(before);
    expect(await run(await build("snapshot"))).toMatchObject({ clean: true, problems: [] });
  });
});

describe("garbage and quarantine", () => {
  test("[CK14] garbage is counted, no problem, and swept by a repair; never beside an open problem", async () => {
    const backend = await build("log");
    const garbage = backend.dump().filter(({ key }) => key[0] === "events");
    await using(backend, (storage) => storage.compact(ID));
    for (const { key, value } of garbage.slice(0, 4)) backend.putRaw(key, value);
    backend.putRaw(["snapshot", ID, 3, 5], Uint8Array.of(1));
    expect(await check(backend)).toMatchObject({ clean: true, garbageKeys: 5 });
    const stored = backend.dump();
    for (const name of ["snapshot", "previous"] as const) backend.flip(named(backend, name), 12);
    backend.deleteRaw(eventsKey(ID, 3));
    backend.deleteRaw(eventsKey(ID, 0));
    expect((await stays(backend, "snapshot-damaged", "snapshot-damaged")).garbageKeys).toBe(3);
    backend.restore(stored);
    expect(await repair(backend)).toMatchObject({ clean: true, garbageKeys: 5 });
    expect(await check(backend)).toMatchObject({ clean: true, garbageKeys: 0 });
  });

  test("[CK15] what is set aside names its key, its bytes, why and when; the observer hears of it", async () => {
    const backend = await build("compacted");
    const told: unknown[] = [];
    const keys = [eventsKey(ID, COVERED), eventsKey(ID, COVERED + 2), named(backend, "previous", 1)];
    for (const key of keys) backend.flip(key, 9);
    const values = keys.map((key) => valueAt(backend, key));
    const observer = { quarantine: (fact: unknown) => told.push(fact) };
    await using(backend, (storage) => storage.check({ repair: true }), { observer });
    const quarantined = keysIn(backend, "quarantine");
    expect(quarantined.map((key) => key[2])).toEqual([0, 1, 2]);
    const records = quarantined.map((key) => unpackRecord(unseal(key, valueAt(backend, key)).payload));
    expect(records).toEqual(
      keys.map((key, index) => ({
        key: [...key],
        value: expect.toSatisfy((bytes: Uint8Array) => toHex(bytes) === toHex(values[index]!)),
        why: expect.stringContaining(index < 2 ? "checksum" : "damaged"),
        time: expect.any(Number),
      })),
    );
    expect(told).toEqual(
      keys.map((key, index) => ({
        id: ID,
        key: [...key],
        quarantined: ["quarantine", ID, index],
        bytes: values[index]!.length,
      })),
    );
    backend.flip(eventsKey(ID, COVERED + 3), 9);
    expect((await repair(backend)).quarantined).toBe(4);
  });
});
