/**
 * A random editor that uses every kind of container Loro has, for the tests of this package.
 */

import { LoroDoc, LoroMap, LoroText } from "loro-crdt";
import { below, type Chance, WORDS } from "../../../test/support/chance.js";

/** The place itself, or the one before it when it lies inside of a surrogate pair, where Loro takes no edit. */
function between(text: string, at: number): number {
  const unit = text.charCodeAt(at);
  return unit >= 0xdc00 && unit <= 0xdfff ? at - 1 : at;
}

function editText(doc: LoroDoc, chance: Chance): void {
  const text = doc.getText("text");
  const shown = text.toString();
  const at = between(shown, below(chance, shown.length + 1));
  const count = between(shown, Math.min(shown.length, at + below(chance, 4))) - at;
  switch (below(chance, 5)) {
    case 0:
      if (count > 0) text.delete(at, count);
      return;
    case 1:
      if (count > 0) text.mark({ start: at, end: at + count }, "bold", chance() < 0.5);
      return;
    default:
      text.insert(at, WORDS[below(chance, WORDS.length)]!);
  }
}

function editMap(doc: LoroDoc, chance: Chance): void {
  const map = doc.getMap("map");
  const key = `k${below(chance, 4)}`;
  const values = [1, -2.5, null, "text", [1, { deep: [true] }], Uint8Array.of(1, 2)];
  const choice = below(chance, 9);
  if (choice === 0) map.delete(key);
  else if (choice === 1) map.setContainer(key, new LoroMap()).set("inner", below(chance, 9));
  else if (choice === 2) map.setContainer(key, new LoroText()).insert(0, "inner");
  else map.set(key, values[below(chance, values.length)] as never);
}

function editList(doc: LoroDoc, chance: Chance): void {
  const list = doc.getList("list");
  if (list.length > 0 && chance() < 0.3) list.delete(below(chance, list.length), 1);
  else list.insert(below(chance, list.length + 1), below(chance, 99));
}

function editMovable(doc: LoroDoc, chance: Chance): void {
  const list = doc.getMovableList("movable");
  const at = below(chance, list.length);
  const choice = list.length === 0 ? 9 : below(chance, 6);
  if (choice === 0) list.delete(at, 1);
  else if (choice === 1) list.set(at, "set");
  else if (choice < 4) list.move(at, below(chance, list.length));
  else list.insert(below(chance, list.length + 1), below(chance, 99));
}

function editTree(doc: LoroDoc, chance: Chance): void {
  const tree = doc.getTree("tree");
  const nodes = tree.getNodes({ withDeleted: false });
  const node = nodes[below(chance, nodes.length)];
  if (node === undefined || chance() < 0.4) tree.createNode().data.set("name", below(chance, 99));
  else if (chance() < 0.2) tree.delete(node.id);
  else {
    const target = nodes[below(chance, nodes.length)]!;
    const path = new Set<string>();
    for (let up: typeof target | undefined = target; up !== undefined; up = up.parent()) path.add(up.id);
    if (!path.has(node.id)) node.move(target);
  }
}

/** One random edit, committed. It may change nothing; on an empty document it adds something. */
export function editDoc(doc: LoroDoc, chance: Chance): void {
  const empty = doc.opCount() === 0;
  const choice = empty ? -1 : below(chance, 8);
  if (choice === -1) doc.getText("text").insert(0, "first");
  else if (choice === 0) editMap(doc, chance);
  else if (choice === 1) editList(doc, chance);
  else if (choice === 2) editMovable(doc, chance);
  else if (choice === 3) editTree(doc, chance);
  else editText(doc, chance);
  doc.commit();
}

/** Everything a reader can see, as text. */
export function contentOf(doc: LoroDoc): string {
  const { text: _, ...rest } = doc.toJSON() as Record<string, unknown>;
  const shown = Object.fromEntries(Object.entries(rest).filter(([, value]) => !isEmpty(value)));
  return JSON.stringify([doc.getText("text").toDelta(), sorted(shown)]);
}

/** A container that was only looked at shows as an empty one. */
function isEmpty(value: unknown): boolean {
  return typeof value === "object" && value !== null && Object.keys(value).length === 0;
}

function sorted(value: unknown): unknown {
  if (value instanceof Uint8Array) return [...value];
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map(sorted);
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([key, inner]) => [key, sorted(inner)]));
}

/**
 * Peers edit at once and exchange what they have now and then, with `meeting` as the chance that all of them do.
 * Events in the order they were made.
 */
export function writeTogether(chance: Chance, peerCount: number, editCount: number, meeting = 0) {
  const events: Uint8Array[] = [];
  const docs = Array.from({ length: peerCount }, () => {
    const doc = new LoroDoc();
    doc.subscribeLocalUpdates((update) => void events.push(update));
    return doc;
  });
  const tell = (from: LoroDoc, to: LoroDoc) => {
    if (from !== to) to.import(from.export({ mode: "update", from: to.oplogVersion() }));
  };
  for (let i = 0; i < editCount; i++) {
    const doc = docs[below(chance, peerCount)]!;
    editDoc(doc, chance);
    if (chance() < 0.15) tell(doc, docs[below(chance, peerCount)]!);
    if (chance() >= meeting && (i > 0 || meeting === 0)) continue;
    for (const other of docs) tell(other, doc);
    for (const other of docs) tell(doc, other);
  }
  return { events, docs };
}
