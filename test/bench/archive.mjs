/**
 * The archive of a document: its bytes beside the same events compressed in one piece, as it grows compaction by
 * compaction; how the bytes that compaction writes grow with it; and what a load in it takes.
 *
 * Bytes are those that storage hands to the backend. Times are of one run in this process, on LevelDB that does not
 * sync (durability "process"): a load only reads. What was loaded is compared with what was written.
 */
import { deflateRawSync } from "node:zlib";
import { binaryCodec, never, systemEnv } from "coppice";
import { openCoppice } from "./stores.mjs";
import { assertText, documentOf, seededRandom, TEXT_NAME } from "./trace.mjs";

const RATIO_MAX = 1.3;

export const archive = {
  name: "archive",
  about: "bytes of archived history beside the same events in one piece, and loads in it",
  run: measure,
};

async function measure({ quick, scratch, trace: { updates }, note }) {
  const events = updates.slice(0, quick ? 10_000 : 100_000);
  const rows = [];
  for (const [eventsInBatch, eventsInCompaction] of [
    [1, 1000],
    [1, 20_000],
    [16, 1000],
    [64, 20_000],
  ]) {
    if (eventsInCompaction >= events.length) continue;
    rows.push(await one(scratch, events, eventsInBatch, eventsInCompaction));
    note(`  batches of ${eventsInBatch}, compacted after ${eventsInCompaction}`);
  }
  return { rounds: rows, tables: [tableOf(rows)], targets: [targetOf(rows)] };
}

async function one(scratch, events, eventsInBatch, eventsInCompaction) {
  // The recording has no times: each batch comes 20 to 400 ms after the one before, as from a typist.
  const random = seededRandom(1);
  let now = 1_767_225_600_000;
  let written = 0;
  let compacting = false;
  const storage = await openCoppice(scratch.fresh(), {
    level: { durability: "process" },
    history: "archive",
    snapshotPolicy: never,
    env: { ...systemEnv(), now: () => now },
    observer: {
      commit: ({ bytes }) => {
        if (compacting) written += bytes;
      },
    },
  });
  const compact = async () => {
    compacting = true;
    const { outcome } = await storage.compact("paper");
    compacting = false;
    if (outcome !== "compacted" && outcome !== "nothing-to-do")
      throw new Error(`a compaction ended with ${outcome}`);
  };
  let since = 0;
  for (let from = 0; from < events.length; from += eventsInBatch) {
    now += 20 + Math.floor(random() * 380);
    await storage.append("paper", events.slice(from, from + eventsInBatch));
    since += eventsInBatch;
    if (since < eventsInCompaction) continue;
    since = 0;
    await compact();
  }
  await compact();
  const { oldestClock, archiveBytes } = await storage.info("paper");
  const whole = deflateRawSync(binaryCodec.encode(events.slice(0, oldestClock))).length;
  const middle = Math.floor(oldestClock / 2);
  const started = performance.now();
  const past = await storage.load("paper", { at: middle });
  const loadMs = performance.now() - started;
  const expected = documentOf(events, middle);
  assertText(past.doc, expected.getText(TEXT_NAME).toString(), "archive");
  expected.destroy();
  await past.close();
  await storage.close();
  return {
    batch: eventsInBatch,
    every: eventsInCompaction,
    archived: oldestClock,
    archiveBytes,
    whole,
    ratio: archiveBytes / whole,
    perEvent: archiveBytes / oldestClock,
    written: written / oldestClock,
    middle,
    loadMs,
  };
}

function tableOf(rows) {
  return {
    title: "The archive beside the same events compressed in one piece",
    note: "Raw deflate on both sides; batches 20 to 400 ms apart. Written: by all compactions, snapshots included; not synced.",
    columns: [
      ["batch", "count", "events/batch"],
      ["every", "count", "events/compaction"],
      ["archived", "count", "events archived"],
      ["archiveBytes", "count", "bytes"],
      ["whole", "count", "bytes in one piece"],
      ["ratio", "decimal", "ratio"],
      ["perEvent", "decimal", "bytes/event"],
      ["written", "decimal", "written bytes/event"],
      ["loadMs", "decimal", "ms to load the middle"],
    ],
    rows,
  };
}

function targetOf(rows) {
  const ratios = rows.map(({ ratio }) => ratio).sort((left, right) => left - right);
  const [min, median, max] = [ratios[0], ratios[Math.floor(ratios.length / 2)], ratios.at(-1)];
  return {
    what: "archived history beside the same events compressed in one piece",
    wanted: `≤ ${RATIO_MAX} ×`,
    measured: { median, min, max },
    unit: "ratio",
    met: max <= RATIO_MAX,
  };
}
