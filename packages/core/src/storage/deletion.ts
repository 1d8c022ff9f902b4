/**
 * Removing a document: `delete` leaves a tombstone under the id, `erase` one under a hash of it.
 *
 * | step  | commit                                              | a crash before it leaves            |
 * | ----- | --------------------------------------------------- | ----------------------------------- |
 * | bury  | meta becomes a tombstone with the clock             | the document                        |
 * | sweep | what the document had stored goes, slice by slice   | a deleted document, and garbage     |
 * | wipe  | erase: everything else under the id goes as well    | the same                            |
 * | hide  | erase: meta gives way to the record under the hash  | a deleted document without records  |
 *
 * A claim found in the place of a document is taken from its lander first: its next slice then conflicts, and
 * nothing is staged behind the wipe.
 *
 * Invariants: clocks are never used again for an id; the tombstone is put only if nobody appended meanwhile.
 * A document whose end or meta is damaged goes as well, with a clock behind all that can have been used.
 * Each call may be repeated after a crash at any step, and then finishes what was begun. The index of the
 * tags goes with the tombstone: no tag outlives its document.
 */

import { toHex } from "../base/bytes.js";
import { CoppiceError, isCoppiceError } from "../base/errors.js";
import type { Entry, Expectation } from "../contract/backend.js";
import type { Context } from "./context.js";
import { COPIED_SPACE, copiedKey } from "./copy-mark.js";
import type { DocumentLog } from "./document-log.js";
import type { Handles } from "./handles.js";
import { emptyHead, type Head } from "./head.js";
import { emptyMeta, eventsKey, identityOf, type Meta, metaKey, sealMeta, unsealMeta } from "./meta.js";
import { reclaimDueEntry } from "./reclaim-due.js";
import { sweep } from "./snapshots.js";
import { hasRecords, SPACES } from "./stages.js";
import { taggedClock, tagsKey } from "./tag-index.js";
import { erasedKey, readErased, sealErased } from "./tombstone.js";

export interface EraseOptions {
  /**
   * `false`: leave the deleted bytes in the backend's files, to reclaim them once for many documents with
   * `compactAll({ reclaim: true })`. Default `true`.
   */
  readonly reclaim?: boolean;
}

export interface EraseResult {
  /** There was a document, not only what is left of one. */
  readonly existed: boolean;
  /** Keys that were deleted now. */
  readonly keys: number;
}

/** Where a removal works. `lane` keeps it apart from snapshots and compactions of the document. */
export interface Removal {
  readonly context: Context;
  readonly log: DocumentLog;
  readonly lane: <T>(task: () => Promise<T>) => Promise<T>;
  /** Who has loaded the document. */
  readonly handles: Handles;
}

type AssertMay = (head: Head, meta: Meta) => Promise<readonly Expectation[]>;

const RACES_MAX = 64;

/** Whether there was a document. See `DocumentStorage.delete`. */
export function deleteDocument(removal: Removal): Promise<boolean> {
  return removal.log.hold(() => remove(removal));
}

async function remove({ context, log, lane, handles }: Removal): Promise<boolean> {
  for (;;) {
    const guess = (error: unknown) => headBehindDamage(context, log.id, error);
    const outcome = await log.exclusively(
      async (head) => bury(context, log, await headOfRest(context, log.id, head)),
      guess,
    );
    if (outcome === "conflict") continue;
    if (outcome === undefined) return false;
    const { meta, metaBytes, existed, identity, reached } = outcome;
    log.announce(reached);
    if (existed) handles.bury(log.id, identity);
    await lane(async () => {
      // What it had may lie behind its clock, which falls with a repair.
      if (existed) await wipe(context, log.id, SPACES, metaBytes);
      else if (meta.incoming === undefined) await sweep(context, log.id, meta, metaBytes);
      else await clearClaim(context, log.id, { meta, metaBytes }).finally(() => log.forget());
    });
    return existed;
  }
}

/** How a copy erases in its target what was erased at its source. */
export interface Carried {
  /** Throws where the document is to stay, and gives what must still be so when it goes. */
  readonly assertMay: AssertMay;
  /** What goes with the commit that ends it. */
  readonly beside: () => readonly Entry[];
  /** At which the source has erased it. */
  readonly clock: number;
}

/** See `DocumentStorage.erase`; reclaiming is the caller's. */
export function eraseDocument(removal: Removal, carried?: Carried): Promise<EraseResult> {
  return removal.log.hold(() => removeAll(removal, carried));
}

async function removeAll(
  { context, log, lane, handles }: Removal,
  carried: Carried | undefined,
): Promise<EraseResult> {
  let existed = false;
  let keys = 0;
  // Who asks whether it may go must see what is there.
  const guess = carried ? undefined : (error: unknown) => headBehindDamage(context, log.id, error);
  for (let race = 0; race < RACES_MAX; race++) {
    const buried = await log.exclusively(async (seen) => {
      const head = carried ? seen : await headOfRest(context, log.id, seen);
      const isThere = head.meta !== undefined && head.meta.deleted === undefined;
      return bury(context, log, head, isThere ? await carried?.assertMay(head, head.meta!) : []);
    }, guess);
    if (buried === "conflict") continue;
    existed ||= buried?.existed === true;
    if (buried !== undefined) log.announce(buried.reached);
    if (buried?.existed) handles.bury(log.id, buried.identity);
    const wiped = await lane(() => wipe(context, log.id, EVERY_SPACE, buried?.metaBytes));
    keys += wiped.keys;
    if (!wiped.done) continue;
    if (buried === undefined) return { existed, keys };
    const hidden = await hide(context, log, buried, carried);
    if (hidden) return { existed, keys: keys + 1 };
  }
  throw new CoppiceError("COMMIT_CONFLICT", "others kept creating the document anew while it was erased", {
    details: { id: log.id },
  });
}

/** Everything but meta, which goes last. */
export const EVERY_SPACE: readonly string[] = [...SPACES, COPIED_SPACE, "quarantine"];

/**
 * Deletes all keys of an id in these spaces, in slices, for as long as its meta is this one. `done: false`:
 * meta has changed meanwhile.
 */
export async function wipe(
  context: Context,
  id: string,
  spaces: readonly string[],
  metaBytes: Uint8Array | undefined,
): Promise<{ readonly keys: number; readonly done: boolean }> {
  const expect = [{ key: metaKey(id), value: metaBytes }];
  let keys = 0;
  for (const space of spaces) {
    for await (const page of context.guard.scan({ space, id }, { values: false })) {
      for (let start = 0; start < page.length; start += context.limits.sweepKeysMax) {
        const slice = page.slice(start, start + context.limits.sweepKeysMax).map(({ key }) => key);
        try {
          await context.guard.commit({ delete: slice, expect });
        } catch (error) {
          if (isCoppiceError(error, "COMMIT_CONFLICT")) return { keys, done: false };
          throw error;
        }
        keys += slice.length;
      }
    }
  }
  return { keys, done: true };
}

/**
 * Gives up a document that was being brought in: deletes what is staged, and leaves the id as it was before.
 * Does nothing when the claim is not this one any more.
 */
export async function abandon(
  context: Context,
  id: string,
  meta: Meta,
  metaBytes: Uint8Array,
): Promise<void> {
  const taken = await takeClaim(context, id, { meta, metaBytes });
  if (taken !== undefined) await clearClaim(context, id, taken);
}

interface Claim {
  readonly meta: Meta;
  readonly metaBytes: Uint8Array;
}

/** Begins the nonce of a claim that nobody lands under. */
const TAKEN = "00000000";

/**
 * Takes the claim from whoever lands under it, so that nothing more is staged. One that was taken before
 * stays as it is: all who remove it work under the same bytes. `undefined`: another writer was faster.
 */
async function takeClaim(context: Context, id: string, claim: Claim): Promise<Claim | undefined> {
  const { incoming } = claim.meta;
  if (incoming === undefined || incoming.nonce.startsWith(TAKEN)) return claim;
  const { env, guard } = context;
  const nonce = `${TAKEN}${toHex(env.random(4))}`;
  const meta: Meta = { ...claim.meta, incoming: { ...incoming, nonce } };
  const key = metaKey(id);
  const value = sealMeta(id, meta, env.now());
  try {
    await guard.commit({ put: [{ key, value }], expect: [{ key, value: claim.metaBytes }] });
    return { meta, metaBytes: value };
  } catch (error) {
    if (isCoppiceError(error, "COMMIT_CONFLICT")) return undefined;
    throw error;
  }
}

/**
 * Nothing need be left of a claim. Where it has replaced a document, a tombstone stays: it tells those who
 * have loaded that one, whoever they are, from what lands there next.
 */
function isTraceless({ incoming, landed }: Meta): boolean {
  return incoming?.fresh === true && landed === undefined;
}

/** Deletes what is staged under a claim that was taken, and puts back what was there before it. */
async function clearClaim(context: Context, id: string, { meta, metaBytes }: Claim): Promise<void> {
  if (!(await wipe(context, id, [...SPACES, COPIED_SPACE], metaBytes)).done) return;
  const key = metaKey(id);
  const record = erasedKey(id);
  const erased = await context.guard.get(record);
  // Over an erased id: the record of it tells as much as a tombstone would, and not what the id is.
  const wasErased = erased !== undefined && meta.incoming?.fresh === true && meta.deleted!.clock > 0;
  const isGone = wasErased || isTraceless(meta);
  const before = { ...meta, incoming: undefined };
  const put = isGone ? [] : [{ key, value: sealMeta(id, before, context.env.now()) }];
  // The source may erase what was staged here, and a copy would find that this id was erased already.
  if (erased !== undefined) put.push(reclaimDueEntry(context));
  const expect = [
    { key, value: metaBytes },
    { key: record, value: erased },
  ];
  try {
    await context.guard.commit({ put, delete: isGone ? [key] : [], expect });
  } catch (error) {
    // Whoever was faster has taken over what was staged.
    if (!isCoppiceError(error, "COMMIT_CONFLICT")) throw error;
  }
}

/**
 * Meta gives way to the record under the hash; where there was one already the later clock stays. False when
 * another writer was faster.
 */
async function hide(
  context: Context,
  log: DocumentLog,
  { meta, metaBytes }: Claim,
  carried: Carried | undefined,
): Promise<boolean> {
  const key = metaKey(log.id);
  const erased = erasedKey(log.id);
  const known = await readErased(context.guard, erased);
  const reached = Math.max(meta.deleted!.clock, known?.clock ?? 0, carried?.clock ?? 0);
  // Of one that had no event a copy could not tell this erasure from the one before it.
  const clock = carried === undefined && reached === meta.erased ? reached + 1 : reached;
  const commitFloor = Math.max(meta.commitFloor, known?.commitFloor ?? 0);
  const record = sealErased(erased, { clock, time: meta.deleted!.time, commitFloor });
  // Under an id that was never used, or erased before, a document was only staged: nothing new to remember.
  const put = isTraceless(meta) ? [] : [{ key: erased, value: record }];
  try {
    const expect = [
      { key, value: metaBytes },
      { key: erased, value: known?.bytes },
    ];
    await context.guard.commit({ put: [...put, ...(carried?.beside() ?? [])], delete: [key], expect });
    return true;
  } catch (error) {
    if (isCoppiceError(error, "COMMIT_CONFLICT")) return false;
    throw error;
  } finally {
    log.forget();
  }
}

/**
 * Of a document that has lost its meta, of which that of an earlier life may have come to light: what is left
 * of it has to go as well. And what a deletion that was cut off had behind its clock.
 */
async function headOfRest(context: Context, id: string, head: Head): Promise<Head> {
  const { meta, metaBytes } = head;
  if (meta !== undefined && (meta.deleted === undefined || meta.incoming !== undefined)) return head;
  // The sweep of a tombstone takes what lies before it.
  const clock = metaBytes && meta?.deleted?.clock;
  if (!(await hasRecords(context, id, clock))) return head;
  return headBehind(context, id, meta && { ...meta, deleted: undefined }, metaBytes);
}

/** For a document that is to go, whose end or meta cannot be read. Rejects with `error` for others. */
async function headBehindDamage(context: Context, id: string, error: unknown): Promise<Head> {
  if (!isCoppiceError(error, "CORRUPT")) throw error;
  const metaBytes = await context.guard.get(metaKey(id));
  const known = metaBytes && readable(id, metaBytes);
  // Then it is not its end that is damaged.
  if (known?.deleted !== undefined) throw error;
  return headBehind(context, id, known, metaBytes);
}

/**
 * A head that is not before any clock that was used, and no commit id is told from one that was forgotten.
 * What is left need not tell them: of a damaged tombstone nothing does, and of batches that are gone. But no
 * log has had an event in each ms since 1970, and one that begins here is passed by that number as well.
 */
async function headBehind(
  context: Context,
  id: string,
  known: Meta | undefined,
  metaBytes: Uint8Array | undefined,
): Promise<Head> {
  const { guard, env, limits } = context;
  const now = env.now();
  const clocks = [now, known?.base ?? 0, known?.oldest ?? 0, known?.snapshot?.clock ?? 0];
  clocks.push(await taggedClock(guard, id), (await readErased(guard, erasedKey(id)))?.clock ?? 0);
  for (const [space, countMax] of [
    ["events", limits.batchEventsMax],
    ["snapshot", 0],
  ] as const) {
    const range = { space, id };
    for await (const [entry] of guard.scan(range, { reverse: true, limit: 1, values: false }))
      if (entry !== undefined) clocks.push(entry.key[2]! + countMax);
  }
  const meta = known ?? emptyMeta(env, context.defaultModel.name, now);
  const end = { clock: Math.max(...clocks), logBytes: 0, time: now, crc: 0, chosenTime: now };
  return { ...emptyHead(meta, metaBytes, 0), ...end };
}

function readable(id: string, metaBytes: Uint8Array): Meta | undefined {
  try {
    return unsealMeta(id, metaBytes);
  } catch (error) {
    if (isCoppiceError(error, "CORRUPT")) return undefined;
    throw error;
  }
}

type Buried = Claim & {
  readonly existed: boolean;
  /** What told it from others under its id. */
  readonly identity: string;
  /** The clock that the log surely had. */
  readonly reached: number;
};

/** Puts the tombstone, or takes the claim. `undefined`: no meta; `"conflict"`: another writer was faster. */
export async function bury(
  context: Context,
  log: DocumentLog,
  head: Head,
  expect: readonly Expectation[] = [],
): Promise<Buried | "conflict" | undefined> {
  const { meta, metaBytes } = head;
  if (meta === undefined) return undefined;
  const identity = identityOf(meta);
  // Of an erased id, and of a document that has lost its meta, there is none.
  if (metaBytes === undefined && meta.deleted !== undefined) return undefined;
  if (meta.incoming !== undefined && metaBytes !== undefined) {
    const taken = await takeClaim(context, log.id, { meta, metaBytes }).finally(() => log.forget());
    return taken === undefined ? "conflict" : { ...taken, existed: false, identity, reached: meta.base };
  }
  if (meta.deleted !== undefined && metaBytes !== undefined)
    return { meta, metaBytes, existed: false, identity, reached: meta.base };
  const time = Math.max(context.env.now(), head.time);
  const tombstone: Meta = {
    ...meta,
    // With both it would look like the place of a copy that was given up, whose end a copy does not carry.
    landed: head.clock === 0 ? undefined : meta.landed,
    base: head.clock,
    oldest: head.clock,
    snapshot: undefined,
    previous: undefined,
    archive: [],
    commits: [],
    // What was remembered is forgotten now, not "never written": a repeated append stays unknown.
    commitFloor: Math.max(meta.commitFloor, head.chosenTime),
    deleted: { clock: head.clock, time },
  };
  const value = sealMeta(log.id, tombstone, time);
  try {
    await context.guard.commit({
      put: [{ key: metaKey(log.id), value }],
      delete: [tagsKey(log.id), copiedKey(log.id)],
      expect: [
        { key: metaKey(log.id), value: metaBytes },
        { key: eventsKey(log.id, head.clock), value: undefined },
        ...expect,
      ],
    });
  } catch (error) {
    if (isCoppiceError(error, "COMMIT_CONFLICT")) return "conflict";
    throw error;
  } finally {
    // Not before the commit: who asks beside it would keep the head of a document that is gone.
    log.forget();
  }
  const reached = head.last === undefined ? meta.base : head.clock;
  return { meta: tombstone, metaBytes: value, existed: true, identity, reached };
}
