/**
 * What a loss of power may leave of recorded steps. Of every file it keeps what was synced apart from what
 * is pending, and of the directory the names that are durable from those that are pending.
 *
 * | names         | are durable                                                                    |
 * | ------------- | ------------------------------------------------------------------------------ |
 * | `strict`      | when their directory was synced: all that POSIX promises                        |
 * | `journalled`  | when their directory or any file was synced, and in order, as on ext4           |
 *
 * | survival      | of what is pending survives                                                    |
 * | ------------- | ------------------------------------------------------------------------------ |
 * | `nothing`     | nothing                                                                        |
 * | `everything`  | all of it                                                                      |
 * | `prefix`      | the first few, in each file and in the directory                               |
 * | `subset`      | any of it                                                                      |
 * | `sectors`     | any sectors of 512 bytes of the writes                                         |
 * | `torn`        | all but the last write of each file, and a part of that one                    |
 *
 * A rename is whole or not at all. A file whose name did not survive is gone, whatever was written to it.
 */

import type { SeededRandom } from "coppice/testing";
import type { Step } from "./system-calls.js";

export type Names = "strict" | "journalled";
export const SURVIVALS = ["nothing", "everything", "prefix", "subset", "sectors", "torn"] as const;
export type Survival = (typeof SURVIVALS)[number];

type Change = Extract<Step, { kind: "write" | "truncate" }>;
type NameChange =
  | { readonly kind: "create"; readonly file: number; readonly name: string }
  | { readonly kind: "rename"; readonly from: string; readonly to: string }
  | { readonly kind: "unlink"; readonly name: string };

const SECTOR_BYTES = 512;

/** The files of one crash state, by name. */
export type Image = ReadonlyMap<string, Uint8Array>;

/** Follows the steps; `image` may be asked for after each. */
export class Disk {
  readonly #model: Names;
  readonly #synced: Uint8Array[] = [];
  readonly #pending: Change[][] = [];
  readonly #names = new Map<string, number>();
  #pendingNames: NameChange[] = [];

  constructor(model: Names) {
    this.#model = model;
  }

  take(step: Step): void {
    switch (step.kind) {
      case "said":
        return;
      case "write":
      case "truncate":
        this.#pending[step.file]!.push(step);
        return;
      case "sync":
        this.#synced[step.file] = applied(this.#synced[step.file]!, this.#pending[step.file]!.splice(0));
        if (this.#model === "journalled") this.#syncNames();
        return;
      case "sync-names":
        this.#syncNames();
        return;
      case "create":
        this.#synced[step.file] ??= new Uint8Array(0);
        this.#pending[step.file] ??= [];
        this.#pendingNames.push(step);
        return;
      default:
        this.#pendingNames.push(step);
    }
  }

  /** Whether everything that was done is durable, so that all survivals are one. */
  get quiet(): boolean {
    return this.#pendingNames.length === 0 && this.#pending.every((changes) => changes.length === 0);
  }

  image(survival: Survival, random: SeededRandom): Image {
    const names = new Map(this.#names);
    for (const change of this.#survivingNames(survival, random)) rename(names, change);
    const files = new Map<string, Uint8Array>();
    for (const [name, file] of names) {
      const changes = surviving(this.#pending[file]!, survival, random);
      files.set(name, applied(this.#synced[file]!, changes));
    }
    return files;
  }

  #syncNames(): void {
    for (const change of this.#pendingNames.splice(0)) rename(this.#names, change);
  }

  /** A journal keeps the order of names whatever happens to data. */
  #survivingNames(survival: Survival, random: SeededRandom): readonly NameChange[] {
    const changes = this.#pendingNames;
    if (survival === "nothing") return [];
    if (survival === "everything" || survival === "torn") return changes;
    const anyOrder = this.#model === "strict" && survival !== "prefix";
    if (anyOrder) return changes.filter(() => random.int(2) === 1);
    return changes.slice(0, random.int(changes.length + 1));
  }
}

function surviving(changes: readonly Change[], survival: Survival, random: SeededRandom): readonly Change[] {
  const last = changes.at(-1);
  if (survival === "nothing" || last === undefined) return [];
  if (survival === "everything") return changes;
  if (survival === "prefix") return changes.slice(0, random.int(changes.length + 1));
  if (survival === "subset") return changes.filter(() => random.int(2) === 1);
  if (survival === "sectors") {
    return changes
      .flatMap((change) => (change.kind === "write" ? sectorsOf(change) : [change]))
      .filter(() => random.int(2) === 1);
  }
  if (last.kind !== "write") return changes;
  const part = { ...last, bytes: last.bytes.subarray(0, random.int(last.bytes.length + 1)) };
  return [...changes.slice(0, -1), part];
}

/** The pieces of a write that lie in one sector each. */
function sectorsOf(write: Extract<Change, { kind: "write" }>): Change[] {
  const pieces: Change[] = [];
  for (let from = 0; from < write.bytes.length; ) {
    const at = write.at + from;
    const to = Math.min(write.bytes.length, from + SECTOR_BYTES - (at % SECTOR_BYTES));
    pieces.push({ ...write, at, bytes: write.bytes.subarray(from, to) });
    from = to;
  }
  return pieces;
}

/** The content after the changes: one copy, however many they are. */
function applied(content: Uint8Array, changes: readonly Change[]): Uint8Array {
  if (changes.length === 0) return content;
  let length = content.length;
  let most = length;
  for (const change of changes) {
    length = lengthAfter(length, change);
    most = Math.max(most, length);
  }
  const bytes = new Uint8Array(most);
  bytes.set(content);
  length = content.length;
  for (const change of changes) {
    if (change.kind === "write") bytes.set(change.bytes, change.at);
    else bytes.fill(0, change.length, length);
    length = lengthAfter(length, change);
  }
  return bytes.subarray(0, length);
}

function lengthAfter(length: number, change: Change): number {
  return change.kind === "truncate" ? change.length : Math.max(length, change.at + change.bytes.length);
}

function rename(names: Map<string, number>, change: NameChange): void {
  if (change.kind === "create") {
    names.set(change.name, change.file);
    return;
  }
  if (change.kind === "unlink") {
    names.delete(change.name);
    return;
  }
  const file = names.get(change.from);
  // Its creation did not survive: there is nothing to rename.
  if (file === undefined) return;
  names.delete(change.from);
  names.set(change.to, file);
}
