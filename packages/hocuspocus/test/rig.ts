/**
 * Real Hocuspocus servers and providers over loopback, for the tests of the extension. What a test opens is
 * closed after it.
 */
import { HocuspocusProvider, HocuspocusProviderWebsocket } from "@hocuspocus/provider";
import { type Extension, Server } from "@hocuspocus/server";
import { onTestFinished, vi } from "vitest";
import WebSocket from "ws";
import * as Y from "yjs";

export async function listen(extensions: Extension[], debounce = 10): Promise<Server> {
  // Hocuspocus writes to the console about each hook that rejects.
  const quiet = vi.spyOn(console, "error").mockImplementation(() => undefined);
  onTestFinished(() => quiet.mockRestore());
  const server = new Server({
    quiet: true,
    address: "127.0.0.1",
    port: 0,
    stopOnSignals: false,
    debounce,
    maxDebounce: debounce,
    extensions,
  });
  await server.listen();
  onTestFinished(async () => {
    server.httpServer.closeAllConnections();
    server.httpServer.close();
  });
  return server;
}

export interface TestClient {
  readonly doc: Y.Doc;
  readonly provider: HocuspocusProvider;
  readonly socket: HocuspocusProviderWebsocket;
  /** Payloads of stateless messages, oldest first. */
  readonly told: string[];
  readonly text: string;
  type(text: string): void;
  leave(): void;
}

export function connect(server: Server, name = "notes", doc = new Y.Doc()): TestClient {
  const told: string[] = [];
  const socket = new HocuspocusProviderWebsocket({
    url: `ws://127.0.0.1:${server.address.port}`,
    WebSocketPolyfill: WebSocket,
    delay: 20,
    minDelay: 20,
    factor: 1,
    jitter: false,
  });
  const provider = new HocuspocusProvider({ websocketProvider: socket, name, document: doc, token: "any" });
  provider.on("stateless", ({ payload }: { payload: string }) => told.push(payload));
  provider.attach();
  let here = true;
  const leave = () => {
    if (!here) return;
    here = false;
    provider.destroy();
    socket.destroy();
  };
  onTestFinished(leave);
  const text = doc.getText("body");
  return {
    doc,
    provider,
    socket,
    told,
    leave,
    get text() {
      return text.toString();
    },
    type: (words) => text.insert(text.length, words),
  };
}

/** Resolves when the condition holds. */
export async function until(
  what: string,
  condition: () => unknown | Promise<unknown>,
  msMax = 20_000,
): Promise<void> {
  const started = Date.now();
  while (!(await condition())) {
    if (Date.now() - started > msMax) throw new Error(`waited ${msMax} ms in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
