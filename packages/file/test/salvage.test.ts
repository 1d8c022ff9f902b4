/** What a repair keeps of a segment in which the header of a commit is damaged. */

import { checkFileLog, type FileLogReport } from "@coppice/file";
import { type DiskImage, SimulatedDisk } from "@coppice/file/testing";
import { seededRandom, simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import { changed, dump, factoryOn, framesOn, linesOf, storeOf } from "./crash-tools.js";

function repaired(store: SimulatedDisk): Promise<FileLogReport> {
  return checkFileLog("simulated", { repair: true, env: simulatedEnv(9), files: store.files });
}

/** Forty documents in one frame, as a merge writes them. */
async function mergedStore(): Promise<{ image: DiskImage; lines: string[]; file: string }> {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk, { mergeDeadRatioMin: 1, segmentBytesMax: 1024 * 1024 });
  const backend = await factory.open(simulatedEnv(1));
  for (let seq = 0; seq < 200; seq++) {
    const value = new Uint8Array(500).fill(seq);
    await backend.commit({ put: [{ key: ["events", `document-${seq % 40}`, seq], value }] });
  }
  await factory.merge({ force: true });
  const lines = await dump(backend);
  await backend.close();
  const frames = await framesOn(disk);
  expect(frames).toHaveLength(1);
  return { image: disk.image(), lines, file: frames[0]!.file };
}

test("[FL17] a damaged byte in the header of a commit costs none of its records", async () => {
  const { image, lines, file } = await mergedStore();
  for (let at = 0; at < 32; at += 5) {
    const store = new SimulatedDisk(
      changed(image, file, (bytes) => {
        bytes[4096 + at]! ^= 0x10;
      }),
    );
    const { damage, documents } = await repaired(store);
    expect(damage).toMatchObject([{ file, position: 4096, bytes: 32, message: "a commit is damaged" }]);
    expect(documents).toHaveLength(40);
    expect(await linesOf(store), `byte ${at}`).toEqual(lines);
  }
});

test("[FL17] nor does a block of a disk that has become something else take more than what lay in it", async () => {
  const { image, lines, file } = await mergedStore();
  for (const byte of [0xa7, 0]) {
    const store = new SimulatedDisk(changed(image, file, (bytes) => bytes.fill(byte, 4096, 8192)));
    const { damage } = await repaired(store);
    const [{ position, bytes }] = damage as [FileLogReport["damage"][number]];
    expect([damage.length, position]).toEqual([1, 4096]);
    expect(bytes).toBeLessThan(4096 + 600);
    const left = await linesOf(store);
    expect(lines).toEqual(expect.arrayContaining(left));
    expect(left).toHaveLength(lines.length - 8);
  }
});

test("[FL17] so a deletion stays one, whichever commit's header is damaged", async () => {
  const disk = new SimulatedDisk();
  const backend = await factoryOn(disk, { mergeDeadRatioMin: 1 }).open(simulatedEnv(1));
  const put = (seq: number) => ({ key: ["events", "a", seq] as const, value: new Uint8Array(300).fill(seq) });
  for (let seq = 0; seq < 20; seq++) await backend.commit({ put: [put(seq)] });
  await backend.commit({ delete: [{ space: "events", id: "a", to: 10 }] });
  await backend.commit({ delete: [["events", "a", 12]] });
  await backend.commit({ put: [put(30)] });
  const lines = await dump(backend);
  for (const close of [false, true]) {
    if (close) await backend.close();
    const image = disk.image();
    for (const { file, position } of await framesOn(new SimulatedDisk(image))) {
      const hurt = changed(image, file, (bytes) => {
        bytes[position + 17]! ^= 4;
      });
      const store = new SimulatedDisk(hurt);
      const { damage } = await repaired(store);
      expect(damage).toMatchObject([{ position }]);
      // Nothing follows the last one, and no manifest knows it: it may be one that a crash tore.
      const isLast = position === (await framesOn(new SimulatedDisk(image))).at(-1)!.position;
      const wanted = close || !isLast ? lines : lines.slice(0, -1);
      expect(await linesOf(store), `${position}`).toEqual(wanted);
    }
  }
});

test("[FL17] where a file was cut, whole records of the commit that the cut hits are kept", async () => {
  const { disk, lines } = await storeOf(60, true);
  const frames = await framesOn(disk);
  const { file } = frames[0]!;
  const { position, bytes } = frames.findLast((frame) => frame.file === file)!;
  const image = disk.image();
  for (const [size, lost] of [
    [bytes - 100, 1],
    [bytes - 800, 2],
    [20, 2],
  ] as const) {
    const cut = image.get(file)!.slice(0, position + size);
    const store = new SimulatedDisk(new Map([...image, [file, cut] as const]));
    expect((await repaired(store)).repaired).toBe(true);
    const left = await linesOf(store);
    expect(lines).toEqual(expect.arrayContaining(left));
    expect(left, `${size}`).toHaveLength(lines.length - lost);
  }
});

test("[FL17] of a large value that holds small numbers, or letters, no byte is taken for a record's length", async () => {
  const disk = new SimulatedDisk();
  const backend = await factoryOn(disk, { segmentBytesMax: 8 * 1024 * 1024 }).open(simulatedEnv(1));
  const random = seededRandom(3);
  const value = new Uint8Array(6 * 1024 * 1024).map((_, at) => (at < 2 * 1024 * 1024 ? 0x61 : random.int(4)));
  const id = "\0é and what may be in an id\0";
  const small = { key: ["events", id, 1, 2], value: new Uint8Array(10) } as const;
  await backend.commit({ put: [{ key: ["events", "a", 1], value }, small] });
  const [first] = await dump(backend);
  await backend.close();
  const { file, position } = (await framesOn(disk))[0]!;
  const hurt = changed(disk.image(), file, (bytes) => {
    bytes[position + 1000]! ^= 1;
  });
  const store = new SimulatedDisk(hurt);
  expect((await repaired(store)).damage).toMatchObject([{ message: "a commit is damaged" }]);
  expect(await linesOf(store)).toEqual([first]);
}, 30_000);
