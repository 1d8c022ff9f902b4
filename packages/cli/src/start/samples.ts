/**
 * Documents to look at, for a store that is empty: recorded histories where there are recordings, else a
 * seeded author's; a list that two wrote at once, and a tree that two edited at once.
 *
 * They are written in memory like any others, in small appends, and imported from there; only the clock is
 * made up, so that they look as if they had been written over the last hours and not within a second.
 *
 * Invariants: the texts are the same for the same seed and the same recordings, but for the order of what
 * two wrote at once; a sample is in the store as a whole or not at all; samples that an interrupted start
 * left out are made up for by the next one, as long as nothing but samples is there and the last one, the
 * tree, is not.
 */

import {
  DocumentStorage,
  type Env,
  isCoppiceError,
  memoryBackend,
  systemEnv,
  type TreeDocument,
  tree,
} from "coppice";
import type * as Yjs from "yjs";
import type { StoreOptions } from "../options.js";
import { loadPackage } from "../packages.js";
import {
  DEFAULT_CONCURRENT,
  DEFAULT_SEQUENTIAL,
  findRecording,
  firstEdits,
  type Recording,
  readRecording,
} from "../replay/recording.js";
import { typeRecording } from "../replay/typing.js";
import { seededRandom } from "../replay/typist.js";
import type { Updates } from "../replay/updates.js";
import type { Runtime } from "../runtime.js";
import { loadBackend, parseStore, waiting } from "../store.js";
import { author } from "./author.js";

export interface Sample {
  readonly id: string;
  readonly says: string;
  readonly events: number;
}

const SEED = 7;
const HOURS_MS = 2 * 3_600_000;
/** Keystrokes that arrive together. */
const BURST_MAX = 16;
const PAUSE_SHARE = 0.04;

interface Script {
  readonly id: string;
  readonly says: string;
  readonly updates: Updates;
}

/** Whose appends began a sample: told in the `info` of its first one. */
const INFO = { by: "coppice start" } as const;
const BOARD = "board";
const LIST = "trees";

/** Fills the store with what is missing; `[]` when it holds all samples, or documents of others. */
export async function writeSamples(runtime: Runtime, options: StoreOptions): Promise<Sample[]> {
  const address = parseStore(options.store);
  const backend = await loadBackend(address, { create: true });
  const { yjs } = await loadPackage("@coppice/yjs", () => import("@coppice/yjs"));
  const storage = await waiting(runtime, address, options, () =>
    DocumentStorage.open({ backend, models: [yjs(), tree()] }),
  );
  try {
    const missing = await missingSamples(storage);
    if (missing.length === 0) return [];
    const { source, samples } = await sampleSource(runtime);
    try {
      return await landSamples(source, storage, samples, runtime.signal);
    } finally {
      await source.close();
    }
  } finally {
    await storage.close();
  }
}

/** All samples, in memory. */
export async function sampleSource(
  runtime: Runtime,
): Promise<{ readonly source: DocumentStorage; readonly samples: readonly Sample[] }> {
  const clock = madeUpClock(Date.now() - HOURS_MS);
  const { yjs } = await loadPackage("@coppice/yjs", () => import("@coppice/yjs"));
  const models = [yjs(), tree({ env: clock.env })];
  const source = await DocumentStorage.open({ backend: memoryBackend(), models, env: clock.env });
  const scripts = await Promise.all((await recordings(runtime)).map((one) => scriptOf(runtime, one)));
  await Promise.all(scripts.map((script) => write(source, clock, script, runtime.signal)));
  const trees = await writeTrees(source, clock);
  const board = await writeBoard(source, clock);
  const typed = scripts.map(({ id, says, updates }) => ({ id, says, events: updates.count }));
  const samples = [
    ...typed,
    { id: LIST, says: "a list that two write at once", events: trees },
    { id: BOARD, says: "a tree that two edited at once", events: board },
  ];
  return { source, samples };
}

/** Brings those that are missing into the store, each whole or not at all; those that were brought. */
export async function landSamples(
  source: DocumentStorage,
  storage: DocumentStorage,
  samples: readonly Sample[],
  signal: AbortSignal,
): Promise<Sample[]> {
  const missing = new Set(await missingSamples(storage));
  const landed: Sample[] = [];
  for (const sample of samples) {
    if (!missing.has(sample.id)) continue;
    signal.throwIfAborted();
    try {
      await storage.import(source.export(sample.id));
      landed.push(sample);
    } catch (error) {
      // Somebody did not want it any more.
      if (!isCoppiceError(error, "DELETED")) throw error;
    }
  }
  return landed;
}

async function missingSamples(storage: DocumentStorage): Promise<readonly string[]> {
  const wanted = new Set([...WANTED.map(({ id }) => id), LIST, BOARD]);
  for await (const id of storage.list({ limit: wanted.size })) {
    // The tree is the last one; and what others have written is not ours to add to.
    if (id === BOARD || !wanted.delete(id) || !(await isSample(storage, id))) return [];
  }
  return [...wanted];
}

/** Told by the oldest batch: a document that was trimmed since was in use, and nobody waits for more. */
async function isSample(storage: DocumentStorage, id: string): Promise<boolean> {
  for await (const entry of storage.history(id))
    if (entry.kind === "batch") return entry.clock === 0 && entry.info?.by === INFO.by;
  return false;
}

interface Wanted {
  readonly id: string;
  readonly says: string;
  readonly name: string;
  readonly edits: number;
}

const WANTED: readonly Wanted[] = [
  { id: "paper", says: "a paper, keystroke by keystroke", name: DEFAULT_SEQUENTIAL, edits: 3_000 },
  { id: "conversation", says: "two people in one document", name: DEFAULT_CONCURRENT, edits: 1_500 },
  { id: "component", says: "a component of a program", name: "sveltecomponent", edits: 1_500 },
];

async function recordings({ env, entry }: Runtime): Promise<(Wanted & { recording: Recording })[]> {
  return Promise.all(
    WANTED.map(async (wanted, index) => {
      const path = await findRecording(wanted.name, env, entry);
      const says = path === undefined ? "a text by an author who is made up" : wanted.says;
      const recording = path === undefined ? author(SEED + index, wanted.edits) : await readRecording(path);
      return { ...wanted, says, recording: firstEdits(recording, wanted.edits) };
    }),
  );
}

async function scriptOf(
  { signal }: Runtime,
  { id, says, recording }: Wanted & { recording: Recording },
): Promise<Script> {
  const { updates } = await typeRecording(recording, { seed: SEED, signal, onProgress: () => undefined });
  return { id, says, updates };
}

/** Appends burst by burst, and tags the middle. */
async function write(
  storage: DocumentStorage,
  clock: MadeUpClock,
  { id, updates }: Script,
  signal: AbortSignal,
): Promise<void> {
  const random = seededRandom(SEED);
  const stepMs = (HOURS_MS * (0.5 + random() / 4)) / updates.count;
  const middle = Math.floor(updates.count / 2);
  let isTagged = false;
  for (let next = 0; next < updates.count; ) {
    signal.throwIfAborted();
    const count = Math.min(1 + Math.floor(random() * BURST_MAX), updates.count - next);
    const events = Array.from({ length: count }, (_, index) => updates.at(next + index));
    await storage.append(id, events, next === 0 ? { info: INFO } : {});
    next += count;
    clock.pass(count * stepMs * (random() < PAUSE_SHARE ? 12 : 0.4));
    if (next < middle || isTagged) continue;
    isTagged = true;
    await storage.tag(id, "first draft");
  }
}

const TREES = [
  ["hazel", "oak", "ash", "willow", "hornbeam", "lime", "elm", "poplar", "holly"],
  ["chestnut", "alder", "birch", "maple", "sycamore", "beech", "rowan", "yew", "linden"],
] as const;
const GREETING = "Trees that grow again when they are cut:";

/** Two people write on at the end of one list, and read each other now and then. */
async function writeTrees(storage: DocumentStorage, clock: MadeUpClock): Promise<number> {
  const { Doc, encodeStateAsUpdate } = await loadPackage("yjs", () => import("yjs"));
  const begun = new Doc();
  begun.getText("text").insert(0, GREETING);
  await storage.append(LIST, [encodeStateAsUpdate(begun)], { model: "yjs", info: INFO });
  const people = [await storage.open<Yjs.Doc>(LIST), await storage.open<Yjs.Doc>(LIST)] as const;
  const random = seededRandom(SEED);
  const write = ({ doc }: (typeof people)[number], word: string) => {
    doc.getText("text").insert(doc.getText("text").length, word);
    clock.pass(4_000 * random());
  };
  for (let round = 0; round < TREES[0].length; round++) {
    for (const [index, person] of people.entries()) {
      if (random() < 0.6) await person.refresh();
      write(person, ` ${TREES[index]![round]},`);
      if (random() < 0.7) await person.save();
    }
  }
  for (const person of people) await person.save();
  for (const person of people) await person.refresh();
  write(people[0], " and more.");
  const events = await people[0].save();
  for (const person of people) await person.close();
  return events;
}

const COLUMNS = ["Ideas", "Doing", "Done"] as const;
const CARDS = [
  "Measure first",
  "Name it once",
  "Read it back",
  "Ask for the disk",
  "Say what is lost",
] as const;

/** Two handles on one tree write at the same time, and now and then take over what the other has. */
async function writeBoard(storage: DocumentStorage, clock: MadeUpClock): Promise<number> {
  const ann = await storage.open<TreeDocument>(BOARD, {
    model: "tree",
    initial: (doc) => {
      for (const title of COLUMNS) doc.put({ id: title.toLowerCase(), attributes: { title } });
    },
  });
  const ben = await storage.open<TreeDocument>(BOARD);
  const random = seededRandom(SEED);
  const below = (end: number) => Math.floor(random() * end);
  for (let round = 0; round < 14; round++) {
    for (const { doc } of round % 3 === 0 ? [ann, ben] : [round % 2 === 0 ? ann : ben]) {
      for (let left = 1 + below(4); left > 0; left--) {
        const cards = doc.find(({ attributes }) => "card" in attributes);
        const card = cards[below(cards.length + 2)];
        const parent = COLUMNS[below(COLUMNS.length)]!.toLowerCase();
        if (card === undefined) doc.put({ parent, attributes: { card: CARDS[below(CARDS.length)]! } });
        else doc.move(card.id, { parent });
        clock.pass(20_000 * random());
      }
    }
    await Promise.all([ann.save(), ben.save()]);
    if (round % 3 === 2) await ann.refresh();
    if (round % 4 === 3) await ben.refresh();
  }
  await Promise.all([ann.refresh(), ben.refresh()]);
  ann.doc.put({ parent: "done", attributes: { card: "Everything is here" } });
  const events = await ann.save();
  await Promise.all([ann.close(), ben.close()]);
  return events;
}

interface MadeUpClock {
  readonly env: Env;
  /** Lets so much time go by; never beyond the present. */
  pass(ms: number): void;
}

function madeUpClock(start: number): MadeUpClock {
  let now = start;
  return {
    env: { ...systemEnv(), now: () => Math.floor(now) },
    pass: (ms) => {
      now = Math.min(now + ms, Date.now());
    },
  };
}
