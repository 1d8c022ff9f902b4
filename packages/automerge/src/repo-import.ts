/**
 * Moves the documents of an automerge-repo storage into another one, one by one, each verified from stored
 * bytes.
 *
 * Every chunk is judged by itself, because Automerge leaves out, without a word, all that follows what it
 * cannot read. What is sound is joined, and saved as one snapshot: the target stores what it lacks of it.
 *
 * Invariants: the source is only read. A document counts as moved when it was loaded again from the target
 * and has all that the source shows of it. Repeating an import, after whatever ended it, saves only what is
 * missing. What is damaged in the source is named, and never taken for moved.
 */

import * as Automerge from "@automerge/automerge";
import { checkOptions, isCoppiceError, type OptionKinds } from "coppice";
import { applyEvents } from "./apply.js";
import { reasonOf } from "./changes.js";
import { eachChunk } from "./chunk.js";
import type { RepoStorage } from "./repo-documents.js";
import type { RepoChunk, RepoKey } from "./repo-keys.js";
import { headsOf } from "./tracker.js";

/** What is read of a storage adapter of automerge-repo. */
export type RepoSource = Pick<RepoStorage, "load" | "loadRange">;

export interface ImportedRepoDocument {
  readonly id: string;
  /**
   * `imported`: moved now; `present`: it was there already; `damaged`: moved without what `reason` names,
   * which cannot be read; `failed`: not (wholly) moved.
   */
  readonly outcome: "imported" | "present" | "damaged" | "failed";
  /** Chunks in the source, and the changes that they show. */
  readonly chunks: number;
  readonly changes: number;
  readonly reason?: string;
}

export interface RepoImportOptions {
  /** Told of each document when it is done. */
  readonly onDocument?: (document: ImportedRepoDocument) => void;
  readonly signal?: AbortSignal;
}

export interface RepoImportReport {
  readonly documents: number;
  readonly imported: number;
  readonly present: number;
  /** All that are `damaged` or `failed`. */
  readonly problems: readonly ImportedRepoDocument[];
}

/** What the chunks of a document show, and what is wrong with them. */
interface Reading {
  readonly doc: Automerge.Doc<unknown>;
  readonly chunks: number;
  readonly damaged: readonly string[];
}

const OPTIONS: OptionKinds<RepoImportOptions> = { onDocument: "function", signal: "signal" };
/** The name of the chunk that is saved; automerge-repo takes any, and replaces it by its own. */
const NAME = "imported";
const ADAPTER_ID: RepoKey = ["storage-adapter-id"];

/** Begins the URL of a document, which is what people keep of it. */
const URL_PREFIX = "automerge:";
const WANTS_IDS = "importAutomergeRepo wants a list of document ids, or of their URLs (handle.url)";

/**
 * Imports the documents with these ids or URLs (one with heads: the whole document), and with them what their
 * sync states say of peers; at the end also the id of the storage, if the target has none. Rejects with the
 * signal's reason, where that id cannot be read or saved, and with a `TypeError` at what is no id; failures
 * of single documents are in the report. Holds one document in memory at a time, as the target has it and as
 * the source has it.
 */
export async function importAutomergeRepo(
  source: RepoSource,
  target: RepoStorage,
  ids: Iterable<string> | AsyncIterable<string>,
  options: RepoImportOptions = {},
): Promise<RepoImportReport> {
  checkOptions("importAutomergeRepo", options, OPTIONS);
  if (typeof source?.loadRange !== "function") {
    throw new TypeError(
      "importAutomergeRepo wants the old storage adapter: new NodeFSStorageAdapter(folder)",
    );
  }
  if (typeof target?.loadRange !== "function") {
    throw new TypeError(
      "importAutomergeRepo wants an AutomergeRepoStorage, or AutomergeRepoDocuments, to import into",
    );
  }
  const given = ids as Partial<Iterable<string> & AsyncIterable<string>> | null | undefined;
  const isList = given?.[Symbol.iterator] !== undefined || given?.[Symbol.asyncIterator] !== undefined;
  if (typeof ids === "string" || !isList) throw new TypeError(WANTS_IDS);
  const { onDocument, signal } = options;
  const report = { documents: 0, imported: 0, present: 0 };
  const problems: ImportedRepoDocument[] = [];
  for await (const idOrUrl of ids) {
    signal?.throwIfAborted();
    const document = await importDocument(source, target, idOf(idOrUrl));
    report.documents++;
    if (document.outcome === "imported") report.imported++;
    else if (document.outcome === "present") report.present++;
    else problems.push(document);
    onDocument?.(document);
  }
  signal?.throwIfAborted();
  await carry(target, ADAPTER_ID, await source.load(ADAPTER_ID));
  return { ...report, problems };
}

/** What the storage has the document under. */
function idOf(idOrUrl: unknown): string {
  if (typeof idOrUrl !== "string") throw new TypeError(`${WANTS_IDS}; one is no string`);
  if (!idOrUrl.startsWith(URL_PREFIX)) return idOrUrl;
  return idOrUrl.slice(URL_PREFIX.length).split("#", 1)[0]!;
}

async function importDocument(
  source: RepoSource,
  target: RepoStorage,
  id: string,
): Promise<ImportedRepoDocument> {
  let found: readonly RepoChunk[];
  try {
    found = await chunksOf(source, id);
  } catch (error) {
    return { id, outcome: "failed", chunks: 0, changes: 0, reason: `it cannot be read: ${reasonOf(error)}` };
  }
  const { doc, chunks, damaged } = read(found);
  try {
    const { numChanges: changes } = Automerge.stats(doc);
    const facts = { id, chunks, changes };
    const reason = [...damaged, ...(changes === 0 ? ["the source has no change of it"] : [])].join("; ");
    if (changes === 0) return { ...facts, outcome: "failed", reason };
    try {
      const isNew = !(await hasAll(target, id, doc));
      if (isNew) {
        await target.save([id, "snapshot", NAME], Automerge.save(doc));
        if (!(await hasAll(target, id, doc))) {
          const lacking = "loaded again, it does not show all that the source has";
          return { ...facts, outcome: "failed", reason: [...damaged, lacking].join("; ") };
        }
      }
      if (damaged.length > 0) return { ...facts, outcome: "damaged", reason };
      // Of a damaged document they would tell peers that it has what is lost.
      for (const { key, data } of found) if (!isOfDocument(key)) await carry(target, key, data);
      return { ...facts, outcome: isNew ? "imported" : "present" };
    } catch (error) {
      if (!isCoppiceError(error)) throw error;
      return { ...facts, outcome: "failed", reason: [...damaged, error.message].join("; ") };
    }
  } finally {
    Automerge.free(doc);
  }
}

/** The file adapter takes a prefix for a folder, in which more than this document may lie. */
async function chunksOf(storage: RepoSource, id: string): Promise<readonly RepoChunk[]> {
  return (await storage.loadRange([id])).filter(({ key }) => key[0] === id);
}

function isOfDocument([, type]: RepoKey): boolean {
  return type === "snapshot" || type === "incremental";
}

function read(found: readonly RepoChunk[]): Reading {
  const damaged: string[] = [];
  const changes: Uint8Array[] = [];
  let doc = Automerge.init<unknown>();
  let chunks = 0;
  for (const { key, data } of found) {
    if (!isOfDocument(key)) continue;
    chunks++;
    const name = key.slice(1).join("/");
    try {
      if (data === undefined || data.length === 0) throw new TypeError("it is empty");
      for (const { type, bytes } of eachChunk(data)) {
        if (type === "change") changes.push(bytes);
        else doc = joined(doc, Automerge.load<unknown>(bytes));
      }
    } catch (error) {
      damaged.push(`${name}: ${reasonOf(error)}`);
    }
  }
  const applied = applyEvents(doc, changes);
  for (const { reason } of applied.refused) damaged.push(`a change: ${reason}`);
  const { length: held } = applied.held;
  if (held > 0) damaged.push(`${held} changes wait for others that the source does not have`);
  return { doc: applied.doc, chunks, damaged };
}

function joined(doc: Automerge.Doc<unknown>, other: Automerge.Doc<unknown>): Automerge.Doc<unknown> {
  if (Automerge.stats(doc).numChanges === 0) {
    Automerge.free(doc);
    return other;
  }
  const next = Automerge.merge(doc, other);
  Automerge.free(other);
  return next;
}

/** Whether the target shows all changes of this document. */
async function hasAll(target: RepoStorage, id: string, doc: Automerge.Doc<unknown>): Promise<boolean> {
  const stored = read(await chunksOf(target, id));
  try {
    return Automerge.hasHeads(stored.doc, [...headsOf(doc)]);
  } finally {
    Automerge.free(stored.doc);
  }
}

/** What the target has stays: a Repo has gone on from there. */
async function carry(target: RepoStorage, key: RepoKey, data: Uint8Array | undefined): Promise<void> {
  if (data !== undefined && (await target.load(key)) === undefined) await target.save(key, data);
}
