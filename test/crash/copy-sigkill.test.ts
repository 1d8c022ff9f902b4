// A process that copies a LevelDB store in use to another one is killed at random moments, again and again. What it
// said to have copied is there, every document of the target is the source at some clock, and the next run goes on.
//
// COPPICE_KILLS=300 for more kills than the 20 of every run.

import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { levelBackend } from "@coppice/level";
import { DocumentStorage, never } from "coppice";
import { seededRandom } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { bundleChild } from "../support/child.js";
import type { NameStorage } from "../support/oracle.js";
import { type NameSet, nameSet } from "../support/oracle-model.js";

const KILLS = Number(process.env.COPPICE_KILLS ?? 20);
const SEED = Number(process.env.COPPICE_SEED ?? 1);

function open(location: string): Promise<NameStorage> {
  const backend = levelBackend(location, { durability: "process" });
  return DocumentStorage.open({ backend, models: [nameSet()], snapshotPolicy: never });
}

/** Runs the copier until it has said so many lines, and some ms more. Returns the clocks of its last copy. */
function runAndKill(script: string, locations: string[], delayMs: number): Promise<Record<string, number>> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [script, ...locations], { stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    let failure = "";
    let timer: NodeJS.Timeout | undefined;
    child.stdout.on("data", (chunk) => {
      output += chunk;
      timer ??= setTimeout(() => child.kill("SIGKILL"), delayMs);
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

describe("copies that are killed", () => {
  test("[MV9] at whatever moment: the target is the source at the clocks it names, and the next run goes on", async () => {
    const directory = await mkdtemp(join(tmpdir(), "coppice-copy-"));
    const locations = [join(directory, "source"), join(directory, "target")];
    const script = await bundleChild(new URL("children/copier.ts", import.meta.url).pathname);
    const random = seededRandom(SEED);
    let copied = 0;
    try {
      for (let kill = 0; kill < KILLS; kill++) {
        const said = await runAndKill(script, locations, random.int(400));
        const to = await open(locations[1]!);
        const target = await clocksOf(to);
        for (const [id, clock] of Object.entries(said)) {
          expect(target[id], `${id} after kill ${kill}`).toBeGreaterThanOrEqual(clock);
          copied++;
        }
        if (kill % 5 === 4) {
          const from = await open(locations[0]!);
          const source = await clocksOf(from);
          for (const [id, clock] of Object.entries(target)) expect(source[id]).toBeGreaterThanOrEqual(clock);
          const result = await from.copyTo(to);
          expect(result.failures).toEqual([]);
          expect(await clocksOf(to)).toEqual(source);
          for (const id of Object.keys(source)) {
            expect((await to.info(id))?.token).toBe((await from.info(id))?.token);
          }
          expect(await from.copyTo(to)).toMatchObject({ unchanged: Object.keys(source).length, bytes: 0 });
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
