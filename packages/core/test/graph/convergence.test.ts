import { type EventId, type GraphEvent, graph } from "coppice";
import { simulatedEnv } from "coppice/testing";
import { describe, expect, test } from "vitest";
import {
  contentOf,
  type Entry,
  type LedgerDoc,
  type LedgerEvent,
  ledger,
  naiveState,
  randomEntry,
} from "./ledger.js";
import { type Chance, chanceOf, LONG, runNetwork, SCHEDULES } from "./network.js";

function edit(doc: LedgerDoc, chance: Chance): void {
  const kind = chance.below(10);
  if (kind === 0) doc.undo();
  else if (kind === 1) doc.redo();
  else if (kind === 2) {
    doc.change(() => {
      doc.emit(randomEntry(chance.below));
      doc.emit(randomEntry(chance.below));
    });
  } else if (kind === 3 && Object.keys(doc.state).length > 0)
    doc.emit({ drop: chance.pick(Object.keys(doc.state)) });
  else doc.emit(randomEntry(chance.below));
}

/** Keys of the events before each event, itself included, by following parents one by one. */
function closures(events: readonly GraphEvent[]): Map<string, Set<string>> {
  const past = new Map<string, Set<string>>();
  for (const event of events) {
    const set = new Set([keyOf(event)]);
    for (const parent of event.parents) for (const key of past.get(keyOf(parent)) ?? []) set.add(key);
    past.set(keyOf(event), set);
  }
  return past;
}

const keyOf = ({ replica, sequence }: EventId): string => `${replica}.${sequence}`;
const keysOf = (ids: readonly EventId[]): string[] => ids.map(keyOf).sort();

describe("replicas that exchange events in any order", () => {
  test("[GR1] every replica ends in the state of a twin that sorts and folds everything", LONG, () => {
    for (let seed = 1; seed <= SCHEDULES; seed++) {
      const model = ledger({ env: simulatedEnv(seed) });
      const { peers, events } = runNetwork(model, chanceOf(seed), edit);
      const expected = contentOf(naiveState(events));
      const version = model.version(peers[0]!.doc);
      for (const { doc, held } of peers) {
        expect(held.length, `seed ${seed}`).toBe(0);
        expect(contentOf(doc.state), `seed ${seed}`).toBe(expected);
        expect(model.version(doc)).toEqual(version);
        const restored = model.restore(model.snapshot(doc));
        expect(contentOf(restored.state), `seed ${seed}`).toBe(expected);
        expect(model.version(restored)).toEqual(version);
      }
    }
  });

  test(
    "[GR2] questions about the graph are answered as following parents one by one answers them",
    LONG,
    () => {
      for (let seed = 1; seed <= SCHEDULES / 5; seed++) {
        const model = ledger({ env: simulatedEnv(seed) });
        const chance = chanceOf(seed);
        const { peers, events } = runNetwork(model, chance, edit, 24);
        const { doc } = chance.pick(peers);
        const past = closures(events);
        expect(keysOf(doc.events())).toEqual(keysOf(events));
        for (let round = 0; round < 12; round++) {
          const [a, b] = [chance.pick(events), chance.pick(events)];
          const [before, other] = [past.get(keyOf(a))!, past.get(keyOf(b))!];
          expect(keysOf(doc.ancestors(a))).toEqual([...before].filter((key) => key !== keyOf(a)).sort());
          const after = events.filter((event) => event !== a && past.get(keyOf(event))!.has(keyOf(a)));
          expect(keysOf(doc.descendants(a))).toEqual(keysOf(after));
          expect(doc.isConcurrent(a, b)).toBe(!before.has(keyOf(b)) && !other.has(keyOf(a)));
          const { onlyA, onlyB } = doc.diff([a], [b]);
          expect(keysOf(onlyA)).toEqual([...before].filter((key) => !other.has(key)).sort());
          expect(keysOf(onlyB)).toEqual([...other].filter((key) => !before.has(key)).sort());
          expect(keysOf(doc.eventsAfter([a, b])).length).toBe(
            events.length - new Set([...before, ...other]).size,
          );
          const common = [...before].filter((key) => other.has(key));
          const heads = common.filter(
            (key) => !common.some((each) => each !== key && past.get(each)!.has(key)),
          );
          expect(keysOf(doc.mergeBase([a], [b]))).toEqual(heads.sort());
        }
      }
    },
  );

  test(
    "[GR3] critical versions are those whose every event happened before every event outside",
    LONG,
    () => {
      for (let seed = 1; seed <= SCHEDULES / 5; seed++) {
        const model = ledger({ env: simulatedEnv(seed) });
        const { peers, events } = runNetwork(model, chanceOf(seed), edit, 4 + (seed % 20));
        const past = closures(events);
        const critical = events.filter((event) => {
          const inside = past.get(keyOf(event))!;
          return events.every((each) => inside.has(keyOf(each)) || past.get(keyOf(each))!.has(keyOf(event)));
        });
        for (const { doc } of peers) {
          expect(keysOf(doc.criticalVersions())).toEqual(keysOf(critical));
          const last = doc
            .events()
            .findLast((event) => critical.some((each) => keyOf(each) === keyOf(event)));
          expect(doc.lastCriticalVersion()).toEqual(
            last && { replica: last.replica, sequence: last.sequence },
          );
        }
      }
    },
  );

  test("[GR4] the state at any version is that of a twin that has exactly its events", LONG, () => {
    for (let seed = 1; seed <= SCHEDULES / 5; seed++) {
      const model = ledger({ env: simulatedEnv(seed) });
      const chance = chanceOf(seed);
      const { peers, events } = runNetwork(model, chance, edit, 24);
      const past = closures(events);
      const { doc } = chance.pick(peers);
      const restored = model.restore(model.snapshot(doc));
      for (let round = 0; round < 12; round++) {
        const heads = [chance.pick(events), chance.pick(events)];
        const inside = new Set(heads.flatMap((head) => [...past.get(keyOf(head))!]));
        const expected = contentOf(naiveState(events.filter((event) => inside.has(keyOf(event)))));
        expect(contentOf(doc.stateAt(heads))).toBe(expected);
        expect(contentOf(restored.stateAt(heads))).toBe(expected);
      }
      expect(doc.stateAt([])).toEqual({});
    }
  });
});

/**
 * The log of peers of which some stay away for long, with its events in the order in which they were stored.
 */
function writeLateLog(seed: number, window: number): LedgerEvent[] {
  const chance = chanceOf(seed);
  const model = ledger({ window, env: simulatedEnv(seed) });
  const log: LedgerEvent[] = [];
  const peers = Array.from({ length: 3 }, () => ({ doc: model.create(), seen: 0 }));
  const trackers = peers.map(({ doc }) => model.track(doc));
  for (let step = 0; step < 60; step++) {
    // The third one is seldom there, and then pushes what it made meanwhile.
    const at = chance.chance(0.1) ? 2 : chance.below(2);
    const peer = peers[at]!;
    if (at < 2 || chance.chance(0.3)) {
      model.apply(peer.doc, log.slice(peer.seen));
      peer.seen = log.length;
    }
    for (let i = chance.below(4); i >= 0; i--) edit(peer.doc, chance);
    if (at < 2 || chance.chance(0.5)) log.push(...trackers[at]!.take(peer.doc));
  }
  return log;
}

describe("a log with late events", () => {
  test(
    "[GR5] folding it in slices, from snapshots, is folding it at once, whatever was refused",
    LONG,
    () => {
      let refusals = 0;
      for (let seed = 1; seed <= SCHEDULES; seed++) {
        const chance = chanceOf(seed + 1_000_000);
        const window = 4 + chance.below(12);
        const model = ledger({ window });
        const log = writeLateLog(seed, window);
        const whole = model.fold(undefined, log);
        const left = new Set([...whole.held, ...whole.refused.map(({ index }) => index)]);
        refusals += whole.refused.length;
        let snapshot: Uint8Array | undefined;
        let open: LedgerEvent[] = [];
        for (let at = 0; at < log.length; ) {
          const end = at + 1 + chance.below(9);
          const offered = [...open, ...log.slice(at, end)];
          const folded = model.fold(snapshot, offered);
          snapshot = folded.snapshot;
          const indexes = [...folded.held, ...folded.refused.map(({ index }) => index)].sort((a, b) => a - b);
          open = indexes.map((index) => offered[index]!);
          at = end;
        }
        expect(open, `seed ${seed}`).toEqual(log.filter((_, index) => left.has(index)));
        const restored = model.restore(snapshot!);
        expect(model.version(restored), `seed ${seed}`).toEqual(whole.version);
        const applied = log.filter((_, index) => !left.has(index));
        expect(contentOf(restored.state)).toBe(contentOf(model.restore(whole.snapshot).state));
        expect(applied.length).toBe(restored.size);
      }
      expect(refusals).toBeGreaterThan(0);
    },
  );

  test("[GR6] an event that branches off behind the window is refused with its reason, and so is what builds on it", () => {
    const model = ledger({ window: 10 });
    const [away, here] = [model.create(), model.create()];
    const tracker = model.track(here);
    for (let i = 0; i < 5; i++) here.emit({ add: "a", amount: i });
    model.apply(away, tracker.take(here));
    const late = [away.emit({ add: "a", amount: 1 }), away.emit({ add: "a", amount: 2 })];
    for (let i = 0; i < 40; i++) here.emit({ add: "b", amount: i });
    const reader = model.create();
    model.apply(reader, here.events());
    const state = contentOf(reader.state);
    const { applied, held, refused } = model.apply(reader, late);
    expect([applied, held]).toEqual([0, []]);
    expect(refused.map(({ index }) => index)).toEqual([0, 1]);
    expect(refused[0]!.reason).toContain("before the history that is kept");
    expect(refused[1]!.reason).toContain("refused");
    expect(contentOf(reader.state)).toBe(state);
    // What is known already is no late event.
    expect(model.apply(reader, here.events().slice(0, 3)).applied).toBe(3);
    expect(reader.keptFrom.size).toBeGreaterThan(20);
    expect(reader.events().length).toBeLessThan(25);
  });

  test("[GR7] with an infinite window nothing is ever refused, and a snapshot has the whole history", () => {
    const model = ledger({ window: Number.POSITIVE_INFINITY });
    for (let seed = 1; seed <= 20; seed++) {
      const log = writeLateLog(seed, Number.POSITIVE_INFINITY);
      const { held, refused, snapshot } = model.fold(undefined, log);
      expect([held, refused]).toEqual([[], []]);
      const restored = model.restore(snapshot);
      expect(contentOf(restored.state)).toBe(contentOf(naiveState(log)));
      expect(restored.events().length).toBe(log.length);
    }
  });
});

test("[GR8] an event with missing parents is held until they come, in any order", () => {
  const model = ledger();
  const author = model.create();
  const events: GraphEvent<Entry>[] = [];
  for (let i = 0; i < 6; i++) events.push(author.emit({ add: "a", amount: i }));
  const reader = model.create();
  expect(model.apply(reader, [events[5], events[2], events[1]] as GraphEvent<Entry>[]).held).toEqual([
    0, 1, 2,
  ]);
  expect(reader.size).toBe(0);
  expect(model.apply(reader, events.slice(0, 2).reverse()).held).toEqual([]);
  expect(model.apply(reader, [events[5]!, events[4]!, events[2]!, events[3]!])).toMatchObject({
    applied: 4,
    held: [],
  });
  expect(reader.state).toEqual(author.state);
});

test("[GR9] two different events with one id are told apart: the second is refused", () => {
  const model = graph<number, number>({ initial: 0, apply: (sum, n) => sum + n });
  const doc = model.create();
  const event = doc.emit(1);
  const { refused } = model.apply(doc, [{ ...event, time: event.time + 1, payload: 100 }, event]);
  expect(refused).toEqual([{ index: 0, reason: "another event has its id" }]);
  expect(doc.state).toBe(1);
});
