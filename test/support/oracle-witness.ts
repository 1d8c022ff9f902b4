/**
 * The witness of a shared store: it sees every commit of a simulated backend in the order in which they became true,
 * and judges by it whatever any of several writers and readers was told.
 *
 * It reads names and incarnations out of stored bytes as plain text and uses no code of storage. Compressed values
 * would be unreadable to it; sets of names are too small to be compressed.
 *
 * Promises that it holds a store to:
 * - batches of a life are contiguous, no batch is ever written over another, no event is there twice, and nothing is
 *   added to a life that has ended;
 * - the last batch of a life is never deleted while the life goes on;
 * - what a reader is told was true at some moment between its question and the answer, for one life as a whole.
 */

import type { Batch } from "coppice";
import type { Fault, Operation } from "coppice/testing";
import { namesIn } from "./oracle-model.js";

interface Life {
  readonly incarnation: string;
  readonly base: number;
  readonly log: { readonly clock: number; readonly name: string; readonly moment: number }[];
  readonly born: number;
  /** Clock of the last batch. */
  last: number;
  died: number;
}

const LOST: readonly (Fault | undefined)[] = ["unavailable", "error", "unknown-lost"];

/** An answer that cannot be true. */
export class Refuted extends Error {}

export class Witness {
  readonly #lives = new Map<string, Life[]>();
  readonly #names = new Set<string>();
  /** Commits so far. */
  moment = 0;

  /** To be called for each operation, with what will happen to it. */
  see({ kind, batch }: Operation, fault?: Fault): void {
    if (kind !== "sync" || batch === undefined || LOST.includes(fault)) return;
    this.moment++;
    for (const { key, value } of batch.put ?? []) {
      if (key[0] === "meta") this.#seeMeta(key[1], Buffer.from(value).toString("latin1"));
    }
    this.#seeDeletions(batch);
    const events = (batch.put ?? []).filter(({ key }) => key[0] === "events");
    for (const { key, value } of events.sort((a, b) => a.key[2]! - b.key[2]!)) {
      this.#seeEvents(key[1], key[2]!, namesIn(value));
    }
  }

  /** The incarnation that is alive now, and its clock. */
  now(id: string): { incarnation: string; clock: number } | undefined {
    const life = this.#alive(id);
    return life && { incarnation: life.incarnation, clock: endOf(life) };
  }

  /** Names of the life that goes on, in order. */
  names(id: string): string[] | undefined {
    return this.#alive(id)?.log.map(({ name }) => name);
  }

  isStored(name: string): boolean {
    return this.#names.has(name);
  }

  wasAlive(id: string, from: number): boolean {
    return this.#during(id, from).length > 0;
  }

  /** True when at some moment since `from` the document did not exist. */
  wasAbsent(id: string, from: number): boolean {
    return !(this.#lives.get(id) ?? []).some(({ born, died }) => born <= from && died === Infinity);
  }

  /** True when this incarnation has ended; without one, when any has. */
  hasEnded(id: string, incarnation: string | undefined): boolean {
    return (this.#lives.get(id) ?? []).some(
      (life) => (incarnation ?? life.incarnation) === life.incarnation && life.died !== Infinity,
    );
  }

  /** An append was acknowledged: its names end at this clock of this incarnation, side by side. */
  assertStored(id: string, names: readonly string[], clock: number, incarnation?: string): void {
    const life = (this.#lives.get(id) ?? []).find(({ log }) => log.some(({ name }) => name === names[0]));
    if (life === undefined) throw new Refuted(`${names} was acknowledged and is not stored`);
    if (incarnation !== undefined && life.incarnation !== incarnation) {
      throw new Refuted(`${names} went to another incarnation than the acknowledgement says`);
    }
    names.forEach((name, index) => {
      const place = clock - names.length + index;
      if (life.log.find((entry) => entry.name === name)?.clock !== place) {
        throw new Refuted(`${name} does not lie at clock ${place}`);
      }
    });
  }

  /** A reader that asked at moment `from` was told this now; `undefined`: that the document does not exist. */
  assertState(id: string, from: number, told: { clock: number; names?: Iterable<string> } | undefined): void {
    if (told === undefined) {
      if (this.wasAbsent(id, from)) return;
      throw new Refuted(`${id} was said not to exist, and did all the time`);
    }
    const { clock } = told;
    const names = told.names && [...told.names].sort().join();
    const reasons = this.#during(id, from).map((life) => {
      if (clock < clockAt(life, from)) return `clock ${clock} is before ${clockAt(life, from)}`;
      if (clock > endOf(life)) return `clock ${clock} is after ${endOf(life)}`;
      const prefix = life.log.filter((entry) => entry.clock < clock).map(({ name }) => name);
      if (names !== undefined && prefix.sort().join() !== names) return `${names} is not ${prefix}`;
      return undefined;
    });
    if (reasons.includes(undefined)) return;
    throw new Refuted(`${id}: ${reasons.join("; ") || "it did not exist"}`);
  }

  /** Which incarnation it was that a reader was told of; `undefined` when it may have been several. */
  incarnationAt(id: string, clock: number, names: Iterable<string>, from: number): string | undefined {
    const sorted = [...names].sort().join();
    const lives = this.#during(id, from).filter(({ base, log }) => {
      if (base > clock) return false;
      const prefix = log.filter((entry) => entry.clock < clock).map(({ name }) => name);
      return prefix.sort().join() === sorted;
    });
    if (lives.length === 0) throw new Refuted(`${id} was never like this: ${sorted}`);
    return lives.length === 1 ? lives[0]!.incarnation : undefined;
  }

  /** The event is in a log, whichever. */
  assertPresent(id: string, name: string): void {
    if (!this.isStored(name)) throw new Refuted(`${id}: ${name} was acknowledged and is not stored`);
  }

  /** A handle that was refreshed shows the log up to its clock, and besides only what it made itself. */
  assertHandle(
    id: string,
    from: number,
    clock: number,
    incarnation: string,
    names: readonly string[],
    unsaved: readonly string[],
  ): void {
    const life = (this.#lives.get(id) ?? []).find((one) => one.incarnation === incarnation);
    if (life === undefined) throw new Refuted(`a handle of no incarnation of ${id}`);
    const alive = Math.min(from, life.died - 1);
    if (clock < clockAt(life, alive) || clock > endOf(life)) throw new Refuted(`refreshed only to ${clock}`);
    const shown = new Set(names);
    for (const entry of life.log) {
      if (entry.clock < clock && !shown.delete(entry.name)) throw new Refuted(`${entry.name} is not shown`);
    }
    for (const name of shown) {
      const own = unsaved.includes(name) || life.log.some((entry) => entry.name === name);
      if (!own) throw new Refuted(`${name} is shown, and was never stored`);
    }
  }

  /** True when since `from` the same life went on. */
  isSame(id: string, from: number): boolean {
    const lives = this.#during(id, from);
    return lives.length === 1 && lives[0]!.died === Infinity && lives[0]!.born <= from;
  }

  /** A reader of the log was told these events, from this clock to what was then the head. */
  assertLog(id: string, from: number, start: number, told: readonly { clock: number; name: string }[]): void {
    const text = (entries: readonly { clock: number; name: string }[]) =>
      entries.map(({ clock, name }) => `${clock}:${name}`).join();
    const fits = this.#during(id, from).some((life) => {
      const end = told.at(-1) === undefined ? start : told.at(-1)!.clock + 1;
      if (end < clockAt(life, from)) return false;
      return text(life.log.filter(({ clock }) => clock >= start && clock < end)) === text(told);
    });
    if (!fits) throw new Refuted(`${id} never had this log from ${start}: ${text(told)}`);
  }

  /** True when the token of the document was not always this one since `from`. */
  tokenDiffered(id: string, from: number, token: string): boolean {
    const tokens = new Set<string>();
    if (this.wasAbsent(id, from)) tokens.add("absent");
    for (const life of this.#during(id, from)) {
      for (const clock of [clockAt(life, from), endOf(life), ...life.log.map((entry) => entry.clock)]) {
        if (clock >= clockAt(life, from)) tokens.add(`${life.incarnation}.${clock}`);
      }
    }
    tokens.delete(token);
    return tokens.size > 0;
  }

  #seeMeta(id: string, text: string): void {
    const lives = this.#lives.get(id) ?? [];
    this.#lives.set(id, lives);
    const incarnation = /incarnation.([0-9a-f]{16})/.exec(text)?.[1];
    if (incarnation === undefined) throw new Refuted(`a meta record without an incarnation: ${id}`);
    const last = lives.at(-1);
    const same = last?.incarnation === incarnation;
    if (same && last.died !== Infinity) throw new Refuted(`${id} was changed after it was deleted`);
    if (/deleted/.test(text)) {
      if (!same) throw new Refuted(`${id} was deleted as something that it is not`);
      last.died = this.moment;
    } else if (!same) {
      if (last !== undefined && last.died === Infinity)
        throw new Refuted(`${id} was created over a living one`);
      const base = last === undefined ? 0 : endOf(last);
      lives.push({ incarnation, base, log: [], born: this.moment, last: -1, died: Infinity });
    }
  }

  #seeEvents(id: string, clock: number, names: readonly string[]): void {
    const life = this.#alive(id);
    if (life === undefined) throw new Refuted(`${names} was added to ${id}, which does not exist`);
    if (clock !== endOf(life))
      throw new Refuted(`a batch at ${clock} of ${id}, whose head is ${endOf(life)}`);
    life.last = clock;
    names.forEach((name, index) => {
      if (this.#names.has(name)) throw new Refuted(`${name} is stored twice`);
      this.#names.add(name);
      life.log.push({ clock: clock + index, name, moment: this.moment });
    });
  }

  #seeDeletions(batch: Batch): void {
    for (const deletion of batch.delete ?? []) {
      if (!Array.isArray(deletion)) throw new Refuted("the witness does not know deletions of ranges");
      const [space, id, clock] = deletion as [string, string, number?];
      const life = this.#alive(id);
      if (space === "events" && life !== undefined && clock! >= life.last && life.last >= 0) {
        throw new Refuted(`the last batch of ${id} was deleted`);
      }
    }
  }

  #alive(id: string): Life | undefined {
    return this.#lives.get(id)?.find(({ died }) => died === Infinity);
  }

  /** Lives that went on at some moment since `from`. */
  #during(id: string, from: number): Life[] {
    return (this.#lives.get(id) ?? []).filter(({ died }) => died > from);
  }
}

function endOf({ base, log }: Life): number {
  return base + log.length;
}

function clockAt({ base, log }: Life, moment: number): number {
  return base + log.filter((entry) => entry.moment <= moment).length;
}
