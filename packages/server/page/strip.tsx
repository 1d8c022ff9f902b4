/**
 * Each keystroke as a small cell: hollow while it is pending, filled once it is durable, in the order in
 * which they were typed. The newest stand at the right.
 */

import type { Keystroke } from "./editor.js";
import { counted, duration } from "./words.js";

const SHOWN = 240;

export function Strip({ keystrokes }: { keystrokes: readonly Keystroke[] }) {
  const pending = keystrokes.filter(({ durableMs }) => durableMs === undefined).length;
  const times = keystrokes
    .flatMap(({ durableMs }) => (durableMs === undefined ? [] : [durableMs]))
    .sort(ascending);
  const median = times[Math.floor(times.length / 2)];
  return (
    <section class="panel strip" aria-label="Keystrokes">
      <header class="row">
        <h2>Keystrokes</h2>
        <p class="quiet" data-pending={pending} data-typed={keystrokes.length}>
          {keystrokes.length === 0
            ? "each one appears here, and fills when it is on the disk"
            : `${counted(keystrokes.length, "keystroke")}, ${told(pending)}`}
          {median !== undefined && `, half of them within ${duration(median)}`}
        </p>
        <span class="spacer" />
        <p class="legend">
          <span>
            <i class="cell" /> pending
          </span>
          <span>
            <i class="cell durable" /> durable
          </span>
        </p>
      </header>
      <ol class="cells">
        {keystrokes.slice(-SHOWN).map((keystroke) => (
          <Cell key={keystroke.number} keystroke={keystroke} durable={keystroke.durableMs !== undefined} />
        ))}
      </ol>
    </section>
  );
}

function Cell({
  keystroke: { shown, person, durableMs },
  durable,
}: {
  keystroke: Keystroke;
  durable: boolean;
}) {
  const says = durable ? `durable after ${duration(durableMs ?? 0)}` : "pending";
  return (
    <li class={durable ? "cell durable" : "cell"} title={`${person}: ${shown}, ${says}`}>
      {shown}
    </li>
  );
}

function told(pending: number): string {
  return pending === 0 ? "all durable" : `${pending} pending`;
}

function ascending(one: number, other: number): number {
  return one - other;
}
