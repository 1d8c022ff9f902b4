// The traps of design.md sections 5 and 6, each a named test, on Yjs documents.
// They run on the simulated backend, which can hold a commit back or fail it at the right moment.

import { yjs } from "@coppice/yjs";
import { CoppiceError, DocumentStorage, never } from "coppice";
import { type Operation, type SimulatedBackend, simulatedBackend } from "coppice/testing";
import { expect, test } from "vitest";
import * as Y from "yjs";

const text = (handle: { doc: Y.Doc } | undefined) => handle?.doc.getText("t").toString();

const open = (backend: SimulatedBackend) =>
  DocumentStorage.open({ backend, models: [yjs()], snapshotPolicy: never });

/** Opens a storage, runs the test, and checks every invariant afterwards. */
async function withStorage(
  backend: SimulatedBackend,
  run: (storage: Awaited<ReturnType<typeof open>>) => Promise<void>,
): Promise<void> {
  const storage = await open(backend);
  await run(storage);
  expect((await storage.check()).problems).toEqual([]);
  await storage.close();
}

/** Updates of a document of its own: `count` keystrokes, one event each. */
function typed(count: number, from = new Y.Doc()): Uint8Array[] {
  const updates: Uint8Array[] = [];
  const keep = (update: Uint8Array) => updates.push(update);
  from.on("update", keep);
  for (let i = 0; i < count; i++) from.getText("t").insert(from.getText("t").length, String(i % 10));
  from.off("update", keep);
  return updates;
}

test("[ST20] an update whose parent arrives after a compaction is applied then, and never lost", async () => {
  const [first, second, third] = typed(3) as [Uint8Array, Uint8Array, Uint8Array];
  await withStorage(simulatedBackend(), async (storage) => {
    await storage.append("d", [first]);
    await storage.append("d", [third]);
    await storage.append("d", typed(2));
    const before = await storage.load("d");
    expect(before?.held.map((held) => held.clock)).toEqual([1]);
    for (let round = 0; round < 3; round++) {
      await storage.compact("d");
      await storage.append("d", typed(1));
    }
    const info = await storage.info("d");
    expect(info?.oldestClock).toBeGreaterThan(1);
    expect((await storage.load("d"))?.held.map((held) => held.clock)).toEqual([1]);
    await storage.append("d", [second]);
    const after = await storage.load("d");
    expect(after?.held).toEqual([]);
    expect(text(after)).toContain("012");
    expect((await storage.compact("d")).held).toBe(0);
    expect(text(await storage.load("d"))).toBe(text(after));
  });
});

test("[ST21] an edit that only deletes is saved", async () => {
  await withStorage(simulatedBackend(), async (storage) => {
    const handle = await storage.open("d");
    handle.doc.getText("t").insert(0, "hello");
    await handle.save();
    handle.doc.getText("t").delete(0, 2);
    expect(handle.unsaved).toBe(true);
    expect(await handle.save()).toBe(2);
    expect(text(await storage.load("d"))).toBe("llo");
  });
});

test("[ST22] an edit made while a save is in flight belongs to the next save", async () => {
  let during: (() => void) | undefined;
  const backend = simulatedBackend({
    onOperation: (operation: Operation) => {
      if (operation.kind === "commit") during?.();
    },
  });
  await withStorage(backend, async (storage) => {
    const handle = await storage.open("d");
    handle.doc.getText("t").insert(0, "a");
    during = () => {
      during = undefined;
      handle.doc.getText("t").insert(1, "b");
    };
    expect(await handle.save()).toBe(1);
    expect(handle.unsaved).toBe(true);
    expect(text(await storage.load("d"))).toBe("a");
    expect(await handle.save()).toBe(2);
    expect(text(await storage.load("d"))).toBe("ab");
  });
});

test("[ST23] after a rejected save a snapshot holds only what is stored, and the next save stores the rest", async () => {
  const backend = simulatedBackend({ poisonsItself: false });
  await withStorage(backend, async (storage) => {
    const handle = await storage.open("d");
    handle.doc.getText("t").insert(0, "stored");
    await handle.save();
    handle.doc.getText("t").insert(6, " lost?");
    backend.failNext("commit", "unavailable");
    await expect(handle.save()).rejects.toMatchObject({ code: "UNAVAILABLE" });
    expect(handle.clock).toBe(1);
    await handle.snapshot();
    expect(text(await storage.load("d"))).toBe("stored");
    await handle.save();
    await handle.snapshot();
    expect(text(await storage.load("d"))).toBe("stored lost?");
  });
});

test("[ST24] a handle behind other writers snapshots what is stored, not what it shows", async () => {
  await withStorage(simulatedBackend(), async (storage) => {
    const behind = await storage.open("d");
    behind.doc.getText("t").insert(0, "mine ");
    await behind.save();
    const other = new Y.Doc();
    Y.applyUpdate(other, Y.encodeStateAsUpdate(behind.doc));
    await storage.append("d", typed(4, other));
    behind.doc.getText("t").insert(0, "late ");
    await behind.save();
    expect(behind.clock).toBe(1);
    expect(await behind.snapshot()).toBe(6);
    const loaded = await storage.load("d");
    expect(text(loaded)).toBe("late mine 0123");
    await behind.refresh();
    expect(behind.clock).toBe(6);
    expect(text(behind)).toBe("late mine 0123");
  });
});

test("[ST25] two loads under one replica name write under different identities", async () => {
  await withStorage(simulatedBackend(), async (storage) => {
    const first = await storage.open("d", { replica: "laptop" });
    first.doc.getText("t").insert(0, "one");
    const second = await storage.open("d", { replica: "laptop" });
    expect(second.doc.clientID).not.toBe(first.doc.clientID);
    second.doc.getText("t").insert(0, "two");
    await Promise.all([first.save(), second.save()]);
    const merged = await storage.load("d");
    expect(text(merged)).toHaveLength(6);
    expect(merged?.held).toEqual([]);
  });
});

test("[ST26] a load beside a trim restarts instead of reporting a gap", async () => {
  const backend = simulatedBackend({ exclusive: false });
  const storage = await open(backend);
  for (let i = 0; i < 6; i++) await storage.append("d", typed(50));
  await storage.compact("d");
  for (let i = 0; i < 6; i++) await storage.append("d", typed(50));
  const expected = text(await storage.load("d"))?.length;
  const { operationCount } = backend;
  const reader = await open(backend);
  await reader.load("d");
  const reads = backend.operationCount - operationCount;
  await storage.close();
  // A second storage compacts, delete-free, just before each single read of a load.
  for (let at = 0; at < reads; at++) {
    const store = simulatedBackend({ exclusive: false });
    const writer = await open(store);
    for (let i = 0; i < 6; i++) await writer.append("d", typed(50));
    await writer.compact("d");
    for (let i = 0; i < 6; i++) await writer.append("d", typed(50));
    let left = at;
    let compacting = false;
    const racing = await DocumentStorage.open({
      models: [yjs()],
      snapshotPolicy: never,
      backend: {
        name: "racing",
        open: async (env) => {
          const inner = await store.open(env);
          const race = async () => {
            if (left-- !== 0 || compacting) return;
            compacting = true;
            await writer.compact("d");
          };
          return {
            traits: inner.traits,
            get: async (key) => {
              await race();
              return inner.get(key);
            },
            scan: async function* (range, options) {
              await race();
              for await (const page of inner.scan(range, options)) yield page;
            },
            commit: (batch) => inner.commit(batch),
            reclaim: () => inner.reclaim(),
            close: () => inner.close(),
          };
        },
      },
    });
    expect(text(await racing.load("d"))?.length).toBe(expected);
    await racing.close();
    await writer.close();
  }
  await reader.close();
  expect(reads).toBeGreaterThan(2);
});

test("[ST27] a clock inside a batch loads exactly the events before it", async () => {
  const updates = typed(9);
  await withStorage(simulatedBackend(), async (storage) => {
    await storage.append("d", updates.slice(0, 4));
    await storage.append("d", updates.slice(4));
    for (let at = 0; at <= 9; at++) {
      const past = await storage.load("d", { at });
      expect(text(past)).toBe("012345678".slice(0, at));
      expect(past?.writable).toBe(false);
    }
    await storage.compact("d");
    expect((await storage.info("d"))?.oldestClock).toBe(4);
    expect(text(await storage.load("d", { at: 6 }))).toBe("012345");
    await expect(storage.load("d", { at: 3 })).rejects.toMatchObject({ code: "TRIMMED" });
    await expect(storage.load("d", { at: 10 })).rejects.toMatchObject({ code: "ARGUMENT_INVALID" });
    const clocks: number[] = [];
    for await (const { clock } of storage.read("d", { from: 6, to: 8 })) clocks.push(clock);
    expect(clocks).toEqual([6, 7]);
    await expect(storage.read("d", { from: 1 }).next()).rejects.toMatchObject({ code: "TRIMMED" });
  });
});

test("[ST28] applying stored events is never taken for a new one", async () => {
  await withStorage(simulatedBackend(), async (storage) => {
    await storage.append("d", typed(30));
    const handle = await storage.load("d");
    expect(handle?.unsaved).toBe(false);
    await storage.append("d", typed(3));
    await handle?.refresh();
    expect(handle?.unsaved).toBe(false);
    expect(await handle?.save()).toBe(33);
    expect((await storage.info("d"))?.clock).toBe(33);
  });
});

test("[ST29] a writer from before a delete cannot write to the document that was created after it", async () => {
  await withStorage(simulatedBackend(), async (storage) => {
    const old = await storage.open("d");
    old.doc.getText("t").insert(0, "old");
    await old.save();
    const token = (await storage.info("d"))!.token;
    await storage.delete("d");
    const fresh = await storage.open("d", { recreate: true });
    expect(fresh.clock).toBe(1);
    old.doc.getText("t").insert(0, "ghost");
    await expect(old.save()).rejects.toMatchObject({ code: "DELETED" });
    await expect(storage.append("d", typed(1), { expected: token })).rejects.toBeInstanceOf(CoppiceError);
    expect(text(await storage.load("d"))).toBe("");
    expect(old.unsaved).toBe(true);
    // Else closing the storage would name what it could not save.
    await old.close({ discard: true });
  });
});
