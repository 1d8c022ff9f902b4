/**
 * The naive twin of a backend: a sorted array, every range by looking at every key. Slow and obvious, and on
 * purpose without the key codec: it compares ids itself, so that a mistake of the codec shows.
 */

import { compareBytes, equalBytes, utf8 } from "../base/bytes.js";
import type { Batch, Deletion, Entry, Key, Range, ScanOptions } from "../contract/backend.js";
import { show } from "./cases.js";

export class NaiveStore {
  #entries: Entry[] = [];

  get(key: Key): Uint8Array | undefined {
    return this.#entries.find((entry) => same(entry.key, key))?.value;
  }

  scan(range: Range, options: ScanOptions = {}): Entry[] {
    const found = this.#entries.filter(({ key }) => inRange(key, range));
    if (options.reverse === true) found.reverse();
    const shown = found.slice(0, options.limit);
    if (options.values !== false) return shown;
    return shown.map(({ key }) => ({ key, value: new Uint8Array(0) }));
  }

  /** The keys whose expectation fails. When there are none the batch has been applied. */
  commit(batch: Batch): Key[] {
    const failed = (batch.expect ?? []).filter(({ key, value }) => !equalBytes(this.get(key), value));
    if (failed.length > 0) return failed.map(({ key }) => key);
    const puts = batch.put ?? [];
    this.#entries = this.#entries.filter(
      ({ key }) =>
        !(batch.delete ?? []).some((deletion) => covers(deletion, key)) &&
        !puts.some((put) => same(put.key, key)),
    );
    this.#entries.push(
      ...puts.map(({ key, value }) => ({ key: [...key] as unknown as Key, value: value.slice() })),
    );
    this.#entries.sort((a, b) => order(a.key, b.key));
    return [];
  }

  dump(): string[] {
    return this.#entries.map(show);
  }
}

function covers(deletion: Deletion, key: Key): boolean {
  return "space" in deletion ? inRange(key, deletion) : same(deletion, key);
}

function inRange(key: Key, range: Range): boolean {
  const [space, id, seq] = key;
  if (space !== range.space) return false;
  if (!("id" in range)) {
    const { idPrefix = "", after } = range;
    return id.startsWith(idPrefix) && (after === undefined || compareBytes(utf8(id), utf8(after)) > 0);
  }
  if (id !== range.id) return false;
  if (seq === undefined) return range.from === undefined;
  return seq >= (range.from ?? 0) && (range.to === undefined || seq < range.to);
}

function same(a: Key, b: Key): boolean {
  return a[2] === b[2] && a[3] === b[3] && a[1] === b[1] && a[0] === b[0];
}

/** Like a sort comparator: by space, by the UTF-8 bytes of the id, by seq, by part; absent comes first. */
function order(a: Key, b: Key): number {
  for (const i of [0, 1] as const) {
    if (a[i] !== b[i]) return compareBytes(utf8(a[i]), utf8(b[i]));
  }
  for (const i of [2, 3] as const) {
    const [x, y] = [a[i], b[i]];
    if (x === y) continue;
    if (x === undefined) return -1;
    if (y === undefined) return 1;
    return x < y ? -1 : 1;
  }
  return 0;
}
