/**
 * What is known of an open store: its segments in order, the index, and the end of the log. The writer, the
 * merger and readers share it. It does no I/O.
 *
 * Invariants: `segments` are in the order of replay, the last one being written to; each place in the index
 * lies in a segment of `byNumber`; `liveBytes` of a segment is the sum of the records that the index points
 * to.
 */

import { DELETE_KEY, DELETE_RANGE, PUT, RANGE_BYTES, RECORD_HEADER_BYTES } from "./frame.js";
import { KeyIndex, POSITIONS } from "./key-index.js";
import { type KeyParts, partsOf } from "./key-names.js";
import type { Manifest } from "./manifest.js";
import { recordBytes, type Segment } from "./segment.js";

export class StoreState {
  readonly store: string;
  readonly syncs: boolean;
  readonly index: KeyIndex;
  readonly byNumber: Map<number, Segment> = new Map();
  /**
   * Places count slots, not segment numbers, which grow for ever; a slot is free again when its segment
   * goes.
   */
  readonly #slots: (Segment | undefined)[] = [];
  readonly #freeSlots: number[] = [];
  /** Changes when a slot may get another segment: what was remembered by place is void then. */
  slotsFreed = 0;
  segments: readonly Segment[] = [];
  generation: number;
  nextNumber: number;
  /** Of the last commit, and the chain after it. */
  sequence: number;
  chain = 0;
  /** Of the last commit that is surely durable: the last one, where each is synced. */
  durableSequence: number;
  /** Of the last commit that the manifest knows. */
  recordedSequence: number;
  readonly #parts: KeyParts = { space: "", name: "", seq: -1, part: -1 };

  constructor({ store, generation, nextNumber, sequence }: Manifest, syncs: boolean) {
    this.store = store;
    this.syncs = syncs;
    this.generation = generation;
    this.nextNumber = nextNumber;
    this.sequence = sequence;
    this.durableSequence = sequence;
    this.recordedSequence = sequence;
    this.index = new KeyIndex((place, space, name, entry, at) => {
      const segment = this.segmentAt(place);
      if (segment === undefined) return;
      segment.liveBytes -= recordBytes(space, name, entry[at]!, entry[at + 1]!, entry[at + 3]!);
    });
  }

  /** The segment that is written to; `undefined` in a store that was never written to. */
  get active(): Segment | undefined {
    return this.segments.at(-1);
  }

  /** All that was written is durable now. */
  noteDurable(): void {
    this.durableSequence = this.sequence;
    if (this.active !== undefined) this.active.durableEnd = this.active.end;
  }

  addSegment(segment: Segment): void {
    segment.slot = this.#freeSlots.pop() ?? this.#slots.length;
    this.#slots[segment.slot] = segment;
    this.byNumber.set(segment.number, segment);
  }

  /** No key may point to it any more. */
  dropSegment(segment: Segment): void {
    this.#slots[segment.slot] = undefined;
    this.#freeSlots.push(segment.slot);
    this.byNumber.delete(segment.number);
    this.slotsFreed++;
  }

  /** Nobody will read it any more. Resolves when those who do have let go of its files; never rejects. */
  retire(): Promise<unknown> {
    return Promise.all([...this.byNumber.values()].map((segment) => segment.retire()));
  }

  segmentAt(place: number): Segment | undefined {
    return this.#slots[Math.floor(place / POSITIONS)];
  }

  /** The manifest of this state with these segments. */
  manifest(segments: readonly Segment[] = this.segments): Manifest {
    return {
      format: 1,
      store: this.store,
      generation: this.generation + 1,
      nextNumber: this.nextNumber,
      sequence: this.durableSequence,
      syncs: this.syncs,
      segments: segments.map(({ row }) => row),
    };
  }

  putKey(
    segment: Segment,
    space: string,
    name: string,
    seq: number,
    part: number,
    at: number,
    size: number,
  ): void {
    this.index.put(space, name, seq, part, segment.slot * POSITIONS + at, size);
    segment.liveBytes += recordBytes(space, name, seq, part, size);
  }

  /** Replays one record. `position`: where it lies in its segment. */
  replay(
    segment: Segment,
    type: number,
    bytes: Buffer,
    keyStart: number,
    keyEnd: number,
    valueBytes: number,
    position: number,
    from: number,
    to: number,
  ): void {
    const { space, name, seq, part } = partsOf(bytes, keyStart, keyEnd, this.#parts);
    if (type === PUT) {
      this.putKey(segment, space, name, seq, part, position, valueBytes);
      return;
    }
    segment.deletionBytes +=
      RECORD_HEADER_BYTES + keyEnd - keyStart + (type === DELETE_RANGE ? RANGE_BYTES : 0);
    if (type === DELETE_KEY) this.index.delete(space, name, seq, part);
    if (type === DELETE_RANGE) this.index.deleteRange(space, name, from, to);
  }
}
