/**
 * Checking every byte of a file log, and mending one that is damaged: all whole records are copied, in
 * their order, into new segments; one manifest puts these in the place of all others.
 *
 * What the records mean is not known here; `DocumentStorage.check` says afterwards what each document has
 * lost.
 *
 * Invariants: a segment with damage is copied whole into a quarantine file, durably, before the manifest
 * changes, and no segment goes that was neither read nor surely forgettable; a repair that is interrupted can
 * be repeated; without damage nothing is changed.
 */

import {
  CoppiceError,
  checkOptions,
  type Env,
  isCoppiceError,
  type OptionKinds,
  systemEnv,
  toHex,
} from "coppice";
import { LOCK, nodeFiles, type OpenFiles, readFully, refused, type StoreFiles } from "./files.js";
import { copyValue, DELETE_RANGE, isZero, PUT, type RecordView, rangeOf } from "./frame.js";
import { idOf, partsOf } from "./key-names.js";
import { MANIFEST, type Manifest, readManifest, writeManifest } from "./manifest.js";
import { MergeOutput } from "./merge-output.js";
import { setAside } from "./quarantine.js";
import { outdates } from "./recovery.js";
import { type Found, inOrder, lastOf, type Source, sourcesOf } from "./repair-sources.js";
import { salvage } from "./salvage.js";
import {
  highestNumber,
  holdsLog,
  lookAtSegment,
  numberOf,
  readSegmentHeader,
  SEGMENT_HEADER_BYTES,
  type Segment,
  type SegmentHeader,
  segmentBytesMaxOf,
  segmentName,
} from "./segment.js";
import { findFrame, judgeTail, type Verdict, type Walked, walkFrames } from "./tail.js";

/** One damaged place. `bytes: 0`: the whole file is missing or unreadable. */
export interface FileLogDamage {
  readonly file: string;
  readonly position: number;
  readonly bytes: number;
  readonly message: string;
  /** Where a copy of the damaged file lies, after a repair. */
  readonly quarantine: string | undefined;
}

export interface FileLogReport {
  readonly segments: number;
  readonly frames: number;
  readonly records: number;
  readonly damage: readonly FileLogDamage[];
  /** Whether the store was written anew. */
  readonly repaired: boolean;
  /** Ids of documents with records in damaged segments: what to look at first. At most 1,000. */
  readonly documents: readonly string[];
}

export interface FileLogCheckOptions {
  /** Write the store anew from what is whole. Default `false`: change nothing. */
  readonly repair?: boolean;
  /** Bytes of a segment file that a repair writes, from 64 KiB to 1 GiB. Default 32 MiB. */
  readonly segmentBytesMax?: number;
  readonly env?: Env;
  /** For tests. */
  readonly files?: OpenFiles;
}

const OPTIONS: OptionKinds<FileLogCheckOptions> = {
  repair: "flag",
  segmentBytesMax: "number",
  env: "any",
  files: "function",
};

const DOCUMENTS_MAX = 1000;

/**
 * Reads every byte of the file log in this directory, and says what is damaged. It takes the lock: `LOCKED`
 * while somebody has it open for writing. `UNAVAILABLE`: there is no store, or the file system refuses, of
 * which `cause` says more. Costs a read of all files; a repair writes all live and dead records once more,
 * and needs so much room. Throws a `TypeError` or a `RangeError` for options that are wrong.
 */
export async function checkFileLog(
  directory: string,
  options: FileLogCheckOptions = {},
): Promise<FileLogReport> {
  checkOptions("checkFileLog", options, OPTIONS);
  if (typeof directory !== "string" || directory === "")
    throw new TypeError("checkFileLog takes the path of a directory");
  const { repair = false, env = systemEnv(), files: openFiles = nodeFiles(directory, true) } = options;
  const segmentBytesMax = segmentBytesMaxOf(options);
  let files: StoreFiles;
  try {
    files = await openFiles(false);
  } catch (error) {
    throw new CoppiceError("UNAVAILABLE", "there is no file log in this directory", { cause: error });
  }
  try {
    if (!(await files.lock(LOCK))) throw new CoppiceError("LOCKED", "somebody has the file log open");
    return await new Repair(files, env, segmentBytesMax).run(repair);
  } catch (error) {
    throw refused(directory, error);
  } finally {
    files.close();
  }
}

class Repair {
  readonly #files: StoreFiles;
  readonly #env: Env;
  readonly #segmentBytesMax: number;
  readonly #damage: FileLogDamage[] = [];
  readonly #documents = new Set<string>();
  /** Names of segments of another store. */
  readonly #others = new Set<string>();
  #store: string | undefined;
  #frames = 0;
  #records = 0;
  /** The highest number of a frame, and of one that is a commit. */
  #sequence = 0;
  #committed = 0;
  /** As far as a manifest says. */
  #syncs = true;
  #number = 0;

  constructor(files: StoreFiles, env: Env, segmentBytesMax: number) {
    this.#files = files;
    this.#env = env;
    this.#segmentBytesMax = segmentBytesMax;
  }

  async run(repair: boolean): Promise<FileLogReport> {
    const names = await this.#files.list();
    this.#number = highestNumber(names);
    const manifest = await this.#manifest(names);
    const foreign = manifest !== undefined && (await this.#isForeign(manifest, names));
    if (foreign) this.#forget("is that of another file log than the segments");
    const outdated = manifest !== undefined && !foreign && (await this.#isOutdated(manifest, names));
    if (outdated) this.#note(MANIFEST, 0, 0, "is older than the segments");
    const listed = manifest !== undefined && !outdated && !foreign;
    const sources = listed ? sourcesOf(manifest) : await this.#sourcesFound(names);
    await this.#findOthers(sources, names);
    const last = lastOf(sources);
    for (const source of sources) await this.#read(source, source === last, undefined);
    if (manifest === undefined && this.#damage.length === 0) {
      throw new CoppiceError("UNAVAILABLE", "there is no file log in this directory");
    }
    const damaged = this.#damage.length > 0;
    if (damaged && repair) {
      // Nobody may be writing to one of them, though the lock is ours.
      for (const name of names)
        if (numberOf(name)?.kind === "seg") (await this.#files.open(name, "write")).close();
      await this.#rewrite(sources, foreign ? undefined : manifest, names, foreign);
    }
    return {
      segments: sources.length,
      frames: this.#frames,
      records: this.#records,
      damage: this.#damage,
      repaired: damaged && repair,
      documents: [...this.#documents],
    };
  }

  async #manifest(names: readonly string[]): Promise<Manifest | undefined> {
    if (!names.includes(MANIFEST)) {
      if (holdsLog(names)) this.#note(MANIFEST, 0, 0, "is missing");
      return undefined;
    }
    try {
      const manifest = await readManifest(this.#files);
      this.#store = manifest.store;
      this.#syncs = manifest.syncs;
      this.#sequence = manifest.sequence;
      this.#committed = manifest.sequence;
      this.#number = Math.max(this.#number, manifest.nextNumber);
      return manifest;
    } catch (error) {
      if (!isCoppiceError(error, "CORRUPT")) throw error;
      this.#note(MANIFEST, 0, 0, "is damaged");
      return undefined;
    }
  }

  /** Whether none of its segments is there, or only others by their names, and some of another store are. */
  async #isForeign({ store, segments }: Manifest, names: readonly string[]): Promise<boolean> {
    for (const { number, salt } of segments) {
      const name = segmentName(number);
      if (!names.includes(name)) continue;
      const { header } = await lookAtSegment(this.#files, name);
      if (header?.store === store && header.number === number) return false;
      if (header !== undefined) continue;
      // Its frames show whose it is as well, and nothing but this salt reads them.
      const { bytes } = await this.#look(name);
      if (findFrame(bytes, SEGMENT_HEADER_BYTES, bytes.length, salt) !== undefined) return false;
    }
    for (const name of names) {
      if (numberOf(name)?.kind !== "seg") continue;
      const { header, isUsed } = await this.#look(name);
      if (isUsed && header !== undefined && header.store !== store) return true;
    }
    return false;
  }

  /** What the manifest says is nothing that is known of this store. */
  #forget(how: string): void {
    this.#store = undefined;
    this.#syncs = true;
    this.#sequence = 0;
    this.#committed = 0;
    this.#note(MANIFEST, 0, 0, how);
  }

  /** Segments of another store, which opening refuses as well. */
  async #findOthers(sources: readonly Source[], names: readonly string[]): Promise<void> {
    const known = new Set(sources.map(({ name }) => name));
    for (const name of names) {
      if (numberOf(name)?.kind !== "seg" || known.has(name)) continue;
      const { header, isUsed, bytes } = await this.#look(name);
      if (header === undefined || header.store === this.#store || !isUsed) continue;
      this.#others.add(name);
      this.#note(name, 0, bytes.length, "is a segment of another file log");
    }
  }

  /**
   * Whether the log went on, or was merged, after this manifest: a segment that it does not name shows it, or
   * one that it names is gone, and a merged one is there.
   */
  async #isOutdated(manifest: Manifest, names: readonly string[]): Promise<boolean> {
    const { store, segments } = manifest;
    const listed = new Set(segments.map(({ number }) => segmentName(number)));
    const isMissing = [...listed].some((name) => !names.includes(name));
    const end = await this.#endOfNamed(manifest, names);
    for (const name of names) {
      if (numberOf(name)?.kind !== "seg" || listed.has(name)) continue;
      const { header, isUsed } = await this.#look(name);
      if (header === undefined) continue;
      const isOfMerge = isMissing && header.kind === "merged" && header.store === store && isUsed;
      if (isOfMerge || outdates(manifest, end, header, isUsed)) return true;
    }
    return false;
  }

  /** Number of the last commit in what the manifest names, as far as it can be read. */
  async #endOfNamed({ sequence, segments }: Manifest, names: readonly string[]): Promise<number> {
    const name = segments.length === 0 ? "" : segmentName(segments.at(-1)!.number);
    if (!names.includes(name)) return sequence;
    const { header, bytes } = await this.#look(name);
    return header === undefined ? sequence : Math.max(sequence, commitsOf(bytes, header).sequence);
  }

  /**
   * Without a manifest the headers tell the order: that of the commits that came before each segment, and of
   * the ranks where those are the same.
   */
  async #sourcesFound(names: readonly string[]): Promise<Source[]> {
    const found: Found[] = [];
    const unused: Found[] = [];
    let end = 0;
    this.#store ??= await this.#storeOfMost(names);
    for (const name of names) {
      const number = numberOf(name);
      if (number?.kind !== "seg") continue;
      const { header, isUsed, bytes } = await this.#look(name);
      // One that lies ready, or a merge's that a crash left before it had a byte.
      if (header === undefined && !isUsed) continue;
      if (header !== undefined && header.store !== this.#store) continue;
      const { salt, kind } = header ?? {};
      const isFresh = kind === "log" && !isUsed;
      (isFresh ? unused : found).push({ number: number.number, name, salt, kind, row: undefined, header });
      if (header?.kind === "log" && isUsed) end = Math.max(end, commitsOf(bytes, header).sequence);
    }
    // Where the disk had no room for the manifest that was to name it, the log went on in the one before,
    // and a crash may have torn what is there.
    const last = unused.filter(({ header }) => end === 0 || header!.sequence > end);
    return inOrder([...found, ...last]);
  }

  /** The one of most of the bytes, where segments of several lie here. */
  async #storeOfMost(names: readonly string[]): Promise<string | undefined> {
    const sizes = new Map<string, number>();
    for (const name of names) {
      if (numberOf(name)?.kind !== "seg") continue;
      const { header, isUsed, bytes } = await this.#look(name);
      if (header === undefined) continue;
      sizes.set(header.store, (sizes.get(header.store) ?? 0) + (isUsed ? bytes.length : 0));
    }
    return [...sizes].sort(([, a], [, b]) => b - a)[0]?.[0];
  }

  /** `isUsed`: something was written behind its header or, where that is not whole, in it. */
  async #look(name: string): Promise<{ header: SegmentHeader | undefined; isUsed: boolean; bytes: Buffer }> {
    const file = await this.#files.open(name, "read");
    try {
      const header = await readSegmentHeader(file);
      const raw = await readFully(file, await file.size(), 0);
      const bytes = Buffer.from(raw.buffer, raw.byteOffset, raw.length);
      const start = header === undefined ? 0 : SEGMENT_HEADER_BYTES;
      const isUsed = !isZero(bytes, start, bytes.length);
      // What is written here ends behind all that there was: a crash may leave this segment beside it.
      if (header !== undefined && header.store === (this.#store ?? header.store))
        this.#sequence = Math.max(this.#sequence, header.sequence + (isUsed ? 1 : 0));
      return { header, isUsed, bytes };
    } finally {
      file.close();
    }
  }

  /** Looks at a segment; with `output`, copies what is whole. */
  async #read(source: Source, last: boolean, output: MergeOutput | undefined): Promise<Buffer | undefined> {
    const noted = this.#damage.length;
    let bytes: Buffer;
    let header: SegmentHeader | undefined;
    try {
      const file = await this.#files.open(source.name, "read");
      try {
        const raw = await readFully(file, await file.size(), 0);
        bytes = Buffer.from(raw.buffer, raw.byteOffset, raw.length);
        header = await readSegmentHeader(file);
        if (header === undefined || !this.#isOf(header, source))
          this.#note(source.name, 0, 64, "has a damaged header");
        const size = source.row?.bytes ?? header?.bytes ?? bytes.length;
        if (size !== bytes.length) {
          const lost = Math.max(0, size - bytes.length);
          this.#note(source.name, bytes.length, lost, "has another size than it was made with");
        }
      } finally {
        file.close();
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
      this.#note(source.name, 0, 0, "is missing");
      return undefined;
    }
    const { salt } = source;
    if (salt === undefined) return bytes;
    const kept: RecordView[] = [];
    const opened = last ? this.#openedEnd(bytes, header, source, salt) : undefined;
    const end = opened?.end ?? this.#endOf(bytes, source, last, salt);
    if (output !== undefined && opened?.kind === "holed")
      await setAside(this.#files, source.number, end, bytes.subarray(end, opened.used));
    const known = source.row?.end ?? 0;
    const keep = (record: RecordView) => kept.push(record);
    const { damage, frames, sequenceMax } = salvage(bytes, end, salt, keep, known);
    for (const { position, bytes: length, inFrame } of damage) {
      this.#note(source.name, position, length, inFrame ? "a commit is damaged" : "bytes are damaged");
    }
    if (end < known) this.#note(source.name, end, known - end, "commits are missing");
    if (header !== undefined && this.#damage.length === noted)
      this.#noteOthers(bytes, { ...header, salt }, source, last, end);
    this.#frames += frames;
    this.#records += kept.length;
    this.#sequence = Math.max(this.#sequence, sequenceMax);
    // Frames of a merge have numbers of their own.
    if (source.kind === "log") this.#committed = Math.max(this.#committed, sequenceMax);
    if (this.#damage.length > noted) this.#remember(bytes, kept);
    if (source.isUnsure) this.#doubt(source, bytes, kept);
    if (output !== undefined) for (const record of kept) await copy(output, bytes, record);
    return bytes;
  }

  /** Frames that are whole, and do not go on from each other or are not those that the manifest knows. */
  #noteOthers(bytes: Buffer, header: SegmentHeader, { name, row }: Source, last: boolean, end: number): void {
    const walked = commitsOf(bytes, header, end);
    if (walked.end < end) this.#note(name, walked.end, end - walked.end, "commits are those of another log");
    if (row === undefined || walked.end < end) return;
    const { chain } = row.end === end ? walked : commitsOf(bytes, header, row.end);
    if (chain === row.chain || (last && !this.#syncs)) return;
    const what = "its commits are not those that the manifest knows";
    this.#note(name, SEGMENT_HEADER_BYTES, row.end - SEGMENT_HEADER_BYTES, what);
  }

  /** Merged segments hold nothing that was dead: only what they delete can meet what came after them. */
  #doubt({ name }: Source, bytes: Buffer, kept: readonly RecordView[]): void {
    const deletions = kept.filter(({ type }) => type !== PUT);
    if (deletions.length === 0) return;
    const what = "nothing tells for sure where it comes in the order: it may delete what was put after it";
    this.#note(name, 0, bytes.length, what);
    this.#remember(bytes, deletions);
  }

  /** As opening judges it. */
  #isOf(header: SegmentHeader, { number, row }: Source): boolean {
    if (header.number !== number || header.store !== this.#store) return false;
    if (row === undefined) return true;
    return header.salt === row.salt && header.kind === row.kind && header.bytes === row.bytes;
  }

  /**
   * Where opening ends the last segment, when it does, and what is behind that: what a crash tore there was
   * never acknowledged, and its whole records are no damage, nor to be kept. Where commits are not synced
   * that may be many of them, with holes between.
   */
  #openedEnd(
    bytes: Buffer,
    header: SegmentHeader | undefined,
    { row }: Source,
    salt: number,
  ): (Verdict & { readonly end: number }) | undefined {
    if (header === undefined) return undefined;
    const { end, sequence } = commitsOf(bytes, { ...header, salt });
    const tail = judgeTail(bytes, end, salt);
    if (end < (row?.end ?? 0) || sequence < this.#committed) return undefined;
    const isTorn = tail.kind !== "damaged" && !(tail.kind === "holed" && this.#syncs);
    return isTorn ? { ...tail, end } : undefined;
  }

  /** Behind the known end of the last segment there may be more frames, and one that a crash tore. */
  #endOf(bytes: Buffer, { row }: Source, last: boolean, salt: number): number {
    const end = row?.end;
    if (end !== undefined && !last) return Math.min(end, bytes.length);
    let good = Math.max(SEGMENT_HEADER_BYTES, end ?? 0);
    const keep = (record: RecordView) => {
      // Padding and trailer follow.
      good = Math.max(good, Math.ceil((record.end + 4) / 8) * 8);
    };
    salvage(bytes, bytes.length, salt, keep, end);
    good = Math.min(good, bytes.length);
    const { kind, used } = judgeTail(bytes, good, salt);
    return kind === "damaged" || kind === "holed" ? used : good;
  }

  async #rewrite(
    sources: readonly Source[],
    manifest: Manifest | undefined,
    names: readonly string[],
    foreign: boolean,
  ): Promise<void> {
    const found = [...this.#damage];
    this.#damage.length = 0;
    this.#frames = 0;
    this.#records = 0;
    const store = this.#store ?? toHex(this.#env.random(16));
    const place = {
      store,
      sequence: this.#sequence,
      segmentBytesMax: this.#segmentBytesMax,
      // Without a manifest the next repair takes what this one leaves for the newest part of the log.
      ranks: undefined,
    };
    const output = new MergeOutput(this.#files, this.#fresh(), place);
    const copies = new Map<string, string>();
    try {
      const last = lastOf(sources);
      for (const source of sources) {
        const bytes = await this.#read(source, source === last, output);
        if (bytes === undefined || !found.some(({ file }) => file === source.name)) continue;
        copies.set(source.name, await setAside(this.#files, source.number, 0, bytes));
      }
      await this.#setUnknownAside(sources, names, copies);
      // Nothing else tells what it was, or it is needed for what it is of.
      if (names.includes(MANIFEST) && (foreign || (manifest === undefined && sources.length === 0)))
        copies.set(MANIFEST, await this.#setManifestAside());
      await output.finish();
    } catch (error) {
      await output.abandon();
      throw error;
    }
    await writeManifest(this.#files, this.#newManifest(store, output, manifest));
    this.#damage.length = 0;
    for (const each of found) this.#damage.push({ ...each, quarantine: copies.get(each.file) });
    const kept = new Set(output.segments.map(({ number }) => number));
    for (const segment of output.segments) void segment.retire();
    for (const name of names) {
      const number = numberOf(name)?.number;
      if (number !== undefined && !kept.has(number)) await this.#files.remove(name);
    }
    await this.#files.syncNames();
  }

  async #setManifestAside(): Promise<string> {
    const file = await this.#files.open(MANIFEST, "read");
    try {
      return await setAside(this.#files, 0, 0, await readFully(file, await file.size(), 0));
    } finally {
      file.close();
    }
  }

  /** What cannot be told from a log that went on. */
  async #setUnknownAside(
    sources: readonly Source[],
    names: readonly string[],
    copies: Map<string, string>,
  ): Promise<void> {
    const known = new Set(sources.map(({ name }) => name));
    for (const name of names) {
      const number = numberOf(name);
      if (number?.kind !== "seg" || known.has(name)) continue;
      const { header, isUsed, bytes } = await this.#look(name);
      if (isUsed && (header?.number !== number.number || this.#others.has(name)))
        copies.set(name, await setAside(this.#files, number.number, 0, bytes));
    }
  }

  #newManifest(store: string, output: MergeOutput, old: Manifest | undefined): Manifest {
    return {
      format: 1,
      store,
      generation: (old?.generation ?? 0) + 1,
      nextNumber: this.#number + 1,
      sequence: Math.max(this.#sequence, output.sequence),
      syncs: old?.syncs ?? true,
      segments: output.segments.map(({ row }: Segment) => row),
    };
  }

  #fresh(): { takeNumber: () => number; newSalt: () => number } {
    return {
      takeNumber: () => ++this.#number,
      newSalt: () => Buffer.from(this.#env.random(4)).readUInt32LE(0),
    };
  }

  #note(file: string, position: number, bytes: number, message: string): void {
    this.#damage.push({ file, position, bytes, message, quarantine: undefined });
  }

  #remember(bytes: Buffer, records: readonly RecordView[]): void {
    const parts = { space: "", name: "", seq: -1, part: -1 };
    for (const { keyStart, valueStart } of records) {
      if (this.#documents.size >= DOCUMENTS_MAX) return;
      this.#documents.add(idOf(partsOf(bytes, keyStart, valueStart, parts).name));
    }
  }
}

/** The commits of a segment from its first on. */
function commitsOf(bytes: Buffer, { sequence, chain, salt }: SegmentHeader, limit?: number): Walked {
  return walkFrames(bytes, 0, { end: SEGMENT_HEADER_BYTES, sequence, chain }, salt, () => undefined, limit);
}

async function copy(output: MergeOutput, bytes: Buffer, record: RecordView): Promise<void> {
  const { type, keyStart, valueStart } = record;
  const bounds = type === DELETE_RANGE ? rangeOf(bytes, record) : undefined;
  await output.add(type, bytes.subarray(keyStart, valueStart), copyValue(bytes, record), bounds);
}
