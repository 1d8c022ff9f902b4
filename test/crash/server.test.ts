// The server in a process of its own, real y-websocket clients, and what a machine does to servers: SIGKILL, a full
// disk, and a cron job that compacts under load. COPPICE_SERVER_KILLS=<count> kills so many times (default 3).

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { levelBackend } from "@coppice/level";
import { DurabilityWatch } from "@coppice/server/client";
import { yjs } from "@coppice/yjs";
import { DocumentStorage } from "coppice";
import { afterEach, beforeEach, expect, test } from "vitest";
import { WebSocket } from "ws";
import { WebsocketProvider } from "y-websocket";
import * as Y from "yjs";
import { bundleChild } from "../support/child.js";

const KILLS = Number(process.env.COPPICE_SERVER_KILLS ?? 3);
const CLI = fileURLToPath(new URL("../../packages/cli/src/main.ts", import.meta.url));
const FULL = fileURLToPath(new URL("children/full-server.ts", import.meta.url));

interface Person {
  readonly doc: Y.Doc;
  readonly text: Y.Text;
  readonly provider: WebsocketProvider;
  readonly watch: DurabilityWatch;
}

// Each y-websocket client listens to the end of its process.
process.setMaxListeners(100);

let folder = "";
let location = "";
const people: Person[] = [];
const children = new Set<ChildProcess>();

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "coppice-server-crash-"));
  location = join(folder, "data");
});

afterEach(() => {
  for (const { doc, provider, watch } of people.splice(0)) {
    watch.settled().catch(() => undefined);
    watch.stop();
    provider.awareness.destroy();
    provider.destroy();
    doc.destroy();
  }
  for (const child of children) child.kill("SIGKILL");
  children.clear();
  rmSync(folder, { recursive: true, force: true });
});

function person(port: number, id: string): Person {
  const doc = new Y.Doc();
  const provider = new WebsocketProvider(`ws://127.0.0.1:${port}/sync`, id, doc, {
    WebSocketPolyfill: WebSocket as unknown as typeof globalThis.WebSocket,
    disableBc: true,
    maxBackoffTime: 100,
  });
  const one = { doc, text: doc.getText("text"), provider, watch: new DurabilityWatch(provider) };
  people.push(one);
  return one;
}

async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 60_000;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`never happened: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** A child whose lines of output are kept. */
function run(
  script: string,
  args: readonly string[],
): { child: ChildProcess; lines: string[]; ended: Promise<number | null> } {
  const child = spawn(process.execPath, [script, ...args], { stdio: ["pipe", "pipe", "inherit"] });
  children.add(child);
  const lines: string[] = [];
  let rest = "";
  child.stdout?.setEncoding("utf8").on("data", (text: string) => {
    const parts = (rest + text).split("\n");
    rest = parts.pop() ?? "";
    lines.push(...parts);
  });
  const ended = new Promise<number | null>((resolve) => child.once("close", (code) => resolve(code)));
  return { child, lines, ended };
}

/** At any free port, unless it is to be that of one before. */
async function serve(wanted = 0) {
  const args = ["serve", "--store", `level:${location}`, "--port", String(wanted), "--json"];
  const server = run(await bundleChild(CLI), args);
  await until("the server listens", () => server.lines.length > 0 || server.child.exitCode !== null);
  const { url } = JSON.parse(server.lines[0] ?? "") as { url: string };
  return { ...server, port: Number(new URL(url).port) };
}

/** Types into every document until stopped; returns how many keystrokes each person has made. */
function type(typists: readonly Person[], intervalMs: number): { stop: () => number[] } {
  const counts = typists.map(() => 0);
  const timer = setInterval(() => {
    typists.forEach(({ text }, index) => {
      text.insert(text.length, String(counts[index]! % 10));
      counts[index]!++;
    });
  }, intervalMs);
  return {
    stop: () => {
      clearInterval(timer);
      return counts;
    },
  };
}

async function storedTexts(ids: readonly string[]): Promise<string[]> {
  const storage = await DocumentStorage.open({ backend: levelBackend(location), models: [yjs()] });
  const texts: string[] = [];
  for (const id of ids) texts.push((await storage.load<Y.Doc>(id))!.doc.getText("text").toString());
  expect((await storage.check()).problems).toEqual([]);
  await storage.close();
  return texts;
}

test(
  "[SV60] through SIGKILL of the server while two type both converge, and the disk agrees",
  async () => {
    let server = await serve();
    const { port } = server;
    const [a, b] = [person(port, "notes"), person(port, "notes")];
    const typing = type([a, b], 3);
    for (let kill = 0; kill < KILLS; kill++) {
      const before = a.watch.clock ?? 0;
      await until("edits become durable", () => a.provider.synced && (a.watch.clock ?? 0) > before + 20);
      server.child.kill("SIGKILL");
      await server.ended;
      const storage = await DocumentStorage.open({ backend: levelBackend(location), models: [yjs()] });
      const clock = (await storage.info("notes"))?.clock ?? 0;
      // What a client was told to be durable is there.
      expect(clock).toBeGreaterThanOrEqual(Math.max(a.watch.clock ?? 0, b.watch.clock ?? 0));
      expect((await storage.check()).problems).toEqual([]);
      await storage.close();
      server = await serve(port);
    }
    await until("they are back", () => a.provider.synced && b.provider.synced);
    const counts = typing.stop();
    await Promise.all([a.watch.settled(), b.watch.settled()]);
    await until("they converge", () => a.text.toString() === b.text.toString());
    expect(a.text.length).toBe(counts[0]! + counts[1]!);
    expect([a.watch.pendingCount, b.watch.pendingCount]).toEqual([0, 0]);
    server.child.kill("SIGTERM");
    expect(await server.ended).toBe(0);
    expect(await storedTexts(["notes"])).toEqual([a.text.toString()]);
  },
  60_000 + KILLS * 20_000,
);

test("[SV61] a compaction of all from another process, while many type, loses nothing", async () => {
  const server = await serve();
  const { port } = server;
  const ids = Array.from({ length: 12 }, (_, index) => `doc-${index}`);
  const typists = ids.flatMap((id) => [person(port, id), person(port, id)]);
  await until("all are synced", () => typists.every(({ provider }) => provider.synced));
  const typing = type(typists, 10);
  const script = await bundleChild(CLI);
  let trimmed = 0;
  for (let round = 0; round < 3; round++) {
    const cron = run(script, ["compact", "--all", "--force", "--store", `level:${location}`, "--json"]);
    expect(await cron.ended).toBe(0);
    const result = JSON.parse(cron.lines[0] ?? "") as {
      seen: number;
      eventsTrimmed: number;
      failures: unknown[];
    };
    expect(result).toMatchObject({ seen: ids.length, failures: [] });
    trimmed += result.eventsTrimmed;
  }
  expect(trimmed).toBeGreaterThan(100);
  const counts = typing.stop();
  await Promise.all(typists.map(({ watch }) => watch.settled()));
  await until("all converge", () =>
    ids.every((_, index) => typists[2 * index]!.text.toString() === typists[2 * index + 1]!.text.toString()),
  );
  server.child.kill("SIGTERM");
  expect(await server.ended).toBe(0);
  const texts = await storedTexts(ids);
  ids.forEach((_, index) => {
    expect(texts[index]).toBe(typists[2 * index]!.text.toString());
    expect(texts[index]).toHaveLength(counts[2 * index]! + counts[2 * index + 1]!);
  });
}, 180_000);

test("[SV62] a full disk refuses edits, leaves everything readable, and loses nothing once there is room", async (context) => {
  if (spawnSync("prlimit", ["--version"]).error !== undefined) context.skip("prlimit is not installed");
  const server = run(await bundleChild(FULL), [location]);
  await until("the server listens", () => server.lines.length > 0);
  const { url } = JSON.parse(server.lines[0]!) as { url: string };
  const port = Number(new URL(url).port);
  const tell = async (line: string) => {
    server.child.stdin?.write(`${line}\n`);
    await until(line, () => server.lines.includes(JSON.stringify({ done: line })));
  };
  const idle = person(port, "idle");
  idle.text.insert(0, "written before");
  await idle.watch.settled();
  idle.provider.disconnect();
  const [a, b] = [person(port, "notes"), person(port, "notes")];
  a.text.insert(0, "before ");
  await a.watch.settled();
  await tell("limit 20000");
  await until("edits are refused", () => {
    a.text.insert(a.text.length, "x".repeat(500));
    return !a.watch.writable;
  });
  b.text.insert(0, "refused ");
  expect((await fetch(`${url}/readyz`)).status).toBe(503);
  expect((await fetch(`${url}/healthz`)).status).toBe(200);
  const late = person(port, "notes");
  await until("a newcomer sees what is there", () => late.provider.synced && late.text.length > 0);
  const reader = person(port, "idle");
  await until("and what is not in memory", () => reader.text.toString() === "written before");
  expect([a.provider.wsconnected, b.provider.wsconnected]).toEqual([true, true]);
  expect(b.watch.pendingCount).toBeGreaterThan(0);
  await tell("unlimited");
  await Promise.all([a.watch.settled(), b.watch.settled()]);
  await until("all have all", () => {
    const texts = [a, b, late].map(({ text }) => text.toString());
    return texts[0]!.includes("refused ") && texts.every((text) => text === texts[0]);
  });
  expect((await fetch(`${url}/readyz`)).status).toBe(200);
  server.child.stdin?.write("end\n");
  expect(await server.ended).toBe(0);
  expect(JSON.parse(server.lines.at(-1) ?? "")).toEqual({
    problems: [],
    errors: [expect.stringContaining("a write or sync failed")],
  });
  expect(await storedTexts(["notes", "idle"])).toEqual([a.text.toString(), "written before"]);
}, 120_000);
