/**
 * Rounds: every side of a comparison once, in turn, again and again; and what the figures of the rounds amount to.
 *
 * Invariants: one round before the others warms up and does not count, unless sides see to that themselves; a ratio compares two sides of the same round.
 * What takes a few milliseconds is run several times in its turn, and the median stands for the round: so a side pays
 * for its own garbage, not for that of the side before it. Collections are not forced: with the last document
 * of a kind Node would throw away the code that was compiled for it, as a server at work never does.
 */

/**
 * `sides`: `{ name, run(round) }`; with `repeats` above 1, `run` returns a number. Returns the results by side name,
 * one for each round that counts. `warmsUp: false`: all do.
 */
export async function runRounds(rounds, sides, note, repeats = 1, warmsUp = true) {
  const results = Object.fromEntries(sides.map(({ name }) => [name, []]));
  for (let round = warmsUp ? 0 : 1; round <= rounds; round++) {
    for (const { name, run } of sides) {
      const turn = [];
      for (let count = 0; count < repeats; count++) turn.push(await run(round));
      if (round > 0) results[name].push(repeats === 1 ? turn[0] : quantile(turn, 0.5));
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

/** A row of the table of targets. */
export function atLeast(what, least, measured) {
  return { what, wanted: `≥ ${least} ×`, measured, unit: "ratio", met: measured.median >= least };
}

export function atMost(what, most, measured) {
  return { what, wanted: `≤ ${most} ×`, measured, unit: "ratio", met: measured.median <= most };
}
