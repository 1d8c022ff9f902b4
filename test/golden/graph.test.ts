/**
 * Batches and snapshots of event graphs, and exported streams, pinned: what was written when their formats were fixed
 * is in `graph-v1.json` and `streams-v1.json`, and is read for ever.
 *
 * What today's snapshots look like is not held to it: another shape may be chosen, as long as this one is read.
 * `COPPICE_GOLDEN=write` writes both files anew; that is right only until the first release.
 */

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type Entry, fromHex, type GraphDocument, type GraphEvent, TreeDocument, toHex } from "coppice";
import { simulatedBackend, simulatedEnv } from "coppice/testing";
import { beforeAll, expect, test } from "vitest";
import { makeGraphs, model } from "./graph-workload.js";
import { type Found, open, readAll } from "./workload.js";

interface Graphs {
  /** Events as JSON, with bytes as `hex:…`. */
  readonly batches: Record<string, { bytes: string; events: unknown }>;
  readonly snapshots: Record<string, { bytes: string; content: unknown }>;
}

const pathOf = (name: string) => fileURLToPath(new URL(name, import.meta.url));
const [GRAPHS, STREAMS] = [pathOf("graph-v1.json"), pathOf("streams-v1.json")];
const readJson = (path: string): unknown => JSON.parse(readFileSync(path, "utf8"));

const plain = (value: unknown): unknown =>
  JSON.parse(
    JSON.stringify(value, (_, field: unknown) =>
      field instanceof Uint8Array ? `hex:${toHex(field)}` : field,
    ),
  );

/** All that a restored document shows. */
function contentOf(name: string, bytes: Uint8Array): unknown {
  const doc = model(name).restore(bytes) as GraphDocument<unknown, unknown>;
  const { size, frontier, keptFrom } = doc;
  const version = toHex(model(name).version(doc));
  const state = doc instanceof TreeDocument ? doc.toData() : doc.state;
  const criticals = doc.criticalVersions();
  return plain({ size, frontier, keptFrom, version, state, events: doc.events(), criticals });
}

const golden = readJson(pathOf("v1.json")) as {
  readonly documents: Record<string, Found>;
  readonly entries: readonly { readonly key: Entry["key"]; readonly value: string }[];
};

async function storageWith(entries: readonly Entry[]) {
  const backend = simulatedBackend();
  backend.restore(entries);
  return open(backend, simulatedEnv(2));
}

const stored = () => storageWith(golden.entries.map(({ key, value }) => ({ key, value: fromHex(value) })));

async function streamsOf(): Promise<Record<string, string>> {
  const storage = await stored();
  const streams: Record<string, string> = {};
  for (const id of Object.keys(golden.documents)) {
    const chunks: Uint8Array[] = [];
    for await (const chunk of storage.export(id)) chunks.push(chunk);
    streams[id] = Buffer.concat(chunks).toString("hex");
  }
  await storage.close();
  return streams;
}

let graphs: Graphs;
let streams: Record<string, string>;

beforeAll(async () => {
  if (process.env.COPPICE_GOLDEN === "write") {
    const { batches, snapshots } = makeGraphs();
    const made: Graphs = {
      batches: Object.fromEntries(
        Object.entries(batches).map(([name, events]) => [
          name,
          { bytes: toHex(model(name).codec.encode(events)), events: plain(events) },
        ]),
      ),
      snapshots: Object.fromEntries(
        Object.entries(snapshots).map(([name, bytes]) => [
          name,
          { bytes: toHex(bytes), content: contentOf(name, bytes) },
        ]),
      ),
    };
    writeFileSync(GRAPHS, `${JSON.stringify(made, undefined, 1)}\n`);
    writeFileSync(STREAMS, `${JSON.stringify(await streamsOf(), undefined, 1)}\n`);
  }
  graphs = readJson(GRAPHS) as Graphs;
  streams = readJson(STREAMS) as Record<string, string>;
});

test("[FM1] batches of graphs and trees are read as they were meant, and written as they were", () => {
  const cancels: unknown[] = [];
  expect(Object.keys(graphs.batches)).toHaveLength(6);
  for (const [name, { bytes, events }] of Object.entries(graphs.batches)) {
    const decoded = model(name).codec.decode(fromHex(bytes)) as GraphEvent<unknown>[];
    expect(plain(decoded), name).toEqual(events);
    expect(toHex(model(name).codec.encode(decoded)), name).toBe(bytes);
    cancels.push(...decoded.filter((event) => event.cancels !== undefined));
  }
  expect(cancels.length).toBeGreaterThan(3);
});

test("[FM1] batches of graphs and trees are what the same edits make today", () => {
  for (const [name, events] of Object.entries(makeGraphs().batches)) {
    expect(toHex(model(name).codec.encode(events)), name).toBe(graphs.batches[name]?.bytes);
  }
});

test("[FM1] snapshots of graphs and trees are restored as they were meant, and take the events after them", () => {
  expect(Object.keys(graphs.snapshots)).toHaveLength(5);
  for (const [name, { bytes, content }] of Object.entries(graphs.snapshots)) {
    expect(contentOf(name, fromHex(bytes)), name).toEqual(content);
  }
  const later = model("graph").restore(fromHex(graphs.snapshots["graph: critical"]!.bytes));
  const branches = model("graph").codec.decode(fromHex(graphs.batches["graph: two branches"]!.bytes));
  expect(model("graph").apply(later, branches)).toMatchObject({ applied: 5, held: [], refused: [] });
  const open = graphs.snapshots["graph: open branches"]!.content as { version: string };
  expect(toHex(model("graph").version(later))).toBe(open.version);
});

test("[FM1] an export that was written then is imported as the document it was", async () => {
  const storage = await storageWith([]);
  expect(Object.keys(streams)).toEqual(Object.keys(golden.documents));
  for (const [id, hex] of Object.entries(streams)) {
    async function* stream() {
      yield fromHex(hex);
    }
    expect(await storage.import(stream()), id).toMatchObject({ outcome: "imported" });
  }
  expect(await readAll(storage)).toEqual(golden.documents);
  expect((await storage.check()).problems).toEqual([]);
  await storage.close();
});

test("[FM2] the same stored values are exported to the same bytes", async () => {
  expect(await streamsOf()).toEqual(streams);
});
