#!/usr/bin/env node
/**
 * The `coppice` command: reads the command line, runs one command, and ends with its exit code.
 *
 * Invariants: every way out passes here, so every error is one message and one exit code; the process ends by
 * itself when all is closed, and is not cut off with work in flight.
 */

import { fileURLToPath } from "node:url";
import { type Command, CommanderError } from "commander";
import { CommandError, describeError, EXIT, type ExitCode, StopFailed } from "./errors.js";
import { printable } from "./output.js";
import { makeProgram } from "./program.js";
import { PipeClosed, processRuntime, type Runtime } from "./runtime.js";

/** What is looked for under names that are no commands of ours. */
const MEANT: ReadonlyMap<string, string> = new Map([
  ["repair", "`coppice check --repair` mends a store; read what `coppice check` says first."],
  ["verify", "`coppice check` verifies a store."],
  ["backup", "`coppice copy <store> <backup>` makes a backup, and brings in what is new."],
  ["restore", "`coppice copy <backup> <store>` restores one into an empty store."],
  ["delete", "`coppice rm` removes documents, and `coppice erase` every trace of them."],
  ["cat", "`coppice show` prints what a document holds, and `coppice read` its events."],
  ["stat", "`coppice info` shows what is known of a document, and `coppice ls --long` of all."],
  ["list", "`coppice ls` lists documents."],
]);

const runtime = processRuntime(fileURLToPath(import.meta.url));
process.exitCode = await main(runtime, process.argv);

async function main(given: Runtime, argv: readonly string[]): Promise<ExitCode> {
  let code: ExitCode = EXIT.ok;
  try {
    const program = makeProgram(given, (result) => {
      code = result;
    });
    await program.parseAsync(argv);
    return code;
  } catch (error) {
    const isStop = given.signal.aborted && !(error instanceof StopFailed);
    return fail(given, argv, isStop ? given.signal.reason : error);
  }
}

async function fail(given: Runtime, argv: readonly string[], error: unknown): Promise<ExitCode> {
  const { err } = given;
  if (error instanceof PipeClosed) return EXIT.ok;
  if (error instanceof CommanderError && error.exitCode === 0) return EXIT.ok;
  const asksForHelp = error instanceof CommanderError && error.code === "commander.help";
  if (asksForHelp && unknownIn(argv) === undefined) {
    await err.write(namedIn(argv).helpInformation());
    return EXIT.usage;
  }
  const shown = error instanceof CommanderError ? usageError(error, argv) : error;
  const { exitCode, code, kind, message, details, hint } = describeError(shown);
  if (process.env.COPPICE_DEBUG === "1" && error instanceof Error) await err.line(error.stack ?? "");
  const time = new Date().toISOString();
  if (wantsJson(argv)) await err.json({ error: { code, kind, message, details, hint }, time });
  else {
    await err.line(`${err.style("red", "coppice:")} ${printable(message)}`);
    if (hint !== undefined) await err.line(hint);
  }
  return exitCode;
}

/** The command that the words name, as far as they name one. */
function namedIn(argv: readonly string[]): Command {
  let command = makeProgram(runtime, () => undefined);
  for (const word of argv.slice(2)) {
    const next = command.commands.find((each) => each.name() === word);
    if (next === undefined) break;
    command = next;
  }
  return command;
}

/** What `coppice help` was asked about, when it ends without that help: there is no such command. */
function unknownIn([, , asked, word]: readonly string[]): string | undefined {
  return asked === "help" ? word : undefined;
}

/** Of the first words, the options that stand before the command. */
function isBeforeCommand(argv: readonly string[]): boolean {
  const names = makeProgram(runtime, () => undefined).commands.map((command) => command.name());
  return argv[2]?.startsWith("-") === true && argv.slice(3).some((word) => names.includes(word));
}

/** Commander's `error: message` and, on a second line, what may have been meant. */
function usageError({ message }: CommanderError, argv: readonly string[]): CommandError {
  const unknown = unknownIn(argv);
  if (unknown !== undefined) {
    return new CommandError("USAGE", `there is no command ${printable(unknown)}`, {
      hint: MEANT.get(unknown) ?? "coppice --help lists them.",
    });
  }
  const before = isBeforeCommand(argv) ? "Options go behind the command: coppice ls --json." : undefined;
  const meant = MEANT.get(/^error: unknown command '(.*)'/.exec(message)?.[1] ?? "") ?? before;
  const [first = "", second] = message.replace(/^error: /, "").split("\n");
  const words = wordsOf(namedIn(argv));
  const more = meant ?? (second?.trim() || `${words} --help says more.`);
  // Ids that programs make at random begin so now and then.
  const dashed = first.startsWith("unknown option '") && words !== "coppice";
  return new CommandError("USAGE", first, {
    hint: dashed ? `${more} An id that begins with - goes behind --, as the last of the line.` : more,
  });
}

/** As in `coppice import document`. */
function wordsOf(command: Command): string {
  return command.parent === null ? command.name() : `${wordsOf(command.parent)} ${command.name()}`;
}

/** Before the command line is understood: a usage error is JSON too when JSON was asked for. */
function wantsJson(argv: readonly string[]): boolean {
  const end = argv.indexOf("--");
  return argv.slice(2, end < 0 ? undefined : end).includes("--json");
}
