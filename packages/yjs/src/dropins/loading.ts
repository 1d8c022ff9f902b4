/**
 * Puts what is stored of a document into a Y.Doc that somebody else made: a server's, or the caller's.
 *
 * The stored events are joined into one update without building a second document, so a load costs what
 * `storage.load` costs. An event that Yjs cannot integrate is found then: the document is built by the model,
 * which refuses such events one by one, and the rest is taken from there.
 *
 * Invariants: nothing is written; transactions carry the origin of the tracker that leaves them out.
 */

import { CoppiceError, type DocumentHandle, type DocumentStorage } from "coppice";
import * as Y from "yjs";
import { applyValidated } from "../apply.js";
import { guardGarbage } from "../garbage.js";
import type { StoredOrigin } from "../tracker.js";

/** What is used of a `DocumentStorage`; one with further models will do. */
export type YjsStorage = Pick<
  DocumentStorage,
  "append" | "attach" | "diff" | "info" | "load" | "models" | "open" | "recover"
>;

/** The name under which the Yjs model is registered. */
export const MODEL = "yjs";

/** The state vector of a peer that has nothing. */
export const NOTHING_KNOWN: Uint8Array = Uint8Array.of(0);

/** What is used of it to load. */
type Reads = Pick<DocumentStorage, "diff" | "info" | "load">;

export interface Stored {
  /** Names the document; `undefined`: there is none (any more), and nothing was applied. */
  readonly token?: string;
  /** At least so many events of the log are in the document now. */
  readonly clock: number;
  /** What was applied, of format 1. */
  readonly update?: Uint8Array;
  /**
   * Events that the log keeps and the document does not show, with the reason; known after a refusal only.
   */
  readonly refused: readonly { readonly clock: number | undefined; readonly reason: string }[];
  /** What a listener of the Y.Doc threw: all was applied by then. */
  readonly thrown?: { readonly error: unknown } | undefined;
}

/**
 * Applies what is stored. Rejects like `storage.load`, with `MODEL_UNKNOWN` for a document of another model,
 * and with a `TypeError` for a Y.Doc of another copy of Yjs.
 */
export async function loadInto(
  storage: Reads,
  id: string,
  doc: Y.Doc,
  origin?: StoredOrigin,
): Promise<Stored> {
  assertOurYjs(doc);
  guardGarbage(doc);
  const info = await storage.info(id);
  if (info === undefined) return { clock: 0, refused: [] };
  assertModel(id, info.model);
  const update = await storage.diff(id, NOTHING_KNOWN);
  if (update === undefined) return { clock: 0, refused: [] };
  const { token } = info;
  let thrown: Stored["thrown"];
  const onThrown = (error: unknown) => {
    thrown ??= { error };
  };
  if (applyValidated(doc, update, origin, onThrown))
    return { token, clock: info.clock, update, refused: [], thrown };
  const handle: DocumentHandle<Y.Doc> | undefined = await storage.load<Y.Doc>(id);
  if (handle === undefined) return { clock: 0, refused: [] };
  const whole = Y.encodeStateAsUpdate(handle.doc);
  const refused = handle.held.flatMap(({ clock, reason }) =>
    reason === undefined ? [] : [{ clock, reason }],
  );
  await handle.close();
  if (applyValidated(doc, whole, origin, onThrown))
    return { token, clock: handle.clock, update: whole, refused, thrown };
  throw new CoppiceError("CORRUPT", "Yjs cannot integrate the stored document", { details: { id } });
}

/** The stored document as one update; `undefined` when there is none. Rejects like `loadInto`. */
export async function storedUpdate(
  storage: YjsStorage,
  id: string,
  known: Uint8Array = NOTHING_KNOWN,
): Promise<Uint8Array | undefined> {
  const info = await storage.info(id);
  if (info === undefined) return undefined;
  assertModel(id, info.model);
  return storage.diff(id, known);
}

function assertModel(id: string, stored: string): void {
  if (stored === MODEL) return;
  throw new CoppiceError("MODEL_UNKNOWN", "the document exists under another model", {
    details: { id, model: MODEL, stored },
  });
}

/** Two copies of Yjs do not understand each other's structs: a document would lose text without a word. */
function assertOurYjs(doc: Y.Doc): void {
  if (doc instanceof Y.Doc) return;
  throw new TypeError(
    "the Y.Doc was made by another copy of Yjs, so nothing of it is stored: import yjs everywhere as an ES " +
      "module, in one version; hand that copy to what requires it (y-websocket's bin/utils) by require.cache",
  );
}
