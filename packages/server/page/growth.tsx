/**
 * How a document grew: events and bytes over time, with the moments that storage keeps: snapshots, tags,
 * and where trimming has cut; and compactions that the server has seen. A line stands at the clock that is
 * looked at; a click goes to another one.
 */

import type { DocumentAnswer, Mark, Point, TimelineAnswer } from "@coppice/server/client";
import type uPlot from "uplot";
import { Plot, POWERS_OF_TWO, WHOLE } from "./plot.js";
import { age, bytes, count, counted, timestamp } from "./words.js";

const LINES = [
  { label: "events", colour: "--accent", scale: "events", show: count, steps: WHOLE, filled: true },
  { label: "bytes", colour: "--second", scale: "bytes", show: bytes, steps: POWERS_OF_TWO },
] as const;

export function Growth(props: {
  readonly timeline: TimelineAnswer;
  readonly facts: DocumentAnswer;
  readonly clock: number;
  readonly onPick: (clock: number) => void;
}) {
  const { timeline, facts, clock, onPick } = props;
  const { points, marks } = timeline;
  const cut = facts.archivedClock ?? facts.oldestClock;
  const known = cut > 0 ? [[facts.created, 0, 0] as Point, ...points] : fromBefore(points);
  // A plot has one value at a time: the last one.
  const shown = known.filter(([time], index) => known[index + 1]?.[0] !== time);
  // What lies before the cut is only known by its ends.
  const line = (part: 1 | 2) => shown.map((point, index) => (cut > 0 && index === 0 ? null : point[part]));
  const data = [shown.map(([time]) => time), line(1), line(2)];
  const compactions = marks.filter(({ kind }) => kind === "compaction");
  const { compactionsSince: since } = timeline;
  const whole = `${count(facts.clock)} events and ${bytes(facts.logBytes)}`;
  return (
    <>
      <Plot
        says={`${whole} over time, with ${marks.length} marks`}
        height={210}
        lines={LINES}
        data={data}
        stepped
        onPick={(time) => onPick(clockAt(points, time))}
        over={(plot, colour) => {
          if (cut > 0) drawCut(plot, colour, points[0]!);
          for (const mark of withJointTags(marks)) drawMark(plot, colour, mark, timeAt(known, mark.clock));
          drawLine(plot, colour("--ink"), timeAt(known, clock), []);
        }}
      />
      {since !== null && (cut > 0 || compactions.length > 0) && (
        <p class="legend since" title={`since ${timestamp(since)}`}>
          {compactions.length === 0 ? "no compaction" : counted(compactions.length, "compaction")} since the
          server started {age(since)} ago; of earlier ones only the last cut is known
        </p>
      )}
    </>
  );
}

/** What happened within a second is shown at the end of a minute in which nothing did. */
function fromBefore(points: readonly Point[]): readonly Point[] {
  const [first, last] = [points[0], points.at(-1)];
  if (first === undefined || last === undefined || last[0] - first[0] >= 1_000) return points;
  return [[first[0] - 60_000, first[1], first[2]], ...points];
}

/** The time of the first point that has the clock; between two, in proportion. */
export function timeAt(points: readonly Point[], clock: number): number {
  const index = points.findIndex(([, at]) => at >= clock);
  const after = points[index < 0 ? points.length - 1 : index] ?? [0, 0, 0];
  const before = points[index - 1];
  if (before === undefined || after[1] === before[1]) return after[0];
  return before[0] + ((after[0] - before[0]) * (clock - before[1])) / (after[1] - before[1]);
}

/** The clock that was reached at the time. */
export function clockAt(points: readonly Point[], time: number): number {
  const index = points.findIndex(([at]) => at > time);
  if (index === 0) return points[0]![1];
  return (index < 0 ? points.at(-1) : points[index - 1])?.[1] ?? 0;
}

function drawLine(plot: uPlot, stroke: string, time: number, dash: number[]): number {
  const { ctx, bbox } = plot;
  const x = Math.round(plot.valToPos(time / 1_000, "x", true)) + 0.5;
  ctx.save();
  ctx.strokeStyle = stroke;
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash(dash.map((length) => length * devicePixelRatio));
  ctx.beginPath();
  ctx.moveTo(x, bbox.top);
  ctx.lineTo(x, bbox.top + bbox.height);
  ctx.stroke();
  ctx.restore();
  return x;
}

/** Curves end at the top: most names stand at the bottom, and none over another. */
const MARKS: Readonly<Record<Mark["kind"], { property: string; text: (mark: Mark) => string; y: number }>> = {
  tag: { property: "--tag", text: ({ name = "tag" }) => name, y: 4 },
  snapshot: { property: "--accent", text: () => "snapshot", y: -20 },
  compaction: { property: "--second", text: (mark) => `compacted, ${bytes(mark.bytes)} freed`, y: -38 },
};

function drawMark(plot: uPlot, colour: (name: string) => string, mark: Mark, time: number): void {
  const { property, text, y } = MARKS[mark.kind];
  const stroke = colour(property);
  const x = drawLine(plot, stroke, time, [2, 3]);
  const { top, height } = plot.bbox;
  const from = y < 0 ? top + height : top;
  label(plot, text(mark), x, from + y * devicePixelRatio, stroke, colour("--panel"));
}

/** Tags of one clock have one label: theirs would stand over each other. */
function withJointTags(marks: readonly Mark[]): readonly Mark[] {
  const tags = new Map<number, Mark>();
  for (const mark of marks) {
    if (mark.kind !== "tag") continue;
    const other = tags.get(mark.clock);
    tags.set(mark.clock, other === undefined ? mark : { ...mark, name: `${other.name}, ${mark.name}` });
  }
  return [...marks.filter(({ kind }) => kind !== "tag"), ...tags.values()];
}

/** A grey field up to the first point, and a broken line to it: how it went there is not known any more. */
function drawCut(plot: uPlot, colour: (name: string) => string, [time, clock]: Point): void {
  const { ctx, bbox } = plot;
  const x = plot.valToPos(time / 1_000, "x", true);
  ctx.save();
  ctx.globalAlpha = 0.5;
  ctx.fillStyle = colour("--line");
  ctx.fillRect(bbox.left, bbox.top, Math.max(0, x - bbox.left), bbox.height);
  ctx.globalAlpha = 1;
  ctx.strokeStyle = colour("--quiet");
  ctx.setLineDash([3 * devicePixelRatio, 4 * devicePixelRatio]);
  ctx.beginPath();
  ctx.moveTo(bbox.left, bbox.top + bbox.height);
  ctx.lineTo(x, plot.valToPos(clock, "events", true));
  ctx.stroke();
  ctx.restore();
  const y = bbox.top + 34 * devicePixelRatio;
  label(plot, "trimmed by compaction", bbox.left, y, colour("--quiet"), colour("--panel"));
}

/** On a ground of its own, so that it can be read over a line. */
function label(plot: uPlot, text: string, x: number, y: number, ink: string, ground: string): void {
  const { ctx, bbox } = plot;
  const size = 11 * devicePixelRatio;
  const gap = 5 * devicePixelRatio;
  ctx.save();
  ctx.font = `${size}px ${getComputedStyle(plot.root).fontFamily}`;
  ctx.textBaseline = "top";
  const { width } = ctx.measureText(text);
  const left = x + gap + width > bbox.left + bbox.width ? x - gap - width : x + gap;
  ctx.globalAlpha = 0.85;
  ctx.fillStyle = ground;
  ctx.fillRect(left - gap / 2, y - 2, width + gap, size + 4);
  ctx.globalAlpha = 1;
  ctx.fillStyle = ink;
  ctx.fillText(text, left, y);
  ctx.restore();
}
