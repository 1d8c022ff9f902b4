/**
 * A y-websocket style server: the contract of y-websocket's bin/utils over ws and y-protocols, for tests.
 *
 * Like the original it calls `bindState` when it makes a document and does not wait for it, lets clients in at
 * once, calls `writeState` when the last one has left, and forgets the document before that resolves. It leaves
 * out awareness, pings and HTTP callbacks, which have no part in storing.
 *
 * Beyond the original: `tell` sends a client a message of type 100, JSON, which is how a server may tell
 * clients what is durable.
 */
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import * as decoding from "lib0/decoding";
import * as encoding from "lib0/encoding";
import { type WebSocket, WebSocketServer } from "ws";
import * as syncProtocol from "y-protocols/sync";
import * as Y from "yjs";

/** What `setPersistence` of such a server takes. */
export interface Persistence {
  bindState(name: string, doc: Y.Doc): unknown;
  writeState(name: string, doc: Y.Doc): Promise<unknown>;
}

const MESSAGE_SYNC = 0;
export const MESSAGE_TOLD = 100;

class SharedDoc extends Y.Doc {
  readonly clients = new Set<WebSocket>();
}

export class YWebsocketServer {
  readonly docs = new Map<string, SharedDoc>();
  /** What clients sent that could not be applied. */
  readonly errors: unknown[] = [];
  readonly #persistence: Persistence;
  readonly #server: WebSocketServer;

  static async listen(persistence: Persistence, port = 0): Promise<YWebsocketServer> {
    const server = new WebSocketServer({ port, host: "127.0.0.1" });
    await once(server, "listening");
    return new YWebsocketServer(persistence, server);
  }

  private constructor(persistence: Persistence, server: WebSocketServer) {
    this.#persistence = persistence;
    this.#server = server;
    server.on("connection", (client, request) => this.#connect(client, (request.url ?? "").slice(1)));
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get url(): string {
    return `ws://127.0.0.1:${this.port}`;
  }

  /** Tells all clients of a document something. */
  tell(name: string, value: unknown): void {
    const encoder = encoding.createEncoder();
    encoding.writeVarUint(encoder, MESSAGE_TOLD);
    encoding.writeVarString(encoder, JSON.stringify(value));
    for (const client of this.docs.get(name)?.clients ?? []) client.send(encoding.toUint8Array(encoder));
  }

  async close(): Promise<void> {
    for (const client of this.#server.clients) client.terminate();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #document(name: string): SharedDoc {
    const known = this.docs.get(name);
    if (known !== undefined) return known;
    const doc = new SharedDoc();
    this.docs.set(name, doc);
    doc.on("update", (update: Uint8Array) => {
      const message = sync((encoder) => syncProtocol.writeUpdate(encoder, update));
      for (const client of doc.clients) client.send(message);
    });
    this.#persistence.bindState(name, doc);
    return doc;
  }

  #connect(client: WebSocket, name: string): void {
    client.binaryType = "arraybuffer";
    const doc = this.#document(name);
    doc.clients.add(client);
    client.on("message", (data: ArrayBuffer) => this.#receive(client, doc, new Uint8Array(data)));
    client.on("close", () => this.#disconnect(client, name, doc));
    client.send(sync((encoder) => syncProtocol.writeSyncStep1(encoder, doc)));
  }

  #receive(client: WebSocket, doc: SharedDoc, message: Uint8Array): void {
    try {
      const decoder = decoding.createDecoder(message);
      if (decoding.readVarUint(decoder) !== MESSAGE_SYNC) return;
      const failed = (error: unknown) => this.errors.push(error);
      const reply = sync(
        (encoder) => void syncProtocol.readSyncMessage(decoder, encoder, doc, client, failed),
      );
      if (reply.length > 1) client.send(reply);
    } catch (error) {
      this.errors.push(error);
    }
  }

  #disconnect(client: WebSocket, name: string, doc: SharedDoc): void {
    doc.clients.delete(client);
    if (doc.clients.size > 0 || this.docs.get(name) !== doc) return;
    this.docs.delete(name);
    void this.#persistence.writeState(name, doc).then(() => doc.destroy());
  }
}

function sync(write: (encoder: encoding.Encoder) => void): Uint8Array {
  const encoder = encoding.createEncoder();
  encoding.writeVarUint(encoder, MESSAGE_SYNC);
  write(encoder);
  return encoding.toUint8Array(encoder);
}
