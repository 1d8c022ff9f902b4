/**
 * The sides of durable appends: the bare floor, the file log with and without the storage above it, and LevelDB. Each
 * opens in a fresh place and appends the same update; all sync before they acknowledge.
 */
import { fileLogBackend } from "@coppice/file";
import { levelBackend } from "@coppice/level";
import { yjs } from "@coppice/yjs";
import { DocumentStorage, never, systemEnv } from "coppice";
import { RawLog } from "./raw-log.mjs";
import { quantile } from "./rounds.mjs";

const RECORD_BYTES = 200;
const MIB = 1024 * 1024;

/** An update of about 200 bytes that Yjs made; the model checks what it is given. */
export function update() {
  const { create, track } = yjs();
  const doc = create();
  const tracker = track(doc);
  doc.getText("t").insert(0, "b".repeat(RECORD_BYTES - 30));
  return tracker.take(doc)[0];
}

/**
 * Runs `writers` callers, each with one append in flight, for so long. Returns appends a second, and how many ms one
 * took in the middle and at the slow end.
 */
export async function drive(writers, ms, append) {
  const times = [];
  let stopped = false;
  const timer = setTimeout(() => {
    stopped = true;
  }, ms);
  const started = performance.now();
  await Promise.all(
    Array.from({ length: writers }, async (_, writer) => {
      while (!stopped) {
        const called = performance.now();
        await append(writer);
        times.push(performance.now() - called);
      }
    }),
  );
  clearTimeout(timer);
  const rate = (1000 * times.length) / (performance.now() - started);
  return { rate, p50: quantile(times, 0.5), p99: quantile(times, 0.99) };
}

/**
 * What `storage.append` has the backend do, without anything above it: in each commit for each document one batch of
 * what its writers appended, which expects its key to be free and the document's meta to be as it was.
 */
export class BareCommits {
  #backend;
  #batch;
  #ids;
  #seq = 0;
  #meta = new Uint8Array(80).fill(1);

  static async open(location, event, writers, documents) {
    const commits = new BareCommits(await fileLogBackend(location).open(systemEnv()));
    commits.#ids = Array.from({ length: documents }, (_, i) => `doc-${i}`);
    commits.#batch = Buffer.concat([Buffer.alloc(40), ...Array(writers / documents).fill(event)]);
    await commits.#backend.commit({
      put: commits.#ids.map((id) => ({ key: ["meta", id], value: commits.#meta })),
    });
    return commits;
  }

  constructor(backend) {
    this.#backend = backend;
  }

  commit() {
    const [put, expect] = [[], []];
    for (const id of this.#ids) {
      const key = ["events", id, this.#seq];
      put.push({ key, value: this.#batch });
      expect.push({ key: ["meta", id], value: this.#meta }, { key, value: undefined });
    }
    this.#seq++;
    return this.#backend.commit({ put, expect });
  }

  close() {
    return this.#backend.close();
  }
}

export const FLOOR = "raw floor";
export const BARE = "file log, commits alone";

/** By name: opens a side for so many writers; `run` drives it for so many ms, see `drive`. */
export const SIDES = {
  [FLOOR]: (location, event, writers) => {
    const log = new RawLog(location, 256 * MIB);
    return {
      run: (ms) => drive(writers, ms, () => log.append(event)),
      close: () => log.close(),
    };
  },
  [BARE]: async (location, event, writers, documents) => {
    const commits = await BareCommits.open(location, event, writers, documents);
    return {
      run: async (ms) => {
        const { rate, ...times } = await drive(1, ms, () => commits.commit());
        return { rate: writers * rate, ...times };
      },
      close: () => commits.close(),
    };
  },
  "file log": (location, ...load) => storageSide(fileLogBackend(location), ...load),
  "file log, blocking": (location, ...load) =>
    storageSide(fileLogBackend(location, { blocking: true }), ...load),
  LevelDB: (location, ...load) => storageSide(levelBackend(location), ...load),
};

async function storageSide(backend, event, writers, documents) {
  const storage = await DocumentStorage.open({ backend, models: [yjs()], snapshotPolicy: never });
  await storage.append("doc-0", [event]);
  return {
    run: (ms) => drive(writers, ms, (writer) => storage.append(`doc-${writer % documents}`, [event])),
    close: () => storage.close(),
  };
}
