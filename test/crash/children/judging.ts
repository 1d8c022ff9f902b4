/**
 * Judges stores in a process of its own, because an engine's native code may end the process over a damaged
 * file.
 *
 * Arguments: backend. One line of JSON on standard input is one store (`Job`); one line on standard output
 * is its verdict. It ends with its input.
 */

import { createInterface } from "node:readline";
import { judge } from "../laboratory/judge.js";
import type { BackendName } from "../laboratory/stores.js";

export interface Job {
  readonly location: string;
  readonly told: readonly (readonly [number, number])[];
  readonly more?: number;
}

const backend = process.argv[2] as BackendName;
for await (const line of createInterface({ input: process.stdin })) {
  const { location, told, more } = JSON.parse(line) as Job;
  const verdict = await judge(backend, location, new Map(told), more === undefined ? {} : { more });
  process.stdout.write(`${JSON.stringify(verdict)}\n`);
}
