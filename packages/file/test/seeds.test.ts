/**
 * Fifteen defects that were found in earlier stores of this kind, each as a test of the file log. Killing a process (12)
 * and a second process (15) are tried with real ones in `processes.isolated.test.ts` too.
 */

import { crashModels, type DiskImage, failure, SimulatedDisk } from "@coppice/file/testing";
import { DocumentStorage, Guard, isCoppiceError, LIMITS, systemEnv } from "coppice";
import { seededRandom, simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import { type NameSet, nameSet, naming } from "../../../test/support/oracle-model.js";
import { bytes } from "../../../test/support/stores.js";
import { dump, explore, factoryOn } from "./crash-tools.js";

const put = (seq: number, length = 60) => ({
  put: [{ key: ["events", "d", seq] as const, value: bytes(length, 1 + (seq % 250)) }],
});

async function codeOf(work: Promise<unknown>): Promise<string> {
  const [outcome] = await Promise.allSettled([work]);
  if (outcome.status === "fulfilled") return "resolved";
  return isCoppiceError(outcome.reason) ? outcome.reason.code : String(outcome.reason);
}

async function storeOf(count: number, disk: SimulatedDisk = new SimulatedDisk()): Promise<SimulatedDisk> {
  const backend = await factoryOn(disk, { mergeDeadRatioMin: 1 }).open(simulatedEnv(1));
  for (let seq = 0; seq < count; seq++) await backend.commit(put(seq));
  return disk;
}

async function keysOf(image: DiskImage): Promise<number> {
  const backend = await factoryOn(new SimulatedDisk(image)).open(simulatedEnv(2));
  const lines = await dump(backend);
  await backend.close();
  for (const [seq, line] of lines.entries()) expect(line).toContain(`events/${seq}/`);
  return lines.length;
}

test("[FL20] 1: reopen, write, reopen: nothing is overwritten, and numbering continues", async () => {
  const disk = new SimulatedDisk();
  for (let round = 0; round < 20; round++) {
    const factory = factoryOn(disk);
    const backend = await factory.open(simulatedEnv(round));
    expect(await dump(backend)).toHaveLength(round);
    expect(factory.stats()?.commitCount).toBe(round);
    await backend.commit(put(round));
    await backend.close();
  }
});

test("[FL20] 2: what was deleted stays deleted after reopening, whichever segment held it", {
  timeout: 120_000,
}, async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk, { mergeDeadRatioMin: 1 });
  let backend = await factory.open(simulatedEnv(1));
  for (let seq = 0; seq < 60; seq++) await backend.commit(put(seq, 3000));
  expect(factory.stats()!.segmentCount).toBeGreaterThan(2);
  await backend.commit({
    delete: [["events", "d", 1], ["events", "d", 59], { space: "events", id: "d", from: 25, to: 45 }],
  });
  const before = await dump(backend);
  expect(before).toHaveLength(38);
  for (const force of [false, true]) {
    await backend.close();
    backend = await factory.open(simulatedEnv(2));
    expect(await dump(backend)).toEqual(before);
    if (!force) await factory.merge({ force: true });
  }
  await backend.close();
});

test("[FL20] 3: cut at every byte: what a crash leaves opens as a prefix, what shrank or was closed is refused", {
  timeout: 120_000,
}, async () => {
  const disk = await storeOf(6);
  const image = disk.image();
  const name = "00000001.seg";
  const whole = image.get(name)!;
  let used = whole.length;
  while (whole[used - 1] === 0) used--;
  let last = 0;
  for (let at = 4096; at <= used; at++) {
    const cut = whole.slice();
    cut.fill(0, at);
    const count = await keysOf(new Map([...image, [name, cut]]));
    expect(count).toBeGreaterThanOrEqual(last);
    last = count;
  }
  expect(last).toBe(6);
  for (let at = 0; at < used; at += 97) {
    const short = new Map([...image, [name, whole.slice(0, at)]]);
    expect(await codeOf(factoryOn(new SimulatedDisk(short)).open(simulatedEnv(3)))).toBe("CORRUPT");
  }
  const backend = await factoryOn(disk)
    .open(simulatedEnv(3))
    .catch(() => undefined);
  expect(backend).toBeUndefined();
});

test("[FL20] 3: a closed store that was cut anywhere is refused", { timeout: 120_000 }, async () => {
  const disk = new SimulatedDisk((await storeOf(6)).image());
  await (await factoryOn(disk).open(simulatedEnv(2))).close();
  const image = disk.image();
  const whole = image.get("00000001.seg")!;
  for (let at = 4096; at < 4096 + 600; at++) {
    const cut = whole.slice();
    cut.fill(0, at);
    const changed = new Map([...image, ["00000001.seg", cut]]);
    if (Buffer.compare(cut, whole) === 0) continue;
    expect(await codeOf(factoryOn(new SimulatedDisk(changed)).open(simulatedEnv(3)))).toBe("CORRUPT");
  }
});

test("[FL20] 4: many keys of one session are read back, before and after reopening", async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk);
  let backend = await factory.open(simulatedEnv(1));
  for (let seq = 0; seq < 50; seq++) await backend.commit(put(seq));
  for (const round of [1, 2]) {
    for (let seq = 0; seq < 50; seq++) {
      expect(await backend.get(["events", "d", seq]), `round ${round}`).toEqual(bytes(60, 1 + (seq % 250)));
    }
    await backend.close();
    backend = await factory.open(simulatedEnv(2));
  }
  await backend.close();
});

test("[FL20] 5: what is too long is refused with a typed error; the longest ids are kept whole", async () => {
  const factory = factoryOn(new SimulatedDisk());
  const guard = new Guard(await factory.open(simulatedEnv(1)), systemEnv(), LIMITS);
  const value = bytes(1, 1);
  const long = "\0".repeat(512);
  await guard.commit({
    put: [{ key: ["events", long, Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER], value }],
  });
  expect(await guard.get(["events", long, Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER])).toEqual(value);
  expect(await codeOf(guard.commit({ put: [{ key: ["events", `${long}\0`], value }] }))).toBe("ID_INVALID");
  const huge = new Uint8Array(guard.traits.valueBytesMax + 1);
  expect(await codeOf(guard.commit({ put: [{ key: ["events", "d"], value: huge }] }))).toBe(
    "BATCH_TOO_LARGE",
  );
  await guard.close();
  const again = await factory.open(simulatedEnv(2));
  expect(await dump(again)).toHaveLength(1);
  await again.close();
});

test("[FL20] 6: separators, line breaks, NUL, dots and emptiness mean nothing in keys and values", async () => {
  const ids = [
    "..",
    "../x",
    "/",
    "a\nput k v",
    "a b",
    "\0",
    "a\0",
    "\u{1F600}",
    "é",
    "constructor",
    "__proto__",
    "\ufeff",
  ];
  const values = ["", "\n", "\0", "\r\nput x y\n", "MANIFEST"].map((text) => new TextEncoder().encode(text));
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk);
  let backend = await factory.open(simulatedEnv(1));
  for (const id of ids) {
    await backend.commit({ put: values.map((value, seq) => ({ key: ["events", id, seq], value })) });
  }
  const names = new Set(disk.image().keys());
  expect([...names].every((name) => /^(MANIFEST|\d{8}\.seg)$/.test(name))).toBe(true);
  for (let round = 0; round < 2; round++) {
    for (const id of ids) {
      for (const [seq, value] of values.entries())
        expect(await backend.get(["events", id, seq])).toEqual(value);
    }
    await backend.close();
    backend = await factory.open(simulatedEnv(2));
  }
  await backend.close();
});

test("[FL20] 7: a batch that fails half-way leaves nothing", { timeout: 120_000 }, async () => {
  const random = seededRandom(7);
  // Pieces of one sector reach the disk together or in their order, so the models that pick among them do not apply.
  const inOrder = crashModels.filter(({ keep }) => keep !== "subset" && keep !== "sectors");
  for (let after = 0; after < 12; after++) {
    const disk = await storeOf(3);
    const factory = factoryOn(new SimulatedDisk(disk.image()));
    const own = new SimulatedDisk(disk.image());
    const backend = await factoryOn(own).open(simulatedEnv(1));
    own.writeBytesMax = 100;
    let writes = 0;
    own.fault = ({ kind }) => (kind === "write" && writes++ >= after ? failure("ENOSPC") : undefined);
    const batch = {
      put: Array.from({ length: 30 }, (_, i) => ({
        key: ["events", "d", 3 + i] as const,
        value: bytes(40, 9),
      })),
    };
    expect(await codeOf(backend.commit(batch))).not.toBe("resolved");
    expect(await dump(backend)).toHaveLength(3);
    await backend.close();
    for (const image of [own.image(), ...inOrder.map((model) => own.crash(model, random))]) {
      expect(await keysOf(image)).toBe(3);
    }
    await (await factory.open(simulatedEnv(2))).close();
  }
});

test("[FL20] 8: reading what is not there changes nothing", async () => {
  const disk = await storeOf(3);
  const again = new SimulatedDisk(disk.image());
  const backend = await factoryOn(again).open(simulatedEnv(2));
  const before = again.operationCount;
  for (const key of [
    ["events", "x"],
    ["events", "d"],
    ["events", "d", 9],
    ["meta", "d", 1],
  ] as const) {
    expect(await backend.get(key)).toBeUndefined();
  }
  expect(again.operationCount).toBe(before);
  expect(await dump(backend)).toHaveLength(3);
  await backend.close();
});

test("[FL20] 9: merging takes back files and bytes, reads stay right beside it, and a crash at each step is safe", {
  timeout: 120_000,
}, async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk, { mergeDeadRatioMin: 1 });
  const backend = await factory.open(simulatedEnv(1));
  for (let seq = 0; seq < 80; seq++) await backend.commit(put(seq, 3000));
  await backend.commit({ delete: [{ space: "events", id: "d", to: 70 }] });
  const before = { files: disk.image().size, ...factory.stats()! };
  const lines = await dump(backend);
  let merging = true;
  const merged = factory.merge({ force: true }).finally(() => {
    merging = false;
  });
  while (merging) {
    expect(await dump(backend)).toEqual(lines);
    // Here reads take no turn of the event loop, and between its slices merging waits for one.
    await new Promise((resolve) => setImmediate(resolve));
  }
  expect((await merged).freedBytes).toBeGreaterThan(100_000);
  expect(disk.image().size).toBeLessThan(before.files);
  expect(factory.stats()!.fileBytes).toBeLessThan(before.fileBytes / 2);
  expect(factory.stats()!.deletionBytes).toBe(0);
  expect(await dump(backend)).toEqual(lines);
  await backend.close();
  const replay = "npm run unit -- packages/file/test/seeds.test.ts -t 'FL20] 9'";
  const how = { stepCount: 30, merges: true, budget: 1500, replay };
  expect((await explore(90, crashModels, how)).states).toBeGreaterThan(1000);
});

test("[FL20] 10: a late event beside a compacted document gets a defined answer", async () => {
  const storage = await DocumentStorage.open({
    backend: factoryOn(new SimulatedDisk()),
    models: [nameSet()],
  });
  await storage.append("d", [naming("a"), naming("late", ["missing"])]);
  await storage.compact("d");
  await storage.append("d", [naming("b", ["a"])]);
  expect([...(await storage.load<NameSet>("d"))!.doc.names.keys()].sort()).toEqual(["a", "b"]);
  await storage.append("d", [naming("missing")]);
  expect([...(await storage.load<NameSet>("d"))!.doc.names.keys()].sort()).toEqual([
    "a",
    "b",
    "late",
    "missing",
  ]);
  expect((await storage.check()).problems).toEqual([]);
  await storage.close();
});

test("[FL20] 11: the bytes that a save writes do not grow with the document", {
  timeout: 120_000,
}, async () => {
  const disk = new SimulatedDisk();
  const backend = await factoryOn(disk, { mergeDeadRatioMin: 1 }).open(simulatedEnv(1));
  const written: number[] = [];
  const used = () => factory.stats()!.frameBytes;
  await backend.close();
  const factory = factoryOn(disk, { mergeDeadRatioMin: 1 });
  const again = await factory.open(simulatedEnv(2));
  for (let seq = 0; seq < 1000; seq++) {
    const before = used();
    await again.commit(put(seq));
    written.push(used() - before);
  }
  expect(Math.max(...written)).toBe(Math.min(...written));
  expect(written[0]).toBeLessThan(160);
  await again.close();
});

test("[FL20] 12: an acknowledged commit survives the death of the process, at each durability", async () => {
  for (const durability of ["power", "process"] as const) {
    const disk = new SimulatedDisk();
    const backend = await factoryOn(disk, { durability }).open(simulatedEnv(1));
    for (let seq = 0; seq < 20; seq++) {
      await backend.commit(put(seq));
      expect(await keysOf(disk.image())).toBe(seq + 1);
    }
    await backend.close();
  }
});

test("[FL20] 13: reopening never truncates", async () => {
  const disk = new SimulatedDisk();
  await (await factoryOn(disk).open(simulatedEnv(1))).close();
  const factory = factoryOn(disk);
  let backend = await factory.open(simulatedEnv(1));
  await backend.commit(put(0));
  const before = factory.stats()!;
  for (let round = 0; round < 5; round++) {
    await backend.close();
    backend = await factory.open(simulatedEnv(2));
    expect({ ...factory.stats()!, segmentsScanned: 0 }).toEqual(before);
  }
  await backend.close();
});

test("[FL20] 14: a record that cannot be read is reported, not skipped", async () => {
  const disk = await storeOf(10);
  const image = disk.image();
  const bad = image.get("00000001.seg")!.slice();
  bad[4096 + 300]! ^= 0x10;
  const open = factoryOn(new SimulatedDisk(new Map([...image, ["00000001.seg", bad]]))).open(simulatedEnv(2));
  const [outcome] = await Promise.allSettled([open]);
  expect(outcome).toMatchObject({
    status: "rejected",
    reason: { code: "CORRUPT", details: { file: "00000001.seg", offset: expect.any(Number) } },
  });
});

test("[FL20] 15: a second writer is LOCKED, and a read-only open beside it sees new events", async () => {
  const disk = new SimulatedDisk();
  const writer = await DocumentStorage.open({ backend: factoryOn(disk), models: [nameSet()] });
  await writer.append("d", [naming("first")]);
  expect(await codeOf(factoryOn(disk).open(simulatedEnv(2)))).toBe("LOCKED");
  const backend = factoryOn(disk, { readOnly: true });
  const reader = await DocumentStorage.open({ backend, models: [nameSet()] });
  expect(backend.stats()?.openedReadOnly).toBe(true);
  for (const name of ["second", "third"]) {
    await writer.append("d", [naming(name)]);
    expect((await reader.load<NameSet>("d"))!.doc.names.has(name)).toBe(true);
  }
  expect(await codeOf(reader.append("d", [naming("mine")]))).toBe("READ_ONLY");
  await reader.close();
  await writer.close();
});
