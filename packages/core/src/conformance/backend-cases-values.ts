/**
 * Cases about keys and values: what goes in comes out, byte for byte, under exactly its key, in key order,
 * and no bytes are shared with the caller.
 */

import type { Entry, Key } from "../contract/backend.js";
import { compareKeys } from "../contract/keys.js";
import {
  assert,
  assertBytes,
  assertLines,
  assertRejects,
  type BackendCase,
  backendCase,
  bytes,
  type Store,
  scanAll,
  show,
} from "./cases.js";

const KEY: Key = ["events", "doc", 1];
const MIB = 1024 * 1024;

/** Ids that some encoding, file system or query language treats specially, and neighbours of each other. */
export const UNPLEASANT_IDS: readonly string[] = [
  "AAAAA",
  "AAAAAB",
  "AAAAA\0",
  "AAAAA\0B",
  "AAAAA\u0001",
  "aaaaa",
  "\0",
  "\0\0",
  "\u0001",
  "..",
  ".",
  "/",
  "a/b",
  "a//b",
  "../../etc/passwd",
  "a\\b",
  "%2F",
  "%",
  "_",
  "*",
  "'; DROP TABLE x; --",
  "!",
  "~",
  " ",
  "a ",
  "a.",
  "\n",
  "CON",
  "__proto__",
  "\uFEFF",
  "\uFEFFbom",
  "\u00E9",
  "e\u0301",
  "\u00FF",
  "\uFF5E",
  "\uFFFF",
  "😀",
  "😀\0",
  "😁",
  "\u{10FFFF}",
  "L".repeat(512),
  `${"L".repeat(511)}M`,
  "😀".repeat(128),
  "\0".repeat(512),
];

const SEQS: readonly (readonly number[])[] = [
  [],
  [0],
  [0, 0],
  [0, 1],
  [1],
  [1, Number.MAX_SAFE_INTEGER],
  [2],
  [10],
  [255],
  [256],
  [0x7fff_ffff],
  [0x8000_0000],
  [0xffff_ffff],
  [0x1_0000_0000],
  [0x1_0000_0000, 3],
  [Number.MAX_SAFE_INTEGER - 1],
  [Number.MAX_SAFE_INTEGER],
  [Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER],
];

export const valueCases: readonly BackendCase[] = [
  backendCase("BK1", "a key that was never put is absent", async ({ backend }) => {
    assertBytes(await backend.get(KEY), undefined, "get of an absent key");
    await backend.commit({ put: [{ key: ["events", "doc"], value: bytes("x") }] });
    assertBytes(await backend.get(KEY), undefined, "get beside a present key");
  }),
  backendCase("BK1", "a value is got back byte for byte, also when it is empty", async ({ backend }) => {
    const values = [
      new Uint8Array(0),
      Uint8Array.of(0),
      Uint8Array.of(0xff),
      Uint8Array.of(0, 0xff, 0),
      Uint8Array.of(0xef, 0xbb, 0xbf),
      Uint8Array.from({ length: 256 }, (_, i) => i),
      bytes("undefined"),
    ];
    for (const [i, value] of values.entries()) {
      await backend.commit({ put: [{ key: ["events", "doc", i], value }] });
      assertBytes(await backend.get(["events", "doc", i]), value, `value ${i}`);
    }
    const found = await scanAll(backend, { space: "events", id: "doc" });
    for (const [i, value] of values.entries()) assertBytes(found[i]?.value, value, `scanned value ${i}`);
  }),
  backendCase("BK1", "a second put replaces the first, longer or shorter", async ({ backend }) => {
    for (const value of [bytes("first"), bytes("a longer second"), bytes(""), bytes("x")]) {
      await backend.commit({ put: [{ key: KEY, value }] });
      assertBytes(await backend.get(KEY), value, "after the put");
    }
  }),
  backendCase("BK1", "a value of 1 MiB is got back, also after reopening", async (store) => {
    const value = store.random.bytes(MIB);
    await store.backend.commit({ put: [{ key: KEY, value }] });
    assertBytes(await store.backend.get(KEY), value, "get");
    await store.reopen();
    assertBytes(await store.backend.get(KEY), value, "get after reopening");
  }),
  backendCase("BK1", "unpleasant ids name different keys, none is changed on the way", async (store) => {
    const put = store.random.shuffle(
      UNPLEASANT_IDS.map((id, i): Entry => ({ key: ["meta", id], value: bytes(`id ${i}`) })),
    );
    await store.backend.commit({ put });
    await store.reopen();
    for (const { key, value } of put) {
      assertBytes(await store.backend.get(key), value, `id ${JSON.stringify(key[1])}`);
    }
    const found = await scanAll(store.backend, { space: "meta" });
    assertLines(found.map(show).sort(), put.map(show).sort(), "all entries");
  }),
  backendCase("BK2", "a value may be a view into a larger buffer", async ({ backend }) => {
    const whole = Uint8Array.from({ length: 100 }, (_, i) => i);
    const view = whole.subarray(10, 20);
    await backend.commit({ put: [{ key: KEY, value: view }] });
    assertBytes(await backend.get(KEY), whole.slice(10, 20), "get");
    await backend.commit({ expect: [{ key: KEY, value: whole.subarray(10, 20) }] });
  }),
  backendCase("BK2", "what is returned is a plain Uint8Array behind the guard", async ({ guard }) => {
    await guard.commit({ put: [{ key: KEY, value: bytes("x") }] });
    const [entry] = await scanAll(guard, { space: "events" });
    for (const value of [await guard.get(KEY), entry?.value]) {
      assert(
        value !== undefined && Object.getPrototypeOf(value) === Uint8Array.prototype,
        "a returned value is not a plain Uint8Array",
      );
    }
  }),
  backendCase("BK2", "changing bytes after they were put changes nothing", async (store) => {
    const value = bytes("original");
    await store.backend.commit({ put: [{ key: KEY, value }] });
    value.fill(0);
    assertBytes(await store.backend.get(KEY), bytes("original"), "get");
    await store.reopen();
    assertBytes(await store.backend.get(KEY), bytes("original"), "get after reopening");
  }),
  backendCase("BK2", "changing bytes that were returned changes nothing", async ({ backend }) => {
    await backend.commit({ put: [{ key: KEY, value: bytes("original") }] });
    const got = await backend.get(KEY);
    assertBytes(got, bytes("original"), "get");
    got!.fill(0);
    assertBytes(await backend.get(KEY), bytes("original"), "after changing what get returned");
    (await scanAll(backend, { space: "events" }))[0]!.value.fill(0);
    assertBytes(await backend.get(KEY), bytes("original"), "after changing what scan returned");
    const [entry] = await scanAll(backend, { space: "events" });
    assertBytes(entry?.value, bytes("original"), "scan after changing what scan returned");
  }),
  backendCase("BK4", "keys are ordered by space, the bytes of the id, seq and part", inOrder),
  backendCase("BK17", "invalid keys, ranges and values are refused and nothing is written", refused),
  backendCase(
    "BK17",
    "a value over the declared maximum is refused and nothing is written",
    async (store) => {
      const { valueBytesMax } = store.backend.traits;
      // More than this is not worth its memory; the guard compares with the same number below it.
      if (valueBytesMax > 256 * MIB) return;
      const value = new Uint8Array(valueBytesMax + 1);
      const put = [
        { key: ["events", "doc", 1] as const, value: bytes("x") },
        { key: ["events", "doc", 2] as const, value },
      ];
      await assertRejects("BATCH_TOO_LARGE", "a value over the maximum", () => store.guard.commit({ put }));
      assertLines(await store.dump(), [], "after the refusal");
    },
  ),
  backendCase(
    "BK18",
    "declared maxima are taken, tried up to 8 MiB a value and 24 MiB a commit",
    async (store) => {
      const { valueBytesMax, commitBytesMax } = store.backend.traits;
      assert(
        valueBytesMax >= MIB && commitBytesMax >= valueBytesMax,
        "storage needs values of at least 1 MiB",
      );
      const size = Math.min(valueBytesMax, 8 * MIB);
      const count = Math.min(3, Math.floor(commitBytesMax / size));
      const put = Array.from({ length: count }, (_, i): Entry => {
        const value = new Uint8Array(size).fill(i + 1);
        return { key: ["events", "doc", i], value };
      });
      await store.guard.commit({ put });
      await store.reopen();
      for (const { key, value } of put) assertBytes(await store.guard.get(key), value, `value ${key[2]}`);
    },
  ),
];

async function inOrder(store: Store): Promise<void> {
  const entries: Entry[] = [];
  for (const space of ["a", "aa", "z"]) {
    for (const id of UNPLEASANT_IDS) {
      for (const numbers of space === "aa" ? SEQS : [[], [7]]) {
        const key = [space, id, ...numbers] as unknown as Key;
        entries.push({ key, value: bytes(`${entries.length}`) });
      }
    }
  }
  const shuffled = store.random.shuffle(entries);
  for (let i = 0; i < shuffled.length; i += 100) {
    await store.backend.commit({ put: shuffled.slice(i, i + 100) });
  }
  const sorted = [...entries].sort((a, b) => compareKeys(a.key, b.key));
  for (const reverse of [false, true]) {
    for (const space of ["a", "aa", "z"]) {
      const expected = sorted.filter(({ key }) => key[0] === space).map(show);
      if (reverse) expected.reverse();
      const found = await scanAll(store.backend, { space }, { reverse });
      assertLines(found.map(show), expected, `order in space ${space}${reverse ? ", reverse" : ""}`);
    }
  }
  for (const { key, value } of entries) {
    assertBytes(await store.backend.get(key), value, `get of ${JSON.stringify(key)}`);
  }
}

async function refused(store: Store): Promise<void> {
  const good: Entry = { key: KEY, value: bytes("x") };
  const badIds: [string, unknown][] = [
    ["an empty id", ""],
    ["a lone high surrogate", "a\uD800"],
    ["a lone low surrogate", "\uDC00a"],
    ["an id of 513 bytes", "L".repeat(513)],
    ["an id of 513 bytes in UTF-8", `${"😀".repeat(128)}!`],
    ["an id that is no string", 7],
  ];
  for (const [what, id] of badIds) {
    const key = ["events", id, 1] as unknown as Key;
    await assertRejects("ID_INVALID", `get of ${what}`, () => store.guard.get(key));
    const puts = { put: [good, { key, value: bytes("x") }] };
    await assertRejects("ID_INVALID", `put of ${what}`, () => store.guard.commit(puts));
    await assertRejects("ID_INVALID", `delete of ${what}`, () =>
      store.guard.commit({ put: [good], delete: [key] }),
    );
    const expect = [{ key, value: undefined }];
    await assertRejects("ID_INVALID", `expecting ${what}`, () => store.guard.commit({ put: [good], expect }));
    const range = { space: "events", id: id as string };
    await assertRejects("ID_INVALID", `scan of ${what}`, () => scanAll(store.guard, range));
  }
  const badKeys: unknown[] = [
    ["", "doc"],
    ["Events", "doc"],
    ["events\0", "doc"],
    ["events", "doc", -1],
    ["events", "doc", 0.5],
    ["events", "doc", Number.NaN],
    ["events", "doc", Number.MAX_SAFE_INTEGER + 1],
    ["events", "doc", 1, -1],
    ["events", "doc", undefined, 1],
  ];
  for (const key of badKeys as Key[]) {
    const what = JSON.stringify(key);
    await assertRejects("ARGUMENT_INVALID", `get of ${what}`, () => store.guard.get(key));
    const puts = { put: [good, { key, value: bytes("x") }] };
    await assertRejects("ARGUMENT_INVALID", `put of ${what}`, () => store.guard.commit(puts));
  }
  const twice = { put: [good, { ...good, value: bytes("y") }] };
  await assertRejects("ARGUMENT_INVALID", "one key put twice", () => store.guard.commit(twice));
  await assertRejects("ARGUMENT_INVALID", "a negative limit", () =>
    scanAll(store.guard, { space: "events" }, { limit: -1 }),
  );
  assertLines(await store.dump(), [], "after all refusals");
}
