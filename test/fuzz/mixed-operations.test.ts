// Everything that a storage does, side by side on three documents of one store: appends and saves beside compactions,
// tags, deletions, erasures, forks, imports, copies to another store, recoveries and repairs; by one storage or two.
//
// What was acknowledged is judged by a book that knows only when each call began and ended: an event is surely there
// when no removal of its document ended after the event's append began, even one that failed. It does not know the
// order of what overlaps; `two-writers.test.ts` does, with fewer operations.
//
// COPPICE_FUZZ_RUNS=<count> searches longer; COPPICE_SEED=<integer> elsewhere. Each run has the seed that a failure
// names: COPPICE_SEED=<it> COPPICE_FUZZ_RUNS=1 runs it again.

import { type AnyModel, DocumentStorage, everyEvents, type HistoryPolicy, isCoppiceError } from "coppice";
import {
  type Operation as BackendOperation,
  type Fault,
  type SeededRandom,
  type SimulatedBackend,
  seededRandom,
  simulatedBackend,
  simulatedEnv,
} from "coppice/testing";
import { expect, test } from "vitest";
import { type NameStorage, nameOf } from "../support/oracle.js";
import { add, type NameSet, nameSet, naming } from "../support/oracle-model.js";

const RUNS = Number(process.env.COPPICE_FUZZ_RUNS ?? 80);
const SEED = Number(process.env.COPPICE_SEED ?? 20_261_120);
const IDS = ["a", "b", "c"] as const;
const WORKERS = 4;
const STEPS = 14;

/** Small, so that little work crosses slices, parts, pages and segments. */
const LIMITS = {
  archiveSegmentBytesMax: 400,
  sweepKeysMax: 3,
  groupBytesMax: 160,
  snapshotPartBytesMax: 48,
  pageBytesMax: 96,
};

const HISTORIES: readonly (HistoryPolicy | undefined)[] = [
  undefined,
  "archive",
  "archive",
  "drop",
  { keepEvents: 3 },
];

/** What other callers may bring a call to. What is missing here (`CORRUPT`, say) must never come. */
const REASONS = new Set([
  "BUSY",
  "DELETED",
  "EXISTS",
  "OUTCOME_UNKNOWN",
  "POISONED",
  "TAG_EXISTS",
  "TAG_UNKNOWN",
  "TRIMMED",
  "UNAVAILABLE",
]);

/** Of some commits, in the runs that have failures. */
const FAULTS: readonly Fault[] = ["unavailable", "unknown-lost", "unknown-applied"];

/** A stretch of a run, in moments that only count. */
interface Stretch {
  readonly from: number;
  readonly to: number;
}

/** Names that were acknowledged; `clock` is that after them, where it is known. */
interface Fact extends Stretch {
  readonly names: readonly string[];
  readonly clock: number | undefined;
}

/** What the documents of one store must hold. */
class Book {
  readonly #facts = new Map<string, Fact[]>();
  readonly #removals = new Map<string, Stretch[]>();
  /** Names of appends that were refused: they are nowhere. */
  readonly refused = new Set<string>();
  #moment = 0;

  tick(): number {
    return ++this.#moment;
  }

  /** Runs a removal; it may have happened also when it fails. */
  async removal<T>(id: string, work: () => Promise<T>): Promise<T> {
    const removal = { from: this.tick(), to: Number.POSITIVE_INFINITY };
    this.#of(this.#removals, id).push(removal);
    return work().finally(() => {
      removal.to = this.tick();
    });
  }

  /** Runs an append or a save of these names. */
  async submit<T>(names: readonly string[], work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (isCoppiceError(error) && error.kind !== "unknown") for (const name of names) this.refused.add(name);
      throw error;
    }
  }

  note(id: string, fact: Omit<Fact, "to">): void {
    const to = this.tick();
    for (const one of this.#of(this.#facts, id)) {
      if (one.clock === undefined || fact.clock === undefined) continue;
      const later = one.to < fact.from ? fact.clock > one.clock : fact.clock !== one.clock;
      if (!later) throw new Error(`${fact.names} got clock ${fact.clock} after ${one.names} at ${one.clock}`);
    }
    this.#of(this.#facts, id).push({ ...fact, to });
  }

  /** What was surely there all the time from `from` up to now. */
  sure(id: string, from: number): Fact[] {
    const removals = this.#of(this.#removals, id);
    return this.#of(this.#facts, id).filter(
      (fact) => fact.to < from && removals.every((removal) => removal.to < fact.from),
    );
  }

  #of<T>(map: Map<string, T[]>, id: string): T[] {
    const known = map.get(id) ?? [];
    map.set(id, known);
    return known;
  }
}

class Run {
  readonly book = new Book();
  readonly backend: SimulatedBackend;
  readonly codes: Record<string, number> = {};
  readonly done: Record<string, number> = {};
  readonly #random: SeededRandom;
  readonly #storages: readonly NameStorage[];
  readonly #backup: NameStorage;
  #count = 0;

  constructor(random: SeededRandom, backend: SimulatedBackend, opened: readonly NameStorage[]) {
    this.#random = random;
    this.backend = backend;
    this.#storages = opened.slice(1);
    this.#backup = opened[0]!;
  }

  async work(): Promise<void> {
    for (let step = 0; step < STEPS; step++) {
      const storage = this.#random.pick(this.#storages);
      const [what, run] = this.#random.pick(OPERATIONS);
      try {
        await run(this, storage, this.#random.pick(IDS));
        this.done[what] = (this.done[what] ?? 0) + 1;
      } catch (error) {
        if (!isCoppiceError(error) || !REASONS.has(error.code)) throw error;
        this.codes[error.code] = (this.codes[error.code] ?? 0) + 1;
      }
    }
  }

  another(id: string): string {
    return this.#random.pick(IDS.filter((one) => one !== id));
  }

  chance(n: number): boolean {
    return this.#random.int(n) === 0;
  }

  next(): string {
    return `n${++this.#count}.`;
  }

  tagName(): string {
    return `t${this.#random.int(3)}`;
  }

  get backup(): NameStorage {
    return this.#backup;
  }

  /** Every sure event is shown, where its clock says, and once. */
  async verify(): Promise<void> {
    for (const storage of this.#storages) {
      await storage.flush();
      expect((await storage.check()).problems).toEqual([]);
      for (const id of IDS) await this.#verifyDocument(storage, id);
    }
    const { failures } = await this.#storages[0]!.copyTo(this.#backup);
    expect(failures).toEqual([]);
    expect((await this.#backup.check()).problems).toEqual([]);
    for (const id of IDS) expect(await shown(this.#backup, id)).toEqual(await shown(this.#storages[0]!, id));
  }

  async #verifyDocument(storage: NameStorage, id: string): Promise<void> {
    const found = await shown(storage, id);
    const log = new Map<number, string>();
    const info = await storage.info(id);
    const from = info?.archivedClock ?? info?.oldestClock ?? 0;
    for await (const { clock, event } of storage.read(id, { from })) log.set(clock + 1, nameOf(event));
    expect(new Set(log.values()).size).toBe(log.size);
    expect(found?.names.filter((name) => this.book.refused.has(name)) ?? []).toEqual([]);
    for (const { names, clock } of this.book.sure(id, this.book.tick())) {
      expect(found?.names).toEqual(expect.arrayContaining([...names]));
      if (clock === undefined || clock - names.length < from) continue;
      names.forEach((name, index) => {
        expect(log.get(clock - names.length + 1 + index)).toBe(name);
      });
    }
  }

  /** No key of any document is left. */
  async eraseAll(): Promise<void> {
    for (const id of IDS) await this.#storages[0]!.erase(id);
    const left = this.backend.dump().filter(({ key }) => (IDS as readonly string[]).includes(key[1]));
    expect(left.map(({ key }) => key)).toEqual([]);
  }

  async close(): Promise<void> {
    for (const storage of [this.#backup, ...this.#storages]) await storage.close();
  }
}

async function shown(
  storage: NameStorage,
  id: string,
  at?: number | string,
): Promise<{ clock: number; names: string[] } | undefined> {
  const handle = await storage.load<NameSet>(id, at === undefined ? {} : { at });
  if (handle === undefined) return undefined;
  const held = handle.held.map(({ event }) => nameOf(event));
  const names = [...handle.doc.names.keys(), ...held].sort();
  await handle.close({ discard: true });
  return { clock: handle.clock, names };
}

type Operation = (run: Run, storage: NameStorage, id: string) => Promise<unknown>;

const append: Operation = async (run, storage, id) => {
  const names = run.chance(4) ? [run.next(), run.next()] : [run.next()];
  const from = run.book.tick();
  const after = run.chance(6) ? ["never"] : [];
  const events = names.map((name) => naming(name, after));
  const { clock } = await run.book.submit(names, () => storage.append(id, events));
  run.book.note(id, { names, clock, from });
};

const save: Operation = async (run, storage, id) => {
  const handle = await storage.load<NameSet>(id);
  if (handle === undefined) return;
  const name = run.next();
  handle.change(add(name));
  try {
    const from = run.book.tick();
    const clock = await run.book.submit([name], () => handle.save());
    run.book.note(id, { names: [name], clock: undefined, from });
    expect(clock).toBeGreaterThan(0);
    if (run.chance(3)) await handle.snapshot();
  } finally {
    await handle.close({ discard: true });
  }
};

/** What a document brought elsewhere takes along. */
const bring = (run: Run, from: number, to: string, facts: readonly Fact[]): void => {
  for (const { names } of facts) run.book.note(to, { names, clock: undefined, from });
};

const fork: Operation = async (run, storage, id) => {
  const to = run.another(id);
  const from = run.book.tick();
  const facts = run.book.sure(id, from);
  const at = run.chance(2) ? undefined : facts.find(() => run.chance(2))?.clock;
  const forked = await storage.fork(id, to, { recreate: true, ...(at === undefined ? {} : { at }) });
  // A life that another removal ended meanwhile may be followed by a new one.
  const still = run.book.sure(id, from).filter((fact) => facts.includes(fact));
  const kept = at === undefined ? still : still.filter(({ clock }) => clock !== undefined && clock <= at);
  if (forked === undefined) expect(still).toEqual([]);
  else bring(run, from, to, kept);
};

const move: Operation = async (run, storage, id) => {
  const from = run.book.tick();
  const facts = run.book.sure(id, from);
  const chunks: Uint8Array[] = [];
  for await (const chunk of storage.export(id)) chunks.push(chunk);
  const still = run.book.sure(id, from).filter((fact) => facts.includes(fact));
  if (chunks.length === 0) return expect(still).toEqual([]);
  const to = run.another(id);
  const begun = run.book.tick();
  async function* stream() {
    yield* chunks;
  }
  const { outcome } = await storage.import(stream(), { id: to, recreate: true });
  if (outcome === "imported") bring(run, begun, to, still);
};

const copy: Operation = async (run, storage) => {
  const { failures } = await storage.copyTo(run.backup);
  // Nobody but copies writes there, so nothing of its own can be in the way.
  for (const { error } of failures)
    if (!["BUSY", "UNAVAILABLE"].includes(error.code)) throw new Error(error.message);
};

const past: Operation = async (run, storage, id) => {
  const from = run.book.tick();
  const fact = run.book.sure(id, from).find(({ clock }) => clock !== undefined && run.chance(2));
  if (fact === undefined) return;
  const found = await shown(storage, id, fact.clock!);
  if (!run.book.sure(id, from).includes(fact)) return;
  expect(found?.clock).toBe(fact.clock);
  expect(found?.names).toEqual(expect.arrayContaining([...fact.names]));
};

const load: Operation = async (run, storage, id) => {
  const from = run.book.tick();
  const facts = run.book.sure(id, from);
  const found = await shown(storage, id);
  for (const fact of run.book.sure(id, from)) {
    if (facts.includes(fact)) expect(found?.names).toEqual(expect.arrayContaining([...fact.names]));
  }
};

const check: Operation = async (run, storage) => {
  expect((await storage.check({ repair: run.chance(2) })).problems).toEqual([]);
};

const compact: Operation = async (run, storage, id) => {
  const { outcome, reason } = await storage.compact(id, { force: run.chance(3) });
  if (outcome === "refused") throw new Error(`a compaction refused: ${reason}`);
};

const remove: Operation = (run, storage, id) => run.book.removal(id, () => storage.delete(id));
const erase: Operation = (run, storage, id) => run.book.removal(id, () => storage.erase(id));
const recreate: Operation = async (_, storage, id) => (await storage.open(id, { recreate: true })).close();

const OPERATIONS: readonly (readonly [string, Operation])[] = [
  ...Array.from({ length: 9 }, () => ["append", append] as const),
  ...Array.from({ length: 3 }, () => ["compact", compact] as const),
  ...[["save", save] as const, ["save", save] as const, ["fork", fork] as const, ["fork", fork] as const],
  ...[["load", load] as const, ["past", past] as const, ["import", move] as const, ["copy", copy] as const],
  ...[["check", check] as const, ["check", check] as const],
  ...[["delete", remove] as const, ["erase", erase] as const, ["recreate", recreate] as const],
  ["tag", (run, storage, id) => storage.tag(id, run.tagName())],
  ["untag", (run, storage, id) => storage.untag(id, run.tagName())],
  ["recover", (_, storage) => storage.recover()],
];

/** Each operation of the backend waits for some others; now and then for very many. */
function scheduled(random: SeededRandom): () => Promise<void> {
  return async () => {
    const turns = random.int(24) === 0 ? random.int(150) : random.int(6);
    for (let turn = 0; turn < turns; turn++) await undefined;
  };
}

async function runWith(seed: number): Promise<Run> {
  const random = seededRandom(seed);
  const schedule = scheduled(random);
  let calm = random.int(3) > 0;
  const faults = ({ kind }: BackendOperation): Fault | undefined =>
    calm || kind !== "commit" || random.int(12) > 0 ? undefined : random.pick(FAULTS);
  const backend = simulatedBackend({ seed, exclusive: false, schedule, faults });
  const elsewhere = simulatedBackend({ seed, exclusive: false, schedule, faults });
  const storages = await Promise.all(
    [elsewhere, backend, ...(random.int(2) === 0 ? [] : [backend])].map((each, index) => {
      const history = random.pick(HISTORIES);
      return DocumentStorage.open<readonly AnyModel[]>({
        backend: each,
        models: [nameSet()],
        env: simulatedEnv(seed * 4 + index, { autoAdvance: true }),
        snapshotPolicy: everyEvents(4),
        limits: LIMITS,
        ...(history === undefined ? {} : { history }),
      });
    }),
  );
  const run = new Run(random, backend, storages);
  await Promise.all(Array.from({ length: WORKERS }, () => run.work()));
  calm = true;
  await run.verify();
  await run.eraseAll();
  await run.close();
  return run;
}

test("[MV35] whatever runs beside whatever, no acknowledged event is lost and no clock is used twice", async () => {
  const done: Record<string, number> = {};
  const codes = new Set<string>();
  for (let index = 0; index < RUNS; index++) {
    const seed = SEED + index;
    const run = await runWith(seed).catch((cause: unknown) => {
      throw new Error(`seed ${seed}: ${(cause as Error).message}`, { cause });
    });
    for (const [what, count] of Object.entries(run.done)) done[what] = (done[what] ?? 0) + count;
    for (const code of Object.keys(run.codes)) codes.add(code);
  }
  if (RUNS < 80) return;
  for (const [what] of OPERATIONS) expect(done[what]).toBeGreaterThan(RUNS / 8);
  expect([...codes]).toEqual(expect.arrayContaining(["BUSY", "DELETED", "EXISTS", "TAG_EXISTS"]));
});
