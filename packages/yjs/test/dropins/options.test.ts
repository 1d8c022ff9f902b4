import { LeveldbPersistence } from "@coppice/yjs/y-leveldb";
import { DocumentStorage, memoryBackend, tree } from "coppice";
import { expect, test } from "vitest";
import * as Y from "yjs";
import { bindDoc, websocketPersistence } from "../../src/dropins/index.js";
import { yjs } from "../../src/index.js";
import { importYLeveldb } from "../../src/y-leveldb/import.js";

test("[ST97] the drop-ins and the model refuse options that there are not", async () => {
  const storage = await DocumentStorage.open({ backend: memoryBackend(), models: [yjs()] });
  const loose = (options: object) => options as never;
  const onEror = () => undefined;
  expect(() => yjs(loose({ cg: false }))).toThrow("yjs has no option cg");
  expect(() => bindDoc(storage, "d", new Y.Doc(), loose({ onEror }))).toThrow("bindDoc has no option onEror");
  expect(() => websocketPersistence(storage, loose({ onEror }))).toThrow(
    "websocketPersistence has no option onEror",
  );
  expect(() => new LeveldbPersistence(storage, loose({ onEror }))).toThrow(
    "LeveldbPersistence has no option onEror",
  );
  expect(() => yjs(loose({ gc: "no" }))).toThrow("yjs: gc must be true or false");
  expect(() => bindDoc(storage, "d", loose(undefined as never))).toThrow("bindDoc wants a Y.Doc");
  const source = (async function* () {})();
  await expect(importYLeveldb(loose(source), storage, loose({ singal: undefined }))).rejects.toThrow(
    "importYLeveldb has no option singal",
  );
  await storage.close();
});

test("[ST98] the drop-ins refuse what is no open storage, such as a directory or a promise, and say what they want", () => {
  const opening = DocumentStorage.open({ backend: memoryBackend(), models: [yjs()] });
  for (const wrong of [undefined, "./data", memoryBackend(), opening] as never[]) {
    expect(() => bindDoc(wrong, "d", new Y.Doc())).toThrow("bindDoc wants an open storage: await");
    expect(() => websocketPersistence(wrong)).toThrow("websocketPersistence wants an open storage");
  }
  expect(() => new LeveldbPersistence(opening as never)).toThrow(
    "LeveldbPersistence, unless given a directory, wants an open storage",
  );
  return opening.then((storage) => storage.close());
});

test("[ST98] the drop-ins refuse a storage without their model, before anything is bound", async () => {
  const storage = await DocumentStorage.open({ backend: memoryBackend(), models: [tree()] });
  const wanted = "wants a storage with the yjs model; this one has tree";
  const loose = storage as never;
  expect(() => bindDoc(loose, "d", new Y.Doc())).toThrow(`bindDoc ${wanted}`);
  expect(() => websocketPersistence(loose)).toThrow(`websocketPersistence ${wanted}`);
  expect(() => new LeveldbPersistence(loose)).toThrow(wanted);
  await storage.close();
});

test("[ST103] the drop-ins and the import refuse what is missing, or another thing, and say what they want", async () => {
  const storage = await DocumentStorage.open({ backend: memoryBackend(), models: [yjs()] });
  for (const id of ["", undefined, 5] as never[])
    expect(() => bindDoc(storage, id, new Y.Doc())).toThrow(
      new TypeError("bindDoc wants the id of a document: a string that is not empty"),
    );
  const importing = importYLeveldb as (...given: readonly unknown[]) => Promise<unknown>;
  const source = { iterator: async function* () {} };
  await expect(importing()).rejects.toThrow("importYLeveldb wants the old database, open");
  for (const wrong of [undefined, "./data", memoryBackend()])
    await expect(importing(source, wrong)).rejects.toThrow("importYLeveldb wants an open storage: await");
  await storage.close();
});

test("[ST103] a client that asks for a document without a name ends no server of the drop-in", async () => {
  const storage = await DocumentStorage.open({ backend: memoryBackend(), models: [yjs()] });
  const errors: unknown[] = [];
  const persistence = websocketPersistence(storage, { onError: (error) => void errors.push(error) });
  const doc = new Y.Doc();
  await expect(persistence.bindState("", doc)).rejects.toMatchObject({ code: "ID_INVALID" });
  expect(errors).toMatchObject([{ code: "ID_INVALID" }]);
  expect(() => persistence.bindState("d", undefined as never)).toThrow(
    new TypeError("bindDoc wants a Y.Doc"),
  );
  doc.destroy();
  await storage.close();
});
