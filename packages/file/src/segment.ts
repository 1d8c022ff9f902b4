/**
 * A segment: one file of frames, filled with zeros before it is used, so that a commit changes no metadata
 * and zeros mean "never written". It knows its file and what is live in it, and nothing of keys.
 *
 * | offset | size | header, alone in the first 4,096 bytes                                |
 * | ------ | ---- | --------------------------------------------------------------------- |
 * | 0      | 8    | `coppseg1`                                                             |
 * | 8      | 4    | kind: 1 log, 2 merged                                                  |
 * | 12     | 16   | store id                                                               |
 * | 28     | 8    | segment number                                                         |
 * | 36     | 8    | number of the last commit before its first frame                       |
 * | 44     | 4    | chain before its first frame                                           |
 * | 48     | 4    | salt                                                                   |
 * | 52     | 8    | size of the file                                                       |
 * | 60     | 4    | CRC-32 of the 60 bytes before                                          |
 * | 64     | 12   | merged: its rank, as a commit number (8) and a fraction of 2³² (4)      |
 * | 76     | 4    | CRC-32 of the first 60 bytes and these 12                               |
 * | 4,096  |      | frames, then zeros                                                     |
 *
 * Invariants: a file is closed when it is retired and nobody reads it any more; a segment that the manifest
 * calls sealed is never written again. Earlier versions wrote merged segments without a rank, and pass over
 * it.
 */

import { CoppiceError, crc32, fromHex, toHex } from "coppice";
import { type OpenFile, readFully, type StoreFiles, writeFully } from "./files.js";
import { FRAME_HEADER_BYTES, getUint64, isZero, RECORD_HEADER_BYTES, setUint64, viewOf } from "./frame.js";
import type { HintWriter } from "./hints.js";
import { keyBytes } from "./key-names.js";
import type { SegmentRow } from "./manifest.js";
import { partsOfRank, rankOf } from "./ranks.js";

export const SEGMENT_HEADER_BYTES = 4096;
const HEADER_USED_BYTES = 64;
const RANK_BYTES = 16;
const MAGIC = "coppseg1";
const KINDS = ["log", "merged"] as const;
const ZEROS: Uint8Array = new Uint8Array(1024 * 1024);

export interface SegmentHeader {
  readonly kind: "log" | "merged";
  readonly store: string;
  readonly number: number;
  readonly sequence: number;
  readonly chain: number;
  readonly salt: number;
  readonly bytes: number;
  /** Of a merged segment, where it is known. */
  readonly rank?: bigint | undefined;
}

export class Segment {
  readonly number: number;
  readonly kind: "log" | "merged";
  bytes: number;
  readonly salt: number;
  readonly file: OpenFile;
  /** Where it stands in the order; where that is not known, at the first of the commits that it covers. */
  rank: bigint;
  /** Its number in places of the index; given by the state that holds it. */
  slot = -1;
  /** Where its frames end. */
  end: number;
  chain: number;
  /** Up to where its frames are surely durable. */
  durableEnd: number;
  /** Bytes of the records that keys point to. */
  liveBytes = 0;
  /** Bytes of the records that delete. */
  deletionBytes = 0;
  /** What a hint file will say; of a segment that is being written. */
  hint: HintWriter | undefined;
  retired = false;
  #readers = 0;
  #onClosed: (() => void) | undefined;

  constructor(row: SegmentRow, file: OpenFile, rank: bigint) {
    this.number = row.number;
    this.kind = row.kind;
    this.bytes = row.bytes;
    this.salt = row.salt;
    this.end = row.end;
    this.chain = row.chain;
    this.durableEnd = row.end;
    this.file = file;
    this.rank = rank;
  }

  get row(): SegmentRow {
    const { number, kind, bytes, salt, durableEnd, chain } = this;
    return { number, kind, bytes, salt, end: durableEnd, chain };
  }

  /** Of a merged segment, which is written once: its file ends where its frames do. */
  seal(): void {
    this.bytes = this.end;
    this.durableEnd = this.end;
  }

  get frameBytes(): number {
    return this.end - SEGMENT_HEADER_BYTES;
  }

  /**
   * Bytes of frames that nobody needs, if deletions must be kept; what frames themselves take is among
   * them.
   */
  get deadBytes(): number {
    return this.frameBytes - this.liveBytes - this.deletionBytes;
  }

  /** Keeps the file open until `release`. */
  hold(): void {
    this.#readers++;
  }

  release(): void {
    this.#readers--;
    this.#closeIfFree();
  }

  /** Nobody will hold it any more; to be called once. Resolves when those who do have let go. */
  retire(): Promise<void> {
    this.retired = true;
    const closed = new Promise<void>((resolve) => {
      this.#onClosed = resolve;
    });
    this.#closeIfFree();
    return closed;
  }

  #closeIfFree(): void {
    if (!this.retired || this.#readers > 0) return;
    this.#readers = Number.POSITIVE_INFINITY;
    try {
      this.file.close();
    } finally {
      this.#onClosed?.();
    }
  }
}

/** Bytes of the record of a key. */
export function recordBytes(
  space: string,
  name: string,
  seq: number,
  part: number,
  valueBytes: number,
): number {
  return RECORD_HEADER_BYTES + keyBytes(space, name, seq, part) + valueBytes;
}

export function segmentName(number: number): string {
  return `${String(number).padStart(8, "0")}.seg`;
}

export function hintName(number: number): string {
  return `${String(number).padStart(8, "0")}.hint`;
}

/** Of the file of a segment that was merged away, until a new one is made of it. */
export function spareName(number: number): string {
  return `${String(number).padStart(8, "0")}.spare`;
}

/** Which segment a file of ours belongs to; `undefined` for any other name. */
export function numberOf(
  name: string,
): { readonly number: number; readonly kind: "seg" | "hint" | "spare" } | undefined {
  const [, digits, kind] = /^(\d{8,15})\.(seg|hint|spare)$/.exec(name) ?? [];
  return digits === undefined
    ? undefined
    : { number: Number(digits), kind: kind as "seg" | "hint" | "spare" };
}

/** Whether names in a directory tell of a file log: none of them is older than its first manifest. */
export function holdsLog(names: readonly string[]): boolean {
  return names.some((name) => numberOf(name) !== undefined);
}

/** No log comes to such a number, and one that goes on from it would come to names of too many digits. */
const NUMBER_END = 100_000_000_000_000;

/** The highest number that names of ours have, or had before a crash; 0: there is none. */
export function highestNumber(names: readonly string[]): number {
  const numbers = names.map((name) => numberOf(name)?.number ?? 0);
  return numbers.reduce((most, number) => (number < NUMBER_END ? Math.max(most, number) : most), 0);
}

/**
 * A file of zeros, durable with its name: a new one, or what was `spare`, which must not be longer. When it
 * fails nothing is left under that name, as far as the disk lets us; the spare is the caller's. `onward` is
 * asked between megabytes whether it is still wanted.
 */
export async function createZeroed(
  files: StoreFiles,
  number: number,
  bytes: number,
  {
    spare,
    onward = () => true,
  }: { readonly spare?: string | undefined; readonly onward?: (() => boolean) | undefined } = {},
): Promise<OpenFile> {
  const name = segmentName(number);
  const file = spare === undefined ? await files.open(name, "create") : await files.open(spare, "write");
  try {
    for (let at = 0; at < bytes; at += ZEROS.length) {
      if (!onward()) throw new CoppiceError("CLOSED", "the store was closed meanwhile");
      await writeFully(file, ZEROS, Math.min(ZEROS.length, bytes - at), at);
      // Little by little: the sync of a commit that comes meanwhile waits for all that is on its way.
      await file.sync();
    }
    // Not before: under this name a crash must leave nothing of what the file held.
    if (spare !== undefined) await files.rename(spare, name);
    await files.syncNames();
    return file;
  } catch (error) {
    file.close();
    await files.remove(name).catch(() => undefined);
    throw error;
  }
}

export function encodeSegmentHeader(header: SegmentHeader): Uint8Array {
  const { rank } = header;
  const bytes = new Uint8Array(HEADER_USED_BYTES + (rank === undefined ? 0 : RANK_BYTES));
  const view = viewOf(bytes);
  bytes.set(new TextEncoder().encode(MAGIC), 0);
  view.setUint32(8, KINDS.indexOf(header.kind) + 1, true);
  bytes.set(fromHex(header.store), 12);
  setUint64(view, 28, header.number);
  setUint64(view, 36, header.sequence);
  view.setUint32(44, header.chain, true);
  view.setUint32(48, header.salt, true);
  setUint64(view, 52, header.bytes);
  view.setUint32(60, crc32(bytes.subarray(0, 60)), true);
  if (rank === undefined) return bytes;
  const { sequence, fraction } = partsOfRank(rank);
  setUint64(view, 64, sequence);
  view.setUint32(72, fraction, true);
  view.setUint32(76, rankSum(bytes), true);
  return bytes;
}

/** Not over the sum of the header: with that the sum would say nothing of what comes before it. */
function rankSum(bytes: Uint8Array): number {
  return crc32(bytes.subarray(64, 76), crc32(bytes.subarray(0, 60)));
}

function decodeRank(bytes: Uint8Array, view: DataView): bigint | undefined {
  if (bytes.length < HEADER_USED_BYTES + RANK_BYTES) return undefined;
  if (rankSum(bytes) !== view.getUint32(76, true)) return undefined;
  const sequence = getUint64(view, 64);
  return Number.isSafeInteger(sequence) ? rankOf(sequence, view.getUint32(72, true)) : undefined;
}

/** `undefined` when these bytes are no header. */
export function decodeSegmentHeader(bytes: Uint8Array): SegmentHeader | undefined {
  if (bytes.length < HEADER_USED_BYTES) return undefined;
  const view = viewOf(bytes);
  const kind = KINDS[view.getUint32(8, true) - 1];
  if (new TextDecoder("latin1").decode(bytes.subarray(0, 8)) !== MAGIC || kind === undefined)
    return undefined;
  if (crc32(bytes.subarray(0, 60)) !== view.getUint32(60, true)) return undefined;
  const [number, sequence, size] = [getUint64(view, 28), getUint64(view, 36), getUint64(view, 52)];
  if (![number, sequence, size].every(Number.isSafeInteger)) return undefined;
  return {
    kind,
    store: toHex(bytes.subarray(12, 28)),
    number,
    sequence,
    chain: view.getUint32(44, true),
    salt: view.getUint32(48, true),
    bytes: size,
    rank: kind === "merged" ? decodeRank(bytes, view) : undefined,
  };
}

/** In the order of replay, as headers tell it. */
export function compareHeaders(a: SegmentHeader, b: SegmentHeader): number {
  if (a.sequence !== b.sequence) return a.sequence - b.sequence;
  const [first, second] = [a.rank ?? rankOf(a.sequence), b.rank ?? rankOf(b.sequence)];
  // What a merge has left beside its source has the same rank, and a higher number.
  if (first === second) return a.number - b.number;
  return first < second ? -1 : 1;
}

export async function readSegmentHeader(file: OpenFile): Promise<SegmentHeader | undefined> {
  return decodeSegmentHeader(await readFully(file, HEADER_USED_BYTES + RANK_BYTES, 0));
}

export interface SegmentLook {
  /** Where it is whole. */
  readonly header: SegmentHeader | undefined;
  /** Something was written behind it. */
  readonly isUsed: boolean;
}

export async function lookAtSegment(files: StoreFiles, name: string): Promise<SegmentLook> {
  const file = await files.open(name, "read");
  try {
    const header = await readSegmentHeader(file);
    const first = await readFully(file, FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES);
    return { header, isUsed: !isZero(first, 0, first.length) };
  } finally {
    file.close();
  }
}

/**
 * Opens a segment that the manifest names. Rejects with `CORRUPT` when it is missing, is another one, or has
 * another size.
 */
export async function openSegment(
  files: StoreFiles,
  row: SegmentRow,
  store: string,
  mode: "read" | "write",
): Promise<{ segment: Segment; header: SegmentHeader }> {
  const name = segmentName(row.number);
  let file: OpenFile;
  try {
    file = await files.open(name, mode);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    throw damaged("is missing", name, 0, error);
  }
  try {
    if ((await file.size()) !== row.bytes) throw damaged("has another size than the manifest says", name, 0);
    const header = await readSegmentHeader(file);
    if (header === undefined) throw damaged("has a damaged header", name, 0);
    const same =
      header.store === store &&
      header.number === row.number &&
      header.salt === row.salt &&
      header.kind === row.kind &&
      header.bytes === row.bytes;
    if (!same) throw damaged("is not the one that the manifest names", name, 0);
    return { segment: new Segment(row, file, header.rank ?? rankOf(header.sequence)), header };
  } catch (error) {
    file.close();
    throw error;
  }
}

export function damaged(how: string, file: string, offset: number, cause?: unknown): CoppiceError {
  return new CoppiceError("CORRUPT", `a segment of the file log ${how}`, {
    cause,
    details: { file, offset },
  });
}

/** Bytes of a segment file, as the options say. Throws a `RangeError`. */
export function segmentBytesMaxOf({ segmentBytesMax }: { readonly segmentBytesMax?: number }): number {
  const MIB = 1024 * 1024;
  return wholeNumber("segmentBytesMax", segmentBytesMax ?? 32 * MIB, MIB / 16, 1024 * MIB);
}

export function wholeNumber(
  name: string,
  value: number,
  min: number,
  max: number = Number.MAX_SAFE_INTEGER,
): number {
  if (Number.isSafeInteger(value) && value >= min && value <= max) return value;
  throw new RangeError(`${name} must be a whole number from ${min} to ${max}`);
}
