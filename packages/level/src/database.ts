/**
 * Opening and closing the database below the backend: a directory of our own, or an instance that the
 * caller made. It decides what may be promised (`Opened`), and who closes what.
 *
 * Invariants:
 * - nothing is opened that somebody in this process has open already (`claims.ts`);
 * - a failed open leaves nothing open and nothing claimed;
 * - an instance that was open, or opening, when it was first handed over is the caller's to close. The one
 *   exception: after a failed write it is closed here, because LevelDB accepts writes on top of a damaged
 *   log and loses them; only opening it again repairs the log. The next open opens it again.
 */

import type { AbstractLevel } from "abstract-level";
import type { ClassicLevel } from "classic-level";
import { CoppiceError, type Durability, decodeKey } from "coppice";
import { type Claim, claim } from "./claims.js";
import type { DirectorySync } from "./directory.js";
import type { LevelDamage } from "./examination.js";
import { codeOf, locked, openFailure, readFailure } from "./failures.js";
import { COMMIT_KEY, Ledger, readMark } from "./ledger.js";

const HOLDS_OTHER_DATA =
  "this LevelDB directory holds other data, and no documents of ours: take another directory. " +
  "What y-leveldb wrote moves over with `coppice import y-leveldb`";

/** What is used of any abstract-level database, with keys and values as bytes. */
export type Database = AbstractLevel<unknown, Uint8Array, Uint8Array> & {
  /** Missing in the declarations of level-supports. */
  readonly supports: { readonly getSync?: boolean };
  /** Of a sublevel. */
  readonly parent?: Database | null;
  readonly prefix?: string;
  /** Of a database in a directory (or, in browsers, of a named one). */
  readonly location?: string;
};

export interface Opened {
  readonly db: Database;
  readonly durability: Durability;
  /** True for LevelDB itself: it copies bytes on their way in and out, and bounds pages by bytes. */
  readonly native: boolean;
  /** Present when the name of the log must be durable before a commit is acknowledged. */
  readonly directory: DirectorySync | undefined;
  /** Present for a directory of our own: numbers its commits. */
  readonly ledger: Ledger | undefined;
  /** LevelDB itself, below any sublevels; `undefined` for databases without files. */
  readonly root: Database | undefined;
  /**
   * Present where the database is ours to close: closes it and opens it again, under the same claim, and
   * removes what LevelDB noted in words before. The directory is unlocked for a moment: when another process
   * is faster it rejects with `LOCKED`, and the database stays closed.
   */
  reopen?(): Promise<void>;
  /** `failed`: a write failed since it was opened. Everything is released, also when it rejects. */
  close(failed: boolean): Promise<void>;
}

export interface DirectoryOptions {
  readonly durability: "process" | "power";
  readonly createIfMissing: boolean;
  readonly verifyTables: boolean;
  readonly anchor: string | undefined;
  /** Passed on to classic-level. */
  readonly tuning: Readonly<Record<string, unknown>>;
}

/** Rejects with `LOCKED`, `CORRUPT` or `UNAVAILABLE`. */
export async function openDirectory(location: string, options: DirectoryOptions): Promise<Opened> {
  const { durability, createIfMissing, tuning } = options;
  const durable = durability === "power";
  let holdsStore = false;
  const undo: (() => unknown)[] = [];
  try {
    const files = await import("./directory.js");
    const found = createIfMissing
      ? await files.createDirectory(location, durable)
      : await files.findDirectory(location);
    holdsStore = found.holdsStore;
    if (!holdsStore && found.holdsFileLog) {
      const what = "this directory holds a file log: open it with fileLogBackend of @coppice/file";
      throw new CoppiceError("UNAVAILABLE", what, { details: { location } });
    }
    const release = claimOrThrow({ owner: {}, directory: found.identity, prefix: "" }, location);
    undo.push(release);
    if (await files.isSurelyLocked(found.path)) throw locked(location);
    const { examineDirectory } = await import("./examination.js");
    // Without syncs a power loss may leave holes in logs and tables, and that was said.
    const reach = !durable ? "current" : options.verifyTables ? "tables" : "logs";
    const { damage, logged } = await examineDirectory(found.path, reach);
    refuseDamage(location, damage);
    if (!createIfMissing && !holdsStore) {
      throw new CoppiceError("UNAVAILABLE", "there is no store in this directory", { details: { location } });
    }
    const anchor =
      options.anchor === undefined
        ? undefined
        : await (await import("./anchor.js")).Anchor.open(options.anchor);
    if (anchor !== undefined) undo.push(() => anchor.close());
    const { ClassicLevel } = await import("classic-level");
    const db = new ClassicLevel<Uint8Array, Uint8Array>(found.path, {
      keyEncoding: "view",
      valueEncoding: "view",
      createIfMissing,
      ...tuning,
    });
    undo.push(() => db.close());
    await db.open();
    const stored = await storedMark(() => db.get(COMMIT_KEY), options.verifyTables);
    const ledger = new Ledger(stored, logged, anchor);
    if (found.holdsStore && stored === undefined && (await isOthers(db, options.verifyTables))) {
      throw new CoppiceError("UNAVAILABLE", HOLDS_OTHER_DATA, { details: { location, foreign: true } });
    }
    const directory = durable ? await files.DirectorySync.open(found.path, true) : undefined;
    if (directory !== undefined) undo.push(() => directory.close());
    await directory?.sync();
    return {
      db: db as unknown as Database,
      durability,
      native: true,
      directory,
      ledger,
      root: db as unknown as Database,
      async reopen() {
        try {
          await db.close();
          await db.open();
          ledger.assertLast(await db.get(COMMIT_KEY));
          await files.removeOldNotes(found.path);
          await directory?.sync();
        } catch (error) {
          throw error instanceof CoppiceError ? error : openFailure(error, location, true);
        }
      },
      close: () => settle([() => db.close(), () => directory?.close(), () => ledger.close(), release]),
    };
  } catch (error) {
    await abandon(undo);
    throw error instanceof CoppiceError ? error : openFailure(error, location, holdsStore);
  }
}

/**
 * Rejects with `LOCKED`, `CORRUPT` or `UNAVAILABLE`, and with `TRAIT_MISSING` when the instance cannot keep
 * bytes or cannot give the durability that was asked for. `lent` remembers the instances that are the
 * caller's to close.
 */
export async function openInstance(
  db: Database,
  asked: "process" | "power" | undefined,
  lent: WeakSet<Database>,
): Promise<Opened> {
  const path = lineage(db);
  const root = path[0]!;
  const native = isLevelDb(root);
  const durability = native ? (asked ?? "power") : root.supports.permanence ? "process" : "none";
  if (asked !== undefined && !(native || asked === durability)) {
    throw new CoppiceError("TRAIT_MISSING", "this abstract-level instance is not that durable", {
      details: { asked, actual: durability },
    });
  }
  assertKeepsBytes(db);
  const location = native ? root.location! : (db.prefix ?? root.constructor.name);
  const undo: (() => unknown)[] = [];
  try {
    const files = native ? await import("./directory.js") : undefined;
    const found = path.filter((each) => each.status !== "closed");
    for (const each of path) {
      const closed = !found.includes(each);
      if (closed && !lent.has(each)) undo.push(() => each.close());
      await each.open(closed ? {} : { passive: true });
    }
    const place = await files?.findDirectory(location);
    const identity = place?.identity;
    const release = claimOrThrow({ owner: root, directory: identity, prefix: db.prefix ?? "" }, location);
    for (const each of found) lent.add(each);
    const closeOurs = [...undo].reverse();
    undo.push(release);
    const directory =
      place !== undefined && durability === "power" ? await files?.DirectorySync.open(place.path) : undefined;
    if (directory !== undefined) undo.push(() => directory.close());
    await directory?.sync();
    return {
      db,
      durability,
      native,
      directory,
      ledger: undefined,
      root: native ? root : undefined,
      close: (failed) => {
        const databases = failed && durability !== "none" ? [() => root.close()] : closeOurs;
        return settle([...databases, () => directory?.close(), release]);
      },
    };
  } catch (error) {
    await abandon(undo);
    throw error instanceof CoppiceError ? error : openFailure(error, location, native);
  }
}

function claimOrThrow(wanted: Claim, location: string): () => void {
  const release = claim(wanted);
  if (release === undefined) throw locked(location);
  return release;
}

/**
 * The number of the last commit. In a store whose tables are not verified a damaged one counts as none, so
 * that what else there is can be read; an anchor still knows better.
 */
async function storedMark(
  read: () => Promise<Uint8Array | undefined>,
  strict: boolean,
): Promise<Uint8Array | undefined> {
  try {
    const stored = await read();
    return strict || stored === undefined || readMark(stored) !== undefined ? stored : undefined;
  } catch (error) {
    if (strict || codeOf(error) !== "LEVEL_CORRUPTION") throw readFailure(error);
    return undefined;
  }
}

/**
 * Whether a database without a number of a commit has keys, and none of ours, as the directories of
 * y-leveldb have: it would look like an empty store. Reads keys up to the first of ours. In a store whose
 * tables are not verified a damaged one decides nothing.
 */
async function isOthers(db: ClassicLevel<Uint8Array, Uint8Array>, strict: boolean): Promise<boolean> {
  let others = false;
  try {
    for await (const key of db.keys()) {
      if (isOurs(key)) return false;
      others = true;
    }
    return others;
  } catch (error) {
    if (strict || codeOf(error) !== "LEVEL_CORRUPTION") throw readFailure(error);
    return false;
  }
}

function isOurs(key: Uint8Array): boolean {
  try {
    decodeKey(key);
    return true;
  } catch (error) {
    if (error instanceof TypeError) return false;
    throw error;
  }
}

function refuseDamage(location: string, damage: readonly LevelDamage[]): void {
  // Damage in a log matters more: what was committed after it would be dropped.
  const ofTables = damage.every(({ file }) => isTable(file));
  const worst = ofTables ? damage[0] : damage.find(({ file }) => !isTable(file));
  if (worst === undefined) return;
  const { file, offset, what } = worst;
  const advice = ofTables
    ? "Restore a backup; or let `coppice check` list what is left, and `coppice copy --damaged` save it"
    : "Opened, it would drop the commits from there on, so nothing was changed. Restore a backup";
  throw new CoppiceError(
    "CORRUPT",
    `the files of this LevelDB store are damaged (${file}): ${what}. ${advice}`,
    { details: { location, file, offset, places: damage.length } },
  );
}

function isTable(file: string): boolean {
  return /\.(?:ldb|sst)$/.test(file);
}

/** From the root database down to this sublevel. */
function lineage(db: Database): Database[] {
  const path = [db];
  for (let parent = db.parent; parent !== undefined && parent !== null; parent = parent.parent) {
    path.unshift(parent);
  }
  return path;
}

/** classic-level, or one that offers the same: files in a directory, `sync`, `highWaterMarkBytes`. */
function isLevelDb({ supports, location }: Database): boolean {
  return (
    supports.permanence && supports.additionalMethods.compactRange === true && typeof location === "string"
  );
}

function assertKeepsBytes(db: Database): void {
  try {
    db.keyEncoding("view");
    db.valueEncoding("view");
  } catch (error) {
    if (codeOf(error) !== "LEVEL_ENCODING_NOT_SUPPORTED") throw error;
    throw new CoppiceError("TRAIT_MISSING", "this abstract-level instance stores strings, not bytes", {
      cause: error,
    });
  }
}

/** Runs every step, one after the other, and then rejects with the first failure. */
async function settle(steps: readonly (() => unknown)[]): Promise<void> {
  const failures: unknown[] = [];
  for (const step of steps) {
    try {
      await step();
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length > 0) {
    throw new CoppiceError("UNAVAILABLE", "the database did not close cleanly", { cause: failures[0] });
  }
}

/**
 * Takes back what a failed open has done, last first. The failure itself matters more than one of these.
 */
async function abandon(undo: readonly (() => unknown)[]): Promise<void> {
  await settle([...undo].reverse()).catch(() => undefined);
}
