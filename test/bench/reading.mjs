/**
 * Range reads of the file log beside bare loops of reads, with and without checksums, from the page cache and from
 * the disk. `dd` takes files out of the page cache; where it cannot, the disk is left out.
 *
 * Invariant: both sides of a ratio read as many bytes, from files of one disk.
 */
import { execFileSync } from "node:child_process";
import { readdirSync, readSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { fileLogBackend } from "@coppice/file";
import { systemEnv } from "coppice";
import { RawLog } from "./raw-log.mjs";
import { atLeast, ratios, runRounds, summary, timed } from "./rounds.mjs";

const MIB = 1024 * 1024;

/** Takes the files out of the page cache, so that the next read is the disk's; `false` where that cannot be done. */
function forget(paths) {
  try {
    for (const path of paths)
      execFileSync("dd", [`if=${path}`, "iflag=nocache", "count=0", "status=none"], { stdio: "pipe" });
    return true;
  } catch {
    return false;
  }
}

const READ_SIZES = [1000, 64 * 1024];

/** A closed store of so many bytes of values; durable, so that the page cache can let it go. */
async function storeOf(location, bytes, valueBytes) {
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
  await backend.close();
}

/** MiB a second that a scan of everything hands out. */
async function scanRate(backend) {
  let read = 0;
  const { ms } = await timed(async () => {
    for await (const page of backend.scan({ space: "events", id: "d" }))
      for (const { value } of page) read += value.length;
  });
  return read / MIB / (ms / 1000);
}

/** MiB a second of a bare loop of reads; `checked`: bytes for each checksum, 0: none. */
async function rawRate(descriptor, bytes, checked) {
  const buffer = Buffer.allocUnsafe(MIB);
  const { ms } = await timed(() => {
    for (let at = 0; at < bytes; at += MIB) {
      readSync(descriptor, buffer, 0, MIB, at);
      for (let start = 0; checked > 0 && start < MIB; start += checked)
        crc32(buffer.subarray(start, start + checked));
    }
  });
  return bytes / MIB / (ms / 1000);
}

export async function reading({ rounds, quick, scratch, note }) {
  const bytes = quick ? 16 * MIB : 128 * MIB;
  const path = join(scratch.path, "raw");
  const raw = new RawLog(path, bytes);
  const logs = [];
  for (const valueBytes of READ_SIZES) {
    const location = scratch.fresh();
    await storeOf(location, bytes, valueBytes);
    const backend = await fileLogBackend(location).open(systemEnv());
    const files = readdirSync(location).map((name) => join(location, name));
    logs.push({ backend, location, files, name: `file log, values of ${valueBytes} bytes` });
  }
  const warm = [
    { name: RAW, run: () => rawRate(raw.descriptor, bytes, 0) },
    ...[MIB, ...READ_SIZES].map((size) => ({
      name: checkedRaw(size),
      run: () => rawRate(raw.descriptor, bytes, size),
    })),
    ...logs.map(({ name, backend }) => ({ name, run: () => scanRate(backend) })),
  ];
  const results = await runRounds(rounds, warm, note);
  const cold = [
    { name: RAW, files: [path], run: () => rawRate(raw.descriptor, bytes, 0) },
    ...logs.map(({ name, files, backend }) => ({ name, files, run: () => scanRate(backend) })),
  ].map(({ name, files, run }) => ({
    name,
    run: () => {
      forget(files);
      return run();
    },
  }));
  const disk = forget([path]) ? await runRounds(rounds, cold, note) : undefined;
  raw.close();
  await rm(path);
  for (const { backend, location } of logs) {
    await backend.close();
    await scratch.discard(location);
  }
  const tables = [readTable("from the page cache", warm, results)];
  if (disk !== undefined)
    tables.push(readTable("from the disk, with nothing of it in the page cache", cold, disk));
  return { rounds: [results, disk], tables, targets: readTargets(logs, results, disk) };
}

const RAW = "raw, readSync of 1 MiB";

function checkedRaw(size) {
  return `raw, and a checksum of each ${size === MIB ? "MiB" : `${size} bytes`}`;
}

function readTable(from, sides, results) {
  return {
    title: `File log: a range read ${from}`,
    note: "MiB a second; raw reads into one buffer, the file log checks each value and hands it out in memory to keep.",
    columns: [
      ["side", "text"],
      ["rate", "rate", "MiB/s"],
      ["ratio", "ratio", "of raw"],
    ],
    rows: sides.map(({ name }) => ({
      side: name,
      rate: summary(results[name]),
      ratio: name === RAW ? undefined : ratios(results[name], results[RAW]),
    })),
  };
}

function readTargets(logs, results, disk) {
  const checked = logs.map(({ name }, i) =>
    atLeast(
      `a range read of ${READ_SIZES[i]}-byte values, of a raw read and a checksum of each from the page cache`,
      0.5,
      ratios(results[name], results[checkedRaw(READ_SIZES[i])]),
    ),
  );
  if (disk === undefined) return checked;
  const { name } = logs[1];
  return [
    atLeast("a range read of 64 KiB values from the disk, of a raw one", 0.5, ratios(disk[name], disk[RAW])),
    ...checked,
  ];
}
