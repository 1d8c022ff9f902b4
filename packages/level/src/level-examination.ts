/**
 * `examineLevel`: what is wrong with the files of a store, for people and for `coppice check`. Our own
 * readers look, which cannot be harmed by what they read; LevelDB itself is not involved.
 */

import { CoppiceError } from "coppice";
import type { LevelDamage } from "./examination.js";
import { codeOf } from "./failures.js";

/**
 * Resolves with every place that is not as it was written; `[]`: none was found. Nothing is changed or
 * locked; a store that somebody else writes to may be examined. Costs one pass over all files, about 2 s a
 * GiB. Rejects with `UNAVAILABLE` when there is no such directory, or the file system refuses.
 */
export async function examineLevel(location: string): Promise<readonly LevelDamage[]> {
  if (typeof location !== "string" || location === "")
    throw new TypeError('examineLevel wants the directory of the store, as in "./data"');
  const [{ findDirectory }, { examineDirectory }] = await Promise.all([
    import("./directory.js"),
    import("./examination.js"),
  ]);
  try {
    const { path } = await findDirectory(location);
    return (await examineDirectory(path, "tables")).damage;
  } catch (error) {
    if (codeOf(error) === undefined) throw error;
    const message = "the files of this directory cannot be read";
    throw new CoppiceError("UNAVAILABLE", message, { cause: error, details: { location } });
  }
}
