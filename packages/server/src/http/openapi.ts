/**
 * The OpenAPI document of the HTTP API. A test holds it against the routes that there are. It is also what
 * requests are held against: their query, and the methods of a path.
 *
 * It is written by hand, because what a reader wants to know of an operation is its sentence, and not its
 * types.
 */

type Schema = Readonly<Record<string, unknown>>;

const count = { type: "integer", minimum: 0 };
const text = { type: "string" };
const flag = { type: "boolean" };

const PARAMETERS = {
  prefix: ["only ids that begin with it", text],
  after: ["only ids after this one: `next` of the page before", text],
  limit: ["at most so many; a page has at most 1,000", count],
  info: ["with clocks, sizes and times of each", flag],
  from: ["from this clock on", count],
  to: ["below this clock", count],
  at: ["at this clock: after so many events", count],
  tag: ["as it was when it was given this name", text],
  time: ["as it was at this time: a date as in 2026-01-31T18:00:00Z, or ms since 1970", text],
  recreate: ["begin anew when the id was deleted", flag],
  force: ["also when nothing is new", flag],
  dryRun: ["change nothing, say what would be done", flag],
  reclaim: ["also rewrite the files of the store without what was trimmed or deleted", flag],
  figures: ["with the metrics, about once a second", flag],
  points: ["about so many points: 300 by default", count],
  as: ["the id of the new document", text],
  minEvents: ["only documents with so many events since their snapshot", count],
  idleMs: ["only documents that did not change for so long", count],
  concurrency: ["documents at a time", count],
  budgetMs: ["begin no further document after so long", count],
} as const satisfies Record<string, readonly [string, Schema]>;

type ParameterName = keyof typeof PARAMETERS;

interface Operation {
  readonly says: string;
  readonly action: "none" | "read" | "write" | "admin";
  readonly query?: readonly ParameterName[];
  readonly body?: string;
  readonly answers?: "json" | "bytes" | "text" | "events" | "changes";
}

const DOCUMENT = "/api/documents/{id}";

/** Method and path to what it does. */
const OPERATIONS: Readonly<Record<string, Operation>> = {
  "GET /healthz": { says: "The process answers.", action: "none", answers: "text" },
  "GET /readyz": { says: "200 when edits are taken, else 503.", action: "none", answers: "text" },
  "GET /metrics": { says: "Metrics, as Prometheus reads them.", action: "read", answers: "text" },
  "GET /api/openapi.json": { says: "This document.", action: "none" },
  "GET /api/figures": { says: "The metrics as JSON.", action: "read" },
  "GET /api/changes": {
    says: "Tells which documents have changed, as it happens, at most four times a second.",
    action: "read",
    query: ["figures"],
    answers: "changes",
  },
  "GET /api/supervisor": {
    says: "Whether a supervisor starts this process again when it dies; its process id.",
    action: "read",
  },
  "POST /api/supervisor/kill": {
    says: "Kills this process, as `kill -9` does. Only from this machine, and where a supervisor is.",
    action: "admin",
  },
  "GET /api/documents": {
    says: "Documents in the order of their ids. `next` is the `after` of the next page, or null.",
    action: "read",
    query: ["prefix", "after", "limit", "info"],
  },
  "POST /api/compact": {
    says: "Compacts every document that is due. 409 while another such run is under way.",
    action: "admin",
    query: ["prefix", "minEvents", "idleMs", "concurrency", "budgetMs", "force", "dryRun", "reclaim"],
    answers: "events",
  },
  "POST /api/check": {
    says: "Verifies every stored document, and changes nothing.",
    action: "admin",
    answers: "events",
  },
  "GET /api/actions": { says: "What this client may do with the whole store.", action: "read" },
  [`GET ${DOCUMENT}/actions`]: { says: "What this client may do with the document.", action: "read" },
  [`GET ${DOCUMENT}`]: { says: "Clocks, sizes and times of a document.", action: "read" },
  [`PUT ${DOCUMENT}`]: {
    says: "Creates the document unless it exists.",
    action: "write",
    query: ["recreate"],
  },
  [`DELETE ${DOCUMENT}`]: {
    says: "Deletes the document, and disconnects its clients.",
    action: "admin",
  },
  [`GET ${DOCUMENT}/history`]: {
    says: "Batches and snapshots, oldest first. `next` is the `from` of the next page, or null.",
    action: "read",
    query: ["from", "limit"],
  },
  [`GET ${DOCUMENT}/events`]: {
    says: "Stored events, in base64; null for one whose bytes were lost. 410 when they were trimmed.",
    action: "read",
    query: ["from", "to", "limit"],
  },
  [`GET ${DOCUMENT}/state`]: {
    says: "The whole document as one Yjs update, also as it was in the past.",
    action: "read",
    query: ["at", "tag", "time"],
    answers: "bytes",
  },
  [`GET ${DOCUMENT}/content`]: {
    says: "What the document holds, as text or JSON to look at, also as it was in the past.",
    action: "read",
    query: ["at", "tag", "time"],
  },
  [`GET ${DOCUMENT}/timeline`]: {
    says: "How it grew: points of time, clock and bytes, snapshots and tags, and what is kept.",
    action: "read",
    query: ["points"],
  },
  [`GET ${DOCUMENT}/graph`]: {
    says: "The event graph as rows of a drawing, the newest `limit`; 422 where events tell nothing of it.",
    action: "read",
    query: ["limit"],
  },
  [`POST ${DOCUMENT}/diff`]: {
    says: "What a peer with this state vector lacks, as one Yjs update.",
    action: "read",
    body: "a state vector of Yjs",
    answers: "bytes",
  },
  [`GET ${DOCUMENT}/tags`]: { says: "Named versions, by clock.", action: "read" },
  [`PUT ${DOCUMENT}/tags/{name}`]: {
    says: "Names the present version, or the one at a clock. 409 when the name is taken.",
    action: "write",
    query: ["at"],
  },
  [`DELETE ${DOCUMENT}/tags/{name}`]: { says: "Forgets a named version.", action: "admin" },
  [`POST ${DOCUMENT}/erase`]: {
    says: "Removes the document so that no file holds its bytes, unless `reclaim=false`.",
    action: "admin",
    query: ["reclaim"],
  },
  [`POST ${DOCUMENT}/fork`]: {
    says: "Copies the document, as it is or was, to a new id, which the caller must be allowed to write.",
    action: "read",
    query: ["as", "at", "tag", "time", "recreate"],
  },
  [`POST ${DOCUMENT}/snapshots`]: { says: "Takes a snapshot now; trims nothing.", action: "admin" },
  [`POST ${DOCUMENT}/compact`]: {
    says: "Takes a snapshot and trims what it covers.",
    action: "admin",
    query: ["force", "dryRun", "reclaim"],
    answers: "events",
  },
  [`POST ${DOCUMENT}/check`]: { says: "Verifies the stored document, and changes nothing.", action: "admin" },
};

const CONTENT: Record<NonNullable<Operation["answers"]>, Schema> = {
  json: { "application/json": { schema: { type: "object" } } },
  bytes: { "application/octet-stream": { schema: { type: "string", format: "binary" } } },
  text: { "text/plain": { schema: text } },
  changes: { "text/event-stream": { schema: { ...text, description: "events `change`" } } },
  events: {
    "application/json": { schema: { type: "object" } },
    "text/event-stream": {
      schema: { ...text, description: "events `progress`, then one `result` or `error`" },
    },
  },
};

const ERROR = {
  description: "The request failed: a stable code, and a sentence.",
  content: { "application/json": { schema: { $ref: "#/components/schemas/Error" } } },
};

/** The names that the query of a request to this route may have. */
export function queryNamesOf(method: string, route: string): readonly string[] {
  return OPERATIONS[`${method} ${route}`]?.query ?? [];
}

/** The methods that an address has; none: there is no such address. */
export function methodsOf(pathname: string): readonly string[] {
  const found: string[] = [];
  for (const key of Object.keys(OPERATIONS)) {
    const [method = "", route = ""] = key.split(" ");
    if (new RegExp(`^${route.replace(/\{\w+\}/g, "[^/]+")}$`).test(pathname)) found.push(method);
  }
  return found.includes("GET") ? [...found, "HEAD"] : found;
}

export function openApi(): Schema {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const [key, operation] of Object.entries(OPERATIONS)) {
    const [method = "", path = ""] = key.split(" ");
    paths[path] ??= {};
    paths[path][method.toLowerCase()] = describe(path, operation);
  }
  return {
    openapi: "3.1.0",
    info: {
      title: "Coppice server",
      version: "0.1.0",
      description: "Over HTTP an id is percent-encoded in the path; the ids `.` and `..` cannot be named.",
    },
    paths,
    components: {
      securitySchemes: { token: { type: "http", scheme: "bearer" } },
      schemas: {
        Error: {
          type: "object",
          required: ["error"],
          properties: {
            error: {
              type: "object",
              required: ["code", "kind", "message"],
              properties: { code: text, kind: text, message: text },
            },
          },
        },
      },
    },
  };
}

function describe(path: string, operation: Operation): Schema {
  const { says, action, query = [], body, answers = "json" } = operation;
  const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => {
    return { name, in: "path", required: true, schema: text };
  });
  const parameters = query.map((name) => {
    const [description, schema] = PARAMETERS[name];
    return { name, in: "query", description, schema };
  });
  const content = { "application/octet-stream": { schema: { type: "string", format: "binary" } } };
  return {
    summary: says,
    ...(action === "none" ? { security: [] } : { security: [{ token: [] }], "x-action": action }),
    parameters: [...inPath, ...parameters],
    ...(body === undefined ? {} : { requestBody: { description: body, required: true, content } }),
    responses: { "200": { description: says, content: CONTENT[answers] }, default: ERROR },
  };
}
