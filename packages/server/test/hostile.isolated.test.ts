// What no client would send, while others go on typing. COPPICE_FUZZ=<count> sends so many malformed messages
// (default 3,000), COPPICE_SILENT=<count> opens so many connections that say nothing (default 300).
import { mkdir, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { connect as connectSocket, type Socket } from "node:net";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { Writer } from "coppice";
import { seededRandom } from "coppice/testing";
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
  type Running,
  run,
  stallingStore,
  storedText,
  synced,
  temporaryDirectory,
  typed,
  until,
} from "./support.js";

const FUZZ = Number(process.env.COPPICE_FUZZ ?? 3_000);
const SILENT = Number(process.env.COPPICE_SILENT ?? 300);
const SEED = 20_261_125;

afterEach(cleanUp);

/** Two people who type all the time; `end` proves that they converged and that it is stored. */
async function typing(
  running: Running,
  id: string,
): Promise<{ end: () => Promise<void>; count: () => number }> {
  const clients: Client[] = [await synced(connect(running, id)), await synced(connect(running, id))];
  let keystrokes = 0;
  const timer = setInterval(() => {
    for (const { text } of clients) text.insert(text.length, String(keystrokes++ % 10));
  }, 5);
  atEnd(() => clearInterval(timer));
  return {
    count: () => keystrokes,
    end: async () => {
      const before = keystrokes;
      await until("they go on typing", () => keystrokes > before + 10);
      clearInterval(timer);
      const [a, b] = clients as [Client, Client];
      await until("they converge", () => a.text.toString() === b.text.toString());
      // Others may have typed into the same document.
      expect(a.text.length).toBeGreaterThanOrEqual(keystrokes);
      // What the two have typed: of others, who may use one id for two things, stands what came first.
      const typists = clients.map(({ doc }) => doc);
      await until("it is stored", async () => {
        const stored = await running.storage.load<Y.Doc>(id);
        const same = typists.every(
          (doc) => typedBy(doc.clientID, stored?.doc) === typedBy(doc.clientID, doc),
        );
        const isWhole = stored?.doc.getText("text").length === a.text.length;
        await stored?.close();
        return same && isWhole;
      });
    },
  };
}

/** All that this client has typed, in its order, with what it stands behind. */
function typedBy(client: number, doc: Y.Doc | undefined): string {
  const items = (doc?.store.clients.get(client) ?? []).filter((struct) => struct instanceof Y.Item);
  return items
    .flatMap(({ content, id, origin }) =>
      [...content.getContent()].map((letter, at) =>
        at === 0 ? `${origin?.client}:${origin?.clock}${letter}` : `${client}:${id.clock + at - 1}${letter}`,
      ),
    )
    .join(" ");
}

/** Sends raw text over TCP; resolves with what came back when the server ended the connection. */
function raw(running: Running, text: string): { readonly socket: Socket; readonly ended: Promise<string> } {
  const socket = connectSocket(running.server.port, "127.0.0.1", () => socket.write(text));
  let seen = "";
  socket.setEncoding("latin1").on("data", (more: string) => {
    seen += more;
  });
  socket.on("error", () => undefined);
  atEnd(() => socket.destroy());
  return { socket, ended: new Promise((resolve) => socket.once("close", () => resolve(seen))) };
}

describe("messages", () => {
  test("[SV50] malformed messages end their own connection, and others go on typing in the same document", async () => {
    const running = await run({
      limits: { messagesPerSecondMax: 1_000_000, connectionsPerAddressMax: 100_000 },
    });
    const people = await typing(running, "notes");
    const random = seededRandom(SEED);
    const valid = [
      message.step1(),
      message.step2(typed("step two")),
      message.update(typed("an update")),
      message.awareness([7, 1, '{"name":"x"}']),
      message.mark(12),
      message.watchDurable(),
      Uint8Array.of(3),
    ];
    let sent = 0;
    const attacker = async () => {
      while (sent < FUZZ) {
        const client = new RawClient(`${running.syncUrl}/notes`);
        await client.opened;
        for (let count = 0; count < 20 && client.socket.readyState === client.socket.OPEN; count++) {
          sent++;
          client.socket.send(mutate(valid[random.int(valid.length)]!, random));
          if (count % 5 === 0) await new Promise((resolve) => setImmediate(resolve));
        }
        await new Promise<void>((resolve) => {
          client.socket.once("close", () => resolve());
          if (client.socket.readyState === client.socket.CLOSED) resolve();
          else client.socket.close();
        });
      }
    };
    await Promise.all(Array.from({ length: 4 }, attacker));
    expect(sent).toBeGreaterThanOrEqual(FUZZ);
    expect(running.errors).toEqual([]);
    await people.end();
  }, 600_000);

  test("[SV50] text, trailing bytes, unknown steps and bad updates are malformed; unknown types are ignored", async () => {
    const running = await run();
    const doc = new Y.Doc();
    const cases: readonly Uint8Array[] = [
      Uint8Array.of(),
      Uint8Array.of(0),
      Uint8Array.of(0, 9, 0),
      Uint8Array.of(...message.step1(doc), 1),
      Uint8Array.of(0, 0, 250),
      Uint8Array.of(100, 9),
      message.update(Uint8Array.of(1, 2, 3)),
      message.step2(new Uint8Array(200).fill(255)),
      new Writer()
        .varint(0)
        .varint(0)
        .sized(Uint8Array.of(255, 255, 255, 255, 15))
        .finish(),
      message.awareness([1, 1, "{"]),
      Uint8Array.of(1, 2, 1, 5),
    ];
    for (const bytes of cases) {
      const client = new RawClient(`${running.syncUrl}/notes`);
      await client.send(bytes);
      expect([bytes, await client.closed]).toMatchObject([bytes, { code: 4400 }]);
    }
    const text = new RawClient(`${running.syncUrl}/notes`);
    await text.opened;
    text.socket.send("hello");
    expect(await text.closed).toMatchObject({ code: 4400 });
    const other = new RawClient(`${running.syncUrl}/notes`);
    await other.send(Uint8Array.of(42, 1, 2, 3), message.mark(1));
    await until("it goes on", () => other.of(100).length === 1);
    expect(await running.storage.info("notes")).toBeUndefined();
  });

  test("[SV51] a frame of 100 MB ends its connection before it is read", async () => {
    const running = await run();
    const people = await typing(running, "notes");
    const client = new RawClient(`${running.syncUrl}/notes`);
    const before = process.memoryUsage().arrayBuffers;
    const frame = Buffer.alloc(100 * 1024 * 1024);
    await client.opened;
    client.socket.send(frame, () => undefined);
    expect((await client.closed).code).toBe(1009);
    expect(process.memoryUsage().arrayBuffers - before - frame.length).toBeLessThan(150 * 1024 * 1024);
    await people.end();
  });

  test("[SV52] events that wait for missing ones are bounded, and complete edits are taken all the same", async () => {
    const running = await run({ limits: { heldEventsMax: 20 } });
    const updates: Uint8Array[] = [];
    const source = new Y.Doc();
    source.on("update", (update: Uint8Array) => updates.push(update));
    for (let index = 0; index < 40; index++) source.getText("text").insert(index, "x");
    const flood = new RawClient(`${running.syncUrl}/notes`);
    await flood.send(message.step1(), ...updates.slice(1).map(message.update));
    const honest = await synced(connect(running, "notes"));
    honest.text.insert(0, "honest");
    await until("it is stored", async () => (await storedText(running.storage, "notes")) === "honest");
    const handle = (await running.storage.load("notes"))!;
    expect(handle.held).toHaveLength(20);
    await handle.close();
    const liar = new RawClient(`${running.syncUrl}/notes`);
    await liar.send(message.step1(), message.update(Uint8Array.of(1, 2, 3, 4)));
    expect(await liar.closed).toMatchObject({ code: 4400 });
    // What it sends in place of all that it has must not wait either.
    await flood.send(message.step2(updates[39]!));
    expect(await flood.closed).toMatchObject({ code: 4413 });
  });

  test("[SV52] updates that name what they leave out are counted among those that wait", async () => {
    const running = await run({ limits: { heldEventsMax: 20 } });
    const flood = new RawClient(`${running.syncUrl}/notes`);
    await flood.send(message.step1(), message.step2(typed("hi")));
    for (let n = 0; n < 40; n++) {
      const updates: Uint8Array[] = [];
      const source = new Y.Doc();
      source.on("update", (update: Uint8Array) => updates.push(update));
      for (let index = 0; index < 3; index++) source.getText("text").insert(index, "x");
      await flood.send(message.update(Y.mergeUpdates([updates[0]!, updates[2]!])));
    }
    await flood.send(message.mark(1));
    await until("the mark is refused", () => flood.of(100).some((durable) => durable.varint() === 2));
    const handle = (await running.storage.load("notes"))!;
    expect(handle.held).toHaveLength(20);
    await handle.close();
  });

  test("[SV109] a client that types before it has sent what it did offline is asked for it, and stays", async () => {
    const running = await run({ limits: { heldEventsMax: 20 } });
    const updates: Uint8Array[] = [];
    const source = new Y.Doc();
    source.on("update", (update: Uint8Array) => updates.push(update));
    const client = new RawClient(`${running.syncUrl}/notes`);
    await client.send(message.step1());
    await until("it is asked", () => client.of(0).some((sync) => sync.varint() === 0));
    for (let index = 0; index < 60; index++) source.getText("text").insert(index, "x");
    await client.send(...updates.slice(30).map(message.update), message.mark(1));
    await until("the mark is refused", () => client.of(100).some((durable) => durable.varint() === 2));
    const all = () => message.step2(Y.encodeStateAsUpdate(source));
    await client.send(all(), message.mark(2));
    await until("all is durable", () => client.of(100).some((durable) => durable.varint() === 1));
    expect(await storedText(running.storage, "notes")).toBe("x".repeat(60));
    // Asked once: its answer brings what was dropped. Later gaps, as of a client that lost some, are asked for too.
    const asked = () => client.of(0).filter((sync) => sync.varint() === 0).length;
    expect(asked()).toBe(1);
    updates.length = 0;
    for (let index = 0; index < 40; index++) source.getText("text").insert(index, "y");
    await client.send(...updates.slice(1).map(message.update));
    await until("it is asked again", () => asked() === 2);
    await client.send(all());
    await until("all is stored", async () => (await storedText(running.storage, "notes"))?.length === 100);
    expect(client.socket.readyState).toBe(client.socket.OPEN);
  });

  test("[SV52] awareness states are bounded in number and size", async () => {
    const running = await run({ limits: { awarenessStatesMax: 4, awarenessStateBytesMax: 100 } });
    const many = new RawClient(`${running.syncUrl}/notes`);
    await many.send(message.awareness(...[1, 2, 3, 4, 5].map((client) => [client, 1, "{}"] as const)));
    expect(await many.closed).toMatchObject({ code: 4400 });
    const large = new RawClient(`${running.syncUrl}/notes`);
    await large.send(message.awareness([1, 1, JSON.stringify("x".repeat(200))]));
    expect(await large.closed).toMatchObject({ code: 4400 });
    const own = new RawClient(`${running.syncUrl}/notes`);
    for (let clock = 1; clock <= 20; clock++) await own.send(message.awareness([9, clock, "{}"]));
    await until("it is passed on", () => own.of(1).length === 20);
  });

  test("[SV53] a flood of messages is read slowly, and a neighbour is answered meanwhile", async () => {
    const running = await run({ limits: { messagesPerSecondMax: 200 } });
    const flood = new RawClient(`${running.syncUrl}/flood`);
    await flood.send(message.step1(), message.update(typed("x".repeat(50_000))));
    for (let count = 0; count < 2_000; count++) flood.socket.send(message.step1());
    const people = await typing(running, "notes");
    await people.end();
    expect(flood.of(0).length).toBeLessThan(1_000);
    expect(flood.socket.readyState).toBe(flood.socket.OPEN);
  });
});

describe("connections", () => {
  test("[SV54] a client that does not read costs no memory, and has everything once it reads again", async () => {
    const running = await run({ limits: { sendBufferBytesMax: 64 * 1024 } });
    const slow = new RawClient(`${running.syncUrl}/notes`);
    await slow.send(message.step1());
    await until("it is joined", () => slow.received.length >= 2);
    slow.socket.pause();
    const writer = await synced(connect(running, "notes"));
    for (let count = 0; count < 400; count++) {
      writer.text.insert(0, "x".repeat(50_000));
      if (writer.text.length > 100_000) writer.text.delete(0, 50_000);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    const reader = await synced(connect(running, "notes"));
    // The writer is read no faster than it may write: its last edits may still be on their way.
    await until("they agree", () => reader.text.toString() === writer.text.toString());
    const before = slow.received.length;
    slow.socket.resume();
    const doc = new Y.Doc();
    const apply = () => {
      for (const sync of slow.of(0)) if (sync.varint() > 0) Y.applyUpdate(doc, sync.sized());
      return doc.getText("text").toString() === writer.text.toString();
    };
    await until("it has all", apply);
    expect(slow.received.length - before).toBeLessThan(390);
  });

  test("[SV54] one that never reads again is cut off", async () => {
    const running = await run({ limits: { sendBufferBytesMax: 1024, slowMs: 100 } });
    const slow = new RawClient(`${running.syncUrl}/notes`);
    await slow.send(message.step1());
    await until("it is joined", () => slow.received.length >= 2);
    slow.socket.pause();
    const writer = await synced(connect(running, "notes"));
    await until("it is cut off", () => {
      writer.text.insert(0, "x".repeat(200_000));
      writer.text.delete(0, 200_000);
      return running.server.gauges().connections === 1;
    });
  });

  test("[SV55] connections that say nothing are bounded in number, closed, and make room again", async () => {
    const connectionsMax = Math.ceil(SILENT / 3);
    const running = await run({
      limits: { helloMs: 2_000, connectionsMax, connectionsPerAddressMax: SILENT + 10 },
    });
    const people = await typing(running, "notes");
    const silent = Array.from(
      { length: SILENT },
      (_, index) => new RawClient(`${running.syncUrl}/doc-${index % 50}`),
    );
    const outcomes = await Promise.allSettled(silent.map(({ opened }) => opened));
    expect(running.server.gauges().connections).toBeLessThanOrEqual(connectionsMax);
    let refused = 0;
    for (const [index, outcome] of outcomes.entries()) {
      if (outcome.status === "fulfilled") expect((await silent[index]!.closed).code).toBe(4504);
      else {
        refused++;
        // Far more than the bound at one time are not even answered.
        expect(String(outcome.reason)).toMatch(/status 503|socket hang up|ECONNRESET/);
      }
    }
    expect(refused).toBeGreaterThan(0);
    await synced(connect(running, "notes"));
    await people.end();
  }, 120_000);

  test("[SV86] a client is not silent whose hello lies unread because this process was busy", async () => {
    let hold: () => void = () => undefined;
    const running = await run({
      limits: { helloMs: 100 },
      authorize: () => {
        setImmediate(hold);
        hold = () => undefined;
        return true;
      },
    });
    // In a thread of its own, so that it speaks while this one is busy.
    const client = new Worker(
      `const { workerData: { ws, url, hello }, parentPort } = require("node:worker_threads");
      const socket = new (require(ws).WebSocket)(url);
      socket.on("open", () => socket.send(hello));
      socket.on("message", (data) => parentPort.postMessage(["message", data[1]]));
      socket.on("close", (code) => parentPort.postMessage(["close", code]));`,
      {
        eval: true,
        workerData: {
          ws: createRequire(import.meta.url).resolve("ws"),
          url: `${running.syncUrl}/notes`,
          hello: message.step1(),
        },
      },
    );
    atEnd(() => client.terminate().then(() => undefined));
    const heard: [string, number][] = [];
    client.on("message", (news: [string, number]) => heard.push(news));
    hold = () => {
      for (const end = performance.now() + 400; performance.now() < end; );
    };
    // Its own first step, then the answer.
    await until("it is answered", () => heard.length >= 2);
    expect(heard).toEqual(expect.arrayContaining([["message", 1]]));
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(heard.filter(([what]) => what === "close")).toEqual([]);
  });

  test("[SV86] nor one that is not read while the disk has fallen behind", async () => {
    const { backend, stall, goOn } = stallingStore();
    const running = await run({ backend, limits: { helloMs: 200, unsavedBytesMax: 50_000 } });
    const writer = new RawClient(`${running.syncUrl}/notes`);
    await writer.send(message.step1(), message.step2(typed("hi")));
    await until("it is stored", async () => (await storedText(running.storage, "notes")) === "hi");
    const late = new RawClient(`${running.syncUrl}/notes`);
    await until("it is joined", () => late.received.length >= 1);
    stall();
    try {
      await writer.send(message.step2(typed("x".repeat(200_000))));
      await new Promise((resolve) => setTimeout(resolve, 50));
      await late.send(message.step1());
      await new Promise((resolve) => setTimeout(resolve, 700));
      expect(late.socket.readyState).toBe(late.socket.OPEN);
      // The edit came, but no answer.
      expect(late.of(0).map((sync) => sync.varint())).not.toContain(1);
    } finally {
      goOn();
    }
    await until("it is answered", () => late.of(0).some((sync) => sync.varint() === 1));
  });

  test("[SV87] a connection whose permission or document never comes is closed, and makes room", async () => {
    let isAsked = false;
    const running = await run({
      limits: { loadMs: 100, connectionsMax: 2 },
      authorize: (_access, id) => {
        if (id !== "never") return true;
        isAsked = true;
        return new Promise(() => undefined);
      },
    });
    const first = await synced(connect(running, "notes"));
    const waiting = new RawClient(`${running.syncUrl}/never`);
    await waiting.send(message.step1());
    expect((await waiting.closed).code).toBe(4503);
    expect(isAsked).toBe(true);
    const second = await synced(connect(running, "notes"));
    first.text.insert(0, "hi");
    await until("they agree", () => second.text.toString() === "hi");
  });

  test("[SV55] one address has its own bound, whatever becomes of its connections", async () => {
    const running = await run({ limits: { connectionsPerAddressMax: 3 } });
    for (let round = 0; round < 3; round++) {
      const clients = [1, 2, 3].map(() => new RawClient(`${running.syncUrl}/notes`));
      await Promise.all(clients.map(({ opened }) => opened));
      await expect(new RawClient(`${running.syncUrl}/notes`).opened).rejects.toThrow("status 429");
      for (const { socket } of clients) socket.terminate();
      await until("they are gone", () => running.server.gauges().connections === 0);
    }
    const refused = [1, 2, 3, 4].map(
      () => new RawClient(`${running.syncUrl}/notes`, { origin: "https://evil.example" }),
    );
    for (const { opened } of refused) await expect(opened).rejects.toThrow("status 403");
    await new RawClient(`${running.syncUrl}/notes`).opened;
  });

  test("[SV56] headers that come drop by drop, or never, end with their connection", async () => {
    const running = await run({ limits: { headersMs: 400, requestMs: 800 } });
    const people = await typing(running, "notes");
    const drops = Array.from({ length: 20 }, () => raw(running, "GET /sync/notes HTTP/1.1\r\n"));
    const timer = setInterval(() => {
      for (const { socket } of drops) if (!socket.destroyed) socket.write("x-drop: 1\r\n");
    }, 50);
    atEnd(() => clearInterval(timer));
    const silent = Array.from({ length: 20 }, () => raw(running, ""));
    const bodies = Array.from({ length: 5 }, () =>
      raw(running, "POST /api/documents/x/diff HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nx"),
    );
    for (const { ended } of [...drops, ...silent, ...bodies]) await ended;
    clearInterval(timer);
    await people.end();
  }, 60_000);
});

describe("paths", () => {
  test("[SV57] an id that looks like a path is an id, and names no file", async () => {
    const running = await run({ backend: await levelStore() });
    for (const id of [
      "../../etc/passwd",
      "..\\..\\windows",
      "/etc/passwd",
      "%2e%2e%2f",
      "a\0b",
      "C:\\x",
      "..",
    ]) {
      const client = new RawClient(`${running.syncUrl}/${encodeURIComponent(id).replaceAll(".", "%2E")}`);
      // Clients resolve `..` before they send it; then it is another path, and no document.
      if (id === "..") {
        await expect(client.opened).rejects.toThrow("status 404");
        continue;
      }
      await client.send(message.step1(), message.update(typed(id)), message.mark(1));
      await until(id, () => client.of(100).length === 1);
      expect(await storedText(running.storage, id)).toBe(id);
    }
    const dots = upgrade(running, "/sync/../../etc/passwd");
    expect(await dots).toContain("101 Switching Protocols");
    expect(await storedText(running.storage, "../../etc/passwd")).toBe("../../etc/passwd");
    for (const path of ["/sync/", "/sync/%ff", `/sync/${"x".repeat(513)}`, "/sync/%ED%A0%80"])
      expect([path, await upgrade(running, path)]).toEqual([
        path,
        expect.stringContaining("400 Bad Request"),
      ]);
    for (const path of ["/", "/sync", "/api/documents", "/syncx/notes", "/%2fsync/notes"])
      expect([path, await upgrade(running, path)]).toEqual([path, expect.stringContaining("404 Not Found")]);
  });

  test("[SV35] files of the page are served as they are, and no others", async () => {
    const folder = await temporaryDirectory();
    const pageDirectory = join(folder, "page");
    await mkdir(join(pageDirectory, "assets"), { recursive: true });
    await writeFile(join(pageDirectory, "index.html"), "<!doctype html>");
    await writeFile(join(pageDirectory, "assets", "main-B4dF00d1.js"), "export {}");
    await writeFile(join(folder, "secret.txt"), "secret");
    const running = await run({ pageDirectory });
    const page = await fetch(running.server.url);
    expect([page.headers.get("content-type"), await page.text()]).toEqual([
      "text/html; charset=utf-8",
      "<!doctype html>",
    ]);
    expect(page.headers.get("cache-control")).toBe("no-cache");
    const script = await fetch(`${running.server.url}/assets/main-B4dF00d1.js`);
    expect(script.headers.get("cache-control")).toContain("immutable");
    for (const path of [
      "/../secret.txt",
      "/..%2fsecret.txt",
      "/%2e%2e/secret.txt",
      "/assets/../../secret.txt",
      "/assets/..%5c..%5csecret.txt",
      "/assets",
      "/assets/",
      "/.",
      "//secret.txt",
    ]) {
      const { socket, ended } = raw(
        running,
        `GET ${path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n`,
      );
      const answer = await ended;
      socket.destroy();
      expect([path, answer]).not.toEqual([path, expect.stringContaining("\r\nsecret")]);
    }
  });
});

/** The status line that an upgrade request for exactly this path gets. */
async function upgrade(running: Running, path: string): Promise<string> {
  const headers = [
    `GET ${path} HTTP/1.1`,
    "host: localhost",
    "connection: upgrade",
    "upgrade: websocket",
    "sec-websocket-version: 13",
    "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==",
  ];
  const { socket, ended } = raw(running, `${headers.join("\r\n")}\r\n\r\n`);
  let line = "";
  await Promise.race([
    ended.then((all) => {
      line ||= all.split("\r\n", 1)[0] ?? "";
    }),
    new Promise<void>((resolve) =>
      socket.on("data", (text: string) => {
        line ||= text.split("\r\n", 1)[0] ?? "";
        resolve();
      }),
    ),
  ]);
  socket.destroy();
  return line;
}

function mutate(bytes: Uint8Array, random: ReturnType<typeof seededRandom>): Uint8Array {
  const copy = bytes.slice();
  switch (random.int(5)) {
    case 0:
      return copy.subarray(0, random.int(copy.length));
    case 1:
      for (let count = 0; count <= random.int(4); count++) copy[random.int(copy.length)] = random.int(256);
      return copy;
    case 2:
      copy[random.int(copy.length)]! ^= 1 << random.int(8);
      return copy;
    case 3: {
      const noise = Uint8Array.from({ length: random.int(60) }, () => random.int(256));
      return Uint8Array.of(...copy.subarray(0, random.int(copy.length)), ...noise);
    }
    default:
      return Uint8Array.from({ length: random.int(80) }, () => random.int(random.int(2) === 0 ? 4 : 256));
  }
}
