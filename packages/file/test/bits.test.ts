/**
 * Every bit of a closed store of 1 MiB flipped: found out or harmless, never another store without an error.
 *
 * Opening and reading a mebibyte for each of nine million bits would take days, so the code that reads the place of
 * a bit is run on it alone (`bit-tools.ts`). Of a sample the whole store is opened and read, with hints and without,
 * and must come to the same verdict; the manifest is always judged so.
 *
 * An ordinary run takes one bit of each 4,099; a long one of the laboratory takes all of them.
 */

import { SimulatedDisk } from "@coppice/file/testing";
import { seededRandom, simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import { begin, LONG, note, TEST_MS_MAX } from "../../../test/crash/laboratory/effort.js";
import { FlippedStore } from "./bit-tools.js";
import { dump, factoryOn } from "./crash-tools.js";

const STEP = LONG ? 1 : 4099;
/** One of so many bits that are looked at is looked at with the whole store too. */
const SAMPLE = LONG ? 20_011 : 53;
const OPTIONS = { segmentBytesMax: 256 * 1024, mergeDeadRatioMin: 1 };

/** Log segments, merged ones, hints, overwritten and deleted keys, values of zeros, a log that is almost full. */
async function sealedStore(): Promise<FlippedStore> {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk, OPTIONS);
  const backend = await factory.open(simulatedEnv(1));
  const random = seededRandom(12);
  for (let seq = 0; bytesOf(disk) < 1024 * 1024 || room(disk) > 2000; seq++) {
    const id = random.pick(["a", "b", "é"]);
    const length = room(disk) < 20_000 ? 100 : random.pick([0, 30, 100, 400, 1500, 6000]);
    const value = random.int(6) === 0 ? new Uint8Array(length) : random.bytes(length);
    await backend.commit({
      put: [
        { key: ["events", id, seq], value },
        ...(random.int(4) === 0 ? [{ key: ["meta", id] as const, value: random.bytes(90) }] : []),
      ],
      ...(seq % 97 === 96 ? { delete: [{ space: "events", id, from: seq - 60, to: seq - 40 }] } : {}),
    });
    if (seq === 150 || seq === 300) await factory.merge({ force: true });
  }
  await backend.close();
  const again = await factoryOn(disk, OPTIONS).open(simulatedEnv(2));
  const lines = await dump(again);
  await again.close();
  return FlippedStore.of(disk.image(), lines, OPTIONS);
}

function bytesOf(disk: SimulatedDisk): number {
  return disk.names().reduce((sum, name) => sum + disk.node(name)!.size, 0);
}

/** What is left of the log's last segment; another one may lie ready behind it, all zeros. */
function room(disk: SimulatedDisk): number {
  const names = disk.names().filter((name) => name.endsWith(".seg"));
  for (const name of names.sort().reverse()) {
    const { content, size } = disk.node(name)!;
    let used = size;
    while (used > 0 && content[used - 1] === 0) used--;
    if (used > 0) return size - used;
  }
  return Number.POSITIVE_INFINITY;
}

test("[FL10] every flipped bit of a closed store of 1 MiB is found out or harmless, never another store", {
  timeout: 600_000 + TEST_MS_MAX,
}, async () => {
  begin();
  const store = await sealedStore();
  const counts = { bits: 0, found: 0, foundByCheck: 0, harmless: 0, wholeStores: 0 };
  for (const [name, bytes] of [...store.image].sort()) {
    for (let bit = 0; bit < bytes.length * 8; bit += name === "MANIFEST" && !LONG ? 211 : STEP) {
      const verdict = await store.judge(name, bit);
      counts.bits++;
      if (verdict.hinted === "found") counts.found++;
      // No value lies there, and the hint spares reading the frame: `check` tells of it.
      else if (verdict.bare === "found") counts.foundByCheck++;
      else counts.harmless++;
      if (counts.bits % SAMPLE !== 0) continue;
      for (const hints of [true, false]) {
        const outcome = await store.whole(name, bit, hints);
        const expected = hints ? verdict.hinted : verdict.bare;
        expect(outcome, `bit ${bit} of ${name}, ${hints ? "with" : "without"} hints`).toBe(expected);
        counts.wholeStores++;
      }
    }
  }
  const bytes = [...store.image.values()].reduce((sum, { length }) => sum + length, 0);
  console.log("a store of", bytes, "bytes", JSON.stringify(counts));
  note("bits-file", counts);
  expect(bytes).toBeGreaterThan(1024 * 1024);
  expect([...store.image.keys()].filter((name) => name.endsWith(".hint")).length).toBeGreaterThan(1);
  expect(counts.found).toBeGreaterThan(counts.bits / 3);
  expect(counts.wholeStores).toBeGreaterThan(30);
});
