/** Reading many values at once: pieces of memory, reads ahead, short and failing reads; what commits expect. */

import type { OpenFile } from "@coppice/file";
import { SimulatedDisk } from "@coppice/file/testing";
import type { Backend, Entry } from "coppice";
import { seededRandom, simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import { bytes } from "../../../test/support/stores.js";
import { factoryOn } from "./crash-tools.js";

type ReadEach = OpenFile["readEach"];

/** A disk whose reads of many pieces go through `change`. */
function diskWith(disk: SimulatedDisk, change: (read: ReadEach) => ReadEach): Pick<SimulatedDisk, "files"> {
  return {
    files: async (create) => {
      const files = await disk.files(create);
      const open = files.open.bind(files);
      files.open = async (name, mode) => {
        const file = await open(name, mode);
        file.readEach = change(file.readEach.bind(file));
        return file;
      };
      return files;
    },
  };
}

async function all(backend: Backend, reverse: boolean): Promise<Entry[]> {
  const entries: Entry[] = [];
  for await (const page of backend.scan({ space: "events", id: "d" }, { reverse, pageBytesMax: 60_000 }))
    entries.push(...page);
  return reverse ? entries.reverse() : entries;
}

/** Values of all sizes around the limits of pieces, some of them zeros, some overwritten or deleted. */
async function filled(backend: Backend, seed: number): Promise<Map<number, Uint8Array>> {
  const random = seededRandom(seed);
  const values = new Map<number, Uint8Array>();
  for (let round = 0; round < 40; round++) {
    const put: Entry[] = [];
    for (let i = 0; i < 12; i++) {
      const seq = random.int(300);
      const size = random.pick([0, 1, 500, 1000, 4000, 4070, 4096, 5000, 16_300, 16_400, 40_000]);
      const value = random.int(6) === 0 ? new Uint8Array(size) : random.bytes(size);
      if (put.some(({ key }) => key[2] === seq)) continue;
      put.push({ key: ["events", "d", seq], value });
      values.set(seq, value);
    }
    await backend.commit({ put });
    if (round % 5 !== 0) continue;
    const from = random.int(300);
    await backend.commit({ delete: [{ space: "events", id: "d", from, to: from + 5 }] });
    for (let seq = from; seq < from + 5; seq++) values.delete(seq);
  }
  return values;
}

test("[FL6] values that are read together are right, and each is its own, also after short reads", {
  timeout: 120_000,
}, async () => {
  const random = seededRandom(11);
  let shortened = 0;
  const short = diskWith(new SimulatedDisk(), (read) => (into, position) => {
    const whole = into.reduce((sum, { length }) => sum + length, 0);
    if (whole < 2 || random.int(2) === 0) return read(into, position);
    shortened++;
    let left = 1 + random.int(whole - 1);
    const cut = into.map((piece) => {
      const part = piece.subarray(0, left);
      left -= part.length;
      return part;
    });
    return read(
      cut.filter(({ length }) => length > 0),
      position,
    );
  });
  for (const readBytesMax of [4096, 30_000, 256 * 1024]) {
    const disk = readBytesMax === 30_000 ? short : new SimulatedDisk();
    const backend = await factoryOn(disk, { readBytesMax, segmentBytesMax: 256 * 1024 }).open(
      simulatedEnv(1),
    );
    const values = await filled(backend, readBytesMax);
    const expected = [...values].sort(([a], [b]) => a - b);
    for (const reverse of [false, true]) {
      const entries = await all(backend, reverse);
      expect(entries.map(({ key }) => key[2])).toEqual(expected.map(([seq]) => seq));
      for (const [i, { value }] of entries.entries()) {
        expect(Buffer.compare(value, expected[i]![1])).toBe(0);
        value.fill(0xee);
      }
    }
    await backend.close();
  }
  expect(shortened).toBeGreaterThan(10);
});

test("[FL6] a read ahead that fails, before or after the one that is awaited, is UNAVAILABLE and nothing else", async () => {
  for (let failing = 0; failing < 4; failing++) {
    let calls = 0;
    const disk = diskWith(new SimulatedDisk(), (read) => async (into, position) => {
      const call = calls++;
      // The others are slow, so that the failure comes first.
      if (call >= failing) throw Object.assign(new Error("EIO"), { code: "EIO" });
      await new Promise((resolve) => setTimeout(resolve, 5));
      return read(into, position);
    });
    const backend = await factoryOn(disk, { readBytesMax: 20_000, segmentBytesMax: 512 * 1024 }).open(
      simulatedEnv(1),
    );
    const put = Array.from(
      { length: 30 },
      (_, seq): Entry => ({
        key: ["events", "d", seq],
        value: bytes(9000, seq + 1),
      }),
    );
    await backend.commit({ put });
    const scan = backend.scan({ space: "events", id: "d" })[Symbol.asyncIterator]();
    await expect(scan.next()).rejects.toMatchObject({ code: "UNAVAILABLE" });
    expect(calls).toBeGreaterThan(failing);
    await backend.close();
  }
});

test("[FL6] what a commit expects is compared with what was put, whatever became of the caller's bytes", async () => {
  const backend = await factoryOn(new SimulatedDisk()).open(simulatedEnv(1));
  const given = bytes(60, 1);
  const key = ["meta", "d"] as const;
  await backend.commit({ put: [{ key, value: given }] });
  given.fill(9);
  await expect(backend.commit({ put: [], expect: [{ key, value: given }] })).rejects.toMatchObject({
    code: "COMMIT_CONFLICT",
  });
  const next = bytes(60, 2);
  await backend.commit({ put: [{ key, value: next }], expect: [{ key, value: bytes(60, 1) }] });
  await backend.commit({ delete: [key], expect: [{ key, value: next }] });
  await expect(backend.commit({ put: [], expect: [{ key, value: next }] })).rejects.toMatchObject({
    code: "COMMIT_CONFLICT",
  });
  await backend.commit({ put: [{ key, value: given }], expect: [{ key, value: undefined }] });
  expect(await backend.get(key)).toEqual(given);
  await backend.close();
});

test("[FL11] segments and commits that are larger than what merging reads at once keep every byte", {
  timeout: 60_000,
}, async () => {
  const disk = new SimulatedDisk();
  const options = { segmentBytesMax: 2 * 1024 * 1024, mergeDeadRatioMin: 1 };
  const factory = factoryOn(disk, options);
  let backend = await factory.open(simulatedEnv(1));
  const random = seededRandom(5);
  const values = new Map<number, Uint8Array>();
  for (let round = 0; round < 14; round++) {
    const put = [700_000, 300_000, 100, 0, 4096].map((most, i): Entry => {
      const value = round % 4 === 3 ? new Uint8Array(most) : random.bytes(random.int(most + 1));
      values.set((round * 3 + i) % 25, value);
      return { key: ["events", "d", (round * 3 + i) % 25], value };
    });
    await backend.commit({ put });
    if (round % 5 === 4) await factory.merge({ force: true });
  }
  await factory.merge({ force: true });
  const expected = [...values].sort(([a], [b]) => a - b);
  for (let opens = 0; opens < 2; opens++) {
    const entries = await all(backend, false);
    expect(entries.map(({ key }) => key[2])).toEqual(expected.map(([seq]) => seq));
    for (const [i, { value }] of entries.entries()) expect(Buffer.compare(value, expected[i]![1])).toBe(0);
    await backend.close();
    backend = await factoryOn(disk, options).open(simulatedEnv(2));
  }
  await backend.close();
});
