// `flush` and `check` beside writers who never pause.
import { type BackendFactory, DocumentStorage, memoryBackend, never } from "coppice";
import { simulatedBackend } from "coppice/testing";
import { expect, test } from "vitest";
import { nameSet, naming } from "../../../../test/support/oracle-model.js";

const open = (backend: BackendFactory = memoryBackend()) =>
  DocumentStorage.open({ backend, models: [nameSet()], snapshotPolicy: never });

test("[ST90] flush and check end beside writers who never pause", async () => {
  const storage = await open();
  let stopped = false;
  let count = 0;
  const writers = ["a", "b", "c"].map(async (id) => {
    // Two in flight all the time: the queue of the document is never empty.
    const write = async (writer: number) => {
      while (!stopped) await storage.append(id, [naming(`${writer}-${count++}`)]);
    };
    await Promise.all([write(0), write(1)]);
  });
  for (let round = 0; round < 3; round++) {
    const before = count;
    await storage.flush();
    expect((await storage.check()).problems).toEqual([]);
    expect(count).toBeGreaterThan(before);
  }
  stopped = true;
  await Promise.all(writers);
  await storage.close();
});

test("[ST90] flush waits for all that was handed in before it, failures included", async () => {
  const disk = simulatedBackend();
  const storage = await open(disk);
  const settled: string[] = [];
  for (const id of ["a", "b"])
    for (let event = 0; event < 3; event++)
      void storage.append(id, [naming(`${event}`)]).then(() => settled.push(`${id}${event}`));
  await storage.flush();
  expect(settled.sort()).toEqual(["a0", "a1", "a2", "b0", "b1", "b2"]);
  disk.failNext("commit", "error");
  const codes: unknown[] = [];
  for (let event = 0; event < 3; event++)
    void storage.append("a", [naming(`x${event}`)]).catch((error) => codes.push(error.code));
  await storage.flush();
  expect(codes).toHaveLength(3);
  await storage.recover();
  expect((await storage.check()).problems).toEqual([]);
  await storage.close();
});

test("[BK55] timers go on beside one writer who never pauses, and beside hundreds", async () => {
  for (const writers of [1, 400]) {
    const storage = await open();
    let stopped = false;
    let count = 0;
    setTimeout(() => {
      stopped = true;
    }, 1);
    const write = async () => {
      while (!stopped) await storage.append("d", [naming(`${count++}`)]);
    };
    await Promise.all(Array.from({ length: writers }, write));
    await storage.close();
  }
});
