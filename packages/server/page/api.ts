/**
 * The HTTP API as the page uses it: one function for each request. The types of the answers are the server's.
 *
 * Addresses are relative to the page, so that it works behind a proxy as well. A token is kept for the life
 * of the tab and sent with each request; nothing is asked of any other host.
 *
 * Invariant: a failure is an `ApiError` with the code and the sentence of the server, or `UNREACHABLE`.
 */

import type {
  ActionsAnswer,
  ChangeAnswer,
  CompactAllAnswer,
  CompactAllStepAnswer,
  CompactAnswer,
  CompactStepAnswer,
  ContentAnswer,
  DocumentAnswer,
  Failed,
  FiguresAnswer,
  ForkAnswer,
  GraphAnswer,
  ImportAnswer,
  ListAnswer,
  SnapshotAnswer,
  SupervisorAnswer,
  TimelineAnswer,
} from "@coppice/server/client";

export class ApiError extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

const TOKEN = "coppice-token";
const SYNC_PROTOCOL: Readonly<Record<string, string>> = { "http:": "ws:", "https:": "wss:" };

export function token(): string | undefined {
  return sessionStorage.getItem(TOKEN) ?? undefined;
}

export function setToken(value: string): void {
  sessionStorage.setItem(TOKEN, value);
}

/** For a `WebsocketProvider`. */
export function syncUrl(): string {
  const url = new URL("sync", document.baseURI);
  url.protocol = SYNC_PROTOCOL[url.protocol] ?? url.protocol;
  url.hash = "";
  return url.href;
}

type Query = Readonly<Record<string, string | number | boolean | undefined>>;

export const api = {
  documents: (query: Query, signal: AbortSignal) => get<ListAnswer>("api/documents", query, signal),
  document: (id: string, signal: AbortSignal) => get<DocumentAnswer>(pathOf(id), {}, signal),
  timeline: (id: string, signal?: AbortSignal) => get<TimelineAnswer>(`${pathOf(id)}/timeline`, {}, signal),
  content: (id: string, at: number | undefined, signal?: AbortSignal) =>
    get<ContentAnswer>(`${pathOf(id)}/content`, { at }, signal),
  graph: (id: string, signal: AbortSignal) => get<GraphAnswer>(`${pathOf(id)}/graph`, { limit: 300 }, signal),
  /** What the token allows, with a document or with the whole store. */
  actions: (id: string | undefined, signal: AbortSignal) =>
    get<ActionsAnswer>(`${id === undefined ? "api" : pathOf(id)}/actions`, {}, signal),
  health: (signal: AbortSignal) => call("GET", "healthz", {}, { signal }),
  figures: (signal: AbortSignal) => get<FiguresAnswer>("api/figures", {}, signal),
  supervisor: (signal: AbortSignal) => get<SupervisorAnswer>("api/supervisor", {}, signal),
  kill: () => send<unknown>("POST", "api/supervisor/kill"),
  snapshot: (id: string) => send<SnapshotAnswer>("POST", `${pathOf(id)}/snapshots`),
  /** What a compaction would do. */
  wouldCompact: (id: string, signal: AbortSignal) =>
    run<CompactAnswer, unknown>(
      `${pathOf(id)}/compact`,
      { force: true, dryRun: true },
      () => undefined,
      signal,
    ),
  compact: (id: string, query: Query, onStep: (step: CompactStepAnswer) => void, signal: AbortSignal) =>
    run<CompactAnswer, CompactStepAnswer>(`${pathOf(id)}/compact`, query, onStep, signal),
  /** Every document; or, dry, what that would do. */
  compactAll: (query: Query, onStep: (step: CompactAllStepAnswer) => void, signal: AbortSignal) =>
    run<CompactAllAnswer, CompactAllStepAnswer>("api/compact", query, onStep, signal),
  tag: (id: string, name: string, at: number) =>
    send<unknown>("PUT", `${pathOf(id)}/tags/${encodeURIComponent(name)}`, { at }),
  fork: (id: string, to: string, at: number | undefined) =>
    send<ForkAnswer>("POST", `${pathOf(id)}/fork`, { as: to, at }),
  state: (id: string, at: number | undefined) => file(`${pathOf(id)}/state`, { at }),
  export: (id: string, at: number | undefined, signal: AbortSignal) =>
    file(`${pathOf(id)}/export`, { at }, signal),
  import: async (id: string, body: Blob, recreate: boolean, signal: AbortSignal) =>
    (
      await call("POST", `${pathOf(id)}/import`, { recreate }, { body, signal })
    ).json() as Promise<ImportAnswer>,
  changes,
};

function pathOf(id: string): string {
  return `api/documents/${encodeURIComponent(id)}`;
}

async function get<T>(path: string, query: Query, signal?: AbortSignal): Promise<T> {
  return (await call("GET", path, query, signal === undefined ? {} : { signal })).json() as Promise<T>;
}

/** Whole: one that breaks off is none. */
async function file(path: string, query: Query, signal?: AbortSignal): Promise<Blob> {
  const response = await call("GET", path, query, signal === undefined ? {} : { signal });
  try {
    return await response.blob();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, "UNREACHABLE", "the server broke off: what has come is not all of it");
  }
}

async function send<T>(method: string, path: string, query: Query = {}): Promise<T> {
  return (await call(method, path, query)).json() as Promise<T>;
}

async function call(method: string, path: string, query: Query, init: RequestInit = {}): Promise<Response> {
  const url = new URL(path, document.baseURI);
  for (const [name, value] of Object.entries(query))
    if (value !== undefined && value !== "") url.searchParams.set(name, String(value));
  const headers = new Headers(init.headers);
  const known = token();
  if (known !== undefined) headers.set("authorization", `Bearer ${known}`);
  let response: Response;
  try {
    response = await fetch(url, { ...init, method, headers });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError(0, "UNREACHABLE", "the server does not answer");
  }
  if (response.ok) return response;
  const { error } = (await response.json().catch(() => ({}))) as { error?: Failed };
  throw new ApiError(response.status, error?.code ?? "HTTP", error?.message ?? response.statusText);
}

/** What takes long: hears of its steps, and resolves with its result. Aborting stops the server too. */
async function run<Result, Step>(
  path: string,
  query: Query,
  onStep: (step: Step) => void,
  signal: AbortSignal,
): Promise<Result> {
  const accept = { accept: "text/event-stream" };
  const { body } = await call("POST", path, query, { headers: accept, signal });
  for await (const { event, data } of serverSentEvents(body!)) {
    const value: unknown = JSON.parse(data);
    if (event === "progress") onStep(value as Step);
    else if (event === "result") return value as Result;
    else throw new ApiError(500, (value as Failed).code, (value as Failed).message);
  }
  throw new ApiError(0, "UNREACHABLE", "the server went away");
}

/** Changes as they happen, and the figures along with them, until the server or the signal ends it. */
async function* changes(signal: AbortSignal): AsyncGenerator<ChangeAnswer> {
  const { body } = await call("GET", "api/changes", { figures: true }, { signal });
  for await (const { event, data } of serverSentEvents(body!))
    if (event === "change") yield JSON.parse(data) as ChangeAnswer;
}

async function* serverSentEvents(
  body: ReadableStream<Uint8Array<ArrayBuffer>>,
): AsyncGenerator<{ event: string; data: string }> {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const messages = (rest + value).split("\n\n");
    rest = messages.pop() ?? "";
    for (const message of messages) {
      const field = (name: string) =>
        message
          .split("\n")
          .filter((line) => line.startsWith(`${name}:`))
          .map((line) => line.slice(name.length + 1).trimStart())
          .join("\n");
      yield { event: field("event"), data: field("data") };
    }
  }
}
