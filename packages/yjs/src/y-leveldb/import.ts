/**
 * Moves the documents of a y-leveldb database into a storage, one by one, each verified from stored bytes.
 *
 * Invariants: nothing is written to the source but by its opening. A document counts as moved when it was
 * loaded again from the storage and shows all that the source has; when it held nothing else, its version is
 * the source's. Repeating an import, after whatever ended it, appends only what is missing. What is damaged
 * in the source is named, and never taken for moved.
 */

import {
  CoppiceError,
  checkOptions,
  checkStorage,
  type DocumentStorage,
  equalBytes,
  isCoppiceError,
  type OptionKinds,
  toHex,
} from "coppice";
import { decodeAny } from "lib0/buffer";
import type * as Y from "yjs";
import { checkUpdate } from "../dropins/check.js";
import { MODEL, type YjsStorage } from "../dropins/loading.js";
import { yjs } from "../index.js";
import { decodeLevelKey, encodeLevelKey } from "./keys.js";
import { assertNotMetaId, changeMetas, readMetas } from "./metas.js";

/** An abstract-level database with the bytes of y-leveldb, of any version of classic-level. */
export interface YLeveldbSource {
  /** Called first: iterators of a database that failed to open behind its caller's back do not say why. */
  open?(): Promise<void>;
  iterator(options: {
    readonly gte: Uint8Array;
    readonly lt: Uint8Array;
    readonly keyEncoding: string;
    readonly valueEncoding: string;
  }): AsyncIterable<[key: Uint8Array, value: Uint8Array]>;
}

export interface ImportedDocument {
  readonly id: string;
  /**
   * `imported`: moved now; `present`: it was there already; `damaged`: moved without the updates and metas
   * that `reason` names, which cannot be read; `failed`: not (wholly) moved.
   */
  readonly outcome: "imported" | "present" | "damaged" | "failed";
  /** Updates in the source, and those that were appended now. */
  readonly updates: number;
  readonly appended: number;
  readonly metas: number;
  readonly reason?: string;
  /** Of the error for which it `failed`, if it is one of Coppice. */
  readonly code?: string;
}

export interface ImportOptions {
  /** Told of each document when it is done. */
  readonly onDocument?: (document: ImportedDocument) => void;
  readonly signal?: AbortSignal;
}

export interface ImportReport {
  readonly documents: number;
  readonly imported: number;
  readonly present: number;
  readonly updates: number;
  readonly appended: number;
  /** All that are `damaged` or `failed`. */
  readonly problems: readonly ImportedDocument[];
}

interface Found {
  readonly id: string;
  readonly updates: { readonly clock: number; readonly bytes: Uint8Array }[];
  readonly metas: Map<string, Uint8Array>;
}

type Target = YjsStorage & Pick<DocumentStorage, "read">;

const OPTIONS: OptionKinds<ImportOptions> = { onDocument: "function", signal: "signal" };
const SLICE_EVENTS = 1000;
const SLICE_BYTES = 4 * 1024 * 1024;
const DOCUMENTS = { gte: encodeLevelKey(["v1"]), lt: encodeLevelKey(["v2"]) };
const model = yjs();

/**
 * Imports everything, and opens the source where it is not open; closing it is the caller's. Rejects with
 * `LOCKED` when somebody else has the source open, `CORRUPT` or `UNAVAILABLE` when it cannot be opened
 * (`cause` says why): nothing was imported. Also with the signal's reason, and when the source cannot be
 * read; failures of single documents are in the report. Holds one document in memory at a time.
 */
export async function importYLeveldb(
  source: YLeveldbSource,
  storage: Target,
  options: ImportOptions = {},
): Promise<ImportReport> {
  checkOptions("importYLeveldb", options, OPTIONS);
  if (typeof (source as Partial<YLeveldbSource> | undefined)?.iterator !== "function") {
    throw new TypeError("importYLeveldb wants the old database, open: new ClassicLevel(directory)");
  }
  checkStorage("importYLeveldb", storage, "yjs");
  await opened(source);
  const { onDocument, signal } = options;
  const report = { documents: 0, imported: 0, present: 0, updates: 0, appended: 0 };
  const problems: ImportedDocument[] = [];
  for await (const found of documentsOf(source)) {
    signal?.throwIfAborted();
    const document = await importDocument(storage, found);
    report.documents++;
    report.updates += document.updates;
    report.appended += document.appended;
    if (document.outcome === "imported") report.imported++;
    else if (document.outcome === "present") report.present++;
    else problems.push(document);
    onDocument?.(document);
  }
  return { ...report, problems };
}

async function opened(source: YLeveldbSource): Promise<void> {
  try {
    await source.open?.();
  } catch (error) {
    const { cause = error } = error as Error;
    const { code } = cause as { readonly code?: unknown };
    if (code === "LEVEL_LOCKED") {
      const message = "somebody has the old database open: stop the server that writes to it, then import";
      throw new CoppiceError("LOCKED", message, { cause: error });
    }
    const message = `the old database cannot be opened: ${(cause as Error).message}`;
    throw new CoppiceError(code === "LEVEL_CORRUPTION" ? "CORRUPT" : "UNAVAILABLE", message, {
      cause: error,
    });
  }
}

/** Whether there is a document or a meta of y-leveldb. */
export async function holdsYLeveldb(source: YLeveldbSource): Promise<boolean> {
  for await (const _ of source.iterator({ ...DOCUMENTS, keyEncoding: "view", valueEncoding: "view" }))
    return true;
  return false;
}

/** Documents lie together: their keys begin with their names. */
async function* documentsOf(source: YLeveldbSource): AsyncGenerator<Found> {
  let found: Found | undefined;
  const entries = source.iterator({ ...DOCUMENTS, keyEncoding: "buffer", valueEncoding: "buffer" });
  for await (const [bytes, value] of entries) {
    const [, id, kind, last] = decodeLevelKey(bytes);
    if (typeof id !== "string") continue;
    if (found?.id !== id) {
      if (found !== undefined) yield found;
      found = { id, updates: [], metas: new Map() };
    }
    const copy = new Uint8Array(value);
    if (kind === "update" && typeof last === "number") found.updates.push({ clock: last, bytes: copy });
    if (kind === "meta" && typeof last === "string") found.metas.set(last, copy);
  }
  if (found !== undefined) yield found;
}

async function importDocument(storage: Target, { id, updates, metas }: Found): Promise<ImportedDocument> {
  const facts = { id, updates: updates.length, metas: metas.size };
  let appended = 0;
  try {
    assertNotMetaId(id);
    const damaged: string[] = [];
    const sound: Uint8Array[] = [];
    for (const { clock, bytes } of updates) {
      const reason = refusalOf(bytes);
      if (reason === undefined) sound.push(bytes);
      else damaged.push(`update ${clock}: ${reason}`);
    }
    if (sound.length > 0) appended = await importUpdates(storage, id, sound);
    const values = new Map<string, unknown>();
    for (const [key, bytes] of metas) {
      try {
        values.set(key, decodeAny(bytes));
      } catch (error) {
        damaged.push(`meta ${JSON.stringify(key)}: lib0 cannot read it: ${(error as Error).message}`);
      }
    }
    const changed = await importMetas(storage, id, values);
    if (damaged.length > 0) return { ...facts, outcome: "damaged", appended, reason: damaged.join("; ") };
    return { ...facts, outcome: appended > 0 || changed ? "imported" : "present", appended };
  } catch (error) {
    if (!isCoppiceError(error) && !(error instanceof Unverified)) throw error;
    const code = isCoppiceError(error) ? { code: error.code } : {};
    return { ...facts, outcome: "failed", appended, reason: error.message, ...code };
  }
}

class Unverified extends Error {}

function refusalOf(bytes: Uint8Array): string | undefined {
  try {
    checkUpdate(bytes);
    return undefined;
  } catch (error) {
    const { cause } = error as Error;
    return cause instanceof Error ? cause.message : String(error);
  }
}

/**
 * Resolves with the number of updates that were appended, after the stored document was loaded and compared.
 */
async function importUpdates(storage: Target, id: string, updates: readonly Uint8Array[]): Promise<number> {
  const before = await compare(storage, id, updates);
  const missing = before === "whole" ? [] : await withoutStored(storage, id, updates);
  for (const slice of slices(missing)) await storage.append(id, slice, { model: MODEL });
  const after = missing.length === 0 ? before : await compare(storage, id, updates);
  if (after !== "whole") throw new Unverified("loaded again, it does not show all that the source has");
  if (before !== "absent") return missing.length;
  const stored = await versionOf(storage, id);
  const { version } = model.fold(undefined, updates);
  if (stored === undefined || !equalBytes(stored, version)) {
    throw new Unverified("loaded again, it is not what the source has");
  }
  return missing.length;
}

/** Whether a load from the storage shows everything in these updates. */
async function compare(
  storage: Target,
  id: string,
  updates: readonly Uint8Array[],
): Promise<"absent" | "partial" | "whole"> {
  const handle = await storage.load<Y.Doc>(id);
  if (handle === undefined) return "absent";
  try {
    const held = new Set(handle.held.map(({ event }) => (event instanceof Uint8Array ? toHex(event) : "")));
    const before = model.version(handle.doc);
    const result = model.apply(handle.doc, updates);
    const waiting = [...result.held, ...result.refused.map(({ index }) => index)];
    const all = waiting.every((index) => held.has(toHex(updates[index]!)));
    return all && equalBytes(before, model.version(handle.doc)) ? "whole" : "partial";
  } finally {
    await handle.close({ discard: true });
  }
}

async function versionOf(storage: Target, id: string): Promise<Uint8Array | undefined> {
  const handle = await storage.load<Y.Doc>(id);
  if (handle === undefined) return undefined;
  const version = model.version(handle.doc);
  await handle.close();
  return version;
}

/** The updates whose bytes are not in the log: what an import that was interrupted has left to do. */
async function withoutStored(
  storage: Target,
  id: string,
  updates: readonly Uint8Array[],
): Promise<Uint8Array[]> {
  const stored = new Set<string>();
  try {
    const info = await storage.info(id);
    for await (const { event } of storage.read(id, { from: info?.oldestClock ?? 0 })) {
      if (event instanceof Uint8Array) stored.add(toHex(event));
    }
  } catch (error) {
    if (!isCoppiceError(error, "TRIMMED")) throw error;
  }
  return updates.filter((update) => !stored.has(toHex(update)));
}

function* slices(updates: readonly Uint8Array[]): Generator<Uint8Array[]> {
  let slice: Uint8Array[] = [];
  let bytes = 0;
  for (const update of updates) {
    if (slice.length === SLICE_EVENTS || (slice.length > 0 && bytes + update.length > SLICE_BYTES)) {
      yield slice;
      [slice, bytes] = [[], 0];
    }
    slice.push(update);
    bytes += update.length;
  }
  if (slice.length > 0) yield slice;
}

/** Resolves with whether something was changed. */
async function importMetas(
  storage: Target,
  id: string,
  metas: ReadonlyMap<string, unknown>,
): Promise<boolean> {
  if (metas.size === 0) return false;
  const stored = await readMetas(storage, id);
  const missing = [...metas].filter(([key]) => !stored.has(key));
  if (missing.length === 0) return false;
  await changeMetas(storage, id, true, (map) => {
    for (const [key, value] of missing) map.set(key, value);
  });
  const after = await readMetas(storage, id);
  if (missing.some(([key]) => !after.has(key))) throw new Unverified("its metas are not stored");
  return true;
}
