/**
 * The asking end of the control socket: a part of `DocumentStorage`, done by the process that owns the store.
 *
 * Invariants: a connection carries one call at a time, so an owner that ends is noticed at once; a call that
 * is aborted stops between two steps and says what was done; nothing is retried. Reads that begin when the
 * owner has gone are asked of the next one.
 */

import { connect, type Socket } from "node:net";
import type { Env } from "../base/env.js";
import { CoppiceError, isCoppiceError } from "../base/errors.js";
import type { Backend, BackendFactory, Entry, Traits } from "../contract/backend.js";
import type { CheckOptions, CheckReport } from "../storage/check.js";
import type { CompactAllOptions, CompactAllResult, CompactProgress } from "../storage/compact-all.js";
import type { CompactOptions, CompactResult } from "../storage/compaction.js";
import type { DocumentInfo, InfoOptions, ListOptions } from "../storage/queries.js";
import { fromWire, lineReader, toBytes, toError, toLine } from "./lines.js";
import { type ControlPlace, checkDirectory, readPlace } from "./place.js";

/** The largest value, in base 64. */
const LINE_BYTES_MAX = 128 * 1024 * 1024;
const CONNECT_MS_MAX = 5_000;
const IDLE_MAX = 8;
/** How long a read waits for a connection of its own, and how often it asks. */
const BUSY_MS_MAX = 10_000;
const BUSY_EACH_MS = 50;

/**
 * The owner of the store in `directory`, when it runs and offers control; else `undefined`: ask the lock who
 * has it. Rejects for a socket that is there and may not be used.
 */
export async function findOwner(directory: string): Promise<StoreOwner | undefined> {
  checkDirectory("findOwner", directory);
  const place = await readPlace(directory);
  if (place === undefined) return undefined;
  const owner = new StoreOwner(directory, place);
  try {
    await owner.hello();
    return owner;
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

function isGone(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "ENOENT" || code === "ECONNREFUSED" || code === "UNAVAILABLE";
}

/**
 * Calls do, and reject, as those of `DocumentStorage`; and with `UNAVAILABLE` when the owner ends meanwhile,
 * with `BUSY` when too many calls are under way.
 */
export class StoreOwner {
  /** Process id that the owner wrote down. */
  readonly pid: number;
  readonly #directory: string;
  readonly #place: ControlPlace;

  constructor(directory: string, place: ControlPlace) {
    this.#directory = directory;
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

  async info(id: string, { usage = false }: InfoOptions = {}): Promise<DocumentInfo | undefined> {
    return (await this.#ask("info", { id, usage })) as DocumentInfo | undefined;
  }

  async check(options: CheckOptions = {}): Promise<CheckReport> {
    const { signal, onProgress, ...params } = options;
    const onValue = (done: unknown) => onProgress?.(done as number);
    return (await this.#ask("check", params, { signal, onValue })) as CheckReport;
  }

  async *list({ prefix, after, limit }: ListOptions = {}): AsyncGenerator<string> {
    const connection = new Connection(this.#place);
    try {
      for await (const ids of connection.call("list", { prefix, after, limit })) yield* ids as string[];
    } finally {
      connection.end();
    }
  }

  /**
   * What the owner has stored, as a shared backend that only reads: what is committed is seen by the next
   * read. A read that the owner has no connection for waits, and rejects with `BUSY` after 10 s. One during
   * which the owner ends rejects with `UNAVAILABLE`; later ones are asked of the next owner of the directory,
   * when there is one that offers control. `commit` and `reclaim` reject with `READ_ONLY`.
   */
  backend(): BackendFactory {
    const [directory, place] = [this.#directory, this.#place];
    return { name: "owner", open: async (env) => new Reads(directory, place, await this.#traits(), env) };
  }

  async #traits(): Promise<Traits> {
    const { traits } = (await this.#ask("hello", {})) as { traits?: Traits };
    if (traits === undefined) {
      const message = "the owner of the store has an older version, and lets nobody read";
      throw new CoppiceError("UNAVAILABLE", message);
    }
    const { durability, valueBytesMax, commitBytesMax } = traits;
    return { durability, valueBytesMax, commitBytesMax, exclusive: false, poisonsItself: false };
  }

  async #ask(
    method: string,
    params: object,
    { signal, onValue }: { signal?: AbortSignal | undefined; onValue?: (progress: unknown) => void } = {},
  ): Promise<unknown> {
    signal?.throwIfAborted();
    const connection = new Connection(this.#place, { waits: method !== "hello" });
    const abort = () => connection.abort();
    signal?.addEventListener("abort", abort, { once: true });
    try {
      return await connection.ask(method, params, onValue);
    } finally {
      signal?.removeEventListener("abort", abort);
      connection.end();
    }
  }
}

/** See `StoreOwner.backend`. A few connections are kept for the next reads: the owner has only so many. */
class Reads implements Backend {
  readonly traits: Traits;
  readonly #directory: string;
  readonly #env: Env;
  readonly #idle: Connection[] = [];
  #place: ControlPlace;
  #isClosed = false;

  constructor(directory: string, place: ControlPlace, traits: Traits, env: Env) {
    this.#directory = directory;
    this.#place = place;
    this.#env = env;
    this.traits = traits;
  }

  async get(key: Parameters<Backend["get"]>[0]): Promise<Uint8Array | undefined> {
    for (;;) {
      const connection = await this.#connection();
      try {
        const text = (await connection.ask("get", { key })) as string | undefined;
        this.#keep(connection);
        return text === undefined ? undefined : toBytes(text);
      } catch (error) {
        connection.end();
        if (!wasLeft(connection, error)) throw error;
      }
    }
  }

  async *scan(...[range, how = {}]: Parameters<Backend["scan"]>): AsyncGenerator<readonly Entry[]> {
    const { signal, ...options } = how;
    for (let isDone = false; !isDone; ) {
      signal?.throwIfAborted();
      const connection = await this.#connection(signal);
      if (signal?.aborted) this.#keep(connection);
      signal?.throwIfAborted();
      const abort = () => connection.end();
      signal?.addEventListener("abort", abort, { once: true });
      let hasPages = false;
      try {
        for await (const page of connection.call("scan", { range, ...options })) {
          hasPages = true;
          yield (page as unknown[]).map(fromWire);
        }
        isDone = true;
      } catch (error) {
        if (hasPages || signal?.aborted || !wasLeft(connection, error)) throw error;
      } finally {
        signal?.removeEventListener("abort", abort);
        // What was left early or has failed has answers under way.
        if (isDone) this.#keep(connection);
        else connection.end();
      }
    }
  }

  async commit(): Promise<never> {
    const message = "the store is read through the process that has it open; nothing was written";
    throw new CoppiceError("READ_ONLY", message);
  }

  reclaim(): Promise<never> {
    return this.commit();
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const connection of this.#idle.splice(0)) connection.end();
  }

  #keep(connection: Connection): void {
    connection.isReused = true;
    if (!this.#isClosed && this.#idle.length < IDLE_MAX) this.#idle.push(connection);
    else connection.end();
  }

  /** One that the owner has taken. It has only so many, and whoever has them gives them back. */
  async #connection(signal?: AbortSignal): Promise<Connection> {
    for (let waitedMs = 0; ; waitedMs += BUSY_EACH_MS) {
      const idle = this.#takeIdle();
      if (idle !== undefined) return idle;
      const place = this.#place;
      const connection = new Connection(place, { keep: true });
      try {
        await connection.ask("hello", {});
        return connection;
      } catch (error) {
        connection.end();
        if (isGone(error) && (await this.#findNext(place))) continue;
        // Too many connect at once: the system turns them away before the owner can.
        const isBusy = isCoppiceError(error, "BUSY") || (error as NodeJS.ErrnoException).code === "EAGAIN";
        if (!isBusy || waitedMs >= BUSY_MS_MAX) throw error;
      }
      await this.#env.delay(BUSY_EACH_MS, signal);
    }
  }

  /** Not one that the owner has ended meanwhile. */
  #takeIdle(): Connection | undefined {
    for (;;) {
      const idle = this.#idle.pop();
      if (!idle?.isEnded) return idle;
    }
  }

  /** Whether somebody else has offered control since; each owner has a token of its own. */
  async #findNext({ token }: ControlPlace): Promise<boolean> {
    const place = await readPlace(this.#directory);
    if (place !== undefined) this.#place = place;
    return this.#place.token !== token;
  }
}

/** The owner had ended before it was asked: a read goes to the next. */
function wasLeft({ isReused }: Connection, error: unknown): boolean {
  return isReused && isGone(error);
}

interface Line {
  readonly progress?: unknown;
  readonly result?: unknown;
  readonly error?: unknown;
}

class Connection {
  readonly #token: string;
  readonly #keep: boolean;
  readonly #socket: Socket;
  readonly #lines: Line[] = [];
  /** It has answered before, and lay idle. */
  isReused = false;
  #failure: Error | undefined;
  #wake: () => void = () => undefined;

  /** `waits`: for an answer, however long that takes. `keep`: for more than one call. */
  constructor({ address, token }: ControlPlace, { waits = true, keep = false } = {}) {
    this.#token = token;
    this.#keep = keep;
    const socket = connect({ path: address });
    const values = lineReader(LINE_BYTES_MAX);
    let reached = false;
    socket.setTimeout(CONNECT_MS_MAX, () => this.#end(lost(new Error("it did not answer in time"))));
    socket.once("connect", () => {
      reached = true;
      if (waits) socket.setTimeout(0);
    });
    socket.on("error", (error) => this.#end(reached ? lost(error) : error));
    socket.once("close", () => this.#end(lost(undefined)));
    socket.on("data", (chunk: Buffer) => {
      try {
        for (const line of values(chunk)) this.#lines.push(line as Line);
      } catch (error) {
        this.#end(lost(error));
      }
      // The owner waits while nobody takes what it sends.
      if (this.#lines.length > 0) socket.pause();
      this.#wake();
    });
    this.#socket = socket;
  }

  get isEnded(): boolean {
    return this.#failure !== undefined;
  }

  /** Resolves with the result. */
  async ask(method: string, params: object, onValue?: (progress: unknown) => void): Promise<unknown> {
    const answers = this.call(method, params);
    for (;;) {
      const { done, value } = await answers.next();
      if (done) return value;
      onValue?.(value);
    }
  }

  /** What comes before the result, and the result. */
  async *call(method: string, params: object): AsyncGenerator<unknown, unknown> {
    this.#socket.write(toLine({ token: this.#token, method, params, keep: this.#keep }));
    for (;;) {
      const { progress, result, error } = await this.#next();
      if (error !== undefined) throw toError(error);
      if (progress === undefined) return result;
      yield progress;
    }
  }

  /** Asks the owner to stop; the result says what was done. */
  abort(): void {
    this.#socket.write(toLine({ abort: true }));
  }

  end(): void {
    this.#end(lost(undefined));
  }

  async #next(): Promise<Line> {
    for (;;) {
      const line = this.#lines.shift();
      if (line !== undefined) return line;
      if (this.#failure !== undefined) throw this.#failure;
      this.#socket.resume();
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  #end(failure: Error): void {
    this.#failure ??= failure;
    this.#socket.destroy();
    this.#wake();
  }
}

function lost(cause: unknown): CoppiceError {
  return new CoppiceError("UNAVAILABLE", "the owner of the store ended before it had answered", { cause });
}
