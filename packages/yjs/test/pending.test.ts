/** What a provider applies before what it builds on: all of it is captured, and none of it again and again. */
import fc from "fast-check";
import { expect, test } from "vitest";
import * as Y from "yjs";
import { below, seeded, shuffled } from "../../../test/support/chance.js";
import { yjs } from "../src/index.js";
import { findStruct, scanUpdate } from "../src/scanner.js";
import { type Run, writeUpdate } from "../src/writer.js";
import { writeTogether } from "./editing.js";

const model = yjs();
const SEED = Number(process.env.COPPICE_SEED ?? 1);

test("[DI35] in whatever order a provider brings updates, what was captured has all that came", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 2 ** 31 }), (seed) => {
      const random = seeded(seed);
      const events = shuffled(random, writeTogether(random, 3, 30).events);
      const doc = model.create();
      const tracker = model.track(doc);
      const captured: Uint8Array[] = [];
      for (let sent = 0; sent < events.length; ) {
        const some = events.slice(sent, sent + 1 + below(random, 4));
        sent += some.length;
        if (random() < 0.2) {
          // Stored events between those of the provider: they may bring what others wait for.
          model.apply(doc, some);
          captured.push(...some);
        } else if (random() < 0.3) Y.applyUpdate(doc, Y.mergeUpdates(some));
        else for (const update of some) Y.applyUpdate(doc, update);
        captured.push(...tracker.take(doc));
        const rest = events.slice(sent);
        const lacking = model.fold(undefined, [...captured, ...rest]);
        expect(lacking.held).toEqual([]);
        expect(lacking.version).toEqual(model.fold(undefined, [...captured, ...events]).version);
      }
      expect(model.fold(undefined, captured).version).toEqual(model.version(doc));
      tracker.stop();
    }),
    { seed: SEED, numRuns: 25 },
  );
});

test("[DI35] after an update that was lost, each later one is captured as large as it is, and not all of them again", () => {
  for (const order of ["forwards", "backwards", "with gaps"] as const) {
    const writer = new Y.Doc();
    const updates: Uint8Array[] = [];
    writer.on("update", (update: Uint8Array) => updates.push(update));
    const text = writer.getText("text");
    for (let i = 0; i < 300; i++) {
      if (i % 10 === 9) text.delete(i % 7, 2);
      else text.insert(text.length, "words ");
    }
    const [lost, ...later] = updates;
    if (order === "backwards") later.reverse();
    const sent = order === "with gaps" ? later.filter((_, index) => index % 3 !== 0) : later;
    const doc = model.create();
    const tracker = model.track(doc);
    for (const update of sent) Y.applyUpdate(doc, update);
    const captured = tracker.take(doc);
    const bytes = (all: readonly Uint8Array[]) => all.reduce((sum, { length }) => sum + length, 0);
    expect(bytes(captured)).toBeLessThan(4 * bytes(sent));
    const { version } = model.fold(undefined, [lost!, ...captured]);
    expect(version).toEqual(model.fold(undefined, [lost!, ...sent]).version);
    tracker.stop();
  }
});

test("[DI35] what no storage takes does not stop Yjs where it waits for what it builds on", () => {
  const writer = new Y.Doc();
  const updates: Uint8Array[] = [];
  writer.on("update", (update: Uint8Array) => updates.push(update));
  const list = writer.getArray<unknown>("list");
  let deep: unknown = "deep";
  for (let i = 0; i < 600; i++) deep = [deep];
  for (const one of ["first", deep, "a", "b"]) list.push([one]);
  const doc = model.create();
  const tracker = model.track(doc);
  const [first, ...early] = updates;
  for (const update of early) Y.applyUpdate(doc, update);
  Y.applyUpdate(doc, first!);
  expect(doc.getArray("list").toJSON()).toEqual(list.toJSON());
  const copy = model.create();
  for (const update of tracker.take(doc)) Y.applyUpdate(copy, update);
  expect(copy.getArray("list").toJSON()).toEqual(list.toJSON());
  tracker.stop();
});

test("[DI35] what an observer of stored events applies too early is captured", () => {
  const writer = new Y.Doc();
  const updates: Uint8Array[] = [];
  writer.on("update", (update: Uint8Array) => updates.push(update));
  const text = writer.getText("text");
  for (const letter of "abcde") text.insert(text.length, letter);
  const other = new Y.Doc();
  other.getText("other").insert(0, "stored");
  const doc = model.create();
  const tracker = model.track(doc);
  doc.getText("other").observe(() => Y.applyUpdate(doc, updates[2]!));
  model.apply(doc, [Y.encodeStateAsUpdate(other)]);
  for (const update of updates.slice(3)) Y.applyUpdate(doc, update);
  const copy = model.create();
  for (const update of [...updates.slice(0, 2), ...tracker.take(doc)]) Y.applyUpdate(copy, update);
  expect(copy.getText("text").toString()).toBe("abcde");
  tracker.stop();
});

test("[DI35] what fits between much that waits costs a few times what Yjs itself takes for it", () => {
  const writer = new Y.Doc();
  writer.getText("text").applyDelta(Array.from({ length: 24_001 }, (_, n) => ({ insert: { n } })));
  const all = Y.encodeStateAsUpdate(writer);
  const structs: Run[] = [];
  scanUpdate(all, {
    run: (client, clock, end, _count, from) => {
      for (let at = { client, clock, from }; at.clock < end; ) {
        const struct = findStruct(all, at, at.clock);
        structs.push({ ...struct, client, count: 1, bytes: all, from: struct.at });
        at = { client, clock: struct.end, from: struct.to };
      }
    },
    deletion: () => undefined,
  });
  const part = (which: (clock: number) => boolean) =>
    writeUpdate([{ client: writer.clientID, runs: structs.filter((run) => which(run.clock)) }], new Map());
  const [first, odd] = [part((clock) => clock === 0), part((clock) => clock % 2 === 1)];
  const even = part((clock) => clock > 0 && clock % 2 === 0);
  const msTo = (doc: Y.Doc): number => {
    Y.applyUpdate(doc, odd);
    const since = performance.now();
    Y.applyUpdate(doc, even);
    return performance.now() - since;
  };
  const own = msTo(new Y.Doc());
  const doc = model.create();
  const tracker = model.track(doc);
  expect(msTo(doc)).toBeLessThan(12 * own + 500);
  const { version } = model.fold(undefined, [first, ...tracker.take(doc)]);
  expect(version).toEqual(model.version(writer));
  tracker.stop();
});
