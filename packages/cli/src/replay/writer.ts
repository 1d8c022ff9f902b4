/**
 * The writing child of a replay: opens the store, appends one event after the other with 64 in flight, and
 * tells the parent which clocks were acknowledged. The parent kills it without warning; nothing here prepares
 * for that.
 *
 * The storage is opened as any program would: default durability (power), default snapshot policy. Invariant:
 * a clock is reported only after the promise of `append` resolved with exactly that clock.
 */

import type { DocumentStorage } from "coppice";
import { describeError, EXIT, type ExitCode } from "../errors.js";
import { abortable, type Runtime } from "../runtime.js";
import { withStorage } from "../store.js";
import { IN_FLIGHT, type WriteJob, type WriterMessage } from "./messages.js";
import { Updates } from "./updates.js";

const REPORT_EVENTS = 256;

export async function runWriter(runtime: Runtime): Promise<ExitCode> {
  const job = new Promise<WriteJob>((resolve) =>
    process.once("message", (message) => resolve(message as WriteJob)),
  );
  // A writer whose parent is gone has nobody to write for.
  process.once("disconnect", () => process.exit(EXIT.failed));
  send({ kind: "ready" });
  try {
    const { store, id, from, updates, linger } = await job;
    await withStorage(runtime, { store, create: true }, async (storage) => {
      await write(storage, id, from, Updates.unpack(updates), runtime.signal);
      if (linger) await abortable(runtime.signal, new Promise<never>(() => undefined));
    });
    return EXIT.ok;
  } catch (error) {
    const { message, exitCode } = describeError(error);
    send({ kind: "failed", message });
    return exitCode;
  } finally {
    process.removeAllListeners("disconnect");
    process.disconnect?.();
  }
}

async function write(
  storage: DocumentStorage,
  id: string,
  from: number,
  updates: Updates,
  signal: AbortSignal,
): Promise<void> {
  const portion = Math.min(REPORT_EVENTS, Math.max(1, Math.ceil(updates.count / 200)));
  const latencies = new Float32Array(portion);
  const started = performance.now();
  let next = 0;
  let acknowledged = 0;
  let reported = 0;
  const report = () => {
    const portionLatencies = latencies.slice(0, acknowledged - reported);
    reported = acknowledged;
    const elapsedMs = performance.now() - started;
    send({ kind: "acknowledged", clock: from + acknowledged, latencies: portionLatencies, elapsedMs });
  };
  const slot = async () => {
    while (next < updates.count && !signal.aborted) {
      const index = next++;
      const began = performance.now();
      const { clock } = await storage.append(id, [updates.at(index)]);
      if (index !== acknowledged || clock !== from + index + 1) {
        throw new Error(`event ${from + index + 1} was acknowledged as clock ${clock}, out of order`);
      }
      latencies[acknowledged - reported] = performance.now() - began;
      acknowledged++;
      if (acknowledged - reported === portion) report();
    }
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, slot));
  if (acknowledged > reported) report();
  signal.throwIfAborted();
}

function send(message: WriterMessage): void {
  process.send?.(message);
}
