/** What is particular to this backend; what every backend must do is in the conformance cases. */

import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { levelBackend } from "@coppice/level";
import { ClassicLevel } from "classic-level";
import { type Backend, type BackendFactory, encodeKey, Guard, LIMITS, systemEnv } from "coppice";
import { MemoryLevel } from "memory-level";
import { afterEach, describe, expect, test } from "vitest";
import { bytes, entriesOf, removeDirectories, temporaryDirectory } from "../../../test/support/stores.js";

const env = systemEnv();
const owner = fileURLToPath(new URL("./children/owner.mjs", import.meta.url));
const classicLevel = pathToFileURL(createRequire(import.meta.url).resolve("classic-level")).href;
const opened: Backend[] = [];

async function open(factory: BackendFactory): Promise<Backend> {
  const backend = await factory.open(env);
  opened.push(backend);
  return backend;
}

async function close(backend: Backend): Promise<void> {
  opened.splice(opened.indexOf(backend), 1);
  await backend.close();
}

afterEach(async () => {
  for (const backend of opened.splice(0)) await backend.close();
  await removeDirectories();
});

describe("one owner", () => {
  test("[BK44] a directory that another process has open is LOCKED, and free once it has closed", async () => {
    const location = await temporaryDirectory();
    const child = spawn(process.execPath, [owner, classicLevel, location], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    const [said] = (await once(child.stdout, "data")) as [Buffer];
    expect(said.toString()).toBe("OPEN\n");
    await expect(levelBackend(location).open(env)).rejects.toMatchObject({
      code: "LOCKED",
      details: { location },
    });
    child.stdin.end();
    await once(child, "exit");
    await open(levelBackend(location));
  });

  test("[BK44] LOCKED is told before the tables are read, on Linux", async (context) => {
    if (process.platform !== "linux") return context.skip("only Linux tells who holds a lock");
    const location = await temporaryDirectory();
    const value = bytes(200_000, 1);
    const writer = await open(levelBackend(location, { writeBufferBytes: 64 * 1024, compression: false }));
    for (let seq = 0; seq < 8; seq++) await writer.commit({ put: [{ key: ["events", "d", seq], value }] });
    await close(writer);
    const child = spawn(process.execPath, [owner, classicLevel, location], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    await once(child.stdout, "data");
    const table = (await readdir(location)).find((name) => name.endsWith(".ldb"));
    const path = join(location, table!);
    const damaged = await readFile(path);
    damaged[1000]! ^= 1;
    await writeFile(path, damaged);
    // Whoever had read it would have found the damage.
    await expect(levelBackend(location).open(env)).rejects.toMatchObject({ code: "LOCKED" });
    child.stdin.end();
    await once(child, "exit");
    await expect(levelBackend(location).open(env)).rejects.toMatchObject({ code: "CORRUPT" });
  });

  test("[BK44] a directory that this process has open is locked for other processes", async () => {
    const location = await temporaryDirectory();
    await open(levelBackend(location));
    const said = execFileSync(process.execPath, [owner, classicLevel, location], { input: "" });
    expect(said.toString()).toBe("REFUSED LEVEL_LOCKED\n");
  });

  test("[BK44] a directory is LOCKED under any of its names, for locations and instances alike", async () => {
    const parent = await temporaryDirectory();
    const location = join(parent, "store");
    const alias = join(parent, "alias");
    const first = await open(levelBackend(location));
    await symlink(location, alias);
    await expect(levelBackend(alias).open(env)).rejects.toMatchObject({ code: "LOCKED" });
    await expect(levelBackend(join(parent, ".", "store", "..", "store")).open(env)).rejects.toMatchObject({
      code: "LOCKED",
    });
    await close(first);

    const instance = new ClassicLevel(alias);
    const lent = await open(levelBackend(instance));
    await expect(levelBackend(location).open(env)).rejects.toMatchObject({ code: "LOCKED" });
    await close(lent);
    await expect(levelBackend(location).open(env)).rejects.toMatchObject({ code: "LOCKED" });
    await instance.close();
    await open(levelBackend(location));
  });

  test("[BK44] an instance that is handed over twice at once is LOCKED", async () => {
    const instance = new MemoryLevel();
    const first = await open(levelBackend(instance));
    await expect(levelBackend(instance).open(env)).rejects.toMatchObject({ code: "LOCKED" });
    await close(first);
    await open(levelBackend(instance));
  });

  test("[BK44] two sublevels of one instance are two stores, one sublevel is one", async () => {
    const instance = new ClassicLevel(await temporaryDirectory());
    const a = await open(levelBackend(instance.sublevel("a")));
    const b = await open(levelBackend(instance.sublevel("b")));
    await expect(levelBackend(instance.sublevel("a")).open(env)).rejects.toMatchObject({ code: "LOCKED" });
    await a.commit({ put: [{ key: ["meta", "doc"], value: bytes(1, 1) }] });
    await b.commit({ put: [{ key: ["meta", "doc"], value: bytes(1, 2) }] });
    await a.commit({ delete: [{ space: "meta", id: "doc" }] });
    expect(await a.get(["meta", "doc"])).toBeUndefined();
    expect(await b.get(["meta", "doc"])).toEqual(bytes(1, 2));
    await close(a);
    await close(b);
    await instance.close();
  });
});

describe("instances", () => {
  test("[BK45] the durability is what the instance can hold, and asking for more is TRAIT_MISSING", async () => {
    const memory = new MemoryLevel();
    expect((await open(levelBackend(memory))).traits).toMatchObject({
      durability: "none",
      poisonsItself: false,
    });
    for (const durability of ["power", "process"] as const) {
      const refused = levelBackend(new MemoryLevel(), { durability }).open(env);
      await expect(refused).rejects.toMatchObject({ code: "TRAIT_MISSING" });
    }
    const classic = new ClassicLevel(await temporaryDirectory());
    const power = await open(levelBackend(classic));
    expect(power.traits).toMatchObject({ durability: "power", poisonsItself: true, exclusive: true });
    await close(power);
    const relaxed = await open(levelBackend(classic, { durability: "process" }));
    expect(relaxed.traits.durability).toBe("process");
    await close(relaxed);
    await classic.close();
  });

  test("[BK45] an instance that stores strings is TRAIT_MISSING", async () => {
    const strings = levelBackend(new MemoryLevel({ storeEncoding: "utf8" }));
    await expect(strings.open(env)).rejects.toMatchObject({ code: "TRAIT_MISSING" });
  });

  test("[BK46] an open instance stays open at close, one that was closed is opened and closed", async () => {
    const instance = new ClassicLevel(await temporaryDirectory());
    const factory = levelBackend(instance);
    await close(await open(factory));
    expect(instance.status).toBe("open");
    await instance.close();

    const ours = levelBackend(instance);
    const backend = await open(ours);
    await expect(ours.open(env)).rejects.toMatchObject({ code: "LOCKED" });
    await close(backend);
    expect(instance.status).toBe("closed");
    await close(await open(ours));
    expect(instance.status).toBe("closed");
  });

  test("[BK46] after a failed write the instance is reopened before it is used again", async () => {
    const instance = new ClassicLevel(await temporaryDirectory());
    const factory = levelBackend(instance);
    const guard = new Guard(await factory.open(env), env, LIMITS);
    await guard.commit({ put: [{ key: ["meta", "kept"], value: bytes(1, 1) }] });
    await instance.close();
    const put = [{ key: ["meta", "lost"] as const, value: bytes(1, 2) }];
    await expect(guard.commit({ put })).rejects.toMatchObject({ code: "OUTCOME_UNKNOWN" });
    await expect(guard.commit({ put })).rejects.toMatchObject({ code: "POISONED" });
    await instance.open();
    const before = (await readdir(instance.location)).filter((name) => name.endsWith(".log"));
    await guard.close();
    expect(instance.status).toBe("closed");

    const again = await open(factory);
    expect(await again.get(["meta", "kept"])).toEqual(bytes(1, 1));
    const after = (await readdir(instance.location)).filter((name) => name.endsWith(".log"));
    expect(after).not.toEqual(before);
    await close(again);
    expect(instance.status).toBe("open");
    await instance.close();
  });

  test("[BK47] other data in the instance are neither seen nor touched", async () => {
    const instance = new MemoryLevel<string, unknown>({ valueEncoding: "json" });
    await instance.put("settings", { theme: "dark" });
    await instance.put("~", { last: true });
    const backend = await open(levelBackend(instance));
    await backend.commit({ put: [{ key: ["meta", "doc"], value: bytes(2, 255) }] });
    expect((await entriesOf(backend, { space: "meta" })).map(({ key }) => key)).toEqual([["meta", "doc"]]);
    await backend.commit({ delete: [{ space: "meta", id: "doc" }] });
    expect(await instance.keys().all()).toEqual(["settings", "~"]);
    expect(await instance.get("settings")).toEqual({ theme: "dark" });
  });

  test("[BK49] a key inside our spaces that we never wrote is CORRUPT, not skipped", async () => {
    const instance = new MemoryLevel();
    await instance.open();
    await instance.put("meta\0bad", "x");
    const backend = await open(levelBackend(instance));
    await expect(entriesOf(backend, { space: "meta" })).rejects.toMatchObject({ code: "CORRUPT" });
  });
});

describe("commits and scans", () => {
  test("[BK48] a commit is one batch of the database, and one of expectations alone writes nothing", async () => {
    const instance = new ClassicLevel(await temporaryDirectory());
    const backend = await open(levelBackend(instance));
    const sizes: number[] = [];
    instance.on("write", (operations) => sizes.push(operations.length));
    const put = Array.from({ length: 2500 }, (_, n) => ({
      key: ["events", "doc", n] as const,
      value: bytes(1, 1),
    }));
    await backend.commit({ put });
    await backend.commit({ expect: [{ key: ["events", "doc", 1], value: bytes(1, 1) }] });
    await backend.commit({});
    await backend.commit({
      delete: [{ space: "events", id: "doc", from: 0, to: 2400 }, ["events", "doc", 2450]],
      put: [{ key: ["events", "doc", 7], value: bytes(1, 2) }],
    });
    expect(sizes).toEqual([2500, 2402]);
    const left = await entriesOf(backend, { space: "events", id: "doc" });
    expect(left.length).toBe(100);
    expect(left[0]).toEqual({ key: ["events", "doc", 7], value: bytes(1, 2) });
    await close(backend);
    await instance.close();
  });

  test("[BK48] many expectations are checked as strictly as few", async () => {
    const backend = await open(levelBackend(await temporaryDirectory()));
    const put = Array.from({ length: 200 }, (_, n) => ({
      key: ["meta", `d${n}`] as const,
      value: bytes(1, n),
    }));
    await backend.commit({ put });
    await backend.commit({ expect: put });
    const wrong = put.map((entry, n) => (n === 150 ? { ...entry, value: undefined } : entry));
    await expect(backend.commit({ expect: wrong })).rejects.toMatchObject({
      code: "COMMIT_CONFLICT",
      details: { key: ["meta", "d150"] },
    });
  });

  test("[BK50] pages end with the entry that fills them, on every kind of database", async () => {
    const put = Array.from({ length: 100 }, (_, n) => ({
      key: ["events", "doc", n] as const,
      value: bytes(n % 10 === 0 ? 5000 : 100, 1),
    }));
    for (const factory of [levelBackend(await temporaryDirectory()), levelBackend(new MemoryLevel())]) {
      const backend = await open(factory);
      await backend.commit({ put });
      let seen = 0;
      for await (const page of backend.scan({ space: "events", id: "doc" }, { pageBytesMax: 2000 })) {
        const sizes = page.map(({ key, value }) => encodeKey(key).length + value.length);
        expect(sizes.slice(0, -1).reduce((sum, size) => sum + size, 0)).toBeLessThanOrEqual(2000);
        seen += page.length;
      }
      expect(seen).toBe(100);
    }
  });

  test("[BK50] a scan asks the database once for a page, and releases its iterator however it ends", async () => {
    const instance = new ClassicLevel(await temporaryDirectory());
    const backend = await open(levelBackend(instance));
    await backend.commit({
      put: Array.from({ length: 50 }, (_, n) => ({
        key: ["events", "doc", n] as const,
        value: bytes(10, n),
      })),
    });
    const iterators: { reads: number; closed: boolean }[] = [];
    const make = instance.iterator.bind(instance);
    instance.iterator = ((options: object) => {
      const iterator = make(options);
      const count = { reads: 0, closed: false };
      iterators.push(count);
      const [nextv, closeIt] = [iterator.nextv.bind(iterator), iterator.close.bind(iterator)];
      iterator.nextv = (...args: Parameters<typeof nextv>) => {
        count.reads++;
        return nextv(...args);
      };
      iterator.close = () => {
        count.closed = true;
        return closeIt();
      };
      return iterator;
    }) as typeof instance.iterator;

    await entriesOf(backend, { space: "events", id: "doc" }, { reverse: true, limit: 1 });
    expect(iterators.at(-1)).toEqual({ reads: 1, closed: true });
    for await (const _ of backend.scan({ space: "events" }, { pageBytesMax: 1 })) break;
    expect(iterators.at(-1)).toEqual({ reads: 1, closed: true });
    const abort = new AbortController();
    const reading = (async () => {
      for await (const _ of backend.scan({ space: "events" }, { pageBytesMax: 1, signal: abort.signal })) {
        abort.abort(new Error("enough"));
      }
    })();
    await expect(reading).rejects.toThrow("enough");
    expect(iterators.at(-1)).toEqual({ reads: 1, closed: true });
    expect(iterators.length).toBe(3);
    await close(backend);
    await instance.close();
  });
});

describe("opening", () => {
  test("[BK49] a damaged store is CORRUPT, keeps its files, and stays unlocked", async () => {
    const location = await temporaryDirectory();
    await close(await open(levelBackend(location)));
    const current = await readFile(join(location, "CURRENT"), "utf8");
    const manifest = join(location, current.trim());
    const good = await readFile(manifest);
    await writeFile(
      manifest,
      good.map((byte, at) => (at === 12 ? byte ^ 1 : byte)),
    );
    await expect(levelBackend(location).open(env)).rejects.toMatchObject({
      code: "CORRUPT",
      details: { location },
    });
    await writeFile(join(location, "CURRENT"), "MANIFEST-999999\n");
    await expect(levelBackend(location).open(env)).rejects.toMatchObject({ code: "CORRUPT" });
    await writeFile(join(location, "CURRENT"), current);
    await writeFile(manifest, good);
    await open(levelBackend(location));
  });

  test("[BK49] what the file system refuses is UNAVAILABLE with its reason", async () => {
    const parent = await temporaryDirectory();
    await writeFile(join(parent, "file"), "");
    await expect(levelBackend(join(parent, "file", "store")).open(env)).rejects.toMatchObject({
      code: "UNAVAILABLE",
      cause: { code: "ENOTDIR" },
    });
    // LevelDB cannot make its LOCK file here.
    await mkdir(join(parent, "odd", "LOCK"), { recursive: true });
    await expect(levelBackend(join(parent, "odd")).open(env)).rejects.toMatchObject({ code: "UNAVAILABLE" });
  });

  test("[BK49] without createIfMissing nothing is created where there is no store", async () => {
    const location = join(await temporaryDirectory(), "store");
    const factory = levelBackend(location, { createIfMissing: false });
    await expect(factory.open(env)).rejects.toMatchObject({ code: "UNAVAILABLE" });
    await mkdir(location);
    await expect(factory.open(env)).rejects.toMatchObject({ code: "UNAVAILABLE" });
    expect(await readdir(location)).toEqual([]);
    await close(await open(levelBackend(location)));
    await open(factory);
  });

  test("[BK59] a directory that holds data of others alone is refused, and left as it is", async () => {
    const location = await temporaryDirectory();
    const theirs = new ClassicLevel<string, string>(location);
    for (let n = 0; n < 3; n++) await theirs.put(`setting ${n}`, "dark");
    await theirs.close();
    for (const options of [{}, { durability: "process" }, { verifyTables: false }] as const) {
      await expect(levelBackend(location, options).open(env)).rejects.toMatchObject({
        code: "UNAVAILABLE",
        message: expect.stringContaining("coppice import y-leveldb"),
        details: { location, foreign: true },
      });
    }
    await theirs.open();
    expect((await theirs.keys().all()).length).toBe(3);

    // A store that shares its database, and one from before commits had numbers.
    const shared = await open(levelBackend(theirs));
    await shared.commit({ put: [{ key: ["meta", "doc"], value: bytes(1, 1) }] });
    await close(shared);
    await theirs.close();
    const backend = await open(levelBackend(location));
    expect(await backend.get(["meta", "doc"])).toEqual(bytes(1, 1));
    await close(backend);
    await theirs.open();
    await theirs.clear();
    await theirs.close();
    await open(levelBackend(location));
  });

  test("[BK51] options reach LevelDB, and mistakes in them are TypeErrors", async () => {
    const location = await temporaryDirectory();
    const backend = await open(levelBackend(location, { writeBufferBytes: 65_536, compression: false }));
    for (let n = 0; n < 8; n++) {
      await backend.commit({ put: [{ key: ["events", "doc", n], value: bytes(30_000, 5) }] });
    }
    await close(backend);
    const log = await readFile(join(location, "LOG"), "utf8");
    expect(log).toMatch(/Level-0 table #\d+: (6|7|8|9)\d{4} bytes/);
    expect(() => levelBackend("")).toThrow(TypeError);
    expect(() => levelBackend("level:./data")).toThrow("how the command names a store");
    expect(() => levelBackend(7 as unknown as string)).toThrow(TypeError);
    expect(() => levelBackend(location, { durability: "none" as "power" })).toThrow(TypeError);
  });
});
