/**
 * A process whose disk gets full: it may not write files beyond a limit, which it sets itself once the store is open.
 *
 * Arguments: location, durability. It appends until that fails, tries again, lifts the limit, recovers, appends once
 * more, and says on standard output what happened, as one line of JSON (`Outcome`).
 */

import { execFileSync } from "node:child_process";
import { writeSync } from "node:fs";
import { levelBackend } from "@coppice/level";
import { DocumentStorage, isCoppiceError } from "coppice";
import { type NameSet, nameSet, naming } from "../../support/oracle-model.js";

export interface Outcome {
  readonly acknowledged: number;
  /** Codes of the appends that were in flight, and of one that came later. */
  readonly codes: readonly string[];
  readonly later: string;
  readonly problems: readonly unknown[];
  /** Acknowledged events that were not in the document after the recovery. */
  readonly missing: readonly string[];
  /** Events that had been refused with another code than `OUTCOME_UNKNOWN`, and were there. */
  readonly resurrected: readonly string[];
  readonly clock: number;
}

const [location, durability] = process.argv.slice(2) as [string, "power" | "process"];
const PADDING = "x".repeat(1000);

// Without a listener the signal ends the process; with one the write fails, as on a full disk.
process.on("SIGXFSZ", () => undefined);
const limit = (bytes: string): void => {
  execFileSync("prlimit", ["--pid", String(process.pid), `--fsize=${bytes}:`]);
};

const storage = await DocumentStorage.open({
  backend: levelBackend(location, { durability }),
  models: [nameSet()],
});
const acknowledged: string[] = [];
const refused: string[] = [];
const codes = new Set<string>();
let count = 0;

async function append(): Promise<string> {
  const name = `${++count}${PADDING}`;
  try {
    await storage.append("d", [naming(name)]);
    acknowledged.push(name);
    return "";
  } catch (error) {
    const code = isCoppiceError(error) ? error.code : String(error);
    if (code !== "OUTCOME_UNKNOWN") refused.push(name);
    return code;
  }
}

limit("400000");
for (let code = ""; code === ""; ) {
  const answers = await Promise.all(Array.from({ length: 8 }, append));
  for (const answer of answers) if (answer !== "") codes.add(answer);
  code = answers.find((answer) => answer !== "") ?? "";
}
const later = await append();
limit("unlimited");
await storage.recover();
const last = await append();
if (last !== "") codes.add(`after recover: ${last}`);
const names = (await storage.load<NameSet>("d"))!.doc.names;
const outcome: Outcome = {
  acknowledged: acknowledged.length,
  codes: [...codes].sort(),
  later,
  problems: (await storage.check()).problems,
  missing: acknowledged.filter((name) => !names.has(name)),
  resurrected: refused.filter((name) => names.has(name)),
  clock: (await storage.info("d"))!.clock,
};
await storage.close();
writeSync(1, `${JSON.stringify(outcome)}\n`);
