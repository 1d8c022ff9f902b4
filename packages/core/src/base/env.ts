/**
 * The only door to time, chance, turns of the event loop, and workers. Tests pass their own.
 *
 * Invariant: nothing else in core uses `Date`, `performance`, `Math.random`, `crypto` or timers; a script in
 * the lint step checks it.
 */

export interface Env {
  /**
   * Wall time in ms since 1970. May jump, and be wrong: storage never lets stored times go back, and takes a
   * time before 1970 for 1.
   */
  now(): number;
  /** A clock that never goes back, in ms with fractions; only for durations. */
  elapsed(): number;
  /** Unpredictable bytes, each given once; perhaps in one buffer with others, not to be handed out. */
  random(byteCount: number): Uint8Array;
  /** Resolves after `ms`; rejects with the signal's reason when aborted. */
  delay(ms: number, signal?: AbortSignal): Promise<void>;
  /**
   * Calls back after the promise reactions that are due now have run: the gathering window of group
   * commit. Costs microseconds, not the 1–4 ms of a timer.
   */
  turn(callback: () => void): void;
  /**
   * Starts a thread that runs the CommonJS source, with `parentPort` of `node:worker_threads`; `undefined`
   * where there are no threads. It keeps the process alive only while an answer is awaited.
   */
  thread?(source: string): Thread | undefined;
}

/** The other end of a thread's `parentPort`; each message that is sent gets one answer. */
export interface Thread {
  send(message: unknown): void;
  /** `error` is set when the thread died, or ended. */
  receive(listener: (message: unknown, error?: unknown) => void): void;
  stop(): Promise<void>;
}

interface NodeThreads {
  readonly Worker: new (source: string, options: { eval: true }) => NodeWorker;
}

interface NodeWorker {
  on(event: "message" | "error" | "exit", listener: (value: unknown) => void): void;
  postMessage(message: unknown): void;
  unref(): void;
  ref(): void;
  terminate(): Promise<number>;
}

/** Node's threads without an import, so that core still loads in browsers. */
function thread(source: string): Thread | undefined {
  const { process } = globalThis as { process?: { getBuiltinModule?: (name: string) => unknown } };
  const threads = process?.getBuiltinModule?.("node:worker_threads") as NodeThreads | undefined;
  if (threads === undefined) return undefined;
  const worker = new threads.Worker(source, { eval: true });
  let awaited = 0;
  worker.unref();
  return {
    send(message) {
      if (awaited++ === 0) worker.ref();
      worker.postMessage(message);
    },
    receive(listener) {
      worker.on("message", (message) => {
        if (--awaited === 0) worker.unref();
        listener(message);
      });
      worker.on("error", (error) => listener(undefined, error));
      worker.on("exit", (code) => listener(undefined, new Error(`the thread ended with code ${code}`)));
    },
    stop: () => worker.terminate().then(() => undefined),
  };
}

interface Immediate {
  setImmediate?: (callback: () => void) => unknown;
}

/**
 * All that wait for the same `later` share one call back of it: many documents that append at once ask for
 * many. One that throws stops none of the others; `thrown` makes it as uncaught as if it had had its own.
 */
export function together(
  later: (run: () => void) => void,
  thrown: (error: unknown) => void,
): (callback: () => void) => void {
  let waiting: (() => void)[] = [];
  const run = () => {
    const due = waiting;
    waiting = [];
    for (const callback of due) {
      try {
        callback();
      } catch (error) {
        thrown(error);
      }
    }
  };
  return (callback) => {
    if (waiting.push(callback) === 1) later(run);
  };
}

function turn(): (callback: () => void) => void {
  const later = laterTurn();
  return together(later, (error) =>
    later(() => {
      throw error;
    }),
  );
}

function laterTurn(): (callback: () => void) => void {
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

const DRAWN_BYTES = 4096;

/** A draw costs much the same for 16 bytes as for 4,096: small requests are views of one, each byte once. */
function random(): (byteCount: number) => Uint8Array {
  let drawn = new ArrayBuffer(0);
  let used = 0;
  return (byteCount) => {
    if (byteCount > DRAWN_BYTES / 16) return crypto.getRandomValues(new Uint8Array(byteCount));
    if (used + byteCount > drawn.byteLength) {
      drawn = crypto.getRandomValues(new Uint8Array(DRAWN_BYTES)).buffer;
      used = 0;
    }
    used += byteCount;
    return new Uint8Array(drawn, used - byteCount, byteCount);
  };
}

/**
 * The same with whole wall times from 1: no others can be stored, and a machine may start in 1969. Not from
 * 0, up to which commit ids count as forgotten.
 */
export function storable(env: Env): Env {
  for (const name of ["now", "elapsed", "random", "delay", "turn"] as const) {
    if (typeof (env as Env | null)?.[name] !== "function")
      throw new TypeError(`env must have a function ${name}, as systemEnv() has`);
  }
  const { thread } = env;
  return {
    now: () => {
      const now = env.now();
      return now > 1 ? Math.floor(now) : 1;
    },
    elapsed: () => env.elapsed(),
    random: (byteCount) => env.random(byteCount),
    delay: (ms, signal) => env.delay(ms, signal),
    turn: (callback) => env.turn(callback),
    ...(thread === undefined ? {} : { thread: (source) => thread.call(env, source) }),
  };
}

/** The real environment of this process or page. */
export function systemEnv(): Env {
  return {
    now: () => Date.now(),
    elapsed: () => performance.now(),
    random: random(),
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
    thread,
  };
}
