import { seededRandom } from "coppice/testing";
import { expect, test } from "vitest";
import { decodeSegment, encodeSegment } from "../../src/storage/archive-segment.js";
import type { StoredBatch } from "../../src/storage/reader.js";

/** Batches of every shape: with and without info, a chosen id, or any events left. */
function batches(seed: number, count: number): StoredBatch[] {
  const random = seededRandom(seed);
  let clock = random.int(1000);
  let time = 1_767_225_600_000;
  let logBytes = random.int(1000);
  return Array.from({ length: count }, (_, index) => {
    const lost = random.int(8) === 0;
    const payload = lost ? new Uint8Array(0) : random.bytes(random.int(40));
    const start = clock;
    clock += 1 + random.int(4) * random.int(100);
    time += random.int(3) * random.int(100_000);
    logBytes += payload.length;
    const chosen = random.int(3) === 0;
    const header = {
      commitId: chosen ? random.bytes(16) : new Uint8Array(16),
      previousCrc: 0,
      chosen,
      chosenTime: 0,
      info: random.int(3) === 0 ? random.bytes(random.int(30)) : undefined,
      lost,
    };
    const crc = index === count - 1 ? random.int(2 ** 32) : 0;
    return { clock: start, end: clock, time, logBytes, crc, header, payload, storedBytes: 0 };
  });
}

const about = (segment: readonly StoredBatch[]) => ({
  clock: segment[0]!.clock,
  logBytes: segment.at(-1)!.logBytes,
  crc: segment.at(-1)!.crc,
});

test("[HI50] a segment decodes to the batches it was made of", () => {
  for (let seed = 0; seed < 200; seed++) {
    const segment = batches(seed, 1 + (seed % 40));
    const decoded = decodeSegment(encodeSegment(segment), about(segment));
    expect(decoded).toEqual(segment);
  }
});

test("[HI50] bytes that are no segment, end early, or go on are refused", () => {
  const segment = batches(7, 12);
  const bytes = encodeSegment(segment);
  for (let length = 0; length < bytes.length; length++) {
    expect(() => decodeSegment(bytes.subarray(0, length), about(segment))).toThrow(RangeError);
  }
  expect(() => decodeSegment(Uint8Array.of(...bytes, 0), about(segment))).toThrow("after its last batch");
  expect(() => decodeSegment(Uint8Array.of(0), about(segment))).toThrow("without batches");
  const huge = Uint8Array.of(255, 255, 255, 127, 1, 1, 1);
  expect(() => decodeSegment(huge, about(segment))).toThrow(RangeError);
});
