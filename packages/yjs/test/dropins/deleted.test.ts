/** A Y.Doc bound to an id that was deleted, or is while it is bound. */
import { DocumentStorage, type Limits, memoryBackend } from "coppice";
import { simulatedBackend } from "coppice/testing";
import { expect, onTestFinished, test } from "vitest";
import * as Y from "yjs";
import { until } from "../../../../test/support/until.js";
import { bindDoc } from "../../src/dropins/index.js";
import { yjs } from "../../src/index.js";

async function open(limits: Partial<Limits> = {}): Promise<DocumentStorage> {
  const storage: DocumentStorage = await DocumentStorage.open({
    backend: memoryBackend(),
    models: [yjs()],
    limits,
  });
  onTestFinished(async () => {
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });
  return storage;
}

class Gate {
  open!: () => void;
  readonly opened = new Promise<void>((resolve) => {
    this.open = resolve;
  });
}

function typed(text: string): Uint8Array[] {
  const doc = new Y.Doc();
  doc.getText("t").insert(0, text);
  return [Y.encodeStateAsUpdate(doc)];
}

async function storedText(storage: DocumentStorage): Promise<string | undefined> {
  const handle = await storage.load<Y.Doc>("doc");
  const text = handle?.doc.getText("t").toString();
  await handle?.close();
  return text;
}

test("[DI9] begins an id anew that was deleted before, and ends when it is deleted meanwhile", async () => {
  const storage = await open();
  await storage.append("doc", typed("old"));
  await storage.delete("doc");
  const doc = new Y.Doc();
  const errors: unknown[] = [];
  const binding = bindDoc(storage, "doc", doc, { onError: (error) => errors.push(error) });
  await binding.loaded;
  doc.getText("t").insert(0, "new");
  await binding.flush();
  expect(await storedText(storage)).toBe("new");
  expect(errors).toEqual([]);

  await storage.delete("doc");
  doc.getText("t").insert(0, "too late");
  await expect(binding.flush()).rejects.toMatchObject({ code: "DELETED" });
  expect(errors).toMatchObject([{ code: "DELETED" }]);
  expect(await storage.load("doc")).toBeUndefined();
});

test("[DI36] with recreate: false nobody brings back what was deleted or erased, and an id never used is taken", async () => {
  const storage = await open();
  const one = new Y.Doc();
  const first = bindDoc(storage, "doc", one, { recreate: false });
  one.getText("t").insert(0, "by hand");
  await first.flush();
  expect(await storedText(storage)).toBe("by hand");
  for (const remove of [() => storage.delete("doc"), () => storage.erase("doc", { reclaim: false })]) {
    await remove();
    const errors: unknown[] = [];
    const options = { recreate: false, onError: (error: unknown) => errors.push(error) };
    // What comes before the load has ended, and what comes after it.
    const late = new Y.Doc();
    Y.applyUpdate(late, Y.encodeStateAsUpdate(one));
    const binding = bindDoc(storage, "doc", late, options);
    await expect(binding.loaded).rejects.toMatchObject({ code: "DELETED", details: { id: "doc" } });
    late.getText("t").insert(0, "later ");
    await expect(binding.flush()).rejects.toMatchObject({ code: "DELETED" });
    expect(errors).toMatchObject([{ code: "DELETED" }]);
    expect(await storage.info("doc")).toBeUndefined();
  }
  // Deleted between the load and the first edit.
  const other = new Y.Doc();
  const binding = bindDoc(storage, "other", other, { recreate: false, onError: () => undefined });
  await binding.loaded;
  await storage.append("other", typed("another's"));
  await storage.delete("other");
  other.getText("t").insert(0, "too late");
  await expect(binding.flush()).rejects.toMatchObject({ code: "DELETED" });
  expect(await storage.info("other")).toBeUndefined();
  expect(await storage.flush()).toBeUndefined();
});

/** An export of `source` that waits before the last byte of each part, and perhaps breaks there. */
async function* heldUp(
  storage: DocumentStorage,
  staged: Gate,
  goOn: Gate,
  breaks = false,
): AsyncGenerator<Uint8Array> {
  for await (const part of storage.export("source")) {
    yield part.subarray(0, -1);
    staged.open();
    await goOn.opened;
    if (breaks) throw new Error("the stream broke");
    yield part.subarray(-1);
  }
}

for (const [before, end, then] of [
  ["never used", "lands", "brought typed"],
  ["never used", "fails", "typed"],
  ["deleted", "lands", "brought typed"],
  ["deleted", "fails", undefined],
] as const) {
  test(`[DI36] with recreate: false a load waits while a document is brought in under an id that was ${before}, and ${end}`, async () => {
    const storage = await open({ groupBytesMax: 100 });
    await storage.append("source", typed("brought ".padEnd(200, "-")));
    for (let i = 0; i < 10; i++) await storage.append("source", typed("-".repeat(100)));
    if (before === "deleted") {
      await storage.append("doc", typed("old"));
      await storage.delete("doc");
    }
    const [staged, goOn] = [new Gate(), new Gate()];
    const stream = heldUp(storage, staged, goOn, end === "fails");
    const importing = storage.import(stream, { id: "doc", recreate: true }).catch((error: Error) => error);
    await staged.opened;
    const errors: unknown[] = [];
    const onError = (error: unknown) => errors.push(error);
    const doc = new Y.Doc();
    const binding = bindDoc(storage, "doc", doc, { recreate: false, onError, retryMsMax: 50 });
    // Whose ids are random: it stands before what is brought in, or behind.
    doc.getText("t").insert(0, " typed ");
    await until("the load was tried", () => errors.length > 0);
    expect(errors[0]).toMatchObject({ code: "BUSY" });
    goOn.open();
    await importing;
    const flushed = binding.flush();
    await (then === undefined ? expect(flushed).rejects.toMatchObject({ code: "DELETED" }) : flushed);
    const words = (await storedText(storage))?.match(/[a-z]+/g);
    expect(words?.sort().join(" ")).toBe(then);
  });
}

test("[DI1] a load waits while a document is brought in, and shows it, without recreate: false as well", async () => {
  const storage = await open({ groupBytesMax: 100 });
  for (let i = 0; i < 10; i++) await storage.append("source", typed("brought ".padEnd(100, "-")));
  const [staged, goOn] = [new Gate(), new Gate()];
  const importing = storage.import(heldUp(storage, staged, goOn), { id: "doc" });
  await staged.opened;
  const errors: unknown[] = [];
  const doc = new Y.Doc();
  const binding = bindDoc(storage, "doc", doc, { onError: (error) => errors.push(error), retryMsMax: 50 });
  await until("the load was tried", () => errors.length > 0);
  expect(errors[0]).toMatchObject({ code: "BUSY" });
  goOn.open();
  await importing;
  await binding.loaded;
  expect(doc.getText("t").length).toBe(1000);
  doc.getText("t").insert(0, "typed");
  await binding.flush();
  expect(await storedText(storage)).toBe(doc.getText("t").toString());
});

for (const recreate of [true, false]) {
  test(`[DI2] stores on where a copy has taken an interrupted one over before it had a document, with recreate: ${recreate}`, async () => {
    const limits = { groupBytesMax: 100 };
    const from = await open(limits);
    for (let i = 0; i < 10; i++) await from.append("doc", typed("-".repeat(100)));
    const backend = simulatedBackend();
    const options = { backend, models: [yjs()], limits };
    const died: DocumentStorage = await DocumentStorage.open(options);
    backend.crashAt(backend.operationCount + 12);
    expect(await backend.untilCrash(async () => void (await from.copyTo(died)))).toBe(true);
    backend.heal();
    const storage: DocumentStorage = await DocumentStorage.open(options);
    const codes: unknown[] = [];
    const onError = (error: unknown) => codes.push((error as { code?: string }).code);
    const doc = new Y.Doc();
    const binding = bindDoc(storage, "doc", doc, { recreate, onError, retryMsMax: 50 });
    doc.getText("t").insert(0, "one");
    await until("it was tried", () => codes.length > 0);
    expect(await from.copyTo(storage, { replace: true })).toMatchObject({ copied: 1, failures: [] });
    await binding.flush();
    doc.getText("t").insert(0, "two ");
    await binding.flush();
    expect(new Set(codes)).toEqual(new Set(["BUSY"]));
    // Their ids are random: what was typed stands somewhere between.
    const stored = (await storedText(storage))!;
    expect([stored.match(/-/g)?.length, stored.match(/[a-z]+/g)?.sort()]).toEqual([1000, ["one", "two"]]);
    await storage.close();
  });
}

test("[DI9] ends as well when its id begins anew meanwhile, and leaves the new document alone", async () => {
  for (const edited of [true, false]) {
    const storage = await open();
    const doc = new Y.Doc();
    const errors: unknown[] = [];
    const binding = bindDoc(storage, "doc", doc, { onError: (error) => errors.push(error) });
    if (edited) doc.getText("t").insert(0, "old");
    else await storage.append("doc", typed("stored "));
    await binding.flush();
    await storage.delete("doc");
    const next = await storage.open<Y.Doc>("doc", { recreate: true });
    next.change((it) => it.getText("t").insert(0, "another"));
    await next.save();
    doc.getText("t").insert(0, "too late");
    const flushed = binding.flush();
    await (edited ? expect(flushed).rejects.toMatchObject({ code: "DELETED" }) : flushed);
    expect(errors).toMatchObject(edited ? [{ code: "DELETED" }] : []);
    expect((await storage.check()).problems).toEqual([]);
    expect(await storedText(storage)).toContain("another");
    await next.close();
  }
});
