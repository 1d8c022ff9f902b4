/**
 * What changes in the store, told to those who watch, and the compactions since the start.
 *
 * It hears what the storage tells its observer, what the routes do, and who comes and goes. Changes that
 * gather within a tick are told together, so a watcher gets at most four messages a second however much
 * happens. It is a hint to look again, and not the data: names beyond a bound become "others too".
 *
 * Invariants: nothing waits for a watcher; one that does not read is told of everything at once when it
 * reads again, and is cut off when it does not for `slowMs`; there are at most `watchersMax`; `close` ends
 * them all.
 */

import type { ChangeAnswer, FiguresAnswer, Mark } from "./http/answers.js";
import type { ServerLimits } from "./limits.js";
import type { ServerMetrics, StoreFact } from "./metrics.js";

/** Where the messages of one watcher go. */
export interface WatcherPort {
  /** Resolves when it was handed on. */
  readonly send: (change: ChangeAnswer) => Promise<void>;
  /** The watcher is over: it said goodbye, was too slow, may not watch any more, or the server closes. */
  readonly end: (isCut: boolean) => void;
  /** Asked again every `reauthorizeMs`. */
  readonly mayGoOn: () => Promise<boolean>;
}

interface Watcher extends WatcherPort {
  readonly wantsFigures: boolean;
  readonly documents: Set<string>;
  others: boolean;
  figures: FiguresAnswer | undefined;
  /** Since when a message is on its way. */
  sendingSince: number | undefined;
  sentAt: number;
  permittedAt: number;
}

export interface ChangesOptions {
  readonly limits: ServerLimits;
  /** Absent where the storage tells nobody: then there is nothing to watch. */
  readonly metrics: ServerMetrics | undefined;
  readonly figures: () => Promise<FiguresAnswer>;
  readonly onError: (error: unknown, facts: { readonly document?: string }) => void;
}

const TICK_MS = 250;
const FIGURES_MS = 1_000;

export class Changes {
  /** Wall time since which compactions are remembered; `undefined`: none are heard of. */
  readonly since: number | undefined;
  readonly #options: ChangesOptions;
  readonly #stopHearing: (() => void) | undefined;
  readonly #watchers = new Set<Watcher>();
  /** The least recently compacted document first. */
  readonly #compactions = new Map<string, Mark[]>();
  readonly #documents = new Set<string>();
  #others = false;
  /** Commits that nothing else has explained by the next tick. */
  #commits = false;
  #timer: NodeJS.Timeout | undefined;
  #figuresAt = 0;
  #isAsking = false;
  #closed = false;

  constructor(options: ChangesOptions) {
    this.#options = options;
    const { metrics } = options;
    this.since = metrics === undefined ? undefined : Date.now();
    this.#stopHearing = metrics?.listen((fact) => this.#heard(fact));
  }

  get watcherCount(): number {
    return this.#watchers.size;
  }

  /** Compactions of a document since the start that trimmed something, the oldest first. */
  compactionsOf(id: string): readonly Mark[] {
    return this.#compactions.get(id) ?? [];
  }

  /** This document has changed in a way that no observer is told of. */
  note(id: string): void {
    if (this.#watchers.size === 0) return;
    if (this.#documents.size < this.#options.limits.changedIdsMax) this.#documents.add(id);
    else if (!this.#documents.has(id)) this.#others = true;
  }

  /**
   * Tells `port` of changes until the returned function is called; `undefined` when there are too many
   * watchers, or nothing is heard.
   */
  watch(port: WatcherPort, wantsFigures: boolean): (() => void) | undefined {
    if (this.#closed || this.since === undefined) return undefined;
    if (this.#watchers.size >= this.#options.limits.watchersMax) return undefined;
    const now = performance.now();
    const watcher: Watcher = {
      ...port,
      wantsFigures,
      documents: new Set(),
      others: false,
      figures: undefined,
      sendingSince: undefined,
      sentAt: Number.NEGATIVE_INFINITY,
      permittedAt: now,
    };
    this.#watchers.add(watcher);
    this.#timer ??= setInterval(() => this.#tick(), TICK_MS).unref();
    this.#send(watcher, now);
    return () => this.#leave(watcher);
  }

  close(): void {
    this.#closed = true;
    this.#stopHearing?.();
    for (const watcher of [...this.#watchers]) this.#end(watcher, false);
  }

  #heard(fact: StoreFact): void {
    if (fact.kind === "commit") this.#commits = true;
    else this.note(fact.id);
    if (fact.kind !== "compact" || fact.outcome !== "compacted" || fact.eventsTrimmed === 0) return;
    const { compactionsMax, compactedDocumentsMax } = this.#options.limits;
    const { id, clock, bytesTrimmed: bytes } = fact;
    const known = this.#compactions.get(id) ?? [];
    this.#compactions.delete(id);
    this.#compactions.set(
      id,
      [...known, { kind: "compaction" as const, clock, time: Date.now(), bytes }].slice(-compactionsMax),
    );
    if (this.#compactions.size <= compactedDocumentsMax) return;
    const [oldest] = this.#compactions.keys();
    if (oldest !== undefined) this.#compactions.delete(oldest);
  }

  #tick(): void {
    const now = performance.now();
    // A commit without a name: a deletion by another process, a tag, a step of a compaction.
    const others = this.#others || (this.#commits && this.#documents.size === 0);
    const documents = [...this.#documents];
    this.#documents.clear();
    this.#others = false;
    this.#commits = false;
    for (const watcher of [...this.#watchers]) {
      this.#gather(watcher, documents, others);
      if (!this.#isStuck(watcher, now)) this.#send(watcher, now);
      this.#permit(watcher, now);
    }
    this.#askFigures(now);
  }

  #gather(watcher: Watcher, documents: readonly string[], others: boolean): void {
    for (const id of documents) watcher.documents.add(id);
    if (others) watcher.others = true;
    if (watcher.documents.size <= this.#options.limits.changedIdsMax) return;
    watcher.documents.clear();
    watcher.others = true;
  }

  #isStuck(watcher: Watcher, now: number): boolean {
    if (watcher.sendingSince === undefined) return false;
    if (now - watcher.sendingSince > this.#options.limits.slowMs) this.#end(watcher, true);
    return true;
  }

  #send(watcher: Watcher, now: number): void {
    const { documents, others, figures } = watcher;
    const isNew = documents.size > 0 || others || figures !== undefined;
    // The first message says that it is heard; later ones without news that the server is there.
    if (!isNew && now - watcher.sentAt < this.#options.limits.pingMs) return;
    const change = { documents: [...documents], others, ...(figures === undefined ? {} : { figures }) };
    documents.clear();
    watcher.others = false;
    watcher.figures = undefined;
    watcher.sentAt = now;
    watcher.sendingSince = now;
    watcher
      .send(change)
      .catch(() => this.#end(watcher, true))
      .finally(() => {
        watcher.sendingSince = undefined;
      });
  }

  #permit(watcher: Watcher, now: number): void {
    if (now - watcher.permittedAt < this.#options.limits.reauthorizeMs) return;
    watcher.permittedAt = now;
    watcher
      .mayGoOn()
      .then((may) => may || this.#end(watcher, false))
      .catch((error: unknown) => this.#options.onError(error, {}));
  }

  /** Asked for once for all who want them. */
  #askFigures(now: number): void {
    const wanting = [...this.#watchers].filter(({ wantsFigures }) => wantsFigures);
    if (wanting.length === 0 || this.#isAsking || now - this.#figuresAt < FIGURES_MS - TICK_MS / 2) return;
    this.#figuresAt = now;
    this.#isAsking = true;
    this.#options
      .figures()
      .then((figures) => {
        for (const watcher of wanting) watcher.figures = figures;
      })
      .catch((error: unknown) => this.#options.onError(error, {}))
      .finally(() => {
        this.#isAsking = false;
      });
  }

  #end(watcher: Watcher, isCut: boolean): void {
    if (!this.#watchers.has(watcher)) return;
    this.#leave(watcher);
    watcher.end(isCut);
  }

  #leave(watcher: Watcher): void {
    this.#watchers.delete(watcher);
    if (this.#watchers.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#documents.clear();
    this.#others = false;
    this.#commits = false;
  }
}
