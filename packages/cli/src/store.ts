/**
 * From a store's URL to an open storage. Backends are loaded here, when they are needed, and nowhere else.
 *
 * A process that owns the store may work for others (`coppice serve` does): what it can do is asked of it,
 * when the store turns out to be locked.
 *
 * The locks are the system's: a directory has one owner among all processes, and the system frees it when
 * that process dies. So two cron runs exclude each other with no lock file of ours, which could be left
 * behind.
 *
 * Invariants: a command that only looks creates nothing; whatever was opened is closed, also after a
 * failure and after Ctrl-C, and closing waits for what is in flight.
 */

import { readdir } from "node:fs/promises";
import { resolve } from "node:path";
import {
  type Backend,
  type BackendFactory,
  DocumentStorage,
  isCoppiceError,
  memoryBackend,
  type Observer,
  tree,
} from "coppice";
import { findOwner } from "coppice/control";
import { CommandError } from "./errors.js";
import { lockOwner, lockOwnerOf } from "./lock-owner.js";
import type { StoreOptions } from "./options.js";
import { plural, printable } from "./output.js";
import { loadModels, loadPackage } from "./packages.js";
import { delay, type Runtime } from "./runtime.js";

export type StoreAddress =
  | { readonly scheme: "level" | "file"; readonly location: string }
  | { readonly scheme: "memory"; readonly location?: undefined };

/** What can be asked of the process that has a store open. */
export type Store = Pick<DocumentStorage, "compact" | "compactAll" | "list" | "info" | "check">;

type LocatedStore = Extract<StoreAddress, { location: string }>;

const RETRY_MS = 200;

export interface OpenStoreOptions extends StoreOptions {
  /** Make the store where it does not exist. */
  readonly create?: boolean;
  /** Say that it was made, also where nothing failed: a misspelt name makes one as well. */
  readonly tellsNew?: boolean;
  /**
   * Nothing is written: a file log that another process has open, this user may not write, or whose disk is
   * full, is read; and a LevelDB store through the process that has it open, when that lets others read.
   */
  readonly onlyReads?: boolean;
  /** `false`: what only reads does not do so beside somebody who has the store open, either. */
  readonly besideOwner?: boolean;
  /** `false`: no document is restored, and the command starts without the libraries of the models. */
  readonly restores?: boolean;
  /** Only these documents are restored: it starts with the libraries that these need. */
  readonly ids?: readonly string[];
  /** The store was no option of the command, but an argument. */
  readonly isArgument?: boolean;
  /** `false`: damage in table files was found already, and what is readable beside it is wanted. */
  readonly verifyTables?: boolean;
  readonly observer?: Observer;
}

interface BackendOptions {
  readonly create?: boolean;
  readonly verifyTables?: boolean;
  readonly readOnly?: boolean;
}

/**
 * Throws a usage error for what is no store. The part after the scheme is a path as it stands, nothing is
 * decoded; one that begins with a home directory in the words of a shell is refused.
 */
export function parseStore(url: string): StoreAddress {
  const [, scheme, rest = ""] = /^([a-z]+):(.*)$/s.exec(url) ?? [];
  if (scheme === "memory" && rest === "") return { scheme };
  if ((scheme === "level" || scheme === "file") && rest !== "" && !rest.includes("\0")) {
    if (!/^~(?:\/|$)/.test(rest)) return { scheme, location: rest };
    throw new CommandError("USAGE", `the shell leaves ~ as it is after ${scheme}:`, {
      hint: `Write ${scheme}:"$HOME"${printable(rest.slice(1))}, or ./~ for a directory of that name.`,
      details: { store: url },
    });
  }
  throw new CommandError("USAGE", `this is no store: ${JSON.stringify(url)}`, {
    hint: "A store is level:<directory> or file:<directory>, as in level:./data, or memory:",
    details: { store: url },
  });
}

/**
 * `create`: make the store where it does not exist. `verifyTables: false`: that was done already. `readOnly`
 * is for file logs: beside the process that has it open.
 */
export async function loadBackend(
  address: StoreAddress,
  { create = false, verifyTables = true, readOnly = false }: BackendOptions = {},
): Promise<BackendFactory> {
  if (address.scheme === "memory") return memoryBackend();
  await refuseOtherScheme(address);
  if (address.scheme === "file") {
    const { fileLogBackend } = await loadFileLog();
    return fileLogBackend(address.location, readOnly ? { readOnly } : { createIfMissing: create });
  }
  const { levelBackend } = await loadPackage("@coppice/level", () => import("@coppice/level"));
  return levelBackend(address.location, { createIfMissing: create, verifyTables });
}

/** What is known of an open store beside its documents. */
export interface StoreFacts {
  /** It was made now. */
  readonly isNew: boolean;
  /** Whether it has chunks of AutomergeRepoStorage, which no storage of documents looks at. */
  readonly holdsChunks: () => Promise<boolean>;
}

/**
 * Opens the store, hands it over, and closes it whatever happens. `create`: make it where it does not
 * exist.
 */
export async function withStorage<T>(
  runtime: Runtime,
  options: OpenStoreOptions,
  use: (storage: DocumentStorage, facts: StoreFacts) => Promise<T>,
): Promise<T> {
  const address = parseStore(options.store);
  const isNew = address.scheme !== "memory" && options.create === true && !(await holdsStore(address));
  const others = isNew ? strangers(await namesIn(address.location)) : [];
  if (address.scheme !== "memory") {
    if (!options.create) await assertStore(address, options.store, options.isArgument);
  } else if (!options.json) {
    await runtime.err.line("note: memory: is a store of this process alone, new and empty");
  }
  const { storage, backend } = await openWaiting(runtime, address, options);
  let result: T;
  try {
    result = await use(storage, { isNew, holdsChunks: () => holdsChunks(backend) });
  } catch (error) {
    // The first failure is the one to tell; closing a store that failed may fail too. What a command has
    // half done is not to be saved.
    await storage.close({ discard: true }).catch(() => undefined);
    if (isNew && !options.json) await noteNew(runtime, options.store, others);
    throw error;
  }
  await storage.close();
  if (isNew && options.tellsNew && !options.json) await noteNew(runtime, options.store, others);
  return result;
}

/** `others`: what lay in the directory before. */
function noteNew({ err }: Runtime, store: string, [first, ...more]: readonly string[]): Promise<void> {
  const beside = first === undefined ? "" : `, beside ${printable(first)}`;
  const number = more.length === 0 ? "" : ` and ${plural(more.length, "other file")}`;
  return err.line(`note: there was no store at ${printable(store)}; a new one was made${beside}${number}`);
}

/** What is in the directory of no store, but for what file systems and shells put into any. */
function strangers(names: readonly string[]): readonly string[] {
  return names.filter((name) => !name.startsWith(".") && name !== "lost+found").sort();
}

/**
 * Like `withStorage`, for what the process that has the store open does for others as well: when it is locked
 * and its owner can be asked, `use` gets the owner, and no facts. Only when it cannot, `onlyReads` reads
 * beside it.
 */
export async function withStore<T>(
  runtime: Runtime,
  options: OpenStoreOptions,
  use: (store: Store, facts?: StoreFacts) => Promise<T>,
): Promise<T> {
  let isUsed = false;
  const once: typeof use = (store, facts) => {
    isUsed = true;
    return use(store, facts);
  };
  try {
    return await withStorage(runtime, { ...options, wait: 0, besideOwner: false }, once);
  } catch (error) {
    if (isUsed) throw error;
    const { scheme, location } = parseStore(options.store);
    if (options.onlyReads && scheme === "file" && isUnwritable(error))
      return withStorage(runtime, options, use);
    if (!(error instanceof CommandError) || error.code !== "LOCKED") throw error;
    const owner = location === undefined ? undefined : await findOwner(location);
    if (owner === undefined) return withStorage(runtime, options, use);
    await noteOwner(runtime, options, owner);
    return use(owner);
  }
}

export async function noteOwner(
  runtime: Runtime,
  options: StoreOptions,
  owner: { readonly pid: number },
  how = "done by",
): Promise<void> {
  if (!options.json) await runtime.err.line(`note: ${how} process ${owner.pid}, which has the store open`);
}

async function openWaiting(
  runtime: Runtime,
  address: StoreAddress,
  options: OpenStoreOptions,
): Promise<{ readonly storage: DocumentStorage; readonly backend: Backend }> {
  const { create = false, restores = true, verifyTables = true, observer, ids } = options;
  const quick = ids === undefined ? "all" : "quick";
  const models = restores ? await loadModels(options.models, quick) : [tree()];
  const wanted = observer === undefined ? {} : { observer };
  const open = async (factory: BackendFactory) => {
    let opened: Backend | undefined;
    const backend: BackendFactory = {
      name: factory.name,
      open: async (env) => (opened = await factory.open(env)),
    };
    const storage = await DocumentStorage.open({ backend, models, ...wanted });
    if (!restores || ids === undefined || (await areKnown(storage, ids)))
      return { storage, backend: opened! };
    // The first one has nothing under way, and is left: to close it would let go of the lock, and LevelDB
    // would read its tables again.
    const same: BackendFactory = { name: factory.name, open: async () => opened! };
    const all = await loadModels(options.models);
    return {
      storage: await DocumentStorage.open({ backend: same, models: all, ...wanted }),
      backend: opened!,
    };
  };
  const backend = { create, verifyTables };
  const attempt = async () =>
    options.onlyReads && options.besideOwner !== false
      ? besideOwner(runtime, address, options, backend, open)
      : open(await loadBackend(address, backend));
  return waiting(runtime, address, options, attempt);
}

/** Whether all that there are of these documents are of models that the storage has, as far as they tell. */
async function areKnown(storage: DocumentStorage, ids: readonly string[]): Promise<boolean> {
  try {
    for (const id of ids) {
      const info = await storage.info(id);
      if (info !== undefined && !storage.models.includes(info.model)) return false;
    }
    return true;
  } catch {
    // It is told where the document is read.
    return false;
  }
}

/** Damage that keeps it from being known is told where documents are read. */
async function holdsChunks(backend: Backend): Promise<boolean> {
  try {
    const pages = backend.scan({ space: "chunks" }, { limit: 1, values: false });
    for await (const [entry] of pages) return entry !== undefined;
  } catch (error) {
    if (!isCoppiceError(error, "CORRUPT")) throw error;
  }
  return false;
}

/**
 * What only reads can do so beside the process that has the store open: in a file log without a lock, also
 * where this user may not write; in a LevelDB store through that process.
 */
export async function besideOwner<T>(
  runtime: Runtime,
  address: StoreAddress,
  options: StoreOptions,
  backend: BackendOptions,
  open: (factory: BackendFactory) => Promise<T>,
): Promise<T> {
  try {
    return await open(await loadBackend(address, backend));
  } catch (error) {
    const isLocked = isCoppiceError(error, "LOCKED");
    if (address.scheme === "file" && (isLocked || isUnwritable(error)))
      return open(await loadBackend(address, { readOnly: true }));
    if (address.scheme !== "level" || !isLocked) throw error;
    const owner = await findOwner(address.location).catch(() => undefined);
    if (owner === undefined) throw error;
    await noteOwner(runtime, options, owner, "read through");
    return open(owner.backend());
  }
}

/** The system lets nobody, or not this user, write there, or there is no room. */
export function isUnwritable(error: unknown): boolean {
  for (let each = error; each instanceof Error; each = each.cause)
    if (/^(?:EACCES|EPERM|EROFS|ENOSPC|EDQUOT)$/.test((each as NodeJS.ErrnoException).code ?? ""))
      return true;
  return false;
}

/** Tries again while somebody else has the store open, for as long as `--wait` says. */
export async function waiting<T>(
  runtime: Runtime,
  address: StoreAddress,
  options: StoreOptions,
  attempt: () => Promise<T>,
): Promise<T> {
  const started = performance.now();
  for (;;) {
    runtime.signal.throwIfAborted();
    try {
      return await attempt();
    } catch (error) {
      if (!isCoppiceError(error, "LOCKED")) throw error;
      const left = (options.wait ?? 0) - (performance.now() - started);
      if (left <= 0) throw await lockedError(address, options, error);
      await delay(Math.min(RETRY_MS, left), runtime.signal);
    }
  }
}

const ALONE = "A store has one owner. Let it work for you (offerControl), stop it, or use --wait 30s.";
const HELPFUL =
  "A store has one owner. This one does ls, info, check and compact for you, and lets others read.\n" +
  "For what writes stop it, or use its HTTP API if it is a server; --wait 30s waits for its end.";

async function lockedError(
  { location = "" }: StoreAddress,
  { store, wait }: StoreOptions,
  cause: unknown,
): Promise<CommandError> {
  const helper = await findOwner(location).catch(() => undefined);
  const owner = (await lockOwner(location)) ?? (helper && (await lockOwnerOf(helper.pid)));
  const who = owner === undefined ? "another process" : `process ${owner.pid}`;
  const command = owner?.command === undefined ? "" : ` (${printable(owner.command)})`;
  const waited = wait === undefined || wait === 0 ? "" : `, after waiting for ${wait} ms`;
  return new CommandError("LOCKED", `${who}${command} has ${printable(store)} open${waited}`, {
    hint: helper === undefined ? ALONE : HELPFUL,
    details: { store, pid: owner?.pid, command: owner?.command, reason: (cause as Error).message },
  });
}

/** The file that names all others, and the others, by scheme. */
const FILES = {
  level: {
    what: "a LevelDB store",
    head: "CURRENT",
    others: /^MANIFEST-\d+$|^\d+\.(?:ldb|sst|log)$/,
    mended: "restore a backup",
  },
  file: {
    what: "a file log",
    head: "MANIFEST",
    others: /^\d{8,}\.seg$/,
    mended: "try `coppice check --repair`",
  },
} as const;

/** Whether a command that may make the store would make it now. */
export async function isAbsent(url: string): Promise<boolean> {
  const address = parseStore(url);
  return address.scheme !== "memory" && !(await holdsStore(address));
}

async function holdsStore({ scheme, location }: LocatedStore): Promise<boolean> {
  return (await namesIn(location)).includes(FILES[scheme].head);
}

/** Throws when the directory holds a store of the other kind, before anything is made in it. */
export async function refuseOtherScheme({ scheme, location }: LocatedStore): Promise<void> {
  const names = await namesIn(location);
  const other = scheme === "level" ? "file" : "level";
  if (names.includes(FILES[scheme].head) || !names.includes(FILES[other].head)) return;
  throw new CommandError("USAGE", `${printable(location)} holds ${FILES[other].what}`, {
    hint: `Name it ${printable(`${other}:${location}`)}`,
    details: { store: `${scheme}:${location}`, found: `${other}:${location}` },
  });
}

async function namesIn(location: string): Promise<readonly string[]> {
  try {
    return await readdir(location);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "ENOTDIR") throw error;
    return [];
  }
}

/** Tells a store that is not there from one that has lost the file that names the others. */
export async function assertStore(
  { scheme, location }: LocatedStore,
  url: string,
  isArgument = false,
): Promise<void> {
  const names = await namesIn(location);
  const { head, others, mended } = FILES[scheme];
  if (names.includes(head)) return;
  if (names.some((name) => others.test(name))) {
    throw new CommandError("CORRUPT", `${printable(url)} has lost its file ${head}`, {
      hint: `Keep a copy of the directory as it is before trying anything; then ${mended}.`,
      details: { store: url },
    });
  }
  await refuseOtherScheme({ scheme, location });
  throw new CommandError("NOT_FOUND", `there is no store at ${printable(url)}`, {
    hint: isArgument
      ? "Name one that there is; a store is made by the program that writes to it."
      : "Name another with --store or COPPICE_STORE; a store is made by the program that writes to it.",
    details: { store: url, directory: resolve(location) },
  });
}

/** The file log's own package. */
export function loadFileLog(): Promise<typeof import("@coppice/file")> {
  return loadPackage("@coppice/file", () => import("@coppice/file"));
}
