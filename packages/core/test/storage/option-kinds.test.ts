/** A misspelt option is refused, whichever call it is handed to, and nothing is done. */

import {
  allOf,
  anyOf,
  DocumentStorage,
  everyBytes,
  everyEvents,
  graph,
  memoryBackend,
  never,
  onFrontierCollapse,
  tree,
  whenTailOutweighs,
} from "coppice";
import { expect, test } from "vitest";
import { add, nameSet, naming } from "../../../../test/support/oracle-model.js";

type Loose = Record<string, (...given: unknown[]) => unknown>;

const CALLS: readonly [name: string, ...given: unknown[]][] = [
  ["load", "d", { At: 1 }],
  ["open", "d", { autosave: true }],
  ["open", "d", { at: 1 }],
  ["append", "d", [naming("x")], { expeced: "zz" }],
  ["read", "d", { form: 1 }],
  ["subscribe", "d", { form: 1 }],
  ["list", { prefx: "d" }],
  ["compact", "d", { dryrun: true }],
  ["compactAll", { minEvent: 100 }],
  ["erase", "d", { reclam: false }],
  ["fork", "d", "d2", { At: 1 }],
  ["export", "d", { At: 1 }],
  ["import", (async function* () {})(), { Id: "d3" }],
  ["copyTo", undefined, { repalce: true }],
  ["check", { repar: true }],
  ["close", { discrad: true }],
];
const HANDLE_CALLS: readonly [name: string, ...given: unknown[]][] = [
  ["save", { Info: {} }],
  ["waitDurable", 0, { singal: undefined }],
  ["compact", { dryrun: true }],
  ["close", { discrad: true }],
];

async function outcome(target: unknown, [name, ...given]: readonly [string, ...unknown[]]): Promise<unknown> {
  try {
    return await (target as Loose)[name]!(...given);
  } catch (error) {
    return error;
  }
}

test("[ST97] a call with an option that there is not is refused, names it, and does nothing", async () => {
  const models = [nameSet()] as const;
  const storage = await DocumentStorage.open({ backend: memoryBackend(), models, snapshotPolicy: never });
  for (const name of "abcdefgh") await storage.append("d", [naming(name)]);
  const handle = await storage.open("d");
  handle.change(add("i"));
  const before = await storage.info("d");
  for (const [target, calls] of [
    [storage, CALLS],
    [handle, HANDLE_CALLS],
  ] as const) {
    for (const call of calls) {
      const misspelt = Object.keys(call.at(-1) as object)[0];
      const error = await outcome(target, call);
      expect(error, call[0]).toBeInstanceOf(TypeError);
      expect((error as Error).message).toMatch(
        new RegExp(`^${call[0]} has no option ${misspelt}; there are `),
      );
    }
  }
  expect(await storage.info("d")).toEqual(before);
  expect([await storage.info("d2"), await storage.info("d3")]).toEqual([undefined, undefined]);
  expect(handle.unsaved).toBe(true);
  // Those that there are pass, also when they are undefined.
  await storage.append("d", [naming("x")], { expected: undefined as never });
  await handle.save({ info: { who: "me" } });
  expect((await storage.check({ id: "d" })).problems).toEqual([]);
  await storage.close({ discard: false });
});

test("[ST97] a value of another kind is refused, names what it must be, and nothing is done", async () => {
  const models = [nameSet()] as const;
  const storage = await DocumentStorage.open({ backend: memoryBackend(), models, snapshotPolicy: never });
  await storage.append("d", [naming("a"), naming("b")]);
  const handle = await storage.open("d");
  handle.change(add("c"));
  const before = await storage.info("d");
  const cases: readonly [target: object, call: readonly [string, ...unknown[]], says: string][] = [
    [storage, ["open", "d", { autoSave: 1 }], "open: autoSave must be true or false"],
    [storage, ["open", "d", { autoSave: "yes" }], "open: autoSave must be true or false"],
    [storage, ["open", "e", { model: nameSet() }], "open: model must be a string"],
    [storage, ["open", "e", "names"], "open takes an object of options; there are autoSave, "],
    [storage, ["load", "d", null], "load takes an object of options; there are "],
    [storage, ["list", { prefix: 5 }], "list: prefix must be a string"],
    [storage, ["list", { limit: -1 }], "list: limit must be a whole number from 0"],
    [storage, ["list", { limit: 1.5 }], "list: limit must be a whole number from 0"],
    [storage, ["compact", "d", { dryRun: "false" }], "compact: dryRun must be true or false"],
    [storage, ["compactAll", { concurrency: 0 }], "compactAll: concurrency must be a whole number from 1"],
    [storage, ["compactAll", { idleMs: -1 }], "compactAll: idleMs must be a number from 0"],
    [storage, ["compactAll", { budgetMs: "5s" }], "compactAll: budgetMs must be a number"],
    [storage, ["compactAll", { onProgress: 5 }], "compactAll: onProgress must be a function"],
    [storage, ["check", { signal: 5 }], "check: signal must be an AbortSignal"],
    [storage, ["check", { repair: Number.NaN }], "check: repair must be true or false"],
    [storage, ["copyTo", "level:./x"], "copyTo wants an open storage"],
    [storage, ["append", "d", naming("x")], "events must be an array, as in [update]"],
    [handle, ["close", { discard: "no" }], "close: discard must be true or false"],
  ];
  for (const [target, call, says] of cases) {
    const error = await outcome(target, call);
    expect(error, says).toBeInstanceOf(TypeError);
    expect((error as Error).message).toContain(says);
  }
  for (const info of ["ada", ["a"], 5, true, null, new Date(0), new Map()]) {
    const error = await outcome(handle, ["save", { info }]);
    expect(error).toMatchObject({
      code: "ARGUMENT_INVALID",
      message: expect.stringContaining("plain object"),
    });
  }
  expect(await storage.info("d")).toEqual(before);
  expect(await storage.info("e")).toBeUndefined();
  // Without an end, and of no prototype, are as good as any.
  const ids: string[] = [];
  for await (const id of storage.list({ limit: Number.POSITIVE_INFINITY })) ids.push(id);
  expect(ids).toEqual(["d"]);
  await handle.save({ info: Object.assign(Object.create(null) as object, { who: "ada" }) });
  await storage.close();
});

test("[ST82] info comes back as it was given or is refused, and then nothing is written", async () => {
  const storage = await DocumentStorage.open({
    backend: memoryBackend(),
    models: [nameSet()],
    snapshotPolicy: never,
  });
  const handle = await storage.open("d");
  handle.change(add("a"));
  const own = JSON.parse('{"__proto__":1,"who":"ada"}') as Record<string, number>;
  for (const info of [
    own,
    { who: "\ud83d" },
    { who: "\udc00a" },
    { "\ud83d": 1 },
    { a: 1, "b\udc00": true },
  ]) {
    const refused = { code: "ARGUMENT_INVALID", message: expect.stringContaining("info cannot have") };
    for (const [target, call] of [
      [storage, ["append", "d", [naming("b")], { info }]],
      [storage, ["append", "new", [naming("b")], { info }]],
      [handle, ["save", { info }]],
    ] as const) {
      expect(await outcome(target, call)).toMatchObject(refused);
    }
  }
  expect(await storage.info("d")).toMatchObject({ clock: 0 });
  expect(await storage.info("new")).toBe(undefined);
  for (const info of [
    { constructor: "x", toString: "", "": false },
    { "\u{1F600}": "\ufeff\u{10FFFF}\0", n: -1.5 },
  ]) {
    const { clock } = await storage.append("e", [naming("b")], { info });
    const found = [];
    for await (const event of storage.read("e", { from: clock - 1 })) found.push(event.info);
    expect(found).toEqual([info]);
  }
  await handle.save();
  expect((await storage.check()).problems).toEqual([]);
  await storage.close();
});

test("[ST97] opening a storage names what is wrong with what it was given", async () => {
  const good = { backend: memoryBackend(), models: [nameSet()] };
  const Loose = DocumentStorage as unknown as new () => unknown;
  const storage = await DocumentStorage.open({ ...good, backend: memoryBackend() });
  const uncalled = [onFrontierCollapse, everyEvents, everyBytes, whenTailOutweighs, anyOf, allOf];
  expect(() => new Loose()).toThrow("await DocumentStorage.open");
  const cases: readonly [given: object, says: string][] = [
    [{ ...good, model: nameSet(), models: undefined }, "has no option model; there are backend, models, "],
    [{ ...good, backend: memoryBackend }, "call the function that makes it"],
    [
      { ...good, observer: { appended: () => undefined } },
      "an observer has no option appended; there are append",
    ],
    ...uncalled.map((snapshotPolicy): [object, string] => [
      { ...good, snapshotPolicy },
      `snapshotPolicy is no policy; call the function that makes it, as in ${snapshotPolicy.name}(`,
    ]),
    [{ ...good, backend: storage }, "DocumentStorage.open needs a backend, like levelBackend(path)"],
    [{ ...good, snapshotPolicy: "never" }, "snapshotPolicy must be a function"],
    [{ ...good, observer: { append: "x" } }, "append must be a function"],
    [{ ...good, limits: { eventBytes: 3 } }, "there is no limit eventBytes; there are idBytesMax, "],
  ];
  for (const [given, says] of cases) {
    await expect(DocumentStorage.open(given as never)).rejects.toThrow(says);
  }
  await storage.close();
});

test("[ST97] import says what it wants instead of a path, an array of bytes, or of nothing", async () => {
  const storage = await DocumentStorage.open({ backend: memoryBackend(), models: [nameSet()] });
  await storage.append("d", [naming("a")]);
  const chunks: Uint8Array[] = [];
  for await (const chunk of storage.export("d")) chunks.push(chunk);
  const bytes = chunks.flatMap((chunk) => [...chunk]);
  for (const given of ["d.coppice", Uint8Array.from(bytes), Buffer.from(bytes), undefined, null, {}, 7]) {
    for (const options of [{}, { signal: new AbortController().signal }]) {
      const imported = storage.import(given as never, { id: "e", ...options });
      await expect(imported).rejects.toThrow("import wants a stream of bytes, like createReadStream(path)");
    }
  }
  expect(await storage.info("e")).toBeUndefined();
  expect(await storage.import(chunks as never, { id: "e" })).toMatchObject({ outcome: "imported" });
  await storage.close();
});

test("[ST97] a policy made of others refuses one that was not called, and what is none", () => {
  for (const make of [anyOf, allOf]) {
    expect(() => make(never, everyEvents as never)).toThrow("policy 1 is no policy; call the function");
    expect(() => make("never" as never)).toThrow("policy 0 must be a function");
    expect(make(never, everyEvents(1))).toBeTypeOf("function");
  }
});

test("[ST97] a policy that compares with a number refuses what is none", () => {
  const loose: readonly ((value?: unknown) => unknown)[] = [
    everyEvents as never,
    everyBytes as never,
    whenTailOutweighs as never,
    (minEvents = "none") => onFrontierCollapse({ minEvents } as never),
  ];
  for (const make of loose) {
    for (const given of [undefined, Number.NaN, -1, "1000", null, {}]) {
      expect(() => make(given)).toThrow("must be a number from 0, and is");
    }
    expect(make(0)).toBeTypeOf("function");
  }
});

test("[ST97] models and backends refuse options that there are not", () => {
  const loose = (options: object) => options as never;
  expect(() => memoryBackend(loose({ share: true }))).toThrow("memoryBackend has no option share");
  expect(() => tree(loose({ windw: 9 }))).toThrow("tree has no option windw");
  const reducer = { initial: 0, apply: (state: number) => state };
  expect(() => graph(loose({ ...reducer, versoin: 2 }))).toThrow("graph has no option versoin");
});

test("[ST97] a clock that is none, and an edit that goes on later, are refused", async () => {
  const storage = await DocumentStorage.open({ backend: memoryBackend(), models: [nameSet()] });
  const handle = await storage.open("d");
  for (const clock of [undefined, Number.NaN, {}, 1.5, null, -1])
    await expect(handle.waitDurable(clock as number)).rejects.toMatchObject({ code: "ARGUMENT_INVALID" });
  expect(() => handle.change(async (doc) => doc)).toThrow("change takes a function that is not async");
  const initial = async () => undefined;
  await expect(storage.open("e", { initial })).rejects.toThrow("initial takes a function that is not async");
  expect(await storage.info("e")).toBeUndefined();
  await storage.close();
});
