/** What was erased at the source while its copy was not whole, or before the document began anew there. */

import { type BackendFactory, CoppiceError } from "coppice";
import { type SimulatedBackend, simulatedBackend } from "coppice/testing";
import { expect, test } from "vitest";
import { changed } from "./changed-backend.js";
import { clean, names, open, pair, type Storage, write } from "./copy-tools.js";

const SECRET = "secret";
/** More than goes in one commit. */
const LONG = "abcdefghijklmnopqrst";

/** What of the erased document the target's files still hold, under keys and beside them. */
const leftIn = (target: SimulatedBackend) => ({
  dead: target.residue().filter(({ key }) => key[1] === SECRET).length,
  keys: target.keys().filter(([, id]) => id === SECRET),
});

const NOTHING = { dead: 0, keys: [] };

/** Counts how often the files are rewritten. */
function counting(inner: BackendFactory) {
  const count = { reclaims: 0 };
  const backend = changed(inner, (opened) => ({
    reclaim: async () => {
      count.reclaims++;
      await opened.reclaim();
    },
  }));
  return { count, backend };
}

/** Two stores whose target, which counts, has what damage had set aside of the document in the source. */
async function afterDamage() {
  const [source, target] = [simulatedBackend({ seed: 1 }), simulatedBackend({ seed: 2 })];
  const { count, backend } = counting(target);
  const [from, to] = [await open(source, 1), await open(backend, 2)];
  await write(from, SECRET, "abc");
  source.flip(["events", SECRET, 1], 40);
  expect((await from.check({ repair: true })).quarantined).toBe(1);
  await from.copyTo(to);
  return { from, to, target, count };
}

for (const how of ["is stopped", "finds no room"] as const) {
  test(`[MV48] what a copy had staged when it ${how}, and was then erased, leaves the files`, async () => {
    const [from, target] = [await open(simulatedBackend({ seed: 1 }), 1), simulatedBackend({ seed: 2 })];
    const stop = new AbortController();
    let slices = 0;
    const backend = changed(target, (opened) => ({
      commit: async (batch) => {
        if (batch.put?.some(({ key: [space] }) => space === "events") && ++slices === 2) {
          if (how === "is stopped") stop.abort();
          else throw new CoppiceError("STORE_FULL", "no room");
        }
        await opened.commit(batch);
      },
    }));
    const { count, backend: counted } = counting(backend);
    const to = await open(counted, 2);
    await write(from, SECRET, LONG);
    expect(await from.copyTo(to, { signal: stop.signal })).toMatchObject({ copied: 0 });
    expect(leftIn(target)).toMatchObject({ dead: expect.any(Number), keys: [] });
    expect(leftIn(target).dead).toBeGreaterThan(0);
    await from.erase(SECRET);
    for (let run = 0; run < 2; run++) expect(await from.copyTo(to)).toMatchObject({ failures: [] });
    expect([leftIn(target), count.reclaims]).toEqual([NOTHING, 1]);
    await clean(from, to);
  });
}

test("[MV48] what a copy had staged leaves the files also where the target had erased a document of its own", async () => {
  const [from, target] = [await open(simulatedBackend({ seed: 1 }), 1), simulatedBackend({ seed: 2 })];
  let isFull = false;
  let slices = 0;
  const backend = changed(target, (opened) => ({
    commit: async (batch) => {
      if (isFull && batch.put?.some(({ key: [space] }) => space === "events") && ++slices === 2)
        throw new CoppiceError("STORE_FULL", "no room");
      await opened.commit(batch);
    },
  }));
  const to = await open(backend, 2);
  await write(to, SECRET, `${LONG}uvw`);
  await to.erase(SECRET);
  await write(from, SECRET, LONG);
  isFull = true;
  const full = { failures: [{ error: { code: "STORE_FULL" } }] };
  expect(await from.copyTo(to, { replace: true })).toMatchObject(full);
  expect(slices).toBe(2);
  isFull = false;
  await from.erase(SECRET);
  expect(await from.copyTo(to)).toMatchObject({ failures: [] });
  expect(leftIn(target)).toEqual(NOTHING);
  await clean(from, to);
});

for (const next of ["erases it", "erases it and begins anew"] as const) {
  test(`[MV48] a copy that is killed at any operation before its source ${next}, too`, async () => {
    let staged = 0;
    for (let at = 0, crashed = true; crashed; at++) {
      const { from, to, target } = await pair();
      await write(from, SECRET, LONG);
      target.crashAt(target.operationCount + at);
      crashed = await target.untilCrash(async () => void (await from.copyTo(to)));
      target.heal();
      if (!crashed) await to.close();
      const again = await open(target, 3);
      if (target.keys().length > 0) staged++;
      // Half of the time somebody else removes what was staged.
      if (at % 2 === 0) await again.check({ repair: true });
      await from.erase(SECRET);
      if (next !== "erases it") {
        await (await from.open(SECRET, { recreate: true })).close();
        await write(from, SECRET, "z");
      }
      expect(await from.copyTo(again)).toMatchObject({ failures: [] });
      if (next === "erases it") expect(leftIn(target), `${at}`).toEqual(NOTHING);
      else expect([leftIn(target).dead, await names(again, SECRET)], `${at}`).toEqual([0, "z"]);
      await clean(from, again);
    }
    expect(staged).toBeGreaterThan(5);
  });
}

test("[MV48] a copy that is killed at any operation over what the target had erased itself, too", async () => {
  let staged = 0;
  for (let at = 0, crashed = true; crashed; at++) {
    const { from, to, target } = await pair();
    await write(to, SECRET, `${LONG}uvw`);
    await to.erase(SECRET);
    await write(from, SECRET, LONG);
    target.crashAt(target.operationCount + at);
    crashed = await target.untilCrash(async () => void (await from.copyTo(to, { replace: true })));
    target.heal();
    if (!crashed) await to.close();
    const again = await open(target, 3);
    if (crashed && leftIn(target).keys.length > 1) staged++;
    await from.erase(SECRET);
    expect(await from.copyTo(again)).toMatchObject({ failures: [] });
    expect(leftIn(target), `${at}`).toEqual(NOTHING);
    await clean(from, again);
  }
  expect(staged).toBeGreaterThan(2);
});

for (const options of [{}, { prefix: SECRET }]) {
  test(`[MV48] what the target has deleted later than its source has erased it, once ${JSON.stringify(options)}`, async () => {
    const { from, to, target, count } = await afterDamage();
    await write(to, SECRET, "own");
    await to.delete(SECRET);
    await from.erase(SECRET);
    for (let run = 0; run < 3; run++) {
      expect(await from.copyTo(to, options)).toMatchObject({ erased: 0, failures: [] });
      expect([leftIn(target), count.reclaims]).toEqual([{ dead: 0, keys: [["meta", SECRET]] }, 1]);
    }
    await expect(write(to, SECRET, "z")).rejects.toMatchObject({ code: "DELETED" });
    await clean(from, to);
  });
}

test("[MV48] what the target has begun anew stays, and what it came after leaves the files, once", async () => {
  const [from, target] = [await open(simulatedBackend({ seed: 1 }), 1), simulatedBackend({ seed: 2 })];
  const { count, backend } = counting(target);
  const to = await open(backend, 2);
  await write(from, SECRET, "abc");
  await from.copyTo(to);
  await to.delete(SECRET);
  await (await to.open(SECRET, { recreate: true })).close();
  await write(to, SECRET, "own");
  await from.erase(SECRET);
  for (let run = 0; run < 3; run++) {
    expect(await from.copyTo(to)).toMatchObject({ erased: 0, failures: [] });
    expect([leftIn(target).dead, count.reclaims, await names(to, SECRET)]).toEqual([0, 1, "now"]);
  }
  await clean(from, to);
});

/** Begins the erased document anew. */
const RENEWALS: readonly [string, (from: Storage) => Promise<unknown>][] = [
  ["open", async (from) => (await from.open(SECRET, { recreate: true })).close()],
  ["fork", (from) => from.fork("other", SECRET, { recreate: true })],
  ["import", (from) => from.import(from.export("other"), { id: SECRET, recreate: true })],
];

const SINCE: readonly [string, (from: Storage) => Promise<unknown>][] = [
  ["is there", async () => undefined],
  ["was compacted", async (from) => from.compact(SECRET)],
  ["was deleted", (from) => from.delete(SECRET)],
  [
    "was deleted, and begun anew",
    async (from) => {
      await from.delete(SECRET);
      await (await from.open(SECRET, { recreate: true })).close();
    },
  ],
];

for (const [how, renew] of RENEWALS) {
  for (const [what, since] of SINCE) {
    test(`[MV49] of an erased document that ${how} began anew and that ${what} nothing is left of the old one`, async () => {
      const { from, to, target, count } = await afterDamage();
      await write(from, "other", LONG);
      await from.copyTo(to);
      expect((await to.check()).quarantined).toBe(1);
      await from.erase(SECRET);
      await renew(from);
      await write(from, SECRET, "yz");
      await since(from);
      for (let run = 0; run < 2; run++) {
        expect(await from.copyTo(to)).toMatchObject({ failures: [], failed: 0 });
        expect([(await to.check()).quarantined, leftIn(target).dead, count.reclaims]).toEqual([0, 0, 1]);
        expect(await names(to, SECRET)).toBe(await names(from, SECRET));
      }
      await clean(from, to);
    });
  }
}

test("[MV49] nor where a copy had brought the deletion of the old one before it was erased", async () => {
  const { from, to, target } = await afterDamage();
  await from.delete(SECRET);
  await from.copyTo(to);
  await from.erase(SECRET);
  await (await from.open(SECRET, { recreate: true })).close();
  expect(await from.copyTo(to)).toMatchObject({ copied: 1, failures: [] });
  expect([(await to.check()).quarantined, leftIn(target).dead]).toEqual([0, 0]);
  await clean(from, to);
});

test("[MV49] what damage has set aside of the new one stays, in the source and in its copy", async () => {
  const source = simulatedBackend({ seed: 1 });
  const { count, backend } = counting(simulatedBackend({ seed: 2 }));
  const [from, to] = [await open(source, 1), await open(backend, 2)];
  await write(from, SECRET, "abc");
  await from.copyTo(to);
  await from.erase(SECRET);
  await (await from.open(SECRET, { recreate: true })).close();
  await write(from, SECRET, "xyz");
  source.flip(["events", SECRET, 4], 40);
  await from.check({ repair: true });
  for (let run = 0; run < 3; run++) {
    await from.copyTo(to, { replace: true });
    expect([(await to.check()).quarantined, count.reclaims]).toEqual([1, 1]);
    await from.compact(SECRET);
  }
  await clean(from, to);
});

for (const after of ["deleted it", "erased it", "erased it, begun it anew and deleted that"] as const) {
  test(`[MV48] what damage had set aside of it goes also where the target had ${after} and begun it anew`, async () => {
    const [source, target] = [simulatedBackend({ seed: 1 }), simulatedBackend({ seed: 2 })];
    const [from, to] = [await open(source, 1), await open(target, 2)];
    const setAside = async (backend: SimulatedBackend, storage: Storage, clock: number) => {
      backend.flip(["events", SECRET, clock], 40);
      await storage.check({ repair: true });
    };
    const beginAnew = async () => {
      await (await to.open(SECRET, { recreate: true })).close();
      await write(to, SECRET, "own");
    };
    await write(from, SECRET, "abc");
    await from.copyTo(to);
    if (after === "deleted it") await to.delete(SECRET);
    else await to.erase(SECRET);
    await beginAnew();
    if (after.endsWith("that")) {
      await to.delete(SECRET);
      await beginAnew();
    }
    await setAside(source, from, 1);
    await from.copyTo(to);
    expect(target.keys().filter(([space]) => space === "quarantine")).toHaveLength(1);
    const { clock } = (await to.info(SECRET))!;
    await setAside(target, to, clock - 2);
    await from.erase(SECRET);
    for (let run = 0; run < 2; run++) expect(await from.copyTo(to)).toMatchObject({ failures: [] });
    const keys = target.keys().filter(([space]) => space === "quarantine");
    expect(keys).toHaveLength(1);
    expect(
      target.residue().filter(({ key: [space, id] }) => space === "quarantine" && id === SECRET),
    ).toEqual([]);
    expect((await to.info(SECRET))!.clock).toBe(clock);
    await clean(from, to);
  });
}

test("[MV48] where the target has erased it as well and begun it anew, no file is rewritten", async () => {
  const [from, target] = [await open(simulatedBackend({ seed: 1 }), 1), simulatedBackend({ seed: 2 })];
  const { count, backend } = counting(target);
  const to = await open(backend, 2);
  await write(from, SECRET, "abc");
  await from.copyTo(to);
  await from.erase(SECRET);
  expect(await from.copyTo(to)).toMatchObject({ erased: 1, failures: [] });
  for (const life of ["x", "yz"]) {
    await (await to.open(SECRET, { recreate: true })).close();
    for (const name of ["", ...life]) {
      if (name !== "") await write(to, SECRET, name);
      expect(await from.copyTo(to, { replace: true })).toMatchObject({ erased: 0, failures: [] });
    }
    expect([count.reclaims, (await names(to, SECRET)).length]).toEqual([1, life.length]);
    await to.delete(SECRET);
    expect(await from.copyTo(to)).toMatchObject({ erased: 0, failures: [] });
    expect([count.reclaims, target.keys().filter(([space]) => space === "erased")]).toEqual([1, []]);
  }
  await clean(from, to);
});

for (const [how, renew] of RENEWALS) {
  test(`[MV51] a document that was deleted beside an older erasure and ${how} began anew was not erased`, async () => {
    const [old, from] = [
      await open(simulatedBackend({ seed: 1 }), 1),
      await open(simulatedBackend({ seed: 2 }), 2),
    ];
    const target = simulatedBackend({ seed: 3 });
    const { count, backend } = counting(target);
    let to = await open(backend, 3);
    await write(old, SECRET, "a");
    await old.copyTo(from);
    await old.erase(SECRET);
    await from.delete(SECRET);
    await (await from.open(SECRET, { recreate: true })).close();
    await write(from, SECRET, "xy");
    await write(from, "other", "b");
    // Puts the record beside the document that has begun anew.
    expect(await old.copyTo(from)).toMatchObject({ erased: 0, failures: [] });
    await from.copyTo(to);
    await to.close();
    target.flip(["events", SECRET, 2], 40);
    to = await open(backend, 4);
    expect((await to.check({ repair: true })).quarantined).toBe(1);
    const before = count.reclaims;
    await from.delete(SECRET);
    await renew(from);
    await from.copyTo(to, { replace: true });
    expect([(await to.check()).quarantined, count.reclaims]).toEqual([1, before]);
    await clean(old, from, to);
  });
}

for (const [what, kept] of [
  ["of the document that began after it is copied", 1],
  ["of the one that was erased is not", 0],
] as const) {
  test(`[MV52] beside an older erasure in the target, what damage had set aside ${what}`, async () => {
    const [old, source] = [await open(simulatedBackend({ seed: 1 }), 1), simulatedBackend({ seed: 2 })];
    const [from, to] = [await open(source, 2), await open(simulatedBackend({ seed: 3 }), 3)];
    await write(old, SECRET, "a");
    await old.copyTo(from);
    await old.erase(SECRET);
    const renewed = kept === 1 ? from : to;
    if (kept === 0) await from.copyTo(to);
    await renewed.delete(SECRET);
    await (await renewed.open(SECRET, { recreate: true })).close();
    await write(renewed, SECRET, "xy");
    expect(await old.copyTo(renewed)).toMatchObject({ erased: 0, failures: [] });
    source.flip(["events", SECRET, kept === 1 ? 2 : 0], 40);
    expect((await from.check({ repair: true })).quarantined).toBe(1);
    await from.copyTo(to);
    expect((await to.check()).quarantined).toBe(kept);
    await clean(old, from, to);
  });
}

for (const since of ["is there", "was deleted"] as const) {
  for (const how of ["is replaced", "the target has deleted since"]) {
    test(`[MV49] of an erased document that stayed in the target, and ${how}, nothing is left where the new one ${since}`, async () => {
      const { from, to, target } = await pair();
      await write(from, SECRET, "abc");
      await from.copyTo(to);
      target.flip(["events", SECRET, 1], 40);
      expect((await to.check({ repair: true })).quarantined).toBe(1);
      await write(to, SECRET, "own");
      await from.erase(SECRET);
      expect(await from.copyTo(to)).toMatchObject({ erased: 0, failures: [{ error: { code: "EXISTS" } }] });
      if (how !== "is replaced") {
        await to.delete(SECRET);
        expect(await from.copyTo(to)).toMatchObject({ failures: [] });
        expect([(await to.check()).quarantined, leftIn(target).dead]).toEqual([0, 0]);
      }
      await (await from.open(SECRET, { recreate: true })).close();
      await write(from, SECRET, "uvwxyz");
      if (since !== "is there") await from.delete(SECRET);
      for (let run = 0; run < 2; run++) {
        await from.copyTo(to, { replace: true });
        expect((await to.check()).quarantined).toBe(0);
        if (how === "is replaced") expect(leftIn(target).dead).toBe(0);
      }
      expect(await names(to, SECRET)).toBe(since === "is there" ? "uvwxyz" : "");
      await clean(from, to);
    });
  }
}

for (const replace of [false, true]) {
  test(`[MV49] nor where the target has deleted it later than the source its new one, with replace: ${replace}`, async () => {
    const { from, to, target, count } = await afterDamage();
    await write(to, SECRET, "own, and longer");
    const { clock } = (await to.info(SECRET))!;
    await to.delete(SECRET);
    await from.erase(SECRET);
    await (await from.open(SECRET, { recreate: true })).close();
    await write(from, SECRET, "z");
    await from.delete(SECRET);
    for (let run = 0; run < 3; run++) {
      expect(await from.copyTo(to, { replace })).toMatchObject({ copied: 0, failures: [] });
      expect([(await to.check()).quarantined, leftIn(target).dead, count.reclaims]).toEqual([0, 0, 1]);
    }
    await expect(write(to, SECRET, "z")).rejects.toMatchObject({ code: "DELETED" });
    expect((await to.open(SECRET, { recreate: true })).clock).toBe(clock);
    await clean(from, to);
  });
}

test("[MV49] nor where an earlier version has put the record of the erasure beside the document that stayed", async () => {
  const source = simulatedBackend({ seed: 1 });
  const [from, { to, target }] = [await open(source, 1), await pair()];
  await write(from, SECRET, "abc");
  await from.copyTo(to);
  await write(to, SECRET, "own");
  await from.erase(SECRET);
  for (const { key, value } of source.dump()) if (key[0] === "erased") target.putRaw(key, value);
  await (await from.open(SECRET, { recreate: true })).close();
  await write(from, SECRET, "xyz");
  expect(await from.copyTo(to, { replace: true })).toMatchObject({ copied: 1, failures: [] });
  expect([leftIn(target).dead, await names(to, SECRET)]).toEqual([0, "xyz"]);
  await clean(from, to);
});

for (const [then, what] of [
  ["is replaced", "events"],
  ["was deleted", "events"],
  ["was deleted", "snapshot"],
] as const) {
  test(`[MV49] nor the ${what} that a copy had set aside beside one of the target's own, which ${then}`, async () => {
    const [source, target] = [simulatedBackend({ seed: 1 }), simulatedBackend({ seed: 2 })];
    const [from, to] = [await open(source, 1), await open(target, 2)];
    await write(to, SECRET, LONG);
    await to.erase(SECRET);
    await (await to.open(SECRET, { recreate: true })).close();
    await write(to, SECRET, "own");
    await write(from, SECRET, "abc");
    if (what === "snapshot") await (await from.load(SECRET))!.snapshot();
    source.flip(source.keys().find(([space]) => space === what)!, 40);
    expect((await from.check({ repair: true })).quarantined).toBeGreaterThan(0);
    expect(await from.copyTo(to)).toMatchObject({ copied: 0, failures: [{ id: SECRET }] });
    await from.erase(SECRET);
    if (then === "was deleted") await to.delete(SECRET);
    await (await from.open(SECRET, { recreate: true })).close();
    await write(from, SECRET, "xyz");
    for (let run = 0; run < 2; run++)
      expect(await from.copyTo(to, { replace: true })).toMatchObject({ failures: [] });
    const left = [...target.dump(), ...target.residue()].filter(({ key: [space] }) => space === "quarantine");
    expect([left, await names(to, SECRET)]).toEqual([[], "xyz"]);
    await clean(from, to);
  });
}

test("[MV48] an erasure with `replace` that found no room to end is ended by the next copy, also of events of the target's own", async () => {
  const target = simulatedBackend({ seed: 2 });
  let isFull = false;
  const backend = changed(target, (opened) => ({
    commit: async (batch) => {
      if (isFull && batch.put === undefined) throw new CoppiceError("STORE_FULL", "no room");
      await opened.commit(batch);
    },
  }));
  const [from, to] = [await open(simulatedBackend({ seed: 1 }), 1), await open(backend, 2)];
  await write(from, SECRET, "abc");
  await from.copyTo(to);
  await write(to, SECRET, "own");
  await from.erase(SECRET);
  isFull = true;
  expect(await from.copyTo(to, { replace: true })).toMatchObject({ erased: 0, failed: 1 });
  isFull = false;
  expect(await from.copyTo(to, { replace: true })).toMatchObject({ failures: [] });
  expect(leftIn(target)).toEqual({ dead: 0, keys: [["meta", SECRET]] });
  await clean(from, to);
});

/** What happens before and after a copy that finds no room for one commit. */
const SHORT_OF_ROOM: readonly (readonly [
  what: string,
  before: (from: Storage, to: Storage, source: SimulatedBackend) => Promise<unknown>,
  after: (from: Storage, to: Storage) => Promise<unknown>,
])[] = [
  [
    "a document with damage set aside that is erased then",
    async (from, _, source) => {
      source.flip(["events", SECRET, 1], 40);
      await from.check({ repair: true });
    },
    (from) => from.erase(SECRET),
  ],
  [
    "a deletion, where the target begins anew and it is erased then",
    async (from, to) => {
      await from.copyTo(to);
      await from.delete(SECRET);
    },
    async (from, to) => {
      if ((await to.info(SECRET)) !== undefined) await to.delete(SECRET);
      await (await to.open(SECRET, { recreate: true })).close();
      await write(to, SECRET, "own");
      await from.erase(SECRET);
    },
  ],
  [
    "the deletion of what began after an erasure",
    async (from, to) => {
      await from.copyTo(to);
      await from.erase(SECRET);
      await (await from.open(SECRET, { recreate: true })).close();
      await write(from, SECRET, "anew");
      await from.delete(SECRET);
    },
    async () => undefined,
  ],
];

for (const [what, before, after] of SHORT_OF_ROOM) {
  test(`[MV48] a copy that finds no room for any one commit leaves nothing of ${what}`, async () => {
    let stops = 0;
    for (let at = 0, isMet = true; isMet; at++) {
      const [source, target] = [simulatedBackend({ seed: 1 }), simulatedBackend({ seed: 2 })];
      let left = Number.POSITIVE_INFINITY;
      const backend = changed(target, (opened) => ({
        commit: async (batch) => {
          if (left-- === 0) throw new CoppiceError("STORE_FULL", "no room");
          await opened.commit(batch);
        },
      }));
      const [from, to] = [await open(source, 1), await open(backend, 2)];
      await write(from, SECRET, LONG);
      await before(from, to, source);
      left = at;
      await from.copyTo(to);
      isMet = left < 0;
      left = Number.POSITIVE_INFINITY;
      if (isMet) stops++;
      await after(from, to);
      for (let run = 0; run < 2; run++) expect(await from.copyTo(to)).toMatchObject({ failures: [] });
      const { dead, keys } = leftIn(target);
      // What the target has begun by itself lies after it.
      const old = keys.filter(([space, , clock]) => space !== "meta" && clock! < LONG.length);
      expect([dead, old], `commit ${at}`).toEqual([0, []]);
      await from.close();
      await to.close();
    }
    expect(stops).toBeGreaterThan(1);
  });
}

test("[MV49] what damage has set aside of a document of the target's own stays also where its meta is lost", async () => {
  const { from, to, target } = await pair();
  await write(from, SECRET, "z");
  await from.erase(SECRET);
  await write(to, SECRET, "abcdef");
  target.flip(["events", SECRET, 2], 40);
  await to.check({ repair: true });
  target.deleteRaw(["meta", SECRET]);
  await from.copyTo(to);
  expect((await to.check({ repair: true })).quarantined).toBe(1);
  expect(await names(to, SECRET)).toBe("abdef");
  await clean(from, to);
});

test("[MV48] files are not rewritten again by each copy because a document finds no room", async () => {
  const { count, backend } = counting(
    changed(simulatedBackend({ seed: 2 }), (opened) => ({
      commit: async (batch) => {
        if (batch.put?.some(({ key: [, id] }) => id === "huge"))
          throw new CoppiceError("STORE_FULL", "no room");
        await opened.commit(batch);
      },
    })),
  );
  const [from, to] = [await open(simulatedBackend({ seed: 1 }), 1), await open(backend, 2)];
  for (const id of [SECRET, "huge"]) await write(from, id, "abc");
  await from.copyTo(to);
  await from.erase(SECRET);
  for (let run = 0; run < 3; run++) expect((await from.copyTo(to)).failed).toBe(1);
  expect(count.reclaims).toBe(1);
  await clean(from, to);
});
