/**
 * Judges many stores, one after the other, in a child that is started again when a store ends it. A child
 * that died over a store is that store's verdict: `aborted`.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { bundleChild } from "../../support/child.js";
import type { Job } from "../children/judging.js";
import type { Verdict } from "./judge.js";
import type { BackendName } from "./stores.js";

export type Sentence = Verdict | { readonly kind: "aborted"; readonly why: string };

/** A machine may stand still for minutes. */
const JUDGE_MS_MAX = 600_000;

export class Court {
  readonly #backend: BackendName;
  #child: ChildProcess | undefined;
  #answers: AsyncIterator<string> | undefined;

  constructor(backend: BackendName) {
    this.#backend = backend;
  }

  async judge(job: Job): Promise<Sentence> {
    const child = this.#child ?? (await this.#start());
    child.stdin!.write(`${JSON.stringify(job)}\n`);
    const timer = setTimeout(() => child.kill("SIGKILL"), JUDGE_MS_MAX);
    const answer = await this.#answers!.next();
    clearTimeout(timer);
    if (answer.done !== true) return JSON.parse(answer.value) as Verdict;
    if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
    this.#child = undefined;
    return { kind: "aborted", why: `the process ended with ${child.signalCode ?? child.exitCode}` };
  }

  async close(): Promise<void> {
    const child = this.#child;
    if (child === undefined) return;
    this.#child = undefined;
    child.stdin!.end();
    if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
  }

  async #start(): Promise<ChildProcess> {
    const script = await bundleChild(fileURLToPath(new URL("../children/judging.ts", import.meta.url)));
    const child = spawn(process.execPath, [script, this.#backend], { stdio: ["pipe", "pipe", "ignore"] });
    // A child that is gone is noticed by its answers' end.
    child.stdin.on("error", () => undefined);
    this.#answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    this.#child = child;
    return child;
  }
}
