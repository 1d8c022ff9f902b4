/**
 * SHA-256 (FIPS 180-4), in pieces.
 *
 * In JavaScript because core runs in browsers, whose own digest takes whole messages only. About 150 MB/s,
 * enough for an export; checksums of stored values are CRCs. The tests compare it with Node's.
 */

const BLOCK_BYTES = 64;
const [START, ROUND]: readonly [Uint32Array, Uint32Array] = constants();

/** The fractions of the square roots of the first 8 primes, and of the cube roots of the first 64. */
function constants(): [Uint32Array, Uint32Array] {
  const primes: number[] = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every((prime) => n % prime !== 0)) primes.push(n);
  const fraction = (root: number): number => Math.floor((root - Math.floor(root)) * 2 ** 32);
  return [
    Uint32Array.from(primes.slice(0, 8), (prime) => fraction(Math.sqrt(prime))),
    Uint32Array.from(primes, (prime) => fraction(Math.cbrt(prime))),
  ];
}

export class Sha256 {
  readonly #state: Uint32Array = START.slice();
  readonly #words: Uint32Array = new Uint32Array(64);
  readonly #rest: Uint8Array = new Uint8Array(BLOCK_BYTES);
  #length = 0;

  update(bytes: Uint8Array): this {
    let at = 0;
    const waiting = this.#length % BLOCK_BYTES;
    this.#length += bytes.length;
    if (waiting > 0) {
      at = Math.min(BLOCK_BYTES - waiting, bytes.length);
      this.#rest.set(bytes.subarray(0, at), waiting);
      if (waiting + at < BLOCK_BYTES) return this;
      this.#block(this.#rest, 0);
    }
    for (; at + BLOCK_BYTES <= bytes.length; at += BLOCK_BYTES) this.#block(bytes, at);
    this.#rest.set(bytes.subarray(at));
    return this;
  }

  /** The 32 bytes of the digest. Ends this object's use. */
  finish(): Uint8Array {
    const length = this.#length;
    const padding = new Uint8Array(BLOCK_BYTES + 8 - ((length + 8) % BLOCK_BYTES));
    padding[0] = 0x80;
    const tail = new DataView(padding.buffer, padding.length - 8);
    tail.setUint32(0, Math.floor(length / 2 ** 29));
    tail.setUint32(4, (length * 8) >>> 0);
    this.update(padding);
    const out = new Uint8Array(32);
    const view = new DataView(out.buffer);
    this.#state.forEach((word, index) => {
      view.setUint32(index * 4, word);
    });
    return out;
  }

  #block(bytes: Uint8Array, at: number): void {
    const words = this.#words;
    for (let i = 0; i < 16; i++, at += 4) {
      words[i] = (bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!;
    }
    for (let i = 16; i < 64; i++) {
      const early = words[i - 15]!;
      const late = words[i - 2]!;
      const s0 = rotate(early, 7) ^ rotate(early, 18) ^ (early >>> 3);
      const s1 = rotate(late, 17) ^ rotate(late, 19) ^ (late >>> 10);
      words[i] = words[i - 16]! + s0 + words[i - 7]! + s1;
    }
    const state = this.#state;
    let [a, b, c, d, e, f, g, h] = state as unknown as Eight;
    for (let i = 0; i < 64; i++) {
      const s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
      const first = (h + s1 + ((e & f) ^ (~e & g)) + ROUND[i]! + words[i]!) | 0;
      const s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
      const second = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((word, index) => {
      state[index] = state[index]! + word;
    });
  }
}

type Eight = [number, number, number, number, number, number, number, number];

function rotate(word: number, count: number): number {
  return (word >>> count) | (word << (32 - count));
}
