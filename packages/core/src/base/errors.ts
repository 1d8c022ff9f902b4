/**
 * One error class. `code` says what happened and is stable between majors; `kind` says what to do next.
 *
 * Programming mistakes (a wrong type, a broken assertion) are `TypeError`s, not these. Absence is
 * `undefined`. An aborted call rejects with the reason of its signal. `docs/errors.md` has a heading for each
 * code.
 */

/**
 * What the caller should do: `invalid` correct the input; `conflict` reload, decide, retry; `busy` wait and
 * repeat; `unknown` call `recover()` and compare; `closed` open a new handle; `corrupt` run `check`;
 * `unsupported` upgrade or choose another backend or model. Only `unknown` may have written something.
 */
export type ErrorKind = "invalid" | "conflict" | "busy" | "unknown" | "closed" | "corrupt" | "unsupported";

const KINDS = {
  ID_INVALID: "invalid",
  EVENT_INVALID: "invalid",
  EVENT_TOO_LARGE: "invalid",
  BATCH_EMPTY: "invalid",
  BATCH_TOO_LARGE: "invalid",
  COMMIT_ID_INVALID: "invalid",
  ARGUMENT_INVALID: "invalid",
  SNAPSHOT_TOO_LARGE: "invalid",
  EXPORT_INVALID: "invalid",
  TAG_UNKNOWN: "invalid",
  HEAD_CONFLICT: "conflict",
  COMMIT_CONFLICT: "conflict",
  DELETED: "conflict",
  TAG_EXISTS: "conflict",
  EXISTS: "conflict",
  LOCKED: "busy",
  BUSY: "busy",
  UNAVAILABLE: "busy",
  STORE_FULL: "busy",
  OUTCOME_UNKNOWN: "unknown",
  CLOSED: "closed",
  POISONED: "closed",
  CORRUPT: "corrupt",
  TRIMMED: "unsupported",
  FORMAT_UNSUPPORTED: "unsupported",
  MODEL_UNKNOWN: "unsupported",
  STATE_FORMAT_UNSUPPORTED: "unsupported",
  TRAIT_MISSING: "unsupported",
  READ_ONLY: "unsupported",
} as const;

/** See `docs/errors.md`, which has a heading for each. */
export type ErrorCode = keyof typeof KINDS;

export const ERROR_CODES: readonly ErrorCode[] = Object.keys(KINDS) as ErrorCode[];

export type ErrorDetails = Readonly<Record<string, unknown>>;

const BRAND = Symbol.for("coppice.error");

export class CoppiceError extends Error {
  override readonly name = "CoppiceError";
  readonly code: ErrorCode;
  readonly kind: ErrorKind;
  /** Flat facts: `id`, `key`, `limit`, `actual` … Not stable between versions. */
  readonly details: ErrorDetails;

  constructor(code: ErrorCode, message: string, options: { cause?: unknown; details?: ErrorDetails } = {}) {
    const facts = Object.entries(options.details ?? {}).map(([name, value]) => `${name}=${show(value)}`);
    const text = facts.length === 0 ? message : `${message} (${facts.join(", ")})`;
    super(text, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.kind = KINDS[code];
    this.details = options.details ?? {};
    Object.defineProperty(this, BRAND, { value: true });
  }
}

/** True for a `CoppiceError`, also one of another copy of this package; with `code`, only for that code. */
export function isCoppiceError(error: unknown, code?: ErrorCode): error is CoppiceError {
  if (typeof error !== "object" || error === null || !(BRAND in error)) return false;
  return code === undefined || (error as { code?: unknown }).code === code;
}

function show(value: unknown): string {
  if (typeof value === "string")
    return JSON.stringify(value.length > 200 ? `${value.slice(0, 200)}…` : value);
  if (Array.isArray(value)) return `[${value.map(show).join(",")}]`;
  return String(value);
}

/** What an error says, to stand behind what was refused: most logs hold the message alone. */
export function said(error: unknown): string {
  return error instanceof Error && error.message !== "" ? `: ${error.message}` : "";
}
