/**
 * Writes merged segments: records, gathered into frames, in files that no manifest names yet. What is
 * written, and when the files are named, is decided by who calls (`merger.ts`, `repair.ts`).
 *
 * Invariants: each segment ends exactly where its frames do, and is durable, with its name, when `finish`
 * resolves; a file whose write or sync failed is never named.
 */

import { type StoreFiles, writeFully } from "./files.js";
import { FrameWriter, frameBytes, PUT } from "./frame.js";
import { HintWriter, writeHint } from "./hints.js";
import { POSITIONS } from "./key-index.js";
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
}

/** Writes merged segments, frame by frame. They are not named by any manifest yet. */
export class MergeOutput {
  readonly #files: StoreFiles;
  readonly #fresh: Fresh;
  readonly #place: Place;
  readonly #frame = new FrameWriter();
  readonly segments: Segment[] = [];
  #sequence = 0;
  #begun = false;

  constructor(files: StoreFiles, fresh: Fresh, place: Place) {
    this.#files = files;
    this.#fresh = fresh;
    this.#place = place;
  }

  /** The place of the copy. */
  async add(
    type: number,
    key: Uint8Array,
    value: Uint8Array,
    bounds: { from: number; to: number } | undefined,
  ): Promise<number> {
    const bytes = 12 + key.length + value.length;
    let segment = this.segments.at(-1);
    const open = this.#begun ? this.#frame.length : 0;
    if (segment === undefined || segment.end + open + frameBytes(bytes) > segment.bytes) {
      await this.#endSegment();
      segment = await this.#beginSegment(bytes);
    }
    if (!this.#begun) {
      this.#frame.begin(segment.end, segment.salt);
      this.#begun = true;
    }
    const position = this.#frame.add(type, key, value);
    segment.hint!.add(type, key, value.length, position, bounds);
    if (type !== PUT) segment.deletionBytes += bytes;
    if (this.#frame.length >= FRAME_BYTES) await this.#endFrame();
    return segment.number * POSITIONS + position;
  }

  async finish(): Promise<void> {
    await this.#endSegment();
    await this.#files.syncNames();
  }

  /** Number of the last frame of the last segment. */
  get sequence(): number {
    return this.#sequence;
  }

  async abandon(): Promise<void> {
    for (const { number, file } of this.segments) {
      file.close();
      for (const name of [segmentName(number), hintName(number)]) {
        await this.#files.remove(name).catch(() => undefined);
      }
    }
  }

  async #beginSegment(recordBytesMin: number): Promise<Segment> {
    const number = this.#fresh.takeNumber();
    const bytes = Math.max(this.#place.segmentBytesMax, SEGMENT_HEADER_BYTES + frameBytes(recordBytesMin));
    const salt = this.#fresh.newSalt();
    const file = await createZeroed(this.#files, number, SEGMENT_HEADER_BYTES);
    const row = { number, kind: "merged", bytes, salt, end: SEGMENT_HEADER_BYTES, chain: 0 } as const;
    const segment = new Segment(row, file);
    segment.hint = new HintWriter();
    this.segments.push(segment);
    this.#sequence = this.#place.sequence;
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
    const { number, kind, bytes, salt } = segment;
    const header = { number, kind, bytes, salt, ...this.#place, chain: 0 };
    await writeFully(segment.file, encodeSegmentHeader(header), 64, 0);
    await segment.file.sync();
    const hint = segment.hint!;
    segment.hint = undefined;
    await writeHint(this.#files, segment, hint);
  }
}
