/** What a model gives in another shape is told, names the model and its function, and costs nothing that is stored. */

import { type Model, memoryBackend } from "coppice";
import { expect, test } from "vitest";
import { check, repair, seen } from "./check-tools.js";
import {
  build,
  event,
  type GrowSet,
  growSet,
  ID,
  keysIn,
  openStorage,
  type Storage,
} from "./check-workload.js";

type Change = Partial<Model<GrowSet>>;
type Fold = Model<GrowSet>["fold"];

const good = growSet();
const any = (value: unknown) => value as never;

const decoding = (decode: (payload: Uint8Array) => unknown): Change => ({
  codec: { ...good.codec, decode: (payload) => any(decode(payload)) },
});
const applying = (change: object | undefined): Change => ({
  apply: (doc, events) => any(change && { ...good.apply(doc, events), ...change }),
  fold: good.fold,
});
const folding = (change: object | undefined): Change => ({
  fold: (...given: Parameters<Fold>) => any(change && { ...good.fold(...given), ...change }),
});

const load = (storage: Storage): Promise<unknown> => storage.load(ID);
const compact = (storage: Storage): Promise<unknown> => storage.compact(ID);
const mend = (storage: Storage): Promise<unknown> => storage.check({ repair: true });

/** The calls that meet it, and what they reject with. */
const CASES: readonly [string, Change, string, readonly ((storage: Storage) => Promise<unknown>)[]][] = [
  [
    "no events",
    decoding(() => undefined),
    "codec.decode must give a list of events, and gave undefined",
    [mend, load, compact],
  ],
  [
    "text in place of events",
    decoding((payload) => "x".repeat(good.codec.decode(payload).length)),
    "codec.decode must give a list of events, and gave a string",
    [mend, load, compact],
  ],
  [
    "nothing from apply",
    applying(undefined),
    "apply must give { doc, applied, held, refused }, and gave undefined",
    [load],
  ],
  [
    "no document from apply",
    applying({ doc: undefined }),
    "apply must give { doc, applied, held, refused }, and gave no doc",
    [load],
  ],
  [
    "no held from apply",
    applying({ held: undefined }),
    "apply, for held, must give a list of indexes of",
    [load],
  ],
  [
    "no refused from apply",
    applying({ refused: undefined }),
    "apply, for refused, must give a list of {",
    [load],
  ],
  ["an index too far from apply", applying({ held: [99] }), "and gave a list with something else", [load]],
  [
    "nothing from fold",
    folding(undefined),
    "fold must give { snapshot, version, peerVersion, held, refused }, and gave undefined",
    [mend, compact],
  ],
  [
    "no snapshot from fold",
    folding({ snapshot: undefined }),
    "fold, for snapshot, must give",
    [mend, compact],
  ],
  [
    "text from fold",
    folding({ version: "1" }),
    "fold, for version, must give a Uint8Array, and gave a string",
    [mend, compact],
  ],
  [
    "no peer version from fold",
    folding({ peerVersion: 1 }),
    "fold, for peerVersion, must give",
    [mend, compact],
  ],
  ["no held from fold", folding({ held: undefined }), "fold, for held, must give", [mend, compact]],
  ["indexes as text from fold", folding({ held: ["0"] }), "fold, for held, must give", [mend, compact]],
  [
    "numbers as refused from fold",
    folding({ refused: [0] }),
    "fold, for refused, must give",
    [mend, compact],
  ],
  [
    "no version",
    { version: () => any(undefined) },
    "version must give a Uint8Array, and gave undefined",
    [mend, compact],
  ],
];

for (const [what, change, message, calls] of CASES) {
  test(`[ST102] ${what}: a TypeError that names the model, and nothing is trimmed, hidden or set aside`, async () => {
    for (const shape of ["snapshot", "compacted"] as const) {
      const backend = await build(shape);
      const before = await seen(backend);
      for (const call of calls) {
        const storage = await openStorage(backend, { models: [growSet(change)] });
        const error = await call(storage).then(
          () => undefined,
          (thrown: unknown) => thrown,
        );
        await storage.close();
        expect(keysIn(backend, "quarantine")).toEqual([]);
        expect(error).toBeInstanceOf(TypeError);
        expect(String(error)).toContain("the growset model's ");
        expect(String(error)).toContain(message);
        expect(await seen(backend)).toEqual(before);
        expect((await check(backend)).problems).toEqual([]);
      }
      expect((await repair(backend)).clean).toBe(true);
    }
  });
}

test("[ST102] a document that took events whose fate its model does not tell gives no snapshot", async () => {
  for (const change of [undefined, { held: undefined }, { refused: undefined }]) {
    const backend = await build("log");
    let isBroken = false;
    const apply: Model<GrowSet>["apply"] = (doc, events) => {
      const applied = good.apply(doc, events);
      return isBroken ? any(change && { ...applied, ...change }) : applied;
    };
    const storage = await openStorage(backend, { models: [growSet({ apply })] });
    const handle = (await storage.load(ID))!;
    isBroken = true;
    expect(() => handle.receive([event("new")])).toThrow(/^the growset model's apply/);
    isBroken = false;
    await handle.save();
    await handle.snapshot();
    await storage.close();
    expect((await check(backend)).problems).toEqual([]);
  }
});

test("[ST102] a handle whose model gives no bytes for a snapshot stages none", async () => {
  for (const name of ["snapshot", "version", "peerVersion"] as const) {
    const backend = await build("log");
    const heldless = {
      apply: (doc: GrowSet, events: readonly Uint8Array[]) => ({
        ...good.apply(doc, events),
        held: [],
        refused: [],
      }),
    };
    const model = growSet({ ...heldless, fold: good.fold, [name]: () => "text" });
    const storage = await openStorage(backend, { models: [model] });
    const handle = (await storage.load(ID))!;
    const expected = `the growset model's ${name} must give a Uint8Array, and gave a string`;
    await expect(handle.snapshot()).rejects.toThrow(new TypeError(expected));
    await storage.close();
    expect(keysIn(backend, "snapshot")).toEqual([]);
  }
});

test("[ST111] of a codec that gives back other events than it was given nothing is acknowledged", async () => {
  const { codec } = good;
  const wrong: [string, Change][] = [
    ["of 2 it gives back 1", { codec: { ...codec, encode: (events) => codec.encode(events.slice(1)) } }],
    [
      "of 2 it gives back 4",
      { codec: { ...codec, encode: (events) => codec.encode([...events, ...events]) } },
    ],
    ["of 2 it gives back 0", decoding(() => [])],
    [
      "unreadable",
      decoding(() => {
        throw new Error("unreadable");
      }),
    ],
  ];
  for (const [message, change] of wrong) {
    const backend = await build("snapshot");
    const before = await seen(backend);
    const storage = await openStorage(backend, { models: [growSet(change)] });
    const appended = storage.append(ID, [event("one"), event("two")]);
    await expect(appended).rejects.toMatchObject({
      code: "EVENT_INVALID",
      message: expect.stringContaining(message),
    });
    await storage.close();
    expect(await seen(backend)).toEqual(before);
  }
});

test("[ST111] and one that decodes where the bytes lie is read back from a copy", async () => {
  const { codec } = good;
  const masked = (bytes: Uint8Array) => {
    for (let at = 0; at < bytes.length; at++) bytes[at]! ^= 0x55;
    return bytes;
  };
  const change: Change = {
    codec: {
      ...codec,
      encode: (events) => masked(codec.encode(events).slice()),
      decode: (bytes) => codec.decode(masked(bytes)),
    },
  };
  const backend = memoryBackend();
  const storage = await openStorage(backend, { models: [growSet(change)] });
  for (let round = 0; round < 20; round++) await storage.append(ID, [event(`event-${round}`)]);
  expect((await storage.load(ID))?.clock).toBe(20);
  expect((await storage.check()).problems).toEqual([]);
  await storage.close();
});
