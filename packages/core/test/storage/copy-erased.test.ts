/** Erasures and copies: what was erased leaves the files of the target, and does not come back. */

import { type BackendFactory, CoppiceError, memoryBackend } from "coppice";
import { type SimulatedBackend, simulatedBackend } from "coppice/testing";
import { expect, test } from "vitest";
import { changed } from "./changed-backend.js";
import { clean, open, pair, type Storage, write } from "./copy-tools.js";

const SECRET = "secret";

/** What of the erased document the target's files still hold. */
const leftIn = (target: SimulatedBackend) => target.residue().filter(({ key }) => key[1] === SECRET).length;

/** A target in which there is a document that its source has erased since. */
async function erased(): Promise<{ from: Storage; to: Storage; target: SimulatedBackend }> {
  const { from, to, target } = await pair();
  for (const id of ["a", SECRET, "z"]) await write(from, id, "ab");
  await from.copyTo(to);
  await from.erase(SECRET);
  return { from, to, target };
}

/** Stops a copy when an erasure has arrived. */
const stopping = (inner: BackendFactory, stop: AbortController) =>
  changed(inner, (opened) => ({
    commit: async (batch) => {
      await opened.commit(batch);
      if (batch.put?.some(({ key: [space] }) => space === "erased")) stop.abort();
    },
  }));

test("[MV45] an erasure that a copy has carried leaves the files with the next one, where that one was stopped", async () => {
  const { from, to: first, target } = await erased();
  await first.close();
  const stop = new AbortController();
  const backend = stopping(target, stop);
  const to = await open(backend, 3);
  expect(await from.copyTo(to, { signal: stop.signal })).toMatchObject({ erased: 1, stopped: "signal" });
  expect(leftIn(target)).toBeGreaterThan(0);
  expect(await from.copyTo(to)).toMatchObject({ erased: 0, failures: [], stopped: undefined });
  expect(leftIn(target)).toBe(0);
  await clean(from, to);
});

test("[MV45] after a crash at any operation, too", async () => {
  let crashes = 0;
  for (let at = 0, crashed = true; crashed; at++) {
    const { from, to, target } = await erased();
    target.crashAt(target.operationCount + at);
    crashed = await target.untilCrash(async () => void (await from.copyTo(to)));
    target.heal();
    if (!crashed) await to.close();
    const again = await open(target, 3);
    expect(await from.copyTo(again)).toMatchObject({ failures: [] });
    expect([leftIn(target), await again.info(SECRET)]).toEqual([0, undefined]);
    await clean(from, again);
    if (crashed) crashes++;
  }
  expect(crashes).toBeGreaterThan(20);
});

test("[MV45] and where the backend cannot reclaim, which is told, as is all that the copy has done", async () => {
  const { from, to, target } = await erased();
  await to.close();
  let has = "no room";
  const reclaims: string[] = [];
  const backend = changed(target, (opened) => ({
    reclaim: async () => {
      reclaims.push(has);
      if (has === "no room") throw new CoppiceError("UNAVAILABLE", "no room to rewrite the files");
      await opened.reclaim();
    },
  }));
  const again = await open(backend, 3);
  await write(from, "a", "c");
  const failures = [{ id: "", error: { code: "UNAVAILABLE" } }];
  expect(await from.copyTo(again)).toMatchObject({ updated: 1, erased: 1, failed: 1, failures });
  expect(await from.copyTo(again)).toMatchObject({ unchanged: 2, erased: 0, failed: 1, failures });
  has = "room";
  for (let run = 0; run < 2; run++) expect(await from.copyTo(again)).toMatchObject({ failures: [] });
  expect(reclaims).toEqual(["no room", "no room", "room"]);
  expect(leftIn(target)).toBe(0);
  await clean(from, again);
});

test("[MV45] what another copy erases while one reclaims stays due", async () => {
  let reclaims = 0;
  let beside: (() => Promise<unknown>) | undefined;
  const shared = memoryBackend({ shared: true });
  const backend = changed(shared, (opened) => ({
    reclaim: async () => {
      reclaims++;
      await opened.reclaim();
      const act = beside;
      beside = undefined;
      await act?.();
    },
  }));
  const [from, other] = [await open(memoryBackend(), 1), await open(memoryBackend(), 2)];
  const stop = new AbortController();
  const [to, toBeside] = [await open(backend, 3), await open(stopping(shared, stop), 4)];
  await write(from, "x", "ab");
  await write(other, "y", "ab");
  for (const source of [from, other]) await source.copyTo(to);
  await from.erase("x");
  await other.erase("y");
  beside = async () => {
    const copy = await other.copyTo(toBeside, { signal: stop.signal });
    expect(copy).toMatchObject({ erased: 1, stopped: "signal" });
  };
  const reclaimed: number[] = [];
  for (let run = 0; run < 3; run++) {
    expect(await from.copyTo(to)).toMatchObject({ failures: [] });
    reclaimed.push(reclaims);
  }
  expect([reclaimed, beside]).toEqual([[1, 2, 2], undefined]);
  await clean(from, other, to, toBeside);
});

for (const end of ["erase", "delete"] as const) {
  test(`[MV46] a copy does not bring what damage set aside to a target with ${end}`, async () => {
    const source = simulatedBackend({ seed: 1 });
    const [from, target] = [await open(source, 1), simulatedBackend({ seed: 2 })];
    const to = await open(target, 2);
    for (const id of [SECRET, "other"]) await write(from, id, "abc");
    await from.copyTo(to);
    for (const id of [SECRET, "other"]) source.flip(["events", id, 1], 40);
    expect((await from.check({ repair: true })).quarantined).toBe(2);
    await to[end](SECRET);
    const result = await from.copyTo(to);
    expect(result.failures.map(({ id, error: { code } }) => `${id} ${code}`).sort()).toEqual([
      "other EXISTS",
      `${SECRET} DELETED`,
    ]);
    const setAside = target.keys().filter(([space]) => space === "quarantine");
    expect(setAside.map(([, id]) => id)).toEqual(["other"]);
    if (end === "erase") expect(target.keys().filter(([, id]) => id === SECRET)).toEqual([]);
    await clean(to);
  });
}

test("[MV46] nor beside an erasure, at any operation of it", async () => {
  for (let at = 1, hasRun = true; hasRun; at++) {
    const source = simulatedBackend({ seed: 1 });
    const shared = memoryBackend({ shared: true });
    let step: (() => Promise<void>) | undefined;
    const backend = changed(shared, (opened) => ({
      get: async (key) => {
        await step?.();
        return opened.get(key);
      },
      commit: async (batch) => {
        await step?.();
        return opened.commit(batch);
      },
    }));
    const [from, to, other] = [await open(source, 1), await open(shared, 2), await open(backend, 3)];
    await write(from, SECRET, "abc");
    await from.copyTo(to);
    source.flip(["events", SECRET, 1], 40);
    await from.check({ repair: true });
    hasRun = false;
    let left = at;
    step = async () => {
      if (--left !== 0) return;
      hasRun = true;
      await from.copyTo(to, { prefix: SECRET });
    };
    await other.erase(SECRET);
    step = undefined;
    // A check tells all that it finds set aside.
    expect((await other.check()).quarantined, `${at}`).toBe(0);
    await clean(to, other);
  }
});

test("[MV41] what is about no one document is told each time, also behind a part that cannot be read", async () => {
  let isOn = false;
  const source = changed(memoryBackend(), (opened) => ({
    async *scan(range, options) {
      if (isOn && range.space === "meta") throw new CoppiceError("CORRUPT", "rotten");
      yield* opened.scan(range, options);
    },
  }));
  const target = changed(memoryBackend(), (opened) => ({
    commit: async (batch) => {
      if (batch.put?.some(({ key: [space] }) => space === "erased"))
        throw new CoppiceError("STORE_FULL", "no room");
      await opened.commit(batch);
    },
  }));
  const [from, to] = [await open(source, 1), await open(target, 2)];
  await write(from, "d", "a");
  await from.erase("d");
  isOn = true;
  const { failed, failures } = await from.copyTo(to);
  expect(failures.map(({ id, error: { code } }) => `${id}${code}`)).toEqual(["CORRUPT", "STORE_FULL"]);
  expect(failed).toBe(2);
  isOn = false;
  await clean(from, to);
});

for (const isHeard of [true, false]) {
  for (const isDeleted of [true, false]) {
    const what = `after ${isHeard ? "two copies" : "one copy"}${isDeleted ? ", and deleted before" : ""}`;
    test(`[MV54] a document that began after an erasure, and was erased without an event, goes in the target too, ${what}`, async () => {
      const { from, to, target } = await erased();
      if (isHeard) await from.copyTo(to);
      for (let life = 0; life < 2; life++) {
        await (await from.open(SECRET, { recreate: true })).close();
        await from.tag(SECRET, "a name");
        expect(await from.copyTo(to)).toMatchObject({ copied: 1, failures: [] });
        if (isDeleted) await from.delete(SECRET);
        await from.erase(SECRET);
        expect(await from.copyTo(to)).toMatchObject({ erased: 1, failures: [] });
        expect([leftIn(target), target.keys().some(([, id]) => id === SECRET)]).toEqual([0, false]);
        expect(await from.copyTo(to)).toMatchObject({ erased: 0, records: 0, failures: [] });
      }
      await from.open(SECRET, { recreate: true });
      await write(from, SECRET, "c");
      expect(await from.copyTo(to)).toMatchObject({ copied: 1, failures: [] });
      expect(await to.info(SECRET)).toMatchObject({ clock: (await from.info(SECRET))!.clock });
      await clean(from, to);
    });
  }
}

test("[MV11] where the record of a later erasure lies beside it, an erased document keeps that clock", async () => {
  const source = simulatedBackend({ seed: 1 });
  const [from, { to, target }] = [await open(source, 1), await pair()];
  await write(from, SECRET, "abcdefgh");
  await from.erase(SECRET);
  await write(to, SECRET, "a");
  for (const { key, value } of source.dump()) if (key[0] === "erased") target.putRaw(key, value);
  await to.erase(SECRET);
  expect((await to.open(SECRET, { recreate: true })).clock).toBe(8);
  await clean(from, to);
});

test("[MV4] an import that breaks off over a tombstone, beside the record of an earlier erasure, leaves its clock", async () => {
  const { from, to, target } = await pair();
  await write(from, SECRET, "abc");
  await from.erase(SECRET);
  await write(to, SECRET, "abcdefg");
  await to.delete(SECRET);
  expect((await from.copyTo(to)).failures).toEqual([]);
  await write(from, "large", "abcdefghijklmnopqrstuvwxyz");
  const chunks: Uint8Array[] = [];
  for await (const chunk of from.export("large")) chunks.push(chunk);
  let staged = 0;
  const breaking = async function* () {
    yield Buffer.concat(chunks).subarray(0, -100);
    staged = target.keys().filter(([, id]) => id === SECRET).length;
    throw new Error("the stream broke off");
  };
  await expect(to.import(breaking(), { id: SECRET, recreate: true })).rejects.toThrow("broke off");
  expect(staged).toBeGreaterThan(10);
  expect(target.keys().filter(([, id]) => id === SECRET)).toEqual([["meta", SECRET]]);
  expect((await to.open(SECRET, { recreate: true })).clock).toBe(7);
  await clean(from, to);
});
