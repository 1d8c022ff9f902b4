// Removing an id while somebody else stages records under it: nothing may be staged behind the removal.

import { type BackendFactory, DocumentStorage, memoryBackend, never } from "coppice";
import { simulatedEnv } from "coppice/testing";
import { expect, test } from "vitest";
import { type NameSet, nameSet, naming } from "../../../../test/support/oracle-model.js";
import { changed } from "./changed-backend.js";

const models = [nameSet()] as const;
type Storage = DocumentStorage<typeof models>;

const code = (expected: string) => expect.objectContaining({ code: expected });

/** Something that happens once, and can be waited for. */
class Signal {
  readonly given: Promise<void>;
  give!: () => void;

  constructor() {
    this.given = new Promise((resolve) => {
      this.give = resolve;
    });
  }
}

const open = (backend: BackendFactory, history: "archive" | "drop" = "drop"): Promise<Storage> =>
  DocumentStorage.open({ backend, models, snapshotPolicy: never, history, limits: { groupBytesMax: 200 } });

const SPACES = ["meta", "events", "snapshot", "held", "tags", "tagged", "archive", "quarantine"];

async function keysOf(backend: BackendFactory, id: string): Promise<string[]> {
  const opened = await backend.open(simulatedEnv(1));
  const keys: string[] = [];
  for (const space of SPACES) {
    for await (const page of opened.scan({ space, id })) keys.push(...page.map(({ key }) => key.join("/")));
  }
  await opened.close();
  return keys;
}

/** A fork of `d` to `e` that waits between two slices, and goes on when told. */
async function staging(recreated: boolean) {
  const inner = memoryBackend({ shared: true });
  const [reached, resume, settled] = [new Signal(), new Signal(), new Signal()];
  let removing = false;
  let armed = false;
  const backend = changed(inner, (opened) => ({
    scan: async function* (range, options) {
      const named = "id" in range ? range.id : undefined;
      if (removing && named === "e" && range.space === "archive") {
        // The wipe has passed the events: now the lander gets to its next slice.
        resume.give();
        await settled.given;
      }
      let entries = 0;
      for await (const page of opened.scan(range, options)) {
        const image = armed && named === "d" && range.space === "events" && !options?.reverse;
        for (const entry of image && options?.limit === undefined ? page : []) {
          if (entries++ === 6) {
            reached.give();
            await resume.given;
          }
          yield [entry];
        }
        if (!image || options?.limit !== undefined) yield page;
      }
    },
    commit: async (batch) => {
      const late = batch.put?.some(({ key }) => key[0] === "events" && key[1] === "e" && key[2]! >= 4);
      await opened.commit(batch).finally(() => late && removing && settled.give());
    },
  }));
  const storage = await open(backend);
  for (let index = 0; index < 30; index++) await storage.append("d", [naming(`secret ${index}`)]);
  if (recreated) {
    await storage.append("e", [naming("earlier")]);
    await storage.delete("e");
  }
  armed = true;
  const fork = storage.fork("d", "e", { recreate: recreated }).then(
    () => "done",
    (error: unknown) => error,
  );
  await reached.given;
  armed = false;
  const remove = () => {
    removing = true;
  };
  return { inner, storage, fork, remove, resume };
}

for (const recreated of [false, true]) {
  for (const end of ["erase", "delete"] as const) {
    const id = recreated ? "an id that was deleted" : "an unused id";
    test(`[MV10] nothing is left of what a fork to ${id} stages beside its ${end}`, async () => {
      const { inner, storage, fork, remove } = await staging(recreated);
      expect((await keysOf(inner, "e")).length).toBeGreaterThan(2);
      remove();
      await storage[end]("e");
      expect(await fork).toEqual(code("BUSY"));
      const left = recreated && end === "delete" ? ["meta/e"] : [];
      expect(await keysOf(inner, "e")).toEqual(left);
      expect((await storage.check({ repair: true })).problems).toEqual([]);
      expect(await storage.load("e")).toBe(undefined);
      const append = storage.append("e", [naming("new")]);
      if (recreated) await expect(append).rejects.toEqual(code("DELETED"));
      else expect(await append).toMatchObject({ clock: 1 });
      await storage.close();
    });
  }
}

test("[MV5] however many remove what a fork stages, all of them end, and the fork is told", async () => {
  for (const recreated of [false, true]) {
    const { inner, storage, fork, resume } = await staging(recreated);
    const other = await open(inner);
    const removals = [storage, other].flatMap((one) => [one.erase("e"), one.delete("e"), one.erase("e")]);
    await Promise.all(removals);
    resume.give();
    expect(await fork).toEqual(expect.objectContaining({ code: expect.stringMatching(/^(BUSY|DELETED)$/) }));
    expect(await keysOf(inner, "e")).toEqual([]);
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
    await other.close();
  }
});

for (const space of ["events", "snapshot"]) {
  test(`[MV3] no document is brought in over ${space} whose meta is missing`, async () => {
    const backend = memoryBackend({ shared: true });
    const storage = await open(backend);
    await storage.append("d", [naming("kept")]);
    await storage.append("other", [naming("another")]);
    await (await storage.load("d"))!.snapshot();
    const raw = await backend.open(simulatedEnv(1));
    const gone = (await keysOf(backend, "d")).filter((key) => !key.startsWith(space));
    await raw.commit({
      delete: gone.map((key) => key.split("/").map((part, n) => (n < 2 ? part : Number(part))) as never),
    });
    await raw.close();
    await storage.recover();
    const before = await keysOf(backend, "d");
    await expect(storage.fork("other", "d", { recreate: true })).rejects.toEqual(code("CORRUPT"));
    expect(await keysOf(backend, "d")).toEqual(before);
    await storage.check({ repair: true });
    expect([...(await storage.load<NameSet>("d"))!.doc.names.keys()]).toEqual(["kept"]);
    await storage.close();
  });
}

const STAGED = [
  ["compaction", "snapshot", (storage: Storage) => storage.compact("d")],
  ["compaction with an archive", "archive", (storage: Storage) => storage.compact("d")],
  ["tag", "tagged", (storage: Storage) => storage.tag("d", "release")],
  ["snapshot", "snapshot", async (storage: Storage) => (await storage.load("d"))!.snapshot()],
] as const;

for (const [what, space, run] of STAGED) {
  test(`[MV10] nothing is left of what a ${what} of another process stages beside an erasure`, async () => {
    const inner = memoryBackend({ shared: true });
    const [reached, resume] = [new Signal(), new Signal()];
    const slow = changed(inner, (opened) => ({
      commit: async (batch) => {
        const keys = batch.put?.map(({ key }) => key[0]) ?? [];
        if (keys.includes(space) && !keys.includes("meta")) {
          reached.give();
          await resume.given;
        }
        return opened.commit(batch);
      },
    }));
    const history = space === "archive" ? "archive" : "drop";
    const [eraser, other] = [await open(inner, history), await open(slow, history)];
    await eraser.append("d", [naming("first")]);
    if (space === "archive") await eraser.compact("d");
    for (const name of ["second", "third"]) await eraser.append("d", [naming(name)]);
    const staging = run(other).catch((error: unknown) => error);
    await reached.given;
    expect(await eraser.erase("d")).toMatchObject({ existed: true });
    resume.give();
    await staging;
    expect(await keysOf(inner, "d")).toEqual([]);
    expect((await eraser.check({ repair: true })).problems).toEqual([]);
    expect(await eraser.load("d")).toBe(undefined);
    await eraser.close();
    await other.close();
  });
}
