/**
 * What goes wrong, as a person or a script at the command line meets it: one message, one line on what to do,
 * and an exit code that says which kind it was. Errors of the library are described here, never changed.
 *
 * Exit codes are part of the interface: a number keeps its meaning. `EXIT_HELP` is the table that `--help`
 * prints.
 */

import { type CoppiceError, isCoppiceError } from "coppice";
import { ownerHint } from "./rights.js";

export const EXIT = {
  ok: 0,
  failed: 1,
  usage: 2,
  notFound: 3,
  locked: 4,
  corrupt: 5,
  running: 6,
  interrupted: 130,
} as const;

export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

export const EXIT_HELP: string = `
Exit codes:
  0    it is done
  1    it failed or was refused; check: there are problems, or a repair lost events;
       serve, start: something was not saved
  2    the command line is wrong
  3    the document, tag, store, file or recording does not exist
  4    another process has the store open
  5    stored bytes are damaged
  6    another compaction of the store is under way; nothing was done
  130  interrupted (Ctrl-C); what was in flight is finished, nothing is half done;
       erase: it says what is erased, and that the files still hold it`;

export type CommandErrorCode =
  | "USAGE"
  | "NOT_FOUND"
  | "EXISTS"
  | "FAILED"
  | "LOCKED"
  | "CORRUPT"
  | "RUNNING"
  | "INTERRUPTED";

/** A failure that the command line itself finds. */
export class CommandError extends Error {
  readonly code: CommandErrorCode;
  readonly kind: string;
  readonly exitCode: ExitCode;
  /** One line on what to do. */
  readonly hint: string | undefined;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(
    code: CommandErrorCode,
    message: string,
    options: { hint?: string; details?: Readonly<Record<string, unknown>>; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    const [kind, exitCode] = FACTS[code];
    this.kind = kind;
    this.exitCode = exitCode;
    this.hint = options.hint;
    this.details = options.details ?? {};
  }
}

/** What failed while a run that was told to stop did its last work: told in place of the interruption. */
export class StopFailed extends CommandError {}

export const FACTS: Record<CommandErrorCode, readonly [kind: string, exitCode: ExitCode]> = {
  USAGE: ["invalid", EXIT.usage],
  NOT_FOUND: ["not-found", EXIT.notFound],
  EXISTS: ["conflict", EXIT.failed],
  FAILED: ["failed", EXIT.failed],
  LOCKED: ["busy", EXIT.locked],
  CORRUPT: ["corrupt", EXIT.corrupt],
  RUNNING: ["busy", EXIT.running],
  INTERRUPTED: ["interrupted", EXIT.interrupted],
};

/** The error with which a child ended that was told `--json`; `undefined` when it said none. */
export function errorOfChild(said: string, exitCode: number | null): CommandError | undefined {
  const line = said.split("\n").findLast((each) => /^\{"error":.*\}$/.test(each));
  if (line === undefined) return undefined;
  const { error } = JSON.parse(line) as { error: Pick<Described, "code" | "message" | "details" | "hint"> };
  const { message, details, hint } = error;
  const codes = Object.keys(FACTS) as CommandErrorCode[];
  // For a code of the library, the one that ends as the child has ended.
  const known = codes.find((code) => code === error.code);
  const kin = codes.find((code) => exitCode !== EXIT.failed && FACTS[code][1] === exitCode);
  return new CommandError(known ?? kin ?? "FAILED", message, { details, ...(hint && { hint }) });
}

/** An error as it is shown and ended with. */
export interface Described {
  readonly exitCode: ExitCode;
  readonly code: string;
  readonly kind: string;
  readonly message: string;
  readonly details: Readonly<Record<string, unknown>>;
  readonly hint: string | undefined;
}

export function describeError(error: unknown): Described {
  if (error instanceof CommandError) {
    const { code, kind, exitCode, hint, details } = error;
    return { code, kind, exitCode, hint, details, message: withCause(error) };
  }
  if (isCoppiceError(error)) {
    const { code, kind } = error;
    const exitCode = exitCodeOf(kind, code);
    const system = systemCodeOf(error);
    const details = system === undefined ? error.details : { ...error.details, system };
    const full = system === "ENOSPC" || system === "EDQUOT" ? FULL : undefined;
    const hint = ownerHint(error) ?? full ?? hintOf(kind, code, error.details);
    return { code, kind, exitCode, details, hint, message: messageOf(error) };
  }
  return {
    code: "FAILED",
    kind: "failed",
    exitCode: EXIT.failed,
    message: error instanceof Error ? withCause(error) : String(error),
    ...ofSystem(error),
  };
}

const FULL = "Make room on the disk, and repeat.";

/** What the operating system called it, as far as LevelDB passes that on. */
function systemCodeOf(error: unknown): string | undefined {
  for (let each = error; each instanceof Error; each = each.cause) {
    const { code, syscall } = each as NodeJS.ErrnoException;
    if (syscall !== undefined) return code;
    const [, said = ""] = /^IO error: .+: (.+)$/.exec(each.message) ?? [];
    if (said in OF_LEVEL) return OF_LEVEL[said];
  }
  return undefined;
}

const OF_LEVEL: Readonly<Record<string, string>> = {
  "No space left on device": "ENOSPC",
  "Permission denied": "EACCES",
  "File too large": "EFBIG",
  "Input/output error": "EIO",
  "Too many open files": "EMFILE",
};

/** What the operating system refused: its code is none of ours, and goes with the details. */
function ofSystem(error: unknown): Pick<Described, "details" | "hint"> {
  const { code, syscall, path } = (error ?? {}) as NodeJS.ErrnoException;
  if (code === undefined || syscall === undefined) return { details: {}, hint: undefined };
  return {
    details: { system: code, ...(path === undefined ? {} : { file: path }) },
    hint:
      ownerHint(error) ??
      "Look at the name, the rights and the space of what the system refused, and repeat.",
  };
}

/** Of several failures in one run, the one that the exit code tells: damage, then failure, then absence. */
export function worst(codes: readonly ExitCode[]): ExitCode {
  const order = [EXIT.corrupt, EXIT.locked, EXIT.failed, EXIT.usage, EXIT.notFound];
  return order.find((code) => codes.includes(code)) ?? EXIT.ok;
}

function exitCodeOf(kind: string, code: string): ExitCode {
  if (code === "LOCKED") return EXIT.locked;
  if (kind === "corrupt") return EXIT.corrupt;
  // The command line was right, and no store is damaged.
  if (code === "EXPORT_INVALID") return EXIT.failed;
  if (code === "TAG_UNKNOWN") return EXIT.notFound;
  return kind === "invalid" ? EXIT.usage : EXIT.failed;
}

/** Where LevelDB itself refuses, a check cannot open the store either. */
const DAMAGED_DIRECTORY = "No file was changed. Restore a copy of the directory.";

/** The message says how data move over. */
const OTHER_DATA = "Nothing was written. Name another directory for the store.";

const TAGGED =
  "A tagged version can still be looked at: `coppice show --at NAME`, or load({ at }) in a program.";

/** What a document of a model needs that does not come with this package. */
const MODEL_PACKAGES: Readonly<Record<string, string>> = {
  automerge: "@coppice/automerge @automerge/automerge",
  loro: "@coppice/loro loro-crdt",
};

function hintOf(kind: string, code: string, details: Readonly<Record<string, unknown>>): string | undefined {
  if (code === "CORRUPT" && "location" in details) return DAMAGED_DIRECTORY;
  // A fork or an export, whose message says which clocks there are.
  if (code === "TRIMMED" && "to" in details) return TAGGED;
  if (code === "UNAVAILABLE" && details.foreign === true) return OTHER_DATA;
  return code === "MODEL_UNKNOWN" ? modelHint(details.model) : hintFor(kind, code);
}

/** What to install, so that documents of a model can be read. */
export function modelHint(model: unknown): string {
  const packages = MODEL_PACKAGES[String(model)];
  if (packages !== undefined) return `Install its model beside this command: npm install ${packages}`;
  return "Its model is not installed here; --models <file> names a module whose default export has it.";
}

const CODE_HINTS: Readonly<Record<string, string>> = {
  TRIMMED: "`coppice info` shows the oldest clock that is kept.",
  TAG_EXISTS: "Choose another name, or `coppice untag` that one first.",
  TAG_UNKNOWN: "`coppice tags` lists those that there are; a date is written 2026-01-31.",
  UNAVAILABLE: "Look at what the message names, and repeat.",
  STORE_FULL: "With some room, `coppice compact --all --reclaim` makes more: it drops what snapshots cover.",
  EXISTS: "Choose another id, or remove that document first.",
  DELETED: "The id was used before: --recreate takes it again.",
  EXPORT_INVALID: "Name a file that `coppice export` wrote, or export the document again.",
};

/** The library speaks of what programs pass to it where a tag or a model is unknown. */
export function messageOf(error: CoppiceError): string {
  const { code, details } = error;
  if (code === "TAG_UNKNOWN")
    return `${JSON.stringify(details.id)} has no tag ${JSON.stringify(details.name)}`;
  if (code === "DELETED" && error.message.includes("recreate: true"))
    return `${JSON.stringify(details.id)} was deleted`;
  if (code === "MODEL_UNKNOWN" && "known" in details) return `this command has no model ${details.model}`;
  return withCause(error);
}

function hintFor(kind: string, code: string): string | undefined {
  const ofCode = CODE_HINTS[code];
  if (ofCode !== undefined) return ofCode;
  switch (kind) {
    case "invalid":
      return "Correct the input; nothing was written.";
    case "conflict":
      return "Somebody else changed the document; look at it again and repeat.";
    case "busy":
      return "Wait and repeat; nothing was written.";
    case "unknown":
      return "It may have been written: run `coppice check`, and compare.";
    case "closed":
      return "An earlier write failed. Look at the disk, then run `coppice check`.";
    case "corrupt":
      return "Run `coppice check`; with `--repair` it sets damaged bytes aside, and deletes nothing.";
    case "unsupported":
      return "Use a newer coppice, or another backend or model.";
    default:
      return undefined;
  }
}

/** The message, with what the file system or the engine said. */
function withCause(error: Error): string {
  let root: unknown = error.cause;
  while (root instanceof Error && root.cause instanceof Error) root = root.cause;
  return root instanceof Error && !error.message.includes(root.message)
    ? `${error.message} (${root.message})`
    : error.message;
}
