/**
 * Documents to look at, for a store that is empty: recorded histories where there are recordings, else a
 * seeded author's, and a tree that two people edited at once.
 *
 * They are stored like any others, in small appends; only the clock is made up, so that they look as if
 * they had been written over the last hours and not within a second.
 *
 * Invariant: the texts are the same for the same seed and the same recordings.
 */

import { DocumentStorage, type Env, systemEnv, type TreeDocument, tree } from "coppice";
import type { StoreOptions } from "../options.js";
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
import { loadBackend, loadPackage, parseStore, waiting } from "../store.js";
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

/** Fills the store; `[]` when it holds documents already. */
export async function writeSamples(runtime: Runtime, options: StoreOptions): Promise<Sample[]> {
  const clock = madeUpClock(Date.now() - HOURS_MS);
  const address = parseStore(options.store);
  const backend = await loadBackend(address, true);
  const { yjs } = await loadPackage("@coppice/yjs", () => import("@coppice/yjs"));
  const models = [yjs(), tree({ env: clock.env })];
  const storage = await waiting(runtime, address, options, () =>
    DocumentStorage.open({ backend, models, env: clock.env }),
  );
  try {
    for await (const _ of storage.list({ limit: 1 })) return [];
    const scripts = await Promise.all((await recordings(runtime)).map((one) => scriptOf(runtime, one)));
    await Promise.all(scripts.map((script) => write(storage, clock, script, runtime.signal)));
    const board = await writeBoard(storage, clock);
    const typed = scripts.map(({ id, says, updates }) => ({ id, says, events: updates.count }));
    return [...typed, { id: "board", says: "a tree that two edited at once", events: board }];
  } finally {
    await storage.close();
  }
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
    await storage.append(id, events);
    next += count;
    clock.pass(count * stepMs * (random() < PAUSE_SHARE ? 12 : 0.4));
    if (next < middle || isTagged) continue;
    isTagged = true;
    await storage.tag(id, "first draft");
  }
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
  const ann = await storage.open<TreeDocument>("board", {
    model: "tree",
    initial: (doc) => {
      for (const title of COLUMNS) doc.put({ id: title.toLowerCase(), attributes: { title } });
    },
  });
  const ben = await storage.open<TreeDocument>("board");
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
