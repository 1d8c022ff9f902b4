import { createHash } from "node:crypto";
import { crc32, DocumentStorage, memoryBackend, never, type StorageOptions } from "coppice";
import { seededRandom, simulatedBackend, simulatedEnv } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { nameOf, writeHistory } from "../../../../test/support/oracle.js";
import { type NameSet, nameSet, naming } from "../../../../test/support/oracle-model.js";
import { type Meta, packRecord, sealMeta, unpackRecord, unsealMeta } from "../../src/storage/meta.js";

const models = [nameSet()] as const;
type Storage = DocumentStorage<typeof models>;
const open = (options: Partial<StorageOptions<typeof models>> = {}): Promise<Storage> =>
  DocumentStorage.open({ backend: memoryBackend(), models, snapshotPolicy: never, ...options });

const code = (expected: string) => expect.objectContaining({ code: expected });

async function clean(storage: Storage): Promise<void> {
  expect((await storage.check()).problems).toEqual([]);
  await storage.close();
}

async function bytesOf(stream: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function* pieces(bytes: Uint8Array, size = 1000): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

/** Everything that can be asked of a document, but for its token. */
async function seen(storage: Storage, id: string): Promise<unknown> {
  const handle = await storage.load<NameSet>(id);
  if (handle === undefined) return undefined;
  const { id: _id, token: _token, ...info } = (await storage.info(id))!;
  const history = [];
  for await (const entry of storage.history(id)) history.push(entry);
  const past = await storage.load<NameSet>(id, { at: "half" });
  const held = handle.held.map(({ clock, reason }) => [clock, reason]);
  return [
    [...handle.doc.names.keys()],
    held,
    info,
    history,
    await storage.tags(id),
    [...past!.doc.names.keys()],
  ];
}

async function exported(storage: Storage): Promise<Uint8Array> {
  await writeHistory(storage, "d");
  return bytesOf(storage.export("d"));
}

const histories = ["drop", "archive"] as const;

/** With several segments, some of several parts. */
const archiving = (options: Partial<StorageOptions<typeof models>> = {}): Promise<Storage> =>
  open({ history: "archive", limits: { archiveSegmentBytesMax: 150, snapshotPartBytesMax: 60 }, ...options });

async function writeMore(storage: Storage, id: string): Promise<void> {
  for (let n = 0; n < 9; n++) await storage.append(id, [naming(`n${n}`)], { info: { n } });
  await storage.tag(id, "archived", 6);
  await storage.compact(id);
  await storage.append(id, [naming("m")]);
  await storage.compact(id);
  await storage.append(id, [naming("after"), naming("that")]);
}

/** What a document is at each of its clocks and tags, and at last its log; clocks count from `shift`. */
async function pastOf(storage: Storage, id: string, shift: number): Promise<unknown[]> {
  const past: unknown[] = [];
  const { clock } = (await storage.info(id))!;
  const shown = async (at: number | string) => {
    const { doc, held, clock: reached } = (await storage.load<NameSet>(id, { at }))!;
    return [reached - shift, [...doc.names.keys()].sort(), held.map((event) => event.clock! - shift)];
  };
  for (let at = shift; at <= clock; at++) past.push(await shown(at));
  const rest: unknown[] = [];
  for (const { name } of await storage.tags(id)) rest.push([name, await shown(name)]);
  for await (const entry of storage.read(id)) rest.push({ ...entry, clock: entry.clock - shift });
  return [...past, rest];
}

describe("export and import", () => {
  test("[MV20] an export that is imported elsewhere is the same document, with all that belongs to it", async () => {
    const [one, two] = [await open(), await open()];
    const stream = await exported(one);
    expect(await two.import(pieces(stream))).toMatchObject({ id: "d", clock: 7, outcome: "imported" });
    expect(await seen(two, "d")).toEqual(await seen(one, "d"));
    expect((await two.info("d"))!.token).toBe((await one.info("d"))!.token);
    expect(Buffer.compare(await bytesOf(two.export("d")), stream)).toBe(0);
    await two.append("d", [naming("never")]);
    await two.compact("d");
    expect((await two.load<NameSet>("d"))!.doc.names.has("late")).toBe(true);
    expect(await bytesOf(one.export("nobody"))).toHaveLength(0);
    await one.delete("d");
    expect(await bytesOf(one.export("d"))).toHaveLength(0);
    await clean(one);
    await clean(two);
  });

  test("[MV20] it can be imported under another id, and over a deleted one when told", async () => {
    const [one, two] = [await open(), await open()];
    const stream = await exported(one);
    expect(await two.import(pieces(stream, 1), { id: "e" })).toMatchObject({ id: "e", clock: 7 });
    expect(await seen(two, "e")).toEqual(await seen(one, "d"));
    expect((await two.info("e"))!.token).not.toBe((await one.info("d"))!.token);
    await two.append("d", [naming("old"), naming("older")]);
    await two.delete("d");
    await expect(two.import(pieces(stream))).rejects.toEqual(code("DELETED"));
    expect(await two.import(pieces(stream), { recreate: true })).toMatchObject({ clock: 9 });
    expect((await two.load<NameSet>("d"))!.doc.names.size).toBe(5);
    expect((await two.info("d"))!.token).not.toMatch((await one.info("d"))!.token.split(".")[0]!);
    expect(await two.tags("d")).toMatchObject([{ name: "half", clock: 6 }]);
    expect(await two.import(pieces(stream))).toMatchObject({ outcome: "unchanged", clock: 9 });
    await clean(one);
    await clean(two);
  });

  test("[MV20] an export at a past version ends there", async () => {
    const [one, two] = [await open(), await open()];
    await writeHistory(one, "d");
    const oldest = (await one.info("d"))!.oldestClock;
    for (let at = oldest + 1; at <= 7; at++) {
      await two.import(one.export("d", { at }), { id: `d${at}` });
      expect([...(await two.load<NameSet>(`d${at}`))!.doc.names.keys()]).toEqual([
        ...(await one.load<NameSet>("d", { at }))!.doc.names.keys(),
      ]);
    }
    await expect(bytesOf(one.export("d", { at: oldest }))).rejects.toEqual(code("TRIMMED"));
    await clean(one);
    await clean(two);
  });

  test("[MV21] importing again does nothing, and never overwrites a document", async () => {
    const [one, two] = [await open(), await open()];
    const stream = await exported(one);
    for (const id of ["d", "e"]) {
      expect(await two.import(pieces(stream), { id })).toMatchObject({ outcome: "imported" });
      expect(await two.import(pieces(stream), { id })).toMatchObject({ outcome: "unchanged", clock: 7 });
      await two.append(id, [naming("more")]);
      await expect(two.import(pieces(stream), { id })).rejects.toEqual(code("EXISTS"));
      expect((await two.load<NameSet>(id))!.doc.names.has("more")).toBe(true);
    }
    await clean(one);
    await clean(two);
  });

  test("[MV21] one of the same clock with other events, or that was made by itself, is not taken for it", async () => {
    const env = simulatedEnv(3, { autoAdvance: true });
    const [one, two] = [await open({ env }), await open({ env })];
    await one.append("d", [naming("a")]);
    await two.import(one.export("d"));
    await one.append("d", [naming("b")]);
    await two.append("d", [naming("other")]);
    await expect(two.import(one.export("d"))).rejects.toEqual(code("EXISTS"));
    expect([...(await two.load<NameSet>("d"))!.doc.names.keys()]).toEqual(["a", "other"]);
    for (const storage of [one, two]) {
      env.advance(10);
      await (await storage.open("empty")).close();
    }
    await expect(two.import(one.export("empty"))).rejects.toEqual(code("EXISTS"));
    await clean(one);
    await clean(two);
  });

  test.each(["delete", "erase"] as const)(
    "[MV4] after %s a document that is imported under its own id has later clocks",
    async (how) => {
      const storage = await open();
      for (const name of "abc") await storage.append("d", [naming(name)]);
      const stream = await bytesOf(storage.export("d"));
      await storage.append("d", [naming("d")]);
      await storage[how]("d");
      await expect(storage.import(pieces(stream))).rejects.toEqual(code("DELETED"));
      expect(await storage.import(pieces(stream), { recreate: true })).toMatchObject({ clock: 7 });
      expect(await storage.import(pieces(stream))).toMatchObject({ outcome: "unchanged", clock: 7 });
      expect([...(await storage.load<NameSet>("d"))!.doc.names.keys()]).toEqual(["a", "b", "c"]);
      await clean(storage);
    },
  );

  test("[MV21] a document with other tags is not taken for the one that is imported, and the error names them", async () => {
    const [one, two] = [await open(), await open()];
    await one.append("d", [naming("a"), naming("b"), naming("c")]);
    await two.import(one.export("d"));
    const differs = (missing: string[], additional: string[]) =>
      expect.objectContaining({
        code: "EXISTS",
        message: expect.stringMatching(/other tags.*untag/),
        details: { id: "d", missing, additional },
      });
    const unchanged = expect.objectContaining({ outcome: "unchanged" });
    await one.tag("d", "release");
    await expect(two.import(one.export("d"))).rejects.toEqual(differs(["release@3"], []));
    await two.tag("d", "release", 2);
    await expect(two.import(one.export("d"))).rejects.toEqual(differs(["release@3"], ["release@2"]));
    await two.untag("d", "release");
    await two.tag("d", "release");
    expect(await two.import(one.export("d"))).toEqual(unchanged);
    await two.tag("d", "mine", 1);
    await expect(two.import(one.export("d"))).rejects.toEqual(differs([], ["mine@1"]));
    expect((await two.tags("d")).map(({ name }) => name)).toEqual(["mine", "release"]);
    // Under another id, over a document that was deleted, clocks have moved.
    await two.append("e", [naming("x")]);
    await two.delete("e");
    await two.import(one.export("d"), { id: "e", recreate: true });
    expect(await two.import(one.export("d"), { id: "e" })).toEqual(unchanged);
    await two.untag("e", "release");
    await expect(two.import(one.export("d"), { id: "e" })).rejects.toEqual(code("EXISTS"));
    await clean(one);
    await clean(two);
  });

  test("[MV21] a document that has lost events in a repair is not taken for the one that is imported", async () => {
    const backend = simulatedBackend();
    const storage = await open({ backend });
    for (const name of "abcd") await storage.append("d", [naming(name)]);
    const whole = await bytesOf(storage.export("d"));
    backend.deleteRaw(["events", "d", 1]);
    expect((await storage.check({ repair: true })).problems).toMatchObject([{ lostEvents: 1 }]);
    await expect(storage.import(pieces(whole))).rejects.toEqual(code("EXISTS"));
    const mended = await bytesOf(storage.export("d"));
    expect(await storage.import(pieces(mended))).toMatchObject({ outcome: "unchanged" });
    const { id } = await storage.import(pieces(whole), { id: "whole" });
    expect([...(await storage.load<NameSet>(id))!.doc.names.keys()]).toEqual(["a", "b", "c", "d"]);
    await clean(storage);
  });

  test.each(histories)(
    "[MV22] whatever byte is changed or cut, an import is refused and leaves nothing (%s)",
    async (history) => {
      const backend = simulatedBackend();
      const limits = { groupBytesMax: 200 };
      const storage = await open({ backend, limits, env: simulatedEnv(1, { autoAdvance: true }) });
      const source = await open({ history });
      const stream = await exported(source);
      expect(Buffer.from(stream).includes("archive")).toBe(history === "archive");
      const refused = async (bytes: Uint8Array, what: string) => {
        const error = await storage.import(pieces(bytes, 333)).then(
          () => `${what} was taken`,
          (thrown: { code?: string }) => thrown.code ?? thrown,
        );
        expect(["EXPORT_INVALID", "FORMAT_UNSUPPORTED"], what).toContain(error);
        expect(backend.keys(), what).toEqual([]);
      };
      for (let at = 0; at < stream.length; at++) {
        const changed = Uint8Array.from(stream);
        changed[at]! ^= 1 << (at % 8);
        await refused(changed, `byte ${at}`);
      }
      for (let length = 0; length < stream.length; length += 3) {
        await refused(stream.subarray(0, length), `${length} bytes`);
      }
      await refused(Buffer.concat([stream, Uint8Array.of(0)]), "one more byte");
      await refused(Buffer.concat([stream, stream]), "twice");
      // Lengths that promise what never comes.
      for (const at of [10, 11, 12, 13]) {
        const changed = Uint8Array.from(stream);
        changed[at] = 0xff;
        await refused(changed, `length byte ${at}`);
      }
      await storage.import(pieces(stream));
      expect(await seen(storage, "d")).toEqual(await seen(source, "d"));
      await clean(source);
      await clean(storage);
    },
  );

  test.each(histories)(
    "[MV23] a well-formed stream of what is no whole document is refused (%s)",
    async (history) => {
      const [source, target] = [await open({ history }), await open()];
      await writeHistory(source, "d");
      const frames = framesOf(await bytesOf(source.export("d")));
      const records = frames.length - 2;
      const refused = async (changed: readonly Frame[]) => {
        await expect(target.import(pieces(streamOf(changed)))).rejects.toEqual(code("EXPORT_INVALID"));
        expect(await target.info("d")).toBe(undefined);
      };
      for (let index = 0; index < records; index++) {
        await refused(frames.filter((_, at) => at !== index + 1));
        await refused([...frames.slice(0, index + 2), frames[index + 1]!, ...frames.slice(index + 2)]);
        if (index > 0) {
          const swapped = [...frames];
          [swapped[index], swapped[index + 1]] = [swapped[index + 1]!, swapped[index]!];
          await refused(swapped);
        }
      }
      await refused(frames.slice(1));
      const other = await open({ history });
      await writeHistory(other, "d");
      const others = framesOf(await bytesOf(other.export("d")));
      for (let index = 0; index <= records; index++) {
        // Held events of the same content are the same, whosever they were.
        if (frames[index]!.body.subarray(1, 5).toString() === "held") continue;
        await refused(frames.map((frame, at) => (at === index ? others[at]! : frame)));
      }
      // What came before another beginning does not count.
      const twice = [...others.slice(0, 4), ...frames];
      expect(await target.import(pieces(streamOf(twice)))).toMatchObject({ outcome: "imported" });
      expect(await seen(target, "d")).toEqual(await seen(source, "d"));
      for (const storage of [source, target, other]) await clean(storage);
    },
  );

  test("[MV23] an archive that is not what its document says is refused", async () => {
    const [source, target] = [await archiving(), await open()];
    await writeHistory(source, "d");
    await writeMore(source, "d");
    const [begin, ...rest] = framesOf(await bytesOf(source.export("d")));
    const { clock, meta: bytes } = unpackRecord(begin!.body) as { clock: number; meta: Uint8Array };
    const meta = unsealMeta("d", bytes);
    const stream = (archive: Meta["archive"]) => {
      const body = packRecord({ id: "d", clock, meta: sealMeta("d", { ...meta, archive }, 1) });
      return pieces(streamOf([{ kind: 1, body: Buffer.from(body) }, ...rest]));
    };
    const { archive } = meta;
    expect(archive.length).toBeGreaterThan(1);
    const changed: Meta["archive"][] = [[], archive.slice(1)];
    for (const name of ["stage", "parts", "bytes", "firstTime", "lastTime", "logBytes", "crc"] as const) {
      for (const by of [-1, 1]) {
        changed.push(archive.map((ref, at) => (at === 0 ? { ...ref, [name]: ref[name] + by } : ref)));
      }
    }
    const [first, second, ...others] = archive;
    changed.push([{ ...first!, end: first!.end + 1 }, { ...second!, clock: second!.clock + 1 }, ...others]);
    changed.push([{ ...first!, end: second!.end }, ...others]);
    for (const one of changed) {
      await expect(target.import(stream(one))).rejects.toEqual(code("EXPORT_INVALID"));
      expect(await target.info("d")).toBe(undefined);
    }
    expect(await target.import(stream(archive))).toMatchObject({ outcome: "imported" });
    await clean(source);
    await clean(target);
  });

  test("[MV24] an export beside appends, compactions and snapshots is the document at its clock", async () => {
    for (let round = 0; round < 10; round++) {
      const random = seededRandom(round);
      const backend = simulatedBackend({ seed: round, exclusive: round % 2 === 0 });
      const env = simulatedEnv(round, { autoAdvance: true });
      const source = await open({ backend, env, limits: { pageBytesMax: 200 } });
      const target = await open({ limits: { groupBytesMax: 300 } });
      for (let n = 0; n < 30; n++) await source.append("d", [naming(`n${n}`)]);
      const busy = (async () => {
        for (let n = 30; n < 60; n++) {
          await source.append("d", [naming(`n${n}`)]);
          if (random.int(3) === 0) await source.compact("d");
        }
      })();
      const { clock } = await target.import(source.export("d"));
      await busy;
      expect(clock).toBeGreaterThanOrEqual(30);
      const expected = Array.from({ length: clock }, (_, n) => `n${n}`).sort();
      expect([...(await target.load<NameSet>("d"))!.doc.names.keys()].sort()).toEqual(expected);
      await clean(source);
      await clean(target);
    }
  });

  test("[MV24] a stream that fails or is stopped leaves nothing, and is told to stop", async () => {
    const [source, target] = [await open(), await open({ limits: { groupBytesMax: 200 } })];
    const stream = await exported(source);
    let ended = 0;
    async function* failing(error: unknown): AsyncGenerator<Uint8Array> {
      try {
        yield* pieces(stream.subarray(0, stream.length - 200), 50);
        throw error;
      } finally {
        ended++;
      }
    }
    await expect(target.import(failing(new Error("the network")))).rejects.toThrow("the network");
    const stop = new AbortController();
    async function* stopped(): AsyncGenerator<Uint8Array> {
      try {
        for await (const piece of pieces(stream, 50)) {
          yield piece;
          stop.abort(new Error("enough"));
        }
      } finally {
        ended++;
      }
    }
    await expect(target.import(stopped(), { signal: stop.signal })).rejects.toThrow("enough");
    expect(ended).toBe(2);
    expect(await target.info("d")).toBe(undefined);
    expect((await target.check()).garbageKeys).toBe(0);
    await expect(target.import(pieces(stream), { id: "" })).rejects.toEqual(code("ID_INVALID"));
    await target.import(pieces(stream));
    await clean(source);
    await clean(target);
  });

  test("[MV24] a stream that stalls is left as soon as the import is aborted, and its late failure is nobody's", async () => {
    const [source, target] = [await open(), await open({ limits: { groupBytesMax: 200 } })];
    const stream = await exported(source);
    // From a stream that ends in its return on, too: that of a bad export is waited for.
    for (const bytes of [stream.subarray(0, -200), stream.subarray(0, 10), new Uint8Array(100)]) {
      const stop = new AbortController();
      let told = 0;
      let failed = (_error: unknown) => {};
      const stalled = new Promise<never>((_resolve, reject) => {
        failed = reject;
      });
      const chunks = pieces(bytes, 50);
      const stalling: AsyncIterable<Uint8Array> = {
        [Symbol.asyncIterator]: () => ({
          next: async () => {
            const next = await chunks.next();
            if (!next.done) return next;
            setTimeout(() => stop.abort(new Error("enough")));
            return stalled;
          },
          return: () => {
            told++;
            setTimeout(() => stop.abort(new Error("enough")));
            return stalled;
          },
        }),
      };
      const whole = bytes[0] !== 0;
      const refused = target.import(stalling, { signal: stop.signal });
      await expect(refused).rejects.toEqual(whole ? new Error("enough") : code("EXPORT_INVALID"));
      expect(told).toBe(1);
      failed(new Error("the network, late"));
      await new Promise((resolve) => setTimeout(resolve));
      expect(await target.info("d")).toBe(undefined);
      expect((await target.check()).garbageKeys).toBe(0);
    }
    // A list of chunks does, with a signal as without.
    const { signal } = new AbortController();
    expect((await target.import([stream] as never, { signal })).outcome).toBe("imported");
    expect((await target.import([stream] as never)).outcome).toBe("unchanged");
    await clean(source);
    await clean(target);
  });
});

describe("export and import with an archive", () => {
  test("[MV20] the archive is exported and imported, also under an id that was used before", async () => {
    const [source, target] = [await archiving(), await open()];
    await writeHistory(source, "d");
    await writeMore(source, "d");
    const { archivedClock, oldestClock, clock } = (await source.info("d"))!;
    expect([archivedClock, oldestClock > 4, oldestClock < clock]).toEqual([0, true, true]);
    const before = await pastOf(source, "d", 0);
    const stream = await bytesOf(source.export("d"));
    for (const id of ["used", "before"]) {
      await target.append(id, [naming("x"), naming("y")]);
      await target.delete(id);
    }
    for (const [id, shift] of [
      ["d", 0],
      ["other", 0],
      ["used", 2],
    ] as const) {
      const options = { id, recreate: shift > 0 };
      const result = await target.import(pieces(stream), options);
      expect(result).toMatchObject({ id, clock: clock + shift, outcome: "imported" });
      expect(await target.import(pieces(stream), options)).toMatchObject({ outcome: "unchanged" });
      expect(await pastOf(target, id, shift)).toEqual(before);
      if (shift === 0) expect(await seen(target, id)).toEqual(await seen(source, "d"));
      // What was imported is exported once more, whole.
      const again = await bytesOf(target.export(id));
      if (id === "d") expect(Buffer.compare(again, stream)).toBe(0);
      await target.import(pieces(again), { id: `${id}2` });
      expect(await pastOf(target, `${id}2`, shift)).toEqual(before);
      await target.append(id, [naming("after")]);
      await expect(target.import(pieces(stream), options)).rejects.toEqual(code("EXISTS"));
      await target.compact(id);
      expect((await pastOf(target, id, shift)).slice(0, before.length - 1)).toEqual(before.slice(0, -1));
    }
    const at = oldestClock + 1;
    await target.import(source.export("d", { at }), { id: "past" });
    expect((await pastOf(target, "past", 0)).slice(0, -1)).toEqual(before.slice(0, at + 1));
    await clean(source);
    await clean(target);
  });

  test("[MV20] a part of the archive that was lost is no part of an export, and still counts", async () => {
    const backend = simulatedBackend();
    const [source, target] = [await archiving({ backend }), await open()];
    await writeHistory(source, "d");
    await writeMore(source, "d");
    const key = backend.keys().find(([space]) => space === "archive")!;
    backend.flip(key, 30);
    await source.check({ repair: true });
    const events = async (storage: Storage) => {
      const found = [];
      for await (const { clock, event } of storage.read("d")) found.push([clock, event && nameOf(event)]);
      return found;
    };
    const expected = await events(source);
    expect(expected[0]).toEqual([0, undefined]);
    expect(expected.filter(([, event]) => event === undefined).length).toBeLessThan(expected.length / 2);
    await target.import(source.export("d"));
    expect(await events(target)).toEqual(expected);
    await clean(target);
    await source.close();
  });
});

type Frame = { readonly kind: number; readonly body: Buffer };

/** A reader of its own, which knows what docs/format.md says. */
function framesOf(stream: Uint8Array): Frame[] {
  const bytes = Buffer.from(stream);
  expect(bytes.subarray(0, 9).toString("latin1")).toBe("coppice\0\u0001");
  const frames: Frame[] = [];
  for (let at = 9; at < bytes.length; ) {
    const length = bytes.readUInt32LE(at + 1);
    frames.push({ kind: bytes[at]!, body: bytes.subarray(at + 5, at + 5 + length) });
    expect(bytes.readUInt32LE(at + 5 + length)).toBe(crc32(bytes.subarray(at, at + 5 + length)));
    at += 9 + length;
  }
  return frames;
}

/** The frames as a stream whose checksums, count and digest are right. */
function streamOf(frames: readonly Frame[]): Uint8Array {
  const chunks: Buffer[] = [Buffer.from("coppice\0\u0001", "latin1")];
  let records = 0;
  for (const { kind, body } of frames) {
    if (kind === 1) records = 0;
    if (kind === 2) records++;
    const digest = createHash("sha256").update(Buffer.concat(chunks)).digest();
    const content = kind === 3 ? packRecord({ records, digest: Uint8Array.from(digest) }) : body;
    const head = Buffer.alloc(5);
    head[0] = kind;
    head.writeUInt32LE(content.length, 1);
    const tail = Buffer.alloc(4);
    tail.writeUInt32LE(crc32(Buffer.concat([head, content])));
    chunks.push(head, Buffer.from(content), tail);
  }
  return Buffer.concat(chunks);
}
