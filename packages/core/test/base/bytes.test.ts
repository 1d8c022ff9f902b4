import { compareBytes, concatBytes, equalBytes, fromHex, Reader, toHex, Writer } from "coppice";
import * as fc from "fast-check";
import { expect, test } from "vitest";
import { fromUtf8, hasLoneSurrogate, utf8, varintLength } from "../../src/base/bytes.js";

const isWellFormed = (text: string) => !/\p{Surrogate}/u.test(text);
const seed = 20_260_101;

/** The seed is fixed, and fast-check prints it with the counterexample. */
function check<T>(property: fc.IProperty<T>, numRuns = 200): void {
  void fc.assert(property, { seed, numRuns });
}

const bytes = () => fc.uint8Array({ maxLength: 40 });
const unsigned = () => fc.maxSafeNat();

test("[BE1] bytes compare like Buffer.compare", () => {
  check(
    fc.property(bytes(), bytes(), (a, b) => {
      expect(Math.sign(compareBytes(a, b))).toBe(Buffer.compare(a, b));
      expect(equalBytes(a, b)).toBe(Buffer.compare(a, b) === 0);
      expect(equalBytes(a, a.slice())).toBe(true);
      expect(compareBytes(a, concatBytes([a, Uint8Array.of(0)]))).toBeLessThan(0);
    }),
  );
  expect(equalBytes(undefined, undefined)).toBe(true);
  expect(equalBytes(undefined, new Uint8Array(0))).toBe(false);
});

test("[BE1] hexadecimal and concatenation go there and back", () => {
  check(
    fc.property(bytes(), bytes(), (a, b) => {
      expect(fromHex(toHex(a))).toEqual(a);
      expect(toHex(a)).toBe(Buffer.from(a).toString("hex"));
      expect(toHex(concatBytes([a, b]))).toBe(toHex(a) + toHex(b));
    }),
  );
  for (const text of ["0", "0g", "zz", "0x", " 1"]) expect(() => fromHex(text)).toThrow(TypeError);
});

test("[BE2] UTF-8 goes there and back for every well-formed string, a leading U+FEFF included", () => {
  check(
    fc.property(fc.string({ unit: "binary" }), (text) => {
      expect(hasLoneSurrogate(text)).toBe(!isWellFormed(text));
      if (isWellFormed(text)) expect(fromUtf8(utf8(text))).toBe(text);
    }),
  );
  for (const text of ["\uFEFF", "\uFEFFa", "\0", "😀"]) expect(fromUtf8(utf8(text))).toBe(text);
  expect(() => fromUtf8(Uint8Array.of(0xff))).toThrow(TypeError);
  for (const text of ["\uD800", "a\uDC00", "\uDC00\uD800", "😀\uD83D"])
    expect(hasLoneSurrogate(text)).toBe(true);
});

test("[BE3] a reader reads what a writer wrote", () => {
  check(
    fc.property(fc.array(fc.tuple(unsigned(), bytes())), fc.nat(0xffff_ffff), (items, word) => {
      const writer = new Writer(0).uint32(word);
      for (const [value, blob] of items)
        writer
          .varint(value)
          .sized(blob)
          .byte(value & 0xff)
          .raw(blob);
      const written = writer.finish();
      expect(written.length).toBe(writer.length);
      const reader = new Reader(written);
      expect(reader.uint32()).toBe(word);
      for (const [value, blob] of items) {
        const before = reader.at;
        expect(reader.varint()).toBe(value);
        expect(reader.at - before).toBe(varintLength(value));
        expect(reader.sized()).toEqual(blob);
        expect(reader.byte()).toBe(value & 0xff);
        expect(reader.raw(blob.length)).toEqual(blob);
      }
      expect(reader.left).toBe(0);
    }),
  );
});

test("[BE3] writers that share memory never write into each other's, also when they outgrow it", () => {
  const writes = fc.array(fc.tuple(fc.nat(5), bytes()), { maxLength: 60 });
  check(
    fc.property(fc.array(fc.nat(5000), { minLength: 6, maxLength: 6 }), writes, (expected, writes) => {
      const writers = expected.map((count) => new Writer(count, true));
      const twins: Uint8Array[] = expected.map(() => new Uint8Array(0));
      for (const [index, blob] of writes) {
        writers[index]!.raw(blob);
        twins[index] = concatBytes([twins[index]!, blob]);
        expect(writers[index]!.length).toBe(twins[index]!.length);
      }
      expect(writers.map((writer) => writer.finish())).toEqual(twins);
    }),
  );
});

test("[BE3] a varint takes 1 to 8 bytes, and only a safe integer is one", () => {
  const lengths = [0, 0x7f, 0x80, 0x3fff, 0x4000, 2 ** 49 - 1, 2 ** 49, Number.MAX_SAFE_INTEGER];
  expect(lengths.map((value) => new Writer().varint(value).length)).toEqual([1, 1, 2, 2, 3, 7, 8, 8]);
  for (const value of [-1, 0.5, Number.NaN, 2 ** 53])
    expect(() => new Writer().varint(value)).toThrow(RangeError);
});

test("[BE4] a reader never reads past the end, and refuses varints beyond the safe integers", () => {
  const whole = new Writer()
    .varint(300)
    .sized(Uint8Array.of(1, 2, 3))
    .uint32(7)
    .finish();
  for (let length = 0; length < whole.length; length++) {
    const reader = new Reader(whole.subarray(0, length));
    expect(() => {
      reader.varint();
      reader.sized();
      reader.uint32();
    }).toThrow(RangeError);
  }
  expect(() => new Reader(new Uint8Array(8).fill(0xff)).varint()).toThrow(RangeError);
  const over = Uint8Array.of(0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10);
  expect(() => new Reader(over).varint()).toThrow(RangeError);
  const longLength = new Writer().varint(Number.MAX_SAFE_INTEGER).byte(1).finish();
  expect(() => new Reader(longLength).sized()).toThrow(RangeError);
});
