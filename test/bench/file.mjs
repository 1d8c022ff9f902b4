/**
 * The file log beside what the disk can do at most, and beside LevelDB, in one run: durable appends, a lone append,
 * opening, reading, merging, memory and write amplification.
 *
 * The floor of appends is a log without anything above it: framed and checksummed records of the same bytes, what
 * gathers goes down as one write and one fdatasync into a file filled with zeros ahead. All sides sync before they
 * acknowledge. Invariant: each trial has a fresh directory, and sides take turns within a round.
 */
import { fdatasync, fdatasyncSync, writeSync } from "node:fs";
import { rm } from "node:fs/promises";
import { setImmediate } from "node:timers/promises";
import { fileLogBackend } from "@coppice/file";
import { yjs } from "@coppice/yjs";
import { DocumentStorage, never, systemEnv } from "coppice";
import { BARE, BareCommits, FLOOR, SIDES, update } from "./append-sides.mjs";
import { runChild } from "./child.mjs";
import { RawLog } from "./raw-log.mjs";
import { reading } from "./reading.mjs";
import { atLeast, atMost, quantile, ratios, runRounds, summary, timed } from "./rounds.mjs";

const MIB = 1024 * 1024;

export const file = {
  name: "file",
  about: "the file log beside the disk's floor and LevelDB",
  async run(setting) {
    const parts = [];
    // Reading first: what else is in memory is looked through whenever some 64 MiB were handed out.
    for (const part of [reading, appends, lone, opening, merging]) {
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

/** Each side in a process of its own, which first runs for as long as its code takes to be compiled. */
async function appends({ rounds, quick, scratch, note }) {
  const [warmUpMs, ms] = quick ? [100, 200] : [3000, 2000];
  const cases = [
    { writers: 64, documents: 1, wanted: 0.8, overLevel: 2 },
    { writers: 64, documents: 64, wanted: 0.6, overLevel: 2 },
    { writers: 1024, documents: 1, wanted: 0.4 },
    { writers: 1024, documents: 1024, wanted: undefined },
  ];
  const run = (side, writers, documents) => async () => {
    const location = scratch.fresh();
    const task = { side, location, writers, documents, warmUpMs, ms };
    const result = await runChild("append-child.mjs", task);
    await scratch.discard(location);
    return result;
  };
  const rows = [];
  const targets = [];
  const all = [];
  for (const { writers, documents, wanted, overLevel } of cases) {
    const names = Object.keys(SIDES);
    const sides = names.map((name) => ({ name, run: run(name, writers, documents) }));
    const found = await runRounds(rounds, sides, note, 1, false);
    all.push(found);
    const of = (figure) =>
      Object.fromEntries(names.map((name) => [name, found[name].map((result) => result[figure])]));
    const [results, p50, p99] = [of("rate"), of("p50"), of("p99")];
    for (const name of names) {
      rows.push({
        what: `${writers} writers, ${documents} ${documents === 1 ? "document" : "documents"}`,
        side: name,
        rate: summary(results[name]),
        p50: summary(p50[name]),
        p99: summary(p99[name]),
        ratio: name === FLOOR ? undefined : ratios(results[name], results[FLOOR]),
      });
    }
    const what = `durable appends, ${writers} writers, ${documents === 1 ? "one document" : `${documents} documents`}`;
    if (wanted !== undefined) {
      targets.push(atLeast(`${what}, of the raw floor`, wanted, ratios(results["file log"], results[FLOOR])));
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
    ["p50", "msSpread", "p50 ms"],
    ["p99", "msSpread", "p99 ms"],
  ];
  const table = {
    title: "File log: durable appends through storage.append",
    note: `Updates of ${update().length} bytes, one in flight for each writer; every side syncs before it acknowledges, and is measured for ${ms / 1000} seconds in a process of its own that has appended for ${warmUpMs / 1000}; p50 and p99 are of single appends. Commits alone: of a batch for each document with what its writers appended, without the storage above.`,
    columns,
    rows,
  };
  return { rounds: all, tables: [table], targets };
}

async function lone({ rounds, quick, scratch, note }) {
  const [warmUps, count] = quick ? [0, 100] : [2000, 500];
  const event = update();
  const median = async (task) => {
    const times = [];
    for (let i = 0; i < warmUps + count; i++) times.push((await timed(() => task(i))).ms);
    return quantile(times.slice(warmUps), 0.5);
  };
  const storageSide = (name, blocking) => ({
    name,
    run: async () => {
      const location = scratch.fresh();
      const storage = await DocumentStorage.open({
        backend: fileLogBackend(location, { blocking }),
        models: [yjs()],
        snapshotPolicy: never,
      });
      await storage.append("d", [event]);
      const result = await median(() => storage.append("d", [event]));
      await storage.close();
      await scratch.discard(location);
      return result;
    },
  });
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
      name: BARE,
      run: async () => {
        const location = scratch.fresh();
        const commits = await BareCommits.open(location, event, 1, 1);
        await commits.commit();
        const result = await median(() => commits.commit());
        await commits.close();
        await scratch.discard(location);
        return result;
      },
    },
    storageSide("file log, storage.append", false),
    storageSide("file log, blocking", true),
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
        note: `Median of ${count} appends after ${warmUps.toLocaleString("en")} that do not count; the bare side stops its thread for each sync.`,
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
        "a lone durable append, of a bare write and fdatasync on another thread",
        1.5,
        ratios(results["file log, storage.append"], results["the same, on another thread"]),
      ),
      atMost(
        "a lone durable append that holds up the thread, of a bare write and fdatasync that do",
        1.5,
        ratios(results["file log, blocking"], bare),
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
  const heap = async () => {
    // The store of the round before is referred to weakly, which holds it until the event loop turns.
    await setImmediate();
    globalThis.gc?.();
    return process.memoryUsage().heapUsed;
  };
  const bytesPerKey = [];
  const sides = [
    {
      name: "with hints",
      run: async () => {
        const before = await heap();
        const { ms, value } = await timed(open);
        bytesPerKey.push(((await heap()) - before) / keys);
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

/** With and without merging, each in a process of its own. */
async function merging({ rounds, quick, scratch, note }) {
  const [warmUpMs, ms] = quick ? [100, 500] : [1000, 3000];
  const amplification = [];
  const side = (name, mergeDeadRatioMin) => ({
    name,
    run: async () => {
      const location = scratch.fresh();
      const task = { location, mergeDeadRatioMin, warmUpMs, ms };
      const result = await runChild("merging-child.mjs", task);
      if (mergeDeadRatioMin < 1) amplification.push(result.amplification);
      await scratch.discard(location);
      return result.rate;
    },
  });
  const sides = [side("never merged", 1), side("merged beside the writers", 0.5)];
  const results = await runRounds(rounds, sides, note, 1, false);
  const ratio = ratios(results["merged beside the writers"], results["never merged"]);
  const rows = sides.map(({ name }) => ({ side: name, rate: summary(results[name]) }));
  rows[1].ratio = ratio;
  return {
    rounds: results,
    tables: [
      {
        title: "File log: what merging costs the writers",
        note: `Groups of 64 values of 1,000 bytes, at random over 20,000 keys. Bytes written for each byte of values, merging included: ${quantile(amplification, 0.5).toFixed(2)}; zeros ahead of the log: once more.`,
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

function seconds({ median, min, max }) {
  return { median: median / 1000, min: min / 1000, max: max / 1000 };
}
