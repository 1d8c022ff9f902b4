// What the HTTP API makes of parameters that contradict each other, of ends of pages, and of who goes away.
import type { IncomingMessage } from "node:http";
import { serve } from "@coppice/server";
import { DurabilityWatch } from "@coppice/server/client";
import { afterEach, describe, expect, test } from "vitest";
import * as Y from "yjs";
import { cleanUp, type Running, run, typed, until } from "./support.js";

afterEach(cleanUp);

interface Got {
  readonly status: number;
  readonly body: Record<string, unknown>;
}

async function ask({ server }: Running, method: string, path: string): Promise<Got> {
  const response = await fetch(`${server.url}/api/documents${path}`, { method });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

async function filled(): Promise<Running> {
  const running = await run();
  for (const text of ["one", "two", "three"]) await running.storage.append("notes", [typed(text)]);
  return running;
}

/** What each page has, as long as there is a next one; at most twenty. */
async function pagesOf(running: Running, path: string, list: string): Promise<unknown[][]> {
  const pages: unknown[][] = [];
  let next: unknown = 0;
  while (next !== null && pages.length < 20) {
    const { body } = await ask(running, "GET", `/notes/${path}&from=${next}`);
    pages.push(body[list] as unknown[]);
    next = body.next;
  }
  return pages;
}

describe("pages", () => {
  test("[SV99] the pages of events end at their to", async () => {
    const running = await filled();
    for (const [query, count, next] of [
      ["from=2&to=2", 0, null],
      ["from=3&to=1", 0, null],
      ["to=2", 2, null],
      ["to=2&limit=2", 2, null],
      ["to=2&limit=1", 1, 1],
      ["to=99&limit=2", 2, 2],
      ["from=2&to=99", 1, null],
    ] as const) {
      const { body } = await ask(running, "GET", `/notes/events?${query}`);
      expect([query, body.events, body.next]).toMatchObject([query, { length: count }, next]);
    }
    expect(await pagesOf(running, "events?to=2&limit=1", "events")).toHaveLength(2);
  });

  test("[SV100] a page of nothing is refused: it would say that there is no more", async () => {
    const running = await filled();
    for (const path of [
      "?limit=0",
      "/notes/history?limit=0",
      "/notes/events?limit=0",
      "/notes/graph?limit=0",
    ])
      expect([path, await ask(running, "GET", path)]).toMatchObject([
        path,
        {
          status: 400,
          body: { error: { code: "ARGUMENT_INVALID", message: "limit must be a whole number from 1" } },
        },
      ]);
  });

  test("[SV101] pages of history have everything once, and end, whatever stands at one clock or in one batch", async () => {
    const running = await filled();
    await running.storage.append("notes", ["four", "five", "six"].map(typed));
    for (const [name, at] of [
      ["a", 2],
      ["b", 2],
      ["c", 4],
      ["d", 5],
    ] as const)
      await running.storage.tag("notes", name, at);
    await ask(running, "POST", "/notes/snapshots");
    await running.storage.append("notes", [typed("seven")]);
    const { entries } = (await ask(running, "GET", "/notes/history")).body;
    expect(entries).toHaveLength(10);
    for (const limit of [1, 2, 3, 4, 9, 10])
      expect([limit, (await pagesOf(running, `history?limit=${limit}`, "entries")).flat()]).toEqual([
        limit,
        entries,
      ]);
  });
});

describe("parameters", () => {
  test("[SV102] of at, tag and time one is taken, and no parameter twice", async () => {
    const running = await filled();
    await running.storage.tag("notes", "x", 1);
    for (const [method, path] of [
      ["POST", "fork?as=copy&at=2&tag=none"],
      ["GET", "content?at=2&time=banana"],
      ["GET", "state?tag=x&time=2999-01-31"],
      ["GET", "export?tag=x&at=1"],
    ] as const)
      expect([path, await ask(running, method, `/notes/${path}`)]).toMatchObject([
        path,
        {
          status: 400,
          body: { error: { code: "ARGUMENT_INVALID", message: "at, tag and time: one of them at most" } },
        },
      ]);
    for (const [method, path, name] of [
      ["PUT", "/notes/tags/q?at=2&at=3", "at"],
      ["GET", "?limit=2&limit=3", "limit"],
      ["GET", "/notes/content?tag=x&tag=x", "tag"],
    ] as const)
      expect([path, await ask(running, method, path)]).toMatchObject([
        path,
        {
          status: 400,
          body: { error: { code: "ARGUMENT_INVALID", message: `${name} is given more than once` } },
        },
      ]);
    expect((await running.storage.tags("notes")).map(({ name }) => name)).toEqual(["x"]);
    expect(await running.storage.info("copy")).toBeUndefined();
  });
});

test("[SV103] a server of a closed storage takes no edits, and says so", async () => {
  const running = await run({ mayFail: true });
  const { server, storage, metrics } = running;
  const readiness = async () => {
    const response = await fetch(`${server.url}/readyz`);
    return [response.status, await response.text()];
  };
  expect(await readiness()).toEqual([200, "ready\n"]);
  await storage.close();
  expect(await readiness()).toEqual([503, "the storage takes no writes\n"]);
  expect(metrics.text(server.gauges())).toContain("coppice_writable 0");
  const refusal = "a server wants an open storage, and this one is closed: close it after the server";
  await expect(serve({ storage, port: 0 })).rejects.toThrow(new TypeError(refusal));
});

test("[SV103] a server whose storage is being reopened is not ready meanwhile", async () => {
  const { server, storage } = await run();
  const done = storage.recover();
  expect(server.gauges().writable).toBe(false);
  await done;
  expect(server.gauges().writable).toBe(true);
});

test("[SV104] who goes away in a fork or a check is no error of the server, over a socket or through fetch", async () => {
  const { storage, server, metrics, errors } = await filled();
  let begun = 0;
  const ended: unknown[] = [];
  const hang = ({ signal }: { readonly signal?: AbortSignal } = {}) =>
    new Promise<never>((_resolve, reject) => {
      begun++;
      signal!.addEventListener("abort", () => {
        ended.push(signal!.reason);
        reject(signal!.reason);
      });
    });
  const { check } = storage;
  storage.fork = (_id, _to, options) => hang(options);
  storage.check = hang;
  const incoming = { headers: { host: "localhost" }, socket: {} } as IncomingMessage;
  for (const ask of [
    fetch,
    (url: string, init: RequestInit) => server.fetch(new Request(url, init), { incoming }),
  ])
    for (const path of ["documents/notes/fork?as=copy", "documents/notes/check", "check"]) {
      const stop = new AbortController();
      const number = begun;
      const answer = Promise.allSettled([
        ask(`${server.url}/api/${path}`, { method: "POST", signal: stop.signal }),
      ]);
      await until("it has begun", () => begun > number);
      stop.abort();
      await answer;
      await until("it has ended", () => ended.length === begun);
      await new Promise(setImmediate);
      expect([path, errors, metrics.value("errors")]).toEqual([path, [], 0]);
    }
  storage.check = check;
});

test("[ST103] a watch of what is no provider is refused, and says what it wants", () => {
  for (const given of [undefined, {}, { doc: new Y.Doc() }, "ws://localhost"] as never[])
    expect(() => new DurabilityWatch(given)).toThrow(
      new TypeError("DurabilityWatch wants the WebsocketProvider of y-websocket"),
    );
});
