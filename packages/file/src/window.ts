/**
 * A part of a file in memory, that moves on: for reading a segment from its begin to its end without having
 * all of it at once.
 *
 * Invariant: what `have` returned is void after the next `have`.
 */

import type { OpenFile } from "./files.js";
import { unfilled } from "./frame.js";

/** Bytes of one read, unless more are asked for at once. */
const WINDOW_BYTES = 512 * 1024;

export class Window {
  readonly #file: OpenFile;
  readonly #end: number;
  #memory: Uint8Array = unfilled(WINDOW_BYTES);
  #start = 0;
  /** What is there. */
  bytes: Uint8Array = this.#memory.subarray(0, 0);
  /** The same bytes. */
  buffer: Buffer = Buffer.from(this.bytes.buffer, 0, 0);

  /** `end`: nothing is read behind it. */
  constructor(file: OpenFile, end: number) {
    this.#file = file;
    this.#end = end;
  }

  /**
   * Where in `bytes` this position lies, with so many bytes behind it, or fewer when the file or the part of
   * it that counts ends before.
   */
  async have(position: number, byteCount: number): Promise<number> {
    const wanted = Math.min(byteCount, this.#end - position);
    const at = position - this.#start;
    if (at >= 0 && at + wanted <= this.bytes.length) return at;
    const length = Math.min(Math.max(wanted, WINDOW_BYTES), this.#end - position);
    if (length > this.#memory.length) this.#memory = unfilled(length);
    let done = 0;
    while (done < length) {
      const count = await this.#file.read(this.#memory, done, length - done, position + done);
      if (count === 0) break;
      done += count;
    }
    this.#start = position;
    this.bytes = this.#memory.subarray(0, done);
    this.buffer = Buffer.from(this.#memory.buffer, 0, done);
    return 0;
  }
}
