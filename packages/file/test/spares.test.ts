/**
 * Files of segments that were merged away become new segments, unless somebody else can still see what is in them.
 */

import { link, readFile } from "node:fs/promises";
import { join } from "node:path";
import { type FileLogFactory, fileLogBackend } from "@coppice/file";
import { crashModels, type DiskOperation, failure, SimulatedDisk } from "@coppice/file/testing";
import { type Backend, systemEnv } from "coppice";
import { type SeededRandom, seededRandom, simulatedEnv } from "coppice/testing";
import { afterAll, expect, test } from "vitest";
import { removeDirectories, temporaryDirectory } from "../../../test/support/stores.js";
import type { OpenFiles } from "../src/files.js";
import { segmentName } from "../src/segment.js";
import { dump, explore, factoryOn, overwritingSteps, SMALL, slowSyncs } from "./crash-tools.js";

afterAll(removeDirectories);

const KEPT = /seg \d+\.spare$/;
const USED = /spare \d+\.seg$/;

/** Overwrites until `end`; merging has its turns. */
async function overwrite(backend: Backend, random: SeededRandom, end: () => boolean): Promise<void> {
  for (let left = 2000; !end(); left--) {
    if (left === 0) throw new Error("it never came to this");
    await backend.commit(overwritingSteps(random, 1)[0]!.batch!);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** What was renamed on the disk. */
function renames(disk: SimulatedDisk): string[] {
  const names: string[] = [];
  disk.onOperation = ({ kind, name }: DiskOperation) => {
    if (kind === "rename") names.push(name);
  };
  return names;
}

const spares = (names: Iterable<string>) => [...names].filter((name) => name.endsWith(".spare"));
const hasSpares = (factory: FileLogFactory) => () => factory.stats()!.spareBytes > 0;

test("[FL34] the file of a segment that was merged away becomes a new one; merging by call and closing free it", async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk);
  let backend = await factory.open(simulatedEnv(1));
  const random = seededRandom(1);
  const renamed = renames(disk);
  await overwrite(backend, random, () => renamed.filter((name) => USED.test(name)).length > 5);
  await overwrite(backend, random, hasSpares(factory));
  const { spareBytes, fileBytes } = factory.stats()!;
  expect(spareBytes).toBeLessThanOrEqual(fileBytes / 2);
  const { freedBytes } = await factory.merge();
  expect(freedBytes).toBeGreaterThanOrEqual(spareBytes);
  expect(factory.stats()!.spareBytes).toBe(0);
  expect(spares(disk.names())).toEqual([]);
  await overwrite(backend, random, hasSpares(factory));
  const lines = await dump(backend);
  await backend.close();
  expect(spares(disk.names())).toEqual([]);
  backend = await factory.open(simulatedEnv(2));
  expect(await dump(backend)).toEqual(lines);
  await backend.close();
});

test("[FL34] a crash after any operation loses nothing acknowledged, where segments are made of old ones", {
  timeout: 120_000,
}, async () => {
  const replay = "npm run unit -- packages/file/test/spares.test.ts -t crash";
  let used = 0;
  for (const seed of [2, 4]) {
    const drawn = overwritingSteps(seededRandom(seed), 45);
    const each = async (image: ReadonlyMap<string, Uint8Array>) => {
      used += spares(image.keys()).length;
    };
    await explore(seed, crashModels, { drawn, ahead: true, budget: 1500, each, replay });
  }
  expect(used).toBeGreaterThan(100);
});

test("[FL34] an opening removes what a crash has left of such files, whatever is in them", async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk);
  const backend = await factory.open(simulatedEnv(1));
  await overwrite(backend, seededRandom(2), hasSpares(factory));
  const lines = await dump(backend);
  const image = disk.image();
  await backend.close();
  const [name] = spares(image.keys());
  for (const content of [image.get(name!)!, new Uint8Array(10), Uint8Array.from([1, 2, 3])]) {
    const left = new SimulatedDisk(new Map([...image, [name!, content]]));
    const again = await factoryOn(left).open(simulatedEnv(2));
    expect(await dump(again)).toEqual(lines);
    expect(spares(left.names())).toEqual([]);
    await again.close();
  }
});

test("[FL34] while a read-only open may still read them, no file is written over, and it reads what it read before", async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk);
  const backend = await factory.open(simulatedEnv(1));
  const random = seededRandom(3);
  await overwrite(backend, random, () => factory.stats()!.segmentCount > 5);
  const before = spares(disk.names()).length;
  const renamed = renames(disk);
  const reader = await factoryOn(disk, { readOnly: true }).open(simulatedEnv(2));
  const { merges } = factory.stats()!;
  for (let seen = merges; seen < merges + 8; seen++) {
    await overwrite(backend, random, () => factory.stats()!.merges > seen);
    expect(await dump(reader)).toEqual(await dump(backend));
  }
  expect(factory.stats()!.spareBytes).toBe(0);
  expect(renamed.filter((name) => KEPT.test(name)).length).toBeGreaterThan(0);
  expect(renamed.filter((name) => USED.test(name)).length).toBeLessThanOrEqual(before);
  await reader.close();
  await overwrite(backend, random, () => renamed.some((name) => USED.test(name)));
  await backend.close();
});

test("[FL34] on a real disk a reader, and a hard link, keep what they see", async () => {
  const directory = await temporaryDirectory();
  const location = join(directory, "store");
  const factory = fileLogBackend(location, SMALL);
  const backend = await factory.open(systemEnv());
  const random = seededRandom(4);
  const reader = await fileLogBackend(location, { readOnly: true }).open(systemEnv());
  for (let round = 0; round < 6; round++) {
    const { merges } = factory.stats()!;
    await overwrite(backend, random, () => factory.stats()!.merges > merges);
    expect(await dump(reader)).toEqual(await dump(backend));
    expect(factory.stats()!.spareBytes).toBe(0);
  }
  await reader.close();
  // All but the last are sealed.
  const [, listed] = (await readFile(join(location, "MANIFEST"), "utf8")).split("\n");
  const { segments } = JSON.parse(listed!) as { segments: { number: number }[] };
  const sealed = segments.slice(0, -1).map(({ number }) => segmentName(number));
  const seen = new Map<string, Buffer>();
  for (const name of sealed) {
    // Merging goes on, and may have taken it.
    const isLinked = await link(join(location, name), join(directory, name)).then(
      () => true,
      () => false,
    );
    if (isLinked) seen.set(name, await readFile(join(directory, name)));
  }
  expect(seen.size).toBeGreaterThan(0);
  const { merges } = factory.stats()!;
  await overwrite(backend, random, () => factory.stats()!.merges > merges + 6 && hasSpares(factory)());
  for (const [name, bytes] of seen)
    expect(Buffer.compare(await readFile(join(directory, name)), bytes), name).toBe(0);
  await backend.close();
});

test("[FL34] what is to go goes from files that wait to become segments as well", async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn({ files: slowSyncs(disk) });
  const backend = await factory.open(simulatedEnv(1));
  const secret = Buffer.from("a secret that must go");
  const holds = () => [...disk.image().values()].some((bytes) => Buffer.from(bytes).includes(secret));
  const random = seededRandom(5);
  for (let round = 0; round < 20; round++) {
    const written = { put: [{ key: ["events", "secret", 1] as const, value: secret }] };
    await backend.commit(written);
    await overwrite(backend, random, hasSpares(factory));
    await backend.commit({ delete: [{ space: "events", id: "secret" }] });
    await backend.reclaim();
    expect(holds(), `round ${round}`).toBe(false);
  }
  await backend.close();
});

test("[FL34] a read that has begun ends before its file is written over", async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn({ files: slowSyncs(disk, 400) });
  const backend = await factory.open(simulatedEnv(1));
  const random = seededRandom(6);
  let all = 0;
  await overwrite(backend, random, () => ++all > 100 && hasSpares(factory)());
  for (let round = 0; round < 5; round++) {
    let isRead = false;
    const reading = dump(backend).finally(() => {
      isRead = true;
    });
    await overwrite(backend, random, () => isRead);
    expect((await reading).length).toBe(12);
  }
  await backend.close();
});

/** Overwrites, deletes and reclaims, with one failure of what `fails` picks. */
async function reclaimAround(seed: number, fails: (kind: string, name: string) => boolean) {
  const disk = new SimulatedDisk();
  let armed = true;
  const fail = (kind: string, name: string) => {
    if (!armed || !fails(kind, name)) return false;
    armed = false;
    return true;
  };
  disk.fault = ({ kind, name }) => (fail(kind, name) ? failure("EIO") : undefined);
  const files: OpenFiles = async (create) => {
    const inner = await disk.files(create);
    const open = inner.open.bind(inner);
    inner.open = async (name, mode) => {
      if (fail(`open to ${mode}`, name)) throw failure("EMFILE");
      return open(name, mode);
    };
    return inner;
  };
  const factory = factoryOn({ files });
  const backend = await factory.open(simulatedEnv(1));
  const secret = Buffer.from("a secret that must go");
  await backend.commit({ put: [{ key: ["events", "secret", 1], value: secret }] });
  let count = 0;
  await overwrite(backend, seededRandom(seed), () => ++count > 60 && (!armed || hasSpares(factory)()));
  await backend.commit({ delete: [{ space: "events", id: "secret" }] });
  await backend.reclaim().catch(() => undefined);
  await backend.reclaim();
  const isHeld = [...disk.image().values()].some((bytes) => Buffer.from(bytes).includes(secret));
  await backend.close();
  return { isHeld, hasFailed: !armed };
}

test.each([
  [
    "the opening of a spare",
    (kind: string, name: string) => kind === "open to write" && name.endsWith(".spare"),
  ],
  ["its removal", (kind: string, name: string) => kind === "remove" && name.endsWith(".spare")],
  ["the removal of a segment", (kind: string, name: string) => kind === "remove" && name.endsWith(".seg")],
  ["the removal of a hint", (kind: string, name: string) => kind === "remove" && name.endsWith(".hint")],
  ["the renaming to a spare", (kind: string, name: string) => kind === "rename" && KEPT.test(name)],
  ["the renaming to a segment", (kind: string, name: string) => kind === "rename" && USED.test(name)],
])(
  "[FL34] when %s fails once, no commit is refused, and a repeated reclaim leaves nothing",
  async (_, fails) => {
    let failed = 0;
    for (let seed = 1; seed <= 8; seed++) {
      const { isHeld, hasFailed } = await reclaimAround(seed, fails);
      expect(isHeld, `seed ${seed}`).toBe(false);
      if (hasFailed) failed++;
    }
    expect(failed).toBeGreaterThan(2);
  },
);

/** A store that has such files, on a disk with little room beside. */
async function nearlyFull(seed: number) {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk);
  const backend = await factory.open(simulatedEnv(1));
  const random = seededRandom(seed);
  await overwrite(backend, random, hasSpares(factory));
  const used = [...disk.image().values()].reduce((sum, { length }) => sum + length, 0);
  disk.capacityBytes = used + random.int(3000);
  return { disk, factory, backend, random };
}

test("[FL34] a full disk refuses nothing while there are such files", async () => {
  let refused = 0;
  for (let seed = 1; seed <= 10; seed++) {
    const { factory, backend, random } = await nearlyFull(seed);
    for (let count = 0; count < 60; count++) {
      const error = await overwrite(backend, random, once()).catch((reason: unknown) => reason);
      if (error === undefined) continue;
      expect(error).toMatchObject({ code: "STORE_FULL" });
      refused++;
      expect(factory.stats()!.spareBytes, `seed ${seed}`).toBe(0);
    }
    await backend.close().catch(() => undefined);
  }
  expect(refused).toBeGreaterThan(10);
});

test("[FL34] a full disk on which such a file cannot be removed stops no later commit", async () => {
  let refused = 0;
  for (let seed = 1; seed <= 10; seed++) {
    const { disk, factory, backend, random } = await nearlyFull(seed);
    disk.fault = ({ kind, name }) =>
      kind === "remove" && name.endsWith(".spare") ? failure("EIO") : undefined;
    for (let count = 0; count < 60; count++)
      await overwrite(backend, random, once()).catch((error: unknown) => {
        expect(error).toMatchObject({ code: "STORE_FULL" });
        refused++;
      });
    disk.capacityBytes = Number.POSITIVE_INFINITY;
    disk.fault = undefined;
    await overwrite(backend, random, once());
    await factory.merge();
    expect(spares(disk.names())).toEqual([]);
    await backend.close();
  }
  expect(refused).toBeGreaterThan(10);
});

/** Of `overwrite`: one commit. */
function once(): () => boolean {
  let isDone = true;
  return () => {
    isDone = !isDone;
    return isDone;
  };
}

test("[FL34] closing does not wait for a segment that is being made", async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn({ files: slowSyncs(disk) }, { segmentBytesMax: 64 * 1024 * 1024 });
  const backend = await factory.open(simulatedEnv(1));
  // A segment of its own, which is full: the next one is made at once, of 32 writes and syncs.
  await backend.commit({
    put: [{ key: ["events", "d", 1], value: new Uint8Array(32 * 1024 * 1024).fill(1) }],
  });
  const merging = factory.merge().catch(() => undefined);
  let zeroed = 0;
  disk.onOperation = ({ kind, name }) => {
    if (kind === "write" && name.endsWith(".seg")) zeroed++;
  };
  await backend.close();
  await merging;
  expect(zeroed).toBeLessThan(4);
});

test("[FL11] a merge that is asked for does not wait until there is nothing to merge in the background any more", async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn({ files: slowSyncs(disk) }, { mergeDeadRatioMin: 0.05 });
  const backend = await factory.open(simulatedEnv(1));
  const random = seededRandom(8);
  await overwrite(backend, random, () => factory.stats()!.merges > 3);
  let isMerged = false;
  const merging = backend.reclaim().finally(() => {
    isMerged = true;
  });
  await overwrite(backend, random, () => isMerged);
  await merging;
  await backend.close();
});

test("[FL34] what was reclaimed is in no file either that a loss of power brings back", async () => {
  const disk = new SimulatedDisk();
  const backend = await factoryOn(disk).open(simulatedEnv(1));
  const secret = Buffer.from("the secret of Ann");
  const value = new Uint8Array(4000).fill(0x62);
  value.set(secret);
  await backend.commit({ put: [{ key: ["events", "ann", 0], value }] });
  const other = new Uint8Array(4000).fill(0x62);
  for (let seq = 0; seq < 80; seq++)
    await backend.commit({ put: [{ key: ["events", "other", seq], value: other }] });
  await backend.commit({ delete: [{ space: "events", id: "ann" }] });
  await backend.reclaim!();
  const random = seededRandom(1);
  for (const model of crashModels) {
    for (const [name, bytes] of disk.crash(model, random))
      expect(Buffer.from(bytes).includes(secret), `${model.title}: ${name}`).toBe(false);
  }
  await backend.close();
});
