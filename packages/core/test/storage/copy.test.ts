import { DocumentStorage, everyEvents, memoryBackend, never, type StorageOptions } from "coppice";
import { type SimulatedBackend, seededRandom, simulatedBackend, simulatedEnv } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { writeHistory } from "../../../../test/support/oracle.js";
import { type NameSet, nameSet, naming } from "../../../../test/support/oracle-model.js";
import { clean } from "./copy-tools.js";

const models = [nameSet()] as const;
type Storage = DocumentStorage<typeof models>;
const open = (options: Partial<StorageOptions<typeof models>> = {}): Promise<Storage> =>
  DocumentStorage.open({ backend: memoryBackend(), models, snapshotPolicy: never, ...options });

/** What is stored of documents, without what is garbage or evidence. */
/** All that is stored but how a copy has left it, which only a target knows. */
function stored(backend: SimulatedBackend): string[] {
  const entries = backend.dump().filter(({ key: [space] }) => space !== "copied");
  return entries.map(({ key, value }) => `${key.join("/")} ${Buffer.from(value).toString("hex")}`);
}

async function pair(options: Partial<StorageOptions<typeof models>> = {}): Promise<{
  from: Storage;
  to: Storage;
  source: SimulatedBackend;
  target: SimulatedBackend;
}> {
  const [source, target] = [simulatedBackend({ seed: 1 }), simulatedBackend({ seed: 2 })];
  const env = (seed: number) => simulatedEnv(seed, { autoAdvance: true });
  const [from, to] = [
    await open({ backend: source, env: env(1), ...options }),
    await open({ backend: target, env: env(2) }),
  ];
  return { from, to, source, target };
}

describe("copyTo", () => {
  test("[MV30] a copy holds every document as it is, key by key, and names its clock", async () => {
    const { from, to, source, target } = await pair();
    await writeHistory(from, "d");
    for (let n = 0; n < 20; n++) await from.append(`e${n}`, [naming("x")]);
    await from.append("gone", [naming("x")]);
    await from.delete("gone");
    await from.append("secret", [naming("x")]);
    await from.erase("secret");
    const seen: number[] = [];
    const result = await from.copyTo(to, { onProgress: (progress) => seen.push(progress.seen) });
    expect(result).toMatchObject({ seen: 22, copied: 21, deleted: 1, failures: [], stopped: undefined });
    expect(result.documents.find(({ id }) => id === "d")).toMatchObject({ outcome: "copied", clock: 7 });
    expect(seen.at(-1)).toBe(22);
    expect(stored(target)).toEqual(stored(source));
    await expect(to.append("gone", [naming("y")])).rejects.toMatchObject({ code: "DELETED" });
    await expect(to.append("secret", [naming("y")])).rejects.toMatchObject({ code: "DELETED" });
    expect((await to.load<NameSet>("d", { at: "half" }))?.doc.names.size).toBe(2);
    await clean(from, to);
  });

  test("[MV31] a second run writes only what is new, and nothing when nothing is", async () => {
    const { from, to, source, target } = await pair();
    await writeHistory(from, "d");
    await from.append("e", [naming("x")]);
    await from.copyTo(to);
    let { bytesCommitted } = target;
    expect(await from.copyTo(to)).toMatchObject({
      unchanged: 2,
      copied: 0,
      updated: 0,
      bytes: 0,
      records: 0,
    });
    expect(target.bytesCommitted).toBe(bytesCommitted);
    const steps: (() => Promise<unknown>)[] = [
      () => from.append("d", [naming("f"), naming("never")]),
      () => from.compact("d"),
      () => from.tag("d", "more"),
      () => from.untag("d", "half"),
      () => from.append("d", [naming("g")]),
      async () => {
        await from.append("d", [naming("h")]);
        await from.compact("d");
        await from.append("d", [naming("i")]);
      },
    ];
    for (const step of steps) {
      await step();
      ({ bytesCommitted } = target);
      expect(await from.copyTo(to)).toMatchObject({ unchanged: 1, updated: 1, failures: [] });
      expect(stored(target)).toEqual(stored(source));
      expect(target.bytesCommitted - bytesCommitted).toBeLessThan(3000);
      expect((await to.check()).garbageKeys).toBe(0);
    }
    await clean(from, to);
  });

  test("[MV31] what was trimmed beyond the copy, or recreated, deleted or erased since, is carried over", async () => {
    const { from, to, source, target } = await pair();
    for (const id of ["trimmed", "recreated", "deleted", "erased", "twice"]) await writeHistory(from, id);
    await from.copyTo(to);
    for (let n = 0; n < 5; n++) await from.append("trimmed", [naming(`t${n}`)]);
    await from.compact("trimmed");
    await from.append("trimmed", [naming("t5")]);
    await from.compact("trimmed");
    await from.delete("recreated");
    await from.open("recreated", { recreate: true });
    await from.append("recreated", [naming("new")]);
    await from.delete("deleted");
    await from.erase("erased");
    await from.erase("twice");
    await from.open("twice", { recreate: true });
    expect(await from.copyTo(to)).toMatchObject({ copied: 3, deleted: 1, erased: 1, failures: [] });
    expect(stored(target)).toEqual(stored(source));
    // But for the note that it is to be reclaimed, which goes last.
    expect(target.residue().filter(({ key: [space] }) => space !== "reclaim")).toEqual([]);
    expect(await from.copyTo(to)).toMatchObject({ unchanged: 4, erased: 0, bytes: 0 });
    await clean(from, to);
  });

  test("[MV31] the archive is copied with its document, and what is archived later is carried over", async () => {
    const limits = { archiveSegmentBytesMax: 150, snapshotPartBytesMax: 60 };
    const { from, to, source, target } = await pair({ history: "archive", limits });
    const names: string[] = [];
    const grow = async (count: number) => {
      for (let n = 0; n < count; n++) {
        names.push(`n${names.length}`);
        await from.append("d", [naming(names.at(-1)!)]);
      }
    };
    await grow(12);
    await from.tag("d", "five", 5);
    await from.compact("d");
    await grow(3);
    for (const step of [
      () => grow(0),
      () => from.compact("d"),
      () => grow(4),
      async () => {
        await grow(9);
        await from.compact("d");
        await grow(1);
        await from.compact("d");
      },
    ]) {
      await step();
      expect((await from.copyTo(to)).failures).toEqual([]);
      expect(stored(target)).toEqual(stored(source));
      const { archivedClock, oldestClock } = (await to.info("d"))!;
      for (let at = archivedClock ?? oldestClock; at <= names.length; at++) {
        expect((await to.load<NameSet>("d", { at }))!.doc.names.size).toBe(at);
      }
      expect((await to.load<NameSet>("d", { at: "five" }))!.clock).toBe(5);
      expect((await to.check()).garbageKeys).toBe(0);
    }
    await clean(from, to);
  });

  test("[MV32] what the target has of its own is never overwritten, unless it may be replaced", async () => {
    const { from, to, source, target } = await pair();
    for (const id of ["ahead", "other", "gone", "same"]) await writeHistory(from, id);
    await from.copyTo(to);
    await to.append("ahead", [naming("mine")]);
    await to.delete("other");
    await to.open("other", { recreate: true });
    await to.append("other", [naming("mine")]);
    await to.delete("gone");
    await to.append("only here", [naming("mine")]);
    await from.append("ahead", [naming("theirs")]);
    const result = await from.copyTo(to);
    expect(result.failures.map(({ id, error }) => [id, error.code]).sort()).toEqual([
      ["ahead", "EXISTS"],
      ["gone", "DELETED"],
      ["other", "EXISTS"],
    ]);
    expect((await to.load<NameSet>("ahead"))!.doc.names.has("mine")).toBe(true);
    expect(await from.copyTo(to, { replace: true })).toMatchObject({ copied: 3, unchanged: 1, failures: [] });
    const records = (backend: SimulatedBackend) =>
      stored(backend).filter((line) => !/^meta|only here/.test(line));
    expect(records(target)).toEqual(records(source));
    for (const id of ["ahead", "other", "gone", "same"]) {
      // The meta of what was replaced says so, and so does the token.
      expect(await to.info(id)).toEqual({ ...(await from.info(id)), token: expect.any(String) });
    }
    expect(await from.copyTo(to)).toMatchObject({ unchanged: 4, updated: 0, copied: 0, failures: [] });
    expect((await to.load<NameSet>("only here"))?.doc.names.size).toBe(1);
    await from.delete("ahead");
    await to.append("ahead", [naming("mine")]);
    expect((await from.copyTo(to)).failures).toMatchObject([{ id: "ahead" }]);
    expect(await from.copyTo(to, { replace: true })).toMatchObject({ deleted: 1 });
    await clean(from, to);
  });

  test("[MV32] an older state gives way to one commit, and to none that would be too large for it", async () => {
    const { from, source } = await pair();
    await from.append("d", [naming("a")]);
    const backup = simulatedBackend({ seed: 9, commitBytesMax: 8000 });
    const limits = { batchBytesMax: 600, groupBytesMax: 150 };
    const opened = () => open({ backend: backup, env: simulatedEnv(9, { autoAdvance: true }), limits });
    let to = await opened();
    expect((await from.copyTo(to)).failures).toEqual([]);
    const before = backup.dump();
    for (const name of "bcdefgh") await from.append("d", [naming(name)]);
    await from.compact("d");
    for (let at = 1, crashed = true; crashed; at++) {
      backup.crashAt(backup.operationCount + at);
      crashed = await backup.untilCrash(async () => void (await from.copyTo(to)));
      backup.heal();
      if (!crashed) await to.close();
      to = await opened();
      expect([1, 8]).toContain((await to.load<NameSet>("d"))?.doc.names.size);
    }
    expect(stored(backup)).toEqual(stored(source));
    await to.close();
    backup.restore(before);
    to = await opened();
    for (let i = 0; i < 120; i++) await from.append("d", [naming(`long name ${i}`)]);
    await from.compact("d");
    const refused = { id: "d", error: { code: "BATCH_TOO_LARGE" } };
    expect((await from.copyTo(to)).failures).toMatchObject([refused]);
    expect((await to.load<NameSet>("d"))?.doc.names.size).toBe(1);
    expect((await from.copyTo(to, { replace: true })).failures).toEqual([]);
    await clean(from, to);
  });

  test("[MV32] a large document that is replaced is staged, and a crash leaves none until the next run", async () => {
    const { from, source } = await pair();
    await writeHistory(from, "d");
    let torn = 0;
    for (let at = 2; ; at++) {
      const target = simulatedBackend({ seed: at, commitBytesMax: 600 });
      const limits = { batchBytesMax: 150, groupBytesMax: 150 };
      const opened = (seed: number) =>
        open({ backend: target, env: simulatedEnv(seed, { autoAdvance: true }), limits });
      const first = await opened(1);
      await first.append("d", [naming("x")]);
      target.crashAt(target.operationCount + at);
      const crashed = await target.untilCrash(async () => void (await from.copyTo(first, { replace: true })));
      target.heal();
      if (!crashed) await first.close();
      const to = await opened(2);
      const names = (await to.load<NameSet>("d"))?.doc.names.size;
      expect([undefined, 1, 5]).toContain(names);
      if (names === undefined) torn++;
      expect((await to.check()).problems).toEqual([]);
      const result = await from.copyTo(to, { replace: true });
      expect(result.failures).toEqual([]);
      const records = (backend: SimulatedBackend) =>
        stored(backend).filter((entry) => !entry.startsWith("meta/"));
      expect(records(target)).toEqual(records(source));
      await clean(to);
      if (!crashed) break;
    }
    expect(torn).toBeGreaterThan(3);
    await clean(from);
  });

  test("[MV33] a damaged document of source or target ends no copy, and keeps no other erasure out", async () => {
    const { from, to, source, target } = await pair();
    for (const id of ["a", "a2", "b", "c"]) await from.append(id, [naming(id)]);
    await from.copyTo(to);
    for (const id of ["a", "b", "c"]) await from.erase(id, { reclaim: false });
    source.flip(["meta", "a2"], 9);
    target.flip(["events", "b", 0], 9);
    expect(await from.copyTo(to)).toMatchObject({
      erased: 2,
      failures: [
        { id: "a2", error: { code: "CORRUPT" } },
        { id: "b", error: { code: "CORRUPT" } },
      ],
    });
    for (const id of ["a", "c"]) expect(await to.load(id)).toBe(undefined);
    await expect(to.load("b")).rejects.toMatchObject({ code: "CORRUPT" });
    await from.close();
    await to.close();
  });

  test("[MV33] a prefix, a stop, and a failing document end at their own", async () => {
    const { from, to, source } = await pair();
    for (const id of ["a1", "a2", "b1", "b2"]) await writeHistory(from, id);
    expect(await from.copyTo(to, { prefix: "a" })).toMatchObject({ seen: 2, copied: 2 });
    source.flip(["events", "b1", 5], 30);
    const result = await from.copyTo(to);
    expect(result).toMatchObject({ copied: 1, unchanged: 2 });
    expect(result.failures).toMatchObject([{ id: "b1", error: { code: "CORRUPT" } }]);
    expect(await to.info("b1")).toBe(undefined);
    await from.check({ repair: true });
    const stop = new AbortController();
    stop.abort();
    expect(await from.copyTo(to, { signal: stop.signal })).toMatchObject({ seen: 0, stopped: "signal" });
    expect(await from.copyTo(to)).toMatchObject({ copied: 1, failures: [] });
    expect((await to.check()).quarantined).toBe(1);
    await expect(from.copyTo(from)).rejects.toThrow(TypeError);
    await expect(from.copyTo({} as never)).rejects.toThrow(TypeError);
    await to.close();
    await expect(from.copyTo(to)).rejects.toMatchObject({ code: "CLOSED" });
    await clean(from);
  });

  test("[MV37] a copy brings back what a repair of the target has lost, and tells when both may lack something", async () => {
    const { from, to, source, target } = await pair();
    for (const name of "abcd") await from.append("d", [naming(name)]);
    await from.copyTo(to);
    const names = async (storage: Storage) => [...(await storage.load<NameSet>("d"))!.doc.names.keys()];
    const lose = async (storage: Storage, backend: SimulatedBackend, clock: number) => {
      backend.deleteRaw(["events", "d", clock]);
      expect((await storage.check({ repair: true })).problems).toMatchObject([{ lostEvents: 1 }]);
    };
    await lose(to, target, 1);
    const { token } = (await to.info("d"))!;
    expect(await names(to)).toEqual(["a", "c", "d"]);
    expect((await from.copyTo(to)).documents).toMatchObject([{ id: "d", outcome: "copied", clock: 4 }]);
    expect(await names(to)).toEqual(["a", "b", "c", "d"]);
    await expect(to.append("d", [naming("e")], { expected: token })).rejects.toMatchObject({
      code: "HEAD_CONFLICT",
    });
    expect((await from.copyTo(to)).documents).toMatchObject([{ id: "d", outcome: "unchanged" }]);

    // The other way: the copy is what the source is mended with.
    await lose(from, source, 1);
    expect((await to.copyTo(from)).failures).toEqual([]);
    expect(await names(from)).toEqual(["a", "b", "c", "d"]);

    await lose(from, source, 1);
    await lose(to, target, 2);
    expect((await from.copyTo(to)).failures).toMatchObject([{ id: "d", error: { code: "EXISTS" } }]);
    expect(await names(to)).toEqual(["a", "b", "d"]);
    expect((await from.copyTo(to, { replace: true })).failures).toEqual([]);
    expect(await names(to)).toEqual(["a", "c", "d"]);
    expect((await from.copyTo(to)).unchanged).toBe(1);
    await clean(from, to);
  });

  test("[MV34] a copy while both are in use is, document by document, the source at the clock it names", async () => {
    for (let round = 0; round < 8; round++) {
      const random = seededRandom(round);
      const env = (seed: number) => simulatedEnv(seed, { autoAdvance: true });
      const limits = { groupBytesMax: 300, pageBytesMax: 300, batchBytesMax: 2000 };
      const source = simulatedBackend({ seed: round, exclusive: round % 2 === 0 });
      const from = await open({ backend: source, env: env(1), limits, snapshotPolicy: everyEvents(7) });
      const to = await open({ env: env(2), limits });
      const ids = ["a", "b", "c"];
      for (const id of ids) for (let n = 0; n < 10; n++) await from.append(id, [naming(`${n}`)]);
      let stop = false;
      const busy = ids.map(async (id) => {
        for (let n = 10; !stop && n < 150; n++) {
          await from.append(id, [naming(`${n}`)]);
          if (random.int(8) === 0) await from.compact(id);
          if (random.int(12) === 0) await from.tag(id, `t${n}`).catch(() => undefined);
        }
      });
      for (let copies = 0; copies < 4; copies++) {
        const result = await from.copyTo(to);
        expect(result.failures).toEqual([]);
        expect(result.documents).toHaveLength(3);
        for (const { id, clock } of result.documents) {
          const handle = await to.load<NameSet>(id);
          expect(handle!.clock).toBe(clock);
          expect(handle!.doc.names.size).toBe(clock);
          for (const { name } of await to.tags(id)) {
            const past = await to.load<NameSet>(id, { at: name });
            expect(past!.doc.names.size).toBe(past!.clock);
          }
        }
        expect((await to.check()).problems).toEqual([]);
      }
      stop = true;
      await Promise.all(busy);
      await from.flush();
      await from.copyTo(to);
      for (const id of ids) expect((await to.info(id))?.token).toBe((await from.info(id))?.token);
      await clean(from, to);
    }
  });
});
