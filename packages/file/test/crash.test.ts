/**
 * Crashes after every operation of the file log, in every model of what a disk may keep.
 *
 * COPPICE_FILE_STATES=<count> looks at so many states (default 20,000). COPPICE_FILE_SEED=<seed> looks at the run of
 * that seed alone.
 */

import { crashModels } from "@coppice/file/testing";
import { expect, test } from "vitest";
import { explore } from "./crash-tools.js";

const STATES = Number(process.env.COPPICE_FILE_STATES ?? 20_000);
const ONLY = process.env.COPPICE_FILE_SEED;

test("[FL1] a crash after any operation loses nothing acknowledged and leaves nothing torn", {
  timeout: 600_000 + STATES * 20,
}, async () => {
  let states = 0;
  if (ONLY !== undefined) {
    states = await explore(Number(ONLY), crashModels);
    expect(states).toBeGreaterThan(0);
    return;
  }
  for (let seed = 1; states < STATES; seed++)
    states += await explore(seed, crashModels, { budget: STATES - states });
  expect(states).toBeGreaterThanOrEqual(STATES);
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
