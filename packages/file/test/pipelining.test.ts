/**
 * Commits that are called while one is under way: prepared while that one is being synced, written when it is durable.
 *
 * Crashes and errors at every operation of single writers that do so are in `crash.isolated.test.ts` and `faults.test.ts`.
 */

import { crashModels, type DiskImage, failure, SimulatedDisk } from "@coppice/file/testing";
import { type Backend, type Batch, type Entry, Guard, isCoppiceError, LIMITS, systemEnv } from "coppice";
import { seededRandom, simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import { bytes } from "../../../test/support/stores.js";
import type { OpenFiles } from "../src/files.js";
import { dump, factoryOn, play, randomSteps, slowSyncs, statesOf } from "./crash-tools.js";

const put = (id: string, seq = 0, length = 100): Batch => ({
  put: [{ key: ["events", id, seq], value: bytes(length, seq % 255) }],
});

/** What is written to segments, and what is told to callers. */
async function watched(): Promise<{ disk: SimulatedDisk; backend: Backend; seen: string[] }> {
  const disk = new SimulatedDisk();
  const backend = await factoryOn(disk).open(simulatedEnv(1));
  await backend.commit(put("first"));
  const seen: string[] = [];
  disk.onOperation = ({ kind, name }) => {
    if (name.endsWith(".seg")) seen.push(kind);
  };
  return { disk, backend, seen };
}

function told(seen: string[], name: string, commit: Promise<void>): Promise<unknown> {
  return commit.then(
    () => seen.push(name),
    (error: unknown) => seen.push(`${name} ${isCoppiceError(error) ? error.code : String(error)}`),
  );
}

/** Calls two commits at once; whether the second was prepared then, which is when its value is looked at. */
async function isPrepared(backend: Backend, first: Batch, second: Batch): Promise<boolean> {
  let looked = false;
  const [entry] = second.put!;
  const watching: Entry = {
    key: entry!.key,
    get value() {
      looked = true;
      return entry!.value;
    },
  };
  const before = backend.commit(first);
  const after = backend.commit({ ...second, put: [watching] });
  const atOnce = looked;
  await Promise.all([before, after]);
  return atOnce;
}

test("[FL24] a commit that is called ahead is prepared at once, and written when the one before it is durable", async () => {
  const { backend, seen } = await watched();
  expect(await isPrepared(backend, put("a"), put("b"))).toBe(true);
  expect(await isPrepared(backend, { expect: [] }, put("c"))).toBe(false);
  expect(seen).toEqual(["write", "sync", "write", "sync", "write", "sync"]);
  expect(await dump(backend)).toHaveLength(4);
  await backend.close();
});

test("[FL24] what expects or deletes what the commit before it may change is not prepared", async () => {
  const key = ["events", "a", 0] as const;
  const followers: readonly Batch[] = [
    { ...put("b"), expect: [{ key, value: bytes(100, 0) }] },
    { ...put("b"), delete: [key] },
    { ...put("b"), delete: [{ space: "events", id: "a" }] },
  ];
  for (const batch of followers) {
    const { backend } = await watched();
    expect(await isPrepared(backend, put("a"), batch)).toBe(false);
    expect((await backend.get(key)) === undefined).toBe(batch.delete !== undefined);
    await backend.close();
  }
  for (const deletion of [key, { space: "events", id: "a" }] as const) {
    const { backend } = await watched();
    await backend.commit(put("a"));
    const follower = { ...put("b"), expect: [{ key, value: undefined }] };
    expect(await isPrepared(backend, { delete: [deletion] }, follower)).toBe(false);
    expect(await backend.get(["events", "b", 0])).toBeDefined();
    await backend.close();
  }
  const { backend, seen } = await watched();
  const inVain = { ...put("b"), expect: [{ key: ["meta", "b"] as const, value: bytes(1, 1) }] };
  await Promise.all([told(seen, "a", backend.commit(put("a"))), told(seen, "b", backend.commit(inVain))]);
  expect(seen.filter((what) => what.length > 5)).toEqual(["b COMMIT_CONFLICT"]);
  expect(await backend.get(["events", "b", 0])).toBeUndefined();
  await backend.close();
});

test("[FL24] when a sync or write fails, what was called ahead rejects and is not written", async () => {
  for (const kind of ["sync", "write"] as const) {
    const { disk, backend, seen } = await watched();
    disk.fault = (operation) => {
      disk.fault = operation.kind === kind ? undefined : disk.fault;
      return operation.kind === kind ? failure("EIO") : undefined;
    };
    await Promise.all(["a", "b", "c"].map((id) => told(seen, id, backend.commit(put(id)))));
    expect(seen.filter((what) => what.length > 5).sort()).toEqual([
      "a OUTCOME_UNKNOWN",
      "b POISONED",
      "c POISONED",
    ]);
    expect(seen.filter((what) => what === "write").length).toBeLessThanOrEqual(1);
    await backend.close();
    const again = await factoryOn(new SimulatedDisk(disk.image())).open(simulatedEnv(2));
    expect(await again.get(["events", "b", 0])).toBeUndefined();
    await again.close();
  }
});

test("[FL24] a frame ends where its segment does or goes to the next one, whether it is called ahead or not", async () => {
  // A segment need not end where a frame could.
  for (const segmentBytesMax of [64 * 1024, 64 * 1024 + 4]) {
    for (let length = 60_960; length < 61_120; length += 4) {
      for (const ahead of [false, true]) {
        const disk = new SimulatedDisk();
        const how = { segmentBytesMax, files: slowSyncs(disk) };
        const backend = await factoryOn(how, how).open(simulatedEnv(1));
        await backend.commit(put("first"));
        const before = backend.commit(put("a"));
        if (!ahead) await before;
        await Promise.all([before, backend.commit(put("b", 0, length))]);
        const lines = await dump(backend);
        const image = disk.image();
        for (const [name, { length: size }] of image)
          if (name.endsWith(".seg")) expect(size, `${name}, ${length}`).toBe(segmentBytesMax);
        await backend.close();
        const again = await factoryOn(new SimulatedDisk(image), { segmentBytesMax }).open(simulatedEnv(2));
        expect(await dump(again)).toEqual(lines);
        await again.close();
      }
    }
  }
});

test("[FL24] short writes, segments that end, and large frames change nothing of what commits ahead do", async () => {
  for (let seed = 1; seed <= 20; seed++) {
    const steps = randomSteps(seededRandom(seed), 60);
    const states = statesOf(steps);
    const disk = new SimulatedDisk();
    disk.writeBytesMax = seed % 2 === 0 ? 700 : Number.POSITIVE_INFINITY;
    await play(disk, steps, { acknowledged: 0, submitted: 0 }, { ahead: true });
    const backend = await factoryOn(new SimulatedDisk(disk.image())).open(simulatedEnv(2));
    expect(await dump(backend)).toEqual(states.at(-1));
    await backend.close();
  }
  const disk = new SimulatedDisk();
  const backend = await factoryOn(disk).open(simulatedEnv(1));
  const random = seededRandom(1);
  const lengths = Array.from({ length: 60 }, () => random.pick([100, 9_000, 30_000, 70_000]));
  let before: Promise<void> | undefined;
  for (const [seq, length] of lengths.entries()) {
    const commit = backend.commit(put(`d${seq % 2}`, seq, length));
    await before;
    before = commit;
  }
  await before;
  const lines = await dump(backend);
  expect(lines).toHaveLength(60);
  await backend.close();
  const again = await factoryOn(new SimulatedDisk(disk.image())).open(simulatedEnv(2));
  expect(await dump(again)).toEqual(lines);
  await again.close();
});

test("[FL24] nothing is prepared while the system still reads the frame before it", async () => {
  const disk = new SimulatedDisk();
  const written: (() => void)[] = [];
  let isSlow = false;
  const files: OpenFiles = async (create) => {
    const opened = await disk.files(create);
    const open = opened.open.bind(opened);
    opened.open = async (name, mode) => {
      const file = await open(name, mode);
      const write = file.write.bind(file);
      file.write = (...how) =>
        isSlow
          ? new Promise<void>((resolve) => written.push(resolve)).then(() => write(...how))
          : write(...how);
      return file;
    };
    return opened;
  };
  const backend = await factoryOn({ files }).open(simulatedEnv(1));
  await backend.commit(put("first"));
  isSlow = true;
  const both = isPrepared(backend, put("a", 1), put("b", 2));
  isSlow = false;
  for (const resolve of written) resolve();
  expect(await both).toBe(false);
  expect(await backend.get(["events", "a", 1])).toEqual(bytes(100, 1));
  expect(await backend.get(["events", "b", 2])).toEqual(bytes(100, 2));
  await backend.close();
});

test("[FL24] when a commit fails while a merge ends, the merge changes no manifest, and removes nothing", async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk, { mergeDeadRatioMin: 0.3 });
  const backend = await factory.open(simulatedEnv(1));
  for (let seq = 0; seq < 32; seq++) await backend.commit(put("a", seq, 5000));
  const before = [...disk.image().keys()];
  let failed: Promise<unknown> | undefined;
  let syncs = 0;
  const renamed: string[] = [];
  disk.onOperation = ({ kind, name }) => {
    if (kind === "rename") renamed.push(name);
    // The second one makes all frames durable: the headers and the manifest follow.
    if (kind !== "sync" || before.includes(name) || ++syncs !== 2) return;
    disk.fault = ({ kind: next, name: file }) =>
      next === "sync" && before.includes(file) ? failure("EIO") : undefined;
    failed = backend.commit(put("b")).catch((error: unknown) => error);
  };
  await backend.commit({ delete: [{ space: "events", id: "a", to: 8 }] });
  await expect(factory.merge()).rejects.toThrow();
  expect(await failed).toMatchObject({ code: "OUTCOME_UNKNOWN" });
  expect(renamed).toEqual([]);
  expect([...disk.image().keys()]).toEqual(expect.arrayContaining(before));
  await backend.close();
});

test("[FL24] without the sync of each commit none is taken ahead", async () => {
  const backend = await factoryOn(new SimulatedDisk(), { durability: "process" }).open(simulatedEnv(1));
  expect(backend.traits.pipelined).toBe(false);
  await backend.close();
});

test("[FL24] forty writers whose groups go ahead lose nothing acknowledged in a crash, and leave no hole", async () => {
  const disk = new SimulatedDisk();
  const backend = await factoryOn({ files: slowSyncs(disk) }).open(simulatedEnv(1));
  let underway = 0;
  const together: number[] = [];
  const inner = backend.commit.bind(backend);
  backend.commit = async (batch) => {
    together.push(++underway);
    try {
      await inner(batch);
    } finally {
      underway--;
    }
  };
  // Work takes time here, which is what makes groups go ahead.
  let ticks = 0;
  const guard = new Guard(backend, { ...systemEnv(), elapsed: () => (ticks += 0.02) }, LIMITS);
  const known = new Map<string, number>();
  const random = seededRandom(1);
  const images: { image: DiskImage; known: ReadonlyMap<string, number> }[] = [];
  disk.onOperation = () => {
    if (random.int(3) > 0) return;
    images.push({ image: disk.crash(random.pick(crashModels), random), known: new Map(known) });
  };
  const write = async (id: string): Promise<void> => {
    for (let n = 0; n < 25; n++) {
      const key = ["meta", id] as const;
      const expected = n === 0 ? undefined : bytes(1, n - 1);
      await guard.commit({
        put: [...put(id, n).put!, { key, value: bytes(1, n) }],
        expect: [{ key, value: expected }],
      });
      known.set(id, n + 1);
    }
  };
  await Promise.all(Array.from({ length: 40 }, (_, i) => write(`d${i}`)));
  expect(Math.max(...together)).toBe(2);
  expect(together.filter((count) => count === 2).length).toBeGreaterThan(5);
  await guard.close();
  expect(images.length).toBeGreaterThan(20);
  for (const { image, known: acknowledged } of images) {
    const left = await factoryOn(new SimulatedDisk(image)).open(simulatedEnv(2));
    for (let i = 0; i < 40; i++) {
      const meta = await left.get(["meta", `d${i}`]);
      const last = meta === undefined ? 0 : meta[0]! + 1;
      expect(last).toBeGreaterThanOrEqual(acknowledged.get(`d${i}`) ?? 0);
      for (let n = 0; n < 26; n++)
        expect((await left.get(["events", `d${i}`, n])) !== undefined).toBe(n < last);
    }
    await left.close();
  }
});

/** A door that whoever comes waits at, once it is shut. */
function door() {
  let shut = false;
  let open: (error?: Error) => void = () => undefined;
  let came: () => void = () => undefined;
  return {
    /** Resolves when somebody waits. */
    shut: () => {
      shut = true;
      return new Promise<void>((resolve) => {
        came = resolve;
      });
    },
    open: (error?: Error) => open(error),
    pass: () => {
      if (!shut) return Promise.resolve();
      shut = false;
      came();
      return new Promise<void>((resolve, reject) => {
        open = (error) => (error === undefined ? resolve() : reject(error));
      });
    },
  };
}

test("[FL24] when a merge fails to write the manifest, what is POISONED is not written, whenever that is", async () => {
  const codes = new Set<string>();
  for (let delay = -12; delay <= 12; delay++) {
    const disk = new SimulatedDisk();
    const [syncs, renames] = [door(), door()];
    const open: OpenFiles = async (create) => {
      const files = await disk.files(create);
      const [inner, rename] = [files.open.bind(files), files.rename.bind(files)];
      files.rename = (from, to) => renames.pass().then(() => rename(from, to));
      files.open = async (name, mode) => {
        const file = await inner(name, mode);
        const sync = file.sync.bind(file);
        file.sync = () => syncs.pass().then(() => sync());
        return file;
      };
      return files;
    };
    const factory = factoryOn({ files: open }, { mergeDeadRatioMin: 1 });
    const backend = await factory.open(simulatedEnv(1, { autoAdvance: true }));
    await backend.commit(put("first"));
    await factory.merge({ force: true });
    const switching = renames.shut();
    const merging = factory.merge({ force: true }).catch(() => undefined);
    await switching;
    const syncing = syncs.shut();
    const told: string[] = [];
    const commits = ["a", "b"].map((id) =>
      backend.commit(put(id)).then(
        () => told.push(`${id} there`),
        (error: Error) => told.push(`${id} ${isCoppiceError(error) ? error.code : String(error)}`),
      ),
    );
    await syncing;
    if (delay < 0) renames.open(failure("EIO"));
    for (let i = 0; i > delay; i--) await undefined;
    syncs.open();
    for (let i = 0; i < delay; i++) await undefined;
    renames.open(failure("EIO"));
    await Promise.all([...commits, merging]);
    await backend.close();
    const again = await factoryOn(new SimulatedDisk(disk.image())).open(simulatedEnv(2));
    for (const id of ["a", "b"]) {
      const isThere = (await again.get(["events", id, 0])) !== undefined;
      expect(told, `delay ${delay}`).toContain(`${id} ${isThere ? "there" : "POISONED"}`);
    }
    await again.close();
    for (const line of told) codes.add(line);
  }
  expect([...codes].sort()).toEqual(["a there", "b POISONED", "b there"]);
});
