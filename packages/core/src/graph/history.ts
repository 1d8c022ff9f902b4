/**
 * The engine of the event graph: which events are known, in which order they are folded, and the state.
 *
 * The state is the fold of the reducer over the events in order (lamport, then replica). What sorts to the
 * end costs one call of the reducer; what sorts before costs a replay from the last checkpoint before it.
 *
 * A version is critical when every event in it happened before every event outside it (Gentle and Kleppmann,
 * "Collaborative Text Editing with Eg-walker", EuroSys 2025). A linear order shows it: the first `n` events
 * are critical exactly when they have one head and no later event has all its parents before that head.
 * `#critical` has those n, kept up as events come: an event ends all that lie behind its last parent.
 *
 * History is kept from a critical version on, the base. It moves when the number of events passes a multiple
 * of `window`, to the last critical version at least `window` events behind; so it depends on the events and
 * the order they are applied in, not on when snapshots were taken.
 *
 * Invariants: order = linear extension of the graph; `entry.index` is its place in the whole history; a
 * replica's retained events are contiguous; every retained event descends from the base.
 */

import { type Cancellation, compareEvents, type EventId, type GraphEvent } from "./event.js";
import { Offering, type Outcome } from "./offering.js";

export interface Reducer<State, Payload> {
  initial(): State;
  apply(state: State, payload: Payload, event: GraphEvent<Payload>): State;
  check?(payload: Payload): void;
  upcast?(payload: unknown, version: number): Payload;
  /**
   * What is left of a state when it becomes the base for the `count`-th time: nothing that a later event
   * cannot name need stay. Another state than the one given costs a replay of what is kept.
   */
  settle?(state: State, count: number): State;
  readonly version: number;
}

/** The newest event of a critical version. */
export interface Head extends EventId {
  readonly lamport: number;
}

/** A critical version and its state. */
export interface Base<State> {
  /** Number of events in it. */
  readonly size: number;
  readonly head: Head | undefined;
  /** For each replica its next sequence. */
  readonly known: ReadonlyMap<string, number>;
  readonly state: State;
}

/** An older base and the events from there to the present one, as bytes of a snapshot. */
export interface Past<State> {
  readonly base: Uint8Array;
  readonly chunks: readonly Uint8Array[];
  /** Throws when the bytes are damaged. */
  read(): { readonly base: Base<State>; readonly events: readonly GraphEvent[] };
}

/** A retained event. */
export class Entry<Payload> {
  readonly event: GraphEvent<Payload>;
  /** In the present schema. */
  readonly payload: Payload;
  /** Events before it in the order of the fold. */
  index = -1;
  /** What the reducer threw; the event then changes nothing. */
  failure: unknown;

  constructor(event: GraphEvent<Payload>, payload: Payload) {
    this.event = event;
    this.payload = payload;
  }
}

interface Chain<Payload> {
  next: number;
  /** Sequence of `entries[0]`. */
  first: number;
  entries: Entry<Payload>[];
}

interface Checkpoint<State> {
  /** Events that the state covers. */
  readonly size: number;
  readonly state: State;
  readonly heads: readonly Head[];
}

const CHECKPOINT_EVENTS = 64;
const CHECKPOINTS_MAX = 24;

export const TRIMMED_REASON =
  "it branches off before the history that is kept: its parents were folded into a snapshot";

export class History<State, Payload> {
  readonly reducer: Reducer<State, Payload>;
  readonly window: number;
  #base: Base<State>;
  #past: Past<State> | undefined;
  #order: Entry<Payload>[] = [];
  readonly #chains = new Map<string, Chain<Payload>>();
  #batch: Entry<Payload>[] = [];
  #state: State;
  #heads: Head[];
  #checkpoints: Checkpoint<State>[];
  /** Sizes of critical versions after the base, ascending. */
  #critical: number[] = [];
  /** Retained undos and redos by the replica they are about, in order. */
  #cancels = new Map<string, GraphEvent[]>();
  #crossing = 0;
  /**
   * Events of this document that may not be in the log yet: others' events may come before them there, so
   * they do not move the base.
   */
  ahead = 0;

  constructor(reducer: Reducer<State, Payload>, window: number, base?: Base<State>) {
    this.reducer = reducer;
    this.window = window;
    this.#base = base ?? { size: 0, head: undefined, known: new Map(), state: reducer.initial() };
    for (const [replica, next] of this.#base.known) {
      this.#chains.set(replica, { next, first: next, entries: [] });
    }
    this.#state = this.#base.state;
    this.#heads = headsOf(this.#base);
    this.#checkpoints = [checkpointOf(this.#base)];
    this.#setCrossing();
  }

  get state(): State {
    return this.#state;
  }

  get heads(): readonly Head[] {
    return this.#heads;
  }

  /** Events of the version. */
  get size(): number {
    return this.#base.size + this.#order.length + this.#batch.length;
  }

  get base(): Base<State> {
    return this.#base;
  }

  get past(): Past<State> | undefined {
    return this.#past;
  }

  /** Retained events in order. */
  get order(): readonly Entry<Payload>[] {
    return this.#order;
  }

  /** Sizes of the critical versions after the base. */
  get critical(): readonly number[] {
    return this.#critical;
  }

  /** Next sequence of a replica. */
  next(replica: string): number {
    return this.#chains.get(replica)?.next ?? 0;
  }

  /** For each replica its next sequence. */
  known(): Map<string, number> {
    const known = new Map<string, number>();
    for (const [replica, { next }] of this.#chains) known.set(replica, next);
    return known;
  }

  /** The retained event with this id. */
  find({ replica, sequence }: EventId): Entry<Payload> | undefined {
    const chain = this.#chains.get(replica);
    return chain?.entries[sequence - chain.first];
  }

  /**
   * Whether the event at this place is kept by who applies this version from the log. There own events move
   * the base as well, and an undo of what lies before it changes nothing.
   */
  staysKept(index: number): boolean {
    const bound = (Math.floor(this.size / this.window) - 1) * this.window;
    const at = countUpTo(this.#critical, bound) - 1;
    return at < 0 || index >= this.#critical[at]!;
  }

  /** Offers events of others. Never throws. */
  apply(events: readonly unknown[]): Outcome {
    this.advance();
    const outcome = new Offering(this, events).run();
    this.integrate();
    return outcome;
  }

  /** Takes what a snapshot has beside its base. Throws a `TypeError` for events that do not fit. */
  restore(events: readonly GraphEvent[], past: Past<State> | undefined): void {
    for (const event of events) {
      const gap =
        event.sequence !== this.next(event.replica) ||
        event.parents.some(({ replica, sequence }) => sequence >= this.next(replica));
      const reason = gap ? "events are missing" : this.#whyNot(event);
      if (reason !== undefined) throw new TypeError(`not a snapshot of an event graph: ${reason}`);
      this.#note(this.enter(event as GraphEvent<Payload>));
    }
    this.integrate();
    this.#past = past;
    this.#setCrossing();
  }

  /** Moves the base when that is due. */
  advance(): void {
    if (this.size - this.ahead >= this.#crossing) this.#advance();
  }

  /** Takes an event that was just made on this version. */
  append(entry: Entry<Payload>): void {
    this.#note(entry);
    this.integrate();
  }

  /**
   * Takes an event all of whose parents are known, or says why not. Its fold waits for `integrate`, which
   * comes by itself when the base moves.
   */
  admit(entry: Entry<Payload>): string | undefined {
    const reason = this.#whyNot(entry.event);
    if (reason !== undefined) return reason;
    this.#note(entry);
    if (this.size - this.ahead >= this.#crossing) {
      this.integrate();
      this.#advance();
    }
    return undefined;
  }

  /** Folds what was admitted. */
  integrate(): void {
    const batch = this.#batch;
    if (batch.length === 0) return;
    this.#batch = [];
    if (batch.length > 1) batch.sort(compareEntries);
    const before = this.#order.length;
    let from = before;
    const last = this.#order[before - 1];
    if (last === undefined || compareEntries(last, batch[0]!) < 0)
      for (const entry of batch) this.#order.push(entry);
    else {
      from = lowerBound(this.#order, batch[0]!);
      merge(this.#order, from, batch);
    }
    for (const { event } of batch) {
      if (event.cancels !== undefined) from = Math.min(from, this.#noteCancel(event));
    }
    if (from < before) this.#rewind(from);
    else this.#run(before, before);
  }

  /** The state after the first `size` events of the order. Throws a `RangeError` before the base. */
  stateAt(size: number): State {
    if (size === this.size) return this.#state;
    let at = this.#checkpoints.length - 1;
    while (at > 0 && this.#checkpoints[at]!.size > size) at--;
    const checkpoint = this.#checkpoints[at]!;
    if (checkpoint.size > size) throw new RangeError("the state lies before the history that is kept");
    let { state } = checkpoint;
    for (let i = checkpoint.size; i < size; i++) state = this.#step(state, this.#order[i - this.#base.size]!);
    return state;
  }

  /** True when an undo, and no later redo, names the event; `of` limits the undos and redos that count. */
  isCancelled({ replica, sequence }: EventId, of?: (event: GraphEvent) => boolean): boolean {
    const cancels = this.#cancels.get(replica);
    if (cancels === undefined) return false;
    for (let i = cancels.length - 1; i >= 0; i--) {
      const { from, to, undone } = cancels[i]!.cancels!;
      if (from <= sequence && sequence < to && (of === undefined || of(cancels[i]!))) return undone;
    }
    return false;
  }

  get hasCancels(): boolean {
    return this.#cancels.size > 0;
  }

  /** The greatest critical version whose state no undo or redo after it changes. */
  get leanSize(): number {
    const spans = [...this.#cancels.values()].flat().map((event) => ({
      from: this.#firstTarget(event.cancels!),
      to: this.find(event)!.index,
    }));
    let end = this.size;
    for (;;) {
      const at = countUpTo(this.#critical, end) - 1;
      if (at < 0) return this.#base.size;
      const size = this.#critical[at]!;
      const span = spans.find(({ from, to }) => from < size && size <= to);
      if (span === undefined) return size;
      end = span.from;
    }
  }

  /** The version of the first `size` events, which must be critical. */
  baseAt(size: number): Base<State> {
    if (size === this.#base.size) return this.#base;
    const known = new Map(this.#base.known);
    for (const { event } of this.#order.slice(0, size - this.#base.size)) {
      known.set(event.replica, Math.max(known.get(event.replica) ?? 0, event.sequence + 1));
    }
    const { replica, sequence, lamport } = this.#order[size - this.#base.size - 1]!.event;
    return { size, head: { replica, sequence, lamport }, known, state: this.stateAt(size) };
  }

  /**
   * Goes back to an older base, where there is one. Throws when its bytes are damaged; then nothing changed.
   */
  unfold(): void {
    if (this.#past === undefined) return;
    const { base, events } = this.#past.read();
    if (base.size + events.length !== this.#base.size) throw new TypeError("the older events have gaps");
    const older = events.map((event) => this.enter(event as GraphEvent<Payload>));
    this.integrate();
    this.#past = undefined;
    this.#base = base;
    this.#order = [...older, ...this.#order];
    this.#rebuild();
  }

  /** Takes the newest own events back, which nobody has seen. Replays everything that is kept. */
  remove(replica: string, from: number): void {
    const chain = this.#chains.get(replica);
    if (chain === undefined || chain.next <= from) return;
    this.#order = this.#order.filter(({ event }) => event.replica !== replica || event.sequence < from);
    if (from === 0) this.#chains.delete(replica);
    else chain.next = from;
    this.#rebuild();
  }

  /** An entry for an event, in the present schema. Throws what upcasting throws. */
  enter(event: GraphEvent<Payload>): Entry<Payload> {
    const { version, upcast } = this.reducer;
    const older = event.version < version && event.cancels === undefined && upcast !== undefined;
    return new Entry(event, older ? upcast(event.payload, event.version) : event.payload);
  }

  #note(entry: Entry<Payload>): void {
    const { replica, sequence } = entry.event;
    const chain = this.#chains.get(replica);
    if (chain === undefined) this.#chains.set(replica, { next: 1, first: 0, entries: [entry] });
    else {
      chain.entries.push(entry);
      chain.next = sequence + 1;
    }
    this.#batch.push(entry);
  }

  #whyNot(event: GraphEvent): string | undefined {
    let lamport = 0;
    let anchored = this.#base.size === 0;
    for (const parent of event.parents) {
      const found = this.find(parent)?.event ?? sameId(this.#base.head, parent);
      if (found === undefined) continue;
      anchored = true;
      if (found.lamport > lamport) lamport = found.lamport;
    }
    const { cancels } = event;
    const older = cancels !== undefined && cancels.from < (this.#base.known.get(cancels.replica) ?? 0);
    if ((!anchored || older) && this.#past !== undefined) {
      try {
        this.unfold();
      } catch (error) {
        return `the older history that it needs is damaged: ${(error as Error).message}`;
      }
      return this.#whyNot(event);
    }
    if (!anchored) return TRIMMED_REASON;
    const chain = this.#chains.get(event.replica);
    const own = chain?.entries[event.sequence - 1 - chain.first];
    if (event.lamport !== lamport + 1 || (own !== undefined && own.event.lamport >= event.lamport)) {
      return "its lamport does not follow from its parents";
    }
    return undefined;
  }

  /** Returns the first position whose state it changes. */
  #noteCancel(event: GraphEvent): number {
    const { replica } = event.cancels!;
    const cancels = this.#cancels.get(replica) ?? [];
    cancels.push(event);
    cancels.sort(compareEvents);
    this.#cancels.set(replica, cancels);
    return Math.min(this.#order.length, this.#firstTarget(event.cancels!) - this.#base.size);
  }

  /** The least index of the retained events that are undone or redone; infinite when there is none. */
  #firstTarget({ replica, from, to }: Cancellation): number {
    const chain = this.#chains.get(replica);
    let first = Number.POSITIVE_INFINITY;
    if (chain === undefined) return first;
    const end = Math.min(chain.entries.length, to - chain.first);
    for (let i = Math.max(0, from - chain.first); i < end; i++) {
      const { index } = chain.entries[i]!;
      if (index >= 0) first = Math.min(first, index);
    }
    return first;
  }

  #rewind(from: number): void {
    const size = this.#base.size + from;
    while (this.#checkpoints.at(-1)!.size > size) this.#checkpoints.pop();
    while ((this.#critical.at(-1) ?? 0) > size) this.#critical.pop();
    const checkpoint = this.#checkpoints.at(-1)!;
    this.#state = checkpoint.state;
    this.#heads = [...checkpoint.heads];
    this.#run(checkpoint.size - this.#base.size, from);
  }

  /** Folds from a position on; what lies before `fresh` was there before. */
  #run(position: number, fresh: number): void {
    const order = this.#order;
    const offset = this.#base.size;
    for (let i = position; i < order.length; i++) {
      const entry = order[i]!;
      entry.index = offset + i;
      this.#follow(entry, i >= fresh);
      this.#state = this.#step(this.#state, entry);
      const size = entry.index + 1;
      if (size % CHECKPOINT_EVENTS === 0 || size % this.window === 0) this.#checkpoint(size);
    }
  }

  #follow({ event, index }: Entry<Payload>, fresh: boolean): void {
    const { parents } = event;
    const heads = this.#heads;
    if (heads.length === 1 && parents.length === 1 && sameId(heads[0], parents[0]!) !== undefined)
      heads[0] = event;
    else {
      this.#heads = heads.filter((head) => !parents.some((parent) => sameId(head, parent) !== undefined));
      this.#heads.push(event);
      if (fresh) {
        let last = this.#base.size;
        for (const parent of parents) last = Math.max(last, (this.find(parent)?.index ?? -1) + 1);
        while ((this.#critical.at(-1) ?? 0) > last) this.#critical.pop();
      }
    }
    if (fresh && this.#heads.length === 1) this.#critical.push(index + 1);
  }

  #step(state: State, entry: Entry<Payload>): State {
    const { event } = entry;
    if (event.cancels !== undefined) return state;
    if (this.#cancels.size > 0 && this.isCancelled(event)) return state;
    try {
      const next = this.reducer.apply(state, entry.payload, event);
      if (entry.failure !== undefined) entry.failure = undefined;
      return next;
    } catch (error) {
      entry.failure = error ?? new Error("unknown");
      return state;
    }
  }

  #checkpoint(size: number): void {
    const list = this.#checkpoints;
    if (list.at(-1)!.size >= size) return;
    list.push({ size, state: this.#state, heads: this.#heads.slice() });
    if (list.length <= CHECKPOINTS_MAX) return;
    // Dense where late events are likely, sparse behind. The base stays, and where it is likely to move.
    const half = list.length / 2;
    this.#checkpoints = list.filter(
      ({ size: kept }, index) => index === 0 || index > half || index % 2 === 0 || kept % this.window === 0,
    );
  }

  #setCrossing(): void {
    this.#crossing = Math.max(2, Math.floor((this.size - this.ahead) / this.window) + 1) * this.window;
  }

  /** Moves the base. To be called when everything admitted is integrated. */
  #advance(): void {
    const count = Math.floor((this.size - this.ahead) / this.window) - 1;
    const bound = count * this.window;
    this.#setCrossing();
    if (this.#past !== undefined) {
      if (this.#base.size > bound) {
        try {
          this.unfold();
        } catch {
          return; // Damaged older events stay what they are: what needs them is refused.
        }
      } else this.#past = undefined;
    }
    const at = countUpTo(this.#critical, bound) - 1;
    if (at < 0) return;
    const base = this.baseAt(this.#critical[at]!);
    const settled = this.reducer.settle?.(base.state, count) ?? base.state;
    this.#order.splice(0, base.size - this.#base.size);
    this.#base = { ...base, state: settled };
    this.#critical = this.#critical.slice(at + 1);
    if (settled !== base.state) this.#rebuild();
    else {
      this.#index();
      this.#checkpoints = [
        checkpointOf(this.#base),
        ...this.#checkpoints.filter(({ size }) => size > base.size),
      ];
    }
  }

  /** From base and order everything else. */
  #rebuild(): void {
    this.#index();
    this.#checkpoints = [checkpointOf(this.#base)];
    this.#critical = [];
    this.#rewind(0);
  }

  /** Chains and cancellations of what is kept. */
  #index(): void {
    for (const [replica, chain] of this.#chains) {
      chain.first = this.#base.known.get(replica) ?? 0;
      chain.entries = [];
    }
    this.#cancels = new Map();
    for (const entry of this.#order) {
      const { event } = entry;
      this.#chains.get(event.replica)!.entries.push(entry);
      if (event.cancels === undefined) continue;
      const cancels = this.#cancels.get(event.cancels.replica) ?? [];
      cancels.push(event);
      this.#cancels.set(event.cancels.replica, cancels);
    }
  }
}

export function sameId<Id extends EventId>(id: Id | undefined, other: EventId): Id | undefined {
  return id !== undefined && id.sequence === other.sequence && id.replica === other.replica ? id : undefined;
}

function headsOf({ head }: Base<unknown>): Head[] {
  return head === undefined ? [] : [head];
}

function checkpointOf<State>(base: Base<State>): Checkpoint<State> {
  return { size: base.size, state: base.state, heads: headsOf(base) };
}

function compareEntries(a: Entry<unknown>, b: Entry<unknown>): number {
  return compareEvents(a.event, b.event);
}

/** Position of the first entry that does not come before this one. */
function lowerBound<Payload>(order: readonly Entry<Payload>[], entry: Entry<Payload>): number {
  let [low, high] = [0, order.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compareEntries(order[middle]!, entry) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Merges a sorted batch into the order, nothing of which comes before `from`. */
function merge<Payload>(order: Entry<Payload>[], from: number, batch: readonly Entry<Payload>[]): void {
  const tail = order.slice(from);
  order.length = from;
  let at = 0;
  for (const entry of tail) {
    while (at < batch.length && compareEntries(batch[at]!, entry) < 0) order.push(batch[at++]!);
    order.push(entry);
  }
  while (at < batch.length) order.push(batch[at++]!);
}

/** How many of the ascending numbers are not above `end`. */
function countUpTo(numbers: readonly number[], end: number): number {
  let [low, high] = [0, numbers.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (numbers[middle]! <= end) low = middle + 1;
    else high = middle;
  }
  return low;
}
