/**
 * One document: its facts, what can be done with it, how it grew, how it was at any moment, and its event
 * graph.
 *
 * Facts are asked for again when the server tells of a change; the timeline and the graph only when the facts
 * say that it is worth it.
 */

import type { DocumentAnswer, TimelineAnswer } from "@coppice/server/client";
import { useState } from "preact/hooks";
import { Actions } from "./actions.js";
import { type ApiError, api } from "./api.js";
import { EventGraph } from "./event-graph.js";
import type { Live, Locked } from "./figures.js";
import { Growth } from "./growth.js";
import { linkTo, useAllowed, useLatest, usePolled } from "./hooks.js";
import { Failure, Tile, Waiting } from "./parts.js";
import { TokenForm } from "./token.js";
import { Travel } from "./travel.js";
import { age, bytes, count, counted, timestamp } from "./words.js";

const INTERVAL_MS = 2_000;

export function DocumentView({ id, live }: { id: string; live: Live }) {
  const allows = useAllowed(id);
  const {
    value: facts,
    error,
    refresh,
  } = usePolled(
    `document ${id}`,
    INTERVAL_MS,
    (signal) => api.document(id, signal),
    ({ documents, others }) => others || documents.includes(id),
  );
  // A timeline costs a pass over the history: it is asked for again when that has grown by half a percent.
  const growth = facts === undefined ? 0 : Math.floor(Math.log(1 + facts.clock) * 200);
  const version = facts === undefined ? "" : `${growth} ${facts.snapshotClock} ${facts.oldestClock}`;
  const [again, setAgain] = useState(0);
  const timeline = usePolled(`timeline ${id} ${version} ${again}`, 3_600_000, (signal) =>
    facts === undefined ? Promise.resolve(undefined) : api.timeline(id, signal),
  );
  const latest = useLatest(timeline.value);
  const [chosen, setChosen] = useState<number>();
  const changed = () => {
    refresh();
    setAgain((before) => before + 1);
  };
  const isRefused = error?.status === 401 || error?.status === 403;
  if (error !== undefined && (isRefused || error.code === "NOT_FOUND" || facts === undefined))
    return <Missing id={id} error={error} isRefused={isRefused} locked={live.locked} />;
  if (facts === undefined) return <Waiting />;
  const first = latest?.points[0]?.[1] ?? facts.oldestClock;
  // A tag keeps a snapshot of its own, also where the events around it are gone.
  const isTag = latest?.marks.some(({ kind, clock: at }) => kind === "tag" && at === chosen) === true;
  const clock = Math.min(Math.max(chosen ?? facts.clock, isTag ? 0 : first), facts.clock);
  return (
    <section>
      <div class="heading">
        <p class="crumb">
          <a href={linkTo("documents")}>Documents</a> <span aria-hidden="true">/</span>
        </p>
        <h1>{id}</h1>
        <span class="chip">{facts.model}</span>
        <span class="spacer" />
        {facts.model === "yjs" && (
          <a class="button" href={linkTo("try", id)}>
            {allows("write") ? "Edit" : "Watch"}
          </a>
        )}
      </div>
      <Facts facts={facts} timeline={latest} />
      <Actions
        id={id}
        facts={facts}
        at={chosen === undefined ? undefined : clock}
        allows={allows}
        onChange={changed}
      />
      {latest !== undefined && facts.clock > 0 && (
        <div class="panel">
          <Growth timeline={latest} facts={facts} clock={clock} onPick={setChosen} />
          <Travel
            id={id}
            facts={facts}
            first={first}
            clock={clock}
            isNow={chosen === undefined}
            marks={latest.marks}
            onChoose={setChosen}
          />
        </div>
      )}
      {facts.clock > 0 && <EventGraph id={id} facts={facts} />}
    </section>
  );
}

function Missing(props: {
  readonly id: string;
  readonly error: ApiError;
  readonly isRefused: boolean;
  readonly locked: Locked;
}) {
  const { id, error, isRefused, locked } = props;
  return (
    <section>
      <div class="heading">
        <h1>{id}</h1>
      </div>
      <Failure error={error} />
      {!isRefused && (
        <p class="after">
          <a href={linkTo("try", id)}>Write it</a>, or see <a href={linkTo("documents")}>all documents</a>
        </p>
      )}
      {isRefused && locked !== "no" && <TokenForm why={locked} />}
    </section>
  );
}

function Facts({ facts, timeline }: { facts: DocumentAnswer; timeline: TimelineAnswer | undefined }) {
  const { clock, logBytes, snapshotClock, snapshotTime, snapshotBytes, connections } = facts;
  const { bytesSinceSnapshot } = facts;
  const trimmed = facts.archivedClock ?? facts.oldestClock;
  return (
    <dl class="tiles">
      <Tile name="events" value={count(clock)} note={`${bytes(logBytes)} written in all`} />
      <Tile
        name="kept"
        value={timeline === undefined ? "…" : bytes(timeline.kept.bytes)}
        note={trimmed === 0 ? "every event" : `from clock ${count(trimmed)} on`}
        title="payload bytes of the events that are still there"
      />
      <Tile
        name="snapshot"
        value={snapshotClock === null ? "none" : bytes(snapshotBytes)}
        note={
          snapshotTime === null
            ? "not yet"
            : `at clock ${count(snapshotClock ?? 0)}, ${age(snapshotTime)} ago`
        }
      />
      <Tile
        name="to replay"
        value={count(facts.eventsSinceSnapshot)}
        note={`${bytes(bytesSinceSnapshot)} ${snapshotClock === null ? "in all" : "after the snapshot"}`}
      />
      <Tile
        name="last change"
        value={`${age(facts.changed)} ago`}
        note={`${counted(connections, "client")} now`}
        title={`${timestamp(facts.changed)}; created ${timestamp(facts.created)}`}
      />
    </dl>
  );
}
