/**
 * The HTTP side: health, metrics, and the API over the storage.
 *
 * Invariants: a request of another site is refused before it is looked at; each route names the action that
 * it needs; an error is answered with its code, and never with a stack.
 */

import type { IncomingMessage } from "node:http";
import type { DocumentStorage } from "coppice";
import { Hono } from "hono";
import { type Authorize, isHostLocal, isOriginAllowed } from "../access.js";
import type { ServerLimits } from "../limits.js";
import type { Gauges, ServerMetrics } from "../metrics.js";
import type { LiveDocuments } from "../sync/live-documents.js";

export interface AppOptions {
  readonly storage: DocumentStorage;
  readonly documents: LiveDocuments;
  readonly limits: ServerLimits;
  readonly metrics: ServerMetrics;
  readonly authorize: Authorize | undefined;
  readonly origins: readonly string[];
  readonly pageDirectory: string | undefined;
  readonly gauges: () => Gauges;
  readonly ready: () => boolean;
  readonly onError: (error: unknown, facts: { readonly document?: string }) => void;
}

export type AppEnv = { Bindings: { readonly incoming: IncomingMessage } };

export function makeApp(options: AppOptions): Hono<AppEnv> {
  const app = new Hono<AppEnv>();
  app.use(async (context, next) => {
    const { origin, host } = context.env.incoming.headers;
    if (!isOriginAllowed(origin, host, options.origins)) return context.text("Forbidden", 403);
    if (options.authorize === undefined && !isHostLocal(host, options.origins))
      return context.text("Forbidden", 403);
    return next();
  });
  app.get("/healthz", (context) => context.text("ok"));
  app.get("/readyz", (context) =>
    options.ready() ? context.text("ready") : context.text("the storage takes no writes", 503),
  );
  return app;
}
