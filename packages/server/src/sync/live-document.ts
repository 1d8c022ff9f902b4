/**
 * One document in memory, between its connections and the storage.
 *
 * An edit is applied, passed on to the other connections at once, and saved; what gathers while a save is on
 * its way to the disk goes into the next. Connections that asked for it are told the durable clock, which
 * moves when the storage says so and never before. A document that was never written to is not created by
 * looking at it.
 *
 * Invariants:
 * - it is loaded before anybody is answered, and leaves memory only when nothing of it is unsaved;
 * - what others append to the same storage reaches the connections as well;
 * - when saving fails, the edits stay here and are saved after the recovery.
 */

import { type DocumentHandle, type DocumentStorage, isCoppiceError } from "coppice";
import * as Y from "yjs";
import type { ServerLimits } from "../limits.js";
import { AwarenessStates } from "./awareness.js";
import type { Connection } from "./connection.js";
import { awarenessMessage, type CloseReason, durableMessage, SYNC_UPDATE, syncMessage } from "./protocol.js";
import type { WriteGate } from "./write-gate.js";
import { isKnown, lackedBy, leavesGap } from "./yjs-updates.js";

/** What a live document needs of the server around it. */
export interface DocumentHost {
  readonly storage: DocumentStorage;
  readonly limits: ServerLimits;
  readonly gate: WriteGate;
  /** Bytes that became unsaved (positive) or were settled (negative). */
  unsaved(byteCount: number): void;
  /** It cannot go on: its connections are closed for that reason, and it is forgotten. */
  end(document: LiveDocument, reason: CloseReason, error?: unknown): void;
}

/** Bytes of memory for each byte of an encoded document; measured on documents of real histories. */
const HEAP_FACTOR = 12;
const HEAP_BASE_BYTES = 16 * 1024;
/** Edits merge with what is there: the estimate is made anew whenever it has doubled and grown by so much. */
const MEASURE_BYTES = 1024 * 1024;
const RETRY_MS = 100;
/** The state vector of an empty document. */
const NOTHING = Uint8Array.of(0);

/** What ends the pulling of others' events; after anything else it is tried again. */
const FOLLOW_ENDS: ReadonlyMap<string, CloseReason> = new Map([
  ["CLOSED", "shutdown"],
  ["DELETED", "deleted"],
  ["TRIMMED", "resync"],
  ["CORRUPT", "damaged"],
]);

/** An edit that is not taken, and why its sender's connection ends. */
export class EditRefused extends Error {
  readonly reason: CloseReason;

  constructor(reason: CloseReason, options?: ErrorOptions) {
    super(reason, options);
    this.reason = reason;
  }
}

export class LiveDocument {
  readonly id: string;
  readonly connections: Set<Connection> = new Set();
  readonly awareness: AwarenessStates = new AwarenessStates();
  /** Estimate of the memory that it takes. */
  bytes: number = HEAP_BASE_BYTES;
  /** Since when nobody is connected. */
  idleSince: number = performance.now();
  readonly #host: DocumentHost;
  readonly #stop = new AbortController();
  #doc: Y.Doc;
  #handle: DocumentHandle<Y.Doc> | undefined;
  #creating: Promise<void> | undefined;
  #sender: Connection | undefined;
  #unsavedBytes = 0;
  #saving: Promise<void> | undefined;
  #durable = 0;
  #measuredBytes = HEAP_BASE_BYTES;

  /** Rejects like `storage.load`, and with `MODEL_UNKNOWN` for a document that is none of Yjs. */
  static async load(host: DocumentHost, id: string): Promise<LiveDocument> {
    const document = new LiveDocument(host, id);
    const handle = await host.storage.load<Y.Doc>(id);
    if (handle !== undefined) document.#adopt(handle);
    return document;
  }

  private constructor(host: DocumentHost, id: string) {
    this.id = id;
    this.#host = host;
    this.#doc = new Y.Doc();
  }

  /** Whether there is a stored document yet. */
  get exists(): boolean {
    return this.#handle !== undefined;
  }

  /** Edits are here that are not durable. */
  get unsaved(): boolean {
    return this.#creating !== undefined || this.#saving !== undefined || this.#handle?.unsaved === true;
  }

  get ended(): boolean {
    return this.#stop.signal.aborted;
  }

  get model(): string {
    return this.#handle?.model ?? "yjs";
  }

  get durableClock(): number {
    return this.#handle?.durableClock ?? 0;
  }

  /** What a peer lacks that has `stateVector`. Throws for bytes that are no state vector. */
  diff(stateVector: Uint8Array): Uint8Array {
    return lackedBy(this.#doc, stateVector);
  }

  stateVector(): Uint8Array {
    return Y.encodeStateVector(this.#doc);
  }

  /** True when the update would change nothing. */
  knows(update: Uint8Array): boolean {
    return isKnown(this.#doc, update);
  }

  /**
   * Creates the stored document with its first edit, unless it exists. Resolves with whether the edit is in
   * it; else it must be received. Rejects like `storage.append`, `EVENT_INVALID` included: then nothing was
   * created.
   */
  async create(update: Uint8Array): Promise<boolean> {
    if (this.#handle === undefined && this.#creating === undefined) {
      this.#creating = this.#createWith(update).finally(() => {
        this.#creating = undefined;
      });
      await this.#creating;
      return true;
    }
    // Why another's first edit was not taken says nothing of this one.
    await this.#creating?.catch(() => undefined);
    return false;
  }

  /**
   * Applies an edit and passes it on; it is saved soon. Call `create` before. Throws `EditRefused` for bytes
   * that are no update, that Yjs cannot integrate, or that leave too many events waiting for others.
   */
  receive(sender: Connection, update: Uint8Array): void {
    const handle = this.#handle;
    if (handle === undefined) throw new TypeError("the document was not created");
    if (this.holdsTooMuch(update)) throw new EditRefused("tooMuch");
    // An update that completes held ones carries these as well, and their sender may not be this one.
    this.#sender = this.#heldCount === 0 ? sender : undefined;
    try {
      const { refused } = handle.receive([update]);
      if (refused.length > 0) throw new EditRefused("malformed");
    } catch (error) {
      if (isCoppiceError(error) && error.kind === "invalid")
        throw new EditRefused("malformed", { cause: error });
      throw error;
    } finally {
      this.#sender = undefined;
    }
    this.bytes += HEAP_FACTOR * update.length;
    if (this.bytes > 2 * this.#measuredBytes + MEASURE_BYTES) this.#measure();
    this.#unsavedBytes += update.length;
    this.#host.unsaved(update.length);
    this.saveSoon();
  }

  /** Whether the update would wait for others, and as many as may wait do so already. */
  holdsTooMuch(update: Uint8Array): boolean {
    return this.#heldCount >= this.#host.limits.heldEventsMax && leavesGap(this.#doc, update);
  }

  get #heldCount(): number {
    return this.#handle?.held.filter(({ reason }) => reason === undefined).length ?? 0;
  }

  /** Resolves, with the durable clock, when every edit before the call is durable. Rejects like `save`. */
  async settle(): Promise<number> {
    await this.#creating;
    if (this.#handle === undefined) return 0;
    await this.#handle.save();
    return this.durableClock;
  }

  /** Sends an awareness announcement to everybody, the sender included. */
  announce(bytes: Uint8Array): void {
    const message = awarenessMessage(bytes);
    for (const connection of this.connections) connection.sendAwareness(message);
  }

  leave(connection: Connection): void {
    if (!this.connections.delete(connection)) return;
    if (this.connections.size === 0) this.idleSince = performance.now();
    const gone = this.awareness.leave(connection);
    if (gone !== undefined) this.announce(gone);
  }

  saveSoon(): void {
    if (this.#saving !== undefined || this.ended) return;
    this.#saving = new Promise<void>((resolve) => setImmediate(resolve))
      .then(() => this.#saveAll())
      .finally(() => {
        this.#saving = undefined;
        if (this.#handle?.unsaved !== true) this.#settled(this.#unsavedBytes);
        else if (this.#host.gate.open) this.saveSoon();
      });
  }

  /** Saves what is unsaved. Resolves with whether all of it is durable. */
  async flush(): Promise<boolean> {
    await this.#creating?.catch(() => undefined);
    if (this.#handle?.unsaved) this.saveSoon();
    await this.#saving;
    return !this.unsaved;
  }

  /**
   * Releases it if nothing is unsaved; then, and only then, it returns true. Its connections must be gone.
   */
  release(): boolean {
    if (this.ended) return true;
    if (this.unsaved) return false;
    this.#end();
    return true;
  }

  /** Releases it whatever is unsaved: the clients have it, and send it again. */
  abandon(): void {
    if (!this.ended) this.#end();
  }

  #end(): void {
    this.#stop.abort();
    this.#settled(this.#unsavedBytes);
    const handle = this.#handle;
    this.#doc.destroy();
    // Nothing is awaited inside when it is discarded.
    handle?.close({ discard: true }).catch(() => undefined);
  }

  /** Shows what others have created meanwhile to who waits for it. Called every second or so. */
  look(): void {
    if (this.connections.size > 0 && this.#creating === undefined) void this.find();
  }

  /** Resolves when a document that others have created meanwhile is loaded; this one may have ended then. */
  async find(): Promise<void> {
    if (this.exists || this.ended) return;
    this.#creating ??= this.#host.storage
      .info(this.id)
      .then((info) => (info === undefined ? undefined : this.#appear()))
      .catch((error: unknown) => {
        // What passes is met again by the next look, or by the first edit.
        if (error instanceof EditRefused) this.#host.end(this, error.reason);
      })
      .finally(() => {
        this.#creating = undefined;
      });
    // A first edit that fails is told to its sender.
    await this.#creating.catch(() => undefined);
  }

  #measure(): void {
    this.bytes = HEAP_BASE_BYTES + HEAP_FACTOR * Y.encodeStateAsUpdate(this.#doc).length;
    this.#measuredBytes = this.bytes;
  }

  async #createWith(update: Uint8Array): Promise<void> {
    await this.#host.storage.append(this.id, [update], { model: "yjs" });
    this.#host.gate.succeeded();
    await this.#appear();
  }

  /** Loads what is stored by now, and shows it to those who have seen nothing yet. */
  async #appear(): Promise<void> {
    const handle = await this.#host.storage.load<Y.Doc>(this.id);
    if (handle === undefined) return this.#host.end(this, "deleted");
    this.#adopt(handle);
    const state = lackedBy(this.#doc);
    const message = syncMessage(SYNC_UPDATE, state);
    for (const connection of this.connections) connection.sendUpdate(message, () => NOTHING);
  }

  #adopt(handle: DocumentHandle<Y.Doc>): void {
    if (handle.model !== "yjs" || this.ended) {
      handle.close({ discard: true }).catch(() => undefined);
      if (!this.ended) throw new EditRefused("unsupported");
      return;
    }
    this.#handle = handle;
    this.#doc = handle.doc;
    this.#measure();
    handle.doc.on("update", (update: Uint8Array, _origin: unknown, _doc: Y.Doc, { beforeState }) => {
      this.#broadcast(update, beforeState);
    });
    this.#follow(handle).catch((error: unknown) => this.#host.end(this, "internal", error));
  }

  #broadcast(update: Uint8Array, beforeState: Map<number, number>): void {
    const message = syncMessage(SYNC_UPDATE, update);
    let before: Uint8Array | undefined;
    const versionBefore = () => {
      before ??= Y.encodeStateVector(beforeState as unknown as Y.Doc);
      return before;
    };
    for (const connection of this.connections)
      if (connection !== this.#sender) connection.sendUpdate(message, versionBefore);
  }

  async #saveAll(): Promise<void> {
    while (this.#handle?.unsaved && this.#host.gate.open && !this.ended) {
      const bytes = this.#unsavedBytes;
      try {
        await this.#handle.save();
      } catch (error) {
        await this.#saveFailed(error);
        continue;
      }
      this.#host.gate.succeeded();
      if (!this.ended) this.#settled(bytes);
    }
  }

  #settled(byteCount: number): void {
    this.#unsavedBytes -= byteCount;
    if (byteCount > 0) this.#host.unsaved(-byteCount);
  }

  async #saveFailed(error: unknown): Promise<void> {
    if (this.ended || this.#host.gate.report(error)) return;
    if (isCoppiceError(error, "DELETED")) return this.#host.end(this, "deleted");
    if (isCoppiceError(error, "CLOSED")) return this.#host.end(this, "shutdown");
    const passes = isCoppiceError(error) && (error.kind === "busy" || error.kind === "conflict");
    if (!passes) return this.#host.end(this, "internal", error);
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }

  /** Tells of each step of the durable clock, and pulls what others have appended. */
  async #follow(handle: DocumentHandle<Y.Doc>): Promise<void> {
    const { signal } = this.#stop;
    // What happened while it was loaded, a deletion say, nobody tells who listens from now on.
    let hasLooked = false;
    while (!signal.aborted) {
      this.#tellDurable(handle.durableClock);
      try {
        if (hasLooked) await handle.waitDurable(handle.clock + 1, { signal });
        if (!hasLooked || handle.durableClock > handle.clock) await handle.refresh();
        hasLooked = true;
      } catch (error) {
        if (signal.aborted) return;
        if (!(await this.#followFailed(error))) return;
      }
    }
  }

  async #followFailed(error: unknown): Promise<boolean> {
    if (isCoppiceError(error, "TRIMMED")) await this.flush();
    const reason = isCoppiceError(error) ? FOLLOW_ENDS.get(error.code) : "internal";
    if (reason === undefined) {
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      return true;
    }
    this.#host.end(this, reason, reason === "internal" || reason === "damaged" ? error : undefined);
    return false;
  }

  #tellDurable(clock: number): void {
    if (clock <= this.#durable) return;
    this.#durable = clock;
    const message = durableMessage(clock);
    for (const connection of this.connections) connection.sendDurable(message);
  }
}
