/** Damage to the archive of a document: found, never shown, set aside, at the cost of the events in it alone. */

import { DocumentStorage, isCoppiceError, type Key, never } from "coppice";
import { type SimulatedBackend, simulatedBackend } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { metaOf, newer, repairsTo, stays } from "./check-tools.js";
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

async function readAll(storage: Storage): Promise<Read> {
  const ids: (string | undefined)[] = [];
  const infos: unknown[] = [];
  for await (const { event: stored, info } of storage.read(ID)) {
    ids.push(stored === undefined ? undefined : idOf(stored as Uint8Array));
    infos.push(info);
  }
  return { ids, infos };
}

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

  test("[HI23] an archive of a newer format is left alone", async () => {
    const backend = await build();
    const [key] = keysIn(backend, "archive") as [Key];
    backend.putRaw(key, newer(key, valueAt(backend, key)));
    await stays(backend, "format-unsupported");
  });
});
