/**
 * Errors of the disk at each operation of a run, once and for ever, while it runs and while the next open recovers; and
 * bits of a small closed store flipped, each time opening and reading the whole store.
 *
 * A long run of the laboratory tries COPPICE_LAB_COUNT runs (default 6), and flips every bit (default: one of each 7).
 */

import { crashModels, type DiskImage, failure, SimulatedDisk } from "@coppice/file/testing";
import { isCoppiceError } from "coppice";
import { seededRandom, simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import { begin, LONG, note, repetitions, SEED, TEST_MS_MAX } from "../../../test/crash/laboratory/effort.js";
import type { OpenFile, OpenFiles } from "../src/files.js";
import {
  dump,
  factoryOn,
  overwritingSteps,
  type Progress,
  play,
  randomSteps,
  statesOf,
  verify,
  without,
} from "./crash-tools.js";

const SEEDS = 6;
const FIRST = process.env.COPPICE_LAB_SEED === undefined ? 1 : SEED;
const BIT_STEP = LONG ? 1 : 7;
const CODES = ["EIO", "ENOSPC", "EMFILE"] as const;

test("[FL9] an error at any operation, once or for ever, loses nothing acknowledged", {
  timeout: 300_000 + TEST_MS_MAX,
}, async () => {
  const counts = { runs: 0, states: 0 };
  for (const i of repetitions(SEEDS)) {
    const seed = FIRST + i;
    counts.runs++;
    // One of six makes new segments of old ones.
    const drawn = seededRandom(seed);
    const steps = seed % 6 === 0 ? overwritingSteps(drawn, 40) : randomSteps(drawn, 30);
    const states = statesOf(steps);
    const calm = new SimulatedDisk();
    await play(calm, steps, { acknowledged: 0, submitted: 0 });
    const random = seededRandom(seed);
    for (let at = 0; at < calm.operationCount; at += 1 + random.int(3)) {
      for (const [sticky, ahead] of [
        [false, false],
        [true, false],
        [false, true],
      ] as const) {
        const disk = new SimulatedDisk();
        const code = random.pick(CODES);
        const progress: Progress = { acknowledged: 0, submitted: 0 };
        disk.fault = ({ index }) => (index === at || (sticky && index > at) ? failure(code) : undefined);
        const how = `${sticky ? " and ever after" : ""}${ahead ? ", commits called ahead" : ""}`;
        const what = `seed ${seed}, ${code} at operation ${at}${how}`;
        await play(disk, steps, progress, { ahead }).catch((error: unknown) => {
          if (!isCoppiceError(error)) throw new Error(`${what}: an error without a name`, { cause: error });
        });
        const { refused } = progress;
        const held = refused === undefined ? states : statesOf(without(steps, refused));
        for (const image of [disk.image(), disk.crash(random.pick(crashModels), random)]) {
          await verify(image, held, progress).catch((error: Error) => {
            throw new Error(`${what}: ${error.message}`, { cause: error });
          });
          counts.states++;
        }
      }
    }
  }
  note("errors-file", counts);
  expect(counts.states).toBeGreaterThan(counts.runs * 100);
});

test("[FL9] an error while recovering, and a crash there, change nothing of what the next open finds", {
  timeout: 120_000 + TEST_MS_MAX,
}, async () => {
  const counts = { runs: 0, states: 0 };
  for (const i of repetitions(SEEDS)) {
    const seed = FIRST + i;
    counts.runs++;
    const steps = randomSteps(seededRandom(seed), 25);
    const states = statesOf(steps);
    const disk = new SimulatedDisk();
    const random = seededRandom(seed + 100);
    const progress = { acknowledged: 0, submitted: 0 };
    const torn: { image: DiskImage; acknowledged: number; submitted: number }[] = [];
    disk.onOperation = ({ kind }) => {
      if (kind === "write" && random.int(3) === 0) {
        torn.push({ image: disk.crash(random.pick(crashModels), random), ...progress });
      }
    };
    await play(disk, steps, progress);
    for (const { image, ...at } of torn) {
      for (let operation = 0; operation < 12; operation++) {
        const recovering = new SimulatedDisk(image);
        recovering.fault = ({ index }) => (index === operation ? failure("EIO") : undefined);
        const opened = await factoryOn(recovering)
          .open(simulatedEnv(4))
          .catch((error: unknown) => {
            if (!isCoppiceError(error, "UNAVAILABLE")) throw error;
            return undefined;
          });
        for (const left of [recovering.image(), recovering.crash(random.pick(crashModels), random)]) {
          await verify(left, states, at);
          counts.states++;
        }
        await opened?.close().catch(() => undefined);
        if (recovering.operationCount <= operation) break;
      }
    }
  }
  note("errors-recovering-file", counts);
  expect(counts.states).toBeGreaterThan(counts.runs * 20);
});

/** A closed store with two log segments, a merged one, hints, deletes and values of zeros. */
async function closedStore(): Promise<{ image: DiskImage; lines: string[] }> {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk, { mergeDeadRatioMin: 1 });
  let backend = await factory.open(simulatedEnv(1));
  const random = seededRandom(3);
  for (let seq = 0; seq < 12; seq++) {
    const value = seq % 3 === 0 ? new Uint8Array(1200) : random.bytes(60 + 20 * seq);
    await backend.commit({ put: [{ key: ["events", "d", seq], value }] });
    if (seq === 6) await backend.commit({ delete: [{ space: "events", id: "d", from: 1, to: 3 }] });
    if (seq === 4 || seq === 8) await factory.merge({ force: true });
  }
  await backend.close();
  backend = await factory.open(simulatedEnv(2));
  const lines = await dump(backend);
  await backend.close();
  return { image: disk.image(), lines };
}

test("[FL10] every flipped bit of a closed store is found out or harmless", {
  timeout: 600_000 + TEST_MS_MAX,
}, async () => {
  begin();
  const { image, lines } = await closedStore();
  expect([...image.keys()].sort()).toEqual(expect.arrayContaining(["00000005.hint", "MANIFEST"]));
  const tally = { found: 0, harmless: 0 };
  for (const [name, bytes] of image) {
    let used = bytes.length;
    while (used > 0 && bytes[used - 1] === 0) used--;
    for (let bit = 0; bit < used * 8 + 64; bit += BIT_STEP) {
      if (bit >> 3 >= bytes.length) break;
      // What lies between the header of a segment and its frames is zero and unused: a sample of it will do.
      if (name.endsWith(".seg") && bit >> 3 > 100 && bit >> 3 < 4000 && bit % 11 !== 0) continue;
      const flipped = bytes.slice();
      flipped[bit >> 3]! ^= 1 << (bit & 7);
      const outcome = await look(new Map([...image, [name, flipped]]), lines);
      if (outcome === "wrong")
        throw new Error(`a flipped bit ${bit} of ${name} gives another store, without an error`);
      tally[outcome]++;
    }
  }
  note("bits-small-file", { bits: tally.found + tally.harmless, ...tally });
  expect(tally.found).toBeGreaterThan(3000);
  expect(tally.harmless).toBeGreaterThan(100);
});

test("[FL10] sectors of zeros, files cut, missing, swapped or repeated: found out or harmless", {
  timeout: 120_000,
}, async () => {
  const { image, lines } = await closedStore();
  const names = [...image.keys()];
  const changed: DiskImage[] = [];
  for (const name of names) {
    const bytes = image.get(name)!;
    for (let at = 0; at < Math.min(bytes.length, 12_000); at += 512) {
      const zeroed = bytes.slice();
      zeroed.fill(0, at, at + 512);
      changed.push(new Map([...image, [name, zeroed]]));
      changed.push(new Map([...image, [name, bytes.slice(0, at)]]));
    }
    changed.push(new Map([...image].filter(([each]) => each !== name)));
    for (const other of names) changed.push(new Map([...image, [name, image.get(other)!]]));
  }
  const tally = { found: 0, harmless: 0, wrong: 0 };
  for (const each of changed) tally[await look(each, lines)]++;
  expect(tally.wrong).toBe(0);
  expect(tally.found).toBeGreaterThan(30);
});

/** A store as a killed process leaves it: the log is not closed, and goes on in zeros. */
async function openStore(
  lastBytes: number,
  durability: "power" | "process" = "power",
): Promise<{ image: DiskImage; ends: number[]; lines: string[] }> {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk, { durability });
  const backend = await factory.open(simulatedEnv(1));
  const random = seededRandom(6);
  const ends: number[] = [];
  for (const [seq, length] of [200, 700, lastBytes].entries()) {
    await backend.commit({ put: [{ key: ["events", "d", seq], value: random.bytes(length) }] });
    ends.push(usedOf(disk.image().get("00000001.seg")!));
  }
  return { image: disk.image(), ends, lines: await dump(backend) };
}

function usedOf(bytes: Uint8Array): number {
  let used = bytes.length;
  while (used > 0 && bytes[used - 1] === 0) used--;
  return used;
}

test("[FL10] every flipped bit of a log that was never closed is found out or harmless, its last frame's too", {
  timeout: 300_000,
}, async () => {
  for (const [lastBytes, step, durability] of [
    [60, 1, "power"],
    [1500, 11, "power"],
    [60, 1, "process"],
  ] as const) {
    const { image, ends, lines } = await openStore(lastBytes, durability);
    const bytes = image.get("00000001.seg")!;
    const tally = { found: 0, harmless: 0, wrong: 0 };
    const last = { found: 0, harmless: 0, wrong: 0 };
    for (let bit = 4096 * 8; bit < (ends[2]! + 64) * 8; bit += bit < ends[1]! * 8 ? 7 : step) {
      const flipped = bytes.slice();
      flipped[bit >> 3]! ^= 1 << (bit & 7);
      const outcome = await look(new Map([...image, ["00000001.seg", flipped]]), lines, durability);
      tally[outcome]++;
      if (bit >= ends[1]! * 8 && bit < ends[2]! * 8) last[outcome]++;
    }
    expect(tally.wrong).toBe(0);
    expect(last.found).toBeGreaterThan(500);
    expect(last.found / (last.found + last.harmless)).toBeGreaterThan(0.95);
  }
});

test("[FL22] of a log that was never closed only zeros up to its end pass for a torn commit, and take what they cover", async () => {
  const { image, ends, lines } = await openStore(1500);
  const bytes = image.get("00000001.seg")!;
  const zeroed = (from: number, to: number): DiskImage => {
    const changed = bytes.slice();
    changed.fill(0, from, to);
    return new Map([...image, ["00000001.seg", changed]]);
  };
  for (let from = 4096; from < ends[2]!; from += 37) {
    const whole = ends.filter((end) => end <= from).length;
    expect(await look(zeroed(from, ends[2]!), lines.slice(0, whole)), `from ${from}`).toBe("harmless");
  }
  for (const from of [4096, 4608, ends[0]!])
    expect(await look(zeroed(from, from + 512), lines)).toBe("found");
});

/** `wrong`: it opens, reads without an error, and is not what was stored. */
async function look(
  image: DiskImage,
  lines: readonly string[],
  durability: "power" | "process" = "power",
): Promise<"found" | "harmless" | "wrong"> {
  try {
    const factory = factoryOn(new SimulatedDisk(image), { createIfMissing: false, durability });
    const backend = await factory.open(simulatedEnv(3));
    const found = await dump(backend);
    await backend.close();
    return found.join() === lines.join() ? "harmless" : "wrong";
  } catch (error) {
    if (!isCoppiceError(error)) throw error;
    return "found";
  }
}

test("[FL3] however often the manifest finds no room, one segment lies ready, and each file is closed once", async () => {
  const disk = new SimulatedDisk();
  const open = new Set<OpenFile>();
  const files: OpenFiles = async (create) => {
    const found = await disk.files(create);
    const openOne = found.open.bind(found);
    found.open = async (name, mode) => {
      const file = await openOne(name, mode);
      open.add(file);
      file.close = () => {
        if (!open.delete(file)) throw new Error(`${name} was closed twice`);
      };
      return file;
    };
    return found;
  };
  const backend = await factoryOn({ files }).open(simulatedEnv(1));
  const commit = (seq: number) =>
    backend.commit({ put: [{ key: ["events", "d", seq], value: new Uint8Array(100) }] });
  disk.fault = ({ kind, name }) =>
    kind === "write" && name === "MANIFEST.next" ? failure("ENOSPC") : undefined;
  await expect(commit(0)).rejects.toMatchObject({ code: "STORE_FULL" });
  const names = [...disk.image().keys()];
  for (let seq = 1; seq < 4; seq++) await expect(commit(seq)).rejects.toMatchObject({ code: "STORE_FULL" });
  expect([...disk.image().keys()]).toEqual(names);
  expect(open.size).toBe(1);
  await backend.close();
  expect(open.size).toBe(0);
  expect([...disk.image().keys()].filter((name) => name.endsWith(".seg"))).toEqual([]);
});
