import { type Env, systemEnv } from "coppice";
import { expect, test } from "vitest";
import { Gathering } from "../../src/base/gathering.js";

/** A gathering under a clock and an event loop that stand still until they are told. */
function harness() {
  let now = 0;
  let turns: (() => void)[] = [];
  let begun = 0;
  let ahead = 0;
  const env: Env = { ...systemEnv(), elapsed: () => now, turn: (callback) => void turns.push(callback) };
  return {
    gathering: new Gathering(
      env,
      () => begun++,
      () => ahead++,
    ),
    begun: () => begun,
    ahead: () => ahead,
    pass: (ms: number) => {
      now += ms;
    },
    asked: () => turns.length,
    turn: () => {
      const due = turns;
      turns = [];
      for (const callback of due) callback();
    },
  };
}

type Harness = ReturnType<typeof harness>;

/** A commit of 64 that took 2 ms and one turn; behind it others came, or nobody. */
function committed({ gathering, pass, turn }: Harness, joinedAfterMs?: number): void {
  gathering.done(2, 0);
  gathering.wait();
  turn();
  turn();
  pass(joinedAfterMs ?? 0);
  if (joinedAfterMs !== undefined) gathering.joined(16);
  pass(2 - (joinedAfterMs ?? 0));
  gathering.done(64, joinedAfterMs === undefined ? 0 : 16);
}

test("[BK53] a commit that seems to be alone begins with the promise reactions that are due, without a turn", async () => {
  const it = harness();
  it.gathering.wait();
  expect(it.begun()).toBe(0);
  await Promise.resolve();
  expect(it.begun()).toBe(1);
  it.gathering.done(1, 0);
  it.gathering.wait();
  await Promise.resolve();
  expect(it.begun()).toBe(2);
});

test("[BK53] one that throws as it begins is uncaught, and stops none of those that wait beside it", async () => {
  const before = process.listeners("unhandledRejection");
  process.removeAllListeners("unhandledRejection");
  try {
    const unhandled = new Promise<unknown>((resolve) => process.once("unhandledRejection", resolve));
    const broken = new Gathering(systemEnv(), () => {
      throw new Error("of a commit");
    });
    const it = harness();
    broken.wait();
    it.gathering.wait();
    expect(await unhandled).toMatchObject({ message: "of a commit" });
    expect(it.begun()).toBe(1);
  } finally {
    for (const listener of before) process.on("unhandledRejection", listener);
  }
});

test("[BK53] where commits hold several, or others wait behind one, the next waits for one turn", async () => {
  for (const [count, behind] of [
    [2, 0],
    [1, 1],
  ] as const) {
    const it = harness();
    it.gathering.done(count, behind);
    it.gathering.wait();
    await Promise.resolve();
    expect(it.begun()).toBe(0);
    it.turn();
    expect(it.begun()).toBe(1);
    it.turn();
    expect(it.begun()).toBe(1);
  }
});

test("[BK54] when all need longer to come than a commit takes, it begins with half of them", () => {
  const it = harness();
  committed(it);
  const before = it.begun();
  it.gathering.wait();
  // 64 would need 3.2 ms, and a commit takes 2.
  it.pass(1.2);
  it.gathering.joined(24);
  expect(it.begun()).toBe(before);
  it.pass(0.4);
  it.gathering.joined(32);
  expect(it.begun()).toBe(before + 1);
  // The turn that was asked for comes too late, and begins nothing twice.
  it.turn();
  expect(it.begun()).toBe(before + 1);
});

test("[BK54] what it takes to make them ready counts as the time that they need to come, and not as the disk's", () => {
  for (const [readyMs, begun] of [
    [3, 1],
    [0.5, 0],
  ] as const) {
    const it = harness();
    committed(it);
    it.gathering.wait();
    it.turn();
    it.pass(readyMs);
    it.gathering.ready(64);
    it.turn();
    it.pass(2);
    it.gathering.done(64, 0);
    const before = it.begun();
    it.gathering.wait();
    it.pass(0.5);
    it.gathering.joined(32);
    expect(it.begun() - before).toBe(begun);
  }
});

test("[BK54] nobody is cut off who comes in a commit's time, after a pause, or before it is known how long one takes", () => {
  const it = harness();
  it.gathering.wait();
  it.pass(1000);
  it.gathering.joined(64);
  expect(it.begun()).toBe(0);

  committed(it);
  const before = it.begun();
  it.gathering.wait();
  for (let count = 1; count <= 64; count++) {
    it.pass(1.9 / 64);
    it.gathering.joined(count);
  }
  expect(it.begun()).toBe(before);
  it.turn();
  expect(it.begun()).toBe(before + 1);
  it.gathering.done(64, 0);

  it.pass(1000);
  it.gathering.wait();
  it.gathering.joined(64);
  expect(it.begun()).toBe(before + 1);
});

test("[BK54] when others came until a commit was done the next begins at once, else it waits for those who were answered", () => {
  for (const [joinedAfterMs, atOnce] of [
    [1.5, 1],
    [0.5, 0],
  ] as const) {
    const it = harness();
    committed(it, joinedAfterMs);
    const before = it.begun();
    it.gathering.next();
    expect(it.begun() - before).toBe(atOnce);
    it.turn();
    expect(it.begun() - before).toBe(1);
  }
});

test("[BK54] nobody is cut off where commits hold up the thread, since nothing is done beside them", () => {
  const it = harness();
  it.gathering.done(2, 0);
  it.gathering.wait();
  it.turn();
  it.pass(2);
  it.gathering.done(64, 0);
  it.gathering.wait();
  it.pass(3);
  it.gathering.joined(56);
  expect(it.begun()).toBe(1);
  it.turn();
  expect(it.begun()).toBe(2);
});

test("[BK55] after 5 ms of commits without a turn of the event loop the next waits for one, however many come", async () => {
  const lone = harness();
  const commit = async () => {
    lone.gathering.wait();
    await Promise.resolve();
    lone.pass(1);
    lone.gathering.done(1, 0);
  };
  for (let count = 0; count < 10; count++) await commit();
  expect(lone.begun()).toBe(6);
  lone.turn();
  expect(lone.begun()).toBe(7);

  const many = harness();
  committed(many, 1.5);
  const before = many.begun();
  many.gathering.next();
  expect(many.begun()).toBe(before + 1);
  many.pass(6);
  many.gathering.joined(16);
  many.gathering.done(64, 16);
  many.gathering.next();
  many.gathering.joined(64);
  expect(many.begun()).toBe(before + 1);
  many.turn();
  expect(many.begun()).toBe(before + 2);
});

/** A commit of 32 that took 2 ms, with others behind it who are under way now; `held`: without a turn meanwhile. */
function halved(behind = 32, held = false): Harness {
  const it = harness();
  committed(it);
  if (held) it.gathering.began();
  it.gathering.done(32, behind);
  it.gathering.began();
  it.turn();
  return it;
}

test("[BK58] the last who may come takes all ahead, when they needed a third of a commit's time", () => {
  const it = halved();
  it.pass(0.5);
  for (let count = 1; count <= 31; count++) it.gathering.joined(count, 32);
  expect(it.ahead()).toBe(0);
  it.pass(0.2);
  it.gathering.joined(32, 32);
  expect(it.ahead()).toBe(1);
  const early = halved();
  for (let count = 1; count <= 32; count++) early.gathering.joined(count, 32);
  expect(early.ahead()).toBe(0);
});

test("[BK55] after 5 ms of commits without a turn of the event loop nobody is taken ahead before there was one", () => {
  const it = halved();
  // One that was taken ahead has failed already.
  it.gathering.began();
  it.pass(5.1);
  it.gathering.joined(32, 32);
  expect(it.ahead()).toBe(0);
  it.turn();
  it.gathering.joined(32, 32);
  expect(it.ahead()).toBe(1);
});

test("[BK58] few are not taken ahead, nor anybody where commits hold up the thread", () => {
  const few = halved(15);
  few.pass(1.9);
  few.gathering.joined(15, 32);
  expect(few.ahead()).toBe(0);
  const held = halved(32, true);
  held.pass(1.9);
  held.gathering.joined(32, 32);
  expect(held.ahead()).toBe(0);
});
