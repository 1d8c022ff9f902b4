/**
 * The fault laboratory by itself: `npm run test:crash` does some minutes of everything in test/crash, and
 * `npm run test:crash -- --hours 8` as much as fits into the time, one experiment after the other, and
 * writes what it counted to docs/reports/laboratory.md when nothing failed.
 *
 * `--seed N` searches elsewhere; without it a long run takes the time as its seed and prints it. Each
 * failure prints the command that does it again.
 *
 * usage: node scripts/crash.mjs [--hours N] [--seed N] [vitest filter …]
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, release, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";

/** How many experiments share the time; each kill of the two loops of sigkill.test.ts takes about 2 s. */
const EXPERIMENTS = 10;
const KILL_SECONDS = 2;

const root = resolve(import.meta.dirname, "..");
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { hours: { type: "string" }, seed: { type: "string" } },
});
const hours = values.hours === undefined ? undefined : Number(values.hours);
if (hours !== undefined && !(hours > 0)) throw new TypeError("--hours takes a number above 0");
const seed = values.seed ?? (hours === undefined ? "20261120" : String(Math.floor(Date.now() / 1000)));
const notes = mkdtempSync(join(tmpdir(), "coppice-notes-"));
const started = Date.now();

console.log(`seed ${seed}`);
const { status, signal } = spawnSync(
  process.execPath,
  [
    join(root, "node_modules", "vitest", "vitest.mjs"),
    ...["run", "--no-color", "--config", "test/vitest.config.ts"],
    ...["--maxWorkers=1", ...(positionals.length > 0 ? positionals : ["test/crash"])],
  ],
  { cwd: root, stdio: ["ignore", "inherit", "inherit"], env: { ...process.env, ...effort() } },
);
try {
  if (status === 0 && hours !== undefined) report();
} finally {
  rmSync(notes, { recursive: true, force: true });
}
process.exitCode = status ?? 1;
if (signal !== null) console.log(`ended by ${signal}`);

function effort() {
  const common = { COPPICE_LAB_SEED: seed, COPPICE_LAB_NOTES: notes };
  if (hours === undefined) return { ...common, COPPICE_LAB_FACTOR: "4", COPPICE_KILLS: "40" };
  const minutes = (hours * 60) / EXPERIMENTS;
  const kills = String(Math.max(10, Math.floor((minutes * 60) / KILL_SECONDS)));
  return { ...common, COPPICE_LAB_MINUTES: String(minutes), COPPICE_KILLS: kills };
}

function report() {
  const rows = readdirSync(notes)
    .sort()
    .map((name) => {
      const { seed: _, ...counts } = JSON.parse(readFileSync(join(notes, name), "utf8"));
      const told = Object.entries(counts).map(([what, count]) => `${what} ${count}`);
      return `| ${name.replace(".json", "")} | ${told.join(", ")} |`;
    });
  const seconds = Math.round((Date.now() - started) / 1000);
  const lines = [
    "# The fault laboratory, at length",
    "",
    `_Reference: what \`npm run test:crash -- --hours ${values.hours} --seed ${seed}\` counted in ${seconds} s. Nothing failed._`,
    "",
    "| experiment | counted |",
    "| --- | --- |",
    ...rows,
    "",
    `Node ${process.versions.node}, Linux ${release()}, ${availableParallelism()} CPUs, one experiment at a time. What each`,
    "one does is said at the head of its file in `test/crash`; the rules LB10 to LB16 and RC12 are theirs. In rows without",
    "`lost` its count is 0. `unfinished` states are of a store that was never opened, and were refused; `excused` is damage",
    "to the end of the newest log, the stated exception; faults of `none met` were placed beyond the last such call.",
    "",
  ];
  writeFileSync(join(root, "docs", "reports", "laboratory.md"), lines.join("\n"));
}
