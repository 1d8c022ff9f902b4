/**
 * Defective backends that obey or break the contract of a single process: what they read, scan, commit, lock. Each is
 * a right backend with one defect.
 */

import {
  type Backend,
  type Batch,
  CoppiceError,
  type Entry,
  equalBytes,
  isRangeDeletion,
  type Key,
  keyName,
  type Range,
  type ScanOptions,
} from "coppice";
import { type Mutant, pause } from "./mutant.js";

async function* repage(
  inner: Backend,
  range: Range,
  options: ScanOptions | undefined,
  change: (entries: Entry[]) => Entry[],
): AsyncGenerator<readonly Entry[]> {
  const entries: Entry[] = [];
  for await (const page of inner.scan(range, { ...options })) entries.push(...page);
  const changed = change(entries);
  if (changed.length > 0) yield changed;
}

async function wrongExpectation(inner: Backend, batch: Batch): Promise<Key | undefined> {
  for (const { key, value } of batch.expect ?? []) {
    if (!equalBytes(await inner.get(key), value)) return key;
  }
  return undefined;
}

const conflict = (key: Key) => new CoppiceError("COMMIT_CONFLICT", "mutant", { details: { key } });

export const contractMutants: readonly Mutant[] = [
  {
    defect: "ignores expectations",
    rule: "BK10",
    title: "an expectation of another value that fails",
    reason: /should reject with COMMIT_CONFLICT, but resolved/,
    wrap: (inner) => ({
      commit: ({ put, delete: deletions }) => inner.commit({ put: put ?? [], delete: deletions ?? [] }),
    }),
  },
  {
    defect: "names a key that was as expected",
    rule: "BK10",
    title: "a failing expectation after one that holds",
    reason: /the conflict names/,
    wrap: (inner) => ({
      commit: async (batch) => {
        if ((await wrongExpectation(inner, batch)) !== undefined) throw conflict(batch.expect![0]!.key);
        return inner.commit(batch);
      },
    }),
  },
  {
    defect: "checks, then writes in a second step",
    rule: "BK12",
    title: "through opens of their own",
    reason: /winners/,
    shared: true,
    wrap: (inner) => ({
      commit: async (batch) => {
        const wrong = await wrongExpectation(inner, batch);
        if (wrong !== undefined) throw conflict(wrong);
        await pause();
        await inner.commit({ put: batch.put ?? [], delete: batch.delete ?? [] });
      },
    }),
  },
  {
    defect: "compares what a commit expects before the one that is under way has ended",
    rule: "BK57",
    title: "does what it does after it",
    reason: /mutant|should reject with COMMIT_CONFLICT, but resolved/,
    traits: { pipelined: true },
    wrap: (inner) => {
      let last: Promise<unknown> = Promise.resolve();
      return {
        commit: async (batch) => {
          const wrong = await wrongExpectation(inner, batch);
          if (wrong !== undefined) throw conflict(wrong);
          const written = last
            .then(pause)
            .then(() => inner.commit({ put: batch.put ?? [], delete: batch.delete ?? [] }));
          last = written;
          await written;
        },
      };
    },
  },
  {
    defect: "applies a batch key by key",
    rule: "BK3",
    title: "a conflict on the last of many keys",
    reason: /after the conflict/,
    wrap: (inner) => ({
      commit: async (batch) => {
        const wrong = await wrongExpectation(inner, batch);
        for (const deletion of batch.delete ?? []) await inner.commit({ delete: [deletion] });
        for (const [i, put] of (batch.put ?? []).entries()) {
          if (wrong !== undefined && i === batch.put!.length - 1) throw conflict(wrong);
          await inner.commit({ put: [put] });
        }
      },
    }),
  },
  {
    defect: "shows a commit while it is being applied",
    rule: "BK8",
    title: "a page shows all of a commit or nothing of it",
    reason: /a page shows parts of the commits/,
    wrap: (inner) => ({
      commit: async (batch) => {
        const wrong = await wrongExpectation(inner, batch);
        if (wrong !== undefined) throw conflict(wrong);
        const half = Math.floor((batch.put ?? []).length / 2);
        await inner.commit({ delete: batch.delete ?? [], put: (batch.put ?? []).slice(0, half) });
        await pause();
        await inner.commit({ put: (batch.put ?? []).slice(half) });
      },
    }),
  },
  {
    defect: "deletes one key too many at the end of a range",
    rule: "BK9",
    title: "half-open range",
    reason: /after .*delete/,
    wrap: (inner) => ({
      commit: (batch) =>
        inner.commit({
          ...batch,
          delete: (batch.delete ?? []).map((deletion) =>
            isRangeDeletion(deletion) && deletion.to !== undefined && deletion.to < Number.MAX_SAFE_INTEGER
              ? { ...deletion, to: deletion.to + 1 }
              : deletion,
          ),
        }),
    }),
  },
  {
    defect: "applies puts before deletes",
    rule: "BK9",
    title: "deletes come before puts",
    reason: /a put inside a deleted range/,
    wrap: (inner) => ({
      commit: async (batch) => {
        await inner.commit({ put: batch.put ?? [], expect: batch.expect ?? [] });
        await inner.commit({ delete: batch.delete ?? [] });
      },
    }),
  },
  {
    defect: "orders ids as strings, not as bytes",
    rule: "BK4",
    title: "keys are ordered",
    reason: /order in space/,
    wrap: (inner) => ({
      scan: (range, options) =>
        repage(inner, range, options, (entries) => {
          const sign = options?.reverse === true ? -1 : 1;
          const compare = (a: string, b: string) => (a < b ? -sign : a > b ? sign : 0);
          return entries.sort((a, b) => compare(a.key[1], b.key[1]));
        }),
    }),
  },
  {
    defect: "takes a longer id for its neighbour",
    rule: "BK5",
    title: "a range of one id",
    reason: /AAAAA/,
    wrap: (inner) => ({
      scan: (range, options) =>
        "id" in range && range.from === undefined && range.to === undefined
          ? inner.scan({ space: range.space, idPrefix: range.id }, options)
          : inner.scan(range, options),
    }),
  },
  {
    defect: "returns its own buffer",
    rule: "BK2",
    title: "changing bytes that were returned",
    reason: /after changing what get returned/,
    wrap: (inner, { kept }) => ({
      get: async (key) => {
        const value = await inner.get(key);
        const known = kept.get(keyName(key));
        if (value === undefined || known?.length === value.length) return value && known;
        kept.set(keyName(key), value);
        return value;
      },
    }),
  },
  {
    defect: "keeps the caller's buffer",
    rule: "BK2",
    title: "changing bytes after they were put",
    reason: /get: expected/,
    wrap: (inner, { kept }) => ({
      commit: async (batch) => {
        await inner.commit(batch);
        for (const { key, value } of batch.put ?? []) kept.set(keyName(key), value);
      },
      get: async (key) => {
        const value = await inner.get(key);
        return value === undefined ? undefined : kept.get(keyName(key))?.slice();
      },
    }),
  },
  {
    defect: "ignores the limit in reverse",
    rule: "BK6",
    title: "`limit` counts entries",
    reason: /reverse.*should be absent/,
    wrap: (inner) => ({
      scan: (range, { limit, ...options } = {}) =>
        inner.scan(range, options.reverse === true || limit === undefined ? options : { ...options, limit }),
    }),
  },
  {
    defect: "takes the limit for that of each page",
    rule: "BK6",
    title: "`limit` counts entries",
    reason: /should be absent/,
    wrap: (inner) => ({
      async *scan(range, { limit, ...options } = {}) {
        for await (const page of inner.scan(range, options)) yield page.slice(0, limit);
      },
    }),
  },
  {
    defect: "does nothing in close",
    rule: "BK13",
    title: "closing and opening again",
    reason: /already open|LOCKED/,
    wrap: () => ({ close: async () => undefined }),
  },
  {
    defect: "loses the last write when it is closed",
    rule: "BK13",
    title: "closing and opening again",
    reason: /after reopening 1 times/,
    wrap: (inner) => {
      let last: readonly Entry[] = [];
      return {
        commit: async (batch) => {
          await inner.commit(batch);
          last = batch.put ?? [];
        },
        close: async () => {
          await inner.commit({ delete: last.map(({ key }) => key) });
          await inner.close();
        },
      };
    },
  },
  {
    defect: "claims to be exclusive, and lets two open it",
    rule: "BK15",
    title: "a second open is LOCKED",
    reason: /should reject with LOCKED, but resolved/,
    shared: true,
    traits: { exclusive: true },
    wrap: () => ({}),
  },
  {
    defect: "claims to be shared, and lets only one open it",
    rule: "BK16",
    title: "a second open of a shared backend",
    reason: /already open/,
    traits: { exclusive: false },
    wrap: () => ({}),
  },
  {
    defect: "skips an entry at each page boundary",
    rule: "BK6",
    title: "pages are never empty",
    reason: /pages of 1 bytes/,
    wrap: (inner) => ({
      async *scan(range, options) {
        let first = true;
        for await (const page of inner.scan(range, options)) {
          const rest = first ? page : page.slice(1);
          first = false;
          if (rest.length > 0) yield rest;
        }
      },
    }),
  },
  {
    defect: "takes an empty value for an absent one",
    rule: "BK1",
    title: "also when it is empty",
    reason: /value 0/,
    wrap: (inner) => ({
      get: async (key) => {
        const value = await inner.get(key);
        return value?.length === 0 ? undefined : value;
      },
    }),
  },
  {
    defect: "does not tell watchers",
    rule: "BK16",
    title: "`watch` tells of another's commit",
    reason: /no hint came/,
    shared: true,
    wrap: () => ({ watch: () => () => undefined }),
  },
  {
    defect: "returns a neighbour for an absent key",
    rule: "BK1",
    title: "a key that was never put is absent",
    reason: /get beside a present key/,
    wrap: (inner) => ({
      get: async (key) => {
        const value = await inner.get(key);
        if (value !== undefined) return value;
        for await (const [entry] of inner.scan({ space: key[0] }, { limit: 1 })) return entry?.value;
        return undefined;
      },
    }),
  },
  {
    defect: "cuts values at 64 KiB",
    rule: "BK1",
    title: "a value of 1 MiB",
    reason: /get: expected/,
    wrap: (inner) => ({ get: async (key) => (await inner.get(key))?.slice(0, 65_536) }),
  },
  {
    defect: "forgets the fence after a trim",
    rule: "BK10",
    title: "an expectation of another value that fails",
    reason: /should reject with COMMIT_CONFLICT, but resolved/,
    wrap: (inner) => ({
      commit: (batch) => {
        const trims = (batch.delete ?? []).some(isRangeDeletion);
        return inner.commit(trims ? { ...batch, expect: [] } : batch);
      },
    }),
  },
  {
    defect: "writes, and then compares",
    rule: "BK3",
    title: "a conflict on the last of many keys",
    reason: /after the conflict/,
    wrap: (inner) => ({
      commit: async (batch) => {
        const wrong = await wrongExpectation(inner, batch);
        await inner.commit({ put: batch.put ?? [], delete: batch.delete ?? [] });
        if (wrong !== undefined) throw conflict(wrong);
      },
    }),
  },
  {
    defect: "loses the last of a group",
    rule: "BK11",
    title: "commits of one document take effect",
    reason: /a commit is missing/,
    wrap: (inner) => ({
      commit: (batch) => {
        const ids = new Set((batch.put ?? []).map(({ key }) => key[1]));
        return inner.commit(ids.size > 3 ? { ...batch, put: batch.put!.slice(0, -1) } : batch);
      },
    }),
  },
  {
    defect: "fails a whole group for the conflict of one",
    rule: "BK10",
    title: "a conflict within a group",
    reason: /should be fulfilled/,
    wrap: (inner) => ({
      commit: async (batch) => {
        const wrong = await wrongExpectation(inner, batch);
        if (wrong !== undefined) throw new CoppiceError("UNAVAILABLE", "a conflict somewhere");
        return inner.commit(batch);
      },
    }),
  },
  {
    defect: "empties instead of deleting",
    rule: "BK9",
    title: "removes exactly its key",
    reason: /after .*delete/,
    wrap: (inner) => ({
      commit: (batch) => {
        const keys = (batch.delete ?? []).filter((deletion): deletion is Key => !isRangeDeletion(deletion));
        const put = [...(batch.put ?? []), ...keys.map((key) => ({ key, value: new Uint8Array(0) }))];
        return inner.commit({ ...batch, put, delete: (batch.delete ?? []).filter(isRangeDeletion) });
      },
    }),
  },
  {
    defect: "takes the end of a range for part of it",
    rule: "BK5",
    title: "a range of one id",
    reason: /"to":0.*should be absent/,
    wrap: (inner) => ({
      scan: (range, options) =>
        "id" in range && range.to !== undefined && range.to < Number.MAX_SAFE_INTEGER
          ? inner.scan({ ...range, to: range.to + 1 }, options)
          : inner.scan(range, options),
    }),
  },
  {
    defect: "forgets the first entry in reverse",
    rule: "BK5",
    title: "a range of one id",
    reason: /reverse/,
    wrap: (inner) => ({
      scan: (range, options) =>
        repage(inner, range, options, (entries) => (options?.reverse === true ? entries.slice(1) : entries)),
    }),
  },
  {
    defect: "gives values where keys alone were asked for",
    rule: "BK6",
    title: "`values: false`",
    reason: /should be .*<>/,
    wrap: (inner) => ({ scan: (range, options) => inner.scan(range, { ...options, values: true }) }),
  },
  {
    defect: "tells watchers that have stopped",
    rule: "BK16",
    title: "`watch` tells of another's commit",
    reason: /after watching was stopped/,
    shared: true,
    wrap: (inner) => ({
      watch: (listener) => {
        inner.watch!(listener);
        return () => undefined;
      },
    }),
  },
  {
    defect: "answers from a cache that other opens do not renew",
    rule: "BK28",
    title: "what one open was told is stored",
    reason: /another open still reads/,
    shared: true,
    wrap: (inner) => {
      const cache = new Map<string, Uint8Array | undefined>();
      return {
        get: async (key) => {
          if (!cache.has(keyName(key))) cache.set(keyName(key), await inner.get(key));
          return cache.get(keyName(key));
        },
        commit: async (batch) => {
          await inner.commit(batch);
          for (const { key, value } of batch.put ?? []) cache.set(keyName(key), value);
        },
      };
    },
  },
  {
    defect: "counts twice what two writers add at once",
    rule: "BK12",
    title: "of increments by several opens",
    reason: /increments/,
    shared: true,
    wrap: (inner) => ({
      commit: async (batch) => {
        const wrong = await wrongExpectation(inner, batch);
        await pause();
        if (wrong !== undefined) throw conflict(wrong);
        await inner.commit({ put: batch.put ?? [] });
      },
    }),
  },
  {
    defect: "shows a reader an older state now and then",
    rule: "BK28",
    title: "never sees it go back",
    reason: /a reader saw|and then there were/,
    wrap: (inner, { kept }) => {
      let reads = 0;
      return {
        get: async (key) => {
          const value = await inner.get(key);
          const old = kept.get(keyName(key));
          if (value !== undefined) kept.set(keyName(key), old ?? value);
          return ++reads % 3 === 0 ? (old ?? value) : value;
        },
      };
    },
  },
  {
    defect: "drops on close what has not gone down yet",
    rule: "BK28",
    title: "a commit beside close",
    reason: /a commit beside close was fulfilled, and is not there/,
    wrap: (inner) => {
      const waiting: Batch[] = [];
      return {
        commit: async (batch) => {
          waiting.push(batch);
          await pause();
          await Promise.all(waiting.splice(0, waiting.length - 1).map((one) => inner.commit(one)));
        },
      };
    },
  },
  {
    defect: "loses a key when it reclaims",
    rule: "BK29",
    title: "reclaiming changes nothing that can be read",
    reason: /after reclaiming/,
    wrap: (inner) => ({
      reclaim: () => inner.commit({ delete: [["events", "doc", 1]] }),
    }),
  },
  {
    defect: "ends scans when it reclaims",
    rule: "BK29",
    title: "scans and commits go on",
    reason: /a scan that reclaiming overtakes/,
    wrap: (inner) => {
      let reclaims = 0;
      return {
        async *scan(range, options) {
          const begun = reclaims;
          for await (const page of inner.scan(range, options)) {
            if (begun !== reclaims) return;
            yield page;
          }
        },
        reclaim: async () => {
          reclaims++;
        },
      };
    },
  },
  {
    defect: "keeps deleted bytes in its files",
    rule: "BK30",
    title: "no file holds",
    reason: /still in a file/,
    holds: true,
    wrap: () => ({}),
  },
];
