/**
 * Looks at the files of a LevelDB directory without LevelDB, before LevelDB opens them: what LevelDB would
 * skip silently, serve wrongly, or end the process over, is found here and named.
 *
 * It reads and changes nothing. It needs no lock: where another process owns the store, files may come and
 * go meanwhile, and then it looks again.
 *
 * What is held against each other: CURRENT and the MANIFEST that it names; each log's records and their
 * checksums; the sequence numbers of the batches, which are contiguous over all logs; the commit numbers in
 * them; the log that the MANIFEST needs; size and every checksum of each table.
 */

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { equalBytes } from "coppice";
import { uint32 } from "./crc32c.js";
import { COMMIT_KEY, readMark } from "./ledger.js";
import { scanLog } from "./log-scan.js";
import { type Manifest, readManifest } from "./manifest.js";
import { scanTable } from "./table-scan.js";
import { uint64, VarintReader } from "./varints.js";

const LOOKS_MAX = 5;

/** A place in a file that is not as it was written. */
export interface LevelDamage {
  readonly file: string;
  readonly offset: number;
  /** For people. */
  readonly what: string;
  /** Encoded keys: the damaged block of a table holds keys in `(after, upTo]`. */
  readonly after?: Uint8Array;
  readonly upTo?: Uint8Array;
}

export interface Examined {
  readonly damage: readonly LevelDamage[];
  /** Under the commit key, in the last batch of the logs. */
  readonly logged: Uint8Array | undefined;
  /** Bytes that were read. */
  readonly bytes: number;
}

/**
 * How much is read: CURRENT with the MANIFEST; the logs too, which are at most about twice the write buffer;
 * the tables too, about 2 ms a MiB.
 */
export type Reach = "current" | "logs" | "tables";

export async function examineDirectory(path: string, reach: Reach): Promise<Examined> {
  for (let look = 1; ; look++) {
    const before = await readState(path);
    const examined = await examineOnce(path, before, reach);
    if (examined.damage.length === 0 || look === LOOKS_MAX) return examined;
    const { current, manifest } = await readState(path);
    if (equalBytes(before.current, current) && equalBytes(before.manifest, manifest)) return examined;
  }
}

/**
 * Whether a directory without CURRENT has a table, or a log with a whole record: then CURRENT was lost, and
 * LevelDB would begin a new store and delete these. Leftovers of a store whose creation a crash interrupted
 * have neither.
 */
async function hasLostCurrent(path: string, names: readonly string[]): Promise<boolean> {
  for (const name of names) {
    if (/^\d+\.(?:ldb|sst)$/.test(name)) return true;
    const log = /^\d+\.log$/.test(name) ? await readIfThere(join(path, name)) : undefined;
    if (log !== undefined && scanLog(log).records.length > 0) return true;
  }
  return false;
}

interface State {
  readonly names: readonly string[];
  readonly current: Uint8Array | undefined;
  /** Of the manifest. */
  readonly name: string | undefined;
  readonly manifest: Uint8Array | undefined;
}

/** What LevelDB writes there. The number has 64 bits; with more digits no file system has such a name. */
const CURRENT = /^(MANIFEST-\d{6,20})\n$/;

async function readState(path: string): Promise<State> {
  const current = await readIfThere(join(path, "CURRENT"));
  const name = current && CURRENT.exec(new TextDecoder("latin1").decode(current))?.[1];
  const manifest = name === undefined ? undefined : await readIfThere(join(path, name));
  return { names: await readdir(path), current, name, manifest };
}

/**
 * LevelDB itself begins a new store without CURRENT, opens whatever is named there, up to a zero byte, and
 * may say of what it cannot open that it should be tried again.
 */
async function whatOfCurrent(path: string, state: State): Promise<string | undefined> {
  const { names, current, name, manifest } = state;
  if (current === undefined)
    return (await hasLostCurrent(path, names)) ? "the store has lost its file CURRENT" : undefined;
  if (name === undefined) return "the file names no manifest";
  return manifest === undefined ? "the file names a manifest that is not there" : undefined;
}

async function examineOnce(path: string, state: State, reach: Reach): Promise<Examined> {
  const what = await whatOfCurrent(path, state);
  const damage: LevelDamage[] = what === undefined ? [] : [{ file: "CURRENT", offset: 0, what }];
  let bytes = state.manifest?.length ?? 0;
  if (reach === "current") return { damage, logged: undefined, bytes };
  const manifest = state.manifest && readManifest(state.manifest);
  if (state.manifest !== undefined && manifest === undefined) {
    damage.push({ file: state.name!, offset: 0, what: "the file does not check" });
  }
  const logs = await examineLogs(path, state.names, manifest);
  bytes += logs.bytes;
  damage.push(...logs.damage);
  for (const [number, size] of reach === "tables" ? (manifest?.tables ?? []) : []) {
    const file = tableName(state.names, number);
    // LevelDB refuses a store that lacks a table by itself.
    const table = file === undefined ? undefined : await readIfThere(join(path, file));
    if (file === undefined || table === undefined) continue;
    bytes += table.length;
    if (table.length !== size) {
      damage.push({ file, offset: table.length, what: `the file has another size than ${size} bytes` });
    } else {
      for (const one of scanTable(table)) damage.push({ file, ...one });
    }
  }
  return { damage, logged: logs.logged, bytes };
}

async function examineLogs(
  path: string,
  names: readonly string[],
  manifest: Manifest | undefined,
): Promise<Examined> {
  const damage: LevelDamage[] = [];
  const { oldestLog = 0, olderLog = 0, lastSequence } = manifest ?? {};
  const counting = logNumbers(names).filter((number) => number >= oldestLog || number === olderLog);
  if (oldestLog > 0 && !counting.includes(oldestLog)) {
    damage.push({ file: logName(oldestLog), offset: 0, what: "the log is missing" });
  }
  const chain = new BatchChain(lastSequence);
  let bytes = 0;
  for (const [i, number] of counting.entries()) {
    const file = names.find((name) => Number.parseInt(name, 10) === number && name.endsWith(".log"))!;
    const log = await readIfThere(join(path, file));
    if (log === undefined) continue;
    bytes += log.length;
    const { records, damage: at, torn } = scanLog(log);
    for (const record of records) {
      const what = chain.add(record.bytes);
      if (what !== undefined) damage.push({ file, offset: record.offset, what });
    }
    if (at !== undefined) damage.push({ file, offset: at, what: "damage before the end" });
    // LevelDB begins a log after all of the one before was written and synced.
    else if (
      torn !== undefined &&
      i < counting.length - 1 &&
      (await holdsRecords(path, names, counting, i + 1))
    ) {
      damage.push({ file, offset: torn, what: "the end is missing, and another log goes on" });
    }
  }
  return { damage, logged: chain.logged, bytes };
}

async function holdsRecords(
  path: string,
  names: readonly string[],
  counting: readonly number[],
  from: number,
): Promise<boolean> {
  for (const number of counting.slice(from)) {
    const file = names.find((name) => Number.parseInt(name, 10) === number && name.endsWith(".log"))!;
    const log = await readIfThere(join(path, file));
    if (log !== undefined && scanLog(log).records.length > 0) return true;
  }
  return false;
}

/**
 * Follows the batches of all logs. A batch is: 8 bytes sequence and 4 bytes count, little-endian, then as
 * many records: 1 byte type (1 put, 0 delete), sized key, and for a put the sized value.
 */
class BatchChain {
  #next: number | undefined;
  readonly #lastSequence: number | undefined;
  logged: Uint8Array | undefined;

  /** `lastSequence`: of the MANIFEST, so the first batch begins no later than after it. */
  constructor(lastSequence: number | undefined) {
    this.#lastSequence = lastSequence;
  }

  /** What is wrong with the next batch. */
  add(batch: Uint8Array): string | undefined {
    try {
      const [sequence, count] = [uint64(batch, 0), uint32(batch, 8)];
      const expected = this.#next;
      this.#next = sequence + count;
      const mark = markOf(batch, count);
      const before = this.logged && readMark(this.logged);
      this.logged = mark ?? this.logged;
      if (expected !== undefined && sequence !== expected) return "batches are missing before this one";
      const limit = this.#lastSequence;
      if (expected === undefined && limit !== undefined && sequence > limit + 1) {
        return "batches are missing before this one, the first of the logs";
      }
      return mark === undefined ? undefined : unlinked(mark, before);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      return `this is no batch: ${error.message}`;
    }
  }
}

function unlinked(mark: Uint8Array, before: ReturnType<typeof readMark>): string | undefined {
  const now = readMark(mark);
  if (now === undefined) return "the number of a commit is damaged";
  if (before === undefined) return undefined;
  const follows = now.number === before.number + 1 && now.before === before.chain;
  return follows ? undefined : `commit ${now.number} does not follow commit ${before.number}`;
}

function markOf(batch: Uint8Array, count: number): Uint8Array | undefined {
  const reader = new VarintReader(batch, 12);
  let mark: Uint8Array | undefined;
  let seen = 0;
  for (; reader.left > 0; seen++) {
    const type = reader.bytes(1)[0];
    if (type !== 0 && type !== 1) throw new RangeError(`an operation is of type ${type}`);
    const key = reader.sized();
    if (type === 0) continue;
    const value = reader.sized();
    if (key.length === COMMIT_KEY.length && equalBytes(key, COMMIT_KEY)) mark = value;
  }
  if (seen !== count) throw new RangeError(`${seen} operations instead of ${count}`);
  return mark;
}

function logNumbers(names: readonly string[]): number[] {
  return names
    .filter((name) => /^\d+\.log$/.test(name))
    .map((name) => Number.parseInt(name, 10))
    .sort((a, b) => a - b);
}

function logName(number: number): string {
  return `${String(number).padStart(6, "0")}.log`;
}

function tableName(names: readonly string[], number: number): string | undefined {
  return names.find((name) => /^\d+\.(?:ldb|sst)$/.test(name) && Number.parseInt(name, 10) === number);
}

/** A file that vanishes meanwhile belongs to another owner, whom opening will meet. */
async function readIfThere(path: string): Promise<Uint8Array | undefined> {
  return readFile(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT") throw error;
    return undefined;
  });
}
