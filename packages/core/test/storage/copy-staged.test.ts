/** What a copy stages in its target beside those who sweep there, and what it reads back beside those who write. */

import { type BackendFactory, CoppiceError, DocumentStorage, type Key, memoryBackend, never } from "coppice";
import { expect, test } from "vitest";
import { type NameSet, nameSet, naming } from "../../../../test/support/oracle-model.js";
import { changed } from "./changed-backend.js";
import { clean } from "./copy-tools.js";

const models = [nameSet()] as const;

/** Everything goes in slices of one. */
const open = (backend: BackendFactory) =>
  DocumentStorage.open({
    ...{ backend, models, snapshotPolicy: never, history: "archive" as const },
    limits: { groupBytesMax: 1, sweepKeysMax: 1, snapshotPartBytesMax: 64 },
  });

type Storage = Awaited<ReturnType<typeof open>>;

/** Runs something once, before the n-th operation; `refuses`: the commits that fail. */
interface Watch {
  before: number;
  run?: (() => Promise<unknown>) | undefined;
  refuses?: ((spaces: readonly string[]) => boolean) | undefined;
}

function watched(inner: BackendFactory, watch: Watch, kinds: readonly string[]): BackendFactory {
  const step = async (kind: string) => {
    const { run } = watch;
    if (run === undefined || !kinds.includes(kind) || --watch.before > 0) return;
    watch.run = undefined;
    await run();
  };
  return changed(inner, (opened) => ({
    get: async (key) => {
      await step("get");
      return opened.get(key);
    },
    async *scan(range, options) {
      await step("scan");
      yield* opened.scan(range, options);
    },
    commit: async (batch) => {
      await step("commit");
      if (watch.refuses?.((batch.put ?? []).map(({ key: [space] }) => space)))
        throw new CoppiceError("UNAVAILABLE", "not now");
      await opened.commit(batch);
    },
  }));
}

/** A target in which a copy was interrupted just before it named what it had staged, and another who has it open. */
async function interrupted() {
  const shared = memoryBackend({ shared: true });
  const [copying, sweeping]: Watch[] = [{ before: 0 }, { before: 0 }] as [Watch, Watch];
  const from = await open(memoryBackend());
  const old = await open(memoryBackend());
  const to = await open(watched(shared, copying!, ["get", "scan", "commit"]));
  const other = await open(watched(shared, sweeping!, ["commit"]));
  for (const event of [naming("a"), naming("x", ["never"]), naming("b")]) await from.append("d", [event]);
  for (const name of "cde") await from.append("d", [naming(name)]);
  await from.copyTo(to);
  await from.copyTo(old);
  await from.tag("d", "release", 5);
  await from.compact("d");
  copying!.refuses = (spaces) => spaces.includes("meta");
  expect((await from.copyTo(to)).failures).toMatchObject([{ error: { code: "UNAVAILABLE" } }]);
  copying!.refuses = undefined;
  await from.append("d", [naming("f")]);
  return { from, old, to, other, copying: copying!, sweeping: sweeping! };
}

async function namesAt(storage: Storage, at?: number | string): Promise<string> {
  const loaded = await storage.load<NameSet>("d", at === undefined ? {} : { at });
  return `${[...loaded!.doc.names.keys()].join("")} and ${loaded!.held.length}`;
}

async function assertWhole(storage: Storage): Promise<void> {
  expect((await storage.check()).problems).toEqual([]);
  const shown = [undefined, "release", 2].map((at) => namesAt(storage, at));
  expect(await Promise.all(shown)).toEqual(["abcdef and 1", "abcd and 1", "a and 1"]);
}

function later(): { readonly promise: Promise<void>; readonly resolve: () => void } {
  let resolve = () => {};
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}

const SWEEPS = {
  repair: ({ other }: Awaited<ReturnType<typeof interrupted>>) => other.check({ repair: true }),
  "copy of what was there": ({ old, other }: Awaited<ReturnType<typeof interrupted>>) => old.copyTo(other),
};

for (const [what, sweep] of Object.entries(SWEEPS)) {
  test(`[MV43] what a copy finds staged, or stages, is there when its target names it: beside a ${what}`, async () => {
    const seen = new Set<string>();
    for (let held = 0, isOn = true; isOn; held++) {
      for (let before = 1, hasRun = true; hasRun; before += held === 0 ? 1 : 2) {
        const met = await interrupted();
        const { from, to, other, copying, sweeping } = met;
        const [paused, resumed] = [later(), later()];
        // It begins before the copy, as far as its n-th commit, or not before the moment at which the copy is held up.
        let swept: Promise<unknown> | undefined;
        const run = () => {
          swept = sweep(met).finally(() => paused.resolve());
          return swept;
        };
        isOn = held === 0;
        if (held > 0) {
          sweeping.before = held;
          sweeping.run = async () => {
            isOn = true;
            paused.resolve();
            await resumed.promise;
          };
          void run();
          await paused.promise;
          if (!isOn) break;
        }
        hasRun = false;
        copying.before = before;
        copying.run = async () => {
          hasRun = true;
          resumed.resolve();
          await (swept ?? run());
        };
        const result = await from.copyTo(to);
        copying.run = undefined;
        resumed.resolve();
        await swept;
        expect(result.failures, `${held} ${before}`).toEqual([]);
        expect(result.documents).toMatchObject([{ id: "d", clock: 7 }]);
        seen.add(result.documents[0]!.outcome);
        await assertWhole(other);
        expect(await from.copyTo(to)).toMatchObject({ unchanged: 1, failures: [] });
        await clean(from, to, other);
      }
    }
    expect([...seen]).toEqual(["updated"]);
  });
}

const SINCE: Record<string, (other: Storage) => Promise<unknown>> = {
  "deletes it and begins it anew": async (other) => {
    await other.delete("d");
    await (await other.open("d", { recreate: true })).close();
  },
  "tags it": (other) => other.tag("d", "mine"),
  "forgets a tag": (other) => other.untag("d", "release"),
  "goes on and trims it": async (other) => {
    await other.append("d", [naming("mine")]);
    await other.compact("d", { history: "drop" });
  },
};

for (const isThere of [false, true]) {
  for (const [what, act] of Object.entries(SINCE)) {
    const where = isThere ? "brought up to date" : "brought";
    test(`[MV44] whoever ${what}, when a copy has ${where} a document, is no damage`, async () => {
      const shared = memoryBackend({ shared: true });
      const other = await open(shared);
      const from = await open(memoryBackend());
      let isArmed = false;
      const isFlip = ([space, id]: Key) => space === "meta" && id === "d";
      const backend = changed(shared, (opened) => ({
        commit: async (batch) => {
          await opened.commit(batch);
          if (!isArmed || !batch.put?.some(({ key }) => isFlip(key))) return;
          isArmed = false;
          await act(other);
        },
      }));
      // In one commit, or in slices.
      const to = await DocumentStorage.open({ backend, models, snapshotPolicy: never });
      await from.append("d", [naming("a")]);
      if (isThere) await from.copyTo(to);
      for (const name of "bc") await from.append("d", [naming(name)]);
      await from.tag("d", "release");
      isArmed = true;
      expect(await from.copyTo(to)).toMatchObject({ failures: [], documents: [{ id: "d", clock: 3 }] });
      expect(isArmed).toBe(false);
      await clean(from, to, other);
    });
  }
}
