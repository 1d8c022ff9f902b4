import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as Automerge from "@automerge/automerge";
import { generateAutomergeUrl, parseAutomergeUrl, Repo } from "@automerge/automerge-repo";
import { NodeFSStorageAdapter } from "@automerge/automerge-repo-storage-nodefs";
import { type BackendFactory, CoppiceError, DocumentStorage, memoryBackend, never, systemEnv } from "coppice";
import { seededRandom, simulatedBackend } from "coppice/testing";
import { expect, test, vi } from "vitest";
import { AutomergeRepoDocuments, AutomergeRepoStorage, automerge, type RepoStorage } from "../src/index.js";

type Note = { lines: string[] };

async function opened(backend: BackendFactory = memoryBackend()) {
  const storage = await DocumentStorage.open({ backend, models: [automerge()], snapshotPolicy: never });
  const others = await AutomergeRepoStorage.open(memoryBackend());
  return { storage, others, adapter: new AutomergeRepoDocuments(storage, others, { idPrefix: "doc/" }) };
}

const freshId = () => parseAutomergeUrl(generateAutomergeUrl()).documentId;
const subsystem = (adapter: RepoStorage) => new Repo({ storage: adapter }).storageSubsystem!;
const add = (doc: Automerge.Doc<Note>, line: string) =>
  Automerge.change(doc, (note) => void note.lines.push(line));

test("[AM27] each change is in the log of its document once, whether an increment or a snapshot brought it", async () => {
  const { storage, adapter } = await opened();
  const id = freshId();
  const repo = subsystem(adapter);
  let doc = Automerge.from<Note>({ lines: [] });
  for (let i = 0; i < 12; i++) {
    doc = add(doc, `${i} ${"x".repeat(i * 40)}`);
    await repo.saveDoc(id, doc);
  }
  expect((await storage.info(`doc/${id}`))?.clock).toBe(Automerge.getAllChanges(doc).length);
  await storage.append(
    `doc/${id}`,
    Automerge.getChangesSince(add(Automerge.clone(doc), "theirs"), Automerge.getHeads(doc)),
  );
  doc = add(doc, "mine");
  await adapter.save([id, "snapshot", "hash"], Automerge.save(doc));
  await adapter.save([id, "snapshot", "hash"], Automerge.save(doc));
  const { clock } = (await storage.info(`doc/${id}`))!;
  expect(clock).toBe(Automerge.getAllChanges(doc).length + 1);
  expect((await subsystem(adapter).loadDoc<Note>(id))!.lines.slice(-2).sort()).toEqual(["mine", "theirs"]);
  expect((await storage.check()).problems).toEqual([]);
  await adapter.close();
});

test("[AM27] saves that overlap, as automerge-repo makes them, store each change once", async () => {
  const { storage, adapter } = await opened();
  const id = freshId();
  const empty = Automerge.from<Note>({ lines: [] });
  const doc = add(add(empty, "one"), "two");
  const since = Automerge.saveSince(doc, []);
  await Promise.all([
    adapter.save([id, "incremental", "a"], since),
    adapter.save([id, "snapshot", "b"], Automerge.save(doc)),
    adapter.save([id, "incremental", "c"], since),
    adapter.save([id, "snapshot", "d"], Automerge.save(doc)),
  ]);
  expect((await storage.info(`doc/${id}`))?.clock).toBe(3);
  await adapter.close();
});

test("[AM27] what is saved twice at once is in the log once", async () => {
  const { storage, adapter } = await opened();
  const id = freshId();
  let doc = add(Automerge.from<Note>({ lines: [] }), "one");
  const snapshot = Automerge.save(doc);
  await Promise.all(["a", "a", "b"].map((hash) => adapter.save([id, "snapshot", hash], snapshot)));
  expect((await storage.info(`doc/${id}`))?.clock).toBe(2);
  const before = Automerge.getHeads(doc);
  doc = add(doc, "two");
  const increment = Automerge.saveSince(doc, before);
  await Promise.all([1, 2].map(() => adapter.save([id, "incremental", "c"], increment)));
  expect((await storage.info(`doc/${id}`))?.clock).toBe(3);
  // Another value under the same key is another save.
  const others = [add(Automerge.clone(doc), "three"), add(Automerge.clone(doc), "four")];
  const increments = others.map((other) => Automerge.saveSince(other, Automerge.getHeads(doc)));
  await Promise.all(increments.map((data) => adapter.save([id, "incremental", "d"], data)));
  expect((await subsystem(adapter).loadDoc<Note>(id))!.lines.slice().sort()).toEqual([
    "four",
    "one",
    "three",
    "two",
  ]);
  await adapter.close();
});

test("[AM27] what a save that failed had stored is not stored again by the next one", async () => {
  const { storage, adapter } = await opened();
  const id = freshId();
  let doc = Automerge.from<Note>({ lines: [] });
  await adapter.save([id, "incremental", "a"], Automerge.saveSince(doc, []));
  let saved = Automerge.getHeads(doc);
  const saveNext = async () => {
    await adapter.save([id, "incremental", "c"], Automerge.saveSince(doc, saved));
    saved = Automerge.getHeads(doc);
  };

  doc = add(doc, "the compaction after it failed");
  const compact = vi.spyOn(storage, "compact").mockRejectedValueOnce(new CoppiceError("UNAVAILABLE", "test"));
  doc = add(doc, Array.from({ length: 6000 }, (_, i) => (i * 7919) % 9973).join());
  await expect(adapter.save([id, "snapshot", "b"], Automerge.save(doc))).rejects.toThrow("test");
  compact.mockRestore();
  await saveNext();
  expect((await storage.info(`doc/${id}`))?.clock).toBe(3);

  const append = storage.append.bind(storage);
  doc = add(doc, "its reply was lost");
  const lost = vi.spyOn(storage, "append").mockImplementationOnce(async (...call) => {
    await append(...call);
    throw new CoppiceError("OUTCOME_UNKNOWN", "lost");
  });
  await expect(saveNext()).rejects.toThrow("lost");
  lost.mockRestore();
  doc = add(doc, "after it");
  await saveNext();
  expect((await storage.info(`doc/${id}`))?.clock).toBe(5);
  await adapter.close();
});

test("[AM27] a document that is saved whole again and again is not read back for it", async () => {
  const { storage, adapter } = await opened();
  const id = freshId();
  const load = storage.load.bind(storage);
  let loads = 0;
  const counted: typeof storage.load = (...words) => {
    loads++;
    return load(...words);
  };
  Object.assign(storage, { load: counted });
  let doc = Automerge.from<Note>({ lines: [] });
  for (let i = 0; i < 10; i++) {
    doc = add(doc, `${i}`);
    if (i % 3 === 2) {
      const before = Automerge.getHeads(doc);
      doc = add(doc, `${i} again`);
      await adapter.save(
        [id, "snapshot", `${i}`],
        Automerge.save(Automerge.clone(Automerge.view(doc, before))),
      );
      await adapter.save([id, "incremental", `${i}`], Automerge.saveSince(doc, before));
    } else await adapter.save([id, "snapshot", `${i}`], Automerge.save(doc));
  }
  expect(loads).toBe(0);
  expect((await storage.info(`doc/${id}`))?.clock).toBe(Automerge.getAllChanges(doc).length);
  expect((await subsystem(adapter).loadDoc<Note>(id))!).toEqual(doc);
  await adapter.close();
});

test("[AM27] an increment that came too early does not pass for what it builds on", async () => {
  const { storage, adapter } = await opened();
  const id = freshId();
  const base = add(Automerge.from<Note>({ lines: [] }), "base");
  await adapter.save([id, "snapshot", "a"], Automerge.save(base));
  const early = add(add(Automerge.clone(base), "missing"), "early");
  const last = Automerge.getLastLocalChange(early)!;
  await adapter.save([id, "incremental", "b"], last);
  await adapter.save([id, "snapshot", "c"], Automerge.save(add(early, "late")));
  const loaded = (await storage.load<Automerge.Doc<Note>>(`doc/${id}`))!;
  expect(loaded.doc.lines).toEqual(["base", "missing", "early", "late"]);
  expect(loaded.held).toEqual([]);
  await adapter.close();
});

test("[AM27] a document that somebody else deletes or begins anew between two saves is stored whole again", async () => {
  const { storage, adapter } = await opened();
  const id = freshId();
  let doc = add(Automerge.from<Note>({ lines: [] }), "one");
  for (const others of ["nothing", "delete", "recreate", "append"]) {
    doc = add(doc, `before ${others}`);
    await adapter.save([id, "snapshot", `before ${others}`], Automerge.save(doc));
    if (others === "delete" || others === "recreate") await storage.delete(`doc/${id}`);
    if (others === "recreate") {
      await (await storage.open(`doc/${id}`, { model: "automerge", recreate: true })).close();
    }
    if (others === "append") {
      const theirs = add(Automerge.clone(doc), "theirs");
      await storage.append(`doc/${id}`, Automerge.getChangesSince(theirs, Automerge.getHeads(doc)));
    }
    doc = add(doc, others);
    await adapter.save([id, "snapshot", others], Automerge.save(doc));
    const loaded = (await storage.load<Automerge.Doc<Note>>(`doc/${id}`))!;
    expect(loaded.held).toEqual([]);
    expect(Automerge.hasHeads(loaded.doc, Automerge.getHeads(doc))).toBe(true);
    await loaded.close();
  }
  expect((await storage.check()).problems).toEqual([]);
  await adapter.close();
});

test.each(["delete", "erase"] as const)(
  "[AM35] with recreate: false nothing brings back a document after its %s",
  async (remove) => {
    const { storage, others } = await opened();
    const adapter = new AutomergeRepoDocuments(storage, others, { recreate: false });
    const [id, never] = [freshId(), freshId()];
    let doc = Automerge.from<Note>({ lines: ["one"] });
    await adapter.save([id, "snapshot", "a"], Automerge.save(doc));
    await storage[remove](id);
    const before = Automerge.getHeads(doc);
    doc = add(doc, "two");
    const gone = { code: "DELETED", details: { id } };
    const changes = Automerge.saveSince(doc, before);
    for (let round = 0; round < 2; round++) {
      await expect(adapter.save([id, "incremental", "b"], changes)).rejects.toMatchObject(gone);
      await expect(adapter.save([id, "snapshot", "c"], Automerge.save(doc))).rejects.toMatchObject(gone);
    }
    expect(await storage.info(id)).toBeUndefined();
    expect(await adapter.loadRange([id])).toEqual([]);
    await adapter.save([never, "snapshot", "a"], Automerge.save(doc));
    expect((await storage.info(never))?.clock).toBe(2);
    await adapter.close();
  },
);

test("[AM27] a removal comes after the saves before it, and they do not begin the document anew", async () => {
  const { storage, adapter } = await opened();
  const id = freshId();
  const doc = add(Automerge.from<Note>({ lines: [] }), "one");
  await adapter.save([id, "snapshot", "a"], Automerge.save(doc));
  const later = add(doc, "two");
  await Promise.all([
    adapter.save([id, "snapshot", "b"], Automerge.save(later)),
    adapter.save([id, "incremental", "c"], Automerge.saveSince(later, Automerge.getHeads(doc))),
    adapter.removeRange([id, "snapshot"]),
    adapter.removeRange([id, "incremental"]),
  ]);
  expect(await storage.info(`doc/${id}`)).toBeUndefined();
  expect(await adapter.loadRange([id])).toEqual([]);
  await adapter.close();
});

test("[AM27] what is lost in a repair is stored again with the next save of the whole document", async () => {
  for (const shared of [false, true]) {
    const backend = simulatedBackend({ exclusive: !shared });
    const { storage, adapter } = await opened(backend);
    const repairer = shared
      ? await DocumentStorage.open({ backend, models: [automerge()], snapshotPolicy: never })
      : storage;
    const id = freshId();
    let doc = Automerge.from<Note>({ lines: [] });
    for (const line of ["one", "two", "three", "four"]) {
      if (line === "four") {
        backend.flip(["events", `doc/${id}`, 2], 30);
        expect((await repairer.check({ repair: true })).problems).toMatchObject([{ repaired: true }]);
      }
      doc = add(doc, line);
      await adapter.save([id, "snapshot", line], Automerge.save(doc));
    }
    const [chunk] = await adapter.loadRange([id]);
    expect(Automerge.load<Note>(chunk!.data!).lines).toEqual(["one", "two", "three", "four"]);
    if (shared) await repairer.close();
    await adapter.close();
  }
});

test("[AM30] a save that compacts ends well, though the storage is closed meanwhile", async () => {
  const { adapter } = await opened();
  const random = seededRandom(1);
  const lines = Array.from({ length: 3000 }, () => `${random.int(2 ** 30)} ${random.int(2 ** 30)}`);
  const id = freshId();
  const saved = adapter.save([id, "snapshot", "a"], Automerge.save(Automerge.from<Note>({ lines })));
  const loaded = adapter.loadRange([id]);
  await adapter.close();
  await saved;
  expect(Automerge.load<Note>((await loaded)[0]!.data!).lines).toEqual(lines);
});

test("[AM27] removing chunks removes nothing; a snapshot that outweighs the last one compacts the log", async () => {
  const { storage, adapter } = await opened();
  const id = freshId();
  let doc = Automerge.from<Note>({ lines: [] });
  await adapter.save([id, "snapshot", "a"], Automerge.save(doc));
  const before = Automerge.getHeads(doc);
  for (let i = 0; i < 200; i++) doc = add(doc, `${i} ${Math.sqrt(i)} ${"abcdefgh".slice(i % 8).repeat(9)}`);
  await adapter.save([id, "incremental", "b"], Automerge.saveSince(doc, before));
  await adapter.remove([id, "snapshot", "a"]);
  await adapter.remove([id, "incremental", "b"]);
  expect((await storage.info(`doc/${id}`))?.snapshotClock).toBeUndefined();
  await adapter.save([id, "snapshot", "c"], Automerge.save(doc));
  expect((await storage.info(`doc/${id}`))?.snapshotClock).toBe(201);
  const [chunk, ...more] = await adapter.loadRange([id]);
  expect([chunk!.key, more]).toEqual([[id, "snapshot", "log"], []]);
  expect(Object.getPrototypeOf(chunk!.data)).toBe(Uint8Array.prototype);
  expect(await adapter.load([id, "snapshot", "log"])).toEqual(chunk!.data);
  expect(await adapter.load([id, "snapshot", "c"])).toBeUndefined();
  expect(await adapter.loadRange([id, "incremental"])).toEqual([]);
  expect(Automerge.load<Note>(chunk!.data!)).toEqual(doc);
  await adapter.close();
});

test("[AM27] damaged increments are refused and the others stay; other keys go to the other storage", async () => {
  const { storage, others, adapter } = await opened();
  const id = freshId();
  const doc = add(Automerge.from<Note>({ lines: [] }), "one");
  await adapter.save([id, "snapshot", "a"], Automerge.save(doc));
  const increment = Automerge.saveSince(add(Automerge.clone(doc), "two"), Automerge.getHeads(doc));
  const flipped = increment.slice();
  flipped[40]! ^= 1;
  for (const bad of [flipped, increment.slice(0, -1), Automerge.save(doc), Uint8Array.of(1)]) {
    await expect(adapter.save([id, "incremental", "x"], bad)).rejects.toMatchObject({
      code: "EVENT_INVALID",
    });
  }
  const whole = Automerge.save(add(Automerge.clone(doc), "two"));
  const flippedWhole = whole.slice();
  flippedWhole[whole.length - 3]! ^= 1;
  for (const bad of [
    flippedWhole,
    whole.slice(0, -1),
    Uint8Array.of(1, 2, 3),
    new Uint8Array(40).fill(255),
  ]) {
    for (const hash of ["a", "never saved"]) {
      await expect(adapter.save([id, "snapshot", hash], bad)).rejects.toMatchObject({
        code: "EVENT_INVALID",
      });
    }
    const unknown = freshId();
    await expect(adapter.save([unknown, "snapshot", "x"], bad)).rejects.toMatchObject({
      code: "EVENT_INVALID",
    });
    expect(await storage.info(`doc/${unknown}`)).toBeUndefined();
  }
  expect((await storage.info(`doc/${id}`))?.clock).toBe(2);
  await adapter.save([id, "sync-state", "peer"], Uint8Array.of(7));
  expect(await others.load([id, "sync-state", "peer"])).toEqual(Uint8Array.of(7));
  expect((await adapter.loadRange([id])).map(({ key }) => key[1])).toEqual(["snapshot", "sync-state"]);
  await adapter.removeRange([id]);
  expect(await adapter.loadRange([id])).toEqual([]);
  await adapter.save([id, "snapshot", "b"], Automerge.save(doc));
  expect(await adapter.loadRange([id])).toHaveLength(1);
  await expect(adapter.loadRange([])).rejects.toThrow(TypeError);
  await adapter.close();
});

/** What a reader shows after three lines were saved as increments and the storage was damaged. */
async function afterDamage(
  adapter: RepoStorage,
  reopen: () => Promise<RepoStorage>,
  damage: () => Promise<void>,
) {
  const id = freshId();
  const repo = subsystem(adapter);
  let doc = Automerge.from<Note>({ lines: [crypto.randomUUID().repeat(60)] });
  doc = add(doc, Array.from({ length: 400 }, () => crypto.randomUUID()).join());
  await repo.saveDoc(id, doc);
  for (const line of ["one", "two", "three"]) {
    doc = add(doc, line);
    await repo.saveDoc(id, doc);
  }
  await damage();
  return (await subsystem(await reopen()).loadDoc<Note>(id))!.lines.slice(2);
}

test("[AM28] a torn increment: the file adapter silently shows less, ours rejects", async () => {
  const folder = await mkdtemp(join(tmpdir(), "coppice-nodefs-"));
  const shown = await afterDamage(
    new NodeFSStorageAdapter(folder),
    async () => new NodeFSStorageAdapter(folder),
    async () => {
      const names = await readdir(folder, { recursive: true });
      // A torn write ends a file too early.
      const files = names
        .filter((name) => /incremental.[0-9a-f]{64}$/.test(name))
        .map((name) => join(folder, name));
      for (const file of files) await writeFile(file, (await readFile(file)).subarray(0, 40));
    },
  );
  expect(shown).toEqual([]);
  await rm(folder, { recursive: true, force: true });

  const backend = memoryBackend();
  const tear = async () => {
    await ours.close();
    const raw = await backend.open(systemEnv());
    for await (const page of raw.scan({ space: "chunks" })) {
      const put = page.filter(({ key }) => key[1].includes("incremental"));
      await raw.commit({ put: put.map(({ key, value }) => ({ key, value: value.slice(0, 40) })) });
    }
    await raw.close();
  };
  const ours = await AutomergeRepoStorage.open(backend);
  await expect(afterDamage(ours, () => AutomergeRepoStorage.open(backend), tear)).rejects.toMatchObject({
    code: "CORRUPT",
  });
});

test("[ST97] both adapters refuse options that there are not", async () => {
  const loose = (options: object) => options as never;
  await expect(AutomergeRepoStorage.open(memoryBackend(), loose({ evn: systemEnv() }))).rejects.toThrow(
    "AutomergeRepoStorage.open has no option evn",
  );
  const storage = await DocumentStorage.open({ backend: memoryBackend(), models: [automerge()] });
  const others = await AutomergeRepoStorage.open(memoryBackend());
  expect(() => new AutomergeRepoDocuments(storage, others, loose({ idPrefx: "a/" }))).toThrow(
    "AutomergeRepoDocuments has no option idPrefx",
  );
  await new AutomergeRepoDocuments(storage, others, { idPrefix: "a/" }).close();
});

test("[ST98] both adapters say what they want instead of a directory, or of nothing", async () => {
  const Loose = AutomergeRepoStorage as unknown as new (directory: string) => unknown;
  await expect(AutomergeRepoStorage.open("./data" as never)).rejects.toThrow("wants a backend, like");
  expect(() => new Loose("./data")).toThrow("await AutomergeRepoStorage.open(backend)");
  const storage = await DocumentStorage.open({ backend: memoryBackend(), models: [automerge()] });
  const others = await AutomergeRepoStorage.open(memoryBackend());
  await expect(AutomergeRepoStorage.open(storage as never)).rejects.toThrow("wants a backend, like");
  const wrong: (readonly unknown[])[] = [[], [memoryBackend(), others]];
  for (const given of wrong) {
    expect(() => new AutomergeRepoDocuments(...(given as [never, never]))).toThrow("wants an open storage");
  }
  expect(() => new AutomergeRepoDocuments(storage, undefined as never)).toThrow("wants a place for all else");
  await new AutomergeRepoDocuments(storage, others).close();
});
