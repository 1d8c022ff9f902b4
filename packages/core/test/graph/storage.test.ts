import {
  type DocumentHandle,
  DocumentStorage,
  type GraphModel,
  isCoppiceError,
  memoryBackend,
  never,
} from "coppice";
import { type SimulatedBackend, simulatedBackend, simulatedEnv } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { decodeKnown } from "../../src/graph/snapshot.js";
import {
  contentOf,
  type Entry,
  type Ledger,
  type LedgerDoc,
  type LedgerEvent,
  ledger,
  naiveState,
  randomEntry,
} from "./ledger.js";
import { type Chance, chanceOf, LONG, SCHEDULES } from "./network.js";

const ID = "doc";

async function openStorage(
  model: GraphModel<Ledger, Entry>,
  backend = memoryBackend(),
): Promise<DocumentStorage> {
  return DocumentStorage.open({ backend, models: [model], snapshotPolicy: never });
}

/** Writes entries through a handle, a save for each. */
async function write(handle: DocumentHandle<LedgerDoc>, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    handle.change((doc) => doc.emit({ add: "a", amount: i }));
    await handle.save();
  }
}

/** A replica that has what the handle shows, and goes away with it. */
function leave(model: GraphModel<Ledger, Entry>, handle: DocumentHandle<LedgerDoc>): LedgerDoc {
  return model.restore(model.snapshot(handle.doc));
}

const late = (doc: LedgerDoc, count = 3): LedgerEvent[] =>
  Array.from({ length: count }, (_, i) => doc.emit({ set: "late", to: i }));

async function reload(storage: DocumentStorage): Promise<DocumentHandle<LedgerDoc>> {
  const handle = await storage.load<LedgerDoc>(ID);
  expect((await storage.check()).problems).toEqual([]);
  return handle!;
}

describe("late events around a compaction", () => {
  test("[GR30] branching off before, at and after the cut they are applied, while the window reaches back", async () => {
    for (const [before, after] of [
      [3, 6],
      [6, 3],
      [9, 0],
    ] as const) {
      const model = ledger({ window: 16 });
      const storage = await openStorage(model);
      const handle = await storage.open<LedgerDoc>(ID);
      await write(handle, before);
      const away = leave(model, handle);
      await write(handle, after);
      expect(await storage.compact(ID)).toMatchObject({ outcome: "compacted" });
      await write(handle, 2);
      const events = late(away);
      await storage.append(ID, events);
      const all = [...handle.doc.events(), ...events];
      for (const round of ["tail", "compacted", "compacted again"]) {
        const loaded = await reload(storage);
        expect(loaded.held, round).toEqual([]);
        expect(contentOf(loaded.doc.state), round).toBe(contentOf(naiveState(all)));
        await loaded.close();
        await storage.compact(ID, { force: true });
      }
      await handle.refresh();
      expect(contentOf(handle.doc.state)).toBe(contentOf(naiveState(all)));
      await storage.close();
    }
  });

  test("[GR31] a replica that was away across two compactions is merged, or each of its events is named as refused", async () => {
    for (const [window, wanted] of [
      [64, "merged"],
      [8, "refused"],
    ] as const) {
      const model = ledger({ window });
      const storage = await openStorage(model);
      const handle = await storage.open<LedgerDoc>(ID);
      await write(handle, 5);
      const away = leave(model, handle);
      const events = late(away);
      await write(handle, 20);
      await storage.compact(ID);
      await write(handle, 20);
      await storage.compact(ID);
      const clock = (await storage.append(ID, events)).clock;
      const expected = contentOf(
        wanted === "merged" ? naiveState([...handle.doc.events(), ...events]) : handle.doc.state,
      );
      for (let round = 0; round < 3; round++) {
        const loaded = await reload(storage);
        expect(contentOf(loaded.doc.state)).toBe(expected);
        expect(loaded.held.length).toBe(wanted === "merged" ? 0 : 3);
        expect(loaded.held.every(({ reason }) => reason !== undefined)).toBe(true);
        expect(loaded.held.map(({ clock: at }) => at)).toEqual(
          wanted === "merged" ? [] : [clock - 3, clock - 2, clock - 1],
        );
        await loaded.close();
        await storage.compact(ID, { force: true });
      }
      // A live document says so at once, and does not store what it refuses.
      await handle.refresh();
      const others = late(away);
      const received = handle.receive(others);
      if (wanted === "refused") expect(received.refused.length + received.held).toBe(3);
      else expect(received.applied).toBe(3);
      await storage.close();
    }
  });

  test("[GR32] an event whose parents come after two compactions is applied then", async () => {
    const model = ledger({ window: 64 });
    const storage = await openStorage(model);
    const handle = await storage.open<LedgerDoc>(ID);
    await write(handle, 4);
    const away = leave(model, handle);
    const [first, second, third] = late(away) as [LedgerEvent, LedgerEvent, LedgerEvent];
    await storage.append(ID, [third, second]);
    await storage.compact(ID);
    await write(handle, 4);
    await storage.compact(ID);
    const waiting = await reload(storage);
    expect(waiting.held.map(({ reason }) => reason)).toEqual([undefined, undefined]);
    await waiting.close();
    await storage.append(ID, [first]);
    const loaded = await reload(storage);
    expect(loaded.held).toEqual([]);
    expect(contentOf(loaded.doc.state)).toBe(
      contentOf(naiveState([...handle.doc.events(), first, second, third])),
    );
    await storage.close();
  });

  test("[GR33] a handle that comes back after others moved on far may refresh, save and go on", async () => {
    const model = ledger({ window: 8 });
    const storage = await openStorage(model);
    const [one, two] = [await storage.open<LedgerDoc>(ID), await storage.open<LedgerDoc>(ID)];
    await write(one, 4);
    await two.refresh();
    two.change((doc) => doc.emit({ set: "mine", to: 1 }));
    await write(one, 6);
    await two.refresh();
    two.change((doc) => doc.emit({ set: "mine", to: 2 }));
    await two.save();
    await write(two, 5);
    const loaded = await reload(storage);
    expect(loaded.held).toEqual([]);
    expect(contentOf(loaded.doc.state)).toBe(contentOf(two.doc.state));
    await storage.close();
  });
});

test("[GR35] a handle that stays open for long refuses what a load refuses, so that what it writes next is applied", async () => {
  const model = ledger({ window: 8 });
  const storage = await openStorage(model);
  const handle = await storage.open<LedgerDoc>(ID);
  await write(handle, 4);
  const away = leave(model, handle);
  await write(handle, 40);
  await storage.append(ID, late(away));
  await handle.refresh();
  expect(handle.held.length).toBe(3);
  await write(handle, 10);
  const loaded = await reload(storage);
  expect(loaded.held.length).toBe(3);
  expect(contentOf(loaded.doc.state)).toBe(contentOf(handle.doc.state));
  await storage.close();
});

test("[GR37] what a handle shows after undo and redo is what is loaded, however many steps are taken back", async () => {
  for (const window of [1, 5, 16, Number.POSITIVE_INFINITY]) {
    const model = ledger({ window });
    const storage = await openStorage(model);
    const handle = await storage.open<LedgerDoc>(ID);
    await write(handle, 60);
    let least: number | undefined;
    for (const step of ["undo", "redo", "undo"] as const) {
      let steps = 0;
      for (; handle.doc[step === "undo" ? "canUndo" : "canRedo"]; steps++) {
        expect(handle.doc[step]()).toBe(true);
        if (steps % 3 === 0) await handle.save();
      }
      expect(handle.doc[step]()).toBe(false);
      await handle.save();
      const loaded = await reload(storage);
      expect(loaded.doc.frontier).toEqual(handle.doc.frontier);
      expect(contentOf(loaded.doc.state)).toBe(contentOf(handle.doc.state));
      if (window === Number.POSITIVE_INFINITY) expect(steps).toBe(60);
      least ??= steps;
    }
    expect(least).toBeGreaterThanOrEqual(Math.floor(Math.min(window, 60) / 2));
    await storage.close();
  }
});

/** Everything that was made, and what of it is known to be stored. */
class Made {
  readonly events = new Map<string, LedgerEvent>();
  readonly stored = new Set<string>();

  note(events: readonly LedgerEvent[]): void {
    for (const event of events) this.events.set(keyOf(event), event);
  }

  acknowledge(events: readonly LedgerEvent[]): void {
    for (const event of events) this.stored.add(keyOf(event));
  }

  acknowledged(): LedgerEvent[] {
    return [...this.stored].map((key) => this.events.get(key)!);
  }
}

const keyOf = ({ replica, sequence }: { replica: string; sequence: number }): string =>
  `${replica}.${sequence}`;

/** Handles and replicas without a handle write, stay away, come back; compactions and snapshots come between. */
async function workload(
  storage: DocumentStorage,
  model: GraphModel<Ledger, Entry>,
  chance: Chance,
  made: Made,
) {
  const open = async () => {
    const handle = await storage.open<LedgerDoc>(ID);
    return { handle, tracker: model.track(handle.doc), unsaved: [] as LedgerEvent[] };
  };
  const writers = [await open(), await open()];
  let away: { readonly doc: LedgerDoc; readonly events: LedgerEvent[] } | undefined;
  for (let step = 0; step < 26; step++) {
    const at = chance.below(writers.length);
    const writer = writers[at]!;
    const { handle, tracker } = writer;
    const kind = chance.below(13);
    if (kind < 6) {
      for (let i = chance.below(3); i >= 0; i--) handle.change((doc) => doc.emit(randomEntry(chance.below)));
      if (chance.chance(0.2)) handle.change((doc) => doc.undo());
      writer.unsaved.push(...tracker.take(handle.doc));
      made.note(writer.unsaved);
    }
    if (kind < 8) {
      const events = writer.unsaved;
      await handle.save();
      made.acknowledge(events);
      writer.unsaved = [];
    } else if (kind === 8) {
      try {
        await handle.refresh();
      } catch (error) {
        if (!isCoppiceError(error, "TRIMMED")) throw error;
        await handle.close({ discard: true });
        writers[at] = await open();
      }
    } else if (kind === 9) await storage.compact(ID);
    else if (kind === 10) await handle.snapshot();
    else if (away === undefined) {
      const doc = model.create();
      model.apply(doc, made.acknowledged());
      away = { doc, events: [] };
    } else {
      away.events.push(
        ...Array.from({ length: 1 + chance.below(3) }, () => away!.doc.emit(randomEntry(chance.below))),
      );
      made.note(away.events);
      if (chance.chance(0.6)) {
        await storage.append(ID, chance.shuffle(away.events));
        made.acknowledge(away.events);
        away = undefined;
      }
    }
  }
  await storage.close().catch((error: unknown) => {
    if (!isCoppiceError(error)) throw error;
  });
}

/** What is stored is all shown, or named as held; and what is shown is the fold of exactly that. */
async function verify(backend: SimulatedBackend, model: GraphModel<Ledger, Entry>, made: Made, seed: number) {
  const storage = await DocumentStorage.open({
    backend,
    models: [model],
    env: simulatedEnv(seed + 77, { autoAdvance: true }),
  });
  for (let round = 0; round < 2; round++) {
    const handle = await storage.load<LedgerDoc>(ID);
    expect((await storage.check()).problems, `seed ${seed}`).toEqual([]);
    if (handle === undefined) {
      expect(made.stored.size).toBe(0);
      break;
    }
    const known = decodeKnown(model.peerVersion(handle.doc));
    const shown = [...made.events.values()].filter(
      ({ replica, sequence }) => sequence < (known.get(replica) ?? 0),
    );
    expect(shown.length).toBe(handle.doc.size);
    expect(contentOf(handle.doc.state), `seed ${seed}`).toBe(contentOf(naiveState(shown)));
    const there = new Set([
      ...shown.map(keyOf),
      ...handle.held.map(({ event }) => keyOf(event as LedgerEvent)),
    ]);
    for (const key of made.stored) expect(there.has(key), `seed ${seed}: ${key} is gone`).toBe(true);
    await handle.close();
    await storage.compact(ID);
  }
  await storage.close();
}

test(
  "[GR34] crashes, compactions and late events between: the state is the fold of what is stored, nothing is silent",
  LONG,
  async () => {
    let crashes = 0;
    for (let seed = 1; seed <= SCHEDULES / 8; seed++) {
      const window = 4 + (seed % 5) * 12;
      const run = async (crashAt?: number) => {
        const env = simulatedEnv(seed, { autoAdvance: true });
        const model = ledger({ window, env });
        const backend = simulatedBackend({ sync: "each" });
        const made = new Made();
        if (crashAt !== undefined) backend.crashAt(crashAt, { keep: seed % 2 === 0 ? "none" : "all" });
        const crashed = await backend.untilCrash(async () => {
          const storage = await DocumentStorage.open({
            backend,
            models: [model],
            env,
            snapshotPolicy: never,
          });
          await workload(storage, model, chanceOf(seed), made);
        });
        if (crashed) crashes++;
        const { operationCount } = backend;
        await verify(backend, model, made, seed);
        return operationCount;
      };
      const count = await run();
      const chance = chanceOf(seed + 5000);
      for (let i = 0; i < 6; i++) await run(chance.below(count));
    }
    expect(crashes).toBeGreaterThan(SCHEDULES / 3);
  },
);
