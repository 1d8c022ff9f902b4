/**
 * Bytes written for each event, as one writer's document grows: `handle.save` after every keystroke, with the
 * default snapshot policy. Counted is what storage commits to the backend, as its observer reports it:
 * batches, snapshots and meta. LevelDB's own log and tables multiply that by a factor of their own.
 *
 * Invariant: nothing here is timed, so the backend does not sync; background snapshots are awaited at the end of
 * each thousand, and belong to it.
 */
import { openCoppice } from "./stores.mjs";

const BLOCK = 1000;
const FLAT_MAX = 1.5;

export const amplification = {
  name: "amplification",
  about: "bytes written per event as a document grows to 10,000 events",
  run: measure,
};

async function measure({ quick, scratch, trace: { updates }, note }) {
  const blocks = quick ? 4 : 10;
  const written = { bytes: 0, commits: 0, snapshots: 0, snapshotBytes: 0 };
  const storage = await openCoppice(scratch.fresh(), {
    level: { durability: "process" },
    observer: {
      commit: ({ bytes }) => {
        written.bytes += bytes;
        written.commits++;
      },
      snapshot: ({ bytes, error }) => {
        if (error !== undefined) throw error;
        written.snapshots++;
        written.snapshotBytes = bytes;
      },
    },
  });
  const handle = await storage.open("paper");
  const [rows, { applyUpdate }] = [[], await import("yjs")];
  for (let block = 0; block < blocks; block++) {
    const before = { ...written };
    let eventBytes = 0;
    for (const update of updates.slice(block * BLOCK, (block + 1) * BLOCK)) {
      applyUpdate(handle.doc, update);
      await handle.save();
      eventBytes += update.length;
    }
    await storage.flush();
    rows.push({
      events: (block + 1) * BLOCK,
      bytes: (written.bytes - before.bytes) / BLOCK,
      sofar: written.bytes / ((block + 1) * BLOCK),
      event: eventBytes / BLOCK,
      snapshots: written.snapshots - before.snapshots,
      snapshotBytes: written.snapshotBytes,
    });
    note(`  ${(block + 1) * BLOCK} events`);
  }
  await handle.close();
  await storage.close();
  return { rounds: rows, tables: [tableOf(rows)], targets: [targetOf(rows)] };
}

function tableOf(rows) {
  return {
    title: "Bytes written for each event, one writer, a save for each keystroke",
    note: "Bytes handed to the backend, snapshots included; not timed, not synced.",
    columns: [
      ["events", "count"],
      ["bytes", "decimal", "bytes/event in this thousand"],
      ["sofar", "decimal", "bytes/event so far"],
      ["event", "decimal", "of these the event itself"],
      ["snapshots", "count", "snapshots"],
      ["snapshotBytes", "count", "bytes of the newest"],
    ],
    rows,
  };
}

function targetOf(rows) {
  const mean = (part) => part.reduce((sum, { bytes }) => sum + bytes, 0) / part.length;
  const half = rows.length / 2;
  const growth = mean(rows.slice(half)) / mean(rows.slice(0, half));
  return {
    what: `bytes written for each event, later half of ${rows.length * BLOCK} events against the first half`,
    wanted: `≤ ${FLAT_MAX} ×`,
    measured: { median: growth, min: growth, max: growth },
    unit: "ratio",
    met: growth <= FLAT_MAX,
  };
}
