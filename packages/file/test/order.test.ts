/** The order of segments is in their headers: a store that lost its manifest is replayed as it was written. */

import { checkFileLog, type FileLogFactory, type FileLogReport } from "@coppice/file";
import { crashModels, type DiskImage, failure, SimulatedDisk } from "@coppice/file/testing";
import type { Backend, Batch, Entry } from "coppice";
import { NaiveStore } from "coppice/conformance";
import { type SeededRandom, seededRandom, simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import { readManifest } from "../src/manifest.js";
import { ranksBetween } from "../src/ranks.js";
import { decodeSegmentHeader, segmentName } from "../src/segment.js";
import { dump, explore, factoryOn, lines, type Step } from "./crash-tools.js";

const KIB = 1024;

function put(space: "events" | "meta", id: string, seq: number, bytes: number, stamp = 0): Entry {
  const value = new Uint8Array(bytes);
  new DataView(value.buffer).setUint32(0, stamp);
  return { key: space === "meta" ? [space, id] : [space, id, seq], value };
}

function withManifest(image: DiskImage, manifest: Uint8Array | undefined): Map<string, Uint8Array> {
  const rest = [...image].filter(([name]) => name !== "MANIFEST");
  return new Map(manifest === undefined ? rest : [...rest, ["MANIFEST", manifest]]);
}

/** As an earlier version wrote the merged segments of which `which` holds. */
function withoutRanks(image: DiskImage, which: (name: string) => boolean = () => true): DiskImage {
  return new Map(
    [...image].map(([name, bytes]) => {
      const isMerged = name.endsWith(".seg") && decodeSegmentHeader(bytes)?.kind === "merged";
      return [name, isMerged && which(name) ? bytes.slice().fill(0, 64, 80) : bytes];
    }),
  );
}

/** With small segments, so that it writes several. */
function repair(disk: SimulatedDisk): Promise<FileLogReport> {
  const how = { repair: true, env: simulatedEnv(9), segmentBytesMax: 64 * KIB };
  return checkFileLog("simulated", { ...how, files: disk.files });
}

async function repaired(
  image: DiskImage,
): Promise<{ report: FileLogReport; found: string[]; disk: SimulatedDisk }> {
  const disk = new SimulatedDisk(image);
  const report = await repair(disk);
  const backend = await factoryOn(disk, { mergeDeadRatioMin: 1 }).open(simulatedEnv(4));
  const found = await dump(backend);
  await backend.close();
  return { report, found, disk };
}

function ofId(found: readonly string[], id: string): string[] {
  return found.filter((line) => line.split(/[/=]/)[3] === id);
}

const LOST = [{ file: "MANIFEST", message: "is missing" }];

interface Opened {
  readonly disk: SimulatedDisk;
  readonly factory: FileLogFactory;
  readonly backend: Backend;
}

async function open(disk: SimulatedDisk, segmentBytesMax: number, mergeDeadRatioMin = 0.4): Promise<Opened> {
  const factory = factoryOn(disk, { segmentBytesMax, mergeDeadRatioMin });
  return { disk, factory, backend: await factory.open(simulatedEnv(1)) };
}

/** Segments of the manifest in their order. */
async function ordered(image: DiskImage): Promise<{ number: number; kind: string }[]> {
  const { segments } = await readManifest(await new SimulatedDisk(image).files(false));
  return segments.map(({ number, kind }) => ({ number, kind }));
}

/** Whether one that was merged later, with a higher number, comes before another of the same merge. */
async function isOutOfNumbers(image: DiskImage): Promise<boolean> {
  const merged = (await ordered(image)).filter(({ kind }) => kind === "merged").map(({ number }) => number);
  return merged.some((number, i) => i > 0 && number < merged[i - 1]!);
}

/** A key is deleted and put again in one segment, of which a merge makes several, and another one of the first. */
async function mergedTwice(
  onStep?: (image: DiskImage) => void,
): Promise<{ image: DiskImage; found: string[] }> {
  const disk = new SimulatedDisk();
  let { backend } = await open(disk, 1024 * KIB, 1);
  const write = async (id: string, count: number, bytes = 4000) => {
    for (let seq = 0; seq < count; seq++) await backend.commit({ put: [put("events", id, seq, bytes)] });
  };
  await backend.commit({ put: [put("meta", "k", 0, 8, 1)] });
  await write("old", 260);
  await backend.commit({ delete: [["meta", "k"]] });
  await write("first", 10);
  await write("dies", 110);
  await write("stays", 60);
  await backend.commit({ put: [put("meta", "k", 0, 8, 2)] });
  await write("fill", 80);
  await write("dies", 110, 8);
  await backend.close();
  const opened = await open(disk, 64 * KIB);
  ({ backend } = opened);
  disk.onOperation = () => onStep?.(disk.image());
  await opened.factory.merge();
  disk.onOperation = undefined;
  await backend.commit({ delete: [{ space: "events", id: "first" }] });
  await opened.factory.merge();
  const found = await dump(backend);
  await backend.close();
  return { image: disk.image(), found };
}

test("[FL35] without a manifest, one of several segments of a merge that was merged again stays before the others", async () => {
  const { image, found } = await mergedTwice();
  expect(await isOutOfNumbers(image)).toBe(true);
  expect(ofId(found, "k")).toHaveLength(1);
  const after = await repaired(withManifest(image, undefined));
  expect(after.report.damage).toMatchObject(LOST);
  expect(after.found).toEqual(found);
  const zeros = new Uint8Array(image.get("MANIFEST")!.length);
  expect((await repaired(withManifest(image, zeros))).found).toEqual(found);
});

test("[FL35] what a killed process leaves at any step of a merge into several segments is right without a manifest", async () => {
  const steps: DiskImage[] = [];
  await mergedTwice((image) => steps.push(image));
  const found = (await repaired(steps[0]!)).found;
  expect(ofId(found, "k")).toHaveLength(1);
  expect(steps.length).toBeGreaterThan(30);
  for (const [at, image] of steps.entries()) {
    // Of what each step has written, every third: it takes a look at a whole store.
    if (at % 3 === 0)
      expect((await repaired(withManifest(image, undefined))).found, `step ${at}`).toEqual(found);
  }
});

test("[FL35] what a merge leaves out is superseded by what is durable, where commits alone are not", async () => {
  const disk = new SimulatedDisk();
  const options = { segmentBytesMax: 64 * KIB, mergeDeadRatioMin: 0.3, durability: "process" } as const;
  const factory = factoryOn(disk, options);
  const backend = await factory.open(simulatedEnv(1));
  const fill = async (id: string, count: number) => {
    for (let seq = 0; seq < count; seq++) await backend.commit({ put: [put("events", id, seq, 4000)] });
  };
  await backend.commit({ put: [put("meta", "k", 0, 8, 1)] });
  await fill("old", 16);
  await backend.commit({ delete: [["meta", "k"]] });
  await fill("stays", 8);
  await backend.commit({ put: [put("meta", "k", 0, 8, 2)] });
  await fill("stays-too", 10);
  await backend.commit({ put: [put("meta", "k", 0, 8, 3)], delete: [{ space: "events", id: "stays" }] });
  const lost = crashModels.find(({ keep, namesWithFiles }) => keep === "nothing" && namesWithFiles)!;
  const steps: DiskImage[] = [];
  disk.onOperation = () => steps.push(disk.crash(lost, seededRandom(1)));
  await factory.merge();
  await backend.close();
  const seen = new Set<string>();
  for (const [at, image] of steps.entries()) {
    const opened = await open(new SimulatedDisk(image), 64 * KIB, 1);
    const found = await dump(opened.backend);
    await opened.backend.close();
    for (const line of ofId(found, "k")) seen.add(line);
    expect((await repaired(withManifest(image, undefined))).found, `step ${at}`).toEqual(found);
  }
  expect([...seen]).toEqual(["2", "3"].map((stamp) => `meta///k=0000000${stamp}00000000`));
});

test("[FL35] a commit larger than a segment that was merged twice keeps its records without a manifest", async () => {
  const disk = new SimulatedDisk();
  const { factory, backend } = await open(disk, 128 * KIB, 0.5);
  const other = (seq: number, bytes: number) => backend.commit({ put: [put("events", "other", seq, bytes)] });
  const seqs = Array.from({ length: 100 }, (_, i) => 100 + i);
  await backend.commit({ put: [put("events", "d", 0, 1000)] });
  for (let seq = 0; seq < 70; seq++) await other(seq + 1000, 4 * KIB);
  const large = seqs.map((seq) => put("events", "d", seq, 4 * KIB));
  await backend.commit({ delete: [{ space: "events", id: "d" }], put: large });
  await other(10, 100);
  await other(11, 8 * KIB);
  const dead = seqs.filter((seq) => seq % 2 === 0 || seq < 104);
  await backend.commit({ delete: dead.map((seq) => ["events", "d", seq] as const) });
  await factory.merge();
  await backend.commit({ delete: [{ space: "events", id: "d", from: 100, to: 140 }] });
  await factory.merge();
  const found = await dump(backend);
  await backend.close();
  const image = disk.image();
  expect(await isOutOfNumbers(image)).toBe(true);
  expect(ofId(found, "d")).toHaveLength(30);
  expect((await repaired(withManifest(image, undefined))).found).toEqual(found);
});

test("[FL35] of the segments of a repair one may be merged, and the manifest be lost again", {
  timeout: 120_000,
}, async () => {
  // More than one segment of a repair takes.
  const disk = new SimulatedDisk();
  const { backend } = await open(disk, 64 * KIB, 1);
  const large = async (id: string, kibibytes: number) =>
    backend.commit({ put: [put("events", id, 0, kibibytes * KIB)] });
  await backend.commit({ put: [put("meta", "k", 0, 8, 1)] });
  await large("one", 37);
  await large("two", 23);
  await backend.commit({ delete: [["meta", "k"]] });
  await large("three", 23);
  await large("four", 37);
  await backend.commit({ put: [put("meta", "k", 0, 8, 2)] });
  await backend.close();
  const first = await repaired(withManifest(disk.image(), undefined));
  expect(await ordered(first.disk.image())).toHaveLength(3);
  const again = await open(first.disk, 64 * KIB);
  await again.backend.commit({ delete: ["two", "three"].map((id) => ({ space: "events", id })) });
  await again.factory.merge();
  const found = await dump(again.backend);
  await again.backend.close();
  const image = first.disk.image();
  expect(await isOutOfNumbers(image)).toBe(true);
  expect(found).toHaveLength(3);
  const second = await repaired(withManifest(image, undefined));
  expect(second.report.damage).toMatchObject(LOST);
  expect(second.found).toEqual(found);
});

test("[FL35] what an earlier version merged is replayed by number, and a check names what may be misplaced so", async () => {
  const { image, found } = await mergedTwice();
  const old = withoutRanks(image);
  const opened = await open(new SimulatedDisk(old), 64 * KIB);
  expect(await dump(opened.backend)).toEqual(found);
  await opened.backend.close();
  const { report, disk } = await repaired(withManifest(old, undefined));
  const merged = (await ordered(image)).filter(({ kind }) => kind === "merged");
  const misplaced = segmentName(Math.max(...merged.map(({ number }) => number)));
  const message = "nothing tells for sure where it comes in the order: it may delete what was put after it";
  expect(report.damage).toMatchObject([...LOST, { file: misplaced, position: 0, message }]);
  const kept = disk.image().get(report.damage[1]!.quarantine!)!;
  expect(Buffer.compare(kept, old.get(misplaced)!)).toBe(0);
  expect(report.documents).toEqual(["k"]);
  // One merge of them all, and the order is known.
  const later = await open(new SimulatedDisk(old), 64 * KIB);
  await later.factory.merge({ force: true });
  await later.backend.close();
  const after = await repaired(withManifest(later.disk.image(), undefined));
  expect(after.report.damage).toMatchObject(LOST);
  expect(after.found).toEqual(found);
});

test("[FL35] a flipped bit of a rank is harmless, or a repair without a manifest says that it is not sure", async () => {
  const { image, found } = await mergedTwice();
  const merged = (await ordered(image)).filter(({ kind }) => kind === "merged");
  const name = segmentName(Math.max(...merged.map(({ number }) => number)));
  for (let bit = 64 * 8; bit < 80 * 8; bit += 5) {
    const bytes = image.get(name)!.slice();
    bytes[bit >> 3]! ^= 1 << (bit & 7);
    const flipped = new Map([...image, [name, bytes] as const]);
    const { backend } = await open(new SimulatedDisk(flipped), 64 * KIB, 1);
    expect(await dump(backend), `bit ${bit}`).toEqual(found);
    await backend.close();
    const { damage } = (await repaired(withManifest(flipped, undefined))).report;
    expect(
      damage.map(({ file }) => file),
      `bit ${bit}`,
    ).toEqual(["MANIFEST", name]);
  }
});

test("[FL35] without a manifest too a commit that a crash tore goes whole, where a merge wrote more frames than there are commits", async () => {
  const disk = new SimulatedDisk();
  const { factory, backend } = await open(disk, 1024 * KIB);
  const many = Array.from({ length: 100 }, (_, seq) => put("events", "d", seq, 30 * KIB));
  await backend.commit({ put: many });
  await backend.commit({ delete: [{ space: "events", id: "d", from: 50 }] });
  await factory.merge();
  const found = await dump(backend);
  expect((await ordered(disk.image())).filter(({ kind }) => kind === "merged")).toHaveLength(2);
  await backend.commit({ put: [put("events", "e", 0, 2000, 1), put("events", "e", 1, 2000, 1)] });
  const image = disk.image();
  const active = segmentName((await ordered(image)).at(-1)!.number);
  const torn = image.get(active)!.slice();
  torn.fill(0, Math.floor(torn.findLastIndex((byte) => byte !== 0) / 512) * 512);
  const { report, found: left } = await repaired(
    withManifest(new Map([...image, [active, torn]]), undefined),
  );
  expect(left).toEqual(found);
  expect(report.damage).toMatchObject(LOST);
});

test("[FL35] ranks ascend within their bounds, share the room by bytes, and are refused where there is none", () => {
  const random = seededRandom(3);
  for (let round = 0; round < 2000; round++) {
    const sizes = Array.from({ length: 1 + random.int(8) }, () => 1 + random.int(2 ** random.int(30)));
    const from = BigInt(random.int(1000)) << BigInt(random.int(40));
    const room = random.int(2) === 0 ? BigInt(random.int(12)) : BigInt(random.int(2 ** 30)) << 20n;
    const ranks = ranksBetween(from, from + room, sizes);
    if (room < sizes.length) expect(ranks).toBeUndefined();
    else {
      expect(ranks![0]).toBe(from);
      const bounds = [...ranks!, from + room];
      for (const [i, size] of sizes.entries()) {
        const width = bounds[i + 1]! - bounds[i]!;
        expect(width).toBeGreaterThan(0n);
        const fair = (Number(room) * size) / sizes.reduce((sum, each) => sum + each, 0);
        expect(Math.abs(Number(width) - fair)).toBeLessThanOrEqual(sizes.length + 2 + fair / 1e9);
      }
    }
  }
  expect(ranksBetween(5n, 5n, [])).toEqual([]);
});

const IDS = ["a", "b", "c", "d", "e"];

/** Few keys that live and die, so that what a segment deletes is often put again in the next. */
function randomBatch(random: SeededRandom, stamp: number): Batch {
  const id = random.pick(IDS);
  const bytes = () => (random.int(30) === 0 ? 30 * KIB + random.int(60 * KIB) : 200 + random.int(8000));
  const entries = new Map<number, Entry>();
  const isLarge = random.int(12) === 0;
  for (let left = isLarge ? 30 + random.int(30) : 1 + random.int(4); left > 0; left--) {
    const seq = random.int(60);
    entries.set(seq, put("events", id, seq, bytes(), stamp));
  }
  const puts = [...entries.values()];
  const meta = ["meta", random.pick(IDS)] as const;
  const from = random.int(60);
  const kind = random.int(40);
  if (kind === 0) return { delete: [{ space: "events", id }] };
  if (kind < 4) return { delete: [{ space: "events", id, from, to: from + 1 + random.int(25) }], put: puts };
  if (kind < 14) return { delete: [meta, ["events", id, from]], put: isLarge ? puts : [] };
  return { put: kind < 26 ? [put("meta", meta[1], 0, 8, stamp), ...puts] : puts };
}

/** Ranks of what has frames ascend in the order of the manifest. */
async function expectRanks(image: DiskImage, what: string): Promise<void> {
  let last = -1n;
  for (const { number } of await ordered(image)) {
    const bytes = image.get(segmentName(number))!;
    const { kind, sequence, rank } = decodeSegmentHeader(bytes)!;
    if (kind === "merged") expect(rank, `${what}: rank of ${number}`).toBeDefined();
    if (bytes.subarray(4096, 4128).every((byte) => byte === 0)) continue;
    const at = rank ?? BigInt(sequence) << 32n;
    expect(at > last, `${what}: ${number} comes after the one before it`).toBe(true);
    last = at;
  }
}

interface Seen {
  repairs: number;
  outOfNumbers: number;
  outdated: number;
  unsure: number;
  wrong: number;
}

/**
 * Random commits, merges and openings beside a naive twin; now and then the manifest is lost, or one from before is put
 * back, and what a repair makes of it is compared, and often gone on with. `forgets`: so are ranks, as if an earlier
 * version had written what there is then; what a repair gets wrong it must have called unsure.
 */
async function run(seed: number, { forgets = false }: { forgets?: boolean } = {}): Promise<Seen> {
  const random = seededRandom(seed);
  const seen: Seen = { repairs: 0, outOfNumbers: 0, outdated: 0, unsure: 0, wrong: 0 };
  const naive = new NaiveStore();
  let disk = new SimulatedDisk();
  let manifests: Uint8Array[] = [];
  const size = () => KIB * random.pick([64, 64, 80, 150, 500, 1024]);
  const openNow = async (image: DiskImage) => {
    disk = new SimulatedDisk(image);
    disk.onOperation = ({ kind, name }) => {
      if (kind === "rename" && name.endsWith(" MANIFEST")) manifests.push(disk.image().get("MANIFEST")!);
    };
    return open(disk, size(), random.pick([0.1, 0.3, 0.5, 1]));
  };
  let opened = await openNow(new Map());
  // What stays: so there is mostly something older than what is merged, and deletions are kept.
  const base = { put: Array.from({ length: 60 }, (_, seq) => put("events", "base", seq, 8000)) };
  naive.commit(base);
  await opened.backend.commit(base);
  for (let step = 0; step < 300; step++) {
    const what = `seed ${seed}, step ${step}`;
    const kind = random.int(40);
    if (kind < 32) {
      const batch = randomBatch(random, step);
      naive.commit(batch);
      await opened.backend.commit(batch);
      // Merging in the background has its turns.
      for (let turns = random.int(6); turns > 0; turns--)
        await new Promise((resolve) => setImmediate(resolve));
    } else if (kind < 36) {
      await opened.factory.merge({ force: random.int(12) === 0 });
    } else {
      await opened.backend.close();
      let image: DiskImage = disk.image();
      if (forgets && random.int(3) === 0) image = withoutRanks(image, () => random.int(3) > 0);
      if (!forgets) await expectRanks(image, what);
      if (kind > 37 && (await ordered(image)).length > 0) {
        const older = random.int(3) === 0 && !forgets ? random.pick(manifests) : undefined;
        const { report, found, disk: mended } = await repaired(withManifest(image, older));
        seen.repairs++;
        seen.outOfNumbers += (await isOutOfNumbers(image)) ? 1 : 0;
        seen.outdated += report.damage.some(({ message }) => message.includes("older")) ? 1 : 0;
        const isUnsure = report.damage.some(({ message }) => message.startsWith("nothing tells"));
        seen.unsure += isUnsure ? 1 : 0;
        const isRight = found.join() === lines(naive).join();
        if (!isRight) seen.wrong++;
        if (!isUnsure) expect(found, what).toEqual(lines(naive));
        if (isRight && random.int(6) === 0) {
          image = mended.image();
          // Those of a store that a repair has ended would bring back segments that are gone.
          manifests = [image.get("MANIFEST")!];
        }
      }
      opened = await openNow(image);
      expect(await dump(opened.backend), what).toEqual(lines(naive));
    }
  }
  await opened.backend.close();
  return seen;
}

test("[FL35] after any merges and repairs a repair without a manifest, or with one from before, gives what was there", {
  timeout: 300_000,
}, async () => {
  const all: Seen[] = [];
  for (let seed = 1; seed <= 4; seed++) all.push(await run(seed));
  const sum = (key: keyof Seen) => all.reduce((total, each) => total + each[key], 0);
  expect(sum("wrong")).toBe(0);
  expect(sum("unsure")).toBe(0);
  expect(sum("repairs")).toBeGreaterThan(40);
  expect(sum("outOfNumbers")).toBeGreaterThan(8);
  expect(sum("outdated")).toBeGreaterThan(5);
});

test("[FL35] where ranks are not there, a repair that gets the order wrong has said that it is not sure", {
  timeout: 300_000,
}, async () => {
  const all: Seen[] = [];
  for (let seed = 103; seed <= 106; seed++) all.push(await run(seed, { forgets: true }));
  const sum = (key: keyof Seen) => all.reduce((total, each) => total + each[key], 0);
  expect(sum("unsure")).toBeGreaterThan(3);
  expect(sum("wrong")).toBeGreaterThan(0);
});

/** Commits of which a merge makes several segments, merges, and deletions of what is put again. */
function largeSteps(random: SeededRandom): Step[] {
  return Array.from({ length: 26 }, (_, i): Step => {
    const kind = random.int(12);
    if (kind < 3) return { merge: random.int(3) === 0 ? "all" : "some" };
    const meta = ["meta", random.pick(["a", "b", "c"])] as const;
    const from = random.int(30);
    if (kind < 5) return { batch: { delete: [meta, { space: "events", id: "d", from, to: 30 + from }] } };
    const puts = [
      put("meta", meta[1], 0, 8, i),
      put("events", "d", random.int(60), 500 + random.int(9000), i),
    ];
    if (kind >= 7) return { batch: { put: puts } };
    const seqs = [...new Set(Array.from({ length: 40 }, () => random.int(60)))];
    const large = seqs.map((seq) => put("events", "d", seq, 3000, i));
    return {
      batch: { delete: [{ space: "events", id: "d", from: 0, to: 2 * from }], put: [puts[0]!, ...large] },
    };
  });
}

test("[FL35] what a crash leaves of a merge beside its sources changes nothing, also without a manifest", {
  timeout: 300_000,
}, async () => {
  let looked = 0;
  for (let seed = 1; seed <= 3; seed++) {
    await explore(seed, crashModels, {
      drawn: largeSteps(seededRandom(seed)),
      options: { mergeDeadRatioMin: 0.3 },
      budget: 300,
      replay: "npm run unit -- packages/file/test/order.test.ts -t crash",
      each: async (image) => {
        if (!image.has("MANIFEST") || (await ordered(image)).length === 0) return;
        const opened = await open(new SimulatedDisk(image), 64 * KIB, 1);
        const found = await dump(opened.backend);
        await opened.backend.close();
        looked++;
        expect((await repaired(withManifest(image, undefined))).found).toEqual(found);
      },
    });
  }
  expect(looked).toBeGreaterThan(400);
});

test("[FL35] a loss of power while opening takes away what a merge left beside it brings back nothing, also without a manifest", {
  timeout: 120_000,
}, async () => {
  let looked = 0;
  for (let seed = 1; seed <= 2; seed++) {
    const random = seededRandom(seed);
    const disk = new SimulatedDisk();
    const { factory, backend } = await open(disk, 64 * KIB, seed === 1 ? 1 : 0.3);
    for (let i = 0; i < 60; i++) {
      const puts = [
        put("meta", random.pick(IDS), 0, 8, i),
        put("events", "f", random.int(10), 3000 + random.int(3000), i),
      ];
      await backend.commit({ delete: [["meta", random.pick(IDS)]], put: puts });
    }
    const steps: DiskImage[] = [];
    disk.onOperation = () => steps.push(disk.image());
    await factory.merge({ force: true });
    disk.onOperation = undefined;
    await backend.close();
    for (const [at, image] of steps.entries()) {
      if (at % 4 !== 0) continue;
      const opening = new SimulatedDisk(image);
      const left: DiskImage[] = [];
      opening.onOperation = ({ kind }) => {
        for (const model of crashModels)
          if (kind === "remove" && model.keep === "subset") left.push(opening.crash(model, random));
      };
      const opened = await open(opening, 64 * KIB, 1);
      const found = await dump(opened.backend);
      await opened.backend.close();
      for (const each of left) {
        looked++;
        expect((await repaired(withManifest(each, undefined))).found, `seed ${seed}`).toEqual(found);
      }
    }
  }
  expect(looked).toBeGreaterThan(200);
});

test("[FL28] what a repair that failed has taken away again brings back no older value, where a loss of power leaves some of it", async () => {
  const disk = new SimulatedDisk();
  const { backend } = await open(disk, 64 * KIB, 1);
  await backend.commit({ put: [put("meta", "k", 0, 8, 1)] });
  for (let seq = 0; seq < 20; seq++) await backend.commit({ put: [put("events", "f", seq, 4000)] });
  await backend.commit({ put: [put("meta", "k", 0, 8, 2)] });
  const found = await dump(backend);
  await backend.close();
  const lost = withManifest(disk.image(), undefined);
  let failed = 0;
  for (let at = 0; at === failed; at++) {
    const failing = new SimulatedDisk(lost);
    let syncs = 0;
    failing.fault = ({ kind }) => (kind === "sync-names" && syncs++ === at ? failure("EIO") : undefined);
    await repair(failing).catch(() => failed++);
    failing.fault = undefined;
    const random = seededRandom(at + 1);
    for (const model of crashModels) {
      for (let times = 0; times < 10; times++) {
        const image = withManifest(failing.crash(model, random), undefined);
        expect((await repaired(image)).found, `${at}, ${model.title}`).toEqual(found);
      }
    }
  }
  expect(failed).toBeGreaterThan(2);
});

test("[FL28] a torn commit stays away where a segment lies behind it that the disk had no room to name", async () => {
  const { disk, factory, backend } = await open(new SimulatedDisk(), 64 * KIB, 1);
  const commit = (seq: number, bytes: number) => backend.commit({ put: [put("events", "a", seq, bytes, 1)] });
  for (let seq = 0; seq < 5; seq++) await commit(seq, 2000);
  disk.fault = ({ kind, name }) =>
    kind === "create" && name !== segmentName(2) ? failure("ENOSPC") : undefined;
  await expect(factory.merge({ force: true })).rejects.toMatchObject({ code: "STORE_FULL" });
  disk.fault = undefined;
  expect(decodeSegmentHeader(disk.image().get(segmentName(2))!)).toMatchObject({ kind: "log", sequence: 5 });
  for (const more of [0, 1]) {
    if (more > 0) await commit(5, 2000);
    const found = await dump(backend);
    const torn: DiskImage[] = [];
    disk.onOperation = ({ kind }) => {
      if (kind === "write") torn.push(disk.image());
    };
    const entries = ["b", "c"].map((id) => put("events", id, more, 3000, 2));
    await backend.commit({ put: entries });
    disk.onOperation = undefined;
    await backend.commit({ delete: entries.map(({ key }) => key) });
    const image = new Map(withManifest(torn[0]!, undefined));
    const bytes = image.get(segmentName(1))!.slice();
    const used = bytes.findLastIndex((byte) => byte !== 0) + 1;
    image.set(segmentName(1), bytes.fill(0, used - 600, used));
    const { report, found: left } = await repaired(image);
    expect(report.damage).toMatchObject(LOST);
    expect(left, `${more} more`).toEqual(found);
  }
  await backend.close();
});
