/** What becomes of unsaved events when a storage is flushed, closed or recovered, and who hears of failures. */

import { DocumentStorage, memoryBackend, never, type StorageOptions } from "coppice";
import { type Operation, type SimulatedBackend, simulatedBackend } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { add, nameSet, naming } from "../../../../test/support/oracle-model.js";

const models = [nameSet()] as const;
type Storage = DocumentStorage<typeof models>;
const open = (options: Partial<StorageOptions<typeof models>> = {}): Promise<Storage> =>
  DocumentStorage.open({ backend: memoryBackend(), models, snapshotPolicy: never, ...options });
const names = async (storage: Storage, id = "d") => [...((await storage.load(id))?.doc.names.keys() ?? [])];
const turn = () => new Promise((resolve) => setImmediate(resolve));

/** Opens the store anew, which shows that its lock is free, and looks what is in it. */
async function storedIn(backend: SimulatedBackend, id = "d"): Promise<string[]> {
  const storage = await open({ backend });
  const found = await names(storage, id);
  expect((await storage.check()).problems).toEqual([]);
  await storage.close();
  return found;
}

describe("flush", () => {
  test("[ST91] flush makes durable what autoSave has not got to yet, and leaves other handles alone", async () => {
    const storage = await open();
    const saving = await storage.open("d", { autoSave: true });
    const waiting = await storage.open("other");
    saving.change(add("a"));
    waiting.change(add("b"));
    await storage.flush();
    expect([saving.unsaved, waiting.unsaved]).toEqual([false, true]);
    expect([await names(storage), await names(storage, "other")]).toEqual([["a"], []]);
    // A save is under way, and an edit comes after its cut.
    saving.change(add("c"));
    const first = saving.save();
    saving.receive([naming("e")]);
    await storage.flush();
    await first;
    expect(await names(storage)).toEqual(["a", "c", "e"]);
    await storage.close();
  });

  test("[ST91] flush rejects when autoSave cannot save, names the documents, and keeps their events", async () => {
    const backend = simulatedBackend({ poisonsItself: false });
    const storage = await open({ backend });
    const errors: unknown[] = [];
    const handle = await storage.open("d", { autoSave: true, onError: (error) => errors.push(error) });
    backend.failNext("commit", "unavailable");
    handle.change(add("a"));
    await expect(storage.flush()).rejects.toMatchObject({
      code: "UNAVAILABLE",
      details: { ids: ["d"], documents: 1 },
      cause: { code: "UNAVAILABLE" },
    });
    await storage.flush();
    expect(handle.unsaved).toBe(false);
    expect(await names(storage)).toEqual(["a"]);
    await storage.close();
  });
});

describe("close", () => {
  test("[ST92] close saves what handles have unsaved, with autoSave or not, also after a refused handle.close", async () => {
    const backend = simulatedBackend();
    const storage = await open({ backend });
    const errors: unknown[] = [];
    const saving = await storage.open("d", { autoSave: true, onError: (error) => errors.push(error) });
    const waiting = await storage.open("other");
    saving.change(add("a"));
    waiting.change(add("b"));
    await expect(waiting.close()).rejects.toMatchObject({ code: "BUSY" });
    waiting.receive([naming("c")]);
    await storage.close();
    await turn();
    expect(errors).toEqual([]);
    expect([saving.unsaved, waiting.unsaved]).toEqual([false, false]);
    expect([await storedIn(backend), await storedIn(backend, "other")]).toEqual([["a"], ["b", "c"]]);
  });

  test("[ST92] close saves what comes after the cut of a save that is under way", async () => {
    const backend = simulatedBackend();
    const storage = await open({ backend });
    const handle = await storage.open("d");
    handle.change(add("a"));
    const first = handle.save();
    handle.change(add("b"));
    await storage.close();
    expect(await first).toBe(1);
    expect(await storedIn(backend)).toEqual(["a", "b"]);
  });

  test("[ST92] close with discard saves nothing, and an unsaved past version is none", async () => {
    const backend = simulatedBackend();
    const storage = await open({ backend });
    await storage.append("d", [naming("a")]);
    const past = await storage.load("d", { at: 1 });
    past?.doc.made.push(naming("past"));
    const handle = await storage.open("d", { autoSave: true });
    handle.change(add("gone"));
    await storage.close({ discard: true });
    await turn();
    expect(await storedIn(backend)).toEqual(["a"]);
    const again = await open({ backend });
    (await again.load("d", { at: 1 }))?.doc.made.push(naming("past"));
    await again.close();
    expect(await storedIn(backend)).toEqual(["a"]);
  });

  test("[ST93] close that cannot save names what is unsaved, with the reason, and frees the lock", async () => {
    for (const fault of ["error", "unknown-applied", "unknown-lost", "unavailable"] as const) {
      const backend = simulatedBackend();
      const storage = await open({ backend });
      const handles = [await storage.open("d"), await storage.open("e", { autoSave: true })];
      const clean = await storage.open("clean");
      const waits = [...handles, clean].map((handle) =>
        handle.waitDurable(9).catch((error: { code?: string }) => error.code),
      );
      backend.failNext("commit", fault);
      for (const handle of handles) handle.change(add("a"));
      const failure = await storage.close().catch((error: unknown) => error);
      expect(failure).toMatchObject({
        code: fault === "unavailable" ? expect.stringMatching(/UNAVAILABLE|POISONED/) : "OUTCOME_UNKNOWN",
        details: { ids: expect.arrayContaining(["d", "e"]), documents: 2 },
      });
      expect(await Promise.all(waits)).toEqual(["CLOSED", "CLOSED", "CLOSED"]);
      await expect(storage.close()).rejects.toBe(failure);
      expect(handles.every(({ unsaved }) => unsaved)).toBe(true);
      await expect(clean.waitDurable(9)).rejects.toMatchObject({ code: "CLOSED" });
      // Whether both were in the commit that failed is a matter of chance.
      const stored = [...(await storedIn(backend)), ...(await storedIn(backend, "e"))];
      expect(stored.length > 0).toBe(fault === "unknown-applied");
    }
  });

  test("[ST93] close of a poisoned storage names what is unsaved, whatever closing the backend says", async () => {
    const backend = simulatedBackend();
    const storage = await open({ backend });
    const errors: unknown[] = [];
    const handle = await storage.open("d", { autoSave: true, onError: (error) => errors.push(error) });
    backend.failNext("commit", "error");
    await storage.append("other", [naming("x")]).catch(() => undefined);
    backend.failNext("close", "error");
    handle.change(add("a"));
    await expect(storage.close()).rejects.toMatchObject({ code: "POISONED", details: { ids: ["d"] } });
    expect(await storedIn(backend)).toEqual([]);
    expect(errors).toEqual([]);
  });

  test("[ST93] close names a document that was deleted while it had unsaved events", async () => {
    const backend = simulatedBackend();
    const storage = await open({ backend });
    const handle = await storage.open("d");
    handle.change(add("a"));
    await storage.delete("d");
    await expect(storage.close()).rejects.toMatchObject({ code: "DELETED", details: { ids: ["d"] } });
    expect(await storedIn(backend)).toEqual([]);
  });

  test("[ST93] what is edited while a storage closes is saved or named, and nobody hears of it twice", async () => {
    let edit = () => {};
    const onOperation = ({ kind }: Operation) => kind === "commit" && edit();
    const backend = simulatedBackend({ onOperation });
    const storage = await open({ backend });
    const errors: unknown[] = [];
    const handle = await storage.open("d", { autoSave: true, onError: (error) => errors.push(error) });
    handle.change(add("a"));
    edit = () => {
      edit = () => {};
      handle.change(add("late"));
    };
    const closing = storage.close();
    await expect(handle.save()).rejects.toMatchObject({ code: "CLOSED" });
    await expect(closing).rejects.toMatchObject({ code: "CLOSED", details: { ids: ["d"] } });
    await turn();
    expect(errors).toEqual([]);
    expect(await storedIn(backend)).toEqual(["a"]);
    handle.change(add("later"));
    await turn();
    expect(errors).toMatchObject([{ code: "CLOSED" }]);
  });

  test("[ST93] a document that cannot be asked any more is named, and holds up neither others nor the lock", async () => {
    const backend = simulatedBackend();
    let broken = false;
    const model = nameSet();
    const track: typeof model.track = (doc) => {
      const tracker = model.track(doc);
      const mine = doc.names.has("breaks");
      return {
        ...tracker,
        take: (current) => {
          if (mine && broken) throw new Error("the library panicked");
          return tracker.take(current);
        },
        pending: (current) => {
          if (mine && broken) throw new Error("the library panicked");
          return tracker.pending(current);
        },
      };
    };
    const storage = await open({ backend, models: [{ ...model, track }] });
    await storage.append("d", [naming("breaks")]);
    const handles = [await storage.open("d"), await storage.open("other")];
    for (const handle of handles) handle.change(add("a"));
    const waiting = handles[0]!.waitDurable(9).catch((error: { code?: string }) => error.code);
    broken = true;
    await expect(storage.close()).rejects.toMatchObject({
      code: "EVENT_INVALID",
      details: { ids: ["d"] },
      cause: { message: "the library panicked" },
    });
    expect(await waiting).toBe("CLOSED");
    expect([await storedIn(backend), await storedIn(backend, "other")]).toEqual([["breaks"], ["a"]]);
  });

  test("[ST93] a writer that saves without a pause does not hold up close", async () => {
    const storage = await open();
    const handle = await storage.open("d");
    let ended = false;
    const writing = (async () => {
      for (;;) {
        handle.change(add("again"));
        await handle.save();
      }
    })().catch((error: { code?: string }) => {
      ended = true;
      return error.code;
    });
    await turn();
    await storage.close().catch(() => undefined);
    expect(await writing).toBe("CLOSED");
    expect(ended).toBe(true);
  });

  test("[ST94] handle.close saves with autoSave, and is refused when that fails", async () => {
    const backend = simulatedBackend({ poisonsItself: false });
    const storage = await open({ backend });
    const handle = await storage.open("d", { autoSave: true, onError: () => undefined });
    backend.failNext("commit", "unavailable");
    handle.change(add("a"));
    await expect(handle.close()).rejects.toMatchObject({ code: "BUSY", cause: { code: "UNAVAILABLE" } });
    await Promise.all([handle.close(), handle.close()]);
    expect(await names(storage)).toEqual(["a"]);
    await storage.close();
  });
});

describe("recover", () => {
  test("[ST95] after a recovery autoSave goes on with what it could not save, and what was edited meanwhile", async () => {
    for (const fault of ["error", "unknown-applied", "unknown-lost"] as const) {
      const backend = simulatedBackend();
      const storage = await open({ backend });
      const errors: unknown[] = [];
      const handle = await storage.open("d", { autoSave: true, onError: (error) => errors.push(error) });
      backend.failNext("commit", fault);
      handle.change(add("a"));
      while (errors.length === 0) await turn();
      const recovering = storage.recover();
      handle.change(add("b"));
      await expect(handle.save()).rejects.toMatchObject({ code: "BUSY" });
      await turn();
      await recovering;
      await handle.waitDurable(2);
      expect(errors).toHaveLength(1);
      expect(await names(storage)).toEqual(["a", "b"]);
      await storage.close();
    }
  });
});
