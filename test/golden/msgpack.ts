/**
 * The part of msgpack that format 1 uses, decoded by hand: maps, arrays, strings, bytes, whole numbers, doubles,
 * booleans. It throws for everything else, so a record that used more of msgpack would be noticed.
 */

/** The one value that the bytes hold. */
export function unpack(bytes: Uint8Array): unknown {
  const reader = new Reader(bytes);
  const value = reader.value();
  if (!reader.atEnd) throw new TypeError("bytes follow the value");
  return value;
}

class Reader {
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get atEnd(): boolean {
    return this.#at === this.#view.byteLength;
  }

  value(): unknown {
    const type = this.#number(1);
    if (type < 0x80) return type;
    if (type < 0x90) return this.#map(type & 0x0f);
    if (type < 0xa0) return this.#list(type & 0x0f);
    if (type < 0xc0) return this.#text(type & 0x1f);
    if (type === 0xc2 || type === 0xc3) return type === 0xc3;
    if (type >= 0xc4 && type <= 0xc6) return this.#bytes(this.#number(1 << (type - 0xc4)));
    if (type === 0xcb) return this.#double();
    if (type >= 0xcc && type <= 0xce) return this.#number(1 << (type - 0xcc));
    if (type >= 0xd9 && type <= 0xdb) return this.#text(this.#number(1 << (type - 0xd9)));
    if (type >= 0xe0) return type - 0x100;
    if (type >= 0xd0 && type <= 0xd2) return this.#negative(1 << (type - 0xd0));
    if (type === 0xdc || type === 0xdd) return this.#list(this.#number(type === 0xdc ? 2 : 4));
    if (type === 0xde || type === 0xdf) return this.#map(this.#number(type === 0xde ? 2 : 4));
    throw new TypeError(`msgpack type 0x${type.toString(16)} is not part of the format`);
  }

  #map(size: number): Record<string, unknown> {
    const map: Record<string, unknown> = {};
    for (let i = 0; i < size; i++) {
      const name = this.value();
      if (typeof name !== "string") throw new TypeError("a name in a map is no string");
      map[name] = this.value();
    }
    return map;
  }

  #list(length: number): unknown[] {
    return Array.from({ length }, () => this.value());
  }

  #text(length: number): string {
    return new TextDecoder("utf-8", { fatal: true }).decode(this.#bytes(length));
  }

  #bytes(length: number): Uint8Array {
    const start = this.#view.byteOffset + this.#at;
    this.#at += length;
    if (this.#at > this.#view.byteLength) throw new TypeError("the value ends too early");
    return new Uint8Array(this.#view.buffer, start, length);
  }

  /** Big-endian, 1, 2 or 4 bytes. */
  #number(length: number): number {
    let value = 0;
    for (const byte of this.#bytes(length)) value = value * 256 + byte;
    return value;
  }

  /** Two's complement. */
  #negative(length: number): number {
    const value = this.#number(length);
    return value >= 2 ** (8 * length - 1) ? value - 2 ** (8 * length) : value;
  }

  #double(): number {
    this.#at += 8;
    return this.#view.getFloat64(this.#at - 8);
  }
}
