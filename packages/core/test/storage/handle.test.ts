import { DocumentStorage, memoryBackend, never, type Observer, type StorageOptions } from "coppice";
import { type Operation, simulatedBackend } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { add, nameSet, naming } from "../../../../test/support/oracle-model.js";

const models = [nameSet()] as const;
type Storage = DocumentStorage<typeof models>;
const open = (options: Partial<StorageOptions<typeof models>> = {}): Promise<Storage> =>
  DocumentStorage.open({ backend: memoryBackend(), models, snapshotPolicy: never, ...options });
const names = async (storage: Storage, id = "d") => [...((await storage.load(id))?.doc.names.keys() ?? [])];

describe("handles", () => {
  test("[ST40] a save is one batch of everything since the last, and resolves with its clock", async () => {
    const storage = await open();
    const handle = await storage.open("d");
    expect(await handle.save()).toBe(0);
    for (const name of ["a", "b", "c"]) handle.change(add(name));
    handle.receive([naming("remote")]);
    handle.change(add("d"));
    expect(await handle.save()).toBe(5);
    expect([handle.clock, handle.durableClock, handle.unsaved]).toEqual([5, 5, false]);
    const found: unknown[] = [];
    for await (const entry of storage.history("d"))
      found.push(entry.kind === "batch" && [entry.clock, entry.end]);
    expect(found).toEqual([[0, 5]]);
    expect(await names(storage)).toEqual(["a", "b", "c", "remote", "d"]);
    await storage.close();
  });

  test("[ST41] calls of save while one is in flight share the next one", async () => {
    let commits = 0;
    const storage = await open({ observer: { append: () => commits++ } });
    const handle = await storage.open("d");
    handle.change(add("a"));
    const first = handle.save();
    handle.change(add("b"));
    const rest = [handle.save(), handle.save()];
    handle.change(add("c"));
    expect(await first).toBe(1);
    expect(await Promise.all(rest)).toEqual([3, 3]);
    expect(commits).toBe(2);
    await storage.close();
  });

  test("[ST42] receive refuses bytes that are no events before anything is applied", async () => {
    const storage = await open();
    const handle = await storage.open("d");
    for (const bad of [[naming("a"), Uint8Array.of(1)], [new Uint8Array()], [{}]]) {
      expect(() => handle.receive(bad)).toThrow(expect.objectContaining({ code: "EVENT_INVALID" }));
    }
    expect([...handle.doc.names.keys()]).toEqual([]);
    expect(handle.unsaved).toBe(false);
    await storage.close();
  });

  test("[ST43] held events that are received are stored, and applied when what they miss arrives", async () => {
    const storage = await open();
    const handle = await storage.open("d");
    expect(handle.receive([naming("child", ["parent"])])).toMatchObject({ applied: 0, held: 1 });
    expect(handle.held.map(({ clock }) => clock)).toEqual([undefined]);
    await handle.save();
    expect(handle.held.map(({ clock }) => clock)).toEqual([0]);
    expect((await storage.load("d"))?.held).toHaveLength(1);
    expect(handle.receive([naming("parent")])).toMatchObject({ applied: 1, held: 0 });
    expect(handle.held).toEqual([]);
    await handle.save();
    expect((await names(storage)).sort()).toEqual(["child", "parent"]);
    await storage.close();
  });

  test("[ST43] a poison event is reported and never reaches the log through a handle", async () => {
    const storage = await open();
    const handle = await storage.open("d");
    const { refused } = handle.receive([naming("!poison"), naming("good")]);
    expect(refused).toEqual([{ index: 0, reason: expect.any(String) }]);
    expect(await handle.save()).toBe(1);
    expect(await names(storage)).toEqual(["good"]);
    await storage.close();
  });

  test("[ST44] refresh pulls what others stored, once, and leaves unsaved edits unsaved", async () => {
    const storage = await open();
    const handle = await storage.open("d");
    handle.change(add("mine"));
    await handle.save();
    await storage.append("d", [naming("theirs")]);
    handle.change(add("second"));
    await handle.save();
    handle.change(add("unsaved"));
    expect(handle.clock).toBe(1);
    expect(handle.durableClock).toBe(3);
    expect(await handle.refresh()).toBe(3);
    expect([...handle.doc.names.keys()].sort()).toEqual(["mine", "second", "theirs", "unsaved"]);
    expect(handle.unsaved).toBe(true);
    expect(await handle.refresh()).toBe(3);
    expect(await handle.save()).toBe(4);
    expect(handle.clock).toBe(4);
    await storage.close();
  });

  test("[ST45] refresh behind a trim is TRIMMED and loses nothing", async () => {
    const storage = await open();
    const handle = await storage.open("d");
    for (const name of "abcdefgh") await storage.append("d", [naming(name)]);
    await storage.compact("d");
    handle.change(add("mine"));
    await expect(handle.refresh()).rejects.toMatchObject({ code: "TRIMMED" });
    await handle.save();
    expect(await names(storage)).toHaveLength(9);
    await storage.close();
  });

  test("[ST47] autoSave stores edits as they come, and tells onError of a failure", async () => {
    const backend = simulatedBackend({ poisonsItself: false });
    const storage = await open({ backend });
    const errors: unknown[] = [];
    const handle = await storage.open("d", { autoSave: true, onError: (error) => errors.push(error) });
    handle.change(add("a"));
    handle.receive([naming("b")]);
    await handle.waitDurable(2);
    expect(await names(storage)).toEqual(["a", "b"]);
    backend.failNext("commit", "unavailable");
    handle.change(add("c"));
    while (errors.length === 0) await new Promise((resolve) => setImmediate(resolve));
    expect(errors).toMatchObject([{ code: "UNAVAILABLE" }]);
    handle.change(add("d"));
    await handle.waitDurable(4);
    expect(await names(storage)).toEqual(["a", "b", "c", "d"]);
    await handle.close();
    await storage.close();
  });

  test("[ST48] closing with unsaved events is refused unless they are to be discarded", async () => {
    const storage = await open();
    const handle = await storage.open("d");
    handle.change(add("a"));
    await expect(handle.close()).rejects.toMatchObject({ code: "BUSY" });
    await handle.save();
    await handle.close();
    await handle.close();
    expect(() => handle.change(add("b"))).toThrow(expect.objectContaining({ code: "CLOSED" }));
    await expect(handle.save()).rejects.toMatchObject({ code: "CLOSED" });
    const other = await storage.open("d");
    other.change(add("gone"));
    await other.close({ discard: true });
    expect(await names(storage)).toEqual(["a"]);
    await storage.close();
  });

  test("[ST49] one save may be larger than a batch: it is cut into several, in one commit", async () => {
    const operations: number[] = [];
    const storage = await open({
      limits: { batchEventsMax: 10, batchBytesMax: 400 },
      observer: { commit: (commit) => operations.push(commit.operations) },
    });
    const handle = await storage.open("d");
    for (let index = 0; index < 35; index++) handle.change(add(`n${index}`));
    expect(await handle.save()).toBe(35);
    expect(operations.at(-1)).toBeGreaterThanOrEqual(4);
    expect(await names(storage)).toHaveLength(35);
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });
});

describe("recovery", () => {
  test("[RC21] after a lost reply recover settles the commit by its id, and the handle goes on", async () => {
    for (const fault of ["unknown-applied", "unknown-lost"] as const) {
      const backend = simulatedBackend();
      const storage = await open({ backend });
      const handle = await storage.open("d");
      handle.change(add("a"));
      backend.failNext("commit", fault);
      const durable = handle.waitDurable(1);
      await expect(handle.save()).rejects.toMatchObject({ code: "OUTCOME_UNKNOWN", kind: "unknown" });
      handle.change(add("b"));
      await expect(handle.save()).rejects.toMatchObject({ code: "POISONED", kind: "closed" });
      await expect(storage.append("other", [naming("x")])).rejects.toMatchObject({ code: "POISONED" });
      const { settled } = await storage.recover();
      expect(settled.map(({ id, applied }) => ({ id, applied }))).toEqual([
        { id: "d", applied: fault === "unknown-applied" },
      ]);
      if (fault === "unknown-applied") await durable;
      expect(await handle.save()).toBe(2);
      await durable;
      expect(handle.clock).toBe(2);
      expect((await names(storage)).sort()).toEqual(["a", "b"]);
      expect((await storage.info("d"))?.clock).toBe(2);
      expect((await storage.check()).problems).toEqual([]);
      await storage.close();
    }
  });

  test("[RC22] on a backend that goes on, storage settles a lost reply by itself", async () => {
    for (const fault of ["unknown-applied", "unknown-lost"] as const) {
      const backend = simulatedBackend({ exclusive: false });
      const storage = await open({ backend });
      await storage.append("d", [naming("a")]);
      backend.failNext("commit", fault);
      expect((await storage.append("d", [naming("b")])).clock).toBe(2);
      expect(await names(storage)).toEqual(["a", "b"]);
      await storage.close();
    }
  });

  test("[RC23] everything queued behind a commit that failed fails, and was not written", async () => {
    let held: (() => void) | undefined;
    const backend = simulatedBackend({
      onOperation: ({ kind }: Operation) => {
        if (kind === "commit") held?.();
      },
    });
    const storage = await open({ backend });
    await storage.append("d", [naming("a")]);
    const behind: Promise<unknown>[] = [];
    held = () => {
      held = undefined;
      behind.push(storage.append("d", [naming("c")]), storage.append("d", [naming("e")]));
    };
    backend.failNext("commit", "error");
    await expect(storage.append("d", [naming("b")])).rejects.toMatchObject({ code: "OUTCOME_UNKNOWN" });
    for (const outcome of await Promise.allSettled(behind)) {
      expect(outcome).toMatchObject({ status: "rejected", reason: { code: "POISONED" } });
    }
    expect(await names(storage)).toEqual(["a"]);
    await storage.recover();
    expect(await names(storage)).toEqual(["a"]);
    expect((await storage.append("d", [naming("z")])).clock).toBe(2);
    await storage.close();
  });

  test("[RC24] reads go on after a failed write, and show only what was committed", async () => {
    const backend = simulatedBackend();
    const storage = await open({ backend });
    await storage.append("d", [naming("a")]);
    backend.failNext("commit", "error");
    await storage.append("d", [naming("b")]).catch(() => undefined);
    expect(await names(storage)).toEqual(["a"]);
    expect((await storage.info("d"))?.clock).toBe(1);
    await storage.close();
  });

  test("[RC25] calls during a recovery are told to come again", async () => {
    const storage = await open({ backend: simulatedBackend() });
    const recovering = storage.recover();
    await expect(storage.append("d", [naming("a")])).rejects.toMatchObject({ code: "BUSY", kind: "busy" });
    await recovering;
    expect((await storage.append("d", [naming("a")])).clock).toBe(1);
    await storage.close();
  });

  test("[RC25] recover that cannot reopen may be called again", async () => {
    const backend = simulatedBackend();
    const storage = await open({ backend });
    const handle = await storage.open("d");
    handle.change(add("a"));
    backend.failNext("commit", "error");
    await expect(handle.save()).rejects.toMatchObject({ code: "OUTCOME_UNKNOWN" });
    backend.failNext("open", "unavailable");
    await expect(storage.recover()).rejects.toMatchObject({ code: "UNAVAILABLE" });
    await storage.recover();
    await handle.save();
    expect(await names(storage)).toEqual(["a"]);
    await storage.close();
  });

  for (const poisonsItself of [true, false]) {
    const what = poisonsItself ? "poisons itself" : "goes on";
    test(`[RC28] while recover cannot reopen, a backend that ${what} rejects all with POISONED, reads too`, async () => {
      const backend = simulatedBackend({ poisonsItself });
      const storage = await open({ backend });
      await storage.append("d", [naming("a")]);
      const handle = await storage.open("d");
      handle.change(add("b"));
      backend.failNext("open", "unavailable");
      backend.failNext("open", "unavailable");
      for (let attempt = 0; attempt < 2; attempt++) {
        const full = await storage.recover().catch((error: unknown) => error);
        expect(full).toMatchObject({ code: "UNAVAILABLE" });
        const poisoned = {
          code: "POISONED",
          message: expect.stringContaining("recover() is called again"),
          cause: full,
        };
        const calls = [
          () => storage.load("d"),
          () => storage.info("d"),
          () => storage.open("new"),
          () => storage.append("d", [naming("c")]),
          () => storage.read("d").next(),
          () => storage.diff("d", Uint8Array.of(0)),
          () => storage.compact("d"),
          () => storage.tags("d"),
          () => storage.delete("d"),
          () => storage.flush(),
          () => handle.save(),
          () => handle.refresh(),
          () => handle.snapshot(),
        ];
        for (const call of calls) await expect((async () => call())()).rejects.toMatchObject(poisoned);
      }
      await storage.recover();
      expect(await handle.save()).toBe(2);
      expect(await names(storage)).toEqual(["a", "b"]);
      await storage.close();
      await expect(storage.load("d")).rejects.toMatchObject({ code: "CLOSED" });
      await expect(handle.refresh()).rejects.toMatchObject({ code: "CLOSED" });
    });
  }

  test("[RC28] a read that a recovery closes the backend under is told to come again, not that it is over", async () => {
    const storage = await open({ backend: simulatedBackend(), limits: { pageBytesMax: 1 } });
    for (const name of ["a", "b", "c"]) await storage.append("d", [naming(name)]);
    const events = storage.read("d");
    await events.next();
    await storage.recover();
    const rest = async () => {
      for await (const _ of events);
    };
    await expect(rest()).rejects.toMatchObject({ code: "POISONED" });
    await storage.close();
  });

  test("[RC28] a storage that could not be reopened closes, and says what is not stored", async () => {
    const backend = simulatedBackend();
    const storage = await open({ backend });
    const handle = await storage.open("d");
    handle.change(add("a"));
    backend.failNext("open", "unavailable");
    const recovering = storage.recover();
    const closing = storage.close();
    await expect(recovering).rejects.toMatchObject({ code: "UNAVAILABLE" });
    await expect(closing).rejects.toMatchObject({ code: "POISONED", details: { ids: ["d"] } });
    await expect(storage.load("d")).rejects.toMatchObject({ code: "CLOSED" });
    await expect(storage.recover()).rejects.toMatchObject({ code: "CLOSED" });
    // Nobody holds the lock.
    await (await open({ backend })).close();
  });
});

describe("observer", () => {
  test("[ST50] appends, commits, loads, snapshots, compactions and held events are told with sizes and times", async () => {
    const told = new Map<string, Record<string, unknown>[]>();
    const note = (name: string) => (fact: object) => {
      told.set(name, [...(told.get(name) ?? []), { ...fact }]);
    };
    const storage = await open({
      observer: {
        append: note("append"),
        commit: note("commit"),
        load: note("load"),
        snapshot: note("snapshot"),
        compact: note("compact"),
        held: note("held"),
      },
    });
    await storage.append("d", [naming("a"), naming("b", ["missing"])]);
    await storage.append("d", [naming("c")]);
    const handle = await storage.load("d");
    await handle?.snapshot();
    await storage.append("d", [naming("e")]);
    await storage.compact("d");
    expect(told.get("append")?.[0]).toMatchObject({
      id: "d",
      events: 2,
      clock: 2,
      bytes: expect.any(Number),
    });
    expect(told.get("commit")!.length).toBeGreaterThan(4);
    expect(told.get("load")?.[0]).toMatchObject({
      id: "d",
      clock: 3,
      events: 3,
      durationMs: expect.any(Number),
    });
    expect(told.get("snapshot")?.[0]).toMatchObject({ id: "d", clock: 3 });
    expect(told.get("compact")?.[0]).toMatchObject({ id: "d", outcome: "compacted", eventsTrimmed: 3 });
    expect(told.get("held")?.[0]).toMatchObject({ id: "d", clock: 1 });
    await storage.close();
  });

  test("[ST50] an observer that gets its callback later is told no wait that nobody measured", async () => {
    const waits: number[] = [];
    const observer: Observer = {};
    const storage = await open({ observer });
    const early = storage.append("d", [naming("a")]);
    observer.append = ({ queuedMs }) => waits.push(queuedMs);
    await early;
    await storage.append("d", [naming("b")]);
    expect(waits).toEqual([0, expect.any(Number)]);
    await storage.close();
  });

  test("[ST51] an observer that throws changes no outcome, and its error is not swallowed", async () => {
    const raised: unknown[] = [];
    const { systemEnv } = await import("coppice");
    const env = systemEnv();
    const storage = await open({
      env: {
        ...env,
        turn: (callback) =>
          env.turn(() => {
            try {
              callback();
            } catch (error) {
              raised.push(error);
            }
          }),
      },
      observer: {
        append: () => {
          throw new Error("observer");
        },
      },
    });
    expect((await storage.append("d", [naming("a")])).clock).toBe(1);
    await new Promise((resolve) => setImmediate(resolve));
    expect(raised).toMatchObject([{ message: "observer" }]);
    await storage.close();
  });
});

describe("documents", () => {
  test("[ST52] a deleted document is gone, keeps its clock, and comes back only when recreated", async () => {
    const backend = simulatedBackend();
    let storage = await open({ backend });
    for (const name of "abc") await storage.append("d", [naming(name)]);
    await storage.compact("d");
    expect(await storage.delete("d")).toBe(true);
    expect(await storage.delete("d")).toBe(false);
    expect(await storage.delete("nobody")).toBe(false);
    expect(backend.dump().map(({ key }) => key[0])).toEqual(["meta"]);
    expect(await storage.load("d")).toBeUndefined();
    expect(await storage.info("d")).toBeUndefined();
    const listed: string[] = [];
    for await (const id of storage.list()) listed.push(id);
    expect(listed).toEqual([]);
    await expect(storage.append("d", [naming("x")])).rejects.toMatchObject({
      code: "DELETED",
      kind: "conflict",
    });
    await expect(storage.open("d")).rejects.toMatchObject({ code: "DELETED" });
    await storage.close();
    storage = await open({ backend });
    const handle = await storage.open("d", { recreate: true });
    expect(handle.clock).toBe(3);
    handle.change(add("new"));
    expect(await handle.save()).toBe(4);
    expect(await names(storage)).toEqual(["new"]);
    await storage.compact("d");
    expect(await names(storage)).toEqual(["new"]);
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });

  test("[ST53] list goes by UTF-8 order, prefix, after and limit", async () => {
    const storage = await open();
    for (const id of ["b", "a/2", "a/1", "é", "a/10", "A"]) await storage.append(id, [naming("x")]);
    const listed = async (options: object) => {
      const ids: string[] = [];
      for await (const id of storage.list(options)) ids.push(id);
      return ids;
    };
    expect(await listed({})).toEqual(["A", "a/1", "a/10", "a/2", "b", "é"]);
    expect(await listed({ prefix: "a/" })).toEqual(["a/1", "a/10", "a/2"]);
    expect(await listed({ prefix: "a/", after: "a/1" })).toEqual(["a/10", "a/2"]);
    expect(await listed({ limit: 2 })).toEqual(["A", "a/1"]);
    expect(await listed({ limit: 0 })).toEqual([]);
    await storage.close();
  });

  test("[ST55] a history that a trim overtakes ends with TRIMMED, or goes on", async () => {
    const outcomes = new Set<string>();
    for (let steps = 0; steps < 12; steps++) {
      const storage = await open({ limits: { pageBytesMax: 200 } });
      for (let index = 0; index < 12; index++) await storage.append("d", [naming(`n${index}`)]);
      const seen: number[] = [];
      const history = storage.history("d");
      const read = async () => {
        for (;;) {
          if (seen.length === steps) await storage.compact("d");
          const { value, done } = await history.next();
          if (done) return "end";
          if (value.kind === "batch") seen.push(value.clock);
        }
      };
      outcomes.add(await read().catch((error) => error.code));
      const all = Array.from({ length: 12 }, (_, index) => index);
      expect(seen).toEqual(steps === 0 ? [11] : all.slice(0, seen.length));
      await storage.close();
    }
    expect([...outcomes].sort()).toEqual(["TRIMMED", "end"]);
  });

  test("[ST54] heads are kept for a bounded number of documents, and read again for the others", async () => {
    const storage = await open({ limits: { headsMax: 8 } });
    for (let round = 0; round < 3; round++) {
      for (let index = 0; index < 50; index++) await storage.append(`d${index}`, [naming(`r${round}`)]);
    }
    for (let index = 0; index < 50; index++) expect((await storage.info(`d${index}`))?.clock).toBe(3);
    await storage.close();
  });
});

test("[ST45] refresh lists events whose bytes a repair set aside", async () => {
  const backend = simulatedBackend();
  const storage = await open({ backend });
  const handle = await storage.open("d");
  for (const name of "abc") await storage.append("d", [naming(name)]);
  backend.flip(["events", "d", 1], 40);
  await storage.check({ repair: true });
  expect(await handle.refresh()).toBe(3);
  expect(handle.held).toMatchObject([{ clock: 1, event: undefined, reason: expect.any(String) }]);
  expect([...handle.doc.names.keys()]).toEqual(["a", "c"]);
  await storage.close();
});

test("[HI14] info of a save is shown with its events, and calls that share a cut add to it, also after a failure", async () => {
  const backend = simulatedBackend({ exclusive: false });
  const storage = await open({ backend });
  const handle = await storage.open("d");
  handle.change(add("a"));
  const first = handle.save({ info: { who: "ada", n: 1 } });
  handle.change(add("b"));
  const second = [handle.save({ info: { who: "grace" } }), handle.save(), handle.save({ info: { n: 2 } })];
  await Promise.all([first, ...second]);
  await handle.save({ info: { who: "nobody, for nothing is new" } });
  handle.change(add("c"));
  await handle.save();
  handle.change(add("d"));
  backend.failNext("commit", "unavailable");
  await expect(handle.save({ info: { who: "ada", try: 1 } })).rejects.toMatchObject({ code: "UNAVAILABLE" });
  await handle.save({ info: { try: 2 } });
  handle.change(add("e"));
  const tooLong = handle.save({ info: { text: "x".repeat(1025) } });
  await expect(tooLong).rejects.toMatchObject({ code: "BATCH_TOO_LARGE" });
  await expect(handle.save({ info: { bad: null as unknown as string } })).rejects.toMatchObject({
    code: "ARGUMENT_INVALID",
  });
  await handle.save();
  const infos: unknown[] = [];
  for await (const { info } of storage.read("d")) infos.push(info);
  expect(infos).toEqual([
    { who: "ada", n: 1 },
    { who: "grace", n: 2 },
    undefined,
    { who: "ada", try: 2 },
    undefined,
  ]);
  expect((await storage.check()).problems).toEqual([]);
  await storage.close();
});
