/**
 * How much the laboratory does: a share in each test run, more by `npm run test:crash`, and for as long as
 * it is told by `npm run test:crash -- --hours 8`, or as often as by `-- --count 1000`, which set the
 * variables read here.
 *
 * COPPICE_LAB_SEED=<integer> is the seed of everything; COPPICE_LAB_MINUTES=<minutes> is the time of each
 * experiment, and COPPICE_LAB_COUNT=<number> its count, in place of its own count; COPPICE_LAB_ONLY=<number>
 * runs one state alone, as a failure says. COPPICE_LAB_NOTES=<folder> gets a line for each experiment.
 *
 * It deliberately does not know the experiments. The seeds of two pieces of one experiment are further apart
 * than their counts, so that no state is counted twice.
 */

import { appendFileSync, mkdirSync } from "node:fs";
import { join } from "node:path";

export const SEED: number = Number(process.env.COPPICE_LAB_SEED ?? 20_261_120);
const MINUTES = numberIn("COPPICE_LAB_MINUTES");
const COUNT = numberIn("COPPICE_LAB_COUNT");
const FACTOR = Number(process.env.COPPICE_LAB_FACTOR ?? 1);
export const ONLY: number | undefined = numberIn("COPPICE_LAB_ONLY");

/** The time limit of a test that does so much. */
export const TEST_MS_MAX: number =
  180_000 * FACTOR + (MINUTES ?? 0) * 90_000 + (COUNT === undefined ? 0 : 24 * 3_600_000);

/** Whether there is time for what an ordinary run takes samples of: some minutes at least. */
export const LONG: boolean = (MINUTES ?? 0) >= 5 || COUNT !== undefined;

let began = performance.now();

/** An experiment begins; `repetitions` says so itself. */
export function begin(): void {
  began = performance.now();
}

/** How many more are wanted of an experiment that does so many by itself and has done so many. */
export function remaining(count: number, done: number): number {
  if (MINUTES === undefined || done < count) return (COUNT ?? count * FACTOR) - done;
  return performance.now() - began < MINUTES * 60_000 ? Number.POSITIVE_INFINITY : 0;
}

/** Numbers from 0: so many, times the factor; or, when a time or count is given, that instead. */
export function* repetitions(count: number): Generator<number> {
  begin();
  if (ONLY !== undefined) {
    yield ONLY;
    return;
  }
  for (let i = 0; remaining(count, i) > 0; i++) yield i;
}

/** The command that does the i-th repetition of an experiment again; `file` lies in test/crash, or has a path. */
export function replay(file: string, i: number): string {
  const seed = `COPPICE_LAB_SEED=${SEED} COPPICE_LAB_ONLY=${i}`;
  const path = file.includes("/") ? file : `test/crash/${file}`;
  return `replay: ${seed} npx vitest run --config test/vitest.config.ts ${path}`;
}

/**
 * Keeps what an experiment counted, and the seconds since its repetitions began, for the report of a long run;
 * does nothing in an ordinary one.
 */
export function note(experiment: string, counts: Readonly<Record<string, number>>): void {
  const folder = process.env.COPPICE_LAB_NOTES;
  if (folder === undefined) return;
  mkdirSync(folder, { recursive: true });
  const seconds = Math.round((performance.now() - began) / 1000);
  const line = JSON.stringify({ experiment, seed: SEED, ...counts, seconds });
  appendFileSync(join(folder, `${experiment}.jsonl`), `${line}\n`);
}

function numberIn(variable: string): number | undefined {
  const text = process.env[variable];
  return text === undefined ? undefined : Number(text);
}
