/**
 * A vitest reporter that writes what `verify.mjs` needs to count: vitest's own JSON report has neither the reasons
 * of skipped tests nor the errors that belong to no test.
 *
 * Writes one JSON object to the file named by COPPICE_TALLY:
 * `{ passed, failed: string[], skipped: { title, reason }[] }`. A test that was collected and never ran, a file
 * that could not be loaded, and each unhandled error count as failed.
 */
import { writeFileSync } from "node:fs";

export default class TallyReporter {
  onTestRunEnd(modules, unhandledErrors) {
    const tally = { passed: 0, failed: [], skipped: [] };
    for (const module of modules) countModule(module, tally);
    for (const error of unhandledErrors) tally.failed.push(`unhandled: ${error.message ?? String(error)}`);
    const path = process.env.COPPICE_TALLY;
    if (path) writeFileSync(path, JSON.stringify(tally));
  }
}

function countModule(module, tally) {
  let testCount = 0;
  for (const test of module.children.allTests()) {
    const result = test.result();
    const title = `${module.relativeModuleId} > ${test.fullName}`;
    testCount++;
    if (result.state === "passed") tally.passed++;
    else if (result.state === "skipped") tally.skipped.push({ title, reason: reasonOf(test) });
    else tally.failed.push([title, ...(result.errors ?? []).map(({ message }) => message)].join(": "));
  }
  const errors = [...module.errors(), ...[...module.children.allSuites()].flatMap((suite) => suite.errors())];
  for (const error of errors) tally.failed.push(`${module.relativeModuleId}: ${error.message}`);
  if (testCount === 0 && errors.length === 0) tally.failed.push(`${module.relativeModuleId}: holds no test`);
}

/** A test whose setup failed is skipped too; the failure itself is counted where it happened. */
function reasonOf(test) {
  const note = test.result().note;
  if (note) return note;
  for (let parent = test.parent; parent !== undefined; parent = parent.parent)
    if (parent.errors().length > 0) return "its setup failed";
  return undefined;
}
