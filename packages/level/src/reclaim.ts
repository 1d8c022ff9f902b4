/**
 * Getting deleted bytes out of LevelDB's files.
 *
 * LevelDB keeps what was deleted in more places than its table files, and `compactRange` alone leaves much:
 *
 * | where              | what is left there                             | what gets it out              |
 * | ------------------ | ---------------------------------------------- | ----------------------------- |
 * | log                | the newest commits                             | compacting: it begins a log   |
 * | upper tables       | values and the marks that delete them          | compacting from the top down  |
 * | the lowest tables  | both, when one buffer held both                | a table above that spans all  |
 * | MANIFEST           | first and last keys of tables, old ones too    | opening: it begins a MANIFEST |
 * | … per level        | the last key that was compacted                | compacting a key behind all   |
 * | LOG, LOG.old       | keys, in words                                 | opening, and removing LOG.old |
 *
 * Hence three passes: all levels; again below two keys of ours, before the first and after the last of the
 * store; and the last key alone through every level. Then the database is closed and opened, where it is ours
 * to close.
 *
 * Invariants: it changes nothing that can be read, except that for a while there are two keys which are no
 * keys of a backend; commits may go on beside it, but not beside the opening.
 */

import type { Database } from "./database.js";

const BYTES = { keyEncoding: "view", valueEncoding: "view" } as const;
/** Before and after every key of a backend: those begin with a letter. */
const FIRST = Uint8Array.of(0);
const LAST = Uint8Array.of(0xff);
/** After `LAST`, so that compacting there writes the buffer to a table and does nothing else. */
const BEYOND = Uint8Array.of(0xff, 0xff);
/** The deepest level into which LevelDB writes a buffer, and one more: then one table lies in level 0. */
const FLUSHES = 3;
/** From this level on no table can hold both a value and the mark that deletes it. */
const MERGED_LEVEL = 3;
const LEVELS = 7;

/** What classic-level adds to abstract-level. */
interface Compactable {
  compactRange(start: Uint8Array, end: Uint8Array, options: { keyEncoding: "view" }): Promise<void>;
  getProperty(name: string): string;
}

/**
 * Resolves when no table, and no log but LOG, holds what was deleted before. `root` is LevelDB itself.
 * `sync`: each mark is durable before a commit can follow it, or a loss of power could leave a gap between
 * two logs.
 */
export async function rewriteTables(db: Database, root: Database, sync: boolean): Promise<void> {
  const written: { readonly sync: boolean } & typeof BYTES = { ...BYTES, sync };
  const { compactRange, getProperty } = root as unknown as Compactable;
  const compact = (start: Uint8Array, end: Uint8Array) =>
    compactRange.call(root, start, end, { keyEncoding: "view" });
  const mark = (...keys: Uint8Array[]) =>
    db.batch(
      keys.map((key) => ({ type: "put" as const, key, value: Uint8Array.of(0) })),
      written,
    );
  await compact(FIRST, BEYOND);
  const deep = Array.from({ length: LEVELS - MERGED_LEVEL }, (_, index) => MERGED_LEVEL + index);
  const merged = deep.some(
    (level) => Number(getProperty.call(root, `leveldb.num-files-at-level${level}`)) > 0,
  );
  await mark(FIRST, LAST);
  if (merged) await compact(LAST, BEYOND);
  else await compact(FIRST, BEYOND);
  for (let flush = 0; flush < FLUSHES; flush++) {
    await mark(LAST);
    await compact(BEYOND, BEYOND);
  }
  await compact(LAST, BEYOND);
  await db.batch(
    [FIRST, LAST].map((key) => ({ type: "del" as const, key })),
    written,
  );
}
