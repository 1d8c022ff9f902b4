/** What a backend gives that the contract does not allow: whoever wrote it is told what it must give. */

import { type Backend, DocumentStorage, Guard, LIMITS, memoryBackend, systemEnv } from "coppice";
import { backendCases, runCases } from "coppice/conformance";
import { expect, test } from "vitest";
import { nameSet } from "../../../../test/support/oracle-model.js";
import { changed } from "../storage/changed-backend.js";

/** What TypeScript lets nobody write. */
const any = (value: unknown) => value as never;

const models = [nameSet()] as const;
const KEY = ["events", "doc", 1] as const;
const VALUE = Uint8Array.of(1);

async function* once(page: unknown): AsyncGenerator<never> {
  yield any(page);
}

const giving = (change: Partial<Backend>) => changed(memoryBackend(), () => change);

const guarded = async (change: Partial<Backend>) =>
  new Guard(await giving(change).open(systemEnv()), systemEnv(), LIMITS);

test("[BK61] what is no backend, or lacks what one has, is refused by `DocumentStorage.open`", async () => {
  const { traits } = await memoryBackend().open(systemEnv());
  const none = () => undefined;
  const methods = { get: none, scan: none, commit: none, reclaim: none, close: none };
  const cases: [unknown, string][] = [
    [undefined, "open must give a backend with traits, and gave undefined"],
    [null, "open must give a backend with traits, and gave null"],
    ["./data", "open must give a backend with traits, and gave a string"],
    [methods, "open must give a backend with traits, and gave one without"],
    [{ ...methods, traits: null }, "open must give a backend with traits, and gave one without"],
    [{ traits }, "open must give a backend with the method get"],
    ...Object.keys(methods).map((name): [unknown, string] => [
      { ...methods, traits, [name]: undefined },
      `open must give a backend with the method ${name}`,
    ]),
    [{ ...methods, traits, reclaim: true }, "open must give a backend with the method reclaim"],
    [{ ...methods, traits, watch: true }, "watch of a backend must be a method, or absent"],
    [
      { ...methods, traits: { ...traits, durability: "disk" } },
      'the backend\'s trait durability must be "none", "process" or "power", and is disk',
    ],
    [
      { ...methods, traits: { ...traits, poisonsItself: undefined } },
      "the backend's trait poisonsItself must be true or false, and is undefined",
    ],
    [
      { ...methods, traits: { ...traits, pipelined: "yes" } },
      "the backend's trait pipelined must be true, false or absent, and is yes",
    ],
    [
      { ...methods, traits: { ...traits, valueBytesMax: Number.NaN } },
      "the backend's trait valueBytesMax must be a number of bytes, and is NaN",
    ],
  ];
  for (const [given, message] of cases) {
    const backend = { name: "none", open: async () => any(given) };
    await expect(DocumentStorage.open({ backend, models })).rejects.toThrow(new TypeError(message));
  }
});

test("[BK61] what is refused is closed, when it can be, and the reason is told even where closing fails", async () => {
  const { traits } = await memoryBackend().open(systemEnv());
  let closed = 0;
  const refused = (end: () => unknown) =>
    changed(memoryBackend(), () => ({
      traits: any({ ...traits, exclusive: "yes" }),
      close: () => {
        closed++;
        return any(end());
      },
    }));
  const ends = [
    () => undefined,
    () => Promise.reject(new Error("no")),
    () => {
      throw new Error("no");
    },
  ];
  for (const end of ends) {
    await expect(DocumentStorage.open({ backend: refused(end), models })).rejects.toThrow(/trait exclusive/);
  }
  expect(closed).toBe(3);
});

test("[BK61] a `get` that gives no bytes is a TypeError that says what it must give", async () => {
  const cases: [unknown, string][] = [
    [null, "null"],
    ["text", "a string"],
    [[1, 2], "a list"],
    [new ArrayBuffer(1), "an object (ArrayBuffer)"],
  ];
  for (const [given, kind] of cases) {
    const message = `the backend's get must give a Uint8Array or undefined, and gave ${kind}`;
    const get = async () => any(given);
    await expect((await guarded({ get })).get(KEY)).rejects.toThrow(new TypeError(message));
    const storage = await DocumentStorage.open({ backend: giving({ get }), models });
    await expect(storage.load("doc")).rejects.toThrow(new TypeError(message));
    await storage.close();
  }
});

test("[BK61] a `scan` that gives no pages of entries is a TypeError that says what it must give", async () => {
  const cases: [() => unknown, string][] = [
    [() => undefined, "the backend's scan must give an async iterable of pages, and gave undefined"],
    [() => [], "the backend's scan must give an async iterable of pages, and gave a list"],
    [async () => [], "the backend's scan must give an async iterable of pages, and gave an object (Promise)"],
    [() => once({ key: KEY, value: VALUE }), "a page of the backend's scan must be a list of entries"],
    [() => once(undefined), "a page of the backend's scan must be a list of entries, and is undefined"],
    [() => once([null]), "an entry of the backend's scan must have a key that is a list, and has undefined"],
    [() => once([{ key: "events", value: VALUE }]), "must have a key that is a list, and has a string"],
    [() => once([{ key: KEY }]), "must have a value that is a Uint8Array, and has undefined"],
    [() => once([{ key: KEY, value: "text" }]), "must have a value that is a Uint8Array, and has a string"],
  ];
  for (const [scan, message] of cases) {
    const guard = await guarded({ scan: () => any(scan()) });
    const [outcome] = await Promise.allSettled([guard.scan({ space: "events" }).next()]);
    expect(outcome).toMatchObject({ reason: { message: expect.stringContaining(message) } });
    expect(outcome).toMatchObject({ reason: expect.any(TypeError) });
  }
});

test("[BK24] a `scan` that throws at once is as one that fails later: UNAVAILABLE, with the cause", async () => {
  const cause = new TypeError("an internal one");
  const scan = () => {
    throw cause;
  };
  const pages = (await guarded({ scan })).scan({ space: "events" });
  await expect(pages.next()).rejects.toMatchObject({ code: "UNAVAILABLE", cause });
});

test("[BK61] bytes of another realm are bytes, and come out as plain ones", async () => {
  const { runInNewContext } = await import("node:vm");
  const foreign: Uint8Array = runInNewContext("Uint8Array.of(1, 2)");
  expect(foreign).not.toBeInstanceOf(Uint8Array);
  const found = await (await guarded({ get: async () => foreign })).get(KEY);
  expect(found).toStrictEqual(Uint8Array.of(1, 2));
});

test("[BK61] the kit says what a backend must give, also where it asks the backend itself", async () => {
  const defects: [Partial<Backend>, RegExp][] = [
    [{ get: async () => any(null) }, /get must give a Uint8Array or undefined, and gave null/],
    [{ scan: () => once({ key: KEY, value: VALUE }) }, /a page of .* must be a list of entries/],
    [{ scan: () => any([]) }, /scan must give an async iterable of pages, and gave a list/],
    [{ traits: any(undefined) }, /open must give a backend with traits, and gave one without/],
  ];
  const cases = backendCases.filter(({ rule }) => ["BK1", "BK2", "BK6", "BK8", "BK28"].includes(rule));
  for (const [change, message] of defects) {
    const { results } = await runCases(cases, { name: "none", create: async () => giving(change) });
    const failed = results.filter(({ status }) => status === "failed");
    expect(failed.length).toBeGreaterThan(0);
    for (const { reason, title } of failed) expect(reason, title).toMatch(message);
  }
});
