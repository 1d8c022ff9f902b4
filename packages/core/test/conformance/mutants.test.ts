import {
  type Backend,
  type BackendFactory,
  type Batch,
  CoppiceError,
  type Entry,
  type Env,
  equalBytes,
  isRangeDeletion,
  type Key,
  keyName,
  type Range,
  type ScanOptions,
  systemEnv,
  type Traits,
} from "coppice";
import { type BackendSubject, backendCases, runCases } from "coppice/conformance";
import { describe, expect, test } from "vitest";
import { memoryBackend } from "../../src/backends/memory.js";

// Each mutant is a right backend with one defect. The kit must catch it by a case of the rule that names it.

type Wrap = (inner: Backend, state: State) => Partial<Backend>;

/** What a mutant keeps over all opens of one store. */
interface State {
  readonly kept: Map<string, Uint8Array>;
}

interface Mutant {
  readonly defect: string;
  /** The rule, and a piece of the title, of a case that must catch it. */
  readonly rule: string;
  readonly title: string;
  /** What the failure says, so that nothing else than the defect has been caught. */
  readonly reason: RegExp;
  readonly shared?: boolean;
  readonly traits?: Partial<Traits>;
  readonly wrap: Wrap;
}

function mutantFactory(mutant: Mutant): BackendFactory {
  const inner = memoryBackend({ shared: mutant.shared ?? false });
  const state: State = { kept: new Map() };
  return {
    name: mutant.defect,
    async open(env: Env) {
      const backend = await inner.open(env);
      const whole: Backend = {
        traits: { ...backend.traits, ...mutant.traits },
        get: (key) => backend.get(key),
        scan: (range, options) => backend.scan(range, options),
        commit: (batch) => backend.commit(batch),
        close: () => backend.close(),
        ...(backend.watch === undefined ? {} : { watch: (listener) => backend.watch!(listener) }),
      };
      return { ...whole, ...mutant.wrap(backend, state) };
    },
  };
}

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

/** Waiting in vain is quick here. */
const env: Env = { ...systemEnv(), delay: () => pause() };

const pause = () => new Promise<void>((resolve) => setImmediate(resolve));
const conflict = (key: Key) => new CoppiceError("COMMIT_CONFLICT", "mutant", { details: { key } });

const mutants: readonly Mutant[] = [
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
];

describe("mutants", () => {
  for (const mutant of mutants) {
    test(`[BK21] the kit catches a backend that ${mutant.defect}`, async () => {
      const subject: BackendSubject = { name: mutant.defect, create: async () => mutantFactory(mutant), env };
      const naming = backendCases.filter(
        (item) => item.rule === mutant.rule && item.title.includes(mutant.title),
      );
      expect(naming).toHaveLength(1);
      const report = await runCases(naming, subject);
      const [result] = report.results;
      expect(result!.status).toBe("failed");
      expect(result!.reason).toMatch(mutant.reason);
    });
  }

  test("[BK21] the wrapper without a defect passes, so it is the defect that is caught", async () => {
    for (const shared of [false, true]) {
      const mutant: Mutant = {
        defect: "none",
        rule: "",
        title: "",
        reason: /none/,
        shared,
        wrap: () => ({}),
      };
      const report = await runCases(
        backendCases.filter((item) => item.rule !== "BK19"),
        { name: "no defect", create: async () => mutantFactory(mutant) },
      );
      expect(report.results.filter((result) => result.status === "failed")).toEqual([]);
      expect(report.passed).toBeGreaterThan(40);
    }
  });
});
