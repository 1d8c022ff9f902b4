/**
 * What commands about one document share: telling that there is none, with one message and one exit code.
 * It prints nothing itself.
 */

import { existsSync } from "node:fs";
import { type DocumentInfo, type DocumentStorage, isCoppiceError } from "coppice";
import { CommandError } from "../errors.js";
import { printable } from "../output.js";

/**
 * What is known of the document, and what it takes in the store, unless a record that says so is damaged.
 * `undefined`: there is no such document.
 */
export async function factsOf(
  storage: Pick<DocumentStorage, "info">,
  id: string,
): Promise<DocumentInfo | undefined> {
  try {
    return await storage.info(id, { usage: true });
  } catch (error) {
    if (!isCoppiceError(error, "CORRUPT")) throw error;
    return storage.info(id);
  }
}

/** Rejects with "not found" (exit code 3) for a document that never existed or was deleted. */
export async function existing(storage: Pick<DocumentStorage, "info">, id: string): Promise<DocumentInfo> {
  const info = await storage.info(id);
  if (info === undefined) throw noDocument(id);
  return info;
}

export function noDocument(id: string): CommandError {
  return new CommandError("NOT_FOUND", `there is no document "${printable(id)}"`, {
    hint: `\`coppice ls\` lists those that there are.${isPlace(id) ? STORES : ""}`,
    details: { id },
  });
}

const STORES = " A store goes behind --store, as in --store level:./data";

/** Whether a store was meant, perhaps: a directory of that name, or what a store looks like. */
function isPlace(id: string): boolean {
  // Behind a file there is nothing, and what is no path at all does not exist.
  return /^(?:level|file|memory):/.test(id) || existsSync(`${id}/.`);
}

/** A document that exists, and did not at the moment that was asked for. */
export function notYet(id: string): CommandError {
  return new CommandError("NOT_FOUND", `"${printable(id)}" did not exist then`, {
    hint: "`coppice history` shows when each batch was stored.",
    details: { id },
  });
}
