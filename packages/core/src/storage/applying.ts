/**
 * Applies events to a live document, to which the application listens.
 *
 * A listener may throw when the events are in the document already: then they must be staged, or count as
 * pulled, all the same, and the error must be heard. It never decides what becomes of an event.
 */

import type { AnyModel, Applied } from "../contract/model.js";
import { soundApplied } from "../contract/model-results.js";

export interface AppliedLive {
  readonly result: Applied<unknown>;
  /** What the first listener to throw threw: to be thrown once the result is noted. */
  readonly thrown: { readonly error: unknown } | undefined;
}

/** Throws when it is not known what became of the events: some may be in the document. */
export function applyLive(model: AnyModel, doc: unknown, events: readonly unknown[]): AppliedLive {
  let thrown: AppliedLive["thrown"];
  const onThrown = (error: unknown) => {
    thrown ??= { error };
  };
  let result: Applied<unknown>;
  try {
    result = model.apply(doc, events, onThrown);
  } catch (error) {
    thrown = { error };
    try {
      // Applying twice equals applying once, so a second call tells what a model did that threw in the first.
      result = model.apply(doc, events, onThrown);
    } catch {
      throw error;
    }
  }
  return { result: soundApplied(model, result, events.length), thrown };
}
