/**
 * The event graph of a document: who wrote at once, where it was merged, and which versions are critical.
 * The oldest stands at the top; lanes are laid out by the server.
 */

import type { GraphRowAnswer as GraphRow } from "@coppice/server/client";
import { api } from "./api.js";
import { useLatest, usePolled } from "./hooks.js";
import { Failure } from "./parts.js";
import { count, counted, timestamp } from "./words.js";

const STEP = { x: 20, y: 26, margin: 16 };
const REPLICA_SHOWN = 6;
const COLOURS = 6;

export function EventGraph({ id, clock }: { id: string; clock: number }) {
  const { value: asked, error } = usePolled(`graph ${id} ${clock}`, 3_600_000, (signal) =>
    api.graph(id, signal),
  );
  const value = useLatest(asked);
  if (error?.code === "TRAIT_MISSING") return null;
  if (error !== undefined) return <Failure error={error} />;
  if (value === undefined) return null;
  const { rows, events, omitted } = value;
  const replicas = [...new Set(rows.map(({ replica }) => replica))];
  return (
    <div class="panel">
      <div class="row">
        <h2>Event graph</h2>
        <p class="quiet">
          {counted(events, "event")} by {counted(replicas.length, "replica")}
          {omitted > 0 && `; the newest ${count(rows.length)} chains are shown`}
        </p>
        <span class="spacer" />
        <p class="legend">
          <span>
            <i class="diamond" /> ends a critical version
          </span>
        </p>
      </div>
      <div class="scroll graph">
        <Drawing rows={rows} replicas={replicas} />
      </div>
    </div>
  );
}

function Drawing({ rows, replicas }: { rows: readonly GraphRow[]; replicas: readonly string[] }) {
  const lanes = Math.max(1, ...rows.map(({ lane }) => lane + 1));
  const textX = STEP.margin * 2 + lanes * STEP.x;
  const height = STEP.margin * 2 + (rows.length - 1) * STEP.y;
  return (
    <svg width={textX + 500} height={height} role="img" aria-label={`${rows.length} chains of events`}>
      {rows.map((row, index) =>
        row.parents.map((parent) => (
          <path
            key={`${index} ${parent}`}
            class={`edge lane${colourOf(row, replicas)}`}
            d={edge(rows, parent, index)}
          />
        )),
      )}
      {rows.map((row, index) => (
        <Node key={index} row={row} y={yOf(index)} textX={textX} colour={colourOf(row, replicas)} />
      ))}
    </svg>
  );
}

function Node(props: { row: GraphRow; y: number; textX: number; colour: number }) {
  const { row, y, textX, colour } = props;
  const x = xOf(row.lane);
  const numbers = row.first === row.last ? `${row.first}` : `${row.first}–${row.last}`;
  const facts = [
    counted(row.last - row.first + 1, "event"),
    ...(row.undos > 0 ? [counted(row.undos, "undo")] : []),
    ...(row.cut ? ["after what is no longer kept"] : []),
  ].join(", ");
  return (
    <g class={`node lane${colour}`}>
      {row.endsCritical ? (
        <path d={`M${x - 6} ${y}L${x} ${y - 6}L${x + 6} ${y}L${x} ${y + 6}Z`} />
      ) : (
        <circle cx={x} cy={y} r="4.5" />
      )}
      <text x={textX} y={y + 4} class="mono">
        {row.replica.slice(0, REPLICA_SHOWN)}
      </text>
      <text x={textX + 64} y={y + 4}>
        {numbers}
      </text>
      <text x={textX + 130} y={y + 4}>
        {facts}
      </text>
      <text x={textX + 330} y={y + 4} class="faint">
        {timestamp(row.time)}
      </text>
    </g>
  );
}

function edge(rows: readonly GraphRow[], parent: number, child: number): string {
  const [toX, toY] = [xOf(rows[child]!.lane), yOf(child)];
  if (parent < 0) return `M${toX} 0V${toY}`;
  const [fromX, fromY] = [xOf(rows[parent]!.lane), yOf(parent)];
  if (fromX === toX) return `M${fromX} ${fromY}V${toY}`;
  const bend = toY - STEP.y;
  const middle = (bend + toY) / 2;
  return `M${fromX} ${fromY}V${bend}C${fromX} ${middle} ${toX} ${middle} ${toX} ${toY}`;
}

function colourOf({ replica }: GraphRow, replicas: readonly string[]): number {
  return replicas.indexOf(replica) % COLOURS;
}

function xOf(lane: number): number {
  return STEP.margin + lane * STEP.x;
}

function yOf(index: number): number {
  return STEP.margin + index * STEP.y;
}
