/**
 * Reading: one key, or pages of a range. What a page shows is decided in one step, in memory; its values are
 * then read (`value-reader.ts`), or have been read ahead.
 *
 * Invariants: what is remembered of a value is what lies at its place; a page shows what there is when it is
 * asked for.
 */

import type { Entry, Key, Range, ScanOptions } from "coppice";
import { type Bounds, type Cursor, type IndexEntry, POSITIONS } from "./key-index.js";
import { idOf, keyBytes, nameOf, prefixNameOf } from "./key-names.js";
import type { StoreState } from "./store-state.js";
import { isScattered, layoutOf, READ_NOW_BYTES_MAX, readValueNow, readValues } from "./value-reader.js";

const PAGE_BYTES = 1024 * 1024;
/** Keys alone are found without leaving the thread: what is done with a page holds up everything else. */
const KEYS_OF_PAGE_MAX = 4096;
/** Values that are remembered, and the largest; when there are more, it begins anew. */
const KNOWN_MAX = 4096;
const KNOWN_BYTES_MAX = 4096;
const EMPTY: Uint8Array = new Uint8Array(0);

/** The values of a page that were asked for before the page was. */
interface Ahead {
  readonly reader: StoreReader;
  readonly found: readonly IndexEntry[];
  readonly slotsFreed: number;
  readonly reading: Promise<Uint8Array[]>;
  failed: boolean;
}

/**
 * Page after page, each of the reader that is the current one then. From the second page on, the values of
 * the page that follows are read meanwhile; they are served when that page, once it is asked for, has the
 * same places. `isOutdated` tells whether a page that could not be read is to be looked for again.
 */
export async function* scanPages(
  reader: () => StoreReader | Promise<StoreReader>,
  range: Range,
  options: ScanOptions = {},
  isOutdated: (error: unknown) => Promise<boolean> = async () => false,
): AsyncGenerator<readonly Entry[]> {
  const { values = true, signal } = options;
  let left = options.limit ?? Number.POSITIVE_INFINITY;
  let cursor: Cursor | undefined;
  let ahead: Ahead | undefined;
  let goesAhead = true;
  while (left > 0) {
    signal?.throwIfAborted();
    const current = await reader();
    const found = current.find(range, options, cursor, left);
    const last = found.at(-1);
    if (last === undefined) return;
    left -= found.length;
    let read: Uint8Array[] | undefined;
    if (values) {
      const reading = current.readingOf(ahead, found) ?? current.read(range.space, found);
      // One who came for a second page will come for more. What is scattered once will be so again.
      if (goesAhead && cursor !== undefined) ahead = current.readAhead(range, options, last, left);
      goesAhead = cursor === undefined || ahead !== undefined;
      try {
        read = await reading;
      } catch (error) {
        if (!(await isOutdated(error))) throw error;
        left += found.length;
        ahead = undefined;
        continue;
      }
    }
    signal?.throwIfAborted();
    cursor = last;
    yield entriesOf(range.space, found, read);
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
    const keyLength = keyBytes(space, name, seq, part);
    if (keyLength + valueBytes <= READ_NOW_BYTES_MAX) return this.#readNow(place, keyLength, valueBytes);
    const wanted = [{ name, seq, part, place, valueBytes }];
    return (await this.read(space, wanted))[0];
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
    const found = this.#readNow(place, keyBytes(space, name, seq, part), value.length);
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
   * The entries of the page that follows the cursor, as one consistent view; none when the range is
   * exhausted. `left`: how many at most.
   */
  find(
    range: Range,
    { reverse = false, values = true, pageBytesMax = PAGE_BYTES }: ScanOptions,
    cursor: Cursor | undefined,
    left: number,
  ): IndexEntry[] {
    const page: IndexEntry[] = [];
    let bytes = 0;
    const entriesMax = values ? left : Math.min(left, KEYS_OF_PAGE_MAX);
    this.#state.index.walk(range.space, boundsOf(range), cursor, reverse, (entry) => {
      bytes += entry.name.length + 24 + (values ? entry.valueBytes : 0);
      if (page.length > 0 && bytes > pageBytesMax) return false;
      page.push(entry);
      return page.length < entriesMax;
    });
    return page;
  }

  /** The values of entries that were found just now. */
  read(space: string, found: readonly IndexEntry[]): Promise<Uint8Array[]> {
    return readValues(this.#state, space, found, layoutOf(space, found, this.#readBytesMax));
  }

  /** Begins to read the page that follows the cursor as things are now; one read at a time. */
  readAhead(range: Range, options: ScanOptions, cursor: Cursor, left: number): Ahead | undefined {
    if (left === 0) return undefined;
    const found = this.find(range, options, cursor, left);
    const layout = layoutOf(range.space, found, this.#readBytesMax);
    if (isScattered(layout)) return undefined;
    const { slotsFreed } = this.#state;
    const reading = readValues(this.#state, range.space, found, layout, 0);
    const ahead = { reader: this, found, slotsFreed, reading, failed: false };
    // Who asks for it will read it again, and perhaps nobody does.
    reading.catch(() => {
      ahead.failed = true;
    });
    return ahead;
  }

  /** What was read ahead, when it is what was found now: records never change, so their places tell. */
  readingOf(ahead: Ahead | undefined, found: readonly IndexEntry[]): Promise<Uint8Array[]> | undefined {
    if (ahead?.reader !== this || ahead.failed || ahead.slotsFreed !== this.#state.slotsFreed)
      return undefined;
    if (ahead.found.length !== found.length) return undefined;
    return found.every(({ place }, i) => place === ahead.found[i]!.place) ? ahead.reading : undefined;
  }

  #readNow(place: number, keyLength: number, valueBytes: number): Uint8Array {
    const segment = this.#state.segmentAt(place);
    if (segment === undefined) throw new Error("the index points to a segment that is gone");
    return readValueNow(segment, place % POSITIONS, keyLength, valueBytes);
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
