/**
 * A file outside of the store that knows its last commit: number and chain. With it even the loss of
 * exactly the last commit, of whole newest files, or a store replaced by an older copy of itself is
 * noticed. It belongs on another disk; who can change both, can make them agree.
 *
 * Two slots, synced, of which that is written which does not hold the newest mark, so that a torn write
 * leaves that one:
 *
 * | offset in its 512 bytes | size | is                                  |
 * | ----------------------- | ---- | ----------------------------------- |
 * | 0                       | 8    | `coppanch`                          |
 * | 8                       | 8    | number of the commit, big-endian    |
 * | 16                      | 4    | its chain (`ledger.ts`)             |
 * | 20                      | 4    | CRC-32 of all before it             |
 *
 * Invariant: it is written after the commit is durable and before it is acknowledged. So it may lag by the
 * one commit that a crash overtook, and never leads.
 */

import { constants } from "node:fs";
import { type FileHandle, mkdir, open, realpath } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { CoppiceError, crc32 } from "coppice";
import { DirectorySync } from "./directory.js";
import type { CommitMark } from "./ledger.js";

const SLOT_BYTES = 512;
const MAGIC = new TextEncoder().encode("coppanch");

interface Known {
  readonly number: number;
  readonly chain: number;
  /** Which of the two slots says so. */
  readonly slot: number;
}

export class Anchor {
  readonly #handle: FileHandle;
  readonly #path: string;
  /** What it said when it was opened; `undefined`: it is new. */
  readonly #known: Known | undefined;
  /** That is written next. */
  #slot: number;

  private constructor(handle: FileHandle, path: string, known: Known | undefined) {
    this.#handle = handle;
    this.#path = path;
    this.#known = known;
    this.#slot = known === undefined ? 0 : 1 - known.slot;
  }

  /** Creates the file, durably, when there is none. Rejects with `CORRUPT` when it is damaged. */
  static async open(location: string): Promise<Anchor> {
    await mkdir(dirname(resolve(location)), { recursive: true });
    const path = join(await realpath(dirname(resolve(location))), basename(location));
    const handle = await open(path, constants.O_RDWR | constants.O_CREAT, 0o600);
    try {
      const bytes = new Uint8Array(2 * SLOT_BYTES);
      const { bytesRead } = await handle.read(bytes, 0, bytes.length, 0);
      if (bytesRead < bytes.length || bytes.every((byte) => byte === 0)) {
        if (bytesRead > 0 && bytes.some((byte) => byte !== 0)) throw damaged(path);
        await writeAll(handle, bytes.fill(0), 0);
        await handle.datasync();
        await syncParent(path);
        return new Anchor(handle, path, undefined);
      }
      const slots = [0, 1].flatMap((slot) => readSlot(bytes, slot) ?? []);
      const known = slots.sort((a, b) => b.number - a.number)[0];
      if (known === undefined) throw damaged(path);
      return new Anchor(handle, path, known);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** Throws `CORRUPT` when the store lacks commits that the anchor knows, or has another history. */
  compare(mark: CommitMark): void {
    const known = this.#known;
    if (known === undefined) return;
    const details = { anchor: this.#path, expected: known.number, actual: mark.number };
    if (mark.number < known.number) {
      throw new CoppiceError("CORRUPT", "the store has lost commits that its anchor knows", { details });
    }
    const chain =
      mark.number === known.number
        ? mark.chain
        : mark.number === known.number + 1
          ? mark.before
          : known.chain;
    if (chain !== known.chain) {
      throw new CoppiceError("CORRUPT", "the store has another history than its anchor", { details });
    }
  }

  /** Resolves when the file says so durably. A failure is final: it is not repeated. */
  async write({ number, chain }: CommitMark): Promise<void> {
    const slot = new Uint8Array(SLOT_BYTES);
    slot.set(MAGIC);
    const view = new DataView(slot.buffer);
    view.setUint32(8, Math.floor(number / 0x1_0000_0000));
    view.setUint32(12, number >>> 0);
    view.setUint32(16, chain);
    view.setUint32(20, crc32(slot.subarray(0, 20)));
    await writeAll(this.#handle, slot, this.#slot * SLOT_BYTES);
    await this.#handle.datasync();
    this.#slot = 1 - this.#slot;
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}

function readSlot(bytes: Uint8Array, slot: number): Known | undefined {
  const own = bytes.subarray(slot * SLOT_BYTES, (slot + 1) * SLOT_BYTES);
  if (MAGIC.some((byte, i) => own[i] !== byte)) return undefined;
  const view = new DataView(own.buffer, own.byteOffset, SLOT_BYTES);
  if (view.getUint32(20) !== crc32(own.subarray(0, 20))) return undefined;
  const number = view.getUint32(8) * 0x1_0000_0000 + view.getUint32(12);
  return { number, chain: view.getUint32(16), slot };
}

/** A full disk may take a part of the bytes without an error. */
async function writeAll(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  let done = 0;
  while (done < bytes.length) {
    const { bytesWritten } = await handle.write(bytes, done, bytes.length - done, position + done);
    if (bytesWritten === 0) throw new Error("nothing more could be written");
    done += bytesWritten;
  }
}

async function syncParent(path: string): Promise<void> {
  const directory = await DirectorySync.open(dirname(path));
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

function damaged(path: string): CoppiceError {
  return new CoppiceError("CORRUPT", "the anchor of the store is damaged", { details: { anchor: path } });
}
