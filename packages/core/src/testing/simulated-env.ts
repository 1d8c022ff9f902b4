/**
 * A seeded source of chance and an environment that is driven by hand, so that a run repeats exactly.
 *
 * It does not patch globals: only code that takes its time and chance from an `Env` is simulated.
 *
 * Invariants:
 * - the same seed gives the same numbers, on every platform and in every later version;
 * - `elapsed` never goes back, whatever the wall clock does;
 * - time moves only through `advance` and `jump`, or through delays when `autoAdvance` is set.
 */

import { type Env, systemEnv } from "../base/env.js";

/** 2026-01-01T00:00:00Z. */
const START_MS = 1_767_225_600_000;

const WORD = 0x1_0000_0000;

/** Chance from a seed. Not for secrets: who sees a few numbers knows all the others. */
export interface SeededRandom {
  /** A number in [0, 1). */
  next(): number;
  /** An integer in [0, n). `n` is an integer from 1 to 2³²; else a `RangeError`. */
  int(n: number): number;
  /** New bytes, each from 0 to 255. */
  bytes(byteCount: number): Uint8Array;
  /** One of the items. A `RangeError` when there are none. */
  pick<T>(items: readonly T[]): T;
  /** A new array with the same items in another order. */
  shuffle<T>(items: readonly T[]): T[];
}

/** Chance from a seed, by default 1. Seeds are numbers; only their lowest 32 bits count. */
export function seededRandom(seed = 1): SeededRandom {
  const word = sfc32(seed);
  const int = (n: number): number => {
    if (!Number.isInteger(n) || n < 1 || n > WORD) throw new RangeError(`int takes 1 to 2^32, not ${n}`);
    return Math.floor((word() / WORD) * n);
  };
  return {
    next: () => word() / WORD,
    int,
    bytes: (byteCount) => Uint8Array.from({ length: byteCount }, () => word() & 0xff),
    pick: (items) => items[int(items.length)]!,
    shuffle: (items) => {
      const shuffled = [...items];
      for (let i = shuffled.length - 1; i > 0; i--) {
        const other = int(i + 1);
        [shuffled[i], shuffled[other]] = [shuffled[other]!, shuffled[i]!];
      }
      return shuffled;
    },
  };
}

/** "Small fast counting", 32 bits, of the PractRand suite: state of three words and a counter. */
function sfc32(seed: number): () => number {
  let [a, b, c, counter] = [0, seed | 0, 0, 1];
  const word = (): number => {
    const sum = (a + b + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + sum;
    return sum >>> 0;
  };
  for (let i = 0; i < 12; i++) word();
  return word;
}

export interface SimulatedEnvOptions {
  /** What the wall clock shows at first, in ms since 1970. Default: the start of 2026. */
  readonly startMs?: number;
  /**
   * `true`: when code waits for a delay, time moves to the earliest delay at the next turn, so that nobody
   * need call `advance`. `false` (the default): delays wait for `advance`.
   */
  readonly autoAdvance?: boolean;
  /**
   * When `Env.turn` calls back. Default: a real turn of the event loop. For fast-check:
   * `(callback) => void scheduler.schedule(Promise.resolve(), "turn").then(callback)`.
   */
  readonly turn?: (callback: () => void) => void;
}

/** An `Env` that is driven by hand. */
export interface SimulatedEnv extends Env {
  /**
   * Moves both clocks on by `ms` ≥ 0 and resolves the delays that fall due, earliest first. Their
   * reactions run after this returns and see the new time.
   */
  advance(ms: number): void;
  /** Moves only the wall clock, on or back, as an administrator or NTP would. Delays do not notice. */
  jump(ms: number): void;
  /** Delays that wait. */
  readonly delayCount: number;
}

interface Delay {
  readonly due: number;
  readonly resolve: () => void;
}

/** An `Env` with a seeded `random`, clocks moved by hand, and real turns unless told otherwise. */
export function simulatedEnv(seed = 1, options: SimulatedEnvOptions = {}): SimulatedEnv {
  const random = seededRandom(seed);
  const turn = options.turn ?? systemEnv().turn;
  const delays = new Set<Delay>();
  let wall = options.startMs ?? START_MS;
  let elapsed = 0;

  const earliest = () => [...delays].sort((a, b) => a.due - b.due);
  const advance = (ms: number): void => {
    if (!(ms >= 0 && ms < Infinity)) throw new RangeError(`time cannot advance by ${ms} ms`);
    wall += ms;
    elapsed += ms;
    for (const delay of earliest()) {
      if (delay.due > elapsed) break;
      delays.delete(delay);
      delay.resolve();
    }
  };
  let advancing = false;
  /** A turn for each step: what a delay was waited for with runs before the next one ends. */
  const advanceLater = (): void => {
    advancing = true;
    turn(() => {
      advancing = false;
      const [next] = earliest();
      if (next === undefined) return;
      advance(Math.max(0, next.due - elapsed));
      if (delays.size > 0) advanceLater();
    });
  };

  return {
    now: () => wall,
    elapsed: () => elapsed,
    random: (byteCount) => random.bytes(byteCount),
    delay: (ms, signal) =>
      new Promise((resolve, reject) => {
        signal?.throwIfAborted();
        const abort = () => {
          delays.delete(delay);
          reject(signal?.reason);
        };
        const delay: Delay = {
          due: elapsed + Math.max(0, ms),
          resolve: () => {
            signal?.removeEventListener("abort", abort);
            resolve();
          },
        };
        delays.add(delay);
        signal?.addEventListener("abort", abort, { once: true });
        if (options.autoAdvance === true && !advancing) advanceLater();
      }),
    turn,
    advance,
    jump: (ms) => {
      wall += ms;
    },
    get delayCount() {
      return delays.size;
    },
  };
}
