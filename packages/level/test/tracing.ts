/** Running a child under strace, and reading what it recorded. */

import { execFile, spawnSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { temporaryDirectory } from "../../../test/support/stores.js";

const run = promisify(execFile);

/** Why system calls cannot be traced here; `undefined` when they can. */
export function tracingMissing(): string | undefined {
  const { error, status } = spawnSync("strace", ["true"]);
  if (error !== undefined) return "strace is not installed";
  return status === 0 ? undefined : "strace may not trace here (ptrace is not permitted)";
}

export interface Call {
  readonly name: string;
  /** The path behind the file descriptor, or the first path argument. */
  readonly path: string;
  readonly text: string;
  readonly failed: boolean;
}

export interface Traced {
  readonly stdout: string;
  /** Calls that returned, in the order in which they returned. */
  readonly calls: readonly Call[];
}

/**
 * Runs a child with one pool thread, so that faults can be placed by counting the calls of that thread. `inject` is
 * strace's `-e inject=` argument.
 */
export async function trace(script: string, args: readonly string[], inject?: string): Promise<Traced> {
  const record = join(await temporaryDirectory(), "trace");
  const calls = "trace=write,pwrite64,writev,fsync,fdatasync,openat,rename,mkdir";
  const faults = inject === undefined ? [] : ["-e", `inject=${inject}`];
  const { stdout } = await run(
    "strace",
    ["-f", "-y", "-s", "16", "-e", calls, ...faults, "-o", record, process.execPath, script, ...args],
    { env: { ...process.env, UV_THREADPOOL_SIZE: "1" } },
  );
  return { stdout, calls: parse(await readFile(record, "utf8")) };
}

function parse(record: string): Call[] {
  const started = new Map<string, string>();
  const calls: Call[] = [];
  for (const line of record.split("\n")) {
    const [, thread, rest] = /^(\d+) +(.*)$/.exec(line) ?? [];
    if (thread === undefined || rest === undefined) continue;
    if (rest.endsWith("<unfinished ...>")) {
      started.set(thread, rest.slice(0, -"<unfinished ...>".length).trimEnd());
      continue;
    }
    const text = rest.replace(/^<\.\.\. \w+ resumed>/, () => started.get(thread) ?? "");
    const name = /^(\w+)\(/.exec(text)?.[1];
    if (name === undefined) continue;
    const path = /^\w+\(\d+<([^>]*)>/.exec(text)?.[1] ?? /"([^"]*)"/.exec(text)?.[1] ?? "";
    calls.push({ name, path, text, failed: / = -1 /.test(text) });
  }
  return calls;
}
