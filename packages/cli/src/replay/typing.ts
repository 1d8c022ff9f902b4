/**
 * Types a recording through Yjs, keystroke by keystroke, and keeps each update that Yjs makes. Nothing is
 * stored here. A sequential recording is one replica; a concurrent one has a replica for each agent, which
 * merge exactly when and as far as the recording's parents say.
 *
 * Invariants: client ids come from the seed, so one recording gives the same updates in every run, and they
 * ascend with the agents, because that is how the recordings break ties between inserts at one place; the
 * expected texts of sequential recordings come from `PlainText`, not from Yjs.
 */

import { setImmediate as turn } from "node:timers/promises";
import type * as Yjs from "yjs";
import { CommandError } from "../errors.js";
import { PlainText } from "./plain-text.js";
import type { Edit, Recording } from "./recording.js";
import { seededRandom } from "./typist.js";
import { Updates } from "./updates.js";

export const TEXT_NAME = "text";

export interface Typed {
  readonly updates: Updates;
  /** A clock about in the middle, and the text there. */
  readonly middle: number;
  readonly middleText: string;
  readonly endText: string;
}

export interface TypingOptions {
  readonly seed: number;
  readonly signal: AbortSignal;
  readonly onProgress: (edits: number) => void;
}

/** Edits between two looks at the signal. */
const SLICE = 512;

export async function typeRecording(recording: Recording, options: TypingOptions): Promise<Typed> {
  const Y = await import("yjs");
  const typed = recording.concurrent
    ? await typeConcurrent(Y, recording, options)
    : await typeSequential(Y, recording, options);
  if (recording.end !== undefined && typed.endText !== recording.end) {
    throw new CommandError("FAILED", `${recording.name}: its edits do not give the text that it ends with`);
  }
  return typed;
}

async function typeSequential(
  Y: typeof Yjs,
  { start, edits }: Recording,
  options: TypingOptions,
): Promise<Typed> {
  const updates = new Updates();
  const plain = new PlainText(start);
  const doc = replica(Y, clientIds(options.seed, 1)[0]!, (update) => updates.push(update));
  const text = doc.getText(TEXT_NAME);
  if (start !== "") text.insert(0, start);
  let middle = 0;
  let middleText = plain.toString();
  for (const [index, { patches }] of edits.entries()) {
    if (index % SLICE === 0) await breathe(index, options);
    doc.transact(() => {
      for (const [position, deleted, inserted] of patches) {
        const from = plain.utf16(position);
        if (deleted > 0) text.delete(from, plain.utf16(position + deleted) - from);
        if (inserted !== "") text.insert(from, inserted);
        plain.replace(position, deleted, inserted);
      }
    });
    if (index === Math.floor(edits.length / 2)) {
      middle = updates.count;
      middleText = plain.toString();
    }
  }
  doc.destroy();
  return { updates, middle, middleText, endText: plain.toString() };
}

async function typeConcurrent(Y: typeof Yjs, recording: Recording, options: TypingOptions): Promise<Typed> {
  const { edits } = recording;
  const updates = new Updates();
  const local = Symbol("local");
  const replicas = clientIds(options.seed, recording.agents).map((clientId) =>
    replica(Y, clientId, (update, origin) => {
      if (origin === local) updates.push(update);
    }),
  );
  const versions = versionsOf(recording);
  const wide = hasWideCharacters(edits);
  /** Of each agent: the edits it made, as ranges of updates. */
  const made: { from: number; to: number }[][] = replicas.map(() => []);
  const seen = replicas.map(() => replicas.map(() => 0));
  for (const [index, edit] of edits.entries()) {
    if (index % SLICE === 0) await breathe(index, options);
    const agent = edit.agent ?? 0;
    const doc = replicas[agent]!;
    merge(Y, { doc, updates, made, seen: seen[agent]!, wanted: versions.before[index]! });
    const from = updates.count;
    doc.transact(() => applyPatches(doc.getText(TEXT_NAME), edit, wide), local);
    made[agent]!.push({ from, to: updates.count });
    seen[agent]![agent]!++;
  }
  const everything = made.map((ranges) => ranges.length);
  const texts = replicas.map((doc, agent) => {
    merge(Y, { doc, updates, made, seen: seen[agent]!, wanted: everything });
    return doc.getText(TEXT_NAME).toString();
  });
  if (new Set(texts).size > 1) {
    throw new CommandError("FAILED", `${recording.name}: the replicas have different texts after merging`);
  }
  for (const doc of replicas) doc.destroy();
  const middle = Math.floor(updates.count / 2);
  return { updates, middle, middleText: mergedText(Y, updates, middle), endText: texts[0] ?? "" };
}

/** Applies to one replica what others made, up to a version, and nothing more. */
function merge(
  Y: typeof Yjs,
  replicaState: {
    readonly doc: Yjs.Doc;
    readonly updates: Updates;
    readonly made: readonly (readonly { from: number; to: number }[])[];
    readonly seen: number[];
    readonly wanted: readonly number[];
  },
): void {
  const { doc, updates, made, seen, wanted } = replicaState;
  made.forEach((ranges, agent) => {
    for (; seen[agent]! < wanted[agent]!; seen[agent]!++) {
      const { from, to } = ranges[seen[agent]!]!;
      for (let index = from; index < to; index++) Y.applyUpdate(doc, updates.at(index));
    }
  });
}

/**
 * How many edits of each agent come before each edit. One replica for an agent is enough only while its edits
 * are in one line and it never forgets what it saw; a recording where that fails is refused.
 */
function versionsOf({ name, edits, agents }: Recording): { readonly before: readonly (readonly number[])[] } {
  const before: number[][] = [];
  const after: number[][] = [];
  const latest: number[][] = Array.from({ length: agents }, () => Array<number>(agents).fill(0));
  for (const [index, { parents = [], agent = 0 }] of edits.entries()) {
    const version = Array<number>(agents).fill(0);
    for (const parent of parents) {
      after[parent]!.forEach((edited, other) => {
        version[other] = Math.max(version[other]!, edited);
      });
    }
    const last = latest[agent];
    if (last === undefined || last.some((edited, other) => edited > version[other]!)) {
      throw new CommandError("FAILED", `${name}: edit ${index} does not follow its agent's earlier ones`);
    }
    before.push(version);
    const next = [...version];
    next[agent]!++;
    after.push(next);
    latest[agent] = next;
  }
  return { before };
}

function applyPatches(text: Yjs.Text, { patches }: Edit, wide: boolean): void {
  for (const [position, deleted, inserted] of patches) {
    const offset = (points: number) =>
      wide ? [...text.toString()].slice(0, points).join("").length : points;
    const from = offset(position);
    if (deleted > 0) text.delete(from, offset(position + deleted) - from);
    if (inserted !== "") text.insert(from, inserted);
  }
}

/** Whether code points and UTF-16 units may differ. */
function hasWideCharacters(edits: readonly Edit[]): boolean {
  return edits.some(({ patches }) => patches.some(([, , inserted]) => /[\ud800-\udfff]/.test(inserted)));
}

/** The text of the first updates, in a document of its own. */
function mergedText(Y: typeof Yjs, updates: Updates, count: number): string {
  const doc = new Y.Doc();
  doc.transact(() => {
    for (let index = 0; index < count; index++) Y.applyUpdate(doc, updates.at(index));
  });
  const text = doc.getText(TEXT_NAME).toString();
  doc.destroy();
  return text;
}

function replica(
  Y: typeof Yjs,
  clientId: number,
  onUpdate: (update: Uint8Array, origin: unknown) => void,
): Yjs.Doc {
  const doc = new Y.Doc();
  doc.clientID = clientId;
  doc.on("update", onUpdate);
  return doc;
}

/** Ascending, apart from each other, and within the 32 bits that Yjs gives to a client id. */
function clientIds(seed: number, count: number): number[] {
  const random = seededRandom(seed);
  const share = 0xffff_ffff / count;
  return Array.from({ length: count }, (_, agent) => 1 + Math.floor((agent + random() * 0.9) * share));
}

/** Lets Ctrl-C and the progress line in. */
async function breathe(edits: number, { signal, onProgress }: TypingOptions): Promise<void> {
  onProgress(edits);
  await turn();
  signal.throwIfAborted();
}
