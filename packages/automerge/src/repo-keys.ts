/**
 * Keys of automerge-repo (lists of texts) as ids of a backend, so that prefixes match by element.
 *
 * Each element is written with `~` as `~0` and `/` as `~1`, and ended by `/`: `["AAAAA", "snapshot"]` is
 * `AAAAA/snapshot/`. So the id of a key begins with that of another one exactly when its elements do;
 * `AAAAA` is no prefix of `AAAAAB`.
 */

import { CoppiceError, checkId, isCoppiceError, LIMITS } from "coppice";

/** A key of automerge-repo. */
export type RepoKey = string[];

/** What automerge-repo calls a chunk: a key and what is stored under it. */
export interface RepoChunk {
  key: RepoKey;
  data: Uint8Array | undefined;
}

/** Throws a `TypeError` for what is no list of texts. The empty list, which is a prefix of all, is `""`. */
export function encodeRepoKey(key: readonly string[]): string {
  if (!Array.isArray(key) || key.some((element) => typeof element !== "string")) {
    throw new TypeError("a key of automerge-repo is a list of strings");
  }
  return key.map((element) => `${element.replaceAll("~", "~0").replaceAll("/", "~1")}/`).join("");
}

/**
 * As `encodeRepoKey`, for one value: the empty list throws a `TypeError` too, and `ID_INVALID` what no
 * backend takes. It speaks of the key: who uses automerge-repo has given no document id.
 */
export function encodeWholeKey(key: readonly string[]): string {
  if (key.length === 0) throw new TypeError("the key of a value must not be empty");
  const id = encodeRepoKey(key);
  try {
    checkId(id);
    return id;
  } catch (error) {
    if (!isCoppiceError(error, "ID_INVALID")) throw error;
    const bounds = `of at most ${LIMITS.idBytesMax} bytes, with a separator after each element`;
    throw new CoppiceError("ID_INVALID", `a key must be well-formed Unicode ${bounds}`, {
      cause: error,
      details: { ...error.details, key: [...key] },
    });
  }
}

export function decodeRepoKey(id: string): RepoKey {
  const elements = id.split("/").slice(0, -1);
  return elements.map((element) => element.replaceAll("~1", "/").replaceAll("~0", "~"));
}
