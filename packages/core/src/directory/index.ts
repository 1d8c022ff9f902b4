/**
 * `coppice/conformance/directory`: the conformance cases for backends that keep a store in a directory, with
 * the death of the process and the search of what deleted data leave behind. It needs Node.
 *
 * Invariant: what a crash leaves are the files as they stood together at one moment.
 */

import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { type BackendSubject, CaseInconclusive } from "../conformance/cases.js";
import type { Backend, BackendFactory } from "../contract/backend.js";

const ATTEMPTS_MAX = 1000;

export interface DirectorySubjectOptions {
  readonly name: string;
  /** A directory that exists. The stores are made in it, and removed after each case. */
  readonly parent: string;
  /** A factory of the store at this path, which does not exist yet or holds what a crash left. */
  readonly backend: (location: string) => BackendFactory | Promise<BackendFactory>;
}

interface Store {
  readonly location: string;
  readonly opened: Backend[];
  /** Its own directory, and those that crashes left behind. */
  readonly directories: string[];
}

/**
 * A subject for `backendCases` whose stores are directories below `parent`. Its `crash` goes on with a copy
 * of the files of the open store, which is what the kernel has when a process is killed. Its `holds` names
 * the first file that has the bytes, as a path in the directory of the store. Both read whole stores into
 * memory, which those of the cases, a few MiB, fit. What crashes leave is removed by `destroy`.
 */
export function directorySubject(options: DirectorySubjectOptions): BackendSubject {
  const { name, parent, backend } = options;
  const stores = new Map<BackendFactory, Store>();
  let made = 0;
  const newLocation = () => join(parent, `store-${++made}`);
  const create = async (location: string, directories: string[]): Promise<BackendFactory> => {
    const inner = await backend(location);
    const opened: Backend[] = [];
    const factory: BackendFactory = {
      name: inner.name,
      async open(env) {
        const open = await inner.open(env);
        opened.push(open);
        return open;
      },
    };
    stores.set(factory, { location, opened, directories });
    return factory;
  };
  return {
    name,
    create: () => {
      const location = newLocation();
      return create(location, [location]);
    },
    async destroy(factory) {
      await Promise.all(storeOf(stores, factory).directories.map(remove));
      stores.delete(factory);
    },
    async crash(factory) {
      const { location, opened, directories } = storeOf(stores, factory);
      const left = newLocation();
      directories.push(left);
      copyOfOneMoment(location, left);
      await Promise.allSettled(opened.map(async (open) => open.close()));
      const next = await create(left, directories);
      stores.delete(factory);
      return next;
    },
    async holds(factory, bytes) {
      const wanted = Buffer.from(bytes);
      const files = filesOfOneMoment(storeOf(stores, factory).location);
      const found = [...files].find(([, content]) => content.includes(wanted));
      return found === undefined ? false : found[0];
    },
  };
}

/** What a backend has under way after `close` is waited out for a moment; one that never stops is named. */
async function remove(directory: string): Promise<void> {
  try {
    await rm(directory, { recursive: true, force: true, maxRetries: 3, retryDelay: 30 });
  } catch (cause) {
    const message = "cannot be removed after close, perhaps because the backend still writes to it";
    throw new Error(`${directory} ${message}: ${(cause as Error).message}`, { cause });
  }
}

function storeOf(stores: ReadonlyMap<BackendFactory, Store>, factory: BackendFactory): Store {
  const store = stores.get(factory);
  if (store === undefined) throw new TypeError("this factory was not made by this subject");
  return store;
}

function copyOfOneMoment(from: string, to: string): void {
  mkdirSync(to);
  for (const [name, content] of filesOfOneMoment(from)) {
    mkdirSync(dirname(join(to, name)), { recursive: true });
    writeFileSync(join(to, name), content);
  }
}

/**
 * Two readings with the same result: between the end of the first and the beginning of the second all files
 * stood so at once. The readings are synchronous, so that the backend can start nothing meanwhile: what its
 * threads are doing comes to an end, and the third or fourth reading changes no more.
 */
function filesOfOneMoment(directory: string): ReadonlyMap<string, Buffer> {
  let before = readFiles(directory);
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
    const next = readFiles(directory);
    if (before !== undefined && next !== undefined && equal(before, next)) return next;
    before = next;
  }
  throw new CaseInconclusive(`inconclusive: the files of ${directory} never stood still`);
}

/** By their paths in the directory; `undefined` when one went away meanwhile. */
function readFiles(directory: string): Map<string, Buffer> | undefined {
  if (!existsSync(directory)) return new Map();
  try {
    const names = readdirSync(directory, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name).slice(directory.length + 1));
    return new Map(names.sort().map((name) => [name, readFileSync(join(directory, name))]));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    return undefined;
  }
}

function equal(one: ReadonlyMap<string, Buffer>, other: ReadonlyMap<string, Buffer>): boolean {
  if (one.size !== other.size) return false;
  return [...one].every(([name, content]) => other.get(name)?.equals(content) === true);
}
