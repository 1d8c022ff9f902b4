/**
 * What a document holds, for people: text where it is text, else indented JSON. For looking at, and for
 * comparing two states of one document; never to be read back.
 *
 * Yjs documents have named parts of a kind that no stored byte tells; it is read off their contents. Other
 * models' documents are one part.
 */

import { TreeDocument } from "coppice";
import * as Y from "yjs";
import type { ContentPart } from "./answers.js";

type Root = Pick<Y.Text, "_map" | "_start">;

/** The parts of a document of any model; of a Yjs document one for each root that has content. */
export function contentOf(doc: unknown): ContentPart[] {
  if (doc instanceof Y.Doc) return [...doc.share].map(([name, type]) => partOf(doc, name, type)).sort(byName);
  if (doc instanceof TreeDocument) return [json("", doc.toData())];
  return [json("", (doc as { readonly state?: unknown }).state ?? doc)];
}

/** A root that nobody has defined yet is a type without a kind: its first item that is left tells. */
function partOf(doc: Y.Doc, name: string, type: Root): ContentPart {
  if (type._map.size > 0) return json(name, doc.getMap(name).toJSON());
  let item = type._start;
  while (item?.deleted) item = item.right;
  const content = item?.content;
  if (content instanceof Y.ContentType && isXml(content.type))
    return { name, kind: "text", text: doc.getXmlFragment(name).toString() };
  const isText =
    content === undefined ||
    [Y.ContentString, Y.ContentFormat, Y.ContentEmbed].some((kind) => content instanceof kind);
  if (isText) return { name, kind: "text", text: doc.getText(name).toString() };
  return json(name, doc.getArray(name).toJSON());
}

function isXml(type: unknown): boolean {
  return type instanceof Y.XmlElement || type instanceof Y.XmlText || type instanceof Y.XmlHook;
}

function json(name: string, value: unknown): ContentPart {
  const text = JSON.stringify(value, (_key, found) => plain(found), 2) ?? "";
  return { name, kind: "json", text };
}

/** What JSON does not know. */
function plain(value: unknown): unknown {
  if (typeof value === "bigint") return String(value);
  if (value instanceof Map) return Object.fromEntries(value);
  if (value instanceof Set) return [...value];
  return value instanceof Uint8Array ? `${value.length} bytes` : value;
}

function byName(one: ContentPart, other: ContentPart): number {
  return one.name < other.name ? -1 : 1;
}
