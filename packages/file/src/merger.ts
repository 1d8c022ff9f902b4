/**
 * Merging: copies what is live in some neighbouring sealed segments into new ones, and lets the old ones
 * go. It runs in the background, in slices, beside commits and reads.
 *
 * The steps: read a source, verify it, copy its live records and, unless the sources are the oldest of all,
 * its deletions, in their order → sync the new files → one manifest puts them in the place of the old (the
 * switch) → point the index to them, in slices → remove the old files, or keep them for new segments. A crash
 * before the switch leaves the old state and files that the next open removes; after it, the new state.
 *
 * Invariants: records keep their order, so replay gives the same; a deletion is dropped only when no older
 * segment is left that could hold what it deletes; a damaged source stops merging, and nothing of it is
 * removed; a file whose sync failed is never named.
 */

import { CoppiceError, type Env, isCoppiceError } from "coppice";
import { isFull, type StoreFiles } from "./files.js";
import {
  DELETE_RANGE,
  FRAME_HEADER_BYTES,
  PUT,
  RECORD_HEADER_BYTES,
  type RecordView,
  rangeOf,
  readHeader,
  readRecords,
  unmask,
} from "./frame.js";
import { POSITIONS } from "./key-index.js";
import { type KeyParts, partsOf } from "./key-names.js";
import type { LogWriter, WriterLimits } from "./log-writer.js";
import { MergeOutput } from "./merge-output.js";
import {
  damaged,
  hintName,
  readSegmentHeader,
  recordBytes,
  SEGMENT_HEADER_BYTES,
  type Segment,
  segmentName,
  spareName,
} from "./segment.js";
import type { Spare } from "./spares.js";
import type { StoreState } from "./store-state.js";
import { Window } from "./window.js";

/** Bytes read, or index entries moved, before others get a turn. */
const SLICE_BYTES = 16 * 1024;
const SLICE_MOVES = 64;
/** Less is not worth a file, and what frames themselves take would be merged again and again. */
const GAIN_BYTES_MIN = 4096;

export interface MergeSettings {
  readonly limits: WriterLimits;
  readonly deadRatioMin: number;
}

/** The keys whose records were copied. */
interface Moves {
  readonly spaces: string[];
  readonly names: string[];
  readonly segments: Segment[];
  /** Of each key four: seq, part, place before, position now. */
  readonly numbers: number[];
}

/** Runs a task while no commit is under way. */
type InTurn = <T>(task: () => Promise<T>) => Promise<T>;

export class Merger {
  readonly #files: StoreFiles;
  readonly #state: StoreState;
  readonly #writer: LogWriter;
  readonly #env: Env;
  readonly #settings: MergeSettings;
  readonly #inTurn: InTurn;
  #running: Promise<unknown> = Promise.resolve();
  #awake = false;
  /** Calls of `run` that have not ended. */
  #asked = 0;
  #stopped = false;
  merges = 0;
  bytesWritten = 0;
  /**
   * Why merging in the background ended; `merge()` may be tried again, and after a full disk the next segment
   * is a reason to.
   */
  failure: unknown;

  constructor(
    files: StoreFiles,
    state: StoreState,
    writer: LogWriter,
    env: Env,
    settings: MergeSettings,
    inTurn: InTurn,
  ) {
    this.#files = files;
    this.#state = state;
    this.#writer = writer;
    this.#env = env;
    this.#settings = settings;
    this.#inTurn = inTurn;
  }

  /** Looks for work in the background. `hasRoom`: where the disk was full, another segment has found room. */
  wake({ hasRoom = false }: { readonly hasRoom?: boolean } = {}): void {
    const hasFailed = this.failure !== undefined && !(hasRoom && isCoppiceError(this.failure, "STORE_FULL"));
    if (this.#awake || this.#stopped || hasFailed || this.#settings.deadRatioMin >= 1) return;
    if (this.#candidates(this.#ratioDue()).length === 0) return;
    this.#awake = true;
    this.#begin(() => this.#mergeAll(() => this.#ratioDue(), { isYielding: true })).then(
      () => {
        this.#awake = false;
      },
      (error: unknown) => {
        this.#awake = false;
        if (!this.#stopped) this.failure = error;
      },
    );
  }

  mergeableBytes(): number {
    return this.#candidates(this.#settings.deadRatioMin).reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** One run at a time. Rejects with the error of the file system translated, or with `CORRUPT`. */
  run({ force = false, signal }: { force?: boolean; signal?: AbortSignal }): Promise<{ freedBytes: number }> {
    const { deadRatioMin } = this.#settings;
    this.#asked++;
    const work = async () => {
      // What is asked for is room, and copying needs some.
      await this.#writer.dropSpares();
      await (force ? this.#mergeEverything(signal) : this.#mergeAll(() => deadRatioMin, { signal }));
      await this.#writer.dropSpares();
    };
    return this.#begin(work, signal).finally(() => {
      this.#asked--;
      this.wake();
    });
  }

  #begin(work: () => Promise<void>, signal?: AbortSignal): Promise<{ freedBytes: number }> {
    const result = this.#running.then(() => this.#runNow(work, signal));
    this.#running = result.catch(() => undefined);
    return result;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  async #runNow(work: () => Promise<void>, signal?: AbortSignal): Promise<{ freedBytes: number }> {
    const before = this.#fileBytes() + this.#writer.spares.bytes;
    try {
      await work();
    } catch (error) {
      if (isCoppiceError(error) || signal?.aborted) throw error;
      if (isFull(error)) await this.#writer.spares.free();
      throw isFull(error)
        ? new CoppiceError("STORE_FULL", "the disk has no room to merge segments", { cause: error })
        : new CoppiceError("UNAVAILABLE", "merging failed; the store is as it was", { cause: error });
    }
    this.failure = undefined;
    return { freedBytes: Math.max(0, before - this.#fileBytes() - this.#writer.spares.bytes) };
  }

  async #mergeAll(
    ratioMin: () => number,
    {
      signal,
      isYielding = false,
    }: { readonly signal?: AbortSignal | undefined; readonly isYielding?: boolean } = {},
  ): Promise<void> {
    for (;;) {
      const sources = this.#candidates(ratioMin());
      // Where somebody always writes, the background would never come to an end for those who ask.
      if (sources.length === 0 || (this.#asked > 0 && isYielding)) return;
      this.#goOn(signal);
      await this.#merge(sources, signal);
    }
  }

  async #mergeEverything(signal: AbortSignal | undefined): Promise<void> {
    await this.#inTurn(async () => {
      const { active } = this.#state;
      if (active !== undefined && active.frameBytes > 0) await this.#writer.rotate();
    });
    await this.#merge(this.#state.segments.slice(0, -1), signal);
  }

  /**
   * How dead a segment must be that is merged in the background. What dies is still dying, and what is dead
   * need not be copied: so a segment waits until half of what might be left of it has died too, unless that
   * part of the whole store is dead, or the store has come half way to its limits. So the store never holds
   * more that is dead than if none waited, and none is full that would not have been.
   */
  #ratioDue(): number {
    const { deadRatioMin, limits } = this.#settings;
    const { length } = this.#state.segments;
    let [gain, bytes] = [0, 0];
    for (const [i, segment] of this.#state.segments.slice(0, -1).entries()) {
      gain += gainOf(segment, i === 0);
      bytes += segment.frameBytes;
    }
    const isShort = 2 * length > limits.segmentsMax || 2 * this.#fileBytes() > limits.storeBytesMax;
    return isShort || gain >= deadRatioMin * bytes ? deadRatioMin : (1 + deadRatioMin) / 2;
  }

  /**
   * The deadest sealed segment, when so much of it is dead, with the neighbours that are too or that are
   * small.
   */
  #candidates(ratioMin: number): Segment[] {
    const sealed = this.#state.segments.slice(0, -1);
    const ratios = sealed.map((segment, i) => {
      const gain = gainOf(segment, i === 0);
      return gain < GAIN_BYTES_MIN ? 0 : gain / segment.frameBytes;
    });
    const best = ratios.indexOf(Math.max(...ratios));
    if (best < 0 || ratios[best]! < ratioMin) return [];
    let [first, last] = [best, best];
    let left = this.#settings.limits.segmentBytesMax - SEGMENT_HEADER_BYTES - keptBytes(sealed[best]!);
    const fits = (i: number) => {
      const segment = sealed[i];
      if (segment === undefined) return false;
      const small = segment.frameBytes < this.#settings.limits.segmentBytesMax / 4;
      if (keptBytes(segment) > left || !(small || ratios[i]! >= ratioMin)) return false;
      left -= keptBytes(segment);
      return true;
    };
    while (fits(first - 1)) first--;
    while (fits(last + 1)) last++;
    return sealed.slice(first, last + 1);
  }

  async #merge(sources: readonly Segment[], signal: AbortSignal | undefined): Promise<void> {
    if (sources.length === 0) return;
    const dropsDeletions = sources[0] === this.#state.segments[0];
    const output = await this.#output(sources);
    const moves: Moves = { spaces: [], names: [], segments: [], numbers: [] };
    try {
      for (const source of sources) await this.#copy(source, output, moves, dropsDeletions, signal);
      // What was left out of the copy is superseded by commits, which must be durable before the copy has
      // headers: without a manifest it counts then.
      await this.#inTurn(() => this.#writer.syncLog());
      await output.finish();
    } catch (error) {
      await this.#abandon(output);
      throw error;
    }
    const added = output.segments;
    for (const segment of added) this.#state.addSegment(segment);
    try {
      await this.#writer.replace(sources, added);
    } catch (error) {
      // After a failure either list may be the durable one; nothing is removed, and the store must be
      // reopened.
      if (this.#writer.failure === undefined) {
        for (const segment of added) this.#state.dropSegment(segment);
        await this.#abandon(output);
      }
      throw error;
    }
    this.merges++;
    this.bytesWritten += added.reduce((sum, { end }) => sum + end, 0);
    await this.#point(moves);
    await this.#drop(sources);
  }

  async #abandon(output: MergeOutput): Promise<void> {
    for (const name of await output.abandon()) this.#writer.spares.doom(name);
  }

  /** Its segments take the place of the sources in the order of commits, from the first of them on. */
  async #output(sources: readonly Segment[]): Promise<MergeOutput> {
    const { segments } = this.#state;
    const first = sources[0]!;
    const at = segments.indexOf(first);
    const header = await readSegmentHeader(first.file);
    if (header === undefined) throw damaged("has a damaged header", segmentName(first.number), 0);
    const { segmentBytesMax } = this.#settings.limits;
    // The one before counts where an earlier version has written both.
    const above = at === 0 ? first.rank : segments[at - 1]!.rank + 1n;
    const from = first.rank > above ? first.rank : above;
    // The one that is written to is never merged, so there is one after them.
    const ranks = { from, to: segments[at + sources.length]!.rank };
    const place = { store: this.#state.store, sequence: header.sequence, segmentBytesMax, ranks };
    return new MergeOutput(this.#files, this.#writer, place);
  }

  async #copy(
    source: Segment,
    output: MergeOutput,
    moves: Moves,
    dropsDeletions: boolean,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const header = await readSegmentHeader(source.file);
    if (header === undefined) throw damaged("has a damaged header", segmentName(source.number), 0);
    const window = new Window(source.file, source.end);
    let { chain, sequence } = header;
    let slice = 0;
    this.#goOn(signal);
    for (let position = SEGMENT_HEADER_BYTES; position < source.end; ) {
      let at = await window.have(position, FRAME_HEADER_BYTES);
      const frame = readHeader(window.bytes, at, position, source.salt);
      if (frame !== undefined) at = await window.have(position, frame.length);
      const records = frame && readRecords(window.bytes, at, position, source.salt, frame);
      const follows = frame !== undefined && frame.previous === chain && frame.sequence === sequence + 1;
      if (records === undefined || !follows)
        throw damaged("is damaged", segmentName(source.number), position);
      for (const record of records) {
        if (this.#isNeeded(source, window.buffer, record, dropsDeletions)) {
          const length = RECORD_HEADER_BYTES + record.end - record.keyStart;
          if (!output.fits(length)) await output.makeRoom(length);
          this.#copyRecord(source, window, record, output, moves);
        }
        slice += RECORD_HEADER_BYTES + record.end - record.keyStart;
        if (slice < SLICE_BYTES) continue;
        slice = 0;
        await this.#turn();
        this.#goOn(signal);
      }
      [chain, sequence] = [frame!.chain, frame!.sequence];
      position += frame!.length;
    }
  }

  /** Leaves the parts of a key that is put. */
  #isNeeded(source: Segment, buffer: Buffer, record: RecordView, dropsDeletions: boolean): boolean {
    const { type, keyStart, valueStart, position } = record;
    if (type !== PUT) return !dropsDeletions;
    const { space, name, seq, part } = partsOf(buffer, keyStart, valueStart, this.#parts);
    return this.#state.index.find(space, name, seq, part) === source.slot * POSITIONS + position;
  }

  #copyRecord(
    source: Segment,
    { bytes }: Window,
    record: RecordView,
    output: MergeOutput,
    moves: Moves,
  ): void {
    const { type, valueStart, end, mask, position } = record;
    const bounds = type === DELETE_RANGE ? rangeOf(bytes, record) : undefined;
    if (mask !== 0) unmask(bytes, valueStart, end, mask);
    const moved = output.addCopy(bytes, record, bounds);
    if (type !== PUT) return;
    const { space, name, seq, part } = this.#parts;
    moves.spaces.push(space);
    moves.names.push(name);
    moves.segments.push(output.segments.at(-1)!);
    moves.numbers.push(seq, part, source.slot * POSITIONS + position, moved);
  }

  readonly #parts: KeyParts = { space: "", name: "", seq: -1, part: -1 };

  async #point({ spaces, names, segments, numbers }: Moves): Promise<void> {
    const { index } = this.#state;
    for (let i = 0; i < names.length; i++) {
      const [space, name, segment] = [spaces[i]!, names[i]!, segments[i]!];
      const [seq, part, from] = [numbers[4 * i]!, numbers[4 * i + 1]!, numbers[4 * i + 2]!];
      const to = segment.slot * POSITIONS + numbers[4 * i + 3]!;
      const valueBytes = index.move(space, name, seq, part, from, to);
      if (valueBytes >= 0) {
        const bytes = recordBytes(space, name, seq, part, valueBytes);
        this.#state.segmentAt(from)!.liveBytes -= bytes;
        segment.liveBytes += bytes;
      }
      if (i % SLICE_MOVES === SLICE_MOVES - 1) await this.#turn();
    }
  }

  async #drop(sources: readonly Segment[]): Promise<void> {
    const { spares } = this.#writer;
    const kept: Spare[] = [];
    for (const { number } of sources)
      for (const name of [segmentName(number), hintName(number)]) spares.doom(name);
    await this.#writer.settleHints();
    const unread = new Map<Segment, Promise<void>>();
    for (const source of sources) {
      this.#state.dropSegment(source);
      unread.set(source, source.retire());
    }
    for (const source of sources) {
      const { number, bytes } = source;
      await spares.remove(hintName(number));
      const [name, spare] = [segmentName(number), spareName(number)];
      if (this.#writer.wantsSpare(source, kept)) {
        await unread.get(source);
        if (await spares.rename(name, spare)) kept.push({ name: spare, bytes });
      } else await spares.remove(name);
      // One after the other: without a manifest, what a crash leaves of the newest changes nothing, while an
      // older one alone would bring back what the others delete.
      await this.#files.syncNames();
    }
    spares.keep(kept);
  }

  #goOn(signal: AbortSignal | undefined): void {
    signal?.throwIfAborted();
    if (this.#stopped) throw new CoppiceError("CLOSED", "the file log was closed while it merged");
    if (this.#writer.failure !== undefined) {
      throw new CoppiceError("POISONED", "an earlier write failed; open the file log again", {
        cause: this.#writer.failure,
      });
    }
  }

  #turn(): Promise<void> {
    return new Promise((resolve) => this.#env.turn(resolve));
  }

  #fileBytes(): number {
    return this.#state.segments.reduce((sum, { bytes }) => sum + bytes, 0);
  }
}

/** Bytes that merging would take out. */
function gainOf(segment: Segment, oldest: boolean): number {
  return segment.deadBytes + (oldest ? segment.deletionBytes : 0);
}

function keptBytes(segment: Segment): number {
  return segment.liveBytes + segment.deletionBytes;
}
