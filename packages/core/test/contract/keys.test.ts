import {
  checkId,
  checkKey,
  checkRange,
  compareBytes,
  compareKeys,
  crc32,
  decodeKey,
  encodeKey,
  encodeRange,
  type Key,
  keyName,
  type Range,
} from "coppice";
import * as fc from "fast-check";
import { expect, test } from "vitest";
import { crc32OfKey, crc32OfSeq } from "../../src/contract/keys.js";

const isWellFormed = (text: string) => !/\p{Surrogate}/u.test(text);
const seed = 20_260_103;

/** The seed is fixed, and fast-check prints it with the counterexample. */
function check<T>(property: fc.IProperty<T>, numRuns = 1000): void {
  void fc.assert(property, { seed, numRuns });
}

// Ids from few characters, so that neighbours, prefixes and equal ids are frequent.
const characters = ["A", "B", "\0", "\u0001", "/", "é", "\uFEFF", "\uFF5E", "\uFFFF", "😀", "\u{10FFFF}"];
const id = () => fc.string({ unit: fc.constantFrom(...characters), minLength: 1, maxLength: 4 });
const anyId = () =>
  fc.oneof(
    id(),
    fc.string({ unit: "binary", minLength: 1 }).filter((text) => isWellFormed(text)),
  );
const space = () => fc.constantFrom("a", "aa", "b", "events", "eventsx");
const number = () => fc.oneof(fc.nat(3), fc.maxSafeNat(), fc.constant(Number.MAX_SAFE_INTEGER));
const key = (): fc.Arbitrary<Key> =>
  fc.oneof(
    fc.tuple(space(), anyId()),
    fc.tuple(space(), anyId(), number()),
    fc.tuple(space(), anyId(), number(), number()),
  );

const sign = (value: number) => Math.sign(value) + 0;

/** Obvious and slow: Buffer for the bytes of ids, BigInt for numbers. */
function naiveOrder(a: Key, b: Key): number {
  const byName =
    Buffer.compare(Buffer.from(a[0]), Buffer.from(b[0])) ||
    Buffer.compare(Buffer.from(a[1]), Buffer.from(b[1]));
  if (byName !== 0) return byName;
  for (const i of [2, 3] as const) {
    const [x, y] = [BigInt(a[i] ?? -1), BigInt(b[i] ?? -1)];
    if (x !== y) return x < y ? -1 : 1;
  }
  return 0;
}

test("[BK4] the checksum of a key is that of its encoded bytes, whatever was encoded before", () => {
  const any = fc.oneof(key(), fc.tuple(space(), fc.string({ minLength: 120, maxLength: 136 }), number()));
  check(fc.property(any, (a) => void expect(crc32OfKey(a)).toBe(crc32(encodeKey(a)))));
  const continued = ([space, id]: Key, seq: number) => {
    expect(crc32OfSeq(crc32OfKey([space, id]), seq)).toBe(crc32(encodeKey([space, id, seq])));
  };
  check(fc.property(any, number(), continued));
});

test("[BK4] encoded keys and compareKeys order like space, UTF-8 bytes of the id, seq, part", () => {
  check(
    fc.property(key(), key(), (a, b) => {
      const expected = naiveOrder(a, b);
      expect(sign(compareKeys(a, b))).toBe(expected);
      expect(sign(compareBytes(encodeKey(a), encodeKey(b)))).toBe(expected);
      expect(keyName(a) === keyName(b)).toBe(expected === 0);
    }),
  );
});

test("[BK4] a key goes to bytes and back", () => {
  check(
    fc.property(key(), (a) => {
      expect(decodeKey(encodeKey(a))).toEqual([...a]);
    }),
  );
});

test("[BK4] bytes that are no key are refused, and no two byte strings are one key", () => {
  check(
    fc.property(fc.uint8Array({ maxLength: 30 }), key(), fc.nat(40), fc.nat(255), (noise, a, at, byte) => {
      const changed = encodeKey(a);
      if (at < changed.length) changed[at] = byte;
      for (const bytes of [noise, changed, encodeKey(a).subarray(0, at)]) {
        let decoded: Key;
        try {
          decoded = decodeKey(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(TypeError);
          continue;
        }
        expect(encodeKey(decoded)).toEqual(new Uint8Array(bytes));
      }
    }),
  );
});

test("[BK5] an encoded range holds exactly the keys of the range", () => {
  const optional = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined });
  const range: fc.Arbitrary<Range> = fc.oneof(
    fc.record({ space: space(), id: id(), from: optional(number()), to: optional(number()) }),
    fc.record({ space: space(), idPrefix: optional(fc.oneof(fc.constant(""), id())), after: optional(id()) }),
  ) as fc.Arbitrary<Range>;
  const close = fc.oneof(
    fc.tuple(space(), id()),
    fc.tuple(space(), id(), number()),
    fc.tuple(space(), id(), number(), number()),
  ) as fc.Arbitrary<Key>;
  let insideCount = 0;
  const property = fc.property(range, close, fc.boolean(), (wanted, found, sameId) => {
    const tested =
      sameId && "id" in wanted ? ([wanted.space, wanted.id, ...found.slice(2)] as unknown as Key) : found;
    const { start, end } = encodeRange(wanted);
    const encoded = encodeKey(tested);
    const inside = compareBytes(start, encoded) <= 0 && compareBytes(encoded, end) < 0;
    expect(inside).toBe(naiveInside(wanted, tested));
    if (inside) insideCount++;
  });
  check(property, 5000);
  expect(insideCount).toBeGreaterThan(300);
});

function naiveInside(range: Range, [space, id, seq]: Key): boolean {
  if (space !== range.space) return false;
  if ("id" in range) {
    if (id !== range.id) return false;
    if (seq === undefined) return range.from === undefined;
    return seq >= (range.from ?? 0) && (range.to === undefined || seq < range.to);
  }
  if (!id.startsWith(range.idPrefix ?? "")) return false;
  return range.after === undefined || Buffer.compare(Buffer.from(id), Buffer.from(range.after)) > 0;
}

test("[BK17] ids are refused when empty, ill-formed or too long in UTF-8, and only then", () => {
  for (const bad of [
    "",
    "\uD800",
    "a\uDC00b",
    "\uDC00\uD800",
    "L".repeat(513),
    "é".repeat(257),
    7,
    undefined,
    null,
  ]) {
    expect(() => checkId(bad as string)).toThrow(expect.objectContaining({ code: "ID_INVALID" }));
  }
  for (const good of ["L".repeat(512), "é".repeat(256), "😀".repeat(128), "\0", "..", "/", " ", "\uFEFF"]) {
    expect(() => checkId(good)).not.toThrow();
  }
  expect(() => checkId("abcd", 3)).toThrow(expect.objectContaining({ code: "ID_INVALID" }));
});

test("[BK17] keys and ranges are refused when a part of them is invalid", () => {
  const badKeys: unknown[] = [
    ["", "a"],
    ["A", "a"],
    ["a1", "a"],
    ["abcdefghijklmnopq", "a"],
    ["a", "a", -1],
    ["a", "a", 1.5],
    ["a", "a", 2 ** 53],
    ["a", "a", 1, -1],
    ["a", "a", undefined, 0],
  ];
  for (const bad of badKeys) {
    expect(() => checkKey(bad as Key)).toThrow(expect.objectContaining({ code: "ARGUMENT_INVALID" }));
  }
  check(fc.property(key(), (good) => checkKey(good)));
  const badRanges: unknown[] = [
    { space: "A" },
    { space: "a", id: "a", from: -1 },
    { space: "a", id: "a", to: 0.5 },
    { space: "a", idPrefix: "\uD800" },
    { space: "a", after: 7 },
  ];
  for (const bad of badRanges) {
    expect(() => checkRange(bad as Range)).toThrow(expect.objectContaining({ code: "ARGUMENT_INVALID" }));
  }
  expect(() => checkRange({ space: "a", idPrefix: "", after: "" })).not.toThrow();
});

test("[BK17] an empty id is refused by the first check that a process makes, too", async () => {
  const again = "../../src/contract/keys.js?again";
  const { checkKey: first } = (await import(again)) as { checkKey: typeof checkKey };
  expect(() => first(["a", ""])).toThrow(expect.objectContaining({ code: "ID_INVALID" }));
});
