/**
 * `coppice conformance`: runs the conformance cases of `coppice/conformance` against a backend, on this
 * machine's disk and with this machine's packages. It works on stores of its own: an existing store is never
 * touched.
 */

import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Command } from "commander";
import type { BackendSubject, CaseResult, Report } from "coppice/conformance";
import { EXIT, type ExitCode } from "../errors.js";
import { type CommonOptions, examples, plainCommand } from "../options.js";
import { count, duration, printable } from "../output.js";
import { Progress } from "../progress.js";
import { type Runtime, unlessPipeClosed } from "../runtime.js";
import { loadBackend, parseStore } from "../store.js";

export function conformanceCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return plainCommand("conformance", "run the conformance cases against a backend")
    .argument(
      "<url>",
      "level:<directory for temporary stores>, level: for the system's, the same with file:, or memory:",
    )
    .addHelpText(
      "after",
      examples(
        ["coppice conformance memory:", "the memory backend"],
        ["coppice conformance level:/mnt/data", "LevelDB, on the disk that will hold the store"],
      ),
    )
    .action(async (url: string, options: CommonOptions) => done(await run(runtime, url, options)));
}

async function run(runtime: Runtime, url: string, options: CommonOptions): Promise<ExitCode> {
  const { out, err, signal } = runtime;
  const address = parseStore(url === "level:" || url === "file:" ? `${url}${tmpdir()}` : url);
  const { backendCases, runCases } = await import("coppice/conformance");
  const { directorySubject } = await import("coppice/conformance/directory");
  const home = address.scheme !== "memory" ? await temporaryHome(address.location) : undefined;
  const progress = new Progress(err, "cases", backendCases.length);
  let ran = 0;
  try {
    const { scheme } = address;
    const subject =
      home === undefined || scheme === "memory"
        ? memorySubject()
        : directorySubject({
            name: scheme,
            parent: home,
            backend: (location) => loadBackend({ scheme, location }, { create: true }),
          });
    const onResult = ({ title }: CaseResult) => {
      signal.throwIfAborted();
      progress.update(++ran, title);
    };
    // Stopped between two cases: what one does after its store is removed would be left behind.
    const report = await runCases(backendCases, subject, { onResult });
    progress.finish();
    await unlessPipeClosed(() => (options.json ? out.json(withoutErrors(report)) : tell(runtime, report)));
    return report.failed + report.inconclusive > 0 ? EXIT.failed : EXIT.ok;
  } finally {
    progress.finish();
    if (home !== undefined) await rm(home, { recursive: true, force: true });
  }
}

async function temporaryHome(directory: string): Promise<string> {
  await mkdir(resolve(directory), { recursive: true });
  return mkdtemp(join(resolve(directory), "coppice-conformance-"));
}

function memorySubject(): BackendSubject {
  return { name: "memory", create: () => loadBackend({ scheme: "memory" }) };
}

function withoutErrors(report: Report): object {
  return { ...report, results: report.results.map(({ error: _, ...result }) => result) };
}

async function tell({ out }: Runtime, report: Report): Promise<void> {
  const marks = {
    passed: out.style("green", "passed "),
    failed: out.style("red", "failed "),
    inconclusive: out.style("red", "unclear"),
    skipped: out.style("yellow", "skipped"),
  };
  for (const { status, rule, title, reason, durationMs } of report.results) {
    const why = reason === undefined ? "" : `: ${printable(reason)}`;
    await out.line(`${marks[status]} ${rule.padEnd(5)} ${title} (${duration(durationMs)})${why}`);
  }
  const { subject, passed, failed, inconclusive, skipped } = report;
  const unclear = inconclusive === 0 ? "" : `${count(inconclusive)} inconclusive, `;
  await out.line(
    `${subject}: ${count(passed)} passed, ${count(failed)} failed, ${unclear}${count(skipped)} skipped`,
  );
}
