/**
 * How a failure is answered: a status, a code and a sentence, as JSON; never a stack or a cause.
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

export type FailureStatus = 400 | 401 | 403 | 404 | 405 | 409 | 410 | 413 | 422 | 500 | 503;

/** A failure that the HTTP side itself finds. */
export class HttpFailure extends Error {
  readonly status: FailureStatus;
  readonly code: string;

  constructor(status: FailureStatus, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export interface Answer {
  readonly status: FailureStatus;
  readonly body: {
    readonly error: { readonly code: string; readonly kind: string; readonly message: string };
  };
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
    return { status, body: { error: { code, kind: "http", message } }, isInternal: false };
  }
  if (!isCoppiceError(error)) {
    const body = { error: { code: "INTERNAL", kind: "internal", message: "internal error" } };
    return { status: 500, body, isInternal: true };
  }
  const { code, kind, message } = error;
  return {
    status: statusOf(error),
    body: { error: { code, kind, message } },
    isInternal: kind === "corrupt",
  };
}

function statusOf({ code, kind, details }: CoppiceError): FailureStatus {
  if (code === "DELETED" || code === "TRIMMED") return 410;
  if (code === "TAG_UNKNOWN") return 404;
  if (code === "BUSY" && details.compacting === true) return 409;
  return STATUS[kind];
}
