/**
 * One document from one store to another, as it is: the same keys, the same bytes.
 *
 * | in the target is         | then                                                                 |
 * | ------------------------ | -------------------------------------------------------------------- |
 * | nothing                  | the whole image lands there (`landing.ts`)                           |
 * | an earlier state         | only what is new is written: snapshots, then batches, then meta      |
 * | one that ends too early  | the whole image takes its place: what lies between was trimmed       |
 * | anything else            | nothing is written, unless it may be replaced                        |
 *
 * A deleted document is copied as its tombstone, so that the copy does not bring it back.
 *
 * Invariants: after each commit the target's document is whole, at some clock between its old one and the
 * new one; what is written is read back and compared; a document that somebody else wrote to is never lost.
 */

import { equalBytes } from "../base/bytes.js";
import { CoppiceError, isCoppiceError } from "../base/errors.js";
import type { Entry, Expectation } from "../contract/backend.js";
import type { Context } from "./context.js";
import { abandon } from "./deletion.js";
import type { DocumentLog } from "./document-log.js";
import { deletedError, type Head, readHead } from "./head.js";
import { IMAGE_SPACES, type ImageEnd, readImage } from "./image.js";
import { existsError, type Landed, land, misread, type Place, readPlace } from "./landing.js";
import { eventsKey, type Meta, metaKey, sealMeta } from "./meta.js";
import { openBatch } from "./reader.js";
import { sweep } from "./snapshots.js";
import { partOf } from "./stages.js";
import { readTags, sealTags, tagsKey } from "./tag-index.js";
import { erasedKey, readErased } from "./tombstone.js";

export interface Ends {
  readonly source: Context;
  readonly target: Context;
  /** The document in the target. */
  readonly log: DocumentLog;
  /** What is no earlier state of the source's document may be replaced. */
  readonly replace: boolean;
  readonly signal: AbortSignal | undefined;
}

export interface Mirrored {
  readonly outcome: "copied" | "updated" | "unchanged" | "deleted";
  readonly clock: number;
  /** Stored values that were written now, and their bytes. */
  readonly records: number;
  readonly bytes: number;
}

const RACES_MAX = 16;

/** `undefined`: the source has no such document, and had none. */
export async function mirrorDocument(ends: Ends): Promise<Mirrored | undefined> {
  const { id } = ends.log;
  for (let race = 0; race < RACES_MAX; race++) {
    ends.signal?.throwIfAborted();
    const from = withoutClaim(await readPlace(ends.source, id));
    if (from.meta === undefined) return undefined;
    const to = await readPlace(ends.target, id);
    try {
      const done =
        from.meta.deleted === undefined
          ? await mirrorLive(ends, from, to)
          : await mirrorTombstone(ends, from, to);
      if (done !== undefined) return done;
    } catch (error) {
      // Its target was written to, or its source deleted, while it was copied: look again.
      if (isCoppiceError(error, "COMMIT_CONFLICT")) continue;
      if (!isCoppiceError(error, "DELETED")) throw error;
      const now = withoutClaim(await readPlace(ends.source, id));
      if (equalBytes(now.metaBytes, from.metaBytes)) throw error;
    } finally {
      ends.log.forget();
    }
  }
  throw new CoppiceError("BUSY", "others kept changing the document while it was copied; repeat", {
    details: { id },
  });
}

/** What lies under an id besides a document that is being brought in there: nothing, or a tombstone. */
function withoutClaim(place: Place): Place {
  const { id, meta } = place;
  if (meta?.incoming === undefined) return place;
  if (meta.incoming.fresh) return { ...place, meta: undefined, metaBytes: undefined };
  const tombstone = { ...meta, incoming: undefined };
  return { ...place, meta: tombstone, metaBytes: sealMeta(id, tombstone, meta.deleted!.time) };
}

/** `undefined`: look again. */
async function mirrorLive(ends: Ends, from: Place, to: Place): Promise<Mirrored | undefined> {
  const { id } = from;
  const meta = from.meta!;
  if (to.meta === undefined || to.meta.deleted !== undefined) {
    if (meta.base < to.clock && !ends.replace) throw deletedError(id);
    return copied(await landImage(ends, to));
  }
  const head = await readHead(ends.target, id);
  if (!equalBytes(head.metaBytes, to.metaBytes)) return undefined;
  const state = await relate(ends.source, id, meta, to.meta, head);
  if (state === "prefix") return update(ends, from, to, head);
  if (state === "other") {
    // Or the source was trimmed, or deleted, between two looks at it.
    if (!equalBytes(await ends.source.guard.get(metaKey(id)), from.metaBytes)) return undefined;
    if (!ends.replace) throw existsError(id);
  }
  // The erasure that a copy has carried here may have come after the document itself.
  const erased = await readErased(ends.target.guard, erasedKey(id));
  return copied(await landImage(ends, { ...to, erased, head: head.clock }));
}

async function landImage({ source, target, log, signal }: Ends, to: Place): Promise<Landed | undefined> {
  return land(target, log, to, readImage(source, to.id, { signal }));
}

function copied(landed: Landed | undefined): Mirrored | undefined {
  return landed && { outcome: "copied", ...landed };
}

/**
 * How the target's document stands to that of the source. `prefix`: what is new can be appended; `earlier`:
 * it is an older state, and what lies between was trimmed at the source, or it may have lost events that the
 * source has; `other`: anything else.
 */
async function relate(
  source: Context,
  id: string,
  from: Meta,
  to: Meta,
  head: Head,
): Promise<"prefix" | "earlier" | "other"> {
  if (from.incarnation !== to.incarnation) return from.base >= head.clock ? "earlier" : "other";
  const present = await readHead(source, id);
  if (head.clock > present.clock) return "other";
  if (head.clock < from.oldest) return "earlier";
  let chained = present.crc;
  if (head.clock < present.clock) {
    const key = eventsKey(id, head.clock);
    const value = await source.guard.get(key);
    if (value === undefined) return "other";
    chained = openBatch(key, value).header.previousCrc;
  }
  if (chained !== head.crc) return "other";
  // A repair may have lost events below the head, and left the chain as it was. Of two that were repaired
  // each may have what the other lost.
  if (to.repaired !== undefined && to.repaired !== from.repaired) {
    return from.repaired === undefined ? "earlier" : "other";
  }
  return to.oldest > from.oldest ? "earlier" : "prefix";
}

/** Writes what is new. `undefined`: the source was compacted meanwhile. */
async function update(ends: Ends, from: Place, to: Place, head: Head): Promise<Mirrored | undefined> {
  const { source, target, signal } = ends;
  const { id } = from;
  let tags = (await readTags(target.guard, id)).bytes;
  const writer = new Writer(target, [{ key: metaKey(id), value: to.metaBytes }]);
  const records: Expectation[] = [];
  let index: Uint8Array | undefined;
  let begun = false;
  const since = { clock: head.clock, crc: head.crc };
  for await (const part of readImage(source, id, { since, signal })) {
    if (part.kind === "begin") {
      if (begun || part.meta.incarnation !== from.meta!.incarnation) return undefined;
      begun = true;
    } else if (part.kind === "record") {
      const { key, value } = part;
      if (key[0] === "tags") index = value;
      else if (key[0] === "events") await writer.append({ key, value });
      else if (!equalBytes(await target.guard.get(key), value)) {
        if (key[0] === "tagged") tags ??= await beginTags(target, to);
        if (key[0] !== "held" && partOf(key) === 0) records.push({ key, value });
        await writer.add({ key, value });
      }
    } else {
      await writer.flush();
      const same = equalBytes(part.metaBytes, to.metaBytes) && equalBytes(index, tags);
      if (!same) await flip(ends, part, { to, tags, index, records });
      // Also what an interrupted run has left.
      await sweep(target, id, part.meta, part.metaBytes!);
      await assertArrived(target, id, part);
      const { records: count, bytes } = writer;
      const outcome = same && count === 0 ? "unchanged" : "updated";
      return { outcome, clock: part.clock, records: count + (same ? 0 : 1), bytes };
    }
  }
  return undefined;
}

/** Meta and the index of the tags become those of the source. */
async function flip(
  { target }: Ends,
  end: ImageEnd,
  {
    to,
    tags,
    index,
    records,
  }: {
    readonly to: Place;
    readonly tags: Uint8Array | undefined;
    readonly index: Uint8Array | undefined;
    readonly records: readonly Expectation[];
  },
): Promise<void> {
  const [key, tagKey] = [metaKey(to.id), tagsKey(to.id)];
  const put: Entry[] = [{ key, value: end.metaBytes! }];
  if (index !== undefined) put.push({ key: tagKey, value: index });
  await target.guard.commit({
    put,
    delete: index === undefined && tags !== undefined ? [tagKey] : [],
    expect: [
      { key, value: to.metaBytes },
      { key: tagKey, value: tags },
      { key: eventsKey(to.id, end.clock), value: undefined },
      ...records,
    ],
  });
}

/** An empty index: snapshots of tags without one are damage. */
async function beginTags(target: Context, { id, metaBytes }: Place): Promise<Uint8Array> {
  const key = tagsKey(id);
  const value = sealTags(id, [], target.env.now());
  await target.guard.commit({
    put: [{ key, value }],
    expect: [
      { key, value: undefined },
      { key: metaKey(id), value: metaBytes },
    ],
  });
  return value;
}

async function assertArrived(target: Context, id: string, end: ImageEnd): Promise<void> {
  const head = await readHead(target, id);
  if (head.clock !== end.clock || head.crc !== end.crc) throw misread(id);
}

/** `undefined`: look again. */
async function mirrorTombstone(ends: Ends, from: Place, to: Place): Promise<Mirrored | undefined> {
  const { target } = ends;
  const { id } = from;
  const deleted = from.meta!.deleted!;
  const done = {
    outcome: "deleted",
    clock: deleted.clock,
    records: 1,
    bytes: from.metaBytes!.length,
  } as const;
  if (equalBytes(from.metaBytes, to.metaBytes)) {
    // What an interrupted run has left.
    await sweep(target, id, from.meta!, from.metaBytes!);
    return { ...done, outcome: "unchanged", records: 0, bytes: 0 };
  }
  if (to.meta?.incoming !== undefined) {
    await abandon(target, id, to.meta, to.metaBytes!);
    return undefined;
  }
  const live = to.meta !== undefined && to.meta.deleted === undefined;
  const head = live ? await readHead(target, id) : undefined;
  if ((head?.clock ?? to.clock) > deleted.clock) {
    // What was deleted later, or erased, in the target stays so.
    if (!live) return { ...done, outcome: "unchanged", records: 0, bytes: 0 };
    if (!ends.replace) throw existsError(id);
  }
  const erased = erasedKey(id);
  // Nothing of it may lie after the clock at which it was deleted.
  const beyond = head !== undefined && head.clock > deleted.clock ? IMAGE_SPACES : [];
  await target.guard.commit({
    put: [{ key: metaKey(id), value: from.metaBytes! }],
    delete: [
      tagsKey(id),
      ...(to.erased === undefined ? [] : [erased]),
      ...beyond.map((space) => ({ space, id })),
    ],
    expect: [
      { key: metaKey(id), value: to.metaBytes },
      { key: erased, value: to.erased?.bytes },
      ...(head === undefined ? [] : [{ key: eventsKey(id, head.clock), value: undefined }]),
    ],
  });
  await sweep(target, id, from.meta!, from.metaBytes!);
  if (!equalBytes(await target.guard.get(metaKey(id)), from.metaBytes)) return undefined;
  return done;
}

/** Puts entries in slices, each under the same expectations, and reads each back. */
class Writer {
  records = 0;
  bytes = 0;
  readonly #target: Context;
  readonly #expect: readonly Expectation[];
  #waiting: Entry[] = [];
  #waitingBytes = 0;
  #next: Expectation | undefined;

  constructor(target: Context, expect: readonly Expectation[]) {
    this.#target = target;
    this.#expect = expect;
  }

  async add(entry: Entry): Promise<void> {
    const { limits } = this.#target;
    const full =
      this.#waitingBytes + entry.value.length > limits.groupBytesMax ||
      this.#waiting.length >= limits.groupOperationsMax;
    if (full) await this.flush();
    this.#waiting.push(entry);
    this.#waitingBytes += entry.value.length;
  }

  /** A batch: nobody else may have put one there. */
  async append(entry: Entry): Promise<void> {
    await this.add(entry);
    this.#next ??= { key: entry.key, value: undefined };
  }

  async flush(): Promise<void> {
    const put = this.#waiting.splice(0);
    const expect = this.#next === undefined ? this.#expect : [...this.#expect, this.#next];
    this.#waitingBytes = 0;
    this.#next = undefined;
    if (put.length === 0) return;
    await this.#target.guard.commit({ put, expect });
    for (const { key, value } of put) {
      if (!equalBytes(await this.#target.guard.get(key), value)) throw misread(key[1]);
      this.records++;
      this.bytes += value.length;
    }
  }
}
