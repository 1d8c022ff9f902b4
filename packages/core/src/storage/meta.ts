/**
 * The meta record of a document, the keys of all its records, and how both become bytes.
 *
 * | key                                        | value                                           |
 * | ------------------------------------------ | ----------------------------------------------- |
 * | `[meta, id]`                               | this record                                     |
 * | `[events, id, clock]`                      | a batch; `clock` is the clock before it         |
 * | `[snapshot, id, clock, stage · 2¹⁶ + part]`  | part 0: `SnapshotRecord`; parts 1 …: its bytes  |
 * | `[held, id, clock]`                        | one event that a snapshot does not cover        |
 * | `[archive, id, clock, stage · 2¹⁶ + part]`   | a part of the log that was trimmed              |
 * | `[quarantine, id, n]`                      | damaged bytes that a repair set aside           |
 *
 * Meta is rewritten at create, snapshot, trim and delete, never by an append; every one of those commits
 * expects the meta it read. It is one msgpack map of plain values; size is capped before decoding, shape
 * checked after.
 *
 * Invariants: `base ≤ oldest ≤ previous.clock ≤ snapshot.clock ≤ head`. Event and held keys below `oldest`
 * (held: below `base`) are garbage. Snapshot and archive keys that meta does not name are garbage or not yet
 * flipped.
 */

import { Packr, Unpackr } from "msgpackr";
import { toHex } from "../base/bytes.js";
import type { Env } from "../base/env.js";
import type { Key } from "../contract/backend.js";
import { damaged, sealRecord, unseal } from "./envelope.js";
import { stageKey } from "./stages.js";

const RECORD_BYTES_MAX = 64 * 1024 * 1024;

export interface SnapshotRef {
  /** Events that the snapshot covers. */
  readonly clock: number;
  /** Chosen at random: tells apart two snapshots staged at one clock. */
  readonly stage: number;
  /** Stored parts, without the record itself. */
  readonly parts: number;
  /** Bytes of the snapshot as the model made it, and as stored with its record. */
  readonly bytes: number;
  readonly storedBytes: number;
  readonly time: number;
  /** Log bytes of the events it covers. */
  readonly logBytes: number;
  /** CRC of the last batch it covers: the batch that follows must name it. */
  readonly crc: number;
}

/** A part of the log that compaction has moved into the archive: see `archive.ts`. */
export interface ArchiveRef {
  /** Clock before its first event, and after its last. */
  readonly clock: number;
  readonly end: number;
  readonly stage: number;
  /** Stored parts, without the record; 0: a repair has set its bytes aside, its events are lost. */
  readonly parts: number;
  /** Bytes before compression, and as stored with the record. */
  readonly bytes: number;
  readonly storedBytes: number;
  /** Of the first and the last batch. */
  readonly firstTime: number;
  readonly lastTime: number;
  /** Log bytes up to its end, and the CRC of its last batch: the batch that follows must name it. */
  readonly logBytes: number;
  readonly crc: number;
}

export interface Meta {
  readonly model: string;
  readonly created: number;
  /** 16 hexadecimal digits, new whenever the id is created or recreated. */
  readonly incarnation: string;
  /** The clock at which this incarnation began: 0, or where the deleted one ended. */
  readonly base: number;
  /** Clock of the oldest retained batch. */
  readonly oldest: number;
  readonly snapshot: SnapshotRef | undefined;
  readonly previous: SnapshotRef | undefined;
  /** Oldest first, without a gap; the last one ends at `oldest`. */
  readonly archive: readonly ArchiveRef[];
  /** Commit ids of trimmed batches, oldest first, and the time up to which older ones are forgotten. */
  readonly commits: readonly { readonly id: Uint8Array; readonly clock: number }[];
  readonly commitFloor: number;
  /** 8 hexadecimal digits, new with each commit of a repair: tokens from before name no state any more. */
  readonly repaired?: string;
  /** 8 hexadecimal digits, new whenever a copy puts this document in the place of one that was here. */
  readonly landed?: string | undefined;
  /** The clock at which the id was erased before, if it was: a copy's target may have what came before. */
  readonly erased?: number | undefined;
  /** Present in a tombstone: the clock and time at which the document was deleted. */
  readonly deleted: { readonly clock: number; readonly time: number } | undefined;
  /**
   * Only in a tombstone: a fork, an import or a copy is bringing in a document, and what lies under the id is
   * staged. `fresh`: there was no meta before. The nonce tells two who do so from each other.
   */
  readonly incoming?: { readonly nonce: string; readonly fresh: boolean } | undefined;
}

export interface SnapshotRecord {
  readonly model: string;
  readonly stateFormat: number;
  readonly version: Uint8Array;
  readonly peerVersion: Uint8Array;
  /** Clocks (before the event) of events below the snapshot's clock that it does not cover. Ascending. */
  readonly held: readonly number[];
  /** Clocks of events whose damaged bytes a repair set aside. Ascending. */
  readonly lost: readonly number[];
  readonly bytes: number;
  readonly parts: number;
  readonly compressed: boolean;
  /** Of a tag: its name. */
  readonly tag?: string;
}

export const metaKey = (id: string): Key => ["meta", id];
export const eventsKey = (id: string, clock: number): Key => ["events", id, clock];
export const heldKey = (id: string, clock: number): Key => ["held", id, clock];
export const snapshotKey = (id: string, at: { clock: number; stage: number }, part: number): Key =>
  stageKey("snapshot", id, at, part);

const packr = new Packr({ useRecords: false, variableMapSize: true });
const unpackr = new Unpackr({ useRecords: false, int64AsType: "number" });

/** Plain values only: numbers, strings, booleans, Uint8Array, arrays, maps with string keys. */
export function packRecord(value: unknown): Uint8Array {
  return new Uint8Array(packr.pack(value));
}

/** Throws a `TypeError` for bytes that are not one msgpack value. */
export function unpackRecord(bytes: Uint8Array): unknown {
  if (bytes.length > RECORD_BYTES_MAX) throw new TypeError("record too large");
  try {
    return unpackr.unpack(bytes);
  } catch (error) {
    throw new TypeError("these bytes are no record", { cause: error });
  }
}

/** Of a document that begins at clock 0, and has nothing yet. */
export function emptyMeta(env: Env, model: string, created: number): Meta {
  return {
    model,
    created,
    incarnation: toHex(env.random(8)),
    base: 0,
    oldest: 0,
    snapshot: undefined,
    previous: undefined,
    archive: [],
    commits: [],
    commitFloor: 0,
    erased: undefined,
    deleted: undefined,
  };
}

/** Throws a `TypeError`, before anything is written, for clocks that `unsealMeta` would refuse. */
export function sealMeta(id: string, meta: Meta, time: number): Uint8Array {
  assertOrdered(meta);
  const { snapshot, previous, archive, commits, deleted, incoming, landed, erased, ...plain } = meta;
  const record: Record<string, unknown> = { ...plain };
  if (landed !== undefined) record.landed = landed;
  if (erased !== undefined) record.erased = erased;
  if (snapshot !== undefined) record.snapshot = snapshot;
  if (previous !== undefined) record.previous = previous;
  if (deleted !== undefined) record.deleted = deleted;
  if (archive.length > 0) record.archive = archive.map((ref) => ARCHIVE_FIELDS.map((name) => ref[name]));
  if (incoming !== undefined) record.incoming = incoming;
  if (commits.length > 0) record.commits = commits.map(({ id: commitId, clock }) => [commitId, clock]);
  return sealRecord(metaKey(id), time, packRecord(record));
}

/**
 * What tells the document from every other one that this id had here, also from one of the same incarnation
 * whose place a copy has given to it: no token, handle or reading goes on from one to the other.
 */
export function identityOf({ incarnation, landed }: Meta): string {
  return landed === undefined ? incarnation : `${incarnation}-${landed}`;
}

/** The same record for where it has landed so; its time stays. */
export function sealLanded(
  id: string,
  meta: Meta,
  metaBytes: Uint8Array,
  landed: string | undefined,
): Uint8Array {
  if (meta.landed === landed) return metaBytes;
  return sealMeta(id, { ...meta, landed }, unseal(metaKey(id), metaBytes).time);
}

/** Throws `CORRUPT` or `FORMAT_UNSUPPORTED`. */
export function unsealMeta(id: string, value: Uint8Array): Meta {
  const key = metaKey(id);
  const { payload } = unseal(key, value);
  try {
    return readMeta(new Fields(unpackRecord(payload)));
  } catch (error) {
    throw damaged(key, "the meta record is malformed", error);
  }
}

/**
 * Meta of which only the name of the model is no text, with this one in its place. `undefined`: it lacks
 * more, or nothing. Storages that took models without a name have written such.
 */
export function unsealNameless(id: string, value: Uint8Array, model: string): Meta | undefined {
  try {
    const record = unpackRecord(unseal(metaKey(id), value).payload);
    if (new Fields(record).hasText("model")) return undefined;
    return readMeta(new Fields({ ...(record as object), model }));
  } catch {
    // Damaged further than that, whatever it is.
    return undefined;
  }
}

export function packSnapshotRecord(record: SnapshotRecord): Uint8Array {
  return packRecord(record);
}

/** Throws `CORRUPT` for a payload that is no snapshot record. */
export function unpackSnapshotRecord(key: Key, payload: Uint8Array): SnapshotRecord {
  try {
    const fields = new Fields(unpackRecord(payload));
    return {
      model: fields.text("model"),
      stateFormat: fields.integer("stateFormat"),
      version: fields.bytes("version"),
      peerVersion: fields.bytes("peerVersion"),
      held: fields.list("held").map(integer),
      lost: fields.list("lost").map(integer),
      bytes: fields.integer("bytes"),
      parts: fields.integer("parts"),
      compressed: fields.flag("compressed"),
      ...(fields.has("tag") ? { tag: fields.text("tag") } : {}),
    };
  } catch (error) {
    throw damaged(key, "the snapshot record is malformed", error);
  }
}

function readMeta(fields: Fields): Meta {
  const deleted = fields.optional("deleted");
  const incoming = fields.optional("incoming");
  const meta: Meta = {
    model: fields.text("model"),
    created: fields.integer("created"),
    incarnation: fields.text("incarnation"),
    base: fields.integer("base"),
    oldest: fields.integer("oldest"),
    snapshot: readRef(fields.optional("snapshot")),
    previous: readRef(fields.optional("previous")),
    archive: fields.has("archive") ? fields.list("archive").map(readArchiveRef) : [],
    commits: fields.has("commits") ? fields.list("commits").map(readCommit) : [],
    commitFloor: fields.integer("commitFloor"),
    ...(fields.has("repaired") ? { repaired: fields.text("repaired") } : {}),
    ...(fields.has("landed") ? { landed: fields.text("landed") } : {}),
    ...(fields.has("erased") ? { erased: fields.integer("erased") } : {}),
    deleted: deleted && { clock: deleted.integer("clock"), time: deleted.integer("time") },
    ...(incoming && { incoming: { nonce: incoming.text("nonce"), fresh: incoming.flag("fresh") } }),
  };
  assertOrdered(meta);
  return meta;
}

function assertOrdered({ base, oldest, previous, snapshot, archive, deleted, incoming }: Meta): void {
  const end = snapshot?.clock ?? Number.MAX_SAFE_INTEGER;
  const ordered = base <= oldest && oldest <= (previous?.clock ?? end) && (previous?.clock ?? 0) <= end;
  const claimed = incoming === undefined || deleted !== undefined;
  if (!ordered || !claimed || (previous !== undefined && snapshot === undefined)) {
    throw new TypeError("the clocks are out of order");
  }
  archive.forEach(({ clock, end }, index) => {
    const follows = clock < end && end === (archive[index + 1]?.clock ?? oldest);
    if (!follows || clock < base) throw new TypeError("the archive is out of order");
  });
}

/** A reference is stored as the list of these. */
const ARCHIVE_FIELDS = [
  ...(["clock", "end", "stage", "parts", "bytes", "storedBytes"] as const),
  ...(["firstTime", "lastTime", "logBytes", "crc"] as const),
];

function readArchiveRef(value: unknown): ArchiveRef {
  if (!Array.isArray(value) || value.length !== ARCHIVE_FIELDS.length) throw new TypeError("not a segment");
  const fields = ARCHIVE_FIELDS.map((name, index) => [name, integer(value[index])] as const);
  return Object.fromEntries(fields) as unknown as ArchiveRef;
}

function readRef(fields: Fields | undefined): SnapshotRef | undefined {
  return (
    fields && {
      clock: fields.integer("clock"),
      stage: fields.integer("stage"),
      parts: fields.integer("parts"),
      bytes: fields.integer("bytes"),
      storedBytes: fields.integer("storedBytes"),
      time: fields.integer("time"),
      logBytes: fields.integer("logBytes"),
      crc: fields.integer("crc"),
    }
  );
}

function readCommit(value: unknown): { id: Uint8Array; clock: number } {
  if (!Array.isArray(value) || value.length !== 2) throw new TypeError("not a commit");
  return { id: bytes(value[0]), clock: integer(value[1]) };
}

export function integer(value: unknown): number {
  if (!Number.isSafeInteger(value) || (value as number) < 0) throw new TypeError("not a count");
  return value as number;
}

function bytes(value: unknown): Uint8Array {
  if (!(value instanceof Uint8Array)) throw new TypeError("not bytes");
  return new Uint8Array(value);
}

/** A decoded map whose fields are checked as they are read. */
export class Fields {
  readonly #map: Record<string, unknown>;

  constructor(value: unknown) {
    if (typeof value !== "object" || value === null || Object.getPrototypeOf(value) !== Object.prototype) {
      throw new TypeError("not a map");
    }
    this.#map = value as Record<string, unknown>;
  }

  has(name: string): boolean {
    return this.#map[name] !== undefined;
  }

  hasText(name: string): boolean {
    return typeof this.#map[name] === "string";
  }

  integer(name: string): number {
    return integer(this.#map[name]);
  }

  text(name: string): string {
    const value = this.#map[name];
    if (typeof value !== "string") throw new TypeError(`${name} is not text`);
    return value;
  }

  flag(name: string): boolean {
    const value = this.#map[name];
    if (typeof value !== "boolean") throw new TypeError(`${name} is not a flag`);
    return value;
  }

  bytes(name: string): Uint8Array {
    return bytes(this.#map[name]);
  }

  list(name: string): unknown[] {
    const value = this.#map[name];
    if (!Array.isArray(value)) throw new TypeError(`${name} is not a list`);
    return value;
  }

  optional(name: string): Fields | undefined {
    const value = this.#map[name];
    if (value === undefined) return undefined;
    return Array.isArray(value) ? new Fields({}) : new Fields(value);
  }
}
