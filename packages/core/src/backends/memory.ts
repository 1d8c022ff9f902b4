/**
 * The memory backend: keys and values in this process, sorted, gone when the process ends. For tests, for
 * browsers without storage, and as the yardstick of the conformance kit. It keeps no files, and checks no
 * arguments (the guard does).
 *
 * The data belong to the factory: closing and opening the same factory again continues with the same data.
 *
 * Invariants:
 * - `commit` prepares everything that can fail before it changes anything, and changes everything in one
 *   synchronous step, so no reader sees half of it;
 * - a page of `scan` is built in one synchronous step; the next page continues after its last key, whatever
 *   happened in between;
 * - no byte array is shared with a caller: values are copied in and out.
 */

import { equalBytes } from "../base/bytes.js";
import type { Env } from "../base/env.js";
import { CoppiceError } from "../base/errors.js";
import { checkOptions, type OptionKinds } from "../base/options.js";
import type {
  Backend,
  BackendFactory,
  Batch,
  Durability,
  Entry,
  Key,
  Range,
  ScanOptions,
  Traits,
} from "../contract/backend.js";
import { commitConflict } from "../contract/group-commit.js";
import { encodeKey, encodeRange, isRangeDeletion } from "../contract/keys.js";

export interface MemoryBackendOptions {
  /** `true`: several opens at once see the same data, and `watch` tells them of changes. Default `false`. */
  readonly shared?: boolean;
  /** What the traits claim, for tests of code that asks for more than `"none"`, which is the default. */
  readonly durability?: Durability;
}

const OPTIONS: OptionKinds<MemoryBackendOptions> = { shared: "flag", durability: "text" };

/**
 * A factory whose opens share one set of data. Unless `shared`, a second open while one is open rejects with
 * `LOCKED`. Looking up, inserting and deleting take time logarithmic in the number of keys.
 */
export function memoryBackend(options: MemoryBackendOptions = {}): BackendFactory {
  checkOptions("memoryBackend", options, OPTIONS);
  const shared = options.shared ?? false;
  const traits: Traits = {
    durability: options.durability ?? "none",
    exclusive: !shared,
    poisonsItself: false,
    valueBytesMax: 64 * 1024 * 1024,
    commitBytesMax: 256 * 1024 * 1024,
  };
  const records = new SortedRecords();
  const handles = new Set<MemoryBackend>();
  return {
    name: "memory",
    async open(env: Env): Promise<Backend> {
      if (!shared && handles.size > 0) throw new CoppiceError("LOCKED", "the memory backend is already open");
      const handle = shared
        ? new SharedMemoryBackend(traits, records, handles, env)
        : new MemoryBackend(traits, records, handles);
      handles.add(handle);
      return handle;
    },
  };
}

class MemoryBackend implements Backend {
  readonly traits: Traits;
  readonly #records: SortedRecords;
  readonly #handles: Set<MemoryBackend>;

  constructor(traits: Traits, records: SortedRecords, handles: Set<MemoryBackend>) {
    this.traits = traits;
    this.#records = records;
    this.#handles = handles;
  }

  async get(key: Key): Promise<Uint8Array | undefined> {
    return this.#records.get(name(encodeKey(key)))?.value.slice();
  }

  async *scan(range: Range, options: ScanOptions = {}): AsyncGenerator<readonly Entry[]> {
    const { reverse = false, values = true, pageBytesMax = PAGE_BYTES_MAX, signal } = options;
    const { start, end } = encodeRange(range);
    let low = name(start);
    let high = name(end);
    let left = options.limit ?? Number.POSITIVE_INFINITY;
    while (left > 0) {
      signal?.throwIfAborted();
      const page = this.#records.page(low, high, {
        reverse,
        entriesMax: left,
        values,
        bytesMax: pageBytesMax,
      });
      const last = page.at(-1);
      if (last === undefined) return;
      left -= page.length;
      if (reverse) high = last.name;
      else low = `${last.name}\0`;
      yield page.map(({ key, value }) => ({ key, value: values ? value.slice() : new Uint8Array(0) }));
    }
  }

  async commit(batch: Batch): Promise<void> {
    for (const { key, value } of batch.expect ?? []) {
      const found = this.#records.get(name(encodeKey(key)));
      if (!equalBytes(found?.value, value)) throw commitConflict(key);
    }
    const puts = (batch.put ?? []).map(({ key, value }) => ({
      name: name(encodeKey(key)),
      key: Object.freeze([...key]) as Key,
      value: Uint8Array.from(value),
    }));
    const ranges = (batch.delete ?? []).map((deletion) => {
      if (isRangeDeletion(deletion)) {
        const { start, end } = encodeRange(deletion);
        return [name(start), name(end)] as const;
      }
      const only = name(encodeKey(deletion));
      return [only, `${only}\0`] as const;
    });
    for (const [low, high] of ranges) this.#records.deleteRange(low, high);
    for (const record of puts) this.#records.set(record);
    for (const handle of this.#handles) handle.changed();
  }

  /** What is deleted is gone: a record that nobody refers to is the garbage collector's. */
  async reclaim(): Promise<void> {}

  /** Called after each commit, of whichever handle. */
  changed(): void {}

  async close(): Promise<void> {
    this.#handles.delete(this);
  }
}

class SharedMemoryBackend extends MemoryBackend {
  readonly #env: Env;
  readonly #listeners = new Set<{ readonly call: () => void }>();
  #told = true;

  constructor(traits: Traits, records: SortedRecords, handles: Set<MemoryBackend>, env: Env) {
    super(traits, records, handles);
    this.#env = env;
  }

  watch(listener: () => void): () => void {
    const entry = { call: listener };
    this.#listeners.add(entry);
    return () => void this.#listeners.delete(entry);
  }

  override changed(): void {
    if (!this.#told || this.#listeners.size === 0) return;
    this.#told = false;
    this.#env.turn(() => {
      this.#told = true;
      for (const { call } of this.#listeners) call();
    });
  }

  override async close(): Promise<void> {
    this.#listeners.clear();
    await super.close();
  }
}

const PAGE_BYTES_MAX = 1024 * 1024;
const BLOCK_RECORDS_MAX = 512;

interface StoredRecord {
  readonly name: string;
  readonly key: Key;
  readonly value: Uint8Array;
}

interface PageOptions {
  readonly reverse: boolean;
  readonly values: boolean;
  readonly entriesMax: number;
  readonly bytesMax: number;
}

/**
 * The encoded key as a string of one character a byte. Strings of such characters compare natively in byte
 * order and take one byte a character.
 */
function name(encoded: Uint8Array): string {
  return String.fromCharCode(...encoded);
}

/**
 * Records in order of their names, in blocks that are never empty, so that an insertion moves few of them.
 */
class SortedRecords {
  readonly #blocks: StoredRecord[][] = [];

  get(name: string): StoredRecord | undefined {
    const block = this.#blocks[this.#blockOf(name)];
    const found = block?.[lowerBound(block, name)];
    return found?.name === name ? found : undefined;
  }

  set(record: StoredRecord): void {
    const { name } = record;
    // A name beyond the last block belongs to its end.
    const blockIndex = Math.min(this.#blockOf(name), Math.max(0, this.#blocks.length - 1));
    const block = this.#blocks[blockIndex];
    if (block === undefined) {
      this.#blocks.push([record]);
      return;
    }
    const index = lowerBound(block, name);
    if (block[index]?.name === name) {
      block[index] = record;
    } else if (block.length < BLOCK_RECORDS_MAX) {
      block.splice(index, 0, record);
    } else if (index === block.length) {
      // Rising keys are the usual case; they leave full blocks behind them.
      this.#blocks.splice(blockIndex + 1, 0, [record]);
    } else {
      const upper = block.splice(BLOCK_RECORDS_MAX / 2);
      this.#blocks.splice(blockIndex + 1, 0, upper);
      this.set(record);
    }
  }

  /** Deletes the names in `[low, high)`. */
  deleteRange(low: string, high: string): void {
    if (low >= high) return;
    const first = this.#blockOf(low);
    let last = first;
    const kept: StoredRecord[][] = [];
    for (; last < this.#blocks.length; last++) {
      const block = this.#blocks[last]!;
      if (block[0]!.name >= high) break;
      const from = lowerBound(block, low);
      block.splice(from, lowerBound(block, high) - from);
      if (block.length > 0) kept.push(block);
    }
    if (kept.length < last - first) this.#blocks.splice(first, last - first, ...kept);
  }

  /** The first (or in reverse the last) records with a name in `[low, high)`, as far as the maxima allow. */
  page(low: string, high: string, options: PageOptions): StoredRecord[] {
    const { reverse, values, entriesMax, bytesMax } = options;
    const records: StoredRecord[] = [];
    let bytes = 0;
    for (const record of reverse ? this.#down(low, high) : this.#up(low, high)) {
      const size = record.name.length + (values ? record.value.length : 0);
      if (records.length > 0 && bytes + size > bytesMax) break;
      bytes += size;
      records.push(record);
      if (records.length >= entriesMax) break;
    }
    return records;
  }

  *#up(low: string, high: string): Generator<StoredRecord> {
    for (let blockIndex = this.#blockOf(low); blockIndex < this.#blocks.length; blockIndex++) {
      const block = this.#blocks[blockIndex]!;
      for (let index = lowerBound(block, low); index < block.length; index++) {
        const record = block[index]!;
        if (record.name >= high) return;
        yield record;
      }
    }
  }

  *#down(low: string, high: string): Generator<StoredRecord> {
    const top = Math.min(this.#blockOf(high), this.#blocks.length - 1);
    for (let blockIndex = top; blockIndex >= 0; blockIndex--) {
      const block = this.#blocks[blockIndex]!;
      for (let index = lowerBound(block, high) - 1; index >= 0; index--) {
        const record = block[index]!;
        if (record.name < low) return;
        yield record;
      }
    }
  }

  /** The first block whose last name is not below `name`; the number of blocks when there is none. */
  #blockOf(name: string): number {
    let low = 0;
    let high = this.#blocks.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#blocks[middle]!.at(-1)!.name < name) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** The index of the first record whose name is not below `name`. */
function lowerBound(block: readonly StoredRecord[], name: string): number {
  let low = 0;
  let high = block.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (block[middle]!.name < name) low = middle + 1;
    else high = middle;
  }
  return low;
}
