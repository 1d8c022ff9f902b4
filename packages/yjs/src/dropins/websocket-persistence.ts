/**
 * Durable storage for y-websocket style servers: what their `setPersistence` takes.
 *
 * Such a server calls `bindState` when it makes a document, does not wait for it, and lets clients in at
 * once; it calls `writeState` when the last client has left, and forgets the document before that resolves.
 * So a client may be told "synced" before the stored content is there; it arrives as an update then, and
 * nothing is lost. A server that can wait does so with `whenLoaded`.
 *
 * Invariants: no promise that such a server drops can become an unhandled rejection; `writeState` resolves
 * only when everything is durable. It opens no socket.
 */

import { checkOptions, checkStorage, type OptionKinds } from "coppice";
import type * as Y from "yjs";
import { type BindingOptions, DocBinding } from "./binding.js";
import { MODEL, type YjsStorage } from "./loading.js";

export type WebsocketPersistenceOptions = Omit<BindingOptions, "paused">;

const OPTIONS: OptionKinds<WebsocketPersistenceOptions> = {
  onError: "function",
  onDurable: "function",
  retryMsMin: "number",
  retryMsMax: "number",
  recreate: "flag",
};

/** For `setPersistence`, and what a server may do besides. */
export interface WebsocketPersistence {
  /** The storage. */
  readonly provider: YjsStorage;
  /**
   * Loads what is stored into the document, and appends each update from now on. Resolves when it is loaded;
   * rejects when it cannot be, and then nothing of it is ever stored. May be left unawaited: `onError` is
   * told.
   */
  bindState(name: string, doc: Y.Doc): Promise<void>;
  /**
   * Resolves when everything that the document got is durable. When that can never be, it stays pending,
   * since these servers would crash on a rejection and must not take it for stored; `onError` was told.
   */
  writeState(name: string, doc: Y.Doc): Promise<void>;
  /**
   * Resolves when the newest document of that name is loaded; at once when there is none. Rejects when it
   * cannot be loaded: then send the client away.
   */
  whenLoaded(name: string): Promise<void>;
  /**
   * Resolves when everything of all documents is durable. Rejects as `DocBinding.flush` does, and not before
   * all that can be stored is. Documents that can never be stored count until their `writeState` was called.
   */
  flush(): Promise<void>;
}

/** Makes the persistence of a y-websocket style server. The storage stays the caller's to close. */
export function websocketPersistence(
  storage: YjsStorage,
  options: WebsocketPersistenceOptions = {},
): WebsocketPersistence {
  checkOptions("websocketPersistence", options, OPTIONS);
  checkStorage("websocketPersistence", storage, MODEL);
  const byName = new Map<string, DocBinding>();
  const byDoc = new WeakMap<Y.Doc, DocBinding>();
  const live = new Set<DocBinding>();
  const leave = (name: string, binding: DocBinding) => {
    if (byName.get(name) === binding) byName.delete(name);
    const done = () => live.delete(binding);
    binding.flush().then(done, done);
  };
  return {
    provider: storage,

    bindState(name, doc) {
      // Clients choose the names: of one that is no id onError is told, since a throw would end the server.
      const binding = byDoc.get(doc) ?? new DocBinding(storage, name, doc, options);
      if (byDoc.has(doc)) return binding.loaded;
      byDoc.set(doc, binding);
      byName.set(name, binding);
      live.add(binding);
      doc.on("destroy", () => leave(name, binding));
      return binding.loaded;
    },

    writeState(name, doc) {
      const binding = byDoc.get(doc);
      return new Promise((resolve) => {
        // The server never destroys a document that cannot be stored: it must not be kept here either.
        if (binding === undefined) resolve();
        else binding.flush().then(resolve, () => leave(name, binding));
      });
    },

    async whenLoaded(name) {
      await byName.get(name)?.loaded;
    },

    async flush() {
      const ends = await Promise.allSettled([...live].map((binding) => binding.flush()));
      for (const end of ends) if (end.status === "rejected") throw end.reason;
    },
  };
}
