/**
 * What a peer lacks, from cold storage.
 *
 * The model answers from stored bytes, first without those of the snapshot, so that a peer who has (nearly)
 * everything costs two small reads. No document is built, and nothing is changed.
 */

import { CoppiceError } from "../base/errors.js";
import type { StoredState } from "../contract/model.js";
import type { Context } from "./context.js";
import { withRestarts } from "./reader.js";
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
  for (const recordOnly of [true, false]) {
    const state = await withRestarts(
      () => context.guard,
      id,
      async (meta, metaBytes) =>
        meta === undefined || meta.deleted !== undefined
          ? undefined
          : readState(context, id, meta, metaBytes!, { recordOnly }),
    );
    if (state === undefined) return undefined;
    const { model } = state;
    if (model.diff === undefined) {
      throw new CoppiceError("TRAIT_MISSING", `the ${model.name} model offers no diff`, { details: { id } });
    }
    let answer: Uint8Array | undefined;
    try {
      answer = model.diff(storedOf(state), peerVersion);
    } catch (error) {
      throw new CoppiceError("ARGUMENT_INVALID", "not a version of this model", {
        cause: error,
        details: { id },
      });
    }
    if (answer !== undefined) return answer;
  }
  throw new TypeError("a model must answer diff once it has the snapshot");
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
