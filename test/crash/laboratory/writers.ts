/**
 * The numbering callers as a process that something ends: a signal, a cut, a full disk. What they said is
 * in a file at once, so it is complete however suddenly they end.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { bundleChild } from "../../support/child.js";
import { toldBy } from "./judge.js";
import type { BackendName } from "./stores.js";

export interface WritersOptions {
  readonly backend: BackendName;
  readonly location: string;
  readonly callers: number;
  /** Bytes added to each event. */
  readonly padding: number;
  readonly compact?: boolean;
  /** Run the process through another, as `prlimit`. */
  readonly through?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

let made = 0;

export class Writers {
  readonly child: ChildProcess;
  readonly #said: string;
  readonly #ended: Promise<string>;

  private constructor(child: ChildProcess, said: string) {
    this.child = child;
    this.#said = said;
    let errors = "";
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      errors += text;
    });
    this.#ended = new Promise((resolve) => {
      child.on("close", (code, signal) => resolve(signal ?? `exit code ${code} ${errors}`.trim()));
    });
  }

  static async start(folder: string, options: WritersOptions): Promise<Writers> {
    const script = await bundleChild(fileURLToPath(new URL("../children/numbering.ts", import.meta.url)));
    const said = join(folder, `said-${process.pid}-${++made}`);
    const output = openSync(said, "w");
    const { backend, location, callers, padding, compact, through = [], env = {} } = options;
    const mode = compact === true ? "compact" : "append";
    const words = [...through, process.execPath, script, backend, location, callers, 0, padding, mode].map(
      String,
    );
    const child = spawn(words[0]!, words.slice(1), {
      stdio: ["pipe", output, "pipe"],
      env: { ...process.env, ...env },
      // A group of its own, so that the end comes to all of it at once.
      detached: true,
    });
    closeSync(output);
    return new Writers(child, said);
  }

  /** Resolves after so many acknowledgements, or when the process has ended. */
  async until(acknowledgements: number): Promise<void> {
    while (
      this.#lines() < acknowledgements + 1 &&
      this.child.exitCode === null &&
      this.child.signalCode === null
    ) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  /** Kills it if it lives, and tells what it was told and how it ended. */
  async end(): Promise<ReturnType<typeof toldBy> & { readonly ending: string }> {
    if (this.child.exitCode === null && this.child.signalCode === null)
      process.kill(-this.child.pid!, "SIGKILL");
    const ending = await this.#ended;
    const told = toldBy(readFileSync(this.#said, "latin1"));
    rmSync(this.#said, { force: true });
    return { ...told, ending };
  }

  /** Waits until it ends by itself. */
  async ended(): Promise<string> {
    return this.#ended;
  }

  #lines(): number {
    return readFileSync(this.#said, "latin1").split("\n").length - 1;
  }
}

/** Adds what a later process was told to what earlier ones were. */
export function merge(told: Map<number, number>, later: ReadonlyMap<number, number>): void {
  for (const [caller, number] of later) told.set(caller, Math.max(number, told.get(caller) ?? 0));
}

export function total(told: ReadonlyMap<number, number>): number {
  return [...told.values()].reduce((sum, number) => sum + number, 0);
}
