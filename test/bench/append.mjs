/**
 * Appending: keystrokes as they come, at most 64 of them unacknowledged, into one document or into 64.
 *
 * Invariants: each side acknowledges each keystroke for itself, and its latency counts from handing it over; a
 * round writes into a fresh directory. In 64 documents, each is typed by somebody who waits for the acknowledgement
 * of one keystroke before the next. All sides get the same keystrokes, because y-leveldb grows slower with them; the
 * round that warms up gets a tenth.
 */
import { never } from "coppice";
import { quantile, ratios, runRounds, summary } from "./rounds.mjs";
import { inFlight, openCoppice, openRaw, openYLeveldb, rawKey, SYNCS } from "./stores.mjs";

const WIDTH = 64;
/** Keystrokes into each of many documents. */
const EACH = 1000;

export const append = {
  name: "append",
  about: "keystrokes into one document, 64 in flight",
  run: (setting) => measure(setting, 1),
};

export const appendMany = {
  name: "append-many",
  about: "keystrokes into 64 documents, one in flight each",
  run: (setting) => measure(setting, WIDTH),
};

async function measure(setting, documentCount) {
  const { rounds, quick, trace, note } = setting;
  const most = quick ? 6400 : documentCount === 1 ? trace.updates.length : EACH * documentCount;
  const count = Math.min(most, trace.updates.length);
  const sides = sidesOf(setting, documentCount, count);
  const results = await runRounds(rounds, sides, note);
  const rates = (name) => results[name].map(({ rate }) => rate);
  const rows = sides.map(({ name, syncs }) => {
    const rate = summary(rates(name));
    const latency = (share) => summary(results[name].map((result) => result[share])).median;
    const ratio = name === "coppice" ? undefined : ratios(rates("coppice"), rates(name));
    return { side: name, syncs, count, rate, p50: latency("p50"), p99: latency("p99"), ratio };
  });
  return {
    rounds: results,
    tables: [tableOf(documentCount, rows)],
    targets: targetsOf(documentCount, rates),
  };
}

function tableOf(documentCount, rows) {
  return {
    title: documentCount === 1 ? "Append: one document" : `Append: ${documentCount} documents`,
    note: `${WIDTH} keystrokes in flight in all; latency from handing over to acknowledgement, median of the rounds.`,
    columns: [
      ["side", "text"],
      ["syncs", "text"],
      ["count", "count", "events"],
      ["rate", "rate", "events/s"],
      ["p50", "ms", "p50 ms"],
      ["p99", "ms", "p99 ms"],
      ["ratio", "ratio", "coppice is"],
    ],
    rows,
  };
}

function targetsOf(documentCount, rates) {
  const target = (what, atLeast, peer) => {
    const measured = ratios(rates("coppice"), rates(peer));
    return { what, wanted: `≥ ${atLeast} ×`, measured, unit: "ratio", met: measured.median >= atLeast };
  };
  if (documentCount > 1) {
    return [
      target(`durable appends to ${documentCount} documents, against y-leveldb unsynced`, 8, "y-leveldb"),
    ];
  }
  return [
    target("durable appends to one document, against y-leveldb unsynced", 20, "y-leveldb"),
    target("durable appends to one document, against classic-level's unsynced puts", 1, "classic-level puts"),
  ];
}

function sidesOf({ scratch, trace }, documentCount, count) {
  const side = (name, syncs, open, put, close) => ({
    name,
    syncs,
    run: async (round) => {
      const location = scratch.fresh();
      const store = await open(location);
      const typed = Math.ceil(round === 0 ? count / 10 : count);
      const result = await type(trace.updates, documentCount, typed, (...keystroke) =>
        put(store, ...keystroke),
      );
      await close(store);
      await scratch.discard(location);
      return result;
    },
  });
  const close = (store) => store.close();
  const append = (store, document, _number, update) => store.append(`doc-${document}`, [update]);
  return [
    side("coppice", SYNCS.coppice, (location) => openCoppice(location), append, close),
    side(
      "y-leveldb",
      SYNCS.yLeveldb,
      openYLeveldb,
      (store, document, _number, update) => store.storeUpdate(`doc-${document}`, update),
      (store) => store.destroy(),
    ),
    side(
      "classic-level puts",
      SYNCS.rawPuts,
      openRaw,
      (db, document, number, update) => db.put(rawKey(document, number), update),
      close,
    ),
    side("classic-level groups", SYNCS.rawGroups, openGroups, (groups, ...put) => groups.put(...put), close),
    side(
      "coppice, no snapshots",
      SYNCS.coppice,
      (location) => openCoppice(location, { snapshotPolicy: never }),
      append,
      close,
    ),
  ];
}

/** Types `count` keystrokes; several documents get the same ones each. */
async function type(updates, documentCount, count, put) {
  const latencies = new Float64Array(count);
  const keystroke = async (document, number) => {
    const handed = performance.now();
    await put(document, number, updates[number]);
    latencies[number * documentCount + document] = performance.now() - handed;
  };
  const started = performance.now();
  if (documentCount === 1) await inFlight(WIDTH, count, (number) => keystroke(0, number));
  else {
    const typists = Array.from({ length: documentCount }, async (_, document) => {
      for (let number = 0; number < count / documentCount; number++) await keystroke(document, number);
    });
    await Promise.all(typists);
  }
  const ms = performance.now() - started;
  return { rate: (1000 * count) / ms, p50: quantile(latencies, 0.5), p99: quantile(latencies, 0.99) };
}

/** What a careful user of LevelDB would write: what gathers goes down as one batch with one sync. */
async function openGroups(location) {
  const db = await openRaw(location);
  let [gathered, writing] = [[], false];
  const write = async () => {
    writing = true;
    while (gathered.length > 0) {
      const group = gathered.splice(0);
      await db.batch(
        group.map(({ key, value }) => ({ type: "put", key, value })),
        { sync: true },
      );
      for (const { done } of group) done();
      await new Promise(setImmediate);
    }
    writing = false;
  };
  return {
    put: (document, number, value) =>
      new Promise((done, failed) => {
        gathered.push({ key: rawKey(document, number), value, done });
        if (writing) return;
        writing = true;
        setImmediate(() => write().catch(failed));
      }),
    close: () => db.close(),
  };
}
