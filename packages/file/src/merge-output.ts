/**
 * Writes merged segments: records, gathered into frames, in files that no manifest names yet. What is
 * written, and when the files are named, is decided by who calls (`merger.ts`, `repair.ts`).
 *
 * Invariants: each segment ends exactly where its frames do, and is durable, with its name, when `finish`
 * resolves; a file whose write or sync failed is never named. Headers are written by `finish`, after all
 * frames are durable, that of the last segment first: what is left when that is interrupted is the end of
 * what was copied, and replaying it once more changes nothing. A header before its frames would leave the
 * beginning.
 */

import { type StoreFiles, writeFully } from "./files.js";
import { FrameWriter, frameBytes, PUT, RECORD_HEADER_BYTES, type RecordView } from "./frame.js";
import { HintWriter, writeHint } from "./hints.js";
import { rankOf, ranksBetween } from "./ranks.js";
import {
  createZeroed,
  encodeSegmentHeader,
  hintName,
  SEGMENT_HEADER_BYTES,
  Segment,
  segmentName,
} from "./segment.js";

const FRAME_BYTES = 256 * 1024;

/** Numbers and salts that nobody used. */
export interface Fresh {
  takeNumber(): number;
  newSalt(): number;
}

export interface Place {
  readonly store: string;
  /** Number of the last commit before these segments: it says where in the order they belong. */
  readonly sequence: number;
  readonly segmentBytesMax: number;
  /**
   * Their ranks lie from `from` on and below `to`. `undefined`: nothing comes after them, and each begins
   * with the number at which the one before it ends.
   */
  readonly ranks: { readonly from: bigint; readonly to: bigint } | undefined;
}

/** Writes merged segments, frame by frame. They are not named by any manifest yet. */
export class MergeOutput {
  readonly #files: StoreFiles;
  readonly #fresh: Fresh;
  readonly #place: Place;
  readonly #frame = new FrameWriter();
  readonly segments: Segment[] = [];
  /** Before the first frame of each. */
  readonly #sequences: number[] = [];
  #sequence: number;
  #begun = false;

  constructor(files: StoreFiles, fresh: Fresh, place: Place) {
    this.#files = files;
    this.#fresh = fresh;
    this.#place = place;
    this.#sequence = place.sequence;
  }

  /** Adds a record, after making room. */
  async add(
    type: number,
    key: Uint8Array,
    value: Uint8Array,
    bounds: { from: number; to: number } | undefined,
  ): Promise<void> {
    const bytes = RECORD_HEADER_BYTES + key.length + value.length;
    if (!this.fits(bytes)) await this.makeRoom(bytes);
    const segment = this.#segment();
    segment.hint!.add(type, key, value.length, this.#frame.add(type, key, value), bounds);
    if (type !== PUT) segment.deletionBytes += bytes;
  }

  /** Adds a record that was read, and that `fits`; returns its position in the last segment. */
  addCopy(from: Uint8Array, record: RecordView, bounds: { from: number; to: number } | undefined): number {
    const { type, keyStart, valueStart, end } = record;
    const segment = this.#segment();
    const position = this.#frame.addCopy(from, record);
    const key = new Uint8Array(from.buffer, from.byteOffset + keyStart, valueStart - keyStart);
    segment.hint!.add(type, key, end - valueStart, position, bounds);
    if (type !== PUT) segment.deletionBytes += RECORD_HEADER_BYTES + end - keyStart;
    return position;
  }

  /** Whether a record of so many bytes can be added without `makeRoom`. */
  fits(recordBytes: number): boolean {
    const segment = this.segments.at(-1);
    if (segment === undefined) return false;
    const open = this.#begun ? this.#frame.length : 0;
    return open < FRAME_BYTES && segment.end + open + frameBytes(recordBytes) <= segment.bytes;
  }

  /** Writes the frame, and begins a segment where that is needed. */
  async makeRoom(recordBytes: number): Promise<void> {
    await this.#endFrame();
    if (this.fits(recordBytes)) return;
    await this.#endSegment();
    await this.#beginSegment(recordBytes);
  }

  #segment(): Segment {
    const segment = this.segments.at(-1)!;
    if (!this.#begun) this.#frame.begin(segment.end, segment.salt);
    this.#begun = true;
    return segment;
  }

  async finish(): Promise<void> {
    await this.#endSegment();
    const ranks = this.#ranks();
    for (const { file } of this.segments) await file.sync();
    for (let i = this.segments.length - 1; i >= 0; i--) await this.#head(i, ranks?.[i]);
    await this.#files.syncNames();
  }

  /** Number of the last frame of the last segment. */
  get sequence(): number {
    return this.#sequence;
  }

  /**
   * Removes the files, durably, the first one first: without a manifest what a crash leaves of them counts,
   * and must be the end of what was copied. Returns the names of those that could not be removed, in their
   * order.
   */
  async abandon(): Promise<string[]> {
    const names = this.segments.map(({ number }) => segmentName(number));
    for (const { number, file } of this.segments) {
      file.close();
      await this.#files.remove(hintName(number)).catch(() => undefined);
    }
    for (let i = 0; i < names.length; i++) {
      try {
        await this.#files.remove(names[i]!);
        await this.#files.syncNames();
      } catch {
        return names.slice(i);
      }
    }
    return [];
  }

  async #beginSegment(recordBytesMin: number): Promise<Segment> {
    const number = this.#fresh.takeNumber();
    const bytes = Math.max(this.#place.segmentBytesMax, SEGMENT_HEADER_BYTES + frameBytes(recordBytesMin));
    const salt = this.#fresh.newSalt();
    const file = await createZeroed(this.#files, number, SEGMENT_HEADER_BYTES);
    const row = { number, kind: "merged", bytes, salt, end: SEGMENT_HEADER_BYTES, chain: 0 } as const;
    if (this.#place.ranks !== undefined) this.#sequence = this.#place.sequence;
    const segment = new Segment(row, file, rankOf(this.#sequence));
    segment.hint = new HintWriter();
    this.segments.push(segment);
    this.#sequences.push(this.#sequence);
    return segment;
  }

  async #endFrame(): Promise<void> {
    const segment = this.segments.at(-1);
    if (!this.#begun || segment === undefined) return;
    this.#begun = false;
    const { bytes, length, chain } = this.#frame.finish(++this.#sequence, segment.chain);
    await writeFully(segment.file, bytes, length, segment.end);
    segment.end += length;
    segment.chain = chain;
  }

  /** Its file ends where its frames do. */
  async #endSegment(): Promise<void> {
    const segment = this.segments.at(-1);
    if (segment === undefined) return;
    await this.#endFrame();
    segment.seal();
    const hint = segment.hint!;
    segment.hint = undefined;
    await writeHint(this.#files, segment, hint);
  }

  /** `undefined`: there is no room, which is so between segments of an earlier version. */
  #ranks(): bigint[] | undefined {
    const { ranks } = this.#place;
    if (ranks === undefined) return this.segments.map(({ rank }) => rank);
    const sizes = this.segments.map(({ frameBytes }) => frameBytes);
    return ranksBetween(ranks.from, ranks.to, sizes);
  }

  async #head(at: number, rank: bigint | undefined): Promise<void> {
    const segment = this.segments[at]!;
    const { number, kind, bytes, salt, file } = segment;
    const { store } = this.#place;
    if (rank !== undefined) segment.rank = rank;
    const header = { number, kind, bytes, salt, store, sequence: this.#sequences[at]!, chain: 0, rank };
    const encoded = encodeSegmentHeader(header);
    await writeFully(file, encoded, encoded.length, 0);
    await file.sync();
  }
}
