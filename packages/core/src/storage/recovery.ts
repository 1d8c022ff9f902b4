/**
 * Opening a backend behind its guard, and settling the commits whose outcome was unknown by what is stored.
 *
 * When to reopen, and which commits are unknown, `storage.ts` knows.
 */

import { equalBytes } from "../base/bytes.js";
import type { Env } from "../base/env.js";
import { isCoppiceError } from "../base/errors.js";
import type { Limits } from "../base/limits.js";
import type { Backend, BackendFactory } from "../contract/backend.js";
import { Guard } from "../contract/guard.js";
import type { Context } from "./context.js";
import { isWritten, type UnknownCommit } from "./document-log.js";
import type { OpenHandle } from "./handles.js";
import { readCommitIds, readHead } from "./head.js";
import { type Observer, report } from "./observer.js";
import type { SettledCommit } from "./options.js";
import type { StoredBatch } from "./reader.js";

export async function openGuard(
  factory: BackendFactory,
  env: Env,
  limits: Limits,
  observer: Observer,
): Promise<Guard> {
  const backend = await factory.open(env);
  try {
    return new Guard(backend, env, limits, (commit) => report(env, () => observer.commit?.(commit)));
  } catch (error) {
    // It is not as a backend must be, and may have a lock all the same.
    const { close } = (backend ?? {}) as Partial<Backend>;
    if (typeof close === "function")
      await new Promise<void>((done) => done(close.call(backend))).catch(() => undefined);
    throw error;
  }
}

/** Closes the backend and opens it again. While that cannot be done, calls reject with `POISONED` and why. */
export async function reopenGuard(context: Context, factory: BackendFactory): Promise<void> {
  const { guard, env, limits, observer } = context;
  // Whatever closing a failed backend reports, the reopened one decides what is true.
  await guard.retire().catch(() => undefined);
  try {
    context.guard = await openGuard(factory, env, limits, observer);
  } catch (error) {
    guard.stranded(error);
    throw error;
  }
}

/** Settles them, and tells the handles. What is settled, or what nobody can tell of, leaves the list. */
export async function settleCommits(
  context: Context,
  unknown: UnknownCommit[],
  handles: Iterable<OpenHandle>,
): Promise<readonly SettledCommit[]> {
  const settled: SettledCommit[] = [];
  for (let commit = unknown[0]; commit !== undefined; commit = unknown[0]) {
    const { id, clock, end, commitId } = commit;
    const applied = await wasApplied(context, commit);
    unknown.shift();
    if (applied === undefined) continue;
    settled.push({ id, commitId: new Uint8Array(commitId), clock, end, applied });
    for (const handle of handles) {
      if (handle.id === id) handle.settle(commitId, applied ? end : undefined);
    }
  }
  return settled;
}

/** Whether a commit of unknown outcome was applied. `undefined`: nobody can tell any more. */
async function wasApplied(
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
