/**
 * An author of readable text, for samples where no recordings are: seeded, sentence by sentence, with the
 * habits of people who write. Slips that are taken back at once, words that are struck out, sentences that
 * are put in further up.
 *
 * It is not the typist of the replay, whose text is made to be hard on storage and not to be read. The same
 * seed writes the same text.
 */

import type { Edit, Recording } from "../replay/recording.js";
import { seededRandom } from "../replay/typist.js";

const SENTENCES = [
  "To coppice a tree is to cut it back to a stump from which it grows again.",
  "A document is cut back to a snapshot, and grows again from the events that came after it.",
  "Storage orders; models merge.",
  "A promise resolves when it is true, and not a moment before.",
  "The clock is the number of events in the log, and it never goes back.",
  "Two people may write at once; neither has to wait for the other.",
  "What was acknowledged is there after the lights went out.",
  "Bytes that fail their checksum are set aside, and never become part of a document.",
  "A snapshot is read back and compared before anything that it covers is trimmed.",
  "Nothing is skipped, nothing is dropped, nothing is logged and forgotten.",
  "An outcome that is not known is said to be not known.",
  "Whoever comes back late is told what was missed.",
  "A tag is a name for a version, and keeps it for as long as the name stands.",
  "Every limit has a number, and every number has a unit.",
] as const;

const LETTERS = "etaoinshrdlu";

export function author(seed: number, edits: number): Recording {
  const random = seededRandom(seed);
  const below = (end: number) => Math.floor(random() * end);
  const made: Edit[] = [];
  let text = "";
  const edit = (position: number, deleted: number, inserted: string) => {
    if (made.length >= edits) return;
    text = text.slice(0, position) + inserted + text.slice(position + deleted);
    made.push({ patches: [[position, deleted, inserted]] });
  };
  const type = (from: number, words: string) => {
    let cursor = from;
    for (const letter of words) {
      if (random() < 0.025) {
        edit(cursor, 0, LETTERS[below(LETTERS.length)]!);
        edit(cursor, 1, "");
      }
      edit(cursor++, 0, letter);
    }
  };
  while (made.length < edits) {
    const sentence = SENTENCES[below(SENTENCES.length)]!;
    const habit = random();
    const ends = [...text.matchAll(/[.] /g)].map(({ index }) => index + 2);
    if (habit < 0.2 && ends.length > 2) type(ends[below(ends.length)]!, `${sentence} `);
    else type(text.length, `${sentence}${habit > 0.75 ? "\n\n" : " "}`);
    const words = [...text.matchAll(/ \w+(?= )/g)];
    const word = words[below(words.length)];
    if (habit > 0.6 && habit < 0.75 && word !== undefined)
      for (let left = word[0].length; left > 0; left--) edit(word.index + left - 1, 1, "");
  }
  const source = `a seeded author (seed ${seed})`;
  return { name: "author", source, concurrent: false, agents: 1, start: "", edits: made, end: text };
}
