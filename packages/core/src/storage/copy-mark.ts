/**
 * How a copy has left a document in its target. Where nothing else tells any more, because the source has
 * trimmed, deleted or begun anew what the target has, this tells what the target has of its own.
 *
 * | key            | value                                                            |
 * | -------------- | ---------------------------------------------------------------- |
 * | `[copied, id]` | msgpack map `{ clock, crc, incarnation, tags[, nonce] }`, sealed  |
 *
 * Invariants: it is written in the commit that it speaks of, so one that a crash interrupts knows what it has
 * brought, and never passes for its own what somebody else wrote. Each slice that a copy writes before meta
 * has a mark of other bytes than all before, by its nonce: whoever expects the one they have seen, which
 * sweeps and copies do, is held off by what was staged since.
 */

import { toHex } from "../base/bytes.js";
import { crc32 } from "../base/checksum.js";
import { isCoppiceError } from "../base/errors.js";
import type { Entry, Key } from "../contract/backend.js";
import type { Context } from "./context.js";
import { damaged, sealRecord, unseal } from "./envelope.js";
import { Fields, packRecord, unpackRecord } from "./meta.js";

export const COPIED_SPACE = "copied";

export const copiedKey = (id: string): Key => [COPIED_SPACE, id];

export interface CopyMark {
  /** The head: its clock, and the CRC of its last batch. */
  readonly clock: number;
  readonly crc: number;
  readonly incarnation: string;
  /** CRC of the index of the tags; 0: there is none. */
  readonly tags: number;
}

/** For `CopyMark.tags`. */
export function crcOfTags(index: Uint8Array | undefined): number {
  return index === undefined ? 0 : crc32(index);
}

/** With which the document is as the source has it. */
export function markEntry(context: Context, id: string, mark: CopyMark): Entry {
  return sealMark(context, id, mark, {});
}

/** Of a slice: more is to come. */
export function sliceMarkEntry(context: Context, id: string, mark: CopyMark): Entry {
  return sealMark(context, id, mark, { nonce: toHex(context.env.random(4)) });
}

function sealMark({ env }: Context, id: string, mark: CopyMark, more: { nonce?: string }): Entry {
  const { clock, crc, incarnation, tags } = mark;
  const key = copiedKey(id);
  return { key, value: sealRecord(key, env.now(), packRecord({ clock, crc, incarnation, tags, ...more })) };
}

/** `undefined` for a damaged one too: then nothing tells, as without one. */
export async function readMark({ guard }: Context, id: string): Promise<CopyMark | undefined> {
  const key = copiedKey(id);
  const value = await guard.get(key);
  if (value === undefined) return undefined;
  try {
    return unsealMark(key, value);
  } catch (error) {
    if (isCoppiceError(error, "CORRUPT")) return undefined;
    throw error;
  }
}

function unsealMark(key: Key, value: Uint8Array): CopyMark {
  const { payload } = unseal(key, value);
  try {
    const fields = new Fields(unpackRecord(payload));
    return {
      clock: fields.integer("clock"),
      crc: fields.integer("crc"),
      incarnation: fields.text("incarnation"),
      tags: fields.integer("tags"),
    };
  } catch (error) {
    throw damaged(key, "the mark of a copy is malformed", error);
  }
}
