/**
 * One compaction of a whole store at a time, whoever asks for it: cron through the control socket, a person
 * through a page, the program itself.
 *
 * Compactions of single documents need no such care: the storage runs those of one document one after the
 * other. Two of a whole store would only do each other's work.
 */

import { CoppiceError } from "../base/errors.js";
import type { CompactAllOptions, CompactAllResult } from "../storage/compact-all.js";
import type { DocumentStorage } from "../storage/storage.js";

type Compactable = Pick<DocumentStorage, "compactAll">;

const running = new WeakSet<Compactable>();

/**
 * `storage.compactAll`, unless one that was begun here is still running for this storage: then it rejects
 * with `BUSY`, whose `details.compacting` is `true`, and does nothing.
 */
export async function compactAllAlone(
  storage: Compactable,
  options: CompactAllOptions = {},
): Promise<CompactAllResult> {
  if (running.has(storage)) {
    throw new CoppiceError("BUSY", "a compaction of this store is under way; nothing was done", {
      details: { compacting: true },
    });
  }
  running.add(storage);
  try {
    return await storage.compactAll(options);
  } finally {
    running.delete(storage);
  }
}
