/**
 * A plot over time, by uPlot, in the colours of the page. It redraws when the data, its width or the colour
 * scheme change, and says in words what it shows to those who cannot see it.
 */

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

export interface Line {
  readonly label: string;
  /** A custom property of the page: `--accent`. */
  readonly colour: string;
  readonly scale: string;
  readonly show: (value: number) => string;
  readonly filled?: boolean;
  /** What may lie between two labels of its axis. */
  readonly steps?: readonly number[];
}

export interface PlotProps {
  readonly says: string;
  readonly height: number;
  readonly lines: readonly Line[];
  /** Times in ms, then the values of each line; `null`: none. */
  readonly data: readonly (readonly (number | null)[])[];
  /** Draws over the plot. */
  readonly over?: (plot: uPlot, colour: (name: string) => string) => void;
  /** Told the time, in ms, that was clicked. */
  readonly onPick?: (time: number) => void;
  readonly stepped?: boolean;
}

/** For bytes, and for what is counted. */
export const POWERS_OF_TWO: readonly number[] = Array.from({ length: 50 }, (_, power) => 2 ** power);
export const WHOLE: readonly number[] = Array.from({ length: 15 }, (_, power) =>
  [1, 2, 5].map((step) => step * 10 ** power),
).flat();

export function Plot(props: PlotProps) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | undefined>(undefined);
  const latest = useRef(props);
  latest.current = props;
  useEffect(() => {
    const element = place.current!;
    const build = () => {
      plot.current?.destroy();
      plot.current = new uPlot(optionsOf(element, latest), aligned(latest.current.data), element);
    };
    build();
    const resized = new ResizeObserver(() => {
      const width = element.clientWidth;
      if (width > 0 && width !== plot.current?.width) plot.current?.setSize({ width, height: props.height });
    });
    resized.observe(element);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", build);
    return () => {
      resized.disconnect();
      scheme.removeEventListener("change", build);
      plot.current?.destroy();
      plot.current = undefined;
    };
  }, []);
  useEffect(() => plot.current?.setData(aligned(props.data)), [props.data]);
  useEffect(() => plot.current?.redraw(false));
  return (
    <div>
      <div class="plot" ref={place} role="img" aria-label={props.says} />
      <p class="legend" aria-hidden="true">
        {props.lines.map(({ label, colour }) => (
          <span key={label}>
            <i style={{ background: `var(${colour})` }} /> {label}
          </span>
        ))}
      </p>
    </div>
  );
}

/** uPlot counts in seconds. */
function aligned([times = [], ...values]: PlotProps["data"]): uPlot.AlignedData {
  return [times.map((time) => (time ?? 0) / 1_000), ...values.map((line) => [...line])] as uPlot.AlignedData;
}

function optionsOf(element: HTMLElement, latest: { readonly current: PlotProps }): uPlot.Options {
  const { lines, height, stepped } = latest.current;
  const style = getComputedStyle(element);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const font = `11px ${style.fontFamily}`;
  const axis = {
    stroke: colour("--quiet"),
    font,
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { show: false },
  };
  const paths =
    stepped === true && uPlot.paths.stepped !== undefined ? uPlot.paths.stepped({ align: 1 }) : undefined;
  const scales = [...new Set(lines.map(({ scale }) => scale))];
  return {
    width: Math.max(element.clientWidth, 200),
    height,
    padding: [10, 4, 0, 4],
    legend: { show: false },
    cursor: { drag: { x: false, y: false }, y: false, points: { size: 6 } },
    scales: Object.fromEntries(scales.map((scale) => [scale, { range: fromZero }])),
    series: [
      {},
      ...lines.map((line) => ({
        label: line.label,
        scale: line.scale,
        stroke: colour(line.colour),
        width: 1.5,
        points: { show: false },
        ...(line.filled === true ? { fill: `${colour(line.colour)}22` } : {}),
        ...(paths === undefined ? {} : { paths }),
      })),
    ],
    axes: [
      { ...axis, size: 26, space: 80, values: (_plot, splits) => splits.map(clockTime(splits)) },
      ...scales.map((scale, index) => ({
        ...axis,
        scale,
        ...stepsOf(lines.find((line) => line.scale === scale)),
        side: index === 0 ? (3 as const) : (1 as const),
        size: 64,
        grid: index === 0 ? axis.grid : { show: false },
        values: (_plot: uPlot, splits: number[]) =>
          splits.map(lines.find((line) => line.scale === scale)?.show ?? String),
      })),
    ],
    hooks: {
      draw: [(plot) => latest.current.over?.(plot, colour)],
      ready: [
        (plot) =>
          plot.over.addEventListener("click", () => {
            const { left = -1 } = plot.cursor;
            if (left >= 0) latest.current.onPick?.(plot.posToVal(left, "x") * 1_000);
          }),
      ],
    },
  };
}

function stepsOf(line: Line | undefined): { incrs?: number[] } {
  return line?.steps === undefined ? {} : { incrs: [...line.steps] };
}

function fromZero(_plot: uPlot, _min: number, max: number): [number, number] {
  return [0, max > 0 ? max * 1.08 : 1];
}

/** Hours and minutes; seconds where the labels are close, the day where they are far. */
function clockTime(splits: readonly number[]): (seconds: number) => string {
  const step = (splits[1] ?? 0) - (splits[0] ?? 0);
  return (seconds) => {
    const date = new Date(seconds * 1_000);
    const two = (value: number) => String(value).padStart(2, "0");
    const time = `${two(date.getHours())}:${two(date.getMinutes())}`;
    if (step < 60) return `${time}:${two(date.getSeconds())}`;
    return step < 86_400 ? time : `${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  };
}
