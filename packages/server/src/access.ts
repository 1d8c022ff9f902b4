/**
 * Who may do what, and from where: bearer tokens, and the checks against pages of other sites.
 *
 * It decides; it answers no request. Tokens are compared by their SHA-256 in constant time, and are never
 * written anywhere.
 *
 * Invariants: what is not allowed is refused, a check that throws included; a request of a browser for
 * another site (`Origin`, `Sec-Fetch-Site`) is refused before anything else is looked at; without
 * authentication a request must name this machine in `Host`, so that no domain that was pointed at it can be
 * used.
 */

import { createHash, timingSafeEqual } from "node:crypto";
import type { IncomingHttpHeaders, IncomingMessage } from "node:http";
import { isIP } from "node:net";
import { checkOptions, type OptionKinds } from "coppice";

/** `read`: see; `write`: also edit and create; `admin`: also compact, delete, check. */
export type Action = "read" | "write" | "admin";

/** What is known of a request when it is authorized. */
export interface AccessRequest {
  /** The bearer token: of the `Authorization` header, or of `?token=` for a WebSocket. */
  readonly token: string | undefined;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  /** Of the other end of the socket; behind a proxy, the proxy's. */
  readonly address: string;
  readonly kind: "http" | "websocket";
}

/** `document` is `undefined` for what concerns the whole store: lists, metrics, compaction of all. */
export interface Authorize {
  (request: AccessRequest, document: string | undefined, action: Action): boolean | Promise<boolean>;
  /** Whether the token is one of somebody, who may do something; `false` lets a refusal ask for another. */
  readonly isKnown?: (request: AccessRequest) => boolean;
}

export interface TokenGrant {
  /** The token itself, or its SHA-256 in hexadecimal. */
  readonly token?: string;
  readonly sha256?: string;
  readonly action: Action;
  /** Ids, or beginnings that end with `*`, at least one; absent: every document, and the whole store. */
  readonly documents?: readonly string[];
  /** Wall time in ms since 1970 from which on it is refused. */
  readonly expires?: number;
}

const RANK: Record<Action, number> = { read: 0, write: 1, admin: 2 };
const TOKEN_CHARACTERS_MIN = 16;
const REFUSED_CHARACTERS_MAX = 200;
/** Documents are synced under it. */
export const SYNC_PATH = "/sync/";
/** In 1973; what is less was meant in seconds. */
const EXPIRES_MIN = 100_000_000_000;
const GRANT: OptionKinds<TokenGrant> = {
  token: "text",
  sha256: "text",
  action: "text",
  documents: "any",
  expires: "number",
};

interface KnownGrant {
  readonly digest: Buffer;
  readonly action: Action;
  readonly documents: readonly string[] | undefined;
  readonly expires: number | undefined;
}

/**
 * An `authorize` for fixed tokens. Throws a `TypeError` for no grants at all, and for a grant that could
 * never be used, is too weak, or says what nobody would look at.
 */
export function bearerTokens(grants: readonly TokenGrant[]): Authorize {
  if (!Array.isArray(grants)) throw new TypeError("bearerTokens wants a list of grants");
  if (grants.length === 0) throw new TypeError("there is no grant: nobody could do anything");
  const known = grants.map((grant, index) => {
    try {
      return knownGrant(grant);
    } catch (error) {
      const which = grants.length === 1 ? "" : `grant ${index + 1} of ${grants.length}: `;
      throw new TypeError(`${which}${(error as Error).message}`);
    }
  });
  const grantsOf = ({ token }: AccessRequest): KnownGrant[] => {
    if (token === undefined) return [];
    const digest = digestOf(token);
    return known.filter((grant) => {
      const same = timingSafeEqual(digest, grant.digest);
      return same && (grant.expires === undefined || Date.now() < grant.expires);
    });
  };
  const authorize: Authorize = (request, document, action) =>
    grantsOf(request).some(
      (grant) => RANK[grant.action] >= RANK[action] && isGranted(grant.documents, document),
    );
  return Object.assign(authorize, { isKnown: (request: AccessRequest) => grantsOf(request).length > 0 });
}

function knownGrant(grant: TokenGrant): KnownGrant {
  if (typeof grant !== "object" || grant === null) throw new TypeError("a grant must be an object");
  // What nobody looks at would leave the whole store open, for ever.
  checkOptions("a grant", grant, GRANT);
  const { token, sha256, action, documents, expires } = grant;
  if ((token === undefined) === (sha256 === undefined))
    throw new TypeError("a grant needs token or sha256, one of them");
  if (token !== undefined && (typeof token !== "string" || token.length < TOKEN_CHARACTERS_MIN))
    throw new TypeError(`a token needs at least ${TOKEN_CHARACTERS_MIN} characters`);
  if (sha256 !== undefined && !/^[0-9a-f]{64}$/i.test(sha256))
    throw new TypeError("sha256 must be 64 hexadecimal digits");
  if (!Object.hasOwn(RANK, action))
    throw new TypeError(`an action is read, write or admin, not ${String(action)}`);
  if (documents !== undefined) checkDocuments(documents);
  if (expires !== undefined && !(Number.isFinite(expires) && expires >= EXPIRES_MIN))
    throw new TypeError(`expires must be a time in ms since 1970, not ${String(expires)}`);
  const digest = token === undefined ? Buffer.from(sha256!, "hex") : digestOf(token);
  return { digest, action, documents, expires };
}

function checkDocuments(documents: readonly string[]): void {
  if (!Array.isArray(documents) || documents.length === 0)
    throw new TypeError('documents must be a list of ids, as in ["notes", "team/*"]');
  for (const id of documents as readonly unknown[]) {
    if (typeof id !== "string" || id === "") throw new TypeError("documents must be a list of ids");
    if (id.slice(0, -1).includes("*"))
      throw new TypeError(`${JSON.stringify(id)} has a * that is not its end, where it says "and so on"`);
  }
}

function isGranted(documents: readonly string[] | undefined, document: string | undefined): boolean {
  if (documents === undefined) return true;
  if (document === undefined) return false;
  return documents.some((granted) =>
    granted.endsWith("*") ? document.startsWith(granted.slice(0, -1)) : granted === document,
  );
}

function digestOf(token: string): Buffer {
  return createHash("sha256").update(token).digest();
}

/**
 * Throws a `TypeError` for what no browser would ever send as `Origin`. A string in place of the list would
 * allow every site whose origin is a part of it.
 */
export function checkOrigins(origins: readonly string[]): void {
  if (!Array.isArray(origins))
    throw new TypeError('origins must be a list of origins, as in ["https://notes.example"]');
  for (const origin of origins as readonly unknown[]) {
    if (typeof origin === "string" && originOf(origin) === origin && !origin.includes("*")) continue;
    throw new TypeError(`${JSON.stringify(origin)} is no origin${rightOrigin(origin)}`);
  }
}

/** The spelling of browsers; for the schemes of apps, as in `capacitor://localhost`, Node knows none. */
function originOf(text: string): string | undefined {
  if (!URL.canParse(text)) return undefined;
  const { origin, protocol, host } = new URL(text);
  if (origin !== "null") return origin;
  return text.startsWith(`${protocol}//`) ? `${protocol}//${host}` : undefined;
}

function rightOrigin(origin: unknown): string {
  if (typeof origin !== "string") return "";
  if (origin.includes("*")) return ": name each site, a * stands for nothing";
  const right = originOf(origin);
  if (right !== undefined) return `; write ${JSON.stringify(right)}`;
  const guess = originOf(`https://${origin}`);
  return guess === undefined ? "" : `: its scheme is missing; write ${JSON.stringify(guess)}`;
}

/** What was refused before anything else was looked at, as the client sent it. */
export interface Refusal {
  /**
   * `origin`: a page that is not the server's own, and whose origin `origins` does not name. `host`: a name
   * that is not this machine's, without `authorize`. `path`: a WebSocket where no document is.
   */
  readonly reason: "origin" | "host" | "path";
  readonly value: string;
}

/** Whether a request may come from where it does. `isOpen`: nobody is asked who they are. */
export function refusalOf(
  headers: IncomingHttpHeaders,
  allowed: readonly string[],
  isOpen: boolean,
): Refusal | undefined {
  // Who embeds a picture of ours names no origin.
  if (!isOriginAllowed(headers, allowed)) return { reason: "origin", value: headers.origin ?? "" };
  if (isOpen && !isHostLocal(headers.host, allowed)) return { reason: "host", value: headers.host ?? "" };
  return undefined;
}

/** For whom a refusal is a riddle: the client is told a status at most, and a browser hides that. */
export function describeRefusal({ reason, value }: Refusal): string {
  const shown = JSON.stringify(value.slice(0, REFUSED_CHARACTERS_MAX));
  if (reason === "path") return `a WebSocket was refused at ${shown}: documents are at ${SYNC_PATH}<id>`;
  if (reason === "host")
    return `a request for the host ${shown} was refused: without authentication it must name this machine`;
  if (value === "") return "a page of another site was refused";
  if (value === "null")
    return "a page without an origin was refused, as one that is opened from a file: serve it over HTTP";
  return `a page of ${shown} was refused: its origin is not among those that may connect`;
}

/** Whether a browser may be trusted to have sent the request from a page of ours. */
function isOriginAllowed(headers: IncomingHttpHeaders, allowed: readonly string[]): boolean {
  const { origin, host } = headers;
  // Only browsers send it, and they always do for WebSockets and for requests that change something.
  if (origin === undefined) return !isEmbedded(headers);
  if (allowed.includes(origin)) return true;
  try {
    return host !== undefined && new URL(origin).host === new URL(`http://${host}`).host;
  } catch {
    return false;
  }
}

/**
 * A picture, a script, a frame or a request without CORS of a page elsewhere: that page may not read the
 * answer, and making it would cost the server all the same. Following a link is something else.
 */
function isEmbedded(headers: IncomingHttpHeaders): boolean {
  const from = headers["sec-fetch-site"];
  if (from !== "cross-site" && from !== "same-site") return false;
  return headers["sec-fetch-mode"] !== "navigate" || headers["sec-fetch-dest"] !== "document";
}

/** Whether `Host` names this machine: by an address, as localhost, or as one of the allowed origins. */
function isHostLocal(host: string | undefined, allowed: readonly string[]): boolean {
  let name: string;
  try {
    name = new URL(`http://${host}`).hostname;
  } catch {
    return false;
  }
  if (isIP(name.replace(/^\[|\]$/g, "")) > 0 || name === "localhost" || name.endsWith(".localhost"))
    return true;
  return allowed.some((origin) => URL.canParse(origin) && new URL(origin).hostname === name);
}

/** `127.0.0.0/8` and `::1`. */
export function isLoopback(address: string): boolean {
  return /^127\.\d+\.\d+\.\d+$/.test(address) || address === "::1" || address === "::ffff:127.0.0.1";
}

export function accessOf(incoming: IncomingMessage, kind: AccessRequest["kind"]): AccessRequest {
  const [, bearer] = /^Bearer +([^\s]+) *$/i.exec(incoming.headers.authorization ?? "") ?? [];
  const query = kind === "websocket" ? tokenInQuery(incoming.url ?? "") : undefined;
  return {
    token: bearer ?? query,
    headers: incoming.headers,
    address: incoming.socket.remoteAddress ?? "",
    kind,
  };
}

function tokenInQuery(url: string): string | undefined {
  const [, query] = url.split("?", 2);
  return (query === undefined ? undefined : new URLSearchParams(query).get("token")) || undefined;
}
