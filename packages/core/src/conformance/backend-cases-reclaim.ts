/**
 * Cases about reclaiming: what was deleted leaves the files, and nothing else changes. What a backend's files
 * hold only the subject can tell (`holds`).
 */

import type { Entry } from "../contract/backend.js";
import {
  assert,
  assertBytes,
  assertLines,
  awaitedLater,
  type BackendCase,
  type BackendSubject,
  backendCase,
  type Random,
  type Store,
  scanAll,
} from "./cases.js";

function searchable(subject: BackendSubject): Promise<string | undefined> {
  return Promise.resolve(
    subject.holds === undefined ? "the subject cannot search the files of its stores" : undefined,
  );
}

const NOT_FOUND =
  "no file holds what is stored, so the search shows nothing: leave `holds` out of the subject of a " +
  "backend that does not store bytes as they are, but compressed, encrypted or as text";

/** Text that compression cannot shorten and that occurs nowhere else. */
function mark(random: Random, length: number): string {
  return Array.from({ length }, () => random.pick([..."ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"])).join("");
}

const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);

export const reclaimCases: readonly BackendCase[] = [
  backendCase(
    "BK29",
    "reclaiming changes nothing that can be read, now or after reopening",
    async (store) => {
      for (let round = 0; round < 3; round++) {
        for (let seq = 0; seq < 20; seq++) {
          const value = store.random.bytes(200);
          await store.guard.commit({ put: [{ key: ["events", "doc", seq], value }] });
        }
        await store.guard.commit({
          delete: [["events", "doc", 3 + round], { space: "events", id: "doc", from: 15 }],
        });
      }
      const before = await store.dump();
      await store.guard.reclaim();
      assertLines(await store.dump(), before, "after reclaiming");
      await store.guard.reclaim();
      assertLines(await store.dump(), before, "after reclaiming again");
      await store.guard.commit({ put: [{ key: ["meta", "doc"], value: utf8("later") }] });
      const later = await store.dump();
      await store.reopen();
      assertLines(await store.dump(), later, "after reclaiming and reopening");
    },
  ),

  backendCase("BK29", "while it reclaims, reads, scans and commits go on", async (store) => {
    const { guard } = store;
    const entries: Entry[] = Array.from({ length: 200 }, (_, seq) => ({
      key: ["events", "doc", seq],
      value: store.random.bytes(300),
    }));
    await guard.commit({ put: entries });
    const scans = [false, true].map((reverse) => collect(store, reverse));
    for (const scan of scans) await scan.begun;
    const beside = Array.from({ length: 10 }, (_, seq) =>
      guard.commit({ put: [{ key: ["meta", `${seq}`], value: utf8("beside") }] }),
    );
    const done = awaitedLater(Promise.all([...beside, guard.reclaim(), guard.reclaim()]));
    assertBytes(await guard.get(["events", "doc", 7]), entries[7]!.value, "a read beside it");
    await done;
    for (const scan of scans) {
      scan.go();
      assert((await scan.count) === 200, "a scan that reclaiming overtakes ends early or repeats");
    }
    assert((await scanAll(guard, { space: "meta" })).length === 10, "a commit beside it is lost");
  }),

  backendCase(
    "BK30",
    "after reclaiming, no file holds what was deleted or overwritten before",
    async (store) => {
      const { subject, random } = store;
      const secret = mark(random, 24);
      const id = `${secret}-id`;
      const filler = () => ({ key: ["events", mark(random, 12), 0] as const, value: random.bytes(500) });
      // Some in the log, some in files, some both written and deleted in between.
      for (let round = 0; round < 8; round++) {
        const own: Entry[] = Array.from({ length: 40 }, (_, seq) => ({
          key: ["events", id, round * 100 + seq],
          value: utf8(`${secret}${mark(random, 200)}`),
        }));
        const meta: Entry = { key: ["meta", "doc"], value: utf8(`${secret}${round}`) };
        await store.guard.commit({ put: [...own, meta, ...Array.from({ length: 100 }, filler)] });
        await store.guard.commit({
          delete: [{ space: "events", id, from: round * 100, to: round * 100 + 20 }],
        });
      }
      const found = await subject.holds!(store.factory, utf8(secret));
      assert(Boolean(found), NOT_FOUND);
      await store.guard.commit({
        put: [{ key: ["meta", "doc"], value: utf8("public") }],
        delete: [{ space: "events", id }],
      });
      const before = await store.dump();
      await store.guard.reclaim();
      const left = await subject.holds!(store.factory, utf8(secret));
      const where = typeof left === "string" ? `the file ${left}` : "a file";
      assert(!left, `a deleted key or value is still in ${where}`);
      assertLines(await store.dump(), before, "after reclaiming");
    },
    searchable,
  ),
];

/** A scan of small pages that stops after its first page until it is told to go on. */
function collect(
  store: Store,
  reverse: boolean,
): { begun: Promise<unknown>; go: () => void; count: Promise<number> } {
  let begin = (): void => undefined;
  let go = (): void => undefined;
  const begun = new Promise<void>((resolve) => {
    begin = resolve;
  });
  const told = new Promise<void>((resolve) => {
    go = resolve;
  });
  const run = async (): Promise<number> => {
    const seqs = new Set<number | undefined>();
    let entries = 0;
    for await (const page of store.guard.scan(
      { space: "events", id: "doc" },
      { reverse, pageBytesMax: 2000 },
    )) {
      for (const { key } of page) seqs.add(key[2]);
      entries += page.length;
      begin();
      await told;
    }
    return entries === seqs.size ? entries : -1;
  };
  const count = awaitedLater(run());
  // One that fails, or ends without a page, never begins.
  return { begun: awaitedLater(Promise.race([begun, count])), go, count };
}
