import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";
import { expect, test } from "vitest";
import * as Y from "yjs";
import { below, seeded, shuffled } from "../../../test/support/chance.js";
import { yjs } from "../src/index.js";

// Two people who typed into one document at once. Without the recording the random tests stand alone.

interface Recording {
  readonly endContent: string;
  readonly txns: readonly {
    readonly parents: readonly number[];
    readonly agent: number;
    readonly patches: readonly (readonly [position: number, deleted: number, inserted: string])[];
  }[];
}

const folder =
  process.env.COPPICE_TRACES ?? fileURLToPath(new URL("../../../../shared/traces", import.meta.url));
const path = `${folder}/friendsforever.json.gz`;

/** The first `count` transactions as Yjs updates, each written by its author's client on what it had seen. */
function replay(recording: Recording, count: number): Uint8Array[] {
  const updates: Uint8Array[] = [];
  const docs = [1, 2].map((clientID) => Object.assign(new Y.Doc(), { clientID }));
  const seen = docs.map(() => new Set<number>());
  for (const [index, { parents, agent, patches }] of recording.txns.slice(0, count).entries()) {
    const doc = docs[agent]!;
    const missing = [...parents];
    const order: number[] = [];
    while (missing.length > 0) {
      const next = missing.pop()!;
      if (seen[agent]!.has(next)) continue;
      seen[agent]!.add(next);
      order.push(next);
      missing.push(...recording.txns[next]!.parents);
    }
    for (const next of order.sort((a, b) => a - b)) Y.applyUpdate(doc, updates[next]!, "seen");
    const capture = (update: Uint8Array) => void updates.push(update);
    doc.on("update", capture);
    doc.transact(() => {
      for (const [position, deleted, inserted] of patches) {
        const text = doc.getText("text");
        if (deleted > 0) text.delete(position, deleted);
        if (inserted.length > 0) text.insert(position, inserted);
      }
    });
    doc.off("update", capture);
    seen[agent]!.add(index);
  }
  return updates;
}

test("[MD36] a recorded conversation folds to the same document in any order and slices", (context) => {
  context.skip(!existsSync(path), "the recordings are not on this machine");
  const recording = JSON.parse(gunzipSync(readFileSync(path)).toString()) as Recording;
  const updates = replay(recording, 4000);
  expect(updates.length).toBe(4000);
  const model = yjs();
  const whole = model.fold(undefined, updates);
  const plain = new Y.Doc();
  for (const update of updates) Y.applyUpdate(plain, update);
  const text = plain.getText("text").toString();
  expect(whole.version).toEqual(model.version(plain));
  expect(model.restore(whole.snapshot).getText("text").toString()).toBe(text);
  const random = seeded(5);
  for (const order of [[...updates].reverse(), shuffled(random, updates)]) {
    let waiting: Uint8Array[] = [];
    let snapshot: Uint8Array | undefined;
    while (order.length > 0) {
      const offered = [...waiting, ...order.splice(0, 1 + below(random, 900))];
      const folded = model.fold(snapshot, offered);
      snapshot = folded.snapshot;
      waiting = folded.held.map((index) => offered[index]!);
    }
    expect(waiting).toEqual([]);
    expect(model.restore(snapshot!).getText("text").toString()).toBe(text);
  }
  const doc = model.create();
  let collapses = 0;
  let previous = 0;
  for (const update of updates) {
    model.apply(doc, [update]);
    const size = model.frontierSize!(doc);
    if (previous > 1 && size === 1) collapses++;
    previous = size;
  }
  expect(collapses).toBeGreaterThan(0);
});
