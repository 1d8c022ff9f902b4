/** What a copy takes for an older state of its source, where the source's log has been trimmed beyond it. */

import { yjs } from "@coppice/yjs";
import { DocumentStorage, type Entry, never } from "coppice";
import { simulatedBackend, simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import type { Doc } from "yjs";
import * as Y from "yjs";

const open = (backend = simulatedBackend(), seed = 1) =>
  DocumentStorage.open({
    backend,
    env: simulatedEnv(seed, { autoAdvance: true }),
    models: [yjs()],
    snapshotPolicy: never,
  });

type Storage = Awaited<ReturnType<typeof open>>;

async function write(storage: Storage, ...words: string[]): Promise<void> {
  const handle = await storage.open<Doc>("d");
  for (const word of words) {
    handle.change((doc) => doc.getText("t").insert(doc.getText("t").length, word));
    await handle.save();
  }
  await handle.close();
}

const text = async (storage: Storage) => (await storage.load<Doc>("d"))?.doc.getText("t").toString();

const OWN = { id: "d", error: { code: "EXISTS" } };

test("[MV32] a source that was put back to an older state never replaces what the target has from later", async () => {
  const backend = simulatedBackend();
  let from = await open(backend);
  const to = await open();
  await write(from, "a", "b");
  const older: readonly Entry[] = backend.dump();
  await write(from, "c", "d");
  expect((await from.copyTo(to)).failures).toEqual([]);
  await from.close();
  backend.restore(older);
  from = await open(backend, 2);
  await write(from, "x", "y", "z");
  await from.compact("d");
  expect((await from.info("d"))!.oldestClock).toBeGreaterThan(3);
  expect((await from.copyTo(to)).failures).toMatchObject([OWN]);
  expect(await text(to)).toBe("abcd");
  expect((await from.copyTo(to, { replace: true })).failures).toEqual([]);
  expect(await text(to)).toBe("abxyz");
});

test("[MV32] of two that share a beginning neither replaces what the target has from the other", async () => {
  const [one, other, to] = [await open(), await open(), await open()];
  await write(one, "a", "b");
  await one.copyTo(other);
  await write(one, "c");
  await one.copyTo(to);
  await write(other, "x", "y", "z");
  await other.compact("d");
  expect((await other.copyTo(to)).failures).toMatchObject([OWN]);
  expect(await text(to)).toBe("abc");
});

test("[MV31] an older state gives way also without a mark, and where the source has deleted since", async () => {
  const target = simulatedBackend();
  const [from, to] = [await open(), await open(target)];
  await write(from, "a", "b", "c");
  await from.copyTo(to);
  target.deleteRaw(["copied", "d"]);
  const handle = await from.open<Doc>("d");
  handle.change((doc) => doc.getText("t").delete(0, 2));
  await handle.save();
  await handle.close();
  await write(from, "d", "e");
  await from.compact("d");
  expect((await from.copyTo(to)).failures).toEqual([]);
  expect(await text(to)).toBe("cde");
  expect(await to.check()).toMatchObject({ clean: true });
});

/** The updates of a document that somebody else edits. */
function elsewhere(...words: string[]): Uint8Array[] {
  const doc = new Y.Doc();
  const updates: Uint8Array[] = [];
  doc.on("update", (update: Uint8Array) => updates.push(update));
  for (const word of words) doc.getText("t").insert(doc.getText("t").length, word);
  return updates;
}

test("[MV31] a source in which events wait for what is missing, and that was trimmed beyond its copy, is copied", async () => {
  const [from, to] = [await open(), await open()];
  await write(from, "a", "b");
  expect((await from.copyTo(to)).failures).toEqual([]);
  await write(from, "c", "d", "e");
  await from.append("d", [elsewhere("x", "y")[1]!]);
  await from.compact("d");
  expect((await from.info("d"))!.oldestClock).toBeGreaterThan(2);
  expect((await from.copyTo(to)).failures).toEqual([]);
  expect(await text(to)).toBe("abcde");
  expect((await to.load<Doc>("d"))!.held).toHaveLength(1);
});

test("[MV31] what waited in a copy, and was applied at its source since, keeps nobody from copying", async () => {
  const [from, to] = [await open(), await open()];
  const [first, second] = elsewhere("x", "y");
  await from.append("d", [second!]);
  expect((await from.copyTo(to)).failures).toEqual([]);
  expect((await to.load<Doc>("d"))!.held).toHaveLength(1);
  await from.append("d", [first!]);
  await write(from, "a", "b");
  await from.compact("d", { force: true });
  expect((await from.info("d"))!.oldestClock).toBeGreaterThan(1);
  expect((await from.copyTo(to)).failures).toEqual([]);
  expect(await text(to)).toBe(await text(from));
});
