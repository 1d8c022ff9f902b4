import {
  type BackendFactory,
  DocumentStorage,
  isCoppiceError,
  memoryBackend,
  never,
  type StorageOptions,
  type StoredEvent,
} from "coppice";
import { seededRandom, simulatedBackend, simulatedEnv } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { nameOf } from "../../../../test/support/oracle.js";
import { nameSet, naming } from "../../../../test/support/oracle-model.js";

const models = [nameSet()] as const;
type Storage = DocumentStorage<typeof models>;
const open = (options: Partial<StorageOptions<typeof models>> = {}): Promise<Storage> =>
  DocumentStorage.open({ backend: memoryBackend(), models, snapshotPolicy: never, ...options });

async function clean(...storages: Storage[]): Promise<void> {
  expect((await storages[0]!.check()).problems).toEqual([]);
  for (const storage of storages) await storage.close();
}

/** Takes what a subscription yields, for as long as it yields. */
class Taker {
  readonly events: StoredEvent[] = [];
  ended: unknown;
  #whyEnded: unknown = new Error("the subscription is done");
  readonly done: Promise<void>;
  readonly #waiting: { count: number; resolve: () => void; reject: (error: unknown) => void }[] = [];

  constructor(subscription: AsyncIterable<StoredEvent>) {
    this.done = this.#take(subscription);
  }

  get names(): string {
    return this.events.map(({ event }) => (event === undefined ? "lost" : nameOf(event))).join(",");
  }

  has(count: number): Promise<void> {
    if (this.events.length >= count) return Promise.resolve();
    // Else a test waits for what never comes, and nobody learns why.
    if (this.ended !== undefined) return Promise.reject(this.#whyEnded);
    return new Promise((resolve, reject) => this.#waiting.push({ count, resolve, reject }));
  }

  async #take(subscription: AsyncIterable<StoredEvent>): Promise<void> {
    try {
      for await (const event of subscription) {
        expect(event.clock).toBe((this.events.at(-1)?.clock ?? event.clock - 1) + 1);
        this.events.push(event);
        for (const { count, resolve } of this.#waiting) if (count <= this.events.length) resolve();
      }
      this.ended = "done";
    } catch (error) {
      this.ended = isCoppiceError(error) ? error.code : error;
      this.#whyEnded = error;
      for (const { reject } of this.#waiting) reject(error);
    }
  }
}

const append = (storage: Storage, ...names: string[]) =>
  storage.append(
    "d",
    names.map((name) => naming(name)),
  );

describe("a subscription", () => {
  test("[HI30] it gives the stored events, and then those that are appended, each once and in order", async () => {
    const storage = await open();
    await append(storage, "a", "b");
    const all = new Taker(storage.subscribe("d"));
    const late = new Taker(storage.subscribe("d", { from: 1 }));
    const ahead = new Taker(storage.subscribe("d", { from: 2 }));
    await all.has(2);
    await storage.append("d", [naming("c")], { info: { who: "ada" } });
    const handle = await storage.open("d");
    handle.receive([naming("d"), naming("e")]);
    await handle.save();
    await Promise.all([all.has(5), late.has(4), ahead.has(3)]);
    expect([all.names, late.names, ahead.names]).toEqual(["a,b,c,d,e", "b,c,d,e", "c,d,e"]);
    expect(all.events.map(({ info }) => info)).toEqual([
      undefined,
      undefined,
      { who: "ada" },
      undefined,
      undefined,
    ]);
    await clean(storage);
    await Promise.all([all.done, late.done, ahead.done]);
    expect([all.ended, late.ended, ahead.ended]).toEqual(["CLOSED", "CLOSED", "CLOSED"]);
  });

  test("[HI30] it waits for a document that does not exist yet", async () => {
    const storage = await open();
    const taker = new Taker(storage.subscribe("d"));
    await append(storage, "a");
    await taker.has(1);
    await clean(storage);
    await taker.done;
  });

  test("[HI30] it misses nothing when many other documents are used before its first event is asked for", async () => {
    const storage = await open({ limits: { headsMax: 1 } });
    await append(storage, "a");
    const subscription = storage.subscribe("d");
    for (const id of ["e", "f", "g"]) await storage.append(id, [naming("x")]);
    const taker = new Taker(subscription);
    await taker.has(1);
    for (const id of ["e", "f", "g"]) await storage.append(id, [naming("x")]);
    await append(storage, "b");
    await taker.has(2);
    expect(taker.names).toBe("a,b");
    await clean(storage);
    await taker.done;
  });

  test("[HI31] it ends when it is left, returned from while it waits, or aborted; then it holds nothing", async () => {
    const storage = await open();
    await append(storage, "a", "b");
    for await (const { clock } of storage.subscribe("d")) if (clock === 1) break;
    const waiting = storage.subscribe("d", { from: 2 });
    const next = waiting.next();
    await new Promise((resolve) => setImmediate(resolve));
    expect(await waiting.return!()).toEqual({ done: true, value: undefined });
    expect(await next).toEqual({ done: true, value: undefined });
    const controller = new AbortController();
    const aborted = new Taker(storage.subscribe("d", { from: 2, signal: controller.signal }));
    await new Promise((resolve) => setImmediate(resolve));
    controller.abort("enough");
    await aborted.done;
    expect(aborted.ended).toBe("enough");
    const before = new Taker(storage.subscribe("d", { signal: controller.signal }));
    await before.done;
    // One signal for all, as for a shutdown: Node warns of more than ten listeners.
    const shutdown = new AbortController();
    const warnings: Error[] = [];
    const warned = (warning: Error) => warnings.push(warning);
    process.on("warning", warned);
    const many = Array.from(
      { length: 12 },
      () => new Taker(storage.subscribe("d", { from: 2, signal: shutdown.signal })),
    );
    await new Promise((resolve) => setTimeout(resolve, 20));
    shutdown.abort("all");
    await Promise.all(many.map(({ done }) => done));
    process.off("warning", warned);
    expect(many.map(({ ended }) => ended)).toEqual(Array(12).fill("all"));
    expect(warnings).toEqual([]);
    // One that outlives its subscriptions is not held on to: Node keeps combined signals that are listened to.
    const request = new AbortController();
    const counts = { added: 0, removed: 0 };
    const { addEventListener, removeEventListener } = request.signal;
    Object.assign(request.signal, {
      addEventListener(...of: Parameters<typeof addEventListener>) {
        counts.added++;
        addEventListener.apply(request.signal, of);
      },
      removeEventListener(...of: Parameters<typeof removeEventListener>) {
        counts.removed++;
        removeEventListener.apply(request.signal, of);
      },
    });
    for (let run = 0; run < 2; run++) {
      const some = storage.subscribe("d", { from: 0, signal: request.signal });
      await some.next();
      await some.return?.();
    }
    expect(counts).toEqual({ added: 2, removed: 2 });
    expect([before.ended, before.events]).toEqual(["enough", []]);
    for (const from of [-1, 0.5, Number.NaN]) {
      await expect(storage.subscribe("d", { from }).next()).rejects.toMatchObject({
        code: "ARGUMENT_INVALID",
      });
    }
    expect(() => storage.subscribe("")).toThrow();
    await clean(storage);
    expect(() => storage.subscribe("d")).toThrow("closed");
  });

  test("[CK20] who goes on from a clock after the head is told, also of a document that is gone", async () => {
    for (const exclusive of [true, false]) {
      const backend = simulatedBackend({ exclusive });
      const before = await open({ backend });
      for (const name of ["a", "b", "c"]) await append(before, name);
      await before.close();
      // A store of which the end is lost, as a repair of a file log leaves it.
      const raw = await backend.open(simulatedEnv(2));
      await raw.commit({ delete: [["events", "d", 2]] });
      await raw.close();
      const storage = await open({ backend });
      const reached = new Taker(storage.subscribe("d", { from: 2 }));
      const beyond = { code: "ARGUMENT_INVALID", details: { id: "d", clock: 3, head: 2 } };
      await expect(storage.subscribe("d", { from: 3 }).next()).rejects.toMatchObject(beyond);
      await expect(storage.read("d", { from: 3 }).next()).rejects.toMatchObject(beyond);
      expect(await storage.read("d", { from: 2 }).next()).toEqual({ done: true, value: undefined });
      await expect(storage.subscribe("gone", { from: 1 }).next()).rejects.toMatchObject({
        code: "ARGUMENT_INVALID",
        details: { clock: 1, head: 0 },
      });
      await append(storage, "other");
      await reached.has(1);
      await storage.delete("d");
      await expect(storage.subscribe("d", { from: 9 }).next()).rejects.toMatchObject({ code: "DELETED" });
      await clean(storage);
      await reached.done;
    }
  });

  test("[CK20] a subscription that runs ends when a recovery finds less than it gave", async () => {
    const backend = simulatedBackend();
    let isLossy = false;
    const lossy: BackendFactory = {
      name: "lossy",
      open: async (env) => {
        const opened = await backend.open(env);
        if (isLossy) await opened.commit({ delete: [["events", "d", 2]] });
        return opened;
      },
    };
    const storage = await open({ backend: lossy });
    for (const name of ["a", "b", "c"]) await append(storage, name);
    const taker = new Taker(storage.subscribe("d"));
    await taker.has(3);
    isLossy = true;
    await storage.recover();
    await taker.done;
    expect(taker.ended).toBe("ARGUMENT_INVALID");
    await storage.close();
  });

  test("[HI32] a deletion ends it with DELETED, also when the id is recreated, or was deleted before", async () => {
    const storage = await open();
    await append(storage, "a");
    const taker = new Taker(storage.subscribe("d"));
    await taker.has(1);
    await storage.delete("d");
    await taker.done;
    expect(taker.ended).toBe("DELETED");
    const after = new Taker(storage.subscribe("d"));
    await after.done;
    expect(after.ended).toBe("DELETED");
    await storage.open("d", { recreate: true });
    await append(storage, "b");
    const again = new Taker(storage.subscribe("d"));
    await again.has(1);
    const slow = storage.subscribe("d");
    expect((await slow.next()).value).toMatchObject({ clock: 1 });
    await storage.delete("d");
    await storage.open("d", { recreate: true });
    await append(storage, "c");
    await again.done;
    expect(again.ended).toBe("DELETED");
    await expect(slow.next()).rejects.toMatchObject({ code: "DELETED" });
    await clean(storage);
  });

  test("[HI33] a consumer that a trim overtakes ends with TRIMMED; one that keeps up does not notice", async () => {
    const storage = await open({ limits: { pageBytesMax: 64 } });
    for (let index = 0; index < 9; index++) await append(storage, `n${index}`);
    const fast = new Taker(storage.subscribe("d"));
    const slow = storage.subscribe("d");
    await slow.next();
    await fast.has(9);
    await storage.compact("d");
    await append(storage, "a");
    await append(storage, "b");
    await storage.compact("d");
    const rest = new Taker(slow as AsyncIterable<StoredEvent>);
    await rest.done;
    expect(rest.ended).toBe("TRIMMED");
    expect(rest.events.length).toBeLessThan(8);
    await append(storage, "c");
    await fast.has(12);
    expect(fast.names.endsWith("a,b,c")).toBe(true);
    const trimmed = new Taker(storage.subscribe("d", { from: 0 }));
    await trimmed.done;
    expect(trimmed.ended).toBe("TRIMMED");
    await clean(storage);
    await fast.done;
  });

  test("[HI34] a slow consumer costs one page, however much is appended", async () => {
    let reads = 0;
    const backend = simulatedBackend({
      onOperation: ({ kind }) => {
        if (kind === "get" || kind === "scan") reads++;
      },
    });
    const storage = await open({ backend, limits: { pageBytesMax: 4096 } });
    const payload = "x".repeat(500);
    const slow = storage.subscribe("d");
    const first = slow.next();
    await append(storage, "first");
    await first;
    const before = reads;
    for (let index = 0; index < 500; index++) await append(storage, `${index} ${payload}`);
    expect(reads).toBe(before);
    let read = 0;
    while (read < 500) {
      expect((await slow.next()).value).toMatchObject({ clock: ++read });
    }
    await slow.return!();
    await clean(storage);
  });
});

describe("a subscription beside others", () => {
  test("[HI35] on a shared store it hears of other writers, by the hint or without", async () => {
    for (const hinted of [true, false]) {
      const shared = simulatedBackend({ exclusive: false });
      const mute: BackendFactory = {
        name: "mute",
        open: async (env) => {
          const { watch: _watch, ...backend } = await shared.open(env);
          return { ...backend, traits: backend.traits };
        },
      };
      const env = simulatedEnv(1, { autoAdvance: true });
      const reader = await open({ backend: hinted ? shared : mute, env });
      const writer = await open({ backend: shared });
      const taker = new Taker(reader.subscribe("d"));
      for (let index = 0; index < 20; index++) {
        await append(writer, `w${index}`);
        if (index % 3 === 0) await append(reader, `r${index}`);
        if (index % 5 === 0) await taker.has(index);
      }
      await taker.has(27);
      expect(new Set(taker.names.split(",")).size).toBe(27);
      await writer.delete("d");
      await taker.done;
      expect(taker.ended).toBe("DELETED");
      await clean(reader, writer);
    }
  });

  test("[HI36] it goes on over a recovery, and shows nothing that is not durable", async () => {
    const backend = simulatedBackend({ sync: "each", poisonsItself: true });
    const storage = await open({ backend });
    await append(storage, "a");
    const taker = new Taker(storage.subscribe("d"));
    await taker.has(1);
    for (const fault of ["unknown-applied", "unknown-lost", "error"] as const) {
      backend.failNext("commit", fault);
      const name = `${fault} ${taker.events.length}`;
      const count = taker.events.length;
      await expect(append(storage, name)).rejects.toMatchObject({ code: "OUTCOME_UNKNOWN" });
      const late = new Taker(storage.subscribe("d", { from: count }));
      await expect(append(storage, "behind")).rejects.toMatchObject({ code: "POISONED" });
      for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
      expect(taker.events).toHaveLength(count);
      expect(late.events).toHaveLength(0);
      const { settled } = await storage.recover();
      const stored = settled[0]?.applied ? [name] : [];
      await append(storage, `after ${fault}`);
      await taker.has(count + stored.length + 1);
      await late.has(stored.length + 1);
      const expected = [...stored, `after ${fault}`].join(",");
      expect(
        taker.events
          .slice(count)
          .map(({ event }) => nameOf(event))
          .join(","),
      ).toBe(expected);
      expect(late.names).toBe(expected);
    }
    backend.failNext("open", "unavailable");
    await expect(storage.recover()).rejects.toMatchObject({ code: "UNAVAILABLE" });
    await storage.recover();
    const count = taker.events.length;
    await append(storage, "end");
    await taker.has(count + 1);
    await clean(storage);
    await taker.done;
    expect(taker.ended).toBe("CLOSED");
  });

  test("[HI36] whenever a recovery ends beside it, it shows nothing of a commit that fails afterwards", async () => {
    for (let reactions = 0; reactions < 40; reactions++) {
      const backend = simulatedBackend({ sync: "never", poisonsItself: true });
      const storage = await open({ backend, limits: { pageBytesMax: 1 } });
      await append(storage, "a");
      const events = storage.subscribe("d");
      await events.next();
      await append(storage, "b");
      await append(storage, "c");
      const failed = storage.recover().then(() => {
        backend.failNext("reply", "unknown-applied");
        return expect(append(storage, "d")).rejects.toMatchObject({ code: "OUTCOME_UNKNOWN" });
      });
      for (let passed = 0; passed < reactions; passed++) await Promise.resolve();
      const slow = async function* (): AsyncGenerator<StoredEvent> {
        for await (const event of events) {
          yield event;
          await failed;
        }
      };
      const taker = new Taker(slow());
      await failed;
      for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
      expect(taker.names).not.toContain("d");
      await storage.recover();
      await taker.has(3);
      expect(taker.names).toBe("b,c,d");
      await clean(storage);
      await taker.done;
    }
  });

  test("[HI37] whatever writers, compactions into the archive, taggers, recoveries and consumers do, what is seen is the log", async () => {
    for (let seed = 0; seed < 25; seed++) {
      const random = seededRandom(seed);
      const shared = random.int(2) === 0;
      const backend = simulatedBackend({ exclusive: !shared });
      const options = { backend, limits: { pageBytesMax: 100 }, history: "archive" as const };
      const storages = [await open(options)];
      if (shared) storages.push(await open(options));
      const takers = Array.from({ length: 3 }, (_, index) => new Taker(paused(storages[0]!, index)));
      let count = 0;
      for (let step = 0; step < 40; step++) {
        const storage = random.pick(storages);
        const what = random.int(10);
        if (what < 6) {
          const names = Array.from({ length: 1 + random.int(3) }, () => `n${count++}`);
          await append(storage, ...names);
        } else if (what < 8) await storage.compact("d");
        else if (what === 8) await storage.tag("d", `t${step}`);
        else if (!shared) await storage.recover();
      }
      await append(storages[0]!, `n${count++}`);
      for (const taker of takers) await taker.has(count);
      for (const { names } of takers) {
        expect(names).toBe(Array.from({ length: count }, (_, index) => `n${index}`).join(","));
      }
      await clean(...storages);
      await Promise.all(takers.map(({ done }) => done));
    }
  });
});

/** A consumer that takes its time. */
async function* paused(storage: Storage, pause: number): AsyncGenerator<StoredEvent> {
  for await (const event of storage.subscribe("d")) {
    yield event;
    for (let turn = 0; turn < pause * 5; turn++) await new Promise((resolve) => setImmediate(resolve));
  }
}
