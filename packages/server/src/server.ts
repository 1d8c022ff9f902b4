/**
 * The server: WebSocket sync and the HTTP API over one storage, which stays the caller's.
 *
 * Invariants:
 * - it listens on this machine alone unless told otherwise, and on a public address only with authentication,
 *   or when told in full that anyone may do anything;
 * - `close` loses nothing silently: what was received is saved before the connections end, or named, and what
 *   comes later stays with its client, who sends it again;
 * - an error inside is reported to `onError`, and nothing of it reaches a client but its code.
 */

import { lookup } from "node:dns/promises";
import {
  createServer as createHttpServer,
  type Server as HttpServer,
  type IncomingMessage,
  type ServerResponse,
} from "node:http";
import type { AddressInfo, Socket } from "node:net";
import type { Duplex } from "node:stream";
import { fileURLToPath } from "node:url";
import { getRequestListener } from "@hono/node-server";
import { checkOptions, checkStorage, type DocumentStorage, isCoppiceError, type OptionKinds } from "coppice";
import { type Authorize, checkOrigins, describeRefusal, isLoopback, type Refusal } from "./access.js";
import { Changes } from "./changes.js";
import { answerOutside, makeApp } from "./http/app.js";
import { answerAnyway, offersAnother } from "./http/offers.js";
import type { Supervisor } from "./http/supervisor-routes.js";
import { type ServerLimits, serverLimits } from "./limits.js";
import { type Gauges, ServerMetrics } from "./metrics.js";
import { LiveDocuments } from "./sync/live-documents.js";
import { Upgrades } from "./sync/upgrades.js";

export interface ServerOptions {
  /** Its first model must be `yjs()`. It is not closed by the server: close it after the server. */
  readonly storage: DocumentStorage;
  /** Default `"127.0.0.1"`. */
  readonly host?: string;
  /** Default 8787; 0: any that is free. */
  readonly port?: number;
  /** Who may do what; absent: everybody who reaches the address may do everything. */
  readonly authorize?: Authorize;
  /** Needed to listen on an address of other machines without `authorize`. */
  readonly allowAnyoneToReadAndChangeEverything?: boolean;
  /** Origins of pages, beside the server's own, that may connect, as in `https://notes.example`. */
  readonly origins?: readonly string[];
  /** The one whose `observer` the storage was opened with. */
  readonly metrics?: ServerMetrics;
  readonly limits?: Partial<ServerLimits>;
  /** Asked before a failed store is reopened (is there space again?); default: always tried. */
  readonly mayRecover?: () => boolean | Promise<boolean>;
  /** Bytes of the files of the store, for the metrics; asked for whenever somebody looks at them. */
  readonly storeBytes?: () => Promise<number>;
  /** Lets administrators on this machine kill the process; only for one that is started again then. */
  readonly supervisor?: Supervisor;
  /** A folder of files that are served under `/`; default: the inspector page, where it was built. */
  readonly pageDirectory?: string;
  /** Told of internal errors, which are counted as well; default: each is a warning of the process. */
  readonly onError?: (error: unknown, facts: { readonly document?: string }) => void;
  /** Told once when edits begin to be refused, of which `onError` heard why, and once when it is over. */
  readonly onWritable?: (isWritable: boolean) => void;
  /**
   * Told of each page, host and address that is refused, which its client hardly is; `describeRefusal`
   * says it in words. Strangers may have it called often. Default: the first of each reason is a warning of
   * the process.
   */
  readonly onRefused?: (refusal: Refusal) => void;
}

const OPTIONS: OptionKinds<ServerOptions> = {
  storage: "any",
  host: "text",
  port: "number",
  authorize: "function",
  allowAnyoneToReadAndChangeEverything: "flag",
  origins: "any",
  metrics: "any",
  limits: "any",
  mayRecover: "function",
  storeBytes: "function",
  supervisor: "any",
  pageDirectory: "text",
  onError: "function",
  onWritable: "function",
  onRefused: "function",
};

export const DEFAULT_PORT = 8787;
const TICK_MS = 1_000;
const IDLE_MS = 20;
const PAGE_DIRECTORY = fileURLToPath(new URL("./page", import.meta.url));

/**
 * Makes a server and listens. Rejects with a `TypeError` for an unsafe address, an unknown option, or what
 * is no origin, or as the system refuses.
 */
export async function serve(options: ServerOptions): Promise<CoppiceServer> {
  const server = createServer(options);
  try {
    await server.listen();
  } catch (error) {
    await server.close();
    throw error;
  }
  return server;
}

/** A server that does not listen yet: call `listen`, or hand requests to `fetch` and `upgrade`. */
export function createServer(options: ServerOptions): CoppiceServer {
  return new CoppiceServer(options);
}

export class CoppiceServer {
  /** Answers an HTTP request; for mounting into a server of your own. */
  readonly fetch: (
    request: Request,
    env: { readonly incoming: IncomingMessage },
  ) => Response | Promise<Response>;
  readonly metrics: ServerMetrics;
  readonly #options: ServerOptions;
  readonly #limits: ServerLimits;
  readonly #documents: LiveDocuments;
  readonly #upgrades: Upgrades;
  readonly #changes: Changes;
  readonly #stopHearing: () => void;
  readonly #timer: NodeJS.Timeout;
  /** Connections that have asked for nothing yet. */
  readonly #silent = new Set<Duplex>();
  /** The newest answer of each connection that has one under way. */
  readonly #answers = new Map<Duplex, ServerResponse>();
  #http: HttpServer | undefined;
  #closing: Promise<void> | undefined;

  constructor(options: ServerOptions) {
    // Without types: an `authorise` that nobody looks at would leave everything open.
    checkOptions("a server", options, OPTIONS);
    checkStorage("a server", options.storage);
    if (isCoppiceError(refusalOfCalls(options.storage), "CLOSED"))
      throw new TypeError(
        "a server wants an open storage, and this one is closed: close it after the server",
      );
    checkValues(options);
    const { storage, authorize, origins = [], mayRecover, pageDirectory = PAGE_DIRECTORY } = options;
    const { onError: tell = warn, onWritable = () => undefined, onRefused = warnOfEach() } = options;
    this.#options = options;
    this.#limits = serverLimits(options.limits);
    this.metrics = options.metrics ?? new ServerMetrics();
    const { metrics } = this;
    const onError = (error: unknown, facts: { readonly document?: string }) => {
      metrics.count("errors");
      tell(error, facts);
    };
    this.#documents = new LiveDocuments({ storage, limits: this.#limits, mayRecover, onError, onWritable });
    const shared = {
      ...{ documents: this.#documents, limits: this.#limits, metrics },
      ...{ authorize, origins, onError, onRefused },
    };
    const gauges = async () => ({ ...this.gauges(), storeBytes: await this.#storeBytes(onError) });
    this.#changes = new Changes({
      limits: this.#limits,
      metrics: options.metrics,
      figures: async () => metrics.figures(await gauges()),
      onError,
    });
    // Also of a write by a route, a background snapshot or a compaction that another process asked for.
    this.#stopHearing = metrics.listen((fact) => {
      if (fact.kind !== "commit" || fact.error === undefined) return;
      // A snapshot for which there is no room says nothing of an edit.
      if (!isCoppiceError(fact.error, "STORE_FULL")) this.#documents.gate.report(fact.error);
    });
    this.#upgrades = new Upgrades({ ...shared, onConnections: (id) => this.#changes.note(id) });
    const app = makeApp({
      ...shared,
      storage,
      changes: this.#changes,
      pageDirectory,
      gauges,
      supervisor: options.supervisor,
      ready: () => this.#closing === undefined && this.#isWritable,
    });
    this.fetch = (request, env) => app.fetch(request, env);
    const { idleMs, loadMs, helloMs, slowMs } = this.#limits;
    this.#timer = setInterval(() => this.#tick(), Math.min(TICK_MS, idleMs, loadMs, helloMs, slowMs));
    this.#timer.unref();
  }

  /** Figures of this moment. */
  gauges(): Gauges {
    return {
      ...this.#documents.figures,
      connections: this.#upgrades.connectionCount,
      writable: this.#isWritable,
    };
  }

  /** A storage that its owner has closed, or is reopening, tells nobody: it is asked. */
  get #isWritable(): boolean {
    return this.#documents.gate.open && refusalOfCalls(this.#options.storage) === undefined;
  }

  /** Where it listens, like `http://127.0.0.1:8787`. Throws before `listen` has resolved. */
  get url(): string {
    const address = this.#address;
    const host = address.family === "IPv6" ? `[${address.address}]` : address.address;
    return `http://${host}:${address.port}`;
  }

  get port(): number {
    return this.#address.port;
  }

  get #address(): AddressInfo {
    const address = this.#http?.address() as AddressInfo | null | undefined;
    if (!address) throw new TypeError("the server does not listen");
    return address;
  }

  /** Resolves when it listens. */
  async listen(): Promise<void> {
    const { host = "127.0.0.1", port = DEFAULT_PORT } = this.#options;
    const { address } = await lookup(host);
    this.#assertSafe(host, address);
    const { headersMs, requestMs, connectionsMax } = this.#limits;
    const http = createHttpServer(
      {
        headersTimeout: headersMs,
        requestTimeout: requestMs,
        connectionsCheckingInterval: Math.min(1_000, headersMs),
        maxHeaderSize: 16 * 1024,
        keepAliveTimeout: 5_000,
      },
      getRequestListener((request, env) => this.fetch(request, env as { incoming: IncomingMessage }), {
        overrideGlobalObjects: false,
        errorHandler: answerOutside,
      }),
    );
    http.maxConnections = connectionsMax + 256;
    http.on("connection", (socket) => {
      this.#silent.add(socket);
      socket.once("close", () => {
        this.#silent.delete(socket);
        this.#answers.delete(socket);
      });
    });
    http.on("request", ({ socket }, answer) => {
      this.#silent.delete(socket);
      this.#answers.set(socket, answer);
      answer.once("close", () => {
        if (this.#answers.get(socket) === answer) this.#answers.delete(socket);
      });
    });
    http.on("upgrade", (incoming, socket, head) => {
      this.#silent.delete(socket);
      if (!offersAnother(incoming)) this.upgrade(incoming, socket, head);
      else answerAnyway(http, incoming, socket as Socket, head, this.#answers.get(socket));
    });
    await new Promise<void>((resolve, reject) => {
      http.once("error", reject);
      http.listen({ host: address, port }, () => {
        http.off("error", reject);
        resolve();
      });
    });
    this.#http = http;
  }

  /** Takes over the socket of an upgrade request. */
  upgrade(incoming: IncomingMessage, socket: Duplex, head: Buffer): void {
    this.#upgrades.handle(incoming, socket, head);
  }

  /**
   * Saves what was received, says goodbye to the clients, and frees the port. The storage stays open. Where
   * something cannot be saved (the disk is full, and one more recovery did not help), all of this is done as
   * well; then it rejects with the code of the failure and names the documents in `details.ids`: only clients
   * that have it still may send it again.
   */
  close(): Promise<void> {
    this.#closing ??= this.#end();
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #end(): Promise<void> {
    clearInterval(this.#timer);
    const http = this.#http;
    const freed =
      http === undefined ? undefined : new Promise<void>((resolve) => http.close(() => resolve()));
    this.#changes.close();
    this.#stopHearing();
    await this.#documents.flush();
    await this.#upgrades.close("shutdown");
    const lost = await this.#documents.close();
    // Browsers and others connect ahead of their requests; Node does not count that as idle.
    for (const socket of this.#silent) socket.destroy();
    // An answer that ends only now leaves its connection idle a little later.
    const idle = setInterval(() => http?.closeIdleConnections(), IDLE_MS);
    const cut = setTimeout(() => {
      http?.closeAllConnections();
      // Node does not know of those that wait behind one.
      for (const socket of this.#answers.keys()) socket.destroy();
    }, this.#limits.shutdownMs);
    await freed;
    clearInterval(idle);
    clearTimeout(cut);
    if (this.#options.metrics === undefined) this.metrics.close();
    if (lost !== undefined) throw lost;
  }

  #assertSafe(host: string, address: string): void {
    if (isLoopback(address) || this.#options.authorize !== undefined) return;
    if (this.#options.allowAnyoneToReadAndChangeEverything === true) return;
    throw new TypeError(
      `refusing to listen on ${host}, which other machines can reach, without authentication: ` +
        "give authorize, or set allowAnyoneToReadAndChangeEverything",
    );
  }

  /** A count that fails leaves the other figures. */
  async #storeBytes(onError: (error: unknown, facts: object) => void): Promise<number | undefined> {
    try {
      return await this.#options.storeBytes?.();
    } catch (error) {
      onError(error, {});
      return undefined;
    }
  }

  #tick(): void {
    const now = performance.now();
    this.#upgrades.tick(now);
    this.#documents.sweep(now);
  }
}

/** What would let others in, or fail at the first request. */
function checkValues({ origins, metrics }: ServerOptions): void {
  if (origins !== undefined) checkOrigins(origins);
  if (metrics !== undefined && typeof metrics?.listen !== "function")
    throw new TypeError("metrics must be new ServerMetrics()");
}

/** With what the storage refuses each call now: it is closed, or being reopened. */
function refusalOfCalls(storage: DocumentStorage): unknown {
  try {
    void storage.stored;
    return undefined;
  } catch (error) {
    return error;
  }
}

/** Where nobody asked to be told: people see it, and nothing ends. */
function warn(error: unknown, { document }: { readonly document?: string }): void {
  const where = document === undefined ? "" : ` with the document ${JSON.stringify(document)}`;
  process.emitWarning(`the server had an error${where}, and no onError: ${String(error)}`, "CoppiceWarning");
}

/** Nobody asked to be told: a page that does not connect is puzzling, and strangers fill no log. */
function warnOfEach(): (refusal: Refusal) => void {
  const told = new Set<Refusal["reason"]>();
  return (refusal) => {
    if (told.has(refusal.reason)) return;
    told.add(refusal.reason);
    process.emitWarning(
      `${describeRefusal(refusal)} (the first; onRefused is told of all)`,
      "CoppiceWarning",
    );
  };
}
