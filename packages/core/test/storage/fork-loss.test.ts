/** Copies of past versions below which events were lost: they have what a load of the version shows, or are none. */

import { DocumentStorage, never } from "coppice";
import { type SimulatedBackend, simulatedBackend } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { type NameSet, nameSet, naming } from "../../../../test/support/oracle-model.js";

type Storage = DocumentStorage<readonly [ReturnType<typeof nameSet>]>;

async function using<T>(backend: SimulatedBackend, run: (storage: Storage) => Promise<T>): Promise<T> {
  const models = [nameSet()] as const;
  const storage = await DocumentStorage.open({ backend, models, snapshotPolicy: never, history: "archive" });
  try {
    return await run(storage);
  } finally {
    await storage.close();
  }
}

/** Six batches of one name each, a tag at 3 and one at 5, and then the second batch is damaged and repaired. */
async function damaged(archived: boolean): Promise<SimulatedBackend> {
  const backend = simulatedBackend();
  await using(backend, async (storage) => {
    for (const [index, name] of ["a", "b", "c", "d", "e", "f"].entries()) {
      await storage.append("d", [naming(name)]);
      if (index === 2) await storage.tag("d", "three");
      if (index === 4) await storage.tag("d", "five");
    }
  });
  backend.flip(["events", "d", 1], 40, 1);
  await using(backend, async (storage) => {
    expect((await storage.check({ repair: true })).clean).toBe(true);
    for (const name of ["g", "h"]) {
      if (archived) await storage.compact("d");
      await storage.append("d", [naming(name)]);
    }
    if (archived) expect((await storage.info("d"))!.oldestClock).toBeGreaterThan(0);
  });
  return backend;
}

async function shown(storage: Storage, id: string, at?: number | string): Promise<string> {
  const handle = await storage.load<NameSet>(id, at === undefined ? {} : { at });
  const names = [...handle!.doc.names.keys()].sort().join("");
  await handle!.close();
  return names;
}

async function exported(storage: Storage, at: number | string): Promise<void> {
  const stream = await storage.export("d", { at });
  for await (const _chunk of stream!) {
    // To its end.
  }
}

describe.each([[false], [true]])("with the log archived: %s", (archived) => {
  test("[HI54] a fork and an export of a version whose lost events only a tag shows are refused, and nothing is there", async () => {
    const backend = await damaged(archived);
    await using(backend, async (storage) => {
      // A compaction took a snapshot at 6, after the loss.
      for (const at of ["three", "five", 3, 4, 5, ...(archived ? [] : [6])] as const) {
        expect(await shown(storage, "d", at)).toContain("ab");
        const refused = expect.objectContaining({
          code: "TRIMMED",
          details: expect.objectContaining({ lost: [1] }),
        });
        await expect(storage.fork("d", "copy", { at })).rejects.toEqual(refused);
        await expect(exported(storage, at)).rejects.toEqual(refused);
        expect(await storage.load("copy")).toBeUndefined();
      }
      expect((await storage.check()).problems).toEqual([]);
    });
  });

  test("[HI54] a version that a load does not show more of is forked as it loads, and so is the head", async () => {
    const backend = await damaged(archived);
    await using(backend, async (storage) => {
      for (const at of [1, 2, undefined]) {
        const newId = `copy ${at}`;
        await storage.fork("d", newId, at === undefined ? {} : { at });
        expect(await shown(storage, newId)).toBe(await shown(storage, "d", at));
      }
      await storage.untag("d", "three");
      await storage.untag("d", "five");
      await storage.fork("d", "untagged", { at: 4 });
      expect(await shown(storage, "untagged")).toBe(await shown(storage, "d", 4));
      expect((await storage.check()).problems).toEqual([]);
    });
  });
});
