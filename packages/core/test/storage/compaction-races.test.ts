// What happens between two steps of a compaction: appends belong to the next one, an end of the document ends it.

import { type BackendFactory, DocumentStorage, memoryBackend, never } from "coppice";
import { expect, test } from "vitest";
import { nameSet, naming } from "../../../../test/support/oracle-model.js";

/** A backend that calls back once, after somebody has read a log to its end. */
function paused(): { backend: BackendFactory; afterReading: (then: () => Promise<void>) => void } {
  const inner = memoryBackend();
  let waiting: (() => Promise<void>) | undefined;
  const backend: BackendFactory = {
    name: "paused",
    open: async (env) => {
      const opened = await inner.open(env);
      return {
        traits: opened.traits,
        get: (key) => opened.get(key),
        commit: (batch) => opened.commit(batch),
        reclaim: () => opened.reclaim(),
        close: () => opened.close(),
        scan: async function* (range, options) {
          yield* opened.scan(range, options);
          if (range.space !== "events" || options?.reverse || options?.limit !== undefined) return;
          const then = waiting;
          waiting = undefined;
          await then?.();
        },
      };
    },
  };
  return {
    backend,
    afterReading: (then) => {
      waiting = then;
    },
  };
}

for (const snapshot of [false, true]) {
  const what = snapshot ? "whose snapshot covers it" : "that is empty";
  test(`[ST75] appends beside a compaction of a document ${what} leave it whole`, async () => {
    const { backend, afterReading } = paused();
    const storage = await DocumentStorage.open({ backend, models: [nameSet()], snapshotPolicy: never });
    const handle = await storage.open("d");
    if (snapshot) {
      await storage.append("d", [naming("first")]);
      await handle.refresh();
      await handle.snapshot();
    }
    afterReading(async () => {
      for (const name of ["a", "b", "c"]) await storage.append("d", [naming(name)]);
    });
    await storage.compact("d");
    const names = [...(snapshot ? ["first"] : []), "a", "b", "c"];
    expect([...((await storage.load("d"))?.doc.names.keys() ?? [])]).toEqual(names);
    expect((await storage.check()).problems).toEqual([]);
    await storage.append("d", [naming("later")]);
    expect((await storage.compact("d")).outcome).toBe("compacted");
    expect((await storage.load("d"))?.doc.names.size).toBe(names.length + 1);
    await storage.close();
  });
}

for (const end of ["erase", "delete"] as const) {
  test(`[ST38] a compaction ends when another storage happens to ${end} the document between any two reads`, async () => {
    const inner = memoryBackend({ shared: true });
    let waiting: (() => Promise<unknown>) | undefined;
    let reads = 0;
    const read = async (id: string | undefined) => {
      if (id !== "d" || reads-- !== 0) return;
      await waiting?.();
      waiting = undefined;
    };
    const backend: BackendFactory = {
      name: "interrupted",
      open: async (env) => {
        const opened = await inner.open(env);
        return {
          traits: opened.traits,
          get: async (key) => {
            await read(key[1]);
            return opened.get(key);
          },
          commit: (batch) => opened.commit(batch),
          reclaim: () => opened.reclaim(),
          close: () => opened.close(),
          scan: async function* (range, options) {
            await read("id" in range ? range.id : undefined);
            yield* opened.scan(range, options);
          },
        };
      },
    };
    const options = { models: [nameSet()], snapshotPolicy: never } as const;
    const storage = await DocumentStorage.open({ backend, ...options });
    const other = await DocumentStorage.open({ backend: inner, ...options });
    const outcomes = new Set<string>();
    for (let skipped = 0; ; skipped++) {
      await other.open("d", { recreate: true });
      for (const name of ["d", "e", "f"]) await other.append("d", [naming(name)]);
      waiting = () => other[end]("d");
      reads = skipped;
      outcomes.add((await storage.compact("d")).outcome);
      if (waiting !== undefined) break;
      expect(await storage.load("d")).toBe(undefined);
    }
    expect([...outcomes].sort()).toEqual(["compacted", "not-found"]);
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
    await other.close();
  });
}
