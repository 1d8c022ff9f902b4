/** `coppice/testing`: a simulated environment and a simulated backend, for tests of what is built on them. */

export {
  type SimulatedBackend,
  type SimulatedBackendOptions,
  simulatedBackend,
} from "./simulated-backend.js";
export type { Keep } from "./simulated-disk.js";
export {
  type SeededRandom,
  type SimulatedEnv,
  type SimulatedEnvOptions,
  seededRandom,
  simulatedEnv,
} from "./simulated-env.js";
export type { CrashOptions, Fault, Operation, OperationKind } from "./simulated-operations.js";
export type { Sync } from "./simulated-store.js";
