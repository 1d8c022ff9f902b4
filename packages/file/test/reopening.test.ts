/** A store that was opened, mended or failing when it was left: opening takes it as it was acknowledged. */

import { checkFileLog } from "@coppice/file";
import { crashModels, type DiskImage, failure, SimulatedDisk } from "@coppice/file/testing";
import type { Backend } from "coppice";
import { type SeededRandom, seededRandom, simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import { dump, factoryOn } from "./crash-tools.js";

async function write(backend: Backend, from: number, to: number, bytes = 5000): Promise<void> {
  for (let seq = from; seq < to; seq++) {
    await backend.commit({
      put: [{ key: ["events", "a", seq], value: new Uint8Array(bytes).fill(seq + 1) }],
    });
  }
}

async function linesOf(disk: SimulatedDisk, durability: "power" | "process" = "power"): Promise<string[]> {
  const backend = await factoryOn(disk, { durability }).open(simulatedEnv(3));
  const lines = await dump(backend);
  await backend.close();
  return lines;
}

const segmentsOn = (disk: SimulatedDisk) =>
  [...disk.image().keys()].filter((name) => name.endsWith(".seg")).length;

/** So often opening is to pause in the files whose names end so. */
const pauses = (image: DiskImage, end: string, stepBytes: number) =>
  [...image]
    .filter(([name]) => name.endsWith(end))
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .slice(0, 4)
    .reduce((sum, [, bytes]) => sum + Math.floor((0.9 * bytes.length) / stepBytes), 0);

/** What a loss of power may leave while a commit is written. */
async function tornImages(random: SeededRandom, durability: "power" | "process"): Promise<DiskImage[]> {
  const disk = new SimulatedDisk();
  const backend = await factoryOn(disk, { durability }).open(simulatedEnv(1));
  const torn: DiskImage[] = [];
  await write(backend, 0, 2, 300);
  disk.onOperation = ({ kind }) => {
    for (const model of crashModels) if (kind === "write") torn.push(disk.crash(model, random));
  };
  await write(backend, 2, 4, 100 + random.int(3000));
  return torn;
}

test("[FL37] a manifest whose name was not durable when its process died is when it was opened", async () => {
  let deaths = 0;
  for (let at = 0; ; at++) {
    const disk = new SimulatedDisk();
    let syncs = 0;
    let isDead = false;
    disk.fault = ({ kind }) => {
      isDead ||= kind === "sync-names" && syncs++ === at;
      return isDead ? failure("EIO") : undefined;
    };
    const factory = factoryOn(disk, { mergeDeadRatioMin: 1 });
    const first = await factory.open(simulatedEnv(1)).catch(() => undefined);
    if (first !== undefined) {
      await write(first, 0, 30)
        .then(() => factory.merge({ force: true }))
        .catch(() => undefined);
      await first.close().catch(() => undefined);
    }
    if (!isDead) break;
    deaths++;
    disk.fault = undefined;
    // On the same machine, whose page cache has all.
    const second = await factoryOn(disk).open(simulatedEnv(2));
    await write(second, 50, 53);
    const lines = await dump(second);
    const random = seededRandom(at + 1);
    for (const model of crashModels) {
      expect(await linesOf(new SimulatedDisk(disk.crash(model, random))), model.title).toEqual(lines);
    }
    await second.close();
  }
  expect(deaths).toBeGreaterThan(6);
});

test("[FL37] what a repair has replaced may be there when it dies, and counts no more", async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk, { mergeDeadRatioMin: 1 });
  const backend = await factory.open(simulatedEnv(1));
  await write(backend, 0, 7);
  await factory.merge({ force: true });
  const lines = await dump(backend);
  await backend.close();
  const lost = new Map([...disk.image()].filter(([name]) => name !== "MANIFEST"));
  const spoiled = new Map(
    [...disk.image()].map(([name, bytes]) => [
      name,
      name.endsWith(".seg") ? bytes.slice().fill(9, 4096) : bytes,
    ]),
  );
  for (const [image, wanted] of [
    [lost, lines],
    [spoiled, []],
  ] as const) {
    const store = new SimulatedDisk(image);
    const left: DiskImage[] = [];
    let isNamed = false;
    store.onOperation = ({ kind }) => {
      isNamed ||= kind === "rename";
      if (isNamed) left.push(store.image());
    };
    await checkFileLog("simulated", { repair: true, env: simulatedEnv(9), files: store.files });
    expect(left.length).toBeGreaterThan(3);
    for (const each of left) expect(await linesOf(new SimulatedDisk(each))).toEqual(wanted);
  }
});

test("[FL37] opening that a loss of power ends while it takes away a torn commit can be repeated", async () => {
  let looked = 0;
  for (const durability of ["power", "process"] as const) {
    for (let seed = 1; seed <= 3; seed++) {
      const random = seededRandom(seed);
      for (const image of await tornImages(random, durability)) {
        const opening = new SimulatedDisk(image);
        const left: DiskImage[] = [];
        opening.onOperation = () => {
          for (const model of crashModels) if (model.tearsLast) left.push(opening.crash(model, random));
        };
        const lines = await linesOf(opening, durability);
        for (const each of left) {
          looked++;
          expect(await linesOf(new SimulatedDisk(each), durability), `seed ${seed}`).toEqual(lines);
        }
      }
    }
  }
  expect(looked).toBeGreaterThan(500);
});

test("[FL37] an opening whose sync failed while it took away a torn commit can be repeated", async () => {
  let looked = 0;
  for (let seed = 1; seed <= 3; seed++) {
    const random = seededRandom(seed);
    for (const image of await tornImages(random, "power")) {
      for (let at = 0; at < 4; at++) {
        const opening = new SimulatedDisk(image);
        let syncs = 0;
        opening.fault = ({ kind }) => (kind === "sync" && syncs++ === at ? failure("EIO") : undefined);
        const isFailed = await factoryOn(opening)
          .open(simulatedEnv(2))
          .then((opened) => opened.close())
          .then(
            () => false,
            () => true,
          );
        if (!isFailed) break;
        opening.fault = undefined;
        const again = await factoryOn(opening).open(simulatedEnv(3));
        for (let more = 0; more < 3; more++) {
          const lines = await dump(again);
          for (const model of crashModels) {
            looked++;
            const left = new SimulatedDisk(opening.crash(model, random));
            expect(await linesOf(left), `seed ${seed}, ${model.title}`).toEqual(lines);
          }
          await write(again, 10 + more, 11 + more, random.int(900));
        }
        await again.close();
      }
    }
  }
  expect(looked).toBeGreaterThan(500);
});

test("[FL37] after a failed sync nothing is sealed, which would say that what came before is durable", async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk, { durability: "process", mergeDeadRatioMin: 1 });
  const backend = await factory.open(simulatedEnv(1));
  await write(backend, 0, 30);
  await factory.merge({ force: true });
  await write(backend, 30, 32);
  const before = disk.image();
  disk.fault = ({ kind, name }) => (kind === "sync" && before.has(name) ? failure("EIO") : undefined);
  await expect(factory.merge({ force: true })).rejects.toThrow();
  disk.fault = undefined;
  await expect(factory.merge({ force: true })).rejects.toMatchObject({ code: "POISONED" });
  await backend.close();
  const random = seededRandom(1);
  for (const model of crashModels)
    expect((await linesOf(new SimulatedDisk(disk.crash(model, random)), "process")).length).toBeGreaterThan(
      29,
    );
});

test("[FL37] and such a sync that failed in a merge is not repeated: nothing more is written", async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk, { durability: "process", mergeDeadRatioMin: 1 });
  const backend = await factory.open(simulatedEnv(1));
  await write(backend, 0, 32);
  await backend.commit({ delete: [{ space: "events", id: "a", to: 12 }] });
  const before = disk.image();
  disk.fault = ({ kind, name }) => (kind === "sync" && before.has(name) ? failure("EIO") : undefined);
  await expect(factory.merge()).rejects.toThrow();
  disk.fault = undefined;
  await expect(factory.merge()).rejects.toMatchObject({ code: "POISONED" });
  await expect(write(backend, 32, 33)).rejects.toMatchObject({ code: "POISONED" });
  await backend.close();
});

test("[FL37] an opening records how far the log had come, so that a later loss of that is no torn commit", async () => {
  const disk = new SimulatedDisk();
  await write(await factoryOn(disk).open(simulatedEnv(1)), 0, 3);
  const killed = new SimulatedDisk(disk.image());
  await factoryOn(killed).open(simulatedEnv(2));
  const image = new Map(killed.image());
  const bytes = image.get("00000001.seg")!.slice();
  const used = bytes.findLastIndex((byte) => byte !== 0) + 1;
  image.set("00000001.seg", bytes.fill(0, used - 600));
  await expect(factoryOn(new SimulatedDisk(image)).open(simulatedEnv(3))).rejects.toMatchObject({
    code: "CORRUPT",
  });
});

test("[FL37] before anything is written an opening records whether commits are synced from now on", async () => {
  for (const durability of ["power", "process"] as const) {
    const disk = new SimulatedDisk();
    const before = durability === "power" ? "process" : "power";
    const backend = await factoryOn(disk, { durability: before }).open(simulatedEnv(1));
    await write(backend, 0, 3);
    await backend.close();
    disk.fault = ({ kind, name }) =>
      kind === "write" && name === "MANIFEST.next" ? failure("ENOSPC") : undefined;
    const other = factoryOn(disk, { durability });
    await expect(other.open(simulatedEnv(2))).rejects.toMatchObject({ code: "UNAVAILABLE" });
    disk.fault = undefined;
    await other.open(simulatedEnv(2));
    const [, manifest] = Buffer.from(disk.image().get("MANIFEST")!).toString().split("\n");
    expect(JSON.parse(manifest!)).toMatchObject({ syncs: durability === "power", sequence: 3 });
  }
});

test("[FL37] closing records how far the log reaches, also when it went on while a merge wrote its manifest", async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk, { mergeDeadRatioMin: 0.3 });
  const backend = await factory.open(simulatedEnv(1));
  await write(backend, 0, 32);
  let last: Promise<void> | undefined;
  disk.onOperation = ({ kind, name }) => {
    if (kind === "create" && name === "MANIFEST.next") last ??= write(backend, 32, 33);
  };
  await backend.commit({ delete: [{ space: "events", id: "a", to: 8 }] });
  await factory.merge();
  await last;
  await backend.close();
  const [, manifest] = Buffer.from(disk.image().get("MANIFEST")!).toString().split("\n");
  expect(JSON.parse(manifest!)).toMatchObject({ sequence: 34 });
});

test("[FL37] also where what it has replaced was written by a repair, and nothing of that was whole", async () => {
  const disk = new SimulatedDisk();
  const backend = await factoryOn(disk, { mergeDeadRatioMin: 1 }).open(simulatedEnv(1));
  await write(backend, 0, 20);
  await backend.close();
  const repair = async (image: DiskImage, onNamed?: (left: DiskImage) => void): Promise<DiskImage> => {
    const store = new SimulatedDisk(withoutManifest(image));
    let isNamed = false;
    store.onOperation = ({ kind }) => {
      isNamed ||= kind === "rename";
      if (isNamed) onNamed?.(store.image());
    };
    const how = { repair: true, env: simulatedEnv(9), segmentBytesMax: 64 * 1024 };
    await checkFileLog("simulated", { ...how, files: store.files });
    return store.image();
  };
  const spoiled = new Map(
    [...(await repair(disk.image()))].map(([name, bytes]) => [
      name,
      name.endsWith(".seg") ? bytes.slice().fill(9, 4096) : bytes,
    ]),
  );
  const left: DiskImage[] = [];
  await repair(spoiled, (image) => left.push(image));
  expect(left.length).toBeGreaterThan(3);
  for (const each of left) expect(await linesOf(new SimulatedDisk(each))).toEqual([]);
});

function withoutManifest(image: DiskImage): DiskImage {
  return new Map([...image].filter(([name]) => name !== "MANIFEST"));
}

test("[FL39] opening a large store lets the event loop turn, with hints and without", async () => {
  const disk = new SimulatedDisk();
  const backend = await factoryOn(disk, { segmentBytesMax: 16 * 1024 * 1024 }).open(simulatedEnv(1));
  let seq = 0;
  // Of long keys there are large hints.
  const id = "d".repeat(500);
  while (segmentsOn(disk) < 6) {
    const put = Array.from({ length: 1000 }, () => ({
      key: ["events", id, seq++] as const,
      value: new Uint8Array([seq]),
    }));
    await backend.commit({ put });
  }
  const lines = await dump(backend);
  await backend.close();
  const image = disk.image();
  const hintless = new Map([...image].filter(([name]) => !name.endsWith(".hint")));
  for (const [files, least] of [
    [image, pauses(image, ".hint", 256 * 1024)],
    [hintless, pauses(image, ".seg", 1024 * 1024)],
  ] as const) {
    expect(least).toBeGreaterThan(3);
    for (const readOnly of [true, false]) {
      let turns = 0;
      const env = simulatedEnv(2);
      const opened = await factoryOn(new SimulatedDisk(files), { readOnly }).open({
        ...env,
        turn: (callback) => {
          turns++;
          env.turn(callback);
        },
      });
      expect(turns).toBeGreaterThanOrEqual(least);
      expect(await dump(opened)).toEqual(lines);
      await opened.close();
    }
  }
});
