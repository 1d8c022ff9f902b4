/**
 * The variable-length numbers and length-prefixed bytes of LevelDB's files (seven bits a byte, lowest
 * first). Reading beyond the end, or a number that JavaScript cannot hold exactly, throws a `RangeError`.
 */

export class VarintReader {
  readonly #bytes: Uint8Array;
  at: number;
  readonly #end: number;

  constructor(bytes: Uint8Array, at = 0, end: number = bytes.length) {
    this.#bytes = bytes;
    this.at = at;
    this.#end = end;
  }

  get left(): number {
    return this.#end - this.at;
  }

  number(): number {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      if (this.at >= this.#end) throw new RangeError("the bytes end inside a number");
      const byte = this.#bytes[this.at++]!;
      value += (byte & 0x7f) * scale;
      if (!Number.isSafeInteger(value)) throw new RangeError("a number is too large");
      if (byte < 0x80) return value;
    }
  }

  /** A view. */
  bytes(length: number): Uint8Array {
    if (length > this.left) throw new RangeError("the bytes end inside a field");
    this.at += length;
    return this.#bytes.subarray(this.at - length, this.at);
  }

  sized(): Uint8Array {
    return this.bytes(this.number());
  }
}

/** Eight bytes, little-endian; throws a `RangeError` beyond the safe integers. */
export function uint64(bytes: Uint8Array, at: number): number {
  let value = 0;
  for (let i = 7; i >= 0; i--) value = value * 256 + bytes[at + i]!;
  if (!Number.isSafeInteger(value)) throw new RangeError("a number is too large");
  return value;
}
