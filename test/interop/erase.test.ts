// Erasing on LevelDB: what anybody finds who searches the files afterwards, with the store open and closed.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { levelBackend } from "@coppice/level";
import { yjs } from "@coppice/yjs";
import { DocumentStorage } from "coppice";
import { seededRandom } from "coppice/testing";
import { afterAll, describe, expect, test } from "vitest";
import type { Doc } from "yjs";
import { filesHolding } from "../support/files.js";

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
