/**
 * The event graph and trees: events folded in memory, a tree of 10,000 nodes after 100,000 events loaded from LevelDB,
 * what its snapshot grows with, and the bytes of real histories.
 *
 * Invariants: the editor is seeded; what was loaded is compared with what was written, outside of the timed part. The
 * tree's log is stored in batches of 1,000 events; the later events one by one. Bytes are compared with
 * msgpackr's of the same events, as maps and with its own record structures.
 */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { deflateRawSync, gunzip } from "node:zlib";
import { levelBackend } from "@coppice/level";
import { DocumentStorage, graph as graphModel, never, tree } from "coppice";
import { quantile, runRounds, summary, timed } from "./rounds.mjs";
import { seededRandom } from "./trace.mjs";

// The one that core has: the workspace itself does not depend on it.
const { Packr } = createRequire(new URL("../../packages/core/package.json", import.meta.url))("msgpackr");

const ID = "tree";
const BATCH_EVENTS = 1000;
const LATER_EVENTS = 100;
const REPLAY_MS_MAX = 500;
const LOAD_MS_MAX = 25;
const RATE_MIN = 1_000_000;
/** The share of msgpackr's bytes that a batch may take. */
const SHARE_MAX = 0.2;

export const graph = {
  name: "graph",
  about: "event graph and trees: fold, replay, load, bytes",
  run: measureGraph,
};

async function measureGraph({ rounds, quick, scratch, note }) {
  const scale = quick ? 0.1 : 1;
  note("  in memory");
  const memory = await measureMemory(rounds, 1_000_000 * scale, note);
  note("  a tree on LevelDB");
  const stored = await measureTree(rounds, scratch, 10_000 * scale, 100_000 * scale, note);
  note("  growth");
  const growth = await measureGrowth(scratch, scale, note);
  note("  bytes of real histories");
  const bytes = await measureBytes(quick ? 10_000 : Number.POSITIVE_INFINITY);
  return {
    rounds: { memory: memory.results, tree: stored.results },
    tables: [memory.table, stored.table, growth, bytes.table],
    targets: [...memory.targets, ...stored.targets, ...bytes.targets],
  };
}

/** A counter: the reducer costs nothing, so the graph itself is measured. */
async function measureMemory(rounds, count, note) {
  const model = graphModel({ initial: 0, apply: (sum, n) => sum + n });
  const author = model.create();
  for (let i = 0; i < count; i++) author.emit(1);
  const events = author.events();
  const pair = [model.create(), model.create()];
  const mixed = [];
  for (let i = 0; i < count / 10; i += 10) {
    const fresh = pair.map((doc) => Array.from({ length: 5 }, () => doc.emit(1)));
    model.apply(pair[0], fresh[1]);
    model.apply(pair[1], fresh[0]);
    mixed.push(...fresh.flat());
  }
  const expect = (doc, sum) => {
    if (doc.state !== sum) throw new Error(`the sum is ${doc.state}, not ${sum}`);
  };
  const applying = (all) => async () => {
    const doc = model.create();
    const { ms } = await timed(() => model.apply(doc, all));
    expect(doc, all.length);
    return (all.length / ms) * 1000;
  };
  const slices = async () => {
    const doc = model.create();
    const { ms } = await timed(() => {
      for (let at = 0; at < mixed.length; at += 5) model.apply(doc, mixed.slice(at, at + 5));
    });
    expect(doc, mixed.length);
    return (mixed.length / ms) * 1000;
  };
  const emitting = async () => {
    const doc = model.create();
    const { ms } = await timed(() => {
      for (let i = 0; i < count / 10; i++) doc.emit(1);
    });
    expect(doc, count / 10);
    return (count / 10 / ms) * 1000;
  };
  const sides = [
    { name: "sequential, applied", run: applying(events) },
    { name: "two replicas at once, applied", run: applying(mixed) },
    { name: "two replicas at once, applied five by five", run: slices },
    { name: "made here, one by one", run: emitting },
  ];
  const results = await runRounds(rounds, sides, note);
  const rate = summary(results["sequential, applied"]);
  return {
    results,
    table: {
      title: "Event graph in memory",
      note: "Events per second; the reducer adds a number. No disk.",
      columns: [
        ["side", "text", "events"],
        ["rate", "rate", "events/s"],
      ],
      rows: sides.map(({ name }) => ({ side: name, rate: summary(results[name]) })),
    },
    targets: [
      target("sequential events applied in memory, of a million a second", `≥ 1 ×`, rate, RATE_MIN, true),
    ],
  };
}

async function measureTree(rounds, scratch, nodeCount, eventCount, note) {
  const { events, content } = editTree(nodeCount, eventCount);
  const whole = await storeEvents(scratch, events);
  const compacted = await storeEvents(scratch, events);
  await compacted.compact(ID);
  const handle = await compacted.load(ID);
  for (let i = 0; i < LATER_EVENTS; i++) {
    handle.change((doc) => doc.put({ id: `later ${i}` }));
    await handle.save();
  }
  const later = JSON.stringify(handle.doc.toData());
  await handle.close();
  const replay = loadSide("full replay", whole, content);
  const load = loadSide(`snapshot and ${LATER_EVENTS} later events`, compacted, later);
  const results = {
    ...(await runRounds(rounds, [replay], note, 3)),
    ...(await runRounds(rounds, [load], note, 9)),
  };
  const { snapshotBytes } = await compacted.info(ID);
  await whole.close();
  await compacted.close();
  const rows = [replay, load].map(({ name }) => ({ side: name, ms: summary(results[name]) }));
  return {
    results,
    table: {
      title: `Tree: ${eventCount} events, ${nodeCount} live nodes`,
      note: `LevelDB, the storage is open; no side syncs to read. Snapshot: ${snapshotBytes} bytes as stored.`,
      columns: [
        ["side", "text"],
        ["ms", "msSpread", "ms"],
      ],
      rows,
    },
    targets: [
      target(`full replay, of ${REPLAY_MS_MAX} ms`, "≤ 1 ×", rows[0].ms, REPLAY_MS_MAX, false),
      target(
        `load from a snapshot and ${LATER_EVENTS} events, of ${LOAD_MS_MAX} ms`,
        "≤ 1 ×",
        rows[1].ms,
        LOAD_MS_MAX,
        false,
      ),
    ],
  };
}

function loadSide(name, storage, content) {
  const run = async () => {
    const { ms, value: handle } = await timed(() => storage.load(ID));
    if (handle.doc.children().length === 0) throw new Error("an empty tree");
    if (content !== undefined && JSON.stringify(handle.doc.toData()) !== content)
      throw new Error("another tree");
    await handle.close();
    return ms;
  };
  return { name, run };
}

/** The same live nodes after ever longer histories, and the same history with ever more nodes. */
async function measureGrowth(scratch, scale, note) {
  const rows = [];
  for (const [nodes, total] of [
    [10, 50],
    [10, 100],
    [10, 200],
    [2.5, 100],
    [5, 100],
    [20, 100],
  ]) {
    const [nodeCount, eventCount] = [nodes * 1000 * scale, total * 1000 * scale];
    const { events } = editTree(nodeCount, eventCount);
    const storage = await storeEvents(scratch, events);
    await storage.compact(ID);
    const { run } = loadSide("", storage, undefined);
    const times = [];
    for (let i = 0; i < 9; i++) times.push(await run());
    const { snapshotBytes } = await storage.info(ID);
    rows.push({
      events: eventCount,
      nodes: nodeCount,
      bytes: snapshotBytes,
      ms: quantile(times.slice(2), 0.5),
    });
    await storage.close();
    note(`  ${eventCount} events, ${nodeCount} nodes`);
  }
  return {
    title: "Tree: what snapshots and loads grow with",
    note: "After a compaction; snapshot bytes as stored.",
    columns: [
      ["events", "count"],
      ["nodes", "count", "live nodes"],
      ["bytes", "count", "snapshot bytes"],
      ["ms", "ms", "load ms"],
    ],
    rows,
  };
}

async function storeEvents(scratch, events) {
  const backend = levelBackend(scratch.fresh());
  const storage = await DocumentStorage.open({ backend, models: [tree()], snapshotPolicy: never });
  for (let at = 0; at < events.length; at += BATCH_EVENTS) {
    await storage.append(ID, events.slice(at, at + BATCH_EVENTS));
  }
  await storage.flush();
  return storage;
}

/** Puts, updates, moves and deletes, so that about `nodeCount` nodes are alive at the end. */
function editTree(nodeCount, eventCount) {
  const random = seededRandom(7);
  const below = (end) => Math.floor(random() * end);
  const model = tree();
  const doc = model.create();
  const ids = [];
  while (doc.size < eventCount) {
    const kind = below(100);
    const id = ids[below(ids.length)];
    const parent = ids.length === 0 || below(10) === 0 ? "root" : ids[below(ids.length)];
    const grow = ids.length < nodeCount && kind < 40;
    if (ids.length < 10 || grow)
      ids.push(doc.put({ parent, attributes: { title: `Node ${doc.size}`, done: false } }));
    else if (kind < 46 && doc.children(id).length === 0) {
      doc.delete(id);
      ids[ids.indexOf(id)] = ids.at(-1);
      ids.pop();
    } else if (kind < 55 && parent !== id && !doc.path(parent).some((node) => node.id === id))
      doc.move(id, { parent });
    else doc.update(id, { title: `Node ${below(eventCount)}`, done: kind % 2 === 0 });
  }
  return { events: doc.events(), content: JSON.stringify(doc.toData()) };
}

async function measureBytes(limit) {
  const rows = [];
  for (const name of ["automerge-paper", "friendsforever", "rustcode", "sveltecomponent"]) {
    const events = await recordedEvents(name, limit);
    if (events !== undefined) rows.push(bytesRow(name, events));
  }
  if (rows.length === 0) rows.push(bytesRow("a tree of the seeded editor", editTree(1000, 10_000).events));
  const shares = rows.map(({ share }) => share.median);
  const worst = summary([Math.max(...shares)]);
  return {
    table: {
      title: "Bytes of an event, one batch for each thousand",
      note: "Payloads are the recorded patches; msgpackr: the same events as maps, and with record structures.",
      columns: [
        ["history", "text"],
        ["events", "count"],
        ["ours", "decimal", "bytes/event"],
        ["deflated", "decimal"],
        ["maps", "decimal", "msgpackr maps"],
        ["records", "decimal", "msgpackr records"],
        ["recordsDeflated", "decimal", "records deflated"],
        ["share", "ratio", "of maps"],
      ],
      rows,
    },
    targets: [
      target("bytes of an event, of msgpackr's maps", `≤ ${SHARE_MAX} ×`, worst, 1, false, SHARE_MAX),
    ],
  };
}

function bytesRow(history, events) {
  const model = graphModel({ initial: null, apply: (state) => state });
  const maps = new Packr({ useRecords: false });
  const records = new Packr({ useRecords: true });
  const sums = { ours: 0, deflated: 0, maps: 0, records: 0, recordsDeflated: 0 };
  for (let at = 0; at < events.length; at += BATCH_EVENTS) {
    const batch = events.slice(at, at + BATCH_EVENTS);
    const plain = batch.map(({ replica, sequence, parents, lamport, time, version, payload }) => {
      return { replica, sequence, parents, lamport, time, version, payload };
    });
    const [encoded, packed] = [model.codec.encode(batch), records.pack(plain)];
    sums.ours += encoded.length;
    sums.deflated += deflateRawSync(encoded).length;
    sums.maps += maps.pack(plain).length;
    sums.records += packed.length;
    sums.recordsDeflated += deflateRawSync(packed).length;
  }
  const row = { history, events: events.length };
  for (const [side, sum] of Object.entries(sums)) row[side] = sum / events.length;
  return { ...row, share: summary([sums.ours / sums.maps]) };
}

/** A recording as events of a graph: its transactions, agents and parents. */
async function recordedEvents(name, limit) {
  const folder = process.env.COPPICE_TRACES || resolve(import.meta.dirname, "../../../shared/traces");
  const path = join(folder, `${name}.json.gz`);
  if (!existsSync(path)) return undefined;
  const { txns } = JSON.parse((await promisify(gunzip)(await readFile(path))).toString("utf8"));
  const counts = [];
  const events = [];
  for (const [index, { parents, agent = 0, time, patches }] of txns.slice(0, limit).entries()) {
    const before = (parents ?? (index === 0 ? [] : [index - 1])).map((at) => events[at]);
    const sequence = counts[agent] ?? 0;
    counts[agent] = sequence + 1;
    events.push({
      replica: `bench${String(agent).padStart(7, "0")}`,
      sequence,
      parents: before.map(({ replica, sequence: at }) => ({ replica, sequence: at })),
      lamport: 1 + Math.max(0, ...before.map(({ lamport }) => lamport)),
      time: time === undefined ? 1_700_000_000_000 + index * 150 : Date.parse(time),
      version: 1,
      payload: patches,
    });
  }
  return events;
}

function target(what, wanted, { median, min, max }, unit, atLeast, bound = 1) {
  const measured = { median: median / unit, min: min / unit, max: max / unit };
  return {
    what,
    wanted,
    measured,
    unit: "ratio",
    met: atLeast ? measured.median >= bound : measured.median <= bound,
  };
}
