/**
 * Where a node stands among its siblings, as a text: siblings are sorted by it, and between any two there is
 * room.
 *
 * A position is a run and a number in it. A run belongs to one replica: whoever goes on where it inserted
 * last, forwards or backwards, takes the next number, so what two replicas insert at one place at once stays
 * two pieces and is not mixed (the aim of Weidner and Kleppmann, "The Art of the Fugue", 2023). A new run
 * gets a fraction between its neighbours' fractions (as in Greenspan, "Implementing Fractional Indexing",
 * 2020); inside somebody's run it hangs below the left neighbour.
 *
 * | text     | is                                                                           |
 * | -------- | ---------------------------------------------------------------------------- |
 * | position | run, number                                                                  |
 * | run      | `position "/"`, when it hangs below one; fraction, `.`, replica              |
 * | fraction | number, then base-36 digits without a `0` at the end                         |
 * | number   | from 0: `a`–`k` for 1 to 11 base-36 digits; below: `Z`–`P`, digits of the complement |
 *
 * Invariants: positions compare as texts; `.` and `/` sort before all digits. Appending by many makes nothing
 * longer.
 */

export interface Position {
  readonly run: string;
  readonly at: number;
}

const RUN_LENGTH_MAX = 4096;
const AT_END = 2 ** 48;
const RUN = /^(?:[A-Za-z][0-9a-z]*\.[0-9a-v]{12}[A-Za-z][0-9a-z]+\/)*[A-Za-z][0-9a-z]*\.[0-9a-v]{12}$/;
const REPLICA_LENGTH = 12;
const BASE = 36;

/** What siblings are sorted by. */
export function positionKey({ run, at }: Position): string {
  return run + orderedNumber(at);
}

/** As a sort comparator of their texts, which are only made where one run hangs below the other. */
export function comparePositions(a: Position, b: Position): number {
  if (a.run === b.run) return a.at - b.at;
  const nested = a.run.startsWith(b.run) || b.run.startsWith(a.run);
  const [left, right] = nested ? [positionKey(a), positionKey(b)] : [a.run, b.run];
  return left < right ? -1 : 1;
}

export function isPosition(run: unknown, at: unknown): boolean {
  if (typeof run !== "string" || run.length > RUN_LENGTH_MAX || !RUN.test(run)) return false;
  return Number.isSafeInteger(at) && Math.abs(at as number) < AT_END;
}

/** A position for the replica between two neighbours, either of which may be missing. */
export function positionBetween(
  left: Position | undefined,
  right: Position | undefined,
  replica: string,
): Position {
  const leftKey = left === undefined ? "" : positionKey(left);
  const rightKey = right === undefined ? undefined : positionKey(right);
  const fits = (candidate: Position) => {
    const key = positionKey(candidate);
    return key > leftKey && (rightKey === undefined || key < rightKey);
  };
  for (const [near, step] of [
    [left, 1],
    [right, -1],
  ] as const) {
    if (near?.run.slice(-REPLICA_LENGTH) !== replica) continue;
    const candidate = { run: near.run, at: near.at + step };
    if (fits(candidate)) return candidate;
  }
  const levels = leftKey === "" ? [] : leftKey.split("/");
  const others = rightKey?.split("/") ?? [];
  let depth = 0;
  while (depth < levels.length && levels[depth] === others[depth]) depth++;
  const [lower, upper] = [fractionOf(levels[depth]), fractionOf(others[depth])];
  if (lower !== undefined && lower === upper)
    return open(`${leftKey}/`, fractionBetween(undefined, undefined), replica);
  const prefix = levels.slice(0, depth).map((level) => `${level}/`);
  return open(prefix.join(""), fractionBetween(lower, upper), replica);
}

function open(prefix: string, fraction: string, replica: string): Position {
  return { run: `${prefix}${fraction}.${replica}`, at: 0 };
}

function fractionOf(level: string | undefined): string | undefined {
  return level?.slice(0, level.indexOf("."));
}

/** A fraction between two, `undefined` being the ends. Exported for tests. */
export function fractionBetween(lower: string | undefined, upper: string | undefined): string {
  if (lower === undefined) {
    if (upper === undefined) return orderedNumber(0);
    const { whole, digits } = parts(upper);
    return orderedNumber(digits === "" ? whole - 1 : whole);
  }
  const low = parts(lower);
  if (upper === undefined) return orderedNumber(low.whole + 1);
  const high = parts(upper);
  const next = orderedNumber(low.whole + 1);
  if (next < upper) return next;
  return orderedNumber(low.whole) + middle(low.digits, low.whole === high.whole ? high.digits : undefined);
}

/** Digits between two runs of digits behind the point; `undefined` is 1. */
function middle(low: string, high: string | undefined): string {
  let shared = "";
  for (let i = 0; ; i++) {
    const a = digit(low[i]);
    const b = high === undefined ? BASE : digit(high[i]);
    if (a === b) {
      shared += a.toString(BASE);
      continue;
    }
    if (b - a > 1) return shared + Math.floor((a + b) / 2).toString(BASE);
    // Neighbours: behind the lower one there is always room.
    return shared + a.toString(BASE) + middle(low.slice(i + 1), undefined);
  }
}

function digit(text: string | undefined): number {
  return text === undefined ? 0 : Number.parseInt(text, BASE);
}

function parts(fraction: string): { whole: number; digits: string } {
  const head = fraction.charCodeAt(0);
  const length = head >= 97 ? head - 96 : 91 - head;
  const number = Number.parseInt(fraction.slice(1, 1 + length), BASE);
  const whole = head >= 97 ? number : number - BASE ** length;
  return { whole, digits: fraction.slice(1 + length) };
}

const DIGITS = [..."0123456789abcdefghijklmnopqrstuvwxyz"];

/** As `toString(36)` of a count, several times as fast for small ones: loading a tree asks for each node. */
export function base36(value: number): string {
  let text = DIGITS[value % BASE]!;
  for (let rest = Math.floor(value / BASE); rest > 0; rest = Math.floor(rest / BASE))
    text = DIGITS[rest % BASE]! + text;
  return text;
}

/** A text that sorts as the number does, and is never the beginning of another. */
function orderedNumber(value: number): string {
  if (value >= 0) {
    const digits = base36(value);
    return String.fromCharCode(96 + digits.length) + digits;
  }
  const { length } = (-1 - value).toString(BASE);
  return String.fromCharCode(91 - length) + (BASE ** length + value).toString(BASE).padStart(length, "0");
}
