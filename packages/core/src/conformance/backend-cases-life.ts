/**
 * Cases about the life of a backend: opening, closing, locking, sharing, crashing, and what is there
 * afterwards. A trait chooses between a case and its negative twin; both directions are tested.
 */

import type { Entry } from "../contract/backend.js";
import {
  assert,
  assertBytes,
  assertLines,
  assertRejects,
  type BackendCase,
  type BackendSubject,
  backendCase,
  bytes,
  declared,
  type Store,
  scanAll,
  show,
} from "./cases.js";

/** For cases of backends that nobody else can write to while they are open. */
export async function exclusive(subject: BackendSubject): Promise<string | undefined> {
  return (await declared(subject)).traits.exclusive ? undefined : "the backend is shared";
}

/** For cases of backends that several can have open. */
export async function sharing(subject: BackendSubject): Promise<string | undefined> {
  return (await declared(subject)).traits.exclusive ? "the backend is exclusive" : undefined;
}

async function watching(subject: BackendSubject): Promise<string | undefined> {
  const { traits, watches } = await declared(subject);
  if (traits.exclusive) return "the backend is exclusive";
  return watches ? undefined : "the backend has no watch";
}

const VALUE = bytes("x");

export const lifeCases: readonly BackendCase[] = [
  backendCase("BK13", "closing and opening again continues with the same data", async (store) => {
    await store.guard.commit({ put: [{ key: ["events", "doc", 1], value: VALUE }] });
    await store.guard.commit({
      put: [{ key: ["events", "doc", 2], value: VALUE }],
      delete: [["events", "doc", 1]],
    });
    const before = await store.dump();
    assertLines(before, [show({ key: ["events", "doc", 2], value: VALUE })], "before closing");
    for (let i = 0; i < 3; i++) {
      await store.reopen();
      assertLines(await store.dump(), before, `after reopening ${i + 1} times`);
    }
  }),
  backendCase("BK13", "closing loses nothing of commits that are on their way", async (store) => {
    const commits = Array.from({ length: 100 }, (_, i) =>
      store.guard.commit({ put: [{ key: ["events", `doc${i % 3}`, i], value: VALUE }] }),
    );
    await Promise.all([...commits, store.close()]);
    await store.open();
    assert((await store.dump()).length === 100, "an acknowledged commit is lost");
  }),
  backendCase("BK14", "after close every call rejects with CLOSED", async (store) => {
    const { guard } = store;
    await store.close();
    await assertRejects("CLOSED", "get", () => guard.get(["events", "doc"]));
    await assertRejects("CLOSED", "scan", () => scanAll(guard, { space: "events" }));
    await assertRejects("CLOSED", "commit", () =>
      guard.commit({ put: [{ key: ["events", "doc"], value: VALUE }] }),
    );
    await store.open();
    assertLines(await store.dump(), [], "what the refused commit left");
  }),
  backendCase("BK14", "closing twice, or twice at once, is closing once", async (store) => {
    const { guard } = store;
    await Promise.all([guard.close(), guard.close()]);
    await guard.close();
    await store.reopen();
  }),
  backendCase("BK14", "a read that is under way when close is called settles", async (store) => {
    await store.guard.commit({ put: [{ key: ["events", "doc", 1], value: VALUE }] });
    const reads = Array.from({ length: 20 }, () => store.guard.get(["events", "doc", 1]));
    const settled = Promise.allSettled(reads);
    await store.close();
    for (const outcome of await settled) {
      if (outcome.status === "fulfilled") assertBytes(outcome.value, VALUE, "a read beside close");
    }
    await store.open();
  }),
  backendCase(
    "BK15",
    "a second open is LOCKED, harms nothing, and succeeds after close",
    async (store) => {
      const key = ["events", "doc", 1] as const;
      await store.guard.commit({ put: [{ key, value: VALUE }] });
      for (let i = 0; i < 3; i++) {
        await assertRejects("LOCKED", "a second open", () => store.factory.open(store.env));
      }
      assertBytes(await store.guard.get(key), VALUE, "the first open, after the refusal");
      await store.guard.commit({ put: [{ key: ["events", "doc", 2], value: VALUE }] });
      await store.reopen();
      assert((await store.dump()).length === 2, "a commit is lost");
    },
    exclusive,
  ),
  backendCase(
    "BK15",
    "of many opens at once exactly one succeeds",
    async (store) => {
      await store.close();
      const opens = await Promise.allSettled(Array.from({ length: 5 }, () => store.open()));
      const won = opens.filter((outcome) => outcome.status === "fulfilled").length;
      assert(won === 1, `${won} of 5 opens succeeded`);
    },
    exclusive,
  ),
  backendCase(
    "BK16",
    "a second open of a shared backend succeeds and sees the commits of the first",
    async (store) => {
      const first = store.guard;
      const second = await store.open();
      await first.commit({ put: [{ key: ["events", "doc", 1], value: VALUE }] });
      assertBytes(await second.get(["events", "doc", 1]), VALUE, "the other's commit");
      await second.commit({ delete: [["events", "doc", 1]] });
      assertBytes(await first.get(["events", "doc", 1]), undefined, "what the other deleted");
      await first.close();
      await second.commit({ put: [{ key: ["events", "doc", 2], value: VALUE }] });
      assertBytes(await second.get(["events", "doc", 2]), VALUE, "after the first has closed");
    },
    sharing,
  ),
  backendCase("BK16", "`watch` tells of another's commit, and not after it was stopped", watches, watching),
  backendCase("BK20", "thousands of abandoned scans hold nothing back", async (store) => {
    const put = Array.from({ length: 50 }, (_, i): Entry => ({ key: ["events", "doc", i], value: VALUE }));
    await store.guard.commit({ put });
    for (let i = 0; i < 2000; i++) {
      const scan: AsyncIterable<readonly Entry[]> = store.guard.scan(
        { space: "events" },
        { pageBytesMax: 1 },
      );
      const pages = scan[Symbol.asyncIterator]();
      // Every tenth is dropped without a word before its first page.
      if (i % 10 === 0) continue;
      await pages.next();
      await pages.return?.();
    }
    await store.guard.commit({ put: [{ key: ["events", "doc", 99], value: VALUE }] });
    await store.reopen();
    assert((await store.dump()).length === 51, "an entry is missing");
  }),
  backendCase("BK20", "opening and closing many times leaves the data as they were", async (store) => {
    await store.guard.commit({ put: [{ key: ["events", "doc", 1], value: VALUE }] });
    const before = await store.dump();
    for (let i = 0; i < 20; i++) await store.reopen();
    assertLines(await store.dump(), before, "after 20 reopenings");
  }),
];

async function watches(store: Store): Promise<void> {
  const first = store.guard;
  const second = await store.open();
  let hintCount = 0;
  const stop = first.watch(() => {
    hintCount++;
  });
  await second.commit({ put: pair(1) });
  for (let i = 0; i < 500 && hintCount === 0; i++) await store.env.delay(10);
  assert(hintCount > 0, "no hint came within 5 s of the commit");
  stop();
  const before = hintCount;
  await second.commit({ put: pair(2) });
  await store.env.delay(50);
  assert(hintCount === before, "a hint came after watching was stopped");
}

/** Two keys that one commit puts, in different spaces. */
function pair(i: number): Entry[] {
  return [
    { key: ["events", "doc", i], value: VALUE },
    { key: ["meta", `doc${i}`], value: VALUE },
  ];
}
