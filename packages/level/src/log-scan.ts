/**
 * Reads a LevelDB log before LevelDB does, and tells damage from a torn end. LevelDB itself skips what fails
 * its checksum without a word: one flipped bit silently drops every commit in the rest of a 32 KiB block.
 *
 * | offset | size | in a block of 32 768 bytes, again and again           |
 * | ------ | ---- | ----------------------------------------------------- |
 * | 0      | 4    | masked CRC-32C of type and payload, little-endian     |
 * | 4      | 2    | length of the payload, little-endian                  |
 * | 6      | 1    | type: 1 whole, 2 first, 3 middle, 4 last part         |
 * | 7      |      | payload                                               |
 *
 * Fewer than 7 bytes at the end of a block are filled with zeros.
 *
 * Invariants:
 * - when every commit was synced before the next began, a crash tears at most the last one, so a whole commit
 *   after bytes that do not check proves damage;
 * - parts of one commit without its first part prove nothing: they may be the torn one;
 * - damage to the last commit alone cannot be told from a torn end, and is taken as one.
 */

const BLOCK_BYTES = 32_768;
const HEADER_BYTES = 7;
const WHOLE = 1;
const FIRST = 2;
const MIDDLE = 3;
const LAST = 4;
const TABLE: Uint32Array = makeTable();

interface Part {
  readonly type: number;
  readonly end: number;
}

/** The offset of the first bytes that do not check and have a whole commit after them; else `undefined`. */
export function findDamage(log: Uint8Array): number | undefined {
  let damage: number | undefined;
  let begun = false;
  for (let start = 0; start < log.length; start += BLOCK_BYTES) {
    const block = log.subarray(start, start + BLOCK_BYTES);
    let at = 0;
    while (at + HEADER_BYTES <= block.length) {
      const part = partAt(block, at);
      if (part === undefined) {
        damage ??= start + at;
        begun = false;
        at = nextPart(block, at + 1);
        continue;
      }
      const whole = part.type === WHOLE || (part.type === LAST && begun);
      if (whole && damage !== undefined) return damage;
      begun = part.type === FIRST || (part.type === MIDDLE && begun);
      at = part.end;
    }
  }
  return undefined;
}

function partAt(block: Uint8Array, at: number): Part | undefined {
  const type = block[at + 6]!;
  const end = at + HEADER_BYTES + block[at + 4]! + block[at + 5]! * 256;
  if (type < WHOLE || type > LAST || end > block.length) return undefined;
  const stored = block[at]! | (block[at + 1]! << 8) | (block[at + 2]! << 16) | (block[at + 3]! << 24);
  return stored >>> 0 === masked(crc32c(block, at + 6, end)) ? { type, end } : undefined;
}

/** Where the next part that checks begins: its place is lost when the damage hit a length. */
function nextPart(block: Uint8Array, from: number): number {
  let at = from;
  while (at + HEADER_BYTES <= block.length && partAt(block, at) === undefined) at++;
  return at;
}

/** LevelDB stores checksums rotated and shifted, because logs may hold logs. */
function masked(crc: number): number {
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

function makeTable(): Uint32Array {
  const table = new Uint32Array(256);
  for (let i = 0; i < 256; i++) {
    let crc = i;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
    table[i] = crc;
  }
  return table;
}

/** CRC-32C (Castagnoli), which core does not have. */
function crc32c(bytes: Uint8Array, start: number, end: number): number {
  let crc = 0xffffffff;
  for (let i = start; i < end; i++) crc = (crc >>> 8) ^ TABLE[(crc ^ bytes[i]!) & 0xff]!;
  return ~crc >>> 0;
}
