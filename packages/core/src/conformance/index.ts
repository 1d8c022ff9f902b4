/**
 * The conformance kit: what a backend and a model must do, as cases that run under any test runner or none.
 */

export { backendCases } from "./backend-cases.js";
export { NaiveStore } from "./backend-cases-naive.js";
export {
  type BackendCase,
  type BackendSubject,
  type Case,
  CaseFailure,
  CaseInconclusive,
  type CaseLevel,
  Random,
} from "./cases.js";
export { type ModelCase, type ModelSubject, modelCases } from "./model-cases.js";
export { type CaseResult, type Report, type RunOptions, runCase, runCases } from "./run.js";
