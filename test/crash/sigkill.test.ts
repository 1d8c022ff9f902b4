// A real process on a real LevelDB or file log is killed with SIGKILL at random moments, with 64 events in flight;
// after each kill the store is opened again and must hold every event that was acknowledged.
//
// A kill shows what survives the process; loss of power is simulated, recorded and done elsewhere.

import { spawn, spawnSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { yjs } from "@coppice/yjs";
import { DocumentStorage } from "coppice";
import { seededRandom } from "coppice/testing";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Doc } from "yjs";
import { bundleChild } from "../support/child.js";
import { type NameSet, nameSet } from "../support/oracle-model.js";
import { APPENDERS, DOCUMENTS, EDITORS } from "./children/callers.js";
import type { Outcome } from "./children/full-disk.js";
import { LONG, note, ONLY, repetitions, replay, SEED, TEST_MS_MAX } from "./laboratory/effort.js";
import { type KilledBackend, killedBackend, saysMerged } from "./laboratory/stores.js";

/** Of each durability. */
const KILLS = 10;
/** A store is killed so often before a new one is begun. */
const ROUNDS = 10;
const KILL_MS_MAX = 300;

type Durability = "process" | "power";

/** The last number that each caller was told is stored, by round. */
type Acknowledged = Map<number, number>[];

let folder = "";

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "coppice-sigkill-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test.for([
  ["level", "process"],
  ["level", "power"],
  ["file", "process"],
  ["file", "power"],
] as const)(
  "[RC12] every acknowledged event outlives SIGKILL at any moment: %s, durability %s",
  { timeout: TEST_MS_MAX },
  async ([backend, durability]) => {
    const counts = { kills: 0, compacting: 0, merging: 0, acknowledged: 0, lost: 0, inFlight: 0 };
    let location = "";
    let rounds: Acknowledged = [];
    for (const i of repetitions(KILLS)) {
      if (rounds.length % ROUNDS === 0) {
        rmSync(location, { recursive: true, force: true });
        location = join(folder, `${backend}-${durability}-${i}`);
        rounds = [];
      }
      const round = rounds.length;
      const compacting = i % 2 === 1;
      const afterMs = seededRandom(SEED + i).int(KILL_MS_MAX);
      const told = await writeUntilKilled([backend, location, durability], round, compacting, afterMs);
      rounds.push(told);
      counts.kills++;
      if (compacting) counts.compacting++;
      for (const number of told.values()) counts.acknowledged += number;
      if (backend === "file" && saysMerged(readFileSync(join(location, "MANIFEST")))) counts.merging++;
      const context = `kill ${i}\n${replay("sigkill.test.ts", i)}`;
      const found = await verify(openStorage(backend, location, durability), rounds, context);
      counts.inFlight += found.inFlight;
      counts.lost += found.lost;
      expect(found.lost, context).toBe(0);
    }
    note(`kills-${backend}-${durability}`, counts);
    console.log(backend, durability, JSON.stringify(counts));
    if (!LONG && ONLY === undefined) expect(counts.kills).toBeGreaterThanOrEqual(KILLS);
    expect(counts.acknowledged).toBeGreaterThan(counts.kills * 64);
    if (backend === "file" && counts.kills >= 100) expect(counts.merging).toBeGreaterThan(0);
  },
);

test.for<Durability>(["process", "power"])(
  "[RC13] a full disk refuses the append that failed and all later ones until recover(), durability %s",
  async (durability, context) => {
    if (spawnSync("prlimit", ["--version"]).error !== undefined) context.skip("prlimit is not installed");
    const child = await bundleChild(fileURLToPath(new URL("children/full-disk.ts", import.meta.url)));
    const location = join(folder, `full-${durability}`);
    const { stdout, stderr, status } = spawnSync(process.execPath, [child, location, durability], {
      encoding: "utf8",
      timeout: 30_000,
    });
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    const outcome = JSON.parse(stdout) as Outcome;
    expect(outcome).toMatchObject({ later: "POISONED", problems: [], missing: [], resurrected: [] });
    expect(outcome.codes).toContain("OUTCOME_UNKNOWN");
    expect(outcome.codes.filter((code) => code !== "OUTCOME_UNKNOWN" && code !== "POISONED")).toEqual([]);
    expect(outcome.acknowledged).toBeGreaterThan(100);
    const storage = await openStorage("level", location, durability);
    expect((await storage.info("d"))?.clock).toBe(outcome.clock);
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  },
);

function openStorage(backend: KilledBackend, location: string, durability: Durability) {
  return DocumentStorage.open({
    backend: killedBackend(backend, location, durability),
    models: [nameSet(), yjs()],
  });
}

/** Lets the writers run, and kills them so many ms after the first acknowledgement. */
async function writeUntilKilled(
  store: readonly string[],
  round: number,
  compacting: boolean,
  afterMs: number,
): Promise<Map<number, number>> {
  const child = await bundleChild(fileURLToPath(new URL("children/writers.ts", import.meta.url)));
  const said = join(folder, "said");
  const output = openSync(said, "w+");
  const args = [child, ...store, String(round), compacting ? "compact" : "append"];
  const writers = spawn(process.execPath, args, { stdio: ["ignore", output, "pipe"] });
  let errors = "";
  writers.stderr?.setEncoding("utf8").on("data", (text: string) => {
    errors += text;
  });
  const ended = new Promise<string>((resolve) => {
    writers.on("close", (code, signal) => resolve(signal ?? `exit code ${code}: ${errors}`));
  });
  // What was said is in the file at once, so it is complete however suddenly the writers end.
  while (readFileSync(said, "latin1").split("\n").length < 3 && writers.exitCode === null) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  await new Promise((resolve) => setTimeout(resolve, afterMs));
  writers.kill("SIGKILL");
  expect(await ended).toBe("SIGKILL");
  closeSync(output);
  const [opening, ...lines] = readFileSync(said, "latin1").trim().split("\n");
  expect(opening).toBe("OPEN");
  return new Map(lines.map((line) => line.split(" ").map(Number) as [number, number]));
}

/** Holds the store to what was said in all rounds. Returns what is lost, and what was in flight in the last one. */
async function verify(
  opening: Promise<DocumentStorage>,
  rounds: Acknowledged,
  context: string,
): Promise<{ lost: number; inFlight: number }> {
  const storage = await opening;
  let inFlight = 0;
  let lost = 0;
  const judge = (round: number, caller: number, stored: readonly number[]) => {
    const acknowledged = rounds[round]!.get(caller) ?? 0;
    const whole = Array.from({ length: stored.length }, (_, index) => index + 1);
    expect(stored, `${context}: events of caller ${caller}, round ${round}`).toEqual(whole);
    lost += Math.max(0, acknowledged - stored.length);
    expect(stored.length, `${context}: never submitted`).toBeLessThanOrEqual(acknowledged + 1);
    if (round === rounds.length - 1) inFlight += Math.max(0, stored.length - acknowledged);
  };
  const numbers = new Map<string, number[]>();
  for (let document = 0; document < DOCUMENTS; document++) {
    const handle = await storage.load<NameSet>(`names-${document}`);
    const names = [...(handle?.doc.names.keys() ?? [])];
    expect(handle?.clock ?? 0, `${context}: each event once`).toBe(names.length);
    for (const name of names) {
      const [round, caller, number] = name.split(".");
      const key = `${round}.${caller}`;
      numbers.set(key, [...(numbers.get(key) ?? []), Number(number)]);
    }
  }
  for (const round of rounds.keys()) {
    for (let caller = 0; caller < APPENDERS; caller++) {
      judge(
        round,
        caller,
        (numbers.get(`${round}.${caller}`) ?? []).sort((a, b) => a - b),
      );
    }
  }
  for (let editor = 0; editor < EDITORS; editor++) {
    const handle = await storage.load<Doc>(`text-${editor}`);
    expect(handle?.held ?? []).toEqual([]);
    const typed = handle?.doc.getText("t").toString().trim().split(" ") ?? [];
    for (const round of rounds.keys()) {
      const prefix = `${round}.`;
      const ofRound = typed
        .filter((word) => word.startsWith(prefix))
        .map((word) => word.slice(prefix.length));
      judge(round, APPENDERS + editor, ofRound.map(Number));
    }
  }
  expect((await storage.check()).problems, context).toEqual([]);
  await storage.close();
  return { lost, inFlight };
}
