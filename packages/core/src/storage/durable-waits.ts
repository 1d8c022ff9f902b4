/**
 * Those who wait until the log of one document is durable up to a clock. None waits for ever where it can be
 * told that the clock will not come: whoever knows that ends them all.
 */

import type { DocumentLog } from "./document-log.js";

export class DurableWaits {
  readonly #ends = new Set<(error: unknown) => void>();

  /** `onSeen` hears of each clock that the log was seen to be durable up to, also before this one. */
  until(
    clock: number,
    log: DocumentLog,
    onSeen: (durable: number) => void,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = (give: () => void) => {
        stop();
        this.#ends.delete(end);
        signal?.removeEventListener("abort", abort);
        give();
      };
      const end = (error: unknown) => settle(() => reject(error));
      const abort = () => end(signal?.reason);
      const stop = log.listen((durable) => {
        onSeen(durable);
        if (durable >= clock) settle(resolve);
      });
      this.#ends.add(end);
      if (signal?.aborted) abort();
      else signal?.addEventListener("abort", abort, { once: true });
    });
  }

  /** All who wait reject with this. */
  end(error: unknown): void {
    for (const end of [...this.#ends]) end(error);
  }
}
