import { systemEnv } from "coppice";
import { expect, test } from "vitest";

test("[BE7] turns come after the promises that are due, in order, and what is asked for in one comes in the next", async () => {
  const { turn } = systemEnv();
  const seen: string[] = [];
  await new Promise<void>((resolve) => {
    turn(() => {
      seen.push("first");
      void Promise.resolve().then(() => seen.push("promise of the first"));
      turn(() => seen.push("asked for in a turn"));
      turn(resolve);
    });
    turn(() => seen.push("second"));
    void Promise.resolve().then(() => seen.push("due before"));
  });
  expect(seen).toEqual(["due before", "first", "second", "promise of the first", "asked for in a turn"]);
});

test("[BE7] a call back that throws is uncaught, and stops none of the others", async () => {
  const { turn } = systemEnv();
  const before = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  try {
    const uncaught = new Promise<unknown>((resolve) => process.once("uncaughtException", resolve));
    const others = new Promise<void>((resolve) => {
      turn(() => {
        throw new Error("of an observer");
      });
      turn(resolve);
    });
    await others;
    expect(await uncaught).toMatchObject({ message: "of an observer" });
  } finally {
    for (const listener of before) process.on("uncaughtException", listener);
  }
});
