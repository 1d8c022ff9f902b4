/**
 * Verifies a LevelDB table before LevelDB reads it, because LevelDB does not verify it: a flipped bit would
 * be a wrong value, a vanished key, or the end of the process in native code.
 *
 * | at                 | are                                                                         |
 * | ------------------ | --------------------------------------------------------------------------- |
 * | start              | blocks: contents, 1 byte compression (0 none, 1 Snappy), 4 bytes CRC-32C     |
 * | 48 bytes from end  | footer: places of metaindex and index (offset, size), zeros, 8 bytes magic   |
 *
 * The index has for each data block a key ≥ all of its keys, and its place. Contents of other blocks are
 * not looked at. Invariant: every byte of the file but the footer's zeros is covered by a checksum that was
 * compared.
 */

import { maskedCrc32c, uint32 } from "./crc32c.js";
import { VarintReader } from "./varints.js";

const FOOTER_BYTES = 48;
const TRAILER_BYTES = 5;
const MAGIC = [0x57, 0xfb, 0x80, 0x8b, 0x24, 0x75, 0x47, 0xdb];
/** An internal key ends with sequence and type. */
const KEY_TAIL_BYTES = 8;

export interface TableDamage {
  readonly offset: number;
  readonly what: string;
  /** Keys in `(after, upTo]` are in the damaged block; absent: any key of the table. */
  readonly after?: Uint8Array;
  readonly upTo?: Uint8Array;
}

interface Place {
  readonly offset: number;
  readonly size: number;
}

/** What does not check. Costs one pass over the bytes: about 2 ms a MiB. */
export function scanTable(table: Uint8Array): TableDamage[] {
  const footer = table.length - FOOTER_BYTES;
  const whole = (what: string, offset = Math.max(0, footer)): TableDamage[] => [{ offset, what }];
  if (footer < 0 || MAGIC.some((byte, i) => table[footer + 40 + i] !== byte)) {
    return whole("the table does not end as one");
  }
  try {
    const reader = new VarintReader(table, footer, footer + 40);
    const [metaindex, index] = [readPlace(reader), readPlace(reader)];
    if (!checks(table, index, footer)) return whole("the index does not check", index.offset);
    const places = indexOf(contents(table, index));
    const damage: TableDamage[] = [];
    let next = 0;
    let after: Uint8Array | undefined;
    for (const { key, place } of places) {
      if (place.offset !== next) return whole("the index leaves out bytes", next);
      if (!checks(table, place, footer)) {
        const before = after === undefined ? {} : { after };
        damage.push({ offset: next, what: "a block does not check", ...before, upTo: key });
      }
      after = key;
      next = place.offset + place.size + TRAILER_BYTES;
    }
    return [...damage, ...scanRest(table, next, metaindex, index, footer)];
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return whole(`the table does not hold together: ${error.message}`);
  }
}

/** Between the data blocks and the footer: a filter, the metaindex that names it, and the index. */
function scanRest(
  table: Uint8Array,
  from: number,
  metaindex: Place,
  index: Place,
  footer: number,
): TableDamage[] {
  const filter = { offset: from, size: metaindex.offset - from - TRAILER_BYTES };
  const rest = metaindex.offset === from ? [metaindex, index] : [filter, metaindex, index];
  let next = from;
  for (const place of rest) {
    const fits = place.offset === next && place.size >= 0;
    if (!fits || !checks(table, place, footer)) return [{ offset: next, what: "a block does not check" }];
    next = place.offset + place.size + TRAILER_BYTES;
  }
  return next === footer ? [] : [{ offset: next, what: "there are bytes that belong to nothing" }];
}

function readPlace(reader: VarintReader): Place {
  return { offset: reader.number(), size: reader.number() };
}

function checks(table: Uint8Array, { offset, size }: Place, footer: number): boolean {
  const end = offset + size;
  if (end + TRAILER_BYTES > footer) return false;
  return uint32(table, end + 1) === maskedCrc32c(table, offset, end + 1);
}

function contents(table: Uint8Array, { offset, size }: Place): Uint8Array {
  const bytes = table.subarray(offset, offset + size);
  const compression = table[offset + size];
  if (compression === 0) return bytes;
  if (compression === 1) return unsnappy(bytes);
  throw new RangeError(`compression ${compression} is not known`);
}

/** Entries of a block: shared and own length of the key, length of the value, own key, value. */
function indexOf(block: Uint8Array): { readonly key: Uint8Array; readonly place: Place }[] {
  const restarts = uint32(block, block.length - 4);
  const reader = new VarintReader(block, 0, block.length - 4 * (restarts + 1));
  const entries: { key: Uint8Array; place: Place }[] = [];
  let internal = new Uint8Array(0);
  while (reader.left > 0) {
    const [shared, own, valueBytes] = [reader.number(), reader.number(), reader.number()];
    const key = new Uint8Array(shared + own);
    key.set(internal.subarray(0, shared));
    key.set(reader.bytes(own), shared);
    const place = readPlace(new VarintReader(reader.bytes(valueBytes)));
    entries.push({ key: key.subarray(0, Math.max(0, key.length - KEY_TAIL_BYTES)), place });
    internal = key;
  }
  return entries;
}

/** The Snappy format: a length, then literals and copies of what came before. */
function unsnappy(bytes: Uint8Array): Uint8Array {
  const reader = new VarintReader(bytes);
  const out = new Uint8Array(reader.number());
  let at = 0;
  while (reader.left > 0) {
    const tag = reader.bytes(1)[0]!;
    const kind = tag & 3;
    if (kind === 0) {
      const extra = (tag >>> 2) - 59;
      const length = extra <= 0 ? (tag >>> 2) + 1 : little(reader.bytes(extra)) + 1;
      out.set(reader.bytes(length), at);
      at += length;
      continue;
    }
    const length = kind === 1 ? ((tag >>> 2) & 7) + 4 : (tag >>> 2) + 1;
    const low = little(reader.bytes(kind === 1 ? 1 : kind === 2 ? 2 : 4));
    const back = kind === 1 ? (tag >>> 5) * 256 + low : low;
    if (back === 0 || back > at || at + length > out.length) throw new RangeError("a copy leads nowhere");
    for (let i = 0; i < length; i++) out[at + i] = out[at + i - back]!;
    at += length;
  }
  return out;
}

function little(bytes: Uint8Array): number {
  return bytes.reduceRight((value, byte) => value * 256 + byte, 0);
}
