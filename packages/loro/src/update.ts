/**
 * What can be said of Loro's bytes without a document, and the one way in which they enter one.
 *
 * | part     | bytes                                                        |
 * | -------- | ------------------------------------------------------------ |
 * | magic    | "loro"                                                       |
 * | reserved | 12, of no meaning                                            |
 * | checksum | 4: xxHash32 of all that follows                              |
 * | mode     | 2, big-endian: 3 snapshot (whole or shallow), 4 update       |
 * | contents | to the end                                                   |
 *
 * Loro compares the checksum when it imports, so nothing is compared twice here. What it throws is text, or
 * a `WebAssembly.RuntimeError` when it has panicked; after that the document it happened in is unusable.
 */

import type { EventLinks } from "coppice";
import { decodeImportBlobMeta, type ImportBlobMetadata, type ImportStatus, type LoroDoc } from "loro-crdt";

const MODE_AT = 20;
const UPDATE = 4;

/** Loro panicked while it imported: the document is lost. */
export class Panic extends Error {}

/** Reads what an update or snapshot says of itself. Throws a `TypeError` for bytes that are neither. */
export function readMeta(bytes: Uint8Array): ImportBlobMetadata {
  return calm(() => decodeImportBlobMeta(bytes, true));
}

/**
 * Throws a `TypeError` for what cannot be an event: anything but a whole update or a whole snapshot in
 * Loro's present encoding. A shallow snapshot would stay pending, without a word, in a document with other
 * events.
 */
export function checkEvent(event: Uint8Array): void {
  const { mode } = readMeta(event);
  if (mode !== "update" && mode !== "snapshot") throw new TypeError(`an event cannot be of the mode ${mode}`);
}

/** True when only `checkEvent` can tell whether this may be an event; cheap. */
export function isSuspect(event: Uint8Array): boolean {
  return event[MODE_AT] !== 0 || event[MODE_AT + 1] !== UPDATE;
}

/**
 * Points are operations, named by peer; an update starts at a version, which it names. Throws like
 * `readMeta`.
 */
export function linksOf(event: Uint8Array): EventLinks {
  const { partialStartVersionVector, partialEndVersionVector, startFrontiers } = readMeta(event);
  const [start, end] = [partialStartVersionVector.toJSON(), partialEndVersionVector.toJSON()];
  partialStartVersionVector.free();
  partialEndVersionVector.free();
  const makes = [...end].map(([name, to]) => ({ name, from: start.get(name) ?? 0, to }));
  const [longest] = [...makes].sort((left, right) => right.to - right.from - (left.to - left.from));
  const after = startFrontiers.map(({ peer, counter }) => ({ name: peer, at: counter }));
  return { replica: longest?.name ?? "", makes, after, complete: true };
}

/**
 * Imports all at once. Throws a `TypeError` when Loro refuses one of them, a `Panic` when the document is
 * lost.
 */
export function importAll(doc: LoroDoc, events: readonly Uint8Array[]): ImportStatus {
  return calm(() => (events.length === 1 ? doc.import(events[0]!) : doc.importBatch([...events])));
}

function calm<T>(fn: () => T): T {
  try {
    return fn();
  } catch (error) {
    if (error instanceof WebAssembly.RuntimeError) {
      throw new Panic(`Loro failed on it: ${error.message}`, { cause: error });
    }
    if (error instanceof Error) throw error;
    throw new TypeError(`Loro refuses it: ${String(error)}`);
  }
}
