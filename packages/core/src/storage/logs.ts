/**
 * The logs of a storage: one `DocumentLog` per document that was used lately, and never two for one id.
 *
 * Invariant: at most `limits.headsMax` idle logs are kept, whatever the number of documents; busy ones stay.
 */

import type { Context } from "./context.js";
import { DocumentLog, type UnknownCommit } from "./document-log.js";
import type { Head } from "./head.js";

export class Logs {
  readonly #context: Context;
  readonly #onAppended: (log: DocumentLog, head: Head) => void;
  readonly #onUnknown: (unknown: UnknownCommit) => void;
  /** The one that was used last stands last, from when it may be needed. */
  readonly #logs = new Map<string, DocumentLog>();
  #newest: DocumentLog | undefined;

  constructor(
    context: Context,
    onAppended: (log: DocumentLog, head: Head) => void,
    onUnknown: (unknown: UnknownCommit) => void,
  ) {
    this.#context = context;
    this.#onAppended = onAppended;
    this.#onUnknown = onUnknown;
  }

  get(id: string): DocumentLog {
    if (this.#newest?.id === id) return this.#newest;
    let log = this.#logs.get(id);
    if (log === undefined) {
      log = new DocumentLog(id, this.#context, this.#onAppended, this.#onUnknown);
      this.#evict();
      this.#logs.set(id, log);
    } else if (this.#logs.size > this.#context.limits.headsMax / 2) {
      this.#logs.delete(id);
      this.#logs.set(id, log);
    }
    this.#newest = log;
    return log;
  }

  /** The next use of each document reads its head again. */
  forget(): void {
    for (const log of this.#logs.values()) log.forget();
  }

  /** Resolves when no append is queued or in flight. */
  async idle(): Promise<void> {
    for (;;) {
      const busy = [...this.#logs.values()].filter((log) => log.pumping);
      if (busy.length === 0) return;
      await Promise.all(busy.map((log) => log.idle()));
    }
  }

  /**
   * Resolves when the appends that are queued or in flight now have settled. What is appended meanwhile is
   * not waited for: writers that never pause would else hold it up for ever.
   */
  async settled(): Promise<void> {
    const busy = [...this.#logs.values()].filter((log) => log.pumping);
    // A failure is told to the appends that failed; here it only means that they have settled.
    await Promise.all(busy.map((log) => log.exclusively(async () => undefined).catch(() => undefined)));
  }

  #evict(): void {
    if (this.#logs.size < this.#context.limits.headsMax) return;
    for (const [id, log] of this.#logs) {
      if (log.busy) continue;
      this.#logs.delete(id);
      return;
    }
  }
}
