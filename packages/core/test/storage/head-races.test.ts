// What was read of a document before a call changed it answers nobody after that call has resolved.

import { type BackendFactory, CoppiceError, DocumentStorage, memoryBackend, never } from "coppice";
import { expect, test } from "vitest";
import { nameSet, naming } from "../../../../test/support/oracle-model.js";
import { changed } from "./changed-backend.js";

const models = [nameSet()] as const;
type Storage = DocumentStorage<typeof models>;
const open = (backend: BackendFactory, limits = {}): Promise<Storage> =>
  DocumentStorage.open({ backend, models, snapshotPolicy: never, limits });

/** A place where somebody waits, once it is armed, until he is let through. */
class Gate {
  #armed = false;
  #arrived!: () => void;
  #open!: () => void;
  arrived!: Promise<void>;
  #opened!: Promise<void>;

  arm(): void {
    this.#armed = true;
    this.arrived = new Promise((resolve) => {
      this.#arrived = resolve;
    });
    this.#opened = new Promise((resolve) => {
      this.#open = resolve;
    });
  }

  async pass(): Promise<void> {
    if (!this.#armed) return;
    this.#armed = false;
    this.#arrived();
    await this.#opened;
  }

  open(): void {
    this.#open();
  }
}

/** What three appends one after the other, and `info` and a load after each, say of a document. */
async function appended(storage: Storage, id: string, from: number): Promise<void> {
  for (let clock = from + 1; clock <= from + 3; clock++) {
    expect(await storage.append(id, [naming(`later ${clock}`)])).toMatchObject({ clock });
    expect(await storage.info(id)).toMatchObject({ clock });
    expect((await storage.load(id))!.clock).toBe(clock);
  }
}

for (const used of [false, true]) {
  const what = used ? "an id that was used before" : "an unused id";
  test(`[ST80] a head of ${what} that an append read while a fork to it committed is not kept`, async () => {
    const inner = memoryBackend();
    const before = await open(inner);
    await before.append("source", [naming("a")]);
    if (used) {
      await before.append("fork", [naming("earlier")]);
      await before.delete("fork");
    }
    await before.close();
    const slow = new Gate();
    const storage = await open(
      changed(inner, (opened) => ({
        get: async (key) => {
          const value = await opened.get(key);
          if (key[0] === "meta" && key[1] === "fork") await slow.pass();
          return value;
        },
      })),
    );
    slow.arm();
    const early = storage.append("fork", [naming("early")]).catch((error: unknown) => error);
    await slow.arrived;
    const { clock } = (await storage.fork("source", "fork", { recreate: true }))!;
    const late = storage.append("fork", [naming("late")]);
    slow.open();
    await early;
    expect((await late).clock).toBe(clock + 2);
    await appended(storage, "fork", clock + 2);
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });
}

test("[ST80] an import whose document falls out of the heads that are kept is known all the same", async () => {
  const storage = await open(memoryBackend(), { headsMax: 2, groupOperationsMax: 1 });
  for (let n = 0; n < 6; n++) await storage.append("source", [naming(`${n}`)]);
  const chunks: Uint8Array[] = [];
  for await (const chunk of storage.export("source")) chunks.push(chunk);
  const bytes = Buffer.concat(chunks);
  const refused: unknown[] = [];
  async function* stream() {
    for (let at = 0; at < bytes.length; at += 20) {
      yield bytes.subarray(at, at + 20);
      for (const id of ["a", "b", "c"]) await storage.append(id, [naming("x")]);
      refused.push(await storage.append("import", [naming("x")]).catch(({ code }) => code));
    }
  }
  // So that there is a claim before the first that is refused.
  await storage.fork("source", "import");
  await storage.delete("import");
  const { clock } = await storage.import(stream(), { id: "import", recreate: true });
  expect(refused).toContain("BUSY");
  await appended(storage, "import", clock);
  await storage.close();
});

test("[ST80] an info that began while a deletion committed does not keep the document", async () => {
  const [burying, slow] = [new Gate(), new Gate()];
  const storage = await open(
    changed(memoryBackend(), (opened) => ({
      commit: async (batch) => {
        await burying.pass();
        return opened.commit(batch);
      },
      scan: async function* (range, options) {
        const pages = [];
        for await (const page of opened.scan(range, options)) pages.push(page);
        if (range.space === "events" && options?.reverse) await slow.pass();
        yield* pages;
      },
    })),
  );
  await storage.append("d", [naming("a")]);
  burying.arm();
  const deleted = storage.delete("d");
  await burying.arrived;
  slow.arm();
  const beside = storage.info("d");
  await Promise.race([beside, slow.arrived]);
  burying.open();
  expect(await deleted).toBe(true);
  slow.open();
  await beside;
  expect(await storage.info("d")).toBe(undefined);
  await storage.close();
});

test("[ST80] a compaction while a lost reply is settled is known when that has ended", async () => {
  const settling = new Gate();
  let lost = false;
  const storage = await open(
    changed(memoryBackend(), (opened) => ({
      commit: async (batch) => {
        await opened.commit(batch);
        if (!lost) return;
        lost = false;
        throw new CoppiceError("OUTCOME_UNKNOWN", "the reply was lost");
      },
      get: async (key) => {
        if (key[0] === "events") await settling.pass();
        return opened.get(key);
      },
    })),
  );
  for (const name of ["a", "b", "c"]) await storage.append("d", [naming(name)]);
  lost = true;
  settling.arm();
  const append = storage.append("d", [naming("d")]);
  await settling.arrived;
  expect(await storage.compact("d")).toMatchObject({ outcome: "compacted", clock: 4 });
  settling.open();
  expect(await append).toMatchObject({ clock: 4 });
  expect(await storage.info("d")).toMatchObject({ snapshotClock: 4 });
  await storage.close();
});

for (const end of ["delete", "erase"] as const) {
  test(`[MV3] an import beside ${end} of its id is told so, and not that the store is damaged`, async () => {
    let remove: (() => Promise<unknown>) | undefined;
    const backend = changed(memoryBackend(), (opened) => ({
      scan: async function* (range, options) {
        // The lander reads back what it has staged.
        const back = "id" in range && range.id === "new" && range.space === "events" && !options?.reverse;
        const removal = remove;
        if (back && options?.values !== false && options?.limit === undefined && removal !== undefined) {
          remove = undefined;
          await removal();
        }
        yield* opened.scan(range, options);
      },
    }));
    const storage = await open(backend, { groupOperationsMax: 2 });
    for (let n = 0; n < 10; n++) await storage.append("source", [naming(`${n}`)]);
    remove = () => storage[end]("new");
    const told = expect.objectContaining({ code: expect.stringMatching(/^(BUSY|DELETED)$/) });
    await expect(storage.import(storage.export("source"), { id: "new" })).rejects.toEqual(told);
    expect(remove).toBe(undefined);
    expect(await storage.load("new")).toBe(undefined);
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });
}

test("[ST80] a repair that fails has forgotten what it changed before", async () => {
  const refused = new CoppiceError("UNAVAILABLE", "for now");
  let commits = Number.POSITIVE_INFINITY;
  let unreadable = false;
  const storage = await open(
    changed(memoryBackend(), (opened) => ({
      commit: async (batch) => {
        if (commits-- <= 0) throw refused;
        return opened.commit(batch);
      },
      scan: (range, options) => {
        if (unreadable && "id" in range && range.id === "b") throw refused;
        return opened.scan(range, options);
      },
    })),
    { groupOperationsMax: 1 },
  );
  for (const name of ["x", "y", "z"]) await storage.append("b", [naming(name)]);
  // The claim and one slice; what was staged cannot be removed either.
  commits = 2;
  await expect(storage.fork("b", "a")).rejects.toBe(refused);
  commits = Number.POSITIVE_INFINITY;
  await expect(storage.append("a", [naming("x")])).rejects.toEqual(expect.objectContaining({ code: "BUSY" }));
  unreadable = true;
  await expect(storage.check({ repair: true })).rejects.toBe(refused);
  unreadable = false;
  expect(await storage.append("a", [naming("x")])).toMatchObject({ clock: 1 });
  await storage.close();
});
