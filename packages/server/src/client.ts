/**
 * For clients, in browsers and in Node: what of the user's edits is durable, through the connection that a
 * y-websocket provider has anyway; and the types of what the HTTP API answers.
 *
 * It only uses what every `WebsocketProvider` of y-websocket 2 and 3 has, and knows nothing of the server but
 * the messages of type 100 (see `sync/protocol.ts`). Without a server that answers them nothing is ever
 * reported as durable.
 *
 * Invariant: an edit is durable here only when the server said so after it had received it; a lost connection
 * makes every edit pending again until the server has answered anew.
 */

export type {
  ActionsAnswer,
  BareDocument,
  BatchAnswer,
  ChangeAnswer,
  CheckAnswer,
  CheckStepAnswer,
  CompactAllAnswer,
  CompactAllStepAnswer,
  CompactAnswer,
  CompactStepAnswer,
  ContentAnswer,
  ContentPart,
  DeleteAnswer,
  DocumentAnswer,
  EraseAnswer,
  EventAnswer,
  EventsAnswer,
  Failed,
  FailedAnswer,
  FiguresAnswer,
  ForkAnswer,
  GraphAnswer,
  GraphRowAnswer,
  HistogramAnswer,
  HistoryAnswer,
  ImportAnswer,
  KillAnswer,
  ListAnswer,
  Mark,
  OpenApiAnswer,
  Point,
  SnapshotAnswer,
  SupervisorAnswer,
  TagAnswer,
  TagsAnswer,
  TimelineAnswer,
  UntagAnswer,
} from "./http/answers.js";

/** What is used of a `WebsocketProvider`. */
export interface ProviderLike {
  readonly doc: {
    on(name: "update", listener: Listener): void;
    off(name: "update", listener: Listener): void;
  };
  readonly ws: { readonly readyState: number; send(bytes: Uint8Array<ArrayBuffer>): void } | null;
  readonly messageHandlers: unknown[];
  readonly synced: boolean;
  on(name: "sync", listener: SyncListener): void;
  on(name: "status", listener: StatusListener): void;
  on(name: "connection-close", listener: CloseListener): void;
  off(name: "sync", listener: SyncListener): void;
  off(name: "status", listener: StatusListener): void;
  off(name: "connection-close", listener: CloseListener): void;
  destroy(): void;
}

type Listener = (update: Uint8Array, origin: unknown) => void;
type SyncListener = (synced: boolean) => void;
type StatusListener = (event: { readonly status: string }) => void;
type CloseListener = (event: { readonly code: number; readonly reason: string } | null) => void;

/** Why `settled` rejects where the server ended the connection for good. */
export class ConnectionRefused extends Error {
  /** The close code of the server, from 4400 to 4499. */
  readonly code: number;

  constructor(code: number, reason: string) {
    super(`the server ended the connection for good: ${code} ${reason}`);
    this.code = code;
  }
}

export interface Durability {
  /** The clock up to which the server has the document durably; `undefined` before it has said. */
  readonly clock: number | undefined;
  /** Edits of this client since the newest one that is known to be durable. */
  readonly pendingCount: number;
  /** Whether the server takes edits now. */
  readonly writable: boolean;
}

interface Waiting {
  readonly mark: number;
  readonly resolve: (clock: number) => void;
  readonly reject: (error: Error) => void;
}

const MESSAGE = 100;
const OPEN = 1;
const RETRY_MS = 250;
/** The first of a hundred close codes that say: trying again will not help. */
const REFUSED = 4400;

export class DurabilityWatch implements Durability {
  readonly #provider: ProviderLike;
  readonly #listeners = new Set<(state: Durability) => void>();
  #waiting: Waiting[] = [];
  #mark = 0;
  #edits = 0;
  /** `[mark, edits]`: when the mark is answered, so many edits are durable. */
  #sent: [mark: number, edits: number][] = [];
  #durableEdits = 0;
  #clock: number | undefined;
  #writable = true;
  #scheduled = false;
  #synced = false;
  #retry: ReturnType<typeof setTimeout> | undefined;
  /** Why nothing will be answered; the provider may try again after a refusal. */
  #over: Error | undefined;
  readonly #unwrap: () => void;

  constructor(provider: ProviderLike) {
    if (typeof provider?.doc?.on !== "function" || !Array.isArray(provider.messageHandlers))
      throw new TypeError("DurabilityWatch wants the WebsocketProvider of y-websocket");
    this.#provider = provider;
    this.#unwrap = beforeDestroy(provider, () => this.#end(new Error("the provider was destroyed")));
    provider.messageHandlers[MESSAGE] = (_encoder: unknown, decoder: { arr: Uint8Array; pos: number }) =>
      this.#receive(decoder);
    provider.doc.on("update", this.#edited);
    provider.on("sync", this.#syncChanged);
    provider.on("status", this.#statusChanged);
    provider.on("connection-close", this.#closed);
    if (provider.synced) this.#syncChanged(true);
  }

  get clock(): number | undefined {
    return this.#clock;
  }

  get pendingCount(): number {
    return this.#edits - this.#durableEdits;
  }

  get writable(): boolean {
    return this.#writable;
  }

  /** Calls back after each change, until the returned function is called. */
  subscribe(listener: (state: Durability) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Resolves, with a durable clock of the document, when all edits before the call are durable; it waits
   * through lost connections. Rejects with a `ConnectionRefused` when the server ends the connection for good
   * (it deleted the document, say), and with another `Error` when it says that this client may not write,
   * when the provider is destroyed, and when the watch is stopped. The document still has the edits then.
   */
  settled(): Promise<number> {
    if (this.#over !== undefined) return Promise.reject(this.#over);
    return new Promise((resolve, reject) => {
      this.#waiting.push({ mark: this.#mark + 1, resolve, reject });
      this.#askSoon();
    });
  }

  stop(): void {
    this.#unwrap();
    this.#provider.doc.off("update", this.#edited);
    this.#provider.off("sync", this.#syncChanged);
    this.#provider.off("status", this.#statusChanged);
    this.#provider.off("connection-close", this.#closed);
    delete this.#provider.messageHandlers[MESSAGE];
    this.#end(new Error("the watch was stopped"));
  }

  #end(why: Error): void {
    clearTimeout(this.#retry);
    this.#over = why;
    for (const { reject } of this.#waiting.splice(0)) reject(why);
  }

  readonly #edited: Listener = (_update, origin) => {
    if (origin === this.#provider) return;
    this.#edits++;
    this.#askSoon();
    this.#tell();
  };

  readonly #closed: CloseListener = (event) => {
    if (event !== null && event.code >= REFUSED && event.code < REFUSED + 100)
      this.#end(new ConnectionRefused(event.code, event.reason));
  };

  /** With another token, or in y-websocket 2 always, it tries again after a refusal. */
  readonly #statusChanged: StatusListener = ({ status }) => {
    if (status === "connecting") this.#over = undefined;
  };

  readonly #syncChanged = (synced: boolean): void => {
    this.#synced = synced;
    this.#sent = [];
    if (!synced) return;
    this.#send([0]);
    // What was sent before the connection broke may be lost: by now the server has been sent all again.
    this.#askSoon();
  };

  #askSoon(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    // After the provider's own listener has sent the edit.
    queueMicrotask(() => {
      this.#scheduled = false;
      if (!this.#synced) return;
      const mark = ++this.#mark;
      this.#sent.push([mark, this.#edits]);
      this.#send([1, ...varint(mark)]);
    });
  }

  #send(body: readonly number[]): void {
    const { ws } = this.#provider;
    if (ws?.readyState === OPEN) ws.send(Uint8Array.from([...varint(MESSAGE), ...body]));
  }

  #receive(decoder: { arr: Uint8Array; pos: number }): void {
    const next = () => readVarint(decoder);
    const what = next();
    if (what === 0) this.#clock = Math.max(this.#clock ?? 0, next());
    else if (what === 1) this.#answered(next(), next());
    else if (what === 2) this.#refused(next(), decoder);
    else if (what === 3) this.#writable = next() === 1;
    this.#tell();
  }

  #answered(mark: number, clock: number): void {
    this.#clock = Math.max(this.#clock ?? 0, clock);
    for (const [sent, edits] of this.#sent)
      if (sent <= mark) this.#durableEdits = Math.max(this.#durableEdits, edits);
    this.#sent = this.#sent.filter(([sent]) => sent > mark);
    const done = this.#waiting.filter((waiting) => waiting.mark <= mark);
    this.#waiting = this.#waiting.filter((waiting) => waiting.mark > mark);
    for (const { resolve } of done) resolve(clock);
  }

  #refused(mark: number, decoder: { arr: Uint8Array; pos: number }): void {
    const length = readVarint(decoder);
    const code = new TextDecoder().decode(decoder.arr.subarray(decoder.pos, decoder.pos + length));
    decoder.pos += length;
    this.#sent = this.#sent.filter(([sent]) => sent !== mark);
    if (code === "FORBIDDEN") {
      for (const { reject } of this.#waiting.splice(0)) reject(new Error("this client may not write"));
      return;
    }
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.#askSoon(), RETRY_MS);
  }

  #tell(): void {
    for (const listener of this.#listeners) listener(this);
  }
}

/** A provider tells nobody that it is destroyed. Returns how to leave it as it was. */
function beforeDestroy(provider: ProviderLike, tell: () => void): () => void {
  const { destroy } = provider;
  const wrapped = () => {
    tell();
    destroy.call(provider);
  };
  provider.destroy = wrapped;
  return () => {
    if (provider.destroy === wrapped) provider.destroy = destroy;
  };
}

function varint(value: number): number[] {
  const bytes: number[] = [];
  let left = value;
  for (; left >= 0x80; left = Math.floor(left / 0x80)) bytes.push((left % 0x80) | 0x80);
  bytes.push(left);
  return bytes;
}

function readVarint(decoder: { arr: Uint8Array; pos: number }): number {
  let value = 0;
  let scale = 1;
  for (;;) {
    const byte = decoder.arr[decoder.pos++];
    if (byte === undefined) throw new RangeError("the message ends too early");
    value += (byte & 0x7f) * scale;
    if (byte < 0x80) return value;
    scale *= 0x80;
  }
}
