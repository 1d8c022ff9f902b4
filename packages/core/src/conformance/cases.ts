/**
 * What a conformance case is, and what cases are made of: a store to work on, assertions, seeded chance.
 *
 * Cases are data. They know no test runner, so that the same list runs under vitest, node:test, mocha and
 * the command line. A case that cannot be tried on a subject says why; it never passes silently.
 *
 * Invariants: each case works on a fresh store and destroys it; chance comes from `Random` alone, whose seed
 * is in the message of every failure.
 */

import { equalBytes } from "../base/bytes.js";
import { crc32 } from "../base/checksum.js";
import { type Env, systemEnv } from "../base/env.js";
import { type CoppiceError, type ErrorCode, isCoppiceError } from "../base/errors.js";
import { LIMITS } from "../base/limits.js";
import type { Backend, BackendFactory, Entry, Range, ScanOptions, Traits } from "../contract/backend.js";
import { Guard } from "../contract/guard.js";
import { keyName } from "../contract/keys.js";
import { assertBackend, pagesOf, plainPage, plainValue } from "../contract/shapes.js";
import { type Mortal, mortal } from "./mortal.js";

/**
 * How much a case asks of its subject: the `contract` alone; a `race`, which may turn out not to have been
 * one; a `crash`; a `full-disk`; a commit of `unknown-outcome`.
 */
export type CaseLevel = "contract" | "race" | "crash" | "full-disk" | "unknown-outcome";

/** One thing that every subject must do. */
export interface Case<Context> {
  /** `[rule] title`, for test runners. */
  readonly name: string;
  /** The rule of docs/spec.md that this case shows. */
  readonly rule: string;
  readonly title: string;
  /** What it takes to try it; absent: only the subject itself. */
  readonly level?: CaseLevel;
  /** Throws a `TypeError` that names the member, for what is no subject of this case. */
  readonly assertSubject?: (context: Context) => void;
  /** Why the case cannot be tried on this subject; `undefined` when it can. */
  readonly needs?: (context: Context) => Promise<string | undefined> | string | undefined;
  /** Rejects when the subject breaks the rule. */
  readonly run: (context: Context) => Promise<void>;
}

/** A kind of backend, as the kit wants it. */
export interface BackendSubject {
  readonly name: string;
  /** A factory of a new, empty store that no other factory shares. */
  create(): Promise<BackendFactory>;
  /** Removes the store of this factory. Everything of it is closed by then. */
  destroy?(factory: BackendFactory): Promise<void>;
  /**
   * Ends what this factory has open as the death of the process would, with no chance to close, and
   * resolves with a factory for what is left. From this call on the kit calls nothing of what was open; calls
   * that are under way may still end. Without it the cases about crashes are skipped.
   */
  crash?(factory: BackendFactory): Promise<BackendFactory>;
  /** Like `crash`, as a loss of power would: of what was not durable, anything may be gone. */
  powerLoss?(factory: BackendFactory): Promise<BackendFactory>;
  /** From now on the disk of this store is full; resolves with what makes room again. */
  fillDisk?(factory: BackendFactory): Promise<() => Promise<void>>;
  /** The next commit fails as if its reply were lost: after it took effect (`applied`), or before. */
  loseReply?(factory: BackendFactory, applied: boolean): Promise<void>;
  /**
   * Whether any file of the store, open or closed, holds these bytes now; the name of one that does says more
   * than `true`. Without it the cases about what deleted data leave behind are skipped: a subject leaves it
   * out whose backend does not store bytes as they are, but compressed, encrypted or as text.
   */
  holds?(factory: BackendFactory, bytes: Uint8Array): Promise<boolean | string>;
  /** For cases that use chance; default 1. */
  readonly seed?: number;
  /** Default `systemEnv()`. */
  readonly env?: Env;
}

export type BackendCase = Case<BackendSubject>;

/** The spaces in which cases keep their keys: neighbours of each other, and all that `dump` looks at. */
export const SPACES: readonly string[] = ["a", "aa", "events", "eventsx", "meta", "z"];

interface Open {
  readonly life: Mortal;
  readonly guard: Guard;
}

/** What a case works on: one store, with any number of opens. */
export class Store {
  readonly subject: BackendSubject;
  readonly env: Env;
  readonly random: Random;
  factory: BackendFactory;
  #open: Open[] = [];

  constructor(subject: BackendSubject, factory: BackendFactory) {
    this.subject = subject;
    this.env = subject.env ?? systemEnv();
    this.random = new Random(subject.seed ?? 1);
    this.factory = factory;
  }

  /** The backend itself, for what is its own duty. */
  get backend(): Backend {
    return this.#last().life.backend;
  }

  /** The same backend behind its guard, as storage sees it. */
  get guard(): Guard {
    return this.#last().guard;
  }

  async open(): Promise<Guard> {
    const backend = await this.factory.open(this.env);
    assertBackend(backend);
    const life = mortal(backend);
    const guard = new Guard(life.backend, this.env, LIMITS);
    this.#open.push({ life, guard });
    return guard;
  }

  async reopen(): Promise<void> {
    await this.close();
    await this.open();
  }

  /**
   * The process dies, or the power goes; then the store is opened again. What was open takes no call from the
   * beginning on: whether it is still open is nothing that a backend checks itself.
   */
  async crash(how: "crash" | "powerLoss" = "crash"): Promise<void> {
    const end = this.subject[how];
    if (end === undefined) throw new TypeError(`this subject has no ${how}`);
    const died = this.#open;
    for (const { life } of died) life.dead = true;
    try {
      this.factory = await end.call(this.subject, this.factory);
    } catch (error) {
      // It was no crash, so all of it is to be closed when the case ends.
      for (const { life } of died) life.dead = false;
      throw error;
    }
    this.#open = [];
    await this.open();
  }

  /** Closes all opens, and rejects with the first failure only after it has tried all. */
  async close(): Promise<void> {
    const outcomes = await Promise.allSettled(this.#open.splice(0).map(({ guard }) => guard.close()));
    for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
  }

  /** One line for each entry of the store, in the order of its scans: equal for equal contents. */
  async dump(backend: Backend = this.backend): Promise<string[]> {
    const lines: string[] = [];
    for (const space of SPACES) {
      for (const entry of await scanAll(backend, { space })) lines.push(show(entry));
    }
    return lines;
  }

  #last(): Open {
    const last = this.#open.at(-1);
    if (last === undefined) throw new TypeError("the store of this case is not open");
    return last;
  }
}

const ABLE = ["destroy", "crash", "powerLoss", "fillDisk", "loseReply", "holds"] as const;

function assertBackendSubject(subject: BackendSubject): void {
  assertMembersOf(subject, ["create"], ABLE);
}

/** Throws a `TypeError` unless the subject has a name and these methods; the optional ones where given. */
export function assertMembersOf<Subject extends { readonly name: string }>(
  subject: Subject,
  methods: readonly (keyof Subject)[],
  optional: readonly (keyof Subject)[],
): void {
  if (typeof subject !== "object" || subject === null) {
    throw new TypeError(`these cases want a subject, and got ${String(subject)}`);
  }
  if (typeof subject.name !== "string") throw new TypeError("subject.name must be a string");
  for (const name of methods) {
    if (typeof subject[name] !== "function") {
      throw new TypeError(`subject.${String(name)} must be a function`);
    }
  }
  for (const name of optional) {
    if (subject[name] !== undefined && typeof subject[name] !== "function") {
      throw new TypeError(`subject.${String(name)} must be a function, or absent`);
    }
  }
}

/** A case that gets an open, empty store. */
export function backendCase(
  rule: string,
  title: string,
  run: (store: Store) => Promise<void>,
  needs?: (subject: BackendSubject) => Promise<string | undefined>,
): BackendCase {
  return {
    name: `[${rule}] ${title}`,
    rule,
    title,
    assertSubject: assertBackendSubject,
    run: (subject) => withStore(subject, run),
    ...(needs === undefined ? {} : { needs }),
  };
}

async function withStore<T>(subject: BackendSubject, run: (store: Store) => Promise<T>): Promise<T> {
  const store = new Store(subject, await subject.create());
  const work = async () => {
    await store.open();
    return run(store);
  };
  const [outcome] = await Promise.allSettled([work()]);
  const [closed] = await Promise.allSettled([store.close()]);
  const destroy = async () => subject.destroy?.(store.factory);
  const [destroyed] = await Promise.allSettled([destroy()]);
  // What went wrong first is the news; a store that then cannot be closed is a consequence.
  if (outcome.status === "rejected") throw outcome.reason;
  for (const tidied of [closed, destroyed]) if (tidied.status === "rejected") throw tidied.reason;
  return outcome.value;
}

/** What a subject declares, looked up once. */
export interface Declared {
  readonly traits: Traits;
  readonly watches: boolean;
}

const declarations = new WeakMap<BackendSubject, Promise<Declared>>();

/** What the backends of a subject declare. */
export function declared(subject: BackendSubject): Promise<Declared> {
  const known = declarations.get(subject);
  if (known !== undefined) return known;
  const found = withStore(subject, async ({ backend }) => ({
    traits: backend.traits,
    watches: backend.watch !== undefined,
  }));
  declarations.set(subject, found);
  return found;
}

/** Why a case about commits that are called ahead does not apply, if it does not. */
export async function pipelining(subject: BackendSubject): Promise<string | undefined> {
  const { traits } = await declared(subject);
  return traits.pipelined === true ? undefined : "the backend takes one commit after the other";
}

/** A rule that was broken, told by a case. */
export class CaseFailure extends Error {
  override readonly name = "CaseFailure";
}

/** What was to be tried did not come about, so the case shows nothing: neither passed nor failed. */
export class CaseInconclusive extends Error {
  override readonly name = "CaseInconclusive";
}

/** Ends the case as inconclusive unless what it is about has happened. */
export function assertTried(happened: boolean, message: string): asserts happened {
  if (!happened) throw new CaseInconclusive(`inconclusive: ${message}`);
}

export function fail(message: string): never {
  throw new CaseFailure(message);
}

export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) fail(message);
}

export function assertBytes(
  actual: Uint8Array | undefined,
  expected: Uint8Array | undefined,
  what: string,
): void {
  if (!equalBytes(plainValue(actual), expected))
    fail(`${what}: expected ${brief(expected)}, got ${brief(actual)}`);
}

/** Compares lists of lines, and names the first line that differs. */
export function assertLines(actual: readonly string[], expected: readonly string[], what: string): void {
  for (let i = 0; i < Math.max(actual.length, expected.length); i++) {
    if (actual[i] === expected[i]) continue;
    fail(`${what}: entry ${i} should be ${expected[i] ?? "absent"}, but is ${actual[i] ?? "absent"}`);
  }
}

/** Awaits a rejection with this code and resolves with the error. */
export async function assertRejects(
  code: ErrorCode,
  what: string,
  act: () => Promise<unknown>,
): Promise<CoppiceError> {
  try {
    await act();
  } catch (error) {
    if (isCoppiceError(error, code)) return error;
    throw new CaseFailure(`${what}: should reject with ${code}, but rejected with ${String(error)}`, {
      cause: error,
    });
  }
  return fail(`${what}: should reject with ${code}, but resolved`);
}

/** For what is awaited only later: that it fails before is no unhandled rejection, which would end Node. */
export function awaitedLater<T>(work: Promise<T>): Promise<T> {
  void work.catch(() => undefined);
  return work;
}

export async function scanAll(backend: Backend, range: Range, options?: ScanOptions): Promise<Entry[]> {
  return (await scanPages(backend, range, options)).flat();
}

export async function scanPages(
  backend: Backend,
  range: Range,
  options?: ScanOptions,
): Promise<(readonly Entry[])[]> {
  const pages: (readonly Entry[])[] = [];
  for await (const page of eachPage(backend, range, options)) pages.push(page);
  return pages;
}

/** The pages of a scan as the backend gives them, once they are known to be some. */
export async function* eachPage(
  backend: Backend,
  range: Range,
  options?: ScanOptions,
): AsyncGenerator<readonly Entry[]> {
  const scan = backend.scan(range, options);
  for await (const page of { [Symbol.asyncIterator]: () => pagesOf(scan) }) {
    plainPage(page);
    yield page;
  }
}

/** An entry as a line: all of a short value, the length and checksum of a long one. */
export function show({ key, value }: Entry): string {
  return `${JSON.stringify(keyName(key))}=${brief(value)}`;
}

function brief(value: Uint8Array | undefined): string {
  if (value === undefined) return "absent";
  return value.length <= 32 ? `<${[...value].join(" ")}>` : `<${value.length} bytes, crc ${crc32(value)}>`;
}

/** The bytes of a text, for values. */
export function bytes(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

/** Chance that repeats: the same seed gives the same sequence (mulberry32). Not for secrets. */
export class Random {
  readonly seed: number;
  #state: number;

  constructor(seed: number) {
    this.seed = seed;
    this.#state = seed >>> 0;
  }

  /** An integer from 0 to `end - 1`. */
  below(end: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000) * end);
  }

  chance(probability: number): boolean {
    return this.below(1_000_000) < probability * 1_000_000;
  }

  pick<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)]!;
  }

  bytes(count: number): Uint8Array {
    return Uint8Array.from({ length: count }, () => this.below(256));
  }

  shuffle<T>(items: readonly T[]): T[] {
    const out = [...items];
    for (let i = out.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [out[i], out[j]] = [out[j]!, out[i]!];
    }
    return out;
  }
}
