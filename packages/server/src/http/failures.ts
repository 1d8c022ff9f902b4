/**
 * How a failure is answered: a status, a code, its kind and a sentence, as JSON; never a stack or a cause.
 *
 * Invariant: a code has one kind, whoever finds the failure: that of the library, or of the command line.
 *
 * | kind of the error                      | status                                                |
 * | -------------------------------------- | ----------------------------------------------------- |
 * | `invalid`                              | 400                                                   |
 * | `conflict`                             | 409; `DELETED`: 410                                   |
 * | `busy`                                 | 503 with `Retry-After`; a running compaction: 409     |
 * | `closed`, `unknown`                    | 503                                                   |
 * | `unsupported`                          | 422; `TRIMMED`: 410                                   |
 * | `TAG_UNKNOWN`                          | 404                                                   |
 * | `corrupt`                              | 500                                                   |
 * | anything else                          | 500 `INTERNAL`, reported to `onError`                 |
 */

import { type CoppiceError, type ErrorKind, isCoppiceError } from "coppice";
import type { Failed, FailedAnswer } from "./answers.js";

export type FailureStatus = 400 | 401 | 403 | 404 | 405 | 409 | 410 | 413 | 422 | 500 | 503;

/** Codes that the HTTP side itself finds, some of them also codes of the library. */
export type HttpCode =
  | "ID_INVALID"
  | "ARGUMENT_INVALID"
  | "TAG_UNKNOWN"
  | "METHOD_UNKNOWN"
  | "BODY_TOO_LARGE"
  | "BODY_INCOMPLETE"
  | "BUSY"
  | "TRAIT_MISSING"
  | "NOT_FOUND"
  | "UNAUTHENTICATED"
  | "FORBIDDEN"
  | "ORIGIN_REFUSED"
  | "REFUSED"
  | "INTERNAL";

const KINDS: Record<HttpCode, ErrorKind | "not-found" | "forbidden" | "failed"> = {
  ID_INVALID: "invalid",
  ARGUMENT_INVALID: "invalid",
  TAG_UNKNOWN: "invalid",
  METHOD_UNKNOWN: "invalid",
  BODY_TOO_LARGE: "invalid",
  BODY_INCOMPLETE: "invalid",
  BUSY: "busy",
  TRAIT_MISSING: "unsupported",
  NOT_FOUND: "not-found",
  UNAUTHENTICATED: "forbidden",
  FORBIDDEN: "forbidden",
  ORIGIN_REFUSED: "forbidden",
  REFUSED: "failed",
  INTERNAL: "failed",
};

/** A failure that the HTTP side itself finds. */
export class HttpFailure extends Error {
  readonly status: FailureStatus;
  readonly code: HttpCode;

  constructor(status: FailureStatus, code: HttpCode, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export interface Answer {
  readonly status: FailureStatus;
  readonly body: FailedAnswer;
  /** It is nobody's fault but ours. */
  readonly isInternal: boolean;
}

const STATUS: Record<ErrorKind, FailureStatus> = {
  invalid: 400,
  conflict: 409,
  busy: 503,
  unknown: 503,
  closed: 503,
  corrupt: 500,
  unsupported: 422,
};

export function answerOf(error: unknown): Answer {
  if (error instanceof HttpFailure) {
    const { status, code, message } = error;
    return { status, body: { error: failed(code, message) }, isInternal: false };
  }
  if (!isCoppiceError(error))
    return { status: 500, body: { error: failed("INTERNAL", "internal error") }, isInternal: true };
  const { code, kind, message } = error;
  return {
    status: statusOf(error),
    body: { error: { code, kind, message } },
    isInternal: kind === "corrupt",
  };
}

export function failed(code: HttpCode, message: string): Failed {
  return { code, kind: KINDS[code], message };
}

function statusOf({ code, kind, details }: CoppiceError): FailureStatus {
  if (code === "DELETED" || code === "TRIMMED") return 410;
  if (code === "TAG_UNKNOWN") return 404;
  if (code === "BUSY" && details.compacting === true) return 409;
  return STATUS[kind];
}
