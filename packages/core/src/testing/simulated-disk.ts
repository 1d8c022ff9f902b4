/**
 * What the simulated backend keeps: entries in key order, and a disk that tells written from durable.
 *
 * It knows nothing of handles, operations, faults or time; `simulated-backend.ts` does.
 *
 * Invariants:
 * - `written` is `durable` with the unsynced batches applied in the order they came;
 * - batches are applied whole, and whole they are lost or kept;
 * - a stored value is never changed in place: damage replaces it, and readers get copies.
 */

import { equalBytes } from "../base/bytes.js";
import { LIMITS } from "../base/limits.js";
import type { Batch, Entry, Key, Range, ScanOptions } from "../contract/backend.js";
import { commitConflict } from "../contract/group-commit.js";
import { encodeKey, encodeRange, isRangeDeletion } from "../contract/keys.js";
import type { SeededRandom } from "./simulated-env.js";

const NOTHING = new Uint8Array(0);

/** Which unsynced batches outlive a crash: see `SimulatedBackend.crash`. */
export type Keep = "none" | "all" | "prefix" | "subset";

/** The bounds `[start, end)` of a scan, as strings that sort like keys. */
export interface Bounds {
  readonly start: string;
  readonly end: string;
}

/**
 * One UTF-16 unit for each byte: such strings sort as the bytes do. `apply`, because spreading costs six
 * times as much.
 */
function text(bytes: Uint8Array): string {
  return String.fromCharCode.apply(null, bytes as unknown as number[]);
}

export function boundsOf(range: Range): Bounds {
  const { start, end } = encodeRange(range);
  return { start: text(start), end: text(end) };
}

/** What is left of the bounds after a page that ended with this key. */
export function boundsBeyond(bounds: Bounds, key: Key, reverse = false): Bounds {
  const name = text(encodeKey(key));
  return reverse ? { start: bounds.start, end: name } : { start: `${name}\0`, end: bounds.end };
}

/** A map in key order: a change costs a binary search and a shift of the names behind it. */
export class SortedEntries {
  readonly #names: string[];
  readonly #entries: Map<string, Entry>;

  constructor(from?: SortedEntries) {
    this.#names = from === undefined ? [] : [...from.#names];
    this.#entries = new Map(from === undefined ? [] : from.#entries);
  }

  get(key: Key): Uint8Array | undefined {
    return this.#entries.get(text(encodeKey(key)))?.value;
  }

  /** Returns the entry that it overwrote. */
  set({ key, value }: Entry): Entry | undefined {
    const name = text(encodeKey(key));
    const before = this.#entries.get(name);
    if (before === undefined) this.#names.splice(this.#position(name), 0, name);
    this.#entries.set(name, { key, value });
    return before;
  }

  /** Deletes the keys within the bounds, and returns what they held. */
  delete({ start, end }: Bounds): Entry[] {
    const from = this.#position(start);
    return this.#names.splice(from, Math.max(0, this.#position(end) - from)).map((name) => {
      const entry = this.#entries.get(name)!;
      this.#entries.delete(name);
      return entry;
    });
  }

  /** Copies of the first entries within the bounds, and whether there are more: one page, as it is now. */
  page({ start, end }: Bounds, options: ScanOptions): { readonly page: Entry[]; readonly more: boolean } {
    const { reverse = false, limit = Infinity, values = true } = options;
    const names = this.#names.slice(this.#position(start), this.#position(end));
    if (reverse) names.reverse();
    const page: Entry[] = [];
    let bytesLeft = options.pageBytesMax ?? LIMITS.pageBytesMax;
    for (const name of names) {
      if (page.length >= limit || (page.length > 0 && bytesLeft <= 0)) break;
      const { key, value } = this.#entries.get(name)!;
      page.push(copyEntry({ key, value: values ? value : NOTHING }));
      bytesLeft -= name.length + (values ? value.length : 0);
    }
    return { page, more: page.length < names.length };
  }

  /** Copies of all entries, in key order. */
  dump(): Entry[] {
    return this.#names.map((name) => copyEntry(this.#entries.get(name)!));
  }

  /** Returns the entries that it deleted or overwrote. */
  apply(batch: Batch): Entry[] {
    const gone: Entry[] = [];
    for (const deletion of batch.delete ?? []) {
      if (isRangeDeletion(deletion)) gone.push(...this.delete(boundsOf(deletion)));
      else {
        const name = text(encodeKey(deletion));
        gone.push(...this.delete({ start: name, end: `${name}\0` }));
      }
    }
    for (const entry of batch.put ?? []) {
      const before = this.set(entry);
      if (before !== undefined) gone.push(before);
    }
    return gone;
  }

  /** The first position whose name is not below this one. */
  #position(name: string): number {
    let low = 0;
    let high = this.#names.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#names[middle]! < name) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

export class SimulatedDisk {
  #durable = new SortedEntries();
  #written = new SortedEntries();
  #unsynced: Batch[] = [];
  #residue: Entry[] = [];

  /** What a crash cannot take. */
  get durable(): SortedEntries {
    return this.#durable;
  }

  /** What the next write builds on. */
  get written(): SortedEntries {
    return this.#written;
  }

  /** What was deleted or overwritten and not reclaimed since: a real disk still has it somewhere. */
  get residue(): readonly Entry[] {
    return this.#residue;
  }

  reclaim(): void {
    this.#residue = [];
  }

  get unsyncedCount(): number {
    return this.#unsynced.length;
  }

  /** Adds the batch to what is unsynced, or throws `COMMIT_CONFLICT` and changes nothing. */
  write(batch: Batch): void {
    for (const { key, value } of batch.expect ?? []) {
      if (!equalBytes(this.#written.get(key), value)) throw commitConflict(key);
    }
    this.#unsynced.push(batch);
    this.#residue.push(...this.#written.apply(batch));
  }

  /** Takes back a batch that has not been synced. */
  withdraw(batch: Batch): void {
    this.#unsynced = this.#unsynced.filter((other) => other !== batch);
    this.#written = new SortedEntries(this.#durable);
    for (const other of this.#unsynced) this.#written.apply(other);
  }

  sync(): void {
    for (const batch of this.#unsynced.splice(0)) this.#durable.apply(batch);
  }

  /** Keeps the unsynced batches that `keep` says and forgets the others. All that is left is durable. */
  crash(keep: Keep, random: SeededRandom): { readonly kept: number; readonly lost: number } {
    const unsynced = this.#unsynced.splice(0);
    const kept = survivors(unsynced, keep, random);
    for (const batch of kept) this.#durable.apply(batch);
    this.#written = new SortedEntries(this.#durable);
    return { kept: kept.length, lost: unsynced.length - kept.length };
  }

  /** Replaces a value, or removes the key, behind everybody's back. Throws while anything is unsynced. */
  damage(key: Key, value: Uint8Array | undefined): void {
    this.assertSynced();
    const batch: Batch = value === undefined ? { delete: [key] } : { put: [{ key, value }] };
    this.#durable.apply(batch);
    this.#written.apply(batch);
  }

  /** Replaces everything. Throws while anything is unsynced. */
  restore(entries: readonly Entry[]): void {
    this.assertSynced();
    this.#durable = new SortedEntries();
    this.#durable.apply({ put: entries.map(copyEntry) });
    this.#written = new SortedEntries(this.#durable);
  }

  assertSynced(): void {
    if (this.#unsynced.length > 0)
      throw new Error("unsynced batches would undo this: call sync() or crash()");
  }
}

function survivors(unsynced: readonly Batch[], keep: Keep, random: SeededRandom): readonly Batch[] {
  switch (keep) {
    case "none":
      return [];
    case "all":
      return unsynced;
    case "prefix":
      return unsynced.slice(0, random.int(unsynced.length + 1));
    case "subset":
      return unsynced.filter(() => random.int(2) === 1);
  }
}

function copyEntry({ key, value }: Entry): Entry {
  return { key: [...key] as unknown as Key, value: value.slice() };
}

/** So that later changes to what the caller passed do not reach the disk. */
export function copyBatch(batch: Batch): Batch {
  return {
    put: (batch.put ?? []).map(copyEntry),
    delete: structuredClone(batch.delete ?? []),
    expect: (batch.expect ?? []).map(({ key, value }) => ({ key, value: value?.slice() })),
  };
}
