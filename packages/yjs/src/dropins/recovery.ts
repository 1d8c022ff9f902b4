/**
 * What a failed call of the storage means for one who must store what he has, and when to try again.
 *
 * Invariant: however many documents fail at once, the backend is reopened once: who failed before a recovery
 * that has ended by now just tries again.
 */

import { isCoppiceError } from "coppice";
import type { YjsStorage } from "./loading.js";

/**
 * `retry`: later; `recover`: after reopening the backend; `refused`: these events can never be stored;
 * `deleted`: somebody deleted the document; `ended`: nothing can be stored through this storage any more.
 */
export type Verdict = "retry" | "recover" | "refused" | "deleted" | "ended";

export function verdictOn(error: unknown): Verdict {
  if (!isCoppiceError(error)) return "ended";
  if (error.code === "DELETED") return "deleted";
  if (error.code === "POISONED" || error.kind === "unknown") return "recover";
  if (error.kind === "invalid") return "refused";
  if (error.kind === "closed" || error.kind === "unsupported") return "ended";
  return "retry";
}

interface Recovery {
  /** How often the backend was reopened. */
  count: number;
  running: Promise<void> | undefined;
}

const recoveries = new WeakMap<YjsStorage, Recovery>();

/** To be noted before a call, and handed to `recover` when the call has failed. */
export function recoveryCount(storage: YjsStorage): number {
  return recoveryOf(storage).count;
}

/**
 * Reopens the backend, unless that has happened since `noted`. Rejects with what `storage.recover` rejects
 * with.
 */
export async function recover(storage: YjsStorage, noted: number): Promise<void> {
  const recovery = recoveryOf(storage);
  if (recovery.count !== noted) return;
  recovery.running ??= storage
    .recover()
    .then(() => {
      recovery.count++;
    })
    .finally(() => {
      recovery.running = undefined;
    });
  await recovery.running;
}

function recoveryOf(storage: YjsStorage): Recovery {
  const known = recoveries.get(storage);
  if (known !== undefined) return known;
  const recovery: Recovery = { count: 0, running: undefined };
  recoveries.set(storage, recovery);
  return recovery;
}
