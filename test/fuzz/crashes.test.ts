// Commands on a storage against a naive model, with fast-check's scheduler deciding when each operation of the backend
// happens, and crashes, lost replies and reopenings between and inside of them. Two writers on one store, without
// crashes, are in `two-writers.test.ts`; a crash at each operation of one fixed run is in test/crash.
//
// COPPICE_FUZZ_RUNS=<count> searches longer; COPPICE_SEED=<integer> elsewhere.

import { DocumentStorage, everyEvents, isCoppiceError } from "coppice";
import { type SimulatedBackend, simulatedBackend, simulatedEnv } from "coppice/testing";
import fc from "fast-check";
import { expect, test } from "vitest";
import { type NameSet, nameSet, naming } from "../support/oracle-model.js";

const RUNS = Number(process.env.COPPICE_FUZZ_RUNS ?? 250);
const IDS = ["a", "b"] as const;
type Id = (typeof IDS)[number];

type Call =
  | { readonly what: "append"; readonly id: Id; readonly count: number }
  | { readonly what: "load" | "read" | "snapshot" | "compact" | "delete"; readonly id: Id };
type Command =
  /** All at once. */
  | { readonly what: "calls"; readonly calls: readonly Call[] }
  /** The same, while the power goes at one of the next operations. */
  | { readonly what: "crash"; readonly after: number; readonly calls: readonly Call[] }
  | { readonly what: "lose reply"; readonly applied: boolean; readonly id: Id }
  | { readonly what: "reopen" };

const call: fc.Arbitrary<Call> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      what: fc.constant("append" as const),
      id: fc.constantFrom(...IDS),
      count: fc.integer({ min: 1, max: 3 }),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      what: fc.constantFrom(
        "load" as const,
        "read" as const,
        "snapshot" as const,
        "compact" as const,
        "compact" as const,
      ),
      id: fc.constantFrom(...IDS),
    }),
  },
  { weight: 1, arbitrary: fc.record({ what: fc.constant("delete" as const), id: fc.constantFrom(...IDS) }) },
);
const calls = fc.array(call, { minLength: 1, maxLength: 4 });
const command: fc.Arbitrary<Command> = fc.oneof(
  { weight: 5, arbitrary: calls.map((some) => ({ what: "calls" as const, calls: some })) },
  {
    weight: 3,
    arbitrary: fc
      .tuple(fc.integer({ min: 0, max: 25 }), calls)
      .map(([after, some]) => ({ what: "crash" as const, after, calls: some })),
  },
  {
    weight: 1,
    arbitrary: fc
      .tuple(fc.boolean(), fc.constantFrom(...IDS))
      .map(([applied, id]) => ({ what: "lose reply" as const, applied, id })),
  },
  { weight: 1, arbitrary: fc.constant({ what: "reopen" as const }) },
);

/** What a document must hold: all of `stored`; perhaps, each as a whole, what is `unsure`. */
interface Expected {
  stored: Set<string>;
  unsure: string[][];
  /** A deletion was asked for, and nobody knows its outcome. */
  perhapsDeleted: boolean;
}

class World {
  readonly simulated: SimulatedBackend;
  readonly #scheduler: fc.Scheduler;
  readonly #documents = new Map<Id, Expected>();
  readonly seen = new Set<string>();
  #storage: DocumentStorage | undefined;
  #number = 0;

  constructor(scheduler: fc.Scheduler, seed: number, lies: boolean) {
    this.#scheduler = scheduler;
    const schedule = (label: string) => scheduler.schedule(Promise.resolve(), label);
    const lying = lies ? ({ sync: "never", durability: "power" } as const) : {};
    this.simulated = simulatedBackend({ seed, schedule, ...lying });
    for (const id of IDS) this.#documents.set(id, { stored: new Set(), unsure: [], perhapsDeleted: false });
  }

  async run(command: Command): Promise<void> {
    this.#storage ??= await this.#open();
    if (command.what === "reopen") {
      const storage = this.#storage;
      this.#storage = undefined;
      await this.#drain(storage.close());
    } else if (command.what === "calls") {
      await this.#drain(this.#all(command.calls));
    } else if (command.what === "crash") {
      this.simulated.crashAt(this.simulated.operationCount + command.after, { keep: "subset" });
      const died = await this.#drain(this.simulated.untilCrash(() => this.#all(command.calls)));
      this.simulated.heal();
      if (!died) return;
      this.seen.add("crash");
      this.#storage = undefined;
    } else {
      this.simulated.failNext("reply", command.applied ? "unknown-applied" : "unknown-lost");
      await this.#drain(this.#all([{ what: "append", id: command.id, count: 2 }]));
      this.simulated.heal();
    }
    this.#storage ??= await this.#open();
    await this.#recoverIfNeeded();
    for (const id of IDS) await this.#verify(id);
  }

  async end(): Promise<void> {
    await this.#drain(this.#storage?.close() ?? Promise.resolve());
  }

  async #open(): Promise<DocumentStorage> {
    const opening = DocumentStorage.open({
      backend: this.simulated,
      models: [nameSet()],
      env: simulatedEnv(1, { autoAdvance: true }),
      snapshotPolicy: everyEvents(5),
    });
    return this.#drain(opening);
  }

  async #all(some: readonly Call[]): Promise<void> {
    await Promise.all(some.map((one) => this.#call(one)));
  }

  async #call(one: Call): Promise<void> {
    const storage = this.#storage!;
    try {
      if (one.what === "append") await this.#append(one.id, one.count);
      else if (one.what === "delete") await this.#delete(one.id);
      else if (one.what === "load") await (await storage.load(one.id))?.close();
      else if (one.what === "compact") await storage.compact(one.id);
      else if (one.what === "snapshot") await (await storage.load<NameSet>(one.id))?.snapshot();
      else for await (const event of storage.read(one.id)) this.seen.add(event ? "read" : "");
    } catch (error) {
      if (!isCoppiceError(error)) throw error;
      this.seen.add(error.code);
    }
  }

  async #append(id: Id, count: number): Promise<void> {
    const expected = this.#documents.get(id)!;
    const names = Array.from({ length: count }, () => `${id}${++this.#number}`);
    expected.unsure.push(names);
    const settle = (stored: boolean) => {
      expected.unsure = expected.unsure.filter((other) => other !== names);
      if (stored) for (const name of names) expected.stored.add(name);
    };
    try {
      await this.#storage!.append(
        id,
        names.map((name) => naming(name)),
      );
      settle(true);
    } catch (error) {
      if (!isCoppiceError(error, "OUTCOME_UNKNOWN")) settle(false);
      throw error;
    }
  }

  async #delete(id: Id): Promise<void> {
    const expected = this.#documents.get(id)!;
    expected.perhapsDeleted = true;
    await this.#storage!.delete(id);
  }

  /** A lost reply poisons the store. */
  async #recoverIfNeeded(): Promise<void> {
    if (!this.seen.has("OUTCOME_UNKNOWN") && !this.seen.has("POISONED")) return;
    this.seen.delete("OUTCOME_UNKNOWN");
    this.seen.delete("POISONED");
    await this.#drain(this.#storage!.recover());
    this.seen.add("recovered");
  }

  /** What is there becomes what must be there from now on. */
  async #verify(id: Id): Promise<void> {
    const expected = this.#documents.get(id)!;
    const handle = await this.#drain(this.#storage!.load<NameSet>(id));
    const names = new Set(handle?.doc.names.keys() ?? []);
    await this.#drain(handle?.close() ?? Promise.resolve());
    if (handle === undefined && expected.perhapsDeleted) {
      this.#documents.set(id, { stored: new Set(), unsure: [], perhapsDeleted: true });
      return;
    }
    for (const name of expected.stored) expect(names, `${id}: ${name} was acknowledged`).toContain(name);
    const extra = new Set([...names].filter((name) => !expected.stored.has(name)));
    for (const batch of expected.unsure) {
      const there = batch.filter((name) => extra.delete(name)).length;
      expect([0, batch.length], `${id}: the append of ${batch} is half there`).toContain(there);
    }
    expect([...extra], `${id}: never written`).toEqual([]);
    this.#documents.set(id, { stored: names, unsure: [], perhapsDeleted: false });
    const report = await this.#drain(this.#storage!.check({ id }));
    expect(report.problems).toEqual([]);
  }

  /** Lets scheduled operations happen, one by one, until this has settled. */
  async #drain<T>(work: Promise<T>): Promise<T> {
    let settled = false;
    const watched = work.finally(() => {
      settled = true;
    });
    watched.catch(() => undefined);
    while (!settled) {
      if (this.#scheduler.count() > 0) await this.#scheduler.waitOne();
      else await new Promise((resolve) => setImmediate(resolve));
    }
    return watched;
  }
}

/** Resolves with what was seen; rejects with the shortest run in which something is lost. */
async function search(runs: number, lies: boolean): Promise<Set<string>> {
  const seen = new Set<string>();
  const property = fc.asyncProperty(
    fc.scheduler(),
    fc.integer({ min: 1, max: 1_000_000 }),
    fc.array(command, { minLength: 1, maxLength: 10 }),
    async (scheduler, seed, commands) => {
      const world = new World(scheduler, seed, lies);
      for (const one of commands) await world.run(one);
      await world.end();
      for (const what of world.seen) seen.add(what);
    },
  );
  await fc.assert(property, { numRuns: runs });
  return seen;
}

test("[RC27] whatever is called, in whatever order it happens, crashes and lost replies lose nothing", async () => {
  const seen = await search(RUNS, false);
  // Else it was about nothing.
  expect([...seen]).toEqual(expect.arrayContaining(["crash", "recovered", "read", "DELETED"]));
}, 180_000);

test("[RC27] the search finds a disk that says power and does not sync", async () => {
  const found: unknown = await search(RUNS, true).catch((error: unknown) => error);
  expect(String((found as Error).cause)).toMatch(/was acknowledged|half there/);
}, 180_000);
