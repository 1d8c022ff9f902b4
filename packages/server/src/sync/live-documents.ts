/**
 * The documents in memory: one `LiveDocument` for an id, loaded when somebody comes and released when nobody
 * has been connected for a while, the least recently used first when memory runs short.
 *
 * Invariants: never two live documents for one id; one leaves only when nothing of it is unsaved (or when it
 * was deleted, or cannot be saved at all); when everything in memory is in use and too much, no further
 * document is loaded; what leaves unsaved when all ends is named.
 */

import { CoppiceError, type DocumentStorage, isCoppiceError } from "coppice";
import type { ServerLimits } from "../limits.js";
import { type DocumentHost, EditRefused, LiveDocument } from "./live-document.js";
import type { CloseReason } from "./protocol.js";
import { WriteGate } from "./write-gate.js";

export interface LiveDocumentsOptions {
  readonly storage: DocumentStorage;
  readonly limits: ServerLimits;
  readonly mayRecover: (() => boolean | Promise<boolean>) | undefined;
  readonly onError: (error: unknown, facts: { readonly document?: string }) => void;
  readonly onWritable: (isWritable: boolean) => void;
}

/** Ids in an error; more are counted. */
const NAMED_MAX = 100;

export class LiveDocuments {
  readonly gate: WriteGate;
  readonly #options: LiveDocumentsOptions;
  readonly #host: DocumentHost;
  /** The least recently used first. */
  readonly #documents = new Map<string, LiveDocument>();
  readonly #loads = new Map<string, Promise<LiveDocument>>();
  readonly #waiting: (() => void)[] = [];
  #loading = 0;
  #unsavedBytes = 0;
  #congested = false;
  #closed = false;
  /** Since `flush` no client comes back with what is not stored: what is lost then, and why. */
  #lost: Map<string, unknown> | undefined;

  constructor(options: LiveDocumentsOptions) {
    this.#options = options;
    const { storage, limits, mayRecover } = options;
    this.gate = new WriteGate({
      storage,
      mayRecover,
      onChange: () => this.#gateChanged(),
      onOutage: (failure) => {
        if (failure !== undefined) options.onError(failure, {});
        options.onWritable(failure === undefined);
      },
    });
    this.#host = {
      storage,
      limits,
      gate: this.gate,
      unsaved: (byteCount) => this.#unsaved(byteCount),
      end: (document, reason, error) => this.#end(document, reason, error),
    };
  }

  /** While the gate is shut no edit is taken, so that everybody is read on. */
  get congested(): boolean {
    return this.#congested && this.gate.open;
  }

  /** For metrics. */
  get figures(): { documents: number; bytes: number; unsavedBytes: number; connections: number } {
    let bytes = 0;
    let connections = 0;
    for (const document of this.#documents.values()) {
      bytes += document.bytes;
      connections += document.connections.size;
    }
    return { documents: this.#documents.size, bytes, unsavedBytes: this.#unsavedBytes, connections };
  }

  get(id: string): LiveDocument | undefined {
    return this.#documents.get(id);
  }

  /**
   * The live document, loaded if it is not in memory. Rejects like `storage.load`, and with `EditRefused`
   * when it is no Yjs document or memory is short. Join it before the next await, or it may leave again.
   */
  async open(id: string): Promise<LiveDocument> {
    const present = this.#documents.get(id);
    // Who comes now must not take for empty what was created or imported since somebody looked.
    if (present?.exists === false) await present.find();
    if (present !== undefined) {
      if (this.#documents.get(id) !== present) return this.open(id);
      this.#documents.delete(id);
      this.#documents.set(id, present);
      return present;
    }
    const loading = this.#loads.get(id) ?? this.#load(id).finally(() => this.#loads.delete(id));
    this.#loads.set(id, loading);
    return loading;
  }

  /**
   * Closes the connections of a document that is gone from the storage and forgets it, unsaved edits
   * included. Who waits for one that there never was goes on waiting.
   */
  async evictDeleted(id: string): Promise<void> {
    await this.#loads.get(id)?.catch(() => undefined);
    const document = this.#documents.get(id);
    if (!document?.exists || (await this.#options.storage.info(id)) !== undefined) return;
    if (!document.ended) this.#end(document, "deleted");
  }

  /** Releases what nobody uses. Called now and then. */
  sweep(now: number): void {
    this.gate.look(now);
    for (const document of this.#documents.values()) document.look();
    for (const document of this.#documents.values())
      if (document.connections.size === 0 && now - document.idleSince > this.#options.limits.idleMs)
        this.#release(document);
    this.#makeRoom(0);
  }

  /** Saves all of it, before the clients are sent away. A store that takes no writes is tried once more. */
  async flush(): Promise<void> {
    this.#lost ??= new Map();
    if ((await this.#save()) || this.gate.open) return;
    await this.gate.retry();
    await this.#save();
  }

  /**
   * Saves and releases everything. Resolves with the error that names what could not be saved: only clients
   * that have it still may send it again.
   */
  async close(): Promise<CoppiceError | undefined> {
    this.#closed = true;
    for (const wake of this.#waiting.splice(0)) wake();
    await Promise.allSettled(this.#loads.values());
    await this.gate.close();
    await this.#save();
    const lost = this.#lost ?? new Map<string, unknown>();
    for (const document of this.#documents.values()) {
      if (document.release()) continue;
      lost.set(document.id, this.gate.failure);
      document.abandon();
    }
    this.#documents.clear();
    return lost.size === 0 ? undefined : lostError(lost);
  }

  /** Resolves with whether all is durable. */
  async #save(): Promise<boolean> {
    const saved = await Promise.all([...this.#documents.values()].map((document) => document.flush()));
    return !saved.includes(false);
  }

  async #load(id: string): Promise<LiveDocument> {
    while (this.#loading >= this.#options.limits.loadsMax && !this.#closed)
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    if (this.#closed) throw new EditRefused("shutdown");
    if (!this.#makeRoom(0)) throw new EditRefused("unavailable");
    this.#loading++;
    try {
      const document = await LiveDocument.load(this.#host, id);
      if (this.#closed || !this.#makeRoom(document.bytes)) {
        document.abandon();
        throw new EditRefused(this.#closed ? "shutdown" : "unavailable");
      }
      // Who looks for it here would find one that has ended, again and again.
      if (document.ended) throw new EditRefused("resync");
      this.#documents.set(id, document);
      return document;
    } finally {
      this.#loading--;
      this.#waiting.shift()?.();
    }
  }

  /** Whether so many bytes more fit, after idle documents were released as needed; the first always does. */
  #makeRoom(byteCount: number): boolean {
    const { memoryBytesMax } = this.#options.limits;
    let bytes = this.figures.bytes + byteCount;
    if (bytes <= memoryBytesMax) return true;
    for (const document of this.#documents.values()) {
      if (document.connections.size > 0) continue;
      if (this.#release(document)) bytes -= document.bytes;
      if (bytes <= memoryBytesMax) return true;
    }
    return this.#documents.size === 0;
  }

  #release(document: LiveDocument): boolean {
    if (!document.release()) {
      if (this.gate.open) document.saveSoon();
      return false;
    }
    this.#documents.delete(document.id);
    return true;
  }

  #end(document: LiveDocument, reason: CloseReason, error?: unknown): void {
    if (error !== undefined) {
      this.#options.onError(error, { document: document.id });
      if (document.unsaved) this.#lost?.set(document.id, error);
    }
    if (this.#documents.get(document.id) === document) this.#documents.delete(document.id);
    document.abandon();
    for (const connection of [...document.connections]) connection.close(reason);
  }

  #gateChanged(): void {
    const { open } = this.gate;
    for (const document of this.#documents.values()) {
      if (open) document.saveSoon();
      for (const connection of document.connections) {
        connection.congestionChanged();
        connection.writabilityChanged(open);
      }
    }
  }

  #unsaved(byteCount: number): void {
    this.#unsavedBytes += byteCount;
    const { unsavedBytesMax } = this.#options.limits;
    const congested = this.#unsavedBytes > (this.#congested ? unsavedBytesMax / 2 : unsavedBytesMax);
    if (congested === this.#congested) return;
    this.#congested = congested;
    for (const document of this.#documents.values())
      for (const connection of document.connections) connection.congestionChanged();
  }
}

/** In the form of `storage.close()`: the code of the first failure, or of one that may have written. */
function lostError(lost: ReadonlyMap<string, unknown>): CoppiceError {
  const causes = [...lost.values()].filter((cause) => isCoppiceError(cause));
  const cause = causes.find(({ code }) => code === "OUTCOME_UNKNOWN") ?? causes[0];
  const ids = [...lost.keys()];
  return new CoppiceError(
    cause?.code ?? "UNAVAILABLE",
    "edits of these documents were received, and not stored",
    {
      cause: cause ?? [...lost.values()][0],
      details: { ids: ids.slice(0, NAMED_MAX), documents: ids.length },
    },
  );
}
