/**
 * What a model's functions give has the shape that the contract says, or whoever wrote the model is told in a
 * `TypeError` what they must give.
 *
 * It is never `CORRUPT`: the bytes are as they were, and a repair must not set them aside. Whether what a
 * model gives is right, the conformance kit tries.
 *
 * A model may use the buffers of what it gave again with the next call of it: what outlives that is copied,
 * and before anything else runs, since the next call may be one for another document.
 */

import type { AnyModel, Applied, Folded } from "./model.js";
import { isBytes, kindOf } from "./shapes.js";

/** What `codec.decode` gave. */
export function soundEvents(model: AnyModel, events: unknown): unknown[] {
  if (Array.isArray(events)) return events;
  throw wrong(model, "codec.decode", "a list of events", kindOf(events));
}

/** What `snapshot`, `version` or `peerVersion` gave, or `fold` for it. */
export function soundBytes(model: AnyModel, from: string, bytes: unknown): Uint8Array {
  if (isBytes(bytes)) return bytes;
  throw wrong(model, from, "a Uint8Array", kindOf(bytes));
}

/** A copy of bytes that a model gave; what is none is given on, for those to tell who look at its shape. */
export function ownBytes<T>(given: T): T {
  return isBytes(given) ? (new Uint8Array(given) as T & Uint8Array) : given;
}

/** The same of what `fold` gave. */
export function ownFolded(folded: Folded): Folded {
  if (fieldsOf(folded) === undefined) return folded;
  const { snapshot, version, peerVersion, held, refused } = folded;
  return {
    snapshot: ownBytes(snapshot),
    version: ownBytes(version),
    peerVersion: ownBytes(peerVersion),
    held,
    refused,
  };
}

/** What `apply` gave for so many events. */
export function soundApplied(model: AnyModel, applied: Applied<unknown>, count: number): Applied<unknown> {
  const given = fieldsOf(applied);
  if (given?.doc === undefined) {
    throw wrong(
      model,
      "apply",
      "{ doc, applied, held, refused }",
      given === undefined ? kindOf(applied) : "no doc",
    );
  }
  assertLeft(model, "apply", given, count);
  return applied;
}

/** What `fold` gave for so many events. */
export function soundFolded(model: AnyModel, folded: Folded, count: number): Folded {
  const given = fieldsOf(folded);
  if (given === undefined) {
    throw wrong(model, "fold", "{ snapshot, version, peerVersion, held, refused }", kindOf(folded));
  }
  for (const name of ["snapshot", "version", "peerVersion"] as const) {
    soundBytes(model, `fold, for ${name},`, given[name]);
  }
  assertLeft(model, "fold", given, count);
  return folded;
}

type Fields = Readonly<Record<string, unknown>>;

/** Indexes of events that there are not would name others, or none, as what is kept beside a snapshot. */
function assertLeft(model: AnyModel, from: string, { held, refused }: Fields, count: number): void {
  const isIndex = (index: unknown) =>
    Number.isInteger(index) && (index as number) >= 0 && (index as number) < count;
  if (!Array.isArray(held) || !held.every(isIndex)) {
    throw wrong(model, `${from}, for held,`, `a list of indexes of the ${count} events`, told(held));
  }
  if (Array.isArray(refused) && refused.every((refusal) => isIndex(fieldsOf(refusal)?.index))) return;
  throw wrong(
    model,
    `${from}, for refused,`,
    `a list of { index, reason } of the ${count} events`,
    told(refused),
  );
}

function fieldsOf(value: unknown): Fields | undefined {
  return typeof value === "object" && value !== null ? (value as Fields) : undefined;
}

function told(value: unknown): string {
  return Array.isArray(value) ? "a list with something else" : kindOf(value);
}

function wrong({ name }: AnyModel, from: string, wanted: string, gave: string): TypeError {
  return new TypeError(`the ${name} model's ${from} must give ${wanted}, and gave ${gave}`);
}
