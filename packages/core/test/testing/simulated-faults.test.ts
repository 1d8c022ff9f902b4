/** The simulated backend: faults, damage, locks, hints and counts. */

import { CoppiceError, Guard, LIMITS, systemEnv } from "coppice";
import { type Fault, type Operation, simulatedBackend, simulatedEnv } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { bytes, contents, entriesOf, key, outcome, put, upTo } from "./workload.js";

const env = systemEnv();
const FAULTS: readonly Fault[] = ["unavailable", "error", "unknown-lost", "unknown-applied"];

describe("faults", () => {
  test("[TS8] on a commit each fault rejects as named, and only unknown-applied applies", async () => {
    for (const kind of ["commit", "sync"] as const) {
      const seen: Record<string, [string, number]> = {};
      for (const fault of FAULTS) {
        const simulated = simulatedBackend();
        const backend = await simulated.open(env);
        simulated.failNext(kind, fault);
        const how = await outcome(backend.commit(put("a", 1)));
        seen[fault] = [how, simulated.dump("durable").length];
        expect(simulated.unsyncedCount).toBe(0);
        await backend.commit(put("b", 2));
        expect((await backend.get(key("b")))?.[0]).toBe(2);
      }
      expect(seen).toEqual({
        unavailable: ["UNAVAILABLE", 0],
        error: ["simulated failure of a write", 0],
        "unknown-lost": ["OUTCOME_UNKNOWN", 0],
        "unknown-applied": ["OUTCOME_UNKNOWN", 1],
      });
    }
  });

  test("[TS8] on a reply the batch is applied whatever the fault", async () => {
    for (const fault of FAULTS) {
      const simulated = simulatedBackend({ sync: "never" });
      const backend = await simulated.open(env);
      simulated.failNext("reply", fault);
      const expected =
        fault === "error" ? "simulated failure after the batch was applied" : "OUTCOME_UNKNOWN";
      expect(await outcome(backend.commit(put("a", 1)))).toBe(expected);
      expect(contents(await entriesOf(backend))).toEqual({ a: [1] });
    }
  });

  test("[TS8] a sync that fails takes back its own batch and no other", async () => {
    const simulated = simulatedBackend({ sync: { every: 2 } });
    const backend = await simulated.open(env);
    await backend.commit(put("a", 1));
    simulated.failNext("sync", "error");
    await expect(backend.commit(put("a", 2))).rejects.toThrow("simulated failure of a write");
    expect(contents(await entriesOf(backend))).toEqual({ a: [1] });
    expect(simulated.unsyncedCount).toBe(1);
  });

  test("[TS8] a conflict stays a conflict when the outcome would have been unknown", async () => {
    const simulated = simulatedBackend();
    const backend = await simulated.open(env);
    simulated.failNext("commit", "unknown-applied");
    const conflict = backend.commit({ ...put("a", 1), expect: [{ key: key("b"), value: bytes(1) }] });
    await expect(conflict).rejects.toMatchObject({ code: "COMMIT_CONFLICT", details: { key: key("b") } });
    expect(simulated.dump()).toEqual([]);
  });

  test("[TS8] reads, opens and closes fail too; a failed open takes no lock, a failed close releases it", async () => {
    const simulated = simulatedBackend();
    simulated.failNext("open", "unavailable");
    expect(await outcome(simulated.open(env))).toBe("UNAVAILABLE");
    expect(() => simulated.kill(0)).toThrow(RangeError);
    const backend = await simulated.open(env);
    await backend.commit(put("a", 1));
    for (const fault of FAULTS) {
      const expected = fault === "unavailable" ? "UNAVAILABLE" : "simulated failure of an operation";
      simulated.failNext("get", fault);
      expect(await outcome(backend.get(key("a")))).toBe(expected);
      simulated.failNext("scan", fault);
      expect(await outcome(entriesOf(backend))).toBe(expected);
    }
    expect(contents(await entriesOf(backend))).toEqual({ a: [1] });
    simulated.failNext("close", "error");
    expect(await outcome(backend.close())).toBe("simulated failure of an operation");
    expect(await outcome(backend.get(key("a")))).toBe("CLOSED");
    expect(await outcome(simulated.open(env))).toBe("resolved");
  });

  test("[TS8] once is once; sticky lasts for the operations of its kind until heal", async () => {
    const simulated = simulatedBackend();
    const backend = await simulated.open(env);
    const commits = async () => {
      const outcomes = [];
      for (const n of upTo(3)) outcomes.push(await outcome(backend.commit(put("a", n))));
      return outcomes;
    };
    simulated.failAt(simulated.operationCount + 3, "unavailable");
    expect(await commits()).toEqual(["resolved", "UNAVAILABLE", "resolved"]);
    simulated.failAt(simulated.operationCount + 3, "unavailable", { sticky: true });
    expect(await commits()).toEqual(["resolved", "UNAVAILABLE", "UNAVAILABLE"]);
    expect(await outcome(backend.get(key("a")))).toBe("resolved");
    simulated.heal();
    expect(await commits()).toEqual(["resolved", "resolved", "resolved"]);
  });

  test("[TS8] a fault at each operation of a run fails exactly that operation", async () => {
    const run = async (failing?: number) => {
      const failures: number[] = [];
      const simulated = simulatedBackend({
        faults: ({ index }: Operation) => (index === failing ? "error" : undefined),
      });
      const backend = await simulated.open(env).catch(() => simulated.open(env));
      for (const work of [
        () => backend.commit(put("a", 1)),
        () => backend.get(key("a")),
        () => entriesOf(backend),
        () => backend.close(),
      ]) {
        await work().catch(() => failures.push(simulated.operationCount - 1));
      }
      return { failures, count: simulated.operationCount };
    };
    const { failures, count } = await run();
    expect([failures, count]).toEqual([[], 7]);
    for (const index of upTo(count).slice(1)) expect((await run(index)).failures).toEqual([index]);
  });

  test("[TS8] the guard takes a plain error for an unknown outcome, and is poisoned when the trait says so", async () => {
    for (const poisonsItself of [true, false]) {
      const simulated = simulatedBackend({ poisonsItself });
      const guard = new Guard(await simulated.open(env), env, LIMITS);
      simulated.failNext("commit", "error");
      expect(await outcome(guard.commit(put("a", 1)))).toBe("OUTCOME_UNKNOWN");
      expect(await outcome(guard.commit(put("a", 1)))).toBe(poisonsItself ? "POISONED" : "resolved");
    }
  });
});

describe("scans", () => {
  const ids = ["A", "a", "b", "c", "é", "\u{1f600}"];

  test("[TS10] pages, limits and both directions give each key once, in the order of its bytes", async () => {
    const simulated = simulatedBackend();
    const backend = await simulated.open(env);
    await backend.commit({ put: ids.map((id, i) => ({ key: key(id), value: bytes(i) })) });
    for (const reverse of [false, true]) {
      const all = reverse ? ids.toReversed() : ids;
      for (const limit of upTo(8).slice(1)) {
        for (const pageBytesMax of [1, 30, 1000]) {
          const found: string[] = [];
          for await (const page of backend.scan({ space: "events" }, { reverse, limit, pageBytesMax })) {
            expect(page.length).toBeGreaterThan(0);
            if (pageBytesMax === 1) expect(page.length).toBe(1);
            found.push(...page.map((entry) => entry.key[1]));
          }
          expect(found).toEqual(all.slice(0, limit));
        }
      }
    }
  });

  test("[TS10] an aborted scan rejects with the reason of its signal before the next page", async () => {
    const backend = await simulatedBackend().open(env);
    await backend.commit({ put: ids.map((id, i) => ({ key: key(id), value: bytes(i) })) });
    const abort = new AbortController();
    const pages = backend.scan({ space: "events" }, { pageBytesMax: 1, signal: abort.signal });
    const iterator = pages[Symbol.asyncIterator]();
    await iterator.next();
    abort.abort("enough");
    await expect(iterator.next()).rejects.toBe("enough");
  });
});

describe("damage", () => {
  const damaged = async () => {
    const simulated = simulatedBackend();
    const backend = await simulated.open(env);
    await backend.commit({ put: ["a", "b"].map((id, i) => ({ key: key(id), value: bytes(i, 255, 3) })) });
    return { simulated, read: async () => contents(await entriesOf(backend)) };
  };

  test("[TS9] damage changes what it names, for open handles too, and nothing else", async () => {
    const { simulated, read } = await damaged();
    simulated.flip(key("a"), 1, 0b1000_0001);
    expect(await read()).toEqual({ a: [0, 0b0111_1110, 3], b: [1, 255, 3] });
    simulated.flip(key("a"), 1, 0b1000_0001);
    simulated.truncate(key("b"), 1);
    expect(await read()).toEqual({ a: [0, 255, 3], b: [1] });
    simulated.swapValues(key("a"), key("b"));
    expect(await read()).toEqual({ a: [1], b: [0, 255, 3] });
    simulated.putRaw(key("c"), bytes(9));
    simulated.deleteRaw(key("a"));
    expect(await read()).toEqual({ b: [0, 255, 3], c: [9] });
    simulated.crash();
    expect(contents(simulated.dump())).toEqual({ b: [0, 255, 3], c: [9] });
  });

  test("[TS9] damage that would change nothing is refused", async () => {
    const { simulated } = await damaged();
    for (const useless of [
      () => simulated.flip(key("none"), 0),
      () => simulated.flip(key("a"), 3),
      () => simulated.flip(key("a"), 0, 0x100),
      () => simulated.truncate(key("a"), 3),
      () => simulated.truncate(key("a"), -1),
      () => simulated.swapValues(key("a"), key("none")),
      () => simulated.deleteRaw(key("none")),
    ]) {
      expect(useless).toThrow(RangeError);
    }
  });

  test("[TS9] damage is refused while an unsynced batch could undo it", async () => {
    const simulated = simulatedBackend({ sync: "never" });
    await (await simulated.open(env)).commit(put("a", 1));
    expect(() => simulated.flip(key("a"), 0)).toThrow("sync()");
    expect(() => simulated.putRaw(key("a"), bytes(1))).toThrow("sync()");
    expect(() => simulated.restore([])).toThrow("sync()");
    simulated.sync();
    simulated.flip(key("a"), 0, 2);
    expect(contents(simulated.dump())).toEqual({ a: [3] });
  });

  test("[TS9] a dump is a copy in key order, and restore puts it back", async () => {
    const { simulated, read } = await damaged();
    const dump = simulated.dump();
    simulated.putRaw(key("Z"), bytes());
    expect(simulated.keys()).toEqual([key("Z"), key("a"), key("b")]);
    simulated.flip(key("a"), 0);
    simulated.restore(dump);
    dump[0]!.value[0] = 77;
    expect(await read()).toEqual({ a: [0, 255, 3], b: [1, 255, 3] });
  });
});

describe("locks, hints and counts", () => {
  test("[TS10] an exclusive store has one open at a time, and no watch", async () => {
    const simulated = simulatedBackend();
    const backend = await simulated.open(env);
    await expect(simulated.open(env)).rejects.toBeInstanceOf(CoppiceError);
    expect(await outcome(simulated.open(env))).toBe("LOCKED");
    expect(backend.watch).toBeUndefined();
    await backend.close();
    await backend.close();
    expect(await outcome(simulated.open(env))).toBe("resolved");
  });

  test("[TS10] handles of a shared store see each other's commits, and watch hints at them", async () => {
    const simulated = simulatedBackend({ exclusive: false });
    const [first, second] = await Promise.all([simulated.open(env), simulated.open(env)]);
    expect([first.traits.exclusive, first.traits.poisonsItself]).toEqual([false, false]);
    let hints = 0;
    const stop = second.watch?.(() => hints++);
    await first.commit(put("a", 1));
    await new Promise(setImmediate);
    expect(hints).toBe(1);
    expect(await second.get(key("a"))).toEqual(bytes(1));
    stop?.();
    await first.commit(put("a", 2));
    await new Promise(setImmediate);
    expect(hints).toBe(1);
  });

  test("[TS10] a hint that is on its way does not reach who stopped watching, or died", async () => {
    const turns: (() => void)[] = [];
    const slow = simulatedEnv(1, { turn: (callback) => turns.push(callback) });
    const simulated = simulatedBackend({ exclusive: false });
    const writer = await simulated.open(env);
    const watching = await Promise.all(upTo(3).map(() => simulated.open(slow)));
    const hints = [0, 0, 0];
    const stops = watching.map((backend, n) => backend.watch?.(() => hints[n]!++));
    await writer.commit(put("a", 1));
    stops[0]?.();
    simulated.kill(3);
    for (const turn of turns) turn();
    expect([turns.length, ...hints]).toEqual([3, 0, 1, 0]);
  });

  test("[TS10] the hint comes when the commit is visible, not before", async () => {
    const simulated = simulatedBackend({ exclusive: false });
    const backend = await simulated.open(env);
    const seen: Promise<Uint8Array | undefined>[] = [];
    backend.watch?.(() => seen.push(backend.get(key("a"))));
    await backend.commit(put("a", 5));
    await new Promise(setImmediate);
    expect(await Promise.all(seen)).toEqual([bytes(5)]);
  });

  test("[TS10] commits and bytes of values are counted, conflicts and failures are not", async () => {
    const simulated = simulatedBackend();
    const backend = await simulated.open(env);
    await backend.commit(put("a", 1, 2, 3));
    await backend.commit({ delete: [key("a")] });
    simulated.failNext("commit", "error");
    await outcome(backend.commit(put("a", 1)));
    await outcome(backend.commit({ ...put("a", 1), expect: [{ key: key("a"), value: bytes(1) }] }));
    expect([simulated.commitCount, simulated.bytesCommitted]).toEqual([2, 3]);
  });

  test("[TS10] the store keeps no reference to what it was given, and gives none away", async () => {
    const simulated = simulatedBackend();
    const backend = await simulated.open(env);
    const value = bytes(1);
    const commit = backend.commit({ put: [{ key: key("a"), value }] });
    value[0] = 9;
    await commit;
    (await backend.get(key("a")))![0] = 8;
    (await entriesOf(backend))[0]!.value[0] = 7;
    expect(contents(simulated.dump())).toEqual({ a: [1] });
  });
});
