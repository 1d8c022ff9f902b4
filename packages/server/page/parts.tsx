/**
 * Small parts that several views are made of: a failure, a wait, a figure with its name.
 *
 * They hold no state and ask for nothing; what they show is given to them.
 * A failure is told to screen readers at once.
 */

import type { ComponentChildren } from "preact";
import type { ApiError } from "./api.js";

export function Failure({ error }: { error: ApiError }) {
  return (
    <p class="notice bad" role="alert">
      <strong>{error.code}</strong> {error.message}
    </p>
  );
}

export function Waiting() {
  return <p class="empty quiet">asking the server …</p>;
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
