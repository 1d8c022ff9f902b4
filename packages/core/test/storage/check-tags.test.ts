/** Damage to the tags of a document: found, never shown, repaired at the cost of that tag alone. */

import { type Backend, isCoppiceError, type Key, memoryBackend } from "coppice";
import { type SimulatedBackend, simulatedBackend } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { tagsKey } from "../../src/storage/tag-index.js";
import { changed } from "./changed-backend.js";
import { check, codes, newer, repair, repairsTo, stays } from "./check-tools.js";
import {
  event,
  type GrowSet,
  ID,
  keysIn,
  openStorage,
  type Storage,
  using,
  valueAt,
} from "./check-workload.js";

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

describe("a log that ends before a tag", () => {
  const LAST = ["events", ID, 2] as const;
  const losses: Readonly<Record<string, (backend: SimulatedBackend) => void>> = {
    missing: (backend) => backend.deleteRaw([...LAST]),
    damaged: (backend) => backend.flip([...LAST], 30),
    "cut to nothing": (backend) => backend.truncate([...LAST], 0),
  };

  /** `at`: the clock of the tag; the last batch has the events with the clocks 2 and 3. */
  async function tagged(at: number): Promise<SimulatedBackend> {
    const backend = simulatedBackend();
    await using(backend, async (storage) => {
      await storage.append(ID, [event("a"), event("b", ["a"])]);
      await storage.append(ID, [event("c", ["b"]), event("d", ["c"])]);
      await storage.tag(ID, "release", at);
    });
    return backend;
  }

  for (const [name, lose] of Object.entries(losses)) {
    test(`[CK22] is CORRUPT where its last batch is ${name}, and takes the clocks of the tag when it is repaired`, async () => {
      for (const [at, items] of [
        [3, "a,b,c"],
        [4, "a,b,c,d"],
      ] as const) {
        const backend = await tagged(at);
        lose(backend);
        const version = `${at} ${items} `;
        await using(backend, async (storage) => {
          const corrupt = { code: "CORRUPT" };
          await expect(storage.load(ID)).rejects.toMatchObject(corrupt);
          await expect(storage.append(ID, [event("z", ["b"])])).rejects.toMatchObject(corrupt);
          await expect(storage.compact(ID)).rejects.toMatchObject(corrupt);
          await expect(storage.export(ID)[Symbol.asyncIterator]().next()).rejects.toMatchObject(corrupt);
          await using(simulatedBackend(), async (target) => {
            expect((await storage.copyTo(target)).failures).toMatchObject([{ id: ID, error: corrupt }]);
            expect(await target.info(ID)).toBe(undefined);
          });
          await expect(storage.load(ID, { at: new Date(8e15) })).rejects.toMatchObject(corrupt);
          const reading = async () => {
            for await (const _event of storage.read(ID));
          };
          await expect(reading()).rejects.toMatchObject(corrupt);
          // It may be all that has these events.
          await expect(storage.untag(ID, "release")).rejects.toMatchObject(corrupt);
          if (at === 4) await expect(storage.load(ID, { at: 3 })).rejects.toMatchObject(corrupt);
          expect(await shown(storage, "release")).toBe(version);
        });
        // A damaged batch still says where it ended.
        const lost = name === "damaged" ? 2 : at - 2;
        await repairsTo(backend, name === "missing" ? "tail-missing" : "batch-damaged", lost);
        await using(backend, async (storage) => {
          const { clock } = (await storage.info(ID))!;
          expect(clock).toBeGreaterThanOrEqual(at);
          expect((await storage.append(ID, [event("z", ["b"])])).clock).toBe(clock + 1);
          expect(await shown(storage)).toMatch(/^\d a,b,z /);
          expect(await shown(storage, "release")).toBe(version);
          const handle = await storage.load<GrowSet>(ID, { at: clock + 1 });
          expect(handle!.doc.items.has("z")).toBe(true);
          await using(simulatedBackend(), async (target) => {
            expect((await storage.copyTo(target)).failures).toEqual([]);
            expect(await shown(target, "release")).toBe(version);
          });
        });
      }
    });
  }

  test("[CK22] is whole while others append and tag", async () => {
    const backend = memoryBackend({ shared: true });
    const [writer, reader] = [await openStorage(backend), await openStorage(backend)];
    let ended = false;
    const written = (async () => {
      for (let n = 0; n < 40; n++) {
        await writer.append(ID, [event(`e${n}`)]);
        await writer.tag(ID, `t${n}`);
      }
      ended = true;
    })();
    let reads = 0;
    while (!ended) {
      await reader.load(ID);
      await reader.info(ID);
      for await (const _bytes of reader.export(ID)) reads++;
      // Reads of memory alone would let nobody else come.
      await new Promise((resolve) => setImmediate(resolve));
    }
    await written;
    expect(reads).toBeGreaterThan(3);
    await Promise.all([writer.close(), reader.close()]);
  });
});

describe("beside others who tag and untag, a check", () => {
  /** A storage whose backend runs something once before it reads in this space for the nth time. */
  async function hooked(space: string) {
    const it: { left: number; run: (() => Promise<unknown>) | undefined } = { left: 0, run: undefined };
    let raw!: Backend;
    const backend = changed(memoryBackend({ shared: true }), (opened) => {
      raw = opened;
      const before = async (read: string) => {
        const { run } = it;
        if (read !== space || run === undefined || it.left-- > 0) return;
        it.run = undefined;
        await run();
      };
      return {
        traits: { ...opened.traits, exclusive: true },
        get: (key) => before(key[0]).then(() => opened.get(key)),
        async *scan(range, options) {
          await before(range.space);
          yield* opened.scan(range, options);
        },
      };
    });
    return { it, raw: () => raw, storage: await openStorage(backend) };
  }

  test("[CK16] takes a tag that is added while it reads for no proof of missing batches", async () => {
    const { it, storage } = await hooked("tags");
    await storage.append(ID, [event("a")]);
    for (let at = 0; at < 5; at++) {
      it.left = at;
      it.run = async () => {
        await storage.append(ID, [event(`b${at}`)]);
        await storage.tag(ID, `t${at}`);
      };
      expect((await storage.check()).problems, `before read ${at}`).toEqual([]);
      it.run = undefined;
    }
    await storage.close();
  });

  test("[CK16] finds nothing wrong with tags that are forgotten meanwhile", async () => {
    const { it, storage } = await hooked("tagged");
    for (let at = 0; at < 8; at++) {
      for (const name of ["one", "two"]) {
        await storage.append(ID, [event(`${name}${at}`)]);
        await storage.tag(ID, name);
      }
      it.left = at;
      let untagged: Promise<boolean> | undefined;
      it.run = async () => {
        untagged = storage.untag(ID, "one");
        // Where the check has the document to itself, it ends after that.
        await Promise.race([untagged, new Promise((resolve) => setTimeout(resolve, 50))]);
      };
      expect((await storage.check()).problems, `before read ${at}`).toEqual([]);
      it.run = undefined;
      await (untagged ?? storage.untag(ID, "one"));
      await storage.untag(ID, "two");
    }
    await storage.close();
  });

  test("[CK16] a repair puts nothing lost over what others append behind a last batch that is damaged", async () => {
    for (let at = 0; at < 6; at++) {
      const { it, raw, storage } = await hooked("tags");
      for (const name of ["a", "b", "c"]) await storage.append(ID, [event(name)]);
      await storage.tag(ID, "first");
      const key = ["events", ID, 2] as const;
      const value = (await raw().get(key))!.slice();
      value[value.length - 6]! ^= 1;
      await raw().commit({ put: [{ key, value }] });
      it.left = at;
      it.run = async () => {
        for (const name of ["d", "e", "f"]) await storage.append(ID, [event(name)]);
        await storage.tag(ID, "second", 6);
      };
      const { problems } = await storage.check({ repair: true });
      expect(
        problems.map(({ code }) => code),
        `before read ${at}`,
      ).not.toContain("log-overlap");
      expect((await storage.check({ repair: true })).problems, `before read ${at}`).toEqual([]);
      const clocks: number[] = [];
      for await (const { clock } of storage.read(ID)) clocks.push(clock);
      expect(clocks.slice(-3), `before read ${at}`).toEqual([3, 4, 5]);
      await storage.close();
    }
  });
});
