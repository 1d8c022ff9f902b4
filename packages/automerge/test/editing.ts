/**
 * A random editor that uses every kind of value Automerge has, for the tests of this package.
 */

import * as Automerge from "@automerge/automerge";
import { below, type Chance, WORDS } from "../../../test/support/chance.js";

export interface Pad {
  text: string;
  list: unknown[];
  map: Record<string, unknown>;
  counter: Automerge.Counter;
}

export type Doc = Automerge.Doc<Pad>;

function value(chance: Chance): unknown {
  const values = [
    1,
    -2.5,
    true,
    null,
    "text",
    new Date(86_400_000),
    Uint8Array.of(1, 2),
    { deep: [1] },
    ["x"],
  ];
  return values[below(chance, values.length)];
}

function edit(pad: Pad, chance: Chance): void {
  const word = WORDS[below(chance, WORDS.length)]!;
  switch (below(chance, 9)) {
    case 0:
      pad.map[`k${below(chance, 4)}`] = value(chance);
      return;
    case 1:
      delete pad.map[`k${below(chance, 4)}`];
      return;
    case 2:
      pad.list.splice(below(chance, pad.list.length + 1), 0, value(chance));
      return;
    case 3:
      if (pad.list.length > 0) pad.list.splice(below(chance, pad.list.length), 1);
      return;
    case 4:
      pad.counter.increment(1 + below(chance, 3));
      return;
    case 5: {
      const at = below(chance, pad.text.length + 1);
      const count = Math.min(pad.text.length - at, below(chance, 4));
      if (count > 0) Automerge.splice(pad as Doc, ["text"], at, count);
      return;
    }
    case 6: {
      const range = { start: 0, end: Math.min(3, pad.text.length), expand: "both" as const };
      if (range.end > 0) Automerge.mark(pad as Doc, ["text"], range, "bold", chance() < 0.5);
      return;
    }
    default:
      Automerge.splice(pad as Doc, ["text"], below(chance, pad.text.length + 1), 0, word);
  }
}

/** One change with one random edit. It may change nothing. An empty document gets its shape first. */
export function editDoc(doc: Doc, chance: Chance): Doc {
  if (doc.text === undefined) {
    return Automerge.change(doc, { time: 0 }, (pad) => {
      pad.text = "first";
      pad.list = [];
      pad.map = {};
      pad.counter = new Automerge.Counter(0);
    });
  }
  return Automerge.change(doc, { time: 0 }, (pad) => edit(pad, chance));
}

/** Everything a reader can see, as text. */
export function contentOf(doc: Doc): string {
  const marks = doc.text === undefined ? [] : Automerge.marks(doc, ["text"]);
  return JSON.stringify([sorted(Automerge.toJS(doc)), marks]);
}

function sorted(value: unknown): unknown {
  if (value instanceof Uint8Array) return [...value];
  if (value instanceof Date) return value.toISOString();
  if (value instanceof Automerge.Counter) return { counter: value.value };
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map(sorted);
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([key, inner]) => [key, sorted(inner)]));
}

/** Actors edit at once and exchange what they have now and then. Events in the order they were made. */
export function writeTogether(chance: Chance, actorCount: number, editCount: number) {
  const events: Uint8Array[] = [];
  const start = editDoc(Automerge.init<Pad>(), chance);
  events.push(...Automerge.getAllChanges(start));
  const docs = Array.from({ length: actorCount }, () => Automerge.clone(start));
  for (let i = 0; i < editCount; i++) {
    const at = below(chance, actorCount);
    const before = Automerge.getHeads(docs[at]!);
    docs[at] = editDoc(docs[at]!, chance);
    events.push(...Automerge.getChangesSince(docs[at]!, before));
    if (chance() > 0.15) continue;
    const other = below(chance, actorCount);
    if (other !== at) docs[other] = Automerge.merge(docs[other]!, docs[at]!);
  }
  return { events, docs };
}
