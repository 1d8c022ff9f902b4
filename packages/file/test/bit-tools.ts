/**
 * What a flipped bit of a closed store comes to, by the code that reads its place: the frame, as recovery without a
 * hint and `check` walk it; the record, as `get` and scans read it; the header of its segment; the zeros after the end
 * of the log, as recovery judges them; the hint.
 *
 * It deliberately decides nothing itself: a verdict is what the code of the file log says, on the whole bytes of the
 * store. Anything that is read as something else without an error is thrown.
 */

import { type DiskImage, SimulatedDisk } from "@coppice/file/testing";
import { type Backend, isCoppiceError, type Key, keyName, toHex } from "coppice";
import { simulatedEnv } from "coppice/testing";
import { entriesOf } from "../../../test/support/stores.js";
import type { FileLogOptions } from "../src/file-log-backend.js";
import type { StoreFiles } from "../src/files.js";
import { PUT, RECORD_HEADER_BYTES } from "../src/frame.js";
import { type RecordVisitor, readHint } from "../src/hints.js";
import { idOf, partsOf } from "../src/key-names.js";
import { type Manifest, readManifest, type SegmentRow } from "../src/manifest.js";
import {
  numberOf,
  openSegment,
  SEGMENT_HEADER_BYTES,
  type Segment,
  type SegmentHeader,
  segmentName,
} from "../src/segment.js";
import { judgeTail, type Walked, walkFrames } from "../src/tail.js";
import { dump, factoryOn } from "./crash-tools.js";

export type Outcome = "found" | "harmless";

/** When the store is opened with its hints and read, and when it is opened without them. */
export interface Verdict {
  readonly hinted: Outcome;
  readonly bare: Outcome;
}

/** Bytes of a segment's header that say something. */
const HEADER_USED_BYTES = 64;
const HARMLESS: Verdict = { hinted: "harmless", bare: "harmless" };
const both = (outcome: Outcome): Verdict => ({ hinted: outcome, bare: outcome });

interface LiveRecord {
  readonly start: number;
  readonly end: number;
  readonly key: Key;
  value?: string;
}

interface Frame {
  readonly from: Walked;
  readonly to: Walked;
  /** What its records say. */
  readonly told: string;
  readonly puts: readonly LiveRecord[];
}

interface Place {
  readonly row: SegmentRow;
  readonly segment: Segment;
  readonly bytes: Buffer;
  readonly header: string;
  readonly frames: readonly Frame[];
  readonly hint: string | undefined;
  /** The log goes on here. */
  readonly last: boolean;
}

export class FlippedStore {
  readonly #options: FileLogOptions;
  readonly #files: StoreFiles;
  readonly #backend: Backend;
  readonly #manifest: Manifest;
  readonly #places = new Map<number, Place>();
  /** Where the newest record of each key lies. */
  readonly #newest = new Map<string, string>();
  readonly #stored: ReadonlySet<string>;
  readonly image: DiskImage;
  readonly lines: readonly string[];
  #name = "";
  #bit = -1;
  #readings = 0;

  private constructor(
    image: DiskImage,
    lines: readonly string[],
    options: FileLogOptions,
    opened: { files: StoreFiles; backend: Backend; manifest: Manifest; disk: SimulatedDisk },
  ) {
    this.image = image;
    this.lines = lines;
    this.#options = options;
    this.#files = opened.files;
    this.#backend = opened.backend;
    this.#manifest = opened.manifest;
    this.#stored = new Set(lines.map((line) => line.slice(0, line.lastIndexOf("="))));
    opened.disk.onRead = (name, position, bytes) => {
      const at = (this.#bit >> 3) - position;
      if (name !== this.#name || at < 0 || at >= bytes.length) return;
      bytes[at]! ^= 1 << (this.#bit & 7);
      this.#readings++;
    };
  }

  /** `lines`: what the store holds. */
  static async of(
    image: DiskImage,
    lines: readonly string[],
    options: FileLogOptions,
  ): Promise<FlippedStore> {
    const disk = new SimulatedDisk(image);
    const backend = await factoryOn(disk, options).open(simulatedEnv(4));
    const files = await disk.files(false);
    const manifest = await readManifest(files);
    const store = new FlippedStore(image, lines, options, { files, backend, manifest, disk });
    for (const row of manifest.segments) await store.#add(row);
    return store;
  }

  /** The verdict of the code that reads this place. Bits of one file come in their order. */
  async judge(name: string, bit: number): Promise<Verdict> {
    const { number, kind } = numberOf(name) ?? { number: -1, kind: "seg" };
    const place = this.#places.get(number);
    if (place === undefined) return { hinted: await this.whole(name, bit, true), bare: "found" };
    if (kind === "hint") return this.#hintVerdict(place, name, bit);
    const at = bit >> 3;
    if (at < HEADER_USED_BYTES) {
      return both(await this.#read(name, bit, place.header, () => this.#header(place.row)));
    }
    if (at < SEGMENT_HEADER_BYTES) return HARMLESS;
    if (at >= place.row.end) return place.last ? both(tailOutcome(place, bit)) : HARMLESS;
    return this.#recordVerdict(place, name, bit);
  }

  /** Opens and reads the whole store with this bit flipped. */
  async whole(name: string, bit: number, hints: boolean): Promise<Outcome> {
    const bytes = this.image.get(name)!.slice();
    bytes[bit >> 3]! ^= 1 << (bit & 7);
    const kept = [...this.image].filter(([each]) => hints || !each.endsWith(".hint"));
    const disk = new SimulatedDisk(new Map([...kept, [name, bytes]]));
    if (!hints && name.endsWith(".hint")) return "harmless";
    try {
      const factory = factoryOn(disk, { ...this.#options, createIfMissing: false });
      const backend = await factory.open(simulatedEnv(3));
      const found = await dump(backend);
      await backend.close();
      if (found.join() === this.lines.join()) return "harmless";
    } catch (error) {
      if (isCoppiceError(error)) return "found";
      throw error;
    }
    throw new Error(`bit ${bit} of ${name}: another store, without an error`);
  }

  async #add(row: SegmentRow): Promise<void> {
    const { segment, header } = await openSegment(this.#files, row, this.#manifest.store, "read");
    const bytes = Buffer.from(this.image.get(segmentName(row.number))!);
    const start = { end: SEGMENT_HEADER_BYTES, sequence: header.sequence, chain: header.chain };
    const frames = framesOf(bytes, segment, start);
    for (const { key, start } of frames.flatMap(({ puts }) => puts)) {
      this.#newest.set(keyName(key), `${row.number} ${start}`);
    }
    const hint = (await readHint(this.#files, segment))?.toString("latin1");
    const last = row === this.#manifest.segments.at(-1);
    this.#places.set(row.number, {
      row,
      segment,
      bytes,
      header: shown(header),
      frames,
      hint,
      last,
    });
  }

  async #header(row: SegmentRow): Promise<string> {
    const { segment, header } = await openSegment(this.#files, row, this.#manifest.store, "read");
    await segment.retire();
    return shown(header);
  }

  /** A hint that fails is passed over: then the segment itself is read, which is sound. */
  async #hintVerdict({ segment, hint }: Place, name: string, bit: number): Promise<Verdict> {
    const passedOver = "";
    const read = async () => (await readHint(this.#files, segment))?.toString("latin1") ?? passedOver;
    if ((await this.#reading(name, bit, read)) !== passedOver) {
      throw new Error(`bit ${bit} of ${name}: taken for a hint, of ${hint?.length} bytes`);
    }
    return HARMLESS;
  }

  async #recordVerdict(place: Place, name: string, bit: number): Promise<Verdict> {
    const at = bit >> 3;
    const frame = frameAt(place.frames, at);
    const bare = walkOutcome(place, frame, bit);
    const record = frame.puts.find(({ start, end }) => start <= at && at < end);
    const live =
      record !== undefined &&
      this.#stored.has(keyName(record.key)) &&
      this.#newest.get(keyName(record.key)) === `${place.row.number} ${record.start}`;
    if (!live) return { hinted: place.last ? bare : "harmless", bare };
    record.value ??= await this.#valueOf(record.key, true);
    const scan = (bit & 1) === 1;
    const hinted = await this.#read(name, bit, record.value, () => this.#valueOf(record.key, scan));
    return { hinted: place.last ? bare : hinted, bare };
  }

  /** The two ways to read a value. What lies under an id alone is remembered by `get`, and not by a scan. */
  async #valueOf(key: Key, scan: boolean): Promise<string> {
    if (!scan && key.length > 2) return toHex((await this.#backend.get(key))!);
    const [space, id, seq] = key;
    const range = seq === undefined ? { space, id } : { space, id, from: seq, to: seq + 1 };
    const entries = await entriesOf(this.#backend, range);
    return entries.map(({ value }) => toHex(value)).join();
  }

  /** Whether reading with that bit flipped tells of damage; else it must give the same as without. */
  async #read(name: string, bit: number, clean: string, read: () => Promise<string>): Promise<Outcome> {
    try {
      if ((await this.#reading(name, bit, read)) === clean) return "harmless";
    } catch (error) {
      if (isCoppiceError(error, "CORRUPT")) return "found";
      throw error;
    }
    throw new Error(`bit ${bit} of ${name}: read as something else, without an error`);
  }

  async #reading<T>(name: string, bit: number, read: () => Promise<T>): Promise<T> {
    [this.#name, this.#bit, this.#readings] = [name, bit, 0];
    const [outcome] = await Promise.allSettled([read()]);
    this.#bit = -1;
    if (this.#readings === 0) throw new Error(`bit ${bit} of ${name} was never read`);
    if (outcome.status === "rejected") throw outcome.reason;
    return outcome.value;
  }
}

/** One frame after the other, as recovery walks them. */
function framesOf(bytes: Buffer, segment: Segment, start: Walked): Frame[] {
  const frames: Frame[] = [];
  for (let from = start; from.end < segment.end; ) {
    const puts: LiveRecord[] = [];
    let told = "";
    const visit: RecordVisitor = (...record) => {
      const [type, source, keyStart, keyEnd, valueBytes, position] = record;
      told += toldOf(record);
      const empty = { space: "", name: "", seq: 0, part: 0 };
      const { space, name, seq, part } = partsOf(source, keyStart, keyEnd, empty);
      const key = [space, idOf(name), ...[seq, part].filter((number) => number >= 0)] as unknown as Key;
      const end = position + RECORD_HEADER_BYTES + keyEnd - keyStart + valueBytes;
      if (type === PUT) puts.push({ start: position, end, key });
    };
    const to = walkFrames(bytes, 0, from, segment.salt, visit, from.end + 1);
    if (to.end === from.end) throw new Error(`no frame at ${from.end} of ${segment.number}`);
    frames.push({ from, to, told, puts });
    from = to;
  }
  return frames;
}

function frameAt(frames: readonly Frame[], at: number): Frame {
  let [low, high] = [0, frames.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (frames[middle]!.to.end <= at) low = middle + 1;
    else high = middle;
  }
  return frames[low]!;
}

function walkOutcome({ bytes, segment }: Place, { from, to, told }: Frame, bit: number): Outcome {
  let found = "";
  const visit: RecordVisitor = (...record) => {
    found += toldOf(record);
  };
  bytes[bit >> 3]! ^= 1 << (bit & 7);
  const { end, chain } = walkFrames(bytes, 0, from, segment.salt, visit, to.end);
  bytes[bit >> 3]! ^= 1 << (bit & 7);
  if (end !== to.end || chain !== to.chain) return "found";
  if (found !== told)
    throw new Error(`bit ${bit} of segment ${segment.number}: other records, without an error`);
  return "harmless";
}

function tailOutcome({ bytes, row, segment }: Place, bit: number): Outcome {
  bytes[bit >> 3]! ^= 1 << (bit & 7);
  const { kind } = judgeTail(bytes, row.end, segment.salt);
  bytes[bit >> 3]! ^= 1 << (bit & 7);
  return kind === "damaged" ? "found" : "harmless";
}

function toldOf([type, source, keyStart, keyEnd, ...numbers]: Parameters<RecordVisitor>): string {
  return `${type} ${source.toString("latin1", keyStart, keyEnd)} ${numbers.join()};`;
}

/** Without the rank, which counts only where there is no manifest. */
function shown(header: SegmentHeader): string {
  return JSON.stringify({ ...header, rank: undefined });
}
