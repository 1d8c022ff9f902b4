/**
 * `coppice completion`: a script that completes commands and options in a shell, made from the commands
 * that there are, so that it cannot fall behind them.
 *
 * Ids are not completed: that would open the store.
 */

import { Argument, Command } from "commander";
import { EXIT, type ExitCode } from "../errors.js";
import { examples } from "../options.js";
import type { Runtime } from "../runtime.js";

const SHELLS = ["bash", "zsh", "fish"] as const;
type Shell = (typeof SHELLS)[number];

/** A command and what may follow it. */
interface Node {
  /** The words before: `[]` for `coppice` itself. */
  readonly path: readonly string[];
  readonly words: readonly { readonly word: string; readonly says: string }[];
}

/** `root` is asked for its commands when this one runs. */
export function completionCommand(runtime: Runtime, done: (code: ExitCode) => void, root: Command): Command {
  return new Command("completion")
    .description("print a script that completes commands and options in a shell")
    .addArgument(new Argument("<shell>", "the shell").choices(SHELLS))
    .addHelpText(
      "after",
      examples(
        ['eval "$(coppice completion bash)"', "in ~/.bashrc"],
        ['eval "$(coppice completion zsh)"', "in ~/.zshrc, after compinit"],
        ["coppice completion fish | source", "in config.fish"],
      ),
    )
    .action(async (shell: Shell) => {
      await runtime.out.write(SCRIPTS[shell](nodesOf(root, [])));
      done(EXIT.ok);
    });
}

function nodesOf(command: Command, path: readonly string[]): Node[] {
  const help = command.createHelp();
  const commands = help.visibleCommands(command).filter((each) => each.name() !== "help");
  const words = [
    ...commands.map((each) => ({ word: each.name(), says: each.description() })),
    ...help.visibleOptions(command).map((option) => ({
      word: option.long ?? option.short ?? "",
      says: option.description,
    })),
  ].filter(({ word }) => word !== "");
  return [{ path, words }, ...commands.flatMap((each) => nodesOf(each, [...path, each.name()]))];
}

const SCRIPTS: Readonly<Record<Shell, (nodes: readonly Node[]) => string>> = {
  bash: (nodes) => `_coppice() {
  local word=\${COMP_WORDS[COMP_CWORD]} trail="" each
  for each in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case $each in -*) ;; *) trail="$trail $each" ;; esac
  done
  case "$trail" in
${casesOf(nodes, (words) => `COMPREPLY=($(compgen -W "${plain(words)}" -- "$word"))`)}
  esac
  if [[ \${#COMPREPLY[@]} -eq 0 && $word != -* ]]; then COMPREPLY=($(compgen -f -- "$word")); fi
}
complete -o filenames -F _coppice coppice
`,
  zsh: (nodes) => `_coppice() {
  local trail="" each
  for each in "\${words[@]:1:$((CURRENT - 2))}"; do
    case $each in -*) ;; *) trail="$trail $each" ;; esac
  done
  local -a found
  case "$trail" in
${casesOf(nodes, (words) => `found=(${words.map(({ word, says }) => quoted(`${word}:${says}`)).join(" ")})`)}
  esac
  _describe coppice found || _files
}
compdef _coppice coppice
`,
  fish: (nodes) =>
    nodes
      .flatMap(({ path, words }) =>
        words.map(({ word, says }) => {
          const when =
            path.length === 0
              ? "__fish_use_subcommand"
              : path.map((each) => `__fish_seen_subcommand_from ${each}`).join("; and ");
          const what = word.startsWith("--") ? `-l ${word.slice(2)}` : `-a ${word}`;
          return `complete -c coppice -n ${quoted(when)} ${what} -d ${quoted(says)}\n`;
        }),
      )
      .join(""),
};

/** A branch for each command, the longest path first; what follows the words of a path is an argument. */
function casesOf(nodes: readonly Node[], then: (words: Node["words"]) => string): string {
  return [...nodes]
    .sort((left, right) => right.path.length - left.path.length)
    .map(({ path, words }) => {
      const pattern = path.length === 0 ? '""' : `"${path.map((each) => ` ${each}`).join("")}"*`;
      return `    ${pattern}) ${then(words)} ;;`;
    })
    .join("\n");
}

function plain(words: Node["words"]): string {
  return words.map(({ word }) => word).join(" ");
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
