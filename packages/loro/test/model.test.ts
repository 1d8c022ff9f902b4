import { DocumentStorage, equalBytes, memoryBackend, never } from "coppice";
import fc from "fast-check";
import { LoroDoc, VersionVector } from "loro-crdt";
import { describe, expect, test } from "vitest";
import { below, seeded, shuffled } from "../../../test/support/chance.js";
import { loro } from "../src/index.js";
import { contentOf, editDoc, writeTogether } from "./editing.js";
import { sealed } from "./sealing.js";

const SEED = Number(process.env.COPPICE_SEED ?? 1);
const seeds = fc.integer({ min: 1, max: 2 ** 31 });
const model = loro();

/** One peer's updates, one for each commit. */
function line(count: number, seed = 1): Uint8Array[] {
  const events: Uint8Array[] = [];
  const doc = new LoroDoc();
  doc.setPeerId(BigInt(seed));
  doc.subscribeLocalUpdates((update) => void events.push(update));
  const chance = seeded(seed);
  while (events.length < count) editDoc(doc, chance);
  return events;
}

function turned(event: Uint8Array, bit: number): Uint8Array {
  const copy = event.slice();
  copy[bit >> 3]! ^= 1 << (bit & 7);
  return copy;
}

const open = () =>
  DocumentStorage.open({ backend: memoryBackend(), models: [loro()], snapshotPolicy: never });

const text = (doc: LoroDoc | undefined) => doc?.getText("text").toString();

describe("capture", () => {
  test("[LO1] a save is one update of all that was committed, and what apply brings is not in it", () => {
    const [first, second] = line(2) as [Uint8Array, Uint8Array];
    const doc = model.create();
    const tracker = model.track(doc);
    model.apply(doc, [first]);
    doc.getText("text").insert(0, "x");
    doc.commit();
    // Not committed yet, and new when events are applied: it stays new.
    doc.getText("text").insert(0, "y");
    expect(tracker.pending(doc)).toBe(true);
    model.apply(doc, [second]);
    const [event, ...more] = tracker.take(doc);
    expect(more).toEqual([]);
    expect(tracker.pending(doc)).toBe(false);
    const other = model.apply(model.create(), [first, event!]).doc;
    expect(text(other)).toContain("yx");
  });

  test("[LO1] a provider's imports are captured, also what came too early, and a listener's edits", async () => {
    const [first, second, third] = line(3) as [Uint8Array, Uint8Array, Uint8Array];
    const storage = await open();
    const handle = await storage.open("d");
    handle.doc.import(first);
    handle.doc.import(third);
    await handle.save();
    expect(model.holds!(handle.doc)).toBe(true);
    let edits = 0;
    handle.doc.subscribe(({ by }) => {
      if (by !== "import" || edits++ > 0) return;
      handle.doc.getText("note").insert(0, "seen");
      handle.doc.commit();
    });
    handle.receive([second]);
    await handle.save();
    const loaded = (await storage.load("d"))!;
    expect(loaded.held).toEqual([]);
    expect(loaded.doc.getText("note").toString()).toBe("seen");
    expect(equalBytes(model.version(loaded.doc), model.version(handle.doc))).toBe(true);
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });

  test("[LO1] a handle saves by itself after a commit of the application", async () => {
    const storage = await open();
    const handle = await storage.open("d", { autoSave: true });
    handle.doc.getText("text").insert(0, "hello");
    handle.doc.commit();
    await handle.waitDurable(1);
    handle.change((doc) => doc.getText("text").insert(5, "!"));
    await handle.waitDurable(2);
    expect(text((await storage.load("d"))?.doc)).toBe("hello!");
    await storage.close();
  });
});

describe("pending updates", () => {
  test("[LO2] Loro's snapshots drop what is pending, without a word; a compaction here keeps it", async () => {
    const [first, second, third] = line(3) as [Uint8Array, Uint8Array, Uint8Array];
    const plain = new LoroDoc();
    plain.import(third);
    const reopened = new LoroDoc();
    reopened.import(plain.export({ mode: "snapshot" }));
    reopened.importBatch([first, second]);
    const whole = model.apply(model.create(), [first, second, third]).doc;
    expect(contentOf(reopened)).not.toBe(contentOf(whole));

    const storage = await open();
    await storage.append("d", [third]);
    const handle = (await storage.load("d"))!;
    expect(handle.held).toMatchObject([{ clock: 0, event: third, reason: undefined }]);
    expect((await storage.compact("d", { force: true })).held).toBe(1);
    await storage.append("d", [first]);
    await storage.compact("d", { force: true });
    await storage.append("d", [second]);
    const loaded = (await storage.load("d"))!;
    expect([loaded.held, contentOf(loaded.doc)]).toEqual([[], contentOf(whole)]);
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });

  test("[LO2] held is exactly what reaches beyond the document, in any order", () => {
    fc.assert(
      fc.property(seeds, (seed) => {
        const chance = seeded(seed);
        const { events } = writeTogether(chance, 3, 25, 0.1);
        const some = shuffled(chance, events).filter(() => chance() < 0.85);
        const { held, refused, doc } = model.apply(model.create(), some);
        expect(refused).toEqual([]);
        for (const [index, event] of some.entries()) {
          // An event is in the document exactly when the document without it is the same.
          const { success, pending } = doc.fork().import(event);
          expect([success.size, pending !== null]).toEqual([0, held.includes(index)]);
        }
        const folded = model.fold(undefined, some);
        expect([folded.held, folded.version]).toEqual([held, model.version(doc)]);
        const rest = events.filter((event) => !some.includes(event));
        const done = model.fold(folded.snapshot, [...held.map((index) => some[index]!), ...rest]);
        expect([done.held, done.version]).toEqual([[], model.fold(undefined, events).version]);
      }),
      { seed: SEED, numRuns: 20 },
    );
  });
});

describe("bad events", () => {
  const events = line(6);
  const whole = model.fold(undefined, events);

  test("[LO3] every turned bit that means something is refused by check and apply, and hides none after it", () => {
    for (let bit = 16 * 8; bit < events[2]!.length * 8; bit++) {
      const bad = turned(events[2]!, bit);
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

  test("[LO3] corrupt bytes are EVENT_INVALID at append and receive, and never reach the log", async () => {
    const storage = await open();
    await storage.append("d", events);
    const handle = (await storage.load("d"))!;
    const root = handle.doc.oplogFrontiers();
    const shallow = handle.doc.export({ mode: "shallow-snapshot", frontiers: root });
    for (const bad of [turned(events[2]!, 300), events[2]!.slice(0, 30), shallow, Uint8Array.of(1)]) {
      await expect(storage.append("d", [events[0]!, bad])).rejects.toMatchObject({ code: "EVENT_INVALID" });
      expect(() => handle.receive([bad])).toThrow(expect.objectContaining({ code: "EVENT_INVALID" }));
    }
    expect((await storage.info("d"))?.clock).toBe(events.length);
    await storage.close();
  });

  test("[LO10] a shallow snapshot that is imported into the document is refused by save and open, each time", async () => {
    const source = new LoroDoc();
    source.import(events[0]!);
    source.importBatch([...events]);
    const shallow = source.export({ mode: "shallow-snapshot", frontiers: source.oplogFrontiers() });
    const refusal = { code: "EVENT_INVALID", message: expect.stringContaining("shallow") };
    const storage = await open();
    const initial = (doc: LoroDoc) => doc.import(shallow);
    await expect(storage.open("new", { initial })).rejects.toMatchObject(refusal);
    expect(await storage.info("new")).toBeUndefined();
    const handle = await storage.open<LoroDoc>("d");
    handle.doc.import(shallow);
    await expect(handle.save()).rejects.toMatchObject(refusal);
    handle.change((doc) => doc.getText("text").insert(0, "later"));
    await expect(handle.save()).rejects.toMatchObject(refusal);
    await expect(handle.close()).rejects.toMatchObject({ code: "BUSY" });
    expect((await storage.info("d"))?.clock).toBe(0);
    await handle.close({ discard: true });
    const again = (await storage.load<LoroDoc>("d"))!;
    again.doc.import(source.export({ mode: "snapshot" }));
    await again.save();
    expect(contentOf((await storage.load<LoroDoc>("d"))!.doc)).toBe(contentOf(source));
    await storage.close();
  });

  test("[LO3] a poison event that is stored already is kept with its reason, and the rest loads, panic or not", async () => {
    let refusedCount = 0;
    for (let bit = 22 * 8; bit < events[2]!.length * 8; bit += 5) {
      const poison = sealed(turned(events[2]!, bit));
      const { snapshot } = model.fold(undefined, events.slice(0, 2));
      const offered = [...events.slice(2), poison, events[4]!];
      const { doc, refused, held } = model.apply(model.restore(snapshot), offered);
      if (refused.length + held.length === 0) continue;
      refusedCount++;
      expect([...refused.map(({ index }) => index), ...held]).toEqual([4]);
      expect(model.version(doc)).toEqual(whole.version);
      expect(model.version(model.restore(model.snapshot(doc)))).toEqual(whole.version);
    }
    expect(refusedCount).toBeGreaterThan(15);
    const backend = memoryBackend();
    const trusting = { ...model, check: () => undefined };
    const lax = await DocumentStorage.open({ backend, models: [trusting], snapshotPolicy: never });
    const poison = turned(events[2]!, 500);
    await lax.append("d", [...events.slice(0, 3), poison, ...events.slice(3)]);
    await lax.close();
    const storage = await DocumentStorage.open({ backend, models: [model], snapshotPolicy: never });
    for (let round = 0; round < 2; round++) {
      const loaded = (await storage.load("d"))!;
      expect(loaded.held).toMatchObject([
        { clock: 3, event: poison, reason: expect.stringContaining("Checksum") },
      ]);
      expect(model.version(loaded.doc)).toEqual(whole.version);
      await storage.compact("d", { force: true });
      expect((await storage.check()).problems).toEqual([]);
    }
    await storage.close();
  });

  test("[LO3] a panic costs a document that was just loaded nothing, and a live one is not used any further", () => {
    const panics = panicking();
    const { snapshot } = model.fold(undefined, panics.before);
    const offered = [...panics.before, panics.event];
    const { doc, refused } = model.apply(model.restore(snapshot), offered);
    expect(refused).toMatchObject([
      { index: panics.before.length, reason: expect.stringContaining("failed on it") },
    ]);
    expect(model.version(doc)).toEqual(model.fold(undefined, panics.before).version);
    const live = model.restore(snapshot);
    model.track(live);
    expect(() => model.apply(live, [panics.event])).toThrow("load it again");
  });
});

/** An update that Loro panics on although all before it are there, found by turning bits under a fresh seal. */
function panicking(): { before: Uint8Array[]; event: Uint8Array } {
  const events = line(8, 1);
  const [before, event] = [events.slice(0, 6), sealed(turned(events[6]!, 311))];
  const doc = new LoroDoc();
  doc.importBatch(before);
  expect(() => doc.import(event)).toThrow(WebAssembly.RuntimeError);
  return { before, event };
}

describe("versions and diffs", () => {
  test("[LO6] a version is a version vector that Loro reads, in one order, and any order of Loro's is read", () => {
    fc.assert(
      fc.property(seeds, (seed) => {
        const chance = seeded(seed);
        const { events, docs } = writeTogether(chance, 4, 20);
        const doc = model.apply(model.create(), events).doc;
        const again = model.apply(model.create(), shuffled(chance, events)).doc;
        expect(model.version(again)).toEqual(model.version(doc));
        expect(new VersionVector(model.version(doc)).toJSON()).toEqual(doc.oplogVersion().toJSON());
        const stored = { ...model.fold(undefined, events.slice(0, 9)), tail: events.slice(9) };
        const peer = docs[below(chance, 4)]!;
        const answer = model.diff!(stored, peer.oplogVersion().encode())!;
        const { pending } = peer.import(answer);
        expect([pending, model.version(peer)]).toEqual([null, model.version(doc)]);
      }),
      { seed: SEED, numRuns: 20 },
    );
  });

  test("[LO6] a peer that has the snapshot, and one with nothing, cost no document", () => {
    const events = line(6);
    const folded = model.fold(undefined, events.slice(0, 5));
    const quick = { ...folded, snapshot: undefined, tail: events.slice(5) };
    const at = (count: number) => model.fold(undefined, events.slice(0, count)).peerVersion;
    expect(model.diff!(quick, at(5))).toBe(events[5]);
    expect(model.diff!(quick, at(4))).toBeUndefined();
    expect(model.diff!({ ...folded, tail: [] }, at(0))).toBe(folded.snapshot);
    for (const bad of [Uint8Array.of(1, 5, 3), Uint8Array.of(2, 5, 2, 5, 2), Uint8Array.of(0, 0)]) {
      expect(() => model.diff!(quick, bad)).toThrow();
    }
  });
});

test("[LO7] the worker address makes the same model again", async () => {
  const { worker } = loro({ shallow: { keepOps: 3 } });
  // Beside the sources lies the TypeScript file of the same name.
  const module = (await import(worker!.module.replace(/\.js$/, ".ts"))) as Record<string, typeof loro>;
  expect(module[worker!.export]!(worker!.options as never).worker!.options).toEqual({
    shallow: { keepOps: 3 },
  });
});

test("[LO8] restored is replayed: any cut into snapshot and tail shows the same, and versions tell contents apart", () => {
  fc.assert(
    fc.property(seeds, (seed) => {
      const chance = seeded(seed);
      const { events, docs } = writeTogether(chance, 3, 30, 0.05);
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
      const list = docs[0]!.getText("text");
      const before = model.version(docs[0]!);
      if (list.length > 0) list.delete(0, list.length);
      docs[0]!.commit();
      if (docs[0]!.getPendingTxnLength() === 0 && !equalBytes(before, model.version(docs[0]!))) {
        expect(text(docs[0])).toBe("");
      }
      expect(doc.peerIdStr).not.toBe(whole.peerIdStr);
    }),
    { seed: SEED, numRuns: 20 },
  );
});

test("[LO9] the snapshot of many small updates is as small as that of a document that was written in one go", () => {
  const events: Uint8Array[] = [];
  const doc = new LoroDoc();
  doc.subscribeLocalUpdates((update) => void events.push(update));
  const body = doc.getText("text");
  const chance = seeded(1);
  for (let [i, at] = [0, 0]; i < 2000; i++) {
    if (chance() < 0.05) at = below(chance, body.length + 1);
    if (chance() < 0.2 && at > 0) body.delete(--at, 1);
    else body.insert(at++, " etaoinshrdlu"[below(chance, 13)]!);
    doc.commit();
  }
  const imported = new LoroDoc();
  imported.importBatch(events);
  const { snapshot, version } = model.fold(undefined, events);
  expect(snapshot.length).toBeLessThan(imported.export({ mode: "snapshot" }).length * 0.95);
  expect([version, text(model.restore(snapshot))]).toEqual([model.version(doc), body.toString()]);
});
