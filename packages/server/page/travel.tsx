/**
 * Travel through time: a slider over the clocks that can still be loaded, the document as it was there, and
 * what has changed since. While the slider moves, only the newest moment is asked for.
 */

import type { ContentAnswer as Content, DocumentAnswer, Mark } from "@coppice/server/client";
import type { JSX } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { type ApiError, api } from "./api.js";
import { differenceOf, type Run } from "./difference.js";
import { asApiError } from "./hooks.js";
import { Failure } from "./parts.js";
import { count } from "./words.js";

interface Props {
  readonly id: string;
  readonly facts: DocumentAnswer;
  /** The oldest clock that may be chosen. */
  readonly first: number;
  readonly clock: number;
  readonly isNow: boolean;
  readonly marks: readonly Mark[];
  readonly onChoose: (clock: number | undefined) => void;
}

export function Travel(props: Props) {
  const { id, facts, first, clock, isNow, marks, onChoose } = props;
  const version = `${facts.oldestClock}`;
  const now = useContent(id, facts.clock, version);
  const past = useContent(id, isNow ? undefined : clock, version);
  const then = isNow ? now : past;
  const tags = marks.filter(({ kind }) => kind === "tag");
  return (
    <div class="travel">
      <div class="row">
        <label for="clock">clock</label>
        <input
          id="clock"
          type="range"
          min={first}
          max={facts.clock}
          value={clock}
          aria-valuetext={`after ${count(clock)} of ${count(facts.clock)} events`}
          onInput={(event) => {
            const chosen = event.currentTarget.valueAsNumber;
            onChoose(chosen === facts.clock ? undefined : chosen);
          }}
        />
        <output for="clock" class="number">
          {count(clock)}
        </output>
        <button type="button" disabled={isNow} onClick={() => onChoose(undefined)}>
          Now
        </button>
      </div>
      {tags.length > 0 && (
        <p class="row tags">
          <span class="quiet">tags</span>
          {tags.map(({ name = "", clock: at }) => (
            <button type="button" class="link" key={name} onClick={() => onChoose(at)}>
              {name}
            </button>
          ))}
        </p>
      )}
      {then.error !== undefined ? (
        <Failure error={then.error} />
      ) : (
        <Texts then={then.content} now={now.content} isNow={isNow} />
      )}
    </div>
  );
}

function Texts(props: { then: Content | undefined; now: Content | undefined; isNow: boolean }) {
  const { then, now, isNow } = props;
  const [before, after] = [textOf(then), textOf(now)];
  const runs = useMemo(() => differenceOf(before, after), [before, after]);
  return (
    <div class="texts">
      <figure aria-label="the document then">
        <figcaption>
          {isNow
            ? "now; the slider and the plot go back, and show what has changed since"
            : `as it was at clock ${then === undefined ? "…" : count(then.clock)}`}
        </figcaption>
        <pre class="text" data-clock={then?.clock}>
          {before}
        </pre>
      </figure>
      {!isNow && (
        <figure aria-label="the difference to now">
          <figcaption>{summary(runs)}</figcaption>
          <pre class="text">{piecesOf(runs)}</pre>
        </figure>
      )}
    </div>
  );
}

/** Runs have no names of their own: each is known by where it begins. */
function piecesOf(runs: readonly Run[]): JSX.Element[] {
  let at = 0;
  return runs.map(({ kind, text }) => {
    const key = at;
    at += text.length;
    if (kind === "added") return <ins key={key}>{text}</ins>;
    return kind === "removed" ? <del key={key}>{text}</del> : <span key={key}>{text}</span>;
  });
}

function summary(runs: readonly Run[]): string {
  const size = (kind: Run["kind"]) =>
    runs.filter((run) => run.kind === kind).reduce((sum, { text }) => sum + text.length, 0);
  const [added, removed] = [size("added"), size("removed")];
  if (added + removed === 0) return "no difference to now";
  return `since then: ${count(added)} characters came, ${count(removed)} went`;
}

/** All parts, under their names where there are several. */
function textOf(content: Content | undefined): string {
  const parts = content?.parts ?? [];
  if (parts.length === 1) return parts[0]!.text;
  return parts.map(({ name, text }) => `${name}\n${text}`).join("\n\n");
}

/** What was shown stays until what is asked for has come; without a clock nothing is asked for. */
function useContent(
  id: string,
  clock: number | undefined,
  version: string,
): { content?: Content; error?: ApiError } {
  const [state, setState] = useState<{ content?: Content; error?: ApiError }>({});
  const wanted = useRef(clock);
  const isAsking = useRef(false);
  const isGone = useRef(false);
  wanted.current = clock;
  useEffect(() => {
    const ask = async () => {
      if (isAsking.current || wanted.current === undefined) return;
      isAsking.current = true;
      let asked: number | undefined;
      do {
        asked = wanted.current;
        try {
          const content = await api.content(id, asked);
          if (!isGone.current) setState({ content });
        } catch (failure) {
          if (!isGone.current) setState({ error: asApiError(failure) });
        }
      } while (asked !== wanted.current && !isGone.current);
      isAsking.current = false;
    };
    void ask();
  }, [id, clock, version]);
  useEffect(
    () => () => {
      isGone.current = true;
    },
    [],
  );
  return state;
}
