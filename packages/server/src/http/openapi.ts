/**
 * The OpenAPI document of the HTTP API. A test holds it against the routes that there are. It is also what
 * requests are held against: their query, and the methods of a path.
 *
 * Sentences are written by hand, here; what the answers look like is in `schemas.ts`.
 */

import type { OpenApiAnswer } from "./answers.js";
import { ANSWERS, type AnswerName, answer, count, flag, type Schema, text } from "./schemas.js";

const PARAMETERS = {
  prefix: ["only ids that begin with it", text],
  after: ["only ids after this one: `next` of the page before", text],
  limit: ["at most so many; a page has at most 1,000", { ...count, minimum: 1 }],
  usage: ["with what it takes in the store: some reads more", flag],
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
  /** JSON of this name, or what is none. */
  readonly answers: AnswerName | "bytes" | "text" | "changes";
  /** What takes long tells these as server-sent events to those who accept them. */
  readonly steps?: AnswerName;
}

const DOCUMENT = "/api/documents/{id}";

/** Method and path to what it does. */
const OPERATIONS: Readonly<Record<string, Operation>> = {
  "GET /healthz": { says: "The process answers.", action: "none", answers: "text" },
  "GET /readyz": { says: "200 when edits are taken, else 503.", action: "none", answers: "text" },
  "GET /metrics": { says: "Metrics, as Prometheus reads them.", action: "read", answers: "text" },
  "GET /api/openapi.json": { says: "This document.", action: "none", answers: "OpenApiAnswer" },
  "GET /api/figures": { says: "The metrics as JSON.", action: "read", answers: "FiguresAnswer" },
  "GET /api/changes": {
    says: "Tells which documents have changed, as it happens, at most four times a second.",
    action: "read",
    query: ["figures"],
    answers: "changes",
  },
  "GET /api/supervisor": {
    says: "Whether a supervisor starts this process again when it dies; its process id.",
    action: "read",
    answers: "SupervisorAnswer",
  },
  "POST /api/supervisor/kill": {
    says: "Kills this process, as `kill -9` does. Only from this machine, and where a supervisor is.",
    action: "admin",
    answers: "KillAnswer",
  },
  "GET /api/documents": {
    says: "Documents in the order of their ids. `next` is the `after` of the next page, or null.",
    action: "read",
    query: ["prefix", "after", "limit", "info"],
    answers: "ListAnswer",
  },
  "POST /api/compact": {
    says: "Compacts every document that is due. 409 while another such run is under way.",
    action: "admin",
    query: ["prefix", "minEvents", "idleMs", "concurrency", "budgetMs", "force", "dryRun", "reclaim"],
    answers: "CompactAllAnswer",
    steps: "CompactAllStepAnswer",
  },
  "POST /api/check": {
    says: "Verifies every stored document, and changes nothing.",
    action: "admin",
    answers: "CheckAnswer",
    steps: "CheckStepAnswer",
  },
  "GET /api/actions": {
    says: "What this client may do with the whole store.",
    action: "read",
    answers: "ActionsAnswer",
  },
  [`GET ${DOCUMENT}/actions`]: {
    says: "What this client may do with the document.",
    action: "read",
    answers: "ActionsAnswer",
  },
  [`GET ${DOCUMENT}`]: {
    says: "Clocks, sizes and times of a document.",
    action: "read",
    query: ["usage"],
    answers: "DocumentAnswer",
  },
  [`PUT ${DOCUMENT}`]: {
    says: "Creates the document unless it exists.",
    action: "write",
    query: ["recreate"],
    answers: "DocumentAnswer",
  },
  [`DELETE ${DOCUMENT}`]: {
    says: "Deletes the document, and disconnects its clients.",
    action: "admin",
    answers: "DeleteAnswer",
  },
  [`GET ${DOCUMENT}/history`]: {
    says:
      "Batches and snapshots, oldest first; what has one clock, or is in one batch, is on one page, also " +
      "over `limit`. `next` is the `from` of the next page, or null.",
    action: "read",
    query: ["from", "limit"],
    answers: "HistoryAnswer",
  },
  [`GET ${DOCUMENT}/events`]: {
    says: "Stored events, in base64; null for one whose bytes were lost. 410 when they were trimmed.",
    action: "read",
    query: ["from", "to", "limit"],
    answers: "EventsAnswer",
  },
  [`GET ${DOCUMENT}/state`]: {
    says:
      "The whole document, in the form of its model: for `Y.applyUpdate`, for `Automerge.loadIncremental`, " +
      "a snapshot for Loro's `import`. Of Yjs also as it was in the past. 422 for models without a diff.",
    action: "read",
    query: ["at", "tag", "time"],
    answers: "bytes",
  },
  [`GET ${DOCUMENT}/export`]: {
    says: "The document with its history, also up to a past version, as a file that checks itself.",
    action: "read",
    query: ["at", "tag", "time"],
    answers: "bytes",
  },
  [`POST ${DOCUMENT}/import`]: {
    says: "Makes the document out of an export, whole or not at all. 409 when there is another one.",
    action: "write",
    query: ["recreate"],
    body: "an export",
    answers: "ImportAnswer",
  },
  [`GET ${DOCUMENT}/content`]: {
    says: "What the document holds, as text or JSON to look at, also as it was in the past.",
    action: "read",
    query: ["at", "tag", "time"],
    answers: "ContentAnswer",
  },
  [`GET ${DOCUMENT}/timeline`]: {
    says: "How it grew: points of time, clock and bytes, snapshots and tags, and what is kept.",
    action: "read",
    query: ["points"],
    answers: "TimelineAnswer",
  },
  [`GET ${DOCUMENT}/graph`]: {
    says: "The event graph as rows of a drawing, the newest `limit`; 422 where events tell nothing of it.",
    action: "read",
    query: ["limit"],
    answers: "GraphAnswer",
  },
  [`POST ${DOCUMENT}/diff`]: {
    says: "What a peer of this version lacks, in the form of the document's model: of Yjs one update.",
    action: "read",
    body: "a version of the document's model: of Yjs a state vector",
    answers: "bytes",
  },
  [`GET ${DOCUMENT}/tags`]: { says: "Named versions, by clock.", action: "read", answers: "TagsAnswer" },
  [`PUT ${DOCUMENT}/tags/{name}`]: {
    says: "Names the present version, or the one at a clock. 409 when the name is taken.",
    action: "write",
    query: ["at"],
    answers: "TagAnswer",
  },
  [`DELETE ${DOCUMENT}/tags/{name}`]: {
    says: "Forgets a named version.",
    action: "admin",
    answers: "UntagAnswer",
  },
  [`POST ${DOCUMENT}/erase`]: {
    says: "Removes the document so that no file holds its bytes, unless `reclaim=false`.",
    action: "admin",
    query: ["reclaim"],
    answers: "EraseAnswer",
  },
  [`POST ${DOCUMENT}/fork`]: {
    says: "Copies the document, as it is or was, to a new id, which the caller must be allowed to write.",
    action: "read",
    query: ["as", "at", "tag", "time", "recreate"],
    answers: "ForkAnswer",
  },
  [`POST ${DOCUMENT}/snapshots`]: {
    says: "Takes a snapshot now; trims nothing.",
    action: "admin",
    answers: "SnapshotAnswer",
  },
  [`POST ${DOCUMENT}/compact`]: {
    says: "Takes a snapshot and trims what it covers.",
    action: "admin",
    query: ["force", "dryRun", "reclaim"],
    answers: "CompactAnswer",
    steps: "CompactStepAnswer",
  },
  [`POST ${DOCUMENT}/check`]: {
    says: "Verifies the stored document, and changes nothing.",
    action: "admin",
    answers: "CheckAnswer",
  },
};

const CONTENT: Readonly<Record<Exclude<Operation["answers"], AnswerName>, Schema>> = {
  bytes: { "application/octet-stream": { schema: { type: "string", format: "binary" } } },
  text: { "text/plain": { schema: text } },
  changes: stream("events `change`, each a ChangeAnswer"),
};

const ERROR = {
  description: "The request failed: a stable code, its kind, and a sentence.",
  content: { "application/json": { schema: answer("FailedAnswer") } },
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

export function openApi(): OpenApiAnswer {
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
      schemas: ANSWERS,
    },
  };
}

function describe(path: string, operation: Operation): Schema {
  const { says, action, query = [], body } = operation;
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
    responses: { "200": { description: says, content: contentOf(operation) }, default: ERROR },
  };
}

function contentOf({ answers, steps }: Operation): Schema {
  if (answers === "bytes" || answers === "text" || answers === "changes") return CONTENT[answers];
  const json = { "application/json": { schema: answer(answers) } };
  if (steps === undefined) return json;
  const last = `then one \`result\`, a ${answers}, or \`error\`, a Failed`;
  return { ...json, ...stream(`events \`progress\`, each a ${steps}, ${last}`) };
}

function stream(description: string): Schema {
  return { "text/event-stream": { schema: { ...text, description } } };
}
