/**
 * Crashes after every operation of the file log, in every model of what a disk may keep.
 *
 * A run is 40 commits, merges and reopenings drawn from its seed; in every other one each commit is called while the
 * one before it is under way. States of a run that are equal in every byte are opened once, and each is held to what
 * was acknowledged at its moment. COPPICE_LAB_SEED=<seed> is the first run's (default 1), COPPICE_LAB_COUNT=<count> so
 * many states (default 57,000); COPPICE_LAB_ONLY=<number> looks at the run of so many seeds further on alone.
 */

import { crashModels, SimulatedDisk } from "@coppice/file/testing";
import { simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import { begin, note, ONLY, remaining, SEED, TEST_MS_MAX } from "../../../test/crash/laboratory/effort.js";
import { explore, factoryOn } from "./crash-tools.js";

const STATES = 57_000;
/** Of those that begin with the first seed at least so many differ. */
const OPENED_MIN = 20_000;
const FIRST = process.env.COPPICE_LAB_SEED === undefined ? 1 : SEED;

/** Of the seed alone, so that a run is the same when it is looked at alone. */
const isAhead = (seed: number): boolean => seed % 2 === 0;

test("[FL1] a crash after any operation loses nothing acknowledged and leaves nothing torn", {
  timeout: 600_000 + TEST_MS_MAX,
}, async () => {
  begin();
  if (ONLY !== undefined) {
    expect(
      (await explore(FIRST + ONLY, crashModels, { ahead: isAhead(FIRST + ONLY) })).states,
    ).toBeGreaterThan(0);
    return;
  }
  const counts = { runs: 0, states: 0, opened: 0 };
  while (remaining(STATES, counts.states) > 0) {
    const budget = remaining(STATES, counts.states);
    const seed = FIRST + counts.runs;
    const { states, opened } = await explore(seed, crashModels, { budget, ahead: isAhead(seed) });
    counts.states += states;
    counts.opened += opened;
    counts.runs++;
  }
  expect(counts.opened).toBeGreaterThan(counts.states / 4);
  if (FIRST === 1 && counts.states >= STATES) expect(counts.opened).toBeGreaterThanOrEqual(OPENED_MIN);
  note("simulated-file", counts);
  console.log("simulated crash states", JSON.stringify(counts));
});

test("[FL25] each opening on a simulated disk lets the event loop turn, so that closed ones are collected", async () => {
  const factory = factoryOn(new SimulatedDisk());
  let turns = 0;
  for (let opened = 1; opened <= 3; opened++) {
    setImmediate(() => turns++);
    await (await factory.open(simulatedEnv(opened))).close();
    expect(turns).toBe(opened);
  }
});

test("[FL8] durability process: a killed process loses nothing, a loss of power leaves some moment before", {
  timeout: 300_000,
}, async () => {
  const replay = "npm run unit -- packages/file/test/crash.isolated.test.ts -t FL8]";
  const options = { durability: "process" } as const;
  let states = 0;
  for (let seed = 1; seed <= 8; seed++) {
    states += (await explore(seed, ["kill"], { options, replay })).states;
    const how = { options, keepsAcknowledged: false, budget: 250, replay };
    states += (await explore(seed, crashModels, how)).states;
  }
  expect(states).toBeGreaterThan(2000);
});
