/** Files of another store in the directory of one: a manifest, or segments. */

import { checkFileLog } from "@coppice/file";
import { type DiskImage, SimulatedDisk } from "@coppice/file/testing";
import { simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import type { OpenFiles } from "../src/files.js";
import { changed, dump, factoryOn, linesOf } from "./crash-tools.js";

/** A store of some segments, and what is in it. */
async function store(id: string, count: number): Promise<{ image: DiskImage; lines: string[] }> {
  const disk = new SimulatedDisk();
  const seed = id.charCodeAt(0);
  const backend = await factoryOn(disk, { mergeDeadRatioMin: 1 }).open(simulatedEnv(seed));
  for (let seq = 0; seq < count; seq++) {
    const value = new Uint8Array(3000).fill(1 + (seq % 200));
    await backend.commit({ put: [{ key: ["events", id, seq], value }] });
  }
  await backend.close();
  const image = disk.image();
  return { image, lines: await linesOf(new SimulatedDisk(image)) };
}

function check(disk: SimulatedDisk, repair: boolean) {
  return checkFileLog("simulated", { repair, env: simulatedEnv(99), files: disk.files });
}

/** The segments among the files of a store. */
function segmentsOf(image: DiskImage): [string, Uint8Array][] {
  return [...image].filter(([name]) => name.endsWith(".seg"));
}

test("[FL7] a segment of another store is refused, not removed, and set aside by a repair", async () => {
  const mine = await store("mine", 10);
  const other = await store("other", 60);
  const names = new Set(mine.image.keys());
  const others = segmentsOf(other.image).filter(([name]) => !names.has(name));
  expect(others.length).toBeGreaterThan(0);
  const mixed = new Map([...mine.image, ...others]);
  const disk = new SimulatedDisk(mixed);
  await expect(factoryOn(disk).open(simulatedEnv(3))).rejects.toMatchObject({
    code: "CORRUPT",
    details: { file: others[0]![0] },
  });
  expect((await check(disk, false)).damage.map(({ file }) => file)).toEqual(others.map(([name]) => name));
  expect(disk.image()).toEqual(mixed);
  const { damage } = await check(disk, true);
  for (const { file, quarantine } of damage) expect(disk.image().get(quarantine!)).toEqual(mixed.get(file));
  expect(await linesOf(disk)).toEqual(mine.lines);
  expect((await check(disk, false)).damage).toEqual([]);
});

test("[FL17] a manifest of another store costs no segment: the headers tell what there is", async () => {
  const mine = await store("mine", 60);
  for (const count of [0, 30, 90]) {
    const manifest = (await store("other", count)).image.get("MANIFEST")!;
    const mixed = new Map([...mine.image, ["MANIFEST", manifest]]);
    const disk = new SimulatedDisk(mixed);
    await expect(factoryOn(disk).open(simulatedEnv(3))).rejects.toMatchObject({ code: "CORRUPT" });
    expect((await check(disk, false)).damage[0]).toMatchObject({ file: "MANIFEST" });
    expect(disk.image()).toEqual(mixed);
    const { damage } = await check(disk, true);
    expect(disk.image().get(damage[0]!.quarantine!)).toEqual(manifest);
    expect(await linesOf(disk)).toEqual(mine.lines);
    expect((await check(disk, false)).damage).toEqual([]);
  }
});

test("[FL17] without a manifest, of the segments of two stores those of one are taken, the others set aside", async () => {
  const mine = await store("mine", 60);
  const other = await store("other", 90);
  const names = new Set(mine.image.keys());
  const others = segmentsOf(other.image).filter(([name]) => !names.has(name));
  expect(others.length).toBeGreaterThan(0);
  const mixed = new Map([...mine.image, ...others]);
  mixed.delete("MANIFEST");
  const disk = new SimulatedDisk(mixed);
  const { damage } = await check(disk, true);
  for (const { file, quarantine } of damage)
    if (file !== "MANIFEST") expect(disk.image().get(quarantine!)).toEqual(mixed.get(file));
  expect(await linesOf(disk)).toEqual(mine.lines);
});

test("[FL7] segments without a manifest are no absent store, where none is to be made either", async () => {
  const { image } = await store("mine", 10);
  const lost = new Map([...image].filter(([name]) => name !== "MANIFEST"));
  for (const options of [{ createIfMissing: false }, { readOnly: true }, {}]) {
    const open = factoryOn(new SimulatedDisk(lost), options).open(simulatedEnv(3));
    await expect(open).rejects.toMatchObject({ code: "CORRUPT", details: { file: "MANIFEST" } });
  }
});

test("[FL7] a store of which only the hints were put back is no new one", async () => {
  const { image } = await store("mine", 200);
  const hints = new Map([...image].filter(([name]) => name.endsWith(".hint")));
  expect(hints.size).toBeGreaterThan(0);
  for (const options of [{ createIfMissing: false }, { readOnly: true }, {}]) {
    const open = factoryOn(new SimulatedDisk(hints), options).open(simulatedEnv(3));
    await expect(open).rejects.toMatchObject({ code: "CORRUPT", details: { file: "MANIFEST" } });
  }
  const disk = new SimulatedDisk(hints);
  expect(await check(disk, true)).toMatchObject({ damage: [{ file: "MANIFEST", message: "is missing" }] });
  expect(await linesOf(disk)).toEqual([]);
});

test("[FL17] of segments that were never used, and no manifest, a check says what opening refuses, and a repair mends it", async () => {
  const disk = new SimulatedDisk(new Map([["00000002.seg", new Uint8Array(4096)]]));
  await expect(factoryOn(disk).open(simulatedEnv(3))).rejects.toMatchObject({ code: "CORRUPT" });
  expect(await check(disk, false)).toMatchObject({ damage: [{ file: "MANIFEST", message: "is missing" }] });
  expect(await check(disk, true)).toMatchObject({ repaired: true });
  expect(await linesOf(disk)).toEqual([]);
  await expect(check(new SimulatedDisk(), true)).rejects.toMatchObject({ code: "UNAVAILABLE" });
});

test("[FL17] a segment whose header is damaged stays one of its manifest, whatever lies beside it", async () => {
  const mine = await store("mine", 10);
  const other = await store("other", 60);
  const names = new Set(mine.image.keys());
  const others = segmentsOf(other.image).filter(([name]) => !names.has(name));
  const [[first]] = segmentsOf(mine.image) as [[string, Uint8Array]];
  const damagedHeader = changed(mine.image, first, (bytes) => bytes.fill(0xff, 0, 8));
  const disk = new SimulatedDisk(new Map([...damagedHeader, ...others]));
  await check(disk, true);
  expect(await linesOf(disk)).toEqual(mine.lines);
});

test("[FL7] a list without the manifest, which a writer is just replacing, makes no lost one of it", async () => {
  const { image, lines } = await store("mine", 10);
  const disk = new SimulatedDisk(image);
  const files: OpenFiles = async (create) => {
    const found = await disk.files(create);
    found.list = async () => disk.names().filter((name) => name !== "MANIFEST");
    return found;
  };
  const reader = await factoryOn({ files }, { readOnly: true }).open(simulatedEnv(3));
  expect(await dump(reader)).toEqual(lines);
  await reader.close();
});
