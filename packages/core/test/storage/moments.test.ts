import {
  type Backend,
  type BackendFactory,
  DocumentStorage,
  isCoppiceError,
  memoryBackend,
  never,
} from "coppice";
import { seededRandom, simulatedBackend, simulatedEnv } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { type NameSet, nameSet, naming } from "../../../../test/support/oracle-model.js";

const open = (env = simulatedEnv(1), backend = simulatedBackend()) =>
  DocumentStorage.open({ backend, models: [nameSet()], snapshotPolicy: never, env });

const clockAt = async (storage: Awaited<ReturnType<typeof open>>, at: Date) =>
  (await storage.load<NameSet>("d", { at }))?.clock;

describe("a past version", () => {
  test("[HI10] a date stands for the last batch stored at or before it, whatever the batches are", async () => {
    const random = seededRandom(10);
    for (let round = 0; round < 30; round++) {
      const env = simulatedEnv(round);
      const storage = await open(env);
      const created = env.now();
      const batches: { time: number; end: number }[] = [];
      let clock = 0;
      for (let left = random.int(40); left > 0; left--) {
        env.advance(random.int(4) * 10);
        const count = 1 + random.int(5);
        const events = Array.from({ length: count }, (_, index) => naming(`${clock + index}`));
        clock = (await storage.append("d", events)).clock;
        batches.push({ time: env.now(), end: clock });
      }
      if (batches.length === 0) await storage.open("d");
      const last = (batches.at(-1)?.time ?? created) + 20;
      for (let time = (batches[0]?.time ?? created) - 5; time <= last; time += 5) {
        const before = batches.findLast((batch) => batch.time <= time);
        const expected = time < (batches[0]?.time ?? created) ? undefined : (before?.end ?? 0);
        expect(await clockAt(storage, new Date(time))).toBe(expected);
      }
      expect((await storage.check()).problems).toEqual([]);
      await storage.close();
    }
  });

  test("[HI10] a clock that jumps back does not make a date go back in the log", async () => {
    const env = simulatedEnv(1);
    const storage = await open(env);
    await storage.append("d", [naming("a")]);
    const first = env.now();
    env.advance(1000);
    await storage.append("d", [naming("b")]);
    env.jump(-5000);
    await storage.append("d", [naming("c")]);
    expect(await clockAt(storage, new Date(first + 999))).toBe(1);
    expect(await clockAt(storage, new Date(first + 1000))).toBe(3);
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });

  test("[HI11] a moment before what is kept is TRIMMED, and names what there is instead", async () => {
    const env = simulatedEnv(1);
    const storage = await open(env);
    const dates: Date[] = [];
    for (let index = 0; index < 10; index++) {
      env.advance(1000);
      await storage.append("d", [naming(`n${index}`)]);
      dates.push(new Date(env.now()));
    }
    await storage.tag("d", "four", 4);
    await storage.compact("d");
    for (const at of [3, 5, dates[4]!]) {
      await expect(storage.load("d", { at })).rejects.toMatchObject({
        code: "TRIMMED",
        details: { oldest: 9, tags: ["four@4"] },
      });
    }
    expect((await storage.load("d", { at: 4 }))!.clock).toBe(4);
    expect(await clockAt(storage, dates[9]!)).toBe(10);
    env.advance(1);
    await storage.append("d", [naming("n")]);
    expect(await clockAt(storage, dates[9]!)).toBe(10);
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });

  test("[HI10] a document did not exist before it was created, nor before it was recreated", async () => {
    const env = simulatedEnv(1);
    const storage = await open(env, undefined);
    await storage.append("d", [naming("a")]);
    const first = new Date(env.now());
    env.advance(1000);
    await storage.delete("d");
    env.advance(1000);
    await storage.open("d", { recreate: true });
    const second = new Date(env.now());
    env.advance(1000);
    await storage.append("d", [naming("b")]);
    expect(await storage.load("d", { at: first })).toBe(undefined);
    expect(await clockAt(storage, second)).toBe(1);
    expect(await clockAt(storage, new Date(env.now()))).toBe(2);
    expect((await storage.check()).problems).toEqual([]);
    await storage.close();
  });

  test("[HI15] a read or a load up to a past clock that a trim overtakes is whole, or TRIMMED", async () => {
    for (const history of ["drop", "archive"] as const) {
      const shared = simulatedBackend({ exclusive: false });
      const options = { models: [nameSet()], snapshotPolicy: never, history } as const;
      const writer = await DocumentStorage.open({ ...options, backend: shared });
      let overtake: (() => Promise<unknown>) | undefined;
      const backend: BackendFactory = {
        name: "overtaken",
        open: async (env) => {
          const inner = await shared.open(env);
          const scan: Backend["scan"] = async function* (range, scanOptions) {
            const now = overtake;
            if (range.space === "events") overtake = undefined;
            if (range.space === "events") await now?.();
            yield* inner.scan(range, scanOptions);
          };
          return { ...inner, traits: inner.traits, scan };
        },
      };
      const reader = await DocumentStorage.open({ ...options, backend });
      for (let index = 0; index < 6; index++) await writer.append("d", [naming(`n${index}`)]);
      await writer.compact("d");
      await writer.append("d", [naming("n6")]);
      const trim = async () => {
        await writer.append("d", [naming("n7")]);
        await writer.append("d", [naming("n8")]);
        await writer.compact("d");
        await writer.compact("d", { force: true });
      };
      const codes: string[] = [];
      const told = (error: unknown) => void codes.push(isCoppiceError(error) ? error.code : String(error));
      const before = (await reader.info("d"))!;
      overtake = trim;
      const read: number[] = [];
      try {
        for await (const { clock } of reader.read("d", { from: 5, to: 6 })) read.push(clock);
      } catch (error) {
        told(error);
      }
      overtake = trim;
      const at = (await writer.info("d"))!.clock - 1;
      const handle = await reader.load<NameSet>("d", { at }).catch(told);
      expect(before.oldestClock).toBe(5);
      if (history === "archive") {
        expect({ read, codes, clock: handle?.clock }).toEqual({ read: [5], codes: [], clock: at });
      } else {
        expect({ read, codes, handle }).toEqual({
          read: [],
          codes: ["TRIMMED", "TRIMMED"],
          handle: undefined,
        });
      }
      expect((await writer.check()).problems).toEqual([]);
      await reader.close();
      await writer.close();
    }
  });

  test("[HI12] a load at a clock that lies beyond the head is refused; at the head it is not writable", async () => {
    const storage = await DocumentStorage.open({ backend: memoryBackend(), models: [nameSet()] });
    await storage.append("d", [naming("a")]);
    await expect(storage.load("d", { at: 2 })).rejects.toMatchObject({ code: "ARGUMENT_INVALID" });
    const handle = await storage.load("d", { at: 1 });
    expect(handle!.writable).toBe(false);
    expect(() => handle!.change(() => undefined)).toThrow("past");
    await storage.close();
  });
});
