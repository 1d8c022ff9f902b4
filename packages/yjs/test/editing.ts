/**
 * A random editor that uses every kind of content Yjs has, for the tests of this package.
 */

import * as Y from "yjs";
import { below, type Chance, WORDS } from "../../../test/support/chance.js";

function word(random: Chance): string {
  return WORDS[below(random, WORDS.length)]!;
}

function editText(text: Y.Text, random: Chance): void {
  const at = below(random, text.length + 1);
  const count = below(random, Math.min(6, text.length - at) + 1);
  switch (below(random, 8)) {
    case 0:
    case 1:
      if (count > 0) text.delete(at, count);
      return;
    case 2:
      if (count > 0) text.format(at, count, { bold: random() < 0.5 ? true : null });
      return;
    case 3:
      text.insertEmbed(at, { image: word(random) });
      return;
    case 4:
      text.insert(at, word(random), { italic: true });
      return;
    default:
      text.insert(at, word(random));
  }
}

function editMap(map: Y.Map<unknown>, random: Chance): void {
  const key = `k${below(random, 4)}`;
  const values = [1, -2.5, null, "text", [1, { deep: [true] }], Uint8Array.of(1, 2), 12345678901n, undefined];
  const choice = below(random, 12);
  if (choice === 0) map.delete(key);
  else if (choice === 1) map.set(key, new Y.Map([["inner", word(random)]]));
  else if (choice === 2) map.set(key, new Y.Text(word(random)));
  else if (choice === 3) map.set(key, new Y.Doc({ guid: `sub${below(random, 9)}`, meta: { by: "test" } }));
  else map.set(key, values[below(random, values.length)]);
  const inner = map.get(`k${below(random, 4)}`);
  if (inner instanceof Y.Text) editText(inner, random);
  else if (inner instanceof Y.Map) inner.set("n", below(random, 9));
}

function editArray(array: Y.Array<unknown>, random: Chance): void {
  const at = below(random, array.length + 1);
  if (random() < 0.3 && at < array.length) array.delete(at, 1);
  else if (random() < 0.2) array.insert(at, [new Y.Array(), new Y.Map()]);
  else array.insert(at, [below(random, 9), word(random), { x: 1 }]);
}

function editXml(xml: Y.XmlFragment, random: Chance): void {
  const at = below(random, xml.length + 1);
  if (random() < 0.25 && at < xml.length) {
    xml.delete(at, 1);
    return;
  }
  const some = xml.length > 0 ? xml.get(below(random, xml.length)) : undefined;
  if (some instanceof Y.XmlElement && random() < 0.5) {
    some.setAttribute("id", word(random));
    if (random() < 0.5) editXml(some, random);
  } else if (some instanceof Y.XmlText && random() < 0.5) editText(some, random);
  else xml.insert(at, [random() < 0.5 ? new Y.XmlElement("p") : new Y.XmlText(word(random))]);
}

/** One random local edit, in one transaction. It may change nothing. */
export function editDoc(doc: Y.Doc, random: Chance): void {
  doc.transact(() => {
    switch (below(random, 7)) {
      case 0:
        return editMap(doc.getMap("map"), random);
      case 1:
        return editArray(doc.getArray("array"), random);
      case 2:
        return editXml(doc.getXmlFragment("xml"), random);
      default:
        return editText(doc.getText("text"), random);
    }
  });
}

/** Everything a reader can see, for comparing documents. */
export function contentOf(doc: Y.Doc): unknown {
  return {
    text: doc.getText("text").toDelta().map(plain),
    map: plain(doc.getMap("map").toJSON()),
    array: plain(doc.getArray("array").toJSON()),
    xml: doc.getXmlFragment("xml").toString(),
  };
}

function plain(value: unknown): unknown {
  if (value instanceof Y.Doc) return { subdocument: value.guid };
  if (value instanceof Uint8Array || value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map(plain);
  return Object.fromEntries(
    Object.entries(value)
      .sort()
      .map(([key, inner]) => [key, plain(inner)]),
  );
}

export interface Writing {
  /** Updates of all clients, in the order they were made. */
  readonly events: Uint8Array[];
  readonly docs: Y.Doc[];
}

/** Clients with fixed ids edit at once and exchange what they have now and then. */
export function writeTogether(random: Chance, clientCount: number, editCount: number, gc = true): Writing {
  const events: Uint8Array[] = [];
  const docs = Array.from({ length: clientCount }, (_, i) => {
    const doc = new Y.Doc({ gc });
    doc.clientID = 1000 + i;
    doc.on("update", (update: Uint8Array, origin: unknown) => {
      if (origin !== "sync") events.push(update);
    });
    return doc;
  });
  for (let i = 0; i < editCount; i++) {
    editDoc(docs[below(random, clientCount)]!, random);
    if (random() > 0.15) continue;
    const [from, to] = [docs[below(random, clientCount)]!, docs[below(random, clientCount)]!];
    if (from !== to) Y.applyUpdate(to, Y.encodeStateAsUpdate(from, Y.encodeStateVector(to)), "sync");
  }
  return { events, docs };
}
