/** Damage to the tags of a document: found, never shown, repaired at the cost of that tag alone. */

import { isCoppiceError, type Key } from "coppice";
import { type SimulatedBackend, simulatedBackend } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { tagsKey } from "../../src/storage/tag-index.js";
import { check, codes, newer, repair, repairsTo, stays } from "./check-tools.js";
import { event, type GrowSet, ID, keysIn, type Storage, using, valueAt } from "./check-workload.js";

const INDEX: Key = tagsKey(ID);

/** Two tags, the later one with a held event; and what they tagged is trimmed. */
async function build(): Promise<SimulatedBackend> {
  const backend = simulatedBackend();
  await using(backend, async (storage) => {
    await storage.append(ID, [event("a", [], "one"), event("b", ["a"])]);
    await storage.tag(ID, "first");
    await storage.append(ID, [event("x", ["nowhere"], "waits")]);
    await storage.tag(ID, "second");
    await storage.append(ID, [event("c", ["b"])]);
    await storage.append(ID, [event("d", ["c"], "four")]);
    await storage.compact(ID);
    await storage.append(ID, [event("e", ["d"])]);
  });
  return backend;
}

async function shown(storage: Storage, at?: string): Promise<string> {
  const handle = await storage.load<GrowSet>(ID, at === undefined ? {} : { at });
  const items = [...handle!.doc.items.keys()].sort().join();
  return `${handle!.clock} ${items} ${handle!.held.map(({ clock }) => clock).join()}`;
}

const NOW = "6 a,b,c,d,e 2";
const FIRST = "2 a,b ";
const SECOND = "3 a,b 2";

async function shownOrCorrupt(storage: Storage, at: string): Promise<string> {
  return shown(storage, at).catch((error: unknown) => {
    if (!isCoppiceError(error)) throw error;
    return error.code;
  });
}

describe("the tags of a document", () => {
  test("[HI20] any damaged byte or cut of a tag is found and never shown, and costs no other tag", async () => {
    const backend = await build();
    const whole = backend.dump();
    expect((await check(backend)).problems).toEqual([]);
    let count = 0;
    const damages = whole
      .filter(({ key }) => key[0] === "tags" || key[0] === "tagged")
      .flatMap(({ key, value }) =>
        Array.from(value, (_, at) => [
          () => backend.flip(key, at, 1 << (at % 8)),
          () => backend.truncate(key, at),
        ]).flat(),
      );
    for (const damage of damages) {
      backend.restore(whole);
      damage();
      await using(backend, async (storage) => {
        expect(await shown(storage)).toBe(NOW);
        expect([FIRST, "CORRUPT"]).toContain(await shownOrCorrupt(storage, "first"));
        expect([SECOND, "CORRUPT"]).toContain(await shownOrCorrupt(storage, "second"));
        expect((await storage.check()).clean).toBe(false);
        if (count++ % 5 !== 0) return;
        expect((await storage.check({ repair: true })).clean).toBe(true);
        const again = await storage.check();
        expect(again).toMatchObject({ problems: [], garbageKeys: 0 });
        expect(again.quarantined).toBeGreaterThan(0);
        const left = [await shownOrCorrupt(storage, "first"), await shownOrCorrupt(storage, "second")];
        expect([
          [FIRST, SECOND],
          ["TAG_UNKNOWN", SECOND],
          [FIRST, "TAG_UNKNOWN"],
        ]).toContainEqual(left);
        expect(await shown(storage)).toBe(NOW);
      });
    }
    expect(count).toBeGreaterThan(800);
  });

  test("[HI20] an index that vanished is found, swept over by nobody, and made again from the snapshots", async () => {
    const backend = await build();
    backend.deleteRaw(INDEX);
    await using(backend, async (storage) => {
      await storage.compact(ID, { force: true });
      expect(codes(await storage.check())).toEqual(["tags-damaged"]);
    });
    expect(await repairsTo(backend, "tags-damaged")).toMatchObject({ key: INDEX });
    await using(backend, async (storage) => {
      expect(await shown(storage, "first")).toBe(FIRST);
      expect(await shown(storage, "second")).toBe(SECOND);
    });
  });

  test("[HI20] a snapshot of a tag that vanished is found, and only that tag is dropped", async () => {
    const backend = await build();
    for (const key of keysIn(backend, "tagged").filter((one) => one[2] === 2)) backend.deleteRaw(key);
    expect(await repairsTo(backend, "tag-damaged")).toMatchObject({ repaired: true });
    await using(backend, async (storage) => {
      expect(await storage.tags(ID)).toMatchObject([{ name: "second", clock: 3 }]);
      expect(await shown(storage, "second")).toBe(SECOND);
    });
  });

  test("[HI21] a held event of a tag that is nowhere else is set aside and named as lost by the tag", async () => {
    const backend = await build();
    backend.flip(["held", ID, 2], 12);
    await repairsTo(backend, "held-damaged", 1);
    await using(backend, async (storage) => {
      const handle = await storage.load<GrowSet>(ID, { at: "second" });
      expect(handle!.held).toMatchObject([{ clock: 2, event: undefined }]);
    });
  });

  test("[HI21] tags of a newer format are left alone", async () => {
    const index = await build();
    index.putRaw(INDEX, newer(INDEX, valueAt(index, INDEX)));
    await stays(index, "format-unsupported");
    const part = await build();
    const [key] = keysIn(part, "tagged");
    part.putRaw(key!, newer(key!, valueAt(part, key!)));
    await stays(part, "format-unsupported");
  });

  test("[HI21] damage to meta and to the index at once brings back every tag that is whole", async () => {
    const backend = await build();
    backend.flip(["meta", ID], 20);
    backend.flip(INDEX, 20);
    expect((await repair(backend)).clean).toBe(true);
    await using(backend, async (storage) => {
      expect(await shown(storage, "first")).toBe(FIRST);
      expect(await shown(storage, "second")).toBe(SECOND);
      expect(await shown(storage)).toBe(NOW);
    });
  });
});
