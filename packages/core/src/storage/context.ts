/**
 * What the parts of one open storage share.
 *
 * Invariant: only `guard` and what is counted change; `recover()` replaces the guard, so nobody
 * may keep it across an await that can outlive a recovery.
 */

import type { Env } from "../base/env.js";
import { CoppiceError } from "../base/errors.js";
import type { Limits } from "../base/limits.js";
import type { Guard } from "../contract/guard.js";
import type { AnyModel } from "../contract/model.js";
import type { Observer } from "./observer.js";
import { report } from "./observer.js";
import type { HistoryPolicy } from "./trimming.js";

export interface Context {
  guard: Guard;
  readonly env: Env;
  readonly limits: Limits;
  readonly models: ReadonlyMap<string, AnyModel>;
  readonly defaultModel: AnyModel;
  readonly observer: Observer;
  /** What becomes of trimmed events; `undefined`: what became of earlier ones of the document. */
  readonly history: HistoryPolicy | undefined;
  /** Bytes handed to `append` that are neither durable nor rejected yet, over all documents. */
  readonly inFlight: { bytes: number };
}

/** The model that a document was stored with, or is to be; throws `MODEL_UNKNOWN`. */
export function modelOf(context: Context, name: string | undefined, id: string): AnyModel {
  if (name === undefined) return context.defaultModel;
  const model = context.models.get(name);
  if (model !== undefined) return model;
  throw new CoppiceError("MODEL_UNKNOWN", "no model of that name was given to DocumentStorage.open", {
    details: { id, model: name, known: [...context.models.keys()] },
  });
}

/** Tells the observer; `tell` gets it and calls at most one callback. */
export function observe(context: Context, tell: (observer: Observer) => void): void {
  report(context.env, () => tell(context.observer));
}

/** Tells the observer that no snapshot was taken, which harms nothing but the time that loads take. */
export function snapshotFailed(
  context: Context,
  fact: { readonly id: string; readonly clock?: number; readonly error: unknown },
): void {
  observe(context, (observer) => observer.snapshot?.({ clock: 0, bytes: 0, durationMs: 0, ...fact }));
}

/** Throws `BUSY` while more waits to be written than the limits say. */
export function assertRoom({ inFlight, limits: { inFlightBytesMax: max } }: Context, id: string): void {
  if (inFlight.bytes <= max) return;
  throw new CoppiceError("BUSY", "too much is waiting to be written; wait for earlier appends", {
    details: { id, limit: "inFlightBytesMax", max },
  });
}

export function recovering(): CoppiceError {
  return new CoppiceError("BUSY", "recover() is under way; nothing was done; call again when it ends");
}
