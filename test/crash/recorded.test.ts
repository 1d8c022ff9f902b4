// A real run on a real backend is recorded call by call, and from each moment of it the states are built
// that a loss of
// power may leave: unsynced data gone, cut, torn or out of order, names gone or out of order. Each is
// opened again.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { seededRandom } from "coppice/testing";
import { afterAll, beforeAll, expect, test } from "vitest";
import { bundleChild } from "../support/child.js";
import { Court } from "./laboratory/court.js";
import { Disk, type Image, type Names, SURVIVALS, type Survival } from "./laboratory/crash-states.js";
import { note, repetitions, replay, SEED, TEST_MS_MAX } from "./laboratory/effort.js";
import { toldBy } from "./laboratory/judge.js";
import { BACKENDS, type BackendName } from "./laboratory/stores.js";
import { recordingMissing, recordSteps, type Step } from "./laboratory/system-calls.js";

const STATES = 200;
const CALLERS = 4;
const EVENTS = 60;
const missingReason = recordingMissing();
let runs = 0;
let folder = "";

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "coppice-recorded-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test.for(BACKENDS)(
  "[LB10] whatever a loss of power leaves of a recorded run, all that was acknowledged is there: %s",
  { timeout: TEST_MS_MAX },
  async (backend, context) => {
    if (missingReason !== undefined) return context.skip(missingReason);
    const steps = await record(backend);
    const opened = steps.findIndex((step) => step.kind === "said" && step.text.includes("OPEN"));
    expect(opened).toBeGreaterThan(0);
    expect(steps.filter(({ kind }) => kind === "sync").length).toBeGreaterThan(EVENTS);
    const court = new Court(backend);
    const counts: Record<string, number> = { states: 0, unfinished: 0 };
    for (const i of repetitions(STATES)) {
      const { moment, names, survival, image } = stateOf(steps, i);
      const said = steps.slice(0, moment).map((step) => (step.kind === "said" ? step.text : ""));
      const { told } = toldBy(said.join(""));
      const location = join(folder, `state-${i}`);
      store(location, image);
      const verdict = await court.judge({ location, told: callersOf(told) });
      counts.states!++;
      const before = moment <= opened;
      // LevelDB notes a new log or table before its name is durable. Where a file system keeps the one and
      // loses the other, opening refuses: what was acknowledged is in the older files, and nothing is dropped.
      const unnamed =
        names === "strict" &&
        verdict.kind === "refused" &&
        /log is missing|missing files/.test(`${verdict.why}`);
      // A store that was never opened may be refused, and never lost: nobody was told anything.
      if (before && verdict.kind === "refused") counts.unfinished!++;
      else counts[verdict.kind] = (counts[verdict.kind] ?? 0) + 1;
      const what = `${backend}: step ${moment} of ${steps.length}, ${names}, ${survival}: ${verdict.why}`;
      const fine = verdict.kind === "sound" || unnamed || (before && verdict.kind === "refused");
      if (!fine) console.log(what);
      expect.soft(fine ? "sound" : verdict.kind, `${what}\n${replay("recorded.test.ts", i)}`).toBe("sound");
      rmSync(location, { recursive: true, force: true });
    }
    await court.close();
    expect(counts.refused ?? 0).toBeLessThanOrEqual(counts.states! / 50);
    note(`recorded-${backend}`, { steps: steps.length, ...counts });
    console.log(backend, JSON.stringify(counts));
  },
);

// The explorer itself must find what is planted: the same run as if its syncs had been forgotten.
test.for([
  ["forgets to sync its files", "sync", "journalled"],
  ["forgets to sync its directory", "sync-names", "strict"],
] as const)(
  "[LB11] a recorded run that %s loses what was acknowledged",
  { timeout: TEST_MS_MAX },
  async ([, forgotten, names], context) => {
    if (missingReason !== undefined) return context.skip(missingReason);
    const steps = (await record("level")).filter(({ kind }) => kind !== forgotten);
    const court = new Court("level");
    let failures = 0;
    for (let i = 0; i < 12; i++) {
      const disk = new Disk(names);
      const moment = steps.length - 20 * i - 1;
      for (const step of steps.slice(0, moment)) disk.take(step);
      const said = steps.slice(0, moment).map((step) => (step.kind === "said" ? step.text : ""));
      const location = join(folder, `planted-${i}`);
      store(location, disk.image("nothing", seededRandom(i)));
      const { kind } = await court.judge({ location, told: callersOf(toldBy(said.join("")).told) });
      if (kind !== "sound") failures++;
      rmSync(location, { recursive: true, force: true });
    }
    await court.close();
    expect(failures).toBeGreaterThan(6);
  },
);

async function record(backend: BackendName): Promise<Step[]> {
  const script = await bundleChild(fileURLToPath(new URL("children/numbering.ts", import.meta.url)));
  const location = join(folder, `run-${++runs}`);
  const args = [backend, location, String(CALLERS), String(EVENTS), "600", "compact"];
  return recordSteps(script, args, location, join(folder, `trace-${runs}`));
}

/** The i-th state: a moment, a model of names and a survival, and what that leaves. */
function stateOf(
  steps: readonly Step[],
  i: number,
): { moment: number; names: Names; survival: Survival; image: Image } {
  const random = seededRandom(SEED + i);
  const moment = random.int(steps.length + 1);
  const names: Names = i % 2 === 0 ? "strict" : "journalled";
  const survival = SURVIVALS[(i >> 1) % SURVIVALS.length]!;
  const disk = new Disk(names);
  for (const step of steps.slice(0, moment)) disk.take(step);
  return { moment, names, survival, image: disk.image(survival, random) };
}

function callersOf(told: ReadonlyMap<number, number>): [number, number][] {
  return Array.from({ length: CALLERS }, (_, caller) => [caller, told.get(caller) ?? 0]);
}

function store(location: string, image: Image): void {
  mkdirSync(location, { recursive: true });
  for (const [name, bytes] of image) writeFileSync(join(location, name), bytes);
}
