import { DocumentStorage, memoryBackend, never, type StorageOptions } from "coppice";
import { seededRandom, simulatedBackend, simulatedEnv } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { type NameSet, nameSet, naming } from "../../../../test/support/oracle-model.js";

const models = [nameSet()] as const;
type Storage = DocumentStorage<typeof models>;
const open = (options: Partial<StorageOptions<typeof models>> = {}): Promise<Storage> =>
  DocumentStorage.open({ backend: memoryBackend(), models, snapshotPolicy: never, ...options });

const names = async (storage: Storage, id: string, at?: number) =>
  [...((await storage.load<NameSet>(id, at === undefined ? {} : { at }))?.doc.names.keys() ?? [])].sort();

const code = (expected: string) => expect.objectContaining({ code: expected });

async function clean(storage: Storage): Promise<void> {
  expect((await storage.check()).problems).toEqual([]);
  await storage.close();
}

async function listed(storage: Storage): Promise<string[]> {
  const ids: string[] = [];
  for await (const id of storage.list()) ids.push(id);
  return ids;
}

async function logOf(storage: Storage, id: string, from?: number, to?: number): Promise<unknown[]> {
  const events = [];
  const range = { from: from ?? (await storage.info(id))!.oldestClock, ...(to === undefined ? {} : { to }) };
  for await (const { clock, event, time, commitId, info } of storage.read(id, range)) {
    // Those that storage made are not archived.
    const about = from === undefined ? [...commitId!].join() : info;
    events.push([clock, time, about, [...(event as Uint8Array)].join()]);
  }
  return events;
}

/** Batches of one to three events, held and refused ones among them, and two compactions. */
async function write(storage: Storage, id: string): Promise<void> {
  await storage.append(id, [naming("a"), naming("late", ["never"])], { info: { user: "ada" } });
  await storage.append(id, [naming("b"), naming("!bad"), naming("c")], { commitId: storage.newCommitId() });
  await storage.append(id, [naming("d")]);
  await storage.compact(id);
  await storage.append(id, [naming("e"), naming("f"), naming("g")]);
  await storage.compact(id);
  await storage.append(id, [naming("h"), naming("i")]);
  await storage.append(id, [naming("j")]);
}

describe("fork", () => {
  test("[MV1] a fork is the original at its head, with its history, and a document of its own afterwards", async () => {
    const storage = await open();
    await write(storage, "d");
    const fork = await storage.fork("d", "e");
    expect(fork).toMatchObject({ id: "e", clock: 12 });
    expect(await names(storage, "e")).toEqual(await names(storage, "d"));
    expect(await logOf(storage, "e")).toEqual(await logOf(storage, "d"));
    const [original, copy] = [await storage.load("d"), await storage.load("e")];
    expect(copy!.held.map(({ clock, reason }) => [clock, reason])).toEqual(
      original!.held.map(({ clock, reason }) => [clock, reason]),
    );
    const { id: _id, token, ...info } = (await storage.info("d"))!;
    const { id: _copy, token: other, ...copied } = (await storage.info("e"))!;
    expect(copied).toEqual(info);
    expect(other).not.toBe(token);
    await storage.append("e", [naming("only e"), naming("never")]);
    await storage.append("d", [naming("only d")]);
    await storage.compact("e");
    expect(await names(storage, "e")).toContain("late");
    expect(await names(storage, "e")).not.toContain("only d");
    expect(await names(storage, "d")).not.toContain("only e");
    expect(await storage.fork("nobody", "f")).toBe(undefined);
    expect(await listed(storage)).toEqual(["d", "e"]);
    await clean(storage);
  });

  test("[MV1] a repeated commit id of the original is known to the fork, also after a trim", async () => {
    const storage = await open();
    const commitId = storage.newCommitId();
    await storage.append("d", [naming("a")], { commitId });
    await storage.append("d", [naming("b")]);
    await storage.compact("d");
    await storage.append("d", [naming("c")]);
    await storage.compact("d");
    await storage.fork("d", "e");
    expect(await storage.append("e", [naming("a")], { commitId })).toMatchObject({
      clock: 1,
      duplicate: true,
    });
    expect((await storage.info("e"))?.clock).toBe(3);
    await clean(storage);
  });

  test("[MV2] a fork at any kept clock is the document at that clock, and goes on from there", async () => {
    const storage = await open();
    await write(storage, "d");
    const oldest = (await storage.info("d"))!.oldestClock;
    for (let at = oldest + 1; at <= 12; at++) {
      const expected = await names(storage, "d", at);
      expect(await storage.fork("d", `d${at}`, { at })).toMatchObject({ clock: at });
      expect(await names(storage, `d${at}`)).toEqual(expected);
      expect(await storage.append(`d${at}`, [naming("more")])).toMatchObject({ clock: at + 1 });
      await storage.compact(`d${at}`);
      expect(await names(storage, `d${at}`)).toEqual([...expected, "more"].sort());
    }
    await expect(storage.fork("d", "x", { at: oldest })).rejects.toEqual(code("TRIMMED"));
    // A load shows that version, by its snapshot; the error says which a fork can begin with.
    expect((await storage.load("d", { at: oldest }))?.clock).toBe(oldest);
    await storage.tag("d", "kept", oldest);
    await expect(storage.fork("d", "x", { at: "kept" })).rejects.toMatchObject({
      message: expect.stringContaining(`clocks from ${oldest + 1} to 12 can be`),
      details: { id: "d", clock: oldest, from: oldest + 1, to: 12 },
    });
    await storage.untag("d", "kept");
    await expect(storage.fork("d", "x", { at: 13 })).rejects.toEqual(code("ARGUMENT_INVALID"));
    await expect(storage.fork("d", "x", { at: -1 })).rejects.toEqual(code("ARGUMENT_INVALID"));
    await expect(storage.fork("d", "", {})).rejects.toEqual(code("ID_INVALID"));
    expect(await storage.load("x")).toBe(undefined);
    await clean(storage);
  });

  test("[MV2] a fork at any clock of an archive is the document at that clock, and goes on from there", async () => {
    const storage = await open({ history: "archive", limits: { archiveSegmentBytesMax: 120 } });
    const elsewhere = await open();
    const ids: { commitId: Uint8Array; clock: number }[] = [];
    for (let index = 0; index < 14; index++) {
      const events = [naming(`a${index}`), naming(`b${index}`, index === 3 ? ["never"] : [])];
      const chosen = index % 3 === 0 ? { commitId: storage.newCommitId(), info: { index } } : {};
      const { clock } = await storage.append("d", index % 4 === 0 ? events.slice(0, 1) : events, chosen);
      if (chosen.commitId !== undefined) ids.push({ commitId: chosen.commitId, clock });
      if (index === 5) await storage.tag("d", "five");
      if (index % 3 === 2) await storage.compact("d");
    }
    const { clock, oldestClock } = (await storage.info("d"))!;
    expect(oldestClock).toBeGreaterThan(12);
    for (let at = 0; at <= clock; at++) {
      const [id, copy] = [`d${at}`, `copy ${at}`];
      const [original, log] = [await storage.load("d", { at }), await logOf(storage, "d", 0, at)];
      const heldOf = (handle: typeof original) => handle!.held.map((held) => held.clock);
      expect(await storage.fork("d", id, { at })).toMatchObject({ clock: at });
      expect(await names(storage, id)).toEqual(await names(storage, "d", at));
      expect(heldOf(await storage.load(id))).toEqual(heldOf(original));
      expect((await storage.tags(id)).length).toBe(Number((await storage.tags("d"))[0]!.clock <= at));
      expect(await logOf(storage, id, 0, at)).toEqual(log);
      expect(await elsewhere.import(storage.export("d", { at }), { id: copy })).toMatchObject({ clock: at });
      expect(await logOf(elsewhere, copy, 0, at)).toEqual(log);
      // What the fork has of chosen commits it knows; what it has not, it takes.
      for (const { commitId, clock: end } of ids) {
        const repeated = await storage.append(id, [naming(`repeated ${end}`)], { commitId });
        expect(repeated.duplicate).toBe(end <= at);
        if (end <= at) expect(repeated.clock).toBe(end);
      }
      await storage.append(id, [naming("more")]);
      const expected = await names(storage, id);
      await storage.compact(id);
      await storage.append(id, [naming("and more")]);
      await storage.compact(id);
      expect(await names(storage, id)).toEqual([...expected, "and more"].sort());
      for (let past = 0; past <= at; past++)
        expect(await names(storage, id, past)).toEqual(await names(storage, "d", past));
    }
    expect((await storage.copyTo(await open())).failures).toEqual([]);
    await clean(elsewhere);
    await clean(storage);
  });

  test("[MV2] a fork at a clock in the archive also takes an id that was used before", async () => {
    const storage = await open({ history: "archive", limits: { archiveSegmentBytesMax: 60 } });
    for (let index = 0; index < 9; index++) {
      await storage.append("d", [naming(`n${index}`)]);
      if (index % 2 === 1) await storage.compact("d");
    }
    for (const name of ["x", "y", "z"]) await storage.append("e", [naming(name)]);
    await storage.delete("e");
    expect(await storage.fork("d", "e", { at: 3, recreate: true })).toMatchObject({ clock: 6 });
    expect(await names(storage, "e")).toEqual(["n0", "n1", "n2"]);
    for (const past of [1, 2]) expect(await names(storage, "e", 3 + past)).toHaveLength(past);
    await clean(storage);
  });

  test("[MV2] a clock in an archive that lacks something before it is TRIMMED for a fork", async () => {
    const backend = memoryBackend({ shared: true });
    const [dropping, storage] = [await open({ backend }), await open({ backend, history: "archive" })];
    for (let index = 0; index < 12; index++) {
      await storage.append("d", [naming(`n${index}`)]);
      if (index % 2 === 1) await (index > 6 ? storage : dropping).compact("d");
    }
    await dropping.close();
    const { archivedClock, oldestClock } = (await storage.info("d"))!;
    expect(archivedClock).toBeGreaterThan(0);
    for (let at = 0; at <= oldestClock; at++) {
      await expect(storage.fork("d", "x", { at })).rejects.toEqual(code("TRIMMED"));
    }
    expect(await storage.fork("d", "x", { at: oldestClock + 1 })).toMatchObject({ clock: oldestClock + 1 });
    await clean(storage);
  });

  test("[MV2] a commit id whose events a fork cut in two is not taken for a stored one", async () => {
    const storage = await open();
    const commitId = storage.newCommitId();
    await storage.append("d", [naming("a"), naming("b")], { commitId });
    await storage.fork("d", "e", { at: 1 });
    expect(await storage.append("e", [naming("a"), naming("b")], { commitId })).toMatchObject({
      clock: 3,
      duplicate: false,
    });
    await clean(storage);
  });

  test("[MV2] a fork has the tags of its time, and can begin at one or at a date", async () => {
    const env = simulatedEnv(1, { autoAdvance: true });
    const storage = await open({ env });
    await storage.append("d", [naming("a"), naming("late", ["never"])]);
    await storage.tag("d", "early");
    await storage.append("d", [naming("b")]);
    const { changed } = (await storage.info("d"))!;
    await env.delay(1000);
    await storage.append("d", [naming("c")]);
    await storage.tag("d", "later");
    await storage.append("d", [naming("e")]);
    expect(await storage.fork("d", "at tag", { at: "later" })).toMatchObject({ clock: 4 });
    expect(await storage.fork("d", "at date", { at: new Date(changed) })).toMatchObject({ clock: 3 });
    expect(await storage.fork("d", "before", { at: new Date(1) })).toBe(undefined);
    await expect(storage.fork("d", "x", { at: "nobody" })).rejects.toEqual(code("TAG_UNKNOWN"));
    await storage.compact("d");
    await storage.fork("d", "whole");
    await storage.append("used", [naming("x"), naming("y")]);
    await storage.delete("used");
    await storage.fork("d", "used", { recreate: true });
    const tagsOf = async (id: string) =>
      (await storage.tags(id)).map(({ name, clock }) => `${name}@${clock}`);
    expect(await tagsOf("at tag")).toEqual(["early@2", "later@4"]);
    expect(await tagsOf("at date")).toEqual(["early@2"]);
    expect(await tagsOf("whole")).toEqual(["early@2", "later@4"]);
    expect(await tagsOf("used")).toEqual(["early@4", "later@6"]);
    for (const id of ["whole", "used"]) {
      const early = await storage.load<NameSet>(id, { at: "early" });
      expect([...early!.doc.names.keys()]).toEqual(["a"]);
      expect(early!.held).toHaveLength(1);
    }
    await clean(storage);
  });

  test("[MV3] of two forks to one id one wins, whatever their size, and the other is told", async () => {
    for (const limits of [{}, { groupBytesMax: 100 }]) {
      const storage = await open({ limits });
      await write(storage, "d");
      await storage.append("o", [naming("other")]);
      const outcomes = await Promise.allSettled([storage.fork("d", "e"), storage.fork("o", "e")]);
      expect(outcomes.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
      const loser = outcomes.find(({ status }) => status === "rejected") as PromiseRejectedResult;
      expect(["EXISTS", "BUSY"]).toContain(loser.reason.code);
      const winner = outcomes[0]!.status === "fulfilled" ? "d" : "o";
      expect(await names(storage, "e")).toEqual(await names(storage, winner));
      await expect(storage.fork("d", "e")).rejects.toEqual(code("EXISTS"));
      await expect(storage.fork("d", "d")).rejects.toEqual(code("EXISTS"));
      await clean(storage);
    }
  });

  test("[MV4] an id that was used before takes a fork only when told, and its clocks go on", async () => {
    const storage = await open();
    await write(storage, "d");
    for (const [id, remove] of [
      ["deleted", () => storage.delete("deleted")],
      ["erased", () => storage.erase("erased")],
    ] as const) {
      for (let n = 0; n < 5; n++) await storage.append(id, [naming(`old${n}`)]);
      const before = await storage.load<NameSet>(id);
      await remove();
      await expect(storage.fork("d", id)).rejects.toEqual(code("DELETED"));
      expect(await storage.fork("d", id, { recreate: true })).toMatchObject({ clock: 17 });
      expect(await names(storage, id)).toEqual(await names(storage, "d"));
      expect((await storage.load(id))!.held.map(({ clock }) => clock)).toEqual([6, 8]);
      before!.change((set) => void set.made.push(naming("stale")));
      await expect(before!.save()).rejects.toEqual(code("DELETED"));
      await before!.close({ discard: true });
      expect(await storage.append(id, [naming("never")])).toMatchObject({ clock: 18 });
      await storage.compact(id);
      expect(await names(storage, id)).toContain("late");
    }
    await clean(storage);
  });

  test("[MV5] while a document is brought in there is none, and delete or a repair ends it", async () => {
    for (const end of ["delete", "repair", "erase", "again"] as const) {
      const backend = simulatedBackend();
      const env = (seed: number) => simulatedEnv(seed, { autoAdvance: true });
      const limits = { groupBytesMax: 100 };
      const first = await open({ backend, env: env(1), limits });
      await write(first, "d");
      backend.crashAt(backend.operationCount + 24);
      const dying = backend.untilCrash(() => first.fork("d", "e").then(() => undefined));
      expect(await dying).toBe(true);
      backend.heal();
      expect(backend.keys().filter(([space, id]) => space !== "meta" && id === "e").length).toBeGreaterThan(
        0,
      );
      const storage = await open({ backend, env: env(2), limits });
      expect(await storage.load("e")).toBe(undefined);
      expect(await storage.info("e")).toBe(undefined);
      expect(await listed(storage)).toEqual(["d"]);
      await expect(storage.append("e", [naming("x")])).rejects.toEqual(code("BUSY"));
      await expect(storage.open("e", { recreate: true })).rejects.toEqual(code("BUSY"));
      const report = await storage.check();
      expect(report.problems).toEqual([]);
      expect(report.garbageKeys).toBeGreaterThan(1);
      if (end === "delete") expect(await storage.delete("e")).toBe(false);
      if (end === "repair") await storage.check({ repair: true });
      if (end === "erase") await storage.erase("e");
      if (end === "again") {
        await storage.fork("d", "e");
        expect(await names(storage, "e")).toEqual(await names(storage, "d"));
      } else {
        expect(backend.keys().filter(([, id]) => id === "e")).toEqual([]);
        expect(backend.keys().filter(([space]) => space === "erased")).toEqual([]);
        expect(await storage.append("e", [naming("x")])).toMatchObject({ clock: 1 });
      }
      expect((await storage.check()).garbageKeys).toBe(0);
      await clean(storage);
    }
  });

  test("[MV6] a fork beside appends, compactions and snapshots is the original at the clock it names", async () => {
    const random = seededRandom(6);
    for (let round = 0; round < 12; round++) {
      const backend = simulatedBackend({ seed: round, exclusive: round % 2 === 0 });
      const env = simulatedEnv(round, { autoAdvance: true });
      const storage = await open({ backend, env, limits: { groupBytesMax: 150, pageBytesMax: 200 } });
      for (let n = 0; n < 30; n++) await storage.append("d", [naming(`n${n}`)]);
      const appended: number[] = [];
      const busy = (async () => {
        for (let n = 30; n < 60; n++) {
          appended.push((await storage.append("d", [naming(`n${n}`)])).clock);
          if (random.int(4) === 0) await storage.compact("d");
        }
      })();
      const forks = [];
      for (let n = 0; n < 3; n++) forks.push(await storage.fork("d", `f${n}`));
      await busy;
      for (const fork of forks) {
        const expected = Array.from({ length: fork!.clock }, (_, n) => `n${n}`).sort();
        expect(await names(storage, fork!.id)).toEqual(expected);
      }
      await clean(storage);
    }
  });
});
