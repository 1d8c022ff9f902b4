/**
 * Reading a segment that may be damaged: every record that is whole, in its order, and the places of what
 * is not. Pure; it changes nothing and believes no length whose checksum fails.
 *
 * Invariants: a record is given only when its own checksum holds, so a damaged frame loses its damaged
 * records and not its neighbours'; the damaged places and the whole frames cover everything that is not
 * zero, but for a torn tail.
 */

import { FRAME_HEADER_BYTES, isZero, type RecordView, readHeader, readRecord, readRecords } from "./frame.js";
import { SEGMENT_HEADER_BYTES } from "./segment.js";
import { findFrame } from "./tail.js";

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

/** `end`: where the frames end, as far as is known. `visit` is told of each whole record, in order. */
export function salvage(
  bytes: Buffer,
  end: number,
  salt: number,
  visit: (record: RecordView) => void,
): Salvaged {
  const damage: Damage[] = [];
  let frames = 0;
  let sequenceMax = 0;
  for (let at = SEGMENT_HEADER_BYTES; at < end; ) {
    const header = readHeader(bytes, at, at, salt);
    if (header === undefined || at + header.length > bytes.length) {
      const next = findFrame(bytes, at + 8, end, salt) ?? end;
      // What is zeros was a commit: up to the end there is nothing else.
      damage.push({ position: at, bytes: next - at, inFrame: isZero(bytes, at, next) });
      at = next;
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

/**
 * Goes from record to record; behind a damaged one only when its length leads to a whole one, or to the
 * end.
 */
function salvageFrame(
  bytes: Buffer,
  start: number,
  payloadBytes: number,
  salt: number,
  visit: (record: RecordView) => void,
): Damage[] {
  const damage: Damage[] = [];
  const end = start + FRAME_HEADER_BYTES + payloadBytes;
  for (let at = start + FRAME_HEADER_BYTES; at < end; ) {
    const record = readRecord(bytes, at, at, salt);
    if (record !== undefined && record.end <= end) {
      visit(record);
      at = record.end;
      continue;
    }
    const next = nextRecord(bytes, at, end, salt);
    damage.push({ position: at, bytes: next - at, inFrame: true });
    at = next;
  }
  // All records are whole: then the header's sum over them, or the trailer, is what was damaged.
  return damage.length > 0 ? damage : [{ position: start, bytes: FRAME_HEADER_BYTES, inFrame: true }];
}

function nextRecord(bytes: Buffer, at: number, end: number, salt: number): number {
  for (let next = at + 1; next < end; next++) {
    const record = readRecord(bytes, next, next, salt);
    if (record !== undefined && record.end <= end) return next;
  }
  return end;
}
