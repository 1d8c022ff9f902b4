/**
 * A document to bytes and back. The state is stored as of a critical version, and beside it only what is
 * still open: the events after that version, and an older base with the events from there on, for late
 * events.
 *
 * | snapshot | bytes                                                                                     |
 * | -------- | ----------------------------------------------------------------------------------------- |
 * | format   | 1                                                                                         |
 * | base     | sized base: the critical version                                                          |
 * | open     | chunks: the events after it                                                               |
 * | past     | 0; or 1, sized older base, chunks: the events from there to the base                      |
 * | CRC-32   | of all before (4)                                                                         |
 * | chunks   | varint count; for each: sized batch (`codec.ts`)                                          |
 * | base     | varint events, schema version; head: 0, or 1, id, varint lamport; sized known; the state  |
 * | known    | varint count; for each replica, ascending: 8 bytes, varint next sequence                  |
 * | id       | 8 bytes replica, varint sequence                                                          |
 *
 * The older base is read when a late event needs it, not before: a load costs what the state costs.
 * `version` is the frontier (count, ids in order), `peerVersion` is `known`.
 */

import { compareBytes, Reader, Writer } from "../base/bytes.js";
import { crc32 } from "../base/checksum.js";
import { decodeEvents, encodeEvents } from "./codec.js";
import { COUNT_END, type GraphEvent, REPLICA_BYTES, replicaBytes, replicaOf } from "./event.js";
import { type Base, type Head, History, type Past, type Reducer } from "./history.js";

const FORMAT = 1;
const CHUNK_EVENTS = 65_536;
const CHUNKS_MAX = 32;

export interface StateCodec<State> {
  encode(state: State): Uint8Array;
  /** `version`: the schema version that was stored with it. Throws for bytes that are no state. */
  decode(bytes: Uint8Array, version: number): State;
}

/** Bases are encoded once: the older one stays the same over many snapshots. */
const encodedBases = new WeakMap<object, Uint8Array>();

export function encodeSnapshot<State, Payload>(
  history: History<State, Payload>,
  states: StateCodec<State>,
): Uint8Array {
  history.advance();
  if ((history.past?.chunks.length ?? 0) > CHUNKS_MAX) history.unfold();
  const size = history.leanSize;
  const kept = size - history.base.size;
  const events = history.order.map(({ event }) => event);
  const base = encodeBase(history.baseAt(size), states, history.reducer.version);
  const writer = new Writer(base.length + 1024).byte(FORMAT).sized(base);
  writeChunks(writer, chunksOf(events.slice(kept)));
  const { past } = history;
  const since = chunksOf(events.slice(0, kept));
  if (past === undefined && kept === 0) writer.byte(0);
  else {
    writer.byte(1).sized(past?.base ?? encodeBase(history.base, states, history.reducer.version));
    writeChunks(writer, [...(past?.chunks ?? []), ...since]);
  }
  return writer.uint32(crc32(writer.finish())).finish();
}

/** A snapshot in its parts. */
export interface Opened<State> {
  readonly base: Base<State>;
  readonly open: readonly GraphEvent[];
  readonly past: Past<State> | undefined;
}

/** Throws a `TypeError` or `RangeError` for bytes that are no snapshot. The older base is not looked at. */
export function openSnapshot<State>(
  bytes: Uint8Array,
  states: StateCodec<State>,
  version: number,
): Opened<State> {
  if (bytes.length < 5) throw new RangeError("not a snapshot of an event graph: too short");
  const body = bytes.subarray(0, -4);
  if (new Reader(bytes, body.length).uint32() !== crc32(body)) {
    throw new TypeError("not a snapshot of an event graph, or a damaged one");
  }
  const reader = new Reader(body);
  if (reader.byte() !== FORMAT) throw new TypeError("a snapshot of a newer format");
  const base = decodeBase(reader.sized(), states, version);
  const open = readChunks(reader).flatMap((chunk) => decodeEvents(chunk));
  const hasPast = reader.byte();
  const past =
    hasPast === 1 ? pastOf(reader.sized().slice(), readChunks(reader), states, version) : undefined;
  if (hasPast > 1 || reader.left > 0) throw new TypeError("bytes follow the snapshot");
  return { base, open, past };
}

export function restoreHistory<State, Payload>(
  bytes: Uint8Array,
  states: StateCodec<State>,
  reducer: Reducer<State, Payload>,
  window: number,
): History<State, Payload> {
  const { base, open, past } = openSnapshot(bytes, states, reducer.version);
  const history = new History<State, Payload>(reducer, window, base);
  history.restore(open, past);
  return history;
}

/** The frontier, in one order. */
export function encodeVersion(heads: readonly Head[]): Uint8Array {
  const ids = heads.map((head) => writeId(new Writer(16), head).finish().slice()).sort(compareBytes);
  const writer = new Writer(8 + ids.length * 12).varint(ids.length);
  for (const id of ids) writer.raw(id);
  return writer.finish();
}

export function encodeKnown(known: ReadonlyMap<string, number>): Uint8Array {
  const writer = new Writer(8 + known.size * 12).varint(known.size);
  for (const replica of [...known.keys()].sort())
    writer.raw(replicaBytes(replica)).varint(known.get(replica)!);
  return writer.finish();
}

/** Throws a `TypeError` or `RangeError` for bytes that are no peer version. */
export function decodeKnown(bytes: Uint8Array): Map<string, number> {
  const reader = new Reader(bytes);
  const count = reader.varint();
  if (count > reader.left) throw new RangeError("more replicas than bytes");
  const known = new Map<string, number>();
  let last = "";
  for (let i = 0; i < count; i++) {
    const replica = readReplica(reader);
    if (replica <= last) throw new TypeError("replicas are out of order");
    const next = readCount(reader);
    if (next === 0) throw new TypeError("a replica without events");
    known.set(replica, next);
    last = replica;
  }
  if (reader.left > 0) throw new TypeError("bytes follow the version");
  return known;
}

function pastOf<State>(
  base: Uint8Array,
  chunks: readonly Uint8Array[],
  states: StateCodec<State>,
  version: number,
): Past<State> {
  const kept = chunks.map((chunk) => chunk.slice());
  return {
    base,
    chunks: kept,
    read: () => ({
      base: decodeBase(base, states, version),
      events: kept.flatMap((chunk) => decodeEvents(chunk)),
    }),
  };
}

function encodeBase<State>(base: Base<State>, states: StateCodec<State>, version: number): Uint8Array {
  const known = encodedBases.get(base);
  if (known !== undefined) return known;
  const state = states.encode(base.state);
  const writer = new Writer(state.length + base.known.size * 12 + 64).varint(base.size).varint(version);
  if (base.head === undefined) writer.byte(0);
  else writeId(writer.byte(1), base.head).varint(base.head.lamport);
  const bytes = writer.sized(encodeKnown(base.known)).raw(state).finish();
  encodedBases.set(base, bytes);
  return bytes;
}

function decodeBase<State>(bytes: Uint8Array, states: StateCodec<State>, versionMax: number): Base<State> {
  const reader = new Reader(bytes);
  const size = readCount(reader);
  const version = readCount(reader);
  if (version < 1 || version > versionMax) throw new TypeError(`a state of schema version ${version}`);
  const headed = reader.byte();
  if (headed !== (size === 0 ? 0 : 1)) throw new TypeError("a version with events has a head, and no other");
  const head =
    headed === 0
      ? undefined
      : { replica: readReplica(reader), sequence: readCount(reader), lamport: readCount(reader) };
  const known = decodeKnown(reader.sized());
  let events = 0;
  for (const next of known.values()) events += next;
  if (events !== size) throw new TypeError("a version with another number of events than its replicas made");
  if (head !== undefined && (known.get(head.replica) ?? 0) <= head.sequence)
    throw new TypeError("an unknown head");
  return { size, head, known, state: states.decode(reader.raw(reader.left), version) };
}

function chunksOf(events: readonly GraphEvent[]): Uint8Array[] {
  const chunks: Uint8Array[] = [];
  for (let from = 0; from < events.length; from += CHUNK_EVENTS) {
    chunks.push(encodeEvents(events.slice(from, from + CHUNK_EVENTS)));
  }
  return chunks;
}

function writeChunks(writer: Writer, chunks: readonly Uint8Array[]): void {
  writer.varint(chunks.length);
  for (const chunk of chunks) writer.sized(chunk);
}

function readChunks(reader: Reader): Uint8Array[] {
  const count = reader.varint();
  if (count > reader.left) throw new RangeError("more chunks than bytes");
  const chunks: Uint8Array[] = [];
  for (let i = 0; i < count; i++) chunks.push(reader.sized());
  return chunks;
}

function writeId(writer: Writer, { replica, sequence }: { replica: string; sequence: number }): Writer {
  return writer.raw(replicaBytes(replica)).varint(sequence);
}

function readReplica(reader: Reader): string {
  const bytes = reader.raw(REPLICA_BYTES);
  if (bytes[0]! > 0x0f) throw new TypeError("not a replica");
  return replicaOf(bytes);
}

function readCount(reader: Reader): number {
  const value = reader.varint();
  if (value >= COUNT_END) throw new RangeError("a count is out of range");
  return value;
}
