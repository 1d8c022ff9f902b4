import { expect, test } from "vitest";
import * as Y from "yjs";
import { seeded } from "../../../test/support/chance.js";
import { yjs } from "../src/index.js";
import { scanUpdate } from "../src/scanner.js";
import { writeTogether } from "./editing.js";

const model = yjs();

/** An update of one struct of client 1 at clock 0, as bytes after the header; then its deletions. */
const struct = (bytes: readonly number[], deletions: readonly number[] = [0]): Uint8Array =>
  Uint8Array.of(1, 1, 1, 0, ...bytes, ...deletions);
/** The root type "t" as parent. */
const ROOT = [1, 1, 0x74];
const utf8 = (text: string): number[] => [...new TextEncoder().encode(text)];
const sized = (text: string): number[] => {
  const { length } = utf8(text);
  return [...(length < 128 ? [length] : [(length % 128) + 128, Math.floor(length / 128)]), ...utf8(text)];
};

const accepted: readonly (readonly [what: string, bytes: Uint8Array])[] = [
  ["an update of nothing", Uint8Array.of(0, 0)],
  ["a text", struct([4, ...ROOT, 1, 0x61])],
  ["a text of four bytes and two units", struct([4, ...ROOT, 4, ...utf8("🌳")], [1, 1, 1, 0, 2])],
  ["a collected struct", struct([0, 5])],
  ["undefined in JSON", struct([2, ...ROOT, 1, ...sized("undefined")])],
  ["a client in ascending order", Uint8Array.of(2, 1, 1, 0, 0, 1, 1, 2, 0, 0, 1, 0)],
  ["a Skip", Uint8Array.of(1, 3, 1, 0, 0, 1, 10, 4, 0, 1, 0)],
  ["deletions that are not in order", struct([0, 9], [1, 1, 2, 4, 1, 0, 2])],
];

const refused: readonly (readonly [what: string, bytes: Uint8Array, reason: string])[] = [
  ["no bytes", new Uint8Array(), "ends too early"],
  ["one byte after the end", Uint8Array.of(0, 0, 0), "bytes follow"],
  ["a number of ten bytes", Uint8Array.of(...new Array(9).fill(255), 1, 0), "too large"],
  ["a billion structs", Uint8Array.of(1, 128, 148, 235, 220, 3, 1, 0, 0), "zero|too early"],
  ["a clock near 2^53", Uint8Array.of(1, 1, 1, ...new Array(7).fill(255), 1, 0, 1, 0), "clock is too large"],
  ["an empty struct", struct([0, 0]), "length is zero"],
  ["an empty text", struct([4, ...ROOT, 0]), "text is empty"],
  ["an empty deletion", struct([0, 5], [1, 1, 1, 0, 0]), "length is zero"],
  ["an unknown struct", struct([11, ...ROOT, 1]), "unknown kind"],
  ["a Skip with flags", struct([0x8a, 1, 0, 1]), "unknown kind|future"],
  ["an unknown type", struct([7, ...ROOT, 7]), "type is unknown"],
  ["an unknown value", struct([8, ...ROOT, 1, 115]), "unknown kind"],
  ["broken UTF-8", struct([4, ...ROOT, 2, 0xc3, 0x28]), "valid UTF-8"],
  ["an overlong text", struct([4, ...ROOT, 2, 0xc0, 0x80]), "valid UTF-8"],
  ["half a surrogate pair", struct([4, ...ROOT, 3, 0xed, 0xa0, 0x80]), "valid UTF-8"],
  ["a text that ends in a sequence", struct([4, ...ROOT, 1, 0xc3]), "valid UTF-8"],
  ["broken JSON", struct([5, ...ROOT, ...sized("{")]), "valid JSON"],
  ["deep JSON", struct([5, ...ROOT, ...sized("[".repeat(600) + "]".repeat(600))]), "nested"],
  ["deep values", struct([8, ...ROOT, 1, ...new Array(2000).fill([117, 1]).flat(), 126]), "nested"],
  ["a struct on its own future", struct([0x84, 1, 0, 1, 0x61]), "own future"],
  ["a parent in its own future", struct([4, 0, 1, 3, 1, 0x61]), "own future"],
  ["a client twice", Uint8Array.of(3, 1, 2, 0, 0, 1, 1, 1, 0, 0, 1, 1, 2, 1, 0, 1, 0), "client occurs twice"],
  ["a subdocument without options", struct([9, ...ROOT, 1, 0x67, 126]), "no object"],
  [
    "a subdocument with a guid of null",
    struct([9, ...ROOT, 1, 0x67, 118, 1, 4, ...utf8("guid"), 126]),
    "option",
  ],
];

test.for(accepted)("[MD12] %s is accepted, as by Yjs", ([, bytes]) => {
  scanUpdate(bytes);
  Y.applyUpdate(new Y.Doc(), bytes);
  expect(model.apply(model.create(), [bytes]).refused).toEqual([]);
});

test.for(refused)("[MD12] %s is refused", ([, bytes, reason]) => {
  expect(() => scanUpdate(bytes)).toThrow(new RegExp(reason));
  const doc = model.create();
  expect(model.apply(doc, [bytes]).refused.map(({ index }) => index)).toEqual([0]);
  expect(model.version(doc)).toEqual(model.version(model.create()));
});

test("[MD12] deletions that are not in order are held and applied like ordered ones", () => {
  const text = new Y.Doc();
  text.clientID = 1;
  text.getText("t").insert(0, "0123456789");
  const removal = Uint8Array.of(0, 1, 1, 3, 7, 1, 0, 2, 1, 3);
  const doc = model.create();
  expect(model.apply(doc, [removal]).held).toEqual([0]);
  expect(model.apply(doc, [Y.encodeStateAsUpdate(text)]).held).toEqual([]);
  expect(doc.getText("t").toString()).toBe("45689");
});

test("[MD12] too many subdocuments in one event are refused", () => {
  const subdocuments = (count: number) => {
    const bytes = [
      1,
      (count % 128) + 128,
      Math.floor((count % 16384) / 128) + 128,
      Math.floor(count / 16384),
      1,
      0,
    ];
    for (let i = 0; i < count; i++) bytes.push(9, ...ROOT, 0, 118, 0);
    return Uint8Array.of(...bytes, 0);
  };
  scanUpdate(subdocuments(16_384));
  expect(() => scanUpdate(subdocuments(16_385))).toThrow("too many subdocuments");
});

test("[MD35] runs and deletions cover what Yjs finds in random updates", () => {
  const { events } = writeTogether(seeded(3), 3, 200);
  for (const event of [...events, Y.mergeUpdates([events[0]!, ...events.slice(40)])]) {
    const { structs, ds } = Y.decodeUpdate(event);
    const expected = new Map<number, number>();
    for (const struct of structs) {
      const { client } = struct.id;
      if (!(struct instanceof Y.Skip)) expected.set(client, (expected.get(client) ?? 0) + struct.length);
    }
    const found = new Map<number, number>();
    let deletions = 0;
    scanUpdate(event, {
      run: (client, clock, end) => void found.set(client, (found.get(client) ?? 0) + end - clock),
      deletion: () => void deletions++,
    });
    expect(found).toEqual(expected);
    expect(deletions).toBe([...ds.clients.values()].flat().length);
  }
});

test("[MD11] every flipped bit of random events is refused, held or applied, and the document stays whole", () => {
  const { events } = writeTogether(seeded(11), 3, 60);
  const before = model.fold(undefined, events.slice(0, 40)).snapshot;
  const counts = { refused: 0, held: 0, applied: 0 };
  for (const event of events.slice(36, 50)) {
    for (let bit = 0; bit < event.length * 8; bit++) {
      const bad = event.slice();
      bad[bit >> 3]! ^= 1 << (bit & 7);
      const doc = model.restore(before);
      const { held, refused } = model.apply(doc, [bad]);
      counts[refused.length > 0 ? "refused" : held.length > 0 ? "held" : "applied"]++;
      const restored = model.restore(model.snapshot(doc));
      expect(model.version(restored)).toEqual(model.version(doc));
      if (refused.length > 0) expect(model.snapshot(doc)).toEqual(model.snapshot(model.restore(before)));
    }
  }
  expect(Math.min(counts.refused, counts.held, counts.applied)).toBeGreaterThan(10);
});
