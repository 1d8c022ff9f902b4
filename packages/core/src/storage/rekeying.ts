/**
 * An image under another id, or with its clocks moved up: every record is sealed anew under its new key, and
 * the chain of checksums with it.
 *
 * Payloads, times, commit ids, `info` and totals stay. Clocks move up only where the id was used before:
 * clocks are never used again for an id. The result is a document of its own, with its own incarnation.
 *
 * Invariant: it needs no model and decodes no event.
 */

import { Reader } from "../base/bytes.js";
import type { Entry, Key } from "../contract/backend.js";
import { unpackSegmentRecord } from "./archive.js";
import { seal, sealRecord, unseal } from "./envelope.js";
import type { ImagePart } from "./image.js";
import { type Meta, packRecord, packSnapshotRecord, type SnapshotRef, unpackSnapshotRecord } from "./meta.js";
import { partOf } from "./stages.js";
import { sealTags, tagsKey, unsealTags } from "./tag-index.js";

export interface NewIdentity {
  readonly id: string;
  readonly incarnation: string;
  /** The document may begin at this clock at the earliest. */
  readonly clockFloor: number;
}

/** What is carried from record to record. */
interface Run {
  readonly id: string;
  readonly shift: number;
  /** CRC of the batch that ends at a clock (of the old ones), for the snapshots that name it. */
  readonly ends: Map<number, number | undefined>;
  /** The CRC that the next batch names. `undefined` before the first: that one keeps what it names. */
  crc: number | undefined;
}

export async function* rekeyed(
  parts: AsyncIterable<ImagePart>,
  identity: NewIdentity,
): AsyncGenerator<ImagePart> {
  let run: Run | undefined;
  for await (const part of parts) {
    if (part.kind === "begin") {
      const shift = Math.max(0, identity.clockFloor - part.meta.base);
      const { snapshot, previous } = part.meta;
      const ends = [snapshot, previous].map((ref) => [ref?.clock ?? 0, undefined] as const);
      run = { id: identity.id, shift, ends: new Map(ends), crc: undefined };
      const meta = movedMeta(part.meta, run, identity.incarnation);
      yield { kind: "begin", id: identity.id, meta, metaBytes: undefined, clock: part.clock + shift };
    } else if (run === undefined) {
      throw new TypeError("an image begins with its beginning");
    } else if (part.kind === "record") {
      yield { kind: "record", ...rekey(part, run) };
    } else {
      const meta = movedMeta(part.meta, run, identity.incarnation);
      const { crc = part.crc, shift } = run;
      yield { kind: "end", meta, metaBytes: undefined, clock: part.clock + shift, crc };
    }
  }
}

function movedMeta(meta: Meta, run: Run, incarnation: string): Meta {
  const { shift, ends } = run;
  const ref = (old: SnapshotRef | undefined): SnapshotRef | undefined =>
    old && { ...old, clock: old.clock + shift, crc: ends.get(old.clock) ?? old.crc };
  return {
    ...meta,
    incarnation,
    landed: undefined,
    erased: undefined,
    base: meta.base + shift,
    oldest: meta.oldest + shift,
    snapshot: ref(meta.snapshot),
    previous: ref(meta.previous),
    // The first batch after the archive keeps the checksum that it names.
    archive: meta.archive.map((old) => ({ ...old, clock: old.clock + shift, end: old.end + shift })),
    commits: meta.commits.map(({ id, clock }) => ({ id, clock: clock + shift })),
  };
}

function rekey({ key, value }: Entry, run: Run): Entry {
  const [space, , seq = 0, part] = key;
  const { id, shift } = run;
  if (space === "tags") {
    const entries = unsealTags(key[1], value).map((tag) => ({ ...tag, clock: tag.clock + shift }));
    return { key: tagsKey(id), value: sealTags(id, entries, unseal(key, value).time) };
  }
  const clock = seq + shift;
  const newKey: Key = part === undefined ? [space, id, clock] : [space, id, clock, part];
  const { crc: _crc, ...envelope } = unseal(key, value);
  const { time, payload, compressed, batch } = envelope;
  if (batch !== undefined) {
    const chained = { ...batch, previousCrc: run.crc ?? batch.previousCrc };
    const sealed = seal(newKey, { ...envelope, batch: chained });
    run.crc = batch.lost ? new Reader(payload).uint32() : sealed.crc;
    const end = seq + envelope.count;
    if (run.ends.has(end)) run.ends.set(end, run.crc);
    return { key: newKey, value: sealed.bytes };
  }
  const record = key[3] !== undefined && partOf(key) === 0 && shift > 0;
  const moved = record ? shifted(key, payload, shift) : payload;
  return { key: newKey, value: sealRecord(newKey, time, moved, compressed) };
}

function shifted(key: Key, payload: Uint8Array, shift: number): Uint8Array {
  if (key[0] === "archive") {
    const segment = unpackSegmentRecord(key, payload);
    return packRecord({ ...segment, end: segment.end + shift });
  }
  const record = unpackSnapshotRecord(key, payload);
  const up = (clocks: readonly number[]) => clocks.map((clock) => clock + shift);
  return packSnapshotRecord({ ...record, held: up(record.held), lost: up(record.lost) });
}
