/** Seeded chance for random editors, one sequence for each seed. */

/** A number in [0, 1), the next of a sequence that the seed decides (mulberry32). */
export type Chance = () => number;

export function seeded(seed: number): Chance {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

export function below(chance: Chance, count: number): number {
  return Math.floor(chance() * count);
}

export function shuffled<T>(chance: Chance, items: readonly T[]): T[] {
  const out = [...items];
  for (let i = out.length - 1; i > 0; i--) {
    const j = below(chance, i + 1);
    [out[i], out[j]] = [out[j]!, out[i]!];
  }
  return out;
}

/** What editors of text insert: letters, breaks, and characters of one to four bytes. */
export const WORDS: readonly string[] = ["a", "tree", " ", "ü", "木", "🌳", "grows\n", "0123456789"];
