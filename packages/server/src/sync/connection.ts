/**
 * One client's WebSocket: reads its messages, one at a time and in order, and sends it what it should know.
 *
 * Invariants:
 * - nothing is answered before the document is loaded; messages that come earlier wait, and the socket is not
 *   read further;
 * - memory is bounded: a client that does not read gets no further updates queued, but one joined update once
 *   it has caught up; one that writes too fast, or faster than the disk, is not read for a while;
 * - a message that cannot be understood ends this connection, and touches no other.
 */

import type { Duplex } from "node:stream";
import type { ServerLimits } from "../limits.js";
import type { Corks } from "./corks.js";
import { EditRefused, type LiveDocument } from "./live-document.js";
import {
  awarenessMessage,
  CLOSE,
  type CloseReason,
  deniedMessage,
  durableMessage,
  markedMessage,
  readMessage,
  SYNC_STEP_1,
  SYNC_STEP_2,
  syncMessage,
  unmarkedMessage,
  writableMessage,
} from "./protocol.js";
import type { WriteGate } from "./write-gate.js";
import { isEmptyUpdate } from "./yjs-updates.js";

export interface ConnectionHost {
  readonly limits: ServerLimits;
  readonly gate: WriteGate;
  readonly corks: Corks;
  /** Too much waits for the disk: nobody is read further. */
  readonly congested: boolean;
  failed(error: unknown): void;
  /** The server ends it, for that reason. */
  closing(reason: CloseReason): void;
  left(connection: Connection): void;
}

type Block = "loading" | "creating" | "output" | "rate" | "disk";

const CHARGE_BYTES = 4096;

/** What is used of a socket of `ws`: who compiles against this package needs no types of that one. */
export interface ClientSocket {
  readonly readyState: number;
  readonly OPEN: number;
  readonly bufferedAmount: number;
  binaryType: string;
  on(event: string, listener: (...data: never[]) => void): unknown;
  send(data: Uint8Array, options: { binary: boolean }, sent: () => void): void;
  ping(): void;
  pause(): void;
  resume(): void;
  close(code: number, reason: string): void;
  terminate(): void;
}

export class Connection {
  readonly id: string;
  readonly address: string;
  /** Asks again whether the client may still read and write. */
  readonly authorize: (action: "read" | "write") => Promise<boolean>;
  #canWrite = false;
  readonly #socket: ClientSocket;
  /** Beneath the WebSocket. */
  readonly #stream: Duplex;
  readonly #host: ConnectionHost;
  /** Why the socket is not read, and since when. */
  readonly #blocks = new Map<Block, number>([["loading", performance.now()]]);
  readonly #queue: Uint8Array[] = [];
  #document: LiveDocument | undefined;
  /** Since when it could have been heard; since it joined. */
  #silentSince = Number.POSITIVE_INFINITY;
  #greeted = false;
  #watchesDurable = false;
  #denied = false;
  /** An edit of this client was refused: the document here lacks it until the client has sent all again. */
  #owes = false;
  /** It was asked for all that is not here, and has not answered. */
  #asked = false;
  #behind: { readonly version: Uint8Array } | undefined;
  #allowance: number;
  #refilled = performance.now();
  #pinged = 0;
  #heard: number = performance.now();
  #draining = false;

  constructor(
    socket: ClientSocket,
    stream: Duplex,
    host: ConnectionHost,
    facts: Pick<Connection, "id" | "address" | "authorize">,
  ) {
    this.#socket = socket;
    this.#stream = stream;
    this.#host = host;
    this.id = facts.id;
    this.address = facts.address;
    this.authorize = facts.authorize;
    this.#allowance = 2 * host.limits.messagesPerSecondMax;
    socket.binaryType = "nodebuffer";
    socket.pause();
    socket.on("message", (data: Buffer, isBinary: boolean) => {
      this.#heard = performance.now();
      if (!this.open) return;
      if (isBinary) {
        this.#queue.push(data);
        this.#drain();
      } else this.close("malformed");
    });
    socket.on("pong", () => {
      this.#heard = performance.now();
    });
    // ws closes the socket by itself after an error; what went wrong on the wire is the client's.
    socket.on("error", () => undefined);
    socket.on("close", () => {
      this.#queue.length = 0;
      this.#document?.leave(this);
      host.left(this);
    });
  }

  get open(): boolean {
    return this.#socket.readyState === this.#socket.OPEN;
  }

  get document(): LiveDocument | undefined {
    return this.#document;
  }

  /** The document is loaded: from now on messages are handled. */
  join(document: LiveDocument): void {
    if (!this.open) return;
    this.#document = document;
    this.#silentSince = performance.now();
    document.connections.add(this);
    this.#ask(document);
    this.#sendStates();
    // Who comes while the disk is behind is told of no change: else coming again would be a way around it.
    this.congestionChanged();
    this.#unblock("loading");
  }

  /** What the client may do from now on. One that may write again is asked for what was refused. */
  permit(canWrite: boolean): void {
    const isNews = canWrite !== this.#canWrite;
    this.#canWrite = canWrite;
    if (!isNews || this.#document === undefined) return;
    this.#denied = false;
    this.writabilityChanged(canWrite && this.#host.gate.open);
  }

  close(reason: CloseReason): void {
    const [code, text] = CLOSE[reason];
    this.#queue.length = 0;
    if (!this.open) return;
    this.#host.closing(reason);
    // The client's own goodbye must be read.
    this.#socket.resume();
    this.#socket.close(code, text);
    // A client that does not answer is cut off.
    setTimeout(() => this.#socket.terminate(), this.#host.limits.shutdownMs).unref();
  }

  terminate(): void {
    this.#socket.terminate();
  }

  /** `versionBefore`: the state vector before the update. */
  sendUpdate(message: Uint8Array, versionBefore: () => Uint8Array): void {
    if (this.#behind !== undefined) return;
    if (this.#socket.bufferedAmount <= this.#host.limits.sendBufferBytesMax) {
      this.#send(message);
      return;
    }
    this.#behind = { version: versionBefore() };
    this.#block("output");
  }

  sendAwareness(message: Uint8Array): void {
    if (this.#behind === undefined) this.#send(message);
  }

  sendDurable(message: Uint8Array): void {
    if (this.#watchesDurable && this.#behind === undefined) this.#send(message);
  }

  /** The gate opened or shut, or the permission changed. */
  writabilityChanged(isOpen: boolean): void {
    const writable = isOpen && this.#canWrite;
    if (this.#watchesDurable) this.#send(writableMessage(writable));
    if (writable && this.#owes && this.#document !== undefined) this.#ask(this.#document);
  }

  /** For everything that the document here lacks. */
  #ask(document: LiveDocument): void {
    this.#asked = true;
    this.#send(syncMessage(SYNC_STEP_1, document.stateVector()));
  }

  /** The disk has caught up, or fallen behind. */
  congestionChanged(): void {
    if (this.#host.congested) this.#block("disk");
    else this.#unblock("disk");
  }

  /** Called every second or so. */
  tick(now: number): void {
    const { loadMs, helloMs, pingMs, slowMs } = this.#host.limits;
    // What a socket says that is not read cannot be heard.
    if (this.#blocks.size > 0) this.#heard = now;
    if (this.#isUnread) this.#silentSince = Math.max(this.#silentSince, now);
    const isSilent = !this.#greeted && now - this.#silentSince > helloMs;
    const isGone = now - this.#heard > 2 * pingMs;
    if (now - (this.#blocks.get("loading") ?? now) > loadMs) this.close("unavailable");
    else if (isSilent) this.#closeIfSilent();
    else if (isGone || now - (this.#blocks.get("output") ?? now) > slowMs) this.#cutOff();
    else if (now - this.#pinged > pingMs && this.open) {
      this.#pinged = now;
      this.#socket.ping();
    }
  }

  /** After a turn of the event loop: it was perhaps this process that did not read what the client said. */
  #closeIfSilent(): void {
    setImmediate(() => {
      if (!this.#greeted && !this.#isUnread) this.close("silent");
    });
  }

  /** This side does not read what it says; but for `rate`, which is its own doing. */
  get #isUnread(): boolean {
    return this.#blocks.size > (this.#blocks.has("rate") ? 1 : 0);
  }

  /** Without a goodbye: it would not be read either. */
  #cutOff(): void {
    this.#host.closing("slow");
    this.#socket.terminate();
  }

  #send(message: Uint8Array): void {
    if (!this.open) return;
    this.#host.corks.hold(this.#stream);
    this.#socket.send(message, { binary: true }, () => this.#sent());
    if (this.#socket.bufferedAmount > this.#host.limits.sendBufferBytesMax) this.#block("output");
  }

  #sent(): void {
    if (!this.#blocks.has("output") || !this.open) return;
    if (this.#socket.bufferedAmount > this.#host.limits.sendBufferBytesMax / 2) return;
    const behind = this.#behind;
    this.#behind = undefined;
    if (behind !== undefined && this.#document !== undefined) {
      this.#send(syncMessage(SYNC_STEP_2, this.#document.diff(behind.version)));
      this.#sendStates();
      if (this.#watchesDurable) this.#send(durableMessage(this.#document.durableClock));
    }
    if (this.#socket.bufferedAmount <= this.#host.limits.sendBufferBytesMax) this.#unblock("output");
  }

  #sendStates(): void {
    const states = this.#document?.awareness.all();
    if (states !== undefined) this.#send(awarenessMessage(states));
  }

  #block(block: Block): void {
    if (this.#blocks.size === 0 && this.open) this.#socket.pause();
    if (!this.#blocks.has(block)) this.#blocks.set(block, performance.now());
  }

  #unblock(block: Block): void {
    if (!this.#blocks.delete(block) || this.#blocks.size > 0) return;
    if (this.open) this.#socket.resume();
    this.#drain();
  }

  #drain(): void {
    if (this.#draining) return;
    this.#draining = true;
    try {
      while (this.#blocks.size === 0 && this.open && this.#queue.length > 0)
        this.#handle(this.#queue.shift()!);
    } catch (error) {
      this.#failed(error);
    } finally {
      this.#draining = false;
    }
  }

  #failed(error: unknown): void {
    if (error instanceof EditRefused) this.close(error.reason);
    else if (error instanceof RangeError) this.close("malformed");
    else {
      this.#host.failed(error);
      this.close("internal");
    }
  }

  #handle(message: Uint8Array): void {
    const document = this.#document!;
    this.#charge(message.length);
    const read = readMessage(message);
    switch (read.kind) {
      case "sync":
        if (read.step === SYNC_STEP_1) this.#answer(document, read.bytes);
        else this.#edit(document, read.step, read.bytes);
        return;
      case "awareness": {
        const news = document.awareness.receive(read.bytes, this, this.#host.limits);
        if (news !== undefined) document.announce(news);
        return;
      }
      case "query-awareness":
        this.#sendStates();
        return;
      case "watch-durable":
        this.#watchesDurable = true;
        this.#send(durableMessage(document.durableClock));
        this.#send(writableMessage(this.#host.gate.open && this.#canWrite));
        return;
      case "mark":
        this.#mark(document, read.mark);
        return;
      case "other":
        return;
    }
  }

  #answer(document: LiveDocument, stateVector: Uint8Array): void {
    let update: Uint8Array;
    try {
      update = document.diff(stateVector);
    } catch (error) {
      throw new EditRefused("malformed", { cause: error });
    }
    this.#greeted = true;
    this.#charge(update.length);
    this.#send(syncMessage(SYNC_STEP_2, update));
  }

  #edit(document: LiveDocument, step: number, update: Uint8Array): void {
    if (step === SYNC_STEP_2) this.#asked = false;
    if (isEmptyUpdate(update) || (step === SYNC_STEP_2 && document.knows(update))) {
      if (step === SYNC_STEP_2 && this.#host.gate.open) this.#owes = false;
      return;
    }
    if (!this.#canWrite) {
      this.#owes = true;
      if (!this.#denied) this.#send(deniedMessage("this client may read the document, not change it"));
      this.#denied = true;
      return;
    }
    if (!this.#host.gate.open) {
      this.#owes = true;
      return;
    }
    if (document.exists) {
      if (step !== SYNC_STEP_2 && document.holdsTooMuch(update)) {
        // As a rule it goes on with what it did before it came, which the answer brings, with this as well.
        this.#owes = true;
        if (!this.#asked) this.#ask(document);
        return;
      }
      document.receive(this, update);
      if (step === SYNC_STEP_2) this.#owes = false;
      return;
    }
    this.#block("creating");
    document
      .create(update)
      .then(
        (isTaken) => {
          if (!isTaken) this.#edit(document, step, update);
          else if (step === SYNC_STEP_2) this.#owes = false;
        },
        (error: unknown) => this.#notCreated(error),
      )
      .catch((error: unknown) => this.#failed(error))
      .finally(() => this.#unblock("creating"));
  }

  #notCreated(error: unknown): void {
    const { code, kind } = error as { code?: unknown; kind?: unknown };
    if (code === "DELETED") this.close("deleted");
    else if (kind === "invalid") this.close("malformed");
    else if (this.#host.gate.report(error)) this.#owes = true;
    else if (kind === "busy" || kind === "conflict") this.close("unavailable");
    else throw error;
  }

  #mark(document: LiveDocument, mark: number): void {
    const refuse = (code: string) => this.#send(unmarkedMessage(mark, code));
    if (this.#owes) {
      refuse(this.#canWrite ? (this.#host.gate.reason ?? "BEHIND") : "FORBIDDEN");
      return;
    }
    document.settle().then(
      (clock) => this.#send(markedMessage(mark, clock)),
      (error: unknown) => refuse(String((error as { code?: unknown }).code ?? "INTERNAL")),
    );
  }

  /** Takes from the allowance; when it is used up, the socket is not read until it has grown again. */
  #charge(byteCount: number): void {
    const { messagesPerSecondMax: rate } = this.#host.limits;
    const now = performance.now();
    this.#allowance = Math.min(2 * rate, this.#allowance + ((now - this.#refilled) * rate) / 1000);
    this.#refilled = now;
    this.#allowance -= 1 + byteCount / CHARGE_BYTES;
    if (this.#allowance >= 0 || this.#blocks.has("rate")) return;
    this.#block("rate");
    setTimeout(() => this.#unblock("rate"), 10 + (-this.#allowance * 1000) / rate).unref();
  }
}
