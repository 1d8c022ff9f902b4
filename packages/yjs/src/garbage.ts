/**
 * Decides what Yjs may collect, so that its collector never throws.
 *
 * Collecting a type, Yjs goes through its children and throws when one is not deleted; a document in that
 * state stays broken. Honest histories never lead there; two different structs under one id (a client id used
 * twice) can. Such types are left uncollected: they cost memory, nothing else.
 */

import * as Y from "yjs";

/** For `gcFilter` of a Y.Doc. Costs what collecting costs. */
export function isCollectable(item: Y.Item): boolean {
  const waiting: Y.Item[] = [item];
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    if (!next.deleted) return false;
    if (!(next.content instanceof Y.ContentType)) continue;
    const { _start, _map } = next.content.type;
    for (let child: Y.Item | null = _start; child !== null; child = child.right) waiting.push(child);
    for (const newest of _map.values()) {
      for (let child: Y.Item | null = newest; child !== null; child = child.left) waiting.push(child);
    }
  }
  return true;
}

const guarded = new WeakSet<Y.Doc>();

/** Lets a Y.Doc that somebody else made collect only what can be. What its own filter keeps stays kept. */
export function guardGarbage(doc: Y.Doc): void {
  if (guarded.has(doc)) return;
  guarded.add(doc);
  const own = doc.gcFilter;
  doc.gcFilter = (item) => own(item) && isCollectable(item);
}
