/**
 * A handle: one live document, what of it is stored, and what is not yet.
 *
 * Invariants:
 * - events come in by capture (`tracker`) or by `receive`; nothing else reaches the log;
 * - a save is one synchronous cut; edits made while it is in flight belong to the next one; a cut leaves the
 *   handle only when it is durable, and one whose outcome is unknown is repeated under the same commit id;
 * - `clock` is the contiguous prefix of the log that is applied: own events stored beyond a gap do not count
 *   until `refresh` has pulled what lies between;
 * - the live document serves for a snapshot only when it equals the stored prefix: nothing unsaved, nothing
 *   in flight, no gap, nothing held or refused (a provider may complete or add held events behind our back).
 */

import { CoppiceError, isCoppiceError, said } from "../base/errors.js";
import type { AnyModel, Refusal, Tracker } from "../contract/model.js";
import { type AppliedLive, applyLive } from "./applying.js";
import { AutoSave } from "./auto-save.js";
import { newCommitId } from "./commit-id.js";
import type { CompactOptions, CompactResult } from "./compaction.js";
import { type Context, observe, snapshotFailed } from "./context.js";
import type { DocumentLog } from "./document-log.js";
import { DurableWaits } from "./durable-waits.js";
import { DISPLACED, type Handles } from "./handles.js";
import { displacedError, statsOf } from "./head.js";
import { type HeldEvent, LOST_REASON, type Loaded } from "./loader.js";
import { identityOf, type Meta } from "./meta.js";
import { assertOptions, checkWait } from "./option-kinds.js";
import {
  type AppendInfo,
  atOnce,
  type CloseOptions,
  checkInfo,
  copyEvent,
  type HandleOptions,
  packInfo,
  type Received,
  type SaveOptions,
} from "./options.js";
import type { SnapshotPolicy, SnapshotStats } from "./policy.js";
import { type Pulled, pullEvents } from "./pulling.js";
import { bytesOf, type SnapshotSource } from "./snapshots.js";

/** What a handle needs of the storage it belongs to. */
export interface HandleOwner {
  readonly context: Context;
  readonly policy: SnapshotPolicy;
  readonly handles: Handles;
  /** It takes calls: it neither closes nor recovers. */
  isReady(): boolean;
  /** Throws `CLOSED` or `BUSY`. */
  assertReady(): void;
  log(id: string): DocumentLog;
  snapshot(
    id: string,
    live: (meta: Meta) => Promise<SnapshotSource | undefined>,
  ): Promise<number | undefined>;
  snapshotLater(id: string, live: (meta: Meta) => Promise<SnapshotSource | undefined>): void;
  compact(id: string, options?: CompactOptions): Promise<CompactResult>;
}

interface Cut {
  readonly events: unknown[];
  readonly commitId: Uint8Array;
  readonly info: AppendInfo | undefined;
  /**
   * It was sent, and it is not known whether it was written: it keeps its commit id, whatever happens next.
   */
  unknown: boolean;
}

export class DocumentHandle<Doc> {
  readonly id: string;
  /** Label given by the caller. */
  readonly replica: string | undefined;
  /** False for a document loaded at a past clock, which cannot be saved. */
  readonly writable: boolean;
  /** @internal */
  readonly savesItself: boolean;
  readonly #owner: HandleOwner;
  readonly #model: AnyModel;
  readonly #tracker: Tracker<Doc, unknown>;
  #identity: string;
  readonly #autoSave: AutoSave;
  #doc: Doc;
  #clock: number;
  #durable: number;
  #held: readonly HeldEvent[];
  #staged: unknown[] = [];
  #info: AppendInfo | undefined;
  #cut: Cut | undefined;
  #own: { from: number; to: number }[] = [];
  #saving: Promise<number> | undefined;
  #following: Promise<number> | undefined;
  #snapshotClock: number;
  #branched: boolean;
  /** An event that is not stored may be in the document, or parts of one that was refused. */
  #strayed = false;
  readonly #waits = new DurableWaits();
  #closed = false;

  constructor(owner: HandleOwner, id: string, loaded: Loaded, writable: boolean, options: HandleOptions) {
    this.id = id;
    this.replica = options.replica;
    this.writable = writable;
    this.#owner = owner;
    this.savesItself = options.autoSave === true;
    this.#autoSave = new AutoSave(owner, id, options, async () => this.#closed || this.save());
    this.#model = loaded.model;
    this.#doc = loaded.doc as Doc;
    this.#identity = identityOf(loaded.meta);
    this.#clock = loaded.clock;
    this.#durable = loaded.clock;
    this.#held = loaded.held;
    this.#snapshotClock = loaded.meta.snapshot?.clock ?? loaded.meta.base;
    this.#tracker = loaded.model.track(loaded.doc) as Tracker<Doc, unknown>;
    this.#branched = this.#isBranched();
    this.#tracker.onEvent?.(() => {
      this.#noticeBranches();
      this.#edited();
    });
  }

  /** The live document. Immutable models replace it on every change. */
  get doc(): Doc {
    return this.#doc;
  }

  /** Name of the model. */
  get model(): string {
    return this.#model.name;
  }

  /** The contiguous prefix of the log that this document has applied, in events. */
  get clock(): number {
    return this.#clock;
  }

  /** The clock up to which the log is known to be durable: own saves and what others appended here. */
  get durableClock(): number {
    // What has the id now has a log of its own.
    if (this.#identity === DISPLACED) return this.#durable;
    return Math.max(this.#durable, this.#owner.log(this.id).seen);
  }

  /** Events that are stored (or staged) and not shown, because something is missing or they were refused. */
  get held(): readonly HeldEvent[] {
    return this.#held;
  }

  /** True when a `save` would have something to write. */
  get unsaved(): boolean {
    return this.#cut !== undefined || this.#staged.length > 0 || this.#tracker.pending(this.#doc);
  }

  /** @internal */
  get mustSave(): boolean {
    return this.writable && !this.#closed && this.unsaved;
  }

  /** Events between the newest snapshot known to this handle and its clock. */
  get eventsSinceSnapshot(): number {
    return Math.max(0, this.#clock - this.#snapshotClock);
  }

  /** A local edit; immutable models return the new document from `fn`. Throws what `fn` throws. */
  change(fn: (doc: Doc) => unknown): Doc {
    this.#assertWritable();
    this.#doc = this.#model.change(this.#doc, atOnce("change", fn as (doc: unknown) => unknown)) as Doc;
    this.#noticeBranches();
    if (this.#tracker.pending(this.#doc)) this.#edited();
    return this.#doc;
  }

  /**
   * Applies remote events and stages them for the next save. Throws `EVENT_INVALID` for bytes that the model
   * does not accept; then nothing was applied. Events that only the live document refuses are reported, not
   * staged. Throws what an observer of the application throws; all is applied and staged then.
   */
  receive(events: readonly unknown[]): Received {
    this.#assertWritable();
    const copies = events.map(copyEvent);
    try {
      for (const event of copies)
        if (this.#model.codec.size(event) === 0) throw new TypeError("an empty event");
      this.#model.check?.(copies);
    } catch (error) {
      throw new CoppiceError(
        "EVENT_INVALID",
        `the ${this.#model.name} model refuses the events${said(error)}; nothing was applied`,
        {
          cause: error,
          details: { id: this.id },
        },
      );
    }
    this.#capture();
    const before = this.#held.filter((held) => held.reason === undefined && held.event !== undefined);
    const offered = [...before.map((held) => held.event), ...copies];
    const { result, thrown } = this.#apply(offered);
    const refused = result.refused
      .filter(({ index }) => index >= before.length)
      .map(({ index, reason }) => ({ index: index - before.length, reason }));
    const refusedIndexes = new Set(refused.map(({ index }) => index));
    copies.forEach((event, index) => {
      if (!refusedIndexes.has(index)) this.#staged.push(event);
    });
    this.#strayed ||= refused.length > 0;
    const clocks = [...before.map((held) => held.clock), ...copies.map(() => undefined)];
    this.#hold(
      offered,
      clocks,
      result.held,
      result.refused.filter(({ index }) => index < before.length),
    );
    this.#noticeBranches();
    if (this.unsaved) this.#edited();
    if (thrown !== undefined) throw thrown.error;
    const held = result.held.filter((index) => index >= before.length).length;
    return { applied: copies.length - held - refused.length, held, refused };
  }

  /**
   * Appends everything staged or captured since the last save, as one cut. Resolves, with the clock after the
   * cut, when it is durable; at once when nothing is new. On rejection nothing was lost: the events stay with
   * the handle for the next save (after `OUTCOME_UNKNOWN` under the same commit id). `info` goes with the
   * cut; calls that share one add to it, the later ones over the earlier.
   */
  save(options: SaveOptions = {}): Promise<number> {
    try {
      assertOptions("save", options);
      this.#assertWritable();
      this.#owner.assertReady();
      if (options.info !== undefined) checkInfo(this.id, options.info);
      const merged = options.info && { ...this.#info, ...options.info };
      packInfo(this.id, merged, this.#owner.context.limits.infoBytesMax);
      this.#info = merged ?? this.#info;
    } catch (error) {
      return Promise.reject(error);
    }
    return this.finish();
  }

  /** Saves what is unsaved, also while the storage closes. @internal */
  finish(): Promise<number> {
    if (this.#saving === undefined) {
      this.#saving = this.#saveCut().finally(() => {
        this.#saving = undefined;
      });
      return this.#saving;
    }
    const again = () => {
      this.#following = undefined;
      return this.finish();
    };
    this.#following ??= this.#saving.then(again, again);
    return this.#following;
  }

  /**
   * Resolves when the document's log is known to be durable up to `clock`: by appends of this storage, or by
   * a `refresh` that saw what others appended. Rejects with the signal's reason when aborted, with `CLOSED`
   * when the handle or the storage closes first, and with `DELETED` when the document was deleted, erased or
   * replaced first, by this storage.
   */
  async waitDurable(clock: number, options: { signal?: AbortSignal } = {}): Promise<void> {
    const { signal } = checkWait(clock, options);
    if (clock <= this.durableClock) return;
    if (this.#closed || this.#owner.handles.abandoned) throw this.#closedError();
    if (this.#identity === DISPLACED) throw displacedError(this.id);
    const onSeen = (durable: number) => {
      this.#durable = Math.max(this.#durable, durable);
    };
    return this.#waits.until(clock, this.#owner.log(this.id), onSeen, signal);
  }

  /**
   * Pulls the events that others stored since, and applies them. Returns the clock. Throws `TRIMMED` when
   * they were compacted away (save, then load again), `DELETED` when the document is gone, and what an
   * observer of the application throws; all is applied then.
   */
  async refresh(): Promise<number> {
    this.#assertOpen();
    const pulled = await pullEvents(this.#owner.context, {
      id: this.id,
      model: this.#model,
      identity: this.#identity,
      from: () => this.#clock,
      isOwn: (clock) => this.#isOwn(clock),
    });
    const known = new Set(this.#held.map((held) => held.clock));
    const lost = pulled.lost.filter((clock) => clock >= this.#clock && !known.has(clock));
    const thrown = this.#clock < pulled.end ? this.#applyPulled(pulled.found, pulled.end) : undefined;
    this.#owner.log(this.id).announce(pulled.end);
    this.#held = [...this.#held, ...lost.map((clock) => ({ clock, event: undefined, reason: LOST_REASON }))];
    this.#snapshotClock = pulled.meta.snapshot?.clock ?? pulled.meta.base;
    if (thrown !== undefined) throw thrown.error;
    return this.#clock;
  }

  /** The policy's answer for this document now. */
  shouldSnapshot(): Promise<boolean> {
    return this.#stats().then((stats) => this.#owner.policy(stats));
  }

  /** Takes a snapshot now. Returns its clock; `undefined` when nothing is new since the newest one. */
  async snapshot(): Promise<number | undefined> {
    this.#assertOpen();
    const clock = await this.#owner.snapshot(this.id, (meta) => this.#live(meta));
    if (clock !== undefined) this.#snapshotTaken(clock);
    return clock;
  }

  /** `storage.compact` for this document. */
  async compact(options?: CompactOptions): Promise<CompactResult> {
    this.#assertOpen();
    const result = await this.#owner.compact(this.id, options);
    if (result.outcome === "compacted" && !options?.dryRun) this.#snapshotTaken(result.clock);
    return result;
  }

  /**
   * Releases the document; with `autoSave` it saves before. Rejects with `BUSY`, and releases nothing, while
   * events are unsaved, unless told to `discard` them.
   */
  async close(options: CloseOptions = {}): Promise<void> {
    assertOptions("close", options);
    if (!options.discard && !this.#closed) {
      let cause: unknown;
      const saving = this.savesItself && this.mustSave ? this.finish() : this.#saving;
      await saving?.catch((error: unknown) => {
        cause = error;
      });
      if (this.mustSave) {
        throw new CoppiceError("BUSY", "the document has unsaved events; save, or close with discard: true", {
          cause,
          details: { id: this.id },
        });
      }
    }
    if (this.#closed) return;
    this.#closed = true;
    this.abandon();
    this.#tracker.stop();
    this.#model.dispose?.(this.#doc);
    this.#owner.handles.remove(this);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** @internal */
  resume(): void {
    if (this.savesItself && this.writable) this.#autoSave.soon();
  }

  /** @internal */
  displace(identity: string = this.#identity): void {
    if (identity !== this.#identity || identity === DISPLACED) return;
    this.#durable = this.durableClock;
    this.#identity = DISPLACED;
    this.#waits.end(displacedError(this.id));
  }

  /** Called when the storage closes: nothing more will become durable through this handle. @internal */
  abandon(): void {
    this.#waits.end(this.#closedError());
  }

  /** Called by `recover()`: what became of a commit whose outcome was unknown. @internal */
  settle(commitId: Uint8Array, clock: number | undefined): void {
    const cut = this.#cut;
    // A save that is in flight again looks for the commit id by itself.
    if (cut === undefined || this.#saving !== undefined) return;
    if (cut.commitId.some((byte, index) => byte !== commitId[index])) return;
    this.#cut = undefined;
    if (clock === undefined) this.#putBack(cut);
    else this.#stored(cut.events, clock);
  }

  async #saveCut(): Promise<number> {
    this.#capture();
    // What the tracker gets a microtask later, since a listener threw, was made before the call all the same.
    if (this.#tracker.pending(this.#doc)) await Promise.resolve().then(() => this.#capture());
    if (this.#cut === undefined) {
      if (this.#staged.length === 0) {
        this.#info = undefined;
        this.#owner.handles.letGo(this);
        return this.#durable;
      }
      const commitId = newCommitId(this.#owner.context.env);
      this.#cut = { events: this.#staged, commitId, info: this.#info, unknown: false };
      this.#staged = [];
      this.#info = undefined;
    } else if (this.#staged.length > 0) {
      // A cut of unknown outcome goes first, under its old commit id; what came later is a cut of its own.
      await this.#appendCut(this.#cut);
      return this.#saveCut();
    }
    return this.#appendCut(this.#cut);
  }

  async #appendCut(cut: Cut): Promise<number> {
    try {
      const { clock } = await this.#owner.log(this.id).append({
        events: cut.events,
        model: this.#model,
        identity: () => this.#identity,
        commitId: cut.commitId,
        info: packInfo(this.id, cut.info, this.#owner.context.limits.infoBytesMax),
        fresh: !cut.unknown,
        split: true,
      });
      this.#cut = undefined;
      this.#stored(cut.events, clock);
      this.#considerSnapshot();
      return clock;
    } catch (error) {
      cut.unknown ||= isCoppiceError(error, "OUTCOME_UNKNOWN");
      if (!cut.unknown) this.#putBack(cut);
      throw error;
    }
  }

  #apply(events: readonly unknown[]): AppliedLive {
    try {
      const applied = applyLive(this.#model, this.#doc, events);
      this.#doc = applied.result.doc as Doc;
      return applied;
    } catch (error) {
      this.#strayed = true;
      throw error;
    }
  }

  #putBack(cut: Cut): void {
    this.#cut = undefined;
    this.#staged = cut.events.concat(this.#staged);
    this.#info = cut.info && { ...cut.info, ...this.#info };
  }

  #capture(): void {
    // One by one: there may be more events than a call takes arguments.
    for (const event of this.#tracker.take(this.#doc)) this.#staged.push(event);
  }

  /** Something is unsaved. */
  #edited(): void {
    if (this.writable) this.#owner.handles.hold(this);
    if (this.savesItself) this.#autoSave.soon();
  }

  #stored(events: readonly unknown[], clock: number): void {
    const from = clock - events.length;
    this.#durable = Math.max(this.#durable, clock);
    this.#own.push({ from, to: clock });
    this.#advance();
    this.#held = this.#held.map((held) => {
      const index = held.clock === undefined ? events.indexOf(held.event) : -1;
      return index < 0 ? held : { ...held, clock: from + index };
    });
    this.#owner.handles.letGo(this);
  }

  /** Moves `clock` over own events that now follow it directly. */
  #advance(): void {
    this.#own.sort((a, b) => a.from - b.from);
    while (this.#own.length > 0 && this.#own[0]!.from <= this.#clock) {
      this.#clock = Math.max(this.#clock, this.#own.shift()!.to);
    }
  }

  #isOwn(clock: number): boolean {
    return this.#own.some(({ from, to }) => from <= clock && clock < to);
  }

  #applyPulled(found: Pulled["found"], end: number): AppliedLive["thrown"] {
    this.#capture();
    const news = found.filter(({ clock }) => clock >= this.#clock && !this.#isOwn(clock));
    const before = this.#held.filter((held) => held.reason === undefined && held.event !== undefined);
    const offered = [...before.map((held) => held.event), ...news.map(({ event }) => event)];
    const { result, thrown } = this.#apply(offered);
    const clocks = [...before.map((held) => held.clock), ...news.map(({ clock }) => clock)];
    this.#hold(offered, clocks, result.held, result.refused);
    this.#clock = Math.max(this.#clock, end);
    this.#durable = Math.max(this.#durable, end);
    this.#own = this.#own.filter(({ to }) => to > this.#clock);
    this.#advance();
    this.#noticeBranches();
    // What a provider brought too early may have come in with them.
    if (this.unsaved) this.#edited();
    return thrown;
  }

  #hold(
    events: readonly unknown[],
    clocks: readonly (number | undefined)[],
    held: readonly number[],
    refused: readonly Refusal[],
  ): void {
    const kept = this.#held.filter((entry) => entry.reason !== undefined || entry.event === undefined);
    const waiting = held.map((index) => ({ clock: clocks[index], event: events[index], reason: undefined }));
    const poison = refused.map(({ index, reason }) => ({
      clock: clocks[index],
      event: events[index],
      reason,
    }));
    this.#held = [...kept, ...waiting, ...poison];
    for (const { clock, reason } of [...waiting, ...poison]) {
      const fact = reason === undefined ? { id: this.id, clock } : { id: this.id, clock, reason };
      observe(this.#owner.context, (observer) => observer.held?.(fact));
    }
  }

  /** The live document as a snapshot, if it equals the stored prefix. */
  async #live(meta: Meta): Promise<SnapshotSource | undefined> {
    const log = this.#owner.log(this.id);
    const head = await log.head();
    const clean =
      !this.#closed &&
      !this.unsaved &&
      this.#saving === undefined &&
      this.#own.length === 0 &&
      head.clock === this.#clock &&
      identityOf(meta) === this.#identity &&
      this.#held.length === 0 &&
      !this.#strayed &&
      !this.#model.holds?.(this.#doc);
    if (!clean || !this.writable) return undefined;
    return {
      model: this.#model,
      clock: this.#clock,
      logBytes: head.logBytes,
      crc: head.crc,
      ...bytesOf(this.#model, this.#doc),
      held: new Map(),
      lost: [],
    };
  }

  #considerSnapshot(): void {
    this.#stats()
      .then((stats) => {
        if (this.#owner.policy(stats)) {
          this.#owner.snapshotLater(this.id, async (meta) => {
            const source = await this.#live(meta);
            if (source !== undefined) this.#snapshotTaken(source.clock);
            return source;
          });
        }
      })
      .catch((error: unknown) => {
        snapshotFailed(this.#owner.context, { id: this.id, clock: this.#clock, error });
      });
  }

  async #stats(): Promise<SnapshotStats> {
    const frontierSize = this.#model.frontierSize?.(this.#doc);
    const collapsed = this.#branched && frontierSize === 1;
    const stats = statsOf(await this.#owner.log(this.id).head(), this.#owner.context.env.now());
    return frontierSize === undefined ? stats : { ...stats, frontierSize, collapsed };
  }

  #isBranched(): boolean {
    return (this.#model.frontierSize?.(this.#doc) ?? 0) > 1;
  }

  #noticeBranches(): void {
    if (!this.#branched) this.#branched = this.#isBranched();
  }

  #snapshotTaken(clock: number): void {
    this.#snapshotClock = Math.max(this.#snapshotClock, clock);
    if (!this.#closed) this.#branched = this.#isBranched();
  }

  #assertOpen(): void {
    if (this.#closed) throw this.#closedError();
  }

  #closedError(): CoppiceError {
    return new CoppiceError("CLOSED", "the handle is closed", { details: { id: this.id } });
  }

  #assertWritable(): void {
    this.#assertOpen();
    if (!this.writable) {
      throw new CoppiceError("ARGUMENT_INVALID", "a document loaded at a past clock cannot be changed", {
        details: { id: this.id },
      });
    }
  }
}
