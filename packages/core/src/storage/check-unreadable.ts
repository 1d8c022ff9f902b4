/**
 * What a check does where the backend itself cannot read: damage in its own files. It goes on around it,
 * from the other end, so that everything is listed that can be read, and says what lies between.
 *
 * Only `CORRUPT` is passed over; any other failure of the backend ends the check. Nothing is repaired here:
 * what cannot be read cannot be set aside.
 */

import { type CoppiceError, isCoppiceError } from "../base/errors.js";
import type { Entry, Key, ScanOptions } from "../contract/backend.js";
import { compareKeys } from "../contract/keys.js";
import type { Finding } from "./check-log.js";
import type { Context } from "./context.js";
import { openBatch } from "./reader.js";

export type Scan = (options: ScanOptions) => AsyncIterable<readonly Entry[]>;

/** Between which keys a scan could not read; absent: from the start, or to the end. */
export interface Gap {
  readonly after: Key | undefined;
  readonly before: Key | undefined;
  readonly cause: CoppiceError;
}

/**
 * Entries from the start to the first that cannot be read, then, in reverse, from the end to the last such.
 */
export async function* scanAround(
  scan: Scan,
  options: ScanOptions,
  onGap: (gap: Gap) => void,
): AsyncGenerator<readonly Entry[]> {
  let after: Key | undefined;
  // A page that fails fails as a whole: the second time each page is one entry.
  for (const size of [{}, { pageBytesMax: 1 }]) {
    try {
      for await (const page of scan({ ...options, ...size })) {
        const rest = page.filter(({ key }) => after === undefined || compareKeys(key, after) > 0);
        after = rest.at(-1)?.key ?? after;
        if (rest.length > 0) yield rest;
      }
      return;
    } catch (error) {
      if (!isCoppiceError(error, "CORRUPT")) throw error;
      if (size.pageBytesMax !== undefined) yield* fromTheEnd(scan, options, after, error, onGap);
    }
  }
}

async function* fromTheEnd(
  scan: Scan,
  options: ScanOptions,
  after: Key | undefined,
  cause: CoppiceError,
  onGap: (gap: Gap) => void,
): AsyncGenerator<readonly Entry[]> {
  let before: Key | undefined;
  try {
    for await (const page of scan({ ...options, reverse: true, pageBytesMax: 1 })) {
      const rest = page.filter(({ key }) => after === undefined || compareKeys(key, after) > 0);
      before = rest.at(-1)?.key ?? before;
      if (rest.length > 0) yield rest;
      if (rest.length < page.length) break;
    }
  } catch (error) {
    if (!isCoppiceError(error, "CORRUPT")) throw error;
  }
  onGap({ after, before, cause });
}

/** What can still be read of a document whose examination met damage in the backend's files. */
export async function examineUnreadable(
  context: Context,
  id: string,
  cause: CoppiceError,
  signal: AbortSignal | undefined,
): Promise<{ readonly finding: Finding; readonly events: number }> {
  const gaps: Gap[] = [];
  let events = 0;
  const scan: Scan = (options) => context.guard.scan({ space: "events", id }, options);
  for await (const page of scanAround(scan, signal === undefined ? {} : { signal }, (gap) =>
    gaps.push(gap),
  )) {
    for (const { key, value } of page) events += countOf(key, value);
  }
  const where = gaps.map(({ after, before }) => {
    const [from, to] = [after === undefined ? "the start" : `clock ${after[2]}`, before?.[2]];
    return `, from ${from} to ${to === undefined ? "the end" : `clock ${to}`} of its log`;
  });
  const message = `a part of the document cannot be read${where.join()}: ${cause.message}`;
  return { finding: { code: "unreadable", message }, events };
}

function countOf(key: Key, value: Uint8Array): number {
  try {
    const { clock, end } = openBatch(key, value);
    return end - clock;
  } catch (error) {
    if (!isCoppiceError(error)) throw error;
    return 0;
  }
}
