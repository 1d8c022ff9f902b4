/**
 * The owner's end of the control socket: lets other processes of this user compact, list, check and read a
 * store that only this process can open.
 *
 * The lock of the store is the only truth about who owns it. So whatever lies at the address is what an
 * earlier owner left, and the one who holds the lock may remove it.
 *
 * Invariants: nothing is done before the token was shown; the sizes of requests and their number at one time
 * are bounded; when the other end goes away its work stops between two steps; the socket keeps no process
 * alive.
 */

import { timingSafeEqual } from "node:crypto";
import { rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { CoppiceError } from "../base/errors.js";
import type { Key, Range } from "../contract/backend.js";
import type { DocumentStorage } from "../storage/storage.js";
import type { HistoryPolicy } from "../storage/trimming.js";
import { compactAllAlone } from "./alone.js";
import { describe, readLines, toLine, toText, toWire } from "./lines.js";
import { checkDirectory, choosePlace, removePlace, writePlace } from "./place.js";

/** What can be asked for. */
export type ControlledStorage = Pick<
  DocumentStorage,
  "compact" | "compactAll" | "list" | "info" | "check" | "traits" | "stored"
>;

export interface Control {
  /** Path of the socket, or name of the pipe. */
  readonly address: string;
  /** Ends what is running through it between two steps, and removes it. Call it before `storage.close()`. */
  close(): Promise<void>;
}

const REQUEST_BYTES_MAX = 64 * 1024;
const REQUEST_MS_MAX = 5_000;
/** Reading a store takes one for each scan that is under way. */
const CONNECTIONS_MAX = 256;
const IDS_EACH = 500;

type Params = Readonly<Record<string, unknown>>;
type Tell = (progress: unknown) => Promise<void>;

/**
 * Offers an open storage, whose backend lives in `directory`, to other processes of this user. Resolves when
 * it can be reached. Rejects with `UNAVAILABLE` when there is no place for a socket, or no such directory,
 * with `TRAIT_MISSING` for a storage that several processes may open anyway, and as the file system refuses.
 */
export async function offerControl(storage: ControlledStorage, directory: string): Promise<Control> {
  if (typeof storage?.compactAll !== "function")
    throw new TypeError(
      "offerControl wants an open storage: await DocumentStorage.open({ backend, models })",
    );
  checkDirectory("offerControl", directory);
  if (!storage.traits.exclusive)
    throw new CoppiceError(
      "TRAIT_MISSING",
      "this store has no single owner: open it instead of asking for it",
    );
  const place = await choosePlace(directory);
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    const isFull = sockets.size >= CONNECTIONS_MAX;
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    if (isFull) turnAway(socket);
    else serveSocket(socket, storage, place.token);
  });
  if (process.platform !== "win32") await rm(place.address, { force: true });
  await listen(server, place.address);
  server.unref();
  try {
    await writePlace(directory, place);
  } catch (error) {
    await end(server, sockets);
    throw error;
  }
  return {
    address: place.address,
    close: async () => {
      try {
        await removePlace(directory, place);
      } finally {
        await end(server, sockets);
      }
    },
  };
}

function listen(server: Server, address: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen({ path: address, readableAll: false, writableAll: false }, () => {
      server.off("error", reject);
      resolve();
    });
  });
}

async function end(server: Server, sockets: ReadonlySet<Socket>): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  for (const socket of sockets) socket.destroy();
  await closed;
}

/** Says why: a connection that just closed would look like the end of the owner. */
function turnAway(socket: Socket): void {
  socket.unref();
  socket.setTimeout(REQUEST_MS_MAX, () => socket.destroy());
  socket.on("error", () => socket.destroy());
  const message = "too many calls of the owner of the store are under way; nothing was done";
  const error = new CoppiceError("BUSY", message, { details: { connections: CONNECTIONS_MAX } });
  socket.end(toLine({ error: describe(error) }));
  socket.resume();
}

function serveSocket(socket: Socket, storage: ControlledStorage, token: string): void {
  /** Of what is being done. */
  let stop: AbortController | undefined;
  socket.unref();
  socket.setTimeout(REQUEST_MS_MAX, () => socket.destroy());
  // Its other end went away: what it asked for ends below.
  socket.on("error", () => stop?.abort(gone()));
  socket.once("close", () => stop?.abort(gone()));
  const refuse = () => socket.destroy();
  const onValue = (value: unknown) => {
    const { token: shown, method, params, keep, abort } = (value ?? {}) as Params;
    if (stop !== undefined) {
      if (abort === true) stop.abort(new CoppiceError("CLOSED", "the one who asked for it stopped it"));
      return;
    }
    if (!isSame(shown, token) || typeof method !== "string") return refuse();
    stop = new AbortController();
    socket.setTimeout(0);
    const done = (last: unknown) => {
      stop = keep === true ? undefined : stop;
      socket.write(toLine(last));
      if (keep !== true) socket.end();
    };
    answer(socket, storage, method, (params ?? {}) as Params, stop.signal)
      .then(done)
      .catch(refuse);
  };
  readLines(socket, REQUEST_BYTES_MAX, onValue, refuse);
}

async function answer(
  socket: Socket,
  storage: ControlledStorage,
  method: string,
  params: Params,
  signal: AbortSignal,
): Promise<{ readonly result: unknown } | { readonly error: unknown }> {
  const tell = (progress: unknown) =>
    new Promise<void>((resolve) => {
      if (socket.destroyed || socket.write(toLine({ progress }))) return resolve();
      const onward = () => {
        socket.off("drain", onward).off("close", onward);
        resolve();
      };
      socket.on("drain", onward).on("close", onward);
    });
  try {
    return { result: await run(storage, method, params, signal, tell) };
  } catch (error) {
    return { error: describe(error) };
  }
}

async function run(
  storage: ControlledStorage,
  method: string,
  params: Params,
  signal: AbortSignal,
  tell: Tell,
): Promise<unknown> {
  switch (method) {
    case "hello":
      return { pid: process.pid, traits: storage.traits };
    case "compact":
      return storage.compact(text(params, "id"), {
        ...flags(params, "force", "dryRun", "reclaim"),
        ...policy(params),
        signal,
      });
    case "compactAll":
      return compactAllAlone(storage, {
        ...texts(params, "prefix"),
        ...numbers(params, "minEvents", "idleMs", "concurrency", "budgetMs"),
        ...flags(params, "force", "dryRun", "reclaim"),
        ...policy(params),
        signal,
        onProgress: ({ result: _, ...progress }) => void tell(progress),
      });
    case "list":
      return list(
        storage,
        { ...texts(params, "prefix", "after"), ...numbers(params, "limit") },
        signal,
        tell,
      );
    case "get":
      return toText(await storage.stored.get(keyOf(params)));
    case "scan": {
      const options = { ...flags(params, "reverse", "values"), ...numbers(params, "limit", "pageBytesMax") };
      for await (const page of storage.stored.scan(rangeOf(params), { ...options, signal }))
        await tell(page.map(toWire));
      return undefined;
    }
    case "info":
      return storage.info(text(params, "id"), { usage: params.usage === true });
    case "check":
      return storage.check({
        ...texts(params, "id"),
        ...flags(params, "repair"),
        signal,
        onProgress: (done) => void tell(done),
      });
    default:
      throw new CoppiceError("ARGUMENT_INVALID", "the owner of the store knows no such request", {
        details: { method: method.slice(0, 40) },
      });
  }
}

/** Ids in portions; waits while the reader is slow. */
async function list(
  storage: ControlledStorage,
  options: { prefix?: string; after?: string; limit?: number },
  signal: AbortSignal,
  tell: Tell,
): Promise<number> {
  let ids: string[] = [];
  let count = 0;
  for await (const id of storage.list(options)) {
    signal.throwIfAborted();
    ids.push(id);
    count++;
    if (ids.length < IDS_EACH) continue;
    await tell(ids);
    ids = [];
  }
  if (ids.length > 0) await tell(ids);
  return count;
}

/** What a key and a range may be, the storage itself checks. */
function keyOf({ key }: Params): Key {
  if (!Array.isArray(key)) throw invalid("key");
  return key as unknown as Key;
}

function rangeOf({ range }: Params): Range {
  if (typeof range !== "object" || range === null) throw invalid("range");
  return range as Range;
}

function text(params: Params, name: string): string {
  const { [name]: value } = texts(params, name);
  if (value === undefined) throw invalid(name);
  return value;
}

function texts(params: Params, ...names: readonly string[]): Record<string, string> {
  return pick(params, names, (value) => typeof value === "string") as Record<string, string>;
}

function numbers(params: Params, ...names: readonly string[]): Record<string, number> {
  return pick(params, names, (value) => Number.isFinite(value) && Number(value) >= 0) as Record<
    string,
    number
  >;
}

function flags(params: Params, ...names: readonly string[]): Record<string, boolean> {
  return pick(params, names, (value) => typeof value === "boolean") as Record<string, boolean>;
}

/** What it may be, the storage itself checks. */
function policy({ history }: Params): { history?: HistoryPolicy } {
  return history === undefined ? {} : { history: history as HistoryPolicy };
}

function pick(
  params: Params,
  names: readonly string[],
  isValid: (value: unknown) => boolean,
): Record<string, unknown> {
  const picked: Record<string, unknown> = {};
  for (const name of names) {
    const value = params[name];
    if (value === undefined) continue;
    if (!isValid(value)) throw invalid(name);
    picked[name] = value;
  }
  return picked;
}

function invalid(name: string): CoppiceError {
  return new CoppiceError("ARGUMENT_INVALID", "a request to the owner of the store is malformed", {
    details: { name },
  });
}

function gone(): CoppiceError {
  return new CoppiceError("CLOSED", "the one who asked for it went away");
}

function isSame(shown: unknown, token: string): boolean {
  if (typeof shown !== "string") return false;
  const [a, b] = [Buffer.from(shown), Buffer.from(token)];
  return a.length === b.length && timingSafeEqual(a, b);
}
