/**
 * The asking end of the control socket: a part of `DocumentStorage`, done by the process that owns the store.
 *
 * Invariants: each call is a connection of its own, so an owner that ends is noticed at once; a call that is
 * aborted stops between two steps and says what was done; nothing is retried.
 */

import { connect, type Socket } from "node:net";
import { CoppiceError } from "../base/errors.js";
import type { CheckOptions, CheckReport } from "../storage/check.js";
import type { CompactAllOptions, CompactAllResult, CompactProgress } from "../storage/compact-all.js";
import type { CompactOptions, CompactResult } from "../storage/compaction.js";
import type { DocumentInfo, ListOptions } from "../storage/queries.js";
import { readLines, toError, toLine } from "./lines.js";
import { type ControlPlace, readPlace } from "./place.js";

const LINE_BYTES_MAX = 64 * 1024 * 1024;
const CONNECT_MS_MAX = 5_000;

/**
 * The owner of the store in `directory`, when it runs and offers control; else `undefined`: ask the lock who
 * has it. Rejects for a socket that is there and may not be used.
 */
export async function findOwner(directory: string): Promise<StoreOwner | undefined> {
  const place = await readPlace(directory);
  if (place === undefined) return undefined;
  const owner = new StoreOwner(place);
  try {
    await owner.hello();
    return owner;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ECONNREFUSED" || code === "UNAVAILABLE") return undefined;
    throw error;
  }
}

/**
 * Calls do, and reject, as those of `DocumentStorage`; and with `UNAVAILABLE` when the owner ends meanwhile.
 */
export class StoreOwner {
  /** Process id that the owner wrote down. */
  readonly pid: number;
  readonly #place: ControlPlace;

  constructor(place: ControlPlace) {
    this.#place = place;
    this.pid = place.pid;
  }

  /** Resolves when the owner answers. */
  async hello(): Promise<void> {
    await this.#ask("hello", {});
  }

  async compact(id: string, options: CompactOptions = {}): Promise<CompactResult> {
    const { signal, ...params } = options;
    return (await this.#ask("compact", { id, ...params }, { signal })) as CompactResult;
  }

  /**
   * Rejects with `BUSY`, whose `details.compacting` is `true`, while another compaction of the store runs.
   * `onProgress` gets no single results.
   */
  async compactAll(options: CompactAllOptions = {}): Promise<CompactAllResult> {
    const { signal, onProgress, ...params } = options;
    const onValue = (progress: unknown) =>
      onProgress?.({ ...(progress as Omit<CompactProgress, "result">), result: undefined });
    return (await this.#ask("compactAll", params, { signal, onValue })) as CompactAllResult;
  }

  async info(id: string): Promise<DocumentInfo | undefined> {
    return (await this.#ask("info", { id })) as DocumentInfo | undefined;
  }

  async check(options: CheckOptions = {}): Promise<CheckReport> {
    const { signal, onProgress, ...params } = options;
    const onValue = (done: unknown) => onProgress?.(done as number);
    return (await this.#ask("check", params, { signal, onValue })) as CheckReport;
  }

  async *list(options: ListOptions = {}): AsyncGenerator<string> {
    const portions: string[][] = [];
    let wake = () => undefined as undefined;
    let ended = false;
    const stop = new AbortController();
    const asked = this.#ask("list", options, {
      signal: stop.signal,
      onValue: (ids) => {
        portions.push(ids as string[]);
        wake();
      },
    }).finally(() => {
      ended = true;
      wake();
    });
    // Whoever iterates meets the rejection below.
    asked.catch(() => undefined);
    try {
      for (;;) {
        const portion = portions.shift();
        if (portion !== undefined) yield* portion;
        else if (ended) break;
        else
          await new Promise<void>((resolve) => {
            wake = () => void resolve() as undefined;
          });
      }
      await asked;
    } finally {
      stop.abort();
    }
  }

  #ask(
    method: string,
    params: object,
    { signal, onValue }: { signal?: AbortSignal | undefined; onValue?: (progress: unknown) => void } = {},
  ): Promise<unknown> {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const socket: Socket = connect({ path: this.#place.address });
      let reached = false;
      const abort = () => socket.write(toLine({ abort: true }));
      const settle = (outcome: () => void) => {
        signal?.removeEventListener("abort", abort);
        socket.destroy();
        outcome();
      };
      const lost = (cause: unknown) =>
        new CoppiceError("UNAVAILABLE", "the owner of the store ended before it had answered", { cause });
      socket.setTimeout(CONNECT_MS_MAX, () =>
        settle(() => reject(lost(new Error("it did not answer in time")))),
      );
      socket.once("connect", () => {
        reached = true;
        socket.setTimeout(method === "hello" ? CONNECT_MS_MAX : 0);
        socket.write(toLine({ token: this.#place.token, method, params }));
        signal?.addEventListener("abort", abort, { once: true });
      });
      socket.on("error", (error) => settle(() => reject(reached ? lost(error) : error)));
      socket.once("close", () => settle(() => reject(lost(undefined))));
      readLines(
        socket,
        LINE_BYTES_MAX,
        (value) => {
          const line = value as { progress?: unknown; result?: unknown; error?: unknown };
          if (line.progress !== undefined) onValue?.(line.progress);
          else if (line.error !== undefined) settle(() => reject(toError(line.error)));
          else settle(() => resolve(line.result));
        },
        (error) => settle(() => reject(lost(error))),
      );
    });
  }
}
