import { type Entry, systemEnv } from "coppice";
import { type BackendSubject, backendCases, runCase } from "coppice/conformance";
import { describe, expect, test } from "vitest";
import { memoryBackend } from "../../src/backends/memory.js";

const subjects: BackendSubject[] = [
  {
    name: "memory, exclusive",
    create: async () => memoryBackend(),
    crash: async () => memoryBackend(),
  },
  {
    name: "memory, shared",
    create: async () => memoryBackend({ shared: true }),
    crash: async () => memoryBackend({ shared: true }),
  },
];

// It promises nothing beyond the process: of the cases about crashes only those hold that no promise is made in.
const cases = backendCases.filter(
  ({ level, rule }) => level === "contract" || level === "race" || (level === "crash" && rule === "BK3"),
);

for (const subject of subjects) {
  describe(subject.name, () => {
    for (const item of cases) {
      test(item.name, (context) => runCase(item, subject, (reason) => context.skip(reason)));
    }
  });
}

describe("memory, beyond the contract", () => {
  test("[BK22] two factories share nothing", async () => {
    const env = systemEnv();
    const [one, other] = [await memoryBackend().open(env), await memoryBackend().open(env)];
    await one.commit({ put: [{ key: ["events", "doc", 1], value: Uint8Array.of(1) }] });
    expect(await other.get(["events", "doc", 1])).toBeUndefined();
  });

  test("[BK22] it declares the durability it was told, and none by default", async () => {
    const env = systemEnv();
    expect((await memoryBackend().open(env)).traits.durability).toBe("none");
    expect((await memoryBackend({ durability: "process" }).open(env)).traits.durability).toBe("process");
  });

  test("[BK22] a batch that is not well formed is rejected before anything changes", async () => {
    const backend = await memoryBackend().open(systemEnv());
    const put = [
      { key: ["events", "doc", 1] as const, value: Uint8Array.of(1) },
      { key: ["events", "doc", 2] as const, value: null as unknown as Uint8Array },
    ];
    await expect(backend.commit({ put })).rejects.toThrow(TypeError);
    expect(await backend.get(["events", "doc", 1])).toBeUndefined();
  });

  test("[BK22] a hundred thousand keys in mixed order are found, in order, and deleted", async () => {
    const backend = await memoryBackend().open(systemEnv());
    const count = 100_000;
    // 7919 has no factor in common with the count: every seq comes once, far from the one before.
    for (let i = 0; i < count; i += 1000) {
      const put = Array.from({ length: 1000 }, (_, j): Entry => {
        const seq = ((i + j) * 7919) % count;
        return { key: ["events", `doc${seq % 3}`, seq], value: Uint8Array.of(seq & 0xff) };
      });
      await backend.commit({ put });
    }
    let expected = 0;
    for await (const page of backend.scan({ space: "events", id: "doc0" }, { pageBytesMax: 10_000 })) {
      for (const { key } of page) {
        expect(key[2]).toBe(expected);
        expected += 3;
      }
    }
    expect(expected).toBe(100_002);
    expect(await backend.get(["events", "doc1", 54_322])).toEqual(Uint8Array.of(54_322 & 0xff));
    await backend.commit({ delete: [{ space: "events", id: "doc1", from: 10, to: 99_990 }] });
    let left = 0;
    for await (const page of backend.scan({ space: "events", id: "doc1" })) left += page.length;
    expect(left).toBe(3 + 3);
  });
});
