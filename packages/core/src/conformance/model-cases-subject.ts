/**
 * What the cases about models are made of: peers that edit and exchange events, logs, damaged events.
 *
 * Invariants: what a model gives is copied, since it may use its buffers again; chance comes from the
 * subject's seed alone, and every failure names the seed.
 */

import type { Applied, Model, Tracker } from "../contract/model.js";
import { ownBytes } from "../contract/model-results.js";
import { assertMembers } from "../contract/model-shape.js";
import { assert, assertBytes, assertMembersOf, type Case, CaseFailure, Random } from "./cases.js";

/** A model, as the kit wants it. Immutable documents are returned, mutable ones too. */
export interface ModelSubject<Doc = unknown, Event = unknown> {
  readonly name: string;
  readonly model: Model<Doc, Event>;
  /** A random local edit. May change nothing now and then; on an empty document it must add something. */
  edit(doc: Doc, random: Random): Doc;
  /** A local edit that only takes something away; `undefined` when there is nothing to take. */
  remove?(doc: Doc, random: Random): Doc | undefined;
  /** Everything a reader can see; equal texts for equal contents. */
  content(doc: Doc): string;
  /** Applies an answer of `diff` as a peer does. Default: `model.apply` of the answer as one event. */
  receiveDiff?(doc: Doc, answer: Uint8Array): Doc;
  /** Default 1. */
  readonly seed?: number;
}

export type ModelCase = Case<ModelSubject>;

const EDIT_COUNT = 24;
const PEER_COUNT = 3;

/** A document with its tracker. Everything made on it is in `made`, in order. */
export class Peer {
  readonly subject: ModelSubject;
  readonly made: unknown[] = [];
  readonly #tracker: Tracker<unknown, unknown>;
  doc: unknown;

  constructor(subject: ModelSubject, snapshot?: Uint8Array) {
    this.subject = subject;
    this.doc = snapshot === undefined ? subject.model.create() : subject.model.restore(snapshot);
    this.#tracker = subject.model.track(this.doc);
  }

  /** Edits until an event was captured; returns what was. */
  edit(random: Random): unknown[] {
    for (let i = 0; i < 100; i++) {
      this.doc = this.subject.edit(this.doc, random);
      const events = this.take();
      if (events.length > 0) return events;
    }
    throw new CaseFailure("100 edits in a row were not captured");
  }

  take(): unknown[] {
    const events = this.#tracker.take(this.doc);
    this.made.push(...events);
    return events;
  }

  get pending(): boolean {
    return this.#tracker.pending(this.doc);
  }

  get tracker(): Tracker<unknown, unknown> {
    return this.#tracker;
  }

  receive(events: readonly unknown[]): Applied<unknown> {
    const applied = applyTo(this.subject.model, this.doc, events);
    this.doc = applied.doc;
    return applied;
  }

  get version(): Uint8Array {
    return ownBytes(this.subject.model.version(this.doc));
  }

  get content(): string {
    return this.subject.content(this.doc);
  }
}

/** `model.apply`, with the sum and the order of what it reports checked. */
export function applyTo(
  model: ModelSubject["model"],
  doc: unknown,
  events: readonly unknown[],
): Applied<unknown> {
  const result = model.apply(doc, events);
  const refused = result.refused.map((refusal) => refusal.index);
  assertIndexes(result.held, events.length, "held");
  assertIndexes(refused, events.length, "refused");
  assert(!refused.some((index) => result.held.includes(index)), "an event is both held and refused");
  const sum = result.applied + result.held.length + refused.length;
  assert(sum === events.length, `applied + held + refused is ${sum} of ${events.length} events`);
  return result;
}

function assertIndexes(indexes: readonly number[], count: number, what: string): void {
  for (let i = 0; i < indexes.length; i++) {
    const index = indexes[i]!;
    assert(
      Number.isInteger(index) && index >= 0 && index < count,
      `${what}: index ${index} of ${count} events`,
    );
    assert(i === 0 || index > indexes[i - 1]!, `${what}: indexes are not ascending`);
  }
}

export interface Log {
  /** All events, each after what it builds on. */
  readonly events: unknown[];
  readonly peers: readonly Peer[];
  /** A document with all events. */
  readonly whole: Peer;
}

/** Peers that write at once and receive each other's events now and then. */
export function writeLog(subject: ModelSubject, random: Random): Log {
  const events: unknown[] = [];
  const peers = Array.from({ length: PEER_COUNT }, () => new Peer(subject));
  for (let i = 0; i < EDIT_COUNT; i++) {
    const peer = random.pick(peers);
    events.push(...peer.edit(random));
    if (random.chance(0.3)) random.pick(peers).receive(events);
  }
  const whole = new Peer(subject);
  whole.receive(events);
  return { events, peers, whole };
}

/** Events of one replica, each made after the one before. */
export function writeLine(
  subject: ModelSubject,
  random: Random,
  count: number,
): { events: unknown[]; peer: Peer } {
  const peer = new Peer(subject);
  while (peer.made.length < count) peer.edit(random);
  return { events: peer.made, peer };
}

function assertModelSubject(subject: ModelSubject): void {
  assertMembersOf(subject, ["edit", "content"], ["remove", "receiveDiff"]);
  assertMembers("subject.model", subject.model);
}

export function modelCase(
  rule: string,
  title: string,
  run: (subject: ModelSubject, random: Random) => void,
  needs?: (subject: ModelSubject) => string | undefined,
): ModelCase {
  return {
    name: `[${rule}] ${title}`,
    rule,
    title,
    assertSubject: assertModelSubject,
    run: async (subject) => {
      const seed = subject.seed ?? 1;
      try {
        run(subject, new Random(seed));
      } catch (error) {
        const message = error instanceof Error ? error.message : String(error);
        throw new CaseFailure(`${message} (seed ${seed})`, { cause: error });
      }
    },
    ...(needs === undefined ? {} : { needs: async (subject) => needs(subject) }),
  };
}

export function sameDocument(subject: ModelSubject, doc: unknown, expected: Peer, what: string): void {
  assertBytes(ownBytes(subject.model.version(doc)), expected.version, `${what}: version`);
  const [content, wanted] = [subject.content(doc), expected.content];
  assert(content === wanted, `${what}: content should be ${wanted}, but is ${content}`);
}

/** Damaged copies of an event: cut short, with bytes changed, with bytes after it. */
export function damaged(subject: ModelSubject, event: unknown, random: Random): unknown[] {
  const { codec } = subject.model;
  const direct = event instanceof Uint8Array;
  const bytes = direct ? event : codec.encode([event]);
  const copies: Uint8Array[] = [];
  for (let end = 0; end < bytes.length; end += 1 + Math.floor(bytes.length / 200))
    copies.push(bytes.slice(0, end));
  for (let i = 0; i < 200; i++) {
    const copy = bytes.slice();
    copy[random.below(copy.length)]! ^= 1 << random.below(8);
    copies.push(copy);
  }
  copies.push(Uint8Array.of(...bytes, 0), random.bytes(40), new Uint8Array(16).fill(255));
  if (direct) return copies;
  return copies.flatMap((copy) => {
    try {
      return codec.decode(copy);
    } catch {
      return []; // The codec refused it before the model saw it.
    }
  });
}

export function assertThrows(fn: () => unknown, what: string): void {
  try {
    fn();
  } catch (error) {
    assert(error instanceof Error, `${what}: threw something that is no error`);
    return;
  }
  throw new CaseFailure(`${what}: was not refused`);
}
