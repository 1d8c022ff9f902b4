/**
 * The floor of appends: a log without anything above it. What gathers goes down as one write and one fdatasync into a
 * file filled with zeros ahead, each record with its length, checksum and number. Not a store: nothing reads it.
 *
 * Invariant: a write that is short or fails throws.
 */
import { closeSync, fdatasync, fsyncSync, openSync, write, writeSync } from "node:fs";
import { crc32 } from "node:zlib";

const MIB = 1024 * 1024;
/** Length, checksum, and the number that shows whether a record is missing. */
const HEADER_BYTES = 16;

export class RawLog {
  #buffers = [Buffer.allocUnsafe(8 * MIB), Buffer.allocUnsafe(8 * MIB)];
  #which = 0;
  #size = 0;
  #queue = [];
  #busy = false;
  #at = 0;
  #sequence = 0;

  constructor(path, bytes) {
    this.bytes = bytes;
    this.descriptor = openSync(path, "w+");
    const zeros = Buffer.alloc(MIB);
    for (let at = 0; at < bytes; at += MIB) writeSync(this.descriptor, zeros, 0, MIB, at);
    fsyncSync(this.descriptor);
  }

  append(record) {
    return new Promise((resolve) => {
      const buffer = this.#buffers[this.#which];
      const at = this.#size;
      const end = at + HEADER_BYTES + record.length;
      buffer.writeUInt32LE(record.length, at);
      buffer.writeDoubleLE(this.#sequence++, at + 8);
      buffer.set(record, at + HEADER_BYTES);
      buffer.writeUInt32LE(crc32(buffer.subarray(at + 8, end)), at + 4);
      this.#size = end;
      this.#queue.push(resolve);
      if (this.#busy) return;
      this.#busy = true;
      queueMicrotask(() => this.#flush());
    });
  }

  #flush() {
    const [queue, size, buffer] = [this.#queue, this.#size, this.#buffers[this.#which]];
    if (queue.length === 0) {
      this.#busy = false;
      return;
    }
    [this.#queue, this.#size, this.#which] = [[], 0, 1 - this.#which];
    const at = this.#at + size > this.bytes ? 0 : this.#at;
    this.#at = at + size;
    write(this.descriptor, buffer, 0, size, at, (failed, count) => {
      if (failed || count !== size) throw failed ?? new Error("a short write");
      fdatasync(this.descriptor, (error) => {
        if (error) throw error;
        for (const resolve of queue) resolve();
        queueMicrotask(() => this.#flush());
      });
    });
  }

  close() {
    closeSync(this.descriptor);
  }
}
