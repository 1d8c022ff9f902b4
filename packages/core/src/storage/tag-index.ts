/**
 * The index of a document's tags: which names there are, and which snapshot belongs to each.
 *
 * | key                                     | value                                                       |
 * | --------------------------------------- | ----------------------------------------------------------- |
 * | `[tags, id]`                            | the index: a msgpack map `{ tags: [TagEntry, …] }`            |
 * | `[tagged, id, clock, stage · 2¹⁶ + part]` | the snapshot of a tag; its record names the tag             |
 * | `[held, id, clock]`                     | events below the clock that the snapshot does not cover     |
 *
 * Invariants: a stage that the index does not name is garbage. An index is there before the first stage, so
 * stages without one are damage. The commit that deletes a document deletes its index.
 */

import { hasLoneSurrogate, utf8 } from "../base/bytes.js";
import { CoppiceError, type ErrorDetails, isCoppiceError } from "../base/errors.js";
import type { Limits } from "../base/limits.js";
import type { Key } from "../contract/backend.js";
import type { Guard } from "../contract/guard.js";
import { type Context, observe } from "./context.js";
import { damaged, sealRecord, unseal } from "./envelope.js";
import { Fields, packRecord, unpackRecord } from "./meta.js";
import type { StageRef } from "./stages.js";

/** A named version of a document. */
export interface Tag {
  readonly name: string;
  /** Events that the tagged version covers. */
  readonly clock: number;
  /** When it was tagged, in ms since 1970. */
  readonly time: number;
  /** Bytes of its snapshot as stored. */
  readonly bytes: number;
}

/** What the index says of a tag. */
export interface TagEntry extends StageRef {
  readonly name: string;
  readonly time: number;
  /** Of the snapshot, as the model made it and as stored with its record. */
  readonly bytes: number;
  readonly storedBytes: number;
  /** Events below the clock that the snapshot does not cover: their bytes lie in `held`. */
  readonly held: number;
}

/** The index as stored, and what it says. */
export interface Tags {
  readonly entries: readonly TagEntry[];
  readonly bytes: Uint8Array | undefined;
}

export const tagsKey = (id: string): Key => ["tags", id];

/** What is wrong where there are stages and no index. */
export const NO_INDEX = "there are snapshots of tags, and no index of the tags";

/** Throws `ARGUMENT_INVALID` for a name that cannot be one. */
export function checkTagName(id: string, name: string, limits: Limits): void {
  const fail = (what: string, details: Record<string, unknown> = {}) =>
    new CoppiceError("ARGUMENT_INVALID", `the name of a tag ${what}`, { details: { id, ...details } });
  if (typeof name !== "string" || name === "") throw fail("must be a string that is not empty");
  if (hasLoneSurrogate(name) || /\p{Cc}/u.test(name)) {
    throw fail("must have neither control characters nor lone surrogates", { name });
  }
  const actual = utf8(name).length;
  const max = limits.tagNameBytesMax;
  if (actual > max) throw fail("is too long", { limit: "tagNameBytesMax", max, actual });
}

/** The tags of a document, by name; none when it does not exist. Throws `CORRUPT`, `FORMAT_UNSUPPORTED`. */
export async function readTags(guard: Guard, id: string): Promise<Tags> {
  const bytes = await guard.get(tagsKey(id));
  return { entries: bytes === undefined ? [] : unsealTags(id, bytes), bytes };
}

/**
 * How far the log must reach, by the tags: 0 when there is none, or their index cannot be read, which a check
 * says. To be asked before the end of the log is looked for: a tag that is added meanwhile may lie beyond it.
 */
export async function taggedClock(guard: Guard, id: string): Promise<number> {
  try {
    return furthest((await readTags(guard, id)).entries);
  } catch (error) {
    if (isCoppiceError(error, "CORRUPT") || isCoppiceError(error, "FORMAT_UNSUPPORTED")) return 0;
    throw error;
  }
}

/** The clock of the newest version that is tagged; 0 when none is. */
export function furthest(entries: readonly TagEntry[]): number {
  return entries.reduce((max, { clock }) => Math.max(max, clock), 0);
}

/** The tags of a document as its users see them, by clock and then by name. */
export async function listTags({ guard }: Context, id: string): Promise<Tag[]> {
  const { entries } = await readTags(guard, id);
  return entries.map(tagOf).sort((left, right) => left.clock - right.clock);
}

/** None when their index is damaged: whoever asks for a clock does not need it. */
export async function intactTags(context: Context, id: string): Promise<readonly TagEntry[]> {
  try {
    return (await readTags(context.guard, id)).entries;
  } catch (error) {
    if (!isCoppiceError(error, "CORRUPT")) throw error;
    observe(context, (observer) => observer.damage?.({ id, error, recovered: true }));
    return [];
  }
}

/** What a moment that was trimmed may be replaced by. */
export async function available(context: Context, id: string): Promise<ErrorDetails> {
  const entries = await intactTags(context, id);
  return { tags: entries.slice(0, 16).map(nameAtClock) };
}

/** A tag as errors name it. */
export function nameAtClock({ name, clock }: TagEntry): string {
  return `${name}@${clock}`;
}

export function unsealTags(id: string, value: Uint8Array): TagEntry[] {
  const key = tagsKey(id);
  const { payload } = unseal(key, value);
  try {
    return new Fields(unpackRecord(payload)).list("tags").map((item) => {
      const fields = new Fields(item);
      return {
        name: fields.text("name"),
        time: fields.integer("time"),
        clock: fields.integer("clock"),
        stage: fields.integer("stage"),
        parts: fields.integer("parts"),
        bytes: fields.integer("bytes"),
        storedBytes: fields.integer("storedBytes"),
        held: fields.integer("held"),
      };
    });
  } catch (error) {
    throw damaged(key, "the index of the tags is malformed", error);
  }
}

export function sealTags(id: string, entries: readonly TagEntry[], time: number): Uint8Array {
  const sorted = [...entries].sort((left, right) => (left.name < right.name ? -1 : 1));
  return sealRecord(tagsKey(id), time, packRecord({ tags: sorted }));
}

export function tagOf({ name, clock, time, storedBytes }: TagEntry): Tag {
  return { name, clock, time, bytes: storedBytes };
}
