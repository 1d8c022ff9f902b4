/**
 * Writing the log: one commit is one frame, one write and one sync. It also prepares the next segment
 * ahead, and changes the list of segments; both the log's own rotation and merging go through its one lane
 * for manifests.
 *
 * Invariants:
 * - at most one frame is ever unsynced: the next may be built meanwhile, and is written when that one is
 *   durable;
 * - a frame is applied to the index only when it is durable;
 * - after any failed write or sync of a frame or of the manifest nothing more is written, and no sync is
 *   repeated: `failure` says why, until the store is opened again;
 * - a disk that is full is noticed when a segment is prepared or named, before a frame is written; then
 *   nothing has changed.
 */

import {
  type Batch,
  CoppiceError,
  type Entry,
  type Env,
  encodeKey,
  isCoppiceError,
  isRangeDeletion,
} from "coppice";
import { isFull, type OpenFile, type StoreFiles, writeFully } from "./files.js";
import {
  DELETE_KEY,
  DELETE_RANGE,
  FrameWriter,
  frameBytes,
  RANGE_BYTES,
  RECORD_HEADER_BYTES,
} from "./frame.js";
import { HintWriter, writeHint } from "./hints.js";
import { keyBytes, nameOf } from "./key-names.js";
import { NoRoomForManifest, writeManifest } from "./manifest.js";
import { rankOf } from "./ranks.js";
import { createZeroed, encodeSegmentHeader, SEGMENT_HEADER_BYTES, Segment, segmentName } from "./segment.js";
import { type Spare, Spares } from "./spares.js";
import type { StoreState } from "./store-state.js";

export interface WriterLimits {
  /** Bytes of a segment file. A larger commit gets a larger segment of its own. */
  readonly segmentBytesMax: number;
  readonly segmentsMax: number;
  /** Bytes of all segments. */
  readonly storeBytesMax: number;
  /** Commits may hold up the thread while they are synced. */
  readonly blocking: boolean;
}

/** New stores begin with small segments, and get larger ones as they grow. */
const SEGMENT_BYTES_FIRST = 1024 * 1024;

/** A frame that is built; its bytes are in memory that the next one takes. */
export interface Frame {
  readonly changes: Changes;
  readonly segment: Segment;
  /** Where it lies in the segment. */
  readonly start: number;
  readonly positions: readonly number[];
  readonly bytes: Uint8Array;
  readonly length: number;
  readonly chain: number;
  /** Settles when it is; `undefined`: its time has not come. */
  durable: Promise<void> | undefined;
  /** Its bytes are with the system, and their memory is free. */
  isWritten: boolean;
}

interface Prepared {
  readonly number: number;
  readonly bytes: number;
  readonly file: OpenFile;
}

export class LogWriter {
  readonly #files: StoreFiles;
  readonly #state: StoreState;
  readonly #env: Env;
  readonly #limits: WriterLimits;
  readonly #frame = new FrameWriter();
  /** Being synced; and what follows it, built already. */
  #syncing: Frame | undefined;
  #next: Frame | undefined;
  #prepared: Promise<Prepared | undefined> | undefined;
  readonly spares: Spares;
  #manifests: Promise<unknown> = Promise.resolve();
  #hints: Promise<unknown> = Promise.resolve();
  #closing = false;
  /** What stopped all writing. */
  failure: unknown;
  /** Told after a rotation. */
  onRotation: () => void = () => undefined;

  constructor(files: StoreFiles, state: StoreState, env: Env, limits: WriterLimits) {
    this.#files = files;
    this.spares = new Spares(files);
    this.#state = state;
    this.#env = env;
    this.#limits = limits;
  }

  /**
   * Writes a batch whose expectations hold, and applies it. Rejects with `STORE_FULL` (nothing written), or
   * with the error of the file system; then `failure` is set if anything may have been written.
   */
  async write(batch: Batch): Promise<void> {
    const changes = plan(this.#state, batch);
    if (changes.bytes === 0) return;
    const length = frameBytes(changes.bytes);
    const segment =
      this.#fitting(length) ?? (await this.#room(length, changes.names.length > 0).catch(asNotWritten));
    const { sequence, chain } = this.#state;
    const next = this.#build(changes, segment, segment.end, sequence, chain);
    this.#send(next);
    await this.finish(next);
  }

  /**
   * Whether the frame of this batch can be built while the one before it is being synced: what that one
   * changes the batch neither expects nor deletes.
   */
  follows({ delete: remove = [], expect = [] }: Batch): boolean {
    const before = this.#syncing;
    if (before === undefined || !before.isWritten || this.#next !== undefined || this.failure !== undefined)
      return false;
    // With deletions, which are few, it is not looked for.
    const { deletions, puts } = before.changes;
    if (deletions.length > 0 || remove.length > 0) return false;
    const changed = new Set<string>();
    for (const { key } of puts) changed.add(key[1]);
    return !expect.some(({ key }) => changed.has(key[1]));
  }

  /**
   * Builds that frame, which goes as soon as the one before it is durable; `finish` must be called in its
   * turn.
   * `undefined`: there is nothing to write, or no room in the segment.
   */
  prepare(batch: Batch): Frame | undefined {
    const changes = plan(this.#state, batch);
    const { segment, length, chain } = this.#syncing!;
    const start = segment.end + length;
    if (changes.bytes === 0 || start + frameBytes(changes.bytes) > segment.bytes) return undefined;
    this.#next = this.#build(changes, segment, start, this.#state.sequence + 1, chain);
    return this.#next;
  }

  /** Resolves when the frame is durable and applied; rejects as `write` does. */
  async finish(frame: Frame): Promise<void> {
    const { segment, length, chain, changes, positions, durable } = frame;
    const state = this.#state;
    if (durable === undefined) throw poisoned(this.failure);
    // While the disk works. After a failure no segment is sealed, and no hint written.
    noteHint(segment.hint, changes, positions);
    if (state.syncs) this.#syncing = frame;
    try {
      await durable;
    } catch (error) {
      this.failure = error;
      throw new CoppiceError("OUTCOME_UNKNOWN", "a write or sync failed, and may have been written", {
        cause: error,
      });
    }
    this.#syncing = undefined;
    segment.end += length;
    segment.chain = chain;
    state.sequence++;
    state.chain = chain;
    if (state.syncs) state.noteDurable();
    // The disk first: what is applied meanwhile was not acknowledged yet.
    const next = this.#next;
    this.#next = undefined;
    if (next !== undefined && this.failure === undefined) this.#send(next);
    apply(state, segment, changes, positions);
    if (segment.end > segment.bytes / 2) this.#prepared ??= this.#prepare();
  }

  #build(changes: Changes, segment: Segment, start: number, sequence: number, previous: number): Frame {
    const writer = this.#frame;
    writer.begin(start, segment.salt);
    const positions = addRecords(writer, changes);
    const { bytes, length, chain } = writer.finish(sequence + 1, previous);
    return { changes, segment, start, positions, bytes, length, chain, durable: undefined, isWritten: false };
  }

  /** Writes the frame and begins to sync it; whatever fails, `finish` says so. */
  #send(frame: Frame): void {
    frame.durable = this.#put(frame);
    frame.durable.catch(() => undefined);
  }

  async #put(frame: Frame): Promise<void> {
    const { segment, bytes, length, start } = frame;
    const written = writeFully(segment.file, bytes, length, start);
    if (written !== undefined) await written;
    frame.isWritten = true;
    if (this.#state.syncs) await segment.file.sync(this.#limits.blocking);
    // Nothing waits for the disk: let others have their turn between two commits.
    else await new Promise<void>((resolve) => this.#env.turn(resolve));
  }

  /**
   * Puts `added` in the place of `removed` (neighbours in the order), durably. After a rejection `failure`
   * is set: either list may be the durable one; but for `STORE_FULL`, after which nothing has changed.
   */
  replace(removed: readonly Segment[], added: readonly Segment[]): Promise<void> {
    return this.#changeManifest(() => {
      const segments = [...this.#state.segments];
      segments.splice(segments.indexOf(removed[0]!), removed.length, ...added);
      return segments;
    });
  }

  /**
   * Seals the segment that is written to, so that it can be merged. Call it while no commit is under way.
   */
  async rotate(): Promise<void> {
    await this.#rotate(this.#nextBytes());
  }

  /** Makes what was written durable, where commits are not synced. Call it while no commit is under way. */
  async syncLog(): Promise<void> {
    const { active, syncs } = this.#state;
    if (syncs || active === undefined) return;
    try {
      await active.file.sync();
    } catch (error) {
      this.failure = error;
      throw error;
    }
    this.#state.noteDurable();
  }

  /** Resolves when no hint file is being written. */
  async settleHints(): Promise<void> {
    await this.#hints;
  }

  /** Whether the file of a segment that was merged away is worth keeping, beside `others`. */
  wantsSpare({ bytes }: Segment, others: readonly Spare[]): boolean {
    const { storeBytesMax } = this.#limits;
    const [nextBytes, storeBytes] = [this.#nextBytes(), sum(this.#state.segments)];
    return this.spares.wants(bytes, others, { nextBytes, storeBytes, storeBytesMax });
  }

  /** Removes what must go. When it resolves no file holds what those held. */
  async dropSpares(): Promise<void> {
    // Zeros are perhaps being written over one of them.
    await this.#prepared;
    await this.spares.removeAll();
  }

  /** Ends what is prepared. */
  beginClosing(): void {
    this.#closing = true;
  }

  takeNumber(): number {
    return this.#state.nextNumber++;
  }

  newSalt(): number {
    const [a, b, c, d] = this.#env.random(4) as unknown as [number, number, number, number];
    return ((a << 24) | (b << 16) | (c << 8) | d) >>> 0;
  }

  /** Writes how far the log reaches, unless it is known or something failed; ends what is going on. */
  async close(): Promise<void> {
    this.beginClosing();
    const prepared = await this.#prepared;
    prepared?.file.close();
    await this.#hints;
    await this.#manifests.catch(() => undefined);
    if (this.failure !== undefined) return;
    if (prepared !== undefined) await this.#files.remove(segmentName(prepared.number));
    // What is left the next opening removes.
    await this.dropSpares().catch(() => undefined);
    const state = this.#state;
    if (state.active === undefined || state.recordedSequence === state.sequence) return;
    await this.syncLog();
    // All is durable: without room for how far the log reaches the next opening finds that out by itself.
    await this.#changeManifest(() => [...state.segments]).catch((error: unknown) => {
      if (!isCoppiceError(error, "STORE_FULL")) throw error;
    });
  }

  /** The segment that is written to, when it has room for a frame. */
  #fitting(length: number): Segment | undefined {
    const { active } = this.#state;
    return active !== undefined && active.end + length <= active.bytes ? active : undefined;
  }

  /** A new segment with room for a frame. */
  async #room(length: number, puts: boolean): Promise<Segment> {
    const bytes = Math.max(this.#nextBytes(), SEGMENT_HEADER_BYTES + length);
    if (puts) this.#assertSpace(bytes);
    return this.#rotate(bytes);
  }

  #nextBytes(): number {
    const total = sum(this.#state.segments);
    return Math.min(this.#limits.segmentBytesMax, Math.max(SEGMENT_BYTES_FIRST, total));
  }

  #assertSpace(bytes: number): void {
    const { segmentsMax, storeBytesMax } = this.#limits;
    const { segments } = this.#state;
    const total = sum(segments) + bytes;
    if (segments.length < segmentsMax && total <= storeBytesMax) return;
    const byCount = segments.length >= segmentsMax;
    const details = byCount
      ? { limit: "segmentsMax", max: segmentsMax, actual: segments.length + 1 }
      : { limit: "storeBytesMax", max: storeBytesMax, actual: total };
    const reached = `the file log has reached its limit, ${details.limit} of ${details.max}`;
    throw new CoppiceError("STORE_FULL", `${reached}; nothing was written: merge it, or raise the limit`, {
      details,
    });
  }

  async #rotate(bytes: number): Promise<Segment> {
    // A sync that is repeated says nothing of what the failed one has lost.
    if (this.failure !== undefined) throw poisoned(this.failure);
    const prepared = await this.#takePrepared(bytes);
    const state = this.#state;
    const { number, file } = prepared;
    const row = { number, kind: "log", bytes: prepared.bytes, salt: this.newSalt() } as const;
    const { sequence, chain } = state;
    const next = new Segment({ ...row, end: SEGMENT_HEADER_BYTES, chain }, file, rankOf(sequence));
    next.hint = new HintWriter();
    const header = encodeSegmentHeader({ ...row, store: state.store, sequence, chain });
    const sealed = state.active;
    try {
      // First what comes before it: by its header opening knows that all of that was durable.
      if (!state.syncs) await sealed?.file.sync();
      await writeFully(file, header, header.length, 0);
      await file.sync();
      state.noteDurable();
    } catch (error) {
      this.failure = error;
      throw error;
    }
    state.addSegment(next);
    try {
      await this.#changeManifest(() => [...state.segments, next]);
    } catch (error) {
      // It was not named: the next commit that needs it begins with it anew.
      if (this.failure === undefined) {
        state.dropSegment(next);
        this.#prepared = Promise.resolve(prepared);
      }
      throw error;
    }
    if (sealed !== undefined) this.#keepHint(sealed);
    this.onRotation();
    return next;
  }

  /** Whatever happens to a hint, the store does without it. */
  #keepHint(sealed: Segment): void {
    const { hint } = sealed;
    if (hint === undefined) return;
    sealed.hint = undefined;
    this.#hints = this.#hints.then(() => writeHint(this.#files, sealed, hint)).catch(() => undefined);
  }

  async #takePrepared(bytes: number): Promise<Prepared> {
    const prepared = await this.#prepared;
    this.#prepared = undefined;
    if (prepared !== undefined && prepared.bytes >= bytes) return prepared;
    if (prepared !== undefined) {
      prepared.file.close();
      await this.#files.remove(segmentName(prepared.number));
    }
    try {
      return await this.#make(bytes).catch(async (error: unknown) => {
        if (isFull(error) && (await this.spares.free())) return this.#make(bytes);
        throw error;
      });
    } catch (error) {
      if (!isFull(error)) throw error;
      const lacks = `the disk has no room for another segment of ${bytes} bytes`;
      throw new CoppiceError("STORE_FULL", `${lacks}; nothing was written: make room, and repeat`, {
        cause: error,
        details: { bytes },
      });
    }
  }

  /** Resolves with `undefined` where it failed: then the commit that needs it finds out why. */
  #prepare(): Promise<Prepared | undefined> {
    return this.#make(this.#nextBytes(), () => !this.#closing).catch(() => undefined);
  }

  async #make(bytes: number, onward?: () => boolean): Promise<Prepared> {
    const number = this.takeNumber();
    const spare = this.spares.take(bytes);
    if (spare !== undefined) {
      try {
        const file = await createZeroed(this.#files, number, bytes, { spare: spare.name, onward });
        this.spares.used(spare);
        return { number, bytes, file };
      } catch {
        // No commit is refused because of it; if it cannot be removed now, it is with the next merge.
        await this.spares.remove(spare.name).catch(() => undefined);
      }
    }
    return { number, bytes, file: await createZeroed(this.#files, number, bytes, { onward }) };
  }

  async #writeManifest(segments: readonly Segment[]): Promise<void> {
    const manifest = this.#state.manifest(segments);
    await writeManifest(this.#files, manifest).catch(async (error: unknown) => {
      if (!(error instanceof NoRoomForManifest) || !(await this.spares.free())) throw error;
      await writeManifest(this.#files, manifest);
    });
  }

  #changeManifest(change: () => Segment[]): Promise<void> {
    const changed = this.#manifests.then(async () => {
      if (this.failure !== undefined) throw this.failure;
      const segments = change();
      const recorded = this.#state.durableSequence;
      try {
        await this.#writeManifest(segments);
      } catch (error) {
        if (error instanceof NoRoomForManifest) throw full(error);
        this.failure = error;
        throw error;
      }
      this.#state.generation++;
      this.#state.recordedSequence = recorded;
      this.#state.segments = segments;
    });
    this.#manifests = changed.catch(() => undefined);
    return changed;
  }
}

function sum(files: readonly { readonly bytes: number }[]): number {
  return files.reduce((total, { bytes }) => total + bytes, 0);
}

/** What a commit rejects with after a failure. */
export function poisoned(failure: unknown): CoppiceError {
  return new CoppiceError("POISONED", "an earlier write failed; open the file log again", { cause: failure });
}

function full(cause: Error): CoppiceError {
  return new CoppiceError("STORE_FULL", `${cause.message}; nothing was written: make room, and repeat`, {
    cause,
  });
}

/** The frame itself was not begun. */
function asNotWritten(error: unknown): never {
  if (isCoppiceError(error)) throw error;
  throw new CoppiceError("UNAVAILABLE", "the next segment could not be made; the commit was not written", {
    cause: error,
  });
}

interface Deleted {
  readonly key: Uint8Array;
  readonly space: string;
  readonly name: string;
  readonly seq: number;
  readonly part: number;
  /** Present: a range. */
  readonly bounds?: { readonly from: number | undefined; readonly to: number | undefined };
}

interface Changes {
  readonly deletions: readonly Deleted[];
  readonly puts: readonly Entry[];
  /** Of the puts, in their order. */
  readonly names: readonly string[];
  /** Of the records. */
  readonly bytes: number;
}

/** What a batch changes. Deletions that meet no key are left out: no record of theirs is needed. */
function plan(state: StoreState, { put = [], delete: remove = [] }: Batch): Changes {
  let bytes = 0;
  const deletions: Deleted[] = [];
  for (const deletion of remove) {
    if (isRangeDeletion(deletion)) {
      const { space, id, from, to } = deletion;
      const name = nameOf(id);
      if (!state.index.hasRange(space, name, from ?? -1, to ?? Number.POSITIVE_INFINITY)) continue;
      const key = encodeKey([space, id]);
      deletions.push({ key, space, name, seq: -1, part: -1, bounds: { from, to } });
      bytes += RECORD_HEADER_BYTES + key.length + RANGE_BYTES;
    } else {
      const [space, id, seq = -1, part = -1] = deletion;
      const name = nameOf(id);
      if (state.index.find(space, name, seq, part) < 0) continue;
      const key = encodeKey(deletion);
      deletions.push({ key, space, name, seq, part });
      bytes += RECORD_HEADER_BYTES + key.length;
    }
  }
  const names: string[] = [];
  for (const { key, value } of put) {
    const [space, id, seq = -1, part = -1] = key;
    const name = nameOf(id);
    bytes += RECORD_HEADER_BYTES + keyBytes(space, name, seq, part) + value.length;
    names.push(name);
  }
  return { deletions, puts: put, names, bytes };
}

/** Positions of the records: deletions first, as they take effect. */
function addRecords(frame: FrameWriter, { deletions, puts, names }: Changes): number[] {
  const positions: number[] = [];
  for (const { key, bounds } of deletions) {
    const position =
      bounds === undefined
        ? frame.add(DELETE_KEY, key, new Uint8Array(0))
        : frame.addRange(key, bounds.from, bounds.to);
    positions.push(position);
  }
  for (let i = 0; i < puts.length; i++) {
    const { key, value } = puts[i]!;
    positions.push(frame.addPut(key[0], names[i]!, key[2] ?? -1, key[3] ?? -1, value));
  }
  return positions;
}

function noteHint(
  hint: HintWriter | undefined,
  { deletions, puts, names }: Changes,
  positions: readonly number[],
): void {
  if (hint === undefined) return;
  let at = 0;
  for (const { key, bounds } of deletions) {
    if (bounds === undefined) hint.add(DELETE_KEY, key, 0, positions[at++]!);
    else hint.add(DELETE_RANGE, key, RANGE_BYTES, positions[at++]!, whole(bounds));
  }
  for (let i = 0; i < puts.length; i++) {
    const { key, value } = puts[i]!;
    hint.addPut(key[0], names[i]!, key[2] ?? -1, key[3] ?? -1, value.length, positions[at++]!);
  }
}

function whole({ from, to }: NonNullable<Deleted["bounds"]>): { from: number; to: number } {
  return { from: from ?? -1, to: to ?? Number.POSITIVE_INFINITY };
}

function apply(state: StoreState, segment: Segment, changes: Changes, positions: readonly number[]): void {
  for (const { key, space, name, seq, part, bounds } of changes.deletions) {
    if (bounds === undefined) {
      state.index.delete(space, name, seq, part);
      segment.deletionBytes += RECORD_HEADER_BYTES + key.length;
    } else {
      const { from, to } = whole(bounds);
      state.index.deleteRange(space, name, from, to);
      segment.deletionBytes += RECORD_HEADER_BYTES + key.length + RANGE_BYTES;
    }
  }
  let at = changes.deletions.length;
  for (let i = 0; i < changes.puts.length; i++) {
    const { key, value } = changes.puts[i]!;
    state.putKey(
      segment,
      key[0],
      changes.names[i]!,
      key[2] ?? -1,
      key[3] ?? -1,
      positions[at++]!,
      value.length,
    );
  }
}
