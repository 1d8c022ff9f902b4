/**
 * How much the laboratory does: a share in each test run, more by `npm run test:crash`, and for as long as
 * it is told by `npm run test:crash -- --hours 8`, which sets the variables read here.
 *
 * COPPICE_LAB_SEED=<integer> is the seed of everything; COPPICE_LAB_MINUTES=<minutes> the time of each
 * experiment, in place of its count; COPPICE_LAB_ONLY=<number> runs one state alone, as a failure says.
 */

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export const SEED: number = Number(process.env.COPPICE_LAB_SEED ?? 20_261_120);
const MINUTES =
  process.env.COPPICE_LAB_MINUTES === undefined ? undefined : Number(process.env.COPPICE_LAB_MINUTES);
const FACTOR = Number(process.env.COPPICE_LAB_FACTOR ?? 1);
export const ONLY: number | undefined =
  process.env.COPPICE_LAB_ONLY === undefined ? undefined : Number(process.env.COPPICE_LAB_ONLY);

/** The time limit of a test that does so much. */
export const TEST_MS_MAX: number = 180_000 * FACTOR + (MINUTES ?? 0) * 90_000;

/** Numbers from 0: so many, times the factor; or, when a time is given, until it is over. */
export function* repetitions(count: number): Generator<number> {
  if (ONLY !== undefined) {
    yield ONLY;
    return;
  }
  const started = performance.now();
  const goOn = (i: number) =>
    MINUTES === undefined ? i < count * FACTOR : i < count || performance.now() - started < MINUTES * 60_000;
  for (let i = 0; goOn(i); i++) yield i;
}

/** The command that does the i-th repetition of an experiment again. */
export function replay(file: string, i: number): string {
  const seed = `COPPICE_LAB_SEED=${SEED} COPPICE_LAB_ONLY=${i}`;
  return `replay: ${seed} npx vitest run --config test/vitest.config.ts test/crash/${file}`;
}

/** Keeps what an experiment counted for the report of a long run; does nothing in an ordinary one. */
export function note(experiment: string, counts: Readonly<Record<string, number | string>>): void {
  const folder = process.env.COPPICE_LAB_NOTES;
  if (folder === undefined) return;
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, `${experiment}.json`), JSON.stringify(counts));
}
