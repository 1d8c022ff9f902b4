/**
 * What a replacing copy puts in the place of a document is another one to all who know that: tokens, handles,
 * bindings, readings and appends that are on their way end, and none goes on in it.
 */

import { CoppiceError, memoryBackend } from "coppice";
import { seededRandom, simulatedBackend } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { type NameSet, namesIn, naming } from "../../../../test/support/oracle-model.js";
import { behindFirstPage, changed } from "./changed-backend.js";
import { clean, names, open, pair, write } from "./copy-tools.js";

/** A target in which what the caller sets runs once, in the commit that puts a copy in its place. */
async function withFlip() {
  const it: { onFlip: (() => unknown) | undefined } = { onFlip: undefined };
  const to = await open(
    changed(memoryBackend(), (opened) => ({
      commit: async (batch) => {
        if (batch.put?.some(({ key }) => key[0] === "copied")) {
          const { onFlip } = it;
          it.onFlip = undefined;
          onFlip?.();
          // So that what it began has its plan.
          for (let turn = 0; turn < 10; turn++) await new Promise((resolve) => setTimeout(resolve, 0));
        }
        await opened.commit(batch);
      },
    })),
    2,
  );
  return Object.assign(it, { from: await open(memoryBackend(), 1), to });
}

const DELETED = { code: "DELETED" };

describe("who has loaded what a copy replaces", () => {
  async function replaced() {
    const { from, to } = await pair();
    await write(from, "d", "abc");
    await from.copyTo(to);
    await write(to, "d", "M");
    const handle = (await to.load<NameSet>("d"))!;
    return { from, to, handle };
  }

  test("[MV38] a handle ends, also with something unsaved, and hides nothing in a snapshot", async () => {
    const { from, to, handle } = await replaced();
    handle.receive([naming("unsaved")]);
    await write(from, "d", "defg");
    expect(await from.copyTo(to, { replace: true })).toMatchObject({ copied: 1, failures: [] });
    const ended = { code: "DELETED", message: expect.stringContaining("replaced by a copy") };
    await expect(handle.refresh()).rejects.toMatchObject(ended);
    await expect(handle.save()).rejects.toMatchObject(ended);
    await handle.close({ discard: true });
    await to.append("d", [naming("h")]);
    expect(await names(to, "d")).toBe("abcdefgh");
    await clean(from, to);
  });

  test("[MV38] a handle that had all takes no snapshot of what it has", async () => {
    const { from, to, handle } = await replaced();
    await write(from, "d", "defg");
    await from.copyTo(to, { replace: true });
    await handle.refresh().catch(() => undefined);
    await handle.snapshot().catch(() => undefined);
    expect(await names(to, "d")).toBe("abcdefg");
    await handle.close();
    await clean(from, to);
  });

  test("[MV38] a handle that lacks what a repair has lost ends when a copy brings it back", async () => {
    const { from, to, target } = await pair();
    await write(from, "d", "abcd");
    await from.copyTo(to);
    target.deleteRaw(["events", "d", 1]);
    expect((await to.check({ repair: true })).problems).toMatchObject([{ lostEvents: 1 }]);
    const handle = (await to.load<NameSet>("d"))!;
    expect([...handle.doc.names.keys()].join("")).toBe("acd");
    expect((await from.copyTo(to)).documents).toMatchObject([{ id: "d", outcome: "copied" }]);
    await handle.snapshot().catch(() => undefined);
    expect(await names(to, "d")).toBe("abcd");
    await expect(handle.refresh()).rejects.toMatchObject({ code: "DELETED" });
    await handle.close();
    await clean(from, to);
  });

  test("[MV38] a saver that knows it by a token ends", async () => {
    const { from, to, handle } = await replaced();
    await handle.close();
    const { token } = await to.append("d", [naming("N")]);
    const saver = { id: "d", mustSave: false, finish: async () => undefined };
    const attached = to.attach(saver);
    await write(from, "d", "defg");
    await from.copyTo(to, { replace: true });
    const append = attached.append([naming("late")], "names", { token });
    await expect(append).rejects.toMatchObject({ code: "DELETED" });
    attached.detach();
    expect(await names(to, "d")).toBe("abcdefg");
    await clean(from, to);
  });

  test("[MV38] a handle of what a copy only brings up to date goes on", async () => {
    const { from, to } = await pair();
    await write(from, "d", "abc");
    await from.copyTo(to);
    const handle = (await to.load<NameSet>("d"))!;
    await write(from, "d", "de");
    await from.copyTo(to, { replace: true });
    expect(await handle.refresh()).toBe(5);
    handle.receive([naming("f")]);
    expect(await handle.save()).toBe(6);
    expect(await names(to, "d")).toBe("abcdef");
    await handle.close();
    await clean(from, to);
  });
});

describe("what is under way when a copy replaces the document", () => {
  test("[MV39] an append that was planned on what was there goes into what is there, whole", async () => {
    for (const [source, target] of [
      ["a", "abMN"],
      ["abcdefg", "aMN"],
      ["ab", "ab"],
    ] as const) {
      const it = await withFlip();
      await write(it.from, "d", "a");
      await it.from.copyTo(it.to);
      await write(it.from, "d", source.slice(1));
      await write(it.to, "d", target.slice(1));
      let late: Promise<unknown> = Promise.resolve();
      it.onFlip = () => {
        late = it.to.append("d", [naming("z")]);
      };
      expect((await it.from.copyTo(it.to, { replace: true })).failures).toEqual([]);
      await late;
      const all = await names(it.to, "d");
      expect(all).toContain("z");
      expect([...source].every((name) => all.includes(name))).toBe(true);
      await clean(it.from, it.to);
    }
  });

  test("[MV39] one that expects what was there, or is a handle's, is refused", async () => {
    const it = await withFlip();
    await write(it.from, "d", "abc");
    await it.from.copyTo(it.to);
    await write(it.to, "d", "MN");
    const handle = (await it.to.load<NameSet>("d"))!;
    const { token } = (await it.to.info("d"))!;
    handle.receive([naming("y")]);
    let late: Promise<unknown>[] = [];
    it.onFlip = () => {
      late = [it.to.append("d", [naming("z")], { expected: token! }), handle.save()];
    };
    await it.from.copyTo(it.to, { replace: true });
    const codes = (await Promise.allSettled(late)).map(
      (each) => (each as PromiseRejectedResult).reason?.code,
    );
    expect(codes).toEqual(["HEAD_CONFLICT", "DELETED"]);
    expect(await names(it.to, "d")).toBe("abc");
    await handle.close({ discard: true });
    await clean(it.from, it.to);
  });

  test("[MV39] another storage of a shared backend, which has seen what was there, leaves no gap", async () => {
    const shared = memoryBackend({ shared: true });
    const [from, to, other] = [await open(memoryBackend(), 1), await open(shared, 2), await open(shared, 3)];
    await write(from, "d", "a");
    await from.copyTo(to);
    await write(other, "d", "MN");
    const handle = (await other.load<NameSet>("d"))!;
    await from.copyTo(to, { replace: true });
    await write(other, "d", "b");
    expect(await names(other, "d")).toBe("ab");
    handle.receive([naming("c")]);
    await expect(handle.save()).rejects.toMatchObject(DELETED);
    await handle.close({ discard: true });
    await other.close();
    await clean(from, to);
  });

  /** Storages, and a way to replace the document of one behind the first page of a reading. */
  async function withReading() {
    const { it, backend } = behindFirstPage(memoryBackend());
    const [from, to] = [await open(memoryBackend(), 1), await open(backend, 2, { pageBytesMax: 64 })];
    await write(from, "d", "a");
    await from.copyTo(to);
    await write(from, "d", "bcd");
    await write(to, "d", "MNO");
    /** The task, beside whose reading the document is replaced. */
    const beside = async <T>(task: () => Promise<T>): Promise<T> => {
      let isReplaced = false;
      it.run = async () => {
        expect((await from.copyTo(to, { replace: true })).failures).toEqual([]);
        isReplaced = true;
      };
      const result = await task().catch((error: unknown) => {
        expect(isReplaced).toBe(true);
        throw error;
      });
      expect(isReplaced).toBe(true);
      return result;
    };
    return { from, to, beside };
  }

  test("[MV39] a load begins anew, and its handle hides nothing", async () => {
    const { from, to, beside } = await withReading();
    const handle = (await beside(() => to.load<NameSet>("d")))!;
    expect([...handle.doc.names.keys()].sort().join("")).toBe("abcd");
    await handle.snapshot();
    handle.receive([naming("e")]);
    await handle.save();
    expect(await names(to, "d")).toBe("abcde");
    await handle.close();
    await clean(from, to);
  });

  test("[MV39] a reading and a subscription end, and give no mixture", async () => {
    const { from, to, beside } = await withReading();
    const seen: string[] = [];
    const reading = async () => {
      for await (const { event } of to.read("d")) seen.push(...namesIn(event as Uint8Array));
    };
    await expect(beside(reading)).rejects.toMatchObject(DELETED);
    expect(["aMNO", "abcd"].some((all) => all.startsWith(seen.join("")))).toBe(true);
    await write(to, "d", "P");
    const subscription = to.subscribe("d", { from: 0 });
    for (let count = 0; count < 5; count++) await subscription.next();
    await write(from, "d", "efgh");
    await from.copyTo(to, { replace: true });
    await expect(subscription.next()).rejects.toMatchObject(DELETED);
    await clean(from, to);
  });
});

describe("who has loaded a document in whose place something lands later", () => {
  test.each(["delete", "erase"] as const)("[MV38] after %s in the target", async (how) => {
    const { from, to } = await pair();
    await write(from, "d", "a");
    await from.copyTo(to);
    const handle = (await to.load<NameSet>("d"))!;
    const { token } = (await to.info("d"))!;
    const attached = to.attach({ id: "d", mustSave: false, finish: async () => undefined });
    await write(from, "d", "b");
    await to[how]("d");
    await from.copyTo(to, { replace: true });
    handle.receive([naming("z")]);
    await expect(handle.save()).rejects.toMatchObject(DELETED);
    await expect(attached.append([naming("y")], "names", { token: token! })).rejects.toMatchObject(DELETED);
    await handle.snapshot().catch(() => undefined);
    expect(await names(to, "d")).toBe("ab");
    attached.detach();
    await handle.close({ discard: true });
    await clean(from, to);
  });

  test("[MV38] after a copy in pieces that failed half way; who loads it then goes on", async () => {
    let left = Number.POSITIVE_INFINITY;
    const backend = simulatedBackend({
      seed: 2,
      commitBytesMax: 600,
      poisonsItself: false,
      faults: ({ kind }) => (kind === "commit" && left-- <= 0 ? "unavailable" : undefined),
    });
    const [from, to] = [await open(simulatedBackend({ seed: 1 }), 1), await open(backend, 2)];
    await write(from, "d", "a");
    await from.copyTo(to);
    await write(from, "d", "bcdefghijklm");
    await write(to, "d", "MNOPQRSTUVWX");
    const handle = (await to.load<NameSet>("d"))!;
    const attached = to.attach({ id: "d", mustSave: false, finish: async () => undefined });
    left = 3;
    expect((await from.copyTo(to, { replace: true })).failures).toMatchObject([{ id: "d" }]);
    left = Number.POSITIVE_INFINITY;
    expect((await from.copyTo(to)).failures).toEqual([]);
    handle.receive([naming("z")]);
    await expect(handle.save()).rejects.toMatchObject(DELETED);
    await handle.snapshot().catch(() => undefined);
    const again = (await attached.load<NameSet>("d"))!;
    const { token } = (await attached.info("d"))!;
    await attached.append([naming("y")], "names", { token: token! });
    expect(await names(to, "d")).toBe("abcdefghijklmy");
    attached.detach();
    await again.close();
    await handle.close({ discard: true });
    await clean(from, to);
  });

  test("[MV39] a copy that fails ends nobody, and one that finds a writer looks again", async () => {
    const fails = { next: false };
    const backend = changed(memoryBackend(), (opened) => ({
      commit: async (batch) => {
        if (fails.next && batch.put?.some(({ key }) => key[0] === "copied")) {
          fails.next = false;
          throw new CoppiceError("STORE_FULL", "no room");
        }
        await opened.commit(batch);
      },
    }));
    const [from, to] = [await open(memoryBackend(), 1), await open(backend, 2)];
    await write(from, "d", "abc");
    await from.copyTo(to);
    await write(to, "d", "MN");
    const handle = (await to.load<NameSet>("d"))!;
    handle.receive([naming("O")]);
    fails.next = true;
    expect((await from.copyTo(to, { replace: true })).failures).toMatchObject([
      { error: { code: "STORE_FULL" } },
    ]);
    expect(await handle.save()).toBe(6);
    handle.receive([naming("P")]);
    const saving = handle.save();
    const copying = from.copyTo(to, { replace: true });
    await saving;
    expect((await copying).failures).toEqual([]);
    expect(await names(to, "d")).toBe("abc");
    await handle.close();
    await clean(from, to);
  });
});

test("[MV40] who subscribes in the target gets what is copied or imported there, and is told of what is removed", async () => {
  const { from, to } = await pair();
  const subscription = to.subscribe("d", { from: 0 });
  const next = async () => namesIn((await subscription.next()).value!.event as Uint8Array).join();
  const first = next();
  await write(from, "d", "ab");
  await from.copyTo(to);
  expect([await first, await next()]).toEqual(["a", "b"]);
  const third = next();
  await write(from, "d", "c");
  await from.copyTo(to);
  expect(await third).toBe("c");
  const gone = next();
  gone.catch(() => undefined);
  await from.delete("d");
  await from.copyTo(to);
  await expect(gone).rejects.toMatchObject(DELETED);
  const imported = to.subscribe("e", { from: 0 });
  const news = imported.next();
  await write(from, "e", "x");
  await to.import(from.export("e"));
  expect(namesIn((await news).value!.event as Uint8Array)).toEqual(["x"]);
  await imported.return?.();
  await clean(from, to);
});

test("[MV39] whatever runs beside replacing copies, nothing is corrupt and nothing that came after them is lost", async () => {
  const passes = ["DELETED", "TRIMMED", "BUSY", "HEAD_CONFLICT", "EXISTS"];
  let replaced = 0;
  for (let seed = 1; seed <= 60; seed++) {
    const random = seededRandom(seed);
    const late = async () => {
      for (let turns = random.int(4); turns > 0; turns--) await Promise.resolve();
      if (random.next() < 0.2) await new Promise((resolve) => setTimeout(resolve, 0));
    };
    const slow = changed(memoryBackend(), (opened) => ({
      get: (key) => late().then(() => opened.get(key)),
      commit: (batch) => late().then(() => opened.commit(batch)),
      async *scan(range, options) {
        for await (const page of opened.scan(range, options)) {
          await late();
          yield page;
        }
      },
    }));
    const [from, to] = [await open(memoryBackend(), 1), await open(slow, 2, { pageBytesMax: 64 })];
    await write(from, "d", "a");
    await from.copyTo(to);
    const failures: unknown[] = [];
    const under: Promise<unknown>[] = [];
    let made = 0;
    const started = (task: () => Promise<unknown>) => {
      const done = task().catch((error: { code?: string }) => {
        if (!passes.includes(error.code!)) failures.push(error);
      });
      under.push(done);
    };
    const handled = async () => {
      const handle = await to.load<NameSet>("d");
      try {
        handle?.receive([naming(`h${made++}`)]);
        await handle?.save();
        if (random.next() < 0.5) await handle?.snapshot();
      } finally {
        await handle?.close({ discard: true });
      }
    };
    const copied = async () => {
      const result = await from.copyTo(to, { replace: true });
      replaced += result.copied;
      for (const { error } of result.failures) throw error;
    };
    const tasks = [
      () => from.append("d", [naming(`s${made++}`)]),
      () => to.append("d", [naming(`t${made++}`)]),
      () => to.append("d", [naming(`t${made++}`), naming(`t${made++}`)]),
      () => to.compact("d"),
      handled,
      copied,
    ];
    for (let step = 0; step < 25; step++) {
      started(random.pick(tasks));
      if (random.next() < 0.3) await new Promise((resolve) => setTimeout(resolve, 0));
    }
    await Promise.all(under);
    expect(failures, `seed ${seed}`).toEqual([]);
    await write(to, "d", "z");
    expect((await to.load<NameSet>("d"))!.doc.names.has("z"), `seed ${seed}`).toBe(true);
    await clean(from, to);
  }
  expect(replaced).toBeGreaterThan(60);
});
