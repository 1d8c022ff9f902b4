/**
 * A backend in a directory that looks at nothing which the guard looks at for it, not even whether it is
 * still open: whoever calls it after its end is answered. Right, unless it is told to be wrong.
 */

import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type Backend,
  type BackendFactory,
  type Batch,
  CoppiceError,
  commitConflict,
  type Entry,
  fromHex,
  type Range,
  type ScanOptions,
  toHex,
} from "coppice";
import { NaiveStore } from "coppice/conformance";
import { pause } from "./mutant.js";

const SPACES = ["a", "aa", "events", "eventsx", "meta", "z"];

export interface Heedless {
  /** Told of each call but `close`; may throw. */
  readonly called?: () => void;
  /** It acknowledges a commit before it writes it. */
  readonly late?: boolean;
  /** `close` does nothing. */
  readonly neverCloses?: boolean;
}

export function heedless(location: string, options: Heedless = {}): BackendFactory {
  let open = false;
  return {
    name: "heedless",
    open: async () => {
      if (open) throw new CoppiceError("LOCKED", "it is already open");
      open = true;
      const close = () => {
        if (options.neverCloses !== true) open = false;
      };
      return backendIn(location, options, close);
    },
  };
}

function backendIn(location: string, options: Heedless, close: () => void): Backend {
  const { called = () => undefined, late = false } = options;
  const file = join(location, "store");
  const store = new NaiveStore();
  mkdirSync(location, { recursive: true });
  if (existsSync(file)) store.commit({ put: decode(readFileSync(file, "utf8")) });
  const write = (batch: Batch) => {
    const [failed] = store.commit(batch);
    if (failed !== undefined) throw commitConflict(failed);
    writeFileSync(`${file}.new`, encode(SPACES.flatMap((space) => store.scan({ space }))));
    renameSync(`${file}.new`, file);
  };
  return {
    traits: {
      durability: "process",
      exclusive: true,
      poisonsItself: false,
      valueBytesMax: 64 * 1024 * 1024,
      commitBytesMax: 256 * 1024 * 1024,
    },
    get: async (key) => {
      called();
      return store.get(key)?.slice();
    },
    scan: (range, scanOptions) => {
      called();
      return scan(store, range, scanOptions);
    },
    commit: async (batch) => {
      called();
      if (!late) return write(batch);
      const later = pause().then(() => write(batch));
      later.catch(() => undefined);
    },
    reclaim: async () => called(),
    close: async () => close(),
  };
}

async function* scan(
  store: NaiveStore,
  range: Range,
  options: ScanOptions = {},
): AsyncGenerator<readonly Entry[]> {
  for (const { key, value } of store.scan(range, options)) {
    options.signal?.throwIfAborted();
    yield [{ key, value: value.slice() }];
  }
}

function encode(entries: readonly Entry[]): string {
  return JSON.stringify(entries.map(({ key, value }) => [key, toHex(value)]));
}

function decode(stored: string): Entry[] {
  const entries = JSON.parse(stored) as [Entry["key"], string][];
  return entries.map(([key, value]) => ({ key, value: fromHex(value) }));
}
