/**
 * `examineLevel`: what is wrong with the files of a store, for people and for `coppice check`. Our own
 * readers look, which cannot be harmed by what they read; LevelDB itself is not involved.
 */

import type { LevelDamage } from "./examination.js";

/**
 * Resolves with every place that is not as it was written; `[]`: none was found. Nothing is changed or
 * locked; a store that somebody else writes to may be examined. Costs one pass over all files, about 2 s a
 * GiB. Rejects with the error of the file system when there is no directory.
 */
export async function examineLevel(location: string): Promise<readonly LevelDamage[]> {
  const [{ findDirectory }, { examineDirectory }] = await Promise.all([
    import("./directory.js"),
    import("./examination.js"),
  ]);
  const { path } = await findDirectory(location);
  return (await examineDirectory(path, true)).damage;
}
