/**
 * Small parts that several views are made of: a failure, a wait, a figure with its name.
 *
 * They hold no state and ask for nothing; what they show is given to them.
 * A failure is told to screen readers at once.
 */

import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import type { ApiError } from "./api.js";

export function Failure({ error }: { error: ApiError }) {
  return (
    <p class="notice bad" role="alert">
      <strong>{error.code}</strong> {error.message}
    </p>
  );
}

/** A `ref` that gives the focus to a new field; a function that is made anew would at each rendering. */
export function withFocus(field: HTMLElement | null): void {
  field?.focus();
}

/** For what comes back in the place of a field that had the focus, unless that has gone elsewhere. */
export function withFocusBack(button: HTMLElement | null): void {
  if (document.activeElement === null || document.activeElement === document.body) button?.focus();
}

/**
 * For the `onClick` of a row of buttons: the one that began something has the focus again when that is over.
 * A button that is disabled meanwhile loses it, and so does an answer that is gone.
 */
export function useFocusBack(isOver: boolean): (event: Event) => void {
  const began = useRef<HTMLElement | null>(null);
  useLayoutEffect(() => {
    if (isOver) withFocusBack(began.current);
  }, [isOver]);
  return ({ target }) => {
    if (isOver && target instanceof HTMLElement) began.current = target.closest("button");
  };
}

export function Waiting() {
  return <p class="empty quiet">asking the server …</p>;
}

/** A question before what cannot be undone; the answer that undoes nothing has the focus. */
export function Ask(props: {
  readonly question: string;
  readonly verb: string;
  readonly onYes: () => void;
  readonly onNo: () => void;
}) {
  const no = useRef<HTMLButtonElement>(null);
  // Before it is painted: who presses Enter at first sight must not press what the question came from.
  useLayoutEffect(() => no.current?.focus(), []);
  return (
    <div
      class="notice steps"
      role="alertdialog"
      aria-label={props.question}
      onKeyDown={(event) => event.key === "Escape" && props.onNo()}
    >
      <p>{props.question}</p>
      <span class="spacer" />
      <button type="button" onClick={props.onYes}>
        {props.verb}
      </button>
      <button type="button" ref={no} onClick={props.onNo}>
        Keep them
      </button>
    </div>
  );
}

/** A figure with its name, and what it means below. */
export function Tile(props: {
  readonly name: string;
  readonly value: ComponentChildren;
  readonly note?: ComponentChildren;
  readonly title?: string;
}) {
  return (
    <div class="tile" title={props.title}>
      <dt>{props.name}</dt>
      <dd class="value">{props.value}</dd>
      {props.note !== undefined && <dd class="note">{props.note}</dd>}
    </div>
  );
}
