/**
 * All cases that a backend must pass. Adding a case here adds it to every backend's tests, to those of other
 * people's backends too; a case that a right backend could fail does not belong here.
 */

import { commitCases } from "./backend-cases-commit.js";
import { lifeCases } from "./backend-cases-life.js";
import { modelTestCases } from "./backend-cases-model.js";
import { scanCases } from "./backend-cases-scan.js";
import { valueCases } from "./backend-cases-values.js";
import type { BackendCase } from "./cases.js";

export const backendCases: readonly BackendCase[] = [
  ...valueCases,
  ...scanCases,
  ...commitCases,
  ...lifeCases,
  ...modelTestCases,
];
