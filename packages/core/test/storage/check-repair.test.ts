/** Repairs that crash, that meet writers, and that have much to do at once. */

import type { Key } from "coppice";
import { type SimulatedBackend, seededRandom, simulatedBackend } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { unseal } from "../../src/storage/envelope.js";
import { LOST_REASON } from "../../src/storage/loader.js";
import { eventsKey, heldKey, unpackRecord } from "../../src/storage/meta.js";
import { changeMeta, check, META, metaOf, named, repair, seen } from "./check-tools.js";
import {
  build,
  EARLY,
  event,
  ID,
  idOf,
  keysIn,
  LATE,
  look,
  openStorage,
  type Shape,
  type Storage,
  using,
  valueAt,
} from "./check-workload.js";

const COVERED = EARLY.flat().length;

/** Something of every kind at once, as far as the shape allows and a repair can cope. */
function damageMuch(backend: SimulatedBackend, shape: Shape): Key[] {
  const damaged = [eventsKey(ID, COVERED + 2)];
  if (shape !== "log") damaged.push(named(backend, "snapshot", 1));
  if (shape === "compacted" || shape === "covered") damaged.push(heldKey(ID, 2));
  if (shape === "snapshot") damaged.push(named(backend, "previous"));
  for (const key of damaged) backend.flip(key, 9);
  if (shape === "compacted") backend.flip(META, 30);
  backend.putRaw(eventsKey(ID, 2 ** 40), Uint8Array.of(7));
  backend.deleteRaw(eventsKey(ID, COVERED));
  return damaged;
}

describe("a crash during a repair", () => {
  test.each<Shape>(["log", "snapshot", "compacted", "covered"])(
    "[CK17] at whatever operation, the next repair of a document of the shape %s ends as an undisturbed one",
    async (shape) => {
      const backend = await build(shape);
      const damaged = damageMuch(backend, shape);
      const stored = backend.dump();
      const start = backend.operationCount;
      await repair(backend);
      const operations = backend.operationCount - start;
      const expected = await seen(backend);
      const values = damaged.map((key) => key.join("/")).sort();
      for (let index = 0; index < operations; index++) {
        backend.restore(stored);
        backend.crashAt(backend.operationCount + index);
        await backend.untilCrash(() => repair(backend));
        backend.crash();
        backend.heal();
        const report = await repair(backend);
        expect(report.clean, `crash at operation ${index}`).toBe(true);
        expect((await check(backend)).problems).toEqual([]);
        expect(await seen(backend)).toEqual(expected);
        const aside = keysIn(backend, "quarantine").map((key) => {
          const record = unpackRecord(unseal(key, valueAt(backend, key)).payload) as { key: unknown[] };
          return record.key.join("/");
        });
        expect(new Set(aside).size, "nothing is set aside twice").toBe(aside.length);
        for (const value of values) expect(aside).toContain(value);
      }
      expect(operations).toBeGreaterThan(20);
    },
  );

  test("[CK17] a commit that fails, or whose outcome is unknown, is reported, and the next repair finishes", async () => {
    for (const fault of ["unavailable", "unknown-lost", "unknown-applied"] as const) {
      for (let commits = 0; commits < 4; commits++) {
        const backend = await build("covered");
        damageMuch(backend, "covered");
        let left = commits;
        const failing = simulatedBackend({
          faults: ({ kind }) => (kind === "commit" && left-- === 0 ? fault : undefined),
        });
        failing.restore(backend.dump());
        const code = fault === "unavailable" ? "UNAVAILABLE" : "OUTCOME_UNKNOWN";
        await expect(repair(failing)).rejects.toMatchObject({ code });
        expect((await repair(failing)).clean).toBe(true);
        expect((await check(failing)).problems).toEqual([]);
      }
    }
  });
});

describe("much damage", () => {
  test("[CK18] whatever values are damaged or missing, a repair ends clean or leaves the document alone", async () => {
    const outcomes = { clean: 0, left: 0 };
    for (let seed = 1; seed <= 250; seed++) {
      const random = seededRandom(seed);
      const shape = random.pick<Shape>(["log", "snapshot", "compacted", "covered"]);
      const backend = await build(shape);
      const lostBytes = new Set<string>();
      for (const { key } of backend.dump()) {
        if (random.int(4) > 0) continue;
        lostBytes.add(key.join("/"));
        const { length } = valueAt(backend, key);
        if (random.int(3) === 0) backend.deleteRaw(key);
        else if (random.int(2) === 0) backend.flip(key, random.int(length), 1 << random.int(8));
        else backend.truncate(key, random.int(length));
      }
      try {
        outcomes[await outcomeOf(backend, lostBytes)]++;
      } catch (error) {
        throw new Error(`seed ${seed}, shape ${shape}, damaged ${[...lostBytes].join(" ")}`, {
          cause: error,
        });
      }
    }
    expect(outcomes.clean).toBeGreaterThan(100);
    expect(outcomes.left).toBeGreaterThan(10);
  });
});

/** Verifies what holds after any repair. */
async function outcomeOf(
  backend: SimulatedBackend,
  lostBytes: ReadonlySet<string>,
): Promise<"clean" | "left"> {
  const report = await repair(backend);
  const again = await check(backend);
  expect(again.clean).toBe(report.clean);
  if (!report.clean) {
    await expect(seen(backend)).rejects.toMatchObject({ kind: "corrupt" });
    return "left";
  }
  const after = await seen(backend);
  if (after === undefined) {
    // Nothing at all is left of it, so nothing tells that there ever was a document.
    expect(backend.keys().filter((key) => key[0] !== "quarantine" && key[0] !== "held")).toEqual([]);
    return "clean";
  }
  const reported = after.held.filter((held) => held.endsWith(LOST_REASON));
  const shown = new Set([...after.items.map((item) => item.split("=")[0]), ...after.heldIds]);
  let clock = 0;
  for (const events of [...EARLY, ...LATE]) {
    const intact = backend.keys().some((key) => key[0] === "events" && key[2] === clock);
    if (intact && !lostBytes.has(`events/${ID}/${clock}`)) {
      for (const one of events) expect(shown, `event ${idOf(one)}`).toContain(idOf(one));
    }
    clock += events.length;
  }
  // What is neither shown nor waiting is named as lost, up to the head that the repair could tell.
  expect(after.items.length + after.heldIds.length + reported.length).toBe(after.clock);
  await using(backend, async (storage) => {
    await storage.append(ID, [event("after")]);
    await storage.compact(ID);
    expect((await storage.check()).problems).toEqual([]);
    expect((await look(storage))!.items).toContain("after=");
  });
  return "clean";
}

describe("beside writers", () => {
  /** Each operation happens at once or some turns later, so that calls of different storages interleave. */
  function shared(seed: number): SimulatedBackend {
    const random = seededRandom(seed);
    const schedule = async () => {
      for (let turns = random.int(4); turns > 2; turns--)
        await new Promise((resolve) => setImmediate(resolve));
    };
    return simulatedBackend({ exclusive: false, schedule });
  }

  async function write(storage: Storage, name: string, deletes: boolean): Promise<void> {
    for (let count = 0; count < 40; count++) {
      await storage.append(ID, [event(`${name}${count}`)]).catch(ignoreDeleted);
      if (count % 5 === 4) await storage.compact(ID).catch(ignoreDeleted);
      if (!deletes || count % 20 !== 19) continue;
      await storage.delete(ID);
      await (await storage.open(ID, { recreate: true })).close();
    }
  }

  test("[CK16] checks and repairs beside appends, compactions and deletions find nothing wrong", async () => {
    for (let seed = 1; seed <= 6; seed++) {
      const backend = shared(seed);
      const storages = [await openStorage(backend), await openStorage(backend), await openStorage(backend)];
      const [first, second, checker] = storages as [Storage, Storage, Storage];
      let running = true;
      const works = Promise.all([write(first, "a", true), write(second, "b", false)]).finally(() => {
        running = false;
      });
      let checks = 0;
      while (running) {
        const report = await checker.check({ repair: checks++ % 3 === 2 });
        expect(report.problems, `seed ${seed}`).toEqual([]);
        await new Promise((resolve) => setImmediate(resolve));
      }
      await works;
      expect(checks).toBeGreaterThan(5);
      for (const storage of storages) await storage.close();
    }
  });

  test("[CK16] two repairs at once repair once", async () => {
    for (let seed = 1; seed <= 20; seed++) {
      const built = await build("covered");
      const damaged = damageMuch(built, "covered");
      const backend = shared(seed);
      backend.restore(built.dump());
      const storages = [await openStorage(backend), await openStorage(backend)];
      const reports = await Promise.all(storages.map((storage) => storage.check({ repair: true })));
      for (const { clean } of reports) expect(clean, `seed ${seed}`).toBe(true);
      expect(keysIn(backend, "quarantine")).toHaveLength(damaged.length + 1);
      expect((await storages[0]!.check()).problems).toEqual([]);
      for (const storage of storages) await storage.close();
    }
  });

  test("[CK16] what changes just before a commit of a repair is never overwritten", async () => {
    const built = await build("log");
    const key = eventsKey(ID, COVERED);
    const intact = valueAt(built, key);
    built.flip(key, 9);
    const meddle = async (change: (backend: SimulatedBackend) => void) => {
      let left = 1;
      const backend: SimulatedBackend = simulatedBackend({
        onOperation: ({ kind }) => {
          if (kind === "commit" && left-- === 1) change(backend);
        },
      });
      backend.restore(built.dump());
      expect((await repair(backend)).clean).toBe(true);
      expect(left).toBeLessThan(1);
      return backend;
    };
    // The damaged value reads well again.
    const healed = await meddle((backend) => backend.putRaw(key, intact));
    expect(keysIn(healed, "quarantine")).toEqual([]);
    expect(valueAt(healed, key)).toEqual(intact);
    // Somebody else deletes the document.
    const deleted = { clock: COVERED + 4, time: 1 };
    const gone = await meddle((backend) => changeMeta(backend, (meta) => ({ ...meta, deleted })));
    expect(metaOf(gone).deleted).toEqual(deleted);
    // Somebody else sets something aside.
    const other = await meddle((backend) => backend.putRaw(["quarantine", ID, 0], Uint8Array.of(1)));
    expect(valueAt(other, ["quarantine", ID, 0])).toEqual(Uint8Array.of(1));
    expect(keysIn(other, "quarantine")).toHaveLength(2);
  });

  test("[ST3] a state from before a repair is another one after it, though clock and incarnation stay", async () => {
    const backend = await build("log");
    await using(backend, async (storage) => {
      const before = (await storage.info(ID))!;
      backend.flip(eventsKey(ID, COVERED), 9);
      expect((await storage.check({ repair: true })).problems).toMatchObject([{ lostEvents: 2 }]);
      const after = (await storage.info(ID))!;
      expect(after.clock).toBe(before.clock);
      await expect(storage.append(ID, [event("x")], { expected: before.token })).rejects.toMatchObject({
        code: "HEAD_CONFLICT",
      });
      const { token } = await storage.append(ID, [event("x")], { expected: after.token });
      await storage.append(ID, [event("y")], { expected: token });
    });
  });

  test("[ST77] a state from before a repair is another one for who opens the store later, and for other processes", async () => {
    const backend = await build("log");
    const before = await using(backend, async (storage) => (await storage.info(ID))!);
    backend.flip(eventsKey(ID, COVERED), 9);
    const after = await using(backend, async (storage) => {
      expect((await storage.check({ repair: true })).problems).toMatchObject([{ lostEvents: 2 }]);
      return (await storage.info(ID))!;
    });
    expect(after.clock).toBe(before.clock);
    await using(backend, async (storage) => {
      const refused = expect.objectContaining({ code: "HEAD_CONFLICT" });
      await expect(storage.append(ID, [event("x")], { expected: before.token })).rejects.toEqual(refused);
      const { token } = await storage.append(ID, [event("x")], { expected: after.token });
      await storage.compact(ID);
      await storage.append(ID, [event("y")], { expected: token });
      // A repair that has nothing to do changes no state.
      const { token: last } = (await storage.info(ID))!;
      expect((await storage.check({ repair: true })).problems).toEqual([]);
      await storage.append(ID, [event("z")], { expected: last });
      expect((await storage.check()).problems).toEqual([]);
    });
  });

  test("[CK19] handles from before a repair that had to guess the head cannot write after it", async () => {
    const backend = await build("log");
    await using(backend, async (storage) => {
      const handle = (await storage.load(ID))!;
      handle.change((doc) => doc.fresh.push(event("late")));
      backend.flip(eventsKey(ID, COVERED + 3), 9);
      expect((await storage.check({ repair: true })).clean).toBe(true);
      await expect(handle.save()).rejects.toMatchObject({ code: "DELETED" });
      expect(handle.unsaved).toBe(true);
      await handle.close({ discard: true });
      const { clock } = await storage.append(ID, [event("late")]);
      expect(clock).toBe(COVERED + 5);
    });
  });
});

test("[CK24] of a document of which nothing is left to load, all that is in no batch counts as lost", async () => {
  const backend = await build("compacted");
  const clock = (await using(backend, (storage) => storage.info(ID)))!.clock;
  for (const key of [...keysIn(backend, "events"), ...keysIn(backend, "snapshot")]) backend.flip(key, 9);
  for (const report of [await check(backend), await repair(backend)]) {
    expect(report.clean).toBe(false);
    expect(report.lost).toEqual([{ id: ID, events: clock }]);
    expect(report.problems.reduce((sum, { lostEvents = 0 }) => sum + lostEvents, 0)).toBe(clock);
  }
});

function ignoreDeleted(error: unknown): void {
  if ((error as { code?: string }).code !== "DELETED") throw error;
}
