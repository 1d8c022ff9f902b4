// Live Yjs documents as servers use them: providers that apply updates of their own, listeners that throw, and
// more edits between two saves than a call takes arguments. Nothing of them may be lost, and no snapshot of a
// live document may differ from the log below its clock.

import { yjs } from "@coppice/yjs";
import { bindDoc } from "@coppice/yjs/dropins";
import { type BackendFactory, DocumentStorage, memoryBackend, never } from "coppice";
import { expect, test } from "vitest";
import * as Y from "yjs";
import { add, nameSet, naming } from "../support/oracle-model.js";

const open = () => DocumentStorage.open({ backend: memoryBackend(), models: [yjs()], snapshotPolicy: never });

const text = (handle: { doc: Y.Doc } | undefined) => handle?.doc.getText("t").toString();

/** Two updates of one author; the second builds on the first. */
function conversation(): [Uint8Array, Uint8Array] {
  const updates: Uint8Array[] = [];
  const author = new Y.Doc();
  author.on("update", (update: Uint8Array) => updates.push(update));
  author.getText("t").insert(0, "AAA");
  author.getText("t").insert(3, "BBB");
  return updates as [Uint8Array, Uint8Array];
}

test("[ST70] what a provider applied too early outlives snapshots and compactions of the live document", async () => {
  const [first, second] = conversation();
  const storage = await open();
  const handle = await storage.open("d");
  Y.applyUpdate(handle.doc, second);
  await handle.save();
  expect(await handle.snapshot()).toBe(1);
  expect((await storage.check()).problems).toEqual([]);
  handle.doc.getMap("m").set("k", 1);
  await handle.save();
  expect((await handle.compact()).held).toBe(1);
  await storage.append("d", [first]);
  expect(text(await storage.load("d"))).toBe("AAABBB");
  await storage.close();
});

test("[ST70] a held event that a provider completed counts as applied in the next snapshot", async () => {
  const [first, second] = conversation();
  const storage = await open();
  const handle = await storage.open("d");
  expect(handle.receive([second]).held).toBe(1);
  Y.applyUpdate(handle.doc, first);
  await handle.save();
  await handle.snapshot();
  expect((await storage.check()).problems).toEqual([]);
  expect((await storage.load("d"))?.held).toEqual([]);
  await storage.close();
});

test("[ST71] a save takes more events than a call takes arguments, also after one that failed", async () => {
  const count = 150_000;
  const storage = await DocumentStorage.open({
    backend: memoryBackend(),
    models: [nameSet()],
    snapshotPolicy: never,
    limits: { eventBytesMax: 100 },
  });
  const handle = await storage.open("d");
  handle.receive(Array.from({ length: count }, (_, index) => naming(`r${index}`)));
  for (let index = 0; index < count; index++) handle.change(add(`c${index}`));
  handle.change(add("x".repeat(200)));
  await expect(handle.save()).rejects.toMatchObject({ code: "EVENT_TOO_LARGE" });
  expect(handle.unsaved).toBe(true);
  await handle.close({ discard: true });
  const other = await storage.open("d");
  other.receive(Array.from({ length: count }, (_, index) => naming(`r${index}`)));
  for (let index = 0; index < count; index++) other.change(add(`c${index}`));
  expect(await other.save()).toBe(2 * count);
  expect((await storage.load("d"))?.doc.names.size).toBe(2 * count);
  await storage.close();
});

test("[ST72] received events are stored although an observer of the application throws", async () => {
  const [first, second] = conversation();
  const storage = await open();
  const handle = await storage.open("d");
  const observer = () => {
    throw new Error("of the application");
  };
  handle.doc.getText("t").observe(observer);
  expect(() => handle.receive([first])).toThrow("of the application");
  handle.doc.getText("t").unobserve(observer);
  handle.receive([second]);
  expect(await handle.save()).toBe(2);
  expect(text(await storage.load("d"))).toBe("AAABBB");
  await storage.close();
});

for (const event of ["beforeObserverCalls", "afterTransaction", "afterAllTransactions"] as const) {
  test(`[ST72] a listener that throws at each "${event}" keeps nothing back beside a held event`, async () => {
    const [first, second] = conversation();
    const [[beside], [later], [pulled]] = [conversation(), conversation(), conversation()];
    const storage = await open();
    const handle = await storage.open("d");
    const listener = () => {
      throw new Error("of the application");
    };
    handle.doc.on(event, listener);
    // Held by the same call, then held already.
    expect(() => handle.receive([beside, second])).toThrow("of the application");
    expect(handle.held).toHaveLength(1);
    expect(() => handle.receive([later])).toThrow("of the application");
    expect(handle.unsaved).toBe(true);
    expect(await handle.save()).toBe(3);
    expect(text(await storage.load("d"))).toBe(text(handle));
    await storage.append("d", [pulled]);
    await expect(handle.refresh()).rejects.toThrow("of the application");
    expect(await handle.refresh()).toBe(4);
    handle.doc.off(event, listener);
    handle.receive([first]);
    expect(await handle.save()).toBe(5);
    expect(await handle.snapshot()).toBe(5);
    expect(text(await storage.load("d"))).toBe(text(handle));
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });
}

test("[ST72] a document of which the model cannot tell what it applied serves for no snapshot", async () => {
  const inner = nameSet();
  let failing = false;
  const model: typeof inner = {
    ...inner,
    apply: (doc, events) => {
      const applied = inner.apply(doc, events);
      if (failing) throw new Error("of the application");
      return applied;
    },
  };
  const backend = memoryBackend();
  const storage = await DocumentStorage.open({ backend, models: [model], snapshotPolicy: never });
  const handle = await storage.open("d");
  failing = true;
  expect(() => handle.receive([naming("x")])).toThrow("of the application");
  failing = false;
  handle.change(add("y"));
  await handle.save();
  expect(await handle.snapshot()).toBe(1);
  expect([...(await storage.load("d"))!.doc.names.keys()]).toEqual(["y"]);
  expect((await storage.check()).problems).toEqual([]);
  await storage.close();
});

for (const event of ["afterTransactionCleanup", "update", "updateV2", "afterAllTransactions"] as const) {
  test(`[ST73] a listener that throws at "${event}" keeps no edit from being saved`, async () => {
    const storage = await open();
    const handle = await storage.open("d");
    const listener = () => {
      throw new Error("of the application");
    };
    handle.doc.on(event, listener);
    expect(() => handle.doc.getText("t").insert(0, "a")).toThrow("of the application");
    handle.doc.off(event, listener);
    await Promise.resolve();
    handle.doc.getText("t").insert(1, "b");
    await handle.save();
    expect(text(await storage.load("d"))).toBe("ab");
    await handle.snapshot();
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });
}

for (const event of ["afterTransactionCleanup", "update", "updateV2"] as const) {
  for (const call of ["receive", "refresh"] as const) {
    test(`[ST73] what an observer edits in ${call} is saved although "${event}" throws after it`, async () => {
      const [first] = conversation();
      const storage = await open();
      const handle = await storage.open("d");
      handle.doc.getText("t").insert(0, "Z");
      await handle.save();
      let observed = 0;
      handle.doc.getText("t").observe(() => {
        if (observed++ === 0) handle.doc.getMap("m").set("seen", true);
      });
      handle.doc.once(event, () => {
        throw new Error("of the application");
      });
      if (call === "refresh") await storage.append("d", [first]);
      const act = async () => (call === "refresh" ? handle.refresh() : handle.receive([first]));
      await expect(act()).rejects.toThrow("of the application");
      expect(handle.unsaved).toBe(true);
      await handle.save();
      handle.doc.getText("t").insert(0, "later");
      await handle.save();
      const loaded = await storage.load("d");
      expect(loaded?.held).toEqual([]);
      expect(text(loaded)).toBe(text(handle));
      expect(loaded?.doc.getMap("m").toJSON()).toEqual({ seen: true });
      await handle.refresh();
      await handle.snapshot();
      expect((await storage.check()).problems).toEqual([]);
      await storage.close();
    });
  }
}

test("[ST73] a listener that throws keeps no edit from either of two storages of one document", async () => {
  const storages = [await open(), await open()];
  const doc = new Y.Doc();
  let updates = 0;
  doc.on("update", () => {
    if (++updates === 2) throw new Error("of the application");
  });
  const bound = storages.map((storage) => bindDoc(storage, "d", doc));
  for (const binding of bound) await binding.loaded;
  doc.getText("t").insert(0, "1");
  expect(() => doc.getText("t").insert(1, "2")).toThrow("of the application");
  for (const binding of bound) await binding.flush();
  doc.getText("t").insert(2, "3");
  for (const binding of bound) await binding.flush();
  for (const storage of storages) expect(text(await storage.load("d"))).toBe("123");
  doc.destroy();
  for (const storage of storages) await storage.close();
});

/** How many backends are open. */
function counted(backend: BackendFactory): { factory: BackendFactory; opened: () => number } {
  let opened = 0;
  const factory: BackendFactory = {
    name: "counted",
    open: async (env) => {
      const inner = await backend.open(env);
      opened++;
      return {
        traits: inner.traits,
        get: (key) => inner.get(key),
        scan: (range, options) => inner.scan(range, options),
        commit: (batch) => inner.commit(batch),
        reclaim: () => inner.reclaim(),
        close: async () => {
          opened--;
          await inner.close();
        },
      };
    },
  };
  return { factory, opened: () => opened };
}

test("[RC20] closing during a recovery leaves no backend open", async () => {
  const { factory, opened } = counted(memoryBackend());
  const storage = await DocumentStorage.open({ backend: factory, models: [yjs()] });
  await Promise.all([storage.recover(), storage.close()]);
  expect(opened()).toBe(0);
});

test("[RC26] recoveries at once are one", async () => {
  const { factory, opened } = counted(memoryBackend());
  const storage = await DocumentStorage.open({ backend: factory, models: [yjs()] });
  await Promise.all([storage.recover(), storage.recover(), storage.recover()]);
  expect(opened()).toBe(1);
  await storage.close();
  expect(opened()).toBe(0);
});

test("[ST74] a closed storage refuses compactions by rejecting", async () => {
  const storage = await open();
  await storage.close();
  const closed = { code: "CLOSED" };
  await expect(storage.compact("d")).rejects.toMatchObject(closed);
  await expect(storage.compactAll()).rejects.toMatchObject(closed);
});
