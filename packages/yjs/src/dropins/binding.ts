/**
 * Keeps a live Y.Doc durable that somebody else owns: the document of a y-websocket or Hocuspocus server.
 *
 * Invariants:
 * - capture begins before the load, so nothing that arrives meanwhile is missed: not even what Yjs keeps
 *   aside because it builds on content that is not loaded yet;
 * - nothing is appended before the load has succeeded, and nothing at all when it failed;
 * - a load waits until earlier bindings of the same id have written what they captured;
 * - one append is in flight; it is repeated until it is durable, or can never be. An update whose outcome was
 *   unknown may be stored twice, which Yjs applies once;
 * - a storage that closes waits for what was captured, and names the document when that cannot be stored;
 * - nothing rejects that nobody waits for: failures go to `onError`, and are never silent.
 */

import { type Attachment, checkOptions, checkStorage, isCoppiceError, type OptionKinds } from "coppice";
import * as Y from "yjs";
import { unstored } from "../pending.js";
import { scanUpdate } from "../scanner.js";
import { StoredOrigin, trackDoc } from "../tracker.js";
import { loadInto, MODEL, type YjsStorage } from "./loading.js";
import { recover, recoveryCount, verdictOn } from "./recovery.js";

/** What failed, and whether it is tried again. */
export interface BindingFailure {
  readonly id: string;
  /** `listener`: one of the Y.Doc threw while it was loaded; nothing is missing. */
  readonly during: "load" | "append" | "listener";
  /**
   * Milliseconds until the next try; `undefined`: it is not tried again, and what it was about is not stored.
   */
  readonly retryMs: number | undefined;
}

/** How far a document is durable. */
export interface Durability {
  readonly id: string;
  /** Events of the log that are durable. */
  readonly clock: number;
  /** Updates that the live document has and that are not durable yet. 0: what it shows is stored. */
  readonly pending: number;
  /**
   * Only of the Yjs clients in the newest events, those that just became durable: all their structs below
   * this clock are durable. Keep the greatest value of each.
   */
  readonly clients: ReadonlyMap<number, number>;
}

export interface BindingOptions {
  /**
   * Told of each failure, also of those that are tried again. Must not throw. Without it the first of those
   * that follow each other, and what is not tried again, is a warning of the process.
   */
  readonly onError?: (error: unknown, failure: BindingFailure) => void;
  /** Told when events have become durable. Must not throw. */
  readonly onDurable?: (durability: Durability) => void;
  /** Milliseconds before a failed call is repeated: at first, doubling, and at most. Default 50 and 5,000. */
  readonly retryMsMin?: number;
  readonly retryMsMax?: number;
  /** Append nothing before `resume()`; what was captured is dropped when the document is destroyed before. */
  readonly paused?: boolean;
  /**
   * `false`: whoever still has a document that was deleted or erased does not bring it back: `loaded` rejects
   * with `DELETED`. Default: what changes the Y.Doc begins it anew.
   */
  readonly recreate?: boolean;
}

const OPTIONS: OptionKinds<BindingOptions> = {
  onError: "function",
  onDurable: "function",
  retryMsMin: "number",
  retryMsMax: "number",
  paused: "flag",
  recreate: "flag",
};

interface Captured {
  readonly event: Uint8Array;
  readonly clients: [client: number, clock: number][];
  /** So many captured events are settled with it: those after it that were stored already, too. */
  count: number;
}

interface Waiter {
  /** Captured events that must be settled. */
  readonly upTo: number;
  /** It does not wait for another try. */
  readonly once: boolean;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** Bytes of updates in one append, unless a single one is larger. */
const APPEND_BYTES = 4 * 1024 * 1024;
const APPEND_EVENTS = 4096;
const RETRY_MS_MIN = 50;

/** The newest binding of each id: the next one loads after it. */
const newest = new WeakMap<YjsStorage, Map<string, DocBinding>>();

/**
 * Binds a Y.Doc to a document of the storage: loads what is stored into it, and appends whatever changes it
 * from now on. `loaded` says how loading went; only what is no storage, no id, no Y.Doc or no option throws,
 * a `TypeError`. Content that the Y.Doc has already is stored as well, if it is new.
 */
export function bindDoc(
  storage: YjsStorage,
  id: string,
  doc: Y.Doc,
  options: BindingOptions = {},
): DocBinding {
  checkOptions("bindDoc", options, OPTIONS);
  checkStorage("bindDoc", storage, MODEL);
  if (typeof id !== "string" || id === "")
    throw new TypeError("bindDoc wants the id of a document: a string that is not empty");
  return new DocBinding(storage, id, doc, options);
}

/** A `Saver`, which its declaration does not say: what that needs is of no use to others, and left out. */
export class DocBinding {
  readonly id: string;
  readonly doc: Y.Doc;
  /**
   * Resolves when the stored content is in the Y.Doc. Rejects when it cannot be loaded; then nothing is ever
   * stored through this binding. Loads that fail for a while are repeated. Need not be awaited.
   */
  readonly loaded: Promise<void>;
  readonly #storage: YjsStorage;
  readonly #options: BindingOptions;
  readonly #origin = new StoredOrigin();
  readonly #tracker: ReturnType<typeof trackDoc>;
  readonly #attachment: Attachment;
  #queue: Captured[] = [];
  #captured = 0;
  #settled = 0;
  #clock = 0;
  #exists = false;
  /** Of the document as it was last seen: one that begins anew under its id is another. */
  #token: string | undefined;
  #ready = false;
  #paused: boolean;
  #pumping = false;
  #stopped = false;
  /** Why nothing, or not everything, can be stored. */
  #failure: { readonly error: unknown; readonly final: boolean } | undefined;
  #waiters: Waiter[] = [];
  /** The load waits for it. */
  #before: DocBinding | undefined;
  /** Ends the pause before the next try. */
  #hurry: () => void = () => undefined;

  /** @internal Use `bindDoc`. */
  constructor(storage: YjsStorage, id: string, doc: Y.Doc, options: BindingOptions) {
    if (typeof doc?.on !== "function") throw new TypeError("bindDoc wants a Y.Doc");
    this.id = id;
    this.doc = doc;
    this.#storage = storage;
    this.#options = options;
    this.#paused = options.paused ?? false;
    const prior = contentOf(doc);
    this.#tracker = trackDoc(doc, this.#origin);
    if (prior !== undefined) this.#enqueue(prior);
    this.#tracker.onEvent?.(() => this.#capture());
    doc.on("destroy", () => this.stop());
    this.#attachment = storage.attach(this);
    this.#before = this.#follow();
    this.loaded = this.#load();
    this.loaded.catch(() => undefined);
  }

  /** Events of the log that are known to be durable. */
  get clock(): number {
    return this.#clock;
  }

  /** Captured updates that are not durable yet. */
  get pending(): number {
    return this.#captured - this.#settled;
  }

  /** Why some or all of what was captured can never be stored; `undefined` while all goes well. */
  get failure(): unknown {
    return this.#failure?.error;
  }

  /**
   * Resolves when all that was captured before the call is durable. Rejects when some of it can never be, and
   * then not before the rest is: bytes that storage refuses, a document that was deleted meanwhile, a failed
   * load, a closed storage.
   */
  flush(): Promise<void> {
    return this.#flush(false);
  }

  /** @internal */
  get mustSave(): boolean {
    const isAlive = !this.#paused && this.#failure?.final !== true;
    return isAlive && (this.pending > 0 || this.#tracker.pending(this.doc));
  }

  /** As `flush`, but rejects when the next try fails. @internal */
  finish(): Promise<void> {
    const finished = this.#flush(true);
    this.#hurry();
    const before = this.#before;
    before?.finish().catch((error: unknown) => {
      if (!before.#isWritten) this.#giveUp(error);
    });
    return finished;
  }

  #flush(once: boolean): Promise<void> {
    // What the tracker gets a microtask later, since a listener threw, was made before the call all the same.
    return this.#tracker.pending(this.doc)
      ? Promise.resolve().then(() => this.#flushCaptured(once))
      : this.#flushCaptured(once);
  }

  #flushCaptured(once: boolean): Promise<void> {
    if (this.#failure?.final || (this.#ready && this.pending === 0)) {
      return this.#failure === undefined ? Promise.resolve() : Promise.reject(this.#failure.error);
    }
    return new Promise((resolve, reject) => {
      this.#waiters.push({ upTo: this.#captured, once, resolve, reject });
    });
  }

  /** Starts to append, where `paused` was set. */
  resume(): void {
    this.#paused = false;
    this.#wake();
  }

  /** Captures nothing more; called when the Y.Doc is destroyed. What was captured is still written. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#tracker.stop();
    if (this.#paused) this.#discard();
    this.#forgetWhenDone();
  }

  /** Nothing that it captured is on its way, or will be. */
  get #isWritten(): boolean {
    return this.#paused || this.#failure?.final === true || (this.#ready && this.pending === 0);
  }

  async #written(): Promise<void> {
    while (!this.#isWritten) await this.flush().catch(() => undefined);
  }

  /** Registers this binding, and returns the one that the load must wait for. */
  #follow(): DocBinding | undefined {
    const bindings = newest.get(this.#storage) ?? new Map<string, DocBinding>();
    newest.set(this.#storage, bindings);
    const before = bindings.get(this.id);
    bindings.set(this.id, this);
    return before;
  }

  #forgetWhenDone(): void {
    const bindings = newest.get(this.#storage);
    const done = this.#stopped && (this.#failure?.final || (this.#ready && this.pending === 0));
    if (!done) return;
    this.#attachment.detach();
    if (bindings?.get(this.id) === this) bindings.delete(this.id);
  }

  async #load(): Promise<void> {
    const before = this.#before;
    if (before !== undefined) await before.#written();
    this.#before = undefined;
    for (let attempt = 0; ; attempt++) {
      const noted = recoveryCount(this.#storage);
      try {
        const sound = this.#attachment.sound();
        const stored = await loadInto(this.#attachment, this.id, this.doc, this.#origin);
        const { token, clock, refused, thrown } = stored;
        const isNone = token === undefined;
        if (isNone && !(await this.#attachment.isVacant(this.#options.recreate !== false))) continue;
        for (const { clock: at, reason } of refused) {
          this.#report(new TypeError(`stored event ${at}: ${reason}`), "load", undefined);
        }
        if (thrown !== undefined) this.#report(thrown.error, "listener", undefined);
        this.#token = token;
        this.#exists = token !== undefined;
        this.#clock = Math.max(this.#clock, clock);
        // What a write that failed has left behind can be read until the backend is opened anew.
        const isDurable = sound !== undefined && sound === this.#attachment.sound();
        if (isDurable && stored.update !== undefined) this.#dropStored(stored.update);
        break;
      } catch (error) {
        const verdict = verdictOn(error);
        const needed = !this.#stopped || this.pending > 0;
        const again = needed && (verdict === "retry" || verdict === "recover");
        // Damage does not go away by itself, and reading again would only hold the clients up.
        if (!again || isCoppiceError(error, "CORRUPT")) {
          this.#end(error, "load");
          throw error;
        }
        // Reads are poisoned where a recovery failed. Only another one ends that, and all may wait like this.
        await this.#retry(error, "load", attempt, verdict === "recover" ? noted : undefined);
      }
    }
    this.#ready = true;
    this.#resolveWaiters();
    this.#wake();
    this.#forgetWhenDone();
  }

  /**
   * Leaves of what was captured before the load only what is not stored: what the Y.Doc had, what it got from
   * other storages, and all that clients send to a document that is empty until then.
   */
  #dropStored(stored: Uint8Array): void {
    if (this.#queue.length === 0) return;
    const rests = unstored(
      this.#queue.map(({ event }) => event),
      stored,
    );
    const dropped: Captured[] = [];
    const queue: Captured[] = [];
    for (const [index, event] of rests.entries()) {
      const captured = this.#queue[index]!;
      const last = queue.at(-1);
      if (event !== undefined) queue.push({ ...captured, event });
      else if (last === undefined) dropped.push(captured);
      else {
        for (const client of captured.clients) last.clients.push(client);
        last.count += captured.count;
      }
    }
    this.#queue = queue;
    if (dropped.length > 0) this.#settle(dropped);
  }

  #capture(): void {
    for (const event of this.#tracker.take(this.doc)) this.#enqueue(event);
    this.#wake();
  }

  #enqueue(event: Uint8Array): void {
    if (this.#failure?.final) return;
    this.#captured++;
    const clients = this.#options.onDurable === undefined ? [] : this.#clientsOf(event);
    this.#queue.push({ event, clients, count: 1 });
  }

  /** Up to where the structs of an event's clients are captured without a gap: by it and those before it. */
  #clientsOf(event: Uint8Array): [number, number][] {
    const clients: [number, number][] = [];
    const run = (client: number, _clock: number, end: number) => {
      clients.push([client, Math.min(end, Y.getState(this.doc.store, client))]);
    };
    try {
      scanUpdate(event, { run, deletion: () => undefined });
    } catch {
      // The append will refuse it, and say so: whoever edits the document is not to be told.
    }
    return clients;
  }

  #wake(): void {
    if (this.#pumping || !this.#ready || this.#paused || this.#queue.length === 0) return;
    this.#pumping = true;
    void this.#pump();
  }

  async #pump(): Promise<void> {
    while (this.#queue.length > 0 && !this.#failure?.final) {
      const cut = this.#queue.splice(0, this.#cutLength());
      const stored = await this.#append(cut.map(({ event }) => event));
      if (!stored) break;
      this.#settle(cut);
    }
    this.#pumping = false;
    this.#forgetWhenDone();
  }

  #settle(stored: readonly Captured[]): void {
    for (const { count } of stored) this.#settled += count;
    this.#announce(stored);
    this.#resolveWaiters();
  }

  #cutLength(): number {
    let bytes = 0;
    let length = 0;
    for (const { event } of this.#queue) {
      bytes += event.length;
      if (length > 0 && (bytes > APPEND_BYTES || length >= APPEND_EVENTS)) break;
      length++;
    }
    return length;
  }

  /** Resolves when each of the events is durable or refused; with `false` when nothing more can be stored. */
  async #append(events: readonly Uint8Array[]): Promise<boolean> {
    let recreate = false;
    for (let attempt = 0; ; attempt++) {
      const noted = recoveryCount(this.#storage);
      try {
        const options = { token: this.#token, recreate };
        const { clock, token, duplicate } = await this.#attachment.append(events, MODEL, options);
        if (duplicate) {
          // Somebody else has begun the document anew.
          recreate = false;
          continue;
        }
        this.#token = token;
        this.#clock = Math.max(this.#clock, clock);
        this.#exists = true;
        return true;
      } catch (error) {
        const verdict = verdictOn(error);
        if (verdict === "refused") return this.#appendApart(events, error);
        // The id was deleted before it was bound: the first events begin it anew.
        const mayRecreate = this.#options.recreate !== false && !recreate;
        if (verdict === "deleted" && !this.#exists && mayRecreate) {
          recreate = true;
          continue;
        }
        if (verdict === "deleted" || verdict === "ended") {
          this.#end(error, "append");
          return false;
        }
        await this.#retry(error, "append", attempt, verdict === "recover" ? noted : undefined);
      }
    }
  }

  /** One bad event refuses all that were to be stored with it: halves find it, and keep the order. */
  async #appendApart(events: readonly Uint8Array[], error: unknown): Promise<boolean> {
    if (events.length === 1) {
      this.#failure ??= { error, final: false };
      this.#report(error, "append", undefined);
      return true;
    }
    const half = events.length >> 1;
    return (await this.#append(events.slice(0, half))) && (await this.#append(events.slice(half)));
  }

  async #retry(error: unknown, during: "load" | "append", attempt: number, noted?: number): Promise<void> {
    const { retryMsMin = RETRY_MS_MIN, retryMsMax = 5000 } = this.#options;
    const retryMs = Math.min(retryMsMax, retryMsMin * 2 ** Math.min(attempt, 20));
    this.#report(error, during, retryMs);
    this.#giveUp(error);
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, retryMs);
      this.#hurry = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    if (noted === undefined) return;
    // Should it fail, the next append says so, and the wait before it grows.
    await recover(this.#storage, noted).catch((failure: unknown) => this.#report(failure, during, retryMs));
  }

  #announce(cut: readonly Captured[]): void {
    const { onDurable } = this.#options;
    if (onDurable === undefined) return;
    const clients = new Map<number, number>();
    if (this.#failure === undefined) {
      for (const entry of cut) {
        for (const [client, clock] of entry.clients) {
          clients.set(client, Math.max(clock, clients.get(client) ?? 0));
        }
      }
    }
    const unstored = this.#failure === undefined ? 0 : 1;
    const durability = { id: this.id, clock: this.#clock, pending: this.pending + unstored, clients };
    tell(() => onDurable(durability));
  }

  /** A try has failed. */
  #giveUp(error: unknown): void {
    const waiters = this.#waiters.filter(({ once }) => once);
    this.#waiters = this.#waiters.filter(({ once }) => !once);
    for (const { reject } of waiters) reject(error);
  }

  #resolveWaiters(): void {
    const due = this.#waiters.filter(({ upTo }) => upTo <= this.#settled);
    if (due.length === 0) return;
    this.#waiters = this.#waiters.filter(({ upTo }) => upTo > this.#settled);
    for (const { resolve, reject } of due) {
      if (this.#failure === undefined) resolve();
      else reject(this.#failure.error);
    }
  }

  /** Nothing more can be stored. */
  #end(error: unknown, during: "load" | "append"): void {
    this.#failure = { error, final: true };
    this.#report(error, during, undefined);
    this.#discard();
    this.#tracker.stop();
    this.#forgetWhenDone();
  }

  #discard(): void {
    this.#queue = [];
    this.#settled = this.#captured;
    this.#resolveWaiters();
  }

  #report(error: unknown, during: BindingFailure["during"], retryMs: number | undefined): void {
    const { onError = warn, retryMsMin = RETRY_MS_MIN } = this.#options;
    if (onError === warn && retryMs !== undefined && retryMs > retryMsMin) return;
    tell(() => onError(error, { id: this.id, during, retryMs }));
  }
}

/** What a Y.Doc has already when it is bound. */
function contentOf(doc: Y.Doc): Uint8Array | undefined {
  const { clients, pendingStructs, pendingDs } = doc.store;
  const isEmpty = clients.size === 0 && pendingStructs === null && pendingDs === null;
  return isEmpty ? undefined : Y.encodeStateAsUpdate(doc);
}

/** Where nobody asked to be told: people see it, and nothing ends. */
function warn(error: unknown, { id, during, retryMs }: BindingFailure): void {
  const name = JSON.stringify(id);
  const what = {
    load: `the document ${name} was not loaded as it is stored`,
    append: `edits of the document ${name} are not stored`,
    listener: `a listener of the document ${name} threw while it was loaded; nothing is missing`,
  }[during];
  const then = retryMs === undefined ? "and there is no onError to be told" : "it is tried again";
  const message = `${what}; ${then}: ${String(error)}`;
  const { process } = globalThis as { process?: { emitWarning?: (message: string, type: string) => void } };
  if (process?.emitWarning === undefined) throw new Error(message, { cause: error });
  process.emitWarning(message, "CoppiceWarning");
}

/** A callback that throws changes nothing here, and its error is not swallowed. */
function tell(callback: () => void): void {
  try {
    callback();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}
