/**
 * The input: a recorded editing history, typed through Yjs, one update per transaction of the recording.
 *
 * Recordings are no part of the project; `openTrace` looks for automerge-paper where the replay command does. Without
 * it a seeded typist stands in. Only recordings in ASCII serve here: their positions count characters, which
 * are then the UTF-16 units of Yjs as well.
 *
 * Invariant: the client id is fixed and the typist is seeded, so every run has the same updates.
 */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { gunzip } from "node:zlib";
import * as Y from "yjs";

const NAME = "automerge-paper";
const CLIENT = 20_261_120;
const TYPIST_SEED = 1;
const TYPIST_EDITS = 100_000;

export const TEXT_NAME = "text";

/** `{ source, edits, updates }` of the first `limit` edits, or of all; an edit is `[position, deleted, inserted][]`. */
export async function openTrace(limit = Number.POSITIVE_INFINITY) {
  const recording = await openRecording();
  const edits = recording.edits.slice(0, limit);
  const updates = typeUpdates(edits);
  return { source: `${recording.source}, ${edits.length} keystrokes`, edits, updates };
}

/** A fresh document with the first `count` updates. */
export function documentOf(updates, count = updates.length) {
  const doc = new Y.Doc();
  doc.transact(() => {
    for (let index = 0; index < count; index++) Y.applyUpdate(doc, updates[index]);
  });
  return doc;
}

/** Throws unless the document shows this text: a benchmark of wrong results is worth nothing. */
export function assertText(doc, text, side) {
  if (doc.getText(TEXT_NAME).toString() !== text)
    throw new Error(`${side}: the text differs from what was typed`);
}

/** Numbers in [0, 1) from a 32-bit seed (mulberry32). */
export function seededRandom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

async function openRecording() {
  const beside = resolve(import.meta.dirname, "../../../shared/traces");
  const path = join(process.env.COPPICE_TRACES || beside, `${NAME}.json.gz`);
  if (!existsSync(path)) return typist();
  const { startContent, txns } = JSON.parse((await promisify(gunzip)(await readFile(path))).toString("utf8"));
  if (startContent) throw new Error(`${NAME}: begins with a text`);
  return { source: NAME, edits: txns.map(({ patches }) => patches) };
}

function typeUpdates(edits) {
  const doc = new Y.Doc();
  doc.clientID = CLIENT;
  const updates = [];
  doc.on("update", (update) => updates.push(update));
  const text = doc.getText(TEXT_NAME);
  for (const patches of edits) {
    doc.transact(() => {
      for (const [position, deleted, inserted] of patches) {
        if (deleted > 0) text.delete(position, deleted);
        if (inserted !== "") text.insert(position, inserted);
      }
    });
  }
  doc.destroy();
  return updates;
}

/** Bursts of typing, backspaces, and jumps to other places. */
function typist() {
  const random = seededRandom(TYPIST_SEED);
  const below = (bound) => Math.floor(random() * bound);
  const edits = [];
  let [length, cursor] = [0, 0];
  while (edits.length < TYPIST_EDITS) {
    if (random() < 0.08) cursor = below(length + 1);
    for (let left = random() < 0.3 ? 1 + below(8) : 0; left > 0 && cursor > 0; left--, length--) {
      edits.push([[--cursor, 1, ""]]);
    }
    for (let left = 5 + below(60); left > 0; left--, length++) {
      edits.push([[cursor++, 0, " etaoinshrdlu"[below(13)]]]);
    }
  }
  return { source: `a seeded typist (seed ${TYPIST_SEED})`, edits: edits.slice(0, TYPIST_EDITS) };
}
