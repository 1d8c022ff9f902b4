/**
 * Commit ids: 16 bytes that name one commit for ever, so that a repeated append is recognised.
 *
 * They have the form of a UUID of version 7 (RFC 9562): 48 bits of wall time in ms, then random bits. The
 * time lets storage tell "never seen" from "perhaps forgotten" once the window of remembered ids is full.
 *
 * Invariant of `CommitIds`: every chosen id of the document is either in the window or has a time ≤ `floor`.
 */

import { fromHex, toHex } from "../base/bytes.js";
import type { Env } from "../base/env.js";
import { CoppiceError } from "../base/errors.js";
import { COMMIT_ID_BYTES } from "./envelope.js";

/** An id from a clock that runs ahead further than this would make later honest ids look forgotten. */
const AHEAD_MS_MAX = 24 * 60 * 60 * 1000;

/** A fresh commit id: 16 bytes, a UUID of version 7. */
export function newCommitId(env: Env, now: number = env.now()): Uint8Array {
  const id = env.random(COMMIT_ID_BYTES);
  const high = Math.floor(now / 0x1_0000_0000);
  const low = now >>> 0;
  id[0] = high >>> 8;
  id[1] = high;
  id[2] = low >>> 24;
  id[3] = low >>> 16;
  id[4] = low >>> 8;
  id[5] = low;
  id[6] = 0x70 | (id[6]! & 0x0f);
  id[8] = 0x80 | (id[8]! & 0x3f);
  return id;
}

/** The wall time, ms since 1970, at which a commit id was made. */
export function commitIdTime(id: Uint8Array): number {
  let time = 0;
  for (let i = 0; i < 6; i++) time = time * 256 + id[i]!;
  return time;
}

/**
 * Checks an id that a caller chose: 16 bytes, or their UUID or hexadecimal form. Throws `COMMIT_ID_INVALID`
 * when it is not a UUID of version 7 or its time lies more than a day ahead.
 */
export function parseCommitId(id: Uint8Array | string, env: Env): Uint8Array {
  const fail = (why: string) =>
    new CoppiceError("COMMIT_ID_INVALID", `a commit id ${why}; make one with storage.newCommitId()`);
  let bytes: Uint8Array;
  if (typeof id === "string") {
    const hex = id.replaceAll("-", "");
    if (!/^[0-9a-fA-F]{32}$/.test(hex)) throw fail("must have 16 bytes");
    bytes = fromHex(hex);
  } else {
    if (!(id instanceof Uint8Array) || id.length !== COMMIT_ID_BYTES) throw fail("must have 16 bytes");
    bytes = new Uint8Array(id);
  }
  if (bytes[6]! >> 4 !== 7) throw fail("must be a UUID of version 7");
  if (commitIdTime(bytes) > env.now() + AHEAD_MS_MAX) throw fail("must not lie in the future");
  return bytes;
}

/** The remembered commit ids of one document, newest last. */
export class CommitIds {
  readonly #clocks = new Map<string, number>();
  readonly #max: number;
  #floor: number;

  constructor(max: number, floor = 0) {
    this.#max = max;
    this.#floor = floor;
  }

  /** Time (ms) up to which ids may have been forgotten. */
  get floor(): number {
    return this.#floor;
  }

  /** Oldest first. */
  entries(): { id: Uint8Array; clock: number }[] {
    return [...this.#clocks].map(([hex, clock]) => ({ id: fromHex(hex), clock }));
  }

  /** Remembers that the commit `id` ended at `clock`; forgets the oldest when the window is full. */
  add(id: Uint8Array, clock: number): void {
    const hex = toHex(id);
    this.#clocks.delete(hex);
    this.#clocks.set(hex, clock);
    for (const oldest of this.#clocks.keys()) {
      if (this.#clocks.size <= this.#max) break;
      this.#clocks.delete(oldest);
      this.#floor = Math.max(this.#floor, commitIdTime(fromHex(oldest)));
    }
  }

  /**
   * The clock the commit ended at; `"new"` when it was surely never made; `"forgotten"` when nobody knows.
   */
  lookup(id: Uint8Array): number | "new" | "forgotten" {
    const clock = this.#clocks.get(toHex(id));
    if (clock !== undefined) return clock;
    return commitIdTime(id) <= this.#floor ? "forgotten" : "new";
  }
}
