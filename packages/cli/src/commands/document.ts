/**
 * What commands about one document share: telling that there is none, with one message and one exit code.
 * It prints nothing itself.
 */

import type { DocumentInfo, DocumentStorage } from "coppice";
import { CommandError } from "../errors.js";
import { printable } from "../output.js";

/** Rejects with "not found" (exit code 3) for a document that never existed or was deleted. */
export async function existing(storage: Pick<DocumentStorage, "info">, id: string): Promise<DocumentInfo> {
  const info = await storage.info(id);
  if (info === undefined) throw noDocument(id);
  return info;
}

/** A clock when it is a whole number, a date when it looks like one, else the name of a tag. */
export function momentOf(text: string): number | string | Date {
  if (/^\d+$/.test(text)) return Number(text);
  if (!/^\d{4}-\d{2}-\d{2}(T[\d:.]+(Z|[+-]\d{2}:\d{2})?)?$/.test(text)) return text;
  const date = new Date(text);
  return Number.isFinite(date.getTime()) ? date : text;
}

export function noDocument(id: string): CommandError {
  return new CommandError("NOT_FOUND", `there is no document "${printable(id)}"`, {
    hint: "`coppice ls` lists those that there are.",
    details: { id },
  });
}
