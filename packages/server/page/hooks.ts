/**
 * What the views share: values that are asked for again when they have changed, and the place that the
 * address names.
 *
 * Invariants: a view that is gone hears of no answer any more; a hidden tab asks for nothing; an answer never
 * stands under another key than the one it was asked for; what takes long is asked for less often.
 */

import type { ActionsAnswer, ChangeAnswer } from "@coppice/server/client";
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, api } from "./api.js";
import { stream } from "./changes.js";

export interface Polled<T> {
  readonly value: T | undefined;
  readonly error: ApiError | undefined;
  /** Ask again now. */
  readonly refresh: () => void;
}

/** While changes are told, what is shown is asked for again so often all the same: a hint may be lost. */
const LIVE_MS = 15_000;
const RETRY_MS = 2_000;
/** Another token reloads the page. */
const REFUSED_MS = 30_000;
const ACTIONS_MS = 60_000;

export type Action = ActionsAnswer["actions"][number];

/** Of the time that the last answer took. */
const REST_TIMES = 4;

/**
 * Asks again when a change is told that `concerns` the value, but not within `restMs` of the last answer, and
 * `intervalMs` after each answer while none are told. What was answered stays when a later request fails; a
 * new `key` starts from nothing.
 */
export function usePolled<T>(
  key: string,
  intervalMs: number,
  ask: (signal: AbortSignal) => Promise<T>,
  concerns?: (change: ChangeAnswer) => boolean,
  restMs = 0,
): Polled<T> {
  const [state, setState] = useState<{ key: string; value?: T; error?: ApiError }>({ key });
  const latest = useRef({ ask, concerns });
  latest.current = { ask, concerns };
  const again = useRef<() => void>(() => undefined);
  useEffect(() => {
    const asking = new Asking(
      (signal) => latest.current.ask(signal),
      (value) => setState({ key, value }),
      (error) => setState((before) => (before.key === key ? { ...before, error } : { key, error })),
      () => (stream.state === "live" && latest.current.concerns ? LIVE_MS : intervalMs),
      restMs,
    );
    again.current = () => asking.now();
    const shown = () => (document.hidden ? asking.pause() : asking.now());
    document.addEventListener("visibilitychange", shown);
    const unheard = stream.listen((change) => {
      const { concerns: isOurs } = latest.current;
      if (isOurs !== undefined && (change === undefined || isOurs(change))) asking.soon();
    });
    asking.now();
    return () => {
      asking.stop();
      unheard();
      document.removeEventListener("visibilitychange", shown);
    };
  }, [key, intervalMs, restMs]);
  const current: typeof state = state.key === key ? state : { key };
  return { value: current.value, error: current.error, refresh: () => again.current() };
}

/** Whether the token allows it, with a document or the whole store; until the server has said, it does. */
export function useAllowed(id: string | undefined): (action: Action) => boolean {
  const { value } = usePolled(`actions ${id ?? ""}`, ACTIONS_MS, (signal) => api.actions(id, signal));
  return (action) => value?.actions.includes(action) ?? true;
}

/** One question, asked again and again; never twice at once. */
class Asking<T> {
  readonly #ask: (signal: AbortSignal) => Promise<T>;
  readonly #onValue: (value: T) => void;
  readonly #onError: (error: ApiError) => void;
  readonly #intervalMs: () => number;
  readonly #restMs: number;
  readonly #stop = new AbortController();
  #isAsking = false;
  #isStale = false;
  #timer = 0;
  #restUntil = 0;

  constructor(
    ask: (signal: AbortSignal) => Promise<T>,
    onValue: (value: T) => void,
    onError: (error: ApiError) => void,
    intervalMs: () => number,
    restMs: number,
  ) {
    this.#ask = ask;
    this.#onValue = onValue;
    this.#onError = onError;
    this.#intervalMs = intervalMs;
    this.#restMs = restMs;
  }

  now(): void {
    window.clearTimeout(this.#timer);
    if (this.#isAsking) this.#isStale = true;
    else void this.#run();
  }

  /** Now, or when it has rested from the last time. */
  soon(): void {
    if (this.#isAsking) this.#isStale = true;
    else this.#later(this.#restUntil - performance.now());
  }

  pause(): void {
    window.clearTimeout(this.#timer);
  }

  stop(): void {
    this.pause();
    this.#stop.abort();
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    const began = performance.now();
    this.#isAsking = true;
    this.#isStale = false;
    let failure: ApiError | undefined;
    try {
      const value = await this.#ask(signal);
      if (!signal.aborted) this.#onValue(value);
    } catch (error) {
      failure = asApiError(error);
      if (!signal.aborted) this.#onError(failure);
    }
    this.#isAsking = false;
    const ended = performance.now();
    const restMs = Math.max(this.#restMs, REST_TIMES * (ended - began));
    this.#restUntil = ended + restMs;
    // Nothing would tell of an answer that only this request did not get.
    const isRefused = failure?.status === 401 || failure?.status === 403;
    const intervalMs = this.#intervalMs();
    const failedMs = isRefused ? REFUSED_MS : Math.min(RETRY_MS, intervalMs);
    const nextMs = failure === undefined ? intervalMs : failedMs;
    this.#later(this.#isStale ? restMs : nextMs);
  }

  #later(ms: number): void {
    window.clearTimeout(this.#timer);
    if (this.#stop.signal.aborted || document.hidden) return;
    this.#timer = window.setTimeout(() => void this.#run(), Math.max(0, ms));
  }
}

/** The value, or the last one that there was: what is shown stays until the next has come. */
export function useLatest<T>(value: T | undefined): T | undefined {
  const latest = useRef<T | undefined>(undefined);
  latest.current = value ?? latest.current;
  return latest.current;
}

export function asApiError(error: unknown): ApiError {
  return error instanceof ApiError ? error : new ApiError(0, "PAGE", String(error));
}

/** The parts of the address after `#/`, decoded. */
export function usePlace(): readonly string[] {
  const [place, setPlace] = useState(placeOf);
  useEffect(() => {
    const changed = () => setPlace(placeOf());
    window.addEventListener("hashchange", changed);
    return () => window.removeEventListener("hashchange", changed);
  }, []);
  return place;
}

export function placeOf(): readonly string[] {
  return location.hash
    .replace(/^#\/?/, "")
    .split("/")
    .filter((part) => part !== "")
    .map(decodePart);
}

/** An address within the page; parts are encoded. */
export function linkTo(...parts: readonly string[]): string {
  return `#/${parts.map(encodeURIComponent).join("/")}`;
}

function decodePart(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
