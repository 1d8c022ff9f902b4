/**
 * A model has the members that the contract names, each of its kind, or whoever wrote it is told in a
 * `TypeError` which one it lacks. Without types, and behind a cast, anything may come.
 *
 * Nothing is called here: what the members do, the conformance kit tries.
 *
 * Invariant: what lacks a member is refused before a document is stored by it. Meta without the name of a
 * model, or a snapshot without its state format, would be damage that no later opening could read.
 */

import type { AnyModel } from "./model.js";

type Name = keyof AnyModel;

const METHODS = [
  ...(["create", "restore", "apply", "change", "track"] as const),
  ...(["snapshot", "version", "peerVersion", "fold"] as const),
] satisfies Name[];
const OPTIONAL_METHODS = [
  ...(["ready", "dispose", "check", "links", "holds", "frontierSize", "diff", "covers"] as const),
] satisfies Name[];
const CODEC = ["encode", "decode", "size"] as const;
const NAME = /^[a-z][a-z0-9-]{0,31}$/;

/** Throws a `TypeError` that names the member; `what` says which model it is: `models[0]`. */
export function assertModel(what: string, model: AnyModel): void {
  refuse(what, wrongObject(model) ?? wrongFacts(model) ?? wrongMembers(model));
}

/** The same for all but what `MD1` is about: its name and its state formats. */
export function assertMembers(what: string, model: AnyModel): void {
  refuse(what, wrongObject(model) ?? wrongMembers(model));
}

function refuse(what: string, wrong: string | undefined): void {
  if (wrong !== undefined) throw new TypeError(`${what} is no model: ${wrong}`);
}

function wrongObject(model: unknown): string | undefined {
  if (typeof model === "function") return "it is a function; call the function that makes it, as in yjs()";
  return typeof model === "object" && model !== null ? undefined : `it is ${String(model)}`;
}

function wrongFacts(model: AnyModel): string | undefined {
  const { name, stateFormat, stateFormats } = membersOf(model);
  if (typeof name !== "string" || !NAME.test(name)) {
    return `name must be a string of the form [a-z][a-z0-9-]*, at most 32 characters, and is ${show(name)}`;
  }
  if (!isFormat(stateFormat)) return `stateFormat must be a whole number from 0, and is ${show(stateFormat)}`;
  if (stateFormats === undefined || readsItsOwn(stateFormats, stateFormat)) return undefined;
  return `stateFormats must be a list of whole numbers from 0, stateFormat (${stateFormat}) among them`;
}

function wrongMembers(model: AnyModel): string | undefined {
  const given = membersOf(model);
  for (const member of METHODS) {
    if (typeof given[member] !== "function") return `${member} must be a function`;
  }
  for (const member of OPTIONAL_METHODS) {
    const value = given[member];
    if (value !== undefined && typeof value !== "function") return `${member} must be a function, or absent`;
  }
  return wrongCodec(given.codec) ?? (given.worker === undefined ? undefined : wrongWorker(given.worker));
}

function wrongCodec(codec: unknown): string | undefined {
  const given = membersOf(codec);
  for (const member of CODEC) {
    if (typeof given[member] !== "function") return `codec.${member} must be a function`;
  }
  return undefined;
}

function wrongWorker(worker: unknown): string | undefined {
  const given = membersOf(worker);
  for (const member of ["module", "export"] as const) {
    if (typeof given[member] !== "string") return `worker.${member} must be a string`;
  }
  return undefined;
}

function membersOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null ? (value as Readonly<Record<string, unknown>>) : {};
}

/** As a record of a snapshot takes it. */
function isFormat(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function readsItsOwn(formats: unknown, own: unknown): boolean {
  return Array.isArray(formats) && formats.every(isFormat) && formats.includes(own);
}

function show(value: unknown): string {
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}
