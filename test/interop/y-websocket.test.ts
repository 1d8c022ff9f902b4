/**
 * `websocketPersistence` in a real y-websocket style server with real y-websocket clients; where the usual way
 * of storing loses something, the same test shows that as well.
 */
import { yjs } from "@coppice/yjs";
import { type WebsocketPersistence, websocketPersistence } from "@coppice/yjs/dropins";
import { DocumentStorage } from "coppice";
import { simulatedBackend } from "coppice/testing";
import * as encoding from "lib0/encoding";
import { expect, onTestFinished, test, vi } from "vitest";
import WebSocket from "ws";
import { WebsocketProvider } from "y-websocket";
import * as Y from "yjs";
import { until } from "../support/until.js";
import { type Persistence, YWebsocketServer } from "../support/y-websocket-server.js";

const retries = { retryMsMin: 1, retryMsMax: 5 };

async function open(backend = simulatedBackend()) {
  const storage: DocumentStorage = await DocumentStorage.open({ backend, models: [yjs()] });
  onTestFinished(async () => {
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });
  return { storage, backend };
}

async function listen(persistence: Persistence): Promise<YWebsocketServer> {
  const server = await YWebsocketServer.listen(persistence);
  onTestFinished(() => server.close());
  return server;
}

function connect(server: YWebsocketServer, name = "notes") {
  const doc = new Y.Doc();
  const provider = new WebsocketProvider(server.url, name, doc, {
    WebSocketPolyfill: WebSocket as unknown as typeof globalThis.WebSocket,
    disableBc: true,
    maxBackoffTime: 50,
  });
  const leave = () => {
    provider.destroy();
  };
  onTestFinished(leave);
  const body = doc.getText("body");
  return {
    doc,
    provider,
    leave,
    text: () => body.toString(),
    type: (at: number, text: string) => body.insert(at, text),
  };
}

async function stored(storage: DocumentStorage, name = "notes"): Promise<string | undefined> {
  const handle = await storage.load<Y.Doc>(name);
  const text = handle?.doc.getText("body").toString();
  await handle?.close();
  return text;
}

function updateOf(text: string): Uint8Array {
  const doc = new Y.Doc();
  doc.getText("body").insert(0, text);
  return Y.encodeStateAsUpdate(doc);
}

test("[DI15] clients see what is stored, and everything is durable when writeState resolves", async () => {
  const { storage, backend } = await open();
  await storage.append("notes", [updateOf("stored ")]);
  const persistence = websocketPersistence(storage, retries);
  const written: (string | undefined)[] = [];
  const server = await listen({
    bindState: persistence.bindState,
    writeState: async (name, doc) => {
      await persistence.writeState(name, doc);
      written.push(await stored(storage));
    },
  });
  expect(persistence.provider).toBe(storage);
  const ann = connect(server);
  await until("ann sees it", () => ann.text() === "stored ");
  await persistence.whenLoaded("notes");
  for (let n = 0; n < 4; n++) backend.failNext("commit", n % 2 === 0 ? "unavailable" : "unknown-lost");
  ann.type(7, "and typed");
  await until("the server has it", () => server.docs.get("notes")?.getText("body").length === 16);
  ann.leave();
  await until("writeState has resolved", () => written.length === 1);
  expect(written).toEqual(["stored and typed"]);
  await persistence.flush();
});

test("[DI15] what clients send before the load has ended is kept, although the server lets them in", async () => {
  const { storage, backend } = await open();
  await storage.append("notes", [updateOf("stored ")]);
  backend.failNext("get", "unavailable");
  backend.failNext("scan", "unavailable");
  const persistence = websocketPersistence(storage, { retryMsMin: 50 });
  const server = await listen(persistence);
  const ann = connect(server);
  await until("the server let ann in", () => ann.provider.synced);
  expect(ann.text()).toBe("");
  ann.type(0, "early ");
  await until("ann sees the rest", () => ann.text().length === 13);
  await persistence.flush();
  expect(await stored(storage)).toBe(ann.text());
});

test("[DI15] neither bindState nor writeState is ever an unhandled rejection, and writeState never says stored", async () => {
  const { storage, backend } = await open();
  await storage.append("notes", [updateOf("precious")]);
  const damaged = backend.dump();
  for (const key of backend.keys().filter(([space]) => space === "events")) backend.flip(key, 30);
  const errors: unknown[] = [];
  const persistence = websocketPersistence(storage, { onError: (error) => errors.push(error) });
  const server = await listen(persistence);
  const ann = connect(server);
  ann.type(0, "over an empty document");
  await until("told", () => errors.length > 0);
  await expect(persistence.whenLoaded("notes")).rejects.toMatchObject({ code: "CORRUPT" });
  await until("the server has it", () => (server.docs.get("notes")?.getText("body").length ?? 0) > 0);
  let written = false;
  const doc = server.docs.get("notes")!;
  void persistence.writeState("notes", doc).then(() => {
    written = true;
  });
  ann.leave();
  await until("the server forgets it", () => server.docs.size === 0);
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(written).toBe(false);
  await expect(persistence.flush()).rejects.toMatchObject({ code: "CORRUPT" });
  backend.restore(damaged);
  expect(await stored(storage)).toBe("precious");
});

test("[DI13] corrupt messages of a client never reach the log of a y-websocket server", async () => {
  const { storage } = await open();
  const errors: unknown[] = [];
  const persistence = websocketPersistence(storage, { onError: (error) => errors.push(error) });
  const server = await listen(persistence);
  const ann = connect(server);
  await until("synced", () => ann.provider.synced);
  ann.type(0, "sound");
  await until("the server has it", () => server.docs.get("notes")?.getText("body").length === 5);
  await persistence.flush();
  const before = await storage.info("notes");
  const eve = new WebSocket(`${server.url}/notes`);
  await new Promise((resolve) => eve.once("open", resolve));
  // y-protocols writes to the console about each of them.
  const quiet = vi.spyOn(console, "error").mockImplementation(() => undefined);
  onTestFinished(() => quiet.mockRestore());
  const bad = updateOf("bad bytes");
  let sent = 0;
  // Yjs takes what is whole before the end that is missing, and that is sound; all the rest is refused.
  for (let length = 1; length < bad.length - 2; length += 3) {
    sent++;
    const encoder = encoding.createEncoder();
    encoding.writeVarUint(encoder, 0);
    encoding.writeVarUint(encoder, 2);
    encoding.writeVarUint8Array(encoder, bad.subarray(0, length));
    eve.send(encoding.toUint8Array(encoder));
  }
  await until("all were refused", () => server.errors.length === sent);
  eve.terminate();
  await persistence.flush();
  expect((await storage.info("notes"))?.clock).toBe(before?.clock);
  expect(await stored(storage)).toBe("sound");
  expect(errors).toEqual([]);
});

/** As many servers store: the whole document, when the last client has left. */
function wholeDocuments(rows: Map<string, Uint8Array>, gate: Promise<void>): Persistence {
  let first = true;
  return {
    bindState: (name, doc) => {
      const row = rows.get(name);
      if (row !== undefined) Y.applyUpdate(doc, row);
    },
    writeState: async (name, doc) => {
      const state = Y.encodeStateAsUpdate(doc);
      if (first) {
        first = false;
        await gate;
      }
      rows.set(name, state);
    },
  };
}

/** Ann leaves, and while her edit is being written Ben comes, edits and leaves. Her own copy is gone. */
async function reconnectDuringWrite(server: YWebsocketServer, release: () => void): Promise<void> {
  const ann = connect(server);
  await until("ann sees it", () => ann.text() === "stored");
  ann.type(0, "by ann ");
  await until("the server has it", () => server.docs.get("notes")?.getText("body").length === 13);
  ann.leave();
  await until("ann's document is being written", () => server.docs.size === 0);
  const ben = connect(server);
  await until("ben is in", () => ben.provider.synced);
  // With a server that waits for its storage Ben sees the text only after the write.
  setTimeout(release, 30);
  await until("ben sees it", () => ben.text().endsWith("stored"));
  ben.type(ben.text().length, " by ben");
  await until("the server has it", () => {
    return server.docs.get("notes")?.getText("body").toString().endsWith("by ben") === true;
  });
  ben.leave();
  await until("ben's document is left", () => server.docs.size === 0);
}

test("[DI16] a client that comes while a document is written loses nobody's edits; whole documents do", async () => {
  const { storage, backend } = await open();
  await storage.append("notes", [updateOf("stored")]);
  const persistence: WebsocketPersistence = websocketPersistence(storage, retries);
  const ours = await listen(persistence);
  backend.failNext("commit", "unavailable", { sticky: true });
  await reconnectDuringWrite(ours, () => backend.heal());
  await persistence.flush();
  expect(await stored(storage)).toBe("by ann stored by ben");

  const rows = new Map([["notes", updateOf("stored")]]);
  let release: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  const usual = await listen(wholeDocuments(rows, gate));
  await reconnectDuringWrite(usual, release);
  await until("both writes have ended", async () => {
    const doc = new Y.Doc();
    Y.applyUpdate(doc, rows.get("notes")!);
    return doc.getText("body").toString() === "stored by ben";
  });
});
