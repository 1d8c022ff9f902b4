/**
 * The command line itself: which commands there are, and what `--help` says. It opens no store; the commands
 * do, once they run.
 */

import { Command } from "commander";
import { checkChildCommand, checkCommand } from "./commands/check.js";
import { compactCommand } from "./commands/compact.js";
import { completionCommand } from "./commands/completion.js";
import { conformanceCommand } from "./commands/conformance.js";
import { copyChildCommand, copyCommand } from "./commands/copy.js";
import { dumpCommand } from "./commands/dump.js";
import { eraseCommand } from "./commands/erase.js";
import { exportCommand } from "./commands/export.js";
import { forkCommand } from "./commands/fork.js";
import { framesCommand } from "./commands/frames.js";
import { graphCommand } from "./commands/graph.js";
import { historyCommand } from "./commands/history.js";
import { importCommand } from "./commands/import.js";
import { infoCommand } from "./commands/info.js";
import { lsCommand } from "./commands/ls.js";
import { readCommand } from "./commands/read.js";
import { replayCommand, writerCommand } from "./commands/replay.js";
import { rmCommand } from "./commands/rm.js";
import { serveCommand } from "./commands/serve.js";
import { showCommand } from "./commands/show.js";
import { startCommand } from "./commands/start.js";
import { tagCommand, tagsCommand, untagCommand } from "./commands/tag.js";
import { EXIT_HELP, type ExitCode } from "./errors.js";
import { DEFAULT_STORE, examples } from "./options.js";
import type { Runtime } from "./runtime.js";
import { VERSION } from "./version.js";

const ENVIRONMENT_HELP = `
Environment:
  COPPICE_STORE   the store where --store is not given (default: ${DEFAULT_STORE})
  COPPICE_MODELS  a module of models of your own, where --models is not given
  COPPICE_TOKENS  the file of tokens for serve, where --tokens is not given
  COPPICE_TRACES  the folder of recordings for replay
  COPPICE_DEBUG   1: print stack traces of errors
  NO_COLOR        no colours, on terminals too`;

/**
 * `done` is told the exit code of the command that ran. Errors reject `parseAsync`; nothing exits the
 * process.
 */
export function makeProgram(runtime: Runtime, done: (code: ExitCode) => void): Command {
  const program = new Command("coppice")
    .description("Look into, check and compact stores of event-sourced documents.")
    .version(VERSION, "-V, --version")
    .showSuggestionAfterError()
    .addHelpText(
      "after",
      `${examples(
        ["coppice ls --long --store level:./data", "what is there"],
        ["coppice check", "is everything sound"],
        ["coppice compact --all --idle 10m --json", "for cron"],
        ["coppice copy level:./data level:/backup/notes", "a backup, or what is new since the last"],
        ["coppice start", "a server with sample documents, and a page to look at"],
        ["coppice serve", "let y-websocket clients edit the store"],
        ["coppice replay", "see it work, and be killed, on a real editing history"],
      )}\n${EXIT_HELP}\n${ENVIRONMENT_HELP}`,
    );
  const visible = [
    lsCommand,
    infoCommand,
    showCommand,
    readCommand,
    historyCommand,
    tagCommand,
    tagsCommand,
    untagCommand,
    framesCommand,
    graphCommand,
    compactCommand,
    checkCommand,
    rmCommand,
    forkCommand,
    eraseCommand,
    exportCommand,
    importCommand,
    copyCommand,
    dumpCommand,
    serveCommand,
    startCommand,
    replayCommand,
    conformanceCommand,
  ];
  for (const make of visible) program.addCommand(make(runtime, done));
  program.addCommand(completionCommand(runtime, done, program));
  program.addCommand(writerCommand(runtime, done), { hidden: true });
  program.addCommand(checkChildCommand(runtime, done), { hidden: true });
  program.addCommand(copyChildCommand(runtime, done), { hidden: true });
  for (const command of everyCommand(program)) {
    // Errors, and the help that stands for one, are written where exit codes are decided.
    command.exitOverride().configureOutput({ outputError: () => undefined, writeErr: () => undefined });
  }
  return program;
}

function everyCommand(command: Command): Command[] {
  return [command, ...command.commands.flatMap(everyCommand)];
}
