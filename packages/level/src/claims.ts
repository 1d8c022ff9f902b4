/**
 * Who has which database open in this process. LevelDB's own lock compares path names within a process, so
 * it does not notice one directory under two names, nor one instance that is handed over twice; two owners
 * would overwrite each other silently. What no backend here ever saw, it cannot know.
 *
 * Invariants: a directory has one owner, known by device and inode; an instance that its maker left open
 * keeps its directory; a key prefix of an instance (a sublevel) is claimed once; prefixes of one instance
 * share its directory.
 */

interface Owner {
  /** Of an instance; a directory's own owner has none. */
  readonly status?: string;
}

export interface Claim {
  readonly owner: Owner;
  /** Device and inode, when the database lives in a directory. */
  readonly directory: string | undefined;
  readonly prefix: string;
}

interface Holding {
  readonly owner: WeakRef<Owner>;
  holders: number;
}

const directories = new Map<string, Holding>();
const prefixes = new WeakMap<Owner, Set<string>>();

/** Returns the release, which may be called once; `undefined` when somebody else holds it. */
export function claim({ owner, directory, prefix }: Claim): (() => void) | undefined {
  const taken = prefixes.get(owner) ?? new Set<string>();
  const holding = directory === undefined ? undefined : holdingOf(directory, owner);
  if (taken.has(prefix) || (directory !== undefined && holding === undefined)) return undefined;
  prefixes.set(owner, taken.add(prefix));
  if (holding !== undefined) holding.holders++;
  return () => {
    taken.delete(prefix);
    if (directory === undefined || holding === undefined) return;
    holding.holders--;
    if (isFree(holding)) directories.delete(directory);
  };
}

/** The owner's holding of the directory, new or shared; `undefined` when another owner has it. */
function holdingOf(directory: string, owner: Owner): Holding | undefined {
  const present = directories.get(directory);
  if (present?.owner.deref() === owner) return present;
  if (present !== undefined && !isFree(present)) return undefined;
  const holding = { owner: new WeakRef(owner), holders: 0 };
  directories.set(directory, holding);
  return holding;
}

function isFree({ owner, holders }: Holding): boolean {
  const status = owner.deref()?.status;
  return holders === 0 && (status === undefined || status === "closed");
}
