/**
 * Reading a segment that may be damaged: every record that is whole, in its order, and the places of what
 * is not. Pure; it changes nothing and believes no length whose checksum fails.
 *
 * Invariants: a record is given only when its own checksum holds, so a damaged frame loses its damaged
 * records and not its neighbours'; the damaged places and the whole frames cover everything that is not
 * zero, but for a torn tail.
 */

import {
  endsWhole,
  FRAME_HEADER_BYTES,
  isZero,
  RECORD_HEADER_BYTES,
  type RecordView,
  readHeader,
  readRecord,
  readRecords,
} from "./frame.js";
import { isKey } from "./key-names.js";
import { SEGMENT_HEADER_BYTES } from "./segment.js";
import { findFrame, lacksHeader } from "./tail.js";

/** Without a frame the next record is looked for in so many bytes: more than a frame of a merge has. */
const SEARCH_BYTES_MAX = 1024 * 1024;
/** Padding and trailer. */
const FRAME_END_BYTES_MAX = 11;

export interface Damage {
  readonly position: number;
  readonly bytes: number;
  /** Whether the header of the frame says that a commit was here. */
  readonly inFrame: boolean;
}

export interface Salvaged {
  readonly damage: readonly Damage[];
  readonly frames: number;
  readonly sequenceMax: number;
}

/**
 * `end`: where the frames end, as far as is known. `visit` is told of each whole record, in order. `known`:
 * up to there a manifest says that all was durable.
 */
export function salvage(
  bytes: Buffer,
  end: number,
  salt: number,
  visit: (record: RecordView) => void,
  known = 0,
): Salvaged {
  const damage: Damage[] = [];
  let frames = 0;
  let sequenceMax = 0;
  for (let at = SEGMENT_HEADER_BYTES; at < end; ) {
    const header = readHeader(bytes, at, at, salt);
    if (header === undefined || at + header.length > bytes.length) {
      const next = findFrame(bytes, at + 8, end, salt);
      // Records tell of themselves, without their frame too. But behind what the manifest knows a crash may
      // have torn a commit that nothing follows, or whose header is zeros: nothing of these may come back.
      const until = lacksHeader(bytes, at) ? Math.min(next ?? end, known) : (next ?? Math.min(end, known));
      const sure = Math.max(at, until);
      damage.push(...salvageHeadless(bytes, at, sure, next ?? end, salt, visit));
      at = next ?? end;
      continue;
    }
    const records = readRecords(bytes, at, at, salt, header);
    frames++;
    sequenceMax = Math.max(sequenceMax, header.sequence);
    if (records !== undefined) for (const record of records) visit(record);
    else damage.push(...salvageFrame(bytes, at, header.payloadBytes, salt, visit));
    at += header.length;
  }
  return { damage, frames, sequenceMax };
}

/** Of a frame without a header, whose records count up to `sure`. */
function salvageHeadless(
  bytes: Buffer,
  start: number,
  sure: number,
  end: number,
  salt: number,
  visit: (record: RecordView) => void,
): Damage[] {
  let count = 0;
  const counted = (record: RecordView) => {
    count++;
    visit(record);
  };
  const damage = salvageRecords(bytes, start, sure, salt, counted, SEARCH_BYTES_MAX);
  // What is zeros was a commit: up to the end there is nothing else.
  if (count === 0) return [{ position: start, bytes: end - start, inFrame: isZero(bytes, start, end) }];
  const last = damage.at(-1)!;
  if (last.position + FRAME_END_BYTES_MAX >= sure && endsWhole(bytes, sure)) damage.pop();
  return sure < end ? [...damage, { position: sure, bytes: end - sure, inFrame: false }] : damage;
}

function salvageFrame(
  bytes: Buffer,
  start: number,
  payloadBytes: number,
  salt: number,
  visit: (record: RecordView) => void,
): Damage[] {
  const end = start + FRAME_HEADER_BYTES + payloadBytes;
  const damage = salvageRecords(bytes, start + FRAME_HEADER_BYTES, end, salt, visit);
  // All records are whole: then the header's sum over them, or the trailer, is what was damaged.
  return damage.length > 0 ? damage : [{ position: start, bytes: FRAME_HEADER_BYTES, inFrame: true }];
}

/** Goes from record to record, and over what is none to the next one. */
function salvageRecords(
  bytes: Buffer,
  start: number,
  end: number,
  salt: number,
  visit: (record: RecordView) => void,
  searchBytesMax: number = bytes.length,
): Damage[] {
  const damage: Damage[] = [];
  // A length that leads beyond the end is not believed, and costs nothing.
  const known = bytes.subarray(0, end);
  for (let at = start; at < end; ) {
    const record = readRecord(known, at, at, salt);
    if (record !== undefined) {
      visit(record);
      at = record.end;
      continue;
    }
    const next = nextRecord(known, at, salt, searchBytesMax) ?? end;
    damage.push({ position: at, bytes: next - at, inFrame: true });
    at = next;
  }
  return damage;
}

function nextRecord(bytes: Buffer, at: number, salt: number, bytesMax: number): number | undefined {
  const limit = Math.min(bytes.length, at + bytesMax);
  for (let next = at + 1; next < limit; next++)
    if (hasKey(bytes, next) && readRecord(bytes, next, next, salt) !== undefined) return next;
  return undefined;
}

/**
 * Almost none but a record's place has one. Without it many bytes of a value that holds small numbers would
 * pass for lengths, of megabytes each, and the sums over these would take hours.
 */
function hasKey(bytes: Buffer, at: number): boolean {
  if (at + RECORD_HEADER_BYTES > bytes.length) return false;
  const start = at + RECORD_HEADER_BYTES;
  const end = start + bytes.readUInt16LE(at + 6);
  return end <= bytes.length && isKey(bytes, start, end);
}
