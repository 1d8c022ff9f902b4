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
import { BACKENDS, type BackendName, saysMerged } from "./laboratory/stores.js";
import { recordingMissing, recordSteps, type Step, stepsOf } from "./laboratory/system-calls.js";

const STATES = 200;
/** So many states are looked at of one recorded run. */
const STATES_OF_RUN = 1000;
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
    const court = new Court(backend);
    const counts: Record<string, number> = { runs: 0, steps: 0, states: 0, unfinished: 0 };
    for (const numbers of groups(repetitions(STATES), STATES_OF_RUN)) {
      const steps = await record(backend);
      const opened = steps.findIndex((step) => step.kind === "said" && step.text.includes("OPEN"));
      expect(opened).toBeGreaterThan(0);
      expect(steps.filter(({ kind }) => kind === "sync").length).toBeGreaterThan(EVENTS);
      counts.runs!++;
      counts.steps! += steps.length;
      for (const state of statesOf(steps, numbers)) {
        const outcome = await lookAt(backend, court, steps, state, opened);
        counts.states!++;
        if (backend === "file" && saysMerged(state.image.get("MANIFEST"))) {
          counts.merging = (counts.merging ?? 0) + 1;
        }
        counts[outcome] = (counts[outcome] ?? 0) + 1;
      }
    }
    await court.close();
    expect(counts.refused ?? 0).toBeLessThanOrEqual(counts.states! / 50);
    note(`recorded-${backend}`, counts);
    console.log(backend, JSON.stringify(counts));
  },
);

/** Opens what is left at a moment, and holds it to what was acknowledged by then. */
async function lookAt(
  backend: BackendName,
  court: Court,
  steps: readonly Step[],
  { i, moment, names, survival, image }: State,
  opened: number,
): Promise<string> {
  const said = steps.slice(0, moment).map((step) => (step.kind === "said" ? step.text : ""));
  const { told } = toldBy(said.join(""));
  const location = join(folder, `state-${i}`);
  store(location, image);
  const { kind, why } = await court.judge({ location, told: callersOf(told) });
  rmSync(location, { recursive: true, force: true });
  // LevelDB notes a new log or table before its name is durable. Where a file system keeps the one and
  // loses the other, opening refuses: what was acknowledged is in the older files, and nothing is dropped.
  const unnamed =
    backend === "level" &&
    names === "strict" &&
    kind === "refused" &&
    /log is missing|missing files/.test(`${why}`);
  // A store that was never opened may be refused, and never lost: nobody was told anything.
  const unfinished = moment <= opened && kind === "refused";
  const what = `${backend}: step ${moment} of ${steps.length}, ${names}, ${survival}: ${why}`;
  const fine = kind === "sound" || unnamed || unfinished;
  if (!fine) console.log(what);
  expect.soft(fine ? "sound" : kind, `${what}\n${replay("recorded.test.ts", i)}`).toBe("sound");
  return unfinished ? "unfinished" : kind;
}

test("[LB11] what one thread writes under a number that another one is still closing is recorded", () => {
  const path = [...Buffer.from("/d/new")].map((byte) => `\\x${byte.toString(16)}`).join("");
  const trace = [
    "11 close(9 <unfinished ...>",
    `12 openat(AT_FDCWD, "${path}", O_WRONLY|O_CREAT|O_TRUNC|O_CLOEXEC, 0644) = 9`,
    "11 <... close resumed>) = 0",
    '12 write(9, "\\x61\\x62", 2 <unfinished ...>',
    "11 close(8) = 0",
    "12 <... write resumed>) = 2",
    "12 fdatasync(9) = 0",
  ];
  expect(stepsOf("/d", trace.join("\n"))).toEqual([
    { kind: "create", file: 0, name: "new" },
    { kind: "write", file: 0, at: 0, bytes: Buffer.from("ab") },
    { kind: "sync", file: 0 },
  ]);
});

// The explorer itself must find what is planted: the same run as if its syncs had been forgotten.
test.for([
  ["level", "its files", "sync", "journalled"],
  ["level", "its directory", "sync-names", "strict"],
  ["file", "its files", "sync", "journalled"],
  ["file", "its directory", "sync-names", "strict"],
] as const)(
  "[LB11] a recorded run of %s that forgets to sync %s loses what was acknowledged",
  { timeout: TEST_MS_MAX },
  async ([backend, , forgotten, names], context) => {
    if (missingReason !== undefined) return context.skip(missingReason);
    const steps = (await record(backend)).filter(({ kind }) => kind !== forgotten);
    const court = new Court(backend);
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

interface State {
  readonly i: number;
  readonly moment: number;
  readonly names: Names;
  readonly survival: Survival;
  readonly image: Image;
}

/**
 * Of each number a moment, a model of names and a survival, and what that leaves; in the order of the moments, so that
 * the steps are followed once.
 */
function* statesOf(steps: readonly Step[], numbers: readonly number[]): Generator<State> {
  const drawn = numbers.map((i) => {
    const random = seededRandom(SEED + i);
    const moment = random.int(steps.length + 1);
    const names: Names = i % 2 === 0 ? "strict" : "journalled";
    return { i, random, moment, names, survival: SURVIVALS[(i >> 1) % SURVIVALS.length]! };
  });
  drawn.sort((a, b) => a.moment - b.moment);
  const disks = { strict: new Disk("strict"), journalled: new Disk("journalled") };
  let taken = 0;
  for (const { i, random, moment, names, survival } of drawn) {
    for (; taken < moment; taken++) {
      disks.strict.take(steps[taken]!);
      disks.journalled.take(steps[taken]!);
    }
    yield { i, moment, names, survival, image: disks[names].image(survival, random) };
  }
}

function* groups(numbers: Iterable<number>, size: number): Generator<number[]> {
  let group: number[] = [];
  for (const number of numbers) {
    group.push(number);
    if (group.length < size) continue;
    yield group;
    group = [];
  }
  if (group.length > 0) yield group;
}

function callersOf(told: ReadonlyMap<number, number>): [number, number][] {
  return Array.from({ length: CALLERS }, (_, caller) => [caller, told.get(caller) ?? 0]);
}

function store(location: string, image: Image): void {
  mkdirSync(location, { recursive: true });
  for (const [name, bytes] of image) writeFileSync(join(location, name), bytes);
}
