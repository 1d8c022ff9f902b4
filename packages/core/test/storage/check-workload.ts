/**
 * What the tests of `check` share: a small model with held and refused events, stored documents of every shape, and
 * what can be seen of a document from outside.
 */

import {
  binaryCodec,
  DocumentStorage,
  type Env,
  type Key,
  type Model,
  type memoryBackend,
  never,
  type Observer,
  toHex,
} from "coppice";
import { type SimulatedBackend, simulatedBackend } from "coppice/testing";

/** A set that only grows. An event is `id|parent,parent|text`; it waits until its parents are there. */
export interface GrowSet {
  readonly items: Map<string, string>;
  readonly fresh: Uint8Array[];
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export function event(id: string, parents: readonly string[] = [], text = ""): Uint8Array {
  return encoder.encode(`${id}|${parents.join(",")}|${text}`);
}

export const idOf = (bytes: Uint8Array): string => decoder.decode(bytes).split("|")[0]!;

function apply(doc: GrowSet, events: readonly Uint8Array[]): ReturnType<Model<GrowSet>["apply"]> {
  const refused: { index: number; reason: string }[] = [];
  let waiting: { index: number; id: string; parents: string[]; text: string }[] = [];
  for (const [index, bytes] of events.entries()) {
    const [id, parents, text] = decoder.decode(bytes).split("|");
    if (text === undefined) refused.push({ index, reason: "not an event" });
    else waiting.push({ index, id: id!, parents: parents!.split(",").filter((one) => one !== ""), text });
  }
  for (let before = -1; before !== waiting.length; ) {
    before = waiting.length;
    waiting = waiting.filter(({ id, parents, text }) => {
      if (!parents.every((parent) => doc.items.has(parent))) return true;
      doc.items.set(id, text);
      return false;
    });
  }
  const held = waiting.map(({ index }) => index);
  return { doc, applied: events.length - held.length - refused.length, held, refused };
}

const pack = (doc: GrowSet): Uint8Array =>
  encoder.encode(JSON.stringify([...doc.items].sort(([a], [b]) => (a < b ? -1 : 1))));

export function growSet(options: Partial<Model<GrowSet>> = {}): Model<GrowSet> {
  const model: Model<GrowSet> = {
    name: "growset",
    stateFormat: 1,
    create: () => ({ items: new Map(), fresh: [] }),
    restore: (snapshot) => ({
      items: new Map(JSON.parse(decoder.decode(snapshot)) as [string, string][]),
      fresh: [],
    }),
    apply,
    change: (doc, fn) => {
      fn(doc);
      return doc;
    },
    track: () => ({
      take: (doc) => doc.fresh.splice(0),
      pending: (doc) => doc.fresh.length > 0,
      stop: () => undefined,
    }),
    snapshot: pack,
    version: pack,
    peerVersion: pack,
    frontierSize: (doc) => Math.min(1, doc.items.size),
    fold: (snapshot, events) => {
      const doc = snapshot === undefined ? model.create() : model.restore(snapshot);
      const { held, refused } = model.apply(doc, events);
      return { snapshot: pack(doc), version: pack(doc), peerVersion: pack(doc), held, refused };
    },
    codec: binaryCodec,
    ...options,
  };
  return model;
}

export interface OpenOptions {
  readonly models?: readonly [Model<GrowSet>, ...Model<GrowSet>[]];
  readonly observer?: Observer;
  readonly env?: Env;
}

export type Storage = DocumentStorage<readonly Model<GrowSet>[]>;

/** Snapshots only when asked for, in many small parts. */
export function openStorage(
  backend: SimulatedBackend | ReturnType<typeof memoryBackend>,
  { models = [growSet()], ...options }: OpenOptions = {},
): Promise<Storage> {
  const limits = { snapshotPartBytesMax: 24, sweepKeysMax: 2 };
  return DocumentStorage.open({ backend, models, snapshotPolicy: never, limits, ...options });
}

/** Opens, runs, closes. */
export async function using<T>(
  backend: SimulatedBackend,
  run: (storage: Storage) => Promise<T>,
  options: OpenOptions = {},
): Promise<T> {
  const storage = await openStorage(backend, options);
  try {
    return await run(storage);
  } finally {
    await storage.close();
  }
}

export const ID = "doc";

/** Each of these is one append, so one batch; ids that begin with `x` wait for a parent that never comes. */
export const EARLY: readonly Uint8Array[][] = [
  [event("a", [], "one"), event("b", ["a"])],
  [event("x1", ["nowhere"], "waits")],
  [event("c", ["b"]), event("?", [], "refused?").subarray(0, 1)],
  [event("d", ["c"], "four")],
];
export const LATE: readonly Uint8Array[][] = [
  [event("e", ["d"]), event("f", ["e"])],
  [event("x2", ["nowhere"])],
  [event("g", ["f"], "last")],
];

export type Shape = "log" | "snapshot" | "compacted" | "covered";

/**
 * `log`: no snapshot. `snapshot`: two snapshots and the whole log. `compacted`: two snapshots, the first events
 * trimmed, a tail. `covered`: the same, with a newest snapshot of everything.
 */
export async function build(shape: Shape): Promise<SimulatedBackend> {
  const backend = simulatedBackend();
  await using(backend, async (storage) => {
    const append = async (batches: readonly Uint8Array[][]) => {
      for (const events of batches) {
        await storage.append(ID, events, { commitId: storage.newCommitId(), info: { by: "test" } });
      }
    };
    const snapshot = async () => {
      const handle = (await storage.load(ID))!;
      await handle.snapshot();
      await handle.close();
    };
    await append(EARLY.slice(0, 2));
    if (shape === "snapshot") await snapshot();
    await append(EARLY.slice(2));
    if (shape === "snapshot") await snapshot();
    if (shape === "compacted" || shape === "covered") await storage.compact(ID);
    await append(LATE);
    if (shape === "covered") await snapshot();
  });
  return backend;
}

export interface Seen {
  readonly clock: number;
  readonly items: readonly string[];
  /** Clock and, where there is one, reason of each. */
  readonly held: readonly string[];
  readonly heldIds: readonly string[];
}

/** What a load shows; `undefined` when there is no document. */
export async function look(storage: Storage): Promise<Seen | undefined> {
  const handle = await storage.load(ID);
  if (handle === undefined) return undefined;
  const { items } = handle.doc;
  const seen = {
    clock: handle.clock,
    items: [...items].map(([id, text]) => `${id}=${text}`).sort(),
    held: handle.held.map(({ clock, reason }) => `${clock} ${reason ?? "waits"}`).sort(),
    heldIds: handle.held.flatMap((held) =>
      held.event === undefined ? [] : [idOf(held.event as Uint8Array)],
    ),
  };
  await handle.close();
  return seen;
}

export const keysIn = (backend: SimulatedBackend, space: string): Key[] =>
  backend.keys().filter((key) => key[0] === space);

/** Everything stored but the quarantine, as text. */
export const contentsOf = (backend: SimulatedBackend): string[] =>
  backend
    .dump()
    .filter(({ key }) => key[0] !== "quarantine")
    .map(({ key, value }) => `${key.join("/")} ${toHex(value)}`);

export const valueAt = (backend: SimulatedBackend, key: Key): Uint8Array =>
  backend.dump().find((entry) => entry.key.join("/") === key.join("/"))!.value;
