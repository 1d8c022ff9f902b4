/**
 * The stores that are compared, each in a directory of its own, and the temporary folder that holds them.
 *
 * Ours has its default settings: durability "power", the default snapshot policy unless a workload says otherwise.
 * y-leveldb brings the LevelDB binding it depends on. Classic-level is used as bytes, with its defaults.
 */
import { rmSync } from "node:fs";
import { cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { levelBackend } from "@coppice/level";
import { yjs } from "@coppice/yjs";
import { ClassicLevel } from "classic-level";
import { DocumentStorage } from "coppice";
import { LeveldbPersistence } from "y-leveldb";

export const SYNCS = {
  coppice: "yes, before each acknowledgement",
  yLeveldb: "never",
  rawPuts: "never",
  rawGroups: "yes, each group",
};

export class Scratch {
  #count = 0;

  static async create(parent = tmpdir()) {
    return new Scratch(await mkdtemp(join(parent, "coppice-bench-")));
  }

  constructor(path) {
    this.path = path;
  }

  /** A path that nothing is at yet. */
  fresh() {
    return join(this.path, `store-${this.#count++}`);
  }

  /** A copy of a closed store. */
  async copy(from) {
    const to = this.fresh();
    await cp(from, to, { recursive: true });
    return to;
  }

  async discard(path) {
    await rm(path, { recursive: true, force: true });
  }

  async remove() {
    await rm(this.path, { recursive: true, force: true });
  }

  /** For the last moment of a process. */
  removeNow() {
    rmSync(this.path, { recursive: true, force: true });
  }
}

export function openCoppice(location, options = {}) {
  const { level, ...others } = options;
  return DocumentStorage.open({ backend: levelBackend(location, level), models: [yjs()], ...others });
}

export function openYLeveldb(location) {
  return new LeveldbPersistence(location);
}

/**
 * Stores updates in one go, under the keys and as the values that `storeUpdate` writes. It takes seconds
 * where `storeUpdate` takes minutes.
 */
export async function fillYLeveldb(store, id, updates, from = 0) {
  if (from === 0) await store.storeUpdate(id, updates[0]);
  await store._transact(async (db) => {
    for (let at = Math.max(1, from); at < from + updates.length; at += 1000) {
      const slice = updates.slice(at - from, at - from + 1000);
      const put = (update, index) => ({
        type: "put",
        key: ["v1", id, "update", at + index],
        value: Buffer.from(update),
      });
      await db.batch(slice.map(put));
    }
  });
}

export async function openRaw(location) {
  const db = new ClassicLevel(location, { keyEncoding: "view", valueEncoding: "view" });
  await db.open();
  return db;
}

/** Orders by document, then by number. */
export function rawKey(document, number) {
  const key = new Uint8Array(12);
  const view = new DataView(key.buffer);
  view.setUint32(0, document);
  view.setUint32(8, number);
  return key;
}

/** Runs `task(0 … count - 1)`, `width` at a time, each started in order as soon as an earlier one is done. */
export async function inFlight(width, count, task) {
  let next = 0;
  const worker = async () => {
    while (next < count) await task(next++);
  };
  await Promise.all(Array.from({ length: width }, worker));
}
