/**
 * The points at which the simulated backend can be crashed or made to fail, and what a test has planned for
 * them. The points themselves are in the table of `simulated-backend.ts`.
 */

import { CoppiceError } from "../base/errors.js";
import type { Batch, Key, Range } from "../contract/backend.js";
import type { Keep } from "./simulated-disk.js";
import type { SeededRandom } from "./simulated-env.js";

export type OperationKind = "open" | "get" | "scan" | "commit" | "sync" | "reply" | "reclaim" | "close";

/** A point at which a test may crash the store or make it fail. */
export interface Operation {
  /** Counts from 0 over the life of the simulated backend, over all handles. */
  readonly index: number;
  readonly kind: OperationKind;
  /** Which handle: 0 for the first `open`, 1 for the second … */
  readonly handle: number;
  /** Of a `get`. */
  readonly key?: Key;
  /** Of a `scan`. */
  readonly range?: Range;
  /** Of a `commit`, `sync` or `reply`. */
  readonly batch?: Batch;
}

/**
 * How an operation fails. On `commit` and `sync`:
 * - `unavailable`: not applied, rejects with `UNAVAILABLE`;
 * - `error`: not applied, rejects with a plain `Error`, as a full disk would;
 * - `unknown-lost`: not applied, rejects with `OUTCOME_UNKNOWN`;
 * - `unknown-applied`: applied, rejects with `OUTCOME_UNKNOWN`; a conflict stays a conflict.
 *
 * On `reply` the batch is applied already: `error` rejects with a plain `Error`, the others with
 * `OUTCOME_UNKNOWN`. On all others `unavailable` rejects with `UNAVAILABLE`, the others with a plain `Error`;
 * a `close` that fails has released everything.
 */
export type Fault = "unavailable" | "error" | "unknown-lost" | "unknown-applied";

export interface CrashOptions {
  /** Which unsynced batches survive. Default `"none"`. */
  readonly keep?: Keep;
  /** Decides `prefix` and `subset`. Default: the chance of this simulated backend, from its seed. */
  readonly random?: SeededRandom;
}

/** Either one operation by its index, or the next of a kind. Sticky: from then on all of that kind. */
export interface Plan {
  readonly index?: number;
  readonly kind?: OperationKind;
  readonly sticky: boolean;
  readonly act: Fault | CrashOptions;
}

/** What a test has planned; the plan that was made first goes first. */
export class Plans {
  #plans: Plan[] = [];

  add(plan: Plan): void {
    this.#plans.push(plan);
  }

  clear(): void {
    this.#plans = [];
  }

  /** What is to happen at this operation. A plan that is not sticky is used up. */
  take({ index, kind }: Operation): Fault | CrashOptions | undefined {
    const at = this.#plans.findIndex((plan) => plan.index === index || plan.kind === kind);
    const plan = this.#plans[at];
    if (plan === undefined) return undefined;
    if (plan.sticky) this.#plans[at] = { kind, act: plan.act, sticky: true };
    else this.#plans.splice(at, 1);
    return plan.act;
  }
}

/** Of a batch that is not durable yet: throws when the fault forbids that it is applied. */
export function assertApplies(fault: Fault | undefined): void {
  if (fault === "unavailable") throw unavailable();
  if (fault === "error") throw new Error("simulated failure of a write");
  if (fault === "unknown-lost") throw unknownOutcome();
}

/** Of a batch that is applied: throws when the fault takes the reply. */
export function assertReplies(fault: Fault | undefined): void {
  if (fault === "error") throw new Error("simulated failure after the batch was applied");
  if (fault !== undefined) throw unknownOutcome();
}

/** Of an operation that writes nothing. */
export function assertReads(fault: Fault | undefined): void {
  if (fault === "unavailable") throw unavailable();
  if (fault !== undefined) throw new Error("simulated failure of an operation");
}

function unavailable(): CoppiceError {
  return new CoppiceError("UNAVAILABLE", "simulated failure: nothing was written");
}

function unknownOutcome(): CoppiceError {
  return new CoppiceError("OUTCOME_UNKNOWN", "simulated failure: the batch may have been written");
}
