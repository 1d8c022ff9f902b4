/**
 * Putting an image into a store as a document: stage → verify → flip, like a snapshot.
 *
 * A small image goes in with one commit. A larger one is staged under a claim: meta becomes a tombstone that
 * says `incoming`, so for everybody else there is no document; then come the records, in slices that each
 * expect the claim; what was staged is read back and compared; and the flip puts the real meta in the place
 * of the claim. Who finds a claim may take it over, and the one who made it then fails with its next commit.
 *
 * | a crash                | leaves                                                                    |
 * | ---------------------- | ------------------------------------------------------------------------- |
 * | before the claim       | the id as it was                                                          |
 * | before the flip        | no document; a claim, which the next attempt, a delete or a repair removes |
 * | after the flip         | the document                                                              |
 *
 * Invariants: nothing is visible before all of it is stored; a document that exists is never overwritten, and
 * records that have lost their meta are never mixed with another; a failed landing removes what it staged, as
 * far as the backend still lets it.
 */

import { equalBytes, toHex } from "../base/bytes.js";
import { crc32 } from "../base/checksum.js";
import { CoppiceError, isCoppiceError } from "../base/errors.js";
import type { Batch, Deletion, Entry, Expectation, Key } from "../contract/backend.js";
import { encodeKey } from "../contract/keys.js";
import type { Context } from "./context.js";
import { abandon, wipe } from "./deletion.js";
import type { DocumentLog } from "./document-log.js";
import { damaged } from "./envelope.js";
import { deletedError, incomingError } from "./head.js";
import { IMAGE_SPACES, type ImageEnd, type ImagePart } from "./image.js";
import { eventsKey, identityOf, type Meta, metaKey, sealLanded, sealMeta, unsealMeta } from "./meta.js";
import { SPACES } from "./stages.js";
import { readTags, tagsKey } from "./tag-index.js";
import { type Erased, erasedKey, readErased } from "./tombstone.js";

/** What lies under an id before anything is brought in there. */
export interface Place {
  readonly id: string;
  readonly meta: Meta | undefined;
  readonly metaBytes: Uint8Array | undefined;
  readonly erased: Erased | undefined;
  /** Clocks up to here were used under this id. */
  readonly clock: number;
  /** Given: a document of this head is to be replaced, by one commit, so that one or the other is there. */
  readonly head?: number;
  /** With `head`: an image that is too large for one commit is staged, and until the flip there is none. */
  readonly inPieces?: boolean;
  /** With `head`: the index of the tags that go with it; nobody may have tagged it since. */
  readonly tags?: { readonly bytes: Uint8Array | undefined } | undefined;
  /** Of the meta that lands: what tells it from the document that was here, if there was one. */
  readonly landed?: string | undefined;
  /** With `inPieces`: the document that was here is gone, and there is a claim. */
  readonly onClaim?: () => void;
  /** With `head`: what has landed in its place is another document. */
  readonly onReplaced?: () => void;
}

export interface Landed {
  readonly clock: number;
  readonly records: number;
  /** Bytes of the stored values. */
  readonly bytes: number;
}

/** The clock at which the id was last erased, as far as this store knows; -1: it was not. */
export function erasedClock({ erased, meta }: Pick<Place, "erased" | "meta">): number {
  return Math.max(erased?.clock ?? -1, meta?.erased ?? -1);
}

/** What goes with the commit after which there is the document. */
export type Beside = Pick<Batch, "put" | "delete">;

export async function readPlace(context: Context, id: string): Promise<Place> {
  const metaBytes = await context.guard.get(metaKey(id));
  const meta = metaBytes && unsealMeta(id, metaBytes);
  const live = meta !== undefined && meta.deleted === undefined;
  // A claim over an erased id leaves the record of it in place until the flip; a copy may have put one beside
  // a tombstone.
  const erased = live ? undefined : await readErased(context.guard, erasedKey(id));
  return { id, meta, metaBytes, erased, clock: Math.max(erased?.clock ?? 0, meta?.deleted?.clock ?? 0) };
}

/** Throws `EXISTS`, or `DELETED` for an id that was used before unless it may be `recreate`d. */
export function assertVacant({ id, meta, erased }: Place, recreate: boolean): void {
  if (meta !== undefined && meta.deleted === undefined) throw existsError(id);
  const unused = erased === undefined && (meta === undefined || meta.incoming?.fresh === true);
  if (!unused && !recreate) throw deletedError(id);
}

export function existsError(id: string): CoppiceError {
  return new CoppiceError("EXISTS", "there is a document of this id already; nothing was written", {
    details: { id },
  });
}

/**
 * Brings in the image. Rejects with what the parts throw, with `EXISTS` or `BUSY` when another writer was
 * faster, and with `CORRUPT` when what was written is not what is read back: then, where it was staged, there
 * is no document. `undefined`: the image was empty, and nothing was written. `beside`: what goes with the
 * commit after which there is the document.
 */
export function land(
  context: Context,
  log: DocumentLog,
  place: Place,
  parts: AsyncIterable<ImagePart>,
  beside: (end: ImageEnd) => Beside = () => ({}),
): Promise<Landed | undefined> {
  return log.hold(() => landHeld(context, log, place, parts, beside));
}

async function landHeld(
  context: Context,
  log: DocumentLog,
  place: Place,
  parts: AsyncIterable<ImagePart>,
  beside: (end: ImageEnd) => Beside,
): Promise<Landed | undefined> {
  if (place.meta === undefined) await assertNothingLeft(context, place.id);
  const landing = new Landing(context, log, place);
  try {
    for await (const part of parts) {
      if (part.kind === "begin") await landing.begin();
      else if (part.kind === "record") await landing.add(part);
      else {
        const done = await landing.finish(part, beside(part));
        const { meta, landed } = place;
        const isOther = meta !== undefined && identityOf({ ...part.meta, landed }) !== identityOf(meta);
        if (isOther) place.onReplaced?.();
        // Who knows what was here before is only woken.
        log.announce(isOther ? 0 : part.clock);
        return { clock: part.clock, ...done };
      }
    }
    await landing.giveUp();
    return undefined;
  } catch (error) {
    // What went wrong is the news; a claim that cannot be removed now is removed by whoever comes next.
    await landing.giveUp().catch(() => undefined);
    throw error;
  }
}

/** Records without meta are what is left of a damaged document; they must not mix with this one. */
async function assertNothingLeft({ guard }: Context, id: string): Promise<void> {
  const first = async (space: string): Promise<Key | undefined> => {
    for await (const [entry] of guard.scan({ space, id }, { limit: 1, values: false })) return entry?.key;
    return undefined;
  };
  for (const key of await Promise.all(SPACES.map(first))) {
    if (key === undefined) continue;
    // With a meta, or gone by now, they are those of another writer: then the commit conflicts.
    if ((await guard.get(metaKey(id))) !== undefined || (await guard.get(key)) === undefined) continue;
    throw damaged(metaKey(id), "there are records but no meta; nothing was written");
  }
}

/** Counts and a running checksum of records in their order. */
class Tally {
  records = 0;
  bytes = 0;
  crc = 0;

  add({ key, value }: Entry): void {
    this.records++;
    this.bytes += value.length;
    this.crc = crc32(value, crc32(encodeKey(key), this.crc));
  }
}

class Landing {
  readonly #context: Context;
  readonly #log: DocumentLog;
  readonly #place: Place;
  #claim: { readonly meta: Meta; readonly bytes: Uint8Array } | undefined;
  #waiting: Entry[] = [];
  #waitingBytes = 0;
  #tally = new Tally();

  constructor(context: Context, log: DocumentLog, place: Place) {
    this.#context = context;
    this.#log = log;
    this.#place = place;
  }

  /** Also voids what was added so far. */
  async begin(): Promise<void> {
    this.#waiting = [];
    this.#waitingBytes = 0;
    this.#tally = new Tally();
    if (this.#claim !== undefined) await this.#clear(this.#claim.bytes);
  }

  async add(entry: Entry): Promise<void> {
    const { limits, guard } = this.#context;
    const { id, head, inPieces } = this.#place;
    const whole = head !== undefined && this.#claim === undefined;
    const wholeMax = guard.traits.commitBytesMax / 2;
    const bytesMax = whole ? wholeMax : Math.min(limits.groupBytesMax, wholeMax);
    const many = !whole && this.#waiting.length >= limits.groupOperationsMax;
    const full = many || this.#waitingBytes + entry.value.length > bytesMax;
    if (whole && full && !inPieces) throw tooLarge(id, wholeMax);
    if (this.#waiting.length > 0 && full) await this.#stage();
    this.#tally.add(entry);
    this.#waiting.push(entry);
    this.#waitingBytes += entry.value.length;
  }

  async finish(
    { meta, metaBytes }: ImageEnd,
    { put = [], delete: gone = [] }: Beside,
  ): Promise<{ records: number; bytes: number }> {
    const { id, head } = this.#place;
    const { landed } = this.#place;
    const erased = Math.max(meta.erased ?? -1, erasedClock(this.#place));
    const value =
      metaBytes === undefined
        ? sealMeta(id, { ...meta, landed, ...(erased < 0 ? {} : { erased }) }, this.#context.env.now())
        : sealLanded(id, meta, metaBytes, landed);
    const entry = { key: metaKey(id), value };
    // What is left of a document that was here before must not mix with this one.
    const beside = this.#place.meta !== undefined && head === undefined;
    const staged = beside || this.#claim !== undefined;
    if (staged) {
      await this.#stage();
      await this.#verifyStaged();
    }
    const image = [...this.#waiting.splice(0), entry];
    await this.#flip([...put, ...image], gone);
    // Not what goes beside it: another copy may write that without changing meta.
    if (!staged) await this.#verify(image);
    this.#claim = undefined;
    const { records, bytes } = this.#tally;
    return { records, bytes };
  }

  /** Removes what was staged. */
  async giveUp(): Promise<void> {
    const claim = this.#claim;
    this.#claim = undefined;
    if (claim === undefined) return;
    await abandon(this.#context, this.#place.id, claim.meta, claim.bytes).finally(() => this.#log.forget());
  }

  /** The one commit that matters: the real meta, last, in the place of what was there. */
  async #flip(put: readonly Entry[], gone: readonly Deletion[]): Promise<void> {
    const { id, erased, metaBytes, head } = this.#place;
    const key = erasedKey(id);
    const replaced = head === undefined || this.#claim !== undefined ? [] : IMAGE_SPACES;
    await this.#commit({
      put,
      delete: [...(erased === undefined ? [] : [key]), ...replaced.map((space) => ({ space, id })), ...gone],
      expect: [
        { key: metaKey(id), value: this.#claim?.bytes ?? metaBytes },
        { key, value: erased?.bytes },
        ...(this.#claim === undefined ? this.#unmoved() : []),
      ],
    });
  }

  async #stage(): Promise<void> {
    const claim = this.#claim ?? (await this.#stake());
    const put = this.#waiting.splice(0);
    this.#waitingBytes = 0;
    if (put.length === 0) return;
    await this.#commit({ put, expect: [{ key: metaKey(this.#place.id), value: claim.bytes }] });
  }

  /** Makes the claim, and removes what lay there before: of a deleted document, or of an older claim. */
  async #stake(): Promise<{ meta: Meta; bytes: Uint8Array }> {
    const { id, erased, meta: before, metaBytes, head } = this.#place;
    const { env } = this.#context;
    // One that is replaced counts as never there: its source brings it again.
    const fresh = before === undefined || before.incoming?.fresh === true || head !== undefined;
    const clock = head === undefined ? this.#place.clock : 0;
    const meta: Meta = {
      model: before?.model ?? "",
      created: before?.created ?? env.now(),
      incarnation: before?.incarnation ?? "",
      landed: this.#place.landed,
      erased: before?.erased,
      base: clock,
      oldest: clock,
      snapshot: undefined,
      previous: undefined,
      archive: [],
      commits: [],
      commitFloor: before?.commitFloor ?? erased?.commitFloor ?? 0,
      deleted: { clock, time: before?.deleted?.time ?? env.now() },
      // No zeros at the beginning: those say that a claim was taken.
      incoming: { nonce: `1${toHex(env.random(8)).slice(1)}`, fresh },
    };
    const claim = { meta, bytes: sealMeta(id, meta, env.now()) };
    await this.#commit({
      put: [{ key: metaKey(id), value: claim.bytes }],
      expect: [
        { key: metaKey(id), value: metaBytes },
        { key: erasedKey(id), value: erased?.bytes },
        ...this.#unmoved(),
      ],
    });
    this.#claim = claim;
    this.#place.onClaim?.();
    if (before !== undefined) await this.#clear(claim.bytes);
    return claim;
  }

  /** Nobody has appended to the document that is replaced, or tagged it where its tags may not be lost. */
  #unmoved(): Expectation[] {
    const { id, head, tags } = this.#place;
    if (head === undefined) return [];
    const untagged = tags === undefined ? [] : [{ key: tagsKey(id), value: tags.bytes }];
    return [{ key: eventsKey(id, head), value: undefined }, ...untagged];
  }

  async #clear(claimBytes: Uint8Array): Promise<void> {
    const { done } = await wipe(this.#context, this.#place.id, IMAGE_SPACES, claimBytes);
    if (!done) throw await this.#overtaken();
  }

  /** Reads back all that was staged, and compares. */
  async #verifyStaged(): Promise<void> {
    const { id } = this.#place;
    const found = new Tally();
    for (const space of IMAGE_SPACES) {
      for await (const page of this.#context.guard.scan({ space, id })) {
        for (const entry of page) found.add(entry);
      }
    }
    const { records, crc } = this.#tally;
    if (found.records === records && found.crc === crc) return;
    // Whoever has taken the claim removes what lies there.
    const isOurs = equalBytes(await this.#context.guard.get(metaKey(id)), this.#claim?.bytes);
    throw isOurs ? misread(id) : await this.#overtaken();
  }

  /** Reads back what went in with one commit: as long as meta and tags are those of it, it may not change. */
  async #verify(put: readonly Entry[]): Promise<void> {
    const { guard } = this.#context;
    const { id } = this.#place;
    const meta = put.at(-1)!;
    const index = put.find(({ key: [space] }) => space === "tags");
    for (const { key, value } of put) {
      if (equalBytes(await guard.get(key), value)) continue;
      if (!equalBytes(await guard.get(meta.key), meta.value)) return;
      const { bytes } = await readTags(guard, id);
      // Somebody has tagged it since, or forgotten a tag, and swept what the index had named.
      if (index !== undefined && bytes !== undefined && !equalBytes(bytes, index.value)) return;
      throw misread(id);
    }
  }

  async #commit(batch: Batch): Promise<void> {
    try {
      await this.#context.guard.commit(batch);
    } catch (error) {
      if (isCoppiceError(error, "COMMIT_CONFLICT")) throw await this.#overtaken();
      if (!isCoppiceError(error, "OUTCOME_UNKNOWN") || !(await this.#settled(batch))) throw error;
    } finally {
      this.#log.forget();
    }
  }

  /** Whether a commit of unknown outcome was applied, where the backend goes on after one. */
  async #settled({ put = [] }: Batch): Promise<boolean> {
    const { guard } = this.#context;
    if (guard.traits.poisonsItself) return false;
    const last = put.at(-1);
    return last !== undefined && equalBytes(await guard.get(last.key), last.value);
  }

  async #overtaken(): Promise<CoppiceError> {
    const { id } = this.#place;
    const bytes = await this.#context.guard.get(metaKey(id));
    const meta = bytes && unsealMeta(id, bytes);
    if (meta !== undefined && meta.deleted === undefined) return existsError(id);
    return meta?.incoming === undefined ? deletedError(id) : incomingError(id);
  }
}

/** In pieces the document that is there would be gone before the new one is whole. */
function tooLarge(id: string, max: number): CoppiceError {
  const message =
    "the document is too large to take the place of the target's in one commit; it was left as it is: " +
    "copy with `replace`, and until that has ended the target has no such document";
  return new CoppiceError("BATCH_TOO_LARGE", message, { details: { id, limit: "commitBytesMax / 2", max } });
}

/** The error for a store that gives back other bytes than it was given. */
export function misread(id: string): CoppiceError {
  return damaged(metaKey(id), "what is read back is not what was written");
}
