/**
 * The event graph of a document: who wrote at once, where it was merged, and which versions are critical.
 * The oldest stands at the top; lanes are laid out by the server.
 *
 * Where the order is inferred, or old events were left out, it says so: a drawing must not claim more than is
 * known.
 */

import type { DocumentAnswer, GraphAnswer, GraphRowAnswer as GraphRow } from "@coppice/server/client";
import { api } from "./api.js";
import { useLatest, usePolled } from "./hooks.js";
import { Failure } from "./parts.js";
import { count, counted, timestamp } from "./words.js";

const STEP = { x: 20, y: 26, margin: 16 };
const REPLICA_WIDTH = 64;
const TIME_WIDTH = 150;
/** Of the fonts of the drawing, at most; a column is as wide as its longest text. */
const CHARACTER_WIDTH = 8;
const COLUMN_GAP = 20;
const REPLICA_SHOWN = 6;
const COLOURS = 6;
/** A drawing of thousands of events is not made for each keystroke. */
const INTERVAL_MS = 10_000;
const REST_MS = 1_500;

export function EventGraph({ id, facts }: { id: string; facts: DocumentAnswer }) {
  const { value: asked, error } = usePolled(
    `graph ${id}`,
    INTERVAL_MS,
    (signal) => api.graph(id, signal),
    ({ documents, others }) => others || documents.includes(id),
    REST_MS,
  );
  const value = useLatest(asked);
  // Its events tell nothing of their places.
  if (error?.code === "TRAIT_MISSING") return null;
  if (value === undefined) return error === undefined ? null : <Failure error={error} />;
  const { rows, events } = value;
  const replicas = [...new Set(rows.map(({ replica }) => replica))];
  return (
    <section class="panel" aria-label="Event graph">
      <div class="row">
        <h2>Event graph</h2>
        <p class="quiet">
          {counted(events, "event")} by {counted(replicas.length, "replica")}
        </p>
        {!value.complete && <span class="chip">inferred</span>}
        <span class="spacer" />
        <p class="legend">
          <span title="everything before it was known to whoever wrote after it: nothing is beside it">
            <i class="diamond" /> ends a critical version
          </span>
          {rows.some(({ cut }) => cut) && (
            <span>
              <i class="stub" /> goes on from what is not here
            </span>
          )}
        </p>
      </div>
      <Notes graph={value} facts={facts} />
      <div class="scroll graph">
        <Drawing rows={rows} replicas={replicas} />
      </div>
    </section>
  );
}

function Notes({ graph, facts }: { graph: GraphAnswer; facts: DocumentAnswer }) {
  const { complete, from, omitted, unplaced, rows } = graph;
  const kept = facts.archivedClock ?? facts.oldestClock;
  return (
    <div class="notes">
      {!complete && (
        <p>
          Updates of {facts.model} name no parents: an edge says what an update builds on. Two that stand side
          by side may have been written one after the other.
        </p>
      )}
      {from > 0 && (
        <p>
          {graph.numbers === "replica" || from <= kept
            ? `What came before clock ${count(from)} is no longer kept one by one.`
            : `Cut: only what came after clock ${count(from)} was looked at.`}
        </p>
      )}
      {unplaced > 0 && (
        <p>
          {counted(unplaced, "event")} that only delete or repeat what is not here{" "}
          {unplaced === 1 ? "is" : "are"} not drawn.
        </p>
      )}
      {omitted > 0 && (
        <p>
          Cut: the newest {counted(rows.length, "chain")} are drawn, {count(omitted)} older ones are not.
        </p>
      )}
    </div>
  );
}

function Drawing({ rows, replicas }: { rows: readonly GraphRow[]; replicas: readonly string[] }) {
  const lanes = Math.max(1, ...rows.map(({ lane }) => lane + 1));
  const textX = STEP.margin * 2 + lanes * STEP.x;
  const numbersX = textX + REPLICA_WIDTH;
  const factsX = numbersX + widthOf(rows.map(numbersOf));
  const timeX = factsX + widthOf(rows.map(factsOf));
  const columns = { textX, numbersX, factsX, timeX };
  const height = STEP.margin * 2 + (rows.length - 1) * STEP.y;
  return (
    <svg width={timeX + TIME_WIDTH} height={height} role="img" aria-label={`${rows.length} chains of events`}>
      {rows.map((row, index) =>
        row.parents.map((parent) => (
          <path
            key={`${index} ${parent}`}
            class={`edge lane${colourOf(row, replicas)}`}
            d={edge(rows, parent, index)}
          />
        )),
      )}
      {rows.map((row, index) =>
        row.cut ? <path key={`cut ${index}`} class="edge cut" d={stub(row, index)} /> : null,
      )}
      {rows.map((row, index) => (
        <Node key={index} row={row} y={yOf(index)} columns={columns} colour={colourOf(row, replicas)} />
      ))}
    </svg>
  );
}

interface Columns {
  readonly textX: number;
  readonly numbersX: number;
  readonly factsX: number;
  readonly timeX: number;
}

function Node(props: { row: GraphRow; y: number; columns: Columns; colour: number }) {
  const { row, y, columns, colour } = props;
  const x = xOf(row.lane);
  return (
    <g class={`node lane${colour}`}>
      <title>{`replica ${row.replica}; last at ${timestamp(row.time)}`}</title>
      {row.endsCritical ? (
        <path d={`M${x - 6} ${y}L${x} ${y - 6}L${x + 6} ${y}L${x} ${y + 6}Z`} />
      ) : (
        <circle cx={x} cy={y} r="4.5" />
      )}
      <text x={columns.textX} y={y + 4} class="mono">
        {row.replica.slice(0, REPLICA_SHOWN)}
      </text>
      <text x={columns.numbersX} y={y + 4}>
        {numbersOf(row)}
      </text>
      <text x={columns.factsX} y={y + 4}>
        {factsOf(row)}
      </text>
      <text x={columns.timeX} y={y + 4} class="faint">
        {timestamp(row.time)}
      </text>
    </g>
  );
}

function numbersOf({ first, last }: GraphRow): string {
  return first === last ? `${first}` : `${first}–${last}`;
}

function factsOf({ events, undos, attached }: GraphRow): string {
  return [
    counted(events, "event"),
    ...(undos > 0 ? [counted(undos, "undo")] : []),
    ...(attached > 0 ? [`and ${count(attached)} that only delete or repeat`] : []),
  ].join(", ");
}

function widthOf(texts: readonly string[]): number {
  return Math.max(0, ...texts.map(({ length }) => length)) * CHARACTER_WIDTH + COLUMN_GAP;
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

/** From what is not here. */
function stub({ lane }: GraphRow, index: number): string {
  return `M${xOf(lane)} ${yOf(index)}v${-STEP.y / 2}`;
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
