/**
 * Two real clients type a real conversation at once through a real server, which is killed with SIGKILL at
 * random moments and started again. After each kill the store is opened and must hold all that a client was
 * told is durable; in the end both clients and the disk show the same.
 *
 * COPPICE_SYNC_KILLS=<count> kills each server so many times (default 20). A slice is typed for
 * each kill, so that there is always something to lose.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { readDurableMessage } from "@coppice/hocuspocus";
import { levelBackend } from "@coppice/level";
import { yjs } from "@coppice/yjs";
import { HocuspocusProvider, HocuspocusProviderWebsocket } from "@hocuspocus/provider";
import { DocumentStorage } from "coppice";
import { seededRandom } from "coppice/testing";
import * as decoding from "lib0/decoding";
import { afterAll, beforeAll, expect, test } from "vitest";
import WebSocket from "ws";
import { WebsocketProvider } from "y-websocket";
import * as Y from "yjs";
import { bundleChild } from "../support/child.js";
import { type Conversation, openConversation, TEXT } from "../support/conversation.js";
import { until } from "../support/until.js";
import { MESSAGE_TOLD } from "../support/y-websocket-server.js";

const KILLS = Number(process.env.COPPICE_SYNC_KILLS ?? 20);
const SLICE = 150;
const STEPS = SLICE * (KILLS + 1);
const SEED = 20_261_120;
const ID = "notes";
const TEST_MS_MAX = 300_000;

type Told = Map<number, number>;

interface Client {
  readonly doc: Y.Doc;
  destroy(): void;
}

let folder: string;
let conversation: Conversation;
let script: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "coppice-sync-"));
  conversation = openConversation(STEPS);
  script = await bundleChild(fileURLToPath(new URL("children/sync-server.ts", import.meta.url)));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

class ServerProcess {
  readonly #kind: string;
  readonly #location: string;
  #child: ChildProcess | undefined;
  port = 0;

  constructor(kind: string, location: string) {
    this.#kind = kind;
    this.#location = location;
  }

  async start(): Promise<void> {
    const child = spawn(process.execPath, [script, this.#kind, this.#location, String(this.port)], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    this.#child = child;
    let output = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      output += text;
    });
    await until("the server listens", () => {
      if (child.exitCode !== null) throw new Error(`the server ended with ${child.exitCode}`);
      return /^OPEN \d+$/m.test(output);
    });
    this.port = Number(/^OPEN (\d+)$/m.exec(output)![1]);
  }

  get lives(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  async kill(): Promise<void> {
    const child = this.#child;
    if (child === undefined || !this.lives) throw new Error("the server ended by itself");
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
  }
}

function note(told: Told, clients: Readonly<Record<string, number>>): void {
  for (const [client, clock] of Object.entries(clients)) {
    told.set(Number(client), Math.max(clock, told.get(Number(client)) ?? 0));
  }
}

function yWebsocketClient(port: number, told: Told): Client {
  const doc = new Y.Doc();
  const provider = new WebsocketProvider(`ws://127.0.0.1:${port}`, ID, doc, {
    WebSocketPolyfill: WebSocket as unknown as typeof globalThis.WebSocket,
    disableBc: true,
    maxBackoffTime: 50,
  });
  provider.messageHandlers[MESSAGE_TOLD] = (_encoder, decoder) => {
    note(told, JSON.parse(decoding.readVarString(decoder)).clients);
  };
  return { doc, destroy: () => provider.destroy() };
}

function hocuspocusClient(port: number, told: Told): Client {
  const doc = new Y.Doc();
  const websocketProvider = new HocuspocusProviderWebsocket({
    url: `ws://127.0.0.1:${port}`,
    WebSocketPolyfill: WebSocket,
    delay: 30,
    minDelay: 30,
    factor: 1,
    jitter: false,
  });
  const provider = new HocuspocusProvider({ websocketProvider, name: ID, document: doc, token: "any" });
  provider.on("stateless", ({ payload }: { payload: string }) => {
    const message = readDurableMessage(payload);
    if (message !== undefined) note(told, message.clients);
  });
  provider.attach();
  const destroy = () => {
    provider.destroy();
    websocketProvider.destroy();
  };
  return { doc, destroy };
}

/** Types one author's steps, each as soon as all that its author had seen is there, and its slice has come. */
async function type(client: Client, author: number, kills: () => number, signal: AbortSignal): Promise<void> {
  for (const [index, { update, seen, ...step }] of conversation.steps.entries()) {
    if (step.author !== author) continue;
    await until("what the author had seen arrives", () => {
      signal.throwIfAborted();
      if (index >= SLICE * (kills() + 1)) return false;
      return [...seen].every(([id, clock]) => Y.getState(client.doc.store, id) >= clock);
    });
    Y.applyUpdate(client.doc, update, "typing");
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

async function stored(location: string): Promise<{ text: string; clocks: (client: number) => number }> {
  const storage = await DocumentStorage.open({ backend: levelBackend(location), models: [yjs()] });
  try {
    expect((await storage.check()).problems).toEqual([]);
    const handle = await storage.load(ID);
    const doc = new Y.Doc();
    if (handle !== undefined) Y.applyUpdate(doc, Y.encodeStateAsUpdate(handle.doc));
    await handle?.close();
    return { text: doc.getText(TEXT).toString(), clocks: (client) => Y.getState(doc.store, client) };
  } finally {
    await storage.close();
  }
}

test(
  "[DI17] y-websocket: SIGKILL takes nothing that was told to be durable, and all agree in the end",
  {
    timeout: TEST_MS_MAX,
  },
  () => killAgainAndAgain("y-websocket", yWebsocketClient),
);

test(
  "[HP17] Hocuspocus: SIGKILL takes nothing that was told to be durable, and all agree in the end",
  {
    timeout: TEST_MS_MAX,
  },
  () => killAgainAndAgain("hocuspocus", hocuspocusClient),
);

async function killAgainAndAgain(kind: string, connect: (port: number, told: Told) => Client): Promise<void> {
  const random = seededRandom(SEED);
  const location = join(folder, kind);
  const server = new ServerProcess(kind, location);
  const told: Told = new Map();
  const stop = new AbortController();
  await server.start();
  const clients = [0, 1].map(() => connect(server.port, told));
  let kills = 0;
  const typing = Promise.all(clients.map((client, author) => type(client, author, () => kills, stop.signal)));
  typing.catch(() => undefined);
  try {
    let proven = 0;
    for (; kills < KILLS; kills++) {
      const before = sumOf(told);
      await until("something became durable", () => sumOf(told) > before);
      await new Promise((resolve) => setTimeout(resolve, random.int(120)));
      await server.kill();
      const promised = new Map(told);
      const { clocks } = await stored(location);
      for (const [client, clock] of promised) {
        expect(clocks(client), `client ${client} after kill ${kills}`).toBeGreaterThanOrEqual(clock);
        proven = Math.max(proven, clock);
      }
      await server.start();
    }
    await typing;
    await until("both clients show the whole conversation", () => isDone(clients));
    const total = [1, 2].map((client) => Y.getState(clients[0]!.doc.store, client));
    await until("all is told to be durable", () =>
      [1, 2].every((client, n) => (told.get(client) ?? 0) >= total[n]!),
    );
    expect(proven).toBeGreaterThan(0);
  } finally {
    stop.abort();
    for (const client of clients) client.destroy();
    if (server.lives) await server.kill();
  }
  expect((await stored(location)).text).toBe(conversation.text);
}

function sumOf(told: Told): number {
  return [...told.values()].reduce((sum, clock) => sum + clock, 0);
}

function isDone(clients: readonly Client[]): boolean {
  return clients.every(({ doc }) => doc.getText(TEXT).toString() === conversation.text);
}
