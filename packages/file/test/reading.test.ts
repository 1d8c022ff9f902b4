/** Read-only opens, hints, and the index. */

import { crashModels, SimulatedDisk } from "@coppice/file/testing";
import { compareKeys, encodeKey, type Key, toHex } from "coppice";
import { seededRandom, simulatedEnv } from "coppice/testing";
import fc from "fast-check";
import { expect, test } from "vitest";
import { bytes } from "../../../test/support/stores.js";
import type { OpenFiles } from "../src/files.js";
import { KeyIndex } from "../src/key-index.js";
import { idOf, keyBytes, nameOf, partsOf, prefixNameOf } from "../src/key-names.js";
import { changed, dump, factoryOn, randomSteps, storeOf } from "./crash-tools.js";

const big = (seq: number) => ({
  put: [{ key: ["events", "d", seq] as const, value: bytes(4000, 1 + (seq % 250)) }],
});

test("[FL12] opening with hints, without them, and with damaged or foreign ones shows the same", {
  timeout: 120_000,
}, async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk, { mergeDeadRatioMin: 1 });
  const backend = await factory.open(simulatedEnv(1));
  for (let seq = 0; seq < 60; seq++) {
    await backend.commit(big(seq));
    if (seq % 10 === 9)
      await backend.commit({ delete: [["events", "d", seq - 3], { space: "events", id: "d", to: seq - 8 }] });
  }
  const lines = await dump(backend);
  await backend.close();
  const image = disk.image();
  const hints = [...image.keys()].filter((name) => name.endsWith(".hint"));
  expect(hints.length).toBeGreaterThan(2);
  const open = async (changed: ReadonlyMap<string, Uint8Array>) => {
    const other = factoryOn(new SimulatedDisk(changed), { mergeDeadRatioMin: 1 });
    const opened = await other.open(simulatedEnv(2));
    expect(await dump(opened)).toEqual(lines);
    const { segmentsScanned, liveBytes, deletionBytes, deadBytes } = other.stats()!;
    await opened.close();
    return { segmentsScanned, sizes: [liveBytes, deletionBytes, deadBytes] };
  };
  const whole = await open(image);
  expect(whole.segmentsScanned).toBe(1);
  const without = await open(new Map([...image].filter(([name]) => !hints.includes(name))));
  expect(without.segmentsScanned).toBe(hints.length + 1);
  expect(without.sizes).toEqual(whole.sizes);
  for (const [i, name] of hints.entries()) {
    const hint = image.get(name)!;
    const flipped = hint.slice();
    flipped[(i * 997) % hint.length]! ^= 1;
    for (const bad of [
      flipped,
      hint.slice(0, -1),
      new Uint8Array(0),
      image.get(hints[(i + 1) % hints.length]!)!,
    ]) {
      expect((await open(new Map([...image, [name, bad]]))).segmentsScanned).toBe(2);
    }
  }
});

test("[FL13] a read-only open follows the writer over rotations, merges and reopenings, and writes nothing", {
  timeout: 120_000,
}, async () => {
  for (let seed = 1; seed <= 5; seed++) {
    const disk = new SimulatedDisk();
    const writerFactory = factoryOn(disk);
    let writer = await writerFactory.open(simulatedEnv(1));
    const readerFactory = factoryOn(disk, { readOnly: true });
    const reader = await readerFactory.open(simulatedEnv(2));
    const random = seededRandom(seed);
    for (const [i, { batch, merge, reopen }] of randomSteps(random, 150).entries()) {
      if (batch !== undefined) await writer.commit(batch);
      if (i % 4 === 0) await writer.commit(big(1000 + i));
      if (merge !== undefined) await writerFactory.merge({ force: merge === "all" });
      if (reopen === true) {
        await writer.close();
        writer = await writerFactory.open(simulatedEnv(1));
      }
      // Sometimes it lags behind, by more than one segment.
      if (random.int(8) !== 0) continue;
      expect(await dump(reader), `seed ${seed}, step ${i}`).toEqual(await dump(writer));
    }
    const lines = await dump(writer);
    await writer.close();
    const before = disk.operationCount;
    expect(await dump(reader)).toEqual(lines);
    await reader.close();
    expect(disk.operationCount).toBe(before);
  }
});

test("[FL13] a read-only open of a store that was never written to follows it, though its first commits were merged since", async () => {
  for (const mergedCount of [1, 3]) {
    const disk = new SimulatedDisk();
    const factory = factoryOn(disk, { mergeDeadRatioMin: 1 });
    const writer = await factory.open(simulatedEnv(1, { autoAdvance: true }));
    const reader = await factoryOn(disk, { readOnly: true }).open(simulatedEnv(2));
    const commit = (seq: number) =>
      writer.commit({ put: [{ key: ["events", "d", seq], value: bytes(10, seq) }] });
    for (let seq = 0; seq < mergedCount; seq++) await commit(seq);
    await factory.merge({ force: true });
    for (let seq = mergedCount; seq < 6; seq++) {
      await commit(seq);
      expect(await dump(reader)).toEqual(await dump(writer));
    }
    await reader.close();
    await writer.close();
  }
});

for (const seen of [0, 1]) {
  test(`[FL13] a read-only open that has seen ${seen} commits sees on where a merge of those after them had nothing to keep`, async () => {
    const disk = new SimulatedDisk();
    const factory = factoryOn(disk);
    const writer = await factory.open(simulatedEnv(1));
    if (seen > 0) await writer.commit(big(1));
    const reader = await factoryOn(disk, { readOnly: true }).open(simulatedEnv(2));
    await writer.commit(big(2));
    await writer.commit({ delete: [{ space: "events", id: "d" }] });
    await factory.merge({ force: true });
    await writer.commit(big(3));
    for (const count of [1, 2]) {
      if (count === 2) await writer.commit(big(4));
      expect(await dump(reader)).toEqual(await dump(writer));
      expect(await dump(reader)).toHaveLength(count);
    }
    await reader.close();
    await writer.close();
  });
}

test("[FL13] a read-only open does without a writer, watches, and refuses where there is no store", async () => {
  const disk = new SimulatedDisk();
  await expect(factoryOn(disk, { readOnly: true }).open(simulatedEnv(1))).rejects.toMatchObject({
    code: "UNAVAILABLE",
  });
  const writer = await factoryOn(disk).open(simulatedEnv(1));
  const env = simulatedEnv(2);
  const factory = factoryOn(disk, { readOnly: true });
  const reader = await factory.open(env);
  let hints = 0;
  const stop = reader.watch!(() => {
    hints++;
  });
  await writer.commit(big(1));
  await env.advance(100);
  expect(hints).toBe(1);
  expect(await dump(reader)).toHaveLength(1);
  await env.advance(300);
  expect(hints).toBe(1);
  await writer.close();
  expect(await dump(reader)).toHaveLength(1);
  expect(reader.traits).toMatchObject({ exclusive: false, durability: "power" });
  await expect(reader.commit({})).rejects.toMatchObject({ code: "READ_ONLY" });
  await expect(factory.merge()).rejects.toMatchObject({ code: "READ_ONLY" });
  stop();
  for (let i = 0; i < 20; i++) reader.watch!(() => undefined)();
  expect(env.delayCount).toBe(0);
  await reader.close();
  expect(factory.stats()).toBeUndefined();
});

test("[FL13] a frame that is only partly written is not seen until it is whole", async () => {
  const disk = new SimulatedDisk();
  const writer = await factoryOn(disk).open(simulatedEnv(1));
  await writer.commit(big(1));
  const reader = await factoryOn(disk, { readOnly: true }).open(simulatedEnv(2));
  disk.writeBytesMax = 700;
  const seen: number[] = [];
  let looking: Promise<unknown> = Promise.resolve();
  disk.onOperation = () => {
    looking = looking.then(async () => seen.push((await dump(reader)).length));
  };
  await writer.commit(big(2));
  disk.onOperation = undefined;
  await looking;
  expect(seen.every((count) => count === 1 || count === 2)).toBe(true);
  expect(await dump(reader)).toHaveLength(2);
  expect(crashModels.length).toBe(18);
  await reader.close();
  await writer.close();
});

const ids = fc.oneof(
  fc.constantFrom("a", "a\0", "a\0b", "a\u0001", "aa", "ab", "b", "é", "\uff5e", "😀", "😀😀"),
  fc.string({ unit: "grapheme", minLength: 1, maxLength: 6 }),
);

test("[FL16] names order as ids do, and encoded keys are taken apart into what they were made of", {
  timeout: 120_000,
}, () => {
  fc.assert(
    fc.property(ids, ids, fc.nat(), fc.nat(), fc.integer({ min: 0, max: 2 }), (a, b, seq, part, parts) => {
      expect(Math.sign(compareKeys(["s", a], ["s", b]))).toBe(
        nameOf(a) < nameOf(b) ? -1 : nameOf(a) > nameOf(b) ? 1 : 0,
      );
      expect(nameOf(b).startsWith(prefixNameOf(a))).toBe(
        toHex(Buffer.from(b)).startsWith(toHex(Buffer.from(a))),
      );
      expect(idOf(nameOf(a))).toBe(a);
      const key: Key = parts === 0 ? ["space", a] : parts === 1 ? ["space", a, seq] : ["space", a, seq, part];
      const encoded = Buffer.from(encodeKey(key));
      const into = { space: "", name: "", seq: -1, part: -1 };
      expect(partsOf(encoded, 0, encoded.length, into)).toEqual({
        space: "space",
        name: nameOf(a),
        seq: parts === 0 ? -1 : seq,
        part: parts < 2 ? -1 : part,
      });
      expect(keyBytes("space", into.name, into.seq, into.part)).toBe(encoded.length);
    }),
    { numRuns: 2000 },
  );
});

test("[FL16] many keys of one document and many documents keep their order, however they come and go", {
  timeout: 120_000,
}, () => {
  const random = seededRandom(16);
  let dead = 0;
  const index = new KeyIndex(() => {
    dead++;
  });
  const naive = new Map<string, number>();
  for (let i = 0; i < 60_000; i++) {
    const name = random.int(2) === 0 ? "one" : `doc${random.int(700)}`;
    const seq = name === "one" ? random.int(5000) : random.int(3);
    const key = `${name} ${String(seq).padStart(5, "0")}`;
    const kind = random.int(20);
    if (kind < 14) {
      index.put("s", name, seq, -1, i, 1);
      naive.set(key, i);
    } else if (kind < 19) {
      expect(index.delete("s", name, seq, -1)).toBe(naive.delete(key) ? 1 : 0);
    } else {
      const to = seq + random.int(40);
      let gone = 0;
      for (let each = seq; each < to; each++)
        if (naive.delete(`${name} ${String(each).padStart(5, "0")}`)) gone++;
      expect(index.deleteRange("s", name, seq, to)).toBe(gone);
    }
    if (i % 5000 !== 4999) continue;
    const expected = [...naive]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([each, place]) => `${each}=${place}`);
    const bounds = { from: -1, to: Number.POSITIVE_INFINITY, prefix: "", after: undefined };
    for (const reverse of [false, true]) {
      const found: string[] = [];
      index.walk("s", bounds, undefined, reverse, (entry) => {
        found.push(`${entry.name} ${String(entry.seq).padStart(5, "0")}=${entry.place}`);
        return true;
      });
      expect(reverse ? found.reverse() : found).toEqual(expected);
    }
    expect(index.keyCount).toBe(naive.size);
  }
  expect(dead).toBeGreaterThan(10_000);
});

test("[FL11] merged away segments give their places back, and what was remembered of them is forgotten", async () => {
  const disk = new SimulatedDisk();
  const factory = factoryOn(disk, { mergeDeadRatioMin: 1 });
  const backend = await factory.open(simulatedEnv(1));
  for (let round = 0; round < 30; round++) {
    const [before, after] = [bytes(40, round), bytes(40, round + 1)];
    const key = ["meta", "d"] as const;
    // The expectation is remembered by place; the next segments take the same places.
    await backend.commit({
      put: [{ key, value: after }],
      expect: [{ key, value: round === 0 ? undefined : before }],
    });
    await backend.commit({
      put: [{ key: ["events", "d", round], value: before }],
      expect: [{ key, value: after }],
    });
    await factory.merge({ force: true });
    await expect(backend.commit({ expect: [{ key, value: before }] })).rejects.toMatchObject({
      code: "COMMIT_CONFLICT",
    });
  }
  expect(await dump(backend)).toHaveLength(31);
  await backend.close();
});

test("[FL13] a read-only open of a damaged store is CORRUPT where opening to write is, with and without hints", async () => {
  const { disk } = await storeOf(100, true);
  const whole = disk.image();
  const segments = [...whole.keys()].filter((name) => name.endsWith(".seg"));
  expect(segments.length).toBeGreaterThan(2);
  const withoutHints = new Map([...whole].filter(([name]) => !name.endsWith(".hint")));
  for (const name of segments) {
    const image = changed(withoutHints, name, (bytes) => {
      bytes[5000]! ^= 1;
    });
    for (const readOnly of [false, true]) {
      const opening = factoryOn(new SimulatedDisk(image), { readOnly }).open(simulatedEnv(2));
      await expect(opening, `${name}, ${readOnly}`).rejects.toMatchObject({ code: "CORRUPT" });
    }
  }
});

test("[FL13] a read-only open beside a commit that a crash tore shows all before it, each time it is asked", async () => {
  const { disk, lines } = await storeOf(10, false);
  const image = new Map(disk.image());
  const name = [...image.keys()].filter((each) => each.endsWith(".seg")).sort()[0]!;
  const bytes = image.get(name)!.slice();
  const used = bytes.findLastIndex((byte) => byte !== 0) + 1;
  image.set(name, bytes.fill(0, used - 600, used));
  const backend = await factoryOn(new SimulatedDisk(image), { readOnly: true }).open(simulatedEnv(2));
  for (let times = 0; times < 2; times++) {
    const found = await dump(backend);
    expect(found).toHaveLength(lines.length - 2);
    expect(lines).toEqual(expect.arrayContaining(found));
  }
  await backend.close();
});

test("[FL13] a read-only open ends beside a writer that merges whenever it reads", async () => {
  const disk = new SimulatedDisk();
  const writerFactory = factoryOn(disk, { mergeDeadRatioMin: 1 });
  const writer = await writerFactory.open(simulatedEnv(1));
  let seq = 0;
  for (; seq < 60; seq++) await writer.commit(big(seq));
  let merges = 0;
  const files: OpenFiles = async (create) => {
    const found = await disk.files(create);
    const open = found.open.bind(found);
    found.open = async (name, mode) => {
      if (name.endsWith(".hint") && merges++ < 25) {
        for (let i = 0; i < 20; i++) await writer.commit(big(seq++));
        await writerFactory.merge({ force: true });
      }
      return open(name, mode);
    };
    return found;
  };
  const reader = await factoryOn({ files }, { readOnly: true }).open(simulatedEnv(2));
  expect(await dump(reader)).toEqual(await dump(writer));
  await reader.close();
  await writer.close();
});
