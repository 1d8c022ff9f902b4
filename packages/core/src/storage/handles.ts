/**
 * The handles of one storage that are open, drop-ins beside them, and which of them have something unsaved.
 *
 * It saves when told to, and names what could not be saved; when to save by itself a handle knows.
 *
 * Invariant: a handle that nobody refers to any more can be collected, unless it has unsaved events: then it
 * is kept until they are saved or discarded, so that `flush` and `close` do not depend on the collector.
 */

import { CoppiceError, isCoppiceError } from "../base/errors.js";
import { checkId } from "../contract/keys.js";
import { type Context, modelOf } from "./context.js";
import { diffDocument } from "./diff.js";
import type { AppendResult, DocumentLog } from "./document-log.js";
import type { DocumentHandle } from "./handle.js";
import { deletedError, identityIn, incomingError } from "./head.js";
import { type DocumentInfo, documentInfo } from "./queries.js";

/** What a storage asks of its handles: `finish` saves what is unsaved now, also while the storage closes. */
export interface OpenHandle extends Saver {
  /** Its document, if it has this identity, is gone: what it knows is no state of what has the id now. */
  displace(identity?: string): void;
  /** It was opened with `autoSave`. */
  readonly savesItself: boolean;
  /** After a recovery: goes on to save by itself. */
  resume(): void;
  settle(commitId: Uint8Array, clock: number | undefined): void;
  /** The storage has closed. */
  abandon(): void;
}

/**
 * A drop-in that captures events of a document by itself, and stores them: `flush` and `close` of the storage
 * wait for it, and name the document when it fails.
 */
export interface Saver {
  readonly id: string;
  /** It has something that is not durable, and may become so. */
  readonly mustSave: boolean;
  /** Resolves when what it has now is durable; rejects when the next try to store it fails. */
  finish(): Promise<unknown>;
}

/**
 * What a `Saver` has of its storage: calls that do as those of the storage, and until that has closed: while
 * it closes as well.
 */
export interface Attachment {
  /**
   * `token`: of what the saver knows; rejects with `DELETED` when the document was deleted since, also where
   * another has its id. `recreate`: begins a deleted document anew with these events; where there is one
   * again they are not stored, and it resolves with `duplicate`.
   */
  append(
    events: readonly unknown[],
    model: string,
    options?: { readonly token?: string | undefined; readonly recreate?: boolean },
  ): Promise<AppendResult>;
  /** A load begins with it, or with `load`: whatever has displaced what the saver had before is forgotten. */
  info(id: string): Promise<DocumentInfo | undefined>;
  diff(id: string, peerVersion: Uint8Array): Promise<Uint8Array | undefined>;
  load<Doc>(id: string): Promise<DocumentHandle<Doc> | undefined>;
  /**
   * Asked when no document was found under the saver's id: `false` when there is one now. Rejects with `BUSY`
   * while one is brought in, which nobody may take for none; with `DELETED` where the id was used before,
   * unless it may be begun anew.
   */
  isVacant(mayRecreate: boolean): Promise<boolean>;
  /**
   * The backend as it was opened last; `undefined` after a write that failed. What was read while it did not
   * change is durable.
   */
  sound(): object | undefined;
  detach(): void;
}

/** What an `Attachment` goes by. Throws, or rejects, where nothing can be stored. */
export interface Access {
  log(id: string): DocumentLog;
  load<Doc>(id: string): Promise<DocumentHandle<Doc> | undefined>;
}

/** So many ids are named at most. */
const NAMED_MAX = 100;

/** The identity of no document: who has it is told `DELETED` by whatever is asked. */
export const DISPLACED = "displaced";

export class Handles {
  readonly #open = new Set<WeakRef<OpenHandle>>();
  readonly #unsaved = new Set<OpenHandle>();
  readonly #savers = new Set<Saver>();
  readonly #displaced = new WeakSet<Saver>();
  #abandoned = false;

  /** The storage has closed. */
  get abandoned(): boolean {
    return this.#abandoned;
  }

  *[Symbol.iterator](): Generator<OpenHandle> {
    for (const reference of this.#open) {
      const handle = reference.deref();
      if (handle !== undefined) yield handle;
    }
  }

  add(handle: OpenHandle): void {
    if (this.#open.size % 1024 === 1023) this.#forget();
    this.#open.add(new WeakRef(handle));
  }

  attach(saver: Saver, context: Context, { log: logOf, load }: Access): Attachment {
    const log = (id: string) => {
      // A poisoned backend says so also when it is closed, and whoever hears that tries again.
      if (this.#abandoned) throw new CoppiceError("CLOSED", "the storage is closed");
      checkId(id, context.limits.idBytesMax);
      return logOf(id);
    };
    this.#savers.add(saver);
    return {
      append: async (events, model, { token, recreate } = {}) => {
        const loaded = token === undefined ? undefined : identityIn(token);
        // Who has loaded nothing has lost nothing to a claim: what it knows from here on is what this tells.
        if (loaded === undefined) this.#displaced.delete(saver);
        return log(saver.id).append({
          events,
          model: modelOf(context, model, saver.id),
          identity: () => (loaded !== undefined && this.#displaced.has(saver) ? DISPLACED : loaded),
          attached: true,
          mode: recreate ? "recreate" : "append",
        });
      },
      info: async (id) => {
        this.#displaced.delete(saver);
        return documentInfo(id, await log(id).head());
      },
      diff: async (id, peerVersion) => diffDocument(context, log(id).id, peerVersion),
      load: async (id) => {
        this.#displaced.delete(saver);
        return load(log(id).id);
      },
      isVacant: async (mayRecreate) => {
        const { meta } = await log(saver.id).head();
        // A claim looks like a tombstone, also of an id that was never used: what comes of it nobody knows.
        if (meta?.incoming !== undefined) throw incomingError(saver.id);
        if (meta?.deleted !== undefined && !mayRecreate) throw deletedError(saver.id);
        return meta === undefined || meta.deleted !== undefined;
      },
      sound: () => (context.guard.poison === undefined ? context.guard : undefined),
      detach: () => void this.#savers.delete(saver),
    };
  }

  /**
   * A claim has taken the place of the document of this id: those who have loaded it end, as if it had been
   * deleted. Where something lands in its place without a claim, or after one, meta tells (`identityOf`); but
   * a claim that is given up leaves nothing that tells.
   */
  displace(id: string): void {
    for (const handle of this) if (handle.id === id) handle.displace();
    for (const saver of this.#savers) if (saver.id === id) this.#displaced.add(saver);
  }

  /**
   * The document of this id that had this identity was deleted, erased or replaced. Savers ask with each
   * append which one they know; handles also wait for what others do.
   */
  bury(id: string, identity: string): void {
    for (const handle of this) if (handle.id === id) handle.displace(identity);
  }

  /** It has something unsaved. */
  hold(handle: OpenHandle): void {
    this.#unsaved.add(handle);
  }

  /** It was saved: unless something is unsaved again, it need not be kept. */
  letGo(handle: OpenHandle): void {
    if (!mustSave(handle)) this.#unsaved.delete(handle);
  }

  remove(handle: OpenHandle): void {
    this.#unsaved.delete(handle);
    this.#forget(handle);
  }

  /** Saves handles that `which` names, and has savers do so. Resolves with what failed, and never rejects. */
  async save(which: (handle: OpenHandle) => boolean): Promise<readonly Unsaved[]> {
    const failed: Unsaved[] = [];
    const save = (saver: Saver) =>
      saver.finish().catch((error: unknown) => {
        failed.push({ id: saver.id, error, isFinal: !mustSave(saver) });
      });
    await Promise.all([...[...this].filter(which), ...this.#savers].filter(mustSave).map(save));
    return failed;
  }

  /** Nothing more becomes durable. Returns what is unsaved, with why it is: one of those that `failed`. */
  abandon(failed: readonly Unsaved[]): readonly Unsaved[] {
    this.#abandoned = true;
    const unsaved = [...this, ...this.#savers].filter(mustSave).map(({ id }) => id);
    for (const handle of this) handle.abandon();
    this.#unsaved.clear();
    this.#savers.clear();
    const late = new CoppiceError("CLOSED", "it was edited while the storage closed");
    const lost = failed.filter(({ isFinal }) => isFinal);
    return [
      ...lost,
      ...unsaved.map((id) => failed.find((failure) => failure.id === id) ?? { id, error: late }),
    ];
  }

  /** Drops references to handles that were collected, and to the one that closed. */
  #forget(closed?: OpenHandle): void {
    for (const reference of this.#open) {
      const handle = reference.deref();
      if (handle === undefined || handle === closed) this.#open.delete(reference);
    }
  }
}

/** A document that cannot even be asked (its library panicked) has something that cannot be saved. */
function mustSave(saver: Saver): boolean {
  try {
    return saver.mustSave;
  } catch {
    return true;
  }
}

export interface Unsaved {
  readonly id: string;
  readonly error: unknown;
  /** It is not tried again. */
  readonly isFinal?: boolean;
}

/** The error that names them, with the code of the first failure, or of one that may have written. */
export function unsavedError(
  unsaved: readonly Unsaved[],
  message = "events of these documents were not saved",
): CoppiceError {
  const cause = (unsaved.find(({ error }) => isCoppiceError(error, "OUTCOME_UNKNOWN")) ?? unsaved[0])?.error;
  const ids = [...new Set(unsaved.map(({ id }) => id))];
  const code = isCoppiceError(cause) ? cause.code : "EVENT_INVALID";
  return new CoppiceError(code, message, {
    cause,
    details: { ids: ids.slice(0, NAMED_MAX), documents: ids.length },
  });
}
