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
 * A deleted document is copied as its tombstone, so that the copy does not bring it back. Whether a document
 * is an earlier state the chain of its batches tells; where the source has these no more, the model does, or
 * else the mark that the last copy has left (`copy-mark.ts`).
 *
 * Invariants: after each commit the target's document is whole, at some clock between its old one and the
 * new one; what is written is read back and compared; a document that somebody else wrote to is never lost.
 */

import { equalBytes, toHex } from "../base/bytes.js";
import { CoppiceError, isCoppiceError } from "../base/errors.js";
import type { Deletion, Entry, Expectation } from "../contract/backend.js";
import type { Context } from "./context.js";
import { type CopyMark, copiedKey, crcOfTags, markEntry, readMark, sliceMarkEntry } from "./copy-mark.js";
import { covers } from "./covering.js";
import { abandon, EVERY_SPACE, wipe } from "./deletion.js";
import type { DocumentLog } from "./document-log.js";
import { damaged } from "./envelope.js";
import type { Handles } from "./handles.js";
import { deletedError, type Head, readHead } from "./head.js";
import { IMAGE_SPACES, type ImageBegin, type ImageEnd, type ImagePart, readImage } from "./image.js";
import { erasedClock, type Landed, land, misread, type Place, readPlace } from "./landing.js";
import { eventsKey, identityOf, type Meta, metaKey, sealLanded, sealMeta } from "./meta.js";
import { openBatch } from "./reader.js";
import { reclaimDueEntry } from "./reclaim-due.js";
import { SliceWriter } from "./slice-writer.js";
import { presentTags, sweep } from "./snapshots.js";
import { partOf } from "./stages.js";
import { NO_INDEX, readTags, sealTags, type TagEntry, tagsKey } from "./tag-index.js";
import { erasedKey, readErased, sealErased } from "./tombstone.js";

export interface Ends {
  readonly source: Context;
  readonly target: Context;
  /** The document in the target. */
  readonly log: DocumentLog;
  /** Who has loaded it. */
  readonly handles: Handles;
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
      if (done?.outcome === "updated") ends.log.announce(done.clock);
      if (done?.outcome === "deleted") ends.log.announce(0);
      if (done?.outcome === "deleted" && to.meta !== undefined) ends.handles.bury(id, identityOf(to.meta));
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

/**
 * What lies under an id besides a document that is being brought in there: nothing, or a tombstone. What a
 * copy has begun to replace and then given up was not deleted by anybody.
 */
function withoutClaim(place: Place): Place {
  const { id, meta } = place;
  const isGivenUp = meta?.deleted?.clock === 0 && meta.landed !== undefined && meta.incoming === undefined;
  if (isGivenUp) return { ...place, meta: undefined, metaBytes: undefined };
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
    const place = { ...to, landed: isFirst(to) ? undefined : newLanded(ends) };
    return copied(await landImage(ends, place, (begin) => isStill(begin.meta, meta)));
  }
  // The erasure that a copy has carried here may have come after the document itself.
  const readRecord = () => readErased(ends.target.guard, erasedKey(id));
  const head = await unlessDamaged(ends, () => readHead(ends.target, id));
  if (head !== undefined && !equalBytes(head.metaBytes, to.metaBytes)) return undefined;
  const left = head && (await unlessDamaged(ends, () => asLeft(ends, to.meta!, head)));
  if (head === undefined || left === undefined) {
    const there = { erased: await readRecord(), head: head?.clock ?? BEYOND };
    const place = { ...to, ...there, inPieces: true, landed: newLanded(ends) };
    return copied(await landImage(ends, place, (begin) => isStill(begin.meta, meta)));
  }
  const hasAll = async () => ends.replace || ((await covers(ends.source, ends.target, id)) ?? left.events);
  const state = await relate(ends.source, id, meta, to.meta, head, ends.replace || left.events, hasAll);
  if (state === "other") {
    // Or the source was trimmed, or deleted, between two looks at it.
    if (!equalBytes(await ends.source.guard.get(metaKey(id)), from.metaBytes)) return undefined;
    if (!ends.replace) throw ownError(id, "events");
  }
  if (!left.tags && !ends.replace) throw ownError(id, "tags");
  if (state === "prefix") return update(ends, from, to, head, left);
  // Handles go on where what they have is an earlier state of what lands, batch by batch: one of which only
  // its model tells that it holds no more may have other events at its clocks.
  const isBeginning = state === "earlier" || (state === "covered" && left.events);
  const isEarlier = isBeginning && to.meta.repaired === meta.repaired;
  const landed = isEarlier ? to.meta.landed : newLanded(ends);
  const tags = ends.replace ? undefined : { bytes: left.index };
  const there = { erased: await readRecord(), head: head.clock };
  const place = { ...to, ...there, inPieces: ends.replace, landed, tags };
  // A trim of the source since may have made the target's the longer log of the two.
  const isJudged = (begin: ImageBegin) =>
    state === "earlier" ? equalBytes(begin.metaBytes, from.metaBytes) : isStill(begin.meta, meta);
  return copied(await landImage(ends, place, isJudged));
}

/** Where nothing is appended: the head of a document that is damaged, so that nobody appends to it. */
const BEYOND = Number.MAX_SAFE_INTEGER;

/** `undefined`: the target's document is damaged, and may be replaced all the same. */
async function unlessDamaged<T>({ replace }: Ends, look: () => Promise<T>): Promise<T | undefined> {
  try {
    return await look();
  } catch (error) {
    if (replace && isCoppiceError(error, "CORRUPT")) return undefined;
    throw error;
  }
}

/** Whether it is the document that was judged, which has at most gone on and been trimmed since. */
function isStill(meta: Meta, judged: Meta): boolean {
  const isSame = identityOf(meta) === identityOf(judged) && meta.repaired === judged.repaired;
  return isSame && meta.oldest >= judged.oldest;
}

/** Nothing that was here may still be known to somebody. */
function isFirst({ meta, erased }: Place): boolean {
  const isLeft = meta?.incoming?.fresh === true && meta.landed === undefined;
  return erased === undefined && (meta === undefined || isLeft);
}

function newLanded({ target }: Ends): string {
  return toHex(target.env.random(4));
}

/** `undefined`: look again. */
async function landImage(
  { source, target, log, handles, signal }: Ends,
  to: Place,
  isJudged: (begin: ImageBegin) => boolean,
): Promise<Landed | undefined> {
  let index: Uint8Array | undefined;
  let isClaimed = false;
  async function* parts(): AsyncGenerator<ImagePart> {
    for await (const part of readImage(source, to.id, { signal })) {
      // What was found of the two is true of what the source had then: a copy may have replaced it since.
      if (part.kind === "begin" && !isClaimed && !isJudged(part)) return;
      if (part.kind === "begin") index = undefined;
      if (part.kind === "record" && part.key[0] === "tags") index = part.value;
      yield part;
    }
  }
  const onClaim = () => {
    isClaimed = true;
    handles.displace(to.id);
  };
  const onReplaced = () => handles.bury(to.id, identityOf(to.meta!));
  const place = { ...to, onClaim, onReplaced };
  try {
    return await land(target, log, place, parts(), (end) => {
      const erasure = erasedSince(target, end.meta, to);
      return { ...erasure, put: [markEntry(target, to.id, markOf(end, index)), ...erasure.put] };
    });
  } catch (error) {
    // Somebody wrote to what is replaced, or was there first.
    if (isCoppiceError(error, "EXISTS")) return undefined;
    throw error;
  }
}

/**
 * What goes with a document, or its tombstone, that began anew over an erased one of which the target may
 * have something: what damage had set aside there goes, and all else of it leaves the files.
 */
function erasedSince(
  target: Context,
  meta: Meta,
  to: Place,
): { readonly put: readonly Entry[]; readonly delete: readonly Deletion[] } {
  const clock = meta.erased ?? -1;
  if (clock <= erasedClock(to) && !isReplaced(to, clock)) return { put: [], delete: [] };
  return { put: [reclaimDueEntry(target)], delete: [{ space: "quarantine", id: to.id }] };
}

/**
 * As `erasedSince`, where the target's own later tombstone stays. The record of the erasure goes beside it:
 * the files are rewritten once, and not with each copy.
 */
async function forgetErased(target: Context, from: Meta, to: Place): Promise<void> {
  const { id, meta, metaBytes } = to;
  const clock = from.erased ?? -1;
  if (meta === undefined || clock <= erasedClock(to)) return;
  await wipe(target, id, EVERY_SPACE, metaBytes);
  const key = erasedKey(id);
  const value = sealErased(key, { clock, time: meta.deleted!.time, commitFloor: meta.commitFloor });
  await target.guard.commit({
    put: [{ key, value }, reclaimDueEntry(target)],
    expect: [
      { key: metaKey(id), value: metaBytes },
      { key, value: to.erased?.bytes },
    ],
  });
}

/**
 * Whether what is replaced here began before that erasure. A copy that might not replace it has put the
 * record of the erasure beside it, in an earlier version, which says nothing of what was here then.
 */
function isReplaced({ meta }: Place, erasedAt: number): boolean {
  if (meta === undefined || meta.base >= erasedAt) return false;
  // Or a copy has claimed its place, and died.
  return meta.deleted === undefined || (meta.deleted.clock === 0 && meta.landed !== undefined);
}

function markOf({ clock, crc, meta: { incarnation } }: ImageEnd, index: Uint8Array | undefined): CopyMark {
  return { clock, crc, incarnation, tags: crcOfTags(index) };
}

/** For what of its own the target would lose. */
function ownError(id: string, what: "events" | "tags"): CoppiceError {
  const message =
    `the target has ${what} of its own in this document, or nothing tells that it has not; ` +
    "it was left as it is: copy with `replace` to lose them";
  return new CoppiceError("EXISTS", message, { details: { id } });
}

interface Left {
  readonly events: boolean;
  readonly tags: boolean;
  /** The index of the tags that was looked at. */
  readonly index: Uint8Array | undefined;
}

/**
 * Whether the target's document is as a copy has left it: this one, or one the other way, from which the
 * source went on. Its tags are, too, when the source has them all.
 */
async function asLeft({ source, target, log: { id } }: Ends, meta: Meta, head: Head): Promise<Left> {
  const present = await presentTags(target, id, meta);
  if (present === undefined && equalBytes(await target.guard.get(metaKey(id)), head.metaBytes))
    throw damaged(tagsKey(id), `${NO_INDEX}: repair it, or replace it`);
  // Or it was deleted meanwhile: then what relies on this conflicts.
  const tags = present ?? { entries: [], bytes: undefined };
  let isHead = false;
  let isIndex = false;
  for (const mark of [await readMark(target, id), await readMark(source, id)]) {
    if (mark?.incarnation !== meta.incarnation) continue;
    isHead ||= mark.clock === head.clock && mark.crc === head.crc;
    isIndex ||= mark.tags === crcOfTags(tags.bytes);
  }
  return {
    events: isHead,
    tags: isIndex || includes((await readTags(source.guard, id)).entries, tags.entries),
    index: tags.bytes,
  };
}

function includes(all: readonly TagEntry[], some: readonly TagEntry[]): boolean {
  return some.every(({ name, clock, stage }) =>
    all.some((tag) => tag.name === name && tag.clock === clock && tag.stage === stage),
  );
}

function copied(landed: Landed | undefined): Mirrored | undefined {
  return landed && { outcome: "copied", ...landed };
}

/**
 * How the target's document stands to that of the source. `prefix`: what is new can be appended; `earlier`:
 * its log is the beginning of the source's, and it was trimmed, or may have lost events that the source has;
 * `covered`: the source has all that it has, in a log of which nothing tells that it begins like this one;
 * `other`: anything else. `isAsLeft`: since a copy it has got no events of its own. `hasAll`: whether the
 * source's document has all that the target's has.
 */
async function relate(
  source: Context,
  id: string,
  from: Meta,
  to: Meta,
  head: Head,
  isAsLeft: boolean,
  hasAll: () => Promise<boolean>,
): Promise<"prefix" | "earlier" | "covered" | "other"> {
  if (from.incarnation !== to.incarnation) {
    return isAsLeft && from.base >= head.clock ? "covered" : "other";
  }
  const present = await readHead(source, id);
  if (head.clock > present.clock) return "other";
  // A repair of the source may have lost events, tags or a part of the archive that the target still has.
  if (from.repaired !== undefined && from.repaired !== to.repaired) return "other";
  if (head.clock < from.oldest) return (await hasAll()) ? "covered" : "other";
  let chained = present.crc;
  if (head.clock < present.clock) {
    const key = eventsKey(id, head.clock);
    const value = await source.guard.get(key);
    if (value === undefined) return "other";
    chained = openBatch(key, value).header.previousCrc;
  }
  if (chained !== head.crc) return "other";
  // A repair of the target may have lost events below the head, and left the chain as it was.
  if (to.repaired !== from.repaired) return "earlier";
  return to.oldest > from.oldest ? "earlier" : "prefix";
}

/** Writes what is new. `undefined`: the source was compacted meanwhile, or somebody has tagged the target. */
async function update(
  ends: Ends,
  from: Place,
  to: Place,
  head: Head,
  left: Left,
): Promise<Mirrored | undefined> {
  const { source, target, signal } = ends;
  const { id } = from;
  const marked = await target.guard.get(copiedKey(id));
  const before = await readTags(target.guard, id);
  if (!ends.replace && !equalBytes(before.bytes, left.index)) return undefined;
  let tags = before.bytes;
  const { incarnation } = to.meta!;
  const since = { clock: head.clock, crc: head.crc };
  const writer = new SliceWriter(target, { key: metaKey(id), value: to.metaBytes }, since, marked, (last) =>
    sliceMarkEntry(target, id, { ...last, incarnation, tags: left.tags ? crcOfTags(tags) : 0 }),
  );
  const records: Expectation[] = [];
  let index: Uint8Array | undefined;
  let begun = false;
  let hasRecord = false;
  for await (const part of readImage(source, id, { since, signal })) {
    if (part.kind === "begin") {
      if (begun || !isStill(part.meta, from.meta!)) return undefined;
      begun = true;
    } else if (part.kind === "record") {
      const { key, value } = part;
      if (key[0] === "tags") index = value;
      else if (key[0] === "events") await writer.append({ key, value });
      else {
        // What an interrupted run has left is garbage until the flip, and may be swept before it: its record
        // first. Where that has gone the parts may be about to go.
        const isRecord = partOf(key) === 0;
        const isThere: boolean = (isRecord || hasRecord) && equalBytes(await target.guard.get(key), value);
        if (isRecord) {
          records.push({ key, value });
          hasRecord = isThere;
        }
        if (isThere) continue;
        if (key[0] === "tagged") tags ??= await beginTags(target, to);
        await writer.add({ key, value });
      }
    } else {
      await writer.flush();
      // Stages of tags without an index are damage, so an index that was there stays, and is empty.
      const isGone = index === undefined && tags !== undefined;
      if (isGone) index = before.entries.length === 0 ? tags : sealTags(id, [], target.env.now());
      const metaBytes = sealLanded(id, part.meta, part.metaBytes!, to.meta!.landed);
      const same = equalBytes(metaBytes, to.metaBytes) && equalBytes(index, tags);
      const mark = markOf(part, index);
      const isMarked = same && equalMarks(await readMark(target, id), mark);
      if (!isMarked)
        await flip(ends, { ...part, metaBytes }, { to, tags, index, records, mark, marked: writer.marked });
      // Also what an interrupted run has left.
      await sweep(target, id, part.meta, metaBytes);
      await assertArrived(target, id, { ...part, metaBytes });
      const { records: count, bytes } = writer;
      const outcome = same && count === 0 ? "unchanged" : "updated";
      return { outcome, clock: part.clock, records: count + (same ? 0 : 1), bytes };
    }
  }
  return undefined;
}

function equalMarks(a: CopyMark | undefined, b: CopyMark): boolean {
  return a?.clock === b.clock && a.crc === b.crc && a.incarnation === b.incarnation && a.tags === b.tags;
}

/**
 * Meta and the index of the tags become those of the source, if all is there that these name: no sweep has
 * taken a record since it was written or found, and no other copy has put one back.
 */
async function flip(
  { target }: Ends,
  end: ImageEnd,
  {
    to,
    tags,
    index,
    records,
    mark,
    marked,
  }: {
    readonly to: Place;
    readonly tags: Uint8Array | undefined;
    readonly index: Uint8Array | undefined;
    readonly records: readonly Expectation[];
    readonly mark: CopyMark;
    readonly marked: Uint8Array | undefined;
  },
): Promise<void> {
  const [key, tagKey] = [metaKey(to.id), tagsKey(to.id)];
  const put: Entry[] = [{ key, value: end.metaBytes! }, markEntry(target, to.id, mark)];
  if (index !== undefined) put.push({ key: tagKey, value: index });
  await target.guard.commit({
    put,
    expect: [
      { key, value: to.metaBytes },
      { key: tagKey, value: tags },
      { key: eventsKey(to.id, end.clock), value: undefined },
      { key: copiedKey(to.id), value: marked },
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
  if (head.clock === end.clock && head.crc === end.crc) return;
  const key = eventsKey(id, end.clock);
  const next = head.clock > end.clock ? await target.guard.get(key) : undefined;
  if (next !== undefined && openBatch(key, next).header.previousCrc === end.crc) return;
  // Somebody else may have trimmed or deleted it since, or begun it anew: then it is theirs.
  if (equalBytes(await target.guard.get(metaKey(id)), end.metaBytes)) throw misread(id);
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
  const head = live ? await unlessDamaged(ends, () => readHead(target, id)) : undefined;
  // What was deleted later, or erased, in the target stays so.
  if (!live && (to.clock > deleted.clock || isErasedSince(to, from.meta!))) {
    await forgetErased(target, from.meta!, to);
    return { ...done, outcome: "unchanged", records: 0, bytes: 0 };
  }
  const isKept = head !== undefined && !ends.replace;
  const left = isKept ? await assertAsLeft(ends, to.meta!, head, deleted.clock) : undefined;
  const erased = erasedKey(id);
  // The erasure that a copy has carried here may have come after the document itself.
  const known = to.erased ?? (await readErased(target.guard, erased));
  const erasure = erasedSince(target, from.meta!, { ...to, erased: known });
  // Nothing of it may lie after the clock at which it was deleted.
  const beyond = live && (head?.clock ?? BEYOND) > deleted.clock ? IMAGE_SPACES : [];
  await target.guard.commit({
    put: [{ key: metaKey(id), value: from.metaBytes! }, ...erasure.put],
    delete: [
      ...erasure.delete,
      tagsKey(id),
      copiedKey(id),
      ...(known === undefined ? [] : [erased]),
      ...beyond.map((space) => ({ space, id })),
    ],
    expect: [
      { key: metaKey(id), value: to.metaBytes },
      { key: erased, value: known?.bytes },
      ...(head === undefined ? [] : [{ key: eventsKey(id, head.clock), value: undefined }]),
      ...(left === undefined ? [] : [{ key: tagsKey(id), value: left.index }]),
    ],
  });
  await sweep(target, id, from.meta!, from.metaBytes!);
  if (!equalBytes(await target.guard.get(metaKey(id)), from.metaBytes)) return undefined;
  return done;
}

/** Whether the target has erased what the source has only deleted: a tombstone would tell the id again. */
function isErasedSince({ meta, erased }: Place, from: Meta): boolean {
  const isSame = meta === undefined && erased?.clock === from.deleted?.clock;
  return isSame && erased !== undefined && (from.erased ?? -1) < erased.clock;
}

/**
 * Throws `EXISTS` when the target's document, which was deleted at the source at this clock, has something of
 * its own that would go with it.
 */
export async function assertAsLeft(ends: Ends, meta: Meta, head: Head, clock: number): Promise<Left> {
  const { target, log } = ends;
  const { id } = log;
  for (let now = head, before: Uint8Array | undefined, looks = 0; ; looks++) {
    const left = await asLeft(ends, meta, now);
    const own = !left.events || now.clock > clock ? "events" : left.tags ? undefined : "tags";
    if (own === undefined) return left;
    // Another copy may have written, and marked it, between two looks: then what is to go conflicts.
    const again = await readHead(target, id);
    if (!equalBytes(again.metaBytes, head.metaBytes)) return left;
    const isSame = again.clock === now.clock && again.crc === now.crc && equalBytes(before, left.index);
    if ((looks > 0 && isSame) || looks === RACES_MAX) throw ownError(id, own);
    [now, before] = [again, left.index];
  }
}
