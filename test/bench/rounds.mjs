/**
 * Rounds: every side of a comparison once, in turn, again and again; and what the figures of the rounds amount to.
 *
 * Invariants: one round before the others warms up and does not count; the heap is collected before each side, so
 * that nobody pays for another's garbage; a ratio compares two sides of the same round.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

setFlagsFromString("--expose-gc");
// A collection on demand would also throw away compiled code, and each side would begin cold.
setFlagsFromString("--no-flush-bytecode");
export const collectGarbage = runInNewContext("gc");

/** `sides`: `{ name, run(round) }`. Returns the results by side name, one for each round that counts. */
export async function runRounds(rounds, sides, note) {
  const results = Object.fromEntries(sides.map(({ name }) => [name, []]));
  for (let round = 0; round <= rounds; round++) {
    for (const { name, run } of sides) {
      collectGarbage();
      const result = await run(round);
      if (round > 0) results[name].push(result);
    }
    note(round === 0 ? "  warmed up" : `  round ${round} of ${rounds}`);
  }
  return results;
}

/** Milliseconds that the task takes, and what it returns. */
export async function timed(task) {
  const started = performance.now();
  const value = await task();
  return { ms: performance.now() - started, value };
}

export function summary(values) {
  return { median: quantile(values, 0.5), min: Math.min(...values), max: Math.max(...values) };
}

/** Round by round: the first divided by the second. */
export function ratios(numerators, denominators) {
  return summary(numerators.map((value, round) => value / denominators[round]));
}

export function quantile(values, share) {
  const sorted = Float64Array.from(values).sort();
  const at = (sorted.length - 1) * share;
  const below = sorted[Math.floor(at)];
  return below + (sorted[Math.ceil(at)] - below) * (at - Math.floor(at));
}
