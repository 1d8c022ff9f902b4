/**
 * Cases about races: writers on one key, readers beside writers, close beside commits. Whether they raced
 * at all is up to the backend and the machine; a case that saw no race is inconclusive.
 */

import { isCoppiceError } from "../base/errors.js";
import type { Entry } from "../contract/backend.js";
import type { Guard } from "../contract/guard.js";
import { plainValue } from "../contract/shapes.js";
import { sharing } from "./backend-cases-life.js";
import {
  assert,
  assertTried,
  awaitedLater,
  type BackendCase,
  backendCase,
  bytes,
  type Store,
  scanAll,
} from "./cases.js";

const COUNTER = ["meta", "counter"] as const;
const number = (value: Uint8Array | undefined): number =>
  value === undefined ? 0 : Number(new TextDecoder().decode(plainValue(value)));

export const raceCases: readonly BackendCase[] = [
  backendCase(
    "BK12",
    "of increments by several opens none is lost and none counts twice",
    increments,
    sharing,
  ),
  backendCase("BK28", "what one open was told is stored, all others read at once", readsOfOthers, sharing),
  backendCase("BK28", "a reader beside a writer never sees it go back", (store) => readers(store)),
  backendCase("BK28", "a commit beside close is stored exactly if it was acknowledged", closing),
];

/** Each writer reads, adds one, and expects what it read; a conflict is tried again. */
async function increments(store: Store): Promise<void> {
  const guards: Guard[] = [store.guard];
  while (guards.length < 4) guards.push(await store.open());
  let conflicts = 0;
  const each = 25;
  const add = async (guard: Guard, writer: number) => {
    for (let i = 0; i < each; ) {
      const before = await guard.get(COUNTER);
      try {
        await guard.commit({
          put: [
            { key: COUNTER, value: bytes(`${number(before) + 1}`) },
            { key: ["events", `writer${writer}`, i], value: bytes("x") },
          ],
          expect: [{ key: COUNTER, value: before }],
        });
        i++;
      } catch (error) {
        if (!isCoppiceError(error, "COMMIT_CONFLICT")) throw error;
        conflicts++;
      }
    }
  };
  await Promise.all(guards.map(add));
  const counted = number(await store.guard.get(COUNTER));
  const expected = guards.length * each;
  assert(counted === expected, `the counter says ${counted} after ${expected} increments`);
  const traces = (await scanAll(store.guard, { space: "events" })).length;
  assert(traces === expected, `${expected} increments left the traces of ${traces}`);
  assertTried(conflicts > 0, "no writer ever met another");
}

async function readsOfOthers(store: Store): Promise<void> {
  const guards: Guard[] = [store.guard];
  while (guards.length < 3) guards.push(await store.open());
  for (let i = 1; i <= 60; i++) {
    const writer = store.random.pick(guards);
    await writer.commit({ put: [{ key: COUNTER, value: bytes(`${i}`) }] });
    for (const guard of guards) {
      const seen = number(await guard.get(COUNTER));
      assert(seen === i, `commit ${i} was acknowledged, and another open still reads ${seen}`);
    }
  }
}

/** Commits move a counter and an event together; a reader that looks again must not see an older state. */
async function readers(store: Store): Promise<void> {
  const { backend } = store;
  let done = false;
  const writing = (async () => {
    for (let n = 1; n <= 150; n++) {
      const put: Entry[] = [
        { key: COUNTER, value: bytes(`${n}`) },
        { key: ["events", "doc", n], value: bytes(`${n}`) },
      ];
      await backend.commit({ put });
      if (n % 10 === 0) await new Promise<void>((resolve) => store.env.turn(resolve));
    }
  })().finally(() => {
    done = true;
  });
  const seen = new Set<number>();
  let last = 0;
  const reading = (async () => {
    while (!done) {
      const counter = number(await backend.get(COUNTER));
      assert(counter >= last, `a reader saw ${last}, and then ${counter}`);
      seen.add(counter);
      const events = (await scanAll(backend, { space: "events", id: "doc" })).length;
      assert(events >= counter, `the counter said ${counter}, and then there were ${events} events`);
      last = events;
      await new Promise<void>((resolve) => store.env.turn(resolve));
    }
  })();
  await Promise.all([writing, reading]);
  assertTried(seen.size > 2, "the reader never met the writer at work");
}

async function closing(store: Store): Promise<void> {
  let [stored, refused] = [0, 0];
  for (let round = 0; round < 12; round++) {
    const { guard } = store;
    const ids = Array.from({ length: 8 }, (_, i) => `doc${round}.${i}`);
    const commit = (id: string) => guard.commit({ put: [{ key: ["meta", id], value: bytes("x") }] });
    const before = ids.slice(0, 4).map(commit);
    for (let turns = store.random.below(3); turns > 0; turns--) await Promise.resolve();
    const closed = awaitedLater(guard.close());
    const outcomes = await Promise.allSettled([...before, ...ids.slice(4).map(commit)]);
    await closed;
    await store.open();
    for (const [i, outcome] of outcomes.entries()) {
      const there = (await store.guard.get(["meta", ids[i]!])) !== undefined;
      const told = outcome.status === "fulfilled";
      assert(
        told === there,
        `a commit beside close was ${outcome.status}, and is ${there ? "" : "not "}there`,
      );
      if (told) stored++;
      else refused++;
    }
  }
  assertTried(
    stored > 0 && refused > 0,
    `of the commits beside close ${stored} were taken, ${refused} refused`,
  );
}
