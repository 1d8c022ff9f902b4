/**
 * Opening a backend behind its guard, and what a recovery asks of what is stored then.
 *
 * It settles nothing itself: whose commits are unknown, and which handles hear of it, `storage.ts` knows.
 */

import { equalBytes } from "../base/bytes.js";
import type { Env } from "../base/env.js";
import { isCoppiceError } from "../base/errors.js";
import type { Limits } from "../base/limits.js";
import type { BackendFactory } from "../contract/backend.js";
import { Guard } from "../contract/guard.js";
import type { Context } from "./context.js";
import { isWritten, type UnknownCommit } from "./document-log.js";
import { readCommitIds, readHead } from "./head.js";
import { type Observer, report } from "./observer.js";
import type { StoredBatch } from "./reader.js";

export async function openGuard(
  factory: BackendFactory,
  env: Env,
  limits: Limits,
  observer: Observer,
): Promise<Guard> {
  const backend = await factory.open(env);
  return new Guard(backend, env, limits, (commit) => report(env, () => observer.commit?.(commit)));
}

/** Whether a commit of unknown outcome was applied. `undefined`: nobody can tell any more. */
export async function wasApplied(
  context: Context,
  { id, clock, commitId }: UnknownCommit,
): Promise<boolean | undefined> {
  try {
    const isIts = ({ header }: StoredBatch) => equalBytes(header.commitId, commitId);
    const written = await isWritten(context, id, clock, isIts);
    if (written !== undefined) return written;
    const ids = await readCommitIds(context, id, await readHead(context, id));
    return typeof ids.lookup(commitId) === "number" ? true : undefined;
  } catch (error) {
    if (isCoppiceError(error, "CORRUPT")) return undefined;
    throw error;
  }
}
