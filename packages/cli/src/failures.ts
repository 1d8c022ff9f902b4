/**
 * The documents in which a run over many has failed, as a person or a log is told of them.
 *
 * Invariant: a cause that all of them share, a full disk say, is one line and not thousands: cron sends and
 * keeps what it is told, every few minutes.
 */

import { isCoppiceError } from "coppice";
import { messageOf } from "./errors.js";
import { count, type Output, plural, printable } from "./output.js";

export interface Failure {
  readonly id: string;
  readonly code: string;
  readonly message: string;
  /** Absent: it failed. */
  readonly outcome?: string;
}

/** In the line of `--json`, beside a count of all; and of lines, where no cause is common. */
const LISTED_MAX = 100;

export function listed(failures: readonly Failure[]): readonly Failure[] {
  return failures.slice(0, LISTED_MAX);
}

/** `error`: why a compaction was refused, where it is no error. */
export function failureOf({ id, error }: { readonly id: string; readonly error: unknown }): Failure {
  const [code, message] = isCoppiceError(error) ? [error.code, messageOf(error)] : ["REFUSED", String(error)];
  return { id, code, message };
}

/** By what they have in common, in the order of the first of each. */
export function grouped<F extends Failure>(failures: readonly F[]): readonly (readonly [F, ...F[]])[] {
  const groups = new Map<string, [F, ...F[]]>();
  for (const failure of failures) {
    const { outcome, code, message } = failure;
    // A full store names the bytes that it lacked, and these differ.
    const cause = code === "STORE_FULL" ? code : `${outcome} ${message}`;
    const group = groups.get(cause);
    if (group === undefined) groups.set(cause, [failure]);
    else group.push(failure);
  }
  return [...groups.values()];
}

/** `failed`: how many there were, of which the library keeps the first. `nameless`: what has no id. */
export async function tellFailures(
  output: Output,
  failures: readonly Failure[],
  failed: number,
  nameless: string,
): Promise<void> {
  const told = grouped(failures).slice(0, LISTED_MAX);
  for (const [{ id, message, outcome = "failed" }, ...others] of told) {
    const name = id === "" ? nameless : printable(id);
    const line =
      others.length === 0
        ? `${name}: ${printable(message)}`
        : `${plural(others.length + 1, "document")}: ${printable(message)}; the first: ${name}`;
    await output.line(`${output.style("red", outcome)} ${line}`);
  }
  const left = failed - told.reduce((total, group) => total + group.length, 0);
  if (left > 0) await output.line(`${output.style("red", "failed")} ${count(left)} more`);
}
