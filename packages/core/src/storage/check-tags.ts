/**
 * The tags of one document under check: their index, and the snapshot of each; and the index made again from
 * the snapshots, each of which names its tag.
 *
 * Invariants: a tag that was removed and not swept yet may come back with a rebuilt index; one that was
 * acknowledged is never left out. Nothing is written here.
 */

import { equalBytes } from "../base/bytes.js";
import { isCoppiceError } from "../base/errors.js";
import type { Key } from "../contract/backend.js";
import type { AnyModel } from "../contract/model.js";
import type { Finding } from "./check-log.js";
import { stageSizes, stages } from "./check-rebuild.js";
import { type FoundSnapshot, findSnapshot, stageKeys } from "./check-snapshots.js";
import type { Context } from "./context.js";
import type { Folder } from "./folding.js";
import type { Meta, SnapshotRef } from "./meta.js";
import { Moved, readSnapshotRecord } from "./reader.js";
import { hasTaggedStages } from "./snapshots.js";
import { NO_INDEX, type TagEntry, tagsKey, unsealTags } from "./tag-index.js";

/** At tags that others change all the while. */
const LOOKS_MAX = 32;

export interface FoundTags {
  /** The index as stored. */
  readonly bytes: Uint8Array | undefined;
  readonly entries: readonly TagEntry[];
  readonly snapshots: readonly FoundSnapshot[];
  readonly newer: boolean;
  /** What is wrong with the index itself. */
  readonly finding: Finding | undefined;
}

export const NO_TAGS: FoundTags = {
  bytes: undefined,
  entries: [],
  snapshots: [],
  newer: false,
  finding: undefined,
};

/**
 * Looks at the index of the tags and at every snapshot that it names; again where one of these is not whole
 * and the index has changed.
 */
export async function findTags(
  context: Context,
  folder: Folder,
  id: string,
  meta: Meta,
  model: AnyModel | undefined,
): Promise<FoundTags> {
  for (let look = 1; ; look++) {
    const tags = await lookAtTags(context, folder, id, meta, model);
    const isSound = tags.finding === undefined && tags.snapshots.every(({ state }) => state !== "bad");
    if (isSound || look === LOOKS_MAX) return tags;
    if (equalBytes(await context.guard.get(tagsKey(id)), tags.bytes)) return tags;
  }
}

async function lookAtTags(
  context: Context,
  folder: Folder,
  id: string,
  meta: Meta,
  model: AnyModel | undefined,
): Promise<FoundTags> {
  const key = tagsKey(id);
  const bytes = await context.guard.get(key);
  if (bytes === undefined) {
    if (!(await hasTaggedStages(context, id, meta))) return NO_TAGS;
    return { ...NO_TAGS, finding: { code: "tags-damaged", key, message: NO_INDEX } };
  }
  let entries: TagEntry[];
  try {
    entries = unsealTags(id, bytes);
  } catch (error) {
    const newer = isCoppiceError(error, "FORMAT_UNSUPPORTED");
    if (!newer && !isCoppiceError(error, "CORRUPT")) throw error;
    const code = newer ? "format-unsupported" : "tags-damaged";
    const message = `the index of the tags cannot be read: ${error.message}`;
    return { ...NO_TAGS, bytes, newer, finding: { code, key, message } };
  }
  const snapshots: FoundSnapshot[] = [];
  for (const entry of entries) {
    snapshots.push(await findSnapshot(context, folder, id, meta, "tag", refOf(entry), model, entry));
  }
  return { bytes, entries, snapshots, newer: false, finding: undefined };
}

/** The tags whose snapshots are whole, and the damaged values of others. */
export async function rebuildTags(
  context: Context,
  folder: Folder,
  id: string,
  meta: Meta,
  model: AnyModel,
): Promise<{ readonly entries: readonly TagEntry[]; readonly damaged: readonly Key[] }> {
  const damaged: Key[] = [];
  const byName = new Map<string, TagEntry>();
  for (const at of await stages(context, id, "tagged")) {
    // Of an earlier life of the id.
    if (meta.base > 0 && at.clock <= meta.base) continue;
    const entry = await entryAt(context, id, at);
    if (entry === undefined) {
      damaged.push(...(await stageKeys(context, id, at, true, "tagged")));
      continue;
    }
    const found = await findSnapshot(context, folder, id, meta, "tag", refOf(entry), model, entry);
    const known = byName.get(entry.name);
    if (found.state === "bad") damaged.push(...found.damaged);
    else if (known === undefined || known.time < entry.time) byName.set(entry.name, entry);
  }
  return { entries: [...byName.values()], damaged };
}

async function entryAt(
  context: Context,
  id: string,
  at: { clock: number; stage: number },
): Promise<TagEntry | undefined> {
  try {
    const record = await readSnapshotRecord(context.guard, id, at, "tagged");
    if (record.tag === undefined) return undefined;
    const sizes = await stageSizes(context, id, at, "tagged");
    const { tag: name, parts, bytes, held } = record;
    return { name, ...at, ...sizes, parts, bytes, held: held.length };
  } catch (error) {
    if (error instanceof Moved || isCoppiceError(error, "CORRUPT")) return undefined;
    throw error;
  }
}

function refOf({ clock, stage, parts, bytes, storedBytes, time }: TagEntry): SnapshotRef {
  return { clock, stage, parts, bytes, storedBytes, time, logBytes: 0, crc: 0 };
}
