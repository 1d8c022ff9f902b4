/**
 * Reads single changes, and judges whether one is sound, without a document.
 *
 * Automerge's `applyChanges` does not compare a change with its checksum, and `loadIncremental` leaves out,
 * without a word, what fails the comparison; so it is made here.
 */

import * as Automerge from "@automerge/automerge";
import type { EventLinks } from "coppice";
import { chunkProblem, statedChecksum } from "./chunk.js";

/** A change as the graph of changes sees it. */
export interface ChangeNode {
  readonly hash: string;
  readonly actor: string;
  /** Hashes of the changes directly before it. */
  readonly deps: readonly string[];
}

/** Reads one change. Throws a `TypeError` for bytes that are not exactly one sound change. */
export function readChange(event: Uint8Array): ChangeNode {
  const problem = chunkProblem(event, "change");
  if (problem !== undefined) throw new TypeError(`not an Automerge change: ${problem}`);
  let decoded: Automerge.DecodedChange;
  try {
    decoded = Automerge.decodeChange(event);
  } catch (error) {
    throw new TypeError(`not an Automerge change: ${reasonOf(error)}`, { cause: error });
  }
  const { hash, deps, actor } = decoded;
  if (typeof hash !== "string" || !hash.startsWith(statedChecksum(event))) {
    throw new TypeError("not an Automerge change: its checksum does not match");
  }
  return { hash, deps, actor };
}

/** A change is one point, named by its hash. Throws like `readChange`. */
export function linksOf(event: Uint8Array): EventLinks {
  const { hash, actor, deps } = readChange(event);
  return {
    replica: actor,
    makes: [{ name: hash, from: 0, to: 1 }],
    after: deps.map((name) => ({ name, at: 0 })),
    complete: true,
  };
}

/** The text of whatever was thrown; panics of the WASM code say more than users want to read. */
export function reasonOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.split("\n", 1)[0]!.slice(0, 200);
}
