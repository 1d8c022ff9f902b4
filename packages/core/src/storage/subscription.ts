/**
 * Subscriptions: the stored events of a document from a clock on, and then each one that is appended, by this
 * storage or, on a shared backend, by others.
 *
 * Nothing is queued for a slow consumer. It is woken, and reads on from the store where it stopped; so memory
 * is bounded by one page, and a consumer that a trim overtakes ends with `TRIMMED` instead of skipping.
 *
 * Wake-ups are hints: appends of this storage, the backend's `watch`, a poll on shared backends, the end of a
 * recovery, a deletion. Each of them may be lost, merged or repeated but those of this storage itself.
 *
 * Invariants: events are yielded once, in order, without a gap; nobody waits beyond the head, where events
 * would be left out that take the clocks of lost ones. On an exclusive backend only those are
 * yielded that this storage knows to be durable: a read beside a commit, or after a failed one, may show
 * more.
 */

import { CoppiceError, type ErrorKind, isCoppiceError } from "../base/errors.js";
import type { Guard } from "../contract/guard.js";
import type { Context } from "./context.js";
import type { DocumentLog } from "./document-log.js";
import { afterHeadError } from "./head.js";
import { readOn, type Seen, type StoredEvent } from "./queries.js";

export interface SubscribeOptions {
  /** Clock of the first event, at most the head; default: the first one of the document. */
  readonly from?: number;
  /** Ends the subscription: the call that waits rejects with the signal's reason. */
  readonly signal?: AbortSignal;
}

/** What a subscription needs of its storage. */
export interface SubscriptionOwner {
  readonly context: Context;
  readonly pulse: Pulse;
  log(id: string): DocumentLog;
  /** Throws `CLOSED` once the storage closes. */
  assertOpen(): void;
}

/** Where a hint may be lost, or the store could not be asked, it is asked after so long. */
const POLL_MS = 1000;

/** Tells all subscriptions of a storage to look again: after a recovery, and when it closes. */
export class Pulse {
  readonly #listeners = new Set<() => void>();

  get isHeard(): boolean {
    return this.#listeners.size > 0;
  }

  readonly beat = (): void => {
    for (const listener of [...this.#listeners]) listener();
  };

  /** Until the returned function is called. */
  listen(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

/**
 * Those that a signal ends. It has one listener for all of them: Node warns of more than ten; and none
 * without them: Node keeps a combined signal in memory for as long as it has one.
 */
const endedBy = new WeakMap<AbortSignal, Pulse>();

function onAbort(signal: AbortSignal, listener: () => void): () => void {
  const known = endedBy.get(signal);
  const pulse = known ?? new Pulse();
  if (known === undefined) {
    endedBy.set(signal, pulse);
    signal.addEventListener("abort", pulse.beat, { once: true });
  }
  const stop = pulse.listen(listener);
  return () => {
    stop();
    if (pulse.isHeard) return;
    signal.removeEventListener("abort", pulse.beat);
    endedBy.delete(signal);
  };
}

/** See `DocumentStorage.subscribe`. */
export function subscribe(
  owner: SubscriptionOwner,
  id: string,
  options: SubscribeOptions,
): AsyncIterableIterator<StoredEvent> {
  const follower = new Follower(owner, id, options);
  const events = follower.follow();
  return {
    next: () => events.next(),
    // Also while `next` waits: a generator by itself would only return after the next event.
    return: () => {
      follower.end();
      return events.return(undefined);
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}

class Follower {
  readonly #owner: SubscriptionOwner;
  readonly #id: string;
  readonly #signal: AbortSignal | undefined;
  readonly #seen: Seen = { identity: undefined };
  #next: number | undefined;
  /** Known to be durable; `undefined` before it was asked for. */
  #durable: number | undefined;
  #watched: Guard | undefined;
  #stopWatching: (() => void) | undefined;
  #ended = false;
  #due = false;
  #resume: (() => void) | undefined;

  constructor(owner: SubscriptionOwner, id: string, { from, signal }: SubscribeOptions) {
    this.#owner = owner;
    this.#id = id;
    this.#next = from;
    this.#signal = signal;
  }

  get #log(): DocumentLog {
    return this.#owner.log(this.#id);
  }

  end(): void {
    this.#ended = true;
    this.#wake();
  }

  async *follow(): AsyncGenerator<StoredEvent, undefined> {
    const stops = this.#listen();
    try {
      for (;;) {
        this.#owner.assertOpen();
        this.#signal?.throwIfAborted();
        if (this.#ended) return;
        if (await this.#prepare()) yield* this.#news();
        if (this.#ended) return;
        await this.#wait();
      }
    } finally {
      for (const stop of stops) stop();
      this.#stopWatching?.();
    }
  }

  #listen(): (() => void)[] {
    const ends = this.#signal === undefined ? [] : [onAbort(this.#signal, () => this.#wake())];
    return [
      ...ends,
      // Asked for here, not at the call: only a log that somebody listens to is sure to stay.
      this.#log.listen((clock) => {
        if (this.#durable !== undefined) this.#durable = Math.max(this.#durable, clock);
        this.#wake();
      }),
      this.#owner.pulse.listen(() => {
        // A commit whose outcome was unknown may have been found to be stored.
        this.#durable = undefined;
        this.#wake();
      }),
    ];
  }

  /** Registers for hints, and asks how far the log is durable. False: not now, wait. */
  async #prepare(): Promise<boolean> {
    const { guard } = this.#owner.context;
    try {
      if (this.#watched !== guard) {
        this.#stopWatching?.();
        this.#stopWatching = guard.watch(() => this.#wake());
        this.#watched = guard;
      }
      // Between two commits of this document: what is stored then is durable.
      if (guard.traits.exclusive) this.#durable ??= (await this.#log.exclusively(async (head) => head)).clock;
      return true;
    } catch (error) {
      if (!this.#passes(error, ["closed", "busy", "unknown", "conflict"])) throw error;
      return false;
    }
  }

  /** What is stored from here on. */
  async *#news(): AsyncGenerator<StoredEvent> {
    const { context } = this.#owner;
    const { exclusive } = context.guard.traits;
    // A recovery has ended since `#prepare` asked, and woke this: it asks again.
    if (exclusive && this.#durable === undefined) return;
    const to = exclusive ? this.#durable : undefined;
    const range = {
      ...(this.#next === undefined ? {} : { from: this.#next }),
      ...(to === undefined ? {} : { to }),
      ...(this.#signal === undefined ? {} : { signal: this.#signal }),
    };
    try {
      for await (const event of readOn(context, this.#id, range, this.#seen)) {
        this.#next = event.clock + 1;
        yield event;
        if (this.#ended) return;
      }
      this.#assertReached(to);
    } catch (error) {
      if (!this.#passes(error, ["closed"])) throw error;
    }
  }

  /**
   * What its consumer was given is gone, or never was in this store: to wait would be to leave out what takes
   * these clocks next.
   */
  #assertReached(durable: number | undefined): void {
    const next = this.#next ?? 0;
    const head = durable ?? (this.#seen.identity === undefined ? 0 : next);
    if (next > head) throw afterHeadError(this.#id, next, head);
  }

  /**
   * The backend is closed by a recovery, or an append that failed took along what waited behind it: then the
   * end of the recovery tells how it goes on, or a while later it is asked again.
   */
  #passes(error: unknown, kinds: readonly ErrorKind[]): boolean {
    if (this.#signal?.aborted) return false;
    this.#owner.assertOpen();
    return isCoppiceError(error) && kinds.includes(error.kind);
  }

  #wake(): void {
    this.#due = true;
    this.#resume?.();
  }

  async #wait(): Promise<void> {
    const { env, guard } = this.#owner.context;
    const timer = new AbortController();
    if (!guard.traits.exclusive || this.#durable === undefined) {
      env.delay(POLL_MS, timer.signal).then(
        () => this.#wake(),
        // The wait is over.
        () => undefined,
      );
    }
    if (!this.#due) {
      await new Promise<void>((resolve) => {
        this.#resume = resolve;
      });
    }
    this.#resume = undefined;
    this.#due = false;
    timer.abort(new CoppiceError("CLOSED", "the subscription goes on"));
  }
}
