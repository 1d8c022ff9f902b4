/**
 * Cases about crashes: the death of the process, and the loss of power. What was acknowledged is there,
 * what was in flight is there whole or not at all, in the order of its writer, and stays so.
 *
 * The subject brings the crash (`crash`, `powerLoss`); the same cases run for both. Calls that a crash
 * overtakes may never settle, so none is awaited after it.
 */

import type { Durability, Entry } from "../contract/backend.js";
import type { Guard } from "../contract/guard.js";
import {
  assert,
  assertBytes,
  assertLines,
  assertRejects,
  awaitedLater,
  type BackendCase,
  type BackendSubject,
  backendCase,
  bytes,
  declared,
  fail,
  pipelining,
  type Store,
  scanAll,
} from "./cases.js";

type End = "crash" | "powerLoss";

const NAMES: Readonly<Record<End, string>> = {
  crash: "the death of the process",
  powerLoss: "a loss of power",
};
const DURABILITY: Readonly<Record<End, Durability>> = { crash: "process", powerLoss: "power" };
const ENDS: readonly End[] = ["crash", "powerLoss"];
const VALUE = bytes("x");
/** How many events a document of these cases keeps: each commit deletes the one that falls out. */
const WINDOW = 10;
const ROUNDS = 6;

export const crashCases: readonly BackendCase[] = ENDS.flatMap((end) => [
  crashCase(end, "BK13", (name) => `what was acknowledged survives ${name}`, acknowledged),
  crashCase(end, "BK3", (name) => `after ${name} each commit is there as a whole or not at all`, wholes),
  crashCase(
    end,
    "BK25",
    (name) => `${name} leaves what one writer wrote up to some commit`,
    (store) => prefixes(store, end, 1),
  ),
  crashCase(
    end,
    "BK25",
    (name) => `${name} leaves what each of eight writers wrote up to some commit`,
    (store) => prefixes(store, end, 8),
  ),
  crashCase(end, "BK25", (name) => `what ${name} left is the same at every opening, and after another`, same),
  crashCase(end, "BK25", (name) => `what was deleted or replaced stays so through ${name}`, deletions),
  crashCase(
    end,
    "BK25",
    (name) => `after ${name} the store is free, and expectations meet what is there`,
    free,
  ),
  backendCase(
    "BK57",
    `of commits that are called while one is under way, ${NAMES[end]} leaves those up to some commit`,
    (store) => ahead(store, end),
    async (subject) => (await pipelining(subject)) ?? needs(subject, end, true),
  ),
]);

function crashCase(
  end: End,
  rule: string,
  title: (name: string) => string,
  run: (store: Store, end: End) => Promise<void>,
): BackendCase {
  return backendCase(
    rule,
    title(NAMES[end]),
    (store) => run(store, end),
    // That commits are whole is promised by every backend.
    (subject) => needs(subject, end, rule !== "BK3"),
  );
}

async function needs(subject: BackendSubject, end: End, promised: boolean): Promise<string | undefined> {
  const { durability } = (await declared(subject)).traits;
  const survives = end === "crash" ? durability !== "none" : durability === "power";
  if (subject[end] === undefined) {
    // A report without failures must not look as if it vouched for what the backend claims.
    const untested = survives ? `: durability "${DURABILITY[end]}" was not tested` : "";
    return `the subject cannot simulate ${NAMES[end]}${untested}`;
  }
  if (!promised) return undefined;
  return survives ? undefined : `the backend does not promise to survive ${NAMES[end]}`;
}

async function acknowledged(store: Store, end: End): Promise<void> {
  for (let round = 0; round < 5; round++) {
    for (let i = 0; i < 20; i++) await store.guard.commit({ put: pair(round * 20 + i) });
    await store.crash(end);
    const [found, expected] = [(await store.dump()).length, (round + 1) * 40];
    assert(found === expected, `${found} entries, where ${expected} were acknowledged`);
  }
}

async function wholes(store: Store, end: End): Promise<void> {
  const commits = Array.from({ length: 50 }, (_, i) => store.guard.commit({ put: pair(i) }));
  void Promise.allSettled(commits);
  await Promise.race(commits);
  await store.crash(end);
  const found = await scanAll(store.backend, { space: "events" });
  for (const { key } of found) {
    const twin = await store.backend.get(["meta", `doc${key[2]}`]);
    assertBytes(twin, VALUE, `the other half of commit ${key[2]}`);
  }
  const twins = await scanAll(store.backend, { space: "meta" });
  assert(twins.length === found.length, `${found.length} first and ${twins.length} second halves of commits`);
  await store.guard.commit({ put: pair(1000) });
}

/** What one writer knows: numbers below `known` are stored, those from `submitted` on are not. */
interface Progress {
  readonly id: string;
  known: number;
  submitted: number;
  over: boolean;
}

/** Writers that number their events are crashed at a moment of chance, go on from what is left, and again. */
async function prefixes(store: Store, end: End, writerCount: number): Promise<void> {
  const writers: Progress[] = Array.from({ length: writerCount }, (_, i) => ({
    id: `doc${i}`,
    known: 0,
    submitted: 0,
    over: false,
  }));
  for (let round = 0; round < ROUNDS; round++) {
    const enough = 1 + store.random.below(15);
    const before: number[] = [];
    try {
      await Promise.race(writers.map((writer) => write(store.guard, writer, writer.known + enough)));
      before.push(...writers.map(({ known }) => known));
      await store.crash(end);
    } finally {
      // Whatever has become of the crash, nobody writes beyond the round.
      for (const writer of writers) writer.over = true;
    }
    for (const [i, writer] of writers.entries()) {
      const last = await lastOf(store, writer.id);
      assert(last >= before[i]!, `${writer.id}: lost ${before[i]! - last} acknowledged commits`);
      assert(last <= writer.submitted, `${writer.id}: commit ${last} was never submitted`);
      // A new writer with the old one's name: the old one may still be waiting for an answer.
      writers[i] = { id: writer.id, known: last, submitted: last, over: false };
    }
  }
}

/** Resolves when `enough` are acknowledged, and goes on writing until a crash or the round ends it. */
function write(guard: Guard, writer: Progress, enough: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const go = async () => {
      while (!writer.over) {
        const n = writer.submitted++;
        const old = n - WINDOW;
        await guard.commit({
          put: [
            { key: ["events", writer.id, n], value: bytes(`event ${n}`) },
            { key: ["meta", writer.id], value: bytes(`${n + 1}`) },
          ],
          delete: old < 0 ? [] : [{ space: "events", id: writer.id, to: old + 1 }],
          expect: [{ key: ["meta", writer.id], value: n === 0 ? undefined : bytes(`${n}`) }],
        });
        writer.known = n + 1;
        if (writer.known === enough) resolve();
      }
    };
    // Before the crash a rejection is a failure; after it nobody listens any more.
    go().catch(reject);
  });
}

/** How many commits of this writer are there; fails unless what is there is exactly what they leave. */
async function lastOf(store: Store, id: string): Promise<number> {
  const meta = await store.backend.get(["meta", id]);
  const last = meta === undefined ? 0 : Number(new TextDecoder().decode(meta));
  const found = await scanAll(store.backend, { space: "events", id });
  const expected: number[] = [];
  for (let n = Math.max(0, last - WINDOW); n < last; n++) expected.push(n);
  const numbers = found.map(({ key }) => key[2]);
  if (numbers.join() !== expected.join()) {
    return fail(`${id} says that it has ${last} events; there are those of [${numbers}], not [${expected}]`);
  }
  for (const { key, value } of found)
    assertBytes(value, bytes(`event ${key[2]}`), `event ${key[2]} of ${id}`);
  return last;
}

async function same(store: Store, end: End): Promise<void> {
  for (let i = 0; i < 30; i++) await store.guard.commit({ put: pair(i) });
  await store.crash(end);
  const before = await store.dump();
  for (let i = 0; i < 3; i++) {
    await store.reopen();
    assertLines(await store.dump(), before, `at opening ${i + 2}`);
  }
  await store.crash(end);
  assertLines(await store.dump(), before, "after a second crash, with nothing written between");
}

async function deletions(store: Store, end: End): Promise<void> {
  const put = Array.from({ length: 50 }, (_, i): Entry => ({ key: ["events", "doc", i], value: VALUE }));
  await store.guard.commit({ put: [...put, { key: ["meta", "doc"], value: bytes("old") }] });
  await store.guard.commit({ delete: [{ space: "events", id: "doc", to: 40 }] });
  await store.guard.commit({
    delete: [["events", "doc", 45]],
    put: [{ key: ["meta", "doc"], value: bytes("new") }],
  });
  const before = await store.dump();
  assert(before.length === 10, `${before.length} entries are left of 51`);
  for (let i = 0; i < 3; i++) {
    await store.crash(end);
    assertLines(await store.dump(), before, "after the crash");
  }
}

async function free(store: Store, end: End): Promise<void> {
  const key = ["meta", "doc"] as const;
  for (let round = 0; round < 4; round++) {
    const [old, now] = [bytes(`${round - 1}`), bytes(`${round}`)];
    await store.guard.commit({
      put: [{ key, value: now }],
      expect: [{ key, value: round === 0 ? undefined : old }],
    });
    await store.crash(end);
    await assertRejects("COMMIT_CONFLICT", "a writer from before the crash", () =>
      store.guard.commit({ put: [{ key, value: bytes("stale") }], expect: [{ key, value: old }] }),
    );
    assertBytes(await store.guard.get(key), now, "what was acknowledged before the crash");
  }
}

/** Numbered commits on a few documents, always two of them at a time, until a moment of chance. */
async function ahead(store: Store, end: End): Promise<void> {
  const next = { number: 0, known: 0 };
  const commit = async (): Promise<void> => {
    const n = next.number++;
    await store.backend.commit({ put: [{ key: ["events", `doc${n % 3}`, n], value: bytes(`${n}`) }] });
    assert(next.known === n, `commit ${n} was acknowledged before commit ${next.known}`);
    next.known++;
  };
  for (let round = 0; round < ROUNDS; round++) {
    let before = awaitedLater(commit());
    for (let i = store.random.below(20); i >= 0; i--) {
      const outcome = awaitedLater(commit());
      await before;
      before = outcome;
    }
    const { known, number } = next;
    await store.crash(end);
    const found: number[] = [];
    for (let id = 0; id < 3; id++)
      for (const { key } of await scanAll(store.backend, { space: "events", id: `doc${id}` }))
        found.push(key[2]!);
    found.sort((a, b) => a - b);
    const last = found.length;
    assert(
      found.every((n, i) => n === i),
      `there are [${found}], which is not all up to some commit`,
    );
    assert(last >= known, `lost ${known - last} acknowledged commits`);
    assert(last <= number, `commit ${last} was never submitted`);
    next.number = last;
    next.known = last;
  }
}

/** Two keys that one commit puts, in different spaces. */
function pair(i: number): Entry[] {
  return [
    { key: ["events", "doc", i], value: VALUE },
    { key: ["meta", `doc${i}`], value: VALUE },
  ];
}
