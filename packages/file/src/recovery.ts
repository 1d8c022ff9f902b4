/**
 * Opening a store: from the manifest, the hints and the tail of the log to a `StoreState`.
 *
 * It never guesses: what is missing, swapped, or wrong before the last good frame is `CORRUPT`, and nothing
 * is changed. Setting damage aside is the work of `repair.ts`.
 *
 * Invariants:
 * - what it accepts of the tail it writes again, and syncs, before anybody sees it: after a sync that
 *   failed the page cache shows bytes that the disk does not have (measured on ext4 and XFS);
 * - it may be interrupted anywhere and repeated;
 * - files that the manifest does not name are removed only when they surely hold nothing that was
 *   acknowledged.
 */

import { CoppiceError, type Env, toHex } from "coppice";
import { readFully, type StoreFiles, writeFully } from "./files.js";
import { FRAME_HEADER_BYTES } from "./frame.js";
import { HintWriter, type RecordVisitor, readHint, replayHint } from "./hints.js";
import {
  MANIFEST,
  type Manifest,
  NoRoomForManifest,
  readManifest,
  type SegmentRow,
  writeManifest,
} from "./manifest.js";
import { setAside } from "./quarantine.js";
import {
  compareHeaders,
  damaged,
  highestNumber,
  holdsLog,
  lookAtSegment,
  numberOf,
  openSegment,
  SEGMENT_HEADER_BYTES,
  type Segment,
  type SegmentHeader,
  segmentName,
} from "./segment.js";
import { StoreState } from "./store-state.js";
import { judgeTail, type Walked, walkInTurns, walkLast } from "./tail.js";

export interface RecoveryOptions {
  readonly create: boolean;
  readonly syncs: boolean;
  /** Read frames also where a hint would do. */
  readonly verify?: boolean;
  readonly env: Env;
}

/** What opening found beside the ordinary. */
export interface Recovered {
  readonly state: StoreState;
  /** Bytes of a commit that a crash tore; it was never acknowledged. */
  readonly tornBytes: number;
  /** Segments that were read as a whole, because they had no good hint. */
  readonly segmentsScanned: number;
}

/**
 * The caller holds the lock. Rejects with `CORRUPT`, `FORMAT_UNSUPPORTED`, or an error of the file system.
 */
export async function recover(files: StoreFiles, options: RecoveryOptions): Promise<Recovered> {
  const names = await files.list();
  const isThere = names.includes(MANIFEST);
  const manifest = isThere ? await readManifest(files) : await createStore(files, names, options);
  // It may have its name since a moment before a crash, and lose it again after commits that build on it.
  if (isThere) await files.syncNames();
  const state = new StoreState(manifest, options.syncs);
  const opened: Segment[] = [];
  try {
    const { tornBytes, segmentsScanned } = await replayAll(files, state, manifest, opened, options);
    const orphans = await removeOrphans(files, state, manifest);
    const active = state.active;
    const grown = active !== undefined && active.end !== manifest.segments.at(-1)!.end;
    const changed = orphans || manifest.syncs !== options.syncs;
    if ((grown || changed) && (await isWritten(files, state.manifest(), changed))) {
      state.generation++;
      state.recordedSequence = state.sequence;
    }
    return { state, tornBytes, segmentsScanned };
  } catch (error) {
    for (const segment of opened) void segment.retire();
    throw error;
  }
}

/**
 * Whether there was room for it. Where the log has only grown the one before does as well, and on a full disk
 * there has to be a way to delete something.
 */
async function isWritten(files: StoreFiles, manifest: Manifest, isNeeded: boolean): Promise<boolean> {
  try {
    await writeManifest(files, manifest);
    return true;
  } catch (error) {
    if (isNeeded || !(error instanceof NoRoomForManifest)) throw error;
    return false;
  }
}

export function lostManifest(): CoppiceError {
  return new CoppiceError("CORRUPT", "the file log has lost its manifest", { details: { file: MANIFEST } });
}

async function createStore(
  files: StoreFiles,
  names: readonly string[],
  { create, syncs, env }: RecoveryOptions,
): Promise<Manifest> {
  if (holdsLog(names)) throw lostManifest();
  if (names.includes("CURRENT")) {
    const what = "this directory holds a LevelDB store: open it with levelBackend of @coppice/level";
    throw new CoppiceError("UNAVAILABLE", what);
  }
  if (!create) throw new CoppiceError("UNAVAILABLE", "there is no file log in this directory");
  const store = toHex(env.random(16));
  const manifest = { format: 1, store, generation: 1, nextNumber: 1, sequence: 0, syncs, segments: [] };
  await writeManifest(files, manifest);
  return manifest;
}

async function replayAll(
  files: StoreFiles,
  state: StoreState,
  manifest: Manifest,
  opened: Segment[],
  options: RecoveryOptions,
): Promise<{ tornBytes: number; segmentsScanned: number }> {
  let segmentsScanned = 0;
  let tornBytes = 0;
  for (const [index, row] of manifest.segments.entries()) {
    const active = index === manifest.segments.length - 1;
    const { segment, header } = await openSegment(files, row, state.store, active ? "write" : "read");
    opened.push(segment);
    state.addSegment(segment);
    const hint = active || options.verify ? undefined : await readHint(files, segment);
    if (hint !== undefined) {
      await replayHint(hint, (...record) => state.replay(segment, ...record), options.env);
      continue;
    }
    segmentsScanned++;
    const start = { end: SEGMENT_HEADER_BYTES, sequence: header.sequence, chain: header.chain };
    if (active) tornBytes = await replayActive(files, segment, state, start, row, manifest, options.env);
    else await replaySealed(segment, state, start, row, options.env);
  }
  state.segments = opened;
  state.noteDurable();
  return { tornBytes, segmentsScanned };
}

async function replaySealed(
  segment: Segment,
  state: StoreState,
  start: Walked,
  row: SegmentRow,
  env: Env,
): Promise<void> {
  const bytes = await readSegment(segment, row.end);
  const replay: RecordVisitor = (...record) => state.replay(segment, ...record);
  const { end, chain } = await walkInTurns(env, bytes, start, segment.salt, replay, row.end);
  if (end !== row.end || chain !== row.chain) {
    throw damaged("is damaged before its end", segmentName(segment.number), end);
  }
}

/** Returns the bytes of a commit that was torn. */
async function replayActive(
  files: StoreFiles,
  segment: Segment,
  state: StoreState,
  start: Walked,
  row: SegmentRow,
  manifest: Manifest,
  env: Env,
): Promise<number> {
  const bytes = await readSegment(segment, segment.bytes);
  const hint = new HintWriter();
  const replay = recordsInto(state, segment, hint);
  const known = { end: row.end, chain: row.chain, syncs: manifest.syncs };
  const { end, sequence, chain, isKnown } = await walkLast(env, bytes, start, segment.salt, replay, known);
  const { kind, used } = judgeTail(bytes, end, segment.salt);
  const name = segmentName(segment.number);
  if (end < row.end) throw damaged("is damaged before the end that the manifest knows", name, end);
  // It went on otherwise, in a copy of this store.
  if (!isKnown) throw damaged("holds other commits than the manifest knows", name, SEGMENT_HEADER_BYTES);
  if (kind === "damaged" || (kind === "holed" && manifest.syncs))
    throw damaged("is damaged after its last good commit", name, end);
  if (sequence < manifest.sequence) throw damaged("lacks commits that the manifest knows", name, end);
  segment.end = end;
  segment.chain = chain;
  segment.hint = hint;
  state.sequence = sequence;
  state.chain = chain;
  if (end === row.end && used === end) return 0;
  if (kind === "holed") await setAside(files, segment.number, end, bytes.subarray(end, used));
  await rewriteTail(segment, bytes, row.end, used);
  return used - end;
}

/** Replays records, and notes them for the hint of the segment. */
export function recordsInto(state: StoreState, segment: Segment, hint: HintWriter): RecordVisitor {
  return (type, bytes, keyStart, keyEnd, valueBytes, position, from, to) => {
    state.replay(segment, type, bytes, keyStart, keyEnd, valueBytes, position, from, to);
    const bounds = type === 3 ? { from, to } : undefined;
    hint.add(type, bytes.subarray(keyStart, keyEnd), valueBytes, position, bounds);
  };
}

/**
 * Writes the frames after `from` once more, zeros what was torn, and makes both durable. The header of what
 * was torn goes last: what a crash leaves meanwhile is judged as before. After a failed sync it is all put
 * back, since the page cache would show zeros, also to the next opening, where the disk may have other bytes.
 */
async function rewriteTail(segment: Segment, bytes: Buffer, from: number, used: number): Promise<void> {
  const { end, file } = segment;
  const headerEnd = Math.min(used, end + FRAME_HEADER_BYTES);
  const torn = Buffer.from(bytes.subarray(end, used));
  bytes.fill(0, end, used);
  try {
    if (headerEnd < used) {
      await writeFully(file, bytes.subarray(headerEnd, used), used - headerEnd, headerEnd);
      await file.sync();
    }
    await writeFully(file, bytes.subarray(from, headerEnd), headerEnd - from, from);
    await file.sync();
  } catch (error) {
    try {
      await writeFully(file, torn, torn.length, end);
    } catch {
      // The first error says why opening failed.
    }
    throw error;
  }
}

async function readSegment(segment: Segment, length: number): Promise<Buffer> {
  const bytes = await readFully(segment.file, length, 0);
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** Removes segments that were never used or were merged away, and hints of such. */
async function removeOrphans(files: StoreFiles, state: StoreState, manifest: Manifest): Promise<boolean> {
  const orphans: string[] = [];
  const segments: { readonly name: string; readonly header: SegmentHeader }[] = [];
  const names = await files.list();
  const highest = highestNumber(names);
  for (const name of names) {
    const found = numberOf(name);
    if (found === undefined) continue;
    if (state.byNumber.has(found.number)) continue;
    const header = found.kind === "seg" ? await forgettable(files, name, state, manifest) : undefined;
    if (header === undefined) orphans.push(name);
    else segments.push({ name, header });
  }
  // One after the other, as a merge removes them: without a manifest what a crash leaves of them counts.
  for (const { name } of segments.toSorted((a, b) => compareHeaders(a.header, b.header))) {
    await files.remove(name);
    await files.syncNames();
  }
  for (const name of orphans) await files.remove(name);
  if (orphans.length > 0) await files.syncNames();
  if (highest < state.nextNumber) return false;
  state.nextNumber = highest + 1;
  return true;
}

/** The header of a segment that holds nothing that counts, where it has one. */
async function forgettable(
  files: StoreFiles,
  name: string,
  state: StoreState,
  manifest: Manifest,
): Promise<SegmentHeader | undefined> {
  const { header, isUsed } = await lookAtSegment(files, name);
  if (header === undefined) return undefined;
  // Nothing that happens to a store leaves one here: somebody has put it there, and it may be the only one.
  if (isUsed && header.store !== manifest.store)
    throw damaged("is one of another file log than the manifest", name, 0);
  if (!outdates(manifest, state.sequence, header, isUsed)) return header;
  throw olderThan(name);
}

/** What a segment shows that `outdates` the manifest. */
export function olderThan(file: string): CoppiceError {
  const what = "the manifest of the file log is older than its segments";
  return new CoppiceError("CORRUPT", what, { details: { file } });
}

/**
 * Whether a segment that the manifest does not name shows that it is an old one. `end`: number of the last
 * commit in what it names; `isUsed`: there are bytes behind the segment's header.
 *
 * A log segment gets its header when all before it is durable: one that begins behind the end shows that
 * commits are not there. After a repair there may be merged ones alone; but a manifest from before it names
 * what is gone since, unless it names nothing, as that of a new store, or of a repair that found nothing
 * whole: what that has left begins before the end.
 */
export function outdates(
  { store, segments }: Manifest,
  end: number,
  header: SegmentHeader,
  isUsed: boolean,
): boolean {
  if (header.store !== store) return false;
  if (header.kind === "merged") return isUsed && segments.length === 0 && header.sequence >= end;
  return header.sequence > end || (isUsed && header.sequence === end);
}
