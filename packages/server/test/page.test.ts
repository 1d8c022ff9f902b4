// What the page computes for itself, without a browser.

import type { FiguresAnswer as Figures } from "@coppice/server/client";
import { fc, test as property } from "@fast-check/vitest";
import { describe, expect, test } from "vitest";
import { differenceOf } from "../page/difference.js";
import { percentile, sampleOf } from "../page/figures.js";
import { age, bytes, count, duration } from "../page/words.js";

const WORDS = ["one ", "two ", "three", " ", "\n", "🌱", "é."];
const text = fc.array(fc.constantFrom(...WORDS), { maxLength: 60 }).map((words) => words.join(""));
const joined = (runs: ReturnType<typeof differenceOf>, ...kinds: string[]) =>
  runs
    .filter(({ kind }) => kinds.includes(kind))
    .map((run) => run.text)
    .join("");

describe("differences", () => {
  property.prop([text, text])(
    "[PG3] what was kept and removed is the one text, what was kept and added the other",
    (from, to) => {
      const runs = differenceOf(from, to);
      expect(joined(runs, "kept", "removed")).toBe(from);
      expect(joined(runs, "kept", "added")).toBe(to);
      for (const [index, run] of runs.entries()) {
        expect(run.text).not.toBe("");
        expect(run.kind).not.toBe(runs[index - 1]?.kind);
      }
    },
  );

  test("[PG3] a word that changed is all that is marked, and a long difference is one replacement", () => {
    expect(differenceOf("one two three", "one 2 three")).toEqual([
      { kind: "kept", text: "one " },
      { kind: "removed", text: "two" },
      { kind: "added", text: "2" },
      { kind: "kept", text: " three" },
    ]);
    expect(differenceOf("same", "same")).toEqual([{ kind: "kept", text: "same" }]);
    const many = (word: string) => Array.from({ length: 4_000 }, (_, index) => `${word}${index} `).join("");
    expect(differenceOf(`begin ${many("a")}end`, `begin ${many("b")}end`).map(({ kind }) => kind)).toEqual([
      "kept",
      "removed",
      "added",
      "kept",
    ]);
  });
});

function figures(time: number, events: number, counts: readonly number[], uptime = time / 1_000): Figures {
  const histogram = {
    bounds: [0.001, 0.01],
    counts,
    sum: 0,
    count: counts.reduce((sum, value) => sum + value, 0),
  };
  return {
    time,
    counters: { events_appended: events, 'commits|x="1"': 1 },
    histograms: { commit_seconds: histogram },
    gauges: { process_uptime_seconds: uptime },
  };
}

describe("figures", () => {
  test("[PG4] percentiles are interpolated within their bound, and end at the last one", () => {
    const { histograms } = figures(0, 0, [50, 50, 0]);
    expect(percentile(histograms.commit_seconds, 0.25)).toBeCloseTo(0.5);
    expect(percentile(histograms.commit_seconds, 0.5)).toBeCloseTo(1);
    expect(percentile(histograms.commit_seconds, 0.75)).toBeCloseTo(5.5);
    expect(percentile(figures(0, 0, [0, 0, 5]).histograms.commit_seconds, 0.99)).toBeCloseTo(10);
    expect(percentile(figures(0, 0, [0, 0, 0]).histograms.commit_seconds, 0.5)).toBeUndefined();
  });

  test("[PG4] a rate is of the last second, and percentiles are of the window alone", () => {
    const window = [
      figures(1_000, 10, [100, 0, 0]),
      figures(2_000, 30, [100, 4, 0]),
      figures(4_000, 130, [100, 8, 0]),
    ];
    const sample = sampleOf(window);
    expect(sample.eventsPerSecond).toBe(50);
    expect(sample.p50).toBeCloseTo(5.5);
    expect(sampleOf([window[0]!]).eventsPerSecond).toBe(0);
  });

  test("[PG4] numbers are written in one way", () => {
    expect([0, 999, 1_024, 10_240, 5 * 1_024 ** 2].map(bytes)).toEqual([
      "0 B",
      "999 B",
      "1.0 KiB",
      "10 KiB",
      "5.0 MiB",
    ]);
    expect([0, 0.25, 3.14, 42, 1_500].map(duration)).toEqual(["0 ms", "0.25 ms", "3.1 ms", "42 ms", "1.5 s"]);
    expect([0, 61_000, 7_200_000, 200_000_000].map((ms) => age(0, ms))).toEqual([
      "0 s",
      "1 min",
      "2 h",
      "2 d",
    ]);
    expect(count(1_234_567)).toBe("1,234,567");
  });
});
