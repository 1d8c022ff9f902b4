/** Bringing a document into a store that gives back other bytes than it was given. */

import { type BackendFactory, DocumentStorage, memoryBackend, never } from "coppice";
import { expect, test } from "vitest";
import { nameSet, naming } from "../../../../test/support/oracle-model.js";
import { changed } from "./changed-backend.js";

const open = (backend: BackendFactory, groupBytesMax: number) =>
  DocumentStorage.open({ backend, models: [nameSet()], snapshotPolicy: never, limits: { groupBytesMax } });

type Storage = Awaited<ReturnType<typeof open>>;

/** Of what is put under `b` one byte is another, in one value of this space. */
function spoiling(it: { readonly space?: string }): BackendFactory {
  return changed(memoryBackend(), (opened) => ({
    commit: (batch) => {
      const at = batch.put?.findLastIndex(({ key }) => key[0] === it.space && key[1] === "b") ?? -1;
      const put = batch.put?.map((entry, index) =>
        index === at
          ? { ...entry, value: entry.value.map((byte, i) => (i === 20 ? byte ^ 1 : byte)) }
          : entry,
      );
      return opened.commit(put === undefined ? batch : { ...batch, put });
    },
  }));
}

/** Three batches, and a snapshot of them. */
async function write(storage: Storage, id: string): Promise<void> {
  for (const name of ["x", "y", "z"]) await storage.append(id, [naming(name)]);
  await (await storage.load(id))!.snapshot();
}

const ways: Readonly<Record<string, (storage: Storage, begin: () => void) => Promise<unknown>>> = {
  "a fork": async (storage, begin) => {
    begin();
    await write(storage, "a");
    await storage.fork("a", "b");
  },
  "an import": async (storage, begin) => {
    begin();
    const from = await open(memoryBackend(), 4096);
    await write(from, "b");
    await storage.import(from.export("b"));
  },
  "a copy": async (storage, begin) => {
    begin();
    const from = await open(memoryBackend(), 4096);
    await write(from, "b");
    const { failures } = await from.copyTo(storage);
    if (failures.length > 0) throw failures[0]!.error;
  },
  "a copy of what is new": async (storage, begin) => {
    const from = await open(memoryBackend(), 4096);
    await from.append("b", [naming("w")]);
    await from.copyTo(storage);
    begin();
    await write(from, "b");
    const { failures } = await from.copyTo(storage);
    if (failures.length > 0) throw failures[0]!.error;
  },
};

for (const [what, bring] of Object.entries(ways)) {
  test(`[MV56] what ${what} has written is read back, and CORRUPT where it is something else`, async () => {
    for (const space of ["events", "snapshot"]) {
      for (const groupBytesMax of [1, 1024 * 1024]) {
        const it: { space?: string } = {};
        const sound = await open(spoiling(it), groupBytesMax);
        await bring(sound, () => undefined);
        expect((await sound.check()).problems).toEqual([]);
        const storage = await open(spoiling(it), groupBytesMax);
        const begin = () => {
          it.space = space;
        };
        await expect(bring(storage, begin), `${space}, ${groupBytesMax}`).rejects.toMatchObject({
          code: "CORRUPT",
        });
        // Small ones go in with one commit, and are damaged then.
        if (groupBytesMax === 1 && !what.endsWith("new")) expect(await storage.load("b")).toBe(undefined);
      }
    }
  });
}
