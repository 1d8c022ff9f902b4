/**
 * DocumentStorage: documents on one backend. The way in for everything.
 *
 * This file holds the public methods and who owns what; the work is done in the rooms beside it:
 * `document-log` appends, `loader` loads, `compaction` snapshots and trims, `check` verifies.
 *
 * Invariants: one open storage owns one backend. Snapshots and compactions of one document run one at a time.
 * The memory in use does not grow with the number of documents: heads are cached up to `limits.headsMax`.
 */

import { storable, systemEnv } from "../base/env.js";
import { CoppiceError } from "../base/errors.js";
import { Lanes } from "../base/lane.js";
import { withDefaults } from "../base/limits.js";
import type { BackendFactory, Traits } from "../contract/backend.js";
import { checkId } from "../contract/keys.js";
import type { AnyModel, Model } from "../contract/model.js";
import { BackgroundSnapshots, isDue } from "./background.js";
import { type CheckOptions, type CheckReport, checkStorage } from "./check.js";
import { newCommitId, parseCommitId } from "./commit-id.js";
import { type CompactAllOptions, type CompactAllResult, compactAll } from "./compact-all.js";
import {
  type CompactOptions,
  type CompactResult,
  compactDocument,
  type LiveSource,
  type Site,
  snapshotDocument,
} from "./compaction.js";
import { assertRoom, type Context, modelOf, recovering, snapshotFailed } from "./context.js";
import { type CopyOptions, type CopyResult, copyStore, noTarget } from "./copy.js";
import {
  deleteDocument,
  type EraseOptions,
  type EraseResult,
  eraseDocument,
  type Removal,
} from "./deletion.js";
import { diffDocument } from "./diff.js";
import type { AppendResult, DocumentLog, UnknownCommit } from "./document-log.js";
import type { Folder } from "./folding.js";
import { type ForkOptions, type ForkResult, forkDocument } from "./fork.js";
import { DocumentHandle } from "./handle.js";
import { type Attachment, Handles, type Saver, unsavedError } from "./handles.js";
import type { Head } from "./head.js";
import { loadDocument } from "./loader.js";
import { Logs } from "./logs.js";
import { checkMoment, type Moment } from "./moments.js";
import { assertObserver, assertOptions, type Call } from "./option-kinds.js";
import {
  type AppendOptions,
  type CloseOptions,
  copiesForMoment,
  type DocOf,
  factoryOf,
  initialEvents,
  type LoadOptions,
  namedModels,
  type OpenOptions,
  packInfo,
  type RecoverReport,
  type StorageOptions,
} from "./options.js";
import { defaultPolicy, type SnapshotPolicy } from "./policy.js";
import {
  askInfo,
  type DocumentInfo,
  type EventRange,
  type HistoryEntry,
  history,
  type InfoOptions,
  type ListOptions,
  listDocuments,
  readEvents,
  type StoredEvent,
  type StoredKeys,
} from "./queries.js";
import { openGuard, reopenGuard, settleCommits } from "./recovery.js";
import { Pulse, type SubscribeOptions, subscribe } from "./subscription.js";
import { checkTagName, listTags, type Tag } from "./tag-index.js";
import { tagDocument, untagDocument } from "./tags.js";
import { ThreadFolder } from "./thread-folder.js";
import {
  type ExportOptions,
  exportDocument,
  type ImportOptions,
  type ImportResult,
  importDocument,
} from "./transfer.js";
import { checkHistory } from "./trimming.js";

const NO_OPTIONS = {};

export class DocumentStorage<Models extends readonly AnyModel[] = readonly AnyModel[]> {
  readonly #context: Context;
  readonly #factory: BackendFactory;
  readonly #policy: SnapshotPolicy;
  readonly #folder: Folder;
  readonly #logs: Logs;
  readonly #maintenance = new Lanes();
  readonly #background: BackgroundSnapshots;
  readonly #handles = new Handles();
  readonly #pulse = new Pulse();
  readonly #unknown: UnknownCommit[] = [];
  /** Calls of `recover` share it, and `close` waits for it: else the reopened backend stays open. */
  #recovering: Promise<RecoverReport> | undefined;
  #closing: Promise<void> | undefined;

  /**
   * Opens the storage and its backend. Rejects with `LOCKED` when another process has the backend open, and
   * with what the models need to get ready (WASM) when that fails.
   */
  static async open<const Models extends readonly AnyModel[]>(
    options: StorageOptions<Models>,
  ): Promise<DocumentStorage<Models>> {
    const { models, defaultModel } = namedModels(options);
    const env = storable(options.env ?? systemEnv());
    const limits = withDefaults(options.limits);
    checkHistory(options.history);
    await Promise.all(options.models.map((model) => model.ready?.()));
    const observer = options.observer ?? {};
    assertObserver(observer);
    const guard = await openGuard(options.backend, env, limits, observer);
    const shared = { env, limits, models, defaultModel, observer, history: options.history };
    const context: Context = { ...shared, guard, inFlight: { bytes: 0 } };
    return new DocumentStorage(context, options);
  }

  private constructor(context: Context, options: StorageOptions<Models>) {
    this.#context = context;
    this.#factory = factoryOf(options);
    this.#policy = options.snapshotPolicy ?? defaultPolicy;
    this.#folder = options.folder ?? new ThreadFolder(context.env);
    this.#background = new BackgroundSnapshots(context.env);
    this.#logs = new Logs(
      context,
      (log, head) => this.#appended(log, head),
      (unknown) => this.#unknown.push(unknown),
    );
  }

  /** What the backend promises. */
  get traits(): Traits {
    return this.#context.guard.traits;
  }

  /** Names of the models, the default one first. */
  get models(): readonly string[] {
    return [...this.#context.models.keys()];
  }

  /** For drop-ins, see `Saver`: what they have unsaved is durable when `close` resolves. */
  attach(saver: Saver): Attachment {
    const log = (id: string) => {
      if (this.#recovering !== undefined) throw recovering();
      return this.#logs.get(id);
    };
    return this.#handles.attach(saver, this.#context, { log, load: (id) => this.#load(id, {}) });
  }

  /** The stored keys and values as they are, to be read. */
  get stored(): StoredKeys {
    this.#assertReady();
    const { guard } = this.#context;
    return { get: (key) => guard.get(key), scan: (range, options) => guard.scan(range, options) };
  }

  /** A fresh commit id for `append`: 16 bytes, a UUID of version 7. */
  newCommitId(): Uint8Array {
    return new Uint8Array(newCommitId(this.#context.env));
  }

  /**
   * The document, restored from its newest snapshot and the events after it; `undefined` when it does not
   * exist, or did not at that date. Rejects with `MODEL_UNKNOWN`, `CORRUPT`, `FORMAT_UNSUPPORTED`,
   * `STATE_FORMAT_UNSUPPORTED`; with `at` also `TRIMMED` (which names what there is), `TAG_UNKNOWN` and
   * `ARGUMENT_INVALID`. Changes nothing. Costs the snapshot plus the events after it.
   */
  async load<Doc = DocOf<Models[0]>>(
    id: string,
    options: LoadOptions = {},
  ): Promise<DocumentHandle<Doc> | undefined> {
    this.#assertUsable(id, "load", options);
    return this.#load<Doc>(id, options);
  }

  async #load<Doc>(id: string, options: LoadOptions): Promise<DocumentHandle<Doc> | undefined> {
    const { at } = options;
    if (at !== undefined) checkMoment(id, at);
    const loaded = await loadDocument(this.#context, id, at);
    if (loaded === undefined) return undefined;
    const handle = new DocumentHandle<Doc>(this.#owner, id, loaded, at === undefined, options);
    this.#handles.add(handle);
    return handle;
  }

  /**
   * Loads the document, or creates it atomically: of two creators one wins, the other loads the winner's.
   * Durable when it resolves. Rejects like `load`, and with `DELETED` for a deleted id unless `recreate` is
   * set.
   */
  async open<Doc = DocOf<Models[0]>>(
    id: string,
    options: OpenOptions<Doc> = {},
  ): Promise<DocumentHandle<Doc>> {
    assertOptions("open", options);
    for (;;) {
      this.#assertUsable(id);
      const loaded = await this.#load<Doc>(id, options);
      if (loaded !== undefined) {
        if (options.model !== undefined && options.model !== loaded.model) {
          await loaded.close();
          throw new CoppiceError("MODEL_UNKNOWN", "the document exists under another model", {
            details: { id, model: options.model, stored: loaded.model },
          });
        }
        return loaded;
      }
      const model = modelOf(this.#context, options.model, id);
      await this.#logs.get(id).append({
        events: initialEvents(model, options.initial),
        model,
        mode: options.recreate ? "recreate" : "create",
        split: true,
      });
    }
  }

  /**
   * Adds events to the end of the log without building the document; creates an id that was never used.
   * Durable to `traits.durability` when it resolves; the events stay together and in order, and every later
   * `load` has them.
   *
   * Rejects with `EVENT_INVALID`, `EVENT_TOO_LARGE`, `BATCH_EMPTY`, `BATCH_TOO_LARGE`, `COMMIT_ID_INVALID`,
   * `HEAD_CONFLICT` (with `expected`), `DELETED`, `BUSY` (too much in flight), `POISONED` or `UNAVAILABLE`:
   * nothing was written. With `OUTCOME_UNKNOWN` it may have been: `recover()`, or repeat with the same
   * `commitId`. Appends to one document that wait together share one batch and one sync; the cost does not
   * depend on the size of the document.
   */
  append(
    id: string,
    events: readonly (Models[number] extends Model<infer _Doc, infer Event> ? Event : never)[],
    options: AppendOptions = NO_OPTIONS,
  ): Promise<AppendResult> {
    // Not an async function: each would make three promises of one, and appends are many.
    try {
      this.#assertReady();
      if (options !== NO_OPTIONS) assertOptions("append", options);
      const { limits, env } = this.#context;
      checkId(id, limits.idBytesMax);
      if (!Array.isArray(events)) throw new TypeError("events must be an array, as in [update]");
      if (events.length === 0)
        throw new CoppiceError("BATCH_EMPTY", "there are no events to append", { details: { id } });
      assertRoom(this.#context, id);
      const { expected, commitId } = options;
      return this.#logs.get(id).append({
        events: copiesForMoment(events),
        model: modelOf(this.#context, options.model, id),
        expected,
        commitId: commitId === undefined ? undefined : parseCommitId(commitId, env),
        info: packInfo(id, options.info, limits.infoBytesMax),
      });
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /**
   * The stored events with `from ≤ clock before the event < to`, in order, across page boundaries and beside
   * writers. Ends with `TRIMMED` when `from` lies before what is kept, `ARGUMENT_INVALID` after the head, and
   * `DELETED` when the document goes away; yields nothing for a document that does not exist.
   */
  read(id: string, range: EventRange = {}): AsyncGenerator<StoredEvent> {
    this.#assertUsable(id, "read", range);
    return readEvents(this.#context, id, range);
  }

  /**
   * The stored events from a clock on, and then those that are appended, by anybody: each durable event once,
   * in order, also across `recover()`. Waits for a document to be made, unless `from` is given. Ends with
   * `DELETED`, `TRIMMED` (the consumer was too slow), `ARGUMENT_INVALID` (`from` is after the head: a loss),
   * `CLOSED`, what a read of the backend rejects with, or its signal's reason. Holds one page of events; end
   * it by leaving the loop, by `return()` or by the signal. Shared backends are asked once a second.
   */
  subscribe(id: string, options: SubscribeOptions = {}): AsyncIterableIterator<StoredEvent> {
    this.#assertUsable(id, "subscribe", options);
    return subscribe(this.#owner, id, options);
  }

  /** Batches, snapshots and tags of a document, oldest first, the archive's too, with times and `info`. */
  history(id: string): AsyncGenerator<HistoryEntry> {
    this.#assertUsable(id);
    return history(this.#context, id);
  }

  /**
   * Names the version at `at` (a clock, another tag, or a date; default: the head), and keeps a verified
   * snapshot of it, whatever is trimmed later. Durable when it resolves; `undefined` when the document does
   * not exist. Rejects with `TAG_EXISTS`, `TAG_UNKNOWN`, `TRIMMED`, `ARGUMENT_INVALID` (a name or a count
   * over its limit), `CORRUPT` or `BUSY`: nothing was tagged. Costs the document once.
   */
  async tag(id: string, name: string, at?: Moment): Promise<Tag | undefined> {
    checkTagName(id, name, this.#context.limits);
    if (at !== undefined) checkMoment(id, at);
    return this.#maintain(id, (site) => tagDocument(site, name, at));
  }

  /** The tags of a document, by clock. One read. */
  async tags(id: string): Promise<readonly Tag[]> {
    this.#assertUsable(id);
    return listTags(this.#context, id);
  }

  /** Forgets a tag and removes its snapshot. Resolves, with whether it existed, when that is durable. */
  async untag(id: string, name: string): Promise<boolean> {
    return this.#maintain(id, (site) => untagDocument(site, name));
  }

  /** Ids in the order of their UTF-8 bytes; deleted ones are left out. Costs one page at a time. */
  list(options: ListOptions = {}): AsyncGenerator<string> {
    this.#assertReady("list", options);
    return listDocuments(this.#context, options);
  }

  /** Clocks, counts, bytes and times; `undefined`: there is no such document. Two or three small reads. */
  async info(id: string, options: InfoOptions = {}): Promise<DocumentInfo | undefined> {
    this.#assertUsable(id, "info", options);
    return askInfo(this.#context, id, await this.#logs.get(id).head(), options);
  }

  /**
   * Bytes that bring a peer at `peerVersion` up to date, from stored bytes, without building the document
   * where the model can; `undefined` when the document does not exist. Rejects with `ARGUMENT_INVALID` for
   * bytes that are no version, and like `load`.
   */
  async diff(id: string, peerVersion: Uint8Array): Promise<Uint8Array | undefined> {
    this.#assertUsable(id);
    return diffDocument(this.#context, id, peerVersion);
  }

  /**
   * Takes a verified snapshot of the whole log, then trims the events it covers, keeping an older snapshot
   * and the events after that; what is trimmed is dropped or archived, as `history` says. Safe while others
   * append, and after a crash at any step. Resolves with what it did; see `CompactResult.outcome`. Costs the
   * document once; appends and loads go on.
   */
  async compact(id: string, options: CompactOptions = {}): Promise<CompactResult> {
    assertOptions("compact", options);
    const result = await this.#maintain(id, (site) => compactDocument(site, options));
    if (options.reclaim && !options.dryRun) await this.#context.guard.reclaim();
    return result;
  }

  /** `compact` for many documents, with bounded memory and concurrency. See `CompactAllOptions`. */
  async compactAll(options: CompactAllOptions = {}): Promise<CompactAllResult> {
    this.#assertReady("compactAll", options);
    const result = await compactAll(this.#context.env, options, {
      list: (prefix) => this.list(prefix === undefined ? {} : { prefix }),
      info: (id) => this.info(id),
      compact: (id, compactOptions) => this.compact(id, compactOptions),
      busy: () => this.#context.inFlight.bytes > 0,
      poisoned: () => this.#context.guard.poison !== undefined,
    });
    const { stopped } = result;
    if (options.reclaim && !options.dryRun && stopped !== "signal" && stopped !== "poisoned")
      await this.#context.guard.reclaim();
    return result;
  }

  /**
   * Removes the document and leaves a tombstone: its clocks are never used again. Resolves, with whether it
   * existed, when the tombstone is durable and its keys are swept. One that is damaged goes as well.
   */
  async delete(id: string): Promise<boolean> {
    this.#assertUsable(id);
    return deleteDocument(this.#removal(id));
  }

  /**
   * Removes the document so that none of its bytes is left, nor its id: no key holds them when it resolves,
   * and, unless `reclaim: false`, no file of the backend. What damage set aside of it goes as well. A hash of
   * the id keeps the clock: a later append or open is `DELETED`. Works on a deleted id too.
   *
   * It takes several commits: after a failure or a crash call it again. A document that is damaged goes as
   * well. Reclaiming costs up to the whole store, read and written.
   */
  async erase(id: string, options: EraseOptions = {}): Promise<EraseResult> {
    this.#assertUsable(id, "erase", options);
    const result = await eraseDocument(this.#removal(id));
    if (options.reclaim !== false) await this.#context.guard.reclaim();
    return result;
  }

  /**
   * Makes a document `newId` out of the first `at` events of `id`, with their history; `undefined` when there
   * is no document `id`. It appears as a whole: of two forks to one id one wins. Verified and durable when it
   * resolves. Costs what is copied, once read and once written; appends to `id` go on.
   *
   * Rejects with `EXISTS` (there is a document `newId`), `DELETED` (there was one: see `recreate`), `BUSY`
   * (another fork or import to it is under way), `TRIMMED` or `ARGUMENT_INVALID` for the clock, `CORRUPT`.
   * Then there is no fork. With `OUTCOME_UNKNOWN` there may be one: `recover()`, and look.
   */
  async fork(id: string, newId: string, options: ForkOptions = {}): Promise<ForkResult | undefined> {
    assertOptions("fork", options);
    checkId(newId, this.#context.limits.idBytesMax);
    return this.#maintain(id, () => forkDocument(this.#context, id, this.#logs.get(newId), options));
  }

  /**
   * The document with its history, snapshots, tags and held events as a stream of bytes, as it was when the
   * stream began; nothing when there is no document. Holds one page in memory; writers go on. Ends with
   * `CORRUPT`, `DELETED` when the document goes away meanwhile, and with `at` like `fork`.
   */
  export(id: string, options: ExportOptions = {}): AsyncGenerator<Uint8Array> {
    this.#assertUsable(id, "export", options);
    return exportDocument(this.#context, id, options);
  }

  /**
   * Makes a document out of an exported stream, whole or not at all: nothing of it is visible before its end
   * was read and judged. Durable when it resolves. Importing the same again resolves as `unchanged`.
   * Rejects with `EXPORT_INVALID` (no export, not whole, or changed), `FORMAT_UNSUPPORTED`, what the stream
   * throws, and like `fork`: then there is no document.
   */
  async import(stream: AsyncIterable<Uint8Array>, options: ImportOptions = {}): Promise<ImportResult> {
    this.#assertReady("import", options);
    if (options.id !== undefined) checkId(options.id, this.#context.limits.idBytesMax);
    return importDocument(this.#context, (id) => this.#logs.get(id), stream, options);
  }

  /**
   * Copies all documents to another open storage while both are in use. Each is copied as it is when its turn
   * comes, read back, and named in the result with its clock; deletions and erasures are carried. A second
   * run waits for the first, and writes only what is new, also after a stop or a crash. A document's failure
   * is reported and stops no other; rejects when a storage fails or closes, and with an abort's reason.
   */
  async copyTo(target: DocumentStorage<readonly AnyModel[]>, options: CopyOptions = {}): Promise<CopyResult> {
    this.#assertReady("copyTo", options);
    const isStorage = #context in Object(target);
    if (!isStorage || target.#context === this.#context) throw noTarget(target, isStorage);
    target.#assertReady();
    return copyStore(this.#context, target.#context, (id) => target.#removal(id), options);
  }

  /** Verifies every invariant of one document or of all; changes nothing unless told to `repair`. */
  async check(options: CheckOptions = {}): Promise<CheckReport> {
    this.#assertReady("check", options);
    if (options.id !== undefined) checkId(options.id, this.#context.limits.idBytesMax);
    await this.#settled();
    const checked = checkStorage(this.#context, this.#folder, options);
    return options.repair ? checked.finally(() => this.#logs.forget()) : checked;
  }

  /**
   * Resolves when everything handed in before the call is durable or has failed, background snapshots
   * included, and what handles with `autoSave` had unsaved is durable. Rejects like `save` when that could
   * not be saved, and names the documents in `details.ids`.
   */
  async flush(): Promise<void> {
    this.#assertReady();
    const unsaved = await this.#handles.save(({ savesItself }) => savesItself);
    await this.#settled();
    if (unsaved.length > 0) throw unsavedError(unsaved);
  }

  /**
   * After `OUTCOME_UNKNOWN` or `POISONED`: closes the backend, opens it again, reads the heads anew, and
   * settles the commits whose outcome was unknown by their ids. Handles stay valid and keep their unsaved
   * events. Rejects with what opening rejects with (the disk is still full, say); then all calls reject with
   * `POISONED`, reads as well: call it again later.
   */
  async recover(): Promise<RecoverReport> {
    this.#assertOpen();
    this.#recovering ??= this.#reopen()
      .finally(() => {
        this.#recovering = undefined;
        this.#pulse.beat();
      })
      .then((report) => {
        for (const handle of this.#handles) handle.resume();
        return report;
      });
    return this.#recovering;
  }

  /**
   * Saves what handles have unsaved, unless told to `discard` it, waits for what is in flight, and releases
   * the backend. Rejects with the code of the failure when something could not be saved, and names the
   * documents in `details.ids`; else with what closing the backend rejects with. The lock is free all the
   * same.
   */
  async close(options: CloseOptions = {}): Promise<void> {
    assertOptions("close", options);
    this.#closing ??= this.#release(options.discard === true);
    this.#pulse.beat();
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  get #owner() {
    return {
      context: this.#context,
      policy: this.#policy,
      pulse: this.#pulse,
      handles: this.#handles,
      isReady: () => this.#closing === undefined && this.#recovering === undefined,
      assertOpen: () => this.#assertOpen(),
      assertReady: () => this.#assertReady(),
      log: (id: string) => this.#logs.get(id),
      snapshot: (id: string, live: LiveSource) => this.#maintain(id, (site) => snapshotDocument(site, live)),
      snapshotLater: (id: string, live: LiveSource) => this.#snapshotLater(id, live),
      compact: (id: string, options?: CompactOptions) => this.compact(id, options),
    };
  }

  async #reopen(): Promise<RecoverReport> {
    await this.#logs.idle();
    await reopenGuard(this.#context, this.#factory);
    this.#logs.forget();
    const settled = await settleCommits(this.#context, this.#unknown, this.#handles);
    for (const { id, end, applied } of settled) if (applied) this.#logs.get(id).announce(end);
    return { settled };
  }

  async #release(discard: boolean): Promise<void> {
    await this.#recovering?.catch(() => undefined);
    const failed = discard ? [] : await this.#handles.save(() => true);
    const failures: unknown[] = [];
    const note = (error: unknown) => void failures.push(error);
    await this.#idle().catch(note);
    await this.#folder.close().catch(note);
    // From here on nothing is taken. What was edited while the rest ended is unsaved as well.
    const left = this.#handles.abandon(failed);
    await this.#context.guard.close().catch(note);
    if (!discard && left.length > 0) throw unsavedError(left);
    if (failures.length > 0) throw failures[0];
  }

  /** What was handed in before is durable or has failed; others may go on meanwhile. */
  async #settled(): Promise<void> {
    await this.#logs.settled();
    await this.#background.idle();
    await this.#maintenance.idle();
  }

  async #idle(): Promise<void> {
    await this.#logs.idle();
    await this.#settled();
    await this.#context.guard.idle();
  }

  #removal(id: string): Removal {
    const at = { context: this.#context, handles: this.#handles, log: this.#logs.get(id) };
    return { ...at, lane: (task) => this.#lane(id, task) };
  }

  #maintain<T>(id: string, task: (site: Site) => Promise<T>): Promise<T> {
    this.#assertUsable(id);
    return this.#lane(id, task);
  }

  /** The log stays the one of its id from the call on. */
  #lane<T>(id: string, task: (site: Site) => Promise<T>): Promise<T> {
    const log = this.#logs.get(id);
    const site = { context: this.#context, folder: this.#folder, log };
    return log.hold(() => this.#maintenance.run(id, () => task(site)));
  }

  #appended({ id }: DocumentLog, head: Head): void {
    if (isDue(this.#context, this.#policy, id, head)) this.#snapshotLater(id);
  }

  /** One background snapshot per document at a time; its failure is reported, and harms nothing. */
  #snapshotLater(id: string, live?: LiveSource): void {
    if (this.#closing !== undefined) return;
    const failed = (error: unknown) => snapshotFailed(this.#context, { id, error });
    const run = () => this.#lane(id, (site) => snapshotDocument(site, live)).catch(failed);
    this.#background.add(this.#logs.get(id), run);
  }

  #assertUsable(id: string, call?: Call, options?: object): void {
    this.#assertReady(call, options);
    checkId(id, this.#context.limits.idBytesMax);
  }

  #assertReady(call?: Call, options: object = NO_OPTIONS): void {
    if (call !== undefined) assertOptions(call, options);
    this.#assertOpen();
    if (this.#recovering !== undefined) throw recovering();
    this.#context.guard.assertOpen();
  }

  #assertOpen(): void {
    if (this.#closing !== undefined) throw new CoppiceError("CLOSED", "the storage is closed");
  }
}
