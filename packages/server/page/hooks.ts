/**
 * What the views share: values that are asked for again and again, and the place that the address names.
 *
 * Invariants: a view that is gone hears of no answer any more; a hidden tab asks for nothing; an answer never
 * stands under another key than the one it was asked for.
 */

import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError } from "./api.js";

export interface Polled<T> {
  readonly value: T | undefined;
  readonly error: ApiError | undefined;
  /** Ask again now. */
  readonly refresh: () => void;
}

/**
 * Asks again `intervalMs` after each answer, while the tab is visible. What was answered stays when a later
 * request fails; a new `key` starts from nothing.
 */
export function usePolled<T>(
  key: string,
  intervalMs: number,
  ask: (signal: AbortSignal) => Promise<T>,
): Polled<T> {
  const [state, setState] = useState<{ key: string; value?: T; error?: ApiError }>({ key });
  const [round, setRound] = useState(0);
  const latest = useRef(ask);
  latest.current = ask;
  useEffect(() => {
    const stop = new AbortController();
    let timer: number | undefined;
    const run = async () => {
      try {
        const value = await latest.current(stop.signal);
        if (!stop.signal.aborted) setState({ key, value });
      } catch (error) {
        if (stop.signal.aborted) return;
        const known = asApiError(error);
        setState((before) => (before.key === key ? { ...before, error: known } : { key, error: known }));
      }
      schedule();
    };
    const schedule = () => {
      if (stop.signal.aborted || document.hidden) return;
      timer = window.setTimeout(() => void run(), intervalMs);
    };
    const shown = () => {
      window.clearTimeout(timer);
      if (!document.hidden) void run();
    };
    void run();
    document.addEventListener("visibilitychange", shown);
    return () => {
      stop.abort();
      window.clearTimeout(timer);
      document.removeEventListener("visibilitychange", shown);
    };
  }, [key, intervalMs, round]);
  const current: typeof state = state.key === key ? state : { key };
  return { value: current.value, error: current.error, refresh: () => setRound((before) => before + 1) };
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
