/**
 * Many small byte strings in one piece of memory: the updates of a replay, as they were made. It is the
 * record that what a store holds is compared with, and it travels to the writing child as it is.
 */

export interface PackedUpdates {
  readonly bytes: Uint8Array;
  /** Ends of the updates within `bytes`; update `n` begins where the one before ends. */
  readonly ends: Uint32Array;
}

export class Updates {
  #bytes: Uint8Array = new Uint8Array(1 << 20);
  #ends: Uint32Array = new Uint32Array(1 << 16);
  #count = 0;

  get count(): number {
    return this.#count;
  }

  get byteCount(): number {
    return this.#endOf(this.#count - 1);
  }

  push(update: Uint8Array): void {
    const start = this.byteCount;
    if (start + update.length > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(this.#bytes.length * 2, start + update.length));
      grown.set(this.#bytes);
      this.#bytes = grown;
    }
    if (this.#count === this.#ends.length) {
      const grown = new Uint32Array(this.#ends.length * 2);
      grown.set(this.#ends);
      this.#ends = grown;
    }
    this.#bytes.set(update, start);
    this.#ends[this.#count++] = start + update.length;
  }

  /** A view, not a copy. */
  at(index: number): Uint8Array {
    return this.#bytes.subarray(this.#endOf(index - 1), this.#endOf(index));
  }

  /** A copy of those from `from` on. */
  pack(from: number): PackedUpdates {
    const start = this.#endOf(from - 1);
    return {
      bytes: this.#bytes.slice(start, this.byteCount),
      ends: this.#ends.slice(from, this.#count).map((end) => end - start),
    };
  }

  static unpack({ bytes, ends }: PackedUpdates): Updates {
    const updates = new Updates();
    updates.#bytes = bytes;
    updates.#ends = ends;
    updates.#count = ends.length;
    return updates;
  }

  #endOf(index: number): number {
    return index < 0 ? 0 : (this.#ends[index] ?? 0);
  }
}
