import {
  type BackendFactory,
  CoppiceError,
  DocumentStorage,
  isCoppiceError,
  type Key,
  memoryBackend,
  never,
  type StorageOptions,
} from "coppice";
import { type Fault, type SimulatedBackend, simulatedBackend, simulatedEnv } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { type NameSet, nameSet, naming } from "../../../../test/support/oracle-model.js";
import { changed } from "./changed-backend.js";

const models = [nameSet()] as const;
type Storage = DocumentStorage<typeof models>;
const open = (
  backend: BackendFactory,
  options: Partial<StorageOptions<typeof models>> = {},
): Promise<Storage> => DocumentStorage.open({ backend, models, snapshotPolicy: never, ...options });

const namesOf = async (storage: Storage, at?: number | string | Date) => {
  const handle = await storage.load<NameSet>("d", at === undefined ? {} : { at });
  return handle && [...handle.doc.names.keys()].sort().join(",");
};

async function fill(storage: Storage, count: number, prefix = "n", id = "d"): Promise<void> {
  for (let index = 0; index < count; index++) await storage.append(id, [naming(`${prefix}${index}`)]);
}

const clean = async (storage: Storage) => {
  const { problems, garbageKeys } = await storage.check();
  expect({ problems, garbageKeys }).toEqual({ problems: [], garbageKeys: 0 });
};

const keysIn = (backend: SimulatedBackend, space: string): Key[] =>
  backend
    .dump()
    .map(({ key }) => key)
    .filter((key) => key[0] === space);

describe("a tag", () => {
  test("[HI1] a tagged version is loaded by its name, also after its events are trimmed", async () => {
    const backend = simulatedBackend();
    const storage = await open(backend);
    await fill(storage, 3);
    const tag = await storage.tag("d", "three");
    expect(tag).toMatchObject({ name: "three", clock: 3 });
    expect(tag!.bytes).toBeGreaterThan(0);
    await fill(storage, 9, "m");
    await storage.compact("d");
    await fill(storage, 2, "o");
    await storage.compact("d");
    expect((await storage.info("d"))!.oldestClock).toBeGreaterThan(3);
    expect(await namesOf(storage, "three")).toBe("n0,n1,n2");
    expect(await namesOf(storage, 3)).toBe("n0,n1,n2");
    const handle = await storage.load<NameSet>("d", { at: "three" });
    expect({ clock: handle!.clock, writable: handle!.writable }).toEqual({ clock: 3, writable: false });
    await expect(handle!.save()).rejects.toMatchObject({ code: "ARGUMENT_INVALID" });
    await clean(storage);
    await storage.close();
    const again = await open(backend);
    expect(await namesOf(again, "three")).toBe("n0,n1,n2");
    expect(await again.tags("d")).toEqual([tag]);
    await again.close();
  });

  test("[HI1] a version is tagged at a clock, inside a batch too, by another tag, and by a date", async () => {
    const env = simulatedEnv(1);
    const storage = await open(simulatedBackend(), { env });
    await storage.append("d", [naming("a"), naming("b"), naming("c")]);
    const first = new Date(env.now());
    env.advance(1000);
    await storage.append("d", [naming("d")]);
    expect(await storage.tag("d", "inside", 2)).toMatchObject({ clock: 2 });
    expect(await storage.tag("d", "same", "inside")).toMatchObject({ clock: 2 });
    expect(await storage.tag("d", "then", first)).toMatchObject({ clock: 3 });
    expect(await storage.tag("d", "nothing", 0)).toMatchObject({ clock: 0 });
    expect(await storage.tag("d", "before", new Date(0))).toBe(undefined);
    await storage.compact("d");
    expect(await namesOf(storage, "inside")).toBe("a,b");
    expect(await namesOf(storage, "same")).toBe("a,b");
    expect(await namesOf(storage, "then")).toBe("a,b,c");
    expect(await namesOf(storage, "nothing")).toBe("");
    expect((await storage.tags("d")).map(({ name }) => name)).toEqual(["nothing", "inside", "same", "then"]);
    await clean(storage);
    await storage.close();
  });

  test("[HI1] a tag from which the events are kept is where a load of a later clock begins", async () => {
    const loads: number[] = [];
    const observer = { load: ({ events }: { events: number }) => void loads.push(events) };
    const storage = await open(simulatedBackend(), { observer });
    await storage.append(
      "d",
      Array.from({ length: 10 }, (_, index) => naming(`n${index}`)),
    );
    await fill(storage, 5, "m");
    await storage.tag("d", "seven", 7);
    expect(await namesOf(storage, 8)).toBe("n0,n1,n2,n3,n4,n5,n6,n7");
    expect(loads).toEqual([1]);
    await clean(storage);
    await storage.close();
  });

  test("[HI2] events that a tagged version holds back keep their bytes as long as the tag", async () => {
    const backend = simulatedBackend();
    const storage = await open(backend);
    await storage.append("d", [naming("a"), naming("late", ["b"]), naming("!no")]);
    await storage.tag("d", "held");
    await storage.append("d", [naming("b")]);
    await fill(storage, 4);
    await storage.compact("d");
    await fill(storage, 4, "m");
    await storage.compact("d");
    const handle = await storage.load<NameSet>("d", { at: "held" });
    expect([...handle!.doc.names.keys()]).toEqual(["a"]);
    expect(handle!.held.map(({ clock }) => clock)).toEqual([1, 2]);
    expect(keysIn(backend, "held").map((key) => key[2])).toEqual([1, 2]);
    await clean(storage);
    await storage.untag("d", "held");
    expect(keysIn(backend, "held").map((key) => key[2])).toEqual([2]);
    await clean(storage);
    await storage.close();
  });

  test("[HI3] untag forgets the tag and removes what it kept; a name that is free may be used again", async () => {
    const backend = simulatedBackend();
    const storage = await open(backend);
    await fill(storage, 3);
    await storage.tag("d", "a", 1);
    await storage.tag("d", "b", 2);
    expect(await storage.untag("d", "a")).toBe(true);
    expect(await storage.untag("d", "a")).toBe(false);
    expect(await storage.untag("nobody", "a")).toBe(false);
    expect(keysIn(backend, "tagged").map((key) => key[2])).toEqual([2, 2]);
    await expect(storage.load("d", { at: "a" })).rejects.toMatchObject({ code: "TAG_UNKNOWN" });
    expect(await storage.tag("d", "a", 3)).toMatchObject({ clock: 3 });
    await storage.untag("d", "a");
    await storage.untag("d", "b");
    expect(keysIn(backend, "tagged")).toEqual([]);
    await clean(storage);
    await storage.close();
  });

  test("[HI4] a name that is taken is TAG_EXISTS, one that is unknown TAG_UNKNOWN, and nothing is written", async () => {
    const backend = simulatedBackend();
    const storage = await open(backend);
    await fill(storage, 3);
    await storage.tag("d", "a", 1);
    const before = backend.dump();
    await expect(storage.tag("d", "a", 2)).rejects.toMatchObject({
      code: "TAG_EXISTS",
      kind: "conflict",
      details: { name: "a", clock: 1 },
    });
    await expect(storage.load("d", { at: "b" })).rejects.toMatchObject({
      code: "TAG_UNKNOWN",
      details: { known: ["a"] },
    });
    await expect(storage.tag("d", "c", "b")).rejects.toMatchObject({ code: "TAG_UNKNOWN" });
    await expect(storage.tag("d", "c", 9)).rejects.toMatchObject({ code: "ARGUMENT_INVALID" });
    expect(await storage.tag("nobody", "a")).toBe(undefined);
    expect(await storage.tags("nobody")).toEqual([]);
    expect(backend.dump()).toEqual(before);
    await storage.close();
  });

  test("[HI5] names and their number have limits", async () => {
    const backend = simulatedBackend();
    const storage = await open(backend, { limits: { tagsMax: 2, tagNameBytesMax: 8 } });
    await fill(storage, 1);
    const before = backend.dump();
    for (const name of ["", "123456789", "ééééé", "a\nb", "a\0", "\ud800", 7 as unknown as string]) {
      await expect(storage.tag("d", name)).rejects.toMatchObject({ code: "ARGUMENT_INVALID" });
    }
    for (const at of [-1, 0.5, Number.NaN, new Date(Number.NaN), {} as unknown as Date]) {
      await expect(storage.tag("d", "a", at)).rejects.toMatchObject({ code: "ARGUMENT_INVALID" });
      await expect(storage.load("d", { at })).rejects.toMatchObject({ code: "ARGUMENT_INVALID" });
    }
    expect(backend.dump()).toEqual(before);
    await storage.tag("d", "12345678");
    await storage.tag("d", "ü 😀");
    await expect(storage.tag("d", "c")).rejects.toMatchObject({
      code: "ARGUMENT_INVALID",
      details: { limit: "tagsMax", max: 2 },
    });
    expect((await storage.tags("d")).map(({ name }) => name)).toEqual(["12345678", "ü 😀"]);
    await clean(storage);
    await storage.close();
  });

  test("[HI6] no tag outlives its document, and none of an earlier life comes back", async () => {
    const backend = simulatedBackend();
    const storage = await open(backend);
    await fill(storage, 3);
    await storage.tag("d", "a");
    await storage.delete("d");
    expect(keysIn(backend, "tags")).toEqual([]);
    expect(keysIn(backend, "tagged")).toEqual([]);
    expect(await storage.tags("d")).toEqual([]);
    expect(await storage.tag("d", "a")).toBe(undefined);
    await storage.open("d", { recreate: true });
    expect(await storage.tags("d")).toEqual([]);
    await fill(storage, 1, "m");
    expect(await storage.tag("d", "a")).toMatchObject({ clock: 4 });
    expect(await namesOf(storage, "a")).toBe("m0");
    await clean(storage);
    await storage.close();
  });

  test("[HI7] a snapshot that does not restore to what was folded is no tag", async () => {
    const backend = simulatedBackend();
    const names = nameSet();
    let lies = false;
    const model = {
      ...names,
      restore: (bytes: Uint8Array) => (lies ? names.create() : names.restore(bytes)),
    };
    const storage = await DocumentStorage.open({ backend, models: [model], snapshotPolicy: never });
    await storage.append("d", [naming("a")]);
    lies = true;
    await expect(storage.tag("d", "a")).rejects.toMatchObject({ code: "CORRUPT" });
    lies = false;
    expect(await storage.tags("d")).toEqual([]);
    expect((await storage.check({ repair: true })).problems).toEqual([]);
    expect(keysIn(backend, "tagged")).toEqual([]);
    await storage.close();
  });
});

describe("taggers beside others", () => {
  test("[HI8] of two that tag one name one wins and the other is told; two names are both there", async () => {
    const backend = simulatedBackend({ exclusive: false });
    const [one, two] = [await open(backend), await open(backend)];
    await fill(one, 3);
    for (let round = 0; round < 20; round++) {
      const outcomes = await Promise.allSettled([
        one.tag("d", `same${round}`, 1),
        two.tag("d", `same${round}`, 2),
        one.tag("d", `one${round}`, 1),
        two.tag("d", `two${round}`, 2),
      ]);
      const codes = outcomes.map((outcome) =>
        outcome.status === "fulfilled" ? "tagged" : (outcome.reason as { code: string }).code,
      );
      expect(codes.slice(0, 2).sort()).toEqual(["TAG_EXISTS", "tagged"]);
      expect(codes.slice(2)).toEqual(["tagged", "tagged"]);
    }
    expect(await one.tags("d")).toHaveLength(60);
    expect(await one.tags("d")).toEqual(await two.tags("d"));
    await clean(one);
    await Promise.all([one.close(), two.close()]);
  });

  test("[HI8] compactions, appends and deletions beside taggers break no tag", async () => {
    const backend = simulatedBackend({ exclusive: false });
    const [one, two] = [await open(backend), await open(backend, { limits: { sweepKeysMax: 1 } })];
    for (let round = 0; round < 20; round++) {
      const held = naming(`late${round}`, ["never"]);
      await one.append("d", [naming(`a${round}`), held, naming(`b${round}`)]);
      const outcomes = await Promise.allSettled([
        one.tag("d", `t${round}`),
        two.compact("d"),
        two.append("d", [naming(`c${round}`)]),
        one.untag("d", `t${round - 1}`),
        two.compact("d", { force: true }),
      ]);
      for (const outcome of outcomes) {
        if (outcome.status === "rejected" && !isCoppiceError(outcome.reason, "BUSY")) throw outcome.reason;
      }
      for (const { name, clock } of await two.tags("d")) {
        const handle = await two.load<NameSet>("d", { at: name });
        expect(handle!.doc.names.size + handle!.held.length).toBe(clock);
      }
      expect((await one.check()).problems).toEqual([]);
    }
    const [tagged, deleted] = await Promise.allSettled([one.tag("d", "last"), two.delete("d")]);
    expect(deleted).toMatchObject({ status: "fulfilled", value: true });
    expect(tagged.status).toBe("fulfilled");
    expect(await one.tags("d")).toEqual([]);
    expect(await one.load("d")).toBe(undefined);
    await one.check({ repair: true });
    await clean(one);
    await Promise.all([one.close(), two.close()]);
  });

  test("[HI9] nor where another tagger has changed the index before anybody looks what became of it", async () => {
    const inner = memoryBackend({ shared: true });
    const beside = await open(inner);
    let next: (() => Promise<unknown>) | undefined;
    const losing = changed(inner, (opened) => ({
      commit: async (batch) => {
        await opened.commit(batch);
        if (next === undefined || batch.put?.[0]?.key[0] !== "tags") return;
        const run = next;
        next = undefined;
        await run();
        throw new CoppiceError("OUTCOME_UNKNOWN", "the reply was lost");
      },
    }));
    const storage = await open(losing);
    await fill(storage, 3);
    await storage.tag("d", "first");
    next = () => beside.tag("d", "other");
    expect(await storage.tag("d", "mine")).toMatchObject({ name: "mine", clock: 3 });
    next = () => beside.untag("d", "other");
    expect(await storage.untag("d", "mine")).toBe(true);
    expect((await storage.tags("d")).map(({ name }) => name)).toEqual(["first"]);
    await clean(storage);
    await storage.close();
    await beside.close();
  });

  test("[HI8] a compaction that comes just before a tag is staged makes the tagger begin again", async () => {
    const inner = memoryBackend({ shared: true });
    const beside = await open(inner);
    let isArmed = true;
    const storage = await open(
      changed(inner, (opened) => ({
        commit: async (batch) => {
          if (isArmed && batch.put?.[0]?.key[0] === "tagged") {
            isArmed = false;
            expect(await beside.compact("d")).toMatchObject({ outcome: "compacted" });
          }
          await opened.commit(batch);
        },
      })),
    );
    await fill(storage, 3);
    expect(await storage.tag("d", "three")).toMatchObject({ clock: 3 });
    expect([isArmed, await namesOf(beside, "three")]).toEqual([false, "n0,n1,n2"]);
    await clean(storage);
    await storage.close();
    await beside.close();
  });

  test("[HI8] nor does a tag name what a repair has taken for garbage just before", async () => {
    const inner = memoryBackend({ shared: true });
    const beside = await open(inner);
    let isArmed = false;
    const storage = await open(
      changed(inner, (opened) => ({
        commit: async (batch) => {
          if (isArmed && batch.put?.[0]?.key[0] === "tags") {
            isArmed = false;
            expect((await beside.check({ repair: true })).garbageKeys).toBeGreaterThan(0);
          }
          await opened.commit(batch);
        },
      })),
    );
    await fill(storage, 3);
    await storage.tag("d", "first", 1);
    isArmed = true;
    expect(await storage.tag("d", "three")).toMatchObject({ clock: 3 });
    expect([isArmed, await namesOf(storage, "three")]).toEqual([false, "n0,n1,n2"]);
    await clean(storage);
    await storage.close();
    await beside.close();
  });

  test("[HI9] a lost reply is no double tag, and a store that fails tags nothing that it does not show", async () => {
    let fault: Fault | undefined;
    let commits = 0;
    const backend = simulatedBackend({
      exclusive: false,
      faults: ({ kind }) => (kind === "commit" && --commits === 0 ? fault : undefined),
    });
    const storage = await open(backend);
    await fill(storage, 2);
    await storage.tag("d", "first");
    for (fault of ["unknown-applied", "unknown-lost"] as const) {
      // The first commit of a tag stages its snapshot, the second one names it.
      for (const nth of [1, 2]) {
        commits = nth;
        expect(await storage.tag("d", fault)).toMatchObject({ name: fault, clock: 2 });
        expect(commits).toBeLessThan(1);
        expect(await storage.tags("d")).toHaveLength(2);
        commits = 1;
        expect(await storage.untag("d", fault)).toBe(true);
      }
    }
    expect((await storage.tags("d")).map(({ name }) => name)).toEqual(["first"]);
    fault = "unavailable";
    commits = 2;
    await expect(storage.tag("d", "second")).rejects.toMatchObject({ code: "UNAVAILABLE" });
    expect(await storage.tags("d")).toHaveLength(1);
    // The third commit sweeps what the failed one left.
    commits = 3;
    expect(await storage.tag("d", "second")).toMatchObject({ name: "second" });
    expect(commits).toBe(0);
    await storage.check({ repair: true });
    await clean(storage);
    await storage.close();
  });
});
