import { createHash } from "node:crypto";
import * as Automerge from "@automerge/automerge";
import { concatBytes, DocumentStorage, memoryBackend, never } from "coppice";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { below, seeded, shuffled } from "../../../test/support/chance.js";
import { automerge, decodeHeads, encodeHeads } from "../src/index.js";
import { contentOf, type Doc, editDoc, type Pad, writeTogether } from "./editing.js";

const SEED = Number(process.env.COPPICE_SEED ?? 1);
const seeds = fc.integer({ min: 1, max: 2 ** 31 });
const model = automerge<Pad>();

/** The changes of one author: a first one that makes the document, then `count` others. */
function line(count: number, seed = 1): Uint8Array[] {
  const chance = seeded(seed);
  let doc = editDoc(Automerge.init<Pad>(seed.toString(16).padStart(32, "0")), chance);
  while (Automerge.getAllChanges(doc).length <= count) doc = editDoc(doc, chance);
  return Automerge.getAllChanges(doc);
}

/** The change with one bit turned; with `sound`, under a checksum that matches again. */
function turned(event: Uint8Array, bit: number, sound: boolean): Uint8Array {
  const copy = event.slice();
  copy[bit >> 3]! ^= 1 << (bit & 7);
  if (sound) copy.set(createHash("sha256").update(copy.subarray(8)).digest().subarray(0, 4), 4);
  return copy;
}

const open = () =>
  DocumentStorage.open({ backend: memoryBackend(), models: [automerge<Pad>()], snapshotPolicy: never });

describe("capture", () => {
  test("[AM1] each change is one event, and so is each that was merged in or came by Automerge's sync", () => {
    const [first, second] = line(1) as [Uint8Array, Uint8Array];
    let doc = model.create();
    const tracker = model.track(doc);
    doc = model.apply(doc, [first]).doc;
    expect(tracker.take(doc)).toEqual([]);
    doc = Automerge.change(doc, (pad) => Automerge.splice(pad, ["text"], 0, 0, "x"));
    doc = Automerge.change(doc, (pad) => Automerge.splice(pad, ["text"], 0, 0, "y"));
    expect(tracker.pending(doc)).toBe(true);
    // What is new when events are applied stays new.
    doc = model.apply(doc, [second]).doc;
    expect(tracker.take(doc)).toHaveLength(2);
    const [other] = Automerge.applyChanges(Automerge.init<Pad>(), [first]);
    const edited = Automerge.change(other, (pad) => pad.list.push("theirs"));
    doc = model.change(doc, (mine) => Automerge.merge(mine as Doc, edited));
    expect(tracker.take(doc)).toEqual([Automerge.getLastLocalChange(edited)]);
    let [ours, theirs] = [Automerge.initSyncState(), Automerge.initSyncState()];
    let peer = Automerge.change(edited, (pad) => pad.list.push("synced"));
    for (let round = 0; round < 6; round++) {
      const [next, message] = Automerge.generateSyncMessage(peer, theirs);
      theirs = next;
      if (message !== null) [doc, ours] = Automerge.receiveSyncMessage(doc, ours, message);
      const [after, answer] = Automerge.generateSyncMessage(doc, ours);
      ours = after;
      if (answer !== null) [peer, theirs] = Automerge.receiveSyncMessage(peer, theirs, answer);
    }
    expect(tracker.take(doc)).toHaveLength(1);
    doc = model.change(doc, (mine) => editDoc(Automerge.clone(mine as Doc), () => 0.99));
    expect(tracker.take(doc)).toHaveLength(1);
    doc = model.apply(doc, line(3, 9)).doc;
    expect(tracker.take(doc)).toEqual([]);
  });

  for (const call of ["receive", "refresh"] as const) {
    test(`[AM1] a change that waited in Automerge's queue is stored when ${call} lets it out`, async () => {
      const storage = await open();
      const handle = await storage.open<Doc>("d", { autoSave: true });
      handle.change((doc) => Automerge.change(doc, (pad) => void Object.assign(pad, { list: ["mine"] })));
      await handle.save();
      const one = Automerge.change(Automerge.clone(handle.doc), (pad) => void pad.list.push("one"));
      const two = Automerge.change(Automerge.clone(one), (pad) => void pad.list.push("two"));
      const three = Automerge.change(Automerge.clone(two), (pad) => void pad.list.push("three"));
      const [first, second, third] = [one, two, three].map((doc) => Automerge.getLastLocalChange(doc)!);
      // A provider brings one too early, and storage another.
      handle.change((doc) => Automerge.applyChanges(doc, [second!])[0]);
      expect(handle.receive([third!]).held).toBe(1);
      expect(await handle.save()).toBe(2);
      if (call === "receive") handle.receive([first!]);
      else {
        await storage.append("d", [first!]);
        await handle.refresh();
      }
      expect(handle.doc.list).toEqual(["mine", "one", "two", "three"]);
      expect(handle.unsaved).toBe(true);
      await storage.flush();
      expect(handle.durableClock).toBe(4);
      const loaded = await storage.load<Doc>("d");
      expect(loaded?.held).toEqual([]);
      expect(loaded?.doc).toEqual(handle.doc);
      expect(await handle.snapshot()).toBe(4);
      expect((await storage.check()).problems).toEqual([]);
      await storage.close();
    });
  }

  test("[AM1] what apply held is not captured when apply lets it out, whenever the document was tracked", () => {
    const [first, second, third] = line(2) as [Uint8Array, Uint8Array, Uint8Array];
    let doc = model.apply(model.create(), [third]).doc;
    const tracker = model.track(doc);
    doc = model.apply(doc, [second]).doc;
    doc = model.apply(doc, [first]).doc;
    expect(Automerge.getAllChanges(doc)).toHaveLength(3);
    expect(tracker.take(doc)).toEqual([]);
  });

  test("[AM3] change takes a function that returns the new document, and says so", () => {
    const doc = model.apply(model.create(), line(2)).doc;
    expect(() => model.change(doc, () => undefined)).toThrow("must return the new document");
    expect(() => model.change(doc, () => Automerge.init())).toThrow("lacks changes");
  });
});

describe("bad events", () => {
  const events = line(5);

  test("[AM2] every turned bit is refused by check and apply, and hides none of the events after it", () => {
    const whole = model.fold(undefined, events);
    for (let bit = 0; bit < events[2]!.length * 8; bit++) {
      const bad = turned(events[2]!, bit, false);
      expect(() => model.check!([bad])).toThrow(TypeError);
      if (bit % 23 !== 0) continue;
      const { doc, refused, held } = model.apply(model.create(), [
        ...events.slice(0, 3),
        bad,
        ...events.slice(3),
      ]);
      expect([refused.map(({ index }) => index), held]).toEqual([[3], []]);
      expect(model.version(doc)).toEqual(whole.version);
    }
  });

  test("[AM2] Automerge's own loading drops what comes after a turned bit without a word", () => {
    const bad = turned(events[2]!, 400, false);
    const joined = concatBytes([bad, ...events.slice(3)]);
    const doc = Automerge.loadIncremental(Automerge.load(concatBytes(events.slice(0, 2))), joined);
    expect(Automerge.getAllChanges(doc)).toHaveLength(2);
  });

  test("[AM4] a change that is sound and impossible in its document is refused, and the others are applied", () => {
    const whole = model.fold(undefined, events);
    let refusedCount = 0;
    for (let bit = 8 * 11; bit < events[3]!.length * 8; bit += 5) {
      const bad = turned(events[3]!, bit, true);
      const { snapshot } = model.fold(undefined, events.slice(0, 2));
      // Coming first it may be taken, and then a true one is refused; but never is anything thrown.
      const first = model.apply(model.restore(snapshot), [bad, ...events.slice(2)]);
      expect(first.applied + first.held.length + first.refused.length).toBe(5);
      const offered = [...events.slice(2), bad];
      const { doc, refused, held } = model.apply(model.restore(snapshot), offered);
      if (refused.length === 0) continue;
      refusedCount++;
      expect([refused.map(({ index }) => index), held]).toEqual([[4], []]);
      expect(model.version(doc)).toEqual(whole.version);
      expect(model.version(model.restore(model.snapshot(doc)))).toEqual(whole.version);
    }
    expect(refusedCount).toBeGreaterThan(30);
  });

  test("[AM4] a live document outlives such a change, and its edits are still captured", () => {
    // Another change of the same actor and number.
    const twin = turned(events[3]!, 8 * (events[3]!.length - 1), true);
    let doc = model.apply(model.create(), events.slice(0, 4)).doc;
    const tracker = model.track(doc);
    const { refused, held, ...applied } = model.apply(doc, [twin, events[4]!]);
    expect(refused.map(({ index }) => index)).toEqual([0]);
    expect(held).toEqual([]);
    doc = Automerge.change(applied.doc, (pad) => Automerge.splice(pad, ["text"], 0, 0, "after"));
    expect(tracker.take(doc)).toHaveLength(1);
    expect(model.version(model.restore(model.snapshot(doc)))).toEqual(model.version(doc));
  });

  test("[AM4] a poison event that is stored already is kept with its reason, and the rest loads", async () => {
    const backend = memoryBackend();
    const trusting = { ...model, check: () => undefined };
    const lax = await DocumentStorage.open({ backend, models: [trusting], snapshotPolicy: never });
    const poison = turned(events[2]!, 500, false);
    await lax.append("d", [...events.slice(0, 3), poison, ...events.slice(3)]);
    await lax.close();
    const storage = await DocumentStorage.open({ backend, models: [model], snapshotPolicy: never });
    for (let round = 0; round < 2; round++) {
      const loaded = (await storage.load("d"))!;
      expect(loaded.held).toMatchObject([
        { clock: 3, event: poison, reason: expect.stringContaining("checksum") },
      ]);
      expect(model.version(loaded.doc)).toEqual(model.fold(undefined, events).version);
      await storage.compact("d", { force: true });
      expect((await storage.check()).problems).toEqual([]);
    }
    await storage.close();
  });

  test("[AM2] corrupt bytes are EVENT_INVALID at append and receive, and never reach the log", async () => {
    const storage = await open();
    await storage.append("d", events);
    const handle = (await storage.load("d"))!;
    const saved = Automerge.save(handle.doc);
    const two = concatBytes(events.slice(0, 2));
    for (const bad of [
      turned(events[2]!, 300, false),
      events[2]!.slice(0, 30),
      saved,
      two,
      Uint8Array.of(1),
    ]) {
      await expect(storage.append("d", [events[0]!, bad])).rejects.toMatchObject({ code: "EVENT_INVALID" });
      expect(() => handle.receive([bad])).toThrow(expect.objectContaining({ code: "EVENT_INVALID" }));
    }
    expect((await storage.info("d"))?.clock).toBe(events.length);
    await storage.close();
  });
});

describe("held changes", () => {
  test("[AM5] a snapshot leaves out what waits in Automerge's queue, and storage offers it again", async () => {
    const [first, ...rest] = line(4);
    const storage = await open();
    await storage.append("d", rest);
    const handle = (await storage.load("d"))!;
    expect(handle.held.map(({ clock }) => clock)).toEqual([0, 1, 2, 3]);
    expect(model.holds!(handle.doc)).toBe(true);
    const waiting = Automerge.save(handle.doc);
    expect(model.snapshot(handle.doc).length).toBeLessThan(waiting.length);
    expect((await storage.compact("d", { force: true })).held).toBe(4);
    await storage.append("d", [first!]);
    const loaded = (await storage.load("d"))!;
    expect(loaded.held).toEqual([]);
    expect(Automerge.getAllChanges(loaded.doc)).toHaveLength(5);
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });

  test("[AM5] held is exactly what something is missing for, in any order", () => {
    fc.assert(
      fc.property(seeds, (seed) => {
        const chance = seeded(seed);
        const { events } = writeTogether(chance, 3, 25);
        const some = shuffled(chance, events).filter(() => chance() < 0.85);
        const known = new Set<string>();
        const nodes = some.map((event) => Automerge.decodeChange(event));
        for (let before = -1; before !== known.size; ) {
          before = known.size;
          for (const { hash, deps } of nodes) if (deps.every((dep) => known.has(dep))) known.add(hash!);
        }
        const { held, refused, doc } = model.apply(model.create(), some);
        expect([held, refused]).toEqual([
          nodes.flatMap(({ hash }, index) => (known.has(hash!) ? [] : [index])),
          [],
        ]);
        const folded = model.fold(undefined, some);
        expect([folded.held, folded.version]).toEqual([held, model.version(doc)]);
        const rest = events.filter((event) => !some.includes(event));
        const done = model.fold(folded.snapshot, [...held.map((index) => some[index]!), ...rest]);
        expect([done.held, done.version]).toEqual([[], model.fold(undefined, events).version]);
        expect(contentOf(model.restore(done.snapshot))).toBe(
          contentOf(model.apply(model.create(), events).doc),
        );
      }),
      { seed: SEED, numRuns: 25 },
    );
  });
});

describe("diff", () => {
  test("[AM6] a peer with the snapshot's heads is answered without the snapshot, one with nothing by stored bytes", () => {
    const events = line(6);
    const stored = { ...model.fold(undefined, events.slice(0, 4)), tail: events.slice(4) };
    const quick = { ...stored, snapshot: undefined };
    const at = (count: number) => model.fold(undefined, events.slice(0, count)).peerVersion;
    expect(model.diff!(quick, at(4))).toEqual(concatBytes(events.slice(4)));
    expect(model.diff!(quick, at(5))).toEqual(concatBytes(events.slice(5)));
    expect(model.diff!(quick, at(7))).toEqual(new Uint8Array());
    expect(model.diff!(quick, at(2))).toBeUndefined();
    expect(model.diff!(stored, at(2))).toEqual(concatBytes(events.slice(2)));
    expect(model.diff!(stored, at(0))).toEqual(concatBytes([stored.snapshot, ...events.slice(4)]));
  });

  test("[AM6] hashes that the store lacks are ignored, and a known older head beside them is used", () => {
    const events = line(6);
    const stored = { ...model.fold(undefined, events.slice(0, 4)), tail: events.slice(4) };
    const hash = (index: number) => Automerge.decodeChange(events[index]!).hash!;
    const unknown = "ab".repeat(32);
    expect(model.diff!(stored, encodeHeads([unknown]))).toEqual(
      concatBytes([stored.snapshot, ...events.slice(4)]),
    );
    expect(model.diff!({ ...stored, snapshot: undefined }, encodeHeads([unknown, hash(4)]))).toEqual(
      concatBytes(events.slice(5)),
    );
    expect(model.diff!(stored, encodeHeads([unknown, hash(1)]))).toEqual(concatBytes(events.slice(2)));
  });

  test("[AM6] heads go to bytes and back in one order; other bytes and other texts are refused", () => {
    const heads = ["22".repeat(32), "11".repeat(32)];
    expect(decodeHeads(encodeHeads(heads))).toEqual([...heads].sort());
    expect(encodeHeads([...heads, heads[0]!])).toEqual(encodeHeads([...heads].reverse()));
    expect(() => encodeHeads(["zz"])).toThrow(TypeError);
    const swapped = concatBytes([
      Uint8Array.of(2),
      encodeHeads([heads[0]!]).slice(1),
      encodeHeads([heads[1]!]).slice(1),
    ]);
    for (const bad of [new Uint8Array(), Uint8Array.of(1), swapped]) expect(() => decodeHeads(bad)).toThrow();
  });
});

test("[AM7] the worker address makes the same model again", async () => {
  const { worker } = automerge();
  // Beside the sources lies the TypeScript file of the same name.
  const module = (await import(worker!.module.replace(/\.js$/, ".ts"))) as Record<string, typeof automerge>;
  expect(module[worker!.export]!().name).toBe("automerge");
});

test("[AM8] restored is replayed: any cut into snapshot and tail shows the same, and versions tell contents apart", () => {
  fc.assert(
    fc.property(seeds, (seed) => {
      const chance = seeded(seed);
      const { events, docs } = writeTogether(chance, 3, 30);
      const order = shuffled(chance, events);
      const whole = model.apply(model.create(), events).doc;
      const split = below(chance, order.length + 1);
      const folded = model.fold(undefined, order.slice(0, split));
      const tail = [...folded.held.map((index) => order[index]!), ...order.slice(split)];
      const { doc, held } = model.apply(model.restore(folded.snapshot), tail);
      expect([held, model.version(doc), contentOf(doc)]).toEqual([
        [],
        model.version(whole),
        contentOf(whole),
      ]);
      const before = model.version(docs[0]!);
      const removed = Automerge.change(docs[0]!, { time: 0 }, (pad) => Automerge.splice(pad, ["text"], 0, 1));
      if (docs[0]!.text.length > 0) expect(model.version(removed)).not.toEqual(before);
      expect(Automerge.getActorId(doc)).not.toBe(Automerge.getActorId(whole));
    }),
    { seed: SEED, numRuns: 25 },
  );
});

test("[ST97] the model refuses options, of which it has none", () => {
  expect(() => automerge({ x: 1 } as never)).toThrow(
    new TypeError("automerge has no option x; there are none"),
  );
  expect(() => automerge(null as never)).toThrow("automerge takes an object of options; there are none");
});
