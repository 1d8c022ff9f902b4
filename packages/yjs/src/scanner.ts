/**
 * Reads Yjs v1 updates without building them: validates every byte, and reports runs of structs and
 * deletions.
 *
 * It is the door against poison: what passes here can be decoded by Yjs. It refuses what Yjs would read past,
 * half apply, or trip over later: empty structs and deletions, references to the same client's future, a
 * client twice, broken UTF-8 or JSON, values nested too deeply, clocks that Yjs cannot encode again, bytes
 * after the end. It does not know any document, so it cannot see that an event builds on missing ones.
 *
 * | part        | bytes                                                                              |
 * | ----------- | ---------------------------------------------------------------------------------- |
 * | update      | blocks: varint, each block; clients: varint, each client's deletions               |
 * | block       | structs: varint, client: varint, clock of the first: varint, structs               |
 * | struct      | info: byte (kind: 5 bits, has key, has right, has left), references, content       |
 * | references  | left id, right id as told by info; without both the parent: 1 + name or 0 + id, key |
 * | deletions   | client: varint, ranges: varint, each range: clock: varint, length: varint          |
 */

/** Receives what an update holds. Clocks are Yjs clocks of one client, half-open. */
export interface UpdateSink {
  /** Bytes [from, to) of the update hold `count` structs that cover [clock, end) without a gap. */
  run(client: number, clock: number, end: number, count: number, from: number, to: number): void;
  deletion(client: number, clock: number, end: number): void;
  /** A struct builds on that clock of that client: a neighbour or a parent. */
  reference?(client: number, clock: number): void;
  /** Where a run is to be reported in two: before the struct that holds this clock. 0: nowhere. */
  splitAt?(client: number): number;
}

/** A text struct in bytes [from, …): head (info and references), text. Ids are -1 where there is none. */
export interface TextStruct {
  readonly bytes: Uint8Array;
  readonly from: number;
  /** Where the head ends and the text's byte count begins. */
  readonly headTo: number;
  readonly textFrom: number;
  readonly textTo: number;
  readonly keyed: boolean;
  readonly leftClient: number;
  readonly leftClock: number;
  readonly rightClient: number;
  readonly rightClock: number;
}

/** Yjs packs twice a clock into 53 bits while an update is pending, so clocks must stay well below. */
const CLOCK_MAX = 2 ** 48;
/** Nesting of plain values in one struct; Yjs reads and writes them recursively. */
const DEPTH_MAX = 512;
/** Subdocuments in one update: each few bytes of them cost Yjs a whole document object. */
const SUBDOCUMENTS_MAX = 16_384;
const SKIP = 10;

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

class Scanner {
  #bytes: Uint8Array;
  #at: number;
  #subdocuments = 0;
  #sink: UpdateSink | undefined;

  constructor(bytes: Uint8Array, at = 0) {
    this.#bytes = bytes;
    this.#at = at;
  }

  get at(): number {
    return this.#at;
  }

  update(sink: UpdateSink | undefined): void {
    this.#sink = sink;
    const blockCount = this.varint();
    let previous = Number.POSITIVE_INFINITY;
    let seen: Set<number> | undefined;
    for (let i = 0; i < blockCount; i++) {
      const structCount = this.varint();
      const client = this.varint();
      // Yjs writes clients in descending order; only foreign encoders need the set.
      if (client >= previous && seen === undefined) seen = this.#clientsBefore(i);
      if (seen?.has(client)) this.#fail("a client occurs twice");
      seen?.add(client);
      previous = client;
      this.#block(client, structCount, sink);
    }
    this.#deletions(sink);
    if (this.#at !== this.#bytes.length) this.#fail("bytes follow the end");
  }

  /** Position, clock and length of the struct that holds `wanted`, in a run that was validated before. */
  find(client: number, clock: number, wanted: number): { at: number; clock: number; end: number } {
    for (;;) {
      const at = this.#at;
      const end = clock + this.#struct(client, clock);
      if (end > wanted) return { at, clock, end };
      clock = end;
    }
  }

  textStruct(): TextStruct | undefined {
    const bytes = this.#bytes;
    const from = this.#at;
    const info = this.#byte();
    if ((info & 0x1f) !== 4) return undefined;
    const [hasLeft, hasRight] = [(info & 0x80) !== 0, (info & 0x40) !== 0];
    const leftClient = hasLeft ? this.varint() : -1;
    const leftClock = hasLeft ? this.varint() : -1;
    const rightClient = hasRight ? this.varint() : -1;
    const rightClock = hasRight ? this.varint() : -1;
    if (!hasLeft && !hasRight) this.#parent(info);
    const headTo = this.#at;
    const byteCount = this.varint();
    const textFrom = this.#at;
    const [textTo, keyed] = [textFrom + byteCount, (info & 0x20) !== 0];
    return { bytes, from, headTo, textFrom, textTo, keyed, leftClient, leftClock, rightClient, rightClock };
  }

  varint(): number {
    const first = this.#byte();
    if (first < 0x80) return first;
    let value = first & 0x7f;
    let scale = 0x80;
    for (let i = 1; i < 8; i++) {
      const byte = this.#byte();
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        if (value > Number.MAX_SAFE_INTEGER) break;
        return value;
      }
      scale *= 0x80;
    }
    return this.#fail("a number is too large");
  }

  end(): void {
    if (this.#at !== this.#bytes.length) this.#fail("bytes follow the end");
  }

  #fail(what: string): never {
    const place = `at byte ${this.#at} of ${this.#bytes.length}`;
    throw new TypeError(`not a Yjs update of format 1: ${what} (${place})`);
  }

  #byte(): number {
    const value = this.#bytes[this.#at];
    if (value === undefined) this.#fail("it ends too early");
    this.#at++;
    return value;
  }

  #skip(count: number): void {
    if (count > this.#bytes.length - this.#at) this.#fail("it ends too early");
    this.#at += count;
  }

  #clock(value: number): number {
    if (value > CLOCK_MAX) this.#fail("a clock is too large");
    return value;
  }

  #length(): number {
    const value = this.varint();
    if (value === 0) this.#fail("a length is zero");
    return value;
  }

  /** Clients of the first `count` blocks, read again. */
  #clientsBefore(count: number): Set<number> {
    const clients = new Set<number>();
    const again = new Scanner(this.#bytes);
    again.varint();
    for (let i = 0; i < count; i++) {
      const structCount = again.varint();
      const client = again.varint();
      clients.add(client);
      again.#block(client, structCount, undefined);
    }
    return clients;
  }

  #block(client: number, structCount: number, sink: UpdateSink | undefined): void {
    let clock = this.#clock(this.varint());
    let [runClock, runCount, runAt] = [clock, 0, this.#at];
    let split = sink?.splitAt?.(client) ?? 0;
    for (let i = 0; i < structCount; i++) {
      if (this.#bytes[this.#at] !== SKIP) {
        const [at, begin] = [this.#at, clock];
        clock = this.#clock(clock + this.#struct(client, clock));
        if (clock > split && split > 0) {
          if (runCount > 0) sink?.run(client, runClock, begin, runCount, runAt, at);
          [runClock, runCount, runAt] = [begin, 0, at];
          split = 0;
        }
        runCount++;
        continue;
      }
      if (runCount > 0) sink?.run(client, runClock, clock, runCount, runAt, this.#at);
      this.#at++;
      clock = this.#clock(clock + this.varint());
      [runClock, runCount, runAt] = [clock, 0, this.#at];
    }
    if (runCount > 0) sink?.run(client, runClock, clock, runCount, runAt, this.#at);
  }

  #deletions(sink: UpdateSink | undefined): void {
    const clientCount = this.varint();
    for (let i = 0; i < clientCount; i++) {
      const client = this.varint();
      const rangeCount = this.varint();
      for (let j = 0; j < rangeCount; j++) {
        const clock = this.varint();
        const end = this.#clock(clock + this.#length());
        sink?.deletion(client, clock, end);
      }
    }
  }

  /** Returns how many clocks the struct takes. */
  #struct(client: number, clock: number): number {
    const info = this.#byte();
    const kind = info & 0x1f;
    if (kind === 0) return this.#length();
    if (info & 0x80) this.#reference(client, clock);
    if (info & 0x40) this.#reference(client, clock);
    if ((info & 0xc0) === 0) this.#parent(info, client, clock);
    return this.#content(kind);
  }

  #parent(info: number, client = -1, clock = 0): void {
    if (this.varint() === 1) this.#text();
    else this.#reference(client, clock);
    if (info & 0x20) this.#text();
  }

  #reference(client: number, clock: number): void {
    const otherClient = this.varint();
    const otherClock = this.#clock(this.varint());
    if (otherClient === client && otherClock >= clock) this.#fail("a struct builds on its own future");
    this.#sink?.reference?.(otherClient, otherClock);
  }

  #content(kind: number): number {
    switch (kind) {
      case 1:
        return this.#length();
      case 2: {
        const count = this.#length();
        for (let i = 0; i < count; i++) this.#json(true);
        return count;
      }
      case 3:
        this.#skip(this.varint());
        return 1;
      case 4: {
        const units = this.#text();
        if (units === 0) this.#fail("a text is empty");
        return units;
      }
      case 5:
        this.#json(false);
        return 1;
      case 6:
        this.#text();
        this.#json(false);
        return 1;
      case 7: {
        const type = this.varint();
        if (type > 6) this.#fail("a type is unknown");
        if (type === 3 || type === 5) this.#text();
        return 1;
      }
      case 8: {
        const count = this.#length();
        for (let i = 0; i < count; i++) this.#value(0);
        return count;
      }
      case 9:
        this.#text();
        this.#subdocumentOptions();
        return 1;
      default:
        return this.#fail("a struct is of an unknown kind");
    }
  }

  /** A sized UTF-8 text. Returns its length in UTF-16 units. */
  #text(): number {
    const byteCount = this.varint();
    const start = this.#at;
    this.#skip(byteCount);
    const bytes = this.#bytes;
    const end = this.#at;
    let units = byteCount;
    let i = asciiEnd(bytes, start, end);
    while (i < end) {
      const lead = bytes[i]!;
      const size = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
      if (!validSequence(bytes, i, size, end)) this.#fail("a text is not valid UTF-8");
      units -= size === 4 ? 2 : size - 1;
      i = asciiEnd(bytes, i + size, end);
    }
    return units;
  }

  #json(allowUndefined: boolean): void {
    const byteCount = this.varint();
    const start = this.#at;
    this.#skip(byteCount);
    const bytes = this.#bytes.subarray(start, this.#at);
    try {
      const text = decoder.decode(bytes);
      if (allowUndefined && text === "undefined") return;
      JSON.parse(text);
    } catch {
      this.#fail("a value is not valid JSON");
    }
    if (byteCount > DEPTH_MAX && jsonDepth(bytes) > DEPTH_MAX) this.#fail("a value is nested too deeply");
  }

  #value(depth: number): void {
    if (depth > DEPTH_MAX) this.#fail("a value is nested too deeply");
    const code = this.#byte();
    switch (code) {
      case 127:
      case 126:
      case 121:
      case 120:
        return;
      case 125:
        this.#signedVarint();
        return;
      case 124:
        this.#skip(4);
        return;
      case 123:
      case 122:
        this.#skip(8);
        return;
      case 119:
        this.#text();
        return;
      case 118: {
        const count = this.varint();
        for (let i = 0; i < count; i++) {
          this.#text();
          this.#value(depth + 1);
        }
        return;
      }
      case 117: {
        const count = this.varint();
        for (let i = 0; i < count; i++) this.#value(depth + 1);
        return;
      }
      case 116:
        this.#skip(this.varint());
        return;
      default:
        this.#fail("a value is of an unknown kind");
    }
  }

  /** A signed varint: at most 8 bytes, as for unsigned ones. */
  #signedVarint(): void {
    for (let i = 0; i < 8; i++) if (this.#byte() < 0x80) return;
    this.#fail("a number is too large");
  }

  /** Yjs spreads these options over a new Y.Doc, so a foreign `guid` or `gcFilter` would break it later. */
  #subdocumentOptions(): void {
    if (++this.#subdocuments > SUBDOCUMENTS_MAX) this.#fail("it has too many subdocuments");
    if (this.#byte() !== 118) this.#fail("the options of a subdocument are no object");
    const count = this.varint();
    for (let i = 0; i < count; i++) {
      const byteCount = this.varint();
      const start = this.#at;
      this.#skip(byteCount);
      const key = textOf(this.#bytes.subarray(start, this.#at));
      if (key === undefined) this.#fail("a text is not valid UTF-8");
      if (key === "guid" || key === "gcFilter") this.#fail("a subdocument has an option it cannot have");
      this.#value(1);
    }
  }
}

function textOf(bytes: Uint8Array): string | undefined {
  try {
    return decoder.decode(bytes);
  } catch {
    return undefined;
  }
}

/** Where the first byte that is not ASCII stands; most texts have none. */
function asciiEnd(bytes: Uint8Array, start: number, end: number): number {
  let i = start;
  for (const last = end - 7; i < last; i += 8) {
    const low = bytes[i]! | bytes[i + 1]! | bytes[i + 2]! | bytes[i + 3]!;
    if ((low | bytes[i + 4]! | bytes[i + 5]! | bytes[i + 6]! | bytes[i + 7]!) >= 0x80) break;
  }
  while (i < end && bytes[i]! < 0x80) i++;
  return i;
}

/** True when bytes [at, at + size) are one well-formed sequence of 2 to 4 bytes that ends before `limit`. */
function validSequence(bytes: Uint8Array, at: number, size: number, limit: number): boolean {
  if (at + size > limit) return false;
  const lead = bytes[at]!;
  const second = bytes[at + 1]!;
  for (let i = 1; i < size; i++) if ((bytes[at + i]! & 0xc0) !== 0x80) return false;
  if (size === 2) return lead >= 0xc2;
  if (size === 3) return lead === 0xe0 ? second >= 0xa0 : lead !== 0xed || second < 0xa0;
  return lead <= 0xf4 && (lead === 0xf0 ? second >= 0x90 : lead !== 0xf4 || second < 0x90);
}

function jsonDepth(bytes: Uint8Array): number {
  let [depth, deepest, quoted] = [0, 0, false];
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i];
    if (quoted) {
      if (byte === 0x5c) i++;
      else if (byte === 0x22) quoted = false;
    } else if (byte === 0x22) quoted = true;
    else if (byte === 0x5b || byte === 0x7b) deepest = Math.max(deepest, ++depth);
    else if (byte === 0x5d || byte === 0x7d) depth--;
  }
  return deepest;
}

/** Validates an update from its first byte to its last and reports its parts. Throws a `TypeError`. */
export function scanUpdate(update: Uint8Array, sink?: UpdateSink): void {
  new Scanner(update).update(sink);
}

/** Where in a run (see `UpdateSink.run`) the struct that holds clock `wanted` begins and ends. */
export function findStruct(
  update: Uint8Array,
  run: { client: number; clock: number; from: number },
  wanted: number,
): { at: number; to: number; clock: number; end: number } {
  const scanner = new Scanner(update, run.from);
  const found = scanner.find(run.client, run.clock, wanted);
  return { ...found, to: scanner.at };
}

/** The struct that begins at `from` in a validated update, when it is a text. */
export function readTextStruct(update: Uint8Array, from: number): TextStruct | undefined {
  return new Scanner(update, from).textStruct();
}

/** A state vector: the next clock of each client. Throws a `TypeError` for bytes that are none. */
export function scanStateVector(bytes: Uint8Array, at = 0): Map<number, number> {
  const scanner = new Scanner(bytes, at);
  const clocks = new Map<number, number>();
  const count = scanner.varint();
  for (let i = 0; i < count; i++) {
    const client = scanner.varint();
    if (clocks.has(client)) throw new TypeError("not a Yjs state vector: a client occurs twice");
    clocks.set(client, scanner.varint());
  }
  scanner.end();
  return clocks;
}
