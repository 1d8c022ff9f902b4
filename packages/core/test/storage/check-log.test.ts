/** What `check` finds in a log, code by code, and what a repair makes of it. */

import { describe, expect, test } from "vitest";
import { seal, unseal } from "../../src/storage/envelope.js";
import { eventsKey } from "../../src/storage/meta.js";
import { changeMeta, check, codes, metaOf, repair, repairsTo, reseal, seen, stays } from "./check-tools.js";
import { build, EARLY, event, growSet, ID, keysIn, LATE, using, valueAt } from "./check-workload.js";

const COVERED = EARLY.flat().length;

describe("batches", () => {
  test("[CK4] a damaged batch that a snapshot covers gives way to a lost one, and nothing is lost", async () => {
    const backend = await build("snapshot");
    const before = await seen(backend);
    backend.flip(eventsKey(ID, 3), 30);
    await repairsTo(backend, "batch-damaged");
    expect(await seen(backend)).toEqual(before);
    expect((await repair(backend)).quarantined).toBe(1);
  });

  test("[CK4] a damaged batch beyond the snapshots is lost; its events count, and a load names them", async () => {
    const backend = await build("compacted");
    backend.flip(eventsKey(ID, COVERED), 40);
    const problem = await repairsTo(backend, "batch-damaged", 2);
    expect(problem.key).toEqual(eventsKey(ID, COVERED));
    const { clock, held } = (await seen(backend))!;
    expect(clock).toBe(COVERED + 4);
    expect(held.filter((one) => one.includes("set aside"))).toHaveLength(2);
  });

  test("[CK4] after a lost last batch the commit ids before it are still known", async () => {
    const backend = await build("log");
    await using(backend, async (storage) => {
      const commitId = storage.newCommitId();
      const { clock } = await storage.append(ID, [event("once")], { commitId });
      await storage.append(ID, [event("later")]);
      backend.flip(eventsKey(ID, clock), 40);
      await storage.check({ repair: true });
      const again = await storage.append(ID, [event("once")], { commitId });
      expect(again).toMatchObject({ duplicate: true, clock });
    });
  });

  test("[CK4] neighbouring damaged batches, the first and the last among them, keep every clock", async () => {
    for (const shape of ["log", "snapshot", "covered"] as const) {
      const backend = await build(shape);
      const before = (await seen(backend))!;
      for (const key of keysIn(backend, "events")) backend.flip(key, valueAt(backend, key).length - 1);
      const report = await repair(backend);
      expect(report.clean).toBe(true);
      expect((await check(backend)).problems).toEqual([]);
      expect((await seen(backend))!.clock).toBe(before.clock);
      if (shape === "covered") expect(await seen(backend)).toEqual(before);
    }
  });

  test("[CK4] a batch whose payload is no longer what its header says counts as damaged", async () => {
    const backend = await build("covered");
    reseal(backend, eventsKey(ID, COVERED + 3), (envelope) => ({
      ...envelope,
      payload: envelope.payload.slice(1),
    }));
    const found = await check(backend);
    expect(codes(found)).toContain("batch-damaged");
    expect((await repair(backend)).clean).toBe(true);
    expect((await check(backend)).problems).toEqual([]);
  });

  test("[CK4] so does one that holds more events than it says, and no load shows these", async () => {
    const backend = await build("log");
    reseal(backend, keysIn(backend, "events").at(-1)!, (envelope) => ({
      ...envelope,
      payload: growSet().codec.encode([...LATE.at(-1)!, event("more")]),
    }));
    await expect(seen(backend)).rejects.toMatchObject({ code: "CORRUPT" });
    expect(codes(await check(backend))).toEqual(["batch-damaged"]);
    expect((await repair(backend)).clean).toBe(true);
  });

  test("[CK5] missing batches inside the log are filled, cut where a snapshot ends", async () => {
    const backend = await build("snapshot");
    const before = await seen(backend);
    for (const clock of [2, 3]) backend.deleteRaw(eventsKey(ID, clock));
    await repairsTo(backend, "log-gap");
    expect(await seen(backend)).toEqual(before);
    expect(keysIn(backend, "events").map((key) => key[2])).toEqual([0, 2, 3, 5, 6, 8, 9]);
    expect((await repair(backend)).quarantined).toBe(0);
  });

  test("[CK5] a snapshot beyond the head shows that batches are missing, and keeps their events", async () => {
    const backend = await build("covered");
    const before = await seen(backend);
    for (const clock of [COVERED + 2, COVERED + 3]) backend.deleteRaw(eventsKey(ID, clock));
    const incarnation = metaOf(backend).incarnation;
    await repairsTo(backend, "tail-missing");
    expect(await seen(backend)).toEqual(before);
    expect(metaOf(backend).incarnation).not.toBe(incarnation);
  });

  test("[CK5] a log whose batches are all gone is held up by its snapshot", async () => {
    for (const shape of ["covered", "snapshot"] as const) {
      const backend = await build(shape);
      const before = (await seen(backend))!;
      for (const key of keysIn(backend, "events")) backend.deleteRaw(key);
      await repairsTo(backend, "tail-missing");
      const after = (await seen(backend))!;
      if (shape === "covered") expect(after).toEqual(before);
      else expect(after.clock).toBe(COVERED);
    }
    // The older snapshot gone as well, so that nothing is retained below the newest.
    const backend = await build("covered");
    const before = (await seen(backend))!;
    changeMeta(backend, (meta) => ({ ...meta, previous: undefined, oldest: meta.snapshot!.clock }));
    for (const key of keysIn(backend, "events")) backend.deleteRaw(key);
    await repair(backend);
    expect((await check(backend)).problems).toEqual([]);
    expect(await seen(backend)).toEqual(before);
  });

  test("[CK5] damaged values far beyond the head, or inside a batch, are set aside and fill no clocks", async () => {
    for (const clock of [2 ** 40, 1]) {
      const backend = await build("compacted");
      changeMeta(backend, (meta) => ({ ...meta }));
      const at = clock === 1 ? COVERED + 1 : clock;
      backend.putRaw(eventsKey(ID, at), Uint8Array.of(1, 2, 3));
      await repairsTo(backend, "batch-stray");
      expect((await seen(backend))!.clock).toBe(COVERED + 4);
      expect(keysIn(backend, "quarantine")).toHaveLength(1);
    }
  });

  test("[CK5] batches after a deletion: damaged ones are set aside, intact ones stay a problem", async () => {
    const backend = await build("log");
    const kept = valueAt(backend, eventsKey(ID, 9));
    await using(backend, (storage) => storage.delete(ID));
    backend.putRaw(eventsKey(ID, 20), Uint8Array.of(9));
    await repairsTo(backend, "batch-stray");
    const key = eventsKey(ID, 21);
    backend.putRaw(key, seal(key, unseal(eventsKey(ID, 9), kept)).bytes);
    await stays(backend, "batch-stray");
  });

  test("[CK6] an intact batch that does not follow is sealed again, with all after it, and loses no event", async () => {
    const backend = await build("snapshot");
    const [before, meta] = [await seen(backend), metaOf(backend)];
    const commitId = new Uint8Array(16);
    reseal(backend, eventsKey(ID, 0), (envelope) => ({
      ...envelope,
      batch: { ...envelope.batch!, commitId },
    }));
    const { key } = await repairsTo(backend, "chain-broken");
    expect(key).toEqual(eventsKey(ID, 2));
    expect(await seen(backend)).toEqual(before);
    expect(metaOf(backend).snapshot!.crc).not.toBe(meta.snapshot!.crc);
    expect(keysIn(backend, "quarantine")).toHaveLength(1);
  });

  test("[RC5] a last batch that does not follow what it comes after is CORRUPT, and never shown", async () => {
    for (const shape of ["log", "compacted"] as const)
      for (const nth of [0, 1]) {
        const backend = await build(shape);
        const from = metaOf(backend).snapshot?.clock ?? 0;
        const keys = keysIn(backend, "events").filter(([, , clock]) => clock! >= from);
        for (const key of keys.slice(nth + 1)) backend.deleteRaw(key);
        expect((await seen(backend))!.clock).toBe(keys[nth + 1]![2]);
        reseal(backend, keys[nth]!, (envelope) => {
          const batch = envelope.batch!;
          return { ...envelope, batch: { ...batch, previousCrc: batch.previousCrc ^ 1 } };
        });
        await expect(seen(backend), `${shape} ${nth}`).rejects.toMatchObject({ code: "CORRUPT" });
      }
  });

  test("[CK6] a total that is wrong is put right", async () => {
    const backend = await build("covered");
    const before = await seen(backend);
    const key = eventsKey(ID, COVERED + 3);
    const logBytes = metaOf(backend).snapshot!.logBytes;
    reseal(backend, key, (envelope) => ({ ...envelope, logBytes: logBytes + 7 }));
    changeMeta(backend, (meta) => {
      const crc = new DataView(valueAt(backend, key).slice(-4).buffer).getUint32(0, true);
      return { ...meta, snapshot: { ...meta.snapshot!, crc, logBytes: logBytes + 7 } };
    });
    await repairsTo(backend, "totals-wrong");
    expect(metaOf(backend).snapshot!.logBytes).toBe(logBytes);
    expect(await seen(backend)).toEqual(before);
  });

  test("[CK6] a time that went back is put right", async () => {
    const backend = await build("log");
    const key = eventsKey(ID, 9);
    reseal(backend, key, (envelope) => ({ ...envelope, time: 5 }));
    await repairsTo(backend, "time-went-back");
    expect(unseal(key, valueAt(backend, key)).time).toBe(
      unseal(eventsKey(ID, 8), valueAt(backend, eventsKey(ID, 8))).time,
    );
  });

  test("[CK6] meta that names another batch before a snapshot is put right", async () => {
    for (const [change, code] of [
      [{ crc: 1 }, "chain-broken"],
      [{ logBytes: 1 }, "totals-wrong"],
    ] as const) {
      const backend = await build("covered");
      const before = metaOf(backend);
      changeMeta(backend, (meta) => ({ ...meta, snapshot: { ...meta.snapshot!, ...change } }));
      await repairsTo(backend, code);
      expect(metaOf(backend)).toEqual({ ...before, repaired: expect.any(String) });
    }
  });

  test("[CK7] two intact batches that claim one clock stay a problem: nothing tells which is right", async () => {
    const backend = await build("log");
    const key = eventsKey(ID, 1);
    backend.putRaw(key, seal(key, unseal(eventsKey(ID, 0), valueAt(backend, eventsKey(ID, 0)))).bytes);
    await stays(backend, "log-overlap");
  });
});
