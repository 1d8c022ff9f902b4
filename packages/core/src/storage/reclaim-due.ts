/**
 * Says that files may still hold what a copy has erased, or what was erased at its source before it came: a
 * copy that is stopped, or finds no room, before it has reclaimed leaves that to the next one, which erases
 * nothing itself.
 *
 * | key              | value                             |
 * | ---------------- | --------------------------------- |
 * | `[reclaim, due]` | msgpack map `{ nonce }`, sealed    |
 *
 * Invariants: it is written, anew each time, by the commit that ends an erasure, or brings its record, or a
 * document that began after it; and goes after a reclaim that began when it was there. So what another copy
 * erases while one reclaims stays due.
 */

import { toHex } from "../base/bytes.js";
import { isCoppiceError } from "../base/errors.js";
import type { Entry, Key } from "../contract/backend.js";
import type { Context } from "./context.js";
import { sealRecord } from "./envelope.js";
import { packRecord } from "./meta.js";

const KEY: Key = ["reclaim", "due"];

export function reclaimDueEntry({ env }: Context): Entry {
  return { key: KEY, value: sealRecord(KEY, env.now(), packRecord({ nonce: toHex(env.random(4)) })) };
}

/** Reclaims if it is due. `remains`: it is due later as well. Rejects with `UNAVAILABLE`: it still is. */
export async function reclaimIfDue({ guard }: Context, remains: boolean): Promise<void> {
  const value = await guard.get(KEY);
  if (value === undefined) return;
  await guard.reclaim();
  if (remains) return;
  try {
    await guard.commit({ delete: [KEY], expect: [{ key: KEY, value }] });
  } catch (error) {
    if (!isCoppiceError(error, "COMMIT_CONFLICT")) throw error;
  }
}
