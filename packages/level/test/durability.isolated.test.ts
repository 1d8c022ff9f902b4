/**
 * What an acknowledged commit survives, shown on real files: system calls recorded and made to fail with strace, a
 * full disk imitated with a file size limit, a process killed.
 */

import { execFile, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { realpath } from "node:fs/promises";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { levelBackend } from "@coppice/level";
import { equalBytes, systemEnv } from "coppice";
import { afterEach, beforeAll, describe, expect, test } from "vitest";
import { bundleChild } from "../../../test/support/child.js";
import { bytes, entriesOf, removeDirectories, temporaryDirectory } from "../../../test/support/stores.js";
import { type Call, trace, tracingMissing } from "./tracing.js";

const run = promisify(execFile);
const untracedReason = tracingMissing();
let writer: string;

beforeAll(async () => {
  writer = await bundleChild(fileURLToPath(new URL("./children/writer.ts", import.meta.url)));
});
afterEach(removeDirectories);

const said = (call: Call, text: string): boolean =>
  call.name === "write" && call.text.includes(`"${text}\\n"`);
const acknowledged = (stdout: string): number => stdout.match(/^ACK \d+$/gm)?.length ?? 0;

/** Every acknowledged value is there and right; beyond them at most the one whose outcome is unknown. */
async function expectAcknowledged(location: string, count: number, valueBytes: number): Promise<void> {
  const backend = await levelBackend(location).open(systemEnv());
  const entries = await entriesOf(backend, { space: "events", id: "doc" });
  expect(entries.length).toBeGreaterThanOrEqual(count);
  expect(entries.length).toBeLessThanOrEqual(count + 1);
  entries.forEach(({ key, value }, n) => {
    expect(key).toEqual(["events", "doc", n]);
    expect(equalBytes(value, bytes(valueBytes, n % 251))).toBe(true);
  });
  await backend.close();
}

/** The store works again, and what it acknowledges now is there after one more reopen. */
async function expectWritable(location: string): Promise<void> {
  const factory = levelBackend(location);
  const backend = await factory.open(systemEnv());
  await backend.commit({ put: [{ key: ["meta", "after"], value: bytes(3, 7) }] });
  await backend.close();
  const again = await factory.open(systemEnv());
  expect(await again.get(["meta", "after"])).toEqual(bytes(3, 7));
  await again.close();
}

describe("power", () => {
  test("[BK40] a commit is acknowledged after its log was synced, under a name that is durable", async (context) => {
    if (untracedReason !== undefined) return context.skip(untracedReason);
    const store = join(await realpath(await temporaryDirectory()), "store");
    const { calls } = await trace(writer, [store, "power", "5", "1500"]);
    for (let n = 0; n < 5; n++) {
      const before = calls.findIndex((call) => said(call, n === 0 ? "OPEN" : `ACK ${n - 1}`));
      const after = calls.findIndex((call) => said(call, `ACK ${n}`));
      expect(before).toBeGreaterThan(-1);
      const between = calls.slice(before + 1, after).filter((call) => call.path.startsWith(store));
      const steps = between.map(({ name, path }) => `${name} ${path.endsWith(".log") ? "log" : path}`);
      expect(steps).toEqual(["write log", "fdatasync log"]);
      expect(between.some((call) => call.failed)).toBe(false);
    }
  });

  test("[LB4] an anchor is durable with its name when a store is open, and knows each commit before that is acknowledged", async (context) => {
    if (untracedReason !== undefined) return context.skip(untracedReason);
    const parent = await realpath(await temporaryDirectory());
    const [store, anchor] = [join(parent, "store"), join(parent, "elsewhere", "anchor")];
    const { calls } = await trace(writer, [store, "power", "3", "1500", anchor]);
    const opened = calls.findIndex((call) => said(call, "OPEN"));
    const find = (name: string, path: string) =>
      calls.slice(0, opened).findIndex((call) => call.name === name && call.path === path && !call.failed);
    expect(find("pwrite64", anchor)).toBeGreaterThan(-1);
    expect(find("fdatasync", anchor)).toBeGreaterThan(find("pwrite64", anchor));
    expect(find("fsync", dirname(anchor))).toBeGreaterThan(find("pwrite64", anchor));
    for (let n = 0; n < 3; n++) {
      const before = calls.findIndex((call) => said(call, n === 0 ? "OPEN" : `ACK ${n - 1}`));
      const after = calls.findIndex((call) => said(call, `ACK ${n}`));
      const between = calls.slice(before + 1, after).filter((call) => call.path.startsWith(parent));
      const steps = between.map(({ name, path }) => `${name} ${path === anchor ? "anchor" : "log"}`);
      expect(steps).toEqual(["write log", "fdatasync log", "pwrite64 anchor", "fdatasync anchor"]);
    }
  });

  test("[BK40] the directory is synced after a new log replaced a full one, before its first commit is acknowledged", async (context) => {
    if (untracedReason !== undefined) return context.skip(untracedReason);
    const store = join(await realpath(await temporaryDirectory()), "store");
    // LevelDB starts a new log when 4 MiB have gathered.
    const { calls } = await trace(writer, [store, "power", "12", "500000"]);
    const isNewLog = ({ name, path }: Call) => name === "openat" && path.endsWith(".log");
    const opened = calls.findIndex((call) => said(call, "OPEN"));
    const rotated = calls.findIndex((call, at) => at > opened && isNewLog(call));
    expect(rotated).toBeGreaterThan(opened);
    const acknowledgedAt = rotated + calls.slice(rotated).findIndex((call) => call.text.includes('"ACK '));
    const between = calls.slice(rotated, acknowledgedAt).filter(({ failed }) => !failed);
    const logSync = between.findLastIndex(({ name, path }) => name === "fdatasync" && path.endsWith(".log"));
    expect(logSync).toBeGreaterThan(-1);
    expect(between.slice(logSync).some(({ name, path }) => name === "fsync" && path === store)).toBe(true);
  });

  test("[BK41] opening makes the directory and every parent it created durable", async (context) => {
    if (untracedReason !== undefined) return context.skip(untracedReason);
    const existing = await realpath(await temporaryDirectory());
    const store = join(existing, "a", "b");
    const { calls } = await trace(writer, [store, "power", "1", "10"]);
    const before = calls.slice(
      0,
      calls.findIndex((call) => said(call, "OPEN")),
    );
    const synced = (path: string) =>
      before.findLastIndex((call) => call.name === "fsync" && call.path === path && !call.failed);
    const made = (path: string) =>
      before.findLastIndex((call) => call.name === "mkdir" && call.path === path && !call.failed);
    expect(made(store)).toBeGreaterThan(-1);
    expect(synced(dirname(store))).toBeGreaterThan(made(store));
    expect(synced(existing)).toBeGreaterThan(made(dirname(store)));
    const renamed = before.findLastIndex((call) => call.name === "rename" && !call.failed);
    expect(synced(store)).toBeGreaterThan(renamed);
  });

  // LevelDB starts a new log, whose name needs a sync, when 4 MiB have gathered.
  for (const [sync, what, valueBytes, survivors] of [
    ["fdatasync", "LevelDB's log", 1500, 3],
    ["fsync", "the directory", 900_000, 5],
  ] as const) {
    test(`[BK43] one failed sync of ${what} ends all writing until the store is reopened`, async (context) => {
      if (untracedReason !== undefined) return context.skip(untracedReason);
      const dry = await trace(writer, [join(await temporaryDirectory(), "store"), "power", "1", "1500"]);
      const opened = dry.calls.findIndex((call) => said(call, "OPEN"));
      const syncsOfOpen = dry.calls.slice(0, opened).filter(({ name }) => name === sync).length;
      const store = join(await temporaryDirectory(), "store");
      const { stdout } = await trace(
        writer,
        [store, "power", "10", `${valueBytes}`],
        `${sync}:error=EIO:when=${syncsOfOpen + (sync === "fsync" ? 1 : 4)}`,
      );
      expect(acknowledged(stdout)).toBe(survivors);
      expect(stdout).toContain("FAILED OUTCOME_UNKNOWN\nTHEN POISONED\nEND\n");
      await expectAcknowledged(store, survivors, valueBytes);
      await expectWritable(store);
    });
  }

  test("[BK43] a full disk loses nothing that was acknowledged, and refuses the rest", async (context) => {
    if (spawnSync("prlimit", ["--version"]).error !== undefined)
      return context.skip("prlimit is not installed");
    const store = join(await temporaryDirectory(), "store");
    const limit = ["--fsize=1000000", process.execPath, writer, store, "power", "0", "30000"];
    const { stdout } = await run("prlimit", limit);
    const count = acknowledged(stdout);
    expect(count).toBeGreaterThan(25);
    expect(stdout).toContain("FAILED OUTCOME_UNKNOWN\nTHEN POISONED\n");
    await expectAcknowledged(store, count, 30_000);
    await expectWritable(store);
  });
});

describe("process", () => {
  test("[BK42] a commit syncs nothing", async (context) => {
    if (untracedReason !== undefined) return context.skip(untracedReason);
    const { calls } = await trace(writer, [
      join(await temporaryDirectory(), "store"),
      "process",
      "5",
      "1500",
    ]);
    const opened = calls.findIndex((call) => said(call, "OPEN"));
    const done = calls.findIndex((call) => said(call, "ACK 4"));
    const names = calls.slice(opened, done).map(({ name }) => name);
    expect(names.filter((name) => name === "write").length).toBeGreaterThanOrEqual(10);
    expect(names.filter((name) => name.endsWith("sync"))).toEqual([]);
  });

  test("[BK42] a killed process loses nothing that was acknowledged", async () => {
    const store = join(await temporaryDirectory(), "store");
    const child = spawn(process.execPath, [writer, store, "process", "0", "1500"], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    let count = 0;
    for await (const line of createInterface({ input: child.stdout })) {
      if (line.startsWith("ACK ")) count++;
      if (count === 300) child.kill("SIGKILL");
    }
    if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
    expect(child.signalCode).toBe("SIGKILL");
    expect(count).toBeGreaterThanOrEqual(300);
    await expectAcknowledged(store, count, 1500);
    await expectWritable(store);
  });
});
