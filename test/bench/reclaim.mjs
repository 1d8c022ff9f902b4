/**
 * What a store weighs on the disk, step by step: as written, compacted, reclaimed, after deletions, and after an
 * erasure, on LevelDB and on a file log. For each step also what the documents themselves hold then.
 *
 * Bytes are the sizes of the files in the directory with the store open; a file log fills its last segment with zeros
 * ahead (32 MiB by default; 1 MiB here). Both sync. Times are of one run in this process.
 */
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { fileLogBackend } from "@coppice/file";
import { levelBackend } from "@coppice/level";
import { yjs } from "@coppice/yjs";
import { DocumentStorage, never } from "coppice";

const DOCUMENTS = 20;
const BATCH_EVENTS = 16;
const SEGMENT_BYTES = 1024 * 1024;

export const reclaim = {
  name: "reclaim",
  about: "bytes on disk before and after compaction, reclaiming and erasing",
  run: measure,
};

async function measure({ quick, scratch, trace: { updates }, note }) {
  const events = updates.slice(0, quick ? 2000 : 5000);
  const rows = [];
  for (const backend of ["LevelDB", "file log"]) {
    rows.push(...(await steps(backend, scratch.fresh(), events)));
    note(`  ${backend}`);
  }
  return { rounds: rows, tables: [tableOf(rows)], targets: [] };
}

async function steps(name, directory, events) {
  const backend =
    name === "LevelDB"
      ? levelBackend(directory)
      : fileLogBackend(directory, { segmentBytesMax: SEGMENT_BYTES });
  const storage = await DocumentStorage.open({ backend, models: [yjs()], snapshotPolicy: never });
  const ids = Array.from({ length: DOCUMENTS }, (_, index) => `paper ${index}`);
  const rows = [];
  const step = async (what, run) => {
    const started = performance.now();
    await run();
    const ms = performance.now() - started;
    let held = 0;
    for await (const id of storage.list()) {
      const { logBytes, bytesSinceSnapshot, snapshotBytes } = await storage.info(id);
      held += snapshotBytes > 0 ? bytesSinceSnapshot + snapshotBytes : logBytes;
    }
    rows.push({ backend: name, what, held, disk: await sizeOf(directory), ms });
  };
  await step("written", () => Promise.all(ids.map((id) => write(storage, id, events))));
  await step("compacted", () => storage.compactAll());
  await step("reclaimed", () => storage.compactAll({ reclaim: true }));
  await step("half deleted", async () => {
    for (const id of ids.slice(DOCUMENTS / 2)) await storage.delete(id);
  });
  await step("the rest but one erased", async () => {
    for (const id of ids.slice(1, DOCUMENTS / 2)) await storage.erase(id, { reclaim: false });
    await storage.erase(ids.at(-1));
  });
  await storage.close();
  return rows;
}

async function write(storage, id, events) {
  for (let from = 0; from < events.length; from += BATCH_EVENTS)
    await storage.append(id, events.slice(from, from + BATCH_EVENTS));
}

async function sizeOf(directory) {
  let bytes = 0;
  for (const name of await readdir(directory)) {
    bytes += await stat(join(directory, name)).then(
      ({ size }) => size,
      () => 0,
    );
  }
  return bytes;
}

function tableOf(rows) {
  return {
    title: `Bytes on disk: ${DOCUMENTS} documents, written, compacted, reclaimed, erased`,
    note: "Files as they are with the store open; the file log's segments are of 1 MiB. Both sync.",
    columns: [
      ["backend", "text"],
      ["what", "text", "after"],
      ["held", "count", "bytes of the documents"],
      ["disk", "count", "bytes on disk"],
      ["ms", "count", "ms"],
    ],
    rows,
  };
}
