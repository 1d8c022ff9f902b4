/**
 * All documents: a list that can be searched, and that keeps itself up to date.
 *
 * One page of the server is shown. A store with more documents is searched by how their ids begin, because
 * that is what its keys are ordered by.
 */

import { useMemo, useState } from "preact/hooks";
import { api, type DocumentFacts } from "./api.js";
import { linkTo, useLatest, usePolled } from "./hooks.js";
import { Failure, Waiting } from "./parts.js";
import { age, bytes, count, counted, timestamp } from "./words.js";

const PAGE = 500;
const INTERVAL_MS = 2_000;

export function DocumentsView() {
  const [search, setSearch] = useState("");
  const [isLarge, setIsLarge] = useState(false);
  const prefix = isLarge ? search : "";
  const { value: asked, error } = usePolled(`documents ${prefix}`, INTERVAL_MS, async (signal) => {
    const list = await api.documents({ info: true, limit: PAGE, prefix }, signal);
    if (list.next !== null) setIsLarge(true);
    return list;
  });
  const value = useLatest(asked);
  const shown = useMemo(() => {
    const wanted = search.toLowerCase();
    return (value?.documents ?? []).filter(({ id }) => isLarge || id.toLowerCase().includes(wanted));
  }, [value, search, isLarge]);
  return (
    <section>
      <div class="heading">
        <h1>Documents</h1>
        <p class="quiet" role="status">
          {value === undefined ? "" : summary(shown, value.next !== null)}
        </p>
        <input
          class="search"
          type="search"
          placeholder={isLarge ? "ids that begin with …" : "search"}
          aria-label="Search documents"
          value={search}
          onInput={(event) => setSearch(event.currentTarget.value)}
        />
      </div>
      {error !== undefined && value === undefined && <Failure error={error} />}
      {value === undefined && error === undefined && <Waiting />}
      {value !== undefined && shown.length === 0 && (
        <p class="empty">
          {search === "" ? "There is no document yet. " : "No document is named like this. "}
          <a href={linkTo("try", search || "notes")}>Write one</a>
        </p>
      )}
      {shown.length > 0 && <List documents={shown} />}
    </section>
  );
}

function summary(shown: readonly DocumentFacts[], isMore: boolean): string {
  const events = shown.reduce((sum, { clock = 0 }) => sum + clock, 0);
  return `${isMore ? "the first " : ""}${counted(shown.length, "document")}, ${counted(events, "event")}`;
}

function List({ documents }: { documents: readonly DocumentFacts[] }) {
  const now = Date.now();
  return (
    <div class="scroll">
      <table>
        <thead>
          <tr>
            <th scope="col">document</th>
            <th scope="col">model</th>
            <th scope="col" class="number">
              events
            </th>
            <th scope="col" class="number" title="what a load reads: the snapshot and the events after it">
              size
            </th>
            <th scope="col" class="number">
              last change
            </th>
            <th scope="col" class="number">
              snapshot
            </th>
            <th scope="col" class="number" title="events that a load replays after the snapshot">
              to replay
            </th>
            <th scope="col" class="number">
              clients
            </th>
          </tr>
        </thead>
        <tbody>
          {documents.map((facts) => (
            <Row key={facts.id} facts={facts} now={now} />
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Row({ facts, now }: { facts: DocumentFacts; now: number }) {
  const { id, error } = facts;
  const name = (
    <th scope="row">
      <a href={linkTo("documents", id)}>{id}</a>
    </th>
  );
  if (facts.model === undefined)
    return (
      <tr>
        {name}
        <td colSpan={7} class="bad">
          {error === undefined ? "deleted" : `${error.code}: ${error.message}`}
        </td>
      </tr>
    );
  const { model, clock, changed, snapshotTime, eventsSinceSnapshot, connections } = facts;
  return (
    <tr>
      {name}
      <td>
        <span class="chip">{model}</span>
      </td>
      <td class="number">{count(clock)}</td>
      <td class="number">{bytes(facts.snapshotBytes + facts.bytesSinceSnapshot)}</td>
      <td class="number" title={timestamp(changed)}>
        {age(changed, now)}
      </td>
      <td class="number" title={snapshotTime === null ? "none yet" : timestamp(snapshotTime)}>
        {snapshotTime === null ? <span class="quiet">none</span> : age(snapshotTime, now)}
      </td>
      <td class="number">{count(eventsSinceSnapshot)}</td>
      <td class="number">{connections === 0 ? <span class="quiet">0</span> : count(connections)}</td>
    </tr>
  );
}
