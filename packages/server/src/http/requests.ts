/**
 * Reading requests: who asks, for what, with which parameters. What is not understood is a 400 that says
 * what would be.
 */

import type { DocumentStorage } from "coppice";
import type { Context, MiddlewareHandler } from "hono";
import { routePath } from "hono/route";
import { type Action, type Authorize, accessOf } from "../access.js";
import type { Changes } from "../changes.js";
import type { ServerLimits } from "../limits.js";
import type { ServerMetrics } from "../metrics.js";
import type { LiveDocuments } from "../sync/live-documents.js";
import { HttpFailure } from "./failures.js";
import { queryNamesOf } from "./openapi.js";

export type AppEnv = {
  Bindings: { readonly incoming: import("node:http").IncomingMessage };
};

export type AppContext = Context<AppEnv>;

/** What the routes work on. */
export interface Site {
  readonly storage: DocumentStorage;
  readonly documents: LiveDocuments;
  readonly limits: ServerLimits;
  readonly metrics: ServerMetrics;
  readonly changes: Changes;
  readonly authorize: Authorize | undefined;
  readonly onError: (error: unknown, facts: { readonly document?: string }) => void;
}

/**
 * Lets a request through that may do `action` on its document, or on the whole store, and says nothing that
 * nobody would look at: a misspelt `dryRun` would trim.
 */
export function permit(site: Site, action: Action): MiddlewareHandler<AppEnv> {
  return async (context, next) => {
    await assertAllowed(site, context, documentOf(context), action);
    checkQuery(context);
    return next();
  };
}

/** The document that the path names; `undefined`: the request concerns the whole store. */
export function documentOf(context: AppContext): string | undefined {
  return "id" in context.req.param() ? idOf(context) : undefined;
}

function checkQuery(context: AppContext): void {
  const method = context.req.method === "HEAD" ? "GET" : context.req.method;
  const known = queryNamesOf(method, routePath(context).replace(/:(\w+)/g, "{$1}"));
  for (const [name, values] of Object.entries(context.req.queries())) {
    if (!known.includes(name)) {
      const there = known.length === 0 ? "none" : known.join(", ");
      const message = `there is no parameter ${name.slice(0, 100)} here; there are: ${there}`;
      throw new HttpFailure(400, "ARGUMENT_INVALID", message);
    }
    if (values.length > 1) throw new HttpFailure(400, "ARGUMENT_INVALID", `${name} is given more than once`);
  }
}

export async function assertAllowed(
  site: Site,
  context: AppContext,
  document: string | undefined,
  action: Action,
): Promise<void> {
  if (await isAllowed(site, context, document, action)) return;
  const access = accessOf(context.env.incoming, "http");
  if (access.token === undefined) throw new HttpFailure(401, "UNAUTHENTICATED", "a valid token is needed");
  if (site.authorize?.isKnown?.(access) === false)
    throw new HttpFailure(401, "UNAUTHENTICATED", "this token is not known, or has expired");
  const what = document === undefined ? "the whole store" : JSON.stringify(document.slice(0, 100));
  throw new HttpFailure(403, "FORBIDDEN", `the token lacks the action ${action} for ${what}`);
}

export async function isAllowed(
  { authorize, onError }: Site,
  context: AppContext,
  document: string | undefined,
  action: Action,
): Promise<boolean> {
  if (authorize === undefined) return true;
  try {
    return (await authorize(accessOf(context.env.incoming, "http"), document, action)) === true;
  } catch (error) {
    onError(error, document === undefined ? {} : { document });
    return false;
  }
}

/** The id in the path, percent-decoded once. */
export function idOf(context: AppContext): string {
  const [, encoded] = /^\/api\/documents\/([^/?#]*)/.exec(new URL(context.req.url).pathname) ?? [];
  try {
    return decodeURIComponent(encoded ?? "");
  } catch {
    throw new HttpFailure(400, "ID_INVALID", "the id is not percent-encoded UTF-8");
  }
}

/** The last part of the path, percent-decoded once. */
export function lastOf(context: AppContext): string {
  const { pathname } = new URL(context.req.url);
  try {
    return decodeURIComponent(pathname.slice(pathname.lastIndexOf("/") + 1));
  } catch {
    throw new HttpFailure(400, "ARGUMENT_INVALID", "the path is not percent-encoded UTF-8");
  }
}

export function numberOf(context: AppContext, name: string, least = 0): number | undefined {
  const text = context.req.query(name);
  if (text === undefined) return undefined;
  const value = Number(text);
  if (!/^\d{1,16}$/.test(text) || !Number.isSafeInteger(value) || value < least)
    throw new HttpFailure(400, "ARGUMENT_INVALID", `${name} must be a whole number from ${least}`);
  return value;
}

/** A date of ISO 8601, or ms since 1970. A time of day names its zone: the server's would be no use. */
export function timeOf(context: AppContext, name: string): Date | undefined {
  const text = context.req.query(name);
  if (text === undefined) return undefined;
  const isDate = /^\d{4}-\d\d-\d\d(?:T.*(?:Z|[+-]\d\d:?\d\d))?$/.test(text);
  const date = new Date(isDate ? text : /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN);
  if (!Number.isNaN(date.getTime()) && (!isDate || isDay(text.slice(0, 10)))) return date;
  const message = `${name} must be a date as in 2026-01-31T18:00:00Z, or ms since 1970`;
  throw new HttpFailure(400, "ARGUMENT_INVALID", message);
}

/** Whether the month has that day: to `Date`, the 31st of February is the 3rd of March. */
function isDay(text: string): boolean {
  return new Date(text).toISOString().startsWith(text);
}

export function textOf(context: AppContext, name: string): string | undefined {
  return context.req.query(name);
}

export function flagOf(context: AppContext, name: string): boolean {
  const text = context.req.query(name);
  if (text === undefined || text === "false") return false;
  if (text === "true" || text === "") return true;
  throw new HttpFailure(400, "ARGUMENT_INVALID", `${name} must be true or false`);
}

/** How many entries one answer may have: what was asked for, at most a page. None would say: no more. */
export function pageOf(context: AppContext, { pageEntriesMax }: ServerLimits): number {
  return Math.min(numberOf(context, "limit", 1) ?? 100, pageEntriesMax);
}

/** The body, at most `bodyBytesMax`; 413 as soon as there is more. */
export async function bodyOf(context: AppContext, { bodyBytesMax }: ServerLimits): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of bodyStream(context, bodyBytesMax)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** The body as it comes. Throws a 413 when there is more than `bytesMax`, and a 400 when it breaks off. */
export async function* bodyStream(context: AppContext, bytesMax: number): AsyncGenerator<Uint8Array> {
  const tooLarge = () => new HttpFailure(413, "BODY_TOO_LARGE", `a body has at most ${bytesMax} bytes here`);
  if (Number(context.req.header("content-length") ?? 0) > bytesMax) throw tooLarge();
  let bytes = 0;
  const chunks = (context.req.raw.body ?? []) as unknown as AsyncIterable<Uint8Array>;
  try {
    for await (const chunk of chunks) {
      bytes += chunk.length;
      if (bytes > bytesMax) throw tooLarge();
      yield chunk;
    }
  } catch (error) {
    if (error instanceof HttpFailure) throw error;
    throw new HttpFailure(400, "BODY_INCOMPLETE", "the body ended before its end");
  }
}

/** Of a version that there is not: there is no document, or there was none then. */
export async function notFoundAt({ storage }: Site, id: string, at: unknown): Promise<HttpFailure> {
  if (at === undefined || (await storage.info(id)) === undefined) return notFound(id);
  const message = `the document ${JSON.stringify(id.slice(0, 100))} did not exist then`;
  return new HttpFailure(404, "NOT_FOUND", message);
}

export function notFound(id: string): HttpFailure {
  return new HttpFailure(404, "NOT_FOUND", `there is no document ${JSON.stringify(id.slice(0, 100))}`);
}
