/**
 * A backend that can die: what a case of the kit holds, so that a crash ends it for certain. It knows
 * nothing of crashes, and does not close the backend: that is for whoever brings the crash.
 *
 * Invariants: alive it gives just what the backend gives, right or wrong. Dead it refuses every call, and
 * none reaches the backend, not even `close`. Calls that were under way end as they end; a scan is one call.
 */

import { CoppiceError } from "../base/errors.js";
import type { Backend } from "../contract/backend.js";

export interface Mortal {
  readonly backend: Backend;
  dead: boolean;
}

/** For what surely has the methods of a backend. */
export function mortal(inner: Backend): Mortal {
  const call = <T>(work: () => Promise<T>): Promise<T> => (made.dead ? Promise.reject(died()) : work());
  const whileAlive = <T>(work: () => T): T => {
    if (made.dead) throw died();
    return work();
  };
  const watch: NonNullable<Backend["watch"]> = (listener) => whileAlive(() => inner.watch!(listener));
  const made: Mortal = {
    dead: false,
    backend: {
      traits: inner.traits,
      get: (key) => call(() => inner.get(key)),
      scan: (range, options) => whileAlive(() => inner.scan(range, options)),
      commit: (batch) => call(() => inner.commit(batch)),
      reclaim: () => call(() => inner.reclaim()),
      close: () => call(() => inner.close()),
      ...(inner.watch === undefined ? {} : { watch }),
    },
  };
  return made;
}

function died(): CoppiceError {
  return new CoppiceError("CLOSED", "a crash has ended what had this backend open");
}
