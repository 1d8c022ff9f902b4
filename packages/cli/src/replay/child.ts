/**
 * The parent's side of a writing child: starting it, hearing what was acknowledged, killing it.
 *
 * Invariant: when `write` returns or throws, the child's process is gone, so its lock on the store is free.
 */

import { type ChildProcess, fork } from "node:child_process";
import { CommandError } from "../errors.js";
import { printable } from "../output.js";
import type { Runtime } from "../runtime.js";
import type { WriteJob, WriterMessage } from "./messages.js";

export const WRITER_COMMAND = "replay-writer";

export interface Written {
  /** Every event before this clock was acknowledged. */
  readonly acknowledged: number;
  readonly latencies: readonly Float32Array[];
  /** From the first append to the last acknowledgement, by the child's clock. */
  readonly elapsedMs: number;
  readonly killed: boolean;
}

export interface WriteOptions {
  /** Kill the child with SIGKILL as soon as this clock is acknowledged. */
  readonly killAt?: number;
  readonly onProgress: (clock: number) => void;
}

export async function write(runtime: Runtime, job: WriteJob, options: WriteOptions): Promise<Written> {
  const { signal } = runtime;
  signal.throwIfAborted();
  const child = fork(runtime.entry, [WRITER_COMMAND], {
    serialization: "advanced",
    stdio: ["ignore", "ignore", "inherit", "ipc"],
    env: { ...runtime.env, NODE_CHANNEL_FD: undefined },
  });
  const ended = endOf(child);
  const stop = () => child.kill("SIGKILL");
  signal.addEventListener("abort", stop, { once: true });
  const latencies: Float32Array[] = [];
  let acknowledged = job.from;
  let elapsedMs = 0;
  let failure: string | undefined;
  let killed = false;
  child.on("message", (raw) => {
    const message = raw as WriterMessage;
    if (message.kind === "ready") child.send(job, ignoreClosedChannel);
    else if (message.kind === "failed") failure = message.message;
    else {
      acknowledged = message.clock;
      elapsedMs = message.elapsedMs;
      latencies.push(message.latencies);
      options.onProgress(acknowledged);
      if (options.killAt !== undefined && acknowledged >= options.killAt && !killed) {
        killed = child.kill("SIGKILL");
      }
    }
  });
  try {
    const { code, name } = await ended;
    signal.throwIfAborted();
    const wanted = options.killAt === undefined ? code === 0 : name === "SIGKILL";
    if (!wanted) throw writerFailed(failure ?? `it ended with ${name ?? `exit code ${code}`}`);
    return { acknowledged, latencies, elapsedMs, killed };
  } finally {
    signal.removeEventListener("abort", stop);
    stop();
    await ended.catch(() => undefined);
  }
}

function endOf(child: ChildProcess): Promise<{ code: number | null; name: NodeJS.Signals | null }> {
  let code: number | null = null;
  let name: NodeJS.Signals | null = null;
  const exited = new Promise<void>((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (exitCode, exitSignal) => {
      code = exitCode;
      name = exitSignal;
      resolve();
    });
  });
  // Messages that were sent before the end still arrive after `exit`; the channel closes behind the last one.
  const drained = new Promise<void>((resolve) => child.once("disconnect", resolve));
  return Promise.all([exited, drained]).then(() => ({ code, name }));
}

/** A child that died before it took its job is noticed by its end. */
function ignoreClosedChannel(error: Error | null): void {
  const { code } = (error ?? {}) as NodeJS.ErrnoException;
  if (error !== null && code !== "ERR_IPC_CHANNEL_CLOSED" && code !== "EPIPE" && code !== "ECONNRESET")
    throw error;
}

function writerFailed(why: string): CommandError {
  return new CommandError("FAILED", `the writing process failed: ${printable(why)}`);
}
