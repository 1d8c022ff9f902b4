// Two or three storages over one shared store: every interleaving of their operations is decided by fast-check's
// scheduler, and whatever one of them is told is judged by a witness who saw each commit.
//
// COPPICE_FUZZ_RUNS=<count> searches longer; COPPICE_SEED=<integer> elsewhere. Interleavings that once lost
// something are tests of their own in `races.test.ts`.

import {
  ABSENT,
  type CompactResult,
  DocumentStorage,
  type Env,
  everyEvents,
  type HistoryPolicy,
  isCoppiceError,
} from "coppice";
import { type Fault, simulatedBackend, simulatedEnv } from "coppice/testing";
import fc from "fast-check";
import { expect, test } from "vitest";
import { type NameStorage, nameOf } from "../support/oracle.js";
import { add, type NameSet, nameSet, naming } from "../support/oracle-model.js";
import { Refuted, Witness } from "../support/oracle-witness.js";

const RUNS = Number(process.env.COPPICE_FUZZ_RUNS ?? 150);

/** Small, so that little work crosses pages, slices, parts and windows. */
const LIMITS = {
  sweepKeysMax: 2,
  pageBytesMax: 48,
  snapshotPartBytesMax: 24,
  groupBytesMax: 160,
  commitIdsMax: 4,
  headsMax: 1,
  archiveSegmentBytesMax: 64,
};

const STEPS = [
  ...(["append", "append", "append two", "append once", "append expecting", "append absent"] as const),
  ...(["repeat", "held", "open", "recreate", "edit", "edit", "save", "save", "refresh"] as const),
  ...(["tag", "tag other", "untag", "load tag", "load past"] as const),
  ...(["snapshot", "compact", "compact", "force", "delete", "load", "load", "read", "info"] as const),
];

/** Nothing needs as many. */
const OPERATIONS_MAX = 20_000;

type Step = (typeof STEPS)[number];
type Handle = Awaited<ReturnType<typeof openHandle>>;

function openHandle(storage: NameStorage, recreate: boolean) {
  return storage.open<NameSet>("d", { recreate });
}

/** One caller of one of the storages: takes a step, waits for its outcome, judges it, takes the next. */
class Caller {
  readonly #name: string;
  readonly #storage: NameStorage;
  readonly #witness: Witness;
  /** May calls fail for other reasons than other writers? */
  readonly #faulty: boolean;
  /** Time goes on. */
  readonly #tick: () => void;
  #count = 0;
  #token: string = ABSENT;
  #once: { names: string[]; commitId: Uint8Array; clock: number; incarnation: string } | undefined;
  #handle: Handle | undefined;
  #edits: string[] = [];
  /** Names that must never be stored, and those that may be. */
  readonly refused: string[] = [];
  readonly unknown: string[] = [];
  readonly codes: string[] = [];

  constructor(name: string, storage: NameStorage, witness: Witness, faulty: boolean, tick: () => void) {
    this.#name = name;
    this.#storage = storage;
    this.#witness = witness;
    this.#faulty = faulty;
    this.#tick = tick;
  }

  async run(steps: readonly Step[]): Promise<void> {
    for (const step of steps) {
      const from = this.#witness.moment;
      try {
        await this.#take(step, from);
      } catch (error) {
        if (!isCoppiceError(error)) throw error;
        this.codes.push(error.code);
        this.#judge(step, error.code, from);
      }
    }
  }

  /** Saves what the handle still has, once nothing fails any more. */
  async finish(): Promise<void> {
    for (let attempt = 0; this.#handle !== undefined && this.#edits.length > 0 && attempt < 2; attempt++) {
      await this.run(["save"]);
    }
    await this.#handle?.close({ discard: true });
  }

  #take(step: Step, from: number): Promise<void> {
    const id = "d";
    switch (step) {
      case "append":
        return this.#append([this.#next()]);
      case "append two":
        return this.#append([this.#next(), this.#next()]);
      case "append once":
        return this.#appendOnce([this.#next()]);
      case "append expecting":
        return this.#append([this.#next()], { expected: this.#token });
      case "append absent":
        return this.#append([this.#next()], { expected: ABSENT });
      case "repeat":
        return this.#repeat();
      case "held":
        return this.#append([this.#next()], {}, [`${this.#name}${this.#count + 1}`]);
      case "open":
      case "recreate":
        return this.#open(step === "recreate");
      case "edit":
        return this.#edit();
      case "save":
        return this.#save();
      case "refresh":
        return this.#refresh(from);
      case "tag":
        return this.#tag("t", from);
      case "tag other":
        return this.#tag(this.#name, from);
      case "untag":
        return this.#storage.untag("d", "t").then(() => undefined);
      case "load tag":
        return this.#loadAt("t", from);
      case "load past":
        return this.#loadPast(from);
      case "snapshot":
        return this.#snapshot();
      case "compact":
      case "force":
        return this.#compact(step === "force");
      case "delete":
        return this.#delete(id, from);
      case "load":
        return this.#load(id, from);
      case "read":
        return this.#read(id, from);
      case "info":
        return this.#info(id, from);
    }
  }

  /** Whether this code may be the answer to this step. */
  #judge(step: Step, code: string, from: number): void {
    const faults = ["UNAVAILABLE", "OUTCOME_UNKNOWN"];
    if (this.#faulty && faults.includes(code)) return;
    const gone = this.#witness.wasAbsent("d", from) || this.#handleIsGone();
    if (code === "DELETED" && gone) return;
    if (code === "TRIMMED" && ["refresh", "read", "load past"].includes(step)) return;
    if (code === "TAG_EXISTS" && (step === "tag" || step === "tag other")) return;
    if (code === "TAG_UNKNOWN" && step === "load tag") return;
    // So many others were faster.
    if (code === "BUSY" && ["tag", "tag other", "untag"].includes(step)) return;
    // So many commits came between that its id may have been among those forgotten.
    const overtaken = this.#witness.moment - from >= LIMITS.commitIdsMax;
    if (code === "OUTCOME_UNKNOWN" && step === "append once" && overtaken) return;
    if (code === "HEAD_CONFLICT" && (step === "append absent" || step === "append expecting")) {
      const expected = step === "append absent" ? ABSENT : this.#token;
      if (this.#witness.tokenDiffered("d", from, expected)) return;
    }
    throw new Refuted(`${step} was refused with ${code}`);
  }

  #handleIsGone(): boolean {
    return this.#handle !== undefined && this.#witness.hasEnded("d", this.#incarnation);
  }

  /** Of the handle, when it can be told. */
  #incarnation: string | undefined;

  #next(): string {
    return `${this.#name}${++this.#count}`;
  }

  async #append(names: string[], options: { expected?: string } = {}, after: string[] = []): Promise<void> {
    const events = names.map((name) => naming(name, after));
    const { clock, token, duplicate } = await this.#submit(names, () =>
      this.#storage.append("d", events, options),
    );
    if (duplicate) throw new Refuted(`${names} was taken for a repetition`);
    this.#witness.assertStored("d", names, clock, token.split(".")[0]);
    this.#token = token;
  }

  async #appendOnce(names: string[]): Promise<void> {
    this.#tick();
    const commitId = this.#storage.newCommitId();
    const events = names.map((name) => naming(name));
    const { clock, token } = await this.#submit(names, () => this.#storage.append("d", events, { commitId }));
    const incarnation = token.split(".")[0]!;
    this.#witness.assertStored("d", names, clock, incarnation);
    this.#once = { names, commitId, clock, incarnation };
  }

  /** Of a life that has ended nothing is remembered, so only a living one is asked. */
  async #repeat(): Promise<void> {
    if (this.#once === undefined) return;
    const { names, commitId, clock, incarnation } = this.#once;
    const result = this.#storage.append(
      "d",
      names.map((name) => naming(name)),
      { commitId, expected: `${incarnation}.${clock - names.length}` },
    );
    const answer = await result.catch((error: unknown) => {
      const forgotten = isCoppiceError(error, "OUTCOME_UNKNOWN");
      const ended = this.#witness.hasEnded("d", incarnation);
      if (forgotten || (ended && isCoppiceError(error))) return undefined;
      throw error;
    });
    if (answer === undefined) return;
    if (!answer.duplicate || answer.clock !== clock) throw new Refuted(`${names} was not recognised`);
  }

  async #submit<T>(names: string[], work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (isCoppiceError(error, "OUTCOME_UNKNOWN")) this.unknown.push(...names);
      else this.refused.push(...names);
      throw error;
    }
  }

  async #open(recreate: boolean): Promise<void> {
    const from = this.#witness.moment;
    const handle = await openHandle(this.#storage, recreate);
    await this.#handle?.close({ discard: true });
    this.unknown.push(...this.#edits.splice(0));
    this.#handle = handle;
    this.#witness.assertState("d", from, { clock: handle.clock, names: namesOf(handle) });
    this.#incarnation = this.#witness.incarnationAt("d", handle.clock, namesOf(handle), from);
  }

  async #edit(): Promise<void> {
    const name = this.#next();
    if (this.#handle === undefined) return;
    this.#handle.change(add(name));
    this.#edits.push(name);
  }

  async #save(): Promise<void> {
    if (this.#handle === undefined || this.#edits.length === 0) return;
    const names = [...this.#edits];
    let clock: number;
    try {
      clock = await this.#handle.save();
    } catch (error) {
      const stored = names.filter((name) => this.#witness.isStored(name));
      if (stored.length > 0 && !this.#faulty) throw new Refuted(`${stored} was refused, and is stored`);
      throw error;
    }
    if (this.#faulty) for (const name of names) this.#witness.assertPresent("d", name);
    else this.#witness.assertStored("d", names, clock, this.#incarnation);
    this.#edits = [];
  }

  async #refresh(from: number): Promise<void> {
    if (this.#handle === undefined) return;
    const clock = await this.#handle.refresh();
    if (this.#incarnation === undefined) return;
    this.#witness.assertHandle("d", from, clock, this.#incarnation, namesOf(this.#handle), this.#edits);
  }

  async #tag(name: string, from: number): Promise<void> {
    const tag = await this.#storage.tag("d", name);
    this.#witness.assertState("d", from, tag && { clock: tag.clock });
  }

  /** What is shown is what some life was at that clock. */
  async #loadAt(at: string | number, from: number): Promise<void> {
    const handle = await this.#storage.load<NameSet>("d", { at });
    if (handle === undefined) return this.#witness.assertState("d", from, undefined);
    this.#witness.incarnationAt("d", handle.clock, namesOf(handle), from);
    if (typeof at === "number" && handle.clock !== at) throw new Refuted(`loaded ${handle.clock}, not ${at}`);
    await handle.close();
  }

  async #loadPast(from: number): Promise<void> {
    const info = await this.#storage.info("d");
    if (info !== undefined) await this.#loadAt(Math.max(0, info.clock - 3), from);
  }

  async #snapshot(): Promise<void> {
    await this.#handle?.snapshot();
  }

  async #compact(force: boolean): Promise<void> {
    const { outcome, reason }: CompactResult = await this.#storage.compact("d", { force });
    if (outcome === "refused") throw new Refuted(`a compaction refused: ${reason}`);
  }

  async #delete(id: string, from: number): Promise<void> {
    const existed = await this.#storage.delete(id);
    if (existed && this.#witness.isSame(id, from)) throw new Refuted("a deletion that deleted nothing");
    if (!existed && !this.#witness.wasAbsent(id, from)) throw new Refuted("a deletion that found nothing");
  }

  async #load(id: string, from: number): Promise<void> {
    const handle = await this.#storage.load<NameSet>(id);
    this.#witness.assertState(id, from, handle && { clock: handle.clock, names: namesOf(handle) });
    await handle?.close();
  }

  async #read(id: string, from: number): Promise<void> {
    const info = await this.#storage.info(id);
    this.#witness.assertState(id, from, info);
    if (info === undefined) return;
    const again = this.#witness.moment;
    const log: { clock: number; name: string }[] = [];
    const start = info.archivedClock ?? info.oldestClock;
    for await (const { clock, event } of this.#storage.read(id, { from: start })) {
      log.push({ clock, name: nameOf(event) });
    }
    if (log.length === 0 && this.#witness.wasAbsent(id, again)) return;
    this.#witness.assertLog(id, again, start, log);
  }

  async #info(id: string, from: number): Promise<void> {
    const info = await this.#storage.info(id);
    this.#witness.assertState(id, from, info);
    if (info !== undefined) this.#token = info.token;
  }
}

function namesOf(handle: Handle): string[] {
  return [...handle.doc.names.keys(), ...handle.held.map(({ event }) => nameOf(event))];
}

interface Outcome {
  readonly commits: number;
  readonly codes: readonly string[];
}

/** Lets the callers run to their end, and looks at what is left from each storage. */
async function interleave(
  scheduler: fc.Scheduler,
  storages: number,
  callers: readonly (readonly Step[])[],
  faults: readonly (Fault | undefined)[] = [],
  histories: readonly (HistoryPolicy | undefined)[] = [undefined],
): Promise<Outcome> {
  const witness = new Witness();
  let calm = false;
  let stuck: (error: Refuted) => void = () => undefined;
  const livelock = new Promise<never>((_, reject) => {
    stuck = reject;
  });
  livelock.catch(() => undefined);
  const faulty = faults.length > 0;
  const turn = (callback: () => void) => {
    void scheduler.schedule(Promise.resolve(), "turn").then(callback);
  };
  const backend = simulatedBackend({
    exclusive: false,
    schedule: (label) => scheduler.schedule(Promise.resolve(), label),
    faults: (operation) => {
      const fault = calm || operation.kind === "open" ? undefined : faults[operation.index % faults.length];
      witness.see(operation, fault);
      if (operation.index > OPERATIONS_MAX)
        stuck(new Refuted("the storages keep each other from any progress"));
      return fault;
    },
  });
  const envs = Array.from({ length: storages }, (_, index) =>
    simulatedEnv(index + 1, { autoAdvance: true, turn }),
  );
  const tick = () => {
    for (const env of envs) env.advance(1);
  };
  const open = (env: Env, index: number) => {
    const history = histories[index % histories.length];
    return DocumentStorage.open({
      backend,
      models: [nameSet()],
      env,
      snapshotPolicy: everyEvents(4),
      limits: LIMITS,
      ...(history === undefined ? {} : { history }),
    });
  };
  const opening = Promise.all(envs.map(open));
  const opened = await scheduler.waitFor(opening);
  const all = callers.map((_, index) => {
    const storage = opened[index % storages]!;
    return new Caller("abcdef"[index]!, storage, witness, faulty, tick);
  });
  const running = Promise.all(all.map((caller, index) => caller.run(callers[index]!)));
  await scheduler.waitFor(Promise.race([running, livelock]));
  calm = true;
  await scheduler.waitFor(Promise.race([conclude(all, opened, witness), livelock]));
  return { commits: witness.moment, codes: all.flatMap(({ codes }) => codes) };
}

/** Nothing fails any more: what is left must be whole, the same for all, and nothing that was refused. */
async function conclude(
  callers: readonly Caller[],
  storages: readonly NameStorage[],
  witness: Witness,
): Promise<void> {
  for (const caller of callers) await caller.finish();
  for (const storage of storages) await storage.flush();
  for (const storage of storages) {
    const from = witness.moment;
    const handle = await storage.load<NameSet>("d");
    witness.assertState("d", from, handle && { clock: handle.clock, names: namesOf(handle) });
    expect((await storage.check()).problems).toEqual([]);
    for (const { name, clock } of await storage.tags("d")) {
      const tagged = await storage.load<NameSet>("d", { at: name });
      expect(tagged?.clock).toBe(clock);
      witness.incarnationAt("d", clock, namesOf(tagged!), from);
    }
  }
  for (const name of callers.flatMap(({ refused }) => refused)) {
    if (witness.isStored(name)) throw new Refuted(`${name} was refused, and is stored`);
  }
  for (const storage of storages) await storage.close();
}

const steps = fc.array(fc.constantFrom(...STEPS), { minLength: 3, maxLength: 14 });
const callers = fc.array(steps, { minLength: 2, maxLength: 4 });
const history = fc.constantFrom<HistoryPolicy | undefined>(
  ...[undefined, "archive" as const, "archive" as const, "drop" as const],
  ...[{ keepEvents: 0 }, { keepEvents: 3 }],
);
const histories = fc.array(history, { minLength: 1, maxLength: 3 });

test("[ST30] storages on one store never lose, repeat, reorder or resurrect an event", async () => {
  let commits = 0;
  const codes = new Set<string>();
  const property = fc.asyncProperty(
    fc.scheduler(),
    fc.integer({ min: 2, max: 3 }),
    callers,
    histories,
    async (s, n, c, h) => {
      const outcome = await interleave(s, n, c, [], h);
      commits += outcome.commits;
      for (const code of outcome.codes) codes.add(code);
    },
  );
  await fc.assert(property, { numRuns: RUNS, endOnFailure: RUNS > 1000 });
  expect(commits).toBeGreaterThan(RUNS * 5);
  const expected = ["DELETED", "HEAD_CONFLICT", "TRIMMED", "TAG_EXISTS", "TAG_UNKNOWN"];
  expect([...codes]).toEqual(expect.arrayContaining(expected));
});

test("[ST31] nor when commits fail, or their replies are lost", async () => {
  const fault = fc.constantFrom<(Fault | undefined)[]>(
    ...[undefined, undefined, undefined, undefined, undefined, undefined],
    ...(["unavailable", "unknown-lost", "unknown-applied"] as const),
  );
  const faults = fc.array(fault, { minLength: 5, maxLength: 23 });
  const property = fc.asyncProperty(fc.scheduler(), callers, faults, histories, async (s, c, f, h) => {
    await interleave(s, 2, c, f, h);
  });
  await fc.assert(property, { numRuns: RUNS, endOnFailure: RUNS > 1000 });
});
