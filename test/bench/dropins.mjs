/**
 * The drop-ins beside the ways of storing whose place they take, on one history: durable saves, and cold loads.
 *
 * - y-leveldb and our `LeveldbPersistence`: one save after the other, and 64 in flight; `getYDoc` of a flushed document.
 * - Hocuspocus with its own SQLite extension and with ours, each in a process of its own: one edit after the other,
 *   each until it is stored; a direct connection to a document that is not in memory. SQLite is measured where
 *   COPPICE_PEERS names a folder in which `npm install @hocuspocus/server @hocuspocus/extension-sqlite` was run.
 * - What a binding adds to a cold load, over `storage.load`. The documents stay for a while, as those of a server do:
 *   otherwise it depends on where collections happen to fall whether a document dies young, and that decides the times.
 */
import { spawn } from "node:child_process";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { bindDoc } from "@coppice/yjs/dropins";
import { LeveldbPersistence } from "@coppice/yjs/y-leveldb";
import * as Y from "yjs";
import { ratios, runRounds, summary, timed } from "./rounds.mjs";
import { fillYLeveldb, inFlight, openCoppice, openYLeveldb, SYNCS } from "./stores.mjs";
import { assertText, documentOf, TEXT_NAME } from "./trace.mjs";

const ID = "paper";
const WIDTH = 64;
const REPEATS = 7;
const LOAD_RATIO_MAX = 1.15;
/** Documents that stay loaded, of all sides together. */
const KEPT = 10;
/** Loads of a Hocuspocus process before those that count, and those that count. */
const [LOADS_BEFORE, LOADS] = [30, 15];

export const dropins = {
  name: "dropins",
  about: "drop-ins beside y-leveldb and Hocuspocus' SQLite: durable saves, cold loads",
  run: measure,
};

async function measure(setting) {
  const saves = await measureSaves(setting);
  const loads = await measureLoads(setting);
  const hocuspocus = await measureHocuspocus(setting);
  const parts = [saves, loads, hocuspocus];
  return {
    rounds: Object.assign({}, ...parts.map(({ rounds }) => rounds)),
    tables: parts.flatMap(({ tables }) => tables),
    targets: parts.flatMap(({ targets }) => targets ?? []),
  };
}

async function measureSaves({ rounds, quick, scratch, trace: { updates }, note }) {
  const tables = [];
  const all = {};
  for (const [width, most] of [
    [1, quick ? 500 : 3000],
    [WIDTH, quick ? 5000 : 20_000],
  ]) {
    note(`  saves, ${width} in flight`);
    const count = Math.min(most, updates.length);
    const side = (name, syncs, open) => ({
      name,
      syncs,
      run: () => timeSaves(scratch, open, updates, count, width),
    });
    const sides = [
      side("coppice LeveldbPersistence", SYNCS.coppice, (location) => new LeveldbPersistence(location)),
      side("the same, durability process", "never", openProcess),
      side("y-leveldb", SYNCS.yLeveldb, openYLeveldb),
    ];
    const results = await runRounds(rounds, sides, note);
    all[`saves ${width}`] = results;
    for (const { name, syncs } of sides) {
      const ratio = name === "y-leveldb" ? undefined : ratios(results[name], results["y-leveldb"]);
      tables.push({ width, side: name, syncs, count, rate: summary(results[name]), ratio });
    }
  }
  return { rounds: all, tables: [savesTable(tables)] };
}

function savesTable(rows) {
  return {
    title: "Drop-ins: saves through LeveldbPersistence",
    note: "One keystroke a save, into one document; a save ends when `storeUpdate` resolves.",
    columns: [
      ["width", "count", "in flight"],
      ["side", "text"],
      ["syncs", "text"],
      ["count", "count", "saves"],
      ["rate", "rate", "saves/s"],
      ["ratio", "ratio", "of y-leveldb"],
    ],
    rows,
  };
}

async function openProcess(location) {
  const storage = await openCoppice(location, { level: { durability: "process" } });
  const persistence = new LeveldbPersistence(storage);
  const destroy = persistence.destroy.bind(persistence);
  persistence.destroy = () => destroy().then(() => storage.close());
  return persistence;
}

async function timeSaves(scratch, open, updates, count, width) {
  const location = scratch.fresh();
  const store = await open(location);
  // Opening is not part of it.
  await store.getAllDocNames();
  const { ms } = await timed(() => inFlight(width, count, (index) => store.storeUpdate(ID, updates[index])));
  await store.destroy();
  await scratch.discard(location);
  return (count * 1000) / ms;
}

async function measureLoads({ rounds, scratch, trace: { updates }, note }) {
  note("  loads: writing");
  const text = documentOf(updates).getText(TEXT_NAME).toString();
  const storage = await openCoppice(scratch.fresh());
  await inFlight(WIDTH, updates.length, (index) => storage.append(ID, [updates[index]]));
  await storage.flush();
  await storage.compact(ID);
  const ours = new LeveldbPersistence(storage);
  const theirs = openYLeveldb(scratch.fresh());
  await fillYLeveldb(theirs, ID, updates);
  await theirs.flushDocument(ID);
  const kept = [];
  const side = (name, build) => ({
    name,
    run: async () => {
      const { ms, value } = await timed(build);
      assertText(value.doc, text, name);
      kept.push(value);
      if (kept.length > KEPT) await kept.shift().close();
      return ms;
    },
  });
  const results = await runRounds(
    rounds,
    [
      side("storage.load", async () => {
        const handle = await storage.load(ID);
        return { doc: handle.doc, close: () => handle.close() };
      }),
      side("bindDoc", async () => {
        const doc = new Y.Doc();
        await bindDoc(storage, ID, doc).loaded;
        return { doc, close: async () => doc.destroy() };
      }),
      side("LeveldbPersistence.getYDoc", () => documentFrom(ours)),
      side("y-leveldb getYDoc, flushed", () => documentFrom(theirs)),
    ],
    note,
    REPEATS,
  );
  for (const { close } of kept) await close();
  await theirs.destroy();
  await storage.close();
  const rows = Object.entries(results).map(([side, ms]) => ({
    side,
    ms: summary(ms),
    ratio: side === "storage.load" ? undefined : ratios(ms, results["storage.load"]),
  }));
  const measured = ratios(results.bindDoc, results["storage.load"]);
  return {
    rounds: { loads: results },
    tables: [
      {
        title: `Drop-ins: cold load of ${updates.length} events, compacted`,
        note: `The storage is open, and the last ${KEPT} documents stay loaded; no side syncs to read.`,
        columns: [
          ["side", "text"],
          ["ms", "msSpread", "ms"],
          ["ratio", "ratio", "of storage.load"],
        ],
        rows,
      },
    ],
    targets: [
      {
        what: "cold load through a binding, against storage.load",
        wanted: `≤ ${LOAD_RATIO_MAX} ×`,
        measured,
        unit: "ratio",
        met: measured.median <= LOAD_RATIO_MAX,
      },
    ],
  };
}

async function documentFrom(store) {
  const doc = await store.getYDoc(ID);
  return { doc, close: async () => doc.destroy() };
}

async function measureHocuspocus({ rounds, quick, scratch, trace: { updates }, note }) {
  const [before, count] = quick ? [5000, 100] : [100_000, 500];
  const base = Y.encodeStateAsUpdate(documentOf(updates, Math.min(before, updates.length - count)));
  const from = Math.min(before, updates.length - count);
  const edits = updates.slice(from, from + count);
  const input = JSON.stringify({ base: base64(base), edits: edits.map(base64), loads: LOADS_BEFORE + LOADS });
  const peers = process.env.COPPICE_PEERS;
  const names = peers === undefined ? ["coppice"] : ["coppice", "sqlite"];
  if (peers === undefined)
    note("  Hocuspocus' SQLite is left out: COPPICE_PEERS names no folder that has it");
  const side = (name) => ({ name, run: () => runChild(name, scratch, peers, input) });
  note(`  Hocuspocus: ${count} edits of a document of ${from} keystrokes`);
  const results = await runRounds(rounds, names.map(side), note);
  const rates = (name) => results[name].map(({ saveMs }) => (count * 1000) / saveMs);
  const loads = (name) => results[name].map(({ loadMs }) => summary(loadMs.slice(LOADS_BEFORE)).median);
  const first = (name) => results[name].map(({ loadMs }) => summary(loadMs.slice(0, 5)).median);
  const rows = names.map((name) => ({
    side: name === "coppice" ? "@coppice/hocuspocus on LevelDB" : "@hocuspocus/extension-sqlite",
    rate: summary(rates(name)),
    first: summary(first(name)),
    ms: summary(loads(name)),
    ratio: name === "coppice" && peers !== undefined ? ratios(rates("coppice"), rates("sqlite")) : undefined,
    loads: name === "coppice" && peers !== undefined ? ratios(loads("coppice"), loads("sqlite")) : undefined,
  }));
  return {
    rounds: { hocuspocus: results },
    tables: [
      {
        title: `Drop-ins: Hocuspocus, a document of ${from} keystrokes (${base.length} bytes)`,
        note: `Both sync before they acknowledge; one edit after the other, each until it is stored. Loads: the first 5 of a process, and ${LOADS} after ${LOADS_BEFORE} others.`,
        columns: [
          ["side", "text"],
          ["rate", "rate", "saves/s"],
          ["ratio", "ratio", "saves, of SQLite's"],
          ["first", "msSpread", "first loads ms"],
          ["ms", "msSpread", "later loads ms"],
          ["loads", "ratio", "later loads, of SQLite's"],
        ],
        rows,
      },
    ],
  };
}

function base64(bytes) {
  return Buffer.from(bytes).toString("base64");
}

async function runChild(whose, scratch, peers, input) {
  const folder = scratch.fresh();
  await mkdir(folder);
  const script = join(import.meta.dirname, "hocuspocus-child.mjs");
  const words = [script, whose, folder, ...(peers === undefined ? [] : [peers])];
  const child = spawn(process.execPath, words, { stdio: ["pipe", "pipe", "inherit"] });
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text) => {
    output += text;
  });
  child.stdin.end(input);
  const code = await new Promise((resolve) => child.on("close", resolve));
  if (code !== 0) throw new Error(`Hocuspocus with ${whose} ended with ${code}`);
  await scratch.discard(folder);
  return JSON.parse(output.trim().split("\n").at(-1));
}
