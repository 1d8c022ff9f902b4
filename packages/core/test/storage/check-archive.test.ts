/** Damage to the archive of a document: found, never shown, set aside, at the cost of the events in it alone. */

import { DocumentStorage, isCoppiceError, type Key, never } from "coppice";
import { type SimulatedBackend, seededRandom, simulatedBackend } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { changeMeta, metaOf, newer, repairsTo, reseal, stays } from "./check-tools.js";
import { event, type GrowSet, growSet, ID, idOf, keysIn, type Storage, valueAt } from "./check-workload.js";

const LIMITS = { snapshotPartBytesMax: 120, sweepKeysMax: 2, archiveSegmentBytesMax: 150 };

async function using<T>(backend: SimulatedBackend, run: (storage: Storage) => Promise<T>): Promise<T> {
  const storage: Storage = await DocumentStorage.open({
    backend,
    models: [growSet()],
    limits: LIMITS,
    snapshotPolicy: never,
    history: "archive",
  });
  try {
    return await run(storage);
  } finally {
    await storage.close();
  }
}

const COUNT = 12;
const ALL = Array.from({ length: COUNT }, (_, index) => `e${String(index).padStart(2, "0")}`);

/** Several segments, with info, chosen commit ids, and a held event. */
async function build(): Promise<SimulatedBackend> {
  const backend = simulatedBackend();
  await using(backend, async (storage) => {
    for (const [index, id] of ALL.entries()) {
      const parents = index === 2 ? ["nowhere"] : [];
      const options = index % 3 === 0 ? { commitId: storage.newCommitId(), info: { by: id } } : {};
      await storage.append(ID, [event(id, parents, `text ${index}`)], options);
      if (index % 2 === 1) await storage.compact(ID);
    }
  });
  expect(metaOf(backend).archive.length).toBeGreaterThan(1);
  return backend;
}

interface Read {
  readonly ids: readonly (string | undefined)[];
  readonly infos: readonly unknown[];
}

async function readAll(storage: Storage, from = 0): Promise<Read> {
  const ids: (string | undefined)[] = [];
  const infos: unknown[] = [];
  for await (const { event: stored, info } of storage.read(ID, { from })) {
    ids.push(stored === undefined ? undefined : idOf(stored as Uint8Array));
    infos.push(info);
  }
  return { ids, infos };
}

const failureOf = (storage: Storage): Promise<unknown> => readAll(storage).catch((error: unknown) => error);

async function shownAt(storage: Storage, at?: number): Promise<string[]> {
  const handle = (await storage.load<GrowSet>(ID, at === undefined ? {} : { at }))!;
  return [...handle.doc.items.keys(), ...handle.held.map((held) => idOf(held.event as Uint8Array))].sort();
}

describe("the archive of a document", () => {
  test("[HI22] any damaged byte or cut of an archive is found, never shown, and costs no other events", async () => {
    const backend = await build();
    const whole = backend.dump();
    const before = await using(backend, readAll);
    expect(before.ids).toEqual(ALL);
    await using(backend, async (storage) => expect((await storage.check()).problems).toEqual([]));
    const { archive } = metaOf(backend);
    const damages = whole
      .filter(({ key }) => key[0] === "archive")
      .flatMap(({ key, value }) =>
        Array.from(value, (_, at) => [
          { key, make: () => backend.flip(key, at, 1 << (at % 8)) },
          { key, make: () => backend.truncate(key, at) },
        ]).flat(),
      );
    let count = 0;
    for (const { key, make } of damages) {
      backend.restore(whole);
      make();
      await using(backend, async (storage) => {
        const failure = await readAll(storage).catch((error: unknown) => error);
        expect(isCoppiceError(failure, "CORRUPT")).toBe(true);
        if (count++ % 5 !== 0) return;
        expect(await shownAt(storage)).toEqual(ALL);
        expect((await storage.check()).problems.map(({ code }) => code)).toEqual(["archive-damaged"]);
        if (count % 4 !== 0) return;
        expect((await storage.check({ repair: true })).clean).toBe(true);
        const again = await storage.check();
        expect(again).toMatchObject({ problems: [], garbageKeys: 0 });
        expect(again.quarantined).toBeGreaterThan(0);
        const lost = archive.find(({ clock }) => clock === key[2])!;
        const gone = (index: number) => lost.clock <= index && index < lost.end;
        expect((await readAll(storage)).ids).toEqual(ALL.map((id, index) => (gone(index) ? undefined : id)));
        expect(await shownAt(storage)).toEqual(ALL);
        // And life goes on.
        await storage.append(ID, [event("x")]);
        await storage.append(ID, [event("y")]);
        await storage.compact(ID);
        const after = await readAll(storage);
        expect(after.ids).toEqual([...ALL.map((id, index) => (gone(index) ? undefined : id)), "x", "y"]);
        expect((await storage.check()).problems).toEqual([]);
      });
    }
    expect(count).toBeGreaterThan(400);
  });

  test("[HI22] a segment that vanished becomes a lost one, and versions that need it say so", async () => {
    const backend = await build();
    const [first] = metaOf(backend).archive;
    for (const key of keysIn(backend, "archive")) if (key[2] === first!.clock) backend.deleteRaw(key);
    await repairsTo(backend, "archive-damaged");
    await using(backend, async (storage) => {
      const handle = (await storage.load<GrowSet>(ID, { at: first!.end + 1 }))!;
      expect(handle.held.filter((held) => held.event === undefined)).toHaveLength(first!.end);
      expect(handle.doc.items.size).toBe(1);
    });
  });

  test("[HI23] when meta is lost the archive is found again by its records, a lost segment included", async () => {
    for (const alsoLost of [false, true]) {
      const backend = await build();
      const { archive } = metaOf(backend);
      if (alsoLost) {
        for (const key of keysIn(backend, "archive"))
          if (key[2] === archive[1]!.clock) backend.deleteRaw(key);
      }
      backend.flip(["meta", ID], 30);
      await using(backend, async (storage) => {
        expect((await storage.check({ repair: true })).clean).toBe(true);
        expect((await storage.check()).problems).toEqual([]);
        const gone = (index: number) => alsoLost && archive[1]!.clock <= index && index < archive[1]!.end;
        expect((await readAll(storage)).ids).toEqual(ALL.map((id, index) => (gone(index) ? undefined : id)));
        expect(await shownAt(storage)).toEqual(ALL);
      });
    }
  });

  test("[HI23] when meta and the last segment are lost, what is left of the archive still leads to the log", async () => {
    const backend = await build();
    const last = metaOf(backend).archive.at(-1)!;
    for (const key of keysIn(backend, "archive")) {
      if (key[2] === last.clock && key[3]! % 2 ** 16 === 0) backend.flip(key, 3);
    }
    backend.flip(["meta", ID], 30);
    await using(backend, async (storage) => {
      expect((await storage.check({ repair: true })).clean).toBe(true);
      expect((await storage.check()).problems).toEqual([]);
      const gone = (index: number) => last.clock <= index && index < last.end;
      const left = ALL.map((id, index) => (gone(index) ? undefined : id));
      expect((await readAll(storage)).ids).toEqual(left);
      for (let at = 1; at <= COUNT; at++) {
        const handle = (await storage.load<GrowSet>(ID, { at }))!;
        expect(handle.held.filter(({ event: lost }) => lost === undefined).length).toBeLessThanOrEqual(
          last.end - last.clock,
        );
      }
      await storage.append(ID, [event("x")]);
      await storage.compact(ID);
      expect((await readAll(storage)).ids).toEqual([...left, "x"]);
      expect((await storage.check()).problems).toEqual([]);
    });
  });

  test("[HI24] an archive that ends with another batch than the log goes on from is found and mended", async () => {
    const backend = await build();
    changeMeta(backend, (meta) => {
      const last = meta.archive.at(-1)!;
      return { ...meta, archive: [...meta.archive.slice(0, -1), { ...last, crc: (last.crc ^ 1) >>> 0 }] };
    });
    await using(backend, async (storage) =>
      expect(isCoppiceError(await failureOf(storage), "CORRUPT")).toBe(true),
    );
    await repairsTo(backend, "chain-broken");
    expect((await using(backend, readAll)).ids).toEqual(ALL);
  });

  test("[HI25] an archive that folds to other than the snapshots is found, and neither is given up", async () => {
    const backend = await build();
    const [old, changed] = ["e00|", "x00|"].map((id) => Buffer.from(id).toString("latin1")) as [
      string,
      string,
    ];
    let count = 0;
    for (const key of keysIn(backend, "archive")) {
      reseal(backend, key, (envelope) => {
        const text = Buffer.from(envelope.payload).toString("latin1");
        if (!text.includes(old)) return envelope;
        count++;
        return { ...envelope, payload: Uint8Array.from(Buffer.from(text.replace(old, changed), "latin1")) };
      });
    }
    expect(count).toBe(1);
    await stays(backend, "snapshot-differs", "snapshot-differs");
  });

  test("[HI24] whatever of a document with an archive is damaged or missing, what a repair calls clean is", async () => {
    let clean = 0;
    const whole = (await build()).dump();
    for (let seed = 1; seed <= 300; seed++) {
      const random = seededRandom(seed);
      const backend = simulatedBackend({ seed });
      backend.restore(whole);
      for (const { key, value } of whole) {
        if (random.int(5) > 0) continue;
        if (random.int(3) === 0) backend.deleteRaw(key);
        else backend.flip(key, random.int(value.length), 1 << random.int(8));
      }
      await using(backend, async (storage) => {
        const report = await storage.check({ repair: true });
        const again = await storage.check();
        expect(again.clean, `seed ${seed}`).toBe(report.clean);
        if (!report.clean || report.documents === 0) return;
        clean++;
        const info = (await storage.info(ID))!;
        const { ids } = await readAll(storage, info.archivedClock ?? info.oldestClock);
        const clocks = info.clock - (info.archivedClock ?? info.oldestClock);
        expect(ids.length, `seed ${seed}`).toBe(clocks);
        for (const id of ids) expect([...ALL, undefined]).toContain(id);
        await storage.append(ID, [event("x")]);
        await storage.append(ID, [event("y")]);
        await storage.compact(ID, { force: true });
        expect((await storage.check()).problems, `seed ${seed}`).toEqual([]);
      });
    }
    expect(clean).toBeGreaterThan(100);
  });

  test("[HI23] an archive of a newer format is left alone", async () => {
    const backend = await build();
    const [key] = keysIn(backend, "archive") as [Key];
    backend.putRaw(key, newer(key, valueAt(backend, key)));
    await stays(backend, "format-unsupported");
  });
});
