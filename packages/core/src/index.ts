/** The public API of core on one screen. */
/// <reference lib="esnext.disposable" preserve="true" />

export { type MemoryBackendOptions, memoryBackend } from "./backends/memory.js";
export { compareBytes, concatBytes, equalBytes, fromHex, Reader, toHex, Writer } from "./base/bytes.js";
export { crc32 } from "./base/checksum.js";
export { type Env, systemEnv } from "./base/env.js";
export {
  CoppiceError,
  ERROR_CODES,
  type ErrorCode,
  type ErrorDetails,
  type ErrorKind,
  isCoppiceError,
} from "./base/errors.js";
export { GRAPH_LIMITS, LIMITS, type Limits } from "./base/limits.js";
export { checkOptions, checkStorage, type OptionKinds } from "./base/options.js";
export type {
  Backend,
  BackendFactory,
  Batch,
  Deletion,
  Durability,
  Entry,
  Expectation,
  Key,
  Range,
  ScanOptions,
  Traits,
} from "./contract/backend.js";
export { binaryCodec } from "./contract/codec.js";
export { commitConflict } from "./contract/group-commit.js";
export { Guard } from "./contract/guard.js";
export {
  checkId,
  checkKey,
  checkRange,
  compareKeys,
  decodeKey,
  encodeKey,
  encodeRange,
  isRangeDeletion,
  keyName,
} from "./contract/keys.js";
export type {
  AnyModel,
  Applied,
  EventLinks,
  Folded,
  Model,
  Refusal,
  StoredState,
  Tracker,
} from "./contract/model.js";
export { type CausalEvent, type CausalGraph, causalGraph, type LinkedEvent } from "./graph/causality.js";
export { GraphDocument } from "./graph/document.js";
export type { Cancellation, EventId, GraphEvent } from "./graph/event.js";
export { type DrawnEvent, type GraphPiece, type GraphRow, layOutGraph } from "./graph/layout.js";
export { type GraphModel, type GraphOptions, graph } from "./graph/model.js";
export {
  type Placement,
  type TreeData,
  TreeDocument,
  type TreeModel,
  type TreeNode,
  type TreeOptions,
  TreeView,
  tree,
} from "./graph/tree.js";
export type { Attributes, TreeOperation } from "./graph/tree-operation.js";
export type { CheckCode, CheckOptions, CheckProblem, CheckReport } from "./storage/check.js";
export type { CompactAllOptions, CompactAllResult, CompactProgress } from "./storage/compact-all.js";
export type { CompactOptions, CompactResult, CompactStep } from "./storage/compaction.js";
export type { CopiedDocument, CopyOptions, CopyProgress, CopyResult } from "./storage/copy.js";
export type { EraseOptions, EraseResult } from "./storage/deletion.js";
export type { AppendResult } from "./storage/document-log.js";
export type { Folder } from "./storage/folding.js";
export type { ForkOptions, ForkResult } from "./storage/fork.js";
export { DocumentHandle } from "./storage/handle.js";
export type { Attachment, Saver } from "./storage/handles.js";
export { ABSENT } from "./storage/head.js";
export type { HeldEvent } from "./storage/loader.js";
export type { Moment } from "./storage/moments.js";
export type { Observer } from "./storage/observer.js";
export type {
  AppendInfo,
  AppendOptions,
  CloseOptions,
  DocOf,
  HandleOptions,
  LoadOptions,
  OpenOptions,
  Received,
  RecoverReport,
  SaveOptions,
  SettledCommit,
  StorageOptions,
} from "./storage/options.js";
export {
  allOf,
  anyOf,
  defaultPolicy,
  everyBytes,
  everyEvents,
  never,
  onFrontierCollapse,
  type SnapshotPolicy,
  type SnapshotStats,
  whenTailOutweighs,
} from "./storage/policy.js";
export type {
  DocumentInfo,
  EventRange,
  HistoryEntry,
  Info,
  InfoOptions,
  ListOptions,
  StoredEvent,
  StoredKeys,
} from "./storage/queries.js";
export { DocumentStorage } from "./storage/storage.js";
export type { SubscribeOptions } from "./storage/subscription.js";
export type { Tag } from "./storage/tag-index.js";
export type { ExportOptions, ImportOptions, ImportResult } from "./storage/transfer.js";
export type { HistoryPolicy } from "./storage/trimming.js";
export type { DocumentUsage } from "./storage/usage.js";
