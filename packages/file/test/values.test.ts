/** Reading many values at once: pieces of memory, reads ahead, short and failing reads; what commits expect. */

import type { OpenFile } from "@coppice/file";
import { SimulatedDisk } from "@coppice/file/testing";
import type { Backend, Entry } from "coppice";
import { seededRandom, simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import { bytes } from "../../../test/support/stores.js";
import { factoryOn } from "./crash-tools.js";

type ReadEach = OpenFile["readEach"];

/** A disk whose files are changed when they are opened. */
function diskOf(
  disk: SimulatedDisk,
  change: (file: OpenFile, name: string) => void,
): Pick<SimulatedDisk, "files"> {
  return {
    files: async (create) => {
      const files = await disk.files(create);
      const open = files.open.bind(files);
      files.open = async (name, mode) => {
        const file = await open(name, mode);
        change(file, name);
        return file;
      };
      return files;
    },
  };
}

/** A disk whose reads of many pieces go through `change`. */
function diskWith(disk: SimulatedDisk, change: (read: ReadEach) => ReadEach): Pick<SimulatedDisk, "files"> {
  return diskOf(disk, (file) => {
    file.readEach = change(file.readEach.bind(file));
  });
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

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

test("[FL32] each page of a scan shows what there was when it was asked for, though its values were read ahead", {
  timeout: 120_000,
}, async () => {
  for (let seed = 1; seed <= 12; seed++) {
    const random = seededRandom(seed);
    const factory = factoryOn(new SimulatedDisk(), { segmentBytesMax: 128 * 1024, mergeDeadRatioMin: 1 });
    const backend = await factory.open(simulatedEnv(seed));
    const values = await filled(backend, seed);
    const reverse = seed % 2 === 0;
    let last = reverse ? Number.POSITIVE_INFINITY : -1;
    for await (const page of backend.scan(
      { space: "events", id: "d" },
      { reverse, pageBytesMax: random.pick([30_000, 100_000]) },
    )) {
      const expected = [...values]
        .filter(([seq]) => (reverse ? seq < last : seq > last))
        .sort(([a], [b]) => (reverse ? b - a : a - b));
      expect(page.map(({ key }) => key[2])).toEqual(expected.slice(0, page.length).map(([seq]) => seq));
      for (const [i, { value }] of page.entries()) expect(Buffer.compare(value, expected[i]![1])).toBe(0);
      last = page.at(-1)!.key[2]!;
      await turn();
      // A change of what comes next, or of anything, or none.
      const near = reverse ? last - 1 - random.int(4) : last + 1 + random.int(4);
      const seq = Math.max(0, random.int(2) === 0 ? near : random.int(300));
      const kind = random.int(5);
      if (kind === 0) {
        const value = random.bytes(random.pick([10, 5000]));
        await backend.commit({ put: [{ key: ["events", "d", seq], value }] });
        values.set(seq, value);
      } else if (kind === 1) {
        await backend.commit({ delete: [["events", "d", seq]] });
        values.delete(seq);
      } else if (kind === 2) {
        await factory.merge({ force: true });
        const value = random.bytes(100);
        await backend.commit({ put: [{ key: ["events", "other", seq], value }] });
      }
    }
    await backend.close();
  }
});

/** Three segments or more of values of 9,000 bytes, each commit ten of them. */
async function inOrder(backend: Backend, count: number): Promise<void> {
  for (let first = 0; first < count; first += 10) {
    const put = Array.from({ length: 10 }, (_, i): Entry => {
      const seq = first + i;
      return { key: ["events", "d", seq], value: bytes(9000, 1 + (seq % 250)) };
    });
    await backend.commit({ put });
  }
}

test("[FL32] from the second page on the next one is read meanwhile; what fails there fails with its own page only", async () => {
  const kept = new SimulatedDisk();
  const writing = await factoryOn(kept).open(simulatedEnv(1));
  await inOrder(writing, 100);
  await writing.close();
  let calls = 0;
  let failing = false;
  const disk = diskWith(kept, (read) => (into, position) => {
    calls++;
    if (failing) return Promise.reject(Object.assign(new Error("EIO"), { code: "EIO" }));
    return read(into, position);
  });
  const backend = await factoryOn(disk).open(simulatedEnv(1));
  const scan = () =>
    backend.scan({ space: "events", id: "d" }, { pageBytesMax: 95_000 })[Symbol.asyncIterator]();
  const first = scan();
  await first.next();
  await turn();
  expect(calls).toBe(1);
  await first.return!();
  const second = scan();
  await second.next();
  await second.next();
  await turn();
  expect(calls).toBe(4);
  // It has page 3 already.
  failing = true;
  expect((await second.next()).value).toHaveLength(10);
  await expect(second.next()).rejects.toMatchObject({ code: "UNAVAILABLE" });
  // What failed ahead is read again when it is asked for, and the disk is well.
  failing = false;
  const healed = scan();
  for (let page = 0; page < 2; page++) await healed.next();
  failing = true;
  await healed.next();
  await turn();
  failing = false;
  expect((await healed.next()).value).toHaveLength(10);
  await healed.return!();
  // Nobody ever asks for what failed.
  const third = scan();
  await third.next();
  calls = 0;
  const asked = third.next();
  failing = true;
  await asked.catch(() => undefined);
  await third.return!();
  await turn();
  await backend.close();
});

test("[FL32] closing waits for what is being read ahead, and closes its file then", async () => {
  let gate: Promise<void> | undefined;
  const reading = new Set<string>();
  const closed: string[] = [];
  const disk = diskOf(new SimulatedDisk(), (file, name) => {
    const readEach = file.readEach.bind(file);
    file.readEach = async (into, position) => {
      reading.add(name);
      await gate;
      const count = await readEach(into, position);
      reading.delete(name);
      return count;
    };
    const close = file.close.bind(file);
    file.close = () => {
      expect(reading.has(name)).toBe(false);
      closed.push(name);
      close();
    };
  });
  const backend = await factoryOn(disk).open(simulatedEnv(1));
  await inOrder(backend, 50);
  const scan = backend.scan({ space: "events", id: "d" }, { pageBytesMax: 95_000 })[Symbol.asyncIterator]();
  await scan.next();
  await scan.next();
  await scan.next();
  let open: () => void = () => undefined;
  gate = new Promise((resolve) => {
    open = resolve;
  });
  await scan.next();
  await scan.return!();
  expect(reading.size).toBe(1);
  const [name] = reading;
  closed.length = 0;
  const closing = backend.close();
  await turn();
  await turn();
  expect(closed).not.toContain(name);
  open();
  await closing;
  expect(closed).toContain(name);
});

test("[FL32] near the end of a segment the start of the next is read, and it does not matter whether that fails", async () => {
  for (const fails of [false, true]) {
    const kept = new SimulatedDisk();
    const options = { segmentBytesMax: 512 * 1024, readBytesMax: 20_000 };
    const writing = await factoryOn(kept, options).open(simulatedEnv(1));
    await inOrder(writing, 200);
    await writing.close();
    const started: string[] = [];
    let page = 0;
    const disk = diskOf(kept, (file, name) => {
      const read = file.read.bind(file);
      file.read = (into, at, length, position) => {
        if (page === 0) return read(into, at, length, position);
        if (position === 0) started.push(`${name} during page ${page}`);
        return fails ? Promise.reject(new Error("EIO")) : read(into, at, length, position);
      };
    });
    const backend = await factoryOn(disk, options).open(simulatedEnv(1));
    page = 1;
    let seq = 0;
    for await (const entries of backend.scan({ space: "events", id: "d" }, { pageBytesMax: 95_000 })) {
      page++;
      for (const { value } of entries) expect(Buffer.compare(value, bytes(9000, 1 + (seq++ % 250)))).toBe(0);
    }
    expect(seq).toBe(200);
    expect(started.length).toBeGreaterThan(2);
    expect(new Set(started).size).toBe(started.length);
    await backend.close();
  }
});

test("[FL32] what was read ahead is not served when the same place has come to hold another value", async () => {
  for (let rounds = 1; rounds <= 6; rounds++) {
    const factory = factoryOn(new SimulatedDisk(), { mergeDeadRatioMin: 1 });
    const backend = await factory.open(simulatedEnv(1));
    // Always the same commit, so that it lies at the same position of its segment; merging gives slots back.
    const write = async (fill: number) => {
      const put = Array.from(
        { length: 4 },
        (_, seq): Entry => ({ key: ["events", "d", seq], value: bytes(9000, fill) }),
      );
      await backend.commit({ put });
      await factory.merge({ force: true });
    };
    await write(1);
    const scan = backend.scan({ space: "events", id: "d" }, { pageBytesMax: 9500 })[Symbol.asyncIterator]();
    await scan.next();
    await scan.next();
    for (let round = 0; round < rounds; round++) await write(2 + round);
    const { value: page } = await scan.next();
    expect(page).toMatchObject([{ key: ["events", "d", 2] }]);
    expect(Buffer.compare((page as Entry[])[0]!.value, bytes(9000, 1 + rounds))).toBe(0);
    await scan.return!();
    await backend.close();
  }
});

test("[FL32] a page whose values lie scattered is not read ahead: its reads would only queue before those of others", async () => {
  let calls = 0;
  const disk = diskWith(new SimulatedDisk(), (read) => (into, position) => {
    calls++;
    return read(into, position);
  });
  const backend = await factoryOn(disk).open(simulatedEnv(1));
  // Between two of these lie 17,000 bytes of another document.
  for (let seq = 0; seq < 100; seq++) {
    const put: Entry[] = [
      { key: ["events", "d", seq], value: bytes(200, 1 + seq) },
      { key: ["events", "other", seq], value: bytes(17_000, 1 + seq) },
    ];
    await backend.commit({ put });
  }
  const scan = backend.scan({ space: "events", id: "d" }, { pageBytesMax: 30 * 225 })[Symbol.asyncIterator]();
  const counts: number[] = [];
  for (let page = 0; page < 2; page++) {
    const { value } = await scan.next();
    expect((value as Entry[]).length).toBeGreaterThan(17);
    await turn();
    counts.push(calls);
  }
  expect(counts[1]).toBe(2 * counts[0]!);
  await scan.return!();
  await backend.close();
});
