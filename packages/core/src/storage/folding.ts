/**
 * From stored state to a new snapshot: bytes to bytes, on this thread in slices, or in a worker.
 *
 * Invariants: the result covers exactly the events up to the state's end that it does not name as held;
 * verifying restores the bytes as they were read back and compares versions, so what is trimmed is surely in
 * a snapshot.
 */

import { equalBytes } from "../base/bytes.js";
import { CoppiceError } from "../base/errors.js";
import type { AnyModel, Folded } from "../contract/model.js";
import { ownBytes, ownFolded, soundBytes, soundFolded } from "../contract/model-results.js";
import { type Context, observe } from "./context.js";
import type { SnapshotSource } from "./snapshots.js";
import { encodeEvents, type State } from "./state.js";

/** Does the heavy work of a model: here, or elsewhere. */
export interface Folder {
  fold(model: AnyModel, snapshot: Uint8Array | undefined, events: readonly unknown[]): Promise<Folded>;
  /** The version of the document that the snapshot restores to. */
  versionOf(model: AnyModel, snapshot: Uint8Array): Promise<Uint8Array>;
  close(): Promise<void>;
}

/** The thread died that folded or restored, of its memory say, which says nothing of the bytes. */
export class ThreadDied extends CoppiceError {
  constructor(cause: unknown) {
    super("UNAVAILABLE", "the folding thread died", { cause });
  }
}

/** On the calling thread. */
export const inlineFolder: Folder = {
  fold: async (model, snapshot, events) => ownFolded(model.fold(snapshot, events)),
  versionOf: async (model, snapshot) => versionOf(model, snapshot),
  close: async () => undefined,
};

/** Restores a snapshot and returns the version of what it holds. Throws for bytes that are no snapshot. */
export function versionOf(model: AnyModel, snapshot: Uint8Array): Uint8Array {
  const doc = model.restore(snapshot);
  try {
    return ownBytes(model.version(doc));
  } finally {
    model.dispose?.(doc);
  }
}

/** The snapshot of a state. Throws what the model throws for a base that is no snapshot. */
export async function foldState(
  context: Context,
  folder: Folder,
  id: string,
  state: State,
): Promise<SnapshotSource> {
  const { model, events, clocks, base, last } = state;
  const folded = soundFolded(model, await folder.fold(model, state.snapshot, events), events.length);
  const held = new Map<number, Uint8Array>();
  for (const index of [...folded.held, ...folded.refused.map((refusal) => refusal.index)]) {
    held.set(clocks[index]!, ownBytes(encodeEvents(model, id, [events[index]])));
  }
  for (const { index, reason } of folded.refused) {
    observe(context, (observer) => observer.held?.({ id, clock: clocks[index], reason }));
  }
  for (const index of folded.held)
    observe(context, (observer) => observer.held?.({ id, clock: clocks[index] }));
  return {
    model,
    clock: state.end,
    logBytes: last?.logBytes ?? base?.ref.logBytes ?? 0,
    crc: last?.crc ?? base?.ref.crc ?? 0,
    bytes: folded.snapshot,
    version: folded.version,
    peerVersion: folded.peerVersion,
    held,
    lost: [...(base?.record.lost ?? []), ...state.lost],
  };
}

/**
 * True when the bytes restore to a document of that version. False also for bytes that do not restore; a
 * `TypeError` where the model has no version for them, and `UNAVAILABLE` where the thread that restored them
 * died (of its memory, say): then they are not to blame.
 */
export async function restoresTo(
  folder: Folder,
  model: AnyModel,
  bytes: Uint8Array,
  version: Uint8Array,
): Promise<boolean> {
  let found: unknown;
  try {
    found = await folder.versionOf(model, bytes);
  } catch (error) {
    if (error instanceof ThreadDied) throw error;
    // Whatever the reason: these bytes are not the snapshot that was asked for.
    return false;
  }
  return equalBytes(soundBytes(model, "version", found), version);
}
