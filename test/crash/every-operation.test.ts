// A crash at every operation of the backend, while documents are created, appended to, saved, snapshotted, compacted,
// deleted and recreated; and then a second crash while the next process picks up what is left.
//
// The same workload with the same seed makes the same operations, so it is run once to count them, and then once
// for each crash point and each way in which the disk may keep or lose what was not synced yet.

import { yjs } from "@coppice/yjs";
import { DocumentStorage, everyEvents, isCoppiceError, never } from "coppice";
import {
  type CrashOptions,
  type SimulatedBackend,
  type SimulatedBackendOptions,
  seededRandom,
  simulatedBackend,
  simulatedEnv,
} from "coppice/testing";
import { describe, expect, test } from "vitest";
import * as Y from "yjs";
import { Ledger, look, type NameStorage } from "../support/oracle.js";
import { add, type NameSet, nameSet, naming } from "../support/oracle-model.js";

type YjsStorage = DocumentStorage<[ReturnType<typeof yjs>]>;
type Open = () => Promise<NameStorage>;

/** Each process has chance of its own, as real ones do. */
function opener(backend: SimulatedBackend): Open {
  let processes = 0;
  return () =>
    DocumentStorage.open({
      backend,
      models: [nameSet()],
      env: simulatedEnv(++processes, { autoAdvance: true }),
      snapshotPolicy: everyEvents(9),
    });
}

/** Everything that a storage writes, on two documents. */
async function workload(storage: NameStorage, ledger: Ledger): Promise<void> {
  const append = (id: string, ...names: string[]) =>
    ledger.submit(id, names, () =>
      storage.append(
        id,
        names.map((name) => naming(name)),
      ),
    );
  // Three appends that share a batch, and in the same turn two with something of their own.
  await Promise.all([
    append("a", "a1"),
    append("a", "a2", "a3"),
    append("b", "b1"),
    ledger.submit("a", ["a4"], () => {
      return storage.append("a", [naming("a4")], { commitId: storage.newCommitId() });
    }),
    ledger.submit("a", ["a5", "a6"], () => {
      return storage.append("a", [naming("a5"), naming("a6")], { info: { user: "u" } });
    }),
  ]);
  // Held until a8 comes, which is after a trim; and refused for ever.
  await ledger.submit("a", ["a7"], () => storage.append("a", [naming("a7", ["a8"])]));
  await append("a", "!a");
  const handle = await storage.open<NameSet>("b");
  handle.change(add("b2"));
  handle.change(add("b3", ["b2"]));
  await ledger.submit("b", ["b2", "b3"], () => handle.save());
  await handle.snapshot();
  await storage.compact("a");
  await append("a", "a9");
  handle.change(add("b4"));
  await Promise.all([ledger.submit("b", ["b4"], () => handle.save()), append("a", "a10", "a11")]);
  expect((await storage.compact("a")).eventsTrimmed).toBeGreaterThan(0);
  await ledger.submit("a", ["a8"], () => storage.append("a", [naming("a8", ["a1"])]));
  await storage.flush();
  await storage.compact("b");
  await handle.close();
  await ledger.remove("b", () => storage.delete("b"));
  const again = await ledger.create("b", () => storage.open<NameSet>("b", { recreate: true }));
  again.change(add("b5"));
  await ledger.submit("b", ["b5"], () => again.save());
  await append("b", "b6");
  await storage.compact("a");
  await storage.compact("b");
  await append("b", "b7");
  await again.close();
}

/** What the next process does: it looks at everything, and goes on. */
async function aftermath(open: Open, ledger: Ledger, round: string): Promise<void> {
  const storage = await open();
  const first = await ledger.verify(storage);
  for (const [id, found] of first) expect(await look(storage, id)).toEqual(found);
  for (const id of ["a", "b"]) {
    const name = `${id}-${round}`;
    await ledger.create(id, async () => (await storage.open(id, { recreate: true })).close());
    await ledger.submit(id, [name], () => storage.append(id, [naming(name)]));
    await storage.compact(id);
  }
  const second = await ledger.verify(storage);
  await storage.close();
  const reopened = await open();
  expect(await ledger.verify(reopened)).toEqual(second);
  await reopened.close();
}

interface Crash extends CrashOptions {
  readonly at: number;
}

/** Runs the workload to the crash, and the aftermath to a second one, and holds what is left to the ledger. */
async function crashTwice(options: SimulatedBackendOptions, crash: Crash, second?: Crash): Promise<number> {
  const backend = simulatedBackend(options);
  const open = opener(backend);
  const ledger = new Ledger();
  backend.crashAt(crash.at, crash);
  const crashed = await backend.untilCrash(async () => {
    const storage = await open();
    await workload(storage, ledger);
    await storage.close();
  });
  expect(crashed).toBe(true);
  let states = 1;
  if (second !== undefined) {
    backend.crashAt(backend.operationCount + second.at, second);
    if (await backend.untilCrash(() => aftermath(open, ledger, "once"))) states++;
    backend.heal();
  }
  await aftermath(open, ledger, "twice");
  return states;
}

/** For each operation of the workload: whether a crash there finds something that the disk may keep or lose. */
async function operationsOf(options: SimulatedBackendOptions): Promise<boolean[]> {
  const unsynced: boolean[] = [];
  const backend: SimulatedBackend = simulatedBackend({
    ...options,
    onOperation: () => void unsynced.push(backend.unsyncedCount > 0),
  });
  const open = opener(backend);
  const ledger = new Ledger();
  const storage = await open();
  await workload(storage, ledger);
  await storage.close();
  const count = backend.operationCount;
  await aftermath(open, ledger, "calm");
  return unsynced.slice(0, count);
}

describe("a disk that keeps what it has synced", () => {
  const options: SimulatedBackendOptions = { sync: "each" };

  test("[RC1] a crash at any operation loses nothing acknowledged and leaves nothing torn", async () => {
    let states = 0;
    for (const [at, unsynced] of (await operationsOf(options)).entries()) {
      states += await crashTwice(options, { at, keep: "none" });
      if (unsynced) states += await crashTwice(options, { at, keep: "all" });
    }
    expect(states).toBeGreaterThanOrEqual(240);
  });

  test("[RC2] a second crash, while the next process picks up, changes nothing of that", async () => {
    const { length: count } = await operationsOf(options);
    const random = seededRandom(2);
    let states = 0;
    for (let at = 0; at < count; at++) {
      const how = { keep: random.pick(["none", "all"] as const), random };
      const second = { at: random.int(90), keep: random.pick(["none", "all"] as const), random };
      states += await crashTwice(options, { at, ...how }, second);
    }
    expect(states).toBeGreaterThanOrEqual(1.5 * count);
  });
});

describe("a store that survives the death of the process, and not of the machine", () => {
  const options: SimulatedBackendOptions = { sync: "never" };

  test("[RC3] the death of the process at any operation loses nothing acknowledged", async () => {
    const { length: count } = await operationsOf(options);
    let states = 0;
    for (let at = 0; at < count; at++) states += await crashTwice(options, { at, keep: "all" });
    expect(states).toBeGreaterThanOrEqual(150);
  });

  test("[RC4] a loss of power leaves each document as it was at some moment before", async () => {
    let states = 0;
    for (const sync of ["never", { every: 3 }] as const) {
      const { length: count } = await operationsOf({ sync });
      const random = seededRandom(4);
      for (let at = 0; at < count; at++) {
        for (const keep of ["none", "prefix"] as const) {
          expect(await losePower({ sync }, { at, keep, random }, "a moment before")).toBe(0);
          states++;
        }
      }
    }
    expect(states).toBeGreaterThanOrEqual(600);
  });

  test("[RC5] writes that reach the disk out of order are found out, or leave some moment before", async () => {
    const { length: count } = await operationsOf(options);
    const random = seededRandom(5);
    let states = 0;
    let damaged = 0;
    for (let at = 0; at < count; at++) {
      for (let time = 0; time < 2; time++) {
        if ((await losePower(options, { at, keep: "subset", random }, "or damage")) > 0) damaged++;
        states++;
      }
    }
    expect(states).toBeGreaterThanOrEqual(300);
    expect(damaged).toBeGreaterThanOrEqual(30);
  });
});

/**
 * Acknowledged events may be gone here. What is left is as it was at some moment, or is reported as damage. Returns
 * how many documents were.
 */
async function losePower(
  options: SimulatedBackendOptions,
  crash: Crash,
  allowed: "a moment before" | "or damage",
): Promise<number> {
  const backend = simulatedBackend(options);
  const open = opener(backend);
  const submitted = new Ledger();
  backend.crashAt(crash.at, crash);
  await backend.untilCrash(async () => {
    const storage = await open();
    await workload(storage, submitted);
    await storage.close();
  });
  const storage = await open();
  let damage = 0;
  for (const id of ["a", "b"]) {
    try {
      submitted.assertMoment(id, await look(storage, id));
    } catch (error) {
      if (!isCoppiceError(error, "CORRUPT")) throw error;
      damage++;
    }
  }
  const report = await storage.check({ repair: true });
  if (allowed === "a moment before") {
    expect(damage).toBe(0);
    expect(report.problems).toEqual([]);
  } else if (damage > 0) {
    expect(report.problems.length).toBeGreaterThan(0);
  }
  if (report.clean) {
    expect((await storage.check()).problems).toEqual([]);
    for (const id of ["a", "b"]) await (await storage.open(id, { recreate: true })).close();
    for (const id of ["a", "b"]) await storage.append(id, [naming(`${id} goes on`)]);
    for (const id of ["a", "b"])
      expect((await storage.load<NameSet>(id))?.doc.names.has(`${id} goes on`)).toBe(true);
  }
  await storage.close();
  return damage;
}

describe("Yjs documents", () => {
  const options: SimulatedBackendOptions = { sync: "each" };

  /** Types, deletes, takes in what another client made, snapshots and compacts; notes each text before it is saved. */
  async function edit(storage: YjsStorage, texts: string[], acknowledged: { count: number }): Promise<void> {
    const handle = await storage.open("d");
    const body = handle.doc.getText("body");
    const save = async () => {
      texts.push(body.toString());
      const count = texts.length;
      await handle.save();
      acknowledged.count = count;
    };
    for (const word of ["one ", "two ", "three "]) {
      body.insert(body.length, word);
      await save();
    }
    const other = new Y.Doc();
    other.clientID = 7;
    Y.applyUpdate(other, Y.encodeStateAsUpdate(handle.doc));
    other.getText("body").insert(0, "zero ");
    handle.receive([Y.encodeStateAsUpdate(other, Y.encodeStateVector(handle.doc))]);
    await save();
    await handle.compact();
    body.delete(0, 5);
    await save();
    body.insert(0, "and ");
    await save();
    await handle.snapshot();
    await handle.compact();
    body.insert(body.length, "end");
    await save();
    await handle.close();
  }

  test("[RC6] a Yjs document survives a crash at any operation as it was at a save, none of them lost", async () => {
    const open = (backend: SimulatedBackend, seed: number): Promise<YjsStorage> => {
      const env = simulatedEnv(seed, { autoAdvance: true });
      return DocumentStorage.open({ backend, models: [yjs()], env, snapshotPolicy: never });
    };
    const calm = simulatedBackend(options);
    await edit(await open(calm, 1), [], { count: 0 });
    for (let at = 0; at < calm.operationCount; at++) {
      for (const keep of ["none", "all"] as const) {
        const backend = simulatedBackend(options);
        backend.crashAt(at, { keep });
        const texts = [""];
        const acknowledged = { count: 0 };
        const crashed = await backend.untilCrash(async () =>
          edit(await open(backend, 1), texts, acknowledged),
        );
        expect(crashed).toBe(true);
        const storage = await open(backend, 2);
        const handle = await storage.open("d");
        const possible = texts.slice(Math.max(0, acknowledged.count - 1));
        expect(possible).toContain(handle.doc.getText("body").toString());
        expect(handle.held).toEqual([]);
        handle.doc.getText("body").insert(0, "again ");
        await handle.save();
        await handle.compact();
        const reloaded = await storage.load("d");
        expect(reloaded?.doc.getText("body").toString()).toBe(handle.doc.getText("body").toString());
        expect((await storage.check()).problems).toEqual([]);
        await storage.close();
      }
    }
    expect(calm.operationCount).toBeGreaterThanOrEqual(60);
  });
});
