/**
 * Files that no manifest names any more: those that must go, and among them those that are kept, to become
 * segments.
 *
 * A file system that tells the disk what it frees (mounted with `discard`) lets a commit wait 1 ms and more
 * for each MiB of it, and zeros have to be written for the next segment in any case.
 *
 * Invariants: a name is forgotten only when its file is gone, or has become a segment; what is kept has a
 * name of its own, durably, and nobody else can see what is in it.
 */

import type { StoreFiles } from "./files.js";

/** Files that are kept, and the part of the segments' bytes that they may take. */
const KEPT_MAX = 4;
const KEPT_PART = 1 / 2;

export interface Spare {
  readonly name: string;
  readonly bytes: number;
}

export class Spares {
  readonly #files: StoreFiles;
  readonly #doomed = new Set<string>();
  #kept: Spare[] = [];
  /** A name was removed, and perhaps a crash brings it back. */
  #isUnsynced = false;

  constructor(files: StoreFiles) {
    this.#files = files;
  }

  get bytes(): number {
    return this.#kept.reduce((total, { bytes }) => total + bytes, 0);
  }

  /** This file must go; perhaps it is gone already. */
  doom(name: string): void {
    this.#doomed.add(name);
  }

  async remove(name: string): Promise<void> {
    await this.#files.remove(name).catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    });
    this.#doomed.delete(name);
    this.#isUnsynced = true;
  }

  /** Gives the file a name under which it may be kept. `false`: somebody else may see it, and it is gone. */
  async rename(from: string, to: string): Promise<boolean> {
    this.doom(to);
    await this.#files.rename(from, to);
    this.#doomed.delete(from);
    // Not before: by the name it had it could be opened or linked until now.
    if (await this.#files.isOwn(to)) return true;
    await this.remove(to);
    return false;
  }

  /**
   * Whether a file of so many bytes is worth keeping, beside `others`, where the next segment takes
   * `nextBytes` and all segments have `storeBytes`, of at most `storeBytesMax`.
   */
  wants(
    bytes: number,
    others: readonly Spare[],
    { nextBytes, storeBytes, storeBytesMax }: Record<"nextBytes" | "storeBytes" | "storeBytesMax", number>,
  ): boolean {
    const all = others.reduce((total, other) => total + other.bytes, this.bytes + bytes);
    return (
      this.#kept.length + others.length < KEPT_MAX &&
      bytes <= nextBytes &&
      2 * bytes >= nextBytes &&
      all <= KEPT_PART * storeBytes &&
      2 * (storeBytes + all) <= storeBytesMax
    );
  }

  /** For segments to come. Their names must be durable. */
  keep(spares: readonly Spare[]): void {
    this.#kept.push(...spares);
  }

  /** One that is not longer. Until `used` is called it must still go. */
  take(bytesMax: number): Spare | undefined {
    const at = this.#kept.findIndex(({ bytes }) => bytes <= bytesMax);
    return at < 0 ? undefined : this.#kept.splice(at, 1)[0];
  }

  /** It has become a segment. */
  used({ name }: Spare): void {
    this.#doomed.delete(name);
  }

  /** Makes room by removing what is kept; `false`: there is none. What cannot be removed must still go. */
  async free(): Promise<boolean> {
    let hasFreed = false;
    const freed = () => {
      hasFreed = true;
    };
    for (const { name } of this.#kept.splice(0)) await this.remove(name).then(freed, () => undefined);
    return hasFreed;
  }

  /**
   * Removes whatever must go, durably, one after the other: of segments those come first that come first in
   * the order. Not while a merge removes what it has merged.
   */
  async removeAll(): Promise<void> {
    this.#kept = [];
    if (this.#isUnsynced) await this.#sync();
    for (const name of [...this.#doomed]) {
      await this.remove(name);
      await this.#sync();
    }
  }

  async #sync(): Promise<void> {
    await this.#files.syncNames();
    this.#isUnsynced = false;
  }
}
