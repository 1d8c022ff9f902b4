/**
 * The HTTP API as the page uses it: one function for each request, with the types of its answers.
 *
 * Addresses are relative to the page, so that it works behind a proxy as well. A token is kept for the life
 * of the tab and sent with each request; nothing is asked of any other host.
 *
 * Invariant: a failure is an `ApiError` with the code and the sentence of the server, or `UNREACHABLE`.
 */

export interface DocumentFacts {
  readonly id: string;
  readonly model: string;
  readonly clock: number;
  readonly eventsSinceSnapshot: number;
  readonly bytesSinceSnapshot: number;
  readonly logBytes: number;
  readonly snapshotClock: number | null;
  readonly snapshotTime: number | null;
  readonly snapshotBytes: number;
  readonly archiveBytes: number;
  readonly oldestClock: number;
  readonly archivedClock?: number;
  readonly created: number;
  readonly changed: number;
  readonly connections: number;
  /** Of a damaged document, which has nothing but its id beside. */
  readonly error?: { readonly code: string; readonly message: string };
}

export interface DocumentList {
  readonly documents: readonly DocumentFacts[];
  readonly next: string | null;
}

export interface Mark {
  readonly kind: "snapshot" | "tag";
  readonly name?: string;
  readonly clock: number;
  readonly time: number;
  readonly bytes: number;
}

export interface Timeline {
  readonly points: readonly (readonly [time: number, clock: number, bytes: number])[];
  readonly marks: readonly Mark[];
  readonly kept: { readonly batches: number; readonly events: number; readonly bytes: number };
}

export interface Content {
  readonly clock: number;
  readonly model: string;
  readonly parts: readonly { readonly name: string; readonly kind: "text" | "json"; readonly text: string }[];
}

export interface GraphRow {
  readonly lane: number;
  readonly parents: readonly number[];
  readonly replica: string;
  readonly first: number;
  readonly last: number;
  readonly critical: number;
  readonly endsCritical: boolean;
  readonly cut: boolean;
  readonly undos: number;
  readonly time: number;
}

export interface Graph {
  readonly events: number;
  readonly omitted: number;
  readonly rows: readonly GraphRow[];
}

export interface Compacted {
  readonly outcome: string;
  readonly reason?: string;
  readonly clock: number;
  readonly snapshotBytes: number;
  readonly eventsTrimmed: number;
  readonly bytesTrimmed: number;
  readonly durationMs: number;
}

export interface CompactedAll {
  readonly seen: number;
  readonly compacted: number;
  readonly eventsTrimmed: number;
  readonly bytesTrimmed: number;
  readonly failures: readonly unknown[];
  readonly durationMs: number;
}

export interface Histogram {
  readonly bounds: readonly number[];
  readonly counts: readonly number[];
  readonly sum: number;
  readonly count: number;
}

export interface Figures {
  readonly time: number;
  readonly counters: Readonly<Record<string, number>>;
  readonly histograms: Readonly<Record<string, Histogram>>;
  readonly gauges: Readonly<Record<string, number>>;
}

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
  documents: (query: Query, signal: AbortSignal) => get<DocumentList>("api/documents", query, signal),
  document: (id: string, signal: AbortSignal) => get<DocumentFacts>(pathOf(id), {}, signal),
  timeline: (id: string, signal: AbortSignal) => get<Timeline>(`${pathOf(id)}/timeline`, {}, signal),
  content: (id: string, at: number | undefined, signal?: AbortSignal) =>
    get<Content>(`${pathOf(id)}/content`, { at }, signal),
  graph: (id: string, signal: AbortSignal) => get<Graph>(`${pathOf(id)}/graph`, { limit: 300 }, signal),
  figures: (signal: AbortSignal) => get<Figures>("api/figures", {}, signal),
  supervisor: (signal: AbortSignal) =>
    get<{ supervised: boolean; pid: number }>("api/supervisor", {}, signal),
  kill: () => send<unknown>("POST", "api/supervisor/kill"),
  snapshot: (id: string) => send<{ clock: number | null }>("POST", `${pathOf(id)}/snapshots`),
  compact: (id: string, query: Query) => send<Compacted>("POST", `${pathOf(id)}/compact`, query),
  tag: (id: string, name: string, at: number) =>
    send<unknown>("PUT", `${pathOf(id)}/tags/${encodeURIComponent(name)}`, { at }),
  fork: (id: string, to: string, at: number | undefined) =>
    send<{ clock: number }>("POST", `${pathOf(id)}/fork`, { as: to, at }),
  state: async (id: string, at: number | undefined): Promise<Blob> =>
    (await call("GET", `${pathOf(id)}/state`, { at })).blob(),
  compactAll,
};

function pathOf(id: string): string {
  return `api/documents/${encodeURIComponent(id)}`;
}

async function get<T>(path: string, query: Query, signal?: AbortSignal): Promise<T> {
  return (await call("GET", path, query, signal === undefined ? {} : { signal })).json() as Promise<T>;
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
  const { error } = (await response.json().catch(() => ({}))) as {
    error?: { code: string; message: string };
  };
  throw new ApiError(response.status, error?.code ?? "HTTP", error?.message ?? response.statusText);
}

/** Compacts every document, or says what that would do; `onProgress` hears how many are done. */
async function compactAll(
  query: Query,
  onProgress: (documents: number) => void,
  signal: AbortSignal,
): Promise<CompactedAll> {
  const accept = { accept: "text/event-stream" };
  const { body } = await call("POST", "api/compact", query, { headers: accept, signal });
  for await (const { event, data } of serverSentEvents(body!)) {
    const value = JSON.parse(data) as Record<string, unknown>;
    if (event === "progress") onProgress(Number(value.seen ?? value.done ?? 0));
    else if (event === "error") throw new ApiError(500, String(value.code), String(value.message));
    else return value as unknown as CompactedAll;
  }
  throw new ApiError(0, "UNREACHABLE", "the server went away");
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
