/**
 * What a copy has found out of source and target must be true of what it then writes; and what it replaces,
 * or has begun to replace, is told from what lands there, whoever looks.
 */

import { type Backend, CoppiceError, type CopyResult, memoryBackend } from "coppice";
import { type SimulatedBackend, simulatedBackend } from "coppice/testing";
import { expect, test } from "vitest";
import { type NameSet, namesIn, naming } from "../../../../test/support/oracle-model.js";
import { behindFirstPage, changed } from "./changed-backend.js";
import { clean, names, open, pair, write } from "./copy-tools.js";

const DELETED = { code: "DELETED" };

/** A backend that runs something once before its n-th reading of meta, or of another space. */
function interrupted(inner = memoryBackend(), more: (opened: Backend) => Partial<Backend> = () => ({})) {
  const it: { run?: (() => Promise<unknown>) | undefined; after: number; space: string } = {
    after: 1,
    space: "meta",
  };
  const backend = changed(inner, (opened) => ({
    ...more(opened),
    get: async (key) => {
      const { run } = it;
      if (key[0] === it.space && run !== undefined && --it.after === 0) {
        it.run = undefined;
        await run();
      }
      return opened.get(key);
    },
  }));
  return { it, backend };
}

/** A source that is interrupted, its target, and a third that has copies both ways with the source. */
async function three() {
  const { it, backend } = interrupted();
  const [from, to] = [await open(backend, 1), await open(memoryBackend(), 2)];
  return { it, from, to, other: await open(memoryBackend(), 3) };
}

test("[MV39] a handle of what a copy replaces ends, also where the source is trimmed beyond it, with an archive", async () => {
  const { from, to } = await pair();
  await write(from, "d", "a");
  await from.copyTo(to);
  await write(from, "d", "bcdefgh");
  await from.compact("d", { history: "archive" });
  await write(to, "d", "MN");
  const handle = (await to.load<NameSet>("d"))!;
  const subscription = to.subscribe("d", { from: 0 });
  for (let count = 0; count < 3; count++) await subscription.next();
  expect((await from.copyTo(to, { replace: true })).failures).toEqual([]);
  await expect(handle.refresh()).rejects.toMatchObject(DELETED);
  await expect(subscription.next()).rejects.toMatchObject(DELETED);
  handle.receive([naming("z")]);
  await expect(handle.save()).rejects.toMatchObject(DELETED);
  await handle.close({ discard: true });
  expect(await names(to, "d")).toBe("abcdefgh");
  await clean(from, to);
});

test("[MV37] a copy takes nothing from the target that a repair of the source has lost", async () => {
  const source = simulatedBackend({ seed: 1 });
  const [from, to] = [await open(source, 1), await open(simulatedBackend({ seed: 2 }), 2)];
  await write(from, "d", "abcd");
  await from.copyTo(to);
  source.deleteRaw(["events", "d", 1]);
  expect((await from.check({ repair: true })).problems).toMatchObject([{ lostEvents: 1 }]);
  await write(from, "d", "ef");
  for (let turn = 0; turn < 2; turn++) {
    expect((await from.copyTo(to)).failures).toMatchObject([{ id: "d", error: { code: "EXISTS" } }]);
    expect(await names(to, "d")).toBe("abcd");
    await from.compact("d");
  }
  expect((await from.copyTo(to, { replace: true })).failures).toEqual([]);
  expect(await names(to, "d")).toBe("acdef");
  await clean(from, to);
});

test("[MV34] a source that is replaced while it is copied is looked at again: same length, other content", async () => {
  const { it, from, to, other } = await three();
  await write(from, "d", "a");
  await from.copyTo(other);
  await write(from, "d", "bc");
  await from.copyTo(to);
  await write(other, "d", "MN");
  await other.compact("d", { history: { keepEvents: 100 } });
  Object.assign(it, { after: 3, run: () => other.copyTo(from, { replace: true }) });
  expect((await from.copyTo(to)).failures).toMatchObject([{ error: { code: "EXISTS" } }]);
  expect(await names(to, "d")).toBe("abc");
  await clean(from, to, other);
});

test("[MV34] and where an ordinary copy gives it back what it had trimmed", async () => {
  const { it, from, to, other } = await three();
  await write(from, "d", "abcdefgh");
  await from.copyTo(other);
  await from.compact("d");
  await from.copyTo(to);
  await write(other, "d", "i");
  Object.assign(it, { after: 3, run: () => other.copyTo(from) });
  expect((await from.copyTo(to)).failures).toEqual([]);
  expect(await names(to, "d")).toBe("abcdefghi");
  await clean(from, to, other);
});

test("[MV34] nor does what the target has deleted come back with one that it was replaced by", async () => {
  const { it, from, to, other } = await three();
  await write(other, "d", "xy");
  await write(from, "d", "abcde");
  await from.delete("d");
  await (await from.open("d", { recreate: true })).close();
  await write(from, "d", "fg");
  await write(to, "d", "opqrs");
  await to.delete("d");
  const run = () => other.copyTo(from, { replace: true });
  Object.assign(it, { after: 2, run });
  expect((await from.copyTo(to)).failures).toMatchObject([{ id: "d", error: DELETED }]);
  expect([await names(from, "d"), await names(to, "d")]).toEqual(["xy", ""]);
  await clean(from, to, other);
});

test("[MV39] two storages of one backend: a replacing copy in pieces does not remove what it reads", async () => {
  const shared = memoryBackend({ shared: true });
  const { it, backend } = interrupted(shared, (opened) => ({
    traits: { ...opened.traits, commitBytesMax: 600 },
  }));
  const [from, to] = [await open(shared, 1), await open(backend, 2)];
  await write(from, "d", "abcdefghijklmnopqr");
  Object.assign(it, { after: 1, run: () => from.compact("d") });
  expect((await from.copyTo(to, { replace: true })).failures).toEqual([]);
  expect(await names(from, "d")).toBe("abcdefghijklmnopqr");
  await clean(from, to);
});

test("[MV38] what a copy in pieces has begun to replace is known to all, also in another process, after it failed", async () => {
  const shared = memoryBackend({ shared: true });
  const it = { left: Number.POSITIVE_INFINITY };
  const backend = changed(shared, (opened) => ({
    traits: { ...opened.traits, commitBytesMax: 600 },
    commit: async (batch) => {
      if (it.left-- === 0) throw new CoppiceError("STORE_FULL", "no room");
      await opened.commit(batch);
    },
  }));
  const [from, to, other] = [await open(memoryBackend(), 1), await open(backend, 2), await open(shared, 3)];
  await write(from, "d", "a");
  await from.copyTo(to);
  await write(from, "d", "bcdefghijklm");
  await write(other, "d", "MNOPQ");
  const handle = (await other.load<NameSet>("d"))!;
  const seen: string[] = [];
  const subscription = to.subscribe("d", { from: 0 });
  for (let count = 0; count < 6; count++)
    seen.push(...namesIn((await subscription.next()).value!.event as Uint8Array));
  it.left = 4;
  expect((await from.copyTo(to, { replace: true })).failures).toMatchObject([
    { error: { code: "STORE_FULL" } },
  ]);
  expect(await to.info("d")).toBeUndefined();
  expect((await to.check()).problems).toEqual([]);
  const third = await open(memoryBackend(), 4);
  await write(third, "d", "T");
  await to.copyTo(third, { replace: true });
  expect(await names(third, "d")).toBe("T");
  await third.close();
  expect((await from.copyTo(to)).failures).toEqual([]);
  await expect(subscription.next()).rejects.toMatchObject(DELETED);
  await expect(handle.refresh()).rejects.toMatchObject(DELETED);
  await handle.snapshot().catch(() => undefined);
  await handle.close();
  expect(await names(to, "d")).toBe("abcdefghijklm");
  await other.close();
  await clean(from, to);
});

test("[MV38] also where its claim lies there still, and an ordinary copy comes next", async () => {
  const shared = memoryBackend({ shared: true });
  const it = { left: Number.POSITIVE_INFINITY };
  const backend = changed(shared, (opened) => ({
    traits: { ...opened.traits, commitBytesMax: 600 },
    commit: async (batch) => {
      if (it.left-- <= 0) throw new CoppiceError("UNAVAILABLE", "not now");
      await opened.commit(batch);
    },
  }));
  const [from, to, other] = [await open(memoryBackend(), 1), await open(backend, 2), await open(shared, 3)];
  await write(from, "d", "a");
  await from.copyTo(to);
  await write(from, "d", "bcdefghijklm");
  await write(other, "d", "MNOPQRSTUVWX");
  const handle = (await other.load<NameSet>("d"))!;
  it.left = 3;
  expect((await from.copyTo(to, { replace: true })).failures).toMatchObject([{ id: "d" }]);
  it.left = Number.POSITIVE_INFINITY;
  await expect(other.append("d", [naming("x")])).rejects.toMatchObject({ code: "BUSY" });
  expect(await from.copyTo(to)).toMatchObject({ copied: 1, failures: [] });
  handle.receive([naming("z")]);
  await expect(handle.save()).rejects.toMatchObject(DELETED);
  await expect(handle.refresh()).rejects.toMatchObject(DELETED);
  await handle.close({ discard: true });
  expect([await names(to, "d"), await names(other, "d")]).toEqual(["abcdefghijklm", "abcdefghijklm"]);
  await other.close();
  await clean(from, to);
});

test.each(["trimmed", "deleted", "erased"] as const)(
  "[MV32] a tag that another process gives meanwhile stays: %s",
  async (how) => {
    const shared = memoryBackend({ shared: true });
    const it: { onCommit?: (() => Promise<unknown>) | undefined } = {};
    const backend = changed(shared, (opened) => ({
      commit: async (batch) => {
        const run = it.onCommit;
        it.onCommit = undefined;
        await run?.();
        await opened.commit(batch);
      },
    }));
    const [from, to, other] = [await open(memoryBackend(), 1), await open(backend, 2), await open(shared, 3)];
    await write(from, "d", "abc");
    await from.copyTo(to);
    await write(from, "d", "defgh");
    if (how === "deleted") await from.delete("d");
    else if (how === "erased") await from.erase("d");
    else await from.compact("d");
    it.onCommit = () => other.tag("d", "release");
    expect((await from.copyTo(to)).failures).toMatchObject([{ error: { code: "EXISTS" } }]);
    expect(await other.tags("d")).toMatchObject([{ name: "release" }]);
    await other.close();
    await clean(from, to);
  },
);

test("[MV39] a load beside a trim and a copy that leave meta as it was is no damage", async () => {
  const { it, backend } = interrupted();
  const { it: atPage, backend: paged } = behindFirstPage(backend);
  const [from, to] = [await open(memoryBackend(), 1), await open(paged, 2, { pageBytesMax: 64 })];
  await write(from, "d", "abcdefgh");
  await from.copyTo(to);
  atPage.run = async () => {
    await to.compact("d");
    Object.assign(it, { after: 1, run: () => from.copyTo(to) });
  };
  expect(await names(to, "d")).toBe("abcdefgh");
  await clean(from, to);
});

test.each(["tagged", "archive"] as const)("[MV37] nor %s that it has lost", async (space) => {
  const source = simulatedBackend({ seed: 1 });
  const [from, to] = [await open(source, 1), await open(simulatedBackend({ seed: 2 }), 2)];
  await write(from, "d", "ab");
  if (space === "tagged") await from.tag("d", "release");
  await write(from, "d", "cd");
  await from.compact("d", { history: space === "archive" ? "archive" : "drop" });
  await from.copyTo(to);
  source.flip(source.dump().find(({ key }) => key[0] === space)!.key, 20);
  await from.check({ repair: true });
  expect((await from.copyTo(to)).failures).toMatchObject([{ error: { code: "EXISTS" } }]);
  const old = await to.load<NameSet>("d", { at: space === "tagged" ? "release" : 2 });
  expect([...old!.doc.names.keys()].join("")).toBe("ab");
  await clean(to);
});

test("[MV32] a document whose tags are damaged is replaced all the same, when it may be", async () => {
  const { from, to, target } = await pair();
  await write(from, "d", "ab");
  await from.copyTo(to);
  await to.tag("d", "release");
  await write(to, "d", "MN");
  target.flip(["tags", "d"], 20);
  expect((await from.copyTo(to)).failures).toMatchObject([{ error: { code: "CORRUPT" } }]);
  expect(await from.copyTo(to, { replace: true })).toMatchObject({ documents: [{ id: "d" }], failures: [] });
  expect(await names(to, "d")).toBe("ab");
  await clean(from, to);
});

const HARM: Record<string, (target: SimulatedBackend) => void> = {
  "whose last batches are gone, before a tag": (target) => {
    for (const clock of [3, 4]) target.deleteRaw(["events", "d", clock]);
  },
  "whose batches are all gone": (target) => {
    for (const [space, id, clock] of target.keys())
      if (space === "events") target.deleteRaw([space, id, clock!]);
  },
  "whose last batch is damaged": (target) => target.flip(["events", "d", 4], 40),
  "whose tags are damaged": (target) => target.flip(["tags", "d"], 20),
  "whose index of the tags has vanished": (target) => target.deleteRaw(["tags", "d"]),
};

for (const [what, harm] of Object.entries(HARM)) {
  test(`[MV47] a document ${what} is replaced when it may be, and its deletion carried`, async () => {
    for (const end of ["nothing", "goes on", "is trimmed", "is deleted"] as const) {
      const { from, to: first, target } = await pair();
      await write(from, "d", "abcde");
      await from.tag("d", "release");
      await from.copyTo(first);
      await first.close();
      harm(target);
      const to = await open(target, 3);
      if (end === "goes on") await write(from, "d", "f");
      if (end === "is trimmed") for (let run = 0; run < 2; run++) await from.compact("d", { force: true });
      if (end === "is deleted") await from.delete("d");
      expect((await from.copyTo(to)).failures, end).toMatchObject([{ error: { code: "CORRUPT" } }]);
      const replaced = await from.copyTo(to, { replace: true });
      expect(replaced, end).toMatchObject({ documents: [{ id: "d" }], failures: [] });
      expect(await names(to, "d")).toBe(await names(from, "d"));
      expect(await to.tags("d")).toEqual(await from.tags("d"));
      expect(await from.copyTo(to)).toMatchObject({ unchanged: 1, failures: [] });
      await clean(from, to);
    }
  });
}

test("[MV47] so is one beside which lies the record of an erasure", async () => {
  const source = simulatedBackend({ seed: 1 });
  const [from, { to: first, target }] = [await open(source, 1), await pair()];
  await write(from, "d", "abc");
  await from.copyTo(first);
  await write(first, "d", "own");
  await first.close();
  await from.erase("d");
  for (const { key, value } of source.dump()) if (key[0] === "erased") target.putRaw(key, value);
  target.flip(["events", "d", 5], 40);
  await (await from.open("d", { recreate: true })).close();
  await write(from, "d", "xyz");
  const to = await open(target, 3);
  expect(await from.copyTo(to, { replace: true })).toMatchObject({ copied: 1, failures: [] });
  expect([await names(to, "d"), target.keys().filter(([space]) => space === "erased")]).toEqual(["xyz", []]);
  await clean(from, to);
});

type Meeting = Awaited<ReturnType<typeof meeting>>;

/** A copy of a document, of which the source has more; and the target as another storage has it open. */
async function meeting() {
  const shared = memoryBackend({ shared: true });
  const { it, backend } = interrupted(shared);
  const [from, to, other] = [await open(memoryBackend(), 1), await open(backend, 2), await open(shared, 3)];
  await write(from, "d", "ab");
  await from.tag("d", "release");
  await from.copyTo(to);
  await write(from, "d", "c");
  return { it, from, to, other };
}

/**
 * Copies once more, and again for each reading of the target by it, before which something is done. `copied`
 * gets what is at hand, where it happens, whether it has happened, and the outcome.
 */
async function atEachReading(
  prepare: (met: Meeting) => Promise<() => Promise<unknown>>,
  copied: (met: Meeting, at: string, hasRun: boolean, result: CopyResult) => Promise<void>,
): Promise<void> {
  for (const space of ["meta", "tags", "copied"])
    for (let after = 1, hasRun = true; hasRun; after++) {
      const met = await meeting();
      const { it, from, to, other } = met;
      const act = await prepare(met);
      hasRun = false;
      const run = () => {
        hasRun = true;
        return act();
      };
      Object.assign(it, { after, space, run });
      const result = await from.copyTo(to);
      it.run = undefined;
      await copied(met, `${space} ${after}`, hasRun, result);
      await clean(from, to, other);
    }
}

test("[MV32] a tag that the target gets at any moment of a copy stays", async () => {
  const seen = { EXISTS: 0, updated: 0 };
  await atEachReading(
    async ({ other }) =>
      () =>
        other.tag("d", "mine", 2),
    async ({ other }, at, hasRun, { failures, documents }) => {
      for (const { error } of failures) expect(error.code).toBe("EXISTS");
      seen.EXISTS += failures.length;
      seen.updated += documents.filter(({ outcome }) => outcome === "updated").length;
      const tags = (await other.tags("d")).map(({ name }) => name);
      expect([at, tags]).toEqual([at, hasRun ? ["mine", "release"] : ["release"]]);
    },
  );
  expect(Math.min(...Object.values(seen))).toBeGreaterThan(2);
});

test.each(["tag", "append"] as const)(
  "[MV32] what another process gives it (%s) just before the commit that ends the copy stays",
  async (what) => {
    const shared = memoryBackend({ shared: true });
    const [from, other] = [await open(memoryBackend(), 1), await open(shared, 3)];
    let isArmed = false;
    const backend = changed(shared, (opened) => ({
      commit: async (batch) => {
        if (isArmed && batch.put?.some(({ key: [space] }) => space === "meta")) {
          isArmed = false;
          await (what === "tag" ? other.tag("d", "own") : other.append("d", [naming("own")]));
        }
        await opened.commit(batch);
      },
    }));
    const to = await open(backend, 2);
    await write(from, "d", "ab");
    await from.tag("d", "release");
    await from.copyTo(to);
    // Without a stage, which would be swept by the other tagger.
    if (what === "tag") await from.untag("d", "release");
    else await from.delete("d");
    isArmed = true;
    expect((await from.copyTo(to)).failures).toMatchObject([{ id: "d", error: { code: "EXISTS" } }]);
    expect(isArmed).toBe(false);
    if (what === "tag")
      expect((await to.tags("d")).map(({ name }) => name).sort()).toEqual(["own", "release"]);
    else expect([...(await to.load<NameSet>("d"))!.doc.names.keys()]).toEqual(["a", "b", "own"]);
    await clean(from, to, other);
  },
);

test("[MV34] two copies beside each other take nothing that the other writes for the target's own", async () => {
  for (const end of ["delete", "erase"] as const)
    await atEachReading(
      async ({ from, other }) => {
        // It has seen the document before it goes, and brings it when that is gone.
        const late = await open(memoryBackend(), 4);
        await from.copyTo(late);
        await from[end]("d");
        return () => late.copyTo(other);
      },
      async ({ other }, at, hasRun, { failures }) => {
        expect([end, at, failures]).toEqual([end, at, []]);
        if (!hasRun) expect(await other.info("d")).toBe(undefined);
      },
    );
});
