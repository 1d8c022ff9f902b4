// The control socket: a real socket between two ends in this process, and what lies around it in files.
import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type BackendFactory,
  DocumentStorage,
  type Entry,
  isCoppiceError,
  memoryBackend,
  never,
  type Range,
  type ScanOptions,
  systemEnv,
} from "coppice";
import { compactAllAlone, findOwner, offerControl } from "coppice/control";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { nameSet, naming } from "../../../../test/support/oracle-model.js";

const FILE = "coppice-control.json";
let folder = "";
let directory = "";
const endings: (() => Promise<unknown>)[] = [];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "coppice-control-"));
  directory = join(folder, "data");
  await mkdir(directory);
  process.env.XDG_RUNTIME_DIR = folder;
});

afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
  delete process.env.XDG_RUNTIME_DIR;
  await rm(folder, { recursive: true, force: true });
});

async function storageWith(documents: number, events = 3): Promise<DocumentStorage> {
  const storage = await DocumentStorage.open({
    backend: memoryBackend(),
    models: [nameSet()],
    snapshotPolicy: never,
  });
  endings.push(() => storage.close());
  for (let document = 0; document < documents; document++)
    for (let event = 0; event < events; event++)
      await storage.append(`doc-${String(document).padStart(4, "0")}`, [naming(`${document}-${event}`)]);
  return storage;
}

async function offered(documents = 3): Promise<DocumentStorage> {
  const storage = await storageWith(documents);
  const control = await offerControl(storage, directory);
  endings.push(() => control.close());
  return storage;
}

async function place(): Promise<{ address: string; token: string }> {
  return JSON.parse(await readFile(join(directory, FILE), "utf8")) as { address: string; token: string };
}

/** Sends a text as it is; resolves with all that comes back until the end. */
function raw(address: string, text: string): Promise<string> {
  return new Promise((resolve) => {
    let seen = "";
    const socket: Socket = connect({ path: address }, () => socket.write(text));
    socket.setEncoding("utf8").on("data", (more: string) => {
      seen += more;
    });
    socket.on("error", () => undefined);
    socket.once("close", () => resolve(seen));
  });
}

describe("what can be asked", () => {
  test("[CS1] another process lists, looks, compacts and checks as if the store were its own", async () => {
    const storage = await offered(3);
    const owner = (await findOwner(directory))!;
    expect(owner.pid).toBe(process.pid);
    const ids: string[] = [];
    for await (const id of owner.list({ prefix: "doc-000", after: "doc-0000" })) ids.push(id);
    expect(ids).toEqual(["doc-0001", "doc-0002"]);
    expect(await owner.info("doc-0001")).toEqual(await storage.info("doc-0001"));
    expect(await owner.info("none")).toBeUndefined();
    expect(await owner.compact("doc-0001")).toMatchObject({ outcome: "compacted", clock: 3 });
    const seen: number[] = [];
    const result = await owner.compactAll({ onProgress: (progress) => seen.push(progress.seen) });
    expect(result).toMatchObject({ seen: 3, compacted: 2, failures: [], stopped: undefined });
    expect(seen).toEqual([1, 2, 3]);
    let checked = 0;
    const report = await owner.check({ onProgress: (done) => (checked = done) });
    expect(report).toEqual(await storage.check());
    expect(checked).toBe(3);
  });

  test("[CS1] a compaction keeps or drops as the one who asks for it says", async () => {
    const storage = await offered(2);
    const owner = await findOwner(directory);
    expect(await owner?.compact("doc-0000", { history: "archive" })).toMatchObject({ eventsArchived: 2 });
    expect((await storage.info("doc-0000"))?.archivedClock).toBe(0);
    // The archive has two of the last three.
    for (const [keepEvents, archivedClock] of [
      [3, 0],
      [1, undefined],
    ] as const) {
      expect(await owner?.compactAll({ history: { keepEvents } })).toMatchObject({ failures: [] });
      expect((await storage.info("doc-0000"))?.archivedClock).toBe(archivedClock);
    }
    const wrong = { history: "some" as "drop" };
    await expect(owner?.compact("doc-0001", wrong)).rejects.toMatchObject({ code: "ARGUMENT_INVALID" });
    await expect(owner?.compactAll(wrong)).rejects.toMatchObject({ code: "ARGUMENT_INVALID" });
    expect((await storage.check()).problems).toEqual([]);
  });

  test("[CS1] a list of any length arrives whole, and may be left early", async () => {
    await offered(1203);
    const owner = (await findOwner(directory))!;
    let count = 0;
    for await (const id of owner.list()) expect(id).toBe(`doc-${String(count++).padStart(4, "0")}`);
    expect(count).toBe(1203);
    for await (const id of owner.list()) {
      expect(id).toBe("doc-0000");
      break;
    }
  });

  test("[CS2] an error of the storage arrives as one, without a stack", async () => {
    const storage = await offered(1);
    const owner = (await findOwner(directory))!;
    const error = await owner.info("x".repeat(600)).catch((caught: unknown) => caught);
    expect(isCoppiceError(error, "ID_INVALID")).toBe(true);
    const { address, token } = await place();
    const answer = await raw(address, `${JSON.stringify({ token, method: "info", params: { id: "" } })}\n`);
    expect(JSON.parse(answer)).toMatchObject({ error: { code: "ID_INVALID" } });
    expect(answer).not.toMatch(/stack|\.ts:/);
    await storage.append("doc-0000", [naming("more")]);
    const failing = await owner.compactAll({ minEvents: -1 }).catch((caught: unknown) => caught);
    expect(isCoppiceError(failing, "ARGUMENT_INVALID")).toBe(true);
  });

  test("[CS3] of two compactions of a store at once the second is told so, whoever began the first", async () => {
    const storage = await offered(40);
    const owner = (await findOwner(directory))!;
    const first = compactAllAlone(storage);
    const second = await owner.compactAll().catch((error: unknown) => error);
    expect(second).toMatchObject({ code: "BUSY", details: { compacting: true } });
    await expect(compactAllAlone(storage)).rejects.toMatchObject({ code: "BUSY" });
    expect(await first).toMatchObject({ compacted: 40 });
    expect(await owner.compactAll()).toMatchObject({ compacted: 0 });
  });

  test("[CS4] an aborted call stops between two documents and says what was done", async () => {
    await offered(200);
    const owner = (await findOwner(directory))!;
    const stop = new AbortController();
    const result = await owner.compactAll({ signal: stop.signal, onProgress: () => stop.abort() });
    expect(result.stopped).toBe("signal");
    expect(result.compacted).toBeLessThan(200);
  });

  test("[CS4] what was asked for by one who goes away ends, and another may ask", async () => {
    const storage = await offered(400);
    const { address, token } = await place();
    const socket = connect({ path: address });
    socket.write(`${JSON.stringify({ token, method: "compactAll", params: {} })}\n`);
    await new Promise((resolve) => socket.once("data", resolve));
    socket.destroy();
    const owner = (await findOwner(directory))!;
    for (;;) {
      const outcome = await owner.compactAll().catch((error: unknown) => error);
      if (!isCoppiceError(outcome, "BUSY")) {
        expect(outcome).toMatchObject({ stopped: undefined });
        break;
      }
    }
    expect((await storage.check()).problems).toEqual([]);
  });
});

describe("who may ask", () => {
  test("[CS5] the file and the socket are for this user alone", async () => {
    await offered();
    const { address } = await place();
    expect((await stat(join(directory, FILE))).mode & 0o777).toBe(0o600);
    expect((await stat(join(address, ".."))).mode & 0o777).toBe(0o700);
    expect(Buffer.byteLength(address)).toBeLessThanOrEqual(100);
  });

  test("[CS5] nothing is done without the token, and bad requests end their connection", async () => {
    const storage = await offered(1);
    const { address, token } = await place();
    const requests = [
      "{}\n",
      "not json\n",
      "null\n",
      `${JSON.stringify({ token: `${token}x`, method: "compactAll" })}\n`,
      `${JSON.stringify({ token: "", method: "compactAll" })}\n`,
      `${JSON.stringify({ token, method: 5 })}\n`,
      "x".repeat(70_000),
    ];
    for (const request of requests)
      expect([request.slice(0, 20), await raw(address, request)]).toEqual([request.slice(0, 20), ""]);
    const unknown = await raw(address, `${JSON.stringify({ token, method: "close" })}\n`);
    expect(JSON.parse(unknown)).toMatchObject({ error: { code: "ARGUMENT_INVALID" } });
    expect((await storage.info("doc-0000"))?.snapshotClock).toBeUndefined();
    expect(await findOwner(directory)).toBeDefined();
  });

  test("[CS5] a runtime directory that others own or can write to is not used", async () => {
    await rm(join(folder, "coppice"), { recursive: true, force: true });
    await mkdir(join(folder, "elsewhere"));
    await symlink(join(folder, "elsewhere"), join(folder, "coppice"));
    await offered();
    expect((await place()).address).not.toContain(join(folder, "coppice"));
    expect(await findOwner(directory)).toBeDefined();
  });

  test("[CS5] many silent connections leave room again, and the others are closed at once", async () => {
    await offered(1);
    const { address } = await place();
    const sockets = Array.from({ length: 40 }, () => connect({ path: address }));
    for (const socket of sockets) socket.on("error", () => undefined);
    const closed = sockets.map((socket) => new Promise((resolve) => socket.once("close", resolve)));
    await Promise.race(closed);
    for (const socket of sockets) socket.destroy();
    await Promise.all(closed);
    expect(await findOwner(directory)).toBeDefined();
  });

  test("[CS9] who comes while too many calls are under way is told so, and readers keep few connections", async () => {
    await offered(1);
    const owner = (await findOwner(directory))!;
    const reads = await owner.backend().open(systemEnv());
    await Promise.all(Array.from({ length: 600 }, () => reads.get(["meta", "doc-0000"])));
    const { address } = await place();
    const sockets: Socket[] = [];
    const silent = (count: number) =>
      Promise.all(
        Array.from({ length: count }, () => {
          const socket = connect({ path: address });
          sockets.push(socket.on("error", () => undefined));
          return new Promise((resolve) => socket.once("connect", resolve));
        }),
      );
    await silent(240);
    expect(await owner.info("doc-0000")).toBeDefined();
    await silent(20);
    await expect(owner.info("doc-0000")).rejects.toMatchObject({ code: "BUSY" });
    await expect(findOwner(directory)).rejects.toMatchObject({ code: "BUSY" });
    // More reads than the connections that are kept: they wait, unless they are told not to.
    const held = Array.from({ length: 9 }, () => reads.scan({ space: "meta" })[Symbol.asyncIterator]());
    const controller = new AbortController();
    const given = reads.scan({ space: "meta" }, { signal: controller.signal })[Symbol.asyncIterator]().next();
    const pages = Promise.all(held.map((scan) => scan.next()));
    controller.abort(new Error("no time"));
    await expect(given).rejects.toThrow("no time");
    for (const socket of sockets) socket.destroy();
    for (const { value } of await pages) expect(value).toHaveLength(1);
    for (const scan of held) await scan.return?.();
    await reads.close();
  });
});

describe("who owns the store", () => {
  test("[CS6] what an earlier owner left is replaced by the next, and no owner is found through it", async () => {
    const storage = await storageWith(1);
    const control = await offerControl(storage, directory);
    const left = await readFile(join(directory, FILE), "utf8");
    const { address } = JSON.parse(left) as { address: string };
    await control.close();
    expect(await findOwner(directory)).toBeUndefined();
    // As after SIGKILL: the file says that somebody listens, the socket lies there, and nobody does.
    await writeFile(join(directory, FILE), left);
    await writeFile(address, "");
    expect(await findOwner(directory)).toBeUndefined();
    const next = await offerControl(storage, directory);
    endings.push(() => next.close());
    expect((await findOwner(directory))?.pid).toBe(process.pid);
    expect((await place()).token).not.toBe((JSON.parse(left) as { token: string }).token);
  });

  test("[CS6] a file that says nonsense is no owner", async () => {
    for (const text of ["", "{", "[]", "null", '{"version":2}', '{"version":1,"address":5,"token":"x"}']) {
      await writeFile(join(directory, FILE), text);
      expect(await findOwner(directory)).toBeUndefined();
    }
  });

  test("[CS6] an owner that ends before it has answered is `UNAVAILABLE`, and nothing hangs", async () => {
    const address = join(folder, "dying.sock");
    let asked = 0;
    const server = createServer((socket) => {
      socket.once("data", () => {
        if (asked++ === 0) socket.end('{"result":{"pid":1}}\n');
        else socket.destroy();
      });
    });
    await new Promise<void>((resolve) => server.listen(address, resolve));
    endings.push(() => new Promise((resolve) => server.close(resolve)));
    await writeFile(join(directory, FILE), JSON.stringify({ version: 1, address, token: "t", pid: 1 }));
    const owner = (await findOwner(directory))!;
    await expect(owner.compactAll()).rejects.toMatchObject({ code: "UNAVAILABLE" });
    await expect(async () => {
      for await (const id of owner.list()) expect(id).toBeUndefined();
    }).rejects.toMatchObject({ code: "UNAVAILABLE" });
  });

  test("[CS7] a store that several processes may open offers no control", async () => {
    const storage = await DocumentStorage.open({
      backend: memoryBackend({ shared: true }),
      models: [nameSet()],
    });
    endings.push(() => storage.close());
    await expect(offerControl(storage, directory)).rejects.toMatchObject({ code: "TRAIT_MISSING" });
  });

  test("[CS7] closing ends what runs through it between two steps, and leaves nothing behind", async () => {
    const storage = await storageWith(300);
    const control = await offerControl(storage, directory);
    const owner = (await findOwner(directory))!;
    const begun = new Promise<void>((resolve) => {
      owner.compactAll({ onProgress: () => resolve() }).catch(() => resolve());
    });
    await begun;
    await control.close();
    await expect(stat(join(directory, FILE))).rejects.toMatchObject({ code: "ENOENT" });
    await expect(stat(control.address)).rejects.toMatchObject({ code: "ENOENT" });
    expect((await storage.check()).problems).toEqual([]);
  });
});

describe("reading through the owner", () => {
  /** Pages with keys, and values by their digests, which are quick to compare. */
  const copied = async (reads: AsyncIterable<readonly Entry[]>) => {
    const pages: unknown[] = [];
    for await (const page of reads) pages.push(page.map(({ key, value }) => [key, digest(value)]));
    return pages;
  };
  const digest = (value: Uint8Array) => createHash("sha256").update(value).digest("hex");

  test("[CS8] what it has stored is read as from the store itself: keys, ranges, orders, pages, errors", async () => {
    const storage = await offered(12);
    await storage.compact("doc-0003");
    const large = await storage.append("large", [naming("x".repeat(3_000_000))]);
    expect(large.clock).toBe(1);
    const owner = (await findOwner(directory))!;
    const backend = await owner.backend().open(systemEnv());
    endings.push(() => backend.close());
    expect(backend.traits).toMatchObject({ durability: "none", exclusive: false });
    const ranges: readonly Range[] = [
      { space: "meta" },
      { space: "events" },
      { space: "meta", idPrefix: "doc-000", after: "doc-0004" },
      { space: "events", id: "doc-0002", from: 1, to: 3 },
      { space: "snapshot", id: "doc-0003" },
      { space: "none" },
    ];
    const options: readonly ScanOptions[] = [
      {},
      { reverse: true },
      { limit: 5 },
      { values: false },
      { pageBytesMax: 100 },
    ];
    for (const range of ranges)
      for (const how of options)
        expect(await copied(backend.scan(range, how))).toEqual(await copied(storage.stored.scan(range, how)));
    for (const key of [
      ["meta", "large"],
      ["meta", "none"],
      ["events", "large", 0],
    ] as const) {
      const [there, here] = [await backend.get(key), await storage.stored.get(key)];
      expect(there && digest(there)).toBe(here && digest(here));
    }
    await expect(backend.get(["meta", ""])).rejects.toMatchObject({ code: "ID_INVALID" });
    await expect(copied(backend.scan({ space: "meta", id: "" }))).rejects.toMatchObject({
      code: "ID_INVALID",
    });
    const change = backend.commit({ put: [{ key: ["meta", "x"], value: Uint8Array.of(1) }] });
    await expect(change).rejects.toMatchObject({ code: "READ_ONLY" });
    expect(await storage.stored.get(["meta", "x"])).toBeUndefined();
  });

  test("[CS8] a storage on it loads, exports and copies beside one who writes; what it cannot do says so", async () => {
    const storage = await offered(40);
    let stopped = false;
    const writing = (async () => {
      for (let n = 0; !stopped; n++) {
        await storage.append("busy", [naming(`n${n}`)]);
        if (n % 20 === 19) await storage.compact("busy");
      }
    })();
    const open = async (backend: BackendFactory) => {
      const opened = await DocumentStorage.open({ backend, models: [nameSet()], snapshotPolicy: never });
      endings.push(() => opened.close());
      return opened;
    };
    const through = await open((await findOwner(directory))!.backend());
    const target = await open(memoryBackend());
    for (let round = 0; round < 5; round++) {
      const { failures } = await through.copyTo(target);
      expect(failures).toEqual([]);
      const { clock } = await storage.append("busy", [naming(`round ${round}`)]);
      const seen = await through.load("busy");
      expect(seen!.clock).toBeGreaterThanOrEqual(clock);
      expect(seen!.doc.names.has(`round ${round}`)).toBe(true);
      await seen!.close();
    }
    stopped = true;
    await writing;
    await through.copyTo(target);
    expect((await target.check()).problems).toEqual([]);
    for await (const id of storage.list())
      expect((await target.info(id))!.token).toBe((await storage.info(id))!.token);
    const refused = through.append("busy", [naming("no")]);
    await expect(refused).rejects.toMatchObject({ code: "READ_ONLY" });
  });

  test("[CS8] a reading that is stopped, left early or bereft of its owner ends, and the next goes on", async () => {
    const storage = await storageWith(300);
    const control = await offerControl(storage, directory);
    const backend = await (await findOwner(directory))!.backend().open(systemEnv());
    endings.push(() => backend.close());
    for (let round = 0; round < 20; round++)
      for await (const page of backend.scan({ space: "events" }, { pageBytesMax: 100 })) {
        expect(page.length).toBeGreaterThan(0);
        break;
      }
    const stop = new AbortController();
    const reading = copied(backend.scan({ space: "events" }, { pageBytesMax: 100, signal: stop.signal }));
    stop.abort(new Error("enough"));
    await expect(reading).rejects.toThrow();
    expect((await copied(backend.scan({ space: "meta" }))).flat()).toHaveLength(300);
    // More than what lies between the two ends.
    for (let n = 0; n < 100; n++) await storage.append("large", [naming("x".repeat(100_000))]);
    const pages = backend.scan({ space: "events" }, { pageBytesMax: 100 })[Symbol.asyncIterator]();
    await pages.next();
    await control.close();
    const rest = async () => {
      while (!(await pages.next()).done);
    };
    await expect(rest()).rejects.toMatchObject({ code: "UNAVAILABLE" });
    await expect(backend.get(["meta", "doc-0001"])).rejects.toThrow();
  });

  test("[CS18] what is open to read goes on with the next owner, and tells what it finds in between", async () => {
    const storage = await storageWith(3);
    let control = await offerControl(storage, directory);
    const through = await DocumentStorage.open({
      backend: (await findOwner(directory))!.backend(),
      models: [nameSet()],
    });
    endings.push(() => through.close());
    const clock = async () => (await through.load("doc-0001"))?.clock;
    for (let owners = 1; owners < 4; owners++) {
      expect(await clock()).toBe(2 + owners);
      await control.close();
      await expect(clock()).rejects.toMatchObject({ code: "UNAVAILABLE" });
      await storage.append("doc-0001", [naming(`of owner ${owners}`)]);
      control = await offerControl(storage, directory);
    }
    endings.push(() => control.close());
    // Several at once, each with connections of its own that have ended.
    await control.close();
    control = await offerControl(storage, directory);
    expect(await Promise.all(Array.from({ length: 20 }, clock))).toEqual(Array(20).fill(6));
  });
});
