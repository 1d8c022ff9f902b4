/** What the conformance kit does around a case: crashes end what was open, and the first failure is told. */

import { readdir } from "node:fs/promises";
import { type BackendFactory, memoryBackend } from "coppice";
import { type BackendSubject, backendCases, type Report, runCases } from "coppice/conformance";
import { directorySubject } from "coppice/conformance/directory";
import { afterAll, describe, expect, test } from "vitest";
import { removeDirectories, temporaryDirectory } from "../../../../test/support/stores.js";
import { type Heedless, heedless } from "./heedless.js";

afterAll(removeDirectories);

const crashCases = backendCases.filter(({ level }) => level === "crash");
const failuresOf = ({ results }: Report) =>
  results.filter(({ status }) => status === "failed").map(({ rule, reason }) => `${rule} ${reason}`);

/** Its stores, what reached them after a crash, and an end to it all. */
async function watched(options: Heedless) {
  const parent = await temporaryDirectory();
  const dead = new Set<string>();
  const seen = { parent, late: 0, stopped: false };
  let newest = "";
  const inner = directorySubject({
    name: "heedless",
    parent,
    backend: (location) => {
      newest = location;
      const called = () => {
        if (dead.has(location)) seen.late++;
        if (seen.stopped) throw new Error("the test is over");
      };
      return heedless(location, { ...options, called });
    },
  });
  const crash = async (factory: BackendFactory) => {
    dead.add(newest);
    return inner.crash!(factory);
  };
  return { seen, subject: { ...inner, crash } satisfies BackendSubject };
}

describe("crashes", () => {
  const wrong: readonly [string, Heedless, readonly RegExp[]][] = [
    ["is right", {}, []],
    ["does nothing in close", { neverCloses: true }, [/^BK25 it is already open$/]],
    ["acknowledges before it writes", { late: true }, [/^BK13 .* were acknowledged$/, /^BK25 /]],
  ];
  for (const [what, options, expected] of wrong) {
    test(`[BK62] a crash ends a backend that answers whoever calls it and ${what}`, async () => {
      const { seen, subject } = await watched(options);
      try {
        const failures = failuresOf(await runCases(crashCases, subject, { timeoutMs: 20_000 }));
        await new Promise((resolve) => setTimeout(resolve, 20));
        expect(seen.late).toBe(0);
        const others = failures.filter((failure) => !expected.some((one) => one.test(failure)));
        expect(others).toEqual([]);
        for (const one of expected) expect(failures.some((failure) => one.test(failure))).toBe(true);
        expect(await readdir(seen.parent)).toEqual([]);
      } finally {
        seen.stopped = true;
      }
    });
  }

  test("[BK62] what a crash that fails has not ended is closed", async () => {
    let [opened, closed] = [0, 0];
    const subject: BackendSubject = {
      name: "undying",
      create: async () => {
        const inner = heedless(await temporaryDirectory());
        return {
          name: "undying",
          async open(env) {
            const backend = await inner.open(env);
            opened++;
            return { ...backend, close: async () => void closed++ };
          },
        };
      },
      crash: async () => {
        throw new Error("it did not die");
      },
    };
    const report = await runCases(crashCases, subject);
    const reasons = report.results.filter(({ status }) => status === "failed").map(({ reason }) => reason);
    expect([...new Set(reasons)]).toEqual(["it did not die"]);
    expect(opened).toBeGreaterThan(5);
    expect(closed).toBe(opened);
  });
});

describe("the first failure", () => {
  const [simplest] = backendCases;
  const destroys: Readonly<Record<string, NonNullable<BackendSubject["destroy"]>>> = {
    "throws at once": () => {
      throw new Error("not destroyed");
    },
    rejects: () => Promise.reject(new Error("not destroyed")),
  };
  for (const [how, destroy] of Object.entries(destroys)) {
    test(`[BK63] a case says what failed first, also when destroy ${how}`, async () => {
      const run = async (subject: BackendSubject) => failuresOf(await runCases([simplest!], subject));
      const { rule } = simplest!;
      const create = async () => memoryBackend();
      expect(await run({ name: "well", create, destroy })).toEqual([`${rule} not destroyed`]);
      const broken: BackendFactory = {
        name: "broken",
        open: async () => {
          throw new Error("not opened");
        },
      };
      const subject: BackendSubject = { name: "broken", create: async () => broken, destroy };
      expect(await run(subject)).toEqual([`${rule} not opened`]);
    });
  }
});

describe("what reclaiming leaves", () => {
  /** What the case says when the search finds this, once and again. */
  const run = async (...found: (boolean | string)[]) => {
    const holds = async () => found.shift()!;
    const subject: BackendSubject = { name: "searched", create: async () => memoryBackend(), holds };
    return failuresOf(await runCases(cases, subject)).join();
  };
  const cases = backendCases.filter(({ rule }) => rule === "BK30");

  test("[BK64] the file is named in which deleted bytes are found", async () => {
    const said = "BK30 a deleted key or value is still in";
    expect(await run(true, true)).toBe(`${said} a file`);
    expect(await run("old/journal", "old/journal")).toBe(`${said} the file old/journal`);
    expect(await run("old/journal", false)).toBe("");
  });

  test("[BK64] where stored bytes are in no file, the case says who leaves the search out", async () => {
    expect(await run(false)).toMatch(/no file holds what is stored.*leave `holds` out.*as text/);
  });
});
