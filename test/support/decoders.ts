/**
 * Gives decoders bytes that nobody meant: sound ones with changes, with their checksums put right or not, and bytes
 * from nowhere. A decoder must refuse with an error that it names, or give what the bytes say; never throw another
 * error, nor believe a length that the bytes cannot hold.
 *
 * Inputs that came to something of their own are kept, for each decoder one of each kind of outcome, made short:
 * test/golden/hostile-<name>.json. Every run gives them to the decoders again, and begins its changes with them too.
 * COPPICE_HOSTILE_KEEP=1 adds what a run finds.
 */

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { crc32, fromHex, isCoppiceError, toHex } from "coppice";
import { seededRandom } from "coppice/testing";
import { expect, onTestFinished, test } from "vitest";
import { note, repetitions, SEED, TEST_MS_MAX } from "../crash/laboratory/effort.js";
import { hostile } from "./hostile-bytes.js";

/** Of each decoder in an ordinary run, but for slow ones. */
const INPUTS = 1500;
/** Turns of a decoder that is not slow. */
const SHARES = 256;
const FOREIGN_WORDS = /^(SyntaxError|RangeError \[|Error )|encoded data|JSON|offset|index/i;

/** By decoder, and by what comes of them. */
type Kept = Record<string, Record<string, string>>;

/** What a decoder found that tells one kind of input from another. */
export class Word extends String {}

export interface Decoder {
  readonly name: string;
  readonly samples: readonly Uint8Array[];
  /** Throws anything but what `refuses` takes when what it reads contradicts itself. */
  decode(bytes: Uint8Array): unknown;
  refuses(error: unknown): boolean;
  seal?(bytes: Uint8Array): void;
  /** It is slow: one of so many turns is its. */
  readonly every?: number;
  /** Messages come from a library, and may be others tomorrow. */
  readonly foreign?: true;
}

export const typed = (error: unknown): boolean => isCoppiceError(error);
export const corrupt = (error: unknown): boolean =>
  isCoppiceError(error) && (error.kind === "corrupt" || error.kind === "unsupported");
/** Of memory: a length was believed. */
const GREEDY = /allocation failed|Invalid (typed )?array (buffer )?length|Invalid string length/i;
export const malformed = (error: unknown): boolean =>
  (error instanceof TypeError || error instanceof RangeError) && !GREEDY.test(error.message);
export const never = (): boolean => false;

export function assertSame(what: string, a: Uint8Array, b: Uint8Array): void {
  if (Buffer.compare(a, b) !== 0) throw new Error(`${what}: it reads bytes that it would not write`);
}

/** A CRC-32 over all before it ends the bytes. */
export function sealEnd(bytes: Uint8Array, previous = 0): void {
  const end = bytes.length - 4;
  if (end < 0) return;
  new DataView(bytes.buffer, bytes.byteOffset).setUint32(end, crc32(bytes, previous, 0, end), true);
}

/** The two tests of a package's decoders. `name`: of the kept inputs. */
export function testHostile(
  name: string,
  decoders: () => readonly Decoder[] | Promise<readonly Decoder[]>,
): void {
  test("[LB17] what was kept of hostile inputs comes to what it came to", async () => {
    await replayKept(name, await decoders());
  });
  test("[LB17] hostile bytes are read or refused by name", { timeout: TEST_MS_MAX }, async () => {
    await searchHostile(name, await decoders());
  });
}

/** Each kept input must come to what it came to when it was kept. */
async function replayKept(name: string, decoders: readonly Decoder[]): Promise<void> {
  const kept = keptOf(name);
  expect(Object.keys(kept).sort()).toEqual(decoders.map((decoder) => decoder.name).sort());
  for (const decoder of decoders) {
    for (const [outcome, input] of Object.entries(kept[decoder.name]!)) {
      expect(await outcomeOf(decoder, fromHex(input)), `${decoder.name} of ${input}`).toBe(outcome);
    }
  }
}

/** Looks for bytes that a decoder does not bear. */
async function searchHostile(name: string, given: readonly Decoder[]): Promise<void> {
  const kept = keptOf(name);
  const decoders = given.map((decoder) => {
    const more = Object.values(kept[decoder.name] ?? {}).map(fromHex);
    return { ...decoder, samples: [...decoder.samples, ...more] };
  });
  const random = seededRandom(SEED);
  withoutTraces();
  const counts = { inputs: 0, sealed: 0, read: 0, refused: 0 };
  const seen = new Map<string, Uint8Array>();
  const wrong = new Map<string, string>();
  const turns = decoders.flatMap((decoder) =>
    Array.from({ length: Math.ceil(SHARES / (decoder.every ?? 1)) }, () => decoder),
  );
  for (const _ of repetitions(Math.ceil((INPUTS * turns.length) / SHARES))) {
    const decoder = random.pick(turns);
    const bytes = hostile(random, decoder.samples);
    if (decoder.seal !== undefined && random.int(2) === 0) {
      decoder.seal(bytes);
      counts.sealed++;
    }
    const outcome = await outcomeOf(decoder, bytes);
    if (outcome.startsWith("WRONG")) wrong.set(`${decoder.name}: ${outcome}`, toHex(bytes));
    counts.inputs++;
    if (outcome.startsWith("gives")) counts.read++;
    else counts.refused++;
    const kind = `${decoder.name}\n${outcome}`;
    const known = seen.get(kind);
    if (known === undefined || known.length > bytes.length) seen.set(kind, bytes);
  }
  expect([...wrong].map(([what, input]) => `${what}, of ${input}`)).toEqual([]);
  if (process.env.COPPICE_HOSTILE_KEEP === "1") await keep(name, decoders, seen);
  note(`hostile-${name}`, counts);
}

function withoutTraces(): void {
  const { stackTraceLimit } = Error;
  onTestFinished(() => {
    Error.stackTraceLimit = stackTraceLimit;
  });
  // Most of the time went into traces of errors that are expected.
  Error.stackTraceLimit = 0;
}

function pathOf(name: string): string {
  return fileURLToPath(new URL(`../golden/hostile-${name}.json`, import.meta.url));
}

function keptOf(name: string): Kept {
  return JSON.parse(readFileSync(pathOf(name), "utf8")) as Kept;
}

/** What came of an input, in words that are the same for all of its kind; `WRONG …` when it may not come to that. */
async function outcomeOf(decoder: Decoder, bytes: Uint8Array): Promise<string> {
  try {
    const given = decoder.decode(bytes);
    const value = given instanceof Promise ? await given : given;
    return value instanceof Word ? `gives ${value}` : "gives a value";
  } catch (error) {
    const { name, message } = error as Error;
    if (!decoder.refuses(error)) return `WRONG ${name}: ${message.replace(/\d+/g, "N").slice(0, 40)}`;
    if (decoder.foreign) return name;
    const own = isCoppiceError(error) ? `${error.code}: ${message.replace(/ \(.*\)$/s, "")}` : wordsOf(error);
    return isCoppiceError(error) && error.cause !== undefined ? `${own}: ${wordsOf(error.cause)}` : own;
  }
}

/** What errors of ours say; others may say it otherwise in another Node. */
function wordsOf(error: unknown): string {
  const { name, message } = error as Error;
  return FOREIGN_WORDS.test(`${name} ${message}`) ? name : `${name}: ${message.replace(/[0-9]+/g, "N")}`;
}

/** Adds kinds of outcomes that are new, each with an input made as short as it comes to the same. */
async function keep(
  name: string,
  decoders: readonly Decoder[],
  seen: ReadonlyMap<string, Uint8Array>,
): Promise<void> {
  const kept = keptOf(name);
  const all: Kept = Object.fromEntries(decoders.map((each) => [each.name, { ...kept[each.name] }]));
  for (const [kind, bytes] of seen) {
    const [of, outcome] = kind.split("\n") as [string, string];
    if (all[of]![outcome] !== undefined) continue;
    const decoder = decoders.find((each) => each.name === of)!;
    all[of]![outcome] = toHex(await shortened(decoder, bytes, outcome));
  }
  writeFileSync(pathOf(name), `${JSON.stringify(all, null, 2)}\n`);
}

async function shortened(decoder: Decoder, given: Uint8Array, outcome: string): Promise<Uint8Array> {
  let bytes = given;
  for (let span = bytes.length >> 1; span > 0; span >>= 1) {
    for (let at = 0; at + span <= bytes.length; ) {
      const raw = new Uint8Array(Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + span)]));
      const sealed = raw.slice();
      decoder.seal?.(sealed);
      const found = [raw, sealed].map((each) => outcomeOf(decoder, each.slice()));
      const [rawOutcome, sealedOutcome] = await Promise.all(found);
      if (rawOutcome === outcome) bytes = raw;
      else if (sealedOutcome === outcome) bytes = sealed;
      else at += span;
    }
  }
  return bytes;
}
