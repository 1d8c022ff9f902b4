/** Files of a copy of the store that went on by itself: same store, numbers and salts, other commits. */

import { checkFileLog } from "@coppice/file";
import { type DiskImage, SimulatedDisk } from "@coppice/file/testing";
import { simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import { changed, factoryOn, linesOf } from "./crash-tools.js";

const VALUE_BYTES = 3000;
const FIRST = "00000001.seg";

/** Appends values of one document, from `from` up to `to`. */
async function wentOn(
  image: DiskImage,
  id: string,
  from: number,
  to: number,
  closes = true,
): Promise<DiskImage> {
  const disk = new SimulatedDisk(image);
  const backend = await factoryOn(disk, { mergeDeadRatioMin: 1 }).open(simulatedEnv(from + 1));
  for (let seq = from; seq < to; seq++) {
    const value = new Uint8Array(VALUE_BYTES).fill(1 + (seq % 200));
    await backend.commit({ put: [{ key: ["events", id, seq], value }] });
  }
  const open = disk.image();
  await backend.close();
  return closes ? disk.image() : open;
}

function check(disk: SimulatedDisk, repair: boolean) {
  return checkFileLog("simulated", { repair, env: simulatedEnv(9), files: disk.files });
}

test("[FL7] the newest segment of a copy that went on by itself is refused, with readOnly too", async () => {
  const base = await wentOn(new Map(), "base", 0, 5);
  const mine = await wentOn(base, "mine", 5, 8);
  const other = await wentOn(base, "copy", 5, 12);
  const mixed = new Map([...mine, [FIRST, other.get(FIRST)!]]);
  for (const readOnly of [false, true]) {
    const open = factoryOn(new SimulatedDisk(mixed), { readOnly }).open(simulatedEnv(3));
    await expect(open).rejects.toMatchObject({ code: "CORRUPT", details: { file: FIRST } });
  }
  const disk = new SimulatedDisk(mixed);
  expect(await check(disk, false)).toMatchObject({ damage: [{ file: FIRST }], documents: ["base", "copy"] });
  expect(disk.image()).toEqual(mixed);
  const { damage } = await check(disk, true);
  expect(disk.image().get(damage[0]!.quarantine!)).toEqual(mixed.get(FIRST));
  expect(await linesOf(disk)).toEqual(await linesOf(new SimulatedDisk(other)));
  expect((await check(disk, false)).damage).toEqual([]);
});

test("[FL7] a log that went on since its manifest, and was not closed, is opened all the same", async () => {
  const base = await wentOn(new Map(), "base", 0, 5);
  const open = await wentOn(base, "mine", 5, 8, false);
  const closed = await wentOn(base, "mine", 5, 8);
  expect(await linesOf(new SimulatedDisk(open))).toEqual(await linesOf(new SimulatedDisk(closed)));
});

test("[FL30] commits that do not go on from those before them are damage for a check too, and mended", async () => {
  const base = await wentOn(new Map(), "base", 0, 5);
  const mine = await wentOn(base, "mine", 5, 7, false);
  const other = await wentOn(base, "copy", 5, 9, false);
  const from = mine.get(FIRST)!.findLastIndex((byte) => byte !== 0) + 1;
  const mixed = changed(mine, FIRST, (bytes) => bytes.set(other.get(FIRST)!.subarray(from), from));
  const open = factoryOn(new SimulatedDisk(mixed)).open(simulatedEnv(3));
  await expect(open).rejects.toMatchObject({ code: "CORRUPT", details: { file: FIRST, offset: from } });
  const disk = new SimulatedDisk(mixed);
  expect(await check(disk, false)).toMatchObject({ damage: [{ file: FIRST, position: from }] });
  await check(disk, true);
  expect(await linesOf(disk)).toHaveLength(9);
});

test("[FL30] a sealed segment of a copy that went on by itself is damage for a check, and mended", async () => {
  const base = await wentOn(new Map(), "base", 0, 5);
  const mine = await wentOn(base, "mine", 5, 60);
  const other = await wentOn(base, "copy", 5, 60);
  const mixed = new Map([...mine, [FIRST, other.get(FIRST)!]]);
  mixed.delete("00000001.hint");
  const open = factoryOn(new SimulatedDisk(mixed)).open(simulatedEnv(3));
  await expect(open).rejects.toMatchObject({ code: "CORRUPT", details: { file: FIRST } });
  const disk = new SimulatedDisk(mixed);
  expect(await check(disk, false)).toMatchObject({ damage: [{ file: FIRST }], repaired: false });
  expect(await check(disk, true)).toMatchObject({ damage: [{ file: FIRST }], repaired: true });
  const left = await linesOf(disk);
  expect(left.filter((line) => line.includes("base"))).toHaveLength(5);
  expect(left.some((line) => line.includes("copy"))).toBe(true);
  expect((await check(disk, false)).damage).toEqual([]);
});

test("[FL7] an old copy that was put over a newer store is refused, with readOnly too", async () => {
  const old = await wentOn(new Map(), "mine", 0, 30);
  const newer = await wentOn(old, "mine", 30, 90);
  const mixed = new Map([...newer, ...old]);
  expect(mixed.size).toBeGreaterThan(old.size);
  for (const readOnly of [false, true]) {
    const open = factoryOn(new SimulatedDisk(mixed), { readOnly }).open(simulatedEnv(3));
    await expect(open).rejects.toMatchObject({ code: "CORRUPT", message: expect.stringContaining("older") });
  }
  expect(await linesOf(new SimulatedDisk(old))).toHaveLength(30);
});
