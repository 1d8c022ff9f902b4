import { join } from "node:path";
import { levelBackend } from "@coppice/level";
import { type BackendFactory, equalBytes, isCoppiceError, memoryBackend, systemEnv } from "coppice";
import { simulatedBackend } from "coppice/testing";
import fc from "fast-check";
import { expect, test } from "vitest";
import { AutomergeRepoStorage } from "../src/index.js";
import { decodeRepoKey, encodeRepoKey } from "../src/repo-keys.js";
import { withFolder } from "./folders.js";

const SEED = Number(process.env.COPPICE_SEED ?? 1);
const bytes = (...values: number[]) => Uint8Array.from(values);
const keysOf = async (storage: AutomergeRepoStorage, prefix: string[]) =>
  (await storage.loadRange(prefix)).map(({ key }) => key);

test("[AM21] prefixes match by element, whatever the elements hold", async () => {
  const storage = await AutomergeRepoStorage.open(memoryBackend());
  const keys = [
    ["AAAAA"],
    ["AAAAAB", "x"],
    ["AAAAA", "x"],
    ["AAAAA", "x/y"],
    ["AAAAA", "x", "y"],
    ["AAAAA/x"],
    ["", ""],
  ];
  for (const [index, key] of keys.entries()) await storage.save(key, bytes(index));
  expect(await keysOf(storage, ["AAAAA"])).toEqual([keys[0], keys[2], keys[3], keys[4]]);
  expect(await keysOf(storage, ["AAAAA", "x"])).toEqual([keys[2], keys[4]]);
  expect(await keysOf(storage, ["AAAA"])).toEqual([]);
  expect(await keysOf(storage, [])).toEqual(keys);
  await storage.removeRange(["AAAAA"]);
  expect(await keysOf(storage, [])).toEqual([keys[1], keys[5], keys[6]]);
  await storage.close();
});

test("[AM21] keys go to ids and back, and an id begins with another exactly when the elements do", () => {
  const element = fc.string({ unit: fc.constantFrom("a", "/", "~", "0", "1", "\0", "🌱"), maxLength: 4 });
  const key = fc.array(element, { maxLength: 4 });
  fc.assert(
    fc.property(key, key, (one, other) => {
      expect(decodeRepoKey(encodeRepoKey(one))).toEqual(one);
      const begins = one.every((part, index) => other[index] === part);
      expect(encodeRepoKey(other).startsWith(encodeRepoKey(one))).toBe(begins);
    }),
    { seed: SEED, numRuns: 500 },
  );
});

test("[AM22] values of every size are there after reopening, in the order of their last saves", async () => {
  const { folder, remove } = await withFolder();
  const backend = levelBackend(join(folder, "store"));
  const large = new Uint8Array(2_500_000).map((_, index) => (index * index) >> 3);
  let storage = await AutomergeRepoStorage.open(backend);
  await storage.save(["z"], large);
  await storage.save(["b"], bytes());
  await storage.save(["a"], bytes(1));
  await expect(AutomergeRepoStorage.open(levelBackend(join(folder, "store")))).rejects.toMatchObject({
    code: "LOCKED",
  });
  await storage.close();
  storage = await AutomergeRepoStorage.open(backend);
  await storage.save(["0"], bytes(2));
  await storage.save(["b"], bytes(3));
  const reused = bytes(7);
  const saved = storage.save(["c"], reused);
  reused[0] = 0;
  await saved;
  const found = await storage.loadRange([]);
  expect(found.map(({ key }) => key)).toEqual([["z"], ["a"], ["0"], ["b"], ["c"]]);
  expect(found.slice(1).map(({ data }) => data)).toEqual([bytes(1), bytes(2), bytes(3), bytes(7)]);
  expect(equalBytes(found[0]!.data, large)).toBe(true);
  await storage.save(["z"], bytes(9));
  expect(await storage.load(["z"])).toStrictEqual(bytes(9));
  await storage.remove(["z"]);
  await storage.remove(["z"]);
  expect(await storage.load(["z"])).toBeUndefined();
  await storage.close();
  await remove();
});

test("[AM22] a batch is saved as a whole or not at all, at every crash point", async () => {
  const batch = [
    [["d", "one"], new Uint8Array(1_500_000).fill(1)],
    [["d", "two"], bytes(2)],
    [["d", "two"], bytes(3)],
  ] as const;
  const run = async (at: number | undefined) => {
    const backend = simulatedBackend({ seed: SEED });
    const first = await AutomergeRepoStorage.open(backend);
    await first.save(["d", "one"], bytes(0));
    let acknowledged = false;
    if (at !== undefined) backend.crashAt(at);
    const crashed = await backend.untilCrash(async () => {
      await first.saveBatch(batch.map(([key, data]) => [[...key], data] as const));
      acknowledged = true;
    });
    backend.heal();
    if (!crashed) await first.close();
    const storage = await AutomergeRepoStorage.open(backend);
    const sizes = (await storage.loadRange(["d"])).map(({ data }) => data!.length);
    const two = await storage.load(["d", "two"]);
    expect(acknowledged || !crashed ? [sizes] : [[1], [1_500_000, 1]]).toContainEqual(sizes);
    if (sizes.length === 2) expect([sizes, two]).toEqual([[1_500_000, 1], bytes(3)]);
    await storage.close();
    return crashed;
  };
  let crashes = 0;
  for (let at = 0; at < 40; at++) if (await run(at)) crashes++;
  expect(crashes).toBeGreaterThan(2);
  expect(await run(undefined)).toBe(false);
});

test("[AM23] bad keys and values are refused before anything is written, and a closed one says so", async () => {
  const storage = await AutomergeRepoStorage.open(memoryBackend());
  await expect(storage.save([], bytes())).rejects.toThrow(TypeError);
  await expect(storage.load("text" as never)).rejects.toThrow(TypeError);
  await expect(storage.load([1] as never)).rejects.toThrow(TypeError);
  await expect(storage.save(["a"], "text" as never)).rejects.toThrow(TypeError);
  for (const key of [["a".repeat(512)], ["a", "b".repeat(510)], ["\ud800"]]) {
    const calls = [() => storage.save(key, bytes()), () => storage.load(key), () => storage.remove(key)];
    for (const call of calls) {
      await expect(call()).rejects.toMatchObject({
        code: "ID_INVALID",
        message: expect.stringMatching(/^a key must be well-formed Unicode of at most 512 bytes, with a sep/),
        details: { key },
      });
    }
  }
  await storage.save(["a".repeat(511)], bytes());
  await storage.remove(["a".repeat(511)]);
  expect(await storage.loadRange([])).toEqual([]);
  await storage.close();
  await storage.close();
  await expect(storage.load(["a"])).rejects.toMatchObject({ code: "CLOSED" });
});

test("[AM23] a turned bit in a stored value is CORRUPT, never another value", async () => {
  const factory = memoryBackend();
  const storage = await AutomergeRepoStorage.open(factory);
  await storage.save(["d", "snapshot", "x"], bytes(1, 2, 3));
  await storage.close();
  const key = ["chunks", "d/snapshot/x/", 0] as const;
  const backend = await factory.open(systemEnv());
  const good = (await backend.get(key))!;
  await backend.close();
  for (let bit = 0; bit < good.length * 8; bit += 3) {
    const bad = good.slice();
    bad[bit >> 3]! ^= 1 << (bit & 7);
    const raw = await factory.open(systemEnv());
    await raw.commit({ put: [{ key, value: bad }] });
    await raw.close();
    const again = await AutomergeRepoStorage.open(factory);
    for (const read of [again.load(["d", "snapshot", "x"]), again.loadRange(["d"])]) {
      const error = await read.then(
        () => undefined,
        (reason: unknown) => reason,
      );
      expect(isCoppiceError(error, "CORRUPT") || isCoppiceError(error, "FORMAT_UNSUPPORTED")).toBe(true);
    }
    await again.close();
  }
});

test("[AM24] a failed save rejects, and the next one is served by a backend that was opened anew", async () => {
  const backend = simulatedBackend({ seed: SEED });
  const storage = await AutomergeRepoStorage.open(backend);
  await storage.save(["a"], bytes(1));
  backend.failNext("sync", "unknown-lost");
  await expect(storage.save(["a"], bytes(2))).rejects.toMatchObject({ code: "OUTCOME_UNKNOWN" });
  await storage.save(["b"], bytes(3));
  await storage.save(["a"], bytes(2));
  expect((await storage.loadRange([])).map(({ data }) => data)).toEqual([bytes(3), bytes(2)]);
  await storage.close();
});

test("[AM24] a load under which the backend is opened anew after somebody's failed save is served all the same", async () => {
  const inner = simulatedBackend({ seed: SEED });
  let held: Promise<void> | undefined;
  const factory: BackendFactory = {
    name: "held",
    async open(env) {
      const backend = await inner.open(env);
      return {
        traits: backend.traits,
        get: (key) => backend.get(key),
        async *scan(range, options) {
          await held;
          yield* backend.scan(range, options);
        },
        commit: (batch) => backend.commit(batch),
        reclaim: () => backend.reclaim(),
        close: () => backend.close(),
      };
    },
  };
  const storage = await AutomergeRepoStorage.open(factory);
  await storage.save(["a"], bytes(1));
  let release = () => {};
  held = new Promise((resolve) => {
    release = resolve;
  });
  const loads = [storage.load(["a"]), storage.loadRange(["a"])] as const;
  inner.failNext("sync", "unknown-lost");
  await expect(storage.save(["b"], bytes(2))).rejects.toMatchObject({ code: "OUTCOME_UNKNOWN" });
  await storage.save(["b"], bytes(2));
  release();
  expect(await loads[0]).toEqual(bytes(1));
  expect(await loads[1]).toEqual([{ key: ["a"], data: bytes(1) }]);
  await storage.close();
});

test("[AM30] what is saved after a removal was called does not fall to it, whatever it waits for", async () => {
  for (const prefix of [["d"], []]) {
    const storage = await AutomergeRepoStorage.open(memoryBackend());
    await storage.save(["e", "old"], bytes(0));
    const calls = [
      storage.save(["d", "early"], bytes(1)),
      storage.removeRange(prefix),
      storage.save(["d", "late"], bytes(2)),
      storage.save(["d", "late"], bytes(3)),
      storage.removeRange(["d", "lat"]),
      storage.saveBatch([[["e", "late"], bytes(4)]]),
    ];
    const late = storage.load(["d", "late"]);
    const old = storage.load(["e", "old"]);
    await calls[1];
    calls.push(storage.save(["d", "late"], bytes(5)));
    expect([await late, await old]).toEqual([bytes(3), prefix.length === 0 ? undefined : bytes(0)]);
    await Promise.all(calls);
    expect(await keysOf(storage, ["d"])).toEqual([["d", "late"]]);
    expect(await storage.load(["d", "late"])).toEqual(bytes(5));
    expect(await storage.load(["e", "late"])).toEqual(bytes(4));
    await storage.close();
  }
});
