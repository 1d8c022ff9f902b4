/** The simulated backend: what is durable when, and what a crash leaves. */

import { systemEnv } from "coppice";
import { type Keep, type Operation, type Sync, seededRandom, simulatedBackend } from "coppice/testing";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  bytes,
  commitPairs,
  contents,
  entriesOf,
  key,
  outcome,
  pair,
  pairs,
  put,
  survivors,
  upTo,
} from "./workload.js";

const env = systemEnv();
const SEEDS = upTo(40);

describe("what is durable", () => {
  test("[TS3] with sync each, a commit that resolved outlives every crash", async () => {
    const simulated = simulatedBackend();
    await commitPairs(await simulated.open(env), 5);
    expect(simulated.unsyncedCount).toBe(0);
    expect(simulated.crash({ keep: "none" })).toEqual({ kept: 0, lost: 0 });
    expect(pairs(await entriesOf(await simulated.open(env)))).toEqual(upTo(5));
  });

  test("[TS3] with sync never, readers see what a crash then takes", async () => {
    const simulated = simulatedBackend({ sync: "never" });
    const backend = await simulated.open(env);
    await commitPairs(backend, 5);
    expect(pairs(await entriesOf(backend))).toEqual(upTo(5));
    expect(survivors(simulated)).toEqual([]);
    expect(simulated.crash({ keep: "none" })).toEqual({ kept: 0, lost: 5 });
    expect(await entriesOf(await simulated.open(env))).toEqual([]);
  });

  test("[TS3] keep all is the death of the processes alone: nothing is lost", async () => {
    const simulated = simulatedBackend({ sync: "never" });
    await commitPairs(await simulated.open(env), 5);
    expect(simulated.crash({ keep: "all" })).toEqual({ kept: 5, lost: 0 });
    expect(simulated.crash({ keep: "none" })).toEqual({ kept: 0, lost: 0 });
    expect(survivors(simulated)).toEqual(upTo(5));
  });

  test("[TS3] with sync every n, each n-th commit makes all so far durable, and so does sync()", async () => {
    const simulated = simulatedBackend({ sync: { every: 3 } });
    const backend = await simulated.open(env);
    await commitPairs(backend, 5);
    expect(survivors(simulated)).toEqual(upTo(3));
    simulated.sync();
    expect(survivors(simulated)).toEqual(upTo(5));
    await backend.commit(pair(5));
    simulated.crash();
    expect(survivors(simulated)).toEqual(upTo(5));
    expect(() => simulatedBackend({ sync: { every: 0 } })).toThrow(RangeError);
  });

  test("[TS3] unsynced batches outlive close, but not the power", async () => {
    const simulated = simulatedBackend({ sync: "never" });
    const backend = await simulated.open(env);
    await commitPairs(backend, 3);
    await backend.close();
    const again = await simulated.open(env);
    expect(pairs(await entriesOf(again))).toEqual(upTo(3));
    await again.close();
    simulated.crash();
    expect(survivors(simulated)).toEqual([]);
  });

  test("[TS3] prefix keeps the first batches, subset any of them; each number and each hole comes about", async () => {
    const kept = { prefix: new Set<string>(), subset: new Set<string>() };
    for (const keep of ["prefix", "subset"] as const) {
      for (const seed of SEEDS) {
        const simulated = simulatedBackend({ sync: "never", seed });
        const backend = await simulated.open(env);
        for (const id of ["a", "b", "c"]) await backend.commit(put(id, 1));
        const { kept: count } = simulated.crash({ keep });
        const left = Object.keys(contents(simulated.dump())).join("");
        expect(left.length, `seed ${seed}`).toBe(count);
        kept[keep].add(left);
      }
    }
    expect([...kept.prefix].sort()).toEqual(["", "a", "ab", "abc"]);
    expect([...kept.subset].sort()).toEqual(["", "a", "ab", "abc", "ac", "b", "bc", "c"]);
  });

  test("[TS3] with sync each, readers see a batch only when no crash can take it", async () => {
    const visible: Record<string, boolean> = {};
    const simulated = simulatedBackend({
      onOperation: ({ kind }) => {
        visible[kind] = simulated.dump().length > 0;
        if (kind === "sync") expect(simulated.unsyncedCount).toBe(1);
        if (kind === "reply") expect(simulated.unsyncedCount).toBe(0);
      },
    });
    await (await simulated.open(env)).commit(put("a", 1));
    expect(visible).toEqual({ open: false, commit: false, sync: false, reply: true });
  });

  test("[TS3] the trait follows from sync, unless the disk is told to lie", () => {
    const durabilityOf = async (options: { sync?: Sync; durability?: "power" }) =>
      (await simulatedBackend(options).open(env)).traits.durability;
    return expect(
      Promise.all([
        durabilityOf({}),
        durabilityOf({ sync: "never" }),
        durabilityOf({ sync: { every: 2 } }),
        durabilityOf({ sync: "never", durability: "power" }),
      ]),
    ).resolves.toEqual(["power", "process", "process", "power"]);
  });
});

describe("crashes", () => {
  const workload = async (simulated: ReturnType<typeof simulatedBackend>, acknowledged: number[]) => {
    const backend = await simulated.open(env);
    await commitPairs(backend, 4, acknowledged);
    expect(await backend.get(key("right", 3))).toEqual(bytes(3));
    await entriesOf(backend);
    await backend.close();
  };

  test("[TS4] a crash at each operation leaves whole batches: all acknowledged, plus at most the one in flight", async () => {
    const dry = simulatedBackend();
    await workload(dry, []);
    expect(dry.operationCount).toBe(1 + 4 * 3 + 1 + 1 + 1);
    for (let index = 0; index < dry.operationCount; index++) {
      for (const keep of ["none", "all"] as const) {
        const simulated = simulatedBackend();
        const acknowledged: number[] = [];
        simulated.crashAt(index, { keep });
        expect(await simulated.untilCrash(() => workload(simulated, acknowledged))).toBe(true);
        expect(simulated.operationCount).toBe(index + 1);
        const left = survivors(simulated);
        expect(left.slice(0, acknowledged.length)).toEqual(acknowledged);
        expect(left).toEqual(upTo(left.length));
        expect(left.length - acknowledged.length).toBeLessThanOrEqual(1);
        expect(pairs(await entriesOf(await simulated.open(env)))).toEqual(left);
      }
    }
  });

  test("[TS4] without syncs, a crash at each operation still leaves whole batches, in any selection", async () => {
    const keeps: readonly Keep[] = ["none", "all", "prefix", "subset"];
    let holes = 0;
    for (let index = 0; index < 12; index++) {
      for (const keep of keeps) {
        const simulated = simulatedBackend({ sync: { every: 4 }, seed: index });
        simulated.crashAt(index, { keep });
        await simulated.untilCrash(() => commitEach(simulated, ["a", "b", "c", "d", "e", "f"]));
        const left = Object.entries(contents(simulated.dump("durable")));
        for (const [, values] of left) expect(values).toEqual([7, 7]);
        if (!"abcdef".startsWith(left.map(([id]) => id).join(""))) holes++;
      }
    }
    expect(holes).toBeGreaterThan(0);
  });

  test("[TS4] commit, sync and reply: before the effect, perhaps lost, and applied with the reply lost", async () => {
    const left = async (kind: "commit" | "sync" | "reply", keep: Keep) => {
      const simulated = simulatedBackend();
      const backend = await simulated.open(env);
      simulated.crashNext(kind, { keep });
      expect(await outcome(backend.commit(put("a", 1)))).toBe("pending");
      return simulated.dump().length;
    };
    expect(await left("commit", "all")).toBe(0);
    expect(await left("sync", "none")).toBe(0);
    expect(await left("sync", "all")).toBe(1);
    expect(await left("reply", "none")).toBe(1);
  });

  test("[TS5] calls in flight never settle, later ones reject with CLOSED, close resolves, the lock is free", async () => {
    const simulated = simulatedBackend();
    const backend = await simulated.open(env);
    await backend.commit(put("a", 1));
    const flying = [backend.commit(put("b", 1)), backend.get(key("a")), entriesOf(backend), backend.close()];
    simulated.crash();
    expect(await Promise.all(flying.map(outcome))).toEqual(flying.map(() => "pending"));
    expect(await outcome(backend.get(key("a")))).toBe("CLOSED");
    expect(await outcome(backend.commit(put("c", 1)))).toBe("CLOSED");
    expect(await outcome(entriesOf(backend))).toBe("CLOSED");
    expect(await outcome(backend.close())).toBe("resolved");
    const next = await simulated.open(env);
    expect(contents(await entriesOf(next))).toEqual({ a: [1] });
    expect(simulated.crashCount).toBe(1);
  });

  test("[TS5] a crash between two pages leaves the reader waiting", async () => {
    const simulated = simulatedBackend();
    const backend = await simulated.open(env);
    await commitPairs(backend, 3);
    const pages = backend.scan({ space: "events" }, { pageBytesMax: 1 })[Symbol.asyncIterator]();
    expect((await pages.next()).done).toBe(false);
    const second = pages.next();
    simulated.crash();
    expect(await outcome(second)).toBe("pending");
  });

  test("[TS5] a crash between the effect of an operation and its answer takes the answer", async () => {
    const simulated = simulatedBackend({
      sync: "never",
      onOperation: ({ kind }) => {
        if (kind === "get" || kind === "commit") queueMicrotask(() => simulated.crash());
      },
    });
    const backend = await simulated.open(env);
    expect(await outcome(backend.get(key("a")))).toBe("pending");
    const next = await simulated.open(env);
    expect(await outcome(next.commit(put("a", 1)))).toBe("pending");
    expect([simulated.crashCount, simulated.commitCount]).toEqual([2, 1]);
    expect(simulated.dump()).toEqual([]);
  });

  test("[TS5] what a dead process left hanging holds nobody up", async () => {
    const simulated = simulatedBackend({
      schedule: async (label) => {
        if (label === "commit of handle 0") await new Promise(() => undefined);
      },
    });
    const hanging = (await simulated.open(env)).commit(put("a", 1));
    expect(await outcome(hanging)).toBe("pending");
    simulated.crash();
    const next = await simulated.open(env);
    expect(await outcome(next.commit(put("b", 1)))).toBe("resolved");
  });

  test("[TS5] an open in flight at a crash never settles and takes no lock", async () => {
    const simulated = simulatedBackend();
    simulated.crashNext("open");
    expect(await outcome(simulated.open(env))).toBe("pending");
    expect(await outcome(simulated.open(env))).toBe("resolved");
  });

  test("[TS5] no commit of a dead process reaches the disk after the crash of another's operation", async () => {
    for (const index of upTo(14)) {
      const simulated = simulatedBackend({ exclusive: false });
      simulated.crashAt(index);
      await simulated.untilCrash(async () => {
        const backends = await Promise.all([simulated.open(env), simulated.open(env)]);
        await Promise.all(["a", "b", "c", "d"].map((id, i) => backends[i % 2]!.commit(put(id, 1))));
      });
      const left = simulated.dump("durable");
      await new Promise(setImmediate);
      expect(simulated.dump("durable")).toEqual(left);
      expect(simulated.unsyncedCount).toBe(0);
    }
  });

  test("[TS5] untilCrash passes on how work ends when nothing crashes", async () => {
    const simulated = simulatedBackend();
    expect(await simulated.untilCrash(async () => undefined)).toBe(false);
    await expect(simulated.untilCrash(() => Promise.reject(new Error("own")))).rejects.toThrow("own");
  });

  test("[TS6] one process is killed and the other goes on, with what the dead one had written", async () => {
    for (const [kind, left] of [
      ["commit", ["b"]],
      ["sync", ["a", "b"]],
      ["reply", ["a", "b"]],
    ] as const) {
      const simulated = simulatedBackend({
        exclusive: false,
        onOperation: (operation) => {
          if (operation.handle === 0 && operation.kind === kind) simulated.kill(0);
        },
      });
      const first = await simulated.open(env);
      const second = await simulated.open(env);
      expect(await outcome(first.commit(put("a", 1)))).toBe("pending");
      expect(simulated.dump("durable").length).toBe(left.length - 1);
      await second.commit(put("b", 1));
      expect(await outcome(first.get(key("a")))).toBe("CLOSED");
      expect(Object.keys(contents(await entriesOf(second)))).toEqual(left);
      expect(simulated.crashCount).toBe(0);
      expect(() => simulated.kill(0)).toThrow(RangeError);
    }
  });

  test("[TS6] killing a process does not complete the batch of another, which may still fail", async () => {
    const simulated = simulatedBackend({
      exclusive: false,
      onOperation: ({ kind }) => {
        if (kind === "sync") simulated.kill(1);
      },
    });
    const first = await simulated.open(env);
    await simulated.open(env);
    simulated.failNext("sync", "error");
    expect(await outcome(first.commit(put("a", 1)))).toBe("simulated failure of a write");
    expect(simulated.dump("durable")).toEqual([]);
  });
});

describe("repetition", () => {
  test("[TS1] the same calls with the same seed have the same operations and survivors", async () => {
    const run = async (seed: number) => {
      const operations: string[] = [];
      const simulated = simulatedBackend({
        seed,
        sync: "never",
        onOperation: ({ index, kind, handle }) => operations.push(`${index} ${kind} ${handle}`),
      });
      await commitEach(simulated, ["a", "b", "c", "d", "e", "f"]);
      simulated.crash({ keep: "subset" });
      return { operations, left: contents(simulated.dump()) };
    };
    for (const seed of SEEDS) expect(await run(seed)).toEqual(await run(seed));
    expect(await run(1)).not.toEqual(await run(2));
  });

  test("[TS1] a crash takes its chance from the given source", async () => {
    const run = async (seed: number) => {
      const simulated = simulatedBackend({ sync: "never", seed });
      await commitEach(simulated, ["a", "b", "c", "d", "e", "f"]);
      simulated.crash({ keep: "subset", random: seededRandom(4) });
      return contents(simulated.dump());
    };
    expect(await run(1)).toEqual(await run(2));
  });
});

describe("scheduling", () => {
  test("[TS7] a commit waits while another is written but not durable, and then sees it", async () => {
    let release: () => void = () => undefined;
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const simulated = simulatedBackend({
      exclusive: false,
      schedule: async (label) => {
        if (label === "sync of handle 0") await held;
      },
    });
    const [first, second] = [await simulated.open(env), await simulated.open(env)];
    const flying = first.commit(put("a", 1));
    const later = second.commit({ ...put("a", 2), expect: [{ key: key("a"), value: bytes(1) }] });
    expect(await outcome(later)).toBe("pending");
    expect([simulated.unsyncedCount, simulated.dump().length]).toEqual([1, 0]);
    release();
    await Promise.all([flying, later]);
    expect(contents(simulated.dump())).toEqual({ a: [2] });
  });

  test("[TS7] a scheduler decides the order; every commit is applied once, and conflicts lose", async () => {
    const orders = new Set<string>();
    await fc.assert(
      fc.asyncProperty(fc.scheduler(), async (scheduler) => {
        const kinds: Operation[] = [];
        const simulated = simulatedBackend({
          exclusive: false,
          schedule: (label) => scheduler.schedule(Promise.resolve(), label),
          onOperation: (operation) => kinds.push(operation),
        });
        const backends = upTo(3).map((n) =>
          simulated.open(env).then(async (backend) => {
            await backend.commit(put(`own ${n}`, n));
            return backend
              .commit({ ...put("shared", n), expect: [{ key: key("shared"), value: undefined }] })
              .then(
                () => n,
                (error: { code: string }) => error.code,
              );
          }),
        );
        await scheduler.waitFor(Promise.all(backends));
        const results = await Promise.all(backends);
        const winners = results.filter((result) => typeof result === "number");
        expect(winners).toHaveLength(1);
        expect(results.filter((result) => result === "COMMIT_CONFLICT")).toHaveLength(2);
        expect(contents(simulated.dump())).toEqual({
          "own 0": [0],
          "own 1": [1],
          "own 2": [2],
          shared: winners,
        });
        orders.add(kinds.map(({ kind, handle }) => `${kind}${handle}`).join());
      }),
      { numRuns: 60, seed: 11 },
    );
    expect(orders.size).toBeGreaterThan(30);
  });
});

async function commitEach(
  simulated: ReturnType<typeof simulatedBackend>,
  ids: readonly string[],
): Promise<void> {
  const backend = await simulated.open(env);
  for (const id of ids) await backend.commit(put(id, 7, 7));
}
