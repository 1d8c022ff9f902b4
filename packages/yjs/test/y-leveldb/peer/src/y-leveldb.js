/**
 * What y-leveldb's own tests import in place of y-leveldb: our class. With `COPPICE_TEST_LEVEL=memory` each of
 * its stores is a memory-level; after `useStorage` it is a view of an open storage, on whatever backend.
 */
import { LeveldbPersistence as OurPersistence } from "@coppice/yjs/y-leveldb";
import { MemoryLevel } from "memory-level";

export { getLevelBulkEntries, getLevelUpdatesEntries, PREFERRED_TRIM_SIZE } from "@coppice/yjs/y-leveldb";

class OurMemoryLevel extends MemoryLevel {
  constructor(_location, options) {
    super(options);
  }
}

let storage;

/** The storage for all that is made from now on; `undefined`: stores of their own. */
export function useStorage(opened) {
  storage = opened;
}

export class LeveldbPersistence extends OurPersistence {
  constructor(location, options) {
    super(
      storage ?? location,
      process.env.COPPICE_TEST_LEVEL === "memory" ? { ...options, Level: OurMemoryLevel } : options,
    );
  }
}
