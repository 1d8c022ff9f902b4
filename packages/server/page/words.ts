/**
 * Numbers, sizes and times as people read them. The same value is always written the same way, so that
 * columns align.
 */

const GROUPED = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"] as const;
const AGES = [
  [60_000, 1_000, "s"],
  [3_600_000, 60_000, "min"],
  [86_400_000, 3_600_000, "h"],
  [Number.POSITIVE_INFINITY, 86_400_000, "d"],
] as const;

export function count(value: number): string {
  return GROUPED.format(value);
}

/** `1 event`, `2 events`. */
export function counted(value: number, noun: string): string {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

export function bytes(value: number): string {
  let left = value;
  let unit = 0;
  while (left >= 1_024 && unit < UNITS.length - 1) {
    left /= 1_024;
    unit++;
  }
  return `${left < 10 && unit > 0 ? left.toFixed(1) : Math.round(left)} ${UNITS[unit]}`;
}

/** How long ago: `12 s`, `3 min`. */
export function age(time: number, now: number = Date.now()): string {
  const ms = Math.max(0, now - time);
  const [, unitMs, unit] = AGES.find(([below]) => ms < below) ?? AGES[3];
  return `${Math.floor(ms / unitMs)} ${unit}`;
}

export function duration(ms: number): string {
  if (ms === 0) return "0 ms";
  if (ms < 1) return `${ms.toFixed(2)} ms`;
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  return ms < 1_000 ? `${Math.round(ms)} ms` : `${(ms / 1_000).toFixed(1)} s`;
}

export function rate(value: number): string {
  return value > 0 && value < 10 ? value.toFixed(1) : count(value);
}

/** `2026-11-25 20:14:15`, local. */
export function timestamp(time: number): string {
  const date = new Date(time - new Date(time).getTimezoneOffset() * 60_000);
  return date.toISOString().slice(0, 19).replace("T", " ");
}
