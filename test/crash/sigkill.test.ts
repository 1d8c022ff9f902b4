// A real process on a real LevelDB is killed with SIGKILL at random moments, with 64 events in flight; after each kill
// the store is opened again and must hold every event that was acknowledged.
//
// COPPICE_KILLS=<count> kills so many times for each durability (default 10). COPPICE_REPORT=1 writes what was counted
// to docs/reports/sigkill.md. A kill shows what survives the process; loss of power is simulated elsewhere.

import { spawn, spawnSync } from "node:child_process";
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { levelBackend } from "@coppice/level";
import { yjs } from "@coppice/yjs";
import { DocumentStorage } from "coppice";
import { seededRandom } from "coppice/testing";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Doc } from "yjs";
import { bundleChild } from "../support/child.js";
import { type NameSet, nameSet } from "../support/oracle-model.js";
import { APPENDERS, DOCUMENTS, EDITORS } from "./children/callers.js";
import type { Outcome } from "./children/full-disk.js";
import { note } from "./laboratory/effort.js";

const KILLS = Number(process.env.COPPICE_KILLS ?? 10);
/** A store is killed so often before a new one is begun. */
const ROUNDS = 10;
const KILL_MS_MAX = 300;
const SEED = 20_261_120;

type Durability = "process" | "power";

/** The last number that each caller was told is stored, by round. */
type Acknowledged = Map<number, number>[];

interface Count {
  durability: Durability;
  kills: number;
  /** Kills while compactions ran all the time. */
  compacting: number;
  acknowledged: number;
  /** Acknowledged and not there. */
  lost: number;
  /** Stored though nobody was told: in flight when the process died. */
  inFlight: number;
  seconds: number;
}

const counts: Count[] = [];
let folder = "";

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "coppice-sigkill-"));
});

afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
  for (const count of counts) {
    console.log(JSON.stringify(count));
    const { durability, ...rest } = count;
    note(`kills-level-${durability}`, rest);
  }
  const whole = counts.length === 2 && counts.every(({ kills, lost }) => kills === KILLS && lost === 0);
  if (process.env.COPPICE_REPORT === "1" && whole) writeReport();
});

test.each<Durability>(["process", "power"])(
  "[RC12] every acknowledged event outlives SIGKILL at any moment, durability %s",
  async (durability) => {
    const started = performance.now();
    const random = seededRandom(SEED);
    const count: Count = {
      durability,
      kills: 0,
      compacting: 0,
      acknowledged: 0,
      lost: 0,
      inFlight: 0,
      seconds: 0,
    };
    counts.push(count);
    for (let store = 0; count.kills < KILLS; store++) {
      const location = join(folder, `${durability}-${store}`);
      const rounds: Acknowledged = [];
      for (let round = 0; round < ROUNDS && count.kills < KILLS; round++) {
        const compacting = round % 2 === 1;
        rounds.push(await writeUntilKilled(location, durability, round, compacting, random.int(KILL_MS_MAX)));
        count.kills++;
        if (compacting) count.compacting++;
        const context = `seed ${SEED}, kill ${count.kills}`;
        const found = await verify(location, durability, rounds, context);
        count.inFlight += found.inFlight;
        count.lost += found.lost;
        expect(found.lost, context).toBe(0);
      }
      for (const round of rounds) for (const number of round.values()) count.acknowledged += number;
      rmSync(location, { recursive: true, force: true });
    }
    count.seconds = Math.round((performance.now() - started) / 1000);
    expect(count.acknowledged).toBeGreaterThan(KILLS * 64);
  },
  30_000 + KILLS * 3000,
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
    const storage = await openStorage(location, durability);
    expect((await storage.info("d"))?.clock).toBe(outcome.clock);
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  },
);

function openStorage(location: string, durability: Durability) {
  return DocumentStorage.open({
    backend: levelBackend(location, { durability }),
    models: [nameSet(), yjs()],
  });
}

/** Lets the writers run, and kills them so many ms after the first acknowledgement. */
async function writeUntilKilled(
  location: string,
  durability: Durability,
  round: number,
  compacting: boolean,
  afterMs: number,
): Promise<Map<number, number>> {
  const child = await bundleChild(fileURLToPath(new URL("children/writers.ts", import.meta.url)));
  const said = join(folder, "said");
  const output = openSync(said, "w+");
  const args = [child, location, durability, String(round), compacting ? "compact" : "append"];
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
  location: string,
  durability: Durability,
  rounds: Acknowledged,
  context: string,
): Promise<{ lost: number; inFlight: number }> {
  const storage = await openStorage(location, durability);
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

function writeReport(): void {
  const path = fileURLToPath(new URL("../../docs/reports/sigkill.md", import.meta.url));
  mkdirSync(join(path, ".."), { recursive: true });
  const row = (cells: readonly (string | number)[]) => `| ${cells.join(" | ")} |`;
  const lines = [
    "# Killed writers",
    "",
    `A process with ${APPENDERS + EDITORS} callers, each with one event in flight, on ${DOCUMENTS + EDITORS} documents in`,
    "one LevelDB store, was killed with SIGKILL at random moments. After each kill the store was opened again: every",
    "acknowledged event was there, once and in its caller's order; of those not acknowledged each was there whole or",
    "not at all; and `check()` found no problem. Every second kill fell into compactions that ran all the time.",
    "",
    row([
      "durability",
      "kills",
      "of them while compacting",
      "acknowledged",
      "lost",
      "stored unacknowledged",
      "seconds",
    ]),
    row(["---", "---:", "---:", "---:", "---:", "---:", "---:"]),
    ...counts.map((count) =>
      row([
        count.durability,
        count.kills,
        count.compacting,
        count.acknowledged,
        count.lost,
        count.inFlight,
        count.seconds,
      ]),
    ),
    "",
    `Seed ${SEED}; Node ${process.versions.node}, ${process.platform} ${process.arch}, ${availableParallelism()} CPUs. To repeat:`,
    "",
    "```sh",
    `COPPICE_KILLS=${KILLS} COPPICE_REPORT=1 npx vitest run --config test/vitest.config.ts test/crash/sigkill.test.ts`,
    "```",
    "",
    "A kill of the process leaves the operating system's cache in place, so it does not tell the two durabilities apart;",
    "that a `power` append is synced before it resolves is traced in `packages/level/test`, and loss of what was not synced",
    "is simulated at every operation in `test/crash/every-operation.test.ts`.",
    "",
  ];
  writeFileSync(path, lines.join("\n"));
}
