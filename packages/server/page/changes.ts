/**
 * What the server tells as it happens: one stream for the whole page, while its tab is visible.
 *
 * It says that something has changed, and views ask for it again; the figures of the metrics come along.
 * Without it views ask now and then, and the page says so.
 *
 * Invariants: at most one stream is open; a stream that has said nothing for `SILENCE_MS` counts as lost;
 * whoever missed messages is told so by a change of the state.
 */

import type { ChangeAnswer } from "@coppice/server/client";
import { useEffect, useState } from "preact/hooks";
import { api } from "./api.js";

/** `polling`: the server offers none, or to nobody more. */
export type StreamState = "connecting" | "live" | "reconnecting" | "polling";

/** Figures come every second. */
const SILENCE_MS = 10_000;
const RETRY_MS = { first: 300, most: 5_000, refused: 30_000 } as const;

class ChangeStream {
  state: StreamState = "connecting";
  readonly #listeners = new Set<(change: ChangeAnswer | undefined) => void>();
  #stop: AbortController | undefined;
  #retryMs: number = RETRY_MS.first;
  #timer = 0;

  start(): void {
    document.addEventListener("visibilitychange", () => this.#look());
    this.#look();
  }

  /** Told of each change, and of each change of the state with `undefined`, until the return is called. */
  listen(listener: (change: ChangeAnswer | undefined) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** Tries again now: somebody has heard of the server. */
  hurry(): void {
    if (this.state !== "reconnecting" || this.#stop !== undefined) return;
    this.#retryMs = RETRY_MS.first;
    this.#look();
  }

  #look(): void {
    window.clearTimeout(this.#timer);
    if (document.hidden) {
      this.#stop?.abort();
      return;
    }
    if (this.#stop === undefined) void this.#read();
  }

  async #read(): Promise<void> {
    const stop = new AbortController();
    this.#stop = stop;
    let silence = window.setTimeout(() => stop.abort(), SILENCE_MS);
    let isRefused = false;
    try {
      for await (const change of api.changes(stop.signal)) {
        window.clearTimeout(silence);
        silence = window.setTimeout(() => stop.abort(), SILENCE_MS);
        this.#retryMs = RETRY_MS.first;
        this.#become("live");
        this.#tell(change);
      }
    } catch (error) {
      isRefused = ((error as { status?: number }).status ?? 0) > 0;
    }
    window.clearTimeout(silence);
    this.#stop = undefined;
    this.#become(isRefused ? "polling" : "reconnecting");
    if (document.hidden) return;
    this.#timer = window.setTimeout(() => this.#look(), isRefused ? RETRY_MS.refused : this.#retryMs);
    this.#retryMs = Math.min(2 * this.#retryMs, RETRY_MS.most);
  }

  #become(state: StreamState): void {
    if (state === this.state) return;
    this.state = state;
    this.#tell(undefined);
  }

  #tell(change: ChangeAnswer | undefined): void {
    for (const listener of [...this.#listeners]) listener(change);
  }
}

export const stream: ChangeStream = new ChangeStream();

export function useStreamState(): StreamState {
  const [state, setState] = useState(stream.state);
  useEffect(() => {
    setState(stream.state);
    return stream.listen((change) => change === undefined && setState(stream.state));
  }, []);
  return state;
}
