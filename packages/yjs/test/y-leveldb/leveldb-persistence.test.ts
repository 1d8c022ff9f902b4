/**
 * What our `LeveldbPersistence` does beyond y-leveldb's own tests: failures, order, names, metas, the view.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ClassicLevel } from "classic-level";
import { DocumentStorage, isCoppiceError, memoryBackend } from "coppice";
import { simulatedBackend } from "coppice/testing";
import { expect, onTestFinished, test } from "vitest";
import { LeveldbPersistence as YLeveldb } from "y-leveldb";
import * as Y from "yjs";
import { yjs } from "../../src/index.js";
import {
  getLevelBulkEntries,
  getLevelUpdatesEntries,
  LeveldbPersistence,
  type LeveldbPersistenceOptions,
} from "../../src/y-leveldb/index.js";
import { decodeLevelKey, encodeLevelKey } from "../../src/y-leveldb/keys.js";

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), "coppice-y-leveldb-"));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

function typed(...words: string[]): { updates: Uint8Array[]; doc: Y.Doc } {
  const doc = new Y.Doc();
  const updates: Uint8Array[] = [];
  doc.on("update", (update: Uint8Array) => updates.push(update));
  for (const word of words) doc.getText("t").insert(doc.getText("t").length, word);
  return { updates, doc };
}

const textOf = (doc: Y.Doc) => doc.getText("t").toString();

async function over(backend = memoryBackend() as Parameters<typeof DocumentStorage.open>[0]["backend"]) {
  const storage: DocumentStorage = await DocumentStorage.open({ backend, models: [yjs()] });
  onTestFinished(async () => {
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });
  return { storage, persistence: new LeveldbPersistence(storage) };
}

test("[DI37] with recreate: false a name that was cleared or erased takes nothing more", async () => {
  const { storage } = await over();
  const persistence = new LeveldbPersistence(storage, { recreate: false });
  const { updates } = typed("a", "b");
  for (const name of ["cleared", "erased", "kept"]) {
    await persistence.storeUpdate(name, updates[0]!);
    await persistence.setMeta(name, "key", "value");
  }
  await persistence.clearDocument("cleared");
  await storage.erase("erased");
  for (const name of ["cleared", "erased"]) {
    const gone = { code: "DELETED", details: { id: name } };
    await expect(persistence.storeUpdate(name, updates[1]!)).rejects.toMatchObject(gone);
    expect(await storage.info(name)).toBeUndefined();
  }
  await expect(persistence.setMeta("cleared", "key", "again")).rejects.toMatchObject({ code: "DELETED" });
  expect(await persistence.getMeta("cleared", "key")).toBeUndefined();
  await persistence.setMeta("kept", "key", "again");
  await persistence.storeUpdate("kept", updates[1]!);
  expect(textOf(await persistence.getYDoc("kept"))).toBe("ab");
  expect(await persistence.getMeta("kept", "key")).toBe("again");
  await persistence.destroy();
});

test("[DI21] a second owner of the directory is told LOCKED by every call", async () => {
  const location = folder();
  const first = new LeveldbPersistence(location);
  const { updates } = typed("a");
  await first.storeUpdate("doc", updates[0]!);
  const errors: unknown[] = [];
  const second = new LeveldbPersistence(location, { onError: (error) => errors.push(error) });
  for (const call of [
    second.storeUpdate("doc", updates[0]!),
    second.getYDoc("doc"),
    second.getAllDocNames(),
    second.setMeta("doc", "a", 1),
    second.clearDocument("doc"),
    second.destroy(),
  ]) {
    await expect(call).rejects.toMatchObject({ code: "LOCKED" });
  }
  expect(errors.length).toBeGreaterThan(0);
  expect(errors.every((error) => isCoppiceError(error, "LOCKED"))).toBe(true);
  await first.destroy();
  const third = new LeveldbPersistence(location, { levelOptions: { cacheSize: 1024 * 1024 } });
  expect(textOf(await third.getYDoc("doc"))).toBe("a");
  await third.destroy();
  expect(() => new LeveldbPersistence(location, { levelOptions: { nonsense: 1 } })).toThrow(TypeError);
});

test("[DI28] a database of y-leveldb is refused as it is, on a class of abstract-level that is passed too", async () => {
  const location = folder();
  const theirs = new YLeveldb(location);
  for (const update of typed("a", "b").updates) await theirs.storeUpdate("doc", update);
  await theirs.destroy();
  const Level = ClassicLevel as unknown as NonNullable<LeveldbPersistenceOptions["Level"]>;
  for (const options of [{}, { Level }]) {
    const ours = new LeveldbPersistence(location, options);
    const calls = [ours.getAllDocNames(), ours.storeUpdate("doc", typed("c").updates[0]!), ours.destroy()];
    for (const result of await Promise.allSettled(calls)) {
      const reason = { code: "UNAVAILABLE", message: expect.stringContaining("coppice import y-leveldb") };
      expect(result).toMatchObject({ status: "rejected", reason });
    }
  }
  const again = new YLeveldb(location);
  expect(textOf(await again.getYDoc("doc"))).toBe("ab");
  await again.destroy();

  const fresh = folder();
  for (const names of [[], ["doc"]]) {
    const ours = new LeveldbPersistence(fresh, { Level });
    expect(await ours.getAllDocNames()).toEqual(names);
    await ours.storeUpdate("doc", typed("a").updates[0]!);
    await ours.destroy();
  }
});

test("[DI21] a name that is no string is ID_INVALID, and nothing is stored under a name made of it", async () => {
  const storage = await DocumentStorage.open({ backend: simulatedBackend(), models: [yjs()] });
  const persistence = new LeveldbPersistence(storage);
  const name = 5 as unknown as string;
  const calls = [
    persistence.storeUpdate(name, typed("a").updates[0]!),
    persistence.setMeta(name, "title", "a"),
    persistence.getYDoc(name),
  ];
  for (const result of await Promise.allSettled(calls)) {
    expect(result).toMatchObject({ status: "rejected", reason: { code: "ID_INVALID" } });
  }
  for await (const id of storage.list()) expect.unreachable(id);
  await persistence.destroy();
  await storage.close();
});

test("[DI21] what cannot be stored rejects, and onError makes it safe to look away", async () => {
  const backend = simulatedBackend();
  const storage = await DocumentStorage.open({ backend, models: [yjs()] });
  const errors: unknown[] = [];
  const persistence = new LeveldbPersistence(storage, { onError: (error) => errors.push(error) });
  await expect(persistence.storeUpdate("doc", Uint8Array.of(1, 2, 3))).rejects.toMatchObject({
    code: "EVENT_INVALID",
  });
  backend.failNext("commit", "unavailable");
  void persistence.storeUpdate("doc", typed("a").updates[0]!);
  expect(await persistence.getAllDocNames()).toEqual([]);
  expect(errors).toMatchObject([{ code: "EVENT_INVALID" }, { code: "UNAVAILABLE" }]);
  await persistence.destroy();
  await storage.recover();
  expect((await storage.check()).problems).toEqual([]);
  await storage.close();
});

test("[DI22] a call sees those before it, awaited or not", async () => {
  const { persistence } = await over();
  const { updates } = typed(..."abcdefgh");
  const clocks = updates.map((update) => persistence.storeUpdate("doc", update));
  const whole = persistence.getYDoc("doc");
  const cleared = persistence.clearDocument("doc");
  const empty = persistence.getYDoc("doc");
  const again = persistence.storeUpdate("doc", updates[0]!);
  const names = persistence.getAllDocNames();
  expect(await Promise.all(clocks)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  expect(textOf(await whole)).toBe("abcdefgh");
  await cleared;
  expect(textOf(await empty)).toBe("");
  await again;
  expect(await names).toEqual(["doc"]);
  expect(textOf(await persistence.getYDoc("doc"))).toBe("a");
});

test("[DI22] one document does not wait for another", async () => {
  const backend = simulatedBackend();
  const { persistence } = await over(backend);
  const { updates } = typed("a");
  await persistence.storeUpdate("slow", updates[0]!);
  const order: string[] = [];
  const slow = persistence.flushDocument("slow").then(() => order.push("slow"));
  const quick = persistence.getStateVector("other").then(() => order.push("quick"));
  await Promise.all([slow, quick]);
  expect(order[0]).toBe("quick");
});

test("[DI23] metas are kept beside the document, whatever they hold, and go with it", async () => {
  const { persistence, storage } = await over();
  const values = {
    n: 4.5,
    text: "ü",
    list: [1, null, { deep: Uint8Array.of(1) }],
    no: null,
    yes: true,
    un: undefined,
  };
  for (const [key, value] of Object.entries(values)) await persistence.setMeta("doc", key, value);
  expect(await persistence.getMetas("doc")).toEqual(new Map(Object.entries(values)));
  expect(await persistence.getMeta("doc", "list")).toEqual(values.list);
  expect(await persistence.getAllDocNames()).toEqual([]);
  await Promise.all([persistence.setMeta("doc", "n", 1), persistence.setMeta("doc", "n", 2)]);
  expect(await persistence.getMeta("doc", "n")).toBe(2);
  await persistence.delMeta("doc", "n");
  expect(await persistence.getMeta("doc", "n")).toBeUndefined();
  await persistence.storeUpdate("doc", typed("a").updates[0]!);
  await persistence.clearDocument("doc");
  expect((await persistence.getMetas("doc")).size).toBe(0);
  expect(await persistence.getAllDocNames()).toEqual([]);
  for await (const id of storage.list()) expect(id).toBe("nothing is left");
  await expect(
    persistence.storeUpdate("\0y-leveldb meta\0doc", typed("a").updates[0]!),
  ).rejects.toMatchObject({
    code: "ID_INVALID",
  });
});

test("[DI23] a document whose name leaves no room for metas has none, and is cleared as others are", async () => {
  const { persistence } = await over();
  for (const name of ["x".repeat(496), "x".repeat(497), "x".repeat(512)]) {
    await persistence.storeUpdate(name, typed("a").updates[0]!);
    expect((await persistence.getMetas(name)).size).toBe(0);
    expect(await persistence.getMeta(name, "n")).toBeUndefined();
    if (name.length === 496) await persistence.setMeta(name, "n", 1);
    else
      await expect(persistence.setMeta(name, "n", 1)).rejects.toMatchObject({
        code: "ID_INVALID",
        message: expect.stringContaining("too long to keep metas beside it"),
        details: { max: 496, actual: name.length },
      });
    expect(textOf(await persistence.getYDoc(name))).toBe("a");
    await persistence.clearDocument(name);
  }
  expect(await persistence.getAllDocNames()).toEqual([]);
  await expect(persistence.clearDocument("x".repeat(513))).rejects.toMatchObject({ code: "ID_INVALID" });
});

test("[DI24] the view shows y-leveldb's keys in their order, and changes nothing but everything", async () => {
  const { persistence } = await over();
  const { updates, doc } = typed("a", "b", "c");
  await persistence.storeUpdate("doc", updates[0]!);
  await persistence.storeUpdate("doc", updates[1]!);
  await persistence.flushDocument("doc");
  await persistence.storeUpdate("doc", updates[2]!);
  await persistence.storeUpdate("longer name", updates[0]!);
  await persistence.setMeta("doc", "k", 7);
  await persistence._transact(async (view) => {
    const all = await getLevelBulkEntries(view, { gte: ["v1"], lt: ["v2"] });
    expect(all.map(({ key }) => key)).toEqual([
      ["v1", "doc", "meta", "k"],
      ["v1", "doc", "update", 1],
      ["v1", "doc", "update", 2],
      ["v1", "longer name", "update", 0],
    ]);
    const built = new Y.Doc();
    for (const { value } of await getLevelUpdatesEntries(view, "doc")) Y.applyUpdate(built, value);
    expect(textOf(built)).toBe(textOf(doc));
    const newest = await getLevelUpdatesEntries(view, "doc", { reverse: true, limit: 1 });
    expect(newest.map(({ key }) => key[3])).toEqual([2]);
    expect(await view.get(["v1", "doc", "update", 2])).toEqual(updates[2]);
    expect(await view.get(["v1", "doc", "update", 9])).toBeUndefined();
    await expect(view.clear({ gte: ["v1", "doc"] })).rejects.toMatchObject({ code: "TRAIT_MISSING" });
    await view.clear();
  });
  expect(await persistence.getAllDocNames()).toEqual([]);
  const key = ["v1", "ü\0", "update", 4_000_000_000];
  expect(decodeLevelKey(encodeLevelKey(key))).toEqual(key);
  expect(() => decodeLevelKey(Uint8Array.of(9))).toThrow(TypeError);
});

test("[DI24] names, state vectors and diffs are those of y-leveldb, without documents of other models", async () => {
  const other = { ...yjs(), name: "other" };
  const storage: DocumentStorage = await DocumentStorage.open({
    backend: memoryBackend(),
    models: [yjs(), other],
  });
  const persistence = new LeveldbPersistence(storage);
  const { updates, doc } = typed("a", "b");
  for (const update of updates) await persistence.storeUpdate("doc", update);
  await storage.append("foreign", [updates[0]!], { model: "other" });
  const sv = Y.encodeStateVector(doc);
  expect(await persistence.getAllDocStateVectors()).toEqual([{ name: "doc", sv, clock: 1 }]);
  expect(await persistence.getDiff("doc", sv)).toEqual(Uint8Array.of(0, 0));
  expect(await persistence.getDiff("none", sv)).toEqual(Uint8Array.of(0, 0));
  await expect(persistence.getYDoc("foreign")).rejects.toMatchObject({ code: "MODEL_UNKNOWN" });
  await persistence.destroy();
  expect(await storage.info("doc")).toBeDefined();
  await storage.close();
});
