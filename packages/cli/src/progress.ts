/**
 * One line on stderr that says how far a long run is. It exists on terminals only: in a pipe, a log or a cron
 * mail it writes nothing at all.
 *
 * Invariant: the line is gone after `finish`, so that results and errors stand on clean lines.
 */

import { count, type Output } from "./output.js";

const INTERVAL_MS = 80;
const BAR_COLUMNS = 24;

export class Progress {
  readonly #output: Output;
  readonly #label: string;
  readonly #total: number | undefined;
  readonly #started = performance.now();
  #shown = Number.NEGATIVE_INFINITY;
  #visible = false;

  /** Without a total it counts. */
  constructor(output: Output, label: string, total?: number) {
    this.#output = output;
    this.#label = label;
    this.#total = total;
  }

  update(done: number, note = ""): void {
    if (!this.#output.erasable) return;
    const now = performance.now();
    if (now - this.#shown < INTERVAL_MS) return;
    this.#shown = now;
    this.#visible = true;
    this.#write(`\r\u001b[K${this.line(done, now - this.#started, note)}`);
  }

  finish(): void {
    if (this.#visible) this.#write("\r\u001b[K");
    this.#visible = false;
  }

  /** The line itself, cut to the width of the terminal. */
  line(done: number, elapsedMs: number, note: string): string {
    const rate = elapsedMs > 0 ? `${count((done * 1000) / elapsedMs)}/s` : "";
    const parts = [this.#label];
    if (this.#total === undefined) parts.push(count(done));
    else {
      const share = this.#total === 0 ? 1 : Math.min(1, done / this.#total);
      const filled = Math.round(share * BAR_COLUMNS);
      parts.push(`[${"#".repeat(filled)}${".".repeat(BAR_COLUMNS - filled)}]`);
      parts.push(`${Math.floor(share * 100)}%`.padStart(4), `${count(done)}/${count(this.#total)}`);
    }
    parts.push(rate, note);
    return parts
      .filter((part) => part !== "")
      .join("  ")
      .slice(0, Math.max(1, this.#output.columns - 1));
  }

  /** Progress is a courtesy: when nobody can read it, the work itself goes on. */
  #write(text: string): void {
    this.#output.write(text).catch(() => this.#output);
  }
}
