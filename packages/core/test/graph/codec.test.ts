import { GRAPH_LIMITS, type GraphEvent, graph, Reader, tree, Writer } from "coppice";
import { seededRandom, simulatedEnv } from "coppice/testing";
import fc from "fast-check";
import { Packr } from "msgpackr";
import { describe, expect, test } from "vitest";
import { crc32 } from "../../src/base/checksum.js";
import { decodeEvents, encodeEvents } from "../../src/graph/codec.js";
import { replicaBytes, replicaOf } from "../../src/graph/event.js";
import { decodeValue, encodeValue } from "../../src/graph/values.js";
import { ledger, randomEntry } from "./ledger.js";
import { chanceOf, runNetwork } from "./network.js";

const model = graph<unknown, unknown>({ initial: null, apply: (_, payload) => payload });

/** Events of several replicas at once, undos included. */
function history(seed: number, steps = 30): readonly GraphEvent<unknown>[] {
  const subject = ledger({ env: simulatedEnv(seed) });
  const { events } = runNetwork(
    subject,
    chanceOf(seed),
    (doc, chance) => {
      if (chance.chance(0.1)) doc.undo();
      else doc.emit(randomEntry(chance.below));
    },
    steps,
  );
  return events;
}

const plain: fc.Arbitrary<unknown> = fc.letrec((tie) => ({
  value: fc.oneof(
    { maxDepth: 4 },
    fc.constantFrom(
      null,
      true,
      false,
      0,
      -0,
      95,
      96,
      -1,
      2 ** 53 - 1,
      -(2 ** 53),
      1e300,
      Number.NaN,
      Infinity,
    ),
    fc.integer(),
    fc.double(),
    fc.string({ unit: "grapheme", maxLength: 80 }),
    fc.uint8Array({ maxLength: 20 }),
    fc.array(tie("value"), { maxLength: 20 }),
    fc.dictionary(
      fc.string({ unit: "grapheme" }).filter((key) => key !== "__proto__"),
      tie("value"),
      { noNullPrototype: true },
    ),
  ),
})).value;

test("[GR10] every plain value comes back as it was", () => {
  fc.assert(fc.property(plain, (value) => void expect(decodeValue(encodeValue(value))).toStrictEqual(value)));
  const keys = [{ "": 1 }, {}, { "a\0b": 1 }, { a: 1, b: 2 }, { "a\0b": 2 }, { b: 1, a: 2 }];
  const many = Array.from({ length: 300 }, (_, i) => ({ [`k${i}`]: `text ${i % 150}` }));
  for (const value of [keys, many, [many, many], "x".repeat(65), ["€".repeat(30), "€".repeat(30)]]) {
    expect(decodeValue(encodeValue(value))).toStrictEqual(value);
  }
});

test("[GR11] a payload that is no plain data is refused where it is made, and nothing has changed", () => {
  const doc = model.create();
  const deep = Array.from({ length: GRAPH_LIMITS.valueDepthMax + 1 }).reduce((inner) => [inner], 1);
  const poisoned = JSON.parse('{"__proto__": {"polluted": true}}') as unknown;
  const wrong = [
    undefined,
    1n,
    Symbol("x"),
    () => 1,
    new Date(),
    new Map(),
    deep,
    poisoned,
    "\ud800",
    { "\udc00": 1 },
    [undefined],
    new Float32Array(2),
  ];
  for (const payload of wrong) {
    expect(() => doc.emit(payload), String(payload)).toThrow(TypeError);
    const event = {
      replica: "0".repeat(12),
      sequence: 0,
      parents: [],
      lamport: 1,
      time: 1,
      version: 1,
      payload,
    };
    expect(() => model.check?.([event])).toThrow(TypeError);
    expect(model.apply(doc, [event]).refused.length).toBe(1);
  }
  expect(doc.size).toBe(0);
});

describe("a batch", () => {
  test("[GR12] comes back as it was, whatever its order", () => {
    for (let seed = 1; seed <= 40; seed++) {
      const events = history(seed);
      for (const some of [events, chanceOf(seed).shuffle(events), events.slice(5, 9), []]) {
        expect(decodeEvents(encodeEvents(some))).toEqual(some);
      }
    }
    const [event] = history(1);
    const odd = [
      { ...event!, lamport: 77, parents: [{ replica: "v".repeat(12), sequence: 2 ** 40 }], sequence: 3 },
    ];
    expect(decodeEvents(encodeEvents(odd))).toMatchObject(odd);
  });

  test("[GR13] every flipped bit and every cut of a batch or snapshot is a typed error", () => {
    const subject = ledger({ window: 8, env: simulatedEnv(1) });
    const events = history(3, 60) as never[];
    const { snapshot } = subject.fold(undefined, events);
    for (const [bytes, read] of [
      [encodeEvents(events.slice(0, 12)), decodeEvents],
      [snapshot, subject.restore],
    ] as const) {
      for (let bit = 0; bit < bytes.length * 8; bit++) {
        const damaged = bytes.slice();
        damaged[bit >> 3]! ^= 1 << (bit & 7);
        expect(() => read(damaged)).toThrow(Error);
      }
      for (let end = 0; end < bytes.length; end++) expect(() => read(bytes.slice(0, end))).toThrow(Error);
    }
  });

  test("[GR14] damage with a right checksum is a typed error or something sound, soon and in little memory", () => {
    const random = seededRandom(14);
    const trees = tree({ window: 8, env: simulatedEnv(2) });
    const doc = trees.create();
    for (let i = 0; i < 60; i++)
      doc.put({ index: i % 5, attributes: { text: `${i % 7}`, list: [i, [null]] } });
    const batch = encodeEvents(doc.events().slice(0, 30));
    const snapshot = trees.snapshot(doc);
    let read = 0;
    for (let round = 0; round < 6000; round++) {
      const isBatch = round % 2 === 0;
      const damaged = (isBatch ? batch : snapshot).slice(0, -4);
      for (let i = random.int(4); i >= 0; i--) {
        const at = random.int(damaged.length);
        damaged[at] = random.pick([0, 0x7f, 0x80, 0xff, random.int(256)]);
      }
      const sealed = new Writer().raw(damaged).uint32(crc32(damaged)).finish();
      try {
        if (isBatch) {
          const events = decodeEvents(sealed);
          trees.apply(trees.create(), events as never[]);
          encodeEvents(events);
        } else {
          const restored = trees.restore(sealed);
          trees.apply(restored, doc.events());
          restored.toData();
          restored.put();
        }
        read++;
      } catch (error) {
        expect(["TypeError", "RangeError", "CoppiceError"]).toContain((error as Error).name);
      }
    }
    expect(read).toBeGreaterThan(100);
  });

  test("[GR15] a batch that claims more than its bytes hold is refused before memory is taken", () => {
    const claims = [
      new Writer()
        .byte(1)
        .byte(0)
        .varint(2 ** 40),
      new Writer()
        .byte(1)
        .byte(0)
        .varint(1)
        .varint(2 ** 40),
      new Writer()
        .byte(1)
        .byte(0)
        .varint(3)
        .varint(1)
        .raw(replicaBytes("0".repeat(12)))
        .varint(0)
        .varint(0)
        .varint(2 ** 40),
    ];
    for (const claim of claims) {
      const body = claim.raw(new Uint8Array(64)).finish();
      const bytes = new Writer().raw(body).uint32(crc32(body)).finish();
      expect(() => decodeEvents(bytes)).toThrow(RangeError);
    }
    const nested = new Uint8Array(100_000).fill(0x71);
    expect(() => decodeValue(nested)).toThrow(RangeError);
    expect(() =>
      decodeValue(
        new Writer()
          .byte(0x69)
          .varint(2 ** 40)
          .finish(),
      ),
    ).toThrow(RangeError);
    const tooMany = { length: GRAPH_LIMITS.encodedEventsMax + 1 } as never[];
    expect(() => encodeEvents(tooMany)).toThrow(RangeError);
    const parents = Array.from({ length: GRAPH_LIMITS.parentIdsMax + 1 }, (_, sequence) => ({
      replica: "1".repeat(12),
      sequence,
    }));
    const [event] = history(1);
    expect(() => encodeEvents([{ ...event!, parents, lamport: 2 }])).toThrow("too many parents");
  });

  test("[GR16] is a fifth of msgpackr's bytes for keystrokes, and sizes are no lower than the bytes", () => {
    const typed = graph<string, unknown>({ initial: "", apply: (text) => text, env: simulatedEnv(5) });
    const doc = typed.create();
    const random = seededRandom(5);
    for (let i = 0; i < 2000; i++) doc.emit([[i, 0, random.pick([..."etaoin shrdlu"])]]);
    const events = doc.events();
    const packed = new Packr({ useRecords: false }).pack(events.map((event) => ({ ...event }))).length;
    const encoded = typed.codec.encode(events).length;
    expect(encoded * 5).toBeLessThan(packed);
    for (const event of [...events.slice(0, 20), ...history(9)]) {
      expect(typed.codec.size(event)).toBeGreaterThanOrEqual(encodeEvents([event]).length - 16);
    }
  });
});

test("[GR17] a replica is 60 bits of chance, as text and as bytes", () => {
  const random = seededRandom(17);
  for (let i = 0; i < 200; i++) {
    const bytes = random.bytes(8);
    const replica = replicaOf(bytes);
    expect(replica).toMatch(/^[0-9a-v]{12}$/);
    bytes[0]! &= 0x0f;
    expect(replicaBytes(replica)).toEqual(bytes);
    expect(replicaOf(replicaBytes(replica))).toBe(replica);
  }
  const names = new Set(Array.from({ length: 50 }, () => model.create().replica));
  expect(names.size).toBe(50);
  expect(new Reader(replicaBytes("v".repeat(12))).byte()).toBe(0x0f);
});
