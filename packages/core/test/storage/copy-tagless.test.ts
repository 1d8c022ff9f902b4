/** Copies from and to documents whose index of the tags has vanished: that is no document without tags. */

import { CoppiceError, memoryBackend } from "coppice";
import { type SimulatedBackend, simulatedBackend } from "coppice/testing";
import { expect, test } from "vitest";
import { changed } from "./changed-backend.js";
import { clean, names, open, pair, write } from "./copy-tools.js";

const GONE = { code: "CORRUPT", message: expect.stringContaining("no index of the tags") };
const lose = (backend: SimulatedBackend) => backend.deleteRaw(["tags", "d"]);

for (const tagged of ["the target alone", "both", "the source since"] as const) {
  test(`[MV50] a target without its index is damaged, where ${tagged} had tags`, async () => {
    const { from, to: first, target } = await pair();
    await write(from, "d", "abc");
    if (tagged === "both") await from.tag("d", "release");
    await from.copyTo(first);
    if (tagged !== "both") await first.tag("d", "own");
    if (tagged === "the source since") await from.tag("d", "release");
    await first.close();
    lose(target);
    const to = await open(target, 3);
    const before = target.dump();
    expect((await from.copyTo(to)).failures).toMatchObject([{ id: "d", error: GONE }]);
    expect(target.dump()).toEqual(before);
    expect(await from.copyTo(to, { replace: true })).toMatchObject({ copied: 1, failures: [] });
    expect([await names(to, "d"), await to.tags("d")]).toEqual(["abc", await from.tags("d")]);
    await clean(from, to);
  });
}

test("[MV50] a target whose index a repair has made again is copied to", async () => {
  const { from, to: first, target } = await pair();
  await write(from, "d", "abc");
  await from.tag("d", "release");
  await from.copyTo(first);
  await first.close();
  lose(target);
  const to = await open(target, 3);
  expect(await from.copyTo(to)).toMatchObject({ failed: 1 });
  expect(await to.check({ repair: true })).toMatchObject({
    problems: [{ code: "tags-damaged", repaired: true }],
  });
  expect(await from.copyTo(to)).toMatchObject({ failed: 0 });
  expect(await to.tags("d")).toMatchObject([{ name: "release", clock: 3 }]);
  await clean(from, to);
});

test("[MV50] a source without its index takes no tags from its target, and is not exported or forked", async () => {
  const source = simulatedBackend({ seed: 1 });
  const [first, to] = [await open(source, 1), await open(memoryBackend(), 2)];
  await write(first, "d", "abc");
  await first.tag("d", "release");
  await first.copyTo(to);
  await first.close();
  lose(source);
  const from = await open(source, 3);
  expect((await from.copyTo(to, { replace: true })).failures).toMatchObject([{ id: "d", error: GONE }]);
  expect(await to.tags("d")).toMatchObject([{ name: "release" }]);
  await expect(from.fork("d", "e")).rejects.toMatchObject(GONE);
  await expect(from.export("d").next()).rejects.toMatchObject(GONE);
  expect(await from.check({ repair: true })).toMatchObject({ clean: true });
  // What a repair has touched may have less than its copy.
  expect(await from.copyTo(to, { replace: true })).toMatchObject({ failures: [] });
  expect(await to.tags("d")).toMatchObject([{ name: "release" }]);
  await clean(from, to);
});

for (const what of ["tags it first", "deletes it", "begins to delete it"] as const) {
  test(`[MV50] whoever ${what} between any two looks at the index is no damage`, async () => {
    for (const side of ["source", "target"] as const) {
      let looks = 0;
      for (let at = 1, hasRun = true; hasRun; at++, looks++) {
        const shared = memoryBackend({ shared: true });
        let run: (() => Promise<unknown>) | undefined;
        let left = at;
        const watched = changed(shared, (opened) => ({
          get: async (key) => {
            const isIt = key[0] === "tags" && run !== undefined && --left === 0;
            if (isIt && what === "begins to delete it") await run!().catch(() => undefined);
            const value = await opened.get(key);
            if (isIt && what !== "begins to delete it") await run!();
            return value;
          },
        }));
        let sweeps = true;
        const unswept = changed(shared, (opened) => ({
          commit: async (batch) => {
            const isSweep = batch.delete?.some((key) => Array.isArray(key) && key[0] === "tagged");
            if (!sweeps && isSweep) throw new CoppiceError("UNAVAILABLE", "not now");
            await opened.commit(batch);
          },
        }));
        const [near, other, far] = [
          await open(watched, 1),
          await open(unswept, 2),
          await open(memoryBackend(), 3),
        ];
        const [from, to] = side === "source" ? [near, far] : [far, near];
        await write(from, "d", "abc");
        await from.copyTo(to);
        if (what !== "tags it first") await other.tag("d", "own");
        sweeps = what !== "begins to delete it";
        run = () => (what === "tags it first" ? other.tag("d", "own") : other.delete("d"));
        const codes = (await from.copyTo(to)).failures.map(({ error: { code } }) => code);
        expect(codes, `${side} ${at}`).not.toContain("CORRUPT");
        hasRun = left <= 0;
        await clean(from, to, other);
      }
      expect(looks).toBeGreaterThan(1);
    }
  });
}
