/**
 * How long others have waited for a turn of the event loop, and a pause for them.
 *
 * What a backend answers without leaving the thread (from memory, from the cache of the system) is a promise
 * reaction, and those run before any timer, socket or signal. A walk over many documents is nothing but such
 * reads, so without pauses it would be the only thing in the process until its end.
 *
 * Invariant: while the event loop turns by itself there is no pause.
 */

import type { Env } from "./env.js";

/** So long may work without a turn hold up everything else in the process. */
export const TURNLESS_MS_MAX = 5;
/** Of those who wait, so many go on in one turn: what they do then is done before the next. */
const RELEASED_MAX = 64;

export class Turns {
  readonly #env: Env;
  /** Something was done since the last turn, first then; `undefined`: nothing was. */
  #since: number | undefined;
  #waiting: (() => void)[] = [];
  readonly #turned = () => {
    this.#since = undefined;
    const due = this.#waiting;
    if (due.length === 0) return;
    this.#waiting = due.splice(RELEASED_MAX);
    this.#begin();
    for (const go of due) go();
  };

  constructor(env: Env) {
    this.#env = env;
  }

  /** To be called before each step: a turn of the event loop, when it is due. */
  pause(): Promise<void> | undefined {
    if (this.#since === undefined) {
      this.#begin();
      return undefined;
    }
    if (this.#env.elapsed() - this.#since <= TURNLESS_MS_MAX) return undefined;
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  #begin(): void {
    this.#since = this.#env.elapsed();
    this.#env.turn(this.#turned);
  }
}
