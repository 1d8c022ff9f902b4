/** What clients send again, since they have it, to a bound Y.Doc that is not loaded yet. */
import { DocumentStorage, memoryBackend } from "coppice";
import { expect, onTestFinished, test } from "vitest";
import * as Y from "yjs";
import { bindDoc, type Durability } from "../../src/dropins/index.js";
import { yjs } from "../../src/index.js";

async function open(): Promise<DocumentStorage> {
  const storage: DocumentStorage = await DocumentStorage.open({ backend: memoryBackend(), models: [yjs()] });
  onTestFinished(async () => {
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });
  return storage;
}

test("[DI3] stores of what clients send again before the load has ended only what is new, and tells of all of it", async () => {
  const storage = await open();
  const author = new Y.Doc();
  const text = author.getText("t");
  for (let i = 0; i < 500; i++) text.insert(i % 7, "words ");
  const told = new Map<number, number>();
  const onDurable = ({ clients }: Durability) => {
    for (const [client, clock] of clients) told.set(client, Math.max(clock, told.get(client) ?? 0));
  };
  const sizes: number[] = [];
  for (const edit of [() => {}, () => {}, () => text.insert(9, "new"), () => text.delete(20, 5), () => {}]) {
    edit();
    told.clear();
    const doc = new Y.Doc();
    const other = new Y.Doc();
    other.getText("t").insert(0, "a");
    const alone = Y.encodeStateAsUpdate(other);
    const binding = bindDoc(storage, "doc", doc, { onDurable });
    const whole = Y.encodeStateAsUpdate(author);
    for (const update of [whole, alone, whole]) Y.applyUpdate(doc, update, "a client");
    await binding.flush();
    expect(binding.pending).toBe(0);
    expect(told.get(author.clientID)).toBe(Y.getState(author.store, author.clientID));
    const stored = (await storage.load<Y.Doc>("doc"))!.doc;
    Y.applyUpdate(author, Y.encodeStateAsUpdate(stored));
    expect(text.toString()).toBe(stored.getText("t").toString());
    sizes.push((await storage.info("doc"))!.logBytes);
    doc.destroy();
  }
  expect(sizes.at(-1)! - sizes[0]!).toBeLessThan(400);
});

test("[DI3] loads where what is stored already comes again from more clients than a call takes arguments", async () => {
  const storage = await open();
  const clients = 150_000;
  // Of each one struct, which is collected.
  const bytes: number[] = [];
  const varint = (value: number) => {
    for (; value > 127; value >>>= 7) bytes.push(128 | (value & 127));
    bytes.push(value);
  };
  varint(clients);
  for (let client = clients; client > 0; client--) {
    for (const value of [1, client, 0, 0, 1]) varint(value);
  }
  varint(0);
  const whole = Uint8Array.from(bytes);
  await storage.append("doc", [whole]);
  const doc = new Y.Doc();
  const told = new Map<number, number>();
  const binding = bindDoc(storage, "doc", doc, {
    onDurable: (durability) => {
      for (const [client, clock] of durability.clients) told.set(client, clock);
    },
  });
  doc.getText("t").insert(0, "new");
  Y.applyUpdate(doc, whole, "a client");
  await binding.flush();
  expect((await storage.load<Y.Doc>("doc"))!.doc.getText("t").toString()).toBe("new");
  expect(told.size).toBe(clients + 1);
});
