/**
 * Recorded editing histories: finding them, reading them, and refusing what is not one.
 *
 * A recording is gzipped JSON. Sequential: `{ startContent, endContent, txns: [{ patches }] }`. Concurrent:
 * `{ kind: "concurrent", endContent, numAgents, txns: [{ parents, agent, patches }] }`. A patch is
 * `[position, deleted, inserted]`; positions count Unicode code points. Recordings are data of their own and
 * no part of this package: they are looked for in COPPICE_TRACES, or in `../shared/traces` beside the
 * repository.
 */

import { access, readFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { promisify } from "node:util";
import { gunzip } from "node:zlib";
import { CommandError } from "../errors.js";
import { printable } from "../output.js";

export type Patch = readonly [position: number, deleted: number, inserted: string];

export interface Edit {
  readonly patches: readonly Patch[];
  /** Indexes of the edits directly before this one, and who made it; of concurrent recordings. */
  readonly parents?: readonly number[];
  readonly agent?: number;
}

export interface Recording {
  readonly name: string;
  /** The file, or how it was made. */
  readonly source: string;
  readonly concurrent: boolean;
  readonly agents: number;
  readonly start: string;
  readonly edits: readonly Edit[];
  /** The text after all edits; `undefined` when only some of them are replayed. */
  readonly end: string | undefined;
}

export const DEFAULT_SEQUENTIAL = "automerge-paper";
export const DEFAULT_CONCURRENT = "friendsforever";

/** The file of a recording by its name, or by its path; `undefined` when there is none. */
export async function findRecording(
  name: string,
  environment: Readonly<Record<string, string | undefined>>,
  entry: string,
): Promise<string | undefined> {
  const folders = environment.COPPICE_TRACES
    ? [environment.COPPICE_TRACES]
    : [resolve("../shared/traces"), resolve(dirname(entry), "../../../../shared/traces")];
  const candidates = folders.flatMap((folder) => [join(folder, `${name}.json.gz`), join(folder, name)]);
  for (const path of [...candidates, resolve(name)]) {
    const readable = await access(path).then(
      () => true,
      () => false,
    );
    if (readable && /\.gz$/.test(path)) return path;
  }
  return undefined;
}

export async function readRecording(path: string): Promise<Recording> {
  const name = basename(path).replace(/(\.json)?\.gz$/, "");
  let raw: unknown;
  try {
    raw = JSON.parse((await promisify(gunzip)(await readFile(path))).toString("utf8"));
  } catch (error) {
    throw broken(path, "it is not gzipped JSON", error);
  }
  const { kind, startContent, endContent, numAgents, txns } = (raw ?? {}) as Record<string, unknown>;
  if (!Array.isArray(txns) || typeof endContent !== "string")
    throw broken(path, "txns or endContent is missing");
  const concurrent = kind === "concurrent";
  txns.forEach((edit, index) => {
    if (!isEdit(edit, concurrent, index)) throw broken(path, `edit ${index} is not understood`);
  });
  return {
    name,
    source: path,
    concurrent,
    agents: concurrent ? Number(numAgents) : 1,
    start: typeof startContent === "string" ? startContent : "",
    edits: txns as Edit[],
    end: endContent,
  };
}

/** The first edits of a recording. Its text at the end is not recorded. */
export function firstEdits(recording: Recording, max: number): Recording {
  if (recording.edits.length <= max) return recording;
  return { ...recording, edits: recording.edits.slice(0, max), end: undefined };
}

function isEdit(value: unknown, concurrent: boolean, index: number): boolean {
  const { patches, parents, agent } = (value ?? {}) as Record<string, unknown>;
  if (!Array.isArray(patches) || !patches.every(isPatch)) return false;
  if (!concurrent) return true;
  const earlier = (parent: unknown) => Number.isSafeInteger(parent) && Number(parent) < index;
  return Array.isArray(parents) && parents.every(earlier) && Number.isSafeInteger(agent);
}

function isPatch(value: unknown): boolean {
  if (!Array.isArray(value) || value.length !== 3) return false;
  const [position, deleted, inserted] = value;
  return Number.isSafeInteger(position) && Number.isSafeInteger(deleted) && typeof inserted === "string";
}

function broken(path: string, why: string, cause?: unknown): CommandError {
  return new CommandError("FAILED", `${printable(path)} is no recording: ${why}`, {
    hint: "A recording is a .json.gz file; docs/operating.md says where to put them.",
    details: { path },
    cause,
  });
}
