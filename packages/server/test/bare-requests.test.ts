// Requests as no ordinary client writes them, or as few do: read from a bare socket, byte by byte.
import { connect as connectSocket } from "node:net";
import { afterEach, describe, expect, test } from "vitest";
import { atEnd, cleanUp, type Running, run, storedText, typed } from "./support.js";

afterEach(cleanUp);

/** All that comes until the connection ends. */
function ask({ server }: Running, ...lines: readonly string[]): Promise<string> {
  const socket = connectSocket(server.port, "127.0.0.1", () => socket.write(lines.join("\r\n")));
  let seen = "";
  socket.setEncoding("latin1").on("data", (more: string) => {
    seen += more;
  });
  socket.on("error", () => undefined);
  atEnd(() => socket.destroy());
  return new Promise((resolve) => socket.once("close", () => resolve(seen)));
}

const HOST = "Host: localhost";
const END = ["Connection: close", "", ""];

describe("addresses with . or ..", () => {
  test("[SV111] are refused, and never taken for another address", async () => {
    const running = await run();
    for (const text of ["one", "two"]) await running.storage.append("notes", [typed(text)]);
    for (const dots of ["..", ".", "%2e%2e", "%2E.", ".%2e", "%2e"])
      for (const [method, path] of [
        ["POST", `/api/documents/${dots}/compact`],
        ["DELETE", `/api/documents/x/${dots}/notes`],
        ["PUT", `/api/documents/notes/tags/${dots}`],
        ["GET", `/${dots}/healthz`],
        ["GET", `/api/documents/${dots}`],
        ["GET", `/api/documents/${dots}?usage`],
      ] as const)
        for (const host of [HOST, "Host: localhost:80"]) {
          const answer = await ask(running, `${method} ${path} HTTP/1.1`, host, "Content-Length: 0", ...END);
          expect([path, answer]).toEqual([path, expect.stringMatching(/^HTTP\/1\.1 400 .*"ID_INVALID"/s)]);
        }
    expect(await running.storage.info("notes")).toMatchObject({ clock: 2, oldestClock: 0 });
    // Parts of an id, and of a query.
    for (const path of ["/api/documents/..a", "/api/documents/%2e%2e%2f", "/api/documents/a.%2e"])
      expect(await ask(running, `GET ${path} HTTP/1.1`, HOST, ...END)).toMatch(/^HTTP\/1\.1 404 /);
    const search = await ask(running, "GET /api/documents?prefix=/../ HTTP/1.1", HOST, ...END);
    expect(search).toMatch(/^HTTP\/1\.1 200 /);
  });
});

describe("what is no request", () => {
  test("[SV112] an address or a Host that cannot be read is answered as other failures are", async () => {
    const running = await run();
    for (const [target, host] of [
      ["/healthz", "a b"],
      ["/healthz", "127.0.0.1:99999"],
      ["/healthz", "127.0.0.1/x"],
      ["/healthz", "a@127.0.0.1"],
      ["/healthz", ""],
      ["/\\healthz", "localhost"],
      ["http://", "localhost"],
      ["*", "localhost"],
    ]) {
      const answer = await ask(running, `OPTIONS ${target} HTTP/1.1`, `Host: ${host}`, ...END);
      expect([target, host, answer]).toEqual([
        target,
        host,
        expect.stringMatching(/^HTTP\/1\.1 400 .*nosniff.*"ARGUMENT_INVALID".*Host of the request cannot/s),
      ]);
    }
  });

  test("[SV112] what Node cannot read gets the status of that, and then no connection", async () => {
    const running = await run();
    const large = ["GET /healthz HTTP/1.1", HOST, `Cookie: ${"a".repeat(20_000)}`, ...END];
    expect(await ask(running, ...large)).toMatch(/^HTTP\/1\.1 431 /);
    expect(await ask(running, "\u0016\u0003\u0001 hello", "", "")).toMatch(/^HTTP\/1\.1 400 /);
    const body = ["POST /api/documents/x/diff HTTP/1.1", HOST, "Transfer-Encoding: chunked", "", "zz", ""];
    expect(await ask(running, ...body)).toMatch(/^HTTP\/1\.1 400 /);
  });

  test("[SV112] a Host that does not name this machine is told so", async () => {
    const running = await run({ onRefused: () => undefined });
    const answer = await ask(running, "GET /healthz HTTP/1.1", "Host: notes.example", ...END);
    expect(answer).toMatch(/^HTTP\/1\.1 403 .*"ORIGIN_REFUSED".*must name this machine in Host/s);
  });
});

describe("offers of another protocol", () => {
  const h2c = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"];

  test("[SV113] a request that offers HTTP/2 is answered as without the offer", async () => {
    const refused: unknown[] = [];
    const running = await run({ onRefused: (refusal) => refused.push(refusal) });
    const health = await ask(running, "GET /healthz HTTP/1.1", HOST, ...h2c, "", "");
    expect(health).toMatch(/^HTTP\/1\.1 200 .*\r\n\r\nok\n$/s);
    const made = await ask(running, "PUT /api/documents/n%C3%B6tes HTTP/1.1", HOST, ...h2c, "", "");
    expect(made).toMatch(/^HTTP\/1\.1 200 .*"clock":0/s);
    await running.storage.append("nötes", [typed("hello")]);
    expect(await storedText(running.storage, "nötes")).toBe("hello");
    const nothing = await ask(running, "GET /sync/x HTTP/1.1", HOST, ...h2c, "", "");
    expect(nothing).toMatch(/^HTTP\/1\.1 404 .*"NOT_FOUND"/s);
    expect(refused).toEqual([]);
  });

  test("[SV113] its body is read, whether it comes with the headers or later", async () => {
    const running = await run({ limits: { headersMs: 400, requestMs: 800 } });
    await running.storage.append("notes", [typed("hello")]);
    const head = ["POST /api/documents/notes/diff HTTP/1.1", HOST, ...h2c, "Content-Length: 1", "", ""];
    const whole = await ask(running, `${head.join("\r\n")}\0`);
    expect(whole).toMatch(/^HTTP\/1\.1 200 .*hello/s);
    const socket = connectSocket(running.server.port, "127.0.0.1", () => socket.write(head.join("\r\n")));
    let seen = "";
    socket.on("data", (more) => {
      seen += more.toString("latin1");
    });
    setTimeout(() => socket.write("\0"), 200);
    await new Promise((resolve) => socket.once("close", resolve));
    expect(seen.split("\r\n\r\n")[1]).toBe(whole.split("\r\n\r\n")[1]);
    // One that never comes ends as another does.
    expect(await ask(running, ...head)).toMatch(/^HTTP\/1\.1 408 /);
  });

  test("[SV113] it is answered behind the request that came with it, also where its client goes away", async () => {
    const running = await run();
    await running.storage.append("notes", [typed("hello")]);
    const first = ["GET /api/documents/notes/export HTTP/1.1", HOST, "", ""].join("\r\n");
    const second = ["PUT /api/documents/new HTTP/1.1", HOST, ...h2c, "", ""];
    const both = await ask(running, `${first}${second.join("\r\n")}`);
    expect(both).toMatch(/^HTTP\/1\.1 200 .*HTTP\/1\.1 200 .*"clock":0/s);
    const third = ["POST /api/documents/notes/diff HTTP/1.1", HOST, ...h2c, "Content-Length: 1", "", ""];
    const answers = await ask(running, `${first}${first}${third.join("\r\n")}\0`);
    expect(answers.match(/HTTP\/1\.1 200 /g)).toHaveLength(3);
    // Who goes away before ends nothing else.
    for (let at = 0; at < 10; at++) {
      const socket = connectSocket(running.server.port, "127.0.0.1");
      socket.on("error", () => undefined);
      socket.write(`${first}${second.join("\r\n")}`);
      await new Promise((resolve) => setTimeout(resolve, at));
      socket.resetAndDestroy();
    }
    const ending = connectSocket({ port: running.server.port, host: "127.0.0.1", allowHalfOpen: true });
    const seen: Buffer[] = [];
    ending.on("data", (data) => seen.push(data)).end(`${first}${second.join("\r\n")}`);
    await new Promise((resolve) => ending.once("end", resolve));
    expect(
      Buffer.concat(seen)
        .toString("latin1")
        .match(/HTTP\/1\.1 200 /g),
    ).toHaveLength(2);
    expect(await ask(running, "GET /healthz HTTP/1.1", HOST, ...h2c, "", "")).toMatch(/^HTTP\/1\.1 200 /);
  });
});
