/** The simulated backend passes the conformance kit in all its honest modes; a disk that lies does not. */

import { type BackendFactory, systemEnv } from "coppice";
import { type BackendSubject, backendCases, runCase, runCases } from "coppice/conformance";
import {
  type CrashOptions,
  type SimulatedBackend,
  type SimulatedBackendOptions,
  seededRandom,
  simulatedBackend,
} from "coppice/testing";
import { describe, expect, test } from "vitest";

/** `how` the power goes; a killed process loses nothing that it has written. */
function subjectOf(name: string, options: SimulatedBackendOptions, how: CrashOptions): BackendSubject {
  const end = (given: CrashOptions) => async (factory: BackendFactory) => {
    (factory as SimulatedBackend).crash(given);
    return factory;
  };
  return {
    name,
    create: async () => simulatedBackend(options),
    crash: end({ keep: "all" }),
    powerLoss: end(how),
    fillDisk: async (factory) => {
      (factory as SimulatedBackend).failNext("commit", "error", { sticky: true });
      return async () => (factory as SimulatedBackend).heal();
    },
    loseReply: async (factory, applied) =>
      (factory as SimulatedBackend).failNext("commit", applied ? "unknown-applied" : "unknown-lost"),
  };
}

const chance = seededRandom(6);
const { turn } = systemEnv();
const slowly = (): Promise<void> | undefined =>
  chance.int(4) > 0 ? undefined : new Promise((resolve) => turn(resolve));

const honest = [
  subjectOf("exclusive, power loss", {}, { keep: "none" }),
  subjectOf("shared, power loss", { exclusive: false }, { keep: "subset" }),
];
const others = [
  subjectOf("shared, with turns", { exclusive: false, schedule: async () => slowly() }, {}),
  subjectOf("sync never, killed", { sync: "never" }, { keep: "all" }),
  subjectOf("sync every 3, shared, killed", { sync: { every: 3 }, exclusive: false }, { keep: "all" }),
];
// The kit's random operations take most of its time, and go the same way in all modes.
const briefly = backendCases.filter(({ rule }) => rule !== "BK19");

for (const [subject, cases] of [
  ...honest.map((subject) => [subject, backendCases] as const),
  ...others.map((subject) => [subject, briefly] as const),
]) {
  describe(subject.name, () => {
    for (const item of cases) {
      test(item.name, (context) => runCase(item, subject, (reason) => context.skip(reason)));
    }
  });
}

test("[TS3] the kit finds out a disk that says power and does not sync", async () => {
  const aboutCrashes = backendCases.filter(({ title }) => title.includes("survives a loss of power"));
  const run = async (options: SimulatedBackendOptions) => {
    const { passed, failed } = await runCases(aboutCrashes, subjectOf("any", options, { keep: "none" }));
    return { passed, failed };
  };
  expect(aboutCrashes).toHaveLength(1);
  expect(await run({ sync: "each" })).toEqual({ passed: 1, failed: 0 });
  expect(await run({ sync: "never", durability: "power" })).toEqual({ passed: 0, failed: 1 });
});
