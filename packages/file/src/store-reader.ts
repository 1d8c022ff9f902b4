/**
 * Reading: one key, or pages of a range. What a page shows is decided in one step, in memory; its values are
 * then read (`value-reader.ts`).
 *
 * Invariant: what is remembered of a value is what lies at its place.
 */

import type { Entry, Key, Range, ScanOptions } from "coppice";
import { type Bounds, type Cursor, type IndexEntry, POSITIONS } from "./key-index.js";
import { idOf, keyBytes, nameOf, prefixNameOf } from "./key-names.js";
import type { StoreState } from "./store-state.js";
import { READ_NOW_BYTES_MAX, readValueNow, readValues } from "./value-reader.js";

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
    const keyLength = keyBytes(space, name, seq, part);
    if (keyLength + valueBytes <= READ_NOW_BYTES_MAX) return this.#readNow(place, keyLength, valueBytes);
    const wanted = [{ name, seq, part, place, valueBytes }];
    return (await readValues(this.#state, space, wanted, this.#readBytesMax))[0];
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
    const read = values ? await readValues(this.#state, range.space, found, this.#readBytesMax) : undefined;
    return { entries: entriesOf(range.space, found, read), cursor: last };
  }

  #collect(
    space: string,
    bounds: Bounds,
    cursor: Cursor | undefined,
    options: { reverse: boolean; values: boolean; pageBytesMax: number; left: number },
  ): IndexEntry[] {
    const { reverse, values, pageBytesMax, left } = options;
    const page: IndexEntry[] = [];
    let bytes = 0;
    this.#state.index.walk(space, bounds, cursor, reverse, (entry) => {
      bytes += entry.name.length + 24 + (values ? entry.valueBytes : 0);
      if (page.length > 0 && bytes > pageBytesMax) return false;
      page.push(entry);
      return page.length < left;
    });
    return page;
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
