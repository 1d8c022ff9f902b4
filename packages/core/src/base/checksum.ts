/**
 * CRC-32 (IEEE 802.3, the polynomial of zlib and Ethernet), eight bytes a step.
 *
 * In JavaScript because core runs in browsers, and because a call out of it costs more than short bytes do;
 * long ones go to Node's zlib where it is there. Method: "slicing by 8", Kounavis and Berry, "A systematic
 * approach to building high performance, software-based, CRC generators" (2005). The values equal
 * `zlib.crc32`, which the tests compare.
 */

type Crc32 = (bytes: Uint8Array, previous: number) => number;

/** From here on the call is worth it. */
const NATIVE_BYTES_MIN = 224;
const native = nodeCrc32();

/** Without an import, so that core still loads in browsers; `undefined` there. */
function nodeCrc32(): Crc32 | undefined {
  const { process } = globalThis as { process?: { getBuiltinModule?: (name: string) => unknown } };
  return (process?.getBuiltinModule?.("node:zlib") as { crc32?: Crc32 } | undefined)?.crc32;
}

// Not taken from a list at each call: for a few bytes that costs more than the bytes.
const [t0, t1, t2, t3, t4, t5, t6, t7] = makeTables();

type Tables = [
  ...[Uint32Array, Uint32Array, Uint32Array, Uint32Array],
  ...[Uint32Array, Uint32Array, Uint32Array, Uint32Array],
];

function makeTables(): Tables {
  const tables = Array.from({ length: 8 }, () => new Uint32Array(256)) as Tables;
  for (let i = 0; i < 256; i++) {
    let crc = i;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
    tables[0]![i] = crc;
  }
  for (let i = 0; i < 256; i++) {
    for (let t = 1; t < 8; t++) {
      const before = tables[t - 1]![i]!;
      tables[t]![i] = (before >>> 8) ^ tables[0]![before & 0xff]!;
    }
  }
  return tables;
}

/**
 * CRC-32 of `bytes[start, end)` (by default all), continuing from the CRC of what came before them (0 at the
 * start).
 */
export function crc32(bytes: Uint8Array, previous = 0, start = 0, end: number = bytes.length): number {
  if (native === undefined || end - start < NATIVE_BYTES_MIN) return crc32Here(bytes, previous, start, end);
  if (end - start === bytes.length) return native(bytes, previous);
  // Of a Buffer `subarray` would make another one, which costs twice as much.
  return native(new Uint8Array(bytes.buffer, bytes.byteOffset + start, end - start), previous);
}

/** In JavaScript, whatever the length. */
export function crc32Here(bytes: Uint8Array, previous: number, start: number, end: number): number {
  let crc = ~previous;
  let i = start;
  for (const last = end - 7; i < last; i += 8) {
    const low = crc ^ (bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24));
    crc =
      t7[low & 0xff]! ^
      t6[(low >>> 8) & 0xff]! ^
      t5[(low >>> 16) & 0xff]! ^
      t4[low >>> 24]! ^
      t3[bytes[i + 4]!]! ^
      t2[bytes[i + 5]!]! ^
      t1[bytes[i + 6]!]! ^
      t0[bytes[i + 7]!]!;
  }
  for (; i < end; i++) crc = t0[(crc ^ bytes[i]!) & 0xff]! ^ (crc >>> 8);
  return ~crc >>> 0;
}
