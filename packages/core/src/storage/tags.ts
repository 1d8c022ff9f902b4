/**
 * Tags: names for versions of a document. Each keeps a snapshot of its own, and pins no events: whatever is
 * trimmed later, the tagged version can be loaded.
 *
 * A tag is made like a snapshot: fold → stage → read back and verify → one commit that names the stage, here
 * in the index of `tag-index.ts`.
 *
 * Invariants: every change of the index expects the index and the meta it was planned on, so that neither
 * another tagger nor a deletion is overwritten. Whoever changes the index sweeps what it no longer names.
 */

import { equalBytes } from "../base/bytes.js";
import { CoppiceError, isCoppiceError } from "../base/errors.js";
import type { Site } from "./compaction.js";
import type { Context } from "./context.js";
import { damaged } from "./envelope.js";
import { foldState, restoresTo } from "./folding.js";
import { readHead } from "./head.js";
import { metaKey } from "./meta.js";
import { clockAt, type Moment } from "./moments.js";
import { Moved, readSnapshot, withRestarts } from "./reader.js";
import { type Staged, stageSnapshot, sweep } from "./snapshots.js";
import { StageSwept, stageKey } from "./stages.js";
import { readState, type State } from "./state.js";
import { readTags, sealTags, type Tag, type TagEntry, type Tags, tagOf, tagsKey } from "./tag-index.js";

const RACES_MAX = 8;

/**
 * Tags the version at `at` (default: the head). `undefined` when the document does not exist, or did not at
 * that time. Throws `TAG_EXISTS`, `ARGUMENT_INVALID`, what `readState` throws, and `BUSY` when other writers
 * kept changing the document; then nothing was tagged.
 */
export async function tagDocument(site: Site, name: string, at?: Moment): Promise<Tag | undefined> {
  const { context, log } = site;
  const { id } = log;
  const stages = new Set<number>();
  for (let race = 0; race < RACES_MAX; race++) {
    const tags = await readTags(context.guard, id);
    const existing = tags.entries.find((entry) => entry.name === name);
    // Ours, when the reply to an earlier attempt was lost.
    if (existing !== undefined && stages.has(existing.stage)) return tagOf(existing);
    assertFree(context, id, name, tags, existing);
    const state = await stateOf(site, at);
    if (state === undefined) return undefined;
    const entry = await tagState(site, state, tags, name, stages);
    if (entry === undefined) continue;
    await sweep(context, id, state.meta, state.metaBytes).catch((error: unknown) => {
      // It is tagged; what lies around is swept by whoever comes next.
      if (!isCoppiceError(error)) throw error;
    });
    return tagOf(entry);
  }
  throw overtaken(id);
}

/** Forgets the tag and sweeps its snapshot; false when there is none. Throws `BUSY` like `tagDocument`. */
export async function untagDocument({ context, log }: Site, name: string): Promise<boolean> {
  const { id } = log;
  let unknown = false;
  for (let race = 0; race < RACES_MAX; race++) {
    const { meta, metaBytes } = await withRestarts(
      () => context.guard,
      id,
      async (found, raw) => ({ meta: found, metaBytes: raw }),
    );
    if (meta === undefined || meta.deleted !== undefined) return unknown;
    const tags = await readTags(context.guard, id);
    const left = tags.entries.filter((entry) => entry.name !== name);
    if (left.length === tags.entries.length) return unknown;
    // Where the last batches are missing, the tag tells so, and may be all that has their events.
    await readHead(context, id);
    const outcome = await put(context, id, { metaBytes: metaBytes!, tags, entries: left });
    unknown ||= outcome === "unknown";
    if (typeof outcome === "string") continue;
    await sweep(context, id, meta, metaBytes!);
    return true;
  }
  throw overtaken(id);
}

function assertFree(
  { limits }: Context,
  id: string,
  name: string,
  { entries }: Tags,
  existing: TagEntry | undefined,
): void {
  if (existing !== undefined) {
    throw new CoppiceError("TAG_EXISTS", "the document has a tag of that name; nothing was tagged", {
      details: { id, name, clock: existing.clock },
    });
  }
  const max = limits.tagsMax;
  if (entries.length < max) return;
  throw new CoppiceError("ARGUMENT_INVALID", "the document has as many tags as it may have", {
    details: { id, limit: "tagsMax", max, actual: entries.length + 1 },
  });
}

function stateOf({ context, log }: Site, at: Moment | undefined): Promise<State | undefined> {
  return withRestarts(
    () => context.guard,
    log.id,
    async (meta, metaBytes) => {
      if (meta === undefined || meta.deleted !== undefined) return undefined;
      const clock = at === undefined ? undefined : await clockAt(context, log.id, meta, at);
      if (at !== undefined && clock === undefined) return undefined;
      return readState(context, log.id, meta, metaBytes!, { at: clock, tags: true });
    },
  );
}

/** Folds, stages, verifies, and puts the tag into the index. `undefined`: another writer was faster. */
async function tagState(
  site: Site,
  state: State,
  tags: Tags,
  name: string,
  stages: Set<number>,
): Promise<TagEntry | undefined> {
  const { context, folder, log } = site;
  const { id } = log;
  const { metaBytes } = state;
  const source = await foldState(context, folder, id, state);
  let before = tags;
  if (before.bytes === undefined) {
    const first = await put(context, id, { metaBytes, tags, entries: [] });
    if (typeof first === "string") return undefined;
    before = { entries: [], bytes: first };
  }
  let staged: Staged;
  try {
    staged = await stageSnapshot(context, id, source, metaBytes, name);
    const { ref } = staged;
    const { bytes } = await readSnapshot(context.guard, id, ref, "tagged");
    if (!(await restoresTo(folder, state.model, bytes, source.version))) {
      const what = "the snapshot, read back, does not restore to the version that was folded";
      throw damaged(stageKey("tagged", id, ref, 0), `${what}; nothing was tagged`);
    }
  } catch (error) {
    // What was staged, wholly or in part, is garbage; where the backend goes on, it is staged again.
    const lost = isCoppiceError(error, "OUTCOME_UNKNOWN") && !context.guard.traits.poisonsItself;
    if (error instanceof Moved || error instanceof StageSwept || lost) return undefined;
    throw error;
  }
  const { clock, stage, parts, bytes, storedBytes, time } = staged.ref;
  const entry: TagEntry = { name, time, clock, stage, parts, bytes, storedBytes, held: staged.held.length };
  stages.add(stage);
  const entries = [...before.entries, entry];
  const outcome = await put(context, id, { metaBytes, tags: before, entries, staged });
  return typeof outcome === "string" ? undefined : entry;
}

interface Change {
  readonly metaBytes: Uint8Array;
  readonly tags: Tags;
  readonly entries: readonly TagEntry[];
  readonly staged?: Staged;
}

/**
 * Puts the index. `"conflict"`: something changed meanwhile. `"unknown"`, where the backend goes on after a
 * lost reply: look again. Putting it twice is safe: the second one meets what the first one changed.
 */
async function put(
  { guard, env }: Context,
  id: string,
  { metaBytes, tags, entries, staged }: Change,
): Promise<Uint8Array | "conflict" | "unknown"> {
  const value = sealTags(id, entries, env.now());
  try {
    await guard.commit({
      put: [{ key: tagsKey(id), value }, ...(staged?.held ?? [])],
      expect: [
        { key: metaKey(id), value: metaBytes },
        { key: tagsKey(id), value: tags.bytes },
        ...(staged === undefined ? [] : [{ key: staged.record.key, value: staged.record.value }]),
      ],
    });
    return value;
  } catch (error) {
    if (isCoppiceError(error, "COMMIT_CONFLICT")) return "conflict";
    if (!isCoppiceError(error, "OUTCOME_UNKNOWN") || guard.traits.poisonsItself) throw error;
    return equalBytes(await guard.get(tagsKey(id)), value) ? value : "unknown";
  }
}

function overtaken(id: string): CoppiceError {
  return new CoppiceError("BUSY", "other writers kept changing the document; try again", { details: { id } });
}
