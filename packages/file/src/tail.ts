/**
 * Reading the frames of a segment, and judging what follows the last good one: a clean end, a commit that a
 * crash tore, or damage. Without I/O; the rules are those of etcd's log (a sector of zeros was never
 * written) and a few more.
 *
 * | after the last good frame                                                    | verdict |
 * | ----------------------------------------------------------------------------- | ------- |
 * | only zeros                                                                     | clean   |
 * | a good header, and a sector of its frame, or the trailer's end, is zeros       | torn    |
 * | no header, and its part of the first sector, or the rest of it, is all zeros   | torn    |
 * | the last byte that is not zero lies where the header would                     | torn    |
 * | one of these, and something behind that frame; or its header alone is zeros    | holed   |
 * | anything else                                                                  | damaged |
 *
 * Invariant: at most one frame is ever unsynced when each commit is synced, so a frame after bytes that do
 * not check proves damage then. Where commits are not synced, a loss of power leaves holes; but of what it
 * takes it leaves zeros, so other bytes that do not check prove damage there as well.
 */

import type { Env } from "coppice";
import {
  DELETE_RANGE,
  endsEarly,
  FRAME_HEADER_BYTES,
  isZero,
  isZeroBlock,
  type RecordView,
  rangeOf,
  readHeader,
  readRecords,
  SECTOR_BYTES,
  ZERO_BLOCK_BYTES,
} from "./frame.js";
import type { RecordVisitor } from "./hints.js";

/** Replayed in one turn of the event loop: some milliseconds. */
const STEP_BYTES = 1024 * 1024;

export interface Walked {
  /** Where the good frames end. */
  readonly end: number;
  readonly sequence: number;
  readonly chain: number;
}

/**
 * Visits the records of all good frames from `start` on. `bytes[0]` lies at position `base` of the segment.
 * Stops at the first frame that does not check or does not continue the chain.
 */
export function walkFrames(
  bytes: Buffer,
  base: number,
  from: Walked,
  salt: number,
  visit: RecordVisitor,
  limit: number = Number.POSITIVE_INFINITY,
): Walked {
  let { end, sequence, chain } = from;
  while (end < limit) {
    const at = end - base;
    const header = readHeader(bytes, at, end, salt);
    if (header === undefined || header.sequence !== sequence + 1 || header.previous !== chain) break;
    const records = readRecords(bytes, at, end, salt, header);
    if (records === undefined) break;
    for (const record of records) visitRecord(bytes, record, visit);
    end += header.length;
    sequence = header.sequence;
    chain = header.chain;
  }
  return { end, sequence, chain };
}

/** `walkFrames` of a whole segment, which lets the event loop turn between its steps. */
export async function walkInTurns(
  env: Env,
  bytes: Buffer,
  start: Walked,
  salt: number,
  visit: RecordVisitor,
  limit: number = Number.POSITIVE_INFINITY,
): Promise<Walked> {
  let from = start;
  for (;;) {
    const step = Math.min(limit, from.end + STEP_BYTES);
    const to = walkFrames(bytes, 0, from, salt, visit, step);
    if (to.end < step || to.end >= limit) return to;
    from = to;
    await new Promise<void>((resolve) => env.turn(resolve));
  }
}

/**
 * The same for the last segment, of which a manifest knows the frames up to `known`. `isKnown`: they are
 * those. Where commits are not synced it may know the chain of later ones.
 */
export async function walkLast(
  env: Env,
  bytes: Buffer,
  from: Walked,
  salt: number,
  visit: RecordVisitor,
  known: { readonly end: number; readonly chain: number; readonly syncs: boolean },
): Promise<Walked & { readonly isKnown: boolean }> {
  const there = await walkInTurns(env, bytes, from, salt, visit, known.end);
  const isKnown = there.end === known.end && (there.chain === known.chain || !known.syncs);
  return { ...(await walkInTurns(env, bytes, there, salt, visit)), isKnown };
}

export function visitRecord(bytes: Buffer, record: RecordView, visit: RecordVisitor): void {
  const { type, keyStart, valueStart, end, position } = record;
  const { from, to } = type === DELETE_RANGE ? rangeOf(bytes, record) : { from: 0, to: 0 };
  visit(type, bytes, keyStart, valueStart, end - valueStart, position, from, to);
}

export interface Verdict {
  readonly kind: "clean" | "torn" | "holed" | "damaged";
  /** Behind the last byte that is not zero. */
  readonly used: number;
}

/** `bytes`: the whole segment; `end`: where its good frames end. */
export function judgeTail(bytes: Buffer, end: number, salt: number): Verdict {
  const used = usedUpTo(bytes, end);
  if (used === end) return { kind: "clean", used };
  const torn = tornUpTo(bytes, end, used, salt);
  if (torn === undefined) return { kind: lacksHeader(bytes, end) ? "holed" : "damaged", used };
  const isLast = used <= torn && findFrame(bytes, end + 8, used, salt) === undefined;
  return { kind: isLast ? "torn" : "holed", used };
}

/** Of the header, the part in one sector is zeros, while other frames have begun in the rest of that. */
export function lacksHeader(bytes: Buffer, start: number): boolean {
  const end = start + FRAME_HEADER_BYTES;
  const sectorEnd = Math.min(end, Math.ceil((start + 1) / SECTOR_BYTES) * SECTOR_BYTES);
  return isZero(bytes, start, sectorEnd) || (sectorEnd < end && isZero(bytes, sectorEnd, end));
}

/** Behind the last byte that is not zero, or `start`. What lies ready for later commits is long. */
function usedUpTo(bytes: Buffer, start: number): number {
  let used = bytes.length;
  while (used - ZERO_BLOCK_BYTES >= start && isZeroBlock(bytes, used - ZERO_BLOCK_BYTES))
    used -= ZERO_BLOCK_BYTES;
  while (used > start && bytes[used - 1] === 0) used--;
  return used;
}

/** The first place from `start` on where a frame's header lies. */
export function findFrame(bytes: Buffer, start: number, end: number, salt: number): number | undefined {
  for (let at = start; at + FRAME_HEADER_BYTES <= end; at += 8) {
    while (at + ZERO_BLOCK_BYTES <= end && isZeroBlock(bytes, at)) at += ZERO_BLOCK_BYTES;
    if (bytes[at] !== 0 && readHeader(bytes, at, at, salt) !== undefined) return at;
  }
  return undefined;
}

/** Where the frame ends that a crash tore at `start`, as far as is known; `undefined`: none did. */
function tornUpTo(bytes: Buffer, start: number, used: number, salt: number): number | undefined {
  const sectorEnd = Math.ceil((start + 1) / SECTOR_BYTES) * SECTOR_BYTES;
  const header = readHeader(bytes, start, start, salt);
  if (header === undefined) {
    const headerEnd = start + FRAME_HEADER_BYTES;
    if (isZero(bytes, start, Math.min(sectorEnd, bytes.length))) return used;
    if (used <= headerEnd) return used;
    return sectorEnd < headerEnd && isZero(bytes, sectorEnd, sectorEnd + SECTOR_BYTES) ? used : undefined;
  }
  const end = start + header.length;
  if (end > bytes.length) return undefined;
  // Of a frame whose end did not come, what would follow in the same sector did not either.
  const lastSectorEnd = Math.min(bytes.length, Math.ceil(end / SECTOR_BYTES) * SECTOR_BYTES);
  if (endsEarly(bytes, end) && isZero(bytes, end, lastSectorEnd)) return end;
  for (let at = start; at < end; ) {
    const next = Math.min(end, Math.floor(at / SECTOR_BYTES + 1) * SECTOR_BYTES);
    if (isZero(bytes, at, next)) return end;
    at = next;
  }
  return undefined;
}
