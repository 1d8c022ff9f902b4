/**
 * Deleting a document: one commit turns its meta into a tombstone. What it had stored is garbage from then
 * on.
 *
 * Invariants: the tombstone keeps the clock, so that clocks are never used again for this id; it is put only
 * if nobody appended meanwhile. The index of the tags goes in the same commit: no tag outlives its document.
 */

import { isCoppiceError } from "../base/errors.js";
import type { Context } from "./context.js";
import type { DocumentLog } from "./document-log.js";
import type { Head } from "./head.js";
import { eventsKey, type Meta, metaKey, sealMeta } from "./meta.js";
import { tagsKey } from "./tag-index.js";

/**
 * Puts the tombstone; the caller sweeps. `undefined`: there is no such document; `"conflict"`: another writer
 * was faster, read the head again.
 */
export async function bury(
  context: Context,
  log: DocumentLog,
  head: Head,
): Promise<{ meta: Meta; metaBytes: Uint8Array; existed: boolean } | "conflict" | undefined> {
  const { meta, metaBytes } = head;
  if (meta === undefined || metaBytes === undefined) return undefined;
  if (meta.deleted !== undefined) return { meta, metaBytes, existed: false };
  const time = Math.max(context.env.now(), head.time);
  const tombstone: Meta = {
    ...meta,
    base: head.clock,
    oldest: head.clock,
    snapshot: undefined,
    previous: undefined,
    archive: [],
    commits: [],
    // What was remembered is forgotten now, not "never written": a repeated append stays unknown.
    commitFloor: Math.max(meta.commitFloor, head.chosenTime),
    deleted: { clock: head.clock, time },
  };
  const value = sealMeta(log.id, tombstone, time);
  log.forget();
  try {
    await context.guard.commit({
      put: [{ key: metaKey(log.id), value }],
      delete: [tagsKey(log.id)],
      expect: [
        { key: metaKey(log.id), value: metaBytes },
        { key: eventsKey(log.id, head.clock), value: undefined },
      ],
    });
  } catch (error) {
    if (isCoppiceError(error, "COMMIT_CONFLICT")) return "conflict";
    throw error;
  }
  return { meta: tombstone, metaBytes: value, existed: true };
}
