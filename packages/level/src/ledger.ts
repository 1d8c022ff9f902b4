/**
 * The store-wide commit number of a directory: one more key in each commit, so that a commit that is
 * missing from LevelDB's logs, or that LevelDB dropped, shows.
 *
 * The key is 00 and `commit`: no key of a document begins with 00, and scans never see it. Its value:
 *
 * | offset | size | is                                                                    |
 * | ------ | ---- | --------------------------------------------------------------------- |
 * | 0      | 8    | number of this commit, from 1, big-endian                             |
 * | 8      | 4    | chain: CRC-32 of the chain before, the number, and what was committed |
 * | 12     | 4    | the chain of the commit before                                        |
 * | 16     | 4    | CRC-32 of the key and all before it                                   |
 *
 * "What was committed" is each key with the length and the last 16 bytes of its value, which in values of
 * storage are a checksum of the whole. So equal number and chain mean the same history, and the cost does
 * not grow with the bytes. A store from before there were numbers begins with 1 at its next commit.
 */

import { CoppiceError, crc32, equalBytes } from "coppice";
import type { Anchor } from "./anchor.js";

export const COMMIT_KEY: Uint8Array = Uint8Array.of(0, ...new TextEncoder().encode("commit"));
const VALUE_BYTES = 20;
const TAIL_BYTES = 16;

export interface CommitMark {
  readonly number: number;
  readonly chain: number;
  readonly before: number;
}

/** What a commit writes, as the database takes it. */
export type WrittenOperation =
  | { readonly type: "put"; readonly key: Uint8Array; readonly value: Uint8Array }
  | { readonly type: "del"; readonly key: Uint8Array };

const NONE: CommitMark = { number: 0, chain: 0, before: 0 };

/** `undefined` for bytes that no ledger wrote. */
export function readMark(value: Uint8Array): CommitMark | undefined {
  if (value.length !== VALUE_BYTES) return undefined;
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength);
  if (view.getUint32(16) !== crc32(value.subarray(0, 16), crc32(COMMIT_KEY))) return undefined;
  const number = view.getUint32(0) * 0x1_0000_0000 + view.getUint32(4);
  return { number, chain: view.getUint32(8), before: view.getUint32(12) };
}

export function writeMark({ number, chain, before }: CommitMark): Uint8Array {
  const value = new Uint8Array(VALUE_BYTES);
  const view = new DataView(value.buffer);
  view.setUint32(0, Math.floor(number / 0x1_0000_0000));
  view.setUint32(4, number >>> 0);
  view.setUint32(8, chain);
  view.setUint32(12, before);
  view.setUint32(16, crc32(value.subarray(0, 16), crc32(COMMIT_KEY)));
  return value;
}

/** Numbers the commits of one opened directory. */
export class Ledger {
  #last: CommitMark;
  #next: CommitMark | undefined;
  readonly #anchor: Anchor | undefined;

  /**
   * `stored`: what the opened database has under the key. `logged`: what its logs had, when they were read
   * before. Throws `CORRUPT` when they differ, or when the anchor knows more or otherwise.
   */
  constructor(stored: Uint8Array | undefined, logged: Uint8Array | undefined, anchor: Anchor | undefined) {
    if (logged !== undefined && !equalBytes(stored, logged)) {
      throw new CoppiceError("CORRUPT", "LevelDB did not take over the last commits of its log", {
        details: { expected: readMark(logged)?.number, actual: stored && readMark(stored)?.number },
      });
    }
    const mark = stored === undefined ? NONE : readMark(stored);
    if (mark === undefined) throw new CoppiceError("CORRUPT", "the number of the last commit is damaged");
    anchor?.compare(mark);
    this.#last = mark;
    this.#anchor = anchor;
  }

  /** The operation that numbers a commit of these operations; `settle` makes it count. */
  number(operations: readonly WrittenOperation[]): WrittenOperation {
    const number = this.#last.number + 1;
    const chain = chainOf(this.#last.chain, number, operations);
    this.#next = { number, chain, before: this.#last.chain };
    return { type: "put", key: COMMIT_KEY, value: writeMark(this.#next) };
  }

  /** The commit is durable; resolves when the anchor, if there is one, says so durably. */
  async settle(): Promise<void> {
    if (this.#next === undefined) return;
    this.#last = this.#next;
    this.#next = undefined;
    await this.#anchor?.write(this.#last);
  }

  /** Throws `LOCKED` when somebody else has committed while the database was closed for a moment. */
  assertLast(stored: Uint8Array | undefined): void {
    const { number, chain } = (stored && readMark(stored)) ?? NONE;
    if (number === this.#last.number && chain === this.#last.chain) return;
    throw new CoppiceError("LOCKED", "another process had the store open meanwhile, and has written to it", {
      details: { expected: this.#last.number, actual: number },
    });
  }

  async close(): Promise<void> {
    await this.#anchor?.close();
  }
}

function chainOf(before: number, number: number, operations: readonly WrittenOperation[]): number {
  const head = new Uint8Array(12);
  const view = new DataView(head.buffer);
  view.setUint32(0, before);
  view.setUint32(4, Math.floor(number / 0x1_0000_0000));
  view.setUint32(8, number >>> 0);
  let crc = crc32(head);
  for (const operation of operations) {
    crc = crc32(operation.key, crc);
    if (operation.type === "del") continue;
    const { value } = operation;
    view.setUint32(0, value.length);
    crc = crc32(head.subarray(0, 4), crc);
    crc = crc32(value.length > TAIL_BYTES ? value.subarray(value.length - TAIL_BYTES) : value, crc);
  }
  return crc;
}
