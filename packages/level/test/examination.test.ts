/**
 * What is found in the files of a store before LevelDB opens them: tables, logs, numbers; and the anchor.
 */

import { cp, readdir, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { examineLevel, type LevelOptions, levelBackend } from "@coppice/level";
import { ClassicLevel } from "classic-level";
import { systemEnv } from "coppice";
import { seededRandom } from "coppice/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { bytes, entriesOf, removeDirectories, temporaryDirectory } from "../../../test/support/stores.js";
import { examineDirectory } from "../src/examination.js";
import { COMMIT_KEY, readMark, writeMark } from "../src/ledger.js";
import { readManifest } from "../src/manifest.js";
import { scanTable } from "../src/table-scan.js";

const env = systemEnv();
const events = { space: "events", id: "doc" };

/** Commits `count` values of 1,000 bytes, of which half can be compressed. */
async function write(location: string, from: number, count: number, options?: LevelOptions): Promise<void> {
  const random = seededRandom(from + 1);
  const backend = await levelBackend(location, options).open(env);
  for (let n = from; n < from + count; n++) {
    const value = new Uint8Array(1000).fill(n);
    value.set(random.bytes(500));
    await backend.commit({ put: [{ key: ["events", "doc", n], value }] });
  }
  await backend.close();
}

async function markIn(location: string): Promise<ReturnType<typeof readMark>> {
  const db = new ClassicLevel<Uint8Array, Uint8Array>(location, {
    keyEncoding: "view",
    valueEncoding: "view",
  });
  const value = await db.get(COMMIT_KEY);
  await db.close();
  return value && readMark(value);
}

const filesOf = async (location: string, ending: string) =>
  (await readdir(location)).filter((name) => name.endsWith(ending)).sort();

/** Tables that count: LevelDB may leave a half-written one when it is closed while it merges. */
async function tablesOf(location: string): Promise<string[]> {
  const current = (await readFile(join(location, "CURRENT"), "utf8")).trim();
  const live = readManifest(await readFile(join(location, current)))!.tables;
  return (await filesOf(location, ".ldb")).filter((name) => live.has(Number.parseInt(name, 10)));
}

/** A store with tables, with and without compression, and a log; and a copy to damage. */
async function copyOf(store: string): Promise<string> {
  const copy = join(await temporaryDirectory(), "store");
  await cp(store, copy, { recursive: true });
  return copy;
}

let plain: string;
let compressed: string;

beforeAll(async () => {
  for (const compression of [false, true]) {
    const location = join(await temporaryDirectory(), "store");
    for (let n = 0; n < 3; n++) await write(location, n * 60, 60, { compression, writeBufferBytes: 65_536 });
    if (compression) compressed = location;
    else plain = location;
  }
});
afterAll(removeDirectories);

describe("tables", () => {
  test("[LB1] a table that LevelDB wrote is sound, compressed or not", async () => {
    for (const store of [plain, compressed]) {
      const tables = await tablesOf(store);
      expect(tables.length).toBeGreaterThan(0);
      for (const name of tables) expect(scanTable(await readFile(join(store, name)))).toEqual([]);
      const examined = await examineDirectory(store, "tables");
      expect(examined.damage).toEqual([]);
    }
  });

  test("[LB1] every flipped bit of a table is found, but for the zeros of its footer, which nothing reads", async () => {
    for (const store of [plain, compressed]) {
      const [name] = await tablesOf(store);
      const table = new Uint8Array(await readFile(join(store, name!)));
      let missed = 0;
      for (let at = 0; at < table.length; at += at > table.length - 2000 ? 1 : 41) {
        const bit = 1 << (at % 8);
        table[at]! ^= bit;
        if (scanTable(table).length === 0) {
          missed++;
          expect(at).toBeGreaterThanOrEqual(table.length - 48);
          expect(table[at]).toBe(bit);
        }
        table[at]! ^= bit;
      }
      expect(missed).toBeLessThan(40);
    }
  });

  test("[LB1] a damaged table is CORRUPT at open with its file and place, and nothing is changed", async () => {
    const store = await copyOf(compressed);
    const [name] = await tablesOf(store);
    const table = await readFile(join(store, name!));
    table[300]! ^= 4;
    await writeFile(join(store, name!), table);
    const before = await readdir(store);
    await expect(levelBackend(store).open(env)).rejects.toMatchObject({
      code: "CORRUPT",
      details: { location: store, file: name, places: 1 },
    });
    expect(await readdir(store)).toEqual(before);
    const { damage } = await examineDirectory(store, "tables");
    expect(damage[0]).toMatchObject({ file: name, offset: 0 });
    expect(damage[0]!.upTo!.length).toBeGreaterThan(0);
    const trusting = await levelBackend(store, { verifyTables: false }).open(env);
    await trusting.close();
  });

  test("[LB1] a table of another size, and a store without one, are CORRUPT", async () => {
    const shorter = await copyOf(plain);
    const [name] = await tablesOf(shorter);
    await truncate(join(shorter, name!), (await stat(join(shorter, name!))).size - 1);
    await expect(levelBackend(shorter).open(env)).rejects.toMatchObject({ code: "CORRUPT" });
    const without = await copyOf(plain);
    await rm(join(without, name!));
    await expect(levelBackend(without).open(env)).rejects.toMatchObject({ code: "CORRUPT" });
  });
});

describe("commit numbers", () => {
  test("[LB2] each commit of a directory has the next number, over all openings", async () => {
    const location = join(await temporaryDirectory(), "store");
    await write(location, 0, 5);
    expect(await markIn(location)).toMatchObject({ number: 5 });
    await write(location, 5, 3, { durability: "process" });
    const eight = await markIn(location);
    expect(eight).toMatchObject({ number: 8 });
    await write(location, 8, 1);
    expect(await markIn(location)).toMatchObject({ number: 9, before: eight!.chain });
  });

  test("[LB2] another history of as many commits has another chain", async () => {
    const [one, two] = [join(await temporaryDirectory(), "s"), join(await temporaryDirectory(), "s")];
    await write(one, 0, 4);
    await write(two, 1, 4);
    expect((await markIn(one))!.chain).not.toBe((await markIn(two))!.chain);
  });

  test("[LB2] a store from before there were numbers begins with 1", async () => {
    const location = join(await temporaryDirectory(), "store");
    const db = new ClassicLevel(location);
    const backend = await levelBackend(db).open(env);
    await backend.commit({ put: [{ key: ["events", "doc", 0], value: bytes(10, 1) }] });
    await backend.close();
    await db.close();
    await write(location, 1, 1);
    expect(await markIn(location)).toMatchObject({ number: 1, before: 0 });
  });

  test("[LB2] who had the store while it was opened anew, and has committed, is noticed", async () => {
    const location = join(await temporaryDirectory(), "store");
    const backend = await levelBackend(location).open(env);
    await backend.commit({ put: [{ key: ["events", "d", 0], value: bytes(10, 1) }] });
    const { prototype } = ClassicLevel;
    const restore = () => Reflect.deleteProperty(prototype, "close");
    // In place of the inherited one, once.
    prototype.close = async function (this: ClassicLevel) {
      restore();
      await this.close();
      const other = new ClassicLevel<Uint8Array, Uint8Array>(location, {
        keyEncoding: "view",
        valueEncoding: "view",
      });
      await other.put(COMMIT_KEY, writeMark({ number: 2, chain: 3, before: 4 }));
      await other.close();
    };
    try {
      await expect(backend.reclaim()).rejects.toMatchObject({ cause: { code: "LOCKED" } });
    } finally {
      restore();
    }
    await backend.close();
  });

  test("[LB2] a number that is damaged is CORRUPT", async () => {
    const location = join(await temporaryDirectory(), "store");
    await write(location, 0, 2);
    const db = new ClassicLevel<Uint8Array, Uint8Array>(location, {
      keyEncoding: "view",
      valueEncoding: "view",
    });
    const value = await db.get(COMMIT_KEY);
    value![3]! ^= 1;
    await db.put(COMMIT_KEY, value!);
    await db.close();
    await expect(levelBackend(location).open(env)).rejects.toMatchObject({ code: "CORRUPT" });
  });
});

describe("logs", () => {
  test("[LB3] a commit cut out of the log, its neighbours whole, is found", async () => {
    const location = join(await temporaryDirectory(), "store");
    await write(location, 0, 12);
    const [name] = await filesOf(location, ".log");
    const log = await readFile(join(location, name!));
    // Of equal size: the batches lie one behind the other in the first block.
    const size = 7 + log.readUInt16LE(4);
    for (const cut of [3, 7]) {
      const rest = Buffer.concat([log.subarray(0, cut * size), log.subarray((cut + 1) * size)]);
      await writeFile(join(location, name!), rest);
      const { damage } = await examineDirectory(location, "tables");
      expect(damage[0]).toMatchObject({ file: name, what: "batches are missing before this one" });
      await expect(levelBackend(location).open(env)).rejects.toMatchObject({ code: "CORRUPT" });
    }
    await writeFile(join(location, name!), log);
    await write(location, 12, 1);
  });

  /** As opened with each durability, and as examined. */
  async function expectDamagedCurrent(store: string, what: string): Promise<void> {
    const before = await readdir(store);
    for (const options of [{}, { durability: "process" }, { createIfMissing: false }] as const)
      await expect(levelBackend(store, options).open(env), JSON.stringify(options)).rejects.toMatchObject({
        code: "CORRUPT",
        message: expect.stringContaining(what),
        details: { location: store, file: "CURRENT", offset: 0 },
      });
    expect((await examineLevel(store))[0]).toEqual({ file: "CURRENT", offset: 0, what });
    expect(await readdir(store)).toEqual(before);
  }

  test("[LB5] a CURRENT that is not as LevelDB writes it is CORRUPT with every durability, and is left so", async () => {
    const store = await copyOf(plain);
    const good = (await readFile(join(store, "CURRENT"), "latin1")).trim();
    const others = ["", "\n", "MANIFEST", "\0\n", "MAN\0\xff[\n", ".\n", `${"x".repeat(300)}\n`];
    const alike = [good, `${good}\0\n`, `./${good}\n`, `${good}\r\n`, `\xef\xbb\xbf${good}\n`];
    const tooLong = `MANIFEST-${"0".repeat(300)}\n`;
    for (const bytes of [...others, ...alike, tooLong]) {
      await writeFile(join(store, "CURRENT"), bytes, "latin1");
      await expectDamagedCurrent(store, "the file names no manifest");
      expect(await readFile(join(store, "CURRENT"), "latin1")).toBe(bytes);
    }
    await writeFile(join(store, "CURRENT"), `${good}\n`);
    await write(store, 180, 1);
  });

  test("[LB5] a CURRENT whose manifest is not there is CORRUPT with every durability", async () => {
    for (const name of ["MANIFEST-999999", "MANIFEST-99999999999999999999"]) {
      const store = await copyOf(plain);
      await writeFile(join(store, "CURRENT"), `${name}\n`);
      await expectDamagedCurrent(store, "the file names a manifest that is not there");
    }
  });

  test("[LB5] a store that has lost CURRENT is CORRUPT, and is not begun anew; leftovers of a creation are", async () => {
    const what = "the store has lost its file CURRENT";
    const store = await copyOf(plain);
    await rm(join(store, "CURRENT"));
    await expectDamagedCurrent(store, what);
    const young = join(await temporaryDirectory(), "store");
    await write(young, 0, 3);
    await rm(join(young, "CURRENT"));
    await expectDamagedCurrent(young, what);
    for (const name of await filesOf(young, ".log")) await truncate(join(young, name), 100);
    expect(await examineLevel(young)).toEqual([]);
    await write(young, 0, 1);
  });

  test("[LB3] a log that is gone, or is another one, is CORRUPT", async () => {
    const location = join(await temporaryDirectory(), "store");
    await write(location, 0, 12);
    const older = await copyOf(location);
    await write(location, 12, 3);
    const [name] = await filesOf(location, ".log");
    const log = await readFile(join(location, name!));
    await rm(join(location, name!));
    await expect(levelBackend(location).open(env)).rejects.toMatchObject({
      code: "CORRUPT",
      details: { file: name },
    });
    const [oldName] = await filesOf(older, ".log");
    await writeFile(join(older, oldName!), log);
    await expect(levelBackend(older).open(env)).rejects.toMatchObject({ code: "CORRUPT" });
  });
});

describe("the anchor", () => {
  async function anchored(): Promise<{ location: string; anchor: string; log: string }> {
    const parent = await temporaryDirectory();
    const [location, anchor] = [join(parent, "store"), join(parent, "elsewhere", "anchor")];
    await write(location, 0, 6, { anchor });
    const [name] = await filesOf(location, ".log");
    return { location, anchor, log: join(location, name!) };
  }

  test("[LB4] the loss of exactly the last commit is found with an anchor, and only with one", async () => {
    const { location, anchor, log } = await anchored();
    const good = await readFile(log);
    await writeFile(log, good.subarray(0, good.length - 1));
    const copy = await copyOf(location);
    await expect(levelBackend(location, { anchor }).open(env)).rejects.toMatchObject({
      code: "CORRUPT",
      details: { expected: 6, actual: 5 },
    });
    const trusting = await levelBackend(copy).open(env);
    expect((await entriesOf(trusting, events)).length).toBe(5);
    await trusting.close();
  });

  test("[LB4] an anchor is refused where commits are not durable before it", () => {
    expect(() => levelBackend("store", { anchor: "anchor", durability: "process" })).toThrow(TypeError);
  });

  test("[LB4] a store that is gone, older, or another one is CORRUPT with an anchor", async () => {
    const { location, anchor } = await anchored();
    const older = await copyOf(location);
    await write(location, 6, 2, { anchor });
    await expect(levelBackend(older, { anchor }).open(env)).rejects.toMatchObject({ code: "CORRUPT" });
    const fresh = join(await temporaryDirectory(), "store");
    await expect(levelBackend(fresh, { anchor }).open(env)).rejects.toMatchObject({ code: "CORRUPT" });
    const other = join(await temporaryDirectory(), "store");
    await write(other, 3, 8);
    await expect(levelBackend(other, { anchor }).open(env)).rejects.toMatchObject({
      code: "CORRUPT",
      message: expect.stringContaining("another history"),
    });
    await write(location, 8, 1, { anchor });
  });

  test("[LB4] an anchor that a crash left one commit behind, or torn in one slot, is taken", async () => {
    const { location, anchor } = await anchored();
    const before = await readFile(anchor);
    for (const slot of [0, 512]) expect(before.toString("latin1", slot, slot + 8)).toBe("coppanch");
    await write(location, 6, 1, { anchor });
    await writeFile(anchor, before);
    // Again and again: what is written next is what was torn, and not what alone is whole.
    for (const number of [7, 8, 9]) {
      const known = await readFile(anchor);
      await write(location, number, 1, { anchor });
      const torn = await readFile(anchor);
      const slot = torn.subarray(0, 512).equals(known.subarray(0, 512)) ? 512 : 0;
      await writeFile(anchor, torn.fill(0xff, slot, slot + 100));
    }
    await write(location, 10, 1, { anchor });
    expect(await markIn(location)).toMatchObject({ number: 11 });
  });

  test("[LB4] a damaged anchor is CORRUPT, and a path that is none a TypeError", async () => {
    const { location, anchor } = await anchored();
    await writeFile(anchor, Buffer.alloc(1024, 7));
    await expect(levelBackend(location, { anchor }).open(env)).rejects.toMatchObject({ code: "CORRUPT" });
    await writeFile(anchor, "short");
    await expect(levelBackend(location, { anchor }).open(env)).rejects.toMatchObject({ code: "CORRUPT" });
    expect(() => levelBackend(location, { anchor: "" })).toThrow(TypeError);
    await rm(anchor);
    await write(location, 6, 1, { anchor });
  });
});

test("[ST103] an examination of no directory, or of one that there is not, says what it wants", async () => {
  for (const location of [undefined, "", 5] as never[])
    await expect(examineLevel(location)).rejects.toThrow(
      new TypeError('examineLevel wants the directory of the store, as in "./data"'),
    );
  for (const [location, code] of [
    [join(await temporaryDirectory(), "none"), "ENOENT"],
    [process.execPath, "ENOTDIR"],
  ] as const)
    await expect(examineLevel(location)).rejects.toMatchObject({
      code: "UNAVAILABLE",
      details: { location },
      cause: { code },
    });
});
