import * as zlib from "node:zlib";
import { crc32 } from "coppice";
import * as fc from "fast-check";
import { expect, test } from "vitest";
import { crc32Here } from "../../src/base/checksum.js";

const seed = 20_260_102;

/** The seed is fixed, and fast-check prints it with the counterexample. */
function check<T>(property: fc.IProperty<T>, numRuns = 200): void {
  void fc.assert(property, { seed, numRuns });
}

test("[BE5] the checksum is zlib's CRC-32, whole or in pieces, at every offset", () => {
  expect(crc32(new TextEncoder().encode("123456789"))).toBe(0xcbf43926);
  check(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(200), fc.nat(200), (bytes, cut, offset) => {
      expect(crc32(bytes)).toBe(zlib.crc32(bytes));
      expect(crc32(bytes.subarray(cut), crc32(bytes.subarray(0, cut)))).toBe(zlib.crc32(bytes));
      expect(crc32(bytes.subarray(offset))).toBe(zlib.crc32(bytes.subarray(offset)));
    }),
  );
  check(
    fc.property(fc.uint8Array({ minLength: 400, maxLength: 3000 }), fc.nat(400), (bytes, cut) => {
      const whole = zlib.crc32(bytes);
      expect(crc32Here(bytes, 0, 0, bytes.length)).toBe(whole);
      expect(crc32(bytes)).toBe(whole);
      expect(crc32(bytes.subarray(cut), crc32(bytes.subarray(0, cut)))).toBe(whole);
    }),
  );
});

test("[BE5] every flipped bit changes the checksum", () => {
  const bytes = Uint8Array.from({ length: 37 }, (_, i) => i * 7);
  const right = crc32(bytes);
  for (let bit = 0; bit < bytes.length * 8; bit++) {
    const flipped = bytes.slice();
    flipped[bit >> 3]! ^= 1 << (bit & 7);
    expect(crc32(flipped)).not.toBe(right);
  }
});
