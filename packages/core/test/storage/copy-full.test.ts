/** Copies into a target that takes no more. */

import { CoppiceError, type Key, memoryBackend } from "coppice";
import { expect, test } from "vitest";
import { changed } from "./changed-backend.js";
import { clean, names, open, type Storage, write } from "./copy-tools.js";

const IDS = Array.from({ length: 60 }, (_, n) => `d${String(n).padStart(2, "0")}`);

/** `refuses`: the keys of a commit for whose values there is no room, or which fails with this error. */
async function pair(
  refuses: (keys: readonly Key[]) => boolean,
  error: Error = new CoppiceError("STORE_FULL", "no room"),
): Promise<{ from: Storage; to: Storage }> {
  const backend = changed(memoryBackend({ shared: true }), (opened) => ({
    traits: { ...opened.traits, exclusive: true, poisonsItself: true },
    commit: async (batch) => {
      if (refuses((batch.put ?? []).map(({ key }) => key))) throw error;
      await opened.commit(batch);
    },
  }));
  const [from, to] = [await open(memoryBackend(), 1), await open(backend, 2)];
  for (const id of IDS) await write(from, id, "abc");
  return { from, to };
}

test("[MV41] a target that is full ends a copy after 16 documents in a row, and the next run goes on", async () => {
  const it = { left: 20 };
  const { from, to } = await pair(() => it.left-- <= 0);
  const run = (concurrency: number) => from.copyTo(to, { concurrency });
  const full = await run(1);
  expect(full).toMatchObject({ copied: 20, seen: 36, failed: 16, stopped: "full" });
  expect(full.failures.map(({ id, error: { code } }) => [id, code])).toEqual(
    IDS.slice(20, 36).map((id) => [id, "STORE_FULL"]),
  );
  // What is there already says nothing about room.
  expect(await run(1)).toMatchObject({ unchanged: 20, failed: 16, stopped: "full" });
  const several = await run(4);
  expect([several.stopped, several.failed >= 16 && several.failed < 20]).toEqual(["full", true]);
  it.left = Number.POSITIVE_INFINITY;
  expect(await run(4)).toMatchObject({ copied: 40, unchanged: 20, failed: 0, stopped: undefined });
  await clean(from, to);
});

test("[MV41] it goes on while others fit", async () => {
  const fits = (id: string) => id.endsWith("0") || id > "d49";
  const { from, to } = await pair((keys) => keys.some(([, id]) => !fits(id)));
  const result = await from.copyTo(to, { concurrency: 1 });
  expect(result).toMatchObject({ copied: 15, seen: 60, failed: 45, stopped: undefined });
  expect(await names(to, "d59")).toBe("abc");
  await clean(from, to);
});

test("[MV41] what was deleted or erased is carried over all the same, unless that does not fit either", async () => {
  const it = { refuses: (_: readonly Key[]) => false };
  const { from, to } = await pair((keys) => it.refuses(keys));
  await from.copyTo(to);
  for (const id of IDS.slice(0, 40)) await write(from, id, "d");
  await from.delete("d50");
  await from.erase("d51");
  it.refuses = (keys) => keys.some(([space]) => space === "events");
  expect(await from.copyTo(to, { concurrency: 1 })).toMatchObject({
    ...{ seen: 17, failed: 16, deleted: 1, erased: 1, stopped: "full" },
  });
  expect([await to.info("d50"), await to.info("d51")]).toEqual([undefined, undefined]);
  for (const id of IDS.slice(40, 50)) await from.delete(id);
  for (const id of IDS.slice(52)) await from.erase(id);
  it.refuses = () => true;
  // Ten deletions and six of the eight erasures.
  expect(await from.copyTo(to, { concurrency: 1 })).toMatchObject({
    ...{ deleted: 0, erased: 0, failed: 32, stopped: "full" },
  });
  it.refuses = () => false;
  expect(await from.copyTo(to)).toMatchObject({ updated: 40, deleted: 10, erased: 8, stopped: undefined });
  await clean(from, to);
});

test("[MV42] a write to the target that fails ends a copy, which tells what it has done, and the next run goes on", async () => {
  const it = { left: 20 };
  const { from, to } = await pair(() => it.left-- <= 0, new Error("the disk is gone"));
  const run = (concurrency: number) => from.copyTo(to, { concurrency });
  const failed = await run(1);
  expect(failed).toMatchObject({ copied: 20, seen: 21, failed: 1, stopped: "poisoned" });
  expect(failed.failures).toMatchObject([{ id: "d20", error: { code: "OUTCOME_UNKNOWN" } }]);
  const again = await run(4);
  expect(again).toMatchObject({ copied: 0, unchanged: 20, stopped: "poisoned" });
  expect(new Set(again.failures.map(({ error }) => error.code))).toEqual(new Set(["POISONED"]));
  expect(again.failures.length).toBeLessThan(5);
  it.left = Number.POSITIVE_INFINITY;
  await to.recover();
  expect(await run(4)).toMatchObject({ copied: 40, unchanged: 20, failed: 0, stopped: undefined });
  await clean(from, to);
});

test("[ST14] compactAll ends with what it has done where a write has failed, and nothing more is written", async () => {
  const it = { left: Number.POSITIVE_INFINITY };
  const { from, to } = await pair(() => it.left-- <= 0, new Error("the disk is gone"));
  await from.copyTo(to);
  it.left = 10;
  const result = await to.compactAll({ concurrency: 1, reclaim: true });
  expect(result).toMatchObject({ failed: 2, stopped: "poisoned" });
  expect(result.failures.map(({ error }) => (error as CoppiceError).code)).toEqual([
    "OUTCOME_UNKNOWN",
    "POISONED",
  ]);
  expect(result.compacted).toBeGreaterThan(1);
  it.left = Number.POSITIVE_INFINITY;
  await to.recover();
  expect(await to.compactAll()).toMatchObject({
    failed: 0,
    compacted: 60 - result.compacted,
    stopped: undefined,
  });
  await clean(from, to);
});
