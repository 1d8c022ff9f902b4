/**
 * The public API of `@coppice/yjs/y-leveldb`: y-leveldb's class over Coppice, and the way over for its data.
 */

export {
  holdsYLeveldb,
  type ImportedDocument,
  type ImportOptions,
  type ImportReport,
  importYLeveldb,
  type YLeveldbSource,
} from "./import.js";
export {
  getLevelBulkEntries,
  getLevelUpdatesEntries,
  type LevelEntry,
  type LevelRange,
  type LevelView,
  PREFERRED_TRIM_SIZE,
} from "./level-view.js";
export { LeveldbPersistence, type LeveldbPersistenceOptions } from "./leveldb-persistence.js";
export { metaId } from "./metas.js";
