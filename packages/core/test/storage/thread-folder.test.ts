// The thread of folds that dies, on a real worker; `test/interop/thread-folder.test.ts` folds in it.

import { DocumentStorage, memoryBackend, never, systemEnv } from "coppice";
import { expect, test } from "vitest";
import { nameSet, naming } from "../../../../test/support/oracle-model.js";
import type { Thread } from "../../src/base/env.js";
import { ThreadFolder } from "../../src/storage/thread-folder.js";

const EVENTS = Array.from({ length: 3000 }, (_, index) => naming(`a name of some length, number ${index}`));

test("[ST112] a fold in a thread that dies rejects; the next one has a thread of its own, which ends at close", async () => {
  const env = systemEnv();
  const started: { readonly thread: Thread; ended: boolean }[] = [];
  const folder = new ThreadFolder({
    ...env,
    // The first one dies of what it is asked; the others answer.
    thread: (source) => {
      const answer = "parentPort.postMessage({ number, value: 7 });";
      const dies = `const { parentPort } = require("node:worker_threads");
        parentPort.on("message", ({ number }) => { ${started.length === 0 ? "throw new Error('out of memory')" : answer} });`;
      expect(source).toContain("parentPort.on");
      const thread = env.thread!(dies)!;
      const one = { thread, ended: false };
      started.push(one);
      thread.receive((_, error) => {
        one.ended ||= error !== undefined;
      });
      return thread;
    },
  });
  const model = { ...nameSet(), worker: { module: "none", export: "none", options: undefined } };
  const died = { code: "UNAVAILABLE", message: expect.stringContaining("the folding thread died") };
  await expect(folder.fold(model, undefined, EVENTS)).rejects.toMatchObject(died);
  for (let count = 0; count < 5; count++) expect(await folder.fold(model, undefined, EVENTS)).toBe(7);
  expect(started).toHaveLength(2);
  await folder.close();
  expect(started.map(({ ended }) => ended)).toEqual([true, true]);
});

/** Large events, and so is the snapshot of the first; that of the second is small, and restored without a thread. */
const REPEATED = Array.from({ length: 3000 }, (_, index) =>
  naming(`a name of some length, number ${index % 10}`),
);

test.each([
  ["restores it", EVENTS],
  ["folds up to it", REPEATED],
])("[ST112] a snapshot is not damaged because the thread that %s dies", async (_, events) => {
  const env = systemEnv();
  const dies = `const { parentPort } = require("node:worker_threads");
    parentPort.on("message", () => { throw new Error("out of memory"); });`;
  const worker = { module: "none", export: "none", options: undefined };
  const backend = memoryBackend();
  const first = await DocumentStorage.open({ backend, models: [nameSet()], snapshotPolicy: never });
  await first.append("d", events);
  await (await first.load("d"))!.snapshot();
  await first.append("e", [naming("one")]);
  await first.close();
  const models = [{ ...nameSet(), worker }];
  const mortal = { ...env, thread: () => env.thread!(dies) };
  const storage = await DocumentStorage.open({ backend, models, snapshotPolicy: never, env: mortal });
  const message = expect.stringContaining("the folding thread died");
  const died = { code: "UNAVAILABLE", message };
  // The others are checked, and which one could not be is said.
  const { documents, problems, clean } = await storage.check({ repair: true });
  expect(problems).toEqual([{ id: "d", code: "unreadable", message, repaired: false }]);
  expect([documents, clean]).toEqual([2, false]);
  if (events === EVENTS) {
    const { compacted, failures } = await storage.compactAll({ force: true });
    expect([compacted, failures.map(({ id }) => id)]).toEqual([1, ["d"]]);
  }
  if (events === EVENTS) await expect(storage.compact("d", { force: true })).rejects.toMatchObject(died);
  expect((await storage.load("d"))!.clock).toBe(events.length);
  await storage.close();
  const last = await DocumentStorage.open({ backend, models: [nameSet()], snapshotPolicy: never });
  expect((await last.check()).problems).toEqual([]);
  await last.close();
});
