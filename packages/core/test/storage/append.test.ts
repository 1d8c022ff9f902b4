import {
  ABSENT,
  type BackendFactory,
  type Batch,
  CoppiceError,
  DocumentStorage,
  memoryBackend,
  never,
  type StorageOptions,
  systemEnv,
} from "coppice";
import { seededRandom, simulatedBackend, simulatedEnv } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { nameSet, naming } from "../../../../test/support/oracle-model.js";
import { tokenOf } from "../../src/storage/head.js";
import type { Meta } from "../../src/storage/meta.js";

const models = [nameSet()] as const;
const open = (options: Partial<StorageOptions<typeof models>> = {}) =>
  DocumentStorage.open({ backend: memoryBackend(), models, snapshotPolicy: never, ...options });

const names = async (storage: Awaited<ReturnType<typeof open>>, id = "d") => [
  ...((await storage.load(id))?.doc.names.keys() ?? []),
];

async function batches(storage: Awaited<ReturnType<typeof open>>, id = "d"): Promise<number[]> {
  const counts: number[] = [];
  for await (const entry of storage.history(id))
    if (entry.kind === "batch") counts.push(entry.end - entry.clock);
  return counts;
}

/** A backend whose commits are made by `how`, which may hold them up, or lose their replies. */
function around(inner: BackendFactory, how: (commit: () => Promise<void>) => Promise<void>): BackendFactory {
  return {
    name: "around",
    open: async (env) => {
      const opened = await inner.open(env);
      const commit = opened.commit.bind(opened);
      return Object.assign(opened, { commit: (batch: Batch) => how(() => commit(batch)) });
    },
  };
}

describe("append", () => {
  test("[ST1] an append that resolved is in every later load, also after reopening", async () => {
    const backend = memoryBackend();
    const storage = await open({ backend });
    expect(await storage.append("d", [naming("a"), naming("b")])).toMatchObject({
      clock: 2,
      duplicate: false,
    });
    expect(await storage.append("d", [naming("c")])).toMatchObject({ clock: 3 });
    expect(await names(storage)).toEqual(["a", "b", "c"]);
    await storage.close();
    const again = await open({ backend });
    expect(await names(again)).toEqual(["a", "b", "c"]);
    expect((await again.append("d", [naming("d")])).clock).toBe(4);
    await again.close();
  });

  test("[ST2] appends that wait together become one batch, each with its own clock", async () => {
    const storage = await open();
    const results = await Promise.all(
      Array.from({ length: 10 }, (_, index) => storage.append("d", [naming(`n${index}`)])),
    );
    expect(results.map(({ clock }) => clock)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    expect(await batches(storage)).toEqual([10]);
    await storage.close();
  });

  test("[ST2] an append with a commit id or info is a batch of its own in the same commit", async () => {
    const commits: number[] = [];
    const storage = await open({ observer: { commit: ({ operations }) => commits.push(operations) } });
    const commitId = storage.newCommitId();
    await Promise.all([
      storage.append("d", [naming("a")]),
      storage.append("d", [naming("b")], { commitId }),
      storage.append("d", [naming("c")], { info: { who: "ada" } }),
      storage.append("d", [naming("d")]),
      storage.append("d", [naming("e")]),
    ]);
    expect(await batches(storage)).toEqual([1, 1, 1, 2]);
    expect(commits).toEqual([5]);
    const found = [];
    for await (const entry of storage.history("d")) if (entry.kind === "batch") found.push(entry.info);
    expect(found).toEqual([undefined, undefined, { who: "ada" }, undefined]);
    await storage.close();
  });

  test("[ST8] a commit id is the caller's own: whoever gives its buffer away takes no other along", async () => {
    const backend = simulatedBackend();
    const storage = await open({ backend });
    const [given, kept] = [storage.newCommitId(), storage.newCommitId()];
    structuredClone(given, { transfer: [given.buffer] });
    expect([given.length, kept.buffer.byteLength]).toEqual([0, 16]);
    backend.failNext("commit", "unknown-applied");
    await expect(storage.append("d", [naming("a")])).rejects.toMatchObject({ code: "OUTCOME_UNKNOWN" });
    const { settled } = await storage.recover();
    expect(settled.map(({ commitId }) => commitId.buffer.byteLength)).toEqual([16]);
    await storage.close();
  });

  test("[ST77] a state whose last batch the store has lost is another one once its clock is reached again", async () => {
    const backend = simulatedBackend();
    const before = await open({ backend });
    await before.append("d", [naming("a")]);
    const { token: kept } = await before.append("d", [naming("b")]);
    const { token: gone } = await before.append("d", [naming("c")]);
    await before.close();
    backend.deleteRaw(["events", "d", 2]);
    const storage = await open({ backend });
    // What is left is the state that it was.
    await storage.append("d", [naming("other")], { expected: kept });
    expect((await storage.info("d"))!.clock).toBe(3);
    await expect(storage.append("d", [naming("e")], { expected: gone })).rejects.toMatchObject({
      code: "HEAD_CONFLICT",
    });
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });

  test("[ST77] a token names the whole checksum, in the digits that tokens kept elsewhere have", () => {
    const meta = { incarnation: "00ff00ff00ff00ff", deleted: undefined } as Meta;
    const random = seededRandom(77);
    const edges = [0, 1, 0xfff, 0x1000, 0x0fff_ffff, 0x1000_0000, 0x1000_0fff, 0x8000_0000, 0xffff_ffff];
    for (const crc of [...edges, ...Array.from({ length: 1000 }, () => random.int(2 ** 32))])
      expect(tokenOf(meta, 5, crc)).toBe(`00ff00ff00ff00ff.5.${crc.toString(16)}`);
  });

  test("[ST77] the token of a state is the same after a restart, a compaction and for a repeated append", async () => {
    const backend = memoryBackend();
    const before = await open({ backend, history: "archive" });
    const commitId = before.newCommitId();
    for (const name of "abcd") await before.append("d", [naming(name)]);
    const { token } = await before.append("d", [naming("e")], { commitId });
    expect(await before.append("d", [naming("e")], { commitId })).toMatchObject({ token, duplicate: true });
    await before.compact("d", { force: true });
    await before.compact("d", { force: true });
    await before.close();
    const storage = await open({ backend });
    expect((await storage.info("d"))!.token).toBe(token);
    await storage.append("d", [naming("f")], { expected: token });
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });

  test("[ST3] with expected, an append happens only in that state, and writes nothing otherwise", async () => {
    const storage = await open();
    const first = await storage.append("d", [naming("a")], { expected: ABSENT });
    await expect(storage.append("d", [naming("x")], { expected: ABSENT })).rejects.toMatchObject({
      code: "HEAD_CONFLICT",
      kind: "conflict",
    });
    const second = await storage.append("d", [naming("b")], { expected: first.token });
    await expect(storage.append("d", [naming("x")], { expected: first.token })).rejects.toMatchObject({
      code: "HEAD_CONFLICT",
    });
    expect((await storage.info("d"))?.token).toBe(second.token);
    const raced = await Promise.allSettled(
      ["p", "q", "r"].map((name) => storage.append("d", [naming(name)], { expected: second.token })),
    );
    expect(raced.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "rejected"]);
    expect(await names(storage)).toEqual(["a", "b", "p"]);
    await storage.close();
  });

  test("[ST4] a repeated commit id writes nothing twice, also after a restart and a trim", async () => {
    const backend = memoryBackend();
    let storage = await open({ backend });
    const commitId = storage.newCommitId();
    expect(await storage.append("d", [naming("a"), naming("b")], { commitId })).toMatchObject({ clock: 2 });
    for (let round = 0; round < 3; round++) {
      for (const name of ["c", "d", "e"]) await storage.append("d", [naming(name + round)]);
      expect(await storage.append("d", [naming("a"), naming("b")], { commitId })).toEqual({
        clock: 2,
        token: expect.any(String),
        duplicate: true,
      });
      await storage.compact("d");
      await storage.close();
      storage = await open({ backend });
    }
    expect((await storage.info("d"))?.oldestClock).toBeGreaterThan(2);
    const both = await Promise.all(
      [1, 2].map(() =>
        storage.append("d", [naming("z")], { commitId: "018f0000-0000-7000-8000-000000000001" }),
      ),
    );
    expect(both.map(({ clock, duplicate }) => ({ clock, duplicate }))).toEqual([
      { clock: 12, duplicate: false },
      { clock: 12, duplicate: true },
    ]);
    await storage.close();
  });

  test("[ST4] nor a repeat that waited behind the commit of the first, when the next begins as it ends", async () => {
    let now = 0;
    const commits: (() => void)[] = [];
    const backend = around(memoryBackend(), (commit) =>
      new Promise<void>((resolve) => commits.push(resolve)).then(commit),
    );
    const storage = await open({ backend, env: { ...systemEnv(), elapsed: () => now } });
    const commitId = storage.newCommitId();
    const done = async () => {
      while (commits.length === 0) await new Promise((resolve) => setImmediate(resolve));
      commits.shift()!();
    };
    const first = storage.append("d", [naming("a")], { commitId });
    while (commits.length === 0) await new Promise((resolve) => setImmediate(resolve));
    now = 15;
    const again = storage.append("d", [naming("a")], { commitId });
    const others = Array.from({ length: 15 }, (_, n) => storage.append("d", [naming(`n${n}`)]));
    now = 20;
    await done();
    expect(await first).toMatchObject({ clock: 1, duplicate: false });
    await done();
    expect(await again).toMatchObject({ clock: 1, duplicate: true });
    await Promise.all(others);
    expect((await storage.info("d"))!.clock).toBe(16);
    await storage.close();
  });

  test("[ST31] a commit is not taken for stored because another writer stored the append that comes first in it", async () => {
    for (const lost of [1, 4]) {
      const inner = memoryBackend({ shared: true });
      const other = await open({ backend: inner });
      const commitId = other.newCommitId();
      let left = lost;
      const backend = around(inner, async (commit) => {
        if (left === 0) return commit();
        if (left-- === lost) await other.append("d", [naming("a")], { commitId });
        throw new Error("the reply is lost");
      });
      const env = systemEnv();
      const storage = await open({ backend, env: { ...env, delay: () => env.delay(1) } });
      const [first, behind] = await Promise.allSettled([
        storage.append("d", [naming("a")], { commitId }),
        storage.append("d", [naming("b")]),
      ]);
      if (lost === 1) {
        expect([first, behind]).toMatchObject([
          { value: { clock: 1, duplicate: true } },
          { value: { clock: 2, duplicate: false } },
        ]);
        expect(await names(storage)).toEqual(["a", "b"]);
      } else {
        const { details } = (behind as PromiseRejectedResult).reason as CoppiceError;
        const { settled } = await storage.recover();
        const own = settled.find((commit) => Buffer.from(commit.commitId).toString("hex") === details.batch);
        expect(own).toMatchObject({ applied: false });
        expect(await names(storage)).toEqual(["a"]);
      }
      for (const each of [storage, other]) await each.close();
    }
  });

  test("[ST5] a commit id older than the remembered ones is unknown, never written again", async () => {
    const env = simulatedEnv(1);
    const backend = simulatedBackend();
    let storage = await open({ backend, env, limits: { commitIdsMax: 4 } });
    const ids: Uint8Array[] = [];
    for (let index = 0; index < 12; index++) {
      env.advance(10);
      ids.push(storage.newCommitId());
      await storage.append("d", [naming(`n${index}`)], { commitId: ids[index]! });
    }
    const outcomes = async () => {
      const found: string[] = [];
      for (const commitId of ids) {
        const again = storage.append("d", [naming("again")], { commitId });
        found.push(
          await again.then(
            ({ duplicate }) => (duplicate ? "known" : "WRITTEN"),
            (error) => error.code,
          ),
        );
      }
      return found;
    };
    const expected = [...Array(8).fill("OUTCOME_UNKNOWN"), ...Array(4).fill("known")];
    expect(await outcomes()).toEqual(expected);
    await storage.close();
    storage = await open({ backend, env, limits: { commitIdsMax: 4 } });
    expect(await outcomes()).toEqual(expected);
    await storage.compact("d");
    expect(await outcomes()).toEqual(expected);
    expect((await storage.info("d"))?.clock).toBe(12);
    env.advance(10);
    expect((await storage.append("d", [naming("new")], { commitId: storage.newCommitId() })).clock).toBe(13);
    await storage.close();
  });

  test("[ST5] a commit id from before a delete stays unknown in the document that comes after", async () => {
    const backend = memoryBackend();
    let storage = await open({ backend });
    const commitId = storage.newCommitId();
    await storage.append("d", [naming("a")], { commitId });
    await storage.delete("d");
    await storage.open("d", { recreate: true });
    const again = () => storage.append("d", [naming("a")], { commitId });
    await expect(again()).rejects.toMatchObject({ code: "OUTCOME_UNKNOWN" });
    await storage.close();
    storage = await open({ backend });
    await expect(again()).rejects.toMatchObject({ code: "OUTCOME_UNKNOWN" });
    expect(await names(storage)).toEqual([]);
    await storage.close();
  });

  test("[ST6] of two creators one wins, the other loads the winner's", async () => {
    const backend = memoryBackend({ shared: true });
    const storages = await Promise.all([open({ backend }), open({ backend })]);
    const handles = await Promise.all(
      [0, 1, 2, 3].map((index) =>
        storages[index % 2]!.open("d", {
          initial: (set) => {
            set.names.set(`initial ${index}`, []);
            set.made.push(naming(`initial ${index}`));
          },
        }),
      ),
    );
    const seen = handles.map(({ doc }) => [...doc.names.keys()]);
    expect(new Set(seen.map(String)).size).toBe(1);
    expect(seen[0]).toHaveLength(1);
    expect((await storages[0]!.info("d"))?.clock).toBe(1);
    for (const storage of storages) await storage.close();
  });

  test("[ST7] too much in flight is refused as BUSY, and accepted again later", async () => {
    const storage = await open({ limits: { inFlightBytesMax: 1000 } });
    const big = naming("x".repeat(600));
    const waiting = [storage.append("d", [big]), storage.append("e", [big])];
    await expect(storage.append("d", [naming("a")])).rejects.toMatchObject({ code: "BUSY", kind: "busy" });
    await Promise.all(waiting);
    await storage.append("d", [naming("a")]);
    await storage.close();
  });

  test("[ST8] the caller may use its buffer again at once", async () => {
    const storage = await open();
    const buffer = naming("a");
    const pending = storage.append("d", [buffer]);
    buffer.fill(0);
    await pending;
    expect(await names(storage)).toEqual(["a"]);
    await storage.close();
  });
});

describe("bad input", () => {
  const cases: [string, string, unknown[], object?][] = [
    ["an empty id", "ID_INVALID", ["", [naming("a")]]],
    ["an id that is too long", "ID_INVALID", ["é".repeat(257), [naming("a")]]],
    ["an id with a lone surrogate", "ID_INVALID", ["a\ud800", [naming("a")]]],
    ["an id that is no string", "ID_INVALID", [7, [naming("a")]]],
    ["no events", "BATCH_EMPTY", ["d", []]],
    ["an event of no bytes", "EVENT_INVALID", ["d", [new Uint8Array()]]],
    ["an event that is no bytes", "EVENT_INVALID", ["d", [{}]]],
    ["garbage", "EVENT_INVALID", ["d", [Uint8Array.of(1, 2, 3)]]],
    ["an event over the limit", "EVENT_TOO_LARGE", ["d", [naming("x".repeat(2000))]]],
    ["too many events", "BATCH_TOO_LARGE", ["d", Array(101).fill(naming("a"))]],
    ["a batch over the limit", "BATCH_TOO_LARGE", ["d", Array(50).fill(naming("x".repeat(200)))]],
    ["info over the limit", "BATCH_TOO_LARGE", ["d", [naming("a")], { info: { who: "x".repeat(2000) } }]],
    ["info that is not plain", "ARGUMENT_INVALID", ["d", [naming("a")], { info: { who: new Date(0) } }]],
    ["an unknown model", "MODEL_UNKNOWN", ["d", [naming("a")], { model: "nobody" }]],
    [
      "a commit id of the wrong size",
      "COMMIT_ID_INVALID",
      ["d", [naming("a")], { commitId: new Uint8Array(15) }],
    ],
    ["a commit id of another kind", "COMMIT_ID_INVALID", ["d", [naming("a")], { commitId: "f".repeat(32) }]],
    [
      "a commit id from the future",
      "COMMIT_ID_INVALID",
      ["d", [naming("a")], { commitId: `ffff${"0".repeat(8)}7${"0".repeat(19)}` }],
    ],
  ];
  for (const [what, code, call] of cases) {
    test(`[ER1] ${what} is refused with ${code}, and nothing is written`, async () => {
      const backend = simulatedBackend();
      const storage = await open({
        backend,
        limits: { eventBytesMax: 1000, batchEventsMax: 100, batchBytesMax: 8000 },
      });
      const append = storage.append as (...parameters: unknown[]) => Promise<unknown>;
      const error = await append.apply(storage, call).then(
        () => undefined,
        (failure: unknown) => failure,
      );
      expect(error).toBeInstanceOf(CoppiceError);
      expect(error).toMatchObject({ code });
      expect(backend.commitCount).toBe(0);
      await storage.append("good", [naming("a")]);
      await storage.close();
    });
  }

  test("[ER7] a storage without a backend or models says what it needs", async () => {
    const attempt = DocumentStorage.open as (options: object) => Promise<unknown>;
    for (const options of [{}, { backend: "x", models }]) {
      await expect(attempt(options)).rejects.toThrow(/needs a backend, like levelBackend/);
    }
    for (const options of [{ backend: memoryBackend() }, { backend: memoryBackend(), models: models[0] }]) {
      await expect(attempt(options)).rejects.toThrow(/needs a list of models, like/);
    }
    await expect(attempt({ backend: memoryBackend(), models: [] })).rejects.toThrow(/at least one model/);
    await expect((attempt as () => Promise<unknown>)()).rejects.toThrow(
      /takes an object of options; there are backend, models, /,
    );
    const backend = memoryBackend();
    await expect(attempt({ backend, models: [nameSet] })).rejects.toThrow(/models\[0\] .* as in yjs\(\)/);
    await expect(attempt({ backend, models: [...models, undefined] })).rejects.toThrow(
      "models[1] is no model: it is undefined",
    );
    await expect(attempt({ backend, models, snapshotPolicy: 5 })).rejects.toThrow(/must be a function/);
    await expect(attempt({ backend, models, snapshotpolicy: never })).rejects.toThrow(
      "no option snapshotpolicy",
    );
  });

  test("[ER6] limits that cannot be are refused when the storage is opened", async () => {
    for (const limits of [{ idBytesMax: 513 }, { headsMax: 0 }, { eventBytesMax: 1.5 }, { nonsense: 1 }]) {
      await expect(open({ limits })).rejects.toBeInstanceOf(RangeError);
    }
    const storage = await open({ limits: { idBytesMax: 4 } });
    await expect(storage.append("abcde", [naming("a")])).rejects.toMatchObject({ code: "ID_INVALID" });
    await storage.close();
  });

  test("[ER2] ids with NUL, separators, dots and emoji are kept apart", async () => {
    const storage = await open();
    const ids = [
      "a",
      "a\u0000",
      "a\u0000b",
      "ab",
      "..",
      "../a",
      "a/b",
      "a\\b",
      "😀",
      "AAAAA",
      "AAAAAB",
      "\ufeffa",
      " ",
    ];
    for (const id of ids) await storage.append(id, [naming(id)]);
    for (const id of ids) expect(await names(storage, id)).toEqual([id]);
    const listed: string[] = [];
    for await (const id of storage.list()) listed.push(id);
    expect(listed.sort()).toEqual([...ids].sort());
    await storage.close();
  });

  test("[ER3] one bad append among good ones fails alone", async () => {
    const storage = await open();
    const settled = await Promise.allSettled([
      storage.append("d", [naming("a")]),
      storage.append("d", [Uint8Array.of(9)]),
      storage.append("d", [naming("b")]),
    ]);
    expect(settled.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
    expect(await names(storage)).toEqual(["a", "b"]);
    await storage.close();
  });

  test("[ER3] a list with a hole is refused alone, by models that look at no event themselves as well", async () => {
    const { check: _check, ...unchecked } = nameSet();
    const storage = await DocumentStorage.open({ backend: memoryBackend(), models: [unchecked] });
    const hole: Uint8Array[] = [naming("x")];
    hole.length = 2;
    const settled = await Promise.allSettled([
      storage.append("d", [naming("a")]),
      storage.append("d", hole),
      storage.append("d", [naming("b")]),
    ]);
    expect(settled.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
    expect(settled[1]).toMatchObject({ reason: { code: "EVENT_INVALID" } });
    await storage.close();
  });

  test("[ER3] what the model cannot encode is refused alone, whatever waits beside and behind it", async () => {
    const plain = nameSet();
    const encode: typeof plain.codec.encode = (events) => {
      if (events.some((event) => new TextDecoder().decode(event).includes("bad"))) return refuse(events);
      return plain.codec.encode(events);
    };
    let refuse: (events: readonly Uint8Array[]) => Uint8Array;
    const refusals: (typeof refuse)[] = [
      () => {
        throw new TypeError("bad");
      },
      // Without types anything may come, and what was written of it nothing could read again.
      (events) => events as never,
      () => "text" as never,
      () => undefined as never,
    ];
    for (const [index, exclusive] of [true, false, true, false, true].entries()) {
      refuse = refusals[index % refusals.length]!;
      const storage = await DocumentStorage.open({
        backend: simulatedBackend({ exclusive }),
        models: [{ ...plain, codec: { ...plain.codec, encode } }],
        snapshotPolicy: never,
      });
      const expected = Array.from({ length: 20 }, (_, index) => `n${index}`);
      const bad = [3, 4, 19];
      for (const names of [["first"], expected]) {
        const settled = await Promise.allSettled(
          names.map((name, index) =>
            storage.append("d", [naming(bad.includes(index) ? `bad ${name}` : name)], {
              ...(index === 7 ? { commitId: storage.newCommitId() } : {}),
            }),
          ),
        );
        const refused = settled.flatMap(({ status }, index) => (status === "rejected" ? [index] : []));
        expect(refused).toEqual(names.length === 1 ? [] : bad);
      }
      const found: string[] = [...((await storage.load("d"))?.doc.names.keys() ?? [])];
      expect(found).toEqual(["first", ...expected.filter((_, index) => !bad.includes(index))]);
      const [refused, deleted] = await Promise.allSettled([
        storage.append("d", [naming("bad")]),
        storage.delete("d"),
      ]);
      expect(refused).toMatchObject({ status: "rejected", reason: { code: "EVENT_INVALID" } });
      expect(deleted.status).toBe("fulfilled");
      expect((await storage.check()).problems).toEqual([]);
      await storage.close();
    }
  });

  test("[ER4] a document of a model that was not given is refused, not opened empty", async () => {
    const backend = memoryBackend();
    const storage = await open({ backend });
    await storage.append("d", [naming("a")]);
    await storage.close();
    const other = await DocumentStorage.open({ backend, models: [{ ...nameSet(), name: "other" }] });
    for (const call of [
      () => other.load("d"),
      () => other.open("d"),
      () => other.append("d", [naming("b")]),
      () => other.compact("d"),
      () => other.read("d").next(),
    ]) {
      await expect(call()).rejects.toMatchObject({ code: "MODEL_UNKNOWN", kind: "unsupported" });
    }
    expect((await other.info("d"))?.model).toBe("names");
    await other.close();
  });

  test("[ER5] after close every call rejects with CLOSED", async () => {
    const storage = await open();
    const handle = await storage.open("d");
    await storage.close();
    await storage.close();
    await expect(storage.append("d", [naming("a")])).rejects.toMatchObject({
      code: "CLOSED",
      kind: "closed",
    });
    await expect(storage.load("d")).rejects.toMatchObject({ code: "CLOSED" });
    expect(() => storage.list()).toThrow(expect.objectContaining({ code: "CLOSED" }));
    handle.change((set) => void set.made.push(naming("late")));
    await expect(handle.save()).rejects.toMatchObject({ code: "CLOSED" });
    expect(handle.unsaved).toBe(true);
  });
});
