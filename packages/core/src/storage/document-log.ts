/**
 * The append path of one document: a queue, one commit in flight, everything that gathers meanwhile in the
 * next. That may be laid out while the disk works, on the head that the one in flight will leave.
 *
 * Invariants:
 * - one commit of this document is in flight; plain appends that gather meanwhile become ONE batch; an append
 *   with a commit id or `info` of its own is a batch of its own in the same commit;
 * - a commit puts batches only at the head it read, expecting the next batch key to be absent and meta to be
 *   unchanged; so it can neither overwrite nor leave a gap;
 * - what is laid out ahead goes to the backend only after the commit before it has succeeded, and unless it
 *   does its members go back to the queue;
 * - a promise resolves after the commit that holds its events; when a commit fails, everything queued behind
 *   it fails;
 * - whatever is wrong with one append rejects that append alone, before anything is written.
 */

import { equalBytes, toHex } from "../base/bytes.js";
import { CoppiceError, isCoppiceError } from "../base/errors.js";
import { Gathering } from "../base/gathering.js";
import type { Guard } from "../contract/guard.js";
import type { AnyModel } from "../contract/model.js";
import { type Context, observe } from "./context.js";
import { type Head, readCommitIds, readHead } from "./head.js";
import { eventsKey, identityOf, metaKey, unsealMeta } from "./meta.js";
import { Member, Plan } from "./plan.js";
import { openBatch, type StoredBatch } from "./reader.js";
import { erasedKey, readErased } from "./tombstone.js";

export interface AppendResult {
  /** The clock after the last of these events. */
  readonly clock: number;
  /** Names this state of the log, for the `expected` of a following append. */
  readonly token: string;
  /** A repeated commit id: the events were there already, nothing was written now. */
  readonly duplicate: boolean;
}

/** What `DocumentLog.append` is told besides the events. */
export interface AppendRequest {
  readonly events: readonly unknown[];
  /** For a document that does not exist yet. */
  readonly model: AnyModel;
  readonly expected?: string | undefined;
  readonly commitId?: Uint8Array | undefined;
  /** The commit id was never used before: no need to look for it. */
  readonly fresh?: boolean;
  readonly info?: Uint8Array | undefined;
  /**
   * `identityOf` the document of a handle, or of what is `attached`: it may write to no other one of the id.
   * Asked when its turn has come: while it waited the document may have been replaced.
   */
  readonly identity?: (() => string | undefined) | undefined;
  /** A drop-in's. */
  readonly attached?: boolean;
  /** `"create"` and `"recreate"` (also over a tombstone) do nothing when the document exists. */
  readonly mode?: "append" | "create" | "recreate";
  /** Cut into as many batches as the limits ask for, all in one commit. */
  readonly split?: boolean;
}

/** A commit whose outcome is not known: `recover()` settles it. */
export interface UnknownCommit {
  readonly id: string;
  /** Clock before its first event, and after its last. */
  readonly clock: number;
  readonly end: number;
  readonly commitId: Uint8Array;
}

interface Exclusive {
  readonly run: (head: Head) => Promise<void>;
  readonly reject: (error: unknown) => void;
  /** The head for a task that can do with a guess, where damage hides the true one. */
  readonly guess: ((error: unknown) => Promise<Head>) | undefined;
}

const RETRIES_MAX = 64;
const SETTLE_DELAYS_MS = [50, 200, 800];

export class DocumentLog {
  readonly id: string;
  readonly #context: Context;
  readonly #onAppended: (log: DocumentLog, head: Head) => void;
  readonly #onUnknown: (unknown: UnknownCommit) => void;
  #head: Head | undefined;
  /** Grows whenever the head changes, so that a slower read of it is not taken for the newer one. */
  #epoch = 0;
  #queue: (Member | Exclusive)[] = [];
  #pumping = false;
  /** In flight, and what is to follow it. */
  #underway: Plan | undefined;
  #next: Plan | undefined;
  /** Of the one in flight: where it was sent, and the epoch then. */
  #sentTo: Guard;
  #sentAt = 0;
  #retries = 0;
  readonly #gathering: Gathering;
  #waiting: (() => void)[] = [];
  #holders = 0;
  readonly #listeners = new Set<(clock: number) => void>();
  /** Once for all: commits are many. */
  readonly #onDone = (now?: number) => this.#done(now);
  readonly #onFailed = (error: unknown) => {
    void this.#settle(this.#underway!, error).then(
      () => this.#done(),
      (settled) => {
        this.#failed(settled);
        this.#goOn();
      },
    );
  };

  constructor(
    id: string,
    context: Context,
    onAppended: (log: DocumentLog, head: Head) => void,
    onUnknown: (unknown: UnknownCommit) => void,
  ) {
    this.id = id;
    this.#context = context;
    this.#sentTo = context.guard;
    this.#onAppended = onAppended;
    this.#onUnknown = onUnknown;
    this.#gathering = new Gathering(
      context.env,
      () => this.#pump(),
      () => this.#layOutNext(),
    );
  }

  /** Must not be forgotten by `Logs`. */
  get busy(): boolean {
    return this.#pumping || this.#listeners.size > 0 || this.#holders > 0;
  }

  /** Appends are queued or in flight. */
  get pumping(): boolean {
    return this.#pumping;
  }

  /** Resolves when nothing is queued or in flight. */
  idle(): Promise<void> {
    return this.#pumping ? new Promise((resolve) => this.#waiting.push(resolve)) : Promise.resolve();
  }

  /** Clock of the head as last seen; 0 before anything was read. */
  get seen(): number {
    return this.#head?.clock ?? 0;
  }

  /** The head: as this process left it on an exclusive backend, read anew on a shared one. */
  async head(): Promise<Head> {
    const { exclusive } = this.#context.guard.traits;
    if (this.#head !== undefined && exclusive) return this.#head;
    const epoch = this.#epoch;
    const head = await readHead(this.#context, this.id);
    if (epoch === this.#epoch && !this.#pumping) this.#head ??= head;
    return exclusive ? (this.#head ?? head) : head;
  }

  /** Forgets what was read: the next use reads again. */
  forget(): void {
    this.#head = undefined;
    this.#epoch++;
  }

  /**
   * Runs what works on the document beside the queue. Until it has ended this is the one log of the id: were
   * it replaced meanwhile, what the task tells this one to forget or to announce would reach nobody.
   */
  async hold<T>(task: () => Promise<T>): Promise<T> {
    this.#holders++;
    try {
      return await task();
    } finally {
      this.#holders--;
    }
  }

  append(request: AppendRequest): Promise<AppendResult> {
    return new Promise((resolve, reject) => {
      const member = new Member(this.#context, request, resolve, reject);
      // A fresh list of one is smaller than one that is pushed to.
      if (this.#queue.length === 0) this.#queue = [member];
      else this.#queue.push(member);
      if (this.#pumping) this.#gathering.joined(this.#queue.length, this.#underway?.members.length);
      else this.#start();
    });
  }

  /**
   * Runs a task between two appends, with the current head. The task must call `forget` when it wrote.
   * `guess`: gives the head where reading it fails, or rejects.
   */
  exclusively<T>(task: (head: Head) => Promise<T>, guess?: (error: unknown) => Promise<Head>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ run: (head) => task(head).then(resolve), reject, guess });
      this.#start();
    });
  }

  /**
   * Calls back whenever events of this document became durable here, until the returned function is called.
   */
  listen(listener: (clock: number) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Tells those who listen that the log was seen to be durable up to `clock`. */
  announce(clock: number): void {
    for (const listener of this.#listeners) listener(clock);
  }

  #start(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    this.#gathering.wait();
  }

  /** Takes what has gathered to one commit, or runs what must be alone; then goes on with what waits. */
  #pump(): void {
    const head = this.#head;
    const { poison, traits } = this.#context.guard;
    const isReady =
      head !== undefined &&
      poison === undefined &&
      traits.exclusive &&
      this.#queue[0] instanceof Member &&
      (head.commits !== undefined || !this.#queue.some(asksForIds));
    if (isReady) this.#commitNext(head, this.#queue.length);
    else void this.#readAndPump();
  }

  async #readAndPump(): Promise<void> {
    try {
      const { exclusive } = this.#context.guard.traits;
      if (!exclusive && this.#queue.some((waiting) => this.#mustReadFor(waiting))) this.forget();
      // On a shared backend a head may answer only those who asked before it was read.
      const asked = exclusive ? Number.MAX_SAFE_INTEGER : this.#queue.length;
      const head = await this.#read().catch((error: unknown) => this.#guess(error));
      const [first] = this.#queue;
      if (first === undefined || !("run" in first)) {
        this.#commitNext(head, asked);
        return;
      }
      this.#queue.shift();
      await first.run(head).catch(first.reject);
    } catch (error) {
      this.#failAll(error);
    }
    this.#goOn();
  }

  /** Of a task alone: it goes first, and those behind it read again. */
  #guess(error: unknown): Promise<Head> {
    const [first] = this.#queue;
    if (first === undefined || !("run" in first) || first.guess === undefined) throw error;
    return first.guess(error);
  }

  /**
   * The head, with commit ids where they are asked for. One that was forgotten while it was read is read
   * again: it may be older than what those who have joined the queue since were told.
   */
  async #read(): Promise<Head> {
    for (;;) {
      // Reads go on in a failed backend and may show what is not durable: nobody may be told "stored" from
      // them.
      const { poison } = this.#context.guard;
      if (poison !== undefined) throw behind(poison);
      const epoch = this.#epoch;
      const head = this.#head ?? (await readHead(this.#context, this.id));
      if (this.#queue[0] instanceof Member && this.#queue.some(asksForIds)) {
        head.commits ??= await readCommitIds(this.#context, this.id, head);
      }
      if (epoch !== this.#epoch) continue;
      this.#head = head;
      return head;
    }
  }

  /** `plan`: whose commit is done, and who are told after what waits has begun. */
  #goOn(plan?: Plan): void {
    const next = this.#next;
    this.#next = undefined;
    if (next !== undefined) {
      this.#gathering.began();
      this.#submit(next);
    } else if (this.#queue.length === 0) this.#pumping = false;
    else this.#gathering.next();
    if (plan !== undefined) this.#tell(plan);
    if (!this.#pumping) for (const resolve of this.#waiting.splice(0)) resolve();
  }

  /** All that wait, but for a task that can do with a guess and has not had its turn, and those behind it. */
  #failAll(error: unknown): void {
    this.forget();
    const task = this.#queue.findIndex((waiting) => "run" in waiting && waiting.guess !== undefined);
    const failed = this.#queue.splice(0, task > 0 ? task : this.#queue.length);
    for (const waiting of failed) waiting.reject(error);
  }

  /**
   * Others may have moved a shared document on: a plain append finds out when it commits, but what may be
   * refused, or answered without a commit, needs a head that is read after it was asked.
   */
  #mustReadFor(waiting: Member | Exclusive): boolean {
    if ("run" in waiting) return true;
    const meta = this.#head?.meta;
    const { expected, mode = "append", commitId, fresh } = waiting.request;
    const identity = waiting.request.identity?.();
    if (expected !== undefined || mode !== "append" || (commitId !== undefined && !fresh)) return true;
    if (meta === undefined || meta.deleted !== undefined) return meta !== undefined || identity !== undefined;
    return identity !== undefined && identity !== identityOf(meta);
  }

  /** Commits what has gathered, of the first `asked`; then goes on. */
  #commitNext(head: Head, asked: number): void {
    const plan = new Plan(this.#context, this.id, head);
    this.#fill(plan, asked);
    if (plan.empty) {
      this.#goOn();
      return;
    }
    try {
      plan.build();
    } catch (error) {
      const { members } = plan;
      if (members.length > 1) {
        // A codec does not say whose events it refuses: half of them are tried without the others.
        this.#queue = [...members, ...this.#queue];
        this.#commitNext(head, members.length >> 1);
        return;
      }
      members[0]!.reject(error);
      this.#goOn();
      return;
    }
    this.#gathering.ready(plan.members.length);
    this.#submit(plan);
  }

  /**
   * Lays out what waits, to go when the commit in flight has succeeded. Only plain appends to a document that
   * is there already: they need nothing read, and are answered by their commit alone.
   */
  #layOutNext(): void {
    const before = this.#underway;
    if (before === undefined || this.#next !== undefined || !this.#queue.every(isPlain)) return;
    if (!this.#context.guard.traits.exclusive || before.headAfter.meta !== before.headBefore.meta) return;
    const plan = new Plan(this.#context, this.id, before.headAfter);
    this.#fill(plan, this.#queue.length);
    if (plan.empty) return;
    try {
      plan.build();
      this.#next = plan;
    } catch {
      // Whose events the codec refuses is found out when they are alone.
      this.#queue = [...plan.members, ...this.#queue];
    }
  }

  /** The commit before did not leave the head that was expected. */
  #dropNext(): void {
    if (this.#next === undefined) return;
    this.#queue = [...this.#next.members, ...this.#queue];
    this.#next = undefined;
  }

  #submit(plan: Plan): void {
    const { guard } = this.#context;
    this.#underway = plan;
    this.#sentTo = guard;
    this.#sentAt = this.#epoch;
    guard.submit(plan.batch, this.#onDone, this.#onFailed);
  }

  #fill(plan: Plan, asked: number): void {
    for (let taken = 0; taken < asked && this.#queue.length > 0; taken++) {
      const next = this.#queue[0]!;
      if ("run" in next || !plan.takes(next)) break;
      this.#queue.shift();
      try {
        plan.add(next);
      } catch (error) {
        next.reject(error);
      }
    }
  }

  #done(now?: number): void {
    const plan = this.#underway!;
    const head = plan.committed();
    this.#retries = 0;
    // Forgotten while the outcome was settled: others have written behind this commit.
    this.#head = this.#sentAt === this.#epoch ? head : undefined;
    this.#epoch++;
    this.#underway = undefined;
    if (this.#head === undefined) this.#dropNext();
    const behind = this.#queue.length + (this.#next?.members.length ?? 0);
    this.#gathering.done(plan.members.length, behind, now);
    this.#goOn(plan);
  }

  /** Those whose commit it was, and those who listen. */
  #tell(plan: Plan): void {
    const { env } = this.#context;
    const { headBefore: before, headAfter: head } = plan;
    plan.resolve();
    if (head.clock === before.clock) return;
    if (this.#context.observer.append !== undefined) {
      observe(this.#context, (observer) =>
        observer.append?.({
          id: this.id,
          events: head.clock - before.clock,
          bytes: head.logBytes - before.logBytes,
          clock: head.clock,
          queuedMs: plan.queuedAt === 0 ? 0 : env.elapsed() - plan.queuedAt,
        }),
      );
    }
    this.announce(head.clock);
    if (!plan.byHandle) this.#onAppended(this, head);
  }

  #failed(error: unknown): void {
    const plan = this.#underway!;
    this.#underway = undefined;
    this.#dropNext();
    this.forget();
    if (isCoppiceError(error, "COMMIT_CONFLICT")) {
      const retried = this.#retries++ < RETRIES_MAX;
      observe(this.#context, (observer) => observer.conflict?.({ id: this.id, retried }));
      if (retried) {
        this.#queue = [...plan.members, ...this.#queue];
        return;
      }
      this.#retries = 0;
    }
    const unknown = isCoppiceError(error, "OUTCOME_UNKNOWN");
    if (unknown) for (const commit of plan.commits) this.#onUnknown({ id: this.id, ...commit });
    for (const member of plan.members)
      member.reject(unknown ? this.#unknownOutcome(plan, member, error) : error);
    for (const waiting of this.#queue.splice(0))
      waiting.reject(this.#context.guard.poison ? behind(error) : error);
  }

  #unknownOutcome(plan: Plan, member: Member, cause: CoppiceError): CoppiceError {
    // Only an id that the caller chose may be sent again: one that was made here names the whole batch.
    const { commitId } = member.request;
    const ids =
      commitId === undefined ? { batch: toHex(plan.commitIdOf(member)) } : { commitId: toHex(commitId) };
    return new CoppiceError(
      "OUTCOME_UNKNOWN",
      "it is not known whether the events were written; call recover()",
      {
        cause,
        details: { id: this.id, clock: plan.clock, ...ids },
      },
    );
  }

  /**
   * Settles a commit that failed, where the backend can go on after an unknown outcome: resolves when it is
   * written after all. Once an outcome was unknown no later failure counts as "not written" unless what is
   * stored shows it.
   */
  async #settle(plan: Plan, failure: unknown): Promise<void> {
    const guard = this.#sentTo;
    let error = failure;
    let doubt: CoppiceError | undefined;
    for (let attempt = 0; ; attempt++) {
      if (isCoppiceError(error, "OUTCOME_UNKNOWN")) doubt = error;
      if (doubt === undefined || guard.traits.poisonsItself) throw error;
      const written = await this.#isWritten(plan).catch(() => undefined);
      if (written === true) return;
      if (written === false && isCoppiceError(error, "COMMIT_CONFLICT")) throw error;
      const delayMs = SETTLE_DELAYS_MS[attempt];
      if (delayMs === undefined) throw doubt;
      // Sending the same commit again is safe: it expects the batch key to be absent and meta to be
      // unchanged.
      try {
        await this.#context.env.delay(delayMs);
        return await guard.commit(plan.batch);
      } catch (again) {
        error = again;
      }
    }
  }

  /** `undefined`: nobody can tell any more. */
  async #isWritten(plan: Plan): Promise<boolean | undefined> {
    if (!plan.writesEvents) {
      return equalBytes(await this.#context.guard.get(metaKey(this.id)), plan.batch.put?.[0]?.value);
    }
    // The last batch names those before it. Its commit id alone may be in the commit of another writer, to
    // whom the append was handed as well, and who has other events beside it.
    const { last, crc } = plan.headAfter;
    return isWritten(this.#context, this.id, last!, (found) => found.crc === crc);
  }
}

function isPlain(waiting: Member | Exclusive): boolean {
  if ("run" in waiting) return false;
  const { mode = "append", expected, commitId, fresh } = waiting.request;
  return mode === "append" && expected === undefined && (commitId === undefined || fresh === true);
}

function asksForIds(waiting: Member | Exclusive): boolean {
  return waiting instanceof Member && waiting.request.commitId !== undefined && !waiting.request.fresh;
}

/**
 * Whether a commit stored its batch at this clock, which `isIts` tells from others; `undefined` when it may
 * have been trimmed or deleted since.
 */
export async function isWritten(
  { guard }: Context,
  id: string,
  clock: number,
  isIts: (batch: StoredBatch) => boolean,
): Promise<boolean | undefined> {
  const key = eventsKey(id, clock);
  const value = await guard.get(key);
  if (value !== undefined) return isIts(openBatch(key, value));
  const meta = await guard.get(metaKey(id));
  if (meta === undefined) {
    const erased = await readErased(guard, erasedKey(id));
    return erased !== undefined && erased.clock > clock ? undefined : false;
  }
  const { oldest, deleted } = unsealMeta(id, meta);
  return (deleted?.clock ?? oldest) <= clock ? false : undefined;
}

/** The error of a call that waited behind a commit that failed. */
function behind(cause: unknown): CoppiceError {
  return new CoppiceError(
    "POISONED",
    "the write before this one failed; nothing was written; call recover()",
    { cause },
  );
}
