import { memoryBackend } from "coppice";
import {
  backendCases,
  type Case,
  CaseFailure,
  CaseInconclusive,
  type CaseResult,
  modelCases,
  Random,
  runCase,
  runCases,
} from "coppice/conformance";
import { expect, test } from "vitest";
import { nameSet } from "../../../../test/support/oracle-model.js";
import { changed } from "../storage/changed-backend.js";

interface Context {
  readonly name: string;
}

function make(title: string, run: () => Promise<void>, reason?: string): Case<Context> {
  const item = { name: `[T1] ${title}`, rule: "T1", title, run };
  return reason === undefined ? item : { ...item, needs: async () => reason };
}

const passes = make("passes", async () => undefined);
const fails = make("fails", async () => {
  throw new CaseFailure("as it should");
});
const impossible = make("is skipped", async () => expect.unreachable(), "it cannot be tried");
const noRace = make("did not race", async () => {
  throw new CaseInconclusive("inconclusive: nobody met anybody");
});
const hangs = make("hangs", () => new Promise(() => undefined));

test("[TS20] every case is in the report once, as passed, failed or skipped with its reason", async () => {
  const told: CaseResult[] = [];
  const report = await runCases(
    [passes, fails, impossible],
    { name: "s" },
    { onResult: (r) => told.push(r) },
  );
  expect(report).toMatchObject({ subject: "s", passed: 1, failed: 1, skipped: 1 });
  expect(report.results.map(({ title, status, reason }) => [title, status, reason])).toEqual([
    ["passes", "passed", undefined],
    ["fails", "failed", "as it should"],
    ["is skipped", "skipped", "it cannot be tried"],
  ]);
  expect(told).toEqual(report.results);
});

test("[TS22] a race that was none is inconclusive: not passed, and under a test runner a rejection", async () => {
  const report = await runCases([passes, noRace], { name: "s" });
  expect(report).toMatchObject({ passed: 1, failed: 0, inconclusive: 1, skipped: 0 });
  expect(report.results[1]).toMatchObject({
    status: "inconclusive",
    reason: "inconclusive: nobody met anybody",
  });
  await expect(runCase(noRace, { name: "s" }, () => expect.unreachable())).rejects.toThrow(
    "nobody met anybody",
  );
});

test("[TS20] a case that hangs fails", async () => {
  const report = await runCases([hangs, passes], { name: "s" }, { timeoutMs: 20 });
  expect(report).toMatchObject({ passed: 1, failed: 1 });
  expect(report.results[0]!.reason).toContain("20 ms");
});

test("[TS20] under a test runner a failure rejects, and nothing is skipped unseen", async () => {
  await runCase(passes, { name: "s" });
  await expect(runCase(fails, { name: "s" })).rejects.toThrow("as it should");
  await expect(runCase(impossible, { name: "s" })).rejects.toThrow("it cannot be tried");
  const reasons: string[] = [];
  await runCase(impossible, { name: "s" }, (reason) => reasons.push(reason));
  expect(reasons).toEqual(["it cannot be tried"]);
});

test("[TS21] the same seed gives the same chance, another seed another", () => {
  const draw = (seed: number) => {
    const random = new Random(seed);
    return Array.from({ length: 50 }, () => random.below(1000));
  };
  expect(draw(1)).toEqual(draw(1));
  expect(draw(1)).not.toEqual(draw(2));
  expect(new Set(draw(3)).size).toBeGreaterThan(30);
  expect(new Random(4).shuffle([1, 2, 3, 4, 5]).sort()).toEqual([1, 2, 3, 4, 5]);
});

test("[BK65] what is no subject is one TypeError at the start, which names the member", async () => {
  const run = runCases as (...given: unknown[]) => Promise<unknown>;
  const create = async () => memoryBackend();
  const edit = (set: unknown) => set;
  const subject = { name: "s", model: nameSet(), edit, content: () => "" };
  const wrong: [unknown, unknown, string][] = [
    [backendCases, undefined, "these cases want a subject, and got undefined"],
    [backendCases, {}, "subject.name must be a string"],
    [backendCases, { name: "s" }, "subject.create must be a function"],
    [backendCases, { name: "s", create, holds: true }, "subject.holds must be a function, or absent"],
    [modelCases, undefined, "these cases want a subject, and got undefined"],
    [modelCases, { ...subject, edit: undefined }, "subject.edit must be a function"],
    [modelCases, { ...subject, remove: 1 }, "subject.remove must be a function, or absent"],
    [modelCases, { ...subject, model: undefined }, "subject.model is no model: it is undefined"],
    [
      modelCases,
      { ...subject, model: { ...nameSet(), fold: undefined } },
      "subject.model is no model: fold must be a function",
    ],
  ];
  for (const [cases, given, message] of wrong) {
    const onResult = () => expect.unreachable();
    await expect(run(cases, given, { onResult })).rejects.toThrow(new TypeError(message));
    const [first] = cases as Case<unknown>[];
    await expect(runCase(first!, given)).rejects.toThrow(new TypeError(message));
  }
  // That a model has no name is what a case tells.
  const [naming] = modelCases.filter(({ rule }) => rule === "MD1");
  const nameless = { ...subject, model: { ...nameSet(), name: undefined } };
  expect(await run([naming], nameless)).toMatchObject({ failed: 1 });
});

test("[BK66] the report says of a durability that the subject cannot try that it was not tested", async () => {
  const reasons = async (durability: "power" | "process" | "none") => {
    const create = async () =>
      changed(memoryBackend(), ({ traits }) => ({ traits: { ...traits, durability } }));
    const cases = backendCases.filter(({ level, rule }) => level === "crash" && rule !== "BK57");
    const { results, skipped } = await runCases(cases, { name: "claiming", create });
    expect(skipped).toBe(cases.length);
    return [...new Set(results.map(({ reason }) => reason))];
  };
  const [death, loss] = ["the death of the process", "a loss of power"].map(
    (name) => `the subject cannot simulate ${name}`,
  );
  const untested = [
    `${death}: durability "process" was not tested`,
    `${loss}: durability "power" was not tested`,
  ];
  expect(await reasons("power")).toEqual(untested);
  expect(await reasons("process")).toEqual([untested[0], loss]);
  expect(await reasons("none")).toEqual([death, loss]);
});
