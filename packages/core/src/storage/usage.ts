/**
 * What a document takes in the store, read from the few records that say so.
 *
 * Invariant: nothing is counted by going through what is counted, but for held events, of which there are
 * few.
 */

import type { Context } from "./context.js";
import type { Head } from "./head.js";
import { eventsKey, type Meta } from "./meta.js";
import { Moved, openBatch, readSnapshotRecord, withRestarts } from "./reader.js";
import { readTags, type TagEntry } from "./tag-index.js";

/** Bytes without keys, and without what a backend adds to them or has not taken back yet. */
export interface DocumentUsage {
  /** The sum of the bytes below. */
  readonly storedBytes: number;
  /** Payload bytes of the events that the log keeps. */
  readonly retainedBytes: number;
  /** Of the newest snapshot and the one before it, as stored. */
  readonly snapshotBytes: number;
  readonly archiveBytes: number;
  /** How many tags, and their snapshots as stored. */
  readonly tags: number;
  readonly tagBytes: number;
  /**
   * Events that the newest snapshot does not cover, since they wait for others or were refused; and the bytes
   * of such, also of those that snapshots of tags do not cover.
   */
  readonly heldEvents: number;
  readonly heldBytes: number;
}

/**
 * `undefined`: it is deleted. Three to six reads; throws `CORRUPT` when one of these records is damaged.
 */
export function readUsage(context: Context, id: string, head: Head): Promise<DocumentUsage | undefined> {
  return withRestarts(
    () => context.guard,
    id,
    async (meta) => {
      if (meta === undefined || meta.deleted !== undefined) return undefined;
      const { snapshot, previous, archive } = meta;
      const { entries } = await readTags(context.guard, id);
      const heldEvents = await heldBy(context, id, meta);
      const parts = {
        retainedBytes: Math.max(0, head.logBytes - (await bytesBefore(context, id, meta))),
        snapshotBytes: (snapshot?.storedBytes ?? 0) + (previous?.storedBytes ?? 0),
        archiveBytes: sum(archive),
        tagBytes: sum(entries),
        // Also those that only the snapshot before needs.
        heldBytes: snapshot === undefined && entries.length === 0 ? 0 : await bytesHeld(context, id),
      };
      const storedBytes = Object.values(parts).reduce((total, bytes) => total + bytes, 0);
      return { storedBytes, ...parts, tags: entries.length, heldEvents };
    },
  );
}

async function heldBy({ guard }: Context, id: string, { snapshot }: Meta): Promise<number> {
  return snapshot === undefined ? 0 : (await readSnapshotRecord(guard, id, snapshot)).held.length;
}

/** Log bytes of what was trimmed. */
async function bytesBefore({ guard }: Context, id: string, meta: Meta): Promise<number> {
  const { base, oldest, archive, snapshot, previous } = meta;
  if (oldest === base) return 0;
  const segment = archive.at(-1);
  if (segment !== undefined) return segment.logBytes;
  for (const ref of [previous, snapshot]) if (ref?.clock === oldest) return ref.logBytes;
  const key = eventsKey(id, oldest);
  const value = await guard.get(key);
  if (value === undefined) throw new Moved(key, "the oldest batch of the log is missing");
  const { logBytes, payload } = openBatch(key, value);
  return logBytes - payload.length;
}

async function bytesHeld({ guard }: Context, id: string): Promise<number> {
  let bytes = 0;
  for await (const page of guard.scan({ space: "held", id }))
    for (const { value } of page) bytes += value.length;
  return bytes;
}

function sum(refs: readonly Pick<TagEntry, "storedBytes">[]): number {
  return refs.reduce((total, { storedBytes }) => total + storedBytes, 0);
}
