/** A misspelt option is refused, whichever call it is handed to, and nothing is done. */

import { DocumentStorage, graph, memoryBackend, never, tree } from "coppice";
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

test("[ST97] models and backends refuse options that there are not", () => {
  const loose = (options: object) => options as never;
  expect(() => memoryBackend(loose({ share: true }))).toThrow("memoryBackend has no option share");
  expect(() => tree(loose({ windw: 9 }))).toThrow("tree has no option windw");
  const reducer = { initial: 0, apply: (state: number) => state };
  expect(() => graph(loose({ ...reducer, versoin: 2 }))).toThrow("graph has no option versoin");
});
