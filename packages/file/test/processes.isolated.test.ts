/**
 * Real processes on a real disk: killed with SIGKILL at random moments, kept out by the lock, and read beside.
 * Documents on a file log are killed more often, and together with LevelDB's, in test/crash/sigkill.test.ts.
 */

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { fileLogBackend } from "@coppice/file";
import { systemEnv } from "coppice";
import { seededRandom } from "coppice/testing";
import { afterAll, expect, test } from "vitest";
import { bundleChild } from "../../../test/support/child.js";
import { entriesOf, removeDirectories, temporaryDirectory } from "../../../test/support/stores.js";

const KILLS = 4;

afterAll(removeDirectories);

interface Writer {
  readonly process: ChildProcess;
  /** The last number that each caller was told. */
  readonly told: Map<number, number>;
  readonly opened: Promise<string>;
  readonly ended: Promise<void>;
}

async function startWriter(location: string, durability: string, round: number): Promise<Writer> {
  const child = await bundleChild(fileURLToPath(new URL("children/writer.ts", import.meta.url)));
  const writer = spawn(process.execPath, [child, location, durability, String(round)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const told = new Map<number, number>();
  let first: (line: string) => void = () => undefined;
  const opened = new Promise<string>((resolve) => {
    first = resolve;
  });
  const lines = createInterface({ input: writer.stdout! });
  lines.on("line", (line) => {
    first(line);
    const [, caller, number] = /^ACK (\d+) (\d+)$/.exec(line) ?? [];
    if (caller !== undefined) told.set(Number(caller), Number(number));
  });
  const ended = new Promise<void>((resolve) => lines.on("close", () => resolve()));
  return { process: writer, told, opened, ended };
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

test.each(["power", "process"] as const)(
  "[FL15] every acknowledged commit outlives SIGKILL at any moment, durability %s",
  { timeout: 300_000 },
  async (durability) => {
    const location = join(await temporaryDirectory(), "store");
    const random = seededRandom(20_261_125);
    const factory = fileLogBackend(location, { durability });
    const rounds: Map<number, number>[] = [];
    let merges = 0;
    for (let round = 0; round < KILLS; round++) {
      const writer = await startWriter(location, durability, round);
      expect(await writer.opened).toBe("OPEN");
      await pause(100 + random.int(400));
      writer.process.kill("SIGKILL");
      await writer.ended;
      rounds.push(writer.told);
      const backend = await factory.open(systemEnv());
      merges += factory.stats()!.segmentCount;
      for (const [number, told] of rounds.entries()) {
        for (const [caller, last] of told) {
          const range = {
            space: "events",
            id: `caller-${caller}`,
            from: number * 1_000_000,
            to: (number + 1) * 1_000_000,
          };
          const found = await entriesOf(backend, range);
          expect(found.length, `kill ${round}, caller ${caller}`).toBeGreaterThan(last);
          expect(found.length).toBeLessThanOrEqual(last + 2);
          for (const [i, { key, value }] of found.entries()) {
            expect(key[2]).toBe(number * 1_000_000 + i);
            expect(value[0]).toBe(i % 251);
          }
        }
      }
      await backend.close();
    }
    expect(
      rounds.reduce((sum, told) => sum + [...told.values()].reduce((a, b) => a + b, 0), 0),
    ).toBeGreaterThan(KILLS * 4);
    expect(merges).toBeGreaterThan(0);
  },
);

test("[FL14] a second process is LOCKED, and the lock is free as soon as its holder is killed, stopped or not", async () => {
  const location = join(await temporaryDirectory(), "store");
  const first = await startWriter(location, "power", 0);
  expect(await first.opened).toBe("OPEN");
  const second = await startWriter(location, "power", 1);
  expect(await second.opened).toBe("LOCKED");
  await second.ended;
  await expect(fileLogBackend(location).open(systemEnv())).rejects.toMatchObject({ code: "LOCKED" });
  first.process.kill("SIGSTOP");
  await expect(fileLogBackend(location).open(systemEnv())).rejects.toMatchObject({ code: "LOCKED" });
  first.process.kill("SIGKILL");
  await first.ended;
  const backend = await fileLogBackend(location).open(systemEnv());
  await expect(fileLogBackend(location).open(systemEnv())).rejects.toMatchObject({ code: "LOCKED" });
  await backend.close();
});

test("[FL13] a read-only open in another process sees what a real writer commits, as it comes", async () => {
  const location = join(await temporaryDirectory(), "store");
  const writer = await startWriter(location, "power", 0);
  expect(await writer.opened).toBe("OPEN");
  const reader = await fileLogBackend(location, { readOnly: true }).open(systemEnv());
  let last = 0;
  for (let i = 0; i < 20 || (last <= 5 && i < 400); i++) {
    await pause(25);
    const told = writer.told.get(0) ?? -1;
    const found = await entriesOf(reader, { space: "events", id: "caller-0" });
    expect(found.length).toBeGreaterThanOrEqual(Math.max(last, told + 1));
    expect(found.map(({ key }) => key[2])).toEqual(found.map((_, number) => number));
    last = found.length;
  }
  writer.process.kill("SIGKILL");
  await writer.ended;
  expect(last).toBeGreaterThan(5);
  await reader.close();
});

test("[FL4] a commit is one write and one fdatasync of the segment", async (context) => {
  const strace = spawnSync("strace", ["-V"]);
  if (strace.error !== undefined) context.skip("strace is not installed");
  const location = join(await temporaryDirectory(), "store");
  const child = await bundleChild(fileURLToPath(new URL("children/traced.ts", import.meta.url)));
  const calls = "trace=write,pwrite64,fsync,fdatasync,openat,rename";
  const { stderr, status, error } = spawnSync(
    "strace",
    ["-f", "-y", "-e", calls, "-e", "signal=none", process.execPath, child, location],
    { encoding: "utf8", maxBuffer: 64 * 1024 * 1024 },
  );
  if (status !== 0 && /Operation not permitted/.test(stderr))
    context.skip("this system does not allow tracing");
  expect({ status, error }).toEqual({ status: 0, error: undefined });
  const lines = stderr.split("\n");
  const begin = lines.findIndex((line) => line.includes("COMMITS"));
  const end = lines.findIndex((line) => line.includes("DONE"));
  const between = lines.slice(begin + 1, end).filter((line) => /\.seg>/.test(line) && !/resumed/.test(line));
  expect(between.filter((line) => /pwrite64\(/.test(line))).toHaveLength(10);
  expect(between.filter((line) => /fdatasync\(/.test(line))).toHaveLength(10);
  expect(lines.slice(begin, end).filter((line) => /fsync\(|rename\(/.test(line))).toHaveLength(0);
});
