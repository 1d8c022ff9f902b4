/**
 * What abstract-level and classic-level report → the errors of the contract.
 *
 * Matching is by `code`. The message is read in one case only: LevelDB reports a store that has lost a file
 * as an ordinary I/O error, and "wait and repeat" would be the wrong advice for it.
 */

import { CoppiceError } from "coppice";

/** The code of an error, or of the one that caused it: abstract-level wraps what `open` met. */
export function codeOf(error: unknown): string | undefined {
  const { code, cause } = (error ?? {}) as { code?: unknown; cause?: unknown };
  if (cause !== undefined && cause !== null && code === "LEVEL_DATABASE_NOT_OPEN") {
    return codeOf(cause) ?? code;
  }
  return typeof code === "string" ? code : undefined;
}

/** `CORRUPT`, `CLOSED` or `UNAVAILABLE`; nothing was written. */
export function readFailure(error: unknown): CoppiceError {
  switch (codeOf(error)) {
    case "LEVEL_CORRUPTION":
      return new CoppiceError("CORRUPT", "LevelDB found damage while reading", { cause: error });
    case "LEVEL_DATABASE_NOT_OPEN":
    case "LEVEL_ITERATOR_NOT_OPEN":
      return new CoppiceError("CLOSED", "the database is closed", { cause: error });
    default:
      return new CoppiceError("UNAVAILABLE", "the database could not be read", { cause: error });
  }
}

/** `LOCKED`, `CORRUPT` or `UNAVAILABLE`. `holdsStore`: the directory had a store before it was opened. */
export function openFailure(error: unknown, location: string, holdsStore: boolean): CoppiceError {
  const code = codeOf(error);
  const options = { cause: error, details: { location } };
  if (code === "LEVEL_LOCKED") return locked(location, error);
  if (code === "LEVEL_CORRUPTION" || (code === "LEVEL_IO_ERROR" && holdsStore && missesFile(error))) {
    return new CoppiceError("CORRUPT", "the LevelDB directory is damaged and was not opened", options);
  }
  return new CoppiceError("UNAVAILABLE", "the LevelDB directory could not be opened", options);
}

export function locked(location: string, cause?: unknown): CoppiceError {
  return new CoppiceError(
    "LOCKED",
    "the LevelDB directory has one owner at a time, and somebody has it open: close that storage or " +
      "process, or let it do the work",
    { cause, details: { location } },
  );
}

function missesFile(error: unknown): boolean {
  const { message, cause } = (error ?? {}) as { message?: unknown; cause?: unknown };
  if (cause !== undefined && cause !== null) return missesFile(cause);
  return typeof message === "string" && message.includes("No such file");
}
