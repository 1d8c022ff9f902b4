/**
 * What is left of an erased document: a clock and a time under a hash of the id, so that its clocks are never
 * used again although nothing tells what the id was.
 *
 * | key                     | value                                                  |
 * | ----------------------- | ------------------------------------------------------ |
 * | `[erased, hash of id]`  | msgpack map `{ clock, time, commitFloor }`, sealed     |
 *
 * The hash is SHA-256 over `coppice erased` and 00 and the id in UTF-8, in hexadecimal digits. Who can guess
 * an id can tell that it was erased; nobody can read it.
 *
 * Invariant: an id has meta or an erased record. Both only in the target of a copy that was overtaken: there
 * the record goes with the next document, and until then the later clock counts.
 */

import { toHex, utf8 } from "../base/bytes.js";
import { Sha256 } from "../base/digest.js";
import type { Key } from "../contract/backend.js";
import type { Guard } from "../contract/guard.js";
import { damaged, sealRecord, unseal } from "./envelope.js";
import { packRecord, unpackRecord } from "./meta.js";

export const ERASED_SPACE = "erased";
const DOMAIN = utf8("coppice erased\0");

export interface Erased {
  /** Clocks up to here were used. */
  readonly clock: number;
  readonly time: number;
  /** Time up to which chosen commit ids may have been used. */
  readonly commitFloor: number;
  /** As stored, for expectations. */
  readonly bytes: Uint8Array;
}

export function erasedKey(id: string): Key {
  return [ERASED_SPACE, toHex(new Sha256().update(DOMAIN).update(utf8(id)).finish())];
}

/** `undefined`: the id was not erased, or was recreated since. Throws `CORRUPT` for a damaged record. */
export async function readErased(guard: Guard, key: Key): Promise<Erased | undefined> {
  const bytes = await guard.get(key);
  return bytes && { ...unsealErased(key, bytes), bytes };
}

export function sealErased(key: Key, erased: Omit<Erased, "bytes">): Uint8Array {
  const { clock, time, commitFloor } = erased;
  return sealRecord(key, time, packRecord({ clock, time, commitFloor }));
}

/** Throws `CORRUPT` or `FORMAT_UNSUPPORTED`. */
export function unsealErased(key: Key, value: Uint8Array): Omit<Erased, "bytes"> {
  const { payload } = unseal(key, value);
  let record: unknown;
  try {
    record = unpackRecord(payload);
  } catch (error) {
    throw damaged(key, "the erased record is malformed", error);
  }
  const { clock, time, commitFloor } = (record ?? {}) as Record<string, unknown>;
  if (!isCount(clock) || !isCount(time) || !isCount(commitFloor)) {
    throw damaged(key, "the erased record is malformed");
  }
  return { clock, time, commitFloor };
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
