/** The conformance kit catches each of a list of defective backends, by the case that names the defect. */

import { backendCases, runCases } from "coppice/conformance";
import { describe, expect, test } from "vitest";
import { type Mutant, subjectOf } from "./mutant.js";
import { contractMutants } from "./mutants-contract.js";
import { faultMutants } from "./mutants-faults.js";

const mutants = [...contractMutants, ...faultMutants];

describe("mutants", () => {
  for (const mutant of mutants) {
    test(`[BK21] the kit catches a backend that ${mutant.defect}`, async () => {
      const naming = backendCases.filter(
        (item) => item.rule === mutant.rule && item.title.includes(mutant.title),
      );
      expect(naming.map(({ title }) => title)).toHaveLength(1);
      const report = await runCases(naming, subjectOf(mutant));
      const [result] = report.results;
      expect(result!.reason).toMatch(mutant.reason);
      expect(result!.status).toBe("failed");
    });
  }

  test("[BK21] there are mutants of every level, and at least 25", () => {
    expect(new Set(mutants.map(({ defect }) => defect)).size).toBeGreaterThanOrEqual(25);
    const caught = backendCases.filter((item) =>
      mutants.some(({ rule, title }) => item.rule === rule && item.title.includes(title)),
    );
    const levels = new Set(caught.map(({ level }) => level));
    expect([...levels].sort()).toEqual(["contract", "crash", "full-disk", "race", "unknown-outcome"]);
  });

  test("[BK21] the wrapper without a defect passes, so it is the defect that is caught", async () => {
    const sound: Mutant = {
      defect: "none",
      rule: "",
      title: "",
      reason: /none/,
      wrap: () => ({}),
    };
    const bases: readonly Mutant[] = [
      sound,
      { ...sound, shared: true },
      { ...sound, simulated: {} },
      { ...sound, simulated: {}, shared: true },
    ];
    for (const base of bases) {
      const cases = backendCases.filter((item) => item.rule !== "BK19");
      const report = await runCases(cases, subjectOf(base));
      const bad = report.results.filter(({ status }) => status === "failed" || status === "inconclusive");
      expect(bad.map(({ title, reason }) => [title, reason])).toEqual([]);
      expect(report.passed).toBeGreaterThan(base.simulated === undefined ? 40 : 55);
    }
  });
});
