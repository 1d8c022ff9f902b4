/**
 * What happens in the storage and in the server, counted, as a Prometheus text.
 *
 * Counting is done in callbacks of the observer, which costs a few hundred nanoseconds each; the text is made
 * when it is asked for. No label holds a document id: their number has no bound.
 *
 * Invariants: counters and histograms only grow; sums are in seconds and bytes, as Prometheus wants them.
 */

import { type IntervalHistogram, monitorEventLoopDelay } from "node:perf_hooks";
import type { Observer } from "coppice";
import type { FiguresAnswer, HistogramAnswer } from "./http/answers.js";

/** Upper bounds in seconds. */
const LATENCY_BOUNDS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10];

class Histogram {
  readonly #counts = new Array<number>(LATENCY_BOUNDS.length + 1).fill(0);
  #sum = 0;
  #count = 0;

  observe(seconds: number): void {
    const at = LATENCY_BOUNDS.findIndex((bound) => seconds <= bound);
    this.#counts[at < 0 ? LATENCY_BOUNDS.length : at]!++;
    this.#sum += seconds;
    this.#count++;
  }

  figures(): HistogramAnswer {
    return { bounds: LATENCY_BOUNDS, counts: [...this.#counts], sum: this.#sum, count: this.#count };
  }

  lines(name: string): string[] {
    let below = 0;
    const lines = LATENCY_BOUNDS.map((bound, index) => {
      below += this.#counts[index]!;
      return `${name}_bucket{le="${bound}"} ${below}`;
    });
    return [
      ...lines,
      `${name}_bucket{le="+Inf"} ${this.#count}`,
      `${name}_sum ${this.#sum}`,
      `${name}_count ${this.#count}`,
    ];
  }
}

/** Figures of the moment that the server adds. */
export interface Gauges {
  readonly documents: number;
  readonly bytes: number;
  readonly unsavedBytes: number;
  readonly connections: number;
  readonly writable: boolean;
  /** `undefined` where nobody counts them. */
  readonly storeBytes?: number | undefined;
}

const COUNTERS = {
  events_appended: "Events that became durable.",
  bytes_appended: "Payload bytes of events that became durable.",
  appends: "Batches of events that became durable.",
  commits: "Commits of the backend.",
  commits_failed: "Commits of the backend that failed.",
  bytes_committed: "Bytes handed to the backend in commits.",
  loads: "Documents loaded from the storage.",
  snapshots: "Snapshots taken.",
  snapshots_failed: "Snapshots that failed.",
  bytes_snapshots: "Bytes of snapshots taken.",
  compactions: "Compactions, by outcome.",
  compactions_failed: "Documents, or whole runs, that failed in compactions of all which the server makes.",
  events_trimmed: "Events that compactions trimmed.",
  bytes_trimmed: "Payload bytes that compactions trimmed.",
  conflicts: "Commits that another writer overtook.",
  events_held: "Events left aside because something is missing.",
  events_refused: "Events that the model refused.",
  damage: "Damaged stored values that were met, by whether they could be made up for.",
  quarantined: "Damaged values that repairs have set aside.",
  connections_opened: "WebSocket connections that were accepted.",
  connections_refused: "WebSocket connections and requests that were refused, by reason.",
  connections_closed: "WebSocket connections that the server closed, by reason.",
  errors: "Internal errors.",
} as const;

export type CounterName = keyof typeof COUNTERS;

/** What the storage told its observer that is of interest to those who watch it. */
export type StoreFact =
  | { readonly kind: "commit"; readonly error: unknown }
  | { readonly kind: "append" | "snapshot"; readonly id: string }
  | {
      readonly kind: "compact";
      readonly id: string;
      readonly outcome: string;
      readonly clock: number;
      readonly eventsTrimmed: number;
      readonly bytesTrimmed: number;
    };

export class ServerMetrics {
  /** For `DocumentStorage.open({ observer })`. */
  readonly observer: Observer;
  readonly #listeners = new Set<(fact: StoreFact) => void>();
  readonly #counters = new Map<string, number>();
  readonly #append = new Histogram();
  readonly #commit = new Histogram();
  readonly #load = new Histogram();
  readonly #snapshot = new Histogram();
  readonly #compaction = new Histogram();
  readonly #delay: IntervalHistogram = monitorEventLoopDelay({ resolution: 10 });

  constructor() {
    this.#delay.enable();
    this.observer = {
      append: ({ id, events, bytes, queuedMs }) => {
        this.#tell({ kind: "append", id });
        this.count("appends");
        this.count("events_appended", events);
        this.count("bytes_appended", bytes);
        this.#append.observe(queuedMs / 1000);
      },
      commit: ({ durationMs, bytes, error }) => {
        this.#tell({ kind: "commit", error });
        this.count(error === undefined ? "commits" : "commits_failed");
        this.count("bytes_committed", bytes);
        this.#commit.observe(durationMs / 1000);
      },
      load: ({ durationMs }) => {
        this.count("loads");
        this.#load.observe(durationMs / 1000);
      },
      snapshot: ({ id, bytes, durationMs, error }) => {
        this.#tell({ kind: "snapshot", id });
        this.count(error === undefined ? "snapshots" : "snapshots_failed");
        this.count("bytes_snapshots", bytes);
        if (error === undefined) this.#snapshot.observe(durationMs / 1000);
      },
      compact: ({ durationMs, ...fact }) => {
        const { outcome, eventsTrimmed, bytesTrimmed } = fact;
        this.#tell({ kind: "compact", ...fact });
        this.count("compactions", 1, `outcome="${outcome}"`);
        this.count("events_trimmed", eventsTrimmed);
        this.count("bytes_trimmed", bytesTrimmed);
        this.#compaction.observe(durationMs / 1000);
      },
      conflict: () => this.count("conflicts"),
      held: ({ reason }) => this.count(reason === undefined ? "events_held" : "events_refused"),
      damage: ({ recovered }) => this.count("damage", 1, `recovered="${recovered}"`),
      quarantine: () => this.count("quarantined"),
    };
  }

  /** Until the returned function is called. A listener must be quick, and must not throw. */
  listen(listener: (fact: StoreFact) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  count(name: CounterName, by = 1, label = ""): void {
    const key = label === "" ? name : `${name}|${label}`;
    this.#counters.set(key, (this.#counters.get(key) ?? 0) + by);
  }

  /** A counter as it stands, over all labels. */
  value(name: CounterName): number {
    let sum = 0;
    for (const [key, value] of this.#counters) if (key.split("|", 1)[0] === name) sum += value;
    return sum;
  }

  /** The text format of Prometheus, version 0.0.4. */
  text(gauges: Gauges): string {
    const lines: string[] = [];
    for (const [name, help] of Object.entries(COUNTERS)) {
      lines.push(`# HELP coppice_${name}_total ${help}`, `# TYPE coppice_${name}_total counter`);
      const found = [...this.#counters].filter(([key]) => key.split("|", 1)[0] === name);
      if (found.length === 0) lines.push(`coppice_${name}_total 0`);
      for (const [key, value] of found) {
        const label = key.slice(name.length + 1);
        lines.push(`coppice_${name}_total${label === "" ? "" : `{${label}}`} ${value}`);
      }
    }
    for (const [name, help, histogram] of this.#histograms()) {
      lines.push(`# HELP coppice_${name} ${help}`, `# TYPE coppice_${name} histogram`);
      lines.push(...histogram.lines(`coppice_${name}`));
    }
    for (const [name, help, value] of this.#gauges(gauges))
      lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} gauge`, `${name} ${value}`);
    return `${lines.join("\n")}\n`;
  }

  /** The same as JSON: counters by name and label, histograms as counts below each bound, gauges. */
  figures(gauges: Gauges): FiguresAnswer {
    const histograms = this.#histograms().map(([name, , histogram]) => [name, histogram.figures()] as const);
    return {
      time: Date.now(),
      counters: Object.fromEntries(this.#counters),
      histograms: Object.fromEntries(histograms),
      gauges: Object.fromEntries(this.#gauges(gauges).map(([name, , value]) => [name, value])),
    };
  }

  #tell(fact: StoreFact): void {
    for (const listener of this.#listeners) listener(fact);
  }

  #histograms(): readonly (readonly [name: string, help: string, Histogram])[] {
    return [
      ["append_seconds", "From handing events in until they are durable.", this.#append],
      ["commit_seconds", "Commits of the backend, syncs included.", this.#commit],
      ["load_seconds", "Loads of documents.", this.#load],
      ["snapshot_seconds", "Snapshots.", this.#snapshot],
      ["compaction_seconds", "Compactions of one document.", this.#compaction],
    ];
  }

  #gauges(gauges: Gauges): readonly (readonly [string, string, number])[] {
    const { rss, heapUsed } = process.memoryUsage();
    return [
      ["coppice_open_documents", "Documents in memory.", gauges.documents],
      ["coppice_open_documents_bytes", "Estimated memory of these.", gauges.bytes],
      ["coppice_open_connections", "WebSocket connections.", gauges.connections],
      ["coppice_queued_bytes", "Bytes of edits that are not durable yet.", gauges.unsavedBytes],
      ["coppice_writable", "1 when the storage takes writes.", gauges.writable ? 1 : 0],
      [
        "coppice_event_loop_delay_seconds",
        "99th percentile since the start.",
        this.#delay.percentile(99) / 1e9,
      ],
      ...(gauges.storeBytes === undefined
        ? []
        : [["coppice_store_bytes", "Bytes of the files of the store.", gauges.storeBytes] as const]),
      ["process_resident_memory_bytes", "Resident memory.", rss],
      ["nodejs_heap_used_bytes", "Used heap.", heapUsed],
      ["process_uptime_seconds", "Since the start of the process.", Math.round(process.uptime())],
    ];
  }

  close(): void {
    this.#delay.disable();
  }
}
