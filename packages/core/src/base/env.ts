/**
 * The only door to time, chance, turns of the event loop, and workers. Tests pass their own.
 *
 * Invariant: nothing else in core uses `Date`, `performance`, `Math.random`, `crypto` or timers; a script in
 * the lint step checks it.
 */

export interface Env {
  /** Wall time in ms since 1970. May jump; storage never lets stored times go back. */
  now(): number;
  /** A clock that never goes back, in ms with fractions; only for durations. */
  elapsed(): number;
  /** Unpredictable bytes. */
  random(byteCount: number): Uint8Array;
  /** Resolves after `ms`; rejects with the signal's reason when aborted. */
  delay(ms: number, signal?: AbortSignal): Promise<void>;
  /**
   * Calls back after the promise reactions that are due now have run: the gathering window of group
   * commit. Costs microseconds, not the 1–4 ms of a timer.
   */
  turn(callback: () => void): void;
}

interface Immediate {
  setImmediate?: (callback: () => void) => unknown;
}

function turn(): (callback: () => void) => void {
  const immediate = (globalThis as Immediate).setImmediate;
  if (immediate !== undefined) return (callback) => void immediate(callback);
  if (typeof MessageChannel === "undefined") return (callback) => void setTimeout(callback, 0);
  const waiting: (() => void)[] = [];
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => waiting.shift()?.();
  return (callback) => {
    waiting.push(callback);
    port2.postMessage(0);
  };
}

/** The real environment of this process or page. */
export function systemEnv(): Env {
  return {
    now: () => Date.now(),
    elapsed: () => performance.now(),
    random: (byteCount) => crypto.getRandomValues(new Uint8Array(byteCount)),
    delay: (ms, signal) =>
      new Promise((resolve, reject) => {
        signal?.throwIfAborted();
        const abort = () => {
          clearTimeout(timer);
          reject(signal?.reason);
        };
        const timer = setTimeout(() => {
          signal?.removeEventListener("abort", abort);
          resolve();
        }, ms);
        signal?.addEventListener("abort", abort, { once: true });
      }),
    turn: turn(),
  };
}
