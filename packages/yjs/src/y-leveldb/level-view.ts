/**
 * The store as y-leveldb's own database would show it, for code that reaches inside with `_transact`: keys in
 * its form and order, made up from what is stored. Below the newest snapshot a document has one update.
 *
 * It is for looking: everything is read anew with each call, at the cost of the documents in the range. The
 * only way to change something through it is `clear()` of everything; the methods of `LeveldbPersistence`
 * do the rest.
 */

import { CoppiceError, compareBytes } from "coppice";
import { encodeLevelKey, type LevelKey } from "./keys.js";

/** PREFERRED_TRIM_SIZE of y-leveldb. Here documents are snapshotted by the storage's policy. */
export const PREFERRED_TRIM_SIZE = 500;
const CLOCK_END = 0xffffffff;

export interface LevelEntry {
  readonly key: LevelKey;
  readonly value: Uint8Array;
}

export interface LevelRange {
  readonly gt?: LevelKey;
  readonly gte?: LevelKey;
  readonly lt?: LevelKey;
  readonly lte?: LevelKey;
  readonly reverse?: boolean;
  readonly limit?: number;
}

/** What `_transact` hands to its function. */
export interface LevelView {
  get(key: LevelKey): Promise<Uint8Array | undefined>;
  entries(range: LevelRange): Promise<LevelEntry[]>;
  /** Deletes everything. Rejects with `TRAIT_MISSING` for a range. */
  clear(range?: LevelRange): Promise<void>;
}

/** Where a view finds what it shows. */
export interface ViewSource {
  names(): Promise<string[]>;
  /** All entries of one document, in any order. */
  document(name: string): Promise<LevelEntry[]>;
  clear(): Promise<void>;
}

export function levelView(source: ViewSource): LevelView {
  const entries = async (range: LevelRange): Promise<LevelEntry[]> => {
    const name = nameOf(range);
    const names = name === undefined ? await source.names() : [name];
    const found: { readonly bytes: Uint8Array; readonly entry: LevelEntry }[] = [];
    for (const each of names) {
      for (const entry of await source.document(each)) {
        const bytes = encodeLevelKey(entry.key);
        if (isWithin(bytes, range)) found.push({ bytes, entry });
      }
    }
    found.sort((a, b) => compareBytes(a.bytes, b.bytes));
    if (range.reverse) found.reverse();
    const { limit = -1 } = range;
    return found.slice(0, limit < 0 ? undefined : limit).map(({ entry }) => entry);
  };
  return {
    entries,
    async get(key) {
      const [entry] = await entries({ gte: key, lte: key });
      return entry?.value;
    },
    async clear(range = {}) {
      if ([range.gt, range.gte, range.lt, range.lte].some((bound) => bound !== undefined)) {
        throw new CoppiceError("TRAIT_MISSING", "this view deletes everything or nothing; use clearDocument");
      }
      await source.clear();
    },
  };
}

/** As y-leveldb's: all entries of a range. */
export function getLevelBulkEntries(view: LevelView, range: LevelRange): Promise<LevelEntry[]> {
  return view.entries(range);
}

/** As y-leveldb's: the updates of a document with their keys. */
export function getLevelUpdatesEntries(
  view: LevelView,
  name: string,
  options: Pick<LevelRange, "reverse" | "limit"> = {},
): Promise<LevelEntry[]> {
  const [gte, lt] = [updateKey(name, 0), updateKey(name, CLOCK_END)];
  return view.entries({ gte, lt, ...options });
}

export function updateKey(name: string, clock: number): LevelKey {
  return ["v1", name, "update", clock];
}

/** The document that a range is about; `undefined`: perhaps several. */
function nameOf({ gte, gt, lt, lte }: LevelRange): string | undefined {
  const [from, to] = [gte ?? gt, lte ?? lt];
  const name = from?.[1];
  return typeof name === "string" && name === to?.[1] && from?.[0] === to?.[0] ? name : undefined;
}

function isWithin(bytes: Uint8Array, { gt, gte, lt, lte }: LevelRange): boolean {
  return (
    (gt === undefined || compareBytes(bytes, encodeLevelKey(gt)) > 0) &&
    (gte === undefined || compareBytes(bytes, encodeLevelKey(gte)) >= 0) &&
    (lt === undefined || compareBytes(bytes, encodeLevelKey(lt)) < 0) &&
    (lte === undefined || compareBytes(bytes, encodeLevelKey(lte)) <= 0)
  );
}
