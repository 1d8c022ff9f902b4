/**
 * What earlier stores of this kind could do, through this backend and its index: Matryoshka's LogStore (a log and an
 * index in memory) and PersistentStore (a cache over it), and LogKV. Their defects are in `seeds.test.ts`.
 */

import { SimulatedDisk } from "@coppice/file/testing";
import { type Backend, DocumentStorage } from "coppice";
import { simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import { nameSet, naming } from "../../../test/support/oracle-model.js";
import { bytes, entriesOf } from "../../../test/support/stores.js";
import { dump, factoryOn } from "./crash-tools.js";

const text = (value: string) => new TextEncoder().encode(value);
const open = (disk: SimulatedDisk) => factoryOn(disk, { mergeDeadRatioMin: 1 }).open(simulatedEnv(1));

/** Reads of segments while something is done. */
async function readsOf(disk: SimulatedDisk, work: () => Promise<unknown>): Promise<number> {
  let reads = 0;
  disk.onRead = () => {
    reads++;
  };
  await work();
  disk.onRead = undefined;
  return reads;
}

test("[FL21] LogStore: put, get, delete; what is absent is told from what is empty; references have levels", async () => {
  const disk = new SimulatedDisk();
  const backend = await open(disk);
  const put = (id: string, value: Uint8Array) => backend.commit({ put: [{ key: ["values", id], value }] });
  await put("people/ada/name", text("Ada"));
  await put("people/ada/born", text("1815"));
  await put("people/bob", new Uint8Array(0));
  await put("places", text("London"));
  expect(await backend.get(["values", "people/ada/name"])).toEqual(text("Ada"));
  expect(await backend.get(["values", "people/bob"])).toEqual(new Uint8Array(0));
  expect(await backend.get(["values", "people"])).toBeUndefined();
  const below = await entriesOf(backend, { space: "values", idPrefix: "people/ada/" });
  expect(below.map(({ key }) => key[1])).toEqual(["people/ada/born", "people/ada/name"]);
  await put("places", text("Turin"));
  await backend.commit({ delete: [["values", "people/bob"]] });
  expect(await backend.get(["values", "places"])).toEqual(text("Turin"));
  expect(await backend.get(["values", "people/bob"])).toBeUndefined();
  await backend.close();
});

test("[FL21] LogStore, LogKV: a read is one look into the index and one positioned read", async () => {
  const disk = new SimulatedDisk();
  const backend = await open(disk);
  for (let seq = 0; seq < 50; seq++) {
    await backend.commit({ put: [{ key: ["events", "d", seq], value: bytes(500, seq) }] });
  }
  for (const seq of [0, 30, 49]) {
    expect(await readsOf(disk, () => backend.get(["events", "d", seq]))).toBe(1);
  }
  expect(await readsOf(disk, () => backend.get(["events", "d", 50]))).toBe(0);
  await backend.close();
});

test("[FL21] LogKV: a put is acknowledged once log and index agree; readers go on beside the one writer", async () => {
  const disk = new SimulatedDisk();
  const backend = await open(disk);
  const read = async (seq: number) => (await backend.get(["events", "d", seq]))?.[0];
  for (let seq = 0; seq < 30; seq++) {
    const reading = Array.from({ length: seq }, (_, earlier) => read(earlier));
    await backend.commit({ put: [{ key: ["events", "d", seq], value: bytes(60, seq) }] });
    expect(await read(seq)).toBe(seq);
    const copy = await open(new SimulatedDisk(disk.image()));
    expect(await dump(copy)).toHaveLength(seq + 1);
    await copy.close();
    expect(await Promise.all(reading)).toEqual(reading.map((_, earlier) => earlier));
  }
  await backend.close();
});

test("[FL21] LogStore, LogKV: the index comes back by a scan of entries that describe themselves", async () => {
  const disk = new SimulatedDisk();
  let backend = await open(disk);
  for (let seq = 0; seq < 60; seq++) {
    await backend.commit({ put: [{ key: ["events", "d", seq % 40], value: bytes(3000, seq) }] });
  }
  await backend.commit({ delete: [["events", "d", 7]] });
  const before = await dump(backend);
  await backend.close();
  const bare = new Map([...disk.image()].filter(([name]) => !name.endsWith(".hint")));
  expect(bare.size).toBeLessThan(disk.image().size);
  backend = await open(new SimulatedDisk(bare));
  expect(await dump(backend)).toEqual(before);
  await backend.close();
});

test("[FL21] PersistentStore: what was written or read of a document's own key is compared from memory", async () => {
  const disk = new SimulatedDisk();
  const backend = await open(disk);
  const key = ["meta", "d"] as const;
  let value = bytes(100, 1);
  await backend.commit({ put: [{ key, value }] });
  const reads = await readsOf(disk, async () => {
    for (let round = 2; round < 20; round++) {
      const next = bytes(100, round);
      await backend.commit({ expect: [{ key, value }], put: [{ key, value: next }] });
      value = next;
    }
  });
  expect(reads).toBe(0);
  expect(await backend.get(key)).toEqual(value);
  await backend.close();
});

test("[FL21] LogKV: entries have times, segments are many, and merging takes back what is dead", async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk, { mergeDeadRatioMin: 1 });
  const storage = await DocumentStorage.open({ backend: factory, models: [nameSet()], env: simulatedEnv(5) });
  for (let i = 0; i < 60; i++) await storage.append("d", [naming(`${i}${"x".repeat(3000)}`)]);
  const times: number[] = [];
  for await (const { time } of storage.history("d")) times.push(time);
  expect(times).toHaveLength(60);
  expect(times.every((time) => time > 0)).toBe(true);
  const { segmentCount, fileBytes } = factory.stats()!;
  expect(segmentCount).toBeGreaterThan(2);
  await storage.delete("d");
  await factory.merge({ force: true });
  expect(factory.stats()!.fileBytes).toBeLessThan(fileBytes / 2);
  await storage.close();
});

test("[FL21] LogKV: many backends of one program are many stores, each with its own log", async () => {
  const backends: Backend[] = [];
  for (let i = 0; i < 4; i++) {
    const backend = await open(new SimulatedDisk());
    await backend.commit({ put: [{ key: ["values", "n"], value: Uint8Array.of(i) }] });
    backends.push(backend);
  }
  const found = await Promise.all(backends.map((backend) => backend.get(["values", "n"])));
  expect(found.map((value) => value?.[0])).toEqual([0, 1, 2, 3]);
  for (const backend of backends) await backend.close();
});
