/**
 * Many documents: random loads among 10,000, and the memory of a process that appends to 10,000.
 *
 * Loads: p99 by median says how evenly loads take their time; the same share of raw LevelDB reads of the same bytes
 * (one value for each document) is what the disk and LevelDB make uneven by themselves. Each load builds a
 * document and releases it; garbage that this makes is part of it.
 * Memory: a process of its own, sampled as it goes; see `memory-child.mjs`.
 */
import { binaryCodec } from "coppice";
import * as Y from "yjs";
import { runChild } from "./child.mjs";
import { quantile, ratios, runRounds, summary } from "./rounds.mjs";
import { inFlight, openCoppice, openRaw, rawKey } from "./stores.mjs";
import { seededRandom } from "./trace.mjs";

const SEED = 7;
const UNEVEN_MAX = 1.5;
const GROWTH_MAX = 1.1;

export const documents = { name: "documents", about: "10,000 documents: random loads, memory", run: measure };

async function measure(setting) {
  const loads = await measureLoads(setting);
  const memory = await measureMemory(setting);
  return {
    rounds: { loads: loads.rounds, memory: memory.samples },
    tables: [loads.table, memory.table],
    targets: [loads.target, memory.target],
  };
}

async function measureLoads({ rounds, quick, scratch, trace: { updates }, note }) {
  const documentCount = quick ? 1000 : 10_000;
  const loadCount = quick ? 500 : 4000;
  const random = seededRandom(SEED);
  const below = (bound) => Math.floor(random() * bound);
  const lengths = Array.from({ length: documentCount }, () => 5 + below(46));
  note("  writing");
  const ours = await openCoppice(scratch.fresh());
  await inFlight(64, documentCount, (n) => ours.append(`doc-${n}`, updates.slice(0, lengths[n])));
  const raw = await openRaw(scratch.fresh());
  const payloads = lengths.map((length) => binaryCodec.encode(updates.slice(0, length)));
  await raw.batch(payloads.map((value, n) => ({ type: "put", key: rawKey(n, 0), value })));
  const picks = Array.from({ length: loadCount }, () => below(documentCount));
  const sides = [
    { name: "coppice load", run: () => timeEach(picks, (n) => loadOurs(ours, n, lengths[n])) },
    { name: "classic-level get", run: () => timeEach(picks, (n) => raw.get(rawKey(n, 0))) },
    { name: "classic-level get and Yjs", run: () => timeEach(picks, (n) => buildRaw(raw, n)) },
  ];
  const results = await runRounds(rounds, sides, note);
  await ours.close();
  await raw.close();
  const uneven = (name) => results[name].map(({ p50, p99 }) => p99 / p50);
  const rows = sides.map(({ name }) => ({
    side: name,
    p50: summary(results[name].map(({ p50 }) => p50)).median,
    p99: summary(results[name].map(({ p99 }) => p99)).median,
    uneven: summary(uneven(name)),
  }));
  const measured = ratios(uneven("coppice load"), uneven("classic-level get"));
  return { rounds: results, table: loadTable(rows, documentCount, loadCount), target: loadTarget(measured) };
}

async function loadOurs(storage, n, length) {
  const handle = await storage.load(`doc-${n}`);
  if (handle.clock !== length) throw new Error(`doc-${n}: not all events are there`);
  await handle.close();
}

/** What building documents makes uneven by itself, by the garbage that it leaves. */
async function buildRaw(db, n) {
  const events = binaryCodec.decode(await db.get(rawKey(n, 0)));
  const doc = new Y.Doc();
  doc.transact(() => {
    for (const event of events) Y.applyUpdate(doc, event);
  });
  doc.destroy();
}

async function timeEach(picks, load) {
  const times = new Float64Array(picks.length);
  for (const [at, n] of picks.entries()) {
    const started = performance.now();
    await load(n);
    times[at] = performance.now() - started;
  }
  return { p50: quantile(times, 0.5), p99: quantile(times, 0.99) };
}

function loadTable(rows, documentCount, loadCount) {
  return {
    title: `Random loads among ${documentCount} documents`,
    note: `${loadCount} loads a round, one after the other; 5 to 50 events each; no side syncs to read.`,
    columns: [
      ["side", "text"],
      ["p50", "ms", "median ms"],
      ["p99", "ms", "p99 ms"],
      ["uneven", "ratio", "p99 / median"],
    ],
    rows,
  };
}

function loadTarget(measured) {
  return {
    what: "p99 / median of random loads, against that of raw classic-level reads of the same bytes",
    wanted: `≤ ${UNEVEN_MAX} ×`,
    measured,
    unit: "ratio",
    met: measured.median <= UNEVEN_MAX,
  };
}

async function measureMemory({ quick, scratch, trace: { updates }, note }) {
  const documentCount = quick ? 6000 : 10_000;
  note("  memory, in a process of its own");
  const { samples } = await runChild("memory-child.mjs", {
    location: scratch.fresh(),
    documentCount,
    passes: 3,
    updates: updates.slice(0, 64).map((update) => Buffer.from(update).toString("base64")),
  });
  const peakBytes = Math.max(...samples.map(({ rssBytes }) => rssBytes));
  const full = samples.find(({ documents }) => documents >= 5000);
  const last = samples.at(-1);
  const growth = last.heapBytes / full.heapBytes;
  const rows = samples
    .filter((_, at) => at % 2 === 1)
    .map(({ appends, documents, heapBytes, rssBytes }) => {
      return { appends, documents, heap: heapBytes, rss: rssBytes };
    });
  const table = {
    title: `Memory while appending to ${documentCount} documents`,
    note: `Heads of at most 4,096 documents are kept. Heap: after a collection. Most that was resident: ${mebibytes(peakBytes)}.`,
    columns: [
      ["appends", "count"],
      ["documents", "count"],
      ["heap", "bytes", "heap"],
      ["rss", "bytes", "resident"],
    ],
    rows,
  };
  const target = {
    what: `heap after ${last.appends} appends to ${documentCount} documents, against that after 5,000 documents`,
    wanted: `≤ ${GROWTH_MAX} ×`,
    measured: { median: growth, min: growth, max: growth },
    unit: "ratio",
    met: growth <= GROWTH_MAX,
  };
  return { samples, table, target };
}

function mebibytes(bytes) {
  return `${Math.round(bytes / 2 ** 20)} MiB`;
}
