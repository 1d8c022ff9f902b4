/**
 * The logs of `AutomergeRepoDocuments`: which of the changes that automerge-repo hands over are new, and
 * appends those.
 *
 * automerge-repo saves a small document whole each time. To learn what of it is new, the stored document
 * would have to be built each time as well; instead it is remembered what a log holds. That is only believed
 * where storage confirms it: the append expects the very state of the log that it was remembered of.
 *
 * Invariants:
 * - what is remembered is true: all of the past of `heads` is in the log while `token` names its state;
 *   a change whose parents are not surely there ends the memory;
 * - without a memory, or when somebody else has changed the document, the stored document decides.
 */

import * as Automerge from "@automerge/automerge";
import { ABSENT, CoppiceError, type DocumentStorage, isCoppiceError } from "coppice";
import { type ChangeNode, readChange } from "./changes.js";
import { splitChunks } from "./chunk.js";
import type { AutomergeModel } from "./model.js";
import { headsOf } from "./tracker.js";

const MODEL = "automerge";
/** Changes in one append. */
const APPEND_EVENTS_MAX = 10_000;
/** Documents of which is remembered what their log holds: some hundred bytes each. */
const REMEMBERED_MAX = 10_000;
/** Comparisons with a document that others keep changing, before a change may be stored twice. */
const COMPARISONS_MAX = 4;

type Doc = Automerge.Doc<unknown>;

interface Comparison {
  /** What the log lacks. */
  readonly added: readonly Uint8Array[];
  /** Heads of what it has. */
  readonly stored: readonly string[];
}

interface Memory {
  readonly heads: ReadonlySet<string>;
  readonly token: string;
}

/** Calls about one document must not overlap. */
export class RepoLog {
  readonly #storage: DocumentStorage<readonly AutomergeModel[]>;
  readonly #mayRecreate: boolean;
  /** In the order of the last save. */
  readonly #memories = new Map<string, Memory>();

  /** `mayRecreate`: what is appended to a deleted document begins it anew; else it is `DELETED`. */
  constructor(storage: DocumentStorage<readonly AutomergeModel[]>, mayRecreate: boolean) {
    this.#storage = storage;
    this.#mayRecreate = mayRecreate;
  }

  /** Appends changes; with `compare`, only those that the stored document lacks. */
  async appendChanges(id: string, changes: readonly Uint8Array[], compare: boolean): Promise<void> {
    const memory = this.#recall(id);
    const added = compare ? await this.#unstored(id, changes) : changes;
    const heads = memory && headsAfter(memory.heads, added);
    const appended = heads !== undefined && (await this.#appendTo(id, added, heads, memory!.token));
    if (!appended) await this.#append(id, added);
  }

  /** Appends what the log lacks of a saved document. Rejects with `EVENT_INVALID` for bytes that are none. */
  async appendDocument(id: string, data: Uint8Array): Promise<void> {
    const saved = documentIn(id, data);
    const memory = this.#recall(id);
    try {
      const heads = new Set(headsOf(saved));
      if (memory !== undefined && Automerge.hasHeads(saved, [...memory.heads])) {
        const added = Automerge.getChangesSince(saved, [...memory.heads]);
        if (await this.#appendTo(id, added, heads, memory.token)) return;
      }
      for (let comparison = 0; comparison < COMPARISONS_MAX; comparison++) {
        const { token } = (await this.#storage.info(id)) ?? { token: ABSENT };
        const { added, stored } = token === ABSENT ? all(saved) : await this.#compare(id, saved);
        const joined = new Set([...heads, ...stored]);
        if (added.length === 0 || (await this.#appendTo(id, added, joined, token))) return;
      }
      await this.#append(id, (await this.#compare(id, saved)).added);
    } finally {
      Automerge.free(saved);
    }
  }

  /** To be called when a document goes. */
  forget(id: string): void {
    this.#memories.delete(id);
  }

  /** Takes it out, so that a save that fails leaves none behind. */
  #recall(id: string): Memory | undefined {
    const memory = this.#memories.get(id);
    this.#memories.delete(id);
    return memory;
  }

  /**
   * Appends if the log is in the state that `token` names, and remembers that it holds the past of `heads`
   * then. `false`: it is in another state, or there is nothing that could prove it, or too much for one
   * append; nothing was written.
   */
  async #appendTo(
    id: string,
    changes: readonly Uint8Array[],
    heads: ReadonlySet<string>,
    token: string,
  ): Promise<boolean> {
    if (changes.length === 0 || changes.length > APPEND_EVENTS_MAX) return false;
    try {
      const appended = await this.#storage.append(id, changes, { model: MODEL, expected: token });
      this.#remember(id, { heads, token: appended.token });
      return true;
    } catch (error) {
      if (isCoppiceError(error, "HEAD_CONFLICT")) return false;
      await this.#recreate(id, error);
      return false;
    }
  }

  #remember(id: string, memory: Memory): void {
    // Somebody else may repair a shared store, and what is lost in a repair elsewhere no token tells here.
    if (!this.#storage.traits.exclusive) return;
    this.#memories.set(id, memory);
    const [oldest] = this.#memories.keys();
    if (this.#memories.size > REMEMBERED_MAX) this.#memories.delete(oldest!);
  }

  /** Whatever state the log is in. */
  async #append(id: string, changes: readonly Uint8Array[]): Promise<void> {
    for (let from = 0; from < changes.length; from += APPEND_EVENTS_MAX) {
      const some = changes.slice(from, from + APPEND_EVENTS_MAX);
      try {
        await this.#storage.append(id, some, { model: MODEL });
      } catch (error) {
        await this.#recreate(id, error);
        await this.#storage.append(id, some, { model: MODEL });
      }
    }
  }

  /** After an append that failed; throws the error where that is not the reason, or it may not come back. */
  async #recreate(id: string, error: unknown): Promise<void> {
    if (!this.#mayRecreate || !isCoppiceError(error, "DELETED")) throw error;
    await (await this.#storage.open(id, { model: MODEL, recreate: true })).close();
  }

  async #compare(id: string, saved: Doc): Promise<Comparison> {
    const handle = await this.#storage.load<Doc>(id);
    if (handle === undefined) return all(saved);
    try {
      const stored = Automerge.getHeads(handle.doc);
      if (Automerge.hasHeads(saved, stored)) {
        return { added: Automerge.getChangesSince(saved, stored), stored };
      }
      // Somebody else has stored what this document lacks: compare them change by change.
      const hashes = Automerge.getChangesMetaSince(saved, []).map(({ hash }) => hash);
      const backend = Automerge.getBackend(saved);
      const added = hashes
        .filter((hash) => !Automerge.hasHeads(handle.doc, [hash]))
        .map((hash) => backend.getChangeByHash(hash)!);
      return { added, stored };
    } finally {
      await handle.close({ discard: true });
    }
  }

  async #unstored(id: string, changes: readonly Uint8Array[]): Promise<readonly Uint8Array[]> {
    const stored = await this.#storage.load<Doc>(id);
    if (stored === undefined) return changes;
    try {
      return changes.filter((change) => !Automerge.hasHeads(stored.doc, [hashOf(id, change)]));
    } finally {
      await stored.close({ discard: true });
    }
  }
}

function all(saved: Doc): Comparison {
  return { added: Automerge.getAllChanges(saved), stored: [] };
}

/** The changes in what automerge-repo saved. Throws `EVENT_INVALID`. */
export function changesIn(id: string, data: Uint8Array): Uint8Array[] {
  try {
    const chunks = splitChunks(data);
    if (chunks.some(({ type }) => type !== "change")) throw new TypeError("a document among changes");
    return chunks.map(({ bytes }) => bytes);
  } catch (error) {
    throw invalid(id, error);
  }
}

function documentIn(id: string, data: Uint8Array): Doc {
  try {
    return Automerge.load<unknown>(data);
  } catch (error) {
    throw invalid(id, error);
  }
}

/** The heads with these changes; `undefined` when the parents of one may be missing, or one is no change. */
function headsAfter(
  heads: ReadonlySet<string>,
  changes: readonly Uint8Array[],
): ReadonlySet<string> | undefined {
  const next = new Set(heads);
  const present = new Set(heads);
  for (const change of changes) {
    let node: ChangeNode;
    try {
      node = readChange(change);
    } catch {
      // Storage says so when it is to be appended.
      return undefined;
    }
    if (!node.deps.every((dep) => present.has(dep))) return undefined;
    for (const dep of node.deps) next.delete(dep);
    next.add(node.hash);
    present.add(node.hash);
  }
  return next;
}

function hashOf(id: string, change: Uint8Array): string {
  try {
    return readChange(change).hash;
  } catch (error) {
    throw invalid(id, error);
  }
}

function invalid(id: string, cause: unknown): CoppiceError {
  return new CoppiceError("EVENT_INVALID", "these are no changes of Automerge; nothing was written", {
    cause,
    details: { id },
  });
}
