/**
 * `coppice serve`: the server of `@coppice/server` on one store, until it is told to stop.
 *
 * It offers control of the store as well, so that `coppice compact` and others reach it while it runs.
 *
 * Invariants: it listens on this machine alone, and on other addresses only with tokens or when told in full
 * that anyone may do anything; the first Ctrl-C or SIGTERM saves what was received and ends with 0, or names
 * the documents of which something is not stored and ends with 1; tokens are read from a file
 * and never from the command line, where everybody on the machine could read them.
 */

import { existsSync } from "node:fs";
import { readdir, readFile, stat, statfs } from "node:fs/promises";
import { join } from "node:path";
import type {
  Authorize,
  CoppiceServer,
  Refusal,
  ServerMetrics,
  Supervisor,
  TokenGrant,
} from "@coppice/server";
import { type Command, InvalidArgumentError, Option } from "commander";
import { type CompactAllResult, type DocumentStorage, isCoppiceError } from "coppice";
import { type Control, compactAllAlone, offerControl } from "coppice/control";
import { CommandError, describeError, EXIT, type ExitCode, StopFailed } from "../errors.js";
import { failureOf, grouped } from "../failures.js";
import {
  examples,
  modelsCommand,
  parseByteSize,
  parseCount,
  parseDuration,
  parsePort,
  type StoreOptions,
} from "../options.js";
import { byteSize, count, duration, plural, printable, withRoundedTime } from "../output.js";
import { loadPackage } from "../packages.js";
import { delay, type Runtime } from "../runtime.js";
import { listenOnce } from "../start/supervisor.js";
import { isAbsent, parseStore, withStorage } from "../store.js";

interface Options extends StoreOptions {
  readonly host: string;
  readonly port: number;
  readonly tokens?: string;
  readonly origin?: readonly string[];
  readonly allowAnyoneToReadAndChangeEverything?: true;
  readonly memory?: number;
  readonly compactEvery?: number;
  readonly minEvents?: number;
  readonly supervised?: true;
}

/** Below it a full store is not reopened: LevelDB needs room for a new log and a table. */
const FREE_BYTES_MIN = 64 * 1024 * 1024;
const MIN_EVENTS = 100;
/** So many different ones are told: strangers send what they like. */
const REFUSALS_TOLD_MAX = 20;
/** What a browser calls a site, and a shell takes as it is. */
const SITE = /^[a-z][a-z0-9+.-]*:\/\/[a-z0-9.:-]+$/;
/** A run reads the meta of every document. */
const PAUSE_MS_MIN = 1_000;
/** What a timer can wait; one that is to wait longer does not wait at all. */
const PAUSE_MS_MAX = 2 ** 31 - 1;

export function serveCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return modelsCommand("serve", "let y-websocket clients edit the documents, and offer an HTTP API")
    .option("--host <address>", "where to listen", "127.0.0.1")
    .option("--port <number>", "at which port; 0: any that is free", parsePort, 8787)
    .option("--tokens <file>", "who may do what: a JSON list of grants (default: COPPICE_TOKENS)")
    .option("--origin <origin...>", "pages of these sites may connect, as in https://notes.example")
    .option("--memory <size>", "for documents in memory (default: 512MiB)", parseByteSize)
    .option("--compact-every <duration>", "compact what is due, again and again", parsePause)
    .option(
      "--min-events <count>",
      `with --compact-every: only documents with so many events since the snapshot (default: ${MIN_EVENTS})`,
      parseCount,
    )
    .option(
      "--allow-anyone-to-read-and-change-everything",
      "listen on an address of other machines without tokens",
    )
    .addOption(new Option("--supervised", "the parent process starts this one again").hideHelp())
    .addHelpText(
      "after",
      examples(
        ["coppice serve", "on this machine: ws://127.0.0.1:8787/sync/<id>"],
        ["coppice serve --host 0.0.0.0 --tokens tokens.json", "for others, with tokens"],
        ["coppice serve --compact-every 10m --json", "log as JSON lines"],
      ),
    )
    .action(async (options: Options) => done(await run(runtime, options)));
}

function parsePause(text: string): number {
  const ms = parseDuration(text);
  if (ms < PAUSE_MS_MIN || ms > PAUSE_MS_MAX) throw new InvalidArgumentError("Write 1s to 24d.");
  return ms;
}

async function run(runtime: Runtime, options: Options): Promise<ExitCode> {
  const { ServerMetrics, bearerTokens, checkOrigins, describeRefusal, serve } = await loadPackage(
    "@coppice/server",
    () => import("@coppice/server"),
  );
  const { origin: origins = [] } = options;
  if (options.minEvents !== undefined && options.compactEvery === undefined)
    throw new CommandError("USAGE", "--min-events belongs to --compact-every", {
      hint: "coppice serve --help",
    });
  assertOrigins(checkOrigins, origins);
  const tokens = options.tokens ?? runtime.env.COPPICE_TOKENS;
  const authorize = await readTokens(tokens, bearerTokens);
  const metrics = new ServerMetrics();
  const { location } = parseStore(options.store);
  const supervisor = supervisorOf(options);
  // Before there is a new store for nobody.
  if (await isAbsent(options.store)) {
    await listenOnce(options.host, options.port).catch((error: unknown) => {
      throw whyNotListening(error, options);
    });
  }
  const wanted = { ...options, create: true, observer: metrics.observer };
  await withStorage(runtime, wanted, async (storage, { isNew }) => {
    const server = await serve({
      storage,
      metrics,
      host: options.host,
      port: options.port,
      origins,
      ...(authorize === undefined ? {} : { authorize }),
      ...(options.memory === undefined ? {} : { limits: { memoryBytesMax: options.memory } }),
      ...(location === undefined
        ? {}
        : { mayRecover: () => hasRoom(location), storeBytes: () => bytesOf(location) }),
      ...(supervisor === undefined ? {} : { supervisor }),
      allowAnyoneToReadAndChangeEverything: options.allowAnyoneToReadAndChangeEverything === true,
      onError: (error, { document }) => tellError(runtime, options, error, document),
      onWritable: (isWritable) => tellWritable(runtime, options, isWritable),
      onRefused: refusals(runtime, options, describeRefusal),
    }).catch((error: unknown) => {
      throw whyNotListening(error, options);
    });
    const control = location === undefined ? undefined : await offer(runtime, options, storage, location);
    // Where the log has no room, the store has none either, and what was received is still to be saved.
    runtime.out.isLog = true;
    try {
      await tellStart(runtime, options, server, { hasTokens: authorize !== undefined, isNew });
      await untilStopped(runtime, options, storage, metrics);
    } finally {
      // The next owner replaces a control file that cannot be removed; the server has edits to save.
      await control?.close().catch((error: unknown) => tellError(runtime, options, error));
      await server.close();
    }
  })
    .catch((error: unknown) => {
      throw stopFailure(runtime, error);
    })
    .finally(() => metrics.close());
  const end = location === undefined ? "what was in memory is gone" : "all is saved";
  await (options.json ? runtime.out.event("stopped") : runtime.out.line(`stopped; ${end}`));
  return EXIT.ok;
}

/** What fails after the signal to stop is no interruption: something was to be saved. */
function stopFailure({ signal }: Runtime, error: unknown): unknown {
  if (!signal.aborted || error === signal.reason) return error;
  const { message, details, hint } = describeError(error);
  if (!isCoppiceError(error) || !Array.isArray(error.details.ids))
    return new StopFailed("FAILED", message, { details, cause: error, ...(hint && { hint }) });
  const { documents } = details;
  const ids = error.details.ids.map((id) => JSON.stringify(id));
  const more = Number(documents) > ids.length ? `, and ${Number(documents) - ids.length} more` : "";
  return new StopFailed("FAILED", `edits were received and are not stored, of ${ids.join(", ")}${more}`, {
    hint: "Clients that are still open send them again: see to the disk, then start the server.",
    details: { ...details, code: error.code },
    cause: error,
  });
}

/** A process that was forked to be supervised may be killed from the page; it ends when its parent does. */
function supervisorOf({ supervised }: Options): Supervisor | undefined {
  if (supervised !== true) return undefined;
  if (process.send === undefined)
    throw new CommandError("USAGE", "--supervised is for `coppice start`, which starts the server again");
  process.once("disconnect", () => process.kill(process.pid, "SIGTERM"));
  // The channel alone is no reason to stay.
  process.channel?.unref();
  return { kill: () => process.kill(process.pid, "SIGKILL") };
}

/** Why it does not listen, in the words of this command. */
function whyNotListening(error: unknown, { host, port }: Options): unknown {
  const { code } = error as NodeJS.ErrnoException;
  if (code === "EADDRINUSE")
    return new CommandError("FAILED", `port ${port} of ${printable(host)} is in use (EADDRINUSE)`, {
      hint: "--port names another one; --port 0 takes any that is free.",
      details: { host, port },
      cause: error,
    });
  if (error instanceof TypeError && error.message.includes("without authentication"))
    return new CommandError("USAGE", `refusing to listen on ${printable(host)} without authentication`, {
      hint:
        "Other machines can reach it: name who may do what with --tokens <file>, " +
        "or say --allow-anyone-to-read-and-change-everything.",
      details: { host },
    });
  return error;
}

/** Before the store is opened, which would make it. */
function assertOrigins(check: (origins: readonly string[]) => void, origins: readonly string[]): void {
  try {
    check(origins);
  } catch (cause) {
    throw new CommandError("USAGE", `--origin: ${printable((cause as Error).message)}`, {
      hint: "An origin is what browsers send: scheme and host, and a port that is not the usual one.",
      details: { origin: origins },
      cause,
    });
  }
}

async function readTokens(
  path: string | undefined,
  bearerTokens: (grants: readonly TokenGrant[]) => Authorize,
): Promise<Authorize | undefined> {
  if (path === undefined || path === "") return undefined;
  if (!existsSync(path))
    throw new CommandError("NOT_FOUND", `there is no file of tokens ${printable(path)}`, {
      hint: "Name it with --tokens or COPPICE_TOKENS; a JSON list of grants.",
      details: { file: path },
    });
  try {
    const grants = JSON.parse(await readFile(path, "utf8")) as unknown;
    if (!Array.isArray(grants)) throw new TypeError("it is no list");
    return bearerTokens(grants as TokenGrant[]);
  } catch (cause) {
    throw new CommandError("USAGE", `the tokens in ${printable(path)} cannot be used`, {
      hint: 'It holds a JSON list like [{ "token": "…", "action": "write", "documents": ["team/*"] }]',
      details: { file: path },
      cause,
    });
  }
}

async function offer(
  runtime: Runtime,
  options: Options,
  storage: DocumentStorage,
  location: string,
): Promise<Control | undefined> {
  try {
    return await offerControl(storage, location);
  } catch (error) {
    tellError(runtime, options, error);
    return undefined;
  }
}

async function untilStopped(
  runtime: Runtime,
  options: Options,
  storage: DocumentStorage,
  metrics: ServerMetrics,
): Promise<void> {
  const { signal } = runtime;
  try {
    for (;;) {
      await delay(options.compactEvery ?? PAUSE_MS_MAX, signal);
      if (options.compactEvery === undefined) continue;
      const { minEvents = MIN_EVENTS } = options;
      const run = compactAllAlone(storage, { minEvents, signal });
      const result = await run.catch(passOver(runtime, options, metrics));
      if (result === undefined) continue;
      const { failures, failed } = result;
      metrics.count("compactions_failed", failed);
      const told = grouped(failures.map(({ id, error }) => ({ ...failureOf({ id, error }), error })));
      for (const [{ id, error }, ...others] of told) tellError(runtime, options, error, id, others.length);
      if (result.compacted > 0) await tellCompacted(runtime, options, result);
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

/** A run that did not come about is made up for by the next one. */
function passOver(runtime: Runtime, options: Options, metrics: ServerMetrics): (error: unknown) => undefined {
  return (error) => {
    const isRunning = isCoppiceError(error, "BUSY") && error.details.compacting === true;
    if (isRunning || runtime.signal.aborted) return;
    tellError(runtime, options, error);
    metrics.count("compactions_failed", 1);
  };
}

/** A run that found nothing to do is not told: there are many. */
async function tellCompacted(
  { out }: Runtime,
  { json }: Options,
  { seen, compacted, eventsTrimmed, bytesTrimmed, failed, durationMs }: CompactAllResult,
): Promise<void> {
  const facts = withRoundedTime({ seen, compacted, eventsTrimmed, bytesTrimmed, failed, durationMs });
  const trimmed = `${plural(eventsTrimmed, "event")} (${byteSize(bytesTrimmed)})`;
  const documents = `${count(compacted)} of ${plural(seen, "document")}`;
  await (json
    ? out.event("compacted", facts)
    : out.line(`compacted ${documents}, trimmed ${trimmed}, in ${duration(durationMs)}`));
}

/** Files that LevelDB removes meanwhile count for nothing. */
async function bytesOf(location: string): Promise<number> {
  let bytes = 0;
  for (const name of await readdir(location)) {
    const file = await stat(join(location, name)).catch(() => undefined);
    if (file?.isFile()) bytes += file.size;
  }
  return bytes;
}

async function hasRoom(location: string): Promise<boolean> {
  const { bavail, bsize } = await statfs(location);
  return bavail * bsize >= FREE_BYTES_MIN;
}

async function tellStart(
  { out, err }: Runtime,
  options: Options,
  { url }: CoppiceServer,
  { hasTokens, isNew }: { readonly hasTokens: boolean; readonly isNew: boolean },
): Promise<void> {
  if (options.json) {
    await out.event("listening", {
      url,
      pid: process.pid,
      store: options.store,
      created: isNew,
      tokens: hasTokens,
    });
    return;
  }
  if (isNew) await err.line(`note: ${printable(options.store)} is new and empty`);
  await out.line(`serving ${printable(options.store)} at ${out.style("bold", url)}`);
  await out.pairs([
    ["sync", `${url.replace(/^http/, "ws")}/sync/<id>`],
    ["API", `${url}/api/openapi.json`],
    ["metrics", `${url}/metrics`],
  ]);
  if (!hasTokens) await out.line("whoever reaches this address may read and change everything");
  const isKept = parseStore(options.store).location !== undefined;
  await out.line(`Ctrl-C stops it; ${isKept ? "nothing is lost" : "what is in memory is gone then"}`);
}

/** Why it takes none was told as an error. */
function tellWritable({ err }: Runtime, { json }: Options, isWritable: boolean): void {
  const told = isWritable
    ? "the store takes writes again"
    : "edits are refused until the store takes writes again";
  const line = json ? err.event("writable", { writable: isWritable }) : err.line(`note: ${told}`);
  line.catch(() => undefined);
}

/** Each is told once: clients try again and again. */
function refusals(
  { err }: Runtime,
  { json }: Options,
  describe: (refusal: Refusal) => string,
): (refusal: Refusal) => void {
  const told = new Set<string>();
  return (refusal) => {
    const { reason, value } = refusal;
    const name = `${reason} ${value}`;
    if (told.has(name) || told.size >= REFUSALS_TOLD_MAX) return;
    told.add(name);
    const isSite = reason === "origin" && SITE.test(value);
    const hint = isSite ? `; if it is yours, start with --origin ${value}` : "";
    const line = json
      ? err.event("refused", { reason, value })
      : err.line(`note: ${printable(describe(refusal))}${hint}`);
    line.catch(() => undefined);
  };
}

/**
 * Errors are told as they come, and nobody waits for the telling. `others`: documents that failed for the
 * same reason.
 */
function tellError({ err, env }: Runtime, options: Options, error: unknown, id?: string, others = 0): void {
  const { code, kind, message, hint } = describeError(error);
  const stack = env.COPPICE_DEBUG === "1" && error instanceof Error ? error.stack : undefined;
  const more = others === 0 ? "" : ` and ${plural(others, "other document")}`;
  const where = id === undefined ? "" : `${printable(id)}${more}: `;
  const told = options.json
    ? err.event("error", { code, kind, message, hint, id, stack, ...(others > 0 && { others }) })
    : err.line(`${err.style("red", "error")} ${where}${printable(message)}${stack ? `\n${stack}` : ""}`);
  told.catch(() => undefined);
}
