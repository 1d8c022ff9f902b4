import { DocumentStorage, type GraphEvent, graph, memoryBackend } from "coppice";
import { describe, expect, test } from "vitest";
import { type Entry, type LedgerEvent, ledger } from "./ledger.js";

const number = graph<number, number>({ initial: 0, apply: (sum, n) => sum + n });

describe("payloads and states of older versions", () => {
  interface Line {
    readonly text: string;
    readonly cents: number;
  }
  const first = graph<string[], string>({ initial: [], apply: (lines, text) => [...lines, text] });
  const options = {
    version: 2,
    initial: [] as Line[],
    apply: (lines: Line[], line: Line) => [...lines, line],
    upcast: (payload: unknown, version: number): Line => ({
      text: `${payload as string} v${version}`,
      cents: 0,
    }),
  };
  const second = graph<Line[], Line>(options);

  test("[GR20] a payload is brought to the present version each time it is read", () => {
    const old = first.create();
    old.emit("one");
    const doc = second.create();
    second.apply(doc, old.events() as unknown as GraphEvent<Line>[]);
    doc.emit({ text: "two", cents: 2 });
    expect(doc.state).toEqual([
      { text: "one v1", cents: 0 },
      { text: "two", cents: 2 },
    ]);
    const restored = second.restore(second.snapshot(doc));
    expect(restored.events().map(({ version, payload }) => [version, payload])).toEqual([
      [1, "one"],
      [2, { text: "two", cents: 2 }],
    ]);
    expect(restored.stateAt([old.frontier[0]!])).toEqual([{ text: "one v1", cents: 0 }]);
  });

  test("[GR21] an event of a newer version is refused until the model is upgraded", async () => {
    const backend = memoryBackend();
    const newer = await DocumentStorage.open({ backend, models: [second] });
    const handle = await newer.open("lines");
    handle.change((doc) => (doc as ReturnType<typeof second.create>).emit({ text: "new", cents: 1 }));
    await handle.save();
    await newer.close();
    const older = await DocumentStorage.open({ backend, models: [first] });
    const loaded = await older.load("lines");
    expect(loaded!.held.map(({ reason }) => reason)).toEqual([expect.stringContaining("version is 2")]);
    await expect(
      older.append(
        "lines",
        loaded!.held.map(({ event }) => event as GraphEvent<string>),
      ),
    ).rejects.toMatchObject({ code: "EVENT_INVALID" });
    await older.close();
    const again = await DocumentStorage.open({ backend, models: [second] });
    expect((await again.load("lines"))!.held).toEqual([]);
    await again.close();
  });

  test("[GR22] a snapshot of an older version is upgraded, or passed over while the events are kept", async () => {
    const backend = memoryBackend();
    const one = await DocumentStorage.open({ backend, models: [first] });
    const handle = await one.open("lines");
    handle.change((doc) => (doc as ReturnType<typeof first.create>).emit("one"));
    await handle.save();
    await handle.snapshot();
    await one.close();
    const folded = await DocumentStorage.open({ backend, models: [second] });
    expect((await folded.load<{ state: unknown }>("lines"))!.doc.state).toEqual([
      { text: "one v1", cents: 0 },
    ]);
    await folded.close();
    const upgraded = graph<Line[], Line>({
      ...options,
      upcastState: (state, version) =>
        (state as string[]).map((text) => ({ text: `${text} state v${version}`, cents: 0 })),
    });
    const two = await DocumentStorage.open({ backend, models: [upgraded] });
    expect((await two.load<{ state: unknown }>("lines"))!.doc.state).toEqual([
      { text: "one state v1", cents: 0 },
    ]);
    expect((await two.check()).problems).toEqual([]);
    await two.close();
  });
});

test("[GR23] an event that the reducer throws at changes nothing, is named, and may count after others have come", () => {
  const model = ledger();
  const [one, two] = [model.create(), model.create()];
  expect(() => one.emit({ drop: "a" })).toThrow("nothing to drop");
  expect([one.size, one.failures()]).toEqual([0, []]);
  one.emit({ set: "a", to: 1 });
  model.apply(two, one.events());
  const drop = one.emit({ drop: "a" });
  const again = two.emit({ drop: "a" });
  model.apply(one, [again as LedgerEvent]);
  model.apply(two, [drop as LedgerEvent]);
  expect(one.failures().length).toBe(1);
  expect(two.failures().map(({ event }) => event)).toEqual(one.failures().map(({ event }) => event));
  const loser = one.failures()[0]!.event.replica === one.replica ? two : one;
  loser.undo();
  expect([loser.state, loser.failures()]).toEqual([{}, []]);
});

test("[GR24] a lamport that does not follow from the parents is refused", () => {
  const author = number.create();
  const first = author.emit(1);
  for (const lamport of [1, 3, 2 ** 40]) {
    const reader = number.create();
    const next = {
      ...author.emit(1),
      parents: [{ replica: first.replica, sequence: 0 }],
      sequence: 1,
      lamport,
    };
    const { refused } = number.apply(reader, [first, next as GraphEvent<number>]);
    expect(refused.map(({ index }) => index)).toEqual([1]);
    expect(reader.state).toBe(1);
  }
});

test("[GR25] questions about events that are not there are refused", () => {
  const model = ledger({ window: 4 });
  const [doc, source] = [model.create(), model.create()];
  for (let i = 0; i < 30; i++) source.emit({ add: "a", amount: i });
  const events = source.events() as GraphEvent<Entry>[];
  model.apply(doc, events);
  const trimmed = events[0]!;
  expect(doc.event(trimmed)).toBeUndefined();
  for (const ask of [
    () => doc.stateAt([trimmed]),
    () => doc.ancestors(trimmed),
    () => doc.diff([trimmed], []),
  ]) {
    expect(ask).toThrow(expect.objectContaining({ code: "TRIMMED" }));
  }
  const unknown = { replica: "0".repeat(12), sequence: 5 };
  expect(() => doc.stateAt([unknown])).toThrow(expect.objectContaining({ code: "ARGUMENT_INVALID" }));
  expect(() => doc.descendants(unknown)).toThrow(expect.objectContaining({ code: "ARGUMENT_INVALID" }));
  const { head, size } = doc.keptFrom;
  expect(events[size - 1]).toMatchObject(head!);
  expect(doc.stateAt([head!])).toEqual(doc.stateAt([]));
  expect(doc.events().length).toBe(30 - size);
});

test("[GR26] a peer behind the kept history gets a snapshot, keeps its own events, or is told that it cannot", () => {
  const model = ledger({ window: 4 });
  const source = model.create();
  for (let i = 0; i < 10; i++) source.emit({ set: "a", to: i });
  const early = source.events();
  const [fresh, stale] = [model.create(), model.create()];
  model.apply(stale, early.slice(0, 2));
  stale.emit({ set: "mine", to: 1 });
  const folded = model.fold(undefined, early.concat([]));
  const tail: LedgerEvent[] = [];
  for (let i = 0; i < 5; i++) tail.push(source.emit({ set: "b", to: i }));
  const answer = (peer: ReturnType<typeof model.create>) => {
    const known = model.peerVersion(peer);
    const stored = { ...folded, tail };
    return model.diff!({ ...stored, snapshot: undefined }, known) ?? model.diff!(stored, known)!;
  };
  model.receiveDiff(fresh, answer(fresh));
  expect(fresh.state).toEqual(source.state);
  const before = stale.state;
  expect(() => model.receiveDiff(stale, answer(stale))).toThrow(expect.objectContaining({ code: "TRIMMED" }));
  expect(stale.state).toEqual(before);
  expect(() => model.receiveDiff(fresh, Uint8Array.of(7))).toThrow(TypeError);
  const ahead = model.create();
  model.receiveDiff(ahead, answer(ahead));
  ahead.emit({ set: "c", to: 3 });
  model.receiveDiff(ahead, answer(ahead));
  expect(ahead.state).toMatchObject({ c: 3 });
});

test("[GR29] a listener that throws does not stop the capture of what one change made", () => {
  const model = ledger();
  const doc = model.create();
  const tracker = model.track(doc);
  tracker.onEvent?.(() => {
    throw new Error("a listener");
  });
  expect(() =>
    model.change(doc, (each) => {
      each.emit({ set: "a", to: 1 });
      each.emit({ set: "b", to: 2 });
    }),
  ).toThrow("a listener");
  expect(tracker.take(doc)).toEqual(doc.events());
  expect(doc.size).toBe(2);
});

test("[GR36] an undo reaches an event that a snapshot holds behind its state", () => {
  const model = ledger();
  const author = model.create();
  author.emit({ set: "a", to: 1 });
  author.emit({ set: "a", to: 2 });
  const { snapshot } = model.fold(undefined, author.events());
  const before = author.frontier;
  author.undo();
  const undo = author.eventsAfter(before);
  const restored = model.restore(snapshot);
  expect(restored.state).toEqual({ a: 2 });
  model.apply(restored, undo);
  expect(restored.state).toEqual({ a: 1 });
  expect(model.restore(model.fold(snapshot, undo).snapshot).state).toEqual({ a: 1 });
});

test("[GR27] options that cannot be are refused", () => {
  const options = { initial: 0, apply: (sum: number) => sum };
  for (const window of [0, -1, 1.5, Number.NaN])
    expect(() => graph({ ...options, window })).toThrow(TypeError);
  for (const version of [0, 1.5, 10_001]) expect(() => graph({ ...options, version })).toThrow(TypeError);
  const loose = graph as (options: object) => unknown;
  expect(() => loose({ initial: 0 })).toThrow(new TypeError("graph: apply must be a function, the reducer"));
  for (const [initial, why] of [
    [undefined, "a value must be plain data, not undefined"],
    [new Map(), "a value must be plain data"],
  ] as const) {
    const message = `graph: initial must be a state that snapshots can hold: ${why}`;
    expect(() => loose({ ...options, initial })).toThrow(message);
  }
});

test("[GR28] a late event costs a replay from a checkpoint near it, not from the start", () => {
  let calls = 0;
  const model = graph<number, number>({
    initial: 0,
    apply: (sum, n) => {
      calls++;
      return sum + n;
    },
    window: Number.POSITIVE_INFINITY,
  });
  const [one, two] = [model.create(), model.create()];
  for (let i = 0; i < 5000; i++) one.emit(1);
  model.apply(two, one.events());
  const late = two.emit(1);
  for (let i = 0; i < 50; i++) one.emit(1);
  calls = 0;
  model.apply(one, [late]);
  expect(one.state).toBe(5051);
  expect(calls).toBeLessThan(250);
  calls = 0;
  one.emit(1);
  expect(calls).toBe(1);
});
