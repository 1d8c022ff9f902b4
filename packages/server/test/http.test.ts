// The HTTP API, over real requests.
import { readFileSync } from "node:fs";
import { simulatedBackend } from "coppice/testing";
import { afterEach, describe, expect, test } from "vitest";
import * as Y from "yjs";
import { makeApp } from "../src/http/app.js";
import {
  cleanUp,
  connect,
  levelStore,
  type Running,
  type RunOptions,
  run,
  synced,
  typed,
  until,
} from "./support.js";

afterEach(cleanUp);

interface Got {
  readonly status: number;
  readonly body: Record<string, unknown>;
  readonly response: Response;
}

async function call({ server }: Running, method: string, path: string, init: RequestInit = {}): Promise<Got> {
  const response = await fetch(`${server.url}${path}`, { method, ...init });
  const text = await response.text();
  const isJson = response.headers.get("content-type")?.includes("json") === true;
  return { status: response.status, body: isJson ? JSON.parse(text) : { text }, response };
}

async function filled(options: RunOptions = {}): Promise<Running> {
  const running = await run(options);
  for (const id of ["a/b", "notes", "notes 2"])
    for (const text of ["one", "two", "three"])
      await running.storage.append(id, [typed(text)], { info: { text } });
  return running;
}

describe("the HTTP API", () => {
  test("[SV30] lists documents in pages, with facts when asked", async () => {
    const running = await filled();
    const first = await call(running, "GET", "/api/documents?limit=2&info=true");
    expect(first.body).toMatchObject({
      documents: [{ id: "a/b", clock: 3, snapshotClock: null, connections: 0 }, { id: "notes" }],
      next: "notes",
    });
    const rest = await call(running, "GET", "/api/documents?limit=2&after=notes");
    expect(rest.body).toEqual({ documents: [{ id: "notes 2", connections: 0 }], next: null });
    expect((await call(running, "GET", "/api/documents?prefix=notes%20")).body.documents).toHaveLength(1);
  });

  test("[SV30] tells facts, history and events of one document", async () => {
    const running = await filled();
    const path = `/api/documents/${encodeURIComponent("a/b")}`;
    expect((await call(running, "GET", path)).body).toMatchObject({ id: "a/b", clock: 3, model: "yjs" });
    const history = (await call(running, "GET", `${path}/history?limit=2`)).body;
    expect(history).toMatchObject({
      entries: [{ kind: "batch", clock: 0, info: { text: "one" } }, {}],
      next: 2,
    });
    const later = (await call(running, "GET", `${path}/history?from=2`)).body;
    expect(later).toMatchObject({ entries: [{ clock: 2, end: 3 }], next: null });
    const events = (await call(running, "GET", `${path}/events?from=1&limit=1`)).body;
    expect(events).toMatchObject({ events: [{ clock: 1 }], next: 2 });
    const [{ event }] = events.events as [{ event: string }];
    const doc = new Y.Doc();
    Y.applyUpdate(doc, Buffer.from(event, "base64"));
    expect(doc.getText("text").toString()).toBe("two");
  });

  test("[SV30] gives the state now and in the past, and what a peer lacks", async () => {
    const running = await filled();
    const length = async (path: string, init: RequestInit & { method: string }) => {
      const response = await fetch(`${running.server.url}/api/documents/notes${path}`, init);
      const doc = new Y.Doc();
      Y.applyUpdate(doc, new Uint8Array(await response.arrayBuffer()));
      return doc.getText("text").length;
    };
    expect(await length("/state", { method: "GET" })).toBe(11);
    expect(await length("/state?at=2", { method: "GET" })).toBe(6);
    const peer = new Y.Doc();
    const body = Y.encodeStateVector(peer) as Uint8Array<ArrayBuffer>;
    expect(await length("/diff", { method: "POST", body })).toBe(11);
  });

  test("[SV30] creates, compacts, snapshots, checks and deletes", async () => {
    const running = await filled();
    expect((await call(running, "PUT", "/api/documents/new")).body).toMatchObject({ id: "new", clock: 0 });
    expect((await call(running, "POST", "/api/documents/notes/snapshots")).body).toEqual({
      id: "notes",
      outcome: "taken",
      clock: 3,
    });
    const dry = await call(running, "POST", "/api/documents/notes/compact?dryRun=true&force=true");
    expect(dry.body).toMatchObject({ outcome: "compacted" });
    expect((await running.storage.info("notes"))?.oldestClock).toBe(0);
    const real = await call(running, "POST", "/api/documents/notes/compact?force=true");
    expect(real.body).toMatchObject({ outcome: "compacted", clock: 3 });
    expect((await call(running, "POST", "/api/documents/notes/check")).body).toMatchObject({ clean: true });
    expect((await call(running, "DELETE", "/api/documents/notes")).body).toEqual({
      id: "notes",
      deleted: true,
    });
    expect((await call(running, "GET", "/api/documents/notes")).status).toBe(404);
    expect((await call(running, "PUT", "/api/documents/notes")).status).toBe(410);
    expect((await call(running, "PUT", "/api/documents/notes?recreate=true")).status).toBe(200);
  });

  test("[SV30] names versions, shows them, and forgets them", async () => {
    const running = await filled();
    const path = "/api/documents/notes";
    const name = encodeURIComponent("before/the end");
    expect((await call(running, "PUT", `${path}/tags/${name}?at=1`)).body).toMatchObject({ clock: 1 });
    expect((await call(running, "PUT", `${path}/tags/${name}`)).status).toBe(409);
    const { body } = await call(running, "GET", `${path}/tags`);
    expect(body).toMatchObject({ tags: [{ name: "before/the end", clock: 1 }] });
    const response = await fetch(`${running.server.url}${path}/state?tag=${name}`);
    const doc = new Y.Doc();
    Y.applyUpdate(doc, new Uint8Array(await response.arrayBuffer()));
    expect(doc.getText("text").toString()).toBe("one");
    expect((await call(running, "DELETE", `${path}/tags/${name}`)).status).toBe(200);
    expect((await call(running, "GET", `${path}/state?tag=${name}`)).status).toBe(404);
    expect((await call(running, "PUT", "/api/documents/none/tags/x")).status).toBe(404);
  });

  test("[SV30] forks a document as it was, and erases it for good", async () => {
    const running = await filled({ backend: await levelStore() });
    const path = "/api/documents/notes";
    const fork = await call(running, "POST", `${path}/fork?as=a%2Fcopy&at=2`);
    expect(fork).toMatchObject({ status: 200, body: { id: "a/copy", clock: 2 } });
    expect((await call(running, "POST", `${path}/fork?as=a%2Fcopy`)).status).toBe(409);
    expect((await call(running, "POST", `${path}/fork`)).status).toBe(400);
    expect((await call(running, "POST", "/api/documents/none/fork?as=x")).status).toBe(404);
    expect((await call(running, "POST", `${path}/erase`)).body).toMatchObject({
      erased: true,
      reclaimed: true,
    });
    expect((await call(running, "GET", path)).status).toBe(404);
    expect((await call(running, "GET", "/api/documents/a%2Fcopy")).body).toMatchObject({ clock: 2 });
  });

  test("[SV30] deleting disconnects the clients for good", async () => {
    const running = await run();
    const client = await synced(connect(running, "notes"));
    client.text.insert(0, "x");
    await until("it is stored", async () => (await running.storage.info("notes")) !== undefined);
    const closed = new Promise((resolve) => client.provider.on("closed", resolve));
    expect((await call(running, "DELETE", "/api/documents/notes")).status).toBe(200);
    expect(await closed).toMatchObject({ code: 4410 });
  });

  test("[SV31] compacting all tells its progress, and runs once at a time", async () => {
    const running = await filled({ backend: await levelStore() });
    const headers = { accept: "text/event-stream" };
    const [stream, second] = await Promise.all([
      call(running, "POST", "/api/compact", { headers }),
      call(running, "POST", "/api/compact"),
    ]);
    const answers = [stream, second];
    const text = String(stream.body.text);
    if (second.status === 409) {
      expect(text).toMatch(/event: progress\ndata: \{"seen":1,/);
      expect(text).toMatch(/event: result\ndata: \{"seen":3,"compacted":3,/);
      expect(second.body).toMatchObject({ error: { code: "BUSY" } });
    } else {
      expect(text).toMatch(/event: error\ndata: \{"code":"BUSY"/);
      expect(answers[1]?.body).toMatchObject({ seen: 3, compacted: 3, stopped: null });
    }
    const again = await call(running, "POST", "/api/compact?minEvents=1");
    expect(again.body).toMatchObject({ compacted: 0, stopped: null, failures: [] });
    expect((await call(running, "POST", "/api/check")).body).toMatchObject({ documents: 3, clean: true });
  });

  test("[SV32] metrics count what happens, as Prometheus reads them", async () => {
    const running = await filled();
    const client = await synced(connect(running, "notes"));
    client.text.insert(0, "x");
    await until("it is stored", async () => (await running.storage.info("notes"))?.clock === 4);
    await running.storage.compact("notes", { force: true });
    const { body, response } = await call(running, "GET", "/metrics");
    expect(response.headers.get("content-type")).toContain("version=0.0.4");
    const text = String(body.text);
    for (const line of text.trim().split("\n"))
      expect(line).toMatch(/^(# (HELP|TYPE) \w+ .+|\w+(\{\w+="[^"]*"\})? -?[\d.e+-]+)$/);
    const value = (name: string) => Number(new RegExp(`^${name} (.+)$`, "m").exec(text)?.[1]);
    expect(value("coppice_events_appended_total")).toBe(10);
    expect(value("coppice_append_seconds_count")).toBe(value('coppice_append_seconds_bucket{le="\\+Inf"}'));
    expect(value("coppice_commit_seconds_count")).toBeGreaterThan(9);
    expect(value('coppice_compactions_total{outcome="compacted"}')).toBe(1);
    expect([value("coppice_open_documents"), value("coppice_open_connections")]).toEqual([1, 1]);
    expect(value("coppice_queued_bytes")).toBe(0);
    const figures = (await call(running, "GET", "/api/figures")).body;
    expect(figures).toMatchObject({ counters: { events_appended: 10 }, gauges: { coppice_writable: 1 } });
  });

  test("[SV32] health and readiness are told to anybody, and a closing server is not ready", async () => {
    const running = await run({ authorize: () => false });
    expect((await call(running, "GET", "/healthz")).status).toBe(200);
    expect((await call(running, "GET", "/readyz")).status).toBe(200);
    expect((await call(running, "GET", "/metrics")).status).toBe(401);
  });

  test("[SV76] a write that fails on any way shuts the server for writes, and it opens again by itself", async () => {
    const ways: readonly ((running: Running) => Promise<unknown>)[] = [
      (running) => call(running, "PUT", "/api/documents/new"),
      (running) => call(running, "POST", "/api/documents/notes/compact?force=true"),
      // As a compaction over the control socket does, or a snapshot in the background.
      ({ storage }) => storage.compact("notes", { force: true }).catch(() => undefined),
    ];
    for (const [index, write] of ways.entries()) {
      const disk = simulatedBackend();
      let mayRecover = false;
      const running = await run({ backend: disk, mayRecover: () => mayRecover });
      await running.storage.append("notes", [typed("x")]);
      disk.failNext("commit", "error");
      await write(running);
      expect([index, (await call(running, "GET", "/readyz")).status]).toEqual([index, 503]);
      expect((await call(running, "GET", "/api/documents/notes")).status).toBe(200);
      expect((await call(running, "PUT", "/api/documents/later")).status).toBe(503);
      mayRecover = true;
      await until("it is ready again", async () => (await call(running, "GET", "/readyz")).status === 200);
      expect((await call(running, "PUT", "/api/documents/later")).status).toBeLessThan(300);
      expect(running.errors.splice(0)).toMatchObject([{ code: "OUTCOME_UNKNOWN" }]);
    }
  });

  test("[SV33] a failure is a status, a code and a sentence, and nothing of the inside", async () => {
    const running = await filled({ mayFail: true });
    const cases: readonly (readonly [method: string, path: string, status: number, code: string])[] = [
      ["GET", "/api/documents/none", 404, "NOT_FOUND"],
      ["GET", "/api/nothing", 404, "NOT_FOUND"],
      ["GET", `/api/documents/${"x".repeat(513)}`, 400, "ID_INVALID"],
      ["GET", "/api/documents/%ff", 400, "ID_INVALID"],
      ["GET", "/api/documents/%00/events?from=-1", 404, "NOT_FOUND"],
      ["GET", "/api/documents/notes/events?from=x", 400, "ARGUMENT_INVALID"],
      ["GET", "/api/documents/notes/state?at=99", 400, "ARGUMENT_INVALID"],
      ["GET", "/api/documents?info=perhaps", 400, "ARGUMENT_INVALID"],
    ];
    for (const [method, path, status, code] of cases)
      expect([path, await call(running, method, path)]).toMatchObject([
        path,
        { status, body: { error: { code } } },
      ]);
    const bad = await call(running, "POST", "/api/documents/notes/diff", { body: Uint8Array.of(255, 1) });
    expect(bad).toMatchObject({ status: 400, body: { error: { code: "ARGUMENT_INVALID" } } });
    await running.storage.close();
    const closed = await call(running, "GET", "/api/documents/notes");
    expect(closed).toMatchObject({ status: 503, body: { error: { code: "CLOSED" } } });
    for (const { body } of [bad, closed])
      expect(JSON.stringify(body)).not.toMatch(/at .*\.[jt]s|node_modules/);
  });

  test("[SV91] a code has the kind that it has in the library and at the command line", async () => {
    const running = await filled({ mayFail: true, limits: { bodyBytesMax: 10 } });
    const path = "/api/documents/notes";
    const kinds = async (method: string, rest: string, init?: RequestInit) => {
      const { code, kind } = (await call(running, method, rest, init)).body.error as Record<string, string>;
      return `${code} ${kind}`;
    };
    expect(await kinds("GET", "/api/documents/none")).toBe("NOT_FOUND not-found");
    expect(await kinds("GET", "/api/nothing")).toBe("NOT_FOUND not-found");
    expect(await kinds("PATCH", path)).toBe("METHOD_UNKNOWN invalid");
    expect(await kinds("GET", "/api/documents/%ff")).toBe("ID_INVALID invalid");
    expect(await kinds("GET", `/api/documents/${"x".repeat(513)}`)).toBe("ID_INVALID invalid");
    expect(await kinds("GET", `${path}/events?from=x`)).toBe("ARGUMENT_INVALID invalid");
    expect(await kinds("GET", `${path}/content?tag=none`)).toBe("TAG_UNKNOWN invalid");
    expect(await kinds("DELETE", `${path}/tags/none`)).toBe("TAG_UNKNOWN invalid");
    expect(await kinds("POST", `${path}/diff`, { body: new Uint8Array(11) })).toBe("BODY_TOO_LARGE invalid");
    expect(await kinds("GET", path, { headers: { origin: "https://b.example" } })).toBe(
      "ORIGIN_REFUSED forbidden",
    );
    running.storage.info = () => Promise.reject(new Error("no"));
    expect(await kinds("GET", path)).toBe("INTERNAL failed");
    const asked = await run({ authorize: () => false });
    const refused = async (headers: Record<string, string>) =>
      (await call(asked, "GET", path, { headers })).body.error;
    expect(await refused({})).toMatchObject({ code: "UNAUTHENTICATED", kind: "forbidden" });
    expect(await refused({ authorization: "Bearer x" })).toMatchObject({
      code: "FORBIDDEN",
      kind: "forbidden",
    });
  });

  test("[SV92] events and history from a clock after the head are refused, with the clock of the head", async () => {
    const running = await filled();
    for (const what of ["events", "history"]) {
      const path = `/api/documents/notes/${what}`;
      const head = await call(running, "GET", `${path}?from=3`);
      expect(head).toMatchObject({
        status: 200,
        body: { next: null, [what === "events" ? what : "entries"]: [] },
      });
      expect(await call(running, "GET", `${path}?from=4`)).toMatchObject({
        status: 400,
        body: { error: { code: "ARGUMENT_INVALID", message: /from is 4, .* its clock is 3$/ } },
      });
    }
  });

  test("[SV33] an error that nobody expected is 500 INTERNAL, and told to the operator alone", async () => {
    const secret = "the secret of the inside";
    const running = await run({ mayFail: true });
    running.storage.info = () => Promise.reject(new Error(secret));
    const answer = await call(running, "GET", "/api/documents/notes");
    expect(answer).toMatchObject({
      status: 500,
      body: { error: { code: "INTERNAL", message: "internal error" } },
    });
    expect(running.errors.map(String)).toEqual([`Error: ${secret}`]);
  });

  test("[SV33] a body over the limit is refused, with and without its length", async () => {
    const running = await filled({ limits: { bodyBytesMax: 1000 } });
    const path = "/api/documents/notes/diff";
    const large = new Uint8Array(1001);
    expect((await call(running, "POST", path, { body: large })).status).toBe(413);
    const stream = new ReadableStream({
      pull: (controller) => controller.enqueue(new Uint8Array(100)),
    });
    const init = { body: stream, duplex: "half" } as RequestInit;
    expect((await call(running, "POST", path, init)).status).toBe(413);
  });

  test("[SV34] the OpenAPI document names exactly the routes that there are, and their actions", async () => {
    const running = await run({ authorize: () => false });
    const { paths } = (await call(running, "GET", "/api/openapi.json")).body as {
      paths: Record<string, Record<string, { "x-action"?: string }>>;
    };
    const named = Object.entries(paths).flatMap(([path, methods]) =>
      Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
    );
    const app = makeApp({ documents: {}, metrics: {}, origins: [] } as unknown as Parameters<
      typeof makeApp
    >[0]);
    const routes = app.routes
      .filter(({ method, path }) => method !== "ALL" && path !== "*" && path !== "/*")
      .map(({ method, path }) => `${method} ${path.replace(/:(\w+)/g, "{$1}")}`);
    expect([...named].sort()).toEqual([...new Set(routes)].sort());
    for (const [path, methods] of Object.entries(paths))
      for (const [method, { "x-action": action }] of Object.entries(methods)) {
        const { status } = await call(running, method.toUpperCase(), path.replace(/\{\w+\}/g, "notes"));
        expect([method, path, status === 401]).toEqual([method, path, action !== undefined]);
      }
  });

  test("[SV34] the page of the server names exactly these, with their parameters", async () => {
    const running = await run();
    const { paths } = (await call(running, "GET", "/api/openapi.json")).body as {
      paths: Record<string, Record<string, { parameters: { in: string; name: string }[] }>>;
    };
    const there = Object.entries(paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, { parameters }]) => {
        const query = parameters.filter((parameter) => parameter.in === "query").map(({ name }) => name);
        return `${method.toUpperCase()} ${path}${query.length === 0 ? "" : "?"}${query.join("&")}`;
      }),
    );
    const page = readFileSync(new URL("../../../docs/server.md", import.meta.url), "utf8");
    const rows = page
      .split("\n")
      .filter((line) => /^\| `[A-Z]+[ `]/.test(line))
      .join("\n");
    const named = [...rows.matchAll(/`((?:GET|PUT|POST|DELETE) \/[^`]*)`/g)].map(([, name]) => name);
    expect([...new Set([...named, "GET /api/openapi.json"])].sort()).toEqual(there.sort());
  });

  test("[SV79] a parameter that there is not is refused, by its name: a misspelt dryRun would trim", async () => {
    const running = await filled();
    const { paths } = (await call(running, "GET", "/api/openapi.json")).body as {
      paths: Record<
        string,
        Record<string, { "x-action"?: string; parameters: { in: string; name: string }[] }>
      >;
    };
    for (const [path, methods] of Object.entries(paths))
      for (const [method, { "x-action": action, parameters }] of Object.entries(methods)) {
        if (action === undefined) continue;
        const query = parameters.filter((parameter) => parameter.in === "query").map(({ name }) => name);
        const address = `${path.replace(/\{\w+\}/g, "notes")}?dryrun=true`;
        const { status, body } = await call(running, method.toUpperCase(), address);
        const there = query.length === 0 ? "none" : query.join(", ");
        expect([method, path, status, body.error]).toEqual([
          method,
          path,
          400,
          {
            code: "ARGUMENT_INVALID",
            kind: "invalid",
            message: `there is no parameter dryrun here; there are: ${there}`,
          },
        ]);
      }
    expect((await running.storage.info("notes"))?.oldestClock).toBe(0);
    expect((await running.storage.list()[Symbol.asyncIterator]().next()).value).toBe("a/b");
    expect((await fetch(`${running.server.url}/api/documents?lmit=1`, { method: "HEAD" })).status).toBe(400);
    expect((await fetch(`${running.server.url}/api/documents?limit=1`, { method: "HEAD" })).status).toBe(200);
  });

  test("[SV80] an address that does not take a method says which ones it takes", async () => {
    const running = await filled();
    for (const [method, path, allow] of [
      ["POST", "/api/documents/a%2Fb", "GET, PUT, DELETE, HEAD"],
      ["GET", "/api/documents/notes/tags/x", "PUT, DELETE"],
      ["PATCH", "/api/compact", "POST"],
      ["DELETE", "/healthz", "GET, HEAD"],
    ] as const) {
      const { status, body, response } = await call(running, method, path);
      expect([path, status, response.headers.get("allow"), body]).toMatchObject([
        path,
        405,
        allow,
        { error: { code: "METHOD_UNKNOWN" } },
      ]);
    }
    const message = "there is no such address; within an id, / is written %2F";
    for (const path of ["/api/documents/notes/tag/x", "/api/documents/a/b"])
      expect(await call(running, "GET", path)).toMatchObject({ status: 404, body: { error: { message } } });
  });

  test("[SV81] a time is a date with its zone, or ms since 1970, and the refusal says so", async () => {
    const running = await filled();
    const path = "/api/documents/notes/content";
    const clockAt = async (time: string) =>
      (await call(running, "GET", `${path}?time=${encodeURIComponent(time)}`)).body.clock;
    const later = Date.now() + 86_400_000;
    for (const time of [`${later}`, new Date(later).toISOString(), "2999-01-31", "2999-01-31T18:00+01:00"])
      expect([time, await clockAt(time)]).toEqual([time, 3]);
    const days = ["2026-13-01", "2999-02-31", "2999-02-29T10:00Z"];
    for (const time of [...days, "2026-01-31T18:00", "yesterday", "", "-1", "99999999999999999"]) {
      const { status, body } = await call(running, "GET", `${path}?time=${time}`);
      expect([time, status, body.error]).toMatchObject([time, 400, { code: "ARGUMENT_INVALID" }]);
      expect(body.error).toMatchObject({ message: /a date as in .*, or ms since 1970$/ });
    }
  });

  test("[SV33] of a document that did not exist at a time it is not said that there is none", async () => {
    const running = await filled();
    const ask = (method: string, path: string) => call(running, method, `/api/documents/${path}`);
    for (const [method, what] of [
      ["GET", "state?"],
      ["GET", "content?"],
      ["POST", "fork?as=then&"],
    ] as const) {
      const then = await ask(method, `notes/${what}time=2026`);
      expect([what, then.status, then.body.error]).toMatchObject([
        what,
        404,
        { code: "NOT_FOUND", message: 'the document "notes" did not exist then' },
      ]);
      const never = await ask(method, `nobody/${what}time=2026`);
      expect([what, never.status, never.body.error]).toMatchObject([
        what,
        404,
        { code: "NOT_FOUND", message: 'there is no document "nobody"' },
      ]);
    }
    expect(await running.storage.info("then")).toBeUndefined();
  });

  test("[SV35] without a built page the root says where the API is, and headers forbid framing and sniffing", async () => {
    const running = await run({ pageDirectory: "/nowhere" });
    const { body, response } = await call(running, "GET", "/");
    expect(body.text).toContain("/api/openapi.json");
    expect(response.headers.get("x-frame-options")).toBe("DENY");
    expect(response.headers.get("x-content-type-options")).toBe("nosniff");
    expect(response.headers.get("content-security-policy")).toContain("default-src 'self'");
    expect(response.headers.get("access-control-allow-origin")).toBeNull();
  });
});
