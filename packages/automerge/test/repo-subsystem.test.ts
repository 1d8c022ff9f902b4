// The storage subsystem of automerge-repo itself, as a Repo makes it, on both of our adapters and every backend.

import { join } from "node:path";
import * as Automerge from "@automerge/automerge";
import {
  type DocumentId,
  generateAutomergeUrl,
  parseAutomergeUrl,
  Repo,
  type StorageId,
} from "@automerge/automerge-repo";
import { fileLogBackend } from "@coppice/file";
import { levelBackend } from "@coppice/level";
import { type BackendFactory, DocumentStorage, memoryBackend } from "coppice";
import { describe, expect, test } from "vitest";
import { AutomergeRepoDocuments, AutomergeRepoStorage, automerge, type RepoStorage } from "../src/index.js";
import { withFolder } from "./folders.js";

type Open = () => Promise<RepoStorage & { close(): Promise<void> }>;
type Make = (name: string) => BackendFactory;

const ADAPTERS: Record<string, (make: Make) => Open> = {
  AutomergeRepoStorage: (make) => {
    const backend = make("chunks");
    return () => AutomergeRepoStorage.open(backend);
  },
  AutomergeRepoDocuments: (make) => {
    const [documents, others] = [make("documents"), make("others")];
    return async () => {
      const storage = await DocumentStorage.open({ backend: documents, models: [automerge()] });
      return new AutomergeRepoDocuments(storage, await AutomergeRepoStorage.open(others), {
        idPrefix: "repo/",
      });
    };
  },
};

const BACKENDS: Record<string, (folder: string) => Make> = {
  memory: () => () => memoryBackend(),
  "the file log": (folder) => (name) => fileLogBackend(join(folder, name)),
  LevelDB: (folder) => (name) => levelBackend(join(folder, name)),
};

const freshId = (): DocumentId => parseAutomergeUrl(generateAutomergeUrl()).documentId;
/** Text that does not compress, so that automerge-repo's thresholds are passed when we think so. */
const noise = (count: number, seed: number) =>
  Array.from({ length: count }, (_, i) =>
    String.fromCharCode(33 + ((Math.imul(i * 31 + seed, 2654435761) >>> 9) % 90)),
  ).join("");

type Note = { text: string };

const cases = Object.keys(ADAPTERS).flatMap((adapter) =>
  Object.keys(BACKENDS).map((on) => [adapter, on] as const),
);

describe.for(cases)("%s on %s", ([adapterName, backendName]) => {
  async function withStore(run: (open: Open) => Promise<void>): Promise<void> {
    const { folder, remove } = await withFolder();
    try {
      await run(ADAPTERS[adapterName]!(BACKENDS[backendName]!(folder)));
    } finally {
      await remove();
    }
  }

  /** The subsystem of a new Repo, as after a restart. */
  async function restarted<T>(
    open: Open,
    use: (storage: NonNullable<Repo["storageSubsystem"]>, adapter: RepoStorage) => Promise<T>,
  ): Promise<T> {
    const adapter = await open();
    try {
      return await use(new Repo({ storage: adapter }).storageSubsystem!, adapter);
    } finally {
      await adapter.close();
    }
  }

  test("[AM25] documents, increments and compactions of automerge-repo come back after each restart", () =>
    withStore(async (open) => {
      const id = freshId();
      expect(await restarted(open, (storage) => storage.loadDoc(id))).toBeNull();
      let doc = Automerge.from<Note>({ text: noise(3000, 1) });
      let compactions = 0;
      for (let i = 2; i < 10; i++) {
        doc = await restarted(open, async (storage) => {
          storage.on("doc-compacted", () => compactions++);
          if (i > 2) {
            const loaded = (await storage.loadDoc<Note>(id))!;
            expect(Automerge.getHeads(loaded)).toEqual(Automerge.getHeads(doc));
            expect(loaded.text).toBe(doc.text);
            doc = loaded;
          }
          for (let j = 0; j < 3; j++) {
            doc = Automerge.change(doc, (note) =>
              Automerge.splice(note, ["text"], j, 0, noise(400, i * 3 + j)),
            );
            await storage.saveDoc(id, doc);
          }
          return doc;
        });
      }
      expect(compactions).toBeGreaterThan(0);
    }));

  test("[AM25] savings of many documents at once are all there, and no document holds another's changes", () =>
    withStore(async (open) => {
      const docs = Array.from({ length: 12 }, (_, i) => ({
        id: freshId(),
        doc: Automerge.from<Note>({ text: noise(100, i) }),
      }));
      await restarted(open, async (storage) => {
        await Promise.all(docs.map(({ id, doc }) => storage.saveDoc(id, doc)));
        await Promise.all(
          docs.map(async (one) => {
            one.doc = Automerge.change(one.doc, (note) => Automerge.splice(note, ["text"], 0, 0, "x"));
            await storage.saveDoc(one.id, one.doc);
          }),
        );
      });
      await restarted(open, async (storage) => {
        for (const { id, doc } of docs) expect(await storage.loadDoc(id)).toEqual(doc);
      });
    }));

  test("[AM25] a removed document is gone, others stay, and it may be saved again", () =>
    withStore(async (open) => {
      const [one, two] = [freshId(), freshId()];
      const doc = Automerge.from<Note>({ text: "kept" });
      await restarted(open, async (storage) => {
        await storage.saveDoc(one, doc);
        await storage.saveDoc(two, doc);
        await storage.removeDoc(one);
      });
      await restarted(open, async (storage) => {
        expect(await storage.loadDoc(one)).toBeNull();
        expect(await storage.loadDoc(two)).toEqual(doc);
        await storage.saveDoc(one, doc);
      });
      await restarted(open, async (storage) => expect(await storage.loadDoc(one)).toEqual(doc));
    }));

  test("[AM25] the id of the store, sync states and values of plug-ins are kept apart from documents", () =>
    withStore(async (open) => {
      const id = freshId();
      const peer = "peer-storage" as StorageId;
      const first = await restarted(open, async (storage) => {
        await storage.saveSyncState(id, peer, Automerge.initSyncState());
        await storage.save("plug-in", "key", Uint8Array.of(1, 2));
        return storage.id();
      });
      await restarted(open, async (storage) => {
        expect(await storage.id()).toBe(first);
        expect(await storage.loadSyncState(id, peer)).toBeDefined();
        expect(await storage.load("plug-in", "key")).toStrictEqual(Uint8Array.of(1, 2));
        await storage.remove("plug-in", "key");
        expect(await storage.load("plug-in", "key")).toBeUndefined();
        expect(await storage.loadDoc(id)).toBeNull();
      });
    }));

  test("[AM30] a load sees the saves and removals that were called before it, awaited or not", () =>
    withStore(async (open) => {
      const id = freshId();
      const doc = Automerge.from<Note>({ text: "unawaited" });
      await restarted(open, async (storage, adapter) => {
        const saved = storage.saveDoc(id, doc);
        expect(await new Repo({ storage: adapter }).storageSubsystem!.loadDoc(id)).toEqual(doc);
        const value = adapter.save(["plug-in", "key"], Uint8Array.of(1));
        expect(await adapter.load(["plug-in", "key"])).toEqual(Uint8Array.of(1));
        const again = adapter.save(["plug-in", "key"], Uint8Array.of(2));
        expect(await adapter.loadRange(["plug-in"])).toEqual([
          { key: ["plug-in", "key"], data: Uint8Array.of(2) },
        ]);
        const removed = [adapter.removeRange(["plug-in"]), adapter.removeRange([id, "snapshot"])];
        expect(await adapter.load(["plug-in", "key"])).toBeUndefined();
        expect(await adapter.loadRange([id, "snapshot"])).toEqual([]);
        await Promise.all([saved, value, again, ...removed]);
      });
    }));

  test("[AM30] what was called before the store is closed ends well, though it waits for another call", () =>
    withStore(async (open) => {
      const id = freshId();
      const doc = Automerge.from<Note>({ text: "unawaited" });
      const adapter = await open();
      const calls = [
        adapter.save([id, "snapshot", "a"], Automerge.save(doc)),
        adapter.loadRange([id, "snapshot"]),
        adapter.save(["plug-in", "key"], Uint8Array.of(1)),
        adapter.load(["plug-in", "key"]),
      ];
      await adapter.close();
      const [, chunks, , value] = await Promise.all(calls);
      expect([chunks, value]).toEqual([[expect.anything()], Uint8Array.of(1)]);
      await expect(adapter.load(["plug-in", "key"])).rejects.toMatchObject({ code: "CLOSED" });
    }));

  test("[AM25] two repos with their own copies of a document lose nothing of each other", () =>
    withStore(async (open) => {
      const id = freshId();
      const base = Automerge.from<Note>({ text: noise(1500, 1) });
      let [mine, yours] = [base, Automerge.clone(base)];
      await restarted(open, async (_, adapter) => {
        const one = new Repo({ storage: adapter }).storageSubsystem!;
        const two = new Repo({ storage: adapter }).storageSubsystem!;
        await one.saveDoc(id, mine);
        await two.loadDoc(id);
        for (let i = 0; i < 9; i++) {
          mine = Automerge.change(mine, (note) => Automerge.splice(note, ["text"], 0, 0, noise(300, i)));
          yours = Automerge.change(yours, (note) =>
            Automerge.splice(note, ["text"], 5, 0, noise(300, 50 + i)),
          );
          await Promise.all([one.saveDoc(id, mine), two.saveDoc(id, yours)]);
        }
      });
      const merged = Automerge.merge(mine, yours);
      await restarted(open, async (storage) => {
        expect(Automerge.getHeads((await storage.loadDoc(id))!).sort()).toEqual(
          Automerge.getHeads(merged).sort(),
        );
      });
    }));
});
