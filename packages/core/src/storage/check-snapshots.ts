/**
 * The snapshots of one document under check, and the held events that go with them.
 *
 * A snapshot is intact when its parts pass their checksums, fit together, and restore to the version that its
 * record names. Whether it also is what the events fold to, `check-fold` tells. Nothing is written here.
 */

import { isCoppiceError } from "../base/errors.js";
import type { Key } from "../contract/backend.js";
import type { AnyModel } from "../contract/model.js";
import { soundEvents } from "../contract/model-results.js";
import type { Finding, FoundBatch } from "./check-log.js";
import type { Context } from "./context.js";
import { unseal } from "./envelope.js";
import { type Folder, restoresTo } from "./folding.js";
import { heldKey, type Meta, type SnapshotRecord, type SnapshotRef } from "./meta.js";
import { Moved, readSnapshot } from "./reader.js";
import { type StageSpace, stageKey, stageOf } from "./stages.js";
import type { TagEntry } from "./tag-index.js";

export interface FoundSnapshot {
  readonly name: "snapshot" | "previous" | "tag";
  readonly space: "snapshot" | "tagged";
  readonly ref: SnapshotRef;
  /**
   * `unread`: the model does not read its state format. `bad`: meta must not name it any longer. `doubtful`:
   * it differs from what is older, and nothing tells which of the two is right.
   */
  state: "intact" | "unread" | "bad" | "doubtful";
  /** Present when the stored bytes could be read. */
  readonly record: SnapshotRecord | undefined;
  readonly bytes: Uint8Array | undefined;
  /** Values to set aside before meta forgets the snapshot. */
  damaged: readonly Key[];
  readonly newer: boolean;
  finding: Finding | undefined;
}

/** A held event that a snapshot needs. */
export interface FoundHeld {
  readonly clock: number;
  readonly key: Key;
  /** The stored value, when there is one. */
  readonly value: Uint8Array | undefined;
  /** The event itself, when the stored value is intact. */
  readonly event: unknown;
  readonly intact: boolean;
  /** The event as the log still has it, when the stored value is not intact. */
  readonly inLog: { readonly event: unknown } | undefined;
  readonly newer: boolean;
  readonly finding: Finding | undefined;
}

/**
 * Looks at one snapshot that meta names, or that the index of the tags names: then `tag` is what the index
 * says. Without a model its bytes are read, and not restored.
 */
export async function findSnapshot(
  context: Context,
  folder: Folder,
  id: string,
  meta: Meta,
  name: FoundSnapshot["name"],
  ref: SnapshotRef,
  model: AnyModel | undefined,
  tag?: TagEntry,
): Promise<FoundSnapshot> {
  const space = tag === undefined ? "snapshot" : "tagged";
  const about = { name, space, ref, record: undefined, bytes: undefined, damaged: [], newer: false } as const;
  const key = stageKey(space, id, ref, 0);
  const which = name === "snapshot" ? "newest snapshot" : "previous snapshot";
  const where = `the ${tag ? `snapshot of the tag ${tag.name}` : which}, at clock ${ref.clock},`;
  const damage = tag === undefined ? "snapshot-damaged" : "tag-damaged";
  try {
    const { record, bytes } = await readSnapshot(context.guard, id, ref, space);
    const why = whyNotOf(tag, record) ?? (await whyNotIntact(folder, meta, ref, record, bytes, model));
    if (why === "unread") return { ...about, state: "unread", record, bytes, finding: undefined };
    if (why === undefined) return { ...about, state: "intact", record, bytes, finding: undefined };
    const finding: Finding = { code: damage, key, message: `${where} ${why}` };
    return { ...about, state: "bad", finding, damaged: await stageKeys(context, id, ref, false, space) };
  } catch (error) {
    if (isCoppiceError(error, "FORMAT_UNSUPPORTED")) {
      const finding: Finding = { code: "format-unsupported", key, message: `${where} is of a newer format` };
      return { ...about, state: "unread", newer: true, finding };
    }
    if (error instanceof Moved) {
      const finding: Finding = {
        code: tag === undefined ? "snapshot-missing" : damage,
        key,
        message: `${where} is not whole: ${error.message}`,
      };
      return { ...about, state: "bad", finding, damaged: await stageKeys(context, id, ref, true, space) };
    }
    if (!isCoppiceError(error, "CORRUPT")) throw error;
    const finding: Finding = {
      code: damage,
      key,
      message: `${where} is damaged: ${error.message}`,
    };
    const failing = await stageKeys(context, id, ref, true, space);
    const damaged = failing.length > 0 ? failing : await stageKeys(context, id, ref, false, space);
    return { ...about, state: "bad", finding, damaged };
  }
}

function whyNotOf(tag: TagEntry | undefined, record: SnapshotRecord): string | undefined {
  if (tag?.name !== record.tag) return `is of the tag ${record.tag}`;
  // The index says whose held events a sweep must keep.
  return tag !== undefined && record.held.length > tag.held ? "holds more than its index says" : undefined;
}

async function whyNotIntact(
  folder: Folder,
  meta: Meta,
  ref: SnapshotRef,
  record: SnapshotRecord,
  bytes: Uint8Array,
  model: AnyModel | undefined,
): Promise<string | undefined> {
  if (record.model !== meta.model) return `is of the model ${record.model}, the document of ${meta.model}`;
  if (record.bytes !== ref.bytes) return "has another length than meta names";
  for (const clocks of [record.held, record.lost]) {
    const ordered = clocks.every((clock, index) => clock < ref.clock && clock > (clocks[index - 1] ?? -1));
    if (!ordered) return "names held or lost events out of order or beyond its clock";
  }
  if (model === undefined) return undefined;
  if (!readsState(model, record)) return "unread";
  if (await restoresTo(folder, model, bytes, record.version)) return undefined;
  return "does not restore to the version that it records";
}

/** Whether the model can restore snapshots of that state format. */
export function readsState(model: AnyModel, record: SnapshotRecord): boolean {
  return (model.stateFormats ?? [model.stateFormat]).includes(record.stateFormat);
}

/** The keys of a snapshot: all, or those whose values fail. */
export async function stageKeys(
  context: Context,
  id: string,
  ref: Pick<SnapshotRef, "clock" | "stage">,
  failingOnly: boolean,
  space: StageSpace = "snapshot",
): Promise<Key[]> {
  const keys: Key[] = [];
  const range = { space, id, from: ref.clock, to: ref.clock + 1 };
  for await (const page of context.guard.scan(range)) {
    for (const { key, value } of page) {
      if (stageOf(key) === ref.stage && !(failingOnly && isIntact(key, value))) keys.push(key);
    }
  }
  return keys;
}

function isIntact(key: Key, value: Uint8Array): boolean {
  try {
    unseal(key, value);
    return true;
  } catch (error) {
    if (isCoppiceError(error, "CORRUPT")) return false;
    if (isCoppiceError(error, "FORMAT_UNSUPPORTED")) return true;
    throw error;
  }
}

/** Looks at every held event that one of the intact snapshots needs, those of tags included. */
export async function findHeld(
  context: Context,
  id: string,
  snapshots: readonly FoundSnapshot[],
  tags: readonly FoundSnapshot[],
  log: readonly FoundBatch[],
  model: AnyModel | undefined,
): Promise<FoundHeld[]> {
  const intact = snapshots.filter((snapshot) => snapshot.state === "intact");
  const intactTags = tags.filter((snapshot) => snapshot.state === "intact");
  const clocks = new Set([...intact, ...intactTags].flatMap((snapshot) => snapshot.record?.held ?? []));
  if (clocks.size === 0) return [];
  const stored = new Map<number, Uint8Array>();
  const range = { space: "held", id, from: Math.min(...clocks), to: Math.max(...clocks) + 1 };
  for await (const page of context.guard.scan(range)) {
    for (const { key, value } of page) if (clocks.has(key[2]!)) stored.set(key[2]!, value);
  }
  const [newest] = [...intact].sort((left, right) => right.ref.clock - left.ref.clock);
  return [...clocks]
    .sort((left, right) => left - right)
    .map((clock) => {
      const needed = newest?.record?.held.includes(clock) ?? false;
      return openHeld(heldKey(id, clock), stored.get(clock), () => eventAt(log, clock), model, needed);
    });
}

function openHeld(
  key: Key,
  value: Uint8Array | undefined,
  searchLog: () => FoundHeld["inLog"],
  model: AnyModel | undefined,
  needed: boolean,
): FoundHeld {
  const clock = key[2]!;
  const about = { clock, key, value, inLog: undefined, event: undefined, intact: false, newer: false };
  const bad = (code: "held-missing" | "held-damaged", what: string): FoundHeld => {
    const inLog = searchLog();
    const lostEvents = inLog === undefined && needed ? 1 : 0;
    const finding: Finding = { code, key, lostEvents, message: `the held event at clock ${clock} ${what}` };
    return { ...about, inLog, finding };
  };
  if (value === undefined) return bad("held-missing", "is missing");
  try {
    const { payload } = unseal(key, value);
    if (model === undefined) return { ...about, intact: true, finding: undefined };
    const events = decodeHeld(model, payload);
    if (events?.length !== 1) return bad("held-damaged", "does not decode to one event");
    return { ...about, intact: true, event: events[0], finding: undefined };
  } catch (error) {
    if (isCoppiceError(error, "FORMAT_UNSUPPORTED")) {
      const finding: Finding = {
        code: "format-unsupported",
        key,
        message: "a held event is of a newer format",
      };
      return { ...about, newer: true, finding };
    }
    if (isCoppiceError(error, "CORRUPT")) return bad("held-damaged", `is damaged: ${error.message}`);
    throw error;
  }
}

function decodeHeld(model: AnyModel, payload: Uint8Array): unknown[] | undefined {
  let events: unknown;
  try {
    events = model.codec.decode(payload);
  } catch {
    // Whatever a model throws for these bytes: they are not an event of it.
    return undefined;
  }
  return soundEvents(model, events);
}

function eventAt(log: readonly FoundBatch[], clock: number): FoundHeld["inLog"] {
  const found = log.find((one) => one.batch !== undefined && one.clock <= clock && clock < one.batch.end);
  return found?.events === undefined ? undefined : { event: found.events[clock - found.clock] };
}
