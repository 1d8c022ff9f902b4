/**
 * What `setMeta` keeps beside a document: one more document of the Yjs model, with a map. So it has the same
 * durability, checks and backups as all others. Its id is the document's behind a prefix that begins with
 * NUL.
 *
 * It does not order calls; `LeveldbPersistence` lets one change of a document's metas run at a time.
 */

import { CoppiceError, type DocumentStorage, isCoppiceError } from "coppice";
import type * as Y from "yjs";
import { MODEL, type YjsStorage } from "../dropins/loading.js";

const PREFIX = "\0y-leveldb meta\0";
const MAP = "metas";

export function isMetaId(id: string): boolean {
  return id.startsWith(PREFIX);
}

/**
 * The id under which the metas of a document are kept, as one more document. Who removes that one with
 * `storage.delete` or `storage.erase` removes this one too. Throws `ID_INVALID` for what is no string: a
 * template would make an id of it.
 */
export function metaId(name: string): string {
  assertString(name);
  return `${PREFIX}${name}`;
}

function assertString(name: string): void {
  if (typeof name === "string") return;
  const details = { actual: typeof name };
  throw new CoppiceError("ID_INVALID", "the name of a document must be a string", { details });
}

/** Throws `ID_INVALID` for a name that would be taken for the id of metas, and for what is no string. */
export function assertNotMetaId(name: string): void {
  assertString(name);
  if (!isMetaId(name)) return;
  throw new CoppiceError("ID_INVALID", "this name is kept for the metas of documents", {
    details: { id: name },
  });
}

export async function readMetas(storage: YjsStorage, name: string): Promise<Map<string, unknown>> {
  const handle = await storage.load<Y.Doc>(metaId(name)).catch(noneIfTooLong);
  if (handle === undefined) return new Map();
  const metas = new Map<string, unknown>(handle.doc.getMap(MAP).entries());
  await handle.close();
  return metas;
}

/** What has no metas, since its name leaves no room for their id, can be cleared as well. */
export async function deleteMetas(storage: DocumentStorage, name: string): Promise<void> {
  await storage.delete(metaId(name)).catch(noneIfTooLong);
}

/** A name may be short enough for a document, and with the prefix too long. */
function noneIfTooLong(error: unknown): undefined {
  if (!isTooLong(error)) throw error;
}

function isTooLong(error: unknown): boolean {
  return isCoppiceError(error, "ID_INVALID") && error.details.limit === "idBytesMax";
}

function tooLong(cause: unknown): unknown {
  if (!isTooLong(cause)) return cause;
  const { max, actual } = (cause as CoppiceError).details;
  const withoutPrefix = (bytes: unknown) => Number(bytes) - PREFIX.length;
  return new CoppiceError("ID_INVALID", "the name of the document is too long to keep metas beside it", {
    details: { limit: "idBytesMax", max: withoutPrefix(max), actual: withoutPrefix(actual) },
    cause,
  });
}

/** Durable when it resolves. `ID_INVALID`: the name leaves no room for the prefix. */
export async function changeMetas(
  storage: YjsStorage,
  name: string,
  recreate: boolean,
  change: (map: Y.Map<unknown>) => void,
): Promise<void> {
  const opened = storage.open<Y.Doc>(metaId(name), { model: MODEL, recreate });
  const handle = await opened.catch((error: unknown) => {
    throw tooLong(error);
  });
  try {
    handle.change((doc) => change(doc.getMap(MAP)));
    await handle.save();
  } finally {
    await handle.close({ discard: true });
  }
}
