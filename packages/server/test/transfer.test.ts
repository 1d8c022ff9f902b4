// Exports and imports over HTTP, beside clients of the document.
import { createHash } from "node:crypto";
import { connect as connectSocket } from "node:net";
import { bearerTokens } from "@coppice/server";
import { yjs } from "@coppice/yjs";
import { CoppiceError, DocumentStorage, memoryBackend } from "coppice";
import { afterEach, describe, expect, test } from "vitest";
import * as Y from "yjs";
import {
  atEnd,
  cleanUp,
  connect,
  levelStore,
  type Running,
  run,
  storedText,
  synced,
  typed,
  until,
} from "./support.js";

afterEach(cleanUp);

type Bytes = Uint8Array<ArrayBuffer>;

async function collected(chunks: AsyncIterable<Uint8Array>): Promise<Bytes> {
  const found: Uint8Array[] = [];
  for await (const chunk of chunks) found.push(chunk);
  return new Uint8Array(Buffer.concat(found));
}

/** Text that hardly gets smaller. */
function noise(bytes: number, seed: number): string {
  return createHash("shake256", { outputLength: bytes }).update(`${seed}`).digest("hex");
}

/** An export of a document with these events, and its text. */
async function exported(events: readonly Uint8Array[], id = "notes"): Promise<{ file: Bytes; text: string }> {
  const storage = await DocumentStorage.open({ backend: memoryBackend(), models: [yjs()] });
  for (const event of events) await storage.append(id, [event]);
  const file = await collected(storage.export(id));
  const text = (await storedText(storage, id))!;
  await storage.close();
  return { file, text };
}

function addressOf({ server }: Running, id: string, what: string): string {
  return `${server.url}/api/documents/${encodeURIComponent(id)}/${what}`;
}

async function post(running: Running, id: string, body: BodyInit, query = "", init: RequestInit = {}) {
  const stream = body instanceof ReadableStream ? { duplex: "half" } : {};
  const address = addressOf(running, id, `import${query}`);
  const response = await fetch(address, { method: "POST", body, ...stream, ...init });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

/** A body of which the second half comes when it is told to. */
function halves(file: Bytes): { body: ReadableStream<Bytes>; goOn: () => void } {
  let goOn: () => void = () => undefined;
  const told = new Promise<void>((resolve) => {
    goOn = resolve;
  });
  const half = file.length >> 1;
  const body = new ReadableStream<Bytes>({
    start: async (controller) => {
      controller.enqueue(file.slice(0, half));
      await told;
      controller.enqueue(file.slice(half));
      controller.close();
    },
  });
  return { body, goOn };
}

describe("exports and imports over HTTP", () => {
  test("[SV96] a document goes from one running server to another, with its history", async () => {
    const [from, to] = [
      await run({ backend: await levelStore() }),
      await run({ backend: await levelStore() }),
    ];
    for (const text of ["one", "two", "three"])
      await from.storage.append("a/b", [typed(text)], { info: { text } });
    await from.storage.tag("a/b", "early", 1);
    const response = await fetch(addressOf(from, "a/b", "export"));
    expect(response.headers.get("content-type")).toBe("application/octet-stream");
    expect(response.headers.get("content-disposition")).toBe('attachment; filename="document.coppice"');
    const file = await response.arrayBuffer();
    expect(await post(to, "a/b", file)).toMatchObject({
      status: 200,
      body: { id: "a/b", clock: 3, outcome: "imported" },
    });
    expect(await post(to, "a/b", file)).toMatchObject({ status: 200, body: { outcome: "unchanged" } });
    expect(await post(to, "copy", file)).toMatchObject({ status: 200, body: { id: "copy", clock: 3 } });
    expect(await to.storage.tags("a/b")).toMatchObject([{ name: "early", clock: 1 }]);
    const history = await fetch(addressOf(to, "copy", "history"));
    expect(await history.json()).toMatchObject({
      entries: [{ info: { text: "one" } }, { name: "early" }, { info: { text: "two" } }, {}],
    });
    const past = await (await fetch(addressOf(from, "a/b", "export?at=2"))).arrayBuffer();
    expect((await post(to, "past", past)).body).toMatchObject({ clock: 2 });
    const head = await fetch(addressOf(from, "a/b", "export"), { method: "HEAD" });
    expect([head.status, await head.text()]).toEqual([200, ""]);
  });

  test("[SV96] what there is not cannot be exported, and what is no whole export makes no document", async () => {
    const running = await run();
    const { file } = await exported([typed("one")]);
    for (const query of ["export", "export?time=2000-01-01"])
      expect((await fetch(addressOf(running, "none", query))).status).toBe(404);
    await running.storage.append("other", [typed("two")]);
    expect(await (await fetch(addressOf(running, "other", "export?time=2000-01-01"))).json()).toMatchObject({
      error: { code: "NOT_FOUND", message: /did not exist then/ },
    });
    const changed = file.slice();
    changed[file.length >> 1]! ^= 1;
    for (const body of [changed, file.slice(0, -1), typed("no export"), new Uint8Array()] as Bytes[])
      expect(await post(running, "notes", body)).toMatchObject({
        status: 400,
        body: { error: { code: "EXPORT_INVALID", kind: "invalid" } },
      });
    expect(await running.storage.info("notes")).toBeUndefined();
    expect(await post(running, "other", file)).toMatchObject({
      status: 409,
      body: { error: { code: "EXISTS" } },
    });
    await running.storage.delete("other");
    expect((await post(running, "other", file)).status).toBe(410);
    expect((await post(running, "other", file, "?recreate=true")).body).toMatchObject({
      outcome: "imported",
    });
    expect(await storedText(running.storage, "other")).toBe("one");
  });

  test("[SV105] a client that goes away while the next part of an export is read is no error", async () => {
    const running = await run();
    let [reading, ended] = [false, false];
    let goOn: () => void = () => undefined;
    running.storage.export = async function* () {
      try {
        yield new Uint8Array(1024);
        reading = true;
        await new Promise<void>((resolve) => {
          goOn = resolve;
        });
        yield new Uint8Array(1024);
      } finally {
        ended = true;
      }
    };
    const stop = new AbortController();
    const response = await fetch(addressOf(running, "notes", "export"), { signal: stop.signal });
    await until("the next part is read", () => reading);
    stop.abort();
    await expect(response.arrayBuffer()).rejects.toThrow("aborted");
    // Until the server has noticed.
    await new Promise((resolve) => setTimeout(resolve, 100));
    goOn();
    await until("the export has ended", () => ended);
    expect(running.errors).toEqual([]);
  });

  test("[SV96] an export that fails on the way breaks off, and is told to the operator", async () => {
    const running = await run({ mayFail: true });
    const { file } = await exported([typed("one")]);
    for (const bytes of [file.slice(0, -1), new Uint8Array(2 ** 20)]) {
      running.storage.export = async function* () {
        for (let part = 0; part < 8; part++) yield bytes;
        throw new CoppiceError("CORRUPT", "the inside");
      };
      let received = "";
      const reading = (async () => {
        const { body } = await fetch(addressOf(running, "notes", "export"));
        for await (const chunk of body!) received += Buffer.from(chunk).toString("latin1");
      })();
      await expect(reading).rejects.toThrow();
      expect(received).not.toContain("the inside");
    }
    expect(running.errors).toMatchObject([{ code: "CORRUPT" }, { code: "CORRUPT" }]);
  });

  test("[SV96] a client that goes away leaves no document, no open export and no error", async () => {
    const running = await run({ backend: await levelStore() });
    const events = Array.from({ length: 40 }, (_, index) => typed(noise(200_000, index)));
    for (const event of events) await running.storage.append("large", [event]);
    const stop = new AbortController();
    const response = await fetch(addressOf(running, "large", "export"), { signal: stop.signal });
    await response.body!.getReader().read();
    stop.abort();
    const cut = new AbortController();
    const { body } = halves((await exported([typed("one")])).file);
    const posted = post(running, "notes", body, "", { signal: cut.signal });
    await new Promise((resolve) => setTimeout(resolve, 50));
    cut.abort();
    await expect(posted).rejects.toThrow();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(await running.storage.info("notes")).toBeUndefined();
    expect(running.metrics.value("errors")).toBe(0);
  });

  test("[SV97] clients that wait for a document get what is imported, and write on", async () => {
    const running = await run();
    const { file, text } = await exported([typed("hello")]);
    const [one, two] = [await synced(connect(running, "notes")), await synced(connect(running, "notes"))];
    expect((await post(running, "notes", file)).body).toMatchObject({ outcome: "imported" });
    await until("both have it", () => [one, two].every((client) => client.text.toString() === text));
    one.text.insert(5, " world");
    await until("it is passed on", () => two.text.toString() === "hello world");
    await until("it is stored", async () => (await storedText(running.storage, "notes")) === "hello world");
    const closed = new Promise((resolve) => one.provider.on("connection-close", resolve));
    await fetch(addressOf(running, "notes", "").slice(0, -1), { method: "DELETE" });
    expect(await closed).toMatchObject({ code: 4410 });
    expect((await post(running, "notes", file, "?recreate=true")).body).toMatchObject({
      outcome: "imported",
    });
    const later = await synced(connect(running, "notes"));
    expect(later.text.toString()).toBe(text);
  });

  test("[SV97] who comes after an import is not told first that there is nothing", async () => {
    const running = await run();
    const { file, text } = await exported([typed("hello")]);
    const before = await synced(connect(running, "notes"));
    before.provider.disconnect();
    await until("it is idle", () => running.server.gauges().connections === 0);
    expect(running.server.gauges().documents).toBe(1);
    expect((await post(running, "notes", file)).body).toMatchObject({ outcome: "imported" });
    expect((await synced(connect(running, "notes"))).text.toString()).toBe(text);
  });

  test("[SV97] an edit that is durable before the end of an import stays, and the import is refused", async () => {
    const running = await run();
    const { file } = await exported([typed("imported")]);
    const client = await synced(connect(running, "notes"));
    const { body, goOn } = halves(file);
    const posted = post(running, "notes", body);
    client.text.insert(0, "typed");
    await until("it is stored", async () => (await storedText(running.storage, "notes")) === "typed");
    goOn();
    expect(await posted).toMatchObject({ status: 409, body: { error: { code: "EXISTS" } } });
    client.text.insert(5, " on");
    await until("it is stored", async () => (await storedText(running.storage, "notes")) === "typed on");
  });

  test("[SV97] an edit while an import has staged a part comes again when that has ended, and is stored", async () => {
    const limits = { groupBytesMax: 64 * 1024 };
    const running = await run({ storageOptions: { limits } });
    const events = Array.from({ length: 20 }, (_, index) => typed(noise(20_000, index)));
    const { file, text } = await exported(events);
    const client = await synced(connect(running, "notes"));
    const { body, goOn } = halves(file);
    const posted = post(running, "notes", body);
    await until(
      "a part is staged",
      async () => (await running.storage.check({ id: "notes" })).garbageKeys > 0,
    );
    const closed = new Promise((resolve) => client.provider.on("connection-close", resolve));
    client.text.insert(0, "typed");
    expect(await closed).toMatchObject({ code: 4503 });
    goOn();
    expect((await posted).body).toMatchObject({ outcome: "imported" });
    const isBoth = (now = "") => now.length === text.length + 5 && now.includes("typed");
    await until("the client has both", () => isBoth(client.text.toString()));
    await until("both are stored", async () => isBoth(await storedText(running.storage, "notes")));
  });

  test("[SV98] an import is bounded in bytes, with and without its length, and imports in number", async () => {
    const { file } = await exported([typed("one")]);
    const running = await run({ limits: { bodyBytesMax: 10, importBytesMax: file.length, importsMax: 1 } });
    const longer = new Uint8Array(file.length + 1);
    longer.set(file);
    const streamed = new ReadableStream({
      start: (controller) => {
        controller.enqueue(longer);
        controller.close();
      },
    });
    for (const body of [longer, streamed])
      expect(await post(running, "notes", body)).toMatchObject({
        status: 413,
        body: { error: { code: "BODY_TOO_LARGE" } },
      });
    expect(await running.storage.info("notes")).toBeUndefined();
    const { body, goOn } = halves(file);
    const first = post(running, "notes", body);
    await until("another is refused", async () => {
      const { status, body } = await post(running, "other", file.slice(0, 1));
      if (status === 503) expect(body).toMatchObject({ error: { code: "BUSY", kind: "busy" } });
      return status === 503;
    });
    goOn();
    expect((await first).status).toBe(200);
    expect((await post(running, "other", file)).status).toBe(200);
  });

  test("[SV98] reading is enough for an export, and an import needs what creating needs", async () => {
    const [reader, writer] = ["reader-of-everything", "writer-of-a-team-only"];
    const running = await run({
      authorize: bearerTokens([
        { token: reader, action: "read" },
        { token: writer, action: "write", documents: ["team/*"] },
      ]),
    });
    const { file } = await exported([typed("one")]);
    await running.storage.append("notes", [Y.encodeStateAsUpdate(new Y.Doc())]);
    const as = (token: string) => ({ headers: { authorization: `Bearer ${token}` } });
    expect((await fetch(addressOf(running, "notes", "export"))).status).toBe(401);
    expect((await fetch(addressOf(running, "notes", "export"), as(writer))).status).toBe(403);
    expect((await fetch(addressOf(running, "notes", "export"), as(reader))).status).toBe(200);
    expect((await post(running, "team/a", file, "", as(reader))).status).toBe(403);
    expect((await post(running, "other", file, "", as(writer))).status).toBe(403);
    expect((await post(running, "team/a", file, "", as(writer))).status).toBe(200);
  });

  test("[SV114] who takes nothing of an export is cut off, and who takes it slowly gets all of it", async () => {
    const read = async (slowMs: number, pauseMs: number, partBytes: number, pauses = 1_000) => {
      const running = await run({ limits: { slowMs } });
      for (let at = 0; at < 24; at++) await running.storage.append("notes", [typed(noise(500_000, at))]);
      const socket = connectSocket(running.server.port, "127.0.0.1");
      atEnd(() => socket.destroy());
      socket.on("error", () => undefined);
      socket.write(
        "GET /api/documents/notes/export HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
      );
      let bytes = 0;
      let sinceRest = 0;
      let rests = 0;
      let isOver = false;
      socket.on("close", () => {
        isOver = true;
      });
      socket.on("data", (data) => {
        bytes += data.length;
        sinceRest += data.length;
        if (sinceRest < partBytes || rests === pauses) return;
        sinceRest = 0;
        rests++;
        socket.pause();
        setTimeout(() => socket.resume(), pauseMs);
      });
      await until("it is over", () => isOver);
      return bytes;
    };
    expect(await read(40, 2_000, 1, 1)).toBeLessThan(20_000_000);
    expect(await read(40, 100, 1_000_000)).toBeGreaterThan(24_000_000);
    // Little at a time, of which the system tells only now and then.
    expect(await read(120, 20, 1)).toBeGreaterThan(24_000_000);
  }, 60_000);
});
