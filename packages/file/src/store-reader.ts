/**
 * Reading values: one key, or pages of a range. What a page shows is decided in one step, in memory; its
 * values are then read, neighbours in one go.
 *
 * Invariants: a record whose checksum, place or length is not as the index says is `CORRUPT`, never served;
 * a segment is kept open while it is read; values are in memory of their own.
 */

import { CoppiceError, type Entry, type Key, type Range, type ScanOptions } from "coppice";
import { copyValue, PUT, RECORD_HEADER_BYTES, type RecordView, readRecord, unfilled } from "./frame.js";
import { type Bounds, type Cursor, type IndexEntry, POSITIONS } from "./key-index.js";
import { idOf, keyBytes, nameOf, prefixNameOf } from "./key-names.js";
import { damaged, type Segment, segmentName } from "./segment.js";
import type { StoreState } from "./store-state.js";

/** Values up to here are read without leaving the thread: a few µs each from the page cache. */
const READ_NOW_BYTES_MAX = 16 * 1024;
/** With more places to read from than this, none is read without leaving the thread. */
const SPANS_NOW_MAX = 16;
/** Bytes between two records that are read rather than skipped. */
const GAP_BYTES_MAX = 4096;
const PAGE_BYTES = 1024 * 1024;
/** Values that are remembered, and the largest; when there are more, it begins anew. */
const KNOWN_MAX = 4096;
const KNOWN_BYTES_MAX = 4096;
const EMPTY: Uint8Array = new Uint8Array(0);

export interface Page {
  readonly entries: readonly Entry[];
  /** Where the next page goes on; `undefined` when this one is empty. */
  readonly cursor: Cursor | undefined;
}

/** Page after page, each of the reader that is the current one then. */
export async function* scanPages(
  reader: () => StoreReader | Promise<StoreReader>,
  range: Range,
  options: ScanOptions = {},
): AsyncGenerator<readonly Entry[]> {
  let left = options.limit ?? Number.POSITIVE_INFINITY;
  let cursor: Cursor | undefined;
  while (left > 0) {
    options.signal?.throwIfAborted();
    const page: Page = await (await reader()).page(range, options, cursor, left);
    options.signal?.throwIfAborted();
    if (page.cursor === undefined) return;
    cursor = page.cursor;
    left -= page.entries.length;
    yield page.entries;
  }
}

interface Known {
  place: number;
  value: Uint8Array;
}

export class StoreReader {
  readonly #state: StoreState;
  readonly #readBytesMax: number;
  /** Newest values of documents' own keys (without a seq), by space and name. */
  readonly #known = new Map<string, Map<string, Known>>();
  #knownCount = 0;
  #knownOf = 0;

  constructor(state: StoreState, readBytesMax: number) {
    this.#state = state;
    this.#readBytesMax = readBytesMax;
  }

  async get([space, id, seq = -1, part = -1]: Key): Promise<Uint8Array | undefined> {
    const { index } = this.#state;
    const name = nameOf(id);
    const place = index.find(space, name, seq, part);
    if (place < 0) return undefined;
    const valueBytes = index.foundBytes;
    const length = RECORD_HEADER_BYTES + keyBytes(space, name, seq, part) + valueBytes;
    if (length <= READ_NOW_BYTES_MAX) return this.#readNow(place, length, valueBytes);
    const wanted = [{ name, seq, part, place, valueBytes }];
    return (await this.#readValues(space, wanted))[0];
  }

  /** Whether the key has exactly this value (`undefined`: none). Reads without leaving the thread. */
  holds([space, id, seq = -1, part = -1]: Key, value: Uint8Array | undefined): boolean {
    const { index } = this.#state;
    const name = nameOf(id);
    const place = index.find(space, name, seq, part);
    if (place < 0 || value === undefined) return place < 0 && value === undefined;
    if (index.foundBytes !== value.length) return false;
    const known = seq < 0 ? this.#recall(space, name, place) : undefined;
    if (known !== undefined) return Buffer.compare(known, value) === 0;
    const length = RECORD_HEADER_BYTES + keyBytes(space, name, seq, part) + value.length;
    const found = this.#readNow(place, length, value.length);
    if (seq < 0) this.#remember(space, name, place, found);
    return Buffer.compare(found, value) === 0;
  }

  /**
   * Told of what a commit has put: what is written of a document's own key is what the next commit expects.
   */
  noteWritten(puts: readonly Entry[]): void {
    for (const { key, value } of puts) {
      if (key.length !== 2) continue;
      const name = nameOf(key[1]);
      const place = this.#state.index.find(key[0], name, -1, -1);
      this.#remember(key[0], name, place, new Uint8Array(value));
    }
  }

  /**
   * The entries of a range that follow the cursor, as one consistent view; none when the range is exhausted.
   * `left`: how many at most.
   */
  async page(
    range: Range,
    { reverse = false, values = true, pageBytesMax = PAGE_BYTES }: ScanOptions,
    cursor: Cursor | undefined,
    left: number,
  ): Promise<Page> {
    const options = { reverse, values, pageBytesMax, left };
    const found = this.#collect(range.space, boundsOf(range), cursor, options);
    const last = found.at(-1);
    const read = values ? await this.#readValues(range.space, found) : undefined;
    return { entries: entriesOf(range.space, found, read), cursor: last };
  }

  #collect(
    space: string,
    bounds: Bounds,
    cursor: Cursor | undefined,
    options: { reverse: boolean; values: boolean; pageBytesMax: number; left: number },
  ): IndexEntry[] {
    const page: IndexEntry[] = [];
    let bytes = 0;
    for (const entry of this.#state.index.walk(space, bounds, cursor, options.reverse)) {
      const size = entry.name.length + 24 + (options.values ? entry.valueBytes : 0);
      if (page.length > 0 && bytes + size > options.pageBytesMax) break;
      bytes += size;
      page.push(entry);
      if (page.length >= options.left) break;
    }
    return page;
  }

  /** Values in the order of the entries. Records that lie close together are read at once. */
  async #readValues(space: string, entries: readonly IndexEntry[]): Promise<Uint8Array[]> {
    const order = entries.map((_, i) => i);
    if (!isRising(entries)) order.sort((a, b) => entries[a]!.place - entries[b]!.place);
    const values = new Array<Uint8Array>(entries.length);
    const spans: { readonly order: readonly number[]; readonly start: number; readonly length: number }[] =
      [];
    for (let first = 0; first < order.length; ) {
      const start = entries[order[first]!]!.place;
      let end = start;
      let last = first;
      for (; last < order.length; last++) {
        const entry = entries[order[last]!]!;
        const entryEnd = entry.place + lengthOf(space, entry);
        if (last > first && (entry.place - end > GAP_BYTES_MAX || entryEnd - start > this.#readBytesMax))
          break;
        end = entryEnd;
      }
      spans.push({ order: order.slice(first, last), start, length: end - start });
      first = last;
    }
    const now = spans.length <= SPANS_NOW_MAX;
    await Promise.all(
      spans.map((span) => this.#readSpan(space, entries, span.order, span.start, span.length, values, now)),
    );
    return values;
  }

  async #readSpan(
    space: string,
    entries: readonly IndexEntry[],
    order: readonly number[],
    start: number,
    length: number,
    values: Uint8Array[],
    now: boolean,
  ): Promise<void> {
    const segment = this.#segment(start);
    segment.hold();
    try {
      const position = start % POSITIONS;
      const bytes = unfilled(length);
      await readExactly(segment, bytes, position, now && length <= READ_NOW_BYTES_MAX);
      for (const i of order) {
        const entry = entries[i]!;
        const at = entry.place - start;
        const record = this.#check(
          segment,
          bytes,
          at,
          lengthOf(space, entry),
          entry.valueBytes,
          position + at,
        );
        values[i] =
          order.length === 1 && record.mask === 0
            ? bytes.subarray(record.valueStart)
            : copyValue(bytes, record);
      }
    } finally {
      segment.release();
    }
  }

  #readNow(place: number, length: number, valueBytes: number): Uint8Array {
    const segment = this.#segment(place);
    const position = place % POSITIONS;
    const bytes = unfilled(length);
    let count: number;
    try {
      count = segment.file.readNow(bytes, 0, length, position);
    } catch (error) {
      throw new CoppiceError("UNAVAILABLE", "the file log could not be read", { cause: error });
    }
    if (count < length)
      throw damaged("ends before a record that it holds", segmentName(segment.number), position);
    const record = this.#check(segment, bytes, 0, length, valueBytes, position);
    return record.mask === 0 ? bytes.subarray(record.valueStart) : copyValue(bytes, record);
  }

  #segment(place: number): Segment {
    const segment = this.#state.segmentAt(place);
    if (segment === undefined) throw new Error("the index points to a segment that is gone");
    return segment;
  }

  #check(
    segment: Segment,
    bytes: Uint8Array,
    at: number,
    length: number,
    valueBytes: number,
    position: number,
  ): RecordView {
    const record = readRecord(bytes, at, position, segment.salt);
    const good =
      record !== undefined &&
      record.type === PUT &&
      record.end - at === length &&
      record.end - record.valueStart === valueBytes;
    if (!good) throw damaged("holds a record that fails its checksum", segmentName(segment.number), position);
    return record;
  }

  #recall(space: string, name: string, place: number): Uint8Array | undefined {
    if (this.#knownOf !== this.#state.slotsFreed) return undefined;
    const known = this.#known.get(space)?.get(name);
    return known?.place === place ? known.value : undefined;
  }

  /** Records never change, so what lies at a place stays right until its segment goes. */
  #remember(space: string, name: string, place: number, value: Uint8Array): void {
    if (value.length > KNOWN_BYTES_MAX) return;
    if (this.#knownOf !== this.#state.slotsFreed || this.#knownCount >= KNOWN_MAX) {
      this.#known.clear();
      this.#knownCount = 0;
      this.#knownOf = this.#state.slotsFreed;
    }
    let names = this.#known.get(space);
    if (names === undefined) {
      names = new Map();
      this.#known.set(space, names);
    }
    const known = names.get(name);
    if (known !== undefined) {
      known.place = place;
      known.value = value;
      return;
    }
    names.set(name, { place, value });
    this.#knownCount++;
  }
}

function boundsOf(range: Range): Bounds {
  if ("id" in range) {
    const { id, from = -1, to = Number.POSITIVE_INFINITY } = range;
    return { name: nameOf(id), from, to, prefix: "", after: undefined };
  }
  return {
    from: -1,
    to: Number.POSITIVE_INFINITY,
    prefix: prefixNameOf(range.idPrefix ?? ""),
    after: range.after === undefined || range.after === "" ? undefined : nameOf(range.after),
  };
}

function entriesOf(
  space: string,
  page: readonly IndexEntry[],
  values: readonly Uint8Array[] | undefined,
): Entry[] {
  let name: string | undefined;
  let id = "";
  return page.map((entry, i) => {
    if (entry.name !== name) {
      name = entry.name;
      id = idOf(name);
    }
    const { seq, part } = entry;
    const key: Key = seq < 0 ? [space, id] : part < 0 ? [space, id, seq] : [space, id, seq, part];
    return { key, value: values?.[i] ?? EMPTY.slice() };
  });
}

function isRising(entries: readonly IndexEntry[]): boolean {
  for (let i = 1; i < entries.length; i++) if (entries[i]!.place < entries[i - 1]!.place) return false;
  return true;
}

function lengthOf(space: string, { name, seq, part, valueBytes }: IndexEntry): number {
  return RECORD_HEADER_BYTES + keyBytes(space, name, seq, part) + valueBytes;
}

async function readExactly(
  segment: Segment,
  into: Uint8Array,
  position: number,
  now: boolean,
): Promise<void> {
  let done = 0;
  while (done < into.length) {
    let count: number;
    try {
      const left = [into, done, into.length - done, position + done] as const;
      count = now ? segment.file.readNow(...left) : await segment.file.read(...left);
    } catch (error) {
      throw new CoppiceError("UNAVAILABLE", "the file log could not be read", { cause: error });
    }
    if (count === 0)
      throw damaged("ends before a record that it holds", segmentName(segment.number), position);
    done += count;
  }
}
