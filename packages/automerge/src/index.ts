/** The public API of the Automerge model and of what fits automerge-repo. */

export { decodeHeads, encodeHeads } from "./heads.js";
export { type AutomergeModel, automerge } from "./model.js";
export {
  AutomergeRepoDocuments,
  type AutomergeRepoDocumentsOptions,
  type RepoStorage,
} from "./repo-documents.js";
export {
  type ImportedRepoDocument,
  importAutomergeRepo,
  type RepoImportOptions,
  type RepoImportReport,
  type RepoSource,
} from "./repo-import.js";
export type { RepoChunk, RepoKey } from "./repo-keys.js";
export { AutomergeRepoStorage, type AutomergeRepoStorageOptions } from "./repo-storage.js";
