/**
 * An event graph as lines for a terminal, and as an SVG picture. It decides nothing about what stands where
 * (`layOutGraph` of core), and prints nothing.
 *
 * A piece is a ◆ when its last event ends a critical version, else a ●.
 */

import type { GraphRow } from "coppice";
import { timestamp } from "../output.js";

const REPLICA_SHOWN = 6;
const STEP = { x: 18, y: 26, margin: 20, text: 24 };
const COLOURS = ["#2f6f4f", "#8a5a2b", "#3b5b92", "#8b3a62", "#5c6b2f", "#6b4c9a"];

/** One or two lines for each piece. */
export function toLines(rows: readonly GraphRow[]): string[] {
  const width = Math.max(1, ...rows.map(({ lane, before }) => Math.max(lane + 1, before.length)));
  return rows.flatMap((row) => {
    const lines = row.from.length === 0 ? [] : [connectors(row)];
    const cells = Array.from({ length: width }, (_, lane) => {
      if (lane === row.lane) return row.piece.last ? "◆" : "●";
      return row.after[lane] ? "│" : " ";
    });
    return [...lines, `${cells.join(" ")}  ${labelOf(row)}`];
  });
}

/** A whole SVG document. `title` is shown as text. */
export function toSvg(rows: readonly GraphRow[], title: string): string {
  const lanes = Math.max(1, ...rows.map(({ lane }) => lane + 1));
  const textX = STEP.margin + lanes * STEP.x;
  const [width, height] = [textX + 420, STEP.margin * 2 + rows.length * STEP.y + STEP.text];
  const place = new Map(rows.map((row, index) => [row.piece, { x: xOf(row.lane), y: yOf(index) }]));
  const edges = rows.flatMap(({ piece }) => {
    const to = place.get(piece)!;
    return piece.parents.map((parent) => {
      const from = place.get(parent)!;
      const middle = to.y - STEP.y / 2;
      const start = `M${from.x} ${from.y}V${middle - STEP.y / 4}`;
      return `<path d="${start}Q${from.x} ${middle} ${(from.x + to.x) / 2} ${middle}T${to.x} ${to.y}"/>`;
    });
  });
  const nodes = rows.map((row, index) => {
    const [x, y] = [xOf(row.lane), yOf(index)];
    const colour = COLOURS[row.lane % COLOURS.length];
    const shape = row.piece.last
      ? `<path d="M${x - 6} ${y}L${x} ${y - 6}L${x + 6} ${y}L${x} ${y + 6}Z" fill="${colour}"/>`
      : `<circle cx="${x}" cy="${y}" r="4.5" fill="${colour}"/>`;
    return `${shape}<text x="${textX}" y="${y + 4}">${escaped(labelOf(row))}</text>`;
  });
  const font = 'font-family="monospace" font-size="12"';
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" ${font}>
<title>${escaped(title)}</title>
<text x="${STEP.margin}" y="${STEP.text}" font-weight="bold">${escaped(title)}</text>
<g fill="none" stroke="#999" stroke-width="1.5">${edges.join("")}</g>
<g>${nodes.join("\n")}</g>
</svg>
`;
}

function labelOf({ piece: { events, critical, cut } }: GraphRow): string {
  const [first, last] = [events[0]!, events.at(-1)!];
  const numbers = first === last ? `${first.sequence}` : `${first.sequence}–${last.sequence}`;
  const undos = events.filter(({ cancels }) => cancels !== undefined).length;
  const facts = [
    `${first.replica.slice(0, REPLICA_SHOWN)} ${numbers}`,
    `${events.length} event${events.length === 1 ? "" : "s"}`,
    ...(critical > 0 ? [`${critical} critical`] : []),
    ...(undos > 0 ? [`${undos} undo${undos === 1 ? "" : "s"}`] : []),
    ...(cut ? ["after what is kept no more"] : []),
    timestamp(last.time),
  ];
  return facts.join("  ");
}

/** The line above a piece that has parents in other lanes. */
function connectors({ lane, before, after, from }: GraphRow): string {
  const end = Math.max(lane, ...from, before.length - 1);
  let line = "";
  for (let at = 0; at <= end; at++) {
    line += crossing(at, lane, before, after, from);
    if (at < end)
      line += from.some((other) => Math.min(other, lane) <= at && at < Math.max(other, lane)) ? "─" : " ";
  }
  return line;
}

function crossing(
  at: number,
  lane: number,
  before: readonly boolean[],
  after: readonly boolean[],
  from: readonly number[],
): string {
  const left = from.some((other) => Math.min(other, lane) < at && at <= Math.max(other, lane));
  const right = from.some((other) => Math.min(other, lane) <= at && at < Math.max(other, lane));
  const up = before[at] === true;
  const down = at === lane || (after[at] === true && up);
  const shapes: Record<string, string> = {
    lrud: "┼",
    lru: "┴",
    lrd: "┬",
    lud: "┤",
    rud: "├",
    lr: "─",
    lu: "╯",
    ld: "╮",
    ru: "╰",
    rd: "╭",
    ud: "│",
    u: "│",
    d: "│",
    l: "─",
    r: "─",
    "": " ",
  };
  return shapes[`${left ? "l" : ""}${right ? "r" : ""}${up ? "u" : ""}${down ? "d" : ""}`]!;
}

function xOf(lane: number): number {
  return STEP.margin + lane * STEP.x;
}

function yOf(index: number): number {
  return STEP.margin + STEP.text + index * STEP.y;
}

function escaped(text: string): string {
  const names: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  return text.replace(/[&<>"]/g, (character) => names[character]!);
}
