/**
 * The yardstick of a replay: the text of a recording, edited in a plain array, without any document model. It
 * is what a replayed document is compared with, so it shares no code with one.
 *
 * The array holds code points and has a gap where the last edit was (people edit near where they just
 * edited). Positions outside the text are programming mistakes of the recording: they throw.
 */

export class PlainText {
  #points = new Uint32Array(1 << 16);
  #gapStart = 0;
  #gapEnd: number = this.#points.length;
  /** Code points that take two UTF-16 units. */
  #wide = 0;

  constructor(text = "") {
    this.replace(0, 0, text);
  }

  /** In code points. */
  get length(): number {
    return this.#points.length - (this.#gapEnd - this.#gapStart);
  }

  replace(position: number, deleted: number, inserted: string): void {
    if (position < 0 || deleted < 0 || position + deleted > this.length) {
      throw new RangeError(`the edit at ${position} lies outside the text of ${this.length}`);
    }
    this.#moveGap(position);
    for (let index = 0; index < deleted; index++) {
      if ((this.#points[this.#gapEnd + index] ?? 0) > 0xffff) this.#wide--;
    }
    this.#gapEnd += deleted;
    for (const character of inserted) {
      const point = character.codePointAt(0) ?? 0;
      if (this.#gapStart === this.#gapEnd) this.#grow();
      this.#points[this.#gapStart++] = point;
      if (point > 0xffff) this.#wide++;
    }
  }

  /** The same place counted in UTF-16 units, as JavaScript's strings and Yjs count. */
  utf16(position: number): number {
    if (this.#wide === 0) return position;
    let wide = 0;
    for (let index = 0; index < position; index++) if (this.#at(index) > 0xffff) wide++;
    return position + wide;
  }

  toString(): string {
    const parts: string[] = [];
    for (let from = 0; from < this.length; from += 8192) {
      const to = Math.min(this.length, from + 8192);
      parts.push(
        String.fromCodePoint(...Array.from({ length: to - from }, (_, index) => this.#at(from + index))),
      );
    }
    return parts.join("");
  }

  #at(index: number): number {
    return this.#points[index < this.#gapStart ? index : index + this.#gapEnd - this.#gapStart] ?? 0;
  }

  #moveGap(position: number): void {
    if (position < this.#gapStart) {
      this.#points.copyWithin(this.#gapEnd - (this.#gapStart - position), position, this.#gapStart);
    } else if (position > this.#gapStart) {
      this.#points.copyWithin(this.#gapStart, this.#gapEnd, this.#gapEnd + position - this.#gapStart);
    }
    this.#gapEnd += position - this.#gapStart;
    this.#gapStart = position;
  }

  #grow(): void {
    const grown = new Uint32Array(this.#points.length * 2);
    const tail = this.#points.length - this.#gapEnd;
    grown.set(this.#points.subarray(0, this.#gapStart));
    grown.set(this.#points.subarray(this.#gapEnd), grown.length - tail);
    this.#points = grown;
    this.#gapEnd = grown.length - tail;
  }
}
