/**
 * Cases about scans: exactly the keys of the range, in order, in pages that are each one consistent view, and
 * nothing held once the caller has stopped.
 */

import type { Entry, Range, ScanOptions } from "../contract/backend.js";
import { NaiveStore } from "./backend-cases-naive.js";
import {
  assert,
  assertLines,
  assertRejects,
  assertTried,
  awaitedLater,
  type BackendCase,
  backendCase,
  bytes,
  eachPage,
  fail,
  type Store,
  scanAll,
  scanPages,
  show,
} from "./cases.js";

const NEIGHBOURS = ["A", "AAAA", "AAAAA", "AAAAA\0", "AAAAAB", "AAAAB", "AB", "B", "é", "😀", "\uFF5E"];

export const scanCases: readonly BackendCase[] = [
  backendCase(
    "BK5",
    "a range of one id holds its keys from `from` to before `to`, in either order",
    async (store) => {
      const naive = await fill(store);
      const bounds = [undefined, 0, 1, 2, 3, 4, 10, Number.MAX_SAFE_INTEGER];
      for (const id of ["AAAAA", "AAAAAB", "AAAAA\0", "absent"]) {
        for (const from of bounds) {
          for (const to of bounds) {
            const range: Range = {
              space: "events",
              id,
              ...(from === undefined ? {} : { from }),
              ...(to === undefined ? {} : { to }),
            };
            await compare(store, naive, range, {});
            await compare(store, naive, range, { reverse: true });
          }
        }
      }
    },
  ),
  backendCase("BK5", "a range of a space holds no key of a neighbouring space", async (store) => {
    const naive = await fill(store);
    for (const space of ["a", "aa", "events", "eventsx", "meta"]) await compare(store, naive, { space }, {});
  }),
  backendCase("BK5", "`idPrefix` and `after` hold exactly the ids they say", async (store) => {
    const naive = await fill(store);
    const prefixes = [undefined, "", "A", "AAAAA", "AAAAA\0", "AAAAAB", "AAAAAC", "absent", "é", "😀"];
    const afters = [
      undefined,
      "",
      "\0",
      "A",
      "AAAAA",
      "AAAAA\0",
      "AAAAAA",
      "AAAAAB",
      "B",
      "\uFF5E",
      "😀",
      "zzz",
    ];
    for (const idPrefix of prefixes) {
      for (const after of afters) {
        const range: Range = {
          space: "events",
          ...(idPrefix === undefined ? {} : { idPrefix }),
          ...(after === undefined ? {} : { after }),
        };
        await compare(store, naive, range, {});
        await compare(store, naive, range, { reverse: true, limit: 5 });
      }
    }
  }),
  backendCase("BK5", "empty and inverted ranges hold nothing", async (store) => {
    await fill(store);
    const ranges: Range[] = [
      { space: "z" },
      { space: "events", id: "AAAAA", from: 2, to: 2 },
      { space: "events", id: "AAAAA", from: 3, to: 1 },
      { space: "events", idPrefix: "A", after: "B" },
    ];
    for (const range of ranges) {
      for (const reverse of [false, true]) {
        const found = await scanAll(store.backend, range, { reverse });
        assertLines(found.map(show), [], `${JSON.stringify(range)}${reverse ? ", reverse" : ""}`);
      }
    }
  }),
  backendCase("BK6", "`limit` counts entries over all pages, forward and in reverse", async (store) => {
    const naive = await fill(store);
    for (const limit of [0, 1, 2, 3, 7, 1000]) {
      for (const reverse of [false, true]) {
        for (const pageBytesMax of [1, 40, 1_000_000]) {
          await compare(store, naive, { space: "events" }, { limit, reverse, pageBytesMax });
        }
      }
    }
  }),
  backendCase("BK6", "`values: false` gives the same keys with empty values", async (store) => {
    const naive = await fill(store);
    for (const reverse of [false, true]) {
      await compare(store, naive, { space: "events" }, { values: false, reverse });
    }
  }),
  backendCase("BK6", "pages are never empty and keep near `pageBytesMax`", async (store) => {
    const value = new Uint8Array(1000);
    const put = Array.from({ length: 100 }, (_, seq): Entry => ({ key: ["events", "doc", seq], value }));
    await store.backend.commit({ put });
    for (const pageBytesMax of [1, 10_000, 1_000_000]) {
      const pages = await scanPages(store.backend, { space: "events" }, { pageBytesMax });
      assertLines(pages.flat().map(show), put.map(show), `pages of ${pageBytesMax} bytes`);
      for (const page of pages) {
        assert(page.length > 0, "a page is empty");
        const size = page.reduce((sum, entry) => sum + entry.value.length, 0);
        assert(
          page.length === 1 || size <= 2 * pageBytesMax,
          `a page has ${size} bytes, where pageBytesMax is ${pageBytesMax}`,
        );
      }
    }
  }),
  backendCase("BK7", "a scan that is ended early leaves the backend usable and closable", async (store) => {
    await fill(store);
    let pageCount = 0;
    for await (const _ of store.guard.scan({ space: "events" }, { pageBytesMax: 1 })) {
      pageCount++;
      break;
    }
    assert(pageCount === 1, "the scan gave no page");
    await store.guard.commit({ put: [{ key: ["events", "doc", 1], value: bytes("x") }] });
    await store.reopen();
    assert((await store.guard.get(["events", "doc", 1])) !== undefined, "the commit after the scan is lost");
  }),
  backendCase(
    "BK7",
    "an aborted scan rejects with the reason of its signal, before and between pages",
    async (store) => {
      await fill(store);
      const reason = new Error("enough");
      const before = AbortSignal.abort(reason);
      await rejectsWith(reason, () => scanAll(store.guard, { space: "events" }, { signal: before }));
      const during = new AbortController();
      await rejectsWith(reason, async () => {
        const options = { pageBytesMax: 1, signal: during.signal };
        for await (const _ of store.guard.scan({ space: "events" }, options)) during.abort(reason);
      });
      await store.reopen();
    },
  ),
  backendCase("BK7", "a scan that is open when the backend closes ends with CLOSED", async (store) => {
    await fill(store);
    const { guard } = store;
    const pages = guard.scan({ space: "events" }, { pageBytesMax: 1 })[Symbol.asyncIterator]();
    await pages.next();
    await store.close();
    await assertRejects("CLOSED", "the next page", () => pages.next());
    await store.open();
    assert((await store.dump()).length > 0, "the store is empty after reopening");
  }),
  backendCase("BK8", "a page shows all of a commit or nothing of it", consistentPages),
  backendCase("BK8", "changes between pages neither hide nor repeat what they do not touch", betweenPages),
];

/** Several ids, seqs and parts in several spaces, in the store and in its naive twin. */
async function fill(store: Store): Promise<NaiveStore> {
  const put: Entry[] = [];
  for (const space of ["a", "aa", "events", "eventsx", "meta"]) {
    for (const id of NEIGHBOURS) {
      put.push({ key: [space, id], value: bytes(`${space} ${id}`) });
      for (const seq of [0, 1, 3, Number.MAX_SAFE_INTEGER]) {
        put.push({ key: [space, id, seq], value: bytes(`${space} ${id} ${seq}`) });
      }
      put.push({ key: [space, id, 3, 0], value: bytes("part 0") });
      put.push({ key: [space, id, 3, 1], value: bytes("") });
    }
  }
  const naive = new NaiveStore();
  naive.commit({ put });
  await store.backend.commit({ put: store.random.shuffle(put) });
  return naive;
}

async function compare(store: Store, naive: NaiveStore, range: Range, options: ScanOptions): Promise<void> {
  // Of what the caller may ask, `limit: 0` is the guard's to answer.
  const backend = options.limit === 0 ? store.guard : store.backend;
  const found = await scanAll(backend, range, options);
  const what = `${JSON.stringify(range)} ${JSON.stringify(options)}`;
  assertLines(found.map(show), naive.scan(range, options).map(show), what);
}

async function rejectsWith(reason: unknown, act: () => Promise<unknown>): Promise<void> {
  const [outcome] = await Promise.allSettled([act()]);
  if (outcome.status === "fulfilled") fail("an aborted scan resolved");
  assert(outcome.reason === reason, `an aborted scan rejected with ${String(outcome.reason)}`);
}

async function consistentPages(store: Store): Promise<void> {
  const keys = Array.from({ length: 20 }, (_, seq) => ["events", "doc", seq] as const);
  const write = async () => {
    for (let round = 1; round <= 30; round++) {
      await store.backend.commit({ put: keys.map((key) => ({ key, value: Uint8Array.of(round) })) });
    }
  };
  let writing = true;
  const written = awaitedLater(
    write().finally(() => {
      writing = false;
    }),
  );
  try {
    do {
      for (const page of await scanPages(store.backend, { space: "events" })) {
        const rounds = new Set(page.map(({ value }) => value[0]));
        assert(rounds.size <= 1, `a page shows parts of the commits ${[...rounds].join(", ")}`);
      }
      await new Promise<void>((resolve) => store.env.turn(resolve));
    } while (writing);
  } finally {
    await written;
  }
}

async function betweenPages(store: Store): Promise<void> {
  const count = 60;
  for (const reverse of [false, true]) {
    const id = reverse ? "backward" : "forward";
    const put = Array.from(
      { length: count },
      (_, i): Entry => ({ key: ["events", id, 10 * i], value: new Uint8Array(2000) }),
    );
    await store.backend.commit({ put });
    const touched = new Set<number>();
    const seen: number[] = [];
    let pageCount = 0;
    const options = { reverse, pageBytesMax: 4000 };
    for await (const page of eachPage(store.backend, { space: "events", id }, options)) {
      pageCount++;
      for (const { key } of page) seen.push(key[2]!);
      assert(pageCount <= 2 * count, "the scan does not end");
      // The last key goes away under the scan, one beyond it too, and one comes directly after it.
      const last = seen.at(-1)!;
      if (last % 10 !== 0) continue;
      const step = reverse ? -1 : 1;
      const gone = [last, last + 30 * step].filter((seq) => seq >= 0 && seq < 10 * count);
      for (const seq of gone) touched.add(seq);
      const came: Entry[] =
        last + step < 0 ? [] : [{ key: ["events", id, last + step], value: bytes("new") }];
      await store.backend.commit({ delete: gone.map((seq) => ["events", id, seq] as const), put: came });
    }
    assertTried(pageCount > 2, `the scan gave ${pageCount} pages, so nothing changed between them`);
    const sorted = [...new Set(seen)].sort((a, b) => (reverse ? b - a : a - b));
    assertLines(seen.map(String), sorted.map(String), "each key once, in order");
    for (const { key } of put) {
      const missing = !touched.has(key[2]!) && !seen.includes(key[2]!);
      assert(!missing, `${id}: the scan skipped seq ${key[2]}, which nobody touched`);
    }
  }
}
