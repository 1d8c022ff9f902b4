/** Checking and mending damaged stores. */

import { checkFileLog } from "@coppice/file";
import { crashModels, type DiskImage, failure, SimulatedDisk } from "@coppice/file/testing";
import { DocumentStorage, isCoppiceError } from "coppice";
import { seededRandom, simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import { type NameSet, nameSet, naming } from "../../../test/support/oracle-model.js";
import { changed, dump, explore, factoryOn, framesOn, linesOf, storeOf } from "./crash-tools.js";

const env = () => simulatedEnv(9);

/** A repair writes several segments, unless they are said to be larger. */
function check(disk: SimulatedDisk, repair: boolean, segmentBytesMax = 64 * 1024) {
  return checkFileLog("simulated", { repair, env: env(), files: disk.files, segmentBytesMax });
}

test("[FL2] options of a check that are wrong are refused", async () => {
  const call = (...given: unknown[]) => checkFileLog(...(given as Parameters<typeof checkFileLog>));
  await expect(call("d", { repiar: true })).rejects.toThrow(/no option repiar; there are repair/);
  await expect(call("d", { repair: 1 })).rejects.toThrow(/repair must be true or false/);
  await expect(call("d", { segmentBytesMax: 1 })).rejects.toThrow(RangeError);
  await expect(call()).rejects.toThrow(/path of a directory/);
});

test("[FL17] a store without damage is read whole, and a repair changes nothing", async () => {
  for (const close of [true, false]) {
    const { disk, lines } = await storeOf(60, close);
    const store = new SimulatedDisk(disk.image());
    const before = store.operationCount;
    for (const repair of [false, true]) {
      const report = await check(store, repair);
      expect(report).toMatchObject({ damage: [], repaired: false, frames: 60, records: 120 });
      expect(report.segments).toBeGreaterThan(1);
    }
    expect(store.operationCount).toBe(before);
    expect(await linesOf(store)).toEqual(lines);
  }
});

test("[FL17] a damaged byte costs its record alone; the segment is kept in quarantine, and the store opens again", {
  timeout: 120_000,
}, async () => {
  const random = seededRandom(11);
  for (let round = 0; round < 40; round++) {
    const { disk, lines } = await storeOf(60, round % 2 === 0);
    const image = disk.image();
    const name = random.pick([...image.keys()].filter((each) => each.endsWith(".seg")));
    const used = image.get(name)!.findLastIndex((byte) => byte !== 0);
    const at = 4096 + random.int(used - 4096);
    const bad = changed(image, name, (bytes) => {
      bytes[at]! ^= 1 << random.int(8);
    });
    const store = new SimulatedDisk(bad);
    const report = await check(store, false);
    expect(report.repaired).toBe(false);
    const repaired = await check(store, true);
    expect(repaired.damage.length).toBe(report.damage.length);
    if (report.damage.length > 0) {
      expect(repaired.repaired).toBe(true);
      const { quarantine } = repaired.damage[0]!;
      expect(Buffer.compare(store.image().get(quarantine!)!, bad.get(name)!)).toBe(0);
      expect(repaired.documents.length).toBeGreaterThan(0);
    }
    const left = await linesOf(store);
    expect(lines).toEqual(expect.arrayContaining(left));
    expect(left.length).toBeGreaterThanOrEqual(lines.length - 1);
    expect((await check(store, false)).damage).toEqual([]);
  }
});

test("[FL17] a lost or damaged manifest, and lost segments, are mended with what is left", async () => {
  const { disk, lines } = await storeOf(60, true);
  const image = disk.image();
  const withoutManifest = new Map([...image].filter(([name]) => name !== "MANIFEST"));
  const damagedManifest = changed(image, "MANIFEST", (bytes) => bytes.fill(0, 30, 60));
  for (const bad of [withoutManifest, damagedManifest]) {
    const store = new SimulatedDisk(bad);
    expect((await check(store, true)).damage[0]).toMatchObject({ file: "MANIFEST" });
    expect(await linesOf(store)).toEqual(lines);
  }
  const lost = new SimulatedDisk(new Map([...image].filter(([name]) => name !== "00000001.seg")));
  const report = await check(lost, true);
  expect(report.damage).toMatchObject([{ file: "00000001.seg", message: "is missing" }]);
  const left = await linesOf(lost);
  expect(left.length).toBeGreaterThan(10);
  expect(lines).toEqual(expect.arrayContaining(left));
  const nothing = check(new SimulatedDisk(), true);
  await expect(nothing).rejects.toMatchObject({ code: "UNAVAILABLE" });
});

test("[FL17] a damaged manifest without a segment is named, and set aside by a repair", async () => {
  const { disk } = await storeOf(0, true);
  const image = changed(disk.image(), "MANIFEST", (bytes) => bytes.fill(7, 20, 40));
  const bad = new SimulatedDisk(image);
  await expect(factoryOn(bad).open(simulatedEnv(2))).rejects.toMatchObject({ code: "CORRUPT" });
  expect(await check(bad, false)).toMatchObject({ damage: [{ file: "MANIFEST" }], repaired: false });
  expect(bad.image()).toEqual(image);
  const { damage, repaired } = await check(bad, true);
  expect(repaired).toBe(true);
  expect(bad.image().get(damage[0]!.quarantine!)).toEqual(image.get("MANIFEST"));
  expect(await linesOf(bad)).toEqual([]);
});

test("[FL17] a repair that is interrupted at any operation can be repeated", {
  timeout: 120_000,
}, async () => {
  const { disk, lines } = await storeOf(50, true);
  const bad = changed(disk.image(), "00000001.seg", (bytes) => {
    bytes[6000]! ^= 255;
  });
  const calm = new SimulatedDisk(bad);
  await check(calm, true);
  const wanted = await linesOf(new SimulatedDisk(calm.image()));
  expect(wanted).toHaveLength(lines.length - 1);
  for (let at = 0; at < calm.operationCount; at++) {
    const store = new SimulatedDisk(bad);
    store.fault = ({ index }) => (index >= at ? failure("EIO") : undefined);
    await check(store, true).catch((error: unknown) => {
      if (isCoppiceError(error, "CORRUPT")) throw error;
    });
    const after = new SimulatedDisk(store.image());
    await check(after, true);
    expect(await linesOf(after), `operation ${at}`).toEqual(wanted);
    expect([...after.image().keys()].some((name) => name.startsWith("quarantine-"))).toBe(true);
  }
});

test("[FL27] of a store without a manifest, a segment whose header is damaged is named and set aside", async () => {
  const { disk, lines } = await storeOf(60, true);
  const hurt = changed(disk.image(), "00000001.seg", (bytes) => {
    bytes[20]! ^= 1;
  });
  const bad = new Map([...hurt].filter(([name]) => name !== "MANIFEST"));
  const store = new SimulatedDisk(bad);
  const { damage } = await check(store, true);
  expect(damage).toMatchObject([
    { file: "MANIFEST", message: "is missing" },
    { file: "00000001.seg", message: "has a damaged header" },
  ]);
  expect(Buffer.compare(store.image().get(damage[1]!.quarantine!)!, bad.get("00000001.seg")!)).toBe(0);
  const left = await linesOf(store);
  expect(left.length).toBeGreaterThan(10);
  expect(lines).toEqual(expect.arrayContaining(left));
});

test("[FL27] a manifest from before commits or a merge is damage, and a repair keeps what came after it", async () => {
  for (const merges of [false, true]) {
    const disk = new SimulatedDisk();
    const factory = factoryOn(disk, { mergeDeadRatioMin: 1 });
    const backend = await factory.open(simulatedEnv(1));
    const write = async (from: number, to: number) => {
      for (let seq = from; seq < to; seq++) {
        await backend.commit({ put: [{ key: ["events", "a", seq], value: new Uint8Array(1400).fill(seq) }] });
      }
    };
    await write(0, 55);
    const outdated = disk.image().get("MANIFEST")!;
    if (merges) await factory.merge({ force: true });
    else await write(55, 120);
    await backend.commit({ put: [{ key: ["events", "a", 500], value: new Uint8Array(3) }] });
    const lines = await dump(backend);
    await backend.close();
    const image = new Map([...disk.image(), ["MANIFEST", outdated] as const]);
    await expect(linesOf(new SimulatedDisk(image))).rejects.toMatchObject({ code: "CORRUPT" });
    const store = new SimulatedDisk(image);
    const message = "is older than the segments";
    expect((await check(store, true)).damage).toMatchObject([{ file: "MANIFEST", message }]);
    expect(await linesOf(store), String(merges)).toEqual(lines);
    const first = [...image.keys()].sort().find((name) => name.endsWith(".seg"))!;
    const twice = changed(image, first, (bytes) => {
      bytes[4096 + 40]! ^= 1;
    });
    const hurt = new SimulatedDisk(twice);
    expect((await check(hurt, true)).damage).toMatchObject([{ file: "MANIFEST", message }, { file: first }]);
    expect(await linesOf(hurt), String(merges)).toHaveLength(lines.length - 1);
  }
});

test("[FL27] also one from before there was a commit, where all has been merged or repaired since", async () => {
  for (const how of ["merged", "repaired"]) {
    const disk = new SimulatedDisk();
    const factory = factoryOn(disk, { mergeDeadRatioMin: 1 });
    let backend = await factory.open(simulatedEnv(1));
    const outdated = disk.image().get("MANIFEST")!;
    for (let seq = 0; seq < 120; seq++)
      await backend.commit({ put: [{ key: ["events", "a", seq], value: new Uint8Array(1400).fill(seq) }] });
    if (how === "merged") await factory.merge({ force: true });
    const lines = await dump(backend);
    await backend.close();
    if (how === "repaired") {
      const lost = new SimulatedDisk(new Map([...disk.image()].filter(([name]) => name !== "MANIFEST")));
      await check(lost, true);
      backend = await factoryOn(lost).open(simulatedEnv(2));
      await backend.close();
      expect(await linesOf(new SimulatedDisk(lost.image()))).toEqual(lines);
      await expectOutdated(new Map([...lost.image(), ["MANIFEST", outdated]]), lines);
    } else await expectOutdated(new Map([...disk.image(), ["MANIFEST", outdated]]), lines);
  }
});

test("[FL27] and one whose segments a crash left, while what came after them was merged", async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk, { mergeDeadRatioMin: 1 });
  const backend = await factory.open(simulatedEnv(1));
  const write = async (from: number, to: number) => {
    for (let seq = from; seq < to; seq++)
      await backend.commit({ put: [{ key: ["events", "a", seq], value: new Uint8Array(1400).fill(seq) }] });
  };
  await write(0, 20);
  const before = disk.image();
  await write(20, 120);
  await factory.merge({ force: true });
  const lines = await dump(backend);
  await backend.close();
  const kept = ["MANIFEST", "00000001.seg"].map((name) => [name, before.get(name)!] as const);
  const image = new Map([...disk.image(), ...kept]);
  await expectOutdated(image, lines);
});

async function expectOutdated(image: DiskImage, lines: readonly string[]): Promise<void> {
  const names = [...image.keys()];
  const opened = new SimulatedDisk(image);
  await expect(linesOf(opened)).rejects.toMatchObject({ code: "CORRUPT" });
  expect([...opened.image().keys()]).toEqual(names);
  const store = new SimulatedDisk(image);
  const message = "is older than the segments";
  expect((await check(store, true)).damage).toMatchObject([{ file: "MANIFEST", message }]);
  expect(await linesOf(store)).toEqual(lines);
}

test("[FL30] a segment of another size than it was made with is damage, and mended", async () => {
  for (const close of [true, false]) {
    const { disk, lines } = await storeOf(60, close);
    const image = disk.image();
    const used = image.get("00000002.seg")!.findLastIndex((byte) => byte !== 0) + 1;
    expect(used).toBeLessThan(image.get("00000002.seg")!.length);
    for (const size of [used, used - 200]) {
      const cut = new Map([...image, ["00000002.seg", image.get("00000002.seg")!.slice(0, size)] as const]);
      await expect(linesOf(new SimulatedDisk(cut))).rejects.toMatchObject({ code: "CORRUPT" });
      const store = new SimulatedDisk(cut);
      const { damage, repaired } = await check(store, true);
      const message = "has another size than it was made with";
      expect(damage[0]).toMatchObject({ file: "00000002.seg", position: size, message });
      expect(repaired).toBe(true);
      expect(store.image().get(damage[0]!.quarantine!)).toHaveLength(size);
      const left = await linesOf(store);
      expect(lines).toEqual(expect.arrayContaining(left));
      // The record that the cut hits goes, or its commit, of two records, where no manifest knows that.
      expect(left).toHaveLength(size === used ? lines.length : lines.length - (close ? 1 : 2));
    }
  }
});

test("[FL30] commits that are zeros up to the end that the manifest knows are damage, listed, and mended", async () => {
  const { disk, lines } = await storeOf(60, true);
  const frames = await framesOn(disk);
  for (const file of new Set(frames.map((frame) => frame.file))) {
    const own = frames.filter((frame) => frame.file === file);
    for (const count of [1, 2, own.length]) {
      const [first, last] = [own.at(-count)!, own.at(-1)!];
      const [position, end] = [first.position, last.position + last.bytes];
      const zeroed = changed(disk.image(), file, (bytes) => bytes.fill(0, position, end));
      const image = new Map([...zeroed].filter(([name]) => !name.endsWith(".hint")));
      await expect(linesOf(new SimulatedDisk(image))).rejects.toMatchObject({ code: "CORRUPT" });
      const listed = (await framesOn(new SimulatedDisk(image))).filter(({ state }) => state !== "whole");
      expect(listed).toMatchObject([{ file, position, bytes: end - position, state: "damaged" }]);
      const store = new SimulatedDisk(image);
      const { damage, repaired } = await check(store, true);
      expect(damage).toMatchObject([
        { file, position, bytes: end - position, message: "a commit is damaged" },
      ]);
      expect(repaired).toBe(true);
      expect(lines).toEqual(expect.arrayContaining(await linesOf(store)));
    }
  }
});

test("[FL30] a segment under a name that no manifest knows is set aside before it goes", async () => {
  const { disk } = await storeOf(60, true);
  const image = disk.image();
  const moved = new Map([...image].filter(([name]) => name !== "00000001.seg"));
  moved.set("00000077.seg", image.get("00000001.seg")!);
  const store = new SimulatedDisk(moved);
  expect((await check(store, true)).damage).toMatchObject([{ file: "00000001.seg", message: "is missing" }]);
  const aside = store.image().get("quarantine-00000077-0.bin")!;
  expect(Buffer.compare(aside, image.get("00000001.seg")!)).toBe(0);
});

test("[FL28] without a manifest too a repair that dies can be repeated, and brings back no older value", {
  timeout: 120_000,
}, async () => {
  // More than one segment of a repair takes.
  const disk = new SimulatedDisk();
  const backend = await factoryOn(disk, { segmentBytesMax: 128 * 1024 }).open(simulatedEnv(1));
  const large = new Uint8Array(34 * 1024).fill(7);
  for (let seq = 0; seq < 2; seq++) {
    const small = ["kept", "gone"].map((id) => ({
      key: ["meta", id] as const,
      value: new Uint8Array([seq]),
    }));
    await backend.commit({ put: [{ key: ["events", "a", seq], value: large }, ...small] });
  }
  await backend.commit({
    put: [{ key: ["meta", "kept"], value: new Uint8Array([9]) }],
    delete: [["meta", "gone"]],
  });
  const lines = await dump(backend);
  await backend.close();
  const bad = new Map([...disk.image()].filter(([name]) => name !== "MANIFEST"));
  const calm = new SimulatedDisk(bad);
  const deaths: number[] = [];
  calm.onOperation = ({ kind, index }) => {
    if (kind === "sync" || kind === "rename") deaths.push(index);
  };
  await check(calm, true);
  for (const at of deaths) {
    const store = new SimulatedDisk(bad);
    store.fault = ({ index }) => (index >= at ? failure("EIO") : undefined);
    await check(store, true).catch(() => undefined);
    const after = new SimulatedDisk(store.image());
    await check(after, true);
    expect(await linesOf(after), `operation ${at}`).toEqual(lines);
  }
});

test("[FL28] and one that a loss of power ends, whatever of it is durable then", async () => {
  const disk = new SimulatedDisk();
  const backend = await factoryOn(disk, { mergeDeadRatioMin: 1 }).open(simulatedEnv(1));
  const value = new Uint8Array(3000);
  const fill = async (id: string) => {
    for (let seq = 0; seq < 30; seq++) await backend.commit({ put: [{ key: ["events", id, seq], value }] });
  };
  for (const life of [1, 2]) {
    await backend.commit({ delete: [["meta", "k"]] });
    await fill(`life-${life}`);
    await backend.commit({ put: [{ key: ["meta", "k"], value: new Uint8Array([life]) }] });
    await fill(`more-${life}`);
  }
  const lines = await dump(backend);
  await backend.close();
  const whole = disk.image();
  const without = new Map([...whole].filter(([name]) => name !== "MANIFEST"));
  let looked = 0;
  // Several frames of 256 KiB in one segment, of which some are durable before others.
  const segmentBytesMax = 1024 * 1024;
  // The others keep what was written first, and write headers last.
  for (const model of crashModels.filter(({ keep }) => keep === "subset" || keep === "sectors")) {
    const random = seededRandom(looked + 1);
    const store = new SimulatedDisk(without);
    const images: DiskImage[] = [];
    store.onOperation = () => images.push(store.crash(model, random));
    await check(store, true, segmentBytesMax);
    expect(images.length).toBeGreaterThan(20);
    for (const [at, image] of images.entries()) {
      const after = new SimulatedDisk(image);
      await check(after, true, segmentBytesMax);
      expect(await linesOf(after), `${model.title}, operation ${at}`).toEqual(lines);
      looked++;
    }
  }
  expect(looked).toBeGreaterThan(60);
});

test("[FL28] and the commit that a crash tore stays away whole", async () => {
  const disk = new SimulatedDisk();
  const backend = await factoryOn(disk).open(simulatedEnv(1));
  await backend.commit({ put: [{ key: ["meta", "a"], value: new Uint8Array(8).fill(1) }] });
  const random = seededRandom(1);
  const torn: DiskImage[] = [];
  disk.onOperation = ({ kind }) => {
    for (const model of crashModels) if (kind === "write") torn.push(disk.crash(model, random));
  };
  const put = [
    { key: ["meta", "b"] as const, value: new Uint8Array(8).fill(2) },
    { key: ["events", "b", 0] as const, value: new Uint8Array(3000).fill(2) },
  ];
  await backend.commit({ put });
  disk.onOperation = undefined;
  let repeated = 0;
  for (const image of torn) {
    const lines = await linesOf(new SimulatedDisk(image));
    const bad = new Map([...image].filter(([name]) => name !== "MANIFEST"));
    const calm = new SimulatedDisk(bad);
    await check(calm, true);
    for (let at = 0; at < calm.operationCount; at++) {
      const store = new SimulatedDisk(bad);
      store.fault = ({ index }) => (index >= at ? failure("EIO") : undefined);
      await check(store, true).catch(() => undefined);
      const after = new SimulatedDisk(store.image());
      await check(after, true);
      repeated++;
      expect(await linesOf(after), `operation ${at}`).toEqual(lines);
    }
  }
  expect(repeated).toBeGreaterThan(100);
});

test("[FL17] after a repair the storage above says which document lost what", async () => {
  const disk = new SimulatedDisk();
  const open = (on: SimulatedDisk) => DocumentStorage.open({ backend: factoryOn(on), models: [nameSet()] });
  const storage = await open(disk);
  for (let i = 0; i < 10; i++) {
    for (const id of ["hurt", "whole"]) await storage.append(id, [naming(`${id}${i}${"x".repeat(200)}`)]);
  }
  await storage.close();
  const frames = await framesOn(disk);
  const hit = frames.find(({ records }) =>
    records.some(({ key }) => key[0] === "events" && key[1] === "hurt" && key[2] === 5),
  )!;
  const store = new SimulatedDisk(
    changed(disk.image(), hit.file, (bytes) => {
      bytes[hit.position + 200]! ^= 1;
    }),
  );
  await expect(open(store)).rejects.toMatchObject({ code: "CORRUPT" });
  expect((await check(store, true)).repaired).toBe(true);
  const mended = await open(store);
  const report = await mended.check({ repair: true });
  expect(report.problems.map(({ id }) => id)).toEqual(expect.arrayContaining(["hurt"]));
  expect(report.problems.every(({ id }) => id === "hurt")).toBe(true);
  expect((await mended.load<NameSet>("whole"))!.doc.names.size).toBe(10);
  await mended.close();
});

test("[FL31] a check calls nothing damage that a crash tore, and a repair changes nothing then", {
  timeout: 300_000,
}, async () => {
  let looked = 0;
  for (const seed of [9100, 9101]) {
    await explore(seed, crashModels, {
      budget: 2000,
      ahead: seed % 2 === 1,
      replay: "npm run unit -- packages/file/test/repair.test.ts -t FL31]",
      each: async (image) => {
        // A crash before the first manifest left no store.
        if (!image.has("MANIFEST")) return;
        looked++;
        const disk = new SimulatedDisk(image);
        expect((await check(disk, true)).damage).toEqual([]);
        const after = disk.image();
        for (const [name, bytes] of image) expect(Buffer.compare(after.get(name)!, bytes), name).toBe(0);
      },
    });
  }
  expect(looked).toBeGreaterThan(800);
});

test("[FL31] nor where commits are not synced, and many are torn; with other damage that is set aside as by opening", async () => {
  let [torn, damaged] = [0, 0];
  for (const model of crashModels) {
    for (let seed = 1; seed <= 4; seed++) {
      const random = seededRandom(seed);
      const disk = new SimulatedDisk();
      const open = (on: SimulatedDisk) => factoryOn(on, { durability: "process" }).open(simulatedEnv(1));
      const backend = await open(disk);
      for (let seq = 0; seq < 45 + seed; seq++)
        await backend.commit({ put: [{ key: ["events", "d", seq], value: random.bytes(random.int(3000)) }] });
      const image = disk.crash(model, random);
      if (!image.has("MANIFEST")) continue;
      const opened = new SimulatedDisk(image);
      const found = await linesOf(opened);
      const what = `${model.title}, seed ${seed}`;
      const store = new SimulatedDisk(image);
      expect((await check(store, true)).damage, what).toEqual([]);
      expect(store.operationCount, what).toBe(0);
      torn += found.length < 45 + seed ? 1 : 0;
      const aside = [...opened.image()].find(([name]) => name.startsWith("quarantine-"));
      const sealed = [...image.keys()].filter((name) => name.endsWith(".seg")).sort()[0]!;
      if (aside === undefined || aside[0].includes(sealed.slice(0, 8))) continue;
      damaged++;
      const hurt = new SimulatedDisk(changed(image, sealed, (bytes) => bytes.fill(9, 4096 + 40, 4096 + 50)));
      expect((await check(hurt, true)).damage, what).toMatchObject([{ file: sealed }]);
      expect(Buffer.compare(hurt.image().get(aside[0])!, aside[1]), what).toBe(0);
      const left = await linesOf(hurt);
      expect(found, what).toEqual(expect.arrayContaining(left));
      expect(left, what).toHaveLength(found.length - 1);
    }
  }
  expect(torn).toBeGreaterThan(20);
  expect(damaged).toBeGreaterThan(3);
});

test("[FL30] a flipped bit of the manifest's format is damage, and mended", async () => {
  const disk = new SimulatedDisk();
  const backend = await factoryOn(disk).open(simulatedEnv(1));
  await backend.commit({ put: [{ key: ["meta", "a"], value: new Uint8Array(3) }] });
  const found = await dump(backend);
  await backend.close();
  const image = disk.image();
  const manifest = image.get("MANIFEST")!.slice();
  manifest["coppice-file-log ".length]! ^= 4;
  const flipped = new SimulatedDisk(new Map([...image, ["MANIFEST", manifest]]));
  await expect(factoryOn(flipped).open(simulatedEnv(2))).rejects.toMatchObject({ code: "CORRUPT" });
  const how = { repair: true, env: simulatedEnv(3), files: flipped.files };
  expect((await checkFileLog("simulated", how)).damage).toMatchObject([
    { file: "MANIFEST", message: "is damaged" },
  ]);
  const mended = await factoryOn(flipped).open(simulatedEnv(4));
  expect(await dump(mended)).toEqual(found);
  await mended.close();
});

test("[FL17] what is set aside is durable, with its name, before the manifest changes", async () => {
  const { disk } = await storeOf(60, true);
  const name = "00000001.seg";
  const image = changed(disk.image(), name, (bytes) => {
    bytes[5000]! ^= 1;
  });
  const damaged = new SimulatedDisk(image);
  const left: DiskImage[] = [];
  damaged.onOperation = ({ kind }) => {
    if (kind === "rename") for (const model of crashModels) left.push(damaged.crash(model, seededRandom(1)));
  };
  const { repaired } = await checkFileLog("simulated", { repair: true, files: damaged.files });
  expect(repaired).toBe(true);
  expect(left.length).toBeGreaterThan(0);
  for (const each of left) {
    const aside = [...each.keys()].find((other) => other.startsWith("quarantine-"));
    expect(aside).toBeDefined();
    expect(Buffer.compare(each.get(aside!)!, image.get(name)!)).toBe(0);
  }
});

test("[FL17] nor does an opening cut off what lies behind a hole before it is set aside, durably", async () => {
  const options = { durability: "process" } as const;
  const disk = new SimulatedDisk();
  const backend = await factoryOn(disk, options).open(simulatedEnv(1));
  for (let seq = 0; seq < 6; seq++)
    await backend.commit({ put: [{ key: ["events", "a", seq], value: new Uint8Array(3000).fill(seq + 1) }] });
  const name = "00000001.seg";
  const holed = changed(disk.image(), name, (bytes) => {
    // The third frame has no header.
    const start = 4096 + 2 * 3072;
    bytes.fill(0, start - (start % 512), start + 512);
  });
  const original = Buffer.from(holed.get(name)!);
  const opening = new SimulatedDisk(holed);
  const left: DiskImage[] = [];
  opening.onOperation = () => {
    for (const model of crashModels) left.push(opening.crash(model, seededRandom(1)));
  };
  await factoryOn(opening, options).open(simulatedEnv(2));
  left.push(opening.image());
  let cut = 0;
  for (const image of left) {
    if (original.equals(image.get(name)!)) continue;
    cut++;
    const aside = [...image.keys()].find((other) => other.startsWith("quarantine-"));
    expect(aside).toBeDefined();
    const [, position] = /-(\d+)\.bin$/.exec(aside!)!;
    const kept = image.get(aside!)!;
    expect(kept.length).toBeGreaterThan(3000);
    expect(original.subarray(Number(position), Number(position) + kept.length).equals(kept)).toBe(true);
  }
  expect(cut).toBeGreaterThan(5);
});
