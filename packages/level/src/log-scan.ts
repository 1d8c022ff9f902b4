/**
 * Reads a file in LevelDB's log format (its logs, and its MANIFEST) before LevelDB does, and tells damage
 * from a torn end. LevelDB itself skips what fails its checksum without a word: one flipped bit silently
 * drops every commit in the rest of a 32 KiB block.
 *
 * | offset | size | in a block of 32 768 bytes, again and again           |
 * | ------ | ---- | ----------------------------------------------------- |
 * | 0      | 4    | masked CRC-32C of type and payload, little-endian     |
 * | 4      | 2    | length of the payload, little-endian                  |
 * | 6      | 1    | type: 1 whole, 2 first, 3 middle, 4 last part         |
 * | 7      |      | payload                                               |
 *
 * Fewer than 7 bytes at the end of a block are zeros. When every record was synced before the next began, a
 * crash tears at most the last, so a whole record after bytes that do not check proves damage; damage to
 * the last alone cannot be told from a torn end.
 */

import { concatBytes } from "coppice";
import { maskedCrc32c, uint32 } from "./crc32c.js";

const BLOCK_BYTES = 32_768;
const HEADER_BYTES = 7;
const WHOLE = 1;
const FIRST = 2;
const LAST = 4;

export interface LogRecord {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

export interface ScannedLog {
  /** Before the damage, or the torn end. */
  readonly records: readonly LogRecord[];
  /** Offset of the first bytes that do not check and have a whole record after them. */
  readonly damage: number | undefined;
  /** Offset of an end that does not check. */
  readonly torn: number | undefined;
}

interface Part {
  readonly type: number;
  readonly start: number;
  readonly end: number;
}

/** The offset of the first bytes that do not check and have a whole record after them; else `undefined`. */
export function findDamage(log: Uint8Array): number | undefined {
  return scanLog(log).damage;
}

/** Costs one pass over the bytes: about 1 ms a MiB. */
export function scanLog(log: Uint8Array): ScannedLog {
  const records: LogRecord[] = [];
  let bad: number | undefined;
  let begun: { readonly offset: number; readonly pieces: Uint8Array[] } | undefined;
  for (let block = 0; block < log.length; block += BLOCK_BYTES) {
    const blockEnd = Math.min(block + BLOCK_BYTES, log.length);
    let at = block;
    while (at + HEADER_BYTES <= blockEnd) {
      const part = partAt(log, at, blockEnd);
      if (part === undefined) {
        bad ??= at;
        begun = undefined;
        at = nextPart(log, at + 1, blockEnd);
        continue;
      }
      const opens = part.type === WHOLE || part.type === FIRST;
      // A part that nothing began, or a record that nothing ended.
      if (opens === (begun !== undefined)) bad ??= at;
      if (opens) begun = { offset: at, pieces: [] };
      begun?.pieces.push(log.subarray(part.start, part.end));
      if (part.type === WHOLE || part.type === LAST) {
        if (begun !== undefined) {
          if (bad !== undefined) return { records, damage: bad, torn: undefined };
          records.push({ offset: begun.offset, bytes: joined(begun.pieces) });
        }
        begun = undefined;
      }
      at = part.end;
    }
  }
  return { records, damage: undefined, torn: bad ?? begun?.offset };
}

function partAt(log: Uint8Array, at: number, blockEnd: number): Part | undefined {
  const type = log[at + 6]!;
  const start = at + HEADER_BYTES;
  const end = start + log[at + 4]! + log[at + 5]! * 256;
  if (type < WHOLE || type > LAST || end > blockEnd) return undefined;
  return uint32(log, at) === maskedCrc32c(log, at + 6, end) ? { type, start, end } : undefined;
}

/** Where the next part that checks begins: its place is lost when the damage hit a length. */
function nextPart(log: Uint8Array, from: number, blockEnd: number): number {
  let at = from;
  while (at + HEADER_BYTES <= blockEnd && partAt(log, at, blockEnd) === undefined) at++;
  return at;
}

function joined(pieces: readonly Uint8Array[]): Uint8Array {
  return pieces.length === 1 ? pieces[0]! : concatBytes(pieces);
}
