/** Listeners of a bound Y.Doc that destroy it or throw. */
import { DocumentStorage, memoryBackend } from "coppice";
import { expect, test } from "vitest";
import * as Y from "yjs";
import { bindDoc } from "../../src/dropins/index.js";
import { yjs } from "../../src/index.js";

async function storedText(storage: DocumentStorage): Promise<string | undefined> {
  const handle = await storage.load<Y.Doc>("doc");
  return handle?.doc.getText("t").toString();
}

test("[DI32] an edit whose transaction destroys the document, or its listener does, is stored", async () => {
  for (const when of ["transaction", "observer", "update"] as const) {
    await using storage: DocumentStorage = await DocumentStorage.open({
      backend: memoryBackend(),
      models: [yjs()],
    });
    const doc = new Y.Doc();
    const binding = bindDoc(storage, "doc", doc);
    await binding.loaded;
    if (when === "observer") doc.getText("t").observe(() => doc.destroy());
    if (when === "update") doc.on("update", () => doc.destroy());
    doc.transact(() => {
      doc.getText("t").insert(0, "last");
      if (when === "transaction") doc.destroy();
    });
    await binding.flush();
    expect(await storedText(storage)).toBe("last");
  }
});

test("[DI33] a listener that throws while a document is loaded is told of, and all is loaded and stored", async () => {
  await using storage: DocumentStorage = await DocumentStorage.open({
    backend: memoryBackend(),
    models: [yjs()],
  });
  const before = new Y.Doc();
  before.getText("t").insert(0, "stored");
  await storage.append("doc", [Y.encodeStateAsUpdate(before)]);
  const doc = new Y.Doc();
  const errors: unknown[] = [];
  const broken = new Error("a listener");
  const listener = () => {
    throw broken;
  };
  doc.getText("t").observe(listener);
  const binding = bindDoc(storage, "doc", doc, {
    onError: (error, { during }) => void errors.push([error, during]),
  });
  await binding.loaded;
  doc.getText("t").unobserve(listener);
  doc.getText("t").insert(6, " and new");
  await binding.flush();
  expect(errors).toEqual([[broken, "listener"]]);
  expect(await storedText(storage)).toBe("stored and new");
});
