/**
 * Keeps one server running: starts it as a child, starts it again at the same address when it dies, and
 * stops it when told to. It reads nothing of the store and decides nothing about the documents.
 *
 * Invariants: when `supervise` settles there is no child left; a child that keeps dying at once is given
 * up; a child whose supervisor dies stops by itself, because their channel closes.
 */

import { type ChildProcess, fork } from "node:child_process";
import { createServer } from "node:net";
import { CommandError, errorOfChild, StopFailed } from "../errors.js";
import { delay, type Runtime } from "../runtime.js";

export interface Supervised {
  readonly store: string;
  /** How long it may wait for a store that another process has open. */
  readonly waitMs: number;
  readonly host: string;
  /** 0: the first server takes any that is free, and those after it the same. */
  readonly port: number;
  /** Each time the server listens. `downMs` since it died. */
  readonly onListening: (facts: {
    readonly url: string;
    readonly pid: number;
    readonly downMs?: number;
  }) => unknown;
  readonly onDeath: (how: string) => unknown;
}

/** A child that lives shorter is a failure; so many in a row, and it is given up. */
const LIFE_MS_MIN = 5_000;
const FAILURES_MAX = 5;
const RESTART_MS = 100;

/** Runs until the signal; resolves when the server has saved all and ended, and rejects where it did not. */
export async function supervise(runtime: Runtime, options: Supervised): Promise<void> {
  const { signal } = runtime;
  let failures = 0;
  let hasListened = false;
  let { port } = options;
  const onListening: Supervised["onListening"] = (facts) => {
    hasListened = true;
    // A URL does not say port 80.
    if (port === 0) port = Number(new URL(facts.url).port);
    return options.onListening(facts);
  };
  let diedAt: number | undefined;
  while (!signal.aborted) {
    const born = performance.now();
    const { how, isWell, error } = await run(runtime, { ...options, port, onListening }, diedAt);
    diedAt = performance.now();
    if (signal.aborted) {
      if (!isWell) throw notStopped(how, error);
      return;
    }
    if (!hasListened) throw error ?? new CommandError("FAILED", `the server did not start: ${how}`);
    await options.onDeath(how);
    failures = diedAt - born < LIFE_MS_MIN && how !== "SIGKILL" ? failures + 1 : 0;
    if (failures === FAILURES_MAX)
      throw new CommandError("FAILED", `the server ended ${FAILURES_MAX} times at once: ${how}`);
    await delay(RESTART_MS, signal).catch(() => undefined);
  }
}

function notStopped(how: string, error: CommandError | undefined): StopFailed {
  const { message = `the server did not end as it should: ${how}`, details = {}, hint } = error ?? {};
  return new StopFailed("FAILED", message, { details, ...(hint && { hint }) });
}

/** What ended one life, and the error that it ended with, if it told one. */
interface End {
  readonly how: string;
  /** With 0, or before it listened: then there was nothing to save. */
  readonly isWell: boolean;
  readonly error?: CommandError | undefined;
}

/** One life; resolves with its end. */
async function run(runtime: Runtime, options: Supervised, diedAt: number | undefined): Promise<End> {
  const { signal } = runtime;
  const { store, host, port, waitMs } = options;
  const where = ["--store", store, "--host", host, "--port", String(port), "--wait", `${waitMs}ms`];
  const args = ["serve", "--json", "--supervised", ...where];
  const child = fork(runtime.entry, args, {
    // Why it ended is told in our words, once.
    stdio: ["ignore", "pipe", "pipe", "ipc"],
    // A Ctrl-C of the terminal reaches the child once, through us.
    detached: true,
    env: { ...runtime.env, NODE_CHANNEL_FD: undefined },
  });
  const stop = () => child.kill("SIGTERM");
  signal.addEventListener("abort", stop, { once: true });
  try {
    if (signal.aborted) stop();
    const ended = endOf(child);
    let told = "";
    let listens = false;
    const said = gather(child, runtime);
    if (diedAt !== undefined) said.pass();
    let telling: Promise<unknown> = Promise.resolve();
    child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      if (told.includes("\n") || child.pid === undefined) return;
      told += text;
      const url = /"event":"listening","url":"([^"]+)".*\n/.exec(told)?.[1];
      if (url === undefined) return;
      listens = true;
      said.pass();
      const downMs = diedAt === undefined ? undefined : performance.now() - diedAt;
      telling = Promise.resolve(
        options.onListening({ url, pid: child.pid, ...(downMs === undefined ? {} : { downMs }) }),
      );
      telling.catch(stop);
    });
    const { how, code } = await ended;
    await telling;
    const error = errorOfChild(said.text(), code);
    const isThrown = signal.aborted || (diedAt === undefined && !listens);
    if (error === undefined || !isThrown) said.passAll();
    return { how, isWell: code === 0 || !listens, error };
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

/**
 * Keeps what it says on stderr until told to pass it on, and then passes on all but the error with which it
 * ends, which `passAll` does not keep either.
 */
function gather(
  { stderr }: ChildProcess,
  { err }: Runtime,
): { text: () => string; pass: () => void; passAll: () => void } {
  let kept = "";
  let passing = false;
  const passOn = (ending: RegExp) => {
    const said = kept.match(ending)?.[0] ?? "";
    kept = kept.slice(said.length);
    if (said !== "") void err.write(said).catch(() => undefined);
  };
  // Whole lines before one that may be the last word.
  const pass = () => passOn(/^(?:(?!\{"error":).*\n)*/);
  stderr?.setEncoding("utf8").on("data", (text: string) => {
    kept += text;
    if (passing) pass();
  });
  return {
    text: () => kept,
    pass: () => {
      passing = true;
      pass();
    },
    passAll: () => passOn(/^.*$/s),
  };
}

function endOf(child: ChildProcess): Promise<{ readonly how: string; readonly code: number | null }> {
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, name) => resolve({ how: name ?? `exit code ${code}`, code }));
  });
}

/**
 * `wanted` when nobody listens there, else 0: which one is free is the server's to find, since one that is
 * found here can be another's by then.
 */
export async function portOr0(host: string, wanted: number): Promise<number> {
  try {
    await listenOnce(host, wanted);
    return wanted;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "EADDRINUSE" && code !== "EACCES") throw error;
    return 0;
  }
}

/** Resolves when the port is free again. Rejects as the system refuses. */
export function listenOnce(host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once("error", reject);
    probe.listen({ host, port }, () => probe.close(() => resolve()));
  });
}
