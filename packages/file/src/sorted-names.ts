/**
 * A set of names that is sorted only when somebody asks for the order: opening a store adds a million
 * names, and a server that loads documents by id may never list them.
 *
 * Invariants: a name is either in one of the sorted blocks, or among the new ones; blocks are never empty.
 * Not a map: the caller knows which names exist, and adds or deletes each once.
 */

const BLOCK_NAMES_MAX = 512;

export class SortedNames {
  #blocks: string[][] = [];
  #added = new Set<string>();

  add(name: string): void {
    this.#added.add(name);
  }

  delete(name: string): void {
    if (this.#added.delete(name)) return;
    const index = this.#blockOf(name);
    const block = this.#blocks[index];
    if (block === undefined) return;
    const at = lowerBound(block, name);
    if (block[at] !== name) return;
    block.splice(at, 1);
    if (block.length === 0) this.#blocks.splice(index, 1);
  }

  /** Names with the prefix that are above `after`, from `start` on, rising. */
  *up(prefix: string, after: string | undefined, start: string | undefined): Generator<string> {
    this.#sort();
    let low = prefix;
    if (start !== undefined && start > low) low = start;
    if (after !== undefined && after > low) low = after;
    for (let index = this.#blockOf(low); index < this.#blocks.length; index++) {
      const block = this.#blocks[index]!;
      for (let at = lowerBound(block, low); at < block.length; at++) {
        const name = block[at]!;
        if (!name.startsWith(prefix)) return;
        if (name !== after) yield name;
      }
    }
  }

  /** The same names from `start` down, falling. */
  *down(prefix: string, after: string | undefined, start: string | undefined): Generator<string> {
    this.#sort();
    // No name holds a character above U+00FF, so this is above all that start with the prefix.
    const high = start ?? `${prefix}\u0100`;
    for (let index = Math.min(this.#blockOf(high), this.#blocks.length - 1); index >= 0; index--) {
      const block = this.#blocks[index]!;
      let at = lowerBound(block, high);
      if (block[at] !== high) at--;
      for (; at >= 0; at--) {
        const name = block[at]!;
        if (name < prefix || (after !== undefined && name <= after)) return;
        if (name.startsWith(prefix)) yield name;
      }
    }
  }

  /** Few new names are put where they belong; many are sorted together with all others. */
  #sort(): void {
    if (this.#added.size === 0) return;
    const added = [...this.#added];
    this.#added = new Set();
    if (added.length < 32 || added.length * 16 < this.#blocks.length * BLOCK_NAMES_MAX) {
      for (const name of added) this.#insert(name);
      return;
    }
    const all = this.#blocks.flat();
    for (const name of added) all.push(name);
    all.sort(compareNames);
    this.#blocks = [];
    for (let at = 0; at < all.length; at += BLOCK_NAMES_MAX / 2) {
      this.#blocks.push(all.slice(at, at + BLOCK_NAMES_MAX / 2));
    }
  }

  #insert(name: string): void {
    const index = Math.min(this.#blockOf(name), this.#blocks.length - 1);
    const block = this.#blocks[index];
    if (block === undefined) {
      this.#blocks.push([name]);
      return;
    }
    if (block.length >= BLOCK_NAMES_MAX) {
      this.#blocks.splice(index + 1, 0, block.splice(BLOCK_NAMES_MAX / 2));
      this.#insert(name);
      return;
    }
    block.splice(lowerBound(block, name), 0, name);
  }

  /** The first block whose last name is not below this one; the number of blocks when there is none. */
  #blockOf(name: string): number {
    let low = 0;
    let high = this.#blocks.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#blocks[middle]!.at(-1)! < name) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

function compareNames(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function lowerBound(block: readonly string[], name: string): number {
  let low = 0;
  let high = block.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (block[middle]! < name) low = middle + 1;
    else high = middle;
  }
  return low;
}
