/**
 * Plain values to bytes and back, for payloads and states: many values in one run of bytes, where a key, a
 * set of keys, and a short text are written once and then named by number.
 *
 * | tag       | value                                        | followed by                                 |
 * | --------- | -------------------------------------------- | ------------------------------------------- |
 * | `00`–`5f` | the integer 0 to 95                          |                                             |
 * | `60`–`62` | null, false, true                            |                                             |
 * | `63` `64` | an integer from 0; −1 − n                    | varint n                                    |
 * | `65`      | any other number                             | 8 bytes, IEEE 754, little-endian            |
 * | `66` `67` | a text; a text seen before                   | sized UTF-8; varint, its number             |
 * | `68`      | bytes                                        | sized                                       |
 * | `69`      | a list                                       | varint count, the values                    |
 * | `6a`      | a map with new keys                          | varint count, the keys as texts, the values |
 * | `6b`      | a map with keys seen before                  | varint, their number; the values            |
 * | `70`–`7f` | a list of 0 to 15                            | the values                                  |
 * | `80`–`bf` | a text seen before, numbers 0 to 63          |                                             |
 * | `c0`–`ff` | a map with keys seen before, numbers 0 to 63 | the values                                  |
 *
 * Texts of up to 64 bytes get a number when they first occur, sets of keys too. Own codec instead of msgpack,
 * because it must not be fooled: a count never exceeds the bytes that are left, and depth is limited.
 */

import { fromUtf8, hasLoneSurrogate, Reader, utf8, Writer } from "../base/bytes.js";
import { GRAPH_LIMITS } from "../base/limits.js";

const SMALL_END = 0x60;
const TAG = {
  null: 0x60,
  false: 0x61,
  true: 0x62,
  positive: 0x63,
  negative: 0x64,
  float: 0x65,
  text: 0x66,
  knownText: 0x67,
  bytes: 0x68,
  list: 0x69,
  map: 0x6a,
  knownMap: 0x6b,
} as const;
const SHORT_LIST = 0x70;
const SHORT_TEXT = 0x80;
const SHORT_MAP = 0xc0;
const SHORT_COUNT = 64;
const KNOWN_BYTES_MAX = 64;
const { valueDepthMax } = GRAPH_LIMITS;

/**
 * Throws a `TypeError` unless the value is null, a boolean, a number, a well-formed string, a `Uint8Array`,
 * or a list or plain object of such values. A field that is `undefined` counts as absent.
 */
export function assertValue(value: unknown, depth = 0): void {
  if (value === null) return;
  switch (typeof value) {
    case "boolean":
    case "number":
      return;
    case "string":
      if (hasLoneSurrogate(value)) throw new TypeError("a text holds half of a surrogate pair");
      return;
    case "object":
      if (value instanceof Uint8Array) return;
      if (depth >= valueDepthMax) throw new TypeError(`a value is nested deeper than ${valueDepthMax}`);
      if (Array.isArray(value)) for (const item of value) assertValue(item, depth + 1);
      else {
        assertPlain(value);
        for (const [key, field] of Object.entries(value)) {
          if (field === undefined) continue;
          if (key === "__proto__") throw new TypeError("a key must not be __proto__");
          assertValue(key);
          assertValue(field, depth + 1);
        }
      }
      return;
    default:
      throw new TypeError(`a value must be plain data, not ${typeof value}`);
  }
}

/** An upper bound of the bytes of a plain value. */
export function valueSize(value: unknown): number {
  if (typeof value === "string") return 6 + 3 * value.length;
  if (value instanceof Uint8Array) return 6 + value.length;
  if (typeof value !== "object" || value === null) return 9;
  let size = 6;
  if (Array.isArray(value)) for (const item of value) size += valueSize(item);
  else for (const [key, field] of Object.entries(value)) size += 6 + 3 * key.length + valueSize(field);
  return size;
}

function assertPlain(value: object): void {
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) {
    throw new TypeError("a value must be plain data, not an instance of a class");
  }
}

interface Shape {
  readonly keys: readonly string[];
}

/** Writes values one after the other; all share one table of texts and keys. */
export class ValueWriter {
  readonly #writer: Writer;
  readonly #texts = new Map<string, number>();
  readonly #shapes = new Map<string, number>();

  constructor(writer: Writer = new Writer()) {
    this.#writer = writer;
  }

  /** Throws a `TypeError` for what `assertValue` refuses, but for surrogates. */
  write(value: unknown, depth = 0): this {
    if (typeof value === "number") this.#number(value);
    else if (typeof value === "string") this.#text(value);
    else if (value === null) this.#writer.byte(TAG.null);
    else if (typeof value === "boolean") this.#writer.byte(value ? TAG.true : TAG.false);
    else if (typeof value !== "object")
      throw new TypeError(`a value must be plain data, not ${typeof value}`);
    else if (value instanceof Uint8Array) this.#writer.byte(TAG.bytes).sized(value);
    else {
      if (depth >= valueDepthMax) throw new TypeError(`a value is nested deeper than ${valueDepthMax}`);
      if (Array.isArray(value)) this.#list(value, depth + 1);
      else this.#map(value as Record<string, unknown>, depth + 1);
    }
    return this;
  }

  finish(): Uint8Array {
    return this.#writer.finish();
  }

  #number(value: number): void {
    const writer = this.#writer;
    if (!Number.isSafeInteger(value) || Object.is(value, -0)) {
      const bytes = new Uint8Array(8);
      new DataView(bytes.buffer).setFloat64(0, value, true);
      writer.byte(TAG.float).raw(bytes);
    } else if (value < 0) writer.byte(TAG.negative).varint(-1 - value);
    else if (value < SMALL_END) writer.byte(value);
    else writer.byte(TAG.positive).varint(value);
  }

  #text(value: string): void {
    const known = value.length <= KNOWN_BYTES_MAX ? this.#texts.get(value) : undefined;
    if (known === undefined) {
      const bytes = utf8(value);
      this.#writer.byte(TAG.text).sized(bytes);
      if (bytes.length <= KNOWN_BYTES_MAX) this.#texts.set(value, this.#texts.size);
    } else if (known < SHORT_COUNT) this.#writer.byte(SHORT_TEXT + known);
    else this.#writer.byte(TAG.knownText).varint(known);
  }

  #list(items: readonly unknown[], depth: number): void {
    if (items.length < 16) this.#writer.byte(SHORT_LIST + items.length);
    else this.#writer.byte(TAG.list).varint(items.length);
    for (const item of items) this.write(item, depth);
  }

  #map(map: Record<string, unknown>, depth: number): void {
    let keys = Object.keys(map);
    for (const key of keys) {
      if (map[key] !== undefined) continue;
      keys = keys.filter((each) => map[each] !== undefined);
      break;
    }
    const shape = `${keys.length}\0${keys.join("\0")}`;
    const known = this.#shapes.get(shape);
    if (known !== undefined) {
      if (known < SHORT_COUNT) this.#writer.byte(SHORT_MAP + known);
      else this.#writer.byte(TAG.knownMap).varint(known);
    } else {
      assertPlain(map);
      this.#writer.byte(TAG.map).varint(keys.length);
      for (const key of keys) {
        if (key === "__proto__") throw new TypeError("a key must not be __proto__");
        this.#text(key);
      }
      // A key that holds a NUL could make two sets of keys look like one: such a set is written each time.
      const unclear = keys.some((key) => key.includes("\0"));
      this.#shapes.set(unclear ? `\0${this.#shapes.size}` : shape, this.#shapes.size);
    }
    for (const key of keys) this.write(map[key], depth);
  }
}

/** Reads what `ValueWriter` wrote. Throws a `TypeError` or `RangeError` for anything else. */
export class ValueReader {
  readonly #reader: Reader;
  readonly #texts: string[] = [];
  readonly #shapes: Shape[] = [];

  constructor(reader: Reader) {
    this.#reader = reader;
  }

  read(depth = 0): unknown {
    const reader = this.#reader;
    const tag = reader.byte();
    if (tag < SMALL_END) return tag;
    if (tag >= SHORT_MAP) return this.#map(tag - SHORT_MAP, depth);
    if (tag >= SHORT_TEXT) return this.#known(tag - SHORT_TEXT);
    if (tag >= SHORT_LIST) return this.#list(tag - SHORT_LIST, depth);
    switch (tag) {
      case TAG.null:
        return null;
      case TAG.false:
        return false;
      case TAG.true:
        return true;
      case TAG.positive:
        return reader.varint();
      case TAG.negative:
        return -1 - reader.varint();
      case TAG.float: {
        const bytes = reader.raw(8);
        return new DataView(bytes.buffer, bytes.byteOffset, 8).getFloat64(0, true);
      }
      case TAG.text:
        return this.#text();
      case TAG.knownText:
        return this.#known(reader.varint());
      case TAG.bytes:
        return reader.sized().slice();
      case TAG.list:
        return this.#list(reader.varint(), depth);
      case TAG.map:
        return this.#newMap(depth);
      case TAG.knownMap:
        return this.#map(reader.varint(), depth);
      default:
        throw new TypeError(`no value begins with the byte ${tag}`);
    }
  }

  #text(): string {
    const bytes = this.#reader.sized();
    const text = shortAscii(bytes) ?? fromUtf8(bytes);
    if (bytes.length <= KNOWN_BYTES_MAX) this.#texts.push(text);
    return text;
  }

  #known(index: number): string {
    const text = this.#texts[index];
    if (text === undefined) throw new TypeError("a text is named that did not occur");
    return text;
  }

  #key(): string {
    const tag = this.#reader.byte();
    const key =
      tag === TAG.text
        ? this.#text()
        : this.#known(tag === TAG.knownText ? this.#reader.varint() : tag - SHORT_TEXT);
    if (key === "__proto__") throw new TypeError("a key must not be __proto__");
    return key;
  }

  #list(count: number, depth: number): unknown[] {
    if (count > this.#reader.left) throw new RangeError("a list is longer than its bytes");
    assertDepth(depth);
    const items: unknown[] = [];
    for (let i = 0; i < count; i++) items.push(this.read(depth + 1));
    return items;
  }

  #newMap(depth: number): unknown {
    const count = this.#reader.varint();
    if (count > this.#reader.left) throw new RangeError("a map is larger than its bytes");
    const keys: string[] = [];
    for (let i = 0; i < count; i++) keys.push(this.#key());
    if (new Set(keys).size !== count) throw new TypeError("a map names a key twice");
    this.#shapes.push({ keys });
    return this.#map(this.#shapes.length - 1, depth);
  }

  #map(index: number, depth: number): unknown {
    const shape = this.#shapes[index];
    if (shape === undefined) throw new TypeError("keys are named that did not occur");
    if (shape.keys.length > this.#reader.left) throw new RangeError("a map is larger than its bytes");
    assertDepth(depth);
    const map: Record<string, unknown> = {};
    for (const key of shape.keys) map[key] = this.read(depth + 1);
    return map;
  }
}

function assertDepth(depth: number): void {
  if (depth >= valueDepthMax) throw new RangeError(`a value is nested deeper than ${valueDepthMax}`);
}

/** Faster than the decoder for keys and words. */
function shortAscii(bytes: Uint8Array): string | undefined {
  if (bytes.length > 48) return undefined;
  for (let i = 0; i < bytes.length; i++) if (bytes[i]! >= 0x80) return undefined;
  return String.fromCharCode.apply(null, bytes as unknown as number[]);
}

/** One value alone. */
export function encodeValue(value: unknown): Uint8Array {
  return new ValueWriter().write(value).finish();
}

/** Throws for bytes that are not exactly one value. */
export function decodeValue(bytes: Uint8Array): unknown {
  const reader = new Reader(bytes);
  const value = new ValueReader(reader).read();
  if (reader.left > 0) throw new TypeError("bytes follow the value");
  return value;
}
