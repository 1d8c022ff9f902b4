// A process that copies a store in use to another one, on LevelDB or on a file log, is killed at random moments, again and again. What it
// said to have copied is there, every document of the target is the source at some clock, and the next run goes on.
//
// COPPICE_KILLS=300 for more kills than the 20 of every run, spread over the pairs of backends.

import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileLogBackend } from "@coppice/file";
import { levelBackend } from "@coppice/level";
import { DocumentStorage, never } from "coppice";
import { seededRandom } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { bundleChild } from "../support/child.js";
import type { NameStorage } from "../support/oracle.js";
import { type NameSet, nameSet } from "../support/oracle-model.js";

const KILLS = Number(process.env.COPPICE_KILLS ?? 20);
const SEED = Number(process.env.COPPICE_SEED ?? 1);

type Scheme = "level" | "file";

const PAIRS = [
  ["level", "level", KILLS / 2],
  ["level", "file", KILLS / 4],
  ["file", "level", KILLS / 4],
] as const;

function open(scheme: Scheme, location: string): Promise<NameStorage> {
  const make = scheme === "file" ? fileLogBackend : levelBackend;
  const backend = make(location, { durability: "process" });
  return DocumentStorage.open({ backend, models: [nameSet()], snapshotPolicy: never });
}

/** Runs the copier until it has said this, and some ms more. Returns the clocks of its last copy. */
function runAndKill(
  script: string,
  stores: string[],
  until: string,
  delayMs: number,
): Promise<Record<string, number>> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [script, ...stores], { stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    let failure = "";
    let timer: NodeJS.Timeout | undefined;
    child.stdout.on("data", (chunk) => {
      output += chunk;
      if (output.includes(until)) timer ??= setTimeout(() => child.kill("SIGKILL"), delayMs);
    });
    child.stderr.on("data", (chunk) => {
      failure += chunk;
    });
    child.on("exit", (_, signal) => {
      clearTimeout(timer);
      if (signal !== "SIGKILL") return reject(new Error(`the copier ended by itself: ${failure}`));
      const lines = output
        .split("\n")
        .slice(0, -1)
        .filter((line) => line.startsWith("{"));
      resolve(JSON.parse(lines.at(-1) ?? "{}") as Record<string, number>);
    });
  });
}

/** Every document holds exactly the names that its clock says. Returns the clocks. */
async function clocksOf(storage: NameStorage): Promise<Record<string, number>> {
  const clocks: Record<string, number> = {};
  for await (const id of storage.list()) {
    const handle = (await storage.load<NameSet>(id))!;
    expect(handle.doc.names.size).toBe(handle.clock);
    for (let clock = 0; clock < handle.clock; clock++) expect(handle.doc.names.has(`${clock}`)).toBe(true);
    for (const { name, clock } of await storage.tags(id)) {
      expect((await storage.load<NameSet>(id, { at: name }))!.doc.names.size).toBe(clock);
    }
    clocks[id] = handle.clock;
    await handle.close();
  }
  expect((await storage.check()).problems).toEqual([]);
  return clocks;
}

describe.each(PAIRS)("copies from %s to %s that are killed", (source, target, kills) => {
  test("[MV9] at whatever moment: the target is the source at the clocks it names, and the next run goes on", async () => {
    const schemes = [source, target] as const;
    const directory = await mkdtemp(join(tmpdir(), "coppice-copy-"));
    const locations = [join(directory, "source"), join(directory, "target")];
    const stores = schemes.map((scheme, index) => `${scheme}:${locations[index]}`);
    const script = await bundleChild(new URL("children/copier.ts", import.meta.url).pathname);
    const random = seededRandom(SEED);
    let copied = 0;
    try {
      for (let kill = 1; kill <= kills; kill++) {
        const said = await runAndKill(script, stores, kill % 2 === 0 ? '":' : "OPEN", random.int(400));
        const to = await open(target, locations[1]!);
        const copies = await clocksOf(to);
        for (const [id, clock] of Object.entries(said)) {
          expect(copies[id], `${id} after kill ${kill}`).toBeGreaterThanOrEqual(clock);
          copied++;
        }
        if (kill % 5 === 0) {
          const from = await open(source, locations[0]!);
          const clocks = await clocksOf(from);
          for (const [id, clock] of Object.entries(copies)) expect(clocks[id]).toBeGreaterThanOrEqual(clock);
          const result = await from.copyTo(to);
          expect(result.failures).toEqual([]);
          expect(await clocksOf(to)).toEqual(clocks);
          for (const id of Object.keys(clocks)) {
            expect((await to.info(id))?.token).toBe((await from.info(id))?.token);
          }
          expect(await from.copyTo(to)).toMatchObject({ unchanged: Object.keys(clocks).length, bytes: 0 });
          expect((await to.check()).garbageKeys).toBe(0);
          await from.close();
        }
        await to.close();
      }
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
    expect(copied).toBeGreaterThan(0);
  }, 600_000);
});
