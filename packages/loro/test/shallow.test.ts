import { DocumentStorage, memoryBackend, never } from "coppice";
import fc from "fast-check";
import { LoroDoc, type OpId } from "loro-crdt";
import { expect, test } from "vitest";
import { below, seeded } from "../../../test/support/chance.js";
import { loro } from "../src/index.js";
import { criticalVersion } from "../src/shallow.js";
import { contentOf, editDoc, writeTogether } from "./editing.js";

const SEED = Number(process.env.COPPICE_SEED ?? 1);
const seeds = fc.integer({ min: 1, max: 2 ** 31 });

const idOf = ({ peer, counter }: OpId) => `${counter}@${peer}`;

/** Every operation with all operations in its past, by brute force. */
function pastsOf(doc: LoroDoc): Map<string, Set<string>> {
  const parents = new Map<string, string[]>();
  for (const change of [...doc.getAllChanges().values()].flat()) {
    for (let i = 0; i < change.length; i++) {
      const id = { peer: change.peer, counter: change.counter + i };
      const before = id.counter > 0 ? [idOf({ peer: id.peer, counter: id.counter - 1 })] : [];
      parents.set(idOf(id), [...before, ...(i === 0 ? change.deps.map(idOf) : [])]);
    }
  }
  const pasts = new Map<string, Set<string>>();
  for (const id of parents.keys()) {
    const past = new Set([id]);
    for (const each of past) for (const parent of parents.get(each) ?? []) past.add(parent);
    pasts.set(id, past);
  }
  return pasts;
}

/** Every operation that is a critical version: each other one is in its past, or has it in its own. */
function criticalOnes(pasts: ReadonlyMap<string, ReadonlySet<string>>): string[] {
  return [...pasts.keys()].filter((id) =>
    [...pasts.keys()].every((other) => pasts.get(id)!.has(other) || pasts.get(other)!.has(id)),
  );
}

test("[LO4] a cut is a critical version of the history, by brute force, and none newer at a change's end is", () => {
  let found = 0;
  fc.assert(
    fc.property(seeds, (seed) => {
      const chance = seeded(seed);
      const { events } = writeTogether(chance, 1 + below(chance, 3), 2 + below(chance, 16), 0.2);
      const doc = new LoroDoc();
      doc.importBatch(events);
      const pasts = pastsOf(doc);
      const opsMin = below(chance, 6);
      const ends = [...doc.getAllChanges().values()]
        .flat()
        .map(({ peer, counter, length }) => idOf({ peer, counter: counter + length - 1 }));
      const fit = criticalOnes(pasts).filter(
        (id) => ends.includes(id) && pasts.size - pasts.get(id)!.size >= opsMin,
      );
      const newest = fit.reduce<string | undefined>(
        (best, id) => (best === undefined || pasts.get(id)!.has(best) ? id : best),
        undefined,
      );
      const cut = criticalVersion(doc, opsMin);
      expect(cut === undefined ? undefined : idOf(cut)).toBe(newest);
      if (cut !== undefined) found++;
    }),
    { seed: SEED, numRuns: 80 },
  );
  expect(found).toBeGreaterThan(15);
});

test("[LO4] a shallow snapshot shows what the whole one shows, and takes every event that had seen the cut", () => {
  let shallowCount = 0;
  fc.assert(
    fc.property(seeds, fc.integer({ min: 0, max: 12 }), (seed, keepOps) => {
      const chance = seeded(seed);
      const [whole, model] = [loro(), loro({ shallow: { keepOps } })];
      const { events, docs } = writeTogether(chance, 3, 20, 0.15);
      const doc = whole.create();
      whole.apply(doc, events);
      const restored = model.restore(model.snapshot(doc));
      expect(model.version(restored)).toEqual(whole.version(doc));
      expect(contentOf(restored)).toBe(contentOf(doc));
      if (restored.isShallow()) shallowCount++;
      const peer = docs[below(chance, 3)]!;
      const root = restored.shallowSinceFrontiers();
      if (restored.isShallow() && !root.every((id) => (peer.oplogVersion().get(id.peer) ?? 0) > id.counter))
        return;
      const before = peer.oplogVersion();
      for (let i = 0; i < 5; i++) editDoc(peer, chance);
      const { held, refused } = model.apply(restored, [peer.export({ mode: "update", from: before })]);
      expect([held, refused]).toEqual([[], []]);
    }),
    { seed: SEED, numRuns: 50 },
  );
  expect(shallowCount).toBeGreaterThan(10);
});

test("[LO5] an event of a replica that had not seen the cut is refused with its reason, kept, and nothing else is lost", async () => {
  const storage = await DocumentStorage.open({
    backend: memoryBackend(),
    models: [loro({ shallow: { keepOps: 0 } })],
    snapshotPolicy: never,
  });
  const handle = await storage.open("d");
  handle.doc.getText("text").insert(0, "one");
  await handle.save();
  const offline = new LoroDoc();
  offline.import(handle.doc.export({ mode: "update" }));
  handle.doc.getText("text").insert(3, " two");
  await handle.save();
  expect((await storage.compact("d")).outcome).toBe("compacted");
  const before = offline.oplogVersion();
  offline.getText("text").insert(0, "late ");
  const late = offline.export({ mode: "update", from: before });
  await storage.append("d", [late]);
  handle.doc.getText("text").insert(7, " three");
  await handle.save();
  for (let round = 0; round < 2; round++) {
    const loaded = (await storage.load("d"))!;
    expect(loaded.doc.getText("text").toString()).toBe("one two three");
    expect(
      loaded.held.map(({ clock, event, reason }) => ({ clock, event, known: reason?.includes("shallow") })),
    ).toEqual([{ clock: 2, event: late, known: true }]);
    await storage.compact("d", { force: true });
    expect((await storage.check()).problems).toEqual([]);
  }
  // A peer older than the cut is told so; it would keep an answer pending without a word.
  await expect(storage.diff("d", before.encode())).rejects.toMatchObject({ code: "ARGUMENT_INVALID" });
  const fresh = new LoroDoc();
  fresh.import((await storage.diff("d", fresh.oplogVersion().encode()))!);
  expect(fresh.getText("text").toString()).toBe("one two three");
  await storage.close();
});

test("[LO5] how much history to keep must be a count", () => {
  for (const keepOps of [-1, 1.5, Number.NaN])
    expect(() => loro({ shallow: { keepOps } })).toThrow(RangeError);
});

test("[ST97] the model refuses options that there are not", () => {
  expect(() => loro({ shalow: { keepOps: 1 } } as never)).toThrow("loro has no option shalow");
});
