/**
 * A compaction of one document: its steps while it runs, and sizes before and after when it has ended.
 *
 * The sizes are what a load reads: the newest snapshot as it is stored, and the events that are kept. Those
 * before are asked for just before it begins; those after are what it says that it has left.
 */

import type { CompactAnswer, CompactStepAnswer } from "@coppice/server/client";
import { api } from "./api.js";
import { bytes, counted, duration } from "./words.js";

interface Sizes {
  readonly events: number;
  readonly snapshot: number;
}

export interface Compaction {
  /** The sizes before. */
  readonly sizes: Sizes | undefined;
  readonly step: CompactStepAnswer | undefined;
  readonly result: CompactAnswer | undefined;
}

const PHASES = ["reading", "folding", "staging", "verifying", "trimming"] as const;
const MEANS: Readonly<Record<(typeof PHASES)[number], string>> = {
  reading: "the newest snapshot and the events after it are read",
  folding: "they become a new snapshot, beside whoever is writing",
  staging: "it is written where nobody sees it yet",
  verifying: "it is read back, restored, and compared",
  trimming: "one commit makes it true, and the events that it covers go",
};

/** Rejects when it was aborted or has failed. */
export async function compact(
  id: string,
  onChange: (compaction: Compaction) => void,
  signal: AbortSignal,
): Promise<void> {
  const [facts, { kept }] = await Promise.all([api.document(id, signal), api.timeline(id, signal)]);
  const sizes = { events: kept.bytes, snapshot: facts.snapshotBytes };
  const onStep = (step: CompactStepAnswer) => onChange({ sizes, step, result: undefined });
  const result = await api.compact(id, { force: true }, onStep, signal);
  onChange({ sizes, step: undefined, result });
}

export function CompactionSteps(props: {
  readonly step: CompactStepAnswer | undefined;
  readonly onCancel: () => void;
}) {
  const at = PHASES.indexOf(props.step?.phase ?? "reading");
  const events = props.step?.events ?? 0;
  return (
    <div class="notice steps" role="status" aria-label="Compacting">
      <ol>
        {PHASES.map((phase, index) => (
          <li
            key={phase}
            class={index < at ? "done" : index === at ? "now" : ""}
            aria-current={index === at ? "step" : undefined}
            title={MEANS[phase]}
          >
            {phase}
            {index === at && events > 0 && ` ${counted(events, "event")}`}
          </li>
        ))}
      </ol>
      <button type="button" onClick={props.onCancel}>
        Cancel
      </button>
    </div>
  );
}

export function Compacted({ compaction, result }: { compaction: Compaction; result: CompactAnswer }) {
  const { outcome, reason, eventsTrimmed, bytesTrimmed, snapshotBytes, durationMs } = result;
  if (outcome !== "compacted")
    return (
      <p class="notice" role="status">
        {outcome.replaceAll("-", " ")}
        {reason !== undefined && `: ${reason}`}
      </p>
    );
  const freed = `${bytes(bytesTrimmed)} freed`;
  const before = compaction.sizes;
  const after = before && {
    events: Math.max(0, before.events - bytesTrimmed),
    snapshot: snapshotBytes,
  };
  return (
    <div class="notice good" role="status">
      <p>
        {eventsTrimmed === 0
          ? "nothing was left to trim: the last batch, and what came after the older snapshot, always stay"
          : `${counted(eventsTrimmed, "event")} trimmed, ${freed} in ${duration(durationMs)}`}
      </p>
      {before !== undefined && after !== undefined && (
        <dl class="sizes">
          <Bar name="before" sizes={before} whole={totalOf(before)} />
          <Bar name="after" sizes={after} whole={Math.max(totalOf(before), totalOf(after))} />
        </dl>
      )}
    </div>
  );
}

function Bar({ name, sizes, whole }: { name: string; sizes: Sizes; whole: number }) {
  const share = (value: number) => ({ width: `${whole === 0 ? 0 : (100 * value) / whole}%` });
  return (
    <>
      <dt>{name}</dt>
      <dd>
        <span class="bar-of-sizes" aria-hidden="true">
          <i class="of-snapshot" style={share(sizes.snapshot)} />
          <i class="of-events" style={share(sizes.events)} />
        </span>
        <span class="told">
          <i class="of-snapshot" aria-hidden="true" /> {bytes(sizes.snapshot)} snapshot
          <i class="of-events" aria-hidden="true" /> {bytes(sizes.events)} of events
        </span>
      </dd>
    </>
  );
}

function totalOf({ events, snapshot }: Sizes): number {
  return events + snapshot;
}
