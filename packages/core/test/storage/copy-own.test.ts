/**
 * What a target has of its own stays, also where the source has trimmed, deleted or begun anew what would tell
 * it from what is old; and what is old never passes for the target's own.
 */

import { memoryBackend } from "coppice";
import { simulatedBackend } from "coppice/testing";
import { describe, expect, test } from "vitest";
import type { NameSet } from "../../../../test/support/oracle-model.js";
import { clean, names, open, pair, type Storage, write } from "./copy-tools.js";

const OWN = { code: "EXISTS", message: expect.stringContaining("of its own") };

describe("what the target has of its own", () => {
  const cases: Readonly<Record<string, (from: Storage, to: Storage) => Promise<unknown>>> = {
    "written after a copy, where the source is trimmed beyond it": async (from, to) => {
      await write(from, "d", "abc");
      await from.copyTo(to);
      await write(to, "d", "M");
      await write(from, "d", "defghi");
      await from.compact("d");
    },
    "never copied, where the source is trimmed beyond it": async (from, to) => {
      await write(to, "d", "M");
      await write(from, "d", "abc");
      await from.compact("d");
    },
    "never copied, where the source has begun the id anew": async (from, to) => {
      await write(from, "d", "abcde");
      await from.delete("d");
      await (await from.open("d", { recreate: true })).close();
      await write(from, "d", "n");
      await write(to, "d", "M");
    },
    "never copied, where the source has deleted the id": async (from, to) => {
      await write(from, "d", "abcde");
      await from.delete("d");
      await write(to, "d", "M");
    },
    "never copied, where the source has erased the id": async (from, to) => {
      await write(from, "d", "abcde");
      await from.erase("d");
      await write(to, "d", "M");
    },
    "written after a copy, where the source has deleted it later": async (from, to) => {
      await write(from, "d", "abc");
      await from.copyTo(to);
      await write(to, "d", "M");
      await write(from, "d", "def");
      await from.delete("d");
    },
    "written after a copy to beyond the clock at which the source has erased it later": async (from, to) => {
      await write(from, "d", "abc");
      await from.copyTo(to);
      await write(to, "d", "M");
      await from.erase("d");
    },
    "written after a copy, where the source has erased it later": async (from, to) => {
      await write(from, "d", "abc");
      await from.copyTo(to);
      await write(to, "d", "M");
      await write(from, "d", "def");
      await from.erase("d");
    },
  };
  for (const [name, prepare] of Object.entries(cases)) {
    test(`[MV32] stays: ${name}`, async () => {
      const { from, to } = await pair();
      await prepare(from, to);
      const before = await names(to, "d");
      expect(before).toContain("M");
      for (let run = 0; run < 2; run++) {
        const { failures, erased } = await from.copyTo(to);
        expect([failures.map(({ error }) => error), erased]).toMatchObject([[OWN], 0]);
        expect(await names(to, "d")).toBe(before);
      }
      expect((await from.copyTo(to, { replace: true })).failures).toEqual([]);
      expect(await names(to, "d")).toBe(await names(from, "d"));
      await clean(from, to);
    });
  }

  test("[MV32] its tags stay, and with replace nothing of them is left behind", async () => {
    for (const end of ["", "delete", "erase"] as const) {
      const { from, to } = await pair();
      await write(from, "d", "abcde");
      await from.copyTo(to);
      await to.tag("d", "mine", 3);
      if (end !== "") await from[end]("d");
      expect((await from.copyTo(to)).failures).toMatchObject([{ id: "d", error: OWN }]);
      expect((await to.load<NameSet>("d", { at: "mine" }))?.clock).toBe(3);
      expect((await from.copyTo(to, { replace: true })).failures).toEqual([]);
      expect(await to.tags("d")).toEqual([]);
      expect((await from.copyTo(to)).failures).toEqual([]);
      expect((await to.check()).garbageKeys).toBe(0);
      await clean(from, to);
    }
  });
});

describe("what is old", () => {
  test("[MV31] is carried on over trims, deletions, recreations, tags that come and go, and erasures", async () => {
    const { from, to } = await pair();
    await write(from, "d", "ab");
    const steps: (() => Promise<unknown>)[] = [
      () => write(from, "d", "cd"),
      () => from.compact("d"),
      async () => {
        await write(from, "d", "ef");
        await from.compact("d");
      },
      () => from.tag("d", "t", 5),
      () => to.compact("d"),
      async () => {
        await from.untag("d", "t");
        await write(from, "d", "g");
        await from.compact("d");
      },
      () => from.tag("d", "last"),
      () => from.delete("d"),
      async () => (await from.open("d", { recreate: true })).close(),
      () => write(from, "d", "xy"),
      () => from.erase("d"),
    ];
    for (const step of [async () => undefined, ...steps]) {
      await step();
      expect((await from.copyTo(to)).failures).toEqual([]);
      expect(await names(to, "d")).toBe(await names(from, "d"));
      expect((await to.tags("d")).map(({ name }) => name)).toEqual(
        (await from.tags("d")).map(({ name }) => name),
      );
      const again = await from.copyTo(to);
      expect([again.records, again.failures]).toEqual([0, []]);
      expect(await to.check()).toMatchObject({ problems: [], garbageKeys: 0 });
    }
    await clean(from, to);
  });

  test("[MV31] is known in the store that it was copied from, when the copy was gone on with", async () => {
    const { from, to } = await pair();
    await write(from, "d", "abc");
    await from.copyTo(to);
    await write(to, "d", "defg");
    await to.compact("d");
    expect((await to.copyTo(from)).failures).toEqual([]);
    expect(await names(from, "d")).toBe("abcdefg");
    // And not when something was written here that never got there.
    await write(from, "d", "M");
    await write(to, "d", "hijk");
    await to.compact("d");
    expect((await to.copyTo(from)).failures).toMatchObject([{ id: "d", error: OWN }]);
    expect(await names(from, "d")).toContain("M");
    await clean(from, to);
  });

  test("[MV7] is known after a crash at any operation of a copy, however far the source has been trimmed since", async () => {
    let crashes = 0;
    for (let at = 0; ; at++) {
      const { from, to, target } = await pair();
      await write(from, "d", "abc");
      await from.copyTo(to);
      await write(from, "d", "defghijklm");
      await from.tag("d", "t");
      target.crashAt(target.operationCount + at);
      const crashed = await target.untilCrash(async () => void (await from.copyTo(to)));
      target.heal();
      if (!crashed) await to.close();
      const again = crashed ? await open(target, 3) : await open(target, 4);
      await write(from, "d", "n");
      await from.compact("d");
      expect((await from.copyTo(again)).failures).toEqual([]);
      expect(await names(again, "d")).toBe("abcdefghijklmn");
      await clean(from, again);
      if (!crashed) break;
      crashes++;
    }
    expect(crashes).toBeGreaterThan(8);
  });

  test("[MV32] and where the mark of a copy is damaged or gone, it is taken for the target's own", async () => {
    for (const harm of ["flip", "delete"] as const) {
      const { from, to, target } = await pair();
      await write(from, "d", "abc");
      await from.copyTo(to);
      if (harm === "flip") target.flip(["copied", "d"], 9);
      else target.deleteRaw(["copied", "d"]);
      // As long as the batches tell, nothing else has to.
      await write(from, "d", "d");
      expect((await from.copyTo(to)).failures).toEqual([]);
      if (harm === "flip") target.flip(["copied", "d"], 9);
      else target.deleteRaw(["copied", "d"]);
      await write(from, "d", "efgh");
      await from.compact("d");
      expect((await from.copyTo(to)).failures).toMatchObject([{ id: "d", error: OWN }]);
      expect((await from.copyTo(to, { replace: true })).failures).toEqual([]);
      await clean(from, to);
    }
  });

  test("[MV31] a deletion is carried over an erasure that a copy had carried before", async () => {
    const { from, to } = await pair();
    await write(from, "d", "a");
    await from.erase("d");
    await write(to, "d", "MN");
    expect((await from.copyTo(to)).failures).toMatchObject([{ id: "d", error: OWN }]);
    await (await from.open("d", { recreate: true })).close();
    await write(from, "d", "abcd");
    await from.delete("d");
    expect((await from.copyTo(to)).failures).toMatchObject([{ id: "d", error: OWN }]);
    expect(await from.copyTo(to, { replace: true })).toMatchObject({ deleted: 1, failures: [] });
    await clean(from, to);
  });

  test("[MV10] an erased document leaves no mark of its copy", async () => {
    const { from, to, target } = await pair();
    await write(from, "secret", "ab");
    await from.copyTo(to);
    expect(target.keys().map(([space]) => space)).toContain("copied");
    await from.erase("secret");
    expect(await from.copyTo(to)).toMatchObject({ erased: 1, failures: [] });
    expect(target.keys().filter(([, id]) => id === "secret")).toEqual([]);
    await clean(from, to);
  });

  test("[MV32] nothing is lost for one that was deleted, or begun anew, in a source that was put back to an older state", async () => {
    const source = simulatedBackend({ seed: 1 });
    const { to } = await pair();
    const from = await open(source, 1);
    await write(from, "d", "abc");
    const older = source.dump();
    await write(from, "d", "defg");
    await from.copyTo(to);
    await from.close();
    const restored = simulatedBackend({ seed: 3 });
    for (const { key, value } of older) restored.putRaw(key, value);
    const again = await open(restored, 3);
    await again.delete("d");
    expect((await again.copyTo(to)).failures).toMatchObject([{ id: "d", error: OWN }]);
    await (await again.open("d", { recreate: true })).close();
    await write(again, "d", "x");
    expect((await again.copyTo(to)).failures).toMatchObject([{ id: "d", error: OWN }]);
    expect(await names(to, "d")).toBe("abcdefg");
    await clean(again, to);
  });

  test("[MV33] a progress that throws ends the copy when what is under way has ended", async () => {
    const { from, to } = await pair();
    for (const id of "abcdefgh") await write(from, id, "x");
    const copy = from.copyTo(to, {
      onProgress: () => {
        throw new Error("no more");
      },
    });
    await expect(copy).rejects.toThrow("no more");
    const there = async () => {
      let count = 0;
      for await (const _ of to.list()) count++;
      return count;
    };
    const count = await there();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(await there()).toBe(count);
    expect(count).toBeLessThan(8);
    await clean(from, to);
  });
});

for (const before of ["a copy carried the deletion", "its source deleted it"])
  test(`[MV57] what the target has erased stays erased, and its id does not come back: before ${before}`, async () => {
    const { from, to, target } = await pair();
    await write(from, "gone", "ab");
    await from.copyTo(to);
    if (before === "its source deleted it") await to.erase("gone");
    await from.delete("gone");
    if (before !== "its source deleted it") {
      await from.copyTo(to);
      await to.erase("gone");
    }
    const erased = target.dump();
    for (let turn = 0; turn < 2; turn++) {
      expect(await from.copyTo(to)).toMatchObject({ unchanged: 1, deleted: 0, bytes: 0, failures: [] });
      expect(target.dump()).toEqual(erased);
    }
    await from.open("gone", { recreate: true });
    await from.delete("gone");
    expect(await from.copyTo(to)).toMatchObject({ deleted: 0, failures: [] });
    await clean(from, to);
  });

test("[MV31] the deletion of an empty document that a copy had put in the place of another is carried on", async () => {
  const [from, to] = [await open(memoryBackend(), 1), await open(memoryBackend(), 2)];
  const last = await open(memoryBackend(), 3);
  await from.open("d");
  await write(to, "d", "ab");
  expect((await from.copyTo(to, { replace: true })).failures).toEqual([]);
  await to.copyTo(last);
  expect(await last.info("d")).toMatchObject({ clock: 0 });
  await to.delete("d");
  expect(await to.copyTo(last)).toMatchObject({ deleted: 1, failures: [] });
  expect(await last.info("d")).toBeUndefined();
  await clean(from, to, last);
});
