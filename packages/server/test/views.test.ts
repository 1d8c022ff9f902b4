// What the page asks for: contents, timelines, event graphs, and the supervisor.
import { bearerTokens } from "@coppice/server";
import type { GraphAnswer, GraphRowAnswer } from "@coppice/server/client";
import { yjs } from "@coppice/yjs";
import { type GraphDocument, graph, type TreeDocument, tree } from "coppice";
import { afterEach, describe, expect, test } from "vitest";
import * as Y from "yjs";
import { cleanUp, levelStore, type Running, type RunOptions, run, typed } from "./support.js";

afterEach(cleanUp);

const counter = graph({
  name: "counter",
  initial: { total: 0, seen: {} as unknown },
  // No snapshot can hold such a state; it is looked at all the same.
  apply: ({ total }, more: number) => ({ total: total + more, seen: new Map([["a", Uint8Array.of(1, 2)]]) }),
});

function runModels(options: RunOptions = {}): Promise<Running> {
  const models = [yjs(), tree(), counter] as unknown as [ReturnType<typeof yjs>];
  return run({ ...options, storageOptions: { ...options.storageOptions, models } });
}

async function get({ server }: Running, path: string, init?: RequestInit) {
  const response = await fetch(`${server.url}/api/${path}`, init);
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

describe("contents", () => {
  test("[SV36] text is text, and everything else is JSON, part by part", async () => {
    const running = await runModels();
    const doc = new Y.Doc();
    doc.getText("text").insert(0, "gone hello");
    doc.getText("text").delete(0, 5);
    doc.getMap("facts").set("answer", 42);
    doc.getArray("list").push([1, new Y.Map([["a", "b"]])]);
    doc.getXmlFragment("prose").insert(0, [new Y.XmlElement("p")]);
    await running.storage.append("all", [Y.encodeStateAsUpdate(doc)]);
    const { body } = await get(running, "documents/all/content");
    expect(body).toMatchObject({ id: "all", clock: 1, model: "yjs" });
    expect(body.parts).toEqual([
      { name: "facts", kind: "json", text: '{\n  "answer": 42\n}' },
      { name: "list", kind: "json", text: JSON.stringify([1, { a: "b" }], null, 2) },
      { name: "prose", kind: "text", text: "<p></p>" },
      { name: "text", kind: "text", text: "hello" },
    ]);
  });

  test("[SV36] a past content is that of its clock, and changes nothing", async () => {
    const running = await run();
    for (const text of ["one", "two"]) await running.storage.append("notes", [typed(text)]);
    const { token } = (await running.storage.info("notes"))!;
    expect((await get(running, "documents/notes/content?at=1")).body).toMatchObject({
      clock: 1,
      parts: [{ text: "one" }],
    });
    expect((await get(running, "documents/notes/content?at=0")).body).toMatchObject({ clock: 0, parts: [] });
    expect((await running.storage.info("notes"))?.token).toBe(token);
    expect((await get(running, "documents/none/content")).status).toBe(404);
  });

  test("[SV36] trees and states of reducers are shown as JSON, with what JSON does not know", async () => {
    const running = await runModels();
    const board = await running.storage.open<TreeDocument>("board", { model: "tree" });
    board.doc.put({ id: "a", attributes: { title: "A" } });
    await board.save();
    await board.close();
    const [part] = (await get(running, "documents/board/content")).body.parts as { text: string }[];
    expect(JSON.parse(part!.text)).toEqual([{ id: "a", attributes: { title: "A" }, children: [] }]);
    const counting = await running.storage.open<GraphDocument<unknown, number>>("sum", { model: "counter" });
    counting.doc.emit(3);
    await counting.save();
    await counting.close();
    const [sum] = (await get(running, "documents/sum/content")).body.parts as { text: string }[];
    expect(JSON.parse(sum!.text)).toEqual({ total: 3, seen: { a: "2 bytes" } });
  });
});

describe("timelines", () => {
  test("[SV37] points ascend to the head, also when there are far more batches than points", async () => {
    const running = await run();
    const sizes: number[] = [];
    for (let n = 0; n < 100; n++) {
      const event = typed("x".repeat(1 + (n % 7)));
      sizes.push(event.length + 1); // with the length in front of it
      await running.storage.append("notes", [event]);
    }
    await running.storage.tag("notes", "half", 50);
    const { body } = await get(running, "documents/notes/timeline?points=10");
    const points = body.points as [number, number, number][];
    expect(points.length).toBeGreaterThan(10);
    expect(points.length).toBeLessThanOrEqual(22);
    const total = sizes.reduce((sum, size) => sum + size, 0);
    expect(points[0]!.slice(1)).toEqual([0, 0]);
    expect(points.at(-1)!.slice(1)).toEqual([100, total]);
    expect(body.kept).toEqual({ batches: 100, events: 100, bytes: total });
    expect(body.marks).toMatchObject([{ kind: "tag", name: "half", clock: 50 }]);
    for (const [index, [time, clock, bytes]] of points.entries()) {
      expect(bytes).toBe(sizes.slice(0, clock).reduce((sum, size) => sum + size, 0));
      const before = points[index - 1];
      if (before !== undefined) expect([time >= before[0], clock > before[1]]).toEqual([true, true]);
    }
  });

  test("[SV37] after a compaction it begins at the cut, with the bytes that were before it", async () => {
    const running = await run({ backend: await levelStore() });
    for (let n = 0; n < 20; n++) await running.storage.append("notes", [typed(String(n))]);
    const before = (await running.storage.info("notes"))!.logBytes;
    const { bytesTrimmed, eventsTrimmed } = await running.storage.compact("notes", { force: true });
    const { body } = await get(running, "documents/notes/timeline");
    expect(eventsTrimmed).toBeGreaterThan(0);
    expect((body.points as number[][])[0]!.slice(1)).toEqual([eventsTrimmed, bytesTrimmed]);
    expect((body.points as number[][]).at(-1)!.slice(1)).toEqual([20, before]);
    expect(body.kept).toMatchObject({ events: 20 - eventsTrimmed, bytes: before - bytesTrimmed });
    expect(body.marks).toMatchObject([
      { kind: "snapshot" },
      { kind: "snapshot", clock: 20 },
      { kind: "compaction", clock: 20, bytes: bytesTrimmed },
    ]);
  });
});

describe("event graphs", () => {
  test("[SV38] rows name their parents by place, and the newest are kept when there are too many", async () => {
    const running = await runModels();
    const open = () => running.storage.open<TreeDocument>("board", { model: "tree" });
    const [ann, ben] = [await open(), await open()];
    for (let round = 0; round < 3; round++) {
      for (const { doc } of [ann, ben]) doc.put();
      await Promise.all([ann.save(), ben.save()]);
      await Promise.all([ann.refresh(), ben.refresh()]);
    }
    await Promise.all([ann.close(), ben.close()]);
    const { body } = await get(running, "documents/board/graph");
    expect(body).toMatchObject({ events: 6, omitted: 0 });
    const rows = body.rows as { parents: number[]; lane: number; first: number; last: number }[];
    expect(rows).toHaveLength(6);
    rows.forEach(({ parents, first, last }, index) => {
      expect(parents.every((parent) => parent >= 0 && parent < index)).toBe(true);
      expect(last).toBeGreaterThanOrEqual(first);
    });
    expect(rows.at(-1)!.parents).toHaveLength(2);
    const few = (await get(running, "documents/board/graph?limit=2")).body;
    expect(few).toMatchObject({ events: 6, omitted: 4 });
    expect((few.rows as typeof rows).at(-1)!.parents.every((parent) => parent < 0)).toBe(true);
  });

  test("[SV75] an event that deletes what is not looked at is told, though it has no place", async () => {
    const running = await run({ limits: { graphEventsMax: 2 } });
    const notes = await running.storage.open("notes");
    const text = notes.doc.getText("text");
    text.insert(0, "old ");
    text.insert(4, "new");
    text.delete(0, 1);
    await notes.save();
    const body = (await get(running, "documents/notes/graph")).body as unknown as GraphAnswer;
    text.insert(0, "a");
    text.delete(1, 1);
    await notes.save();
    const later = (await get(running, "documents/notes/graph")).body as unknown as GraphAnswer;
    for (const { events, unplaced, rows } of [body, later])
      expect(rows.reduce((sum, row) => sum + row.events + row.attached, unplaced)).toBe(events);
    expect([body.unplaced, later.unplaced]).toEqual([1, 1]);
  });

  test("[SV38] a document of a model without a graph says so", async () => {
    const { links: _, ...mute } = yjs();
    const running = await run({ storageOptions: { models: [mute] } });
    await running.storage.append("notes", [typed("x")]);
    expect((await get(running, "documents/notes/graph")).status).toBe(422);
    expect((await get(running, "documents/none/graph")).status).toBe(404);
  });

  test("[SV75] concurrent Yjs documents have a graph, of branches, merges and critical versions, also when cut", async () => {
    const running = await run({ limits: { graphEventsMax: 8 } });
    const [ann, ben] = [new Y.Doc(), new Y.Doc()];
    const share = async (doc: Y.Doc, text: string, at: number) => {
      const before = Y.encodeStateVector(doc);
      doc.getText("text").insert(at, text);
      await running.storage.append("notes", [Y.encodeStateAsUpdate(doc, before)]);
    };
    const sync = () => {
      Y.applyUpdate(ben, Y.encodeStateAsUpdate(ann, Y.encodeStateVector(ben)));
      Y.applyUpdate(ann, Y.encodeStateAsUpdate(ben, Y.encodeStateVector(ann)));
    };
    await share(ann, "begin", 0);
    sync();
    await share(ann, "A", 5); // both after the last letter
    await share(ben, "B", 5);
    sync();
    await share(ann, "!", 6); // between the two: it builds on both
    const { body } = await get(running, "documents/notes/graph");
    expect(body).toMatchObject({ events: 4, omitted: 0, complete: false, numbers: "document", from: 0 });
    const rows = body.rows as GraphRowAnswer[];
    expect(rows.map(({ first, parents, endsCritical }) => [first, parents, endsCritical])).toEqual([
      [1, [], true],
      [2, [0], false],
      [3, [0], false],
      [4, [1, 2], true],
    ]);
    ann.getText("text").delete(0, 1);
    await running.storage.append("notes", [Y.encodeStateAsUpdate(ann, Y.encodeStateVector(ann))]);
    const withDeletion = (await get(running, "documents/notes/graph")).body.rows as GraphRowAnswer[];
    expect(withDeletion.map(({ attached }) => attached)).toEqual([1, 0, 0, 0]);
    for (let n = 0; n < 6; n++) await share(ann, "x", 0);
    const cut = (await get(running, "documents/notes/graph")).body as unknown as GraphAnswer;
    expect([cut.events, cut.from, cut.rows[0]?.cut]).toEqual([8, 3, true]);
    await running.storage.compact("notes", { force: true });
    const { oldestClock } = (await running.storage.info("notes"))!;
    const trimmed = (await get(running, "documents/notes/graph")).body as unknown as GraphAnswer;
    expect([trimmed.from, trimmed.rows.length]).toEqual([oldestClock, 1]);
  });
});

describe("the supervisor", () => {
  const post = { method: "POST" };

  test("[SV39] without one there is nothing to kill", async () => {
    const running = await run();
    expect((await get(running, "supervisor")).body).toEqual({ supervised: false, pid: process.pid });
    expect((await get(running, "supervisor/kill", post)).status).toBe(404);
  });

  test("[SV39] with one only an administrator may", async () => {
    let kills = 0;
    const tokens = { write: "a-token-that-writes-0", admin: "a-token-of-an-admin-0" };
    const running = await run({
      supervisor: { kill: () => kills++ },
      authorize: bearerTokens([
        { token: tokens.write, action: "write" },
        { token: tokens.admin, action: "admin" },
      ]),
    });
    const as = (token: string) => ({ ...post, headers: { authorization: `Bearer ${token}` } });
    expect((await get(running, "supervisor/kill", post)).status).toBe(401);
    expect((await get(running, "supervisor/kill", as(tokens.write))).status).toBe(403);
    expect(kills).toBe(0);
    expect((await get(running, "supervisor/kill", as(tokens.admin))).body).toEqual({ killed: true });
    expect(kills).toBe(1);
  });

  test("[SV39] a request from another machine may not, whoever sends it", async () => {
    let kills = 0;
    const { server } = await run({ supervisor: { kill: () => kills++ } });
    const incoming = { headers: { host: "127.0.0.1" }, socket: { remoteAddress: "192.0.2.7" } };
    const request = new Request("http://127.0.0.1/api/supervisor/kill", post);
    const response = await server.fetch(request, { incoming } as unknown as Parameters<
      typeof server.fetch
    >[1]);
    expect([response.status, kills]).toEqual([403, 0]);
  });

  test("[SV32] the bytes of the store are a metric where somebody counts them", async () => {
    const counted = await run({ storeBytes: async () => 4_711 });
    expect(await (await fetch(`${counted.server.url}/metrics`)).text()).toContain("coppice_store_bytes 4711");
    expect((await get(counted, "figures")).body.gauges).toMatchObject({ coppice_store_bytes: 4_711 });
    const failing = await run({ storeBytes: () => Promise.reject(new Error("gone")), mayFail: true });
    expect((await get(failing, "figures")).body.gauges).not.toHaveProperty("coppice_store_bytes");
    expect(failing.errors).toHaveLength(1);
    const plain = await run();
    expect((await get(plain, "figures")).body.gauges).not.toHaveProperty("coppice_store_bytes");
  });
});
