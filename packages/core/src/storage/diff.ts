/**
 * What a peer lacks, from cold storage.
 *
 * The model answers from stored bytes, first without those of the snapshot, so that a peer who has (nearly)
 * everything costs two small reads. When it asks for them they are read for the state that is there already:
 * snapshots do not change, so the two fit together. No document is built, and nothing is changed.
 */

import { CoppiceError, isCoppiceError } from "../base/errors.js";
import type { StoredState } from "../contract/model.js";
import { ownBytes } from "../contract/model-results.js";
import type { Context } from "./context.js";
import { Moved, readSnapshot, withRestarts } from "./reader.js";
import { readState, type State } from "./state.js";

/**
 * `undefined` when the document does not exist. Rejects with `ARGUMENT_INVALID` for a bad `peerVersion`, with
 * `MODEL_UNKNOWN` when the model offers no diff. First tries without the bytes of the snapshot.
 */
export async function diffDocument(
  context: Context,
  id: string,
  peerVersion: Uint8Array,
): Promise<Uint8Array | undefined> {
  if (!(peerVersion instanceof Uint8Array)) throw new TypeError("peerVersion must be a Uint8Array");
  const state = await stored(context, id, true);
  if (state === undefined) return undefined;
  const answer = answerFrom(state, id, peerVersion);
  if (answer !== undefined) return answer;
  const whole = (await withSnapshot(context, id, state)) ?? (await stored(context, id, false));
  if (whole === undefined) return undefined;
  const fromSnapshot = answerFrom(whole, id, peerVersion);
  if (fromSnapshot === undefined) throw new TypeError("a model must answer diff once it has the snapshot");
  return fromSnapshot;
}

/** The stored state, with `recordOnly` without the bytes of the snapshot. */
function stored(context: Context, id: string, recordOnly: boolean): Promise<State | undefined> {
  return withRestarts(
    () => context.guard,
    id,
    async (meta, metaBytes) =>
      meta === undefined || meta.deleted !== undefined
        ? undefined
        : readState(context, id, meta, metaBytes!, { recordOnly }),
  );
}

/** `undefined` when the snapshot cannot be read: a compaction has replaced it meanwhile, or it is damaged. */
async function withSnapshot(context: Context, id: string, state: State): Promise<State | undefined> {
  const { base } = state;
  if (base === undefined) return undefined;
  try {
    const { bytes } = await readSnapshot(context.guard, id, base.ref, base.space);
    return { ...state, snapshot: bytes };
  } catch (error) {
    if (error instanceof Moved || isCoppiceError(error, "CORRUPT")) return undefined;
    throw error;
  }
}

function answerFrom(state: State, id: string, peerVersion: Uint8Array): Uint8Array | undefined {
  const { model } = state;
  if (model.diff === undefined) {
    throw new CoppiceError("TRAIT_MISSING", `the ${model.name} model offers no diff`, { details: { id } });
  }
  try {
    return ownBytes(model.diff(storedOf(state), peerVersion));
  } catch (error) {
    throw new CoppiceError("ARGUMENT_INVALID", "not a version of this model", {
      cause: error,
      details: { id },
    });
  }
}

function storedOf(state: State): StoredState<unknown> {
  return {
    version: state.base?.record.version,
    peerVersion: state.base?.record.peerVersion,
    // A document without a snapshot is complete with its tail: an empty snapshot has nothing to add.
    snapshot: state.base === undefined ? undefined : state.snapshot,
    tail: state.events,
  };
}
