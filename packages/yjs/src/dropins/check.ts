/**
 * The door for bytes that clients send: what passes can be applied, stored and loaded again.
 *
 * It knows no document, so it cannot see that an update builds on missing ones; those are kept, not refused.
 */

import { CoppiceError } from "coppice";
import { scanUpdate } from "../scanner.js";

/**
 * Throws `EVENT_INVALID` for bytes that are no sound Yjs update (format 1), so that they are refused before a
 * live document meets them. Costs one pass over the bytes.
 */
export function checkUpdate(update: Uint8Array, id?: string): void {
  try {
    scanUpdate(update);
  } catch (cause) {
    throw new CoppiceError("EVENT_INVALID", "not a sound Yjs update; nothing of it was applied", {
      cause,
      details: id === undefined ? {} : { id },
    });
  }
}
