/**
 * The Hocuspocus extension: what is stored is loaded into a document before anybody sees it, and every update
 * is appended durably as it arrives, instead of storing whole documents now and then.
 *
 * It captures updates from the document itself, not in `onChange`: also what other extensions put into it
 * while it is loaded, what Redis brings, and what skips the store hooks. `bindDoc` of `@coppice/yjs/dropins`
 * does the appending; here are the hooks around it.
 *
 * Invariants:
 * - a hook rejects only where Hocuspocus acts on it: a failed load sends the clients away, corrupt bytes
 *   close their connection, a store that can never happen is an error of `onStoreDocument`, which Hocuspocus
 *   logs: `disconnect` of a direct connection resolves then, so `onError` is told before;
 * - a document stays in memory until what it got is durable, or can never be;
 * - nothing is stored for a document whose load failed, by whichever extension, and it is let go; loaded it
 *   is when `onLoadDocument` of all has ended, whatever others do in `afterLoadDocument` after ours.
 */

import type { YjsStorage } from "@coppice/yjs/dropins";
import {
  type BindingFailure,
  bindDoc,
  checkUpdate,
  type DocBinding,
  type Durability,
} from "@coppice/yjs/dropins";
import type { Connection, Document, Extension, Hocuspocus } from "@hocuspocus/server";
import { checkOptions, checkStorage, type OptionKinds } from "coppice";

export interface HocuspocusPersistenceOptions {
  /** Told of each failure, also of those that are tried again. Must not throw. */
  readonly onError?: (error: unknown, failure: BindingFailure) => void;
  /** Told when events have become durable, on the server. Must not throw. */
  readonly onDurable?: (durability: Durability) => void;
  /** Milliseconds before a failed call is repeated: at first, doubling, and at most. Default 50 and 5,000. */
  readonly retryMsMin?: number;
  readonly retryMsMax?: number;
  /**
   * Milliseconds between two messages that tell the clients of a document what is durable. Default 100;
   * `false` sends none. After one that said that nothing is pending, the first update is told at once.
   */
  readonly announceMs?: number | false;
  /**
   * `false`: clients do not bring back a document that was deleted or erased: they are sent away. Default:
   * what they have begins it anew.
   */
  readonly recreate?: boolean;
  /** As of any Hocuspocus extension: higher runs earlier. Default 100. */
  readonly priority?: number;
}

const OPTIONS: OptionKinds<HocuspocusPersistenceOptions> = {
  onError: "function",
  onDurable: "function",
  retryMsMin: "number",
  retryMsMax: "number",
  announceMs: "any",
  recreate: "flag",
  priority: "number",
};

/** `type` of the stateless messages that this extension sends. */
export const DURABLE_MESSAGE = "coppice/durable";

/** What clients are told; JSON in a stateless message. */
export interface DurableMessage {
  readonly type: typeof DURABLE_MESSAGE;
  /** Events of the document's log that are durable. */
  readonly clock: number;
  /**
   * Updates that this server had and that were not durable when it sent the message; not 0 where something
   * can never be stored. While it is 0 in the last message and the provider has no unsynced changes, all that
   * the client did is durable: of an update after a 0 clients are told before it is acknowledged.
   */
  readonly pending: number;
  /**
   * By Yjs client id: all that this client inserted below this clock is durable. Only clients in the newest
   * events, those that became durable since the last message; keep the greatest value of each.
   */
  readonly clients: Readonly<Record<string, number>>;
}

/** The extension. The storage, with the model `yjs()`, stays the caller's: close it after the server. */
export function hocuspocusPersistence(
  storage: YjsStorage,
  options: HocuspocusPersistenceOptions = {},
): Extension {
  checkOptions("hocuspocusPersistence", options, OPTIONS);
  checkStorage("hocuspocusPersistence", storage, "yjs");
  const bindings = new WeakMap<Document, DocBinding>();
  const announcers = new WeakMap<Document, Announcer>();
  const servers = new WeakMap<Hocuspocus, Newcomers>();
  const { onError, onDurable, retryMsMin, retryMsMax, announceMs = 100, recreate, priority = 100 } = options;
  const flush = async (document: Document) => bindings.get(document)?.flush();

  const bind = (name: string, document: Document): DocBinding => {
    const binding = bindDoc(storage, name, document, {
      ...(onError === undefined ? {} : { onError }),
      ...(retryMsMin === undefined ? {} : { retryMsMin }),
      ...(retryMsMax === undefined ? {} : { retryMsMax }),
      ...(recreate === undefined ? {} : { recreate }),
      paused: true,
      onDurable: (durability) => {
        announcers.get(document)?.add(durability);
        onDurable?.(durability);
      },
    });
    if (announceMs !== false) announcers.set(document, new Announcer(document, binding, announceMs));
    return binding;
  };

  return {
    extensionName: "coppice",
    priority,

    async onLoadDocument({ documentName, document, instance }) {
      const newcomers = servers.get(instance) ?? new Newcomers(instance);
      servers.set(instance, newcomers);
      newcomers.dropFailed(documentName);
      const binding = bind(documentName, document);
      newcomers.add(documentName, document, binding);
      bindings.set(document, binding);
      try {
        await binding.loaded;
      } catch (error) {
        bindings.delete(document);
        newcomers.remove(documentName, document);
        binding.stop();
        throw error;
      }
    },

    async afterLoadDocument({ document }) {
      bindings.get(document)?.resume();
    },

    async beforeSync({ documentName, type, payload, connection, document }) {
      if (type !== SYNC_STEP_1) checkUpdate(payload, documentName);
      // Who connects, or comes back: what it sends again may be pending here already, and is no update then.
      else announcers.get(document)?.greet(connection);
    },

    async onStoreDocument({ document, instance }) {
      try {
        await flush(document);
      } catch (error) {
        // Hocuspocus would keep it for ever; nothing can be saved by that any more.
        setTimeout(() => void instance.unloadDocument(document), 0);
        throw error;
      }
    },

    async beforeUnloadDocument({ document }) {
      // Hocuspocus waits for this hook and looks again then, so waiting is a veto that ends by itself.
      // A rejection means that waiting is no use; onError was told.
      await flush(document).catch(() => undefined);
    },

    async onDestroy({ instance }) {
      const failed = servers.get(instance)?.dropFailed() ?? [];
      const live = [...instance.documents.values()].map(flush);
      await Promise.allSettled([...live, ...failed.map((binding) => binding.flush())]);
    },
  };
}

/** The message in a payload of the provider's `stateless` event; `undefined` when it is another one. */
export function readDurableMessage(payload: string): DurableMessage | undefined {
  if (typeof payload !== "string")
    throw new TypeError("readDurableMessage wants the payload of a stateless message: a string");
  if (!payload.startsWith(`{"type":"${DURABLE_MESSAGE}"`)) return undefined;
  try {
    return JSON.parse(payload) as DurableMessage;
  } catch {
    return undefined;
  }
}

const SYNC_STEP_1 = 0;

/**
 * Documents of one server that we have loaded, and perhaps not yet all extensions. Where another one fails,
 * Hocuspocus drops the document and tells nobody: it is missed among those of the server later.
 */
class Newcomers {
  readonly #instance: Hocuspocus;
  readonly #byName = new Map<string, { readonly document: Document; readonly binding: DocBinding }>();

  constructor(instance: Hocuspocus) {
    this.#instance = instance;
  }

  add(name: string, document: Document, binding: DocBinding): void {
    this.#byName.set(name, { document, binding });
    document.on("destroy", () => this.remove(name, document));
  }

  remove(name: string, document: Document): void {
    if (this.#byName.get(name)?.document === document) this.#byName.delete(name);
  }

  /** Stops and returns those whose load has failed; `next`: of that name another one is being loaded now. */
  dropFailed(next?: string): DocBinding[] {
    const failed: DocBinding[] = [];
    for (const [name, { document, binding }] of this.#byName) {
      const isLoaded = this.#instance.documents.get(name) === document;
      if (!isLoaded && name !== next && this.#instance.loadingDocuments.has(name)) continue;
      this.#byName.delete(name);
      if (isLoaded) continue;
      binding.stop();
      failed.push(binding);
    }
    return failed;
  }
}

/**
 * Tells the clients of one document what is durable, at most once in so many ms, and how much is pending,
 * as it is when that is sent: an older figure would call saved what has come since. For the same reason the
 * first update after a message that said 0 is told as it comes, before Hocuspocus acknowledges it.
 */
class Announcer {
  readonly #document: Document;
  readonly #binding: DocBinding;
  readonly #intervalMs: number;
  #clients = new Map<number, number>();
  /** Something has become durable since the last message. */
  #due = false;
  /** The last that some client may have been told is that nothing is pending. */
  #saidNone = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(document: Document, binding: DocBinding, intervalMs: number) {
    this.#document = document;
    this.#binding = binding;
    this.#intervalMs = intervalMs;
    // Not "update": the binding counts what it captured in a listener of that, which may come later.
    document.on("afterAllTransactions", () => {
      if (this.#saidNone && this.#pending > 0) this.#tellAll();
    });
    document.on("destroy", () => clearTimeout(this.#timer));
  }

  add(durability: Durability): void {
    for (const [client, clock] of durability.clients) this.#clients.set(client, clock);
    this.#due = true;
    if (this.#timer === undefined) this.#send();
  }

  /** Tells one connection how things are. */
  greet(connection: Connection): void {
    if (this.#pending === 0) this.#saidNone = true;
    connection.sendStateless(this.#message({}));
  }

  get #pending(): number {
    return this.#binding.pending + (this.#binding.failure === undefined ? 0 : 1);
  }

  #send(): void {
    if (!this.#due) {
      this.#timer = undefined;
      return;
    }
    const clients = Object.fromEntries(this.#clients);
    this.#due = false;
    this.#clients = new Map();
    this.#tellAll(clients);
    this.#timer = setTimeout(() => this.#send(), this.#intervalMs);
    this.#timer.unref();
  }

  /** All connections of this server: those of other servers hear from their own. */
  #tellAll(clients: DurableMessage["clients"] = {}): void {
    this.#saidNone = this.#pending === 0;
    const payload = this.#message(clients);
    for (const connection of this.#document.getConnections()) connection.sendStateless(payload);
  }

  #message(clients: DurableMessage["clients"]): string {
    const { clock } = this.#binding;
    const message: DurableMessage = { type: DURABLE_MESSAGE, clock, pending: this.#pending, clients };
    return JSON.stringify(message);
  }
}
