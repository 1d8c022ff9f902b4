/**
 * What a copy writes to a document that is there, before meta: in slices, each read back.
 *
 * Invariant: each slice marks the document anew, under the meta that was found and the mark of the slice
 * before. So it voids the sweeps that have begun before it, and of two copies beside each other one looks
 * again.
 */

import { equalBytes } from "../base/bytes.js";
import type { Entry, Expectation } from "../contract/backend.js";
import { commitConflict } from "../contract/group-commit.js";
import type { Context } from "./context.js";
import { misread } from "./landing.js";
import { openBatch } from "./reader.js";

/** The end of a batch, and its CRC. */
interface LastBatch {
  readonly clock: number;
  readonly crc: number;
}

/** Rejects with `COMMIT_CONFLICT` where somebody else has changed what it relies on, and with `CORRUPT`. */
export class SliceWriter {
  records = 0;
  bytes = 0;
  /** The mark as the last slice has left it, or as it was found. */
  marked: Uint8Array | undefined;
  readonly #target: Context;
  readonly #meta: Expectation;
  #waiting: Entry[] = [];
  #waitingBytes = 0;
  #next: Expectation | undefined;
  readonly #mark: (last: LastBatch) => Entry;
  #last: LastBatch;

  constructor(
    target: Context,
    meta: Expectation,
    last: LastBatch,
    marked: Uint8Array | undefined,
    mark: (last: LastBatch) => Entry,
  ) {
    this.#target = target;
    this.#meta = meta;
    this.#last = last;
    this.marked = marked;
    this.#mark = mark;
  }

  async add(entry: Entry): Promise<void> {
    const { limits } = this.#target;
    const full =
      this.#waitingBytes + entry.value.length > limits.groupBytesMax ||
      this.#waiting.length >= limits.groupOperationsMax;
    if (full) await this.flush();
    this.#waiting.push(entry);
    this.#waitingBytes += entry.value.length;
  }

  /** A batch: nobody else may have put one there. */
  async append(entry: Entry): Promise<void> {
    await this.add(entry);
    this.#next ??= { key: entry.key, value: undefined };
    const { end, crc } = openBatch(entry.key, entry.value);
    this.#last = { clock: end, crc };
  }

  async flush(): Promise<void> {
    const put = this.#waiting.splice(0);
    const next = this.#next === undefined ? [] : [this.#next];
    this.#waitingBytes = 0;
    this.#next = undefined;
    if (put.length === 0) return;
    const { guard } = this.#target;
    const mark = this.#mark(this.#last);
    const marked = { key: mark.key, value: this.marked };
    await guard.commit({ put: [...put, mark], expect: [this.#meta, marked, ...next] });
    this.marked = mark.value;
    for (const { key, value } of put) {
      const found = await guard.get(key);
      if (!equalBytes(found, value)) {
        // Nothing names it yet: a sweep may have taken it. And whoever has changed meta since may have put
        // something else there.
        const isOurs = equalBytes(await guard.get(this.#meta.key), this.#meta.value);
        throw found === undefined || !isOurs ? commitConflict(key) : misread(key[1]);
      }
      this.records++;
      this.bytes += value.length;
    }
  }
}
