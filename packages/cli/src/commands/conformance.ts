/**
 * `coppice conformance`: runs the conformance cases of `coppice/conformance` against a backend, on this
 * machine's disk and with this machine's packages. It works on stores of its own: an existing store is never
 * touched.
 */

import { cp, mkdir, mkdtemp, readdir, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Command } from "commander";
import type { Backend, BackendFactory } from "coppice";
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
  const home = address.scheme !== "memory" ? await temporaryHome(address.location) : undefined;
  const progress = new Progress(err, "cases", backendCases.length);
  let ran = 0;
  try {
    const { scheme } = address;
    const subject =
      home === undefined || scheme === "memory" ? await memorySubject() : directorySubject(scheme, home);
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

async function memorySubject(): Promise<BackendSubject> {
  return { name: "memory", create: () => loadBackend({ scheme: "memory" }) };
}

/** Every store is a directory of its own below `home`. */
function directorySubject(scheme: "level" | "file", home: string): BackendSubject {
  const stores = new Map<BackendFactory, { readonly location: string; readonly opened: Backend[] }>();
  let made = 0;
  const create = async (location = join(home, String(++made))): Promise<BackendFactory> => {
    const inner = await loadBackend({ scheme, location }, { create: true });
    const opened: Backend[] = [];
    const factory: BackendFactory = {
      name: inner.name,
      async open(env) {
        const backend = await inner.open(env);
        opened.push(backend);
        return backend;
      },
    };
    stores.set(factory, { location, opened });
    return factory;
  };
  const storeOf = (factory: BackendFactory) => {
    const store = stores.get(factory);
    if (store === undefined) throw new TypeError("this factory was not made here");
    return store;
  };
  return {
    name: scheme,
    create: () => create(),
    destroy: (factory) => rm(storeOf(factory).location, { recursive: true, force: true }),
    async crash(factory) {
      const { location, opened } = storeOf(factory);
      const left = join(home, String(++made));
      await copyOfOneMoment(location, left);
      await Promise.allSettled(opened.map((backend) => backend.close()));
      await rm(location, { recursive: true, force: true });
      return create(left);
    },
  };
}

/**
 * What a killed process leaves is what the kernel has: the files as another process can read them now.
 * Backends write and delete files in the background, so a copy counts only when nothing changed meanwhile.
 */
async function copyOfOneMoment(from: string, to: string): Promise<void> {
  for (;;) {
    const before = await stateOf(from);
    try {
      await cp(from, to, { recursive: true });
      if (before !== undefined && before === (await stateOf(from))) return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
    await rm(to, { recursive: true, force: true });
  }
}

/** Names, sizes and times of the files; `undefined` when one went away meanwhile. */
async function stateOf(directory: string): Promise<string | undefined> {
  try {
    const names = (await readdir(directory)).sort();
    const files = await Promise.all(names.map((name) => stat(join(directory, name), { bigint: true })));
    return files.map(({ size, mtimeNs }, index) => `${names[index]} ${size} ${mtimeNs}`).join("\n");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    return undefined;
  }
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
