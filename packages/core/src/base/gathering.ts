/**
 * When a commit begins that others may still join: the wait between "something is to be committed" and "it
 * goes".
 *
 * One that seems to be alone goes as soon as the promise reactions that are due now have run. Where
 * commits hold several, those that one has just answered are about to come back, so the next waits for a
 * turn of the event loop. But when they need longer to come back than a commit takes, half of them go first,
 * and at once when others came until the last commit was done: the others' work is then done while the disk
 * does its own. Let x and y be the times that the halves need, and s a commit's: one after the other costs
 * x + y + s, side by side max(x, s) + max(y, s), which is less when x + y > s. To the time that they need
 * counts what it takes to make their commit ready, where it is said when it is. Where commits hold up the
 * thread nothing is done beside them, and nobody is cut off. Where the next commit may be handed over while
 * one is under way, that is done when the last of those who may come has come: it is prepared meanwhile.
 *
 * Commits that end without a turn of the event loop, as those to memory do, could follow one another for ever
 * and let no timer and no socket come in: after some time the next waits for a turn.
 *
 * Invariants: `begin` is called once for each wait; never inside `wait`, while `joined` and `next` may call
 * it.
 */

import { type Env, together } from "./env.js";
import { TURNLESS_MS_MAX } from "./turns.js";

/** Fewer than these are not cut off from those behind them; and so many more until it is looked again. */
const ENOUGH = 16;
const STEP = 8;
/**
 * Of a commit's time, the part that those behind it must have needed to be cut off, and to go ahead: these
 * are prepared as well, in time that is not measured.
 */
const [CUT_PART, AHEAD_PART] = [1 / 2, 1 / 3];
/** Commits to memory take no time, and many in one still cost less than many. */
const COMMIT_MS_MIN = 0.1;

const RESOLVED = Promise.resolve();
const afterReactions = together(
  (run) => void RESOLVED.then(run),
  (error) => void Promise.reject(error),
);

export class Gathering {
  readonly #env: Env;
  readonly #begin: () => void;
  readonly #ahead: (() => void) | undefined;
  #waiting = false;
  #since = 0;
  /** When `wait` was called, where nothing but promise reactions has run since. */
  #wanted: number | undefined;
  #begun = 0;
  #done = 0;
  #lastJoined = 0;
  #commitMs = Number.POSITIVE_INFINITY;
  /** What it took to make the last commit ready, for each member. */
  #readyMs = 0;
  /** The members of the last commit, and those who waited behind it: so many may come. */
  #expected = 0;
  /** Others came until the last commit was done. */
  #busy = false;
  /** The last commit let nobody else do anything meanwhile. */
  #held = false;
  /** The first commit since the last turn of the event loop began then; `undefined`: none did. */
  #turnlessSince: number | undefined;
  readonly #turned = () => {
    this.#turnlessSince = undefined;
  };
  #underway = false;

  /** `ahead`: takes what waits while a commit is under way, to begin when that is done; see `began`. */
  constructor(env: Env, begin: () => void, ahead?: () => void) {
    this.#env = env;
    this.#ahead = ahead;
    this.#begin = () => {
      if (!this.#waiting) return;
      this.#waiting = false;
      const now = this.#wanted;
      this.#wanted = undefined;
      this.began(now);
      begin();
    };
  }

  /** A commit is under way: `begin` was called, or one that was taken ahead is next. */
  began(now?: number): void {
    const env = this.#env;
    this.#begun = now ?? env.elapsed();
    if (this.#turnlessSince === undefined) {
      this.#turnlessSince = this.#begun;
      env.turn(this.#turned);
    }
    this.#underway = true;
  }

  /** What was begun is ready to go, and holds so many: what it takes from now on is the disk's time. */
  ready(count: number): void {
    // To look at the clock costs more than what is learnt from a few.
    if (count < ENOUGH) return;
    const now = this.#env.elapsed();
    this.#readyMs = (now - this.#begun) / count;
    this.#begun = now;
  }

  /** Something is to be committed since `now`, and no commit is under way. */
  wait(now: number = this.#env.elapsed()): void {
    this.#waiting = true;
    this.#since = now - this.#done < this.#commitMs ? this.#done : now;
    if (this.#expected > 1 || this.#isOverdue(now)) this.#env.turn(this.#begin);
    else {
      this.#wanted = now;
      afterReactions(this.#begin);
    }
  }

  /** After a commit, when others wait behind it; to be called before those are told whose commit it was. */
  next(): void {
    const now = this.#env.elapsed();
    if (!this.#busy || this.#isOverdue(now)) {
      this.wait(now);
      return;
    }
    this.#waiting = true;
    this.#begin();
  }

  /** One more waits, for this commit or for the next; so many are they, and so many are under way. */
  joined(count: number, underway = 0): void {
    if (count < ENOUGH) return;
    const isLast = this.#ahead !== undefined && this.#underway && count + underway >= this.#expected;
    if (!isLast && count % STEP !== 0) return;
    this.#lastJoined = this.#env.elapsed();
    if (this.#held || this.#isOverdue(this.#lastJoined)) return;
    if (isLast && this.#isBusy(count, AHEAD_PART)) this.#ahead?.();
    if (!this.#waiting || 2 * count < this.#expected) return;
    const eachMs = (this.#lastJoined - this.#since) / count + this.#readyMs;
    if (eachMs * Math.max(count, this.#expected) <= this.#commitMs) return;
    this.#wanted = undefined;
    this.#begin();
  }

  /** They needed more than this part of a commit's time to come. */
  #isBusy(behind: number, part: number): boolean {
    return behind >= ENOUGH && this.#lastJoined - this.#begun > this.#commitMs * part;
  }

  /** A commit of so many is done, and so many wait behind it. Returns when that was. */
  done(count: number, behind: number, now: number = this.#env.elapsed()): number {
    this.#underway = false;
    this.#held = this.#turnlessSince !== undefined;
    this.#expected = count + behind;
    this.#done = now;
    this.#commitMs = Math.max(COMMIT_MS_MIN, this.#done - this.#begun);
    this.#busy = this.#isBusy(behind, CUT_PART);
    return now;
  }

  /** Then what waits for a turn is not begun before. */
  #isOverdue(now: number): boolean {
    return this.#turnlessSince !== undefined && now - this.#turnlessSince > TURNLESS_MS_MAX;
  }
}
