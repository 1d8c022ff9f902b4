/**
 * The file log beside what the disk can do at most, and beside LevelDB, in one run: durable appends, a lone append,
 * opening, reading, merging, memory and write amplification.
 *
 * The floor of appends is a log without anything above it: framed and checksummed records of the same bytes, what
 * gathers goes down as one write and one fdatasync into a file filled with zeros ahead. All sides sync before they
 * acknowledge. Invariant: each trial has a fresh directory, and sides take turns within a round.
 */
import {
  closeSync,
  fdatasync,
  fdatasyncSync,
  fsyncSync,
  openSync,
  readSync,
  write,
  writeSync,
} from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { fileLogBackend } from "@coppice/file";
import { levelBackend } from "@coppice/level";
import { yjs } from "@coppice/yjs";
import { DocumentStorage, never, systemEnv } from "coppice";
import { quantile, ratios, runRounds, summary, timed } from "./rounds.mjs";

const RECORD_BYTES = 200;
const MIB = 1024 * 1024;

export const file = {
  name: "file",
  about: "the file log beside the disk's floor and LevelDB",
  async run(setting) {
    const parts = [];
    for (const part of [appends, lone, opening, reading, merging]) {
      setting.note(`  ${part.name}`);
      parts.push(await part(setting));
    }
    return {
      rounds: parts.map(({ rounds }) => rounds),
      tables: parts.flatMap(({ tables }) => tables),
      targets: parts.flatMap(({ targets }) => targets),
    };
  },
};

/** Runs `writers` callers, each with one append in flight, for so long; returns appends a second. */
async function drive(writers, ms, append) {
  let count = 0;
  let stopped = false;
  const timer = setTimeout(() => {
    stopped = true;
  }, ms);
  const started = performance.now();
  await Promise.all(
    Array.from({ length: writers }, async (_, writer) => {
      while (!stopped) {
        await append(writer);
        count++;
      }
    }),
  );
  clearTimeout(timer);
  return (1000 * count) / (performance.now() - started);
}

/** An update of about 200 bytes that Yjs made; the model checks what it is given. */
function update() {
  const { create, track } = yjs();
  const doc = create();
  const tracker = track(doc);
  doc.getText("t").insert(0, "b".repeat(RECORD_BYTES - 30));
  return tracker.take(doc)[0];
}

class RawLog {
  #buffers = [Buffer.allocUnsafe(8 * MIB), Buffer.allocUnsafe(8 * MIB)];
  #which = 0;
  #size = 0;
  #queue = [];
  #busy = false;
  #at = 0;

  constructor(path, bytes) {
    this.bytes = bytes;
    this.descriptor = openSync(path, "w+");
    const zeros = Buffer.alloc(MIB);
    for (let at = 0; at < bytes; at += MIB) writeSync(this.descriptor, zeros, 0, MIB, at);
    fsyncSync(this.descriptor);
  }

  append(record) {
    return new Promise((resolve) => {
      const buffer = this.#buffers[this.#which];
      const at = this.#size;
      buffer.set(record, at + 8);
      buffer.writeUInt32LE(record.length, at);
      buffer.writeUInt32LE(crc32(buffer.subarray(at + 8, at + 8 + record.length)), at + 4);
      this.#size = at + 8 + record.length;
      this.#queue.push(resolve);
      if (this.#busy) return;
      this.#busy = true;
      queueMicrotask(() => this.#flush());
    });
  }

  #flush() {
    const [queue, size, buffer] = [this.#queue, this.#size, this.#buffers[this.#which]];
    if (queue.length === 0) {
      this.#busy = false;
      return;
    }
    [this.#queue, this.#size, this.#which] = [[], 0, 1 - this.#which];
    const at = this.#at + size > this.bytes ? 0 : this.#at;
    this.#at = at + size;
    write(this.descriptor, buffer, 0, size, at, (failed, count) => {
      if (failed || count !== size) throw failed ?? new Error("a short write");
      fdatasync(this.descriptor, (error) => {
        if (error) throw error;
        for (const resolve of queue) resolve();
        queueMicrotask(() => this.#flush());
      });
    });
  }

  close() {
    closeSync(this.descriptor);
  }
}

async function appends({ rounds, quick, scratch, note }) {
  const ms = quick ? 300 : 1000;
  const event = update();
  const cases = [
    { writers: 64, documents: 1, wanted: 0.8, overLevel: 2 },
    { writers: 64, documents: 64, wanted: 0.6, overLevel: 2 },
    { writers: 1024, documents: 1, wanted: 0.4 },
    { writers: 1024, documents: 1024, wanted: undefined },
  ];
  const storageSide = (name, make) => ({
    name,
    run: (writers, documents) => async () => {
      const location = scratch.fresh();
      const storage = await DocumentStorage.open({
        backend: make(location),
        models: [yjs()],
        snapshotPolicy: never,
      });
      await storage.append("doc-0", [event]);
      const rate = await drive(writers, ms, (writer) => storage.append(`doc-${writer % documents}`, [event]));
      await storage.close();
      await scratch.discard(location);
      return rate;
    },
  });
  const sides = [
    {
      name: "raw floor",
      run: (writers) => async () => {
        const path = scratch.fresh();
        const log = new RawLog(path, quick ? 64 * MIB : 256 * MIB);
        const rate = await drive(writers, ms, () => log.append(event));
        log.close();
        await rm(path);
        return rate;
      },
    },
    storageSide("file log", (location) => fileLogBackend(location)),
    storageSide("LevelDB", (location) => levelBackend(location)),
  ];
  const rows = [];
  const targets = [];
  const all = [];
  for (const { writers, documents, wanted, overLevel } of cases) {
    const run = sides.map(({ name, run }) => ({ name, run: run(writers, documents) }));
    const results = await runRounds(rounds, run, note);
    all.push(results);
    for (const { name } of sides) {
      rows.push({
        what: `${writers} writers, ${documents} ${documents === 1 ? "document" : "documents"}`,
        side: name,
        rate: summary(results[name]),
        ratio: name === "raw floor" ? undefined : ratios(results[name], results["raw floor"]),
      });
    }
    const what = `durable appends, ${writers} writers, ${documents === 1 ? "one document" : `${documents} documents`}`;
    if (wanted !== undefined) {
      targets.push(
        atLeast(`${what}, of the raw floor`, wanted, ratios(results["file log"], results["raw floor"])),
      );
    }
    if (overLevel !== undefined) {
      targets.push(
        atLeast(`${what}, against LevelDB`, overLevel, ratios(results["file log"], results.LevelDB)),
      );
    }
  }
  const columns = [
    ["what", "text"],
    ["side", "text"],
    ["rate", "rate", "appends/s"],
    ["ratio", "ratio", "of the floor"],
  ];
  const table = {
    title: "File log: durable appends through storage.append",
    note: `Updates of ${event.length} bytes, one in flight for each writer; every side syncs before it acknowledges.`,
    columns,
    rows,
  };
  return { rounds: all, tables: [table], targets };
}

async function lone({ rounds, quick, scratch, note }) {
  const count = quick ? 100 : 500;
  const event = update();
  const median = async (task) => {
    const times = [];
    for (let i = 0; i < count; i++) times.push((await timed(() => task(i))).ms);
    return quantile(times, 0.5);
  };
  const sides = [
    {
      name: "write and fdatasync, bare",
      run: async () => {
        const path = scratch.fresh();
        const log = new RawLog(path, 4 * MIB);
        const result = await median((i) => {
          writeSync(log.descriptor, event, 0, event.length, i * event.length);
          fdatasyncSync(log.descriptor);
        });
        log.close();
        await rm(path);
        return result;
      },
    },
    {
      name: "the same, on another thread",
      run: async () => {
        const path = scratch.fresh();
        const log = new RawLog(path, 4 * MIB);
        const result = await median((i) => {
          writeSync(log.descriptor, event, 0, event.length, i * event.length);
          return new Promise((resolve) => fdatasync(log.descriptor, resolve));
        });
        log.close();
        await rm(path);
        return result;
      },
    },
    {
      name: "file log, storage.append",
      run: async () => {
        const location = scratch.fresh();
        const storage = await DocumentStorage.open({
          backend: fileLogBackend(location),
          models: [yjs()],
          snapshotPolicy: never,
        });
        await storage.append("d", [event]);
        const result = await median(() => storage.append("d", [event]));
        await storage.close();
        await scratch.discard(location);
        return result;
      },
    },
  ];
  const results = await runRounds(rounds, sides, note);
  const bare = results["write and fdatasync, bare"];
  const rows = sides.map(({ name }) => ({
    side: name,
    ms: summary(results[name]),
    ratio: results[name] === bare ? undefined : ratios(results[name], bare),
  }));
  return {
    rounds: results,
    tables: [
      {
        title: "File log: one durable append at a time",
        note: `Median of ${count} appends; the bare side stops its thread for each sync.`,
        columns: [
          ["side", "text"],
          ["ms", "msSpread", "ms"],
          ["ratio", "ratio", "of bare"],
        ],
        rows,
      },
    ],
    targets: [
      atMost(
        "a lone durable append, of a bare write and fdatasync",
        1.5,
        ratios(results["file log, storage.append"], bare),
      ),
    ],
  };
}

/** So many live keys, 25 to a document. */
async function fill(backend, keys, valueBytes) {
  const value = new Uint8Array(valueBytes).fill(7);
  for (let at = 0; at < keys; at += 5000) {
    const put = Array.from({ length: Math.min(5000, keys - at) }, (_, i) => ({
      key: ["events", `document-${Math.floor((at + i) / 25)}`, (at + i) % 25],
      value,
    }));
    await backend.commit({ put });
  }
}

async function opening({ rounds, quick, scratch, note }) {
  const keys = quick ? 100_000 : 1_000_000;
  const location = scratch.fresh();
  const factory = fileLogBackend(location, { durability: "process" });
  const open = () => factory.open(systemEnv());
  let backend = await open();
  await fill(backend, keys, 60);
  await factory.merge({ force: true });
  await backend.close();
  const heap = () => {
    globalThis.gc?.();
    return process.memoryUsage().heapUsed;
  };
  const bytesPerKey = [];
  const sides = [
    {
      name: "with hints",
      run: async () => {
        const before = heap();
        const { ms, value } = await timed(open);
        bytesPerKey.push((heap() - before) / keys);
        await value.close();
        return ms;
      },
    },
  ];
  const results = await runRounds(Math.min(rounds, 3), sides, note);
  backend = await open();
  const stats = factory.stats();
  await backend.close();
  await scratch.discard(location);
  const ms = summary(results["with hints"]);
  const memory = globalThis.gc === undefined ? undefined : quantile(bytesPerKey, 0.5);
  return {
    rounds: results,
    tables: [
      {
        title: `File log: opening ${keys.toLocaleString("en")} live keys`,
        note: `${keys / 25} documents of 25 keys, ${stats.segmentCount} segments; the page cache is warm.${
          memory === undefined
            ? " Memory: run node with --expose-gc."
            : ` Memory: ${memory.toFixed(0)} bytes a key.`
        }`,
        columns: [
          ["side", "text"],
          ["ms", "msSpread", "ms"],
        ],
        rows: [{ side: "with hints", ms }],
      },
    ],
    targets: [
      {
        what: "opening of all keys with hints, in seconds",
        wanted: "≤ 2",
        measured: seconds(ms),
        unit: "ratio",
        met: ms.median < 2000,
      },
    ],
  };
}

async function reading({ rounds, quick, scratch, note }) {
  const bytes = quick ? 16 * MIB : 128 * MIB;
  const sides = [];
  const opened = [];
  for (const valueBytes of [1000, 64 * 1024]) {
    const location = scratch.fresh();
    const backend = await fileLogBackend(location, { durability: "process" }).open(systemEnv());
    const count = Math.floor(bytes / valueBytes);
    const value = new Uint8Array(valueBytes).fill(7);
    const perCommit = Math.max(1, Math.floor(MIB / valueBytes));
    for (let at = 0; at < count; at += perCommit) {
      const put = Array.from({ length: Math.min(perCommit, count - at) }, (_, i) => ({
        key: ["events", "d", at + i],
        value,
      }));
      await backend.commit({ put });
    }
    opened.push({ backend, location });
    sides.push({
      name: `file log, values of ${valueBytes} bytes`,
      run: async () => {
        let read = 0;
        const { ms } = await timed(async () => {
          for await (const page of backend.scan({ space: "events", id: "d" }))
            for (const { value: each } of page) read += each.length;
        });
        return read / MIB / (ms / 1000);
      },
    });
  }
  const path = join(scratch.path, "raw");
  const raw = new RawLog(path, bytes);
  sides.unshift({
    name: "raw, readSync of 1 MiB",
    run: async () => {
      const buffer = Buffer.allocUnsafe(MIB);
      const { ms } = await timed(() => {
        for (let at = 0; at < bytes; at += MIB) readSync(raw.descriptor, buffer, 0, MIB, at);
      });
      return bytes / MIB / (ms / 1000);
    },
  });
  sides.splice(1, 0, {
    name: "raw, and a checksum",
    run: async () => {
      const { ms } = await timed(() => {
        for (let at = 0; at < bytes; at += MIB) {
          const buffer = Buffer.allocUnsafe(MIB);
          readSync(raw.descriptor, buffer, 0, MIB, at);
          crc32(buffer);
        }
      });
      return bytes / MIB / (ms / 1000);
    },
  });
  const results = await runRounds(rounds, sides, note);
  raw.close();
  await rm(path);
  for (const { backend, location } of opened) {
    await backend.close();
    await scratch.discard(location);
  }
  const floor = results["raw, readSync of 1 MiB"];
  const rows = sides.map(({ name }) => ({
    side: name,
    rate: summary(results[name]),
    ratio: results[name] === floor ? undefined : ratios(results[name], floor),
  }));
  return {
    rounds: results,
    tables: [
      {
        title: "File log: a range read from the page cache",
        note: "MiB a second; the file log checks each value and hands it out in memory of its own.",
        columns: [
          ["side", "text"],
          ["rate", "rate", "MiB/s"],
          ["ratio", "ratio", "of raw"],
        ],
        rows,
      },
    ],
    targets: [
      atLeast(
        "a range read of 64 KiB values, of a raw sequential read",
        0.5,
        ratios(results["file log, values of 65536 bytes"], floor),
      ),
    ],
  };
}

/** 64 writers overwrite their own keys, so that everything older is dead; with and without merging. */
async function merging({ rounds, quick, scratch, note }) {
  const ms = quick ? 500 : 3000;
  const value = new Uint8Array(1000).fill(7);
  const amplification = [];
  const side = (name, mergeDeadRatioMin) => ({
    name,
    run: async () => {
      const location = scratch.fresh();
      const factory = fileLogBackend(location, { segmentBytesMax: 8 * MIB, mergeDeadRatioMin });
      const backend = await factory.open(systemEnv());
      let seq = 0;
      let commits = 0;
      const rate = await drive(1, ms, async () => {
        commits++;
        const put = Array.from({ length: 64 }, () => ({ key: ["events", "d", seq++ % 20_000], value }));
        await backend.commit({ put });
      });
      const stats = factory.stats();
      if (mergeDeadRatioMin < 1) {
        const values = commits * 64 * value.length;
        amplification.push((values + stats.mergedBytesWritten) / values);
      }
      await backend.close();
      await scratch.discard(location);
      return rate * 64;
    },
  });
  const sides = [side("never merged", 1), side("merged beside the writers", 0.5)];
  const results = await runRounds(rounds, sides, note);
  const ratio = ratios(results["merged beside the writers"], results["never merged"]);
  const rows = sides.map(({ name }) => ({ side: name, rate: summary(results[name]) }));
  rows[1].ratio = ratio;
  return {
    rounds: results,
    tables: [
      {
        title: "File log: what merging costs the writers",
        note: `Groups of 64 values of 1,000 bytes over 20,000 keys. Bytes written for each byte of values, merging included: ${quantile(amplification, 0.5).toFixed(2)}; zeros ahead of the log: once more.`,
        columns: [
          ["side", "text"],
          ["rate", "rate", "values/s"],
          ["ratio", "ratio", "of unmerged"],
        ],
        rows,
      },
    ],
    targets: [atLeast("writers beside merging, of writers without", 0.8, ratio)],
  };
}

function atLeast(what, least, measured) {
  return { what, wanted: `≥ ${least} ×`, measured, unit: "ratio", met: measured.median >= least };
}

function atMost(what, most, measured) {
  return { what, wanted: `≤ ${most} ×`, measured, unit: "ratio", met: measured.median <= most };
}

function seconds({ median, min, max }) {
  return { median: median / 1000, min: min / 1000, max: max / 1000 };
}
