// Copies beside what removes, recreates or brings in documents at their source: what was removed there stays removed
// in the target, and no later copy is kept out.

import { type BackendFactory, DocumentStorage, memoryBackend, never } from "coppice";
import { expect, test } from "vitest";
import { type NameSet, nameSet, naming } from "../../../../test/support/oracle-model.js";
import { changed } from "./changed-backend.js";
import { clean } from "./copy-tools.js";

const models = [nameSet()] as const;
type Storage = DocumentStorage<typeof models>;

const open = (backend: BackendFactory): Promise<Storage> =>
  DocumentStorage.open({ backend, models, snapshotPolicy: never, limits: { groupBytesMax: 1 } });

/** The backend, with a task that runs once, just before the erased records or a batch of `d` are read. */
function interrupted(
  inner: BackendFactory,
  task: () => Promise<unknown>,
  before: "erased" | "batch" = "erased",
): BackendFactory {
  let done = false;
  return changed(inner, (backend) => ({
    async get(key) {
      if (before === "batch" && key[0] === "events" && key[1] === "d" && !done) {
        done = true;
        await task();
      }
      return backend.get(key);
    },
    async *scan(range, options) {
      if (before === "erased" && range.space === "erased" && options?.limit === undefined && !done) {
        done = true;
        await task();
      }
      yield* backend.scan(range, options);
    },
  }));
}

async function namesIn(storage: Storage, id: string): Promise<string[] | undefined> {
  const handle = await storage.load<NameSet>(id);
  return handle && [...handle.doc.names.keys()];
}

for (const where of ["source", "target"] as const) {
  for (const before of ["a tombstone", "a document"]) {
    test(`[MV31] an erasure beside ${before} in the target keeps no later one out, made in the ${where}`, async () => {
      const inner = memoryBackend({ shared: true });
      const beside = await open(inner);
      for (const id of ["d", "other"]) for (const name of ["a", "b"]) await beside.append(id, [naming(name)]);
      if (before === "a tombstone") await beside.delete("d");
      await beside.erase("other", { reclaim: false });
      const from = await open(interrupted(inner, () => beside.erase("d", { reclaim: false })));
      const to = await open(memoryBackend());
      expect(await from.copyTo(to)).toMatchObject({ failures: [], erased: 0 });
      if (where === "source") {
        await beside.open("d", { recreate: true });
        expect((await beside.append("d", [naming("later")])).clock).toBe(3);
        expect(await from.copyTo(to)).toMatchObject({ failures: [], copied: 1 });
      } else {
        await to.delete("d");
        await to.open("d", { recreate: true });
        expect((await to.append("d", [naming("later")])).clock).toBe(3);
      }
      expect(await namesIn(to, "d")).toEqual(["later"]);
      await clean(from, beside, to);
    });
  }
}

for (const what of ["trimmed", "deleted", "recreated"] as const) {
  test(`[MV34] a document that is ${what} while the copy looks where to go on is copied, not taken for another`, async () => {
    const inner = memoryBackend({ shared: true });
    const [beside, to] = [await open(inner), await open(memoryBackend())];
    for (const name of ["a", "b"]) await beside.append("d", [naming(name)]);
    await beside.copyTo(to);
    await beside.append("d", [naming("c")]);
    const change = async () => {
      if (what !== "trimmed") await beside.delete("d");
      if (what === "recreated") await beside.open("d", { recreate: true });
      for (const name of what === "deleted" ? [] : ["e", "f", "g"]) {
        await beside.append("d", [naming(name)]);
        await beside.compact("d");
      }
    };
    const from = await open(interrupted(inner, change, "batch"));
    expect((await from.copyTo(to)).failures).toEqual([]);
    expect(await namesIn(to, "d")).toEqual(await namesIn(beside, "d"));
    await clean(from, beside, to);
  });
}

test("[MV31] two copies to one target at once carry all removals, and fail by none", async () => {
  const from = await open(memoryBackend());
  const to = await open(memoryBackend());
  for (let index = 0; index < 6; index++) {
    await from.append(`e${index}`, [naming("a")]);
    if (index % 2 === 0) await from.erase(`e${index}`, { reclaim: false });
  }
  const results = await Promise.all([from.copyTo(to), from.copyTo(to), from.copyTo(to)]);
  expect(results.map(({ copied, failures }) => [copied, failures.length])).toEqual([
    [3, 0],
    [0, 0],
    [0, 0],
  ]);
  await expect(to.append("e0", [naming("b")])).rejects.toMatchObject({ code: "DELETED" });
  await clean(from, to);
});

for (const end of ["delete", "erase"] as const) {
  test(`[MV31] ${end} is carried also while another document is being brought in under the id`, async () => {
    const inner = memoryBackend({ shared: true });
    const [from, beside, to] = [await open(inner), await open(inner), await open(memoryBackend())];
    for (const id of ["d", "original"]) {
      for (const name of ["a", "b", "c"]) await from.append(id, [naming(`${id} ${name}`)]);
    }
    await from.copyTo(to);
    await from[end]("d");
    const chunks: Uint8Array[] = [];
    for await (const chunk of from.export("original")) chunks.push(chunk);
    let goOn: () => void = () => undefined;
    const resumed = new Promise<void>((resolve) => {
      goOn = resolve;
    });
    let staged: () => void = () => undefined;
    const reached = new Promise<void>((resolve) => {
      staged = resolve;
    });
    async function* slowly() {
      for (const [index, byte] of Buffer.concat(chunks).entries()) {
        if (index === Buffer.concat(chunks).length - 8) {
          staged();
          await resumed;
        }
        yield Uint8Array.of(byte);
      }
    }
    const importing = beside.import(slowly(), { id: "d", recreate: true });
    await reached;
    expect(await from.append("d", [naming("x")]).catch((error: unknown) => error)).toMatchObject({
      code: "BUSY",
    });
    expect(await from.copyTo(to)).toMatchObject({ failures: [], deleted: 1 - Number(end === "erase") });
    expect(await namesIn(to, "d")).toBe(undefined);
    goOn();
    expect(await importing).toMatchObject({ outcome: "imported", clock: 6 });
    expect(await from.copyTo(to)).toMatchObject({ failures: [], copied: 1 });
    expect(await namesIn(to, "d")).toEqual(["original a", "original b", "original c"]);
    await clean(from, beside, to);
  });
}

test("[MV11] an erasure keeps the clock of one that was carried there beside the document", async () => {
  const inner = memoryBackend({ shared: true });
  const to = await open(memoryBackend());
  const from = await open(interrupted(inner, () => to.append("d", [naming("x")])));
  for (const name of "abcde") await from.append("d", [naming(name)]);
  await from.erase("d", { reclaim: false });
  expect(await from.copyTo(to)).toMatchObject({ failures: [], erased: 0 });
  await to.append("d", [naming("y")]);
  await to.erase("d", { reclaim: false });
  await to.open("d", { recreate: true });
  expect((await to.append("d", [naming("z")])).clock).toBe(6);
  await clean(from, to);
});

test("[ST3] a state of a document that a copy has replaced since is another one", async () => {
  const [from, to] = [await open(memoryBackend()), await open(memoryBackend())];
  for (const name of ["a", "b"]) await from.append("d", [naming(name)]);
  await from.copyTo(to);
  const { token } = await to.append("d", [naming("c")]);
  await from.append("d", [naming("other")]);
  expect(await from.copyTo(to, { replace: true })).toMatchObject({ failures: [], copied: 1 });
  expect((await to.info("d"))!.clock).toBe(3);
  await expect(to.append("d", [naming("e")], { expected: token })).rejects.toMatchObject({
    code: "HEAD_CONFLICT",
  });
  await clean(from, to);
});

test("[MV36] a copy that waits for another one to its target ends as soon as it is aborted, and lets nobody past", async () => {
  let release: () => void = () => undefined;
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  let begun: () => void = () => undefined;
  const reading = new Promise<void>((resolve) => {
    begun = resolve;
  });
  const from = await open(
    interrupted(memoryBackend(), () => {
      begun();
      return held;
    }),
  );
  const to = await open(memoryBackend());
  await from.append("d", [naming("a")]);
  await from.append("gone", [naming("b")]);
  await from.erase("gone", { reclaim: false });
  const first = from.copyTo(to);
  await reading;
  const stop = new AbortController();
  const second = from.copyTo(to, { signal: stop.signal });
  const third = from.copyTo(to);
  let thirdEnded = false;
  void third.then(() => {
    thirdEnded = true;
  });
  const reason = new Error("not needed any more");
  stop.abort(reason);
  await expect(second).rejects.toBe(reason);
  await expect(from.copyTo(to, { signal: stop.signal })).rejects.toBe(reason);
  await new Promise((resolve) => setTimeout(resolve, 10));
  expect(thirdEnded).toBe(false);
  release();
  expect(await first).toMatchObject({ copied: 1, stopped: undefined });
  expect(await third).toMatchObject({ unchanged: 1, stopped: undefined });
  // With nobody before it, a copy that was aborted says that it stopped.
  expect(await from.copyTo(to, { signal: stop.signal })).toMatchObject({ seen: 0, stopped: "signal" });
  await clean(from, to);
});

test("[MV32] whoever goes on in the target, or deletes there, just when a copy has arrived is no damage", async () => {
  for (const what of ["append", "append and compact", "delete"] as const) {
    let go: (() => Promise<unknown>) | undefined;
    const inner = memoryBackend({ shared: true });
    const beside = await open(inner);
    const to = await open(
      changed(inner, (backend) => ({
        async commit(batch) {
          await backend.commit(batch);
          const [task, isFlip] = [go, batch.put?.some(({ key: [space] }) => space === "meta")];
          if (task === undefined || !isFlip) return;
          go = undefined;
          await task();
        },
      })),
    );
    const from = await open(memoryBackend());
    await from.append("d", [naming("a")]);
    await from.copyTo(to);
    await from.append("d", [naming("b")]);
    await from.compact("d");
    go = async () => {
      if (what === "delete") return beside.delete("d");
      await beside.append("d", [naming("mine")]);
      if (what !== "append") await beside.compact("d");
    };
    expect((await from.copyTo(to)).failures, what).toEqual([]);
    expect(go).toBeUndefined();
    expect(await namesIn(to, "d")).toEqual(what === "delete" ? undefined : ["a", "b", "mine"]);
    await clean(from, to, beside);
  }
});
