/**
 * The page: a bar with the three places one can be at, and the view of the place that the address names.
 *
 * The place is in the hash, so that the server needs to know one file only, and a reload stays where it was.
 * A view of another document is another one: nothing of the one before is left in it.
 */

import { render } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { type StreamState, stream, useStreamState } from "./changes.js";
import { DocumentView } from "./document.js";
import { DocumentsView } from "./documents.js";
import { type Live, useFigures } from "./figures.js";
import { linkTo, usePlace } from "./hooks.js";
import { StorageView } from "./storage.js";
import { TokenForm } from "./token.js";
import { TryView } from "./try.js";
import "./style.css";
import "./views.css";

const PLACES = [
  ["documents", "Documents"],
  ["storage", "Storage"],
  ["try", "Try it"],
] as const;

const TRIED = "notes";

const ANSWERING: Readonly<Record<StreamState, readonly [state: string, words: string, means: string]>> = {
  connecting: ["warn", "connecting …", "the page asks the server"],
  live: ["good", "live", "the server tells of changes as they happen"],
  reconnecting: ["warn", "reconnecting …", "the server answers, and the page asks again and again meanwhile"],
  polling: ["good", "polling", "the server tells of no changes here; the page asks again and again"],
};

function Page() {
  const [where = "documents", id] = usePlace();
  const live = useFigures();
  const isFirst = useRef(true);
  useEffect(() => {
    document.title = `${titleOf(where, id)} · Coppice`;
    // A page that has just come is gone through from its top.
    if (!isFirst.current) document.querySelector<HTMLElement>("main")?.focus({ preventScroll: true });
    isFirst.current = false;
  }, [where, id]);
  return (
    <>
      <button type="button" class="skip" onClick={focusMain}>
        Skip to the content
      </button>
      <header class="bar">
        <a class="mark" href={linkTo("documents")}>
          <img src="./icon.svg" alt="" width="22" height="22" />
          Coppice
        </a>
        <nav aria-label="Places">
          {PLACES.map(([place, name]) => (
            <a key={place} href={linkTo(place)} aria-current={place === where ? "page" : undefined}>
              {name}
            </a>
          ))}
        </nav>
        <Status live={live} isOfDocument={id !== undefined} />
      </header>
      <main id="main" tabIndex={-1}>
        {/* A token of some documents opens these, and not the list of all. */}
        {live.locked === "no" || (live.locked === "partly" && id !== undefined) ? (
          <View where={where} id={id} live={live} />
        ) : (
          <TokenForm why={live.locked} />
        )}
      </main>
    </>
  );
}

/** Of tabs side by side it says which is which. */
function titleOf(where: string, id: string | undefined): string {
  if (where === "try") return `Try ${id ?? TRIED}`;
  return where === "storage" ? "Storage" : (id ?? "Documents");
}

function View({ where, id, live }: { where: string; id: string | undefined; live: Live }) {
  if (where === "storage") return <StorageView live={live} />;
  if (where === "try") return <TryView key={id ?? TRIED} id={id ?? TRIED} live={live} />;
  if (where === "documents" && id !== undefined) return <DocumentView key={id} id={id} live={live} />;
  return <DocumentsView />;
}

function Status(props: { readonly live: Live; readonly isOfDocument: boolean }) {
  const { reachable, locked, figures } = props.live;
  const changes = useStreamState();
  const isFull = figures?.gauges.coppice_writable === 0;
  const [state, words, means] = !reachable
    ? ["bad", "reconnecting …", "the server does not answer"]
    : locked !== "no" && !(locked === "partly" && props.isOfDocument)
      ? ["warn", "token needed", "the server wants a token, or another one"]
      : isFull
        ? ["warn", "takes no edits", "the storage refuses writes, and is tried again"]
        : ANSWERING[changes];
  return (
    <p class="status" role="status" title={means}>
      <span class={`dot ${state}`} aria-hidden="true" />
      <span class="words">{words}</span>
    </p>
  );
}

/** The hash is the place, so this cannot be a link to an anchor. */
function focusMain(): void {
  document.querySelector<HTMLElement>("main")?.focus();
}

stream.start();
render(<Page />, document.querySelector("#page")!);
