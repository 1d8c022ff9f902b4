/**
 * The event graphs and the tree behind the golden batches and snapshots: two replicas that write at once, undo and
 * redo, payloads of every kind and of two schema versions, and a snapshot of every shape.
 *
 * Everything is written under a simulated environment. Invariant: a step that is here stays as it is.
 */

import {
  type GraphDocument,
  type GraphEvent,
  type GraphModel,
  graph,
  type TreeDocument,
  tree,
} from "coppice";
import { type SimulatedEnv, simulatedEnv } from "coppice/testing";

/** The state is what happened, in order, so that nothing of an event goes unseen. */
export type Line = readonly unknown[];
type LineDoc = GraphDocument<Line, unknown>;

const append = (state: Line, payload: unknown): Line => [...state, payload];

/** The model that writes: version 1, and from the second half on version 2. */
export function lines(version: 1 | 2, env: SimulatedEnv = simulatedEnv(1), window = 4096) {
  return graph<Line, unknown>({
    name: "lines",
    initial: [],
    apply: append,
    version,
    window,
    env,
    upcast: (payload, from) => ({ from, payload }),
    upcastState: (state, from) => ["state of", from, ...(state as Line)],
  });
}

export interface Made {
  readonly batches: Record<string, readonly GraphEvent<unknown>[]>;
  readonly snapshots: Record<string, Uint8Array>;
}

export const model = (name: string): GraphModel<unknown, unknown> =>
  (name.startsWith("tree") ? tree({ env: simulatedEnv(1) }) : lines(2)) as unknown as GraphModel<
    unknown,
    unknown
  >;

const VALUES = [
  ...[null, true, false, 0, 95, 96, -1, -200, 2 ** 40, 0.5, -1e300, "", "text", "ünïcode 😀", "text"],
  ...[Uint8Array.of(0, 255), [], [1, [2, ["three"]]], Array.from({ length: 20 }, (_, index) => index)],
  ...[{}, { a: 1, b: { c: [null] } }, { a: 2, b: { c: [] } }, "x".repeat(100)],
];

export function makeGraphs(): Made {
  const env = simulatedEnv(1);
  const one = lines(1, env);
  const [a, b] = [one.create(), one.create()];
  const made: Record<string, readonly GraphEvent<unknown>[]> = {};
  const snapshots: Record<string, Uint8Array> = {};
  const emit = (doc: LineDoc, payload: unknown) => {
    env.advance(1000);
    return doc.emit(payload);
  };
  made["graph: one replica"] = VALUES.map((value) => emit(a, value));
  one.apply(b, made["graph: one replica"]);
  snapshots["graph: critical"] = one.snapshot(a);
  const branches = [
    [emit(a, "a1"), emit(a, "a2")],
    [emit(b, "b1"), emit(b, "b2"), emit(b, "b3")],
  ] as const;
  for (const [from, to] of [
    [0, b],
    [1, a],
  ] as const)
    one.apply(to, branches[from]);
  made["graph: two branches"] = [...branches[0], ...branches[1]];
  snapshots["graph: open branches"] = one.snapshot(a);
  const before = a.events().length;
  a.change(() => {
    for (const word of ["undone", "together"]) emit(a, word);
  });
  a.undo();
  a.redo();
  a.undo();
  emit(a, "after");
  made["graph: undo and redo"] = a.events().slice(before);
  const two = lines(2, env, 3);
  const later = two.restore(one.snapshot(a));
  made["graph: version 2"] = ["new", "newer", "newest"].map((word) => emit(later, word));
  for (let index = 0; index < 12; index++) emit(later, index);
  snapshots["graph: with a past"] = two.snapshot(later);
  const trees = tree({ env });
  const [left, right] = [trees.create(), trees.create()];
  makeTree(left, env);
  made.tree = left.events() as readonly GraphEvent<unknown>[];
  trees.apply(right, left.events());
  right.update("n2", { title: "by another" });
  env.advance(1000);
  left.move("n2", { parent: "n3" });
  right.move("n3", { parent: "n2" });
  const tail = right.events().slice(-2);
  snapshots["tree: critical"] = trees.snapshot(trees.restore(trees.snapshot(left)));
  trees.apply(left, tail);
  made["tree: a cycle refused"] = left.events().slice(-3) as readonly GraphEvent<unknown>[];
  snapshots["tree: open branches"] = trees.snapshot(left);
  return { batches: made, snapshots };
}

function makeTree(doc: TreeDocument, env: SimulatedEnv): void {
  for (const [index, id] of ["n1", "n2", "n3", "n4"].entries()) {
    env.advance(1000);
    doc.put({ id, attributes: { title: `node ${index}`, order: index, done: index % 2 === 0 } });
  }
  doc.put({ id: "child", parent: "n1", index: 0 });
  doc.move("n4", { before: "n2" });
  doc.update("n1", { title: "renamed", extra: "text" });
  doc.delete("child");
  doc.delete("n4");
  doc.undo();
}
