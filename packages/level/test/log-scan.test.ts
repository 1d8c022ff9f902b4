/** Telling damage to a LevelDB log from its torn end, on logs that LevelDB wrote. */

import { readdir, readFile, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { levelBackend } from "@coppice/level";
import { systemEnv } from "coppice";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { bytes, entriesOf, removeDirectories, temporaryDirectory } from "../../../test/support/stores.js";
import { findDamage } from "../src/log-scan.js";

const env = systemEnv();
const events = { space: "events", id: "doc" };
let pristine: Uint8Array;

/** Commits of these sizes, one after another. Resolves with the path of the log that holds them. */
async function write(location: string, sizes: readonly number[]): Promise<string> {
  const backend = await levelBackend(location).open(env);
  for (const [n, size] of sizes.entries()) {
    await backend.commit({ put: [{ key: ["events", "doc", n], value: bytes(size, n % 251) }] });
  }
  await backend.close();
  const log = (await readdir(location)).find((name) => name.endsWith(".log"));
  return join(location, log!);
}

/** A copy in which the bytes `[from, to)` have been changed. */
function changed(log: Uint8Array, from: number, to: number, change: (byte: number) => number): Uint8Array {
  const copy = new Uint8Array(log);
  for (let at = from; at < to; at++) copy[at] = change(copy[at]!);
  return copy;
}

const flipped = (log: Uint8Array, at: number): Uint8Array => changed(log, at, at + 1, (byte) => byte ^ 0x10);

beforeAll(async () => {
  // Blocks of 32 KiB: whole commits, commits over a border, one over several blocks, a short one at the end.
  const sizes = [
    ...Array.from({ length: 30 }, () => 1500),
    100_000,
    ...Array.from({ length: 30 }, () => 1100),
    40,
  ];
  pristine = await readFile(await write(await temporaryDirectory(), sizes));
  expect(pristine.length).toBeGreaterThan(5 * 32_768);
});
afterAll(removeDirectories);

describe("the scan", () => {
  test("[BK52] a log that LevelDB wrote has no damage, wherever a crash cuts it", () => {
    expect(findDamage(pristine)).toBeUndefined();
    for (let end = 0; end < pristine.length; end += 211) {
      expect(findDamage(pristine.subarray(0, end))).toBeUndefined();
    }
    const zeros = new Uint8Array(70_000);
    expect(findDamage(Uint8Array.from([...pristine, ...zeros]))).toBeUndefined();
  });

  test("[BK52] a flipped bit anywhere before the last commit is found where it is", () => {
    const last = pristine.length - 40 - 100;
    for (let at = 0; at < last; at += 241) {
      const found = findDamage(flipped(pristine, at));
      expect(found).toBeLessThanOrEqual(at);
      expect(found).toBeGreaterThan(at - 32_768);
    }
    expect(findDamage(flipped(pristine, pristine.length - 1))).toBeUndefined();
  });

  test("[BK52] a hole of zeros is damage when commits follow it", () => {
    for (let at = 0; at < pristine.length - 8192; at += 4096) {
      expect(findDamage(changed(pristine, at, at + 4096, () => 0))).toBeDefined();
    }
  });

  test("[BK52] of a large last commit any part may be missing", async () => {
    const log = await readFile(await write(await temporaryDirectory(), [500, 500, 150_000]));
    for (let at = 1200; at < log.length - 512; at += 4099) {
      expect(findDamage(changed(log, at, at + 512, (byte) => byte ^ 0xff))).toBeUndefined();
    }
  });
});

describe("opening", () => {
  test("[BK52] a damaged log is CORRUPT and stays as it is; without the promise of power it opens", async () => {
    const location = await temporaryDirectory();
    const log = await write(
      location,
      Array.from({ length: 40 }, () => 1500),
    );
    const good = await readFile(log);
    await writeFile(log, flipped(good, 20_000));
    const refused = levelBackend(location).open(env);
    await expect(refused).rejects.toMatchObject({ code: "CORRUPT", details: { location } });
    expect(await readFile(log)).toEqual(Buffer.from(flipped(good, 20_000)));

    await writeFile(log, good);
    const whole = await levelBackend(location).open(env);
    expect((await entriesOf(whole, events)).length).toBe(40);
    await whole.close();

    const second = await temporaryDirectory();
    const damaged = await write(
      second,
      Array.from({ length: 40 }, () => 1500),
    );
    await writeFile(damaged, flipped(good, 20_000));
    const relaxed = await levelBackend(second, { durability: "process" }).open(env);
    // This is what LevelDB does when nobody looks: it opens, and commits are gone.
    expect((await entriesOf(relaxed, events)).length).toBeLessThan(40);
    await relaxed.close();
  });

  test("[BK52] a torn end opens with every commit before it, whole", async () => {
    for (const cut of [1, 700, 1542, 1543, 20_000]) {
      const location = await temporaryDirectory();
      const log = await write(
        location,
        Array.from({ length: 40 }, () => 1500),
      );
      const { length } = await readFile(log);
      await truncate(log, length - cut);
      const backend = await levelBackend(location).open(env);
      const entries = await entriesOf(backend, events);
      expect(entries.length).toBeGreaterThanOrEqual(39 - Math.floor(cut / 1543));
      expect(entries.length).toBeLessThan(40);
      entries.forEach(({ value }, n) => {
        expect(value).toEqual(bytes(1500, n));
      });
      await backend.close();
    }
  });
});
