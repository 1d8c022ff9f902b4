/**
 * All documents: a list that can be searched, and that keeps itself up to date.
 *
 * It is shown page by page. A store with more than one page is searched by how their ids begin, because that
 * is what its keys are ordered by.
 */

import type { BareDocument, DocumentAnswer, ListAnswer } from "@coppice/server/client";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { api } from "./api.js";
import { linkTo, useLatest, usePolled } from "./hooks.js";
import { Import } from "./import.js";
import { Failure, Waiting } from "./parts.js";
import { age, bytes, count, counted, timestamp } from "./words.js";

const PAGE = 500;
const INTERVAL_MS = 2_000;

type Listed = DocumentAnswer | BareDocument;

export function DocumentsView() {
  const [search, setSearch] = useState("");
  const [isLarge, setIsLarge] = useState(false);
  const [pages, setPages] = useState(1);
  const prefix = isLarge ? search : "";
  const { value: asked, error } = usePolled(
    `documents ${prefix} ${pages}`,
    INTERVAL_MS,
    async (signal) => {
      const list = await listOf(prefix, pages, signal);
      if (list.next !== null) setIsLarge(true);
      return list;
    },
    () => true,
  );
  const value = useLatest(asked);
  const shown = useMemo(() => {
    const wanted = search.toLowerCase();
    return (value?.documents ?? []).filter(({ id }) => isLarge || id.toLowerCase().includes(wanted));
  }, [value, search, isLarge]);
  const field = useSearchKey();
  return (
    <section>
      <div class="heading">
        <h1>Documents</h1>
        <p class="quiet" role="status">
          {value === undefined ? "" : summary(shown, value.next !== null)}
        </p>
        <Import />
        <input
          ref={field}
          class="search"
          type="search"
          placeholder={isLarge ? "ids that begin with …" : "search"}
          aria-label="Search documents"
          aria-keyshortcuts="/"
          title="the key / comes here"
          value={search}
          onInput={(event) => {
            setPages(1);
            setSearch(event.currentTarget.value);
          }}
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
      {value !== undefined && value.next !== null && (
        <More shown={shown.length} isWaiting={asked === undefined} onMore={() => setPages(pages + 1)} />
      )}
    </section>
  );
}

async function listOf(prefix: string, pages: number, signal: AbortSignal): Promise<ListAnswer> {
  const documents: Listed[] = [];
  let next: string | null = null;
  for (let page = 0; page < pages && (page === 0 || next !== null); page++) {
    const after: string | undefined = next ?? undefined;
    const list: ListAnswer = await api.documents({ info: true, limit: PAGE, prefix, after }, signal);
    documents.push(...list.documents);
    next = list.next;
  }
  return { documents, next };
}

/** The key `/` goes to the search, unless one is typing somewhere. */
function useSearchKey() {
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      const isTyping = (event.target as Element).closest?.("input, textarea, [contenteditable=true]") != null;
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || isTyping) return;
      event.preventDefault();
      field.current?.focus();
    };
    document.addEventListener("keydown", pressed);
    return () => document.removeEventListener("keydown", pressed);
  }, []);
  return field;
}

/** After the next page has come the focus is on its first document. */
function More(props: { readonly shown: number; readonly isWaiting: boolean; readonly onMore: () => void }) {
  const { shown, isWaiting, onMore } = props;
  const wantedFrom = useRef<number | undefined>(undefined);
  useEffect(
    () => () => {
      // The button goes with the last page.
      focusRow(wantedFrom.current);
    },
    [],
  );
  useEffect(() => {
    if (wantedFrom.current === undefined || shown <= wantedFrom.current) return;
    focusRow(wantedFrom.current);
    wantedFrom.current = undefined;
  }, [shown]);
  return (
    <p class="more">
      <button
        type="button"
        aria-busy={isWaiting}
        onClick={() => {
          if (isWaiting) return;
          wantedFrom.current = shown;
          onMore();
        }}
      >
        {isWaiting ? "asking …" : `Show ${count(PAGE)} more`}
      </button>
      <span class="quiet">or search for how an id begins</span>
    </p>
  );
}

function focusRow(index: number | undefined): void {
  if (index === undefined) return;
  document.querySelectorAll<HTMLElement>("tbody th a")[index]?.focus();
}

function summary(shown: readonly Listed[], isMore: boolean): string {
  const events = shown.reduce((sum, facts) => sum + (facts.model === undefined ? 0 : facts.clock), 0);
  return `${isMore ? "the first " : ""}${counted(shown.length, "document")}, ${counted(events, "event")}`;
}

function List({ documents }: { documents: readonly Listed[] }) {
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

function Row({ facts, now }: { facts: Listed; now: number }) {
  const { id } = facts;
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
          {facts.error === undefined ? "deleted" : `${facts.error.code}: ${facts.error.message}`}
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
