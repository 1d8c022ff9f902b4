/**
 * One call of `apply`: events in any order, each taken, held or refused.
 *
 * An event is taken as soon as its parents, its replica's event before, and what it cancels are known; those
 * that wait for it follow at once. Held: what still waits at the end. Refused: what is no event, what the
 * reducer's `check` refuses, what is of a newer schema, what branches off before the kept history, what has
 * the id of another event, and what builds on a refused event of the same call.
 */

import type { Refusal } from "../contract/model.js";
import { type GraphEvent, idKey, soundEvent } from "./event.js";
import type { Entry, History } from "./history.js";

export interface Outcome {
  readonly applied: number;
  readonly held: readonly number[];
  readonly refused: readonly Refusal[];
}

const SETTLED = 1;
const BUILDS_ON_REFUSED = "it builds on an event that was refused";

export class Offering<Payload> {
  // biome-ignore lint/suspicious/noExplicitAny: the state is of no concern here
  readonly #history: History<any, Payload>;
  readonly #offered: readonly unknown[];
  readonly #outcomes: Uint8Array;
  readonly #refused = new Map<number, string>();
  readonly #refusedIds = new Set<string>();
  readonly #waiting = new Map<string, { readonly index: number; readonly entry: Entry<Payload> }[]>();

  // biome-ignore lint/suspicious/noExplicitAny: the state is of no concern here
  constructor(history: History<any, Payload>, offered: readonly unknown[]) {
    this.#history = history;
    this.#offered = offered;
    this.#outcomes = new Uint8Array(offered.length);
  }

  run(): Outcome {
    for (let index = 0; index < this.#offered.length; index++) {
      let entry: Entry<Payload>;
      try {
        entry = this.#enter(this.#offered[index]);
      } catch (error) {
        this.#refuseEntry(index, error);
        continue;
      }
      this.#offer(index, entry);
    }
    const held: number[] = [];
    for (let index = 0; index < this.#outcomes.length; index++)
      if (this.#outcomes[index] === 0) held.push(index);
    const refused = [...this.#refused]
      .map(([index, reason]) => ({ index, reason }))
      .sort((a, b) => a.index - b.index);
    return { applied: this.#offered.length - held.length - refused.length, held, refused };
  }

  #enter(value: unknown): Entry<Payload> {
    const event = soundEvent<Payload>(value);
    const { version, check } = this.#history.reducer;
    if (event.version > version) {
      throw new TypeError(`its schema version is ${event.version}; this model knows up to ${version}`);
    }
    const entry = this.#history.enter(event);
    if (check !== undefined && event.cancels === undefined) check(entry.payload);
    return entry;
  }

  #offer(index: number, entry: Entry<Payload>): void {
    const missing = this.#take(index, entry);
    if (missing === undefined) {
      if (this.#waiting.size > 0) this.#wake(entry.event);
    } else if (this.#refusedIds.has(missing)) {
      this.#refuse(index, BUILDS_ON_REFUSED, entry.event);
      this.#wake(entry.event);
    } else this.#wait(missing, index, entry);
  }

  #wait(missing: string, index: number, entry: Entry<Payload>): void {
    const list = this.#waiting.get(missing);
    if (list === undefined) this.#waiting.set(missing, [{ index, entry }]);
    else list.push({ index, entry });
  }

  /** Takes or refuses the event; or returns what it waits for. */
  #take(index: number, entry: Entry<Payload>): string | undefined {
    const { event } = entry;
    const next = this.#history.next(event.replica);
    if (event.sequence < next) {
      const known = this.#history.find(event)?.event;
      if (known !== undefined && !isSame(known, event)) this.#refuse(index, "another event has its id");
      else this.#outcomes[index] = SETTLED;
      return undefined;
    }
    const missing = this.#missing(event, next);
    if (missing !== undefined) return missing;
    const reason = this.#history.admit(entry);
    if (reason !== undefined) this.#refuse(index, reason, event);
    else this.#outcomes[index] = SETTLED;
    return undefined;
  }

  #missing(event: GraphEvent, next: number): string | undefined {
    const { replica, sequence, parents, cancels } = event;
    if (sequence > next) return idKey({ replica, sequence: sequence - 1 });
    for (const parent of parents) {
      if (parent.replica === replica) continue;
      if (parent.sequence >= this.#history.next(parent.replica)) return idKey(parent);
    }
    if (cancels !== undefined && cancels.to > this.#history.next(cancels.replica)) {
      return idKey({ replica: cancels.replica, sequence: cancels.to - 1 });
    }
    return undefined;
  }

  /** Offers again what waited for this event. */
  #wake(event: GraphEvent): void {
    const settled = [event];
    for (let next = settled.pop(); next !== undefined; next = settled.pop()) {
      const key = idKey(next);
      const list = this.#waiting.get(key);
      if (list === undefined) continue;
      this.#waiting.delete(key);
      for (const { index, entry } of list) {
        const missing = this.#refusedIds.has(key) ? key : this.#take(index, entry);
        if (missing !== undefined && !this.#refusedIds.has(missing)) {
          this.#wait(missing, index, entry);
          continue;
        }
        if (missing !== undefined) this.#refuse(index, BUILDS_ON_REFUSED, entry.event);
        settled.push(entry.event);
      }
    }
  }

  #refuse(index: number, reason: string, event?: GraphEvent): void {
    this.#outcomes[index] = SETTLED;
    this.#refused.set(index, reason);
    if (event !== undefined) this.#refusedIds.add(idKey(event));
  }

  /** Refuses what cannot even be entered, and what waits for it, if it has an id to wait for. */
  #refuseEntry(index: number, error: unknown): void {
    this.#refuse(index, error instanceof Error ? error.message : String(error));
    let event: GraphEvent;
    try {
      event = soundEvent(this.#offered[index]);
    } catch {
      return; // Its id may be wrong as well.
    }
    if (event.sequence < this.#history.next(event.replica)) return;
    this.#refusedIds.add(idKey(event));
    this.#wake(event);
  }
}

function isSame(a: GraphEvent, b: GraphEvent): boolean {
  if (a === b) return true;
  if (a.lamport !== b.lamport || a.time !== b.time || a.version !== b.version) return false;
  return a.parents.length === b.parents.length && (a.cancels === undefined) === (b.cancels === undefined);
}
