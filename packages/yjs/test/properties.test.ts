import fc from "fast-check";
import { expect, test } from "vitest";
import * as Y from "yjs";
import { below, seeded, shuffled } from "../../../test/support/chance.js";
import { yjs } from "../src/index.js";
import { contentOf, writeTogether } from "./editing.js";

const SEED = Number(process.env.COPPICE_SEED ?? 1);
const runs = (count: number): fc.Parameters<unknown> => ({ seed: SEED, numRuns: count });
const seeds = fc.integer({ min: 1, max: 2 ** 31 });

/** What plain Yjs makes of the updates, without cleaning up formatting. */
function plain(updates: readonly Uint8Array[], gc: boolean): Y.Doc {
  const doc = new Y.Doc({ gc });
  for (const update of updates) Y.applyUpdate(doc, update);
  return doc;
}

test("[MD8] any order, slices and repetition make the document that plain Yjs makes", () => {
  fc.assert(
    fc.property(seeds, fc.boolean(), (seed, gc) => {
      const random = seeded(seed);
      const model = yjs({ gc });
      const { events } = writeTogether(random, 3, 60, gc);
      const expected = model.fold(undefined, events);
      const order = shuffled(random, [...events, ...events.filter(() => random() < 0.2)]);
      const doc = model.create();
      while (order.length > 0) model.apply(doc, order.splice(0, 1 + below(random, 8)));
      expect(model.version(doc)).toEqual(expected.version);
      expect(model.peerVersion(doc)).toEqual(expected.peerVersion);
      // Types that nobody has defined yet are not cleaned up by plain Yjs, nested ones are: compare the structs.
      const other = plain(events, gc);
      expect(Y.encodeStateVector(other)).toEqual(expected.peerVersion);
      expect(doc.getText("text").toString()).toBe(other.getText("text").toString());
      expect(contentOf(doc)).toEqual(contentOf(model.restore(expected.snapshot)));
      expect(contentOf(doc)).toEqual(contentOf(other));
    }),
    runs(60),
  );
});

test("[MD30] held is exactly what reaches beyond the document, and the document is as far as plain Yjs or farther", () => {
  fc.assert(
    fc.property(seeds, (seed) => {
      const random = seeded(seed);
      const model = yjs();
      const { events } = writeTogether(random, 3, 40);
      const some = shuffled(random, events).filter(() => random() < 0.8);
      const doc = model.create();
      const { held, refused } = model.apply(doc, some);
      expect(refused).toEqual([]);
      const other = plain(some, true);
      // Plain Yjs sometimes waits for the end of a gap where its beginning would do, so it may be behind.
      for (const [client, clock] of Y.decodeStateVector(Y.encodeStateVector(other))) {
        expect(Y.getState(doc.store, client)).toBeGreaterThanOrEqual(clock);
      }
      const slowly = model.create();
      for (const event of some) model.apply(slowly, [event]);
      expect(model.version(slowly)).toEqual(model.version(doc));
      const folded = model.fold(undefined, some);
      expect([folded.held, folded.version]).toEqual([held, model.version(doc)]);
      const clock = Y.decodeStateVector(folded.peerVersion);
      for (const [index, event] of some.entries()) {
        const { to } = Y.parseUpdateMeta(event);
        const { ds } = Y.decodeUpdate(event);
        const late = [...to].some(([client, end]) => end > (clock.get(client) ?? 0));
        const lateDeletion = [...ds.clients].some(([client, items]) =>
          items.some((item) => item.clock + item.len > (clock.get(client) ?? 0)),
        );
        expect(held.includes(index)).toBe(late || lateDeletion);
      }
      const rest = events.filter((event) => !some.includes(event));
      const done = model.fold(folded.snapshot, [...held.map((index) => some[index]!), ...rest]);
      expect([done.held, done.version]).toEqual([[], model.fold(undefined, events).version]);
    }),
    runs(80),
  );
});

test("[MD21] diff brings a peer that wrote on its own up to date, whatever is in snapshot and tail", () => {
  fc.assert(
    fc.property(seeds, (seed) => {
      const random = seeded(seed);
      const model = yjs();
      const { events, docs } = writeTogether(random, 3, 60);
      const order = random() < 0.5 ? events : shuffled(random, events);
      const split = below(random, order.length + 1);
      const folded = model.fold(undefined, order.slice(0, split));
      const tail = [...folded.held.map((index) => order[index]!), ...order.slice(split)];
      const stored = { ...folded, tail };
      const peer = docs[below(random, 3)]!;
      const sv = Y.encodeStateVector(peer);
      const quick = model.diff!({ ...stored, snapshot: undefined }, sv);
      const full = model.diff!(stored, sv)!;
      if (quick !== undefined) Y.applyUpdate(peer, quick);
      else Y.applyUpdate(peer, full);
      const whole = model.fold(undefined, [...events, Y.encodeStateAsUpdate(peer)]);
      expect(model.version(peer)).toEqual(whole.version);
      expect(full.length).toBeLessThanOrEqual(Y.mergeUpdates([folded.snapshot, ...tail]).length);
    }),
    runs(80),
  );
});

test("[MD5] deletions alone tell versions apart, and the order of arrival does not", () => {
  fc.assert(
    fc.property(seeds, fc.integer({ min: 0, max: 9 }), (seed, at) => {
      const random = seeded(seed);
      const model = yjs();
      const { events } = writeTogether(random, 2, 20);
      const doc = model.restore(model.fold(undefined, events).snapshot);
      doc.getText("text").insert(0, "0123456789");
      const [before, peerVersion] = [model.version(doc), model.peerVersion(doc)];
      doc.getText("text").delete(at, 1);
      expect(model.version(doc)).not.toEqual(before);
      expect(model.peerVersion(doc)).toEqual(peerVersion);
    }),
    runs(20),
  );
});

test("[MD14] joining keystrokes into texts changes neither structs' ids nor what others see beside them", () => {
  fc.assert(
    fc.property(seeds, (seed) => {
      const random = seeded(seed);
      const model = yjs();
      const docs = [1, 2].map((clientID) => Object.assign(new Y.Doc(), { clientID }));
      const events: Uint8Array[] = [];
      for (const doc of docs) doc.on("update", (update: Uint8Array) => void events.push(update));
      for (let i = 0; i < 60; i++) {
        const doc = docs[below(random, 2)]!;
        const text = doc.getText("text");
        const at = random() < 0.7 ? Math.min(text.length, i) : below(random, text.length + 1);
        if (random() < 0.15 && at < text.length) text.delete(at, 1);
        else text.insert(at, ["a", "ü", "🌳", "bc"][below(random, 4)]!);
        if (random() < 0.1) Y.applyUpdate(docs[0]!, Y.encodeStateAsUpdate(docs[1]!));
      }
      const other = plain(events, true);
      const folded = model.fold(undefined, events);
      expect(folded.version).toEqual(model.version(other));
      expect(model.restore(folded.snapshot).getText("text").toString()).toBe(
        other.getText("text").toString(),
      );
    }),
    runs(60),
  );
});
