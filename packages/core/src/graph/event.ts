/**
 * One event of a graph: who made it, after what, when, and what it says.
 *
 * A `SoundEvent` is one whose shape was checked: made here, or decoded. Nobody else can make one, so what is
 * an instance of it is not checked again.
 *
 * Invariants: a replica's sequences count from 0 without gaps; `lamport` is 1 for an event without parents,
 * and otherwise one more than the greatest of its parents; an event has a payload or cancels others, not
 * both. The order of events is by lamport, then replica, then sequence.
 */

import { GRAPH_LIMITS } from "../base/limits.js";
import { assertValue, valueSize } from "./values.js";

/** Names an event for ever. */
export interface EventId {
  /** 12 of `0`–`9`, `a`–`v`: 60 bits of chance, new for each document that is handed out. */
  readonly replica: string;
  /** Counts the replica's events from 0. */
  readonly sequence: number;
}

/** Events `[from, to)` of a replica that an undo takes out of the fold, and a redo puts back. */
export interface Cancellation {
  readonly replica: string;
  readonly from: number;
  readonly to: number;
  /** `false`: a redo. Of several, the last one in the order of events counts. */
  readonly undone: boolean;
}

export interface GraphEvent<Payload = unknown> extends EventId {
  /** The frontier of the document that it was made on. */
  readonly parents: readonly EventId[];
  readonly lamport: number;
  /** Wall time of its author, in ms since 1970. For people; nothing depends on it. */
  readonly time: number;
  /** Schema version of the payload. */
  readonly version: number;
  /** `undefined` in an undo or redo. */
  readonly payload: Payload;
  readonly cancels?: Cancellation | undefined;
}

/** Counts and times are below this, so that differences of two of them are safe integers. */
export const COUNT_END: number = 2 ** 48;

export class SoundEvent<Payload = unknown> implements GraphEvent<Payload> {
  readonly replica: string;
  readonly sequence: number;
  readonly parents: readonly EventId[];
  readonly lamport: number;
  readonly time: number;
  readonly version: number;
  readonly payload: Payload;
  readonly cancels: Cancellation | undefined;

  constructor(
    replica: string,
    sequence: number,
    parents: readonly EventId[],
    lamport: number,
    time: number,
    version: number,
    payload: Payload,
    cancels: Cancellation | undefined,
  ) {
    this.replica = replica;
    this.sequence = sequence;
    this.parents = parents;
    this.lamport = lamport;
    this.time = time;
    this.version = version;
    this.payload = payload;
    this.cancels = cancels;
  }
}

/** Throws a `TypeError` that says what is wrong with it. Knows no document. */
export function soundEvent<Payload>(value: unknown): SoundEvent<Payload> {
  if (value instanceof SoundEvent) return value as SoundEvent<Payload>;
  if (typeof value !== "object" || value === null) throw new TypeError("not an event");
  const { replica, sequence, parents, lamport, time, version, payload, cancels } =
    value as Partial<GraphEvent>;
  const id = soundId({ replica, sequence } as EventId);
  if (!Array.isArray(parents)) throw new TypeError("parents must be a list");
  const event = new SoundEvent(
    id.replica,
    id.sequence,
    parents.map(soundId),
    soundCount(lamport, "lamport"),
    soundCount(time, "time"),
    soundCount(version, "version"),
    payload as Payload,
    cancels === undefined ? undefined : soundCancellation(cancels),
  );
  assertRelations(event);
  if (event.cancels === undefined) assertValue(payload);
  else if (payload !== undefined) throw new TypeError("an event that cancels others has no payload");
  return event;
}

/** What holds between the fields of a sound event. Throws a `TypeError`. */
export function assertRelations({ replica, sequence, parents, lamport, version, cancels }: GraphEvent): void {
  if (parents.length > GRAPH_LIMITS.parentIdsMax) throw new TypeError("too many parents");
  if (version < 1) throw new TypeError("version must be at least 1");
  if (parents.length === 0 ? lamport !== 1 || sequence !== 0 : lamport < 2) {
    throw new TypeError("lamport does not fit the parents");
  }
  if (parents.length > 1 && new Set(parents.map(idKey)).size !== parents.length) {
    throw new TypeError("a parent is named twice");
  }
  for (const parent of parents) {
    if (parent.replica === replica && parent.sequence >= sequence)
      throw new TypeError("it is its own parent");
  }
  if (cancels !== undefined && cancels.from >= cancels.to) throw new TypeError("it cancels nothing");
}

/** Order of the fold: a later event never comes before its parents. */
export function compareEvents(a: GraphEvent, b: GraphEvent): number {
  if (a.lamport !== b.lamport) return a.lamport - b.lamport;
  if (a.replica !== b.replica) return a.replica < b.replica ? -1 : 1;
  return a.sequence - b.sequence;
}

/** One text for one id, for maps. */
export function idKey({ replica, sequence }: EventId): string {
  return `${replica}.${sequence}`;
}

/** An upper bound of its encoded bytes. */
export function eventSize(event: GraphEvent): number {
  return 48 + 20 * event.parents.length + (event.cancels === undefined ? valueSize(event.payload) : 32);
}

const DIGITS = "0123456789abcdefghijklmnopqrstuv";
const REPLICA = /^[0-9a-v]{12}$/;
const REPLICA_LENGTH = 12;
/** Bytes that a replica takes in encoded form. */
export const REPLICA_BYTES = 8;

/** Of 8 bytes; the upper 4 bits do not count. */
export function replicaOf(bytes: Uint8Array): string {
  let [high, low] = [0, 0];
  for (let i = 0; i < 4; i++) high = high * 256 + bytes[i]!;
  for (let i = 4; i < 8; i++) low = low * 256 + bytes[i]!;
  let text = "";
  let value = (high % 2 ** 28) * 4 + Math.floor(low / 2 ** 30);
  for (let i = 0; i < 6; i++, value = Math.floor(value / 32)) text = DIGITS[value % 32] + text;
  let rest = "";
  for (let i = 0, part = low % 2 ** 30; i < 6; i++, part = Math.floor(part / 32))
    rest = DIGITS[part % 32] + rest;
  return text + rest;
}

export function replicaBytes(replica: string): Uint8Array {
  let [upper, lower] = [0, 0];
  for (let i = 0; i < 6; i++) upper = upper * 32 + DIGITS.indexOf(replica[i]!);
  for (let i = 6; i < REPLICA_LENGTH; i++) lower = lower * 32 + DIGITS.indexOf(replica[i]!);
  const high = Math.floor(upper / 4);
  const low = (upper % 4) * 2 ** 30 + lower;
  const bytes = new Uint8Array(REPLICA_BYTES);
  for (let i = 3, value = high; i >= 0; i--, value = Math.floor(value / 256)) bytes[i] = value % 256;
  for (let i = 7, value = low; i >= 4; i--, value = Math.floor(value / 256)) bytes[i] = value % 256;
  return bytes;
}

export function soundId(value: EventId): EventId {
  const { replica, sequence } = Object(value) as Partial<EventId>;
  if (typeof replica !== "string" || !REPLICA.test(replica)) throw new TypeError("not a replica");
  return { replica, sequence: soundCount(sequence, "sequence") };
}

function soundCancellation(value: Cancellation): Cancellation {
  const { replica, from, to, undone } = Object(value) as Partial<Cancellation>;
  const { sequence } = soundId({ replica: replica as string, sequence: from as number });
  if (typeof undone !== "boolean") throw new TypeError("undone must be a boolean");
  return { replica: replica as string, from: sequence, to: soundCount(to, "to"), undone };
}

function soundCount(value: unknown, name: string): number {
  if (!Number.isSafeInteger(value) || (value as number) < 0 || (value as number) >= COUNT_END) {
    throw new TypeError(`${name} is not a count`);
  }
  return value as number;
}
