import { DocumentStorage, everyEvents, memoryBackend } from "coppice";
import { type SimulatedEnv, simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import { nameSet, naming } from "../../../../test/support/oracle-model.js";

/** Lets run whatever needs no time to pass: commits in memory, folds on this thread. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 60; turn++) await new Promise((resolve) => setImmediate(resolve));
}

async function open(env: SimulatedEnv) {
  const taken: string[] = [];
  const storage = await DocumentStorage.open({
    backend: memoryBackend(),
    models: [nameSet()] as const,
    snapshotPolicy: everyEvents(10),
    env,
    observer: { snapshot: ({ id, clock, error }) => taken.push(error ? `${error}` : `${id} ${clock}`) },
  });
  let count = 0;
  const append = async (id: string, times: number): Promise<void> => {
    for (let n = 0; n < times; n++) await storage.append(id, [naming(`n${count++}`)]);
    await settle();
  };
  const pass = async (ms: number): Promise<void> => {
    env.advance(ms);
    await settle();
  };
  return { storage, taken, append, pass };
}

test("[ST19] a due snapshot waits until its document pauses, and then covers what came meanwhile", async () => {
  const { storage, taken, append, pass } = await open(simulatedEnv());
  await append("d", 10);
  for (let n = 0; n < 5; n++) {
    await append("d", 1);
    await pass(50);
    expect(taken).toEqual([]);
  }
  await pass(50);
  expect(taken).toEqual(["d 15"]);
  expect((await storage.check()).problems).toEqual([]);
  await storage.close();
});

test("[ST19] a document that never rests is snapshotted within about two seconds", async () => {
  const { storage, taken, append, pass } = await open(simulatedEnv());
  await append("d", 10);
  for (let elapsedMs = 50; elapsedMs < 2000; elapsedMs += 50) {
    await append("d", 1);
    await pass(50);
    expect(taken).toEqual([]);
  }
  await append("d", 1);
  await pass(50);
  expect(taken).toEqual(["d 50"]);
  await storage.close();
});

test("[ST19] documents that fall due together are snapshotted one after the other; a busy one holds up none", async () => {
  const { storage, taken, append, pass } = await open(simulatedEnv());
  for (const id of ["a", "b", "c"]) await append(id, 10);
  await append("b", 1);
  await pass(50);
  await append("b", 1);
  await pass(50);
  expect(taken).toEqual(["a 10", "c 10"]);
  await pass(50);
  expect(taken).toEqual(["a 10", "c 10", "b 12"]);
  await storage.close();
});

test("[ST19] flush and close wait for no pause", async () => {
  const { storage, taken, append } = await open(simulatedEnv());
  await append("d", 10);
  await storage.flush();
  expect(taken).toEqual(["d 10"]);
  await append("d", 10);
  await append("e", 10);
  await storage.close();
  expect(taken).toEqual(["d 10", "d 20", "e 10"]);
});

test("[ST19] flush waits for what was due at the call, not for what falls due meanwhile", async () => {
  const { storage, taken, append, pass } = await open(simulatedEnv());
  await append("d", 10);
  let flushed = false;
  const flushing = storage.flush().then(() => {
    flushed = true;
  });
  await append("e", 10);
  await flushing;
  expect(flushed).toBe(true);
  expect(taken).toEqual(["d 10"]);
  await pass(50);
  await pass(50);
  expect(taken).toEqual(["d 10", "e 10"]);
  await storage.close();
});

test("[ST19] a policy that throws is reported, and holds up neither appends nor close", async () => {
  const told: unknown[] = [];
  const storage = await DocumentStorage.open({
    backend: memoryBackend(),
    models: [nameSet()],
    snapshotPolicy: () => {
      throw new Error("policy");
    },
    observer: { snapshot: ({ id, error }) => told.push([id, error]) },
  });
  await Promise.all(["a", "b"].map((name) => storage.append("d", [naming(name)])));
  expect((await storage.append("d", [naming("c")])).clock).toBe(3);
  const last = storage.append("d", [naming("d")]);
  await storage.close();
  expect((await last).clock).toBe(4);
  expect(told).toEqual(Array(3).fill(["d", new Error("policy")]));
});
