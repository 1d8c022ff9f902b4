/**
 * The ledger of one process: what it submitted to a store and what was acknowledged, and what any later process
 * must find there. For stores that crash; it knows one writer that never has two lives of a document in flight.
 *
 * A life begins when an id is created or recreated and ends when it is deleted. Names are unique over all lives.
 *
 * Promises that `verify` holds a store to:
 * - acknowledged events are there; unacknowledged ones wholly or not at all; nothing else is;
 * - an acknowledged event lies where its clock says, events of one append side by side, in the order submitted;
 * - each event is there once: the clock counts exactly the events of this life and those of the lives before;
 * - an acknowledged deletion stays; clocks never go back; `check` finds no problem.
 */

import { type AnyModel, type AppendResult, type DocumentStorage, isCoppiceError } from "coppice";
import { expect } from "vitest";
import { type NameSet, namesIn, naming } from "./oracle-model.js";

/** A storage whose documents are sets of names. */
export type NameStorage = DocumentStorage<readonly AnyModel[]>;

/** As `expect(actual, what).toBe(wanted)`, which costs as much as reading a document; these hold nearly always. */
function same<T>(actual: T, wanted: T, what?: string): void {
  if (!Object.is(actual, wanted)) expect(actual, what).toBe(wanted);
}

export interface Submission {
  readonly names: readonly string[];
  /** Clock after it; `undefined` while nobody said that it is stored. */
  clock: number | undefined;
}

interface Life {
  readonly submissions: Submission[];
  /** What is known of its creation and of its deletion. */
  created: "submitted" | "acknowledged";
  deleted: "no" | "submitted" | "acknowledged";
}

/** What a store holds of one document. */
export interface Found {
  readonly clock: number;
  readonly names: ReadonlySet<string>;
  readonly log: readonly { readonly clock: number; readonly name: string }[];
}

export class Ledger {
  readonly #lives = new Map<string, Life[]>();
  /** The highest clock that anybody was told, by document. */
  readonly #told = new Map<string, number>();

  get ids(): string[] {
    return [...this.#lives.keys()];
  }

  /** Runs a creation (or recreation) of the document. */
  async create<T>(id: string, work: () => Promise<T>): Promise<T> {
    const life = this.#life(id);
    const result = await work();
    life.created = "acknowledged";
    return result;
  }

  /**
   * Runs an append or a save of these names; it resolves with the clock after them. When it rejects otherwise than
   * with an unknown outcome, they must not be there.
   */
  async submit<T extends AppendResult | number>(
    id: string,
    names: readonly string[],
    work: () => Promise<T>,
  ): Promise<T> {
    const submission = this.expectPerhaps(id, names);
    try {
      return await this.create(id, async () => {
        const result = await work();
        submission.clock = typeof result === "number" ? result : result.clock;
        this.#told.set(id, Math.max(this.#told.get(id) ?? 0, submission.clock));
        return result;
      });
    } catch (error) {
      if (isCoppiceError(error) && error.kind !== "unknown") this.#retract(id, submission);
      throw error;
    }
  }

  /** From now on these names may be there, all or none. The same names again are the same events. */
  expectPerhaps(id: string, names: readonly string[]): Submission {
    const { submissions } = this.#life(id);
    const known = submissions.find((submission) => submission.names[0] === names[0]);
    if (known !== undefined) return known;
    const submission: Submission = { names, clock: undefined };
    submissions.push(submission);
    return submission;
  }

  async remove(id: string, work: () => Promise<boolean>): Promise<void> {
    const life = this.#lives.get(id)!.at(-1)!;
    life.deleted = "submitted";
    same(await work(), true);
    life.deleted = "acknowledged";
  }

  /** Holds the store to the promises above. Returns what it found. */
  async verify(storage: NameStorage): Promise<Map<string, Found | undefined>> {
    const found = new Map<string, Found | undefined>();
    for (const id of this.ids) found.set(id, this.judge(id, await look(storage, id)));
    const report = await storage.check();
    if (report.problems.length > 0) expect(report.problems).toEqual([]);
    const alive = [...found].filter(([, document]) => document !== undefined).map(([id]) => id);
    same(report.documents, alive.length);
    const listed: string[] = [];
    for await (const id of storage.list()) listed.push(id);
    same(listed.join("\n"), alive.sort().join("\n"));
    return found;
  }

  /** Throws when the document is not what it must be; settles what was unknown, and returns it. */
  judge(id: string, found: Found | undefined): Found | undefined {
    const lives = this.#lives.get(id)!;
    const possible = lives.filter((life, index) => {
      if (life.deleted === "acknowledged") return false;
      return !lives.slice(index + 1).some((later) => later.created === "acknowledged");
    });
    if (found === undefined) {
      const acknowledged = possible.find((life) => life.created === "acknowledged" && life.deleted === "no");
      same(acknowledged, undefined, `${id} is gone`);
      const last = lives.at(-1)!;
      if (last.deleted === "submitted") last.deleted = "acknowledged";
      if (last.created === "submitted") this.#drop(id, last);
      return undefined;
    }
    const life = possible.find(({ submissions }) => {
      const submitted = new Set(submissions.flatMap(({ names }) => names));
      return [...found.names].every((name) => submitted.has(name));
    });
    if (life === undefined)
      throw new Error(`${id} holds names of no life that may be there: ${[...found.names]}`);
    this.#judgeLife(id, life, found);
    for (const later of lives.splice(lives.indexOf(life) + 1)) same(later.created, "submitted");
    life.created = "acknowledged";
    life.deleted = "no";
    this.#told.set(id, found.clock);
    return found;
  }

  /** For stores that lose acknowledged events: throws unless the document was ever like this, in one life. */
  assertMoment(id: string, found: Found | undefined): void {
    if (found === undefined) return;
    const moments = (this.#lives.get(id) ?? []).flatMap(({ submissions }) =>
      [...submissions, undefined].map((_, count) =>
        submissions.slice(0, count).flatMap(({ names }) => names),
      ),
    );
    const there = [...found.names].sort();
    const moment = moments.find(
      (names) =>
        names.length === there.length && [...names].sort().every((name, index) => name === there[index]),
    );
    expect(moment, `${id} was never like this: ${there}`).toBeDefined();
    const tail = found.log.map(({ name }) => name);
    expect(moment!.slice(moment!.length - tail.length), `${id}: the order of the log`).toEqual(tail);
  }

  /** The last life, or a new one when that one is deleted. */
  #life(id: string): Life {
    const lives = this.#lives.get(id) ?? [];
    const last = lives.at(-1);
    if (last?.deleted === "no") return last;
    const life: Life = { submissions: [], created: "submitted", deleted: "no" };
    lives.push(life);
    this.#lives.set(id, lives);
    return life;
  }

  #retract(id: string, submission: Submission): void {
    for (const { submissions } of this.#lives.get(id) ?? []) {
      if (submissions.includes(submission)) submissions.splice(submissions.indexOf(submission), 1);
    }
  }

  #judgeLife(id: string, life: Life, found: Found): void {
    const at = new Map(found.log.map(({ clock, name }) => [name, clock]));
    same(at.size, found.log.length, `${id}: an event is stored twice`);
    const oldest = found.log[0]?.clock ?? found.clock;
    let count = 0;
    for (const submission of life.submissions.splice(0)) {
      const { names, clock } = submission;
      const there = names.filter((name) => found.names.has(name));
      if (clock === undefined && there.length === 0) continue;
      if (there.length < names.length)
        expect(there, `${id}: an acknowledged event is missing, or an append is torn`).toEqual(names);
      const positions = names.map((name) => at.get(name));
      const end = clock ?? (positions.at(-1) ?? Number.NaN) + 1;
      names.forEach((name, index) => {
        const position = end - names.length + index;
        if (position >= oldest) same(positions[index], position, `${id}: place of ${name}`);
      });
      submission.clock = Number.isNaN(end) ? undefined : end;
      count += names.length;
      life.submissions.push(submission);
    }
    same(found.names.size, count, `${id}: an event that nobody submitted`);
    expect(found.clock, `${id}: the clock went back`).toBeGreaterThanOrEqual(this.#told.get(id) ?? 0);
    const base = found.clock - count;
    const lives = this.#lives.get(id)!;
    const earlier = lives.slice(0, lives.indexOf(life)).flatMap(({ submissions }) => submissions);
    const acknowledged = Math.max(0, ...earlier.map(({ clock }) => clock ?? 0));
    const submitted = earlier.reduce((sum, { names }) => sum + names.length, 0);
    expect(base, `${id}: a clock is used again`).toBeGreaterThanOrEqual(acknowledged);
    expect(base, `${id}: the clock counts an event that was never submitted`).toBeLessThanOrEqual(submitted);
  }

  #drop(id: string, life: Life): void {
    const lives = this.#lives.get(id)!;
    lives.splice(lives.indexOf(life), 1);
    if (lives.length === 0) this.#lives.delete(id);
  }
}

/** Reads a document in every way there is, and compares them. */
export async function look(storage: NameStorage, id: string): Promise<Found | undefined> {
  const handle = await storage.load<NameSet>(id);
  const info = await storage.info(id);
  const log: { clock: number; name: string }[] = [];
  for await (const { clock, event } of storage.read(id, { from: info?.oldestClock ?? 0 })) {
    log.push({ clock, name: nameOf(event) });
  }
  if (handle === undefined) {
    same(info, undefined);
    same(log.length, 0);
    return undefined;
  }
  same(info?.clock, handle.clock);
  const names = new Set(handle.doc.names.keys());
  for (const { event } of handle.held) names.add(nameOf(event));
  same(names.size, handle.doc.names.size + handle.held.length);
  log.forEach(({ clock, name }, index) => {
    same(clock, info!.oldestClock + index);
    if (!names.has(name)) expect(names).toContain(name);
  });
  same(info!.oldestClock + log.length, handle.clock);
  await handle.close();
  return { clock: handle.clock, names, log };
}

/** The name that a stored event adds. */
export function nameOf(event: unknown): string {
  return namesIn(event as Uint8Array)[0]!;
}

/** Writes a document with a trim, two snapshots, a tag, held and refused events, and a tail. */
export async function writeHistory(storage: NameStorage, id: string): Promise<void> {
  await storage.append(id, [naming("a"), naming("late", ["never"])], { info: { user: "ada" } });
  await storage.append(id, [naming("b"), naming("!bad")], { commitId: storage.newCommitId() });
  await storage.compact(id);
  await storage.tag(id, "half");
  await storage.append(id, [naming("c")]);
  await storage.compact(id);
  await storage.append(id, [naming("d"), naming("e")]);
}
