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
 * - nothing is stored for a document whose load failed, by whichever extension.
 */

import type { YjsStorage } from "@coppice/yjs/dropins";
import {
  type BindingFailure,
  bindDoc,
  checkUpdate,
  type DocBinding,
  type Durability,
} from "@coppice/yjs/dropins";
import type { Document, Extension } from "@hocuspocus/server";
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
   * `false` sends none.
   */
  readonly announceMs?: number | false;
  /** As of any Hocuspocus extension: higher runs earlier. Default 100. */
  readonly priority?: number;
}

const OPTIONS: OptionKinds<HocuspocusPersistenceOptions> = {
  onError: "function",
  onDurable: "function",
  retryMsMin: "number",
  retryMsMax: "number",
  announceMs: "any",
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
   * Updates that this server has and that are not durable yet. When it is 0 and the provider has no unsynced
   * changes, all that the client did is durable.
   */
  readonly pending: number;
  /** By Yjs client id: all that this client inserted below this clock is durable. */
  readonly clients: Readonly<Record<string, number>>;
}

/** The extension. The storage, with the model `yjs()`, stays the caller's: close it after the server. */
export function hocuspocusPersistence(
  storage: YjsStorage,
  options: HocuspocusPersistenceOptions = {},
): Extension {
  checkOptions("hocuspocusPersistence", options, OPTIONS);
  checkStorage("hocuspocusPersistence", storage, "yjs");
  const bindings = new Map<Document, DocBinding>();
  /** Loaded by us, and not yet by all extensions. */
  const loading = new Map<string, DocBinding>();
  const { onError, onDurable, retryMsMin, retryMsMax, announceMs = 100, priority = 100 } = options;
  const flush = async (document: Document) => bindings.get(document)?.flush();

  const bind = (name: string, document: Document): DocBinding => {
    const announcer = announceMs === false ? undefined : new Announcer(document, announceMs);
    return bindDoc(storage, name, document, {
      ...(onError === undefined ? {} : { onError }),
      ...(retryMsMin === undefined ? {} : { retryMsMin }),
      ...(retryMsMax === undefined ? {} : { retryMsMax }),
      paused: true,
      onDurable: (durability) => {
        announcer?.add(durability);
        onDurable?.(durability);
      },
    });
  };

  return {
    extensionName: "coppice",
    priority,

    async onLoadDocument({ documentName, document }) {
      // A load that another extension failed: Hocuspocus drops its document without a word.
      loading.get(documentName)?.stop();
      const binding = bind(documentName, document);
      loading.set(documentName, binding);
      bindings.set(document, binding);
      document.on("destroy", () => bindings.delete(document));
      try {
        await binding.loaded;
      } catch (error) {
        bindings.delete(document);
        loading.delete(documentName);
        binding.stop();
        throw error;
      }
    },

    async afterLoadDocument({ documentName, document }) {
      loading.delete(documentName);
      bindings.get(document)?.resume();
    },

    async beforeSync({ documentName, type, payload }) {
      if (type !== SYNC_STEP_1) checkUpdate(payload, documentName);
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

    async onDestroy() {
      await Promise.allSettled([...bindings.values()].map((binding) => binding.flush()));
    },
  };
}

/** The message in a payload of the provider's `stateless` event; `undefined` when it is another one. */
export function readDurableMessage(payload: string): DurableMessage | undefined {
  if (!payload.startsWith(`{"type":"${DURABLE_MESSAGE}"`)) return undefined;
  try {
    return JSON.parse(payload) as DurableMessage;
  } catch {
    return undefined;
  }
}

const SYNC_STEP_1 = 0;

/**
 * Tells the clients of one document, at most once in so many milliseconds, and always of the newest state.
 */
class Announcer {
  readonly #document: Document;
  readonly #intervalMs: number;
  #clients = new Map<number, number>();
  #latest: Durability | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(document: Document, intervalMs: number) {
    this.#document = document;
    this.#intervalMs = intervalMs;
    document.on("destroy", () => clearTimeout(this.#timer));
  }

  add(durability: Durability): void {
    for (const [client, clock] of durability.clients) this.#clients.set(client, clock);
    this.#latest = durability;
    if (this.#timer === undefined) this.#send();
  }

  /** To the connections of this server alone: those of other servers hear from their own. */
  #send(): void {
    const latest = this.#latest;
    if (latest === undefined) {
      this.#timer = undefined;
      return;
    }
    const { clock, pending } = latest;
    const clients = Object.fromEntries(this.#clients);
    const message: DurableMessage = { type: DURABLE_MESSAGE, clock, pending, clients };
    this.#latest = undefined;
    this.#clients = new Map();
    const payload = JSON.stringify(message);
    for (const connection of this.#document.getConnections()) connection.sendStateless(payload);
    this.#timer = setTimeout(() => this.#send(), this.#intervalMs);
    this.#timer.unref();
  }
}
