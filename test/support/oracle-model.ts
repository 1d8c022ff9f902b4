/**
 * A model so small that a test knows by itself what a document must hold: a set of names.
 *
 * An event adds one name and may build on other names (`after`); until those are there it is held. A name that begins
 * with `!` is refused. Events are JSON text in UTF-8, so that a test finds the names again in stored bytes.
 *
 * Invariants: what a set holds does not depend on the order of its events; the same event twice is the same as once.
 */

import { type Applied, binaryCodec, type Folded, type Model, type Refusal, type Tracker } from "coppice";

export interface NameSet {
  /** Names, and what each builds on. */
  readonly names: Map<string, readonly string[]>;
  /** Events made here that nobody has taken yet. */
  readonly made: Uint8Array[];
}

/** The event that adds `name` once all of `after` are there. */
export function naming(name: string, after: readonly string[] = []): Uint8Array {
  return new TextEncoder().encode(JSON.stringify({ n: name, p: after }));
}

/** The names of all events whose bytes occur in a stored value, in order. */
export function namesIn(value: Uint8Array): string[] {
  const text = Buffer.from(value).toString("latin1");
  return [...text.matchAll(/\{"n":"([^"]*)"/g)].map((match) => match[1]!);
}

/** A local edit, for `handle.change`. */
export function add(name: string, after: readonly string[] = []): (set: NameSet) => void {
  return (set) => {
    set.names.set(name, after);
    set.made.push(naming(name, after));
  };
}

export function nameSet(): Model<NameSet> {
  return {
    name: "names",
    stateFormat: 1,
    create: () => ({ names: new Map(), made: [] }),
    restore,
    apply,
    change: (set, fn) => {
      fn(set);
      return set;
    },
    track,
    check: (events) => {
      for (const event of events) parse(event);
    },
    snapshot: encodeSet,
    version: encodeSet,
    peerVersion: encodeSet,
    frontierSize: (set) => {
      const parents = new Set([...set.names.values()].flat());
      return [...set.names.keys()].filter((name) => !parents.has(name)).length;
    },
    fold: (snapshot, events): Folded => {
      const set = snapshot === undefined ? { names: new Map(), made: [] } : restore(snapshot);
      const { held, refused } = apply(set, events);
      const bytes = encodeSet(set);
      return { snapshot: bytes, version: bytes, peerVersion: bytes, held, refused };
    },
    codec: binaryCodec,
  };
}

function apply(set: NameSet, events: readonly Uint8Array[]): Applied<NameSet> {
  const refused: Refusal[] = [];
  let waiting = events.map((event, index) => ({ index, ...parse(event) }));
  for (let before = -1; before !== waiting.length; ) {
    before = waiting.length;
    waiting = waiting.filter(({ index, name, after }) => {
      if (name.startsWith("!")) {
        refused.push({ index, reason: "the name begins with !" });
        return false;
      }
      if (!after.every((parent) => set.names.has(parent))) return true;
      set.names.set(name, after);
      return false;
    });
  }
  const held = waiting.map(({ index }) => index);
  return { doc: set, applied: events.length - held.length - refused.length, held, refused };
}

function track(set: NameSet): Tracker<NameSet, Uint8Array> {
  return {
    take: () => set.made.splice(0),
    pending: () => set.made.length > 0,
    stop: () => undefined,
  };
}

function encodeSet({ names }: NameSet): Uint8Array {
  const sorted = [...names].sort(([a], [b]) => (a < b ? -1 : 1));
  return new TextEncoder().encode(JSON.stringify(sorted));
}

function restore(snapshot: Uint8Array): NameSet {
  const names: unknown = JSON.parse(new TextDecoder().decode(snapshot));
  if (!Array.isArray(names)) throw new TypeError("not a set of names");
  return { names: new Map(names as [string, string[]][]), made: [] };
}

function parse(event: Uint8Array): { name: string; after: string[] } {
  const { n, p } = JSON.parse(new TextDecoder().decode(event)) as { n: unknown; p: unknown };
  if (typeof n !== "string" || !Array.isArray(p)) throw new TypeError("not a naming");
  return { name: n, after: p as string[] };
}
