/**
 * The head of a document: what a writer must know to append, read from meta and the last batch alone.
 *
 * Invariant: a head that is older than what is stored can do no harm: every commit built on it expects the
 * meta bytes and the absence of the next batch key.
 */

import { CoppiceError } from "../base/errors.js";
import type { Expectation } from "../contract/backend.js";
import { CommitIds } from "./commit-id.js";
import type { Context } from "./context.js";
import { damaged } from "./envelope.js";
import { eventsKey, identityOf, type Meta } from "./meta.js";
import type { SnapshotStats } from "./policy.js";
import { assertNotDeleted, lastBatch, Moved, openBatch, type StoredBatch, withRestarts } from "./reader.js";
import { taggedClock } from "./tag-index.js";
import { type Erased, erasedKey, readErased } from "./tombstone.js";

export interface Head {
  /** `undefined`: the id was never used. With `deleted` set: a tombstone. */
  meta: Meta | undefined;
  metaBytes: Uint8Array | undefined;
  /** `metaBytes` with its key, as commits expect it: made when first needed. */
  metaEntry: Expectation | undefined;
  /** Checksum of the keys of its batches without their clocks: made when first needed. */
  eventsCrc: number | undefined;
  clock: number;
  /** Totals and chain values of the last batch. */
  logBytes: number;
  time: number;
  crc: number;
  chosenTime: number;
  /** Clock before the last batch, when there is one. */
  last: number | undefined;
  /** The record under the hash of an erased id: whoever creates the id anew removes it. */
  erased: Uint8Array | undefined;
  /** Built when first needed. */
  commits: CommitIds | undefined;
}

/** Throws `CORRUPT` when meta, the tags and the log cannot belong together. Three reads. */
export function readHead(context: Context, id: string): Promise<Head> {
  return withRestarts(
    () => context.guard,
    id,
    async (meta, metaBytes) => {
      if (meta === undefined || meta.deleted !== undefined) {
        const erased = await readErased(context.guard, erasedKey(id));
        return meta === undefined ? unusedHead(erased) : tombstoneHead(meta, metaBytes, erased);
      }
      const reached = await reachedClock(context, id, meta);
      const last = await lastBatch(context.guard, id);
      // A batch below `oldest` is garbage of a deleted incarnation, or the document's last batch has
      // vanished.
      if (last === undefined || last.clock < meta.oldest) {
        if (meta.oldest > meta.base || reached > meta.base) {
          throw new Moved(eventsKey(id, meta.oldest), "the last batches of the log are missing");
        }
        await assertNotDeleted(context.guard, id, meta, metaBytes);
        return emptyHead(meta, metaBytes, meta.base);
      }
      if (last.end < reached) {
        throw new Moved(eventsKey(id, last.end), "the last batches of the log are missing");
      }
      return headAfter(meta, metaBytes, last);
    },
  );
}

/** How far the log of a document must reach: to its snapshot and to its tags. See `taggedClock`. */
export async function reachedClock({ guard }: Context, id: string, meta: Meta): Promise<number> {
  return Math.max(meta.snapshot?.clock ?? meta.base, await taggedClock(guard, id));
}

/**
 * Opaque: names a document, a clock, and the log up to there, by the checksum of the batch that ends it:
 * each batch names the one before, so another log of that length has another. And the last repair, which may
 * have lost events below without changing what the last batch names.
 */
export function tokenOf(meta: Meta | undefined, clock: number, crc: number): string {
  if (meta === undefined || meta.deleted !== undefined) return ABSENT;
  const state = `${identityOf(meta)}.${clock}.${hex(crc)}`;
  return meta.repaired === undefined ? state : `${state}.${meta.repaired}`;
}

/** `identityOf` of the document that a token names. */
export function identityIn(token: string): string {
  return token.slice(0, token.indexOf("."));
}

const DIGITS = Array.from({ length: 0x1000 }, (_, i) => i.toString(16).padStart(3, "0"));

/** As `crc.toString(16)`, which takes several times as long. */
function hex(crc: number): string {
  if (crc < 0x1000_0000) return crc.toString(16);
  return DIGITS[crc >>> 24]!.slice(1) + DIGITS[(crc >>> 12) & 0xfff] + DIGITS[crc & 0xfff];
}

/** The `expected` token of an id that was never used. */
export const ABSENT = "absent";

/** What a snapshot policy is told of a document that is not loaded. */
export function statsOf({ meta, clock, logBytes }: Head, now: number): SnapshotStats {
  const snapshot = meta?.snapshot;
  return {
    eventsSinceSnapshot: clock - (snapshot?.clock ?? meta?.base ?? 0),
    bytesSinceSnapshot: logBytes - (snapshot?.logBytes ?? 0),
    snapshotBytes: snapshot?.storedBytes ?? 0,
    msSinceSnapshot: Math.max(0, now - (snapshot?.time ?? meta?.created ?? now)),
  };
}

/** The remembered commit ids of a document: reads at most `limits.commitIdsMax + 1` batches. */
export async function readCommitIds(context: Context, id: string, head: Head): Promise<CommitIds> {
  const { meta } = head;
  const max = context.limits.commitIdsMax;
  if (meta === undefined || head.last === undefined || head.chosenTime === 0) {
    return new CommitIds(max, meta?.commitFloor ?? 0);
  }
  const newestFirst: StoredBatch[] = [];
  const range = { space: "events", id, from: meta.oldest };
  for await (const page of context.guard.scan(range, { reverse: true, limit: max + 1 })) {
    for (const { key, value } of page) newestFirst.push(openBatch(key, value));
  }
  const whole = newestFirst.length <= max;
  const ids = new CommitIds(max, whole ? meta.commitFloor : newestFirst[max]!.header.chosenTime);
  if (whole) for (const commit of meta.commits) ids.add(commit.id, commit.clock);
  for (const batch of newestFirst.slice(0, max).reverse()) {
    if (batch.header.chosen) ids.add(batch.header.commitId, batch.end);
  }
  return ids;
}

/** The error for an id that was deleted, or recreated since. */
export function deletedError(id: string): CoppiceError {
  return new CoppiceError("DELETED", "the document was deleted; open it with recreate: true to begin anew", {
    details: { id },
  });
}

/** The error for what knows another document, or another state of it, than now has its id. */
export function displacedError(id: string): CoppiceError {
  return new CoppiceError(
    "DELETED",
    "the document was deleted and begun anew, or replaced by a copy, since it was loaded; load it again",
    { details: { id } },
  );
}

/** The error for a clock that the document has not reached, or does not reach any more. */
export function afterHeadError(id: string, clock: number, head: number): CoppiceError {
  return new CoppiceError("ARGUMENT_INVALID", "the clock lies after the head of the document", {
    details: { id, clock, head },
  });
}

/** The error for an id under which a document is staged. */
export function incomingError(id: string): CoppiceError {
  return new CoppiceError(
    "BUSY",
    "a fork, an import or a copy is bringing in a document of this id; repeat it if it was interrupted, or " +
      "delete the id to give it up",
    { details: { id } },
  );
}

function headAfter(meta: Meta, metaBytes: Uint8Array | undefined, last: StoredBatch): Head {
  if (last.end <= last.clock) throw damaged(eventsKey("", last.clock), "an empty batch");
  return {
    meta,
    metaBytes,
    metaEntry: undefined,
    eventsCrc: undefined,
    clock: last.end,
    logBytes: last.logBytes,
    time: last.time,
    crc: last.crc,
    chosenTime: last.header.chosenTime,
    last: last.clock,
    erased: undefined,
    commits: undefined,
  };
}

/** Of a document of whose log nothing is known, or nothing is there. */
export function emptyHead(meta: Meta | undefined, metaBytes: Uint8Array | undefined, clock: number): Head {
  return {
    meta,
    metaBytes,
    metaEntry: undefined,
    eventsCrc: undefined,
    clock,
    logBytes: 0,
    time: 0,
    crc: 0,
    chosenTime: 0,
    last: undefined,
    erased: undefined,
    commits: undefined,
  };
}

/** Of an id without meta: never used, or erased, which looks like a tombstone. */
function unusedHead(erased: Erased | undefined): Head {
  if (erased === undefined) return emptyHead(undefined, undefined, 0);
  const { clock, time, commitFloor, bytes } = erased;
  const meta: Meta = {
    model: "",
    created: time,
    incarnation: "",
    base: clock,
    oldest: clock,
    snapshot: undefined,
    previous: undefined,
    archive: [],
    commits: [],
    commitFloor,
    deleted: { clock, time },
  };
  return { ...emptyHead(meta, undefined, clock), erased: bytes };
}

/** A copy of an erasure may have put a record beside the tombstone: the later of the two counts. */
function tombstoneHead(meta: Meta, metaBytes: Uint8Array | undefined, erased: Erased | undefined): Head {
  const clock = Math.max(meta.deleted!.clock, erased?.clock ?? 0);
  const commitFloor = Math.max(meta.commitFloor, erased?.commitFloor ?? 0);
  return { ...emptyHead({ ...meta, commitFloor }, metaBytes, clock), erased: erased?.bytes };
}
