/**
 * The index: every live key, in order, with the place of its record. In memory, rebuilt at each open, never
 * written.
 *
 * Each space has a map from names (see `key-names.ts`) to documents; a document has its entries in chunks
 * of flat numbers, `[seq, part, place, valueBytes]` each, sorted by seq and part; the names are sorted when
 * first asked for. So a key costs 32 bytes beside its document, and a document about 250 with its name.
 * Rising keys append.
 *
 * A place is `slot of the segment · 2³² + position`. Invariants: chunks and documents are never empty;
 * `onDead` is told of each record that stops being live, once.
 */

import { idOf } from "./key-names.js";
import { SortedNames } from "./sorted-names.js";

export const POSITIONS = 0x1_0000_0000;

/** Numbers of one entry. */
const STRIDE = 4;
const CHUNK_NUMBERS_MAX = 256 * STRIDE;

interface Documents {
  readonly byName: Map<string, number[][]>;
  readonly names: SortedNames;
}

export interface IndexEntry {
  readonly name: string;
  readonly seq: number;
  readonly part: number;
  readonly place: number;
  readonly valueBytes: number;
}

/** Where a scan goes on: strictly behind this key (in reverse: before it). */
export interface Cursor {
  readonly name: string;
  readonly seq: number;
  readonly part: number;
}

/**
 * `name`: of one document, with `from ≤ seq < to`; else all names with this prefix that are greater than
 * `after`.
 */
export interface Bounds {
  readonly name?: string;
  readonly from: number;
  readonly to: number;
  readonly prefix: string;
  readonly after: string | undefined;
}

/** Returns whether to go on. */
type Visit = (entry: IndexEntry) => boolean;

type OnDead = (place: number, space: string, name: string, entry: readonly number[], at: number) => void;

export class KeyIndex {
  readonly #spaces = new Map<string, Documents>();
  readonly #onDead: OnDead;
  keyCount = 0;
  /** Bytes of the value that `find` found. */
  foundBytes = 0;

  constructor(onDead: OnDead) {
    this.#onDead = onDead;
  }

  /** The place of a key's record, or -1. */
  find(space: string, name: string, seq: number, part: number): number {
    const chunks = this.#spaces.get(space)?.byName.get(name);
    if (chunks === undefined) return -1;
    const chunk = chunks[chunkOf(chunks, seq, part)];
    if (chunk === undefined) return -1;
    const at = lowerBound(chunk, seq, part);
    if (chunk[at] !== seq || chunk[at + 1] !== part) return -1;
    this.foundBytes = chunk[at + 3]!;
    return chunk[at + 2]!;
  }

  put(space: string, name: string, seq: number, part: number, place: number, valueBytes: number): void {
    let documents = this.#spaces.get(space);
    if (documents === undefined) {
      documents = { byName: new Map(), names: new SortedNames() };
      this.#spaces.set(space, documents);
    }
    const chunks = documents.byName.get(name);
    if (chunks === undefined) {
      documents.byName.set(name, [[seq, part, place, valueBytes]]);
      documents.names.add(name);
      this.keyCount++;
      return;
    }
    const found = chunkOf(chunks, seq, part);
    const index = Math.min(found, chunks.length - 1);
    const chunk = chunks[index]!;
    const at = found > index ? chunk.length : lowerBound(chunk, seq, part);
    if (chunk[at] === seq && chunk[at + 1] === part) {
      this.#onDead(chunk[at + 2]!, space, name, chunk, at);
      chunk[at + 2] = place;
      chunk[at + 3] = valueBytes;
      return;
    }
    this.keyCount++;
    if (chunk.length < CHUNK_NUMBERS_MAX) {
      if (at === chunk.length) chunk.push(seq, part, place, valueBytes);
      else chunk.splice(at, 0, seq, part, place, valueBytes);
    } else if (at === chunk.length) {
      // Rising keys are the usual case; they leave full chunks behind them.
      chunks.splice(index + 1, 0, [seq, part, place, valueBytes]);
    } else {
      chunks.splice(index + 1, 0, chunk.splice(CHUNK_NUMBERS_MAX / 2));
      this.keyCount--;
      this.put(space, name, seq, part, place, valueBytes);
    }
  }

  /**
   * Points a key to another copy of its record, and returns the bytes of its value; -1 when its record is no
   * longer the one at `from`.
   */
  move(space: string, name: string, seq: number, part: number, from: number, to: number): number {
    const chunks = this.#spaces.get(space)?.byName.get(name);
    const chunk = chunks?.[chunkOf(chunks, seq, part)];
    if (chunk === undefined) return -1;
    const at = lowerBound(chunk, seq, part);
    if (chunk[at] !== seq || chunk[at + 1] !== part || chunk[at + 2] !== from) return -1;
    chunk[at + 2] = to;
    return chunk[at + 3]!;
  }

  /** How many keys went. */
  delete(space: string, name: string, seq: number, part: number): number {
    const documents = this.#spaces.get(space);
    const chunks = documents?.byName.get(name);
    if (documents === undefined || chunks === undefined) return 0;
    const index = chunkOf(chunks, seq, part);
    const chunk = chunks[index];
    if (chunk === undefined) return 0;
    const at = lowerBound(chunk, seq, part);
    if (chunk[at] !== seq || chunk[at + 1] !== part) return 0;
    this.#cut(space, name, chunk, at, at + STRIDE);
    if (chunk.length === 0) chunks.splice(index, 1);
    if (chunks.length === 0) this.#forget(documents, name);
    return 1;
  }

  /** Deletes the keys of one document with `from ≤ seq < to`, and returns how many those were. */
  deleteRange(space: string, name: string, from: number, to: number): number {
    const documents = this.#spaces.get(space);
    const chunks = documents?.byName.get(name);
    if (documents === undefined || chunks === undefined) return 0;
    const before = this.keyCount;
    const first = chunkOf(chunks, from, -1);
    const kept: number[][] = [];
    let last = first;
    for (; last < chunks.length && chunks[last]![0]! < to; last++) {
      const chunk = chunks[last]!;
      const at = lowerBound(chunk, from, -1);
      this.#cut(space, name, chunk, at, Math.max(at, lowerBound(chunk, to, -1)));
      if (chunk.length > 0) kept.push(chunk);
    }
    chunks.splice(first, last - first, ...kept);
    if (chunks.length === 0) this.#forget(documents, name);
    return before - this.keyCount;
  }

  hasRange(space: string, name: string, from: number, to: number): boolean {
    const chunks = this.#spaces.get(space)?.byName.get(name);
    const chunk = chunks?.[chunkOf(chunks, from, -1)];
    if (chunk === undefined) return false;
    const at = lowerBound(chunk, from, -1);
    return at < chunk.length && chunk[at]! < to;
  }

  /** Visits entries in order, from behind the cursor on, until told to stop. */
  walk(space: string, bounds: Bounds, cursor: Cursor | undefined, reverse: boolean, visit: Visit): void {
    const documents = this.#spaces.get(space);
    if (documents === undefined) return;
    const names =
      bounds.name !== undefined
        ? [bounds.name]
        : reverse
          ? documents.names.down(bounds.prefix, bounds.after, cursor?.name)
          : documents.names.up(bounds.prefix, bounds.after, cursor?.name);
    const walkOne = reverse ? walkDown : walkUp;
    for (const name of names) {
      const chunks = documents.byName.get(name);
      if (chunks === undefined) continue;
      if (!walkOne(name, chunks, bounds, cursor?.name === name ? cursor : undefined, visit)) return;
    }
  }

  /** The id that a name stands for. */
  idOf(name: string): string {
    return idOf(name);
  }

  #cut(space: string, name: string, chunk: number[], start: number, end: number): void {
    for (let at = start; at < end; at += STRIDE) this.#onDead(chunk[at + 2]!, space, name, chunk, at);
    this.keyCount -= (end - start) / STRIDE;
    if (end > start) chunk.splice(start, end - start);
  }

  #forget(documents: Documents, name: string): void {
    documents.byName.delete(name);
    documents.names.delete(name);
  }
}

/** Whether to go on with the next name. */
function walkUp(
  name: string,
  chunks: readonly number[][],
  { from, to }: Bounds,
  cursor: Cursor | undefined,
  visit: Visit,
): boolean {
  const [seq, part] = cursor === undefined ? [from, -1] : [cursor.seq, cursor.part];
  for (let index = chunkOf(chunks, seq, part); index < chunks.length; index++) {
    const chunk = chunks[index]!;
    let at = lowerBound(chunk, seq, part);
    if (cursor !== undefined && chunk[at] === seq && chunk[at + 1] === part) at += STRIDE;
    for (; at < chunk.length; at += STRIDE) {
      if (chunk[at]! >= to) return true;
      if (!visit(entryAt(name, chunk, at))) return false;
    }
  }
  return true;
}

function walkDown(
  name: string,
  chunks: readonly number[][],
  { from, to }: Bounds,
  cursor: Cursor | undefined,
  visit: Visit,
): boolean {
  const [seq, part] = cursor === undefined ? [to, -1] : [cursor.seq, cursor.part];
  for (let index = Math.min(chunkOf(chunks, seq, part), chunks.length - 1); index >= 0; index--) {
    const chunk = chunks[index]!;
    for (let at = lowerBound(chunk, seq, part) - STRIDE; at >= 0; at -= STRIDE) {
      if (chunk[at]! < from) return true;
      if (!visit(entryAt(name, chunk, at))) return false;
    }
  }
  return true;
}

function entryAt(name: string, chunk: readonly number[], at: number): IndexEntry {
  return {
    name,
    seq: chunk[at]!,
    part: chunk[at + 1]!,
    place: chunk[at + 2]!,
    valueBytes: chunk[at + 3]!,
  };
}

/** The first chunk whose last key is not below (seq, part); the number of chunks when there is none. */
function chunkOf(chunks: readonly number[][], seq: number, part: number): number {
  let low = 0;
  let high = chunks.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const chunk = chunks[middle]!;
    const last = chunk.length - STRIDE;
    if (chunk[last]! < seq || (chunk[last] === seq && chunk[last + 1]! < part)) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Where the first entry that is not below (seq, part) begins. */
function lowerBound(chunk: readonly number[], seq: number, part: number): number {
  let low = 0;
  let high = chunk.length / STRIDE;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const at = middle * STRIDE;
    if (chunk[at]! < seq || (chunk[at] === seq && chunk[at + 1]! < part)) low = middle + 1;
    else high = middle;
  }
  return low * STRIDE;
}
