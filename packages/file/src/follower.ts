/**
 * A read-only open beside a writer in another process, or without any: it keeps no writer out, writes
 * nothing, and sees what was committed since whenever it is asked.
 *
 * It follows the log frame by frame, and the manifest when that was replaced. Segments that the writer has
 * merged away stay readable through the files that are open, since it says that it reads, and the writer
 * makes no new segments of such files then; when those pile up, or the thread is lost, it reads the store
 * anew.
 *
 * Invariants: it shows whole commits, in their order, none twice; never one after a commit that does not
 * check. A commit may be seen shortly before its writer knows that it is durable: what it survives is the
 * writer's to say.
 */

import { type Backend, CoppiceError, type Env, isCoppiceError, type Traits } from "coppice";
import { LOCK, readFully, type StoreFiles } from "./files.js";
import { FRAME_HEADER_BYTES, frameBytes, readHeader } from "./frame.js";
import { type RecordVisitor, readHint, replayHint } from "./hints.js";
import { MANIFEST, type Manifest, readManifest, type SegmentRow } from "./manifest.js";
import { olderThan, outdates } from "./recovery.js";
import {
  damaged,
  lookAtSegment,
  numberOf,
  openSegment,
  SEGMENT_HEADER_BYTES,
  type Segment,
  type SegmentHeader,
  type SegmentLook,
  segmentName,
} from "./segment.js";
import { type FileLogStats, statsOf } from "./stats.js";
import { StoreReader, scanPages } from "./store-reader.js";
import { StoreState } from "./store-state.js";
import { type Walked, walkFrames, walkInTurns, walkLast } from "./tail.js";

/**
 * The store is read anew when the files that only we still need are larger than this part of the listed
 * ones.
 */
const PINNED_RATIO_MAX = 1;
const LOAD_TRIES = 20;
const WATCH_MS = 100;

interface View {
  readonly state: StoreState;
  readonly reader: StoreReader;
  readonly manifestIdentity: string | undefined;
}

export class Follower implements Backend {
  readonly traits: Traits;
  readonly #files: StoreFiles;
  readonly #env: Env;
  readonly #readBytesMax: number;
  #view: View;
  /** The manifest from which the store was read as a whole. */
  #loadedFrom: string | undefined;
  /** The writer knows that somebody reads. */
  #shares: boolean;
  #refreshing: Promise<StoreReader> | undefined;
  #closed = false;
  readonly #watches = new Set<AbortController>();

  private constructor(
    traits: Traits,
    files: StoreFiles,
    env: Env,
    readBytesMax: number,
    view: View,
    shares: boolean,
  ) {
    this.#shares = shares;
    this.traits = traits;
    this.#files = files;
    this.#env = env;
    this.#readBytesMax = readBytesMax;
    this.#view = view;
    this.#loadedFrom = view.manifestIdentity;
  }

  static async open(
    traits: Omit<Traits, "durability">,
    files: StoreFiles,
    env: Env,
    readBytesMax: number,
  ): Promise<Follower> {
    const shares = await files.share(LOCK);
    const view = await load(files, env, readBytesMax);
    const durability = view.state.syncs ? "power" : "process";
    return new Follower({ ...traits, durability }, files, env, readBytesMax, view, shares);
  }

  get isOpen(): boolean {
    return !this.#closed;
  }

  stats(): FileLogStats {
    return statsOf(this.#view.state, {
      openedReadOnly: true,
      spareBytes: 0,
      mergeableBytes: 0,
      merges: 0,
      mergedBytesWritten: 0,
      tornBytes: 0,
      segmentsScanned: 0,
      mergeFailure: undefined,
      failure: undefined,
    });
  }

  async merge(): Promise<never> {
    throw readOnly();
  }

  async get(key: Parameters<Backend["get"]>[0]): Promise<Uint8Array | undefined> {
    for (let tries = 1; ; tries++) {
      try {
        return await (await this.#refreshed()).get(key);
      } catch (error) {
        if (tries === LOAD_TRIES || !(await this.#isOutdated(error))) throw error;
      }
    }
  }

  scan(...[range, options]: Parameters<Backend["scan"]>): ReturnType<Backend["scan"]> {
    return scanPages(
      () => this.#refreshed(),
      range,
      options,
      (error) => this.#isOutdated(error),
    );
  }

  async commit(): Promise<void> {
    throw readOnly();
  }

  async reclaim(): Promise<void> {
    throw readOnly();
  }

  /** Looks ten times a second, while somebody listens. */
  watch(listener: () => void): () => void {
    const watch = new AbortController();
    const { signal } = watch;
    const look = async () => {
      while (!this.#closed) {
        await this.#env.delay(WATCH_MS, signal);
        if (!signal.aborted && !this.#closed && this.#hasNews()) listener();
      }
    };
    this.#watches.add(watch);
    // Ends by rejecting when it is stopped or the store closes; there is nobody to tell.
    look().catch(() => undefined);
    return () => {
      watch.abort();
      this.#watches.delete(watch);
    };
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    for (const watch of this.#watches) watch.abort();
    await this.#refreshing?.catch(() => undefined);
    await this.#view.state.retire();
    this.#files.close();
  }

  /**
   * Whether an error may be of a file that is a new segment by now: where the writer could not be told that
   * it is read, and the manifest has changed since the store was read as a whole. Then it is read anew.
   */
  async #isOutdated(error: unknown): Promise<boolean> {
    if (this.#closed || !isCoppiceError(error, "CORRUPT")) return false;
    if (this.#files.identityOf(MANIFEST) === this.#loadedFrom) return false;
    await this.#begin(() => this.#load());
    return true;
  }

  async #load(): Promise<StoreReader> {
    const { state } = this.#view;
    const view = await load(this.#files, this.#env, this.#readBytesMax);
    this.#view = view;
    this.#loadedFrom = view.manifestIdentity;
    void state.retire();
    return view.reader;
  }

  #hasNews(): boolean {
    const { state, manifestIdentity } = this.#view;
    if (this.#files.identityOf(MANIFEST) !== manifestIdentity) return true;
    return state.active !== undefined && frameAt(state.active) !== undefined;
  }

  /** The reader of everything that was committed before the call. */
  #refreshed(): Promise<StoreReader> {
    if (this.#closed) throw new CoppiceError("CLOSED", "the file log is closed");
    if (this.#refreshing === undefined && !this.#hasNews()) return Promise.resolve(this.#view.reader);
    return this.#begin(() => this.#refresh());
  }

  /** After what is going on. */
  #begin(refresh: () => Promise<StoreReader>): Promise<StoreReader> {
    const before = this.#refreshing?.catch(() => undefined) ?? Promise.resolve();
    const refreshing = before.then(refresh);
    this.#refreshing = refreshing;
    const done = () => {
      if (this.#refreshing === refreshing) this.#refreshing = undefined;
    };
    refreshing.then(done, done);
    return refreshing;
  }

  async #refresh(): Promise<StoreReader> {
    const { state, reader, manifestIdentity } = this.#view;
    const identity = this.#files.identityOf(MANIFEST);
    if (state.active !== undefined) await follow(state, state.active);
    if (identity === manifestIdentity) return reader;
    // A store that nobody had opened where it lies has a writer now, perhaps.
    const began = !this.#shares && (await this.#files.share(LOCK));
    if (began) this.#shares = true;
    const manifest = await readManifest(this.#files);
    if (!began && (await this.#continue(state, manifest))) {
      this.#view = { state, reader, manifestIdentity: identity };
      return reader;
    }
    return this.#load();
  }

  /** Opens the segments behind the one that was the last; `false` when it cannot tell which those are. */
  async #continue(state: StoreState, manifest: Manifest): Promise<boolean> {
    const { active } = state;
    const at =
      active === undefined ? -1 : manifest.segments.findIndex(({ number }) => number === active.number);
    if (manifest.store !== state.store || (active !== undefined && at < 0)) return false;
    const listed = new Set(manifest.segments.map(({ number }) => number));
    let pinned = 0;
    for (const { number, bytes } of state.byNumber.values()) if (!listed.has(number)) pinned += bytes;
    const whole = manifest.segments.reduce((sum, { bytes }) => sum + bytes, 0);
    if (pinned > (this.#shares ? PINNED_RATIO_MAX * whole : 0)) return false;
    const next = manifest.segments.slice(at + 1);
    if (next.length > 0 && active !== undefined && active.end !== manifest.segments[at]!.end) return false;
    // Its frames have numbers of their own, which are no place to go on from.
    if (next.some(({ kind }) => kind === "merged")) return false;
    for (const row of next) {
      if (!(await this.#open(state, row))) return false;
    }
    return true;
  }

  async #open(state: StoreState, row: SegmentRow): Promise<boolean> {
    let segment: Segment;
    let header: SegmentHeader;
    try {
      ({ segment, header } = await openSegment(this.#files, row, state.store, "read"));
    } catch (error) {
      if (isCoppiceError(error, "CORRUPT")) return false;
      throw error;
    }
    // A merge that had nothing to keep has taken away what lay between: no frame of it goes on from here.
    if (header.sequence !== state.sequence || header.chain !== state.chain) {
      void segment.retire();
      return false;
    }
    segment.end = SEGMENT_HEADER_BYTES;
    segment.chain = state.chain;
    state.addSegment(segment);
    state.segments = [...state.segments, segment];
    await follow(state, segment);
    return segment.end >= row.end;
  }
}

function readOnly(): CoppiceError {
  return new CoppiceError("READ_ONLY", "the file log was opened with readOnly; nothing was written");
}

/** Reads the store; begins anew when a merge takes files away under it. */
async function load(files: StoreFiles, env: Env, readBytesMax: number): Promise<View> {
  for (let tries = 1; ; tries++) {
    const manifestIdentity = files.identityOf(MANIFEST);
    const manifest = await readManifest(files);
    const state = new StoreState(manifest, manifest.syncs);
    try {
      // First all are opened: what a merge takes away while they are read is still there then.
      const opened = await openAll(files, state, manifest);
      for (const [i, row] of manifest.segments.entries())
        await loadSegment(files, state, opened[i]!, row, manifest, env);
      await assertNewest(files, state, manifest, manifestIdentity);
      return { state, reader: new StoreReader(state, readBytesMax), manifestIdentity };
    } catch (error) {
      void state.retire();
      if (tries === LOAD_TRIES || files.identityOf(MANIFEST) === manifestIdentity) throw error;
    }
  }
}

/**
 * Rejects with `CORRUPT` where a segment shows that the manifest is an old one, as opening to write does. A
 * writer that is just beginning a segment has given it its header when all before that is in the log: what
 * was read of it is followed up first.
 */
async function assertNewest(
  files: StoreFiles,
  state: StoreState,
  manifest: Manifest,
  manifestIdentity: string | undefined,
): Promise<void> {
  for (const name of await files.list()) {
    const found = numberOf(name);
    if (found?.kind !== "seg" || state.byNumber.has(found.number)) continue;
    const { header, isUsed = false } = (await lookIfThere(files, name)) ?? {};
    if (header === undefined || !outdates(manifest, state.sequence, header, isUsed)) continue;
    if (state.active !== undefined) await follow(state, state.active);
    // Whatever was replaced since it was read was an old one, and the next look follows.
    if (files.identityOf(MANIFEST) !== manifestIdentity) return;
    if (outdates(manifest, state.sequence, header, isUsed)) throw olderThan(name);
  }
}

/** `undefined`: a writer has removed it meanwhile. */
async function lookIfThere(files: StoreFiles, name: string): Promise<SegmentLook | undefined> {
  try {
    return await lookAtSegment(files, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

interface OpenedSegment {
  readonly segment: Segment;
  readonly header: SegmentHeader;
}

async function openAll(
  files: StoreFiles,
  state: StoreState,
  { segments }: Manifest,
): Promise<OpenedSegment[]> {
  const opened: OpenedSegment[] = [];
  for (const row of segments) {
    const each = await openSegment(files, row, state.store, "read");
    state.addSegment(each.segment);
    opened.push(each);
  }
  state.segments = opened.map(({ segment }) => segment);
  return opened;
}

async function loadSegment(
  files: StoreFiles,
  state: StoreState,
  { segment, header }: OpenedSegment,
  row: SegmentRow,
  { segments, syncs }: Manifest,
  env: Env,
): Promise<void> {
  const last = row === segments.at(-1);
  const hint = last ? undefined : await readHint(files, segment);
  if (hint !== undefined) {
    await replayHint(hint, (...record) => state.replay(segment, ...record), env);
    return;
  }
  const replay: RecordVisitor = (...record) => state.replay(segment, ...record);
  const bytes = await readFully(segment.file, last ? segment.bytes : row.end, 0);
  const start = { end: SEGMENT_HEADER_BYTES, sequence: header.sequence, chain: header.chain };
  if (last) {
    const walked = await walkLast(env, asBuffer(bytes), start, segment.salt, replay, { ...row, syncs });
    if (!walked.isKnown) throw damaged("is damaged before its end", segmentName(row.number), walked.end);
    advance(state, segment, walked);
  } else {
    const { end, chain } = await walkInTurns(env, asBuffer(bytes), start, segment.salt, replay, row.end);
    const whole = end === row.end && chain === row.chain;
    if (!whole) throw damaged("is damaged before its end", segmentName(row.number), end);
  }
}

/** Replays the frames that came since. */
async function follow(state: StoreState, segment: Segment): Promise<void> {
  for (let length = frameAt(segment); length !== undefined; length = frameAt(segment)) {
    const bytes = await readFully(segment.file, length, segment.end);
    const start = { end: segment.end, sequence: state.sequence, chain: state.chain };
    const replay: RecordVisitor = (...record) => state.replay(segment, ...record);
    const walked = walkFrames(asBuffer(bytes), segment.end, start, segment.salt, replay);
    // Not whole yet: it is being written.
    if (walked.end === segment.end) return;
    advance(state, segment, walked);
  }
}

/** The length of the next frame, when its header is there. */
function frameAt(segment: Segment): number | undefined {
  if (segment.end + frameBytes(0) > segment.bytes) return undefined;
  const bytes = new Uint8Array(FRAME_HEADER_BYTES);
  const count = segment.file.readNow(bytes, 0, bytes.length, segment.end);
  return count < bytes.length ? undefined : readHeader(bytes, 0, segment.end, segment.salt)?.length;
}

function advance(state: StoreState, segment: Segment, { end, sequence, chain }: Walked): void {
  segment.end = end;
  segment.chain = chain;
  state.sequence = sequence;
  state.chain = chain;
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
}
