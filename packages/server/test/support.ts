/**
 * Real servers on loopback, real y-websocket clients, and bare sockets for what no client would send. Everything
 * made here is closed by `cleanUp`, which also checks every storage that was opened.
 */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { levelBackend } from "@coppice/level";
import { type CoppiceServer, ServerMetrics, type ServerOptions, serve } from "@coppice/server";
import { yjs } from "@coppice/yjs";
import {
  type BackendFactory,
  DocumentStorage,
  memoryBackend,
  Reader,
  type StorageOptions,
  Writer,
} from "coppice";
import { expect } from "vitest";
import { WebSocket } from "ws";
import { WebsocketProvider } from "y-websocket";
import * as Y from "yjs";

const endings: (() => Promise<unknown>)[] = [];

export async function cleanUp(): Promise<void> {
  for (const end of endings.splice(0).reverse()) await end();
}

export function atEnd(end: () => Promise<unknown> | unknown): void {
  endings.push(async () => end());
}

export interface Running {
  readonly server: CoppiceServer;
  readonly storage: DocumentStorage;
  readonly metrics: ServerMetrics;
  readonly errors: unknown[];
  /** `ws://…/sync`, for a provider. */
  readonly syncUrl: string;
}

export type RunOptions = Partial<Omit<ServerOptions, "storage" | "metrics" | "onError">> & {
  readonly backend?: BackendFactory;
  readonly storageOptions?: Partial<StorageOptions<[ReturnType<typeof yjs>]>>;
  /** The test expects internal errors. */
  readonly mayFail?: boolean;
};

/** A server on a free port. At the end its storage is checked, and it must have had no internal error. */
export async function run(options: RunOptions = {}): Promise<Running> {
  const { backend = memoryBackend(), storageOptions, mayFail, ...rest } = options;
  const metrics = new ServerMetrics();
  const storage = await DocumentStorage.open({
    backend,
    models: [yjs()],
    observer: metrics.observer,
    ...storageOptions,
  });
  const errors: unknown[] = [];
  const server = await serve({ port: 0, ...rest, storage, metrics, onError: (error) => errors.push(error) });
  atEnd(async () => {
    await (mayFail ? server.close().catch(() => undefined) : server.close());
    if (mayFail !== true) {
      expect((await storage.check()).problems).toEqual([]);
      expect(errors).toEqual([]);
    }
    await storage.close();
    metrics.close();
  });
  return { server, storage, metrics, errors, syncUrl: `${server.url.replace("http", "ws")}/sync` };
}

export async function temporaryDirectory(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "coppice-server-"));
  atEnd(() => rm(path, { recursive: true, force: true }));
  return path;
}

export async function levelStore(): Promise<BackendFactory> {
  return levelBackend(join(await temporaryDirectory(), "data"));
}

export interface Client {
  readonly doc: Y.Doc;
  readonly provider: WebsocketProvider;
  readonly text: Y.Text;
}

type ProviderOptions = NonNullable<ConstructorParameters<typeof WebsocketProvider>[3]>;

/** A y-websocket client as it is, on a document of its own. */
export function connect(
  { syncUrl }: Pick<Running, "syncUrl">,
  id: string,
  options: ProviderOptions & { readonly doc?: Y.Doc } = {},
): Client {
  const { doc = new Y.Doc(), ...rest } = options;
  const provider = new WebsocketProvider(syncUrl, id, doc, {
    WebSocketPolyfill: WebSocket as unknown as typeof globalThis.WebSocket,
    disableBc: true,
    maxBackoffTime: 200,
    ...rest,
  });
  // With a failed connection y-websocket 3 tells both this and the close.
  provider.on("connection-error", () => undefined);
  atEnd(() => {
    provider.awareness.destroy();
    provider.destroy();
    doc.destroy();
  });
  return { doc, provider, text: doc.getText("text") };
}

export async function synced(client: Client): Promise<Client> {
  await until("the client synced", () => client.provider.synced);
  return client;
}

/** Resolves when the condition holds; rejects after twenty seconds. */
export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`never happened: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 3));
  }
}

export interface Closed {
  readonly code: number;
  readonly reason: string;
}

/** A socket that sends what it is told, and keeps what it gets. */
export class RawClient {
  readonly socket: WebSocket;
  readonly received: Uint8Array[] = [];
  readonly closed: Promise<Closed>;
  /** Resolves when it is open; rejects with the HTTP status of a refusal. */
  readonly opened: Promise<void>;

  constructor(url: string, headers: Record<string, string> = {}) {
    this.socket = new WebSocket(url, { headers, perMessageDeflate: false });
    this.socket.on("message", (data: Buffer) => this.received.push(new Uint8Array(data)));
    this.opened = new Promise((resolve, reject) => {
      this.socket.once("open", () => resolve());
      this.socket.once("unexpected-response", (_request, response) => {
        reject(new Error(`status ${response.statusCode}`));
        this.socket.terminate();
      });
      this.socket.on("error", reject);
    });
    this.opened.catch(() => undefined);
    this.closed = new Promise((resolve) => {
      this.socket.once("close", (code, reason) => resolve({ code, reason: reason.toString() }));
    });
    atEnd(() => this.socket.terminate());
  }

  async send(...messages: readonly Uint8Array[]): Promise<void> {
    await this.opened;
    for (const message of messages) this.socket.send(message);
  }

  /** Messages received so far whose first number is `type`, without it. */
  of(type: number): Reader[] {
    const found: Reader[] = [];
    for (const message of this.received) {
      const reader = new Reader(message);
      if (reader.varint() === type) found.push(reader);
    }
    return found;
  }
}

export const message = {
  step1: (doc: Y.Doc = new Y.Doc()): Uint8Array => sync(0, Y.encodeStateVector(doc)),
  step2: (update: Uint8Array): Uint8Array => sync(1, update),
  update: (update: Uint8Array): Uint8Array => sync(2, update),
  awareness: (...states: readonly (readonly [client: number, clock: number, json: string])[]): Uint8Array => {
    const body = new Writer().varint(states.length);
    for (const [client, clock, json] of states)
      body.varint(client).varint(clock).sized(new TextEncoder().encode(json));
    return new Writer().varint(1).sized(body.finish()).finish();
  },
  watchDurable: (): Uint8Array => Uint8Array.of(100, 0),
  mark: (mark: number): Uint8Array => new Writer().varint(100).varint(1).varint(mark).finish(),
};

function sync(step: number, bytes: Uint8Array): Uint8Array {
  return new Writer().varint(0).varint(step).sized(bytes).finish();
}

/** The update that types `text` into a new document. */
export function typed(text: string): Uint8Array {
  const doc = new Y.Doc();
  doc.getText("text").insert(0, text);
  return Y.encodeStateAsUpdate(doc);
}

/** The text that is stored. */
export async function storedText(storage: DocumentStorage, id: string): Promise<string | undefined> {
  const handle = await storage.load<Y.Doc>(id);
  const text = handle?.doc.getText("text").toString();
  await handle?.close();
  return text;
}

/** A store in memory whose commits wait from `stall` to `goOn`, as those to a slow disk. */
export function stallingStore(): { backend: BackendFactory; stall: () => void; goOn: () => void } {
  let stalled: Promise<void> | undefined;
  let release = (): void => undefined;
  const memory = memoryBackend();
  return {
    backend: {
      ...memory,
      open: async (env) => {
        const opened = await memory.open(env);
        const commit = opened.commit.bind(opened);
        opened.commit = async (batch) => {
          await stalled;
          return commit(batch);
        };
        return opened;
      },
    },
    stall: () => {
      stalled = new Promise((resolve) => {
        release = resolve;
      });
    },
    goOn: () => {
      stalled = undefined;
      release();
    },
  };
}
