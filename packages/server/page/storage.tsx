/**
 * The storage as a whole: how fast it takes events, how long commits last, what it writes for each byte it
 * is given, what it occupies, and what a compaction would free.
 */

import type {
  CompactAllAnswer,
  CompactAllStepAnswer,
  FiguresAnswer as Figures,
} from "@coppice/server/client";
import { useEffect, useRef, useState } from "preact/hooks";
import { type ApiError, api } from "./api.js";
import { counter, histogram, type Live, percentile, type Sample } from "./figures.js";
import { asApiError, useAllowed } from "./hooks.js";
import { Ask, Failure, Tile, useFocusBack, Waiting } from "./parts.js";
import { Plot } from "./plot.js";
import { bytes, count, counted, duration, rate } from "./words.js";

const RATE = [
  { label: "events a second", colour: "--accent", scale: "rate", show: rate, filled: true },
] as const;
const LATENCY = [
  { label: "p50", colour: "--accent", scale: "ms", show: duration },
  { label: "p99", colour: "--second", scale: "ms", show: duration },
] as const;

export function StorageView({ live }: { live: Live }) {
  const { figures, samples } = live;
  if (figures === undefined) return <Waiting />;
  return (
    <section>
      <div class="heading">
        <h1>Storage</h1>
        <p class="quiet">live, one sample a second</p>
      </div>
      <Tiles figures={figures} last={samples.at(-1)} />
      <Plots samples={samples} />
      <Compaction diskBytes={figures.gauges.coppice_store_bytes} />
    </section>
  );
}

function Tiles({ figures, last }: { figures: Figures; last: Sample | undefined }) {
  const { gauges } = figures;
  const appended = counter(figures, "bytes_appended");
  const committed = counter(figures, "bytes_committed");
  const disk = gauges.coppice_store_bytes;
  return (
    <dl class="tiles">
      <Tile
        name="append rate"
        value={`${rate(last?.eventsPerSecond ?? 0)}/s`}
        note={`${counted(counter(figures, "events_appended"), "event")} so far`}
        title="since the server started"
      />
      <Tile
        name="commit, p50"
        value={milliseconds(last?.p50 ?? percentile(histogram(figures), 0.5))}
        note={`of ${counted(counter(figures, "commits"), "commit")}`}
        title="from handing a commit to the backend until it is synced"
      />
      <Tile
        name="commit, p99"
        value={milliseconds(last?.p99 ?? percentile(histogram(figures), 0.99))}
        note={last?.p99 === undefined ? "since the start" : "of the last seconds"}
      />
      <Tile
        name="write amplification"
        value={appended === 0 ? "–" : `${(committed / appended).toFixed(1)} ×`}
        note={`${bytes(committed)} for ${bytes(appended)}`}
        title="bytes handed to the backend, snapshots included, for each byte of events"
      />
      <Tile
        name="on disk"
        value={disk === undefined ? "–" : bytes(disk)}
        note={disk === undefined ? "not counted here" : "all files of the store"}
      />
      <Tile
        name="in memory"
        value={count(gauges.coppice_open_documents ?? 0)}
        note={`documents, for ${counted(gauges.coppice_open_connections ?? 0, "client")}`}
      />
    </dl>
  );
}

function Plots({ samples }: { samples: readonly Sample[] }) {
  const times = samples.map(({ time }) => time);
  const rates = samples.map(({ eventsPerSecond }) => eventsPerSecond);
  const [p50s, p99s] = [samples.map(({ p50 }) => p50 ?? null), samples.map(({ p99 }) => p99 ?? null)];
  return (
    <div class="pair">
      <div class="panel">
        <h2>Appends</h2>
        <Plot says={`appends of ${samples.length} seconds`} height={180} lines={RATE} data={[times, rates]} />
      </div>
      <div class="panel">
        <h2>Commits</h2>
        <Plot says="commit latency" height={180} lines={LATENCY} data={[times, p50s, p99s]} />
      </div>
    </div>
  );
}

interface Run {
  readonly dryRun: boolean;
  readonly documents: number;
  readonly bytes: number;
  readonly result?: CompactAllAnswer;
}

function Compaction({ diskBytes }: { diskBytes: number | undefined }) {
  const [run, setRun] = useState<Run>();
  const [error, setError] = useState<ApiError>();
  const [reclaim, setReclaim] = useState(false);
  const [isStopped, setIsStopped] = useState(false);
  const [isAsked, setIsAsked] = useState(false);
  const allows = useAllowed(undefined);
  const stop = useRef(new AbortController());
  useEffect(() => () => stop.current.abort(), []);
  const start = async (dryRun: boolean) => {
    stop.current = new AbortController();
    const { signal } = stop.current;
    setError(undefined);
    setIsStopped(false);
    setIsAsked(false);
    setRun({ dryRun, documents: 0, bytes: 0 });
    const onStep = ({ seen, bytesTrimmed }: CompactAllStepAnswer) =>
      setRun((before) => before && { ...before, documents: seen, bytes: bytesTrimmed });
    try {
      const query = { dryRun, force: true, reclaim: reclaim && !dryRun };
      const result = await api.compactAll(query, onStep, signal);
      setRun({ dryRun, documents: result.seen, bytes: result.bytesTrimmed, result });
    } catch (failure) {
      setRun(undefined);
      if (signal.aborted) setIsStopped(true);
      else setError(asApiError(failure));
    }
  };
  const isOff = (run !== undefined && run.result === undefined) || !allows("admin");
  const remember = useFocusBack(!isOff && !isAsked);
  return (
    <div class="panel">
      <div class="row" onClickCapture={remember}>
        <div>
          <h2>Compaction</h2>
          <p class="quiet">
            a snapshot of each document, then trim what it covers
            {!allows("admin") && ": this needs a token with the action admin"}
          </p>
        </div>
        <span class="spacer" />
        <label class="quiet" title="LevelDB frees what was trimmed when it next merges its files, or now">
          <input
            type="checkbox"
            checked={reclaim}
            onChange={(event) => setReclaim(event.currentTarget.checked)}
          />{" "}
          rewrite the files too
        </label>
        <button type="button" disabled={isOff} onClick={() => void start(true)}>
          What would it free?
        </button>
        <button type="button" disabled={isOff} onClick={() => setIsAsked(true)}>
          Compact all
        </button>
      </div>
      {isAsked && (
        <Ask
          question="Versions before the older of two snapshots will be gone for good, except tagged ones."
          verb="Trim them"
          onYes={() => void start(false)}
          onNo={() => setIsAsked(false)}
        />
      )}
      {error !== undefined && <Failure error={error} />}
      {isStopped && (
        <p class="notice" role="status">
          stopped: documents that were done stay so, and nothing is half done
        </p>
      )}
      {run !== undefined && <Told run={run} diskBytes={diskBytes} onCancel={() => stop.current.abort()} />}
    </div>
  );
}

function Told(props: {
  readonly run: Run;
  readonly diskBytes: number | undefined;
  readonly onCancel: () => void;
}) {
  const { dryRun, documents, bytes: freed, result } = props.run;
  if (result !== undefined)
    return (
      <p class="notice good" role="status">
        {sentence(dryRun, result, props.diskBytes)}
      </p>
    );
  return (
    <div role="status" class="notice steps">
      <p>
        <progress aria-label="compacting" /> {dryRun ? "asking" : "compacting"}:{" "}
        {counted(documents, "document")}, {bytes(freed)} {dryRun ? "would be freed" : "freed"}
      </p>
      <button type="button" onClick={props.onCancel}>
        Cancel
      </button>
    </div>
  );
}

function sentence(dryRun: boolean, result: CompactAllAnswer, diskBytes: number | undefined): string {
  const { seen, compacted, eventsTrimmed, bytesTrimmed, failed, durationMs } = result;
  const what = `${counted(eventsTrimmed, "event")} in ${count(compacted)} of ${counted(seen, "document")}`;
  const failures = failed === 0 ? "" : `; ${counted(failed, "failure")}`;
  if (dryRun) return `It would trim ${what} and free ${bytes(bytesTrimmed)} of them${failures}.`;
  const disk = diskBytes === undefined ? "" : ` The store has ${bytes(diskBytes)} on disk.`;
  return `Trimmed ${what}: ${bytes(bytesTrimmed)} freed in ${duration(durationMs)}${failures}.${disk}`;
}

function milliseconds(value: number | undefined): string {
  return value === undefined ? "–" : duration(value);
}
