import type { ListedFrame } from "@coppice/file";
import { type DiskImage, SimulatedDisk } from "@coppice/file/testing";
import { simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import { changed, factoryOn, framesOn, linesOf, storeOf } from "./crash-tools.js";

test("[FL18] all frames are listed with their keys, and bytes that are no frame as damage or torn", async () => {
  const disk = new SimulatedDisk();
  const backend = await factoryOn(disk).open(simulatedEnv(1));
  await backend.commit({ put: [{ key: ["events", "é\0", 1, 2], value: new Uint8Array(3) }] });
  await backend.commit({
    put: [{ key: ["meta", "d"], value: new Uint8Array(1) }],
    delete: [["events", "é\0", 1, 2]],
  });
  await backend.commit({ put: [{ key: ["events", "d", 7], value: new Uint8Array(0) }] });
  await backend.commit({ delete: [{ space: "events", id: "d", from: 2 }] });
  const frames = await framesOn(disk);
  expect(frames.map(({ sequence, records }) => [sequence, ...records])).toEqual([
    [1, { kind: "put", key: ["events", "é\0", 1, 2], valueBytes: 3 }],
    [2, { kind: "delete", key: ["events", "é\0", 1, 2] }, { kind: "put", key: ["meta", "d"], valueBytes: 1 }],
    [3, { kind: "put", key: ["events", "d", 7], valueBytes: 0 }],
    [4, { kind: "delete-range", key: ["events", "d"], from: 2, to: Number.POSITIVE_INFINITY }],
  ]);
  const [, second, , last] = frames as [ListedFrame, ListedFrame, ListedFrame, ListedFrame];
  const flipped = changed(disk.image(), second.file, (bytes) => {
    bytes[second.position + 50]! ^= 1;
  });
  const states = async (image: DiskImage) =>
    (await framesOn(new SimulatedDisk(image))).map(({ state }) => state);
  expect(await states(flipped)).toEqual(["whole", "damaged", "whole", "whole"]);
  const torn = changed(disk.image(), last.file, (bytes) => bytes.fill(0, last.position + 20));
  expect(await states(torn)).toEqual(["whole", "whole", "whole", "torn"]);
  await backend.close();
  const without = new Map([...disk.image()].filter(([name]) => name !== last.file));
  await expect(framesOn(new SimulatedDisk(without))).rejects.toMatchObject({
    code: "UNAVAILABLE",
    details: { file: last.file },
  });
  await expect(framesOn(new SimulatedDisk())).rejects.toMatchObject({ code: "UNAVAILABLE" });
});

test("[FL18] a hole is listed as torn where commits are not synced, as opening takes it, and else as damage", async () => {
  for (const [durability, state] of [
    ["process", "torn"],
    ["power", "damaged"],
  ] as const) {
    const disk = new SimulatedDisk();
    const backend = await factoryOn(disk, { durability }).open(simulatedEnv(1));
    for (let seq = 0; seq < 3; seq++)
      await backend.commit({ put: [{ key: ["events", "d", seq], value: new Uint8Array(2000).fill(7) }] });
    const [, second] = await framesOn(disk);
    const { file, position, bytes } = second!;
    const holed = changed(disk.image(), file, (all) => all.fill(0, position, position + bytes));
    const states = (await framesOn(new SimulatedDisk(holed))).map((frame) => frame.state);
    expect(states, durability).toEqual(["whole", state, "whole"]);
    const opening = factoryOn(new SimulatedDisk(holed), { durability }).open(simulatedEnv(2));
    if (state === "torn") await (await opening).close();
    else await expect(opening).rejects.toMatchObject({ code: "CORRUPT" });
    await backend.close();
  }
});

test("[FL18] the half of a commit that is zeros, before the end that the manifest knows, is listed as damage", async () => {
  const { disk } = await storeOf(60, true);
  const frames = await framesOn(disk);
  for (const file of new Set(frames.map((frame) => frame.file))) {
    const { position, bytes: length } = frames.filter((frame) => frame.file === file).at(-1)!;
    const end = position + length;
    const image = changed(disk.image(), file, (bytes) => bytes.fill(0, end - 600, end));
    const torn = () => new SimulatedDisk(new Map([...image].filter(([name]) => !name.endsWith(".hint"))));
    await expect(linesOf(torn())).rejects.toMatchObject({ code: "CORRUPT" });
    const listed = (await framesOn(torn())).filter(({ state }) => state !== "whole");
    expect(listed, file).toMatchObject([{ file, position, state: "damaged" }]);
  }
});
