/**
 * What every command is given of the process: streams, environment, the stop signal. And the two ways in
 * which a run is stopped from outside: a signal, and a reader of our output that went away.
 *
 * Invariants: the first Ctrl-C (SIGINT) or SIGTERM aborts `signal`, and whatever is in flight ends by itself;
 * the second one ends the process at once. A closed pipe (`| head`) stops the run quietly; what becomes of
 * notes and errors on stderr stops nothing.
 */

import type { Readable } from "node:stream";
import { CommandError, EXIT } from "./errors.js";
import { Output } from "./output.js";

export interface Runtime {
  readonly out: Output;
  readonly err: Output;
  readonly input: Readable & { readonly isTTY?: boolean };
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Aborted with the error to end with. */
  readonly signal: AbortSignal;
  /** The file that Node runs, to start this command again as a child. */
  readonly entry: string;
}

/** The reason of a run that ended because nobody reads its output any more. */
export class PipeClosed extends Error {}

export function processRuntime(entry: string): Runtime {
  const controller = new AbortController();
  const stop = (name: string) => {
    if (controller.signal.aborted) process.exit(EXIT.interrupted);
    controller.abort(new CommandError("INTERRUPTED", `interrupted by ${name}`));
  };
  process.on("SIGINT", () => stop("SIGINT"));
  process.on("SIGTERM", () => stop("SIGTERM"));
  const out = new Output(process.stdout, process.env, controller.signal);
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    const closed = error.code === "EPIPE" || error.code === "ERR_STREAM_DESTROYED";
    if (out.isLog && !closed) return;
    controller.abort(closed ? new PipeClosed("the reader of the output went away") : error);
  });
  // A note that cannot be told, as to a log on a full disk, ends no work and no server.
  process.stderr.on("error", () => undefined);
  return {
    out,
    err: new Output(process.stderr, process.env),
    input: process.stdin,
    env: process.env,
    signal: controller.signal,
    entry,
  };
}

/**
 * Writes what was found or done, once that is decided: a reader that went away changes nothing about the exit
 * code then.
 */
export async function unlessPipeClosed(write: () => Promise<void>): Promise<void> {
  try {
    await write();
  } catch (error) {
    if (!(error instanceof PipeClosed)) throw error;
  }
}

/**
 * Rejects with the signal's reason at once, for calls that take no signal; what they still do ends by itself.
 */
export async function abortable<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  signal.throwIfAborted();
  let stop: (() => void) | undefined;
  const stopped = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason);
    signal.addEventListener("abort", stop, { once: true });
  });
  try {
    return await Promise.race([work, stopped]);
  } finally {
    if (stop !== undefined) signal.removeEventListener("abort", stop);
  }
}

/** Waits; rejects with the signal's reason when aborted. */
export function delay(ms: number, signal: AbortSignal): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const elapsed = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  return abortable(signal, elapsed).finally(() => clearTimeout(timer));
}
