/**
 * The documents behind the golden values of format 1: what was done to each, and what a reader must find in it.
 *
 * Together they hold a value of every kind of record and with every flag. Everything is written under a simulated
 * environment, so today's writer can be held to the same bytes; two documents are only read, because the bytes of
 * their payloads come from zlib and from Yjs.
 *
 * Invariant: a step that is here stays as it is. A new format gets a file of its own, and this one is still read.
 */

import { yjs } from "@coppice/yjs";
import { DocumentStorage, type Entry, type HistoryPolicy, type Limits, never } from "coppice";
import {
  type SimulatedBackend,
  type SimulatedEnv,
  seededRandom,
  simulatedBackend,
  simulatedEnv,
} from "coppice/testing";
import * as Y from "yjs";
import { type NameSet, nameSet, naming } from "../support/oracle-model.js";

export type GoldenStorage = DocumentStorage<[ReturnType<typeof nameSet>, ReturnType<typeof yjs>]>;

/** What a reader finds in a document. */
export interface Found {
  readonly clock: number;
  readonly content: string;
  readonly held: readonly string[];
  readonly history: readonly string[];
  readonly tags?: readonly string[];
}

/** Ids whose values come from libraries that may write other bytes tomorrow: they are read, not written again. */
export const ONLY_READ: ReadonlySet<string> = new Set(["deflated", "yjs", "squeezed"]);

/** An id with a NUL, a separator and a character of four UTF-8 bytes. */
export const STRANGE_ID = "a\0/😀";

export async function open(
  backend: SimulatedBackend,
  env: SimulatedEnv,
  limits: Partial<Limits> = {},
  history?: HistoryPolicy,
): Promise<GoldenStorage> {
  const options = { backend, env, limits, models: [nameSet(), yjs()] as const, snapshotPolicy: never };
  return DocumentStorage.open(history === undefined ? options : { ...options, history });
}

/**
 * Chance that follows from the time and the number of bytes alone, so that it does not matter who asks first, nor
 * how often.
 */
function goldenEnv(): SimulatedEnv {
  const env = simulatedEnv(1);
  const random = (byteCount: number) => seededRandom(env.now() * 32 + byteCount).bytes(byteCount);
  return Object.assign(env, { random });
}

/** Writes every document, and returns all entries in key order. */
export async function writeAll(): Promise<Entry[]> {
  const backend = simulatedBackend();
  const env = goldenEnv();
  const storage = await open(backend, env);
  await writeBatches(storage, env);
  await writeCompacted(storage, env);
  await writeLives(storage, env);
  await writeLarge(storage);
  await storage.close();
  await writeParts(backend, env);
  await writeRepaired(backend, env);
  await writeTagged(backend, goldenEnv());
  await writeArchived(backend, goldenEnv());
  return backend.dump();
}

async function writeBatches(storage: GoldenStorage, env: SimulatedEnv): Promise<void> {
  await storage.append("batches", [naming("a"), naming("b", ["a"])]);
  env.advance(1000);
  const commitId = storage.newCommitId();
  await storage.append("batches", [naming("c")], { commitId, info: { user: "ada", delta: -300, ok: true } });
  env.advance(1000);
  await storage.append("batches", [naming("d")]);
  env.advance(1000);
  await storage.append(STRANGE_ID, [naming("a")]);
}

/** Two snapshots, a held and a refused event, a commit id of a trimmed batch, and a tail. */
async function writeCompacted(storage: GoldenStorage, env: SimulatedEnv): Promise<void> {
  env.advance(1000);
  await storage.append("compacted", [naming("a")], { commitId: storage.newCommitId() });
  env.advance(1000);
  await storage.append("compacted", [naming("late", ["never"]), naming("!refused")]);
  env.advance(1000);
  await storage.append("compacted", [naming("b")]);
  env.advance(1000);
  await storage.compact("compacted");
  env.advance(1000);
  await storage.append("compacted", [naming("c")]);
}

async function writeLives(storage: GoldenStorage, env: SimulatedEnv): Promise<void> {
  for (const id of ["deleted", "recreated"]) {
    env.advance(1000);
    await storage.append(id, [naming("a"), naming("b")]);
    env.advance(1000);
    await storage.delete(id);
  }
  await (await storage.open("recreated", { recreate: true })).close();
  await storage.append("recreated", [naming("c")]);
}

async function writeLarge(storage: GoldenStorage): Promise<void> {
  await storage.append(
    "deflated",
    Array.from({ length: 300 }, (_, i) => naming(`name ${i}`)),
  );
  await storage.compact("deflated");
  const doc = new Y.Doc();
  doc.clientID = 1;
  const updates: Uint8Array[] = [];
  doc.on("update", (update) => updates.push(update));
  doc.getText("body").insert(0, "hello");
  doc.getText("body").delete(0, 1);
  doc.getText("body").insert(0, "J");
  await storage.append("yjs", updates, { model: "yjs" });
  await storage.compact("yjs");
}

async function writeParts(backend: SimulatedBackend, env: SimulatedEnv): Promise<void> {
  const storage = await open(backend, env, { snapshotPartBytesMax: 16 });
  await storage.append("parts", [naming("a"), naming("b"), naming("c")]);
  await storage.compact("parts");
  await storage.close();
}

/** The second of three batches is damaged; a repair sets it aside and puts a lost batch in its place. */
async function writeRepaired(backend: SimulatedBackend, env: SimulatedEnv): Promise<void> {
  const storage = await open(backend, env);
  for (const name of ["a", "b", "c"]) {
    env.advance(1000);
    await storage.append("repaired", [naming(name)]);
  }
  backend.flip(["events", "repaired", 1], 40);
  await storage.check({ id: "repaired", repair: true });
  await storage.close();
}

/** Three tags: inside a batch, with a held event, and of what is trimmed later. */
async function writeTagged(backend: SimulatedBackend, env: SimulatedEnv): Promise<void> {
  const storage = await open(backend, env);
  await storage.append("tagged", [naming("a"), naming("b")]);
  env.advance(1000);
  await storage.tag("tagged", "one", 1);
  env.advance(1000);
  await storage.append("tagged", [naming("late", ["never"])]);
  env.advance(1000);
  await storage.tag("tagged", "three: ünïcode");
  env.advance(1000);
  await storage.append("tagged", [naming("c")]);
  env.advance(1000);
  await storage.compact("tagged");
  env.advance(1000);
  await storage.tag("tagged", "gone");
  await storage.untag("tagged", "gone");
  await storage.close();
}

/**
 * Two archives: `archived` has two segments that are too small to be compressed, one of them lost, with info and a
 * chosen commit id; `squeezed` has one that is compressed.
 */
async function writeArchived(backend: SimulatedBackend, env: SimulatedEnv): Promise<void> {
  const storage = await open(backend, env, { archiveSegmentBytesMax: 100 }, "archive");
  for (const name of ["a", "b", "c", "d", "e"]) {
    env.advance(1000);
    const commitId = storage.newCommitId();
    await storage.append("archived", [naming(name)], name === "d" ? { commitId, info: { user: "ada" } } : {});
  }
  await storage.compact("archived");
  const [key] = backend.keys().filter(([space, id]) => space === "archive" && id === "archived");
  backend.flip(key!, 40);
  await storage.check({ id: "archived", repair: true });
  await storage.append(
    "squeezed",
    Array.from({ length: 100 }, (_, index) => naming(`name ${index}`)),
  );
  await storage.append("squeezed", [naming("last")]);
  await storage.compact("squeezed");
  await storage.close();
}

/** What a reader finds in each document that is listed. */
export async function readAll(storage: GoldenStorage): Promise<Record<string, Found>> {
  const documents: Record<string, Found> = {};
  for await (const id of storage.list()) documents[id] = await read(storage, id);
  return documents;
}

async function read(storage: GoldenStorage, id: string): Promise<Found> {
  const handle = await storage.load<ReturnType<ReturnType<typeof nameSet>["create"]> | Y.Doc>(id);
  if (handle === undefined) throw new TypeError(`${id} is listed, and not there`);
  const { doc, clock } = handle;
  const held = handle.held.map((event) => `${event.clock}: ${event.reason ?? "held"}`);
  const history: string[] = [];
  for await (const entry of storage.history(id)) {
    if (entry.kind === "tag") continue;
    if (entry.kind === "archive") history.push(`archive ${entry.clock}-${entry.end} until ${entry.time}`);
    else if (entry.kind === "snapshot") history.push(`snapshot ${entry.clock} at ${entry.time}`);
    else {
      const info = entry.info === undefined ? "" : ` ${JSON.stringify(entry.info)}`;
      history.push(`batch ${entry.clock}-${entry.end}, ${entry.bytes} bytes at ${entry.time}${info}`);
    }
  }
  const tags: string[] = [];
  for (const { name, clock: at, time } of await storage.tags(id)) {
    const tagged = await storage.load<NameSet>(id, { at: name });
    tags.push(`${name} at ${time}: ${at}, ${[...tagged!.doc.names.keys()].join()}`);
  }
  const content = doc instanceof Y.Doc ? doc.getText("body").toString() : [...doc.names.keys()].sort().join();
  await handle.close();
  return { clock, content, held, history, ...(tags.length === 0 ? {} : { tags }) };
}
