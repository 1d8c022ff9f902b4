/**
 * A workload on a simulated disk, images of what a crash may leave after each of its operations, and the verdict on
 * what is found in them.
 *
 * The oracle: the store must be as it was after some commit that is not before the last acknowledged one, nor after the
 * one in flight; opening twice gives the same; it takes writes again.
 */

import { createHash } from "node:crypto";
import {
  type FileLogFactory,
  type FileLogOptions,
  fileLogBackend,
  type ListedFrame,
  listFrames,
} from "@coppice/file";
import { type CrashModel, type DiskImage, type DiskOperation, SimulatedDisk } from "@coppice/file/testing";
import type { Backend, Batch, Entry } from "coppice";
import { compareKeys, isCoppiceError, keyName, toHex } from "coppice";
import { NaiveStore } from "coppice/conformance";
import { type SeededRandom, seededRandom, simulatedEnv } from "coppice/testing";
import { expect } from "vitest";
import { entriesOf } from "../../../test/support/stores.js";
import type { OpenFiles } from "../src/files.js";

export const SPACES = ["events", "meta"];

/** What is in a store, as lines. */
export async function dump(backend: Backend): Promise<string[]> {
  return inOrder(await entriesIn(backend));
}

async function entriesIn(backend: Backend): Promise<Entry[]> {
  const entries: Entry[] = [];
  for (const space of SPACES) entries.push(...(await entriesOf(backend, { space })));
  return entries;
}

function inOrder(entries: readonly Entry[]): string[] {
  return [...entries].sort((a, b) => compareKeys(a.key, b.key)).map(show);
}

function show({ key, value }: Entry): string {
  return `${keyName(key)}=${value.length > 40 ? `${value.length}:${toHex(value.subarray(0, 20))}` : toHex(value)}`;
}

export interface Step {
  readonly batch?: Batch;
  readonly merge?: "some" | "all";
  readonly reopen?: true;
}

/** Commits of puts, overwrites, deletes and range deletes on few ids, with merges and reopenings between them. */
export function randomSteps(random: SeededRandom, count: number): Step[] {
  const steps: Step[] = [];
  const next = new Map<string, number>();
  for (let i = 0; i < count; i++) {
    const kind = random.int(100);
    if (kind < 4) steps.push({ merge: random.int(2) === 0 ? "some" : "all" });
    else if (kind < 7) steps.push({ reopen: true });
    else steps.push({ batch: randomBatch(random, next) });
  }
  return steps;
}

/** Commits that overwrite few large values, so that segments die and are merged in the background. */
export function overwritingSteps(random: SeededRandom, count: number): Step[] {
  const value = () => new Uint8Array(9000 + random.int(6000)).fill(random.int(256));
  return Array.from({ length: count }, () => ({
    batch: {
      put: [...new Set([random.int(12), random.int(12)])].map(
        (seq): Entry => ({ key: ["events", "d", seq], value: value() }),
      ),
    },
  }));
}

function randomBatch(random: SeededRandom, next: Map<string, number>): Batch {
  const id = random.pick(["a", "b", "é\0c"]);
  const seq = next.get(id) ?? 0;
  const put: Entry[] = [];
  for (let i = 1 + random.int(3); i > 0; i--) {
    put.push({ key: ["events", id, seq + put.length], value: randomValue(random) });
  }
  next.set(id, seq + put.length);
  if (random.int(3) === 0) put.push({ key: ["meta", id], value: randomValue(random) });
  const remove: Batch["delete"] =
    random.int(4) === 0
      ? [{ space: "events", id, to: Math.max(0, seq - random.int(6)) }]
      : random.int(8) === 0
        ? [["meta", random.pick(["a", "b"])]]
        : [];
  return { put, delete: remove };
}

/** Zeros too: a value of zeros must not look like a sector that was never written. */
function randomValue(random: SeededRandom): Uint8Array {
  const length = random.pick([0, 5, 40, 300, 700, 1800]);
  const fill = random.pick([0, 0x62, 0xff]);
  const bytes = new Uint8Array(length).fill(fill);
  if (length > 0) bytes[random.int(length)] = random.int(256);
  return bytes;
}

export interface Run {
  readonly steps: readonly Step[];
  /** The store after each commit; `[0]`: empty. */
  readonly states: readonly (readonly string[])[];
}

/** What the states are that a run goes through. */
export function statesOf(steps: readonly Step[]): string[][] {
  const naive = new NaiveStore();
  const states = [lines(naive)];
  for (const { batch } of steps) {
    if (batch === undefined) continue;
    naive.commit(batch);
    states.push(lines(naive));
  }
  return states;
}

/** The steps without one of the commits. */
export function without(steps: readonly Step[], commit: number): Step[] {
  let count = 0;
  return steps.filter(({ batch }) => batch === undefined || count++ !== commit);
}

/** As `dump` shows them. */
export function lines(naive: NaiveStore): string[] {
  return SPACES.flatMap((space) => naive.scan({ space }, {}))
    .sort((a, b) => compareKeys(a.key, b.key))
    .map(show);
}

export const SMALL: FileLogOptions = { segmentBytesMax: 64 * 1024 };

export function factoryOn(disk: Pick<SimulatedDisk, "files">, options: FileLogOptions = {}): FileLogFactory {
  return fileLogBackend("simulated", { ...SMALL, ...options, files: disk.files });
}

/** A sync takes a turn of the event loop, as on a real disk, and a read beside the thread takes `readTurns`. */
export function slowSyncs(disk: SimulatedDisk, readTurns = 0): OpenFiles {
  return async (create) => {
    const files = await disk.files(create);
    const open = files.open.bind(files);
    files.open = async (name, mode) => {
      const file = await open(name, mode);
      const sync = file.sync.bind(file);
      file.sync = async () => {
        await new Promise((resolve) => setImmediate(resolve));
        await sync();
      };
      const readEach = file.readEach.bind(file);
      file.readEach = async (into, position) => {
        for (let left = readTurns; left > 0; left--) await new Promise((resolve) => setImmediate(resolve));
        return readEach(into, position);
      };
      return file;
    };
    return files;
  };
}

export interface Progress {
  acknowledged: number;
  submitted: number;
  /** A commit that was surely not written: then the next one may be. */
  refused?: number;
  /** A commit that was acknowledged although one before it was in doubt. */
  outOfOrder?: number;
}

/**
 * Runs the steps; `progress` counts commits. `ahead`: each is called while the one before it is under way, and syncs take
 * time: else a frame that is written too early would find the one before it durable.
 */
export async function play(
  disk: SimulatedDisk,
  steps: readonly Step[],
  progress: Progress,
  { ahead = false, ...options }: FileLogOptions & { readonly ahead?: boolean } = {},
): Promise<void> {
  const factory = factoryOn(ahead ? { files: slowSyncs(disk) } : disk, options);
  const env = () => simulatedEnv(1, { autoAdvance: true });
  let backend = await factory.open(env());
  let before: Promise<void> | undefined;
  const commit = async (batch: Batch): Promise<void> => {
    const number = progress.submitted++;
    try {
      await backend.commit(batch);
    } catch (error) {
      const isSure = !isCoppiceError(error, "OUTCOME_UNKNOWN") && !isCoppiceError(error, "POISONED");
      if (isSure) progress.refused ??= number;
      throw error;
    }
    const before = progress.acknowledged + (progress.refused === undefined ? 0 : 1);
    if (before !== number) progress.outOfOrder = number;
    progress.acknowledged++;
  };
  for (const [i, { batch, merge, reopen }] of steps.entries()) {
    const after = batch === undefined ? undefined : commit(batch);
    after?.catch(() => undefined);
    await before?.catch(async (error: unknown) => {
      await after?.catch(() => undefined);
      throw error;
    });
    before = after;
    const isNext = ahead && steps[i + 1]?.batch !== undefined;
    if (batch !== undefined) {
      if (!isNext) await after;
    } else if (merge !== undefined) {
      await factory.merge({ force: merge === "all" });
    } else if (reopen === true) {
      await backend.close();
      backend = await factory.open(env());
    }
  }
  await backend.close();
}

/** Opens an image and says which state it holds; throws when it holds none that is allowed. */
export async function verify(
  image: DiskImage,
  states: readonly (readonly string[])[],
  progress: Progress,
  options: FileLogOptions = {},
): Promise<number> {
  const joined = states.map((state) => state.join("\n"));
  return allowedState(await contentOf(image, options), joined, progress);
}

/** Of an id that is in no run. */
const AGAIN: Entry = { key: ["meta", "again"], value: Uint8Array.of(1) };

/** Opens an image, writes, opens it again: what was there at first. It depends on the bytes of the image alone. */
async function contentOf(image: DiskImage, options: FileLogOptions): Promise<string> {
  const disk = new SimulatedDisk(image);
  const factory = factoryOn(disk, options);
  const first = await factory.open(simulatedEnv(2));
  const found = await entriesIn(first);
  await first.commit({ put: [AGAIN] });
  if ((await first.get(AGAIN.key)) === undefined) throw new Error("what was written is not there");
  await first.close();
  const second = await factory.open(simulatedEnv(3));
  if ((await dump(second)).join() !== inOrder([...found, AGAIN]).join())
    throw new Error("opening again shows something else");
  await second.close();
  return inOrder(found).join("\n");
}

function allowedState(
  found: string,
  states: readonly string[],
  { acknowledged, submitted, outOfOrder }: Progress,
): number {
  if (outOfOrder !== undefined) throw new Error(`commit ${outOfOrder} was acknowledged out of order`);
  const state = stateOf(found, states, acknowledged, submitted);
  if (state >= 0) return state;
  const earlier = stateOf(found, states, 0, states.length - 1);
  throw new Error(
    `the store is ${earlier < 0 ? "in no state of the run" : `in state ${earlier}`}, where ${acknowledged} commits ` +
      `were acknowledged and ${submitted} submitted`,
  );
}

/** The same for images of the same names and bytes. */
function digestOf(image: DiskImage): string {
  const names = [...image.keys()].sort();
  return names.map((name) => `${JSON.stringify(name)} ${digestOfFile(image.get(name)!)}`).join("\n");
}

/** Images share the bytes of files that did not change between them. */
const digests = new WeakMap<Uint8Array, string>();
const ZEROS = new Uint8Array(4096);

/** Without the zeros that lie ready for later commits: they are most of a segment, and its length says the same. */
function digestOfFile(bytes: Uint8Array): string {
  const known = digests.get(bytes);
  if (known !== undefined) return known;
  let used = bytes.length;
  const { length } = ZEROS;
  while (used >= length && Buffer.compare(bytes.subarray(used - length, used), ZEROS) === 0) used -= length;
  const hash = createHash("sha256").update(bytes.subarray(0, used)).digest("base64");
  const digest = `${bytes.length} ${used} ${hash}`;
  digests.set(bytes, digest);
  return digest;
}

function stateOf(found: string, states: readonly string[], from: number, to: number): number {
  for (let i = Math.min(to, states.length - 1); i >= from; i--) if (states[i] === found) return i;
  return -1;
}

export interface Explored {
  /** Moments, by what each model leaves of them; each was held to what was acknowledged at that moment. */
  readonly states: number;
  /** How many of them differ in their bytes: so many were opened. */
  readonly opened: number;
}

/**
 * Plays the steps once, and after each operation takes images by each model and verifies them; at most `budget`.
 */
export async function explore(
  seed: number,
  models: readonly (CrashModel | "kill")[],
  {
    stepCount = 40,
    drawn = randomSteps(seededRandom(seed), stepCount),
    merges = false,
    ahead = false,
    keepsAcknowledged = true,
    options = {},
    budget = Number.POSITIVE_INFINITY,
    each,
    replay = `COPPICE_LAB_SEED=${seed} COPPICE_LAB_ONLY=0 npm run unit -- packages/file/test/crash.isolated.test.ts -t FL1]`,
  }: ExploreOptions = {},
): Promise<Explored> {
  const steps = merges
    ? drawn.flatMap((step, i) => (i % 2 === 0 ? [step] : [step, MERGES[i % 4 === 1 ? 0 : 1]!]))
    : drawn;
  const states = statesOf(steps).map((state) => state.join("\n"));
  const disk = new SimulatedDisk();
  const progress = { acknowledged: 0, submitted: 0 };
  const random = seededRandom(seed + 1);
  const images: { image: DiskImage; at: Progress; what: string }[] = [];
  disk.onOperation = (operation: DiskOperation) => {
    // Where all is durable, every model leaves the same.
    for (const model of disk.hasPending ? models : models.slice(0, 1)) {
      const title = model === "kill" ? "the death of the process" : model.title;
      const image = model === "kill" ? disk.image() : disk.crash(model, random);
      const what = `seed ${seed}, operation ${operation.index} (${operation.kind} ${operation.name}), ${title}`;
      const at = keepsAcknowledged ? { ...progress } : { ...progress, acknowledged: 0 };
      images.push({ image, at, what });
    }
  };
  const contents = new Map<string, string>();
  let count = 0;
  await play(disk, steps, progress, { ...options, ahead });
  const stride = Math.max(1, images.length / budget);
  for (let i = 0; i < images.length; i += stride) {
    const { image, at, what } = images[Math.floor(i)]!;
    count++;
    try {
      const digest = digestOf(image);
      if (!contents.has(digest)) await each?.(image);
      const content = contents.get(digest) ?? (await contentOf(image, options));
      contents.set(digest, content);
      allowedState(content, states, at);
    } catch (error) {
      throw new Error(`${what}: ${(error as Error).message}\nreplay: ${replay}`, { cause: error });
    }
  }
  return { states: count, opened: contents.size };
}

const MERGES: readonly Step[] = [{ merge: "all" }, { merge: "some" }];

export interface ExploreOptions {
  readonly stepCount?: number;
  /** In place of random ones. */
  readonly drawn?: readonly Step[];
  /** `false`: any earlier state will do. */
  readonly keepsAcknowledged?: boolean;
  /** Merge after every second commit. */
  readonly merges?: boolean;
  /** Call each commit while the one before it is under way. */
  readonly ahead?: boolean;
  readonly options?: FileLogOptions;
  readonly budget?: number;
  /** Looks at each image that differs from those before. */
  readonly each?: (image: DiskImage) => Promise<void>;
  /** The command that does the same again; by default that of a run of the laboratory. */
  readonly replay?: string;
}

/** A store of two documents with so many values each, and what a reader lists of it. */
export async function storeOf(
  count: number,
  close: boolean,
): Promise<{ disk: SimulatedDisk; lines: string[] }> {
  const disk = new SimulatedDisk();
  const backend = await factoryOn(disk, { mergeDeadRatioMin: 1 }).open(simulatedEnv(1));
  const random = seededRandom(5);
  for (let seq = 0; seq < count; seq++) {
    const put = ["a", "b"].map((id) => ({ key: ["events", id, seq] as const, value: random.bytes(700) }));
    await backend.commit({ put });
  }
  const lines = await dump(backend);
  if (close) await backend.close();
  return { disk, lines };
}

export function changed(image: DiskImage, name: string, change: (bytes: Uint8Array) => void): DiskImage {
  const bytes = image.get(name)!.slice();
  change(bytes);
  return new Map([...image, [name, bytes]]);
}

export async function framesOn(disk: SimulatedDisk): Promise<ListedFrame[]> {
  const frames: ListedFrame[] = [];
  for await (const frame of listFrames("simulated", disk.files)) frames.push(frame);
  return frames;
}

/** What a reader lists; then the store must take one commit more, and open again. */
export async function linesOf(disk: SimulatedDisk): Promise<string[]> {
  const backend = await factoryOn(disk).open(simulatedEnv(4));
  const lines = await dump(backend);
  await backend.commit({ put: [{ key: ["meta", "later"], value: new Uint8Array(3) }] });
  await backend.close();
  const again = await factoryOn(disk).open(simulatedEnv(5));
  expect(await dump(again)).toHaveLength(lines.length + 1);
  await again.close();
  return lines;
}
