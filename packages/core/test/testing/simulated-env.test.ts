/** The simulated environment: chance from a seed, clocks moved by hand. */

import { seededRandom, simulatedEnv } from "coppice/testing";
import { describe, expect, test } from "vitest";

describe("seededRandom", () => {
  test("[TS1] the same seed gives the same numbers, another seed others", () => {
    const draw = (seed: number) => {
      const random = seededRandom(seed);
      return [random.next(), random.int(1000), ...random.bytes(20), random.pick([1, 2, 3, 4, 5, 6])];
    };
    expect(draw(7)).toEqual(draw(7));
    expect(draw(7)).not.toEqual(draw(8));
  });

  test("[TS1] the numbers of a seed never change between versions", () => {
    const random = seededRandom(42);
    expect(Array.from({ length: 6 }, () => random.int(1_000_000))).toEqual([
      294393, 453439, 912565, 291310, 152830, 111337,
    ]);
  });

  test("[TS1] numbers stay within their bounds and reach all of them", () => {
    const random = seededRandom(3);
    const seen = new Set<number>();
    for (let i = 0; i < 5000; i++) {
      const next = random.next();
      expect(next >= 0 && next < 1).toBe(true);
      seen.add(random.int(10));
    }
    expect([...seen].sort()).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect(new Set(random.bytes(5000)).size).toBe(256);
    for (const n of [0, -1, 1.5, Number.NaN, 2 ** 32 + 1]) expect(() => random.int(n)).toThrow(RangeError);
    expect(() => random.pick([])).toThrow(RangeError);
  });

  test("[TS1] a shuffle keeps all items, changes their order and leaves its input alone", () => {
    const items = Object.freeze(Array.from({ length: 50 }, (_, i) => i));
    const shuffled = seededRandom(5).shuffle(items);
    expect(shuffled).not.toEqual(items);
    expect(shuffled.sort((a, b) => a - b)).toEqual(items);
  });
});

describe("simulatedEnv", () => {
  test("[TS1] random bytes follow from the seed", () => {
    expect(simulatedEnv(9).random(32)).toEqual(simulatedEnv(9).random(32));
    expect(simulatedEnv(9).random(32)).not.toEqual(simulatedEnv(10).random(32));
  });

  test("[TS2] time stands still until it is moved, and only the wall clock goes back", async () => {
    const env = simulatedEnv(1, { startMs: 5000 });
    await new Promise<void>((resolve) => env.turn(resolve));
    expect([env.now(), env.elapsed()]).toEqual([5000, 0]);
    env.advance(250);
    expect([env.now(), env.elapsed()]).toEqual([5250, 250]);
    env.jump(-1000);
    expect([env.now(), env.elapsed()]).toEqual([4250, 250]);
    expect(() => env.advance(-1)).toThrow(RangeError);
    expect(() => env.advance(Number.NaN)).toThrow(RangeError);
    expect(new Date(simulatedEnv().now()).toISOString()).toBe("2026-01-01T00:00:00.000Z");
  });

  test("[TS2] delays resolve when time has advanced far enough, earliest first, and not before", async () => {
    const env = simulatedEnv();
    const done: number[] = [];
    const delays = [30, 10, 20].map((ms) => env.delay(ms).then(() => done.push(ms)));
    env.advance(9.5);
    env.jump(1000);
    await new Promise<void>((resolve) => env.turn(resolve));
    expect(done).toEqual([]);
    env.advance(10.5);
    await Promise.all(delays.slice(1));
    expect(done).toEqual([10, 20]);
    expect(env.delayCount).toBe(1);
    env.advance(100);
    await delays[0];
    expect(done).toEqual([10, 20, 30]);
  });

  test("[TS2] an aborted delay rejects with the reason of its signal and waits no more", async () => {
    const env = simulatedEnv();
    const abort = new AbortController();
    const delay = env.delay(10, abort.signal);
    abort.abort("enough");
    await expect(delay).rejects.toBe("enough");
    await expect(env.delay(10, abort.signal)).rejects.toBe("enough");
    expect(env.delayCount).toBe(0);
  });

  test("[TS2] with autoAdvance time moves by itself, to the earliest delay first", async () => {
    const env = simulatedEnv(1, { autoAdvance: true });
    const done: string[] = [];
    const at = (name: string) => () => done.push(`${name} at ${env.elapsed()}`);
    await Promise.all([env.delay(100).then(at("late")), env.delay(10).then(at("early"))]);
    expect(done).toEqual(["early at 10", "late at 100"]);
  });

  test("[TS2] turns go through the given scheduler", () => {
    const waiting: (() => void)[] = [];
    const env = simulatedEnv(1, { turn: (callback) => waiting.push(callback) });
    let turned = false;
    env.turn(() => {
      turned = true;
    });
    expect(turned).toBe(false);
    waiting[0]?.();
    expect(turned).toBe(true);
  });
});
