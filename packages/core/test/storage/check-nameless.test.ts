/** Meta whose bytes are as they were written, and which names no model: a repair gets it out of the way. */

import { type SimulatedBackend, simulatedBackend } from "coppice/testing";
import { expect, test } from "vitest";
import { packRecord, unpackRecord } from "../../src/storage/meta.js";
import { META, metaOf, repairsTo, reseal, seen, stays } from "./check-tools.js";
import { build, event, ID, keysIn, using } from "./check-workload.js";

/** As a storage wrote it that had taken a model without a name. */
function nameless(backend: SimulatedBackend, change: object = {}): void {
  reseal(backend, META, (envelope) => {
    const record = unpackRecord(envelope.payload) as object;
    return { ...envelope, payload: packRecord({ ...record, model: undefined, ...change }) };
  });
}

async function empty(): Promise<SimulatedBackend> {
  const backend = simulatedBackend();
  await using(backend, (storage) => storage.open(ID));
  return backend;
}

test("[CK23] meta that names no model is made again from the events, and none is lost", async () => {
  for (const shape of ["log", "snapshot", "compacted", "covered"] as const) {
    const backend = await build(shape);
    const before = await seen(backend);
    nameless(backend);
    await repairsTo(backend, "meta-damaged");
    expect(await seen(backend)).toEqual(before);
    expect(keysIn(backend, "quarantine")).toHaveLength(1);
  }
});

test("[CK23] such meta of a document without events is set aside, and the id can be used, or erased", async () => {
  const backend = await empty();
  nameless(backend);
  await repairsTo(backend, "meta-damaged");
  expect(keysIn(backend, "quarantine")).toHaveLength(1);
  await using(backend, async (storage) => {
    expect(await storage.load(ID)).toBeUndefined();
    const handle = await storage.open(ID, { recreate: true });
    expect(handle.clock).toBe(0);
    expect((await storage.append(ID, [event("a")])).clock).toBe(1);
    expect((await storage.check()).clean).toBe(true);
  });
  const other = await empty();
  nameless(other);
  await using(other, async (storage) => {
    await storage.check({ repair: true });
    await storage.erase(ID);
    expect((await storage.open(ID, { recreate: true })).clock).toBe(0);
  });
  expect(keysIn(other, "quarantine")).toEqual([]);
});

test("[CK23] the clock of a deleted document, and of one begun anew, stays", async () => {
  for (const anew of [false, true]) {
    const backend = await build("log");
    const end = await using(backend, async (storage) => {
      const { clock } = (await storage.info(ID))!;
      await storage.delete(ID);
      if (anew) await storage.open(ID, { recreate: true });
      return clock;
    });
    nameless(backend);
    await repairsTo(backend, "meta-damaged");
    expect(metaOf(backend).deleted?.clock).toBe(end);
    const begun = await using(backend, async (storage) => (await storage.open(ID, { recreate: true })).clock);
    expect(begun).toBe(end);
  }
});

test("[CK23] it stays where more is damaged, or where the records are gone that it tells of", async () => {
  const flipped = await empty();
  nameless(flipped);
  flipped.flip(META, 20);
  await stays(flipped, "meta-damaged");
  const more = await empty();
  nameless(more, { base: "0" });
  await stays(more, "meta-damaged");
  const claim = await empty();
  const deleted = { clock: 0, time: 1 };
  nameless(claim, { deleted, incoming: { nonce: "1", fresh: true } });
  await stays(claim, "meta-damaged");
  for (const shape of ["snapshot", "compacted"] as const) {
    const backend = await build(shape);
    nameless(backend);
    for (const key of backend.keys()) if (key[0] !== "meta") backend.deleteRaw(key);
    await stays(backend, "meta-damaged");
  }
});
