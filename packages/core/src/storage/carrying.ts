/**
 * What a copy carries besides documents: erasures, and what damage had set aside.
 *
 * An erasure carried over leaves the target as one of its own would: no key, and after the reclaim that is
 * then due no file, holds a byte of what was erased, wherever an interrupted copy, a deletion or damage had
 * left some of it.
 *
 * Invariants: what the target's own document has is given up only with `replace`; what began after the
 * erasure stays; nothing is carried twice.
 */

import { isCoppiceError } from "../base/errors.js";
import type { Batch, Deletion, Entry, Expectation, Key, Range, ScanOptions } from "../contract/backend.js";
import { type Gap, scanAround } from "./check-unreadable.js";
import type { Context } from "./context.js";
import type { CopyOptions } from "./copy.js";
import { abandon, EVERY_SPACE, eraseDocument, type Removal, wipe } from "./deletion.js";
import { unseal } from "./envelope.js";
import { type Head, readHead } from "./head.js";
import { readPlace } from "./landing.js";
import { Fields, type Meta, metaKey, unpackRecord } from "./meta.js";
import { assertAsLeft, type Ends } from "./mirror.js";
import { reclaimDueEntry } from "./reclaim-due.js";
import { sweep } from "./snapshots.js";
import { hasRecords } from "./stages.js";
import { tagsKey } from "./tag-index.js";
import { ERASED_SPACE, erasedKey, readErased, unsealErased } from "./tombstone.js";

/** Who is told of what came of each document. */
export interface CarryReport {
  /** There is nothing more to try. */
  readonly isOver: boolean;
  fail(id: string, error: unknown): void;
  erased(): void;
}

export class Carrying {
  readonly #source: Context;
  readonly #target: Context;
  /** Where a document of the target is worked on. */
  readonly #at: (id: string) => Removal;
  readonly #options: CopyOptions;
  readonly #report: CarryReport;

  constructor(
    source: Context,
    target: Context,
    at: (id: string) => Removal,
    options: CopyOptions,
    report: CarryReport,
  ) {
    this.#source = source;
    this.#target = target;
    this.#at = at;
    this.#options = options;
    this.#report = report;
  }

  /**
   * What was erased at the source is erased in the target. An erased record tells no id, so the target's ids
   * are asked for theirs.
   */
  async erasures(): Promise<void> {
    const [source, target] = [this.#source, this.#target];
    if ((await firstKey(source, ERASED_SPACE)) === undefined) return this.#forgetOrphans();
    const heard = new Map<string, number>();
    for await (const id of idsOf(target, this.#options.prefix)) {
      if (this.#options.signal?.aborted) return;
      try {
        const clock = await this.#erasure(id);
        if (clock !== undefined) heard.set(erasedKey(id)[1], clock);
      } catch (error) {
        this.#report.fail(id, error);
        if (this.#report.isOver) return;
        // What stays is not erased: beside it the record would say that it had been.
        heard.set(erasedKey(id)[1], Number.POSITIVE_INFINITY);
      }
    }
    await this.#forgetOrphans();
    // Of which ids the others are nobody can tell, so a copy of some documents does not take them.
    const all = this.#options.prefix === undefined;
    for await (const page of all ? source.guard.scan({ space: ERASED_SPACE }) : []) {
      for (const { key, value } of page) {
        const { clock } = unsealErased(key, value);
        if ((heard.get(key[1]) ?? -1) < clock) await this.#record(key, clock, value);
      }
    }
  }

  /** Given where no record is needed: the clock up to which the target's own meta tells of it. */
  async #erasure(id: string): Promise<number | undefined> {
    const { meta, erased } = await readPlace(this.#source, id);
    if (erased === undefined || (meta !== undefined && meta.incoming?.fresh !== true)) return undefined;
    const { meta: present, metaBytes, clock } = await readHead(this.#target, id);
    // It was erased here as well before it began anew: another record would have all files rewritten again.
    const heard = Math.min(present?.erased ?? -1, present?.base ?? -1);
    const isHeard = heard >= erased.clock;
    // What began, or was deleted, after it is of a later life: it stays, and what it came after goes.
    const isLater = clock > erased.clock && (present?.deleted !== undefined || present!.base >= erased.clock);
    if (isHeard || isLater) {
      if (present?.incoming !== undefined) {
        // A copy died that had staged here what was erased since, or it is under way and begins again.
        await abandon(this.#target, id, present, metaBytes!);
        return isHeard ? heard : undefined;
      }
      await this.#forgetSetAside(id, erased.clock, metaBytes);
      if (isHeard) return heard;
      // A deletion that ended early, before it began anew, has not swept what was there. And an erasure that
      // did, of more than the source had, looks like a deletion of the target's own.
      if (present?.deleted === undefined)
        await this.#at(id).lane(() => sweep(this.#target, id, present!, metaBytes!));
      else await wipe(this.#target, id, EVERY_SPACE, metaBytes);
      const expect = [{ key: metaKey(id), value: metaBytes }];
      await this.#record(erasedKey(id), erased.clock, erased.bytes, { expect });
      return undefined;
    }
    const removal = this.#at(id);
    const { replace = false, signal } = this.#options;
    const { log, handles } = removal;
    const ends: Ends = { source: this.#source, target: this.#target, log, handles, replace, signal };
    const assertMay = async (head: Head, found: Meta) => {
      if (replace) return [];
      const { index } = await assertAsLeft(ends, found, head, erased.clock);
      return [{ key: tagsKey(id), value: index }];
    };
    const beside = () => [reclaimDueEntry(this.#target)];
    await eraseDocument(removal, { assertMay, beside, clock: erased.clock });
    this.#report.erased();
    return undefined;
  }

  /** What damage had set aside of erased documents goes also where these themselves had found no room. */
  async #forgetOrphans(): Promise<void> {
    const target = this.#target;
    let last: string | undefined;
    const range = rangeOf("quarantine", this.#options.prefix);
    for await (const page of target.guard.scan(range, { values: false })) {
      for (const { key } of page) {
        if (key[1] === last) continue;
        last = key[1];
        try {
          await this.#forgetOrphan(last);
        } catch (error) {
          this.#report.fail(last, error);
          if (this.#report.isOver) return;
        }
      }
    }
  }

  async #forgetOrphan(id: string): Promise<void> {
    const { meta, erased } = await readPlace(this.#source, id);
    if (meta?.deleted === undefined && meta?.erased !== undefined) {
      // It began anew, and its copy is there: perhaps in the place of a document of the target's own, beside
      // which a copy had put what was set aside of the erased one.
      const { meta: present, metaBytes } = await readPlace(this.#target, id);
      const isCopy = present?.deleted === undefined && present?.incarnation === meta.incarnation;
      if (isCopy) await this.#forgetSetAside(id, meta.erased, metaBytes);
    }
    if (erased === undefined || meta !== undefined) return;
    // Of a document that has lost its meta, by damage: a repair makes it again from what is there.
    if (await hasRecords(this.#target, id)) return;
    await this.#forget([{ space: "quarantine", id }], { key: metaKey(id), value: undefined });
  }

  /** What damage had set aside of the erased document goes, where the target has begun it anew. */
  async #forgetSetAside(id: string, clock: number, metaBytes: Uint8Array | undefined): Promise<void> {
    const target = this.#target;
    const gone: Key[] = [];
    for await (const page of target.guard.scan({ space: "quarantine", id }))
      for (const { key, value } of page) if (isBefore(clock, key, value)) gone.push(key);
    if (gone.length > 0) await this.#forget(gone, { key: metaKey(id), value: metaBytes });
  }

  /** The files are to be rewritten without it. */
  async #forget(gone: readonly Deletion[], expected: Expectation): Promise<void> {
    const target = this.#target;
    const due = reclaimDueEntry(target);
    await putOnce(target, due, await target.guard.get(due.key), { delete: gone, expect: [expected] });
  }

  /**
   * Puts the record of an erasure that the target has not heard of. Its files may hold what was erased:
   * staged by a copy that was interrupted, or brought by one and deleted here since.
   */
  async #record(key: Key, clock: number, value: Uint8Array, more: Batch = {}): Promise<void> {
    const target = this.#target;
    const known = await readErased(target.guard, key);
    if (known !== undefined && known.clock >= clock) return;
    await putOnce(target, { key, value }, known?.bytes, { ...more, put: [reclaimDueEntry(target)] });
  }

  async quarantine(): Promise<void> {
    const [source, target] = [this.#source, this.#target];
    for await (const page of source.guard.scan(rangeOf("quarantine", this.#options.prefix))) {
      for (const entry of page) {
        try {
          if ((await target.guard.get(entry.key)) === undefined) await this.#setAside(entry);
        } catch (error) {
          if (!isCoppiceError(error, "CORRUPT")) throw error;
          this.#report.fail(entry.key[1], error);
        }
      }
    }
  }

  async #setAside(entry: Entry): Promise<void> {
    const { id, meta, metaBytes, ...to } = await readPlace(this.#target, entry.key[1]);
    const { guard } = this.#source;
    // The next copy would take it for what is left of the erased one.
    if ((await guard.get(metaKey(id))) === undefined && (await guard.get(erasedKey(id))) !== undefined)
      return;
    const erased = to.erased ?? (await readErased(this.#target.guard, erasedKey(id)));
    // What was deleted or erased in the target, or is about to be, does not come back.
    if (meta?.deleted !== undefined || (meta === undefined && erased !== undefined)) return;
    if (erased !== undefined) {
      // A copy has put it there. Where both documents began later this was not erased with the old one.
      const { meta: from } = await readPlace(this.#source, id);
      const isLater = (of: Meta | undefined) => of?.deleted === undefined && (of?.base ?? -1) >= erased.clock;
      if (!isLater(meta) || !isLater(from)) return;
    }
    const expect = [
      { key: metaKey(id), value: metaBytes },
      { key: erasedKey(id), value: erased?.bytes },
    ];
    await putOnce(this.#target, entry, undefined, { expect });
  }
}

/**
 * Whether it had lain in a document that ended at that clock, as its key tells, if it does. A snapshot there
 * is of that one: of one that begins there, and has nothing yet, none is made but for a tag.
 */
function isBefore(ended: number, key: Key, value: Uint8Array): boolean {
  try {
    const [space, , clock] = new Fields(unpackRecord(unseal(key, value).payload)).list("key");
    return typeof clock === "number" && (clock < ended || (clock === ended && space === "snapshot"));
  } catch (error) {
    if (!isCoppiceError(error) && !(error instanceof TypeError)) throw error;
    return false;
  }
}

async function firstKey({ guard }: Context, space: string): Promise<Key | undefined> {
  for await (const [entry] of guard.scan({ space }, { limit: 1, values: false })) return entry?.key;
  return undefined;
}

/** Puts it unless somebody was faster: then it is theirs to say what lies there. */
async function putOnce(
  { guard }: Context,
  entry: Entry,
  before: Uint8Array | undefined,
  more: Batch,
): Promise<void> {
  const { put = [], expect = [] } = more;
  try {
    const expected = [{ key: entry.key, value: before }, ...expect];
    await guard.commit({ ...more, put: [entry, ...put], expect: expected });
  } catch (error) {
    if (!isCoppiceError(error, "COMMIT_CONFLICT")) throw error;
  }
}

/** With `onGap` what cannot be read is passed over. */
export async function* idsOf(
  { guard }: Context,
  prefix: string | undefined,
  onGap?: (gap: Gap) => void,
): AsyncGenerator<string> {
  const scan = (options: ScanOptions) => guard.scan(rangeOf("meta", prefix), options);
  const pages = onGap === undefined ? scan({ values: false }) : scanAround(scan, { values: false }, onGap);
  for await (const page of pages) for (const { key } of page) yield key[1];
}

function rangeOf(space: string, prefix: string | undefined): Range {
  return prefix === undefined ? { space } : { space, idPrefix: prefix };
}
