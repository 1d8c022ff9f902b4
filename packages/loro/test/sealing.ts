/**
 * Puts a matching checksum (xxHash32, seed "LORO") on an update whose contents were changed: what a hostile client
 * can do, and a flipped bit cannot.
 */

const [P1, P2, P3, P4, P5] = [2654435761, 2246822519, 3266489917, 668265263, 374761393];
const SEED = 0x4f524f4c;

const turn = (value: number, by: number) => (value << by) | (value >>> (32 - by));

function xxHash32(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let hash = (SEED + P5) | 0;
  let at = 0;
  if (bytes.length >= 16) {
    const lanes = [SEED + P1 + P2, SEED + P2, SEED, SEED - P1].map((lane) => lane | 0);
    for (; at + 16 <= bytes.length; at += 16) {
      lanes.forEach((lane, index) => {
        const word = view.getInt32(at + 4 * index, true);
        lanes[index] = Math.imul(turn((lane + Math.imul(word, P2)) | 0, 13), P1);
      });
    }
    const [a, b, c, d] = lanes as [number, number, number, number];
    hash = (turn(a, 1) + turn(b, 7) + turn(c, 12) + turn(d, 18)) | 0;
  }
  hash = (hash + bytes.length) | 0;
  for (; at + 4 <= bytes.length; at += 4) {
    hash = Math.imul(turn((hash + Math.imul(view.getInt32(at, true), P3)) | 0, 17), P4);
  }
  for (; at < bytes.length; at++) hash = Math.imul(turn((hash + Math.imul(bytes[at]!, P5)) | 0, 11), P1);
  hash = Math.imul(hash ^ (hash >>> 15), P2);
  hash = Math.imul(hash ^ (hash >>> 13), P3);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/** Changes the bytes in place, and returns them. */
export function sealed(update: Uint8Array): Uint8Array {
  new DataView(update.buffer, update.byteOffset).setUint32(16, xxHash32(update.subarray(20)), true);
  return update;
}
