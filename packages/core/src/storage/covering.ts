/**
 * Whether one store's document has all that another's has, where no chain of batches tells any more: the
 * model is asked.
 *
 * Invariant: nothing is written, and no document that it loads stays in memory.
 */

import { equalBytes } from "../base/bytes.js";
import { isCoppiceError } from "../base/errors.js";
import { ownBytes, soundApplied } from "../contract/model-results.js";
import type { Context } from "./context.js";
import { type HeldEvent, type Loaded, loadDocument } from "./loader.js";

/**
 * Whether the source's document has all that the target's has, as the model sees it; `undefined`: nobody can
 * tell. The mark of a copy says only that nobody has written to the target since, and not that its source
 * was this one, or as it is now: it may have been put back to an older state. Loads both documents.
 */
export async function covers(source: Context, target: Context, id: string): Promise<boolean | undefined> {
  const [all, some] = [await loaded(source, id), await loaded(target, id)];
  let doc = all?.doc;
  try {
    if (all === undefined || some === undefined || all.model.covers === undefined) return undefined;
    const { model } = all;
    const isHeld = ({ event }: HeldEvent) =>
      all.held.some((other) => event instanceof Uint8Array && equalBytes(event, other.event as Uint8Array));
    const waiting = some.held.filter((one) => one.event !== undefined && !isHeld(one));
    if (waiting.length > 0) {
      // What they waited for may have come at the source since: then they are in its document.
      const before = ownBytes(model.version(doc));
      const events = waiting.map(({ event }) => event);
      const applied = soundApplied(model, model.apply(doc, events), events.length);
      doc = applied.doc;
      const isThere = applied.held.length + applied.refused.length === 0;
      if (!isThere || !equalBytes(ownBytes(model.version(doc)), before)) return false;
    }
    return all.model.covers(doc, ownBytes(some.model.snapshot(some.doc)));
  } finally {
    if (all !== undefined) all.model.dispose?.(doc);
    if (some !== undefined) some.model.dispose?.(some.doc);
  }
}

/** `undefined` also where damage, or a model that is not there, keeps it from being loaded. */
async function loaded(context: Context, id: string): Promise<Loaded | undefined> {
  try {
    return await loadDocument(context, id);
  } catch (error) {
    if (isCoppiceError(error, "MODEL_UNKNOWN") || isCoppiceError(error, "CORRUPT")) return undefined;
    throw error;
  }
}
