// Moving documents over that a real Repo wrote with its file adapter.

import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import * as Automerge from "@automerge/automerge";
import { type AutomergeUrl, type DocumentId, encodeHeads, Repo } from "@automerge/automerge-repo";
import { NodeFSStorageAdapter } from "@automerge/automerge-repo-storage-nodefs";
import { DocumentStorage, memoryBackend, never } from "coppice";
import { simulatedBackend } from "coppice/testing";
import { expect, onTestFinished, test } from "vitest";
import {
  AutomergeRepoDocuments,
  AutomergeRepoStorage,
  automerge,
  type ImportedRepoDocument,
  importAutomergeRepo,
  type RepoStorage,
} from "../src/index.js";
import { withFolder } from "./folders.js";

type Note = { lines: string[] };

const SYNC_STATE = Uint8Array.of(0x43, 0);

/** Three documents in a folder of the file adapter, as snapshots and increments, with a sync state each. */
async function written() {
  const { folder, remove } = await withFolder();
  onTestFinished(remove);
  const adapter = new NodeFSStorageAdapter(folder);
  const repo = new Repo({ storage: adapter });
  const docs = new Map<string, Note>();
  for (const name of ["a", "b", "c"]) {
    // So much that automerge-repo leaves increments beside the snapshot.
    const much = Array.from({ length: 400 }, () => crypto.randomUUID()).join();
    const handle = repo.create<Note>({ lines: [name, much] });
    await repo.flush();
    for (let line = 0; line < 3; line++) {
      handle.change((doc) => void doc.lines.push(`${name} ${line}`));
      await repo.flush();
    }
    await adapter.save([handle.documentId, "sync-state", "peer"], SYNC_STATE);
    docs.set(handle.documentId, handle.doc());
  }
  await repo.shutdown();
  return { folder, docs, adapterId: (await adapter.load(["storage-adapter-id"]))! };
}

/** As the page about moving does it. */
async function idsIn(folder: string): Promise<string[]> {
  const ids: string[] = [];
  for (const first of await readdir(folder)) {
    const entries = await readdir(join(folder, first), { withFileTypes: true });
    for (const entry of entries) if (entry.isDirectory()) ids.push(first + entry.name);
  }
  return ids.sort();
}

async function chunkOf(folder: string, id: string, type: string, index: number): Promise<string> {
  const directory = join(folder, id.slice(0, 2), id.slice(2), type);
  return join(directory, (await readdir(directory)).sort()[index]!);
}

async function documentsOf(
  backend = memoryBackend() as Parameters<typeof DocumentStorage.open>[0]["backend"],
) {
  const storage = await DocumentStorage.open({ backend, models: [automerge()], snapshotPolicy: never });
  const target = new AutomergeRepoDocuments(storage, await AutomergeRepoStorage.open(memoryBackend()));
  onTestFinished(() => target.close());
  return { storage, target };
}

async function targets(): Promise<RepoStorage[]> {
  const plain = await AutomergeRepoStorage.open(memoryBackend());
  onTestFinished(() => plain.close());
  return [plain, (await documentsOf()).target];
}

async function shown(target: RepoStorage, id: string): Promise<Note> {
  const handle = await new Repo({ storage: target }).find<Note>(`automerge:${id}` as AutomergeUrl);
  return handle.doc();
}

test("[AM31] every document moves over, verified, with sync states and the id of the storage", async () => {
  const { folder, docs, adapterId } = await written();
  const ids = await idsIn(folder);
  expect(ids).toEqual([...docs.keys()].sort());
  for (const target of await targets()) {
    const told: ImportedRepoDocument[] = [];
    const onDocument = (document: ImportedRepoDocument) => void told.push(document);
    const source = new NodeFSStorageAdapter(folder);
    expect(await importAutomergeRepo(source, target, ids, { onDocument })).toEqual({
      documents: 3,
      imported: 3,
      present: 0,
      problems: [],
    });
    expect(told.map(({ id, outcome }) => [id, outcome])).toEqual(ids.map((id) => [id, "imported"]));
    // Each has the change that made it, and three more.
    for (const { chunks, changes } of told) {
      expect(chunks).toBeGreaterThan(1);
      expect(changes).toBeGreaterThanOrEqual(4);
    }
    for (const id of ids) {
      expect(await shown(target, id)).toEqual(docs.get(id));
      expect(await target.load([id, "sync-state", "peer"])).toEqual(SYNC_STATE);
    }
    expect(await target.load(["storage-adapter-id"])).toEqual(adapterId);
  }
});

test("[AM32] repeated or interrupted it saves only what is missing, and keeps what the target has", async () => {
  const { folder, docs } = await written();
  const ids = [...docs.keys()];
  const source = new NodeFSStorageAdapter(folder);
  const { storage, target } = await documentsOf();
  const controller = new AbortController();
  const onDocument = () => controller.abort("enough");
  const interrupted = importAutomergeRepo(source, target, ids, { onDocument, signal: controller.signal });
  await expect(interrupted).rejects.toBe("enough");
  const repo = new Repo({ storage: target });
  const handle = await repo.find<Note>(`automerge:${ids[0]!}` as AutomergeUrl);
  handle.change((doc) => void doc.lines.push("here"));
  await repo.flush();
  await target.save([ids[0]!, "sync-state", "peer"], Uint8Array.of(1));
  const clock = (await storage.info(ids[0]!))!.clock;
  const adapterId = await target.load(["storage-adapter-id"]);
  const report = { documents: 3, problems: [] };
  expect(await importAutomergeRepo(source, target, ids)).toEqual({ ...report, imported: 2, present: 1 });
  const clocks = await Promise.all(ids.map(async (id) => (await storage.info(id))!.clock));
  expect(await importAutomergeRepo(source, target, ids)).toEqual({ ...report, imported: 0, present: 3 });
  expect(await Promise.all(ids.map(async (id) => (await storage.info(id))!.clock))).toEqual(clocks);
  expect(clocks[0]).toBe(clock);
  expect((await shown(target, ids[0]!)).lines.at(-1)).toBe("here");
  expect(await target.load([ids[0]!, "sync-state", "peer"])).toEqual(Uint8Array.of(1));
  expect(await target.load(["storage-adapter-id"])).toEqual(adapterId);
  await target.removeRange([ids[0]!]);
  expect(await importAutomergeRepo(source, target, ids)).toEqual({ ...report, imported: 1, present: 2 });
  expect(await shown(target, ids[0]!)).toEqual(docs.get(ids[0]!));
  expect((await storage.check()).problems).toEqual([]);
});

test("[AM33] what is damaged is named, and all else of the document and the others move over", async () => {
  const { folder, docs } = await written();
  const [cut, flipped, whole] = [...docs.keys()] as [string, string, string];
  const increment = await chunkOf(folder, cut, "incremental", 0);
  // A torn write ends a file too early.
  await writeFile(increment, (await readFile(increment)).subarray(0, 40));
  const snapshot = await chunkOf(folder, flipped, "snapshot", 0);
  const bytes = await readFile(snapshot);
  bytes[bytes.length >> 1]! ^= 1;
  await writeFile(snapshot, bytes);
  for (const target of await targets()) {
    const ids = [cut, flipped, "nothing", whole];
    const report = await importAutomergeRepo(new NodeFSStorageAdapter(folder), target, ids);
    expect(report).toMatchObject({ documents: 4, imported: 1, present: 0 });
    expect(report.problems.map(({ id, outcome }) => [id, outcome])).toEqual([
      [cut, "damaged"],
      [flipped, "failed"],
      ["nothing", "failed"],
    ]);
    const [first, second, third] = report.problems.map(({ reason }) => reason!);
    expect(first).toMatch(/^incremental\/[0-9a-f]{64}: a chunk that was cut short/);
    expect(second).toMatch(/^snapshot\/[0-9a-f]{64}: .*3 changes wait for others/);
    expect(third).toBe("the source has no change of it");
    expect(await shown(target, whole)).toEqual(docs.get(whole));
    expect((await shown(target, cut)).lines[0]).toBe(docs.get(cut)!.lines[0]);
    // It would tell the peer that the change that is lost is there.
    expect(await target.load([cut, "sync-state", "peer"])).toBeUndefined();
    expect(await target.load([whole, "sync-state", "peer"])).toEqual(SYNC_STATE);
    expect(await target.loadRange([flipped])).toEqual([]);
  }
});

test("[AM33] a source or a target that fails for one document does not stop the others", async () => {
  const { folder, docs } = await written();
  const ids = [...docs.keys()];
  const source = new NodeFSStorageAdapter(folder);
  const failing = {
    load: (key: string[]) => source.load(key as never),
    loadRange: async (prefix: string[]) => {
      if (prefix[0] === ids[0]) throw Object.assign(new Error("EIO: i/o error"), { code: "EIO" });
      return (await source.loadRange(prefix as never)) as { key: string[]; data: Uint8Array | undefined }[];
    },
  };
  const backend = simulatedBackend({ poisonsItself: false });
  const { target } = await documentsOf(backend);
  backend.failNext("commit", "unavailable");
  const { imported, problems } = await importAutomergeRepo(failing, target, ids);
  expect(imported).toBe(1);
  expect(problems.map(({ id, outcome }) => [id, outcome])).toEqual([
    [ids[0], "failed"],
    [ids[1], "failed"],
  ]);
  expect(problems[0]!.reason).toContain("EIO");
  expect(await importAutomergeRepo(source, target, ids)).toMatchObject({ imported: 2, present: 1 });
  for (const id of ids) expect(await shown(target, id)).toEqual(docs.get(id));
});

test("[AM33] increments alone move over, and a change in two chunks is one change", async () => {
  const source = await AutomergeRepoStorage.open(memoryBackend());
  const { storage, target } = await documentsOf();
  const id = "document" as DocumentId;
  let doc = Automerge.from<Note>({ lines: ["one"] });
  await source.save([id, "incremental", "a"], Automerge.saveSince(doc, []));
  const heads = Automerge.getHeads(doc);
  doc = Automerge.change(doc, (note) => void note.lines.push("two"));
  await source.save([id, "incremental", "b"], Automerge.saveSince(doc, []));
  await source.save([id, "incremental", "c"], Automerge.saveSince(doc, heads));
  expect(await importAutomergeRepo(source, target, [id])).toMatchObject({ imported: 1, problems: [] });
  expect((await storage.info(id))!.clock).toBe(2);
  expect((await storage.load<Note>(id))!.doc.lines).toEqual(["one", "two"]);
  await source.close();
});

test("[AM34] the URLs of documents serve as their ids do, also those with heads", async () => {
  const { folder, docs } = await written();
  const source = new NodeFSStorageAdapter(folder);
  const [a, b, c] = [...docs.keys()] as [string, string, string];
  const [heads] = encodeHeads(Automerge.getHeads(docs.get(b)!));
  const target = (await targets())[0]!;
  const told: string[] = [];
  const report = await importAutomergeRepo(source, target, [`automerge:${a}`, `automerge:${b}#${heads}`, c], {
    onDocument: ({ id }) => void told.push(id),
  });
  expect(report).toEqual({ documents: 3, imported: 3, present: 0, problems: [] });
  expect(told).toEqual([a, b, c]);
  for (const id of told) expect(await shown(target, id)).toEqual(docs.get(id));
});

test("[AM34] what is no list of ids or URLs is refused, and says what is wanted", async () => {
  const target = (await targets())[0]!;
  const wants = "importAutomergeRepo wants a list of document ids, or of their URLs (handle.url)";
  const attempt = importAutomergeRepo as (...given: unknown[]) => Promise<unknown>;
  for (const ids of ["an id", undefined, null, 5, {}]) {
    await expect(attempt(target, target, ids)).rejects.toThrow(new TypeError(wants));
  }
  for (const id of [{ url: "automerge:x" }, undefined, 7]) {
    await expect(attempt(target, target, [id])).rejects.toThrow(new TypeError(`${wants}; one is no string`));
  }
});

test("[AM33] what is no storage adapter and no option is refused", async () => {
  const target = (await targets())[0]!;
  const loose = (what: unknown) => what as never;
  await expect(importAutomergeRepo(loose("./folder"), target, [])).rejects.toThrow("NodeFSStorageAdapter");
  await expect(importAutomergeRepo(target, loose(memoryBackend()), [])).rejects.toThrow("to import into");
  await expect(importAutomergeRepo(target, target, [], loose({ onDocuments: 1 }))).rejects.toThrow(
    "importAutomergeRepo has no option onDocuments",
  );
});
