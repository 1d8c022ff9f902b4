/**
 * Reading the values of many records: what lies close together is read in one go, straight into the memory
 * that is handed out, so that nothing is copied.
 *
 * Values up to 4 KiB share memory with their neighbours, at most 16 KiB of it; so one that is kept keeps no
 * more alive. Larger ones have memory of their own.
 *
 * Invariants: a record whose checksum, place or length is not as the index says is `CORRUPT`, never served;
 * a segment is kept open while it is read; no two values overlap.
 */

import { CoppiceError } from "coppice";
import { putValue, RECORD_HEADER_BYTES, unfilled } from "./frame.js";
import { type IndexEntry, POSITIONS } from "./key-index.js";
import { keyBytes } from "./key-names.js";
import { damaged, SEGMENT_HEADER_BYTES, type Segment, segmentName } from "./segment.js";
import type { StoreState } from "./store-state.js";

/** Up to here reading does not leave the thread: a few µs from the page cache. */
export const READ_NOW_BYTES_MAX: number = 16 * 1024;
/** Reads of neighbouring bytes that are under way beside the one that is awaited. */
const READS_AHEAD = 2;
/** So far before the end of a segment the start of the next one is read, and so much of it, in such steps. */
const LEAD_BYTES = 8 * 1024 * 1024;
const START_BYTES = 2 * 1024 * 1024;
const START_STEP_BYTES = 256 * 1024;
/** With more places to read from than this, none is read without leaving the thread. */
const SPANS_NOW_MAX = 16;
/** Bytes between two records that are read rather than skipped. */
const GAP_BYTES_MAX = 4096;
/** Records from here on get memory of their own; smaller ones share so much. */
const OWN_BYTES_MIN = 4096;
const SHARED_BYTES_MAX = 16 * 1024;
/** Pieces of memory that the system fills in one call. */
const PIECES_MAX = 1024;

/** Entries that are read at once: `order[first, last)`. */
interface Span {
  /** Right behind the span before. */
  readonly follows: boolean;
  readonly first: number;
  readonly last: number;
  readonly start: number;
  readonly end: number;
}

interface Wanted {
  readonly space: string;
  readonly entries: readonly IndexEntry[];
  /** The entries in the order of their places. */
  readonly order: Uint32Array;
  readonly values: Uint8Array[];
  /** Few bytes are read without leaving the thread. */
  readonly now: boolean;
  readonly readsAhead: number;
}

/** Where values lie: runs of spans that follow one another. */
export interface Layout {
  /** The entries in the order of their places. */
  readonly order: Uint32Array;
  readonly runs: readonly (readonly Span[])[];
}

/** `readBytesMax`: of one read, when single values are not larger. */
export function layoutOf(space: string, entries: readonly IndexEntry[], readBytesMax: number): Layout {
  const order = inOrderOfPlaces(entries);
  const runs: Span[][] = [];
  for (const span of spansOf(space, entries, order, readBytesMax)) {
    if (span.follows) runs.at(-1)!.push(span);
    else runs.push([span]);
  }
  return { order, runs };
}

/** So many places to read from that the reads of one page keep the disk busy, and more would only queue. */
export function isScattered({ runs }: Layout): boolean {
  return runs.length > SPANS_NOW_MAX;
}

/** Values in the order of the entries. `readsAhead`: of each run, beside the one that is awaited. */
export async function readValues(
  state: StoreState,
  space: string,
  entries: readonly IndexEntry[],
  layout: Layout,
  readsAhead: number = READS_AHEAD,
): Promise<Uint8Array[]> {
  const { order, runs } = layout;
  const values = new Array<Uint8Array>(entries.length);
  const wanted = { space, entries, order, values, now: !isScattered(layout), readsAhead };
  const last = runs.at(-1);
  // Where that fails, whoever needs it reads it again.
  if (last !== undefined && last.length > 1) readStartOfNext(state, last).catch(() => undefined);
  await Promise.all(runs.map((run) => readRun(segmentAt(state, run[0]!.start), run, wanted)));
  return values;
}

function segmentAt(state: StoreState, place: number): Segment {
  const segment = state.segmentAt(place);
  if (segment === undefined) throw new Error("the index points to a segment that is gone");
  return segment;
}

/**
 * The system reads ahead of one who reads a file from its start to its end, but not into the next file. So
 * where a run comes near the end of its segment, the start of the next one is read, for the system to keep.
 */
async function readStartOfNext(state: StoreState, run: readonly Span[]): Promise<void> {
  const { start } = run[0]!;
  const slot = Math.floor(start / POSITIONS);
  const index = state.segments.findIndex((segment) => segment.slot === slot);
  const segment = state.segments[index];
  const next = state.segments[index + 1];
  if (segment === undefined || next === undefined) return;
  const near = Math.max(SEGMENT_HEADER_BYTES + GAP_BYTES_MAX, segment.end - LEAD_BYTES);
  if (start % POSITIONS > near || run.at(-1)!.end % POSITIONS <= near) return;
  next.hold();
  try {
    const bytes = unfilled(START_STEP_BYTES);
    const end = Math.min(START_BYTES, next.end);
    for (let at = 0; at < end && !next.retired; at += bytes.length)
      await next.file.read(bytes, 0, bytes.length, at);
  } finally {
    next.release();
  }
}

/** Spans that follow one another: while one is checked the system reads the next two, in their order. */
async function readRun(segment: Segment, run: readonly Span[], wanted: Wanted): Promise<void> {
  segment.hold();
  const begun: Reading[] = [];
  try {
    for (let i = 0; i < run.length; i++) {
      while (begun.length < run.length && begun.length <= i + wanted.readsAhead) {
        begun.push(begin(segment, run[begun.length]!, wanted));
      }
      const { pieces, reading } = begun[i]!;
      if (reading !== undefined) await reading;
      takeValues(segment, run[i]!, pieces, wanted);
    }
  } finally {
    // After damage some may be under way: they need the file.
    await Promise.allSettled(begun.map(({ reading }) => reading));
    segment.release();
  }
}

/** The value at this place, without leaving the thread. */
export function readValueNow(
  segment: Segment,
  position: number,
  keyLength: number,
  valueBytes: number,
): Uint8Array {
  const bytes = unfilled(RECORD_HEADER_BYTES + keyLength + valueBytes);
  let count: number;
  try {
    count = segment.file.readNow(bytes, 0, bytes.length, position);
  } catch (error) {
    throw unreadable(error);
  }
  if (count < bytes.length) throw endsEarly(segment, position);
  return valueAt(segment, bytes, 0, position, keyLength, valueBytes);
}

function lengthOf(space: string, { name, seq, part, valueBytes }: IndexEntry): number {
  return RECORD_HEADER_BYTES + keyBytes(space, name, seq, part) + valueBytes;
}

function inOrderOfPlaces(entries: readonly IndexEntry[]): Uint32Array {
  const order = new Uint32Array(entries.length);
  let rising = true;
  for (let i = 0; i < order.length; i++) {
    order[i] = i;
    if (i > 0 && entries[i]!.place < entries[i - 1]!.place) rising = false;
  }
  return rising ? order : order.sort((a, b) => entries[a]!.place - entries[b]!.place);
}

function spansOf(
  space: string,
  entries: readonly IndexEntry[],
  order: Uint32Array,
  readBytesMax: number,
): Span[] {
  const spans: Span[] = [];
  let before = Number.NEGATIVE_INFINITY;
  for (let first = 0; first < order.length; ) {
    const { place: start } = entries[order[first]!]!;
    let end = start;
    let last = first;
    for (; last < order.length; last++) {
      const entry = entries[order[last]!]!;
      const entryEnd = entry.place + lengthOf(space, entry);
      const apart = entry.place - end > GAP_BYTES_MAX || entryEnd - start > readBytesMax;
      if (last > first && apart) break;
      end = entryEnd;
    }
    spans.push({ follows: start >= before && start - before <= GAP_BYTES_MAX, first, last, start, end });
    before = end;
    first = last;
  }
  return spans;
}

interface Reading {
  readonly pieces: readonly Uint8Array[];
  /** `undefined`: it is done. */
  readonly reading: Promise<void> | undefined;
}

function begin(segment: Segment, span: Span, wanted: Wanted): Reading {
  const pieces = piecesOf(wanted.space, wanted.entries, wanted.order, span);
  const position = span.start % POSITIONS;
  const few = span.end - span.start <= READ_NOW_BYTES_MAX;
  const reading = fill(segment, pieces, position, wanted.now && few);
  // One that fails before it is awaited is no rejection that nobody handles.
  reading?.catch(() => undefined);
  return { pieces, reading };
}

function takeValues(
  segment: Segment,
  span: Span,
  pieces: readonly Uint8Array[],
  { space, entries, order, values }: Wanted,
): void {
  let piece = 0;
  let pieceStart = span.start;
  for (let i = span.first; i < span.last; i++) {
    const { name, seq, part, place, valueBytes } = entries[order[i]!]!;
    while (place >= pieceStart + pieces[piece]!.length) pieceStart += pieces[piece++]!.length;
    const keyLength = keyBytes(space, name, seq, part);
    const position = place % POSITIONS;
    values[order[i]!] = valueAt(segment, pieces[piece]!, place - pieceStart, position, keyLength, valueBytes);
  }
}

/** Memory for a span, cut where records begin. */
function piecesOf(
  space: string,
  entries: readonly IndexEntry[],
  order: Uint32Array,
  { first, last, start, end }: Span,
): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let pieceStart = start;
  let owned = false;
  for (let i = first; i < last; i++) {
    const entry = entries[order[i]!]!;
    const length = lengthOf(space, entry);
    const owns = length >= OWN_BYTES_MIN;
    const full = owned || owns || entry.place + length - pieceStart > SHARED_BYTES_MAX;
    if (full && entry.place > pieceStart) {
      pieces.push(unfilled(entry.place - pieceStart));
      pieceStart = entry.place;
    }
    owned = owns;
  }
  pieces.push(unfilled(end - pieceStart));
  return pieces;
}

/** Reads all pieces, which lie one behind the other; `undefined`: it is done. */
function fill(
  segment: Segment,
  pieces: readonly Uint8Array[],
  position: number,
  now: boolean,
): Promise<void> | undefined {
  if (!now) return fillAll(segment, pieces, position);
  let at = position;
  for (const piece of pieces) {
    let done = 0;
    while (done < piece.length) {
      const count = readSome(() => segment.file.readNow(piece, done, piece.length - done, at + done));
      if (count === 0) throw endsEarly(segment, at);
      done += count;
    }
    at += piece.length;
  }
  return undefined;
}

async function fillAll(segment: Segment, pieces: readonly Uint8Array[], position: number): Promise<void> {
  let left = pieces;
  let at = position;
  while (left.length > 0) {
    let count: number;
    try {
      count = await segment.file.readEach(left.slice(0, PIECES_MAX), at);
    } catch (error) {
      throw unreadable(error);
    }
    if (count === 0) throw endsEarly(segment, at);
    at += count;
    left = behind(left, count);
  }
}

/** What is left of the pieces behind so many bytes. */
function behind(pieces: readonly Uint8Array[], byteCount: number): Uint8Array[] {
  let first = 0;
  while (first < pieces.length && byteCount >= pieces[first]!.length) byteCount -= pieces[first++]!.length;
  const left = pieces.slice(first);
  if (byteCount > 0) left[0] = left[0]!.subarray(byteCount);
  return left;
}

function readSome(read: () => number): number {
  try {
    return read();
  } catch (error) {
    throw unreadable(error);
  }
}

/** The value of the record at `at`, where it lies. */
function valueAt(
  segment: Segment,
  bytes: Uint8Array,
  at: number,
  position: number,
  keyLength: number,
  valueBytes: number,
): Uint8Array {
  const value = putValue(bytes, at, position, segment.salt, keyLength, valueBytes);
  if (value === undefined)
    throw damaged("holds a record that fails its checksum", segmentName(segment.number), position);
  return value;
}

function unreadable(cause: unknown): CoppiceError {
  return new CoppiceError("UNAVAILABLE", "the file log could not be read", { cause });
}

function endsEarly(segment: Segment, position: number): CoppiceError {
  return damaged("ends before a record that it holds", segmentName(segment.number), position);
}
