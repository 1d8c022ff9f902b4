/**
 * A live document of an event graph: its state, local events, undo, and questions about its history.
 *
 * It writes under a replica of its own, made with the first event; a replica that wrote before is never
 * resumed. It knows no storage: a tracker takes what it makes, `Model.apply` brings what others made.
 *
 * Invariants: a local event has the frontier as its parents; what `change` made is given to trackers when it
 * has ended, and taken back when it throws.
 */

import type { Env } from "../base/env.js";
import { CoppiceError } from "../base/errors.js";
import type { Applied, Tracker } from "../contract/model.js";
import {
  assertRelations,
  type Cancellation,
  type EventId,
  type GraphEvent,
  REPLICA_BYTES,
  replicaOf,
  SoundEvent,
} from "./event.js";
import type { History } from "./history.js";
import { type AnyHistory, bare, descendantsOf, mergeBaseOf, pick, reach, stateOf } from "./queries.js";
import { encodeKnown, encodeSnapshot, encodeVersion, restoreHistory, type StateCodec } from "./snapshot.js";
import { assertValue } from "./values.js";

/** What a document needs of its model. */
export interface GraphTools<State> {
  readonly env: Env;
  readonly states: StateCodec<State>;
}

/** Where a tracker takes events from. */
interface Capture<Payload> {
  readonly add: (event: GraphEvent<Payload>) => void;
  readonly tell: () => void;
}

/** Own events `[from, to)`, made by one `change`. */
interface Step {
  readonly from: number;
  readonly to: number;
}

/** An event that the reducer threw at, and which therefore changes nothing. */
export interface FailedEvent<Payload> {
  readonly event: GraphEvent<Payload>;
  readonly error: unknown;
}

export class GraphDocument<State, Payload> {
  #history: History<State, Payload>;
  readonly #tools: GraphTools<State>;
  readonly #trackers = new Set<Capture<Payload>>();
  #replica: string | undefined;
  #undos: Step[] = [];
  #redos: Step[] = [];
  /** Own events that were not taken yet; and those of the last take, which may not be stored yet. */
  #made = 0;
  #handed = 0;
  /** Events of the `change` that is running. */
  #change: GraphEvent<Payload>[] | undefined;

  /** @internal */
  constructor(history: History<State, Payload>, tools: GraphTools<State>) {
    this.#history = history;
    this.#tools = tools;
  }

  /** The fold of all events in their order. Not to be changed by hand. */
  get state(): State {
    return this.#history.state;
  }

  /** Who writes here: made by chance at the first event. */
  get replica(): string {
    if (this.#replica === undefined) {
      do this.#replica = replicaOf(this.#tools.env.random(REPLICA_BYTES));
      while (this.#history.next(this.#replica) > 0);
    }
    return this.#replica;
  }

  /** Events of the version, those before the kept history included. */
  get size(): number {
    return this.#history.size;
  }

  /** The events that are nobody's parents. */
  get frontier(): EventId[] {
    return this.#history.heads.map(bare);
  }

  /**
   * Makes an event on top of everything known here, and folds it. Throws a `TypeError` for a payload that is
   * not plain data, and what the model's `check` and `apply` throw; then nothing has changed. O(1).
   */
  emit(payload: Payload): GraphEvent<Payload> {
    const { check } = this.#history.reducer;
    assertValue(payload);
    check?.(payload);
    const event = this.#make(payload, undefined);
    this.#redos = [];
    return event;
  }

  /**
   * Runs `fn`; all that it makes is one step for `undo`. When it throws, what it made is taken back and
   * nobody hears of it. Changes within changes belong to the outermost.
   */
  change<Result>(fn: () => Result): Result {
    if (this.#change !== undefined) return fn();
    const made: GraphEvent<Payload>[] = [];
    const kept = { undos: this.#undos.slice(), redos: this.#redos.slice() };
    this.#change = made;
    try {
      return fn();
    } catch (error) {
      if (made.length > 0) this.#history.remove(made[0]!.replica, made[0]!.sequence);
      made.length = 0;
      this.#undos = kept.undos;
      this.#redos = kept.redos;
      throw error;
    } finally {
      this.#change = undefined;
      this.#tell(made);
    }
  }

  /**
   * Takes the newest step of this document that is not undone out of the fold; `false` when there is none, or
   * it lies before the history that a load keeps. Others' events stay, and those that the step had made
   * impossible may count again. The steps of earlier loads and of others cannot be undone.
   */
  undo(): boolean {
    return this.#cancel(this.#undos, this.#redos, true);
  }

  /** Puts the step that was undone last back into the fold. A new event ends what can be redone. */
  redo(): boolean {
    return this.#cancel(this.#redos, this.#undos, false);
  }

  get canUndo(): boolean {
    return this.#isKept(this.#undos.at(-1));
  }

  get canRedo(): boolean {
    return this.#isKept(this.#redos.at(-1));
  }

  /** The event with this id, when it is kept. */
  event(id: EventId): GraphEvent<Payload> | undefined {
    return this.#kept().find(id)?.event;
  }

  /** All kept events in the order of the fold. */
  events(): GraphEvent<Payload>[] {
    return pick(this.#kept(), () => true);
  }

  /** Kept events that happened before this one, in order. */
  ancestors(id: EventId): GraphEvent<Payload>[] {
    const own = this.event(id);
    const marks = reach(this.#kept(), own?.parents.filter((parent) => this.event(parent)) ?? [id]);
    return pick(this.#kept(), (i) => marks[i] === 1);
  }

  /** Events that happened after this one, in order. */
  descendants(id: EventId): GraphEvent<Payload>[] {
    return descendantsOf(this.#kept(), id);
  }

  /** True when neither of two different events happened before the other. */
  isConcurrent(a: EventId, b: EventId): boolean {
    const [left, right] = [reach(this.#kept(), [a]), reach(this.#kept(), [b])];
    const [atA, atB] = [this.#position(a), this.#position(b)];
    return atA >= 0 && atB >= 0 && left[atB] === 0 && right[atA] === 0;
  }

  /** The heads of the greatest version that is part of both versions; `[]`: they have nothing in common. */
  mergeBase(a: readonly EventId[], b: readonly EventId[]): EventId[] {
    return mergeBaseOf(this.#kept(), a, b);
  }

  /** Events of each version that are not in the other. */
  diff(
    a: readonly EventId[],
    b: readonly EventId[],
  ): { readonly onlyA: GraphEvent<Payload>[]; readonly onlyB: GraphEvent<Payload>[] } {
    return { onlyA: this.eventsBetween(b, a), onlyB: this.eventsBetween(a, b) };
  }

  /** Events that are not in the version. */
  eventsAfter(version: readonly EventId[]): GraphEvent<Payload>[] {
    const marks = reach(this.#kept(), version);
    return pick(this.#kept(), (i) => marks[i] === 0);
  }

  /** Events of the version `to` that are not in the version `from`. */
  eventsBetween(from: readonly EventId[], to: readonly EventId[]): GraphEvent<Payload>[] {
    const [before, marks] = [reach(this.#kept(), from), reach(this.#kept(), to)];
    return pick(this.#kept(), (i) => marks[i] === 1 && before[i] === 0);
  }

  /**
   * Heads of the kept critical versions of one head, oldest first: every event in such a version happened
   * before every event outside it.
   */
  criticalVersions(): EventId[] {
    const { base, order, critical } = this.#kept();
    const heads = critical.map((size) => bare(order[size - 1 - base.size]!.event));
    return base.head === undefined ? heads : [bare(base.head), ...heads];
  }

  /** The newest of `criticalVersions`. */
  lastCriticalVersion(): EventId | undefined {
    const { base, order, critical } = this.#history;
    const last = critical.at(-1);
    return last === undefined ? base.head && bare(base.head) : bare(order[last - 1 - base.size]!.event);
  }

  /** Where the kept history begins: the events before it, and their head. */
  get keptFrom(): { readonly size: number; readonly head: EventId | undefined } {
    const { base } = this.#kept();
    return { size: base.size, head: base.head && bare(base.head) };
  }

  /**
   * The state of a version. Throws `TRIMMED` for one before the kept history, `ARGUMENT_INVALID` for an
   * unknown one.
   */
  stateAt(version: readonly EventId[]): State {
    this.#kept();
    return stateOf(this.#history, version);
  }

  /** True when the event is undone. */
  isUndone(id: EventId): boolean {
    this.#kept();
    return this.#history.isCancelled(id);
  }

  /** Kept events that the reducer threw at. */
  failures(): FailedEvent<Payload>[] {
    return this.#kept().order.flatMap(({ event, failure }) =>
      failure === undefined ? [] : [{ event, error: failure }],
    );
  }

  /** For the model. @internal */
  apply(events: readonly GraphEvent<Payload>[]): Applied<this> {
    if (this.#change !== undefined) throw new TypeError("events cannot be applied inside a change");
    this.#history.ahead = this.#made + this.#handed;
    return { doc: this, ...this.#history.apply(events) };
  }

  /** For the model. @internal */
  track(): Tracker<unknown, GraphEvent<Payload>> {
    let captured: GraphEvent<Payload>[] = [];
    const listeners: (() => void)[] = [];
    const capture: Capture<Payload> = {
      add: (event) => void captured.push(event),
      tell: () => {
        for (const listener of listeners) listener();
      },
    };
    this.#trackers.add(capture);
    return {
      take: () => {
        const events = captured;
        captured = [];
        this.#handed = this.#made;
        this.#made = 0;
        return events;
      },
      pending: () => captured.length > 0,
      onEvent: (listener) => void listeners.push(listener),
      stop: () => void this.#trackers.delete(capture),
    };
  }

  /** For the model. @internal */
  bytes(of: "snapshot" | "version" | "peerVersion"): Uint8Array {
    if (of === "snapshot") {
      this.#history.ahead = 0;
      return encodeSnapshot(this.#history, this.#tools.states);
    }
    return of === "version" ? encodeVersion(this.#history.heads) : encodeKnown(this.#history.known());
  }

  /** For the model: goes over to a snapshot of others, and keeps what that lacks. @internal */
  adopt(snapshot: Uint8Array): Applied<this> {
    if (this.#change !== undefined) throw new TypeError("a snapshot cannot be adopted inside a change");
    const { reducer, window } = this.#history;
    const adopted = restoreHistory(snapshot, this.#tools.states, reducer, window);
    const own = this.#kept().order.filter(({ event }) => event.sequence >= adopted.next(event.replica));
    const { held, refused } = adopted.apply(own.map(({ event }) => event));
    if (held.length + refused.length > 0 || lacks(adopted, this.#history)) {
      throw new CoppiceError(
        "TRIMMED",
        "events of this document branch off before the history that is kept",
        {
          details: { events: held.length + refused.length, reason: refused[0]?.reason },
        },
      );
    }
    const applied = adopted.size - this.#history.size;
    this.#history = adopted;
    return { doc: this, applied, held, refused };
  }

  #make(payload: Payload, cancels: Cancellation | undefined): GraphEvent<Payload> {
    const history = this.#history;
    const { replica } = this;
    const heads = history.heads;
    let lamport = 0;
    for (const head of heads) if (head.lamport > lamport) lamport = head.lamport;
    const event = new SoundEvent(
      replica,
      history.next(replica),
      heads.map(bare),
      lamport + 1,
      Math.max(0, Math.floor(this.#tools.env.now())),
      history.reducer.version,
      payload,
      cancels,
    );
    if (heads.length > 1) assertRelations(event);
    const entry = history.enter(event);
    history.append(entry);
    if (entry.failure !== undefined) {
      history.remove(replica, event.sequence);
      throw entry.failure;
    }
    if (cancels === undefined) this.#noteStep(event.sequence);
    if (this.#change === undefined) this.#tell([event]);
    else this.#change.push(event);
    return event;
  }

  /** The events of one change are one step, though undos may lie between. */
  #noteStep(sequence: number): void {
    const last = this.#undos.at(-1);
    const first = this.#change?.[0]?.sequence;
    if (last !== undefined && first !== undefined && last.from >= first) this.#undos.pop();
    this.#undos.push({ from: first ?? sequence, to: sequence + 1 });
  }

  #cancel(from: Step[], to: Step[], undone: boolean): boolean {
    const step = from.at(-1);
    if (step === undefined || !this.#isKept(step)) return false;
    from.pop();
    to.push(step);
    this.#make(undefined as Payload, { replica: this.replica, from: step.from, to: step.to, undone });
    return true;
  }

  #isKept(step: Step | undefined): boolean {
    if (step === undefined) return false;
    const entry = this.#kept().find({ replica: this.replica, sequence: step.from });
    return entry !== undefined && this.#history.staysKept(entry.index);
  }

  /** Every event is captured before a listener, which may throw, hears of the first. */
  #tell(events: readonly GraphEvent<Payload>[]): void {
    this.#made += events.length;
    for (const event of events) for (const { add } of this.#trackers) add(event);
    for (let i = 0; i < events.length; i++) for (const { tell } of this.#trackers) tell();
  }

  #position(id: EventId): number {
    const index = this.#history.find(id)?.index;
    return index === undefined ? -1 : index - this.#history.base.size;
  }

  /** The history, with everything that can still be read. */
  #kept(): AnyHistory<Payload> {
    this.#history.unfold();
    return this.#history as AnyHistory<Payload>;
  }
}

/** True when the other history knows events of the time before its base that this one does not know. */
function lacks(adopted: History<unknown, unknown>, other: History<unknown, unknown>): boolean {
  return [...other.base.known].some(([replica, next]) => adopted.next(replica) < next);
}
