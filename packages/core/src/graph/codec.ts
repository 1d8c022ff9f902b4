/**
 * Events of one batch to bytes and back, in columns: what an event shares with the one before costs nothing.
 *
 * | column   | bytes                                                                                      |
 * | -------- | ------------------------------------------------------------------------------------------ |
 * | head     | format (1), lamport mode (1), varint event count, varint replica count, 8 bytes for each   |
 * | ids      | runs: varint replica, first sequence, count                                                |
 * | parents  | runs: varint `count · 4 + kind`; after a run of lists, for each: varint count, ids         |
 * | lamports | mode 0: varint, where a lamport does not follow; mode 1: for each event a difference       |
 * | times    | differences                                                                                |
 * | versions | runs: varint version, count                                                                |
 * | cancels  | varint count; for each: varints events since the last, replica · 2 + undone, from, to − from |
 * | payloads | values (see `values.ts`) of the events that cancel nothing                                 |
 * | CRC-32   | of all before (4): damage would otherwise make another sound event                         |
 *
 * Kinds of parents: 0 none, 1 the event before in this batch, 2 the replica's own event before, 3 a list. An
 * id in a list is a varint replica and the difference of its sequence to the replica's next one in this
 * batch. A difference is zigzag: even numbers are 2n, odd ones −1 − n. A lamport follows in kind 0 (1), in
 * kind 1, and in kind 2 when that event is in the batch.
 *
 * Invariants: `decode` takes only events that `soundEvent` takes; no count exceeds the bytes that are left.
 */

import { Reader, Writer } from "../base/bytes.js";
import { crc32 } from "../base/checksum.js";
import { GRAPH_LIMITS } from "../base/limits.js";
import {
  assertRelations,
  type Cancellation,
  COUNT_END,
  type EventId,
  type GraphEvent,
  REPLICA_BYTES,
  replicaBytes,
  replicaOf,
  SoundEvent,
  soundEvent,
} from "./event.js";
import { ValueReader, ValueWriter } from "./values.js";

const FORMAT = 1;
const { encodedEventsMax, parentIdsMax } = GRAPH_LIMITS;
const KIND = { none: 0, before: 1, own: 2, list: 3 } as const;

/** Throws a `TypeError` for what is no event, and a `RangeError` for more than `encodedEventsMax`. */
export function encodeEvents(given: readonly GraphEvent[]): Uint8Array {
  if (given.length > encodedEventsMax)
    throw new RangeError(`more than ${encodedEventsMax} events in a batch`);
  const events = given.map((event) => soundEvent(event));
  const replicas = new Replicas();
  for (const event of events) replicas.note(event);
  const follows = lamportsFollow(events);
  const writer = new Writer(64 + events.length * 16);
  writer
    .byte(FORMAT)
    .byte(follows ? 0 : 1)
    .varint(events.length);
  replicas.write(writer);
  writeIds(writer, events, replicas);
  writeParents(writer, events, replicas);
  writeLamports(writer, events, follows);
  let time = 0;
  for (const event of events) {
    writer.varint(zigzag(event.time - time));
    time = event.time;
  }
  writeVersions(writer, events);
  writeCancels(writer, events, replicas);
  const values = new ValueWriter(writer);
  for (const event of events) if (event.cancels === undefined) values.write(event.payload);
  return writer.uint32(crc32(writer.finish())).finish();
}

/** Throws a `TypeError` or `RangeError` for bytes that are no batch of sound events. */
export function decodeEvents(bytes: Uint8Array): SoundEvent[] {
  if (bytes.length < 4) throw new RangeError("not a batch of graph events: too short");
  const body = bytes.subarray(0, -4);
  if (new Reader(bytes, body.length).uint32() !== crc32(body)) {
    throw new TypeError("not a batch of graph events, or a damaged one");
  }
  const reader = new Reader(body);
  if (reader.byte() !== FORMAT) throw new TypeError("not a batch of graph events, or of a newer format");
  const mode = reader.byte();
  if (mode > 1) throw new TypeError("unknown lamport mode");
  const count = reader.varint();
  if (count > reader.left || count > encodedEventsMax) throw new RangeError("more events than bytes");
  const replicas = readReplicas(reader);
  const { owners, sequences } = readIds(reader, replicas, count);
  const parents = readParents(reader, replicas, owners, sequences);
  const lamports = readLamports(reader, mode, owners, sequences, parents.kinds);
  const times = new Array<number>(count);
  for (let i = 0, time = 0; i < count; i++) times[i] = time = moved(reader, time);
  const versions = readVersions(reader, count);
  const cancels = readCancels(reader, replicas, count);
  const values = new ValueReader(reader);
  const events: SoundEvent[] = [];
  for (let i = 0; i < count; i++) {
    const cancel = cancels.get(i);
    const event = new SoundEvent<unknown>(
      replicas[owners[i]!]!,
      sequences[i]!,
      parents.lists[i]!,
      lamports[i]!,
      times[i]!,
      versions[i]!,
      cancel === undefined ? values.read() : undefined,
      cancel,
    );
    assertRelations(event);
    events.push(event);
  }
  if (reader.left > 0) throw new TypeError("bytes follow the batch");
  return events;
}

/** Numbers for replicas, in the order of their first mention. */
class Replicas {
  readonly #numbers = new Map<string, number>();
  readonly #next: number[] = [];

  note({ replica, parents, cancels }: GraphEvent): void {
    this.#note(replica);
    for (const parent of parents) this.#note(parent.replica);
    if (cancels !== undefined) this.#note(cancels.replica);
  }

  #note(replica: string): void {
    if (this.#numbers.has(replica)) return;
    this.#numbers.set(replica, this.#numbers.size);
    this.#next.push(0);
  }

  of(replica: string): number {
    return this.#numbers.get(replica)!;
  }

  /** The sequence after the last one that was passed. */
  next(number: number): number {
    return this.#next[number]!;
  }

  pass(number: number, sequence: number): void {
    this.#next[number] = sequence + 1;
  }

  write(writer: Writer): void {
    writer.varint(this.#numbers.size);
    for (const replica of this.#numbers.keys()) writer.raw(replicaBytes(replica));
  }
}

function readReplicas(reader: Reader): string[] {
  const count = reader.varint();
  if (count * REPLICA_BYTES > reader.left) throw new RangeError("more replicas than bytes");
  const replicas: string[] = [];
  for (let i = 0; i < count; i++) {
    const bytes = reader.raw(REPLICA_BYTES);
    if (bytes[0]! > 0x0f) throw new TypeError("not a replica");
    replicas.push(replicaOf(bytes));
  }
  return replicas;
}

function writeIds(writer: Writer, events: readonly GraphEvent[], replicas: Replicas): void {
  for (let i = 0; i < events.length; ) {
    const first = events[i]!;
    let end = i + 1;
    while (isNext(events[end], first, end - i)) end++;
    writer
      .varint(replicas.of(first.replica))
      .varint(first.sequence)
      .varint(end - i);
    i = end;
  }
}

function isNext(event: GraphEvent | undefined, first: GraphEvent, distance: number): boolean {
  return event?.replica === first.replica && event.sequence === first.sequence + distance;
}

function readIds(
  reader: Reader,
  replicas: readonly string[],
  count: number,
): { owners: number[]; sequences: number[] } {
  const owners: number[] = [];
  const sequences: number[] = [];
  while (owners.length < count) {
    const owner = known(reader.varint(), replicas);
    const first = reader.varint();
    const length = runLength(reader.varint(), count - owners.length);
    counted(first + length);
    for (let i = 0; i < length; i++) {
      owners.push(owner);
      sequences.push(first + i);
    }
  }
  return { owners, sequences };
}

function kindOf(event: GraphEvent, before: GraphEvent | undefined): number {
  const [parent] = event.parents;
  if (parent === undefined) return KIND.none;
  if (event.parents.length > 1) return KIND.list;
  if (before?.replica === parent.replica && before.sequence === parent.sequence) return KIND.before;
  const own = parent.replica === event.replica && parent.sequence === event.sequence - 1;
  return own ? KIND.own : KIND.list;
}

function writeParents(writer: Writer, events: readonly GraphEvent[], replicas: Replicas): void {
  for (let i = 0; i < events.length; ) {
    const kind = kindOf(events[i]!, events[i - 1]);
    let end = i + 1;
    while (end < events.length && kindOf(events[end]!, events[end - 1]) === kind) end++;
    writer.varint((end - i) * 4 + kind);
    for (; i < end; i++) {
      const { parents, replica, sequence } = events[i]!;
      if (kind === KIND.list) {
        writer.varint(parents.length);
        for (const parent of parents) {
          const number = replicas.of(parent.replica);
          writer.varint(number).varint(zigzag(parent.sequence - replicas.next(number)));
        }
      }
      replicas.pass(replicas.of(replica), sequence);
    }
  }
}

interface Parents {
  readonly kinds: readonly number[];
  readonly lists: readonly (readonly EventId[])[];
}

function readParents(
  reader: Reader,
  replicas: readonly string[],
  owners: readonly number[],
  sequences: readonly number[],
): Parents {
  const kinds: number[] = [];
  const lists: EventId[][] = [];
  const next = replicas.map(() => 0);
  while (kinds.length < owners.length) {
    const run = reader.varint();
    const kind = run % 4;
    const length = runLength(Math.floor(run / 4), owners.length - kinds.length);
    for (let i = 0; i < length; i++) {
      const at = kinds.length;
      const [owner, sequence] = [owners[at]!, sequences[at]!];
      if (kind === KIND.none) lists.push([]);
      else if (kind === KIND.before) {
        if (at === 0) throw new TypeError("no event comes before the first");
        lists.push([{ replica: replicas[owners[at - 1]!]!, sequence: sequences[at - 1]! }]);
      } else if (kind === KIND.own) {
        if (sequence === 0) throw new TypeError("a first event has no own one before");
        lists.push([{ replica: replicas[owner]!, sequence: sequence - 1 }]);
      } else lists.push(readList(reader, replicas, next));
      kinds.push(kind);
      next[owner] = sequence + 1;
    }
  }
  return { kinds, lists };
}

function readList(reader: Reader, replicas: readonly string[], next: readonly number[]): EventId[] {
  const count = reader.varint();
  if (count > parentIdsMax || count * 2 > reader.left) throw new RangeError("too many parents");
  const list: EventId[] = [];
  for (let i = 0; i < count; i++) {
    const number = known(reader.varint(), replicas);
    list.push({ replica: replicas[number]!, sequence: moved(reader, next[number]!) });
  }
  return list;
}

/** The lamports that follow from what comes before in the batch; `undefined` where none does. */
class Following {
  readonly #last: (number | undefined)[] = [];
  readonly #lamports: number[] = [];
  #before = 0;

  follow(kind: number, owner: number, sequence: number): number | undefined {
    if (kind === KIND.none) return 1;
    if (kind === KIND.before) return this.#before + 1;
    if (kind === KIND.own && this.#last[owner] === sequence - 1) return this.#lamports[owner]! + 1;
    return undefined;
  }

  pass(owner: number, sequence: number, lamport: number): void {
    this.#last[owner] = sequence;
    this.#lamports[owner] = lamport;
    this.#before = lamport;
  }
}

function lamportsFollow(events: readonly GraphEvent[]): boolean {
  return eachLamport(events, (event, follows) => follows === undefined || follows === event.lamport);
}

function eachLamport(
  events: readonly GraphEvent[],
  visit: (event: GraphEvent, follows: number | undefined) => boolean,
): boolean {
  const following = new Following();
  const owners = new Map<string, number>();
  for (let i = 0; i < events.length; i++) {
    const event = events[i]!;
    const owner = owners.get(event.replica) ?? owners.size;
    owners.set(event.replica, owner);
    const follows = following.follow(kindOf(event, events[i - 1]), owner, event.sequence);
    if (!visit(event, follows)) return false;
    following.pass(owner, event.sequence, event.lamport);
  }
  return true;
}

function writeLamports(writer: Writer, events: readonly GraphEvent[], follows: boolean): void {
  let last = 0;
  if (!follows) {
    for (const { lamport } of events) {
      writer.varint(zigzag(lamport - last));
      last = lamport;
    }
    return;
  }
  eachLamport(events, ({ lamport }, following) => {
    if (following === undefined) writer.varint(lamport);
    return true;
  });
}

function readLamports(
  reader: Reader,
  mode: number,
  owners: readonly number[],
  sequences: readonly number[],
  kinds: readonly number[],
): number[] {
  const lamports: number[] = [];
  const following = new Following();
  let last = 0;
  for (let i = 0; i < owners.length; i++) {
    const [owner, sequence] = [owners[i]!, sequences[i]!];
    if (mode === 1) last = moved(reader, last);
    else last = following.follow(kinds[i]!, owner, sequence) ?? counted(reader.varint());
    following.pass(owner, sequence, last);
    lamports.push(last);
  }
  return lamports;
}

function writeVersions(writer: Writer, events: readonly GraphEvent[]): void {
  for (let i = 0; i < events.length; ) {
    let end = i + 1;
    while (events[end]?.version === events[i]!.version) end++;
    writer.varint(events[i]!.version).varint(end - i);
    i = end;
  }
}

function readVersions(reader: Reader, count: number): number[] {
  const versions: number[] = [];
  while (versions.length < count) {
    const version = counted(reader.varint());
    const length = runLength(reader.varint(), count - versions.length);
    for (let i = 0; i < length; i++) versions.push(version);
  }
  return versions;
}

function writeCancels(writer: Writer, events: readonly GraphEvent[], replicas: Replicas): void {
  const indexes = events.flatMap(({ cancels }, index) => (cancels === undefined ? [] : [index]));
  writer.varint(indexes.length);
  let last = 0;
  for (const index of indexes) {
    const { replica, from, to, undone } = events[index]!.cancels!;
    writer
      .varint(index - last)
      .varint(replicas.of(replica) * 2 + (undone ? 1 : 0))
      .varint(from)
      .varint(to - from);
    last = index;
  }
}

function readCancels(
  reader: Reader,
  replicas: readonly string[],
  count: number,
): ReadonlyMap<number, Cancellation> {
  const cancels = new Map<number, Cancellation>();
  const cancelCount = reader.varint();
  if (cancelCount > count) throw new RangeError("more cancellations than events");
  let index = 0;
  for (let i = 0; i < cancelCount; i++) {
    index += reader.varint();
    const owner = reader.varint();
    const from = reader.varint();
    const to = counted(from + reader.varint());
    if (index >= count || cancels.has(index)) throw new TypeError("a cancellation belongs to no event");
    const replica = replicas[known(Math.floor(owner / 2), replicas)]!;
    cancels.set(index, { replica, from, to, undone: owner % 2 === 1 });
  }
  return cancels;
}

function zigzag(difference: number): number {
  return difference < 0 ? -2 * difference - 1 : 2 * difference;
}

/** The count that lies a difference away. */
function moved(reader: Reader, from: number): number {
  const value = reader.varint();
  return counted(from + (value % 2 === 0 ? value / 2 : -(value + 1) / 2));
}

function counted(value: number): number {
  if (!(value >= 0 && value < COUNT_END)) throw new RangeError("a count is out of range");
  return value;
}

function known(number: number, replicas: readonly string[]): number {
  if (number >= replicas.length) throw new TypeError("a replica is named that is not listed");
  return number;
}

function runLength(length: number, left: number): number {
  if (length < 1 || length > left) throw new RangeError("a run is too long or empty");
  return length;
}
