/** Limits, failures and the lifecycle of the file log, on real and simulated disks. */

import { chown, mkdir, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type FileLogOptions, fileLogBackend } from "@coppice/file";
import { crashModels, failure, SimulatedDisk } from "@coppice/file/testing";
import { type Backend, DocumentStorage, Guard, isCoppiceError, LIMITS, systemEnv } from "coppice";
import { seededRandom, simulatedEnv } from "coppice/testing";
import { afterAll, expect, test } from "vitest";
import { type NameSet, nameSet, naming } from "../../../test/support/oracle-model.js";
import { bytes, removeDirectories, temporaryDirectory } from "../../../test/support/stores.js";
import { until } from "../../../test/support/until.js";
import { nodeFiles, type OpenFile, type OpenFiles, type OpenMode, type StoreFiles } from "../src/files.js";
import { dump, factoryOn } from "./crash-tools.js";

afterAll(removeDirectories);

const put = (seq: number, length = 100) => ({
  put: [{ key: ["events", "d", seq] as const, value: bytes(length, seq % 255) }],
});

async function codeOf(work: Promise<unknown>): Promise<string> {
  const [outcome] = await Promise.allSettled([work]);
  if (outcome.status === "fulfilled") return "resolved";
  return isCoppiceError(outcome.reason) ? outcome.reason.code : String(outcome.reason);
}

test("[FL2] options that are wrong throw at once, and say what would be right", () => {
  expect(() => fileLogBackend("")).toThrow(TypeError);
  expect(() => fileLogBackend("file:./data")).toThrow("how the command names a store");
  expect(() => fileLogBackend("d", { durability: "disk" as "power" })).toThrow(TypeError);
  expect(() => fileLogBackend("d", { segmentBytes: 1 } as object)).toThrow(/no option segmentBytes/);
  expect(() => fileLogBackend("d", { segmentBytesMax: 1 })).toThrow(/segmentBytesMax must be/);
  expect(() => fileLogBackend("d", { segmentsMax: 1 })).toThrow(RangeError);
  expect(() => fileLogBackend("d", { blocking: 1 as unknown as boolean })).toThrow(/blocking must be/);
  expect(() => fileLogBackend("d", { mergeDeadRatioMin: 0 })).toThrow(RangeError);
});

test("[FL2] where there is no store, opening without createIfMissing makes none", async () => {
  const directory = join(await temporaryDirectory(), "none");
  const factory = fileLogBackend(directory, { createIfMissing: false });
  expect(await codeOf(factory.open(systemEnv()))).toBe("UNAVAILABLE");
  expect(await codeOf(stat(directory))).toMatch(/ENOENT/);
  await mkdir(directory);
  expect(await codeOf(factory.open(systemEnv()))).toBe("UNAVAILABLE");
  expect(await readdir(directory)).toEqual([]);
});

test("[FL23] with blocking a commit is synced before anything else runs, and only commits hold up the thread", async () => {
  const directory = await temporaryDirectory();
  const syncs: string[] = [];
  const files: OpenFiles = async (create) => watched(await nodeFiles(directory, true)(create), syncs);
  const backend = await fileLogBackend(directory, { blocking: true, files }).open(systemEnv());
  await backend.commit(put(0));
  syncs.length = 0;
  let turns = 0;
  const turn = setImmediate(() => turns++);
  await backend.commit(put(1));
  clearImmediate(turn);
  expect(turns).toBe(0);
  expect(syncs).toEqual(["blocking"]);
  // Enough for further segments, which are filled with zeros and synced beside the commits.
  for (let seq = 2; seq < 40; seq++) await backend.commit(put(seq, 60_000));
  expect(syncs).toContain("beside");
  const lines = await dump(backend);
  await backend.close();
  const again = await fileLogBackend(directory).open(systemEnv());
  expect(await dump(again)).toEqual(lines);
  await again.close();
});

test("[FL23] with blocking a sync that fails ends in OUTCOME_UNKNOWN, and nothing more is written", async () => {
  const directory = await temporaryDirectory();
  let failing = false;
  const files: OpenFiles = async (create) =>
    watched(await nodeFiles(directory, true)(create), [], () => failing);
  const backend = await fileLogBackend(directory, { blocking: true, files }).open(systemEnv());
  await backend.commit(put(0));
  failing = true;
  expect(await codeOf(backend.commit(put(1)))).toBe("OUTCOME_UNKNOWN");
  failing = false;
  expect(await codeOf(backend.commit(put(2)))).toBe("POISONED");
  await backend.close();
  const again = await fileLogBackend(directory).open(systemEnv());
  expect((await dump(again)).length).toBeLessThanOrEqual(2);
  await again.close();
});

test("[FL23] a blocking sync rejects with the error of the file system, and does not throw", async () => {
  const files = await nodeFiles(await temporaryDirectory(), true)(true);
  const file = await files.open("one", "create");
  await file.sync(true);
  file.close();
  await expect(file.sync(true)).rejects.toMatchObject({ code: "EBADF" });
  files.close();
});

/** The same files, which note how they are synced, and fail when they are told to. */
function watched(files: StoreFiles, syncs: string[], failing: () => boolean = () => false): StoreFiles {
  return {
    list: () => files.list(),
    rename: (from: string, to: string) => files.rename(from, to),
    remove: (name: string) => files.remove(name),
    syncNames: () => files.syncNames(),
    identityOf: (name: string) => files.identityOf(name),
    lock: (name: string) => files.lock(name),
    share: (name: string) => files.share(name),
    isOwn: (name: string) => files.isOwn(name),
    close: () => files.close(),
    async open(name: string, mode: OpenMode): Promise<OpenFile> {
      const file = await files.open(name, mode);
      const sync = file.sync.bind(file);
      file.sync = (blocking) => {
        syncs.push(blocking ? "blocking" : "beside");
        return blocking && failing() ? Promise.reject(failure("EIO")) : sync(blocking);
      };
      return file;
    },
  };
}

test("[FL3] over a limit a commit is STORE_FULL, nothing is written, and deletes and later commits go on", async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk, { storeBytesMax: 192 * 1024, mergeDeadRatioMin: 1 });
  const guard = new Guard(await factory.open(simulatedEnv(1)), systemEnv(), LIMITS);
  let count = 0;
  let code = "";
  for (; code === ""; count++) {
    const outcome = await codeOf(guard.commit(put(count, 4000)));
    if (outcome !== "resolved") code = outcome;
  }
  expect(code).toBe("STORE_FULL");
  expect(count).toBeGreaterThan(40);
  const before = await dump(guard);
  expect(before).toHaveLength(count - 1);
  expect(await codeOf(guard.commit(put(count, 60_000)))).toBe("STORE_FULL");
  await guard.commit({ delete: [{ space: "events", id: "d", to: count - 5 }] });
  await factory.merge({ force: true });
  await guard.commit(put(count, 4000));
  await guard.close();
  const again = await factory.open(simulatedEnv(2));
  expect((await dump(again)).length).toBe(5);
  await again.close();
});

test("[FL3] segmentsMax bounds the count of files in the same way", async () => {
  const factory = factoryOn(new SimulatedDisk(), { segmentsMax: 2, mergeDeadRatioMin: 1 });
  const backend = await factory.open(simulatedEnv(1));
  let code = "resolved";
  for (let seq = 0; code === "resolved"; seq++) code = await codeOf(backend.commit(put(seq, 8000)));
  expect(code).toBe("STORE_FULL");
  expect(factory.stats()?.segmentCount).toBe(2);
  await backend.close();
});

test("[FL3] a disk that is full when a segment is made is STORE_FULL, and harms nothing", async () => {
  const disk = new SimulatedDisk();
  disk.capacityBytes = 100 * 1024;
  const factory = factoryOn(disk, { mergeDeadRatioMin: 1 });
  const guard = new Guard(await factory.open(simulatedEnv(1)), systemEnv(), LIMITS);
  let count = 0;
  while ((await codeOf(guard.commit(put(count, 4000)))) === "resolved") count++;
  expect(await codeOf(guard.commit(put(count, 4000)))).toBe("STORE_FULL");
  disk.capacityBytes = Number.POSITIVE_INFINITY;
  await guard.commit(put(count, 4000));
  await guard.close();
  const again = await factory.open(simulatedEnv(2));
  expect(await dump(again)).toHaveLength(count + 1);
  await again.close();
});

test("[FL3] a disk without room for the next manifest is STORE_FULL, for a commit and for a merge", async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk, { mergeDeadRatioMin: 1 });
  let backend = await factory.open(simulatedEnv(1));
  let count = 0;
  const commit = () => codeOf(backend.commit(put(count, 4000)));
  while (factory.stats()!.segmentCount < 4) {
    await backend.commit(put(count++, 4000));
  }
  for (let more = 0; more < 10; more++) await backend.commit(put(count++, 4000));
  // Where the next segment lies ready the manifest is the first that needs room.
  disk.capacityBytes = bytesOn(disk);
  while ((await commit()) === "resolved") count++;
  expect(await commit()).toBe("STORE_FULL");
  expect(await codeOf(factory.merge({ force: true }))).toBe("STORE_FULL");
  expect(factory.stats()!.failure).toBeUndefined();
  disk.capacityBytes = Number.POSITIVE_INFINITY;
  disk.fault = ({ kind, name }) =>
    kind === "write" && name === "MANIFEST.next" ? failure("ENOSPC") : undefined;
  while ((await commit()) === "resolved") count++;
  const lines = await dump(backend);
  const { segmentCount } = factory.stats()!;
  expect(await codeOf(factory.merge({ force: true }))).toBe("STORE_FULL");
  expect(factory.stats()).toMatchObject({ segmentCount, merges: 0 });
  expect(await dump(backend)).toEqual(lines);
  const { fault } = disk;
  disk.fault = undefined;
  expect(await commit()).toBe("resolved");
  await backend.commit({ delete: [{ space: "events", id: "d", to: 40 }] });
  const after = await dump(backend);
  expect(after).toHaveLength(count + 1 - 40);
  disk.fault = fault;
  const names = [...disk.image().keys()];
  expect(await codeOf(factory.merge())).toBe("STORE_FULL");
  expect([...disk.image().keys()].sort()).toEqual(names.sort());
  expect(await dump(backend)).toEqual(after);
  disk.fault = undefined;
  await factory.merge();
  expect(factory.stats()).toMatchObject({ merges: 1, failure: undefined, mergeFailure: undefined });
  expect(await dump(backend)).toEqual(after);
  await backend.close();
  backend = await factory.open(simulatedEnv(2));
  expect(await dump(backend)).toEqual(after);
  await backend.close();
});

test("[FL4] when a sync fails once, all that waits rejects, nothing is retried, and reopening serves what is durable", {
  timeout: 120_000,
}, async () => {
  for (const kind of ["sync", "write"] as const) {
    const disk = new SimulatedDisk();
    const factory = factoryOn(disk);
    const backend = await factory.open(simulatedEnv(1));
    const guard = new Guard(backend, systemEnv(), LIMITS);
    for (let seq = 0; seq < 5; seq++) await guard.commit(put(seq));
    const durable = await dump(guard);
    let failures = 0;
    const later: string[] = [];
    disk.fault = (operation) => {
      if (failures > 0) later.push(operation.kind);
      return operation.kind === kind && failures++ === 0 ? failure("EIO") : undefined;
    };
    const waiting = [5, 6, 7].map((seq) => codeOf(guard.commit(put(seq))));
    expect(await Promise.all(waiting)).toEqual(["OUTCOME_UNKNOWN", "POISONED", "POISONED"]);
    expect(await codeOf(backend.commit(put(8)))).toBe("POISONED");
    expect(await dump(guard)).toEqual(durable);
    await guard.close();
    expect(later).toEqual([]);
    disk.fault = undefined;
    // After a loss of power only what was synced counts; without one the frame may be there, and is made durable.
    for (const image of [disk.crash(NOTHING, ONE), disk.image()]) {
      const next = new SimulatedDisk(image);
      const reopened = await factoryOn(next).open(simulatedEnv(2));
      const found = await dump(reopened);
      expect(found.slice(0, 5)).toEqual(durable);
      const settled = await factoryOn(new SimulatedDisk(next.crash(NOTHING, ONE))).open(simulatedEnv(3));
      expect(await dump(settled)).toEqual(found);
      await reopened.close();
      await settled.close();
    }
  }
});

const NOTHING = { title: "nothing", namesWithFiles: false, keep: "nothing", tearsLast: false } as const;
const ONE = { int: () => 0 };

test("[FL4] the storage above recovers from a sync that failed, with what was durable", async () => {
  const disk = new SimulatedDisk();
  const storage = await DocumentStorage.open({ backend: factoryOn(disk), models: [nameSet()] });
  await storage.append("d", [naming("first")]);
  let failed = false;
  disk.fault = ({ kind }) => {
    if (kind !== "sync" || failed) return undefined;
    failed = true;
    return failure("EIO");
  };
  expect(await codeOf(storage.append("d", [naming("second")]))).toBe("OUTCOME_UNKNOWN");
  expect(await codeOf(storage.append("d", [naming("third")]))).toBe("POISONED");
  const report = await storage.recover();
  expect(report.settled).toHaveLength(1);
  await storage.append("d", [naming("fourth")]);
  const names = [...(await storage.load<NameSet>("d"))!.doc.names.keys()];
  expect(names.filter((name) => name !== "second")).toEqual(["first", "fourth"]);
  expect((await storage.check()).problems).toEqual([]);
  await storage.close();
});

test("[FL5] short writes are followed by the rest, and what is large is written whole", {
  timeout: 120_000,
}, async () => {
  const disk = new SimulatedDisk();
  disk.writeBytesMax = 100;
  const factory = factoryOn(disk);
  const backend = await factory.open(simulatedEnv(1));
  const value = Uint8Array.from({ length: 70_000 }, (_, i) => i % 251);
  await backend.commit({ put: [{ key: ["events", "d", 1], value }] });
  await backend.close();
  const again = await factory.open(simulatedEnv(2));
  expect(await again.get(["events", "d", 1])).toEqual(value);
  await again.close();
});

test("[FL6] a read that gives another block, or fails its checksum, is CORRUPT and never served", async () => {
  const disk = new SimulatedDisk();
  const backend: Backend = await factoryOn(disk).open(simulatedEnv(1));
  for (let seq = 0; seq < 20; seq++) await backend.commit(put(seq, 600));
  const key = ["events", "d", 7] as const;
  const good = await backend.get(key);
  let name = "";
  let position = 0;
  disk.onRead = (...read) => {
    [name, position] = [read[0], read[1]];
  };
  await backend.get(key);
  const image = disk.image().get(name)!;
  // A block of the same segment, of another record that is whole, and the right one with each kind of damage.
  const others = [position + 640, position - 640].map((at) => image.slice(at, at + 700));
  for (const other of others) {
    disk.onRead = (_, at, into) => {
      if (at === position) into.set(other.subarray(0, into.length));
    };
    expect(await codeOf(backend.get(key))).toBe("CORRUPT");
  }
  for (let bit = 0; bit < 600 * 8; bit += 37) {
    disk.onRead = (_, at, into) => {
      if (at === position) into[bit >> 3]! ^= 1 << (bit & 7);
    };
    expect(await codeOf(backend.get(key))).toBe("CORRUPT");
  }
  disk.onRead = undefined;
  expect(await backend.get(key)).toEqual(good);
  await backend.close();
});

test("[FL7] a manifest that is lost, cut, damaged, of another version or older than the log is refused", {
  timeout: 120_000,
}, async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk, { mergeDeadRatioMin: 1 });
  let backend = await factory.open(simulatedEnv(1));
  await backend.commit(put(1, 3000));
  await backend.close();
  const old = disk.image().get("MANIFEST")!;
  backend = await factory.open(simulatedEnv(2));
  for (let seq = 2; seq < 40; seq++) await backend.commit(put(seq, 3000));
  await backend.close();
  const image = disk.image();
  const open = (changed: ReadonlyMap<string, Uint8Array>) =>
    codeOf(factoryOn(new SimulatedDisk(changed)).open(simulatedEnv(3)));
  const withManifest = (bytes: Uint8Array) => open(new Map([...image, ["MANIFEST", bytes]]));
  const manifest = image.get("MANIFEST")!;
  expect(await open(new Map([...image].filter(([name]) => name !== "MANIFEST")))).toBe("CORRUPT");
  expect(await withManifest(old)).toBe("CORRUPT");
  const hurt = new Map([...image, ["MANIFEST", old] as const]);
  for (const name of [...image.keys()].filter((each) => each.endsWith(".seg") && each > "00000001.seg")) {
    const bytes = image.get(name)!.slice();
    bytes[4096 + 3]! ^= 1;
    hurt.set(name, bytes);
  }
  expect(await open(hurt)).toBe("CORRUPT");
  expect(await withManifest(manifest.slice(0, -3))).toBe("CORRUPT");
  expect(await withManifest(new Uint8Array(0))).toBe("CORRUPT");
  for (let at = 0; at < manifest.length; at++) {
    const flipped = manifest.slice();
    flipped[at]! ^= 4;
    expect(["CORRUPT", "FORMAT_UNSUPPORTED"]).toContain(await withManifest(flipped));
  }
  for (const name of [...image.keys()].filter((each) => each.endsWith(".seg"))) {
    expect(await open(new Map([...image].filter(([each]) => each !== name)))).toBe("CORRUPT");
    expect(await open(new Map([...image, [name, image.get(name)!.slice(0, -1)]]))).toBe("CORRUPT");
  }
});

test("[FL7] files of others in the directory are left alone", async () => {
  const directory = await temporaryDirectory();
  await writeFile(join(directory, "notes.txt"), "mine");
  await mkdir(join(directory, "folder"));
  const factory = fileLogBackend(directory);
  const backend = await factory.open(systemEnv());
  await backend.commit(put(1));
  await factory.merge({ force: true });
  await backend.close();
  expect(await readFile(join(directory, "notes.txt"), "utf8")).toBe("mine");
  expect(await readdir(directory)).toEqual(
    expect.arrayContaining(["folder", "LOCK", "MANIFEST", "notes.txt"]),
  );
});

test("[FL11] merging ends, however small the part that must be dead, and what it leaves is merged no more", async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk, { mergeDeadRatioMin: 0.001 });
  let backend = await factory.open(simulatedEnv(1));
  for (let seq = 0; seq < 300; seq++) {
    await backend.commit(put(seq, 300));
    if (seq % 20 === 19)
      await backend.commit({ delete: [{ space: "events", id: "d", from: seq - 18, to: seq }] });
  }
  await factory.merge();
  expect(factory.stats()?.mergeableBytes).toBe(0);
  await backend.close();
  backend = await factory.open(simulatedEnv(2));
  expect(await dump(backend)).toHaveLength(30);
  expect(factory.stats()?.mergeableBytes).toBe(0);
  await backend.close();
});

function bytesOn(disk: SimulatedDisk): number {
  return [...disk.image().values()].reduce((sum, { length }) => sum + length, 0);
}

/** A store of ten segments of 64 KiB, of about 50 values each, and what it has merged when nothing is going on. */
async function dying(options: FileLogOptions) {
  const factory = factoryOn(new SimulatedDisk(), options);
  const env = simulatedEnv(1);
  const backend = await factory.open(env);
  const drop = (from: number, to: number) =>
    backend.commit({ delete: [{ space: "events", id: "d", from, to }] });
  const settled = async () => {
    for (let turns = 0; turns < 1000; turns++) await new Promise<void>((resolve) => env.turn(resolve));
    return factory.stats()!;
  };
  for (let seq = 0; seq < 500; seq++) await backend.commit(put(seq, 1200));
  return { factory, backend, drop, settled };
}

test("[FL26] in the background what is still dying is left, until it or the store is dead enough", async () => {
  const { factory, backend, drop, settled } = await dying({});
  await drop(0, 32);
  const before = await settled();
  expect(before.merges).toBe(0);
  expect(before.mergeableBytes).toBeGreaterThan(0);
  await drop(32, 40);
  expect((await settled()).merges).toBe(1);
  // Of each segment some six tenths.
  for (let from = 60; from < 450; from += 50) await drop(from, from + 30);
  const { deadBytes, frameBytes } = factory.stats()!;
  expect(deadBytes).toBeGreaterThan(frameBytes / 2);
  const after = await settled();
  expect(after.deadBytes).toBeLessThan(after.frameBytes / 2);
  expect(after.mergeableBytes).toBeGreaterThan(0);
  await factory.merge();
  expect(factory.stats()!.mergeableBytes).toBe(0);
  await backend.close();
});

test.each([{ segmentsMax: 18 }, { storeBytesMax: 18 * 64 * 1024 }])(
  "[FL26] half way to its limits a store waits no longer: %o",
  async (limits) => {
    const { backend, drop, settled } = await dying(limits);
    await drop(0, 32);
    const { merges, mergeableBytes } = await settled();
    expect([merges, mergeableBytes]).toEqual([1, 0]);
    await backend.close();
  },
);

test("[FL29] merging that a full disk ended goes on when another segment has found room", async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk);
  const backend = await factory.open(simulatedEnv(1));
  let seq = 0;
  const write = async (count: number) => {
    for (const end = seq + count; seq < end; seq++) await backend.commit(put(seq, 3000));
  };
  await write(100);
  // Enough for a manifest, and not for the copies.
  disk.capacityBytes = bytesOn(disk) + 8 * 1024;
  await backend.commit({ delete: [{ space: "events", id: "d", to: 90 }] });
  await until("the disk is full", () => factory.stats()!.mergeFailure !== undefined);
  expect(factory.stats()!.mergeFailure).toMatchObject({ code: "STORE_FULL" });
  disk.capacityBytes = Number.POSITIVE_INFINITY;
  await write(60);
  await until("it goes on", () => factory.stats()!.merges > 0, 10_000);
  expect(factory.stats()!.mergeFailure).toBeUndefined();
  const lines = await dump(backend);
  await backend.close();
  const again = await factory.open(simulatedEnv(2));
  expect(await dump(again)).toEqual(lines);
  await again.close();
});

test("[FL11] after a forced merge no file of the store holds what was deleted", async () => {
  const directory = await temporaryDirectory();
  const factory = fileLogBackend(directory, { mergeDeadRatioMin: 1 });
  const backend = await factory.open(systemEnv());
  const secret = Buffer.from("a secret that must go");
  for (const seq of [1, 2])
    await backend.commit({ put: [{ key: ["events", "secret-id", seq], value: secret }] });
  await backend.commit({ put: [{ key: ["events", "kept", 1], value: bytes(10, 1) }] });
  await backend.commit({ delete: [{ space: "events", id: "secret-id" }] });
  const holds = async () => {
    const files = (await readdir(directory)).map((name) => readFile(join(directory, name)));
    return (await Promise.all(files)).some((each) => each.includes(secret) || each.includes("secret-id"));
  };
  expect(await holds()).toBe(true);
  await factory.merge({ force: true });
  expect(await holds()).toBe(false);
  expect(await backend.get(["events", "kept", 1])).toEqual(bytes(10, 1));
  await backend.close();
  expect(await holds()).toBe(false);
});

test.each(["power", "process"] as const)(
  "[FL36] a full disk does not keep a store of durability %s from being closed, whole",
  async (durability) => {
    const disk = new SimulatedDisk();
    const factory = factoryOn(disk, { durability });
    let backend = await factory.open(simulatedEnv(1));
    for (let count = 0; count < 3; count++) await backend.commit(put(count, 4000));
    const lines = await dump(backend);
    disk.capacityBytes = bytesOn(disk);
    await backend.close();
    // A loss of power right after.
    for (const model of crashModels) {
      const left = new SimulatedDisk(disk.crash(model, seededRandom(1)));
      backend = await factoryOn(left, { durability }).open(simulatedEnv(2));
      expect(await dump(backend)).toEqual(lines);
      await backend.close();
    }
    // Opened again, to make room.
    backend = await factory.open(simulatedEnv(3));
    expect(await dump(backend)).toEqual(lines);
    await backend.commit({ delete: [["events", "d", 0]] });
    await backend.close();
    const after = await factoryOn(new SimulatedDisk(disk.image()), { durability }).open(simulatedEnv(4));
    expect(await dump(after)).toEqual(lines.slice(1));
    await after.close();
  },
);

test("[FL11] a merge stops at its signal, at close, and at damage, and leaves the store as it was", async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk, { mergeDeadRatioMin: 1 });
  let backend = await factory.open(simulatedEnv(1));
  for (let seq = 0; seq < 200; seq++) await backend.commit(put(seq, 3000));
  await backend.commit({ delete: [{ space: "events", id: "d", to: 100 }] });
  const lines = await dump(backend);
  const reason = new Error("enough");
  await expect(factory.merge({ force: true, signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  const merging = codeOf(factory.merge({ force: true }));
  await backend.close();
  expect(await merging).toBe("CLOSED");
  expect(await codeOf(factory.merge())).toBe("CLOSED");
  backend = await factory.open(simulatedEnv(2));
  expect(await dump(backend)).toEqual(lines);
  const files = [...disk.image().keys()];
  for (const at of [0, 40, 9000]) {
    disk.onRead = (name, position, into) => {
      if (name === "00000002.seg" && position === 4096 && into.length > 10_000) into[at]! ^= 1;
    };
    expect(await codeOf(factory.merge({ force: true }))).toBe("CORRUPT");
  }
  disk.onRead = undefined;
  expect([...disk.image().keys()]).toEqual(
    expect.arrayContaining(files.filter((name) => name.endsWith(".seg"))),
  );
  expect(await dump(backend)).toEqual(lines);
  await factory.merge({ force: true });
  expect(await dump(backend)).toEqual(lines);
  await backend.close();
});

test("[FL4] durability process: a sync that fails while merging stops all writing, and is not repeated", async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk, { durability: "process", mergeDeadRatioMin: 1 });
  const backend = await factory.open(simulatedEnv(1));
  for (let seq = 0; seq < 60; seq++) await backend.commit(put(seq, 3000));
  await backend.commit({ delete: [{ space: "events", id: "d", to: 50 }] });
  const lines = await dump(backend);
  const active = [...disk.image().keys()].filter((name) => name.endsWith(".seg")).sort();
  let synced = 0;
  disk.fault = ({ kind, name }) => {
    if (kind !== "sync" || !active.includes(name)) return undefined;
    synced++;
    return failure("EIO");
  };
  expect(await codeOf(factory.merge({ force: true }))).toBe("UNAVAILABLE");
  expect(synced).toBe(1);
  expect(await codeOf(backend.commit(put(100)))).toBe("POISONED");
  expect(await dump(backend)).toEqual(lines);
  await backend.close();
  expect(synced).toBe(1);
  const again = await factoryOn(new SimulatedDisk(disk.image())).open(simulatedEnv(2));
  expect(await dump(again)).toEqual(lines);
  await again.close();
});

test("[FL33] what root writes in a store of another user is that user's, who can go on", async (context) => {
  context.skip(process.getuid?.() !== 0, "only root can give files away");
  const directory = await temporaryDirectory();
  await chown(directory, 65_534, 65_533);
  const factory = fileLogBackend(directory, { segmentBytesMax: 64 * 1024, mergeDeadRatioMin: 1 });
  const backend = await factory.open(systemEnv());
  for (let seq = 0; seq < 60; seq++) await backend.commit(put(seq, 3000));
  await backend.commit({ delete: [{ space: "events", id: "d", to: 50 }] });
  await factory.merge({ force: true });
  await backend.close();
  const names = await readdir(directory);
  expect(names).toEqual(expect.arrayContaining(["LOCK", "MANIFEST"]));
  expect(names.filter((name) => name.endsWith(".seg")).length).toBeGreaterThan(1);
  for (const name of names) {
    const { uid, gid } = await stat(join(directory, name));
    expect([name, uid, gid]).toEqual([name, 65_534, 65_533]);
  }
});
