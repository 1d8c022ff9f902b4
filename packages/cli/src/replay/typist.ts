/**
 * A typist of our own, for where no recordings are: a seeded editing history with the habits that matter to
 * storage. Bursts of typing, runs of backspaces, jumps to other places, now and then a deleted line, and
 * characters of one, two and four bytes. The same seed types the same text.
 */

import { PlainText } from "./plain-text.js";
import type { Edit, Recording } from "./recording.js";

export const TYPIST_KEYSTROKES = 50_000;

const LETTERS = "eeeeeetttttaaaaooooiiinnnssshhhrrrdddllluuccmmwwffggyyppbbvvkkxjqz";
const RARE = ["é", "ß", "–", "“", "”", "λ", "漢", "🌱"];

export function typist(seed: number, keystrokes: number = TYPIST_KEYSTROKES): Recording {
  const random = seededRandom(seed);
  const below = (bound: number) => Math.floor(random() * bound);
  const text = new PlainText();
  const edits: Edit[] = [];
  let cursor = 0;
  const edit = (position: number, deleted: number, inserted: string) => {
    text.replace(position, deleted, inserted);
    edits.push({ patches: [[position, deleted, inserted]] });
  };
  while (edits.length < keystrokes) {
    const habit = random();
    if (habit < 0.08) cursor = below(text.length + 1);
    else if (habit < 0.1 && cursor > 40) {
      const line = 10 + below(30);
      cursor -= line;
      edit(cursor, line, "");
    } else if (habit < 0.3) {
      for (let left = 1 + below(8); left > 0 && cursor > 0 && edits.length < keystrokes; left--) {
        edit(--cursor, 1, "");
      }
    }
    for (let left = 5 + below(60); left > 0 && edits.length < keystrokes; left--) {
      edit(cursor++, 0, character(random));
    }
  }
  return {
    name: "typist",
    source: `a seeded typist (seed ${seed})`,
    concurrent: false,
    agents: 1,
    start: "",
    edits,
    end: text.toString(),
  };
}

function character(random: () => number): string {
  const kind = random();
  if (kind < 0.17) return " ";
  if (kind < 0.18) return "\n";
  if (kind < 0.185) return RARE[Math.floor(random() * RARE.length)] ?? "";
  return LETTERS[Math.floor(random() * LETTERS.length)] ?? "";
}

/** Numbers in [0, 1) from a 32-bit seed (mulberry32). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}
