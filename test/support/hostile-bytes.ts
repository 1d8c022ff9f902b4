/**
 * Bytes that nobody meant: from sound ones by a few changes, or from nothing. Everything follows from the random
 * numbers that are given.
 */

import type { SeededRandom } from "coppice/testing";

const TELLING = [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff] as const;
const CHANGES_MAX = 4;

/** One input; `samples` stay as they are. */
export function hostile(random: SeededRandom, samples: readonly Uint8Array[]): Uint8Array {
  if (samples.length === 0 || random.int(24) === 0) return random.bytes(random.int(80));
  let bytes = new Uint8Array(random.pick(samples));
  for (let left = 1 + random.int(CHANGES_MAX); left > 0; left--) bytes = changed(random, bytes, samples);
  return bytes;
}

function changed(
  random: SeededRandom,
  bytes: Uint8Array<ArrayBuffer>,
  samples: readonly Uint8Array[],
): Uint8Array<ArrayBuffer> {
  const at = random.int(bytes.length + 1);
  const kind = random.int(16);
  if (kind < 8 && bytes.length > 0) {
    const place = Math.min(at, bytes.length - 1);
    if (kind < 4) bytes[place]! ^= 1 << random.int(8);
    else bytes[place] = kind < 7 ? random.pick(TELLING) : random.int(256);
    return bytes;
  }
  if (kind === 8) return bytes.slice(0, at);
  if (kind === 9) return bytes.slice(at);
  const span = random.int(12);
  const before = bytes.subarray(0, at);
  if (kind === 10) return joined(before, bytes.subarray(at + span));
  if (kind === 11) return joined(before, random.bytes(span), bytes.subarray(at));
  if (kind === 12) return joined(before, bytes.subarray(at, at + span), bytes.subarray(at));
  // A length or count that is as large as it can be.
  if (kind === 13) return joined(before, new Uint8Array(span).fill(0xff), bytes.subarray(at + span));
  if (kind === 14) return joined(before, new Uint8Array(span), bytes.subarray(at + span));
  const other = random.pick(samples);
  return joined(before, other.subarray(random.int(other.length + 1)));
}

function joined(...parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Buffer.concat(parts));
}
