/**
 * The HTTP side: health, metrics, the API over the storage, and the page.
 *
 * Invariants: a request of another site is refused before it is looked at; each route names the action that
 * it needs; an error is answered with its code, and never with a stack.
 */

import { RequestError } from "@hono/node-server";
import { Hono } from "hono";
import { type Refusal, refusalOf } from "../access.js";
import type { Gauges } from "../metrics.js";
import { addActionRoutes } from "./action-routes.js";
import { addChangeRoutes } from "./change-routes.js";
import { addDocumentRoutes } from "./document-routes.js";
import { answerOf, HttpFailure } from "./failures.js";
import { methodsOf, openApi } from "./openapi.js";
import { addPage } from "./page.js";
import type { AppContext, AppEnv, Site } from "./requests.js";
import { addStoreRoutes } from "./store-routes.js";
import { addSupervisorRoutes, type Supervisor } from "./supervisor-routes.js";
import { addTransferRoutes } from "./transfer-routes.js";
import { addViewRoutes } from "./view-routes.js";

export interface AppOptions extends Site {
  readonly origins: readonly string[];
  readonly pageDirectory: string | undefined;
  readonly gauges: () => Promise<Gauges>;
  readonly supervisor: Supervisor | undefined;
  readonly ready: () => boolean;
  readonly onRefused: (refusal: Refusal) => void;
}

const HEADERS: Readonly<Record<string, string>> = {
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  "X-Frame-Options": "DENY",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Content-Security-Policy":
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
    "connect-src 'self' ws: wss:; frame-ancestors 'none'; base-uri 'none'",
};

const REFUSED: Readonly<Record<Refusal["reason"], string>> = {
  origin: "requests of other sites are refused",
  host: "without authentication, requests must name this machine in Host",
  path: "documents are synced at /sync/<id>",
};
/** In the path, written out or percent-encoded. */
const DOT_SEGMENT = /^[^?#]*\/(?:\.|%2e){1,2}(?:[/?#]|$)/i;

export function makeApp(options: AppOptions): Hono<AppEnv> {
  const app = new Hono<AppEnv>();
  app.use(async (context, next) => {
    await next();
    for (const [name, value] of Object.entries(HEADERS)) context.res.headers.set(name, value);
    if (!context.res.headers.has("Cache-Control")) context.res.headers.set("Cache-Control", "no-store");
  });
  app.use(async (context, next) => {
    const { origins, authorize, onRefused } = options;
    const refusal = refusalOf(context.env.incoming.headers, origins, authorize === undefined);
    if (refusal !== undefined) {
      onRefused(refusal);
      throw new HttpFailure(403, "ORIGIN_REFUSED", REFUSED[refusal.reason]);
    }
    // It would be resolved, and mean another address: that of all documents in place of one.
    if (DOT_SEGMENT.test(context.env.incoming.url ?? ""))
      throw new HttpFailure(400, "ID_INVALID", "no part of an address may be . or ..");
    await next();
  });
  app.get("/healthz", (context) => context.text("ok\n"));
  app.get("/readyz", (context) =>
    options.ready() ? context.text("ready\n") : context.text("the storage takes no writes\n", 503),
  );
  app.get("/api/openapi.json", (context) => context.json(openApi()));
  addActionRoutes(app, options);
  addDocumentRoutes(app, options);
  addTransferRoutes(app, options);
  addViewRoutes(app, options);
  addStoreRoutes(app, options, options.gauges);
  addChangeRoutes(app, options);
  addSupervisorRoutes(app, options, options.supervisor);
  addPage(app, options.pageDirectory);
  app.notFound((context) => failed(context, nothingThere(context), options));
  app.onError((error, context) => failed(context, error, options));
  return app;
}

/** Answers what reaches no route, as a request whose address is none, with its `Host`. */
export function answerOutside(error: unknown): Response {
  const unreadable = new HttpFailure(
    400,
    "ARGUMENT_INVALID",
    "the address or the Host of the request cannot be read",
  );
  const { status, body } = answerOf(error instanceof RequestError ? unreadable : error);
  return Response.json(body, { status, headers: { ...HEADERS, "Cache-Control": "no-store" } });
}

function nothingThere(context: AppContext): HttpFailure {
  const methods = methodsOf(new URL(context.req.url).pathname);
  if (methods.length === 0) {
    const isDeep = context.req.path.startsWith("/api/documents/");
    const hint = isDeep ? "; within an id, / is written %2F" : "";
    return new HttpFailure(404, "NOT_FOUND", `there is no such address${hint}`);
  }
  context.header("Allow", methods.join(", "));
  return new HttpFailure(405, "METHOD_UNKNOWN", `this address takes ${methods.join(", ")}`);
}

function failed(context: AppContext, error: unknown, { onError, metrics }: AppOptions): Response {
  const { status, body, isInternal } = answerOf(error);
  const { signal } = context.req.raw;
  // Who goes away ends its own request with this.
  const isGone = signal.aborted && error === signal.reason;
  if (isInternal && !isGone) onError(error, {});
  if (status === 401 || status === 403 || status === 413)
    metrics.count("connections_refused", 1, `status="${status}"`);
  if (status === 401) context.header("WWW-Authenticate", "Bearer");
  if (status === 503) context.header("Retry-After", "1");
  return context.json(body, status);
}
