/**
 * Options that several commands share, and how their values are read. A value that is not understood is a
 * usage error that says what would be.
 */

import { Command, InvalidArgumentError, Option } from "commander";
import type { HistoryPolicy, Moment } from "coppice";

export const DEFAULT_STORE = "level:./data";

export interface CommonOptions {
  readonly json?: true;
}

export interface StoreOptions extends CommonOptions {
  readonly store: string;
  readonly wait?: number;
  /** Of commands that restore documents. */
  readonly models?: string;
}

/** A command with `--json`. */
export function plainCommand(name: string, summary: string): Command {
  return new Command(name)
    .description(summary)
    .option("--json", "machine-readable: one JSON document, or one on each line of a stream");
}

/** A command that works on a store. */
export function storeCommand(name: string, summary: string, store: string = DEFAULT_STORE): Command {
  const option = new Option("-s, --store <url>", "the store: level:<directory>, file:<directory> or memory:");
  // An empty variable is an unset one; an empty `--store` is a mistake.
  if (process.env.COPPICE_STORE !== "") option.env("COPPICE_STORE");
  return plainCommand(name, summary)
    .addOption(option.default(store))
    .option(
      "--wait <duration>",
      "while another process has the store open, wait for so long, as in 30s",
      parseDuration,
    );
}

/** A command that restores documents, also those of models of the user's own. */
export function modelsCommand(name: string, summary: string): Command {
  return storeCommand(name, summary).addOption(modelsOption());
}

export function modelsOption(): Option {
  const option = new Option(
    "--models <file>",
    "a module whose default export is a list of models of your own",
  );
  return process.env.COPPICE_MODELS === "" ? option : option.env("COPPICE_MODELS");
}

export function examples(...lines: readonly (readonly [command: string, says: string])[]): string {
  const width = Math.max(...lines.map(([command]) => command.length));
  const shown = lines.map(([command, says]) => `  ${command.padEnd(width)}   ${says}`);
  return `\nExamples:\n${shown.join("\n")}`;
}

const UNITS_MS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** `500ms`, `30s`, `10m`, `2h`, `7d` → ms. */
export function parseDuration(text: string): number {
  const [, amount, unit] = /^(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d)$/.exec(text) ?? [];
  const factor = unit === undefined ? undefined : UNITS_MS[unit];
  if (amount === undefined || factor === undefined) {
    throw new InvalidArgumentError("Write a number with its unit: 500ms, 30s, 10m, 2h, 7d.");
  }
  return Math.round(Number(amount) * factor);
}

const UNITS_BYTES: Readonly<Record<string, number>> = { KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 };

/** `512KiB`, `64MiB`, `2GiB` → bytes. */
export function parseByteSize(text: string): number {
  const [, amount, unit = ""] = /^(\d{1,6})(KiB|MiB|GiB)$/.exec(text) ?? [];
  const bytes = Number(amount) * (UNITS_BYTES[unit] ?? Number.NaN);
  if (!(bytes > 0))
    throw new InvalidArgumentError("Write a whole number with its unit: 512KiB, 64MiB, 2GiB.");
  return bytes;
}

/** A whole number from 0. */
export function parseCount(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value)) {
    throw new InvalidArgumentError("Write a whole number from 0.");
  }
  return value;
}

/** A port of TCP; 0 is any that is free. */
export function parsePort(text: string): number {
  const value = parseCount(text);
  if (value > 65_535) throw new InvalidArgumentError("Write a port from 0 to 65535.");
  return value;
}

/** What `--at` of the commands that take a past version says of itself. */
export const AT =
  "a past version: a clock, a date as in 2026-01-31T12:00:00Z, or a tag; tag:NAME is always a tag";

/** The same where its events are taken along. */
export const AT_WITH_EVENTS: string = `${AT}. Only versions whose events are kept, up to there`;

/**
 * A past version: a clock, a date (`2026-01-31`, its beginning in UTC; `2026-01-31T18:00:00Z`, also with a
 * space for the T, as commands print times), or a tag, also as `tag:NAME`.
 */
export function parseMoment(text: string): Moment {
  if (/^\d+$/.test(text)) return parseCount(text);
  if (text.startsWith("tag:")) return text.slice("tag:".length);
  if (!/^\d{4}-\d\d-\d\d(?:$|T| \d\d:)/.test(text)) return text;
  const date = new Date(text.replace(" ", "T"));
  if (Number.isNaN(date.getTime()) || !isDay(text.slice(0, 10))) {
    throw new InvalidArgumentError("Write a date as 2026-01-31 or 2026-01-31T18:00:00Z; tag:NAME is a tag.");
  }
  // All times that are printed are UTC, and without a zone it would be read as one of this machine.
  if (/[T ]/.test(text) && !/(?:Z|[+-]\d\d:?\d\d)$/.test(text)) {
    throw new InvalidArgumentError(`Write its zone as well: ${text}Z is UTC, and +02:00 for Z another.`);
  }
  return date;
}

/** Whether the month has that day: to `Date`, the 31st of February is the 3rd of March. */
function isDay(text: string): boolean {
  return new Date(text).toISOString().startsWith(text);
}

/** Whether `--at` takes a name for another moment, or for none. */
export function isReadAsTag(name: string): boolean {
  try {
    return parseMoment(name) === name;
  } catch {
    return false;
  }
}

/** What becomes of trimmed events: `drop`, `archive`, `keep:1000`. */
export function parseHistory(text: string): HistoryPolicy {
  if (text === "drop" || text === "archive") return text;
  const [, kept] = /^keep:(\d{1,15})$/.exec(text) ?? [];
  if (kept === undefined) throw new InvalidArgumentError("Write drop, archive, or keep:<events>.");
  return { keepEvents: Number(kept) };
}

/** A whole number from 1. */
export function parsePositive(text: string): number {
  const value = parseCount(text);
  if (value === 0) throw new InvalidArgumentError("Write a whole number from 1.");
  return value;
}
