/**
 * All cases that a backend must pass. Adding a case here adds it to every backend's tests, to those of other
 * people's backends too; a case that a right backend could fail does not belong here.
 */

import { commitCases } from "./backend-cases-commit.js";
import { crashCases } from "./backend-cases-crash.js";
import { fullDiskCases, unknownOutcomeCases } from "./backend-cases-faults.js";
import { lifeCases } from "./backend-cases-life.js";
import { modelTestCases } from "./backend-cases-model.js";
import { raceCases } from "./backend-cases-races.js";
import { reclaimCases } from "./backend-cases-reclaim.js";
import { scanCases } from "./backend-cases-scan.js";
import { valueCases } from "./backend-cases-values.js";
import type { BackendCase, CaseLevel } from "./cases.js";

export const backendCases: readonly BackendCase[] = [
  ...at("contract", [
    ...valueCases,
    ...scanCases,
    ...commitCases,
    ...lifeCases,
    ...reclaimCases,
    ...modelTestCases,
  ]),
  ...at("race", raceCases),
  ...at("crash", crashCases),
  ...at("full-disk", fullDiskCases),
  ...at("unknown-outcome", unknownOutcomeCases),
];

function at(level: CaseLevel, cases: readonly BackendCase[]): BackendCase[] {
  return cases.map((item) => ({ ...item, level }));
}
