// Two y-websocket clients as they are, over real sockets, against a server on a real storage.
import { ConnectionRefused, DurabilityWatch } from "@coppice/server/client";
import { yjs } from "@coppice/yjs";
import { memoryBackend, tree } from "coppice";
import { simulatedBackend } from "coppice/testing";
import { afterEach, describe, expect, test } from "vitest";
import * as Y from "yjs";
import {
  atEnd,
  type Client,
  cleanUp,
  connect,
  levelStore,
  message,
  RawClient,
  run,
  storedText,
  synced,
  typed,
  until,
} from "./support.js";

afterEach(cleanUp);

describe("sync", () => {
  test("[SV1] two y-websocket clients converge, and what they typed is stored", async () => {
    const running = await run({ backend: await levelStore() });
    const [a, b] = [await synced(connect(running, "notes")), await synced(connect(running, "notes"))];
    for (let index = 0; index < 20; index++) {
      a.text.insert(0, "a");
      b.text.insert(b.text.length, "b");
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    await until("both have all", () => a.text.length === 40 && b.text.toString() === a.text.toString());
    await until(
      "it is stored",
      async () => (await storedText(running.storage, "notes")) === a.text.toString(),
    );
    expect(a.text.toString().replaceAll("b", "")).toBe("a".repeat(20));
  });

  test("[SV1] ids hold slashes, spaces, dots and emoji, and are kept apart", async () => {
    const running = await run();
    const ids = ["a/b", "a%2Fb", "a b", "…/🌳", "a//b", "..a", "a?b#c"];
    for (const id of ids) {
      const { text } = await synced(connect(running, encodeURIComponent(id)));
      text.insert(0, id);
    }
    const raw = await synced(connect(running, "plain/path"));
    raw.text.insert(0, "plain/path");
    for (const id of [...ids, "plain/path"])
      await until(id, async () => (await storedText(running.storage, id)) === id);
  });

  test("[SV2] a client is synced only once it has what was stored", async () => {
    const running = await run();
    await running.storage.append("notes", [typed("stored before")]);
    const client = connect(running, "notes");
    const seen: string[] = [];
    client.provider.on("sync", (state: boolean) => {
      if (state) seen.push(client.text.toString());
    });
    await synced(client);
    expect(seen).toEqual(["stored before"]);
  });

  test("[SV2] messages that come before the document is loaded are handled after it, in order", async () => {
    const running = await run();
    await running.storage.append("notes", [typed("old")]);
    const raw = new RawClient(`${running.syncUrl}/notes`);
    await raw.send(message.step1(), message.update(typed("new")), message.mark(7));
    await until("the mark was answered", () => raw.of(100).length === 1);
    const doc = new Y.Doc();
    for (const reader of raw.of(0)) if (reader.varint() > 0) Y.applyUpdate(doc, reader.sized());
    expect(doc.getText("text").toString()).toBe("old");
    expect(await storedText(running.storage, "notes")).toHaveLength(6);
  });

  test("[SV3] looking at a document that does not exist creates nothing, writing does", async () => {
    const running = await run();
    const reader = await synced(connect(running, "empty"));
    const writer = await synced(connect(running, "empty"));
    expect(await running.storage.info("empty")).toBeUndefined();
    writer.text.insert(0, "first");
    await until("the other has it", () => reader.text.toString() === "first");
    await until("it exists", async () => (await running.storage.info("empty"))?.clock === 1);
  });

  test("[SV4] awareness reaches the others, goes with its connection, and an echo does not revive it", async () => {
    const running = await run();
    const [a, b] = [await synced(connect(running, "notes")), await synced(connect(running, "notes"))];
    a.provider.awareness.setLocalState({ name: "Ann" });
    const shown = () => b.provider.awareness.getStates().get(a.doc.clientID)?.name;
    await until("the other sees it", () => shown() === "Ann");
    const c = await synced(connect(running, "notes"));
    await until("a late one sees it", () => c.provider.awareness.getStates().has(a.doc.clientID));
    const echo = message.awareness([a.doc.clientID, 1, '{"name":"ghost"}']);
    a.provider.disconnect();
    await until("it is gone", () => shown() === undefined);
    const raw = new RawClient(`${running.syncUrl}/notes`);
    await raw.send(message.step1(), echo, message.mark(1));
    await until("the echo was handled", () => raw.of(100).length === 1);
    expect(shown()).toBeUndefined();
  });

  test("[SV4] the sender gets its own awareness back, as a sign of life", async () => {
    const running = await run();
    const raw = new RawClient(`${running.syncUrl}/notes`);
    await raw.send(message.awareness([5, 1, "{}"]));
    await until("the echo", () => raw.of(1).length === 1);
  });

  test("[SV5] the durable clock is told to those who ask for it, and to nobody else", async () => {
    const running = await run({ backend: await levelStore() });
    const asks = new RawClient(`${running.syncUrl}/notes`);
    const silent = new RawClient(`${running.syncUrl}/notes`);
    await silent.send(message.step1());
    await asks.send(message.step1(), message.watchDurable(), message.update(typed("x")), message.mark(3));
    const answers = () =>
      asks
        .of(100)
        .map((reader) => [reader.varint(), reader.varint(), reader.left > 0 ? reader.varint() : -1]);
    await until("all was told", () => answers().length >= 4);
    expect(answers()).toEqual(
      expect.arrayContaining([
        [0, 0, -1],
        [3, 1, -1],
        [0, 1, -1],
        [1, 3, 1],
      ]),
    );
    await until("the other has the edit", () => silent.received.length > 2);
    expect(silent.of(100)).toEqual([]);
  });

  test("[SV5] nothing is called durable before the storage says so", async () => {
    let held: Promise<void> = Promise.resolve();
    let release: () => void = () => undefined;
    const disk = simulatedBackend({
      schedule: (label) => (label.startsWith("commit") ? held : Promise.resolve()),
    });
    const running = await run({ backend: disk });
    const raw = new RawClient(`${running.syncUrl}/notes`);
    await raw.send(message.step1(), message.update(typed("a")), message.mark(1));
    await until("the first is durable", () => raw.of(100).length === 1);
    held = new Promise((resolve) => {
      release = resolve;
    });
    await raw.send(message.update(typed("b")), message.mark(2));
    const other = new RawClient(`${running.syncUrl}/notes`);
    await other.send(message.step1());
    await until("others have the edit", () => other.received.length >= 2);
    expect(raw.of(100)).toHaveLength(1);
    release();
    await until("the second is durable", () => raw.of(100).length === 2);
  });

  test("[SV5] the client's watch says when an edit is durable, through a lost connection too", async () => {
    const running = await run({ backend: await levelStore() });
    const client = await synced(connect(running, "notes"));
    const watch = new DurabilityWatch(client.provider);
    atEnd(() => watch.stop());
    client.text.insert(0, "x");
    expect(watch.pendingCount).toBe(1);
    expect(await watch.settled()).toBe(1);
    expect([watch.pendingCount, watch.writable]).toEqual([0, true]);
    client.provider.disconnect();
    client.text.insert(0, "offline ");
    expect(watch.pendingCount).toBe(1);
    const later = watch.settled();
    client.provider.connect();
    await later;
    expect(watch.pendingCount).toBe(0);
    expect(await storedText(running.storage, "notes")).toBe("offline x");
  });

  test("[SV84] an edit that was refused before its document existed is told to be durable once it is", async () => {
    const disk = simulatedBackend();
    let mayRecover = false;
    const running = await run({ backend: disk, mayRecover: () => mayRecover });
    const client = await synced(connect(running, "new"));
    const watch = new DurabilityWatch(client.provider);
    atEnd(() => watch.stop());
    disk.failNext("commit", "unknown-lost");
    client.text.insert(0, "typed while the disk was full");
    await until("the server takes no writes", () => !watch.writable);
    expect(await running.storage.info("new")).toBeUndefined();
    mayRecover = true;
    let clock: number | undefined;
    const settled = watch.settled().then((at) => {
      clock = at;
    });
    settled.catch(() => undefined);
    await until("it is durable, and told so", () => clock === 1);
    expect(watch.pendingCount).toBe(0);
    expect(running.errors.splice(0)).toMatchObject([{ code: "OUTCOME_UNKNOWN" }]);
    expect(await storedText(running.storage, "new")).toBe("typed while the disk was full");
  });

  test("[SV78] settled rejects when the server ends the connection for good, with its close code", async () => {
    const running = await run({ storageOptions: { models: [yjs(), tree()] } as never });
    await running.storage.open("board", { model: "tree" });
    const [board, notes] = ["board", "notes"].map((id) => connect(running, id)) as [Client, Client];
    const watches = [board, notes].map(({ provider }) => new DurabilityWatch(provider));
    for (const watch of watches) atEnd(() => watch.stop());
    const [ofBoard, ofNotes] = watches as [DurabilityWatch, DurabilityWatch];
    await expect(ofBoard.settled()).rejects.toMatchObject({ code: 4415 });
    // Nobody tries again: a later question is answered at once.
    await expect(ofBoard.settled()).rejects.toBeInstanceOf(ConnectionRefused);
    notes.text.insert(0, "x");
    expect(await ofNotes.settled()).toBe(1);
    const closed = new Promise((resolve) => notes.provider.on("closed", resolve));
    await running.storage.delete("notes");
    notes.text.insert(0, "y");
    await expect(ofNotes.settled()).rejects.toMatchObject({ code: 4410 });
    expect(await closed).toMatchObject({ code: 4410 });
    // A deliberate new attempt is waited for, until it is refused as well.
    notes.provider.connect();
    await expect(ofNotes.settled()).rejects.toMatchObject({ code: 4410 });
  });

  test("[SV78] settled rejects when its provider is destroyed, connected or not, and when it is stopped", async () => {
    const running = await run();
    for (const isConnected of [true, false]) {
      const client = connect(running, "notes", { connect: isConnected });
      const { provider, doc } = isConnected ? await synced(client) : client;
      const watch = new DurabilityWatch(provider);
      const waiting = watch.settled();
      provider.destroy();
      await expect(waiting).rejects.toThrow("the provider was destroyed");
      doc.getText("text").insert(0, "x");
      await expect(watch.settled()).rejects.toThrow("the provider was destroyed");
    }
    const { provider } = connect(running, "notes", { connect: false });
    const { destroy } = provider;
    const watch = new DurabilityWatch(provider);
    const waiting = watch.settled();
    watch.stop();
    await expect(waiting).rejects.toThrow("the watch was stopped");
    await expect(watch.settled()).rejects.toThrow("the watch was stopped");
    expect(provider.destroy).toBe(destroy);
  });

  test("[SV6] a client that comes back with nothing new adds nothing to the log", async () => {
    const running = await run();
    const client = await synced(connect(running, "notes"));
    client.text.insert(0, "hello");
    client.text.delete(1, 2);
    const watch = new DurabilityWatch(client.provider);
    atEnd(() => watch.stop());
    await watch.settled();
    for (let times = 0; times < 3; times++) {
      client.provider.disconnect();
      client.provider.connect();
      await synced(client);
    }
    await watch.settled();
    expect((await running.storage.info("notes"))?.clock).toBe(2);
  });

  test("[SV7] what others append to the storage reaches the clients, after a compaction too", async () => {
    const running = await run();
    const client = await synced(connect(running, "notes"));
    client.text.insert(0, "mine");
    await until("it is stored", async () => (await running.storage.info("notes"))?.clock === 1);
    await running.storage.append("notes", [typed("theirs")]);
    await until("the client has it", () => client.text.length === 10);
    await running.storage.compact("notes", { force: true });
    await running.storage.append("notes", [typed("!")]);
    await until("the client has the rest", () => client.text.length === 11);
  });

  test("[SV7] a document that others create reaches the clients who wait for it", async () => {
    const running = await run({ limits: { idleMs: 50 } });
    const [client, other] = [
      await synced(connect(running, "later")),
      await synced(connect(running, "later")),
    ];
    await running.storage.append("later", [typed("created elsewhere")]);
    await until("both see it", () => client.text.length === 17 && other.text.length === 17);
    client.text.insert(0, "and ");
    const whole = "and created elsewhere";
    await until("the other has the edit", () => other.text.toString() === whole);
    await until("it is stored", async () => (await storedText(running.storage, "later")) === whole);
  });

  test("[SV8] an edit that builds on a missing one is kept and shown when that one comes", async () => {
    const running = await run();
    const source = new Y.Doc();
    const updates: Uint8Array[] = [];
    source.on("update", (update: Uint8Array) => updates.push(update));
    source.getText("text").insert(0, "a");
    source.getText("text").insert(1, "b");
    const [late, early] = [
      new RawClient(`${running.syncUrl}/notes`),
      new RawClient(`${running.syncUrl}/notes`),
    ];
    const reader = await synced(connect(running, "notes"));
    await late.send(message.step1(), message.update(updates[1]!), message.mark(1));
    await until("it is durable", () => late.of(100).length === 1);
    expect(reader.text.toString()).toBe("");
    await early.send(message.step1(), message.update(updates[0]!), message.mark(1));
    await until("both are shown", () => reader.text.toString() === "ab");
    const shown = new Y.Doc();
    for (const one of early.of(0)) if (one.varint() > 0) Y.applyUpdate(shown, one.sized());
    await until("the one who sent the first has the second", () => {
      for (const one of early.of(0)) if (one.varint() > 0) Y.applyUpdate(shown, one.sized());
      return shown.getText("text").toString() === "ab";
    });
    expect(await storedText(running.storage, "notes")).toBe("ab");
  });

  test("[SV110] who comes back to a document in which edits wait for others adds nothing, and stays", async () => {
    const running = await run({ limits: { heldEventsMax: 4 } });
    const updates: Uint8Array[] = [];
    const source = new Y.Doc();
    source.on("update", (update: Uint8Array) => updates.push(update));
    source.getText("text").insert(0, "abc");
    source.getText("text").insert(3, "d");
    source.getText("text").delete(1, 1);
    const raw = new RawClient(`${running.syncUrl}/notes`);
    await raw.send(message.step1(), message.step2(typed("hi")));
    await raw.send(...updates.slice(1).map(message.update), message.mark(1));
    await until("they are durable", () => raw.of(100).length === 1);
    const clock = async () => (await running.storage.info("notes"))!.clock;
    const before = await clock();
    const { provider, text } = await synced(connect(running, "notes"));
    for (let n = 0; n < 6; n++) {
      provider.disconnect();
      await until("it is away", () => !provider.wsconnected);
      provider.connect();
      await until("it is back", () => provider.synced);
    }
    // Another server may have given them to a client.
    const waiting = Y.mergeUpdates(updates.slice(1));
    for (let n = 2; n < 8; n++) await raw.send(message.step2(waiting), message.mark(n));
    await until("all is durable", () => raw.of(100).length === 7);
    expect([await clock(), provider.wsconnected]).toEqual([before, true]);
    await raw.send(message.update(updates[0]!));
    await until("what waited is shown", () => text.toString().includes("acd"));
  });

  test("[SV9] a document leaves memory when nobody is connected, and is whole when they come back", async () => {
    const running = await run({ limits: { idleMs: 20 } });
    const first = await synced(connect(running, "notes"));
    first.text.insert(0, "kept");
    first.provider.destroy();
    await until("it left", () => running.server.gauges().documents === 0);
    const second = await synced(connect(running, "notes"));
    expect(second.text.toString()).toBe("kept");
  });

  test("[SV9] memory is bounded: the least recently used documents leave, and none that is in use", async () => {
    const running = await run({ limits: { memoryBytesMax: 200_000, idleMs: 600_000 } });
    const used = await synced(connect(running, "used"));
    used.text.insert(0, "used");
    for (let index = 0; index < 40; index++) {
      const client = await synced(connect(running, `doc-${index}`));
      client.text.insert(0, `text ${index}`);
      const watch = new DurabilityWatch(client.provider);
      await watch.settled();
      watch.stop();
      client.provider.destroy();
      expect(running.server.gauges().bytes).toBeLessThan(220_000);
    }
    for (const index of [0, 20, 39])
      expect(await storedText(running.storage, `doc-${index}`)).toBe(`text ${index}`);
    used.text.insert(4, " still");
    await until("it is stored", async () => (await storedText(running.storage, "used")) === "used still");
  });

  test("[SV9] the estimate of a document's memory follows the document, not the number of its edits", async () => {
    const running = await run();
    const raw = new RawClient(`${running.syncUrl}/notes`);
    const doc = new Y.Doc();
    const updates: Uint8Array[] = [];
    doc.on("update", (update: Uint8Array) => updates.push(message.update(update)));
    for (let index = 0; index < 300; index++) {
      doc.getText("text").insert(0, "x".repeat(2000));
      doc.getText("text").delete(0, 2000);
    }
    await raw.send(message.step1(), ...updates, message.mark(1));
    await until("all is durable", () => raw.of(100).length === 1);
    expect(running.server.gauges().bytes).toBeLessThan(3 * 1024 * 1024);
  });

  test("[SV9] when all that fills the memory is in use, a further document is refused for now", async () => {
    const running = await run({ limits: { memoryBytesMax: 40_000 } });
    await synced(connect(running, "one"));
    await synced(connect(running, "two"));
    const raw = new RawClient(`${running.syncUrl}/three`);
    expect(await raw.closed).toMatchObject({ code: 4503 });
  });

  test("[SV50] a malformed first edit of a document does not end who edits it first as well", async () => {
    let goOn = (): void => undefined;
    const stalled = new Promise<void>((resolve) => {
      goOn = resolve;
    });
    const running = await run();
    const append = running.storage.append.bind(running.storage);
    running.storage.append = async (...args) => {
      await stalled;
      return append(...args);
    };
    const [liar, honest] = [new RawClient(`${running.syncUrl}/new`), new RawClient(`${running.syncUrl}/new`)];
    for (const client of [liar, honest]) await client.send(message.step1());
    await until("both are answered", () => [liar, honest].every(({ received }) => received.length > 1));
    await liar.send(message.update(Uint8Array.of(1, 2, 3, 4)));
    await new Promise((resolve) => setTimeout(resolve, 50));
    await honest.send(message.update(typed("hello")), message.mark(1));
    await new Promise((resolve) => setTimeout(resolve, 50));
    goOn();
    expect(await liar.closed).toMatchObject({ code: 4400 });
    await until("the other's edit is durable", () => honest.of(100).length > 0);
    expect(honest.socket.readyState).toBe(honest.socket.OPEN);
    expect(await storedText(running.storage, "new")).toBe("hello");
  });

  test("[SV10] a deleted document closes its clients for good, and is not brought back by them", async () => {
    const running = await run();
    const client = await synced(connect(running, "notes"));
    client.text.insert(0, "gone");
    await until("it is stored", async () => (await running.storage.info("notes")) !== undefined);
    const closed = new Promise((resolve) => client.provider.on("closed", resolve));
    await running.storage.delete("notes");
    client.text.insert(0, "back ");
    expect(await closed).toMatchObject({ code: 4410 });
    const again = connect(running, "notes", { doc: client.doc });
    const refused = new Promise((resolve) => again.provider.on("closed", resolve));
    expect(await refused).toMatchObject({ code: 4410 });
    expect(await running.storage.info("notes")).toBeUndefined();
  });

  test.each(["delete", "erase"] as const)(
    "[SV10] clients that are idle hear of storage.%s",
    async (remove) => {
      const running = await run();
      const client = await synced(connect(running, "notes"));
      client.text.insert(0, "gone");
      await until("it is stored", async () => (await running.storage.info("notes")) !== undefined);
      const closed = new Promise((resolve) => client.provider.on("closed", resolve));
      await running.storage[remove]("notes");
      expect(await closed).toMatchObject({ code: 4410 });
    },
  );

  test("[SV10] a document that is deleted while it is loaded is shown to nobody", async () => {
    const running = await run();
    const { storage } = running;
    await storage.append("notes", [typed("gone")]);
    const load = storage.load.bind(storage) as typeof storage.load;
    storage.load = async (...args) => {
      const handle = await load(...args);
      await storage.delete("notes");
      return handle as never;
    };
    const client = await synced(connect(running, "notes"));
    expect(client.text.toString()).toBe("");
  });

  test("[SV108] a storage that is closed while a document is loaded hangs nothing", async () => {
    const running = await run({ mayFail: true });
    const { storage } = running;
    await storage.append("notes", [typed("kept")]);
    const load = storage.load.bind(storage) as typeof storage.load;
    storage.load = async (...args) => {
      const handle = await load(...args);
      await storage.close();
      return handle as never;
    };
    const raw = new RawClient(`${running.syncUrl}/notes`);
    await raw.send(message.step1());
    expect([1012, 4503]).toContain((await raw.closed).code);
  });

  test("[SV11] closing the server saves what was received, and leaves the storage open", async () => {
    const backend = memoryBackend();
    const running = await run({ backend });
    const client = await synced(connect(running, "notes"));
    client.text.insert(0, "last words");
    await until("the server has it", () => running.server.gauges().documents === 1);
    const raw = new RawClient(`${running.syncUrl}/notes`);
    await raw.send(message.step1(), message.update(typed("!")));
    await until("the update came round", () => client.text.length === 11);
    await running.server.close();
    expect(await raw.closed).toMatchObject({ code: 1001 });
    expect(await storedText(running.storage, "notes")).toHaveLength(11);
    await expect(new RawClient(`${running.syncUrl}/notes`).opened).rejects.toThrow();
  });
});
