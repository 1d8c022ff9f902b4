/**
 * Takes the fenced examples out of Markdown pages, compiles them, and runs them as a user would: against the built
 * packages, each in a process and an empty folder of its own.
 *
 * ```ts              compiled and run; it fails when it throws, or does not end
 * ```ts no-run       only compiled (servers, other machines)
 * ```ts continue     goes on in the same program as the example before it on the page
 * ```text output     what the example before it prints, exactly
 *
 * Invariants: a line of an example has in its program the number that it has on its page, so every message
 * names the place to mend. It does not know shell blocks, and never downloads anything.
 */
import { spawn } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

export const ROOT: string = fileURLToPath(new URL("../..", import.meta.url));
const RUN_MS_MAX = 30_000;

export interface Page {
  readonly path: string;
  readonly text: string;
}

/** One program: a fenced block and those that continue it. */
export interface Example {
  readonly page: string;
  readonly line: number;
  readonly source: string;
  readonly runs: boolean;
  readonly output: string | undefined;
}

interface Fence {
  readonly line: number;
  readonly info: string;
  readonly body: readonly string[];
}

/** README.md, the pages below docs/, and the README of each package. */
export function pagesOf(root: string): Page[] {
  const paths = [join(root, "README.md")];
  for (const name of readdirSync(join(root, "packages")))
    paths.push(join(root, "packages", name, "README.md"));
  if (existsSync(join(root, "docs")))
    for (const name of readdirSync(join(root, "docs"), { recursive: true, encoding: "utf8" }).sort())
      if (name.endsWith(".md")) paths.push(join(root, "docs", name));
  return paths
    .filter((path) => existsSync(path))
    .map((path) => ({ path: relative(root, path), text: readFileSync(path, "utf8") }));
}

/** The examples of a page, and what is wrong with its fences (`page:line: message`). */
export function examplesOf(page: Page): { examples: Example[]; problems: string[] } {
  const problems: string[] = [];
  const groups: Fence[][] = [];
  let last: "example" | "none" = "none";
  for (const fence of fencesOf(page, problems)) {
    const [language, ...flags] = fence.info.split(/\s+/);
    const at = `${page.path}:${fence.line}`;
    if (language === "ts") {
      for (const flag of flags)
        if (flag !== "no-run" && flag !== "continue") problems.push(`${at}: unknown word after ts: ${flag}`);
      const before = groups.at(-1);
      if (!flags.includes("continue")) groups.push([fence]);
      else if (before !== undefined) before.push(fence);
      else problems.push(`${at}: continues nothing`);
      last = "example";
    } else if (fence.info === "text output") {
      if (last === "none") problems.push(`${at}: the output of no example`);
      else groups.at(-1)?.push(fence);
      last = "none";
    } else last = "none";
  }
  const examples = groups.map((group) => exampleOf(page, group));
  for (const example of examples)
    if (!example.runs && example.output !== undefined)
      problems.push(`${page.path}:${example.line}: an output that is never compared`);
  return { examples, problems };
}

function* fencesOf(page: Page, problems: string[]): Generator<Fence> {
  const lines = page.text.split("\n");
  for (let at = 0; at < lines.length; at++) {
    const opening = /^( *)(`{3,})([^`]*)$/.exec(lines[at] ?? "");
    if (opening === null) continue;
    const [, indent = "", ticks = "", info = ""] = opening;
    const end = lines.findIndex((line, index) => index > at && line.trim() === ticks);
    if (end < 0) {
      problems.push(`${page.path}:${at + 1}: the fence is never closed`);
      return;
    }
    const body = lines
      .slice(at + 1, end)
      .map((line) => (line.startsWith(indent) ? line.slice(indent.length) : line));
    yield { line: at + 1, info: info.trim(), body };
    at = end;
  }
}

function exampleOf(page: Page, group: readonly Fence[]): Example {
  const source: string[] = [];
  const outputs: string[] = [];
  let runs = true;
  for (const fence of group) {
    if (fence.info === "text output") {
      outputs.push(...fence.body);
      continue;
    }
    if (fence.info.includes("no-run")) runs = false;
    while (source.length < fence.line) source.push("");
    source.push(...fence.body);
  }
  const output = group.some((fence) => fence.info === "text output")
    ? outputs.join("\n").trimEnd()
    : undefined;
  return { page: page.path, line: group[0]?.line ?? 0, source: `${source.join("\n")}\n`, runs, output };
}

/** Where one test file keeps its programs: inside the repository, so that they find its packages. */
export function openWorkshop(): { folder: string; [Symbol.dispose](): void } {
  mkdirSync(join(ROOT, ".tmp"), { recursive: true });
  const folder = mkdtempSync(join(ROOT, ".tmp", "docs-"));
  return { folder, [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }) };
}

/**
 * Type-checks all examples in one program, strictly, and writes their JavaScript to `folder`. Returns for each
 * example, in order, its file and the compiler's messages.
 */
export function compileExamples(
  examples: readonly Example[],
  folder: string,
): { file: string; messages: string[] }[] {
  const paths = examples.map((_, index) => join(folder, `example-${index}.ts`));
  examples.forEach((example, index) => {
    writeFileSync(paths[index] ?? "", example.source);
  });
  const options: ts.CompilerOptions = {
    target: ts.ScriptTarget.ES2022,
    lib: ["lib.es2023.d.ts", "lib.dom.d.ts"],
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    moduleDetection: ts.ModuleDetectionKind.Force,
    strict: true,
    skipLibCheck: true,
    inlineSourceMap: true,
    types: ["node"],
    typeRoots: [join(ROOT, "node_modules", "@types")],
    rootDir: folder,
  };
  const program = ts.createProgram(paths, options);
  program.emit();
  return examples.map((example, index) => {
    const path = paths[index] ?? "";
    const file = program.getSourceFile(path);
    const found = file === undefined ? [] : ts.getPreEmitDiagnostics(program, file);
    return { file: path.replace(/\.ts$/, ".js"), messages: found.map((one) => describe(example, one)) };
  });
}

function describe(example: Example, diagnostic: ts.Diagnostic): string {
  const start = diagnostic.file?.getLineAndCharacterOfPosition(diagnostic.start ?? 0);
  const text = ts.flattenDiagnosticMessageText(diagnostic.messageText, "\n  ");
  return `${example.page}:${start === undefined ? example.line : start.line + 1}: ${text}`;
}

/** Runs a compiled example; resolves with what it printed, and why it failed if it did. */
export async function runExample(file: string): Promise<{ output: string; failure: string | undefined }> {
  const cwd = mkdtempSync(join(tmpdir(), "coppice-example-"));
  try {
    return await new Promise((resolve, reject) => {
      const child = spawn(process.execPath, ["--enable-source-maps", file], {
        cwd,
        stdio: ["ignore", "pipe", "pipe"],
        env: { PATH: process.env.PATH, HOME: cwd, TMPDIR: cwd, NO_COLOR: "1" },
        timeout: RUN_MS_MAX,
      });
      let output = "";
      let errors = "";
      child.stdout.setEncoding("utf8").on("data", (text: string) => (output += text));
      child.stderr.setEncoding("utf8").on("data", (text: string) => (errors += text));
      child.on("error", reject);
      child.on("close", (code, signal) => {
        const ending = signal === null ? `exit code ${code}` : `ended by ${signal}`;
        resolve({ output: output.trimEnd(), failure: code === 0 ? undefined : `${ending}\n${errors}` });
      });
    });
  } finally {
    rmSync(cwd, { recursive: true, force: true });
  }
}
