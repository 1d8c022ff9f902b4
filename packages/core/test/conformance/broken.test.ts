/** The conformance kit goes on with backends that break at once: each case ends by itself and says why. */

import type { Backend, Entry } from "coppice";
import { backendCases, runCases } from "coppice/conformance";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Mutant, pause, subjectOf } from "./mutant.js";

const unhandled: unknown[] = [];
const note = (reason: unknown) => unhandled.push(reason);
beforeAll(() => void process.on("unhandledRejection", note));
afterAll(() => void process.off("unhandledRejection", note));

const broken = (): never => {
  throw new Error("it is broken");
};

async function* items(inner: Backend, ...[range, options]: Parameters<Backend["scan"]>) {
  for await (const page of inner.scan(range, options)) yield page[0] as unknown as readonly Entry[];
}

const defects: Readonly<Record<string, Mutant["wrap"]>> = {
  "throws in scan at once": () => ({ scan: broken }),
  "fails in scan": () => ({
    scan: () => ({ [Symbol.asyncIterator]: () => ({ next: async () => broken() }) }),
  }),
  "gives entries in place of pages": (inner) => ({ scan: (...given) => items(inner, ...given) }),
  "acknowledges before it writes": (inner) => ({
    commit: async (batch) => {
      const late = pause().then(() => inner.commit(batch));
      late.catch(() => undefined);
    },
  }),
  "gives no page": () => ({ scan: async function* () {} }),
  "throws in every commit but the first at once": (inner) => {
    let count = 0;
    return { commit: (batch) => (count++ === 0 ? inner.commit(batch) : broken()) };
  },
  "fails in commits that come beside a slow read, in reclaim, and in close": (inner) => {
    let reads = 0;
    return {
      get: async (key) => {
        reads++;
        await pause();
        await pause();
        return inner.get(key);
      },
      commit: async (batch) => (reads > 0 ? broken() : inner.commit(batch)),
      reclaim: async () => broken(),
      close: () => inner.close().then(broken),
    };
  },
};

const bases: readonly Partial<Mutant>[] = [
  { holds: true },
  { shared: true },
  { simulated: {}, traits: { pipelined: true } },
];

/** Without those that take long and await one thing after the other. */
const cases = backendCases.filter(
  ({ rule }) => !["BK4", "BK5", "BK17", "BK18", "BK19", "BK20"].includes(rule),
);

describe("broken", () => {
  for (const [defect, wrap] of Object.entries(defects)) {
    test(`[BK60] each case ends by itself and says why with a backend that ${defect}`, async () => {
      for (const base of bases) {
        const subject = subjectOf({ defect, rule: "", title: "", reason: /./, wrap, ...base });
        unhandled.length = 0;
        const report = await runCases(cases, subject, { timeoutMs: 20_000 });
        await new Promise((resolve) => setTimeout(resolve, 1));
        expect(unhandled).toEqual([]);
        expect(report.results).toHaveLength(cases.length);
        const failed = report.results.filter(({ status }) => status === "failed");
        for (const { title, reason } of failed) expect(reason, title).not.toMatch(/^$|took longer/);
        expect(failed.length + report.inconclusive).toBeGreaterThan(0);
      }
    });
  }
});
