/**
 * What a returning client lacks: a client that has everything, and one that has 99 % of the events.
 *
 * "building" is the work that a server without `diff` does: a document is built and the diff is encoded. The target is
 * measured against its cheapest form, where the snapshot is in memory already; from the store it costs more. The client's document is proved to be complete afterwards.
 *
 * Invariant: the stores are open, compacted or flushed, and a diff changes nothing in them.
 */
import * as Y from "yjs";
import { ratios, runRounds, summary, timed } from "./rounds.mjs";
import { fillYLeveldb, inFlight, openCoppice, openYLeveldb } from "./stores.mjs";
import { assertText, documentOf, TEXT_NAME } from "./trace.mjs";

const ID = "paper";
const REPEATS = 7;

const CLIENTS = [
  { has: "everything", share: 1, atLeast: 20 },
  { has: "99 %", share: 0.99, atLeast: 2 },
];

export const diff = { name: "diff", about: "what a returning client lacks", run: measure };

async function measure({ rounds, scratch, trace: { updates }, note }) {
  note("  writing");
  const ours = await openCoppice(scratch.fresh());
  await inFlight(64, updates.length, (index) => ours.append(ID, [updates[index]]));
  await ours.compact(ID);
  const peer = openYLeveldb(scratch.fresh());
  await fillYLeveldb(peer, ID, updates);
  await peer.flushDocument(ID);
  const whole = documentOf(updates);
  const text = whole.getText(TEXT_NAME).toString();
  const snapshot = Y.encodeStateAsUpdate(whole);
  const [rows, targets, all] = [[], [], {}];
  for (const client of CLIENTS) {
    const count = Math.floor(updates.length * client.share);
    const asker = documentOf(updates, count);
    const sides = sidesOf(ours, peer, snapshot, Y.encodeStateVector(asker), (name, answer) => {
      const doc = documentOf(updates, count);
      Y.applyUpdate(doc, answer);
      assertText(doc, text, name);
    });
    const results = await runRounds(rounds, sides, note, REPEATS);
    all[client.has] = results;
    rows.push(...rowsOf(client, results));
    targets.push(targetOf(client, results));
  }
  await ours.close();
  await peer.destroy();
  return { rounds: all, tables: [tableOf(rows, snapshot)], targets };
}

function sidesOf(ours, peer, snapshot, version, prove) {
  const proved = new Set();
  const side = (name, answer) => ({
    name,
    run: async () => {
      const { ms, value } = await timed(answer);
      if (!proved.has(name)) prove(name, value);
      proved.add(name);
      return ms;
    },
  });
  const build = () => {
    const doc = new Y.Doc();
    Y.applyUpdate(doc, snapshot);
    const answer = Y.encodeStateAsUpdate(doc, version);
    doc.destroy();
    return answer;
  };
  return [
    side("coppice", () => ours.diff(ID, version)),
    side("building from memory", build),
    side("building from the store", async () => {
      const handle = await ours.load(ID);
      const answer = Y.encodeStateAsUpdate(handle.doc, version);
      await handle.close();
      return answer;
    }),
    side("y-leveldb getDiff", () => peer.getDiff(ID, version)),
  ];
}

function rowsOf({ has }, results) {
  return Object.entries(results).map(([side, ms]) => ({
    has,
    side,
    ms: summary(ms),
    ratio: side === "coppice" ? undefined : ratios(ms, results.coppice),
  }));
}

function targetOf({ has, atLeast }, results) {
  const measured = ratios(results["building from memory"], results.coppice);
  return {
    what: `diff for a client that has ${has}, against building the document from memory`,
    wanted: `≥ ${atLeast} ×`,
    measured,
    unit: "ratio",
    met: measured.median >= atLeast,
  };
}

function tableOf(rows, snapshot) {
  return {
    title: "Diff",
    note: `The stores are open, compacted or flushed; no side syncs to read. Snapshot: ${snapshot.length} bytes.`,
    columns: [
      ["has", "text", "client has"],
      ["side", "text"],
      ["ms", "msSpread", "ms"],
      ["ratio", "ratio", "times coppice"],
    ],
    rows,
  };
}
