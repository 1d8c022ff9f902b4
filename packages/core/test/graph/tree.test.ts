import { type EventId, isCoppiceError, type TreeData, type TreeDocument, tree } from "coppice";
import { type ModelSubject, modelCases, runCase } from "coppice/conformance";
import { simulatedEnv } from "coppice/testing";
import { describe, expect, test } from "vitest";
import {
  comparePositions,
  type Position,
  positionBetween,
  positionKey,
} from "../../src/graph/tree-position.js";
import { naiveTree, type PlainNode } from "./naive-tree.js";
import { type Chance, chanceOf, LONG, runNetwork, SCHEDULES } from "./network.js";

const pick = <T>(items: readonly T[], chance: Chance): T | undefined =>
  items.length === 0 ? undefined : chance.pick(items);

/** A random edit, undos and moves that are refused included. */
function edit(doc: TreeDocument, chance: Chance): void {
  const ids = doc.find().map(({ id }) => id);
  const kind = chance.below(12);
  const node = pick(ids, chance);
  if (kind === 0) doc.undo();
  else if (kind === 1) doc.redo();
  else if (node === undefined || kind < 6) {
    const parent = chance.chance(0.4) ? undefined : node;
    doc.put({
      ...(parent === undefined ? {} : { parent }),
      index: chance.below(4),
      attributes: { n: chance.below(9) },
    });
  } else if (kind < 7) doc.update(node, { n: chance.below(99), [chance.pick(["a", "b"])]: undefined });
  else if (kind < 8) doc.delete(node);
  else {
    const parent = chance.chance(0.2) ? "root" : chance.pick(ids);
    if (!doc.path(parent).some(({ id }) => id === node) && parent !== node) {
      doc.move(node, { parent, index: chance.below(4) });
    }
  }
}

const contentOf = (doc: Pick<TreeDocument, "toData">): string => JSON.stringify(doc.toData());

/** Every node hangs on the root or in the trash, once. */
function assertSound({ state }: TreeDocument): void {
  let count = 0;
  for (const top of ["root", ""]) {
    const waiting = [top];
    for (let parent = waiting.pop(); parent !== undefined; parent = waiting.pop()) {
      for (const { id } of state.children(parent)) {
        expect(++count).toBeLessThanOrEqual(state.count);
        waiting.push(id);
      }
    }
  }
  expect(count).toBe(state.count);
}

describe("[MD] tree", () => {
  const model = tree();
  const subject: ModelSubject<TreeDocument, never> = {
    name: "tree",
    model: model as never,
    edit: (doc, random) => {
      if (doc.find().length === 0) doc.put();
      else
        edit(doc, {
          ...random,
          below: (end) => random.below(end),
          chance: (share) => random.chance(share),
          pick: (items) => random.pick(items),
          shuffle: (items) => random.shuffle(items),
        });
      return doc;
    },
    remove: (doc, random) => {
      const ids = doc.find();
      if (ids.length === 0) return undefined;
      doc.delete(random.pick(ids).id);
      return doc;
    },
    content: contentOf,
    receiveDiff: (doc, answer) => model.receiveDiff(doc, answer).doc,
  };
  for (const item of modelCases) {
    test(item.name, (context) => runCase(item, subject, context.skip));
  }
});

describe("replicas that edit one tree at once", () => {
  test(
    "[TR1] all end with the tree of a twin that sorts and folds everything, without cycle or loss",
    LONG,
    () => {
      for (let seed = 1; seed <= SCHEDULES; seed++) {
        const model = tree({ env: simulatedEnv(seed) });
        const { peers, events } = runNetwork(model, chanceOf(seed), edit);
        const expected = naiveTree(events);
        for (const { doc, held } of peers) {
          expect(held).toEqual([]);
          assertSound(doc);
          expect(plain(doc.toData()), `seed ${seed}`).toEqual(expected);
          const restored = model.restore(model.snapshot(doc));
          assertSound(restored);
          expect(contentOf(restored), `seed ${seed}`).toBe(contentOf(doc));
        }
      }
    },
  );

  test("[TR2] the tree at any version is that of a twin with exactly its events", LONG, () => {
    for (let seed = 1; seed <= SCHEDULES / 3; seed++) {
      const chance = chanceOf(seed);
      const model = tree({ env: simulatedEnv(seed) });
      const { peers, events } = runNetwork(model, chance, edit);
      const { doc } = chance.pick(peers);
      const now = contentOf(doc);
      for (let round = 0; round < 6; round++) {
        const heads = [chance.pick(events), chance.pick(events)];
        const inside = new Set(heads.flatMap((head) => [keyOf(head), ...doc.ancestors(head).map(keyOf)]));
        const expected = naiveTree(events.filter((event) => inside.has(keyOf(event))));
        expect(plain(doc.at(heads).toData()), `seed ${seed}`).toEqual(expected);
        expect(contentOf(doc)).toBe(now);
      }
    }
  });

  test("[TR3] with a small window the trash is emptied, and no tree changes by it", LONG, () => {
    for (let seed = 1; seed <= SCHEDULES / 3; seed++) {
      const chance = chanceOf(seed);
      const env = simulatedEnv(seed);
      const [small, large] = [tree({ env, window: 6 }), tree({ env, window: Number.POSITIVE_INFINITY })];
      const author = large.create();
      const tracker = large.track(author);
      const reader = small.create();
      for (let step = 0; step < 60; step++) {
        edit(author, chance);
        small.apply(reader, tracker.take(author));
        expect(contentOf(reader), `seed ${seed}`).toBe(contentOf(author));
      }
      const restored = small.restore(small.snapshot(reader));
      expect(contentOf(restored)).toBe(contentOf(author));
      assertSound(reader);
      assertSound(restored);
    }
  });
});

const keyOf = ({ replica, sequence }: EventId): string => `${replica}.${sequence}`;

function plain(data: readonly TreeData[]): PlainNode[] {
  return data.map(({ id, attributes, children }) => ({
    id: id!,
    attributes: { ...attributes },
    children: plain(children ?? []),
  }));
}

describe("moves", () => {
  test("[TR4] of two moves that would make a cycle one stays without effect, and counts when the other is undone", () => {
    const model = tree();
    const [one, two] = [model.create(), model.create()];
    one.fromData([{ id: "a" }, { id: "b" }]);
    model.apply(two, one.events());
    one.move("a", { parent: "b" });
    two.move("b", { parent: "a" });
    model.apply(one, two.events());
    model.apply(two, one.events());
    expect(contentOf(one)).toBe(contentOf(two));
    expect(one.find().length).toBe(2);
    const winner = one.get("a")!.parent === "b" ? one : two;
    const [child, parent] = winner === one ? ["b", "a"] : ["a", "b"];
    expect(winner.undo()).toBe(true);
    expect(winner.get(child!)!.parent).toBe(parent);
    expect(winner.get(parent!)!.parent).toBe("root");
    const other = winner === one ? two : one;
    model.apply(other, winner.events());
    expect(contentOf(other)).toBe(contentOf(winner));
  });

  test("[TR5] a part that somebody moves away while another deletes the whole is kept", () => {
    const model = tree();
    const [one, two] = [model.create(), model.create()];
    one.fromData([{ id: "list", children: [{ id: "card" }, { id: "other" }] }]);
    model.apply(two, one.events());
    one.delete("list");
    two.move("card", { parent: "root" });
    model.apply(one, two.events());
    model.apply(two, one.events());
    for (const doc of [one, two]) expect(doc.find().map(({ id }) => id)).toEqual(["card"]);
    one.undo();
    expect(
      one
        .find()
        .map(({ id }) => id)
        .sort(),
    ).toEqual(["card", "list", "other"]);
  });

  test("[TR6] what cannot be is refused, and nothing has changed", () => {
    const model = tree();
    const doc = model.create();
    doc.fromData([{ id: "a", children: [{ id: "b" }] }, { id: "c" }]);
    doc.delete("c");
    const tracker = model.track(doc);
    const before = contentOf(doc);
    const wrong: (() => unknown)[] = [
      () => doc.move("a", { parent: "b" }),
      () => doc.move("a", { parent: "a" }),
      () => doc.move("x", { parent: "a" }),
      () => doc.move("a", { before: "a" }),
      () => doc.put({ parent: "c" }),
      () => doc.put({ parent: "x" }),
      () => doc.put({ id: "a" }),
      () => doc.put({ id: "root" }),
      () => doc.put({ id: "" }),
      () => doc.put({ after: "b", parent: "root" }),
      () => doc.put({ index: -1 }),
      () => doc.put({ attributes: { when: new Date() } }),
      () => doc.update("c", { n: 1 }),
      () => doc.delete("c"),
      () => doc.fromData([{ id: "d" }, { id: "d" }]),
    ];
    for (const call of wrong) {
      try {
        call();
        expect.unreachable(String(call));
      } catch (error) {
        expect(isCoppiceError(error, "ARGUMENT_INVALID"), `${call}: ${error}`).toBe(true);
      }
    }
    expect(contentOf(doc)).toBe(before);
    expect(tracker.pending(doc)).toBe(false);
  });
});

describe("the order of children", () => {
  test("[TR7] what two insert at one place at once does not mix, forwards or backwards", () => {
    for (const backwards of [false, true]) {
      const model = tree();
      const base = model.create();
      base.fromData([{ id: "first" }, { id: "last" }]);
      const docs = ["x", "y", "z"].map((name) => {
        const doc = model.create();
        model.apply(doc, base.events());
        let near = backwards ? "last" : "first";
        for (let i = 0; i < 8; i++)
          near = doc.put({ id: `${name}${i}`, ...(backwards ? { before: near } : { after: near }) });
        return doc;
      });
      for (const doc of docs) for (const other of docs) model.apply(doc, other.events());
      const orders = docs.map((doc) =>
        doc
          .children()
          .map(({ id }) => id)
          .join(" "),
      );
      expect(new Set(orders).size).toBe(1);
      const names = orders[0]!
        .split(" ")
        .slice(1, -1)
        .map((id) => id[0])
        .join("");
      expect(names).toMatch(/^(?:x{8}|y{8}|z{8}){3}$/);
    }
  });

  test("[TR8] a node lands exactly where it was put or moved", () => {
    for (let seed = 1; seed <= 20; seed++) {
      const chance = chanceOf(seed);
      const model = tree();
      let doc = model.create();
      const expected: string[] = [];
      for (let step = 0; step < 120; step++) {
        if (chance.chance(0.1)) doc = model.restore(model.snapshot(doc));
        const index = chance.below(expected.length + 1);
        if (expected.length < 3 || chance.chance(0.7)) expected.splice(index, 0, doc.put({ index }));
        else {
          const [moved] = expected.splice(chance.below(expected.length), 1);
          const place = chance.below(expected.length);
          const beside = expected[place]!;
          const before = chance.chance(0.5);
          doc.move(moved!, before ? { before: beside } : { after: beside });
          expected.splice(before ? place : place + 1, 0, moved!);
        }
        expect(
          doc.children().map(({ id }) => id),
          `seed ${seed}`,
        ).toEqual(expected);
      }
    }
  });

  test("[TR9] positions stay short while many sessions append", () => {
    const model = tree();
    let doc = model.create();
    for (let session = 0; session < 300; session++) {
      doc = model.restore(model.snapshot(doc));
      doc.put({ id: `s${session}` });
      doc.put({ id: `t${session}`, index: 0 });
    }
    const lengths = doc.state.children("root").map((node) => positionKey(node).length);
    expect(Math.max(...lengths)).toBeLessThan(24);
    expect(doc.children().length).toBe(600);
  });

  test("[TR8] positions compare as their texts do, also where runs hang below each other", () => {
    for (let seed = 0; seed < 50; seed++) {
      const chance = chanceOf(seed);
      const replicas = ["00000000000a", "00000000000b", "0000000000aa"];
      const sorted: Position[] = [];
      for (let step = 0; step < 60; step++) {
        const place = chance.below(sorted.length + 1);
        const replica = replicas[chance.below(replicas.length)]!;
        sorted.splice(place, 0, positionBetween(sorted[place - 1], sorted[place], replica));
      }
      for (const a of sorted) {
        for (const b of sorted) {
          const [left, right] = [positionKey(a), positionKey(b)];
          const byText = left === right ? 0 : left < right ? -1 : 1;
          expect(Math.sign(comparePositions(a, b)), `seed ${seed}: ${left}, ${right}`).toBe(byText);
        }
      }
    }
  });
});

test("[TR10] plain data goes in and comes out unchanged when it names its ids", () => {
  const data: TreeData[] = [
    {
      id: "a",
      attributes: { title: "Ä", n: -1.5, done: true, tags: ["x", null] },
      children: [
        { id: "b", attributes: {}, children: [] },
        {
          id: "c",
          attributes: { bytes: Uint8Array.of(1, 2) },
          children: [{ id: "d", attributes: {}, children: [] }],
        },
      ],
    },
    { id: "e", attributes: {}, children: [] },
  ];
  const model = tree();
  const doc = model.create();
  expect(doc.fromData(data)).toEqual(["a", "e"]);
  expect(doc.toData()).toEqual(data);
  expect(doc.toData("a")).toEqual(data[0]!.children);
  const copy = model.restore(model.snapshot(doc));
  expect(copy.toData()).toEqual(data);
  expect(doc.undo()).toBe(true);
  expect(doc.toData()).toEqual([]);
});

test("[TR11] undo takes back own steps alone, and redo puts them back, until something new is done", () => {
  const model = tree();
  const [one, two] = [model.create(), model.create()];
  one.put({ id: "a", attributes: { n: 1 } });
  model.apply(two, one.events());
  one.update("a", { n: 2 });
  two.update("a", { m: 3 });
  model.apply(one, two.events());
  expect(one.undo()).toBe(true);
  expect(one.get("a")!.attributes).toEqual({ n: 1, m: 3 });
  expect(one.redo()).toBe(true);
  expect(one.get("a")!.attributes).toEqual({ n: 2, m: 3 });
  one.undo();
  one.update("a", { n: 4 });
  expect([one.canRedo, one.redo()]).toEqual([false, false]);
  expect(one.undo() && one.undo()).toBe(true);
  expect(one.has("a")).toBe(false);
  expect([one.canUndo, one.undo()]).toEqual([false, false]);
  model.apply(two, one.events());
  expect(two.has("a")).toBe(false);
  expect(two.canUndo).toBe(true);
});

test("[TR12] a step that throws is taken back whole, and nobody hears of it", () => {
  const model = tree();
  const doc = model.create();
  doc.put({ id: "a" });
  const [before, version] = [contentOf(doc), model.version(doc)];
  const tracker = model.track(doc);
  expect(() =>
    model.change(doc, (each) => {
      each.put({ id: "b" });
      each.undo();
      each.move("a", { parent: "nowhere" });
    }),
  ).toThrow("no such node");
  expect([contentOf(doc), model.version(doc), tracker.take(doc)]).toEqual([before, version, []]);
  expect(doc.undo()).toBe(true);
  expect(doc.has("a")).toBe(false);
});
