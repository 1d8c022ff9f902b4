/**
 * A Y.Doc that somebody else owns, kept durable: what is captured, when it is stored, and what failures leave.
 */
import { createRequire } from "node:module";
import { DocumentStorage, isCoppiceError, memoryBackend, type Saver } from "coppice";
import { type Fault, simulatedBackend } from "coppice/testing";
import { afterEach, describe, expect, onTestFinished, test } from "vitest";
import * as Y from "yjs";
import {
  type BindingFailure,
  bindDoc,
  checkUpdate,
  type Durability,
  websocketPersistence,
} from "../../src/dropins/index.js";
import { yjs } from "../../src/index.js";

const storages: DocumentStorage[] = [];

afterEach(async () => {
  for (const storage of storages.splice(0)) {
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  }
});

async function open(backend = memoryBackend() as Parameters<typeof DocumentStorage.open>[0]["backend"]) {
  const storage: DocumentStorage = await DocumentStorage.open({ backend, models: [yjs()] });
  storages.push(storage);
  return storage;
}

/** Updates of one client that types these words, one update for each. */
function typed(...words: string[]): Uint8Array[] {
  const doc = new Y.Doc();
  const updates: Uint8Array[] = [];
  doc.on("update", (update: Uint8Array) => updates.push(update));
  for (const word of words) doc.getText("t").insert(doc.getText("t").length, word);
  return updates;
}

async function storedText(storage: DocumentStorage, id = "doc"): Promise<string | undefined> {
  const handle = await storage.load<Y.Doc>(id);
  const text = handle?.doc.getText("t").toString();
  await handle?.close();
  return text;
}

/** A value that Yjs takes and the storage refuses. */
function tooDeep(): unknown {
  let deep: unknown = 1;
  for (let depth = 0; depth < 600; depth++) deep = [deep];
  return deep;
}

const textOf = (doc: Y.Doc) => doc.getText("t").toString();
const retries = { retryMsMin: 1, retryMsMax: 4 };

describe("binding", () => {
  test("[DI1] shows what is stored, and stores whatever changes the document from then on", async () => {
    const storage = await open();
    await storage.append("doc", typed("stored "));
    const doc = new Y.Doc();
    const binding = bindDoc(storage, "doc", doc);
    await binding.loaded;
    expect(textOf(doc)).toBe("stored ");
    doc.getText("t").insert(7, "local ");
    Y.applyUpdate(doc, typed("remote ")[0]!, "a client");
    doc.getText("t").delete(0, 1);
    await binding.flush();
    expect(await storedText(storage)).toBe(textOf(doc));
    expect(binding.clock).toBe(4);
    expect(binding.pending).toBe(0);
  });

  test("[DI1] stores nothing that it loaded, and nothing after the document was destroyed", async () => {
    const storage = await open();
    await storage.append("doc", typed("a", "b"));
    const doc = new Y.Doc();
    const binding = bindDoc(storage, "doc", doc);
    await binding.loaded;
    await binding.flush();
    doc.destroy();
    doc.getText("t").insert(0, "late");
    await binding.flush();
    expect((await storage.info("doc"))?.clock).toBe(2);
  });

  test("[DI1] what is loaded is not encoded again for the capture", async () => {
    const storage = await open();
    await storage.append("doc", typed("a", "b"));
    const doc = new Y.Doc();
    const binding = bindDoc(storage, "doc", doc);
    // Yjs asks here whether anybody wants the update of a transaction.
    const wanted: boolean[] = [];
    doc.on("afterTransactionCleanup", () => wanted.push(doc._observers.has("update")));
    await binding.loaded;
    doc.getText("t").insert(0, "c");
    await binding.flush();
    expect(wanted).toEqual([false, true]);
  });

  test("[DI2] stores what arrives before the load has ended, also what builds on it", async () => {
    const storage = await open();
    const [first, second, third] = typed("one ", "two ", "three ");
    await storage.append("doc", [first!]);
    const doc = new Y.Doc();
    const binding = bindDoc(storage, "doc", doc);
    // Yjs keeps this aside until the first update is loaded, and then tells of it in our own transaction.
    Y.applyUpdate(doc, second!, "a client");
    expect(textOf(doc)).toBe("");
    await binding.loaded;
    expect(textOf(doc)).toBe("one two ");
    Y.applyUpdate(doc, third!, "a client");
    await binding.flush();
    expect(await storedText(storage)).toBe("one two three ");
  });

  test("[DI3] stores content that was there before it was bound, once", async () => {
    const storage = await open();
    const [seed, gap] = [typed("seed")[0]!, typed("x", "y")[1]!];
    for (const expected of [1, 1]) {
      const doc = new Y.Doc();
      Y.applyUpdate(doc, seed);
      const binding = bindDoc(storage, "doc", doc);
      await binding.flush();
      expect((await storage.info("doc"))?.clock).toBe(expected);
      doc.destroy();
    }
    const doc = new Y.Doc();
    Y.applyUpdate(doc, gap);
    await bindDoc(storage, "doc", doc).flush();
    expect((await storage.load<Y.Doc>("doc"))?.held).toHaveLength(1);
  });

  test("[DI10] what a write of unknown outcome has left behind counts as stored when the backend was reopened", async () => {
    let opened = 0;
    const onOperation = ({ kind }: { kind: string }) => {
      if (kind === "open") opened++;
    };
    const backend = simulatedBackend({ poisonsItself: true, onOperation });
    const storage = await open(backend);
    const [update] = typed("in doubt");
    await storage.append("doc", typed("before"));
    backend.failNext("commit", "unknown-applied");
    await expect(storage.append("doc", [update!])).rejects.toMatchObject({ code: "OUTCOME_UNKNOWN" });
    const doc = new Y.Doc();
    Y.applyUpdate(doc, update!);
    const told: number[] = [];
    const onDurable = () => void told.push(opened);
    await bindDoc(storage, "doc", doc, { ...retries, onDurable, onError: () => undefined }).flush();
    expect(told).toEqual([2]);
    expect(textOf((await storage.load<Y.Doc>("doc"))!.doc)).toContain("in doubt");
  });

  test("[DI8] refuses a bad update alone, says so, and stores the others in order", async () => {
    const storage = await open();
    const doc = new Y.Doc();
    const failures: BindingFailure[] = [];
    const codes: unknown[] = [];
    const binding = bindDoc(storage, "doc", doc, {
      onDurable: () => undefined,
      onError: (error, failure) => {
        failures.push(failure);
        codes.push(isCoppiceError(error) && error.code);
      },
    });
    await binding.loaded;
    doc.getText("t").insert(0, "before ");
    doc.getMap("m").set("deep", tooDeep());
    const other = new Y.Doc();
    other.getText("t").insert(0, "after");
    Y.applyUpdate(doc, Y.encodeStateAsUpdate(other));
    await expect(binding.flush()).rejects.toMatchObject({ code: "EVENT_INVALID" });
    expect(failures).toEqual([{ id: "doc", during: "append", retryMs: undefined }]);
    expect(codes).toEqual(["EVENT_INVALID"]);
    expect((await storage.info("doc"))?.clock).toBe(2);
    expect(await storedText(storage)).toContain("after");
    expect(await storedText(storage)).toContain("before");
  });

  test("[DI4] warns where there is no onError: at the first of failures in a row, and when it gives up", async () => {
    const warnings: string[] = [];
    const hear = ({ name, message }: Error) => name === "CoppiceWarning" && warnings.push(message);
    process.on("warning", hear);
    try {
      const backend = simulatedBackend();
      const storage = await open(backend);
      const doc = new Y.Doc();
      const binding = bindDoc(storage, "doc", doc, { retryMsMin: 1, retryMsMax: 8 });
      await binding.loaded;
      for (let n = 0; n < 5; n++) backend.failNext("commit", "unavailable");
      doc.getText("t").insert(0, "x");
      await binding.flush();
      await storage.delete("doc");
      doc.getText("t").insert(0, "y");
      await expect(binding.flush()).rejects.toMatchObject({ code: "DELETED" });
      await new Promise(setImmediate);
      expect(warnings).toEqual([
        expect.stringMatching(/^edits of the document "doc" are not stored; it is tried again: /),
        expect.stringMatching(
          /^edits of the document "doc" are not stored; and there is no onError to be told: /,
        ),
      ]);
    } finally {
      process.off("warning", hear);
    }
  });

  test("[DI10] tells how far the document is durable: clock, clients, and what is pending", async () => {
    const storage = await open();
    const doc = new Y.Doc();
    const told: Durability[] = [];
    const binding = bindDoc(storage, "doc", doc, { onDurable: (durability) => told.push(durability) });
    await binding.loaded;
    const [first, second, third] = typed("abc", "de", "f");
    Y.applyUpdate(doc, first!);
    Y.applyUpdate(doc, third!); // kept aside by Yjs: stored, but nothing of its client is durable beyond 3
    await binding.flush();
    const client = [...doc.store.clients.keys()][0]!;
    expect(told.at(-1)?.clients.get(client)).toBe(3);
    Y.applyUpdate(doc, second!);
    await binding.flush();
    expect(told.at(-1)).toMatchObject({ id: "doc", clock: binding.clock, pending: 0 });
    expect(told.at(-1)?.clients.get(client)).toBe(6);
    expect(await storedText(storage)).toBe("abcdef");
  });

  test("[DI11] loads after earlier bindings of the id have stored what they captured", async () => {
    const backend = simulatedBackend();
    const storage = await open(backend);
    const leaving = new Y.Doc();
    const first = bindDoc(storage, "doc", leaving, retries);
    await first.loaded;
    backend.failNext("commit", "unavailable", { sticky: true });
    leaving.getText("t").insert(0, "typed while the store was down");
    const coming = new Y.Doc();
    const second = bindDoc(storage, "doc", coming, retries);
    await new Promise((resolve) => setTimeout(resolve, 20));
    leaving.getText("t").insert(0, "and ");
    expect(textOf(coming)).toBe("");
    backend.heal();
    await second.loaded;
    expect(textOf(coming)).toBe("and typed while the store was down");
  });

  test("[DI29] stores what it can before flush rejects, and before the id is loaded again", async () => {
    const backend = simulatedBackend();
    const storage = await open(backend);
    const leaving = new Y.Doc();
    const first = bindDoc(storage, "doc", leaving, { ...retries, onError: () => undefined });
    await first.loaded;
    leaving.getMap("m").set("deep", tooDeep());
    await expect(first.flush()).rejects.toMatchObject({ code: "EVENT_INVALID" });
    backend.failNext("commit", "unavailable", { sticky: true });
    Y.applyUpdate(leaving, typed("typed while the store was down")[0]!);
    let ended = false;
    const flush = first.flush().finally(() => {
      ended = true;
    });
    flush.catch(() => undefined);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(ended).toBe(false);
    leaving.destroy();
    const coming = new Y.Doc();
    const second = bindDoc(storage, "doc", coming, retries);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(textOf(coming)).toBe("");
    backend.heal();
    await expect(flush).rejects.toMatchObject({ code: "EVENT_INVALID" });
    await second.loaded;
    expect(textOf(coming)).toBe("typed while the store was down");
  });

  test("[DI29] the flush of a server's persistence rejects when all other documents are stored", async () => {
    const backend = simulatedBackend();
    const storage = await open(backend);
    const persistence = websocketPersistence(storage, { ...retries, onError: () => undefined });
    const [bad, good] = [new Y.Doc(), new Y.Doc()];
    await Promise.all([persistence.bindState("bad", bad), persistence.bindState("good", good)]);
    bad.getMap("m").set("deep", tooDeep());
    await expect(persistence.flush()).rejects.toMatchObject({ code: "EVENT_INVALID" });
    for (let n = 0; n < 5; n++) backend.failNext("commit", "unavailable");
    good.getText("t").insert(0, "as good as ever");
    await expect(persistence.flush()).rejects.toMatchObject({ code: "EVENT_INVALID" });
    expect(await storedText(storage, "good")).toBe("as good as ever");
  });

  test("[DI14] refuses a Y.Doc of another copy of Yjs", async () => {
    const storage = await open();
    const Foreign = Object.getPrototypeOf(Y.Doc) as new () => unknown;
    const doc = new Y.Doc();
    const stranger = Object.setPrototypeOf(doc, Foreign.prototype) as Y.Doc;
    Object.assign(stranger, { on: Y.Doc.prototype.on, off: Y.Doc.prototype.off });
    const binding = bindDoc(storage, "doc", stranger);
    await expect(binding.loaded).rejects.toThrow(
      /another copy of Yjs, so nothing of it is stored: .*require.cache/,
    );
  });

  test("[DI14] a server that requires Yjs has our copy from require.cache, as its page says", async () => {
    const require = createRequire(import.meta.url);
    const path = require.resolve("yjs");
    require.cache[path] = { loaded: true, exports: Y } as NodeJS.Module;
    onTestFinished(() => {
      delete require.cache[path];
    });
    const storage = await open();
    const doc = new (require("yjs") as typeof Y).Doc();
    const binding = bindDoc(storage, "doc", doc);
    doc.getText("t").insert(0, "hello");
    await binding.flush();
    expect(await storedText(storage, "doc")).toBe("hello");
  });
});

describe("two storages of one Y.Doc", () => {
  test("[DI31] each stores what the other loads, once, also when both are bound again", async () => {
    const [one, two] = [await open(), await open()];
    await one.append("doc", typed("hello"), { model: "yjs" });
    await two.append("doc", typed("first "), { model: "yjs" });
    const clocks: number[][] = [];
    for (let run = 0; run < 3; run++) {
      const doc = new Y.Doc();
      const bindings = [one, two].map((storage) => bindDoc(storage, "doc", doc));
      await Promise.all(bindings.map(({ loaded }) => loaded));
      if (run === 0) doc.getText("t").insert(0, "edited ");
      await Promise.all(bindings.map((binding) => binding.flush()));
      expect(textOf(doc)).toContain("hello");
      expect(textOf(doc)).toContain("first ");
      for (const storage of [one, two]) expect(await storedText(storage)).toBe(textOf(doc));
      clocks.push(bindings.map(({ clock }) => clock));
      doc.destroy();
    }
    expect(clocks[0]).toEqual([3, 3]);
    expect(clocks.slice(1)).toEqual([clocks[0], clocks[0]]);
  });

  test("[DI31] a binding stores what a handle of another storage receives and pulls into its document", async () => {
    const [one, two] = [await open(), await open()];
    const handle = await one.open<Y.Doc>("doc", { model: "yjs" });
    const binding = bindDoc(two, "doc", handle.doc);
    await binding.loaded;
    const [first, second] = typed("a", "b");
    await one.append("doc", [first!]);
    await handle.refresh();
    handle.receive([second!]);
    await handle.save();
    handle.change((doc) => doc.getText("t").insert(2, "c"));
    await handle.save();
    await binding.flush();
    for (const storage of [one, two]) expect(await storedText(storage)).toBe("abc");
    expect([handle.clock, binding.clock]).toEqual([3, 3]);
    await handle.close();
  });
});

describe("binding and failures", () => {
  for (const fault of ["unavailable", "error", "unknown-lost", "unknown-applied"] satisfies Fault[]) {
    test(`[DI4] a commit that fails as ${fault} is repeated until it is durable`, async () => {
      const backend = simulatedBackend();
      const storage = await open(backend);
      const doc = new Y.Doc();
      const waits: (number | undefined)[] = [];
      const onError = (_: unknown, { retryMs }: BindingFailure) => waits.push(retryMs);
      const binding = bindDoc(storage, "doc", doc, { ...retries, onError });
      await binding.loaded;
      for (let n = 0; n < 3; n++) backend.failNext("commit", fault);
      const words = ["a ", "b ", "c ", "d "];
      for (const word of words) {
        doc.getText("t").insert(doc.getText("t").length, word);
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
      await binding.flush();
      expect(await storedText(storage)).toBe(words.join(""));
      expect(waits.length).toBeGreaterThanOrEqual(3);
      expect(waits).not.toContain(undefined);
      expect(waits[0]).toBe(1);
    });
  }

  test("[DI7] a flush right after a listener threw waits for the edit that it was told of", async () => {
    const storage = await open();
    const doc = new Y.Doc();
    const binding = bindDoc(storage, "doc", doc, retries);
    await binding.loaded;
    doc.on("afterTransactionCleanup", () => {
      throw new RangeError("listener");
    });
    expect(() => doc.getText("t").insert(0, "kept")).toThrow("listener");
    await binding.flush();
    expect([binding.clock, binding.pending]).toEqual([1, 0]);
    expect(await storedText(storage)).toBe("kept");
  });

  for (const poisonsItself of [true, false]) {
    const what = poisonsItself ? "poisons itself" : "goes on";
    test(`[DI4] a backend that ${what} and cannot be reopened for a while ends no document`, async () => {
      const backend = simulatedBackend({ poisonsItself });
      const storage = await open(backend);
      const codes = new Set<string | undefined>();
      const ends: unknown[] = [];
      const onError = (error: unknown, { retryMs }: BindingFailure) => {
        codes.add(isCoppiceError(error) ? error.code : undefined);
        if (retryMs === undefined) ends.push(error);
      };
      const [first, second] = [new Y.Doc(), new Y.Doc()];
      const bound = bindDoc(storage, "first", first, { ...retries, onError });
      await bound.loaded;
      for (let n = 0; n < 8; n++) backend.failNext("open", "unavailable");
      await expect(storage.recover()).rejects.toMatchObject({ code: "UNAVAILABLE" });
      first.getText("t").insert(0, "typed while full");
      const late = bindDoc(storage, "second", second, { ...retries, onError });
      second.getText("t").insert(0, "came meanwhile");
      await Promise.all([bound.flush(), late.flush()]);
      expect(ends).toEqual([]);
      expect(await storedText(storage, "first")).toBe("typed while full");
      expect(await storedText(storage, "second")).toBe("came meanwhile");
      expect([...codes]).toEqual(expect.arrayContaining(["POISONED", "UNAVAILABLE"]));
    });
  }

  test("[DI4] a load alone reopens a backend that somebody else could not", async () => {
    const backend = simulatedBackend();
    const storage = await open(backend);
    await storage.append("doc", typed("stored"));
    backend.failNext("open", "unavailable");
    await expect(storage.recover()).rejects.toMatchObject({ code: "UNAVAILABLE" });
    const doc = new Y.Doc();
    await bindDoc(storage, "doc", doc, retries).loaded;
    expect(textOf(doc)).toBe("stored");
  });

  test("[DI5] after a failed write the backend is reopened once for all documents", async () => {
    const backend = simulatedBackend();
    const storage = await open(backend);
    let recoveries = 0;
    const recover = storage.recover.bind(storage);
    storage.recover = () => {
      recoveries++;
      return recover();
    };
    const docs = Array.from({ length: 20 }, () => new Y.Doc());
    const bindings = docs.map((doc, n) => bindDoc(storage, `doc-${n}`, doc, retries));
    await Promise.all(bindings.map(({ loaded }) => loaded));
    backend.failNext("commit", "unknown-lost");
    for (const doc of docs) doc.getText("t").insert(0, "kept");
    await Promise.all(bindings.map((binding) => binding.flush()));
    for (const n of docs.keys()) expect(await storedText(storage, `doc-${n}`)).toBe("kept");
    expect(recoveries).toBe(1);
  });

  test("[DI6] nothing is stored for a document whose load failed", async () => {
    const backend = simulatedBackend();
    const storage = await DocumentStorage.open({ backend, models: [yjs()] });
    await storage.append("doc", typed("precious"));
    for (const key of backend.keys().filter(([space]) => space === "events")) backend.flip(key, 30);
    const before = backend.dump();
    const doc = new Y.Doc();
    const told: BindingFailure[] = [];
    const binding = bindDoc(storage, "doc", doc, { onError: (_, failure) => told.push(failure) });
    doc.getText("t").insert(0, "over an empty document");
    await expect(binding.loaded).rejects.toMatchObject({ code: "CORRUPT" });
    doc.getText("t").insert(0, "and more");
    await expect(binding.flush()).rejects.toMatchObject({ code: "CORRUPT" });
    expect(told).toEqual([{ id: "doc", during: "load", retryMs: undefined }]);
    expect(backend.dump()).toEqual(before);
    await storage.close();
  });

  test("[DI6] a load that fails for a while is repeated, and edits of that time are kept", async () => {
    const backend = simulatedBackend();
    const storage = await open(backend);
    await storage.append("doc", typed("stored "));
    backend.failNext("get", "unavailable");
    backend.failNext("scan", "unavailable");
    const doc = new Y.Doc();
    const waits: (number | undefined)[] = [];
    const binding = bindDoc(storage, "doc", doc, { ...retries, onError: (_, f) => waits.push(f.retryMs) });
    doc.getText("t").insert(0, "early ");
    await binding.flush();
    expect(waits.length).toBeGreaterThan(0);
    expect(waits).not.toContain(undefined);
    expect(await storedText(storage)).toBe(textOf(doc));
    expect(textOf(doc)).toContain("stored");
  });

  test("[DI7] a closed storage ends the binding: flush rejects, and nothing else does", async () => {
    const storage = await DocumentStorage.open({ backend: memoryBackend(), models: [yjs()] });
    const doc = new Y.Doc();
    const errors: unknown[] = [];
    const binding = bindDoc(storage, "doc", doc, { onError: (error) => errors.push(error) });
    await binding.loaded;
    await storage.close();
    doc.getText("t").insert(0, "lost");
    await expect(binding.flush()).rejects.toMatchObject({ code: "CLOSED" });
    expect(errors).toMatchObject([{ code: "CLOSED" }]);
    const late = bindDoc(storage, "doc", new Y.Doc());
    await expect(late.loaded).rejects.toMatchObject({ code: "CLOSED" });
  });

  test("[DI12] stored bytes that are no update are set aside, and the rest loads", async () => {
    // A storage whose model accepted everything once.
    const backend = memoryBackend();
    const { check: _, ...model } = yjs();
    const lax = await DocumentStorage.open({ backend, models: [model] });
    const poison = Uint8Array.of(1, 2, 3, 4, 5);
    await lax.append("doc", [...typed("good "), poison, ...typed("fine")]);
    await lax.close();
    const storage = await open(backend);
    const reasons: string[] = [];
    const onError = (error: unknown) => reasons.push((error as Error).message);
    // Should Yjs trip over what is stored, the model is asked, which refuses event by event and says so.
    const tripping = {
      models: storage.models,
      append: storage.append.bind(storage),
      attach: (saver: Saver) => ({ ...storage.attach(saver), diff: async () => Uint8Array.of(1, 1, 7) }),
      info: storage.info.bind(storage),
      load: storage.load.bind(storage),
      open: storage.open.bind(storage),
      recover: storage.recover.bind(storage),
      diff: storage.diff.bind(storage),
    };
    for (const each of [storage, tripping]) {
      const doc = new Y.Doc();
      const binding = bindDoc(each, "doc", doc, { onError });
      await binding.loaded;
      expect(textOf(doc)).toContain("good ");
      expect(textOf(doc)).toContain("fine");
      doc.destroy();
    }
    expect(reasons).toMatchObject([expect.stringMatching(/^stored event 1: /)]);
    const handle = await storage.load<Y.Doc>("doc");
    expect(handle?.held).toMatchObject([{ clock: 1, event: poison, reason: expect.any(String) }]);
    await handle?.close();
  });

  test("[DI13] corrupt bytes are a typed error before a document meets them", async () => {
    const sound = typed("hello")[0]!;
    expect(checkUpdate(sound)).toBeUndefined();
    expect(checkUpdate(Uint8Array.of(0, 0))).toBeUndefined();
    for (let length = 0; length < sound.length; length++) {
      expect(() => checkUpdate(sound.subarray(0, length), "doc")).toThrow(
        expect.objectContaining({ code: "EVENT_INVALID" }),
      );
    }
  });
});
