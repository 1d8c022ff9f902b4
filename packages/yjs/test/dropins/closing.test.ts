/** A storage that closes, or is flushed, while drop-ins have captured what is not stored yet. */
import { DocumentStorage, everyEvents, isCoppiceError, memoryBackend } from "coppice";
import { simulatedBackend } from "coppice/testing";
import { expect, test } from "vitest";
import * as Y from "yjs";
import { bindDoc, websocketPersistence } from "../../src/dropins/index.js";
import { yjs } from "../../src/index.js";

async function storedText(storage: DocumentStorage): Promise<string | undefined> {
  const handle = await storage.load<Y.Doc>("doc");
  const text = handle?.doc.getText("t").toString();
  await handle?.close();
  return text;
}

test("[DI30] a storage that closes, or is flushed, waits for what was captured", async () => {
  for (const how of ["close", "flush"] as const) {
    const backend = memoryBackend();
    const storage = await DocumentStorage.open({
      backend,
      models: [yjs()],
      snapshotPolicy: everyEvents(50),
    });
    const persistence = websocketPersistence(storage);
    const doc = new Y.Doc();
    await persistence.bindState("doc", doc);
    for (let n = 0; n < 100; n++) doc.getText("t").insert(0, "a");
    await storage[how]();
    if (how === "flush") await storage.close();
    const again = await DocumentStorage.open({ backend, models: [yjs()] });
    expect(await storedText(again)).toBe("a".repeat(100));
    // A storage that closes takes no more snapshots.
    expect((await again.info("doc"))!.snapshotClock).toBe(how === "flush" ? 100 : undefined);
    await again.close();
  }
});

test("[DI30] what cannot be stored then is named, however long the next try was to come; nothing is with discard", async () => {
  for (const how of ["close", "flush", "discard"] as const) {
    const backend = simulatedBackend({ poisonsItself: false });
    const storage = await DocumentStorage.open({ backend, models: [yjs()] });
    const doc = new Y.Doc();
    const codes: unknown[] = [];
    const told = new Promise<void>((resolve) => {
      const binding = bindDoc(storage, "doc", doc, {
        retryMsMin: 600_000,
        retryMsMax: 600_000,
        onError: (error) => {
          codes.push(isCoppiceError(error) && error.code);
          resolve();
        },
      });
      void binding.loaded.then(() => doc.getText("t").insert(0, "x"));
    });
    backend.failNext("commit", "unavailable");
    await told;
    backend.failNext("commit", "unavailable");
    const ended = how === "flush" ? storage.flush() : storage.close({ discard: how === "discard" });
    if (how === "discard") await ended;
    else await expect(ended).rejects.toMatchObject({ code: "UNAVAILABLE", details: { ids: ["doc"] } });
    if (how === "flush") {
      await storage.flush();
      expect(await storedText(storage)).toBe("x");
      await storage.close();
    }
    expect(codes.slice(0, 2)).toEqual(how === "discard" ? ["UNAVAILABLE"] : ["UNAVAILABLE", "UNAVAILABLE"]);
    doc.destroy();
  }
});

test("[DI30] a storage that closes stores what a document got that is still loading, or whose id was deleted", async () => {
  for (const wasDeleted of [false, true]) {
    const backend = memoryBackend();
    const storage = await DocumentStorage.open({ backend, models: [yjs()] });
    await storage.open("doc");
    if (wasDeleted) await storage.delete("doc");
    const doc = new Y.Doc();
    const errors: unknown[] = [];
    const binding = bindDoc(storage, "doc", doc, { onError: (error) => void errors.push(error) });
    if (wasDeleted) await binding.loaded;
    doc.getText("t").insert(0, "x");
    await storage.close();
    expect(errors).toEqual([]);
    const again = await DocumentStorage.open({ backend, models: [yjs()] });
    expect(await storedText(again)).toBe("x");
    await again.close();
  }
});

test("[DI30] a document whose edits can never be stored is named by the storage that closes", async () => {
  const storage = await DocumentStorage.open({ backend: memoryBackend(), models: [yjs()] });
  await storage.open("doc");
  const doc = new Y.Doc();
  await bindDoc(storage, "doc", doc, { onError: () => undefined }).loaded;
  await storage.delete("doc");
  doc.getText("t").insert(0, "x");
  await expect(storage.close()).rejects.toMatchObject({ code: "DELETED", details: { ids: ["doc"] } });
});

test("[DI30] a poisoned storage closes though a document waits for an earlier one of its id, and ends both", async () => {
  const backend = simulatedBackend({ poisonsItself: true });
  const storage = await DocumentStorage.open({ backend, models: [yjs()] });
  const [first, second] = [new Y.Doc(), new Y.Doc()];
  const options = { retryMsMin: 1, retryMsMax: 1, onError: () => undefined };
  const earlier = bindDoc(storage, "doc", first, options);
  await earlier.loaded;
  backend.failNext("commit", "unavailable", { sticky: true });
  first.getText("t").insert(0, "x");
  const later = bindDoc(storage, "doc", second, options);
  second.getText("t").insert(0, "y");
  await expect(storage.close()).rejects.toMatchObject({ details: { ids: ["doc"] } });
  await expect(earlier.flush()).rejects.toMatchObject({ code: "CLOSED" });
  await expect(later.flush()).rejects.toMatchObject({ code: "CLOSED" });
});
