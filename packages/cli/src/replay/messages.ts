/**
 * What the replay and its writing child say to each other, over Node's channel between processes. Messages
 * keep their order; what a child had not handed to the system when it was killed never arrives.
 */

import type { PackedUpdates } from "./updates.js";

/** The child begins when it has this. */
export interface WriteJob {
  readonly store: string;
  readonly id: string;
  /** The clock to begin at: where the log ends. */
  readonly from: number;
  readonly updates: PackedUpdates;
  /** Keep the store open when all is written, and wait for the end that the parent has in mind. */
  readonly linger: boolean;
}

export type WriterMessage =
  | { readonly kind: "ready" }
  | {
      readonly kind: "acknowledged";
      /** Every event before this clock was acknowledged. */
      readonly clock: number;
      /** Of the events acknowledged since the last message, in ms each. */
      readonly latencies: Float32Array;
      /** Since the first append of this child. */
      readonly elapsedMs: number;
    }
  | { readonly kind: "failed"; readonly message: string };

/** Appends that wait for their acknowledgement at any time. */
export const IN_FLIGHT = 64;
