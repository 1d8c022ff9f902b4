/**
 * Moving databases over that the real y-leveldb wrote.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ClassicLevel } from "classic-level";
import { DocumentStorage, memoryBackend } from "coppice";
import { simulatedBackend } from "coppice/testing";
import { expect, onTestFinished, test } from "vitest";
import { LeveldbPersistence as Theirs } from "y-leveldb";
import * as Y from "yjs";
import { seeded } from "../../../../test/support/chance.js";
import { yjs } from "../../src/index.js";
import { type ImportedDocument, importYLeveldb, LeveldbPersistence } from "../../src/y-leveldb/index.js";
import { encodeLevelKey } from "../../src/y-leveldb/keys.js";
import { editDoc } from "../editing.js";

/** A database by y-leveldb: documents of all kinds of content, some flushed, one without updates. */
async function written() {
  const location = mkdtempSync(join(tmpdir(), "coppice-import-"));
  onTestFinished(() => rmSync(location, { recursive: true, force: true }));
  const theirs = new Theirs(location);
  const docs = new Map<string, Y.Doc>();
  const updates: Uint8Array[] = [];
  const random = seeded(7);
  for (const [n, name] of ["a", "ü/é", "a long name", "\0", "b"].entries()) {
    const doc = new Y.Doc();
    const stores: Promise<unknown>[] = [];
    doc.on("update", (update: Uint8Array) => {
      if (n === 0) updates.push(update);
      stores.push(theirs.storeUpdate(name, update));
    });
    for (let edit = 0; edit < 40 + n; edit++) editDoc(doc, random);
    await Promise.all(stores);
    if (n === 1) await theirs.flushDocument(name);
    docs.set(name, doc);
  }
  await theirs.setMeta("a", "title", "first");
  await theirs.setMeta("only metas", "n", [1, { two: 2 }]);
  await theirs.destroy();
  /** `updates`: those of document a. */
  return { location, docs, updates };
}

async function open(location: string): Promise<ClassicLevel<Uint8Array, Uint8Array>> {
  const source = new ClassicLevel<Uint8Array, Uint8Array>(location, {
    keyEncoding: "buffer",
    valueEncoding: "buffer",
  });
  await source.open();
  onTestFinished(() => source.close());
  return source;
}

async function target(backend = memoryBackend() as Parameters<typeof DocumentStorage.open>[0]["backend"]) {
  const storage: DocumentStorage = await DocumentStorage.open({ backend, models: [yjs()] });
  onTestFinished(async () => {
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });
  return storage;
}

async function assertMoved(storage: DocumentStorage, docs: ReadonlyMap<string, Y.Doc>): Promise<void> {
  const ours = new LeveldbPersistence(storage);
  expect((await ours.getAllDocNames()).sort()).toEqual([...docs.keys()].sort());
  for (const [name, doc] of docs) {
    const moved = await ours.getYDoc(name);
    expect(Y.equalSnapshots(Y.snapshot(moved), Y.snapshot(doc)), name).toBe(true);
  }
}

test("[DI25] every document and every meta moves over, verified, with its updates as events", async () => {
  const { location, docs } = await written();
  const storage = await target();
  const seen: ImportedDocument[] = [];
  const report = await importYLeveldb(await open(location), storage, { onDocument: (one) => seen.push(one) });
  expect(report).toMatchObject({ documents: 6, imported: 6, present: 0, problems: [] });
  expect(report.appended).toBe(report.updates);
  expect(seen.map(({ id }) => id).sort()).toEqual([...docs.keys(), "only metas"].sort());
  await assertMoved(storage, docs);
  const ours = new LeveldbPersistence(storage);
  expect(await ours.getMeta("a", "title")).toBe("first");
  expect(await ours.getMeta("only metas", "n")).toEqual([1, { two: 2 }]);
  const info = await storage.info("a");
  expect(info?.clock).toBe(seen.find(({ id }) => id === "a")?.updates);
});

test("[DI34] a source that cannot be opened says why, is left alone, and can be tried again", async () => {
  const { location, docs } = await written();
  const storage = await target();
  const owner = await open(location);
  const source = new ClassicLevel<Uint8Array, Uint8Array>(location, { createIfMissing: false });
  onTestFinished(() => source.close());
  await expect(importYLeveldb(source, storage)).rejects.toMatchObject({
    code: "LOCKED",
    message: expect.stringContaining("stop the server"),
  });
  const none = new ClassicLevel<Uint8Array, Uint8Array>(join(location, "none"), { createIfMissing: false });
  // In the background it has failed before it is asked for.
  await expect(none.open()).rejects.toThrow();
  await expect(importYLeveldb(none, storage)).rejects.toMatchObject({
    code: "UNAVAILABLE",
    message: expect.stringContaining("does not exist"),
  });
  await owner.close();
  expect(await importYLeveldb(source, storage)).toMatchObject({ documents: 6, problems: [] });
  await assertMoved(storage, docs);
});

test("[DI25] the name of a directory is no database, and the error says what is wanted", async () => {
  const storage = await DocumentStorage.open({ backend: memoryBackend(), models: [yjs()] });
  await expect(importYLeveldb("./old" as never, storage)).rejects.toThrow("new ClassicLevel(directory)");
  await storage.close();
});

test("[DI26] an import may be repeated, and goes on where it was interrupted", async () => {
  const { location, docs } = await written();
  const source = await open(location);
  const backend = simulatedBackend({ poisonsItself: false });
  const storage = await target(backend);
  let runs = 0;
  // The first commits fail, fewer each time, so that more and more is there already.
  for (let problems = 1; problems > 0; runs++) {
    for (let n = runs; n < 5; n++) backend.failNext("commit", "unavailable");
    const report = await importYLeveldb(source, storage);
    problems = report.problems.length;
    expect(report.problems.every(({ outcome }) => outcome === "failed")).toBe(true);
  }
  expect(runs).toBe(6);
  await assertMoved(storage, docs);
  backend.heal();
  const clock = (await storage.info("a"))?.clock;
  expect(await importYLeveldb(source, storage)).toMatchObject({ imported: 0, present: 6, appended: 0 });
  expect((await storage.info("a"))?.clock).toBe(clock);

  const stop = new AbortController();
  const fresh = await target();
  const onDocument = () => stop.abort(new Error("stopped"));
  await expect(importYLeveldb(source, fresh, { signal: stop.signal, onDocument })).rejects.toThrow("stopped");
  expect(await importYLeveldb(source, fresh)).toMatchObject({ imported: 5, present: 1, problems: [] });
  await assertMoved(fresh, docs);
});

test("[DI26] of a document that is half moved the rest moves over", async () => {
  const { location, docs, updates } = await written();
  const storage = await target();
  await storage.append("a", updates.slice(0, 10));
  const report = await importYLeveldb(await open(location), storage);
  expect(report).toMatchObject({ imported: 6, problems: [], appended: report.updates - 10 });
  expect((await storage.info("a"))?.clock).toBe(updates.length);
  await assertMoved(storage, docs);
});

test("[DI26] what the storage has besides is kept, and joined with what comes", async () => {
  const { location, docs } = await written();
  const storage = await target();
  const local = new Y.Doc();
  local.getText("elsewhere").insert(0, "typed here before the move");
  await storage.append("a", [Y.encodeStateAsUpdate(local)]);
  await storage.compact("a");
  const report = await importYLeveldb(await open(location), storage);
  expect(report.problems).toEqual([]);
  const doc = await new LeveldbPersistence(storage).getYDoc("a");
  expect(doc.getText("elsewhere").toString()).toBe("typed here before the move");
  Y.applyUpdate(doc, Y.encodeStateAsUpdate(docs.get("a")!));
  const version = Y.encodeSnapshot(Y.snapshot(doc));
  expect(Y.encodeSnapshot(Y.snapshot(await new LeveldbPersistence(storage).getYDoc("a")))).toEqual(version);
});

test("[DI27] damaged metas are named, and all else of their document and the documents after it moves over", async () => {
  const { location, docs } = await written();
  const source = await open(location);
  const cut = Uint8Array.of(119, 200, 65);
  for (const [key, value] of [
    ["cut", cut],
    ["empty", new Uint8Array()],
    ["unknown kind", Uint8Array.of(3)],
  ] as const) {
    await source.put(encodeLevelKey(["v1", "a", "meta", key]), value);
  }
  await source.put(encodeLevelKey(["v1", "only metas", "meta", "cut"]), cut);
  const storage = await target();
  const report = await importYLeveldb(source, storage);
  expect(report).toMatchObject({ documents: 6, imported: 4 });
  expect(report.problems).toMatchObject([
    {
      id: "a",
      outcome: "damaged",
      metas: 4,
      reason: expect.stringMatching(/^meta "cut": .*; meta "empty": .*; meta "unknown kind": /),
    },
    { id: "only metas", outcome: "damaged", reason: expect.stringMatching(/^meta "cut": [^;]*$/) },
  ]);
  await assertMoved(storage, docs);
  const ours = new LeveldbPersistence(storage);
  expect(await ours.getMetas("a")).toEqual(new Map([["title", "first"]]));
  expect(await ours.getMetas("only metas")).toEqual(new Map([["n", [1, { two: 2 }]]]));
  expect(await importYLeveldb(source, storage)).toMatchObject({ imported: 0, present: 4, appended: 0 });
});

test("[DI27] damaged updates are named, and all else of the document moves over", async () => {
  const { location, docs } = await written();
  const source = await open(location);
  await source.put(encodeLevelKey(["v1", "b", "update", 7]), Uint8Array.of(1, 2, 3));
  await source.put(
    encodeLevelKey(["v1", "x".repeat(600), "update", 0]),
    Y.encodeStateAsUpdate(docs.get("a")!),
  );
  const storage = await target();
  const report = await importYLeveldb(source, storage);
  expect(report).toMatchObject({ documents: 7, imported: 5 });
  expect(report.problems).toMatchObject([
    { id: "b", outcome: "damaged", reason: expect.stringContaining("update 7: ") },
    { id: "x".repeat(600), outcome: "failed", reason: expect.stringContaining("512") },
  ]);
  expect((await storage.info("b"))?.clock).toBe((report.problems[0]?.updates ?? 0) - 1);
});
