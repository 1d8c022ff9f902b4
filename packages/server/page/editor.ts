/**
 * One person at one document: a Yjs document of its own, a connection of its own, and a record of each
 * keystroke from the moment it was typed until the server has said that it is durable.
 *
 * It draws nothing. The text is the root type `text`, as in the samples.
 *
 * Invariant: a keystroke is durable here only when `DurabilityWatch` says so; through lost connections it
 * stays pending, and is never forgotten.
 */

import { DurabilityWatch } from "@coppice/server/client";
import { WebsocketProvider } from "y-websocket";
import * as Y from "yjs";
import { syncUrl, token } from "./api.js";

export interface Keystroke {
  readonly number: number;
  readonly person: string;
  /** What was typed, or a sign for what was removed. */
  readonly shown: string;
  readonly typedAt: number;
  durableMs: number | undefined;
}

export interface PersonFacts {
  readonly connected: boolean;
  readonly synced: boolean;
  readonly writable: boolean;
  readonly pending: number;
  readonly clock: number | undefined;
  /** Why the server ended the connection for good. */
  readonly refusal: Refusal | undefined;
}

export interface Refusal {
  /** A close code from 4400 to 4499. */
  readonly code: number;
  readonly reason: string;
}

export interface Colours {
  readonly color: string;
  readonly colorLight: string;
}

export const TEXT_NAME = "text";
const BACKOFF_MS = 400;

export class Person {
  readonly name: string;
  readonly doc: Y.Doc = new Y.Doc();
  readonly text: Y.Text = this.doc.getText(TEXT_NAME);
  readonly provider: WebsocketProvider;
  readonly undo: Y.UndoManager = new Y.UndoManager(this.text);
  readonly #watch: DurabilityWatch;
  #refusal: Refusal | undefined;
  readonly #onChange: () => void;
  readonly #onKeystroke: (keystroke: Keystroke) => void;

  constructor(options: {
    readonly id: string;
    readonly name: string;
    readonly colours: Colours;
    readonly next: () => number;
    readonly onKeystroke: (keystroke: Keystroke) => void;
    readonly onChange: () => void;
  }) {
    this.name = options.name;
    this.#onChange = options.onChange;
    this.#onKeystroke = options.onKeystroke;
    const known = token();
    this.provider = new WebsocketProvider(syncUrl(), encodeURIComponent(options.id), this.doc, {
      disableBc: true,
      maxBackoffTime: BACKOFF_MS,
      params: known === undefined ? {} : { token: known },
    });
    this.provider.awareness.setLocalStateField("user", { name: options.name, ...options.colours });
    this.#watch = new DurabilityWatch(this.provider);
    this.#watch.subscribe(this.#onChange);
    this.provider.on("status", this.#onChange);
    this.provider.on("sync", this.#onChange);
    this.provider.on("closed", (refusal: Refusal) => {
      this.#refusal = refusal;
      this.#onChange();
    });
    this.text.observe((event, { local }) => {
      if (local) this.#typed(event, options.next());
      this.#onChange();
    });
  }

  get facts(): PersonFacts {
    const { wsconnected, synced } = this.provider;
    const { writable, pendingCount, clock } = this.#watch;
    return { connected: wsconnected, synced, writable, pending: pendingCount, clock, refusal: this.#refusal };
  }

  /** Everything that was typed here is durable. */
  settled(): Promise<number> {
    return this.#watch.settled();
  }

  #typed({ changes }: Y.YTextEvent, number: number): void {
    const keystroke: Keystroke = {
      number,
      person: this.name,
      shown: shownOf(changes.delta),
      typedAt: performance.now(),
      durableMs: undefined,
    };
    this.#onKeystroke(keystroke);
    // Observers run before the update is sent: the question must follow it.
    queueMicrotask(() => {
      this.#watch.settled().then(
        () => {
          keystroke.durableMs = performance.now() - keystroke.typedAt;
          this.#onChange();
        },
        () => this.#onChange(),
      );
    });
  }

  close(): void {
    this.#watch.stop();
    this.undo.destroy();
    this.provider.awareness.destroy();
    this.provider.destroy();
    this.doc.destroy();
  }
}

function shownOf(delta: readonly { insert?: unknown; delete?: number }[]): string {
  for (const { insert } of delta) {
    if (typeof insert !== "string") continue;
    const first = [...insert][0] ?? "";
    return first === "\n" ? "↵" : first === " " ? "␣" : first;
  }
  return "⌫";
}
