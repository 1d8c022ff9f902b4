/**
 * From an HTTP upgrade to a connection: the checks before a WebSocket is accepted, and those before it is
 * answered.
 *
 * The path is `/sync/<id>`. The id is everything behind, percent-decoded; it never names a file. A request
 * from another site, for no valid id, or over a limit gets an HTTP status. One without permission is
 * accepted and closed with 4401 or 4403 before anything is read or loaded: that is how a y-websocket client
 * learns that trying again will not help.
 */

import { type IncomingMessage, STATUS_CODES } from "node:http";
import type { Duplex } from "node:stream";
import { checkId, isCoppiceError } from "coppice";
import { WebSocketServer } from "ws";
import {
  type AccessRequest,
  type Authorize,
  accessOf,
  type Refusal,
  refusalOf,
  SYNC_PATH,
} from "../access.js";
import type { ServerLimits } from "../limits.js";
import type { ServerMetrics } from "../metrics.js";
import { Connection, type ConnectionHost } from "./connection.js";
import { Corks } from "./corks.js";
import { EditRefused } from "./live-document.js";
import type { LiveDocuments } from "./live-documents.js";
import type { CloseReason } from "./protocol.js";

export interface UpgradeOptions {
  readonly documents: LiveDocuments;
  readonly limits: ServerLimits;
  readonly metrics: ServerMetrics;
  readonly authorize: Authorize | undefined;
  readonly origins: readonly string[];
  /** Told whenever somebody came to a document or left it. */
  readonly onConnections: (id: string) => void;
  readonly onRefused: (refusal: Refusal) => void;
  readonly onError: (error: unknown, facts: { readonly document?: string }) => void;
}

export class Upgrades {
  readonly #options: UpgradeOptions;
  readonly #sockets: WebSocketServer;
  readonly #connections = new Set<Connection>();
  readonly #addresses = new Map<string, number>();
  readonly #corks = new Corks();
  #pending = 0;
  #closed = false;
  #reauthorized = performance.now();

  constructor(options: UpgradeOptions) {
    this.#options = options;
    this.#sockets = new WebSocketServer({
      noServer: true,
      clientTracking: false,
      perMessageDeflate: false,
      maxPayload: options.limits.messageBytesMax,
    });
  }

  get connectionCount(): number {
    return this.#connections.size;
  }

  /** Takes over the socket of an upgrade request, whatever becomes of it. */
  handle(incoming: IncomingMessage, socket: Duplex, head: Buffer): void {
    socket.on("error", () => socket.destroy());
    const id = idOf(incoming.url ?? "");
    const status = this.#refusal(incoming, id);
    if (status !== undefined || id === undefined) {
      this.#options.metrics.count("connections_refused", 1, `status="${status ?? 404}"`);
      refuse(socket, status ?? 404);
      return;
    }
    const address = incoming.socket.remoteAddress ?? "";
    this.#pending++;
    this.#addresses.set(address, (this.#addresses.get(address) ?? 0) + 1);
    let accepted = false;
    socket.once("close", () => {
      if (!accepted) this.#pending--;
      this.#leaveAddress(address);
    });
    this.#sockets.handleUpgrade(incoming, socket, head, (webSocket) => {
      accepted = true;
      this.#pending--;
      const access = accessOf(incoming, "websocket");
      const connection = new Connection(webSocket, socket, this.#connectionHost(id), {
        id,
        address,
        authorize: (action) => this.#isAllowed(access, id, action),
      });
      this.#connections.add(connection);
      this.#options.metrics.count("connections_opened");
      this.#start(connection, access).catch((error: unknown) => {
        this.#options.onError(error, { document: id });
        connection.close("internal");
      });
    });
  }

  tick(now: number): void {
    for (const connection of this.#connections) connection.tick(now);
    if (now - this.#reauthorized < this.#options.limits.reauthorizeMs) return;
    this.#reauthorized = now;
    for (const connection of this.#connections) {
      this.#permit(connection).catch((error: unknown) =>
        this.#options.onError(error, { document: connection.id }),
      );
    }
  }

  /** No further connections; those that are open are closed. Resolves when all are gone. */
  async close(reason: CloseReason): Promise<void> {
    this.#closed = true;
    for (const connection of this.#connections) connection.close(reason);
    const deadline = performance.now() + this.#options.limits.shutdownMs;
    while (this.#connections.size > 0) {
      if (performance.now() > deadline) for (const connection of this.#connections) connection.terminate();
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  #refusal(incoming: IncomingMessage, id: string | undefined): number | undefined {
    const { limits, origins, authorize, onRefused } = this.#options;
    const refusal = refusalOf(incoming.headers, origins, authorize === undefined);
    if (refusal !== undefined) {
      onRefused(refusal);
      return 403;
    }
    if (id === undefined) {
      const [value = ""] = (incoming.url ?? "").split("?", 1);
      onRefused({ reason: "path", value });
      return 404;
    }
    if (!isValidId(id)) return 400;
    if (this.#closed || this.#connections.size + this.#pending >= limits.connectionsMax) return 503;
    const fromThere = this.#addresses.get(incoming.socket.remoteAddress ?? "") ?? 0;
    return fromThere >= limits.connectionsPerAddressMax ? 429 : undefined;
  }

  async #start(connection: Connection, access: AccessRequest): Promise<void> {
    const { documents, limits, authorize } = this.#options;
    const isKnown = access.token !== undefined && authorize?.isKnown?.(access) !== false;
    if (!(await this.#permit(connection, isKnown ? "forbidden" : "unauthenticated"))) return;
    try {
      let document = await documents.open(connection.id);
      // Another load may have taken its place in memory before anybody had joined it.
      while (document.ended) document = await documents.open(connection.id);
      if (document.connections.size >= limits.connectionsPerDocumentMax) connection.close("unavailable");
      else connection.join(document);
      this.#options.onConnections(connection.id);
    } catch (error) {
      connection.close(this.#loadFailure(error, connection.id));
    }
  }

  #loadFailure(error: unknown, id: string): CloseReason {
    if (error instanceof EditRefused) return error.reason;
    if (!isCoppiceError(error)) {
      this.#options.onError(error, { document: id });
      return "internal";
    }
    if (error.kind === "corrupt") this.#options.onError(error, { document: id });
    const reasons: Partial<Record<typeof error.kind, CloseReason>> = {
      corrupt: "damaged",
      unsupported: "unsupported",
    };
    return reasons[error.kind] ?? "unavailable";
  }

  /** Asks what the client may do. Closes the connection, and returns false, when it may not even read. */
  async #permit(connection: Connection, otherwise: CloseReason = "forbidden"): Promise<boolean> {
    const [read, write] = await Promise.all([connection.authorize("read"), connection.authorize("write")]);
    connection.permit(read && write);
    if (!read) connection.close(otherwise);
    return read;
  }

  async #isAllowed(access: AccessRequest, id: string, action: "read" | "write"): Promise<boolean> {
    const { authorize, onError } = this.#options;
    if (authorize === undefined) return true;
    try {
      return (await authorize(access, id, action)) === true;
    } catch (error) {
      onError(error, { document: id });
      return false;
    }
  }

  #connectionHost(id: string): ConnectionHost {
    const { documents, limits, metrics, onConnections, onError } = this.#options;
    return {
      limits,
      gate: documents.gate,
      corks: this.#corks,
      get congested() {
        return documents.congested;
      },
      closing: (reason) => metrics.count("connections_closed", 1, `reason="${reason}"`),
      failed: (error) => onError(error, { document: id }),
      left: (connection) => {
        this.#connections.delete(connection);
        onConnections(id);
      },
    };
  }

  #leaveAddress(address: string): void {
    const left = (this.#addresses.get(address) ?? 1) - 1;
    if (left > 0) this.#addresses.set(address, left);
    else this.#addresses.delete(address);
  }
}

/** `undefined`: the path is none of ours. Taken as it was sent: nothing in it is resolved. */
function idOf(url: string): string | undefined {
  const [path = ""] = url.split("?", 1);
  if (!path.startsWith(SYNC_PATH)) return undefined;
  try {
    return decodeURIComponent(path.slice(SYNC_PATH.length));
  } catch {
    return "";
  }
}

function isValidId(id: string): boolean {
  try {
    checkId(id);
    return true;
  } catch {
    return false;
  }
}

function refuse(socket: Duplex, status: number): void {
  const text = STATUS_CODES[status] ?? "";
  const headers = [
    `HTTP/1.1 ${status} ${text}`,
    "Connection: close",
    "Content-Type: text/plain; charset=utf-8",
    `Content-Length: ${text.length}`,
  ];
  socket.end(`${headers.join("\r\n")}\r\n\r\n${text}`, () => socket.destroy());
}
