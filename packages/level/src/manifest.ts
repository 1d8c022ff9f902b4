/**
 * LevelDB's MANIFEST: which tables are alive, which log is the oldest that counts, and the last sequence
 * number when it was written. Read before LevelDB reads it, to know which files a store must have.
 *
 * Each record of the file (in the log format, `log-scan.ts`) is an edit: fields of a tag and a value.
 *
 * | tag | value                                        | tag | value                                   |
 * | --- | -------------------------------------------- | --- | --------------------------------------- |
 * | 1   | name of the comparator                       | 5   | level, key: where to compact next       |
 * | 2   | number of the oldest log                     | 6   | level, number: this table is gone       |
 * | 3   | next number of a file                        | 7   | level, number, size, first and last key |
 * | 4   | last sequence number                         | 9   | number of an older log                  |
 */

import { scanLog } from "./log-scan.js";
import { VarintReader } from "./varints.js";

export interface Manifest {
  readonly oldestLog: number;
  readonly olderLog: number;
  readonly lastSequence: number;
  /** Sizes in bytes of the tables that are alive, by number. */
  readonly tables: ReadonlyMap<number, number>;
}

/** `undefined` for bytes that are no whole MANIFEST: LevelDB will refuse them itself. */
export function readManifest(bytes: Uint8Array): Manifest | undefined {
  const { records, damage } = scanLog(bytes);
  if (damage !== undefined || records.length === 0) return undefined;
  const manifest = { oldestLog: 0, olderLog: 0, lastSequence: 0, tables: new Map<number, number>() };
  try {
    for (const { bytes: edit } of records) apply(manifest, new VarintReader(edit));
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return undefined;
  }
  return manifest;
}

function apply(
  manifest: { oldestLog: number; olderLog: number; lastSequence: number; tables: Map<number, number> },
  edit: VarintReader,
): void {
  while (edit.left > 0) {
    const tag = edit.number();
    if (tag === 1) edit.sized();
    else if (tag === 2) manifest.oldestLog = edit.number();
    else if (tag === 3) edit.number();
    else if (tag === 4) manifest.lastSequence = edit.number();
    else if (tag === 5) {
      edit.number();
      edit.sized();
    } else if (tag === 6) {
      edit.number();
      manifest.tables.delete(edit.number());
    } else if (tag === 7) {
      edit.number();
      const number = edit.number();
      manifest.tables.set(number, edit.number());
      edit.sized();
      edit.sized();
    } else if (tag === 9) manifest.olderLog = edit.number();
    else throw new RangeError(`an edit has the unknown tag ${tag}`);
  }
}
