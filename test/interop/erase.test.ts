// Erasing on LevelDB and on a file log: what anybody finds who searches the files afterwards, with the store open and
// closed; and what they weigh.

import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkFileLog, fileLogBackend } from "@coppice/file";
import { levelBackend } from "@coppice/level";
import { yjs } from "@coppice/yjs";
import { type BackendFactory, DocumentStorage, never, systemEnv } from "coppice";
import { seededRandom } from "coppice/testing";
import { afterAll, describe, expect, test } from "vitest";
import type { Doc } from "yjs";
import { filesHolding } from "../support/files.js";
import { type NameSet, nameSet, naming } from "../support/oracle-model.js";

const made: string[] = [];
afterAll(async () => {
  for (const path of made) await rm(path, { recursive: true, force: true });
});

const utf8 = (text: string) => new TextEncoder().encode(text);

async function type(storage: DocumentStorage, id: string, words: readonly string[]): Promise<void> {
  const handle = await storage.open<Doc>(id);
  const text = handle.doc.getText("t");
  for (const word of words) {
    text.insert(text.length, `${word} `);
    await handle.save();
  }
  await handle.close();
}

const BACKENDS = {
  LevelDB: (location: string) => levelBackend(location, { writeBufferBytes: 64 * 1024 }),
  "a file log": (location: string) => fileLogBackend(location, { segmentBytesMax: 64 * 1024 }),
};
const SPACES = ["meta", "events", "snapshot", "held", "tags", "tagged", "archive", "quarantine"];

/** Damages the first value of the document in this space, as a disk might, and closes the backend again. */
async function damage(factory: BackendFactory, id: string): Promise<void> {
  const backend = await factory.open(systemEnv());
  for await (const [entry] of backend.scan({ space: "events", id, from: 45 }, { limit: 1 })) {
    const value = Uint8Array.from(entry!.value);
    value[value.length - 5]! ^= 1;
    await backend.commit({ put: [{ key: entry!.key, value }] });
  }
  await backend.close();
}

async function spacesOf(factory: BackendFactory, id: string): Promise<string[]> {
  const backend = await factory.open(systemEnv());
  const found: string[] = [];
  for (const space of SPACES) {
    for await (const page of backend.scan({ space, id }, { limit: 1 }))
      if (page.length > 0) found.push(space);
  }
  await backend.close();
  return found;
}

for (const [name, factoryAt] of Object.entries(BACKENDS)) {
  test(`[MV15] ${name}: events, snapshots, tags, held events, archive and quarantine of an erased document leave no byte`, async () => {
    const random = seededRandom(15);
    const location = await mkdtemp(join(tmpdir(), "coppice-erase-"));
    made.push(location);
    const backend = factoryAt(location);
    const words = Array.from({ length: 60 }, () => `S${Buffer.from(random.bytes(12)).toString("hex")}`);
    const id = "patient 4711";
    // Segments and snapshots that are too small to be compressed, so that words in them are found.
    const open = () =>
      DocumentStorage.open({
        backend,
        models: [nameSet()],
        history: "archive",
        snapshotPolicy: never,
        limits: { archiveSegmentBytesMax: 200, snapshotPartBytesMax: 1000 },
      });
    let storage = await open();
    for (const [index, word] of words.entries()) {
      await storage.append(id, [naming(word, index === 3 ? ["never"] : [])]);
      await storage.append(`beside ${index}`, [naming(`beside ${word}`)]);
      if (index % 12 === 11 && index < 40) await storage.compact(id);
      if (index === 20) await storage.tag(id, "half of it");
    }
    await storage.close();
    await damage(backend, id);
    storage = await open();
    expect((await storage.check({ repair: true })).problems.map(({ code }) => code)).toEqual([
      "batch-damaged",
    ]);
    await storage.close();
    expect(await spacesOf(backend, id)).toEqual(SPACES);
    storage = await open();
    const traces = async () => {
      const found: string[] = [];
      for (const word of [id, "half of it", ...words.map((one) => `{"n":"${one}"`)]) {
        for (const file of await filesHolding(location, utf8(word))) found.push(`${word} in ${file}`);
      }
      return found;
    };
    // In LevelDB's tables most of them are compressed.
    expect((await traces()).length).toBeGreaterThan(5);
    expect(await storage.erase(id)).toMatchObject({ existed: true });
    expect(await traces()).toEqual([]);
    expect(await storage.list().next()).toMatchObject({ done: false, value: "beside 0" });
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
    expect(await traces()).toEqual([]);
    expect(await spacesOf(backend, id)).toEqual([]);
  });
}

test("[MV15] a file log keeps what the repair of its files set aside, and nothing else, beyond an erasure", async () => {
  const location = await mkdtemp(join(tmpdir(), "coppice-erase-"));
  made.push(location);
  const backend = fileLogBackend(location, { segmentBytesMax: 64 * 1024 });
  let storage = await DocumentStorage.open({ backend, models: [nameSet()], snapshotPolicy: never });
  for (let index = 0; index < 30; index++)
    await storage.append("d", [naming(`secret ${index} ${"x".repeat(4000)}`)]);
  await storage.close();
  const [segment] = (await readdir(location)).filter((file) => file.endsWith(".seg")).sort();
  const bytes = await readFile(join(location, segment!));
  bytes[bytes.indexOf("secret 3 ") + 100]! ^= 1;
  await writeFile(join(location, segment!), bytes);
  await checkFileLog(location, { repair: true });
  storage = await DocumentStorage.open({ backend, models: [nameSet()], snapshotPolicy: never });
  await storage.check({ repair: true });
  expect((await storage.load<NameSet>("d"))?.doc.names.size).toBe(29);
  await storage.erase("d");
  await storage.close();
  const left = await filesHolding(location, utf8("secret "));
  expect(left.length).toBeGreaterThan(0);
  for (const file of left) expect(file).toMatch(/^quarantine-/);
});

describe("a store in a LevelDB directory", () => {
  test("[MV14] after erasing, no file of the store holds a word of the document or its id", async () => {
    const random = seededRandom(14);
    const location = await mkdtemp(join(tmpdir(), "coppice-erase-"));
    made.push(location);
    // Small buffers, so that some lies in tables and some in the log.
    const backend = levelBackend(location, { writeBufferBytes: 64 * 1024 });
    const storage = await DocumentStorage.open({ backend, models: [yjs()] });
    const words = (count: number, prefix: string) =>
      Array.from({ length: count }, () => `${prefix}${Buffer.from(random.bytes(9)).toString("hex")}`);
    const secret = words(300, "S");
    const id = "patient 4711";
    await type(storage, "a", words(300, "A"));
    await type(storage, id, secret.slice(0, 100));
    await storage.compact(id);
    await type(storage, "z", words(300, "Z"));
    await type(storage, id, secret.slice(100, 200));
    await storage.compact(id);
    await type(storage, "a", words(100, "A"));
    await type(storage, id, secret.slice(200));
    const traces = async () => {
      const found: string[] = [];
      for (const word of [id, ...secret]) {
        for (const file of await filesHolding(location, utf8(word))) found.push(`${word} in ${file}`);
      }
      return found;
    };
    expect((await traces()).length).toBeGreaterThan(100);
    await storage.delete(id);
    expect((await traces()).length).toBeGreaterThan(100);
    await storage.erase(id);
    expect(await traces()).toEqual([]);
    await expect(storage.open(id)).rejects.toMatchObject({ code: "DELETED" });
    expect((await storage.load<Doc>("a"))?.doc.getText("t").toString().split(" ")).toHaveLength(401);
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
    expect(await traces()).toEqual([]);
    const reopened = await DocumentStorage.open({ backend, models: [yjs()] });
    expect((await reopened.info("z"))?.clock).toBe(300);
    expect((await reopened.check()).problems).toEqual([]);
    await reopened.close();
    expect(await traces()).toEqual([]);
  });

  test("[MV14] appends, loads and lists go on while it reclaims, again and again", async () => {
    const location = await mkdtemp(join(tmpdir(), "coppice-erase-"));
    made.push(location);
    const storage = await DocumentStorage.open({ backend: levelBackend(location), models: [yjs()] });
    let stop = false;
    const writers = ["a", "b", "c"].map(async (id) => {
      const handle = await storage.open<Doc>(id);
      let saves = 0;
      for (; !stop; saves++) {
        handle.doc.getText("t").insert(0, "x");
        await handle.save();
      }
      await handle.close();
      return saves;
    });
    const readers = (async () => {
      for (; !stop; ) {
        for await (const id of storage.list()) expect((await storage.load<Doc>(id))?.held ?? []).toEqual([]);
      }
    })();
    for (let round = 0; round < 5; round++) {
      await type(storage, `gone ${round}`, ["some", "words"]);
      await storage.erase(`gone ${round}`);
    }
    stop = true;
    const saves = await Promise.all(writers);
    await readers;
    for (const [index, id] of ["a", "b", "c"].entries()) {
      expect((await storage.load<Doc>(id))?.doc.getText("t").length).toBe(saves[index]);
      expect(saves[index]).toBeGreaterThan(5);
    }
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });
});
