/**
 * Group commit: while one commit is on its way to the disk, later ones gather and go down together as one
 * write and one sync.
 *
 * A backend that takes the next commit ahead gets a group as soon as nobody else is about to join it, and
 * prepares it while the disk works on the one before.
 *
 * Invariants:
 * - one backend commit is in flight at a time, and at most one more is handed over ahead;
 * - two members of a group, or of two that are handed over, never touch the same document, so no member's
 *   expectation can depend on another;
 * - members of one document are committed in the order they came;
 * - a conflict fails only the member that expected in vain; any other failure fails every member.
 */

import type { Env } from "../base/env.js";
import { CoppiceError, isCoppiceError } from "../base/errors.js";
import { Gathering } from "../base/gathering.js";
import type { Limits } from "../base/limits.js";
import type { Batch, Deletion, Entry, Expectation, Key } from "./backend.js";
import { isRangeDeletion, keyName } from "./keys.js";

interface Member {
  readonly batch: Batch;
  /** Its document, as nearly always, and the others. No id is empty: that stands for none. */
  readonly id: string;
  readonly others: readonly string[];
  readonly bytes: number;
  readonly operations: number;
  readonly done: (now: number) => void;
  readonly failed: (error: unknown) => void;
}

export class GroupCommit {
  readonly #commit: (batch: Batch) => Promise<void>;
  readonly #gathering: Gathering;
  readonly #limits: Limits;
  #queue: Member[] = [];
  #draining = false;
  /** Groups that are handed over, their members, and the documents that they touch. */
  #handed = 0;
  #underway = 0;
  readonly #touched = new Set<string>();
  #idle: (() => void)[] = [];

  /** `ahead`: the backend takes one commit more while one is under way. */
  constructor(commit: (batch: Batch) => Promise<void>, env: Env, limits: Limits, ahead = false) {
    this.#commit = commit;
    this.#limits = limits;
    const next = () => {
      if (this.#handed === 1) void this.#drain();
    };
    this.#gathering = new Gathering(env, () => void this.#drain(), ahead ? next : undefined);
  }

  /**
   * Calls back once, when `Backend.commit` would resolve or reject for this batch alone; `done` with the time
   * (`env.elapsed`). Not by promises, of which each append would need several.
   */
  submit(batch: Batch, done: (now: number) => void, failed: (error: unknown) => void): void {
    this.#queue.push(memberOf(batch, done, failed));
    if (this.#draining) {
      this.#gathering.joined(this.#queue.length, this.#underway);
      return;
    }
    this.#draining = true;
    this.#gathering.wait();
  }

  /** Resolves when nothing is queued or in flight. */
  idle(): Promise<void> {
    if (!this.#draining) return Promise.resolve();
    return new Promise((resolve) => this.#idle.push(resolve));
  }

  async #drain(): Promise<void> {
    const group = this.#takeGroup();
    if (group.length === 0) return;
    this.#handed++;
    this.#underway += group.length;
    const committed = await this.#commitGroup(group);
    const behind = this.#queue.length + this.#underway - group.length;
    const now = committed.length === 0 ? 0 : this.#gathering.done(committed.length, behind);
    this.#handed--;
    this.#underway -= group.length;
    if (this.#handed === 0) this.#touched.clear();
    else for (const member of group) forget(this.#touched, member);
    if (this.#handed > 0) this.#gathering.began();
    else if (this.#queue.length === 0) this.#draining = false;
    else this.#gathering.next();
    // Those who are called back may submit again.
    const idle = this.#draining ? [] : this.#idle.splice(0);
    for (const { done } of committed) call(done, now);
    for (const resolve of idle) resolve();
  }

  /** What goes in one commit; nothing, when all that waits must come after what is under way. */
  #takeGroup(): Member[] {
    const group: Member[] = [];
    const rest: Member[] = [];
    const taken = this.#touched;
    let behind: Set<string> | undefined;
    let bytes = 0;
    let operations = 0;
    for (const member of this.#queue) {
      const fits =
        group.length === 0 ||
        (bytes + member.bytes <= this.#limits.groupBytesMax &&
          operations + member.operations <= this.#limits.groupOperationsMax);
      if (fits && !meets(taken, member) && (behind === undefined || !meets(behind, member))) {
        note(taken, member);
        group.push(member);
        bytes += member.bytes;
        operations += member.operations;
      } else {
        behind ??= new Set();
        note(behind, member);
        rest.push(member);
      }
    }
    this.#queue = rest;
    return group;
  }

  /** The members whose commit it was; the others were told why not. */
  async #commitGroup(group: Member[]): Promise<readonly Member[]> {
    while (group.length > 0) {
      try {
        await this.#commit(group.length === 1 ? group[0]!.batch : merge(group));
        break;
      } catch (error) {
        const losers = isCoppiceError(error, "COMMIT_CONFLICT")
          ? group.filter((member) => expects(member.batch, error.details.key as Key))
          : group;
        for (const { failed } of losers.length === 0 ? group : losers) call(failed, error);
        group = losers.length === 0 ? [] : group.filter((member) => !losers.includes(member));
      }
    }
    return group;
  }
}

/** The error of a commit whose expectation failed. */
export function commitConflict(key: Key): CoppiceError {
  return new CoppiceError("COMMIT_CONFLICT", "another writer changed what this commit relied on", {
    details: { key },
  });
}

/** One that throws holds up nobody else, and is as uncaught as in a promise reaction. */
function call<Argument>(back: (argument: Argument) => void, argument: Argument): void {
  try {
    back(argument);
  } catch (error) {
    void Promise.reject(error);
  }
}

function memberOf(batch: Batch, done: (now: number) => void, failed: (error: unknown) => void): Member {
  const { put = NONE, delete: remove = NONE, expect = NONE } = batch;
  let bytes = 0;
  for (const { value } of put) bytes += value.length;
  const id = put[0]?.key[1] ?? "";
  let alone = put.length > 0 && remove.length === 0;
  for (const { key } of put) if (key[1] !== id) alone = false;
  for (const { key } of expect) if (key[1] !== id) alone = false;
  const others = alone ? NONE : othersOf(id, put, remove, expect);
  return { batch, id, others, bytes, operations: put.length + remove.length, done, failed };
}

const NONE: readonly never[] = [];

function othersOf(
  id: string,
  put: readonly Entry[],
  remove: readonly Deletion[],
  expect: readonly Expectation[],
): readonly string[] {
  const ids = new Set<string>();
  for (const { key } of put) ids.add(key[1]);
  for (const deletion of remove) ids.add(isRangeDeletion(deletion) ? deletion.id : deletion[1]);
  for (const { key } of expect) ids.add(key[1]);
  ids.delete(id);
  return [...ids];
}

function meets(ids: ReadonlySet<string>, { id, others }: Member): boolean {
  return ids.has(id) || others.some((other) => ids.has(other));
}

function note(ids: Set<string>, { id, others }: Member): void {
  if (id !== "") ids.add(id);
  for (const other of others) ids.add(other);
}

function forget(ids: Set<string>, { id, others }: Member): void {
  ids.delete(id);
  for (const other of others) ids.delete(other);
}

function merge(group: readonly Member[]): Batch {
  const put: Entry[] = [];
  const remove: Deletion[] = [];
  const expect: Expectation[] = [];
  for (const { batch } of group) {
    // One by one: to spread a list costs more than the one or two that it holds.
    for (const entry of batch.put ?? NONE) put.push(entry);
    for (const deletion of batch.delete ?? NONE) remove.push(deletion);
    for (const expectation of batch.expect ?? NONE) expect.push(expectation);
  }
  return { put, delete: remove, expect };
}

function expects(batch: Batch, key: Key | undefined): boolean {
  if (key === undefined) return false;
  const name = keyName(key);
  return (batch.expect ?? []).some((expectation) => keyName(expectation.key) === name);
}
