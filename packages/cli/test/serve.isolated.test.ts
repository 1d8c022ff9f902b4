// `coppice serve` in a process of its own, and `coppice compact` and others beside it.
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { chmod, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { levelBackend } from "@coppice/level";
import { yjs } from "@coppice/yjs";
import { DocumentStorage } from "coppice";
import { afterEach, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { WebsocketProvider } from "y-websocket";
import * as Y from "yjs";
import {
  cleanUp,
  coppice,
  jsonLines,
  keystrokes,
  makeStore,
  openStore,
  type Started,
  start,
  type TestStore,
  temporaryDirectory,
  until,
} from "./command.js";

afterEach(cleanUp);

interface Serving {
  readonly started: Started;
  readonly url: string;
  readonly store: TestStore;
}

async function serve(store: TestStore, ...args: readonly string[]): Promise<Serving> {
  const started = await start(["serve", "--store", store.url, "--port", "0", "--json", ...args]);
  await started.says('"listening"');
  const [line] = jsonLines(started.seen());
  return { started, url: String(line?.url), store };
}

async function stop({ started }: Serving): Promise<void> {
  started.child.kill("SIGTERM");
  expect((await started.ended).code).toBe(0);
}

function provider(url: string, id: string): { doc: Y.Doc; end: () => void; synced: Promise<void> } {
  const doc = new Y.Doc();
  const client = new WebsocketProvider(`${url.replace("http", "ws")}/sync`, id, doc, {
    WebSocketPolyfill: WebSocket as unknown as typeof globalThis.WebSocket,
    disableBc: true,
  });
  const synced = new Promise<void>((resolve) => client.once("sync", () => resolve()));
  const end = () => {
    client.awareness.destroy();
    client.destroy();
    doc.destroy();
  };
  return { doc, end, synced };
}

describe("serve", () => {
  test("[CS10] makes a store, serves it, and loses nothing at SIGTERM", async () => {
    const location = join(await temporaryDirectory(), "new");
    const serving = await serve({ location, url: `level:${location}` });
    const client = provider(serving.url, "notes");
    await client.synced;
    client.doc.getText("text").insert(0, "typed at the last moment");
    await until("the server has it", async () => {
      const response = await fetch(`${serving.url}/api/documents/notes`);
      return response.ok;
    });
    await stop(serving);
    client.end();
    expect(serving.started.seen()).toContain('"stopped"');
    const storage = await openStore(location);
    const handle = await storage.load<Y.Doc>("notes");
    expect(handle?.doc.getText("text").toString()).toBe("typed at the last moment");
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });

  test("[CS10] stops also when its control file cannot be removed, and says so", async (context) => {
    const location = join(await temporaryDirectory(), "kept");
    const serving = await serve({ location, url: `level:${location}` });
    const file = join(location, "coppice-control.json");
    const isKept = spawnSync("chattr", ["+i", file]).status === 0;
    await stop(serving).finally(() => isKept && execFileSync("chattr", ["-i", file]));
    context.skip(!isKept, "nobody here may make a file that cannot be removed");
    expect(serving.started.seen()).toContain('"event":"error"');
    expect(serving.started.seen()).toContain('"event":"stopped"');
    const again = await serve({ location, url: `level:${location}` });
    await stop(again);
    expect(existsSync(file)).toBe(false);
  });

  test("[CL72] says when the store is a new one", async () => {
    const location = join(await temporaryDirectory(), "tpyo");
    const first = await serve({ location, url: `level:${location}` });
    await stop(first);
    expect(jsonLines(first.started.seen())[0]).toMatchObject({ event: "listening", created: true });
    const second = await serve(first.store);
    await stop(second);
    expect(jsonLines(second.started.seen())[0]).toMatchObject({ created: false });
    const plain = await start(["serve", "-s", `level:${location}2`, "--port", "0"]);
    await plain.says("Ctrl-C stops it");
    plain.child.kill("SIGINT");
    expect((await plain.ended).stderr).toBe(`note: level:${location}2 is new and empty\n`);
  });

  test("[CS10] says in plain words where it is and who may come", async () => {
    const store = await makeStore();
    const started = await start(["serve", "--store", store.url, "--port", "0"]);
    await started.says("Ctrl-C stops it");
    expect(started.seen()).toContain("ws://127.0.0.1:");
    expect(started.seen()).toContain("whoever reaches this address may read and change everything");
    started.child.kill("SIGINT");
    const { code, stdout } = await started.ended;
    expect([code, stdout.includes("stopped; all is saved")]).toEqual([0, true]);
  });

  test("[CL177] of a store in memory it does not say that something is kept", async () => {
    const started = await start(["serve", "--store", "memory:", "--port", "0"]);
    await started.says("Ctrl-C stops it");
    started.child.kill("SIGINT");
    const { code, stdout } = await started.ended;
    expect([code, stdout.split("\n").slice(-3)]).toEqual([
      0,
      ["Ctrl-C stops it; what is in memory is gone then", "stopped; what was in memory is gone", ""],
    ]);
  });

  test("[CS11] refuses a public address without tokens, a port in use, no origin, and tokens that it cannot read", async () => {
    const store = await makeStore();
    const serving = await serve(store);
    const other = await makeStore();
    const { port } = new URL(serving.url);
    const busy = await coppice(["serve", "-s", other.url, "--port", port]);
    expect([busy.code, busy.stderr.includes("EADDRINUSE"), busy.stderr.includes("--port 0")]).toEqual([
      1,
      true,
      true,
    ]);
    const unmade = join(await temporaryDirectory(), "unmade");
    const none = await coppice(["serve", "-s", `level:${unmade}`, "--port", port]);
    expect([none.code, none.stderr, existsSync(unmade)]).toEqual([1, busy.stderr, false]);
    const open = await coppice(["serve", "-s", other.url, "--host", "0.0.0.0", "--port", "0"]);
    expect(open.code).toBe(2);
    expect(open.stderr.match(/without authentication/g)).toHaveLength(1);
    expect(open.stderr).toContain("--tokens <file>");
    expect(open.stderr).toContain("--allow-anyone-to-read-and-change-everything");
    expect(open.stderr).not.toContain("authorize");
    const nowhere = join(await temporaryDirectory(), "none");
    const site = await coppice(["serve", "-s", `file:${nowhere}`, "--origin", "notes.example"]);
    expect(existsSync(nowhere)).toBe(false);
    expect([site.code, site.stderr]).toEqual([
      2,
      expect.stringContaining('--origin: "notes.example" is no origin: its scheme is missing'),
    ]);
    const tokens = await coppice(["serve", "-s", other.url, "--tokens", "/nowhere.json", "--port", "0"]);
    expect([tokens.code, tokens.stderr]).toEqual([
      3,
      expect.stringContaining("no file of tokens /nowhere.json"),
    ]);
    const weak = join(await temporaryDirectory(), "weak.json");
    await writeFile(weak, JSON.stringify([{ token: "short", action: "read" }]));
    const refused = await coppice(["serve", "-s", other.url, "--tokens", weak, "--port", "0"]);
    expect([refused.code, refused.stderr.includes("weak.json"), refused.stderr.includes("16")]).toEqual([
      2,
      true,
      true,
    ]);
    await stop(serving);
  });

  test("[CS17] tells once of each page that was refused, and how to let it in, and of a wrong address", async () => {
    const [page, typo] = ["http://localhost:5173", "http://evil.example/;rm"];
    const knock = async (url: string) => {
      for (const origin of [page, page, typo])
        expect((await fetch(url, { headers: { origin } })).status).toBe(403);
      const socket = new WebSocket(`${url.replace("http", "ws")}/notes?token=secret`);
      await new Promise((resolve) => socket.once("error", resolve));
    };
    const serving = await serve(await makeStore());
    await knock(serving.url);
    serving.started.child.kill("SIGTERM");
    const time = expect.stringMatching(/^20\d\d-\d\d-\d\dT[\d:.]+Z$/);
    expect(jsonLines((await serving.started.ended).stderr)).toEqual([
      { time, event: "refused", reason: "origin", value: page },
      { time, event: "refused", reason: "origin", value: typo },
      { time, event: "refused", reason: "path", value: "/notes" },
    ]);
    const plain = await start(["serve", "-s", (await makeStore()).url, "--port", "0"]);
    await plain.says("Ctrl-C stops it");
    await knock(/http:\/\/[\d.:]+/.exec(plain.seen())![0]);
    plain.child.kill("SIGTERM");
    const refused = "its origin is not among those that may connect";
    expect((await plain.ended).stderr.split("\n")).toEqual([
      `note: a page of "${page}" was refused: ${refused}; if it is yours, start with --origin ${page}`,
      `note: a page of "${typo}" was refused: ${refused}`,
      'note: a WebSocket was refused at "/notes": documents are at /sync/<id>',
      "",
    ]);
  });

  test("[CS11] with tokens nobody else gets in", async () => {
    const file = join(await temporaryDirectory(), "tokens.json");
    const token = "0123456789abcdef";
    await writeFile(file, JSON.stringify([{ token, action: "read" }]));
    await chmod(file, 0o600);
    const serving = await serve(await makeStore(), "--tokens", file);
    expect((await fetch(`${serving.url}/api/documents`)).status).toBe(401);
    const headers = { authorization: `Bearer ${token}` };
    expect((await fetch(`${serving.url}/api/documents`, { headers })).status).toBe(200);
    await stop(serving);
  });
});

describe("a disk that is full", () => {
  const noLimits = spawnSync("prlimit", ["--version"]).error !== undefined;
  const limitFiles = (pid: unknown, bytes: string) =>
    execFileSync("prlimit", ["--pid", String(pid), `--fsize=${bytes}:`]);

  /** Types what is stored; fills the disk; types what another sees and what is not stored; and leaves. */
  async function typeIntoFullDisk(url: string, pid: unknown): Promise<void> {
    const [writer, reader] = [provider(url, "notes"), provider(url, "notes")];
    await Promise.all([writer.synced, reader.synced]);
    const text = writer.doc.getText("text");
    text.insert(0, "stored");
    await until("it is stored", async () => {
      const response = await fetch(`${url}/api/documents/notes`);
      return response.ok && ((await response.json()) as { clock: number }).clock > 0;
    });
    limitFiles(pid, "0");
    text.insert(6, ", seen");
    await until("the other sees it", () => reader.doc.getText("text").toString() === "stored, seen");
    await until("no edits are taken", async () => (await fetch(`${url}/readyz`)).status === 503);
    writer.end();
    reader.end();
  }

  async function textOf(location: string): Promise<string | undefined> {
    const storage = await openStore(location);
    const handle = await storage.load<Y.Doc>("notes");
    const text = handle?.doc.getText("text").toString();
    await storage.close();
    return text;
  }

  test("[CL154] what serve received and could not store is named, and it ends with 1", async (context) => {
    context.skip(noLimits, "prlimit is not installed");
    const { started, url, store } = await serve(await makeStore());
    await typeIntoFullDisk(url, started.child.pid);
    started.child.kill("SIGTERM");
    const { code, stdout, stderr } = await started.ended;
    expect([code, stdout.includes("stopped")]).toEqual([1, false]);
    expect(jsonLines(stderr)).toMatchObject([
      { event: "error", code: "OUTCOME_UNKNOWN" },
      { event: "writable", writable: false },
      { error: { code: "FAILED", kind: "failed", details: { ids: ["notes"], documents: 1 } } },
    ]);
    expect(await textOf(store.location)).toBe("stored");
  });

  test("[CL154] where there is room again when it stops, all is saved", async (context) => {
    context.skip(noLimits, "prlimit is not installed");
    const { started, url, store } = await serve(await makeStore());
    await typeIntoFullDisk(url, started.child.pid);
    limitFiles(started.child.pid, "unlimited");
    started.child.kill("SIGTERM");
    const { code, stdout } = await started.ended;
    expect([code, stdout.includes('"stopped"')]).toEqual([0, true]);
    expect(await textOf(store.location)).toBe("stored, seen");
  });

  test("[CL154] start says so as well, in plain words", async (context) => {
    context.skip(noLimits, "prlimit is not installed");
    const { url: store } = await makeStore();
    const started = await start(["start", "--store", store, "--port", "0", "--no-samples"]);
    await started.says("Ctrl-C stops it");
    const [, pid] = /kill -9 (\d+)/.exec(started.seen()) ?? [];
    const [url = ""] = /http:[\d/.:]+\d/.exec(started.seen()) ?? [];
    await typeIntoFullDisk(url, pid);
    started.child.kill("SIGTERM");
    const { code, stdout, stderr } = await started.ended;
    expect([code, stdout.includes("saved")]).toEqual([1, false]);
    expect(stderr).toMatch(
      /^coppice: edits were received and are not stored, of "notes" \(.*\)\nClients that/m,
    );
    expect(stderr).not.toContain('{"error"');
  });
});

describe("beside a server", () => {
  const fill = (documents: number) =>
    makeStore(async (storage) => {
      for (let index = 0; index < documents; index++)
        for (const update of keystrokes(`document ${index}`)) await storage.append(`doc-${index}`, [update]);
    });

  test("[CS12] ls, info, check and compact reach the process that has the store", async () => {
    const serving = await serve(await fill(3));
    const { url } = serving.store;
    expect((await coppice(["ls", "-s", url])).stdout).toBe("doc-0\ndoc-1\ndoc-2\n");
    const info = await coppice(["info", "doc-1", "-s", url, "--json"]);
    expect(jsonLines(info.stdout)[0]).toMatchObject({ id: "doc-1", clock: 10, snapshotTime: null });
    const one = await coppice(["compact", "doc-1", "-s", url]);
    expect([one.code, one.stdout.startsWith("doc-1: snapshot at clock 10")]).toEqual([0, true]);
    expect(one.stderr).toMatch(/^note: done by process \d+, which has the store open\n$/);
    const archived = await coppice([
      "compact",
      "doc-2",
      "--history",
      "archive",
      "--force",
      "-s",
      url,
      "--json",
    ]);
    expect(archived.code).toBe(0);
    const kept = await coppice(["info", "doc-2", "-s", url, "--json"]);
    expect(jsonLines(kept.stdout)[0]).toMatchObject({ id: "doc-2", archivedClock: 0 });
    const all = await coppice(["compact", "--all", "-s", url, "--json"]);
    expect([all.code, jsonLines(all.stdout)[0]]).toMatchObject([0, { seen: 3, compacted: 1, stopped: null }]);
    expect(all.stderr).toBe("");
    const check = await coppice(["check", "-s", url]);
    expect([check.code, check.stdout.includes("ok 3 documents")]).toEqual([0, true]);
    const locked = await coppice(["rm", "doc-1", "--yes", "-s", url]);
    expect([locked.code, locked.stderr]).toEqual([4, expect.stringContaining("and lets others read.")]);
    await stop(serving);
  });

  test("[CS16] what only reads does so through the process that has the store: a copy is a backup", async () => {
    const serving = await serve(await fill(3));
    const { url } = serving.store;
    const folder = await temporaryDirectory();
    const backup = `file:${join(folder, "backup")}`;
    const through = expect.stringMatching(/^note: read through process \d+, which has the store open\n/);
    const copies = [await coppice(["copy", url, backup]), await coppice(["copy", url, backup])];
    expect(copies).toMatchObject([
      { code: 0, stderr: through, stdout: expect.stringMatching(/^3 ids: 3 copied/) },
      { code: 0, stderr: through, stdout: expect.stringMatching(/^3 ids: 0 copied, .* 3 unchanged/) },
    ]);
    expect((await coppice(["check", "-s", backup])).code).toBe(0);
    for (const command of [
      ["read", "doc-1"],
      ["show", "doc-1"],
      ["history", "doc-1"],
      ["tags", "doc-1"],
      ["dump", "doc-1"],
      ["export", "doc-1", join(folder, "one.coppice")],
    ]) {
      const [there, here] = [
        await coppice([...command, "-s", url]),
        await coppice([...command, "-s", backup]),
      ];
      expect([command, there.code, there.stderr]).toEqual([command, 0, through]);
      if (["read", "show"].includes(command[0]!)) expect(there.stdout).toBe(here.stdout);
    }
    await stop(serving);
  });

  test("[CL8] what writes beside the owner of a file log names it, as that says who it is", async () => {
    const location = join(await temporaryDirectory(), "log");
    const serving = await serve({ location, url: `file:${location}` });
    const { pid } = serving.started.child;
    const refused = await coppice(["tag", "team/a", "v1", "-s", serving.store.url, "--json"]);
    expect([refused.code, jsonLines(refused.stderr)]).toMatchObject([4, [{ error: { details: { pid } } }]]);
    const told = await coppice(["tag", "team/a", "v1", "-s", serving.store.url]);
    expect(told.stderr).toMatch(new RegExp(`^coppice: process ${pid}( \\(.*\\))? has file:`));
    await stop(serving);
  });

  test("[CS13] of two compactions at once the second ends with 6, or waits", async () => {
    const store = await makeStore(async (storage) => {
      const [update = new Uint8Array()] = keystrokes("x");
      await Promise.all(Array.from({ length: 600 }, (_, index) => storage.append(`doc-${index}`, [update])));
    });
    const serving = await serve(store);
    const stopRun = new AbortController();
    const run = await fetch(`${serving.url}/api/compact?force=true&concurrency=1`, {
      method: "POST",
      headers: { accept: "text/event-stream" },
      signal: stopRun.signal,
    });
    await run.body?.getReader().read();
    const second = await coppice(["compact", "--all", "-s", store.url]);
    expect([second.code, second.stderr.includes("another compaction of this store is under way")]).toEqual([
      6,
      true,
    ]);
    const waiting = start(["compact", "--all", "--min-events", "5", "-s", store.url, "--wait", "60s"]);
    setTimeout(() => stopRun.abort(), 500);
    expect((await (await waiting).ended).code).toBe(0);
    await stop(serving);
  });

  test("[CS14] after SIGKILL the next command opens the store itself, and the next server offers anew", async () => {
    const serving = await serve(await fill(2));
    const { url, location } = serving.store;
    serving.started.child.kill("SIGKILL");
    await serving.started.ended;
    const alone = await coppice(["compact", "--all", "-s", url]);
    expect([alone.code, alone.stderr]).toEqual([0, ""]);
    const next = await serve(serving.store);
    const asked = await coppice(["ls", "-s", url]);
    expect([asked.code, asked.stderr.startsWith("note: done by process")]).toEqual([0, true]);
    await stop(next);
    const storage = await openStore(location);
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });

  test("[CL158] a pause between compactions that no timer or machine can bear is a usage error", async () => {
    const store = join(await temporaryDirectory(), "none");
    for (const pause of ["0s", "1ms", "999ms", "25d"]) {
      const { code, stderr } = await coppice(["serve", "-s", `level:${store}`, "--compact-every", pause]);
      expect([pause, code, stderr]).toEqual([pause, 2, expect.stringContaining("Write 1s to 24d.")]);
    }
    expect(existsSync(store)).toBe(false);
  });

  test("[CS15] a server compacts by itself when told to", async () => {
    const store = await makeStore(async (storage) => {
      for (const update of keystrokes("x".repeat(150))) await storage.append("long", [update]);
    });
    const serving = await serve(store, "--compact-every", "1s");
    await until("it is compacted", async () => {
      const response = await fetch(`${serving.url}/api/documents/long`);
      return ((await response.json()) as { oldestClock: number }).oldestClock > 0;
    });
    await stop(serving);
    const told = jsonLines(serving.started.seen()).find(
      (line) => (line as { event?: string }).event === "compacted",
    );
    expect(told).toMatchObject({ seen: 1, compacted: 1, failed: 0, eventsTrimmed: expect.any(Number) });
  });

  test("[CS15] from as many events on as it is told, and it says what a failed document lacks", async () => {
    const store = await makeStore(async (storage) => {
      for (const update of keystrokes("short")) await storage.append("short", [update]);
    });
    const other = await DocumentStorage.open({
      backend: levelBackend(store.location),
      models: [{ ...yjs(), name: "unheard-of" }],
    });
    await other.append("other", keystrokes("x"));
    await other.close();
    const serving = await serve(store, "--compact-every", "1s", "--min-events", "1");
    await serving.started.says('"event":"compacted"');
    await stop(serving);
    const line = jsonLines(serving.started.seen()).find(
      (each) => (each as { event?: string }).event === "error",
    );
    expect(line).toMatchObject({ code: "MODEL_UNKNOWN", kind: "unsupported", id: "other" });
    expect((line as { hint: string }).hint).toContain("--models");
  });

  test("[SV95] a document that fails in the runs of a server is counted in its metrics", async () => {
    const store = await makeStore();
    const models = [{ ...yjs(), name: "strange" }];
    const storage = await DocumentStorage.open({ backend: levelBackend(store.location), models });
    for (const update of keystrokes("x".repeat(150))) await storage.append("strange", [update]);
    await storage.close();
    const serving = await serve(store, "--compact-every", "1s");
    await until("it is counted", async () => {
      const text = await (await fetch(`${serving.url}/metrics`)).text();
      return /^coppice_compactions_failed_total [1-9]/m.test(text);
    });
    await stop(serving);
  });
});
