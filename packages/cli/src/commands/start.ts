/**
 * `coppice start`: a server to look at, with sample documents, that is started again when it is killed.
 * What `npm start` runs.
 *
 * Invariants: samples go only into an empty store; it listens on this machine alone; Ctrl-C saves what was
 * received and ends with 0.
 */

import { relative } from "node:path";
import type { Command } from "commander";
import { CommandError, EXIT, type ExitCode } from "../errors.js";
import { examples, parsePort, type StoreOptions, storeCommand } from "../options.js";
import { count, duration, printable } from "../output.js";
import type { Runtime } from "../runtime.js";
import { type Sample, writeSamples } from "../start/samples.js";
import { portOr0, supervise } from "../start/supervisor.js";
import { parseStore } from "../store.js";

interface Options extends StoreOptions {
  readonly port: number;
  readonly samples: boolean;
}

const SHELL_MS = 250;
const HOST = "127.0.0.1";
const PLAYGROUND = "level:./playground";

export function startCommand(runtime: Runtime, done: (code: ExitCode) => void): Command {
  return storeCommand("start", "serve a store with sample documents, and a page to look at", PLAYGROUND)
    .option("--port <number>", "at which port; another one when it is taken", parsePort, 8787)
    .option("--no-samples", "leave an empty store empty")
    .addHelpText(
      "after",
      examples(
        ["coppice start", "documents, history, storage and an editor in your browser"],
        ["coppice start --store level:./mine --port 9000", "on a store of your own"],
      ),
    )
    .action(async (options: Options) => done(await run(runtime, options)));
}

async function run(runtime: Runtime, options: Options): Promise<ExitCode> {
  const { store, json } = options;
  const { out } = runtime;
  if (parseStore(store).location === undefined)
    throw new CommandError("USAGE", "memory: would not outlive the server; name a level: or file: store");
  stopWithShell(runtime);
  if (!json) await out.line("preparing the store …");
  const samples = options.samples ? await writeSamples(runtime, options) : [];
  const port = await portOr0(HOST, options.port);
  if (!json && port !== options.port)
    await out.line(`port ${options.port} is taken, or not for us: it is another one`);
  await supervise(runtime, {
    store,
    waitMs: options.wait ?? 0,
    host: HOST,
    port,
    onListening: ({ url, pid, downMs }) => {
      if (json) return out.event("listening", { url, pid, store, samples, downMs });
      if (downMs !== undefined) return out.line(`back after ${duration(downMs)}, as process ${pid}`);
      return tellStart(runtime, options, samples, { url, pid });
    },
    onDeath: (how) => (json ? out.event("died", { how }) : out.line(`the server died (${how})`)),
  });
  await (json ? out.event("stopped") : out.line("stopped; all is saved"));
  return EXIT.ok;
}

/** npm passes a SIGTERM on to its shell alone, which dies of it: what npm started ends with that shell. */
function stopWithShell({ env, signal }: Runtime): void {
  if (env.npm_lifecycle_event === undefined) return;
  const shell = process.ppid;
  const timer = setInterval(() => {
    if (process.ppid === shell) return;
    clearInterval(timer);
    // After a Ctrl-C the shell is gone first, and a second signal would end this at once.
    if (!signal.aborted) process.kill(process.pid, "SIGTERM");
  }, SHELL_MS);
  timer.unref();
}

async function tellStart(
  { out, env, entry }: Runtime,
  { store }: Options,
  samples: readonly Sample[],
  { url, pid }: { readonly url: string; readonly pid: number },
): Promise<void> {
  const location = printable(store);
  // In a clone, where `npm start` runs it, there is no `coppice` on the path.
  const command = env.npm_lifecycle_event === "start" ? `node ${relative(".", entry)}` : "coppice";
  await out.line(`\n${out.style("bold", "Coppice")} serves ${location} at ${out.style("bold", url)}\n`);
  for (const { id, says, events } of samples)
    await out.line(`  ${id.padEnd(14)}${count(events).padStart(6)} events  ${says}`);
  if (samples.length > 0) await out.line("");
  await out.pairs([
    ["look", `${url}/`],
    ["type", `${url}/#/try/notes, in two windows if you like`],
    ["kill", `the page offers it; or: kill -9 ${pid}`],
    ["cron", `${command} compact --all --store ${location}`],
    ["API", `${url}/api/openapi.json`],
  ]);
  await out.line("\nCtrl-C stops it; nothing is lost");
}
