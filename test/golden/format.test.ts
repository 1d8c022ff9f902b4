/**
 * Format 1, pinned: values as they were written when it was fixed are in `v1.json`, and are read for ever.
 *
 * Left out when today's writer is compared: documents whose payloads come from libraries, and quarantined values,
 * which say in words why they were set aside.
 *
 * `v1-named-repairs.json` has the values that are written otherwise since meta names its last repair, an additional
 * field; those of `v1.json` are read as well.
 *
 * A change of the writer that changes bytes needs a new format version, a new file beside this one, and a reader
 * for both. `COPPICE_GOLDEN=write` writes `v1.json` anew; that is right only until the first release.
 */

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { decodeKey, type Entry, encodeKey, fromHex, type Key, toHex } from "coppice";
import { simulatedBackend, simulatedEnv } from "coppice/testing";
import { beforeAll, expect, test } from "vitest";
import { ROOT } from "../support/docs.js";
import { dumpValue } from "./dump.js";
import { type Found, ONLY_READ, open, readAll, writeAll } from "./workload.js";

interface GoldenEntry {
  readonly key: Key;
  readonly keyBytes: string;
  readonly value: string;
}

interface Golden {
  readonly format: number;
  readonly documents: Record<string, Found>;
  readonly entries: readonly GoldenEntry[];
}

const FILE = fileURLToPath(new URL("v1.json", import.meta.url));
const NAMED_REPAIRS = fileURLToPath(new URL("v1-named-repairs.json", import.meta.url));

function goldenOf(entries: readonly Entry[]): GoldenEntry[] {
  return entries.map(({ key, value }) => ({ key, keyBytes: toHex(encodeKey(key)), value: toHex(value) }));
}

async function readEntries(entries: readonly Entry[]): Promise<Record<string, Found>> {
  const backend = simulatedBackend();
  backend.restore(entries);
  const storage = await open(backend, simulatedEnv(2));
  try {
    return await readAll(storage);
  } finally {
    await storage.close();
  }
}

/** As today's writer writes them. */
function renewed(older: readonly GoldenEntry[]): GoldenEntry[] {
  const { entries: newer } = JSON.parse(readFileSync(NAMED_REPAIRS, "utf8")) as Pick<Golden, "entries">;
  return older.map((entry) => newer.find(({ keyBytes }) => keyBytes === entry.keyBytes) ?? entry);
}

let golden: Golden;
let entries: Entry[];

beforeAll(async () => {
  if (process.env.COPPICE_GOLDEN === "write") {
    const written = await writeAll();
    const made: Golden = { format: 1, documents: await readEntries(written), entries: goldenOf(written) };
    writeFileSync(FILE, `${JSON.stringify(made, undefined, 1)}\n`);
  }
  golden = JSON.parse(readFileSync(FILE, "utf8")) as Golden;
  entries = golden.entries.map(({ key, value }) => ({ key, value: fromHex(value) }));
});

test("[FM1] what format 1 wrote is read as it was meant", async () => {
  expect(await readEntries(entries)).toEqual(golden.documents);
  expect(golden.documents.compacted).toMatchObject({ clock: 5, content: "a,b,c" });
  expect(golden.documents.yjs).toMatchObject({ clock: 3, content: "Jello" });
  expect(golden.documents.tagged?.tags).toEqual([
    "one at 1767225601000: 1, a",
    "three: ünïcode at 1767225603000: 3, a,b",
  ]);
  expect(golden.documents.archived?.history.slice(0, 4)).toEqual([
    "archive 0-3 until 1767225603000",
    "batch 0-3, 0 bytes at 1767225601000",
    "archive 3-4 until 1767225604000",
    'batch 3-4, 17 bytes at 1767225604000 {"user":"ada"}',
  ]);
  expect(golden.documents.deleted).toBeUndefined();
});

test("[FM1] meta that names its last repair is read like meta from before it did", async () => {
  const newer = renewed(golden.entries).map(({ key, value }) => ({ key, value: fromHex(value) }));
  expect(newer.filter(({ value }, index) => toHex(value) !== golden.entries[index]!.value)).toHaveLength(2);
  expect(await readEntries(newer)).toEqual(golden.documents);
});

test("[FM1] a check finds nothing wrong in it, and still counts what a repair had set aside", async () => {
  const backend = simulatedBackend();
  backend.restore(entries);
  const storage = await open(backend, simulatedEnv(2));
  const report = await storage.check();
  await storage.close();
  expect(report).toMatchObject({ clean: true, problems: [], quarantined: 2 });
  expect(backend.dump()).toEqual(entries);
});

test("[FM2] given the same time and chance, the same calls write the same bytes", async () => {
  const pinned = ({ key: [space, id] }: GoldenEntry) => space !== "quarantine" && !ONLY_READ.has(id);
  const written = goldenOf(await writeAll()).filter(pinned);
  expect(written.length).toBeGreaterThan(20);
  expect(written).toEqual(renewed(golden.entries).filter(pinned));
});

test("[FM2] keys are encoded as they were, and decoded again", () => {
  for (const { key, keyBytes } of golden.entries) {
    expect(toHex(encodeKey(key))).toBe(keyBytes);
    expect(decodeKey(fromHex(keyBytes))).toEqual(key);
  }
});

test("[FM3] a reader that shares no code with ours finds every field of every value", () => {
  const flags = new Set<string>();
  const spaces = new Set<string>();
  for (const { key, keyBytes, value } of golden.entries) {
    const lines = dumpValue(fromHex(keyBytes), fromHex(value));
    expect(lines.at(-1)).toContain("matches");
    spaces.add(key[0]);
    for (const [, names = ""] of lines.join("\n").matchAll(/flags {2,}(.*)/g))
      for (const name of names.split(", ")) flags.add(name);
  }
  expect([...spaces].sort()).toEqual([
    ...["archive", "events", "held", "meta", "quarantine", "snapshot", "tagged", "tags"],
  ]);
  expect([...flags].sort()).toEqual(["BATCH", "CHOSEN", "CHOSEN_IDS", "COMPRESSED", "INFO", "LOST", "none"]);
});

test("[FM3] the examples of docs/format.md are dumps of golden values", () => {
  const page = readFileSync(`${ROOT}/docs/format.md`, "utf8");
  const shown = [...page.matchAll(/^`(\[.*\])`\n\n```text\n([\s\S]*?)\n```$/gm)];
  expect(shown.length).toBeGreaterThanOrEqual(5);
  const { keyBytes } = golden.entries.find(({ key }) => key.join() === "events,batches,2")!;
  expect(page).toContain(keyBytes.replace(/../g, "$& ").trimEnd());
  for (const [, name = "", dump] of shown) {
    const entry = golden.entries.find(({ key }) => JSON.stringify(key) === name);
    expect(entry, `no golden value under ${name}`).toBeDefined();
    expect(dumpValue(fromHex(entry!.keyBytes), fromHex(entry!.value)).join("\n")).toBe(dump);
  }
});
