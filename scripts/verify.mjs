/**
 * All that a change must pass, in order: laws and formatting, build, types of the tests, the built exports, and
 * one run of every test. `npm test` is this; a failing step does not hide the results of the later ones,
 * except that nothing runs without the dependencies.
 *
 * Invariant: the last line is `N passed, N failed, N skipped`, also when a step fails or this script itself does.
 * Tests, files that did not load, unhandled errors and failed steps are counted; the exit code is 1 unless
 * nothing failed. A test may be skipped only with a reason, which is printed.
 *
 * usage: node scripts/verify.mjs [--bootstrap] [vitest filter …]
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const TEST_RUN_MS_MAX = 30 * 60_000;
const root = resolve(import.meta.dirname, "..");
const filters = process.argv.slice(2).filter((argument) => argument !== "--bootstrap");
const started = Date.now();
const failures = [];
let passedCount = 0;
let skippedCount = 0;

try {
  verify();
} catch (error) {
  console.log(error);
  failures.push(`verify.mjs: ${error.message}`);
}
conclude();

function verify() {
  if (process.argv.includes("--bootstrap") && !step("dependencies", "npm run --silent bootstrap")) return;
  step("laws, formatting", "npm run --silent lint");
  const built = step("build", "npm run --silent compile");
  step("types of the page and the tests", "tsc -p packages/server/page && tsc -p test/tsconfig.json");
  if (built) step("built exports", "node scripts/exports.mjs");
  runTests();
}

function step(name, command) {
  console.log(`\n== ${name}: ${command}`);
  const began = Date.now();
  const { status, signal, error } = run(command);
  console.log(`== ${status === 0 ? "done" : "FAILED"} after ${seconds(began)} s`);
  if (status === 0) return true;
  failures.push(`${name}: ${error?.message ?? (signal ? `ended by ${signal}` : `exit code ${status}`)}`);
  return false;
}

function runTests() {
  const folder = mkdtempSync(join(tmpdir(), "coppice-verify-"));
  const tallyPath = join(folder, "tally.json");
  try {
    const command = [
      "vitest run --no-color --config test/vitest.config.ts",
      "--reporter=default --reporter=./scripts/tally-reporter.mjs",
      ...filters.map((filter) => JSON.stringify(filter)),
    ].join(" ");
    console.log("\n== tests: one vitest run");
    // Node reads these at the start of each process, for 0.1 s; tests start thousands, and talk to loopback only.
    const env = { COPPICE_TALLY: tallyPath, NODE_EXTRA_CA_CERTS: undefined };
    const { status, signal } = run(command, env, TEST_RUN_MS_MAX);
    count(tallyPath, signal ? `ended by ${signal}` : status);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function count(tallyPath, ending) {
  let tally;
  try {
    tally = JSON.parse(readFileSync(tallyPath, "utf8"));
  } catch (error) {
    failures.push(`tests: no report (${error.message}); vitest: ${ending}`);
    return;
  }
  passedCount = tally.passed;
  skippedCount = tally.skipped.length;
  failures.push(...tally.failed);
  for (const { title, reason } of tally.skipped) {
    console.log(`skipped: ${title}: ${reason ?? "no reason given"}`);
    if (!reason && filters.length === 0) failures.push(`skipped without a reason: ${title}`);
  }
  if (tally.passed + tally.failed.length === 0) failures.push("tests: none ran");
  if (ending !== 0 && tally.failed.length === 0) failures.push(`tests: vitest ended with ${ending}`);
}

function run(command, env = {}, timeout = undefined) {
  const bin = join(root, "node_modules", ".bin");
  const separator = process.platform === "win32" ? ";" : ":";
  return spawnSync(command, {
    cwd: root,
    shell: true,
    stdio: ["ignore", "inherit", "inherit"],
    timeout,
    env: { ...process.env, NO_COLOR: "1", ...env, PATH: `${bin}${separator}${process.env.PATH}` },
  });
}

function conclude() {
  console.log(`\n== result after ${seconds(started)} s, Node ${process.version}`);
  for (const failure of failures) console.log(`failed: ${failure.replaceAll(/\s+/g, " ").slice(0, 600)}`);
  process.exitCode = failures.length > 0 ? 1 : 0;
  console.log(`${passedCount} passed, ${failures.length} failed, ${skippedCount} skipped`);
}

function seconds(since) {
  return ((Date.now() - since) / 1000).toFixed(1);
}
