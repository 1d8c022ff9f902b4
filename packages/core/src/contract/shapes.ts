/**
 * What a backend gives has the shape that the contract says, or whoever wrote the backend is told in a
 * `TypeError` what it must give. Without types, and behind a cast, anything may come.
 *
 * Invariant: bytes are never copied; what is not of the plain class becomes a view of the same memory.
 */

import type { Backend, Entry, Key, Traits } from "./backend.js";

const METHODS = ["get", "scan", "commit", "reclaim", "close"] as const;
const MAXIMA = ["valueBytesMax", "commitBytesMax"] as const;
const FLAGS = ["exclusive", "poisonsItself"] as const;

/** What `open` of a factory gave. */
export function assertBackend(backend: Backend): void {
  const given = backend as Partial<Backend> | null | undefined;
  const traits: unknown = given?.traits;
  if (typeof given !== "object" || given === null || typeof traits !== "object" || traits === null) {
    const gave = typeof given === "object" && given !== null ? "one without" : kindOf(given);
    throw new TypeError(`open must give a backend with traits, and gave ${gave}`);
  }
  for (const name of METHODS) {
    if (typeof given[name] === "function") continue;
    throw new TypeError(`open must give a backend with the method ${name}`);
  }
  if (given.watch !== undefined && typeof given.watch !== "function") {
    throw new TypeError("watch of a backend must be a method, or absent");
  }
  assertTraits(traits);
}

function assertTraits(traits: Partial<Traits>): void {
  const { durability } = traits;
  if (durability !== "none" && durability !== "process" && durability !== "power") {
    throw wrongTrait("durability", '"none", "process" or "power"', durability);
  }
  for (const name of FLAGS) {
    if (typeof traits[name] !== "boolean") throw wrongTrait(name, "true or false", traits[name]);
  }
  const { pipelined } = traits;
  if (pipelined !== undefined && typeof pipelined !== "boolean") {
    throw wrongTrait("pipelined", "true, false or absent", pipelined);
  }
  for (const name of MAXIMA) {
    const max = traits[name];
    if (typeof max !== "number" || !(max > 0)) throw wrongTrait(name, "a number of bytes", max);
  }
}

function wrongTrait(name: keyof Traits, wanted: string, value: unknown): TypeError {
  return new TypeError(`the backend's trait ${name} must be ${wanted}, and is ${String(value)}`);
}

/** What `get` gave, plain. */
export function plainValue(value: Uint8Array | undefined): Uint8Array | undefined {
  if (value === undefined) return undefined;
  const bytes = plain(value);
  if (bytes !== undefined) return bytes;
  throw new TypeError(`the backend's get must give a Uint8Array or undefined, and gave ${kindOf(value)}`);
}

/** What `scan` gave, as what gives its pages one by one. */
export function pagesOf(scan: AsyncIterable<readonly Entry[]>): AsyncIterator<readonly Entry[]> {
  const pages = (scan as Partial<typeof scan> | null | undefined)?.[Symbol.asyncIterator]?.call(scan);
  if (pages !== undefined) return pages;
  throw new TypeError(`the backend's scan must give an async iterable of pages, and gave ${kindOf(scan)}`);
}

/** A page of `scan`, with plain values. */
export function plainPage(page: readonly Entry[]): readonly Entry[] {
  if (Array.isArray(page)) return (page as readonly Entry[]).map(plainEntry);
  throw new TypeError(`a page of the backend's scan must be a list of entries, and is ${kindOf(page)}`);
}

function plainEntry(entry: Partial<Entry> | null | undefined): Entry {
  const key = entry?.key;
  if (!Array.isArray(key)) throw wrongEntry("a key that is a list", key);
  const value = plain(entry?.value);
  if (value === undefined) throw wrongEntry("a value that is a Uint8Array", entry?.value);
  return { key: key as unknown as Key, value };
}

function wrongEntry(wanted: string, value: unknown): TypeError {
  return new TypeError(`an entry of the backend's scan must have ${wanted}, and has ${kindOf(value)}`);
}

/** A `Buffer` is a `Uint8Array` with other habits (`slice`, `toJSON`); callers get the plain class. */
function plain(bytes: unknown): Uint8Array | undefined {
  if (!isBytes(bytes)) return undefined;
  if (Object.getPrototypeOf(bytes) === Uint8Array.prototype) return bytes;
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Of any realm: some test runners have a `Uint8Array` of their own. */
export function isBytes(value: unknown): value is Uint8Array {
  return value instanceof Uint8Array || Object.prototype.toString.call(value) === "[object Uint8Array]";
}

/** As a message says it. */
export function kindOf(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (typeof value !== "object") return `a ${typeof value}`;
  if (Array.isArray(value)) return "a list";
  return `an object (${Object.prototype.toString.call(value).slice("[object ".length, -1)})`;
}
