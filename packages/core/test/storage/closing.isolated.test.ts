/** Isolated, because a flag of the process makes the collector callable, and uncaught errors are awaited. */

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { DocumentStorage, never } from "coppice";
import { simulatedBackend } from "coppice/testing";
import { expect, test } from "vitest";
import { add, nameSet } from "../../../../test/support/oracle-model.js";

test("[ST92] what is unsaved of handles that nobody refers to is saved by close all the same", async () => {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const options = { backend: simulatedBackend(), models: [nameSet()], snapshotPolicy: never } as const;
  const storage = await DocumentStorage.open(options);
  const saved: WeakRef<object>[] = [];
  const ids = Array.from({ length: 20 }, (_, index) => `d${index}`);
  for (const id of ids) {
    const handle = await storage.open(id);
    handle.change(add("a"));
    await handle.save();
    saved.push(new WeakRef(handle));
    (await storage.load(id))?.change(add("b"));
  }
  for (let round = 0; round < 10; round++) {
    await new Promise((resolve) => setTimeout(resolve, 1));
    collect();
  }
  // It was called, and takes what has nothing unsaved.
  expect(saved.filter((reference) => reference.deref() === undefined).length).toBeGreaterThan(0);
  await storage.close();
  const again = await DocumentStorage.open(options);
  for (const id of ids) expect([...((await again.load(id))?.doc.names.keys() ?? [])]).toEqual(["a", "b"]);
  await again.close();
});

test("[ST96] a failure of autoSave that nobody can be told of is an uncaught error that names the document", async () => {
  const backend = simulatedBackend({ poisonsItself: false });
  const storage = await DocumentStorage.open({ backend, models: [nameSet()], snapshotPolicy: never });
  const handle = await storage.open("d", { autoSave: true });
  const listeners = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  try {
    const caught = new Promise((resolve) => process.once("uncaughtException", resolve));
    backend.failNext("commit", "unavailable");
    handle.change(add("a"));
    expect(await caught).toMatchObject({
      code: "UNAVAILABLE",
      message: expect.stringContaining("no onError"),
      details: { ids: ["d"] },
      cause: { code: "UNAVAILABLE" },
    });
  } finally {
    for (const listener of listeners) process.on("uncaughtException", listener);
  }
  // It has not lost the event.
  await storage.flush();
  expect([...((await storage.load("d"))?.doc.names.keys() ?? [])]).toEqual(["a"]);
  // After the storage has closed there is nothing to be told.
  await storage.close();
  handle.change(add("late"));
  await new Promise((resolve) => setTimeout(resolve, 1));
});
