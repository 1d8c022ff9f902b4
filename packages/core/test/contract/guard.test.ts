import {
  type Backend,
  type Batch,
  CoppiceError,
  commitConflict,
  Guard,
  isCoppiceError,
  type Key,
  LIMITS,
  systemEnv,
  type Traits,
} from "coppice";
import { expect, test } from "vitest";
import { memoryBackend } from "../../src/backends/memory.js";

const KEY: Key = ["events", "doc", 1];
const PUT: Batch = { put: [{ key: KEY, value: Uint8Array.of(1) }] };

/** The memory backend behind a guard, with some of its methods or traits replaced. */
async function guarded(
  change: (inner: Backend) => Partial<Backend> = () => ({}),
  traits: Partial<Traits> = {},
): Promise<{ guard: Guard; calls: string[]; inner: Backend }> {
  const env = systemEnv();
  const inner = await memoryBackend().open(env);
  const calls: string[] = [];
  const whole: Backend = {
    traits: { ...inner.traits, ...traits },
    get: (key) => inner.get(key),
    scan: (range, options) => inner.scan(range, options),
    commit: (batch) => inner.commit(batch),
    watch: () => () => undefined,
    reclaim: () => inner.reclaim(),
    close: () => inner.close(),
    ...change(inner),
  };
  const counted = new Proxy(whole, {
    get(target, name: keyof Backend) {
      if (name !== "traits") calls.push(name);
      return target[name];
    },
  });
  const guard = new Guard(counted, env, LIMITS);
  calls.length = 0; // it has looked whether the methods are there
  return { guard, calls, inner };
}

const code = (expected: string) => expect.objectContaining({ code: expected });

test("[BK14] after close every call is refused with CLOSED and the backend is called no more", async () => {
  const { guard, calls } = await guarded();
  await guard.commit(PUT);
  await Promise.all([guard.close(), guard.close()]);
  await guard.close();
  expect(calls.filter((name) => name === "close")).toHaveLength(1);
  calls.length = 0;
  await expect(guard.get(KEY)).rejects.toThrow(code("CLOSED"));
  await expect(guard.commit(PUT)).rejects.toThrow(code("CLOSED"));
  await expect(guard.scan({ space: "events" }).next()).rejects.toThrow(code("CLOSED"));
  expect(() => guard.watch(() => undefined)).toThrow(code("CLOSED"));
  expect(calls).toEqual([]);
});

test("[RC28] a guard that is retired refuses every call with POISONED, with CLOSED once it is closed", async () => {
  const closed = new CoppiceError("CLOSED", "the engine is closed");
  let end = () => {};
  const { guard, calls } = await guarded(() => ({
    // An engine that is closed under a read says so itself.
    get: () => new Promise((_, reject) => (end = () => reject(closed))),
  }));
  const reading = guard.get(KEY);
  await guard.retire();
  end();
  await expect(reading).rejects.toThrow(code("POISONED"));
  calls.length = 0;
  await expect(guard.get(KEY)).rejects.toThrow(code("POISONED"));
  await expect(guard.commit(PUT)).rejects.toThrow(code("POISONED"));
  await expect(guard.reclaim()).rejects.toThrow(code("POISONED"));
  const failure = new Error("the disk is full");
  guard.stranded(failure);
  await expect(guard.scan({ space: "events" }).next()).rejects.toMatchObject({
    code: "POISONED",
    cause: failure,
  });
  await guard.close();
  await expect(guard.get(KEY)).rejects.toThrow(code("CLOSED"));
  expect(calls).toEqual([]);
});

test("[BK14] close waits for the commits that were submitted, and passes on its failure each time", async () => {
  const order: string[] = [];
  const { guard } = await guarded((inner) => ({
    commit: async (batch) => {
      await new Promise((resolve) => setTimeout(resolve, 5));
      await inner.commit(batch);
      order.push("committed");
    },
    close: async () => {
      order.push("closed");
      throw new Error("close failed");
    },
  }));
  const committed = guard.commit(PUT);
  await expect(guard.close()).rejects.toThrow("close failed");
  await expect(guard.close()).rejects.toThrow("close failed");
  await committed;
  expect(order).toEqual(["committed", "closed"]);
});

test("[BK14] close waits for a reclaim that is under way", async () => {
  const order: string[] = [];
  const { guard } = await guarded((inner) => ({
    reclaim: async () => {
      await new Promise((resolve) => setImmediate(resolve));
      order.push("reclaimed");
    },
    close: async () => {
      order.push("closed");
      await inner.close();
    },
  }));
  const reclaiming = guard.reclaim();
  await undefined;
  await guard.close();
  expect(order).toEqual(["reclaimed", "closed"]);
  await reclaiming;
});

test("[BK24] a backend that poisons itself gets no commit after one that failed, and reads go on", async () => {
  let failing = true;
  const { guard, calls } = await guarded(
    (inner) => ({
      commit: async (batch) => {
        if (failing) throw new CoppiceError("UNAVAILABLE", "disk full");
        await inner.commit(batch);
      },
    }),
    { poisonsItself: true },
  );
  const [first, second] = await Promise.allSettled([guard.commit(PUT), guard.commit(PUT)]);
  expect(first).toMatchObject({ status: "rejected", reason: { code: "UNAVAILABLE" } });
  expect(second).toMatchObject({ status: "rejected", reason: { code: "POISONED" } });
  failing = false;
  await expect(guard.commit(PUT)).rejects.toThrow(code("POISONED"));
  await expect(guard.reclaim()).rejects.toThrow(code("POISONED"));
  expect(calls.filter((name) => name === "commit" || name === "reclaim")).toEqual(["commit"]);
  expect(isCoppiceError(guard.poison, "UNAVAILABLE")).toBe(true);
  expect(await guard.get(KEY)).toBeUndefined();
  await guard.close();
});

test("[BK24] a conflict poisons nothing, and a backend that does not poison itself goes on", async () => {
  const own = await guarded(() => ({}), { poisonsItself: true });
  const wrong = { ...PUT, expect: [{ key: KEY, value: Uint8Array.of(9) }] };
  await expect(own.guard.commit(wrong)).rejects.toThrow(code("COMMIT_CONFLICT"));
  await own.guard.commit(PUT);
  let failing = true;
  const server = await guarded((inner) => ({
    commit: async (batch) => {
      if (failing) throw new Error("connection lost");
      await inner.commit(batch);
    },
  }));
  await expect(server.guard.commit(PUT)).rejects.toThrow(code("OUTCOME_UNKNOWN"));
  failing = false;
  await server.guard.commit(PUT);
  expect(server.guard.poison).toBeUndefined();
});

test("[BK24] failures that the contract does not name become named ones, with their cause", async () => {
  const cause = new Error("engine");
  const { guard } = await guarded(() => ({
    get: async () => {
      throw cause;
    },
    scan: () => {
      return {
        [Symbol.asyncIterator]: () => ({
          next: async () => {
            throw cause;
          },
        }),
      };
    },
    commit: async () => {
      throw cause;
    },
  }));
  await expect(guard.get(KEY)).rejects.toMatchObject({ code: "UNAVAILABLE", cause });
  await expect(guard.scan({ space: "events" }).next()).rejects.toMatchObject({ code: "UNAVAILABLE", cause });
  await expect(guard.commit(PUT)).rejects.toMatchObject({ code: "OUTCOME_UNKNOWN", cause });
  const other = await guarded(() => ({ commit: async () => Promise.reject(commitConflict(KEY)) }));
  await expect(other.guard.commit(PUT)).rejects.toMatchObject({
    code: "COMMIT_CONFLICT",
    details: { key: KEY },
  });
});

test("[BK17] values and commits over the traits' maxima are refused before the backend is called", async () => {
  const { guard, calls } = await guarded(() => ({}), { valueBytesMax: 10, commitBytesMax: 25 });
  const entries = (...lengths: number[]) => ({
    put: lengths.map((length, seq) => ({
      key: ["events", "doc", seq] as const,
      value: new Uint8Array(length),
    })),
  });
  const limit = (name: string) => ({ code: "BATCH_TOO_LARGE", details: { limit: name } });
  await expect(guard.commit(entries(1, 11))).rejects.toMatchObject(limit("valueBytesMax"));
  await expect(guard.commit(entries(10, 10, 6))).rejects.toMatchObject(limit("commitBytesMax"));
  expect(calls).toEqual([]);
  await guard.commit(entries(10, 10, 5));
});

test("[BK17] a value that is no Uint8Array is a TypeError before the backend is called", async () => {
  const { guard, calls } = await guarded();
  for (const value of ["text", undefined, [1], new Uint16Array(1), new ArrayBuffer(1)]) {
    await expect(
      guard.commit({ put: [{ key: KEY, value: value as unknown as Uint8Array }] }),
    ).rejects.toThrow(TypeError);
  }
  expect(calls).toEqual([]);
});

test("[BK2] a Buffer from a backend comes out as a plain Uint8Array with the same bytes", async () => {
  const { guard } = await guarded(() => ({ get: async () => Buffer.from("hello") }));
  const value = await guard.get(KEY);
  expect(Object.getPrototypeOf(value)).toBe(Uint8Array.prototype);
  expect(value).toEqual(new TextEncoder().encode("hello"));
});

test("[BK7] ending a guarded scan early, by abort too, ends the backend's scan", async () => {
  let returned = 0;
  const { guard } = await guarded(() => ({
    async *scan() {
      try {
        for (;;) yield [{ key: KEY, value: new Uint8Array(0) }];
      } finally {
        returned++;
      }
    },
  }));
  for await (const _ of guard.scan({ space: "events" })) break;
  expect(returned).toBe(1);
  const abort = new AbortController();
  const scan = guard.scan({ space: "events" }, { signal: abort.signal });
  await scan.next();
  abort.abort(new Error("enough"));
  await expect(scan.next()).rejects.toThrow("enough");
  expect(returned).toBe(2);
});

/**
 * What 40 writers are told whose groups go ahead, of the first two that are handed over together: each is as the backend
 * says. `failsFirst`: the second rejects before the first.
 */
async function twoFail(
  codes: readonly ("OUTCOME_UNKNOWN" | "UNAVAILABLE" | "POISONED")[],
  failsFirst: boolean,
) {
  const inner = await memoryBackend().open(systemEnv());
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  const two: Batch[] = [];
  let underway: Batch | undefined;
  const commit = async (batch: Batch): Promise<void> => {
    const fail = (i: number) => new CoppiceError(codes[i]!, "simulated");
    if (underway !== undefined) {
      two.push(underway, batch);
      if (!failsFirst) for (let i = 0; i < 5; i++) await turn();
      throw fail(1);
    }
    underway = batch;
    await turn();
    underway = undefined;
    if (two.length > 0) throw fail(0);
  };
  const traits: Traits = { ...inner.traits, poisonsItself: true, pipelined: true };
  // Work takes time here, which is what makes groups go ahead.
  let ticks = 0;
  const env = { ...systemEnv(), elapsed: () => (ticks += 0.02) };
  const own = { get: inner.get, scan: inner.scan, reclaim: inner.reclaim, close: () => inner.close() };
  const guard = new Guard({ ...own, traits, commit }, env, LIMITS);
  const told = new Map<string, unknown>();
  const writer = async (id: string): Promise<void> => {
    for (let n = 0; n < 50; n++) {
      const key: Key = ["events", id, n];
      const error: unknown = await guard
        .commit({ put: [{ key, value: Uint8Array.of(n) }] })
        .catch((failure: unknown) => failure);
      if (isCoppiceError(error)) return void told.set(String(key), error.code);
    }
  };
  await Promise.all(Array.from({ length: 40 }, (_, i) => writer(`doc${i}`)));
  await expect(guard.commit(PUT)).rejects.toThrow(code("POISONED"));
  await guard.close();
  return two.map(({ put }) => [...new Set(put!.map(({ key }) => told.get(String(key))))]);
}

test("[BK57] of two that are handed over together, each that may have been written is in doubt, whichever fails first", async () => {
  expect(await twoFail(["OUTCOME_UNKNOWN", "UNAVAILABLE"], true)).toEqual([
    ["OUTCOME_UNKNOWN"],
    ["UNAVAILABLE"],
  ]);
  expect(await twoFail(["UNAVAILABLE", "OUTCOME_UNKNOWN"], false)).toEqual([
    ["UNAVAILABLE"],
    ["OUTCOME_UNKNOWN"],
  ]);
  expect(await twoFail(["OUTCOME_UNKNOWN", "POISONED"], false)).toEqual([["OUTCOME_UNKNOWN"], ["POISONED"]]);
});

test("[BK67] reads that are answered without leaving the thread let timers come in", async () => {
  const { guard } = await guarded();
  await guard.commit(PUT);
  for (const read of [() => guard.get(KEY), () => guard.scan({ space: "events" }).next()]) {
    let over = false;
    const timer = setTimeout(() => {
      over = true;
    }, 20);
    const began = performance.now();
    while (!over && performance.now() - began < 2000) await read();
    clearTimeout(timer);
    expect(over).toBe(true);
  }
});

test("[BK67] pages of one scan that are answered so let timers come in, and a signal ends it there", async () => {
  const endless = async function* () {
    for (;;) yield [{ key: KEY, value: Uint8Array.of(1) }];
  };
  const { guard } = await guarded(() => ({ scan: endless }));
  const stop = new AbortController();
  setTimeout(() => stop.abort(new Error("stopped")), 20);
  const began = performance.now();
  const walk = async () => {
    for await (const _ of guard.scan({ space: "events" }, { signal: stop.signal })) {
      if (performance.now() - began > 2000) throw new Error("it went on");
    }
  };
  await expect(walk()).rejects.toThrow("stopped");
});

test("[BK67] a backend that closes while a read waits for its turn is asked no more", async () => {
  const { guard, calls } = await guarded();
  await guard.get(KEY);
  const began = performance.now();
  while (performance.now() - began < 10);
  const reading = guard.get(KEY);
  calls.length = 0;
  const closing = guard.close();
  await expect(reading).rejects.toThrow(code("CLOSED"));
  await closing;
  expect(calls).toEqual(["close"]);
});
