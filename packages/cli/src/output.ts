/**
 * Writing to a stream: lines, tables, JSON, colour. It knows nothing of documents.
 *
 * Invariants: whatever a store or a user named is made harmless for terminals before it is shown
 * (`printable`, and `toJson`, whose output stays equal as JSON); colour appears only on a terminal, and never
 * with NO_COLOR; a write waits until the reader took the one before, so that streams of any length need
 * little memory.
 */

/** What is used of `process.stdout` and `process.stderr`. */
export interface Sink {
  readonly isTTY?: boolean;
  readonly columns?: number;
  /** `written` is told when it was passed on, or why it was not. */
  write(text: string, written: (error?: Error | null) => void): boolean;
}

export type Style = "bold" | "dim" | "red" | "green" | "yellow";

const STYLES: Record<Style, readonly [number, number]> = {
  bold: [1, 22],
  dim: [2, 22],
  red: [31, 39],
  green: [32, 39],
  yellow: [33, 39],
};

export interface Column {
  readonly name: string;
  readonly align?: "left" | "right";
  /** Of cells that come in later portions. */
  readonly widthMin?: number;
}

export class Output {
  /** Whether a person looks at it. */
  readonly terminal: boolean;
  /** Whether it is a terminal that can take a line back. */
  readonly erasable: boolean;
  readonly columns: number;
  /** What is written is the log of a process that lives on: a write that fails stops nothing then. */
  isLog = false;
  readonly #sink: Sink;
  readonly #signal: AbortSignal | undefined;
  readonly #colour: boolean;

  constructor(sink: Sink, env: Readonly<Record<string, string | undefined>>, signal?: AbortSignal) {
    this.#sink = sink;
    this.#signal = signal;
    this.terminal = sink.isTTY === true;
    this.columns = sink.columns || 80;
    this.erasable = this.terminal && env.TERM !== "dumb";
    this.#colour = this.erasable && !env.NO_COLOR;
  }

  /**
   * Resolves when the stream takes more; rejects with the signal's reason when the run is stopped meanwhile.
   * A stream that fails stops the run, or where there is no signal is waited for no longer: it never drains.
   */
  async write(text: string): Promise<void> {
    const signal = this.#signal;
    let passOn = (): void => undefined;
    const passedOn = new Promise<void>((resolve) => {
      passOn = resolve;
    });
    const isTaken = this.#sink.write(text, (error) => {
      if (!error || signal === undefined || this.isLog) passOn();
    });
    if (isTaken) return;
    if (!this.isLog) signal?.throwIfAborted();
    let stop = (): void => undefined;
    const stopped = new Promise<never>((_, reject) => {
      stop = () => reject(signal?.reason);
    });
    signal?.addEventListener("abort", stop, { once: true });
    await Promise.race([passedOn, stopped]).finally(() => signal?.removeEventListener("abort", stop));
  }

  line(text: string): Promise<void> {
    return this.write(`${text}\n`);
  }

  /** One JSON value on one line: a document, or one line of a stream. */
  json(value: unknown): Promise<void> {
    return this.line(toJson(value));
  }

  /** What happens while a process runs on, with the time: lines that are kept for long are read by it. */
  event(event: string, facts: Readonly<Record<string, unknown>> = {}): Promise<void> {
    return this.json({ time: new Date().toISOString(), event, ...facts });
  }

  style(style: Style, text: string): string {
    const [on, off] = STYLES[style];
    return this.#colour ? `\u001b[${on}m${text}\u001b[${off}m` : text;
  }

  /** Rows under a header, aligned; no lines or boxes, so that `cut` and `awk` work on it. */
  async table(columns: readonly Column[], rows: readonly (readonly string[])[]): Promise<void> {
    const table = new Table(columns);
    await this.write(table.header((text) => this.style("dim", text), rows) + table.rows(rows));
  }

  /** Names and values, one pair on each line. */
  async pairs(pairs: readonly (readonly [name: string, value: string])[]): Promise<void> {
    const width = Math.max(...pairs.map(([name]) => displayWidth(name)));
    for (const [name, value] of pairs) await this.line(`${this.style("dim", pad(name, width))}  ${value}`);
  }
}

/**
 * A table whose rows come in portions: widths only grow, so that later portions stay aligned where they can.
 */
export class Table {
  readonly #columns: readonly Column[];
  readonly #widths: number[];

  constructor(columns: readonly Column[]) {
    this.#columns = columns;
    this.#widths = columns.map(({ name, widthMin = 0 }) => Math.max(widthMin, displayWidth(name)));
  }

  header(style: (text: string) => string, rows: readonly (readonly string[])[]): string {
    this.#grow(rows);
    return `${style(this.#format(this.#columns.map(({ name }) => name)))}\n`;
  }

  rows(rows: readonly (readonly string[])[]): string {
    this.#grow(rows);
    return rows.map((row) => `${this.#format(row)}\n`).join("");
  }

  #grow(rows: readonly (readonly string[])[]): void {
    for (const row of rows) {
      row.forEach((cell, index) => {
        this.#widths[index] = Math.max(this.#widths[index] ?? 0, displayWidth(cell));
      });
    }
  }

  #format(row: readonly string[]): string {
    return row
      .map((cell, index) => pad(cell, this.#widths[index] ?? 0, this.#columns[index]?.align))
      .join("  ")
      .trimEnd();
  }
}

/** Characters that move the cursor, change the terminal, or hide or reorder text. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it is about
const UNSAFE = /[\u0000-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** Text that a terminal shows as it is: control characters become `\u001b` and the like. */
export function printable(text: string): string {
  return text.replace(UNSAFE, escapeUnit);
}

/** JSON on one line; what is absent is `null`, and bytes are base64. Control characters are escaped. */
export function toJson(value: unknown): string {
  return JSON.stringify(value, (_name, item: unknown) => {
    if (item === undefined) return null;
    return item instanceof Uint8Array ? Buffer.from(item).toString("base64") : item;
  }).replace(UNSAFE, escapeUnit);
}

function escapeUnit(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}

function pad(text: string, width: number, align: Column["align"] = "left"): string {
  const fill = " ".repeat(Math.max(0, width - displayWidth(text)));
  return align === "right" ? fill + text : text + fill;
}

const WIDE_ASIAN =
  /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60]/;
const WIDE_OTHER = /[\uffe0-\uffe6\u{1f300}-\u{1faff}\u{20000}-\u{3fffd}]/u;
// biome-ignore lint/suspicious/noControlCharactersInRegex: the escape that begins a colour
const COLOURS = /\u001b\[\d+m/g;

/** Columns that the text takes on a terminal. */
export function displayWidth(text: string): number {
  let width = 0;
  for (const character of text.replace(COLOURS, "")) {
    if (/\p{Mark}|\u200d/u.test(character)) continue;
    width += WIDE_ASIAN.test(character) || WIDE_OTHER.test(character) ? 2 : 1;
  }
  return width;
}

/** `259,778`; fractions only below 100. */
export function count(value: number, digits = 0): string {
  const fixed = value.toFixed(Math.abs(value) < 100 ? digits : 0);
  const [whole = "", fraction] = fixed.split(".");
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, ",");
  return fraction === undefined ? grouped : `${grouped}.${fraction}`;
}

/** `1 event`, `2,000 events`. */
export function plural(value: number, noun: string): string {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** `1.5 MiB`. */
export function byteSize(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024;
  return `${value.toFixed(unit === 0 || value >= 100 ? 0 : 1)} ${units[unit]}`;
}

/** `850 µs`, `1.2 ms`, `3.4 s`. */
export function duration(ms: number): string {
  if (ms < 1) return `${(ms * 1000).toFixed(0)} µs`;
  if (ms < 1000) return `${ms.toFixed(ms < 100 ? 1 : 0)} ms`;
  return `${(ms / 1000).toFixed(1)} s`;
}

/** For JSON: a clock tells no more than microseconds. */
export function withRoundedTime<T extends { readonly durationMs: number }>(result: T): T {
  return { ...result, durationMs: Number(result.durationMs.toFixed(3)) };
}

/** `2026-01-31 23:59:58Z`; `-` when there is none. */
export function timestamp(ms: number | undefined): string {
  return moment(ms)
    .replace("T", " ")
    .replace(/\.\d+Z$/, "Z");
}

/** `2026-01-31T23:59:58.123Z`, as `--at` takes it: cut to seconds it would be a moment before. */
export function moment(ms: number | undefined): string {
  return ms === undefined || !(Math.abs(ms) <= 8.64e15) ? "-" : new Date(ms).toISOString();
}
