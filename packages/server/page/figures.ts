/**
 * The figures of the server, once a second for as long as the page is looked at, and what can be read off
 * them: rates between two samples, and percentiles of what happened between them. They come with the stream
 * of changes, and are asked for while there is none.
 *
 * Percentiles come from the counts below fixed bounds, so they are as fine as the bounds are: within one,
 * they are interpolated.
 *
 * Invariant: after a restart of the server, whose counters begin anew, no rate is negative.
 */

import type { FiguresAnswer as Figures, HistogramAnswer as Histogram } from "@coppice/server/client";
import { useEffect, useState } from "preact/hooks";
import { api, token } from "./api.js";
import { stream } from "./changes.js";

export interface Sample {
  readonly time: number;
  readonly eventsPerSecond: number;
  readonly bytesPerSecond: number;
  /** In ms; `undefined` when nothing was committed. */
  readonly p50: number | undefined;
  readonly p99: number | undefined;
}

export type Locked = "no" | "needed" | "unknown" | "partly";

export interface Live {
  readonly figures: Figures | undefined;
  readonly samples: readonly Sample[];
  /** Whether the last request was answered. */
  readonly reachable: boolean;
  /** Whether a token is asked for, is one that nobody has, or does not open the whole store. */
  readonly locked: Locked;
}

const INTERVAL_MS = 1_000;
const SAMPLES_MAX = 180;
const WINDOW_SAMPLES = 5;

/** Samples for as long as the component is there. */
export function useFigures(): Live {
  const [live, setLive] = useState<Live>({ figures: undefined, samples: [], reachable: true, locked: "no" });
  useEffect(() => {
    const stop = new AbortController();
    const recent: Figures[] = [];
    let isAsking = false;
    // Figures are of the whole store: with a token of some documents only the server's health is asked for.
    let isPartly = false;
    const show = (figures: Figures) => {
      const last = recent.at(-1);
      if (last !== undefined && isRestarted(last, figures)) recent.length = 0;
      recent.push(figures);
      if (recent.length > WINDOW_SAMPLES + 1) recent.shift();
      setLive(({ samples }) => ({
        figures,
        samples: [...samples, sampleOf(recent)].slice(-SAMPLES_MAX),
        reachable: true,
        locked: "no",
      }));
    };
    const sample = async () => {
      if (isAsking || document.hidden || stream.state === "live") return;
      isAsking = true;
      try {
        if (isPartly) await api.health(stop.signal);
        else show(await api.figures(stop.signal));
        stream.hurry();
      } catch (error) {
        if (stop.signal.aborted) return;
        const locked = lockedBy((error as { status?: number }).status);
        isPartly = locked === "partly";
        setLive((before) => ({ ...before, reachable: locked !== "no", locked }));
      } finally {
        isAsking = false;
      }
    };
    const unheard = stream.listen((change) => change?.figures !== undefined && show(change.figures));
    const timer = window.setInterval(() => void sample(), INTERVAL_MS);
    void sample();
    return () => {
      stop.abort();
      unheard();
      window.clearInterval(timer);
    };
  }, []);
  return live;
}

function lockedBy(status: number | undefined): Locked {
  if (status === 401) return token() === undefined ? "needed" : "unknown";
  return status === 403 ? "partly" : "no";
}

function isRestarted(before: Figures, after: Figures): boolean {
  const uptime = (figures: Figures) => figures.gauges.process_uptime_seconds ?? 0;
  return uptime(after) < uptime(before) || counter(after, "commits") < counter(before, "commits");
}

/** Rates are of the last second, percentiles of a few, so that they do not jump with single commits. */
export function sampleOf(recent: readonly Figures[]): Sample {
  const now = recent.at(-1)!;
  const before = recent.at(-2) ?? now;
  const oldest = recent[0] ?? now;
  const seconds = Math.max(0.001, (now.time - before.time) / 1_000);
  const grown = (name: string) => Math.max(0, counter(now, name) - counter(before, name)) / seconds;
  const commits = differenceOf(histogram(oldest), histogram(now));
  return {
    time: now.time,
    eventsPerSecond: grown("events_appended"),
    bytesPerSecond: grown("bytes_appended"),
    p50: percentile(commits, 0.5),
    p99: percentile(commits, 0.99),
  };
}

export function counter({ counters }: Figures, name: string): number {
  let sum = 0;
  for (const [key, value] of Object.entries(counters)) if (key.split("|", 1)[0] === name) sum += value;
  return sum;
}

export function histogram({ histograms }: Figures): Histogram | undefined {
  return histograms.commit_seconds;
}

function differenceOf(before: Histogram | undefined, after: Histogram | undefined): Histogram | undefined {
  if (before === undefined || after === undefined || before === after) return after;
  return {
    bounds: after.bounds,
    counts: after.counts.map((value, index) => value - (before.counts[index] ?? 0)),
    sum: after.sum - before.sum,
    count: after.count - before.count,
  };
}

/** In ms. Above the last bound, that bound. */
export function percentile(given: Histogram | undefined, share: number): number | undefined {
  if (given === undefined || given.count === 0) return undefined;
  const wanted = given.count * share;
  let below = 0;
  for (const [index, value] of given.counts.entries()) {
    if (below + value < wanted || value === 0) {
      below += value;
      continue;
    }
    const from = index === 0 ? 0 : given.bounds[index - 1]!;
    const to = given.bounds[index] ?? from;
    return (from + ((to - from) * (wanted - below)) / value) * 1_000;
  }
  return (given.bounds.at(-1) ?? 0) * 1_000;
}
