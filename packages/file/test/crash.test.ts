/**
 * Crashes after every operation of the file log, in every model of what a disk may keep.
 *
 * A run is 40 commits, merges and reopenings drawn from its seed; in every other one each commit is called while the
 * one before it is under way. COPPICE_LAB_SEED=<seed> is the first run's (default 1), COPPICE_LAB_COUNT=<count> so many states (default 20,000); COPPICE_LAB_ONLY=<number> looks at the
 * run of so many seeds further on alone.
 */

import { crashModels } from "@coppice/file/testing";
import { expect, test } from "vitest";
import { begin, note, ONLY, remaining, SEED, TEST_MS_MAX } from "../../../test/crash/laboratory/effort.js";
import { explore } from "./crash-tools.js";

const STATES = 20_000;
const FIRST = process.env.COPPICE_LAB_SEED === undefined ? 1 : SEED;

/** In every other run each commit is called while the one before it is under way. */
const isAhead = (run: number): boolean => run % 2 === 1;

test("[FL1] a crash after any operation loses nothing acknowledged and leaves nothing torn", {
  timeout: 600_000 + TEST_MS_MAX,
}, async () => {
  begin();
  if (ONLY !== undefined) {
    expect(await explore(FIRST + ONLY, crashModels, { ahead: isAhead(ONLY) })).toBeGreaterThan(0);
    return;
  }
  const counts = { runs: 0, states: 0 };
  while (remaining(STATES, counts.states) > 0) {
    const budget = remaining(STATES, counts.states);
    counts.states += await explore(FIRST + counts.runs, crashModels, { budget, ahead: isAhead(counts.runs) });
    counts.runs++;
  }
  expect(counts.states).toBeGreaterThanOrEqual(STATES);
  note("simulated-file", counts);
  console.log("simulated crash states", JSON.stringify(counts));
});

test("[FL8] durability process: a killed process loses nothing, a loss of power leaves some moment before", {
  timeout: 300_000,
}, async () => {
  const options = { durability: "process" } as const;
  let states = 0;
  for (let seed = 1; seed <= 8; seed++) {
    states += await explore(seed, ["kill"], { options });
    states += await explore(seed, crashModels, { options, keepsAcknowledged: false, budget: 250 });
  }
  expect(states).toBeGreaterThan(2000);
});
