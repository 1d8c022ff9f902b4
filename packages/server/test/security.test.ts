// Who may do what, and from where. Everything goes over real sockets.
import { readFileSync } from "node:fs";
import { get } from "node:http";
import {
  bearerTokens,
  describeRefusal,
  type Refusal,
  SERVER_LIMITS,
  type ServerOptions,
  serve,
} from "@coppice/server";
import { yjs } from "@coppice/yjs";
import { DocumentStorage, memoryBackend } from "coppice";
import { afterEach, describe, expect, test } from "vitest";
import {
  atEnd,
  cleanUp,
  connect,
  message,
  RawClient,
  run,
  storedText,
  synced,
  typed,
  until,
} from "./support.js";

afterEach(cleanUp);

const TOKENS = {
  reader: "reader-of-everything",
  writer: "writer-of-everything",
  admin: "admin-of-everything",
  notes: "writer-of-notes-only",
  team: "writer-of-a-team-only",
  expired: "expired-long-ago-0000",
};

const authorize = bearerTokens([
  { token: TOKENS.reader, action: "read" },
  { token: TOKENS.writer, action: "write" },
  { token: TOKENS.admin, action: "admin" },
  { token: TOKENS.notes, action: "write", documents: ["notes"] },
  { token: TOKENS.team, action: "write", documents: ["team/*"] },
  { token: TOKENS.expired, action: "admin", expires: Date.now() - 1 },
]);

describe("permissions", () => {
  test("[SV40] a client without a valid token for the document gets a close code and not one byte", async () => {
    const running = await run({ authorize });
    await running.storage.append("secret", [typed("secret")]);
    const cases: readonly (readonly [query: string, code: number])[] = [
      ["", 4401],
      ["?token=", 4401],
      ["?token=wrong", 4401],
      [`?token=${TOKENS.expired}`, 4401],
      [`?token=${TOKENS.notes}`, 4403],
      [`?token=${TOKENS.team}`, 4403],
      [`?token=${TOKENS.reader}x`, 4401],
    ];
    for (const [query, code] of cases) {
      const raw = new RawClient(`${running.syncUrl}/secret${query}`);
      await raw.send(message.step1(), message.update(typed("x")));
      expect([query, await raw.closed]).toMatchObject([query, { code }]);
      expect(raw.received).toEqual([]);
    }
    expect((await running.storage.info("secret"))?.clock).toBe(1);
  });

  test("[SV40] a token is taken from the header or the query, and holds for its documents alone", async () => {
    const running = await run({ authorize });
    for (const [id, token] of [
      ["notes", TOKENS.notes],
      ["team/plan", TOKENS.team],
      ["x", TOKENS.writer],
    ] as const) {
      const client = await synced(connect(running, id, { params: { token } }));
      client.text.insert(0, id);
      await until(id, async () => (await storedText(running.storage, id)) === id);
      const raw = new RawClient(`${running.syncUrl}/${id}`, { authorization: `Bearer ${token}` });
      await raw.send(message.step1());
      await until("it is answered", () => raw.of(0).length >= 2);
    }
  });

  test("[SV41] a reader sees what others type, and changes nothing", async () => {
    const running = await run({ authorize });
    const writer = await synced(connect(running, "notes", { params: { token: TOKENS.writer } }));
    writer.text.insert(0, "written");
    const raw = new RawClient(`${running.syncUrl}/notes?token=${TOKENS.reader}`);
    await raw.send(message.step1(), message.update(typed("x")), message.update(typed("y")), message.mark(1));
    await until("the mark is refused", () => raw.of(100).length === 1);
    const [answer] = raw.of(100);
    expect([answer?.varint(), answer?.varint(), new TextDecoder().decode(answer?.sized())]).toEqual([
      2,
      1,
      "FORBIDDEN",
    ]);
    expect(raw.of(2)).toHaveLength(1);
    const reader = await synced(connect(running, "notes", { params: { token: TOKENS.reader } }));
    expect(reader.text.toString()).toBe("written");
    expect(writer.text.toString()).toBe("written");
    expect(await storedText(running.storage, "notes")).toBe("written");
  });

  test("[SV42] permissions of open connections are asked for again", async () => {
    let allowed: readonly string[] = ["read", "write"];
    const running = await run({
      authorize: (_request, _document, action) => allowed.includes(action),
      limits: { reauthorizeMs: 20, helloMs: 50 },
    });
    const raw = new RawClient(`${running.syncUrl}/notes`);
    await raw.send(message.step1(), message.update(typed("before")), message.mark(1));
    await until("it is stored", () => raw.of(100).length === 1);
    allowed = ["read"];
    await until("edits are refused", async () => {
      await raw.send(message.update(typed("after")), message.mark(2));
      return raw.of(2).length === 1;
    });
    allowed = ["read", "write"];
    await until(
      "what was refused is asked for",
      () => raw.of(0).filter((sync) => sync.varint() === 0).length > 1,
    );
    allowed = [];
    expect(await raw.closed).toMatchObject({ code: 4403 });
  });

  test("[SV42] an authorize that throws refuses, and the operator hears of it", async () => {
    const running = await run({
      mayFail: true,
      authorize: () => {
        throw new Error("the directory of users is down");
      },
    });
    const raw = new RawClient(`${running.syncUrl}/notes?token=x`);
    expect(await raw.closed).toMatchObject({ code: 4403 });
    expect((await fetch(`${running.server.url}/api/documents`)).status).toBe(401);
    expect(running.errors.map(String)).toContain("Error: the directory of users is down");
  });

  test("[SV43] each HTTP request needs the action that its route names", async () => {
    const running = await run({ authorize });
    await running.storage.append("notes", [typed("x")]);
    const status = async (method: string, path: string, token?: string) => {
      const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
      return (await fetch(`${running.server.url}${path}`, { method, headers })).status;
    };
    expect(await status("GET", "/api/documents")).toBe(401);
    expect(await status("GET", `/api/documents?token=${TOKENS.admin}`)).toBe(401);
    expect(await status("GET", "/api/documents", TOKENS.notes)).toBe(403);
    expect(await status("GET", "/api/documents", TOKENS.reader)).toBe(200);
    expect(await status("GET", "/api/documents/notes", TOKENS.notes)).toBe(200);
    expect(await status("GET", "/api/documents/other", TOKENS.notes)).toBe(403);
    expect(await status("GET", "/api/documents/team%2Fplan", TOKENS.team)).toBe(404);
    expect(await status("PUT", "/api/documents/notes", TOKENS.reader)).toBe(403);
    expect(await status("POST", "/api/documents/notes/compact", TOKENS.writer)).toBe(403);
    expect(await status("POST", "/api/compact", TOKENS.writer)).toBe(403);
    expect(await status("POST", "/api/documents/notes/fork?as=team/x", TOKENS.notes)).toBe(403);
    expect(await status("POST", "/api/documents/notes/fork?as=team/x", TOKENS.reader)).toBe(403);
    expect(await status("POST", "/api/documents/notes/erase", TOKENS.writer)).toBe(403);
    expect(await status("DELETE", "/api/documents/notes", TOKENS.expired)).toBe(401);
    expect(await status("DELETE", "/api/documents/notes", TOKENS.writer)).toBe(403);
    expect(await status("DELETE", "/api/documents/notes", TOKENS.admin)).toBe(200);
  });

  test("[SV82] a client can ask what it may do, with the store and with a document, be it there or not", async () => {
    const running = await run({ authorize });
    const actions = async (path: string, token?: string) => {
      const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
      const response = await fetch(`${running.server.url}${path}`, { headers });
      return [response.status, ((await response.json()) as { actions?: unknown }).actions];
    };
    expect(await actions("/api/actions", TOKENS.reader)).toEqual([200, ["read"]]);
    expect(await actions("/api/actions", TOKENS.writer)).toEqual([200, ["read", "write"]]);
    expect(await actions("/api/actions", TOKENS.admin)).toEqual([200, ["read", "write", "admin"]]);
    expect(await actions("/api/documents/none/actions", TOKENS.notes)).toEqual([403, undefined]);
    expect(await actions("/api/documents/notes/actions", TOKENS.notes)).toEqual([200, ["read", "write"]]);
    expect(await actions("/api/actions", TOKENS.notes)).toEqual([403, undefined]);
    expect(await actions("/api/actions")).toEqual([401, undefined]);
    const open = await run();
    const response = await fetch(`${open.server.url}/api/documents/a%2Fb/actions`);
    expect(await response.json()).toEqual({ id: "a/b", actions: ["read", "write", "admin"] });
  });

  test("[SV83] a token that nobody has is told from one that does not allow it, and the refusal names what it lacks", async () => {
    const running = await run({ authorize });
    const refusal = async (token: string) => {
      const headers = { authorization: `Bearer ${token}` };
      const response = await fetch(`${running.server.url}/api/compact`, { method: "POST", headers });
      const { error } = (await response.json()) as { error: { code: string; message: string } };
      return [response.status, error.code, error.message];
    };
    const unknown = [401, "UNAUTHENTICATED", "this token is not known, or has expired"];
    for (const token of [`${TOKENS.admin}x`, TOKENS.expired]) expect(await refusal(token)).toEqual(unknown);
    for (const token of [TOKENS.writer, TOKENS.notes])
      expect(await refusal(token)).toEqual([
        403,
        "FORBIDDEN",
        "the token lacks the action admin for the whole store",
      ]);
  });

  test("[SV43] a grant that could never be used, or is too weak, is a mistake", () => {
    const long = "a".repeat(16);
    for (const grant of [
      { token: "short", action: "read" },
      { action: "read" },
      { token: long, sha256: "0".repeat(64), action: "read" },
      { sha256: "xyz", action: "read" },
      { token: long, action: "own" },
      { token: long, action: "read", expires: Number.NaN },
    ])
      expect(() => bearerTokens([grant as Parameters<typeof bearerTokens>[0][number]])).toThrow(TypeError);
  });

  test("[SV77] what a grant does not know or cannot mean is refused: a misspelt key opened the whole store", () => {
    const token = "a".repeat(16);
    for (const [grant, says] of [
      [
        { document: ["team/*"] },
        "a grant has no option document; there are token, sha256, action, documents, expires",
      ],
      [{ expire: 1 }, "a grant has no option expire"],
      [{ documents: "team/*" }, "a list of ids"],
      [{ documents: [] }, "a list of ids"],
      [{ documents: [1] }, "a list of ids"],
      [{ documents: [""] }, "a list of ids"],
      [{ documents: ["notes", "te*am"] }, '"te*am" has a * that is not its end'],
      [{ expires: 1_798_761_600 }, "in ms since 1970, not 1798761600"],
      [{ expires: "2027-01-01" }, "expires must be a number"],
      [{ action: "toString" }, "read, write or admin"],
    ] as const)
      expect(() => bearerTokens([{ token, action: "admin", ...grant } as never])).toThrow(says);
    const grants = [
      { token, action: "admin" },
      { token, action: "own" },
    ] as never;
    expect(() => bearerTokens(grants)).toThrow("grant 2 of 2: an action is read, write or admin, not own");
    expect(() => bearerTokens([])).toThrow("there is no grant");
    expect(() => bearerTokens({ token, action: "admin" } as never)).toThrow("wants a list of grants");
    expect(() => bearerTokens([null] as never)).toThrow("must be an object");
    for (const documents of [["*"], ["notes", "team/*"]])
      expect(bearerTokens([{ token, action: "admin", documents, expires: 1e11 }])).toBeTypeOf("function");
  });
});

describe("other sites", () => {
  test("[SV44] a page of another site can neither connect nor call", async () => {
    const running = await run({ origins: ["https://notes.example"] });
    const own = new URL(running.server.url).host;
    const cases: readonly (readonly [headers: Record<string, string>, allowed: boolean])[] = [
      [{}, true],
      [{ origin: `http://${own}` }, true],
      [{ origin: "https://notes.example" }, true],
      [{ origin: "https://evil.example" }, false],
      [{ origin: "https://notes.example.evil.example" }, false],
      [{ origin: "null" }, false],
      [{ origin: `http://${own}.evil.example` }, false],
      [{ host: "evil.example", origin: "http://evil.example" }, false],
      [{ host: "evil.example" }, false],
    ];
    for (const [headers, allowed] of cases) {
      const raw = new RawClient(`${running.syncUrl}/notes`, headers);
      const outcome = await raw.opened.then(
        () => "open",
        (error: Error) => error.message,
      );
      expect([headers, outcome]).toEqual([headers, allowed ? "open" : "status 403"]);
    }
    const evil = { method: "POST", headers: { origin: "https://evil.example" } };
    expect((await fetch(`${running.server.url}/api/compact`, evil)).status).toBe(403);
    const refused = await fetch(`${running.server.url}/api/documents`, { headers: evil.headers });
    expect([refused.status, refused.headers.get("cross-origin-resource-policy")]).toEqual([
      403,
      "same-origin",
    ]);
  });

  test("[SV90] tells whoever runs it which page, host or address was refused, and puts no token into words", async () => {
    const told: Refusal[] = [];
    const { syncUrl, server } = await run({ onRefused: (refusal) => told.push(refusal) });
    const refused = async (url: string, headers: Record<string, string>) =>
      expect(await new RawClient(url, headers).opened.catch(({ message }: Error) => message)).toMatch(
        /^status/,
      );
    const page = "http://localhost:5173";
    await refused(`${syncUrl}/notes`, { origin: page });
    expect((await fetch(`${server.url}/api/documents`, { headers: { origin: page } })).status).toBe(403);
    await refused(`${syncUrl}/notes`, { origin: "null" });
    await refused(`${syncUrl}/notes`, { host: "notes.example" });
    await refused(`${syncUrl.replace(/sync$/, "notes")}?token=secret`, {});
    const open = new RawClient(`${syncUrl}/notes`, {});
    await open.opened;
    expect(told.map(({ reason, value }) => [reason, value])).toEqual([
      ["origin", page],
      ["origin", page],
      ["origin", "null"],
      ["host", "notes.example"],
      ["path", "/notes"],
    ]);
    expect(told.slice(1).map(describeRefusal)).toEqual([
      `a page of "${page}" was refused: its origin is not among those that may connect`,
      "a page without an origin was refused, as one that is opened from a file: serve it over HTTP",
      'a request for the host "notes.example" was refused: without authentication it must name this machine',
      'a WebSocket was refused at "/notes": documents are at /sync/<id>',
    ]);
  });

  test("[SV90] the first of each reason is a warning of the process where nobody asked to be told", async () => {
    const warned: string[] = [];
    const listen = ({ message }: Error) => warned.push(message);
    process.on("warning", listen);
    atEnd(() => process.off("warning", listen));
    const { server } = await run();
    for (const origin of ["http://localhost:5173", "https://evil.example"])
      expect((await fetch(server.url, { headers: { origin } })).status).toBe(403);
    await until("it warned", () => warned.length > 0);
    expect(warned).toEqual([
      'a page of "http://localhost:5173" was refused: its origin is not among those that may connect ' +
        "(the first; onRefused is told of all)",
    ]);
  });

  test("[SV44] what is no origin is refused: a string let every site in whose origin is a part of it", async () => {
    const refusal = async (origins: unknown) =>
      run({ origins } as Partial<ServerOptions>).then(
        () => "runs",
        (error: Error) => `${error.name}: ${error.message}`,
      );
    for (const [origins, says] of [
      ["https://notes.example", 'origins must be a list of origins, as in ["https://notes.example"]'],
      [["https://a.example/"], '"https://a.example/" is no origin; write "https://a.example"'],
      [
        ["https://b.example", "HTTPS://A.example:443"],
        '"HTTPS://A.example:443" is no origin; write "https://a.example"',
      ],
      [
        ["notes.example"],
        '"notes.example" is no origin: its scheme is missing; write "https://notes.example"',
      ],
      [["a.example:80"], '"a.example:80" is no origin: its scheme is missing; write "https://a.example:80"'],
      [["https://*.example"], '"https://*.example" is no origin: name each site, a * stands for nothing'],
      [["*"], '"*" is no origin: name each site, a * stands for nothing'],
      [[""], '"" is no origin'],
      [[7], "7 is no origin"],
    ] as const)
      expect([origins, await refusal(origins)]).toEqual([origins, `TypeError: ${says}`]);
    expect(await refusal(["http://localhost:3000", "https://[::1]:8443", "capacitor://localhost"])).toBe(
      "runs",
    );
  });

  test("[SV44] what a page of another site embeds without CORS costs the server nothing", async () => {
    const { server } = await run();
    const from = (site: string, mode: string, dest: string) => ({
      "sec-fetch-site": site,
      "sec-fetch-mode": mode,
      "sec-fetch-dest": dest,
    });
    const cases: readonly (readonly [headers: Record<string, string>, status: number])[] = [
      [from("cross-site", "no-cors", "empty"), 403],
      [from("same-site", "no-cors", "image"), 403],
      [from("cross-site", "navigate", "iframe"), 403],
      [from("cross-site", "navigate", "document"), 200],
      [from("same-origin", "cors", "empty"), 200],
      [from("none", "navigate", "document"), 200],
    ];
    for (const [headers, status] of cases)
      expect([headers, await statusOf(`${server.url}/api/documents`, headers)]).toEqual([headers, status]);
  });
});

describe("addresses", () => {
  async function listen(options: Partial<ServerOptions>): Promise<string> {
    const storage = await DocumentStorage.open({ backend: memoryBackend(), models: [yjs()] });
    atEnd(() => storage.close());
    const server = await serve({ storage, port: 0, ...options });
    atEnd(() => server.close());
    return server.url;
  }

  test("[SV45] listens on this machine alone, unless told otherwise", async () => {
    expect(await listen({})).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
    expect(await listen({ host: "localhost" })).toMatch(/^http:\/\/(127\.0\.0\.1|\[::1\]):\d+$/);
  });

  test("[SV45] refuses a public address without authentication, unless told so in full", async () => {
    for (const host of ["0.0.0.0", "::"]) {
      await expect(listen({ host })).rejects.toThrow(/refusing to listen on .* without authentication/);
      await expect(listen({ host })).rejects.toThrow(TypeError);
    }
    expect(await listen({ host: "0.0.0.0", authorize: () => false })).toContain("0.0.0.0");
    expect(await listen({ host: "0.0.0.0", allowAnyoneToReadAndChangeEverything: true })).toContain(
      "0.0.0.0",
    );
  });

  test("[SV46] the page of the server names every limit with its value", () => {
    const page = readFileSync(new URL("../../../docs/server.md", import.meta.url), "utf8");
    const told = [...page.matchAll(/^\| `(\w+)` \| ([\d,]+)( KiB| MiB)? \|/gm)].map(
      ([, name, value = "", unit]) => {
        const factor = unit === " MiB" ? 2 ** 20 : unit === " KiB" ? 2 ** 10 : 1;
        return [name, Number(value.replaceAll(",", "")) * factor];
      },
    );
    expect(Object.fromEntries(told)).toEqual(SERVER_LIMITS);
  });

  test("[SV46] limits that cannot be are refused when the server is made", async () => {
    await expect(listen({ limits: { idleMs: 0 } })).rejects.toThrow(RangeError);
    await expect(listen({ limits: { whatMax: 1 } as object })).rejects.toThrow(
      "there is no limit whatMax; there are connectionsMax, ",
    );
    for (const name of ["pingms", "toString"])
      await expect(listen({ limits: { [name]: 1 } as object })).rejects.toThrow(
        `there is no limit ${name}; `,
      );
    // A timer that is to wait longer than timers can ends at once: a server that closes would cut everybody off.
    for (const ms of [2 ** 31, Number.MAX_SAFE_INTEGER])
      await expect(listen({ limits: { shutdownMs: ms } })).rejects.toThrow("shutdownMs must be at most 2147");
    const message = "requestMs must be at least headersMs";
    for (const limits of [{ requestMs: 5_000 }, { headersMs: 60_001 }])
      await expect(listen({ limits })).rejects.toThrow(message);
    await listen({ limits: { headersMs: 5_000, requestMs: 5_000, shutdownMs: 2 ** 31 - 1 } });
  });

  test("[SV47] warns of an internal error where there is no onError", async () => {
    const warnings: string[] = [];
    const hear = ({ name, message }: Error) => name === "CoppiceWarning" && warnings.push(message);
    process.on("warning", hear);
    atEnd(() => void process.off("warning", hear));
    const authorize = () => {
      throw new Error("the users are not there");
    };
    const url = await listen({ authorize });
    expect((await fetch(`${url}/api/documents/a%20b`)).status).toBe(401);
    await new Promise(setImmediate);
    expect(warnings).toEqual([
      'the server had an error with the document "a b", and no onError: Error: the users are not there',
    ]);
  });

  test("[ST98] a server refuses what is no open storage", async () => {
    await expect(serve({ port: 0 } as never)).rejects.toThrow("a server wants an open storage");
  });

  test("[SV46] an option that there is not is refused: nobody would look at an authorise", async () => {
    await expect(listen({ authorise: () => false } as object)).rejects.toThrow("no option authorise");
    await expect(serve(undefined as never)).rejects.toThrow("a server takes an object of options; there are");
    await expect(listen({ authorize: {} } as object)).rejects.toThrow("authorize must be a function");
    await expect(listen({ authorize: null } as object)).rejects.toThrow("authorize must be a function");
    for (const metrics of [5, null])
      await expect(listen({ metrics } as object)).rejects.toThrow("metrics must be new ServerMetrics()");
  });
});

/** `fetch` says where it comes from by itself; this says what it is told to. */
function statusOf(url: string, headers: Record<string, string>): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    get(url, { headers }, (response) => {
      response.resume();
      resolve(response.statusCode);
    }).once("error", reject);
  });
}
