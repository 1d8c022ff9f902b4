// A crash at every operation of the backend while a document is tagged, untagged, archived and deleted. What was
// acknowledged is there afterwards, what was not is there as a whole or not at all, and the next process goes on.

import { DocumentStorage, type HistoryPolicy, never } from "coppice";
import { type CrashOptions, type SimulatedBackend, simulatedBackend, simulatedEnv } from "coppice/testing";
import { describe, expect, test } from "vitest";
import type { NameStorage } from "../support/oracle.js";
import { type NameSet, nameSet, naming } from "../support/oracle-model.js";

/** What is known of each tag: the clock that it may have, or none, and whether that was acknowledged. */
class TagLedger {
  readonly #tags = new Map<string, { clock: number | undefined; sure: boolean }[]>();
  deleted = false;

  readonly archives: boolean;

  constructor(archives = false) {
    this.archives = archives;
  }

  async #verifyArchive(storage: NameStorage): Promise<void> {
    const { clock } = (await storage.info("d"))!;
    const names: string[] = [];
    for await (const { event } of storage.read("d")) names.push(nameOfEvent(event));
    expect(names).toEqual(Array.from({ length: clock }, (_, index) => `n${index}`));
    for (const at of [1, Math.floor(clock / 2), clock].filter((one) => one <= clock)) {
      const handle = await storage.load<NameSet>("d", { at });
      expect(handle!.doc.names.size + handle!.held.length).toBe(at);
    }
  }

  async set(name: string, clock: number | undefined, work: () => Promise<unknown>): Promise<void> {
    const states = this.#tags.get(name) ?? [{ clock: undefined, sure: true }];
    states.push({ clock, sure: false });
    this.#tags.set(name, states);
    await work();
    this.#tags.set(name, [{ clock, sure: true }]);
  }

  async verify(storage: NameStorage): Promise<void> {
    const tags = new Map((await storage.tags("d")).map(({ name, clock }) => [name, clock]));
    const exists = (await storage.info("d")) !== undefined;
    if (!exists) expect(tags.size).toBe(0);
    for (const [name, clock] of tags) {
      const handle = await storage.load<NameSet>("d", { at: name });
      const names = [...handle!.doc.names.keys(), ...handle!.held.map(({ event }) => nameOfEvent(event))];
      expect(handle!.clock).toBe(clock);
      expect(names.sort()).toEqual(Array.from({ length: clock }, (_, index) => `n${index}`).sort());
    }
    if (exists && this.archives) await this.#verifyArchive(storage);
    for (const [name, states] of this.#tags) {
      if (this.deleted && !exists) continue;
      const found = tags.get(name);
      expect(
        states.map((state) => state.clock),
        `${name} is at ${found}`,
      ).toContain(found);
      // Settled: the next look must find the same.
      this.#tags.set(name, [{ clock: found, sure: true }]);
    }
    expect((await storage.check()).problems).toEqual([]);
  }
}

function nameOfEvent(event: unknown): string {
  return (JSON.parse(new TextDecoder().decode(event as Uint8Array)) as { n: string }).n;
}

const LIMITS = { sweepKeysMax: 2, snapshotPartBytesMax: 48, archiveSegmentBytesMax: 120 };

const opener = (backend: SimulatedBackend, history?: HistoryPolicy) => {
  let processes = 0;
  return (): Promise<NameStorage> => {
    const env = simulatedEnv(++processes, { autoAdvance: true });
    const options = { backend, models: [nameSet()], env, snapshotPolicy: never, limits: LIMITS };
    return DocumentStorage.open(history === undefined ? options : { ...options, history });
  };
};

async function workload(storage: NameStorage, ledger: TagLedger): Promise<void> {
  let clock = 0;
  const append = async (...after: string[][]) => {
    await storage.append(
      "d",
      after.map((parents, index) => naming(`n${clock + index}`, parents)),
    );
    clock += after.length;
  };
  await append([], [], ["never"]);
  await ledger.set("a", 3, () => storage.tag("d", "a"));
  await ledger.set("b", 2, () => storage.tag("d", "b", 2));
  await append([]);
  await append([]);
  await storage.compact("d");
  await ledger.set("a", undefined, () => storage.untag("d", "a"));
  await append(["never"]);
  await append([]);
  await ledger.set("a", 7, () => storage.tag("d", "a"));
  await storage.compact("d");
  await append([]);
  await storage.compact("d");
  await ledger.set("b", undefined, () => storage.untag("d", "b"));
  ledger.deleted = true;
  await storage.delete("d");
}

async function aftermath(open: () => Promise<NameStorage>, ledger: TagLedger): Promise<void> {
  const storage = await open();
  await ledger.verify(storage);
  const info = await storage.info("d");
  if (info !== undefined) {
    await ledger.set("z", info.clock, () => storage.tag("d", "z"));
    await storage.compact("d");
    await ledger.verify(storage);
  }
  const report = await storage.check({ repair: true });
  expect(report.problems).toEqual([]);
  expect((await storage.check()).garbageKeys).toBe(0);
  await storage.close();
}

/** Only appends and compactions, so that the archive grows, is merged, and is cut into several segments. */
async function archiving(storage: NameStorage, ledger: TagLedger): Promise<void> {
  let clock = 0;
  for (let round = 0; round < 4; round++) {
    for (let count = 1; count < 4; count++) {
      const events = Array.from({ length: count }, (_, index) => naming(`n${clock + index}`));
      await storage.append("d", events, { info: { round } });
      clock += count;
    }
    await storage.compact("d");
    if (round === 2) await ledger.set("t", 3, () => storage.tag("d", "t", 3));
  }
}

describe("the archive", () => {
  test("[HI51] a crash at any operation of an archiving compaction loses no event and no version", async () => {
    const calm = simulatedBackend({ sync: "each" });
    const storage = await opener(calm, "archive")();
    await archiving(storage, new TagLedger(true));
    const { operationCount } = calm;
    expect(await storage.info("d")).toMatchObject({ archivedClock: 0 });
    await storage.close();
    expect(operationCount).toBeGreaterThan(80);
    for (let at = 0; at < operationCount; at++) {
      await crashAt(at, { keep: at % 2 === 0 ? "none" : "all" }, archiving, "archive");
    }
  });
});

describe("tags", () => {
  test("[HI13] a crash at any operation loses no tag, tears none, and brings none back", async () => {
    const calm = simulatedBackend({ sync: "each" });
    const storage = await opener(calm)();
    await workload(storage, new TagLedger());
    await storage.close();
    const { operationCount } = calm;
    expect(operationCount).toBeGreaterThan(100);
    for (let at = 0; at < operationCount; at++) {
      await crashAt(at, { keep: at % 2 === 0 ? "none" : "all" });
    }
  });
});

async function crashAt(
  at: number,
  how: CrashOptions,
  work: typeof workload = workload,
  history?: HistoryPolicy,
): Promise<void> {
  const backend = simulatedBackend({ sync: "each" });
  const open = opener(backend, history);
  const ledger = new TagLedger(history === "archive");
  backend.crashAt(at, how);
  const crashed = await backend.untilCrash(async () => {
    const storage = await open();
    await work(storage, ledger);
    await storage.close();
  });
  expect(crashed).toBe(true);
  const storage = await open();
  await ledger.verify(storage);
  await storage.close();
  await aftermath(open, ledger);
}
