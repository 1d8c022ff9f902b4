/**
 * Loading: a document as it was written and compacted (`load`), and a snapshot with a tail of later events
 * (`tail`). The store is open; what is timed begins with the call and ends with a `Y.Doc` that shows the text.
 *
 * Invariants: each load builds a fresh document, and its text is compared outside of the timed part. y-leveldb's
 * `getYDoc` rewrites a document of more than 500 updates as it loads it, so each of its loads gets a copy of
 * the store as it was written.
 */
import { never } from "coppice";
import * as Y from "yjs";
import { ratios, runRounds, summary, timed } from "./rounds.mjs";
import { fillYLeveldb, inFlight, openCoppice, openRaw, openYLeveldb, rawKey } from "./stores.mjs";
import { assertText, documentOf, TEXT_NAME } from "./trace.mjs";

const ID = "paper";
const LOAD_RATIO_MAX = 1.15;
const LOAD_EXTRA_MS = 2;
/** Loads that take little time are repeated within a round. */
const REPEATS = 7;

export const load = { name: "load", about: "cold load, as written and compacted", run: measureLoad };
export const tail = { name: "tail", about: "a snapshot and 0 to 10,000 later events", run: measureTail };

async function measureLoad({ rounds, scratch, trace: { updates }, note }) {
  const expected = expectedOf(updates);
  note("  writing");
  const written = await filledCoppice(scratch, updates, { snapshotPolicy: never });
  const usual = await filledCoppice(scratch, updates);
  const compacted = await filledCoppice(scratch, updates);
  await compacted.compact(ID);
  const peers = await filledYLeveldb(scratch, updates);
  const flushed = openYLeveldb(peers.flushed);
  const check = (name, doc) => assertText(doc, expected.text, name);
  note("  compacted");
  const quick = await runRounds(
    rounds,
    [
      coppiceSide("coppice", compacted, check),
      memorySide("Yjs from memory", expected.snapshot, check),
      { name: "y-leveldb, flushed", run: () => timeLoad("y-leveldb", () => flushed.getYDoc(ID), check) },
    ],
    note,
    REPEATS,
  );
  note("  as written");
  const slow = await runRounds(
    rounds,
    [
      coppiceSide("coppice, default policy", usual, check),
      coppiceSide("coppice, never a snapshot", written, check),
      yLeveldbSide("y-leveldb", peers.written, scratch, check),
    ],
    note,
  );
  await flushed.destroy();
  for (const storage of [written, usual, compacted]) await storage.close();
  const size = `${updates.length} events, snapshot of ${expected.snapshot.length} bytes`;
  return {
    rounds: { compacted: quick, written: slow },
    tables: [
      loadTable(`Cold load, compacted: ${size}`, quick, "Yjs from memory"),
      loadTable("Cold load, as written", slow, "coppice, default policy"),
    ],
    targets: [loadTarget(quick)],
  };
}

/** Also of other loads. `base`: the side that the others are compared with. */
export function loadTable(title, results, base) {
  return {
    title,
    note: "The storage is open; no side syncs to read.",
    columns: [
      ["side", "text"],
      ["ms", "msSpread", "ms"],
      ["ratio", "ratio", `of ${base}`],
    ],
    rows: Object.entries(results).map(([side, ms]) => ({
      side,
      ms: summary(ms),
      ratio: side === base ? undefined : ratios(ms, results[base]),
    })),
  };
}

function loadTarget(results) {
  const adjusted = results.coppice.map((ms) => ms - LOAD_EXTRA_MS);
  const measured = ratios(adjusted, results["Yjs from memory"]);
  return {
    what: `load of a compacted document less ${LOAD_EXTRA_MS} ms, against Yjs applying its snapshot from memory`,
    wanted: `≤ ${LOAD_RATIO_MAX} ×`,
    measured,
    unit: "ratio",
    met: measured.median <= LOAD_RATIO_MAX,
  };
}

async function measureTail({ rounds, quick, scratch, trace: { updates }, note }) {
  const lengths = quick ? [0, 100, 1000] : [0, 100, 1000, 10_000];
  const tables = [];
  const all = {};
  for (const length of lengths) {
    note(`  ${length} later events`);
    const { sides, close } = await tailSides(scratch, updates, length);
    const results = await runRounds(rounds, sides, note, length < 10_000 ? 3 : 1);
    await close();
    all[length] = results;
    const ours = results.coppice;
    const rows = sides.map(({ name }) => ({
      length,
      side: name,
      ms: summary(results[name]),
      ratio: name === "coppice" ? undefined : ratios(results[name], ours),
    }));
    tables.push(...rows);
  }
  const table = {
    title: "Tail load",
    note: "A snapshot and then events that came after it; classic-level: one value, then one value for each event.",
    columns: [
      ["length", "count", "later events"],
      ["side", "text"],
      ["ms", "msSpread", "ms"],
      ["ratio", "ratio", "of coppice"],
    ],
    rows: tables,
  };
  return { rounds: all, tables: [table], targets: [] };
}

async function tailSides(scratch, updates, length) {
  const from = updates.length - length;
  const expected = expectedOf(updates);
  const base = Y.encodeStateAsUpdate(documentOf(updates, from));
  const later = updates.slice(from);
  const check = (name, doc) => assertText(doc, expected.text, name);
  const ours = await openCoppice(scratch.fresh(), { snapshotPolicy: never });
  await ours.append(ID, [base]);
  await ours.compact(ID);
  await inFlight(64, length, (index) => ours.append(ID, [later[index]]));
  const location = scratch.fresh();
  const peer = openYLeveldb(location);
  await peer.storeUpdate(ID, base);
  await peer.flushDocument(ID);
  if (length > 0) await fillYLeveldb(peer, ID, later, 2);
  await peer.destroy();
  const raw = await openRaw(scratch.fresh());
  await raw.batch([base, ...later].map((value, number) => ({ type: "put", key: rawKey(0, number), value })));
  const sides = [
    coppiceSide("coppice", ours, check),
    yLeveldbSide("y-leveldb", location, scratch, check),
    { name: "classic-level", run: () => timeLoad("classic-level", () => rawLoad(raw), check) },
  ];
  const close = async () => {
    await ours.close();
    await raw.close();
  };
  return { sides, close };
}

async function rawLoad(db) {
  const values = await db.values({ gte: rawKey(0, 0), lt: rawKey(1, 0) }).all();
  const doc = new Y.Doc();
  doc.transact(() => {
    for (const value of values) Y.applyUpdate(doc, value);
  });
  return doc;
}

function coppiceSide(name, storage, check) {
  const run = async () => {
    const { ms, value: handle } = await timed(() => storage.load(ID));
    check(name, handle.doc);
    await handle.close();
    return ms;
  };
  return { name, run };
}

function yLeveldbSide(name, written, scratch, check) {
  const run = async () => {
    const location = await scratch.copy(written);
    const store = openYLeveldb(location);
    // Opening is not part of it.
    await store.getAllDocNames();
    const ms = await timeLoad(name, () => store.getYDoc(ID), check);
    await store.destroy();
    await scratch.discard(location);
    return ms;
  };
  return { name, run };
}

function memorySide(name, snapshot, check) {
  const build = () => {
    const doc = new Y.Doc();
    Y.applyUpdate(doc, snapshot);
    return doc;
  };
  return { name, run: () => timeLoad(name, build, check) };
}

async function timeLoad(name, build, check) {
  const { ms, value: doc } = await timed(build);
  check(name, doc);
  doc.destroy();
  return ms;
}

async function filledCoppice(scratch, updates, options) {
  const storage = await openCoppice(scratch.fresh(), options);
  await inFlight(64, updates.length, (index) => storage.append(ID, [updates[index]]));
  await storage.flush();
  return storage;
}

async function filledYLeveldb(scratch, updates) {
  const written = scratch.fresh();
  const store = openYLeveldb(written);
  await fillYLeveldb(store, ID, updates);
  await store.destroy();
  const flushed = await scratch.copy(written);
  const other = openYLeveldb(flushed);
  await other.flushDocument(ID);
  await other.destroy();
  return { written, flushed };
}

function expectedOf(updates) {
  const doc = documentOf(updates);
  return { text: doc.getText(TEXT_NAME).toString(), snapshot: Y.encodeStateAsUpdate(doc) };
}
